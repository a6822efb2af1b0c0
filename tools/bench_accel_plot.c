/* bench_accel_plot.c - pictures of `fovea bench accel`: fidelity against speed-up, what a plan
 * computes when, and samples side by side. */
#include "bench_accel.h"
#include "bench_sheet.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CURVES 8 /* colours of fv_plot: markers get the colour of their line */
#define BEST_METHODS 3 /* of others, in the sheet */

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
    return bench_save_picture(b->ctx, &img, s, path, b->overwrites);
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
            bench_fill(img, left + e * side, top + row * side + row / 2, side - 1, side - 1,
                 cell[kind].rgb);
        }
        snprintf(number, sizeof number, "%d", e);
        if (e % 5 == 0)
            fv_plot_text(img, left + e * side, top + (2 * side + 1) * info->depth + 2, 1,
                         bench_black, number);
    }
    for (int l = 0; l < info->depth; l++) {
        snprintf(number, sizeof number, "%2d", l);
        fv_plot_text(img, BENCH_MARGIN, top + l * (2 * side + 1) + side - BENCH_LETTER_H / 2, 1,
                     bench_black, number);
    }
}

static int draw_legend(fv_image *img, int x, int y)
{
    for (int i = 0; i < CELLS; i++) {
        bench_fill(img, x, y, BENCH_LETTER_H, BENCH_LETTER_H, bench_black);
        bench_fill(img, x + 1, y + 1, BENCH_LETTER_H - 2, BENCH_LETTER_H - 2, cell[i].rgb);
        fv_plot_text(img, x + BENCH_LETTER_H + 4, y, 1, bench_black, cell[i].name);
        x += BENCH_LETTER_H + 4 + BENCH_LETTER_W * ((int)strlen(cell[i].name) + 2);
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
    const int side = info.steps > 100 ? 6 : 12, left = BENCH_MARGIN + 3 * BENCH_LETTER_W;
    const int top = BENCH_MARGIN + 2 * (BENCH_LETTER_H + 6);
    int width = left + info.steps * side + BENCH_MARGIN;
    const int height = top + (2 * side + 1) * info.depth + BENCH_LETTER_H + 2 * BENCH_MARGIN;
    if (width < 640) width = 640;
    snprintf(title, sizeof title, "%s at %.3gx: step by step (right), attention and MLP of each "
             "layer (down)", l->method->label, l->measured.median);
    const fv_status s = bench_canvas(b->ctx, &img, width, height);
    if (s == FV_OK) {
        fv_plot_text(&img, BENCH_MARGIN, BENCH_MARGIN, 1, bench_black, title);
        draw_legend(&img, BENCH_MARGIN, BENCH_MARGIN + BENCH_LETTER_H + 6);
        draw_cells(&img, l->plan, &info, left, top, side);
    }
    return bench_save_picture(b->ctx, &img, s, path, b->overwrites);
}

/* ---- Side by side ---------------------------------------------------------------------------- */

static void set_row(bench_row *r, const accel_line *l)
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
static int choose_rows(const accel_bench *b, bench_row *row)
{
    const accel_line *own = accel_best_line(b, ACCEL_PLANNER, b->shown_ratio);
    const accel_line *fewer = accel_best_line(b, ACCEL_FEWER, b->shown_ratio);
    const accel_line *other = accel_best_line(b, ACCEL_METHOD, b->shown_ratio);
    int n = 0;
    row[n++] = (bench_row){"exact", "", b->p.exact};
    if (own) set_row(&row[n++], own);
    for (int i = 0; i < BEST_METHODS && other; i++, other = next_best(b, other))
        set_row(&row[n++], other);
    if (fewer) set_row(&row[n++], fewer);
    return n;
}

int accel_write_sheet(const accel_bench *b, const char *path)
{
    bench_row row[BEST_METHODS + 3];
    const int n = choose_rows(b, row);
    return bench_write_sheet(b->ctx, row, n, b->shown, path, b->overwrites);
}
