/* op_sequence_cuda.c - host side of wkv, wkv_head, route, balance, soft_rate, of the distances of
 * features and the loss over a tree. Definitions: op_wkv.c, op_moe.c, op_soft_rate.c,
 * op_feature_loss.c, op_tree.c. */
#include "cuda_ops.h"

/* ---- wkv ------------------------------------------------------------------------------------- */

static fvk_wkv_args wkv_args(const fvi_exec *e)
{
    const int64_t *d = e->in[0].dim;
    return (fvk_wkv_args){ .r = fvi_cuda_in(&e->in[0]), .k = fvi_cuda_in(&e->in[1]),
                           .v = fvi_cuda_in(&e->in[2]), .w = e->in[3].data, .a = e->in[4].data,
                           .f = e->in[5].data, .s0 = e->in[6].data, .s1 = e->out[1].data,
                           .saved = e->out[2].data, .B = d[0], .T = d[1], .C = d[2] };
}

static fv_status wkv_forward(fvi_exec *e)
{
    fvk_wkv_args a = wkv_args(e);
    a.y = fvi_cuda_out(&e->out[0], 0);
    return FVI_LAUNCH(e->ctx, wkv, a.B * (a.C / FVK_WKV), &a);
}

static size_t wkv_scratch(const fvi_exec *e, bool backward)
{
    return backward ? (size_t)(3 * e->in[0].dim[0] * e->in[0].dim[2]) * sizeof(float) : 0;
}

static fv_status wkv_backward(fvi_exec *e)
{
    fvk_wkv_args a = wkv_args(e);
    if (!a.saved)
        return fv_fail(e->ctx, FV_ERR_STATE,
                       "wkv7: backward needs the states of a training forward");
    a.dy = fvi_cuda_in(&e->gout[0]);
    a.dr = fvi_cuda_out(&e->gin[0], e->gin_add[0]);
    a.dk = fvi_cuda_out(&e->gin[1], e->gin_add[1]);
    a.dv = fvi_cuda_out(&e->gin[2], e->gin_add[2]);
    a.part = e->scratch;
    FV_TRY(FVI_LAUNCH(e->ctx, wkv_dx, a.B * (a.C / FVK_WKV), &a));
    for (int k = 0; k < 3; k++) {
        const fvk_columns_args c = { .part = a.part + k * a.B * a.C, .groups = 1,
                                     .segments = a.B, .C = a.C };
        const fvk_out to = fvi_cuda_out(&e->gin[3 + k], e->gin_add[3 + k]);
        if (to.p) FV_TRY(fvi_cuda_fold(e->ctx, &c, to, 0, 1.0f));
    }
    return FV_OK;
}
const fvi_op_def fvi_cuda_wkv = {
    .name = "wkv", .bwd_reads_in = 0x3f, .bwd_reads_out = 4, .scratch_bytes = wkv_scratch,
    .forward = wkv_forward, .backward = wkv_backward
};

/* ---- wkv_head -------------------------------------------------------------------------------- */

static fvk_wkv_head_args head_args(const fvi_exec *e)
{
    return (fvk_wkv_head_args){ .y = fvi_cuda_in(&e->in[0]), .r = fvi_cuda_in(&e->in[1]),
                                .k = fvi_cuda_in(&e->in[2]), .v = fvi_cuda_in(&e->in[3]),
                                .w = e->in[4].data, .b = e->in[5].data, .u = e->in[6].data,
                                .n = fv_tensor_count(&e->in[0]), .C = fvi_last(&e->in[0]),
                                .eps = e->attr->f[0] };
}

static fv_status head_forward(fvi_exec *e)
{
    fvk_wkv_head_args a = head_args(e);
    a.z = fvi_cuda_out(&e->out[0], 0);
    return FVI_LAUNCH(e->ctx, wkv_head, fvi_cuda_walk(a.n / FVK_WKV), &a);
}

/* Three numbers of each head, then sums of columns. */
static size_t stats_bytes(const fvi_exec *e)
{
    const int64_t n = fv_tensor_count(&e->in[0]) / FVK_WKV * 3;
    return ((size_t)n * sizeof(float) + 255) / 256 * 256;
}

static size_t head_scratch(const fvi_exec *e, bool backward)
{
    const int64_t C = fvi_last(&e->in[0]);
    if (!backward) return 0;
    return stats_bytes(e) + fvi_cuda_columns_bytes(1, fv_tensor_count(&e->in[0]) / C, C, 2);
}

static fv_status head_params(fvi_exec *e, const fvk_wkv_head_args *a)
{
    float *behind = (float *)(void *)((uint8_t *)e->scratch + stats_bytes(e));
    fvk_columns_args c = { .x = a->dz, .y = a->y, .stats = a->stats, .groups = 1,
                           .T = a->n / a->C, .C = a->C, .kind = FVK_SUM_HEAD };
    FV_TRY(fvi_cuda_columns(e->ctx, &c, behind, 2));
    for (int k = 4; k < 6; k++) {
        const fvk_out to = fvi_cuda_out(&e->gin[k], e->gin_add[k]);
        if (to.p) FV_TRY(fvi_cuda_fold(e->ctx, &c, to, 0, 1.0f));
        c.part = c.part2;
    }
    if (!e->gin[6].data) return FV_OK;
    c.x = a->r;
    c.y = a->k;
    c.kind = FVK_SUM_HEAD_U;
    FV_TRY(fvi_cuda_columns(e->ctx, &c, behind, 1));
    return fvi_cuda_fold(e->ctx, &c, fvi_cuda_out(&e->gin[6], e->gin_add[6]), 0, 1.0f);
}

static fv_status head_backward(fvi_exec *e)
{
    fvk_wkv_head_args a = head_args(e);
    fvk_out *const to[4] = { &a.dy, &a.dr, &a.dk, &a.dv };
    for (int k = 0; k < 4; k++) *to[k] = fvi_cuda_out(&e->gin[k], e->gin_add[k]);
    a.dz = fvi_cuda_in(&e->gout[0]);
    a.stats = e->scratch;
    FV_TRY(FVI_LAUNCH(e->ctx, wkv_head, fvi_cuda_walk(a.n / FVK_WKV), &a));
    return head_params(e, &a);
}
const fvi_op_def fvi_cuda_wkv_head = {
    .name = "wkv_head", .bwd_reads_in = 0x7f, .scratch_bytes = head_scratch,
    .forward = head_forward, .backward = head_backward
};

/* ---- route, balance -------------------------------------------------------------------------- */

static fv_status route(fvi_exec *e, const fv_tensor *dy, const fv_tensor *y, int add)
{
    const fvk_route_args a = { .x = e->in[0].data, .dy = dy ? dy->data : NULL,
                               .y = fvi_cuda_out(y, add), .R = e->in[0].dim[0],
                               .E = e->in[0].dim[1] };
    return FVI_LAUNCH(e->ctx, route, fvi_cuda_walk(a.R), &a);
}

static fv_status route_forward(fvi_exec *e) { return route(e, NULL, &e->out[0], 0); }

static fv_status route_backward(fvi_exec *e)
{
    return e->gin[0].data ? route(e, &e->gout[0], &e->gin[0], e->gin_add[0]) : FV_OK;
}
const fvi_op_def fvi_cuda_route = { .name = "route", .bwd_reads_in = 1, .forward = route_forward,
                                    .backward = route_backward };

static fvk_balance_args balance_args(const fvi_exec *e)
{
    return (fvk_balance_args){ .clean = e->in[0].data, .noisy = e->in[1].data,
                               .std = e->in[2].data, .gate = e->in[3].data,
                               .saved = e->out[1].data, .R = e->in[0].dim[0],
                               .E = e->in[0].dim[1], .balance = e->attr->f[0],
                               .z = e->attr->f[1] };
}

/* Rows of 2E + 1 numbers, their sums, parts of those. */
static size_t balance_scratch(const fvi_exec *e, bool backward)
{
    const int64_t R = e->in[0].dim[0], W = 2 * e->in[0].dim[1] + 1;
    if (backward) return 0;
    return (size_t)((R + 1) * W) * sizeof(float) + fvi_cuda_columns_bytes(1, R, W, 1);
}

static fv_status balance_forward(fvi_exec *e)
{
    fvk_balance_args a = balance_args(e);
    const int64_t W = 2 * a.E + 1;
    a.row = e->scratch;
    a.sum = a.row + a.R * W;
    a.loss = e->out[0].data;
    fvk_columns_args c = { .x = { a.row, 0 }, .groups = 1, .T = a.R, .C = W, .kind = FVK_SUM_X };
    const fvk_out sums = { a.sum, 0, 0 };
    FV_TRY(FVI_LAUNCH(e->ctx, balance_row, fvi_cuda_walk(a.R), &a));
    FV_TRY(fvi_cuda_columns(e->ctx, &c, a.sum + W, 1));
    FV_TRY(fvi_cuda_fold(e->ctx, &c, sums, 0, 1.0f));
    return FVI_LAUNCH(e->ctx, balance, 1, &a);
}

static fv_status balance_backward(fvi_exec *e)
{
    fvk_balance_args a = balance_args(e);
    a.dy = e->gout[0].data;
    for (int k = 0; k < 4; k++) a.g[k] = fvi_cuda_out(&e->gin[k], e->gin_add[k]);
    return FVI_LAUNCH(e->ctx, balance_dx, fvi_cuda_walk(a.R), &a);
}
const fvi_op_def fvi_cuda_balance = {
    .name = "balance", .bwd_reads_in = 0x0f, .bwd_reads_out = 2,
    .scratch_bytes = balance_scratch, .forward = balance_forward, .backward = balance_backward
};

/* ---- soft_rate ------------------------------------------------------------------------------- */

static fvk_rate_args rate_args(const fvi_exec *e)
{
    return (fvk_rate_args){ .z = e->in[0].data, .e = e->in[1].data, .x = e->in[2].data,
                            .tau = e->in[3].data, .fault = fvi_cuda_fault(e->ctx),
                            .N = e->in[2].dim[0], .V = e->in[2].dim[1], .D = e->in[1].dim[1] };
}

static void rate_release(fv_ctx *ctx, void *state)
{
    if (state) fvi_cuda_of(ctx)->api->gemm_destroy(fvi_cuda_of(ctx)->dev, state);
}

/* de [V, D] = ds [N, V]^T z [N, D] */
static fv_status rate_prepare(fvi_exec *e)
{
    const fvi_cuda *d = fvi_cuda_of(e->ctx);
    const fvk_gemm g = { .M = e->in[2].dim[1], .N = e->in[1].dim[1], .K = e->in[2].dim[0],
                         .a_trans = 1, .accumulate = e->gin_add[1] };
    fvk_product *made = NULL;
    if (e->gin[1].ndim == 0) return FV_OK;
    FV_TRY(fvi_cuda_status(e->ctx, d->api->gemm_create(d->dev, &g, &made), "soft_rate"));
    e->state = made;
    return FV_OK;
}

static size_t rate_scratch(const fvi_exec *e, bool backward)
{
    const size_t N = (size_t)e->in[2].dim[0], V = (size_t)e->in[2].dim[1];
    return backward ? N * V * sizeof(float) : N * sizeof(double);
}

static fv_status rate_forward(fvi_exec *e)
{
    fvk_rate_args a = rate_args(e);
    a.rate = e->scratch;
    FV_TRY(FVI_LAUNCH(e->ctx, rate, a.N, &a));
    const fvk_labels_args mean = { .loss = a.rate, .y = e->out[0].data, .n = a.N,
                                   .scale = 1.0 / 0.69314718055994530942 };
    return FVI_LAUNCH(e->ctx, labels, 1, &mean);
}

static fv_status rate_backward(fvi_exec *e)
{
    const fvi_cuda *d = fvi_cuda_of(e->ctx);
    fvk_rate_args a = rate_args(e);
    if (e->gin[3].data)
        return fv_fail(e->ctx, FV_ERR_UNSUPPORTED, "soft_rate: tau has no gradient");
    a.dy = e->gout[0].data;
    a.ds = e->scratch;
    a.dz = fvi_cuda_out(&e->gin[0], e->gin_add[0]);
    a.dx = fvi_cuda_out(&e->gin[2], e->gin_add[2]);
    FV_TRY(FVI_LAUNCH(e->ctx, rate_dx, a.N, &a));
    if (!e->state || !e->gin[1].data) return FV_OK;
    return fvi_cuda_status(e->ctx, d->api->gemm_run(d->dev, e->state, a.ds, a.z, NULL,
                                                    e->gin[1].data), "soft_rate");
}
const fvi_op_def fvi_cuda_soft_rate = {
    .name = "soft_rate", .bwd_reads_in = 15, .scratch_bytes = rate_scratch,
    .prepare = rate_prepare, .release = rate_release, .forward = rate_forward,
    .backward = rate_backward
};

/* ---- Distances of features ------------------------------------------------------------------- */

static fvk_lpips_args lpips_args(const fvi_exec *e)
{
    const int64_t C = fv_tensor_count(&e->in[2]);
    return (fvk_lpips_args){ .a = e->in[0].data, .b = e->in[1].data, .w = e->in[2].data,
                             .rows = fv_tensor_count(&e->in[0]) / C, .C = C };
}

static int64_t warps_of(int64_t rows)
{
    const int64_t each = FVK_THREADS / 32;
    return (rows + each - 1) / each;
}

static size_t lpips_scratch(const fvi_exec *e, bool backward)
{
    return backward ? 0 : (size_t)lpips_args(e).rows * sizeof(double);
}

static fv_status lpips_forward(fvi_exec *e)
{
    fvk_lpips_args a = lpips_args(e);
    a.loss = e->scratch;
    const fvk_labels_args mean = { .loss = a.loss, .y = e->out[0].data, .n = a.rows, .scale = 1 };
    FV_TRY(FVI_LAUNCH(e->ctx, lpips, warps_of(a.rows), &a));
    return FVI_LAUNCH(e->ctx, labels, 1, &mean);
}

static fv_status lpips_backward(fvi_exec *e)
{
    fvk_lpips_args a = lpips_args(e);
    a.dy = e->gout[0].data;
    a.y = fvi_cuda_out(&e->gin[0], e->gin_add[0]);
    return a.y.p ? FVI_LAUNCH(e->ctx, lpips, warps_of(a.rows), &a) : FV_OK;
}
const fvi_op_def fvi_cuda_loss_lpips = {
    .name = "loss_lpips", .bwd_reads_in = 7, .scratch_bytes = lpips_scratch,
    .forward = lpips_forward, .backward = lpips_backward
};

static fvk_dists_args dists_args(const fvi_exec *e)
{
    const int64_t C = fv_tensor_count(&e->in[2]), B = e->in[0].dim[0];
    return (fvk_dists_args){ .a = e->in[0].data, .b = e->in[1].data, .alpha = e->in[2].data,
                             .beta = e->in[3].data, .m = e->scratch, .B = B,
                             .T = fv_tensor_count(&e->in[0]) / (B * C), .C = C };
}

static size_t dists_scratch(const fvi_exec *e, bool backward)
{
    const fvk_dists_args a = dists_args(e);
    (void)backward;
    return (size_t)(a.B * a.C * 5) * sizeof(double);
}

static fv_status moments(fvi_exec *e, const fvk_dists_args *a)
{
    return FVI_LAUNCH(e->ctx, dists_moments, a->B * ((a->C + FVK_TILE - 1) / FVK_TILE), a);
}

static fv_status dists_forward(fvi_exec *e)
{
    fvk_dists_args a = dists_args(e);
    a.y = fvi_cuda_out(&e->out[0], 0);
    FV_TRY(moments(e, &a));
    return FVI_LAUNCH(e->ctx, dists, 1, &a);
}

static fv_status dists_backward(fvi_exec *e)
{
    fvk_dists_args a = dists_args(e);
    a.dy = e->gout[0].data;
    a.y = fvi_cuda_out(&e->gin[0], e->gin_add[0]);
    if (!a.y.p) return FV_OK;
    FV_TRY(moments(e, &a));
    return FVI_LAUNCH(e->ctx, dists_dx, fvi_cuda_walk(a.B * a.T * a.C), &a);
}
const fvi_op_def fvi_cuda_loss_dists = {
    .name = "loss_dists", .bwd_reads_in = 15, .scratch_bytes = dists_scratch,
    .forward = dists_forward, .backward = dists_backward
};

/* ---- Loss over a tree ------------------------------------------------------------------------ */

static fvk_tree_args tree_args(const fvi_exec *e)
{
    return (fvk_tree_args){ .h = fvi_cuda_in(&e->in[0]), .w = e->in[1].data, .bias = e->in[2].data,
                            .label = e->in[3].data, .paths = e->in[4].data, .err = e->out[1].data,
                            .fault = fvi_cuda_fault(e->ctx), .n = e->in[3].dim[0],
                            .D = e->in[1].dim[1], .V = e->in[1].dim[0], .L = e->in[4].dim[0],
                            .K = e->in[4].dim[1] };
}

/* A loss for each row; in backward the number of labels, then node and slope of each decision. */
static size_t decision_bytes(const fvi_exec *e)
{
    return fvi_cuda_aligned((size_t)(e->in[3].dim[0] * e->in[4].dim[1]) * sizeof(float));
}
static size_t tree_scratch(const fvi_exec *e, bool backward)
{
    return backward ? 256 + 2 * decision_bytes(e) : (size_t)e->in[3].dim[0] * sizeof(double);
}

static fv_status tree_forward(fvi_exec *e)
{
    fvk_tree_args a = tree_args(e);
    a.loss = e->scratch;
    const fvk_labels_args mean = { .loss = a.loss, .label = a.label, .y = e->out[0].data,
                                   .n = a.n, .scale = 1 };
    FV_TRY(FVI_LAUNCH(e->ctx, tree, warps_of(a.n), &a));
    return FVI_LAUNCH(e->ctx, labels, 1, &mean);
}

static fv_status tree_backward(fvi_exec *e)
{
    fvk_tree_args a = tree_args(e);
    const fvk_labels_args count = { .label = a.label, .number = e->scratch, .n = a.n };
    a.number = e->scratch;
    a.node = (int32_t *)(void *)((uint8_t *)e->scratch + 256);
    a.slope = (float *)(void *)((uint8_t *)e->scratch + 256 + decision_bytes(e));
    a.dy = e->gout[0].data;
    FV_TRY(FVI_LAUNCH(e->ctx, labels, 1, &count));
    a.y = fvi_cuda_out(&e->gin[0], e->gin_add[0]);
    if (a.y.p) FV_TRY(FVI_LAUNCH(e->ctx, tree_dh, fvi_cuda_walk(a.n * a.D), &a));
    for (int k = 1; k < 3; k++)
        if (e->gin[k].data && !e->gin_add[k])
            FV_TRY(fvi_cuda_zero(e->ctx, e->gin[k].data,
                                 (size_t)fv_tensor_count(&e->gin[k]) * sizeof(float)));
    const fvk_by_id_args w = { .x = a.h, .by = a.slope, .ids = a.node, .fault = a.fault,
                               .y = fvi_cuda_out(&e->gin[1], 1),
                               .sums = fvi_cuda_out(&e->gin[2], 1), .n = a.n * a.K, .per = a.K,
                               .D = a.D, .V = a.V, .has_none = 1 };
    if (!w.y.p && !w.sums.p) return FV_OK;
    FV_TRY(FVI_LAUNCH(e->ctx, tree_nodes, fvi_cuda_walk(a.n * a.K), &a));
    return FVI_LAUNCH(e->ctx, by_id, a.V, &w);
}
const fvi_op_def fvi_cuda_loss_tree = {
    .name = "loss_tree", .bwd_reads_in = 1 | 2 | 8 | 16, .bwd_reads_out = 2,
    .scratch_bytes = tree_scratch, .forward = tree_forward, .backward = tree_backward
};
