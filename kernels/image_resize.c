/* image_resize.c - antialiased separable resize with PIL's windows and weights.
 *
 * Weights are those of resize_windows.c, with antialiasing and cut at the border.
 *
 * 8 bits without alpha: PIL's arithmetic (weights rounded to 22 bits, 8 bits between the passes,
 * rows first), so results equal Pillow 10's to the bit; Pillow 13 starts with the columns for some
 * shapes. With alpha or 16 bits: double sums, float between the passes; colour is weighted with
 * alpha, else the invisible colour of transparent pixels would bleed. PIL rounds the product to 8
 * bits first, which costs much of the colour at low alpha: not copied.
 *
 * Each output row is computed by one thread in a fixed order: the result does not depend on the
 * number of threads. */
#include "image_codec.h"
#include "resize_windows.h"

#include <limits.h>
#include <string.h>

#define WEIGHT_BITS 22
/* Below this many multiply-adds threads cost more than they bring. */
#define PARALLEL_MIN 200000
/* Columns summed together in the vertical pass: a tile of sums that stays in registers and L1. */
#define TILE 256

/* ---- Windows --------------------------------------------------------------------------------- */

typedef struct windows {
    fvi_windows t;
    int32_t *q; /* weights in 2^-22 */
} windows;

static void windows_free(fv_ctx *ctx, windows *t)
{
    fvi_windows_free(ctx, &t->t);
    fv_free(ctx, t->q);
}

static fv_status windows_init(fv_ctx *ctx, windows *t, int in, int out, fvi_resize_filter filter)
{
    const fvi_resampling how = {filter, true, false};
    size_t n;
    if (!fvi_windows_room(in, out, fvi_kernels[filter].radius, &n))
        return fv_fail(ctx, FV_ERR_OOM, "resize: %d to %d pixels is too much", in, out);
    FV_TRY(fvi_windows_alloc(ctx, &t->t, (size_t)out, n));
    FV_TRY(fvi_windows_fill(&t->t, in, out, how));
    t->q = fv_calloc(ctx, n, sizeof *t->q);
    if (!t->q) return FV_ERR_OOM;
    for (size_t i = 0; i < n; i++) {
        const double q = t->t.w[i] * (1 << WEIGHT_BITS);
        t->q[i] = (int32_t)(q < 0 ? q - 0.5 : q + 0.5);
    }
    return FV_OK;
}

/* ---- 8 bits without alpha -------------------------------------------------------------------- */

FV_INLINE uint8_t clip8(int32_t sum)
{
    const int32_t v =
        sum >> WEIGHT_BITS; /* arithmetic shift, as every compiler we build with does */
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

FV_INLINE void row_u8_of(uint8_t *dst, const uint8_t *src, int width, int channels,
                         const windows *t)
{
    for (int x = 0; x < width; x++) {
        const int32_t *q = t->q + (size_t)x * t->t.width;
        const uint8_t *s = src + (size_t)t->t.first[x] * (size_t)channels;
        for (int c = 0; c < channels; c++) {
            int32_t sum = 1 << (WEIGHT_BITS - 1);
            for (int k = 0; k < t->t.count[x]; k++)
                sum += s[(size_t)k * (size_t)channels + (size_t)c] * q[k];
            *dst++ = clip8(sum);
        }
    }
}

static void row_u8(uint8_t *dst, const uint8_t *src, int width, int channels, const windows *t)
{
    if (channels == 1)
        row_u8_of(dst, src, width, 1, t);
    else
        row_u8_of(dst, src, width, 3, t);
}

/* rows: first row of the window. n samples a row. */
static void column_u8(uint8_t *dst, const uint8_t *rows, size_t n, const int32_t *q, int count)
{
    for (size_t at = 0; at < n; at += TILE) {
        const size_t m = n - at < TILE ? n - at : TILE;
        int32_t sum[TILE];
        for (size_t i = 0; i < m; i++) sum[i] = 1 << (WEIGHT_BITS - 1);
        for (int k = 0; k < count; k++) {
            const uint8_t *s = rows + (size_t)k * n + at;
            for (size_t i = 0; i < m; i++) sum[i] += s[i] * q[k];
        }
        for (size_t i = 0; i < m; i++) dst[at + i] = clip8(sum[i]);
    }
}

/* ---- 16 bits or alpha ------------------------------------------------------------------------ */

FV_INLINE double sample(const void *row, int depth, size_t i)
{
    return depth == 8 ? ((const uint8_t *)row)[i] : ((const uint16_t *)row)[i];
}

/* Colours come out multiplied with alpha. */
static void row_float(float *dst, const void *src, const fv_image *type, int width,
                      const fvi_windows *t)
{
    const size_t ch = (size_t)type->channels, colours = fvi_has_alpha(type->channels) ? ch - 1 : ch;
    for (int x = 0; x < width; x++, dst += ch) {
        double sum[4] = {0, 0, 0, 0};
        const double *w = t->w + (size_t)x * t->width;
        for (int k = 0; k < t->count[x]; k++) {
            const size_t at = (size_t)(t->first[x] + k) * ch;
            double a = w[k];
            if (colours < ch) sum[colours] += a *= sample(src, type->depth, at + colours);
            for (size_t c = 0; c < colours; c++) sum[c] += a * sample(src, type->depth, at + c);
        }
        for (size_t c = 0; c < ch; c++) dst[c] = (float)sum[c];
    }
}

static uint32_t round_clip(double v, double max)
{
    return v > 0 ? (uint32_t)((v < max ? v : max) + 0.5) : 0;
}

static void column_float(void *dst, const fv_image *type, const float *rows, size_t n,
                         const double *w, int count)
{
    const size_t ch = (size_t)type->channels, colours = fvi_has_alpha(type->channels) ? ch - 1 : ch;
    const double max = type->depth == 8 ? 255 : 65535;
    const size_t tile = TILE / ch * ch;
    for (size_t at = 0; at < n; at += tile) {
        const size_t m = n - at < tile ? n - at : tile;
        double sum[TILE] = {0};
        for (int k = 0; k < count; k++) {
            const float *s = rows + (size_t)k * n + at;
            for (size_t i = 0; i < m; i++) sum[i] += w[k] * (double)s[i];
        }
        for (size_t p = 0; colours < ch && p < m;
             p += ch) { /* divide by alpha; invisible becomes black */
            const double a = sum[p + colours];
            for (size_t c = 0; c < colours; c++)
                sum[p + c] = round_clip(a, max) ? sum[p + c] / a : 0;
        }
        for (size_t i = 0; i < m; i++) {
            const uint32_t r = round_clip(sum[i], max);
            if (type->depth == 8)
                ((uint8_t *)dst)[at + i] = (uint8_t)r;
            else
                ((uint16_t *)dst)[at + i] = (uint16_t)r;
        }
    }
}

/* ---- Both passes ----------------------------------------------------------------------------- */

/* Rows before the first and after the last that the vertical windows touch are not computed. */
static fv_status two_passes(fv_ctx *ctx, fv_image *out, const fv_image *in, const windows *h,
                            const windows *v)
{
    const bool exact = in->depth == 8 && !fvi_has_alpha(in->channels);
    const size_t n = (size_t)out->width * (size_t)out->channels;
    const int y0 = v->t.first[0];
    const int y1 = v->t.first[out->height - 1] + v->t.count[out->height - 1];
    size_t row_bytes;
    if (!fv_mul_size(n, exact ? 1 : sizeof(float), &row_bytes))
        return fv_fail(ctx, FV_ERR_OOM, "resize: rows of %zu samples exceed the address space", n);
    uint8_t *mid = fv_calloc(ctx, (size_t)(y1 - y0), row_bytes);
    if (!mid) return FV_ERR_OOM;
    const double work =
        (double)n * ((double)(y1 - y0) * (double)h->t.width + (double)out->height * (double)v->t.width);
    const int threads = work < PARALLEL_MIN ? 1 : fv_ctx_threads(ctx);
    (void)threads; /* not used where OpenMP is off */
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (int y = y0; y < y1; y++) {
            uint8_t *d = mid + (size_t)(y - y0) * row_bytes;
            if (exact)
                row_u8(d, fvi_image_row(in, y), out->width, in->channels, h);
            else
                row_float((float *)(void *)d, fvi_image_row(in, y), in, out->width, &h->t);
        }
#pragma omp for schedule(static)
        for (int y = 0; y < out->height; y++) {
            const uint8_t *s = mid + (size_t)(v->t.first[y] - y0) * row_bytes;
            const size_t at = (size_t)y * v->t.width;
            if (exact)
                column_u8(fvi_image_row(out, y), s, n, v->q + at, v->t.count[y]);
            else
                column_float(fvi_image_row(out, y), in, (const float *)(const void *)s, n,
                             v->t.w + at, v->t.count[y]);
        }
    }
    fv_free(ctx, mid);
    return FV_OK;
}

static void nearest(fv_image *out, const fv_image *in)
{
    const size_t pixel = fvi_pixel_bytes(in);
    for (int y = 0; y < out->height; y++) { /* floor((y + 0.5) in / out), exactly */
        const uint8_t *s = fvi_image_row(
            in, (int)((2 * (int64_t)y + 1) * in->height / (2 * (int64_t)out->height)));
        uint8_t *d = fvi_image_row(out, y);
        for (int x = 0; x < out->width; x++, d += pixel) {
            const int64_t i = (2 * (int64_t)x + 1) * in->width / (2 * (int64_t)out->width);
            memcpy(d, s + (size_t)i * pixel, pixel);
        }
    }
}

static fv_status resample(fv_ctx *ctx, fv_image *out, const fv_image *in, fvi_resize_filter filter)
{
    windows h, v;
    memset(&h, 0, sizeof h);
    memset(&v, 0, sizeof v);
    fv_status s = windows_init(ctx, &h, in->width, out->width, filter);
    if (s == FV_OK) s = windows_init(ctx, &v, in->height, out->height, filter);
    if (s == FV_OK) s = two_passes(ctx, out, in, &h, &v);
    windows_free(ctx, &h);
    windows_free(ctx, &v);
    return s;
}

fv_status fv_image_resize(fv_ctx *ctx, fv_image *out, const fv_image *in, int width, int height,
                          fv_filter filter)
{
    static const fvi_resize_filter filters[] = {FVI_RESIZE_BOX, FVI_RESIZE_BILINEAR,
                                                FVI_RESIZE_BICUBIC, FVI_RESIZE_LANCZOS3};
    if (!out || out == in)
        return fv_fail(ctx, FV_ERR_ARG, "resize: out is NULL or the input itself");
    memset(out, 0, sizeof *out);
    if ((int)filter < FV_FILTER_BOX || (int)filter > FV_FILTER_NEAREST)
        return fv_fail(ctx, FV_ERR_ARG, "resize: filter %d does not exist", (int)filter);
    FV_TRY(fvi_image_check(ctx, in, "resize"));
    fv_status s = fv_image_create(ctx, out, width, height, in->channels, in->depth);
    if (s == FV_OK) s = fvi_image_set_icc(ctx, out, in->icc, in->icc_bytes);
    if (s == FV_OK) {
        /* equal size: nearest is a copy, and keeps the colour of transparent pixels */
        if (filter == FV_FILTER_NEAREST || (width == in->width && height == in->height))
            nearest(out, in);
        else
            s = resample(ctx, out, in, filters[filter]);
    }
    if (s != FV_OK) fv_image_free(ctx, out);
    return s;
}
