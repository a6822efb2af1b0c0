/* op_linear_fp8_cuda.c - LINEAR with 8-bit floats (e4m3) on both sides of the product, in inference.
 *
 *     x [M, K] -> q [M, K], a_scale [M]     each time: a row's largest number becomes 448
 *     w [N, K] -> e4m3 [N, K], b_scale [N]  once, on the host
 *     y = act(a_scale b_scale (q . w) + bias)
 *
 * Where the device's product takes the scales of rows (Hopper), it also adds bias and activation for
 * bf16; else the plain numbers come out, and one pass of ours does all of that. Sums are f32 without
 * the faster, rougher accumulation of the library. What is small stays bf16: fewer than fp8_least
 * rows, columns or outputs, as of conditioning, patches and the last layer, and what is no multiple of
 * 16. */
#include "cuda/dialect.h" /* e4m3 */

#include "op_linear_fp8_cuda.h"

#include <math.h>

struct fvi_fp8 {
    fvk_product *product;
    const uint8_t *weights;  /* e4m3 [N, K] */
    const float *b_scale;
    const void *bias;        /* bf16, for the product; NULL: not there or in in[2] */
    int64_t M, N, K;
    bool scales, adds_bias, acts; /* what the product does */
};

static int64_t outputs_of(const fvi_exec *e) { return e->in[1].dim[0]; }
static int64_t columns_of(const fvi_exec *e) { return fv_tensor_count(&e->in[1]) / e->in[1].dim[0]; }

bool fvi_fp8_wanted(const fvi_exec *e)
{
    const int64_t least = fvi_cuda_of(e->ctx)->fp8_least, N = outputs_of(e), K = columns_of(e);
    return e->attr->i[1] && e->in[0].dtype == FV_BF16 && !e->training && e->params &&
           e->pid[1] >= 0 && !fvi_params_master(e->params) && N % 16 == 0 && K % 16 == 0 &&
           N >= least && K >= least && fv_tensor_count(&e->in[0]) / K >= least;
}

/* Rows in e4m3, then their scales. */
typedef struct fp8_scratch { size_t q, scale, total; } fp8_scratch;
static fp8_scratch scratch_of(int64_t M, int64_t K)
{
    fp8_scratch s = { 0 };
    s.scale = fvi_cuda_aligned((size_t)(M * K));
    s.total = s.scale + fvi_cuda_aligned((size_t)M * sizeof(float));
    return s;
}

size_t fvi_fp8_scratch(const fvi_exec *e)
{
    const int64_t K = columns_of(e);
    return scratch_of(fv_tensor_count(&e->in[0]) / K, K).total;
}

/* ---- Weights --------------------------------------------------------------------------------- */

typedef struct fp8_key { int32_t kind, pad; int64_t N, K; } fp8_key; /* of a packed form */

static float largest(const float *w, int64_t n)
{
    float most = 0;
    for (int64_t i = 0; i < n; i++)
        if (fabsf(w[i]) > most) most = fabsf(w[i]);
    return most;
}

/* f32 [N, K] -> e4m3 [N, K], scales [N] in device memory */
static fv_status pack(fv_ctx *ctx, const void *key, const void *values, void *dst)
{
    const fp8_key *k = key;
    const size_t at = fvi_cuda_aligned((size_t)(k->N * k->K)), bytes = at + (size_t)k->N * sizeof(float);
    uint8_t *packed = fv_alloc(ctx, bytes);
    if (!packed) return FV_ERR_OOM;
    memset(packed, 0, bytes);
    for (int64_t n = 0; n < k->N; n++) {
        const float *w = (const float *)values + n * k->K;
        const float most = largest(w, k->K), scale = most > 0 ? most / 448.0f : 1.0f;
        memcpy(packed + at + (size_t)n * sizeof scale, &scale, sizeof scale);
        for (int64_t i = 0; i < k->K; i++) packed[n * k->K + i] = fvk_to_e4m3(w[i] / scale);
    }
    const fv_status s = fv_dev_copy(ctx, dst, packed, bytes, FV_COPY_TO_DEVICE);
    fv_free(ctx, packed);
    return s;
}

static fv_status take_weights(fvi_exec *e, fvi_fp8 *f)
{
    const fp8_key key = { 66, 0, f->N, f->K };
    const size_t at = fvi_cuda_aligned((size_t)(f->N * f->K));
    const fvi_form form = { &key, sizeof key, at + (size_t)f->N * sizeof(float), FV_F32, pack };
    const void *packed = NULL;
    FV_TRY(fvi_param_packed_on_device(e->ctx, e->params, e->pid[1], &form, &packed));
    f->weights = packed;
    f->b_scale = (const float *)(const void *)(f->weights + at);
    return FV_OK;
}

/* ---- Prepare --------------------------------------------------------------------------------- */

void fvi_fp8_release(fv_ctx *ctx, fvi_fp8 *f)
{
    if (!f) return;
    if (f->product) fvi_cuda_of(ctx)->api->gemm_destroy(fvi_cuda_of(ctx)->dev, f->product);
    fv_free(ctx, f);
}

/* The product that does most. */
static fv_status choose(fvi_exec *e, fvi_fp8 *f)
{
    const bool half = e->out[0].dtype == FV_BF16;
    const bool bias = e->in[2].ndim > 0, fits = half && (!bias || e->pid[2] >= 0);
    fvk_gemm g = { .M = f->M, .N = f->N, .K = f->K, .kind = FVK_GEMM_FP8, .c_bf16 = half,
                   .b_trans = 1, .scales = 1, .bias = bias && fits };
    if (fits && e->attr->i[0] == FV_ACT_RELU) g.then = FVK_THEN_RELU;
    if (fits && e->attr->i[0] == FV_ACT_GELU_TANH) g.then = FVK_THEN_GELU;
    FV_TRY(fvi_cuda_product(e->ctx, &g, &f->product));
    if (!f->product) g.scales = g.bias = g.then = 0;
    if (!f->product) FV_TRY(fvi_cuda_product(e->ctx, &g, &f->product));
    f->scales = g.scales != 0;
    f->adds_bias = g.bias != 0;
    f->acts = g.then != FVK_THEN_NOTHING;
    if (!f->product || !f->adds_bias) return FV_OK;
    return fvi_param_on_device(e->ctx, e->params, e->pid[2], FV_BF16, &f->bias);
}

fv_status fvi_fp8_prepare(fvi_exec *e, fvi_fp8 **out)
{
    *out = NULL;
    fvi_fp8 *f = fv_calloc(e->ctx, 1, sizeof *f);
    if (!f) return FV_ERR_OOM;
    f->N = outputs_of(e);
    f->K = columns_of(e);
    f->M = fv_tensor_count(&e->in[0]) / f->K;
    fv_status s = choose(e, f);
    if (s == FV_OK && f->product) s = take_weights(e, f);
    if (s == FV_OK && f->product) *out = f;
    else fvi_fp8_release(e->ctx, f);
    return s;
}

fv_status fvi_fp8_check(fv_ctx *ctx)
{
    const fvk_gemm g = { .M = 64, .N = 64, .K = 64, .kind = FVK_GEMM_FP8, .b_trans = 1, .c_bf16 = 1 };
    fvk_product *p = NULL;
    if (ctx->device != FV_DEVICE_CUDA)
        return fv_fail(ctx, FV_ERR_UNSUPPORTED, "precision fp8 needs a GPU: no CPU has such products");
    FV_TRY(fvi_cuda_product(ctx, &g, &p));
    if (!p)
        return fv_fail(ctx, FV_ERR_UNSUPPORTED, "precision fp8: this GPU has no products of 8-bit "
                       "floats (compute capability 8.9 and later has); use bf16");
    fvi_cuda_of(ctx)->api->gemm_destroy(fvi_cuda_of(ctx)->dev, p);
    return FV_OK;
}

/* ---- Forward --------------------------------------------------------------------------------- */

/* What the product left to do. */
static fv_status finish(fvi_exec *e, const fvi_fp8 *f, const float *a_scale)
{
    const int act = f->acts ? FV_ACT_NONE : e->attr->i[0];
    const bool bias = e->in[2].ndim > 0 && !f->adds_bias;
    const fvk_rescale_args a = { .y = fvi_cuda_out(&e->out[0], 0),
                                 .a_scale = f->scales ? NULL : a_scale, .b_scale = f->b_scale,
                                 .bias = bias ? e->in[2].data : NULL, .n = f->M * f->N, .N = f->N,
                                 .act = act };
    if (f->scales && !bias && act == FV_ACT_NONE) return FV_OK;
    return FVI_LAUNCH(e->ctx, rescale, fvi_cuda_walk(a.n), &a);
}

fv_status fvi_fp8_forward(fvi_exec *e, const fvi_fp8 *f)
{
    const fvi_cuda *d = fvi_cuda_of(e->ctx);
    const fp8_scratch at = scratch_of(f->M, f->K);
    uint8_t *q = e->scratch;
    float *a_scale = (float *)(void *)(q + at.scale);
    const fvk_to_fp8_args a = { .x = fvi_cuda_in(&e->in[0]), .y = q, .scale = a_scale, .K = f->K };
    const fvk_operands o = { q, f->weights, f->bias, a_scale, f->b_scale, e->out[0].data };
    FV_TRY(FVI_LAUNCH(e->ctx, to_fp8, f->M, &a));
    FV_TRY(fvi_cuda_status(e->ctx, d->api->gemm_scaled(d->dev, f->product, &o), "fp8 product"));
    return finish(e, f, a_scale);
}
