/* vz_audio_avx512.c - the filters of vz_audio.h in AVX-512: exact, hence equal to the scalar ones.
 */
#include "vz_audio.h"

#include <immintrin.h>

static int64_t dot_avx512(const int16_t *x, const int32_t *w, int n)
{
    __m512i a = _mm512_setzero_si512(), b = a;
    for (int k = 0; k < n; k += 16) {
        const __m512i v = _mm512_loadu_si512(w + k);
        const __m512i y = _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)(x + k)));
        a = _mm512_add_epi64(a, _mm512_mul_epi32(v, y));
        b = _mm512_add_epi64(b,
                             _mm512_mul_epi32(_mm512_srli_epi64(v, 32), _mm512_srli_epi64(y, 32)));
    }
    return _mm512_reduce_add_epi64(_mm512_add_epi64(a, b));
}

static void train_avx512(const int16_t *x, int32_t *w, int n, int32_t e, int shift)
{
    const __m512i half = _mm512_set1_epi32(1 << (shift - 1)), f = _mm512_set1_epi32(e);
    const __m512i hi = _mm512_set1_epi32(VZ_AUDIO_WEIGHT_MAX);
    const __m512i lo = _mm512_set1_epi32(-VZ_AUDIO_WEIGHT_MAX);
    const __m128i count = _mm_cvtsi32_si128(shift);
    for (int k = 0; k < n; k += 16) {
        const __m512i y = _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)(x + k)));
        __m512i d = _mm512_sra_epi32(_mm512_add_epi32(_mm512_mullo_epi32(y, f), half), count);
        d = _mm512_add_epi32(_mm512_loadu_si512(w + k), d);
        _mm512_storeu_si512(w + k, _mm512_max_epi32(_mm512_min_epi32(d, hi), lo));
    }
}

const vz_audio_ops vz_audio_ops_avx512 = {dot_avx512, train_avx512};
