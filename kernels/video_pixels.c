/* video_pixels.c - codes of video frames to RGB and back [ITU-R BT.601, BT.709].
 *
 *     Y  = (code - 16 s) / (219 s)            s = 2^(depth - 8); full range: code / (2^depth - 1)
 *     Cb = (code - 128 s) / (224 s)                  (code - 2^(depth - 1)) / (2^depth - 1)
 *     R = Y + 2 (1 - Kr) Cr   B = Y + 2 (1 - Kb) Cb   G from Y = Kr R + Kg G + Kb B
 *
 * Colour at half resolution goes up by linear interpolation and down by the filter that is dual to
 * it, so that down(up(c)) = c, for video that only passes through:
 *
 *     colour at    up, even / odd pixel                      down
 *     left         c_j / (c_j + c_j+1) / 2                   [-1 2 6 2 -1] / 8
 *     centre       (3 c_j + c_j-1) / 4 / (3 c_j + c_j+1) / 4 [-1 3 3 -1] / 4
 *
 * the low-passes of the LeGall 5/3 and the biorthogonal 3/1 wavelet (Cohen, Daubechies, Feauveau
 * 1992). At the ends colour is repeated on the way up; on the way down pixels are continued as that
 * up-sampling would have continued them, which keeps the identity there. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "internal.h"
#include "video.h"

#define TAPS 6

/* A sample as a weighted sum of others along one axis. */
typedef struct taps {
    int count, at[TAPS];
    float w[TAPS];
} taps;

struct fvi_video_codec {
    fv_ctx *ctx;
    fv_video_format f;
    int chroma_w, chroma_h;
    float zero, scale, chroma_zero, chroma_scale; /* value = (code - zero) * scale */
    int max;
    float kr, kg, kb;
    taps *up[2], *down[2];  /* horizontal, vertical; NULL: colour at every pixel */
    float *plane[2];        /* colour, all rows, horizontally at half resolution */
    float *rows;            /* for each thread 2 rows of colour and 2 of pixels */
    size_t row_floats;
};

/* ---- Formats --------------------------------------------------------------------------------- */

fv_status fvi_video_check(fv_ctx *ctx, fv_video_format *f, fv_video_kind kind, uint64_t max_pixels)
{
    if (max_pixels == 0) max_pixels = FV_IMAGE_MAX_PIXELS;
    if (f->width < 1 || f->height < 1)
        return fv_fail(ctx, FV_ERR_ARG, "video: frames of %d x %d pixels", f->width, f->height);
    if ((uint64_t)f->width * (uint64_t)f->height > max_pixels)
        return fv_fail(ctx, FV_ERR_LIMIT,
                       "video: frames of %d x %d pixels exceed the limit of %llu", f->width,
                       f->height, (unsigned long long)max_pixels);
    if ((int)f->layout < FV_VIDEO_GREY || (int)f->layout > FV_VIDEO_GBR || f->depth < 8 ||
        f->depth > 16)
        return fv_fail(ctx, FV_ERR_ARG, "video: layout %d of %d bits; bits are 8 to 16",
                       (int)f->layout, f->depth);
    if (kind == FV_VIDEO_Y4M && f->layout > FV_VIDEO_444)
        return fv_fail(ctx, FV_ERR_ARG, "video: Y4M holds no RGB");
    if (kind == FV_VIDEO_FILES && (f->layout != FV_VIDEO_RGB || (f->depth != 8 && f->depth != 16)))
        return fv_fail(ctx, FV_ERR_ARG, "video: picture files are RGB of 8 or 16 bits");
    if (f->matrix != FV_MATRIX_BT601 && f->matrix != FV_MATRIX_BT709)
        return fv_fail(ctx, FV_ERR_ARG, "video: matrix %d does not exist", (int)f->matrix);
    if ((int)f->site < FV_CHROMA_CENTRE || (int)f->site > FV_CHROMA_TOP_LEFT)
        return fv_fail(ctx, FV_ERR_ARG, "video: colour site %d does not exist", (int)f->site);
    for (int i = 0; i < 2; i++)
        if (f->rate[i] < 0 || f->aspect[i] < 0 || f->rate[i] > INT32_MAX ||
            f->aspect[i] > INT32_MAX)
            return fv_fail(ctx, FV_ERR_ARG, "video: frame rate or aspect is out of range");
    if (f->layout == FV_VIDEO_422 || (kind == FV_VIDEO_Y4M && f->depth > 8))
        f->site = FV_CHROMA_LEFT;
    return FV_OK;
}

static int half(int n) { return (n + 1) / 2; }

static int chroma_width(const fv_video_format *f)
{
    return f->layout == FV_VIDEO_420 || f->layout == FV_VIDEO_422 ? half(f->width) : f->width;
}
static int chroma_height(const fv_video_format *f)
{
    return f->layout == FV_VIDEO_420 ? half(f->height) : f->height;
}

size_t fvi_video_bytes(const fv_video_format *f)
{
    const size_t luma = (size_t)f->width * (size_t)f->height;
    const size_t chroma = (size_t)chroma_width(f) * (size_t)chroma_height(f);
    return (luma + (f->layout == FV_VIDEO_GREY ? 0 : 2 * chroma)) * (f->depth > 8 ? 2 : 1);
}

/* ---- Filters --------------------------------------------------------------------------------- */

static int clamp(int i, int n) { return i < 0 ? 0 : i >= n ? n - 1 : i; }

static void add_tap(taps *t, int at, float w)
{
    for (int i = 0; i < t->count; i++)
        if (t->at[i] == at) {
            t->w[i] += w;
            return;
        }
    t->at[t->count] = at;
    t->w[t->count++] = w;
}

/* Pixel i of n from colour, `half(n)` of it. */
static taps up_taps(int i, int n, bool is_centre)
{
    taps t = { 0 };
    const int j = i / 2, other = is_centre && i % 2 == 0 ? j - 1 : j + 1;
    const float far = is_centre ? 0.25f : i % 2 ? 0.5f : 0;
    add_tap(&t, j, 1 - far);
    if (far > 0) add_tap(&t, clamp(other, half(n)), far);
    return t;
}

/* Pixel i, which may lie outside of 0..n-1, for colour on the left. */
static void add_left(taps *t, int i, int n, float w)
{
    if (i < 0) i = -i;
    if (i >= n) i = n % 2 ? 2 * (n - 1) - i : n - 1;
    add_tap(t, clamp(i, n), w);
}

/* The same for colour in the centre: an odd end lacks half of its last pair. */
static void add_centre(taps *t, int i, int n, float w)
{
    if (i >= n && n % 2 && n > 1) {
        add_tap(t, n - 1, 1.5f * w);
        add_tap(t, n - 2, -0.5f * w);
        return;
    }
    add_tap(t, clamp(i, n), w);
}

/* Colour j from n pixels. */
static taps down_taps(int j, int n, bool is_centre)
{
    static const float left[] = { -0.125f, 0.25f, 0.75f, 0.25f, -0.125f };
    static const float centre[] = { -0.25f, 0.75f, 0.75f, -0.25f };
    taps t = { 0 };
    if (is_centre)
        for (int k = 0; k < 4; k++) add_centre(&t, 2 * j - 1 + k, n, centre[k]);
    else
        for (int k = 0; k < 5; k++) add_left(&t, 2 * j - 2 + k, n, left[k]);
    return t;
}

static fv_status make_taps(fvi_video_codec *c, int axis, int n, bool is_centre)
{
    const int m = half(n);
    c->up[axis] = fv_calloc(c->ctx, (size_t)n, sizeof(taps));
    c->down[axis] = c->up[axis] ? fv_calloc(c->ctx, (size_t)m, sizeof(taps)) : NULL;
    if (!c->down[axis]) return FV_ERR_OOM;
    for (int i = 0; i < n; i++) c->up[axis][i] = up_taps(i, n, is_centre);
    for (int j = 0; j < m; j++) c->down[axis][j] = down_taps(j, n, is_centre);
    return FV_OK;
}

/* ---- Making ---------------------------------------------------------------------------------- */

static void set_codes(fvi_video_codec *c)
{
    const fv_video_format *f = &c->f;
    const float s = (float)(1 << (f->depth - 8));
    c->max = (1 << f->depth) - 1;
    c->kr = f->matrix == FV_MATRIX_BT709 ? 0.2126f : 0.299f;
    c->kb = f->matrix == FV_MATRIX_BT709 ? 0.0722f : 0.114f;
    c->kg = 1 - c->kr - c->kb;
    c->zero = 0;
    c->scale = c->chroma_scale = 1 / (float)c->max;
    c->chroma_zero = 128 * s;
    if (f->layout <= FV_VIDEO_444 && !f->full_range) {
        c->zero = 16 * s;
        c->scale = 1 / (219 * s);
        c->chroma_scale = 1 / (224 * s);
    }
}

fv_status fvi_video_codec_create(fv_ctx *ctx, fvi_video_codec **out, const fv_video_format *f)
{
    *out = NULL;
    fvi_video_codec *c = fv_calloc(ctx, 1, sizeof *c);
    if (!c) return FV_ERR_OOM;
    c->ctx = ctx;
    c->f = *f;
    c->chroma_w = chroma_width(f);
    c->chroma_h = chroma_height(f);
    set_codes(c);
    const bool is_centre = f->site == FV_CHROMA_CENTRE;
    fv_status s = FV_OK;
    if (f->layout == FV_VIDEO_420 || f->layout == FV_VIDEO_422)
        s = make_taps(c, 0, f->width, is_centre);
    if (s == FV_OK && f->layout == FV_VIDEO_420)
        s = make_taps(c, 1, f->height, f->site != FV_CHROMA_TOP_LEFT);
    c->row_floats = (size_t)(2 * c->chroma_w + 2 * f->width);
    const size_t plane = (size_t)c->chroma_w * (size_t)f->height;
    const bool has_planes = f->layout >= FV_VIDEO_420 && f->layout <= FV_VIDEO_444;
    for (int k = 0; k < 2 && s == FV_OK && has_planes; k++)
        if (!(c->plane[k] = fv_calloc(ctx, plane, sizeof(float)))) s = FV_ERR_OOM;
    if (s == FV_OK)
        c->rows = fv_calloc(ctx, (size_t)ctx->threads * c->row_floats, sizeof(float));
    if (s == FV_OK && !c->rows) s = FV_ERR_OOM;
    if (s == FV_OK) *out = c;
    else fvi_video_codec_free(&c);
    return s;
}

void fvi_video_codec_free(fvi_video_codec **c)
{
    if (!c || !*c) return;
    fv_ctx *ctx = (*c)->ctx;
    for (int k = 0; k < 2; k++) {
        fv_free(ctx, (*c)->up[k]);
        fv_free(ctx, (*c)->down[k]);
        fv_free(ctx, (*c)->plane[k]);
    }
    fv_free(ctx, (*c)->rows);
    fv_free(ctx, *c);
    *c = NULL;
}

/* ---- Reading --------------------------------------------------------------------------------- */

/* Sample i; more than the depth allows is its largest value. */
FV_INLINE float code_at(const fvi_video_codec *c, const uint8_t *p, size_t i)
{
    if (c->f.depth == 8) return p[i];
    const int v = p[2 * i] | p[2 * i + 1] << 8;
    return (float)(v < c->max ? v : c->max);
}

FV_INLINE size_t plane_bytes(const fvi_video_codec *c, size_t samples)
{
    return c->f.depth > 8 ? 2 * samples : samples;
}

static float apply(const taps *t, const float *x)
{
    float sum = 0;
    for (int i = 0; i < t->count; i++) sum += t->w[i] * x[t->at[i]];
    return sum;
}

/* Colour of row y at every pixel: to [width]; work: [chroma_w]. */
static void chroma_row(const fvi_video_codec *c, const uint8_t *plane, int y, float *to,
                       float *work)
{
    const taps one = { 1, { y }, { 1 } }, *v = c->up[1] ? &c->up[1][y] : &one;
    float *half_row = c->up[0] ? work : to;
    for (int x = 0; x < c->chroma_w; x++) {
        float sum = 0;
        for (int k = 0; k < v->count; k++)
            sum += v->w[k] *
                   code_at(c, plane, (size_t)v->at[k] * (size_t)c->chroma_w + (size_t)x);
        half_row[x] = (sum - c->chroma_zero) * c->chroma_scale;
    }
    if (!c->up[0]) return;
    for (int x = 0; x < c->f.width; x++) to[x] = apply(&c->up[0][x], half_row);
}

static void decode_yuv_row(const fvi_video_codec *c, const uint8_t *bytes, int y, float *rgb,
                           float *work)
{
    const size_t w = (size_t)c->f.width, n = w * (size_t)c->f.height;
    const size_t chroma = (size_t)c->chroma_w * (size_t)c->chroma_h;
    float *cb = work, *cr = cb + w, *spare = cr + w;
    const float to_r = 2 * (1 - c->kr), to_b = 2 * (1 - c->kb);
    const uint8_t *second = bytes + plane_bytes(c, n);
    chroma_row(c, second, y, cb, spare);
    chroma_row(c, second + plane_bytes(c, chroma), y, cr, spare);
    for (size_t x = 0; x < w; x++) {
        const float l = (code_at(c, bytes, (size_t)y * w + x) - c->zero) * c->scale;
        rgb[3 * x] = l + to_r * cr[x];
        rgb[3 * x + 1] = l - (c->kb * to_b * cb[x] + c->kr * to_r * cr[x]) / c->kg;
        rgb[3 * x + 2] = l + to_b * cb[x];
    }
}

/* Planes or pixels of codes that are values already. */
static void decode_row(const fvi_video_codec *c, const uint8_t *bytes, int y, float *rgb)
{
    const size_t w = (size_t)c->f.width, n = w * (size_t)c->f.height, first = (size_t)y * w;
    static const size_t gbr[3] = { 2, 0, 1 };
    for (size_t x = 0; x < w; x++)
        for (size_t k = 0; k < 3; k++) {
            const size_t at = c->f.layout == FV_VIDEO_GREY  ? first + x
                              : c->f.layout == FV_VIDEO_GBR ? gbr[k] * n + first + x
                                                            : 3 * (first + x) + k;
            rgb[3 * x + k] = (code_at(c, bytes, at) - c->zero) * c->scale;
        }
}

void fvi_video_decode(fvi_video_codec *c, const uint8_t *bytes, float *rgb)
{
    const bool has_chroma = c->plane[0] != NULL;
#pragma omp parallel for schedule(static) num_threads(c->ctx->threads)
    for (int y = 0; y < c->f.height; y++) {
        float *row = rgb + 3 * (size_t)y * (size_t)c->f.width;
        if (has_chroma)
            decode_yuv_row(c, bytes, y, row,
                           c->rows + (size_t)omp_get_thread_num() * c->row_floats);
        else
            decode_row(c, bytes, y, row);
    }
}

/* ---- Writing --------------------------------------------------------------------------------- */

FV_INLINE void put_code(const fvi_video_codec *c, uint8_t *p, size_t i, float v)
{
    const int code = v > 0 ? (int)lrintf(v < (float)c->max ? v : (float)c->max) : 0; /* NaN: 0 */
    if (c->f.depth == 8) {
        p[i] = (uint8_t)code;
    } else {
        p[2 * i] = (uint8_t)code;
        p[2 * i + 1] = (uint8_t)(code >> 8);
    }
}

FV_INLINE float luma(const fvi_video_codec *c, const float *p)
{
    return c->kr * p[0] + c->kg * p[1] + c->kb * p[2];
}

/* Luma of row y to its codes, colour of row y to the planes, at half width if it is. */
static void encode_yuv_row(const fvi_video_codec *c, const float *rgb, int y, uint8_t *bytes,
                           float *work)
{
    const size_t w = (size_t)c->f.width;
    float *full[2] = { work, work + w };
    for (size_t x = 0; x < w; x++) {
        const float *p = rgb + 3 * x;
        const float l = luma(c, p);
        put_code(c, bytes, (size_t)y * w + x, l / c->scale + c->zero);
        full[0][x] = (p[2] - l) / (2 * (1 - c->kb));
        full[1][x] = (p[0] - l) / (2 * (1 - c->kr));
    }
    for (int k = 0; k < 2; k++) {
        float *to = c->plane[k] + (size_t)y * (size_t)c->chroma_w;
        if (!c->down[0]) memcpy(to, full[k], w * sizeof *to);
        for (int x = 0; c->down[0] && x < c->chroma_w; x++)
            to[x] = apply(&c->down[0][x], full[k]);
    }
}

static void encode_chroma_row(const fvi_video_codec *c, const float *plane, int y, uint8_t *to)
{
    const size_t w = (size_t)c->chroma_w;
    const taps one = { 1, { y }, { 1 } }, *v = c->down[1] ? &c->down[1][y] : &one;
    for (size_t x = 0; x < w; x++) {
        float sum = 0;
        for (int k = 0; k < v->count; k++) sum += v->w[k] * plane[(size_t)v->at[k] * w + x];
        put_code(c, to, (size_t)y * w + x, sum / c->chroma_scale + c->chroma_zero);
    }
}

static void encode_row(const fvi_video_codec *c, const float *rgb, int y, uint8_t *bytes)
{
    const size_t w = (size_t)c->f.width, n = w * (size_t)c->f.height, first = (size_t)y * w;
    static const size_t gbr[3] = { 2, 0, 1 };
    for (size_t x = 0; x < w; x++) {
        if (c->f.layout == FV_VIDEO_GREY) {
            put_code(c, bytes, first + x, luma(c, rgb + 3 * x) / c->scale + c->zero);
            continue;
        }
        for (size_t k = 0; k < 3; k++)
            put_code(c, bytes,
                     c->f.layout == FV_VIDEO_GBR ? gbr[k] * n + first + x : 3 * (first + x) + k,
                     rgb[3 * x + k] / c->scale);
    }
}

void fvi_video_encode(fvi_video_codec *c, const float *rgb, uint8_t *bytes)
{
    const size_t w = (size_t)c->f.width, n = w * (size_t)c->f.height;
    const bool has_chroma = c->plane[0] != NULL;
    const size_t chroma = (size_t)c->chroma_w * (size_t)c->chroma_h;
    uint8_t *second = bytes + plane_bytes(c, n);
#pragma omp parallel num_threads(c->ctx->threads)
    {
#pragma omp for schedule(static)
        for (int y = 0; y < c->f.height; y++) {
            const float *row = rgb + 3 * (size_t)y * w;
            if (has_chroma)
                encode_yuv_row(c, row, y, bytes,
                               c->rows + (size_t)omp_get_thread_num() * c->row_floats);
            else
                encode_row(c, row, y, bytes);
        }
#pragma omp for schedule(static)
        for (int y = 0; y < 2 * c->chroma_h; y++)
            if (has_chroma) {
                const int k = y >= c->chroma_h;
                encode_chroma_row(c, c->plane[k], y - k * c->chroma_h,
                                  second + (k ? plane_bytes(c, chroma) : 0));
            }
    }
}
