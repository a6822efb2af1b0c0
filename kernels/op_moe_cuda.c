/* op_moe_cuda.c - host side of the mixture of experts on the device. Definition: op_moe.c.
 *
 * Every row goes through every expert, and what its gate leaves out is multiplied by 0: which rows an
 * expert has is known to the device alone, and a launch needs its size before. So experts side by side
 * are one wide layer,
 *     u = x U^T  [R, E I],   a = gate relu(u)^2,   y = a D'^T,   D' [N, E I] = D with experts as columns
 * and its gradients are four products more. That is E / 2 times the arithmetic of the chosen two, in
 * large products instead of small ones (networks of vzip have 4 experts). Experts are taken as many at
 * a time as fit fvi_cuda.column_bytes. Backward makes u again instead of keeping it. */
#include "cuda_ops.h"

enum { UP, DOWN, DH, DW_DOWN, DW_UP, DX, PRODUCTS };

typedef struct chunk {
    int64_t first, n;
    fvk_product *p[PRODUCTS];
} chunk;

typedef struct moe_state {
    int64_t R, K, I, N, E, each; /* each: experts at a time */
    const void *w[2];            /* down, up in the type of x; NULL: in[2], in[3] */
    int chunks;
    chunk c[FV_MAX_EXPERTS];
} moe_state;

static bool is_half(const fvi_exec *e) { return e->in[0].dtype == FV_BF16; }
static bool has_up(const fvi_exec *e) { return e->in[3].ndim > 0; }

static void set_sizes(const fvi_exec *e, moe_state *s)
{
    s->E = e->attr->i[0];
    s->K = fvi_last(&e->in[0]);
    s->R = fv_tensor_count(&e->in[0]) / s->K;
    s->N = e->in[2].dim[0] / s->E;
    s->I = e->in[2].dim[1];
    s->each = (int64_t)fvi_cuda_of(e->ctx)->column_bytes / (s->R * s->I * (int64_t)sizeof(float));
    s->each = s->each < 1 ? 1 : s->each < s->E ? s->each : s->E;
}

static void moe_release(fv_ctx *ctx, void *state)
{
    moe_state *s = state;
    for (int c = 0; s && c < s->chunks; c++)
        for (int k = 0; k < PRODUCTS; k++)
            if (s->c[c].p[k])
                fvi_cuda_of(ctx)->api->gemm_destroy(fvi_cuda_of(ctx)->dev, s->c[c].p[k]);
    fv_free(ctx, s);
}

static fv_status create_products(fvi_exec *e, const moe_state *s, chunk *c)
{
    const fvi_cuda *d = fvi_cuda_of(e->ctx);
    const int64_t wide = c->n * s->I;
    const int half = is_half(e), later = c->first > 0, up = has_up(e), dx = e->gin[0].ndim > 0;
    const int back = dx || e->gin[1].ndim > 0 || e->gin[2].ndim > 0 || e->gin[3].ndim > 0;
    const struct { int wanted; fvk_gemm g; } of[PRODUCTS] = {
        [UP] = { up, { .M = s->R, .N = wide, .K = s->K, .b_trans = 1 } },
        [DOWN] = { 1, { .M = s->R, .N = s->N, .K = wide, .c_bf16 = e->out[0].dtype == FV_BF16,
                        .b_trans = 1, .accumulate = later } },
        [DH] = { back, { .M = s->R, .N = wide, .K = s->N } },
        [DW_DOWN] = { e->gin[2].ndim > 0, { .M = s->N, .N = wide, .K = s->R, .a_trans = 1 } },
        [DW_UP] = { e->gin[3].ndim > 0,
                    { .M = wide, .N = s->K, .K = s->R, .a_trans = 1, .accumulate = 1 } },
        [DX] = { up && dx, { .M = s->R, .N = s->K, .K = wide, .c_bf16 = half,
                                     .accumulate = later || e->gin_add[0] } },
    };
    for (int k = 0; k < PRODUCTS; k++) {
        fvk_gemm g = of[k].g;
        g.ab_bf16 = half;
        if (of[k].wanted)
            FV_TRY(fvi_cuda_status(e->ctx, d->api->gemm_create(d->dev, &g, &c->p[k]), "moe"));
    }
    return FV_OK;
}

static fv_status moe_prepare(fvi_exec *e)
{
    moe_state *s = fv_calloc(e->ctx, 1, sizeof *s);
    if (!s) return FV_ERR_OOM;
    e->state = s;
    if (!is_half(e) && e->out[0].dtype == FV_BF16)
        return fv_fail(e->ctx, FV_ERR_UNSUPPORTED, "moe: bf16 of an f32 input; cast it first");
    set_sizes(e, s);
    for (int64_t first = 0; first < s->E; first += s->each) {
        chunk *c = &s->c[s->chunks++];
        c->first = first;
        c->n = s->E - first < s->each ? s->E - first : s->each;
        FV_TRY(create_products(e, s, c));
    }
    for (int k = 0; k < 2; k++)
        if (e->in[2 + k].ndim > 0 && e->params && e->pid[2 + k] >= 0)
            FV_TRY(fvi_param_on_device(e->ctx, e->params, e->pid[2 + k], e->in[0].dtype, &s->w[k]));
    return FV_OK;
}

/* ---- Memory of a pass ------------------------------------------------------------------------ */

/* w: weights in bf16 where there is no such copy; of a chunk u, a, columns (D'), dh, du, and gradients
 * of D' as it is; dy in bf16. */
typedef struct moe_work {
    uint8_t *w[2], *u, *a, *columns, *dh, *du, *dcolumns, *dy;
    size_t bytes;
} moe_work;

static uint8_t *take(moe_work *w, void *base, bool is_wanted, int64_t n, size_t size)
{
    uint8_t *p = base && is_wanted ? (uint8_t *)base + w->bytes : NULL;
    if (is_wanted) w->bytes += fvi_cuda_aligned((size_t)n * size);
    return p;
}

static bool needs_rounding(const fvi_exec *e, int in)
{
    return is_half(e) && e->in[in].ndim > 0 && !(e->params && e->pid[in] >= 0);
}

static moe_work work_of(const fvi_exec *e, bool back, void *base)
{
    moe_state s;
    moe_work w = { .bytes = 0 };
    set_sizes(e, &s);
    const int64_t wide = s.each * s.I;
    const size_t size = is_half(e) ? 2 : 4;
    for (int k = 0; k < 2; k++)
        w.w[k] = take(&w, base, needs_rounding(e, 2 + k), fv_tensor_count(&e->in[2 + k]), 2);
    w.u = take(&w, base, has_up(e), s.R * wide, 4);
    w.a = take(&w, base, true, s.R * wide, size);
    w.columns = take(&w, base, true, s.N * wide, size);
    w.dh = take(&w, base, back, s.R * wide, 4);
    w.du = take(&w, base, back && has_up(e), s.R * wide, size);
    w.dcolumns = take(&w, base, back, s.N * wide, 4);
    w.dy = take(&w, base, back && is_half(e) && e->out[0].dtype == FV_F32, s.R * s.N, 2);
    return w;
}

static size_t moe_scratch(const fvi_exec *e, bool backward)
{
    return work_of(e, backward, NULL).bytes;
}

/* ---- Passes ---------------------------------------------------------------------------------- */

static fv_status product(fvi_exec *e, const chunk *c, int k, const void *a, const void *b, void *y)
{
    const fvi_cuda *d = fvi_cuda_of(e->ctx);
    return fvi_cuda_status(e->ctx, d->api->gemm_run(d->dev, c->p[k], a, b, NULL, y), "moe");
}

static fv_status round_to(fv_ctx *ctx, const void *x, int64_t n, void *bf16)
{
    const fvk_map_args a = { .x = { x, 0 }, .y = { bf16, 1, 0 }, .n = n, .what = FVK_COPY };
    return FVI_LAUNCH(ctx, map, fvi_cuda_walk(n), &a);
}

/* Down and up as the products read them. */
static fv_status weights_of(fvi_exec *e, const moe_work *m, const uint8_t *w[2])
{
    const moe_state *s = e->state;
    for (int k = 0; k < 2; k++) {
        const fv_tensor *t = &e->in[2 + k];
        w[k] = s->w[k] ? s->w[k] : t->data;
        if (t->ndim == 0) continue;
        if (!w[k]) return fv_fail(e->ctx, FV_ERR_STATE, "moe: the weights are not on the device");
        if (!m->w[k]) continue;
        FV_TRY(round_to(e->ctx, t->data, fv_tensor_count(t), m->w[k]));
        w[k] = m->w[k];
    }
    return FV_OK;
}

/* u of a chunk, and its columns: D' [N, n, I] = D [n, N, I]. */
static fv_status open_chunk(fvi_exec *e, const moe_work *m, const uint8_t *const w[2],
                            const chunk *c)
{
    const moe_state *s = e->state;
    const int64_t size = is_half(e) ? 2 : 4, from = c->first * s->N * s->I * size;
    const fvk_permute_args p = { .x = { w[0] + from, is_half(e) },
                                 .y = { m->columns, is_half(e), 0 },
                                 .dim = { s->N, c->n, s->I }, .stride = { s->I, s->N * s->I, 1 } };
    FV_TRY(FVI_LAUNCH(e->ctx, permute, fvi_cuda_walk(s->N * c->n * s->I), &p));
    if (!has_up(e)) return FV_OK;
    return product(e, c, UP, e->in[0].data, w[1] + c->first * s->I * s->K * size, m->u);
}

static fvk_moe_args args_of(const fvi_exec *e, const moe_work *m, const chunk *c)
{
    const moe_state *s = e->state;
    const fvk_moe_args a = { .x = fvi_cuda_in(&e->in[0]), .gate = e->in[1].data,
                             .u = (const float *)(const void *)m->u,
                             .a = { m->a, is_half(e), 0 }, .R = s->R, .E = s->E, .I = s->I,
                             .first = c->first, .n = c->n };
    return a;
}

static fv_status moe_forward(fvi_exec *e)
{
    const moe_state *s = e->state;
    const moe_work m = work_of(e, false, e->scratch);
    const uint8_t *w[2];
    FV_TRY(weights_of(e, &m, w));
    for (int i = 0; i < s->chunks; i++) {
        const chunk *c = &s->c[i];
        const fvk_moe_args a = args_of(e, &m, c);
        FV_TRY(open_chunk(e, &m, w, c));
        FV_TRY(FVI_LAUNCH(e->ctx, moe_hidden, fvi_cuda_walk(s->R * c->n * s->I), &a));
        FV_TRY(product(e, c, DOWN, m.a, m.columns, e->out[0].data));
    }
    return FV_OK;
}

/* Gradients of the weights of a chunk, which are added. */
static fv_status weights_back(fvi_exec *e, const moe_work *m, const chunk *c, const void *dy)
{
    const moe_state *s = e->state;
    if (c->p[DW_UP] && e->gin[3].data)
        FV_TRY(product(e, c, DW_UP, m->du, e->in[0].data,
                       (float *)e->gin[3].data + c->first * s->I * s->K));
    if (!c->p[DW_DOWN] || !e->gin[2].data) return FV_OK;
    FV_TRY(product(e, c, DW_DOWN, dy, m->a, m->dcolumns));
    const fvk_permute_args p = { .x = { m->dcolumns, 0 },
                                 .y = { (float *)e->gin[2].data + c->first * s->N * s->I, 0, 1 },
                                 .dim = { c->n, s->N, s->I }, .stride = { s->I, c->n * s->I, 1 } };
    return FVI_LAUNCH(e->ctx, permute, fvi_cuda_walk(s->N * c->n * s->I), &p);
}

static fv_status chunk_back(fvi_exec *e, const moe_work *m, const uint8_t *const w[2],
                            const chunk *c, const void *dy)
{
    const moe_state *s = e->state;
    fvk_moe_args a = args_of(e, m, c);
    FV_TRY(open_chunk(e, m, w, c));
    FV_TRY(product(e, c, DH, dy, m->columns, m->dh));
    a.dh = (const float *)(const void *)m->dh;
    a.du = (fvk_out){ m->du, is_half(e), 0 };
    a.dgate = fvi_cuda_out(&e->gin[1], e->gin_add[1]);
    a.dx = fvi_cuda_out(&e->gin[0], e->gin_add[0] || c->first > 0);
    FV_TRY(FVI_LAUNCH(e->ctx, moe_back, s->R * c->n, &a));
    FV_TRY(weights_back(e, m, c, dy));
    if (!a.dx.p) return FV_OK;
    if (!has_up(e)) return FVI_LAUNCH(e->ctx, moe_mix, fvi_cuda_walk(s->R * s->I), &a);
    return product(e, c, DX, m->du, w[1] + c->first * s->I * s->K * (is_half(e) ? 2 : 4), a.dx.p);
}

static fv_status moe_backward(fvi_exec *e)
{
    const moe_state *s = e->state;
    const moe_work m = work_of(e, true, e->scratch);
    const uint8_t *w[2];
    const void *dy = e->gout[0].data;
    FV_TRY(weights_of(e, &m, w));
    if (m.dy) {
        FV_TRY(round_to(e->ctx, dy, s->R * s->N, m.dy));
        dy = m.dy;
    }
    for (int i = 0; i < s->chunks; i++) FV_TRY(chunk_back(e, &m, w, &s->c[i], dy));
    return FV_OK;
}

const fvi_op_def fvi_cuda_moe = {
    .name = "moe", .bwd_reads_in = 0x0f, .scratch_bytes = moe_scratch, .prepare = moe_prepare,
    .release = moe_release, .forward = moe_forward, .backward = moe_backward
};
