/* omnizip_convert.c - checkpoints of the official OmniZip code to our model file.
 *
 * Sources: {model, optimizer, stage, epoch} or a bare state, names with or without "module."; the
 * mixture-of-experts model (embedding, blocks.L) and the plain one (rwkv.wte, rwkv.h.L). HiRA as
 * trained (NAME, NAME_A, NAME_B) or merged (NAME_reparam); the result is always merged. Sizes come
 * from the shapes. Every tensor must be there with its size and nothing else: a name that is not
 * understood may be a part that would silently be left out. What the code stores but never uses,
 * and what only training needs, is passed over.
 *
 * Vectors may be stored as [1, 1, n]: only their number of elements counts. */
#include "omnizip.h"

#include <math.h>
#include <string.h>

#include "fovea_codec.h"

#define MAX_TENSORS 65536

typedef struct converter {
    fv_ctx *ctx;
    const fv_model *in;
    const char *prefix; /* of all names of the network */
    bool is_plain;      /* rwkv.* names */
    oz_net net;
    uint8_t *seen; /* [tensors of in] */
    float *temp;   /* a factor of HiRA */
    size_t temp_floats;
} converter;

static const char *const prefixes[] = {"model.module.", "model.",  "state_dict.module.",
                                       "state_dict.",   "module.", ""};

static bool find_named(const fv_model *m, const char *prefix, const char *name, fv_tensor *t)
{
    char full[256];
    const int n = snprintf(full, sizeof full, "%s%s", prefix, name);
    memset(t, 0, sizeof *t);
    return n > 0 && n < (int)sizeof full && fv_model_find(m, full, t);
}

/* The prefix of the network's names; NULL: not an OmniZip checkpoint. */
static const char *find_prefix(const fv_model *m, bool *is_plain)
{
    for (size_t i = 0; i < FV_ARRAY_LEN(prefixes); i++) {
        fv_tensor t;
        *is_plain = find_named(m, prefixes[i], "rwkv.h.0.attn.time_maa_rg", &t);
        if (*is_plain || find_named(m, prefixes[i], "blocks.0.attn.time_maa_rg", &t))
            return prefixes[i];
    }
    return NULL;
}

int fv_omnizip_is_checkpoint(const fv_model *m)
{
    bool is_plain;
    return m && find_prefix(m, &is_plain) != NULL;
}

/* ---- Names ----------------------------------------------------------------------------------- */

/* Parts of a checkpoint that the result does not need. */
static bool is_ignored(const char *name)
{
    static const char *const tails[] = {".time_maa_x",    ".time_maa_wa", "w_noise",
                                        "w_noise.weight", ".mean",        ".std",
                                        "token_counts"};
    for (size_t i = 0; i < FV_ARRAY_LEN(tails); i++)
        if (fv_ends_with(name, tails[i])) return true;
    const char *last = strrchr(name, '.');
    return last && strncmp(last + 1, "expert_", 7) == 0;
}

/* "blocks.L.REST" or "rwkv.h.L.REST"; REST alone outside of the blocks, which is l < 0. */
static void name_of(const converter *c, int l, const char *rest, char out[160])
{
    if (l < 0) snprintf(out, 160, "%s", rest);
    else snprintf(out, 160, "%s.%d.%s", c->is_plain ? "rwkv.h" : "blocks", l, rest);
}

static bool has(const converter *c, int l, const char *rest, fv_tensor *t)
{
    char name[160];
    name_of(c, l, rest, name);
    return find_named(c->in, c->prefix, name, t);
}

/* Find a tensor by its whole name, mark it as used, check its number of elements. */
static fv_status need(converter *c, const char *name, int64_t count, fv_tensor *t)
{
    char full[256];
    snprintf(full, sizeof full, "%s%s", c->prefix, name);
    if (!fv_model_find(c->in, full, t))
        return fv_fail(c->ctx, FV_ERR_MODEL, "convert: tensor %s is missing", full);
    if (t->dtype != FV_F32 && t->dtype != FV_BF16 && t->dtype != FV_F16 && t->dtype != FV_F64)
        return fv_fail(c->ctx, FV_ERR_MODEL,
                       "convert: tensor %s has type %s, a floating-point type is needed", full,
                       fv_dtype_name(t->dtype));
    if (fv_tensor_count(t) != count)
        return fv_fail(c->ctx, FV_ERR_MODEL, "convert: tensor %s has %lld elements, expected %lld",
                       full, (long long)fv_tensor_count(t), (long long)count);
    for (int i = 0; i < fv_model_count(c->in); i++)
        if (strcmp(fv_model_name(c->in, i), full) == 0) c->seen[i] = 1;
    return FV_OK;
}

static fv_status read_values(converter *c, const char *name, int64_t count, float *out)
{
    fv_tensor t;
    FV_TRY(need(c, name, count, &t));
    FV_TRY(fv_convert(c->ctx, t.dtype, t.data, count, FV_F32, out));
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(out[i]))
            return fv_fail(c->ctx, FV_ERR_NUMERIC,
                           "convert: tensor %s%s has a value that is not finite", c->prefix, name);
    return FV_OK;
}

/* ---- Sizes ----------------------------------------------------------------------------------- */

/* A matrix whose size tells about the network. */
static fv_status look(const converter *c, int l, const char *name, fv_tensor *t)
{
    char full[160];
    name_of(c, l, name, full);
    if (!find_named(c->in, c->prefix, full, t))
        return fv_fail(c->ctx, FV_ERR_MODEL, "convert: tensor %s%s is missing", c->prefix, full);
    if (t->ndim != 2 || t->dim[0] < 1 || t->dim[1] < 1 || t->dim[0] > OZ_MAX_VOCAB ||
        t->dim[1] > OZ_MAX_VOCAB)
        return fv_fail(c->ctx, FV_ERR_MODEL, "convert: tensor %s%s is not a matrix of usual size",
                       c->prefix, full);
    return FV_OK;
}

static fv_status read_config(converter *c, oz_config *o)
{
    fv_tensor t;
    memset(o, 0, sizeof *o);
    FV_TRY(look(c, -1, c->is_plain ? "rwkv.wte.weight" : "embedding.weight", &t));
    o->vocab = (int)t.dim[0];
    o->width = (int)t.dim[1];
    FV_TRY(look(c, -1, "lm_head.weight", &t));
    o->outputs = (int)t.dim[0];
    while (o->layers <= OZ_MAX_LAYERS && has(c, o->layers, "attn.time_maa_rg", &t)) o->layers++;
    o->v_moe = has(c, 0, "attn.moa_value.router.router.0.weight", &t);
    o->ffn_moe = has(c, 0, "mlp_moe.router.router.0.weight", &t);
    const char *router = o->v_moe ? "attn.moa_value.router.router" : "mlp_moe.router.router";
    char name[96];
    if (o->v_moe || o->ffn_moe) {
        snprintf(name, sizeof name, "%s.2.weight", router);
        FV_TRY(look(c, 0, name, &t));
        o->experts = (int)t.dim[0];
        o->router_hidden = (int)t.dim[1];
    }
    FV_TRY(look(c, 0, o->ffn_moe ? "mlp_moe.experts.0.c_fc.weight" : "mlp.c_fc.weight", &t));
    o->hidden = (int)t.dim[0];
    return oz_config_check(c->ctx, o);
}

/* ---- Values ---------------------------------------------------------------------------------- */

static float *values_of(const converter *c, fv_pid id)
{
    return fv_params_tensor(c->net.params, id).data;
}

static fv_status take(converter *c, int l, const char *rest, fv_pid id, int64_t at, int64_t count)
{
    char name[160];
    name_of(c, l, rest, name);
    return read_values(c, name, count, values_of(c, id) + at);
}

static fv_status take_all(converter *c, int l, const char *rest, fv_pid id)
{
    const fv_tensor t = fv_params_tensor(c->net.params, id);
    return take(c, l, rest, id, 0, fv_tensor_count(&t));
}

/* [n, n] of `stem`: merged, plain, or with its factors. */
static fv_status take_projection(converter *c, int l, const char *stem, fv_pid id, int64_t expert)
{
    const int64_t n = c->net.cfg.width, k = OZ_HIRA_FACTOR * n, at = expert * n * n;
    char name[128], full[160];
    fv_tensor t;
    snprintf(name, sizeof name, "%s_reparam.weight", stem);
    if (has(c, l, name, &t)) {
        char plain[128];
        snprintf(plain, sizeof plain, "%s_A.weight", stem);
        if (has(c, l, plain, &t)) {
            name_of(c, l, stem, full);
            return fv_fail(c->ctx, FV_ERR_MODEL,
                           "convert: %s%s is there merged and with its factors: which one counts "
                           "is unclear",
                           c->prefix, full);
        }
        return take(c, l, name, id, at, n * n);
    }
    snprintf(name, sizeof name, "%s.weight", stem);
    FV_TRY(take(c, l, name, id, at, n * n));
    snprintf(name, sizeof name, "%s_A.weight", stem);
    const bool has_a = has(c, l, name, &t);
    snprintf(name, sizeof name, "%s_B.weight", stem);
    if (!has_a && !has(c, l, name, &t)) return FV_OK;
    if (c->temp_floats < (size_t)(2 * n * k)) {
        c->temp = fv_calloc(c->ctx, (size_t)(2 * n * k), sizeof *c->temp);
        if (!c->temp) return FV_ERR_OOM;
        c->temp_floats = (size_t)(2 * n * k);
    }
    name_of(c, l, name, full);
    FV_TRY(read_values(c, full, n * k, c->temp));
    snprintf(name, sizeof name, "%s_A.weight", stem);
    name_of(c, l, name, full);
    FV_TRY(read_values(c, full, n * k, c->temp + n * k));
    return oz_add_product(c->ctx, values_of(c, id) + at, c->temp, c->temp + n * k, n, k);
}

static fv_status take_router(converter *c, int l, const char *stem, const oz_router *r)
{
    const struct {
        fv_pid id;
        const char *tail;
    } part[] = {{r->w0, "0.weight"}, {r->b0, "0.bias"}, {r->w2, "2.weight"}, {r->b2, "2.bias"}};
    for (size_t i = 0; i < FV_ARRAY_LEN(part); i++) {
        char name[96];
        snprintf(name, sizeof name, "%s.router.router.%s", stem, part[i].tail);
        FV_TRY(take_all(c, l, name, part[i].id));
    }
    return FV_OK;
}

static fv_status take_attention(converter *c, int l)
{
    const oz_block *b = &c->net.block[l];
    const struct {
        fv_pid id;
        const char *name;
    } vectors[] = {{b->mix, "lambdas"},
                   {b->ln1_w, "ln1.weight"},
                   {b->ln1_b, "ln1.bias"},
                   {b->ln2_w, "ln2.weight"},
                   {b->ln2_b, "ln2.bias"},
                   {b->mix_rg, "attn.time_maa_rg"},
                   {b->mix_k, "attn.time_maa_k"},
                   {b->mix_v, "attn.time_maa_v"},
                   {b->decay, "attn.time_decay"},
                   {b->bonus, "attn.time_faaaa"},
                   {b->rate, "attn.time_aaaaa"},
                   {b->key_rate, "attn.time_misc_a"},
                   {b->key_decay, "attn.time_misc_k"},
                   {b->value_mix, "attn.time_misc_v"},
                   {b->norm_w, "attn.ln_x.weight"},
                   {b->norm_b, "attn.ln_x.bias"},
                   {b->out, "attn.output.weight"}};
    for (size_t i = 0; i < FV_ARRAY_LEN(vectors); i++)
        if (vectors[i].id >= 0) FV_TRY(take_all(c, l, vectors[i].name, vectors[i].id));
    FV_TRY(take_projection(c, l, "attn.receptance", b->r.w, 0));
    FV_TRY(take_projection(c, l, "attn.key", b->k.w, 0));
    if (!c->net.cfg.v_moe) return take_projection(c, l, "attn.value", b->v.w, 0);
    for (int e = 0; e < c->net.cfg.experts; e++) {
        char stem[96];
        snprintf(stem, sizeof stem, "attn.moa_value.experts.%d.value", e);
        FV_TRY(take_projection(c, l, stem, b->v.w, e));
    }
    return take_router(c, l, "attn.moa_value", &b->v_router);
}

static fv_status take_feed_forward(converter *c, int l)
{
    const oz_block *b = &c->net.block[l];
    const int64_t size = (int64_t)c->net.cfg.hidden * c->net.cfg.width;
    if (!c->net.cfg.ffn_moe) {
        FV_TRY(take_all(c, l, "mlp.c_fc.weight", b->up));
        return take_all(c, l, "mlp.c_proj.weight", b->down);
    }
    for (int e = 0; e < c->net.cfg.experts; e++) {
        char name[96];
        snprintf(name, sizeof name, "mlp_moe.experts.%d.c_fc.weight", e);
        FV_TRY(take(c, l, name, b->up, e * size, size));
        snprintf(name, sizeof name, "mlp_moe.experts.%d.c_proj.weight", e);
        FV_TRY(take(c, l, name, b->down, e * size, size));
    }
    return take_router(c, l, "mlp_moe", &b->ffn_router);
}

/* Layers keep the first one's kind; anything else shows as a missing or left-over tensor. */
static fv_status refuse_extra(const converter *c)
{
    const size_t n = strlen(c->prefix);
    for (int i = 0; i < fv_model_count(c->in); i++) {
        const char *name = fv_model_name(c->in, i);
        if (c->seen[i] || strncmp(name, c->prefix, n) != 0 || is_ignored(name + n)) continue;
        if (!*c->prefix && (strncmp(name, "optimizer.", 10) == 0)) continue;
        return fv_fail(c->ctx, FV_ERR_MODEL,
                       "convert: tensor \"%.200s\" does not belong to an OmniZip of this size",
                       name);
    }
    return FV_OK;
}

/* Every value of the network comes from the file: sizes that claim far more are refused before
 * memory is taken for them. A tensor that is missing is better named later. */
static fv_status check_room(const converter *c)
{
    int64_t stored = 0;
    for (int i = 0; i < fv_model_count(c->in); i++) {
        fv_tensor t;
        fv_model_tensor(c->in, i, &t);
        stored += fv_tensor_count(&t);
    }
    if (fv_model_count(c->in) > MAX_TENSORS)
        return fv_fail(c->ctx, FV_ERR_LIMIT, "convert: %d tensors are more than an OmniZip has",
                       fv_model_count(c->in));
    if (fv_params_elements(c->net.params) / 2 <= stored + 65536) return FV_OK;
    return fv_fail(c->ctx, FV_ERR_MODEL,
                   "convert: the file has %lld values, a network of these sizes has %lld: tensors "
                   "are missing",
                   (long long)stored, (long long)fv_params_elements(c->net.params));
}

static fv_status run(converter *c)
{
    oz_config cfg;
    c->prefix = find_prefix(c->in, &c->is_plain);
    if (!c->prefix)
        return fv_fail(c->ctx, FV_ERR_MODEL, "convert: the input is not an OmniZip checkpoint");
    FV_TRY(read_config(c, &cfg));
    c->seen = fv_calloc(c->ctx, (size_t)fv_model_count(c->in) + 1, 1);
    if (!c->seen) return FV_ERR_OOM;
    FV_TRY(oz_net_create(c->ctx, &c->net, &cfg));
    FV_TRY(check_room(c));
    FV_TRY(fv_params_alloc(c->net.params));
    FV_TRY(take_all(c, -1, c->is_plain ? "rwkv.wte.weight" : "embedding.weight", c->net.embed));
    FV_TRY(take_all(c, -1, "rms_norm.weight", c->net.norm));
    FV_TRY(take_all(c, -1, "lm_head.weight", c->net.head));
    for (int l = 0; l < cfg.layers; l++) {
        FV_TRY(fv_report(c->ctx, "converting", (uint64_t)l, (uint64_t)cfg.layers, NULL));
        FV_TRY(take_attention(c, l));
        FV_TRY(take_feed_forward(c, l));
    }
    return refuse_extra(c);
}

fv_status fv_omnizip_convert(fv_ctx *ctx, const fv_model *in, fv_dtype type, const char *out_path,
                             int overwrite)
{
    if (!in || !out_path)
        return fv_fail(ctx, FV_ERR_ARG, "convert: no input model or no output path");
    if (type != FV_F32 && type != FV_BF16 && type != FV_I8)
        return fv_fail(ctx, FV_ERR_DTYPE, "convert: the output type must be f32, bf16 or int8");
    converter c = {.ctx = ctx, .in = in};
    fv_status s = run(&c);
    if (s == FV_OK) {
        oz_meta meta;
        oz_config_meta(&c.net.cfg, &meta);
        meta.item[2 * meta.pairs] = "fovea.source";
        meta.item[2 * meta.pairs + 1] = "official OmniZip checkpoint";
        meta.pairs++;
        s = fv_params_export(ctx, c.net.params, type, meta.item, meta.pairs, out_path, overwrite);
    }
    oz_net_destroy(&c.net);
    fv_free(ctx, c.seen);
    fv_free(ctx, c.temp);
    return s;
}
