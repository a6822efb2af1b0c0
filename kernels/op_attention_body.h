/* op_attention_body.h - vector kernels of SDPA, included by op_attention_avx2.c, _avx512.c and
 * _avx512bf16.c; layouts are described in attention_tables.h.
 *
 * The product keeps MR x NV accumulators in registers (6 x 4 of 32 with AVX-512, 6 x 2 of 16 with
 * AVX2): per step of k it loads NV vectors of B, broadcasts MR values of A and does MR * NV
 * multiply-adds, so that loads never limit. Each c[m, n] is one chain over k in order: its bits do
 * not depend on tile sizes or threads. With ATTENTION_BF16 a step is one _mm512_dpbf16_ps: two bf16
 * products added into f32. */
#include <string.h>

#include "attention_tables.h"
#include "simd.h"

#ifndef ATTENTION_BF16
#define ATTENTION_BF16 0
#endif

#define MR 6
#if VW == 16
#define NV 4
#else
#define NV 2
#endif
#define PANEL (NV * VW)

/* e^x for x <= 0 (a little above is fine): v_exp without its upper bound; NaN stays NaN. */
FV_INLINE vf exp_le0(vf x)
{
    const vf lo = v_set1(-87.3365f);
    const vf c = v_max(lo, x); /* in this order a NaN in x is kept */
    const vf n = v_round(v_mul(c, v_set1(1.44269504f)));
    vf r = v_fnma(n, v_set1(0.693359375f), c);
    r = v_fnma(n, v_set1(-2.12194440e-4f), r);
    vf p = v_set1(1.9875691500e-4f);
    p = v_fma(p, r, v_set1(1.3981999507e-3f));
    p = v_fma(p, r, v_set1(8.3334519073e-3f));
    p = v_fma(p, r, v_set1(4.1665795894e-2f));
    p = v_fma(p, r, v_set1(1.6666665459e-1f));
    p = v_fma(p, r, v_set1(5.0000001201e-1f));
    p = v_add(v_fma(v_mul(p, r), r, r), v_set1(1.0f));
    return v_select_gt(lo, x, v_zero(), v_mul(p, v_exp2i_(n)));
}

/* The first n lanes of x, 0 elsewhere; any n. */
FV_INLINE vf first_lanes(vf x, int n)
{
    if (n >= VW) return x;
    if (n <= 0) return v_zero();
#if VW == 16
    return _mm512_maskz_mov_ps(v_mask_(n), x);
#else
    return _mm256_and_ps(x, _mm256_castsi256_ps(v_mask_(n)));
#endif
}

/* ---- Transposition of VW x VW words in registers --------------------------------------------- */

#if VW == 16
FV_INLINE void transpose(vf r[VW])
{
    vf t[VW];
    FV_UNROLL
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    FV_UNROLL
    for (int i = 0; i < 16; i += 4) { /* r[i + c]: column c of each 4 x 4 block of rows i..i+3 */
        r[i] = _mm512_castpd_ps(
            _mm512_unpacklo_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
        r[i + 1] = _mm512_castpd_ps(
            _mm512_unpackhi_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
        r[i + 2] = _mm512_castpd_ps(
            _mm512_unpacklo_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
        r[i + 3] = _mm512_castpd_ps(
            _mm512_unpackhi_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
    }
    FV_UNROLL
    for (int c = 0; c < 4; c++) { /* 4 x 4 transposition of 128-bit blocks */
        const vf a = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x88); /* blocks 0, 2 of rows 0-3, 4-7 */
        const vf b = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xdd); /* blocks 1, 3                  */
        const vf d = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x88);
        const vf e = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xdd);
        t[c] = _mm512_shuffle_f32x4(a, d, 0x88);
        t[8 + c] = _mm512_shuffle_f32x4(a, d, 0xdd);
        t[4 + c] = _mm512_shuffle_f32x4(b, e, 0x88);
        t[12 + c] = _mm512_shuffle_f32x4(b, e, 0xdd);
    }
    FV_UNROLL
    for (int i = 0; i < 16; i++) r[i] = t[i];
}
#else
FV_INLINE void transpose(vf r[VW])
{
    vf t[VW];
    FV_UNROLL
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    FV_UNROLL
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    FV_UNROLL
    for (int c = 0; c < 4; c++) {
        t[c] = _mm256_permute2f128_ps(r[c], r[4 + c], 0x20);
        t[4 + c] = _mm256_permute2f128_ps(r[c], r[4 + c], 0x31);
    }
    FV_UNROLL
    for (int i = 0; i < 8; i++) r[i] = t[i];
}
#endif

/* ---- Operands -------------------------------------------------------------------------------- */

FV_INLINE int min_int(int a, int b) { return a < b ? a : b; }
FV_INLINE int round_up(int n, int step) { return (n + step - 1) / step * step; }

/* Width of the panel that starts at column j of N. */
FV_INLINE int panel_width(int N, int j)
{
    return N - j >= PANEL ? PANEL : round_up(N - j, VW);
}

#if ATTENTION_BF16
static void left_rows(float *dst, int64_t ld, const fvi_rows *x)
{
    for (int r = 0; r < x->rows; r++)
        memcpy(dst + r * ld, (const uint16_t *)x->data + r * x->stride, (size_t)x->cols * 2);
}

/* Rows 2k and 2k + 1 become one row of pairs. */
static void pack(float *panels, const fvi_rows *x)
{
    const int N = x->cols;
    for (int j = 0; j < N; j += PANEL) {
        const int w = panel_width(N, j);
        for (int k = 0; k < x->rows; k += 2, panels += w) {
            const uint16_t *a = (const uint16_t *)x->data + k * x->stride + j;
            const uint16_t *b = k + 1 < x->rows ? a + x->stride : NULL;
            for (int i = 0; i < w; i += VW) {
                const int n = min_int(N - j - i, VW);
                const __mmask16 m = (__mmask16)((1u << n) - 1u);
                const __m512i lo = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, a + i));
                __m512i hi = _mm512_setzero_si512();
                if (b) hi = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, b + i));
                _mm512_storeu_si512(panels + i, _mm512_or_si512(lo, _mm512_slli_epi32(hi, 16)));
            }
        }
    }
}
#else
static void left_rows(float *dst, int64_t ld, const fvi_rows *x)
{
    for (int r = 0; r < x->rows; r++)
        for (int i = 0; i < x->cols; i += VW) {
            const int n = min_int(x->cols - i, VW);
            v_store(dst, r * ld + i, 0, n, v_load(x->data, r * x->stride + i, x->is_bf16, n));
        }
}

static void pack(float *panels, const fvi_rows *x)
{
    const int N = x->cols;
    for (int j = 0; j < N; j += PANEL) {
        const int w = panel_width(N, j);
        for (int k = 0; k < x->rows; k++, panels += w)
            for (int i = 0; i < w; i += VW)
                v_st(panels + i,
                     v_load(x->data, k * x->stride + j + i, x->is_bf16, min_int(N - j - i, VW)));
    }
}
#endif

/* x^T for x [N, K]: words of 4 bytes are moved, so pairs of bf16 stay together. */
static void pack_t(float *panels, const fvi_rows *x)
{
    const int N = x->rows, K = ATTENTION_BF16 ? x->cols / 2 : x->cols;
    const int64_t stride = ATTENTION_BF16 ? x->stride / 2 : x->stride;
    const int is_bf16 = ATTENTION_BF16 ? 0 : x->is_bf16;
    for (int j = 0; j < N; j += PANEL) {
        const int w = panel_width(N, j);
        for (int i = 0; i < w; i += VW)
            for (int k = 0; k < K; k += VW) {
                const int rows = min_int(N - j - i, VW), cols = min_int(K - k, VW);
                vf r[VW];
                FV_UNROLL
                for (int q = 0; q < VW; q++)
                    r[q] = q < rows ? v_load(x->data, (j + i + q) * stride + k, is_bf16, cols)
                                    : v_zero();
                transpose(r);
                if (cols == VW) {
                    FV_UNROLL
                    for (int q = 0; q < VW; q++) v_st(panels + (int64_t)(k + q) * w + i, r[q]);
                } else {
                    for (int q = 0; q < cols; q++) v_st(panels + (int64_t)(k + q) * w + i, r[q]);
                }
            }
        panels += (int64_t)K * w;
    }
}

/* ---- Product --------------------------------------------------------------------------------- */

#if ATTENTION_BF16
FV_INLINE vf mac(vf a, vf b, vf c)
{
    return _mm512_dpbf16_ps(c, (__m512bh)_mm512_castps_si512(a), (__m512bh)_mm512_castps_si512(b));
}
#else
FV_INLINE vf mac(vf a, vf b, vf c) { return v_fma(a, b, c); }
#endif

/* mr rows, nv vectors of columns; constants after inlining. */
FV_INLINE void tile(const int mr, const int nv, const fvi_gemm *g, const float *a, const float *b,
                    float *c)
{
    const int64_t ar = g->a_row, ak = g->a_k, ldc = g->ldc;
    vf acc[MR][NV];
    FV_UNROLL
    for (int i = 0; i < mr; i++) {
        FV_UNROLL
        for (int j = 0; j < nv; j++) acc[i][j] = v_zero();
    }
    if (g->add) {
        FV_UNROLL
        for (int i = 0; i < mr; i++) {
            FV_UNROLL
            for (int j = 0; j < nv; j++) acc[i][j] = v_ld(c + i * ldc + j * VW);
        }
    }
    for (int k = 0; k < g->K; k++) {
        vf bv[NV];
        FV_UNROLL
        for (int j = 0; j < nv; j++) bv[j] = v_ld(b + j * VW);
        FV_UNROLL
        for (int i = 0; i < mr; i++) {
            const vf av = v_set1(a[i * ar]);
            FV_UNROLL
            for (int j = 0; j < nv; j++) acc[i][j] = mac(av, bv[j], acc[i][j]);
        }
        a += ak;
        b += nv * VW;
    }
    FV_UNROLL
    for (int i = 0; i < mr; i++) {
        FV_UNROLL
        for (int j = 0; j < nv; j++) v_st(c + i * ldc + j * VW, acc[i][j]);
    }
}

FV_INLINE void panel_rows(const int nv, const fvi_gemm *g, const float *b, float *c)
{
    int m = 0;
    const float *a = g->a;
    for (; m + MR <= g->M; m += MR, a += MR * g->a_row, c += MR * g->ldc) tile(MR, nv, g, a, b, c);
    switch (g->M - m) {
    case 5: tile(5, nv, g, a, b, c); break;
    case 4: tile(4, nv, g, a, b, c); break;
    case 3: tile(3, nv, g, a, b, c); break;
    case 2: tile(2, nv, g, a, b, c); break;
    case 1: tile(1, nv, g, a, b, c); break;
    default: break;
    }
}

static void gemm(const fvi_gemm *g)
{
    const float *b = g->b;
    for (int j = 0; j < g->N; j += PANEL, b += g->b_panel) {
        float *c = g->c + j;
        switch (panel_width(g->N, j) / VW) {
#if NV == 4
        case 4: panel_rows(4, g, b, c); break;
        case 3: panel_rows(3, g, b, c); break;
#endif
        case 2: panel_rows(2, g, b, c); break;
        default: panel_rows(1, g, b, c); break;
        }
    }
}

/* ---- Softmax and its gradient ---------------------------------------------------------------- */

static void softmax(float *s, int n, int pad, float scale, float stat[3])
{
    if (n <= 0) {
        memset(s, 0, (size_t)pad * (ATTENTION_BF16 ? 2 : 4));
        stat[2] = 1;
        return;
    }
    const vf vs = v_set1(scale), low = v_set1(-INFINITY);
    vf top = low;
    int j = 0;
    for (; j + VW <= n; j += VW) top = v_max(top, v_mul(v_ld(s + j), vs));
    if (j < n) {
        const vf x = v_mul(v_ldn(s + j, n - j), vs);
        const vf inside = first_lanes(v_set1(1.0f), n - j);
        top = v_max(top, v_select_gt(inside, v_zero(), x, low));
    }
    const float m0 = stat[0], row = v_hmax(top), m = row > m0 ? row : m0;
    const vf minus = v_set1(-m);
    vf sum = v_zero();
#if ATTENTION_BF16
    uint16_t *p = (uint16_t *)s; /* in place: the write position never passes the read position */
    for (j = 0; j < pad; j += 2 * VW) {
        vf a = first_lanes(exp_le0(v_fma(v_ld(s + j), vs, minus)), n - j), b = v_zero();
        if (j + VW < pad) b = first_lanes(exp_le0(v_fma(v_ld(s + j + VW), vs, minus)), n - j - VW);
        sum = v_add(sum, v_add(a, b));
        _mm512_storeu_si512(p + j, (__m512i)_mm512_cvtne2ps_pbh(b, a));
    }
#else
    for (j = 0; j < pad; j += VW) {
        const vf a = first_lanes(exp_le0(v_fma(v_ld(s + j), vs, minus)), n - j);
        sum = v_add(sum, a);
        v_st(s + j, a);
    }
#endif
    stat[2] = m0 == m ? 1.0f : stat[1] > 0 ? expf(m0 - m) : 0.0f;
    stat[1] = stat[1] * stat[2] + v_hsum(sum);
    stat[0] = m;
}

#if ATTENTION_BF16
static void grad(const fvi_score_grad *g)
{
    const vf vs = v_set1(g->scale);
    const __m512i weave =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (int r = 0; r < g->rows; r += 2) {
        const int two = r + 1 < g->rows;
        float *s0 = g->s + r * g->ld, *s1 = s0 + g->ld, *d0 = g->dp + r * g->ld, *d1 = d0 + g->ld;
        const int n0 = fvi_visible(g, r);
        const int n1 = two ? fvi_visible(g, r + 1) : 0;
        const vf l0 = v_set1(-g->lse[r]), l1 = v_set1(two ? -g->lse[r + 1] : 0.0f);
        const vf e0 = v_set1(g->delta[r]), e1 = v_set1(two ? g->delta[r + 1] : 0.0f);
        for (int j = 0; j < g->n; j += VW) {
            const vf p0 = first_lanes(exp_le0(v_fma(v_ld(s0 + j), vs, l0)), n0 - j);
            const vf p1 = first_lanes(exp_le0(v_fma(v_ld(s1 + j), vs, l1)), n1 - j);
            const vf x0 = first_lanes(v_mul(v_mul(p0, v_sub(v_ld(d0 + j), e0)), vs), n0 - j);
            const vf x1 = first_lanes(v_mul(v_mul(p1, v_sub(v_ld(d1 + j), e1)), vs), n1 - j);
            const __m512i p = (__m512i)_mm512_cvtne2ps_pbh(p1, p0);
            const __m512i x = (__m512i)_mm512_cvtne2ps_pbh(x1, x0);
            _mm512_storeu_si512(s0 + j, _mm512_permutexvar_epi16(weave, p));
            _mm512_storeu_si512(s1 + j, _mm512_permutexvar_epi16(weave, x));
            _mm256_storeu_si256((__m256i *)((uint16_t *)d0 + j), _mm512_castsi512_si256(x));
            _mm256_storeu_si256((__m256i *)((uint16_t *)d1 + j), _mm512_extracti64x4_epi64(x, 1));
        }
    }
}
#else
static void grad(const fvi_score_grad *g)
{
    const vf vs = v_set1(g->scale);
    for (int r = 0; r < g->rows; r++) {
        float *s = g->s + r * g->ld, *d = g->dp + r * g->ld;
        const int n = fvi_visible(g, r);
        const vf lse = v_set1(-g->lse[r]), delta = v_set1(g->delta[r]);
        for (int j = 0; j < g->n; j += VW) {
            const vf p = first_lanes(exp_le0(v_fma(v_ld(s + j), vs, lse)), n - j);
            v_st(s + j, p);
            v_st(d + j, first_lanes(v_mul(v_mul(p, v_sub(v_ld(d + j), delta)), vs), n - j));
        }
    }
}
#endif

/* ---- Results --------------------------------------------------------------------------------- */

FV_INLINE void put(const fvi_rows *dst, int64_t at, int n, vf y)
{
#if ATTENTION_BF16
    if (dst->is_bf16 && n == VW) { /* the usual case: one instruction instead of eight */
        _mm256_storeu_si256((__m256i *)((uint16_t *)dst->data + at),
                            (__m256i)_mm512_cvtneps_pbh(y));
        return;
    }
#endif
    v_store(dst->data, at, dst->is_bf16, n, y);
}

static void store(const fvi_rows *dst, const float *src, int64_t ld, const float *mul, int add)
{
    for (int r = 0; r < dst->rows; r++) {
        const vf f = v_set1(mul ? mul[3 * r] : 1.0f);
        for (int i = 0; i < dst->cols; i += VW) {
            const int n = min_int(dst->cols - i, VW);
            const int64_t at = r * dst->stride + i;
            vf y = v_mul(v_ld(src + r * ld + i), f);
            if (add) y = v_add(y, v_load(dst->data, at, dst->is_bf16, n));
            put(dst, at, n, y);
        }
    }
}

#if !ATTENTION_BF16
static void scale_row(float *x, int n, float f)
{
    const vf vfac = v_set1(f);
    for (int i = 0; i < n; i += VW) v_st(x + i, v_mul(v_ld(x + i), vfac));
}

static float dot(const void *a, const void *b, int n, int is_bf16)
{
    vf sum = v_zero();
    for (int i = 0; i < n; i += VW) {
        const int k = min_int(n - i, VW);
        sum = v_fma(v_load(a, i, is_bf16, k), v_load(b, i, is_bf16, k), sum);
    }
    return v_hsum(sum);
}
#endif

void ATTENTION_INIT(fvi_attention_ops *o)
{
    const fvi_sdpa_kernels k = {
        ATTENTION_BF16 ? 2 : 1, VW, PANEL, left_rows, pack, pack_t, gemm, softmax, grad};
    o->sdpa[FV_BF16] = k;
    o->store = store;
#if !ATTENTION_BF16
    o->sdpa[FV_F32] = k;
    o->scale = scale_row;
    o->dot = dot;
#endif
}
