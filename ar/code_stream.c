/* code_stream.c - pictures of a data set as codes of a tokenizer.
 *
 * Encoding costs a tenth of a training step of the generator, so a picture drawn again in a later
 * epoch takes its codes from memory (2 bytes each). A draw is a function of its number alone: after
 * a resume the codes are made again and are the same. */
#include "code_stream.h"

#include <string.h>

/* ---- The tokenizer --------------------------------------------------------------------------- */

int code_maker_side(const code_maker *m)
{
    return m->grid * vq_factor(&m->cfg.vq);
}

static fv_status build_encode(code_maker *m, fv_dtype precision)
{
    const int side = code_maker_side(m);
    const int64_t image[4] = {m->batch, side, side, 3};
    fv_tape *t;
    fv_t index = 0;
    FV_TRY(fv_tape_create(m->ctx, &t, m->params, FV_INFER, precision));
    const fv_t x = fv_input(t, "x", FV_F32, 4, image);
    (void)vq_quantise(t, &m->net, vq_encode(t, &m->net, x), 0, &index, NULL);
    fv_output(t, "index", index);
    return fv_plan_finish(m->ctx, &m->encode, &t, NULL);
}

static fv_status build_decode(code_maker *m, fv_dtype precision)
{
    const int64_t size[3] = {m->batch, m->grid, m->grid}, n = size[0] * size[1] * size[2];
    fv_tape *t;
    FV_TRY(fv_tape_create(m->ctx, &t, m->params, FV_INFER, precision));
    const fv_t index = fv_input(t, "index", FV_I32, 1, &n);
    fv_output(t, "y", vq_decode(t, &m->net, vq_lookup(t, &m->net, index, size)));
    return fv_plan_finish(m->ctx, &m->decode, &t, NULL);
}

/* A file that was trained with a tokenizer names it; else the file is the tokenizer. */
static void identify(code_maker *m)
{
    const char *known = fv_model_meta(m->file, "fovea.vq.sha256");
    uint8_t hash[32];
    if (known && strlen(known) == 64) {
        memcpy(m->sha256, known, 65);
        return;
    }
    fv_model_hash(m->file, hash);
    fv_hex(hash, sizeof hash, m->sha256);
}

static fv_status open_parts(code_maker *m, fv_dtype precision)
{
    FV_TRY(ar_config_read(m->ctx, m->file, &m->cfg));
    if (!m->cfg.has_vq)
        return fv_fail(m->ctx, FV_ERR_MODEL, "model: this file has no tokenizer");
    const int side = code_maker_side(m);
    FV_TRY(fv_params_create(m->ctx, &m->params));
    vq_net_add(&m->net, m->params, &m->cfg.vq, m->cfg.vq_prefix);
    FV_TRY(fv_params_load(m->params, m->file, ""));
    m->x = fv_calloc(m->ctx, (size_t)m->batch * (size_t)side * (size_t)side * 3, sizeof *m->x);
    if (!m->x) return FV_ERR_OOM;
    identify(m);
    FV_TRY(build_encode(m, precision));
    return build_decode(m, precision);
}

fv_status code_maker_open(fv_ctx *ctx, code_maker *m, const char *path, int grid, int batch,
                          fv_dtype precision)
{
    memset(m, 0, sizeof *m);
    m->ctx = ctx;
    m->grid = grid;
    m->batch = batch;
    FV_TRY(fv_model_open(ctx, &m->file, path, NULL));
    const fv_status s = open_parts(m, precision);
    if (s == FV_OK) return FV_OK;
    code_maker_close(m);
    return fv_fail_in(ctx, s, "%s", path);
}

void code_maker_close(code_maker *m)
{
    fv_plan_destroy(&m->encode);
    fv_plan_destroy(&m->decode);
    fv_params_destroy(&m->params);
    fv_model_close(&m->file);
    if (m->ctx) fv_free(m->ctx, m->x);
    m->x = NULL;
}

fv_status code_maker_encode(code_maker *m, const float *images, const int32_t **codes)
{
    FV_TRY(fv_plan_feed(m->encode, "x", images));
    FV_TRY(fv_plan_forward(m->encode));
    return fv_plan_seen_ids(m->encode, "index", codes);
}

fv_status code_maker_decode(code_maker *m, const int32_t *codes, const float **images)
{
    FV_TRY(fv_plan_feed(m->decode, "index", codes));
    FV_TRY(fv_plan_forward(m->decode));
    return fv_plan_seen(m->decode, "y", images);
}

fv_status code_maker_data(const code_maker *m, fv_recipe *r, const char *data_dir,
                          fv_dataset **data, fv_dataset **held)
{
    const int side = code_maker_side(m);
    const bool split = fv_recipe_bool(r, "split", 1);
    FV_TRY(fv_dataset_from_recipe(m->ctx, data, r, data_dir, side,
                                  split || held ? FV_SPLIT_TRAIN : FV_SPLIT_ALL));
    if (!held) return FV_OK;
    return fv_dataset_from_recipe(m->ctx, held, r, data_dir, side, FV_SPLIT_HELDOUT);
}

fv_status code_maker_export(const code_maker *m, fv_pack *out, fv_meta *meta)
{
    FV_TRY(fv_meta_add(m->ctx, meta, "fovea.vq.sha256", m->sha256));
    return fv_pack_copy(out, m->file, m->cfg.vq_prefix, "vq.");
}

/* ---- The stream ------------------------------------------------------------------------------ */

fv_status code_stream_create(code_stream *s, code_maker *m, fv_dataset *data, int64_t draws,
                             int parts, uint64_t seed)
{
    const int64_t B = (int64_t)m->batch * parts, n = (int64_t)fv_dataset_count(data);
    size_t bytes;
    memset(s, 0, sizeof *s);
    s->ctx = m->ctx;
    s->maker = m;
    s->data = data;
    s->seed = seed;
    s->tokens = m->grid * m->grid;
    s->draws = ((draws ? draws : 4 * n) + B - 1) / B * B;
    if (!fv_mul_size((size_t)s->draws, (size_t)s->tokens * sizeof *s->code, &bytes))
        return fv_fail(m->ctx, FV_ERR_LIMIT, "training: %lld draws are too many",
                       (long long)s->draws);
    s->code = fv_alloc(m->ctx, bytes);
    s->label = fv_calloc(m->ctx, (size_t)s->draws, sizeof *s->label);
    if (s->code && s->label) return FV_OK;
    code_stream_free(s);
    return FV_ERR_OOM;
}

void code_stream_free(code_stream *s)
{
    if (!s->ctx) return;
    fv_free(s->ctx, s->code);
    fv_free(s->ctx, s->label);
    s->code = NULL;
    s->label = NULL;
}

fv_status code_stream_fill(code_stream *s, int64_t until)
{
    const int B = s->maker->batch;
    while (s->ready < until) {
        const int32_t *codes;
        fv_batch b;
        FV_TRY(fv_dataset_batch(s->data, (uint64_t)(s->ready / B), B, &b));
        FV_TRY(code_maker_encode(s->maker, b.images, &codes));
        uint16_t *to = s->code + s->ready * s->tokens;
        for (int64_t i = 0; i < (int64_t)B * s->tokens; i++) to[i] = (uint16_t)codes[i];
        memcpy(s->label + s->ready, b.labels, (size_t)B * sizeof *s->label);
        s->ready += B;
        if (s->ready < until)
            FV_TRY(fv_report(s->ctx, "encoding", (uint64_t)s->ready, (uint64_t)until, NULL));
    }
    return FV_OK;
}

int64_t code_draw_at(uint64_t seed, int64_t n, uint64_t position)
{
    const uint64_t all = (uint64_t)n, epoch = position / all;
    return (int64_t)(epoch ? fv_rand_permute(seed, epoch, all, position % all) : position);
}

static int64_t draw_at(const code_stream *s, uint64_t position)
{
    return code_draw_at(s->seed, s->draws, position);
}

void code_stream_index(const code_stream *s, uint64_t number, int64_t *index)
{
    const int B = s->maker->batch;
    for (int i = 0; i < B; i++) index[i] = draw_at(s, number * (uint64_t)B + (uint64_t)i);
}

fv_status code_stream_batch(code_stream *s, uint64_t number, int32_t *codes, int32_t *labels)
{
    const int B = s->maker->batch;
    const uint64_t first = number * (uint64_t)B;
    /* A batch never crosses an epoch. */
    FV_TRY(code_stream_fill(s, first < (uint64_t)s->draws ? (int64_t)first + B : s->draws));
    for (int i = 0; i < B; i++) {
        const int64_t k = draw_at(s, first + (uint64_t)i);
        const uint16_t *from = s->code + k * s->tokens;
        for (int j = 0; j < s->tokens; j++) codes[i * s->tokens + j] = from[j];
        labels[i] = s->label[k];
    }
    return FV_OK;
}

/* ---- Lists ----------------------------------------------------------------------------------- */

static fv_status encode_list(code_maker *m, fv_dataset *data, code_list *l)
{
    const int side = code_maker_side(m);
    const size_t pixels = (size_t)side * (size_t)side * 3;
    for (int at = 0; at < l->count; at += m->batch) {
        const int n = l->count - at < m->batch ? l->count - at : m->batch;
        const int32_t *codes;
        for (int i = 0; i < n; i++)
            FV_TRY(fv_dataset_get(data, (uint64_t)(at + i), m->x + (size_t)i * pixels,
                                  &l->label[at + i]));
        FV_TRY(code_maker_encode(m, m->x, &codes));
        uint16_t *to = l->code + (size_t)at * (size_t)l->tokens;
        for (int i = 0; i < n * l->tokens; i++) to[i] = (uint16_t)codes[i];
    }
    return FV_OK;
}

fv_status code_list_alloc(fv_ctx *ctx, int count, int tokens, code_list *out)
{
    memset(out, 0, sizeof *out);
    out->count = count;
    out->tokens = tokens;
    out->code = fv_calloc(ctx, (size_t)count * (size_t)tokens, sizeof *out->code);
    out->label = fv_calloc(ctx, (size_t)count, sizeof *out->label);
    if (out->code && out->label) return FV_OK;
    code_list_free(ctx, out);
    return FV_ERR_OOM;
}

fv_status code_list_create(code_maker *m, fv_dataset *data, int most, code_list *out)
{
    const uint64_t have = fv_dataset_count(data);
    FV_TRY(code_list_alloc(m->ctx, have < (uint64_t)most ? (int)have : most, m->grid * m->grid,
                           out));
    const fv_status s = encode_list(m, data, out);
    if (s != FV_OK) code_list_free(m->ctx, out);
    return s;
}

int code_list_batch(const code_list *l, int at, int batch, int32_t *codes, int32_t *labels)
{
    const int n = l->count - at < batch ? l->count - at : batch;
    const size_t N = (size_t)l->tokens, first = (size_t)at * N;
    for (size_t i = 0; i < (size_t)n * N; i++) codes[i] = l->code[first + i];
    memcpy(labels, l->label + at, (size_t)n * sizeof *labels);
    return n;
}

void code_list_free(fv_ctx *ctx, code_list *l)
{
    fv_free(ctx, l->code);
    fv_free(ctx, l->label);
    memset(l, 0, sizeof *l);
}
