/* op_linear_cuda.c - host side of LINEAR: y = act(x w^T + b). Products are the device's (cuBLASLt);
 * definition: matmul_dnnl.c.
 *
 * Weights are device copies of a model's or of the masters in training, in the type of x. A plain
 * tensor w (in[1].data, f32) is rounded at each use where x is bf16, into scratch.
 *
 * The product adds the bias, in the type of y, and makes RELU and (bf16) GELU of it; the product of the
 * weights' gradient sums dy for that of the bias. Where the device has no such product, for another
 * activation, and for a bias that is no parameter and y bf16, a pass over y, or over dy, follows. */
#include "op_linear_fp8_cuda.h"

typedef struct linear_state {
    fvk_product *forward, *dx, *dw;
    fvi_fp8 *fp8;        /* in place of forward; NULL: not asked for, or not there */
    const void *weights; /* in the type of x; NULL: in[1] */
    const void *bias;    /* in the type of y; NULL: in[2] */
    int64_t M, N, K;
    bool adds_bias, acts, sums; /* what the products do */
} linear_state;

static bool is_half(const fvi_exec *e) { return e->in[0].dtype == FV_BF16; }

static void linear_release(fv_ctx *ctx, void *state)
{
    linear_state *st = state;
    if (!st) return;
    fvi_fp8_release(ctx, st->fp8);
    fvk_product *const all[] = { st->forward, st->dx, st->dw };
    for (size_t i = 0; i < FV_ARRAY_LEN(all); i++)
        if (all[i]) fvi_cuda_of(ctx)->api->gemm_destroy(fvi_cuda_of(ctx)->dev, all[i]);
    fv_free(ctx, st);
}

static fv_status create(fv_ctx *ctx, const fvk_gemm *g, fvk_product **out)
{
    const fvi_cuda *d = fvi_cuda_of(ctx);
    return fvi_cuda_status(ctx, d->api->gemm_create(d->dev, g, out), "product");
}

/* ---- Prepare --------------------------------------------------------------------------------- */

/* GELU of the library is the one with tanh, for results of 8 bits. */
static int epilogue_of(const fvi_exec *e)
{
    const int act = e->attr->i[0];
    if (act == FV_ACT_RELU) return FVK_THEN_RELU;
    return act == FV_ACT_GELU_TANH && e->out[0].dtype == FV_BF16 ? FVK_THEN_GELU : FVK_THEN_NOTHING;
}

/* With bias and activation, with the bias, with neither: the first that the device has. */
static fv_status prepare_forward(fvi_exec *e, linear_state *st)
{
    const bool has_bias = e->in[2].ndim > 0, is_parameter = e->params && e->pid[2] >= 0;
    const bool half = e->out[0].dtype == FV_BF16;
    fvk_gemm g = { .M = st->M, .N = st->N, .K = st->K, .ab_bf16 = is_half(e), .c_bf16 = half,
                   .b_trans = 1, .bias = has_bias && (!half || is_parameter) };
    g.then = has_bias && !g.bias ? FVK_THEN_NOTHING : epilogue_of(e);
    if (g.then) FV_TRY(fvi_cuda_product(e->ctx, &g, &st->forward));
    if (!st->forward) g.then = FVK_THEN_NOTHING;
    if (!st->forward && g.bias) FV_TRY(fvi_cuda_product(e->ctx, &g, &st->forward));
    if (!st->forward) {
        g.bias = 0;
        FV_TRY(create(e->ctx, &g, &st->forward));
    }
    st->adds_bias = g.bias != 0;
    st->acts = g.then != FVK_THEN_NOTHING;
    if (!st->adds_bias || !is_parameter) return FV_OK;
    return fvi_param_on_device(e->ctx, e->params, e->pid[2], e->out[0].dtype, &st->bias);
}

static fv_status prepare_backward(fvi_exec *e, linear_state *st)
{
    if (e->gin[0].ndim > 0) {
        const fvk_gemm x = { .M = st->M, .N = st->K, .K = st->N, .ab_bf16 = is_half(e),
                             .c_bf16 = is_half(e), .accumulate = e->gin_add[0] };
        FV_TRY(create(e->ctx, &x, &st->dx));
    }
    if (e->gin[1].ndim == 0) return FV_OK;
    fvk_gemm w = { .M = st->N, .N = st->K, .K = st->M, .ab_bf16 = is_half(e), .a_trans = 1,
                   .accumulate = 1, .sums = e->in[2].ndim > 0 && e->gin[2].ndim > 0 };
    if (w.sums) FV_TRY(fvi_cuda_product(e->ctx, &w, &st->dw));
    st->sums = st->dw != NULL;
    if (st->dw) return FV_OK;
    w.sums = 0;
    return create(e->ctx, &w, &st->dw);
}

static fv_status linear_prepare(fvi_exec *e)
{
    linear_state *st = fv_calloc(e->ctx, 1, sizeof *st);
    if (!st) return FV_ERR_OOM;
    e->state = st;
    if (!is_half(e) && e->out[0].dtype == FV_BF16)
        return fv_fail(e->ctx, FV_ERR_UNSUPPORTED, "linear: bf16 of an f32 input; cast it first");
    st->N = e->in[1].dim[0];
    st->K = fv_tensor_count(&e->in[1]) / st->N;
    st->M = fv_tensor_count(&e->in[0]) / st->K;
    if (fvi_fp8_wanted(e)) FV_TRY(fvi_fp8_prepare(e, &st->fp8));
    if (st->fp8) return FV_OK;
    FV_TRY(prepare_forward(e, st));
    FV_TRY(prepare_backward(e, st));
    if (!e->params || e->pid[1] < 0) return FV_OK;
    return fvi_param_on_device(e->ctx, e->params, e->pid[1], e->in[0].dtype, &st->weights);
}

/* ---- Scratch --------------------------------------------------------------------------------- */

static size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

/* Scratch: weights in bf16 | backward: dy in bf16 | sums of columns. */
static size_t weight_bytes(const fvi_exec *e)
{
    const bool has_copy = e->params && e->pid[1] >= 0;
    return is_half(e) && !has_copy ? aligned((size_t)fv_tensor_count(&e->in[1]) * 2) : 0;
}
static size_t dy_bytes(const fvi_exec *e)
{
    return e->in[0].dtype != e->out[0].dtype ? aligned((size_t)fv_tensor_count(&e->out[0]) * 2)
                                             : 0;
}

static size_t linear_scratch(const fvi_exec *e, bool backward)
{
    const int64_t N = e->in[1].dim[0];
    if (!backward && fvi_fp8_wanted(e)) {
        const size_t a = weight_bytes(e), b = fvi_fp8_scratch(e);
        return a > b ? a : b;
    }
    if (!backward) return weight_bytes(e);
    return weight_bytes(e) + dy_bytes(e) +
           fvi_cuda_columns_bytes(1, fv_tensor_count(&e->out[0]) / N, N, 1);
}

static fv_status round_to(fv_ctx *ctx, const void *x, int64_t n, void *bf16)
{
    const fvk_map_args a = { .x = { x, 0 }, .y = { bf16, 1, 0 }, .n = n, .what = FVK_COPY };
    return FVI_LAUNCH(ctx, map, fvi_cuda_walk(n), &a);
}

static fv_status weights_of(fvi_exec *e, const void **w)
{
    const linear_state *st = e->state;
    *w = st->weights ? st->weights : e->in[1].data;
    if (!*w)
        return fv_fail(e->ctx, FV_ERR_STATE, "linear: the weights are not on the device");
    if (st->weights || !is_half(e)) return FV_OK;
    *w = e->scratch;
    return round_to(e->ctx, e->in[1].data, fv_tensor_count(&e->in[1]), e->scratch);
}

/* ---- Passes ---------------------------------------------------------------------------------- */

static fv_status product(fvi_exec *e, fvk_product *g, const void *a, const void *b, const void *bias,
                         void *c)
{
    const fvi_cuda *d = fvi_cuda_of(e->ctx);
    return fvi_cuda_status(e->ctx, d->api->gemm_run(d->dev, g, a, b, bias, c), "product");
}

static fv_status linear_forward(fvi_exec *e)
{
    const linear_state *st = e->state;
    const fvk_in y = fvi_cuda_in(&e->out[0]);
    const fvk_out to = fvi_cuda_out(&e->out[0], 0);
    const int64_t n = st->M * st->N;
    const void *w;
    if (st->fp8) return fvi_fp8_forward(e, st->fp8);
    FV_TRY(weights_of(e, &w));
    FV_TRY(product(e, st->forward, e->in[0].data, w, st->bias ? st->bias : e->in[2].data,
                   e->out[0].data));
    if (e->in[2].ndim > 0 && !st->adds_bias) {
        const fvk_binary_args a = { .a = y, .b = fvi_cuda_in(&e->in[2]), .y = to, .n = n,
                                    .nb = st->N, .per = st->M, .what = FVK_BINARY, .op = FV_ADD,
                                    .broadcast = 1 };
        FV_TRY(FVI_LAUNCH(e->ctx, binary, fvi_cuda_walk(n), &a));
    }
    if (st->acts || e->attr->i[0] == FV_ACT_NONE) return FV_OK;
    const fvk_map_args a = { .x = y, .y = to, .n = n, .what = FVK_ACT, .act = e->attr->i[0] };
    return FVI_LAUNCH(e->ctx, map, fvi_cuda_walk(n), &a);
}

/* Sums of dy over rows, added to the bias's gradient: from the product of the weights' gradient, which
 * has left them in scratch, or by a pass of their own. */
static fv_status bias_gradient(fvi_exec *e, void *scratch, bool is_there)
{
    const linear_state *st = e->state;
    const fvk_out to = fvi_cuda_out(&e->gin[2], 1);
    fvk_columns_args c = { .x = fvi_cuda_in(&e->gout[0]), .groups = 1, .T = st->M, .C = st->N,
                           .kind = FVK_SUM_X };
    if (is_there) {
        const fvk_map_args a = { .x = { scratch, 0 }, .y = to, .n = st->N, .what = FVK_COPY };
        return FVI_LAUNCH(e->ctx, map, fvi_cuda_walk(st->N), &a);
    }
    FV_TRY(fvi_cuda_columns(e->ctx, &c, scratch, 1));
    return fvi_cuda_fold(e->ctx, &c, to, 0, 1.0f);
}

static fv_status linear_backward(fvi_exec *e)
{
    const linear_state *st = e->state;
    const void *dy = e->gout[0].data, *w = NULL;
    uint8_t *scratch = (uint8_t *)e->scratch + weight_bytes(e);
    if (is_half(e) && e->gout[0].dtype == FV_F32) {
        FV_TRY(round_to(e->ctx, dy, st->M * st->N, scratch));
        dy = scratch;
    }
    scratch += dy_bytes(e);
    if (st->dx && e->gin[0].data) {
        FV_TRY(weights_of(e, &w));
        FV_TRY(product(e, st->dx, dy, w, NULL, e->gin[0].data));
    }
    const bool dw = st->dw && e->gin[1].data;
    if (dw) FV_TRY(product(e, st->dw, dy, e->in[0].data, scratch, e->gin[1].data));
    if (e->in[2].ndim == 0 || !e->gin[2].data) return FV_OK;
    return bias_gradient(e, scratch, dw && st->sums);
}

const fvi_op_def fvi_cuda_linear = {
    .name = "linear", .bwd_reads_in = 1, .scratch_bytes = linear_scratch,
    .prepare = linear_prepare, .release = linear_release, .forward = linear_forward,
    .backward = linear_backward
};
