/* decode_cuda.c - host side of cuda/decoding.h: layouts, and how many blocks. */
#include "decode_device.h"

#include "cuda_ops.h"

#include <math.h>

#define WARPS (FVK_THREADS / 32)
#define FEW_BLOCKS 256 /* below that, a warp takes fewer outputs: about two blocks a multiprocessor */

/* ---- Matrices -------------------------------------------------------------------------------- */

static bool matrix_bytes(fv_dtype type, int N, int K, size_t *bytes)
{
    return fv_mul_size((size_t)N, fvi_dev_row_bytes(type, K), bytes);
}

size_t fvi_dev_pack_bytes(fv_dtype type, int N, int K)
{
    size_t n, all;
    if (!matrix_bytes(type, N, K, &n)) return 0;
    return fv_add_size(n, type == FV_I8 ? (size_t)N * sizeof(float) : 0, &all) ? all : 0;
}

fv_status fvi_dev_pack(fv_ctx *ctx, fv_dtype type, int N, int K, const float *w, void *dst)
{
    const size_t bytes = fvi_dev_pack_bytes(type, N, K);
    void *host = fv_alloc(ctx, bytes);
    if (!host) return FV_ERR_OOM;
    fvi_dec_pack_rows(type, N, K, w, host, fv_ctx_threads(ctx));
    const fv_status s = fv_dev_copy(ctx, dst, host, bytes, FV_COPY_TO_DEVICE);
    fv_free(ctx, host);
    return s;
}

fvi_dec_matrix fvi_dev_view(fv_dtype type, int N, int K, const void *packed)
{
    size_t n;
    fvi_dec_matrix m = { .type = type, .N = N, .K = K, .panels = packed };
    if (type == FV_I8 && matrix_bytes(type, N, K, &n))
        m.scale = (const float *)(const void *)((const uint8_t *)packed + n);
    return m;
}

/* ---- Keys and values ------------------------------------------------------------------------- */

fvk_dec_cache fvi_dev_cache(fv_dtype type, int hd, int heads, int layers, int condition, int slots,
                            size_t *bytes)
{
    const int64_t row = (int64_t)fvi_dec_pad(hd), size = (int64_t)fv_dtype_size(type);
    const int64_t all = (int64_t)condition + slots, f = type == FV_I8 ? 4 : 0;
    fvk_dec_cache c = { .type = (int32_t)type, .hd = hd, .row = (int32_t)row, .heads = heads,
                        .layers = layers, .condition = condition, .slots = slots };
    c.v = slots * row * size;
    c.k_scale = c.v + all * row * size;
    c.v_scale = c.k_scale + slots * f;
    c.head_bytes = (c.v_scale + all * f + 63) / 64 * 64;
    if (!fv_mul_size((size_t)c.head_bytes, (size_t)heads * (size_t)layers, bytes)) *bytes = 0;
    return c;
}

fv_status fvi_dev_move(fv_ctx *ctx, const fvk_dec_cache *c, int seq, int seqs, const int *from,
                       const int *to, int n)
{
    fvk_dec_move_args a = { .cache = *c, .seq = seq, .seqs = seqs };
    const int64_t words = (int64_t)c->row * (int64_t)fv_dtype_size((fv_dtype)c->type) / 2 + 2;
    for (int k = 0; k < n; k++) {
        if (from[k] != to[k]) {
            a.from[a.n] = from[k];
            a.to[a.n++] = to[k];
        }
        if (a.n == 0 || (a.n < FVK_DEC_MOVES && k + 1 < n)) continue;
        FV_TRY(FVI_LAUNCH(ctx, dec_move,
                          fvi_cuda_walk((int64_t)seqs * c->layers * c->heads * words), &a));
        a.n = 0;
    }
    return FV_OK;
}

/* ---- A pass ---------------------------------------------------------------------------------- */

fv_status fvi_dev_prepare(fv_ctx *ctx, const fvk_dec_prepare_args *a, int rows)
{
    return FVI_LAUNCH(ctx, dec_prepare, rows, a);
}

fv_status fvi_dev_multiply(fv_ctx *ctx, const fvi_dev_product *p)
{
    const fvi_dec_matrix *m = p->m, *up = p->up;
    const int64_t groups = (p->rows + FVK_DEC_ROWS - 1) / FVK_DEC_ROWS;
    const int64_t sums = (int64_t)m->N * (up ? 2 : 1), least = up ? 2 : 1;
    int64_t per = p->rows > FVK_DEC_SUMS / 4 ? 2 : 4;
    while (per > least && groups * sums / (per * WARPS) < FEW_BLOCKS) per /= 2;
    const fvk_dec_product_args a = {
        .pass = p->pass, .w = m->panels, .w_scale = m->scale, .w2 = up ? up->panels : NULL,
        .w2_scale = up ? up->scale : NULL, .bias = m->bias, .x = p->x, .x_scale = p->x_scale,
        .y = p->y, .N = m->N, .room = (int64_t)fvi_dec_pad(m->K), .ldy = (int64_t)p->ldy,
        .groups = groups, .type = (int32_t)m->type, .per = (int32_t)per, .is_last = p->is_last,
        .act = (int32_t)p->act
    };
    const int64_t panels = (sums + per * WARPS - 1) / (per * WARPS);
    if (m->type == FV_I8) return FVI_LAUNCH(ctx, dec_product8, panels * groups, &a);
    return FVI_LAUNCH(ctx, dec_product, panels * groups, &a);
}

fv_status fvi_dev_store(fv_ctx *ctx, const fvk_dec_store_args *a, int rows)
{
    const int64_t units = (int64_t)rows * a->cache.heads;
    return FVI_LAUNCH(ctx, dec_store, (units + WARPS - 1) / WARPS, a);
}

fv_status fvi_dev_attend(fv_ctx *ctx, const fvk_dec_attend_args *a, fvk_out y, size_t ldy, int rows)
{
    const fvk_dec_cache *c = &a->cache;
    const fvk_dec_join_args join = { .pass = a->pass, .part = a->part, .y = y, .ldy = (int64_t)ldy,
                                     .heads = c->heads, .hd = c->hd, .chunks = a->chunks };
    FV_TRY(FVI_LAUNCH(ctx, dec_attend, (int64_t)rows * c->heads * a->chunks, a));
    return FVI_LAUNCH(ctx, dec_join, fvi_cuda_walk((int64_t)rows * c->heads * c->hd), &join);
}

fv_status fvi_dev_guide(fv_ctx *ctx, const fvk_dec_guide_args *a, int outs)
{
    return FVI_LAUNCH(ctx, dec_guide, fvi_cuda_walk((int64_t)outs * a->vocab), a);
}
