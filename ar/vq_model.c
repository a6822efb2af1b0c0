/* vq_model.c - VQGAN tokenizer with unit-length codes, as LlamaGen lays it out
 * [Sun et al. 2024, arXiv 2406.06525; VQGAN: Esser et al. 2021].
 *
 *     encoder   conv 3x3 -> levels of Res (and Attn at the lowest), between them a convolution of
 *               stride 2 padded at the right and the bottom -> Res, Attn, Res -> norm, SiLU,
 *               conv 3x3
 *     codes     1x1 -> unit length -> nearest code -> 1x1
 *     decoder   conv 3x3 -> Res, Attn, Res -> levels from the lowest up, nearest 2x and a
 *               convolution between them -> norm, SiLU, conv 3x3
 *     Res       x + conv(silu(norm(conv(silu(norm(x))))))   1x1 "nin_shortcut" where widths differ
 *     Attn      x + proj(softmax(q k^T / sqrt(C)) v), one head, on norm(x)
 *
 * norm: GroupNorm with min(32, channels / 4) groups. Our own tokenizers have a stem: the picture's
 * 2x2 blocks become channels in front, and the other way round behind the decoder, which saves the
 * convolutions at full resolution: three quarters of the work. Without attention mid.1 and attn.*
 * are not in the file. */
#include "vq.h"

#include <math.h>
#include <string.h>

/* ---- Parameters ------------------------------------------------------------------------------ */

typedef struct adder {
    vq_net *n;
    const char *prefix, *half; /* half: "encoder." or "decoder." */
    char base[96];
} adder;

static const vq_layer none = { -1, -1 };

static void set_base(adder *a, const char *fmt, ...) FV_PRINTF(2, 3);
static void set_base(adder *a, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(a->base, sizeof a->base, fmt, ap);
    va_end(ap);
}

/* BASE + name: weight of ndim dimensions, and bias [dim[0]]. */
static vq_layer add_layer(adder *a, const char *name, int ndim, const int64_t *dim)
{
    char full[192];
    vq_layer l;
    snprintf(full, sizeof full, "%s%s%s%s.weight", a->prefix, a->half, a->base, name);
    l.w = fv_params_add(a->n->params, full, ndim, dim, ndim > 1 ? FV_PARAM_DECAY : 0);
    snprintf(full, sizeof full, "%s%s%s%s.bias", a->prefix, a->half, a->base, name);
    l.b = a->n->last = fv_params_add(a->n->params, full, 1, dim, 0);
    return l;
}

static vq_layer add_conv(adder *a, const char *name, int64_t out, int64_t in, int64_t k)
{
    return add_layer(a, name, 4, (const int64_t[4]){ out, in, k, k });
}

static vq_layer add_norm(adder *a, const char *name, int64_t width)
{
    return add_layer(a, name, 1, &width);
}

static vq_res add_res(adder *a, int64_t out, int64_t in)
{
    vq_res r;
    r.norm1 = add_norm(a, ".norm1", in);
    r.conv1 = add_conv(a, ".conv1", out, in, 3);
    r.norm2 = add_norm(a, ".norm2", out);
    r.conv2 = add_conv(a, ".conv2", out, out, 3);
    r.shortcut = out == in ? none : add_conv(a, ".nin_shortcut", out, in, 1);
    return r;
}

static vq_attn add_attn(adder *a, int64_t width)
{
    vq_attn t;
    t.norm = add_norm(a, ".norm", width);
    t.q = add_conv(a, ".q", width, width, 1);
    t.k = add_conv(a, ".k", width, width, 1);
    t.v = add_conv(a, ".v", width, width, 1);
    t.proj = add_conv(a, ".proj_out", width, width, 1);
    return t;
}

static void add_mid(adder *a, vq_half *h, int64_t width)
{
    for (int i = 0; i < 2; i++) {
        set_base(a, "mid.%d", 2 * i);
        h->mid[i] = add_res(a, width, width);
        set_base(a, "mid.1");
        if (i == 0 && a->n->cfg.has_attention) h->mid_attn = add_attn(a, width);
    }
}

/* Level number i of `in` channels; is_lowest: with attention. */
static void add_level(adder *a, vq_half *h, int i, int64_t out, int64_t in)
{
    const bool encode = h == &a->n->encoder;
    const int levels = a->n->cfg.levels;
    const bool is_lowest = i == (encode ? levels - 1 : 0);
    vq_level *l = &h->level[i];
    for (int j = 0; j < h->blocks; j++) {
        set_base(a, "conv_blocks.%d.res.%d", i, j);
        l->res[j] = add_res(a, out, j ? out : in);
        set_base(a, "conv_blocks.%d.attn.%d", i, j);
        if (is_lowest && a->n->cfg.has_attention) l->attn[j] = add_attn(a, out);
    }
    set_base(a, "conv_blocks.%d.%s", i, encode ? "downsample" : "upsample");
    l->step = i < levels - 1 ? add_conv(a, ".conv", out, out, 3) : none;
}

static void add_half(adder *a, vq_half *h)
{
    const vq_config *c = &a->n->cfg;
    const bool encode = h == &a->n->encoder;
    const int64_t picture = 3 * (int64_t)c->stem * c->stem, ch = c->channels;
    const int64_t low = ch * c->mult[c->levels - 1];
    int64_t width = encode ? ch : low;
    a->half = encode ? "encoder." : "decoder.";
    h->blocks = encode ? c->encoder_blocks : c->decoder_blocks;
    set_base(a, "%s", "");
    h->in = add_conv(a, "conv_in", width, encode ? picture : c->latent, 3);
    if (!encode) add_mid(a, h, low);
    for (int i = 0; i < c->levels; i++) {
        const int64_t out = ch * c->mult[encode ? i : c->levels - 1 - i];
        add_level(a, h, i, out, width);
        width = out;
    }
    if (encode) add_mid(a, h, low);
    set_base(a, "%s", "");
    h->norm = add_norm(a, "norm_out", width);
    h->out = add_conv(a, "conv_out", encode ? c->latent : picture, width, 3);
}

void vq_net_add(vq_net *n, fv_params *params, const vq_config *c, const char *prefix)
{
    adder a = { .n = n, .prefix = prefix, .half = "" };
    char name[96];
    n->cfg = *c;
    n->params = params;
    add_half(&a, &n->encoder);
    add_half(&a, &n->decoder);
    a.half = "";
    set_base(&a, "%s", "");
    n->quant = add_conv(&a, "quant_conv", c->code_width, c->latent, 1);
    n->post_quant = add_conv(&a, "post_quant_conv", c->latent, c->code_width, 1);
    snprintf(name, sizeof name, "%squantize.embedding.weight", prefix);
    n->codebook = n->last = fv_params_add(params, name, 2,
                                          (const int64_t[2]){ c->codes, c->code_width }, 0);
}

/* Fan-in scaling. The second convolution of a block starts at a tenth, so that blocks begin near
 * the identity; codes begin as random directions. */
static void init_layer(vq_net *n, vq_layer l, uint64_t seed, float gain)
{
    if (l.w < 0) return;
    const fv_tensor t = fv_params_tensor(n->params, l.w);
    if (t.ndim == 1) {
        fv_params_fill(n->params, l.w, 1.0f);
    } else {
        const double fan_in = (double)(fv_tensor_count(&t) / t.dim[0]);
        fv_params_init_normal(n->params, l.w, seed, gain * (float)sqrt(1.0 / fan_in));
    }
    fv_params_fill(n->params, l.b, 0.0f);
}

static void init_res(vq_net *n, const vq_res *r, uint64_t seed)
{
    init_layer(n, r->norm1, seed, 1.0f);
    init_layer(n, r->conv1, seed, 1.4142135f);
    init_layer(n, r->norm2, seed, 1.0f);
    init_layer(n, r->conv2, seed, 0.14142135f);
    init_layer(n, r->shortcut, seed, 1.0f);
}

static void init_attn(vq_net *n, const vq_attn *a, uint64_t seed)
{
    if (!n->cfg.has_attention) return;
    init_layer(n, a->norm, seed, 1.0f);
    init_layer(n, a->q, seed, 1.0f);
    init_layer(n, a->k, seed, 1.0f);
    init_layer(n, a->v, seed, 1.0f);
    init_layer(n, a->proj, seed, 0.1f);
}

static void init_half(vq_net *n, vq_half *h, uint64_t seed)
{
    const int lowest = h == &n->encoder ? n->cfg.levels - 1 : 0;
    init_layer(n, h->in, seed, 1.0f);
    for (int i = 0; i < n->cfg.levels; i++) {
        for (int j = 0; j < h->blocks; j++) {
            init_res(n, &h->level[i].res[j], seed);
            if (i == lowest) init_attn(n, &h->level[i].attn[j], seed);
        }
        init_layer(n, h->level[i].step, seed, 1.0f);
    }
    for (int i = 0; i < 2; i++) init_res(n, &h->mid[i], seed);
    init_attn(n, &h->mid_attn, seed);
    init_layer(n, h->norm, seed, 1.0f);
    init_layer(n, h->out, seed, h == &n->encoder ? 1.0f : 0.1f);
}

void vq_net_init(vq_net *n, uint64_t seed)
{
    init_half(n, &n->encoder, seed);
    init_half(n, &n->decoder, seed);
    init_layer(n, n->quant, seed, 1.0f);
    init_layer(n, n->post_quant, seed, 1.0f);
    fv_params_init_normal(n->params, n->codebook, seed, (float)sqrt(1.0 / n->cfg.code_width));
}

/* ---- Modules --------------------------------------------------------------------------------- */

static fv_t norm(fv_tape *t, const vq_net *n, fv_t x, vq_layer l, fv_act act)
{
    int groups = n->cfg.channels / 4 < 32 ? n->cfg.channels / 4 : 32;
    return fv_groupnorm(t, x, fv_param(t, l.w), fv_param(t, l.b), groups, VQ_NORM_EPS, act);
}

static fv_t conv3(fv_tape *t, fv_t x, vq_layer l, fv_dtype out)
{
    const fv_conv c = { 1, 1, 1, 1, 1, FV_ACT_NONE };
    return fv_conv2d_as(t, x, l.w, l.b, c, out);
}

/* 1x1: a matrix product over pixels. */
static fv_t conv1(fv_tape *t, fv_t x, vq_layer l, fv_dtype out)
{
    return fv_linear_as(t, x, l.w, l.b, FV_ACT_NONE, out);
}

static fv_t res_block(fv_tape *t, const vq_net *n, const vq_res *r, fv_t x)
{
    const fv_dtype type = fv_tape_precision(t);
    fv_t h = conv3(t, norm(t, n, x, r->norm1, FV_ACT_SILU), r->conv1, type);
    h = conv3(t, norm(t, n, h, r->norm2, FV_ACT_SILU), r->conv2, type);
    if (r->shortcut.w >= 0) x = conv1(t, x, r->shortcut, type);
    return fv_binary_op(t, FV_ADD, x, h);
}

static fv_t attn_block(fv_tape *t, const vq_net *n, const vq_attn *a, fv_t x)
{
    const fv_dtype type = fv_tape_precision(t);
    const fv_tensor s = fv_tape_tensor(t, x);
    if (!n->cfg.has_attention || s.ndim != 4) return x;
    const int64_t flat[3] = { s.dim[0], s.dim[1] * s.dim[2], s.dim[3] };
    const int64_t heads[5] = { s.dim[0], flat[1], 3, 1, s.dim[3] };
    const fv_t u = fv_reshape(t, norm(t, n, x, a->norm, FV_ACT_NONE), 3, flat);
    const fv_t qk = fv_concat(t, conv1(t, u, a->q, type), conv1(t, u, a->k, type), 2);
    const fv_t qkv = fv_concat(t, qk, conv1(t, u, a->v, type), 2);
    fv_t h = fv_sdpa(t, fv_reshape(t, qkv, 5, heads), 0.0f, 0);
    h = conv1(t, h, a->proj, type);
    return fv_binary_op(t, FV_ADD, x, fv_reshape(t, h, 4, s.dim));
}

static fv_t middle(fv_tape *t, const vq_net *n, const vq_half *h, fv_t x)
{
    x = res_block(t, n, &h->mid[0], x);
    x = attn_block(t, n, &h->mid_attn, x);
    return res_block(t, n, &h->mid[1], x);
}

static fv_t level_blocks(fv_tape *t, const vq_net *n, const vq_half *h, int i, fv_t x)
{
    const bool is_lowest = i == (h == &n->encoder ? n->cfg.levels - 1 : 0);
    for (int j = 0; j < h->blocks; j++) {
        x = res_block(t, n, &h->level[i].res[j], x);
        if (is_lowest) x = attn_block(t, n, &h->level[i].attn[j], x);
    }
    return x;
}

fv_t vq_encode(fv_tape *t, const vq_net *n, fv_t x)
{
    const vq_config *c = &n->cfg;
    const vq_half *h = &n->encoder;
    const fv_dtype type = fv_tape_precision(t);
    const fv_conv halve = { .stride = 2, .pad_bottom = 1, .pad_right = 1, .act = FV_ACT_NONE };
    if (c->stem > 1) {
        const fv_tensor s = fv_tape_tensor(t, x);
        const int64_t k = c->stem;
        const int64_t dim[4] = { s.dim[0], s.dim[1] / k, s.dim[2] / k, 3 * k * k };
        x = fv_reshape(t, fv_patchify(t, x, c->stem, 0), 4, dim);
    }
    x = conv3(t, x, h->in, type);
    for (int i = 0; i < c->levels; i++) {
        x = level_blocks(t, n, h, i, x);
        if (h->level[i].step.w >= 0)
            x = fv_conv2d_as(t, x, h->level[i].step.w, h->level[i].step.b, halve, type);
    }
    x = norm(t, n, middle(t, n, h, x), h->norm, FV_ACT_SILU);
    return conv1(t, conv3(t, x, h->out, type), n->quant, FV_F32);
}

fv_t vq_quantise(fv_tape *t, const vq_net *n, fv_t z, float beta, fv_t *index, fv_t *loss)
{
    const fv_t codes = fv_l2norm(t, fv_param(t, n->codebook), VQ_UNIT_EPS);
    z = fv_l2norm(t, z, VQ_UNIT_EPS);
    const fv_t q = fv_vq_nearest(t, z, codes, index);
    if (loss) *loss = fv_loss_vq(t, z, codes, *index, beta);
    return q;
}

fv_t vq_lookup(fv_tape *t, const vq_net *n, fv_t index, const int64_t size[3])
{
    const int64_t dim[4] = { size[0], size[1], size[2], n->cfg.code_width };
    return fv_reshape(t, fv_l2norm(t, fv_embed(t, n->codebook, index), VQ_UNIT_EPS), 4, dim);
}

fv_t vq_decode(fv_tape *t, const vq_net *n, fv_t q)
{
    const vq_config *c = &n->cfg;
    const vq_half *h = &n->decoder;
    const fv_dtype type = fv_tape_precision(t);
    fv_t x = conv3(t, conv1(t, q, n->post_quant, type), h->in, type);
    x = middle(t, n, h, x);
    for (int i = 0; i < c->levels; i++) {
        x = level_blocks(t, n, h, i, x);
        if (h->level[i].step.w >= 0) x = conv3(t, fv_upsample2x(t, x), h->level[i].step, type);
    }
    x = conv3(t, norm(t, n, x, h->norm, FV_ACT_SILU), h->out, FV_F32);
    if (c->stem == 1) return x;
    const fv_tensor s = fv_tape_tensor(t, x);
    if (s.ndim != 4) return 0;
    const int64_t flat[3] = { s.dim[0], s.dim[1] * s.dim[2], s.dim[3] };
    return fv_unpatchify(t, fv_reshape(t, x, 3, flat), (int)s.dim[1] * c->stem,
                         (int)s.dim[2] * c->stem, c->stem, 0);
}
