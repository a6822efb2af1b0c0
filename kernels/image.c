/* image.c - pictures: memory, conversion, crop, grid, floats, and the doors to the codecs.
 *
 * A codec delivers the picture as stored (palette and low depths expanded). Only then is it
 * converted to what the caller asked: one generic loop over pixels instead of one path per format.
 * A codec never sees options beyond the pixel limit and "keep metadata".
 *
 * Luma is BT.601 in PIL's fixed point, L = (19595 R + 38470 G + 7471 B + 32768) >> 16; the weights
 * add up to 65536, so grey stays grey exactly. Depth goes up by v * 257 and down by rounding
 * v / 257, so 8 -> 16 -> 8 is exact. */
#include "image_codec.h"

#include <limits.h>
#include <string.h>

#define DEFAULT_QUALITY 90

/* ---- Growing output -------------------------------------------------------------------------- */

bool fvi_bytes_reserve(fvi_bytes *b, size_t n)
{
    if (n <= b->capacity) return true;
    uint8_t *p = fv_realloc(b->ctx, b->data, b->size, n);
    if (!p) return false;
    b->data = p;
    b->capacity = n;
    return true;
}

bool fvi_bytes_add(fvi_bytes *b, const void *data, size_t n)
{
    size_t need;
    if (!fv_add_size(b->size, n, &need)) {
        fv_fail(b->ctx, FV_ERR_OOM, "out of memory: output larger than the address space");
        return false;
    }
    if (need > b->capacity) {
        size_t cap = b->capacity < SIZE_MAX / 2 ? b->capacity * 2 : need;
        if (cap < need) cap = need;
        if (!fvi_bytes_reserve(b, cap < 256 ? 256 : cap)) return false;
    }
    if (n) memcpy(b->data + b->size, data, n);
    b->size = need;
    return true;
}

bool fvi_bytes_str(fvi_bytes *b, const char *s)
{
    return fvi_bytes_add(b, s, strlen(s));
}

void fvi_bytes_free(fvi_bytes *b)
{
    fv_free(b->ctx, b->data);
    b->data = NULL;
    b->size = b->capacity = 0;
}

/* ---- Memory and checks ----------------------------------------------------------------------- */

fv_status fv_image_create(fv_ctx *ctx, fv_image *out, int width, int height, int channels,
                          int depth)
{
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "fv_image_create: out is NULL");
    memset(out, 0, sizeof *out);
    if (width < 1 || height < 1)
        return fv_fail(ctx, FV_ERR_ARG, "picture of %d x %d pixels: sides must be at least 1",
                       width, height);
    if (channels < 1 || channels > 4 || (depth != 8 && depth != 16))
        return fv_fail(ctx, FV_ERR_ARG,
                       "picture with %d channels of %d bits: channels are 1 to 4, depth 8 or 16",
                       channels, depth);
    size_t stride;
    if (!fv_mul_size((size_t)width, (size_t)channels * ((size_t)depth / 8), &stride))
        return fv_fail(ctx, FV_ERR_OOM, "picture row of %d pixels exceeds the address space",
                       width);
    out->pixels = fv_calloc(ctx, (size_t)height, stride);
    if (!out->pixels) return FV_ERR_OOM;
    out->width = width;
    out->height = height;
    out->channels = channels;
    out->depth = depth;
    out->stride_bytes = stride;
    return FV_OK;
}

void fv_image_free(fv_ctx *ctx, fv_image *img)
{
    if (!img) return;
    fv_free(ctx, img->pixels);
    fv_free(ctx, img->icc);
    fv_free(ctx, img->exif);
    if (img->text) {
        for (int i = 0; i < 2 * img->text_count; i++) fv_free(ctx, img->text[i]);
        fv_free(ctx, img->text);
    }
    memset(img, 0, sizeof *img);
}

fv_status fvi_image_check(fv_ctx *ctx, const fv_image *img, const char *what)
{
    if (!img || !img->pixels) return fv_fail(ctx, FV_ERR_ARG, "%s: the picture is empty", what);
    if (img->width < 1 || img->height < 1 || img->channels < 1 || img->channels > 4 ||
        (img->depth != 8 && img->depth != 16))
        return fv_fail(ctx, FV_ERR_ARG, "%s: not a picture (%d x %d, %d channels, depth %d)", what,
                       img->width, img->height, img->channels, img->depth);
    if (img->stride_bytes / fvi_pixel_bytes(img) < (size_t)img->width ||
        img->stride_bytes % ((size_t)img->depth / 8))
        return fv_fail(ctx, FV_ERR_ARG, "%s: stride of %zu bytes does not fit %d pixels", what,
                       img->stride_bytes, img->width);
    if (img->text_count < 0 || (img->text_count > 0 && !img->text))
        return fv_fail(ctx, FV_ERR_ARG, "%s: text_count is %d without text", what, img->text_count);
    for (int i = 0; i < img->text_count; i++) {
        const char *k = img->text[2 * i], *v = img->text[2 * i + 1];
        if (!k || !v || !fvi_text_key_ok(k, strlen(k)) || !fvi_text_value_ok(v, strlen(v)))
            return fv_fail(ctx, FV_ERR_ARG,
                           "%s: text entry %d is not a keyword with UTF-8 text; use "
                           "fv_image_add_text",
                           what, i);
    }
    return FV_OK;
}

fv_status fvi_image_check_size(fv_ctx *ctx, const char *codec, uint64_t w, uint64_t h,
                               uint64_t max_pixels)
{
    if (w == 0 || h == 0 || w > INT_MAX || h > INT_MAX)
        return fv_fail(ctx, FV_ERR_FORMAT, "%s: impossible size %llu x %llu", codec,
                       (unsigned long long)w, (unsigned long long)h);
    if (w * h > max_pixels)
        return fv_fail(
            ctx, FV_ERR_LIMIT, "%s: %llu x %llu pixels exceed the limit of %llu; raise max_pixels",
            codec, (unsigned long long)w, (unsigned long long)h, (unsigned long long)max_pixels);
    return FV_OK;
}

static fv_status set_block(fv_ctx *ctx, uint8_t **field, size_t *field_bytes, const void *data,
                           size_t n)
{
    fv_free(ctx, *field);
    *field = NULL;
    *field_bytes = 0;
    if (n == 0) return FV_OK;
    *field = fv_alloc(ctx, n);
    if (!*field) return FV_ERR_OOM;
    memcpy(*field, data, n);
    *field_bytes = n;
    return FV_OK;
}

fv_status fvi_image_set_icc(fv_ctx *ctx, fv_image *img, const void *data, size_t n)
{
    return set_block(ctx, &img->icc, &img->icc_bytes, data, n);
}

fv_status fvi_image_set_exif(fv_ctx *ctx, fv_image *img, const void *data, size_t n)
{
    return set_block(ctx, &img->exif, &img->exif_bytes, data, n);
}

/* ---- Conversion ------------------------------------------------------------------------------ */

FV_INLINE uint32_t get_sample(const void *row, int depth, size_t i)
{
    return depth == 8 ? ((const uint8_t *)row)[i] : ((const uint16_t *)row)[i];
}

FV_INLINE void put_sample(void *row, int depth, size_t i, uint32_t v)
{
    if (depth == 8)
        ((uint8_t *)row)[i] = (uint8_t)v;
    else
        ((uint16_t *)row)[i] = (uint16_t)v;
}

static uint32_t scale_depth(uint32_t v, int from, int to)
{
    if (from == to) return v;
    return from == 8 ? v * 257u : (v * 255u + 32767u) / 65535u;
}

/* c over background b: (c a + b (max - a)) / max, rounded. At most 65535^2 + 32767: 32 bits. */
FV_INLINE uint32_t over(uint32_t c, uint32_t a, uint32_t b, uint32_t max)
{
    return (c * a + b * (max - a) + max / 2) / max;
}

void fvi_convert_row(void *dst, fvi_pixel_type to, const void *src, fvi_pixel_type from, int n,
                     const float bg[3])
{
    const uint32_t max = from.depth == 8 ? 255u : 65535u;
    const bool flatten = fvi_has_alpha(from.channels) && !fvi_has_alpha(to.channels);
    uint32_t back[3];
    for (int c = 0; c < 3; c++) {
        const float b = bg[c] > 0 ? (bg[c] < 1 ? bg[c] : 1) : 0; /* NaN becomes 0 */
        back[c] = (uint32_t)(b * (float)max + 0.5f);
    }
    for (size_t i = 0; i < (size_t)n; i++) {
        uint32_t p[4] = {0, 0, 0, max};
        const size_t s = i * (size_t)from.channels, d = i * (size_t)to.channels;
        for (int c = 0; c < 3; c++)
            p[c] = get_sample(src, from.depth, s + (from.channels >= 3 ? (size_t)c : 0));
        if (fvi_has_alpha(from.channels))
            p[3] = get_sample(src, from.depth, s + (size_t)from.channels - 1);
        if (flatten)
            for (int c = 0; c < 3; c++) p[c] = over(p[c], p[3], back[c], max);
        if (to.channels <= 2) p[0] = (p[0] * 19595u + p[1] * 38470u + p[2] * 7471u + 32768u) >> 16;
        const int colours = to.channels >= 3 ? 3 : 1;
        for (int c = 0; c < colours; c++)
            put_sample(dst, to.depth, d + (size_t)c, scale_depth(p[c], from.depth, to.depth));
        if (fvi_has_alpha(to.channels))
            put_sample(dst, to.depth, d + (size_t)colours, scale_depth(p[3], from.depth, to.depth));
    }
}

fv_status fvi_image_converted(fv_ctx *ctx, fv_image *out, const fv_image *in, fvi_pixel_type to,
                              const float bg[3])
{
    const fvi_pixel_type from = {in->channels, in->depth};
    FV_TRY(fv_image_create(ctx, out, in->width, in->height, to.channels, to.depth));
    for (int y = 0; y < in->height; y++)
        fvi_convert_row(fvi_image_row(out, y), to, fvi_image_row(in, y), from, in->width, bg);
    return FV_OK;
}

/* Change img in place. An ICC profile is made for grey or for colour: it goes when that changes. */
static fv_status convert_in_place(fv_ctx *ctx, fv_image *img, int channels, int depth,
                                  const float bg[3])
{
    const fvi_pixel_type to = {channels ? channels : img->channels, depth ? depth : img->depth};
    if (to.channels == img->channels && to.depth == img->depth) return FV_OK;
    fv_image t;
    FV_TRY(fvi_image_converted(ctx, &t, img, to, bg));
    const bool other_colours = (to.channels >= 3) != (img->channels >= 3);
    fv_free(ctx, img->pixels);
    img->pixels = t.pixels;
    img->channels = t.channels;
    img->depth = t.depth;
    img->stride_bytes = t.stride_bytes;
    return other_colours ? fvi_image_set_icc(ctx, img, NULL, 0) : FV_OK;
}

/* ---- Crop, grid, floats ---------------------------------------------------------------------- */

fv_status fv_image_crop(fv_ctx *ctx, fv_image *out, const fv_image *in, int x, int y, int width,
                        int height)
{
    if (!out || out == in) return fv_fail(ctx, FV_ERR_ARG, "crop: out is NULL or the input itself");
    memset(out, 0, sizeof *out);
    FV_TRY(fvi_image_check(ctx, in, "crop"));
    if (x < 0 || y < 0 || width < 1 || height < 1 || width > in->width - x ||
        height > in->height - y)
        return fv_fail(ctx, FV_ERR_ARG, "crop: %d x %d at %d,%d does not lie inside %d x %d", width,
                       height, x, y, in->width, in->height);
    fv_status s = fv_image_create(ctx, out, width, height, in->channels, in->depth);
    if (s == FV_OK) s = fvi_image_set_icc(ctx, out, in->icc, in->icc_bytes);
    if (s != FV_OK) {
        fv_image_free(ctx, out);
        return s;
    }
    const size_t left = (size_t)x * fvi_pixel_bytes(in);
    for (int r = 0; r < height; r++)
        memcpy(fvi_image_row(out, r), fvi_image_row(in, y + r) + left, out->stride_bytes);
    return FV_OK;
}

static int near_square(int n)
{
    int c = 1;
    while ((int64_t)c * c < n) c++;
    return c;
}

fv_status fv_image_grid(fv_ctx *ctx, fv_image *out, const fv_image *imgs, int n, int columns,
                        int gap)
{
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "grid: out is NULL");
    memset(out, 0, sizeof *out);
    if (!imgs || n < 1 || columns < 0 || gap < 0)
        return fv_fail(ctx, FV_ERR_ARG,
                       "grid: needs at least one picture, columns and gap of 0 or more");
    const fv_image *a = &imgs[0];
    for (int i = 0; i < n; i++) {
        const fv_image *b = &imgs[i];
        FV_TRY(fvi_image_check(ctx, b, "grid"));
        if (b->width != a->width || b->height != a->height || b->channels != a->channels ||
            b->depth != a->depth)
            return fv_fail(ctx, FV_ERR_SHAPE,
                           "grid: picture %d is %d x %d with %d channels of %d bits, the "
                           "first is %d x %d with %d of %d",
                           i, b->width, b->height, b->channels, b->depth, a->width, a->height,
                           a->channels, a->depth);
    }
    int cols = columns ? columns : near_square(n);
    if (cols > n) cols = n;
    const int rows = (int)(((int64_t)n + cols - 1) / cols);
    /* < 2^63: both factors are below 2^31 */
    const int64_t w = (int64_t)cols * a->width + (int64_t)(cols - 1) * gap;
    const int64_t h = (int64_t)rows * a->height + (int64_t)(rows - 1) * gap;
    if (w > INT_MAX || h > INT_MAX)
        return fv_fail(ctx, FV_ERR_ARG, "grid: %lld x %lld pixels are too many", (long long)w,
                       (long long)h);
    FV_TRY(fv_image_create(ctx, out, (int)w, (int)h, a->channels, a->depth));
    const size_t row_bytes = (size_t)a->width * fvi_pixel_bytes(a);
    for (int i = 0; i < n; i++) {
        const int x = (i % cols) * (a->width + gap), y = (i / cols) * (a->height + gap);
        for (int r = 0; r < a->height; r++)
            memcpy(fvi_image_row(out, y + r) + (size_t)x * fvi_pixel_bytes(a),
                   fvi_image_row(&imgs[i], r), row_bytes);
    }
    return FV_OK;
}

void fv_image_to_float(const fv_image *img, float lo, float hi, float *hwc)
{
    const size_t n = (size_t)img->width * (size_t)img->channels;
    const double scale = ((double)hi - lo) / (img->depth == 8 ? 255.0 : 65535.0);
    float table[256];
    if (img->depth == 8)
        for (int v = 0; v < 256; v++) table[v] = (float)(lo + scale * v);
    for (int y = 0; y < img->height; y++) {
        float *d = hwc + (size_t)y * n;
        if (img->depth == 8) {
            const uint8_t *s = fvi_image_row(img, y);
            for (size_t i = 0; i < n; i++) d[i] = table[s[i]];
        } else {
            const uint16_t *s = (const uint16_t *)(const void *)fvi_image_row(img, y);
            for (size_t i = 0; i < n; i++) d[i] = (float)(lo + scale * s[i]);
        }
    }
}

void fv_image_from_float(fv_image *img, float lo, float hi, const float *hwc)
{
    const size_t n = (size_t)img->width * (size_t)img->channels;
    const double max = img->depth == 8 ? 255.0 : 65535.0;
    const double scale = hi != lo ? max / ((double)hi - lo) : 0;
    for (int y = 0; y < img->height; y++) {
        const float *s = hwc + (size_t)y * n;
        uint8_t *row = fvi_image_row(img, y);
        for (size_t i = 0; i < n; i++) {
            const double v = ((double)s[i] - lo) * scale;
            const double c = v > 0 ? (v < max ? v : max) : 0; /* NaN becomes 0 */
            put_sample(row, img->depth, i, (uint32_t)(c + 0.5));
        }
    }
}

/* ---- Reading --------------------------------------------------------------------------------- */

fv_image_format fv_image_sniff(const void *bytes, size_t size)
{
    static const uint8_t png[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    const uint8_t *b = bytes;
    if (!b) return FV_IMAGE_UNKNOWN;
    if (size >= 8 && memcmp(b, png, 8) == 0) return FV_IMAGE_PNG;
    if (size >= 3 && b[0] == 0xff && b[1] == 0xd8 && b[2] == 0xff) return FV_IMAGE_JPEG;
    if (size >= 12 && memcmp(b, "RIFF", 4) == 0 && memcmp(b + 8, "WEBP", 4) == 0)
        return FV_IMAGE_WEBP;
    if (size >= 3 && b[0] == 'P' && b[1] >= '1' && b[1] <= '7' &&
        (b[2] == ' ' || b[2] == '\t' || b[2] == '\n' || b[2] == '\r' || b[2] == '#'))
        return FV_IMAGE_PNM;
    return FV_IMAGE_UNKNOWN;
}

static fv_status read_options(fv_ctx *ctx, fv_image_read_options *o,
                              const fv_image_read_options *opts)
{
    *o = (fv_image_read_options)FV_IMAGE_READ_OPTIONS_INIT;
    FV_TRY(FV_TAKE_OPTIONS(ctx, o, opts, "reading a picture"));
    if (o->channels < 0 || o->channels > 4 || (o->depth != 0 && o->depth != 8 && o->depth != 16))
        return fv_fail(ctx, FV_ERR_ARG,
                       "picture read options: %d channels of %d bits; channels are 0 to 4, "
                       "depth 0, 8 or 16",
                       o->channels, o->depth);
    if (o->max_pixels == 0) o->max_pixels = FV_IMAGE_MAX_PIXELS;
    return FV_OK;
}

fv_status fv_image_decode(fv_ctx *ctx, fv_image *out, const void *bytes, size_t size,
                          const fv_image_read_options *opts)
{
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "fv_image_decode: out is NULL");
    memset(out, 0, sizeof *out);
    if (!bytes && size) return fv_fail(ctx, FV_ERR_ARG, "fv_image_decode: bytes is NULL");
    fv_image_read_options o;
    FV_TRY(read_options(ctx, &o, opts));
    const fvi_image_source src = {bytes, size, o.max_pixels, o.keep_metadata != 0};
    fv_status s = FV_OK;
    switch (fv_image_sniff(bytes, size)) {
    case FV_IMAGE_PNG: s = fvi_png_decode(ctx, out, &src); break;
    case FV_IMAGE_JPEG: s = fvi_jpeg_decode(ctx, out, &src); break;
    case FV_IMAGE_WEBP: s = fvi_webp_decode(ctx, out, &src); break;
    case FV_IMAGE_PNM: s = fvi_pnm_decode(ctx, out, &src); break;
    case FV_IMAGE_UNKNOWN:
        s = size < 12 ? fv_fail(ctx, FV_ERR_TRUNCATED, "%zu bytes are too few for a picture", size)
                      : fv_fail(ctx, FV_ERR_FORMAT, "not a PNG, JPEG, WebP or PNM picture");
        break;
    }
    if (s == FV_OK) s = convert_in_place(ctx, out, o.channels, o.depth, o.background);
    if (s != FV_OK) fv_image_free(ctx, out);
    return s;
}

fv_status fv_image_read(fv_ctx *ctx, fv_image *out, const char *path,
                        const fv_image_read_options *opts)
{
    if (!out || !path) return fv_fail(ctx, FV_ERR_ARG, "fv_image_read: out or path is NULL");
    memset(out, 0, sizeof *out);
    fv_image_read_options o;
    FV_TRY(read_options(ctx, &o, opts));
    /* No stored picture within the pixel limit needs more than 16 bytes a pixel (plain PPM of
     * 16 bit: up to 18, but nobody pads so) and 64 MiB of metadata. Read, not mapped: a file that
     * shrinks while it is mapped would raise SIGBUS. */
    const uint64_t slack = 64u << 20;
    const uint64_t cap =
        o.max_pixels > (UINT64_MAX - slack) / 16 ? UINT64_MAX : o.max_pixels * 16 + slack;
    uint8_t *bytes = NULL;
    size_t size = 0;
    FV_TRY(fv_read_file(ctx, path, cap, &bytes, &size));
    fv_status s = fv_image_decode(ctx, out, bytes, size, opts);
    fv_free(ctx, bytes);
    return s == FV_OK ? FV_OK : fv_fail_in(ctx, s, "%s", path);
}

/* ---- Writing --------------------------------------------------------------------------------- */

static fv_status write_options(fv_ctx *ctx, fv_image_write_options *o,
                               const fv_image_write_options *opts)
{
    *o = (fv_image_write_options)FV_IMAGE_WRITE_OPTIONS_INIT;
    FV_TRY(FV_TAKE_OPTIONS(ctx, o, opts, "writing a picture"));
    if (o->quality < 0 || o->quality > 100)
        return fv_fail(ctx, FV_ERR_ARG,
                       "picture quality is %d; it must be 1 to 100, or 0 for the default",
                       o->quality);
    if (o->quality == 0) o->quality = DEFAULT_QUALITY;
    if ((int)o->format < FV_IMAGE_UNKNOWN || (int)o->format > FV_IMAGE_PNM)
        return fv_fail(ctx, FV_ERR_ARG, "picture format %d does not exist", (int)o->format);
    return FV_OK;
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static fv_image_format format_of_path(const char *path)
{
    static const struct {
        const char *suffix;
        fv_image_format format;
    } table[] = {
        {".png", FV_IMAGE_PNG},   {".jpg", FV_IMAGE_JPEG}, {".jpeg", FV_IMAGE_JPEG},
        {".webp", FV_IMAGE_WEBP}, {".ppm", FV_IMAGE_PNM},  {".pgm", FV_IMAGE_PNM},
        {".pnm", FV_IMAGE_PNM},   {".pam", FV_IMAGE_PNM},
    };
    const char *dot = strrchr(path, '.');
    for (size_t i = 0; dot && i < FV_ARRAY_LEN(table); i++) {
        size_t k = 0;
        while (dot[k] && lower(dot[k]) == table[i].suffix[k]) k++;
        if (!dot[k] && !table[i].suffix[k]) return table[i].format;
    }
    return FV_IMAGE_UNKNOWN;
}

fv_status fv_image_encode(fv_ctx *ctx, const fv_image *img, const fv_image_write_options *opts,
                          uint8_t **bytes, size_t *size)
{
    if (!bytes || !size) return fv_fail(ctx, FV_ERR_ARG, "fv_image_encode: bytes or size is NULL");
    *bytes = NULL;
    *size = 0;
    fv_image_write_options o;
    FV_TRY(write_options(ctx, &o, opts));
    FV_TRY(fvi_image_check(ctx, img, "fv_image_encode"));
    fvi_bytes b = {.ctx = ctx};
    fv_status s = FV_OK;
    switch (o.format) {
    case FV_IMAGE_UNKNOWN: /* no file name to go by: the lossless one */
    case FV_IMAGE_PNG: s = fvi_png_encode(ctx, img, &o, &b); break;
    case FV_IMAGE_JPEG: s = fvi_jpeg_encode(ctx, img, &o, &b); break;
    case FV_IMAGE_WEBP: s = fvi_webp_encode(ctx, img, &o, &b); break;
    case FV_IMAGE_PNM: s = fvi_pnm_encode(ctx, img, &o, &b); break;
    }
    if (s != FV_OK) {
        fvi_bytes_free(&b);
        return s;
    }
    *bytes = b.data;
    *size = b.size;
    return FV_OK;
}

fv_status fv_image_write(fv_ctx *ctx, const fv_image *img, const char *path,
                         const fv_image_write_options *opts)
{
    if (!path) return fv_fail(ctx, FV_ERR_ARG, "fv_image_write: path is NULL");
    fv_image_write_options o;
    FV_TRY(write_options(ctx, &o, opts));
    if (o.format == FV_IMAGE_UNKNOWN) o.format = format_of_path(path);
    if (o.format == FV_IMAGE_UNKNOWN)
        return fv_fail(ctx, FV_ERR_ARG,
                       "%s: no picture format has this suffix; use .png .jpg .jpeg .webp .ppm "
                       ".pgm .pnm or set the format",
                       path);
    uint8_t *bytes = NULL;
    size_t size = 0;
    fv_status s = fv_image_encode(ctx, img, &o, &bytes, &size);
    if (s != FV_OK) return fv_fail_in(ctx, s, "%s", path);
    s = fv_write_file(ctx, path, bytes, size, o.overwrite);
    fv_free(ctx, bytes);
    return s;
}
