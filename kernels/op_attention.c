/* op_attention.c - softmax attention on the CPU, forward and backward: FVI_OP_SDPA, and FVI_OP_CROSS,
 * whose keys and values are those of another sequence.
 *
 * Per batch entry and head, with rows q, k, v [T, hd] inside qkv [B, T, 3, h, hd]:
 *     S = scale q k^T,  P = softmax(S),  o = P v,  lse = log(sum exp S)
 * CROSS: q [B, T, h, hd], k and v [S, hd] inside kv [B, S, 2, h, hd], S = scale q k^T + bias, one bias
 * per key.
 * Keys are walked in blocks of at most KEY_BLOCK with a running maximum and sum (Milakov and
 * Gimelshein 2018; Dao et al. 2022, FlashAttention, algorithm 1), so no T x T array exists. Up to
 * KEY_BLOCK tokens there is one block, which stays in the L2 cache with its score tile.
 *
 * Backward recomputes P = exp(S - lse) per tile (Dao et al. 2022, algorithm 4):
 *     D = rowsum(dO * O),  dV = P^T dO,  dP = dO v^T,  dS = P * (dP - D) * scale,
 *     dQ = dS k,  dK = dS^T q
 *
 * Work is split by outputs: (batch, head, query block) forward, (batch, head) backward. The split
 * depends on shapes only, and every output element is one fixed chain of additions, so results are
 * the same for any number of threads. Scratch is per thread; nothing in it outlives an item.
 *
 * The scalar kernels here are the definition; op_attention_body.h holds the vector ones. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "attention_tables.h"
#include "tape.h"

#define KEY_BLOCK 256
#define KEY_BLOCK_WIDE 128  /* above WIDE_HEAD: panels grow with the head */
#define WIDE_HEAD 256
#define QUERY_TILE 48       /* rows of one score tile: a multiple of the 6-row register tile */
#define QUERY_TILE_MAX 64   /* T up to this: one tile */
#define QUERY_BLOCK 256     /* rows of one forward item */
#define QUERY_BLOCK_FEW 64  /* the same when there are fewer heads than lanes */

/* ---- Scalar kernels -------------------------------------------------------------------------- */

#define SCALAR_WIDTH 4
#define SCALAR_PANEL 16

FV_INLINE float value_at(const void *p, int64_t i, int is_bf16)
{
    return is_bf16 ? fv_bf16_to_f32(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

FV_INLINE int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
FV_INLINE int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }

static int scalar_panel_width(int N, int j)
{
    return N - j >= SCALAR_PANEL ? SCALAR_PANEL : (int)round_up(N - j, SCALAR_WIDTH);
}

static void left_rows_c(float *dst, int64_t ld, const fvi_rows *x)
{
    for (int r = 0; r < x->rows; r++)
        for (int i = 0; i < x->cols; i++)
            dst[r * ld + i] = value_at(x->data, r * x->stride + i, x->is_bf16);
}

static void pack_c(float *panels, const fvi_rows *x)
{
    for (int j = 0; j < x->cols; j += SCALAR_PANEL) {
        const int w = scalar_panel_width(x->cols, j);
        for (int k = 0; k < x->rows; k++)
            for (int i = 0; i < w; i++)
                *panels++ =
                    j + i < x->cols ? value_at(x->data, k * x->stride + j + i, x->is_bf16) : 0;
    }
}

static void pack_t_c(float *panels, const fvi_rows *x)
{
    for (int j = 0; j < x->rows; j += SCALAR_PANEL) {
        const int w = scalar_panel_width(x->rows, j);
        for (int k = 0; k < x->cols; k++)
            for (int i = 0; i < w; i++)
                *panels++ =
                    j + i < x->rows ? value_at(x->data, (j + i) * x->stride + k, x->is_bf16) : 0;
    }
}

static void gemm_c(const fvi_gemm *g)
{
    const float *b = g->b;
    for (int j = 0; j < g->N; j += SCALAR_PANEL, b += g->b_panel) {
        const int w = scalar_panel_width(g->N, j);
        for (int m = 0; m < g->M; m++) {
            float acc[SCALAR_PANEL], *c = g->c + m * g->ldc + j;
            for (int i = 0; i < w; i++) acc[i] = g->add ? c[i] : 0;
            for (int k = 0; k < g->K; k++) {
                const float a = g->a[m * g->a_row + k * g->a_k];
                for (int i = 0; i < w; i++) acc[i] += a * b[(int64_t)k * w + i];
            }
            for (int i = 0; i < w; i++) c[i] = acc[i];
        }
    }
}

static void softmax_c(float *s, int n, int pad, float scale, float stat[3])
{
    const float before = stat[0];
    float m = before, sum = 0;
    for (int j = 0; j < n; j++)
        if (s[j] * scale > m) m = s[j] * scale;
    for (int j = 0; j < pad; j++) {
        s[j] = j < n ? expf(s[j] * scale - m) : 0;
        sum += s[j];
    }
    stat[2] = before == m ? 1.0f : expf(before - m);
    stat[1] = stat[1] * stat[2] + sum;
    stat[0] = m;
}

static void grad_c(const fvi_score_grad *g)
{
    for (int r = 0; r < g->rows; r++) {
        float *s = g->s + r * g->ld, *d = g->dp + r * g->ld;
        const int keys = fvi_visible(g, r);
        for (int j = 0; j < g->n; j++) {
            const bool visible = j < keys;
            s[j] = visible ? expf(s[j] * g->scale - g->lse[r]) : 0;
            d[j] = visible ? s[j] * (d[j] - g->delta[r]) * g->scale : 0;
        }
    }
}

static void store_c(const fvi_rows *dst, const float *src, int64_t ld, const float *mul, int add)
{
    for (int r = 0; r < dst->rows; r++)
        for (int i = 0; i < dst->cols; i++) {
            const int64_t at = r * dst->stride + i;
            float y = src[r * ld + i] * (mul ? mul[3 * r] : 1.0f);
            if (add) y += value_at(dst->data, at, dst->is_bf16);
            if (dst->is_bf16) ((uint16_t *)dst->data)[at] = fv_f32_to_bf16(y);
            else ((float *)dst->data)[at] = y;
        }
}

static void scale_c(float *x, int n, float f)
{
    for (int i = 0; i < n; i++) x[i] *= f;
}

static float dot_c(const void *a, const void *b, int n, int is_bf16)
{
    float sum = 0;
    for (int i = 0; i < n; i++) sum += value_at(a, i, is_bf16) * value_at(b, i, is_bf16);
    return sum;
}

void fvi_attention_init(fvi_attention_ops *o, uint32_t cpu)
{
    const fvi_sdpa_kernels k = { 1, SCALAR_WIDTH, SCALAR_PANEL, left_rows_c, pack_c, pack_t_c,
                                 gemm_c, softmax_c, grad_c };
    o->sdpa[FV_F32] = o->sdpa[FV_BF16] = k;
    o->store = store_c;
    o->scale = scale_c;
    o->dot = dot_c;
#if defined(__x86_64__)
    if (cpu & FV_CPU_AVX2) fvi_attention_init_avx2(o);
    if (cpu & FV_CPU_AVX512) fvi_attention_init_avx512(o);
    if ((cpu & FV_CPU_AVX512) && (cpu & FV_CPU_AVX512BF16)) fvi_attention_init_avx512bf16(o);
#endif
    fvi_rope_init(o, cpu);
}

/* ---- Shape and scratch ----------------------------------------------------------------------- */

typedef struct shape {
    const fvi_attention_ops *ops;
    const fvi_sdpa_kernels *k;
    int64_t B, T, S, h;      /* T queries, S keys */
    int hd, is_bf16, causal;
    bool is_cross;
    const float *bias;       /* [S], or NULL */
    const int32_t *visible;  /* [T] keys that a query sees, never less than the one before; or NULL */
    float scale;
    int kb, tile, block;     /* keys per block, query rows per tile and per forward item      */
    int64_t ld, ldh;         /* floats per row of a score tile, and of a [., hd] array        */
    int64_t units;           /* 4-byte units of a head: hd / unit                             */
} shape;

static fv_status check_self(const fvi_exec *e)
{
    const fv_tensor *x = &e->in[0];
    if (x->ndim != 5 || x->dim[2] != 3 || x->dim[4] < 4 || x->dim[4] % 4)
        return fv_fail(e->ctx, FV_ERR_SHAPE,
                       "sdpa: qkv must be [B, T, 3, heads, head size] with a head "
                       "size that is a multiple of 4");
    if ((x->dtype != FV_F32 && x->dtype != FV_BF16) || e->out[0].dtype != x->dtype)
        return fv_fail(e->ctx, FV_ERR_DTYPE, "sdpa: qkv and output must both be f32 or both bf16");
    return FV_OK;
}

static fv_status check_cross(const fvi_exec *e)
{
    const fv_tensor *q = &e->in[0], *kv = &e->in[1];
    if (q->ndim != 4 || kv->ndim != 5 || kv->dim[2] != 2 || q->dim[0] != kv->dim[0] ||
        q->dim[2] != kv->dim[3] || q->dim[3] != kv->dim[4] || q->dim[3] < 4 || q->dim[3] % 4)
        return fv_fail(e->ctx, FV_ERR_SHAPE,
                       "cross_attention: q must be [B, T, heads, head size] and kv [B, S, 2, heads, "
                       "head size] with a head size that is a multiple of 4");
    if ((q->dtype != FV_F32 && q->dtype != FV_BF16) || kv->dtype != q->dtype ||
        e->out[0].dtype != q->dtype)
        return fv_fail(e->ctx, FV_ERR_DTYPE,
                       "cross_attention: q, kv and output must all be f32 or all bf16");
    return FV_OK;
}

/* What follows from the sizes. */
static fv_status shape_end(const fvi_exec *e, shape *s)
{
    if (s->T > INT32_MAX / 2 || s->S > INT32_MAX / 2 || s->hd > 65536)
        return fv_fail(e->ctx, FV_ERR_LIMIT, "attention: %lld tokens with head size %d are too many",
                       (long long)(s->T > s->S ? s->T : s->S), s->hd);
    s->ops = fvi_attention_of(e->ctx);
    s->is_bf16 = e->in[0].dtype == FV_BF16;
    s->k = &s->ops->sdpa[e->in[0].dtype];
    s->scale = e->attr->f[0] != 0 ? e->attr->f[0] : 1.0f / sqrtf((float)s->hd);
    s->kb = (int)min_i64(s->S, s->hd > WIDE_HEAD ? KEY_BLOCK_WIDE : KEY_BLOCK);
    s->tile = s->T <= QUERY_TILE_MAX ? (int)round_up(s->T, 2) : QUERY_TILE;
    s->block = s->B * s->h < FVI_LANES ? QUERY_BLOCK_FEW : QUERY_BLOCK;
    /* A row length that is no multiple of 4096 / 8 bytes spreads rows over the sets of the L1
     * cache. */
    s->ld = round_up(s->kb, FVI_ATTENTION_PAD) + FVI_ATTENTION_PAD;
    s->ldh = round_up(s->hd, FVI_ATTENTION_PAD);
    s->units = s->hd / s->k->unit;
    return FV_OK;
}

static fv_status shape_of(const fvi_exec *e, shape *s)
{
    const fv_tensor *x = &e->in[0];
    if (e->attr->i[1]) {
        FV_TRY(check_cross(e));
        *s = (shape){ .B = x->dim[0], .T = x->dim[1], .S = e->in[1].dim[1], .h = x->dim[2],
                      .hd = (int)min_i64(x->dim[3], INT32_MAX), .is_cross = true,
                      .bias = e->in[2].data };
        return shape_end(e, s);
    }
    FV_TRY(check_self(e));
    *s = (shape){ .B = x->dim[0], .T = x->dim[1], .S = x->dim[1], .h = x->dim[3],
                  .hd = (int)min_i64(x->dim[4], INT32_MAX), .causal = e->attr->i[0],
                  .visible = e->in[1].data };
    return shape_end(e, s);
}

/* Per-thread arrays, carved from one block; floats, all starts 64-byte aligned. */
typedef struct work {
    float *kt, *vt, *k, *v;  /* panels of a key block: K^T, V^T, K, V             */
    float *q_rows, *g_rows;  /* left operands of a query tile: Q, dO              */
    float *q, *g;            /* panels of a query tile: Q, dO                     */
    float *s, *dp;           /* score tiles                                       */
    float *acc, *stat;       /* forward: output rows, {m, l, factor} per row      */
    float *dq, *dk, *dv;     /* backward sums                                     */
    float *lse, *delta;      /* backward: per query of the head                   */
} work;

static float *carve(float *base, size_t *used, int64_t floats)
{
    float *p = base ? base + *used : NULL;
    *used += (size_t)round_up(floats, 16);
    return p;
}

/* Fills w (base NULL: only measures); returns floats. */
static size_t layout(const shape *s, bool backward, float *base, work *w)
{
    size_t n = 0;
    const int64_t keys = round_up(s->kb, FVI_ATTENTION_PAD), rows = s->tile;
    memset(w, 0, sizeof *w);
    w->kt = carve(base, &n, keys * s->hd);
    w->q_rows = carve(base, &n, rows * s->ldh);
    w->s = carve(base, &n, rows * s->ld);
    if (!backward) {
        w->v = carve(base, &n, keys * s->ldh);
        const int64_t block = min_i64(s->T, s->block);
        w->acc = carve(base, &n, block * s->ldh);
        w->stat = carve(base, &n, block * 3);
        return n;
    }
    w->vt = carve(base, &n, keys * s->hd);
    w->k = carve(base, &n, keys * s->ldh);
    w->g_rows = carve(base, &n, rows * s->ldh);
    w->q = carve(base, &n, rows * s->ldh);
    w->g = carve(base, &n, rows * s->ldh);
    w->dp = carve(base, &n, rows * s->ld);
    w->dk = carve(base, &n, keys * s->ldh);
    w->dv = carve(base, &n, keys * s->ldh);
    w->dq = carve(base, &n, s->T * s->ldh);
    w->lse = carve(base, &n, s->T);
    w->delta = carve(base, &n, s->T);
    return n;
}

static size_t sdpa_scratch(const fvi_exec *e, bool backward)
{
    shape s;
    work w;
    if (shape_of(e, &s) != FV_OK) return 0; /* the run itself reports it */
    return layout(&s, backward, NULL, &w) * sizeof(float) * (size_t)e->ctx->threads;
}

/* Rows t0..t0+n of part 0 q, 1 k, 2 v of a head: of x[0] [B, T, 3, h, hd]; CROSS: of x[0]
 * [B, T, h, hd], or x[1] [B, S, 2, h, hd]. data is NULL where x's is. */
static fvi_rows part_rows(const shape *s, const fv_tensor *x, int64_t head, int part, int64_t t0,
                          int64_t n)
{
    const bool is_other = s->is_cross && part > 0;
    const int64_t parts = !s->is_cross ? 3 : is_other ? 2 : 1, tokens = is_other ? s->S : s->T;
    const int64_t b = head / s->h, i = head % s->h, token = parts * s->h * s->hd;
    const int64_t at =
        (b * tokens + t0) * token + (is_other ? part - 1 : part) * s->h * s->hd + i * s->hd;
    char *data = x[is_other].data;
    return (fvi_rows){data ? data + at * (s->is_bf16 ? 2 : 4) : NULL, token, s->is_bf16, (int)n,
                      s->hd};
}

/* The same for a [B, T, h*hd] tensor. */
static fvi_rows out_rows(const shape *s, const fv_tensor *x, int64_t head, int64_t t0, int64_t n)
{
    const int64_t b = head / s->h, i = head % s->h;
    const int64_t at = ((b * s->T + t0) * s->h + i) * s->hd;
    return (fvi_rows){(char *)x->data + at * (s->is_bf16 ? 2 : 4), s->h * s->hd, s->is_bf16, (int)n,
                      s->hd};
}

/* Units of a reduction over n tokens. */
static int token_units(const shape *s, int64_t n)
{
    return (int)((n + s->k->unit - 1) / s->k->unit);
}

/* Score columns to compute for the first `visible` of `packed` keys: panels are used whole. */
static int score_columns(const shape *s, int64_t visible, int64_t packed)
{
    return (int)min_i64(round_up(visible, s->k->panel), packed);
}

/* Keys that query q may see. */
static int64_t keys_seen(const shape *s, int64_t q)
{
    return s->causal ? q + 1 : s->visible ? s->visible[q] : s->S;
}

static fv_status check_visible(const fvi_exec *e, const shape *s)
{
    for (int64_t q = 0; s->visible && q < s->T; q++)
        if (s->visible[q] < 1 || s->visible[q] > s->T || (q && s->visible[q] < s->visible[q - 1]))
            return fv_fail(e->ctx, FV_ERR_ARG, "sdpa: query %lld of %lld sees %d keys: not 1 to "
                           "all, or fewer than the query before", (long long)q, (long long)s->T,
                           (int)s->visible[q]);
    return FV_OK;
}

/* Scores of keys k0.. get their bias; softmax and gradient multiply by the scale afterwards. */
static void add_bias(const shape *s, float *score, int rows, int64_t k0, int64_t keys)
{
    if (!s->bias) return;
    const float *bias = s->bias + k0, f = 1.0f / s->scale;
    for (int r = 0; r < rows; r++, score += s->ld)
        for (int64_t j = 0; j < keys; j++) score[j] += f * bias[j];
}

/* ---- Forward --------------------------------------------------------------------------------- */

/* One tile of query rows q0..q0+rows against the packed keys k0..k0+keys. */
static void forward_tile(const shape *s, const work *w, float *acc, float *stat, const fvi_rows *q,
                         int64_t q0, int64_t k0, int64_t keys)
{
    const int rows = q->rows;
    const int64_t packed = keys;
    keys = min_i64(keys, keys_seen(s, q0 + rows - 1) - k0);
    if (keys <= 0) return;
    s->k->rows(w->q_rows, s->ldh, q);
    s->k->gemm(&(fvi_gemm){ .a = w->q_rows, .a_row = s->ldh, .a_k = 1, .b = w->kt,
                            .b_panel = s->units * s->k->panel, .c = w->s, .ldc = s->ld,
                            .M = rows, .N = score_columns(s, keys, packed), .K = (int)s->units });
    add_bias(s, w->s, rows, k0, keys);
    const int units = token_units(s, keys);
    for (int r = 0; r < rows; r++) {
        const int64_t visible = min_i64(keys, keys_seen(s, q0 + r) - k0);
        s->k->softmax(w->s + r * s->ld, (int)visible, units * s->k->unit, s->scale, stat + 3 * r);
        if (k0 && stat[3 * r + 2] != 1.0f)
            s->ops->scale(acc + r * s->ldh, (int)s->ldh, stat[3 * r + 2]);
    }
    s->k->gemm(&(fvi_gemm){ .a = w->s, .a_row = s->ld, .a_k = 1, .b = w->v,
                            .b_panel = (int64_t)token_units(s, packed) * s->k->panel, .c = acc,
                            .ldc = s->ldh, .M = rows, .N = s->hd, .K = units, .add = k0 > 0 });
}

static void forward_item(const fvi_exec *e, const shape *s, const work *w, int64_t head, int64_t q0)
{
    const int64_t q1 = min_i64(q0 + s->block, s->T), last = keys_seen(s, q1 - 1);
    for (int64_t r = 0; r < q1 - q0; r++) {
        w->stat[3 * r] = -INFINITY;
        w->stat[3 * r + 1] = 0;
    }
    for (int64_t k0 = 0; k0 < last; k0 += s->kb) {
        const int64_t keys = min_i64(s->kb, last - k0);
        const fvi_rows k = part_rows(s, e->in, head, 1, k0, keys);
        const fvi_rows v = part_rows(s, e->in, head, 2, k0, keys);
        s->k->pack_t(w->kt, &k);
        s->k->pack(w->v, &v);
        for (int64_t t = q0; t < q1; t += s->tile) {
            const fvi_rows q = part_rows(s, e->in, head, 0, t, min_i64(s->tile, q1 - t));
            forward_tile(s, w, w->acc + (t - q0) * s->ldh, w->stat + 3 * (t - q0), &q, t, k0, keys);
        }
    }
    float *lse = e->out[1].data ? (float *)e->out[1].data + head * s->T : NULL;
    for (int64_t r = 0; r < q1 - q0; r++) {
        float *stat = w->stat + 3 * r;
        if (lse) lse[q0 + r] = stat[0] + logf(stat[1]);
        stat[2] = 1.0f / stat[1];
    }
    const fvi_rows o = out_rows(s, &e->out[0], head, q0, q1 - q0);
    s->ops->store(&o, w->acc, s->ldh, w->stat + 2, 0);
}

static fv_status sdpa_forward(fvi_exec *e)
{
    shape s;
    FV_TRY(shape_of(e, &s));
    FV_TRY(check_visible(e, &s));
    const int64_t blocks = (s.T + s.block - 1) / s.block, items = s.B * s.h * blocks;
    work w0;
    const size_t floats = layout(&s, false, NULL, &w0);
#pragma omp parallel for schedule(dynamic, 1) num_threads(e->ctx->threads)
    for (int64_t i = 0; i < items; i++) {
        work w;
        layout(&s, false, (float *)e->scratch + floats * (size_t)omp_get_thread_num(), &w);
        forward_item(e, &s, &w, i / blocks, i % blocks * s.block);
    }
    return FV_OK;
}

/* ---- Backward -------------------------------------------------------------------------------- */

/* Contributions of query rows q0.. and packed keys k0..: dv, dk of the block and dq of the rows. */
static void backward_tile(const shape *s, const work *w, const fvi_rows *q, const fvi_rows *g,
                          int64_t q0, int64_t k0, int64_t keys)
{
    const fvi_sdpa_kernels *k = s->k;
    const int rows = q->rows;
    const int64_t full = s->units * k->panel, packed = keys;
    keys = min_i64(keys, keys_seen(s, q0 + rows - 1) - k0);
    if (keys <= 0) return;
    const int n = (int)keys, columns = score_columns(s, keys, packed);
    k->rows(w->q_rows, s->ldh, q);
    k->rows(w->g_rows, s->ldh, g);
    k->pack(w->q, q);
    k->pack(w->g, g);
    k->gemm(&(fvi_gemm){ .a = w->q_rows, .a_row = s->ldh, .a_k = 1, .b = w->kt, .b_panel = full,
                         .c = w->s, .ldc = s->ld, .M = rows, .N = columns, .K = (int)s->units });
    add_bias(s, w->s, rows, k0, keys);
    k->gemm(&(fvi_gemm){ .a = w->g_rows, .a_row = s->ldh, .a_k = 1, .b = w->vt, .b_panel = full,
                         .c = w->dp, .ldc = s->ld, .M = rows, .N = columns, .K = (int)s->units });
    k->grad(&(fvi_score_grad){ .s = w->s, .dp = w->dp, .ld = s->ld, .rows = rows, .n = n,
                               .causal = s->causal,
                               .first_visible = (int)(s->visible ? k0 : q0 + 1 - k0),
                               .visible = s->visible ? s->visible + q0 : NULL,
                               .scale = s->scale, .lse = w->lse + q0, .delta = w->delta + q0 });
    /* With pairs, tile rows r and r + 1 share one row of left operands (fvi_score_grad). */
    const float *ds_t = k->unit == 2 ? w->s + s->ld : w->dp;
    const int row_units = token_units(s, rows);
    const int64_t row_panel = (int64_t)row_units * k->panel;
    k->gemm(&(fvi_gemm){ .a = w->s, .a_row = 1, .a_k = s->ld * k->unit, .b = w->g,
                         .b_panel = row_panel, .c = w->dv, .ldc = s->ldh, .M = n, .N = s->hd,
                         .K = row_units, .add = 1 });
    k->gemm(&(fvi_gemm){ .a = ds_t, .a_row = 1, .a_k = s->ld * k->unit, .b = w->q,
                         .b_panel = row_panel, .c = w->dk, .ldc = s->ldh, .M = n, .N = s->hd,
                         .K = row_units, .add = 1 });
    k->gemm(&(fvi_gemm){ .a = w->dp, .a_row = s->ld, .a_k = 1, .b = w->k,
                         .b_panel = (int64_t)token_units(s, packed) * k->panel,
                         .c = w->dq + q0 * s->ldh, .ldc = s->ldh, .M = rows, .N = s->hd,
                         .K = token_units(s, keys), .add = k0 > 0 });
}

static void backward_keys(const fvi_exec *e, const shape *s, const work *w, int64_t head,
                          int64_t k0)
{
    const int64_t keys = min_i64(s->kb, s->S - k0);
    const fvi_rows k = part_rows(s, e->in, head, 1, k0, keys);
    const fvi_rows v = part_rows(s, e->in, head, 2, k0, keys);
    s->k->pack_t(w->kt, &k);
    s->k->pack_t(w->vt, &v);
    s->k->pack(w->k, &k);
    memset(w->dk, 0, (size_t)(keys * s->ldh) * sizeof(float));
    memset(w->dv, 0, (size_t)(keys * s->ldh) * sizeof(float));
    for (int64_t t = 0; t < s->T; t += s->tile) {
        const int64_t rows = min_i64(s->tile, s->T - t);
        const fvi_rows q = part_rows(s, e->in, head, 0, t, rows);
        const fvi_rows g = out_rows(s, &e->gout[0], head, t, rows);
        backward_tile(s, w, &q, &g, t, k0, keys);
    }
    const fvi_rows gk = part_rows(s, e->gin, head, 1, k0, keys);
    const fvi_rows gv = part_rows(s, e->gin, head, 2, k0, keys);
    const uint8_t add = e->gin_add[s->is_cross];
    if (gk.data) s->ops->store(&gk, w->dk, s->ldh, NULL, add);
    if (gv.data) s->ops->store(&gv, w->dv, s->ldh, NULL, add);
}

static void backward_item(const fvi_exec *e, const shape *s, const work *w, int64_t head)
{
    const fvi_rows o = out_rows(s, &e->out[0], head, 0, s->T);
    const fvi_rows g = out_rows(s, &e->gout[0], head, 0, s->T);
    const size_t row_bytes = (size_t)o.stride * (s->is_bf16 ? 2 : 4);
    for (int64_t t = 0; t < s->T; t++) {
        const size_t at = (size_t)t * row_bytes;
        w->delta[t] =
            s->ops->dot((const char *)o.data + at, (const char *)g.data + at, s->hd, s->is_bf16);
    }
    memcpy(w->lse, (const float *)e->out[1].data + head * s->T, (size_t)s->T * sizeof(float));
    for (int64_t k0 = 0; k0 < s->S; k0 += s->kb) backward_keys(e, s, w, head, k0);
    const fvi_rows gq = part_rows(s, e->gin, head, 0, 0, s->T);
    if (gq.data) s->ops->store(&gq, w->dq, s->ldh, NULL, e->gin_add[0]);
}

static fv_status sdpa_backward(fvi_exec *e)
{
    const bool is_cross = e->attr->i[1] != 0;
    if (!e->gin[0].data && !(is_cross && e->gin[1].data)) return FV_OK;
    shape s;
    FV_TRY(shape_of(e, &s));
    if (e->gout[0].dtype != e->in[0].dtype ||
        (e->gin[0].data && e->gin[0].dtype != e->in[0].dtype) ||
        (is_cross && e->gin[1].data && e->gin[1].dtype != e->in[0].dtype))
        return fv_fail(e->ctx, FV_ERR_DTYPE, "attention: gradients must have the type of the input");
    if (is_cross && e->gin[2].data)
        return fv_fail(e->ctx, FV_ERR_UNSUPPORTED, "cross_attention: the bias has no gradient");
    if (!e->out[1].data)
        return fv_fail(e->ctx, FV_ERR_STATE,
                       "attention: backward needs the statistics of a training forward");
    const int64_t items = s.B * s.h;
    work w0;
    const size_t floats = layout(&s, true, NULL, &w0);
#pragma omp parallel for schedule(dynamic, 1) num_threads(e->ctx->threads)
    for (int64_t i = 0; i < items; i++) {
        work w;
        layout(&s, true, (float *)e->scratch + floats * (size_t)omp_get_thread_num(), &w);
        backward_item(e, &s, &w, i);
    }
    return FV_OK;
}

const fvi_op_def fvi_cpu_sdpa = {
    .name = "sdpa",
    .bwd_reads_in = 1 | 2, .bwd_reads_out = 3,
    .scratch_bytes = sdpa_scratch,
    .forward = sdpa_forward,
    .backward = sdpa_backward,
};

const fvi_op_def fvi_cpu_cross = {
    .name = "cross_attention",
    .bwd_reads_in = 1 | 2 | 4, .bwd_reads_out = 3,
    .scratch_bytes = sdpa_scratch,
    .forward = sdpa_forward,
    .backward = sdpa_backward,
};
