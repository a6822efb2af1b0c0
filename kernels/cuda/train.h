/* train.h - private: one step of AdamW over the flat arrays of params.c. Definition: optim.c.
 *
 * squares: sums of a number of blocks that depends on n alone, each thread its elements in order, in
 * double; clip: one block adds them and says what gradients are multiplied by; adamw: everything
 * else, an element a thread at a time, so that a warp reads and writes whole lines of each array: with
 * EMA and bf16 copies 38 bytes an element, memory bound. That a step counts is decided on the device,
 * so the host launches all three without waiting. */
#ifndef FV_CUDA_TRAIN_H
#define FV_CUDA_TRAIN_H

#include "cuda/dialect.h"

#include <math.h>

FVK_KERNEL(squares)
{
    SHARED(double, sum, FVK_THREADS);
    PHASE(t) {
        double s = 0;
        EACH(i, t, a->n) s += (double)a->g[i] * a->g[i];
        sum[t] = s;
    }
    TREE_SUM(sum);
    PHASE(t) {
        if (t == 0) a->part[block_] = sum[0];
    }
}

FVK_KERNEL(clip)
{
    SHARED(double, sum, FVK_THREADS);
    (void)block_;
    (void)grid_;
    PHASE(t) {
        double s = 0;
        for (int64_t i = t; i < a->parts; i += FVK_THREADS) s += a->part[i];
        sum[t] = s;
    }
    TREE_SUM(sum);
    PHASE(t) {
        if (t == 0) {
            const double norm = sqrt(sum[0]), most = a->clip / (norm + a->eps);
            const float scale = a->clip > 0 && most < 1 ? (float)most : 1.0f;
            *a->norm = norm;
            *a->scale = norm - norm == 0 ? scale : -1.0f; /* not finite: no step */
        }
    }
}

/* kind of an element: 0 frozen, 1 trained, 2 with decay. */
FVK_KERNEL(adamw)
{
    PHASE(t) {
        const float scale = *a->scale;
        EACH(i, t, a->n) {
            const int kind = a->kind[i / 16];
            const float g = a->g[i] * scale;
            a->g[i] = 0;
            if (kind == 0 || !(scale >= 0)) continue;
            const float old = a->p[i], m = a->b1 * a->m[i] + a->k1 * g;
            const float v = a->b2 * a->v[i] + a->k2 * (g * g);
            const float u = m * a->c1 / (sqrtf(v * a->c2) + a->eps);
            const float p = old - a->lr * (u + (kind == 2 ? a->wd : 0.0f) * old);
            a->p[i] = p;
            a->m[i] = m;
            a->v[i] = v;
            if (a->ema) a->ema[i] = a->d * a->ema[i] + a->kd * p;
            if (a->half) a->half[i] = fvk_narrow(p);
        }
    }
}

FVK_KERNEL(exchange)
{
    PHASE(t) EACH(i, t, a->n) {
        const float p = a->p[i];
        if (a->kind[i / 16] == 0) continue;
        a->p[i] = a->e[i];
        a->e[i] = p;
    }
}

#endif
