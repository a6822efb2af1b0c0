/* vz_audio_avx2.c - the filters of vz_audio.h in AVX2: exact, hence equal to the scalar ones. */
#include "vz_audio.h"

#include <immintrin.h>

static int64_t dot_avx2(const int16_t *x, const int32_t *w, int n)
{
    __m256i a = _mm256_setzero_si256(), b = a;
    for (int k = 0; k < n; k += 8) {
        const __m256i v = _mm256_loadu_si256((const __m256i *)(w + k));
        const __m256i y = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(x + k)));
        a = _mm256_add_epi64(a, _mm256_mul_epi32(v, y));
        b = _mm256_add_epi64(b,
                             _mm256_mul_epi32(_mm256_srli_epi64(v, 32), _mm256_srli_epi64(y, 32)));
    }
    a = _mm256_add_epi64(a, b);
    const __m128i h = _mm_add_epi64(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    return (int64_t)((uint64_t)_mm_extract_epi64(h, 0) + (uint64_t)_mm_extract_epi64(h, 1));
}

static void train_avx2(const int16_t *x, int32_t *w, int n, int32_t e, int shift)
{
    const __m256i half = _mm256_set1_epi32(1 << (shift - 1)), f = _mm256_set1_epi32(e);
    const __m256i hi = _mm256_set1_epi32(VZ_AUDIO_WEIGHT_MAX);
    const __m256i lo = _mm256_set1_epi32(-VZ_AUDIO_WEIGHT_MAX);
    const __m128i count = _mm_cvtsi32_si128(shift);
    for (int k = 0; k < n; k += 8) {
        const __m256i y = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(x + k)));
        __m256i *p = (__m256i *)(w + k);
        __m256i d = _mm256_sra_epi32(_mm256_add_epi32(_mm256_mullo_epi32(y, f), half), count);
        d = _mm256_add_epi32(_mm256_loadu_si256(p), d);
        _mm256_storeu_si256(p, _mm256_max_epi32(_mm256_min_epi32(d, hi), lo));
    }
}

const vz_audio_ops vz_audio_ops_avx2 = {dot_avx2, train_avx2};
