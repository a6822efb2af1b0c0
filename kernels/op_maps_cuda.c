/* op_maps_cuda.c - host side of the ops over feature maps [B, H, W, C]: groupnorm, upsample2x, windows,
 * haar, pool, filter. Definitions: op_groupnorm.c, op_layout.c, op_windows.c, op_haar.c, op_pool.c,
 * op_filter.c. */
#include "cuda_ops.h"

/* ---- groupnorm ------------------------------------------------------------------------------- */

typedef struct group_job {
    int64_t B, T, C, per;
    float *stats, *pull, *sums; /* [B, G, 2] each, then parts of columns */
} group_job;

static size_t numbers(const group_job *j)
{
    return (size_t)((2 * j->B * (j->C / j->per) * (int64_t)sizeof(float) + 255) / 256 * 256);
}

static group_job job_of(const fvi_exec *e)
{
    const int64_t *d = e->in[0].dim;
    group_job j = { .B = d[0], .T = d[1] * d[2], .C = d[3], .per = d[3] / e->attr->i[0] };
    uint8_t *at = e->scratch;
    if (!at) return j;
    j.stats = e->out[1].data ? e->out[1].data : (float *)(void *)at; /* inference keeps none */
    j.pull = (float *)(void *)(at + numbers(&j));
    j.sums = (float *)(void *)(at + 2 * numbers(&j));
    return j;
}

static size_t group_scratch(const fvi_exec *e, bool backward)
{
    const group_job j = job_of(e);
    return 2 * numbers(&j) + fvi_cuda_columns_bytes(j.B, j.T, j.C, backward ? 2 : 1);
}

static fv_status fold_groups(fvi_exec *e, const group_job *j, const fvk_columns_args *c, int what)
{
    const fvk_group_fold_args a = {
        .part = c->part, .part2 = c->part2, .segments = c->segments, .C = j->C, .per = j->per,
        .w = what == FVK_GROUP_PULLS ? e->in[1].data : NULL,
        .y = what == FVK_GROUP_PULLS ? j->pull : j->stats,
        .count = (double)j->T * (double)j->per, .eps = e->attr->f[0], .what = what
    };
    return FVI_LAUNCH(e->ctx, group_fold, j->B * (j->C / j->per), &a);
}

static fvk_columns_args sums_of(const fvi_exec *e, const group_job *j, int kind)
{
    return (fvk_columns_args){ .x = fvi_cuda_in(&e->in[0]), .stats = j->stats,
                               .w = e->in[1].data, .bias = e->in[2].data, .groups = j->B,
                               .T = j->T, .C = j->C, .per = j->per, .kind = kind,
                               .op = e->attr->i[1] };
}

static fvk_group_args group_args(const fvi_exec *e, const group_job *j)
{
    return (fvk_group_args){ .x = fvi_cuda_in(&e->in[0]), .w = e->in[1].data,
                             .bias = e->in[2].data, .stats = j->stats, .pull = j->pull,
                             .n = fv_tensor_count(&e->in[0]), .T = j->T, .C = j->C,
                             .per = j->per, .act = e->attr->i[1] };
}

/* The variance is a second pass, as on the CPU. */
static fv_status group_forward(fvi_exec *e)
{
    const group_job j = job_of(e);
    fvk_columns_args c = sums_of(e, &j, FVK_SUM_X);
    FV_TRY(fvi_cuda_columns(e->ctx, &c, j.sums, 1));
    FV_TRY(fold_groups(e, &j, &c, FVK_GROUP_MEAN));
    c = sums_of(e, &j, FVK_SUM_GROUP_SQ);
    FV_TRY(fvi_cuda_columns(e->ctx, &c, j.sums, 1));
    FV_TRY(fold_groups(e, &j, &c, FVK_GROUP_RSTD));
    fvk_group_args a = group_args(e, &j);
    a.y = fvi_cuda_out(&e->out[0], 0);
    return FVI_LAUNCH(e->ctx, group, fvi_cuda_walk(a.n), &a);
}

/* The sums of all samples are those of one group of parts. */
static fv_status fold_params(fvi_exec *e, const fvk_columns_args *sums)
{
    fvk_columns_args c = *sums;
    c.segments *= c.groups;
    c.groups = 1;
    if (e->gin[2].data)
        FV_TRY(fvi_cuda_fold(e->ctx, &c, fvi_cuda_out(&e->gin[2], e->gin_add[2]), 0, 1.0f));
    c.part = c.part2;
    if (!e->gin[1].data) return FV_OK;
    return fvi_cuda_fold(e->ctx, &c, fvi_cuda_out(&e->gin[1], e->gin_add[1]), 0, 1.0f);
}

static fv_status group_backward(fvi_exec *e)
{
    const group_job j = job_of(e);
    fvk_columns_args c = sums_of(e, &j, FVK_SUM_GROUP);
    c.x = fvi_cuda_in(&e->gout[0]);
    c.y = fvi_cuda_in(&e->in[0]);
    FV_TRY(fvi_cuda_columns(e->ctx, &c, j.sums, 2));
    FV_TRY(fold_params(e, &c));
    if (!e->gin[0].data) return FV_OK;
    FV_TRY(fold_groups(e, &j, &c, FVK_GROUP_PULLS));
    fvk_group_args a = group_args(e, &j);
    a.dy = fvi_cuda_in(&e->gout[0]);
    a.y = fvi_cuda_out(&e->gin[0], e->gin_add[0]);
    return FVI_LAUNCH(e->ctx, group, fvi_cuda_walk(a.n), &a);
}
const fvi_op_def fvi_cuda_groupnorm = {
    .name = "groupnorm", .bwd_reads_in = 1 | 2 | 4, .bwd_reads_out = 2,
    .scratch_bytes = group_scratch, .forward = group_forward, .backward = group_backward
};

/* ---- upsample2x ------------------------------------------------------------------------------ */

static fv_status upsample(fvi_exec *e, const fv_tensor *x, const fv_tensor *y, int add,
                          int is_back)
{
    const fvk_upsample_args a = { .x = fvi_cuda_in(x), .y = fvi_cuda_out(y, add),
                                  .n = fv_tensor_count(y), .W = e->in[0].dim[2],
                                  .C = e->in[0].dim[3], .is_back = is_back };
    return FVI_LAUNCH(e->ctx, upsample, fvi_cuda_walk(a.n), &a);
}

static fv_status upsample_forward(fvi_exec *e)
{
    return upsample(e, &e->in[0], &e->out[0], 0, 0);
}

static fv_status upsample_backward(fvi_exec *e)
{
    return e->gin[0].data ? upsample(e, &e->gout[0], &e->gin[0], e->gin_add[0], 1) : FV_OK;
}
const fvi_op_def fvi_cuda_upsample2x = {
    .name = "upsample2x", .forward = upsample_forward, .backward = upsample_backward
};

/* ---- windows --------------------------------------------------------------------------------- */

static fv_status windows(fvi_exec *e, const fv_tensor *x, const fv_tensor *y, int add, int what)
{
    const int32_t *i = e->attr->i;
    const fvk_windows_args a = { .x = fvi_cuda_in(x), .y = fvi_cuda_out(y, add),
                                 .n = fv_tensor_count(y), .H = i[3], .W = i[4],
                                 .C = fvi_last(x), .side = i[0], .shift = i[1],
                                 .down = (i[3] + i[1] + i[0] - 1) / i[0],
                                 .across = (i[4] + i[1] + i[0] - 1) / i[0], .what = what };
    return FVI_LAUNCH(e->ctx, windows, fvi_cuda_walk(a.n), &a);
}

static fv_status windows_forward(fvi_exec *e)
{
    return windows(e, &e->in[0], &e->out[0], 0,
                   e->attr->i[2] ? FVK_WINDOWS_CUT : FVK_WINDOWS_FILL);
}

static fv_status windows_backward(fvi_exec *e)
{
    if (!e->gin[0].data) return FV_OK;
    return windows(e, &e->gout[0], &e->gin[0], e->gin_add[0],
                   e->attr->i[2] ? FVK_WINDOWS_INSIDE : FVK_WINDOWS_SUM);
}
const fvi_op_def fvi_cuda_windows = {
    .name = "windows", .forward = windows_forward, .backward = windows_backward
};

/* ---- haar ------------------------------------------------------------------------------------ */

static fv_status haar(fvi_exec *e, const fv_tensor *x, const fv_tensor *y, int add, int joins)
{
    const fv_tensor *small = joins ? x : y;
    const fvk_haar_args a = { .x = fvi_cuda_in(x), .y = fvi_cuda_out(y, add),
                              .n = fv_tensor_count(x) / 4, .w = small->dim[2],
                              .C = small->dim[3] / 4, .joins = joins };
    return FVI_LAUNCH(e->ctx, haar, fvi_cuda_walk(a.n), &a);
}

static fv_status haar_forward(fvi_exec *e)
{
    return haar(e, &e->in[0], &e->out[0], 0, e->attr->i[0] != 0);
}

static fv_status haar_backward(fvi_exec *e)
{
    if (!e->gin[0].data) return FV_OK;
    return haar(e, &e->gout[0], &e->gin[0], e->gin_add[0], e->attr->i[0] == 0);
}
const fvi_op_def fvi_cuda_haar = { .name = "haar", .forward = haar_forward,
                                   .backward = haar_backward };

/* ---- pool ------------------------------------------------------------------------------------ */

static fvk_pool_args pool_args(const fvi_exec *e)
{
    const int64_t *x = e->in[0].dim, *y = e->out[0].dim;
    const int is_l2 = e->attr->i[0] == FVI_POOL_L2;
    return (fvk_pool_args){ .x = fvi_cuda_in(&e->in[0]), .H = x[1], .W = x[2], .C = x[3],
                            .h = y[1], .w = y[2], .size = e->attr->i[1],
                            .stride = e->attr->i[2], .pad = is_l2, .is_l2 = is_l2 };
}

static fv_status pool_forward(fvi_exec *e)
{
    fvk_pool_args a = pool_args(e);
    a.y = fvi_cuda_out(&e->out[0], 0);
    a.n = fv_tensor_count(&e->out[0]);
    return FVI_LAUNCH(e->ctx, pool, fvi_cuda_walk(a.n), &a);
}

static fv_status pool_backward(fvi_exec *e)
{
    fvk_pool_args a = pool_args(e);
    a.out = fvi_cuda_in(&e->out[0]);
    a.dy = fvi_cuda_in(&e->gout[0]);
    a.y = fvi_cuda_out(&e->gin[0], e->gin_add[0]);
    a.n = fv_tensor_count(&e->in[0]);
    return e->gin[0].data ? FVI_LAUNCH(e->ctx, pool_dx, fvi_cuda_walk(a.n), &a) : FV_OK;
}
const fvi_op_def fvi_cuda_pool = {
    .name = "pool", .bwd_reads_in = 1, .bwd_reads_out = 1, .forward = pool_forward,
    .backward = pool_backward
};

/* ---- filter ---------------------------------------------------------------------------------- */

static fv_status filter(fvi_exec *e, const fv_tensor *x, const fv_tensor *y, int add, int is_back)
{
    const int64_t *in = e->in[0].dim, *out = e->out[0].dim;
    fvk_filter_args a = { .x = fvi_cuda_in(x), .y = fvi_cuda_out(y, add),
                          .n = fv_tensor_count(y), .H = in[1], .W = in[2], .C = in[3],
                          .h = out[1], .w = out[2], .stride = e->attr->i[1],
                          .is_back = is_back };
    fvi_filter_taps((fv_image_filter)e->attr->i[0], a.down, a.right);
    return FVI_LAUNCH(e->ctx, filter, fvi_cuda_walk(a.n), &a);
}

static fv_status filter_forward(fvi_exec *e) { return filter(e, &e->in[0], &e->out[0], 0, 0); }

static fv_status filter_backward(fvi_exec *e)
{
    return e->gin[0].data ? filter(e, &e->gout[0], &e->gin[0], e->gin_add[0], 1) : FV_OK;
}
const fvi_op_def fvi_cuda_filter = { .name = "filter", .forward = filter_forward,
                                     .backward = filter_backward };
