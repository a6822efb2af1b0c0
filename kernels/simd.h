/* simd.h - one vector vocabulary for AVX2 and AVX-512, so that each fused kernel has one vector
 * body.
 *
 * x_avx2.c and x_avx512.c both include x_body.h after this file; the compiler flags of the file
 * decide the width. vf holds VW floats. Tails use v_ldn / v_stn (masks, never out of bounds).
 * v_exp: Cephes-style polynomial, relative error < 2e-7 on [-87, 88], 0 below, inf above.
 * Sums: v_hsum adds in a fixed tree, so a shape always gives the same bits. */
#ifndef FV_SIMD_H
#define FV_SIMD_H

#include <immintrin.h>
#include <math.h>
#include "engine.h"

#if defined(__AVX512F__)
#define VW 16
typedef __m512 vf;
FV_INLINE vf v_set1(float x) { return _mm512_set1_ps(x); }
FV_INLINE vf v_zero(void) { return _mm512_setzero_ps(); }
FV_INLINE vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
FV_INLINE vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
FV_INLINE vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
FV_INLINE vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
FV_INLINE vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }   /* a*b + c  */
FV_INLINE vf v_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a*b  */
FV_INLINE vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
FV_INLINE vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
FV_INLINE vf v_sqrt(vf a) { return _mm512_sqrt_ps(a); }
FV_INLINE vf v_abs(vf a) { return _mm512_abs_ps(a); }
FV_INLINE vf v_ld(const float *p) { return _mm512_loadu_ps(p); }
FV_INLINE void v_st(float *p, vf x) { _mm512_storeu_ps(p, x); }
FV_INLINE __mmask16 v_mask_(int n) { return (__mmask16)((1u << n) - 1u); } /* n < 16 */
FV_INLINE vf v_ldn(const float *p, int n) { return _mm512_maskz_loadu_ps(v_mask_(n), p); }
FV_INLINE void v_stn(float *p, vf x, int n) { _mm512_mask_storeu_ps(p, v_mask_(n), x); }
FV_INLINE vf v_ldh(const uint16_t *p)
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
FV_INLINE vf v_ldhn(const uint16_t *p, int n)
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(v_mask_(n), p)), 16));
}
FV_INLINE __m256i v_to_bf16_(vf x) /* nearest even; NaN to quiet NaN */
{
    const __m512i u = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_srli_epi32(
        _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    r = _mm512_mask_or_epi32(r, nan, _mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(r);
}
FV_INLINE void v_sth(uint16_t *p, vf x) { _mm256_storeu_si256((__m256i *)p, v_to_bf16_(x)); }
FV_INLINE void v_sthn(uint16_t *p, vf x, int n)
{
    _mm256_mask_storeu_epi16(p, v_mask_(n), v_to_bf16_(x));
}
FV_INLINE float v_hsum(vf x)
{
    const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}
FV_INLINE float v_hmax(vf x) { return _mm512_reduce_max_ps(x); }
FV_INLINE vf v_round(vf x)
{
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
FV_INLINE vf v_exp2i_(vf n) /* 2^n for whole n in [-126, 127] */
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
FV_INLINE vf v_select_gt(vf a, vf b, vf x, vf y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), y, x);
} /* a>b ? x : y */
FV_INLINE vf v_swap2(vf x) { return _mm512_permute_ps(x, 0xb1); } /* x1 x0 x3 x2 ... */
FV_INLINE vf v_twice(const float *p, int n) /* p0 p0 p1 p1 ..., n <= VW/2 of them, then zeros */
{
    const __m512i at = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(at, v_ldn(p, n));
}
/* p0 .. p7 p0 .. p7; the first 8 of low and the last 8 of high; x8 .. x15 x0 .. x7 */
FV_INLINE vf v_ld8_twice(const float *p) { return _mm512_broadcast_f32x8(_mm256_loadu_ps(p)); }
FV_INLINE vf v_concat8(vf low, vf high) { return _mm512_mask_blend_ps(0xff00, low, high); }
FV_INLINE vf v_swap8(vf x) { return _mm512_shuffle_f32x4(x, x, 0x4e); }
/* a*b - c in even places and a*b + c in odd ones, and the other way round */
FV_INLINE vf v_fmaddsub(vf a, vf b, vf c) { return _mm512_fmaddsub_ps(a, b, c); }
FV_INLINE vf v_fmsubadd(vf a, vf b, vf c) { return _mm512_fmsubadd_ps(a, b, c); }
#elif defined(__AVX2__)
#define VW 8
typedef __m256 vf;
FV_INLINE vf v_set1(float x) { return _mm256_set1_ps(x); }
FV_INLINE vf v_zero(void) { return _mm256_setzero_ps(); }
FV_INLINE vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }
FV_INLINE vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
FV_INLINE vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
FV_INLINE vf v_div(vf a, vf b) { return _mm256_div_ps(a, b); }
FV_INLINE vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
FV_INLINE vf v_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
FV_INLINE vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
FV_INLINE vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
FV_INLINE vf v_sqrt(vf a) { return _mm256_sqrt_ps(a); }
FV_INLINE vf v_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
FV_INLINE vf v_ld(const float *p) { return _mm256_loadu_ps(p); }
FV_INLINE void v_st(float *p, vf x) { _mm256_storeu_ps(p, x); }
FV_INLINE __m256i v_mask_(int n) /* n < 8 */
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
FV_INLINE vf v_ldn(const float *p, int n) { return _mm256_maskload_ps(p, v_mask_(n)); }
FV_INLINE void v_stn(float *p, vf x, int n) { _mm256_maskstore_ps(p, v_mask_(n), x); }
FV_INLINE vf v_ldh(const uint16_t *p)
{
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
FV_INLINE vf v_ldhn(const uint16_t *p, int n) /* AVX2 has no 16-bit masks: copy */
{
    uint16_t t[8] = { 0 };
    for (int i = 0; i < n; i++) t[i] = p[i];
    return v_ldh(t);
}
FV_INLINE __m128i v_to_bf16_(vf x)
{
    const __m256i u = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_srli_epi32(
        _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i q = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));
    r = _mm256_blendv_epi8(r, q, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
    return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}
FV_INLINE void v_sth(uint16_t *p, vf x) { _mm_storeu_si128((__m128i *)p, v_to_bf16_(x)); }
FV_INLINE void v_sthn(uint16_t *p, vf x, int n)
{
    uint16_t t[8];
    v_sth(t, x);
    for (int i = 0; i < n; i++) p[i] = t[i];
}
FV_INLINE float v_hsum(vf x)
{
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}
FV_INLINE float v_hmax(vf x)
{
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_shuffle_ps(b, b, 1)));
}
FV_INLINE vf v_round(vf x)
{
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
FV_INLINE vf v_exp2i_(vf n)
{
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
FV_INLINE vf v_select_gt(vf a, vf b, vf x, vf y)
{
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_GT_OQ));
}
FV_INLINE vf v_swap2(vf x) { return _mm256_permute_ps(x, 0xb1); }
FV_INLINE vf v_twice(const float *p, int n)
{
    return _mm256_permutevar8x32_ps(v_ldn(p, n), _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
}
FV_INLINE vf v_fmaddsub(vf a, vf b, vf c) { return _mm256_fmaddsub_ps(a, b, c); }
FV_INLINE vf v_fmsubadd(vf a, vf b, vf c) { return _mm256_fmsubadd_ps(a, b, c); }
#else
#error "simd.h: compile this file with -mavx2 or -mavx512f"
#endif

FV_INLINE vf v_exp(vf x)
{
    const vf lo = v_set1(-87.3365f), hi = v_set1(88.3762f);
    const vf c = v_min(hi, v_max(lo, x)); /* this operand order lets a NaN through */
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
    p = v_mul(p, v_exp2i_(n));
    p = v_select_gt(lo, x, v_zero(), p);
    return v_select_gt(x, hi, v_set1(INFINITY), p);
}
FV_INLINE vf v_sigmoid(vf x)
{
    return v_div(v_set1(1.0f), v_add(v_set1(1.0f), v_exp(v_sub(v_zero(), x))));
}

/* Loads and stores by element type; n = VW means a full vector. */
FV_INLINE vf v_load(const void *p, int64_t i, int is_bf16, int n)
{
    if (is_bf16)
        return n == VW ? v_ldh((const uint16_t *)p + i) : v_ldhn((const uint16_t *)p + i, n);
    return n == VW ? v_ld((const float *)p + i) : v_ldn((const float *)p + i, n);
}
FV_INLINE void v_store(void *p, int64_t i, int is_bf16, int n, vf x)
{
    if (is_bf16) {
        if (n == VW) v_sth((uint16_t *)p + i, x);
        else v_sthn((uint16_t *)p + i, x, n);
    } else {
        if (n == VW) v_st((float *)p + i, x);
        else v_stn((float *)p + i, x, n);
    }
}

#endif
