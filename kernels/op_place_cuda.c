/* op_place_cuda.c - host side of LIFT and PLACE on the device. Definition: op_place.c; kernels:
 * cuda/losses.h. The weight w, which follows from the whole batch, never leaves the device; a student
 * that is not finite is told with the next copy to the host. */
#include "cuda_ops.h"
#include "op_place.h"

#include <math.h>

/* Scratch: x, y by rows | keys | costs of groups | sums of rows | their sum. */
typedef struct place_scratch {
    size_t x, y, order, cost, sums, sum, all;
    int64_t padded;
} place_scratch;

static place_scratch scratch_of(const fvi_place_shape *s)
{
    const size_t n = (size_t)(s->rows * s->n);
    place_scratch p = { 0 };
    if (s->G > 1)
        for (p.padded = 2; p.padded < s->n;) p.padded *= 2;
    p.y = fvi_cuda_aligned(n * sizeof(float));
    p.order = 2 * p.y;
    p.cost = p.order + fvi_cuda_aligned((size_t)(s->rows * p.padded) * sizeof(uint64_t));
    p.sums = p.cost + fvi_cuda_aligned((size_t)(s->rows * s->G) * sizeof(float));
    p.sum = p.sums + fvi_cuda_aligned((size_t)s->rows * FVK_PLACE_SUMS * sizeof(double));
    p.all = p.sum + fvi_cuda_aligned(FVK_PLACE_SUMS * sizeof(double));
    return p;
}

static size_t place_scratch_bytes(const fvi_exec *e, bool backward)
{
    const fvi_place_shape s = fvi_place_shape_of(e);
    return backward ? 0 : scratch_of(&s).all;
}

static void *at(const fvi_exec *e, size_t offset) { return (uint8_t *)e->scratch + offset; }

static fvk_place_args args_of(const fvi_exec *e, const fvi_place_shape *s, const place_scratch *p)
{
    const int flags = e->attr->i[2];
    return (fvk_place_args){
        .from = { fvi_cuda_in(&e->in[0]), fvi_cuda_in(&e->in[1]) }, .x = at(e, p->x),
        .y = at(e, p->y), .cost = at(e, p->cost), .terms = e->out[2].data,
        .order = p->padded ? at(e, p->order) : NULL, .sums = at(e, p->sums), .total = at(e, p->sum),
        .B = s->B, .P = s->P, .C = s->C, .used = s->used, .columns = s->columns, .rows = s->rows,
        .n = s->n, .K = s->K, .G = s->G, .padded = p->padded, .eps = e->attr->f[0],
        .guarded = (flags & FVI_PLACE_GUARDED) != 0, .squared = (flags & FVI_PLACE_SQUARED) != 0,
        .eps_of_sum = (flags & FVI_PLACE_EPS_OF_SUM) != 0
    };
}

/* m over the batches of all ranks, as op_place.c has it: the host waits for the device here. */
static fv_status share_mean(fvi_exec *e, fvk_place_end_args *a)
{
    double total[FVK_PLACE_SUMS], sums[2];
    if (!e->ctx->reduce) return FV_OK;
    FV_TRY(fv_dev_copy(e->ctx, total, a->total, sizeof total, FV_COPY_TO_HOST));
    sums[0] = total[1];
    sums[1] = a->count;
    FV_TRY(fvi_sum_ranks(e->ctx, sums, 2));
    a->mean = sums[0] / sums[1];
    a->is_shared = 1;
    if (isfinite(a->mean)) return FV_OK;
    return fv_fail(e->ctx, FV_ERR_NUMERIC, "student or teacher is not finite, here or on another "
                   "rank; a lower learning rate or clipped gradients keep them so");
}

static fv_status place_end(fvi_exec *e, const fvi_place_shape *s, const double *sum)
{
    fvk_place_end_args a = {
        .total = sum, .given = e->attr->i[3] == FV_PLACE_GIVEN ? e->in[2].data : NULL,
        .loss = e->out[0].data, .part = e->out[1].data, .fault = fvi_cuda_fault(e->ctx),
        .count = (double)s->rows * (double)s->n, .constant = e->attr->f[1],
        .is_constant = e->attr->i[3] == FV_PLACE_CONSTANT
    };
    FV_TRY(share_mean(e, &a));
    for (int64_t g = 0; g < s->G; g++) a.groups[fvi_place_tenth(g, s->G)] += (double)s->rows;
    return FVI_LAUNCH(e->ctx, place_end, 1, &a);
}

static fv_status place_forward(fvi_exec *e)
{
    const fvi_place_shape s = fvi_place_shape_of(e);
    const place_scratch p = scratch_of(&s);
    const fvk_place_args a = args_of(e, &s, &p);
    FV_TRY(FVI_LAUNCH(e->ctx, place_rows, fvi_cuda_walk(s.rows * s.n), &a));
    FV_TRY(FVI_LAUNCH(e->ctx, place, s.rows, &a));
    FV_TRY(FVI_LAUNCH(e->ctx, place_sum, FVK_PLACE_SUMS, &a));
    FV_TRY(place_end(e, &s, a.total));
    if (!a.terms) return FV_OK;
    return FVI_LAUNCH(e->ctx, place_terms, fvi_cuda_walk(s.B * s.P * s.C), &a);
}

static fv_status place_backward(fvi_exec *e)
{
    const fvi_place_shape s = fvi_place_shape_of(e);
    const fvk_kept_dx_args a = { .s = e->out[2].data,
                                 .w = (const float *)e->out[1].data + FV_PLACE_W,
                                 .dy = e->gout[0].data,
                                 .y = fvi_cuda_out(&e->gin[0], e->gin_add[0]),
                                 .n = fv_tensor_count(&e->in[0]),
                                 .scale = 1 / ((double)s.rows * (double)s.n) };
    if (!e->gin[0].data) return FV_OK;
    return FVI_LAUNCH(e->ctx, kept_dx, fvi_cuda_walk(a.n), &a);
}

const fvi_op_def fvi_cuda_loss_place = {
    .name = "loss_place", .bwd_reads_out = 2 | 4, .scratch_bytes = place_scratch_bytes,
    .forward = place_forward, .backward = place_backward
};
