/* decoding.h - private: a few rows through a network with keys and values that stay; formulas in
 * decode.c, what a pass is in decode_device.h.
 *
 * The bits of a row do not depend on which rows share the pass: a product's sum is one warp's, lane l
 * of it takes 16 bytes of k at l, l + 32, ..., then the lanes are added as a tree; keys count in the
 * order of positions, in chunks of FVK_DEC_CHUNK that are added in order, wherever they lie.
 *
 * product: a warp 1, 2 or 4 outputs for up to 8 rows: each 16 bytes of weights are read once for them,
 * neighbouring lanes at neighbouring addresses. One to four rows are bound by the memory that weights
 * come from; blocks of the same weights stand side by side, so that further groups of rows find them
 * in the second cache. attend: a block a chunk of keys of one row and head, so that a single row with
 * a long past still fills the device; join adds the chunks. */
#ifndef FV_CUDA_DECODING_H
#define FV_CUDA_DECODING_H

#include "cuda/dialect.h"
#include "cuda/pointwise.h"

/* 16 bytes of a row. */
typedef struct fvk_quad { uint32_t v[4]; } fvk_quad;

#if defined(__CUDACC__)

#define FVK_UNROLL_4 _Pragma("unroll 4")
#define FVK_UNROLL_1 _Pragma("unroll 1")

FVK_FN fvk_quad fvk_quad_at(const void *p)
{
    const uint4 u = *(const uint4 *)p;
    return { { u.x, u.y, u.z, u.w } };
}

FVK_FN int32_t fvk_dot4(uint32_t a, uint32_t b, int32_t sum)
{
    return __dp4a((int)a, (int)b, sum);
}

/* The sum, or the largest, of each of `count` values over a warp. */
template <typename T> FVK_FN void fvk_warp_sums(T *x, int count)
{
    FVK_UNROLL
    for (int j = 0; j < FVK_DEC_SUMS; j++) {
        if (j >= count) continue;
        FVK_UNROLL
        for (int o = 16; o > 0; o >>= 1) x[j] += __shfl_xor_sync(0xffffffffu, x[j], o);
    }
}
#define WARP_SUMS(x, kind, count) fvk_warp_sums<kind>(x[0], count)

FVK_FN void fvk_warp_tops(float *x)
{
    FVK_UNROLL
    for (int j = 0; j < 3; j++)
        for (int o = 16; o > 0; o >>= 1) {
            const float other = __shfl_xor_sync(0xffffffffu, x[j], o);
            x[j] = other > x[j] ? other : x[j];
        }
}
#define WARP_TOPS(x) fvk_warp_tops(x[0])

#else

#define FVK_UNROLL_4
#define FVK_UNROLL_1

FVK_FN fvk_quad fvk_quad_at(const void *p)
{
    fvk_quad q;
    memcpy(&q, p, sizeof q);
    return q;
}

FVK_FN int32_t fvk_dot4(uint32_t a, uint32_t b, int32_t sum)
{
    for (int i = 0; i < 32; i += 8) sum += (int8_t)(a >> i) * (int8_t)(b >> i);
    return sum;
}

/* In double: a sum of two floats rounded from there is that of floats. */
#define WARP_SUMS(x, kind, count)                                                          \
    for (int w_ = 0; w_ < FVK_THREADS; w_ += 32)                                           \
        for (int j_ = 0; j_ < (count); j_++)                                               \
            for (int o_ = 16; o_ > 0; o_ >>= 1) {                                          \
                double old_[32];                                                           \
                for (int i_ = 0; i_ < 32; i_++) old_[i_] = (double)x[w_ + i_][j_];         \
                for (int i_ = 0; i_ < 32; i_++) x[w_ + i_][j_] = (kind)(old_[i_] + old_[i_ ^ o_]); \
            }
#define WARP_TOPS(x)                                                             \
    for (int w_ = 0; w_ < FVK_THREADS; w_ += 32)                                 \
        for (int j_ = 0; j_ < 3; j_++) {                                         \
            float top_ = 0;                                                      \
            for (int i_ = w_; i_ < w_ + 32; i_++)                                \
                top_ = x[i_][j_] > top_ ? x[i_][j_] : top_;                      \
            for (int i_ = w_; i_ < w_ + 32; i_++) x[i_][j_] = top_;              \
        }

#endif

FVK_FN const fvk_dec_row *fvk_row_of(const int32_t *pass, int64_t row)
{
    return (const fvk_dec_row *)(const void *)(pass + FVK_PASS_HEAD) + row;
}

/* Keys and values that a row sees. */
FVK_FN int fvk_keys_of(const fvk_dec_row *r)
{
    int n = r->zeros + r->n_more;
    for (int i = 0; i < r->ranges; i++) n += r->n[i];
    return n;
}

/* What 8 bits hold of x, by 127 / the largest; NaN: -127 */
FVK_FN int8_t fvk_to_i8(float v)
{
    const float r = rintf(v);
    return (int8_t)(r > 127 ? 127 : r > -127 ? r : -127);
}
FVK_FN float fvk_inverse(float most) { return most > 0 ? 127.0f / most : 0; }

/* Element i of a row of a type. */
FVK_FN void fvk_dec_put(void *row, int type, int64_t i, float v, float inverse)
{
    if (type == FV_I8) ((int8_t *)row)[i] = fvk_to_i8(v * inverse);
    else if (type == FV_BF16) ((uint16_t *)row)[i] = fvk_narrow(v);
    else ((float *)row)[i] = v;
}
FVK_FN float fvk_dec_get(const void *row, int type, int64_t i)
{
    if (type == FV_I8) return (float)((const int8_t *)row)[i];
    return type == FV_BF16 ? fvk_widen(((const uint16_t *)row)[i]) : ((const float *)row)[i];
}
FVK_FN int fvk_size_of(int type) { return type == FV_I8 ? 1 : type == FV_BF16 ? 2 : 4; }

/* ---- Rows for products ----------------------------------------------------------------------- */

FVK_FN float fvk_normed(const fvk_dec_prepare_args *a, const float *x, int64_t k, float rstd)
{
    float v = x[k];
    if (!a->norm) return v;
    v *= rstd;
    return (a->cast ? fvk_widen(fvk_narrow(v)) : v) * a->norm[k];
}

/* A block a row. */
FVK_KERNEL(dec_prepare)
{
    SHARED(float, top, FVK_THREADS);
    LOCAL(float, sum);
    const int64_t row = block_, K = a->K;
    if (row >= a->pass[FVK_PASS_ROWS]) return;
    const fvk_dec_row *r = fvk_row_of(a->pass, row);
    const int64_t to = a->is_last ? r->place : row;
    if (a->is_last && to < 0 && r->keep < 0) return;
    const float *x = a->x ? a->x + row * a->ld
                          : (const float *)(const void *)(a->pass + a->pass[FVK_PASS_INPUT]) + row * K;
    (void)grid_;
    PHASE(t) {
        float s = 0;
        for (int64_t k = t; k < K && a->norm; k += FVK_THREADS) s += x[k] * x[k];
        AT(sum, t) = s;
    }
    if (a->norm) {
        BLOCK_SUM(sum);
    }
    PHASE(t) {
        const float rstd = 1.0f / sqrtf(AT(sum, t) / (float)K + a->eps);
        top[t] = 0;
        for (int64_t k = t; k < K && a->type == FV_I8; k += FVK_THREADS) {
            const float v = fabsf(fvk_normed(a, x, k, rstd));
            if (v > top[t]) top[t] = v;
        }
    }
    if (a->type == FV_I8) {
        TREE_MAX(top)
    }
    PHASE(t) {
        const float rstd = 1.0f / sqrtf(AT(sum, t) / (float)K + a->eps);
        const float inverse = fvk_inverse(top[0]);
        uint8_t *y = (uint8_t *)a->y + to * a->room * fvk_size_of(a->type);
        float *keep = a->is_last && r->keep >= 0
                          ? a->down + a->pass[FVK_PASS_OUTS] * a->vocab + r->keep * K
                          : (float *)0;
        for (int64_t k = t; k < a->room; k += FVK_THREADS) {
            const float v = k < K ? fvk_normed(a, x, k, rstd) : 0.0f;
            if (keep && k < K) keep[k] = v;
            if (a->copy && k < K) a->copy[row * K + k] = x[k];
            if (to >= 0) fvk_dec_put(y, a->type, k, v, inverse);
        }
        if (t == 0 && to >= 0 && a->type == FV_I8) a->scale[to] = top[0] / 127.0f;
    }
}

/* ---- Products -------------------------------------------------------------------------------- */

/* Row of the weights behind sum c of a warp, whose first output is n0: with a second matrix the sums
 * belong to both in turn. */
FVK_FN const uint8_t *fvk_weights(const fvk_dec_product_args *a, int64_t n0, int c)
{
    int64_t n = a->w2 ? n0 + c / 2 : n0 + c;
    if (n >= a->N) n = a->N - 1; /* its sum is dropped */
    return (const uint8_t *)(a->w2 && c % 2 ? a->w2 : a->w) + n * a->room * fvk_size_of(a->type);
}

/* 16 bytes of R rows and W rows of weights. */
#define FVK_STEP(kind, name)                                                                      \
    FVK_FN void name(const int T, const int R, const int W, const uint8_t *const *w,              \
                     const uint8_t *x, int64_t bytes, int64_t k, kind *sum)                       \
    {                                                                                             \
        fvk_quad u[4];                                                                            \
        FVK_UNROLL                                                                                \
        for (int c = 0; c < W; c++) u[c] = fvk_quad_at(w[c] + k);                                 \
        FVK_UNROLL                                                                                \
        for (int r = 0; r < R; r++) {                                                             \
            const fvk_quad v = fvk_quad_at(x + r * bytes + k);                                    \
            FVK_UNROLL                                                                            \
            for (int c = 0; c < W; c++) {                                                         \
                FVK_UNROLL                                                                        \
                for (int j = 0; j < 4; j++)                                                       \
                    sum[r * W + c] = fvk_add_##kind(T, u[c].v[j], v.v[j], sum[r * W + c]);        \
            }                                                                                     \
        }                                                                                         \
    }
FVK_FN int32_t fvk_add_int32_t(const int T, uint32_t u, uint32_t v, int32_t sum)
{
    (void)T;
    return fvk_dot4(u, v, sum);
}
FVK_FN float fvk_add_float(const int T, uint32_t u, uint32_t v, float sum)
{
    if (T == FV_F32) return sum + FVK_FLOAT(u) * FVK_FLOAT(v);
    sum += FVK_FLOAT(u << 16) * FVK_FLOAT(v << 16);
    return sum + FVK_FLOAT(u & 0xffff0000u) * FVK_FLOAT(v & 0xffff0000u);
}
FVK_STEP(float, fvk_step_float)
FVK_STEP(int32_t, fvk_step_int32_t)

/* A warp's sums over k. Few rows wait for memory: several steps are then read at once. */
#define FVK_CELL(kind, T, R, W)                                                                   \
    case (T) * 100 + (R) * 10 + (W): {                                                            \
        const uint8_t *w[4], *x = (const uint8_t *)a->x + r0 * bytes;                             \
        FVK_UNROLL                                                                                \
        for (int c = 0; c < (W); c++) w[c] = fvk_weights(a, n0, c);                               \
        if ((R) * (W) <= 4) {                                                                     \
            FVK_UNROLL_4                                                                          \
            for (int64_t k = lane * 16; k < bytes; k += 512)                                      \
                fvk_step_##kind(T, R, W, w, x, bytes, k, sum);                                    \
        } else {                                                                                  \
            FVK_UNROLL_1                                                                          \
            for (int64_t k = lane * 16; k < bytes; k += 512)                                      \
                fvk_step_##kind(T, R, W, w, x, bytes, k, sum);                                    \
        }                                                                                         \
        break;                                                                                    \
    }
#define FVK_CELLS(kind, T)                                                                        \
    FVK_CELL(kind, T, 1, 1) FVK_CELL(kind, T, 1, 2) FVK_CELL(kind, T, 1, 4) FVK_CELL(kind, T, 2, 1) \
    FVK_CELL(kind, T, 2, 2) FVK_CELL(kind, T, 2, 4) FVK_CELL(kind, T, 4, 1) FVK_CELL(kind, T, 4, 2) \
    FVK_CELL(kind, T, 4, 4) FVK_CELL(kind, T, 8, 1) FVK_CELL(kind, T, 8, 2)

/* Rows of a group as one of 1, 2, 4, 8. */
FVK_FN int fvk_tile_rows(int64_t left) { return left > 4 ? 8 : left > 2 ? 4 : left > 1 ? 2 : 1; }

FVK_FN void fvk_cells_float(const fvk_dec_product_args *a, int lane, int64_t n0, int64_t r0,
                            int64_t rows, float *sum)
{
    const int64_t bytes = a->room * fvk_size_of(a->type);
    switch (a->type * 100 + fvk_tile_rows(rows - r0) * 10 + a->per) {
        FVK_CELLS(float, FV_F32)
        FVK_CELLS(float, FV_BF16)
    default: break;
    }
}
FVK_FN void fvk_cells_int32_t(const fvk_dec_product_args *a, int lane, int64_t n0, int64_t r0,
                              int64_t rows, int32_t *sum)
{
    const int64_t bytes = a->room;
    switch (FV_I8 * 100 + fvk_tile_rows(rows - r0) * 10 + a->per) {
        FVK_CELLS(int32_t, FV_I8)
    default: break;
    }
}

FVK_FN void fvk_finish(const fvk_dec_product_args *a, int64_t row, int64_t n, float v, float up)
{
    if (a->type == FV_I8) {
        v *= a->w_scale[n] * a->x_scale[row];
        if (a->w2) up *= a->w2_scale[n] * a->x_scale[row];
    }
    if (a->bias) v += a->bias[n];
    v = fvi_act_c((fv_act)a->act, v);
    if (a->w2) v *= up;
    fvk_put(a->y, row * a->ldy + n, v);
}

FVK_FN uint32_t fvk_bits_float(float x) { return FVK_BITS(x); }
FVK_FN uint32_t fvk_bits_int32_t(int32_t x) { return (uint32_t)x; }
FVK_FN float fvk_value_float(uint32_t u) { return FVK_FLOAT(u); }
FVK_FN float fvk_value_int32_t(uint32_t u) { return (float)(int32_t)u; }

/* Eight warps of a block: their outputs one behind another. Lane j finishes sum j; it finds it by
 * going through all with masks, so that they stay in registers. */
#define FVK_PRODUCT(name, kind)                                                                   \
    FVK_KERNEL(name)                                                                              \
    {                                                                                             \
        LOCALS(kind, sum, FVK_DEC_SUMS);                                                          \
        const int64_t r0 = block_ % a->groups * FVK_DEC_ROWS;                                     \
        const int64_t rows = a->pass[a->is_last ? FVK_PASS_WANTED : FVK_PASS_ROWS];               \
        const int each = a->w2 ? a->per / 2 : a->per, tile = fvk_tile_rows(rows - r0);            \
        const int64_t first = block_ / a->groups * (FVK_THREADS / 32) * each;                     \
        (void)grid_;                                                                              \
        if (r0 >= rows) return;                                                                   \
        PHASE(t) {                                                                                \
            const int64_t n0 = first + t / 32 * each;                                             \
            FVK_UNROLL                                                                            \
            for (int j = 0; j < FVK_DEC_SUMS; j++) AT(sum, t)[j] = 0;                             \
            if (n0 < a->N) fvk_cells_##kind(a, t % 32, n0, r0, rows, AT(sum, t));                 \
        }                                                                                         \
        WARP_SUMS(sum, kind, tile * a->per);                                                      \
        PHASE(t) {                                                                                \
            const int lane = t % 32, c = lane % a->per;                                           \
            const int64_t row = r0 + lane / a->per;                                               \
            const int64_t n = first + t / 32 * each + (a->w2 ? c / 2 : c);                        \
            uint32_t v = 0, up = 0;                                                               \
            FVK_UNROLL                                                                            \
            for (int j = 0; j < FVK_DEC_SUMS; j++) {                                              \
                v |= fvk_bits_##kind(AT(sum, t)[j]) & (0u - (uint32_t)(j == lane));               \
                up |= fvk_bits_##kind(AT(sum, t)[j]) & (0u - (uint32_t)(j == lane + 1));          \
            }                                                                                     \
            if (lane < tile * a->per && row < rows && n < a->N && !(a->w2 && c % 2))              \
                fvk_finish(a, row, n, fvk_value_##kind(v), fvk_value_##kind(up));                 \
        }                                                                                         \
    }
FVK_PRODUCT(dec_product, float)
FVK_PRODUCT(dec_product8, int32_t)

/* ---- Keys and values ------------------------------------------------------------------------- */

FVK_FN uint8_t *fvk_head_of(const fvk_dec_cache *c, int64_t seq, int64_t layer, int64_t head)
{
    return c->p + ((seq * c->layers + layer) * c->heads + head) * c->head_bytes;
}

FVK_FN void fvk_turn(float *x, const float *table, int hd, int i)
{
    const float u = x[i], v = x[i + 1];
    x[i] = u * table[i] + v * table[hd + i];
    x[i + 1] = v * table[i + 1] + u * table[hd + i + 1];
}

/* A warp a row and head: query and key turned, key and value to the cache. */
FVK_KERNEL(dec_store)
{
    LOCALS(float, top, 3);
    const fvk_dec_cache *c = &a->cache;
    const int hd = c->hd, type = c->type, size = fvk_size_of(type);
    const int64_t width = (int64_t)c->heads * hd, units = a->pass[FVK_PASS_ROWS] * (int64_t)c->heads;
    (void)grid_;
    PHASE(t) {
        const int64_t u = (int64_t)block_ * (FVK_THREADS / 32) + t / 32;
        AT(top, t)[0] = AT(top, t)[1] = AT(top, t)[2] = 0;
        if (u >= units) continue;
        const fvk_dec_row *r = fvk_row_of(a->pass, u / c->heads);
        float *x = a->qkv + u / c->heads * a->ld + u % c->heads * hd;
        for (int i = t % 32 * 2; i < hd; i += 64) {
            if (r->position >= 0) {
                fvk_turn(x, a->rope + (int64_t)r->position * 2 * hd, hd, i);
                fvk_turn(x + width, a->rope + (int64_t)r->position * 2 * hd, hd, i);
            }
            for (int k = 0; k < 6; k++) {
                const float v = fabsf(x[k / 2 * width + i + k % 2]);
                if (v > AT(top, t)[k / 2]) AT(top, t)[k / 2] = v;
            }
        }
    }
    if (type == FV_I8) {
        WARP_TOPS(top);
    }
    PHASE(t) {
        const int64_t u = (int64_t)block_ * (FVK_THREADS / 32) + t / 32;
        if (u >= units) continue;
        const fvk_dec_row *r = fvk_row_of(a->pass, u / c->heads);
        const float *x = a->qkv + u / c->heads * a->ld + u % c->heads * hd;
        const float *m = AT(top, t);
        const int is_key = r->position >= 0;
        const int64_t at = is_key ? (int64_t)c->condition + r->slot : r->slot;
        uint8_t *head = fvk_head_of(c, r->seq, a->layer, u % c->heads);
        uint8_t *k = head + (int64_t)r->slot * c->row * size, *v = head + c->v + at * c->row * size;
        for (int i = t % 32 * 2; i < hd; i += 64)
            for (int j = i; j < i + 2; j++) {
                if (is_key) fvk_dec_put(k, type, j, x[width + j], fvk_inverse(m[1]));
                fvk_dec_put(v, type, j, x[2 * width + j], fvk_inverse(m[2]));
                if (type == FV_I8) a->q8[u * c->row + j] = fvk_to_i8(x[j] * fvk_inverse(m[0]));
            }
        if (t % 32 || type != FV_I8) continue;
        a->q_scale[u] = m[0] / 127.0f;
        if (is_key) ((float *)(void *)(head + c->k_scale))[r->slot] = m[1] / 127.0f;
        ((float *)(void *)(head + c->v_scale))[at] = m[2] / 127.0f;
    }
}

/* Moves of slots, in their order: each thread has 4 bytes of all of them. */
FVK_KERNEL(dec_move)
{
    const fvk_dec_cache *c = &a->cache;
    const int64_t row = (int64_t)c->row * fvk_size_of(c->type), words = row / 4;
    const int64_t each = 2 * words + (c->type == FV_I8 ? 2 : 0);
    PHASE(t) EACH(i, t, a->seqs * c->layers * c->heads * each) {
        const int64_t unit = i / each, w = i % each, front = c->condition;
        uint8_t *p = fvk_head_of(c, a->seq, 0, 0) + unit * c->head_bytes;
        int64_t step = row, base = w * 4;
        if (w >= words) base = c->v + front * row + (w - words) * 4;
        if (w >= 2 * words) {
            step = 4;
            base = w == 2 * words ? c->k_scale : c->v_scale + front * 4;
        }
        for (int k = 0; k < a->n; k++)
            *(uint32_t *)(void *)(p + base + a->to[k] * step) =
                *(const uint32_t *)(const void *)(p + base + a->from[k] * step);
    }
}

/* ---- Attention ------------------------------------------------------------------------------- */

/* Place of key number i of a row among the values: below `condition` it has no key. */
FVK_FN int32_t fvk_place_of(const int32_t *pass, const fvk_dec_row *r, int condition, int i)
{
    if (i < r->zeros) return i;
    i -= r->zeros;
    for (int j = 0; j < r->ranges; j++) {
        if (i < r->n[j]) return condition + r->first[j] + i;
        i -= r->n[j];
    }
    return condition + pass[r->more + i];
}

/* This thread's quarter of query times key. */
FVK_FN float fvk_quarter(const fvk_dec_attend_args *a, const uint8_t *key, const float *q,
                         const int8_t *q8, int quarter)
{
    const int type = a->cache.type, bytes = a->cache.row * fvk_size_of(type);
    float sum = 0;
    int32_t sum8 = 0;
    for (int k = quarter * 16; k < bytes; k += 64) {
        const fvk_quad u = fvk_quad_at(key + k);
        if (type == FV_I8) {
            const fvk_quad v = fvk_quad_at(q8 + k);
            for (int j = 0; j < 4; j++) sum8 = fvk_dot4(u.v[j], v.v[j], sum8);
        } else if (type == FV_BF16) {
            for (int j = 0; j < 4; j++) {
                sum += q[k / 2 + 2 * j] * FVK_FLOAT(u.v[j] << 16);
                sum += q[k / 2 + 2 * j + 1] * FVK_FLOAT(u.v[j] & 0xffff0000u);
            }
        } else {
            for (int j = 0; j < 4; j++) sum += q[k / 4 + j] * FVK_FLOAT(u.v[j]);
        }
    }
    return type == FV_I8 ? (float)sum8 : sum; /* below 2^24: exact */
}

FVK_KERNEL(dec_attend)
{
    SHARED(float, q, FVK_DEC_HEAD_MOST);
    SHARED(float, part, FVK_DEC_HEAD_MOST);
    SHARED(float, score, FVK_DEC_CHUNK);
    SHARED(float, chance, FVK_DEC_CHUNK);
    SHARED(float, weight, FVK_DEC_CHUNK);
    SHARED(int32_t, place, FVK_DEC_CHUNK);
    const fvk_dec_cache *c = &a->cache;
    const int64_t unit = block_ / a->chunks, row = unit / c->heads, head = unit % c->heads;
    const int hd = c->hd, type = c->type, size = fvk_size_of(type), front = c->condition;
    if (row >= a->pass[FVK_PASS_ROWS]) return;
    const fvk_dec_row *r = fvk_row_of(a->pass, row);
    const int begin = (int)(block_ % a->chunks) * FVK_DEC_CHUNK, left = fvk_keys_of(r) - begin;
    if (left <= 0) return;
    const int n = left < FVK_DEC_CHUNK ? left : FVK_DEC_CHUNK;
    const uint8_t *base = fvk_head_of(c, r->seq, a->layer, head);
    const float *v_scale = (const float *)(const void *)(base + c->v_scale);
    const float *k_scale = (const float *)(const void *)(base + c->k_scale);
    float *out = a->part + (int64_t)block_ * (hd + 2);
    (void)grid_;
    PHASE(t) {
        if (t < n) place[t] = fvk_place_of(a->pass, r, front, begin + t);
        for (int d = t; d < c->row; d += FVK_THREADS)
            q[d] = d < hd && r->position >= 0 ? a->qkv[row * a->ld + head * hd + d] : 0.0f;
    }
    PHASE(t) {
        const int key = t / 4;
        part[t] = 0;
        if (key < n && place[key] >= front && r->position >= 0)
            part[t] = fvk_quarter(a, base + (int64_t)(place[key] - front) * c->row * size, q,
                                  a->q8 + unit * c->row, t % 4);
    }
    PHASE(t) {
        if (t >= FVK_DEC_CHUNK) continue;
        const float s = ((part[4 * t] + part[4 * t + 1]) + part[4 * t + 2]) + part[4 * t + 3];
        score[t] = -INFINITY;
        if (t < n && (place[t] < front || r->position < 0)) score[t] = 0;
        else if (t < n)
            score[t] = type == FV_I8 ? s * (k_scale[place[t] - front] * (a->q_scale[unit] * a->scale))
                                     : s * a->scale;
    }
    PHASE(t) {
        float top = score[0];
        if (t >= FVK_DEC_CHUNK) continue;
        for (int i = 1; i < n; i++) top = score[i] > top ? score[i] : top;
        chance[t] = t < n ? expf(score[t] - top) : 0.0f;
        weight[t] = t < n && type == FV_I8 ? chance[t] * v_scale[place[t]] : chance[t];
        if (t == 0) out[hd] = top;
    }
    /* A thread two columns, of every key or, where columns are few, of every `groups`-th one. */
    const int pairs = c->row / 2, groups = pairs < FVK_THREADS ? FVK_THREADS / pairs : 1;
    PHASE(t) {
        for (int p = t % pairs; t < groups * pairs && p < pairs; p += FVK_THREADS) {
            const int g = t / pairs;
            float u = 0, v = 0;
            for (int i = g; i < n; i += groups) {
                const uint8_t *x = base + c->v + (int64_t)place[i] * c->row * size;
                u += weight[i] * fvk_dec_get(x, type, 2 * p);
                v += weight[i] * fvk_dec_get(x, type, 2 * p + 1);
            }
            part[g * c->row + 2 * p] = u;
            part[g * c->row + 2 * p + 1] = v;
        }
        if (t != FVK_THREADS - 1) continue;
        float all = 0;
        for (int i = 0; i < n; i++) all += chance[i];
        out[hd + 1] = all;
    }
    PHASE(t) {
        for (int d = t; d < hd; d += FVK_THREADS) {
            float s = 0;
            for (int g = 0; g < groups; g++) s += part[g * c->row + d];
            out[d] = s;
        }
    }
}

/* Chunks of a row and head, in order, to one output. */
FVK_KERNEL(dec_join)
{
    const int64_t width = a->heads * a->hd, each = a->hd + 2;
    PHASE(t) EACH(i, t, a->pass[FVK_PASS_ROWS] * width) {
        const int64_t row = i / width, d = i % width;
        const int keys = fvk_keys_of(fvk_row_of(a->pass, row));
        const int n = (keys + FVK_DEC_CHUNK - 1) / FVK_DEC_CHUNK;
        const float *p = a->part + (row * a->heads + d / a->hd) * a->chunks * each;
        float top = p[a->hd], sum = 0, all = 0;
        for (int k = 1; k < n; k++) top = p[k * each + a->hd] > top ? p[k * each + a->hd] : top;
        for (int k = 0; k < n; k++) {
            const float f = expf(p[k * each + a->hd] - top);
            sum += f * p[k * each + d % a->hd];
            all += f * p[k * each + a->hd + 1];
        }
        fvk_put(a->y, row * a->ldy + d, sum / all);
    }
}

/* ---- Logits ---------------------------------------------------------------------------------- */

/* What is asked for, to `down`: of a row, or with guidance of two. */
FVK_KERNEL(dec_guide)
{
    const int32_t *list = a->pass + a->pass[FVK_PASS_LIST];
    PHASE(t) EACH(i, t, a->pass[FVK_PASS_OUTS] * a->vocab) {
        const int64_t o = i / a->vocab, n = i % a->vocab;
        const float x = a->logits[list[2 * o] * a->vocab + n];
        const int32_t null = list[2 * o + 1];
        float y = x;
        if (null >= 0) {
            const float base = a->logits[null * a->vocab + n];
            y = base + a->guidance * (x - base);
        }
        a->down[i] = y;
    }
}

#endif
