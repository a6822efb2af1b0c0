/* op_norm_cuda.c - host side of norm_mod and qk_norm_rope, and sums over rows. Definitions: op_norm.c,
 * op_rope.c. */
#include "cuda_ops.h"

/* ---- Sums over rows -------------------------------------------------------------------------- */

/* Rows of a segment: few enough for a short wait, enough that adding the segments is little. */
#define SEGMENT_ROWS 256
#define SEGMENTS_MOST 64

static int64_t segments_of(int64_t T)
{
    const int64_t n = (T + SEGMENT_ROWS - 1) / SEGMENT_ROWS;
    return n < 1 ? 1 : n < SEGMENTS_MOST ? n : SEGMENTS_MOST;
}

size_t fvi_cuda_columns_bytes(int64_t groups, int64_t T, int64_t C, int sums)
{
    return (size_t)(groups * segments_of(T) * C) * (size_t)sums * sizeof(float);
}

fv_status fvi_cuda_columns(fv_ctx *ctx, fvk_columns_args *a, void *scratch, int sums)
{
    a->segments = segments_of(a->T);
    a->part = scratch;
    a->part2 = sums > 1 ? a->part + a->groups * a->segments * a->C : NULL;
    return FVI_LAUNCH(ctx, columns,
                      a->groups * a->segments * ((a->C + FVK_TILE - 1) / FVK_TILE), a);
}

fv_status fvi_cuda_fold(fv_ctx *ctx, const fvk_columns_args *a, fvk_out y, int64_t stride,
                        float scale)
{
    const fvk_fold_args f = { .part = a->part, .y = y, .groups = a->groups,
                              .segments = a->segments, .C = a->C, .stride = stride,
                              .scale = scale };
    return FVI_LAUNCH(ctx, fold, fvi_cuda_walk(a->groups * a->C), &f);
}

/* ---- norm_mod -------------------------------------------------------------------------------- */

typedef struct samples { int64_t B, T, C, rows; } samples;

/* Samples are the rows of mod, or the first dimension without mod. */
static samples samples_of(const fvi_exec *e)
{
    const fv_tensor *x = &e->in[0], *mod = &e->in[3];
    samples s = { .C = fvi_last(x) };
    s.rows = s.C > 0 ? fv_tensor_count(x) / s.C : 0;
    s.B = mod->ndim > 1 ? mod->dim[0] : mod->ndim == 0 && x->ndim > 1 ? x->dim[0] : 1;
    s.T = s.B > 0 ? s.rows / s.B : 0;
    return s;
}

static fvk_norm_args norm_args(const fvi_exec *e, const samples *s)
{
    fvk_norm_args a = { .x = fvi_cuda_in(&e->in[0]), .w = e->in[1].data, .bias = e->in[2].data,
                        .stats = e->out[1].data, .C = s->C, .T = s->T, .rows = s->rows, .eps = e->attr->f[0],
                        .rms = e->attr->i[0] == FV_NORM_RMS };
    const float *mod = e->in[3].data;
    if (!mod) return a;
    a.stride = fvi_last(&e->in[3]);
    if (e->attr->i[1] >= 0) a.shift = mod + e->attr->i[1] * s->C;
    if (e->attr->i[2] >= 0) a.scale = mod + e->attr->i[2] * s->C;
    return a;
}

/* Rows that a warp takes in eights, 16-byte aligned all of them. */
static bool has_eights(const fvk_norm_args *a)
{
    const void *const p[] = { a->x.p, a->dy.p, a->y.p, a->w, a->bias, a->shift, a->scale };
    bool yes = a->C % 8 == 0 && a->C <= FVK_NORM_MOST && a->stride % 8 == 0;
    for (size_t i = 0; i < FV_ARRAY_LEN(p); i++) yes = yes && (uintptr_t)p[i] % 16 == 0;
    return yes;
}

static fv_status norm_launch(const fvi_exec *e, const fvk_norm_args *a, bool is_back)
{
    const int64_t warps = FVK_THREADS / 32, blocks = (a->rows + warps - 1) / warps;
    if (!has_eights(a) && is_back) return FVI_LAUNCH(e->ctx, norm_dx, a->rows, a);
    if (!has_eights(a)) return FVI_LAUNCH(e->ctx, norm, a->rows, a);
    if (is_back) return FVI_LAUNCH(e->ctx, norm_rows_dx, blocks, a);
    return FVI_LAUNCH(e->ctx, norm_rows, blocks, a);
}

static fv_status norm_forward(fvi_exec *e)
{
    const samples s = samples_of(e);
    fvk_norm_args a = norm_args(e, &s);
    a.y = fvi_cuda_out(&e->out[0], 0);
    return norm_launch(e, &a, false);
}

static size_t norm_scratch(const fvi_exec *e, bool backward)
{
    const samples s = samples_of(e);
    return backward ? fvi_cuda_columns_bytes(s.B, s.T, s.C, 2) : 0;
}

/* Gradients of weight, bias and modulation from D and A (op_norm.c). */
static fv_status norm_sums(fvi_exec *e, const samples *s, const fvk_norm_args *a)
{
    fvk_columns_args c = { .x = fvi_cuda_in(&e->gout[0]), .y = a->x, .stats = a->stats,
                           .groups = s->B, .T = s->T, .C = s->C, .kind = FVK_SUM_NORM };
    FV_TRY(fvi_cuda_columns(e->ctx, &c, e->scratch, 2));
    fvk_norm_fold_args f = { .D = c.part, .A = c.part2, .w = a->w, .bias = a->bias,
                             .scale = a->scale, .groups = s->B, .segments = c.segments,
                             .C = s->C, .stride = a->stride };
    const size_t row = (size_t)s->C * sizeof(float);
    f.dw = e->gin[1].data;
    f.db = e->gin[2].data;
    if (f.dw && !e->gin_add[1]) FV_TRY(fvi_cuda_zero(e->ctx, f.dw, row));
    if (f.db && !e->gin_add[2]) FV_TRY(fvi_cuda_zero(e->ctx, f.db, row));
    const fv_tensor *g = &e->gin[3];
    if (g->data) {
        if (!e->gin_add[3])
            FV_TRY(fvi_cuda_zero(e->ctx, g->data, (size_t)fv_tensor_count(g) * sizeof(float)));
        f.dstride = fvi_last(g);
        if (e->attr->i[1] >= 0) f.dshift = (float *)g->data + e->attr->i[1] * s->C;
        if (e->attr->i[2] >= 0) f.dscale = (float *)g->data + e->attr->i[2] * s->C;
    }
    return FVI_LAUNCH(e->ctx, norm_fold, fvi_cuda_walk(s->C), &f);
}

static fv_status norm_backward(fvi_exec *e)
{
    const samples s = samples_of(e);
    fvk_norm_args a = norm_args(e, &s);
    /* Sums first: the gradient of x may be added to a buffer, but never is one of the inputs. */
    if (e->gin[1].data || e->gin[2].data || e->gin[3].data) FV_TRY(norm_sums(e, &s, &a));
    if (!e->gin[0].data) return FV_OK;
    a.dy = fvi_cuda_in(&e->gout[0]);
    a.y = fvi_cuda_out(&e->gin[0], e->gin_add[0]);
    return norm_launch(e, &a, true);
}
const fvi_op_def fvi_cuda_norm_mod = {
    .name = "norm_mod", .bwd_reads_in = 1 | 2 | 4 | 8, .bwd_reads_out = 2,
    .scratch_bytes = norm_scratch, .forward = norm_forward, .backward = norm_backward
};

/* ---- qk_norm_rope ---------------------------------------------------------------------------- */

static fv_status rope_args(const fvi_exec *e, fvk_rope_args *a)
{
    const fv_tensor *x = &e->in[0];
    FV_TRY(fvi_rope_check(e));
    *a = (fvk_rope_args){ .x = fvi_cuda_in(x), .w = { e->in[1].data, e->in[2].data },
                          .angle = e->in[3].data, .rstd = e->out[1].data,
                          .tokens = x->dim[0] * x->dim[1], .T = x->dim[1], .h = x->dim[3],
                          .hd = x->dim[4], .eps = e->attr->f[0], .neighbours = e->attr->i[0],
                          .wide = e->attr->i[1] };
    return FV_OK;
}

static int64_t rope_blocks(const fvk_rope_args *a)
{
    const int64_t units = a->tokens * 3 * (a->wide ? 1 : a->h), each = FVK_THREADS / 32;
    return (units + each - 1) / each;
}

static fv_status rope_forward(fvi_exec *e)
{
    fvk_rope_args a;
    FV_TRY(rope_args(e, &a));
    a.y = fvi_cuda_out(&e->out[0], 0);
    return FVI_LAUNCH(e->ctx, rope, rope_blocks(&a), &a);
}

/* Of q and of k: one group, rows of tokens (of heads, when each head is a norm). */
static fvk_columns_args rope_columns(const fv_tensor *x, int wide)
{
    const int64_t tokens = x->dim[0] * x->dim[1], h = x->dim[3], hd = x->dim[4];
    return (fvk_columns_args){ .groups = 2, .T = wide ? tokens : tokens * h,
                               .C = wide ? h * hd : hd, .kind = FVK_SUM_ROPE };
}

static size_t rope_scratch(const fvi_exec *e, bool backward)
{
    if (!backward || (e->in[1].ndim == 0 && e->in[2].ndim == 0)) return 0;
    const fvk_columns_args c = rope_columns(&e->in[0], e->attr->i[1]);
    return fvi_cuda_columns_bytes(2, c.T, c.C, 1);
}

static fv_status rope_backward(fvi_exec *e)
{
    fvk_rope_args a;
    FV_TRY(rope_args(e, &a));
    if (e->gin[3].data)
        return fv_fail(e->ctx, FV_ERR_UNSUPPORTED, "qk_norm_rope: the angle table has no gradient");
    if (!a.rstd)
        return fv_fail(e->ctx, FV_ERR_STATE,
                       "qk_norm_rope: backward needs the statistics of a training forward");
    a.gy = fvi_cuda_in(&e->gout[0]);
    if (e->gin[1].data || e->gin[2].data) {
        fvk_columns_args c = rope_columns(&e->in[0], a.wide);
        c.rope = a;
        FV_TRY(fvi_cuda_columns(e->ctx, &c, e->scratch, 1));
        c.groups = 1;
        for (int which = 0; which < 2; which++) {
            const fvk_out dw = fvi_cuda_out(&e->gin[1 + which], e->gin_add[1 + which]);
            if (dw.p) FV_TRY(fvi_cuda_fold(e->ctx, &c, dw, 0, 1.0f));
            c.part += c.segments * c.C;
        }
    }
    if (!e->gin[0].data) return FV_OK;
    a.y = fvi_cuda_out(&e->gin[0], e->gin_add[0]);
    return FVI_LAUNCH(e->ctx, rope_dx, rope_blocks(&a), &a);
}
const fvi_op_def fvi_cuda_qk_norm_rope = {
    .name = "qk_norm_rope", .bwd_reads_in = 15, .bwd_reads_out = 2,
    .scratch_bytes = rope_scratch, .forward = rope_forward, .backward = rope_backward
};
