/* accel_prior.c - a sensitivity table for models that have none: what tables of others agree on.
 *
 * The outputs of a module at evaluations a and b, of unit size, are taken to have the product
 *     exp(-|s(a) - s(b)|^POWER / 2)
 * in a time s that runs fast where outputs change fast. With POWER below 2 paths are a little rough
 * at every scale, so that a line through two values errs 0.3 times as much as reuse and its weights
 * are about (1.8, -0.8) instead of (2, -1): as measured, where polynomials through all of their
 * values believe too much. In the position u, 0 = noise, 1 = data,
 *     ds/du = start / (u + START_WIDTH) + end / (1 - u) + steady,
 * like the logarithm of the signal-to-noise ratio at both ends. For rectified flow the constants
 * are fitted to both shipped tables (f64c, f32; 50 steps of Euler), whose models differ by less
 * than a factor of 2 from them; for noise prediction to the errors published for DiT-XL/2 by CEM
 * (arXiv 2512.23258), which are flat but for the last steps.
 *
 * Effects on the picture: large at the start, where its layout is decided, and for networks that
 * predict the picture large at the end, where an update goes a share of (step / what is left of u)
 * of the way. All modules count alike, and skipping the output errs SKIP times as much as
 * forecasting all modules does. The absolute size is not known and not needed. */
#include "soda.h"

#include <math.h>

#define WINDOW 20
#define POWER 1.88
#define START_WIDTH 0.015
#define STEADY 1.0
#define START_EFFECT 16.0 /* over that of the middle, falling by e in START_REACH */
#define START_REACH 0.1
#define END_EFFECT 0.006
#define SKIP 2.0

typedef struct speeds {
    double start, end;
} speeds;
static const speeds flow = { 0.5, 0.22 }, noise = { 0.0, 0.45 };

/* Evaluations come as steps of a grid: not nearer to the end than half of one. */
static double left_of(double u, int evals)
{
    return fmax(1 - u, 0.5 / evals);
}

/* The integral of ds/du. */
static double warped(const speeds *v, double u, int evals)
{
    return v->start * log(u + START_WIDTH) - v->end * log(left_of(u, evals)) + STEADY * u;
}

static double effect(const dit_schedule *s, double u)
{
    const double left = left_of(u, s->evals);
    return 1 + START_EFFECT * exp(-u / START_REACH) + (s->flow ? END_EFFECT / (left * left) : 0);
}

static void fill_bands(fv_sens *t, const double *time)
{
    const size_t row = (size_t)t->window + 1, T = (size_t)t->evals;
    for (int e = 0; e < t->evals; e++)
        for (int n = 0; n <= t->window && n <= e; n++) {
            const double g = exp(-0.5 * pow(fabs(time[e] - time[e - n]), POWER));
            const size_t i = (size_t)e * row + (size_t)n;
            for (size_t k = 0; k < 2 * (size_t)t->depth; k++) t->gram[k * T * row + i] = g;
            for (size_t k = 0; k < FVI_SENS_STEP_KINDS; k++) t->step_gram[k * T * row + i] = g;
        }
}

fv_status fvi_sens_prior(fv_ctx *ctx, fv_sens **out, const dit_schedule *s, int depth)
{
    fv_sens *t = NULL;
    double *time = fv_calloc(ctx, (size_t)s->evals, sizeof *time);
    *out = NULL;
    fv_status st = time ? fvi_sens_create(ctx, &t, s->evals, depth, WINDOW) : FV_ERR_OOM;
    if (st == FV_OK) st = fvi_sens_add_steps(t);
    if (st == FV_OK) st = fvi_sens_add_weights(t);
    for (int e = 0; st == FV_OK && e < s->evals; e++) {
        const double w = effect(s, s->u[e]);
        time[e] = warped(s->flow ? &flow : &noise, s->u[e], s->evals);
        t->guided[e] = dit_schedule_guided(s, e) != 0;
        t->omega[e] = (float)w;
        t->step_omega[e] = (float)(SKIP * 2 * depth * w);
        t->step_omega[s->evals + e] = NAN; /* of the hidden state: not known */
    }
    if (st == FV_OK) fill_bands(t, time);
    fv_free(ctx, time);
    if (st == FV_OK)
        *out = t;
    else
        fv_sens_free(&t);
    return st;
}
