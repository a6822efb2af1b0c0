/* pointwise.h - private: kernels that go through their elements once. All are bound by memory: 4 or 2
 * bytes in and out per element and tensor. What every network does for every token takes eight
 * elements a thread where addresses allow it, and divides once for them: 16-byte accesses, and at
 * 4 TB/s there is time for some 30 instructions an element. The others: neighbouring threads at
 * neighbouring elements. */
#ifndef FV_CUDA_POINTWISE_H
#define FV_CUDA_POINTWISE_H

#include <math.h>

#include "cuda/dialect.h"
#include "engine.h"
/* One definition of the activations, for both sides. */
#if defined(__CUDACC__)
#pragma push_macro("inline")
#define inline __device__ __forceinline__
#endif
#include "op_act.h"
#if defined(__CUDACC__)
#pragma pop_macro("inline")
#endif

FVK_FN float fvk_map(const fvk_map_args *a, float x, float dy)
{
    if (a->what == FVK_AFFINE) return a->scale * x + a->shift;
    if (a->what == FVK_ACT) return fvi_act_c((fv_act)a->act, x);
    if (a->what == FVK_ACT_GRAD) return dy * fvi_dact_c((fv_act)a->act, x);
    return x;
}

FVK_KERNEL(map)
{
    const int has_dy = a->what == FVK_ACT_GRAD;
    const int64_t eights = fvk_even(a->x.p) && fvk_even(a->y.p) && fvk_even(a->dy.p) ? a->n / 8 : 0;
    PHASE(t) {
        EACH(g, t, eights) {
            fvk_eight x = fvk_get8(a->x, 8 * g), dy = x;
            if (has_dy) dy = fvk_get8(a->dy, 8 * g);
            FVK_UNROLL
            for (int k = 0; k < 8; k++) x.v[k] = fvk_map(a, x.v[k], dy.v[k]);
            fvk_put8(a->y, 8 * g, x);
        }
        EACH(j, t, a->n - 8 * eights) {
            const int64_t i = 8 * eights + j;
            fvk_put(a->y, i, fvk_map(a, fvk_get(a->x, i), has_dy ? fvk_get(a->dy, i) : 0.0f));
        }
    }
}

FVK_FN float fvk_binary(int op, float a, float b)
{
    switch (op) {
    case FV_ADD: return a + b;
    case FV_SUB: return a - b;
    case FV_MUL: return a * b;
    default: return a / b;
    }
}

FVK_FN float fvk_binary_db(int op, float dy, float a, float b)
{
    switch (op) {
    case FV_ADD: return dy;
    case FV_SUB: return -dy;
    case FV_MUL: return dy * a;
    default: return -(dy * a / (b * b));
    }
}

FVK_KERNEL(binary)
{
    PHASE(t) EACH(i, t, a->n) {
        const int64_t at = a->broadcast == 2 ? fvk_over(i, a->per)
                           : a->broadcast    ? i - fvk_over(i, a->nb) * a->nb
                                             : i;
        float y;
        if (a->what == FVK_BINARY)
            y = fvk_binary(a->op, fvk_get(a->a, i), fvk_get(a->b, at));
        else if (a->what == FVK_BINARY_DB)
            y = fvk_binary_db(a->op, fvk_get(a->dy, i), fvk_get(a->a, i), fvk_get(a->b, at));
        else if (a->op == FV_ADD || a->op == FV_SUB)
            y = fvk_get(a->dy, i);
        else
            y = fvk_binary(a->op, fvk_get(a->dy, i), fvk_get(a->b, at));
        fvk_put(a->y, i, y);
    }
}

/* Where the gate of element i lies. */
FVK_FN int64_t fvk_gate_at(const fvk_blend_args *a, int64_t i)
{
    return fvk_over(i, a->C * a->T) * a->stride + i - fvk_over(i, a->C) * a->C;
}

FVK_FN void fvk_blend8(const fvk_blend_args *a, int64_t i)
{
    fvk_eight sum;
    FVK_UNROLL
    for (int j = 0; j < 8; j++) sum.v[j] = 0;
    for (int k = 0; k < a->count; k++) {
        const fvk_eight x = fvk_get8(a->x[k], i);
        const float w = a->w ? a->w[k] : 1.0f;
        FVK_UNROLL
        for (int j = 0; j < 8; j++) sum.v[j] += w * x.v[j];
    }
    if (a->gate) {
        const float *gate = a->gate + fvk_gate_at(a, i);
        FVK_UNROLL
        for (int j = 0; j < 8; j++) sum.v[j] *= gate[j];
    }
    if (a->h.p) {
        const fvk_eight h = fvk_get8(a->h, i);
        FVK_UNROLL
        for (int j = 0; j < 8; j++) sum.v[j] = h.v[j] + sum.v[j];
    }
    fvk_put8(a->y, i, sum);
}

FVK_KERNEL(blend)
{
    int even = a->n % 8 == 0 && (!a->gate || a->C % 8 == 0) && fvk_even(a->h.p) && fvk_even(a->y.p);
    for (int k = 0; k < a->count; k++) even = even && fvk_even(a->x[k].p);
    PHASE(t) {
        EACH(g, t, even ? a->n / 8 : 0) fvk_blend8(a, 8 * g);
        EACH(i, t, even ? 0 : a->n) {
            float sum = 0;
            for (int k = 0; k < a->count; k++)
                sum += (a->w ? a->w[k] : 1.0f) * fvk_get(a->x[k], i);
            if (a->gate) sum *= a->gate[fvk_gate_at(a, i)];
            fvk_put(a->y, i, a->h.p ? fvk_get(a->h, i) + sum : sum);
        }
    }
}

/* x [.., 2H] -> y [.., H]: silu of the first half times the second. n counts what dy or y has. */
FVK_KERNEL(swiglu)
{
    PHASE(t) EACH(i, t, a->n) {
        const int64_t at = i + fvk_over(i, a->H) * a->H;
        const float u = fvk_get(a->x, at), v = fvk_get(a->x, at + a->H), s = fvi_sigmoid_c(u);
        if (!a->dy.p) {
            fvk_put(a->y, i, u * s * v);
            continue;
        }
        const float g = fvk_get(a->dy, i);
        fvk_put(a->y, at, g * v * (s * (1.0f + u * (1.0f - s))));
        fvk_put(a->y, at + a->H, g * (u * s));
    }
}

FVK_KERNEL(spread)
{
    PHASE(t) EACH(i, t, a->n) {
        fvk_put(a->y, i, a->scale * fvk_get(a->x, i / (a->C * a->T) * a->C + i % a->C));
    }
}

/* ---- 8-bit floats ---------------------------------------------------------------------------- */

FVK_KERNEL(to_fp8)
{
    SHARED(float, most, FVK_THREADS);
    const int64_t from = (int64_t)block_ * a->K;
    (void)grid_;
    PHASE(t) {
        most[t] = 0;
        for (int64_t k = t; k < a->K; k += FVK_THREADS) {
            const float x = fabsf(fvk_get(a->x, from + k));
            if (x > most[t]) most[t] = x; /* a NaN stays one below */
        }
    }
    TREE_MAX(most)
    PHASE(t) {
        const float scale = most[0] > 0 ? most[0] / 448.0f : 1.0f;
        for (int64_t k = t; k < a->K; k += FVK_THREADS)
            a->y[from + k] = fvk_to_e4m3(fvk_get(a->x, from + k) / scale);
        if (t == 0) a->scale[block_] = scale;
    }
}

FVK_KERNEL(rescale)
{
    PHASE(t) EACH(i, t, a->n) {
        const fvk_in y = { a->y.p, a->y.bf16 };
        const int64_t column = i % a->N;
        float v = fvk_get(y, i);
        if (a->a_scale) v *= a->a_scale[i / a->N] * a->b_scale[column];
        if (a->bias) v += a->bias[column];
        fvk_put(a->y, i, fvi_act_c((fv_act)a->act, v));
    }
}

/* ---- Layout ---------------------------------------------------------------------------------- */

FVK_KERNEL(strip)
{
    PHASE(t) EACH(i, t, a->rows * a->n) {
        const int64_t r = i / a->n, c = i % a->n;
        fvk_put(a->y, r * a->y_stride + a->y_at + c, fvk_get(a->x, r * a->x_stride + a->x_at + c));
    }
}

/* i counts the picture's elements [.., H, W, C]. */
FVK_KERNEL(patch)
{
    PHASE(t) EACH(i, t, a->n) {
        const int64_t c = i % a->C, x = i / a->C % a->W, y = i / (a->C * a->W) % a->H,
                      b = i / (a->C * a->W * a->H);
        const int64_t di = y % a->p, dj = x % a->p;
        const int64_t token = (b * (a->H / a->p) + y / a->p) * (a->W / a->p) + x / a->p;
        const int64_t within =
            a->channel_first ? (c * a->p + di) * a->p + dj : (di * a->p + dj) * a->C + c;
        const int64_t at = token * a->p * a->p * a->C + within;
        fvk_put(a->y, a->to_tokens ? at : i, fvk_get(a->x, a->to_tokens ? i : at));
    }
}

/* In double, as on the CPU: a float angle of 1000 is off by 1e-4. */
FVK_KERNEL(timestep)
{
    PHASE(t) EACH(i, t, a->n) {
        const int64_t b = i / a->dim, k = i % a->dim, half = a->dim / 2;
        const double angle = (double)fvk_get(a->t, b) * a->scale *
                             exp(-9.210340371976184 * (double)(k < half ? k : k - half) / a->den);
        float y = 0; /* an odd last column */
        if (k < half) y = (float)cos(angle);
        else if (k < 2 * half) y = (float)sin(angle);
        fvk_put(a->y, i, y);
    }
}

/* An id outside the table reads nothing and raises the fault. */
FVK_KERNEL(embed)
{
    PHASE(t) EACH(i, t, a->n * a->D) {
        const int64_t id = a->ids[i / a->D];
        const int is_there = id >= 0 && id < a->V;
        if (!is_there) FVK_RAISE(a->fault, FVK_FAULT_ID);
        fvk_put(a->y, i, is_there ? fvk_get(a->table, id * a->D + i % a->D) : 0);
    }
}

#endif
