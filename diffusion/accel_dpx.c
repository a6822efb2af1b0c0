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

#define PRICES 64         /* trials at most */
#define HIGHEST 80        /* logarithm of a price at which only time counts */
#define SLACK 1e-12       /* of a sum's rounding */
#define DEEP_EVALS 128    /* longer runs look back on two anchors: three are 8 times the work for
                           at most 2 % of the error at 250 */
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

static int terms_of(const fvi_dpx *p, fvi_step kind)
{
    return kind == FVI_STEP_SKIP ? p->step_terms : p->terms;
}

static double step_error(const fvi_dpx *p, fvi_step kind, int e, const int *at, int n)
{
    double sum = 0;
    if (kind == FVI_STEP_ANCHOR) return 0;
    if (kind == FVI_STEP_SKIP) return fvi_skip_error(p->sens, p->skip, e, at, n);
    for (int k = 0; k < p->K; k++) sum += fvi_forecast_error(p->sens, k, e, at, n);
    return sum;
}

/* ---- Errors of all steps --------------------------------------------------------------------- */

/* Gram bands of the modules, or of what a skip forecasts, side by side: [T][window+1][width] with
 * width a multiple of FVI_LANES. */
typedef struct bands {
    const fvi_dpx *p;
    fvi_step kind;
    int count, width, window;
    double *gram;
} bands;

static const double *band_at(const bands *b, int e, int n)
{
    return b->gram + ((size_t)e * (size_t)(b->window + 1) + (size_t)n) * (size_t)b->width;
}

static fv_status open_bands(fv_ctx *ctx, bands *b, const fvi_dpx *p, fvi_step kind)
{
    const int count = kind == FVI_STEP_SKIP ? 1 : p->K;
    *b = (bands){ p, kind, count, (count + FVI_LANES - 1) / FVI_LANES * FVI_LANES, p->sens->window,
                  NULL };
    b->gram = fv_calloc(ctx, (size_t)p->T * (size_t)(b->window + 1),
                        (size_t)b->width * sizeof *b->gram);
    if (!b->gram) return FV_ERR_OOM;
    for (int e = 0; e < p->T; e++)
        for (int n = 0; n <= b->window && n <= e; n++) {
            double *g = b->gram + (band_at(b, e, n) - b->gram);
            for (int k = 0; k < count; k++)
                g[k] = kind == FVI_STEP_SKIP ? fvi_sens_step_gram(p->sens, p->skip, e, n)
                                             : fvi_sens_gram(p->sens, k, e, n);
        }
    return FV_OK;
}

/* Lowers best [width] to the errors of forecasts of e from n terms. */
static void fit_bands(const bands *b, int e, const int *at, int n, double *best)
{
    fvi_lanes g;
    for (int v = 0; v < b->width; v += FVI_LANES) {
        g.self = band_at(b, e, 0) + v;
        for (int i = 0; i < n; i++) {
            g.with[i] = band_at(b, e, e - at[i]) + v;
            for (int j = 0; j <= i; j++)
                g.term[i][j] = g.term[j][i] = band_at(b, at[j], at[j] - at[i]) + v;
        }
        fvi_forecast_lanes(&g, n, best + v);
    }
}

/* To what it does to the picture. */
static double sum_errors(const bands *b, int e, const double *best)
{
    double sum = 0;
    if (b->kind == FVI_STEP_SKIP) {
        const double omega = fvi_sens_omega_step(b->p->sens, b->p->skip, e);
        return omega >= 0 && best[0] < INFINITY ? omega * best[0] : INFINITY;
    }
    for (int k = 0; k < b->count; k++) sum += fvi_weighted_error(b->p->sens, k, e, best[k]);
    return sum;
}

/* Forecasts of e from at[0..n) and from all longer lists of anchors, whose shorter ones are fitted
 * once: level n of best [FVI_DPX_TERMS + 1][width] begins with what n-1 terms gave. */
typedef struct filler {
    const fvi_dpx_work *w;
    const bands *b;
    double *best;
    int e, terms, at[FVI_DPX_TERMS];
} filler;

static double error_of_terms(filler *f, int n)
{
    const size_t width = (size_t)f->b->width;
    double *best = f->best + (size_t)n * width;
    memcpy(best, best - width, width * sizeof *best);
    if (fvi_sens_known_terms(f->b->p->sens, f->e, f->at, n) == n)
        fit_bands(f->b, f->e, f->at, n, best);
    return sum_errors(f->b, f->e, best);
}

static void fill_third(filler *f, int age, int d2, double error)
{
    const fvi_dpx_work *w = f->w;
    double *to = w->error[f->b->kind];
    for (int d3 = 0; d3 < w->deep && d3 <= f->e - age - d2; d3++) {
        f->at[2] = f->at[1] - d3;
        to[step_at(w, f->e, age, d2, d3)] =
            d2 != NONE && d3 != NONE && f->terms > 2 ? error_of_terms(f, 3) : error;
    }
}

static void fill_evaluation(filler *f)
{
    const fvi_dpx_work *w = f->w;
    for (int v = 0; v < f->b->width; v++) f->best[v] = INFINITY;
    for (int age = 1; age <= w->G - 1 && age <= f->e && !w->p.must[f->e - age + 1]; age++) {
        f->at[0] = f->e - age;
        const double first = error_of_terms(f, 1);
        for (int d2 = 0; d2 <= w->G && d2 <= f->e - age; d2++) {
            f->at[1] = f->at[0] - d2;
            fill_third(f, age, d2, d2 != NONE && f->terms > 1 ? error_of_terms(f, 2) : first);
        }
    }
}

/* Evaluations are independent of one another: the same for any number of threads. */
static fv_status fill_errors(fv_ctx *ctx, fvi_dpx_work *w, fvi_step kind)
{
    bands b;
    const int T = w->p.T;
    fv_status s = open_bands(ctx, &b, &w->p, kind);
    const size_t levels = (FVI_DPX_TERMS + 1) * (size_t)b.width;
    double *best = s == FV_OK ? fv_calloc(ctx, (size_t)T * levels, sizeof *best) : NULL;
    if (!best) s = FV_ERR_OOM;
#pragma omp parallel for schedule(dynamic) num_threads(fv_ctx_threads(ctx))
    for (int e = 1; e < (best ? T : 0); e++) {
        filler f = { w, &b, best + (size_t)e * levels, e, terms_of(&w->p, kind), { 0 } };
        fill_evaluation(&f);
    }
    fv_free(ctx, best);
    fv_free(ctx, b.gram);
    return s;
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
    w->deep = (p->terms > 2 || p->step_terms > 2) && p->T <= DEEP_EVALS ? w->G + 1 : 1;
    const size_t steps = step_at(w, p->T, 1, 0, 0), states = state_at(w, p->T + 1, 0, 0);
    w->is_sharing = like && like->deep == w->deep && like->p.terms == p->terms;
    w->error[FVI_STEP_FORECAST] =
        w->is_sharing ? like->error[FVI_STEP_FORECAST] : fv_calloc(ctx, steps, sizeof(double));
    if (p->seconds[FVI_STEP_SKIP]) w->error[FVI_STEP_SKIP] = fv_calloc(ctx, steps, sizeof(double));
    w->value = fv_calloc(ctx, states, sizeof(double));
    w->gap = fv_calloc(ctx, states, 1);
    if (!w->error[FVI_STEP_FORECAST] || !w->value || !w->gap ||
        (p->seconds[FVI_STEP_SKIP] && !w->error[FVI_STEP_SKIP])) {
        fvi_dpx_close(ctx, &w);
        return FV_ERR_OOM;
    }
    fv_status s = w->is_sharing ? FV_OK : fill_errors(ctx, w, FVI_STEP_FORECAST);
    if (s == FV_OK && p->seconds[FVI_STEP_SKIP]) s = fill_errors(ctx, w, FVI_STEP_SKIP);
    if (s == FV_OK)
        *out = w;
    else
        fvi_dpx_close(ctx, &w);
    return s;
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

/* ---- Schedules ------------------------------------------------------------------------------- */

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

/* Error and seconds as fvi_dpx_judge sums them, from the tables. */
static void follow(const fvi_dpx_work *w, double price, uint8_t *kind, double *error,
                   double *seconds)
{
    *error = *seconds = 0;
    for (int c = 0, d2 = NONE, d3 = NONE; c < w->p.T;) {
        const int g = w->gap[state_at(w, c, d2, d3)], deep3 = w->deep > 1 ? d3 : 0;
        kind[c] = FVI_STEP_ANCHOR;
        *seconds += w->p.seconds[FVI_STEP_ANCHOR][c];
        for (int e = c + 1; e < c + g; e++) {
            fvi_step k;
            cheapest(w, price, e, e - c, d2, deep3, &k);
            kind[e] = (uint8_t)k;
            *error += w->error[k][step_at(w, e, e - c, d2, deep3)];
            *seconds += w->p.seconds[k][e];
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
        const int most = terms_of(p, (fvi_step)kind[e]);
        *error += count ? step_error(p, (fvi_step)kind[e], e, anchor, count < most ? count : most)
                        : INFINITY;
    }
}

void fvi_dpx_solve(fvi_dpx_work *w, double price, uint8_t *kind, double *error, double *seconds)
{
    const int T = w->p.T;
    for (int c = T - 1; c >= 0; c--)
        for (int d2 = 0; d2 <= w->G && d2 <= c; d2++)
            for (int d3 = 0; d3 < w->deep && d3 <= c - d2; d3++) solve_state(w, price, c, d2, d3);
    follow(w, price, kind, error, seconds);
}

/* Down the hull between the fastest schedule and the one of least error: the slope between two of
 * its points is the price of every point of it between them; if there is none, they are neighbours.
 * Takes a handful of prices where halving takes fifty. */
fv_status fvi_dpx_within(fv_ctx *ctx, fvi_dpx_work *w, double budget, uint8_t *kind, double *error,
                         double *seconds)
{
    const size_t T = (size_t)w->p.T;
    double slow_err, slow_sec, err, sec;
    uint8_t *trial = fv_calloc(ctx, T, 1);
    if (!trial) return FV_ERR_OOM;
    fvi_dpx_solve(w, exp(HIGHEST), kind, error, seconds);
    const bool is_possible = *seconds <= budget;
    if (is_possible) fvi_dpx_solve(w, exp(-HIGHEST), trial, &slow_err, &slow_sec);
    if (is_possible && slow_sec <= budget) {
        memcpy(kind, trial, T);
        *error = slow_err;
        *seconds = slow_sec;
    } else if (is_possible) {
        for (int i = 0; i < PRICES && slow_sec > *seconds && slow_err < *error; i++) {
            const double price = (*error - slow_err) / (slow_sec - *seconds);
            const double edge = *error + price * *seconds;
            fvi_dpx_solve(w, price, trial, &err, &sec);
            if (!(err + price * sec < edge - SLACK * fabs(edge))) break;
            if (sec <= budget) {
                memcpy(kind, trial, T);
                *error = err;
                *seconds = sec;
            } else {
                slow_err = err;
                slow_sec = sec;
            }
        }
    }
    fv_free(ctx, trial);
    return is_possible ? FV_OK : FV_ERR_ARG;
}

fv_status fvi_dpx_anchors(fv_ctx *ctx, fvi_dpx_work *w, int anchors, uint8_t *kind)
{
    const size_t T = (size_t)w->p.T;
    double low = -HIGHEST, high = HIGHEST, err, sec;
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
