/* cuda_ops.h - private: what the host side of the CUDA ops (op_*_cuda.c) shares. */
#ifndef FV_CUDA_OPS_H
#define FV_CUDA_OPS_H

#include "backend.h"
#include "cuda/abi.h"

/* The backend of one context: its table, with the device behind it. */
typedef struct fvi_cuda {
    fvi_backend backend;
    const fvk_api *api;
    fvk_dev *dev;
    void *module; /* from dlopen; NULL: a table that was given */
    size_t column_bytes; /* of a convolution's rows at a time; tests take less */
    int64_t fp8_least;   /* rows, columns and outputs of a linear in fp8; tests take less */
    int64_t int8_least;  /* rows and columns of integer products for tensor cores; tests take less */
} fvi_cuda;
FV_INLINE const fvi_cuda *fvi_cuda_of(const fv_ctx *ctx)
{
    return (const fvi_cuda *)(const void *)ctx->backend;
}

/* A status with the device's sentence for what a function of fvk_api returned. */
fv_status fvi_cuda_status(fv_ctx *ctx, int code, const char *what);
/* A product that can be done without: *out NULL where the device has none such. */
fv_status fvi_cuda_product(fv_ctx *ctx, const fvk_gemm *g, fvk_product **out);
/* blocks 0 is no launch. */
fv_status fvi_cuda_launch(fv_ctx *ctx, fvk_kernel k, int64_t blocks, const void *args,
                          size_t bytes);
#define FVI_LAUNCH(ctx, name, blocks, args) \
    fvi_cuda_launch((ctx), FVK_##name, (blocks), (args), sizeof(fvk_##name##_args))
fv_status fvi_cuda_zero(fv_ctx *ctx, void *p, size_t bytes);

/* Turns a context of the CPU into one of the device behind `api`: for tests with a table of their
 * own, before anything was made with the context. */
fv_status fvi_cuda_attach(fv_ctx *ctx, const fvk_api *api, void *module);

#define FVI_CUDA_COLUMN_BYTES ((size_t)64 << 20)
#define FVI_CUDA_FP8_LEAST 64
/* Below it 16 bytes of sums written and read for each number cost what dp2a's K / 2 instructions do. */
#define FVI_CUDA_INT8_LEAST 256

/* Blocks for a walk over n elements: enough for any GPU, the rest is walked. */
#define FVI_CUDA_WALK_BLOCKS 4096
FV_INLINE int64_t fvi_cuda_walk(int64_t n)
{
    const int64_t blocks = (n + FVK_THREADS - 1) / FVK_THREADS;
    return blocks < FVI_CUDA_WALK_BLOCKS ? blocks : FVI_CUDA_WALK_BLOCKS;
}

FV_INLINE fvk_in fvi_cuda_in(const fv_tensor *t)
{
    const fvk_in r = { t->data, t->dtype == FV_BF16 };
    return r;
}
FV_INLINE fvk_out fvi_cuda_out(const fv_tensor *t, int add)
{
    const fvk_out r = { t->data, t->dtype == FV_BF16, add };
    return r;
}
FV_INLINE int64_t fvi_last(const fv_tensor *t) { return t->dim[t->ndim - 1]; }

/* Sums of columns: a->kind, groups, T, C and inputs are set; segments and parts follow from them.
 * `sums` of them (1 or 2) lie one after another at `scratch`. */
size_t fvi_cuda_columns_bytes(int64_t groups, int64_t T, int64_t C, int sums);
fv_status fvi_cuda_columns(fv_ctx *ctx, fvk_columns_args *a, void *scratch, int sums);
/* y of group g at y + g * stride (+)= scale * the sums of a. */
fv_status fvi_cuda_fold(fv_ctx *ctx, const fvk_columns_args *a, fvk_out y, int64_t stride,
                        float scale);

/* Where kernels tell of bad input. */
FV_INLINE int32_t *fvi_cuda_fault(fv_ctx *ctx)
{
    return fvi_cuda_of(ctx)->api->fault(fvi_cuda_of(ctx)->dev);
}

/* Sums over pairs: a->a, b, B, T, what and what else it needs are set, then segments and parts. */
size_t fvi_cuda_pairs_bytes(int64_t B, int64_t T);
fv_status fvi_cuda_pairs(fv_ctx *ctx, fvk_pairs_args *a, void *scratch);
/* What `what` makes of the sums, to y. */
fv_status fvi_cuda_pairs_fold(fv_ctx *ctx, const fvk_pairs_args *a, fvk_out y, int what,
                              double scale);

extern const fvi_op_def fvi_cuda_linear, fvi_cuda_cast, fvi_cuda_act, fvi_cuda_affine,
    fvi_cuda_binary, fvi_cuda_norm_mod, fvi_cuda_gate_res, fvi_cuda_forecast, fvi_cuda_swiglu,
    fvi_cuda_sdpa, fvi_cuda_cross, fvi_cuda_qk_norm_rope, fvi_cuda_timestep, fvi_cuda_embed,
    fvi_cuda_patchify, fvi_cuda_mean1, fvi_cuda_slice, fvi_cuda_concat,
    fvi_cuda_conv2d, fvi_cuda_groupnorm, fvi_cuda_upsample2x, fvi_cuda_windows,
    fvi_cuda_haar, fvi_cuda_pool, fvi_cuda_filter, fvi_cuda_mix_rows, fvi_cuda_unit_qk,
    fvi_cuda_l2norm, fvi_cuda_lerp, fvi_cuda_mix2, fvi_cuda_vq, fvi_cuda_loss_vq,
    fvi_cuda_loss_mse, fvi_cuda_loss_l1, fvi_cuda_loss_ce, fvi_cuda_loss_soft_ce,
    fvi_cuda_loss_masked, fvi_cuda_wkv, fvi_cuda_wkv_head, fvi_cuda_route, fvi_cuda_balance,
    fvi_cuda_soft_rate, fvi_cuda_loss_lpips, fvi_cuda_loss_dists, fvi_cuda_loss_tree,
    fvi_cuda_loss_place, fvi_cuda_low_pass, fvi_cuda_loss_spectrum, fvi_cuda_loss_ssim,
    fvi_cuda_loss_texture, fvi_cuda_moe;

/* Backward of a loss that kept its gradient, times `parts`, in out[1]: fvi_kept_backward. */
fv_status fvi_cuda_kept_backward(fvi_exec *e, double parts);
/* y = scale times the sum of part [n]. */
fv_status fvi_cuda_total(fv_ctx *ctx, const double *part, int64_t n, double scale, float *y);
FV_INLINE size_t fvi_cuda_aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

#endif
