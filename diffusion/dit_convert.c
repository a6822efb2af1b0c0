/* dit_convert.c - official and Diffusers DiT checkpoints, and their decoders, to one fovea model
 * file.
 *
 * Sources, found by content:
 *
 *     official    PyTorch or safetensors with the names of the DiT code; a training checkpoint
 *                 nests them under "ema." (preferred) or "model."
 *     Diffusers   DiTTransformer2DModel: other names, q k v apart, the timestep and class embedding
 *                 copied into every block (the copies must be bit-equal), no position table
 *     fovea       our own files, to change the type of the weights; metadata is kept
 *
 * Every tensor of the network must be there with its shape, and nothing else: a name that is not
 * understood may be a layer that would be silently left out.
 *
 * Types: as model_pack.c stores them; the position table stays f32. The decoder goes in under
 * "vae." with its names kept; int8 would cost picture quality and little else is in it, so it is
 * bf16 then. */
#include "dit_shapes.h"

#include <math.h>
#include <string.h>

#define POS_TOLERANCE 1e-6
#define DECODER_PREFIX "vae."

typedef enum source_kind { SOURCE_OFFICIAL, SOURCE_DIFFUSERS, SOURCE_FOVEA } source_kind;

typedef struct converter {
    fv_ctx *ctx;
    const fv_model *in, *decoder;
    const char *decoder_prefix; /* of its tensors: "" or "vae." in a whole model */
    fv_dtype type;
    source_kind kind;
    const char *prefix; /* of the network's tensors in `in` */
    dit_config cfg;
    dit_net net; /* names and shapes of what must be there */
    fv_pack pack;
    fv_meta meta;
} converter;

/* ---- Names ---------------------------------------------------------------------------------- */

/* Official name -> Diffusers name; %d is the block. A name with q k v has three sources. */
typedef struct name_pair {
    const char *official, *diffusers;
} name_pair;

static const name_pair outer_name[] = {
    {"x_embedder.proj.", "pos_embed.proj."},
    {"final_layer.adaLN_modulation.1.", "proj_out_1."},
    {"final_layer.linear.", "proj_out_2."},
};
/* In every block of a Diffusers file, once in ours. */
static const name_pair shared_name[] = {
    {"t_embedder.mlp.0.", "norm1.emb.timestep_embedder.linear_1."},
    {"t_embedder.mlp.2.", "norm1.emb.timestep_embedder.linear_2."},
    {"y_embedder.embedding_table.", "norm1.emb.class_embedder.embedding_table."},
};
static const name_pair block_name[] = {
    {"adaLN_modulation.1.", "norm1.linear."},
    {"attn.proj.", "attn1.to_out.0."},
    {"mlp.fc1.", "ff.net.0.proj."},
    {"mlp.fc2.", "ff.net.2."},
};
static const char *const qkv_name[3] = {"attn1.to_q.", "attn1.to_k.", "attn1.to_v."};
#define QKV_OFFICIAL "attn.qkv."

static bool is_leaf(const char *rest)
{
    return rest && (strcmp(rest, "weight") == 0 || strcmp(rest, "bias") == 0);
}

/* "HEAD.<number>." at the start of name: the rest, and the number; canonical digits only. */
static const char *block_number(const char *name, const char *head, int *number)
{
    const char *p = fv_after(name, head);
    int n = 0, digits = 0;
    if (!p || (p[0] == '0' && p[1] != '.')) return NULL;
    for (; *p >= '0' && *p <= '9' && digits < 6; p++, digits++) n = 10 * n + (*p - '0');
    if (digits == 0 || *p != '.') return NULL;
    *number = n;
    return p + 1;
}

/* Is a Diffusers name part of the network with `depth` blocks? */
static bool is_diffusers_name(const char *name, int depth)
{
    int l;
    for (size_t i = 0; i < FV_ARRAY_LEN(outer_name); i++)
        if (is_leaf(fv_after(name, outer_name[i].diffusers))) return true;
    const char *rest = block_number(name, "transformer_blocks.", &l);
    if (!rest || l >= depth) return false;
    for (size_t i = 0; i < FV_ARRAY_LEN(shared_name); i++) {
        const char *leaf = fv_after(rest, shared_name[i].diffusers);
        if (is_leaf(leaf)) return i < 2 || strcmp(leaf, "weight") == 0;
    }
    for (size_t i = 0; i < FV_ARRAY_LEN(block_name); i++)
        if (is_leaf(fv_after(rest, block_name[i].diffusers))) return true;
    for (int i = 0; i < 3; i++)
        if (is_leaf(fv_after(rest, qkv_name[i]))) return true;
    return false;
}

/* Where tensor `name` of our network is in a Diffusers file; part 0..2 of q k v. `out` [128]. */
static bool diffusers_source(const char *name, int part, char out[128])
{
    int l;
    const char *leaf, *rest = block_number(name, "blocks.", &l);
    out[0] = 0;
    if (rest) {
        for (size_t i = 0; i < FV_ARRAY_LEN(block_name); i++)
            if ((leaf = fv_after(rest, block_name[i].official)) != NULL)
                snprintf(out, 128, "transformer_blocks.%d.%s%s", l, block_name[i].diffusers, leaf);
        if ((leaf = fv_after(rest, QKV_OFFICIAL)) != NULL)
            snprintf(out, 128, "transformer_blocks.%d.%s%s", l, qkv_name[part], leaf);
        return out[0] != 0;
    }
    for (size_t i = 0; i < FV_ARRAY_LEN(outer_name); i++)
        if ((leaf = fv_after(name, outer_name[i].official)) != NULL)
            snprintf(out, 128, "%s%s", outer_name[i].diffusers, leaf);
    for (size_t i = 0; i < FV_ARRAY_LEN(shared_name); i++)
        if ((leaf = fv_after(name, shared_name[i].official)) != NULL)
            snprintf(out, 128, "transformer_blocks.0.%s%s", shared_name[i].diffusers, leaf);
    return out[0] != 0;
}

/* ---- Finding and checking ------------------------------------------------------------------- */

static int find_in(const converter *c, const char *name, fv_tensor *t)
{
    char full[192];
    const int n = snprintf(full, sizeof full, "%s%s", c->prefix, name);
    memset(t, 0, sizeof *t);
    return n > 0 && n < (int)sizeof full && fv_model_find(c->in, full, t);
}

/* Tensor `name` of the input, of the shape of `want`, floating point. */
static fv_status need(converter *c, const char *name, const fv_tensor *want, fv_tensor *out)
{
    char full[192];
    const int n = snprintf(full, sizeof full, "%s%s", c->prefix, name);
    if (n < 0 || n >= (int)sizeof full)
        return fv_fail(c->ctx, FV_ERR_MODEL, "convert: tensor %s%s is missing", c->prefix, name);
    return fv_pack_source(c->ctx, c->in, full, want, out);
}

static bool starts_diffusers(const fv_model *m, const char *prefix)
{
    char name[128];
    fv_tensor t;
    snprintf(name, sizeof name, "%stransformer_blocks.0.norm1.linear.weight", prefix);
    return fv_model_find(m, name, &t) != 0;
}

static bool starts_official(const fv_model *m, const char *prefix)
{
    char name[128];
    fv_tensor t;
    snprintf(name, sizeof name, "%sx_embedder.proj.weight", prefix);
    return fv_model_find(m, name, &t) != 0;
}

static fv_status find_kind(converter *c)
{
    static const char *const prefixes[] = {"ema.", "model.", "state_dict.", ""};
    const char *kind = fv_model_meta(c->in, "fovea.kind");
    c->prefix = "";
    if (kind && strcmp(kind, "dit") == 0) {
        c->kind = SOURCE_FOVEA;
        return FV_OK;
    }
    for (size_t i = 0; i < FV_ARRAY_LEN(prefixes) && !kind; i++) {
        c->prefix = prefixes[i];
        c->kind = starts_official(c->in, c->prefix) ? SOURCE_OFFICIAL : SOURCE_DIFFUSERS;
        if (c->kind == SOURCE_OFFICIAL || starts_diffusers(c->in, c->prefix)) return FV_OK;
    }
    return fv_fail(c->ctx, FV_ERR_MODEL,
                   "convert: the input is neither an official DiT checkpoint nor a Diffusers "
                   "DiTTransformer2DModel nor a fovea DiT");
}

static fv_status diffusers_config(converter *c)
{
    dit_shapes s;
    fv_tensor block;
    memset(&s, 0, sizeof s);
    for (; s.depth <= DIT_MAX_DEPTH; s.depth++) {
        char name[64];
        snprintf(name, sizeof name, "transformer_blocks.%d.norm1.linear.weight", s.depth);
        if (!find_in(c, name, &block)) break;
    }
    static const char *const name[4] = {
        "pos_embed.proj.weight", "proj_out_2.weight", "transformer_blocks.0.ff.net.0.proj.weight",
        "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"};
    fv_tensor *const to[4] = {&s.patch, &s.out, &s.fc1, &s.classes};
    for (int i = 0; i < 4; i++)
        if (!find_in(c, name[i], to[i]))
            return fv_fail(c->ctx, FV_ERR_MODEL, "convert: tensor %s%s is missing", c->prefix,
                           name[i]);
    return dit_config_from_shapes(c->ctx, &s, c->in, &c->cfg);
}

/* ---- The network ---------------------------------------------------------------------------- */

/* The file's table must be the one that the sizes give. A stored f32 or f64 table is kept; one
 * rounded to 16 bits is replaced by the exact values. */
static fv_status check_table(converter *c, const char *name, const fv_tensor *src, fv_tensor *exact,
                             float *stored)
{
    const int64_t n = fv_tensor_count(exact);
    float *x = exact->data;
    FV_TRY(fv_convert(c->ctx, src->dtype, src->data, n, FV_F32, stored));
    const double tolerance = src->dtype == FV_BF16  ? 1.0 / 256
                             : src->dtype == FV_F16 ? 1.0 / 2048
                                                    : POS_TOLERANCE;
    for (int64_t i = 0; i < n; i++) {
        if (fabs((double)stored[i] - x[i]) <= tolerance) continue;
        return fv_fail(c->ctx, FV_ERR_MODEL,
                       "convert: tensor %s%s differs from the fixed position table at element "
                       "%lld (%g, expected %g): not an official DiT",
                       c->prefix, name, (long long)i, (double)stored[i], (double)x[i]);
    }
    if (tolerance == POS_TOLERANCE) memcpy(x, stored, (size_t)n * sizeof *x);
    return FV_OK;
}

static fv_status position_table(converter *c, const char *name, fv_tensor *t)
{
    fv_tensor src, stored = *t;
    dit_pos_table(&c->cfg, t->data);
    if (c->kind == SOURCE_DIFFUSERS || !find_in(c, name, &src)) return FV_OK;
    FV_TRY(need(c, name, t, &src));
    FV_TRY(fv_pack_floats(c->ctx, name, &stored));
    const fv_status s = check_table(c, name, &src, t, stored.data);
    fv_free(c->ctx, stored.data);
    return s;
}

/* The conditioning tensors of all blocks must be copies of block 0's. */
static fv_status check_copies(converter *c, const char *name, const fv_tensor *first)
{
    char want[128], other[160];
    fv_tensor t;
    if (!diffusers_source(name, 0, want)) return FV_OK;
    const char *rest = fv_after(want, "transformer_blocks.0.");
    if (!rest || !fv_after(rest, "norm1.emb.")) return FV_OK;
    const size_t bytes = (size_t)fv_tensor_count(first) * fv_dtype_size(first->dtype);
    for (int l = 1; l < c->cfg.depth; l++) {
        snprintf(other, sizeof other, "transformer_blocks.%d.%s", l, rest);
        FV_TRY(need(c, other, first, &t));
        if (t.dtype != first->dtype || memcmp(t.data, first->data, bytes) != 0)
            return fv_fail(c->ctx, FV_ERR_MODEL,
                           "convert: tensor %s%s differs from its copy in block 0: block %d was "
                           "changed, and a DiT has one conditioning for all blocks",
                           c->prefix, other, l);
    }
    return FV_OK;
}

/* f32 values of tensor `name` of our network: one source, or three stacked. */
static fv_status gather(converter *c, const char *name, const fv_tensor *want, float *out)
{
    char from[128];
    fv_tensor src, part = *want;
    if (c->kind != SOURCE_DIFFUSERS) {
        FV_TRY(need(c, name, want, &src));
        return fv_convert(c->ctx, src.dtype, src.data, fv_tensor_count(&src), FV_F32, out);
    }
    const int parts = strstr(name, QKV_OFFICIAL) ? 3 : 1;
    part.dim[0] /= parts;
    const int64_t n = fv_tensor_count(&part);
    for (int i = 0; i < parts; i++) {
        if (!diffusers_source(name, i, from))
            return fv_fail(c->ctx, FV_ERR_INTERNAL, "convert: no Diffusers name for %s", name);
        FV_TRY(need(c, from, &part, &src));
        FV_TRY(fv_convert(c->ctx, src.dtype, src.data, n, FV_F32, out + i * n));
        FV_TRY(check_copies(c, name, &src));
    }
    return FV_OK;
}

static fv_status convert_network(converter *c)
{
    const fv_params *p = c->net.params;
    for (int i = 0; i < fv_params_count(p); i++) {
        const char *name = fv_params_name(p, i);
        fv_tensor t = fv_params_tensor(p, i);
        FV_TRY(fv_report(c->ctx, "converting", (uint64_t)i, (uint64_t)fv_params_count(p), name));
        const bool is_table = i == c->net.pos;
        FV_TRY(fv_pack_floats(c->ctx, name, &t));
        const fv_status s = is_table ? position_table(c, name, &t) : gather(c, name, &t, t.data);
        if (s != FV_OK) {
            fv_free(c->ctx, t.data);
            return s;
        }
        FV_TRY(fv_pack_give(&c->pack, name, &t, is_table ? FV_F32 : c->type));
    }
    return FV_OK;
}

/* A name that we would not read is refused. Of a nested checkpoint only the chosen part counts. */
static fv_status refuse_extra(converter *c)
{
    for (int i = 0; i < fv_model_count(c->in); i++) {
        const char *full = fv_model_name(c->in, i), *name = fv_after(full, c->prefix);
        if (!name) continue;
        if (c->kind == SOURCE_FOVEA && fv_after(name, DECODER_PREFIX)) continue;
        if (c->kind == SOURCE_FOVEA && fv_ends_with(name, ".int8"))
            return fv_fail(c->ctx, FV_ERR_UNSUPPORTED,
                           "convert: the input's weights are int8 already: convert from the file "
                           "that it was made from");
        const bool known = c->kind == SOURCE_DIFFUSERS ? is_diffusers_name(name, c->cfg.depth)
                                                       : fv_params_find(c->net.params, name) >= 0;
        if (!known)
            return fv_fail(c->ctx, FV_ERR_MODEL,
                           "convert: tensor \"%.200s\" does not belong to a DiT of this size",
                           full);
    }
    return FV_OK;
}

/* ---- The decoder ---------------------------------------------------------------------------- */

/* Of a file with both halves only what decoding needs; TAESD's decoder file has numbers as names.
 */
static bool is_decoder_name(const char *name, bool has_parts)
{
    static const char *const outer[] = {"first_stage_model.", "taesd_"};
    if (!has_parts) return true;
    for (size_t i = 0; i < FV_ARRAY_LEN(outer); i++)
        if (fv_after(name, outer[i])) return is_decoder_name(fv_after(name, outer[i]), true);
    return fv_after(name, "decoder.") || fv_after(name, "post_quant_conv.");
}

/* A decoder that fv_dit_open will take: else the file would be written in vain. */
static fv_status check_decoder(converter *c)
{
    fv_vae *v;
    fv_vae_info info;
    FV_TRY(fv_vae_open(c->ctx, &v, c->decoder, c->decoder_prefix, FV_F32));
    fv_vae_get_info(v, &info);
    fv_vae_close(&v);
    if (info.can_decode && info.latent_channels == c->cfg.channels) return FV_OK;
    return fv_fail(c->ctx, FV_ERR_MODEL,
                   "convert: the decoder file %s latents of %d channels, the model makes %d",
                   info.can_decode ? "decodes" : "only encodes to", info.latent_channels,
                   c->cfg.channels);
}

static fv_status convert_decoder(converter *c)
{
    const fv_model *m = c->decoder;
    const char *from = c->decoder_prefix;
    const fv_dtype type = c->type == FV_F32 ? FV_F32 : FV_BF16;
    bool has_parts = false;
    for (int i = 0; i < fv_model_count(m) && !has_parts; i++)
        has_parts = strstr(fv_model_name(m, i), "decoder.") != NULL;
    for (int i = 0; i < fv_model_count(m); i++) {
        const char *name = fv_after(fv_model_name(m, i), from);
        fv_tensor t;
        if (!name || !is_decoder_name(name, has_parts)) continue;
        fv_model_tensor(m, i, &t);
        if (!fv_dtype_is_real(t.dtype) || t.ndim < 1 || fv_tensor_count(&t) < 1)
            return fv_fail(c->ctx, FV_ERR_MODEL,
                           "convert: decoder tensor \"%.200s\" is not a floating-point array",
                           name);
        const fv_tensor had = t;
        FV_TRY(fv_pack_floats(c->ctx, name, &t));
        fv_status s =
            fv_convert(c->ctx, had.dtype, had.data, fv_tensor_count(&had), FV_F32, t.data);
        char *full = s == FV_OK ? fv_format(c->ctx, DECODER_PREFIX "%s", name) : NULL;
        if (!full) {
            fv_free(c->ctx, t.data);
            return s == FV_OK ? FV_ERR_OOM : s;
        }
        s = fv_pack_give(&c->pack, full, &t, type);
        fv_free(c->ctx, full);
        FV_TRY(s);
    }
    return FV_OK;
}

/* The numbers that fv_vae_open reads travel as "vae.groups", ... */
static fv_status decoder_metadata(converter *c)
{
    static const char *const key[] = {"groups", "scaling_factor"};
    for (size_t i = 0; i < FV_ARRAY_LEN(key); i++) {
        char full[64];
        snprintf(full, sizeof full, "%s%s", c->decoder_prefix, key[i]);
        const char *value = fv_model_meta(c->decoder, full);
        if (!value) value = fv_model_meta(c->decoder, key[i]);
        snprintf(full, sizeof full, DECODER_PREFIX "%s", key[i]);
        if (value) FV_TRY(fv_meta_add(c->ctx, &c->meta, full, value));
    }
    return FV_OK;
}

/* ---- All of it ------------------------------------------------------------------------------ */

static fv_status metadata(converter *c)
{
    static const char *const source[] = {"official DiT checkpoint",
                                         "Diffusers DiTTransformer2DModel", "fovea model"};
    FV_TRY(dit_config_meta(c->ctx, &c->cfg, &c->meta));
    if (c->kind == SOURCE_FOVEA) {
        for (int i = 0; i < fv_model_meta_count(c->in); i++) {
            const char *key, *value;
            fv_model_meta_at(c->in, i, &key, &value);
            if (fv_after(key, DECODER_PREFIX)) continue; /* of the decoder that it has or had */
            FV_TRY(fv_meta_add(c->ctx, &c->meta, key, value));
        }
    } else {
        char text[96];
        snprintf(text, sizeof text, "%s%s%s%s", source[c->kind], *c->prefix ? " (" : "", c->prefix,
                 *c->prefix ? ")" : "");
        FV_TRY(fv_meta_add(c->ctx, &c->meta, "fovea.source", text));
        FV_TRY(fv_meta_add(c->ctx, &c->meta, "fovea.numerics", "official"));
    }
    if (c->decoder) FV_TRY(decoder_metadata(c));
    return fv_meta_write(&c->meta, c->pack.writer);
}

static fv_status run(converter *c)
{
    FV_TRY(find_kind(c));
    if (c->kind == SOURCE_DIFFUSERS)
        FV_TRY(diffusers_config(c));
    else
        FV_TRY(dit_config_read(c->ctx, c->in, c->prefix, &c->cfg));
    FV_TRY(dit_net_create(c->ctx, &c->net, &c->cfg));
    FV_TRY(refuse_extra(c));
    if (!c->decoder && c->kind == SOURCE_FOVEA && dit_has_decoder(c->in)) c->decoder = c->in;
    if (c->decoder) {
        c->decoder_prefix = dit_has_decoder(c->decoder) ? DECODER_PREFIX : "";
        FV_TRY(check_decoder(c));
    }
    FV_TRY(fv_pack_create(c->ctx, &c->pack));
    FV_TRY(metadata(c));
    FV_TRY(convert_network(c));
    return c->decoder ? convert_decoder(c) : FV_OK;
}

fv_status fv_dit_convert(fv_ctx *ctx, const fv_model *in, const fv_model *decoder, fv_dtype type,
                         const char *out_path, int overwrite)
{
    if (!in || !out_path)
        return fv_fail(ctx, FV_ERR_ARG, "convert: no input model or no output path");
    if (type != FV_F32 && type != FV_BF16 && type != FV_I8)
        return fv_fail(ctx, FV_ERR_DTYPE, "convert: the output type must be f32, bf16 or int8");
    converter c = {.ctx = ctx, .in = in, .decoder = decoder, .type = type};
    fv_status s = run(&c);
    if (s == FV_OK) s = fv_model_writer_finish(c.pack.writer, out_path, overwrite);
    fv_pack_free(&c.pack);
    fv_meta_free(ctx, &c.meta);
    dit_net_destroy(ctx, &c.net);
    return s;
}
