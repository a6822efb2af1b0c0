/* vz_image_ols.h - linear prediction of a sample from its neighbours, weights by least squares over
 * a window that moves with the sample; integers only.
 *
 * The window is two-dimensional: blocks of 8 columns keep the products of all rows above, older
 * rows fading, and a running sum keeps those of the row so far. The weights of a block come from
 * its own sums, those of its two neighbours and the running one. Averages along the row alone (as
 * an exponential window in scan order gives) cost 1 to 2 % on photographs.
 *
 * With the target as the last variable, the normal equations are one symmetric matrix C:
 *
 *     C' = S C S, S powers of two with 2^26 <= C'_ii < 2^28;  C' = L L^T in Q28;
 *     last row of L: the right side already solved forwards;  weights: solved backwards, Q16.
 *
 * Rows of L are zero from the diagonal on, have norm <= 1 and all values are clamped, so sums of 32
 * products stay below 2^62. Exact integer sums do not depend on their order: the vector variant
 * equals the scalar one. */
#ifndef VZ_IMAGE_OLS_H
#define VZ_IMAGE_OLS_H

#include "cm_parts.h"

#define VZ_OLS_MAX 32      /* variables, the target included; a multiple of 8 */
#define VZ_OLS_BLOCK 8     /* samples between two solutions */
#define VZ_OLS_COLUMNS 512 /* blocks with sums of their own; wider images share them */
#define VZ_OLS_VALUE_MAX 2047

typedef struct vz_ols_ops {
    /* c[i][j] += sum_p v_p[i] * v_p[j], j <= i rounded up to 8; batch: [VZ_OLS_BLOCK / 2][m][2]. */
    void (*gram)(const int16_t *batch, int m, int32_t *c);
    /* Row stride of c: m. Weights Q16 for the first m - 1 variables. */
    void (*solve)(const int32_t *c, int m, int32_t *weights);
} vz_ols_ops;
extern const vz_ols_ops vz_ols_ops_c, vz_ols_ops_avx2;
const vz_ols_ops *vz_ols_ops_for(uint32_t cpu);

typedef struct vz_ols {
    const vz_ols_ops *ops;
    int m;                    /* variables + 1 */
    int fade_above, fade_row; /* sums lose 1 / 2^fade: per row, per block */
    int blocks;               /* with sums of their own */
    uint32_t block, fill;     /* block of the row, samples in the batch */
    int32_t *above, *row, *sum;
    int16_t *batch;
    int32_t weights[VZ_OLS_MAX];
} vz_ols;

/* Bytes of memory for rows of `width` samples; a multiple of 64. */
size_t vz_ols_bytes(int m, uint32_t width);
/* memory: zeroed, 64-byte aligned. */
void vz_ols_init(vz_ols *o, const vz_ols_ops *ops, void *memory, int m, uint32_t width,
                 int fade_above, int fade_row);
void vz_ols_start_row(vz_ols *o);
/* v[0 .. m): the neighbours and, last, the sample itself, each within +-VZ_OLS_VALUE_MAX. */
void vz_ols_add(vz_ols *o, const int16_t *v);

/* ---- The solution, for both variants --------------------------------------------------------- */

FV_INLINE int64_t vz_sar64(int64_t x, int n)
{
    return x < 0 ? ~(~x >> n) : x >> n;
}
FV_INLINE int64_t vz_clamp64(int64_t x, int64_t lo, int64_t hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

/* About 2^30 / sqrt(a / 2^32) for a in [2^30, 2^32): a line, then Newton's iteration. */
FV_INLINE int64_t vz_ols_rsqrt(int64_t a)
{
    const int64_t one = (int64_t)1 << 30, x = a >> 2; /* Q30 */
    int64_t y = 2362232013 - (x * 5 >> 2);            /* 2.2 - 1.25 x */
    for (int i = 0; i < 4; i++) {
        const int64_t t = (y * y >> 30) * x >> 30;
        y = y * (3 * one - t) >> 31;
    }
    return y;
}

#define VZ_OLS_Q 28
#define VZ_OLS_ONE ((int64_t)1 << VZ_OLS_Q)

/* 2^52 / sqrt(a), a in Q56 and at least 2^44. */
FV_INLINE int64_t vz_ols_inverse(int64_t a)
{
    int shift = 14;
    a = vz_clamp64(a, (int64_t)1 << 44, (int64_t)1 << 57);
    while (a >> shift >= (int64_t)1 << 32) shift += 2;
    return vz_ols_rsqrt(a >> shift) >> (shift / 2 - 6);
}

FV_INLINE void vz_ols_solve(const int32_t *c, int m, int32_t *weights,
                            int64_t (*dot)(const int32_t *, const int32_t *, int))
{
    FV_ALIGNED(32) int32_t l[VZ_OLS_MAX][VZ_OLS_MAX];
    int64_t inverse[VZ_OLS_MAX], rest[VZ_OLS_MAX];
    int scale[VZ_OLS_MAX];
    for (int i = 0; i < m; i++) {
        /* A ridge: small against noise, and never zero. */
        int64_t d = c[i * m + i] + (c[i * m + i] >> 9) + 24;
        int k = 0;
        while (d >= (int64_t)1 << 28) d >>= 2, k--;
        while (d < (int64_t)1 << 26) d <<= 2, k++;
        scale[i] = k;
        for (int j = 0; j < VZ_OLS_MAX; j++) l[i][j] = 0;
        for (int j = 0; j < i; j++) {
            const int s = k + scale[j];
            const int64_t v = c[i * m + j];
            const int64_t cij = s >= 0 ? v * ((int64_t)1 << s) : vz_sar64(v, -s);
            const int64_t a =
                vz_clamp64(cij, -VZ_OLS_ONE, VZ_OLS_ONE) * VZ_OLS_ONE - dot(l[i], l[j], j);
            const int64_t q = vz_clamp64(vz_sar64(a, VZ_OLS_Q), -2 * VZ_OLS_ONE, 2 * VZ_OLS_ONE);
            l[i][j] = (int32_t)vz_clamp64(vz_sar64(q * inverse[j], 24), -VZ_OLS_ONE, VZ_OLS_ONE);
        }
        inverse[i] = vz_ols_inverse(d * VZ_OLS_ONE - dot(l[i], l[i], i));
    }
    const int n = m - 1;
    for (int j = 0; j < n; j++) rest[j] = (int64_t)l[n][j] * 65536;
    for (int i = n - 1; i >= 0; i--) {
        const int64_t w =
            vz_clamp64(vz_sar64(vz_sar64(rest[i], VZ_OLS_Q) * inverse[i], 24), -(1 << 24), 1 << 24);
        for (int j = 0; j < i; j++) rest[j] -= w * l[i][j];
        const int s = scale[i] - scale[n];
        const int64_t back = s >= 0 ? w * ((int64_t)1 << s) : vz_sar64(w, -s);
        weights[i] = (int32_t)vz_clamp64(back, -(1 << 22), 1 << 22);
    }
}

#endif
