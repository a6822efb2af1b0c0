/* op_mix_rows.c - rows as weighted sums of other rows of the same sample: gathering, permuting and
 * interpolating tokens by a table, forward and backward (CPU).
 *
 *     y[b, r] = sum over k < n of weight[r, k] x[b, index[r, k]],   index -1: nothing
 *
 * Sums run in the order of k; backward adds rows r in their order, a sample per lane, so that
 * nothing depends on the number of threads. */
#include "cpu_ops.h"

#include <string.h>

typedef struct mix_size { int64_t B, T, R, n, C; } mix_size;

static mix_size size_of(const fvi_exec *e)
{
    const int64_t *x = e->in[0].dim, *i = e->in[1].dim;
    const mix_size s = { x[0], x[1], i[0], i[1], x[2] };
    return s;
}

static fv_status check_index(const fvi_exec *e)
{
    const int32_t *index = e->in[1].data;
    const mix_size s = size_of(e);
    for (int64_t i = 0; i < s.R * s.n; i++)
        if (index[i] < -1 || index[i] >= s.T)
            return fv_fail(e->ctx, FV_ERR_ARG, "mix_rows: row %d at place %lld, there are %lld",
                           (int)index[i], (long long)i, (long long)s.T);
    return FV_OK;
}

static void add_scaled(float *FV_RESTRICT y, const float *FV_RESTRICT x, float w, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] += w * x[i];
}

static fv_status mix_forward(fvi_exec *e)
{
    const mix_size s = size_of(e);
    const int32_t *index = e->in[1].data;
    const float *weight = e->in[2].data, *x = e->in[0].data;
    float *out = e->out[0].data;
    FV_TRY(check_index(e));
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t r, end;
        for (fvi_lane(s.B * s.R, lane, &r, &end); r < end; r++) {
            const int64_t row = r % s.R * s.n;
            float *y = out + r * s.C;
            memset(y, 0, (size_t)s.C * sizeof *y);
            for (int64_t k = row; k < row + s.n; k++)
                if (index[k] >= 0 && weight[k] != 0.0f)
                    add_scaled(y, x + (r / s.R * s.T + index[k]) * s.C, weight[k], s.C);
        }
    }
    return FV_OK;
}

static fv_status mix_backward(fvi_exec *e)
{
    const mix_size s = size_of(e);
    const int32_t *index = e->in[1].data;
    const float *weight = e->in[2].data, *dy = e->gout[0].data;
    float *dx = e->gin[0].data;
    if (e->gin[2].data)
        return fv_fail(e->ctx, FV_ERR_UNSUPPORTED, "mix_rows: weights have no gradient");
    if (!dx) return FV_OK;
    FV_TRY(check_index(e));
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t b, end;
        for (fvi_lane(s.B, lane, &b, &end); b < end; b++) {
            float *to = dx + b * s.T * s.C;
            if (!e->gin_add[0]) memset(to, 0, (size_t)(s.T * s.C) * sizeof *to);
            for (int64_t k = 0; k < s.R * s.n; k++)
                if (index[k] >= 0 && weight[k] != 0.0f)
                    add_scaled(to + index[k] * s.C, dy + (b * s.R + k / s.n) * s.C, weight[k], s.C);
        }
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_mix_rows = {
    .name = "mix_rows", .bwd_reads_in = 2 | 4, .forward = mix_forward, .backward = mix_backward
};
