/* sampling_cuda.c - host side of sampling_device.h. */
#include "sampling_device.h"

#include "cuda_ops.h"

#define SEGMENTS 32 /* of a row that is summed */

fv_status fvi_dev_begin(fv_ctx *ctx, const fvk_step_begin_args *a)
{
    return FVI_LAUNCH(ctx, step_begin, fvi_cuda_walk(a->depth * a->rows * 6 * a->D), a);
}

fv_status fvi_dev_normals(fv_ctx *ctx, const fvk_normals_args *a)
{
    return FVI_LAUNCH(ctx, normals, fvi_cuda_walk(a->B * ((a->n + 3) / 4)), a);
}

fv_status fvi_dev_update(fv_ctx *ctx, const fvk_step_update_args *a)
{
    return FVI_LAUNCH(ctx, step_update, fvi_cuda_walk(a->B * ((a->n + 3) / 4)), a);
}

fv_status fvi_dev_score(fv_ctx *ctx, const fvk_token_score_args *a)
{
    const int64_t warps = FVK_THREADS / 32;
    if (a->score == FVK_SCORE_GIVEN) return FV_OK;
    return FVI_LAUNCH(ctx, token_score, (a->pictures * a->N + warps - 1) / warps, a);
}

fv_status fvi_dev_select(fv_ctx *ctx, const fvk_token_select_args *a, int64_t pictures)
{
    return FVI_LAUNCH(ctx, token_select, pictures, a);
}

fv_status fvi_dev_gather(fv_ctx *ctx, const fvk_token_gather_args *a)
{
    return FVI_LAUNCH(ctx, token_gather, fvi_cuda_walk(a->rows * a->kept * a->D), a);
}

fv_status fvi_dev_change(fv_ctx *ctx, const fvk_token_change_args *a)
{
    return FVI_LAUNCH(ctx, token_change, fvi_cuda_walk(a->rows * a->clusters * a->D), a);
}

fv_status fvi_dev_merge(fv_ctx *ctx, const fvk_token_merge_args *a)
{
    return FVI_LAUNCH(ctx, token_merge, fvi_cuda_walk(a->rows * a->N * a->D), a);
}

fv_status fvi_dev_age(fv_ctx *ctx, const fvk_token_age_args *a)
{
    return FVI_LAUNCH(ctx, token_age, fvi_cuda_walk(a->n), a);
}

fv_status fvi_dev_copy(fv_ctx *ctx, float *to, const float *from, size_t n)
{
    const fvk_map_args a = { .x = { from, 0 }, .y = { to, 0, 0 }, .n = (int64_t)n,
                             .what = FVK_COPY };
    return FVI_LAUNCH(ctx, map, fvi_cuda_walk(a.n), &a);
}

fv_status fvi_dev_subtract(fv_ctx *ctx, float *to, const float *x, const float *y, size_t n)
{
    const fvk_binary_args a = { .a = { x, 0 }, .b = { y, 0 }, .y = { to, 0, 0 }, .n = (int64_t)n,
                                .nb = (int64_t)n, .per = 1, .what = FVK_BINARY, .op = FV_SUB };
    return FVI_LAUNCH(ctx, binary, fvi_cuda_walk(a.n), &a);
}

fv_status fvi_dev_wait(fv_ctx *ctx) { return ctx->backend->sync(ctx); }

/* ---- Meters ---------------------------------------------------------------------------------- */

struct fvi_meter {
    fv_ctx *ctx;
    int rows;
    double *near, *host; /* [rows][SEGMENTS][2] */
    double *square, *size; /* [rows] */
};

fv_status fvi_meter_create(fv_ctx *ctx, fvi_meter **out, int rows)
{
    const size_t n = (size_t)rows * SEGMENTS * 2;
    fvi_meter *m = fv_calloc(ctx, 1, sizeof *m);
    *out = m;
    if (!m) return FV_ERR_OOM;
    m->ctx = ctx;
    m->rows = rows;
    m->host = fv_calloc(ctx, n, sizeof *m->host);
    m->square = fv_calloc(ctx, (size_t)rows, sizeof *m->square);
    m->size = fv_calloc(ctx, (size_t)rows, sizeof *m->size);
    m->near = fv_dev_alloc(ctx, n, sizeof *m->near);
    if (m->host && m->square && m->size && m->near) return FV_OK;
    fvi_meter_destroy(out);
    return FV_ERR_OOM;
}

void fvi_meter_destroy(fvi_meter **mm)
{
    if (!mm || !*mm) return;
    fvi_meter *m = *mm;
    *mm = NULL;
    fv_dev_free(m->ctx, m->near);
    fv_free(m->ctx, m->host);
    fv_free(m->ctx, m->square);
    fv_free(m->ctx, m->size);
    fv_free(m->ctx, m);
}

fv_status fvi_meter_read(fvi_meter *m, const float *const *v, const double *w, int count, int rows,
                         size_t n, double *squares, double *sizes)
{
    fvk_feature_sums_args a = { .part = m->near, .n = (int64_t)n, .segments = SEGMENTS,
                                .count = count };
    if (rows < 1 || rows > m->rows || count < 1 || count > FVK_BLEND_MOST)
        return fv_fail(m->ctx, FV_ERR_INTERNAL, "features: %d rows of %d terms", rows, count);
    for (int k = 0; k < count; k++) {
        a.v[k] = v[k];
        a.w[k] = w[k];
    }
    FV_TRY(FVI_LAUNCH(m->ctx, feature_sums, (int64_t)rows * SEGMENTS, &a));
    FV_TRY(fv_dev_copy(m->ctx, m->host, m->near, (size_t)rows * SEGMENTS * 2 * sizeof *m->host,
                       FV_COPY_TO_HOST));
    for (int r = 0; r < rows; r++) {
        double square = 0, size = 0;
        for (int s = 0; s < SEGMENTS; s++) {
            square += m->host[(r * SEGMENTS + s) * 2];
            size += m->host[(r * SEGMENTS + s) * 2 + 1];
        }
        if (squares) squares[r] = square;
        if (sizes) sizes[r] = size;
    }
    return FV_OK;
}

fv_status fvi_meter_total(fvi_meter *m, const float *const *v, const double *w, int count, int rows,
                          size_t n, double *squares, double *sizes)
{
    double square = 0, size = 0;
    FV_TRY(fvi_meter_read(m, v, w, count, rows, n, m->square, m->size));
    for (int r = 0; r < rows; r++) {
        square += m->square[r];
        size += m->size[r];
    }
    if (squares) *squares = square;
    if (sizes) *sizes = size;
    return FV_OK;
}
