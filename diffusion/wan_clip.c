/* wan_clip.c - clips of any length through windows of frames: enlarging, encoder, flow, two decodings
 * and the frequency-domain update.
 *
 *     frames [s, s + W) --VAE--> z_L --flow--> zhat_0, zhat_last --VAE--> base, draft --FDU--> frames
 *
 * One decoding of the base, one of the last draft: the estimates between are never shown. Of the two
 * only what is shown is decoded, and without the draft's detail no draft is computed. While a window
 * is computed there are its own frames and the last outputs of the window before. */
#include "wan.h"

#include <math.h>
#include <string.h>

typedef struct clip {
    fv_ctx *ctx;
    const fv_wan_options *o;
    const fv_wan_frames *io;
    wan_model *model;
    wan_vae *vae;
    wan_flow *flow;
    fv_fdu *fdu;             /* NULL: one of the two alone */
    fvi_resize *resize;      /* NULL: frames have their size */
    int h, w;                /* multiples of 16 */
    int steps;
    int frames;              /* of a window, 1 + 4k */
    size_t pixels, padded;   /* floats of a frame */
    float *small;            /* a frame as read, if it is enlarged */
    float *in, *out, *tail;  /* frames: of the source, results, of the window before */
    int room;                /* frames in `in` */
    float *four, *draft;     /* 4 frames of the autoencoder; one of the draft */
    float *z, *zhat[WAN_MAX_TIMES]; /* zhat: NULL where it is not shown */
    int shared;              /* frames in tail */
    bool has_ended;          /* the source */
} clip;

/* ---- Frames ---------------------------------------------------------------------------------- */

/* To [-1, 1], the last row and column go on. */
static void extend(const clip *c, const float *rgb, float *to)
{
    for (int y = 0; y < c->h; y++)
        for (int x = 0; x < c->w; x++, to += 3) {
            const int sy = y < c->o->height ? y : c->o->height - 1;
            const int sx = x < c->o->width ? x : c->o->width - 1;
            const float *from = rgb + ((size_t)sy * (size_t)c->o->width + (size_t)sx) * 3;
            for (int k = 0; k < 3; k++) to[k] = 2 * from[k] - 1;
        }
}

static void crop(const clip *c, const float *from, float *rgb)
{
    const size_t row = (size_t)c->o->width * 3;
    for (int y = 0; y < c->o->height; y++)
        for (size_t x = 0; x < row; x++)
            rgb[(size_t)y * row + x] = 0.5f * from[(size_t)y * (size_t)c->w * 3 + x] + 0.5f;
}

static bool take(clip *c, float **to, size_t frames, size_t floats)
{
    size_t n;
    *to = fv_mul_size(frames, floats, &n) ? fv_calloc(c->ctx, n, sizeof(float)) : NULL;
    return *to != NULL;
}

static fv_status read_frame(clip *c, float *to, int *has_one)
{
    *has_one = 0;
    if (!c->resize) return c->io->read(c->io->user, to, has_one);
    FV_TRY(c->io->read(c->io->user, c->small, has_one));
    if (!*has_one) return FV_OK;
    fvi_resize_run(c->resize, c->small, 3, to);
    for (size_t i = 0; i < c->pixels; i++) to[i] = to[i] < 0 ? 0 : to[i] > 1 ? 1 : to[i];
    return FV_OK;
}

/* Room for twice the frames, at most a window: short clips take little memory. */
static fv_status grow(clip *c)
{
    const int room = c->room == 0 ? 1 : 2 * c->room < c->o->window ? 2 * c->room : c->o->window;
    float *more;
    if (!take(c, &more, (size_t)room, c->pixels)) return FV_ERR_OOM;
    if (c->room) memcpy(more, c->in, (size_t)c->room * c->pixels * sizeof *more);
    fv_free(c->ctx, c->in);
    c->in = more;
    c->room = room;
    return FV_OK;
}

/* Up to n frames from the first place on; fewer at the end of the clip. */
static fv_status read_frames(clip *c, int n, int *count)
{
    for (*count = 0; *count < n && !c->has_ended; ++*count) {
        int has_one;
        if (*count == c->room) FV_TRY(grow(c));
        FV_TRY(read_frame(c, c->in + (size_t)*count * c->pixels, &has_one));
        c->has_ended = !has_one;
        if (!has_one) break;
    }
    return FV_OK;
}

static fv_status write_frames(clip *c, int first, int end)
{
    for (int t = first; t < end; t++)
        FV_TRY(c->io->write(c->io->user, c->out + (size_t)t * c->pixels));
    return FV_OK;
}

/* ---- A window -------------------------------------------------------------------------------- */

static fv_status encode(clip *c, int n)
{
    const size_t latent = c->padded / 3 / 64 * WAN_LATENT;
    wan_vae_restart(c->vae);
    for (int t = 0, k = 0; t < c->frames; k++) {
        const int count = t ? 4 : 1;
        FV_TRY(fv_report(c->ctx, "encoding", (uint64_t)t, (uint64_t)c->frames, NULL));
        for (int i = 0; i < count; i++, t++)
            extend(c, c->in + (size_t)(t < n ? t : n - 1) * c->pixels,
                   c->four + (size_t)i * c->padded);
        FV_TRY(wan_vae_encode(c->vae, c->four, c->z + (size_t)k * latent));
    }
    return FV_OK;
}

/* The first n frames of latents into `out`, or as the draft that updates what is there. */
static fv_status decode(clip *c, const float *z, bool is_update, int n)
{
    const size_t latent = c->padded / 3 / 64 * WAN_LATENT;
    wan_vae_restart(c->vae);
    for (int t = 0, k = 0; t < n; k++) {
        const int count = t ? 4 : 1;
        FV_TRY(fv_report(c->ctx, "decoding", (uint64_t)t, (uint64_t)n, NULL));
        FV_TRY(wan_vae_decode(c->vae, z + (size_t)k * latent, c->four));
        for (int i = 0; i < count && t < n; i++, t++) {
            float *out = c->out + (size_t)t * c->pixels;
            crop(c, c->four + (size_t)i * c->padded, is_update ? c->draft : out);
            if (is_update) FV_TRY(fv_fdu_run(c->fdu, out, c->draft, out));
        }
    }
    return FV_OK;
}

static fv_status check_finite(clip *c, int n)
{
    for (size_t i = 0; i < (size_t)n * c->pixels; i++)
        if (!isfinite(c->out[i]))
            return fv_fail(c->ctx, FV_ERR_NUMERIC, "super-resolution: a value is not finite");
    return FV_OK;
}

/* Results of the n frames in `in`, blended with what the window before left. */
static fv_status compute(clip *c, int n)
{
    FV_TRY(encode(c, n));
    FV_TRY(fv_report(c->ctx, "refining", 0, 1, NULL));
    FV_TRY(wan_flow_run(c->flow, c->z, c->zhat));
    if (c->zhat[0]) FV_TRY(decode(c, c->zhat[0], false, n));
    if (c->steps > 1) FV_TRY(decode(c, c->zhat[c->steps - 1], c->fdu != NULL, n));
    FV_TRY(check_finite(c, n));
    for (int t = 0; t < c->shared; t++) {
        const float f = c->shared > 1 ? (float)t / (float)(c->shared - 1) : 0.0f;
        float *out = c->out + (size_t)t * c->pixels;
        const float *old = c->tail + (size_t)t * c->pixels;
        for (size_t i = 0; i < c->pixels; i++) out[i] = (1 - f) * old[i] + f * out[i];
    }
    return FV_OK;
}

/* ---- The clip -------------------------------------------------------------------------------- */

/* What is shown of base and draft, latents [latents] for it, and the update of both. */
static fv_status choose(clip *c, size_t latents)
{
    const wan_config *g = &c->model->net.cfg;
    fv_fdu_options fdu = FV_FDU_OPTIONS_INIT;
    fdu.mode = c->o->fdu < 0 ? g->fdu : (fv_fdu_mode)c->o->fdu;
    fdu.alpha = c->o->detail < 0 ? g->alpha : c->o->detail;
    if (fdu.alpha == 0 && fdu.mode != FV_FDU_REF && fdu.mode != FV_FDU_OFF) c->steps = 1;
    const bool has_draft = c->steps > 1, has_base = !has_draft || fdu.mode != FV_FDU_OFF;
    if (has_base && !take(c, &c->zhat[0], 1, latents)) return FV_ERR_OOM;
    if (has_draft && !take(c, &c->zhat[c->steps - 1], 1, latents)) return FV_ERR_OOM;
    if (!has_base || !has_draft) return FV_OK;
    if (!take(c, &c->draft, 1, c->pixels)) return FV_ERR_OOM;
    return fv_fdu_create(c->ctx, &c->fdu, c->o->width, c->o->height, &fdu);
}

/* For windows of n frames. */
static fv_status prepare(clip *c, const fv_model *file, int n)
{
    const int F = (n + 2) / 4 + 1;
    const size_t latents = (size_t)F * (c->padded / 3 / 64) * WAN_LATENT;
    c->frames = 4 * F - 3;
    if (!take(c, &c->out, (size_t)n, c->pixels) || !take(c, &c->four, 4, c->padded) ||
        !take(c, &c->z, 1, latents))
        return FV_ERR_OOM;
    if (n == c->o->window && !take(c, &c->tail, (size_t)n, c->pixels)) return FV_ERR_OOM;
    FV_TRY(choose(c, latents));
    FV_TRY(wan_vae_open(c->ctx, &c->vae, file, c->h, c->w, 1));
    return wan_flow_create(c->model, &c->flow, F, c->h / 8, c->w / 8, c->steps);
}

/* The networks, and what enlarges frames. */
static fv_status open_clip(clip *c, const fv_model *file)
{
    const fv_wan_options *o = c->o;
    const int in[2] = {o->in_height, o->in_width}, out[2] = {o->height, o->width};
    const fvi_resampling how = {FVI_RESIZE_BICUBIC75, false, true};
    FV_TRY(wan_model_open(c->ctx, &c->model, file, NULL, false, o->precision));
    c->steps = o->steps ? o->steps : c->model->net.cfg.times;
    if (c->steps > c->model->net.cfg.times)
        return fv_fail(c->ctx, FV_ERR_ARG, "super-resolution: %d steps, the model has %d", c->steps,
                       c->model->net.cfg.times);
    if (in[0] == out[0] && in[1] == out[1]) return FV_OK;
    if (!take(c, &c->small, (size_t)in[0] * 3, (size_t)in[1])) return FV_ERR_OOM;
    FV_TRY(fvi_resize_create(c->ctx, &c->resize, in[0] > in[1] ? in[0] : in[1],
                             out[0] > out[1] ? out[0] : out[1], 0));
    return fvi_resize_set(c->resize, how, in, out);
}

static fv_status run(clip *c, const fv_model *file)
{
    const int step = c->o->window - c->o->overlap;
    int n, more = 0;
    FV_TRY(open_clip(c, file));
    FV_TRY(read_frames(c, c->o->window, &n));
    if (n == 0) return FV_OK;
    FV_TRY(prepare(c, file, n));
    for (;;) {
        FV_TRY(compute(c, n));
        if (n < c->o->window) break; /* the only one */
        /* New frames go over the oldest ones, which the next window does not have. */
        FV_TRY(read_frames(c, step, &more));
        if (more == 0) break;
        FV_TRY(write_frames(c, 0, more));
        c->shared = n - more;
        memcpy(c->tail, c->in, (size_t)more * c->pixels * sizeof *c->tail);
        memmove(c->in, c->in + (size_t)more * c->pixels,
                (size_t)c->shared * c->pixels * sizeof *c->in);
        memcpy(c->in + (size_t)c->shared * c->pixels, c->tail,
               (size_t)more * c->pixels * sizeof *c->in);
        memcpy(c->tail, c->out + (size_t)more * c->pixels,
               (size_t)c->shared * c->pixels * sizeof *c->tail);
    }
    return write_frames(c, 0, n);
}

static void free_clip(clip *c)
{
    float *const block[] = {c->in, c->out, c->tail, c->four, c->draft, c->z, c->small};
    wan_flow_close(&c->flow);
    wan_vae_close(&c->vae);
    wan_model_close(&c->model);
    fv_fdu_close(&c->fdu);
    fvi_resize_free(&c->resize);
    for (size_t i = 0; i < FV_ARRAY_LEN(block); i++) fv_free(c->ctx, block[i]);
    for (int k = 0; k < WAN_MAX_TIMES; k++) fv_free(c->ctx, c->zhat[k]);
}

int fv_wan_is_model(const fv_model *m)
{
    const char *kind = m ? fv_model_meta(m, "fovea.kind") : NULL;
    return kind && strcmp(kind, "pssr-wan") == 0;
}

static bool is_side(int n) { return n >= 1 && n <= 16384; }

static fv_status check_options(fv_ctx *ctx, const fv_wan_options *o)
{
    if (!is_side(o->in_height) || !is_side(o->in_width) || !is_side(o->height) ||
        !is_side(o->width))
        return fv_fail(ctx, FV_ERR_ARG, "super-resolution: sides must be 1 to 16384");
    if (o->window < 1 || o->window > 1025 || o->window % 4 != 1 || o->overlap < 0 ||
        o->overlap >= o->window)
        return fv_fail(ctx, FV_ERR_ARG,
                       "super-resolution: windows must be 1 + 4k frames, at most "
                       "1025, and overlaps shorter");
    if (o->steps < 0 || o->steps > WAN_MAX_TIMES || !(o->detail <= 2) || o->fdu < -1 ||
        o->fdu > FV_FDU_OFF || (o->precision != FV_F32 && o->precision != FV_BF16))
        return fv_fail(ctx, FV_ERR_ARG,
                       "super-resolution: steps, detail, update or precision is out "
                       "of range");
    return FV_OK;
}

fv_status fv_wan_restore(fv_ctx *ctx, const fv_model *file, const fv_wan_options *opts,
                         const fv_wan_frames *io)
{
    fv_wan_options o = FV_WAN_OPTIONS_INIT;
    FV_TRY(FV_TAKE_OPTIONS(ctx, &o, opts, "super-resolution"));
    if (!file || !io || !io->read || !io->write)
        return fv_fail(ctx, FV_ERR_ARG, "super-resolution: no file, or nowhere to read and write");
    if (o.height == 0 && o.width == 0) {
        o.height = o.in_height;
        o.width = o.in_width;
    }
    if (o.window == 0) o.window = 33;
    if (o.overlap == -1) o.overlap = o.window / 2;
    FV_TRY(check_options(ctx, &o));
    clip c = {.ctx = ctx, .o = &o, .io = io};
    c.h = (o.height + 15) / 16 * 16;
    c.w = (o.width + 15) / 16 * 16;
    c.pixels = (size_t)o.height * (size_t)o.width * 3;
    c.padded = (size_t)c.h * (size_t)c.w * 3;
    const fv_status s = run(&c, file);
    free_clip(&c);
    return s;
}
