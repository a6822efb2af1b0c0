/* device_fill.h - private: tables and work of a codec in one piece of device memory. The same function
 * runs twice: first it counts, then it fills. */
#ifndef FV_DEVICE_FILL_H
#define FV_DEVICE_FILL_H

#include "engine.h"

typedef struct device_fill {
    fv_ctx *ctx;
    uint8_t *base; /* of the device; NULL: only count */
    size_t used;
    void *room;    /* of the host, for a table in the order of the device */
    size_t most;   /* bytes of the largest of these */
    fv_status status;
} device_fill;

FV_INLINE void *device_take(device_fill *f, size_t bytes)
{
    void *at = f->base ? f->base + f->used : NULL;
    f->used += (bytes + 255) & ~(size_t)255;
    return at;
}

FV_INLINE void *device_put(device_fill *f, const void *host, size_t bytes)
{
    void *at = device_take(f, bytes);
    if (at && f->status == FV_OK)
        f->status = fv_dev_copy(f->ctx, at, host, bytes, FV_COPY_TO_DEVICE);
    return at;
}

/* Counts, takes memory, which goes to *arena, and fills it. FV_ERR_OOM: without a message of its own
 * beyond the device's. */
FV_INLINE fv_status device_fill_all(fv_ctx *ctx, void (*fill)(device_fill *f, void *user),
                                    void *user, void **arena, size_t *bytes)
{
    device_fill f = { .ctx = ctx, .status = FV_OK };
    fill(&f, user);
    *bytes = f.used;
    *arena = fv_dev_alloc(ctx, f.used, 1);
    if (!*arena) return FV_ERR_OOM;
    f.room = fv_alloc(ctx, f.most ? f.most : 1);
    if (!f.room) return FV_ERR_OOM;
    f.base = *arena;
    f.used = 0;
    fill(&f, user);
    fv_free(ctx, f.room);
    return f.status;
}

#endif
