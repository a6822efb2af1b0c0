/* maps.h - private: kernels over feature maps [B, H, W, C]; formulas in conv_dnnl.c, op_groupnorm.c,
 * op_layout.c, op_windows.c, op_haar.c, op_pool.c, op_filter.c.
 *
 * A convolution is a product of rows that `unfold` lays out and of weights in the same order, so that
 * tensor cores do what they do for LINEAR. The rows cost kh kw times the map's traffic, which a
 * kernel that unfolds in shared memory would save; which of the two is faster where is for a GPU to
 * show. Neighbouring threads read and write neighbouring channels. */
#ifndef FV_CUDA_MAPS_H
#define FV_CUDA_MAPS_H

#include <math.h>

#include "cuda/dialect.h"
#include "cuda/norm.h"

/* ---- Convolution ----------------------------------------------------------------------------- */

/* Row or column of the source for a place and a tap; -1: outside. */
FVK_FN int32_t fvk_source(const fvk_unfold_args *a, int32_t place, int32_t tap, int32_t pad,
                          int64_t size)
{
    int32_t s = a->transposed ? place + pad - tap : place * a->stride + tap - pad;
    if (s < 0) return -1;
    if (a->transposed && s % a->stride) return -1;
    if (a->transposed) s /= a->stride;
    return s < size ? s : -1;
}

/* In 32 bits, where divisions are cheap. */
FVK_KERNEL(unfold)
{
    const uint32_t C = (uint32_t)a->C, K = (uint32_t)(a->kh * a->kw) * C;
    const uint32_t h = (uint32_t)a->h, w = (uint32_t)a->w;
    PHASE(t) EACH(i, t, a->rows * K) {
        const uint32_t r = (uint32_t)i / K, k = (uint32_t)i % K;
        const uint32_t place = (uint32_t)a->first + r, tap = k / C, line = place / w;
        const int32_t y = fvk_source(a, (int32_t)(line % h), (int32_t)tap / a->kw, a->top, a->H);
        const int32_t x = fvk_source(a, (int32_t)(place % w), (int32_t)tap % a->kw, a->left, a->W);
        const int64_t at = (((int64_t)(line / h) * a->H + y) * a->W + x) * a->C + k % C;
        fvk_put(a->y, i, y >= 0 && x >= 0 ? fvk_get(a->x, at) : 0.0f);
    }
}

FVK_KERNEL(permute)
{
    const int64_t *d = a->dim, *s = a->stride;
    PHASE(t) EACH(i, t, d[0] * d[1] * d[2]) {
        const int64_t at = i / (d[1] * d[2]) * s[0] + i / d[2] % d[1] * s[1] + i % d[2] * s[2];
        fvk_put(a->y, i, fvk_get(a->x, at));
    }
}

/* ---- GroupNorm ------------------------------------------------------------------------------- */

/* A block a group of a sample. */
FVK_KERNEL(group_fold)
{
    SHARED(double, sum, FVK_THREADS);
    SHARED(double, sum2, FVK_THREADS);
    const int64_t G = a->C / a->per, b = block_ / G, g = block_ % G;
    (void)grid_;
    PHASE(t) {
        double u = 0, v = 0;
        for (int64_t i = t; i < a->segments * a->per; i += FVK_THREADS) {
            const int64_t c = g * a->per + i % a->per;
            const int64_t at = (b * a->segments + i / a->per) * a->C + c;
            const double w = a->w ? a->w[c] : 1.0;
            u += w * a->part[at];
            if (a->part2) v += w * a->part2[at];
        }
        sum[t] = u;
        sum2[t] = v;
    }
    PHASE(t) {
        float *y = a->y + 2 * (int64_t)block_;
        double u = 0, v = 0;
        if (t > 0) continue;
        for (int k = 0; k < FVK_THREADS; k++) {
            u += sum[k];
            v += sum2[k];
        }
        if (a->what == FVK_GROUP_RSTD) {
            y[1] = 1.0f / sqrtf((float)(u / a->count) + a->eps);
            continue;
        }
        y[0] = (float)(u / a->count);
        if (a->what == FVK_GROUP_PULLS) y[1] = (float)(v / a->count);
    }
}

FVK_KERNEL(group)
{
    const int64_t G = a->C / a->per;
    PHASE(t) EACH(i, t, a->n) {
        const int64_t c = i % a->C, at = 2 * (i / (a->C * a->T) * G + c / a->per);
        const float rstd = a->stats[at + 1], h = (fvk_get(a->x, i) - a->stats[at]) * rstd;
        const float w = a->w ? a->w[c] : 1.0f;
        if (!a->dy.p) {
            fvk_put(a->y, i, fvi_act_c((fv_act)a->act, h * w + (a->bias ? a->bias[c] : 0.0f)));
            continue;
        }
        const float dv = fvk_group_dv(a->w, a->bias, a->act, h, fvk_get(a->dy, i), c);
        fvk_put(a->y, i, rstd * (dv * w - a->pull[at] - h * a->pull[at + 1]));
    }
}

/* ---- Upsampling, windows --------------------------------------------------------------------- */

/* Forward i counts the large side, back the small one. Lines of both: [B * H] and [B * 2H]. */
FVK_KERNEL(upsample)
{
    const int64_t C = a->C, W = a->W;
    PHASE(t) EACH(i, t, a->n) {
        const int64_t c = i % C;
        if (!a->is_back) {
            const int64_t x = i / C % (2 * W), line = i / (C * 2 * W);
            fvk_put(a->y, i, fvk_get(a->x, (line / 2 * W + x / 2) * C + c));
            continue;
        }
        const int64_t x = i / C % W, line = i / (C * W);
        const int64_t up = (2 * line * 2 * W + 2 * x) * C + c, down = up + 2 * W * C;
        fvk_put(a->y, i, fvk_get(a->x, up) + fvk_get(a->x, up + C) + fvk_get(a->x, down) +
                             fvk_get(a->x, down + C));
    }
}

FVK_FN int64_t fvk_clamp(int64_t i, int64_t n) { return i < 0 ? 0 : i < n ? i : n - 1; }

/* Element i of windows: where it is in the map, and whether that is no copy. */
FVK_FN int64_t fvk_window_source(const fvk_windows_args *a, int64_t i, int *is_inside)
{
    const int64_t c = i % a->C, pixel = i / a->C, within = pixel % (a->side * a->side);
    const int64_t window = pixel / (a->side * a->side), line = window / a->across;
    const int64_t y = line % a->down * a->side + within / a->side - a->shift;
    const int64_t x = window % a->across * a->side + within % a->side - a->shift;
    *is_inside = y >= 0 && y < a->H && x >= 0 && x < a->W;
    return ((line / a->down * a->H + fvk_clamp(y, a->H)) * a->W + fvk_clamp(x, a->W)) * a->C + c;
}

/* First element in the windows of (y, x) counted from the corner of window 0. */
FVK_FN int64_t fvk_window_place(const fvk_windows_args *a, int64_t b, int64_t y, int64_t x)
{
    const int64_t window = (b * a->down + y / a->side) * a->across + x / a->side;
    return ((window * a->side + y % a->side) * a->side + x % a->side) * a->C;
}

/* Element i of the map from windows; sums in raster order. */
FVK_FN float fvk_window_sum(const fvk_windows_args *a, int64_t i)
{
    const int64_t c = i % a->C, x = i / a->C % a->W, line = i / (a->C * a->W);
    const int64_t y = line % a->H, b = line / a->H;
    int64_t y0 = y + a->shift, y1 = y0, x0 = x + a->shift, x1 = x0;
    if (a->what == FVK_WINDOWS_SUM) {
        if (y == 0) y0 = 0;
        if (y == a->H - 1) y1 = a->down * a->side - 1;
        if (x == 0) x0 = 0;
        if (x == a->W - 1) x1 = a->across * a->side - 1;
    }
    float sum = 0;
    for (int64_t r = y0; r <= y1; r++)
        for (int64_t q = x0; q <= x1; q++)
            sum += fvk_get(a->x, fvk_window_place(a, b, r, q) + c);
    return sum;
}

FVK_KERNEL(windows)
{
    PHASE(t) EACH(i, t, a->n) {
        int is_inside = 1;
        if (a->what == FVK_WINDOWS_CUT || a->what == FVK_WINDOWS_SUM) {
            fvk_put(a->y, i, fvk_window_sum(a, i));
            continue;
        }
        const int64_t at = fvk_window_source(a, i, &is_inside);
        fvk_put(a->y, i, a->what == FVK_WINDOWS_FILL || is_inside ? fvk_get(a->x, at) : 0.0f);
    }
}

/* ---- Haar, pooling, filters ------------------------------------------------------------------ */

FVK_KERNEL(haar)
{
    const int64_t C = a->C;
    PHASE(t) EACH(i, t, a->n) {
        const int64_t c = i % C, x = i / C % a->w, line = i / (C * a->w), n = 4 * a->w * C;
        const int64_t large = line * n + 2 * x * C + c, below = large + 2 * a->w * C;
        const int64_t small = line * n + 4 * x * C + c;
        const int64_t from[4] = { a->joins ? small : large, a->joins ? small + C : large + C,
                                  a->joins ? small + 2 * C : below,
                                  a->joins ? small + 3 * C : below + C };
        const float v[4] = { fvk_get(a->x, from[0]), fvk_get(a->x, from[1]),
                             fvk_get(a->x, from[2]), fvk_get(a->x, from[3]) };
        /* Its own inverse: sums and differences of 0 1 and of 2 3, of 0 2 and of 1 3. */
        const float p = 0.5f * (v[0] + v[a->joins ? 2 : 1]), q = 0.5f * (v[0] - v[a->joins ? 2 : 1]);
        const float u = 0.5f * (v[a->joins ? 1 : 2] + v[3]), w = 0.5f * (v[a->joins ? 1 : 2] - v[3]);
        if (a->joins) {
            fvk_put(a->y, large, p + u);
            fvk_put(a->y, large + C, p - u);
            fvk_put(a->y, below, q + w);
            fvk_put(a->y, below + C, q - w);
            continue;
        }
        fvk_put(a->y, small, p + u);
        fvk_put(a->y, small + C, q + w);
        fvk_put(a->y, small + 2 * C, p - u);
        fvk_put(a->y, small + 3 * C, q - w);
    }
}

#define FVK_L2_EPS 1e-12f

/* 1 2 1 by 1 2 1, over 16 */
FVK_FN float fvk_pool_tap(int64_t k) { return (k / 3 == 1 ? 0.5f : 0.25f) * (k % 3 == 1 ? 0.5f : 0.25f); }

/* Where place k of the window at (top, left) is in sample b, or -1. */
FVK_FN int64_t fvk_pool_at(const fvk_pool_args *a, int64_t b, int64_t top, int64_t left, int64_t k)
{
    const int64_t y = top + k / a->size, x = left + k % a->size;
    if (y < 0 || y >= a->H || x < 0 || x >= a->W) return -1;
    return ((b * a->H + y) * a->W + x) * a->C;
}

FVK_KERNEL(pool)
{
    PHASE(t) EACH(i, t, a->n) {
        const int64_t c = i % a->C, x = i / a->C % a->w, line = i / (a->C * a->w);
        const int64_t top = line % a->h * a->stride - a->pad, left = x * a->stride - a->pad;
        float sum = a->is_l2 ? FVK_L2_EPS : 0.0f;
        for (int64_t k = 0; k < a->size * a->size; k++) {
            const int64_t at = fvk_pool_at(a, line / a->h, top, left, k);
            if (at < 0) continue;
            const float v = fvk_get(a->x, at + c);
            if (a->is_l2) sum += fvk_pool_tap(k) * v * v;
            else sum = k == 0 || v > sum ? v : sum;
        }
        fvk_put(a->y, i, a->is_l2 ? sqrtf(sum) : sum);
    }
}

/* Which place of the window has the largest value: the first of equals. */
FVK_FN int64_t fvk_pool_best(const fvk_pool_args *a, int64_t b, int64_t top, int64_t left, int64_t c)
{
    int64_t best = 0;
    float most = 0;
    for (int64_t k = 0; k < a->size * a->size; k++) {
        const float v = fvk_get(a->x, fvk_pool_at(a, b, top, left, k) + c);
        if (k > 0 && !(v > most)) continue;
        most = v;
        best = k;
    }
    return best;
}

/* A pixel asks all windows over it. */
FVK_KERNEL(pool_dx)
{
    PHASE(t) EACH(i, t, a->n) {
        const int64_t c = i % a->C, x = i / a->C % a->W, line = i / (a->C * a->W);
        const int64_t y = line % a->H, b = line / a->H, up = y + a->pad - a->size;
        const int64_t before = x + a->pad - a->size;
        float sum = 0;
        for (int64_t j = up < 0 ? 0 : up / a->stride + 1; j <= (y + a->pad) / a->stride; j++)
            for (int64_t q = before < 0 ? 0 : before / a->stride + 1;
                 q <= (x + a->pad) / a->stride; q++) {
                if (j >= a->h || q >= a->w) continue;
                const int64_t top = j * a->stride - a->pad, left = q * a->stride - a->pad;
                const int64_t k = (y - top) * a->size + x - left;
                const int64_t at = ((b * a->h + j) * a->w + q) * a->C + c;
                if (a->is_l2)
                    sum += fvk_pool_tap(k) * fvk_get(a->x, i) * fvk_get(a->dy, at) /
                           fvk_get(a->out, at);
                else if (fvk_pool_best(a, b, top, left, c) == k)
                    sum += fvk_get(a->dy, at);
            }
        fvk_put(a->y, i, sum);
    }
}

/* Share of source i of n in result o of an axis: sum of the taps that read it. */
FVK_FN float fvk_filter_share(const float *tap, int64_t o, int64_t stride, int64_t i, int64_t n)
{
    float sum = 0;
    for (int k = 0; k < 5; k++)
        if (fvk_clamp(o * stride + k - 2, n) == i) sum += tap[k];
    return sum;
}

FVK_FN float fvk_filtered(const fvk_filter_args *a, int64_t i)
{
    const int64_t c = i % a->C, x = i / a->C % a->w, line = i / (a->C * a->w);
    const int64_t y = line % a->h, b = line / a->h;
    float sum = 0;
    for (int k = 0; k < 5; k++) {
        const int64_t from = fvk_clamp(x * a->stride + k - 2, a->W);
        float column = 0;
        for (int j = 0; j < 5; j++)
            column += a->down[j] *
                      fvk_get(a->x, ((b * a->H + fvk_clamp(y * a->stride + j - 2, a->H)) * a->W +
                                     from) * a->C + c);
        sum += a->right[k] * column;
    }
    return sum;
}

FVK_FN float fvk_filtered_back(const fvk_filter_args *a, int64_t i)
{
    const int64_t c = i % a->C, x = i / a->C % a->W, line = i / (a->C * a->W);
    const int64_t y = line % a->H, b = line / a->H;
    float sum = 0;
    for (int64_t j = y < 2 ? 0 : (y - 2) / a->stride; j * a->stride <= y + 2 && j < a->h; j++) {
        const float down = fvk_filter_share(a->down, j, a->stride, y, a->H);
        for (int64_t q = x < 2 ? 0 : (x - 2) / a->stride; q * a->stride <= x + 2 && q < a->w; q++)
            sum += down * fvk_filter_share(a->right, q, a->stride, x, a->W) *
                   fvk_get(a->x, ((b * a->h + j) * a->w + q) * a->C + c);
    }
    return sum;
}

FVK_KERNEL(filter)
{
    PHASE(t) EACH(i, t, a->n) {
        fvk_put(a->y, i, a->is_back ? fvk_filtered_back(a, i) : fvk_filtered(a, i));
    }
}

#endif
