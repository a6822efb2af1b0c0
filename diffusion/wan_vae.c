/* wan_vae.c - the causal 3-D autoencoder of Wan2.1, frame by frame; a latent is 4 frames of 8x8.
 *
 *     encoder  conv1 | Res Res down | Res Res down+time | Res Res down+time | Res Res
 *              | Res Attn Res | norm silu conv | conv1: mean of the latent in the first 16 channels
 *     decoder  conv2 | conv1 | Res Attn Res | 3 Res time+up | 3 Res time+up | 3 Res up | 3 Res
 *              | norm silu conv
 *     Res      x + conv(silu(norm(conv(silu(norm(x))))));  1x1 shortcut where widths differ
 *     norm     x / |x| sqrt(C) gamma, over channels
 *     conv     3x3x3, sees its frame and the two before it, zeros before the first
 *     down     2-D convolution of stride 2, zeros at the right and the bottom
 *     down time  frame 0 stays; then one frame of each (2i, 2i + 1, 2i + 2)
 *     up time    frame 0 stays; each later one becomes two, channels first and second half, seeing
 *                two frames before it, but for frame 0, which is zero to it
 *     up       nearest x2, 2-D convolution to half the channels
 *     Attn     one head over the pixels of a frame
 *
 * A convolution over three frames is one over three times the channels of the frames beside each
 * other: weights [O, 3, C, 3, 3]. Each keeps the last two frames that it saw (down time: one) in a
 * ring of buffers for the next call, copied over those of the last call when they have been used: a
 * plan runs in the order in which it was recorded. The first frame alone, then groups of four, or one
 * latent at a time, give the same numbers as the whole clip. Rings of encoder and decoder share their
 * memory: a clip is encoded first.
 *
 * The same walk over the layers registers parameters (no tape) and records them. */
#include "wan.h"

#include <math.h>
#include <string.h>

#define MAX_CACHES 40
#define RING 2         /* buffers of a cache */
#define MAX_FRAMES 33  /* of one call */
#define VAE_EPS 1e-24f /* of the mean square: 1e-12 of the length in the published code */
#define MAX_WIDTH 4096

static const float latent_mean[WAN_LATENT] = {
    -0.7571f, -0.7089f, -0.9113f, 0.1075f,  -0.1745f, 0.9653f,  -0.1517f, 1.5508f,
    0.4134f,  -0.0715f, 0.5517f,  -0.3632f, -0.1922f, -0.9497f, 0.2503f,  -0.2921f};
static const float latent_std[WAN_LATENT] = {2.8184f, 1.4541f, 2.3275f, 2.6558f, 1.2196f, 1.7708f,
                                             2.6052f, 2.0743f, 3.2687f, 2.1526f, 2.8652f, 1.5579f,
                                             1.6382f, 1.1253f, 2.8251f, 1.9160f};

/* ---- Walking over layers --------------------------------------------------------------------- */

/* Frames of one size; handles of ops [1, H, W, C] or [1, H*W, C]. */
typedef struct clip {
    fv_t frame[MAX_FRAMES];
    int n;
    int64_t H, W, C;
} clip;

typedef struct cache {
    int depth;         /* frames that are read                     */
    int reads, writes; /* of this plan                             */
    int64_t count;     /* floats of a frame                        */
} cache;

typedef struct walk {
    fv_params *params;
    fv_tape *t;    /* NULL: registers parameters               */
    bool is_first; /* call of a clip                           */
    bool failed;   /* to register a parameter                  */
    char path[96]; /* in front of all names                    */
    cache cache[MAX_CACHES];
    int caches;
} walk;

static fv_pid param(walk *w, const char *name, const char *leaf, int ndim, const int64_t *dim)
{
    char full[160];
    snprintf(full, sizeof full, "vae.%s%s.%s", w->path, name, leaf);
    if (w->t) return fv_params_find(w->params, full);
    const fv_pid id = fv_params_add(w->params, full, ndim, dim, ndim > 1 ? FV_PARAM_DECAY : 0);
    w->failed = w->failed || id < 0;
    return id;
}

static wan_layer layer(walk *w, const char *name, int64_t out, int64_t in, int kernel)
{
    const int64_t dim[4] = {out, in, kernel, kernel};
    wan_layer l;
    l.w = param(w, name, "weight", kernel ? 4 : 2, dim);
    l.b = param(w, name, "bias", 1, dim);
    return l;
}

static fv_t as_map(walk *w, fv_t x, const clip *c)
{
    const int64_t dim[4] = {1, c->H, c->W, c->C};
    return fv_reshape(w->t, x, 4, dim);
}

static fv_t as_rows(walk *w, fv_t x, const clip *c)
{
    const int64_t dim[3] = {1, c->H * c->W, c->C};
    return fv_reshape(w->t, x, 3, dim);
}

/* The frame's neighbours in time, for convolutions that see `depth` frames before a call. */
static void begin_cache(walk *w, const clip *c, int depth, bool is_read, fv_t past[2])
{
    const int64_t dim[4] = {1, c->H, c->W, c->C};
    cache *k = &w->cache[w->caches];
    *k = (cache){.depth = depth, .reads = is_read ? depth : 0, .count = c->H * c->W * c->C};
    for (int i = 0; i < k->reads; i++) {
        char name[32];
        snprintf(name, sizeof name, "past.%d.%d", w->caches, i);
        past[i] = fv_input(w->t, name, FV_F32, 4, dim);
    }
}

/* What the next call will see: the last frames of this one. After all that reads the ones before, with
 * which they may share a buffer. */
static void end_cache(walk *w, const clip *c, int from)
{
    cache *k = &w->cache[w->caches];
    const int seen = c->n - from;
    k->writes = seen < k->depth ? seen : k->depth;
    for (int i = 0; i < k->writes; i++) {
        char name[32];
        snprintf(name, sizeof name, "next.%d.%d", w->caches, i);
        fv_output(w->t, name, fv_affine(w->t, c->frame[c->n - k->writes + i], 1.0f, 0.0f));
    }
    w->caches++;
}

static fv_t beside(walk *w, const clip *c, const fv_t frame[3])
{
    const fv_t two = fv_concat(w->t, as_map(w, frame[0], c), as_map(w, frame[1], c), 3);
    return fv_concat(w->t, two, as_map(w, frame[2], c), 3);
}

/* 3x3x3, or 3x1x1 with kernel 0; frames before `from` pass unseen and are left out. */
static void causal(walk *w, const char *name, clip *c, int64_t out, int kernel, int from)
{
    const wan_layer l = layer(w, name, out, 3 * c->C, kernel);
    const fv_conv same = {1, 1, 1, 1, 1, FV_ACT_NONE};
    fv_t seen[3] = {0, 0, 0};
    clip y = *c;
    if (!w->t) {
        c->C = out;
        return;
    }
    begin_cache(w, c, 2, c->n > from, seen + 1);
    for (int i = from; i < c->n; i++) {
        seen[0] = seen[1];
        seen[1] = seen[2];
        seen[2] = c->frame[i];
        const fv_t x = beside(w, c, seen);
        y.frame[i] =
            kernel ? fv_conv2d(w->t, x, l.w, l.b, same) : fv_linear(w->t, x, l.w, l.b, FV_ACT_NONE);
    }
    end_cache(w, c, from);
    y.C = out;
    *c = y;
}

static void norm_silu(walk *w, const char *name, clip *c, fv_act act)
{
    const fv_pid gamma = param(w, name, "gamma", 1, &c->C);
    for (int i = 0; i < c->n && w->t; i++) {
        const fv_norm n = {FV_NORM_RMS, VAE_EPS, fv_param(w->t, gamma), 0, 0, -1, -1};
        c->frame[i] = fv_activate(w->t, fv_norm_modulate(w->t, as_rows(w, c->frame[i], c), n), act);
    }
}

/* 1x1x1 */
static void pointwise(walk *w, const char *name, clip *c, int64_t out)
{
    const wan_layer l = layer(w, name, out, c->C, 0);
    for (int i = 0; i < c->n && w->t; i++)
        c->frame[i] = fv_linear(w->t, as_rows(w, c->frame[i], c), l.w, l.b, FV_ACT_NONE);
    c->C = out;
}

static void add_clip(walk *w, clip *c, const clip *to)
{
    for (int i = 0; i < c->n && w->t; i++)
        c->frame[i] =
            fv_binary_op(w->t, FV_ADD, as_rows(w, to->frame[i], c), as_rows(w, c->frame[i], c));
}

static void enter(walk *w, size_t *length, const char *form, int i)
{
    *length = strlen(w->path);
    snprintf(w->path + *length, sizeof w->path - *length, form, i);
}

static void residual(walk *w, int index, const char *form, clip *c, int64_t out)
{
    size_t length;
    clip x = *c;
    enter(w, &length, form, index);
    norm_silu(w, "residual.0", c, FV_ACT_SILU);
    causal(w, "residual.2", c, out, 3, 0);
    norm_silu(w, "residual.3", c, FV_ACT_SILU);
    causal(w, "residual.6", c, out, 3, 0);
    if (x.C != out) pointwise(w, "shortcut", &x, out);
    add_clip(w, c, &x);
    w->path[length] = 0;
}

static void attention(walk *w, clip *c)
{
    const clip x = *c;
    const int64_t qkv[5] = {1, c->H * c->W, 3, 1, c->C};
    size_t length;
    enter(w, &length, "middle.%d.", 1);
    norm_silu(w, "norm", c, FV_ACT_NONE);
    pointwise(w, "to_qkv", c, 3 * x.C);
    c->C = x.C;
    for (int i = 0; i < c->n && w->t; i++)
        c->frame[i] = fv_sdpa(w->t, fv_reshape(w->t, c->frame[i], 5, qkv), 0.0f, 0);
    pointwise(w, "proj", c, x.C);
    add_clip(w, c, &x);
    w->path[length] = 0;
}

static void middle(walk *w, clip *c)
{
    residual(w, 0, "middle.%d.", c, c->C);
    attention(w, c);
    residual(w, 2, "middle.%d.", c, c->C);
}

/* ---- Encoder --------------------------------------------------------------------------------- */

static void down_time(walk *w, clip *c)
{
    const wan_layer l = layer(w, "time_conv", c->C, 3 * c->C, 0);
    fv_t s[MAX_FRAMES + 1];
    clip y = *c;
    int n = 0;
    if (!w->t) return;
    begin_cache(w, c, 1, !w->is_first, s);
    n = w->cache[w->caches].reads;
    for (int i = 0; i < c->n; i++) s[n++] = c->frame[i];
    end_cache(w, c, 0);
    y.n = 0;
    if (w->is_first) y.frame[y.n++] = c->frame[0];
    for (int i = 0; i + 2 < n; i += 2)
        y.frame[y.n++] = fv_linear(w->t, beside(w, c, s + i), l.w, l.b, FV_ACT_NONE);
    *c = y;
}

static void down(walk *w, int index, clip *c, bool in_time)
{
    const fv_conv half = {2, 0, 0, 1, 1, FV_ACT_NONE};
    size_t length;
    enter(w, &length, "downsamples.%d.", index);
    const wan_layer l = layer(w, "resample.1", c->C, c->C, 3);
    for (int i = 0; i < c->n && w->t; i++)
        c->frame[i] = fv_conv2d(w->t, as_map(w, c->frame[i], c), l.w, l.b, half);
    c->H /= 2;
    c->W /= 2;
    if (in_time) down_time(w, c);
    w->path[length] = 0;
}

static void encoder(walk *w, const int width[4], clip *c)
{
    size_t length;
    int index = 0;
    enter(w, &length, "encoder.", 0);
    causal(w, "conv1", c, width[0], 3, 0);
    for (int level = 0; level < 4; level++) {
        for (int i = 0; i < 2; i++) residual(w, index++, "downsamples.%d.", c, width[level]);
        if (level < 3) down(w, index++, c, level > 0);
    }
    middle(w, c);
    norm_silu(w, "head.0", c, FV_ACT_SILU);
    causal(w, "head.2", c, 2 * WAN_LATENT, 3, 0);
    w->path[length] = 0;
    pointwise(w, "conv1", c, 2 * WAN_LATENT);
}

/* ---- Decoder --------------------------------------------------------------------------------- */

static void up_time(walk *w, clip *c)
{
    const int64_t C = c->C;
    const int from = w->is_first ? 1 : 0;
    clip x = *c;
    causal(w, "time_conv", &x, 2 * C, 0, from);
    if (!w->t) return;
    c->n = 0;
    if (from) c->frame[c->n++] = x.frame[0];
    for (int i = from; i < x.n; i++)
        for (int odd = 0; odd < 2; odd++) c->frame[c->n++] = fv_slice(w->t, x.frame[i], odd * C, C);
}

static void up(walk *w, int index, clip *c, bool in_time)
{
    const fv_conv same = {1, 1, 1, 1, 1, FV_ACT_NONE};
    size_t length;
    enter(w, &length, "upsamples.%d.", index);
    if (in_time) up_time(w, c);
    const wan_layer l = layer(w, "resample.1", c->C / 2, c->C, 3);
    for (int i = 0; i < c->n && w->t; i++)
        c->frame[i] =
            fv_conv2d(w->t, fv_upsample2x(w->t, as_map(w, c->frame[i], c)), l.w, l.b, same);
    c->H *= 2;
    c->W *= 2;
    c->C /= 2;
    w->path[length] = 0;
}

static void decoder(walk *w, const int width[4], clip *c)
{
    size_t length;
    int index = 0;
    pointwise(w, "conv2", c, WAN_LATENT);
    enter(w, &length, "decoder.", 0);
    causal(w, "conv1", c, width[3], 3, 0);
    middle(w, c);
    for (int level = 3; level >= 0; level--) {
        for (int i = 0; i < 3; i++) residual(w, index++, "upsamples.%d.", c, width[level]);
        if (level > 0) up(w, index++, c, level > 1);
    }
    norm_silu(w, "head.0", c, FV_ACT_SILU);
    causal(w, "head.2", c, 3, 3, 0);
    w->path[length] = 0;
}

/* ---- Parameters ------------------------------------------------------------------------------ */

bool wan_vae_add(fv_params *params, const int width[4])
{
    walk w = {.params = params};
    clip c = {.n = 1, .H = 8, .W = 8, .C = 3};
    encoder(&w, width, &c);
    c = (clip){.n = 1, .H = 8, .W = 8, .C = WAN_LATENT};
    decoder(&w, width, &c);
    return !w.failed;
}

fv_status wan_vae_widths(fv_ctx *ctx, const fv_model *m, const char *prefix, int width[4])
{
    static const char *const name[4] = {
        "encoder.conv1.weight", "encoder.downsamples.3.residual.2.weight",
        "encoder.downsamples.6.residual.2.weight", "encoder.downsamples.9.residual.2.weight"};
    for (int i = 0; i < 4; i++) {
        char full[160];
        fv_tensor t;
        snprintf(full, sizeof full, "%s%s", prefix, name[i]);
        if (!fv_model_find(m, full, &t) || t.ndim < 4)
            return fv_fail(ctx, FV_ERR_MODEL,
                           "vae: tensor %s is missing: not an autoencoder of Wan2.1", full);
        if (t.dim[0] < 4 || t.dim[0] > MAX_WIDTH || t.dim[0] % 4)
            return fv_fail(ctx, FV_ERR_MODEL,
                           "vae: %lld channels of %s are no multiple of 4, or more "
                           "than %d",
                           (long long)t.dim[0], full, MAX_WIDTH);
        width[i] = (int)t.dim[0];
    }
    return FV_OK;
}

void wan_vae_published_shape(const fv_params *p, fv_pid id, fv_tensor *out)
{
    const char *name = fv_params_name(p, id) + strlen("vae.");
    const fv_tensor t = fv_params_tensor(p, id);
    const bool is_time = strstr(name, "time_conv.") != NULL,
               is_flat = strstr(name, "middle.1.") != NULL;
    const bool is_point = strncmp(name, "conv", 4) == 0 || strstr(name, "shortcut.") != NULL;
    *out = t;
    for (int i = t.ndim; i < 5; i++) out->dim[i] = 1;
    if (strstr(name, ".gamma")) out->ndim = is_flat ? 3 : 4;
    if (t.ndim == 1 || strstr(name, "resample.")) return;
    out->ndim = is_flat ? 4 : 5;
    if (is_flat || is_point) return;
    out->dim[1] = t.dim[1] / 3;
    out->dim[2] = 3;
    out->dim[3] = out->dim[4] = is_time ? 1 : 3;
}

void wan_vae_reorder(const fv_tensor *published, const float *from, float *to)
{
    const int64_t O = published->dim[0], C = published->dim[1];
    const int64_t n = fv_tensor_count(published);
    if (published->ndim != 5 || published->dim[2] != 3) {
        memcpy(to, from, (size_t)n * sizeof *to);
        return;
    }
    const int64_t area = n / (O * C * 3);
    for (int64_t o = 0; o < O; o++)
        for (int64_t c = 0; c < C; c++)
            for (int k = 0; k < 3; k++, from += area)
                memcpy(to + ((o * 3 + k) * C + c) * area, from, (size_t)area * sizeof *to);
}

/* ---- Plans ----------------------------------------------------------------------------------- */

/* One direction: the plan of the first call of a clip and that of the others. */
typedef struct coder {
    bool is_decoder, has_begun;
    int n_in[2], n_out[2]; /* frames or latents of a call */
    fv_plan *plan[2];
    cache cache[2][MAX_CACHES];
    int caches;
    size_t cache_bytes;
    float *buffer[MAX_CACHES][RING]; /* in wan_vae.caches */
    int at[MAX_CACHES];
} coder;

struct wan_vae {
    fv_ctx *ctx;
    fv_params *params;
    int height, width, level_width[4];
    coder encode, decode;
    const coder *active; /* whose frames are in `caches` */
    void *caches, *work; /* work: NULL where it is the caller's */
    float *near[2];      /* frames and latents of a call; NULL on a CPU, which takes the caller's */
};

static fv_t statistics(walk *w, const char *name)
{
    const int64_t dim[1] = {WAN_LATENT};
    return fv_input(w->t, name, FV_F32, 1, dim);
}

static void record(const wan_vae *v, const coder *k, walk *w, int n)
{
    const int scale = k->is_decoder ? 8 : 1;
    clip c = {
        .n = n, .H = v->height / scale, .W = v->width / scale, .C = k->is_decoder ? WAN_LATENT : 3};
    const int64_t dim[4] = {1, c.H, c.W, c.C};
    const fv_t mean = statistics(w, "mean"), std = statistics(w, "std");
    char name[16];
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "in.%d", i);
        c.frame[i] = fv_input(w->t, name, FV_F32, 4, dim);
        if (k->is_decoder)
            c.frame[i] =
                fv_binary_op(w->t, FV_ADD, fv_binary_op(w->t, FV_MUL, c.frame[i], std), mean);
        else c.frame[i] = fv_affine(w->t, c.frame[i], 1.0f, 0.0f); /* caches are results of ops */
    }
    if (k->is_decoder) decoder(w, v->level_width, &c);
    else encoder(w, v->level_width, &c);
    for (int i = 0; i < c.n; i++) {
        snprintf(name, sizeof name, "out.%d", i);
        if (!k->is_decoder) {
            c.frame[i] = fv_slice(w->t, c.frame[i], 0, WAN_LATENT);
            c.frame[i] =
                fv_binary_op(w->t, FV_DIV, fv_binary_op(w->t, FV_SUB, c.frame[i], mean), std);
        }
        fv_output(w->t, name, c.frame[i]);
    }
}

static fv_status build(wan_vae *v, coder *k, int later)
{
    walk w = {.params = v->params, .is_first = !later};
    fv_plan_options o = FV_PLAN_OPTIONS_INIT;
    o.external_work = 1;
    FV_TRY(fv_tape_create(v->ctx, &w.t, v->params, FV_INFER, FV_F32));
    record(v, k, &w, k->n_in[later]); /* a failure sticks in the tape */
    FV_TRY(fv_plan_finish(v->ctx, &k->plan[later], &w.t, &o));
    memcpy(k->cache[later], w.cache, sizeof w.cache);
    k->caches = w.caches;
    FV_TRY(fv_plan_feed(k->plan[later], "mean", latent_mean));
    return fv_plan_feed(k->plan[later], "std", latent_std);
}

/* Floats of a buffer, such that the next one is aligned. */
static size_t buffer_floats(const coder *k, int i)
{
    return ((size_t)k->cache[1][i].count + 15) / 16 * 16;
}

static fv_status plan_coder(wan_vae *v, coder *k, bool is_decoder, int first)
{
    const int latents = 1 + (first - 1) / 4;
    *k = (coder){.is_decoder = is_decoder};
    k->n_in[0] = is_decoder ? latents : first;
    k->n_out[0] = is_decoder ? first : latents;
    k->n_in[1] = is_decoder ? 1 : 4;
    k->n_out[1] = is_decoder ? 4 : 1;
    for (int later = 0; later < 2; later++) FV_TRY(build(v, k, later));
    for (int i = 0; i < k->caches; i++) k->cache_bytes += RING * buffer_floats(k, i) * sizeof(float);
    return FV_OK;
}

static void place_buffers(coder *k, float *at)
{
    for (int i = 0; i < k->caches; i++)
        for (int j = 0; j < RING; j++, at += buffer_floats(k, i)) k->buffer[i][j] = at;
}

static void free_plans(wan_vae *v)
{
    for (int later = 0; later < 2; later++) {
        fv_plan_destroy(&v->encode.plan[later]);
        fv_plan_destroy(&v->decode.plan[later]);
    }
    void *mem[] = { v->caches, v->work, v->near[0], v->near[1] };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_dev_free(v->ctx, mem[i]);
    v->caches = v->work = NULL;
    v->near[0] = v->near[1] = NULL;
    v->active = NULL;
}

fv_status wan_vae_plan(wan_vae *v, int height, int width, int first)
{
    if (height < 8 || width < 8 || height % 8 || width % 8 || height > 16384 || width > 16384 ||
        first < 1 || first > MAX_FRAMES || first % 4 != 1)
        return fv_fail(v->ctx, FV_ERR_ARG,
                       "vae: pictures of %dx%d, %d at first: sides must be multiples of "
                       "8, and frames 1 + 4k, at most %d",
                       width, height, first, MAX_FRAMES);
    free_plans(v);
    v->height = height;
    v->width = width;
    FV_TRY(plan_coder(v, &v->encode, false, first));
    return plan_coder(v, &v->decode, true, first);
}

uint64_t wan_vae_work_bytes(const wan_vae *v)
{
    uint64_t most = 0;
    for (int i = 0; i < 4; i++) {
        const uint64_t n = fv_plan_work_bytes((i < 2 ? &v->encode : &v->decode)->plan[i % 2]);
        if (n > most) most = n;
    }
    return most;
}

/* Rings of either direction. */
static uint64_t coder_bytes(const wan_vae *v)
{
    return v->encode.cache_bytes > v->decode.cache_bytes ? v->encode.cache_bytes
                                                         : v->decode.cache_bytes;
}

/* Of frames (0) or latents (1) of the largest call. */
static size_t near_floats(const wan_vae *v, int which)
{
    const coder *k = &v->encode;
    const int *count = which ? k->n_out : k->n_in;
    const size_t pixels = (size_t)v->height * (size_t)v->width;
    return (size_t)(count[0] > count[1] ? count[0] : count[1]) *
           (which ? pixels / 64 * WAN_LATENT : 3 * pixels);
}

uint64_t wan_vae_cache_bytes(const wan_vae *v)
{
    if (fv_ctx_device(v->ctx) == FV_DEVICE_CPU) return coder_bytes(v);
    return coder_bytes(v) + (near_floats(v, 0) + near_floats(v, 1)) * sizeof(float);
}

double wan_vae_flop(const wan_vae *v, bool is_decoder, bool is_first)
{
    return fv_plan_flop((is_decoder ? &v->decode : &v->encode)->plan[is_first ? 0 : 1]);
}

fv_status wan_vae_alloc(wan_vae *v, void *work)
{
    const uint64_t bytes = wan_vae_work_bytes(v);
    v->caches = fv_work_alloc(v->ctx, coder_bytes(v));
    if (!work) work = v->work = fv_work_alloc(v->ctx, bytes);
    if (!v->caches || !work) return FV_ERR_OOM;
    for (int i = 0; i < 2 && fv_ctx_device(v->ctx) != FV_DEVICE_CPU; i++)
        if (!(v->near[i] = fv_dev_alloc(v->ctx, near_floats(v, i), sizeof(float))))
            return FV_ERR_OOM;
    place_buffers(&v->encode, v->caches);
    place_buffers(&v->decode, v->caches);
    for (int later = 0; later < 2; later++) {
        FV_TRY(fv_plan_set_work(v->encode.plan[later], work, bytes));
        FV_TRY(fv_plan_set_work(v->decode.plan[later], work, bytes));
    }
    return FV_OK;
}

static fv_status load(wan_vae *v, const fv_model *file)
{
    FV_TRY(wan_vae_widths(v->ctx, file, "vae.", v->level_width));
    FV_TRY(fv_params_create(v->ctx, &v->params));
    (void)wan_vae_add(v->params, v->level_width); /* load returns a failure */
    return fv_params_load(v->params, file, "");
}

fv_status wan_vae_load(fv_ctx *ctx, wan_vae **out, const fv_model *file)
{
    *out = NULL;
    wan_vae *v = fv_calloc(ctx, 1, sizeof *v);
    if (!v) return FV_ERR_OOM;
    v->ctx = ctx;
    const fv_status s = load(v, file);
    if (s == FV_OK) *out = v;
    else wan_vae_close(&v);
    return s;
}

fv_status wan_vae_open(fv_ctx *ctx, wan_vae **out, const fv_model *file, int height, int width,
                       int first)
{
    FV_TRY(wan_vae_load(ctx, out, file));
    fv_status s = wan_vae_plan(*out, height, width, first);
    if (s == FV_OK) s = wan_vae_alloc(*out, NULL);
    if (s != FV_OK) wan_vae_close(out);
    return s;
}

void wan_vae_close(wan_vae **v)
{
    if (!v || !*v) return;
    wan_vae *x = *v;
    free_plans(x);
    fv_params_destroy(&x->params);
    fv_free(x->ctx, x);
    *v = NULL;
}

void wan_vae_restart(wan_vae *v)
{
    v->encode.has_begun = v->decode.has_begun = false;
}

/* ---- Running --------------------------------------------------------------------------------- */

static fv_status bind_caches(coder *k, int later)
{
    char name[32];
    for (int i = 0; i < k->caches; i++) {
        const cache *c = &k->cache[later][i];
        for (int j = 0; j < c->reads; j++) {
            snprintf(name, sizeof name, "past.%d.%d", i, j);
            FV_TRY(fv_plan_bind(k->plan[later], name, k->buffer[i][(k->at[i] + j) % RING]));
        }
        for (int j = 0; j < c->writes; j++) {
            snprintf(name, sizeof name, "next.%d.%d", i, j);
            FV_TRY(
                fv_plan_bind(k->plan[later], name, k->buffer[i][(k->at[i] + c->depth + j) % RING]));
        }
    }
    return FV_OK;
}

/* A clip begins with frames of zeros before it. */
static fv_status take_caches(wan_vae *v, const coder *k)
{
    if (k->has_begun)
        return v->active == k ? FV_OK
                              : fv_fail(v->ctx, FV_ERR_STATE,
                                        "vae: a clip goes on whose other direction has begun");
    v->active = k;
    return fv_dev_zero(v->ctx, v->caches, k->cache_bytes);
}

static fv_status run(wan_vae *v, coder *k, const float *in, int64_t in_size, float *out,
                     int64_t out_size)
{
    const int later = k->has_begun;
    const bool on_device = v->near[0] != NULL;
    const size_t in_bytes = (size_t)k->n_in[later] * (size_t)in_size * sizeof *in;
    const size_t out_bytes = (size_t)k->n_out[later] * (size_t)out_size * sizeof *out;
    float *from = on_device ? v->near[k->is_decoder] : (float *)(uintptr_t)in;
    float *to = on_device ? v->near[!k->is_decoder] : out;
    char name[16];
    FV_TRY(take_caches(v, k));
    FV_TRY(bind_caches(k, later));
    for (int i = 0; i < k->n_in[later]; i++) {
        snprintf(name, sizeof name, "in.%d", i);
        FV_TRY(fv_plan_bind(k->plan[later], name, from + i * in_size));
    }
    for (int i = 0; i < k->n_out[later]; i++) {
        snprintf(name, sizeof name, "out.%d", i);
        FV_TRY(fv_plan_bind(k->plan[later], name, to + i * out_size));
    }
    if (on_device) FV_TRY(fv_dev_copy(v->ctx, from, in, in_bytes, FV_COPY_TO_DEVICE));
    FV_TRY(fv_plan_forward(k->plan[later]));
    if (on_device) FV_TRY(fv_dev_copy(v->ctx, out, to, out_bytes, FV_COPY_TO_HOST));
    for (int i = 0; i < k->caches; i++) k->at[i] = (k->at[i] + k->cache[later][i].writes) % RING;
    k->has_begun = true;
    return FV_OK;
}

fv_status wan_vae_encode(wan_vae *v, const float *frames, float *latents)
{
    const int64_t pixels = (int64_t)v->height * v->width;
    return run(v, &v->encode, frames, 3 * pixels, latents, pixels / 64 * WAN_LATENT);
}

fv_status wan_vae_decode(wan_vae *v, const float *latents, float *frames)
{
    const int64_t pixels = (int64_t)v->height * v->width;
    const int n = v->decode.n_out[v->decode.has_begun];
    FV_TRY(run(v, &v->decode, latents, pixels / 64 * WAN_LATENT, frames, 3 * pixels));
    for (int64_t i = 0; i < n * 3 * pixels; i++)
        frames[i] = frames[i] < -1 ? -1 : frames[i] > 1 ? 1 : frames[i];
    return FV_OK;
}
