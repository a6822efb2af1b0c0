/* backend_cuda.c - the CUDA backend: finding the module, device memory, op table.
 *
 * libfovea names nothing of CUDA. All that needs the toolkit is libfovea_cuda.so, which is opened when
 * a context asks for the device: beside the library or program that this code is in, above it, in its
 * ../lib and ../lib64, and where the system looks for libraries. A machine without driver, toolkit or
 * module runs on the CPU, and the message says which of them is missing. The module stays loaded: the
 * CUDA runtime in it cannot be unloaded safely. */
#define _GNU_SOURCE /* dladdr */
#include "cuda_ops.h"
#include "device_graph.h"

#include <dlfcn.h>
#include <stdlib.h>

#define MODULE "libfovea_cuda.so"
#define WHY_BYTES 400

/* ---- The module ------------------------------------------------------------------------------ */

static const char here; /* its address is in the library or program that this code is in */

static void *try_open(const char *folder, size_t length, const char *below)
{
    char path[4096];
    const int n =
        snprintf(path, sizeof path, "%.*s/%s%s", (int)length, folder, below, MODULE);
    if (n < 0 || n >= (int)sizeof path) return NULL;
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    fclose(f);
    return dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
}

static void *open_module(void)
{
    static const char *const below[] = { "", "../", "../lib/", "../lib64/" };
    Dl_info info;
    if (dladdr(&here, &info) && info.dli_fname) {
        const char *slash = strrchr(info.dli_fname, '/');
        for (size_t i = 0; slash && i < FV_ARRAY_LEN(below); i++) {
            void *m = try_open(info.dli_fname, (size_t)(slash - info.dli_fname), below[i]);
            if (m) return m;
        }
    }
    return dlopen(MODULE, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
}

/* The table of the module, or NULL and why. */
static const fvk_api *find_api(void **module, char *why, size_t why_bytes)
{
    *module = open_module();
    if (!*module) {
        const char *e = dlerror();
        snprintf(why, why_bytes, "its module cannot be opened: %s", e ? e : MODULE);
        return NULL;
    }
    fvk_entry entry = NULL;
    *(void **)&entry = dlsym(*module, FVK_ENTRY);
    const fvk_api *api = entry ? entry() : NULL;
    if (api && api->abi == FVK_ABI && api->kernels == FVK_KERNELS) return api;
    snprintf(why, why_bytes, "%s is of another version of fovea", MODULE);
    dlclose(*module);
    *module = NULL;
    return NULL;
}

fv_status fv_cuda_device(fv_ctx *ctx, int index, fv_cuda_info *out)
{
    char why[WHY_BYTES] = "";
    void *module = NULL;
    fvk_info info;
    memset(out, 0, sizeof *out);
    if (index < 0) return fv_fail(ctx, FV_ERR_ARG, "cuda: device %d", index);
    const fvk_api *api = find_api(&module, why, sizeof why);
    if (!api) return fv_fail(ctx, FV_ERR_DEVICE, "cuda: %s", why);
    memset(&info, 0, sizeof info);
    const int code = api->info(index, &info, why, sizeof why);
    dlclose(module);
    if (code != FVK_OK)
        return fv_fail(ctx, code == FVK_UNSUPPORTED ? FV_ERR_NOT_FOUND : FV_ERR_DEVICE, "cuda: %s",
                       why);
    snprintf(out->name, sizeof out->name, "%s", info.name);
    out->major = info.major;
    out->minor = info.minor;
    out->multiprocessors = info.multiprocessors;
    out->runtime = info.runtime;
    out->driver = info.driver;
    out->memory_bytes = info.memory_bytes;
    snprintf(out->libraries, sizeof out->libraries, "%s", info.libraries);
    return FV_OK;
}

/* ---- The device ------------------------------------------------------------------------------ */

fv_status fvi_cuda_status(fv_ctx *ctx, int code, const char *what)
{
    static const fv_status status[] = { FV_OK, FV_ERR_OOM, FV_ERR_DEVICE, FV_ERR_UNSUPPORTED,
                                        FV_ERR_ARG, FV_ERR_NUMERIC };
    if (code == FVK_OK) return FV_OK;
    return fv_fail(ctx, (size_t)code < FV_ARRAY_LEN(status) ? status[code] : FV_ERR_DEVICE,
                   "cuda: %s: %s", what, fvi_cuda_of(ctx)->api->error(fvi_cuda_of(ctx)->dev));
}

fv_status fvi_cuda_product(fv_ctx *ctx, const fvk_gemm *g, fvk_product **out)
{
    const fvi_cuda *d = fvi_cuda_of(ctx);
    const int code = d->api->gemm_create(d->dev, g, out);
    return code == FVK_UNSUPPORTED ? FV_OK : fvi_cuda_status(ctx, code, "product");
}

fv_status fvi_cuda_launch(fv_ctx *ctx, fvk_kernel k, int64_t blocks, const void *args,
                          size_t bytes)
{
    static const char *const name[] = {
#define NAME(kernel) #kernel,
        FVK_LIST(NAME)
#undef NAME
    };
    if (blocks == 0) return FV_OK;
    if (blocks > INT32_MAX)
        return fv_fail(ctx, FV_ERR_LIMIT, "cuda: %s: %lld blocks are too many", name[k],
                       (long long)blocks);
    const fvi_cuda *c = fvi_cuda_of(ctx);
    return fvi_cuda_status(ctx, c->api->launch(c->dev, k, blocks, args, bytes), name[k]);
}

fv_status fvi_cuda_zero(fv_ctx *ctx, void *p, size_t bytes)
{
    if (bytes == 0) return FV_OK;
    return fvi_cuda_status(ctx, fvi_cuda_of(ctx)->api->zero(fvi_cuda_of(ctx)->dev, p, bytes), "clearing");
}

static void *cuda_alloc(fv_ctx *ctx, size_t bytes)
{
    void *p = fvi_cuda_of(ctx)->api->alloc(fvi_cuda_of(ctx)->dev, bytes ? bytes : 1);
    if (!p) fvi_cuda_status(ctx, FVK_NO_MEMORY, "device memory");
    return p;
}

static void cuda_free(fv_ctx *ctx, void *p) { fvi_cuda_of(ctx)->api->free(fvi_cuda_of(ctx)->dev, p); }

static fv_status cuda_copy(fv_ctx *ctx, void *dst, const void *src, size_t bytes,
                           fv_copy_kind kind)
{
    const fvi_cuda *c = fvi_cuda_of(ctx);
    if (bytes == 0) return FV_OK;
    int code = FVK_OK;
    switch (kind) {
    case FV_COPY_TO_DEVICE: code = c->api->to_device(c->dev, dst, src, bytes); break;
    case FV_COPY_TO_HOST: code = c->api->to_host(c->dev, dst, src, bytes); break;
    case FV_COPY_ON_DEVICE: code = c->api->on_device(c->dev, dst, src, bytes); break;
    }
    return fvi_cuda_status(ctx, code, "copy");
}

static bool cuda_owns(fv_ctx *ctx, const void *ptr)
{
    return fvi_cuda_of(ctx)->api->owns(fvi_cuda_of(ctx)->dev, ptr) != 0;
}

static fv_status cuda_sync(fv_ctx *ctx)
{
    return fvi_cuda_status(ctx, fvi_cuda_of(ctx)->api->sync(fvi_cuda_of(ctx)->dev), "waiting");
}

/* The one of that number, counted round. */
static int pick_device(const fvk_api *api, int number)
{
    char why[WHY_BYTES];
    fvk_info info;
    int count = 0;
    if (number < 1) return 0;
    while (count <= number && api->info(count, &info, why, sizeof why) == FVK_OK) count++;
    return count > 0 ? number % count : 0;
}

fv_status fvi_cuda_attach(fv_ctx *ctx, const fvk_api *api, void *module)
{
    char why[WHY_BYTES] = "";
    fvi_cuda *c = ctx->alloc.alloc(ctx->alloc.user, sizeof *c, 64);
    if (!c) return FV_ERR_OOM;
    *c = (fvi_cuda){ fvi_backend_cuda, api, NULL, module, FVI_CUDA_COLUMN_BYTES, FVI_CUDA_FP8_LEAST,
                       FVI_CUDA_INT8_LEAST };
    const int code = api->open(pick_device(api, ctx->cuda_device), &c->dev, why, sizeof why);
    if (code != FVK_OK) {
        ctx->alloc.free(ctx->alloc.user, c);
        return fv_fail(ctx, FV_ERR_DEVICE, "cuda: %s", why);
    }
    (void)api->set(c->dev, FVK_SET_OFF, ctx->cuda_disable);
    (void)api->set(c->dev, FVK_SET_TRIES, ctx->cuda_tries);
    (void)api->set(c->dev, FVK_SET_TF32, ctx->cuda_tf32);
    ctx->backend = &c->backend;
    ctx->device = FV_DEVICE_CUDA;
    return FV_OK;
}

/* The context keeps what the CPU's has: pictures, losses and tables are computed there. */
static fv_status cuda_open(fv_ctx *ctx)
{
    char why[WHY_BYTES] = "";
    void *module = NULL;
    const fvk_api *api = find_api(&module, why, sizeof why);
    if (!api) return fv_fail(ctx, FV_ERR_DEVICE, "cuda: %s", why);
    FV_TRY(fvi_backend_cpu.open(ctx));
    const fv_status s = fvi_cuda_attach(ctx, api, module);
    if (s != FV_OK) {
        fvi_backend_cpu.close(ctx);
        dlclose(module);
    }
    return s;
}

static void cuda_close(fv_ctx *ctx)
{
    const fvi_cuda *c = fvi_cuda_of(ctx);
    ctx->backend = NULL;
    c->api->close(c->dev);
    if (c->module) dlclose(c->module);
    ctx->alloc.free(ctx->alloc.user, (void *)(uintptr_t)c);
    fvi_backend_cpu.close(ctx);
}

/* ---- Graphs ---------------------------------------------------------------------------------- */

static fvk_graph *graph_of(fvi_graph *g) { return (fvk_graph *)(void *)g; }

fv_status fvi_graph_begin(fv_ctx *ctx)
{
    const fvi_cuda *c = fvi_cuda_of(ctx);
    return fvi_cuda_status(ctx, c->api->graph_begin(c->dev), "recording");
}

fv_status fvi_graph_finish(fv_ctx *ctx, fv_status so_far, fvi_graph **out)
{
    const fvi_cuda *c = fvi_cuda_of(ctx);
    fvk_graph *g = NULL;
    *out = NULL;
    const int code = c->api->graph_end(c->dev, so_far == FV_OK ? &g : NULL);
    if (so_far != FV_OK) return so_far;
    *out = (fvi_graph *)(void *)g;
    return fvi_cuda_status(ctx, code, "recording");
}

fv_status fvi_graph_run(fv_ctx *ctx, fvi_graph *g)
{
    const fvi_cuda *c = fvi_cuda_of(ctx);
    return fvi_cuda_status(ctx, c->api->graph_run(c->dev, graph_of(g)), "graph");
}

void fvi_graph_destroy(fv_ctx *ctx, fvi_graph **g)
{
    const fvi_cuda *c = fvi_cuda_of(ctx);
    if (*g) c->api->graph_destroy(c->dev, graph_of(*g));
    *g = NULL;
}

/* ---- Ops ------------------------------------------------------------------------------------- */

static const fvi_op_def *cuda_op(fvi_op op)
{
    static const fvi_op_def *const table[FVI_OP_COUNT] = {
        [FVI_OP_LINEAR] = &fvi_cuda_linear,
        [FVI_OP_CAST] = &fvi_cuda_cast,
        [FVI_OP_ACT] = &fvi_cuda_act,
        [FVI_OP_AFFINE] = &fvi_cuda_affine,
        [FVI_OP_BINARY] = &fvi_cuda_binary,
        [FVI_OP_NORM_MOD] = &fvi_cuda_norm_mod,
        [FVI_OP_GATE_RES] = &fvi_cuda_gate_res,
        [FVI_OP_FORECAST] = &fvi_cuda_forecast,
        [FVI_OP_SWIGLU] = &fvi_cuda_swiglu,
        [FVI_OP_SDPA] = &fvi_cuda_sdpa,
        [FVI_OP_CROSS] = &fvi_cuda_cross,
        [FVI_OP_QK_NORM_ROPE] = &fvi_cuda_qk_norm_rope,
        [FVI_OP_TIMESTEP] = &fvi_cuda_timestep,
        [FVI_OP_EMBED] = &fvi_cuda_embed,
        [FVI_OP_PATCHIFY] = &fvi_cuda_patchify,
        [FVI_OP_MEAN1] = &fvi_cuda_mean1,
        [FVI_OP_SLICE] = &fvi_cuda_slice,
        [FVI_OP_CONCAT] = &fvi_cuda_concat,
        [FVI_OP_CONV2D] = &fvi_cuda_conv2d,
        [FVI_OP_GROUPNORM] = &fvi_cuda_groupnorm,
        [FVI_OP_UPSAMPLE2X] = &fvi_cuda_upsample2x,
        [FVI_OP_WINDOWS] = &fvi_cuda_windows,
        [FVI_OP_HAAR] = &fvi_cuda_haar,
        [FVI_OP_POOL] = &fvi_cuda_pool,
        [FVI_OP_FILTER] = &fvi_cuda_filter,
        [FVI_OP_MIX_ROWS] = &fvi_cuda_mix_rows,
        [FVI_OP_UNIT_QK] = &fvi_cuda_unit_qk,
        [FVI_OP_L2NORM] = &fvi_cuda_l2norm,
        [FVI_OP_LERP] = &fvi_cuda_lerp,
        [FVI_OP_MIX2] = &fvi_cuda_mix2,
        [FVI_OP_VQ] = &fvi_cuda_vq,
        [FVI_OP_LOSS_VQ] = &fvi_cuda_loss_vq,
        [FVI_OP_LOSS_MSE] = &fvi_cuda_loss_mse,
        [FVI_OP_LOSS_L1] = &fvi_cuda_loss_l1,
        [FVI_OP_LOSS_CE] = &fvi_cuda_loss_ce,
        [FVI_OP_LOSS_SOFT_CE] = &fvi_cuda_loss_soft_ce,
        [FVI_OP_LOSS_MASKED] = &fvi_cuda_loss_masked,
        [FVI_OP_WKV] = &fvi_cuda_wkv,
        [FVI_OP_WKV_HEAD] = &fvi_cuda_wkv_head,
        [FVI_OP_ROUTE] = &fvi_cuda_route,
        [FVI_OP_BALANCE] = &fvi_cuda_balance,
        [FVI_OP_SOFT_RATE] = &fvi_cuda_soft_rate,
        [FVI_OP_LOSS_LPIPS] = &fvi_cuda_loss_lpips,
        [FVI_OP_LOSS_DISTS] = &fvi_cuda_loss_dists,
        [FVI_OP_LOSS_TREE] = &fvi_cuda_loss_tree,
        [FVI_OP_LOSS_PLACE] = &fvi_cuda_loss_place,
        [FVI_OP_LOW_PASS] = &fvi_cuda_low_pass,
        [FVI_OP_LOSS_SSIM] = &fvi_cuda_loss_ssim,
        [FVI_OP_LOSS_SPECTRUM] = &fvi_cuda_loss_spectrum,
        [FVI_OP_LOSS_TEXTURE] = &fvi_cuda_loss_texture,
        [FVI_OP_MOE] = &fvi_cuda_moe,
    };
    return (unsigned)op < FVI_OP_COUNT ? table[op] : NULL;
}

const fvi_backend fvi_backend_cuda = {
    .device = FV_DEVICE_CUDA, .name = "CUDA", .op = cuda_op, .alloc = cuda_alloc,
    .free = cuda_free, .copy = cuda_copy, .zero = fvi_cuda_zero, .owns = cuda_owns,
    .sync = cuda_sync, .open = cuda_open, .close = cuda_close, .optim = &fvi_cuda_optim,
};
