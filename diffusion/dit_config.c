/* dit_config.c - what network a model file holds.
 *
 * fovea's own files say it in metadata (all values are text):
 *     fovea.kind = dit       fovea.version = 1       fovea.family = official | f
 *     fovea.name  fovea.input_size channels out_channels patch width depth heads hidden
 *     fovea.class_count  fovea.has_null  fovea.bottleneck  fovea.refine
 *     fovea.head_dim (only where heads times it is not the width)
 *     fovea.t_scale t_den ln2_eps  fovea.sampler  fovea.steps  fovea.cfg
 *     fovea.classes = names, one a line (optional, added by the writer of the file)
 * Official files say it by tensor shapes: depth by counting blocks, width and patch by
 * x_embedder.proj.weight, input size by pos_embed. Heads are not in any shape: known (width, depth)
 * pairs, else metadata "heads", else heads of 64.
 *
 * The file is not trusted: every number has a range, and dit_config_check makes sure that no later
 * product of sizes can overflow or ask for absurd memory. */
#include "dit_shapes.h"

#include <math.h>
#include <string.h>

#define FORMAT_VERSION 1

/* ---- Checks --------------------------------------------------------------------------------- */

static fv_status check_fit(fv_ctx *ctx, const dit_config *c)
{
    if (c->head_dim && c->head_dim % 4)
        return fv_fail(ctx, FV_ERR_MODEL, "model: heads of %d are not a multiple of 4",
                       c->head_dim);
    if (c->width % 4 || (!c->head_dim && (c->width % c->heads || c->width / c->heads % 4)))
        return fv_fail(ctx, FV_ERR_MODEL,
                       "model: width %d does not split into %d heads of a multiple of 4", c->width,
                       c->heads);
    if (c->family == DIT_OFFICIAL && (c->bottleneck || c->refine))
        return fv_fail(ctx, FV_ERR_MODEL, "model: bottleneck and refine belong to F models only");
    if (c->input_size % c->patch)
        return fv_fail(ctx, FV_ERR_MODEL, "model: input size %d is not a multiple of the patch %d",
                       c->input_size, c->patch);
    FV_TRY(fv_meta_range(ctx, "number of tokens", dit_tokens(c), 1, DIT_MAX_TOKENS));
    const bool is_flow = c->sampler == FV_SAMPLER_EULER || c->sampler == FV_SAMPLER_HEUN;
    if (c->sampler == FV_SAMPLER_AUTO || is_flow != (c->family == DIT_F))
        return fv_fail(ctx, FV_ERR_MODEL, "model: its default sampler does not fit its family");
    const bool learns_range = c->out_channels == 2 * c->channels;
    if (c->out_channels != c->channels && !(c->family == DIT_OFFICIAL && learns_range))
        return fv_fail(ctx, FV_ERR_MODEL, "model: %d output channels do not fit %d input channels",
                       c->out_channels, c->channels);
    return FV_OK;
}

fv_status dit_config_check(fv_ctx *ctx, const dit_config *c)
{
    FV_TRY(fv_meta_range(ctx, "input size", c->input_size, 1, DIT_MAX_SIZE));
    FV_TRY(fv_meta_range(ctx, "channels", c->channels, 1, 64));
    FV_TRY(fv_meta_range(ctx, "output channels", c->out_channels, 1, 128));
    FV_TRY(fv_meta_range(ctx, "patch", c->patch, 1, 64));
    FV_TRY(fv_meta_range(ctx, "width", c->width, 4, DIT_MAX_WIDTH));
    FV_TRY(fv_meta_range(ctx, "depth", c->depth, 1, DIT_MAX_DEPTH));
    FV_TRY(fv_meta_range(ctx, "heads", c->heads, 1, 1024));
    FV_TRY(fv_meta_range(ctx, "size of a head", c->head_dim, 0, 1024));
    FV_TRY(fv_meta_range(ctx, "MLP width", c->hidden, 1, 8 * DIT_MAX_WIDTH));
    FV_TRY(fv_meta_range(ctx, "classes", c->classes, 1, DIT_MAX_CLASSES));
    FV_TRY(fv_meta_range(ctx, "has_null", c->has_null, 0, 1));
    FV_TRY(fv_meta_range(ctx, "bottleneck", c->bottleneck, 0, 4096));
    FV_TRY(fv_meta_range(ctx, "refine", c->refine, 0, 1024));
    FV_TRY(fv_meta_range(ctx, "steps", c->steps, c->family == DIT_F ? 1 : 2, 1000));
    if (!(c->t_scale > 0 && c->t_scale <= 1e6f) || !(c->t_den >= 1 && c->t_den <= 1e6f) ||
        !(c->ln2_eps >= 0 && c->ln2_eps <= 1.0f) || !(c->cfg >= 0 && c->cfg <= 1000))
        return fv_fail(ctx, FV_ERR_MODEL, "model: t_scale, t_den, ln2_eps or cfg is out of range");
    return check_fit(ctx, c);
}

/* ---- Metadata: reading ---------------------------------------------------------------------- */

static fv_status read_words(fv_ctx *ctx, const fv_model *m, dit_config *c)
{
    const char *family = fv_model_meta(m, "fovea.family"), *name = fv_model_meta(m, "fovea.name");
    const char *sampler = fv_model_meta(m, "fovea.sampler");
    int version = 0;
    FV_TRY(fv_meta_int(ctx, m, "fovea.version", &version));
    if (version < 1 || version > FORMAT_VERSION)
        return fv_fail(ctx, FV_ERR_VERSION,
                       "model: metadata version %d, this library reads 1 to %d", version,
                       FORMAT_VERSION);
    if (family && strcmp(family, "official") == 0)
        c->family = DIT_OFFICIAL;
    else if (family && strcmp(family, "f") == 0)
        c->family = DIT_F;
    else
        return fv_fail(ctx, FV_ERR_MODEL, "model: metadata fovea.family must be official or f");
    fv_meta_name(name, "DiT", c->name, sizeof c->name);
    c->sampler = fv_sampler_find(sampler);
    if (c->sampler == FV_SAMPLER_AUTO)
        return fv_fail(ctx, FV_ERR_MODEL,
                       "model: metadata fovea.sampler is missing or names no sampler");
    return FV_OK;
}

static fv_status read_metadata(fv_ctx *ctx, const fv_model *m, dit_config *c)
{
    FV_TRY(read_words(ctx, m, c));
    FV_TRY(fv_meta_int(ctx, m, "fovea.input_size", &c->input_size));
    FV_TRY(fv_meta_int(ctx, m, "fovea.channels", &c->channels));
    FV_TRY(fv_meta_int(ctx, m, "fovea.out_channels", &c->out_channels));
    FV_TRY(fv_meta_int(ctx, m, "fovea.patch", &c->patch));
    FV_TRY(fv_meta_int(ctx, m, "fovea.width", &c->width));
    FV_TRY(fv_meta_int(ctx, m, "fovea.depth", &c->depth));
    FV_TRY(fv_meta_int(ctx, m, "fovea.heads", &c->heads));
    if (fv_model_meta(m, "fovea.head_dim"))
        FV_TRY(fv_meta_int(ctx, m, "fovea.head_dim", &c->head_dim));
    FV_TRY(fv_meta_int(ctx, m, "fovea.hidden", &c->hidden));
    FV_TRY(fv_meta_int(ctx, m, "fovea.class_count", &c->classes));
    FV_TRY(fv_meta_int(ctx, m, "fovea.has_null", &c->has_null));
    FV_TRY(fv_meta_int(ctx, m, "fovea.bottleneck", &c->bottleneck));
    FV_TRY(fv_meta_int(ctx, m, "fovea.refine", &c->refine));
    FV_TRY(fv_meta_int(ctx, m, "fovea.steps", &c->steps));
    FV_TRY(fv_meta_float(ctx, m, "fovea.t_scale", &c->t_scale));
    FV_TRY(fv_meta_float(ctx, m, "fovea.t_den", &c->t_den));
    FV_TRY(fv_meta_float(ctx, m, "fovea.ln2_eps", &c->ln2_eps));
    return fv_meta_float(ctx, m, "fovea.cfg", &c->cfg);
}

/* ---- Shapes --------------------------------------------------------------------------------- */

static const struct {
    const char *letter;
    int width, depth, heads;
} known[] = {
    {"S", 384, 12, 6},
    {"B", 768, 12, 12},
    {"L", 1024, 24, 16},
    {"XL", 1152, 28, 16},
};

/* A hint in metadata ("heads", "classes", "image"); *out stays if there is none. */
static fv_status hint(fv_ctx *ctx, const fv_model *m, const char *key, int *out)
{
    return m && fv_model_meta(m, key) ? fv_meta_int(ctx, m, key, out) : FV_OK;
}

static fv_status heads_and_name(fv_ctx *ctx, const fv_model *hints, dit_config *c)
{
    snprintf(c->name, sizeof c->name, "DiT");
    for (size_t i = 0; i < FV_ARRAY_LEN(known); i++) {
        if (known[i].width != c->width || known[i].depth != c->depth) continue;
        c->heads = known[i].heads;
        snprintf(c->name, sizeof c->name, "DiT-%s/%d", known[i].letter, c->patch);
        return FV_OK;
    }
    FV_TRY(hint(ctx, hints, "heads", &c->heads));
    if (c->heads == 0) c->heads = c->width <= 64 ? 1 : c->width % 64 == 0 ? c->width / 64 : 0;
    if (c->heads > 0) return FV_OK;
    return fv_fail(ctx, FV_ERR_MODEL,
                   "model: a DiT of width %d and depth %d is unknown and the file does not say its "
                   "number of heads: add metadata \"heads\"",
                   c->width, c->depth);
}

static fv_status set_input_size(fv_ctx *ctx, const dit_shapes *s, const fv_model *hints,
                                dit_config *c)
{
    c->input_size = 32; /* 256 x 256 pixels through the VAE */
    FV_TRY(hint(ctx, hints, "image", &c->input_size));
    if (s->pos.ndim == 0) return FV_OK;
    const int64_t N = s->pos.ndim == 3 ? s->pos.dim[1] : 0;
    if (N < 1 || N > DIT_MAX_TOKENS || s->pos.dim[0] != 1)
        return fv_fail(ctx, FV_ERR_MODEL,
                       "model: tensor pos_embed is not [1, tokens, width] with at most %d tokens",
                       DIT_MAX_TOKENS);
    int g = (int)sqrt((double)N);
    if ((int64_t)g * g < N) g++;
    if ((int64_t)g * g != N)
        return fv_fail(ctx, FV_ERR_MODEL,
                       "model: tensor pos_embed has %lld tokens, which is not a square",
                       (long long)N);
    c->input_size = g * c->patch;
    return FV_OK;
}

static fv_status set_classes(fv_ctx *ctx, const dit_shapes *s, const fv_model *hints, dit_config *c)
{
    const int64_t rows = s->classes.ndim == 2 ? s->classes.dim[0] : 0;
    FV_TRY(fv_meta_range(ctx, "rows of the class table", rows, 1, DIT_MAX_CLASSES));
    /* With label dropout (the rule) the last row is the null class; 1000 rows are ImageNet
     * without. */
    c->classes = rows == 1000 || rows == 1 ? (int)rows : (int)rows - 1;
    FV_TRY(hint(ctx, hints, "classes", &c->classes));
    /* Before the subtraction. */
    FV_TRY(fv_meta_range(ctx, "classes", c->classes, 1, DIT_MAX_CLASSES));
    c->has_null = (int)rows - c->classes;
    if (c->has_null == 0 || c->has_null == 1) return FV_OK;
    return fv_fail(ctx, FV_ERR_MODEL,
                   "model: the class table has %lld rows, metadata says %d classes",
                   (long long)rows, c->classes);
}

fv_status dit_config_from_shapes(fv_ctx *ctx, const dit_shapes *s, const fv_model *hints,
                                 dit_config *c)
{
    const fv_tensor *pe = &s->patch, *out = &s->out;
    memset(c, 0, sizeof *c);
    if (pe->ndim != 4 || pe->dim[2] != pe->dim[3] || pe->dim[0] < 4 || pe->dim[0] > DIT_MAX_WIDTH ||
        pe->dim[1] < 1 || pe->dim[1] > 64 || pe->dim[2] < 1 || pe->dim[2] > 64)
        return fv_fail(ctx, FV_ERR_MODEL,
                       "model: the patch embedding is not [width, channels, patch, patch]");
    c->family = DIT_OFFICIAL;
    c->width = (int)pe->dim[0];
    c->channels = (int)pe->dim[1];
    c->patch = (int)pe->dim[2];
    c->depth = s->depth;
    const int64_t area = pe->dim[2] * pe->dim[2];
    if (out->ndim != 2 || out->dim[0] < area || out->dim[0] % area || out->dim[0] / area > 128)
        return fv_fail(ctx, FV_ERR_MODEL,
                       "model: the final layer is not [patch*patch*channels, width]");
    c->out_channels = (int)(out->dim[0] / area);
    if (s->fc1.ndim != 2 || s->fc1.dim[0] < 1 || s->fc1.dim[0] > 8 * DIT_MAX_WIDTH)
        return fv_fail(ctx, FV_ERR_MODEL, "model: the first MLP matrix is not [hidden, width]");
    c->hidden = (int)s->fc1.dim[0];
    c->t_scale = 1.0f;
    c->t_den = 128.0f;
    c->ln2_eps = 1e-6f;
    c->steps = 50;
    c->cfg = 4.0f;
    c->sampler = FV_SAMPLER_DDIM;
    FV_TRY(heads_and_name(ctx, hints, c));
    FV_TRY(set_input_size(ctx, s, hints, c));
    FV_TRY(set_classes(ctx, s, hints, c));
    return dit_config_check(ctx, c);
}

static int find(const fv_model *m, const char *prefix, const char *name, fv_tensor *t)
{
    char full[512];
    const int n = snprintf(full, sizeof full, "%s%s", prefix, name);
    if (n > 0 && n < (int)sizeof full) return fv_model_find(m, full, t);
    memset(t, 0, sizeof *t);
    return 0;
}

static fv_status not_a_dit(fv_ctx *ctx, const fv_model *m, const char *prefix)
{
    fv_tensor t;
    const char *kind = fv_model_meta(m, "fovea.kind");
    if (kind)
        return fv_fail(
            ctx, FV_ERR_MODEL,
            "model: this file holds a fovea model of kind \"%.40s\", not a diffusion transformer",
            kind);
    if (find(m, prefix, "transformer_blocks.0.norm1.linear.weight", &t))
        return fv_fail(ctx, FV_ERR_MODEL,
                       "model: this is a Diffusers file: convert it first (fovea convert)");
    if (find(m, "ema.", "x_embedder.proj.weight", &t) ||
        find(m, "model.", "x_embedder.proj.weight", &t))
        return fv_fail(ctx, FV_ERR_MODEL,
                       "model: this is a training checkpoint: convert it first (fovea convert)");
    return fv_fail(ctx, FV_ERR_MODEL,
                   "model: not a diffusion transformer: it has neither fovea metadata nor a tensor "
                   "%sx_embedder.proj.weight",
                   prefix);
}

fv_status dit_config_read(fv_ctx *ctx, const fv_model *m, const char *prefix, dit_config *out)
{
    const char *kind = fv_model_meta(m, "fovea.kind");
    dit_shapes s;
    fv_tensor block;
    memset(out, 0, sizeof *out);
    memset(&s, 0, sizeof s);
    if (!prefix) prefix = "";
    if (kind && strcmp(kind, "dit") == 0) {
        FV_TRY(read_metadata(ctx, m, out));
        return dit_config_check(ctx, out);
    }
    if (kind || !find(m, prefix, "x_embedder.proj.weight", &s.patch))
        return not_a_dit(ctx, m, prefix);
    for (; s.depth <= DIT_MAX_DEPTH; s.depth++) {
        char name[48];
        snprintf(name, sizeof name, "blocks.%d.attn.qkv.weight", s.depth);
        if (!find(m, prefix, name, &block)) break;
    }
    find(m, prefix, "pos_embed", &s.pos);
    if (!find(m, prefix, "y_embedder.embedding_table.weight", &s.classes))
        return fv_fail(ctx, FV_ERR_MODEL,
                       "model: tensor %sy_embedder.embedding_table.weight is missing", prefix);
    if (!find(m, prefix, "blocks.0.mlp.fc1.weight", &s.fc1))
        return fv_fail(ctx, FV_ERR_MODEL, "model: tensor %sblocks.0.mlp.fc1.weight is missing",
                       prefix);
    if (!find(m, prefix, "final_layer.linear.weight", &s.out))
        return fv_fail(ctx, FV_ERR_MODEL, "model: tensor %sfinal_layer.linear.weight is missing",
                       prefix);
    return dit_config_from_shapes(ctx, &s, m, out);
}

/* ---- Metadata: writing ---------------------------------------------------------------------- */

fv_status dit_config_meta(fv_ctx *ctx, const dit_config *c, fv_meta *out)
{
    const struct {
        const char *key;
        double value;
    } number[] = {
        {"fovea.version", FORMAT_VERSION}, {"fovea.input_size", c->input_size},
        {"fovea.channels", c->channels},   {"fovea.out_channels", c->out_channels},
        {"fovea.patch", c->patch},         {"fovea.width", c->width},
        {"fovea.depth", c->depth},         {"fovea.heads", c->heads},
        {"fovea.hidden", c->hidden},       {"fovea.class_count", c->classes},
        {"fovea.has_null", c->has_null},   {"fovea.bottleneck", c->bottleneck},
        {"fovea.refine", c->refine},       {"fovea.t_scale", c->t_scale},
        {"fovea.t_den", c->t_den},         {"fovea.ln2_eps", c->ln2_eps},
        {"fovea.steps", c->steps},         {"fovea.cfg", c->cfg},
    };
    memset(out, 0, sizeof *out);
    fv_status s = fv_meta_add(ctx, out, "fovea.kind", "dit");
    if (s == FV_OK)
        s = fv_meta_add(ctx, out, "fovea.family", c->family == DIT_F ? "f" : "official");
    if (s == FV_OK) s = fv_meta_add(ctx, out, "fovea.name", c->name);
    if (s == FV_OK) s = fv_meta_add(ctx, out, "fovea.sampler", fv_sampler_name(c->sampler));
    for (size_t i = 0; i < FV_ARRAY_LEN(number) && s == FV_OK; i++)
        s = fv_meta_add_number(ctx, out, number[i].key, number[i].value);
    if (s == FV_OK && c->head_dim) s = fv_meta_add_number(ctx, out, "fovea.head_dim", c->head_dim);
    if (s != FV_OK) fv_meta_free(ctx, out);
    return s;
}
