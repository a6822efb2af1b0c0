/* dpx.h - the planner behind --speedup: forecasts fitted to a table, and dynamic programming over
 * anchors, forecasts and skipped evaluations in measured time. Shared by accel*.c and tests. */
#ifndef FV_DPX_H
#define FV_DPX_H

#include "soda.h"

#define FVI_DPX_TERMS 3 /* outputs that a planned forecast looks back on, at most */
#define FVI_DPX_GAP 12  /* longest distance between anchors */

/* ---- accel_weights.c: forecasts --------------------------------------------------------------- */

/* Mean product of a quantity at e and at e-n over its size; n from 0. */
typedef double (*fvi_gram_fn)(const void *user, int e, int n);
/* Weights w [DIT_HISTORY] (unused ones 0) of the linear forecast of e from its values at
 * at[0..count), newest first, that has the least mean squared error under gram; fewer terms where
 * more do not help. Returns that error, INFINITY if not even at[0] is of use. */
double fvi_forecast_fit(fvi_gram_fn gram, const void *user, int e, const int *at, int count,
                        float *w);
/* Polynomial through at[0..count): Newton's form, in Lagrange's words. */
void fvi_forecast_polynomial(int e, const int *at, int count, float *w);
/* Fills the weights of all LINEAR, PRUNE and skipped entries of a plan from what each module, or all
 * of them, computed in full before (never across must [evals], where the number of rows changes).
 * sens NULL: polynomials. Entries without a past become FULL, those too far from theirs REUSE. */
void fvi_accel_weights(fv_accel *a, const fv_sens *sens, const uint8_t *must);
/* What module k adds to the predicted error of the picture at evaluations from .. to-1 of a plan;
 * sens NULL: the uniform model. INFINITY: something that is not known. */
double fvi_module_error(const fv_sens *sens, const fv_accel *a, const uint8_t *must, int k,
                        int from, int to);
/* Of all modules and skipped evaluations. */
double fvi_plan_error(const fv_sens *sens, const fv_accel *a, const uint8_t *must);
/* The same of one forecast of module k. */
double fvi_forecast_error(const fv_sens *sens, int k, int e, const int *at, int count);
/* Of a skipped evaluation; INFINITY without a table that knows it. */
double fvi_skip_error(const fv_sens *sens, dit_skip kind, int e, const int *at, int count);

/* ---- accel_time.c ---------------------------------------------------------------------------- */

/* Seconds of one module; g: with guidance. */
double fvi_module_seconds(const fv_timing *t, int g, int k, int action, int size);
double fvi_skip_seconds(const fv_timing *t, int g, dit_skip kind);

/* ---- accel_dpx.c ------------------------------------------------------------------------------ */

typedef enum fvi_step { FVI_STEP_ANCHOR = 0, FVI_STEP_FORECAST, FVI_STEP_SKIP } fvi_step;

typedef struct fvi_dpx {
    int T, K, max_gap, terms;
    const fv_sens *sens;      /* or NULL */
    const uint8_t *must;      /* [T] anchors, behind which nothing older counts */
    const double *seconds[3]; /* [T] of each kind of step; SKIP's NULL: none is skipped */
    dit_skip skip;
} fvi_dpx;

typedef struct fvi_dpx_work fvi_dpx_work;
/* Errors of all possible steps; *out is freed by fvi_dpx_close. like: NULL, or one that was opened
 * for the same problem but skips and outlives this one: its errors of forecasts are taken. */
fv_status fvi_dpx_open(fv_ctx *ctx, fvi_dpx_work **out, const fvi_dpx *p,
                       const fvi_dpx_work *like);
void fvi_dpx_close(fv_ctx *ctx, fvi_dpx_work **w);
/* The schedule of least error + price * seconds, exactly: kind [T], its error and seconds. */
void fvi_dpx_solve(fvi_dpx_work *w, double price, uint8_t *kind, double *error, double *seconds);
/* The schedule on the lower hull that takes the most of `budget` seconds; FV_ERR_ARG if none is
 * that fast (*seconds: the fastest). */
fv_status fvi_dpx_within(fv_ctx *ctx, fvi_dpx_work *w, double budget, uint8_t *kind, double *error,
                         double *seconds);
/* The same for `anchors` full steps at most. */
fv_status fvi_dpx_anchors(fv_ctx *ctx, fvi_dpx_work *w, int anchors, uint8_t *kind);
/* Error and seconds of any schedule, by the definition. */
void fvi_dpx_judge(const fvi_dpx *p, const uint8_t *kind, double *error, double *seconds);

#endif
