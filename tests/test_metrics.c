/* test_metrics.c - against slow versions written from the definitions, one window or pixel at a
 * time, and against cases with a known value.
 *
 * Tolerance 1e-9: both sides are double; variances cancel at 255^2 * 1e-16 * (a few operations)
 * ~ 1e-10 relative to C2 = 58.5. */
#include "engine.h"
#include "test.h"

static fv_ctx *ctx;

/* ---- Pictures -------------------------------------------------------------------------------- */

/* A gradient with noise, blurred or not: realistic enough to exercise all terms. */
static fv_status make(fv_image *img, int w, int h, int channels, int depth, uint64_t seed,
                      double noise)
{
    FV_TRY(fv_image_create(ctx, img, w, h, channels, depth));
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int c = 0; c < channels; c++) {
                const double r = (double)test_next(&seed) / 4294967296.0 - 0.5;
                double v = 128 + 90 * sin(x * 0.11 + c) * cos(y * 0.07 - c) + noise * r;
                v = v < 0 ? 0 : v > 255 ? 255 : v;
                uint8_t *row = (uint8_t *)img->pixels + (size_t)y * img->stride_bytes;
                if (depth == 8)
                    row[x * channels + c] = (uint8_t)v;
                else
                    ((uint16_t *)(void *)row)[x * channels + c] = (uint16_t)(v * 257);
            }
    return FV_OK;
}

static double value(const fv_image *m, int x, int y, int c)
{
    const uint8_t *row = (const uint8_t *)m->pixels + (size_t)y * m->stride_bytes;
    if (m->depth == 8) return row[x * m->channels + c];
    return ((const uint16_t *)(const void *)row)[x * m->channels + c] / 257.0;
}

/* Luma as a plain array. */
static double *slow_luma(const fv_image *m)
{
    double *y = malloc(sizeof *y * (size_t)m->width * (size_t)m->height);
    if (!y) exit(1);
    for (int j = 0; j < m->height; j++)
        for (int i = 0; i < m->width; i++)
            y[j * m->width + i] = m->channels < 3
                                      ? value(m, i, j, 0)
                                      : 0.299 * value(m, i, j, 0) + 0.587 * value(m, i, j, 1) +
                                            0.114 * value(m, i, j, 2);
    return y;
}

/* ---- Slow versions --------------------------------------------------------------------------- */

static double slow_psnr(const fv_image *a, const fv_image *b)
{
    double sum = 0;
    const int colours = a->channels < 3 ? 1 : 3;
    for (int y = 0; y < a->height; y++)
        for (int x = 0; x < a->width; x++)
            for (int c = 0; c < colours; c++) {
                const double d = value(a, x, y, c) - value(b, x, y, c);
                sum += d * d;
            }
    return 20 * log10(255 / sqrt(sum / (a->width * (double)a->height * colours)));
}

static void slow_ssim(const double *a, const double *b, int w, int h, double *ssim, double *cs)
{
    double g[11][11], total = 0;
    for (int j = 0; j < 11; j++)
        for (int i = 0; i < 11; i++)
            total += g[j][i] = exp(-((i - 5) * (i - 5) + (j - 5) * (j - 5)) / 4.5);
    *ssim = *cs = 0;
    for (int y = 0; y <= h - 11; y++)
        for (int x = 0; x <= w - 11; x++) {
            double ma = 0, mb = 0, va = 0, vb = 0, cov = 0;
            for (int j = 0; j < 11; j++)
                for (int i = 0; i < 11; i++) {
                    ma += g[j][i] / total * a[(y + j) * w + x + i];
                    mb += g[j][i] / total * b[(y + j) * w + x + i];
                }
            for (int j = 0; j < 11; j++)
                for (int i = 0; i < 11; i++) {
                    const double p = a[(y + j) * w + x + i] - ma, q = b[(y + j) * w + x + i] - mb;
                    va += g[j][i] / total * p * p;
                    vb += g[j][i] / total * q * q;
                    cov += g[j][i] / total * p * q;
                }
            const double c1 = 6.5025, c2 = 58.5225, contrast = (2 * cov + c2) / (va + vb + c2);
            *cs += contrast;
            *ssim += contrast * (2 * ma * mb + c1) / (ma * ma + mb * mb + c1);
        }
    *ssim /= (w - 10.0) * (h - 10.0);
    *cs /= (w - 10.0) * (h - 10.0);
}

/* Border: repeated (edge 1) or zero (edge 0). */
static double at(const double *v, int w, int h, int x, int y, int edge)
{
    if (edge) {
        x = x < 0 ? 0 : x >= w ? w - 1 : x;
        y = y < 0 ? 0 : y >= h ? h - 1 : y;
    }
    return x < 0 || y < 0 || x >= w || y >= h ? 0 : v[y * w + x];
}

static double *slow_halve(const double *v, int w, int h, int edge)
{
    const int nw = (w + 1) / 2, nh = (h + 1) / 2;
    double *o = malloc(sizeof *o * (size_t)nw * (size_t)nh);
    if (!o) exit(1);
    for (int y = 0; y < nh; y++)
        for (int x = 0; x < nw; x++)
            o[y * nw + x] =
                (at(v, w, h, 2 * x, 2 * y, edge) + at(v, w, h, 2 * x + 1, 2 * y, edge) +
                 at(v, w, h, 2 * x, 2 * y + 1, edge) + at(v, w, h, 2 * x + 1, 2 * y + 1, edge)) /
                4;
    return o;
}

static double slow_ms_ssim(const fv_image *p, const fv_image *q)
{
    static const double weights[5] = { 0.0448, 0.2856, 0.3001, 0.2363, 0.1333 };
    double *a = slow_luma(p), *b = slow_luma(q), result = 1;
    int w = p->width, h = p->height;
    for (int j = 0; j < 5; j++) {
        double ssim, cs;
        slow_ssim(a, b, w, h, &ssim, &cs);
        result *= pow(j < 4 ? cs : ssim, weights[j]);
        double *na = slow_halve(a, w, h, 1), *nb = slow_halve(b, w, h, 1);
        free(a);
        free(b);
        a = na;
        b = nb;
        w = (w + 1) / 2;
        h = (h + 1) / 2;
    }
    free(a);
    free(b);
    return result;
}

static double slow_magnitude(const double *v, int w, int h, int x, int y)
{
    double dx = 0, dy = 0;
    for (int k = -1; k <= 1; k++) {
        dx += (at(v, w, h, x + 1, y + k, 0) - at(v, w, h, x - 1, y + k, 0)) / 3;
        dy += (at(v, w, h, x + k, y + 1, 0) - at(v, w, h, x + k, y - 1, 0)) / 3;
    }
    return hypot(dx, dy);
}

static double slow_gmsd(const fv_image *p, const fv_image *q)
{
    double *la = slow_luma(p), *lb = slow_luma(q);
    double *a = slow_halve(la, p->width, p->height, 0), *b = slow_halve(lb, p->width, p->height, 0);
    const int w = (p->width + 1) / 2, h = (p->height + 1) / 2;
    double *s = malloc(sizeof *s * (size_t)w * (size_t)h), mean = 0, var = 0;
    if (!s) exit(1);
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            const double g = slow_magnitude(a, w, h, x, y), k = slow_magnitude(b, w, h, x, y);
            mean += s[y * w + x] = (2 * g * k + 170) / (g * g + k * k + 170);
        }
    mean /= (double)w * h;
    for (int i = 0; i < w * h; i++) var += (s[i] - mean) * (s[i] - mean);
    free(la);
    free(lb);
    free(a);
    free(b);
    free(s);
    return sqrt(var / (w * h - 1.0));
}

/* ---- Comparisons ----------------------------------------------------------------------------- */

static void fast_and_slow_agree(void)
{
    static const struct {
        int w, h, channels, depth;
    } cases[] = { { 11, 11, 1, 8 },  { 12, 37, 3, 8 },   { 41, 23, 4, 16 },
                  { 19, 18, 2, 16 }, { 176, 177, 3, 8 }, { 191, 179, 1, 8 } };
    for (size_t k = 0; k < FV_ARRAY_LEN(cases); k++)
        for (int pair = 0; pair < 2; pair++) {
            fv_image a, b;
            double fast, slow, cs;
            OK(ctx, make(&a, cases[k].w, cases[k].h, cases[k].channels, cases[k].depth, 1, 20));
            OK(ctx, make(&b, cases[k].w, cases[k].h, cases[k].channels, cases[k].depth, 2,
                         pair ? 150 : 25));
            OK(ctx, fv_psnr(ctx, &a, &b, &fast));
            NEAR(fast, slow_psnr(&a, &b), 1e-9);
            double *la = slow_luma(&a), *lb = slow_luma(&b);
            slow_ssim(la, lb, a.width, a.height, &slow, &cs);
            free(la);
            free(lb);
            OK(ctx, fv_ssim(ctx, &a, &b, &fast));
            NEAR(fast, slow, 1e-9);
            OK(ctx, fv_gmsd(ctx, &a, &b, &fast));
            NEAR(fast, slow_gmsd(&a, &b), 1e-9);
            if (a.width >= 176) {
                OK(ctx, fv_ms_ssim(ctx, &a, &b, &fast));
                NEAR(fast, slow_ms_ssim(&a, &b), 1e-9);
            }
            fv_image_free(ctx, &a);
            fv_image_free(ctx, &b);
        }
}

typedef fv_status (*metric)(fv_ctx *, const fv_image *, const fv_image *, double *);
static const metric metrics[] = { fv_psnr, fv_ssim, fv_ms_ssim, fv_gmsd };

static void equal_pictures_are_perfect_and_order_does_not_matter(void)
{
    fv_image a, b;
    OK(ctx, make(&a, 180, 190, 3, 8, 5, 30));
    OK(ctx, make(&b, 180, 190, 3, 8, 6, 60));
    const double perfect[] = { INFINITY, 1, 1, 0 };
    for (int k = 0; k < 4; k++) {
        double self, ab, ba;
        OK(ctx, metrics[k](ctx, &a, &a, &self));
        OK(ctx, metrics[k](ctx, &a, &b, &ab));
        OK(ctx, metrics[k](ctx, &b, &a, &ba));
        CHECK_MSG(self == perfect[k], "metric %d: %.17g", k, self);
        CHECK_MSG(fabs(ab - ba) < 1e-12 && ab != self, "metric %d: %.17g, %.17g", k, ab, ba);
    }
    fv_image_free(ctx, &a);
    fv_image_free(ctx, &b);
}

static void same_value_for_1_and_3_threads(void)
{
    fv_ctx *one, *three;
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.threads = 1;
    OK(ctx, fv_ctx_create(&one, &o));
    o.threads = 3;
    OK(ctx, fv_ctx_create(&three, &o));
    fv_image a, b;
    OK(ctx, make(&a, 200, 181, 3, 8, 5, 30));
    OK(ctx, make(&b, 200, 181, 3, 8, 6, 60));
    for (int k = 0; k < 4; k++) {
        double x, y;
        OK(one, metrics[k](one, &a, &b, &x));
        OK(three, metrics[k](three, &a, &b, &y));
        CHECK(x == y);
    }
    fv_image_free(ctx, &a);
    fv_image_free(ctx, &b);
    static float f[40 * 150], g[50 * 150];
    test_fill(f, 40 * 150, 1);
    test_fill(g, 50 * 150, 2);
    double x, y;
    OK(one, fv_frechet(one, f, 40, g, 50, 150, &x));
    OK(three, fv_frechet(three, f, 40, g, 50, 150, &y));
    CHECK(x == y && x > 0);
    fv_ctx_destroy(&one);
    fv_ctx_destroy(&three);
}

static void psnr_of_a_known_error(void)
{
    fv_image a, b;
    double db;
    OK(ctx, fv_image_create(ctx, &a, 10, 10, 4, 8));
    OK(ctx, fv_image_create(ctx, &b, 10, 10, 4, 8));
    for (int i = 0; i < 100; i++) {
        ((uint8_t *)b.pixels)[4 * i + 1] = 10; /* a third of the samples is off by 10 */
        ((uint8_t *)b.pixels)[4 * i + 3] = 77; /* alpha does not count */
    }
    OK(ctx, fv_psnr(ctx, &a, &b, &db));
    NEAR(db, 10 * log10(255.0 * 255.0 * 3 / 100), 1e-12);
    fv_image_free(ctx, &a);
    fv_image_free(ctx, &b);
}

static void opposite_pictures_give_zero_not_nan(void)
{
    fv_image a, b;
    double v;
    OK(ctx, make(&a, 176, 176, 1, 8, 3, 200));
    OK(ctx, fv_image_create(ctx, &b, 176, 176, 1, 8));
    for (int y = 0; y < 176; y++)
        for (int x = 0; x < 176; x++)
            ((uint8_t *)b.pixels)[y * 176 + x] =
                (uint8_t)(255 - ((uint8_t *)a.pixels)[y * 176 + x]);
    OK(ctx, fv_ms_ssim(ctx, &a, &b, &v));
    CHECK(v == 0);
    OK(ctx, fv_ssim(ctx, &a, &b, &v));
    CHECK(v < 0 && v > -1);
    fv_image_free(ctx, &a);
    fv_image_free(ctx, &b);
}

static void unequal_or_small_pictures_are_refused(void)
{
    fv_image a, b, c, d;
    double v;
    OK(ctx, make(&a, 20, 20, 3, 8, 1, 1));
    OK(ctx, make(&b, 20, 21, 3, 8, 1, 1));
    OK(ctx, make(&c, 20, 20, 3, 16, 1, 1));
    OK(ctx, make(&d, 10, 20, 3, 8, 1, 1));
    for (int k = 0; k < 4; k++) {
        CHECK(metrics[k](ctx, &a, &b, &v) == FV_ERR_SHAPE);
        CHECK(metrics[k](ctx, &a, &c, &v) == FV_ERR_SHAPE);
        CHECK(metrics[k](ctx, &a, NULL, &v) == FV_ERR_ARG);
    }
    CHECK(fv_ssim(ctx, &d, &d, &v) == FV_ERR_ARG);
    CHECK(fv_ms_ssim(ctx, &a, &a, &v) == FV_ERR_ARG);
    fv_image_free(ctx, &a);
    fv_image_free(ctx, &b);
    fv_image_free(ctx, &c);
    fv_image_free(ctx, &d);
}

/* ---- Frechet --------------------------------------------------------------------------------- */

/* 2 * dim vectors mean +- r_i e_i: covariance is exactly diag(2 r_i^2 / (2 dim - 1)). */
static void diagonal_set(float *x, int dim, const double *r, const double *mean)
{
    for (int i = 0; i < 2 * dim; i++)
        for (int k = 0; k < dim; k++)
            x[i * dim + k] = (float)(mean[k] + (k == i / 2 ? (i % 2 ? r[k] : -r[k]) : 0));
}

static void frechet_of_diagonal_covariances(void)
{
    enum { DIM = 7 };
    /* powers of two and zeros: exact in float */
    const double ra[DIM] = { 1, 2, 0.5, 4, 0, 1, 0 }, rb[DIM] = { 1, 1, 4, 0.25, 2, 0, 0 };
    const double ma[DIM] = { 0 }, mb[DIM] = { 1, 0, -2, 0, 0.5, 0, 0 };
    float a[2 * DIM * DIM], b[2 * DIM * DIM];
    double want = 1 + 4 + 0.25, got;
    diagonal_set(a, DIM, ra, ma);
    diagonal_set(b, DIM, rb, mb);
    for (int i = 0; i < DIM; i++) want += (ra[i] - rb[i]) * (ra[i] - rb[i]) * 2 / (2 * DIM - 1);
    OK(ctx, fv_frechet(ctx, a, 2 * DIM, b, 2 * DIM, DIM, &got));
    NEAR(got, want, 1e-6);
    OK(ctx, fv_frechet(ctx, b, 2 * DIM, a, 2 * DIM, DIM, &got));
    NEAR(got, want, 1e-6);
}

/* For 2x2: tr (S1 S2)^1/2 = sqrt(tr(S1 S2) + 2 sqrt(det S1 det S2)). */
static void frechet_of_two_features(void)
{
    static float a[200], b[240];
    test_fill(a, 200, 11);
    test_fill(b, 240, 12);
    for (int i = 0; i < 100; i++) a[2 * i + 1] += 0.8f * a[2 * i];
    for (int i = 0; i < 120; i++) b[2 * i + 1] = 0.3f * b[2 * i + 1] - 2 * b[2 * i] + 1;
    double m[2][2] = { { 0 } }, s[2][3] = { { 0 } };
    for (int k = 0; k < 2; k++) {
        const float *x = k ? b : a;
        const int n = k ? 120 : 100;
        for (int i = 0; i < 2 * n; i++) m[k][i % 2] += x[i] / (double)n;
        for (int i = 0; i < n; i++) {
            const double p = x[2 * i] - m[k][0], q = x[2 * i + 1] - m[k][1];
            s[k][0] += p * p / (n - 1);
            s[k][1] += p * q / (n - 1);
            s[k][2] += q * q / (n - 1);
        }
    }
    const double trace = s[0][0] * s[1][0] + 2 * s[0][1] * s[1][1] + s[0][2] * s[1][2];
    const double det =
        (s[0][0] * s[0][2] - s[0][1] * s[0][1]) * (s[1][0] * s[1][2] - s[1][1] * s[1][1]);
    const double want = pow(m[0][0] - m[1][0], 2) + pow(m[0][1] - m[1][1], 2) + s[0][0] + s[0][2] +
                        s[1][0] + s[1][2] - 2 * sqrt(trace + 2 * sqrt(det));
    double got;
    OK(ctx, fv_frechet(ctx, a, 100, b, 120, 2, &got));
    NEAR(got, want, 1e-10);
}

static void frechet_of_equal_and_shifted_sets(void)
{
    enum { N = 60, DIM = 130 }; /* fewer vectors than features: rank 59 */
    static float a[N * DIM], b[N * DIM];
    double same, shifted;
    test_fill(a, N * DIM, 3);
    for (int i = 0; i < N * DIM; i++) {
        a[i] = rintf(a[i] * 1024) / 1024; /* so that + 1 is exact */
        b[i] = a[i] + (i % DIM < 9 ? 1.0f : 0.0f);
    }
    OK(ctx, fv_frechet(ctx, a, N, a, N, DIM, &same));
    OK(ctx, fv_frechet(ctx, a, N, b, N, DIM, &shifted));
    NEAR(same, 0, 1e-6);
    NEAR(shifted, 9, 1e-6);
}

/* Rotating both sets leaves the distance; the diagonal case becomes a full one. */
static void frechet_is_invariant_under_rotation(void)
{
    enum { N = 300, DIM = 40 };
    static float a[N * DIM], b[N * DIM], ra[N * DIM], rb[N * DIM];
    double v[DIM], norm = 0, plain, rotated;
    uint64_t seed = 9;
    test_fill(a, N * DIM, 5);
    test_fill(b, N * DIM, 6);
    for (int i = 0; i < N * DIM; i++) {
        a[i] *= (float)(1 + i % DIM);
        b[i] *= (float)(DIM - i % DIM);
    }
    for (int k = 0; k < DIM; k++) {
        v[k] = (double)test_next(&seed) / 4294967296.0 - 0.4;
        norm += v[k] * v[k];
    }
    for (int i = 0; i < N; i++) { /* Householder reflection */
        double pa = 0, pb = 0;
        for (int k = 0; k < DIM; k++) {
            pa += a[i * DIM + k] * v[k];
            pb += b[i * DIM + k] * v[k];
        }
        for (int k = 0; k < DIM; k++) {
            ra[i * DIM + k] = (float)(a[i * DIM + k] - 2 * pa / norm * v[k]);
            rb[i * DIM + k] = (float)(b[i * DIM + k] - 2 * pb / norm * v[k]);
        }
    }
    OK(ctx, fv_frechet(ctx, a, N, b, N, DIM, &plain));
    OK(ctx, fv_frechet(ctx, ra, N, rb, N, DIM, &rotated));
    CHECK(plain > 100);
    NEAR(rotated / plain, 1, 1e-6); /* float rounding of the rotated features: 6e-8 each */
}

static void frechet_refuses_bad_input(void)
{
    float x[4] = { 1, 2, 3, 4 }, bad[4] = { 1, INFINITY, 0, 0 },
          huge[4] = { 3e38f, -3e38f, -3e38f, 3e38f };
    double d;
    CHECK(fv_frechet(ctx, x, 1, x, 2, 2, &d) == FV_ERR_ARG);
    CHECK(fv_frechet(ctx, x, 2, x, 2, 0, &d) == FV_ERR_ARG);
    CHECK(fv_frechet(ctx, x, 2, NULL, 2, 2, &d) == FV_ERR_ARG);
    CHECK(fv_frechet(ctx, x, 2, bad, 2, 2, &d) == FV_ERR_NUMERIC);
    CHECK(fv_frechet(ctx, bad, 2, x, 2, 2, &d) == FV_ERR_NUMERIC);
    CHECK(fv_frechet(ctx, x, 2, x, 2, 40000, &d) == FV_ERR_LIMIT);
    OK(ctx, fv_frechet(ctx, huge, 2, x, 2, 2, &d));
    CHECK(isfinite(d));
}

int main(void)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(fast_and_slow_agree);
    RUN(equal_pictures_are_perfect_and_order_does_not_matter);
    RUN(same_value_for_1_and_3_threads);
    RUN(psnr_of_a_known_error);
    RUN(opposite_pictures_give_zero_not_nan);
    RUN(unequal_or_small_pictures_are_refused);
    RUN(frechet_of_diagonal_covariances);
    RUN(frechet_of_two_features);
    RUN(frechet_of_equal_and_shifted_sets);
    RUN(frechet_is_invariant_under_rotation);
    RUN(frechet_refuses_bad_input);
    fv_ctx_destroy(&ctx);
    return test_end();
}
