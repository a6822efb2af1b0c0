/* ranks_cuda.h - private: of fvi_device_optim (backend.h), for optim_cuda.c. */
#ifndef FV_RANKS_CUDA_H
#define FV_RANKS_CUDA_H

#include "backend.h"

fv_status fvi_cuda_ranks_open(fv_ctx *ctx, void **out);
fv_status fvi_cuda_ranks_sum(fv_ctx *ctx, void *ranks, float *x, int64_t n);
void fvi_cuda_ranks_close(fv_ctx *ctx, void *ranks);

#endif
