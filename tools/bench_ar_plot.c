/* bench_ar_plot.c - pictures of `fovea bench ar`: quality against tokens per pass and against time,
 * and samples side by side. */
#include "bench_ar.h"
#include "bench_sheet.h"

#include <math.h>
#include <string.h>

#define PANEL_W 760
#define PANEL_H 480
#define TITLE_H 28
#define ROWS 7 /* of the sheet */

static const char *const kind_name[AR_KINDS] = {
    "plain decoding",     "lossless: the same tokens", "lossless in distribution", "other weights",
    "LANTERN, LANTERN++", "COOL-SD",                   "GSD",                      "VVS-U",
    "VVS-D"};

/* What panels show: axes below, and beside them. */
typedef enum axis { AXIS_TOKENS = 0, AXIS_TIME, AXIS_ACCURACY, AXIS_DISTANCE, AXIS_EQUAL } axis;
static const char *const axis_name[] = {"tokens per pass", "measured speed-up, tokens alone",
                                        "recognised, %", "Frechet distance, noise taken off",
                                        "tokens of plain decoding, %"};

static double value_of(const ar_bench *b, const ar_line *l, axis a)
{
    switch (a) {
    case AXIS_TOKENS: return l->all.tokens_per_pass;
    case AXIS_TIME: return l->speedup.median;
    case AXIS_ACCURACY: return 100 * l->accuracy;
    case AXIS_DISTANCE: return l->distance;
    case AXIS_EQUAL: break;
    }
    return 100 * (double)l->equal / ((double)b->a->samples * b->info.tokens);
}

/* The legend stands in the first panel. */
static fv_status draw_panel(const ar_bench *b, axis across, axis up, bool has_legend, fv_image *out)
{
    double x[AR_KINDS][AR_METHODS], y[AR_KINDS][AR_METHODS];
    fv_curve curve[AR_KINDS];
    fv_plot_options o = FV_PLOT_OPTIONS_INIT;
    memset(curve, 0, sizeof curve);
    for (int k = 0; k < AR_KINDS; k++)
        curve[k] = (fv_curve){NULL, x[k], y[k], 0, 1};
    for (int i = 0; i < b->lines; i++) {
        const ar_line *l = &b->line[i];
        fv_curve *c = &curve[l->kind];
        x[l->kind][c->n] = value_of(b, l, across);
        y[l->kind][c->n] = value_of(b, l, up);
        c->n++;
        if (has_legend) c->name = kind_name[l->kind];
    }
    o.x_label = axis_name[across];
    o.y_label = axis_name[up];
    o.width = PANEL_W;
    o.height = PANEL_H;
    return fv_plot(b->ctx, out, curve, AR_KINDS, &o);
}

int ar_write_plot(const ar_bench *b, const char *path)
{
    const axis judged[2] = {AXIS_ACCURACY, AXIS_DISTANCE}, equal[1] = {AXIS_EQUAL};
    const axis *up = b->judge.net ? judged : equal;
    const int rows = b->judge.net ? 2 : 1;
    fv_image img = {0};
    char title[200], name[64];
    cli_printable(b->info.name, name, sizeof name);
    snprintf(title, sizeof title, "%s, cfg %g: %d samples of each method", name,
             b->a->cfg > 0 ? b->a->cfg : (double)b->info.cfg, b->a->samples);
    fv_status s = bench_canvas(b->ctx, &img, 2 * PANEL_W, TITLE_H + rows * PANEL_H);
    if (s == FV_OK) fv_plot_text(&img, BENCH_MARGIN, BENCH_MARGIN, 1, bench_black, title);
    for (int i = 0; i < 2 * rows && s == FV_OK; i++) {
        fv_image panel = {0};
        s = draw_panel(b, i % 2 ? AXIS_TIME : AXIS_TOKENS, up[i / 2], i == 0, &panel);
        if (s == FV_OK)
            bench_paste(&img, &panel, i % 2 * PANEL_W, TITLE_H + i / 2 * PANEL_H, 1);
        fv_image_free(b->ctx, &panel);
    }
    return bench_save_picture(b->ctx, &img, s, path, b->a->common.force);
}

/* ---- Side by side ---------------------------------------------------------------------------- */

static void set_row(const ar_bench *b, const ar_line *l, bench_row *row)
{
    snprintf(row->label, sizeof row->label, "%.60s", l->text);
    snprintf(row->numbers, sizeof row->numbers, "%.2f tokens a pass, %.2fx, %.0f %% equal",
             l->all.tokens_per_pass, l->speedup.median, 100 * (double)l->equal /
             ((double)b->a->samples * b->info.tokens));
    row->image = l == &b->line[0] ? b->plain : l->shown;
}

/* Plain decoding, the methods that are worth storing, then those with the most tokens a pass. */
int ar_write_sheet(const ar_bench *b, const char *path)
{
    bench_row row[ROWS];
    bool is_taken[AR_METHODS] = {true};
    int n = 0;
    set_row(b, &b->line[0], &row[n++]);
    while (n < ROWS && n < b->lines) {
        int best = -1;
        for (int i = 1; i < b->lines; i++) {
            const ar_line *l = &b->line[i], *t = best < 0 ? NULL : &b->line[best];
            if (is_taken[i]) continue;
            if (!t || l->is_stored > t->is_stored ||
                (l->is_stored == t->is_stored && l->all.tokens_per_pass > t->all.tokens_per_pass))
                best = i;
        }
        is_taken[best] = true;
        set_row(b, &b->line[best], &row[n++]);
    }
    return bench_write_sheet(b->ctx, row, n, b->shown, path, b->a->common.force);
}
