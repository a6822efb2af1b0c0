/* rows.h - private: kernels over rows, and losses; formulas in op_mix_rows.c, op_unit_qk.c, op_vq.c,
 * op_wkv.c, op_loss.c, op_masked_mse.c.
 *
 * Losses are sums of segments in double, then one block that adds them in order: no atomics. */
#ifndef FV_CUDA_ROWS_H
#define FV_CUDA_ROWS_H

#include <math.h>

#include "cuda/dialect.h"

/* ---- Mixed rows ------------------------------------------------------------------------------ */

/* Row of x for entry k; -1: none. */
FVK_FN int64_t fvk_mixed_row(const fvk_mix_rows_args *a, int64_t k)
{
    const int64_t at = a->index[k];
    if (at >= -1 && at < a->T) return a->weight[k] != 0.0f ? at : -1;
    FVK_RAISE(a->fault, FVK_FAULT_ID);
    return -1;
}

FVK_KERNEL(mix_rows)
{
    PHASE(t) EACH(i, t, a->B * a->R * a->C) {
        const int64_t c = i % a->C, r = i / a->C % a->R, b = i / (a->C * a->R);
        float sum = 0;
        for (int64_t k = r * a->m; k < (r + 1) * a->m; k++) {
            const int64_t at = fvk_mixed_row(a, k);
            if (at >= 0) sum += a->weight[k] * fvk_get(a->x, (b * a->T + at) * a->C + c);
        }
        fvk_put(a->y, i, sum);
    }
}

/* Rows repeat: a thread owns a column of a sample and adds in order. y was cleared or is added to. */
FVK_KERNEL(mix_rows_dx)
{
    PHASE(t) EACH(i, t, a->B * a->C) {
        const int64_t c = i % a->C, b = i / a->C;
        for (int64_t k = 0; k < a->R * a->m; k++) {
            const int64_t at = fvk_mixed_row(a, k);
            if (at < 0) continue;
            fvk_put(a->y, (b * a->T + at) * a->C + c,
                    a->weight[k] * fvk_get(a->x, (b * a->R + k / a->m) * a->C + c));
        }
    }
}

/* ---- Rows by their ids ----------------------------------------------------------------------- */

#define FVK_ID_COLUMNS 4 /* of a thread at a time */

/* Which of FVK_THREADS ids are this row's is known to all threads; most hundreds have none of it. */
FVK_KERNEL(by_id)
{
    SHARED(int32_t, is_mine, FVK_THREADS);
    LOCAL(float, found);
    LOCAL(float, any);
    LOCAL(float, all);
    LOCALS(float, sum, FVK_ID_COLUMNS);
    const int64_t v = block_, wide = FVK_ID_COLUMNS * FVK_THREADS;
    (void)grid_;
    for (int64_t c0 = 0; c0 < a->D; c0 += wide) {
        PHASE(t) {
            AT(any, t) = AT(all, t) = 0;
            FVK_UNROLL for (int q = 0; q < FVK_ID_COLUMNS; q++) AT(sum, t)[q] = 0;
        }
        for (int64_t i0 = 0; i0 < a->n; i0 += FVK_THREADS) {
            PHASE(t) {
                const int64_t i = i0 + t, id = i < a->n ? a->ids[i] : -1;
                if (v == 0 && i < a->n && (id >= a->V || id < (a->has_none ? -1 : 0)))
                    FVK_RAISE(a->fault, FVK_FAULT_ID);
                is_mine[t] = id == v;
                AT(found, t) = id == v ? 1.0f : 0.0f;
            }
            BLOCK_SUM(found);
            if (AT(found, 0) == 0) continue;
            PHASE(t) {
                AT(any, t) = 1;
                for (int k = 0; k < FVK_THREADS; k++) {
                    if (!is_mine[k]) continue;
                    const int64_t at = (i0 + k) / a->per * a->D + c0 + t;
                    const float by = a->by ? a->by[i0 + k] : 1.0f;
                    AT(all, t) += by;
                    FVK_UNROLL for (int q = 0; q < FVK_ID_COLUMNS; q++)
                        if (c0 + t + q * FVK_THREADS < a->D)
                            AT(sum, t)[q] += by * fvk_get(a->x, at + q * FVK_THREADS);
                }
            }
        }
        PHASE(t) {
            if (AT(any, t) == 0) continue;
            FVK_UNROLL for (int q = 0; q < FVK_ID_COLUMNS; q++)
                if (a->y.p && c0 + t + q * FVK_THREADS < a->D)
                    fvk_put(a->y, v * a->D + c0 + t + q * FVK_THREADS, AT(sum, t)[q]);
            if (c0 == 0 && t == 0 && a->sums.p) fvk_put(a->sums, v, AT(all, t));
        }
    }
}

/* ---- Rows of unit length --------------------------------------------------------------------- */

FVK_KERNEL(unit)
{
    LOCAL(float, xx);
    LOCAL(float, xy);
    (void)grid_;
    PHASE(t) {
        const int64_t u = (int64_t)block_ * (FVK_THREADS / 32) + t / 32;
        float s = 0, p = 0;
        for (int64_t i = t % 32; u < a->rows && i < a->hd; i += 32) {
            const float x = fvk_get(a->x, u * a->hd + i);
            s += x * x;
            if (a->dy.p) p += x * fvk_get(a->dy, u * a->hd + i);
        }
        AT(xx, t) = s;
        AT(xy, t) = p;
    }
    WARP_SUM(xx);
    WARP_SUM(xy);
    PHASE(t) {
        const int64_t u = (int64_t)block_ * (FVK_THREADS / 32) + t / 32;
        if (u >= a->rows) continue;
        const int64_t part = a->h ? u / a->h % 3 : 1, head = a->h ? u % a->h : 0;
        const float length = sqrtf(AT(xx, t)), inv = 1.0f / (length > a->eps ? length : a->eps);
        const float s = part == 0 ? expf(fminf(a->scale[head], a->most)) : 1.0f;
        const float along = AT(xy, t) * inv, pull = length > a->eps ? along * inv : 0.0f;
        if (a->along && part == 0 && t % 32 == 0)
            a->along[u / (3 * a->h) * a->h + head] =
                a->scale[head] <= a->most ? s * along : 0.0f;
        for (int64_t i = t % 32; a->y.p && i < a->hd; i += 32) {
            const int64_t at = u * a->hd + i;
            const float x = fvk_get(a->x, at), dy = a->dy.p ? fvk_get(a->dy, at) : 0.0f;
            if (part == 2) fvk_put(a->y, at, a->dy.p ? dy : x);
            else fvk_put(a->y, at, a->dy.p ? s * inv * (dy - pull * x) : s * inv * x);
        }
    }
}

/* ---- lerp ------------------------------------------------------------------------------------ */

FVK_FN float fvk_lerp_other(const fvk_lerp_args *a, int64_t i)
{
    const int64_t row = i / a->C;
    if (a->b.p) return fvk_get(a->b, i);
    if (row % a->T) return fvk_get(a->a, i - a->C);
    return a->prev.p ? fvk_get(a->prev, row / a->T * a->C + i % a->C) : 0.0f;
}

FVK_KERNEL(lerp)
{
    PHASE(t) EACH(i, t, a->n) {
        const float mix = a->mix[i % a->C];
        if (a->what == FVK_LERP) {
            const float x = fvk_get(a->a, i);
            fvk_put(a->y, i, x + (fvk_lerp_other(a, i) - x) * mix);
            continue;
        }
        const float dy = fvk_get(a->dy, i);
        float g = a->what == FVK_LERP_DB ? dy * mix : dy - dy * mix;
        if (a->what == FVK_LERP_DA && !a->b.p && i / a->C % a->T + 1 < a->T)
            g += fvk_get(a->dy, i + a->C) * mix; /* what the next row took */
        fvk_put(a->y, i, g);
    }
}

/* ---- Codes ----------------------------------------------------------------------------------- */

/* A block a row. Products fuse multiply and add in the order of the components, as on every CPU. */
FVK_KERNEL(nearest)
{
    SHARED(float, best, FVK_THREADS);
    SHARED(int32_t, which, FVK_THREADS);
    const float *z = a->z + (int64_t)block_ * a->D;
    (void)grid_;
    PHASE(t) {
        best[t] = -INFINITY;
        which[t] = 0;
        for (int64_t v = t; v < a->V; v += FVK_THREADS) {
            float sum = 0;
            for (int64_t d = 0; d < a->D; d++) sum = fmaf(z[d], a->codes[v * a->D + d], sum);
            if (!(sum > best[t])) continue;
            best[t] = sum;
            which[t] = (int32_t)v;
        }
    }
    for (int s = FVK_THREADS / 2; s > 0; s /= 2) PHASE(t) {
        if (t >= s) continue;
        const int is_better = best[t + s] > best[t] ||
                              (best[t + s] == best[t] && which[t + s] < which[t]);
        if (!is_better) continue;
        best[t] = best[t + s];
        which[t] = which[t + s];
    }
    PHASE(t) {
        if (t == 0) a->index[block_] = which[0];
    }
}

FVK_KERNEL(chosen)
{
    PHASE(t) EACH(i, t, a->V * a->D) {
        const int64_t d = i % a->D, v = i / a->D;
        double sum = 0;
        for (int64_t k = 0; k < a->n; k++)
            if (a->ids[k] == v) sum += a->codes[i] - a->z[k * a->D + d];
        fvk_put(a->y, i, (float)(a->scale * a->dy[0] * sum));
    }
}

/* ---- Sums over pairs ------------------------------------------------------------------------- */

FVK_FN float fvk_pair_b(const fvk_pairs_args *a, int64_t i)
{
    if (!a->b.p) return 0.0f;
    if (!a->ids) return fvk_get(a->b, i);
    const int64_t id = a->ids[i / a->D];
    if (id >= 0 && id < a->V) return fvk_get(a->b, id * a->D + i % a->D);
    FVK_RAISE(a->fault, FVK_FAULT_ID);
    return fvk_get(a->a, i); /* no difference */
}

/* x where it is within the bound of its mean, else 0. */
FVK_FN float fvk_kept(const float *mean_bound, float x)
{
    return fabsf(x - mean_bound[0]) < mean_bound[1] ? x : 0.0f;
}

FVK_FN double fvk_pair_term(const fvk_pairs_args *a, const float *keep, int64_t i, double *second)
{
    const float x = fvk_get(a->a, i), y = fvk_pair_b(a, i);
    const double d = (double)x - y;
    switch (a->what) {
    case FVK_PAIR_SQUARES: return d * d;
    case FVK_PAIR_HUBER: return fabs(d) < 1.0 ? 0.5 * d * d : fabs(d) - 0.5;
    case FVK_PAIR_ABS: return fabs(d);
    case FVK_PAIR_PRODUCTS: return (double)x * y;
    case FVK_PAIR_SUMS: *second = y; return x;
    case FVK_PAIR_DEVIATIONS: {
        const double u = (double)x - keep[0], v = (double)y - keep[2];
        *second = v * v;
        return u * u;
    }
    default: {
        const double kept = (double)fvk_kept(keep, x) - fvk_kept(keep + 2, y);
        return kept * kept;
    }
    }
}

/* Block: segment of a sample. */
FVK_KERNEL(pairs)
{
    SHARED(double, sum, FVK_THREADS);
    SHARED(double, sum2, FVK_THREADS);
    const int64_t b = block_ / a->segments, s = block_ % a->segments;
    const int64_t t0 = a->T * s / a->segments, t1 = a->T * (s + 1) / a->segments;
    const float *keep = a->keep ? a->keep + 4 * b : 0;
    (void)grid_;
    PHASE(t) {
        double u = 0, v = 0;
        for (int64_t i = b * a->T + t0 + t; i < b * a->T + t1; i += FVK_THREADS) {
            double second = 0;
            u += fvk_pair_term(a, keep, i, &second);
            v += second;
        }
        sum[t] = u;
        sum2[t] = v;
    }
    TREE_SUM(sum)
    TREE_SUM(sum2)
    PHASE(t) {
        if (t > 0) continue;
        a->part[2 * (int64_t)block_] = sum[0];
        a->part[2 * (int64_t)block_ + 1] = sum2[0];
    }
}

FVK_FN float fvk_pair_slope(const fvk_pairs_args *a, const float *keep, int64_t i)
{
    const float x = fvk_get(a->a, i), y = fvk_pair_b(a, i), d = x - y;
    switch (a->what) {
    case FVK_PAIR_HUBER: return d < -1.0f ? -1.0f : d > 1.0f ? 1.0f : d;
    case FVK_PAIR_ABS: return d > 0 ? 1.0f : d < 0 ? -1.0f : 0.0f;
    case FVK_PAIR_KEPT:
        return fabsf(x - keep[0]) < keep[1] ? x - fvk_kept(keep + 2, y) : 0.0f;
    default: return d;
    }
}

FVK_KERNEL(pairs_dx)
{
    PHASE(t) EACH(i, t, a->B * a->T) {
        const int64_t b = i / a->T;
        const double w = a->w ? a->w[b] : 1.0;
        const float g = (float)(a->scale * a->dy[0] * w);
        fvk_put(a->y, i, g * fvk_pair_slope(a, a->keep ? a->keep + 4 * b : 0, i));
    }
}

FVK_FN double fvk_pair_sum(const fvk_pairs_fold_args *a, int64_t b, int which)
{
    double sum = 0;
    for (int64_t s = 0; s < a->segments; s++) sum += a->part[2 * (b * a->segments + s) + which];
    return sum;
}

FVK_FN void fvk_fold_sample(const fvk_pairs_fold_args *a, int64_t b)
{
    if (a->what == FVK_FOLD_EACH) {
        fvk_put(a->y, b, (float)(a->scale * a->dy[0] * fvk_pair_sum(a, b, 0)));
        return;
    }
    for (int k = 0; k < 2; k++) {
        const double mean = a->scale * fvk_pair_sum(a, b, k);
        const float v = (float)(a->what == FVK_FOLD_BOUNDS ? a->width * sqrt(mean) : mean);
        if (!(fabsf(v) < INFINITY)) FVK_RAISE(a->fault, FVK_FAULT_FINITE);
        fvk_put(a->y, 4 * b + 2 * k + (a->what == FVK_FOLD_BOUNDS), v);
    }
}

/* TOTAL: one block. */
FVK_KERNEL(pairs_fold)
{
    SHARED(double, sum, FVK_THREADS);
    PHASE(t) {
        sum[t] = 0;
        EACH(b, t, a->B) {
            if (a->what != FVK_FOLD_TOTAL) fvk_fold_sample(a, b);
            else sum[t] += (a->w ? a->w[b] : 1.0) * fvk_pair_sum(a, b, 0);
        }
    }
    TREE_SUM(sum)
    PHASE(t) {
        if (t == 0 && a->what == FVK_FOLD_TOTAL) fvk_put(a->y, 0, (float)(a->scale * sum[0]));
    }
}

/* ---- Cross-entropy --------------------------------------------------------------------------- */

FVK_KERNEL(softmax)
{
    SHARED(float, top, FVK_THREADS);
    SHARED(float, top2, FVK_THREADS);
    SHARED(double, sum, FVK_THREADS);
    SHARED(double, sum2, FVK_THREADS);
    SHARED(double, dot, FVK_THREADS);
    const int64_t row = (int64_t)block_ * a->V, V = a->V;
    const int is_soft = a->target.p != 0;
    (void)grid_;
    PHASE(t) {
        top[t] = top2[t] = -INFINITY;
        for (int64_t v = t; v < V; v += FVK_THREADS) {
            const float x = fvk_get(a->x, row + v), y = is_soft ? fvk_get(a->target, row + v) : 0;
            if (x > top[t]) top[t] = x; /* a NaN is found by the sum */
            if (y > top2[t]) top2[t] = y;
        }
    }
    TREE_MAX(top)
    TREE_MAX(top2)
    PHASE(t) {
        double s = 0, u = 0, p = 0;
        for (int64_t v = t; v < V; v += FVK_THREADS) {
            const float x = fvk_get(a->x, row + v);
            s += expf(x - top[0]);
            if (!is_soft) continue;
            const double e = expf(fvk_get(a->target, row + v) - top2[0]);
            u += e;
            p += e * x;
        }
        sum[t] = s;
        sum2[t] = u;
        dot[t] = p;
    }
    TREE_SUM(sum)
    TREE_SUM(sum2)
    TREE_SUM(dot)
    PHASE(t) {
        const float inv = (float)(1.0 / sum[0]), inv2 = is_soft ? (float)(1.0 / sum2[0]) : 0.0f;
        for (int64_t v = t; a->probs.p && v < V; v += FVK_THREADS) {
            float p = expf(fvk_get(a->x, row + v) - top[0]) * inv;
            if (is_soft) p -= expf(fvk_get(a->target, row + v) - top2[0]) * inv2;
            fvk_put(a->probs, row + v, p);
        }
        if (t > 0) continue;
        const double lse = top[0] + log(sum[0]);
        const int64_t label = a->label ? a->label[block_] : -1;
        const int is_label = label >= 0 && label < V;
        if (a->label && !is_label && label != -1) FVK_RAISE(a->fault, FVK_FAULT_ID);
        a->loss[block_] = is_soft    ? lse - dot[0] / sum2[0]
                          : is_label ? lse - fvk_get(a->x, row + label)
                                     : 0.0;
    }
}

FVK_KERNEL(labels)
{
    SHARED(double, sum, FVK_THREADS);
    SHARED(double, used, FVK_THREADS);
    PHASE(t) {
        sum[t] = used[t] = 0;
        EACH(i, t, a->n) {
            if (a->loss) sum[t] += (a->w ? a->w[i] : 1.0) * a->loss[i];
            used[t] += !a->label || a->label[i] >= 0;
        }
    }
    TREE_SUM(sum)
    TREE_SUM(used)
    PHASE(t) {
        if (t > 0) continue;
        if (a->y) a->y[0] = used[0] > 0 ? (float)(a->scale * sum[0] / used[0]) : 0.0f;
        if (a->number) a->number[0] = (float)used[0];
    }
}

FVK_KERNEL(softmax_dx)
{
    const float scale = a->number[0] > 0 ? a->dy[0] / a->number[0] : 0.0f;
    PHASE(t) EACH(i, t, a->n * a->V) {
        const int64_t row = i / a->V, label = a->label ? a->label[row] : 0;
        float p = fvk_get(a->p, i);
        if (a->label && label == i % a->V) p -= 1.0f;
        fvk_put(a->y, i, label < 0 ? 0.0f : scale * (a->w ? a->w[row] : 1.0f) * p);
    }
}

#endif
