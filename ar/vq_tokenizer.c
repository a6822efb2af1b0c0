/* vq_tokenizer.c - pictures to codes and back, for models that are done learning.
 *
 * Pictures run one at a time: memory does not grow with their number, and what a picture gives does
 * not depend on its company. The plans of the last size (encoder and decoder apart) stay with the
 * context that opened the tokenizer, with their memory (on a device also what they read and write); a
 * call with another context builds its own, so that threads share nothing but the weights, whose
 * packing is locked. */
#include "vq.h"

#include "device_graph.h"
#include "fovea_ar.h"

#define MAX_SIDE 16384

typedef struct kept_plan {
    fv_plan *plan;
    int rows, columns; /* of codes */
    void *in, *out;    /* on a device: of one picture */
} kept_plan;

struct fv_vq {
    fv_ctx *ctx;
    fv_params *params;
    vq_net net;
    ar_config cfg;
    fv_dtype precision;
    kept_plan encoder, decoder;
};

/* ---- Plans ----------------------------------------------------------------------------------- */

/* One picture: x [1, f*rows, f*columns, 3] -> index. */
static void record_encoder(fv_tape *t, const fv_vq *v, int rows, int columns)
{
    const int f = vq_factor(&v->cfg.vq);
    const int64_t dim[4] = { 1, (int64_t)f * rows, (int64_t)f * columns, 3 };
    fv_t index = 0;
    const fv_t z = vq_encode(t, &v->net, fv_input(t, "x", FV_F32, 4, dim));
    (void)vq_quantise(t, &v->net, z, 0, &index, NULL);
    fv_output(t, "y", index);
}

/* x: codes [rows * columns] -> picture. */
static void record_decoder(fv_tape *t, const fv_vq *v, int rows, int columns)
{
    const int64_t n = (int64_t)rows * columns, size[3] = { 1, rows, columns };
    const fv_t index = fv_input(t, "x", FV_I32, 1, &n);
    fv_output(t, "y", vq_decode(t, &v->net, vq_lookup(t, &v->net, index, size)));
}

static fv_status make_plan(fv_ctx *ctx, const fv_vq *v, bool encode, int rows, int columns,
                           fv_plan **out)
{
    fv_tape *t;
    FV_TRY(fv_tape_create(ctx, &t, v->params, FV_INFER, v->precision));
    (encode ? record_encoder : record_decoder)(t, v, rows, columns);
    const fv_status s = fv_plan_finish(ctx, out, &t, NULL);
    if (s == FV_OK) fvi_plan_record(*out);
    return s == FV_OK ? s : fv_fail_in(ctx, s, "tokenizer");
}

static void drop_plan(fv_ctx *ctx, kept_plan *k)
{
    fv_plan_destroy(&k->plan);
    fv_dev_free(ctx, k->in);
    fv_dev_free(ctx, k->out);
    k->in = k->out = NULL;
}

static fv_status find_plan(fv_ctx *ctx, const fv_vq *v, kept_plan *k, bool encode,
                           const int size[2])
{
    const size_t codes = (size_t)size[0] * (size_t)size[1], f = (size_t)vq_factor(&v->cfg.vq);
    const size_t bytes[2] = { codes * sizeof(int32_t), codes * f * f * 3 * sizeof(float) };
    if (k->plan && k->rows == size[0] && k->columns == size[1]) return FV_OK;
    drop_plan(ctx, k);
    FV_TRY(make_plan(ctx, v, encode, size[0], size[1], &k->plan));
    k->rows = size[0];
    k->columns = size[1];
    if (fv_ctx_device(ctx) == FV_DEVICE_CPU) return FV_OK;
    k->in = fv_dev_alloc(ctx, bytes[encode], 1);
    k->out = k->in ? fv_dev_alloc(ctx, bytes[!encode], 1) : NULL;
    if (k->out) return FV_OK;
    drop_plan(ctx, k);
    return FV_ERR_OOM;
}

/* ---- Open and close -------------------------------------------------------------------------- */

/* Do the layers fit together? The smallest picture on a tape, both ways: nothing is computed. */
static fv_status check_shapes(fv_ctx *ctx, const fv_vq *v)
{
    for (int encode = 0; encode < 2; encode++) {
        fv_tape *t;
        FV_TRY(fv_tape_create(ctx, &t, v->params, FV_INFER, v->precision));
        (encode ? record_encoder : record_decoder)(t, v, 1, 1);
        const fv_status s = fv_tape_status(t);
        fv_tape_destroy(&t);
        if (s == FV_ERR_OOM) return s;
        if (s != FV_OK)
            return fv_fail_in(ctx, FV_ERR_MODEL, "the tokenizer's layers do not fit together");
    }
    return FV_OK;
}

fv_status fv_vq_open(fv_ctx *ctx, fv_vq **out, const fv_model *file, fv_dtype precision)
{
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "tokenizer: no place for the result");
    *out = NULL;
    if (!file || (precision != FV_F32 && precision != FV_BF16))
        return fv_fail(ctx, FV_ERR_ARG, "tokenizer: a file, and f32 or bf16 precision are needed");
    fv_vq *v = fv_calloc(ctx, 1, sizeof *v);
    if (!v) return FV_ERR_OOM;
    fv_status s = FV_OK;
    v->ctx = ctx;
    v->precision = precision;
    FV_TRY_GOTO(ar_config_read(ctx, file, &v->cfg));
    if (!v->cfg.has_vq)
        FV_TRY_GOTO(fv_fail(ctx, FV_ERR_MODEL, "tokenizer: the file holds a generator without "
                            "one: give a tokenizer's file"));
    FV_TRY_GOTO(fv_params_create(ctx, &v->params));
    vq_net_add(&v->net, v->params, &v->cfg.vq, "");
    FV_TRY_GOTO(fv_params_load(v->params, file, v->cfg.vq_prefix));
    FV_TRY_GOTO(check_shapes(ctx, v));
    *out = v;
    return FV_OK;
fail:
    fv_vq_close(&v);
    return s;
}

void fv_vq_close(fv_vq **vv)
{
    if (!vv || !*vv) return;
    fv_vq *v = *vv;
    *vv = NULL;
    drop_plan(v->ctx, &v->encoder);
    drop_plan(v->ctx, &v->decoder);
    fv_params_destroy(&v->params);
    fv_free(v->ctx, v);
}

void fv_vq_get_info(const fv_vq *v, fv_vq_info *out)
{
    const vq_config *c = &v->cfg.vq;
    *out = (fv_vq_info){ .name = v->cfg.name,
                         .factor = vq_factor(c),
                         .codes = c->codes,
                         .code_width = c->code_width,
                         .parameters = fv_params_elements(v->params) };
}

/* ---- Run ------------------------------------------------------------------------------------- */

typedef struct job {
    const char *stage;
    const uint8_t *in;
    uint8_t *out;
    size_t in_bytes, out_bytes; /* of one picture */
    int count;
} job;

static fv_status run_one(fv_ctx *ctx, const kept_plan *k, const job *j, int b)
{
    void *in = (void *)(uintptr_t)(j->in + (size_t)b * j->in_bytes);
    void *out = j->out + (size_t)b * j->out_bytes;
    if (k->in) FV_TRY(fv_dev_copy(ctx, k->in, in, j->in_bytes, FV_COPY_TO_DEVICE));
    FV_TRY(fv_plan_bind(k->plan, "x", k->in ? k->in : in));
    FV_TRY(fv_plan_bind(k->plan, "y", k->out ? k->out : out));
    FV_TRY(fv_plan_forward(k->plan));
    return k->out ? fv_dev_copy(ctx, out, k->out, j->out_bytes, FV_COPY_TO_HOST) : FV_OK;
}

static fv_status run(fv_ctx *ctx, fv_vq *v, bool encode, const int size[2], const job *j)
{
    kept_plan own = { 0 }, *k = ctx != v->ctx ? &own : encode ? &v->encoder : &v->decoder;
    fv_status s = find_plan(ctx, v, k, encode, size);
    for (int b = 0; b < j->count && s == FV_OK; b++) {
        s = run_one(ctx, k, j, b);
        if (s == FV_OK) s = fv_report(ctx, j->stage, (uint64_t)b + 1, (uint64_t)j->count, NULL);
    }
    drop_plan(ctx, &own);
    return s;
}

fv_status fv_vq_encode(fv_ctx *ctx, fv_vq *v, const float *rgb, int B, int height, int width,
                       int32_t *codes)
{
    if (!v || !rgb || !codes || B < 1 || height < 1 || width < 1 || height > MAX_SIDE ||
        width > MAX_SIDE)
        return fv_fail(ctx, FV_ERR_ARG, "tokenizer: %d pictures of %d x %d (sides 1 to %d)", B,
                       width, height, MAX_SIDE);
    const int f = vq_factor(&v->cfg.vq), size[2] = { height / f, width / f };
    if (height % f || width % f)
        return fv_fail(ctx, FV_ERR_SHAPE, "tokenizer: %d x %d pixels are not multiples of %d",
                       width, height, f);
    const size_t n = (size_t)size[0] * (size_t)size[1];
    const job j = { .stage = "encoding", .in = (const uint8_t *)rgb, .out = (uint8_t *)codes,
                    .in_bytes = (size_t)height * (size_t)width * 3 * sizeof *rgb,
                    .out_bytes = n * sizeof *codes, .count = B };
    return run(ctx, v, true, size, &j);
}

/* Before any picture is written. */
static fv_status check_codes(fv_ctx *ctx, const fv_vq *v, const int32_t *codes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (codes[i] < 0 || codes[i] >= v->cfg.vq.codes)
            return fv_fail(ctx, FV_ERR_ARG, "tokenizer: code %d at position %zu, there are %d",
                           (int)codes[i], i, v->cfg.vq.codes);
    return FV_OK;
}

fv_status fv_vq_decode(fv_ctx *ctx, fv_vq *v, const int32_t *codes, int B, int rows, int columns,
                       float *rgb)
{
    const int f = v ? vq_factor(&v->cfg.vq) : 1;
    if (!v || !codes || !rgb || B < 1 || rows < 1 || columns < 1 || rows > MAX_SIDE / f ||
        columns > MAX_SIDE / f)
        return fv_fail(ctx, FV_ERR_ARG, "tokenizer: %d grids of %d x %d codes (sides 1 to %d)", B,
                       columns, rows, MAX_SIDE / f);
    const int size[2] = { rows, columns };
    const size_t n = (size_t)rows * (size_t)columns;
    FV_TRY(check_codes(ctx, v, codes, (size_t)B * n));
    const job j = { .stage = "decoding", .in = (const uint8_t *)codes, .out = (uint8_t *)rgb,
                    .in_bytes = n * sizeof *codes,
                    .out_bytes = n * (size_t)f * (size_t)f * 3 * sizeof *rgb, .count = B };
    return run(ctx, v, false, size, &j);
}
