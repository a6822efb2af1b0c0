/* nn_vec.h - private: vectors of 16 numbers of 32 bits for the integer networks (nn_int_body.h,
 * rdvq_int_body.h), in AVX-512 or AVX2, whichever the file is compiled for.
 *
 * scaled() needs products of 64 bits: even and odd elements apart. Only the low half of the shifted
 * product is kept, since the result fits 32 bits. AVX2 has no arithmetic shift of 64 bits: adding
 * 2^62 makes the product positive, and 2^(62-s) is taken off afterwards. */
#ifndef VZ_NN_VEC_H
#define VZ_NN_VEC_H

#include <immintrin.h>

#include "nn_int.h"

#if defined(__AVX512BW__)
typedef __m512i v16;
FV_INLINE v16 v_load(const int32_t *p) { return _mm512_loadu_si512(p); }
FV_INLINE v16 v_load16(const int16_t *p)
{
    return _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)p));
}
FV_INLINE v16 v_load8(const int8_t *p)
{
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p));
}
FV_INLINE void v_store(int32_t *p, v16 x) { _mm512_storeu_si512(p, x); }
FV_INLINE void v_store16(int16_t *p, v16 x) /* values fit */
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(x));
}
FV_INLINE v16 v_set(int32_t x) { return _mm512_set1_epi32(x); }
FV_INLINE v16 v_add(v16 a, v16 b) { return _mm512_add_epi32(a, b); }
FV_INLINE v16 v_sub(v16 a, v16 b) { return _mm512_sub_epi32(a, b); }
FV_INLINE v16 v_mul(v16 a, v16 b) { return _mm512_mullo_epi32(a, b); }
FV_INLINE v16 v_min(v16 a, v16 b) { return _mm512_min_epi32(a, b); }
FV_INLINE v16 v_max(v16 a, v16 b) { return _mm512_max_epi32(a, b); }
FV_INLINE v16 v_and(v16 a, v16 b) { return _mm512_and_si512(a, b); }
FV_INLINE v16 v_sar(v16 x, int s) { return _mm512_sra_epi32(x, _mm_cvtsi32_si128(s)); }
FV_INLINE v16 v_shr(v16 x, int s) { return _mm512_srl_epi32(x, _mm_cvtsi32_si128(s)); }
FV_INLINE v16 v_gather(const uint32_t *t, v16 i) { return _mm512_i32gather_epi32(i, t, 4); }
/* Low halves of the shifted products, even and odd. */
FV_INLINE v16 shifted16(__m512i even, __m512i odd, int s)
{
    const __m512i half = _mm512_set1_epi64((int64_t)1 << (s - 1));
    const __m128i n = _mm_cvtsi32_si128(s);
    even = _mm512_sra_epi64(_mm512_add_epi64(even, half), n);
    odd = _mm512_sra_epi64(_mm512_add_epi64(odd, half), n);
    return _mm512_mask_shuffle_epi32(even, 0xaaaa, odd, _MM_PERM_CCAA);
}
FV_INLINE __m512i high16(__m512i x) { return _mm512_srli_epi64(x, 32); }
/* rsh(x * m, s) */
FV_INLINE v16 v_scaled(v16 x, v16 m, int s)
{
    return shifted16(_mm512_mul_epi32(x, m), _mm512_mul_epi32(high16(x), high16(m)), s);
}
FV_INLINE __m512i products16(__m512i x, __m512i a, __m512i y, __m512i b)
{
    return _mm512_add_epi64(_mm512_mul_epi32(x, a), _mm512_mul_epi32(y, b));
}
/* rsh(x * a + y * b, s) */
FV_INLINE v16 v_scaled2(v16 x, v16 a, v16 y, v16 b, int s)
{
    return shifted16(products16(x, a, y, b), products16(high16(x), high16(a), high16(y), high16(b)),
                     s);
}
FV_INLINE int32_t v_sum(v16 x) { return _mm512_reduce_add_epi32(x); }
/* Sums of 64 bits. */
typedef __m512i v64;
FV_INLINE v64 v64_zero(void) { return _mm512_setzero_si512(); }
FV_INLINE v64 v64_add_square(v64 sum, v16 x)
{
    const __m512i odd = high16(x);
    return _mm512_add_epi64(sum,
                            _mm512_add_epi64(_mm512_mul_epi32(x, x), _mm512_mul_epi32(odd, odd)));
}
FV_INLINE int64_t v64_sum(v64 x) { return _mm512_reduce_add_epi64(x); }

#else
typedef struct v16 {
    __m256i a, b;
} v16;
FV_INLINE v16 v_load(const int32_t *p)
{
    const v16 v = {_mm256_loadu_si256((const __m256i *)p),
                   _mm256_loadu_si256((const __m256i *)(p + 8))};
    return v;
}
FV_INLINE v16 v_load16(const int16_t *p)
{
    const v16 v = {_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)p)),
                   _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(p + 8)))};
    return v;
}
FV_INLINE v16 v_load8(const int8_t *p)
{
    const v16 v = {_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)),
                   _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8)))};
    return v;
}
FV_INLINE void v_store(int32_t *p, v16 x)
{
    _mm256_storeu_si256((__m256i *)p, x.a);
    _mm256_storeu_si256((__m256i *)(p + 8), x.b);
}
FV_INLINE void v_store16(int16_t *p, v16 x) /* values fit */
{
    const __m256i y = _mm256_packs_epi32(x.a, x.b);
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(y, 0xd8));
}
FV_INLINE v16 v_set(int32_t x)
{
    const v16 v = {_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
    return v;
}
#define V_BINARY(name, op)                                                                         \
    FV_INLINE v16 name(v16 x, v16 y)                                                               \
    {                                                                                              \
        const v16 v = {op(x.a, y.a), op(x.b, y.b)};                                                \
        return v;                                                                                  \
    }
V_BINARY(v_add, _mm256_add_epi32)
V_BINARY(v_sub, _mm256_sub_epi32)
V_BINARY(v_mul, _mm256_mullo_epi32)
V_BINARY(v_min, _mm256_min_epi32)
V_BINARY(v_max, _mm256_max_epi32)
V_BINARY(v_and, _mm256_and_si256)
FV_INLINE v16 v_sar(v16 x, int s)
{
    const __m128i n = _mm_cvtsi32_si128(s);
    const v16 v = {_mm256_sra_epi32(x.a, n), _mm256_sra_epi32(x.b, n)};
    return v;
}
FV_INLINE v16 v_shr(v16 x, int s)
{
    const __m128i n = _mm_cvtsi32_si128(s);
    const v16 v = {_mm256_srl_epi32(x.a, n), _mm256_srl_epi32(x.b, n)};
    return v;
}
FV_INLINE v16 v_gather(const uint32_t *t, v16 i)
{
    const v16 v = {_mm256_i32gather_epi32((const int *)t, i.a, 4),
                   _mm256_i32gather_epi32((const int *)t, i.b, 4)};
    return v;
}
FV_INLINE __m256i shifted8(__m256i even, __m256i odd, int s)
{
    const __m128i n = _mm_cvtsi32_si128(s);
    const __m256i up = _mm256_set1_epi64x(((int64_t)1 << 62) + ((int64_t)1 << (s - 1)));
    const __m256i down = _mm256_set1_epi32((int32_t)(uint32_t)(((uint64_t)1 << 62) >> s));
    even = _mm256_srl_epi64(_mm256_add_epi64(even, up), n);
    odd = _mm256_srl_epi64(_mm256_add_epi64(odd, up), n);
    return _mm256_sub_epi32(_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa), down);
}
FV_INLINE __m256i scaled8(__m256i x, __m256i m, int s)
{
    return shifted8(_mm256_mul_epi32(x, m),
                    _mm256_mul_epi32(_mm256_srli_epi64(x, 32), _mm256_srli_epi64(m, 32)), s);
}
FV_INLINE v16 v_scaled(v16 x, v16 m, int s)
{
    const v16 v = {scaled8(x.a, m.a, s), scaled8(x.b, m.b, s)};
    return v;
}
FV_INLINE __m256i products8(__m256i x, __m256i a, __m256i y, __m256i b)
{
    return _mm256_add_epi64(_mm256_mul_epi32(x, a), _mm256_mul_epi32(y, b));
}
FV_INLINE __m256i high8(__m256i x) { return _mm256_srli_epi64(x, 32); }
FV_INLINE v16 v_scaled2(v16 x, v16 a, v16 y, v16 b, int s)
{
    const v16 v = {shifted8(products8(x.a, a.a, y.a, b.a),
                            products8(high8(x.a), high8(a.a), high8(y.a), high8(b.a)), s),
                   shifted8(products8(x.b, a.b, y.b, b.b),
                            products8(high8(x.b), high8(a.b), high8(y.b), high8(b.b)), s)};
    return v;
}
FV_INLINE int32_t sum8(__m256i x)
{
    __m128i h = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(h, _mm_shuffle_epi32(h, 0xb1)));
}
FV_INLINE int32_t v_sum(v16 x) { return sum8(_mm256_add_epi32(x.a, x.b)); }
typedef __m256i v64;
FV_INLINE v64 v64_zero(void) { return _mm256_setzero_si256(); }
FV_INLINE v64 square8(v64 sum, __m256i x)
{
    const __m256i odd = high8(x);
    return _mm256_add_epi64(sum,
                            _mm256_add_epi64(_mm256_mul_epi32(x, x), _mm256_mul_epi32(odd, odd)));
}
FV_INLINE v64 v64_add_square(v64 sum, v16 x) { return square8(square8(sum, x.a), x.b); }
FV_INLINE int64_t v64_sum(v64 x)
{
    const __m128i h = _mm_add_epi64(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    return _mm_cvtsi128_si64(h) + _mm_extract_epi64(h, 1);
}
#endif

FV_INLINE v16 v_rsh(v16 x, int s) { return v_sar(v_add(x, v_set(1 << (s - 1))), s); }
FV_INLINE v16 v_clamp(v16 x, int32_t limit) { return v_min(v_max(x, v_set(-limit)), v_set(limit)); }

/* nn_int_sigmoid */
FV_INLINE v16 v_sigmoid(v16 t)
{
    t = v_add(v_clamp(t, 8192), v_set(8192));
    const v16 e = v_gather(nn_int_sigmoid_table, v_shr(t, 5));
    const v16 step = v_rsh(v_mul(v_shr(e, 16), v_and(t, v_set(31))), 5);
    return v_add(v_and(e, v_set(0xffff)), step);
}

#endif
