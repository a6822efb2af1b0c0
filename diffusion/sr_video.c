/* sr_video.c - frames through super-resolution one after another: plans, planes and tables are made
 * once, so a frame allocates nothing and memory does not grow with the video.
 *
 * Frames of a model that was trained on clips see features of the one before [pssr_shift], others are
 * pictures. A frame begins anew where the video is cut. A cut is a mean difference of the luma of
 * frames made 8 times smaller that is above a bound and more than twice the one before it: a fast pan
 * over contrasts differs as much, but does so in every frame. (So do scenes of one frame each, which
 * are taken for one.) */
#include "sr.h"

#include <math.h>
#include <string.h>

#define SMALLER 8
#define DEFAULT_CUT 0.1f
#define MORE_THAN_BEFORE 2

/* Luma of frames, 8 times smaller, in [0, 1]. */
typedef struct cuts {
    float *luma[2]; /* before, now; NULL: not looked for */
    int width, height;
    float bound;
    double difference; /* of the frame before */
} cuts;

struct fv_sr_stream {
    sr_frame frame;
    fvi_resize *larger; /* beyond what the networks do */
    float *middle;      /* then: their result */
    float *out;         /* of the running call, at the networks' size */
    cuts cuts;
};

/* ---- Cuts ------------------------------------------------------------------------------------ */

static fv_status make_cuts(fv_sr_stream *s)
{
    const sr_frame *f = &s->frame;
    cuts *c = &s->cuts;
    c->bound = f->o.scene_cut == 0 ? DEFAULT_CUT : f->o.scene_cut;
    if (!f->sr->net.cfg.is_video || c->bound < 0) return FV_OK;
    c->width = (f->in_width + SMALLER - 1) / SMALLER;
    c->height = (f->in_height + SMALLER - 1) / SMALLER;
    for (int k = 0; k < 2; k++) {
        c->luma[k] = fv_calloc(f->ctx, (size_t)c->width * (size_t)c->height, sizeof(float));
        if (!c->luma[k]) return FV_ERR_OOM;
    }
    return FV_OK;
}

static float mean_luma(const fv_sr_stream *s, const float *in, int column, int row)
{
    const sr_frame *f = &s->frame;
    const int x0 = column * SMALLER, x1 = sr_smaller(x0 + SMALLER, f->in_width);
    const int y0 = row * SMALLER, y1 = sr_smaller(y0 + SMALLER, f->in_height);
    float sum = 0;
    for (int y = y0; y < y1; y++) {
        const float *p = in + 3 * ((size_t)y * (size_t)f->in_width + (size_t)x0);
        for (int x = x0; x < x1; x++, p += 3)
            sum += 0.299f * p[0] + 0.587f * p[1] + 0.114f * p[2];
    }
    return sum / (float)((x1 - x0) * (y1 - y0));
}

/* Of a frame with one before it; the frame is then that. */
static bool is_cut(fv_sr_stream *s, const float *in)
{
    cuts *c = &s->cuts;
    if (!c->luma[0]) return false;
    const int n = c->width * c->height;
    float *now = c->luma[1];
    double sum = 0;
    for (int i = 0; i < n; i++) {
        now[i] = mean_luma(s, in, i % c->width, i / c->width);
        sum += fabs((double)now[i] - (double)c->luma[0][i]);
    }
    c->luma[1] = c->luma[0];
    c->luma[0] = now;
    if (!s->frame.past.is_there) {
        c->difference = 0;
        return false;
    }
    const double mean = sum / n;
    const bool cut = mean > (double)c->bound && mean > MORE_THAN_BEFORE * c->difference;
    c->difference = mean;
    return cut;
}

/* ---- Opening --------------------------------------------------------------------------------- */

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
    FV_TRY(make_cuts(s));
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
                           .write = write_floats, .user = s, .is_stream = true };
    const fv_status status = open_stream(s, o);
    if (stats) {
        stats->least_bytes = s->frame.least;
        stats->ample_bytes = s->frame.ample;
    }
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
    for (int k = 0; k < 2; k++) fv_free(ctx, (*s)->cuts.luma[k]);
    fv_free(ctx, *s);
    *s = NULL;
}

void fv_sr_stream_size(const fv_sr_stream *s, int *width, int *height)
{
    *width = s->frame.width;
    *height = s->frame.height;
}

void fv_sr_stream_restart(fv_sr_stream *s)
{
    if (s) sr_frame_forget(&s->frame);
}

/* ---- Frames ---------------------------------------------------------------------------------- */

fv_status fv_sr_stream_frame(fv_sr_stream *s, const float *in, float *out, fv_sr_stats *stats)
{
    fv_sr_stats own = { 0 };
    const double start = fv_now();
    if (!s || !in || !out)
        return fv_fail(s ? s->frame.ctx : NULL, FV_ERR_ARG, "super-resolution: a frame is missing");
    s->out = s->larger ? s->middle : out;
    own.is_cut = is_cut(s, in);
    if (own.is_cut) sr_frame_forget(&s->frame);
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
