/* op_rows_cuda.c - host side of the ops over rows: mix_rows, unit_qk, l2norm, lerp, mix2, vq.
 * Definitions: op_mix_rows.c, op_unit_qk.c, op_vq.c, op_wkv.c. */
#include "cuda_ops.h"

/* ---- mix_rows -------------------------------------------------------------------------------- */

static fvk_mix_rows_args mix_args(const fvi_exec *e)
{
    const int64_t *x = e->in[0].dim, *i = e->in[1].dim;
    return (fvk_mix_rows_args){ .index = e->in[1].data, .weight = e->in[2].data,
                                .fault = fvi_cuda_fault(e->ctx), .B = x[0], .T = x[1], .R = i[0],
                                .m = i[1], .C = x[2] };
}

static fv_status mix_forward(fvi_exec *e)
{
    fvk_mix_rows_args a = mix_args(e);
    a.x = fvi_cuda_in(&e->in[0]);
    a.y = fvi_cuda_out(&e->out[0], 0);
    return FVI_LAUNCH(e->ctx, mix_rows, fvi_cuda_walk(a.B * a.R * a.C), &a);
}

static fv_status mix_backward(fvi_exec *e)
{
    fvk_mix_rows_args a = mix_args(e);
    const fv_tensor *g = &e->gin[0];
    if (e->gin[2].data)
        return fv_fail(e->ctx, FV_ERR_UNSUPPORTED, "mix_rows: weights have no gradient");
    if (!g->data) return FV_OK;
    if (!e->gin_add[0])
        FV_TRY(fvi_cuda_zero(e->ctx, g->data,
                             (size_t)fv_tensor_count(g) * fv_dtype_size(g->dtype)));
    a.x = fvi_cuda_in(&e->gout[0]);
    a.y = fvi_cuda_out(g, 1);
    return FVI_LAUNCH(e->ctx, mix_rows_dx, fvi_cuda_walk(a.B * a.C), &a);
}
const fvi_op_def fvi_cuda_mix_rows = {
    .name = "mix_rows", .bwd_reads_in = 2 | 4, .forward = mix_forward, .backward = mix_backward
};

/* ---- unit_qk, l2norm ------------------------------------------------------------------------- */

static fv_status unit(fvi_exec *e, const fvk_unit_args *a)
{
    const int64_t each = FVK_THREADS / 32;
    return FVI_LAUNCH(e->ctx, unit, (a->rows + each - 1) / each, a);
}

static fvk_unit_args qk_args(const fvi_exec *e)
{
    const int64_t *d = e->in[0].dim;
    return (fvk_unit_args){ .x = fvi_cuda_in(&e->in[0]), .scale = e->in[1].data,
                            .rows = d[0] * d[1] * 3 * d[3], .h = d[3], .hd = d[4],
                            .eps = e->attr->f[0], .most = e->attr->f[1] };
}

static fv_status qk_forward(fvi_exec *e)
{
    fvk_unit_args a = qk_args(e);
    a.y = fvi_cuda_out(&e->out[0], 0);
    return unit(e, &a);
}

/* What each token and head gives to the scale, then sums of columns. */
static size_t qk_scratch(const fvi_exec *e, bool backward)
{
    const int64_t *d = e->in[0].dim, tokens = d[0] * d[1];
    if (!backward) return 0;
    return (size_t)(tokens * d[3]) * sizeof(float) + fvi_cuda_columns_bytes(1, tokens, d[3], 1);
}

static fv_status qk_backward(fvi_exec *e)
{
    fvk_unit_args a = qk_args(e);
    const int64_t tokens = e->in[0].dim[0] * e->in[0].dim[1];
    a.dy = fvi_cuda_in(&e->gout[0]);
    a.y = fvi_cuda_out(&e->gin[0], e->gin_add[0]);
    a.along = e->scratch;
    FV_TRY(unit(e, &a));
    if (!e->gin[1].data) return FV_OK;
    fvk_columns_args c = { .x = { a.along, 0 }, .groups = 1, .T = tokens, .C = a.h,
                           .kind = FVK_SUM_X };
    FV_TRY(fvi_cuda_columns(e->ctx, &c, a.along + tokens * a.h, 1));
    return fvi_cuda_fold(e->ctx, &c, fvi_cuda_out(&e->gin[1], e->gin_add[1]), 0, 1.0f);
}
const fvi_op_def fvi_cuda_unit_qk = {
    .name = "unit_qk", .bwd_reads_in = 3, .scratch_bytes = qk_scratch, .forward = qk_forward,
    .backward = qk_backward
};

static fvk_unit_args l2norm_args(const fvi_exec *e)
{
    const int64_t D = fvi_last(&e->in[0]);
    return (fvk_unit_args){ .x = fvi_cuda_in(&e->in[0]), .hd = D, .eps = e->attr->f[0],
                            .rows = D > 0 ? fv_tensor_count(&e->in[0]) / D : 0 };
}

static fv_status l2norm_forward(fvi_exec *e)
{
    fvk_unit_args a = l2norm_args(e);
    a.y = fvi_cuda_out(&e->out[0], 0);
    return unit(e, &a);
}

static fv_status l2norm_backward(fvi_exec *e)
{
    fvk_unit_args a = l2norm_args(e);
    a.dy = fvi_cuda_in(&e->gout[0]);
    a.y = fvi_cuda_out(&e->gin[0], e->gin_add[0]);
    return a.y.p ? unit(e, &a) : FV_OK;
}
const fvi_op_def fvi_cuda_l2norm = { .name = "l2norm", .bwd_reads_in = 1,
                                     .forward = l2norm_forward, .backward = l2norm_backward };

/* ---- lerp ------------------------------------------------------------------------------------ */

static fvk_lerp_args lerp_args(const fvi_exec *e, int what)
{
    const fv_tensor *x = &e->in[0];
    return (fvk_lerp_args){ .a = fvi_cuda_in(x), .b = fvi_cuda_in(&e->in[1]),
                            .prev = fvi_cuda_in(&e->in[3]), .mix = e->in[2].data,
                            .n = fv_tensor_count(x), .C = fv_tensor_count(&e->in[2]),
                            .T = x->ndim > 1 ? x->dim[x->ndim - 2] : 1, .what = what };
}

static fv_status lerp_forward(fvi_exec *e)
{
    fvk_lerp_args a = lerp_args(e, FVK_LERP);
    a.y = fvi_cuda_out(&e->out[0], 0);
    return FVI_LAUNCH(e->ctx, lerp, fvi_cuda_walk(a.n), &a);
}

static size_t lerp_scratch(const fvi_exec *e, bool backward)
{
    const int64_t C = fv_tensor_count(&e->in[2]);
    return backward ? fvi_cuda_columns_bytes(1, fv_tensor_count(&e->in[0]) / C, C, 1) : 0;
}

static fv_status lerp_backward(fvi_exec *e)
{
    for (int k = 0; k < 2; k++) {
        fvk_lerp_args a = lerp_args(e, k ? FVK_LERP_DB : FVK_LERP_DA);
        a.dy = fvi_cuda_in(&e->gout[0]);
        a.y = fvi_cuda_out(&e->gin[k], e->gin_add[k]);
        if (a.y.p) FV_TRY(FVI_LAUNCH(e->ctx, lerp, fvi_cuda_walk(a.n), &a));
    }
    if (!e->gin[2].data) return FV_OK;
    const fvk_lerp_args a = lerp_args(e, FVK_LERP);
    fvk_columns_args c = { .x = fvi_cuda_in(&e->gout[0]), .y = a.a, .b = a.b, .prev = a.prev,
                           .steps = a.T, .groups = 1, .T = a.n / a.C, .C = a.C,
                           .kind = FVK_SUM_LERP };
    FV_TRY(fvi_cuda_columns(e->ctx, &c, e->scratch, 1));
    return fvi_cuda_fold(e->ctx, &c, fvi_cuda_out(&e->gin[2], e->gin_add[2]), 0, 1.0f);
}
const fvi_op_def fvi_cuda_lerp = {
    .name = "lerp", .bwd_reads_in = 0x0f, .scratch_bytes = lerp_scratch,
    .forward = lerp_forward, .backward = lerp_backward
};

/* ---- mix2 ------------------------------------------------------------------------------------ */

static fv_status mix2_forward(fvi_exec *e)
{
    const fvk_blend_args a = { .x = { fvi_cuda_in(&e->in[0]), fvi_cuda_in(&e->in[1]) },
                               .w = e->in[2].data, .y = fvi_cuda_out(&e->out[0], 0),
                               .n = fv_tensor_count(&e->in[0]), .count = 2 };
    return FVI_LAUNCH(e->ctx, blend, fvi_cuda_walk(a.n), &a);
}

static size_t mix2_scratch(const fvi_exec *e, bool backward)
{
    return backward ? fvi_cuda_pairs_bytes(1, fv_tensor_count(&e->in[0])) : 0;
}

static fv_status mix2_backward(fvi_exec *e)
{
    const int64_t n = fv_tensor_count(&e->in[0]);
    const fvk_in dy = fvi_cuda_in(&e->gout[0]);
    for (int k = 0; k < 2; k++) {
        const fvk_blend_args a = { .x = { dy }, .w = (const float *)e->in[2].data + k, .n = n,
                                   .y = fvi_cuda_out(&e->gin[k], e->gin_add[k]), .count = 1 };
        if (a.y.p) FV_TRY(FVI_LAUNCH(e->ctx, blend, fvi_cuda_walk(n), &a));
    }
    for (int k = 0; k < 2 && e->gin[2].data; k++) {
        fvk_pairs_args p = { .a = dy, .b = fvi_cuda_in(&e->in[k]), .B = 1, .T = n,
                             .what = FVK_PAIR_PRODUCTS };
        const fvk_out to = { (float *)e->gin[2].data + k, 0, e->gin_add[2] };
        FV_TRY(fvi_cuda_pairs(e->ctx, &p, e->scratch));
        FV_TRY(fvi_cuda_pairs_fold(e->ctx, &p, to, FVK_FOLD_TOTAL, 1.0));
    }
    return FV_OK;
}
const fvi_op_def fvi_cuda_mix2 = {
    .name = "mix2", .bwd_reads_in = 7, .scratch_bytes = mix2_scratch, .forward = mix2_forward,
    .backward = mix2_backward
};

/* ---- vq -------------------------------------------------------------------------------------- */

static fv_status vq_forward(fvi_exec *e)
{
    const int64_t V = e->in[1].dim[0], D = e->in[1].dim[1],
                  n = fv_tensor_count(&e->in[0]) / D;
    const fvk_nearest_args a = { .z = e->in[0].data, .codes = e->in[1].data,
                                 .index = e->out[1].data, .V = V, .D = D };
    const fvk_embed_args rows = { .table = fvi_cuda_in(&e->in[1]), .ids = e->out[1].data,
                                  .y = fvi_cuda_out(&e->out[0], 0),
                                  .fault = fvi_cuda_fault(e->ctx), .n = n, .D = D, .V = V };
    FV_TRY(FVI_LAUNCH(e->ctx, nearest, n, &a));
    return FVI_LAUNCH(e->ctx, embed, fvi_cuda_walk(n * D), &rows);
}

static fv_status vq_backward(fvi_exec *e)
{
    const fv_tensor *codes = &e->gin[1];
    if (codes->data && !e->gin_add[1]) /* nothing comes from here, but it is read */
        FV_TRY(fvi_cuda_zero(e->ctx, codes->data, (size_t)fv_tensor_count(codes) * 4));
    if (!e->gin[0].data) return FV_OK;
    const fvk_map_args a = { .x = fvi_cuda_in(&e->gout[0]),
                             .y = fvi_cuda_out(&e->gin[0], e->gin_add[0]),
                             .n = fv_tensor_count(&e->in[0]), .what = FVK_COPY };
    return FVI_LAUNCH(e->ctx, map, fvi_cuda_walk(a.n), &a);
}
const fvi_op_def fvi_cuda_vq = { .name = "vq", .forward = vq_forward, .backward = vq_backward };
