/* backend.h - private: what a device implements. One constant per device; fv_ctx_create picks it.
 *
 * Tapes, plans, parameters and engines talk to a device through this table alone: an op is looked
 * up with op(), tensors that ops read and write live in memory from alloc(). A second device adds
 * backend_x.* with such a constant, and op_x.* files beside the CPU ones; nothing else changes.
 * On the CPU, device memory is the context's memory and copies are memcpy. */
#ifndef FV_BACKEND_H
#define FV_BACKEND_H

#include "tape.h"

typedef struct fvi_backend {
    fv_device device;
    const char *name;
    const fvi_op_def *(*op)(fvi_op op);           /* never NULL for a valid op */
    void *(*alloc)(fv_ctx *ctx,
                   size_t bytes); /* zeroed, at least 64-byte aligned; NULL: message set */
    void (*free)(fv_ctx *ctx, void *ptr);
    fv_status (*copy)(fv_ctx *ctx, void *dst, const void *src, size_t bytes, fv_copy_kind kind);
    fv_status (*sync)(fv_ctx *ctx);               /* wait for all work queued by this context */
    fv_status (*open)(fv_ctx *ctx);
    void (*close)(fv_ctx *ctx);
} fvi_backend;

extern const fvi_backend fvi_backend_cpu;

#endif
