/* compiler.h - the only place where compiler-specific syntax lives. */
#ifndef FV_COMPILER_H
#define FV_COMPILER_H

#if defined(__GNUC__)
#define FV_RESTRICT __restrict__
#define FV_ALIGNED(n) __attribute__((aligned(n)))
#define FV_INLINE static inline __attribute__((always_inline))
#define FV_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define FV_LIKELY(x) __builtin_expect(!!(x), 1)
#define FV_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define FV_PREFETCH(p) __builtin_prefetch(p)
#else
#define FV_RESTRICT
#define FV_ALIGNED(n)
#define FV_INLINE static inline
#define FV_PRINTF(fmt, args)
#define FV_LIKELY(x) (x)
#define FV_UNLIKELY(x) (x)
#define FV_PREFETCH(p) ((void)(p))
#endif

/* In a loop that waits for another thread. */
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#define FV_PAUSE() __builtin_ia32_pause()
#else
#define FV_PAUSE() ((void)0)
#endif

/* Number of the lowest bit that is set in x, which is not 0. */
#if defined(__GNUC__)
#define FV_LOWEST_BIT(x) __builtin_ctz(x)
#else
FV_INLINE int fvi_lowest_bit(unsigned x)
{
    int n = 0;
    for (; !(x & 1); x >>= 1) n++;
    return n;
}
#define FV_LOWEST_BIT(x) fvi_lowest_bit(x)
#endif

/* Before a loop of constant, small count (register tiles): unroll it completely. */
#if defined(__clang__)
#define FV_UNROLL _Pragma("clang loop unroll_count(16)")
#elif defined(__GNUC__)
#define FV_UNROLL _Pragma("GCC unroll 16")
#else
#define FV_UNROLL
#endif

#define FV_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#endif
