/* degrade_row_body.h - a row of a blur for AVX2 and AVX-512: four vectors of sums stay in registers
 * while all taps pass. See fvi_blur_row of degrade.h. */
#include "degrade.h"
#include "simd.h"

_Static_assert(4 * VW <= FVI_BLUR_SLACK, "a piece reads beyond the slack");

void BLUR_ROW(float *y, const float *from, size_t wide, const float *kernel, int size, size_t n)
{
    for (size_t at = 0; at < n; at += 4 * VW) {
        vf s0 = v_zero(), s1 = s0, s2 = s0, s3 = s0;
        for (int j = 0; j < size; j++) {
            const float *x = from + at + (size_t)j * wide, *k = kernel + j * size;
            for (int i = 0; i < size; i++, x += 3) {
                const vf g = v_set1(k[i]);
                s0 = v_fma(g, v_ld(x), s0);
                s1 = v_fma(g, v_ld(x + VW), s1);
                s2 = v_fma(g, v_ld(x + 2 * VW), s2);
                s3 = v_fma(g, v_ld(x + 3 * VW), s3);
            }
        }
        const vf sum[4] = { s0, s1, s2, s3 };
        for (size_t v = 0; v < 4 && at + v * VW < n; v++) {
            const size_t left = n - at - v * VW;
            if (left >= VW) v_st(y + at + v * VW, sum[v]);
            else v_stn(y + at + v * VW, sum[v], (int)left);
        }
    }
}
