/* vpic_bench_plot.c - pictures of vpic bench: measures over rate, and crops side by side. */
#include "bench_sheet.h"
#include "vpic_bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PANEL_W 760
#define PANEL_H 480
#define TITLE_H 28
#define MOST_BPP 0.5 /* curves are drawn up to here */
#define CROPS 4
#define CROP_SIDE 256

/* ---- Curves ---------------------------------------------------------------------------------- */

/* The legend stands in the first panel. */
static fv_status draw_panel(const pic_bench *b, int measure, bool has_legend, fv_image *out)
{
    double x[PIC_CODERS][PIC_SETTINGS], y[PIC_CODERS][PIC_SETTINGS];
    fv_curve curve[PIC_CODERS];
    fv_plot_options o = FV_PLOT_OPTIONS_INIT;
    for (int k = 0; k < b->coder_count; k++) {
        const pic_curve *c = &b->curve[k];
        int n = 0;
        for (int i = 0; i < c->n; i++) {
            if (c->p[i].bpp > MOST_BPP) continue;
            x[k][n] = c->p[i].bpp;
            y[k][n++] = c->p[i].value[measure];
        }
        curve[k] = (fv_curve){has_legend && n ? b->coder[k].title : NULL, x[k], y[k], n, 0};
    }
    o.x_label = "bits per pixel";
    o.y_label = pic_measures[measure].name;
    o.width = PANEL_W;
    o.height = PANEL_H;
    o.log_x = 1;
    o.log_y = measure == PIC_WD; /* it spans two decades */
    return fv_plot(b->ctx, out, curve, b->coder_count, &o);
}

int pic_write_plot(const pic_bench *b)
{
    fv_image img = {0};
    char title[120];
    snprintf(title, sizeof title, "means of %d picture%s, whole files counted", b->done,
             b->done == 1 ? "" : "s");
    fv_status s = bench_canvas(b->ctx, &img, 2 * PANEL_W, TITLE_H + 2 * PANEL_H);
    if (s == FV_OK) fv_plot_text(&img, BENCH_MARGIN, BENCH_MARGIN, 1, bench_black, title);
    for (int i = 0; i < PIC_MEASURES && s == FV_OK; i++) {
        fv_image panel = {0};
        s = draw_panel(b, i, i == 0, &panel);
        if (s == FV_OK)
            bench_paste(&img, &panel, i % 2 * PANEL_W, TITLE_H + i / 2 * PANEL_H, 1);
        fv_image_free(b->ctx, &panel);
    }
    return bench_save_picture(b->ctx, &img, s, b->a->plot, b->a->common.force);
}

/* ---- Side by side ---------------------------------------------------------------------------- */

/* What is being put together: rows of coders, the first is the original; columns of pictures. */
typedef struct sheet {
    int side, count;
    int x[CROPS], y[CROPS]; /* of the crops */
    fv_image crop[PIC_CODERS + 1][CROPS];
    double least[PIC_CODERS + 1], most[PIC_CODERS + 1]; /* bits per pixel of the pictures */
} sheet;

/* The setting of a picture whose rate is nearest, -1: none. */
static int nearest_setting(const pic_bench *b, int picture, int coder)
{
    int best = -1;
    double least = INFINITY;
    for (int s = 0; s < b->coder[coder].settings; s++) {
        const pic_result *r = pic_result_of(b, picture, coder, s);
        const double far = r->is_done ? fabs(log(r->bpp / b->a->sheet_bpp)) : INFINITY;
        if (far >= least) continue;
        least = far;
        best = s;
    }
    return best;
}

static fv_status crop_coder(pic_bench *b, const pic_place *at, sheet *t, int column, int picture,
                            int coder)
{
    fv_image img = {0};
    pic_result r;
    const int row = coder + 1, setting = nearest_setting(b, picture, coder);
    fv_status s = FV_OK;
    if (setting < 0 || !pic_code(at, &b->coder[coder], setting, &r))
        return bench_canvas(b->ctx, &t->crop[row][column], t->side, t->side);
    s = pic_read_back(at, &b->coder[coder], b->ctx, &img);
    if (s == FV_OK)
        s = fv_image_crop(b->ctx, &t->crop[row][column], &img, t->x[column], t->y[column], t->side,
                          t->side);
    fv_image_free(b->ctx, &img);
    if (t->most[row] == 0 || r.bpp < t->least[row]) t->least[row] = r.bpp;
    if (r.bpp > t->most[row]) t->most[row] = r.bpp;
    return s;
}

static fv_status crop_picture(pic_bench *b, pic_place *at, sheet *t, int column, int picture)
{
    fv_image img = {0};
    /* It was taken a while ago; by now it may be gone. */
    if (!pic_take(at, b->files[picture])) return FV_ERR_IO;
    fv_status s = pic_read_original(at, b->ctx, &img);
    if (s == FV_OK && (img.width < t->side || img.height < t->side)) s = FV_ERR_IO;
    if (s == FV_OK) bench_busiest(&img, t->side, &t->x[column], &t->y[column]);
    if (s == FV_OK)
        s = fv_image_crop(b->ctx, &t->crop[0][column], &img, t->x[column], t->y[column], t->side,
                          t->side);
    fv_image_free(b->ctx, &img);
    for (int k = 0; k < b->coder_count && s == FV_OK; k++) {
        if (b->curve[k].n) s = crop_coder(b, at, t, column, picture, k);
        if (cli_interrupted()) s = FV_ERR_CANCELLED;
    }
    return s;
}

static int write_rows(const pic_bench *b, sheet *t)
{
    bench_row row[PIC_CODERS + 1];
    int n = 0;
    memset(row, 0, sizeof row);
    for (int i = 0; i <= b->coder_count; i++) {
        if (!t->crop[i][0].pixels) continue;
        bench_row *r = &row[n++];
        snprintf(r->label, sizeof r->label, "%s", i ? b->coder[i - 1].title : "original");
        if (i && t->most[i] > 0)
            snprintf(r->numbers, sizeof r->numbers, "%.3f to %.3f bpp", t->least[i], t->most[i]);
        r->image = t->crop[i];
    }
    return bench_write_sheet(b->ctx, row, n, t->count, b->a->sheet, b->a->common.force);
}

int pic_write_sheet(pic_bench *b)
{
    pic_place at = {.folder = b->folder, .threads = b->threads};
    sheet *t = calloc(1, sizeof *t);
    if (!t) return cli_fail(CLI_FAILED, "out of memory");
    t->count = b->done < CROPS ? b->done : CROPS;
    t->side = CROP_SIDE;
    fv_status s = FV_OK;
    for (int i = 0; i < t->count; i++) {
        const int picture = (int)((int64_t)i * b->done / t->count);
        if (b->width[picture] < t->side) t->side = b->width[picture];
        if (b->height[picture] < t->side) t->side = b->height[picture];
    }
    for (int i = 0; i < t->count && s == FV_OK; i++)
        s = crop_picture(b, &at, t, i, (int)((int64_t)i * b->done / t->count));
    const int code = s == FV_OK                 ? write_rows(b, t)
                     : s == FV_ERR_CANCELLED    ? CLI_INTERRUPTED
                                                : cli_report(b->ctx, s, b->a->sheet);
    for (int k = 0; k <= b->coder_count; k++)
        for (int i = 0; i < t->count; i++) fv_image_free(b->ctx, &t->crop[k][i]);
    free(t);
    return code;
}
