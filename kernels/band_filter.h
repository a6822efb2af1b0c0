/* band_filter.h - private: what fv_low_pass (op_spectrum.c) and the frequency-domain update of
 * pictures (diffusion/fdu.c) share: a Butterworth low-pass over planes that are reflected at their
 * edges. The reflection is degrade.c's, too. */
#ifndef FV_BAND_FILTER_H
#define FV_BAND_FILTER_H

#include "compiler.h"

/* Pixels that a plane is reflected by before it is filtered, at least. */
#define FVI_BAND_MARGIN 16

/* Cycles a pixel of the k-th of n frequencies. */
FV_INLINE double fvi_band_frequency(int k, int n)
{
    return (double)(2 * k <= n ? k : k - n) / n;
}

/* 1 / (1 + (r / cutoff)^(2 order)), r2 = r^2 */
FV_INLINE double fvi_butterworth(double r2, double cutoff, int order)
{
    const double q = r2 / (cutoff * cutoff);
    double p = q;
    for (int k = 1; k < order; k++) p *= q;
    return 1 / (1 + p);
}

/* Index within 0..n-1 of i, which may lie outside: mirrored at the first and last pixel. */
FV_INLINE int fvi_reflect(int i, int n)
{
    if (n == 1) return 0;
    const int period = 2 * (n - 1);
    i %= period;
    if (i < 0) i += period;
    return i < n ? i : period - i;
}

#endif
