/* soda.h - planning of SODA, shared by sens*.c, anchor_dp.c and accel*.c (and their tests).
 *
 * Everywhere here e is an evaluation in the order of execution, 0 first; the papers count down, so
 * their step i is T-1-e and "age n" is the same: the output reused at e was computed at e-n. */
#ifndef FV_SODA_H
#define FV_SODA_H

#include "internal.h"

/* ---- sens.c: sensitivity tables ------------------------------------------------------------- */

#define FVI_SENS_MAX_EVALS 2048
#define FVI_SENS_MAX_WINDOW 64
#define FVI_SENS_PRUNE_AGES 3
#define FVI_SENS_STEP_KINDS 3 /* dit_skip */
#define FVI_SENS_STEP_WEIGHTS 2

/* Arrays that are NULL are not known: not measured, or not in the file. */
struct fv_sens {
    fv_ctx *ctx;
    char arch[32];
    uint8_t hash[32];
    fv_sampler sampler;
    int steps, evals, depth, window; /* window: largest age in the table */
    int cfg_channels, draws;
    float cfg, eta;
    uint64_t seed;
    fv_dtype precision;
    bool measured;    /* omega comes from final pictures; else it is 1 and errors are relative */
    double runs;      /* exact picture runs that the calibration took, 0 = not known */
    double *net_time; /* [evals] what the network received */
    uint8_t *guided;  /* [evals] rows: 1 = conditional and null, 0 = conditional only */
    double *gram;     /* [depth*2][evals][window+1] mean of <F_e, F_(e-n)> / size, 0 = not known */
    float *gate;      /* [depth*2][evals] mean squared gate */
    float *omega;     /* [evals] terminal weight */
    double *step_gram;   /* [FVI_SENS_STEP_KINDS][evals][window+1] of what a skip forecasts */
    float *step_omega;   /* [FVI_SENS_STEP_WEIGHTS][evals] of the output, of the hidden state */
    float *pruned;       /* [depth][evals][DIT_PRUNED][FVI_SENS_PRUNE_AGES] */
    float *prune_cosine; /* the same shape */
};

/* May evaluation e reuse what e-n computed? Not across a change of the number of rows. */
bool fvi_sens_known(const fv_sens *s, int e, int n);
/* Mean of <F_e, F_(e-n)> / size of module k = 2l+m, n = 0..window; NAN outside the band. Of use
 * where n = 0 or fvi_sens_known(s, e, n). */
double fvi_sens_gram(const fv_sens *s, int k, int e, int n);
/* The same of what a skipped evaluation forecasts; NAN also where the table has no such band. */
double fvi_sens_step_gram(const fv_sens *s, dit_skip kind, int e, int n);
/* Mean squared gate on module k at e. */
double fvi_sens_gate(const fv_sens *s, int k, int e);
/* Mean squared difference of the outputs of module k = 2l+m at e and e-n, from the Gram band. */
double fvi_sens_distance(const fv_sens *s, int k, int e, int n);
/* What reusing age n in module k at e adds to the error of the final picture. */
double fvi_sens_error(const fv_sens *s, int k, int e, int n);
/* Error of SODA's paper: 1 - cosine. */
double fvi_sens_cosine(const fv_sens *s, int k, int e, int n);
/* Final squared error for each unit of mean squared error in what a skip forecasts at e; NAN
 * where the table does not have it. */
double fvi_sens_omega_step(const fv_sens *s, dit_skip kind, int e);
double fvi_sens_omega_out(const fv_sens *s, int e);
/* MLP l at e, of which the tokens of size 0..DIT_PRUNED-1 that the score DIT_SCORE_MEAN of the
 * output at e-n chooses are computed and the rest reused: the share of the squared reuse error
 * that remains, 0..1, and the mean over pictures of 1 - cos(mixed, exact). Ages beyond
 * FVI_SENS_PRUNE_AGES as that; 1 where it could not be measured; NAN without the table. */
double fvi_sens_pruned(const fv_sens *s, int l, int e, int size, int n);
double fvi_sens_prune_cosine(const fv_sens *s, int l, int e, int size, int n);
/* File image, owned by the caller. */
fv_status fvi_sens_encode(fv_ctx *ctx, const fv_sens *s, uint8_t **bytes, size_t *size);
/* An empty table of these sizes (tests), without the optional arrays; free with fv_sens_free. */
fv_status fvi_sens_create(fv_ctx *ctx, fv_sens **out, int evals, int depth, int window);
/* accel_prior.c: a table for a model that has none, from the schedule and depth alone; it belongs
 * to no model, so fv_sens_match refuses it. */
fv_status fvi_sens_prior(fv_ctx *ctx, fv_sens **out, const dit_schedule *s, int depth);
/* One of the optional arrays of a table, zeroed, if it is not there yet. */
fv_status fvi_sens_add_steps(fv_sens *s);
fv_status fvi_sens_add_weights(fv_sens *s);
fv_status fvi_sens_add_pruned(fv_sens *s);

/* ---- anchor_dp.c: where the full steps go --------------------------------------------------- */

#define FVI_DP_MAX_GAP 30

/* Gap g between anchors a and a+g leaves g-1 evaluations that reuse ages 1..g-1. The last anchor's
 * gap reaches to T. */
typedef struct fvi_dp {
    int T, max_gap;
    uint32_t gaps;   /* bit g: gap g is allowed between anchors; the last may be any 1..max_gap */
    bool force_last; /* evaluation T-1 is an anchor */
    const double *cost; /* [T][max_gap]: all of e reused at age n; INFINITY = not allowed */
} fvi_dp;

/* Table of the optimal suffixes, kept so that a guard may insert an anchor and go on optimally:
 * value[k*T + a] = least cost from anchor a to the end with k anchors (a included), INFINITY if
 * there is none; step[k*T + a] = gap to the next anchor, ties to the larger gap. Rows k = 0..most.
 */
typedef struct fvi_dp_table {
    int T, most;
    double *value;
    uint8_t *step;
} fvi_dp_table;

fv_status fvi_dp_solve(fv_ctx *ctx, const fvi_dp *p, int most, fvi_dp_table *out);
void fvi_dp_free(fv_ctx *ctx, fvi_dp_table *t);
/* The k anchors from evaluation 0, ascending; FV_ERR_ARG names the feasible numbers. */
fv_status fvi_dp_path(fv_ctx *ctx, const fvi_dp_table *t, int k, int *at);
/* Smallest and largest k that is feasible; false if none. */
bool fvi_dp_range(const fvi_dp_table *t, int *least, int *most);
/* Cost of reusing the evaluations between anchor a and b (b = T: to the end). */
double fvi_dp_segment(const fvi_dp *p, int a, int b);
/* Cost of any anchor list that starts with 0; gaps beyond max_gap cost INFINITY. */
double fvi_dp_cost(const fvi_dp *p, const int *at, int k);
/* Constant interval, restarted at forced anchors (must [T] or NULL); returns the number of anchors.
 */
int fvi_dp_fixed(int T, int interval, const uint8_t *must, int *at);

/* ---- accel.c, accel_time.c, accel_file.c: plans, times, texts ------------------------------- */

struct fv_timing {
    fv_ctx *ctx;
    uint8_t hash[32];
    int depth, batch, threads;
    fv_dtype precision;
    double attn[2], mlp[2], reuse[2], ends[2]; /* seconds a call; [1]: conditional and null rows */
    double linear[2], prune[2][DIT_PRUNED], skip[2]; /* a module's forecast from three outputs, an
                                         MLP of fewer tokens, a skipped evaluation */
    double step, cond, setup, decode; /* guidance and sampler update; modulations of a run; making
                                         the plans of a call; decoding one picture */
    double correction; /* measured / predicted speed-up, 1 until a run corrected it */
};

/* One wall-clock ratio exact / plan; tests script it. */
typedef fv_status (*fvi_measure_fn)(void *user, const fv_accel *plan, double *ratio);
/* fv_accel_solve with its clock replaced. */
fv_status fvi_accel_solve(fv_ctx *ctx, fv_accel **out, const fv_dit *d,
                          const fv_generate_options *o, const fv_sens *sens, fv_timing *timing,
                          const fv_accel_options *a, fvi_measure_fn measure, void *user,
                          double *measured);
/* Seconds that `timing` predicts for a plan of `o` (NULL = exact), uncorrected. */
fv_status fvi_accel_seconds(fv_ctx *ctx, const fv_dit *d, const fv_generate_options *o,
                            const fv_timing *timing, const fv_accel *plan, double *seconds);
/* Error that `sens` predicts for a plan; NULL: what it was planned by, prior or uniform model. */
fv_status fvi_accel_error(fv_ctx *ctx, const fv_dit *d, const fv_generate_options *o,
                          const fv_sens *sens, const fv_accel *plan, double *error);
/* Of n >= 1 values, which are sorted in place. */
double fvi_median(double *v, int n);
/* A plan with everything FULL; the caller sets actions and calls fvi_accel_count. */
fv_status fvi_accel_create(fv_ctx *ctx, fv_accel **out, int evals, int depth);
void fvi_accel_count(fv_accel *a);
/* What is done where, between plans of one size; not what they were made for. */
void fvi_accel_copy(fv_accel *to, const fv_accel *from);
/* .fvplan text. */
fv_status fvi_accel_parse(fv_ctx *ctx, fv_accel **out, const char *text, size_t size);
fv_status fvi_accel_text(fv_ctx *ctx, const fv_accel *a, char **text, size_t *size);

#endif
