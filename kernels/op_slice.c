/* op_slice.c - columns [first, first + n) of the last dimension, forward and backward (CPU).
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
