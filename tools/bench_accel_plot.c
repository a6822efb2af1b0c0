/* bench_accel_plot.c - pictures of `fovea bench accel`: fidelity against speed-up, what a plan
 * computes when, and samples side by side. */
#include "bench_accel.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CURVES 8 /* colours of fv_plot: markers get the colour of their line */
#define LETTER_W 6
#define LETTER_H 12
#define MARGIN 8
#define BEST_METHODS 3 /* of others, in the sheet */

static const uint8_t black[3] = {0, 0, 0};

static int save(const accel_bench *b, fv_image *img, fv_status s, const char *path)
{
    fv_image_write_options wo = FV_IMAGE_WRITE_OPTIONS_INIT;
    wo.overwrite = b->overwrites;
    if (!cli_has_picture_suffix(path)) wo.format = FV_IMAGE_PNG; /* a device or pipe */
    if (s == FV_OK) s = fv_image_write(b->ctx, img, path, &wo);
    fv_image_free(b->ctx, img);
    return s == FV_OK ? CLI_OK : cli_report(b->ctx, s, path);
}

/* ---- Fidelity against speed-up --------------------------------------------------------------- */

static void points_of(const accel_bench *b, const accel_method *m, bench_points *p)
{
    p->n = 0;
    for (int i = 0; i < b->lines; i++)
        if (b->line[i].method == m && b->line[i].is_made)
            bench_add_point(p, b->line[i].measured.median, b->line[i].fidelity.psnr);
}

/* Mean PSNR of a method, -1 if it has no line. */
static double mean_psnr(const accel_bench *b, const accel_method *m)
{
    double sum = 0;
    int n = 0;
    for (int i = 0; i < b->lines; i++)
        if (b->line[i].method == m && b->line[i].is_made) {
            sum += b->line[i].fidelity.psnr;
            n++;
        }
    return n ? sum / n : -1;
}

/* As many methods as there are colours: plans and fewer steps, then the best of the others. */
static int choose_methods(const accel_bench *b, const accel_method **out)
{
    bool is_taken[ACCEL_METHODS] = {false};
    int n = 0;
    for (int pass = 0; pass < CURVES && n < CURVES; pass++) {
        int best = -1;
        for (int i = 0; i < b->methods; i++) {
            const accel_method *m = &b->method[i], *t = best < 0 ? NULL : &b->method[best];
            if (is_taken[i] || mean_psnr(b, m) < 0) continue;
            const bool is_own = m->kind != ACCEL_METHOD;
            const bool best_own = t && t->kind != ACCEL_METHOD;
            if (!t || is_own > best_own ||
                (is_own == best_own && mean_psnr(b, m) > mean_psnr(b, t)))
                best = i;
        }
        if (best < 0) break;
        is_taken[best] = true;
        out[n++] = &b->method[best];
    }
    return n;
}

int accel_write_plot(const accel_bench *b, const char *path)
{
    const accel_method *method[CURVES];
    bench_points p[CURVES];
    fv_curve curve[2 * CURVES];
    fv_plot_options po = FV_PLOT_OPTIONS_INIT;
    fv_image img = {0};
    char title[160], name[64];
    const int n = choose_methods(b, method);
    memset(curve, 0, sizeof curve);
    for (int i = 0; i < n; i++) {
        points_of(b, method[i], &p[i]);
        curve[i] = (fv_curve){method[i]->label, p[i].x, p[i].y, p[i].n, 0};
        curve[CURVES + i] = (fv_curve){NULL, p[i].x, p[i].y, p[i].n, 1};
    }
    cli_printable(b->model.info.name, name, sizeof name);
    snprintf(title, sizeof title, "%s, %d steps of %s, cfg %g: %d samples against exact ones", name,
             b->p.all.steps, fv_sampler_name(b->p.all.sampler), (double)b->p.all.cfg,
             b->p.all.count);
    po.title = title;
    po.x_label = "measured speed-up";
    po.y_label = "PSNR, dB";
    const fv_status s = fv_plot(b->ctx, &img, curve, 2 * CURVES, &po);
    return save(b, &img, s, path);
}

/* ---- Schedule -------------------------------------------------------------------------------- */

enum { CELL_FULL = 0, CELL_REUSE, CELL_LINEAR, CELL_PRUNE, CELL_SKIP, CELLS };
static const struct {
    const char *name;
    uint8_t rgb[3];
} cell[CELLS] = {
    {"computed", {0, 70, 130}},         {"reused", {222, 226, 230}},
    {"linear forecast", {86, 180, 120}}, {"some tokens", {230, 159, 0}},
    {"skipped", {250, 222, 222}},
};

static void fill(fv_image *img, int x, int y, int w, int h, const uint8_t rgb[3])
{
    for (int r = y; r < y + h && r < img->height; r++) {
        uint8_t *row = (uint8_t *)img->pixels + (size_t)r * img->stride_bytes;
        for (int c = x; c < x + w && c < img->width; c++) memcpy(row + 3 * c, rgb, 3);
    }
}

static fv_status canvas(const accel_bench *b, fv_image *img, int width, int height)
{
    static const uint8_t white[3] = {255, 255, 255};
    const fv_status s = fv_image_create(b->ctx, img, width, height, 3, 8);
    if (s == FV_OK) fill(img, 0, 0, width, height, white);
    return s;
}

static int cell_of(int action)
{
    switch (action) {
    case FV_ACTION_FULL: return CELL_FULL;
    case FV_ACTION_REUSE: return CELL_REUSE;
    case FV_ACTION_LINEAR: return CELL_LINEAR;
    case FV_ACTION_PRUNE: return CELL_PRUNE;
    default: return CELL_SKIP;
    }
}

/* A column a step in the order of execution, a row a module: attention and MLP of each layer. */
static void draw_cells(fv_image *img, const fv_accel *plan, const fv_accel_info *info, int left,
                       int top, int side)
{
    char number[16];
    for (int e = 0; e < info->steps; e++) {
        for (int row = 0; row < 2 * info->depth; row++) {
            const int kind = cell_of(fv_accel_action(plan, e, row / 2, row % 2));
            fill(img, left + e * side, top + row * side + row / 2, side - 1, side - 1,
                 cell[kind].rgb);
        }
        snprintf(number, sizeof number, "%d", e);
        if (e % 5 == 0)
            fv_plot_text(img, left + e * side, top + (2 * side + 1) * info->depth + 2, 1, black,
                         number);
    }
    for (int l = 0; l < info->depth; l++) {
        snprintf(number, sizeof number, "%2d", l);
        fv_plot_text(img, MARGIN, top + l * (2 * side + 1) + side - LETTER_H / 2, 1, black, number);
    }
}

static int draw_legend(fv_image *img, int x, int y)
{
    for (int i = 0; i < CELLS; i++) {
        fill(img, x, y, LETTER_H, LETTER_H, black);
        fill(img, x + 1, y + 1, LETTER_H - 2, LETTER_H - 2, cell[i].rgb);
        fv_plot_text(img, x + LETTER_H + 4, y, 1, black, cell[i].name);
        x += LETTER_H + 4 + LETTER_W * ((int)strlen(cell[i].name) + 2);
    }
    return x;
}

/* The first plan of the shown ratio. */
static const accel_line *scheduled_line(const accel_bench *b)
{
    for (int i = 0; i < b->lines; i++)
        if (b->line[i].asked == b->shown_ratio && b->line[i].is_made && b->line[i].plan)
            return &b->line[i];
    return NULL;
}

int accel_write_schedule(const accel_bench *b, const char *path)
{
    const accel_line *l = scheduled_line(b);
    fv_accel_info info;
    fv_image img = {0};
    char title[200];
    if (!l) return cli_fail(CLI_FAILED, "%s: no method has a plan to show", path);
    fv_accel_get_info(l->plan, &info);
    const int side = info.steps > 100 ? 6 : 12, left = MARGIN + 3 * LETTER_W;
    const int top = MARGIN + 2 * (LETTER_H + 6);
    int width = left + info.steps * side + MARGIN;
    const int height = top + (2 * side + 1) * info.depth + LETTER_H + 2 * MARGIN;
    if (width < 640) width = 640;
    snprintf(title, sizeof title, "%s at %.3gx: step by step (right), attention and MLP of each "
             "layer (down)", l->method->label, l->measured.median);
    const fv_status s = canvas(b, &img, width, height);
    if (s == FV_OK) {
        fv_plot_text(&img, MARGIN, MARGIN, 1, black, title);
        draw_legend(&img, MARGIN, MARGIN + LETTER_H + 6);
        draw_cells(&img, l->plan, &info, left, top, side);
    }
    return save(b, &img, s, path);
}

/* ---- Side by side ---------------------------------------------------------------------------- */

typedef struct sheet_row {
    char label[64], numbers[64];
    const fv_image *image;
} sheet_row;

static void set_row(sheet_row *r, const accel_line *l)
{
    snprintf(r->label, sizeof r->label, "%.60s", l->method->label);
    snprintf(r->numbers, sizeof r->numbers, "%.3gx, %.1f dB", l->measured.median, l->fidelity.psnr);
    r->image = l->shown;
}

/* The line of others with the largest PSNR below that of `above`. */
static const accel_line *next_best(const accel_bench *b, const accel_line *above)
{
    const accel_line *best = NULL;
    for (int i = 0; i < b->lines; i++) {
        const accel_line *l = &b->line[i];
        if (!l->is_made || l->asked != b->shown_ratio || l->method->kind != ACCEL_METHOD) continue;
        if (l->fidelity.psnr > above->fidelity.psnr ||
            (l->fidelity.psnr == above->fidelity.psnr && l <= above))
            continue;
        if (!best || l->fidelity.psnr > best->fidelity.psnr) best = l;
    }
    return best;
}

/* Exact, the best plan, the best of the others, fewer steps. */
static int choose_rows(const accel_bench *b, sheet_row *row)
{
    const accel_line *own = accel_best_line(b, ACCEL_PLANNER, b->shown_ratio);
    const accel_line *fewer = accel_best_line(b, ACCEL_FEWER, b->shown_ratio);
    const accel_line *other = accel_best_line(b, ACCEL_METHOD, b->shown_ratio);
    int n = 0;
    row[n++] = (sheet_row){"exact", "", b->p.exact};
    if (own) set_row(&row[n++], own);
    for (int i = 0; i < BEST_METHODS && other; i++, other = next_best(b, other))
        set_row(&row[n++], other);
    if (fewer) set_row(&row[n++], fewer);
    return n;
}

static void paste(fv_image *to, const fv_image *from, int x, int y, int zoom)
{
    for (int r = 0; r < from->height * zoom; r++) {
        const uint8_t *in =
            (const uint8_t *)from->pixels + (size_t)(r / zoom) * from->stride_bytes;
        uint8_t *out = (uint8_t *)to->pixels + (size_t)(y + r) * to->stride_bytes + 3 * (size_t)x;
        for (int c = 0; c < from->width * zoom; c++) memcpy(out + 3 * c, in + 3 * (c / zoom), 3);
    }
}

int accel_write_sheet(const accel_bench *b, const char *path)
{
    sheet_row row[BEST_METHODS + 3];
    fv_image img = {0};
    const int n = choose_rows(b, row), size = b->model.info.image_size;
    const int zoom = size < 96 ? 2 : 1, step = size * zoom + 4;
    size_t letters = 0;
    for (int i = 0; i < n; i++) {
        if (strlen(row[i].label) > letters) letters = strlen(row[i].label);
        if (strlen(row[i].numbers) > letters) letters = strlen(row[i].numbers);
    }
    const int left = 2 * MARGIN + LETTER_W * (int)letters;
    const fv_status s =
        canvas(b, &img, left + b->shown * step + MARGIN, n * step + 2 * MARGIN);
    for (int i = 0; i < n && s == FV_OK; i++) {
        const int y = MARGIN + i * step;
        fv_plot_text(&img, MARGIN, y + size * zoom / 2 - LETTER_H, 1, black, row[i].label);
        fv_plot_text(&img, MARGIN, y + size * zoom / 2 + 2, 1, black, row[i].numbers);
        for (int k = 0; k < b->shown; k++) paste(&img, &row[i].image[k], left + k * step, y, zoom);
    }
    return save(b, &img, s, path);
}
