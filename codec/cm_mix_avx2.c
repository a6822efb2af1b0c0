/* cm_mix_avx2.c - the mixer of cm_parts.h in AVX2: 8 exact 32-bit products at a time. */
#include "cm_parts.h"

#include <immintrin.h>

static void dot_avx2(const int16_t *x, int n, int32_t *const *w, int sets, int32_t *out)
{
    for (int s = 0; s < sets; s++) {
        __m256i a = _mm256_setzero_si256(), b = a;
        for (int k = 0; k < n; k += 16) {
            const __m256i x0 = _mm256_cvtepi16_epi32(_mm_load_si128((const __m128i *)(x + k)));
            const __m256i x1 = _mm256_cvtepi16_epi32(_mm_load_si128((const __m128i *)(x + k + 8)));
            const __m256i w0 = _mm256_load_si256((const __m256i *)(w[s] + k));
            const __m256i w1 = _mm256_load_si256((const __m256i *)(w[s] + k + 8));
            a = _mm256_add_epi32(a, _mm256_srai_epi32(_mm256_mullo_epi32(w0, x0), 8));
            b = _mm256_add_epi32(b, _mm256_srai_epi32(_mm256_mullo_epi32(w1, x1), 8));
        }
        a = _mm256_add_epi32(a, b);
        __m128i h = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
        h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4e));
        h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0xb1));
        out[s] = vz_sar(_mm_cvtsi128_si32(h), 8);
    }
}

static void train_avx2(const int16_t *x, int n, int32_t *const *w, int sets, const int32_t *error)
{
    const __m256i half = _mm256_set1_epi32(1 << 13);
    const __m256i hi = _mm256_set1_epi32(VZ_MIX_WEIGHT_MAX);
    const __m256i lo = _mm256_set1_epi32(-VZ_MIX_WEIGHT_MAX);
    for (int s = 0; s < sets; s++) {
        const __m256i e = _mm256_set1_epi32(error[s]);
        for (int k = 0; k < n; k += 8) {
            const __m256i x0 = _mm256_cvtepi16_epi32(_mm_load_si128((const __m128i *)(x + k)));
            __m256i *p = (__m256i *)(w[s] + k);
            __m256i d = _mm256_add_epi32(_mm256_mullo_epi32(x0, e), half);
            d = _mm256_add_epi32(_mm256_load_si256(p), _mm256_srai_epi32(d, 14));
            _mm256_store_si256(p, _mm256_max_epi32(_mm256_min_epi32(d, hi), lo));
        }
    }
}

const vz_mix_ops vz_mix_ops_avx2 = {dot_avx2, train_avx2};
