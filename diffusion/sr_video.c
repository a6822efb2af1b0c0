/* sr_video.c - frames through super-resolution one after another: plans, planes and tables are made
 * once, so a frame allocates nothing and memory does not grow with the video.
 *
 * Frames do not look at each other. */
#include "sr.h"

#include <string.h>

struct fv_sr_stream {
    sr_frame frame;
    fvi_resize *larger; /* beyond what the networks do */
    float *middle;      /* then: their result */
    float *out;         /* of the running call, at the networks' size */
};

static void write_floats(void *user, const float *rgb, int pitch, const int rect[4])
{
    const fv_sr_stream *s = user;
    const sr_frame *f = &s->frame;
#pragma omp parallel for num_threads(fv_ctx_threads(f->ctx)) schedule(static)
    for (int y = 0; y < rect[3]; y++) {
        const float *from = rgb + 3 * (size_t)y * (size_t)pitch;
        float *to = s->out + 3 * ((size_t)(rect[1] + y) * (size_t)f->net_width + (size_t)rect[0]);
        for (int x = 0; x < 3 * rect[2]; x++) to[x] = fv_clamp_unit(from[x]);
    }
}

static fv_status make_larger(fv_sr_stream *s)
{
    const sr_frame *f = &s->frame;
    const fvi_resampling how = { FVI_RESIZE_BICUBIC, true, false };
    const int in[2] = { f->net_height, f->net_width }, size[2] = { f->height, f->width };
    size_t n = 0;
    if (f->net_width == f->width && f->net_height == f->height) return FV_OK;
    if (!fv_mul_size((size_t)in[0], (size_t)in[1], &n)) return FV_ERR_OOM;
    s->middle = fv_calloc(f->ctx, n, 3 * sizeof(float));
    if (!s->middle) return FV_ERR_OOM;
    FV_TRY(fvi_resize_create(f->ctx, &s->larger, in[0] > in[1] ? in[0] : in[1],
                             size[0] > size[1] ? size[0] : size[1], 0));
    return fvi_resize_set(s->larger, how, in, size);
}

static fv_status open_stream(fv_sr_stream *s, const fv_sr_options *o)
{
    fv_memory_stats m;
    fv_ctx_memory(s->frame.ctx, &m);
    FV_TRY(sr_frame_options(&s->frame, o));
    FV_TRY(make_larger(s));
    return sr_frame_prepare(&s->frame, m.current_bytes);
}

fv_status fv_sr_stream_open(fv_ctx *ctx, fv_sr_stream **out, const fv_sr *sr, int width, int height,
                            const fv_sr_options *o, fv_sr_stats *stats)
{
    if (stats) *stats = (fv_sr_stats){ 0 };
    if (!out || !sr || width < 1 || height < 1)
        return fv_fail(ctx, FV_ERR_ARG, "super-resolution: frames of %d x %d, or no model", width,
                       height);
    *out = NULL;
    fv_sr_stream *s = fv_calloc(ctx, 1, sizeof *s);
    if (!s) return FV_ERR_OOM;
    s->frame = (sr_frame){ .ctx = ctx, .sr = sr, .in_width = width, .in_height = height,
                           .write = write_floats, .user = s };
    const fv_status status = open_stream(s, o);
    if (stats) stats->least_bytes = s->frame.least;
    if (status == FV_OK) *out = s;
    else fv_sr_stream_close(&s);
    return status;
}

void fv_sr_stream_close(fv_sr_stream **s)
{
    if (!s || !*s) return;
    fv_ctx *ctx = (*s)->frame.ctx;
    sr_frame_free(&(*s)->frame);
    fvi_resize_free(&(*s)->larger);
    fv_free(ctx, (*s)->middle);
    fv_free(ctx, *s);
    *s = NULL;
}

void fv_sr_stream_size(const fv_sr_stream *s, int *width, int *height)
{
    *width = s->frame.width;
    *height = s->frame.height;
}

fv_status fv_sr_stream_frame(fv_sr_stream *s, const float *in, float *out, fv_sr_stats *stats)
{
    fv_sr_stats own = { 0 };
    const double start = fv_now();
    if (!s || !in || !out)
        return fv_fail(s ? s->frame.ctx : NULL, FV_ERR_ARG, "super-resolution: a frame is missing");
    s->out = s->larger ? s->middle : out;
    FV_TRY(sr_frame_run(&s->frame, in, &own));
    if (s->larger) {
        const size_t n = 3 * (size_t)s->frame.width * (size_t)s->frame.height;
        fvi_resize_run(s->larger, s->middle, 3, out);
        for (size_t i = 0; i < n; i++) out[i] = fv_clamp_unit(out[i]);
    }
    own.seconds = fv_now() - start;
    if (stats) *stats = own;
    return FV_OK;
}
