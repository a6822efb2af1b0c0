/* vae.c - picture autoencoders: AutoencoderKL (Stable Diffusion, f8), TAESD and TAEF2.
 *
 * Opening a file turns its tensor names into a flat list of layers, which is then recorded on a
 * tape for each picture size. Widths are those of the tensors; the names decide the kind:
 *
 *   AutoencoderKL  Diffusers  decoder.mid_block.resnets.0...   attention to_q or (older) query
 *                  LDM        decoder.mid.block_1...   levels from the output, attention as 1x1
 *                  convolutions
 *       z = latent / 0.18215 -> post_quant_conv -> conv_in -> Res, Attn, Res -> levels of Res and
 *       nearest 2x + conv -> GroupNorm, SiLU, conv_out
 *       The encoder, if the file has one, mirrors it: conv_in -> levels of Res and a convolution of
 *       stride 2 padded at the right and the bottom -> Res, Attn, Res -> conv_out -> quant_conv;
 *       the latent is 0.18215 times the mean, the first half of its channels
 *       Res:  x + conv(silu(norm(conv(silu(norm(x))))))   shortcut: 1x1 conv where widths differ
 *       Attn: x + proj(softmax(q k^T / sqrt(C)) v), one head, on GroupNorm(x)
 *   TAESD (Ollin Boer Bohan) keys are positions in a sequence; Diffusers' AutoencoderTiny has the
 *       same one without the clamp in front (decoder positions are one lower)
 *   TAEF2  the same graph; blocks of the lowest resolution first add conv1x1 -> GroupNorm(4) ->
 *       ReLU -> conv1x1 (keys N.pool.*)
 *
 * Pictures run one at a time, so memory does not grow with the batch. The plan of the last size is
 * kept when the call uses the context that opened the file (other contexts may come and go, and may
 * run at the same time); activations are allocated per call. bf16: the picture itself stays f32. */
#include "device_graph.h"
#include "internal.h"

#include <string.h>

#include "tape.h"

#define MAX_LAYERS 96
#define MAX_LEVELS 8
#define MAX_RESNETS 8
#define MAX_SIDE 16384
#define NAME_BYTES 400

typedef enum layer_kind {
    L_AFFINE, L_CLAMP, L_CONV, L_RELU, L_UP, L_DOWN, L_BLOCK, L_RES, L_ATTENTION, L_NORM_SILU,
    L_MEAN
} layer_kind;

enum { RES_NORM1 = 0, RES_CONV1, RES_NORM2, RES_CONV2, RES_SHORTCUT };
enum {
    BLOCK_CONV0 = 0,
    BLOCK_CONV2,
    BLOCK_CONV4,
    BLOCK_POOL0,
    BLOCK_POOL1,
    BLOCK_POOL3,
    MAX_PARTS
};
enum { ATTN_NORM = 0, ATTN_QKV, ATTN_PROJ };

typedef struct layer {
    layer_kind kind;
    fv_pid w[MAX_PARTS], b[MAX_PARTS]; /* -1 = none */
    int stride;
    float scale, shift;
} layer;

/* Where the kept plan of a device reads and writes a picture, and works: in one place, so that its
 * passes are a graph. */
typedef struct vae_near { float *x, *y; void *work; } vae_near;

typedef struct vae_net { /* encoder or decoder; count 0 = not in the file */
    layer layers[MAX_LAYERS];
    int count, in_channels, factor;
    fv_plan *plan;       /* of the last size, with the opener's context */
    vae_near near;       /* of it; NULL on a CPU */
    int rows, columns;
} vae_net;

struct fv_vae {
    fv_ctx *ctx;
    fv_params *params;
    fv_dtype precision;
    const char *kind;
    int groups;
    float eps;
    vae_net decoder, encoder;
};

/* ---- Reading names --------------------------------------------------------------------------- */

/* What the functions below pass on: file, prefix, and the net that is being described. */
typedef struct reader {
    fv_ctx *ctx;
    const fv_model *m;
    const char *outer; /* the caller's prefix */
    char prefix[NAME_BYTES];
    fv_vae *v;
    vae_net *net;
} reader;

static fv_status join(fv_ctx *ctx, char out[NAME_BYTES], const char *a, const char *b)
{
    const int n = snprintf(out, NAME_BYTES, "%s%s", a, b);
    if (n < 0 || n >= NAME_BYTES) return fv_fail(ctx, FV_ERR_ARG, "vae: a tensor name is too long");
    return FV_OK;
}

/* Shape of NAME or NAME.int8; false if neither is there. */
static bool shape_of(const reader *r, const char *name, fv_tensor *t)
{
    static const char *const form[] = { "", ".int8" };
    for (int i = 0; i < 2; i++) {
        char full[2 * NAME_BYTES + 16];
        snprintf(full, sizeof full, "%s%s%s", r->prefix, name, form[i]);
        if (fv_model_find(r->m, full, t)) return true;
    }
    return false;
}

static bool has(const reader *r, const char *name)
{
    fv_tensor t;
    return shape_of(r, name, &t);
}

static fv_status missing(const reader *r, const char *name)
{
    return fv_fail(r->ctx, FV_ERR_MODEL, "vae: tensor %s%s is missing", r->prefix, name);
}

/* Registers NAME with the file's shape, which must have ndim dimensions (0 = 2 or 4). */
static fv_status add_param(reader *r, const char *name, int ndim, fv_pid *out)
{
    fv_tensor t;
    if (!shape_of(r, name, &t)) return missing(r, name);
    if (ndim ? t.ndim != ndim : t.ndim != 2 && t.ndim != 4)
        return fv_fail(r->ctx, FV_ERR_MODEL, "vae: tensor %s%s has %d dimensions", r->prefix, name,
                       t.ndim);
    *out = fv_params_add(r->v->params, name, t.ndim, t.dim, FV_PARAM_FROZEN);
    return *out < 0 ? fv_params_load(r->v->params, r->m, r->prefix)
                    : FV_OK; /* load returns the failure */
}

/* NAME.weight and NAME.bias as part k of a layer; the bias may be absent. */
static fv_status add_part(reader *r, layer *l, int k, const char *name, int ndim)
{
    char full[NAME_BYTES];
    FV_TRY(join(r->ctx, full, name, ".weight"));
    FV_TRY(add_param(r, full, ndim, &l->w[k]));
    FV_TRY(join(r->ctx, full, name, ".bias"));
    return has(r, full) ? add_param(r, full, 1, &l->b[k]) : FV_OK;
}

static fv_status add_sub(reader *r, layer *l, int k, const char *base, const char *tail, int ndim)
{
    char name[NAME_BYTES];
    FV_TRY(join(r->ctx, name, base, tail));
    return add_part(r, l, k, name, ndim);
}

static fv_status new_layer(reader *r, layer_kind kind, layer **out)
{
    if (r->net->count == MAX_LAYERS)
        return fv_fail(r->ctx, FV_ERR_LIMIT, "vae: more than %d layers", MAX_LAYERS);
    layer *l = &r->net->layers[r->net->count++];
    memset(l, 0, sizeof *l);
    l->kind = kind;
    l->stride = 1;
    for (int i = 0; i < MAX_PARTS; i++) l->w[i] = l->b[i] = -1;
    *out = l;
    return FV_OK;
}

static fv_status add_plain(reader *r, layer_kind kind)
{
    layer *l = NULL;
    return new_layer(r, kind, &l);
}

static fv_status add_affine(reader *r, float scale, float shift)
{
    layer *l = NULL;
    FV_TRY(new_layer(r, L_AFFINE, &l));
    l->scale = scale;
    l->shift = shift;
    return FV_OK;
}

static fv_status add_conv(reader *r, const char *name, int stride)
{
    layer *l = NULL;
    FV_TRY(new_layer(r, L_CONV, &l));
    l->stride = stride;
    return add_part(r, l, 0, name, 4);
}

/* ---- AutoencoderKL --------------------------------------------------------------------------- */

static fv_status add_res(reader *r, const char *base)
{
    static const char *const shortcut[] = { ".conv_shortcut", ".nin_shortcut" };
    layer *l = NULL;
    FV_TRY(new_layer(r, L_RES, &l));
    FV_TRY(add_sub(r, l, RES_NORM1, base, ".norm1", 1));
    FV_TRY(add_sub(r, l, RES_CONV1, base, ".conv1", 4));
    FV_TRY(add_sub(r, l, RES_NORM2, base, ".norm2", 1));
    FV_TRY(add_sub(r, l, RES_CONV2, base, ".conv2", 4));
    for (int i = 0; i < 2; i++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "%.300s%s.weight", base, shortcut[i]);
        if (has(r, name)) return add_sub(r, l, RES_SHORTCUT, base, shortcut[i], 4);
    }
    return FV_OK;
}

/* One matrix [3C, C] from the three of the file; 1x1 convolutions (LDM) have the same bytes. */
static fv_status add_qkv(reader *r, layer *l, const char *base, const char *const part[3])
{
    char name[2][3][NAME_BYTES];
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 2; k++)
            snprintf(name[k][i], NAME_BYTES, "%.300s%s%s", base, part[i], k ? ".bias" : ".weight");
    fv_tensor t;
    if (!shape_of(r, name[0][0], &t)) return missing(r, name[0][0]);
    if (t.ndim < 2 || t.dim[0] < 1 || t.dim[0] > INT32_MAX / 3)
        return fv_fail(r->ctx, FV_ERR_MODEL, "vae: tensor %s%s is not a matrix", r->prefix,
                       name[0][0]);
    const int64_t dim[2] = { 3 * t.dim[0], t.dim[1] };
    for (int k = 0; k < 2; k++) {
        char own[NAME_BYTES];
        snprintf(own, sizeof own, "%.300sqkv.%s", base, k ? "bias" : "weight");
        const char *const from[3] = { name[k][0], name[k][1], name[k][2] };
        const fv_pid id = fv_params_add(r->v->params, own, 2 - k, dim, FV_PARAM_FROZEN);
        FV_TRY(fvi_params_join(r->v->params, id, r->m, r->prefix, from, 3));
        *(k ? &l->b[ATTN_QKV] : &l->w[ATTN_QKV]) = id;
    }
    return FV_OK;
}

static fv_status add_attention(reader *r, const char *base)
{
    static const struct { const char *norm, *qkv[3], *proj; } naming[] = {
        { "group_norm", { "to_q", "to_k", "to_v" }, "to_out.0" },
        { "group_norm", { "query", "key", "value" }, "proj_attn" },
        { "norm", { "q", "k", "v" }, "proj_out" },
    };
    layer *l = NULL;
    FV_TRY(new_layer(r, L_ATTENTION, &l));
    for (size_t i = 0; i < FV_ARRAY_LEN(naming); i++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "%.300s%s.weight", base, naming[i].qkv[0]);
        if (!has(r, name)) continue;
        FV_TRY(add_sub(r, l, ATTN_NORM, base, naming[i].norm, 1));
        FV_TRY(add_qkv(r, l, base, naming[i].qkv));
        return add_sub(r, l, ATTN_PROJ, base, naming[i].proj, 0);
    }
    return fv_fail(r->ctx, FV_ERR_MODEL, "vae: %s%s has no known attention tensors", r->prefix,
                   base);
}

/* Both halves of a network have the same parts; what differs is in these names. */
typedef struct kl_names {
    const char *half, *levels, *res, *step, *middle[3], *norm;
} kl_names;
static const kl_names kl_naming[2][2] = { /* [LDM][encoder] */
    { { "decoder", "up_blocks", "resnets", "upsamplers.0.conv",
        { "mid_block.resnets.0", "mid_block.attentions.0.", "mid_block.resnets.1" },
        "conv_norm_out" },
      { "encoder", "down_blocks", "resnets", "downsamplers.0.conv",
        { "mid_block.resnets.0", "mid_block.attentions.0.", "mid_block.resnets.1" },
        "conv_norm_out" } },
    { { "decoder", "up", "block", "upsample.conv",
        { "mid.block_1", "mid.attn_1.", "mid.block_2" }, "norm_out" },
      { "encoder", "down", "block", "downsample.conv",
        { "mid.block_1", "mid.attn_1.", "mid.block_2" }, "norm_out" } } };

/* One level: residual blocks until there is no further one, then the doubling or halving if it has
 * one. */
static fv_status add_level(reader *r, const kl_names *k, const char *level)
{
    const bool encode = r->net == &r->v->encoder;
    char name[NAME_BYTES];
    layer *l = NULL;
    for (int j = 0; j <= MAX_RESNETS; j++) {
        snprintf(name, sizeof name, "%.200s.%.40s.%d.norm1.weight", level, k->res, j);
        if (!has(r, name)) {
            if (j == 0) return missing(r, name);
            break;
        }
        if (j == MAX_RESNETS)
            return fv_fail(r->ctx, FV_ERR_LIMIT, "vae: more than %d blocks in %s", MAX_RESNETS,
                           level);
        snprintf(name, sizeof name, "%.200s.%.40s.%d", level, k->res, j);
        FV_TRY(add_res(r, name));
    }
    snprintf(name, sizeof name, "%.200s.%.40s.weight", level, k->step);
    if (!has(r, name)) return FV_OK;
    r->net->factor *= 2;
    snprintf(name, sizeof name, "%.200s.%.40s", level, k->step);
    FV_TRY(new_layer(r, encode ? L_DOWN : L_UP, &l));
    return encode ? add_part(r, l, 0, name, 4) : add_conv(r, name, 1);
}

static fv_status add_levels(reader *r, const kl_names *k, bool from_last)
{
    char name[NAME_BYTES];
    int n = 0;
    for (; n <= MAX_LEVELS; n++) {
        snprintf(name, sizeof name, "%s.%s.%d.%s.0.norm1.weight", k->half, k->levels, n, k->res);
        if (!has(r, name)) break;
    }
    if (n == 0) return missing(r, name);
    if (n > MAX_LEVELS)
        return fv_fail(r->ctx, FV_ERR_LIMIT, "vae: more than %d levels", MAX_LEVELS);
    for (int b = 0; b < n; b++) {
        snprintf(name, sizeof name, "%s.%s.%d", k->half, k->levels, from_last ? n - 1 - b : b);
        FV_TRY(add_level(r, k, name));
    }
    return FV_OK;
}

static fv_status add_middle(reader *r, const kl_names *k)
{
    for (int i = 0; i < 3; i++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "%s.%s", k->half, k->middle[i]);
        FV_TRY(i == 1 ? add_attention(r, name) : add_res(r, name));
    }
    return FV_OK;
}

static fv_status add_head(reader *r, const kl_names *k)
{
    char name[NAME_BYTES];
    layer *l = NULL;
    FV_TRY(new_layer(r, L_NORM_SILU, &l));
    snprintf(name, sizeof name, "%s.%s", k->half, k->norm);
    FV_TRY(add_part(r, l, 0, name, 1));
    snprintf(name, sizeof name, "%s.conv_out", k->half);
    return add_conv(r, name, 1);
}

static fv_status read_kl_encoder(reader *r, bool ldm, double scale)
{
    const kl_names *k = &kl_naming[ldm][1];
    r->net = &r->v->encoder;
    FV_TRY(add_conv(r, "encoder.conv_in", 1));
    FV_TRY(add_levels(r, k, false));
    FV_TRY(add_middle(r, k));
    FV_TRY(add_head(r, k));
    if (has(r, "quant_conv.weight")) FV_TRY(add_conv(r, "quant_conv", 1));
    FV_TRY(add_plain(r, L_MEAN));
    return add_affine(r, (float)scale, 0.0f);
}

/* Numbers of the file; inside another model's file they travel with the prefix. */
static const char *meta(const reader *r, const char *key)
{
    const char *const from[] = { r->prefix, r->outer, "" };
    const char *value = NULL;
    for (size_t i = 0; i < FV_ARRAY_LEN(from) && !value; i++) {
        char full[2 * NAME_BYTES];
        snprintf(full, sizeof full, "%s%s", from[i], key);
        value = fv_model_meta(r->m, full);
    }
    return value;
}

static fv_status read_kl(reader *r)
{
    const bool ldm = has(r, "decoder.mid.block_1.norm1.weight");
    const char *scale_text = meta(r, "scaling_factor"), *groups = meta(r, "groups");
    double scale = 0.18215;
    if (scale_text) FV_TRY(fv_meta_parse(r->ctx, "scaling_factor", scale_text, false, &scale));
    if (!(scale > 1e-6 && scale < 1e6))
        return fv_fail(r->ctx, FV_ERR_MODEL,
                       "vae: metadata scaling_factor is not a positive number");
    r->v->kind = "AutoencoderKL";
    double group_count = 32;
    if (groups) FV_TRY(fv_meta_parse(r->ctx, "groups", groups, true, &group_count));
    r->v->groups = (int)group_count;
    r->v->eps = 1e-6f;
    r->net = &r->v->decoder;
    FV_TRY(add_affine(r, (float)(1.0 / scale), 0.0f));
    if (has(r, "post_quant_conv.weight")) FV_TRY(add_conv(r, "post_quant_conv", 1));
    FV_TRY(add_conv(r, "decoder.conv_in", 1));
    FV_TRY(add_middle(r, &kl_naming[ldm][0]));
    FV_TRY(add_levels(r, &kl_naming[ldm][0], ldm)); /* LDM numbers them from the picture */
    FV_TRY(add_head(r, &kl_naming[ldm][0]));
    return has(r, "encoder.conv_in.weight") ? read_kl_encoder(r, ldm, scale) : FV_OK;
}

/* ---- TAESD, TAEF2 ---------------------------------------------------------------------------- */

static fv_status add_block(reader *r, const char *base)
{
    layer *l = NULL;
    char name[NAME_BYTES];
    FV_TRY(new_layer(r, L_BLOCK, &l));
    FV_TRY(add_sub(r, l, BLOCK_CONV0, base, ".conv.0", 4));
    FV_TRY(add_sub(r, l, BLOCK_CONV2, base, ".conv.2", 4));
    FV_TRY(add_sub(r, l, BLOCK_CONV4, base, ".conv.4", 4));
    FV_TRY(join(r->ctx, name, base, ".pool.0.weight"));
    if (!has(r, name)) return FV_OK;
    r->v->kind = "TAEF2";
    FV_TRY(add_sub(r, l, BLOCK_POOL0, base, ".pool.0", 4));
    FV_TRY(add_sub(r, l, BLOCK_POOL1, base, ".pool.1", 1));
    return add_sub(r, l, BLOCK_POOL3, base, ".pool.3", 4);
}

/* c clamp, C conv, r relu, B block, u nearest 2x, d conv with stride 2; the position is the name.
 * */
static const char taesd_decoder[] = "cCrBBBuCBBBuCBBBuCBC";
static const char taesd_encoder[] = "CBdBBBdBBBdBBBC";

static fv_status add_sequence(reader *r, const char *graph, const char *prefix, int offset)
{
    for (int k = 0; graph[k]; k++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "%s%d", prefix, k + offset);
        switch (graph[k]) {
        case 'c': FV_TRY(add_plain(r, L_CLAMP)); break;
        case 'r': FV_TRY(add_plain(r, L_RELU)); break;
        case 'B': FV_TRY(add_block(r, name)); break;
        case 'u':
            FV_TRY(add_plain(r, L_UP));
            r->net->factor *= 2;
            break;
        case 'd':
            FV_TRY(add_conv(r, name, 2));
            r->net->factor *= 2;
            break;
        default: FV_TRY(add_conv(r, name, 1)); break;
        }
    }
    return FV_OK;
}

typedef struct tiny_names { const char *prefix; int offset; } tiny_names;

/* First naming under which `probe` (a position and tail) exists, or NULL. */
static const tiny_names *find_tiny(const reader *r, const tiny_names *list, int n, int position,
                                   const char *tail)
{
    for (int i = 0; i < n; i++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "%s%d%s", list[i].prefix, position + list[i].offset, tail);
        if (has(r, name)) return &list[i];
    }
    return NULL;
}

static fv_status read_tiny(reader *r, bool *found)
{
    static const tiny_names decoders[] = {
        { "", 0 }, { "decoder.", 0 }, { "taesd_decoder.", 0 }, { "decoder.layers.", -1 }
    };
    static const tiny_names encoders[] = {
        { "", 0 }, { "encoder.", 0 }, { "taesd_encoder.", 0 }, { "encoder.layers.", 0 }
    };
    const tiny_names *d = find_tiny(r, decoders, FV_ARRAY_LEN(decoders), 3, ".conv.0.weight");
    /* Position 3 is a block of the encoder as well; position 1 is a block only there. */
    if (d && d->offset == 0 && find_tiny(r, d, 1, 1, ".conv.0.weight")) d = NULL;
    const tiny_names *e = find_tiny(r, encoders, FV_ARRAY_LEN(encoders), 1, ".conv.0.weight");
    *found = d || e;
    r->v->kind = "TAESD";
    r->v->groups = 4;
    r->v->eps = 1e-5f;
    if (d) {
        r->net = &r->v->decoder;
        FV_TRY(add_sequence(r, taesd_decoder, d->prefix, d->offset));
        FV_TRY(add_affine(r, 2.0f, -1.0f)); /* [0, 1] -> [-1, 1] */
    }
    if (e) {
        r->net = &r->v->encoder;
        FV_TRY(add_affine(r, 0.5f, 0.5f));
        FV_TRY(add_sequence(r, taesd_encoder, e->prefix, 0));
    }
    return FV_OK;
}

/* ---- Recording ------------------------------------------------------------------------------- */

static fv_t conv_part(fv_tape *t, const fv_vae *v, const layer *l, int k, fv_t x, fv_act act)
{
    const int pad = (int)(fv_params_tensor(v->params, l->w[k]).dim[2] / 2);
    const fv_conv c = { l->stride, pad, pad, pad, pad, act };
    return fv_conv2d_as(t, x, l->w[k], l->b[k], c, fv_tape_precision(t));
}

/* A convolution of its own; the last one gives the picture or latent, in f32. */
static fv_t record_conv(fv_tape *t, const fv_vae *v, const layer *l, fv_t x, bool last)
{
    const int pad = (int)(fv_params_tensor(v->params, l->w[0]).dim[2] / 2);
    const fv_conv c = { l->stride, pad, pad, pad, pad, FV_ACT_NONE };
    return fv_conv2d_as(t, x, l->w[0], l->b[0], c, last ? FV_F32 : fv_tape_precision(t));
}

/* Halves the sides: one row and column of zeros at the bottom and the right. */
static fv_t record_down(fv_tape *t, const layer *l, fv_t x)
{
    const fv_conv c = { .stride = 2, .pad_bottom = 1, .pad_right = 1, .act = FV_ACT_NONE };
    return fv_conv2d_as(t, x, l->w[0], l->b[0], c, fv_tape_precision(t));
}

/* Mean and log variance of the latent -> the mean. */
static fv_t record_mean(fv_tape *t, fv_t x)
{
    const fv_tensor s = fv_tape_tensor(t, x);
    return fv_slice(t, x, 0, s.ndim == 4 ? s.dim[3] / 2 : 0);
}

static fv_t norm_part(fv_tape *t, const fv_vae *v, const layer *l, int k, fv_t x, fv_act act)
{
    return fv_groupnorm(t, x, fv_param(t, l->w[k]), l->b[k] >= 0 ? fv_param(t, l->b[k]) : 0,
                        v->groups, v->eps, act);
}

static fv_t record_res(fv_tape *t, const fv_vae *v, const layer *l, fv_t x)
{
    fv_t h = norm_part(t, v, l, RES_NORM1, x, FV_ACT_SILU);
    h = conv_part(t, v, l, RES_CONV1, h, FV_ACT_NONE);
    h = norm_part(t, v, l, RES_NORM2, h, FV_ACT_SILU);
    h = conv_part(t, v, l, RES_CONV2, h, FV_ACT_NONE);
    if (l->w[RES_SHORTCUT] >= 0) x = conv_part(t, v, l, RES_SHORTCUT, x, FV_ACT_NONE);
    return fv_binary_op(t, FV_ADD, x, h);
}

static fv_t record_attention(fv_tape *t, const fv_vae *v, const layer *l, fv_t x)
{
    const fv_tensor s = fv_tape_tensor(t, x);
    if (s.ndim != 4) return 0;
    const int64_t flat[3] = { s.dim[0], s.dim[1] * s.dim[2], s.dim[3] };
    const int64_t qkv[5] = { s.dim[0], flat[1], 3, 1, s.dim[3] };
    fv_t h = fv_reshape(t, norm_part(t, v, l, ATTN_NORM, x, FV_ACT_NONE), 3, flat);
    h = fv_linear(t, h, l->w[ATTN_QKV], l->b[ATTN_QKV], FV_ACT_NONE);
    h = fv_sdpa(t, fv_reshape(t, h, 5, qkv), 0.0f, 0);
    h = fv_linear(t, h, l->w[ATTN_PROJ], l->b[ATTN_PROJ], FV_ACT_NONE);
    return fv_binary_op(t, FV_ADD, x, fv_reshape(t, h, 4, s.dim));
}

static fv_t record_block(fv_tape *t, const fv_vae *v, const layer *l, fv_t x)
{
    if (l->w[BLOCK_POOL0] >= 0) {
        fv_t p = conv_part(t, v, l, BLOCK_POOL0, x, FV_ACT_NONE);
        p = norm_part(t, v, l, BLOCK_POOL1, p, FV_ACT_RELU);
        p = conv_part(t, v, l, BLOCK_POOL3, p, FV_ACT_NONE);
        x = fv_binary_op(t, FV_ADD, x, p);
    }
    fv_t h = conv_part(t, v, l, BLOCK_CONV0, x, FV_ACT_RELU);
    h = conv_part(t, v, l, BLOCK_CONV2, h, FV_ACT_RELU);
    h = conv_part(t, v, l, BLOCK_CONV4, h, FV_ACT_NONE);
    return fv_activate(t, fv_binary_op(t, FV_ADD, h, x), FV_ACT_RELU);
}

static fv_t record_layer(fv_tape *t, const fv_vae *v, const layer *l, fv_t x, bool last_conv)
{
    switch (l->kind) {
    case L_AFFINE: return fv_affine(t, x, l->scale, l->shift);
    case L_CLAMP: /* 3 tanh(x / 3) */
        return fv_affine(t, fv_activate(t, fv_affine(t, x, 1.0f / 3.0f, 0.0f), FV_ACT_TANH), 3.0f,
                         0.0f);
    case L_CONV: return record_conv(t, v, l, x, last_conv);
    case L_RELU: return fv_activate(t, x, FV_ACT_RELU);
    case L_UP: return fv_upsample2x(t, x);
    case L_DOWN: return record_down(t, l, x);
    case L_MEAN: return record_mean(t, x);
    case L_BLOCK: return record_block(t, v, l, x);
    case L_RES: return record_res(t, v, l, x);
    case L_ATTENTION: return record_attention(t, v, l, x);
    default: return norm_part(t, v, l, 0, x, FV_ACT_SILU);
    }
}

/* One picture or latent [1, rows, columns, channels] -> "y". */
static fv_status record(fv_ctx *ctx, const fv_vae *v, const vae_net *n, int rows, int columns,
                        fv_tape **out, fv_t *result)
{
    fv_tape *t = NULL;
    FV_TRY(fv_tape_create(ctx, &t, v->params, FV_INFER, v->precision));
    const int64_t dim[4] = { 1, rows, columns, n->in_channels };
    fv_t x = fv_input(t, "x", FV_F32, 4, dim);
    int last = n->count - 1;
    while (last > 0 && n->layers[last].kind != L_CONV) last--;
    for (int i = 0; i < n->count; i++) x = record_layer(t, v, &n->layers[i], x, i == last);
    fv_output(t, "y", x);
    if (result) *result = x;
    const fv_status s = fv_tape_status(t);
    if (s != FV_OK) {
        fv_tape_destroy(&t);
        return fv_fail_in(ctx, s, "vae");
    }
    *out = t;
    return FV_OK;
}

/* ---- Open and close -------------------------------------------------------------------------- */

/* Every convolution is 1x1 or 3x3 (square, odd); the tape then checks the chain of widths on the
 * smallest picture. */
static fv_status check_net(fv_vae *v, vae_net *n, bool encoder)
{
    for (int i = 0; i < n->count; i++)
        for (int k = 0; k < MAX_PARTS; k++) {
            if (n->layers[i].w[k] < 0) continue;
            const fv_tensor w = fv_params_tensor(v->params, n->layers[i].w[k]);
            if (w.ndim == 4 && (w.dim[2] != w.dim[3] || (w.dim[2] != 1 && w.dim[2] != 3)))
                return fv_fail(v->ctx, FV_ERR_MODEL, "vae: %s is not a 1x1 or 3x3 convolution",
                               fv_params_name(v->params, n->layers[i].w[k]));
            if (n->in_channels == 0 && w.ndim == 4)
                n->in_channels = w.dim[1] < 65536 ? (int)w.dim[1] : 0;
        }
    if (n->in_channels < 1 || (encoder && n->in_channels != 3))
        return fv_fail(v->ctx, FV_ERR_MODEL, "vae: %d input channels", n->in_channels);
    fv_tape *t;
    fv_t last;
    const int side = encoder ? n->factor : 1;
    const fv_status s = record(v->ctx, v, n, side, side, &t, &last);
    if (s == FV_ERR_OOM) return s;
    if (s != FV_OK)
        return fv_fail_in(v->ctx, FV_ERR_MODEL, "the layers of the file do not fit together");
    const fv_tensor y = fv_tape_tensor(t, last);
    const int want = encoder ? 1 : n->factor;
    fv_tape_destroy(&t);
    if (y.dim[1] != want || y.dim[2] != want)
        return fv_fail(v->ctx, FV_ERR_MODEL, "vae: the sides do not change by a factor of %d",
                       n->factor);
    if (!encoder && y.dim[3] != 3)
        return fv_fail(v->ctx, FV_ERR_MODEL, "vae: the decoder makes %d channels, 3 expected",
                       (int)y.dim[3]);
    /* One latent shape is told to the caller, who makes buffers from it. */
    if (encoder && v->decoder.count &&
        (y.dim[3] != v->decoder.in_channels || n->factor != v->decoder.factor))
        return fv_fail(v->ctx, FV_ERR_MODEL, "vae: the encoder makes %d channels at 1/%d, the "
                       "decoder takes %d at 1/%d", (int)y.dim[3], n->factor,
                       v->decoder.in_channels, v->decoder.factor);
    return FV_OK;
}

static fv_status read_file(reader *r)
{
    static const char *const inner[] = { "", "first_stage_model.", "vae." };
    for (size_t i = 0; i < FV_ARRAY_LEN(inner); i++) {
        bool found = false;
        FV_TRY(join(r->ctx, r->prefix, r->outer, inner[i]));
        if (has(r, "decoder.conv_in.weight")) return read_kl(r);
        FV_TRY(read_tiny(r, &found));
        if (found) return FV_OK;
    }
    return fv_fail(r->ctx, FV_ERR_MODEL,
                   "vae: no tensors of AutoencoderKL, TAESD or TAEF2 under \"%s\"", r->outer);
}

fv_status fv_vae_open(fv_ctx *ctx, fv_vae **out, const fv_model *file, const char *prefix,
                      fv_dtype precision)
{
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "vae: no place for the result");
    *out = NULL;
    if (!file || (precision != FV_F32 && precision != FV_BF16))
        return fv_fail(ctx, FV_ERR_ARG, "vae: a file, and f32 or bf16 precision are needed");
    fv_vae *v = fv_calloc(ctx, 1, sizeof *v);
    if (!v) return FV_ERR_OOM;
    fv_status s = FV_OK;
    v->ctx = ctx;
    v->precision = precision;
    v->decoder.factor = v->encoder.factor = 1;
    reader r = { .ctx = ctx, .m = file, .v = v, .outer = prefix ? prefix : "" };
    FV_TRY_GOTO(fv_params_create(ctx, &v->params));
    FV_TRY_GOTO(read_file(&r));
    FV_TRY_GOTO(fv_params_load(v->params, file, r.prefix));
    if (v->decoder.count) FV_TRY_GOTO(check_net(v, &v->decoder, false));
    if (v->encoder.count) FV_TRY_GOTO(check_net(v, &v->encoder, true));
    *out = v;
    return FV_OK;
fail:
    fv_vae_close(&v);
    return s;
}

static void drop_plan(fv_ctx *ctx, vae_net *n)
{
    void *mem[] = { n->near.x, n->near.y, n->near.work };
    fv_plan_destroy(&n->plan);
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_dev_free(ctx, mem[i]);
    n->near = (vae_near){ NULL, NULL, NULL };
}

void fv_vae_close(fv_vae **vv)
{
    if (!vv || !*vv) return;
    fv_vae *v = *vv;
    *vv = NULL;
    drop_plan(v->ctx, &v->decoder);
    drop_plan(v->ctx, &v->encoder);
    fv_params_destroy(&v->params);
    fv_free(v->ctx, v);
}

void fv_vae_get_info(const fv_vae *v, fv_vae_info *out)
{
    const vae_net *d = v->decoder.count ? &v->decoder : &v->encoder;
    *out = (fv_vae_info){ .kind = v->kind,
                          .factor = d->factor,
                          .can_encode = v->encoder.count > 0,
                          .can_decode = v->decoder.count > 0,
                          .parameters = fv_params_elements(v->params) };
    out->latent_channels = v->decoder.in_channels;
    if (!v->decoder.count) { /* the last convolution of the encoder */
        const fv_pid w = v->encoder.layers[v->encoder.count - 1].w[0];
        out->latent_channels = (int)fv_params_tensor(v->params, w).dim[0];
    }
}

void dit_vae_memory(const fv_ctx *ctx, const fv_vae *v, uint64_t *weights, uint64_t *work)
{
    *weights = fv_params_bytes(v->params);
    *work = ctx == v->ctx && v->decoder.plan ? fv_plan_work_bytes(v->decoder.plan) : 0;
}

/* ---- Run ------------------------------------------------------------------------------------- */

static fv_status make_plan(fv_ctx *ctx, const fv_vae *v, const vae_net *n, int rows, int columns,
                           fv_plan **out)
{
    fv_tape *t = NULL;
    fv_plan_options o = FV_PLAN_OPTIONS_INIT;
    o.external_work = 1;
    FV_TRY(record(ctx, v, n, rows, columns, &t, NULL));
    const fv_status s = fv_plan_finish(ctx, out, &t, &o);
    return s == FV_OK ? s : fv_fail_in(ctx, s, "vae");
}

/* The kept plan, of the opener's context; only calls with that context may look at it. */
static fv_status find_plan(fv_ctx *ctx, const fv_vae *v, vae_net *n, int rows, int columns,
                           fv_plan **out)
{
    if (!n->plan || n->rows != rows || n->columns != columns) {
        drop_plan(ctx, n);
        FV_TRY(make_plan(ctx, v, n, rows, columns, &n->plan));
        n->rows = rows;
        n->columns = columns;
    }
    *out = n->plan;
    return FV_OK;
}

/* Pictures one by one; x and y: where the plan reads and writes. */
static fv_status run_each(fv_ctx *ctx, fv_plan *p, float *x, size_t x_step, float *y,
                          size_t y_step, int B)
{
    for (int b = 0; b < B; b++) {
        if (fv_ctx_cancelled(ctx)) return fv_fail(ctx, FV_ERR_CANCELLED, "vae: cancelled");
        FV_TRY(fv_plan_bind(p, "x", x + (size_t)b * x_step));
        FV_TRY(fv_plan_bind(p, "y", y + (size_t)b * y_step));
        FV_TRY(fv_plan_forward(p));
    }
    return FV_OK;
}

static fv_status run_all(fv_ctx *ctx, fv_plan *p, const float *x, size_t x_step, float *y,
                         size_t y_step, int B)
{
    const size_t in = x_step * (size_t)B * sizeof *x, out = y_step * (size_t)B * sizeof *y;
    float *from = fv_mirror_alloc(ctx, (void *)(uintptr_t)x, in), *to = fv_mirror_alloc(ctx, y, out);
    void *work = fv_work_alloc(ctx, fv_plan_work_bytes(p));
    fv_status s = from && to && work ? fv_plan_set_work(p, work, fv_plan_work_bytes(p))
                                     : FV_ERR_OOM;
    if (s == FV_OK) s = fv_mirror_send(ctx, from, x, in);
    if (s == FV_OK) s = run_each(ctx, p, from, x_step, to, y_step, B);
    if (s == FV_OK) s = fv_mirror_fetch(ctx, y, to, out);
    fv_mirror_free(ctx, from, x);
    fv_mirror_free(ctx, to, y);
    fv_dev_free(ctx, work);
    return s;
}

static fv_status make_near(fv_ctx *ctx, vae_net *n, size_t in, size_t out)
{
    vae_near *m = &n->near;
    if (m->work) return FV_OK;
    m->x = m->x ? m->x : fv_dev_alloc(ctx, in, sizeof *m->x);
    m->y = m->y ? m->y : fv_dev_alloc(ctx, out, sizeof *m->y);
    if (!m->x || !m->y) return FV_ERR_OOM;
    FV_TRY(fv_plan_bind(n->plan, "x", m->x));
    FV_TRY(fv_plan_bind(n->plan, "y", m->y));
    void *work = fv_work_alloc(ctx, fv_plan_work_bytes(n->plan));
    if (!work) return FV_ERR_OOM;
    m->work = work;
    fvi_plan_record(n->plan);
    return fv_plan_set_work(n->plan, work, fv_plan_work_bytes(n->plan));
}

/* With the kept plan of a device. */
static fv_status run_near(fv_ctx *ctx, vae_net *n, const float *x, size_t in, float *y, size_t out,
                          int B)
{
    FV_TRY(make_near(ctx, n, in, out));
    for (int b = 0; b < B; b++) {
        if (fv_ctx_cancelled(ctx)) return fv_fail(ctx, FV_ERR_CANCELLED, "vae: cancelled");
        FV_TRY(fv_mirror_send(ctx, n->near.x, x + (size_t)b * in, in * sizeof *x));
        FV_TRY(fv_plan_forward(n->plan));
        FV_TRY(fv_mirror_fetch(ctx, y + (size_t)b * out, n->near.y, out * sizeof *y));
    }
    return FV_OK;
}

static fv_status run_net(fv_ctx *ctx, fv_vae *v, vae_net *n, const float *x, const int size[3],
                         float *y)
{
    const bool encode = n == &v->encoder;
    const int B = size[0], rows = size[1], columns = size[2], f = n->factor;
    if (n->count == 0)
        return fv_fail(ctx, FV_ERR_UNSUPPORTED, "vae: the file has no %s",
                       encode ? "encoder" : "decoder");
    if (!x || !y || B < 1 || rows < 1 || columns < 1 || rows > MAX_SIDE || columns > MAX_SIDE)
        return fv_fail(ctx, FV_ERR_ARG, "vae: %d pictures of %d x %d (1 to %d)", B, rows, columns,
                       MAX_SIDE);
    if (encode && (rows % f || columns % f))
        return fv_fail(ctx, FV_ERR_SHAPE, "vae: %d x %d pixels are not multiples of %d", rows,
                       columns, f);
    fv_vae_info info;
    fv_vae_get_info(v, &info);
    const size_t in = (size_t)rows * (size_t)columns * (size_t)n->in_channels;
    const size_t out =
        encode ? (size_t)(rows / f) * (size_t)(columns / f) * (size_t)info.latent_channels
               : (size_t)rows * (size_t)columns * (size_t)f * (size_t)f * 3;
    fv_plan *p = NULL;
    if (ctx == v->ctx) {
        FV_TRY(find_plan(ctx, v, n, rows, columns, &p));
        if (fv_ctx_device(ctx) != FV_DEVICE_CPU) return run_near(ctx, n, x, in, y, out, B);
        return run_all(ctx, p, x, in, y, out, B);
    }
    FV_TRY(make_plan(ctx, v, n, rows, columns, &p));
    const fv_status s = run_all(ctx, p, x, in, y, out, B);
    fv_plan_destroy(&p);
    return s;
}

fv_status fv_vae_decode(fv_ctx *ctx, fv_vae *v, const float *latent, int B, int h, int w,
                        float *rgb)
{
    return run_net(ctx, v, &v->decoder, latent, (const int[3]){ B, h, w }, rgb);
}

fv_status fv_vae_encode(fv_ctx *ctx, fv_vae *v, const float *rgb, int B, int height, int width,
                        float *latent)
{
    return run_net(ctx, v, &v->encoder, rgb, (const int[3]){ B, height, width }, latent);
}
