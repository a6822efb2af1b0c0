/* ar_weights.c - the GPT's and the draft head's weights, packed for decode.h.
 *
 * Parameters from a file keep a packed form each (fvi_param_packed): made once, shared by all that
 * open the same fv_params. */
#include "ar_net.h"
#include "backend.h"
#include "tape.h"

#include <string.h>

/* Names a form; pack reads the rest from it. */
typedef struct form_key {
    char name[8]; /* "decode", "device", "table" */
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

static fv_status pack_to_device(fv_ctx *ctx, const void *key, const void *values, void *dst)
{
    const form_key *k = key;
    return fvi_dev_pack(ctx, (fv_dtype)k->type, k->N, k->K, values, dst);
}

/* Memory of the device where the weights are there. */
static fv_status own(ar_weights *w, size_t bytes, void **out)
{
    *out = NULL;
    if (w->owned == w->own_room)
        return fv_fail(w->ctx, FV_ERR_INTERNAL, "weights: more blocks than were counted");
    *out = w->own[w->owned] =
        w->on_device ? fv_dev_alloc(w->ctx, bytes, 1) : fv_calloc(w->ctx, 1, bytes);
    if (!*out) return FV_ERR_OOM;
    w->owned++;
    return FV_OK;
}

/* Values where the weights are. */
static fv_status own_copy(ar_weights *w, const float *values, size_t count, void **out)
{
    const size_t bytes = count * sizeof *values;
    FV_TRY(own(w, bytes, out));
    if (w->on_device) return fv_dev_copy(w->ctx, *out, values, bytes, FV_COPY_TO_DEVICE);
    memcpy(*out, values, bytes);
    return FV_OK;
}

static fv_status pack_own(ar_weights *w, const form_key *key, const fvi_form *form,
                          const void *values, const void **packed)
{
    void *block;
    FV_TRY(own(w, form->packed_bytes, &block));
    *packed = block;
    return form->pack(w->ctx, key, values, block);
}

/* The packed matrix of a parameter [N, K]. */
static fv_status matrix(ar_weights *w, fv_params *p, fv_pid id, fvi_dec_matrix *out)
{
    const fv_tensor t = fv_params_tensor(p, id);
    const int N = (int)t.dim[0], K = (int)t.dim[1], threads = fv_ctx_threads(w->ctx);
    const bool near = w->on_device;
    form_key key = { "decode", (int32_t)w->type, N, K, threads };
    const size_t bytes =
        near ? fvi_dev_pack_bytes(w->type, N, K) : fvi_dec_pack_bytes(w->type, N, K);
    const fvi_form form = { &key, sizeof key, bytes, FV_F32, near ? pack_to_device : pack_form };
    const void *packed = NULL;
    if (near) memcpy(key.name, "device", sizeof "device");
    if (!bytes)
        return fv_fail(w->ctx, FV_ERR_LIMIT, "model: tensor %s is too large",
                       fv_params_name(p, id));
    if (t.data) FV_TRY(pack_own(w, &key, &form, t.data, &packed));
    else
        FV_TRY((near ? fvi_param_packed_on_device : fvi_param_packed)(w->ctx, p, id, &form, &packed));
    *out = near ? fvi_dev_view(w->type, N, K, packed) : fvi_dec_view(w->type, N, K, packed);
    w->bytes += bytes;
    return FV_OK;
}

static fv_status vector(ar_weights *w, fv_params *p, fv_pid id, const float **out)
{
    const fv_tensor t = fv_params_tensor(p, id);
    void *block;
    w->bytes += (uint64_t)fv_tensor_count(&t) * sizeof(float);
    if (!w->on_device || !t.data) return fvi_param_values(w->ctx, p, id, out);
    FV_TRY(own_copy(w, t.data, (size_t)fv_tensor_count(&t), &block));
    *out = block;
    return FV_OK;
}

/* Rows are read on the host. */
static fv_status table(ar_weights *w, fv_params *p, fv_pid id, ar_table *out)
{
    const fv_tensor t = fv_params_tensor(p, id);
    const float *f;
    out->width = (int)t.dim[1];
    out->is_bf16 = w->type != FV_F32 && !t.data;
    if (!out->is_bf16) {
        w->bytes += (uint64_t)fv_tensor_count(&t) * sizeof *f;
        FV_TRY(fvi_param_f32(w->ctx, p, id, &f));
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
    const size_t width = (size_t)w->cfg.width;
    float *padded = fv_calloc(w->ctx, fvi_dec_pad(w->cfg.width), sizeof *padded);
    void *block = NULL;
    fv_status s = padded ? FV_OK : FV_ERR_OOM;
    if (s == FV_OK) s = table(w, d->params, d->embed, &w->draft_tokens);
    if (s == FV_OK) s = layer(w, d->params, &d->layer, &w->draft);
    if (s == FV_OK) s = matrix(w, d->params, d->fc_w, &w->fc);
    if (s == FV_OK) s = fvi_param_f32(w->ctx, d->params, d->fc_b, &bias);
    if (s == FV_OK) {
        w->bytes += width * sizeof *bias;
        memcpy(padded, bias, width * sizeof *bias);
        s = own_copy(w, padded, fvi_dec_pad(w->cfg.width), &block);
    }
    fv_free(w->ctx, padded);
    w->fc.bias = block;
    w->has_draft = s == FV_OK;
    return s;
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
    w->own_room = 7 * c->layers + 24;
    w->own = fv_calloc(ctx, (size_t)w->own_room, sizeof *w->own);
    w->layer = fv_calloc(ctx, (size_t)c->layers, sizeof *w->layer);
    if (!w->own || !w->layer) return FV_ERR_OOM;
    const size_t row = 2 * (size_t)hd;
    float *rope = fv_calloc(ctx, (size_t)tokens, row * sizeof *rope);
    if (!rope) return FV_ERR_OOM;
    for (int t = 0; t < tokens; t++)
        fvi_dec_rope_row(rope + (size_t)t * row, t / c->grid, t % c->grid, hd, c->rope_theta);
    void *block = NULL;
    const fv_status s = own_copy(w, rope, (size_t)tokens * row, &block);
    fv_free(ctx, rope);
    w->rope = block;
    return s;
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
    w->on_device = fv_ctx_device(ctx) != FV_DEVICE_CPU;
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
    for (int i = 0; i < w->owned; i++) {
        if (w->on_device) fv_dev_free(w->ctx, w->own[i]);
        else fv_free(w->ctx, w->own[i]);
    }
    fv_free(w->ctx, w->own);
    fv_free(w->ctx, w->layer);
    fv_free(w->ctx, w);
}
