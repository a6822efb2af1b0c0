/* op_linear_fp8_cuda.h - private to the CUDA backend: a LINEAR whose product is one of 8-bit floats. */
#ifndef FV_OP_LINEAR_FP8_CUDA_H
#define FV_OP_LINEAR_FP8_CUDA_H

#include "cuda_ops.h"

typedef struct fvi_fp8 fvi_fp8;
/* Is it asked for (attribute 1 of LINEAR), and do shapes fit? By shapes and types alone. */
bool fvi_fp8_wanted(const fvi_exec *e);
size_t fvi_fp8_scratch(const fvi_exec *e);
/* *out NULL: the device has none such. */
fv_status fvi_fp8_prepare(fvi_exec *e, fvi_fp8 **out);
fv_status fvi_fp8_forward(fvi_exec *e, const fvi_fp8 *f);
void fvi_fp8_release(fv_ctx *ctx, fvi_fp8 *f);

#endif
