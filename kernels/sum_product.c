/* sum_product.c - c += a b in f32 where plans read and write: oneDNN's product on a CPU, on a device its
 * own. For what a trainer computes between passes with parameters and gradients themselves. */
#include "backend.h"

struct fvi_sum_product {
    fvi_matmul *host;
    void *device;
};

fv_status fvi_sum_product_create(fv_ctx *ctx, fvi_sum_product **out, const fvi_product_shape *s)
{
    const fvi_device_optim *d = ctx->backend->optim;
    const fvi_matmul_desc desc = { .M = s->M, .N = s->N, .K = s->K, .a_type = FV_F32,
                                   .b_type = FV_F32, .c_type = FV_F32, .a_trans = s->a_trans,
                                   .b_trans = s->b_trans, .accumulate = true };
    *out = NULL;
    fvi_sum_product *p = fv_calloc(ctx, 1, sizeof *p);
    if (!p) return FV_ERR_OOM;
    const fv_status st = d ? d->product_create(ctx, &p->device, s) :
                             fvi_matmul_create(ctx, &p->host, &desc);
    if (st == FV_OK) *out = p;
    else fvi_sum_product_destroy(ctx, &p);
    return st;
}

fv_status fvi_sum_product_run(fv_ctx *ctx, fvi_sum_product *p, const float *a, const float *b, float *c)
{
    if (p->host) return fvi_matmul_run(ctx, p->host, a, b, NULL, NULL, c);
    return ctx->backend->optim->product_run(ctx, p->device, a, b, c);
}

void fvi_sum_product_destroy(fv_ctx *ctx, fvi_sum_product **pp)
{
    fvi_sum_product *p = *pp;
    *pp = NULL;
    if (!p) return;
    fvi_matmul_destroy(ctx, &p->host);
    if (p->device) ctx->backend->optim->product_destroy(ctx, p->device);
    fv_free(ctx, p);
}

fv_status fvi_sum(fv_ctx *ctx, const float *x, int64_t n, float *y)
{
    if (ctx->backend->optim) return ctx->backend->optim->scale(ctx, x, n, 1.0f, true, y);
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
    return FV_OK;
}
