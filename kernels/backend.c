/* backend.c - picking a device for a context, and its memory.
 *
 * AUTO takes the first device that opens: the CPU. It is to begin with CUDA once the tests of
 * tests/test_cuda_ops.c have passed on a GPU; until then that device is for who asks for it. */
#include "backend.h"

#include <string.h>

fv_status fvi_backend_open(fv_ctx *ctx, fv_device device)
{
    static const fvi_backend *const backends[] = { &fvi_backend_cpu, &fvi_backend_cuda };
    for (size_t i = 0; i < FV_ARRAY_LEN(backends); i++) {
        if (device != FV_DEVICE_AUTO && device != backends[i]->device) continue;
        const fv_status s = backends[i]->open(ctx);
        if (s == FV_OK) {
            if (!ctx->backend) ctx->backend = backends[i];
            ctx->device = backends[i]->device;
            return FV_OK;
        }
        if (device != FV_DEVICE_AUTO || s == FV_ERR_OOM) return s;
    }
    return FV_ERR_DEVICE;
}

void fvi_backend_close(fv_ctx *ctx)
{
    if (ctx->backend) ctx->backend->close(ctx);
    ctx->backend = NULL;
}

fv_status fv_needs_cpu(fv_ctx *ctx, const char *what)
{
    if (ctx->device == FV_DEVICE_CPU) return FV_OK;
    return fv_fail(ctx, FV_ERR_UNSUPPORTED, "%s: does not run on %s yet; use the CPU (--device cpu)",
                   what, ctx->backend->name);
}

void *fv_dev_alloc(fv_ctx *ctx, size_t count, size_t size)
{
    size_t bytes;
    if (!fv_mul_size(count, size, &bytes)) {
        fv_fail(ctx, FV_ERR_OOM, "out of memory: %zu x %zu bytes asked", count, size);
        return NULL;
    }
    return ctx->backend->alloc(ctx, bytes);
}

void fv_dev_free(fv_ctx *ctx, void *ptr)
{
    if (ptr) ctx->backend->free(ctx, ptr);
}

fv_status fv_dev_zero(fv_ctx *ctx, void *ptr, size_t bytes)
{
    return ctx->backend->zero(ctx, ptr, bytes);
}

fv_status fv_dev_copy(fv_ctx *ctx, void *dst, const void *src, size_t bytes, fv_copy_kind kind)
{
    return ctx->backend->copy(ctx, dst, src, bytes, kind);
}

void *fv_work_alloc(fv_ctx *ctx, uint64_t bytes)
{
    return ctx->device == FV_DEVICE_CPU ? fv_alloc(ctx, (size_t)bytes)
                                        : fv_dev_alloc(ctx, (size_t)bytes, 1);
}

void *fv_mirror_alloc(fv_ctx *ctx, void *host, size_t bytes)
{
    return ctx->device == FV_DEVICE_CPU ? host : fv_dev_alloc(ctx, bytes, 1);
}

void fv_mirror_free(fv_ctx *ctx, void *mirror, const void *host)
{
    if (mirror != host) fv_dev_free(ctx, mirror);
}

fv_status fv_mirror_send(fv_ctx *ctx, void *mirror, const void *host, size_t bytes)
{
    return mirror == host ? FV_OK : fv_dev_copy(ctx, mirror, host, bytes, FV_COPY_TO_DEVICE);
}

fv_status fv_mirror_fetch(fv_ctx *ctx, void *host, const void *mirror, size_t bytes)
{
    return mirror == host ? FV_OK : fv_dev_copy(ctx, host, mirror, bytes, FV_COPY_TO_HOST);
}
