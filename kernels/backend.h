/* backend.h - private: what a device implements. One constant per device; fv_ctx_create picks it.
 *
 * Tapes, plans, parameters and engines talk to a device through this table alone: an op is looked
 * up with op(), tensors that ops read and write live in memory from alloc(). On the CPU, device memory
 * is the context's memory and copies are memcpy. What the CPU can and a device lacks is refused when
 * a plan is built. */
#ifndef FV_BACKEND_H
#define FV_BACKEND_H

#include "tape.h"

typedef struct fvi_backend {
    fv_device device;
    const char *name;
    const fvi_op_def *(*op)(fvi_op op);           /* NULL: not on this device */
    void *(*alloc)(fv_ctx *ctx,
                   size_t bytes); /* zeroed, at least 64-byte aligned; NULL: message set */
    void (*free)(fv_ctx *ctx, void *ptr);
    fv_status (*copy)(fv_ctx *ctx, void *dst, const void *src, size_t bytes, fv_copy_kind kind);
    fv_status (*zero)(fv_ctx *ctx, void *ptr, size_t bytes);
    bool (*owns)(fv_ctx *ctx, const void *ptr);   /* may ops read it? NULL: any memory */
    fv_status (*sync)(fv_ctx *ctx);               /* wait for all work queued by this context */
    fv_status (*open)(fv_ctx *ctx); /* may set ctx->backend to a table of its own */
    void (*close)(fv_ctx *ctx);
    const struct fvi_device_optim *optim; /* training in memory of its own; NULL: that of the CPU */
} fvi_backend;

/* What optimiser and parameters need of a device: flat arrays in its memory (optim.c, params.c). */
struct fvi_adamw;
typedef struct fvi_device_optim {
    /* Bytes of work memory for n elements, zeroed once. */
    size_t (*work_bytes)(int64_t n);
    /* One update as optim.c defines it: norm of the gradients, clipping, AdamW, EMA; gradients are
     * cleared, and half [n], NULL for none, gets the new values in bf16. kind [n / 16]: 0 frozen, 1
     * trained, 2 with decay. Nothing is changed where *norm is not finite. */
    fv_status (*step)(fv_ctx *ctx, const struct fvi_adamw *a, float clip, const uint8_t *kind,
                      uint16_t *half, void *work, double *norm);
    /* p and e change places where they are trained. */
    fv_status (*swap)(fv_ctx *ctx, float *p, float *e, const uint8_t *kind, int64_t n);
    fv_status (*to_bf16)(fv_ctx *ctx, const float *x, int64_t n, uint16_t *y);
    /* *norm: root of the sum of squares of x; work as for a step. y = scale x, or with adds y += . */
    fv_status (*norm)(fv_ctx *ctx, const float *x, int64_t n, void *work, double *norm);
    fv_status (*scale)(fv_ctx *ctx, const float *x, int64_t n, float scale, bool adds, float *y);
    /* c += a b, see fvi_sum_product. */
    fv_status (*product_create)(fv_ctx *ctx, void **out, const fvi_product_shape *s);
    fv_status (*product_run)(fv_ctx *ctx, void *p, const float *a, const float *b, float *c);
    void (*product_destroy)(fv_ctx *ctx, void *p);
    /* Sums of arrays of the device over ranks, without the host; *out NULL, on all ranks alike, where
     * that cannot be. All ranks make these calls in the same order. */
    fv_status (*ranks_open)(fv_ctx *ctx, void **out);
    fv_status (*ranks_sum)(fv_ctx *ctx, void *ranks, float *x, int64_t n);
    void (*ranks_close)(fv_ctx *ctx, void *ranks);
} fvi_device_optim;

extern const fvi_backend fvi_backend_cpu, fvi_backend_cuda;
extern const fvi_device_optim fvi_cuda_optim;

/* Values of a parameter where the device of ctx reads them: f32, or kept in device memory as `type`
 * (f32 or bf16). In params.c; thread-safe like fvi_param_f32. */
fv_status fvi_param_values(fv_ctx *ctx, fv_params *p, fv_pid id, const float **out);
fv_status fvi_param_on_device(fv_ctx *ctx, fv_params *p, fv_pid id, fv_dtype type,
                              const void **out);

/* As fvi_param_packed, in device memory: want->pack copies what it made to there. */
fv_status fvi_param_packed_on_device(fv_ctx *ctx, fv_params *p, fv_pid id, const fvi_form *want,
                                     const void **out);

/* Shapes and types of qk_norm_rope as every device needs them. In op_rope.c. */
fv_status fvi_rope_check(const fvi_exec *e);
/* Taps of FILTER along columns and along rows. In op_filter.c. */
void fvi_filter_taps(fv_image_filter kind, float down[5], float right[5]);

#endif
