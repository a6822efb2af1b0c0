/* op_pointwise_cuda.c - host side of the ops that go through their elements once: cast, act, affine,
 * binary, swiglu, gated residual, forecast. Definitions: op_pointwise.c, op_norm.c. */
#include "cuda_ops.h"

static fv_status map(fvi_exec *e, const fv_tensor *x, const fv_tensor *y, int add,
                     fvk_map_args a)
{
    a.x = fvi_cuda_in(x);
    a.y = fvi_cuda_out(y, add);
    a.n = fv_tensor_count(x);
    return FVI_LAUNCH(e->ctx, map, fvi_cuda_walk(a.n), &a);
}

/* ---- cast, act, affine ----------------------------------------------------------------------- */

static fv_status cast_forward(fvi_exec *e)
{
    return map(e, &e->in[0], &e->out[0], 0, (fvk_map_args){ .what = FVK_COPY });
}

static fv_status cast_backward(fvi_exec *e)
{
    if (!e->gin[0].data) return FV_OK;
    return map(e, &e->gout[0], &e->gin[0], e->gin_add[0], (fvk_map_args){ .what = FVK_COPY });
}
const fvi_op_def fvi_cuda_cast = { .name = "cast", .forward = cast_forward,
                                   .backward = cast_backward };

static fv_status act_forward(fvi_exec *e)
{
    return map(e, &e->in[0], &e->out[0], 0,
               (fvk_map_args){ .what = FVK_ACT, .act = e->attr->i[0] });
}

static fv_status act_backward(fvi_exec *e)
{
    if (!e->gin[0].data) return FV_OK;
    return map(e, &e->in[0], &e->gin[0], e->gin_add[0],
               (fvk_map_args){ .what = FVK_ACT_GRAD, .act = e->attr->i[0],
                               .dy = fvi_cuda_in(&e->gout[0]) });
}
const fvi_op_def fvi_cuda_act = { .name = "act", .bwd_reads_in = 1, .forward = act_forward,
                                  .backward = act_backward };

static fv_status affine_forward(fvi_exec *e)
{
    return map(e, &e->in[0], &e->out[0], 0,
               (fvk_map_args){ .what = FVK_AFFINE, .scale = e->attr->f[0],
                               .shift = e->attr->f[1] });
}

static fv_status affine_backward(fvi_exec *e)
{
    if (!e->gin[0].data) return FV_OK;
    return map(e, &e->gout[0], &e->gin[0], e->gin_add[0],
               (fvk_map_args){ .what = FVK_AFFINE, .scale = e->attr->f[0] });
}
const fvi_op_def fvi_cuda_affine = { .name = "affine", .forward = affine_forward,
                                     .backward = affine_backward };

/* ---- binary ---------------------------------------------------------------------------------- */

enum { SAME, SUFFIX, SAMPLE };

static fvk_binary_args binary_args(const fvi_exec *e, int what)
{
    fvk_binary_args a = { .a = fvi_cuda_in(&e->in[0]), .b = fvi_cuda_in(&e->in[1]),
                          .n = fv_tensor_count(&e->in[0]), .nb = fv_tensor_count(&e->in[1]),
                          .what = what, .op = e->attr->i[0], .broadcast = e->attr->i[1] };
    a.per = a.nb > 0 ? a.n / a.nb : 1;
    if (what != FVK_BINARY) a.dy = fvi_cuda_in(&e->gout[0]);
    return a;
}

static fv_status binary_forward(fvi_exec *e)
{
    fvk_binary_args a = binary_args(e, FVK_BINARY);
    a.y = fvi_cuda_out(&e->out[0], 0);
    return FVI_LAUNCH(e->ctx, binary, fvi_cuda_walk(a.n), &a);
}

static size_t binary_scratch(const fvi_exec *e, bool backward)
{
    if (!backward || e->attr->i[1] != SUFFIX) return 0;
    const int64_t nb = fv_tensor_count(&e->in[1]);
    return nb > 0 ? fvi_cuda_columns_bytes(1, fv_tensor_count(&e->in[0]) / nb, nb, 1) : 0;
}

static fv_status binary_db(fvi_exec *e)
{
    fvk_binary_args a = binary_args(e, FVK_BINARY_DB);
    const fvk_out db = fvi_cuda_out(&e->gin[1], e->gin_add[1]);
    if (a.broadcast == SAMPLE) {
        const fvk_sample_db_args s = { .dy = a.dy, .a = a.a, .b = a.b, .db = db, .per = a.per,
                                       .op = a.op };
        return FVI_LAUNCH(e->ctx, sample_db, a.nb, &s);
    }
    if (a.broadcast == SUFFIX) {
        fvk_columns_args c = { .x = a.dy, .y = a.a, .b = a.b, .groups = 1, .T = a.per, .C = a.nb,
                               .kind = FVK_SUM_BINARY_DB, .op = a.op };
        FV_TRY(fvi_cuda_columns(e->ctx, &c, e->scratch, 1));
        return fvi_cuda_fold(e->ctx, &c, db, 0, 1.0f);
    }
    a.y = db;
    return FVI_LAUNCH(e->ctx, binary, fvi_cuda_walk(a.n), &a);
}

static fv_status binary_backward(fvi_exec *e)
{
    if (e->gin[0].data) {
        fvk_binary_args a = binary_args(e, FVK_BINARY_DA);
        a.y = fvi_cuda_out(&e->gin[0], e->gin_add[0]);
        FV_TRY(FVI_LAUNCH(e->ctx, binary, fvi_cuda_walk(a.n), &a));
    }
    return e->gin[1].data ? binary_db(e) : FV_OK;
}
const fvi_op_def fvi_cuda_binary = {
    .name = "binary", .bwd_reads_in = 3, .scratch_bytes = binary_scratch,
    .forward = binary_forward, .backward = binary_backward
};

/* ---- swiglu ---------------------------------------------------------------------------------- */

static fv_status swiglu_forward(fvi_exec *e)
{
    const fvk_swiglu_args a = { .x = fvi_cuda_in(&e->in[0]), .y = fvi_cuda_out(&e->out[0], 0),
                                .n = fv_tensor_count(&e->out[0]), .H = fvi_last(&e->out[0]) };
    return FVI_LAUNCH(e->ctx, swiglu, fvi_cuda_walk(a.n), &a);
}

static fv_status swiglu_backward(fvi_exec *e)
{
    const fvk_swiglu_args a = { .x = fvi_cuda_in(&e->in[0]), .dy = fvi_cuda_in(&e->gout[0]),
                                .y = fvi_cuda_out(&e->gin[0], e->gin_add[0]),
                                .n = fv_tensor_count(&e->gout[0]), .H = fvi_last(&e->gout[0]) };
    return e->gin[0].data ? FVI_LAUNCH(e->ctx, swiglu, fvi_cuda_walk(a.n), &a) : FV_OK;
}
const fvi_op_def fvi_cuda_swiglu = { .name = "swiglu", .bwd_reads_in = 1,
                                     .forward = swiglu_forward, .backward = swiglu_backward };

/* ---- gate_res, forecast ---------------------------------------------------------------------- */

/* Rows of a sample; gate of the first sample and the distance to the next. */
static void set_gate(const fv_tensor *x, const fv_tensor *mod, int chunk, fvk_blend_args *a)
{
    a->n = fv_tensor_count(x);
    a->C = fvi_last(x);
    const int64_t samples = mod->ndim > 1 ? mod->dim[0] : 1;
    a->T = samples > 0 && a->C > 0 ? a->n / a->C / samples : 1;
    if (!mod->data || chunk < 0) return;
    a->gate = (const float *)mod->data + chunk * a->C;
    a->stride = fvi_last(mod);
}

static fv_status gate_forward(fvi_exec *e)
{
    fvk_blend_args a = { .h = fvi_cuda_in(&e->in[0]), .x = { fvi_cuda_in(&e->in[1]) },
                         .y = fvi_cuda_out(&e->out[0], 0), .count = 1 };
    set_gate(&e->in[0], &e->in[2], e->attr->i[0], &a);
    return FVI_LAUNCH(e->ctx, blend, fvi_cuda_walk(a.n), &a);
}

static size_t gate_scratch(const fvi_exec *e, bool backward)
{
    if (!backward || e->in[2].ndim == 0) return 0;
    fvk_blend_args a = { .count = 1 };
    set_gate(&e->in[0], &e->in[2], -1, &a);
    return fvi_cuda_columns_bytes(a.T > 0 ? a.n / a.C / a.T : 0, a.T, a.C, 1);
}

static fv_status gate_dmod(fvi_exec *e, const fvk_blend_args *a)
{
    const fv_tensor *g = &e->gin[2];
    if (!e->gin_add[2])
        FV_TRY(fvi_cuda_zero(e->ctx, g->data, (size_t)fv_tensor_count(g) * sizeof(float)));
    if (e->attr->i[0] < 0 || a->n == 0) return FV_OK;
    fvk_columns_args c = { .x = fvi_cuda_in(&e->gout[0]), .y = fvi_cuda_in(&e->in[1]),
                           .groups = a->n / a->C / a->T, .T = a->T, .C = a->C,
                           .kind = FVK_SUM_PRODUCT };
    FV_TRY(fvi_cuda_columns(e->ctx, &c, e->scratch, 1));
    const fvk_out to = { (float *)g->data + e->attr->i[0] * a->C, 0, 1 };
    return fvi_cuda_fold(e->ctx, &c, to, fvi_last(g), 1.0f);
}

static fv_status gate_backward(fvi_exec *e)
{
    fvk_blend_args a = { .x = { fvi_cuda_in(&e->gout[0]) },
                         .y = fvi_cuda_out(&e->gin[1], e->gin_add[1]), .count = 1 };
    set_gate(&e->in[0], &e->in[2], e->attr->i[0], &a);
    if (e->gin[0].data && e->gin[0].data != e->gout[0].data)
        FV_TRY(map(e, &e->gout[0], &e->gin[0], e->gin_add[0], (fvk_map_args){ .what = FVK_COPY }));
    if (e->gin[1].data) FV_TRY(FVI_LAUNCH(e->ctx, blend, fvi_cuda_walk(a.n), &a));
    return e->gin[2].data ? gate_dmod(e, &a) : FV_OK;
}
const fvi_op_def fvi_cuda_gate_res = {
    .name = "gate_res", .bwd_reads_in = 2 | 4, .grad_alias = true, .scratch_bytes = gate_scratch,
    .forward = gate_forward, .backward = gate_backward
};

static fv_status forecast_forward(fvi_exec *e)
{
    fvk_blend_args a = { .h = fvi_cuda_in(&e->in[0]), .w = e->in[2].data,
                         .y = fvi_cuda_out(&e->out[0], 0), .count = e->attr->i[1] };
    set_gate(&e->in[0], &e->in[1], e->attr->i[0], &a);
    for (int k = 0; k < a.count; k++) a.x[k] = fvi_cuda_in(&e->in[3 + k]);
    return FVI_LAUNCH(e->ctx, blend, fvi_cuda_walk(a.n), &a);
}
const fvi_op_def fvi_cuda_forecast = { .name = "forecast", .forward = forecast_forward };
