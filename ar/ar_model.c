/* ar_model.c - opening a generator: configuration, weights, draft head, tokenizer, class names. */
#include "ar_model.h"

#include <string.h>

#include "class_names.h"
#include "tape.h"

static bool has_tensor(const fv_model *m, const char *prefix, const char *name)
{
    char full[128];
    fv_tensor t;
    snprintf(full, sizeof full, "%s%s", prefix, name);
    if (fv_model_find(m, full, &t)) return true;
    snprintf(full, sizeof full, "%s%s.int8", prefix, name);
    return fv_model_find(m, full, &t);
}

/* The draft's embedding may be left out where it is the target's. */
static fv_status load_draft(fv_ctx *ctx, fv_ar *a)
{
    static const char *const target[] = { "tok_embeddings.weight" };
    FV_TRY(draft_net_create(ctx, &a->draft, &a->cfg.gpt, false));
    if (!has_tensor(a->file, a->cfg.draft_prefix, "embed_tokens.weight"))
        FV_TRY(fvi_params_join(a->draft.params, a->draft.embed, a->file, a->cfg.gpt_prefix, target,
                               1));
    return fv_params_load(a->draft.params, a->file, a->cfg.draft_prefix);
}

static fv_status check_hash(fv_ctx *ctx, const fv_ar *a, const fv_model *tokenizer)
{
    const char *want = fv_model_meta(a->file, "fovea.vq.sha256");
    uint8_t hash[32];
    char hex[65];
    if (!want || tokenizer == a->file) return FV_OK;
    fv_model_hash(tokenizer, hash);
    fv_hex(hash, sizeof hash, hex);
    if (strcmp(hex, want) == 0) return FV_OK;
    return fv_fail(ctx, FV_ERR_MODEL, "tokenizer: not the one that this model was trained with: "
                   "its hash is %.12s..., expected %.12s...", hex, want);
}

static fv_status open_tokenizer(fv_ctx *ctx, fv_ar *a, const fv_ar_options *o)
{
    ar_config c = a->cfg;
    fv_vq_info info;
    if (!o->tokenizer && !a->cfg.has_vq) return FV_OK;
    a->tokenizer = o->tokenizer ? o->tokenizer : a->file;
    if (o->tokenizer) FV_TRY(ar_config_read(ctx, o->tokenizer, &c));
    FV_TRY(check_hash(ctx, a, a->tokenizer));
    FV_TRY(fv_vq_open(ctx, &a->vq, a->tokenizer, o->precision == FV_F32 ? FV_F32 : FV_BF16));
    fv_vq_get_info(a->vq, &info);
    a->factor = info.factor;
    a->code_width = info.code_width;
    a->vq_prefix = c.vq_prefix;
    if (info.codes == a->cfg.gpt.vocab) return FV_OK;
    return fv_fail(ctx, FV_ERR_MODEL, "tokenizer: it has %d codes, this model %d", info.codes,
                   a->cfg.gpt.vocab);
}

static fv_status read_rates(fv_ctx *ctx, fv_ar *a)
{
    const char *text = fv_model_meta(a->file, AR_RATES_KEY);
    if (!a->has_draft || !text) return FV_OK;
    a->has_rates = true;
    return ar_rates_parse(ctx, text, a->rate);
}

static fv_status open_parts(fv_ctx *ctx, fv_ar *a, const fv_ar_options *o)
{
    FV_TRY(ar_config_read(ctx, a->file, &a->cfg));
    if (!a->cfg.has_gpt)
        return fv_fail(ctx, FV_ERR_MODEL, "model: %s is a tokenizer without a generator",
                       a->cfg.name);
    FV_TRY(gpt_net_create(ctx, &a->gpt, &a->cfg.gpt));
    FV_TRY(fv_params_load(a->gpt.params, a->file, a->cfg.gpt_prefix));
    a->has_draft = a->cfg.gpt.has_draft && !o->no_draft;
    if (a->has_draft) FV_TRY(load_draft(ctx, a));
    FV_TRY(ar_weights_create(ctx, &a->weights, &a->gpt, a->has_draft ? &a->draft : NULL,
                             o->precision));
    if (a->cfg.gpt.classes)
        FV_TRY(fv_class_names_read(ctx, a->file, a->cfg.gpt.classes, &a->class_name,
                                   &a->class_text));
    a->kept = fv_calloc(ctx, 1, sizeof *a->kept);
    if (!a->kept) return FV_ERR_OOM;
    FV_TRY(ar_points_read(ctx, a->file, &a->points));
    FV_TRY(read_rates(ctx, a));
    fv_model_hash(a->file, a->hash);
    return open_tokenizer(ctx, a, o);
}

fv_status fv_ar_open(fv_ctx *ctx, fv_ar **out, const fv_model *file, const fv_ar_options *opts)
{
    fv_ar_options o = FV_AR_OPTIONS_INIT;
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "model: no place for the result");
    *out = NULL;
    if (!file) return fv_fail(ctx, FV_ERR_ARG, "model: no file given");
    FV_TRY(FV_TAKE_OPTIONS(ctx, &o, opts, "model"));
    if (o.precision != FV_F32 && o.precision != FV_BF16 && o.precision != FV_I8)
        return fv_fail(ctx, FV_ERR_ARG, "model: precision must be f32, bf16 or int8");
    fv_ar *a = fv_calloc(ctx, 1, sizeof *a);
    if (!a) return FV_ERR_OOM;
    a->ctx = ctx;
    a->file = file;
    const fv_status s = open_parts(ctx, a, &o);
    if (s != FV_OK) fv_ar_close(&a);
    *out = a;
    return s;
}

void fv_ar_close(fv_ar **aa)
{
    if (!aa || !*aa) return;
    fv_ar *a = *aa;
    *aa = NULL;
    fv_vq_close(&a->vq);
    ar_weights_destroy(&a->weights);
    draft_net_destroy(&a->draft);
    gpt_net_destroy(a->ctx, &a->gpt);
    fv_free(a->ctx, a->class_name);
    fv_free(a->ctx, a->class_text);
    fv_free(a->ctx, a->points);
    if (a->kept) ar_neighbours_free(a->ctx, &a->kept->near);
    fv_free(a->ctx, a->kept);
    fv_free(a->ctx, a);
}

void fv_ar_get_info(const fv_ar *a, fv_ar_info *o)
{
    const gpt_config *c = &a->cfg.gpt;
    const double d = c->width, layer = 4 * d * d + 3 * d * c->ffn;
    memset(o, 0, sizeof *o);
    o->name = a->cfg.name;
    o->classes = c->classes;
    o->caption_tokens = c->classes ? 0 : c->cond_tokens;
    o->caption_width = c->caption_width;
    o->layers = c->layers;
    o->heads = c->heads;
    o->width = c->width;
    o->ffn = c->ffn;
    o->codes = c->vocab;
    o->grid = c->grid;
    o->tokens = gpt_tokens(c);
    o->image_size = a->vq ? c->grid * a->factor : 0;
    o->has_draft = a->has_draft;
    o->has_tokenizer = a->vq != NULL;
    o->parameters = fv_params_elements(a->gpt.params);
    if (a->has_draft) o->draft_parameters = fv_params_elements(a->draft.params);
    o->weight_bytes = a->weights->bytes;
    o->token_flop = 2 * (c->layers * layer + d * c->vocab);
    o->cfg = c->cfg;
    o->temperature = c->temperature;
    o->top_k = c->top_k;
    o->top_p = c->top_p;
    memcpy(o->hash, a->hash, sizeof o->hash);
}

const char *fv_ar_class_name(const fv_ar *a, int i)
{
    if (i < 0 || i >= a->cfg.gpt.classes) return NULL;
    return a->class_name ? a->class_name[i] : "";
}

fv_status fv_ar_class_find(fv_ctx *ctx, const fv_ar *a, const char *name, int *out)
{
    if (a->cfg.gpt.classes)
        return fv_class_names_find(ctx, a->class_name, a->cfg.gpt.classes, name, out);
    *out = 0;
    return fv_fail(ctx, FV_ERR_UNKNOWN, "class \"%s\": this model generates from captions", name);
}
