/* op_slice.c - columns [first, first + n) of the last dimension, and two tensors joined, forward and
 * backward (CPU).
 * Plain copies: bandwidth bound, rows are cut into lanes. */
#include "cpu_ops.h"

#include <string.h>

static fv_status slice_forward(fvi_exec *e)
{
    const fv_tensor *x = &e->in[0], *y = &e->out[0];
    const size_t w = fv_dtype_size(x->dtype);
    const int64_t C = x->dim[x->ndim - 1], n = y->dim[y->ndim - 1], rows = fv_tensor_count(y) / n;
    const uint8_t *src = (const uint8_t *)x->data + (size_t)e->attr->i[0] * w;
    uint8_t *dst = y->data;
    FVI_PARALLEL_LANES(e->ctx, lane)
    {
        int64_t r, end;
        fvi_lane(rows, lane, &r, &end);
        for (; r < end; r++)
            memcpy(dst + (size_t)(r * n) * w, src + (size_t)(r * C) * w, (size_t)n * w);
    }
    return FV_OK;
}

static fv_status slice_backward(fvi_exec *e)
{
    const fv_tensor *dx = &e->gin[0], *dy = &e->gout[0];
    const size_t w = fv_dtype_size(dx->dtype);
    const int64_t C = dx->dim[dx->ndim - 1], n = dy->dim[dy->ndim - 1],
                  rows = fv_tensor_count(dy) / n;
    const bool add = e->gin_add[0];
    if (!dx->data) return FV_OK;
    FVI_PARALLEL_LANES(e->ctx, lane)
    {
        int64_t r, end;
        fvi_lane(rows, lane, &r, &end);
        for (; r < end; r++) {
            if (!add) memset((uint8_t *)dx->data + (size_t)(r * C) * w, 0, (size_t)C * w);
            e->ctx->cpu_ops->pointwise.cast(fvi_out_at(dx, r * C + e->attr->i[0], add),
                                            fvi_in_at(dy, r * n), n);
        }
    }
    return FV_OK;
}

const fvi_op_def fvi_cpu_slice = {
    .name = "slice", .forward = slice_forward, .backward = slice_backward};

/* ---- Concatenation: attr i0 times a run of a, then a run of b -------------------------------- */

static fv_status concat_forward(fvi_exec *e)
{
    const int64_t runs = e->attr->i[0];
    const size_t w = fv_dtype_size(e->out[0].dtype);
    const size_t na = (size_t)(fv_tensor_count(&e->in[0]) / runs) * w,
                 nb = (size_t)(fv_tensor_count(&e->in[1]) / runs) * w;
    uint8_t *y = e->out[0].data;
    FVI_PARALLEL_LANES(e->ctx, lane)
    {
        int64_t r, end;
        for (fvi_lane(runs, lane, &r, &end); r < end; r++) {
            memcpy(y + (size_t)r * (na + nb), (const uint8_t *)e->in[0].data + (size_t)r * na, na);
            memcpy(y + (size_t)r * (na + nb) + na,
                   (const uint8_t *)e->in[1].data + (size_t)r * nb, nb);
        }
    }
    return FV_OK;
}

static fv_status concat_backward(fvi_exec *e)
{
    const int64_t runs = e->attr->i[0];
    const int64_t n[2] = {fv_tensor_count(&e->in[0]) / runs, fv_tensor_count(&e->in[1]) / runs};
    FVI_PARALLEL_LANES(e->ctx, lane)
    {
        int64_t r, end;
        for (fvi_lane(runs, lane, &r, &end); r < end; r++)
            for (int k = 0; k < 2; k++)
                if (e->gin[k].data)
                    e->ctx->cpu_ops->pointwise.cast(
                        fvi_out_at(&e->gin[k], r * n[k], e->gin_add[k]),
                        fvi_in_at(&e->gout[0], r * (n[0] + n[1]) + (k ? n[0] : 0)), n[k]);
    }
    return FV_OK;
}

const fvi_op_def fvi_cpu_concat = {
    .name = "concat", .forward = concat_forward, .backward = concat_backward};
