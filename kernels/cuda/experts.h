/* experts.h - private: mixture of experts around its products. Definition: op_moe.c; what the products
 * are: op_moe_cuda.c. An expert whose gate is 0 is left out whatever its numbers are. */
#ifndef FV_CUDA_EXPERTS_H
#define FV_CUDA_EXPERTS_H

#include "cuda/dialect.h"

/* relu(u)^2, or x; element i of [R, n I] */
FVK_FN float fvk_expert_h(const fvk_moe_args *a, int64_t i)
{
    if (!a->u) return fvk_get(a->x, i / (a->n * a->I) * a->I + i % a->I);
    const float u = a->u[i] > 0 ? a->u[i] : 0.0f;
    return u * u;
}

FVK_KERNEL(moe_hidden)
{
    PHASE(t) EACH(i, t, a->R * a->n * a->I) {
        const float gate = a->gate[i / (a->n * a->I) * a->E + a->first + i / a->I % a->n];
        fvk_put(a->a, i, gate != 0.0f ? gate * fvk_expert_h(a, i) : 0.0f);
    }
}

/* A block an expert of a row: dgate = dh . h, du = gate dh 2 relu(u), and gate h again. */
FVK_KERNEL(moe_back)
{
    LOCAL(float, sum);
    const int64_t of = block_ / a->n * a->E + a->first + block_ % a->n, first = block_ * a->I;
    const float gate = a->gate[of];
    (void)grid_;
    PHASE(t) {
        float s = 0;
        for (int64_t i = first + t; i < first + a->I; i += FVK_THREADS) {
            const float h = gate != 0.0f ? fvk_expert_h(a, i) : 0.0f;
            const float dh = gate != 0.0f ? a->dh[i] : 0.0f;
            s += dh * h;
            if (a->a.p) fvk_put(a->a, i, gate * h);
            if (!a->du.p) continue;
            fvk_put(a->du, i, dh != 0.0f && a->u[i] > 0 ? 2 * gate * dh * a->u[i] : 0.0f);
        }
        AT(sum, t) = s;
    }
    BLOCK_SUM(sum);
    PHASE(t) if (t == 0 && a->dgate.p) fvk_put(a->dgate, of, AT(sum, t));
}

/* Without U: dx = sum of gate dh over experts. */
FVK_KERNEL(moe_mix)
{
    PHASE(t) EACH(i, t, a->R * a->I) {
        const int64_t r = i / a->I;
        float s = 0;
        for (int64_t j = 0; j < a->n; j++) {
            const float gate = a->gate[r * a->E + a->first + j];
            if (gate != 0.0f) s += gate * a->dh[(r * a->n + j) * a->I + i % a->I];
        }
        fvk_put(a->dx, i, s);
    }
}

#endif
