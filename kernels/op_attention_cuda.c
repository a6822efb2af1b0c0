/* op_attention_cuda.c - host side of attention: sdpa and cross_attention. Definition: op_attention.c.
 *
 * Heads of up to FVK_HEAD_MOST in bf16 without a mask are a library's (cuDNN) where it is there; else
 * kernels of our own: for bf16 on tensor cores where rows are aligned (cuda/tensor.h), else in f32
 * (cuda/flash.h). Wider ones, as in the autoencoder of Stable Diffusion, are products of the device head
 * by head: q k^T, softmax, times v, in pieces of queries whose scores fit fvi_cuda.column_bytes.
 * Backward makes the chances P again:
 *     dP = dO V^T   dS = scale P (dP - sum of dO O)   dQ = dS K   dK = sum of dS^T Q   dV = sum of P^T dO
 * with the sums over pieces in f32. */
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

/* ---- Tensor cores ---------------------------------------------------------------------------- */

#define MMA_ROWS 128 /* FVK_MMA_ROWS of the kernels */

static bool is_aligned(fvk_in x) { return x.bf16 && (uintptr_t)x.p % 16 == 0; }

/* Which of the kernels made for 32, 64, 80 and 128 columns; -1: none. */
static int mma_of(const fvk_attention_args *a)
{
    static const int columns[4] = { 32, 64, 80, 128 };
    int i = 0;
    if (a->hd % 8 || !is_aligned(a->x[0]) || !is_aligned(a->x[1]) || !is_aligned(a->x[2])) return -1;
    while (i < 4 && a->hd > columns[i]) i++;
    return i < 4 ? i : -1;
}

static fv_status launch(const fvi_exec *e, fvk_kernel k, int64_t tokens, int64_t tile,
                        const fvk_attention_args *a)
{
    return fvi_cuda_launch(e->ctx, k, blocks_of(a, tokens, tile), a, sizeof *a);
}

static fv_status forward(const fvi_exec *e, const fvk_attention_args *a)
{
    static const fvk_kernel mma[4] = { FVK_attention_mma32, FVK_attention_mma64,
                                       FVK_attention_mma80, FVK_attention_mma128 };
    const int i = mma_of(a);
    if (i >= 0 && a->o.bf16 && (uintptr_t)a->o.p % 4 == 0)
        return launch(e, mma[i], a->T, MMA_ROWS, a);
    return launch(e, FVK_attention, a->T, FVK_TILE, a);
}

#define BACK_TILE 16 /* FVK_BACK of the kernels */

static fv_status gradients(const fvi_exec *e, const fvk_attention_args *a, bool dq, bool dkv)
{
    static const fvk_kernel mma_q[3] = { FVK_attention_dq_mma32, FVK_attention_dq_mma64,
                                         FVK_attention_dq_mma80 };
    static const fvk_kernel mma_kv[3] = { FVK_attention_dkv_mma32, FVK_attention_dkv_mma64,
                                          FVK_attention_dkv_mma80 };
    const int i = mma_of(a);
    const bool is_mma = i >= 0 && i < 3 && is_aligned(a->go);
    const int64_t tile = is_mma ? MMA_ROWS : BACK_TILE;
    if (dq) FV_TRY(launch(e, is_mma ? mma_q[i] : FVK_attention_dq, a->T, tile, a));
    return dkv ? launch(e, is_mma ? mma_kv[i] : FVK_attention_dkv, a->S, tile, a) : FV_OK;
}

/* ---- Wide heads ------------------------------------------------------------------------------ */

#define PIECE_ROWS 128

typedef struct plans {
    fvk_product *score[2], *value[2]; /* of a whole piece of queries, of the last one */
    fvk_product *key[2][2];           /* dK, dV: of the first piece, and added */
    int64_t piece;
    fvk_library *flash, *back; /* of a library, of heads that are not wide; NULL: kernels of ours */
} plans;

/* q, k, v and the result of a head; scores in f32, and as the product with v wants them. Backward also
 * the gradient of the result, dP, dS, and in f32 dK and dV; delta of all queries. */
typedef struct wide_scratch {
    size_t q, k, v, o, s, p, go, dp, ds, dk, dv, delta, total;
} wide_scratch;

static bool is_wide(const fvi_exec *e) { return fvi_last(&e->in[0]) > FVK_HEAD_MOST; }

static int64_t piece_of(const fvi_exec *e, const fvk_attention_args *a)
{
    const int64_t bytes = (int64_t)fvi_cuda_of(e->ctx)->column_bytes;
    int64_t n = bytes / (a->S * 4) / PIECE_ROWS * PIECE_ROWS;
    if (n < PIECE_ROWS) n = PIECE_ROWS;
    return n < a->T ? n : a->T;
}

static size_t take(size_t *total, int64_t count, size_t size)
{
    const size_t at = *total;
    *total += ((size_t)count * size + 255) / 256 * 256;
    return at;
}

static wide_scratch scratch_of(const fvk_attention_args *a, int64_t piece, bool back)
{
    const size_t size = a->bf16 ? 2 : 4;
    wide_scratch s = { 0 };
    s.q = take(&s.total, piece * a->hd, size);
    s.k = take(&s.total, a->S * a->hd, size);
    s.v = take(&s.total, a->S * a->hd, size);
    s.o = take(&s.total, piece * a->hd, size);
    s.s = take(&s.total, piece * a->S, 4);
    s.p = take(&s.total, piece * a->S, size);
    if (!back) return s;
    s.go = take(&s.total, piece * a->hd, size);
    s.dp = take(&s.total, piece * a->S, 4);
    s.ds = take(&s.total, piece * a->S, size);
    s.dk = take(&s.total, a->S * a->hd, 4);
    s.dv = take(&s.total, a->S * a->hd, 4);
    s.delta = take(&s.total, a->B * a->h * a->T, 4);
    return s;
}

static void attention_release(fv_ctx *ctx, void *state)
{
    plans *w = state;
    if (!w) return;
    fvk_product *const all[] = { w->score[0],  w->score[1],  w->value[0],  w->value[1],
                                 w->key[0][0], w->key[0][1], w->key[1][0], w->key[1][1] };
    for (size_t i = 0; i < FV_ARRAY_LEN(all); i++)
        if (all[i]) fvi_cuda_of(ctx)->api->gemm_destroy(fvi_cuda_of(ctx)->dev, all[i]);
    fvk_library *const libraries[] = { w->flash, w->back };
    for (size_t i = 0; i < FV_ARRAY_LEN(libraries); i++)
        if (libraries[i]) fvi_cuda_of(ctx)->api->library_destroy(fvi_cuda_of(ctx)->dev, libraries[i]);
    fv_free(ctx, w);
}

static fv_status create(fvi_exec *e, const fvk_gemm *g, fvk_product **out)
{
    const fvi_cuda *d = fvi_cuda_of(e->ctx);
    return fvi_cuda_status(e->ctx, d->api->gemm_create(d->dev, g, out), "attention");
}

static fv_status wide_prepare(fvi_exec *e, const fvk_attention_args *a)
{
    const bool back = e->gin[0].ndim > 0 || (e->attr->i[1] && e->gin[1].ndim > 0);
    plans *w = fv_calloc(e->ctx, 1, sizeof *w);
    if (!w) return FV_ERR_OOM;
    e->state = w;
    w->piece = piece_of(e, a);
    for (int k = 0; k < 2; k++) {
        const int64_t rows = k ? a->T % w->piece : w->piece;
        const fvk_gemm score = { .M = rows, .N = a->S, .K = a->hd, .ab_bf16 = a->bf16,
                                 .b_trans = 1 };
        const fvk_gemm value = { .M = rows, .N = a->hd, .K = a->S, .ab_bf16 = a->bf16,
                                 .c_bf16 = a->bf16 };
        if (rows == 0) continue;
        FV_TRY(create(e, &score, &w->score[k]));
        FV_TRY(create(e, &value, &w->value[k]));
        for (int later = k; later < 2 && back; later++) {
            const fvk_gemm key = { .M = a->S, .N = a->hd, .K = rows, .ab_bf16 = a->bf16,
                                   .a_trans = 1, .accumulate = later };
            FV_TRY(create(e, &key, &w->key[k][later]));
        }
    }
    return FV_OK;
}

/* Rows first .. first + rows of a part of a head, together at `to`. */
static fv_status gather(fvi_exec *e, const fvk_attention_args *a, int64_t head, int part,
                        int64_t first, int64_t rows, void *to)
{
    const int64_t tokens = part ? a->S : a->T, token = a->parts[part] * a->h * a->hd;
    const fvk_strip_args s = { .x = a->x[part], .y = { to, a->bf16, 0 }, .rows = rows, .n = a->hd,
                               .x_stride = token, .y_stride = a->hd,
                               .x_at = (head / a->h * tokens + first) * token +
                                       (a->at[part] * a->h + head % a->h) * a->hd };
    return FVI_LAUNCH(e->ctx, strip, fvi_cuda_walk(rows * a->hd), &s);
}

/* The same of a head of the result or its gradient [B, T, h hd]. */
static fv_status gather_result(fvi_exec *e, const fvk_attention_args *a, int64_t head, fvk_in from,
                               int64_t first, int64_t rows, void *to)
{
    const int64_t token = a->h * a->hd;
    const fvk_strip_args s = { .x = from, .y = { to, a->bf16, 0 }, .rows = rows, .n = a->hd,
                               .x_stride = token, .y_stride = a->hd,
                               .x_at = (head / a->h * a->T + first) * token + head % a->h * a->hd };
    return FVI_LAUNCH(e->ctx, strip, fvi_cuda_walk(rows * a->hd), &s);
}

static fv_status scatter(fvi_exec *e, const fvk_attention_args *a, int64_t head, int64_t first,
                         int64_t rows, const void *from)
{
    const int64_t token = a->h * a->hd;
    const fvk_strip_args s = { .x = { from, a->bf16 }, .y = a->o, .rows = rows, .n = a->hd,
                               .x_stride = a->hd, .y_stride = token,
                               .y_at = (head / a->h * a->T + first) * token +
                                       head % a->h * a->hd };
    return FVI_LAUNCH(e->ctx, strip, fvi_cuda_walk(rows * a->hd), &s);
}

/* Rows [rows, hd] to where the gradient of a part has them. */
static fv_status scatter_part(fvi_exec *e, const fvk_attention_args *a, int64_t head, int part,
                              int64_t first, int64_t rows, fvk_in from)
{
    const int64_t tokens = part ? a->S : a->T, token = a->parts[part] * a->h * a->hd;
    const fvk_strip_args s = { .x = from, .y = a->g[part], .rows = rows, .n = a->hd,
                               .x_stride = a->hd, .y_stride = token,
                               .y_at = (head / a->h * tokens + first) * token +
                                       (a->at[part] * a->h + head % a->h) * a->hd };
    return FVI_LAUNCH(e->ctx, strip, fvi_cuda_walk(rows * a->hd), &s);
}

static fv_status product(fvi_exec *e, fvk_product *g, const void *a, const void *b, void *c)
{
    const fvi_cuda *d = fvi_cuda_of(e->ctx);
    return fvi_cuda_status(e->ctx, d->api->gemm_run(d->dev, g, a, b, NULL, c), "attention");
}

static fv_status wide_piece(fvi_exec *e, const fvk_attention_args *a, const wide_scratch *at,
                            int64_t head, int64_t first)
{
    const plans *w = e->state;
    uint8_t *base = e->scratch;
    const bool is_whole = a->T - first >= w->piece;
    const int64_t rows = is_whole ? w->piece : a->T - first;
    const fvk_scores_args s = { .a = *a, .s = (const float *)(void *)(base + at->s),
                                .p = { base + at->p, a->bf16, 0 }, .head = head, .first = first };
    FV_TRY(gather(e, a, head, 0, first, rows, base + at->q));
    FV_TRY(product(e, w->score[!is_whole], base + at->q, base + at->k, base + at->s));
    FV_TRY(FVI_LAUNCH(e->ctx, scores, rows, &s));
    FV_TRY(product(e, w->value[!is_whole], base + at->p, base + at->v, base + at->o));
    return scatter(e, a, head, first, rows, base + at->o);
}

static fv_status wide_forward(fvi_exec *e, const fvk_attention_args *a)
{
    const plans *w = e->state;
    const wide_scratch at = scratch_of(a, w->piece, false);
    uint8_t *base = e->scratch;
    for (int64_t head = 0; head < a->B * a->h; head++) {
        FV_TRY(gather(e, a, head, 1, 0, a->S, base + at.k));
        FV_TRY(gather(e, a, head, 2, 0, a->S, base + at.v));
        for (int64_t i = 0; i < a->T; i += w->piece) FV_TRY(wide_piece(e, a, &at, head, i));
    }
    return FV_OK;
}

/* Gradients of a piece of queries: dQ is written, dK and dV are summed. */
static fv_status wide_piece_back(fvi_exec *e, const fvk_attention_args *a, const wide_scratch *at,
                                 int64_t head, int64_t first)
{
    const plans *w = e->state;
    uint8_t *base = e->scratch;
    const bool is_whole = a->T - first >= w->piece;
    const int k = !is_whole, later = first > 0;
    const int64_t rows = is_whole ? w->piece : a->T - first;
    const fvk_scores_args s = { .a = *a, .s = (const float *)(void *)(base + at->s),
                                .p = { base + at->p, a->bf16, 0 }, .head = head, .first = first };
    const fvk_scores_dx_args ds = { .p = { base + at->p, a->bf16 }, .rows = rows, .S = a->S,
                                    .dp = (const float *)(void *)(base + at->dp),
                                    .delta = a->delta + head * a->T + first, .scale = a->scale,
                                    .ds = { base + at->ds, a->bf16, 0 } };
    FV_TRY(gather(e, a, head, 0, first, rows, base + at->q));
    FV_TRY(gather_result(e, a, head, a->go, first, rows, base + at->go));
    FV_TRY(product(e, w->score[k], base + at->q, base + at->k, base + at->s));
    FV_TRY(FVI_LAUNCH(e->ctx, scores, rows, &s));
    FV_TRY(product(e, w->score[k], base + at->go, base + at->v, base + at->dp));
    FV_TRY(FVI_LAUNCH(e->ctx, scores_dx, fvi_cuda_walk(rows * a->S), &ds));
    if (a->g[0].p) {
        const fvk_in dq = { base + at->o, a->bf16 };
        FV_TRY(product(e, w->value[k], base + at->ds, base + at->k, base + at->o));
        FV_TRY(scatter_part(e, a, head, 0, first, rows, dq));
    }
    if (!a->g[1].p) return FV_OK;
    FV_TRY(product(e, w->key[k][later], base + at->ds, base + at->q, base + at->dk));
    return product(e, w->key[k][later], base + at->p, base + at->go, base + at->dv);
}

/* a->delta is computed, a->lse NULL. */
static fv_status wide_backward(fvi_exec *e, const fvk_attention_args *a)
{
    const plans *w = e->state;
    const wide_scratch at = scratch_of(a, w->piece, true);
    uint8_t *base = e->scratch;
    for (int64_t head = 0; head < a->B * a->h; head++) {
        const fvk_in dk = { base + at.dk, 0 }, dv = { base + at.dv, 0 };
        FV_TRY(gather(e, a, head, 1, 0, a->S, base + at.k));
        FV_TRY(gather(e, a, head, 2, 0, a->S, base + at.v));
        for (int64_t i = 0; i < a->T; i += w->piece) FV_TRY(wide_piece_back(e, a, &at, head, i));
        if (!a->g[1].p) continue;
        FV_TRY(scatter_part(e, a, head, 1, 0, a->S, dk));
        FV_TRY(scatter_part(e, a, head, 2, 0, a->S, dv));
    }
    return FV_OK;
}

/* ---- Attention of a library ------------------------------------------------------------------ */

/* bf16 without a mask; what else it wants it says itself. */
static bool is_plain(const fvi_exec *e, const fvk_attention_args *a)
{
    const bool is_cross = e->attr->i[1] != 0;
    return a->bf16 && !a->causal && e->in[is_cross ? 2 : 1].ndim == 0;
}

static fv_status library(fvi_exec *e, const fvk_flash *f, fvk_library **out)
{
    const fvi_cuda *d = fvi_cuda_of(e->ctx);
    const int code = d->api->attention_create(d->dev, f, out);
    return code == FVK_UNSUPPORTED ? FV_OK : fvi_cuda_status(e->ctx, code, "attention");
}

static fv_status library_prepare(fvi_exec *e, const fvk_attention_args *a)
{
    const bool is_cross = e->attr->i[1] != 0, all = !is_cross || e->gin[1].ndim > 0;
    const int64_t row = a->h * a->hd;
    fvk_flash f = { .B = a->B, .T = a->T, .S = a->S, .h = a->h, .hd = a->hd,
                    .q_row = a->parts[0] * row, .k_row = a->parts[1] * row,
                    .v_row = a->parts[2] * row, .scale = a->scale,
                    .keeps_lse = e->out[1].ndim > 0 };
    if (!is_plain(e, a)) return FV_OK;
    plans *w = fv_calloc(e->ctx, 1, sizeof *w);
    if (!w) return FV_ERR_OOM;
    e->state = w;
    FV_TRY(library(e, &f, &w->flash));
    f.backward = 1;
    if (!w->flash || !f.keeps_lse || e->gin[0].ndim == 0 || !all || e->gin_add[0] ||
        (is_cross && e->gin_add[1]) || e->gin[0].dtype != FV_BF16)
        return FV_OK;
    return library(e, &f, &w->back);
}

static void *part_of(void *p, const fvk_attention_args *a, int part)
{
    return (uint16_t *)p + a->at[part] * a->h * a->hd;
}

/* *done: it has run; not where memory is not aligned. */
static fv_status library_run(fvi_exec *e, const fvk_attention_args *a, bool backward, bool *done)
{
    const plans *w = e->state;
    const fvi_cuda *d = fvi_cuda_of(e->ctx);
    fvk_library *l = !w ? NULL : backward ? w->back : w->flash;
    void *p[10] = { NULL, NULL, NULL, e->out[0].data, a->lse, e->gout[0].data };
    *done = false;
    if (!l) return FV_OK;
    if (backward) p[9] = e->scratch;
    for (int part = 0; part < 3; part++) {
        p[part] = part_of((void *)(uintptr_t)a->x[part].p, a, part);
        if (backward) p[6 + part] = part_of(a->g[part].p, a, part);
    }
    const int code = d->api->library_run(d->dev, l, p);
    *done = code == FVK_OK;
    return code == FVK_UNSUPPORTED ? FV_OK : fvi_cuda_status(e->ctx, code, "attention");
}

/* ---- Passes ---------------------------------------------------------------------------------- */

static fv_status attention_prepare(fvi_exec *e)
{
    fvk_attention_args a;
    FV_TRY(attention_args(e, &a));
    return is_wide(e) ? wide_prepare(e, &a) : library_prepare(e, &a);
}

static fv_status attention_forward(fvi_exec *e)
{
    fvk_attention_args a;
    FV_TRY(attention_args(e, &a));
    a.o = fvi_cuda_out(&e->out[0], 0);
    if (is_wide(e)) return wide_forward(e, &a);
    bool done;
    FV_TRY(library_run(e, &a, false, &done));
    return done ? FV_OK : forward(e, &a);
}

static size_t attention_scratch(const fvi_exec *e, bool backward)
{
    const fv_tensor *x = &e->in[0];
    fvk_attention_args a;
    if (!is_wide(e))
        return backward ? (size_t)(x->dim[0] * x->dim[1] * x->dim[x->ndim - 2]) * sizeof(float) : 0;
    return attention_args(e, &a) == FV_OK ? scratch_of(&a, piece_of(e, &a), backward).total : 0;
}

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
    bool done = false;
    if (!is_wide(e) && dq && dkv) FV_TRY(library_run(e, &a, true, &done));
    if (done) return FV_OK;
    a.o_in = fvi_cuda_in(&e->out[0]);
    a.go = fvi_cuda_in(&e->gout[0]);
    a.delta = e->scratch;
    if (is_wide(e))
        a.delta = (float *)(void *)((uint8_t *)e->scratch +
                                    scratch_of(&a, piece_of(e, &a), true).delta);
    const int64_t warps = FVK_THREADS / 32, rows = a.B * a.h * a.T;
    FV_TRY(FVI_LAUNCH(e->ctx, attention_delta, (rows + warps - 1) / warps, &a));
    if (is_wide(e)) {
        a.lse = NULL;
        return wide_backward(e, &a);
    }
    return gradients(e, &a, dq, dkv);
}

const fvi_op_def fvi_cuda_sdpa = {
    .name = "sdpa", .bwd_reads_in = 1 | 2, .bwd_reads_out = 3, .scratch_bytes = attention_scratch,
    .prepare = attention_prepare, .release = attention_release, .forward = attention_forward,
    .backward = attention_backward
};
const fvi_op_def fvi_cuda_cross = {
    .name = "cross_attention", .bwd_reads_in = 1 | 2 | 4, .bwd_reads_out = 3,
    .scratch_bytes = attention_scratch, .prepare = attention_prepare,
    .release = attention_release, .forward = attention_forward,
    .backward = attention_backward
};
