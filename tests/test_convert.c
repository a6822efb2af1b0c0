/* test_convert.c - every pair of element types against a slow definition. */
#include "engine.h"
#include "test.h"

static fv_ctx *ctx;

static const double lo_of[FV_DTYPE_COUNT] = {
    [FV_I8] = -128,           [FV_U8] = 0,       [FV_I16] = -32768, [FV_U16] = 0,
    [FV_I32] = -2147483648.0, [FV_I64] = -0x1p63};
static const double hi_of[FV_DTYPE_COUNT] = {
    [FV_I8] = 127,    [FV_U8] = 255,           [FV_I16] = 32767,
    [FV_U16] = 65535, [FV_I32] = 2147483647.0, [FV_I64] = 0x1p63};

static bool is_float(fv_dtype t)
{
    return t == FV_F32 || t == FV_F64 || t == FV_F16 || t == FV_BF16;
}

/* Element i as long double, which holds every type exactly. */
static long double get(fv_dtype t, const void *p, int i)
{
    switch (t) {
    case FV_F32: return ((const float *)p)[i];
    case FV_F64: return ((const double *)p)[i];
    case FV_BF16: return fv_bf16_to_f32(((const uint16_t *)p)[i]);
    case FV_F16: return fv_f16_to_f32(((const uint16_t *)p)[i]);
    case FV_I64: return ((const int64_t *)p)[i];
    case FV_I32: return ((const int32_t *)p)[i];
    case FV_I16: return ((const int16_t *)p)[i];
    case FV_U16: return ((const uint16_t *)p)[i];
    case FV_I8: return ((const int8_t *)p)[i];
    default: return ((const uint8_t *)p)[i];
    }
}

/* x rounded to even to `bits` of fraction with the smallest exponent `emin` (of the last bit). */
static long double round_float(long double x, int bits, int emin, long double limit)
{
    if (x == 0 || x != x || isinf(x)) return x;
    int e;
    frexpl(x, &e);
    int last = e - bits;
    if (last < emin) last = emin;
    const long double r = ldexpl(rintl(ldexpl(x, -last)), last);
    return fabsl(r) >= limit ? copysignl(INFINITY, x) : r;
}

static long double expect(fv_dtype t, long double x)
{
    switch (t) {
    case FV_F32: return round_float(x, 24, -149, 0x1p128L);
    case FV_F64: return round_float(x, 53, -1074, 0x1p1023L * 2);
    case FV_BF16: return round_float(x, 8, -133, 0x1p128L);
    case FV_F16: return round_float(x, 11, -24, 65536);
    default: break;
    }
    if (x != x) return 0;
    if (x <= lo_of[t]) return lo_of[t];
    if (x >= hi_of[t]) return t == FV_I64 ? (long double)INT64_MAX : hi_of[t];
    return rintl(x);
}

#define COUNT 4096
static union { double align; uint8_t b[COUNT * 8]; } in, out;

/* Random bits, and values around every rounding and saturation boundary. */
static void fill(fv_dtype t, uint64_t seed)
{
    for (int i = 0; i < COUNT * 8; i++) in.b[i] = (uint8_t)test_next(&seed);
    static const double edge[] = {
        0, 0.5, 1.5, 2.5, -0.5, 127.5, 128, -128.5, 255.5, 32767.5, 65535.5, 65519, 65520, 65504,
        65536, 2147483647.5, 0x1p63, -0x1p63, 0x1p-24, 0x1p-25, 0x1.8p-25, 0x1p-14, 0x1.ffcp-15,
        0x1.01p0, 0x1.03p0, 0x1.0100001p0, 0x1.0030000001p0, 0x1.00100000000001p0, 0x1p-149,
        0x1p-150, 1e300, 0x1.fffffefp127, 0x1.ffp127, 0x1.000001p0, 0x1.0000010000001p0, 0x1p-133,
        0x1.8p-134,
    };
    if (t == FV_I64) {
        int64_t *p = (int64_t *)(void *)in.b;
        for (int i = 0; i < COUNT; i++) p[i] >>= i % 63;
        p[0] = INT64_MAX;
        p[1] = INT64_MIN;
        p[2] = (1ll << 53) + 1;
        p[3] = (1ll << 56) + (1ll << 48) + 1; /* a tie for bf16, broken by the last bit */
    }
    for (int i = 0; i < (int)FV_ARRAY_LEN(edge); i++) {
        for (int k = 0; k < 2; k++) {
            const double v = k ? -edge[i] : edge[i];
            if (t == FV_F64) ((double *)(void *)in.b)[2 * i + k] = v;
            if (t == FV_F32) ((float *)(void *)in.b)[2 * i + k] = (float)v;
        }
    }
    if (t == FV_F64) { /* random exponents that the narrow types have */
        double *p = (double *)(void *)in.b;
        for (int i = 100; i < COUNT; i += 2) p[i] = ldexp(frexp(p[i], &(int){ 0 }), i % 300 - 160);
    }
}

static void all_pairs_round_once_and_saturate(void)
{
    for (int a = 0; a < FV_DTYPE_COUNT; a++) {
        fill((fv_dtype)a, (uint64_t)a + 1);
        for (int b = 0; b < FV_DTYPE_COUNT; b++) {
            OK(ctx, fv_convert(ctx, (fv_dtype)a, in.b, COUNT, (fv_dtype)b, out.b));
            for (int i = 0; i < COUNT; i++) {
                const long double x = get((fv_dtype)a, in.b, i), y = get((fv_dtype)b, out.b, i);
                const long double want = expect((fv_dtype)b, x);
                CHECK_MSG(y == want || (x != x && y != y),
                          "%s -> %s: %.20Lg gives %.20Lg, not %.20Lg", fv_dtype_name((fv_dtype)a),
                          fv_dtype_name((fv_dtype)b), x, y, want);
                CHECK(!is_float((fv_dtype)b) || !is_float((fv_dtype)a) || x != 0
                      || signbit(x) == signbit(y));
            }
        }
    }
}

static void half_floats_round_trip(void)
{
    for (uint32_t h = 0; h < 65536; h++) {
        const float f = fv_f16_to_f32((uint16_t)h), g = fv_bf16_to_f32((uint16_t)h);
        const uint16_t hf = fv_f32_to_f16(f), hg = fv_f32_to_bf16(g);
        CHECK(f == f ? hf == h : (hf & 0x7c00) == 0x7c00 && (hf & 0x3ff));
        CHECK(g == g ? hg == h : (hg & 0x7f80) == 0x7f80 && (hg & 0x7f));
    }
}

static void long_runs_equal_short_ones(void)
{
    const int64_t n = 300001;
    float *x = malloc((size_t)n * 4);
    uint16_t *a = malloc((size_t)n * 2 + 1), *b = malloc((size_t)n * 2);
    test_fill(x, n, 3);
    OK(ctx, fv_convert(ctx, FV_F32, x, n, FV_F16, (uint8_t *)a + 1)); /* threads, unaligned */
    for (int64_t i = 0; i < n; i += 1000) {
        OK(ctx, fv_convert(ctx, FV_F32, x + i, n - i < 1000 ? n - i : 1000, FV_F16, b + i));
    }
    CHECK(memcmp((uint8_t *)a + 1, b, (size_t)n * 2) == 0);
    free(x);
    free(a);
    free(b);
}

static void bad_arguments_are_refused(void)
{
    float x = 1;
    CHECK(fv_convert(ctx, (fv_dtype)10, &x, 1, FV_F32, &x) == FV_ERR_DTYPE);
    CHECK(fv_convert(ctx, FV_F32, &x, 1, (fv_dtype)-1, &x) == FV_ERR_DTYPE);
    CHECK(fv_convert(ctx, FV_F32, &x, -1, FV_F32, &x) == FV_ERR_ARG);
    CHECK(fv_convert(ctx, FV_F32, NULL, 1, FV_F64, &x) == FV_ERR_ARG);
    OK(ctx, fv_convert(ctx, FV_F32, NULL, 0, FV_F64, NULL));
    CHECK(fv_dtype_size((fv_dtype)99) == 0 && !strcmp(fv_dtype_name((fv_dtype)99), "?"));
    CHECK(fv_dtype_size(FV_I64) == 8 && !strcmp(fv_dtype_name(FV_BF16), "bf16"));
}

static void count_reports_overflow(void)
{
    fv_tensor t = { NULL, FV_F32, 0, { 0 } };
    CHECK(fv_tensor_count(&t) == 1);
    t.ndim = 3;
    t.dim[0] = INT64_MAX;
    t.dim[1] = 2;
    CHECK(fv_tensor_count(&t) == -1); /* whatever the order of the dimensions */
    t.dim[0] = 5;
    CHECK(fv_tensor_count(&t) == 0);
    t.dim[2] = 3;
    CHECK(fv_tensor_count(&t) == 30);
    t.dim[1] = -1;
    CHECK(fv_tensor_count(&t) == -1);
    t.ndim = FV_MAX_DIMS + 1;
    CHECK(fv_tensor_count(&t) == -1);
}

int main(void)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(all_pairs_round_once_and_saturate);
    RUN(half_floats_round_trip);
    RUN(long_runs_equal_short_ones);
    RUN(bad_arguments_are_refused);
    RUN(count_reports_overflow);
    fv_ctx_destroy(&ctx);
    return test_end();
}
