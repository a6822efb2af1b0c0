/* ar_weights.c - the GPT's and the draft head's weights, packed for decode.h.
 *
 * Parameters from a file keep a packed form each (fvi_param_packed): made once, shared by all that
 * open the same fv_params. */
#include "ar_net.h"
#include "tape.h"

#include <string.h>

/* Names a form; pack reads the rest from it. */
typedef struct form_key {
    char name[8]; /* "decode", "table" */
    int32_t type, N, K, threads;
} form_key;

static fv_status pack_form(fv_ctx *ctx, const void *key, const void *values, void *dst)
{
    const form_key *k = key;
    (void)ctx;
    if (k->name[0] == 't') memcpy(dst, values, (size_t)k->N * (size_t)k->K * sizeof(uint16_t));
    else fvi_dec_pack((fv_dtype)k->type, k->N, k->K, values, dst, k->threads);
    return FV_OK;
}

static fv_status own(ar_weights *w, size_t bytes, void **out)
{
    *out = NULL;
    if (w->owned == w->own_room)
        return fv_fail(w->ctx, FV_ERR_INTERNAL, "weights: more blocks than were counted");
    *out = w->own[w->owned] = fv_calloc(w->ctx, 1, bytes);
    if (!*out) return FV_ERR_OOM;
    w->owned++;
    return FV_OK;
}

/* The packed matrix of a parameter [N, K]. */
static fv_status matrix(ar_weights *w, fv_params *p, fv_pid id, fvi_dec_matrix *out)
{
    const fv_tensor t = fv_params_tensor(p, id);
    const int N = (int)t.dim[0], K = (int)t.dim[1], threads = fv_ctx_threads(w->ctx);
    form_key key = { "decode", (int32_t)w->type, N, K, threads };
    fvi_form form = { &key, sizeof key, fvi_dec_pack_bytes(w->type, N, K), FV_F32, pack_form };
    const void *packed = NULL;
    if (!form.packed_bytes)
        return fv_fail(w->ctx, FV_ERR_LIMIT, "model: tensor %s is too large",
                       fv_params_name(p, id));
    if (t.data) {
        void *block;
        FV_TRY(own(w, form.packed_bytes, &block));
        fvi_dec_pack(w->type, N, K, t.data, block, threads);
        packed = block;
    } else {
        FV_TRY(fvi_param_packed(w->ctx, p, id, &form, &packed));
    }
    *out = fvi_dec_view(w->type, N, K, packed);
    w->bytes += form.packed_bytes;
    return FV_OK;
}

static fv_status vector(ar_weights *w, fv_params *p, fv_pid id, const float **out)
{
    const fv_tensor t = fv_params_tensor(p, id);
    w->bytes += (uint64_t)fv_tensor_count(&t) * sizeof(float);
    return fvi_param_f32(w->ctx, p, id, out);
}

static fv_status table(ar_weights *w, fv_params *p, fv_pid id, ar_table *out)
{
    const fv_tensor t = fv_params_tensor(p, id);
    const float *f;
    out->width = (int)t.dim[1];
    out->is_bf16 = w->type != FV_F32 && !t.data;
    if (!out->is_bf16) {
        FV_TRY(vector(w, p, id, &f));
        out->data = f;
        return FV_OK;
    }
    form_key key = { "table", FV_BF16, (int32_t)t.dim[0], out->width, 0 };
    const size_t bytes = (size_t)fv_tensor_count(&t) * sizeof(uint16_t);
    const fvi_form form = { &key, sizeof key, bytes, FV_BF16, pack_form };
    w->bytes += bytes;
    return fvi_param_packed(w->ctx, p, id, &form, &out->data);
}

void ar_table_row(const ar_table *t, int row, float *out)
{
    const size_t at = (size_t)row * (size_t)t->width;
    if (!t->is_bf16) {
        memcpy(out, (const float *)t->data + at, (size_t)t->width * sizeof *out);
        return;
    }
    const uint16_t *h = (const uint16_t *)t->data + at;
    for (int i = 0; i < t->width; i++) out[i] = fv_bf16_to_f32(h[i]);
}

static fv_status layer(ar_weights *w, fv_params *p, const gpt_layer *l, ar_layer *out)
{
    if (l->norm1 >= 0) FV_TRY(vector(w, p, l->norm1, &out->norm1));
    FV_TRY(vector(w, p, l->norm2, &out->norm2));
    FV_TRY(matrix(w, p, l->qkv, &out->qkv));
    FV_TRY(matrix(w, p, l->wo, &out->wo));
    FV_TRY(matrix(w, p, l->w1, &out->w1));
    FV_TRY(matrix(w, p, l->w3, &out->w3));
    return matrix(w, p, l->w2, &out->w2);
}

static fv_status load_draft(ar_weights *w, const draft_net *d)
{
    const float *bias;
    void *block;
    FV_TRY(table(w, d->params, d->embed, &w->draft_tokens));
    FV_TRY(layer(w, d->params, &d->layer, &w->draft));
    FV_TRY(matrix(w, d->params, d->fc_w, &w->fc));
    FV_TRY(vector(w, d->params, d->fc_b, &bias));
    FV_TRY(own(w, fvi_dec_pad(w->cfg.width) * sizeof(float), &block));
    memcpy(block, bias, (size_t)w->cfg.width * sizeof *bias);
    w->fc.bias = block;
    w->has_draft = true;
    return FV_OK;
}

static fv_status load(ar_weights *w, const gpt_net *g, const draft_net *d)
{
    const gpt_config *c = &w->cfg;
    for (int l = 0; l < c->layers; l++) FV_TRY(layer(w, g->params, &g->layer[l], &w->layer[l]));
    FV_TRY(vector(w, g->params, g->norm, &w->norm));
    FV_TRY(matrix(w, g->params, g->head, &w->head));
    FV_TRY(table(w, g->params, g->tokens, &w->tokens));
    if (c->classes) {
        FV_TRY(table(w, g->params, g->classes, &w->classes));
    } else {
        FV_TRY(matrix(w, g->params, g->fc1, &w->fc1));
        FV_TRY(matrix(w, g->params, g->fc2, &w->fc2));
        FV_TRY(table(w, g->params, g->null_caption, &w->null_caption));
    }
    return d ? load_draft(w, d) : FV_OK;
}

static fv_status create(fv_ctx *ctx, ar_weights *w, const gpt_config *c)
{
    const int hd = gpt_head(c), tokens = gpt_tokens(c);
    if (hd > FVI_DEC_MAX_HEAD)
        return fv_fail(ctx, FV_ERR_LIMIT, "model: heads of %d, decoding takes up to %d", hd,
                       FVI_DEC_MAX_HEAD);
    if (w->type == FV_I8 && (c->ffn > 65536 || c->width > 32768))
        return fv_fail(ctx, FV_ERR_LIMIT, "model: rows of %d are too long for int8", c->ffn);
    w->own_room = 5 * c->layers + 16;
    w->own = fv_calloc(ctx, (size_t)w->own_room, sizeof *w->own);
    w->layer = fv_calloc(ctx, (size_t)c->layers, sizeof *w->layer);
    w->rope = fv_calloc(ctx, (size_t)tokens * 2 * (size_t)hd, sizeof *w->rope);
    if (!w->own || !w->layer || !w->rope) return FV_ERR_OOM;
    for (int t = 0; t < tokens; t++)
        fvi_dec_rope_row(w->rope + (size_t)t * 2 * (size_t)hd, t / c->grid, t % c->grid, hd,
                         c->rope_theta);
    return FV_OK;
}

fv_status ar_weights_create(fv_ctx *ctx, ar_weights **out, const gpt_net *gpt,
                            const draft_net *draft, fv_dtype type)
{
    *out = NULL;
    if (type != FV_F32 && type != FV_BF16 && type != FV_I8)
        return fv_fail(ctx, FV_ERR_ARG, "model: weights must be f32, bf16 or int8");
    ar_weights *w = fv_calloc(ctx, 1, sizeof *w);
    if (!w) return FV_ERR_OOM;
    w->ctx = ctx;
    w->cfg = gpt->cfg;
    w->type = type;
    fv_status s = create(ctx, w, &gpt->cfg);
    if (s == FV_OK) s = load(w, gpt, draft);
    if (s != FV_OK) ar_weights_destroy(&w);
    *out = w;
    return s;
}

void ar_weights_destroy(ar_weights **ww)
{
    ar_weights *w = *ww;
    *ww = NULL;
    if (!w) return;
    for (int i = 0; i < w->owned; i++) fv_free(w->ctx, w->own[i]);
    fv_free(w->ctx, w->own);
    fv_free(w->ctx, w->layer);
    fv_free(w->ctx, w->rope);
    fv_free(w->ctx, w);
}
