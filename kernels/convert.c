/* convert.c - element types and conversion between any two of them.
 *
 * Every conversion rounds once, to nearest even. Narrow floats (bf16, f16) are reached from wider
 * types through a float32 that was rounded *to odd*: with 24 bits against 8 or 11 + 2 the second
 * rounding then gives the directly rounded result (Boldo and Melquiond 2008), where going through
 * an ordinary float32 would round twice. Integers saturate; NaN becomes integer 0.
 *
 * Blocks of elements go through one common type: double holds every source type exactly except i64,
 * which has its own loop. The pairs that loading a model uses have direct loops. Model tensors may
 * lie at any address, so all loads and stores are memcpy (plain moves after compilation). */
#include "engine.h"

#include <math.h>
#include <string.h>

#define BLOCK 512
/* Below this many elements, starting threads costs more than it gains. */
#define PARALLEL_MIN (1 << 18)
#define CHUNK ((int64_t)1 << 16)

static const struct { size_t size; const char *name; } types[FV_DTYPE_COUNT] = {
    [FV_F32] = { 4, "f32" }, [FV_BF16] = { 2, "bf16" }, [FV_I8] = { 1, "i8" },
    [FV_I32] = { 4, "i32" }, [FV_F64] = { 8, "f64" },   [FV_F16] = { 2, "f16" },
    [FV_I64] = { 8, "i64" }, [FV_I16] = { 2, "i16" },   [FV_U16] = { 2, "u16" },
    [FV_U8] = { 1, "u8" },
};

static bool is_dtype(fv_dtype t) { return (unsigned)t < FV_DTYPE_COUNT; }
size_t fv_dtype_size(fv_dtype t) { return is_dtype(t) ? types[t].size : 0; }
const char *fv_dtype_name(fv_dtype t)
{
    return is_dtype(t) ? types[t].name : t == FV_F8 ? "fp8" : "?";
}

const char *fv_weights_name(fv_dtype t)
{
    return t == FV_I8 ? "int8" : t == FV_F32 || t == FV_BF16 ? types[t].name : NULL;
}

int fv_weights_find(const char *name, fv_dtype *out)
{
    static const fv_dtype all[] = { FV_F32, FV_BF16, FV_I8 };
    for (size_t i = 0; name && i < FV_ARRAY_LEN(all); i++) {
        if (strcmp(fv_weights_name(all[i]), name) != 0) continue;
        *out = all[i];
        return 1;
    }
    return 0;
}

int64_t fv_tensor_count(const fv_tensor *t)
{
    int64_t n = 1;
    bool zero = false;
    if (t->ndim < 0 || t->ndim > FV_MAX_DIMS) return -1;
    for (int i = 0; i < t->ndim; i++) {
        if (t->dim[i] < 0) return -1;
        if (t->dim[i] == 0) zero = true;
        else if (n > INT64_MAX / t->dim[i]) return -1;
        else n *= t->dim[i];
    }
    return zero ? 0 : n;
}

/* ---- Half precision -------------------------------------------------------------------------- */

float fv_f16_to_f32(uint16_t h)
{
    union { uint32_t u; float f; } v;
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 31,
                   fraction = h & 0x3ffu;
    if (exponent == 31) {
        v.u = sign | 0x7f800000u | fraction << 13 | (fraction ? 0x400000u : 0); /* quiet */
    } else if (exponent) {
        v.u = sign | (exponent + 112) << 23 | fraction << 13;
    } else {
        v.f = (float)fraction * 0x1p-24f; /* exact: zero and subnormals */
        v.u |= sign;
    }
    return v.f;
}

uint16_t fv_f32_to_f16(float f)
{
    union { float f; uint32_t u; } v = { f };
    const uint32_t sign = v.u >> 16 & 0x8000u, a = v.u & 0x7fffffffu;
    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (a >> 13 & 0x1ffu));
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* >= 65520 rounds to infinity */
    if (a >= 0x38800000u) { /* normal: rebias, round the 13 dropped bits */
        return (uint16_t)(sign | (a - 0x38000000u + 0xfffu + (a >> 13 & 1)) >> 13);
    }
    /* Subnormal: adding 0.5 puts a * 2^24, rounded to nearest even, into the fraction's bits. */
    v.u = a;
    v.f += 0.5f;
    return (uint16_t)(sign | (v.u - 0x3f000000u));
}

/* Nearest float in the direction of zero, with the last bit set if anything was cut off. */
static float round_to_odd(double d)
{
    union { float f; uint32_t u; } v = { (float)d };
    const double back = v.f;
    if (back == d || d != d) return v.f;
    if (fabs(back) > fabs(d)) v.u--;
    v.u |= 1;
    return v.f;
}

/* The same for 64-bit integers, as a double. */
static double i64_to_odd(int64_t i)
{
    const uint64_t a = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    uint64_t kept = a;
    int shift = 0;
    while (kept >> 53) {
        kept = kept >> 1 | (kept & 1); /* sticky */
        shift++;
    }
    const double m = ldexp((double)kept, shift);
    return i < 0 ? -m : m;
}

/* ---- Blocks through double ------------------------------------------------------------------- */

#define LOAD_LOOP(type, expr)                                     \
    for (int i = 0; i < n; i++) {                                 \
        type v;                                                   \
        memcpy(&v, (const uint8_t *)src + (size_t)i * sizeof v, sizeof v); \
        out[i] = (double)(expr);                                  \
    }                                                             \
    break

/* Any type but i64. */
static void load_double(fv_dtype t, const void *src, int n, double *out)
{
    switch (t) {
    case FV_F32: LOAD_LOOP(float, v);
    case FV_F64: LOAD_LOOP(double, v);
    case FV_BF16: LOAD_LOOP(uint16_t, fv_bf16_to_f32(v));
    case FV_F16: LOAD_LOOP(uint16_t, fv_f16_to_f32(v));
    case FV_I32: LOAD_LOOP(int32_t, v);
    case FV_I16: LOAD_LOOP(int16_t, v);
    case FV_U16: LOAD_LOOP(uint16_t, v);
    case FV_I8: LOAD_LOOP(int8_t, v);
    case FV_U8: LOAD_LOOP(uint8_t, v);
    default: break;
    }
}

/* Rounded to even, clamped to [lo, hi] (both exact in double), NaN -> 0. */
static int64_t to_int(double d, int64_t lo, int64_t hi)
{
    if (d != d) return 0;
    if (d <= (double)lo) return lo;
    if (d >= (double)hi) return hi; /* INT64_MAX reads as 2^63 here, which is what saturates */
    return (int64_t)rint(d);
}

#define STORE_LOOP(type, expr)                              \
    for (int i = 0; i < n; i++) {                           \
        const double d = in[i];                             \
        const type v = (type)(expr);                        \
        memcpy((uint8_t *)dst + (size_t)i * sizeof v, &v, sizeof v); \
    }                                                       \
    break

static void store_double(fv_dtype t, const double *in, int n, void *dst)
{
    switch (t) {
    case FV_F32: STORE_LOOP(float, d);
    case FV_F64: STORE_LOOP(double, d);
    case FV_BF16: STORE_LOOP(uint16_t, fv_f32_to_bf16(round_to_odd(d)));
    case FV_F16: STORE_LOOP(uint16_t, fv_f32_to_f16(round_to_odd(d)));
    case FV_I64: STORE_LOOP(int64_t, to_int(d, INT64_MIN, INT64_MAX));
    case FV_I32: STORE_LOOP(int32_t, to_int(d, INT32_MIN, INT32_MAX));
    case FV_I16: STORE_LOOP(int16_t, to_int(d, INT16_MIN, INT16_MAX));
    case FV_U16: STORE_LOOP(uint16_t, to_int(d, 0, UINT16_MAX));
    case FV_I8: STORE_LOOP(int8_t, to_int(d, INT8_MIN, INT8_MAX));
    case FV_U8: STORE_LOOP(uint8_t, to_int(d, 0, UINT8_MAX));
    default: break;
    }
}

static int64_t clamp_i64(int64_t v, int64_t lo, int64_t hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

/* i64 to anything else: values beyond 2^53 must not pass through a rounded double. */
static void convert_i64(const uint8_t *src, int64_t n, fv_dtype to, uint8_t *dst)
{
    const size_t size = fv_dtype_size(to);
    for (int64_t i = 0; i < n; i++) {
        int64_t v;
        memcpy(&v, src + i * 8, 8);
        uint8_t *const d = dst + (size_t)i * size;
        if (to == FV_F32) {
            const float f = (float)v;
            memcpy(d, &f, sizeof f);
        } else if (to == FV_F64) {
            const double f = (double)v;
            memcpy(d, &f, sizeof f);
        } else if (to == FV_BF16 || to == FV_F16) {
            const double f = i64_to_odd(v);
            store_double(to, &f, 1, d);
        } else { /* at most 32 bits: saturating first makes it exact in double */
            const double f = (double)clamp_i64(v, INT32_MIN, INT32_MAX);
            store_double(to, &f, 1, d);
        }
    }
}

/* ---- Direct pairs ---------------------------------------------------------------------------- */

#define DIRECT_LOOP(from, to, expr)                               \
    do {                                                          \
        for (int64_t i = 0; i < n; i++) {                         \
            from v;                                               \
            memcpy(&v, src + (size_t)i * sizeof v, sizeof v);     \
            const to w = (to)(expr);                              \
            memcpy(dst + (size_t)i * sizeof w, &w, sizeof w);     \
        }                                                         \
        return true;                                              \
    } while (0)

static bool convert_direct(fv_dtype a, const uint8_t *src, int64_t n, fv_dtype b, uint8_t *dst)
{
    if (a == b) {
        memcpy(dst, src, (size_t)n * fv_dtype_size(a));
        return true;
    }
    if (b == FV_F32) {
        if (a == FV_BF16) DIRECT_LOOP(uint16_t, float, fv_bf16_to_f32(v));
        if (a == FV_F16) DIRECT_LOOP(uint16_t, float, fv_f16_to_f32(v));
        if (a == FV_F64) DIRECT_LOOP(double, float, v);
        if (a == FV_I8) DIRECT_LOOP(int8_t, float, v);
        if (a == FV_U8) DIRECT_LOOP(uint8_t, float, v);
    }
    if (a == FV_F32 && b == FV_BF16) DIRECT_LOOP(float, uint16_t, fv_f32_to_bf16(v));
    if (a == FV_F32 && b == FV_F16) DIRECT_LOOP(float, uint16_t, fv_f32_to_f16(v));
    return false;
}

static void convert_range(fv_dtype a, const uint8_t *src, int64_t n, fv_dtype b, uint8_t *dst)
{
    double block[BLOCK];
    if (convert_direct(a, src, n, b, dst)) return;
    if (a == FV_I64) {
        convert_i64(src, n, b, dst);
        return;
    }
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int k = n - i < BLOCK ? (int)(n - i) : BLOCK;
        load_double(a, src + (size_t)i * fv_dtype_size(a), k, block);
        store_double(b, block, k, dst + (size_t)i * fv_dtype_size(b));
    }
}

fv_status fv_convert(fv_ctx *ctx, fv_dtype src_type, const void *src, int64_t n, fv_dtype dst_type,
                     void *dst)
{
    if (!is_dtype(src_type) || !is_dtype(dst_type)) {
        return fv_fail(ctx, FV_ERR_DTYPE, "convert: unknown element type");
    }
    if (n < 0 || n > INT64_MAX / 8 || (uint64_t)n > SIZE_MAX / 8) {
        return fv_fail(ctx, FV_ERR_ARG, "convert: bad element count %lld", (long long)n);
    }
    if (n == 0) return FV_OK;
    if (!src || !dst) return fv_fail(ctx, FV_ERR_ARG, "convert: data is NULL");
    const uint8_t *const from = src;
    uint8_t *const to = dst;
    const size_t a = fv_dtype_size(src_type), b = fv_dtype_size(dst_type);
    if (n < PARALLEL_MIN || !ctx) {
        convert_range(src_type, from, n, dst_type, to);
        return FV_OK;
    }
    const int64_t chunks = (n + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(static) num_threads(fv_ctx_threads(ctx))
    for (int64_t c = 0; c < chunks; c++) {
        const int64_t begin = c * CHUNK, end = begin + CHUNK < n ? begin + CHUNK : n;
        convert_range(src_type, from + (size_t)begin * a, end - begin, dst_type,
                      to + (size_t)begin * b);
    }
    return FV_OK;
}
