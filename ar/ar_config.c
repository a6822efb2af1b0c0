/* ar_config.c - what an autoregressive model file holds.
 *
 * fovea's own files say it in metadata (all values are text):
 *     fovea.kind = ar | vq    fovea.version = 1    fovea.name
 *     fovea.gpt.layers heads width ffn vocab grid class_count cond_tokens caption_width norm_eps
 *               rope_theta cfg temperature top_k top_p
 *     fovea.draft.norm_eps
 *     fovea.vq.stem channels mult ("1,2,4") encoder_blocks decoder_blocks latent codes code_width
 *              attention
 * and have the parts' tensors under "gpt.", "draft." and "vq.". Official files (LlamaGen: one part
 * a file) say it by tensor shapes. Two numbers are in no shape: heads, by known (width, layers),
 * and the grid, by the rows of freqs_cis where it was stored; metadata "heads" and "grid" help.
 *
 * The file is not trusted: every number has a range, so that no later product of sizes can overflow
 * or ask for absurd memory. */
#include "ar_shapes.h"

#include <string.h>
#include <strings.h>

#define FORMAT_VERSION 1

/* ---- Checks ---------------------------------------------------------------------------------- */

static bool within(float v, float lo, float hi)
{
    return v >= lo && v <= hi; /* false for NaN */
}

fv_status gpt_config_check(fv_ctx *ctx, const gpt_config *c)
{
    FV_TRY(fv_meta_range(ctx, "layers", c->layers, 1, AR_MAX_LAYERS));
    FV_TRY(fv_meta_range(ctx, "heads", c->heads, 1, 1024));
    FV_TRY(fv_meta_range(ctx, "width", c->width, 4, AR_MAX_WIDTH));
    FV_TRY(fv_meta_range(ctx, "MLP width", c->ffn, 1, 8 * AR_MAX_WIDTH));
    FV_TRY(fv_meta_range(ctx, "codes", c->vocab, 1, AR_MAX_VOCAB));
    FV_TRY(fv_meta_range(ctx, "grid", c->grid, 1, AR_MAX_GRID));
    FV_TRY(fv_meta_range(ctx, "classes", c->classes, 0, AR_MAX_CLASSES));
    FV_TRY(fv_meta_range(ctx, "condition tokens", c->cond_tokens, 1, AR_MAX_COND));
    FV_TRY(fv_meta_range(ctx, "caption width", c->caption_width, 0, AR_MAX_WIDTH));
    FV_TRY(fv_meta_range(ctx, "top_k", c->top_k, 0, AR_MAX_VOCAB));
    if (c->width % c->heads || c->width / c->heads % 4)
        return fv_fail(ctx, FV_ERR_MODEL,
                       "model: width %d does not split into %d heads of a multiple of 4", c->width,
                       c->heads);
    if (c->classes > 0 && (c->cond_tokens != 1 || c->caption_width))
        return fv_fail(ctx, FV_ERR_MODEL,
                       "model: a model of classes has one condition token and no caption width");
    if (c->classes == 0 && c->caption_width == 0)
        return fv_fail(ctx, FV_ERR_MODEL, "model: it has neither classes nor a caption width");
    if (!within(c->norm_eps, 0, 1) || !within(c->rope_theta, 1, 1e9f) || !within(c->cfg, 0, 1000) ||
        !within(c->temperature, 0, 1000) || !within(c->top_p, 1e-6f, 1) ||
        !within(c->draft_eps, 0, 1))
        return fv_fail(ctx, FV_ERR_MODEL, "model: norm_eps, rope_theta, cfg, temperature or top_p "
                       "is out of range");
    return FV_OK;
}

fv_status vq_config_check(fv_ctx *ctx, const vq_config *c)
{
    FV_TRY(fv_meta_range(ctx, "tokenizer stem", c->stem, 1, 8));
    FV_TRY(fv_meta_range(ctx, "tokenizer channels", c->channels, 4, 1024));
    FV_TRY(fv_meta_range(ctx, "tokenizer levels", c->levels, 1, VQ_MAX_LEVELS));
    for (int i = 0; i < c->levels; i++)
        FV_TRY(fv_meta_range(ctx, "tokenizer channel factor", c->mult[i], 1, 32));
    FV_TRY(fv_meta_range(ctx, "tokenizer encoder blocks", c->encoder_blocks, 1, 16));
    FV_TRY(fv_meta_range(ctx, "tokenizer decoder blocks", c->decoder_blocks, 1, 16));
    FV_TRY(fv_meta_range(ctx, "tokenizer latent channels", c->latent, 1, 4096));
    FV_TRY(fv_meta_range(ctx, "codes", c->codes, 1, AR_MAX_VOCAB));
    FV_TRY(fv_meta_range(ctx, "code width", c->code_width, 1, 1024));
    FV_TRY(fv_meta_range(ctx, "tokenizer attention", c->has_attention, 0, 1));
    return fv_meta_range(ctx, "pixels of a code", vq_factor(c), 1, 64);
}

static fv_status check(fv_ctx *ctx, const ar_config *c)
{
    if (c->has_gpt) FV_TRY(gpt_config_check(ctx, &c->gpt));
    if (c->has_vq) FV_TRY(vq_config_check(ctx, &c->vq));
    if (c->has_gpt && c->has_vq && c->gpt.vocab != c->vq.codes)
        return fv_fail(ctx, FV_ERR_MODEL, "model: the GPT has %d codes, its tokenizer %d",
                       c->gpt.vocab, c->vq.codes);
    return FV_OK;
}

/* ---- Fields and their keys ------------------------------------------------------------------- */

typedef struct field {
    const char *key;
    int *whole;
    float *number; /* if not whole */
} field;
#define MAX_FIELDS 16

static int gpt_fields(gpt_config *c, field *f)
{
    const field all[] = {
        {"fovea.gpt.layers", &c->layers, NULL},
        {"fovea.gpt.heads", &c->heads, NULL},
        {"fovea.gpt.width", &c->width, NULL},
        {"fovea.gpt.ffn", &c->ffn, NULL},
        {"fovea.gpt.vocab", &c->vocab, NULL},
        {"fovea.gpt.grid", &c->grid, NULL},
        {"fovea.gpt.class_count", &c->classes, NULL},
        {"fovea.gpt.cond_tokens", &c->cond_tokens, NULL},
        {"fovea.gpt.caption_width", &c->caption_width, NULL},
        {"fovea.gpt.top_k", &c->top_k, NULL},
        {"fovea.gpt.norm_eps", NULL, &c->norm_eps},
        {"fovea.gpt.rope_theta", NULL, &c->rope_theta},
        {"fovea.gpt.cfg", NULL, &c->cfg},
        {"fovea.gpt.temperature", NULL, &c->temperature},
        {"fovea.gpt.top_p", NULL, &c->top_p},
    };
    memcpy(f, all, sizeof all);
    return (int)FV_ARRAY_LEN(all);
}

static int vq_fields(vq_config *c, field *f)
{
    const field all[] = {
        {"fovea.vq.stem", &c->stem, NULL},
        {"fovea.vq.channels", &c->channels, NULL},
        {"fovea.vq.encoder_blocks", &c->encoder_blocks, NULL},
        {"fovea.vq.decoder_blocks", &c->decoder_blocks, NULL},
        {"fovea.vq.latent", &c->latent, NULL},
        {"fovea.vq.codes", &c->codes, NULL},
        {"fovea.vq.code_width", &c->code_width, NULL},
        {"fovea.vq.attention", &c->has_attention, NULL},
    };
    memcpy(f, all, sizeof all);
    return (int)FV_ARRAY_LEN(all);
}

static fv_status read_fields(fv_ctx *ctx, const fv_model *m, const field *f, int n)
{
    for (int i = 0; i < n; i++)
        FV_TRY(f[i].whole ? fv_meta_int(ctx, m, f[i].key, f[i].whole)
                          : fv_meta_float(ctx, m, f[i].key, f[i].number));
    return FV_OK;
}

static fv_status add_fields(fv_ctx *ctx, const field *f, int n, fv_meta *out)
{
    for (int i = 0; i < n; i++)
        FV_TRY(fv_meta_add_number(ctx, out, f[i].key, f[i].whole ? *f[i].whole : *f[i].number));
    return FV_OK;
}

/* "1,2,4": one factor of a level each. */
static fv_status read_mult(fv_ctx *ctx, const fv_model *m, vq_config *c)
{
    static const char key[] = "fovea.vq.mult";
    const char *p = fv_model_meta(m, key);
    if (!p) return fv_fail(ctx, FV_ERR_MODEL, "model: metadata %s is missing", key);
    for (c->levels = 0;;) {
        const size_t n = strcspn(p, ",");
        char word[16];
        double v = 0;
        if (c->levels == VQ_MAX_LEVELS || n >= sizeof word)
            return fv_fail(ctx, FV_ERR_MODEL, "model: metadata %s has more than %d factors, or one "
                           "that is too long", key, VQ_MAX_LEVELS);
        memcpy(word, p, n);
        word[n] = 0;
        FV_TRY(fv_meta_parse(ctx, key, word, true, &v));
        c->mult[c->levels++] = (int)v;
        if (p[n] == 0) return FV_OK;
        p += n + 1;
    }
}

static fv_status add_mult(fv_ctx *ctx, const vq_config *c, fv_meta *out)
{
    char text[VQ_MAX_LEVELS * 12] = "";
    size_t n = 0;
    for (int i = 0; i < c->levels; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%d", i ? "," : "", c->mult[i]);
    return fv_meta_add(ctx, out, "fovea.vq.mult", text);
}

/* ---- Metadata -------------------------------------------------------------------------------- */

/* A tensor of that name, or its int8 form. */
static bool has_tensor(const fv_model *m, const char *name)
{
    char int8[128];
    fv_tensor t;
    snprintf(int8, sizeof int8, "%s.int8", name);
    return fv_model_find(m, name, &t) || fv_model_find(m, int8, &t);
}

static fv_status read_metadata(fv_ctx *ctx, const fv_model *m, ar_config *c)
{
    field f[MAX_FIELDS];
    int version = 0;
    FV_TRY(fv_meta_int(ctx, m, "fovea.version", &version));
    if (version < 1 || version > FORMAT_VERSION)
        return fv_fail(ctx, FV_ERR_VERSION,
                       "model: metadata version %d, this library reads 1 to %d", version,
                       FORMAT_VERSION);
    fv_meta_name(fv_model_meta(m, "fovea.name"), c->has_gpt ? "GPT" : "VQ", c->name,
                 sizeof c->name);
    c->has_vq = has_tensor(m, "vq.quantize.embedding.weight");
    c->gpt_prefix = "gpt.";
    c->draft_prefix = "draft.";
    c->vq_prefix = "vq.";
    if (c->has_gpt) {
        FV_TRY(read_fields(ctx, m, f, gpt_fields(&c->gpt, f)));
        c->gpt.has_draft = has_tensor(m, "draft.fc.weight");
        c->gpt.draft_eps = c->gpt.norm_eps;
        if (c->gpt.has_draft)
            FV_TRY(fv_meta_float(ctx, m, "fovea.draft.norm_eps", &c->gpt.draft_eps));
    }
    if (!c->has_vq) return FV_OK;
    FV_TRY(read_fields(ctx, m, f, vq_fields(&c->vq, f)));
    return read_mult(ctx, m, &c->vq);
}

fv_status ar_config_meta(fv_ctx *ctx, const ar_config *c, fv_meta *out)
{
    ar_config copy = *c;
    field f[MAX_FIELDS];
    memset(out, 0, sizeof *out);
    fv_status s = fv_meta_add(ctx, out, "fovea.kind", c->has_gpt ? "ar" : "vq");
    if (s == FV_OK) s = fv_meta_add_number(ctx, out, "fovea.version", FORMAT_VERSION);
    if (s == FV_OK) s = fv_meta_add(ctx, out, "fovea.name", c->name);
    if (s == FV_OK && c->has_gpt) s = add_fields(ctx, f, gpt_fields(&copy.gpt, f), out);
    if (s == FV_OK && c->has_gpt && c->gpt.has_draft)
        s = fv_meta_add_number(ctx, out, "fovea.draft.norm_eps", c->gpt.draft_eps);
    if (s == FV_OK && c->has_vq) s = add_fields(ctx, f, vq_fields(&copy.vq, f), out);
    if (s == FV_OK && c->has_vq) s = add_mult(ctx, &c->vq, out);
    if (s != FV_OK) fv_meta_free(ctx, out);
    return s;
}

/* ---- GPT by shapes --------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int layers, heads, width;
} known[] = {
    {"GPT-B", 12, 12, 768},    {"GPT-L", 24, 16, 1024},   {"GPT-XL", 36, 20, 1280},
    {"GPT-XXL", 48, 24, 1536}, {"GPT-3B", 24, 32, 3200},  {"GPT-1B", 22, 32, 2048},
    {"GPT-XXXL", 48, 40, 2560}, {"GPT-7B", 32, 32, 4096},
};

/* A hint in metadata; *out stays if there is none. */
static fv_status hint(fv_ctx *ctx, const fv_model *m, const char *key, int *out)
{
    return m && fv_model_meta(m, key) ? fv_meta_int(ctx, m, key, out) : FV_OK;
}

static fv_status heads_and_name(fv_ctx *ctx, const fv_model *hints, ar_config *c)
{
    gpt_config *g = &c->gpt;
    const char *kind = g->classes ? "" : "-t2i";
    snprintf(c->name, sizeof c->name, "GPT%s", kind);
    for (size_t i = 0; i < FV_ARRAY_LEN(known); i++) {
        if (known[i].width != g->width || known[i].layers != g->layers) continue;
        g->heads = known[i].heads;
        snprintf(c->name, sizeof c->name, "%s%s", known[i].name, kind);
        return FV_OK;
    }
    FV_TRY(hint(ctx, hints, "heads", &g->heads));
    if (g->heads == 0) g->heads = g->width <= 64 ? 1 : g->width % 64 == 0 ? g->width / 64 : 0;
    if (g->heads > 0) return FV_OK;
    return fv_fail(ctx, FV_ERR_MODEL, "model: a GPT of width %d and %d layers is unknown and the "
                   "file does not say its number of heads: add metadata \"heads\"", g->width,
                   g->layers);
}

static fv_status set_grid(fv_ctx *ctx, const gpt_shapes *s, const fv_model *hints, gpt_config *c)
{
    c->grid = c->classes ? 24 : 16; /* 384 x 384 and 256 x 256 pixels with VQ-16 */
    if (s->freqs.ndim >= 2) {
        const int64_t n = s->freqs.dim[0] - c->cond_tokens;
        int g = 1;
        while ((int64_t)g * g < n && g <= AR_MAX_GRID) g++;
        if (n < 1 || (int64_t)g * g != n)
            return fv_fail(ctx, FV_ERR_MODEL, "model: tensor freqs_cis has %lld rows, which are "
                           "not %d condition rows and a square", (long long)s->freqs.dim[0],
                           c->cond_tokens);
        c->grid = g;
    }
    return hint(ctx, hints, "grid", &c->grid);
}

static fv_status set_condition(fv_ctx *ctx, const gpt_shapes *s, gpt_config *c)
{
    if (s->classes.ndim == 2) { /* the last row is the null class */
        FV_TRY(fv_meta_range(ctx, "rows of the class table", s->classes.dim[0], 2,
                             AR_MAX_CLASSES + 1));
        c->classes = (int)s->classes.dim[0] - 1;
        c->cond_tokens = 1;
        return FV_OK;
    }
    if (s->null_caption.ndim != 2)
        return fv_fail(ctx, FV_ERR_MODEL,
                       "model: it has neither a class table [classes + 1, width] nor a"
                       " null caption [tokens, caption width]");
    FV_TRY(fv_meta_range(ctx, "condition tokens", s->null_caption.dim[0], 1, AR_MAX_COND));
    FV_TRY(fv_meta_range(ctx, "caption width", s->null_caption.dim[1], 1, AR_MAX_WIDTH));
    c->cond_tokens = (int)s->null_caption.dim[0];
    c->caption_width = (int)s->null_caption.dim[1];
    return FV_OK;
}

fv_status gpt_config_from_shapes(fv_ctx *ctx, const gpt_shapes *s, const fv_model *hints,
                                 ar_config *c)
{
    gpt_config *g = &c->gpt;
    memset(g, 0, sizeof *g);
    if (s->tokens.ndim != 2 || s->gate.ndim != 2)
        return fv_fail(ctx, FV_ERR_MODEL, "model: the token table is not [codes, width], or the "
                       "first MLP matrix is not [MLP width, width]");
    FV_TRY(fv_meta_range(ctx, "codes", s->tokens.dim[0], 1, AR_MAX_VOCAB));
    FV_TRY(fv_meta_range(ctx, "width", s->tokens.dim[1], 4, AR_MAX_WIDTH));
    FV_TRY(fv_meta_range(ctx, "MLP width", s->gate.dim[0], 1, 8 * AR_MAX_WIDTH));
    g->vocab = (int)s->tokens.dim[0];
    g->width = (int)s->tokens.dim[1];
    g->ffn = (int)s->gate.dim[0];
    g->layers = s->layers;
    g->norm_eps = 1e-5f;
    if (hints && fv_model_meta(hints, "rms_norm_eps"))
        FV_TRY(fv_meta_float(ctx, hints, "rms_norm_eps", &g->norm_eps));
    g->draft_eps = g->norm_eps;
    g->rope_theta = 10000.0f;
    g->temperature = g->top_p = 1.0f;
    FV_TRY(set_condition(ctx, s, g));
    g->cfg = g->classes ? 4.0f : 7.5f;
    g->top_k = g->classes ? 2000 : 1000;
    FV_TRY(set_grid(ctx, s, hints, g));
    FV_TRY(heads_and_name(ctx, hints, c));
    c->has_gpt = 1;
    return gpt_config_check(ctx, g);
}

static bool find(const fv_model *m, const char *prefix, const char *name, fv_tensor *t)
{
    char full[160];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    return fv_model_find(m, full, t) != 0;
}

static fv_status read_official_gpt(fv_ctx *ctx, const fv_model *m, const char *prefix, ar_config *c)
{
    gpt_shapes s;
    fv_tensor t;
    memset(&s, 0, sizeof s);
    find(m, prefix, "tok_embeddings.weight", &s.tokens);
    find(m, prefix, "layers.0.feed_forward.w1.weight", &s.gate);
    find(m, prefix, "cls_embedding.embedding_table.weight", &s.classes);
    find(m, prefix, "cls_embedding.uncond_embedding", &s.null_caption);
    find(m, prefix, "freqs_cis", &s.freqs);
    for (; s.layers <= AR_MAX_LAYERS; s.layers++) {
        char name[64];
        snprintf(name, sizeof name, "layers.%d.attention.wqkv.weight", s.layers);
        if (!find(m, prefix, name, &t)) break;
    }
    c->gpt_prefix = prefix;
    return gpt_config_from_shapes(ctx, &s, m, c);
}

/* ---- Tokenizer by shapes --------------------------------------------------------------------- */

/* Number of tensors HEAD<i>TAIL from i = 0, at most `most` + 1. */
static int count_of(const fv_model *m, const char *prefix, const char *head, const char *tail,
                    int most)
{
    int n = 0;
    fv_tensor t;
    for (char name[96]; n <= most; n++) {
        snprintf(name, sizeof name, "%s%d%s", head, n, tail);
        if (!find(m, prefix, name, &t)) break;
    }
    return n;
}

/* First dimension of a tensor that a tokenizer must have. */
static fv_status rows_of(fv_ctx *ctx, const fv_model *m, const char *prefix, const char *name,
                         int *out)
{
    fv_tensor t;
    if (!find(m, prefix, name, &t) || t.ndim < 2)
        return fv_fail(ctx, FV_ERR_MODEL, "model: tensor %s%s is missing or not a matrix", prefix,
                       name);
    FV_TRY(fv_meta_range(ctx, name, t.dim[0], 1, AR_MAX_VOCAB));
    *out = (int)t.dim[0];
    return FV_OK;
}

static fv_status read_levels(fv_ctx *ctx, const fv_model *m, const char *prefix, vq_config *c)
{
    c->levels = count_of(m, prefix, "encoder.conv_blocks.", ".res.0.conv1.weight", VQ_MAX_LEVELS);
    FV_TRY(fv_meta_range(ctx, "tokenizer levels", c->levels, 1, VQ_MAX_LEVELS));
    for (int i = 0; i < c->levels; i++) {
        char name[96];
        int width = 0;
        snprintf(name, sizeof name, "encoder.conv_blocks.%d.res.0.conv1.weight", i);
        FV_TRY(rows_of(ctx, m, prefix, name, &width));
        if (width % c->channels)
            return fv_fail(ctx, FV_ERR_MODEL, "model: level %d has %d channels, which is no "
                           "multiple of %d", i, width, c->channels);
        c->mult[i] = width / c->channels;
    }
    c->encoder_blocks =
        count_of(m, prefix, "encoder.conv_blocks.0.res.", ".conv1.weight", 16);
    c->decoder_blocks =
        count_of(m, prefix, "decoder.conv_blocks.0.res.", ".conv1.weight", 16);
    return FV_OK;
}

static fv_status read_official_vq(fv_ctx *ctx, const fv_model *m, const char *prefix, ar_config *c)
{
    vq_config *v = &c->vq;
    fv_tensor t;
    FV_TRY(rows_of(ctx, m, prefix, "encoder.conv_in.weight", &v->channels));
    FV_TRY(rows_of(ctx, m, prefix, "encoder.conv_out.weight", &v->latent));
    FV_TRY(rows_of(ctx, m, prefix, "quantize.embedding.weight", &v->codes));
    FV_TRY(rows_of(ctx, m, prefix, "quant_conv.weight", &v->code_width));
    v->stem = 1;
    if (find(m, prefix, "encoder.conv_in.weight", &t) && t.ndim == 4)
        while (3 * v->stem * v->stem < t.dim[1] && v->stem < 8) v->stem *= 2;
    FV_TRY(read_levels(ctx, m, prefix, v));
    v->has_attention = find(m, prefix, "encoder.mid.1.q.weight", &t);
    if (!c->name[0]) snprintf(c->name, sizeof c->name, "VQ-%d", vq_factor(v));
    c->vq_prefix = prefix;
    c->has_vq = 1;
    return vq_config_check(ctx, v);
}

/* ---- Any file -------------------------------------------------------------------------------- */

static fv_status not_ours(fv_ctx *ctx, const fv_model *m)
{
    const char *kind = fv_model_meta(m, "fovea.kind");
    if (kind)
        return fv_fail(ctx, FV_ERR_MODEL, "model: this file holds a fovea model of kind \"%.40s\", "
                       "not an autoregressive model or its tokenizer", kind);
    if (has_tensor(m, "model.embed_tokens.weight") || has_tensor(m, "fc.weight"))
        return fv_fail(ctx, FV_ERR_MODEL, "model: this is a file of another layout: convert it "
                       "first (fovea convert)");
    return fv_fail(ctx, FV_ERR_MODEL, "model: not an autoregressive model: it has neither fovea "
                   "metadata nor tensors tok_embeddings.weight or quantize.embedding.weight");
}

fv_status ar_config_read(fv_ctx *ctx, const fv_model *m, ar_config *out)
{
    static const char *const prefixes[] = {"", "model.", "module.", "state_dict."};
    const char *kind = fv_model_meta(m, "fovea.kind");
    fv_tensor t;
    memset(out, 0, sizeof *out);
    out->gpt_prefix = out->vq_prefix = out->draft_prefix = "";
    if (kind && (strcmp(kind, "ar") == 0 || strcmp(kind, "vq") == 0)) {
        out->has_gpt = kind[0] == 'a';
        FV_TRY(read_metadata(ctx, m, out));
        if (!out->has_gpt && !out->has_vq)
            return fv_fail(ctx, FV_ERR_MODEL, "model: tensor vq.quantize.embedding.weight is "
                           "missing");
        return check(ctx, out);
    }
    for (size_t i = 0; i < FV_ARRAY_LEN(prefixes) && !kind; i++) {
        if (find(m, prefixes[i], "tok_embeddings.weight", &t))
            return read_official_gpt(ctx, m, prefixes[i], out);
        if (find(m, prefixes[i], "quantize.embedding.weight", &t))
            return read_official_vq(ctx, m, prefixes[i], out);
    }
    return not_ours(ctx, m);
}

/* ---- Presets --------------------------------------------------------------------------------- */

static void vq_preset(vq_config *v, const char *name)
{
    static const struct { const char *name; vq_config c; } all[] = {
        {"VQ-16", {1, 128, 5, {1, 1, 2, 2, 4}, 2, 3, 256, 16384, 8, 1}},
        {"VQ-8", {1, 128, 4, {1, 2, 2, 4}, 2, 3, 256, 16384, 8, 1}},
        {"vq-s8", {2, 32, 3, {1, 2, 4}, 1, 2, 64, 1024, 8, 1}},
        {"vq-m8", {2, 64, 3, {1, 2, 4}, 1, 2, 128, 2048, 8, 1}},
    };
    memset(v, 0, sizeof *v);
    for (size_t i = 0; i < FV_ARRAY_LEN(all); i++)
        if (strcasecmp(name, all[i].name) == 0) *v = all[i].c;
}

static bool own_preset(const char *name, ar_config *c)
{
    static const struct {
        const char *name, *tokenizer;
        int layers, heads, width, ffn, vocab, grid;
    } all[] = {
        {"ar-nano", "vq-s8", 4, 2, 128, 512, 256, 8},
        {"ar-xs", "vq-s8", 12, 3, 192, 512, 1024, 8},
        {"ar-s", "vq-s8", 12, 4, 256, 768, 1024, 8},
        {"ar-s24", "vq-m8", 24, 4, 256, 768, 2048, 16},
        {"ar-m", "vq-m8", 20, 5, 320, 1024, 2048, 16},
    };
    for (size_t i = 0; i < FV_ARRAY_LEN(all); i++) {
        if (strcasecmp(name, all[i].name) != 0) continue;
        snprintf(c->name, sizeof c->name, "%s", all[i].name);
        c->gpt = (gpt_config){.layers = all[i].layers, .heads = all[i].heads,
                              .width = all[i].width, .ffn = all[i].ffn, .vocab = all[i].vocab,
                              .grid = all[i].grid, .cfg = 2.0f};
        vq_preset(&c->vq, all[i].tokenizer);
        c->vq.codes = all[i].vocab;
        return true;
    }
    return false;
}

/* "GPT-XL", "GPT-XL-t2i", with "/256", "/384" or "/512" pixels of VQ-16 behind it. */
static bool official_preset(const char *name, ar_config *c)
{
    for (size_t i = 0; i < FV_ARRAY_LEN(known); i++) {
        const size_t n = strlen(known[i].name);
        if (strncasecmp(name, known[i].name, n) != 0) continue;
        const bool is_t2i = strncasecmp(name + n, "-t2i", 4) == 0;
        const char *size = name + n + (is_t2i ? 4 : 0);
        int grid = is_t2i ? 16 : 24;
        if (strcmp(size, "/256") == 0) grid = 16;
        else if (strcmp(size, "/384") == 0) grid = 24;
        else if (strcmp(size, "/512") == 0) grid = 32;
        else if (*size) continue;
        const int d = known[i].width, ffn = (8 * d / 3 + 255) / 256 * 256;
        snprintf(c->name, sizeof c->name, "%s%s", known[i].name, is_t2i ? "-t2i" : "");
        c->gpt = (gpt_config){.layers = known[i].layers, .heads = known[i].heads, .width = d,
                              .ffn = ffn, .vocab = 16384, .grid = grid,
                              .caption_width = is_t2i ? 2048 : 0, .cfg = is_t2i ? 7.5f : 4.0f,
                              .top_k = is_t2i ? 1000 : 2000};
        vq_preset(&c->vq, "VQ-16");
        return true;
    }
    return false;
}

fv_status ar_preset(fv_ctx *ctx, const char *name, int classes, ar_config *out)
{
    memset(out, 0, sizeof *out);
    out->gpt_prefix = "gpt.";
    out->draft_prefix = "draft.";
    out->vq_prefix = "vq.";
    vq_preset(&out->vq, name);
    out->has_vq = out->vq.codes > 0;
    if (out->has_vq) {
        snprintf(out->name, sizeof out->name, "%.60s", name);
        return vq_config_check(ctx, &out->vq);
    }
    if (!own_preset(name, out) && !official_preset(name, out))
        return fv_fail(ctx, FV_ERR_UNKNOWN, "model preset \"%.60s\" is unknown: ar-nano ar-xs ar-s "
                       "ar-s24 ar-m, GPT-{B,L,XL,XXL,3B}[-t2i][/256,/384,/512], or a tokenizer "
                       "vq-s8 vq-m8 VQ-16 VQ-8", name);
    gpt_config *g = &out->gpt;
    out->has_gpt = out->has_vq = 1;
    g->classes = g->caption_width ? 0 : classes;
    g->cond_tokens = g->caption_width ? 120 : 1;
    g->norm_eps = g->draft_eps = 1e-5f;
    g->rope_theta = 10000.0f;
    g->temperature = g->top_p = 1.0f;
    return check(ctx, out);
}
