/* norm.h - private: norms, rotary positions, and sums over rows.
 *
 * norm, norm_dx: a block a row; the row is read again rather than kept, the second time from the L1
 * cache. Memory bound: 2 to 4 bytes in and out per element. norm_rows, norm_rows_dx: a warp a row of
 * whole eights, up to 2048 columns, which stay in registers (dx reads them again): no barriers, 16-byte
 * accesses.
 * rope, rope_dx: a warp a norm (one head, or all heads of q or k).
 * columns: 32 columns a block, 8 rows at a time, within a segment of rows; fold and norm_fold then
 * add the segments in order. Formulas: op_norm.c and op_rope.c. */
#ifndef FV_CUDA_NORM_H
#define FV_CUDA_NORM_H

#include "cuda/dialect.h"
#include "cuda/pointwise.h"

FVK_FN float fvk_norm_gain(const fvk_norm_args *a, int64_t b, int64_t c)
{
    const float s = a->scale ? 1.0f + a->scale[b * a->stride + c] : 1.0f;
    return a->w ? s * a->w[c] : s;
}

FVK_KERNEL(norm)
{
    const int64_t row = block_, C = a->C, b = row / a->T;
    LOCAL(float, mean);
    LOCAL(float, sq);
    (void)grid_;
    PHASE(t) {
        float sum = 0;
        if (!a->rms)
            for (int64_t c = t; c < C; c += FVK_THREADS) sum += fvk_get(a->x, row * C + c);
        AT(mean, t) = sum;
    }
    BLOCK_SUM(mean);
    PHASE(t) {
        float sum = 0;
        AT(mean, t) /= (float)C;
        for (int64_t c = t; c < C; c += FVK_THREADS) {
            const float d = fvk_get(a->x, row * C + c) - AT(mean, t);
            sum += d * d;
        }
        AT(sq, t) = sum;
    }
    BLOCK_SUM(sq);
    PHASE(t) {
        const float m = AT(mean, t), rstd = 1.0f / sqrtf(AT(sq, t) / (float)C + a->eps);
        for (int64_t c = t; c < C; c += FVK_THREADS) {
            const float s = a->scale ? 1.0f + a->scale[b * a->stride + c] : 1.0f;
            float offset = a->shift ? a->shift[b * a->stride + c] : 0.0f;
            if (a->bias) offset += a->bias[c] * s;
            fvk_put(a->y, row * C + c,
                    (fvk_get(a->x, row * C + c) - m) * rstd * fvk_norm_gain(a, b, c) + offset);
        }
        if (t == 0 && a->stats) {
            a->stats[2 * row] = m;
            a->stats[2 * row + 1] = rstd;
        }
    }
}

FVK_KERNEL(norm_dx)
{
    const int64_t row = block_, C = a->C, b = row / a->T;
    const float m = a->stats[2 * row], rstd = a->stats[2 * row + 1];
    LOCAL(float, s1);
    LOCAL(float, s2);
    (void)grid_;
    PHASE(t) {
        float u = 0, v = 0;
        for (int64_t c = t; c < C; c += FVK_THREADS) {
            const float h = fvk_get(a->dy, row * C + c) * fvk_norm_gain(a, b, c);
            u += h;
            v += h * ((fvk_get(a->x, row * C + c) - m) * rstd);
        }
        AT(s1, t) = u;
        AT(s2, t) = v;
    }
    BLOCK_SUM(s1);
    BLOCK_SUM(s2);
    PHASE(t) {
        const float m1 = a->rms ? 0.0f : AT(s1, t) / (float)C, m2 = AT(s2, t) / (float)C;
        for (int64_t c = t; c < C; c += FVK_THREADS) {
            const float h = fvk_get(a->dy, row * C + c) * fvk_norm_gain(a, b, c);
            const float xh = (fvk_get(a->x, row * C + c) - m) * rstd;
            fvk_put(a->y, row * C + c, rstd * (h - m1 - xh * m2));
        }
    }
}

/* ---- A warp a row ---------------------------------------------------------------------------- */

#define FVK_ROW_EIGHTS (FVK_NORM_MOST / 256) /* of a lane */

FVK_FN fvk_eight fvk_ones(float v)
{
    fvk_eight r;
    FVK_UNROLL
    for (int k = 0; k < 8; k++) r.v[k] = v;
    return r;
}

/* Eight of a vector of the parameters, or of a modulation; v where there is none. */
FVK_FN fvk_eight fvk_of_row(const float *p, int64_t at, float v)
{
    const fvk_in x = { p, 0 };
    return p ? fvk_get8(x, at) : fvk_ones(v);
}

FVK_FN fvk_eight fvk_gain8(const fvk_norm_args *a, int64_t b, int64_t c)
{
    fvk_eight s = fvk_of_row(a->scale, b * a->stride + c, 0.0f);
    const fvk_eight w = fvk_of_row(a->w, c, 1.0f);
    FVK_UNROLL
    for (int k = 0; k < 8; k++) s.v[k] = (1.0f + s.v[k]) * w.v[k];
    return s;
}

FVK_FN int64_t fvk_warp_row(int block, int t) { return (int64_t)block * (FVK_THREADS / 32) + t / 32; }

/* y = (x - mean) rstd gain + offset for eight columns. */
FVK_FN void fvk_norm8(const fvk_norm_args *a, const float *x, float mean, float rstd, int64_t row,
                      int64_t c)
{
    const int64_t b = fvk_over(row, a->T);
    const fvk_eight gain = fvk_gain8(a, b, c), shift = fvk_of_row(a->shift, b * a->stride + c, 0.0f);
    const fvk_eight scale = fvk_of_row(a->scale, b * a->stride + c, 0.0f);
    const fvk_eight bias = fvk_of_row(a->bias, c, 0.0f);
    fvk_eight y;
    FVK_UNROLL
    for (int k = 0; k < 8; k++)
        y.v[k] = (x[k] - mean) * rstd * gain.v[k] +
                 (a->bias ? shift.v[k] + bias.v[k] * (1.0f + scale.v[k]) : shift.v[k]);
    fvk_put8(a->y, row * a->C + c, y);
}

FVK_KERNEL(norm_rows)
{
    LOCALS(float, x, 8 * FVK_ROW_EIGHTS);
    LOCAL(float, mean);
    LOCAL(float, sq);
    (void)grid_;
    QUIET(t) {
        const int64_t row = fvk_warp_row(block_, t);
        float sum = 0;
        FVK_UNROLL
        for (int j = 0; j < FVK_ROW_EIGHTS; j++) {
            const int64_t c = (j * 32 + t % 32) * 8;
            fvk_eight v = fvk_ones(0.0f);
            if (row < a->rows && c < a->C) v = fvk_get8(a->x, row * a->C + c);
            FVK_UNROLL
            for (int k = 0; k < 8; k++) {
                AT(x, t)[8 * j + k] = v.v[k];
                sum += v.v[k];
            }
        }
        AT(mean, t) = a->rms ? 0.0f : sum;
    }
    WARP_SUM(mean);
    QUIET(t) {
        float sum = 0;
        AT(mean, t) /= (float)a->C;
        FVK_UNROLL
        for (int j = 0; j < FVK_ROW_EIGHTS; j++) {
            if ((j * 32 + t % 32) * 8 >= a->C) continue;
            FVK_UNROLL
            for (int k = 0; k < 8; k++) {
                const float d = AT(x, t)[8 * j + k] - AT(mean, t);
                sum += d * d;
            }
        }
        AT(sq, t) = sum;
    }
    WARP_SUM(sq);
    QUIET(t) {
        const int64_t row = fvk_warp_row(block_, t);
        const float rstd = 1.0f / sqrtf(AT(sq, t) / (float)a->C + a->eps);
        FVK_UNROLL
        for (int j = 0; j < FVK_ROW_EIGHTS; j++) {
            const int64_t c = (j * 32 + t % 32) * 8;
            if (row < a->rows && c < a->C)
                fvk_norm8(a, AT(x, t) + 8 * j, AT(mean, t), rstd, row, c);
        }
        if (t % 32 == 0 && row < a->rows && a->stats) {
            a->stats[2 * row] = AT(mean, t);
            a->stats[2 * row + 1] = rstd;
        }
    }
}

FVK_KERNEL(norm_rows_dx)
{
    LOCAL(float, s1);
    LOCAL(float, s2);
    (void)grid_;
    QUIET(t) {
        const int64_t row = fvk_warp_row(block_, t), b = row < a->rows ? fvk_over(row, a->T) : 0;
        float u = 0, v = 0;
        for (int64_t c = t % 32 * 8; c < a->C && row < a->rows; c += 256) {
            const fvk_eight g = fvk_get8(a->dy, row * a->C + c), gain = fvk_gain8(a, b, c);
            const fvk_eight x = fvk_get8(a->x, row * a->C + c);
            FVK_UNROLL
            for (int k = 0; k < 8; k++) {
                const float h = g.v[k] * gain.v[k];
                u += h;
                v += h * ((x.v[k] - a->stats[2 * row]) * a->stats[2 * row + 1]);
            }
        }
        AT(s1, t) = u;
        AT(s2, t) = v;
    }
    WARP_SUM(s1);
    WARP_SUM(s2);
    QUIET(t) {
        const int64_t row = fvk_warp_row(block_, t), b = row < a->rows ? fvk_over(row, a->T) : 0;
        const float m1 = a->rms ? 0.0f : AT(s1, t) / (float)a->C, m2 = AT(s2, t) / (float)a->C;
        for (int64_t c = t % 32 * 8; c < a->C && row < a->rows; c += 256) {
            const fvk_eight g = fvk_get8(a->dy, row * a->C + c), gain = fvk_gain8(a, b, c);
            const float m = a->stats[2 * row], rstd = a->stats[2 * row + 1];
            fvk_eight x = fvk_get8(a->x, row * a->C + c);
            FVK_UNROLL
            for (int k = 0; k < 8; k++)
                x.v[k] = rstd * (g.v[k] * gain.v[k] - m1 - (x.v[k] - m) * rstd * m2);
            fvk_put8(a->y, row * a->C + c, x);
        }
    }
}

/* ---- Rotary positions ------------------------------------------------------------------------ */

/* Element i of a head: its partner, the angle of both, and whether i is the first of the pair. */
typedef struct fvk_pair { int64_t other; float c, s; int32_t is_first; } fvk_pair;

FVK_FN fvk_pair fvk_pair_of(const fvk_rope_args *a, int64_t token, int64_t i)
{
    const int64_t q = a->hd / 4, half = i >= 2 * q, within = i - half * 2 * q;
    fvk_pair r = { i ^ 1, 1.0f, 0.0f, !(i & 1) };
    int64_t j = i / 2;
    if (!a->neighbours) {
        r.is_first = within < q;
        r.other = r.is_first ? i + q : i - q;
        j = half * q + within - (within < q ? 0 : q);
    }
    if (a->angle) {
        const float *row = a->angle + (token - fvk_over(token, a->T) * a->T) * a->hd;
        r.c = row[j];
        r.s = row[a->hd / 2 + j];
    }
    return r;
}

/* Gradient turned back: du of element i of the head that begins at `head`. */
FVK_FN float fvk_rope_back(const fvk_rope_args *a, int64_t token, int64_t head, int64_t i)
{
    const fvk_pair p = fvk_pair_of(a, token, i);
    const float own = fvk_get(a->gy, head + i), other = fvk_get(a->gy, head + p.other);
    return p.is_first ? own * p.c + other * p.s : own * p.c - other * p.s;
}

/* Units of a warp: (token, which of q k v, norm). */
typedef struct fvk_unit { int64_t token, which, group, first, n; } fvk_unit;

FVK_FN fvk_unit fvk_unit_of(const fvk_rope_args *a, int64_t u)
{
    const int64_t groups = a->wide ? 1 : a->h;
    fvk_unit r;
    r.n = a->wide ? a->h * a->hd : a->hd;
    const int64_t row = fvk_over(u, groups);
    r.group = u - row * groups;
    r.token = fvk_over(row, 3);
    r.which = row - r.token * 3;
    r.first = (r.token * 3 + r.which) * a->h * a->hd + r.group * a->hd;
    return r;
}

#define FVK_UNITS(a) ((a)->tokens * 3 * ((a)->wide ? 1 : (a)->h))

FVK_KERNEL(rope)
{
    LOCAL(float, sum);
    (void)grid_;
    PHASE(t) {
        const int64_t u = (int64_t)block_ * (FVK_THREADS / 32) + t / 32;
        float s = 0;
        if (u < FVK_UNITS(a)) {
            const fvk_unit r = fvk_unit_of(a, u);
            if (r.which < 2 && a->w[r.which])
                for (int64_t e = t % 32; e < r.n; e += 32) {
                    const float x = fvk_get(a->x, r.first + e);
                    s += x * x;
                }
        }
        AT(sum, t) = s;
    }
    WARP_SUM(sum);
    PHASE(t) {
        const int64_t u = (int64_t)block_ * (FVK_THREADS / 32) + t / 32;
        if (u >= FVK_UNITS(a)) continue;
        const fvk_unit r = fvk_unit_of(a, u);
        const float *w = r.which < 2 ? a->w[r.which] : 0;
        const float rstd = w ? 1.0f / sqrtf(AT(sum, t) / (float)r.n + a->eps) : 1.0f;
        for (int64_t e = t % 32; e < r.n; e += 32) {
            const int64_t head = fvk_over(e, a->hd) * a->hd, i = e - head;
            float y = fvk_get(a->x, r.first + e);
            if (r.which < 2) {
                const fvk_pair p = fvk_pair_of(a, r.token, i);
                float other = fvk_get(a->x, r.first + head + p.other);
                if (w) {
                    y *= rstd * w[e];
                    other *= rstd * w[head + p.other];
                }
                y = p.is_first ? y * p.c - other * p.s : other * p.s + y * p.c;
                if (a->rstd && i == 0)
                    a->rstd[(r.token * 2 + r.which) * a->h + r.group + fvk_over(e, a->hd)] = rstd;
            }
            fvk_put(a->y, r.first + e, y);
        }
    }
}

FVK_KERNEL(rope_dx)
{
    LOCAL(float, sum);
    (void)grid_;
    PHASE(t) {
        const int64_t u = (int64_t)block_ * (FVK_THREADS / 32) + t / 32;
        float s = 0;
        if (u < FVK_UNITS(a)) {
            const fvk_unit r = fvk_unit_of(a, u);
            if (r.which < 2 && a->w[r.which]) {
                const float rstd = a->rstd[(r.token * 2 + r.which) * a->h + r.group];
                for (int64_t e = t % 32; e < r.n; e += 32) {
                    const int64_t head = fvk_over(e, a->hd) * a->hd;
                    s += fvk_rope_back(a, r.token, r.first + head, e - head) * a->w[r.which][e] *
                         (fvk_get(a->x, r.first + e) * rstd);
                }
            }
        }
        AT(sum, t) = s;
    }
    WARP_SUM(sum);
    PHASE(t) {
        const int64_t u = (int64_t)block_ * (FVK_THREADS / 32) + t / 32;
        if (u >= FVK_UNITS(a)) continue;
        const fvk_unit r = fvk_unit_of(a, u);
        const float *w = r.which < 2 ? a->w[r.which] : 0;
        const float rstd = w ? a->rstd[(r.token * 2 + r.which) * a->h + r.group] : 1.0f;
        const float mean = AT(sum, t) / (float)r.n;
        for (int64_t e = t % 32; e < r.n; e += 32) {
            const int64_t head = fvk_over(e, a->hd) * a->hd;
            float g = r.which == 2 ? fvk_get(a->gy, r.first + e)
                                   : fvk_rope_back(a, r.token, r.first + head, e - head);
            if (w) g = rstd * (g * w[e] - fvk_get(a->x, r.first + e) * rstd * mean);
            fvk_put(a->y, r.first + e, g);
        }
    }
}

/* ---- Sums over rows -------------------------------------------------------------------------- */

/* Weight e of q or k (group): row is (token, head), or the token when all heads are one norm. */
FVK_FN float fvk_rope_dw(const fvk_rope_args *a, int64_t which, int64_t row, int64_t e)
{
    const int64_t token = a->wide ? row : row / a->h, h = a->wide ? e / a->hd : row % a->h;
    const int64_t head = ((token * 3 + which) * a->h + h) * a->hd, i = e % a->hd;
    return fvk_rope_back(a, token, head, i) *
           (fvk_get(a->x, head + i) * a->rstd[(token * 2 + which) * a->h + h]);
}

/* dy act'(h w + b) of channel c [op_groupnorm.c] */
FVK_FN float fvk_group_dv(const float *w, const float *bias, int act, float h, float dy, int64_t c)
{
    const float v = h * (w ? w[c] : 1.0f) + (bias ? bias[c] : 0.0f);
    return dy * fvi_dact_c((fv_act)act, v);
}

/* What element c of a row adds to the sums of its column. */
FVK_FN float fvk_term(const fvk_columns_args *a, int64_t g, int64_t row, int64_t c, float *second)
{
    const int64_t at = row * a->C + c;
    if (a->kind == FVK_SUM_ROPE) return fvk_rope_dw(&a->rope, g, row - g * a->T, c);
    const float x = fvk_get(a->x, at);
    switch (a->kind) {
    case FVK_SUM_PRODUCT: return x * fvk_get(a->y, at);
    case FVK_SUM_BINARY_DB:
        return fvk_binary_db(a->op, x, fvk_get(a->y, at), fvk_get(a->b, c));
    case FVK_SUM_NORM:
        *second = x * ((fvk_get(a->y, at) - a->stats[2 * row]) * a->stats[2 * row + 1]);
        return x;
    case FVK_SUM_GROUP_SQ: {
        const float d = x - a->stats[2 * (g * (a->C / a->per) + c / a->per)];
        return d * d;
    }
    case FVK_SUM_GROUP: {
        const float *s = a->stats + 2 * (g * (a->C / a->per) + c / a->per);
        const float h = (fvk_get(a->y, at) - s[0]) * s[1];
        const float dv = fvk_group_dv(a->w, a->bias, a->op, h, x, c);
        *second = dv * h;
        return dv;
    }
    case FVK_SUM_LERP: {
        const float now = fvk_get(a->y, at);
        if (a->b.p) return x * (fvk_get(a->b, at) - now);
        if (row % a->steps) return x * (fvk_get(a->y, at - a->C) - now);
        return x * ((a->prev.p ? fvk_get(a->prev, row / a->steps * a->C + c) : 0.0f) - now);
    }
    case FVK_SUM_HEAD: {
        const float *s = a->stats + at / FVK_WKV * 3;
        *second = x;
        return x * ((fvk_get(a->y, at) - s[0]) * s[1]);
    }
    case FVK_SUM_HEAD_U: return a->stats[at / FVK_WKV * 3 + 2] * x * fvk_get(a->y, at);
    default: return x;
    }
}

/* Block: (group, segment, tile of columns), the tile fastest. */
FVK_KERNEL(columns)
{
    SHARED(float, part, FVK_THREADS);
    SHARED(float, part2, FVK_THREADS);
    const int64_t tiles = (a->C + FVK_TILE - 1) / FVK_TILE;
    const int64_t tile = block_ % tiles, item = block_ / tiles;
    const int64_t g = item / a->segments, s = item % a->segments;
    const int64_t r0 = a->T * s / a->segments, r1 = a->T * (s + 1) / a->segments;
    (void)grid_;
    PHASE(t) {
        const int64_t c = tile * FVK_TILE + t % FVK_TILE;
        float sum = 0, sum2 = 0;
        for (int64_t r = r0 + t / FVK_TILE; r < r1 && c < a->C; r += FVK_THREADS / FVK_TILE) {
            float second = 0;
            sum += fvk_term(a, g, g * a->T + r, c, &second);
            sum2 += second;
        }
        part[t] = sum;
        part2[t] = sum2;
    }
    PHASE(t) {
        const int64_t c = tile * FVK_TILE + t;
        if (t >= FVK_TILE || c >= a->C) continue;
        float sum = 0, sum2 = 0;
        for (int k = t; k < FVK_THREADS; k += FVK_TILE) {
            sum += part[k];
            sum2 += part2[k];
        }
        a->part[item * a->C + c] = sum;
        if (a->part2) a->part2[item * a->C + c] = sum2;
    }
}

FVK_KERNEL(fold)
{
    PHASE(t) EACH(i, t, a->groups * a->C) {
        const int64_t g = i / a->C, c = i % a->C;
        double sum = 0;
        for (int64_t s = 0; s < a->segments; s++) sum += a->part[(g * a->segments + s) * a->C + c];
        fvk_put(a->y, g * a->stride + c, (float)(a->scale * sum));
    }
}

FVK_KERNEL(norm_fold)
{
    PHASE(t) EACH(c, t, a->C) {
        double dw = 0, db = 0;
        for (int64_t g = 0; g < a->groups; g++) {
            double D = 0, A = 0;
            for (int64_t s = 0; s < a->segments; s++) {
                D += a->D[(g * a->segments + s) * a->C + c];
                A += a->A[(g * a->segments + s) * a->C + c];
            }
            const double gain = a->scale ? 1.0 + a->scale[g * a->stride + c] : 1.0;
            const double w = a->w ? a->w[c] : 1.0, b = a->bias ? a->bias[c] : 0.0;
            if (a->dshift) a->dshift[g * a->dstride + c] += (float)D;
            if (a->dscale) a->dscale[g * a->dstride + c] += (float)(w * A + b * D);
            dw += gain * A;
            db += gain * D;
        }
        if (a->dw) a->dw[c] += (float)dw;
        if (a->db) a->db[c] += (float)db;
    }
}

/* A block a sample. */
FVK_KERNEL(sample_db)
{
    LOCAL(float, sum);
    const float b = fvk_get(a->b, block_);
    (void)grid_;
    PHASE(t) {
        float s = 0;
        for (int64_t i = t; i < a->per; i += FVK_THREADS) {
            const int64_t at = block_ * a->per + i;
            s += fvk_binary_db(a->op, fvk_get(a->dy, at), fvk_get(a->a, at), b);
        }
        AT(sum, t) = s;
    }
    BLOCK_SUM(sum);
    PHASE(t) {
        if (t == 0) fvk_put(a->db, block_, AT(sum, t));
    }
}

#endif
