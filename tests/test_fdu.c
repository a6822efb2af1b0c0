/* test_fdu.c - the FFT against sums in double, and the frequency-domain update against a version
 * written from the definition: each luma plane filtered alone by a complex transform in double,
 * real part taken, RGB through the official YUV matrices. Their product differs from the identity
 * by 2e-5, hence 4e-5 for `ref`; lerp, lock and gain are compared in the additive
 * form to 1e-5. */
#include <complex.h>

#include "alloc_fail.h"
#include "engine.h"
#include "fovea_diffusion.h"
#include "test.h"

static fv_ctx *ctx;

/* ---- Slow versions --------------------------------------------------------------------------- */

/* [h, w] <- transform, sums over rows and columns */
static void slow_fft(double complex *z, int h, int w, int sign)
{
    const int longest = h > w ? h : w;
    double complex *t = malloc(sizeof *t * (size_t)longest);
    if (!t) exit(1);
    for (int pass = 0; pass < 2; pass++) {
        const int n = pass ? h : w, lines = pass ? w : h;
        for (int a = 0; a < lines; a++) {
            for (int k = 0; k < n; k++) {
                t[k] = 0;
                for (int i = 0; i < n; i++)
                    t[k] += z[pass ? i * w + a : a * w + i] *
                            cexp(sign * 2 * acos(-1.0) * I * ((double)i * k / n));
            }
            for (int k = 0; k < n; k++) z[pass ? k * w + a : a * w + k] = t[k];
        }
    }
    if (sign > 0)
        for (int i = 0; i < h * w; i++) z[i] /= (double)h * w;
    free(t);
}

static double slow_frequency(int k, int n, bool is_ref)
{
    if (!is_ref) return (k <= n / 2 ? k : k - n) / (double)n;
    return n == 1 ? -0.5 : -0.5 + ((k + n / 2) % n) / (double)(n - 1);
}

/* Low-pass, real part; mask: the one of `lock`. */
static void slow_filter(double *y, int h, int w, bool is_ref, bool is_mask)
{
    double complex *z = malloc(sizeof *z * (size_t)(h * w));
    if (!z) exit(1);
    for (int i = 0; i < h * w; i++) z[i] = y[i];
    slow_fft(z, h, w, -1);
    for (int j = 0; j < h; j++)
        for (int i = 0; i < w; i++) {
            const double r = hypot(slow_frequency(j, h, is_ref), slow_frequency(i, w, is_ref));
            const double t = (r - 0.06) / 0.12;
            z[j * w + i] *= is_mask ? (t <= 0 ? 0 : t >= 1 ? 1 : 0.5 - 0.5 * cos(acos(-1.0) * t)) :
                                      1 / (1 + pow(r / 0.2, 4));
        }
    slow_fft(z, h, w, 1);
    for (int i = 0; i < h * w; i++) y[i] = creal(z[i]);
    free(z);
}

static double unit(double v)
{
    return v < 0 ? 0 : v > 1 ? 1 : v;
}

static double slow_luma(const float *p)
{
    return 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2];
}

static void slow_ref(const float *c, const float *d, int h, int w, double alpha, double *out)
{
    double *l[2];
    for (int k = 0; k < 2; k++) {
        l[k] = malloc(sizeof(double) * (size_t)(h * w));
        if (!l[k]) exit(1);
        for (int i = 0; i < h * w; i++) l[k][i] = slow_luma((k ? d : c) + 3 * i);
        slow_filter(l[k], h, w, true, false);
    }
    for (int j = 0; j < h; j++)
        for (int i = 0; i < w; i++) {
            const float *p = c + 3 * (j * w + i), *q = d + 3 * (j * w + i);
            const double hc = slow_luma(p) - l[0][j * w + i], hd = slow_luma(q) - l[1][j * w + i];
            const double g = fabs(hd) / (fabs(hd) + fabs(hc) + 1e-6);
            double y = l[0][j * w + i] + alpha * (g * hd + (1 - g) * hc);
            if (h <= 4 || w <= 4 || i < 2 || j < 2 || i >= w - 2 || j >= h - 2) y = slow_luma(p);
            const double u = -0.14713 * p[0] - 0.28886 * p[1] + 0.436 * p[2];
            const double v = 0.615 * p[0] - 0.51499 * p[1] - 0.10001 * p[2];
            double *o = out + 3 * (j * w + i);
            o[0] = unit(y + 1.13983 * v);
            o[1] = unit(y - 0.39465 * u - 0.5806 * v);
            o[2] = unit(y + 2.03211 * u);
        }
    for (int k = 0; k < 2; k++) free(l[k]);
}

static int mirror(int i, int n)
{
    while (i < 0 || i >= n) {
        if (n == 1) return 0;
        i = i < 0 ? -i : 2 * (n - 1) - i;
    }
    return i;
}

/* Binomial mean of order 8 along both sides of squares around (i, j); the plane goes on beyond. */
static double slow_energy(const double *high, int H, int W, int i, int j)
{
    static const double binomial[9] = { 1, 8, 28, 56, 70, 56, 28, 8, 1 };
    double sum = 0;
    for (int b = -4; b <= 4; b++)
        for (int a = -4; a <= 4; a++) {
            const int y = j + b < 0 ? 0 : j + b >= H ? H - 1 : j + b;
            const int x = i + a < 0 ? 0 : i + a >= W ? W - 1 : i + a;
            sum += binomial[a + 4] * binomial[b + 4] * high[y * W + x] * high[y * W + x] / 65536;
        }
    return sum;
}

static void slow_gain(double *const high[2], int H, int W, double alpha, double *delta)
{
    for (int i = 0; i < H * W; i++) {
        const double c = slow_energy(high[0], H, W, i % W, i / W) + 1e-6;
        const double d = slow_energy(high[1], H, W, i % W, i / W) + 1e-6;
        delta[i] = alpha * (fmin(sqrt(d / c), 6) - 1) * high[0][i];
    }
}

/* delta [H, W] of the padded plane */
static void slow_delta(const float *c, const float *d, int h, int w, int H, int W, int mode,
                       double alpha, double *delta)
{
    const bool is_lock = mode == FV_FDU_LOCK;
    double *l[2], *y[2];
    for (int k = 0; k < 2; k++) {
        l[k] = malloc(sizeof(double) * (size_t)(H * W));
        y[k] = malloc(sizeof(double) * (size_t)(H * W));
        if (!l[k] || !y[k]) exit(1);
        for (int j = 0; j < H; j++)
            for (int i = 0; i < W; i++)
                l[k][j * W + i] = y[k][j * W + i] =
                    slow_luma((k ? d : c) + 3 * (mirror(j - 16, h) * w + mirror(i - 16, w)));
        slow_filter(l[k], H, W, false, false);
    }
    for (int i = 0; i < H * W; i++) {
        const double hc = y[0][i] - l[0][i], hd = y[1][i] - l[1][i];
        const double g = fabs(hd) / (fabs(hd) + fabs(hc) + 1e-6);
        delta[i] = alpha * (g * hd + (1 - g) * hc - hc);
    }
    for (int k = 0; k < 2 && mode == FV_FDU_GAIN; k++)
        for (int i = 0; i < H * W; i++) y[k][i] -= l[k][i];
    if (mode == FV_FDU_GAIN) slow_gain(y, H, W, alpha, delta);
    if (is_lock) slow_filter(delta, H, W, false, true);
    for (int k = 0; k < 2; k++) {
        free(l[k]);
        free(y[k]);
    }
}

/* ---- Pictures -------------------------------------------------------------------------------- */

/* In [lo, hi], smooth with noise; to be freed. */
static float *picture(int h, int w, uint64_t seed, double noise, double lo, double hi)
{
    float *p = malloc(sizeof *p * 3 * (size_t)(h * w));
    if (!p) exit(1);
    for (int j = 0; j < h; j++)
        for (int i = 0; i < w; i++)
            for (int c = 0; c < 3; c++) {
                const double r = (double)test_next(&seed) / 4294967296.0 - 0.5;
                const double v = 0.5 + 0.3 * sin(0.21 * i + c) * cos(0.13 * j - c) + noise * r;
                p[3 * (j * w + i) + c] = (float)(lo + (hi - lo) * unit(v));
            }
    return p;
}

static fv_status update(int h, int w, const fv_fdu_options *o, const float *c, const float *d,
                        float *out)
{
    fv_fdu *f = NULL;
    fv_status s = fv_fdu_create(ctx, &f, w, h, o);
    if (s == FV_OK) s = fv_fdu_run(f, c, d, out);
    fv_fdu_close(&f);
    return s;
}

static double largest_difference(const float *a, const float *b, int n)
{
    double most = 0;
    for (int i = 0; i < n; i++) most = test_worst(most, (double)a[i] - b[i]);
    return most;
}

/* ---- FFT ------------------------------------------------------------------------------------- */

static void fft_of(int h, int w)
{
    const size_t n = (size_t)(h * w);
    float *x = malloc(sizeof *x * 2 * n), *y = malloc(sizeof *y * 2 * n);
    double complex *z = malloc(sizeof *z * n);
    fvi_fft2 *f = NULL;
    double most = 0, scale = 0, back = 0;
    if (!x || !y || !z) exit(1);
    test_fill(x, 2 * (int64_t)n, (uint64_t)(h * 1000 + w));
    memcpy(y, x, sizeof *x * 2 * n);
    for (size_t i = 0; i < n; i++) z[i] = x[2 * i] + I * x[2 * i + 1];
    slow_fft(z, h, w, -1);
    const fv_status s = fvi_fft2_create(ctx, &f, h, w);
    if (s == FV_OK) {
        fvi_fft2_run(f, y, false);
        for (size_t i = 0; i < n; i++) {
            most = test_worst(most, cabs(z[i] - (y[2 * i] + I * y[2 * i + 1])));
            scale = fmax(scale, cabs(z[i]));
        }
        fvi_fft2_run(f, y, true);
        back = largest_difference(x, y, 2 * (int)n);
    }
    fvi_fft2_free(&f);
    free(x);
    free(y);
    free(z);
    OK(ctx, s);
    CHECK_MSG(most <= 1e-6 * scale, "%d x %d: %g of %g", h, w, most, scale);
    CHECK_MSG(back <= 2e-6, "%d x %d: there and back differs by %g", h, w, back);
}

static void fft_is_the_sum_of_its_definition(void)
{
    static const int sizes[][2] = { { 1, 1 }, { 1, 7 }, { 7, 1 }, { 4, 4 }, { 6, 8 }, { 13, 15 },
                                    { 24, 24 }, { 31, 37 }, { 9, 101 }, { 64, 60 }, { 17, 3 } };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes && !test_bad; i++)
        fft_of(sizes[i][0], sizes[i][1]);
}

static void fft_sizes(void)
{
    CHECK(fvi_fft_size(0) == 0 && fvi_fft_size(1) == 1 && fvi_fft_size(7) == 8);
    CHECK(fvi_fft_size(1312) == 1350 && fvi_fft_size(97) == 100 && fvi_fft_size(-3) == 0);
    fvi_fft2 *f = NULL;
    CHECK(fvi_fft2_create(ctx, &f, 0, 5) == FV_ERR_ARG && !f);
    CHECK(fvi_fft2_create(ctx, &f, 5, (1 << 20) + 1) == FV_ERR_ARG && !f);
}

/* ---- Update ---------------------------------------------------------------------------------- */

static void ref_of(int h, int w, float alpha)
{
    float *c = picture(h, w, 1, 0.1, 0, 1), *d = picture(h, w, 2, 0.5, 0, 1);
    float *out = malloc(sizeof *out * 3 * (size_t)(h * w));
    double *want = malloc(sizeof *want * 3 * (size_t)(h * w)), most = 0;
    fv_fdu_options o = FV_FDU_OPTIONS_INIT;
    o.mode = FV_FDU_REF;
    o.alpha = alpha;
    if (!out || !want) exit(1);
    slow_ref(c, d, h, w, alpha, want);
    const fv_status s = update(h, w, &o, c, d, out);
    for (int i = 0; i < 3 * h * w; i++) most = test_worst(most, out[i] - want[i]);
    free(c);
    free(d);
    free(out);
    free(want);
    OK(ctx, s);
    CHECK_MSG(most <= 4e-5, "%d x %d, alpha %g: differs by %g", w, h, (double)alpha, most);
}

static void ref_is_the_official_definition(void)
{
    static const int sizes[][2] = { { 24, 24 }, { 13, 15 }, { 12, 15 }, { 1, 9 }, { 9, 1 },
                                    { 4, 4 }, { 5, 5 }, { 6, 6 }, { 40, 72 } };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes && !test_bad; i++) {
        ref_of(sizes[i][0], sizes[i][1], 0.6f);
        if (!test_bad) ref_of(sizes[i][0], sizes[i][1], 1.0f);
    }
}

static void modes_of(int h, int w, fv_fdu_mode mode)
{
    const int H = fvi_fft_size(h + 32), W = fvi_fft_size(w + 32);
    float *c = picture(h, w, 3, 0.1, 0, 1), *d = picture(h, w, 4, 0.5, 0, 1);
    float *out = malloc(sizeof *out * 3 * (size_t)(h * w));
    double *delta = malloc(sizeof *delta * (size_t)(H * W)), most = 0;
    fv_fdu_options o = FV_FDU_OPTIONS_INIT;
    o.mode = mode;
    o.alpha = 0.8f;
    if (!out || !delta) exit(1);
    slow_delta(c, d, h, w, H, W, mode, o.alpha, delta);
    const fv_status s = update(h, w, &o, c, d, out);
    for (int i = 0; i < 3 * h * w; i++) {
        const int y = i / 3 / w + 16, x = i / 3 % w + 16;
        most = test_worst(most, out[i] - unit(c[i] + delta[y * W + x]));
    }
    free(c);
    free(d);
    free(out);
    free(delta);
    OK(ctx, s);
    CHECK_MSG(most <= 1e-5, "%d x %d, mode %d: differs by %g", w, h, (int)mode, most);
}

static void lerp_lock_and_gain_are_as_defined(void)
{
    static const int sizes[][2] = { { 24, 24 }, { 1, 1 }, { 3, 17 }, { 2, 2 }, { 33, 49 } };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes && !test_bad; i++) {
        modes_of(sizes[i][0], sizes[i][1], FV_FDU_LERP);
        if (!test_bad) modes_of(sizes[i][0], sizes[i][1], FV_FDU_LOCK);
        if (!test_bad) modes_of(sizes[i][0], sizes[i][1], FV_FDU_GAIN);
    }
}

enum { SIDE = 48, PIXELS = SIDE * SIDE, FLOATS = 3 * PIXELS };
/* Those that begin with the base, less ref. */
static const fv_fdu_mode additive[] = { FV_FDU_LERP, FV_FDU_LOCK, FV_FDU_GAIN };
enum { ADDITIVE = sizeof additive / sizeof *additive };
static float *base, *draft, out[FLOATS], other[FLOATS];

static void chroma_is_that_of_the_base(void)
{
    for (int mode = FV_FDU_LERP; mode <= FV_FDU_GAIN; mode++) {
        if (mode == FV_FDU_OFF) continue;
        fv_fdu_options o = FV_FDU_OPTIONS_INIT;
        o.mode = (fv_fdu_mode)mode;
        OK(ctx, update(SIDE, SIDE, &o, base, draft, out));
        double most = 0, moved = 0;
        for (int i = 0; i < PIXELS; i++) {
            const float *p = base + 3 * i, *q = out + 3 * i;
            bool is_clamped = false;
            for (int k = 0; k < 3; k++) is_clamped = is_clamped || q[k] <= 0 || q[k] >= 1;
            if (is_clamped) continue;
            for (int k = 1; k < 3; k++)
                most = test_worst(most, ((double)q[k] - q[0]) - ((double)p[k] - p[0]));
            moved = fmax(moved, fabs((double)q[0] - p[0]));
        }
        CHECK_MSG(most <= 1e-6 && moved > 0.01, "mode %d: chroma by %g, luma by %g", mode, most,
                  moved);
    }
}

static void nothing_to_take_changes_nothing(void)
{
    fv_fdu_options o = FV_FDU_OPTIONS_INIT;
    for (int mode = FV_FDU_LERP; mode <= FV_FDU_GAIN; mode++) {
        o.mode = (fv_fdu_mode)mode;
        OK(ctx, update(SIDE, SIDE, &o, base, base, out));
        NEAR(largest_difference(out, base, FLOATS), 0, 1e-6);
    }
    o.alpha = 0;
    for (int k = 0; k < ADDITIVE; k++) {
        o.mode = additive[k];
        OK(ctx, update(SIDE, SIDE, &o, base, draft, out));
        CHECK(memcmp(out, base, sizeof out) == 0);
    }
    o.mode = FV_FDU_OFF;
    OK(ctx, update(SIDE, SIDE, &o, base, draft, out));
    CHECK(memcmp(out, draft, sizeof out) == 0);
}

static void lerp_is_linear_in_alpha(void)
{
    fv_fdu_options o = FV_FDU_OPTIONS_INIT;
    float *c = picture(SIDE, SIDE, 7, 0.1, 0.4, 0.6), *d = picture(SIDE, SIDE, 8, 0.5, 0.4, 0.6);
    double most = 0, moved = 0;
    fv_status s = FV_OK;
    o.alpha = 0.5f;
    s = update(SIDE, SIDE, &o, c, d, out);
    o.alpha = 1.0f;
    if (s == FV_OK) s = update(SIDE, SIDE, &o, c, d, other);
    for (int i = 0; i < FLOATS; i++) {
        most = test_worst(most, ((double)other[i] - c[i]) - 2 * ((double)out[i] - c[i]));
        moved = fmax(moved, fabs((double)out[i] - c[i]));
    }
    free(c);
    free(d);
    OK(ctx, s);
    CHECK_MSG(most <= 1e-6 && moved > 0.01, "%g, while alpha 0.5 moves by %g", most, moved);
}

enum { WIDE = 128, COARSE = 64 };

/* How far luminance moves at most, in means over blocks of COARSE. */
static double coarse_move(const float *a, const float *b)
{
    double most = 0;
    for (int y = 0; y < WIDE; y += COARSE)
        for (int x = 0; x < WIDE; x += COARSE) {
            double sum = 0;
            for (int i = 0; i < COARSE * COARSE; i++) {
                const int at = 3 * ((y + i / COARSE) * WIDE + x + i % COARSE);
                sum += slow_luma(a + at) - slow_luma(b + at);
            }
            most = test_worst(most, sum / (COARSE * COARSE));
        }
    return most;
}

/* A draft with bright specks on one side: their weight is larger than that of the dark around them,
 * so lerp brightens that side; lock does not. */
static void lock_keeps_what_is_coarse(void)
{
    fv_fdu_options o = FV_FDU_OPTIONS_INIT;
    float *c = picture(WIDE, WIDE, 9, 0.3, 0.3, 0.6), *d = picture(WIDE, WIDE, 9, 0.3, 0.3, 0.6);
    float *to = malloc(sizeof *to * 3 * WIDE * WIDE);
    double most[2] = { 0, 0 };
    fv_status s = to ? FV_OK : FV_ERR_OOM;
    for (int i = 0; i < WIDE * WIDE; i += 5)
        if (i % WIDE < WIDE / 2)
            for (int k = 0; k < 3; k++) d[3 * i + k] += 0.3f;
    for (int k = 0; k < 2 && s == FV_OK; k++) {
        o.mode = k ? FV_FDU_LOCK : FV_FDU_LERP;
        s = update(WIDE, WIDE, &o, c, d, to);
        most[k] = coarse_move(to, c);
    }
    free(to);
    free(c);
    free(d);
    OK(ctx, s);
    CHECK_MSG(most[0] > 1.0 / 255 && most[1] < 0.5 / 255, "in 1/255: lerp %g, lock %g",
              most[0] * 255, most[1] * 255);
}

static void constants_stay(void)
{
    float c[FLOATS], d[FLOATS];
    for (int i = 0; i < FLOATS; i++) {
        c[i] = 0.25f + 0.1f * (float)(i % 3);
        d[i] = 0.75f;
    }
    for (int k = 0; k < ADDITIVE; k++) {
        fv_fdu_options o = FV_FDU_OPTIONS_INIT;
        o.mode = additive[k];
        OK(ctx, update(SIDE, SIDE, &o, c, d, out));
        NEAR(largest_difference(out, c, FLOATS), 0, 1e-6);
    }
}

static void threads_and_places_with(fv_fdu_mode mode)
{
    fv_ctx *one = NULL;
    fv_ctx_options co = FV_CTX_OPTIONS_INIT;
    fv_fdu *f = NULL;
    fv_fdu_options o = FV_FDU_OPTIONS_INIT;
    o.mode = mode;
    OK(ctx, update(SIDE, SIDE, &o, base, draft, out));
    co.threads = 3;
    CHECK(fv_ctx_create(&one, &co) == FV_OK);
    memcpy(other, base, sizeof other);
    fv_status s = fv_fdu_create(one, &f, SIDE, SIDE, &o);
    if (s == FV_OK) s = fv_fdu_run(f, other, draft, other); /* in place */
    fv_fdu_close(&f);
    fv_ctx_destroy(&one);
    CHECK(s == FV_OK && memcmp(out, other, sizeof out) == 0);
}

static void threads_and_places_do_not_matter(void)
{
    threads_and_places_with(FV_FDU_LOCK);
    if (!test_bad) threads_and_places_with(FV_FDU_GAIN);
}

/* What the draft shows does not reach the picture, how much of it does: a draft with twice the base's
 * detail doubles it in place, shifted by some pixels as well; none at all takes it away. */
static void gain_takes_amounts_alone(void)
{
    fv_fdu_options o = FV_FDU_OPTIONS_INIT;
    static float c[FLOATS], d[FLOATS];
    double most[3] = { 0 }, size = 0;
    o.mode = FV_FDU_GAIN;
    for (int i = 0; i < PIXELS; i++)
        for (int k = 0; k < 3; k++)
            c[3 * i + k] = 0.5f + 0.05f * (float)(cos(2.2 * (i % SIDE)) * cos(2.2 * (int)(i / SIDE)));
    for (int way = 0; way < 3; way++) {
        for (int i = 0; i < PIXELS; i++) {
            const float v = c[3 * ((i + 3 * (way == 1)) % PIXELS)];
            for (int k = 0; k < 3; k++)
                d[3 * i + k] = 0.5f + (way == 2 ? 0 : 2 * (v - 0.5f));
        }
        OK(ctx, update(SIDE, SIDE, &o, c, d, out));
        for (int y = 8; y < SIDE - 8; y++)
            for (int x = 8; x < SIDE - 8; x++) {
                const int i = 3 * (y * SIDE + x);
                const double wanted = way == 2 ? 0 : 2 * ((double)c[i] - 0.5);
                most[way] = test_worst(most[way], out[i] - 0.5 - wanted);
                size = fmax(size, fabs((double)c[i] - 0.5));
            }
    }
    CHECK_MSG(most[0] < 0.2 * size && most[1] < 0.2 * size && most[2] < 0.2 * size,
              "of %g: %g, shifted %g, without %g", size, most[0], most[1], most[2]);
}

static void bad_input_is_refused(void)
{
    fv_fdu_options o = FV_FDU_OPTIONS_INIT, bad;
    fv_fdu *f = NULL;
    CHECK(fv_fdu_create(ctx, &f, 0, 4, &o) == FV_ERR_ARG && !f);
    CHECK(fv_fdu_create(ctx, &f, 4, 65537, &o) == FV_ERR_ARG && !f);
    const float wrong[] = { -0.1f, 2.1f, NAN };
    for (int k = 0; k < 3; k++) {
        bad = o;
        bad.alpha = wrong[k];
        CHECK(fv_fdu_create(ctx, &f, 4, 4, &bad) == FV_ERR_ARG);
        CHECK(strstr(fv_ctx_error(ctx), "alpha"));
    }
    bad = o;
    bad.mode = (fv_fdu_mode)(FV_FDU_GAIN + 1);
    CHECK(fv_fdu_create(ctx, &f, 4, 4, &bad) == FV_ERR_ARG);
    bad = o;
    bad.cutoff = 0;
    CHECK(fv_fdu_create(ctx, &f, 4, 4, &bad) == FV_ERR_ARG);
    bad = o;
    bad.lock_high = bad.lock_low;
    CHECK(fv_fdu_create(ctx, &f, 4, 4, &bad) == FV_ERR_ARG);
    memcpy(other, draft, sizeof other);
    other[777] = NAN;
    for (int mode = FV_FDU_LERP; mode <= FV_FDU_GAIN; mode++) {
        o.mode = (fv_fdu_mode)mode;
        CHECK(update(SIDE, SIDE, &o, base, other, out) == FV_ERR_NUMERIC);
    }
}

static void no_memory_is_reported_and_nothing_leaks(void)
{
    fv_status s = FV_ERR_OOM;
    int n = 0;
    fv_fdu_options o = FV_FDU_OPTIONS_INIT;
    o.mode = FV_FDU_GAIN; /* the one that holds most */
    for (; n < 100 && s != FV_OK; n++) {
        alloc_fail heap = { .left = ALLOC_ALL };
        const fv_allocator al = alloc_fail_allocator(&heap);
        fv_ctx_options co = FV_CTX_OPTIONS_INIT;
        fv_ctx *small = NULL;
        fv_fdu *f = NULL;
        co.alloc = &al;
        CHECK(fv_ctx_create(&small, &co) == FV_OK);
        const int64_t before = heap.live;
        heap.left = n;
        s = fv_fdu_create(small, &f, 20, 30, &o);
        CHECK((s == FV_OK) == (f != NULL) && (s == FV_OK || s == FV_ERR_OOM));
        fv_fdu_close(&f);
        CHECK(heap.live == before);
        heap.left = ALLOC_ALL;
        fv_ctx_destroy(&small);
    }
    CHECK(s == FV_OK && n > 5);
}

int main(void)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    base = picture(SIDE, SIDE, 5, 0.1, 0, 1);
    draft = picture(SIDE, SIDE, 6, 0.6, 0, 1);
    RUN(fft_is_the_sum_of_its_definition);
    RUN(fft_sizes);
    RUN(ref_is_the_official_definition);
    RUN(lerp_lock_and_gain_are_as_defined);
    RUN(chroma_is_that_of_the_base);
    RUN(nothing_to_take_changes_nothing);
    RUN(lerp_is_linear_in_alpha);
    RUN(lock_keeps_what_is_coarse);
    RUN(constants_stay);
    RUN(threads_and_places_do_not_matter);
    RUN(gain_takes_amounts_alone);
    RUN(bad_input_is_refused);
    RUN(no_memory_is_reported_and_nothing_leaks);
    free(base);
    free(draft);
    fv_ctx_destroy(&ctx);
    return test_end();
}
