/* nn_int_body.h - the integer network in vectors of 16 numbers (nn_vec.h), for nn_int_avx2.c and
 * nn_int_avx512*.c. Equal to nn_int_ref.c bit by bit: elements are computed as there, and sums are
 * exact, so that their order does not matter. */
#ifndef VZ_NN_INT_BODY_H
#define VZ_NN_INT_BODY_H

#include "nn_vec.h"

/* ---- Vectors --------------------------------------------------------------------------------- */

static void embed_v(int32_t *x, const int8_t *e, int n, int32_t mul, int shift)
{
    for (int i = 0; i < n; i += 16)
        v_store(x + i, v_clamp(v_scaled(v_load8(e + i), v_set(mul), shift), NN_X_MAX));
}

static void mix_v(int32_t *x, const int32_t *x0, int n, const int32_t mix[2])
{
    const v16 a = v_set(mix[0]), b = v_set(mix[1]);
    for (int i = 0; i < n; i += 16)
        v_store(x + i, v_clamp(v_scaled2(v_load(x + i), a, v_load(x0 + i), b, 14), NN_X_MAX));
}

/* n <= 1024 and |x| <= 2^24: sums of 64 elements fit 32 bits. */
FV_INLINE int32_t mean_v(const int32_t *x, int n)
{
    v16 part = v_set(0);
    int64_t sum = 0;
    int32_t lane[16];
    for (int i = 0; i < n; i += 16) part = v_add(part, v_load(x + i));
    v_store(lane, part);
    for (int i = 0; i < 16; i++) sum += lane[i];
    return (int32_t)((sum + n / 2 + ((int64_t)n << 25)) / n - ((int64_t)1 << 25));
}

FV_INLINE void normalise_v(int16_t *out, const int32_t *x, int n, int32_t mean, int64_t eps,
                           int shift, const int16_t *gain, const int16_t *bias)
{
    const v16 m = v_set(mean);
    v64 sum = v64_zero();
    int q;
    for (int i = 0; i < n; i += 16) sum = v64_add_square(sum, v_sub(v_load(x + i), m));
    const int32_t r = nn_int_root((uint64_t)v64_sum(sum) / (uint64_t)n + (uint64_t)eps, &q);
    const v16 root = v_set(r);
    for (int i = 0; i < n; i += 16) {
        const v16 xhat = v_clamp(v_scaled(v_sub(v_load(x + i), m), root, 35 + q), NN_XHAT_MAX);
        v16 y = v_rsh(v_mul(xhat, v_load16(gain + i)), shift);
        if (bias) y = v_add(y, v_load16(bias + i));
        v_store16(out + i, v_clamp(y, NN_ACT_MAX));
    }
}

static void norm_v(int16_t *out, const int32_t *x, int n, const nn_int_norm *p)
{
    normalise_v(out, x, n, p->bias ? mean_v(x, n) : 0, p->eps, p->shift, p->gain, p->bias);
}

static void shift_v(int16_t *const out[3], const int16_t *a, const int16_t *before,
                    int16_t *const mu[3], int n)
{
    for (int i = 0; i < n; i += 16) {
        const v16 x = v_load16(a + i), d = v_sub(v_load16(before + i), x);
        for (int c = 0; c < 3; c++) {
            const v16 y = v_add(x, v_rsh(v_mul(d, v_load16(mu[c] + i)), 14));
            v_store16(out[c] + i, v_clamp(y, NN_ACT_MAX));
        }
    }
}

static void narrow_v(int16_t *out, const int32_t *x, int n, int32_t limit)
{
    for (int i = 0; i < n; i += 16) v_store16(out + i, v_clamp(v_load(x + i), limit));
}

static void square_v(int16_t *out, const int32_t *x, int n)
{
    for (int i = 0; i < n; i += 16) {
        const v16 u = v_min(v_max(v_load(x + i), v_set(0)), v_set(32767));
        v_store16(out + i, v_min(v_rsh(v_mul(u, u), 17), v_set(NN_ACT_MAX)));
    }
}

static void add_v(int32_t *x, const int32_t *y, int n)
{
    for (int i = 0; i < n; i += 16) { /* beyond 2^26 the sum saturates either way */
        const v16 b = v_clamp(v_load(y + i), 1 << 26);
        v_store(x + i, v_clamp(v_add(v_load(x + i), b), NN_X_MAX));
    }
}

static void lerp_v(int16_t *v, const int16_t *v1, const int16_t *mix, int n)
{
    for (int i = 0; i < n; i += 16) {
        const v16 x = v_load16(v + i), d = v_sub(v_load16(v1 + i), x);
        v_store16(v + i, v_clamp(v_add(x, v_rsh(v_mul(d, v_load16(mix + i)), 14)), NN_ACT_MAX));
    }
}

/* ---- Recurrence ------------------------------------------------------------------------------ */

/* A head takes 270 ticks alone, most of which it waits for two roots and some sums across lanes.
 * In three passes over up to 8 heads they wait together. */
#define PASS 8
typedef struct head_lanes {
    int32_t kk[NN_HEAD], kb[NN_HEAD], K[NN_HEAD], r[NN_HEAD], u[NN_HEAD], Y[NN_HEAD], bonus;
} head_lanes;

/* Keys of head h. */
FV_INLINE void key_lanes(const nn_int_wkv *w, int h, head_lanes *p)
{
    const nn_int_layer *y = w->layer;
    const int at = w->at + h * NN_HEAD;
    const v16 k = v_load16(w->k + h * NN_HEAD), r = v_load16(w->r + h * NN_HEAD);
    const int32_t sum = v_sum(v_mul(k, k));
    int q = 0;
    const int32_t root = sum > 0 ? nn_int_root((uint64_t)sum, &q) : 0;
    const v16 kk = v_scaled(k, v_set(root), 33 + q);
    v_store(p->kk, kk);
    v_store(p->kb, v_rsh(v_mul(kk, v_load16(y->rate + at)), 14));
    v_store(p->K, v_clamp(v_scaled(k, v_load(y->key + at), y->key_shift), NN_SA_MAX));
    v_store(p->r, r);
    v_store(p->u, v_load16(y->decay + at));
    const v16 b = v_clamp(v_scaled(k, v_load(y->bonus + at), y->bonus_shift), NN_ACT_MAX);
    const int32_t B = v_sum(v_mul(r, b));
    p->bonus = vz_clamp(nn_scaled(B, y->bonus_mul, y->bonus_mul_shift), -32767, 32767);
}

/* The state of head h, and Y. */
FV_INLINE void advance(const nn_int_wkv *w, int h, head_lanes *p)
{
    int32_t *S = w->S + h * NN_HEAD * NN_HEAD;
    const v16 v = v_load16(w->v + h * NN_HEAD), four = v_set(4);
    const v16 h12 = v_set(1 << 11), h11 = v_set(1 << 10);
    v16 sa = v_set(0), sb = sa, y = sa, y1 = sa;
    for (int j = 0; j < NN_HEAD; j += 2) {
        const v16 s0 = v_sar(v_add(v_load(S + j * NN_HEAD), h12), 12);
        const v16 s1 = v_sar(v_add(v_load(S + (j + 1) * NN_HEAD), h12), 12);
        sa = v_add(sa, v_mul(s0, v_set(p->kk[j])));
        sb = v_add(sb, v_mul(s1, v_set(p->kk[j + 1])));
    }
    sa = v_clamp(v_sub(v_set(0), v_rsh(v_add(sa, sb), 12)), NN_SA_MAX);
    for (int j = 0; j < NN_HEAD; j++) {
        v16 s = v_load(S + j * NN_HEAD);
        v16 t = v_add(v_mul(sa, v_set(p->kb[j])), v_mul(v, v_set(p->K[j])));
        t = v_sar(v_add(t, four), 3);
        s = v_sub(s, v_sar(v_mul(v_sar(v_add(s, h11), 11), v_set(p->u[j])), 5));
        s = v_clamp(v_add(s, t), NN_STATE_MAX);
        v_store(S + j * NN_HEAD, s);
        const v16 part = v_mul(v_sar(v_add(s, h12), 12), v_set(p->r[j]));
        if (j & 1) y1 = v_add(y1, part);
        else y = v_add(y, part);
    }
    v_store(p->Y, v_rsh(v_add(y, y1), 6));
}

/* z of head h. */
FV_INLINE void finish(const nn_int_wkv *w, int h, const head_lanes *p)
{
    const nn_int_layer *l = w->layer;
    const int at = w->at + h * NN_HEAD;
    int16_t *z = w->z + h * NN_HEAD;
    normalise_v(z, p->Y, NN_HEAD, mean_v(p->Y, NN_HEAD), l->head_eps[at / NN_HEAD], l->head.shift,
                l->head.gain + at, l->head.bias + at);
    const v16 b = v_mul(v_set(p->bonus), v_load16(w->v + h * NN_HEAD));
    v_store16(z, v_clamp(v_add(v_load16(z), v_rsh(b, 12)), NN_ACT_MAX));
}

static void time_mix_v(const nn_int_wkv *w)
{
    head_lanes p[PASS];
    for (int first = 0; first < w->heads; first += PASS) {
        const int n = w->heads - first < PASS ? w->heads - first : PASS;
        for (int h = 0; h < n; h++) key_lanes(w, first + h, &p[h]);
        for (int h = 0; h < n; h++) advance(w, first + h, &p[h]);
        for (int h = 0; h < n; h++) finish(w, first + h, &p[h]);
    }
}

static void gate_v(int16_t *z, const int16_t *xrg, int n, int32_t gate, int shift)
{
    const v16 g = v_set(gate);
    for (int i = 0; i < n; i += 16) {
        const v16 s = v_sigmoid(v_rsh(v_mul(v_load16(xrg + i), g), shift));
        v_store16(z + i, v_rsh(v_mul(v_load16(z + i), s), 15));
    }
}

/* ---- Products -------------------------------------------------------------------------------- */

/* acc + the products of 2 columns, 16 rows: w 32 bytes, x both inputs in each element. */
#if defined(__AVX512VNNI__)
FV_INLINE v16 dot2(v16 acc, const int8_t *w, v16 x)
{
    return _mm512_dpwssd_epi32(acc, x, _mm512_cvtepi8_epi16(_mm256_load_si256((const __m256i *)w)));
}
#elif defined(__AVX512BW__)
FV_INLINE v16 dot2(v16 acc, const int8_t *w, v16 x)
{
    const __m512i y = _mm512_cvtepi8_epi16(_mm256_load_si256((const __m256i *)w));
    return _mm512_add_epi32(acc, _mm512_madd_epi16(x, y));
}
#else
FV_INLINE v16 dot2(v16 acc, const int8_t *w, v16 x)
{
    const __m256i a = _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i *)w));
    const __m256i b = _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i *)(w + 16)));
    const v16 y = {_mm256_add_epi32(acc.a, _mm256_madd_epi16(x.a, a)),
                   _mm256_add_epi32(acc.b, _mm256_madd_epi16(x.b, b))};
    return y;
}
#endif
FV_INLINE v16 pair_of(const int16_t *x)
{
    int32_t v;
    memcpy(&v, x, sizeof v);
    return v_set(v);
}

static void product_v(int32_t *out, const nn_int_matrix *m, int row0, int rows, const int16_t *x)
{
    const int columns = m->columns, s = m->shift;
    const size_t step = (size_t)columns * 16; /* bytes of 16 rows */
    const int8_t *w = m->w + (size_t)row0 * (size_t)columns;
    const int32_t *mul = m->mul + row0;
    int g = 0;
    for (; g + 64 <= rows; g += 64, w += 4 * step) {
        v16 a = v_set(0), b = a, c = a, d = a;
        const int8_t *p = w;
        for (int k = 0; k < columns; k += 2, p += 32) {
            const v16 y = pair_of(x + k);
            a = dot2(a, p, y);
            b = dot2(b, p + step, y);
            c = dot2(c, p + 2 * step, y);
            d = dot2(d, p + 3 * step, y);
        }
        v_store(out + g, v_scaled(a, v_load(mul + g), s));
        v_store(out + g + 16, v_scaled(b, v_load(mul + g + 16), s));
        v_store(out + g + 32, v_scaled(c, v_load(mul + g + 32), s));
        v_store(out + g + 48, v_scaled(d, v_load(mul + g + 48), s));
    }
    for (; g < rows; g += 16, w += step) {
        v16 a = v_set(0), b = a, c = a, d = a;
        const int8_t *p = w;
        for (int k = 0; k < columns; k += 8, p += 128) {
            a = dot2(a, p, pair_of(x + k));
            b = dot2(b, p + 32, pair_of(x + k + 2));
            c = dot2(c, p + 64, pair_of(x + k + 4));
            d = dot2(d, p + 96, pair_of(x + k + 6));
        }
        a = v_add(v_add(a, b), v_add(c, d));
        v_store(out + g, v_scaled(a, v_load(mul + g), s));
    }
}

/* ---- Head: rows of any alignment ------------------------------------------------------------- */

static int32_t dot_v(const int8_t *w, const int16_t *h, int n)
{
    __m256i a = _mm256_setzero_si256(), b = a;
    for (int i = 0; i < n; i += 16) {
        const __m256i x = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(w + i)));
        const __m256i y = _mm256_madd_epi16(x, _mm256_loadu_si256((const __m256i *)(h + i)));
        if (i & 16) a = _mm256_add_epi32(a, y);
        else b = _mm256_add_epi32(b, y);
    }
    a = _mm256_add_epi32(a, b);
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

static int32_t dot_delta_v(const int16_t *d, const int16_t *h, int n)
{
    __m256i a = _mm256_setzero_si256();
    for (int i = 0; i < n; i += 16) {
        const __m256i y = _mm256_madd_epi16(_mm256_loadu_si256((const __m256i *)(d + i)),
                                            _mm256_loadu_si256((const __m256i *)(h + i)));
        a = _mm256_add_epi32(a, _mm256_srai_epi32(y, 8));
    }
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

static void adapt_v(int16_t *d, const int16_t *h, int n, int32_t e, int rate)
{
    const v16 x = v_set(e);
    for (int i = 0; i < n; i += 16) {
        const v16 y = v_rsh(v_mul(v_load16(h + i), x), rate);
        v_store16(d + i, v_clamp(v_add(v_load16(d + i), y), 32767));
    }
}

#define NN_INT_OPS(name)                                                                           \
    {                                                                                              \
        name, embed_v, mix_v, norm_v, shift_v, product_v, narrow_v, square_v, add_v, lerp_v,       \
            time_mix_v, gate_v, dot_v, dot_delta_v, adapt_v                                        \
    }

#endif
