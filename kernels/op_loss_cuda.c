/* op_loss_cuda.c - host side of the losses: squared, smooth and absolute differences, cross-entropy,
 * masked features, codes. Definitions: op_loss.c, op_masked_mse.c, op_vq.c. */
#include "cuda_ops.h"

/* ---- Sums over pairs ------------------------------------------------------------------------- */

#define SEGMENT 8192 /* elements: 32 a thread */
#define SEGMENTS_MOST 256

static int64_t segments_of(int64_t T)
{
    const int64_t n = (T + SEGMENT - 1) / SEGMENT;
    return n < 1 ? 1 : n < SEGMENTS_MOST ? n : SEGMENTS_MOST;
}

size_t fvi_cuda_pairs_bytes(int64_t B, int64_t T)
{
    return (size_t)(2 * B * segments_of(T)) * sizeof(double);
}

fv_status fvi_cuda_pairs(fv_ctx *ctx, fvk_pairs_args *a, void *scratch)
{
    a->segments = segments_of(a->T);
    a->part = scratch;
    a->fault = fvi_cuda_fault(ctx);
    return FVI_LAUNCH(ctx, pairs, a->B * a->segments, a);
}

static fv_status fold(fv_ctx *ctx, fvk_pairs_fold_args *f, const fvk_pairs_args *a)
{
    f->part = a->part;
    f->w = a->w;
    f->dy = a->dy;
    f->fault = fvi_cuda_fault(ctx);
    f->B = a->B;
    f->segments = a->segments;
    return FVI_LAUNCH(ctx, pairs_fold, f->what == FVK_FOLD_TOTAL ? 1 : fvi_cuda_walk(a->B), f);
}

fv_status fvi_cuda_pairs_fold(fv_ctx *ctx, const fvk_pairs_args *a, fvk_out y, int what,
                              double scale)
{
    fvk_pairs_fold_args f = { .y = y, .scale = scale, .what = what };
    return fold(ctx, &f, a);
}

/* Gradient scale times slope to input k of an op on a and b. */
static fv_status slopes(fvi_exec *e, const fvk_pairs_args *p, int k, double scale)
{
    fvk_pairs_args a = *p;
    a.y = fvi_cuda_out(&e->gin[k], e->gin_add[k]);
    a.dy = e->gout[0].data;
    a.scale = k ? -scale : scale;
    a.fault = fvi_cuda_fault(e->ctx);
    return a.y.p ? FVI_LAUNCH(e->ctx, pairs_dx, fvi_cuda_walk(a.B * a.T), &a) : FV_OK;
}

/* ---- Squared and smooth differences ---------------------------------------------------------- */

/* Samples are the first dimension of a; a vector without weights is one sample. */
static fvk_pairs_args mse_args(const fvi_exec *e)
{
    const fv_tensor *a = &e->in[0];
    fvk_pairs_args p = { .a = fvi_cuda_in(a), .b = fvi_cuda_in(&e->in[1]), .w = e->in[2].data,
                         .what = e->attr->i[0] ? FVK_PAIR_HUBER : FVK_PAIR_SQUARES };
    p.B = a->ndim > 1 || e->in[2].ndim > 0 ? a->dim[0] : 1;
    p.T = p.B > 0 ? fv_tensor_count(a) / p.B : 0;
    return p;
}

static size_t mse_scratch(const fvi_exec *e, bool backward)
{
    const fvk_pairs_args p = mse_args(e);
    (void)backward; /* backward needs the sums only for the gradient of the weights */
    return fvi_cuda_pairs_bytes(p.B, p.T);
}

static fv_status mse_forward(fvi_exec *e)
{
    fvk_pairs_args p = mse_args(e);
    FV_TRY(fvi_cuda_pairs(e->ctx, &p, e->scratch));
    return fvi_cuda_pairs_fold(e->ctx, &p, fvi_cuda_out(&e->out[0], 0), FVK_FOLD_TOTAL,
                               1.0 / ((double)p.B * (double)p.T));
}

static fv_status mse_backward(fvi_exec *e)
{
    fvk_pairs_args p = mse_args(e);
    const double scale = 1.0 / ((double)p.B * (double)p.T);
    for (int k = 0; k < 2; k++) FV_TRY(slopes(e, &p, k, e->attr->i[0] ? scale : 2 * scale));
    if (!e->gin[2].data) return FV_OK;
    FV_TRY(fvi_cuda_pairs(e->ctx, &p, e->scratch));
    p.dy = e->gout[0].data;
    return fvi_cuda_pairs_fold(e->ctx, &p, fvi_cuda_out(&e->gin[2], e->gin_add[2]), FVK_FOLD_EACH,
                               scale);
}
const fvi_op_def fvi_cuda_loss_mse = {
    .name = "loss_mse", .bwd_reads_in = 1 | 2 | 4, .scratch_bytes = mse_scratch,
    .forward = mse_forward, .backward = mse_backward
};

/* ---- Absolute differences -------------------------------------------------------------------- */

static fvk_pairs_args l1_args(const fvi_exec *e)
{
    return (fvk_pairs_args){ .a = fvi_cuda_in(&e->in[0]), .b = fvi_cuda_in(&e->in[1]), .B = 1,
                             .T = fv_tensor_count(&e->in[0]), .what = FVK_PAIR_ABS };
}

static size_t l1_scratch(const fvi_exec *e, bool backward)
{
    return backward ? 0 : fvi_cuda_pairs_bytes(1, fv_tensor_count(&e->in[0]));
}

static fv_status l1_forward(fvi_exec *e)
{
    fvk_pairs_args p = l1_args(e);
    FV_TRY(fvi_cuda_pairs(e->ctx, &p, e->scratch));
    return fvi_cuda_pairs_fold(e->ctx, &p, fvi_cuda_out(&e->out[0], 0), FVK_FOLD_TOTAL,
                               1.0 / (double)p.T);
}

static fv_status l1_backward(fvi_exec *e)
{
    const fvk_pairs_args p = l1_args(e);
    for (int k = 0; k < 2; k++) FV_TRY(slopes(e, &p, k, 1.0 / (double)p.T));
    return FV_OK;
}
const fvi_op_def fvi_cuda_loss_l1 = {
    .name = "loss_l1", .bwd_reads_in = 3, .scratch_bytes = l1_scratch, .forward = l1_forward,
    .backward = l1_backward
};

/* ---- Masked features ------------------------------------------------------------------------- */

static fvk_pairs_args masked_args(const fvi_exec *e)
{
    const fv_tensor *a = &e->in[0];
    return (fvk_pairs_args){ .a = fvi_cuda_in(a), .b = fvi_cuda_in(&e->in[1]), .B = a->dim[0],
                             .T = fv_tensor_count(a) / a->dim[0], .what = FVK_PAIR_KEPT,
                             .keep = e->out[1].data };
}

/* Sums of segments, then the bounds if nobody keeps them. */
static size_t masked_scratch(const fvi_exec *e, bool backward)
{
    const fvk_pairs_args p = masked_args(e);
    return backward ? 0 : fvi_cuda_pairs_bytes(p.B, p.T) + (size_t)p.B * 4 * sizeof(float);
}

static fv_status masked_forward(fvi_exec *e)
{
    fvk_pairs_args p = masked_args(e);
    uint8_t *behind = (uint8_t *)e->scratch + fvi_cuda_pairs_bytes(p.B, p.T);
    float *keep = e->out[1].data ? e->out[1].data : (void *)behind;
    const double mean = 1.0 / (double)p.T;
    const fvk_out to = { keep, 0, 0 };
    fvk_pairs_fold_args bounds = { .y = to, .scale = mean, .width = e->attr->f[0],
                                   .what = FVK_FOLD_BOUNDS };
    p.keep = keep;
    p.what = FVK_PAIR_SUMS;
    FV_TRY(fvi_cuda_pairs(e->ctx, &p, e->scratch));
    FV_TRY(fvi_cuda_pairs_fold(e->ctx, &p, to, FVK_FOLD_MEANS, mean));
    p.what = FVK_PAIR_DEVIATIONS;
    FV_TRY(fvi_cuda_pairs(e->ctx, &p, e->scratch));
    FV_TRY(fold(e->ctx, &bounds, &p));
    p.what = FVK_PAIR_KEPT;
    FV_TRY(fvi_cuda_pairs(e->ctx, &p, e->scratch));
    return fvi_cuda_pairs_fold(e->ctx, &p, fvi_cuda_out(&e->out[0], 0), FVK_FOLD_TOTAL,
                               mean / (double)p.B);
}

static fv_status masked_backward(fvi_exec *e)
{
    const fvk_pairs_args p = masked_args(e);
    return slopes(e, &p, 0, 2.0 / ((double)p.B * (double)p.T));
}
const fvi_op_def fvi_cuda_loss_masked = {
    .name = "loss_masked", .bwd_reads_in = 3, .bwd_reads_out = 2, .scratch_bytes = masked_scratch,
    .forward = masked_forward, .backward = masked_backward
};

/* ---- Codes ----------------------------------------------------------------------------------- */

static fvk_pairs_args codes_args(const fvi_exec *e)
{
    return (fvk_pairs_args){ .a = fvi_cuda_in(&e->in[0]), .b = fvi_cuda_in(&e->in[1]),
                             .ids = e->in[2].data, .B = 1, .T = fv_tensor_count(&e->in[0]),
                             .D = e->in[1].dim[1], .V = e->in[1].dim[0],
                             .what = FVK_PAIR_SQUARES };
}

static size_t codes_scratch(const fvi_exec *e, bool backward)
{
    return backward ? 0 : fvi_cuda_pairs_bytes(1, fv_tensor_count(&e->in[0]));
}

static fv_status codes_forward(fvi_exec *e)
{
    fvk_pairs_args p = codes_args(e);
    FV_TRY(fvi_cuda_pairs(e->ctx, &p, e->scratch));
    return fvi_cuda_pairs_fold(e->ctx, &p, fvi_cuda_out(&e->out[0], 0), FVK_FOLD_TOTAL,
                               (1.0 + (double)e->attr->f[0]) / (double)p.T);
}

static fv_status codes_backward(fvi_exec *e)
{
    const fvk_pairs_args p = codes_args(e);
    const double scale = 2.0 / (double)p.T;
    FV_TRY(slopes(e, &p, 0, scale * (double)e->attr->f[0]));
    if (!e->gin[1].data) return FV_OK;
    const fvk_chosen_args a = { .z = e->in[0].data, .codes = e->in[1].data, .ids = p.ids,
                                .dy = e->gout[0].data, .n = p.T / p.D, .V = p.V, .D = p.D,
                                .y = fvi_cuda_out(&e->gin[1], e->gin_add[1]), .scale = scale };
    return FVI_LAUNCH(e->ctx, chosen, fvi_cuda_walk(a.V * a.D), &a);
}
const fvi_op_def fvi_cuda_loss_vq = {
    .name = "loss_vq", .bwd_reads_in = 7, .scratch_bytes = codes_scratch,
    .forward = codes_forward, .backward = codes_backward
};

/* ---- Cross-entropy --------------------------------------------------------------------------- */

/* A loss for each row; in backward the number of labels. */
static size_t ce_scratch(const fvi_exec *e, bool backward)
{
    const fv_tensor *x = &e->in[0];
    return backward ? 64 : (size_t)(fv_tensor_count(x) / fvi_last(x)) * sizeof(double);
}

static fv_status ce_run(fvi_exec *e, const fv_tensor *target, const int32_t *label, const float *w)
{
    const int64_t V = fvi_last(&e->in[0]), n = fv_tensor_count(&e->in[0]) / V;
    const fvk_softmax_args a = { .x = fvi_cuda_in(&e->in[0]),
                                 .target = target ? fvi_cuda_in(target) : (fvk_in){ NULL, 0 },
                                 .probs = fvi_cuda_out(&e->out[1], 0), .label = label,
                                 .loss = e->scratch, .fault = fvi_cuda_fault(e->ctx), .n = n,
                                 .V = V };
    const fvk_labels_args sum = { .loss = e->scratch, .label = label, .w = w,
                                  .y = e->out[0].data, .n = n, .scale = 1 };
    FV_TRY(FVI_LAUNCH(e->ctx, softmax, n, &a));
    return FVI_LAUNCH(e->ctx, labels, 1, &sum);
}

static fv_status ce_gradient(fvi_exec *e, const int32_t *label, const float *w)
{
    const int64_t V = fvi_last(&e->in[0]), n = fv_tensor_count(&e->in[0]) / V;
    const fvk_labels_args count = { .label = label, .number = e->scratch, .n = n };
    const fvk_softmax_dx_args a = { .p = fvi_cuda_in(&e->out[1]), .label = label, .w = w,
                                    .y = fvi_cuda_out(&e->gin[0], e->gin_add[0]),
                                    .dy = e->gout[0].data, .number = e->scratch, .n = n, .V = V };
    if (!a.y.p) return FV_OK;
    FV_TRY(FVI_LAUNCH(e->ctx, labels, 1, &count));
    return FVI_LAUNCH(e->ctx, softmax_dx, fvi_cuda_walk(n * V), &a);
}

static fv_status ce_forward(fvi_exec *e) { return ce_run(e, NULL, e->in[1].data, NULL); }
static fv_status ce_backward(fvi_exec *e) { return ce_gradient(e, e->in[1].data, NULL); }
const fvi_op_def fvi_cuda_loss_ce = {
    .name = "loss_ce", .bwd_reads_in = 2, .bwd_reads_out = 2, .scratch_bytes = ce_scratch,
    .forward = ce_forward, .backward = ce_backward
};

static fv_status soft_forward(fvi_exec *e) { return ce_run(e, &e->in[1], NULL, e->in[2].data); }

static fv_status soft_backward(fvi_exec *e)
{
    if (e->gin[2].data)
        return fv_fail(e->ctx, FV_ERR_UNSUPPORTED, "loss_soft_ce: weights have no gradient");
    return ce_gradient(e, NULL, e->in[2].data);
}
const fvi_op_def fvi_cuda_loss_soft_ce = {
    .name = "loss_soft_ce", .bwd_reads_in = 4, .bwd_reads_out = 2, .scratch_bytes = ce_scratch,
    .forward = soft_forward, .backward = soft_backward
};
