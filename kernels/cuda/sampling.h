/* sampling.h - private: a diffusion sampler's steps, and networks of which only some tokens are computed;
 * formulas in sampler_body.h, dit_prune.c and accel_clusters.c of diffusion/.
 *
 * Everything goes through memory once but the selection, which compares all pairs of a picture's
 * scores: 64 Ki comparisons for 256 tokens, by one block a picture. Its result is a list (index) for
 * the gather and its inverse (place, -1: not chosen), by which one pass puts computed tokens where they
 * belong and forecasts the others. */
#ifndef FV_CUDA_SAMPLING_H
#define FV_CUDA_SAMPLING_H

#include <math.h>

#include "cuda/dialect.h"
/* One definition of noise and updates, for both sides. */
#if defined(__CUDACC__)
#pragma push_macro("inline")
#pragma push_macro("FV_UNROLL")
#undef FV_UNROLL
#define FV_UNROLL _Pragma("unroll")
#define inline __device__ __forceinline__
#define FVI_TIMES(a, b) __fmul_rn(a, b)
#endif
#include "exact_math.h"
#include "sampler_body.h"
#if defined(__CUDACC__)
#pragma pop_macro("FV_UNROLL")
#pragma pop_macro("inline")
#endif

/* ---- Steps ----------------------------------------------------------------------------------- */

/* Modulations of an evaluation from the bank to the rows of the batch, and the states. */
FVK_KERNEL(step_begin)
{
    const int64_t wide = 6 * a->D, of_layer = a->rows * wide;
    PHASE(t) EACH(i, t, a->depth * of_layer) {
        const int64_t l = i / of_layer, row = i % of_layer / wide, j = i % wide;
        a->mod[(l * a->most_rows + row) * wide + j] =
            a->bank[(l * a->n + a->at + a->label[row]) * wide + j];
    }
    PHASE(t) EACH(i, t, a->rows * 2 * a->D) {
        const int64_t row = i / (2 * a->D), j = i % (2 * a->D);
        a->mod_final[i] = a->bank_final[(a->at + a->label[row]) * 2 * a->D + j];
    }
    PHASE(t) EACH(i, t, a->x ? a->rows * a->state : 0) {
        a->states[i] = a->x[i % (a->B * a->state)];
    }
}

/* Four normals of picture b from its element 4 q on; n: of a picture. */
FVK_KERNEL(normals)
{
    const int64_t quads = (a->n + 3) / 4;
    PHASE(t) EACH(i, t, a->B * quads) {
        const int64_t b = i / quads, first = i % quads * 4;
        float z[4];
        fvi_normal4((uint64_t)a->seed + (uint64_t)b, (uint32_t)a->stream, (uint32_t)a->sample,
                    (uint64_t)(first / 4), z);
        for (int k = 0; k < 4; k++)
            if (first + k < a->n) a->y[b * a->n + first + k] = z[k];
    }
}

/* Guidance and the update of value j of picture b. */
FVK_FN void fvk_step(const fvk_step_update_args *a, int64_t b, int64_t j, float noise)
{
    const int64_t pixel = j / a->channels, channel = j % a->channels;
    const int64_t pixels = a->n / a->channels, wide = a->out_channels;
    const float *cond = a->out + (b * pixels + pixel) * wide;
    const float *none = a->out + ((a->B + b) * pixels + pixel) * wide;
    float *x = a->x + b * a->n + j, *work = a->work + b * 2 * a->n + j;
    const float old = *x;
    float pred = cond[channel], now;
    if (channel < a->guided) pred = none[channel] + a->scale * (pred - none[channel]);
    switch (a->kind) {
    case FVI_STEP_DDPM: {
        const float var = wide >= 2 * a->channels ? cond[a->channels + channel] : 0.0f;
        now = a->coef[6] == 0.0f ? fvi_step_ddpm_last(a->coef, old, pred)
                                 : fvi_step_ddpm(a->coef, old, pred, (var + 1.0f) * 0.5f, noise);
        break;
    }
    case FVI_STEP_DDIM:
        now = fvi_step_ddim(a->coef, old, pred);
        if (a->draws && a->coef[4] > 0.0f) now += a->coef[4] * noise;
        break;
    case FVI_STEP_DPMPP: now = fvi_step_dpmpp(a->coef, old, pred, work); break;
    default: now = fvi_step_flow(a->coef, old, pred, work, work + a->n); break;
    }
    *x = now;
}

FVK_KERNEL(step_update)
{
    const int64_t quads = (a->n + 3) / 4;
    PHASE(t) EACH(i, t, a->B * quads) {
        const int64_t b = i / quads, first = i % quads * 4;
        float z[4] = { 0, 0, 0, 0 };
        if (a->draws)
            fvi_normal4((uint64_t)a->seed + (uint64_t)b, (uint32_t)a->stream, (uint32_t)a->sample,
                        (uint64_t)(first / 4), z);
        for (int k = 0; k < 4; k++)
            if (first + k < a->n) fvk_step(a, b, first + k, z[k]);
    }
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

/* A warp a token of a picture: magnitude of its newest output over the picture's rows, or how far
 * its input has moved, to the first N of the picture's 2 N values. */
FVK_KERNEL(token_score)
{
    LOCAL(float, sum);
    (void)grid_;
    PHASE(t) {
        const int64_t item = (int64_t)block_ * (FVK_THREADS / 32) + t / 32;
        const int64_t p = item / a->N, token = item % a->N;
        float s = 0;
        for (int64_t row = p; p < a->pictures && row < a->rows; row += a->pictures) {
            const int64_t at = (row * a->N + token) * a->D;
            if (a->score == FVK_SCORE_DRIFT && row != p) continue;
            for (int64_t d = t % 32; d < a->D; d += 32) {
                const float moved =
                    a->score == FVK_SCORE_DRIFT ? a->h[at + d] - a->input[at + d] : 0;
                s += a->score == FVK_SCORE_DRIFT ? moved * moved : fabsf(fvk_get(a->newest, at + d));
            }
        }
        AT(sum, t) = s;
    }
    WARP_SUM(sum);
    PHASE(t) {
        const int64_t item = (int64_t)block_ * (FVK_THREADS / 32) + t / 32;
        const int64_t p = item / a->N, token = item % a->N;
        const float rows = (float)(a->rows / a->pictures);
        if (t % 32 == 0 && p < a->pictures)
            a->value[p * 2 * a->N + token] =
                a->score == FVK_SCORE_DRIFT ? AT(sum, t) : AT(sum, t) / (float)a->D / rows;
    }
}

/* The best of each 2x2, the first of equal ones, gets 1.6 times its score. */
FVK_FN void fvk_lift(float *v, int64_t grid, int64_t i)
{
    const int64_t half = grid / 2, first = i / half * 2 * grid + i % half * 2;
    const int64_t other[3] = { first + 1, first + grid, first + grid + 1 };
    int64_t best = first;
    for (int k = 0; k < 3; k++)
        if (v[other[k]] > v[best]) best = other[k];
    v[best] *= 1.6f;
}

/* A block a picture: scores, the `kept` best of them (equal ones by number) to index, ascending. */
FVK_KERNEL(token_select)
{
    SHARED(float, part, FVK_THREADS);
    const int64_t N = a->N, p = block_;
    float *v = a->value + p * 2 * N, *flag = v + N;
    uint16_t *stale = a->stale + p * N;
    (void)grid_;
    PHASE(t) {
        float s = 0;
        for (int64_t i = t; i < N; i += FVK_THREADS) {
            if (a->score == FVK_SCORE_GIVEN) v[i] = a->given ? a->given[p * N + i] : 0;
            if (a->score == FVK_SCORE_STALE) s = fmaxf(s, v[i]);
            if (a->score == FVK_SCORE_TOCA) s += v[i] * v[i];
        }
        part[t] = s;
    }
    if (a->score == FVK_SCORE_STALE) {
        TREE_MAX(part);
    }
    if (a->score == FVK_SCORE_TOCA) {
        TREE_SUM(part);
    }
    PHASE(t) {
        const float whole = part[0], unit = whole > 0 ? 1.0f / sqrtf(whole) : 0;
        for (int64_t i = t; i < N; i += FVK_THREADS) {
            if (a->score == FVK_SCORE_STALE)
                v[i] = (float)stale[i] + (whole > 0 ? 0.5f * v[i] / whole : 0);
            if (a->score == FVK_SCORE_TOCA)
                v[i] = v[i] * unit + 0.25f * (float)stale[i] / (float)N;
        }
    }
    PHASE(t) {
        const int64_t half = a->grid / 2;
        for (int64_t i = t; a->score == FVK_SCORE_TOCA && i < half * half; i += FVK_THREADS)
            fvk_lift(v, a->grid, i);
    }
    PHASE(t) {
        for (int64_t i = t; i < N; i += FVK_THREADS)
            if (!(v[i] == v[i])) v[i] = 0; /* no NaN */
    }
    PHASE(t) {
        for (int64_t i = t; i < N; i += FVK_THREADS) {
            int64_t before = 0;
            for (int64_t j = 0; j < N; j++) before += v[j] > v[i] || (v[j] == v[i] && j < i);
            flag[i] = before < a->kept ? 1.0f : 0.0f;
        }
    }
    PHASE(t) {
        for (int64_t i = t; i < N; i += FVK_THREADS) {
            const int is_kept = flag[i] != 0;
            int32_t at = 0;
            for (int64_t j = 0; is_kept && j < i; j++) at += flag[j] != 0;
            if (is_kept) a->index[p * a->kept + at] = (int32_t)i;
            a->place[p * N + i] = is_kept ? at : -1;
            stale[i] = is_kept ? 0 : (uint16_t)(stale[i] + (stale[i] < UINT16_MAX));
        }
    }
}

/* Chosen tokens of h to `to`, and of the rows with guidance to input, where that is kept. */
FVK_KERNEL(token_gather)
{
    PHASE(t) EACH(i, t, a->rows * a->kept * a->D) {
        const int64_t d = i % a->D, k = i / a->D % a->kept, row = i / (a->D * a->kept);
        const int64_t token = a->index[row % a->pictures * a->kept + k];
        const float v = a->h[(row * a->N + token) * a->D + d];
        a->to[i] = v;
        if (a->input && row < a->pictures) a->input[(row * a->N + token) * a->D + d] = v;
    }
}

/* Mean change of the computed tokens of each cluster, from h to moved. */
FVK_KERNEL(token_change)
{
    PHASE(t) EACH(i, t, a->rows * a->clusters * a->D) {
        const int64_t d = i % a->D, c = i / a->D % a->clusters, row = i / (a->D * a->clusters);
        const int64_t p = row % a->pictures;
        float sum = 0;
        int64_t members = 0;
        for (int64_t k = 0; k < a->kept; k++) {
            const int64_t token = a->index[p * a->kept + k];
            if (a->cluster[p * a->N + token] != c) continue;
            sum += a->moved[(row * a->kept + k) * a->D + d] - a->h[(row * a->N + token) * a->D + d];
            members++;
        }
        a->change[i] = members > 1 ? sum / (float)members : sum;
    }
}

/* h: of computed tokens what came out; of the others a forecast, and a share of what their cluster
 * did. Outputs of computed tokens to their places in the newest one, if that is asked for. */
FVK_KERNEL(token_merge)
{
    PHASE(t) EACH(i, t, a->rows * a->N * a->D) {
        const int64_t d = i % a->D, token = i / a->D % a->N, row = i / (a->D * a->N);
        const int64_t p = row % a->pictures, k = a->place[p * a->N + token];
        if (k >= 0) {
            const int64_t from = (row * a->kept + k) * a->D + d;
            if (a->newest.p) fvk_put(a->newest, i, fvk_get(a->fresh, from));
            a->h[i] = a->moved[from];
            continue;
        }
        float sum = 0;
        for (int j = 0; j < a->count; j++) sum += a->w[j] * fvk_get(a->x[j], i);
        float h = a->h[i] + sum * a->gate[row * a->stride + d];
        if (a->change)
            h += a->spread *
                 a->change[(row * a->clusters + a->cluster[p * a->N + token]) * a->D + d];
        a->h[i] = h;
    }
}

/* What was not computed is an evaluation older; or all of it is new. */
FVK_KERNEL(token_age)
{
    PHASE(t) EACH(i, t, a->n) {
        const uint16_t old = a->stale[i];
        a->stale[i] = a->is_new ? 0 : (uint16_t)(old + (old < UINT16_MAX));
    }
}

/* ---- Distances ------------------------------------------------------------------------------- */

/* A block a segment of a row: sums of d^2 and |d|, d = sum of w v. */
FVK_KERNEL(feature_sums)
{
    SHARED(double, square, FVK_THREADS);
    SHARED(double, size, FVK_THREADS);
    const int64_t row = block_ / a->segments, segment = block_ % a->segments;
    const int64_t from = a->n * segment / a->segments, to = a->n * (segment + 1) / a->segments;
    (void)grid_;
    PHASE(t) {
        double s = 0, z = 0;
        for (int64_t i = from + t; i < to; i += FVK_THREADS) {
            double d = 0;
            for (int k = 0; k < a->count; k++) d += a->w[k] * (double)a->v[k][row * a->n + i];
            s += d * d;
            z += fabs(d);
        }
        square[t] = s;
        size[t] = z;
    }
    TREE_SUM(square);
    TREE_SUM(size);
    PHASE(t) {
        if (t == 0) {
            a->part[2 * block_] = square[0];
            a->part[2 * block_ + 1] = size[0];
        }
    }
}

#endif
