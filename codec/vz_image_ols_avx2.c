/* vz_image_ols_avx2.c - least-squares prediction in AVX2: 16 products of 16 bits, 4 of 32 bits. */
#include "vz_image_ols.h"

#include <immintrin.h>
#include <string.h>

static void gram_avx2(const int16_t *batch, int m, int32_t *c)
{
    for (int j = 0; j < m; j += 8) {
        __m256i column[VZ_OLS_BLOCK / 2];
        for (int p = 0; p < VZ_OLS_BLOCK / 2; p++)
            column[p] = _mm256_loadu_si256((const __m256i *)(batch + (p * m + j) * 2));
        for (int i = j; i < m; i++) {
            __m256i *to = (__m256i *)(c + i * m + j);
            __m256i sum = _mm256_loadu_si256(to);
            for (int p = 0; p < VZ_OLS_BLOCK / 2; p++) {
                int32_t pair;
                memcpy(&pair, batch + (p * m + i) * 2, sizeof pair);
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(column[p], _mm256_set1_epi32(pair)));
            }
            _mm256_storeu_si256(to, sum);
        }
    }
}

/* Rows are zero from their diagonal on, so whole groups of 8 may be read. */
static inline int64_t dot_avx2(const int32_t *a, const int32_t *b, int n)
{
    __m256i sum = _mm256_setzero_si256();
    for (int k = 0; k < n; k += 8) {
        const __m256i x = _mm256_loadu_si256((const __m256i *)(a + k));
        const __m256i y = _mm256_loadu_si256((const __m256i *)(b + k));
        sum = _mm256_add_epi64(sum, _mm256_mul_epi32(x, y));
        sum = _mm256_add_epi64(
            sum, _mm256_mul_epi32(_mm256_srli_epi64(x, 32), _mm256_srli_epi64(y, 32)));
    }
    const __m128i h = _mm_add_epi64(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    return _mm_cvtsi128_si64(_mm_add_epi64(h, _mm_unpackhi_epi64(h, h)));
}

static void solve_avx2(const int32_t *c, int m, int32_t *weights)
{
    vz_ols_solve(c, m, weights, dot_avx2);
}

const vz_ols_ops vz_ols_ops_avx2 = {gram_avx2, solve_avx2};
