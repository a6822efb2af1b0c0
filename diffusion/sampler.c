/* sampler.c - schedules and state updates of the samplers; pure arithmetic, no network.
 *
 * One evaluation e (0 = the noisiest, executed first) is one network call: net_time[e] goes in, and
 * dit_schedule_step moves the state. Schedules are float64; coefficients are cast to f32 where they
 * meet the f32 state, as the reference code does. Loops are element by element, so results do not
 * depend on threads.
 *
 * Diffusion (official DiT), abar = cumprod(1 - linspace(1e-4, 0.02, 1000)), kept timesteps tau_i,
 * a = abar(tau_i), p = abar(tau_{i-1}) (1 at the last step), beta = 1 - a/p:
 *
 *     DDPM      Nichol & Dhariwal 2021, learned range: log variance = f log beta + (1-f) log
 *               posterior, f = (v+1)/2
 *     DDIM      Song et al. 2021, eq. 12 with eta
 *     DPM++2M   Lu et al. 2022, algorithm 2 (midpoint form), sigma_n = 0: the last step is x0
 *
 * Rectified flow (F family), z_t = t x + (1-t) noise, the network predicts x:
 * v = (xhat - z) / max(1-t, 0.05); Euler, or Heun with the last step Euler.
 *
 * Meaning of coef[e * DIT_COEF + k], k = 0..:
 *
 *     DDPM      sqrt(1/a), sqrt(1/a - 1), factor of x0, factor of x, log beta, log posterior,
 *               noise 0/1
 *     DDIM      sqrt(1/a), sqrt(1/a - 1), sqrt(p), sqrt(1 - p - sigma^2), sigma
 *     DPM++2M   s_j, alpha_j, s_{j+1}/s_j, alpha_{j+1} (e^-h - 1), 1/(2r) (0 at the first step),
 *               last 0/1
 *     flow      max(1-t, 0.05), dt, stage (Euler, Heun's predictor, Heun's corrector) */
#include "internal.h"
#include "sampler_body.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#define MAX_STEPS 1000

static const char *const sampler_name[] = {"auto", "ddpm", "ddim", "dpmpp2m", "euler", "heun"};

const char *fv_sampler_name(fv_sampler s)
{
    return (size_t)s < FV_ARRAY_LEN(sampler_name) ? sampler_name[s] : NULL;
}

fv_sampler fv_sampler_find(const char *name)
{
    for (size_t i = 1; name && i < FV_ARRAY_LEN(sampler_name); i++)
        if (strcasecmp(name, sampler_name[i]) == 0) return (fv_sampler)i;
    return FV_SAMPLER_AUTO;
}

/* ---- Step lists ----------------------------------------------------------------------------- */

/* The position is accumulated, not multiplied, and rounded half to even: the official list depends
 * on both. One step keeps timestep 0, as there. */
void dit_respace(int steps, int *timesteps)
{
    const double stride = steps > 1 ? (DIT_TIMESTEPS - 1) / (double)(steps - 1) : 1.0;
    double at = 0.0;
    for (int i = 0; i < steps; i++) {
        timesteps[i] = (int)rint(at);
        at += stride;
    }
}

void dit_alpha_bars(double abar[DIT_TIMESTEPS])
{
    const double step = (0.02 - 1e-4) / (DIT_TIMESTEPS - 1);
    double product = 1.0;
    for (int i = 0; i < DIT_TIMESTEPS; i++) {
        product *= 1.0 - (i == DIT_TIMESTEPS - 1 ? 0.02 : 1e-4 + i * step);
        abar[i] = product;
    }
}

static void set_diffusion_time(dit_schedule *s, int e, int timestep)
{
    s->net_time[e] = timestep;
    s->u[e] = 1.0 - timestep / (double)DIT_TIMESTEPS;
}

/* Posterior log variance of step i; step 0 has variance 0 and borrows the value of step 1. */
double dit_log_posterior(const double *a, int i)
{
    if (i == 0) i = 1;
    const double beta = 1.0 - a[i] / a[i - 1];
    return log(beta * (1.0 - a[i - 1]) / (1.0 - a[i]));
}

static void ancestral_coefs(dit_schedule *s, const int *tau, const double *a)
{
    for (int e = 0; e < s->evals; e++) {
        const int i = s->steps - 1 - e;
        const double prev = i > 0 ? a[i - 1] : 1.0, beta = 1.0 - a[i] / prev;
        double *c = s->coef + (size_t)e * DIT_COEF;
        set_diffusion_time(s, e, tau[i]);
        c[0] = sqrt(1.0 / a[i]);
        c[1] = sqrt(1.0 / a[i] - 1.0);
        if (s->kind == FV_SAMPLER_DDPM) {
            c[2] = beta * sqrt(prev) / (1.0 - a[i]);
            c[3] = (1.0 - prev) * sqrt(1.0 - beta) / (1.0 - a[i]);
            c[4] = log(beta);
            c[5] = dit_log_posterior(a, i);
            c[6] = i > 0;
        } else {
            const double sigma =
                s->eta * sqrt((1.0 - prev) / (1.0 - a[i])) * sqrt(1.0 - a[i] / prev);
            c[2] = sqrt(prev);
            c[3] = sqrt(fmax(1.0 - prev - sigma * sigma, 0.0));
            c[4] = sigma;
        }
    }
}

static void dpmpp_coefs(dit_schedule *s, const double *abar)
{
    const int n = s->steps;
    double last_lambda = 0.0;
    for (int j = 0; j < n; j++) {
        double *c = s->coef + (size_t)j * DIT_COEF;
        const int t = (int)rint((n - j) * ((DIT_TIMESTEPS - 1) / (double)n));
        const int t_next = (int)rint((n - j - 1) * ((DIT_TIMESTEPS - 1) / (double)n));
        const double sigma = sqrt((1.0 - abar[t]) / abar[t]),
                     alpha = 1.0 / sqrt(1.0 + sigma * sigma);
        const double lambda = -log(sigma);
        set_diffusion_time(s, j, t);
        c[0] = sigma * alpha;
        c[1] = alpha;
        c[5] = j == n - 1;
        if (j < n - 1) {
            const double sigma2 = sqrt((1.0 - abar[t_next]) / abar[t_next]);
            const double alpha2 = 1.0 / sqrt(1.0 + sigma2 * sigma2), h = -log(sigma2) - lambda;
            c[2] = sigma2 * alpha2 / c[0];
            c[3] = alpha2 * (exp(-h) - 1.0);
            c[4] = j > 0 ? h / (2.0 * (lambda - last_lambda)) : 0.0;
        }
        last_lambda = lambda;
    }
}

static double flow_time(int j, int n, double shift)
{
    const double u = 1.0 - j / (double)n;
    return 1.0 - shift * u / (1.0 + (shift - 1.0) * u);
}

static void set_flow(dit_schedule *s, int e, double t, double dt, int stage)
{
    double *c = s->coef + (size_t)e * DIT_COEF;
    s->net_time[e] = s->u[e] = t;
    c[0] = fmax(1.0 - t, 0.05);
    c[1] = dt;
    c[2] = stage;
}

static void flow_coefs(dit_schedule *s, double shift)
{
    const int n = s->steps;
    int e = 0;
    for (int j = 0; j < n; j++) {
        const double t = flow_time(j, n, shift), next = flow_time(j + 1, n, shift);
        const bool two = s->kind == FV_SAMPLER_HEUN && j < n - 1;
        set_flow(s, e++, t, next - t, two ? FVI_STAGE_PREDICT : FVI_STAGE_EULER);
        if (two) set_flow(s, e++, next, next - t, FVI_STAGE_CORRECT);
    }
}

/* ---- Creation ------------------------------------------------------------------------------- */

static fv_status check_kind(fv_ctx *ctx, const dit_schedule *s, const fv_generate_options *o)
{
    const char *name = fv_sampler_name(s->kind);
    const bool is_flow_kind = s->kind == FV_SAMPLER_EULER || s->kind == FV_SAMPLER_HEUN;
    if (!name || s->kind == FV_SAMPLER_AUTO)
        return fv_fail(ctx, FV_ERR_ARG,
                       "sampler number %d is unknown: use ddpm, ddim, dpmpp2m, euler or heun",
                       (int)s->kind);
    if (s->flow && !is_flow_kind)
        return fv_fail(ctx, FV_ERR_ARG,
                       "sampler %s needs a noise-predicting DiT, and this model predicts the "
                       "picture (rectified flow): use euler or heun",
                       name);
    if (!s->flow && is_flow_kind)
        return fv_fail(ctx, FV_ERR_ARG,
                       "sampler %s needs a rectified flow model, and this DiT predicts noise: use "
                       "ddim, ddpm or dpmpp2m",
                       name);
    if (o->eta != 0.0f && s->kind != FV_SAMPLER_DDIM)
        return fv_fail(ctx, FV_ERR_ARG, "eta belongs to the sampler ddim, not to %s: leave it 0",
                       name);
    if (o->shift != 0.0f && !s->flow)
        return fv_fail(ctx, FV_ERR_ARG,
                       "shift belongs to the samplers euler and heun, not to %s: leave it 0", name);
    return FV_OK;
}

/* Comparisons are written so that NaN fails them. */
static fv_status check_values(fv_ctx *ctx, const dit_schedule *s, const dit_config *c,
                              const fv_generate_options *o)
{
    const int least = s->kind == FV_SAMPLER_DDPM || s->kind == FV_SAMPLER_DDIM ? 2 : 1;
    if (s->steps < least || s->steps > MAX_STEPS - (s->kind == FV_SAMPLER_DPMPP2M))
        return fv_fail(ctx, FV_ERR_ARG, "%d steps of sampler %s: use %d to %d", s->steps,
                       fv_sampler_name(s->kind), least,
                       MAX_STEPS - (s->kind == FV_SAMPLER_DPMPP2M));
    if (!(s->cfg >= 0.0f && s->cfg <= 1000.0f))
        return fv_fail(ctx, FV_ERR_ARG, "guidance scale %g: use 1 (off) to 1000", (double)s->cfg);
    if (!(s->cfg_start >= 0.0f && s->cfg_start <= s->cfg_end && s->cfg_end <= 1.0f))
        return fv_fail(ctx, FV_ERR_ARG, "guidance interval %g..%g: use 0 <= start <= end <= 1",
                       (double)s->cfg_start, (double)s->cfg_end);
    if (s->cfg_channels < 1 || s->cfg_channels > c->channels)
        return fv_fail(ctx, FV_ERR_ARG, "guidance on %d channels: the model has %d",
                       s->cfg_channels, c->channels);
    if (!(o->eta >= 0.0f && o->eta <= 1.0f))
        return fv_fail(ctx, FV_ERR_ARG, "eta %g: use 0 (deterministic) to 1", (double)o->eta);
    if (!(o->shift >= 0.0f && o->shift <= 100.0f) || (o->shift > 0.0f && o->shift < 0.01f))
        return fv_fail(ctx, FV_ERR_ARG, "time shift %g: use 0.01 to 100, or 0 for none",
                       (double)o->shift);
    return FV_OK;
}

static void set_guidance(dit_schedule *s, const dit_config *c, const fv_generate_options *o)
{
    s->cfg = o->cfg == 0.0f ? c->cfg : o->cfg;
    s->cfg_start = o->cfg_start;
    s->cfg_end = o->cfg_end == 0.0f ? 1.0f : o->cfg_end;
    /* Guidance at nearly pure noise only harms flow models; an explicit interval switches this off.
     */
    if (s->flow && o->cfg_start == 0.0f && o->cfg_end == 0.0f) s->cfg_start = 0.1f;
    s->cfg_channels = o->cfg_channels;
    if (!s->cfg_channels) s->cfg_channels = !s->flow && c->channels > 3 ? 3 : c->channels;
}

static fv_status build(fv_ctx *ctx, dit_schedule *s, double shift)
{
    double abar[DIT_TIMESTEPS], kept[MAX_STEPS];
    int tau[MAX_STEPS];
    s->evals = s->kind == FV_SAMPLER_HEUN ? 2 * s->steps - 1 : s->steps;
    s->net_time = fv_calloc(ctx, (size_t)s->evals, sizeof(double));
    s->u = fv_calloc(ctx, (size_t)s->evals, sizeof(double));
    s->coef = fv_calloc(ctx, (size_t)s->evals, DIT_COEF * sizeof(double));
    if (!s->net_time || !s->u || !s->coef) return FV_ERR_OOM;
    if (s->flow) {
        flow_coefs(s, shift);
        return FV_OK;
    }
    dit_alpha_bars(abar);
    if (s->kind == FV_SAMPLER_DPMPP2M) {
        dpmpp_coefs(s, abar);
        return FV_OK;
    }
    dit_respace(s->steps, tau);
    for (int i = 0; i < s->steps; i++) kept[i] = abar[tau[i]];
    ancestral_coefs(s, tau, kept);
    return FV_OK;
}

fv_status dit_schedule_create(fv_ctx *ctx, dit_schedule *s, const dit_config *c,
                              const fv_generate_options *o)
{
    memset(s, 0, sizeof *s);
    s->flow = c->family == DIT_F;
    s->kind = o->sampler == FV_SAMPLER_AUTO ? c->sampler : o->sampler;
    s->steps = o->steps == 0 ? c->steps : o->steps;
    s->eta = o->eta;
    set_guidance(s, c, o);
    FV_TRY(check_kind(ctx, s, o));
    FV_TRY(check_values(ctx, s, c, o));
    if (!c->has_null) {
        if (o->cfg != 0.0f && o->cfg != 1.0f)
            return fv_fail(
                ctx, FV_ERR_ARG,
                "guidance scale %g: this model has no null class, so only 1 (off) is possible",
                (double)o->cfg);
        s->cfg = 1.0f;
    }
    s->needs_noise = s->kind == FV_SAMPLER_DDPM || (s->kind == FV_SAMPLER_DDIM && s->eta > 0.0f);
    const fv_status status = build(ctx, s, o->shift == 0.0f ? 1.0 : o->shift);
    if (status != FV_OK) dit_schedule_destroy(ctx, s);
    return status;
}

void dit_schedule_destroy(fv_ctx *ctx, dit_schedule *s)
{
    fv_free(ctx, s->net_time);
    fv_free(ctx, s->u);
    fv_free(ctx, s->coef);
    memset(s, 0, sizeof *s);
}

/* ---- Guidance ------------------------------------------------------------------------------- */

int dit_schedule_guided(const dit_schedule *s, int e)
{
    /* 1e-6: a limit of 0.1f must include the grid point 0.1. */
    return s->cfg != 1.0f && s->u[e] >= s->cfg_start - 1e-6 && s->u[e] <= s->cfg_end + 1e-6;
}

/* For flow the network gives xhat: v is linear in it, so guiding xhat guides v. */
void dit_schedule_guide(const dit_schedule *s, const float *cond_out, const float *null_out,
                        int64_t pixels, int channels, int out_channels, float *pred, float *var)
{
    const int guided = null_out ? s->cfg_channels : 0;
    const float scale = s->cfg;
    for (int64_t i = 0; i < pixels; i++) {
        const float *c = cond_out + i * out_channels;
        float *y = pred + i * channels;
        for (int k = 0; k < channels; k++) y[k] = c[k];
        if (guided) {
            const float *n = null_out + i * out_channels;
            for (int k = 0; k < guided; k++) y[k] = n[k] + scale * (c[k] - n[k]);
        }
        if (var && out_channels >= 2 * channels)
            for (int k = 0; k < channels; k++) var[i * channels + k] = c[channels + k];
    }
}

/* ---- Steps ---------------------------------------------------------------------------------- */

/* Without learned variance (var NULL) the posterior variance is used. */
static void step_ddpm(const float *c, float *x, const float *eps, const float *var,
                      const float *noise, int64_t n)
{
    if (c[6] == 0.0f || !noise) {
        for (int64_t i = 0; i < n; i++) x[i] = fvi_step_ddpm_last(c, x[i], eps[i]);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        x[i] = fvi_step_ddpm(c, x[i], eps[i], var ? (var[i] + 1.0f) * 0.5f : 0.0f, noise[i]);
}

static void step_ddim(const float *c, float *x, const float *eps, const float *noise, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] = fvi_step_ddim(c, x[i], eps[i]);
    if (c[4] > 0.0f && noise)
        for (int64_t i = 0; i < n; i++) x[i] += c[4] * noise[i];
}

/* work[0..n) holds the x0 estimate of the step before. */
static void step_dpmpp(const float *c, float *x, const float *eps, float *work, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] = fvi_step_dpmpp(c, x[i], eps[i], &work[i]);
}

static void step_flow(const float *c, float *x, const float *xhat, float *work, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = fvi_step_flow(c, x[i], xhat[i], &work[i], &work[n + i]);
}

void dit_schedule_coef(const dit_schedule *s, int e, float c[DIT_COEF])
{
    for (int k = 0; k < DIT_COEF; k++) c[k] = (float)s->coef[(size_t)e * DIT_COEF + (size_t)k];
}

void dit_schedule_step(const dit_schedule *s, int e, float *x, const float *pred, const float *var,
                       const float *noise, float *work, int64_t n)
{
    float c[DIT_COEF];
    dit_schedule_coef(s, e, c);
    switch (s->kind) {
    case FV_SAMPLER_DDPM: step_ddpm(c, x, pred, var, noise, n); break;
    case FV_SAMPLER_DDIM: step_ddim(c, x, pred, noise, n); break;
    case FV_SAMPLER_DPMPP2M: step_dpmpp(c, x, pred, work, n); break;
    default: step_flow(c, x, pred, work, n); break;
    }
}
