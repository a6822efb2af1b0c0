/* op_masked_mse.c - distillation of features as TinyFusion masks them [Fang et al. 2025] (CPU).
 *
 *     k(f) = f where |f - mean f| < bound * deviation f, else 0       over each sample of each side
 *     L = mean over all elements of (k(a) - k(b))^2
 *
 * The residual stream of a DiT has a few very large activations that would rule a plain mean. Mean
 * and deviation are constants for the gradient, which goes to a alone. */
#include "cpu_ops.h"

#include <math.h>

static const fvi_distill_ops *rows(const fvi_exec *e) { return &e->ctx->cpu_ops->distill; }

static fvi_split samples(const fvi_exec *e)
{
    const int64_t B = e->in[0].dim[0];
    return fvi_split_of(B, fv_tensor_count(&e->in[0]) / B);
}

/* Sums of segments, [B * S][2], then the bounds if nobody keeps them. */
static size_t masked_scratch(const fvi_exec *e, bool backward)
{
    const fvi_split sp = samples(e);
    return backward ? 0 : (size_t)(2 * sp.B * sp.S) * sizeof(double) + (size_t)sp.B *
                              sizeof(fvi_keep);
}

static double segments(const double *part, const fvi_split *sp, int64_t b, int side)
{
    double sum = 0;
    for (int64_t s = 0; s < sp->S; s++) sum += part[2 * (b * sp->S + s) + side];
    return sum;
}

/* part: sums of both sides, or, with keep, of squares around keep's means. */
static void take_sums(const fvi_exec *e, const fvi_split *sp, const fvi_keep *keep, double *part)
{
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t k, end, b, t0, t1;
        for (fvi_lane(sp->B * sp->S, lane, &k, &end); k < end; k++) {
            fvi_split_rows(sp, k, &b, &t0, &t1);
            for (int side = 0; side < 2; side++) {
                const fvi_in x = fvi_in_at(&e->in[side], b * sp->T + t0);
                part[2 * k + side] =
                    keep ? rows(e)->sqdev(x, side ? keep[b].b_mean : keep[b].a_mean, t1 - t0)
                         : rows(e)->sum(x, t1 - t0);
            }
        }
    }
}

static fv_status take_bounds(const fvi_exec *e, const fvi_split *sp, fvi_keep *keep, double *part)
{
    const double n = (double)sp->T, width = e->attr->f[0];
    take_sums(e, sp, NULL, part);
    for (int64_t b = 0; b < sp->B; b++) {
        keep[b].a_mean = (float)(segments(part, sp, b, 0) / n);
        keep[b].b_mean = (float)(segments(part, sp, b, 1) / n);
    }
    take_sums(e, sp, keep, part);
    for (int64_t b = 0; b < sp->B; b++) {
        keep[b].a_bound = (float)(width * sqrt(segments(part, sp, b, 0) / n));
        keep[b].b_bound = (float)(width * sqrt(segments(part, sp, b, 1) / n));
        if (!isfinite(keep[b].a_bound) || !isfinite(keep[b].b_bound))
            return fv_fail(e->ctx, FV_ERR_NUMERIC, "features of sample %lld are not finite; a "
                           "lower learning rate or clipped gradients keep them so", (long long)b);
    }
    return FV_OK;
}

static fv_status masked_forward(fvi_exec *e)
{
    const fvi_split sp = samples(e);
    double *part = e->scratch, total = 0;
    fvi_keep *keep = e->out[1].data ? e->out[1].data : (void *)(part + 2 * sp.B * sp.S);
    FV_TRY(take_bounds(e, &sp, keep, part));
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t k, end, b, t0, t1;
        for (fvi_lane(sp.B * sp.S, lane, &k, &end); k < end; k++) {
            fvi_split_rows(&sp, k, &b, &t0, &t1);
            part[k] = rows(e)->kept_sqdiff(fvi_in_at(&e->in[0], b * sp.T + t0),
                                           fvi_in_at(&e->in[1], b * sp.T + t0), &keep[b],
                                           t1 - t0);
        }
    }
    for (int64_t k = 0; k < sp.B * sp.S; k++) total += part[k];
    *(float *)e->out[0].data = (float)(total / ((double)sp.B * (double)sp.T));
    return FV_OK;
}

static fv_status masked_backward(fvi_exec *e)
{
    const fvi_split sp = samples(e);
    const fvi_keep *keep = e->out[1].data;
    const float scale =
        (float)(2.0 * *(const float *)e->gout[0].data / ((double)sp.B * (double)sp.T));
    if (!e->gin[0].data) return FV_OK;
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t k, end, b, t0, t1;
        for (fvi_lane(sp.B * sp.S, lane, &k, &end); k < end; k++) {
            fvi_split_rows(&sp, k, &b, &t0, &t1);
            const int64_t at = b * sp.T + t0;
            rows(e)->kept_diff(fvi_out_at(&e->gin[0], at, e->gin_add[0]), fvi_in_at(&e->in[0], at),
                               fvi_in_at(&e->in[1], at), &keep[b], t1 - t0, scale);
        }
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_loss_masked = {
    .name = "loss_masked", .bwd_reads_in = 3, .bwd_reads_out = 2, .scratch_bytes = masked_scratch,
    .forward = masked_forward, .backward = masked_backward
};
