/* accel_dpx.c - which evaluations are computed, forecast module by module, or skipped: dynamic
 * programming over anchors, with errors of fitted forecasts and a price on measured time.
 *
 * A forecast between two anchors looks back on the last anchors, so a state is an anchor c and the
 * distances to the anchors before it, (d2, d3): exact for forecasts of three terms. With
 *     E(e; c, d2, d3) = predicted error of forecasting all modules at e,   S(...) of skipping e
 * the best rest of a schedule is
 *     V(c, d2, d3) = min over gaps g of
 *         sum over c < e < c+g of min(E + price t_forecast, S + price t_skip)
 *         + price t_anchor(c+g) + V(c+g, g, d2)
 * and the end counts as an anchor that costs nothing. For a given price this is the minimum of
 * error + price * time over all schedules; raising the price walks down the lower convex hull of
 * the two. Unlike a search by number of anchors it weighs skipped evaluations, forecasts and
 * anchors against each other in the unit that is asked for, seconds. What the hull leaves of a
 * budget is spent by the caller on single modules. */
#include "dpx.h"

#include <math.h>
#include <string.h>

#define PRICES 64         /* steps of halving */
#define DEEP_EVALS 128    /* longer runs look back on two anchors: a table of three takes seconds */
#define NONE 0            /* distance to an anchor that is not there */

struct fvi_dpx_work {
    fvi_dpx p;
    int G, deep;          /* distances 0 .. G; those of d3 */
    double *error[3];     /* [T][G][G+1][deep] of FORECAST and SKIP */
    bool is_sharing;      /* FORECAST's is another one's */
    double *value;        /* [T+1][G+1][deep] */
    uint8_t *gap;         /* the same: to the next anchor */
};

static size_t step_at(const fvi_dpx_work *w, int e, int age, int d2, int d3)
{
    return (((size_t)e * (size_t)w->G + (size_t)(age - 1)) * (size_t)(w->G + 1) + (size_t)d2) *
               (size_t)w->deep + (size_t)d3;
}

static size_t state_at(const fvi_dpx_work *w, int c, int d2, int d3)
{
    return ((size_t)c * (size_t)(w->G + 1) + (size_t)d2) * (size_t)w->deep +
           (size_t)(w->deep > 1 ? d3 : 0);
}

/* Anchors that a forecast at e may look back on: c = e - age and those before it. */
static int anchors_of(const fvi_dpx *p, int e, int age, int d2, int d3, int *at)
{
    int n = 0;
    at[n++] = e - age;
    if (d2 != NONE && n < p->terms) at[n++] = at[0] - d2;
    if (d2 != NONE && d3 != NONE && n < p->terms) at[n++] = at[1] - d3;
    return n;
}

static double step_error(const fvi_dpx *p, fvi_step kind, int e, const int *at, int n)
{
    double sum = 0;
    if (kind == FVI_STEP_ANCHOR) return 0;
    if (kind == FVI_STEP_SKIP) return fvi_skip_error(p->sens, p->skip, e, at, n);
    for (int k = 0; k < p->K; k++) sum += fvi_forecast_error(p->sens, k, e, at, n);
    return sum;
}

/* Evaluations are independent of one another: the same for any number of threads. */
static void fill_errors(fv_ctx *ctx, fvi_dpx_work *w)
{
    const fvi_dpx *p = &w->p;
    const int first = w->is_sharing ? FVI_STEP_SKIP : FVI_STEP_FORECAST;
    const int last = p->seconds[FVI_STEP_SKIP] ? FVI_STEP_SKIP : FVI_STEP_FORECAST;
#pragma omp parallel for schedule(dynamic) num_threads(fv_ctx_threads(ctx))
    for (int e = 1; e < p->T; e++)
        for (int age = 1; age <= w->G - 1 && age <= e && !p->must[e - age + 1]; age++)
            for (int d2 = 0; d2 <= w->G && d2 <= e - age; d2++)
                for (int d3 = 0; d3 < w->deep && d3 <= e - age - d2; d3++) {
                    int at[FVI_DPX_TERMS];
                    const int n = anchors_of(p, e, age, d2, d3, at);
                    for (int kind = first; kind <= last; kind++)
                        w->error[kind][step_at(w, e, age, d2, d3)] =
                            step_error(p, (fvi_step)kind, e, at, n);
                }
}

fv_status fvi_dpx_open(fv_ctx *ctx, fvi_dpx_work **out, const fvi_dpx *p,
                       const fvi_dpx_work *like)
{
    *out = NULL;
    if (p->T < 1 || p->K < 1 || p->max_gap < 1 || p->max_gap > FVI_DPX_GAP)
        return fv_fail(ctx, FV_ERR_ARG, "plan: %d evaluations, gaps up to %d", p->T, p->max_gap);
    fvi_dpx_work *w = fv_calloc(ctx, 1, sizeof *w);
    if (!w) return FV_ERR_OOM;
    w->p = *p;
    w->G = p->max_gap;
    w->deep = p->terms > 2 && p->T <= DEEP_EVALS ? w->G + 1 : 1;
    const size_t steps = step_at(w, p->T, 1, 0, 0), states = state_at(w, p->T + 1, 0, 0);
    w->is_sharing = like != NULL;
    w->error[FVI_STEP_FORECAST] =
        like ? like->error[FVI_STEP_FORECAST] : fv_calloc(ctx, steps, sizeof(double));
    if (p->seconds[FVI_STEP_SKIP]) w->error[FVI_STEP_SKIP] = fv_calloc(ctx, steps, sizeof(double));
    w->value = fv_calloc(ctx, states, sizeof(double));
    w->gap = fv_calloc(ctx, states, 1);
    if (!w->error[FVI_STEP_FORECAST] || !w->value || !w->gap ||
        (p->seconds[FVI_STEP_SKIP] && !w->error[FVI_STEP_SKIP])) {
        fvi_dpx_close(ctx, &w);
        return FV_ERR_OOM;
    }
    fill_errors(ctx, w);
    *out = w;
    return FV_OK;
}

void fvi_dpx_close(fv_ctx *ctx, fvi_dpx_work **ww)
{
    fvi_dpx_work *w = *ww;
    *ww = NULL;
    if (!w) return;
    if (!w->is_sharing) fv_free(ctx, w->error[FVI_STEP_FORECAST]);
    fv_free(ctx, w->error[FVI_STEP_SKIP]);
    fv_free(ctx, w->value);
    fv_free(ctx, w->gap);
    fv_free(ctx, w);
}

/* Cheaper of the two ways to go on without computing e; ties to the forecast. */
static double cheapest(const fvi_dpx_work *w, double price, int e, int age, int d2, int d3,
                       fvi_step *kind)
{
    const size_t i = step_at(w, e, age, d2, d3);
    const double f = w->error[FVI_STEP_FORECAST][i] + price * w->p.seconds[FVI_STEP_FORECAST][e];
    *kind = FVI_STEP_FORECAST;
    if (!w->p.seconds[FVI_STEP_SKIP]) return f;
    const double s = w->error[FVI_STEP_SKIP][i] + price * w->p.seconds[FVI_STEP_SKIP][e];
    if (s < f) *kind = FVI_STEP_SKIP;
    return s < f ? s : f;
}

/* Where the next anchor is not allowed to look back, its distances are NONE. */
static double rest_from(const fvi_dpx_work *w, int b, int g, int d2)
{
    const bool is_cut = b < w->p.T && w->p.must[b];
    return w->value[is_cut ? state_at(w, b, NONE, NONE) : state_at(w, b, g, d2)];
}

static void solve_state(fvi_dpx_work *w, double price, int c, int d2, int d3)
{
    const int T = w->p.T;
    const size_t at = state_at(w, c, d2, d3);
    double between = 0, best = INFINITY;
    fvi_step kind;
    for (int g = 1; g <= w->G && c + g <= T; g++) {
        const int b = c + g;
        if (g > 1) {
            if (w->p.must[b - 1]) break;
            between += cheapest(w, price, b - 1, g - 1, d2, w->deep > 1 ? d3 : 0, &kind);
        }
        const double v =
            between + (b < T ? price * w->p.seconds[FVI_STEP_ANCHOR][b] + rest_from(w, b, g, d2)
                             : 0);
        if (v <= best) { /* of equal ones the longer gap */
            best = v;
            w->gap[at] = (uint8_t)g;
        }
    }
    w->value[at] = best;
}

static void follow(fvi_dpx_work *w, double price, uint8_t *kind)
{
    for (int c = 0, d2 = NONE, d3 = NONE; c < w->p.T;) {
        const int g = w->gap[state_at(w, c, d2, d3)];
        kind[c] = FVI_STEP_ANCHOR;
        for (int e = c + 1; e < c + g; e++) {
            fvi_step k;
            cheapest(w, price, e, e - c, d2, w->deep > 1 ? d3 : 0, &k);
            kind[e] = (uint8_t)k;
        }
        c += g;
        d3 = d2;
        d2 = g;
        if (c < w->p.T && w->p.must[c]) d2 = d3 = NONE;
    }
}

void fvi_dpx_judge(const fvi_dpx *p, const uint8_t *kind, double *error, double *seconds)
{
    int anchor[FVI_DPX_TERMS] = { 0 }, count = 0;
    *error = *seconds = 0;
    for (int e = 0; e < p->T; e++) {
        *seconds += p->seconds[kind[e]] ? p->seconds[kind[e]][e] : INFINITY;
        if (p->must[e]) count = 0;
        if (kind[e] == FVI_STEP_ANCHOR) {
            memmove(anchor + 1, anchor, (FVI_DPX_TERMS - 1) * sizeof *anchor);
            anchor[0] = e;
            if (count < FVI_DPX_TERMS) count++;
            continue;
        }
        *error += count ? step_error(p, (fvi_step)kind[e], e, anchor,
                                     count < p->terms ? count : p->terms)
                        : INFINITY;
    }
}

void fvi_dpx_solve(fvi_dpx_work *w, double price, uint8_t *kind, double *error, double *seconds)
{
    const int T = w->p.T;
    for (int c = T - 1; c >= 0; c--)
        for (int d2 = 0; d2 <= w->G && d2 <= c; d2++)
            for (int d3 = 0; d3 < w->deep && d3 <= c - d2; d3++) solve_state(w, price, c, d2, d3);
    follow(w, price, kind);
    fvi_dpx p = w->p;
    if (w->deep == 1 && p.terms > 2) p.terms = 2;
    fvi_dpx_judge(&p, kind, error, seconds);
}

/* Halves the price on a logarithmic scale between nothing and so much that only time counts. */
fv_status fvi_dpx_within(fv_ctx *ctx, fvi_dpx_work *w, double budget, uint8_t *kind, double *error,
                         double *seconds)
{
    const size_t T = (size_t)w->p.T;
    double low = -80, high = 80, err, sec;
    uint8_t *trial = fv_calloc(ctx, T, 1);
    if (!trial) return FV_ERR_OOM;
    fvi_dpx_solve(w, exp(high), trial, &err, &sec);
    *seconds = sec;
    *error = err;
    memcpy(kind, trial, T);
    for (int i = 0; i < PRICES && sec <= budget; i++) {
        const double middle = 0.5 * (low + high);
        fvi_dpx_solve(w, exp(middle), trial, &err, &sec);
        const bool fits = sec <= budget;
        if (fits && err <= *error) {
            memcpy(kind, trial, T);
            *error = err;
            *seconds = sec;
        }
        if (fits) high = middle;
        else low = middle;
        sec = budget; /* the loop's condition is about the fastest alone */
    }
    fv_free(ctx, trial);
    return *seconds <= budget ? FV_OK : FV_ERR_ARG;
}

fv_status fvi_dpx_anchors(fv_ctx *ctx, fvi_dpx_work *w, int anchors, uint8_t *kind)
{
    const size_t T = (size_t)w->p.T;
    double low = -80, high = 80, err, sec;
    int best = -1;
    uint8_t *trial = fv_calloc(ctx, T, 1);
    if (!trial) return FV_ERR_OOM;
    for (int i = 0; i <= PRICES; i++) {
        const double price = i ? 0.5 * (low + high) : high;
        fvi_dpx_solve(w, exp(price), trial, &err, &sec);
        int n = 0;
        for (size_t e = 0; e < T; e++) n += trial[e] == FVI_STEP_ANCHOR;
        if (n <= anchors && n > best) {
            best = n;
            memcpy(kind, trial, T);
        }
        if (!i && best < 0) break;
        if (i && n <= anchors) high = price;
        else if (i) low = price;
    }
    fv_free(ctx, trial);
    if (best >= 0) return FV_OK;
    return fv_fail(ctx, FV_ERR_ARG, "plan: %d full steps of %d are not possible: ask for more",
                   anchors, w->p.T);
}
