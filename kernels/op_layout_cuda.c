/* op_layout_cuda.c - host side of the ops that move data: timestep, embed, patchify, mean1, slice,
 * concat. Definitions: op_layout.c, op_slice.c. */
#include "cuda_ops.h"

static fv_status timestep_forward(fvi_exec *e)
{
    const int64_t dim = e->out[0].dim[1];
    const fvk_timestep_args a = { .t = fvi_cuda_in(&e->in[0]), .y = fvi_cuda_out(&e->out[0], 0),
                                  .n = fv_tensor_count(&e->out[0]), .dim = dim,
                                  .scale = e->attr->f[0],
                                  .den = e->attr->f[1] != 0.0f ? (double)e->attr->f[1]
                                                               : (double)(dim / 2) };
    return FVI_LAUNCH(e->ctx, timestep, fvi_cuda_walk(a.n), &a);
}
const fvi_op_def fvi_cuda_timestep = { .name = "timestep", .forward = timestep_forward };

/* ---- embed ----------------------------------------------------------------------------------- */

/* Ids are on the device: one outside the table is told with the next copy to the host. */
static fvk_embed_args embed_args(const fvi_exec *e)
{
    const int64_t V = e->in[0].dim[0];
    return (fvk_embed_args){ .ids = e->in[1].data,
                             .fault = fvi_cuda_of(e->ctx)->api->fault(fvi_cuda_of(e->ctx)->dev),
                             .n = fv_tensor_count(&e->in[1]),
                             .D = fv_tensor_count(&e->in[0]) / V, .V = V };
}

static fv_status embed_forward(fvi_exec *e)
{
    fvk_embed_args a = embed_args(e);
    a.table = fvi_cuda_in(&e->in[0]);
    a.y = fvi_cuda_out(&e->out[0], 0);
    return FVI_LAUNCH(e->ctx, embed, fvi_cuda_walk(a.n * a.D), &a);
}

static fv_status embed_backward(fvi_exec *e)
{
    const fvk_embed_args t = embed_args(e);
    const fv_tensor *g = &e->gin[0];
    const fvk_by_id_args a = { .x = fvi_cuda_in(&e->gout[0]), .ids = t.ids, .fault = t.fault,
                               .y = fvi_cuda_out(g, 1), .n = t.n, .per = 1, .D = t.D, .V = t.V };
    if (!g->data) return FV_OK;
    if (!e->gin_add[0])
        FV_TRY(fvi_cuda_zero(e->ctx, g->data,
                             (size_t)fv_tensor_count(g) * fv_dtype_size(g->dtype)));
    return FVI_LAUNCH(e->ctx, by_id, a.V, &a);
}
const fvi_op_def fvi_cuda_embed = { .name = "embed", .bwd_reads_in = 2, .forward = embed_forward,
                                    .backward = embed_backward };

/* ---- patchify -------------------------------------------------------------------------------- */

static fv_status patch_move(fvi_exec *e, const fv_tensor *x, const fv_tensor *y, int add,
                            int to_tokens)
{
    const int32_t *i = e->attr->i;
    const fvk_patch_args a = { .x = fvi_cuda_in(x), .y = fvi_cuda_out(y, add),
                               .n = fv_tensor_count(x), .H = i[3], .W = i[4], .C = i[5],
                               .p = i[0], .channel_first = i[1], .to_tokens = to_tokens };
    return FVI_LAUNCH(e->ctx, patch, fvi_cuda_walk(a.n), &a);
}

static fv_status patch_forward(fvi_exec *e)
{
    return patch_move(e, &e->in[0], &e->out[0], 0, !e->attr->i[2]);
}

static fv_status patch_backward(fvi_exec *e)
{
    if (!e->gin[0].data) return FV_OK;
    return patch_move(e, &e->gout[0], &e->gin[0], e->gin_add[0], e->attr->i[2] != 0);
}
const fvi_op_def fvi_cuda_patchify = { .name = "patchify", .forward = patch_forward,
                                       .backward = patch_backward };

/* ---- mean1 ----------------------------------------------------------------------------------- */

static size_t mean1_scratch(const fvi_exec *e, bool backward)
{
    const int64_t *d = e->in[0].dim;
    return backward ? 0 : fvi_cuda_columns_bytes(d[0], d[1], d[2], 1);
}

static fv_status mean1_forward(fvi_exec *e)
{
    const int64_t *d = e->in[0].dim;
    fvk_columns_args c = { .x = fvi_cuda_in(&e->in[0]), .groups = d[0], .T = d[1], .C = d[2],
                           .kind = FVK_SUM_X };
    FV_TRY(fvi_cuda_columns(e->ctx, &c, e->scratch, 1));
    return fvi_cuda_fold(e->ctx, &c, fvi_cuda_out(&e->out[0], 0), d[2], 1.0f / (float)d[1]);
}

static fv_status mean1_backward(fvi_exec *e)
{
    const int64_t *d = e->in[0].dim;
    const fvk_spread_args a = { .x = fvi_cuda_in(&e->gout[0]),
                                .y = fvi_cuda_out(&e->gin[0], e->gin_add[0]),
                                .n = fv_tensor_count(&e->in[0]), .T = d[1], .C = d[2],
                                .scale = 1.0f / (float)d[1] };
    return e->gin[0].data ? FVI_LAUNCH(e->ctx, spread, fvi_cuda_walk(a.n), &a) : FV_OK;
}
const fvi_op_def fvi_cuda_mean1 = { .name = "mean1", .scratch_bytes = mean1_scratch,
                                    .forward = mean1_forward, .backward = mean1_backward };

/* ---- slice, concat --------------------------------------------------------------------------- */

static fv_status strip(fvi_exec *e, const fvk_strip_args *a)
{
    return FVI_LAUNCH(e->ctx, strip, fvi_cuda_walk(a->rows * a->n), a);
}

static fv_status slice_forward(fvi_exec *e)
{
    const int64_t n = fvi_last(&e->out[0]);
    const fvk_strip_args a = { .x = fvi_cuda_in(&e->in[0]), .y = fvi_cuda_out(&e->out[0], 0),
                               .rows = n > 0 ? fv_tensor_count(&e->out[0]) / n : 0, .n = n,
                               .x_stride = fvi_last(&e->in[0]), .x_at = e->attr->i[0],
                               .y_stride = n };
    if (fv_dtype_size(e->in[0].dtype) != 4 && e->in[0].dtype != FV_BF16)
        return fv_fail(e->ctx, FV_ERR_DTYPE, "slice: %s has no CUDA kernel",
                       fv_dtype_name(e->in[0].dtype));
    return strip(e, &a);
}

static fv_status slice_backward(fvi_exec *e)
{
    const fv_tensor *g = &e->gin[0];
    const int64_t n = fvi_last(&e->gout[0]);
    if (!g->data) return FV_OK;
    if (!e->gin_add[0])
        FV_TRY(fvi_cuda_zero(e->ctx, g->data,
                             (size_t)fv_tensor_count(g) * fv_dtype_size(g->dtype)));
    const fvk_strip_args a = { .x = fvi_cuda_in(&e->gout[0]), .y = fvi_cuda_out(g, 1),
                               .rows = n > 0 ? fv_tensor_count(&e->gout[0]) / n : 0, .n = n,
                               .x_stride = n, .y_stride = fvi_last(g), .y_at = e->attr->i[0] };
    return strip(e, &a);
}
const fvi_op_def fvi_cuda_slice = { .name = "slice", .forward = slice_forward,
                                    .backward = slice_backward };

/* attr i0 times a run of a, then a run of b. */
static fv_status concat_forward(fvi_exec *e)
{
    const int64_t runs = e->attr->i[0], na = fv_tensor_count(&e->in[0]) / runs,
                  nb = fv_tensor_count(&e->in[1]) / runs;
    if (fv_dtype_size(e->out[0].dtype) != 4 && e->out[0].dtype != FV_BF16)
        return fv_fail(e->ctx, FV_ERR_DTYPE, "concat: %s has no CUDA kernel",
                       fv_dtype_name(e->out[0].dtype));
    for (int k = 0; k < 2; k++) {
        const int64_t n = k ? nb : na;
        const fvk_strip_args a = { .x = fvi_cuda_in(&e->in[k]), .y = fvi_cuda_out(&e->out[0], 0),
                                   .rows = runs, .n = n, .x_stride = n, .y_stride = na + nb,
                                   .y_at = k ? na : 0 };
        FV_TRY(strip(e, &a));
    }
    return FV_OK;
}

static fv_status concat_backward(fvi_exec *e)
{
    const int64_t runs = e->attr->i[0], na = fv_tensor_count(&e->in[0]) / runs,
                  nb = fv_tensor_count(&e->in[1]) / runs;
    for (int k = 0; k < 2; k++) {
        const int64_t n = k ? nb : na;
        const fvk_strip_args a = { .x = fvi_cuda_in(&e->gout[0]),
                                   .y = fvi_cuda_out(&e->gin[k], e->gin_add[k]), .rows = runs,
                                   .n = n, .x_stride = na + nb, .x_at = k ? na : 0,
                                   .y_stride = n };
        if (e->gin[k].data) FV_TRY(strip(e, &a));
    }
    return FV_OK;
}
const fvi_op_def fvi_cuda_concat = { .name = "concat", .forward = concat_forward,
                                     .backward = concat_backward };
