/* gen_compare.c - gen --compare: the fast way against the exact one, timed alternately.
 *
 * Clock speed and other load drift over seconds; alternating runs let both paths see the same
 * conditions, and the median of three drops one bad pair. */
#include "gen.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define RUNS 3
#define SHEET_ROWS 8     /* pictures shown side by side */
#define PANEL_PIXELS 192 /* small pictures are enlarged to at least this side */
#define HEAD 18          /* height of the labels */
#define GAP 4

static void free_images(fv_ctx *ctx, fv_image *img, int n)
{
    for (int i = 0; img && i < n; i++) fv_image_free(ctx, &img[i]);
}

/* One squared error over all pictures; SSIM is the mean of the pictures'. */
static fv_status measure(fv_ctx *ctx, const fv_image *exact, const fv_image *fast, int n,
                         gen_comparison *r)
{
    double error = 0, ssim = 0, v;
    for (int i = 0; i < n; i++) {
        fv_status s = fv_psnr(ctx, &exact[i], &fast[i], &v);
        if (s != FV_OK) return s;
        if (isfinite(v)) error += pow(10, -v / 10) / n;
        s = fv_ssim(ctx, &exact[i], &fast[i], &v);
        if (s != FV_OK) return s;
        ssim += v / n;
    }
    r->is_identical = error == 0;
    r->psnr_db = r->is_identical ? INFINITY : -10 * log10(error);
    r->ssim = ssim;
    return FV_OK;
}

/* ---- Side by side ---------------------------------------------------------------------------- */

static int largest_difference(const fv_image *a, const fv_image *b)
{
    int most = 0;
    for (int y = 0; y < a->height; y++) {
        const uint8_t *p = (const uint8_t *)a->pixels + (size_t)y * a->stride_bytes;
        const uint8_t *q = (const uint8_t *)b->pixels + (size_t)y * b->stride_bytes;
        for (int x = 0; x < 3 * a->width; x++) {
            const int d = abs(p[x] - q[x]);
            if (d > most) most = d;
        }
    }
    return most;
}

typedef struct sheet_painter {
    fv_image *to;
    int scale, gain, x, y;
} sheet_painter;

/* Picture a (or gain * |a - b| with b) at the painter's place, enlarged. */
static void paint(const sheet_painter *s, const fv_image *a, const fv_image *b)
{
    for (int y = 0; y < a->height * s->scale; y++) {
        const uint8_t *p = (const uint8_t *)a->pixels + (size_t)(y / s->scale) * a->stride_bytes;
        const uint8_t *q =
            b ? (const uint8_t *)b->pixels + (size_t)(y / s->scale) * b->stride_bytes : NULL;
        uint8_t *d =
            (uint8_t *)s->to->pixels + (size_t)(s->y + y) * s->to->stride_bytes + 3 * (size_t)s->x;
        for (int x = 0; x < a->width * s->scale; x++)
            for (int c = 0; c < 3; c++) {
                const int k = 3 * (x / s->scale) + c;
                const int v = q ? s->gain * abs(p[k] - q[k]) : p[k];
                *d++ = (uint8_t)(v > 255 ? 255 : v);
            }
    }
}

static fv_status make_sheet(fv_ctx *ctx, const fv_image *exact, const fv_image *fast, int n,
                            const gen_comparison *r, fv_image *out)
{
    static const uint8_t black[3] = {0, 0, 0};
    const int rows = n < SHEET_ROWS ? n : SHEET_ROWS, side = exact[0].width;
    const int scale = side < PANEL_PIXELS ? (PANEL_PIXELS + side - 1) / side : 1;
    const int panel = side * scale, high = exact[0].height * scale;
    int most = 0;
    char text[64];
    const fv_status s =
        fv_image_create(ctx, out, 3 * panel + 2 * GAP, HEAD + rows * (high + GAP) - GAP, 3, 8);
    if (s != FV_OK) return s;
    memset(out->pixels, 255, (size_t)out->height * out->stride_bytes);
    for (int i = 0; i < rows; i++) {
        const int d = largest_difference(&exact[i], &fast[i]);
        if (d > most) most = d;
    }
    /* The largest difference becomes white, in steps that are easy to read. */
    static const int gains[] = {50, 20, 10, 5, 2, 1};
    sheet_painter p = {out, scale, 1, 0, HEAD};
    for (int i = 5; i >= 0 && gains[i] * most <= 255; i--) p.gain = gains[i];
    snprintf(text, sizeof text, "exact %.2f s", r->exact_seconds);
    fv_plot_text(out, 2, 3, 1, black, text);
    if (r->is_identical)
        snprintf(text, sizeof text, "%.2fx: %.2f s, identical", r->speedup, r->fast_seconds);
    else
        snprintf(text, sizeof text, "%.2fx: %.2f s, %.1f dB", r->speedup, r->fast_seconds,
                 r->psnr_db);
    fv_plot_text(out, panel + GAP + 2, 3, 1, black, text);
    snprintf(text, sizeof text, "difference x %d", p.gain);
    fv_plot_text(out, 2 * (panel + GAP) + 2, 3, 1, black, text);
    for (int i = 0; i < rows; i++) {
        p.y = HEAD + i * (high + GAP);
        p.x = 0;
        paint(&p, &exact[i], NULL);
        p.x = panel + GAP;
        paint(&p, &fast[i], NULL);
        p.x = 2 * (panel + GAP);
        paint(&p, &exact[i], &fast[i]);
    }
    return FV_OK;
}

/* ---- Runs ------------------------------------------------------------------------------------ */

static fv_status alternate(fv_ctx *ctx, const gen_pair *p, fv_image *exact, fv_image *fast,
                           gen_comparison *r)
{
    double te[RUNS], tf[RUNS];
    /* The first run packs weights; it is not counted. */
    fv_status s = p->make(p->user, false, fast, &tf[0]);
    for (int i = 0; i < RUNS && s == FV_OK; i++) {
        free_images(ctx, exact, p->count);
        s = p->make(p->user, true, exact, &te[i]);
        if (s != FV_OK) return s;
        free_images(ctx, fast, p->count);
        s = p->make(p->user, false, fast, &tf[i]);
    }
    if (s != FV_OK) return s;
    r->exact_seconds = cli_quantile(te, RUNS, 0.5);
    r->fast_seconds = cli_quantile(tf, RUNS, 0.5);
    r->speedup = r->exact_seconds / r->fast_seconds;
    return FV_OK;
}

int gen_compare(fv_ctx *ctx, const gen_model *m, const gen_pair *pair, fv_image *images,
                gen_comparison *result, fv_image *sheet)
{
    fv_image *exact = calloc((size_t)pair->count, sizeof *exact);
    if (!exact) return cli_fail(CLI_FAILED, "out of memory");
    fv_status s = alternate(ctx, pair, exact, images, result);
    if (s == FV_OK) s = measure(ctx, exact, images, pair->count, result);
    if (s == FV_OK && sheet) s = make_sheet(ctx, exact, images, pair->count, result, sheet);
    const int code = s == FV_OK ? CLI_OK : cli_report(ctx, s, m->label);
    free_images(ctx, exact, pair->count);
    free(exact);
    return code;
}
