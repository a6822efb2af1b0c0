/* sens_weights.c - calibration, second pass: terminal weights.
 *
 * Feature errors do not say how much a step matters for the picture, so that is measured: for
 * evaluation e and age n in {1, 2, 4}, e alone reuses age n in all modules, the rest is exact, and
 *     omega_e = median over n of  MSE(final picture) / sum over (l,m) of gate^2 * squared error.
 * The squared gate is ours: a module's output reaches the residual stream through it, and without
 * it modules of nearly closed gates would look as important as the others. The same runs change the
 * network's output and the hidden state before the final layer at e; the MSE over the mean square
 * of these changes is the weight of what a skipped evaluation forecasts.
 *
 * Runs restart from the stored state before e. Between measured evaluations the logarithm of a
 * weight is interpolated. Everything that is needed to go on at (draw, e) follows from running the
 * draw again, so a checkpoint has only sums. */
#include "sens_calibrate.h"

#include <math.h>
#include <string.h>

#define SLOTS 5 /* ages up to 4 and the present */

static const int age_of[FVI_CAL_AGES] = { 1, 2, 4 };

typedef struct weighing {
    fvi_calibration *c;
    uint8_t *ring;                        /* outputs of the last evaluations */
    float *final, *x, *work, *x0, *work0; /* exact end; exact state now; the state before e */
    float *out, *hidden;                  /* of e, exact */
    uint8_t *reuse;                       /* one row of REUSE actions */
    double damage[FVI_CAL_AGES], out_change[FVI_CAL_AGES], hidden_change[FVI_CAL_AGES]; /* of e */
} weighing;

bool fvi_cal_weighs(const fvi_calibration *c, int e)
{
    return e % c->weight_every == 0 || e == c->sens->evals - 1;
}

static uint8_t *ring_slot(const weighing *w, int e, int k)
{
    const fvi_calibration *c = w->c;
    const size_t slot = dit_runner_feature_bytes(c->walk.runner, 2 * c->walk.B);
    return w->ring + ((size_t)(e % SLOTS) * (size_t)c->modules + (size_t)k) * slot;
}

static size_t out_values(const fvi_calibration *c, int rows)
{
    const dit_config *cfg = &c->dit->net.cfg;
    return (size_t)rows * (size_t)cfg->input_size * (size_t)cfg->input_size *
           (size_t)cfg->out_channels;
}

static size_t hidden_values(const fvi_calibration *c, int rows)
{
    return (size_t)rows * (size_t)c->tokens * (size_t)c->dit->net.cfg.width;
}

static void put_state(dit_walk *w, const float *x, const float *work)
{
    const size_t n = (size_t)w->B * (size_t)w->n * sizeof(float);
    memcpy(w->x, x, n);
    memcpy(w->work, work, 2 * n);
}

static void get_state(const dit_walk *w, float *x, float *work)
{
    const size_t n = (size_t)w->B * (size_t)w->n * sizeof(float);
    memcpy(x, w->x, n);
    memcpy(work, w->work, 2 * n);
}

static double mean_square_gap(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return sum / (double)n;
}

/* ---- Runs ----------------------------------------------------------------------------------- */

/* From the state before e: reuse an age everywhere at e, exact from there. */
static fv_status branch(weighing *w, int e, int which)
{
    fvi_calibration *c = w->c;
    const int needed = fvi_cal_rows(c, e);
    const dit_row row = { .action = w->reuse };
    const float *out;
    int rows;
    put_state(&c->walk, w->x0, w->work0);
    for (int k = 0; k < c->modules; k++)
        FV_TRY(dit_runner_set_feature(c->walk.runner, k / 2, k % 2,
                                      ring_slot(w, e - age_of[which], k), needed));
    FV_TRY(dit_runner_eval(c->walk.runner, e, c->walk.x, &row, &out, &rows));
    w->out_change[which] = mean_square_gap(out, w->out, out_values(c, rows));
    w->hidden_change[which] = mean_square_gap(dit_runner_hidden(c->walk.runner, NULL), w->hidden,
                                              hidden_values(c, rows));
    dit_walk_update(&c->walk, e, out, rows);
    FV_TRY(fvi_cal_progress(c, c->walk.B));
    for (int i = e + 1; i < c->sens->evals; i++) {
        FV_TRY(dit_walk_advance(&c->walk, i, NULL));
        FV_TRY(fvi_cal_progress(c, c->walk.B));
    }
    w->damage[which] =
        mean_square_gap(c->walk.x, w->final, (size_t)c->walk.B * (size_t)c->walk.n);
    return FV_OK;
}

/* The exact evaluation e, of which output, hidden state and module outputs are kept. */
static fv_status advance(weighing *w, int e)
{
    fvi_calibration *c = w->c;
    const size_t n = (size_t)c->walk.B * (size_t)c->walk.n * sizeof(float);
    const float *out;
    fv_dtype type;
    int rows;
    put_state(&c->walk, w->x, w->work);
    memcpy(w->x0, w->x, n);
    memcpy(w->work0, w->work, 2 * n);
    FV_TRY(dit_runner_eval(c->walk.runner, e, c->walk.x, NULL, &out, &rows));
    memcpy(w->out, out, out_values(c, rows) * sizeof(float));
    memcpy(w->hidden, dit_runner_hidden(c->walk.runner, NULL),
           hidden_values(c, rows) * sizeof(float));
    dit_walk_update(&c->walk, e, out, rows);
    get_state(&c->walk, w->x, w->work);
    const size_t bytes = dit_runner_feature_bytes(c->walk.runner, rows);
    for (int k = 0; k < c->modules; k++)
        memcpy(ring_slot(w, e, k), dit_runner_feature(c->walk.runner, k / 2, k % 2, &type), bytes);
    return fvi_cal_progress(c, c->walk.B);
}

/* All branches of e, added to the sums when they are complete. */
static fv_status weigh_step(weighing *w, int e)
{
    fvi_calibration *c = w->c;
    const double share = (double)c->walk.B / c->weight_draws;
    memset(w->damage, 0, sizeof w->damage);
    memset(w->out_change, 0, sizeof w->out_change);
    memset(w->hidden_change, 0, sizeof w->hidden_change);
    for (int i = 0; i < FVI_CAL_AGES; i++)
        if (fvi_sens_known(c->sens, e, age_of[i])) FV_TRY(branch(w, e, i));
    for (int i = 0; i < FVI_CAL_AGES; i++) {
        c->sums.damage[e * FVI_CAL_AGES + i] += share * w->damage[i];
        c->sums.out_change[e * FVI_CAL_AGES + i] += share * w->out_change[i];
        c->sums.hidden_change[e * FVI_CAL_AGES + i] += share * w->hidden_change[i];
    }
    c->weight_step = e + 1;
    return fvi_cal_save_sometimes(c);
}

/* Steps before c->weight_step were weighed in an earlier run. */
static fv_status weigh_draw(weighing *w)
{
    fvi_calibration *c = w->c;
    const int T = c->sens->evals, B = c->walk.B;
    FV_TRY(fvi_cal_start_walk(c, c->weight_draw));
    get_state(&c->walk, w->x, w->work);
    for (int e = 0; e < T; e++) {
        FV_TRY(dit_walk_advance(&c->walk, e, NULL));
        FV_TRY(fvi_cal_progress(c, B));
    }
    memcpy(w->final, c->walk.x, (size_t)B * (size_t)c->walk.n * sizeof(float));
    for (int e = 0; e < T; e++) {
        FV_TRY(advance(w, e));
        if (e >= c->weight_step && fvi_cal_weighs(c, e)) FV_TRY(weigh_step(w, e));
    }
    c->weight_draw += B;
    c->weight_step = 0;
    return FV_OK;
}

static fv_status run_draws(weighing *w)
{
    fvi_calibration *c = w->c;
    const dit_runner_options ro = { .B = c->weight_batch, .keep_outputs = true };
    FV_TRY(fvi_cal_open_walk(c, &ro));
    const int B = c->walk.B;
    const size_t n = (size_t)B * (size_t)c->walk.n;
    w->ring = fv_alloc(c->ctx, SLOTS * (size_t)c->modules *
                                   dit_runner_feature_bytes(c->walk.runner, 2 * B));
    w->final = fv_calloc(c->ctx, n, sizeof(float));
    w->x = fv_calloc(c->ctx, n, sizeof(float));
    w->x0 = fv_calloc(c->ctx, n, sizeof(float));
    w->work = fv_calloc(c->ctx, 2 * n, sizeof(float));
    w->work0 = fv_calloc(c->ctx, 2 * n, sizeof(float));
    w->out = fv_calloc(c->ctx, out_values(c, 2 * B), sizeof(float));
    w->hidden = fv_calloc(c->ctx, hidden_values(c, 2 * B), sizeof(float));
    w->reuse = fv_calloc(c->ctx, (size_t)c->modules, 1);
    if (!w->ring || !w->final || !w->x || !w->x0 || !w->work || !w->work0 || !w->out ||
        !w->hidden || !w->reuse)
        return FV_ERR_OOM;
    memset(w->reuse, DIT_REUSE, (size_t)c->modules);
    while (c->weight_draw < c->weight_draws) FV_TRY(weigh_draw(w));
    return FV_OK;
}

/* ---- From sums to weights ------------------------------------------------------------------- */

/* Sum over the modules of gate^2 * squared error of reusing this age at e. */
static double module_error(const fv_sens *s, int e, int age)
{
    double sum = 0;
    for (int k = 0; k < 2 * s->depth; k++)
        sum += fvi_sens_gate(s, k, e) * fvi_sens_distance(s, k, e, age);
    return sum;
}

/* Median over the ages of damage / error at e; error NULL: that of the modules. 0 where nothing
 * could be measured. */
static double weight_of(const fvi_calibration *c, int e, const double *error)
{
    double ratio[FVI_CAL_AGES];
    int n = 0;
    for (int i = 0; fvi_cal_weighs(c, e) && i < FVI_CAL_AGES; i++) {
        if (!fvi_sens_known(c->sens, e, age_of[i])) continue;
        const double damage = c->sums.damage[e * FVI_CAL_AGES + i];
        const double v =
            error ? error[e * FVI_CAL_AGES + i] : module_error(c->sens, e, age_of[i]);
        if (v > 0 && isfinite(v) && damage > 0 && isfinite(damage))
            ratio[n++] = fmin(damage / v, 1e30);
    }
    return n ? fvi_median(ratio, n) : 0;
}

/* Logarithmic interpolation between measured neighbours; constant beyond the outermost. False, and
 * nothing is written, if nothing was measured. */
static bool interpolate(const double *v, int T, float *omega)
{
    int before = -1;
    for (int e = 0; e < T; e++) {
        int after = e;
        if (v[e] > 0) before = e;
        while (after < T && !(v[after] > 0)) after++;
        if (before < 0 && after == T) return false;
        if (before < 0)
            omega[e] = (float)v[after];
        else if (after == T || after == before)
            omega[e] = (float)v[before];
        else
            omega[e] = (float)exp(log(v[before]) + (log(v[after]) - log(v[before])) * (e - before) /
                                                       (after - before));
    }
    return true;
}

static fv_status put_weights(const fvi_calibration *c)
{
    const double *error[1 + FVI_SENS_STEP_WEIGHTS] = { NULL, c->sums.out_change,
                                                       c->sums.hidden_change };
    const int T = c->sens->evals;
    double *v = fv_calloc(c->ctx, (size_t)T, sizeof *v);
    fv_status s = v ? fvi_sens_add_weights(c->sens) : FV_ERR_OOM;
    bool is_measured = true;
    for (int i = 0; s == FV_OK && is_measured && i <= FVI_SENS_STEP_WEIGHTS; i++) {
        float *to = i ? c->sens->step_omega + (size_t)(i - 1) * (size_t)T : c->sens->omega;
        for (int e = 0; e < T; e++) v[e] = weight_of(c, e, error[i]);
        is_measured = interpolate(v, T, to);
        if (i == 0) c->sens->measured = is_measured;
    }
    if (!is_measured) { /* a table without them says so */
        fv_free(c->ctx, c->sens->step_omega);
        c->sens->step_omega = NULL;
    }
    fv_free(c->ctx, v);
    return s;
}

int fvi_cal_weight_batch(const fvi_calibration *c)
{
    return fvi_cal_batch(c, c->weight_draws, SLOTS, c->modules,
                         c->dit->precision == FV_F32 ? 4 : 2);
}

double fvi_cal_branch_cost(const fvi_calibration *c, int steps)
{
    const fv_sens *s = c->sens;
    double evals = 0;
    for (int e = 0; e < steps; e++)
        for (int i = 0; fvi_cal_weighs(c, e) && i < FVI_CAL_AGES; i++)
            if (fvi_sens_known(s, e, age_of[i])) evals += s->evals - e;
    return evals * c->weight_draws;
}

double fvi_cal_weight_cost(const fvi_calibration *c)
{
    const int T = c->sens->evals;
    return 2.0 * T * c->weight_draws + fvi_cal_branch_cost(c, T);
}

fv_status fvi_cal_weights(fvi_calibration *c)
{
    weighing w = { .c = c };
    fv_status s = FV_OK;
    if (!c->weight_draws) return FV_OK;
    if (c->weight_draw < c->weight_draws) s = run_draws(&w);
    void *mem[] = { w.ring, w.final, w.x, w.work, w.x0, w.work0, w.out, w.hidden, w.reuse };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(c->ctx, mem[i]);
    return s == FV_OK ? put_weights(c) : s;
}
