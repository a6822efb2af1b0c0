/* ar_convert.c - LlamaGen checkpoints, and what others made of them, to one fovea model file.
 *
 * Sources, found by content; each is a PyTorch or safetensors file:
 *
 *     GPT         official names, nested under "model.", "module.", "state_dict." or flat; or the
 *                 layout of LANTERN and VVS ("HF": model.embed_tokens, q k v apart, lm_head), whose
 *                 rotary pairs are neighbours too, so that nothing is permuted
 *     tokenizer   official names
 *     draft       embed_tokens, fc, layers.0.* with q k v apart; its table is taken from this file,
 *                 never from the target's, which it need not equal
 *     fovea       our own files, to change types or to join parts
 *
 * Every tensor of a part must be there with its shape. A tensor that is not understood is refused:
 * it may be a layer that would be silently left out. Known and left out: freqs_cis (it follows from
 * the sizes), the tokenizer's codebook_used, and other halves of a nested checkpoint (optimiser,
 * EMA).
 *
 * Types: matrices become f32, bf16 or int8; vectors stay f32. So does the codebook,
 * whose nearest rows decide, unless it is bf16 already. In a tokenizer int8 would cost
 * picture quality: bf16 then. */
#include <math.h>
#include <string.h>

#include "ar_shapes.h"
#include "fovea_ar.h"
#include "gpt_model.h"
#include "vq.h"

typedef enum layout { LAYOUT_PLAIN, LAYOUT_HF } layout;

/* Where a part comes from. */
typedef struct source {
    const fv_model *m; /* NULL: the part is not there */
    const char *prefix;
    layout layout;
} source;

typedef struct converter {
    fv_ctx *ctx;
    fv_dtype type;
    ar_config cfg;
    source gpt, vq, draft;
    gpt_net gpt_net;
    draft_net draft_net;
    vq_net vq_net;
    fv_params *vq_params;
    fv_pack pack;
    fv_meta meta;
} converter;

/* ---- Names ----------------------------------------------------------------------------------- */

/* "layers.<number>.": the rest. */
static const char *after_layer(const char *name, int *layer)
{
    const char *p = fv_after(name, "layers.");
    int n = 0, digits = 0;
    if (!p || (p[0] == '0' && p[1] != '.')) return NULL;
    for (; *p >= '0' && *p <= '9' && digits < 5; p++, digits++) n = 10 * n + (*p - '0');
    if (digits == 0 || *p != '.') return NULL;
    *layer = n;
    return p + 1;
}

static const struct { const char *ours, *hf; } layer_name[] = {
    {"attention.wo.weight", "self_attn.o_proj.weight"},
    {"feed_forward.w1.weight", "mlp.gate_proj.weight"},
    {"feed_forward.w3.weight", "mlp.up_proj.weight"},
    {"feed_forward.w2.weight", "mlp.down_proj.weight"},
    {"attention_norm.weight", "input_layernorm.weight"},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
};
static const char *const qkv_name[3] = {"self_attn.q_proj.weight", "self_attn.k_proj.weight",
                                        "self_attn.v_proj.weight"};
#define QKV "attention.wqkv.weight"
#define HF_HEAD "lm_head.weight"

/* Full name in the source of tensor `name` of ours; part 0..2 of q k v. */
static void source_name(const source *s, const char *name, int part, char out[192])
{
    const char *inner = name, *prefix = s->prefix;
    char text[128];
    int l;
    if (s->layout == LAYOUT_HF) {
        const char *rest = after_layer(name, &l);
        if (strcmp(name, "tok_embeddings.weight") == 0) inner = "embed_tokens.weight";
        if (strcmp(name, "output.weight") == 0) {
            inner = HF_HEAD;
            prefix = "";
        }
        const char *to = rest && strcmp(rest, QKV) == 0 ? qkv_name[part] : rest;
        for (size_t i = 0; rest && i < FV_ARRAY_LEN(layer_name); i++)
            if (strcmp(rest, layer_name[i].ours) == 0) to = layer_name[i].hf;
        if (rest) {
            snprintf(text, sizeof text, "layers.%d.%s", l, to);
            inner = text;
        }
    }
    snprintf(out, 192, "%s%s", prefix, inner);
}

/* ---- Finding the parts ----------------------------------------------------------------------- */

static bool has(const fv_model *m, const char *prefix, const char *name)
{
    char full[160];
    fv_tensor t;
    snprintf(full, sizeof full, "%s%s", prefix, name);
    return fv_model_find(m, full, &t) != 0;
}

static fv_status read_hf_gpt(converter *c, const fv_model *m)
{
    gpt_shapes s;
    fv_tensor t;
    memset(&s, 0, sizeof s);
    (void)fv_model_find(m, "model.embed_tokens.weight", &s.tokens);
    (void)fv_model_find(m, "model.layers.0.mlp.gate_proj.weight", &s.gate);
    (void)fv_model_find(m, "model.cls_embedding.embedding_table.weight", &s.classes);
    (void)fv_model_find(m, "model.cls_embedding.uncond_embedding", &s.null_caption);
    for (; s.layers <= AR_MAX_LAYERS; s.layers++) {
        char name[96];
        snprintf(name, sizeof name, "model.layers.%d.self_attn.q_proj.weight", s.layers);
        if (!fv_model_find(m, name, &t)) break;
    }
    c->gpt = (source){m, "model.", LAYOUT_HF};
    return gpt_config_from_shapes(c->ctx, &s, m, &c->cfg);
}

static bool is_draft(const fv_model *m)
{
    return has(m, "", "fc.weight") && has(m, "", "layers.0.self_attn.q_proj.weight");
}

/* Int8 was rounded once; a second rounding from it would be called a conversion. */
static fv_status refuse_int8(const converter *c, const fv_model *m)
{
    for (int i = 0; i < fv_model_count(m); i++) {
        const char *name = fv_model_name(m, i);
        const size_t n = strlen(name);
        if (n > 5 && strcmp(name + n - 5, ".int8") == 0)
            return fv_fail(c->ctx, FV_ERR_UNSUPPORTED, "convert: the weights of the input are int8 "
                           "already: convert from the file that it was made from");
    }
    return FV_OK;
}

static fv_status find_main(converter *c, const fv_model *m)
{
    if (has(m, "model.", "embed_tokens.weight") && has(m, "", HF_HEAD)) return read_hf_gpt(c, m);
    if (is_draft(m))
        return fv_fail(c->ctx, FV_ERR_MODEL, "convert: a draft head belongs to a generator: "
                       "convert that one, and name this file as its draft");
    FV_TRY(refuse_int8(c, m));
    FV_TRY(ar_config_read(c->ctx, m, &c->cfg));
    if (c->cfg.has_gpt) c->gpt = (source){m, c->cfg.gpt_prefix, LAYOUT_PLAIN};
    if (c->cfg.has_vq) c->vq = (source){m, c->cfg.vq_prefix, LAYOUT_PLAIN};
    if (c->cfg.gpt.has_draft) c->draft = (source){m, c->cfg.draft_prefix, LAYOUT_PLAIN};
    return FV_OK;
}

/* What tells a tokenizer from all others: see code_stream.c. */
static void identity(const fv_model *m, char out[65])
{
    const char *known = fv_model_meta(m, "fovea.vq.sha256");
    uint8_t hash[32];
    if (known && strlen(known) == 64) {
        memcpy(out, known, 65);
        return;
    }
    fv_model_hash(m, hash);
    fv_hex(hash, sizeof hash, out);
}

static fv_status find_tokenizer(converter *c, const fv_model *m)
{
    ar_config t;
    char mine[65];
    const char *wanted = c->gpt.m ? fv_model_meta(c->gpt.m, "fovea.vq.sha256") : NULL;
    FV_TRY(refuse_int8(c, m));
    FV_TRY(ar_config_read(c->ctx, m, &t));
    if (!t.has_vq) return fv_fail(c->ctx, FV_ERR_MODEL, "convert: the tokenizer file has none");
    identity(m, mine);
    if (wanted && strcmp(wanted, mine) != 0)
        return fv_fail(c->ctx, FV_ERR_MODEL, "convert: the generator was trained with another "
                       "tokenizer than this one");
    if (c->cfg.has_gpt && c->cfg.gpt.vocab != t.vq.codes)
        return fv_fail(c->ctx, FV_ERR_MODEL, "convert: the generator has %d codes, the tokenizer "
                       "%d", c->cfg.gpt.vocab, t.vq.codes);
    c->cfg.vq = t.vq;
    c->cfg.has_vq = 1;
    c->vq = (source){m, t.vq_prefix, LAYOUT_PLAIN};
    return fv_meta_add(c->ctx, &c->meta, "fovea.vq.sha256", mine);
}

static fv_status find_draft(converter *c, const fv_model *m)
{
    ar_config t;
    if (!c->cfg.has_gpt)
        return fv_fail(c->ctx, FV_ERR_MODEL, "convert: a draft needs a generator, the input is a "
                       "tokenizer");
    c->cfg.gpt.has_draft = 1;
    c->cfg.gpt.draft_eps = 1e-6f; /* published drafts; their files may say otherwise */
    if (is_draft(m)) {
        c->draft = (source){m, "", LAYOUT_HF};
        if (fv_model_meta(m, "rms_norm_eps"))
            return fv_meta_float(c->ctx, m, "rms_norm_eps", &c->cfg.gpt.draft_eps);
        return FV_OK;
    }
    FV_TRY(refuse_int8(c, m));
    FV_TRY(ar_config_read(c->ctx, m, &t));
    if (!t.gpt.has_draft) return fv_fail(c->ctx, FV_ERR_MODEL, "convert: the draft file has none");
    c->draft = (source){m, t.draft_prefix, LAYOUT_PLAIN};
    c->cfg.gpt.draft_eps = t.gpt.draft_eps;
    return FV_OK;
}

/* ---- Tensors --------------------------------------------------------------------------------- */

/* f32 values of tensor `name` of ours: one source, or three stacked. */
static fv_status gather(const converter *c, const source *s, const char *name,
                        const fv_tensor *want, float *out)
{
    int l;
    const char *rest = after_layer(name, &l);
    const int parts = s->layout == LAYOUT_HF && rest && strcmp(rest, QKV) == 0 ? 3 : 1;
    fv_tensor part = *want;
    part.dim[0] /= parts;
    const int64_t n = fv_tensor_count(&part);
    for (int i = 0; i < parts; i++) {
        char from[192];
        fv_tensor t;
        source_name(s, name, i, from);
        FV_TRY(fv_pack_source(c->ctx, s->m, from, &part, &t));
        FV_TRY(fv_convert(c->ctx, t.dtype, t.data, n, FV_F32, out + i * n));
    }
    return FV_OK;
}

static bool is_bf16(const source *s, const char *name)
{
    char from[192];
    fv_tensor t;
    source_name(s, name, 0, from);
    return fv_model_find(s->m, from, &t) && t.dtype == FV_BF16;
}

/* Parameter i of a part, under `to` + its name. */
static fv_status add_tensor(converter *c, const source *s, const fv_params *p, int i,
                            const char *to, fv_dtype type)
{
    const char *name = fv_params_name(p, i);
    fv_tensor t = fv_params_tensor(p, i);
    FV_TRY(fv_pack_floats(c->ctx, name, &t));
    fv_status st = gather(c, s, name, &t, t.data);
    char *full = st == FV_OK ? fv_format(c->ctx, "%s%s", to, name) : NULL;
    if (!full) {
        fv_free(c->ctx, t.data);
        return st == FV_OK ? FV_ERR_OOM : st;
    }
    if (strstr(name, "quantize.embedding")) type = is_bf16(s, name) ? FV_BF16 : FV_F32;
    st = fv_pack_give(&c->pack, full, &t, type);
    fv_free(c->ctx, full);
    return st;
}

/* Does one of our tensors of the part come from the source's tensor `full`? */
static bool is_used(const source *s, const fv_params *p, const char *full)
{
    static const char *const dropped[] = {"freqs_cis", "quantize.codebook_used"};
    const char *inner = fv_after(full, s->prefix);
    if (s->layout == LAYOUT_HF && fv_after(full, "lm_head.")) return strcmp(full, HF_HEAD) == 0;
    if (!inner) return true; /* another half of the file */
    for (size_t i = 0; i < FV_ARRAY_LEN(dropped); i++)
        if (strcmp(inner, dropped[i]) == 0) return true;
    if (s->layout == LAYOUT_PLAIN) return fv_params_find(p, inner) >= 0;
    for (int i = 0; i < fv_params_count(p); i++)
        for (int part = 0; part < 3; part++) {
            char from[192];
            source_name(s, fv_params_name(p, i), part, from);
            if (strcmp(from, full) == 0) return true;
        }
    return false;
}

/* Tensors of a file that no part takes. Our own files may hold others' parts beside ours. */
static fv_status refuse_extra(const converter *c, const source *s, const fv_params *p)
{
    if (s->m && fv_model_meta(s->m, "fovea.kind") && s->prefix[0] == 0)
        return fv_fail(c->ctx, FV_ERR_INTERNAL, "convert: a fovea file without prefixes");
    for (int i = 0; s->m && i < fv_model_count(s->m); i++) {
        const char *name = fv_model_name(s->m, i);
        if (!is_used(s, p, name))
            return fv_fail(c->ctx, FV_ERR_MODEL,
                           "convert: tensor \"%.150s\" does not belong to a model of this size",
                           name);
    }
    return FV_OK;
}

static fv_status add_part(converter *c, const source *s, const fv_params *p, const char *to,
                          fv_dtype type)
{
    const int n = fv_params_count(p);
    FV_TRY(refuse_extra(c, s, p));
    for (int i = 0; i < n; i++) {
        FV_TRY(fv_report(c->ctx, "converting", (uint64_t)i, (uint64_t)n, fv_params_name(p, i)));
        FV_TRY(add_tensor(c, s, p, i, to, type));
    }
    return FV_OK;
}

/* A draft's table may be left out of our own files: then it is the target's. */
static fv_status add_draft(converter *c)
{
    const fv_params *p = c->draft_net.params;
    const source *s = &c->draft;
    FV_TRY(refuse_extra(c, s, p));
    for (int i = 0; i < fv_params_count(p); i++) {
        const bool optional = s->layout == LAYOUT_PLAIN && i == c->draft_net.embed;
        if (optional && !has(s->m, s->prefix, fv_params_name(p, i))) continue;
        FV_TRY(add_tensor(c, s, p, i, "draft.", c->type));
    }
    return FV_OK;
}

/* ---- All of it ------------------------------------------------------------------------------- */

/* Keys of m that begin with `prefix` and are not set. What a draft that is replaced says of itself
 * goes with it; what was measured was measured on other weights. */
static fv_status copy_metadata(converter *c, const fv_model *m, const char *prefix, fv_meta *to)
{
    for (int i = 0; i < fv_model_meta_count(m); i++) {
        const char *key, *value;
        fv_model_meta_at(m, i, &key, &value);
        bool is_wanted = fv_after(key, prefix) &&
                         (m == c->draft.m || !fv_after(key, AR_DRAFT_KEYS)) &&
                         strcmp(key, AR_POINTS_KEY) != 0;
        for (int k = 0; k < to->pairs; k++) is_wanted &= strcmp(to->item[2 * k], key) != 0;
        if (is_wanted) FV_TRY(fv_meta_add(c->ctx, to, key, value));
    }
    return FV_OK;
}

static fv_status metadata(converter *c)
{
    const fv_model *m = c->gpt.m ? c->gpt.m : c->vq.m;
    fv_meta all;
    FV_TRY(ar_config_meta(c->ctx, &c->cfg, &all));
    fv_status s = FV_OK;
    if (!fv_model_meta(m, "fovea.kind"))
        s = fv_meta_add(c->ctx, &all, "fovea.source",
                        c->gpt.m && c->gpt.layout == LAYOUT_HF ? "LlamaGen in HF layout"
                                                               : "LlamaGen checkpoint");
    if (s == FV_OK) s = copy_metadata(c, m, "fovea.", &all);
    if (s == FV_OK && c->draft.m && c->draft.m != m)
        s = copy_metadata(c, c->draft.m, AR_DRAFT_KEYS, &all);
    for (int i = 0; i < c->meta.pairs && s == FV_OK; i++)
        s = fv_meta_add(c->ctx, &all, c->meta.item[2 * i], c->meta.item[2 * i + 1]);
    if (s == FV_OK) s = fv_meta_write(&all, c->pack.writer);
    fv_meta_free(c->ctx, &all);
    return s;
}

static fv_status convert_parts(converter *c)
{
    if (c->gpt.m) {
        FV_TRY(gpt_net_create(c->ctx, &c->gpt_net, &c->cfg.gpt));
        FV_TRY(add_part(c, &c->gpt, c->gpt_net.params, "gpt.", c->type));
    }
    if (c->draft.m) {
        FV_TRY(draft_net_create(c->ctx, &c->draft_net, &c->cfg.gpt, false));
        FV_TRY(add_draft(c));
    }
    if (!c->vq.m) return FV_OK;
    FV_TRY(fv_params_create(c->ctx, &c->vq_params));
    vq_net_add(&c->vq_net, c->vq_params, &c->cfg.vq, "");
    if (c->vq_net.last < 0) return fv_params_alloc(c->vq_params); /* says why */
    return add_part(c, &c->vq, c->vq_params, "vq.", c->type == FV_F32 ? FV_F32 : FV_BF16);
}

static fv_status run(converter *c, const fv_model *in, const fv_ar_convert_options *o)
{
    FV_TRY(find_main(c, in));
    if (o->grid && c->cfg.has_gpt) c->cfg.gpt.grid = o->grid;
    if (o->tokenizer) FV_TRY(find_tokenizer(c, o->tokenizer));
    if (o->draft) FV_TRY(find_draft(c, o->draft));
    if (c->cfg.has_gpt) FV_TRY(gpt_config_check(c->ctx, &c->cfg.gpt));
    FV_TRY(fv_pack_create(c->ctx, &c->pack));
    FV_TRY(metadata(c));
    return convert_parts(c);
}

int fv_ar_is_checkpoint(const fv_model *m)
{
    static const char *const prefixes[] = {"", "model.", "module.", "state_dict."};
    const char *kind = fv_model_meta(m, "fovea.kind");
    if (kind) return strcmp(kind, "ar") == 0 || strcmp(kind, "vq") == 0;
    for (size_t i = 0; i < FV_ARRAY_LEN(prefixes); i++)
        if (has(m, prefixes[i], "tok_embeddings.weight") ||
            has(m, prefixes[i], "quantize.embedding.weight"))
            return 1;
    return (has(m, "model.", "embed_tokens.weight") && has(m, "", HF_HEAD)) || is_draft(m);
}

fv_status fv_ar_convert(fv_ctx *ctx, const fv_model *in, const fv_ar_convert_options *opts,
                        const char *out_path)
{
    fv_ar_convert_options chosen = FV_AR_CONVERT_OPTIONS_INIT, *const o = &chosen;
    if (!in || !out_path)
        return fv_fail(ctx, FV_ERR_ARG, "convert: no input model or no output path");
    FV_TRY(FV_TAKE_OPTIONS(ctx, o, opts, "convert"));
    if (o->type != FV_F32 && o->type != FV_BF16 && o->type != FV_I8)
        return fv_fail(ctx, FV_ERR_DTYPE, "convert: the output type must be f32, bf16 or int8");
    converter c = {.ctx = ctx, .type = o->type};
    fv_status s = run(&c, in, o);
    if (s == FV_OK) s = fv_model_writer_finish(c.pack.writer, out_path, o->overwrite);
    fv_pack_free(&c.pack);
    fv_meta_free(ctx, &c.meta);
    gpt_net_destroy(ctx, &c.gpt_net);
    draft_net_destroy(&c.draft_net);
    fv_params_destroy(&c.vq_params);
    return s;
}
