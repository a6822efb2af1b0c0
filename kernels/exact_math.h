/* exact_math.h - private: Philox rounds, logarithm, normals and exponential that give the same bits on
 * every machine, in scalar code and in any vector width.
 *
 * Nothing but + - * / in float32, each correctly rounded by IEEE 754, in a fixed order and without
 * fused multiply-add (-ffp-contract=off). libm is not used because its functions differ between
 * versions. Loops over these functions have no branches: compilers turn them into vectors. */
#ifndef FV_EXACT_MATH_H
#define FV_EXACT_MATH_H

#include "engine.h"

#include <math.h>

/* A product that no addition is fused with; a compiler that would is told here how to write it. */
#ifndef FVI_TIMES
#define FVI_TIMES(a, b) ((a) * (b))
#endif

/* Philox4x32-10: the block of counter c under the key k0, k1 (see random.c). */
FV_INLINE void fvi_philox10(uint32_t c[4], uint32_t k0, uint32_t k1)
{
    FV_UNROLL
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xd2511f53u * c[0], p1 = (uint64_t)0xcd9e8d57u * c[2];
        const uint32_t n0 = (uint32_t)(p1 >> 32) ^ c[1] ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c[3] ^ k1;
        c[0] = n0;
        c[1] = (uint32_t)p1;
        c[2] = n2;
        c[3] = (uint32_t)p0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
}

/* ln((1 + t) / (1 - t)) = 2 atanh(t) for |t| < 0.172; relative error < 2e-7. */
FV_INLINE float fvi_ln_ratio(float t)
{
    const float s = FVI_TIMES(t, t);
    float p = 0.11111111f;
    p = FVI_TIMES(p, s) + 0.14285715f;
    p = FVI_TIMES(p, s) + 0.2f;
    p = FVI_TIMES(p, s) + 0.33333334f;
    return FVI_TIMES(2.0f, t) + FVI_TIMES(FVI_TIMES(2.0f, t), FVI_TIMES(s, p));
}

/* ln(x) for normal x > 0; absolute error < 2.5e-7 * max(1, |result|). x = m 2^e with m in
 * [sqrt(1/2), sqrt(2)); ln m = 2 atanh((m - 1) / (m + 1)). */
FV_INLINE float fvi_ln(float x)
{
    union { float f; uint32_t u; } v = { x };
    int e = (int)(v.u >> 23) - 127;
    v.u = (v.u & 0x7fffffu) | 0x3f800000u;
    const int is_high = v.f > 1.41421356f;
    const float m = is_high ? v.f * 0.5f : v.f;
    e += is_high;
    const float ln_m = fvi_ln_ratio((m - 1.0f) / (m + 1.0f));
    /* ln 2 in two parts; e times the first is exact. */
    return FVI_TIMES((float)e, 0.693359375f) + (FVI_TIMES((float)e, -2.12194440e-4f) + ln_m);
}

/* sin and cos of 2 pi w / 2^32. The nearest quarter turn is taken off in integers, so |x| <= pi/4
 * and the series below reach float precision. */
FV_INLINE void fvi_sincos_turn(uint32_t w, float *sine, float *cosine)
{
    const int64_t quarter = ((int64_t)w + 0x20000000) >> 30; /* 0..4 */
    const int32_t rest = (int32_t)((int64_t)w - quarter * 0x40000000);
    const float x = FVI_TIMES((float)rest, 1.46291808e-9f) /* pi/2 / 2^30 */, z = FVI_TIMES(x, x);
    float s = 2.7557319e-6f;
    s = FVI_TIMES(s, z) - 1.9841270e-4f;
    s = FVI_TIMES(s, z) + 8.3333333e-3f;
    s = FVI_TIMES(s, z) - 0.16666667f;
    s = x + FVI_TIMES(x, FVI_TIMES(z, s));
    float c = -2.7557319e-7f;
    c = FVI_TIMES(c, z) + 2.4801587e-5f;
    c = FVI_TIMES(c, z) - 1.3888889e-3f;
    c = FVI_TIMES(c, z) + 4.1666667e-2f;
    c = 1.0f - (FVI_TIMES(0.5f, z) - FVI_TIMES(z, FVI_TIMES(z, c)));
    const float a = quarter & 1 ? c : s, b = quarter & 1 ? s : c;
    *sine = quarter & 2 ? -a : a;
    *cosine = (quarter + 1) & 2 ? -b : b;
}

/* Two normals from two words. (w + 0.5) / 2^32 is never 0, so |z| <= 6.77; it may round to 1.
 * -2 ln has an absolute error < 5e-7 * max(1, result). */
FV_INLINE void fvi_box_muller(uint32_t w0, uint32_t w1, float *z0, float *z1)
{
    float s, c;
    const float u = FVI_TIMES((float)w0 + 0.5f, 0x1p-32f),
                r = sqrtf(FVI_TIMES(-2.0f, fvi_ln(u)));
    fvi_sincos_turn(w1, &s, &c);
    *z0 = FVI_TIMES(r, c);
    *z1 = FVI_TIMES(r, s);
}

/* The four normals of a block of a stream (random.c). */
FV_INLINE void fvi_normal4(uint64_t seed, uint32_t stream, uint32_t sample, uint64_t block,
                           float z[4])
{
    uint32_t w[4];
    w[0] = (uint32_t)block;
    w[1] = (uint32_t)(block >> 32);
    w[2] = sample;
    w[3] = stream;
    fvi_philox10(w, (uint32_t)seed, (uint32_t)(seed >> 32));
    fvi_box_muller(w[0], w[1], &z[0], &z[1]);
    fvi_box_muller(w[2], w[3], &z[2], &z[3]);
}

/* exp(x) for x <= 0; relative error < 2e-7, 0 below -87.3 where results would be denormal. */
FV_INLINE float fvi_exp_negative(float x)
{
    const float c = x < -87.3f ? -87.3f : x;
    const float n = (c * 1.44269504f + 12582912.0f) - 12582912.0f; /* to the nearest whole number */
    float r = c - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * r * r + r) + 1.0f;
    union { uint32_t u; float f; } scale = { (uint32_t)((int)n + 127) << 23 };
    return x < -87.3f ? 0.0f : p * scale.f;
}

#endif
