/* cm_mix_body.h - the mixer of cm_parts.h in the instruction set that the including file is
 * compiled for: exact 32-bit products, 1, 8 or 16 at a time, summed in any order. The scalar branch
 * is the definition. */
#ifndef VZ_CM_MIX_BODY_H
#define VZ_CM_MIX_BODY_H

#include "cm_parts.h"

#if defined(__AVX512BW__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512BW__)
FV_INLINE __m512i mix_inputs(const int16_t *x)
{
    return _mm512_cvtepi16_epi32(_mm256_load_si256((const __m256i *)x));
}
FV_INLINE int32_t mix_dot(const int16_t *x, const int32_t *w, int n)
{
    __m512i a = _mm512_setzero_si512();
    FV_UNROLL
    for (int k = 0; k < n; k += 16) {
        const __m512i p = _mm512_mullo_epi32(_mm512_load_si512(w + k), mix_inputs(x + k));
        a = _mm512_add_epi32(a, _mm512_srai_epi32(p, 8));
    }
    return vz_sar(_mm512_reduce_add_epi32(a), 8);
}
FV_INLINE void mix_train(const int16_t *x, int32_t *w, int n, int32_t error)
{
    const __m512i half = _mm512_set1_epi32(1 << 13), e = _mm512_set1_epi32(error);
    const __m512i hi = _mm512_set1_epi32(VZ_MIX_WEIGHT_MAX);
    const __m512i lo = _mm512_set1_epi32(-VZ_MIX_WEIGHT_MAX);
    FV_UNROLL
    for (int k = 0; k < n; k += 16) {
        __m512i d = _mm512_add_epi32(_mm512_mullo_epi32(mix_inputs(x + k), e), half);
        d = _mm512_add_epi32(_mm512_load_si512(w + k), _mm512_srai_epi32(d, 14));
        _mm512_store_si512(w + k, _mm512_max_epi32(_mm512_min_epi32(d, hi), lo));
    }
}
#elif defined(__AVX2__)
FV_INLINE __m256i mix_inputs(const int16_t *x)
{
    return _mm256_cvtepi16_epi32(_mm_load_si128((const __m128i *)x));
}
FV_INLINE int32_t mix_dot(const int16_t *x, const int32_t *w, int n)
{
    __m256i a = _mm256_setzero_si256(), b = a;
    for (int k = 0; k < n; k += 16) {
        const __m256i w0 = _mm256_load_si256((const __m256i *)(w + k));
        const __m256i w1 = _mm256_load_si256((const __m256i *)(w + k + 8));
        const __m256i p0 = _mm256_mullo_epi32(w0, mix_inputs(x + k));
        const __m256i p1 = _mm256_mullo_epi32(w1, mix_inputs(x + k + 8));
        a = _mm256_add_epi32(a, _mm256_srai_epi32(p0, 8));
        b = _mm256_add_epi32(b, _mm256_srai_epi32(p1, 8));
    }
    a = _mm256_add_epi32(a, b);
    __m128i h = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0xb1));
    return vz_sar(_mm_cvtsi128_si32(h), 8);
}
FV_INLINE void mix_train(const int16_t *x, int32_t *w, int n, int32_t error)
{
    const __m256i half = _mm256_set1_epi32(1 << 13), e = _mm256_set1_epi32(error);
    const __m256i hi = _mm256_set1_epi32(VZ_MIX_WEIGHT_MAX);
    const __m256i lo = _mm256_set1_epi32(-VZ_MIX_WEIGHT_MAX);
    for (int k = 0; k < n; k += 8) {
        __m256i *p = (__m256i *)(w + k);
        __m256i d = _mm256_add_epi32(_mm256_mullo_epi32(mix_inputs(x + k), e), half);
        d = _mm256_add_epi32(_mm256_load_si256(p), _mm256_srai_epi32(d, 14));
        _mm256_store_si256(p, _mm256_max_epi32(_mm256_min_epi32(d, hi), lo));
    }
}
#else
FV_INLINE int32_t mix_dot(const int16_t *x, const int32_t *w, int n)
{
    int32_t sum = 0;
    for (int k = 0; k < n; k++) sum += vz_sar(w[k] * x[k], 8);
    return vz_sar(sum, 8);
}
FV_INLINE void mix_train(const int16_t *x, int32_t *w, int n, int32_t error)
{
    for (int k = 0; k < n; k++) {
        const int32_t v = w[k] + vz_sar(x[k] * error + (1 << 13), 14);
        w[k] = vz_clamp(v, -VZ_MIX_WEIGHT_MAX, VZ_MIX_WEIGHT_MAX);
    }
}
#endif

/* ---- One layer: the weights of all selectors are added up before they meet the inputs ----------
 * Costs one product per input whatever the number of selectors, for a ratio within 0.1 % of two
 * layers. Sums are cut to the range of one weight: that keeps the products inside 31 bits. */
FV_INLINE int mix_sum_shift(int sets)
{
    return sets > 8 ? 4 : sets > 4 ? 3 : sets > 2 ? 2 : sets - 1;
}
#if defined(__AVX512BW__)
FV_INLINE int32_t mix_sum_dot(const int16_t *x, int32_t *const *w, int sets, int n)
{
    const int shift = mix_sum_shift(sets);
    __m512i a = _mm512_setzero_si512();
    FV_UNROLL
    for (int k = 0; k < n; k += 16) {
        __m512i v = _mm512_load_si512(w[0] + k);
        FV_UNROLL
        for (int i = 1; i < sets; i++) v = _mm512_add_epi32(v, _mm512_load_si512(w[i] + k));
        v = _mm512_mullo_epi32(_mm512_srai_epi32(v, (unsigned)shift), mix_inputs(x + k));
        a = _mm512_add_epi32(a, _mm512_srai_epi32(v, 8));
    }
    return vz_sar(_mm512_reduce_add_epi32(a), 8);
}
FV_INLINE void mix_sum_add(const int16_t *x, int32_t *const *w, int sets, int n, int32_t error)
{
    const __m512i half = _mm512_set1_epi32(1 << 13), e = _mm512_set1_epi32(error);
    const __m512i hi = _mm512_set1_epi32(VZ_MIX_WEIGHT_MAX);
    const __m512i lo = _mm512_set1_epi32(-VZ_MIX_WEIGHT_MAX);
    FV_UNROLL
    for (int k = 0; k < n; k += 16) {
        __m512i d = _mm512_add_epi32(_mm512_mullo_epi32(mix_inputs(x + k), e), half);
        d = _mm512_srai_epi32(d, 14);
        FV_UNROLL
        for (int i = 0; i < sets; i++) {
            const __m512i v = _mm512_add_epi32(_mm512_load_si512(w[i] + k), d);
            _mm512_store_si512(w[i] + k, _mm512_max_epi32(_mm512_min_epi32(v, hi), lo));
        }
    }
}
#elif defined(__AVX2__)
FV_INLINE int32_t mix_sum_dot(const int16_t *x, int32_t *const *w, int sets, int n)
{
    const int shift = mix_sum_shift(sets);
    __m256i a = _mm256_setzero_si256();
    for (int k = 0; k < n; k += 8) {
        __m256i v = _mm256_load_si256((const __m256i *)(w[0] + k));
        for (int i = 1; i < sets; i++)
            v = _mm256_add_epi32(v, _mm256_load_si256((const __m256i *)(w[i] + k)));
        v = _mm256_mullo_epi32(_mm256_srai_epi32(v, shift), mix_inputs(x + k));
        a = _mm256_add_epi32(a, _mm256_srai_epi32(v, 8));
    }
    __m128i h = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0xb1));
    return vz_sar(_mm_cvtsi128_si32(h), 8);
}
FV_INLINE void mix_sum_add(const int16_t *x, int32_t *const *w, int sets, int n, int32_t error)
{
    const __m256i half = _mm256_set1_epi32(1 << 13), e = _mm256_set1_epi32(error);
    const __m256i hi = _mm256_set1_epi32(VZ_MIX_WEIGHT_MAX);
    const __m256i lo = _mm256_set1_epi32(-VZ_MIX_WEIGHT_MAX);
    for (int k = 0; k < n; k += 8) {
        __m256i d = _mm256_add_epi32(_mm256_mullo_epi32(mix_inputs(x + k), e), half);
        d = _mm256_srai_epi32(d, 14);
        for (int i = 0; i < sets; i++) {
            __m256i *p = (__m256i *)(w[i] + k);
            const __m256i v = _mm256_add_epi32(_mm256_load_si256(p), d);
            _mm256_store_si256(p, _mm256_max_epi32(_mm256_min_epi32(v, hi), lo));
        }
    }
}
#else
FV_INLINE int32_t mix_sum_dot(const int16_t *x, int32_t *const *w, int sets, int n)
{
    const int shift = mix_sum_shift(sets);
    int32_t sum = 0;
    for (int k = 0; k < n; k++) {
        int32_t v = 0;
        for (int i = 0; i < sets; i++) v += w[i][k];
        sum += vz_sar(vz_sar(v, shift) * x[k], 8);
    }
    return vz_sar(sum, 8);
}
FV_INLINE void mix_sum_add(const int16_t *x, int32_t *const *w, int sets, int n, int32_t error)
{
    for (int k = 0; k < n; k++) {
        const int32_t d = vz_sar(x[k] * error + (1 << 13), 14);
        for (int i = 0; i < sets; i++)
            w[i][k] = vz_clamp(w[i][k] + d, -VZ_MIX_WEIGHT_MAX, VZ_MIX_WEIGHT_MAX);
    }
}
#endif

#if defined(__AVX512BW__) || defined(__AVX2__)
/* Sums of the eight vectors' elements, in order. */
FV_INLINE __m256i mix_sums(const __m256i a[8])
{
    const __m256i p = _mm256_hadd_epi32(a[0], a[1]), q = _mm256_hadd_epi32(a[2], a[3]);
    const __m256i r = _mm256_hadd_epi32(a[4], a[5]), s = _mm256_hadd_epi32(a[6], a[7]);
    const __m256i low = _mm256_hadd_epi32(p, q), high = _mm256_hadd_epi32(r, s);
    return _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20),
                            _mm256_permute2x128_si256(low, high, 0x31));
}
FV_INLINE __m256i mix_partial(const int16_t *x, const int32_t *w, int n)
{
#if defined(__AVX512BW__)
    __m512i a = _mm512_setzero_si512();
    FV_UNROLL
    for (int k = 0; k < n; k += 16) {
        const __m512i p = _mm512_mullo_epi32(_mm512_load_si512(w + k), mix_inputs(x + k));
        a = _mm512_add_epi32(a, _mm512_srai_epi32(p, 8));
    }
    return _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
#else
    __m256i a = _mm256_setzero_si256();
    FV_UNROLL
    for (int k = 0; k < n; k += 8) {
        const __m256i p = _mm256_mullo_epi32(_mm256_load_si256((const __m256i *)(w + k)),
                                             mix_inputs(x + k));
        a = _mm256_add_epi32(a, _mm256_srai_epi32(p, 8));
    }
    return a;
#endif
}
FV_INLINE __m256i mix_clamp(__m256i v, int most)
{
    return _mm256_max_epi32(_mm256_min_epi32(v, _mm256_set1_epi32(most)),
                            _mm256_set1_epi32(-most));
}
/* mix_logit for up to 8 selectors, without a detour through memory. */
FV_INLINE int32_t mix_logit_8(vz_mixer *m, int n, int selectors)
{
    __m256i a[8];
    FV_UNROLL
    for (int i = 0; i < 8; i++)
        a[i] = i < selectors ? mix_partial(m->x, m->pick[i], n) : _mm256_setzero_si256();
    const __m256i dot = mix_clamp(_mm256_srai_epi32(mix_sums(a), 8), VZ_SQUASH_MAX);
    const __m256i x2 = mix_clamp(dot, VZ_LOGIT_MAX);
    _mm256_storeu_si256((__m256i *)m->dot, dot);
    _mm_store_si128((__m128i *)m->x2, _mm_packs_epi32(_mm256_castsi256_si128(x2),
                                                      _mm256_extracti128_si256(x2, 1)));
    __m256i p = _mm256_mullo_epi32(x2, _mm256_load_si256((const __m256i *)m->pick2));
    p = _mm256_srai_epi32(p, 8);
    __m128i h = _mm_add_epi32(_mm256_castsi256_si128(p), _mm256_extracti128_si256(p, 1));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0xb1));
    m->logit = vz_clamp(vz_sar(_mm_cvtsi128_si32(h), 8), -VZ_SQUASH_MAX, VZ_SQUASH_MAX);
    return m->logit;
}
#endif

/* n and selectors may be constants of the caller: then the loops are unrolled. */
FV_INLINE int32_t mix_logit(vz_mixer *m, int n, int selectors)
{
#if defined(__AVX512BW__) || defined(__AVX2__)
    if (selectors <= 8) return mix_logit_8(m, n, selectors);
#endif
    for (int i = 0; i < selectors; i++) {
        m->dot[i] = vz_clamp(mix_dot(m->x, m->pick[i], n), -VZ_SQUASH_MAX, VZ_SQUASH_MAX);
        m->x2[i] = (int16_t)vz_clamp(m->dot[i], -VZ_LOGIT_MAX, VZ_LOGIT_MAX);
    }
    m->logit = vz_clamp(mix_dot(m->x2, m->pick2, 16), -VZ_SQUASH_MAX, VZ_SQUASH_MAX);
    return m->logit;
}
FV_INLINE int32_t mix_error(const vz_mixer *m, int32_t logit, int bit, int32_t rate)
{
    const int32_t p = m->lg->squash[logit + VZ_SQUASH_MAX]; /* clamped already */
    const int32_t e = vz_sar(((bit << 16) - p) * rate, 10);
    return vz_clamp(e, -VZ_MIX_ERROR_MAX, VZ_MIX_ERROR_MAX);
}
FV_INLINE void mix_update(vz_mixer *m, int n, int selectors, int bit)
{
    FV_UNROLL
    for (int i = 0; i < selectors; i++)
        mix_train(m->x, m->pick[i], n, mix_error(m, m->dot[i], bit, m->rate));
    mix_train(m->x2, m->pick2, 16, mix_error(m, m->logit, bit, m->rate2));
}

FV_INLINE int32_t mix_sum_logit(vz_mixer *m, int n, int selectors)
{
    m->logit = vz_clamp(mix_sum_dot(m->x, m->pick, selectors, n), -VZ_SQUASH_MAX, VZ_SQUASH_MAX);
    return m->logit;
}
FV_INLINE void mix_sum_train(vz_mixer *m, int n, int selectors, int bit)
{
    mix_sum_add(m->x, m->pick, selectors, n, mix_error(m, m->logit, bit, m->rate));
}

#ifdef VZ_MIX_DEFINE_OPS /* the functions of a vz_mix_ops */
static void ops_dot(const int16_t *x, int n, int32_t *const *w, int sets, int32_t *out)
{
    for (int s = 0; s < sets; s++) out[s] = mix_dot(x, w[s], n);
}
static void ops_train(const int16_t *x, int n, int32_t *const *w, int sets, const int32_t *error)
{
    for (int s = 0; s < sets; s++) mix_train(x, w[s], n, error[s]);
}
static int32_t ops_sum_dot(const int16_t *x, int n, int32_t *const *w, int sets)
{
    return mix_sum_dot(x, w, sets, n);
}
static void ops_sum_train(const int16_t *x, int n, int32_t *const *w, int sets, int32_t error)
{
    mix_sum_add(x, w, sets, n, error);
}
static int32_t ops_logit(vz_mixer *m) { return mix_logit(m, m->n, m->selectors); }
static void ops_update(vz_mixer *m, int bit) { mix_update(m, m->n, m->selectors, bit); }
#define VZ_MIX_OPS {ops_dot, ops_train, ops_sum_dot, ops_sum_train, ops_logit, ops_update}
#endif

#endif
