/* flash.h - private: attention forward and backward; formulas in op_attention.c.
 *
 * Forward: a block is 32 queries of one head and walks over tiles of 32 keys with a running maximum
 * and sum (Dao et al. 2022, algorithm 1). Eight threads share a query row; each has four scores of
 * a tile and up to 16 columns of the output. Backward (algorithm 4) in tiles of 16: dq a block for
 * 16 queries, dk and dv a block for 16 keys; each output has one writer and one order of sums, no
 * atomics. Products run on the CUDA cores in f32: 4 T S hd FLOP a head over 2 T S / 32 rows read, bound
 * by arithmetic. bf16 has kernels for tensor cores in tensor.h, these are for f32 and what is not aligned.
 *
 * Heads above FVK_HEAD_MOST are products of the device with `scores` and `scores_dx` between them. */
#ifndef FV_CUDA_FLASH_H
#define FV_CUDA_FLASH_H

#include <math.h>

#include "cuda/dialect.h"

#define FVK_ROW (FVK_HEAD_MOST + 1) /* odd: rows of a tile begin in different banks */
#define FVK_LANES 8                 /* threads of a row, forward */
#define FVK_BACK 16                 /* rows and columns of a tile, backward */

FVK_FN int64_t fvk_head_at(const fvk_attention_args *a, int64_t head, int part, int64_t token)
{
    const int64_t tokens = part ? a->S : a->T, b = head / a->h, i = head % a->h;
    return (((b * tokens + token) * a->parts[part] + a->at[part]) * a->h + i) * a->hd;
}

FVK_FN int64_t fvk_out_at(const fvk_attention_args *a, int64_t head, int64_t token)
{
    return ((head / a->h * a->T + token) * a->h + head % a->h) * a->hd;
}

/* Keys that query q sees. */
FVK_FN int64_t fvk_seen(const fvk_attention_args *a, int64_t q)
{
    if (a->causal) return q + 1;
    if (!a->visible) return a->S;
    const int64_t n = a->visible[q];
    if (n >= 1 && n <= a->S && (q == 0 || n >= a->visible[q - 1])) return n;
    FVK_RAISE(a->fault, FVK_FAULT_VISIBLE);
    return n < 1 ? 1 : n < a->S ? n : a->S;
}

/* Rows first.. of part 0 q, 1 k, 2 v, 3 gradient of the output into a tile; zeros beyond the end. */
FVK_FN void fvk_load(const fvk_attention_args *a, float *tile, int rows, int64_t head, int part,
                     int64_t first, int t)
{
    const int hd = (int)a->hd;
    const int64_t end = part == 1 || part == 2 ? a->S : a->T;
    for (int e = t; e < rows * hd; e += FVK_THREADS) {
        const int r = e / hd, d = e % hd;
        float x = 0;
        if (first + r < end && part < 3)
            x = fvk_get(a->x[part], fvk_head_at(a, head, part, first + r) + d);
        else if (first + r < end)
            x = fvk_get(a->go, fvk_out_at(a, head, first + r) + d);
        tile[r * FVK_ROW + d] = x;
    }
}

FVK_FN float fvk_row_dot(const float *x, const float *y, int n)
{
    float sum = 0;
    for (int d = 0; d < n; d++) sum += x[d] * y[d];
    return sum;
}

FVK_KERNEL(attention)
{
    SHARED(float, q, FVK_TILE * FVK_ROW);
    SHARED(float, kv, FVK_TILE * FVK_ROW);
    SHARED(float, score, FVK_TILE * (FVK_TILE + 1));
    LOCALS(float, acc, FVK_HEAD_MOST / FVK_LANES);
    LOCAL(float, most);
    LOCAL(float, sum);
    const int64_t tiles = (a->T + FVK_TILE - 1) / FVK_TILE, head = block_ / tiles;
    const int64_t q0 = block_ % tiles * FVK_TILE;
    const int64_t last = q0 + FVK_TILE < a->T ? q0 + FVK_TILE - 1 : a->T - 1;
    const int64_t keys = fvk_seen(a, last);
    const int hd = (int)a->hd;
    (void)grid_;
    PHASE(t) {
        AT(most, t) = -INFINITY;
        AT(sum, t) = 0;
        FVK_UNROLL
        for (int j = 0; j < FVK_HEAD_MOST / FVK_LANES; j++) AT(acc, t)[j] = 0;
        fvk_load(a, q, FVK_TILE, head, 0, q0, t);
    }
    for (int64_t k0 = 0; k0 < keys; k0 += FVK_TILE) {
        PHASE(t) fvk_load(a, kv, FVK_TILE, head, 1, k0, t);
        PHASE(t) {
            const int r = t / FVK_LANES;
            const int64_t seen = q0 + r < a->T ? fvk_seen(a, q0 + r) : keys;
            for (int c = t % FVK_LANES; c < FVK_TILE; c += FVK_LANES) {
                float s = -INFINITY;
                if (k0 + c < seen) {
                    s = a->scale * fvk_row_dot(q + r * FVK_ROW, kv + c * FVK_ROW, hd);
                    if (a->bias) s += a->bias[k0 + c];
                }
                score[r * (FVK_TILE + 1) + c] = s;
            }
        }
        LOCAL(float, factor);
        PHASE(t) {
            const float *row = score + t / FVK_LANES * (FVK_TILE + 1);
            float m = AT(most, t);
            for (int c = 0; c < FVK_TILE; c++) m = row[c] > m ? row[c] : m;
            AT(factor, t) = AT(most, t) == m ? 1.0f : expf(AT(most, t) - m);
            AT(most, t) = m;
            fvk_load(a, kv, FVK_TILE, head, 2, k0, t);
        }
        PHASE(t) {
            float *row = score + t / FVK_LANES * (FVK_TILE + 1);
            for (int c = t % FVK_LANES; c < FVK_TILE; c += FVK_LANES)
                row[c] = row[c] == -INFINITY ? 0.0f : expf(row[c] - AT(most, t));
        }
        PHASE(t) {
            const float *row = score + t / FVK_LANES * (FVK_TILE + 1);
            float s = AT(sum, t) * AT(factor, t);
            for (int c = 0; c < FVK_TILE; c++) s += row[c];
            AT(sum, t) = s;
            FVK_UNROLL
            for (int j = 0; j < FVK_HEAD_MOST / FVK_LANES; j++) {
                const int d = t % FVK_LANES + j * FVK_LANES;
                if (d >= hd) continue;
                float o = AT(acc, t)[j] * AT(factor, t);
                for (int c = 0; c < FVK_TILE; c++) o += row[c] * kv[c * FVK_ROW + d];
                AT(acc, t)[j] = o;
            }
        }
    }
    PHASE(t) {
        const int64_t token = q0 + t / FVK_LANES;
        if (token >= a->T) continue;
        FVK_UNROLL
        for (int j = 0; j < FVK_HEAD_MOST / FVK_LANES; j++) {
            const int d = t % FVK_LANES + j * FVK_LANES;
            if (d < hd) fvk_put(a->o, fvk_out_at(a, head, token) + d, AT(acc, t)[j] / AT(sum, t));
        }
        if (a->lse && t % FVK_LANES == 0)
            a->lse[head * a->T + token] = AT(most, t) + logf(AT(sum, t));
    }
}

/* delta = sum of o * go; a warp a query. */
FVK_KERNEL(attention_delta)
{
    LOCAL(float, sum);
    const int64_t rows = a->B * a->h * a->T;
    (void)grid_;
    PHASE(t) {
        const int64_t u = (int64_t)block_ * (FVK_THREADS / 32) + t / 32;
        float s = 0;
        for (int64_t d = t % 32; d < a->hd && u < rows; d += 32) {
            const int64_t at = fvk_out_at(a, u / a->T, u % a->T) + d;
            s += fvk_get(a->o_in, at) * fvk_get(a->go, at);
        }
        AT(sum, t) = s;
    }
    WARP_SUM(sum);
    PHASE(t) {
        const int64_t u = (int64_t)block_ * (FVK_THREADS / 32) + t / 32;
        if (t % 32 == 0 && u < rows) a->delta[u] = AT(sum, t);
    }
}

/* P and dS of query q and key k from their rows; both 0 where the query does not see the key. */
FVK_FN void fvk_score_grad(const fvk_attention_args *a, int64_t head, int64_t q, int64_t k,
                           const float *rows[4], float *p, float *ds)
{
    const int hd = (int)a->hd;
    *p = *ds = 0;
    if (q >= a->T || k >= a->S || k >= fvk_seen(a, q)) return;
    float s = a->scale * fvk_row_dot(rows[0], rows[1], hd);
    if (a->bias) s += a->bias[k];
    *p = expf(s - a->lse[head * a->T + q]);
    *ds = *p * (fvk_row_dot(rows[3], rows[2], hd) - a->delta[head * a->T + q]) * a->scale;
}

FVK_KERNEL(attention_dq)
{
    SHARED(float, q, FVK_BACK * FVK_ROW);
    SHARED(float, go, FVK_BACK * FVK_ROW);
    SHARED(float, k, FVK_BACK * FVK_ROW);
    SHARED(float, v, FVK_BACK * FVK_ROW);
    SHARED(float, ds, FVK_BACK * FVK_BACK);
    LOCALS(float, dq, FVK_HEAD_MOST / FVK_BACK);
    const int64_t tiles = (a->T + FVK_BACK - 1) / FVK_BACK, head = block_ / tiles;
    const int64_t q0 = block_ % tiles * FVK_BACK;
    const int64_t last = q0 + FVK_BACK < a->T ? q0 + FVK_BACK - 1 : a->T - 1;
    const int64_t keys = fvk_seen(a, last);
    (void)grid_;
    PHASE(t) {
        FVK_UNROLL
        for (int j = 0; j < FVK_HEAD_MOST / FVK_BACK; j++) AT(dq, t)[j] = 0;
        fvk_load(a, q, FVK_BACK, head, 0, q0, t);
        fvk_load(a, go, FVK_BACK, head, 3, q0, t);
    }
    for (int64_t k0 = 0; k0 < keys; k0 += FVK_BACK) {
        PHASE(t) {
            fvk_load(a, k, FVK_BACK, head, 1, k0, t);
            fvk_load(a, v, FVK_BACK, head, 2, k0, t);
        }
        PHASE(t) {
            const int r = t / FVK_BACK, c = t % FVK_BACK;
            const float *rows[4] = { q + r * FVK_ROW, k + c * FVK_ROW, v + c * FVK_ROW,
                                     go + r * FVK_ROW };
            float p;
            fvk_score_grad(a, head, q0 + r, k0 + c, rows, &p, &ds[t]);
        }
        PHASE(t) {
            const int r = t / FVK_BACK;
            FVK_UNROLL
            for (int j = 0; j < FVK_HEAD_MOST / FVK_BACK; j++) {
                const int d = t % FVK_BACK + j * FVK_BACK;
                if (d >= a->hd) continue;
                for (int c = 0; c < FVK_BACK; c++)
                    AT(dq, t)[j] += ds[r * FVK_BACK + c] * k[c * FVK_ROW + d];
            }
        }
    }
    PHASE(t) {
        const int64_t token = q0 + t / FVK_BACK;
        if (token >= a->T) continue;
        FVK_UNROLL
        for (int j = 0; j < FVK_HEAD_MOST / FVK_BACK; j++) {
            const int d = t % FVK_BACK + j * FVK_BACK;
            if (d < a->hd) fvk_put(a->g[0], fvk_head_at(a, head, 0, token) + d, AT(dq, t)[j]);
        }
    }
}

FVK_KERNEL(attention_dkv)
{
    SHARED(float, q, FVK_BACK * FVK_ROW);
    SHARED(float, go, FVK_BACK * FVK_ROW);
    SHARED(float, k, FVK_BACK * FVK_ROW);
    SHARED(float, v, FVK_BACK * FVK_ROW);
    SHARED(float, p, FVK_BACK * FVK_BACK);
    SHARED(float, ds, FVK_BACK * FVK_BACK);
    LOCALS(float, dk, FVK_HEAD_MOST / FVK_BACK);
    LOCALS(float, dv, FVK_HEAD_MOST / FVK_BACK);
    const int64_t tiles = (a->S + FVK_BACK - 1) / FVK_BACK, head = block_ / tiles;
    const int64_t k0 = block_ % tiles * FVK_BACK;
    (void)grid_;
    PHASE(t) {
        FVK_UNROLL
        for (int j = 0; j < FVK_HEAD_MOST / FVK_BACK; j++) AT(dk, t)[j] = AT(dv, t)[j] = 0;
        fvk_load(a, k, FVK_BACK, head, 1, k0, t);
        fvk_load(a, v, FVK_BACK, head, 2, k0, t);
    }
    for (int64_t q0 = a->causal ? k0 : 0; q0 < a->T; q0 += FVK_BACK) {
        PHASE(t) {
            fvk_load(a, q, FVK_BACK, head, 0, q0, t);
            fvk_load(a, go, FVK_BACK, head, 3, q0, t);
        }
        PHASE(t) {
            const int r = t / FVK_BACK, c = t % FVK_BACK;
            const float *rows[4] = { q + r * FVK_ROW, k + c * FVK_ROW, v + c * FVK_ROW,
                                     go + r * FVK_ROW };
            fvk_score_grad(a, head, q0 + r, k0 + c, rows, &p[t], &ds[t]);
        }
        PHASE(t) {
            const int c = t / FVK_BACK; /* the key */
            FVK_UNROLL
            for (int j = 0; j < FVK_HEAD_MOST / FVK_BACK; j++) {
                const int d = t % FVK_BACK + j * FVK_BACK;
                if (d >= a->hd) continue;
                for (int r = 0; r < FVK_BACK; r++) {
                    AT(dk, t)[j] += ds[r * FVK_BACK + c] * q[r * FVK_ROW + d];
                    AT(dv, t)[j] += p[r * FVK_BACK + c] * go[r * FVK_ROW + d];
                }
            }
        }
    }
    PHASE(t) {
        const int64_t token = k0 + t / FVK_BACK;
        if (token >= a->S) continue;
        FVK_UNROLL
        for (int j = 0; j < FVK_HEAD_MOST / FVK_BACK; j++) {
            const int d = t % FVK_BACK + j * FVK_BACK;
            if (d >= a->hd) continue;
            fvk_put(a->g[1], fvk_head_at(a, head, 1, token) + d, AT(dk, t)[j]);
            fvk_put(a->g[2], fvk_head_at(a, head, 2, token) + d, AT(dv, t)[j]);
        }
    }
}

/* A block a query. */
FVK_KERNEL(scores)
{
    SHARED(float, top, FVK_THREADS);
    SHARED(double, sum, FVK_THREADS);
    const fvk_attention_args *q = &a->a;
    const int64_t S = q->S, row = a->first + block_, seen = fvk_seen(q, row);
    const float *s = a->s + block_ * S;
    (void)grid_;
    PHASE(t) {
        top[t] = -INFINITY;
        for (int64_t k = t; k < seen; k += FVK_THREADS) {
            const float x = q->scale * s[k] + (q->bias ? q->bias[k] : 0.0f);
            if (x > top[t]) top[t] = x; /* a NaN is found by the sum */
        }
    }
    TREE_MAX(top)
    PHASE(t) {
        double u = 0;
        for (int64_t k = t; k < seen; k += FVK_THREADS)
            u += expf(q->scale * s[k] + (q->bias ? q->bias[k] : 0.0f) - top[0]);
        sum[t] = u;
    }
    TREE_SUM(sum)
    PHASE(t) {
        const float inv = (float)(1.0 / sum[0]);
        for (int64_t k = t; k < S; k += FVK_THREADS) {
            const float x = q->scale * s[k] + (q->bias ? q->bias[k] : 0.0f);
            fvk_put(a->p, block_ * S + k, k < seen ? expf(x - top[0]) * inv : 0.0f);
        }
        if (t == 0 && q->lse) q->lse[a->head * q->T + row] = top[0] + logf((float)sum[0]);
    }
}

FVK_KERNEL(scores_dx)
{
    PHASE(t) EACH(i, t, a->rows * a->S) {
        const float gap = a->dp[i] - a->delta[i / a->S];
        fvk_put(a->ds, i, a->scale * fvk_get(a->p, i) * gap);
    }
}

#endif
