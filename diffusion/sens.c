/* sens.c - the sensitivity table: what it says about a module, a skipped evaluation, pruned tokens.
 *
 * For every module (l, m) a band of Gram values is kept,
 *     G(e, n) = mean over draws of <F_e, F_(e-n)> / size,   n = 0..window,
 * F being the un-gated module output over all rows and tokens. From it follow, without another run,
 *     the paper's error        1 - G(e,n) / sqrt(G(e,0) G(e-n,0))
 *     the squared error        G(e,0) - 2 G(e,n) + G(e-n,0)
 * and that of every linear forecast  sum of w_a F_(e-a):
 *     G(e,0) - 2 sum of w_a G(e,a) + sum of w_a w_b <F_(e-a), F_(e-b)>,
 * as long as the oldest output is at most `window` evaluations back. All of these are small
 * differences of nearly equal numbers, so the band is f64.
 *
 * sens_calibrate.c and its neighbours fill a table, sens_file.c keeps it. */
#include "soda.h"

#include <math.h>

static size_t band_size(const fv_sens *s)
{
    return (size_t)s->evals * (size_t)(s->window + 1);
}

static size_t pruned_size(const fv_sens *s)
{
    return (size_t)s->depth * (size_t)s->evals * DIT_PRUNED * FVI_SENS_PRUNE_AGES;
}

fv_status fvi_sens_create(fv_ctx *ctx, fv_sens **out, int evals, int depth, int window)
{
    const size_t T = (size_t)evals, K = 2 * (size_t)depth;
    fv_sens *s = fv_calloc(ctx, 1, sizeof *s);
    *out = NULL;
    if (!s) return FV_ERR_OOM;
    s->ctx = ctx;
    s->evals = evals;
    s->depth = depth;
    s->window = window;
    s->net_time = fv_calloc(ctx, T, sizeof *s->net_time);
    s->guided = fv_calloc(ctx, T, 1);
    s->gram = fv_calloc(ctx, K * band_size(s), sizeof *s->gram);
    s->gate = fv_calloc(ctx, K * T, sizeof *s->gate);
    s->omega = fv_calloc(ctx, T, sizeof *s->omega);
    if (!s->net_time || !s->guided || !s->gram || !s->gate || !s->omega) {
        fv_sens_free(&s);
        return FV_ERR_OOM;
    }
    for (size_t i = 0; i < T; i++) s->omega[i] = 1.0f;
    for (size_t i = 0; i < K * T; i++) s->gate[i] = 1.0f;
    *out = s;
    return FV_OK;
}

void fv_sens_free(fv_sens **ss)
{
    if (!ss || !*ss) return;
    fv_sens *s = *ss;
    *ss = NULL;
    void *mem[] = { s->net_time,  s->guided,     s->gram,   s->gate,        s->omega,
                    s->step_gram, s->step_omega, s->pruned, s->prune_cosine };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(s->ctx, mem[i]);
    fv_free(s->ctx, s);
}

fv_status fvi_sens_add_steps(fv_sens *s)
{
    if (!s->step_gram)
        s->step_gram =
            fv_calloc(s->ctx, FVI_SENS_STEP_KINDS * band_size(s), sizeof *s->step_gram);
    return s->step_gram ? FV_OK : FV_ERR_OOM;
}

fv_status fvi_sens_add_weights(fv_sens *s)
{
    const size_t n = FVI_SENS_STEP_WEIGHTS * (size_t)s->evals;
    if (!s->step_omega) s->step_omega = fv_calloc(s->ctx, n, sizeof *s->step_omega);
    return s->step_omega ? FV_OK : FV_ERR_OOM;
}

fv_status fvi_sens_add_pruned(fv_sens *s)
{
    const size_t n = pruned_size(s);
    if (!s->pruned) s->pruned = fv_calloc(s->ctx, n, sizeof *s->pruned);
    if (!s->prune_cosine) s->prune_cosine = fv_calloc(s->ctx, n, sizeof *s->prune_cosine);
    return s->pruned && s->prune_cosine ? FV_OK : FV_ERR_OOM;
}

/* ---- Modules -------------------------------------------------------------------------------- */

bool fvi_sens_known(const fv_sens *s, int e, int n)
{
    if (n < 1 || n > s->window || e - n < 0) return false;
    for (int i = e - n; i < e; i++)
        if (s->guided[i] != s->guided[e]) return false;
    return true;
}

static double band(const fv_sens *s, const double *gram, int k, int e, int n)
{
    if (n < 0 || n > s->window || e - n < 0) return NAN;
    return gram[((size_t)k * (size_t)s->evals + (size_t)e) * (size_t)(s->window + 1) + (size_t)n];
}

double fvi_sens_gram(const fv_sens *s, int k, int e, int n)
{
    return band(s, s->gram, k, e, n);
}

double fvi_sens_gate(const fv_sens *s, int k, int e)
{
    return (double)s->gate[(size_t)k * (size_t)s->evals + (size_t)e];
}

double fvi_sens_distance(const fv_sens *s, int k, int e, int n)
{
    const double d = fvi_sens_gram(s, k, e, 0) - 2.0 * fvi_sens_gram(s, k, e, n) +
                     fvi_sens_gram(s, k, e - n, 0);
    return d > 0 ? d : 0;
}

double fvi_sens_error(const fv_sens *s, int k, int e, int n)
{
    const double self = fvi_sens_gram(s, k, e, 0), d = fvi_sens_distance(s, k, e, n);
    if (s->measured) return (double)s->omega[e] * fvi_sens_gate(s, k, e) * d;
    return self > 0 ? (double)s->omega[e] * d / self : 0;
}

double fvi_sens_cosine(const fv_sens *s, int k, int e, int n)
{
    const double norm = sqrt(fvi_sens_gram(s, k, e, 0) * fvi_sens_gram(s, k, e - n, 0));
    const double c = 1.0 - fvi_sens_gram(s, k, e, n) / (norm + 1e-8);
    return c > 0 ? c : 0;
}

/* ---- Skipped evaluations -------------------------------------------------------------------- */

double fvi_sens_step_gram(const fv_sens *s, dit_skip kind, int e, int n)
{
    return s->step_gram ? band(s, s->step_gram, (int)kind, e, n) : NAN;
}

/* An error of the residual is the same error of the hidden state: the embedding is exact. */
double fvi_sens_omega_step(const fv_sens *s, dit_skip kind, int e)
{
    const size_t row = kind == DIT_SKIP_OUTPUT ? 0 : 1;
    return s->step_omega ? (double)s->step_omega[row * (size_t)s->evals + (size_t)e] : (double)NAN;
}

double fvi_sens_omega_out(const fv_sens *s, int e)
{
    return fvi_sens_omega_step(s, DIT_SKIP_OUTPUT, e);
}

/* ---- Pruned tokens -------------------------------------------------------------------------- */

static double of_pruned(const fv_sens *s, const float *v, int l, int e, int size, int n)
{
    if (!v || n < 1 || e - n < 0 || size < 0 || size >= DIT_PRUNED) return NAN;
    if (n > FVI_SENS_PRUNE_AGES) n = FVI_SENS_PRUNE_AGES;
    const size_t row = (size_t)l * (size_t)s->evals + (size_t)e;
    return (double)v[(row * DIT_PRUNED + (size_t)size) * FVI_SENS_PRUNE_AGES + (size_t)(n - 1)];
}

double fvi_sens_pruned(const fv_sens *s, int l, int e, int size, int n)
{
    return of_pruned(s, s->pruned, l, e, size, n);
}

double fvi_sens_prune_cosine(const fv_sens *s, int l, int e, int size, int n)
{
    return of_pruned(s, s->prune_cosine, l, e, size, n);
}
