/* rdvq_net.c - the transforms of RDVQ as tape code.
 *
 * Own models use local operations only, so that tiles of a picture with enough of a halo decode to
 * the same pixels as the whole picture:
 *
 *     encoder   Haar -> conv 3x3 -> levels of Block, between them Haar and conv 1x1; scale s is
 *               taken behind level levels - 1 - s by a conv 1x1
 *     decoder   the other way round; scale s comes in before the blocks of its level, and noise
 *               channels, by a 1x1 without bias, at strides 8 and 4
 *     Block     x + gain * conv(silu(conv(x))), gain per channel, 0.2 at first
 *
 *     encoder.stem  encoder.level.I.block.J.{conv1,conv2,gain}  encoder.level.I.down
 *     encoder.latent.S  decoder.latent.S  decoder.level.I.{block.J.*,up,noise}  decoder.tail
 *     codebook.weight
 *
 * Haar and a 1x1 together are a strided convolution; the orthogonal bands in between let the
 * optimiser treat fine detail and means apart. Official models [rdvq.h] are those of the published
 * code: GroupNorm, SiLU, conv 3x3, twice in a ResBlock, three latent scales from strides 64, 32 and
 * 16, and their tensor names. */
#include "rdvq.h"

#include <math.h>
#include <string.h>

#include "rdvq_add.h"

static const rdvq_conv none = { -1, -1 };

/* ---- Parameters ------------------------------------------------------------------------------ */

static rdvq_block add_block(rdvq_adder *a, const char *base, int out, int in)
{
    rdvq_block b = { none, none, none, none, none, -1 };
    b.conv1 = rdvq_add_conv(a, out, in, 3, "%s.conv1", base);
    b.conv2 = rdvq_add_conv(a, out, out, 3, "%s.conv2", base);
    if (a->n->cfg.is_official) {
        b.norm1 = rdvq_add_norm(a, in, "%s.norm1", base);
        b.norm2 = rdvq_add_norm(a, out, "%s.norm2", base);
        if (in != out) b.shortcut = rdvq_add_conv(a, out, in, 1, "%s.nin_shortcut", base);
    } else {
        b.gain = rdvq_add_vector(a, out, 0, "%s.gain", base);
    }
    return b;
}

/* width: of the blocks, and of what comes in. */
static void add_blocks(rdvq_adder *a, rdvq_block *b, int count, const char *base,
                       const int width[2])
{
    char name[96];
    for (int j = 0; j < count; j++) {
        snprintf(name, sizeof name, "%s.block.%d", base, j);
        b[j] = add_block(a, name, width[0], j ? width[0] : width[1]);
    }
}

/* Channels of the latents of a scale. */
static int latent_width(const rdvq_config *c, int scale)
{
    return scale == RDVQ_SCALES - 1 ? c->code_width * c->groups : c->code_width;
}

static bool has_noise(const rdvq_config *c, int level)
{
    return !c->is_official && c->noise > 0 && (level == 1 || level == 2);
}

static void add_own(rdvq_adder *a)
{
    const rdvq_config *c = &a->n->cfg;
    rdvq_half *e = &a->n->encoder, *d = &a->n->decoder;
    char base[64];
    e->ends = rdvq_add_conv(a, c->enc_width[0], 12, 3, "encoder.stem");
    for (int i = 0; i < c->levels; i++) {
        const int w = c->enc_width[i];
        snprintf(base, sizeof base, "encoder.level.%d", i);
        add_blocks(a, e->block[i], c->enc_blocks[i], base, (const int[2]){ w, w });
        if (i + 1 < c->levels)
            e->step[i] = rdvq_add_conv(a, c->enc_width[i + 1], 4 * w, 1, "%s.down", base);
    }
    for (int s = 0; s < RDVQ_SCALES; s++) {
        const int i = c->levels - 1 - s, z = latent_width(c, s);
        e->latent[s] = rdvq_add_conv(a, z, c->enc_width[i], 1, "encoder.latent.%d", s);
        d->latent[s] = rdvq_add_conv(a, c->dec_width[i], z, 1, "decoder.latent.%d", s);
    }
    for (int i = c->levels - 1; i >= 0; i--) {
        const int w = c->dec_width[i];
        snprintf(base, sizeof base, "decoder.level.%d", i);
        if (has_noise(c, i)) d->noise[i].w = rdvq_add_matrix(a, w, c->noise, "%s.noise", base);
        add_blocks(a, d->block[i], c->dec_blocks[i], base, (const int[2]){ w, w });
        if (i > 0) d->step[i] = rdvq_add_conv(a, 4 * c->dec_width[i - 1], w, 1, "%s.up", base);
    }
    d->ends = rdvq_add_conv(a, 12, c->dec_width[0], 3, "decoder.tail");
}

static void add_official_scale(rdvq_adder *a, int s)
{
    const rdvq_config *c = &a->n->cfg;
    rdvq_half *e = &a->n->encoder, *d = &a->n->decoder;
    const int i = c->levels - 1 - s, we = c->enc_width[i], wd = c->dec_width[c->levels - 1];
    for (int half = 0; half < 2; half++)
        for (int j = 0; j < 2; j++) {
            char base[64];
            snprintf(base, sizeof base, "%s.mid.s%d.block_%d", half ? "decoder" : "encoder", s + 1,
                     j + 1);
            *(half ? &d->mid[s][j] : &e->mid[s][j]) =
                add_block(a, base, half ? wd : we, half ? wd : we);
        }
    e->norm_out[s] = rdvq_add_norm(a, we, "encoder.norm_out.s%d", s + 1);
    e->conv[s] = rdvq_add_conv(a, c->head, we, 3, "encoder.conv_out.s%d", s + 1);
    e->latent[s] = rdvq_add_conv(a, c->code_width, c->head, 1, "quant_conv_list.s%d", s + 1);
    d->latent[s] = rdvq_add_conv(a, c->head, c->code_width, 1, "post_quant_conv_list.s%d", s + 1);
    d->conv[s] = rdvq_add_conv(a, wd, c->head, 3, "decoder.conv_in.s%d", s + 1);
}

static void add_official(rdvq_adder *a)
{
    const rdvq_config *c = &a->n->cfg;
    rdvq_half *e = &a->n->encoder, *d = &a->n->decoder;
    char base[64];
    e->ends = rdvq_add_conv(a, c->enc_width[0], 3, 3, "encoder.conv_in");
    for (int i = 0; i < c->levels; i++) {
        const int w[2] = { c->enc_width[i], c->enc_width[i ? i - 1 : 0] };
        snprintf(base, sizeof base, "encoder.down.%d", i);
        add_blocks(a, e->block[i], c->enc_blocks[i], base, w);
        if (i + 1 < c->levels)
            e->step[i] = rdvq_add_conv(a, w[0], w[0], 3, "%s.downsample.conv", base);
    }
    for (int s = 0; s < RDVQ_SCALES; s++) add_official_scale(a, s);
    for (int i = c->levels - 1; i >= 0; i--) {
        const int w[2] = { c->dec_width[i], c->dec_width[i + 1 < c->levels ? i + 1 : i] };
        snprintf(base, sizeof base, "decoder.up.%d", i);
        add_blocks(a, d->block[i], c->dec_blocks[i], base, w);
        if (i > 0) d->step[i] = rdvq_add_conv(a, w[0], w[0], 3, "%s.upsample.conv", base);
    }
    d->norm_out[0] = rdvq_add_norm(a, c->dec_width[0], "decoder.norm_out");
    d->ends = rdvq_add_conv(a, 3, c->dec_width[0], 3, "decoder.conv_out");
}

/* Transforms and codebook. */
static rdvq_adder add_pixels(rdvq_net *n, fv_params *params, const rdvq_config *c,
                             const char *prefix, unsigned frozen)
{
    rdvq_adder a = { n, prefix, frozen & RDVQ_TRANSFORMS ? FV_PARAM_FROZEN : 0 };
    memset(n, 0xff, sizeof *n); /* every id -1 */
    n->cfg = *c;
    n->params = params;
    rdvq_slices_build(c, &n->slices);
    if (c->is_official) add_official(&a);
    else add_own(&a);
    a.flags = frozen & RDVQ_CODEBOOK ? FV_PARAM_FROZEN : 0;
    n->codebook = rdvq_add_table(&a, c->codes, c->code_width,
                                 c->is_official ? "quantize.embedding.weight" : "codebook.weight");
    return a;
}

void rdvq_net_add_pixels(rdvq_net *n, fv_params *params, const rdvq_config *c, const char *prefix)
{
    (void)add_pixels(n, params, c, prefix, 0);
}

void rdvq_net_add(rdvq_net *n, fv_params *params, const rdvq_config *c, const char *prefix,
                  unsigned frozen)
{
    rdvq_adder a = add_pixels(n, params, c, prefix, frozen);
    a.flags = frozen & RDVQ_ENTROPY ? FV_PARAM_FROZEN : 0;
    rdvq_entropy_add(&a);
}

/* ---- Start of a training --------------------------------------------------------------------- */

/* Fan-in scaling; the second convolution of an official block and what writes pictures start
 * small. Codes begin as random directions, the transformer as rdvq_entropy_init says. */
void rdvq_net_init(rdvq_net *n, uint64_t seed)
{
    for (fv_pid id = 0; id < fv_params_count(n->params); id++) {
        const char *name = fv_params_name(n->params, id);
        const fv_tensor t = fv_params_tensor(n->params, id);
        const double fan_in = (double)(fv_tensor_count(&t) / t.dim[0]);
        float gain = 1.0f;
        if (fv_ends_with(name, "conv1.weight")) gain = 1.4142135f;
        if (fv_ends_with(name, "tail.weight")) gain = 0.3f;
        if (n->cfg.is_official && fv_ends_with(name, "conv2.weight")) gain = 0.14142135f;
        if (fv_ends_with(name, ".bias")) fv_params_fill(n->params, id, 0.0f);
        else if (fv_ends_with(name, ".gain")) fv_params_fill(n->params, id, 0.2f);
        else if (t.ndim == 1) fv_params_fill(n->params, id, 1.0f);
        else fv_params_init_normal(n->params, id, seed, gain * (float)sqrt(1.0 / fan_in));
    }
    rdvq_entropy_init(n, seed);
}

/* ---- Modules --------------------------------------------------------------------------------- */

static fv_t conv3(fv_tape *t, fv_t x, rdvq_conv l, fv_act act, fv_dtype out)
{
    const fv_conv c = { 1, 1, 1, 1, 1, act };
    return fv_conv2d_as(t, x, l.w, l.b, c, out);
}

/* 1x1: a matrix product over pixels. */
static fv_t conv1(fv_tape *t, fv_t x, rdvq_conv l, fv_dtype out)
{
    return fv_linear_as(t, x, l.w, l.b, FV_ACT_NONE, out);
}

static fv_t norm(fv_tape *t, const rdvq_net *n, fv_t x, rdvq_conv l)
{
    return fv_groupnorm(t, x, fv_param(t, l.w), fv_param(t, l.b), n->cfg.norm_groups, 1e-6f,
                        FV_ACT_SILU);
}

static fv_t block(fv_tape *t, const rdvq_net *n, const rdvq_block *b, fv_t x)
{
    const fv_dtype type = fv_tape_precision(t);
    if (!n->cfg.is_official) {
        const fv_t u = conv3(t, x, b->conv1, FV_ACT_SILU, type);
        return fv_gate_residual(t, x, conv3(t, u, b->conv2, FV_ACT_NONE, type),
                                fv_param(t, b->gain), 0);
    }
    fv_t h = conv3(t, norm(t, n, x, b->norm1), b->conv1, FV_ACT_NONE, type);
    h = conv3(t, norm(t, n, h, b->norm2), b->conv2, FV_ACT_NONE, type);
    if (b->shortcut.w >= 0) x = conv1(t, x, b->shortcut, type);
    return fv_binary_op(t, FV_ADD, x, h);
}

static fv_t step_down(fv_tape *t, const rdvq_net *n, fv_t x, rdvq_conv l)
{
    const fv_dtype type = fv_tape_precision(t);
    const fv_conv halve = { .stride = 2, .pad_bottom = 1, .pad_right = 1, .act = FV_ACT_NONE };
    if (n->cfg.is_official) return fv_conv2d_as(t, x, l.w, l.b, halve, type);
    return conv1(t, fv_haar_down(t, x), l, type);
}

static fv_t step_up(fv_tape *t, const rdvq_net *n, fv_t x, rdvq_conv l)
{
    const fv_dtype type = fv_tape_precision(t);
    if (n->cfg.is_official) return conv3(t, fv_upsample2x(t, x), l, FV_ACT_NONE, type);
    return fv_haar_up(t, conv1(t, x, l, type));
}

static fv_t to_latent(fv_tape *t, const rdvq_net *n, fv_t x, int s)
{
    const rdvq_half *e = &n->encoder;
    if (n->cfg.is_official) {
        for (int j = 0; j < 2; j++) x = block(t, n, &e->mid[s][j], x);
        x = conv3(t, norm(t, n, x, e->norm_out[s]), e->conv[s], FV_ACT_NONE, fv_tape_precision(t));
    }
    return conv1(t, x, e->latent[s], FV_F32);
}

static fv_t from_latent(fv_tape *t, const rdvq_net *n, fv_t q, int s)
{
    const rdvq_half *d = &n->decoder;
    fv_t x = conv1(t, q, d->latent[s], fv_tape_precision(t));
    if (!n->cfg.is_official) return x;
    x = conv3(t, x, d->conv[s], FV_ACT_NONE, fv_tape_precision(t));
    for (int j = 0; j < 2; j++) x = block(t, n, &d->mid[s][j], x);
    return x;
}

void rdvq_analyse(fv_tape *t, const rdvq_net *n, fv_t x, fv_t z[RDVQ_SCALES])
{
    const rdvq_config *c = &n->cfg;
    const rdvq_half *e = &n->encoder;
    x = conv3(t, c->is_official ? x : fv_haar_down(t, x), e->ends, FV_ACT_NONE,
              fv_tape_precision(t));
    for (int i = 0; i < c->levels; i++) {
        for (int j = 0; j < c->enc_blocks[i]; j++) x = block(t, n, &e->block[i][j], x);
        const int s = c->levels - 1 - i;
        if (s < RDVQ_SCALES) z[s] = to_latent(t, n, x, s);
        if (i + 1 < c->levels) x = step_down(t, n, x, e->step[i]);
    }
}

fv_t rdvq_synthesise(fv_tape *t, const rdvq_net *n, const fv_t q[RDVQ_SCALES], const fv_t noise[2])
{
    const rdvq_config *c = &n->cfg;
    const rdvq_half *d = &n->decoder;
    fv_t x = 0;
    for (int i = c->levels - 1; i >= 0; i--) {
        const int s = c->levels - 1 - i;
        if (s < RDVQ_SCALES) {
            const fv_t h = from_latent(t, n, q[s], s);
            x = x ? fv_binary_op(t, FV_ADD, x, h) : h;
        }
        if (has_noise(c, i))
            x = fv_binary_op(t, FV_ADD, x, conv1(t, noise[2 - i], d->noise[i],
                                                 fv_tape_precision(t)));
        for (int j = 0; j < c->dec_blocks[i]; j++) x = block(t, n, &d->block[i][j], x);
        if (i > 0) x = step_up(t, n, x, d->step[i]);
    }
    if (c->is_official) x = norm(t, n, x, d->norm_out[0]);
    x = conv3(t, x, d->ends, FV_ACT_NONE, FV_F32);
    return c->is_official ? x : fv_haar_up(t, x);
}

/* ---- Windows and codes ----------------------------------------------------------------------- */

fv_t rdvq_to_windows(fv_tape *t, const rdvq_net *n, const fv_t z[RDVQ_SCALES])
{
    const int64_t D = n->cfg.code_width;
    fv_t rows = 0;
    for (int k = 0; k < n->slices.layers; k++) {
        const rdvq_layer *l = &n->slices.layer[k];
        fv_t x = z[l->scale];
        if (l->scale == RDVQ_SCALES - 1 && n->cfg.groups > 1) x = fv_slice(t, x, l->group * D, D);
        x = fv_patchify(t, x, l->side, 0);
        const fv_tensor s = fv_tape_tensor(t, x);
        const int64_t dim[3] = { s.dim[0] * s.dim[1], l->tokens, D };
        x = fv_reshape(t, x, 3, dim);
        rows = rows ? fv_concat(t, rows, x, 1) : x;
    }
    return rows;
}

void rdvq_from_windows(fv_tape *t, const rdvq_net *n, fv_t q, const int64_t size[3],
                       fv_t out[RDVQ_SCALES])
{
    const int64_t D = n->cfg.code_width, all = size[0] * size[1] * size[2];
    const int64_t flat[2] = { all, n->slices.tokens * D };
    q = fv_reshape(t, q, 2, flat);
    for (int k = 0; k < n->slices.layers; k++) {
        const rdvq_layer *l = &n->slices.layer[k];
        const int64_t dim[3] = { size[0], size[1] * size[2], l->tokens * D };
        fv_t x = fv_reshape(t, fv_slice(t, q, l->first_token * D, l->tokens * D), 3, dim);
        x = fv_unpatchify(t, x, (int)size[1] * l->side, (int)size[2] * l->side, l->side, 0);
        out[l->scale] = l->group ? fv_concat(t, out[l->scale], x, 3) : x;
    }
}

fv_t rdvq_unit(fv_tape *t, fv_t z) { return fv_l2norm(t, z, RDVQ_UNIT_EPS); }
fv_t rdvq_codes(fv_tape *t, const rdvq_net *n) { return rdvq_unit(t, fv_param(t, n->codebook)); }

void rdvq_fill_noise(const rdvq_net *n, uint32_t seed, int stride, const int at[4], float *out)
{
    for (int y = 0; y < at[3]; y++)
        for (int x = 0; x < at[2]; x++)
            for (int c = 0; c < n->cfg.noise; c++)
                *out++ = rdvq_noise(seed, stride, at[0] + x, at[1] + y, c);
}
