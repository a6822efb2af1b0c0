/* bench_sr_motion.c - fovea bench sr: clips with known motion. Each frame is enlarged by itself, but
 * by models that were trained on clips as a stream. */
#include "bench_sr.h"

#include <math.h>
#include <stdlib.h>

#define CLIP_FRAMES 5
#define CLIP_SIDE 256

typedef struct sr_clip {
    float *source, *frame[CLIP_FRAMES], *made[2], *flow, *back;
    fv_image small[CLIP_FRAMES];
    int width, height; /* of the source */
    fv_clip_path path;
} sr_clip;

static void clip_free(fv_ctx *ctx, sr_clip *c)
{
    for (int t = 0; t < CLIP_FRAMES; t++) {
        free(c->frame[t]);
        fv_image_free(ctx, &c->small[t]);
    }
    for (int k = 0; k < 2; k++) free(c->made[k]);
    free(c->source);
    free(c->flow);
    free(c->back);
}

static fv_status clip_make(sr_bench *b, sr_clip *c, const fv_image *img, uint32_t sample)
{
    const size_t n = (size_t)CLIP_SIDE * CLIP_SIDE;
    fv_clip_options o = FV_CLIP_OPTIONS_INIT;
    c->source = sr_floats(img);
    c->flow = malloc(2 * n * sizeof(float));
    c->back = malloc(2 * n * sizeof(float));
    for (int k = 0; k < 2; k++) c->made[k] = malloc(3 * n * sizeof(float));
    if (!c->source || !c->flow || !c->back || !c->made[0] || !c->made[1]) return FV_ERR_OOM;
    o.frames = CLIP_FRAMES;
    o.width = o.height = CLIP_SIDE;
    o.source_width = img->width;
    o.source_height = img->height;
    fv_status s = fv_clip_draw(b->ctx, &o, sample, &c->path);
    for (int t = 0; t < CLIP_FRAMES && s == FV_OK; t++) {
        c->frame[t] = malloc(3 * n * sizeof(float));
        if (!c->frame[t]) return FV_ERR_OOM;
        s = fv_clip_frame(b->ctx, &c->path, t, c->source, img->width, img->height, c->frame[t],
                          CLIP_SIDE, CLIP_SIDE);
        if (s == FV_OK)
            s = sr_make_small(b, c->frame[t], CLIP_SIDE, CLIP_SIDE, sample, (uint32_t)t,
                              &c->small[t]);
    }
    return s;
}

/* Error between frames t and t + 1. */
static fv_status add_error(sr_bench *b, sr_clip *c, int t, const float *one, const float *next,
                           double *sum)
{
    double error = 0;
    fv_status s = fv_clip_flow(b->ctx, &c->path, t, t + 1, c->flow, CLIP_SIDE, CLIP_SIDE);
    if (s == FV_OK) s = fv_clip_flow(b->ctx, &c->path, t + 1, t, c->back, CLIP_SIDE, CLIP_SIDE);
    if (s == FV_OK)
        s = fv_warping_error(b->ctx, one, next, CLIP_SIDE, CLIP_SIDE, c->flow, c->back, &error,
                             NULL);
    *sum += error;
    return s;
}

static fv_status open_stream(const sr_bench *b, const sr_way *w, const fv_image *small,
                             fv_sr_stream **out)
{
    const fv_sr_options o = sr_options(w);
    if (w->steps == 0 || !b->info.is_video) return FV_OK;
    return fv_sr_stream_open(b->ctx, out, b->sr, small->width, small->height, &o, NULL);
}

/* The next frame, in 8 bits; stream NULL: as a picture. */
static fv_status enlarge_frame(const sr_bench *b, const sr_way *w, fv_sr_stream *stream,
                               const fv_image *small, float *out)
{
    fv_image made = {0};
    float *in = stream ? sr_floats(small) : NULL;
    fv_status s = stream && !in ? FV_ERR_OOM : FV_OK;
    if (s == FV_OK && stream) {
        s = fv_sr_stream_frame(stream, in, out, NULL);
        for (int i = 0; i < 3 * CLIP_SIDE * CLIP_SIDE && s == FV_OK; i++)
            out[i] = roundf(255 * out[i]) / 255;
    } else if (s == FV_OK) {
        s = sr_enlarge(b, w, small, &made, NULL);
        if (s == FV_OK) fv_image_to_float(&made, 0.0f, 1.0f, out);
    }
    fv_image_free(b->ctx, &made);
    free(in);
    return s;
}

static fv_status clip_way(sr_bench *b, sr_clip *c, sr_way *w)
{
    fv_sr_stream *stream = NULL;
    fv_status s = open_stream(b, w, &c->small[0], &stream);
    for (int t = 0; t < CLIP_FRAMES && s == FV_OK; t++) {
        s = enlarge_frame(b, w, stream, &c->small[t], c->made[t % 2]);
        if (s == FV_OK && t > 0)
            s = add_error(b, c, t - 1, c->made[(t - 1) % 2], c->made[t % 2], &w->motion);
        if (s == FV_OK && cli_interrupted()) s = FV_ERR_CANCELLED;
    }
    fv_sr_stream_close(&stream);
    return s;
}

fv_status sr_run_clip(sr_bench *b, const fv_image *img, uint32_t sample)
{
    sr_clip *c = calloc(1, sizeof *c);
    if (!c) return FV_ERR_OOM;
    fv_status s = clip_make(b, c, img, sample);
    for (int i = 0; i < b->ways && s == FV_OK; i++) s = clip_way(b, c, &b->way[i]);
    for (int t = 1; t < CLIP_FRAMES && s == FV_OK; t++)
        s = add_error(b, c, t - 1, c->frame[t - 1], c->frame[t], &b->original_motion);
    if (s == FV_OK) b->clips++;
    clip_free(b->ctx, c);
    free(c);
    return s;
}
