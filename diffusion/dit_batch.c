/* dit_batch.c - states between noise and picture, as networks are trained on them.
 *
 *     F         z = t x + (1-t) eps,  t = sigmoid(mu + sigma n)       (JiT, Li & He 2025)
 *     official  z = sqrt(abar) x + sqrt(1-abar) eps,  t uniform        (Ho et al. 2020)
 *
 * Each row is drawn from (seed, number of its sample) alone. A teacher and its students are given
 * the same batch, with the same rows without a label. */
#include "internal.h"

#include <math.h>
#include <string.h>

#define FLOOR_1_MINUS_T 0.05f

fv_status dit_batch_create(fv_ctx *ctx, fv_dit_batch *b, const dit_config *c, int count)
{
    const size_t B = (size_t)count;
    memset(b, 0, sizeof *b);
    b->count = count;
    b->values = (int64_t)c->input_size * c->input_size * c->channels;
    b->z = fv_calloc(ctx, B * (size_t)b->values, sizeof(float));
    b->target = fv_calloc(ctx, B * (size_t)b->values, sizeof(float));
    b->time = fv_calloc(ctx, B, sizeof(float));
    b->rate = fv_calloc(ctx, B, sizeof(float));
    b->weight = fv_calloc(ctx, B, sizeof(float));
    b->label = fv_calloc(ctx, B, sizeof(int32_t));
    if (b->z && b->target && b->time && b->rate && b->weight && b->label) return FV_OK;
    fv_dit_batch_free(ctx, b);
    return FV_ERR_OOM;
}

void fv_dit_batch_free(fv_ctx *ctx, fv_dit_batch *b)
{
    void *mem[] = { b->z, b->target, b->time, b->rate, b->weight, b->label };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(ctx, mem[i]);
    memset(b, 0, sizeof *b);
}

/* Time, weight and state of row i, whose z holds the noise. */
static void flow_row(const fv_dit_draw *d, uint64_t key, uint32_t lo, const float *x, int i,
                     fv_dit_batch *b)
{
    float n, *z = b->z + i * b->values;
    fv_rand_normal(key, FV_STREAM_TIMESTEP, lo, 0, 1, &n);
    const float t = 1.0f / (1.0f + expf(-(d->t_mu + d->t_sigma * n)));
    const float rest = 1.0f - t > FLOOR_1_MINUS_T ? 1.0f - t : FLOOR_1_MINUS_T;
    b->time[i] = t;
    b->rate[i] = 1.0f / rest;
    b->weight[i] = 1.0f / (rest * rest);
    for (int64_t k = 0; k < b->values; k++) z[k] = t * x[k] + (1.0f - t) * z[k];
    memcpy(b->target + i * b->values, x, (size_t)b->values * sizeof *x);
}

static void diffusion_row(const double *abar, uint64_t key, uint32_t lo, const float *x, int i,
                          fv_dit_batch *b)
{
    float u, *z = b->z + i * b->values, *eps = b->target + i * b->values;
    fv_rand_uniform(key, FV_STREAM_TIMESTEP, lo, 0, 1, &u);
    const int t = u * DIT_TIMESTEPS < DIT_TIMESTEPS ? (int)(u * DIT_TIMESTEPS) : DIT_TIMESTEPS - 1;
    const float signal = (float)sqrt(abar[t]), noise = (float)sqrt(1.0 - abar[t]);
    b->time[i] = (float)t;
    b->rate[i] = b->weight[i] = 1.0f;
    memcpy(eps, z, (size_t)b->values * sizeof *eps);
    for (int64_t k = 0; k < b->values; k++) z[k] = signal * x[k] + noise * eps[k];
}

void dit_batch_make(fv_ctx *ctx, const dit_config *c, const fv_dit_draw *d, const float *pictures,
                    const int32_t *labels, uint64_t first, fv_dit_batch *b)
{
    double abar[DIT_TIMESTEPS];
    dit_alpha_bars(abar);
#pragma omp parallel for schedule(static) num_threads(fv_ctx_threads(ctx))
    for (int i = 0; i < b->count; i++) {
        const uint64_t number = first + (uint64_t)i, key = d->seed ^ (number >> 32);
        const uint32_t lo = (uint32_t)number;
        const float *x = pictures + i * b->values;
        float u;
        fv_rand_uniform(key, FV_STREAM_CLASS_DROP, lo, 0, 1, &u);
        b->label[i] = u < d->label_drop && c->has_null ? c->classes : labels[i];
        fv_rand_normal(key, FV_STREAM_NOISE, lo, 0, b->values, b->z + i * b->values);
        if (c->family == DIT_F) flow_row(d, key, lo, x, i, b);
        else diffusion_row(abar, key, lo, x, i, b);
    }
}

void fv_dit_batch_variances(const fv_dit_batch *b, float *out)
{
    double abar[DIT_TIMESTEPS];
    dit_alpha_bars(abar);
    for (int i = 0; i < b->count; i++) {
        const int t = b->time[i] > 0 ? b->time[i] < DIT_TIMESTEPS ? (int)b->time[i]
                                                                  : DIT_TIMESTEPS - 1 : 0;
        const double a = abar[t], before = t > 0 ? abar[t - 1] : 1.0, beta = 1.0 - a / before;
        float *row = out + (size_t)i * FV_DIT_VARIANCES;
        row[FV_DIT_LOG_BETA] = (float)log(beta);
        row[FV_DIT_LOG_POSTERIOR] = (float)dit_log_posterior(abar, t);
        row[FV_DIT_MEAN_BY_NOISE] = (float)(beta * sqrt(before) / (1.0 - a) * sqrt(1.0 / a - 1.0));
    }
}
