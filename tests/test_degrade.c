/* test_degrade.c - degradation steps against slow versions in double that are written from the
 * definitions, their statistics, and what a list of drawn steps must keep.
 *
 * Tolerances: sums of n products in f32 of values up to 1 and weights whose absolute values sum to
 * at most 2 err by less than 2 n 2^-24, which is below 1e-4 for the 441 taps of the largest kernel
 * and below 1e-5 for windows of up to 40. */
#include "alloc_fail.h"
#include "engine.h"
#include "image_codec.h"
#include "test.h"

#define PI 3.14159265358979323846

static fv_ctx *ctx;

static void fill(float *x, size_t n, uint64_t seed)
{
    test_fill(x, (int64_t)n, seed);
    for (size_t i = 0; i < n; i++) x[i] = 0.5f + 0.5f * x[i];
}

static float *new_floats(size_t n)
{
    float *p = malloc((n ? n : 1) * sizeof *p);
    if (!p) exit(1);
    return p;
}

static fv_degrade *handle(int side, int threads, fv_ctx *owner)
{
    fv_degrade *d = NULL;
    fv_degrade_options o = FV_DEGRADE_OPTIONS_INIT;
    o.max_width = o.max_height = side;
    o.seed = 11;
    o.parallel = threads;
    if (fv_degrade_create(owner, &d, &o) != FV_OK) {
        printf("# %s\n", fv_ctx_error(owner));
        exit(1);
    }
    return d;
}

static fv_degrade_job job_of(const float *hq, float *lq, int w, int h)
{
    const fv_degrade_job j = { hq, lq, w, h, w, h, FV_DEGRADE_PSSR, 1, 0 };
    return j;
}

/* ---- Kernels --------------------------------------------------------------------------------- */

/* (1 / pi) integral over 0..pi of cos(t - x sin t): the trapezium rule is exact to rounding for a
 * periodic function */
static double bessel_j1(double x)
{
    const int n = 400;
    double sum = 0;
    for (int i = 0; i < n; i++) {
        const double t = 2 * PI * i / n;
        sum += cos(t - x * sin(t));
    }
    return sum / n;
}

static double slow_value(const fv_blur *b, int x, int y)
{
    const double c = cos(b->rotation), s = sin(b->rotation), a = b->sigma[0], e = b->sigma[1];
    /* S = U diag(a^2, e^2) U', inverted as a 2 x 2 matrix */
    const double s00 = c * c * a * a + s * s * e * e, s11 = s * s * a * a + c * c * e * e,
                 s01 = c * s * (a * a - e * e), det = s00 * s11 - s01 * s01;
    const double q = (s11 * x * x - 2 * s01 * x * y + s00 * y * y) / det, r = hypot(x, y);
    switch (b->kind) {
    case FV_BLUR_GAUSS: return exp(-q / 2);
    case FV_BLUR_GENERAL: return exp(-pow(q, b->beta) / 2);
    case FV_BLUR_PLATEAU: return 1 / (1 + pow(q, b->beta));
    default:
        return r == 0 ? b->omega * b->omega / (4 * PI)
                      : b->omega * bessel_j1(b->omega * r) / (2 * PI * r);
    }
}

static const fv_blur blurs[] = {
    { FV_BLUR_GAUSS, 7, { 0.2f, 0.2f }, 0, 0, 0 },
    { FV_BLUR_GAUSS, 21, { 3.0f, 3.0f }, 0, 0, 0 },
    { FV_BLUR_GAUSS, 13, { 2.5f, 0.6f }, 0.7f, 0, 0 },
    { FV_BLUR_GENERAL, 15, { 2.0f, 2.0f }, 0, 0.5f, 0 },
    { FV_BLUR_GENERAL, 9, { 1.5f, 3.0f }, -2.6f, 4.0f, 0 },
    { FV_BLUR_PLATEAU, 21, { 1.2f, 1.2f }, 0, 2.0f, 0 },
    { FV_BLUR_PLATEAU, 11, { 0.3f, 2.9f }, 3.0f, 1.0f, 0 },
    { FV_BLUR_SINC, 7, { 0, 0 }, 0, 0, 1.05f },
    { FV_BLUR_SINC, 21, { 0, 0 }, 0, 0, 3.1415925f },
    { FV_BLUR_GAUSS, 1, { 1.0f, 1.0f }, 0, 0, 0 },
};

static void kernels_follow_their_formulas_and_sum_to_one(void)
{
    for (size_t i = 0; i < FV_ARRAY_LEN(blurs); i++) {
        const fv_blur *b = &blurs[i];
        float k[FV_BLUR_SIZE_MAX * FV_BLUR_SIZE_MAX];
        double total = 0, sum = 0;
        OK(ctx, fv_blur_kernel(ctx, b, k));
        const int r = b->size / 2;
        for (int y = -r; y <= r; y++)
            for (int x = -r; x <= r; x++) total += slow_value(b, x, y);
        for (int n = 0; n < b->size * b->size; n++) {
            sum += k[n];
            NEAR(k[n], slow_value(b, n % b->size - r, n / b->size - r) / total, 1e-7);
        }
        NEAR(sum, 1, 1e-6);
    }
}

static void a_gauss_has_its_covariance(void)
{
    const fv_blur b = { FV_BLUR_GAUSS, 21, { 2.0f, 1.0f }, 0.5f, 0, 0 };
    float k[21 * 21];
    double xx = 0, xy = 0, yy = 0;
    OK(ctx, fv_blur_kernel(ctx, &b, k));
    for (int y = -10; y <= 10; y++)
        for (int x = -10; x <= 10; x++) {
            const double w = k[(y + 10) * 21 + x + 10];
            xx += w * x * x;
            xy += w * x * y;
            yy += w * y * y;
        }
    const double c = cos(0.5), s = sin(0.5); /* the tail beyond 5 sigma is below 1e-4 */
    NEAR(xx, 4 * c * c + s * s, 2e-3);
    NEAR(yy, 4 * s * s + c * c, 2e-3);
    NEAR(xy, 3 * c * s, 2e-3);
}

static void kernels_out_of_range_are_refused(void)
{
    static const fv_blur bad[] = {
        { FV_BLUR_GAUSS, 8, { 1, 1 }, 0, 0, 0 },    { FV_BLUR_GAUSS, 23, { 1, 1 }, 0, 0, 0 },
        { FV_BLUR_GAUSS, 0, { 1, 1 }, 0, 0, 0 },    { FV_BLUR_GAUSS, 7, { 0, 1 }, 0, 0, 0 },
        { FV_BLUR_GAUSS, 7, { 1, NAN }, 0, 0, 0 },  { FV_BLUR_PLATEAU, 7, { 1, 1 }, 0, 0, 0 },
        { FV_BLUR_SINC, 7, { 1, 1 }, 0, 0, 3.5f },  { FV_BLUR_SINC, 7, { 1, 1 }, 0, 0, 0 },
        { (fv_blur_kind)4, 7, { 1, 1 }, 0, 1, 1 },  { FV_BLUR_GAUSS, 7, { 1, 1 }, INFINITY, 0, 0 },
    };
    float k[FV_BLUR_SIZE_MAX * FV_BLUR_SIZE_MAX];
    for (size_t i = 0; i < FV_ARRAY_LEN(bad); i++)
        CHECK_MSG(fv_blur_kernel(ctx, &bad[i], k) == FV_ERR_ARG, "case %zu", i);
}

/* ---- One step -------------------------------------------------------------------------------- */

static fv_status one_step(fv_degrade *d, const fv_degrade_job *j, const fv_degrade_step *s)
{
    fv_degrade_list list = { 1, { *s } };
    return fv_degrade_apply(d, j, &list);
}

static int mirrored(int i, int n)
{
    while (n > 1 && (i < 0 || i >= n)) i = i < 0 ? -i : 2 * (n - 1) - i;
    return n == 1 ? 0 : i;
}

static void compare_blur(fv_ctx *own)
{
    static const int size[][2] = { { 1, 1 }, { 2, 3 }, { 1, 7 }, { 11, 5 }, { 37, 24 } };
    for (size_t n = 0; n < FV_ARRAY_LEN(size); n++)
        for (size_t i = 0; i < FV_ARRAY_LEN(blurs); i++) {
            const int w = size[n][0], h = size[n][1], side = blurs[i].size, r = side / 2;
            float *x = new_floats((size_t)(3 * w * h)), *y = new_floats((size_t)(3 * w * h));
            float k[FV_BLUR_SIZE_MAX * FV_BLUR_SIZE_MAX];
            fill(x, (size_t)(3 * w * h), i + 1);
            fv_degrade *d = handle(w > h ? w : h, 1, own);
            const fv_degrade_job j = job_of(x, y, w, h);
            const fv_degrade_step s = { .op = FV_DEGRADE_BLUR, .blur = blurs[i] };
            OK(own, one_step(d, &j, &s));
            OK(ctx, fv_blur_kernel(ctx, &blurs[i], k));
            for (int p = 0; p < 3 * w * h; p++) {
                double sum = 0;
                for (int a = 0; a < side * side; a++) {
                    const int yy = mirrored(p / 3 / w + a / side - r, h);
                    const int xx = mirrored(p / 3 % w + a % side - r, w);
                    sum += (double)k[a] * x[3 * (yy * w + xx) + p % 3];
                }
                NEAR(y[p], sum, 1e-4);
            }
            fv_degrade_destroy(&d);
            free(x);
            free(y);
        }
}

static void blur_equals_its_definition_with_every_instruction_set(void)
{
    static const uint32_t off[] = { 0, ~(uint32_t)FV_CPU_AVX2, ~0u };
    for (size_t i = 0; i < FV_ARRAY_LEN(off) && !test_bad; i++) {
        fv_ctx_options o = FV_CTX_OPTIONS_INIT;
        fv_ctx *own = NULL;
        o.threads = 1;
        o.cpu_disable = off[i];
        CHECK(fv_ctx_create(&own, &o) == FV_OK);
        compare_blur(own);
        fv_ctx_destroy(&own);
    }
}

/* Weight of input i for an output with centre c, of f stretched by t. */
static double slow_cubic(double x, double a)
{
    x = fabs(x);
    if (x <= 1) return (a + 2) * x * x * x - (a + 3) * x * x + 1;
    return x < 2 ? a * x * x * x - 5 * a * x * x + 8 * a * x - 4 * a : 0;
}

static double slow_weight(fv_degrade_filter f, bool antialias, double s, int out, int i)
{
    if (f == FV_DEGRADE_AREA) {
        const double lo = fmax(out * s, i), hi = fmin((out + 1) * s, i + 1.0);
        return hi > lo ? hi - lo : 0;
    }
    const double t = antialias && s > 1 ? s : 1, x = (i + 0.5 - (out + 0.5) * s) / t;
    if (f == FV_DEGRADE_BILINEAR) return fabs(x) < 1 ? 1 - fabs(x) : 0;
    return slow_cubic(x, f == FV_DEGRADE_BICUBIC ? -0.75 : -0.5);
}

/* Along one axis, [n, in] weights. */
static void slow_axis(double *m, fv_degrade_filter f, bool antialias, int in, int out)
{
    const double s = (double)in / out;
    const bool repeats = f != FV_DEGRADE_BICUBIC_SOFT;
    const int reach = 4 * (int)ceil(s) + 4;
    memset(m, 0, sizeof *m * (size_t)in * (size_t)out);
    for (int o = 0; o < out; o++) {
        double sum = 0;
        for (int i = -reach; i < in + reach; i++) {
            const int at = i < 0 ? 0 : i >= in ? in - 1 : i;
            if ((at != i && !repeats) || (at != i && f == FV_DEGRADE_AREA)) continue;
            const double v = slow_weight(f, antialias, s, o, i);
            m[o * in + at] += v;
            sum += v;
        }
        for (int i = 0; i < in; i++) m[o * in + i] /= sum;
    }
}

static void compare_resize(const int size[4], fv_degrade_filter f, bool antialias)
{
    const int w = size[0], h = size[1], ow = size[2], oh = size[3];
    const int side = w > h ? w : h, oside = ow > oh ? ow : oh;
    float *x = new_floats((size_t)(3 * w * h)), *y = new_floats((size_t)(3 * ow * oh));
    double *mx = malloc(sizeof *mx * (size_t)(w * ow)), *my = malloc(sizeof *my * (size_t)(h * oh));
    if (!mx || !my) exit(1);
    fill(x, (size_t)(3 * w * h), 3);
    fv_degrade *d = handle(side > oside ? side : oside, 1, ctx);
    fv_degrade_job j = job_of(x, y, w, h);
    const fv_degrade_step s = { .op = FV_DEGRADE_RESIZE, .width = ow, .height = oh, .filter = f,
                                .antialias = antialias };
    j.lq_width = ow;
    j.lq_height = oh;
    OK(ctx, one_step(d, &j, &s));
    slow_axis(mx, f, antialias, w, ow);
    slow_axis(my, f, antialias, h, oh);
    for (int p = 0; p < 3 * ow * oh; p++) {
        double sum = 0;
        for (int v = 0; v < h; v++)
            for (int u = 0; u < w; u++)
                sum += my[p / 3 / ow * h + v] * mx[p / 3 % ow * w + u] *
                       x[3 * (v * w + u) + p % 3];
        sum = sum < 0 ? 0 : sum > 1 ? 1 : sum;
        CHECK_MSG(fabs(y[p] - sum) <= 1e-5, "filter %d, antialias %d, %dx%d to %dx%d: %g, not %g",
                  (int)f, antialias, w, h, ow, oh, (double)y[p], sum);
    }
    fv_degrade_destroy(&d);
    free(x);
    free(y);
    free(mx);
    free(my);
}

static void resize_equals_its_definition(void)
{
    static const int sizes[][4] = { { 24, 20, 6, 5 },   { 17, 31, 8, 11 }, { 7, 9, 21, 13 },
                                    { 12, 12, 12, 12 }, { 5, 1, 3, 1 },    { 1, 1, 4, 6 },
                                    { 40, 3, 1, 1 },    { 10, 30, 13, 2 } };
    for (size_t i = 0; i < FV_ARRAY_LEN(sizes); i++)
        for (int f = FV_DEGRADE_AREA; f <= (int)FV_DEGRADE_BICUBIC_SOFT; f++)
            for (int antialias = 0; antialias < 2 && !test_bad; antialias++)
                compare_resize(sizes[i], (fv_degrade_filter)f, antialias);
}

static void resize_in_threads_equals_one_thread(void)
{
    const int in[2] = { 90, 70 }, out[2] = { 211, 133 };
    const fvi_resampling how = { FVI_RESIZE_LANCZOS3, true, true };
    float *x = new_floats(90 * 70 * 3), *y[2];
    fill(x, 90 * 70 * 3, 8);
    for (int k = 0; k < 2; k++) {
        fvi_resize *r;
        y[k] = new_floats(211 * 133 * 3);
        OK(ctx, fvi_resize_create(ctx, &r, 90, 211, k ? 3 : 1));
        const int wide[2] = { 90, 212 };
        CHECK(fvi_resize_set(r, how, in, wide) == FV_ERR_CAPACITY);
        OK(ctx, fvi_resize_set(r, how, in, out));
        fvi_resize_run(r, x, 3, y[k]);
        fvi_resize_free(&r);
    }
    CHECK(memcmp(y[0], y[1], 211 * 133 * 3 * sizeof **y) == 0);
    free(x);
    free(y[0]);
    free(y[1]);
}

/* ---- Noise ----------------------------------------------------------------------------------- */

#define SIDE 256

static void normal_noise_has_its_moments(void)
{
    const size_t n = (size_t)SIDE * SIDE;
    float *x = new_floats(3 * n), *y = new_floats(3 * n);
    for (size_t i = 0; i < 3 * n; i++) x[i] = 0.5f;
    fv_degrade *d = handle(SIDE, 1, ctx);
    const fv_degrade_job j = job_of(x, y, SIDE, SIDE);
    for (int grey = 0; grey < 2; grey++) {
        const fv_degrade_step s = { .op = FV_DEGRADE_GAUSS, .strength = 0.05f, .is_grey = grey };
        double m[3] = { 0 }, v[3] = { 0 }, across = 0;
        OK(ctx, one_step(d, &j, &s));
        for (size_t i = 0; i < 3 * n; i++) {
            m[i % 3] += y[i] - 0.5;
            v[i % 3] += (y[i] - 0.5) * (y[i] - 0.5);
            if (i % 3 == 0) across += (y[i] - 0.5) * (y[i + 1] - 0.5);
        }
        for (int c = 0; c < 3; c++) { /* 5 standard errors */
            NEAR(m[c] / (double)n, 0, 5 * 0.05 / SIDE);
            NEAR(v[c] / (double)n, 0.0025, 5 * 0.0025 * sqrt(2) / SIDE);
        }
        NEAR(across / (double)n, grey ? 0.0025 : 0, 5 * 0.0025 * sqrt(2) / SIDE);
    }
    fv_degrade_destroy(&d);
    free(x);
    free(y);
}

/* 256 levels, so that a Poisson number has the mean 256 x. Column u has level u. */
static void poisson_noise_has_its_distribution(void)
{
    const size_t n = (size_t)SIDE * SIDE;
    float *x = new_floats(3 * n), *y = new_floats(3 * n);
    for (size_t i = 0; i < 3 * n; i++) x[i] = (float)(i / 3 % SIDE) / 255;
    fv_degrade *d = handle(SIDE, 1, ctx);
    const fv_degrade_job j = job_of(x, y, SIDE, SIDE);
    const fv_degrade_step s = { .op = FV_DEGRADE_POISSON, .strength = 1 };
    OK(ctx, one_step(d, &j, &s));
    for (int level = 0; level < 200; level += level < 8 ? 1 : 16) {
        const double mean = level / 255.0 * 256, count = 3.0 * SIDE;
        double m = 0, v = 0, least = 1;
        for (int row = 0; row < SIDE; row++)
            for (int c = 0; c < 3; c++) {
                const double k = y[3 * (row * SIDE + level) + c] * 256.0;
                NEAR(k, floor(k + 0.5), 1e-3); /* counts */
                m += k;
                v += (k - mean) * (k - mean);
                if (k < least) least = k;
            }
        NEAR(m / count, mean, 5 * sqrt(mean / count) + 1e-9);
        NEAR(v / count, mean, 5 * sqrt((mean + 2 * mean * mean) / count) + 1e-9);
        if (level < 4) CHECK(least < 1e-3); /* some of exp(-mean) 768 are 0 */
    }
    fv_degrade_step grey = s;
    grey.is_grey = 1;
    OK(ctx, one_step(d, &j, &grey));
    for (size_t i = 0; i < n; i++) /* the same change in all three channels */
        CHECK(y[3 * i] == y[3 * i + 1] && y[3 * i] == y[3 * i + 2]);
    fv_degrade_destroy(&d);
    free(x);
    free(y);
}

/* ---- JPEG ------------------------------------------------------------------------------------ */

static void jpeg_equals_a_file_of_that_quality(void)
{
    static const int quality[] = { 1, 30, 61, 89 };
    const int w = 53, h = 38;
    float x[53 * 38 * 3], y[53 * 38 * 3], z[53 * 38 * 3];
    for (int i = 0; i < w * h * 3; i++)
        x[i] = (float)(0.5 + 0.5 * sin(0.002 * i * (i % 3 + 1)) * cos(0.0007 * i));
    fv_degrade *d = handle(64, 1, ctx);
    const fv_degrade_job j = job_of(x, y, w, h);
    for (size_t k = 0; k < FV_ARRAY_LEN(quality); k++) {
        fv_image a, b;
        uint8_t *bytes = NULL;
        size_t size = 0;
        fv_image_write_options o = FV_IMAGE_WRITE_OPTIONS_INIT;
        o.format = FV_IMAGE_JPEG;
        o.quality = quality[k];
        OK(ctx, fv_image_create(ctx, &a, w, h, 3, 8));
        fv_image_from_float(&a, 0, 1, x);
        OK(ctx, fv_image_encode(ctx, &a, &o, &bytes, &size));
        OK(ctx, fv_image_decode(ctx, &b, bytes, size, NULL));
        fv_image_to_float(&b, 0, 1, z);
        const fv_degrade_step s = { .op = FV_DEGRADE_JPEG, .quality = quality[k] };
        OK(ctx, one_step(d, &j, &s));
        CHECK_MSG(test_rel_max(y, z, w * h * 3) < 1e-6, "quality %d", quality[k]);
        fv_free(ctx, bytes);
        fv_image_free(ctx, &a);
        fv_image_free(ctx, &b);
    }
    fv_degrade_destroy(&d);
}

/* ---- Lists ----------------------------------------------------------------------------------- */

static void clean_is_the_bicubic_of_pictures(void)
{
    const int w = 64, h = 48;
    float x[64 * 48 * 3], y[16 * 12 * 3], z[16 * 12 * 3];
    fv_image a, b;
    OK(ctx, fv_image_create(ctx, &a, w, h, 3, 8));
    fill(x, (size_t)(w * h * 3), 4);
    fv_image_from_float(&a, 0, 1, x);
    fv_image_to_float(&a, 0, 1, x);
    fv_degrade_options o = FV_DEGRADE_OPTIONS_INIT;
    fv_degrade *d;
    o.max_width = w;
    o.max_height = h;
    o.clean_a = -0.5f;
    OK(ctx, fv_degrade_create(ctx, &d, &o));
    const fv_degrade_job j = { x, y, w, h, 16, 12, FV_DEGRADE_CLEAN, 0, 0 };
    OK(ctx, fv_degrade_run(d, &j, 1));
    OK(ctx, fv_image_resize(ctx, &b, &a, 16, 12, FV_FILTER_BICUBIC));
    fv_image_to_float(&b, 0, 1, z);
    for (int i = 0; i < 16 * 12 * 3; i++) { /* Pillow rounds between its passes */
        NEAR(y[i], z[i], 1.01 / 255);
        NEAR(y[i] * 255, floor(y[i] * 255 + 0.5), 1e-4);
    }
    fv_degrade_destroy(&d);
    fv_image_free(ctx, &a);
    fv_image_free(ctx, &b);
}

#define JOBS 24
#define HQ 48
#define LQ 12

static void results_do_not_depend_on_threads_or_order(void)
{
    static float x[JOBS][HQ * HQ * 3], y[3][JOBS][LQ * LQ * 3];
    static const int threads[] = { 1, 2, 5 };
    for (int k = 0; k < 3; k++) {
        fv_ctx *own = NULL;
        fv_ctx_options o = FV_CTX_OPTIONS_INIT;
        o.threads = threads[k];
        CHECK(fv_ctx_create(&own, &o) == FV_OK);
        fv_degrade *d = handle(HQ, 0, own);
        fv_degrade_job j[JOBS];
        for (int i = 0; i < JOBS; i++) {
            const int at = k == 1 ? JOBS - 1 - i : i;
            fill(x[at], HQ * HQ * 3, (uint64_t)at);
            j[i] = (fv_degrade_job){ x[at], y[k][at], HQ, HQ, LQ, LQ,
                                     (fv_degrade_kind)(at % 3), (uint32_t)(at / 3), 0 };
        }
        fv_memory_stats before, after;
        fv_ctx_memory(own, &before);
        OK(own, fv_degrade_run(d, j, JOBS));
        fv_ctx_memory(own, &after);
        CHECK(after.allocations == before.allocations);
        CHECK(memcmp(y[k], y[0], sizeof y[0]) == 0);
        fv_degrade_destroy(&d);
        fv_ctx_destroy(&own);
    }
    for (int i = 0; i < JOBS; i++)
        for (int p = 0; p < LQ * LQ * 3; p++) CHECK(y[0][i][p] >= 0 && y[0][i][p] <= 1);
    CHECK(memcmp(y[0][1], y[0][4], sizeof y[0][1]) != 0);
}

static void drawn_lists_have_the_published_shares(void)
{
    fv_degrade *d = handle(128, 1, ctx);
    int blurs_of[4] = { 0 }, n = 4000, isotropic = 0, grey = 0, first = 0, last_sinc = 0, count = 0;
    fv_degrade_job j = job_of(NULL, NULL, 128, 128);
    j.lq_width = j.lq_height = 32;
    for (int i = 0; i < n; i++) {
        fv_degrade_list l;
        j.sample = (uint32_t)i;
        OK(ctx, fv_degrade_draw(d, &j, &l));
        const fv_blur *b = &l.step[0].blur;
        CHECK(l.step[0].op == FV_DEGRADE_BLUR && b->size >= 7 && b->size <= 21 && b->size % 2);
        first++;
        blurs_of[b->kind]++;
        if (b->kind != FV_BLUR_SINC) {
            CHECK(b->sigma[0] >= 0.2f && b->sigma[0] <= 3 && b->sigma[1] >= 0.2f &&
                  b->sigma[1] <= 3);
            isotropic += b->sigma[0] == b->sigma[1];
        } else {
            CHECK(b->omega >= (b->size < 13 ? PI / 3 : PI / 5) - 1e-6 && b->omega <= PI);
        }
        CHECK(l.step[1].op == FV_DEGRADE_GAUSS && l.step[1].strength >= 1 / 255.0f &&
              l.step[1].strength <= 30.01f / 255);
        grey += l.step[1].is_grey;
        CHECK(l.step[2].op == FV_DEGRADE_JPEG && l.step[2].quality >= 30 &&
              l.step[2].quality <= 95);
        CHECK(l.step[3].op == FV_DEGRADE_BLUR && l.step[4].op == FV_DEGRADE_RESIZE &&
              l.step[4].width == 32);
        last_sinc += l.step[6].op == FV_DEGRADE_BLUR;
        count += l.step[l.count - 1].op == FV_DEGRADE_ROUND &&
                 l.step[l.count - 2].op == FV_DEGRADE_JPEG;
    }
    CHECK(first == n && count == n);
    const double share = 1.0 / n, tolerance = 5 * 0.5 / sqrt(n); /* 5 standard errors at most */
    NEAR(blurs_of[FV_BLUR_SINC] * share, 0.1, tolerance * 0.6);
    NEAR(blurs_of[FV_BLUR_GAUSS] * share, 0.9 * 0.7, tolerance);
    NEAR(blurs_of[FV_BLUR_GENERAL] * share, 0.9 * 0.15, tolerance * 0.7);
    NEAR(isotropic * share, 0.9 * 0.69, tolerance);
    NEAR(grey * share, 0.4, tolerance);
    NEAR(last_sinc * share, 0.8, tolerance);
    fv_degrade_destroy(&d);
}

static void two_stages_come_in_both_orders(void)
{
    fv_degrade *d = handle(128, 1, ctx);
    fv_degrade_job j = job_of(NULL, NULL, 128, 100);
    int jpeg_last = 0, sinc_last = 0, up = 0, down = 0, same = 0, poisson = 0, n = 2000;
    j.lq_width = 43;
    j.lq_height = 33;
    j.kind = FV_DEGRADE_TWO_STAGE;
    for (int i = 0; i < n; i++) {
        fv_degrade_list l;
        j.sample = (uint32_t)i;
        OK(ctx, fv_degrade_draw(d, &j, &l));
        CHECK(l.step[1].op == FV_DEGRADE_RESIZE);
        up += l.step[1].width > 128;
        down += l.step[1].width < 128;
        same += l.step[1].width == 128;
        CHECK(l.step[1].width >= 19 && l.step[1].width <= 192);
        poisson += l.step[2].op == FV_DEGRADE_POISSON;
        const fv_degrade_step *s = &l.step[l.count - 2];
        jpeg_last += s->op == FV_DEGRADE_JPEG;
        sinc_last += s->op != FV_DEGRADE_JPEG;
    }
    NEAR((double)jpeg_last / n, 0.5, 0.056);
    CHECK(jpeg_last + sinc_last == n);
    NEAR((double)down / n, 0.7, 0.056);
    NEAR((double)up / n, 0.2, 0.056);
    NEAR((double)same / n, 0.1, 0.056);
    NEAR((double)poisson / n, 0.5, 0.056);
    fv_degrade_destroy(&d);
}

static void frames_share_what_belongs_to_the_clip(void)
{
    for (int per_frame = 0; per_frame < 2; per_frame++) {
        fv_degrade_options o = FV_DEGRADE_OPTIONS_INIT;
        fv_degrade *d;
        o.max_width = o.max_height = 64;
        o.all_per_frame = per_frame;
        OK(ctx, fv_degrade_create(ctx, &d, &o));
        int blur_changes = 0, noise_changes = 0, filter_changes = 0;
        for (int i = 0; i < 20; i++) {
            fv_degrade_list l[2];
            fv_degrade_job j = job_of(NULL, NULL, 64, 64);
            j.lq_width = j.lq_height = 16;
            j.sample = (uint32_t)i;
            for (int f = 0; f < 2; f++) {
                j.frame = (uint32_t)f;
                OK(ctx, fv_degrade_draw(d, &j, &l[f]));
            }
            blur_changes += memcmp(&l[0].step[0].blur, &l[1].step[0].blur, sizeof(fv_blur)) != 0;
            noise_changes += l[0].step[1].strength != l[1].step[1].strength;
            filter_changes += l[0].step[4].filter != l[1].step[4].filter;
        }
        CHECK(per_frame ? blur_changes > 15 : blur_changes == 0);
        CHECK(noise_changes == 20 && filter_changes == 0);
        fv_degrade_destroy(&d);
    }
}

/* ---- Failures -------------------------------------------------------------------------------- */

static void bad_calls_are_refused(void)
{
    float x[16 * 16 * 3] = { 0 }, y[16 * 16 * 3];
    fv_degrade *d = NULL;
    fv_degrade_options o = FV_DEGRADE_OPTIONS_INIT;
    CHECK(fv_degrade_create(ctx, &d, &o) == FV_ERR_ARG && !d); /* no size */
    o.max_width = o.max_height = 16;
    o.antialias = 2;
    CHECK(fv_degrade_create(ctx, &d, &o) == FV_ERR_ARG && !d);
    o.antialias = 0;
    o.clean_a = -0.6f;
    CHECK(fv_degrade_create(ctx, &d, &o) == FV_ERR_ARG && !d);
    d = handle(16, 1, ctx);
    fv_degrade_job j = job_of(x, y, 17, 16);
    CHECK(fv_degrade_run(d, &j, 1) == FV_ERR_SHAPE);
    j = job_of(x, x, 16, 16);
    CHECK(fv_degrade_run(d, &j, 1) == FV_ERR_ARG);
    j = job_of(x, y, 16, 16);
    j.frame = 1u << 23;
    CHECK(fv_degrade_run(d, &j, 1) == FV_ERR_ARG);
    j.frame = 0;
    j.kind = (fv_degrade_kind)3;
    CHECK(fv_degrade_run(d, &j, 1) == FV_ERR_ARG);
    j.kind = FV_DEGRADE_PSSR;
    fv_degrade_step s = { .op = FV_DEGRADE_JPEG, .quality = 101 };
    CHECK(one_step(d, &j, &s) == FV_ERR_ARG);
    s = (fv_degrade_step){ .op = FV_DEGRADE_RESIZE, .width = 8, .height = 16 };
    CHECK(one_step(d, &j, &s) == FV_ERR_SHAPE);
    s.width = 25;
    CHECK(one_step(d, &j, &s) == FV_ERR_ARG);
    fv_degrade_list l = { 13, { { 0 } } };
    CHECK(fv_degrade_apply(d, &j, &l) == FV_ERR_ARG);
    fv_degrade_destroy(&d);
    fv_degrade_destroy(&d);
    fv_degrade_destroy(NULL);
}

static void every_failing_allocation_is_survived(void)
{
    int64_t n = 0;
    for (fv_status s = FV_ERR_OOM; s != FV_OK; n++) {
        alloc_fail heap = { .left = ALLOC_ALL };
        fv_ctx *own = alloc_fail_context(&heap, 2);
        const int64_t kept = heap.live;
        heap.left = n;
        fv_degrade_options o = FV_DEGRADE_OPTIONS_INIT;
        fv_degrade *d = NULL;
        o.max_width = o.max_height = 20;
        s = fv_degrade_create(own, &d, &o);
        CHECK(s == FV_OK || (s == FV_ERR_OOM && !d));
        fv_degrade_destroy(&d);
        CHECK(heap.live == kept);
        heap.left = ALLOC_ALL;
        fv_ctx_destroy(&own);
    }
    CHECK(n > 20);
}

int main(void)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.threads = 2;
    if (fv_ctx_create(&ctx, &o) != FV_OK) return 1;
    RUN(kernels_follow_their_formulas_and_sum_to_one);
    RUN(a_gauss_has_its_covariance);
    RUN(kernels_out_of_range_are_refused);
    RUN(blur_equals_its_definition_with_every_instruction_set);
    RUN(resize_equals_its_definition);
    RUN(resize_in_threads_equals_one_thread);
    RUN(normal_noise_has_its_moments);
    RUN(poisson_noise_has_its_distribution);
    RUN(jpeg_equals_a_file_of_that_quality);
    RUN(clean_is_the_bicubic_of_pictures);
    RUN(results_do_not_depend_on_threads_or_order);
    RUN(drawn_lists_have_the_published_shares);
    RUN(two_stages_come_in_both_orders);
    RUN(frames_share_what_belongs_to_the_clip);
    RUN(bad_calls_are_refused);
    RUN(every_failing_allocation_is_survived);
    fv_ctx_destroy(&ctx);
    return test_end();
}
