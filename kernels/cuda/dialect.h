/* dialect.h - private: the language of kernel bodies, for nvcc and for a C compiler.
 *
 * A body is written once. On the GPU it is one thread of a block; on the CPU it is a whole block,
 * whose threads run one after another in each phase:
 *
 *     FVK_KERNEL(name)                        arguments a, block number block_ of grid_
 *     {
 *         SHARED(float, tile, 64);            of the block
 *         LOCAL(float, sum);                  one a thread: AT(sum, t)
 *         for (int k = 0; k < n; k++) {       between phases: the same for all threads
 *             PHASE(t) { ... }                all threads; t is the thread; then a barrier
 *         }
 *         BLOCK_SUM(sum);                     every thread gets the sum
 *     }
 *
 * The thread's number exists within a phase only and a barrier ends each phase, so no barrier can
 * stand where threads part, and none can be forgotten between phases. What is left to go wrong is
 * a thread that reads in a phase what another writes in it: the emulator runs threads and blocks
 * forward and backward, and compares. Within a phase: continue, no break and no return.
 *
 * Sums add in the same order on both sides. */
#ifndef FV_CUDA_DIALECT_H
#define FV_CUDA_DIALECT_H

#include "compiler.h"
#include "cuda/abi.h"

#if defined(__CUDACC__)

#define FVK_FN static __device__ __forceinline__
#define FVK_KERNEL(name) \
    FVK_FN void name##_body(const fvk_##name##_args *a, const int block_, const int grid_)
#define PHASE(t)                                                                           \
    for ([[maybe_unused]] int t = (int)threadIdx.x, once_ = 1; once_; once_ = 0, __syncthreads())
#define SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define LOCAL(type, name) type name[1]
#define LOCALS(type, name, count) type name[1][count]
#define AT(name, t) name[0]
#define BLOCK_SUM(x) fvk_block_sum(x)
#define WARP_SUM(x) fvk_warp_sum(x)
#define WARP_SUM64(x) fvk_warp_sum64(x) /* of int64_t */
/* acc + both 16-bit halves of x, each times a weight of 8 bits: the lower two of w, or the upper */
#define FVK_DOT2_LOW(x, w, acc) __dp2a_lo(x, w, acc)
#define FVK_DOT2_HIGH(x, w, acc) __dp2a_hi(x, w, acc)
/* p[0] and p[1], 16 bits each, as a word; p is aligned to it */
#define FVK_PAIR(p) (*(const int32_t *)(const void *)(p))
#define FVK_BITS(f) __float_as_uint(f)
#define FVK_FLOAT(u) __uint_as_float(u)
#define FVK_RAISE(p, bit) atomicOr(p, bit)
#define FVK_UNROLL _Pragma("unroll")

FVK_FN void fvk_warp_sum(float *x)
{
    for (int o = 16; o > 0; o >>= 1) x[0] += __shfl_xor_sync(0xffffffffu, x[0], o);
}

FVK_FN void fvk_warp_sum64(int64_t *x)
{
    for (int o = 16; o > 0; o >>= 1) x[0] += __shfl_xor_sync(0xffffffffu, (long long)x[0], o);
}

FVK_FN void fvk_block_sum(float *x)
{
    __shared__ float part[FVK_THREADS / 32];
    float sum = 0;
    fvk_warp_sum(x);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x[0];
    __syncthreads();
    for (int w = 0; w < FVK_THREADS / 32; w++) sum += part[w];
    __syncthreads();
    x[0] = sum;
}

#else

#include <string.h>

#define FVK_FN static inline
#define FVK_KERNEL(name)                                                                          \
    static void name##_body(const fvk_##name##_args *a, const int block_, const int grid_,        \
                            const int reversed_)
#define PHASE(t)                                                                               \
    for (int i_ = 0, t = reversed_ ? FVK_THREADS - 1 : 0; i_ < FVK_THREADS;                    \
         i_++, t += reversed_ ? -1 : 1)
/* NaN until written: what is read too early shows. */
#define SHARED(type, name, count) \
    type name[count];             \
    memset(name, 0xff, sizeof name)
#define LOCAL(type, name) type name[FVK_THREADS]
#define LOCALS(type, name, count) type name[FVK_THREADS][count]
#define AT(name, t) name[t]
#define BLOCK_SUM(x) fvk_block_sum(x)
#define WARP_SUM(x) fvk_warp_sum(x)
#define WARP_SUM64(x) fvk_warp_sum64(x)
#define FVK_PAIR(p) fvk_both_halves(p)
#define FVK_DOT2_LOW(x, w, acc) fvk_dot2(x, w, acc)
#define FVK_DOT2_HIGH(x, w, acc) fvk_dot2(x, (int32_t)((uint32_t)(w) >> 16), acc)
#define FVK_BITS(f) fvk_bits(f)
#define FVK_FLOAT(u) fvk_float(u)
#define FVK_RAISE(p, bit) (*(p) |= (bit))
#define FVK_UNROLL

FVK_FN uint32_t fvk_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

FVK_FN float fvk_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

FVK_FN void fvk_warp_sum(float *x)
{
    for (int w = 0; w < FVK_THREADS; w += 32)
        for (int o = 16; o > 0; o >>= 1) {
            float old[32];
            memcpy(old, x + w, sizeof old);
            for (int i = 0; i < 32; i++) x[w + i] = old[i] + old[i ^ o];
        }
}

FVK_FN void fvk_warp_sum64(int64_t *x)
{
    for (int w = 0; w < FVK_THREADS; w += 32) {
        int64_t sum = 0;
        for (int i = 0; i < 32; i++) sum += x[w + i];
        for (int i = 0; i < 32; i++) x[w + i] = sum;
    }
}

FVK_FN int32_t fvk_both_halves(const int16_t *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

FVK_FN int32_t fvk_dot2(int32_t x, int32_t w, int32_t acc)
{
    const uint32_t u = (uint32_t)x, v = (uint32_t)w;
    return acc + (int16_t)(uint16_t)(u & 0xffff) * (int8_t)(uint8_t)(v & 0xff) +
           (int16_t)(uint16_t)(u >> 16) * (int8_t)(uint8_t)(v >> 8 & 0xff);
}

FVK_FN void fvk_block_sum(float *x)
{
    float sum = 0;
    fvk_warp_sum(x);
    for (int w = 0; w < FVK_THREADS; w += 32) sum += x[w];
    for (int i = 0; i < FVK_THREADS; i++) x[i] = sum;
}

#endif

/* x[0] = the sum, or the largest, of x[FVK_THREADS], in shared memory, the same for all threads. */
#define TREE_SUM(x)                                            \
    for (int s_ = FVK_THREADS / 2; s_ > 0; s_ /= 2) PHASE(t_) { \
        if (t_ < s_) (x)[t_] += (x)[t_ + s_];                  \
    }

#define TREE_MAX(x)                                                    \
    for (int s_ = FVK_THREADS / 2; s_ > 0; s_ /= 2) PHASE(t_) {        \
        if (t_ < s_ && (x)[t_ + s_] > (x)[t_]) (x)[t_] = (x)[t_ + s_]; \
    }

/* Thread t of a grid that walks over n elements. */
#define EACH(i, t, n)                                                                       \
    for (int64_t i = (int64_t)block_ * FVK_THREADS + (t); i < (n);                          \
         i += (int64_t)grid_ * FVK_THREADS)

FVK_FN float fvk_widen(uint16_t h) { return FVK_FLOAT((uint32_t)h << 16); }

FVK_FN uint16_t fvk_narrow(float f) /* nearest even; NaN stays NaN */
{
    const uint32_t u = FVK_BITS(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

/* e4m3: 1 sign, 4 of exponent (bias 7), 3; largest 448, no infinities, 0x7f is NaN. */
FVK_FN float fvk_from_e4m3(uint8_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x80) << 24, e = h >> 3 & 15, m = h & 7;
    if (e == 15 && m == 7) return FVK_FLOAT(sign | 0x7fc00000u);
    if (e == 0) return (sign ? -1.0f : 1.0f) * (float)m * 0.001953125f; /* 2^-9 */
    return FVK_FLOAT(sign | (e + 120) << 23 | m << 20);
}

FVK_FN uint8_t fvk_to_e4m3(float f) /* nearest even, what is larger becomes 448; NaN stays NaN */
{
    const uint32_t u = FVK_BITS(f), sign = u >> 24 & 0x80, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return (uint8_t)(sign | 0x7f);
    if (a >= 0x43e00000u) return (uint8_t)(sign | 0x7e); /* 448 */
    if (a < 0x3c800000u) { /* below 2^-6: steps of 2^-9; adding 2^14 leaves them as the last bits */
        const uint32_t r = FVK_BITS(FVK_FLOAT(a) + 16384.0f);
        return (uint8_t)(sign | (r & 0xf));
    }
    return (uint8_t)(sign | (((a + 0x7ffffu + (a >> 20 & 1)) >> 20) - 960)); /* 120 << 3 */
}

FVK_FN float fvk_get(fvk_in x, int64_t i)
{
    return x.bf16 ? fvk_widen(((const uint16_t *)x.p)[i]) : ((const float *)x.p)[i];
}

FVK_FN void fvk_put(fvk_out y, int64_t i, float v)
{
    if (y.bf16) {
        uint16_t *p = (uint16_t *)y.p + i;
        *p = fvk_narrow(y.add ? fvk_widen(*p) + v : v);
    } else {
        float *p = (float *)y.p + i;
        *p = y.add ? *p + v : v;
    }
}

#endif
