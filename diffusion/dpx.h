/* dpx.h - the planner behind --speedup: forecasts fitted to a table, and dynamic programming over
 * anchors, forecasts and skipped evaluations in measured time. Shared by accel*.c and tests. */
#ifndef FV_DPX_H
#define FV_DPX_H

#include "soda.h"

#define FVI_DPX_TERMS 3 /* outputs that a planned forecast looks back on, at most */
#define FVI_DPX_GAP 12  /* longest distance between anchors */

/* ---- accel_weights.c: forecasts -------------------------------------------------------------- */

/* Mean product of a quantity at e and at e-n over its size; n from 0. */
typedef double (*fvi_gram_fn)(const void *user, int e, int n);
/* Weights w [DIT_HISTORY] (unused ones 0) of the linear forecast of e from its values at
 * at[0..count), newest first, that has the least mean squared error under gram; fewer terms where
 * more do not help. Returns that error, INFINITY if not even at[0] is of use. */
double fvi_forecast_fit(fvi_gram_fn gram, const void *user, int e, const int *at, int count,
                        float *w);
/* Of FVI_LANES quantities side by side: lowers best[] to the errors of forecasts of n terms, at
 * most FVI_DPX_TERMS, as fvi_forecast_fit does for n = 1, 2, ... */
#define FVI_LANES 4
typedef struct fvi_lanes {
    const double *term[FVI_DPX_TERMS][FVI_DPX_TERMS], *with[FVI_DPX_TERMS], *self; /* [FVI_LANES] */
} fvi_lanes;
void fvi_forecast_lanes(const fvi_lanes *g, int n, double best[FVI_LANES]);
/* Polynomial through at[0..count): Newton's form, in Lagrange's words. */
void fvi_forecast_polynomial(int e, const int *at, int count, float *w);
/* How many of at[] the table knows together with e. */
int fvi_sens_known_terms(const fv_sens *s, int e, const int *at, int count);
/* What a squared error of the output of module k at e adds to that of the picture. */
double fvi_weighted_error(const fv_sens *s, int k, int e, double error);
/* Predicted error of one forecast of module k, of a skipped evaluation; INFINITY where the table
 * does not know. */
double fvi_forecast_error(const fv_sens *sens, int k, int e, const int *at, int count);
double fvi_skip_error(const fv_sens *sens, dit_skip kind, int e, const int *at, int count);

/* The evaluations that a forecast may look back on, newest first. */
typedef struct fvi_past {
    int at[FVI_DPX_TERMS], count, most;
} fvi_past;
fvi_past fvi_past_of(int terms); /* empty; 0 = FVI_DPX_TERMS */
void fvi_past_push(fvi_past *p, int e);
/* Is the output of module k at e added to its past? */
FV_INLINE bool fvi_is_pushed(const fv_accel *a, int k, int e)
{
    return !a->skipped[e] && a->action[(size_t)e * 2 * (size_t)a->depth + (size_t)k] == DIT_FULL;
}
/* Fills the weights of all LINEAR, PRUNE and skipped entries of a plan from what each module, or
 * all of them, computed in full before (never across must [evals], where the number of rows
 * changes). Entries without a past become FULL, those too far from theirs REUSE. */
void fvi_accel_weights(fv_accel *a, const fv_sens *sens, const uint8_t *must);
/* What module k at e adds to the predicted error of the picture after this past; sens NULL: the
 * square of the age. INFINITY: something that is not known. */
double fvi_action_error(const fv_sens *sens, const fv_accel *a, int k, int e, const fvi_past *p);
/* The same of evaluations from .. to-1 of a plan. */
double fvi_module_error(const fv_sens *sens, const fv_accel *a, const uint8_t *must, int k,
                        int from, int to);
/* Of all modules and skipped evaluations. */
double fvi_plan_error(const fv_sens *sens, const fv_accel *a, const uint8_t *must);

/* ---- accel_time.c ---------------------------------------------------------------------------- */

/* Seconds of one module; g: with guidance. */
double fvi_module_seconds(const fv_timing *t, int g, int k, int action, int size);
double fvi_skip_seconds(const fv_timing *t, int g, dit_skip kind);

/* ---- accel_spend.c --------------------------------------------------------------------------- */

/* What comes true of the error that a single module between anchors is predicted to save: its
 * inputs have drifted, which the table does not know, and the tokens of a pruned one see others
 * that are old. Measured on F64c: with all of it believed, plans have too few anchors for too many
 * single modules and lose 1 to 3 dB. */
#define FVI_TRUST_FULL 0.5
#define FVI_TRUST_PRUNED 0.15

typedef struct fvi_spend {
    fv_ctx *ctx;
    const fv_sens *sens; /* or NULL */
    const uint8_t *must;
    const fv_timing *timing;
    const dit_schedule *schedule;
    double batches; /* of a call */
    bool can_prune;
} fvi_spend;
typedef struct fvi_doing {
    int action, size;
} fvi_doing;
/* Seconds of all batches that module k at e costs more with one action than with another. */
double fvi_more_seconds(const fvi_spend *p, int k, int e, fvi_doing now, fvi_doing than);
/* Spends up to `budget` seconds on single modules of a plan. Takes what is saved off *error. */
fv_status fvi_spend_time(const fvi_spend *p, double budget, fv_accel *a, double *error);

/* ---- accel_dpx.c ----------------------------------------------------------------------------- */

typedef enum fvi_step { FVI_STEP_ANCHOR = 0, FVI_STEP_FORECAST, FVI_STEP_SKIP } fvi_step;

typedef struct fvi_dpx {
    int T, K, max_gap;
    int terms, step_terms; /* of forecasts of modules, of skips; at least 1 */
    const fv_sens *sens;
    const uint8_t *must;      /* [T] anchors, behind which nothing older counts */
    const double *seconds[3]; /* [T] of each kind of step; SKIP's NULL: none is skipped */
    dit_skip skip;
} fvi_dpx;

typedef struct fvi_dpx_work fvi_dpx_work;
/* Errors of all possible steps; *out is freed by fvi_dpx_close. like: NULL, or one that was opened
 * for the same problem but skips and outlives this one: its errors of forecasts are taken where
 * they look back on as many outputs. */
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
