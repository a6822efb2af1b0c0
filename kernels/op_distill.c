/* op_distill.c - rows of the distillation losses (op_place.c, op_masked_mse.c): the scalar
 * definition. Sums over elements are double here, f32 in short pieces in op_distill_body.h. */
#include "cpu_ops.h"

#include <math.h>

/* ---- LIFT and PLACE: one group --------------------------------------------------------------- */

static void moments_c(fvi_place_moments *m, const float *x, const float *y, int64_t n)
{
    double sx = 0, sy = 0, vx = 0, vy = 0, cov = 0;
    for (int64_t i = 0; i < n; i++) {
        sx += x[i];
        sy += y[i];
    }
    m->mx = (float)(sx / (double)n);
    m->my = (float)(sy / (double)n);
    for (int64_t i = 0; i < n; i++) {
        const double dx = x[i] - m->mx, dy = y[i] - m->my;
        vx += dx * dx;
        vy += dy * dy;
        cov += dx * dy;
    }
    m->vx = (float)(vx / (double)n);
    m->vy = (float)(vy / (double)n);
    m->cov = (float)(cov / (double)n);
}

static double residual_c(float *coarse, float *fine, const float *x, const float *y,
                         const fvi_place_map *g, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const float dx = x[i] - g->mx, dy = y[i] - g->my, r = g->b1 * dx - dy;
        sum += (double)r * r;
        if (!coarse) continue;
        coarse[i] = g->slope * (dy - g->pull * dx) + g->level;
        fine[i] = 2 * g->b1 * r;
    }
    return sum;
}

static void blend_c(fvi_out y, const float *a, const float *b, int64_t n, float scale, float w)
{
    for (int64_t i = 0; i < n; i++) fvi_put(y, i, scale * (a[i] + w * b[i]));
}

/* ---- Masked difference ----------------------------------------------------------------------- */

static double sum_c(fvi_in x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += fvi_get(x, i);
    return sum;
}

static double sqdev_c(fvi_in x, float mean, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const float d = fvi_get(x, i) - mean;
        sum += (double)d * d;
    }
    return sum;
}

static float kept(float x, float mean, float bound) { return fabsf(x - mean) < bound ? x : 0.0f; }

static double kept_sqdiff_c(fvi_in a, fvi_in b, const fvi_keep *k, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const float d = kept(fvi_get(a, i), k->a_mean, k->a_bound) -
                        kept(fvi_get(b, i), k->b_mean, k->b_bound);
        sum += (double)d * d;
    }
    return sum;
}

static void kept_diff_c(fvi_out y, fvi_in a, fvi_in b, const fvi_keep *k, int64_t n, float scale)
{
    for (int64_t i = 0; i < n; i++) {
        const float v = fvi_get(a, i);
        const float d = v - kept(fvi_get(b, i), k->b_mean, k->b_bound);
        fvi_put(y, i, fabsf(v - k->a_mean) < k->a_bound ? scale * d : 0.0f);
    }
}

void fvi_distill_init(fvi_distill_ops *o, uint32_t cpu)
{
    const fvi_distill_ops c = { moments_c, residual_c, blend_c, sum_c, sqdev_c, kept_sqdiff_c,
                                kept_diff_c };
    *o = c;
#if defined(__x86_64__)
    if (cpu & FV_CPU_AVX2) fvi_distill_init_avx2(o);
    if (cpu & FV_CPU_AVX512) fvi_distill_init_avx512(o);
#endif
    (void)cpu;
}
