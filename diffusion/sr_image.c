/* sr_image.c - pictures through super-resolution: pixels in and out, alpha, metadata.
 *
 *     source    RGB as floats; colours under alpha 0 replaced by the nearest visible ones, so that
 *               no rim of them is enlarged
 *     frame     networks and update [sr_frame.c]
 *     beyond 4x its colours, kept at 16 bits, are enlarged further by bicubic interpolation
 *     alpha     from the picture to the result at once */
#include "sr.h"

#include <math.h>
#include <string.h>

#include "image_codec.h"

#define BAND_ROWS 64

typedef struct run {
    fv_ctx *ctx;
    const fv_image *in;
    fv_image *out;             /* at the size of the networks: the result, or beyond 4x the own */
    float *source;
    sr_frame *frame;
    sr_engine engine;
    void *user;
} run;

/* ---- The source ------------------------------------------------------------------------------ */

static uint32_t sample(const fv_image *img, int x, int y, int channel)
{
    const uint8_t *row = fvi_image_row(img, y);
    const size_t at = (size_t)x * (size_t)img->channels + (size_t)channel;
    return img->depth == 8 ? row[at] : ((const uint16_t *)(const void *)row)[at];
}

static void load_source(const run *r)
{
    const fv_image *in = r->in;
    const int colours = in->channels < 3 ? 1 : 3;
    const float unit = in->depth == 8 ? 1 / 255.0f : 1 / 65535.0f;
#pragma omp parallel for num_threads(fv_ctx_threads(r->ctx)) schedule(static)
    for (int y = 0; y < in->height; y++) {
        float *to = r->source + 3 * (size_t)y * (size_t)in->width;
        for (int x = 0; x < in->width; x++)
            for (int c = 0; c < 3; c++)
                *to++ = unit * (float)sample(in, x, y, colours == 1 ? 0 : c);
    }
}

/* Colours of transparent pixels from the nearest other ones, ring by ring. */
static fv_status spread_colours(const run *r)
{
    const fv_image *in = r->in;
    const int w = in->width, h = in->height, alpha = in->channels - 1;
    const int64_t n = (int64_t)w * h;
    int64_t count = 0;
    int64_t *queue = fv_calloc(r->ctx, (size_t)n, sizeof *queue);
    uint8_t *is_done = fv_calloc(r->ctx, (size_t)n, 1);
    if (queue && is_done) {
        for (int64_t i = 0; i < n; i++) {
            if (sample(in, (int)(i % w), (int)(i / w), alpha) == 0) continue;
            is_done[i] = 1;
            queue[count++] = i;
        }
        for (int64_t k = 0; k < count; k++) {
            const int64_t i = queue[k], x = i % w, y = i / w;
            const int64_t near[4] = { x > 0 ? i - 1 : -1, x + 1 < w ? i + 1 : -1,
                                      y > 0 ? i - w : -1, y + 1 < h ? i + w : -1 };
            for (int d = 0; d < 4; d++) {
                if (near[d] < 0 || is_done[near[d]]) continue;
                is_done[near[d]] = 1;
                memcpy(r->source + 3 * near[d], r->source + 3 * i, 3 * sizeof(float));
                queue[count++] = near[d];
            }
        }
    }
    const bool has_memory = queue && is_done;
    fv_free(r->ctx, queue);
    fv_free(r->ctx, is_done);
    return has_memory ? FV_OK : FV_ERR_OOM;
}

static fv_status make_source(run *r)
{
    size_t n = 0;
    if (!fv_mul_size((size_t)r->in->width, (size_t)r->in->height, &n) ||
        !fv_mul_size(n, 3 * sizeof(float), &n))
        return fv_fail(r->ctx, FV_ERR_OOM, "super-resolution: the picture is too large");
    r->source = fv_alloc(r->ctx, n);
    if (!r->source) return FV_ERR_OOM;
    load_source(r);
    return fvi_has_alpha(r->in->channels) ? spread_colours(r) : FV_OK;
}

/* ---- Results --------------------------------------------------------------------------------- */

static uint32_t to_sample(float v, float max)
{
    return (uint32_t)rintf(fv_clamp_unit(v) * max); /* nearest, half to even */
}

static void put(const fv_image *img, int x, int y, int channel, uint32_t v)
{
    uint8_t *row = fvi_image_row(img, y);
    const size_t at = (size_t)x * (size_t)img->channels + (size_t)channel;
    if (img->depth == 8) row[at] = (uint8_t)v;
    else ((uint16_t *)(void *)row)[at] = (uint16_t)v;
}

/* rgb: rows of `pitch` pixels; what goes to the rectangle of the result. */
static void write_pixels(void *user, const float *rgb, int pitch, const int rect[4])
{
    const run *r = user;
    const fv_image *out = r->out;
    const float max = out->depth == 8 ? 255.0f : 65535.0f;
    const bool is_grey = out->channels < 3;
#pragma omp parallel for num_threads(fv_ctx_threads(r->ctx)) schedule(static)
    for (int y = 0; y < rect[3]; y++) {
        const float *p = rgb + 3 * (size_t)y * (size_t)pitch;
        for (int x = 0; x < rect[2]; x++, p += 3) {
            const float luma = 0.299f * p[0] + 0.587f * p[1] + 0.114f * p[2];
            for (int c = 0; c < (is_grey ? 1 : 3); c++)
                put(out, rect[0] + x, rect[1] + y, c, to_sample(is_grey ? luma : p[c], max));
        }
    }
}

/* ---- Alpha ----------------------------------------------------------------------------------- */

/* Are all values 0 or the largest? */
static bool is_mask(const fv_image *in)
{
    const uint32_t max = in->depth == 8 ? 255 : 65535;
    for (int y = 0; y < in->height; y++)
        for (int x = 0; x < in->width; x++) {
            const uint32_t v = sample(in, x, y, in->channels - 1);
            if (v != 0 && v != max) return false;
        }
    return true;
}

static void nearest_alpha(const fv_image *in, const fv_image *out)
{
    for (int y = 0; y < out->height; y++)
        for (int x = 0; x < out->width; x++) {
            const int64_t i = (2 * (int64_t)x + 1) * in->width / (2 * (int64_t)out->width);
            const int64_t j = (2 * (int64_t)y + 1) * in->height / (2 * (int64_t)out->height);
            const uint32_t v = sample(in, (int)i, (int)j, in->channels - 1);
            put(out, x, y, out->channels - 1,
                out->depth == in->depth ? v :
                out->depth == 16        ? v * 257 :
                                          (v * 255 + 32767) / 65535);
        }
}

/* A band of rows at a time. */
static void smooth_bands(fvi_resize *resize, const fv_image *in, const float *plane, float *band,
                         const fv_image *out)
{
    const bool is_binary = is_mask(in);
    const float max = out->depth == 8 ? 255.0f : 65535.0f;
    for (int y = 0; y < out->height; y += BAND_ROWS) {
        const int rect[4] = { 0, y, out->width, sr_smaller(BAND_ROWS, out->height - y) };
        fvi_resize_rect(resize, plane, 1, rect, band);
        for (int i = 0; i < rect[2] * rect[3]; i++) {
            const float v = is_binary ? (band[i] >= 0.5f ? 1.0f : 0.0f) : band[i];
            put(out, i % rect[2], y + i / rect[2], out->channels - 1, to_sample(v, max));
        }
    }
}

static fv_status smooth_alpha(fv_ctx *ctx, const fv_image *in, const fv_image *out)
{
    const fvi_resampling how = { FVI_RESIZE_BICUBIC, true, false };
    const int from[2] = { in->height, in->width }, to[2] = { out->height, out->width };
    const float unit = in->depth == 8 ? 1 / 255.0f : 1 / 65535.0f;
    fvi_resize *resize = NULL;
    float *plane = fv_calloc(ctx, (size_t)in->width * (size_t)in->height, sizeof *plane);
    float *band = fv_calloc(ctx, (size_t)out->width * BAND_ROWS, sizeof *band);
    fv_status s = plane && band ? FV_OK : FV_ERR_OOM;
    if (s == FV_OK)
        s = fvi_resize_create(ctx, &resize, from[0] > from[1] ? from[0] : from[1],
                              to[0] > to[1] ? to[0] : to[1], 0);
    if (s == FV_OK) s = fvi_resize_set(resize, how, from, to);
    if (s == FV_OK) {
        for (int y = 0; y < in->height; y++)
            for (int x = 0; x < in->width; x++)
                plane[(size_t)y * (size_t)in->width + (size_t)x] =
                    unit * (float)sample(in, x, y, in->channels - 1);
        smooth_bands(resize, in, plane, band, out);
    }
    fvi_resize_free(&resize);
    fv_free(ctx, plane);
    fv_free(ctx, band);
    return s;
}

/* ---- The call -------------------------------------------------------------------------------- */

static fv_status copy_metadata(fv_ctx *ctx, const fv_image *in, fv_image *out)
{
    FV_TRY(fvi_image_set_icc(ctx, out, in->icc, in->icc_bytes));
    FV_TRY(fvi_image_set_exif(ctx, out, in->exif, in->exif_bytes));
    for (int i = 0; i < in->text_count; i++)
        FV_TRY(fv_image_add_text(ctx, out, in->text[2 * i], in->text[2 * i + 1]));
    return FV_OK;
}

/* Beyond four times: the result from what the networks made, a band of rows at a time. */
typedef struct beyond {
    fvi_resize *resize;
    float *band;   /* BAND_ROWS rows of the result */
    float *middle; /* the networks' picture */
} beyond;

static fv_status make_beyond(run *r, beyond *b)
{
    const fvi_resampling how = { FVI_RESIZE_BICUBIC, true, false };
    const sr_frame *f = r->frame;
    const int in[2] = { f->net_height, f->net_width }, out[2] = { f->height, f->width };
    b->band = fv_calloc(r->ctx, (size_t)out[1] * BAND_ROWS, 3 * sizeof(float));
    if (!b->band) return FV_ERR_OOM;
    FV_TRY(fvi_resize_create(r->ctx, &b->resize, in[0] > in[1] ? in[0] : in[1],
                             out[0] > out[1] ? out[0] : out[1], 0));
    return fvi_resize_set(b->resize, how, in, out);
}

static void free_beyond(fv_ctx *ctx, beyond *b)
{
    fvi_resize_free(&b->resize);
    fv_free(ctx, b->band);
    fv_free(ctx, b->middle);
    *b = (beyond){ 0 };
}

/* The planes of the frame are gone: they had at least the room that `middle` takes. */
static fv_status enlarge_bands(const run *r, beyond *b, const fv_image *out)
{
    const fv_image *in = r->out;
    const int colours = in->channels, width = out->width;
    const float max = out->depth == 8 ? 255.0f : 65535.0f;
    const size_t n = (size_t)in->width * (size_t)in->height * (size_t)colours;
    b->middle = fv_alloc(r->ctx, n * sizeof(float));
    if (!b->middle) return FV_ERR_OOM;
    fv_image_to_float(in, 0.0f, 1.0f, b->middle);
    for (int y = 0; y < out->height; y += BAND_ROWS) {
        const int rect[4] = { 0, y, width, sr_smaller(BAND_ROWS, out->height - y) };
        fvi_resize_rect(b->resize, b->middle, colours, rect, b->band);
#pragma omp parallel for num_threads(fv_ctx_threads(r->ctx)) schedule(static)
        for (int i = 0; i < rect[3]; i++) {
            const float *v = b->band + (size_t)i * (size_t)width * (size_t)colours;
            for (int x = 0; x < width; x++)
                for (int c = 0; c < colours; c++)
                    put(out, x, y + i, c, to_sample(*v++, max));
        }
    }
    return FV_OK;
}

static fv_status finish(run *r, beyond *b, fv_image *out)
{
    if (r->out != out) FV_TRY(enlarge_bands(r, b, out));
    free_beyond(r->ctx, b);
    if (fvi_has_alpha(r->in->channels)) {
        if (r->frame->o.alpha == FV_SR_ALPHA_NEAREST) nearest_alpha(r->in, out);
        else FV_TRY(smooth_alpha(r->ctx, r->in, out));
    }
    return copy_metadata(r->ctx, r->in, out);
}

/* All that lasts to the end is made first, so that the frame plans with what is left. */
static fv_status enlarge(run *r, beyond *b, fv_image *result, fv_sr_stats *stats)
{
    const sr_frame *f = r->frame;
    fv_memory_stats m;
    fv_ctx_memory(r->ctx, &m);
    const uint64_t before = m.current_bytes;
    const int channels = r->in->channels, depth = f->o.depth ? f->o.depth : r->in->depth;
    FV_TRY(make_source(r));
    FV_TRY(fv_image_create(r->ctx, result, f->width, f->height, channels, depth));
    if (f->net_width != f->width || f->net_height != f->height) {
        FV_TRY(fv_image_create(r->ctx, r->out, f->net_width, f->net_height,
                               channels - fvi_has_alpha(channels), 16));
        FV_TRY(make_beyond(r, b));
    } else {
        r->out = result;
    }
    FV_TRY(r->engine(r->user, r->frame, r->source, before, stats));
    fv_free(r->ctx, r->source);
    r->source = NULL;
    return finish(r, b, result);
}

fv_status sr_picture(sr_frame *f, sr_engine engine, void *user, const fv_image *in, fv_image *out,
                     fv_sr_stats *stats)
{
    fv_sr_stats own = { 0 };
    fv_image middle = { 0 };
    beyond b = { 0 };
    run r = { .ctx = f->ctx, .in = in, .out = &middle, .frame = f, .engine = engine, .user = user };
    const double start = fv_now();
    f->write = write_pixels;
    f->user = &r;
    fv_ctx_memory_reset_peak(f->ctx);
    const fv_status s = enlarge(&r, &b, out, &own);
    sr_frame_free(f);
    free_beyond(f->ctx, &b);
    fv_free(f->ctx, r.source);
    fv_image_free(f->ctx, &middle);
    if (s != FV_OK) fv_image_free(f->ctx, out);
    fv_memory_stats m;
    fv_ctx_memory(f->ctx, &m);
    own.peak_bytes = m.peak_bytes;
    own.least_bytes = f->least;
    own.ample_bytes = f->ample;
    own.seconds = fv_now() - start;
    if (stats) *stats = own;
    return s;
}

static fv_status run_tiles(void *user, sr_frame *f, const float *source, uint64_t before,
                           fv_sr_stats *stats)
{
    (void)user;
    FV_TRY(sr_frame_prepare(f, before));
    FV_TRY(sr_frame_run(f, source, stats));
    sr_frame_free(f); /* its memory is for what follows */
    return FV_OK;
}

fv_status fv_sr_image(fv_ctx *ctx, const fv_sr *sr, const fv_image *in, const fv_sr_options *o,
                      fv_image *out, fv_sr_stats *stats)
{
    if (!sr || !in || !out || out == in)
        return fv_fail(ctx, FV_ERR_ARG, "super-resolution: a model or picture is missing");
    memset(out, 0, sizeof *out);
    FV_TRY(fvi_image_check(ctx, in, "super-resolution"));
    sr_frame f = { .ctx = ctx, .sr = sr, .in_width = in->width, .in_height = in->height };
    FV_TRY(sr_frame_options(&f, o));
    return sr_picture(&f, run_tiles, NULL, in, out, stats);
}
