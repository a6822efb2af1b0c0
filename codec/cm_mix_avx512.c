/* cm_mix_avx512.c - the mixer of cm_parts.h in AVX-512: 16 exact 32-bit products at a time. */
#include "cm_parts.h"

#include <immintrin.h>

FV_INLINE __m512i load_inputs(const int16_t *x)
{
    return _mm512_cvtepi16_epi32(_mm256_load_si256((const __m256i *)x));
}

static void dot_avx512(const int16_t *x, int n, int32_t *const *w, int sets, int32_t *out)
{
    for (int s = 0; s < sets; s++) {
        const int32_t *v = w[s];
        __m512i a = _mm512_setzero_si512();
        for (int k = 0; k < n; k += 16) {
            const __m512i p = _mm512_mullo_epi32(_mm512_load_si512(v + k), load_inputs(x + k));
            a = _mm512_add_epi32(a, _mm512_srai_epi32(p, 8));
        }
        out[s] = vz_sar(_mm512_reduce_add_epi32(a), 8);
    }
}

static void train_avx512(const int16_t *x, int n, int32_t *const *w, int sets,
                         const int32_t *error)
{
    const __m512i half = _mm512_set1_epi32(1 << 13);
    const __m512i hi = _mm512_set1_epi32(VZ_MIX_WEIGHT_MAX);
    const __m512i lo = _mm512_set1_epi32(-VZ_MIX_WEIGHT_MAX);
    for (int s = 0; s < sets; s++) {
        const __m512i e = _mm512_set1_epi32(error[s]);
        int32_t *v = w[s];
        for (int k = 0; k < n; k += 16) {
            __m512i d = _mm512_add_epi32(_mm512_mullo_epi32(load_inputs(x + k), e), half);
            d = _mm512_add_epi32(_mm512_load_si512(v + k), _mm512_srai_epi32(d, 14));
            _mm512_store_si512(v + k, _mm512_max_epi32(_mm512_min_epi32(d, hi), lo));
        }
    }
}

const vz_mix_ops vz_mix_ops_avx512 = {dot_avx512, train_avx512};
