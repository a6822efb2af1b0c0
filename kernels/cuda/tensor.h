/* tensor.h - private: attention on tensor cores, bf16; the same formulas and outputs as flash.h.
 *
 * Every kernel is one walk: a warp owns 16 rows (queries; for dk and dv keys), whose fragments stay in
 * registers, a block 128; tiles of the other side come to shared memory while the tile before is used.
 * Scores leave a product in the fragments in which the next one wants its left side (Dao 2023,
 * "FlashAttention-2", 3.3), so that probabilities never see memory. The kernel of dk and dv computes
 * scores the other way round, keys as rows, for the same reason; each output has one writer and one
 * order of sums, no atomics, at the price of two more products than the five of a joint backward.
 *
 * Heads are zeros beyond hd: kernels are made for 32, 64, 80 and 128 columns (backward up to 80: with
 * 128 its sums do not fit into registers). hd is a multiple of 8, rows are 16-byte aligned. Sums are
 * f32; probabilities and their gradients are rounded to bf16 before they are multiplied. */
#ifndef FV_CUDA_TENSOR_H
#define FV_CUDA_TENSOR_H

#include "cuda/flash.h"

#define FVK_MMA_ROWS (FVK_THREADS / 2)  /* of a block */
#define FVK_MMA_HALVES (64 * 88)        /* of a tile, and of 32 rows of 136: columns and 8 to spare */
#define FVK_MMA_BACK 32                 /* rows of a tile, backward */
#define FVK_LOG2E 1.44269504f

/* Row of thread t within its block, and the other one 8 below; first of its columns of 8. */
FVK_FN int fvk_mma_row(int t) { return t / 32 * 16 + t % 32 / 4; }
FVK_FN int fvk_mma_column(int t) { return t % 4 * 2; }

/* Rows of part 0 q, 1 k, 2 v, 3 gradient of the output. */
FVK_FN const uint16_t *fvk_mma_from(const fvk_attention_args *a, int64_t head, int part, int64_t row)
{
    if (part == 3) return (const uint16_t *)a->go.p + fvk_out_at(a, head, row);
    return (const uint16_t *)a->x[part].p + fvk_head_at(a, head, part, row);
}

/* Thread t's share of rows first.. of a part; zeros beyond the end and beyond the head. */
FVK_FN void fvk_mma_copy(fvk_copies *c, uint16_t *tile, const fvk_attention_args *a, int64_t head,
                         int part, int64_t first, int rows, const int HEAD, int t)
{
    const int64_t end = part == 1 || part == 2 ? a->S : a->T;
    for (int e = t; e < rows * (HEAD / 8); e += FVK_THREADS) {
        const int r = e / (HEAD / 8), d = e % (HEAD / 8) * 8;
        const int is_there = first + r < end && d < a->hd;
        COPY_16(c, tile + r * (HEAD + 8) + d,
                fvk_mma_from(a, head, part, is_there ? first + r : 0) + (is_there ? d : 0), is_there);
    }
}

/* Left sides: rows first + fvk_mma_row of a part, all columns. */
FVK_FN void fvk_mma_rows(uint32_t *f, const fvk_attention_args *a, int64_t head, int part,
                         int64_t first, const int HEAD, int t)
{
    const int64_t end = part == 1 || part == 2 ? a->S : a->T;
    FVK_UNROLL
    for (int i = 0; i < HEAD / 4; i++) {
        const int64_t row = first + fvk_mma_row(t) + i % 2 * 8;
        const int d = i / 4 * 16 + i / 2 % 2 * 8 + fvk_mma_column(t);
        f[i] = row < end && d < a->hd
                   ? (uint32_t)FVK_PAIR((const int16_t *)fvk_mma_from(a, head, part, row) + d)
                   : 0;
    }
}

/* s[rows / 2] of a thread = left side times rows of a tile. */
#define FVK_MMA_SCORES(s, left, tile, rows, HEAD)                                          \
    do {                                                                                   \
        QUIET(t) {                                                                         \
            FVK_UNROLL                                                                     \
            for (int i = 0; i < (rows) / 2; i++) AT(s, t)[i] = 0;                          \
        }                                                                                  \
        WARP_MEET();                                                                       \
        FVK_UNROLL                                                                         \
        for (int n_ = 0; n_ < (rows) / 16; n_++) {                                         \
            FVK_UNROLL                                                                     \
            for (int k_ = 0; k_ < (HEAD) / 16; k_++) {                                     \
                WARP_LOAD_ROWS(right, (tile) + n_ * 16 * ((HEAD) + 8) + k_ * 16, (HEAD) + 8); \
                WARP_MMA(s, n_ * 8, left, k_ * 4, right, 0);                               \
                WARP_MMA(s, n_ * 8 + 4, left, k_ * 4, right, 2);                           \
            }                                                                              \
        }                                                                                  \
    } while (0)

/* sum[HEAD / 2] of a thread += left[rows / 4] times a tile. */
#define FVK_MMA_VALUES(sum, left, tile, rows, HEAD)                                        \
    do {                                                                                   \
        WARP_MEET();                                                                       \
        FVK_UNROLL                                                                         \
        for (int k_ = 0; k_ < (rows) / 16; k_++) {                                         \
            FVK_UNROLL                                                                     \
            for (int n_ = 0; n_ < (HEAD) / 16; n_++) {                                     \
                WARP_LOAD_COLUMNS(right, (tile) + k_ * 16 * ((HEAD) + 8) + n_ * 16, (HEAD) + 8); \
                WARP_MMA(sum, n_ * 8, left, k_ * 4, right, 0);                             \
                WARP_MMA(sum, n_ * 8 + 4, left, k_ * 4, right, 2);                         \
            }                                                                              \
        }                                                                                  \
    } while (0)

/* What a product gave, as the left side of the next. */
FVK_FN void fvk_mma_turn(uint32_t *left, const float *s, int n)
{
    FVK_UNROLL
    for (int i = 0; i < n; i++) left[i] = FVK_PACK(s[2 * i], s[2 * i + 1]);
}

/* Sums of rows first + fvk_mma_row of [tokens] rows of `at`, each times factor of its row. */
FVK_FN void fvk_mma_put(fvk_out y, const float *sum, float factor, int64_t at, int hd, int half,
                        const int HEAD, int t)
{
    FVK_UNROLL
    for (int j = 0; j < HEAD / 8; j++) {
        const int d = j * 8 + fvk_mma_column(t);
        const float u = sum[j * 4 + half * 2] * factor, v = sum[j * 4 + half * 2 + 1] * factor;
        if (d >= hd) continue;
        if (y.bf16 && !y.add) {
            FVK_STORE_PAIR((uint16_t *)y.p + at + d, FVK_PACK(u, v));
        } else {
            fvk_put(y, at + d, u);
            fvk_put(y, at + d + 1, v);
        }
    }
}

/* ---- Forward --------------------------------------------------------------------------------- */

/* Scores of a row in powers of two, what a row does not see as -inf; their largest. */
FVK_FN float fvk_mma_mask(const fvk_attention_args *a, float *s, int64_t k0, int64_t seen, int half,
                          const int KEYS, int t)
{
    const float scale = a->scale * FVK_LOG2E;
    float most = -INFINITY;
    FVK_UNROLL
    for (int i = 0; i < KEYS / 4; i++) {
        const int at = i / 2 * 4 + half * 2 + i % 2;
        const int64_t key = k0 + i / 2 * 8 + fvk_mma_column(t) + i % 2;
        float x = -INFINITY;
        if (key < seen) {
            x = s[at] * scale;
            if (a->bias) x += a->bias[key] * FVK_LOG2E;
        }
        s[at] = x;
        if (x > most) most = x;
    }
    return most;
}

FVK_FN float fvk_mma_exp(float *s, float most, int half, const int KEYS)
{
    float sum = 0;
    FVK_UNROLL
    for (int i = 0; i < KEYS / 4; i++) {
        const int at = i / 2 * 4 + half * 2 + i % 2;
        s[at] = s[at] == -INFINITY ? 0.0f : exp2f(s[at] - most);
        sum += s[at];
    }
    return sum;
}

/* The body: HEAD columns, tiles of KEYS keys. */
#define FVK_MMA_FORWARD(HEAD, KEYS)                                                            \
    SHARED(uint16_t, k_tile, 2 * KEYS * (HEAD + 8));                                           \
    SHARED(uint16_t, v_tile, 2 * KEYS * (HEAD + 8));                                           \
    LOCALS(float, acc, HEAD / 2);                                                              \
    LOCALS(float, s, KEYS / 2);                                                                \
    LOCALS(uint32_t, q, HEAD / 4);                                                             \
    LOCALS(uint32_t, p, KEYS / 4);                                                             \
    LOCALS(uint32_t, right, 4);                                                                \
    LOCALS(float, most, 2);                                                                    \
    LOCALS(float, top, 2);                                                                     \
    LOCALS(float, sum, 2);                                                                     \
    LOCALS(int64_t, seen, 2);                                                                  \
    const int64_t tiles = (a->T + FVK_MMA_ROWS - 1) / FVK_MMA_ROWS, head = block_ / tiles;     \
    const int64_t q0 = block_ % tiles * FVK_MMA_ROWS;                                          \
    const int64_t last = q0 + FVK_MMA_ROWS < a->T ? q0 + FVK_MMA_ROWS - 1 : a->T - 1;          \
    const int64_t keys = fvk_seen(a, last);                                                    \
    const int size = KEYS * (HEAD + 8);                                                        \
    COPIES(c);                                                                                 \
    (void)grid_;                                                                               \
    QUIET(t) {                                                                                 \
        fvk_mma_rows(AT(q, t), a, head, 0, q0, HEAD, t);                                       \
        FVK_UNROLL                                                                             \
        for (int i = 0; i < 2; i++) {                                                          \
            const int64_t row = q0 + fvk_mma_row(t) + 8 * i;                                   \
            AT(most, t)[i] = -INFINITY;                                                        \
            AT(sum, t)[i] = 0;                                                                 \
            AT(seen, t)[i] = row < a->T ? fvk_seen(a, row) : keys;                             \
        }                                                                                      \
        FVK_UNROLL                                                                             \
        for (int i = 0; i < HEAD / 2; i++) AT(acc, t)[i] = 0;                                  \
        fvk_mma_copy(c, k_tile, a, head, 1, 0, KEYS, HEAD, t);                                 \
        fvk_mma_copy(c, v_tile, a, head, 2, 0, KEYS, HEAD, t);                                 \
        COPIES_CLOSE(c);                                                                       \
    }                                                                                          \
    for (int64_t k0 = 0, turn = 0; k0 < keys; k0 += KEYS, turn ^= 1) {                         \
        QUIET(t) {                                                                             \
            const int64_t next = (turn ^ 1) * size;                                            \
            if (k0 + KEYS < keys) {                                                            \
                fvk_mma_copy(c, k_tile + next, a, head, 1, k0 + KEYS, KEYS, HEAD, t);          \
                fvk_mma_copy(c, v_tile + next, a, head, 2, k0 + KEYS, KEYS, HEAD, t);          \
            }                                                                                  \
            COPIES_CLOSE(c);                                                                   \
        }                                                                                      \
        COPIES_WAIT(c, 1);                                                                     \
        FVK_MMA_SCORES(s, q, k_tile + turn * size, KEYS, HEAD);                                \
        QUIET(t) {                                                                             \
            FVK_UNROLL                                                                         \
            for (int i = 0; i < 2; i++)                                                        \
                AT(top, t)[i] = fvk_mma_mask(a, AT(s, t), k0, AT(seen, t)[i], i, KEYS, t);     \
        }                                                                                      \
        QUAD_MAX(top, 2);                                                                      \
        QUIET(t) {                                                                             \
            FVK_UNROLL                                                                         \
            for (int i = 0; i < 2; i++) {                                                      \
                const float old = AT(most, t)[i];                                              \
                const float now = AT(top, t)[i] > old ? AT(top, t)[i] : old;                   \
                const float factor = old == now ? 1.0f : exp2f(old - now);                     \
                AT(most, t)[i] = now;                                                          \
                AT(sum, t)[i] = AT(sum, t)[i] * factor + fvk_mma_exp(AT(s, t), now, i, KEYS);  \
                FVK_UNROLL                                                                     \
                for (int j = 0; j < HEAD / 4; j++)                                             \
                    AT(acc, t)[j / 2 * 4 + i * 2 + j % 2] *= factor;                           \
            }                                                                                  \
            fvk_mma_turn(AT(p, t), AT(s, t), KEYS / 4);                                        \
        }                                                                                      \
        FVK_MMA_VALUES(acc, p, v_tile + turn * size, KEYS, HEAD);                              \
        PHASE(t) (void)t; /* the tile may be overwritten */                                    \
    }                                                                                          \
    QUAD_SUM(sum, 2);                                                                          \
    QUIET(t) {                                                                                 \
        FVK_UNROLL                                                                             \
        for (int i = 0; i < 2; i++) {                                                          \
            const int64_t row = q0 + fvk_mma_row(t) + 8 * i;                                   \
            if (row >= a->T) continue;                                                         \
            fvk_mma_put(a->o, AT(acc, t), 1.0f / AT(sum, t)[i], fvk_out_at(a, head, row),      \
                        (int)a->hd, i, HEAD, t);                                               \
            if (a->lse && t % 4 == 0)                                                          \
                a->lse[head * a->T + row] = AT(most, t)[i] / FVK_LOG2E + logf(AT(sum, t)[i]);  \
        }                                                                                      \
    }

FVK_KERNEL(attention_mma32) { FVK_MMA_FORWARD(32, 64) }
FVK_KERNEL(attention_mma64) { FVK_MMA_FORWARD(64, 64) }
FVK_KERNEL(attention_mma80) { FVK_MMA_FORWARD(80, 64) }
FVK_KERNEL(attention_mma128) { FVK_MMA_FORWARD(128, 32) }

/* ---- Backward -------------------------------------------------------------------------------- */

/* s: probability of query and key, from its score; dp: the gradient of the score, from that of the
 * probability. */
FVK_FN void fvk_mma_grad(const fvk_attention_args *a, float *s, float *dp, int is_seen, int64_t key,
                         float lse, float delta)
{
    float x = *s * a->scale;
    if (is_seen && a->bias) x += a->bias[key];
    *s = is_seen ? exp2f((x - lse) * FVK_LOG2E) : 0.0f;
    *dp = is_seen ? *s * (*dp - delta) * a->scale : 0.0f;
}

#define FVK_MMA_DQ(HEAD)                                                                       \
    SHARED(uint16_t, k_tile, 2 * FVK_MMA_BACK * (HEAD + 8));                                   \
    SHARED(uint16_t, v_tile, 2 * FVK_MMA_BACK * (HEAD + 8));                                   \
    LOCALS(float, dq, HEAD / 2);                                                               \
    LOCALS(float, s, FVK_MMA_BACK / 2);                                                        \
    LOCALS(float, dp, FVK_MMA_BACK / 2);                                                       \
    LOCALS(uint32_t, q, HEAD / 4);                                                             \
    LOCALS(uint32_t, go, HEAD / 4);                                                            \
    LOCALS(uint32_t, ds, FVK_MMA_BACK / 4);                                                    \
    LOCALS(uint32_t, right, 4);                                                                \
    LOCALS(float, lse, 2);                                                                     \
    LOCALS(float, delta, 2);                                                                   \
    LOCALS(int64_t, seen, 2);                                                                  \
    const int64_t tiles = (a->T + FVK_MMA_ROWS - 1) / FVK_MMA_ROWS, head = block_ / tiles;     \
    const int64_t q0 = block_ % tiles * FVK_MMA_ROWS;                                          \
    const int64_t last = q0 + FVK_MMA_ROWS < a->T ? q0 + FVK_MMA_ROWS - 1 : a->T - 1;          \
    const int64_t keys = fvk_seen(a, last);                                                    \
    const int size = FVK_MMA_BACK * (HEAD + 8);                                                \
    COPIES(c);                                                                                 \
    (void)grid_;                                                                               \
    QUIET(t) {                                                                                 \
        fvk_mma_rows(AT(q, t), a, head, 0, q0, HEAD, t);                                       \
        fvk_mma_rows(AT(go, t), a, head, 3, q0, HEAD, t);                                      \
        FVK_UNROLL                                                                             \
        for (int i = 0; i < 2; i++) {                                                          \
            const int64_t row = q0 + fvk_mma_row(t) + 8 * i;                                   \
            const int is_there = row < a->T;                                                   \
            AT(seen, t)[i] = is_there ? fvk_seen(a, row) : 0;                                  \
            AT(lse, t)[i] = is_there ? a->lse[head * a->T + row] : 0.0f;                       \
            AT(delta, t)[i] = is_there ? a->delta[head * a->T + row] : 0.0f;                   \
        }                                                                                      \
        FVK_UNROLL                                                                             \
        for (int i = 0; i < HEAD / 2; i++) AT(dq, t)[i] = 0;                                   \
        fvk_mma_copy(c, k_tile, a, head, 1, 0, FVK_MMA_BACK, HEAD, t);                         \
        fvk_mma_copy(c, v_tile, a, head, 2, 0, FVK_MMA_BACK, HEAD, t);                         \
        COPIES_CLOSE(c);                                                                       \
    }                                                                                          \
    for (int64_t k0 = 0, turn = 0; k0 < keys; k0 += FVK_MMA_BACK, turn ^= 1) {                 \
        QUIET(t) {                                                                             \
            const int64_t next = (turn ^ 1) * size, k1 = k0 + FVK_MMA_BACK;                    \
            if (k1 < keys) {                                                                   \
                fvk_mma_copy(c, k_tile + next, a, head, 1, k1, FVK_MMA_BACK, HEAD, t);         \
                fvk_mma_copy(c, v_tile + next, a, head, 2, k1, FVK_MMA_BACK, HEAD, t);         \
            }                                                                                  \
            COPIES_CLOSE(c);                                                                   \
        }                                                                                      \
        COPIES_WAIT(c, 1);                                                                     \
        FVK_MMA_SCORES(s, q, k_tile + turn * size, FVK_MMA_BACK, HEAD);                        \
        FVK_MMA_SCORES(dp, go, v_tile + turn * size, FVK_MMA_BACK, HEAD);                      \
        QUIET(t) {                                                                             \
            FVK_UNROLL                                                                         \
            for (int i = 0; i < FVK_MMA_BACK / 2; i++) {                                       \
                const int half = i / 2 % 2;                                                    \
                const int64_t key = k0 + i / 4 * 8 + fvk_mma_column(t) + i % 2;                \
                fvk_mma_grad(a, &AT(s, t)[i], &AT(dp, t)[i], key < AT(seen, t)[half], key,     \
                             AT(lse, t)[half], AT(delta, t)[half]);                            \
            }                                                                                  \
            fvk_mma_turn(AT(ds, t), AT(dp, t), FVK_MMA_BACK / 4);                              \
        }                                                                                      \
        FVK_MMA_VALUES(dq, ds, k_tile + turn * size, FVK_MMA_BACK, HEAD);                      \
        PHASE(t) (void)t;                                                                      \
    }                                                                                          \
    QUIET(t) {                                                                                 \
        FVK_UNROLL                                                                             \
        for (int i = 0; i < 2; i++) {                                                          \
            const int64_t row = q0 + fvk_mma_row(t) + 8 * i;                                   \
            if (row < a->T)                                                                    \
                fvk_mma_put(a->g[0], AT(dq, t), 1.0f, fvk_head_at(a, head, 0, row),            \
                            (int)a->hd, i, HEAD, t);                                           \
        }                                                                                      \
    }

/* Of the queries of a tile, in shared memory: lse, delta, and how many keys each sees. */
FVK_FN void fvk_mma_stats(const fvk_attention_args *a, float *stat, int32_t *seen, int64_t head,
                          int64_t q0, int t)
{
    const int64_t q = q0 + t;
    if (t >= FVK_MMA_BACK) return;
    const int is_there = q < a->T;
    const int64_t n = is_there ? fvk_seen(a, q) : 0;
    stat[t] = is_there ? a->lse[head * a->T + q] : 0.0f;
    stat[FVK_MMA_BACK + t] = is_there ? a->delta[head * a->T + q] : 0.0f;
    seen[t] = (int32_t)(n < INT32_MAX ? n : INT32_MAX);
}

#define FVK_MMA_DKV(HEAD)                                                                      \
    SHARED(uint16_t, q_tile, 2 * FVK_MMA_BACK * (HEAD + 8));                                   \
    SHARED(uint16_t, go_tile, 2 * FVK_MMA_BACK * (HEAD + 8));                                  \
    SHARED(float, stat, 2 * FVK_MMA_BACK);                                                     \
    SHARED(int32_t, seen, FVK_MMA_BACK);                                                       \
    LOCALS(float, dk, HEAD / 2);                                                               \
    LOCALS(float, dv, HEAD / 2);                                                               \
    LOCALS(float, s, FVK_MMA_BACK / 2);                                                        \
    LOCALS(float, dp, FVK_MMA_BACK / 2);                                                       \
    LOCALS(uint32_t, k, HEAD / 4);                                                             \
    LOCALS(uint32_t, v, HEAD / 4);                                                             \
    LOCALS(uint32_t, p, FVK_MMA_BACK / 4);                                                     \
    LOCALS(uint32_t, ds, FVK_MMA_BACK / 4);                                                    \
    LOCALS(uint32_t, right, 4);                                                                \
    const int64_t tiles = (a->S + FVK_MMA_ROWS - 1) / FVK_MMA_ROWS, head = block_ / tiles;     \
    const int64_t k0 = block_ % tiles * FVK_MMA_ROWS;                                          \
    const int64_t start = a->causal ? k0 : 0; /* queries before see none of these keys */      \
    const int size = FVK_MMA_BACK * (HEAD + 8);                                                \
    COPIES(c);                                                                                 \
    (void)grid_;                                                                               \
    QUIET(t) {                                                                                 \
        fvk_mma_rows(AT(k, t), a, head, 1, k0, HEAD, t);                                       \
        fvk_mma_rows(AT(v, t), a, head, 2, k0, HEAD, t);                                       \
        FVK_UNROLL                                                                             \
        for (int i = 0; i < HEAD / 2; i++) AT(dk, t)[i] = AT(dv, t)[i] = 0;                    \
        fvk_mma_copy(c, q_tile, a, head, 0, start, FVK_MMA_BACK, HEAD, t);                     \
        fvk_mma_copy(c, go_tile, a, head, 3, start, FVK_MMA_BACK, HEAD, t);                    \
        COPIES_CLOSE(c);                                                                       \
    }                                                                                          \
    for (int64_t q0 = start, turn = 0; q0 < a->T; q0 += FVK_MMA_BACK, turn ^= 1) {             \
        QUIET(t) {                                                                             \
            const int64_t next = (turn ^ 1) * size, q1 = q0 + FVK_MMA_BACK;                    \
            fvk_mma_stats(a, stat, seen, head, q0, t); /* the wait has the barrier */          \
            if (q1 < a->T) {                                                                   \
                fvk_mma_copy(c, q_tile + next, a, head, 0, q1, FVK_MMA_BACK, HEAD, t);         \
                fvk_mma_copy(c, go_tile + next, a, head, 3, q1, FVK_MMA_BACK, HEAD, t);        \
            }                                                                                  \
            COPIES_CLOSE(c);                                                                   \
        }                                                                                      \
        COPIES_WAIT(c, 1);                                                                     \
        FVK_MMA_SCORES(s, k, q_tile + turn * size, FVK_MMA_BACK, HEAD);                        \
        FVK_MMA_SCORES(dp, v, go_tile + turn * size, FVK_MMA_BACK, HEAD);                      \
        QUIET(t) {                                                                             \
            FVK_UNROLL                                                                         \
            for (int i = 0; i < FVK_MMA_BACK / 2; i++) {                                       \
                const int query = i / 4 * 8 + fvk_mma_column(t) + i % 2;                       \
                const int64_t key = k0 + fvk_mma_row(t) + i / 2 % 2 * 8;                       \
                fvk_mma_grad(a, &AT(s, t)[i], &AT(dp, t)[i], key < seen[query], key,           \
                             stat[query], stat[FVK_MMA_BACK + query]);                         \
            }                                                                                  \
            fvk_mma_turn(AT(p, t), AT(s, t), FVK_MMA_BACK / 4);                                \
            fvk_mma_turn(AT(ds, t), AT(dp, t), FVK_MMA_BACK / 4);                              \
        }                                                                                      \
        FVK_MMA_VALUES(dv, p, go_tile + turn * size, FVK_MMA_BACK, HEAD);                      \
        FVK_MMA_VALUES(dk, ds, q_tile + turn * size, FVK_MMA_BACK, HEAD);                      \
        PHASE(t) (void)t;                                                                      \
    }                                                                                          \
    QUIET(t) {                                                                                 \
        FVK_UNROLL                                                                             \
        for (int i = 0; i < 2; i++) {                                                          \
            const int64_t row = k0 + fvk_mma_row(t) + 8 * i;                                   \
            if (row >= a->S) continue;                                                         \
            fvk_mma_put(a->g[1], AT(dk, t), 1.0f, fvk_head_at(a, head, 1, row), (int)a->hd, i, \
                        HEAD, t);                                                              \
            fvk_mma_put(a->g[2], AT(dv, t), 1.0f, fvk_head_at(a, head, 2, row), (int)a->hd, i, \
                        HEAD, t);                                                              \
        }                                                                                      \
    }

FVK_KERNEL(attention_dq_mma32) { FVK_MMA_DQ(32) }
FVK_KERNEL(attention_dq_mma64) { FVK_MMA_DQ(64) }
FVK_KERNEL(attention_dq_mma80) { FVK_MMA_DQ(80) }
FVK_KERNEL(attention_dkv_mma32) { FVK_MMA_DKV(32) }
FVK_KERNEL(attention_dkv_mma64) { FVK_MMA_DKV(64) }
FVK_KERNEL(attention_dkv_mma80) { FVK_MMA_DKV(80) }

#endif
