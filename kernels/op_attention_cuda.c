/* op_attention_cuda.c - host side of attention: sdpa and cross_attention. Definition: op_attention.c. */
#include "cuda_ops.h"

#include <math.h>

static fv_status check_types(const fvi_exec *e)
{
    const fv_dtype t = e->in[0].dtype;
    if ((t != FV_F32 && t != FV_BF16) || e->out[0].dtype != t ||
        (e->attr->i[1] && e->in[1].dtype != t))
        return fv_fail(e->ctx, FV_ERR_DTYPE, "attention: inputs and output must be of one type, "
                       "f32 or bf16");
    return FV_OK;
}

static fv_status check_head(const fvi_exec *e, int64_t hd)
{
    if (hd < 4 || hd % 4)
        return fv_fail(e->ctx, FV_ERR_SHAPE,
                       "attention: a head of %lld, not a multiple of 4", (long long)hd);
    if (hd > FVK_HEAD_MOST)
        return fv_fail(e->ctx, FV_ERR_UNSUPPORTED,
                       "attention: heads of %lld have no CUDA kernel yet, up to %d have",
                       (long long)hd, FVK_HEAD_MOST);
    return FV_OK;
}

/* Self-attention: q, k, v in one tensor. Cross: k and v in a second one. */
static fv_status attention_args(const fvi_exec *e, fvk_attention_args *a)
{
    const fv_tensor *x = &e->in[0], *kv = &e->in[1];
    const bool is_cross = e->attr->i[1] != 0;
    const int nd = is_cross ? 4 : 5;
    FV_TRY(check_types(e));
    if (x->ndim != nd || (!is_cross && x->dim[2] != 3) ||
        (is_cross && (kv->ndim != 5 || kv->dim[2] != 2 || kv->dim[0] != x->dim[0] ||
                      kv->dim[3] != x->dim[2] || kv->dim[4] != x->dim[3])))
        return fv_fail(e->ctx, FV_ERR_SHAPE, "attention: shapes of q, k and v do not fit");
    FV_TRY(check_head(e, x->dim[nd - 1]));
    *a = (fvk_attention_args){ .lse = e->out[1].data, .B = x->dim[0], .T = x->dim[1],
                               .S = is_cross ? kv->dim[1] : x->dim[1], .h = x->dim[nd - 2],
                               .hd = x->dim[nd - 1], .bf16 = x->dtype == FV_BF16,
                               .fault = fvi_cuda_of(e->ctx)->api->fault(fvi_cuda_of(e->ctx)->dev) };
    a->scale = e->attr->f[0] != 0 ? e->attr->f[0] : 1.0f / sqrtf((float)a->hd);
    for (int p = 0; p < 3; p++) {
        const int in = is_cross && p > 0;
        a->x[p] = fvi_cuda_in(&e->in[in]);
        a->g[p] = fvi_cuda_out(&e->gin[in], e->gin_add[in]);
        a->parts[p] = !is_cross ? 3 : in ? 2 : 1;
        a->at[p] = in ? p - 1 : p;
    }
    if (is_cross) {
        a->bias = e->in[2].data;
    } else {
        a->causal = e->attr->i[0];
        a->visible = e->in[1].data;
    }
    return FV_OK;
}

static int64_t blocks_of(const fvk_attention_args *a, int64_t tokens, int64_t tile)
{
    return a->B * a->h * ((tokens + tile - 1) / tile);
}

static fv_status attention_prepare(fvi_exec *e)
{
    fvk_attention_args a;
    return attention_args(e, &a);
}

static fv_status attention_forward(fvi_exec *e)
{
    fvk_attention_args a;
    FV_TRY(attention_args(e, &a));
    a.o = fvi_cuda_out(&e->out[0], 0);
    return FVI_LAUNCH(e->ctx, attention, blocks_of(&a, a.T, FVK_TILE), &a);
}

static size_t attention_scratch(const fvi_exec *e, bool backward)
{
    const fv_tensor *x = &e->in[0];
    if (!backward) return 0;
    return (size_t)(x->dim[0] * x->dim[1] * x->dim[x->ndim - 2]) * sizeof(float);
}

#define BACK_TILE 16 /* FVK_BACK of the kernels */

static fv_status attention_backward(fvi_exec *e)
{
    fvk_attention_args a;
    const bool is_cross = e->attr->i[1] != 0, dq = e->gin[0].data != NULL,
               dkv = is_cross ? e->gin[1].data != NULL : dq;
    if (!dq && !dkv) return FV_OK;
    FV_TRY(attention_args(e, &a));
    if (is_cross && e->gin[2].data)
        return fv_fail(e->ctx, FV_ERR_UNSUPPORTED, "cross_attention: the bias has no gradient");
    if (!a.lse)
        return fv_fail(e->ctx, FV_ERR_STATE,
                       "attention: backward needs the statistics of a training forward");
    a.o_in = fvi_cuda_in(&e->out[0]);
    a.go = fvi_cuda_in(&e->gout[0]);
    a.delta = e->scratch;
    const int64_t warps = FVK_THREADS / 32, rows = a.B * a.h * a.T;
    FV_TRY(FVI_LAUNCH(e->ctx, attention_delta, (rows + warps - 1) / warps, &a));
    if (dq) FV_TRY(FVI_LAUNCH(e->ctx, attention_dq, blocks_of(&a, a.T, BACK_TILE), &a));
    return dkv ? FVI_LAUNCH(e->ctx, attention_dkv, blocks_of(&a, a.S, BACK_TILE), &a) : FV_OK;
}

const fvi_op_def fvi_cuda_sdpa = {
    .name = "sdpa", .bwd_reads_in = 1 | 2, .bwd_reads_out = 3, .scratch_bytes = attention_scratch,
    .prepare = attention_prepare, .forward = attention_forward, .backward = attention_backward
};
const fvi_op_def fvi_cuda_cross = {
    .name = "cross_attention", .bwd_reads_in = 1 | 2 | 4, .bwd_reads_out = 3,
    .scratch_bytes = attention_scratch, .prepare = attention_prepare,
    .forward = attention_forward, .backward = attention_backward
};
