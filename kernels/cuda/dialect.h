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
 * QUIET(t) is a phase without its barrier: for what writes only what is the thread's own, or what
 * nobody touches before the next barrier. Tensor cores (WARP_*) multiply what lies in the registers of the threads
 * of a warp, all of which come to it: outside of phases. Copies to shared memory that go on meanwhile
 * are asked for in a phase (COPY_16), closed as a group (COPIES_CLOSE), and there for all threads after
 * COPIES_WAIT(c, n), when at most n groups are on their way; the emulator lets them come no earlier.
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
#define QUIET(t) \
    for ([[maybe_unused]] int t = (int)threadIdx.x, once_ = 1; once_; once_ = 0)
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
#define QUAD_SUM(x, n) fvk_quad_fold((x)[0], n, 0) /* each of n values of a thread, over four threads */
#define QUAD_MAX(x, n) fvk_quad_fold((x)[0], n, 1)
#define WARP_MEET() __syncwarp() /* before such a product: all lanes are here */
/* c[0..3] += a[0..3] b[0..1]: 16 x 16 by 16 x 8, bf16, fragments as in PTX's mma.m16n8k16 */
#define WARP_MMA(c, i, a, j, b, k) fvk_mma((c)[0] + (i), (a)[0] + (j), (b)[0] + (k))
/* b[0..3]: two fragments of 16 x 8 from a tile of 16 x 16 in shared memory, whose rows are the columns
 * of the fragments (LOAD_ROWS) or their rows (LOAD_COLUMNS); rows of the tile are 16-byte aligned */
#define WARP_LOAD_ROWS(b, tile, stride) fvk_load_fragment((b)[0], tile, stride)
#define WARP_LOAD_COLUMNS(b, tile, stride) fvk_load_turned((b)[0], tile, stride)
#define FVK_PACK(low, high) fvk_pack(low, high) /* two of bf16 */
#define FVK_STORE_PAIR(p, v) (*(uint32_t *)(void *)(p) = (v)) /* aligned to it */
#define COPIES(c) fvk_copies *const c = nullptr
#define COPY_16(c, to, from, is_there) ((void)(c), fvk_copy_16(to, from, is_there)) /* 8 halves, or zeros */
#define COPIES_CLOSE(c) asm volatile("cp.async.commit_group;" ::: "memory")
#define COPIES_WAIT(c, n)                                        \
    do {                                                         \
        asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory"); \
        __syncthreads();                                         \
    } while (0)

typedef struct fvk_copies { int none; } fvk_copies; /* the hardware counts */

FVK_FN void fvk_quad_fold(float *x, int n, int is_max)
{
    FVK_UNROLL
    for (int i = 0; i < n; i++) {
        FVK_UNROLL
        for (int o = 1; o < 4; o *= 2) {
            const float y = __shfl_xor_sync(0xffffffffu, x[i], o);
            if (is_max) x[i] = y > x[i] ? y : x[i];
            else x[i] += y;
        }
    }
}

FVK_FN void fvk_mma(float *c, const uint32_t *a, const uint32_t *b)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

FVK_FN uint32_t fvk_shared_at(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

/* Lane l gives the address of row l % 8 of the 8 x 8 matrix l / 8. */
FVK_FN void fvk_load_fragment(uint32_t *b, const uint16_t *tile, int stride)
{
    const int l = (int)threadIdx.x % 32, row = l / 16 * 8 + l % 8, at = l / 8 % 2 * 8;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                 : "r"(fvk_shared_at(tile + row * stride + at))
                 : "memory");
}

FVK_FN void fvk_load_turned(uint32_t *b, const uint16_t *tile, int stride)
{
    const int l = (int)threadIdx.x % 32, row = l / 8 % 2 * 8 + l % 8, at = l / 16 * 8;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                 : "r"(fvk_shared_at(tile + row * stride + at))
                 : "memory");
}

FVK_FN uint32_t fvk_pack(float low, float high)
{
    uint32_t v;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
    return v;
}

FVK_FN void fvk_copy_16(void *to, const void *from, int is_there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(fvk_shared_at(to)),
                 "l"(__cvta_generic_to_global(from)), "r"(is_there ? 16 : 0)
                 : "memory");
}

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
#define QUIET(t) PHASE(t)
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
#define ROW_OF(x) (int)(sizeof *(x) / sizeof **(x))
#define QUAD_SUM(x, n) fvk_quad_fold((x)[0], ROW_OF(x), n, 0)
#define QUAD_MAX(x, n) fvk_quad_fold((x)[0], ROW_OF(x), n, 1)
#define WARP_MMA(c, i, a, j, b, k) \
    fvk_mma((c)[0] + (i), ROW_OF(c), (a)[0] + (j), ROW_OF(a), (b)[0] + (k), ROW_OF(b))
#define WARP_LOAD_ROWS(b, tile, stride) fvk_load_fragment((b)[0], ROW_OF(b), tile, stride, 0)
#define WARP_LOAD_COLUMNS(b, tile, stride) fvk_load_fragment((b)[0], ROW_OF(b), tile, stride, 1)
#define WARP_MEET() ((void)0)
#define FVK_PACK(low, high) ((uint32_t)fvk_narrow(low) | (uint32_t)fvk_narrow(high) << 16)
#define FVK_STORE_PAIR(p, v) fvk_store_pair(p, v)
#define COPIES(c)  \
    fvk_copies c_; \
    fvk_copies *const c = &c_; \
    c->n = c->closed = c->groups = 0
#define COPY_16(c, to, from, is_there) fvk_copy_16(c, to, from, is_there)
#define COPIES_CLOSE(c) fvk_copies_close(c)
#define COPIES_WAIT(c, n) fvk_copies_wait(c, n)

/* Copies on their way, in groups; a place is NaN until its copy came. */
#define FVK_COPIES_MOST 8192
typedef struct fvk_copies {
    int n, closed, groups, end[8]; /* of each group */
    struct { void *to; const void *from; } list[FVK_COPIES_MOST];
} fvk_copies;

FVK_FN void fvk_copy_16(fvk_copies *c, void *to, const void *from, int is_there)
{
    memset(to, 0xff, 16);
    c->list[c->n].to = to; /* a full list is past its end, which the sanitizers see */
    c->list[c->n++].from = is_there ? from : NULL;
}

/* Threads close their groups in turn: a group is that of a block when the last one has. */
FVK_FN void fvk_copies_close(fvk_copies *c)
{
    if (++c->closed < FVK_THREADS) return;
    c->closed = 0;
    c->end[c->groups++] = c->n;
}

FVK_FN void fvk_copies_wait(fvk_copies *c, int left)
{
    int done = 0;
    while (c->groups > left) {
        for (; done < c->end[0]; done++) {
            if (c->list[done].from) memcpy(c->list[done].to, c->list[done].from, 16);
            else memset(c->list[done].to, 0, 16);
        }
        c->groups--;
        memmove(c->end, c->end + 1, sizeof c->end - sizeof c->end[0]);
    }
    c->n -= done;
    memmove(c->list, c->list + done, (size_t)c->n * sizeof c->list[0]);
    for (int i = 0; i < c->groups; i++) c->end[i] -= done;
}

FVK_FN void fvk_quad_fold(float *x, int stride, int n, int is_max)
{
    for (int t = 0; t < FVK_THREADS; t += 4)
        for (int i = 0; i < n; i++)
            for (int o = 1; o < 4; o *= 2) {
                float y[4];
                for (int j = 0; j < 4; j++) y[j] = x[(t + (j ^ o)) * stride + i];
                for (int j = 0; j < 4; j++) {
                    float *v = &x[(t + j) * stride + i];
                    if (!is_max) *v += y[j];
                    else if (y[j] > *v) *v = y[j];
                }
            }
}
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

#if !defined(__CUDACC__)

FVK_FN void fvk_store_pair(uint16_t *p, uint32_t v) { memcpy(p, &v, sizeof v); }

/* Half `i` of the words of a fragment of a warp. a: row, column of 16 x 16; b: row, column of 16 x 8
 * (PTX ISA, "Matrix fragments for mma.m16n8k16"). */
FVK_FN float fvk_of_a(const uint32_t *a, int stride, int row, int col)
{
    const int lane = row % 8 * 4 + col % 8 / 2, word = row / 8 + col / 8 * 2;
    return fvk_widen((uint16_t)(a[lane * stride + word] >> (col % 2 * 16)));
}
FVK_FN float fvk_of_b(const uint32_t *b, int stride, int row, int col)
{
    const int lane = col * 4 + row % 8 / 2;
    return fvk_widen((uint16_t)(b[lane * stride + row / 8] >> (row % 2 * 16)));
}

FVK_FN void fvk_mma(float *c, int c_row, const uint32_t *a, int a_row, const uint32_t *b, int b_row)
{
    for (int w = 0; w < FVK_THREADS; w += 32)
        for (int i = 0; i < 16; i++)
            for (int j = 0; j < 8; j++) {
                float sum = 0;
                for (int k = 0; k < 16; k++)
                    sum += fvk_of_a(a + w * a_row, a_row, i, k) * fvk_of_b(b + w * b_row, b_row, k, j);
                c[(w + i % 8 * 4 + j / 2) * c_row + i / 8 * 2 + j % 2] += sum;
            }
}

/* The words of both fragments; turned: the tile's rows are theirs. */
FVK_FN void fvk_load_fragment(uint32_t *b, int b_row, const uint16_t *tile, int stride, int turned)
{
    for (int t = 0; t < FVK_THREADS; t++)
        for (int word = 0; word < 4; word++) {
            uint32_t v = 0;
            for (int i = 0; i < 2; i++) {
                const int row = word % 2 * 8 + t % 4 * 2 + i, col = word / 2 * 8 + t % 32 / 4;
                v |= (uint32_t)tile[turned ? row * stride + col : col * stride + row] << (16 * i);
            }
            b[t * b_row + word] = v;
        }
}

#endif

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

/* ---- Eight neighbours at once: elements i .. i + 7, i a multiple of 8, p even ------------------ */

typedef struct fvk_eight { float v[8]; } fvk_eight;

FVK_FN int fvk_even(const void *p) { return ((uintptr_t)p & 15) == 0; } /* NULL is */

FVK_FN fvk_eight fvk_get8(fvk_in x, int64_t i)
{
    fvk_eight r;
#if defined(__CUDACC__)
    if (x.bf16) {
        const uint4 u = *(const uint4 *)((const uint16_t *)x.p + i);
        const uint32_t w[4] = { u.x, u.y, u.z, u.w };
        FVK_UNROLL
        for (int k = 0; k < 4; k++) {
            r.v[2 * k] = FVK_FLOAT(w[k] << 16);
            r.v[2 * k + 1] = FVK_FLOAT(w[k] & 0xffff0000u);
        }
    } else {
        const float4 *f = (const float4 *)((const float *)x.p + i);
        const float4 a = f[0], b = f[1];
        r = { { a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w } };
    }
#else
    for (int k = 0; k < 8; k++) r.v[k] = fvk_get(x, i + k);
#endif
    return r;
}

FVK_FN void fvk_put8(fvk_out y, int64_t i, fvk_eight r)
{
#if defined(__CUDACC__)
    if (y.add) {
        const fvk_in old = { y.p, y.bf16 };
        const fvk_eight o = fvk_get8(old, i);
        FVK_UNROLL
        for (int k = 0; k < 8; k++) r.v[k] = o.v[k] + r.v[k];
    }
    if (y.bf16) {
        *(uint4 *)((uint16_t *)y.p + i) =
            make_uint4(FVK_PACK(r.v[0], r.v[1]), FVK_PACK(r.v[2], r.v[3]),
                       FVK_PACK(r.v[4], r.v[5]), FVK_PACK(r.v[6], r.v[7]));
    } else {
        float4 *f = (float4 *)((float *)y.p + i);
        f[0] = make_float4(r.v[0], r.v[1], r.v[2], r.v[3]);
        f[1] = make_float4(r.v[4], r.v[5], r.v[6], r.v[7]);
    }
#else
    for (int k = 0; k < 8; k++) fvk_put(y, i + k, r.v[k]);
#endif
}

/* Divisions of 64 bits cost tens of instructions, and few numbers need them. */
FVK_FN int64_t fvk_over(int64_t a, int64_t b)
{
    return (uint64_t)(a | b) >> 32 ? a / b : (int64_t)((uint32_t)a / (uint32_t)b);
}

#endif
