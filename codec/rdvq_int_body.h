/* rdvq_int_body.h - RDVQ's integers in vectors of 16 numbers (nn_vec.h), for rdvq_int_avx2.c and
 * rdvq_int_avx512*.c. Equal to rdvq_int_ref.c bit by bit: elements are computed as there, and sums
 * are exact, so that their order does not matter. */
#ifndef FV_RDVQ_INT_BODY_H
#define FV_RDVQ_INT_BODY_H

#include "nn_vec.h"
#include "rdvq_int_net.h"

/* ---- Products -------------------------------------------------------------------------------- */

/* acc + the products of 2 inputs, which each element of x holds, with 16 columns. */
#if defined(__AVX512BW__)
FV_INLINE v16 load_pairs(const int16_t *w) { return _mm512_loadu_si512(w); }
FV_INLINE v16 dot_pairs(v16 acc, v16 w, v16 x)
{
#if defined(__AVX512VNNI__)
    return _mm512_dpwssd_epi32(acc, w, x);
#else
    return _mm512_add_epi32(acc, _mm512_madd_epi16(w, x));
#endif
}
FV_INLINE v16 swap_pairs(v16 x) { return _mm512_shuffle_epi32(x, _MM_PERM_CDAB); }
FV_INLINE v16 v_srlv(v16 x, v16 n) { return _mm512_srlv_epi32(x, n); }
/* Values of 0 .. 65535. */
FV_INLINE void v_store_u16(uint16_t *p, v16 x)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(x));
}
FV_INLINE int32_t v_most(v16 x) { return _mm512_reduce_max_epi32(x); }
#define TILE_ROWS 6
#define TILE_BLOCKS 4
#else
FV_INLINE v16 load_pairs(const int16_t *w) { return v_load((const int32_t *)(const void *)w); }
FV_INLINE v16 dot_pairs(v16 acc, v16 w, v16 x)
{
    const v16 v = {_mm256_add_epi32(acc.a, _mm256_madd_epi16(w.a, x.a)),
                   _mm256_add_epi32(acc.b, _mm256_madd_epi16(w.b, x.b))};
    return v;
}
FV_INLINE v16 swap_pairs(v16 x)
{
    const v16 v = {_mm256_shuffle_epi32(x.a, 0xb1), _mm256_shuffle_epi32(x.b, 0xb1)};
    return v;
}
FV_INLINE v16 v_srlv(v16 x, v16 n)
{
    const v16 v = {_mm256_srlv_epi32(x.a, n.a), _mm256_srlv_epi32(x.b, n.b)};
    return v;
}
FV_INLINE void v_store_u16(uint16_t *p, v16 x)
{
    const __m256i y = _mm256_packus_epi32(x.a, x.b);
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(y, 0xd8));
}
FV_INLINE int32_t v_most(v16 x)
{
    const __m256i m = _mm256_max_epi32(x.a, x.b);
    __m128i h = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
    h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(h, _mm_shuffle_epi32(h, 0xb1)));
}
#define TILE_ROWS 3
#define TILE_BLOCKS 2
#endif

FV_INLINE int32_t pair_of(const int16_t *x)
{
    int32_t v;
    memcpy(&v, x, sizeof v);
    return v;
}

typedef struct dots_tile {
    int32_t *out;
    const int16_t *w, *x;
    const int32_t *mul;
    int step_out, step_x, stride, pairs, shift;
} dots_tile;

/* rows and blocks are constants where this is called. */
FV_INLINE void dots_of_tile(const dots_tile *t, int rows, int blocks)
{
    v16 acc[TILE_ROWS][TILE_BLOCKS];
    FV_UNROLL
    for (int r = 0; r < rows; r++) {
        FV_UNROLL
        for (int b = 0; b < blocks; b++) acc[r][b] = v_set(0);
    }
    for (int k = 0; k < t->pairs; k++) {
        v16 w[TILE_BLOCKS];
        FV_UNROLL
        for (int b = 0; b < blocks; b++)
            w[b] = load_pairs(t->w + ((size_t)b * (size_t)t->stride + (size_t)k) * 32);
        FV_UNROLL
        for (int r = 0; r < rows; r++) {
            const v16 x = v_set(pair_of(t->x + (size_t)r * (size_t)t->step_x + 2 * k));
            FV_UNROLL
            for (int b = 0; b < blocks; b++) acc[r][b] = dot_pairs(acc[r][b], w[b], x);
        }
    }
    FV_UNROLL
    for (int b = 0; b < blocks; b++) {
        const v16 m = t->mul ? v_load(t->mul + 16 * b) : v_set(0);
        FV_UNROLL
        for (int r = 0; r < rows; r++) {
            int32_t *out = t->out + (size_t)r * (size_t)t->step_out + 16 * b;
            v_store(out, t->mul ? v_scaled(acc[r][b], m, t->shift) : acc[r][b]);
        }
    }
}

FV_INLINE void dots_of_blocks(dots_tile t, int rows, int blocks)
{
    for (; rows >= TILE_ROWS; rows -= TILE_ROWS) {
        dots_of_tile(&t, TILE_ROWS, blocks);
        t.x += (size_t)TILE_ROWS * (size_t)t.step_x;
        t.out += (size_t)TILE_ROWS * (size_t)t.step_out;
    }
    switch (rows) {
#if TILE_ROWS > 3
    case 5: dots_of_tile(&t, 5, blocks); break;
    case 4: dots_of_tile(&t, 4, blocks); break;
    case 3: dots_of_tile(&t, 3, blocks); break;
#endif
    case 2: dots_of_tile(&t, 2, blocks); break;
    case 1: dots_of_tile(&t, 1, blocks); break;
    default: break;
    }
}

static void dots_v(int32_t *out, int step_out, const rdvq_dots *d, const int16_t *x, int step_x,
                   int rows)
{
    dots_tile t = {out,    d->w,      x,        d->mul,  step_out,
                   step_x, d->stride, d->pairs, d->shift};
    int left = d->blocks;
    for (; left >= TILE_BLOCKS; left -= TILE_BLOCKS) {
        dots_of_blocks(t, rows, TILE_BLOCKS);
        t.w += (size_t)TILE_BLOCKS * (size_t)d->stride * 32;
        t.out += 16 * TILE_BLOCKS;
        if (t.mul) t.mul += 16 * TILE_BLOCKS;
    }
    for (; left > 0; left--) {
        dots_of_blocks(t, rows, 1);
        t.w += (size_t)d->stride * 32;
        t.out += 16;
        if (t.mul) t.mul += 16;
    }
}

/* ---- Vectors --------------------------------------------------------------------------------- */

static void norm_v(int16_t *y, const int32_t *r, int n)
{
    v64 sum = v64_zero();
    int q;
    for (int i = 0; i < n; i += 16) sum = v64_add_square(sum, v_load(r + i));
    const v16 R = v_set(nn_int_root((uint64_t)v64_sum(sum) / (uint64_t)n + RDVQ_EPS, &q));
    for (int i = 0; i < n; i += 16)
        v_store16(y + i, v_clamp(v_scaled(v_load(r + i), R, 35 + q), 32767));
}

static void unit_v(int16_t *y, const int32_t *x, const int16_t *turn, int n)
{
    v64 sum = v64_zero();
    int q = 0;
    for (int i = 0; i < n; i += 16) sum = v64_add_square(sum, v_clamp(v_load(x + i), 32767));
    const int64_t square = v64_sum(sum);
    const v16 R = v_set(square > 0 ? nn_int_root((uint64_t)square, &q) : 0);
    for (int i = 0; i < n; i += 16) {
        const v16 a = v_clamp(v_load(x + i), 32767);
        const v16 t = v_add(v_mul(a, v_load16(turn + i)),
                            v_mul(swap_pairs(a), v_load16(turn + n + i)));
        v_store16(y + i, v_scaled(t, R, 46 + q));
    }
}

static void average_v(int16_t *o, const int32_t *sum, int n)
{
    for (int i = 0; i < n; i += 16) v_store16(o + i, v_clamp(v_rsh(v_load(sum + i), 15), 32767));
}

static void gate_v(int16_t *h, const int32_t *g, const int32_t *l, int n, const rdvq_int_layer *y)
{
    for (int i = 0; i < n; i += 16) {
        const v16 a = v_clamp(v_load(g + i), 32767), b = v_clamp(v_load(l + i), 32767);
        const v16 s = v_rsh(v_mul(a, v_sigmoid(v_mul(a, v_set(1 << y->up)))), 15);
        v_store16(h + i, v_clamp(v_rsh(v_mul(s, b), y->down), 32767));
    }
}

/* exp2(u) << up >> down, u >= 0. */
FV_INLINE v16 v_exp2(v16 u, int up, int down)
{
    const v16 f = v_and(u, v_set(1023));
    v16 t = v_sub(v_set(RDVQ_EXP2_2), v_shr(v_mul(v_set(RDVQ_EXP2_3), f), 10));
    t = v_sub(v_set(RDVQ_EXP2_1), v_shr(v_mul(t, f), 10));
    t = v_sub(v_set(1 << 20), v_shr(v_mul(t, f), 10));
    if (up) t = v_mul(t, v_set(1 << up));
    return v_srlv(t, v_min(v_add(v_shr(u, 10), v_set(down)), v_set(31)));
}

/* ---- Attention ------------------------------------------------------------------------------- */

static void attend_v(int16_t *P, int32_t *s, int n, int32_t scale)
{
    const int end = (n + 15) & ~15;
    const v16 c = v_set(scale);
    v16 most = v_set(INT32_MIN), Z = v_set(0);
    for (int k = n; k < end; k++) s[k] = s[n - 1]; /* changes no maximum */
    for (int k = 0; k < end; k += 16) {
        const v16 e = v_rsh(v_mul(v_rsh(v_load(s + k), 13), c), 13);
        v_store(s + k, e);
        most = v_max(most, e);
    }
    most = v_set(v_most(most));
    for (int k = n; k < end; k++) s[k] = -(1 << 30); /* has weight 0 */
    for (int k = 0; k < end; k += 16) {
        const v16 w = v_exp2(v_sub(most, v_load(s + k)), 0, 3);
        v_store(s + k, w);
        Z = v_add(Z, w);
    }
    const uint32_t z = (uint32_t)v_sum(Z);
    const int b = rdvq_bits_of(z) - 17;
    const v16 inv = v_set((int32_t)(((uint64_t)1 << (29 + b)) / z)), limit = v_set(32767);
    for (int k = 0; k < end; k += 16)
        v_store16(P + k, v_min(v_rsh(v_mul(v_load(s + k), inv), 14 + b), limit));
}

/* ---- Probabilities --------------------------------------------------------------------------- */

/* u_k and the weights' sum of one group; group a multiple of 16, as n is. */
FV_INLINE uint32_t spread_group(uint16_t *u, const int32_t *logit, v16 most, int n)
{
    v16 sum = v_set(0);
    for (int k = 0; k < n; k += 16) {
        v16 d = v_sub(most, v_clamp(v_load(logit + k), RDVQ_LOGIT_LIMIT));
        d = v_min(d, v_set(65535));
        v_store_u16(u + k, d);
        sum = v_add(sum, v_exp2(d, 3, 0));
    }
    return (uint32_t)v_sum(sum);
}

static void spread_v(uint16_t *u, uint32_t *sum, const int32_t *logit, int n, int group)
{
    v16 most = v_set(-RDVQ_LOGIT_LIMIT);
    for (int k = 0; k < n; k += 16)
        most = v_max(most, v_clamp(v_load(logit + k), RDVQ_LOGIT_LIMIT));
    most = v_set(v_most(most));
    for (int at = 0; at < n; at += group)
        *sum++ = spread_group(u + at, logit + at, most, at + group < n ? group : n - at);
}

#define RDVQ_INT_OPS(name)                                                                         \
    {                                                                                              \
        name, dots_v, norm_v, unit_v, attend_v, average_v, gate_v, spread_v                        \
    }

#endif
