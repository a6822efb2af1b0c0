/* optim_cuda.c - host side of the optimiser on the device. Definition: optim.c; kernels: cuda/train.h.
 *
 *     work = [ sums of squares: SUMS doubles | norm: double | scale: float ]
 */
#include "cuda_ops.h"
#include "ranks_cuda.h"
#include "optim_tables.h"

#define SUMS 1024 /* blocks of the norm, at most */
#define PER_SUM (FVK_THREADS * 16)

static size_t work_bytes(int64_t n)
{
    (void)n;
    return (SUMS + 2) * sizeof(double);
}

/* The norm of g into work, and what gradients are multiplied by behind it. */
static fv_status find_norm(fv_ctx *ctx, const float *g, int64_t n, float clip, void *work)
{
    double *part = work, *sum = part + SUMS;
    const int64_t most = (n + PER_SUM - 1) / PER_SUM, sums = most < SUMS ? most : SUMS;
    const fvk_squares_args s = { .g = g, .part = part, .n = n };
    const fvk_clip_args c = { .part = part, .norm = sum, .scale = (float *)(void *)(sum + 1),
                              .parts = sums, .clip = clip, .eps = FVI_CLIP_EPS };
    FV_TRY(FVI_LAUNCH(ctx, squares, sums, &s));
    return FVI_LAUNCH(ctx, clip, 1, &c);
}

static fv_status step(fv_ctx *ctx, const fvi_adamw *a, float clip, const uint8_t *kind,
                      uint16_t *half, void *work, double *norm)
{
    double *sum = (double *)work + SUMS;
    const float *scale = (const float *)(const void *)(sum + 1);
    const fvk_adamw_args u = { .p = a->p, .g = a->g, .m = a->m, .v = a->v, .ema = a->ema,
                               .half = half, .kind = kind, .scale = scale, .n = a->n, .b1 = a->b1,
                               .k1 = a->k1, .b2 = a->b2, .k2 = a->k2, .c1 = a->c1, .c2 = a->c2,
                               .eps = a->eps, .lr = a->lr, .wd = a->wd, .d = a->d, .kd = a->kd };
    FV_TRY(find_norm(ctx, a->g, a->n, clip, work));
    FV_TRY(FVI_LAUNCH(ctx, adamw, fvi_cuda_walk(a->n), &u));
    return fv_dev_copy(ctx, norm, sum, sizeof *norm, FV_COPY_TO_HOST);
}

static fv_status swap(fv_ctx *ctx, float *p, float *e, const uint8_t *kind, int64_t n)
{
    const fvk_exchange_args a = { .p = p, .e = e, .kind = kind, .n = n };
    return FVI_LAUNCH(ctx, exchange, fvi_cuda_walk(n), &a);
}

static fv_status to_bf16(fv_ctx *ctx, const float *x, int64_t n, uint16_t *y)
{
    const fvk_map_args a = { .x = { x, 0 }, .y = { y, 1, 0 }, .n = n, .what = FVK_COPY };
    return FVI_LAUNCH(ctx, map, fvi_cuda_walk(n), &a);
}

static fv_status norm_of(fv_ctx *ctx, const float *x, int64_t n, void *work, double *norm)
{
    FV_TRY(find_norm(ctx, x, n, 0, work));
    return fv_dev_copy(ctx, norm, (const double *)work + SUMS, sizeof *norm, FV_COPY_TO_HOST);
}

static fv_status scale_to(fv_ctx *ctx, const float *x, int64_t n, float scale, bool adds, float *y)
{
    const fvk_map_args a = { .x = { x, 0 }, .y = { y, 0, adds }, .n = n, .scale = scale,
                             .what = FVK_AFFINE };
    return FVI_LAUNCH(ctx, map, fvi_cuda_walk(n), &a);
}

static fv_status product_create(fv_ctx *ctx, void **out, const fvi_product_shape *s)
{
    const fvi_cuda *d = fvi_cuda_of(ctx);
    const fvk_gemm g = { .M = s->M, .N = s->N, .K = s->K, .a_trans = s->a_trans,
                         .b_trans = s->b_trans, .accumulate = 1 };
    fvk_product *p = NULL;
    const int code = d->api->gemm_create(d->dev, &g, &p);
    *out = p;
    return fvi_cuda_status(ctx, code, "product");
}

static fv_status product_run(fv_ctx *ctx, void *p, const float *a, const float *b, float *c)
{
    const fvi_cuda *d = fvi_cuda_of(ctx);
    return fvi_cuda_status(ctx, d->api->gemm_run(d->dev, p, a, b, NULL, c), "product");
}

static void product_destroy(fv_ctx *ctx, void *p)
{
    fvi_cuda_of(ctx)->api->gemm_destroy(fvi_cuda_of(ctx)->dev, p);
}

const fvi_device_optim fvi_cuda_optim = {
    .work_bytes = work_bytes, .step = step, .swap = swap, .to_bf16 = to_bf16, .norm = norm_of,
    .scale = scale_to, .product_create = product_create, .product_run = product_run,
    .product_destroy = product_destroy, .ranks_open = fvi_cuda_ranks_open,
    .ranks_sum = fvi_cuda_ranks_sum, .ranks_close = fvi_cuda_ranks_close
};
