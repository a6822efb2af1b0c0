/* wan_convert.c - PS-SR's published checkpoints to one fovea model file.
 *
 * Sources (names behind one of a few prefixes):
 *
 *     transformer  Wan2.1's, with its authors' names or Diffusers', patch embedding of 16 channels
 *     base         LoRA pairs A [r, in], B [out, r] of every linear layer of every block, scale 1,
 *                  names with or without ".default"; patch embedding of 32 channels, head in full
 *     vae          Wan2.1's autoencoder, optional
 *     draft        a pruned transformer, blocks numbered anew, and fc_layers.J [C, 2C]: the first C
 *                  columns are the base feature's
 *
 * The base is W + B A, in f32 and rounded once, with patch embedding and head of the base's file.
 * Each parameter of wan_net.c is made from tensors of these names; every tensor must be there, of its
 * shape, finite, and nothing else may be: what is not understood would silently be left out. */
#include "wan.h"

#include <math.h>
#include <string.h>

#define MAX_TENSORS 16384
#define TEXT_LENGTH 512
#define HEAD 128

typedef struct source {
    const char *label;
    const fv_model *m;
    const char *prefix;
    bool is_diffusers;
    uint8_t *used; /* [tensors] */
} source;

typedef struct converter {
    fv_ctx *ctx;
    const fv_wan_convert_options *o;
    source dit, lora, draft, vae;
    wan_config cfg;
    fv_params *params; /* shapes only */
    wan_net *net;
    fv_pack pack;
} converter;

static const char *const prefixes[] = {"",
                                       "diffusion_model.",
                                       "dit.",
                                       "model.",
                                       "model.diffusion_model.",
                                       "transformer.",
                                       "model_state.",
                                       "model_state.model."};

/* ---- Names ----------------------------------------------------------------------------------- */

typedef struct name_pair {
    const char *from, *to;
} name_pair;

/* Authors' -> Diffusers; of the transformer, and of a block. */
static const name_pair outer_name[] = {
    {"text_embedding.0.", "condition_embedder.text_embedder.linear_1."},
    {"text_embedding.2.", "condition_embedder.text_embedder.linear_2."},
    {"time_embedding.0.", "condition_embedder.time_embedder.linear_1."},
    {"time_embedding.2.", "condition_embedder.time_embedder.linear_2."},
    {"time_projection.1.", "condition_embedder.time_proj."},
    {"head.head.", "proj_out."},
    {"head.modulation", "scale_shift_table"},
};
static const name_pair block_name[] = {
    {"self_attn.q.", "attn1.to_q."},
    {"self_attn.k.", "attn1.to_k."},
    {"self_attn.v.", "attn1.to_v."},
    {"self_attn.o.", "attn1.to_out.0."},
    {"self_attn.norm", "attn1.norm"},
    {"cross_attn.q.", "attn2.to_q."},
    {"cross_attn.k.", "attn2.to_k."},
    {"cross_attn.v.", "attn2.to_v."},
    {"cross_attn.o.", "attn2.to_out.0."},
    {"cross_attn.norm", "attn2.norm"},
    {"norm3.", "norm2."},
    {"ffn.0.", "ffn.net.0.proj."},
    {"ffn.2.", "ffn.net.2."},
    {"modulation", "scale_shift_table"},
};
/* Ours -> authors'. */
static const name_pair own_name[] = {
    {"patch.bias", "patch_embedding.bias"}, {"text.0.", "text_embedding.0."},
    {"text.1.", "text_embedding.2."},       {"time.0.", "time_embedding.0."},
    {"time.1.", "time_embedding.2."},       {"time.mod.", "time_projection.1."},
    {"head_table", "head.modulation"},      {"head.", "head.head."},
};
static const name_pair own_block_name[] = {
    {"table", "modulation"},
    {"out.", "self_attn.o."},
    {"q_norm", "self_attn.norm_q.weight"},
    {"k_norm", "self_attn.norm_k.weight"},
    {"norm.", "norm3."},
    {"cross.q.", "cross_attn.q."},
    {"cross.k.", "cross_attn.k."},
    {"cross.v.", "cross_attn.v."},
    {"cross.out.", "cross_attn.o."},
    {"cross.q_norm", "cross_attn.norm_q.weight"},
    {"cross.k_norm", "cross_attn.norm_k.weight"},
    {"up.", "ffn.0."},
    {"down.", "ffn.2."},
};

/* "blocks.N." in front of name: what follows, and its length; else NULL. */
static const char *after_block(const char *name, size_t *head)
{
    const char *p = fv_after(name, "blocks.");
    if (!p) return NULL;
    p += strspn(p, "0123456789");
    if (*p != '.') return NULL;
    *head = (size_t)(p + 1 - name);
    return p + 1;
}

/* Translates name by the pair that fits; false if none does. */
static bool translate(const char *name, const name_pair *outer, size_t n_outer,
                      const name_pair *block, size_t n_block, char out[160])
{
    size_t head = 0;
    const char *rest = after_block(name, &head), *tail;
    const name_pair *pair = rest ? block : outer;
    if (!rest) rest = name;
    for (size_t i = 0; i < (pair == block ? n_block : n_outer); i++)
        if ((tail = fv_after(rest, pair[i].from)) != NULL) {
            snprintf(out, 160, "%.*s%s%s", (int)head, name, pair[i].to, tail);
            return true;
        }
    return false;
}

/* ---- Sources --------------------------------------------------------------------------------- */

static int index_of(const fv_model *m, const char *name)
{
    for (int i = 0; i < fv_model_count(m); i++)
        if (strcmp(fv_model_name(m, i), name) == 0) return i;
    return -1;
}

/* Full name of the authors' `name` in a source. */
static void name_in(const source *s, const char *name, char out[256])
{
    char other[160];
    const bool is_other = s->is_diffusers && translate(name, outer_name, FV_ARRAY_LEN(outer_name),
                                                       block_name, FV_ARRAY_LEN(block_name), other);
    snprintf(out, 256, "%s%s", s->prefix, is_other ? other : name);
}

static bool has(const source *s, const char *name, fv_tensor *t)
{
    char full[256];
    name_in(s, name, full);
    return fv_model_find(s->m, full, t);
}

/* f32 values of a tensor of `n` dimensions, into a block of fv_alloc. */
static fv_status take(converter *c, source *s, const char *name, int n, const int64_t *dim,
                      float **out)
{
    fv_tensor want = {.ndim = n}, from, to;
    char full[256];
    memcpy(want.dim, dim, (size_t)n * sizeof *dim);
    name_in(s, name, full);
    *out = NULL;
    fv_status st = fv_pack_source(c->ctx, s->m, full, &want, &from);
    if (st != FV_OK) return fv_fail_in(c->ctx, st, "%s", s->label);
    s->used[index_of(s->m, full)] = 1;
    to = want;
    FV_TRY(fv_pack_floats(c->ctx, full, &to));
    st = fv_convert(c->ctx, from.dtype, from.data, fv_tensor_count(&from), FV_F32, to.data);
    if (st == FV_OK) *out = to.data;
    else fv_free(c->ctx, to.data);
    return st;
}

static const char *find_prefix(const fv_model *m, const char *name)
{
    for (size_t i = 0; i < FV_ARRAY_LEN(prefixes); i++) {
        char full[128];
        fv_tensor t;
        snprintf(full, sizeof full, "%s%s", prefixes[i], name);
        if (fv_model_find(m, full, &t)) return prefixes[i];
    }
    return NULL;
}

/* `name`, or in Diffusers' files `diffusers` (NULL: there are none), tells what it is. */
static fv_status open_source(fv_ctx *ctx, source *s, const char *label, const fv_model *m,
                             const char *name, const char *diffusers)
{
    s->label = label;
    s->m = m;
    s->prefix = find_prefix(m, name);
    if (!s->prefix && diffusers) {
        s->prefix = find_prefix(m, diffusers);
        s->is_diffusers = s->prefix != NULL;
    }
    if (!s->prefix)
        return fv_fail(ctx, FV_ERR_MODEL,
                       "convert: %s: tensor %s is missing: not a file of that kind", label, name);
    if (fv_model_count(m) > MAX_TENSORS)
        return fv_fail(ctx, FV_ERR_LIMIT, "convert: %s: more than %d tensors", label, MAX_TENSORS);
    s->used = fv_calloc(ctx, (size_t)fv_model_count(m), 1);
    return s->used ? FV_OK : FV_ERR_OOM;
}

int fv_wan_is_checkpoint(const fv_model *m)
{
    return m && find_prefix(m, "patch_embedding.weight") &&
           (find_prefix(m, "blocks.0.modulation") || find_prefix(m, "blocks.0.scale_shift_table"));
}

static fv_status refuse_extra(converter *c, const source *s)
{
    for (int i = 0; i < fv_model_count(s->m); i++)
        if (!s->used[i])
            return fv_fail(c->ctx, FV_ERR_MODEL,
                           "convert: %s: tensor \"%.160s\" is not known, or not "
                           "of a model of this size",
                           s->label, fv_model_name(s->m, i));
    return FV_OK;
}

/* ---- Sizes ----------------------------------------------------------------------------------- */

static int count_blocks(const source *s, const char *form)
{
    for (int n = 0; n <= WAN_MAX_BLOCKS; n++) {
        char name[64];
        fv_tensor t;
        snprintf(name, sizeof name, form, n);
        if (!has(s, name, &t)) return n;
    }
    return WAN_MAX_BLOCKS + 1;
}

static fv_status read_draft(converter *c)
{
    const int blocks = count_blocks(&c->draft, "blocks.%d.modulation");
    const int fused = count_blocks(&c->draft, "fc_layers.%d.weight");
    const double k = c->o->prune > 0 ? c->o->prune : fused ? (double)c->cfg.blocks / fused : 1;
    if (blocks > WAN_MAX_BLOCKS || fused < 1 || blocks != fused)
        return fv_fail(c->ctx, FV_ERR_MODEL,
                       "convert: draft: %d blocks with %d fusion layers: there "
                       "must be one for each",
                       blocks, fused);
    c->cfg.drafts =
        k >= 1 && k <= c->cfg.blocks ? wan_kept_blocks(c->cfg.blocks, k, c->cfg.kept) : 0;
    if (c->cfg.drafts == fused) return FV_OK;
    return fv_fail(c->ctx, FV_ERR_MODEL,
                   "convert: draft: %d fusion layers, but k = %g keeps %d of %d "
                   "blocks",
                   fused, k, c->cfg.drafts, c->cfg.blocks);
}

static fv_status read_config(converter *c)
{
    fv_tensor patch, ffn, text;
    wan_config *g = &c->cfg;
    wan_published(g);
    g->blocks = count_blocks(&c->dit, "blocks.%d.modulation");
    if (!has(&c->dit, "patch_embedding.weight", &patch) || patch.ndim != 5 ||
        !has(&c->dit, "blocks.0.ffn.0.weight", &ffn) || ffn.ndim != 2 ||
        !has(&c->dit, "text_embedding.0.weight", &text) || text.ndim != 2 || patch.dim[0] > 16384 ||
        ffn.dim[0] > 65536 || text.dim[1] > 65536)
        return fv_fail(c->ctx, FV_ERR_MODEL,
                       "convert: transformer: patch_embedding, blocks.0.ffn.0 or "
                       "text_embedding.0 is missing or no Wan2.1's");
    g->width = (int)patch.dim[0];
    g->ffn = (int)ffn.dim[0];
    g->text_width = (int)text.dim[1];
    g->text_length = TEXT_LENGTH;
    g->heads = c->o->heads > 0 ? c->o->heads : g->width / HEAD;
    if (g->heads < 1)
        return fv_fail(c->ctx, FV_ERR_MODEL,
                       "convert: %d channels are less than one head of %d: say "
                       "how many heads there are",
                       g->width, HEAD);
    g->draft_sees_zero = c->o->draft_zero != 0;
    wan_schedule(g, !c->o->f32_times);
    if (g->blocks > WAN_MAX_BLOCKS)
        return fv_fail(c->ctx, FV_ERR_LIMIT, "convert: more than %d blocks", WAN_MAX_BLOCKS);
    FV_TRY(read_draft(c));
    return wan_config_check(c->ctx, g);
}

/* ---- Values ---------------------------------------------------------------------------------- */

/* w [out, in] += B A */
static void add_product(const fv_ctx *ctx, float *w, const float *B, const float *A, int64_t out,
                        int64_t in, int64_t rank)
{
#pragma omp parallel for schedule(static) num_threads(fv_ctx_threads(ctx))
    for (int64_t i = 0; i < out; i++)
        for (int64_t r = 0; r < rank; r++) {
            const float f = B[i * rank + r], *a = A + r * in;
            for (int64_t j = 0; j < in; j++) w[i * in + j] += f * a[j];
        }
}

/* Name of half "A" or "B" of the pair of a weight. */
static bool pair_name(const source *s, const char *weight, char half, char out[160], fv_tensor *t)
{
    const int stem = (int)(strlen(weight) - strlen("weight"));
    for (int k = 0; k < 2; k++) {
        snprintf(out, 160, "%.*slora_%c.%sweight", stem, weight, half, k ? "" : "default.");
        if (has(s, out, t)) return true;
    }
    snprintf(out, 160, "%.*slora_%c.default.weight", stem, weight, half);
    return false;
}

static fv_status merge(converter *c, const char *name, int64_t out, int64_t in, float *w)
{
    char a_name[160], b_name[160];
    fv_tensor a = {0}, b;
    float *A = NULL, *B = NULL;
    (void)pair_name(&c->lora, name, 'B', b_name, &b);
    const int64_t rank = pair_name(&c->lora, name, 'A', a_name, &a) ? a.dim[0] : 1;
    const int64_t a_dim[2] = {rank, in}, b_dim[2] = {out, rank};
    fv_status s = take(c, &c->lora, a_name, 2, a_dim, &A);
    if (s == FV_OK) s = take(c, &c->lora, b_name, 2, b_dim, &B);
    if (s == FV_OK) add_product(c->ctx, w, B, A, out, in, rank);
    fv_free(c->ctx, A);
    fv_free(c->ctx, B);
    return s;
}

/* Tensor of the authors' name, merged in the base, as it is in memory the same for [1, 6, C]. */
static fv_status gather(converter *c, bool is_draft, const char *name, const fv_tensor *t,
                        float **out)
{
    const bool is_table = fv_ends_with(name, "modulation"),
               is_head = fv_after(name, "head.head.") != NULL;
    const int64_t dim[3] = {is_table ? 1 : t->dim[0], is_table ? t->dim[0] : t->dim[1], t->dim[1]};
    const bool is_linear = t->ndim == 2 && !is_table && fv_after(name, "blocks.");
    source *s = is_draft                                        ? &c->draft
                : is_head || fv_after(name, "patch_embedding.") ? &c->lora
                                                                : &c->dit;
    FV_TRY(take(c, s, name, t->ndim + is_table, dim, out));
    if (is_draft || !is_linear) return FV_OK;
    const fv_status st = merge(c, name, dim[0], dim[1], *out);
    if (st == FV_OK) return FV_OK;
    fv_free(c->ctx, *out);
    *out = NULL;
    return st;
}

/* q, k and v [C, C] or [C], one after another. */
static fv_status put_qkv(converter *c, bool is_draft, const char *name, fv_tensor *t)
{
    static const char *const part[3] = {"q", "k", "v"};
    const int head = (int)(strstr(name, "qkv.") - name);
    fv_tensor third = *t;
    third.dim[0] /= 3;
    const int64_t n = fv_tensor_count(&third);
    for (int i = 0; i < 3; i++) {
        char from[160];
        float *x;
        snprintf(from, sizeof from, "%.*sself_attn.%s.%s", head, name, part[i], name + head + 4);
        FV_TRY(gather(c, is_draft, from, &third, &x));
        memcpy((float *)t->data + i * n, x, (size_t)n * sizeof *x);
        fv_free(c->ctx, x);
    }
    return FV_OK;
}

/* Of the patch embedding [C, 32, 1, 2, 2] the state's half, z_L's, or in the base their sum. */
static fv_status put_patch(converter *c, bool is_draft, bool is_state, fv_tensor *t)
{
    const int64_t C = t->dim[0], dim[5] = {C, 2 * WAN_LATENT, 1, 2, 2};
    float *x, *y = t->data;
    FV_TRY(take(c, is_draft ? &c->draft : &c->lora, "patch_embedding.weight", 5, dim, &x));
    for (int64_t i = 0; i < C * WAN_PATCH; i++) {
        const float *row = x + i / WAN_PATCH * 2 * WAN_PATCH + i % WAN_PATCH;
        y[i] = !is_draft ? row[0] + row[WAN_PATCH] : is_state ? row[0] : row[WAN_PATCH];
    }
    fv_free(c->ctx, x);
    return FV_OK;
}

/* fc_layers.J [C, 2C] or [C]. */
static fv_status put_fusion(converter *c, const char *name, fv_tensor *t)
{
    const bool is_stream = strstr(name, "stream.") != NULL;
    const int64_t C = t->dim[0], dim[2] = {C, 2 * C};
    float *x, *y = t->data;
    char from[64];
    size_t head = 0;
    (void)after_block(name, &head);
    snprintf(from, sizeof from, "fc_layers.%.*s%s", (int)(head - 7), name + 7,
             t->ndim == 2 ? "weight" : "bias");
    FV_TRY(take(c, &c->draft, from, t->ndim, dim, &x));
    for (int64_t i = 0; i < fv_tensor_count(t); i++)
        y[i] = t->ndim == 1 ? x[i] : x[i / C * 2 * C + i % C + (is_stream ? C : 0)];
    fv_free(c->ctx, x);
    return FV_OK;
}

static fv_status put_other(converter *c, bool is_draft, const char *name, fv_tensor *t)
{
    char from[160];
    float *x;
    if (!translate(name, own_name, FV_ARRAY_LEN(own_name), own_block_name,
                   FV_ARRAY_LEN(own_block_name), from))
        return fv_fail(c->ctx, FV_ERR_INTERNAL, "convert: no published name for %s", name);
    FV_TRY(gather(c, is_draft, from, t, &x));
    memcpy(t->data, x, (size_t)fv_tensor_count(t) * sizeof *x);
    fv_free(c->ctx, x);
    return FV_OK;
}

static fv_status put(converter *c, fv_pid id)
{
    const char *full = fv_params_name(c->params, id);
    const bool is_draft = fv_after(full, "draft.") != NULL;
    const char *name = full + (is_draft ? 6 : 5);
    fv_tensor t = fv_params_tensor(c->params, id);
    fv_status s;
    FV_TRY(fv_pack_floats(c->ctx, full, &t));
    if (strcmp(name, "patch.weight") == 0) s = put_patch(c, is_draft, false, &t);
    else if (fv_after(name, "patch_state.")) s = put_patch(c, is_draft, true, &t);
    else if (strstr(name, ".qkv.")) s = put_qkv(c, is_draft, name, &t);
    else if (strstr(name, ".feature.") || strstr(name, ".stream.")) s = put_fusion(c, name, &t);
    else s = put_other(c, is_draft, name, &t);
    if (s != FV_OK) {
        fv_free(c->ctx, t.data);
        return s;
    }
    return fv_pack_give(&c->pack, full, &t, fv_ends_with(name, "table") ? FV_F32 : c->o->type);
}

/* ---- All of it ------------------------------------------------------------------------------- */

static fv_status put_text(converter *c)
{
    const fv_model *m = c->o->context;
    fv_tensor t, to;
    if (!m) return FV_OK;
    if (!fv_model_find(m, "context", &t) || t.ndim != 2 || t.dim[0] < 1 || t.dim[0] > TEXT_LENGTH ||
        t.dim[1] != c->cfg.text_width || !fv_dtype_is_real(t.dtype))
        return fv_fail(c->ctx, FV_ERR_MODEL,
                       "convert: context: a tensor \"context\" of 1 to %d rows of "
                       "%d numbers is needed",
                       TEXT_LENGTH, c->cfg.text_width);
    to = t;
    FV_TRY(fv_pack_floats(c->ctx, "text", &to));
    const fv_status s = fv_convert(c->ctx, t.dtype, t.data, fv_tensor_count(&t), FV_F32, to.data);
    if (s != FV_OK) fv_free(c->ctx, to.data);
    FV_TRY(s);
    return fv_pack_give(&c->pack, "text", &to, FV_F32);
}

static fv_status put_vae_tensor(converter *c, const fv_params *p, fv_pid id)
{
    const char *name = fv_params_name(p, id);
    fv_tensor published, t = fv_params_tensor(p, id);
    float *x;
    wan_vae_published_shape(p, id, &published);
    FV_TRY(take(c, &c->vae, name + strlen("vae."), published.ndim, published.dim, &x));
    const fv_status s = fv_pack_floats(c->ctx, name, &t);
    if (s == FV_OK) wan_vae_reorder(&published, x, t.data);
    fv_free(c->ctx, x);
    return s == FV_OK ? fv_pack_give(&c->pack, name, &t, c->o->type) : s;
}

static fv_status put_vae(converter *c)
{
    fv_params *p = NULL;
    int width[4];
    if (!c->o->vae) return FV_OK;
    FV_TRY(open_source(c->ctx, &c->vae, "vae", c->o->vae, "encoder.conv1.weight", NULL));
    FV_TRY(wan_vae_widths(c->ctx, c->vae.m, c->vae.prefix, width));
    FV_TRY(fv_params_create(c->ctx, &p));
    fv_status s = wan_vae_add(p, width) ? FV_OK : fv_params_alloc(p); /* the failure that stuck */
    for (fv_pid id = 0; id < fv_params_count(p) && s == FV_OK; id++) s = put_vae_tensor(c, p, id);
    fv_params_destroy(&p);
    return s == FV_OK ? refuse_extra(c, &c->vae) : s;
}

static fv_status put_meta(converter *c)
{
    fv_meta meta;
    FV_TRY(wan_config_meta(c->ctx, &c->cfg, &meta));
    fv_status s = fv_meta_add(c->ctx, &meta, "fovea.source", "PS-SR on Wan2.1, base and draft");
    if (s == FV_OK) s = fv_meta_write(&meta, c->pack.writer);
    fv_meta_free(c->ctx, &meta);
    return s;
}

/* What the base's file replaces: of no use, but of this model all the same. */
static fv_status check_replaced(converter *c)
{
    const int64_t C = c->cfg.width;
    const struct {
        const char *name;
        int ndim;
        int64_t dim[5];
    } tensor[] = {{"patch_embedding.weight", 5, {C, WAN_LATENT, 1, 2, 2}},
                  {"patch_embedding.bias", 1, {C}},
                  {"head.head.weight", 2, {WAN_PATCH, C}},
                  {"head.head.bias", 1, {WAN_PATCH}}};
    for (size_t i = 0; i < FV_ARRAY_LEN(tensor); i++) {
        const int ndim = tensor[i].ndim;
        int64_t n = 1;
        float *x;
        bool is_finite = true;
        for (int k = 0; k < ndim; k++) n *= tensor[i].dim[k];
        FV_TRY(take(c, &c->dit, tensor[i].name, ndim, tensor[i].dim, &x));
        for (int64_t k = 0; k < n; k++) is_finite = is_finite && isfinite(x[k]);
        fv_free(c->ctx, x);
        if (!is_finite)
            return fv_fail(c->ctx, FV_ERR_NUMERIC,
                           "convert: transformer: tensor %s has a value that is not finite",
                           tensor[i].name);
    }
    return FV_OK;
}

static fv_status run(converter *c)
{
    FV_TRY(read_config(c));
    FV_TRY(fv_params_create(c->ctx, &c->params));
    wan_net_add(c->net, c->params, &c->cfg);
    if (c->net->draft.head.b < 0) FV_TRY(fv_params_alloc(c->params)); /* the failure that stuck */
    FV_TRY(fv_pack_create(c->ctx, &c->pack));
    const int count = fv_params_count(c->params);
    for (int i = 0; i < count; i++) {
        FV_TRY(fv_report(c->ctx, "converting", (uint64_t)i, (uint64_t)count, NULL));
        FV_TRY(put(c, i));
    }
    FV_TRY(check_replaced(c));
    FV_TRY(refuse_extra(c, &c->dit));
    FV_TRY(refuse_extra(c, &c->lora));
    FV_TRY(refuse_extra(c, &c->draft));
    FV_TRY(put_vae(c));
    FV_TRY(put_text(c));
    return put_meta(c);
}

static fv_status open_sources(converter *c, const fv_model *in)
{
    FV_TRY(open_source(c->ctx, &c->dit, "transformer", in, "blocks.0.modulation",
                       "blocks.0.scale_shift_table"));
    FV_TRY(open_source(c->ctx, &c->lora, "base", c->o->base, "patch_embedding.weight", NULL));
    return open_source(c->ctx, &c->draft, "draft", c->o->draft, "blocks.0.modulation", NULL);
}

fv_status fv_wan_convert(fv_ctx *ctx, const fv_model *in, const fv_wan_convert_options *opts,
                         const char *out_path)
{
    fv_wan_convert_options o = FV_WAN_CONVERT_OPTIONS_INIT;
    FV_TRY(FV_TAKE_OPTIONS(ctx, &o, opts, "convert"));
    if (!in || !out_path || !o.base || !o.draft)
        return fv_fail(ctx, FV_ERR_ARG,
                       "convert: transformer, base and draft are needed, and an output "
                       "path");
    if (o.type != FV_F32 && o.type != FV_BF16)
        return fv_fail(ctx, FV_ERR_DTYPE, "convert: the output type must be f32 or bf16");
    converter c = {.ctx = ctx, .o = &o};
    c.net = fv_calloc(ctx, 1, sizeof *c.net);
    fv_status s = c.net ? open_sources(&c, in) : FV_ERR_OOM;
    if (s == FV_OK) s = run(&c);
    if (s == FV_OK) s = fv_model_writer_finish(c.pack.writer, out_path, o.overwrite);
    fv_pack_free(&c.pack);
    fv_params_destroy(&c.params);
    fv_free(ctx, c.dit.used);
    fv_free(ctx, c.lora.used);
    fv_free(ctx, c.draft.used);
    fv_free(ctx, c.vae.used);
    fv_free(ctx, c.net);
    return s;
}
