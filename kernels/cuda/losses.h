/* losses.h - private: LIFT and PLACE, amplitudes of patches, and the band filter's layouts.
 * Definitions: op_place.c, op_spectrum.c.
 *
 * place: a block a row (sample and channel) of n elements. Sorting is bitonic, in pieces of FVK_SORT
 * keys in shared memory; only steps over longer distances go through global memory. Groups then
 * belong to warps, or a few large ones to the whole block; each is read three times (means, moments,
 * residuals), from the caches. Gradients take the place of x and y.
 *
 * spectrum: a block a patch of at most FVK_PATCH^2, both pictures as one complex plane in shared memory;
 * transforms by their definition, P multiplications an element and axis, which is what keeps any P of
 * the op in one launch, forward, gradient and back. */
#ifndef FV_CUDA_LOSSES_H
#define FV_CUDA_LOSSES_H

#include "cuda/dialect.h"

#include <math.h>

/* y (+)= dy scale (s + w s[n + ..]) */
FVK_KERNEL(kept_dx)
{
    PHASE(t) {
        const float scale = (float)((double)*a->dy * a->scale), w = a->w ? *a->w : 0.0f;
        EACH(i, t, a->n) {
            const float v = a->w ? a->s[i] + w * a->s[a->n + i] : a->s[i];
            fvk_put(a->y, i, scale * v);
        }
    }
}

/* y = scale times the sum; one block */
FVK_KERNEL(total)
{
    SHARED(double, sum, FVK_THREADS);
    (void)block_;
    (void)grid_;
    PHASE(t) {
        double s = 0;
        for (int64_t i = t; i < a->n; i += FVK_THREADS) s += a->part[i];
        sum[t] = s;
    }
    TREE_SUM(sum);
    PHASE(t) {
        if (t == 0) *a->y = (float)(a->scale * sum[0]);
    }
}

/* ---- LIFT and PLACE -------------------------------------------------------------------------- */

/* Where element i of the rows [rows, n] is in [B, P, C]. */
FVK_FN int64_t fvk_place_at(const fvk_place_args *a, int64_t i)
{
    const int64_t row = i / a->n, k = i % a->n, per = a->used / a->columns, b = row / per;
    const int64_t pixel = k / a->columns, c = row % per * a->columns + k % a->columns;
    return (b * a->P + pixel) * a->C + c;
}

FVK_KERNEL(place_rows)
{
    PHASE(t) EACH(i, t, a->rows * a->n) {
        const int64_t at = fvk_place_at(a, i);
        a->x[i] = fvk_get(a->from[0], at);
        a->y[i] = fvk_get(a->from[1], at);
    }
}

/* Both gradients of the rows at their places in terms [2, N]; zeros where no row is. */
FVK_KERNEL(place_terms)
{
    const int64_t N = a->B * a->P * a->C;
    PHASE(t) EACH(i, t, N) {
        const int64_t c = i % a->C, pixel = i / a->C % a->P, b = i / a->C / a->P;
        const int64_t row = b * (a->used / a->columns) + c / a->columns;
        const int64_t at = row * a->n + pixel * a->columns + c % a->columns;
        a->terms[i] = c < a->used ? a->x[at] : 0.0f;
        a->terms[N + i] = c < a->used ? a->y[at] : 0.0f;
    }
}

/* Orders as |y - x|, equal ones by position; what fills up comes last. */
FVK_FN uint64_t fvk_place_key(const float *x, const float *y, int64_t i, int64_t n)
{
    if (i >= n) return ~(uint64_t)0;
    return (uint64_t)FVK_BITS(fabsf(y[i] - x[i])) << 32 | (uint32_t)i;
}

/* Pair i of a step of a bitonic sort; key[0] is number `first` of all. */
FVK_FN void fvk_exchange_keys(uint64_t *key, int64_t i, int64_t step, int64_t size, int64_t first)
{
    const int64_t low = i / step * 2 * step + i % step, high = low + step;
    const uint64_t p = key[low], q = key[high];
    const int rises = ((first + low) & size) == 0;
    if ((p > q) != rises) return;
    key[low] = q;
    key[high] = p;
}

FVK_FN float fvk_sign(float v) { return v > 0 ? 1.0f : v < 0 ? -1.0f : 0.0f; }

typedef struct fvk_place_map { float b1, pull, slope, level; double cost, m; } fvk_place_map;

/* The map of a group of n elements from its moments: fit() and shrink_of() of op_place.c. */
FVK_FN fvk_place_map fvk_place_fit(const fvk_place_args *a, int64_t n, float mx, float my, float vx,
                                   float vy, float cov)
{
    const float eps = a->eps_of_sum ? a->eps / (float)n : a->eps;
    float more = 0, below = vx + eps;
    int moves = 1;
    fvk_place_map g;
    if (a->guarded) {
        const float least = 1e-4f * vy > eps ? 1e-4f * vy : eps;
        more = eps * (eps / (eps + vy));
        below = vx + more;
        moves = !(below < 0.999f * least);
        if (!moves) below = least;
    }
    g.b1 = (cov + more) / below;
    const float off = g.b1 - 1, b0 = (float)((double)my - (double)g.b1 * mx);
    const float s1 = a->squared ? 2 * off : fvk_sign(off);
    const float s0 = a->squared ? 2 * b0 : fvk_sign(b0);
    const double l1 = fabs((double)off) + fabs((double)b0);
    g.pull = moves ? 2 * g.b1 : 0;
    g.slope = (s1 - s0 * mx) / below;
    g.level = -s0 * g.b1;
    g.cost = a->squared ? (double)off * off + (double)b0 * b0 : l1;
    g.m = a->guarded && l1 > 10 ? 10 : l1;
    return g;
}

/* Elements of group g. */
FVK_FN int64_t fvk_place_length(const fvk_place_args *a, int64_t g)
{
    return g >= a->G ? 0 : g == a->G - 1 ? a->n - g * a->K : a->K;
}

/* Element i of the order of a row. */
FVK_FN int64_t fvk_place_nth(const uint64_t *order, int64_t i)
{
    return order ? (int64_t)(uint32_t)order[i] : i;
}

#define FVK_TEAM_SUM(x)                  \
    if (team == 32) { WARP_SUM(x); }     \
    else { BLOCK_SUM(x); }

FVK_KERNEL(place)
{
    SHARED(uint64_t, piece, FVK_SORT);
    SHARED(double, sum, FVK_THREADS);
    LOCAL(float, s0);
    LOCAL(float, s1);
    LOCAL(float, s2);
    LOCAL(float, mx);
    LOCAL(float, my);
    LOCALS(double, own, 3); /* coarse, m, fine */
    const int64_t row = block_, n = a->n, all = a->padded;
    const int64_t len = all < FVK_SORT ? all : FVK_SORT;
    float *x = a->x + row * n, *y = a->y + row * n, *cost = a->cost + row * a->G;
    uint64_t *order = all ? a->order + row * all : NULL;
    const int team = a->G >= FVK_THREADS / 32 ? 32 : FVK_THREADS;
    (void)grid_;

    for (int64_t size = len; size <= all && size > 0; size *= 2) {
        for (int64_t step = size / 2; step >= FVK_SORT; step /= 2) PHASE(t) {
            for (int64_t i = t; i < all / 2; i += FVK_THREADS)
                fvk_exchange_keys(order, i, step, size, 0);
        }
        for (int64_t first = 0; first < all; first += len) {
            PHASE(t) for (int64_t i = t; i < len; i += FVK_THREADS)
                piece[i] = size == len ? fvk_place_key(x, y, first + i, n) : order[first + i];
            for (int64_t run = size == len ? 2 : size; run <= size; run *= 2)
                for (int64_t step = run < len ? run / 2 : len / 2; step > 0; step /= 2) PHASE(t) {
                    for (int64_t i = t; i < len / 2; i += FVK_THREADS)
                        fvk_exchange_keys(piece, i, step, run, first);
                }
            PHASE(t) for (int64_t i = t; i < len; i += FVK_THREADS) order[first + i] = piece[i];
        }
    }

    PHASE(t) {
        for (int k = 0; k < 3; k++) AT(own, t)[k] = 0;
    }
    for (int64_t g0 = 0; g0 < a->G; g0 += FVK_THREADS / team) {
        PHASE(t) {
            const int64_t g = g0 + t / team, count = fvk_place_length(a, g);
            float u = 0, v = 0;
            for (int64_t i = t % team; i < count; i += team) {
                const int64_t at = fvk_place_nth(order, g * a->K + i);
                u += x[at];
                v += y[at];
            }
            AT(mx, t) = u;
            AT(my, t) = v;
        }
        FVK_TEAM_SUM(mx);
        FVK_TEAM_SUM(my);
        PHASE(t) {
            const int64_t g = g0 + t / team, count = fvk_place_length(a, g);
            float vx = 0, vy = 0, cov = 0;
            if (count) AT(mx, t) /= (float)count;
            if (count) AT(my, t) /= (float)count;
            for (int64_t i = t % team; i < count; i += team) {
                const int64_t at = fvk_place_nth(order, g * a->K + i);
                const float dx = x[at] - AT(mx, t), dy = y[at] - AT(my, t);
                vx += dx * dx;
                vy += dy * dy;
                cov += dx * dy;
            }
            AT(s0, t) = vx;
            AT(s1, t) = vy;
            AT(s2, t) = cov;
        }
        FVK_TEAM_SUM(s0);
        FVK_TEAM_SUM(s1);
        FVK_TEAM_SUM(s2);
        PHASE(t) {
            const int64_t g = g0 + t / team, count = fvk_place_length(a, g);
            const float inv = count ? 1.0f / (float)count : 0.0f;
            const fvk_place_map f = fvk_place_fit(a, count ? count : 1, AT(mx, t), AT(my, t),
                                                  AT(s0, t) * inv, AT(s1, t) * inv,
                                                  AT(s2, t) * inv);
            for (int64_t i = t % team; i < count; i += team) {
                const int64_t at = fvk_place_nth(order, g * a->K + i);
                const float dx = x[at] - AT(mx, t), dy = y[at] - AT(my, t), r = f.b1 * dx - dy;
                AT(own, t)[2] += (double)r * r;
                x[at] = f.slope * (dy - f.pull * dx) + f.level;
                y[at] = 2 * f.b1 * r;
            }
            if (count && t % team == 0) {
                AT(own, t)[0] += f.cost * (double)count;
                AT(own, t)[1] += f.m * (double)count;
                cost[g] = (float)f.cost;
            }
        }
    }
    for (int k = 0; k < 3; k++) {
        PHASE(t) sum[t] = AT(own, t)[k];
        TREE_SUM(sum);
        PHASE(t) {
            if (t == 0) a->sums[row * FVK_PLACE_SUMS + k] = sum[0];
        }
    }
    PHASE(t) {
        if (t < 10) { /* costs by tenths of the groups: (2 g + 1) 5 / G == t */
            double s = 0;
            for (int64_t g = (t * a->G + 4) / 10; g < ((t + 1) * a->G + 4) / 10; g++) s += cost[g];
            a->sums[row * FVK_PLACE_SUMS + 3 + t] = s;
        }
    }
}
#undef FVK_TEAM_SUM

/* Sums of rows: column `block_` of the sums of a row, over all rows. */
FVK_KERNEL(place_sum)
{
    SHARED(double, sum, FVK_THREADS);
    (void)grid_;
    PHASE(t) {
        double s = 0;
        for (int64_t r = t; r < a->rows; r += FVK_THREADS) s += a->sums[r * FVK_PLACE_SUMS + block_];
        sum[t] = s;
    }
    TREE_SUM(sum);
    PHASE(t) {
        if (t == 0) a->total[block_] = sum[0];
    }
}

/* Loss and parts from the sums of all rows; one thread. */
FVK_KERNEL(place_end)
{
    (void)block_;
    (void)grid_;
    PHASE(t) {
        const double *s = a->total, m = a->is_shared ? a->mean : s[1] / a->count;
        const float w = a->given ? *a->given : a->is_constant ? a->constant
                                             : m < 1 ? (float)(1 - m) : 0.0f;
        if (t == 0) {
            a->part[0] = (float)(s[0] / a->count);
            a->part[1] = (float)(s[2] / a->count);
            a->part[2] = w;
            a->part[3] = (float)m;
            for (int k = 0; k < 10; k++)
                a->part[4 + k] = a->groups[k] > 0 ? (float)(s[3 + k] / a->groups[k]) : 0.0f;
            *a->loss = (float)((s[0] + (double)w * s[2]) / a->count);
            if (!(s[0] - s[0] == 0 && s[1] - s[1] == 0 && s[2] - s[2] == 0 && w - w == 0))
                FVK_RAISE(a->fault, FVK_FAULT_FINITE);
        }
    }
}

/* ---- Amplitudes ------------------------------------------------------------------------------ */

#define FVK_EACH_OWN (FVK_PATCH * FVK_PATCH / FVK_THREADS)

/* One element of a transform along an axis of z [P, P, 2]; wave [P, 2]: cos, -sin. */
FVK_FN void fvk_wave_sum(const float *z, const float *wave, int P, int e, int axis, float turn,
                         float *out)
{
    const int r = e / P, c = e % P, k = axis ? r : c;
    const int from = axis ? c : r * P, stride = axis ? P : 1;
    float re = 0, im = 0;
    for (int j = 0, at = 0; j < P; j++) {
        const float u = z[2 * (from + j * stride)], v = z[2 * (from + j * stride) + 1];
        const float cw = wave[2 * at], sw = turn * wave[2 * at + 1];
        re += u * cw - v * sw;
        im += u * sw + v * cw;
        at += k;
        if (at >= P) at -= P;
    }
    out[0] = re;
    out[1] = im;
}

FVK_KERNEL(spectrum)
{
    SHARED(float, z, 2 * FVK_PATCH * FVK_PATCH);
    SHARED(float, wave, 2 * FVK_PATCH);
    SHARED(double, sum, FVK_THREADS);
    LOCALS(float, v, 2 * FVK_EACH_OWN);
    const int P = (int)a->P, n = P * P;
    const int64_t k = block_, C = a->C, columns = a->W / P, rows = a->H / P;
    const int64_t x = k / C % columns, y = k / C / columns % rows, b = k / C / columns / rows;
    const int64_t first = ((b * a->H + y * P) * a->W + x * P) * C + k % C;
    (void)grid_;
    PHASE(t) {
        for (int i = t; i < 2 * P; i += FVK_THREADS) wave[i] = a->wave[i];
        for (int i = t; i < n; i += FVK_THREADS) {
            const int64_t at = first + (i / P * a->W + i % P) * C;
            z[2 * i] = a->a[at];
            z[2 * i + 1] = a->target[at];
        }
        sum[t] = 0;
    }
    for (int pass = 0; pass < (a->grad ? 4 : 2); pass++) {
        PHASE(t) {
            FVK_UNROLL
            for (int q = 0; q < FVK_EACH_OWN; q++)
                if (t + q * FVK_THREADS < n)
                    fvk_wave_sum(z, wave, P, t + q * FVK_THREADS, pass & 1, pass < 2 ? 1.0f : -1.0f,
                                 AT(v, t) + 2 * q);
        }
        PHASE(t) {
            FVK_UNROLL
            for (int q = 0; q < FVK_EACH_OWN; q++)
                if (t + q * FVK_THREADS < n) {
                    z[2 * (t + q * FVK_THREADS)] = AT(v, t)[2 * q];
                    z[2 * (t + q * FVK_THREADS) + 1] = AT(v, t)[2 * q + 1];
                }
        }
        if (pass != 1) continue;
        /* Transforms of both, apart by their symmetry; the gradient takes their place. */
        PHASE(t) {
            const float unit = 0.5f / (float)P;
            double gaps = 0;
            FVK_UNROLL
            for (int q = 0; q < FVK_EACH_OWN; q++) {
                const int i = t + q * FVK_THREADS;
                if (i >= n) continue;
                const int j = (P - i / P) % P * P + (P - i % P) % P;
                const float ar = unit * (z[2 * i] + z[2 * j]);
                const float ai = unit * (z[2 * i + 1] - z[2 * j + 1]);
                const float tr = unit * (z[2 * i + 1] + z[2 * j + 1]);
                const float ti = unit * (z[2 * j] - z[2 * i]);
                const float size = sqrtf(ar * ar + ai * ai);
                const float d = size - sqrtf(tr * tr + ti * ti);
                const float g = size > 0 ? fvk_sign(d) / size : 0.0f;
                gaps += fabsf(d);
                AT(v, t)[2 * q] = g * ar;
                AT(v, t)[2 * q + 1] = g * ai;
            }
            sum[t] = gaps;
        }
        PHASE(t) {
            FVK_UNROLL
            for (int q = 0; q < FVK_EACH_OWN; q++)
                if (t + q * FVK_THREADS < n) {
                    z[2 * (t + q * FVK_THREADS)] = AT(v, t)[2 * q];
                    z[2 * (t + q * FVK_THREADS) + 1] = AT(v, t)[2 * q + 1];
                }
        }
    }
    TREE_SUM(sum);
    PHASE(t) {
        if (t == 0) a->part[k] = sum[0];
        if (a->grad)
            for (int i = t; i < n; i += FVK_THREADS)
                a->grad[first + (i / P * a->W + i % P) * C] = a->scale * z[2 * i];
    }
}

/* ---- Band filter ----------------------------------------------------------------------------- */

/* [B, H, W, C] to [H, B, C, W], or back. */
FVK_KERNEL(band_turn)
{
    PHASE(t) EACH(i, t, a->B * a->H * a->W * a->C) {
        if (a->is_back) {
            const int64_t c = i % a->C, w = i / a->C % a->W, h = i / a->C / a->W % a->H;
            const int64_t b = i / a->C / a->W / a->H;
            fvk_put(a->y, i, fvk_get(a->x, ((h * a->B + b) * a->C + c) * a->W + w));
        } else {
            const int64_t w = i % a->W, c = i / a->W % a->C, b = i / a->W / a->C % a->B;
            const int64_t h = i / a->W / a->C / a->B;
            fvk_put(a->y, i, fvk_get(a->x, ((b * a->H + h) * a->W + w) * a->C + c));
        }
    }
}

/* z [h, planes, w] times m [h, w] */
FVK_KERNEL(band_mask)
{
    PHASE(t) EACH(i, t, a->h * a->planes * a->w) {
        a->z[i] *= a->m[i / (a->planes * a->w) * a->w + i % a->w];
    }
}

#endif
