/* backend_cpu.c - the CPU backend: op table, and the SIMD tables of a context.
 *
 * The tables are filled once, at fv_ctx_create, from the CPU features that the context may use;
 * contexts with different masks can live side by side (tests compare them). */
#include "backend.h"
#include "cpu_ops.h"

#include <string.h>

fv_status fvi_cpu_ops_create(fv_ctx *ctx)
{
    /* Like the context itself, not counted: a fresh context holds 0 bytes, and what a job leaves
     * behind is seen in the count. */
    struct fvi_cpu_ops *o = ctx->alloc.alloc(ctx->alloc.user, sizeof *o, 64);
    if (!o) return FV_ERR_OOM;
    memset(o, 0, sizeof *o);
    fvi_pointwise_init(&o->pointwise, ctx->cpu);
    fvi_norm_init(&o->norm, ctx->cpu);
    fvi_loss_init(&o->loss, ctx->cpu);
    fvi_group_init(&o->group, ctx->cpu);
    fvi_attention_init(&o->attention, ctx->cpu);
    fvi_wkv_init(&o->wkv, ctx->cpu);
    fvi_tree_init(&o->tree, ctx->cpu);
    fvi_vq_init(&o->vq, ctx->cpu);
    fvi_picture_init(&o->picture, ctx->cpu);
    fvi_distill_init(&o->distill, ctx->cpu);
    ctx->cpu_ops = o;
    return FV_OK;
}

void fvi_cpu_ops_destroy(fv_ctx *ctx)
{
    ctx->alloc.free(ctx->alloc.user, ctx->cpu_ops);
    ctx->cpu_ops = NULL;
}

const fvi_op_def *fvi_cpu_op(fvi_op op)
{
    static const fvi_op_def *const table[FVI_OP_COUNT] = {
        [FVI_OP_LINEAR] = &fvi_cpu_linear,
        [FVI_OP_CONV2D] = &fvi_cpu_conv2d,
        [FVI_OP_CAST] = &fvi_cpu_cast,
        [FVI_OP_ACT] = &fvi_cpu_act,
        [FVI_OP_AFFINE] = &fvi_cpu_affine,
        [FVI_OP_BINARY] = &fvi_cpu_binary,
        [FVI_OP_NORM_MOD] = &fvi_cpu_norm_mod,
        [FVI_OP_GATE_RES] = &fvi_cpu_gate_res,
        [FVI_OP_FORECAST] = &fvi_cpu_forecast,
        [FVI_OP_SWIGLU] = &fvi_cpu_swiglu,
        [FVI_OP_SDPA] = &fvi_cpu_sdpa,
        [FVI_OP_CROSS] = &fvi_cpu_cross,
        [FVI_OP_QK_NORM_ROPE] = &fvi_cpu_qk_norm_rope,
        [FVI_OP_TIMESTEP] = &fvi_cpu_timestep,
        [FVI_OP_EMBED] = &fvi_cpu_embed,
        [FVI_OP_PATCHIFY] = &fvi_cpu_patchify,
        [FVI_OP_GROUPNORM] = &fvi_cpu_groupnorm,
        [FVI_OP_UPSAMPLE2X] = &fvi_cpu_upsample2x,
        [FVI_OP_MEAN1] = &fvi_cpu_mean1,
        [FVI_OP_SLICE] = &fvi_cpu_slice,
        [FVI_OP_LOSS_MSE] = &fvi_cpu_loss_mse,
        [FVI_OP_LOSS_CE] = &fvi_cpu_loss_ce,
        [FVI_OP_LERP] = &fvi_cpu_lerp,
        [FVI_OP_MIX2] = &fvi_cpu_mix2,
        [FVI_OP_WKV] = &fvi_cpu_wkv,
        [FVI_OP_WKV_HEAD] = &fvi_cpu_wkv_head,
        [FVI_OP_ROUTE] = &fvi_cpu_route,
        [FVI_OP_BALANCE] = &fvi_cpu_balance,
        [FVI_OP_MOE] = &fvi_cpu_moe,
        [FVI_OP_LOSS_TREE] = &fvi_cpu_loss_tree,
        [FVI_OP_CONCAT] = &fvi_cpu_concat,
        [FVI_OP_LOSS_SOFT_CE] = &fvi_cpu_loss_soft_ce,
        [FVI_OP_LOSS_L1] = &fvi_cpu_loss_l1,
        [FVI_OP_FILTER] = &fvi_cpu_filter,
        [FVI_OP_L2NORM] = &fvi_cpu_l2norm,
        [FVI_OP_VQ] = &fvi_cpu_vq,
        [FVI_OP_LOSS_VQ] = &fvi_cpu_loss_vq,
        [FVI_OP_HAAR] = &fvi_cpu_haar,
        [FVI_OP_WINDOWS] = &fvi_cpu_windows,
        [FVI_OP_MIX_ROWS] = &fvi_cpu_mix_rows,
        [FVI_OP_UNIT_QK] = &fvi_cpu_unit_qk,
        [FVI_OP_SOFT_RATE] = &fvi_cpu_soft_rate,
        [FVI_OP_LOSS_SSIM] = &fvi_cpu_loss_ssim,
        [FVI_OP_LOSS_TEXTURE] = &fvi_cpu_loss_texture,
        [FVI_OP_POOL] = &fvi_cpu_pool,
        [FVI_OP_LOSS_LPIPS] = &fvi_cpu_loss_lpips,
        [FVI_OP_LOSS_DISTS] = &fvi_cpu_loss_dists,
        [FVI_OP_LOW_PASS] = &fvi_cpu_low_pass,
        [FVI_OP_LOSS_SPECTRUM] = &fvi_cpu_loss_spectrum,
        [FVI_OP_LOSS_PLACE] = &fvi_cpu_loss_place,
        [FVI_OP_LOSS_MASKED] = &fvi_cpu_loss_masked,
    };
    return (unsigned)op < FVI_OP_COUNT ? table[op] : NULL;
}

const fvi_attention_ops *fvi_attention_of(const fv_ctx *ctx)
{
    return &ctx->cpu_ops->attention;
}

/* ---- The device ------------------------------------------------------------------------------ */

static void *cpu_alloc(fv_ctx *ctx, size_t bytes) { return fv_calloc(ctx, 1, bytes); }

static fv_status cpu_copy(fv_ctx *ctx, void *dst, const void *src, size_t bytes, fv_copy_kind kind)
{
    (void)ctx;
    (void)kind;
    if (bytes) memcpy(dst, src, bytes);
    return FV_OK;
}

static fv_status cpu_zero(fv_ctx *ctx, void *p, size_t bytes)
{
    (void)ctx;
    if (bytes) memset(p, 0, bytes);
    return FV_OK;
}

static fv_status cpu_sync(fv_ctx *ctx)
{
    (void)ctx;
    return FV_OK;
}

/* One limit for all: where oneDNN may not use AVX-512 it has no bf16 products, so that whoever asks
 * the context for bf16 must see it; and our kernels are then those of such a CPU as well. */
static fv_status cpu_open(fv_ctx *ctx)
{
    if (!fvi_dnnl_avx512()) ctx->cpu &= FV_CPU_AVX2;
    return fvi_cpu_ops_create(ctx);
}

static void cpu_close(fv_ctx *ctx)
{
    fvi_dnnl_shutdown(ctx);
    fvi_cpu_ops_destroy(ctx);
}

const fvi_backend fvi_backend_cpu = {
    .device = FV_DEVICE_CPU, .name = "cpu", .op = fvi_cpu_op, .alloc = cpu_alloc, .free = fv_free,
    .copy = cpu_copy, .zero = cpu_zero, .sync = cpu_sync, .open = cpu_open, .close = cpu_close,
};
