/* op_linear_cuda.c - host side of LINEAR: y = act(x w^T + b). Products are the device's (cuBLASLt);
 * definition: matmul_dnnl.c.
 *
 * Weights are device copies of a model's or of the masters in training, in the type of x. A plain
 * tensor w (in[1].data, f32) is rounded at each use where x is bf16, into scratch. The bias is added by
 * the product where y is f32; for bf16, where cuBLASLt wants a bf16 bias, and for activations a pass
 * over y follows. Fusing these is work for when a GPU can show what it gains. */
#include "cuda_ops.h"

typedef struct linear_state {
    fvk_product *forward, *dx, *dw;
    const void *weights; /* in the type of x; NULL: in[1] */
    int64_t M, N, K;
} linear_state;

static bool is_half(const fvi_exec *e) { return e->in[0].dtype == FV_BF16; }
/* Does the product add the bias? */
static bool adds_bias(const fvi_exec *e) { return e->in[2].ndim > 0 && e->out[0].dtype == FV_F32; }

static void linear_release(fv_ctx *ctx, void *state)
{
    linear_state *st = state;
    if (!st) return;
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
    const fvk_gemm f = { .M = st->M, .N = st->N, .K = st->K, .ab_bf16 = is_half(e),
                         .c_bf16 = e->out[0].dtype == FV_BF16, .b_trans = 1,
                         .bias = adds_bias(e) };
    FV_TRY(create(e->ctx, &f, &st->forward));
    if (e->gin[0].ndim > 0) {
        const fvk_gemm x = { .M = st->M, .N = st->K, .K = st->N, .ab_bf16 = is_half(e),
                             .c_bf16 = is_half(e), .accumulate = e->gin_add[0] };
        FV_TRY(create(e->ctx, &x, &st->dx));
    }
    if (e->gin[1].ndim > 0) {
        const fvk_gemm w = { .M = st->N, .N = st->K, .K = st->M, .ab_bf16 = is_half(e),
                             .a_trans = 1, .accumulate = 1 };
        FV_TRY(create(e->ctx, &w, &st->dw));
    }
    if (!e->params || e->pid[1] < 0) return FV_OK;
    return fvi_param_on_device(e->ctx, e->params, e->pid[1], e->in[0].dtype, &st->weights);
}

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

static fv_status product(fvi_exec *e, fvk_product *g, const void *a, const void *b, void *c)
{
    const fvi_cuda *d = fvi_cuda_of(e->ctx);
    const float *bias = g == ((linear_state *)e->state)->forward ? e->in[2].data : NULL;
    return fvi_cuda_status(e->ctx, d->api->gemm_run(d->dev, g, a, b, bias, c), "product");
}

static fv_status linear_forward(fvi_exec *e)
{
    const linear_state *st = e->state;
    const fvk_in y = fvi_cuda_in(&e->out[0]);
    const fvk_out to = fvi_cuda_out(&e->out[0], 0);
    const int64_t n = st->M * st->N;
    const void *w;
    FV_TRY(weights_of(e, &w));
    FV_TRY(product(e, st->forward, e->in[0].data, w, e->out[0].data));
    if (e->in[2].ndim > 0 && !adds_bias(e)) {
        const fvk_binary_args a = { .a = y, .b = fvi_cuda_in(&e->in[2]), .y = to, .n = n,
                                    .nb = st->N, .per = st->M, .what = FVK_BINARY, .op = FV_ADD,
                                    .broadcast = 1 };
        FV_TRY(FVI_LAUNCH(e->ctx, binary, fvi_cuda_walk(n), &a));
    }
    if (e->attr->i[0] == FV_ACT_NONE) return FV_OK;
    const fvk_map_args a = { .x = y, .y = to, .n = n, .what = FVK_ACT, .act = e->attr->i[0] };
    return FVI_LAUNCH(e->ctx, map, fvi_cuda_walk(n), &a);
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
        FV_TRY(product(e, st->dx, dy, w, e->gin[0].data));
    }
    if (st->dw && e->gin[1].data) FV_TRY(product(e, st->dw, dy, e->in[0].data, e->gin[1].data));
    if (e->in[2].ndim == 0 || !e->gin[2].data) return FV_OK;
    fvk_columns_args c = { .x = fvi_cuda_in(&e->gout[0]), .groups = 1, .T = st->M, .C = st->N,
                           .kind = FVK_SUM_X };
    FV_TRY(fvi_cuda_columns(e->ctx, &c, scratch, 1));
    return fvi_cuda_fold(e->ctx, &c, fvi_cuda_out(&e->gin[2], 1), 0, 1.0f);
}

const fvi_op_def fvi_cuda_linear = {
    .name = "linear", .bwd_reads_in = 1, .scratch_bytes = linear_scratch,
    .prepare = linear_prepare, .release = linear_release, .forward = linear_forward,
    .backward = linear_backward
};
