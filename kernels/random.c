/* random.c - counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel
 * random numbers: as easy as 1, 2, 3", SC 2011), Box-Muller normals, a Feistel permutation.
 *
 * Counter and key of one block:
 *
 *     c0, c1 = block (64 bits)    c2 = sample    c3 = stream        k0, k1 = seed (64 bits)
 *
 * Element i of a stream is word i % 4 of block i / 4, so any range can be produced alone, in any
 * order, by any thread or device.
 *
 * Normals use nothing but + - * / sqrt in float32, each correctly rounded by IEEE 754, in a fixed
 * order without fused multiply-add (exact_math.h): the same bits on every machine and on a GPU. */
#include "exact_math.h"

#include <float.h>
#include <string.h>

_Static_assert(FLT_EVAL_METHOD == 0, "float arithmetic must round to float");

/* ---- Philox ---------------------------------------------------------------------------------- */

void fv_philox(uint64_t seed, uint32_t stream, uint32_t sample, uint64_t block, uint32_t out[4])
{
    out[0] = (uint32_t)block;
    out[1] = (uint32_t)(block >> 32);
    out[2] = sample;
    out[3] = stream;
    fvi_philox10(out, (uint32_t)seed, (uint32_t)(seed >> 32));
}

void fv_rand_u32(uint64_t seed, uint32_t stream, uint32_t sample, uint64_t first, int64_t n,
                 uint32_t *out)
{
    uint32_t w[4];
    for (int64_t i = 0; i < n;) {
        const uint64_t at = first + (uint64_t)i;
        fv_philox(seed, stream, sample, at / 4, w);
        for (int k = (int)(at % 4); k < 4 && i < n; k++) out[i++] = w[k];
    }
}

void fv_rand_uniform(uint64_t seed, uint32_t stream, uint32_t sample, uint64_t first, int64_t n,
                     float *out)
{
    uint32_t w[4];
    for (int64_t i = 0; i < n;) {
        const uint64_t at = first + (uint64_t)i;
        fv_philox(seed, stream, sample, at / 4, w);
        for (int k = (int)(at % 4); k < 4 && i < n; k++) out[i++] = (float)(w[k] >> 8) * 0x1p-24f;
    }
}

/* ---- Normal ---------------------------------------------------------------------------------- */

void fv_rand_normal(uint64_t seed, uint32_t stream, uint32_t sample, uint64_t first, int64_t n,
                    float *out)
{
    float z[4];
    for (int64_t i = 0; i < n;) {
        const uint64_t at = first + (uint64_t)i;
        fvi_normal4(seed, stream, sample, at / 4, z);
        for (int k = (int)(at % 4); k < 4 && i < n; k++) out[i++] = z[k];
    }
}

/* ---- Permutation ----------------------------------------------------------------------------- */

#define FEISTEL_ROUNDS 8

/* One pass over [0, 2^(2 half)): L, R = R, L ^ F(round, R), with Philox as F. */
static uint64_t feistel(uint64_t seed, uint64_t epoch, int half, uint64_t x)
{
    const uint32_t mask = half == 32 ? UINT32_MAX : (1u << half) - 1;
    uint32_t left = (uint32_t)(x >> half) & mask, right = (uint32_t)x & mask;
    for (uint32_t round = 0; round < FEISTEL_ROUNDS; round++) {
        uint32_t c[4] = { right, (uint32_t)epoch, (uint32_t)(epoch >> 32),
                          FV_STREAM_SHUFFLE | round << 16 };
        fvi_philox10(c, (uint32_t)seed, (uint32_t)(seed >> 32));
        const uint32_t next = left ^ (c[0] & mask);
        left = right;
        right = next;
    }
    return (uint64_t)left << half | right;
}

/* Walking on while the value lies outside [0, n) follows the cycle of a permutation of the larger
 * domain from a point inside, so it comes back inside; the domain is < 4n: < 4 passes expected. */
uint64_t fv_rand_permute(uint64_t seed, uint64_t epoch, uint64_t n, uint64_t i)
{
    if (i >= n || n < 2) return i;
    int half = 1;
    while (half < 32 && (n - 1) >> (2 * half)) half++;
    do {
        i = feistel(seed, epoch, half, i);
    } while (i >= n);
    return i;
}
