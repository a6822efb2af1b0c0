/* op_slice.c - columns [first, first + n) of the last dimension, forward and backward (CPU).
 * Plain copies: bandwidth bound, rows are cut into lanes. */
#include "tape.h"

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

static void add_row(void *dst, const void *src, int64_t n, bool half)
{
    for (int64_t i = 0; i < n; i++) {
        if (half) {
            uint16_t *d = (uint16_t *)dst + i;
            *d = fv_f32_to_bf16(fv_bf16_to_f32(*d) + fv_bf16_to_f32(((const uint16_t *)src)[i]));
        } else {
            ((float *)dst)[i] += ((const float *)src)[i];
        }
    }
}

static fv_status slice_backward(fvi_exec *e)
{
    const fv_tensor *dx = &e->gin[0], *dy = &e->gout[0];
    const size_t w = fv_dtype_size(dx->dtype);
    const int64_t C = dx->dim[dx->ndim - 1], n = dy->dim[dy->ndim - 1],
                  rows = fv_tensor_count(dy) / n;
    if (!dx->data) return FV_OK;
    FVI_PARALLEL_LANES(e->ctx, lane)
    {
        int64_t r, end;
        fvi_lane(rows, lane, &r, &end);
        for (; r < end; r++) {
            uint8_t *row = (uint8_t *)dx->data + (size_t)(r * C) * w,
                    *at = row + (size_t)e->attr->i[0] * w;
            const uint8_t *src = (const uint8_t *)dy->data + (size_t)(r * n) * w;
            if (e->gin_add[0]) {
                add_row(at, src, n, dx->dtype == FV_BF16);
            } else {
                memset(row, 0, (size_t)C * w);
                memcpy(at, src, (size_t)n * w);
            }
        }
    }
    return FV_OK;
}

const fvi_op_def fvi_cpu_slice = {
    .name = "slice", .forward = slice_forward, .backward = slice_backward};
