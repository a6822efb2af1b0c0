/* op_norm.c - layer and RMS norm with weight, bias and modulation; gated residual.
 *
 * The norms of a diffusion transformer [DiT, arXiv:2212.09748] in one pass over memory:
 *
 *     yhat = (x - mean) * rstd         per row of C channels
 *     u    = yhat * w + b              w, b: parameters [C]
 *     y    = u * (1 + scale) + shift   scale, shift: columns of mod, one row per sample
 *          = yhat * gain + offset      gain = w (1 + scale), offset = b (1 + scale) + shift
 *
 * Backward, with D = sum of dy and A = sum of dy*yhat over the rows of one sample (per channel):
 *
 *     dshift = D      dscale = w A + b D      db = (1 + scale) D      dw = (1 + scale) A
 *     dx = rstd (h - mean_c(h) - yhat mean_c(h yhat)),  h = dy * gain      (RMS: no mean_c(h))
 *
 * so only D and A are summed over rows. Order of sums: a sample is cut into segments by its shape
 * (fvi_split), each segment is one f32 sum (at most 1024 rows), segments are added in order. */
#include "cpu_ops.h"

#include <math.h>
#include <string.h>

/* ---- Scalar rows: the definition ------------------------------------------------------------- */

static void norm_c(fvi_norm_row *r)
{
    const double inv_n = 1.0 / (double)r->n;
    double sum = 0, sq = 0;
    for (int64_t i = 0; i < r->n && !r->rms; i++) sum += fvi_get(r->x, i);
    r->mean = (float)(sum * inv_n);
    for (int64_t i = 0; i < r->n; i++) {
        const float d = fvi_get(r->x, i) - r->mean;
        sq += (double)d * d;
    }
    r->rstd = (float)(1.0 / sqrt(sq * inv_n + r->eps));
    for (int64_t i = 0; i < r->n; i++) {
        const float h = (fvi_get(r->x, i) - r->mean) * r->rstd;
        fvi_put(r->y, i, h * r->gain[i] + r->offset[i]);
    }
}

static void norm_bwd_c(const fvi_norm_row *r)
{
    double s1 = 0, s2 = 0;
    for (int64_t i = 0; i < r->n; i++) {
        const float h = (fvi_get(r->x, i) - r->mean) * r->rstd, g = fvi_get(r->dy, i);
        s1 += (double)(g * r->gain[i]);
        s2 += (double)(g * r->gain[i]) * h;
        if (r->sum_dy) {
            r->sum_dy[i] += g;
            r->sum_dyx[i] += g * h;
        }
    }
    if (!r->y.p) return;
    const float m1 = r->rms ? 0.0f : (float)(s1 / (double)r->n), m2 = (float)(s2 / (double)r->n);
    for (int64_t i = 0; i < r->n; i++) {
        const float h = (fvi_get(r->x, i) - r->mean) * r->rstd;
        fvi_put(r->y, i, r->rstd * (fvi_get(r->dy, i) * r->gain[i] - m1 - h * m2));
    }
}

static void gate_c(fvi_out h2, fvi_in h, fvi_in y, const float *gate, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        fvi_put(h2, i, fvi_get(h, i) + (gate ? gate[i] : 1.0f) * fvi_get(y, i));
}

static void forecast_c(fvi_out h2, fvi_in h, const fvi_in *y, const float *w, int count,
                       const float *gate, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float sum = 0.0f;
        for (int k = 0; k < count; k++) sum += w[k] * fvi_get(y[k], i);
        fvi_put(h2, i, fvi_get(h, i) + (gate ? gate[i] : 1.0f) * sum);
    }
}

static void gate_bwd_c(fvi_out dy, float *sum, fvi_in g, fvi_in y, const float *gate, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const float d = fvi_get(g, i);
        if (sum) sum[i] += d * fvi_get(y, i);
        if (dy.p) fvi_put(dy, i, d * (gate ? gate[i] : 1.0f));
    }
}

void fvi_norm_init(fvi_norm_ops *o, uint32_t cpu)
{
    const fvi_norm_ops c = { norm_c, norm_bwd_c, gate_c, forecast_c, gate_bwd_c };
    *o = c;
#if defined(__x86_64__)
    if (cpu & FV_CPU_AVX2) fvi_norm_init_avx2(o);
    if (cpu & FV_CPU_AVX512) fvi_norm_init_avx512(o);
#endif
    (void)cpu;
}

/* ---- Samples, segments, modulation ----------------------------------------------------------- */

/* Samples are the rows of mod, or the first dimension without mod; all rows are one sample where mod
 * is a vector. */
static fvi_split split_of(const fv_tensor *x, const fv_tensor *mod)
{
    const int64_t C = x->dim[x->ndim - 1], R = C > 0 ? fv_tensor_count(x) / C : 0;
    const int64_t B = mod->ndim > 1 ? mod->dim[0] : mod->ndim == 0 && x->ndim > 1 ? x->dim[0] : 1;
    return fvi_split_of(B, B > 0 ? R / B : 0);
}

/* Columns of one chunk of mod for sample b; NULL when the chunk is not used. */
static const float *chunk_of(const fv_tensor *mod, int64_t b, int chunk, int64_t C)
{
    if (!mod->data || chunk < 0) return NULL;
    return (const float *)mod->data + b * mod->dim[mod->ndim - 1] + chunk * C;
}

/* The gradient of mod belongs to several ops, each of which writes its chunks only. The first one
 * (gin_add 0) clears it; all add. */
static void clear_mod(const fv_tensor *gmod, bool add)
{
    if (gmod->data && !add) memset(gmod->data, 0, (size_t)fv_tensor_count(gmod) * sizeof(float));
}

/* gmod[b, chunk] += sum over the segments of part[b * S + segment] (stride floats apart; the first
 * one of a sample becomes the sum) */
typedef struct chunk_sum {
    const fv_tensor *gmod;
    const fvi_split *sp;
    float *part;
    size_t stride;
    int chunk;
} chunk_sum;

static void add_chunk(const fvi_exec *e, const chunk_sum *j, int64_t b, int64_t C)
{
    const fvi_pointwise_ops *p = &e->ctx->cpu_ops->pointwise;
    const int64_t columns = j->gmod->dim[j->gmod->ndim - 1];
    float *sum = j->part + (size_t)(b * j->sp->S) * j->stride;
    for (int64_t s = 1; s < j->sp->S; s++)
        p->cast(fvi_out_f32(sum, true), fvi_in_f32(sum + (size_t)s * j->stride), C);
    p->cast(fvi_out_f32((float *)j->gmod->data + b * columns + j->chunk * C, true), fvi_in_f32(sum),
            C);
}

/* ---- norm_mod -------------------------------------------------------------------------------- */

/* dst = 1 + scale of sample b, or 1. Row operations of the pointwise table: for short samples these
 * rows cost as much as the norm. */
static void fill_scale(const fvi_exec *e, int64_t b, int64_t C, float *dst)
{
    const float *scale = chunk_of(&e->in[3], b, e->attr->i[2], C);
    if (scale)
        e->ctx->cpu_ops->pointwise.affine(fvi_out_f32(dst, false), fvi_in_f32(scale), C, 1.0f,
                                          1.0f);
    else for (int64_t c = 0; c < C; c++) dst[c] = 1.0f;
}

/* gain, offset [C] of sample b; offset may be NULL */
static void fill_gain(const fvi_exec *e, int64_t b, int64_t C, float *gain, float *offset)
{
    const fvi_pointwise_ops *p = &e->ctx->cpu_ops->pointwise;
    const float *w = e->in[1].data, *bias = e->in[2].data;
    const float *shift = chunk_of(&e->in[3], b, e->attr->i[1], C);
    fill_scale(e, b, C, gain);
    if (offset) {
        memset(offset, 0, (size_t)C * sizeof *offset);
        if (shift) memcpy(offset, shift, (size_t)C * sizeof *offset);
        if (bias)
            p->binary(fvi_out_f32(offset, true), fvi_in_f32(bias), fvi_in_f32(gain), C, FV_MUL);
    }
    if (w) p->binary(fvi_out_f32(gain, false), fvi_in_f32(gain), fvi_in_f32(w), C, FV_MUL);
}

/* Forward scratch, per lane: gain, offset. Backward scratch, per lane: gain, D, A, dw, db; then
 * per item: dshift, dscale. Each [C] padded to cache lines. */
enum { FWD_ROWS = 2, BWD_ROWS = 5 };

static size_t norm_scratch(const fvi_exec *e, bool backward)
{
    const size_t pad = fvi_pad16(e->in[0].dim[e->in[0].ndim - 1]);
    const fvi_split sp = split_of(&e->in[0], &e->in[3]);
    const size_t lanes = FVI_LANES * (size_t)(backward ? BWD_ROWS : FWD_ROWS);
    const size_t items = backward && e->in[3].ndim > 0 ? (size_t)(sp.B * sp.S) * 2 : 0;
    return (lanes + items) * pad * sizeof(float);
}

static fv_status norm_forward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t C = e->in[0].dim[e->in[0].ndim - 1];
    const fvi_split sp = split_of(&e->in[0], &e->in[3]);
    const size_t pad = fvi_pad16(C);
    FVI_PARALLEL_LANES(ctx, lane) {
        float *gain = (float *)e->scratch + (size_t)lane * FWD_ROWS * pad, *offset = gain + pad;
        float *stats = e->out[1].data;
        fvi_norm_row row = { .gain = gain, .offset = offset, .n = C,
                             .rms = e->attr->i[0] == FV_NORM_RMS, .eps = e->attr->f[0] };
        int64_t k, end, b, t0, t1, filled = -1;
        for (fvi_lane(sp.B * sp.S, lane, &k, &end); k < end; k++) {
            fvi_split_rows(&sp, k, &b, &t0, &t1);
            if (b != filled) fill_gain(e, b, C, gain, offset);
            filled = b;
            for (int64_t r = b * sp.T + t0; r < b * sp.T + t1; r++) {
                row.x = fvi_in_at(&e->in[0], r * C);
                row.y = fvi_out_at(&e->out[0], r * C, false);
                ctx->cpu_ops->norm.norm(&row);
                if (!stats) continue;
                stats[2 * r] = row.mean;
                stats[2 * r + 1] = row.rstd;
            }
        }
    }
    return FV_OK;
}

/* Gradients to the parameters and to mod, from D and A of one item. */
static void norm_item_sums(const fvi_exec *e, int64_t b, int64_t C, float *lane_rows, float *item)
{
    const fvi_pointwise_ops *p = &e->ctx->cpu_ops->pointwise;
    const size_t pad = fvi_pad16(C);
    const fvi_in D = fvi_in_f32(lane_rows + pad), A = fvi_in_f32(lane_rows + 2 * pad);
    const fvi_in s = fvi_in_f32(lane_rows); /* gain is not needed any more */
    const fvi_in w = fvi_in_at(&e->in[1], 0), bias = fvi_in_at(&e->in[2], 0);
    fill_scale(e, b, C, lane_rows);
    p->binary(fvi_out_f32(lane_rows + 3 * pad, true), A, s, C, FV_MUL);
    p->binary(fvi_out_f32(lane_rows + 4 * pad, true), D, s, C, FV_MUL);
    if (!item) return;
    p->cast(fvi_out_f32(item, false), D, C);
    if (w.p) p->binary(fvi_out_f32(item + pad, false), A, w, C, FV_MUL);
    else p->cast(fvi_out_f32(item + pad, false), A, C);
    if (bias.p) p->binary(fvi_out_f32(item + pad, true), D, bias, C, FV_MUL);
}

static void norm_bwd_lane(const fvi_exec *e, const fvi_split *sp, bool sums, int lane)
{
    const int64_t C = e->in[0].dim[e->in[0].ndim - 1];
    const size_t pad = fvi_pad16(C);
    float *rows = (float *)e->scratch + (size_t)lane * BWD_ROWS * pad;
    float *items = (float *)e->scratch + (size_t)FVI_LANES * BWD_ROWS * pad;
    const float *stats = e->out[1].data;
    fvi_norm_row row = { .gain = rows, .n = C, .rms = e->attr->i[0] == FV_NORM_RMS };
    row.sum_dy = sums ? rows + pad : NULL;
    row.sum_dyx = sums ? rows + 2 * pad : NULL;
    int64_t k, end, b, t0, t1;
    memset(rows + 3 * pad, 0, 2 * pad * sizeof(float));
    for (fvi_lane(sp->B * sp->S, lane, &k, &end); k < end; k++) {
        fvi_split_rows(sp, k, &b, &t0, &t1);
        fill_gain(e, b, C, rows, NULL);
        memset(rows + pad, 0, 2 * pad * sizeof(float));
        for (int64_t r = b * sp->T + t0; r < b * sp->T + t1; r++) {
            row.x = fvi_in_at(&e->in[0], r * C);
            row.dy = fvi_in_at(&e->gout[0], r * C);
            row.y = fvi_out_at(&e->gin[0], r * C, e->gin_add[0]);
            row.mean = stats[2 * r];
            row.rstd = stats[2 * r + 1];
            e->ctx->cpu_ops->norm.norm_bwd(&row);
        }
        if (sums)
            norm_item_sums(e, b, C, rows, e->gin[3].data ? items + (size_t)k * 2 * pad : NULL);
    }
}

/* dw (row 3) or db (row 4) of all lanes, in lane order */
static void norm_param_grad(fvi_exec *e, int input, int row)
{
    const int64_t C = e->in[0].dim[e->in[0].ndim - 1];
    const size_t pad = fvi_pad16(C);
    float *sum = (float *)e->scratch + (size_t)row * pad;
    const fvi_pointwise_ops *p = &e->ctx->cpu_ops->pointwise;
    if (!e->gin[input].data) return;
    for (size_t lane = 1; lane < FVI_LANES; lane++)
        p->cast(fvi_out_f32(sum, true), fvi_in_f32(sum + lane * BWD_ROWS * pad), C);
    p->cast(fvi_out_at(&e->gin[input], 0, e->gin_add[input]), fvi_in_f32(sum), C);
}

static fv_status norm_backward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t C = e->in[0].dim[e->in[0].ndim - 1];
    const fvi_split sp = split_of(&e->in[0], &e->in[3]);
    const bool sums = e->gin[1].data || e->gin[2].data || e->gin[3].data;
    if (!sums && !e->gin[0].data) return FV_OK;
    FVI_PARALLEL_LANES(ctx, lane) { norm_bwd_lane(e, &sp, sums, lane); }
    norm_param_grad(e, 1, 3);
    norm_param_grad(e, 2, 4);
    clear_mod(&e->gin[3], e->gin_add[3]);
    if (!e->gin[3].data) return FV_OK;
    const size_t pad = fvi_pad16(C);
    float *items = (float *)e->scratch + (size_t)FVI_LANES * BWD_ROWS * pad;
    const chunk_sum shift = { &e->gin[3], &sp, items, 2 * pad, e->attr->i[1] };
    const chunk_sum scale = { &e->gin[3], &sp, items + pad, 2 * pad, e->attr->i[2] };
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t b, end;
        for (fvi_lane(sp.B, lane, &b, &end); b < end; b++) {
            if (shift.chunk >= 0) add_chunk(e, &shift, b, C);
            if (scale.chunk >= 0) add_chunk(e, &scale, b, C);
        }
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_norm_mod = {
    .name = "norm_mod", .bwd_reads_in = 1 | 2 | 4 | 8, .bwd_reads_out = 2,
    .scratch_bytes = norm_scratch, .forward = norm_forward, .backward = norm_backward
};

/* ---- gate_res: h + gate * y ------------------------------------------------------------------ */

static size_t gate_scratch(const fvi_exec *e, bool backward)
{
    if (!backward || e->in[2].ndim == 0) return 0;
    const fvi_split sp = split_of(&e->in[0], &e->in[2]);
    return (size_t)(sp.B * sp.S) * fvi_pad16(e->in[0].dim[e->in[0].ndim - 1]) * sizeof(float);
}

static fv_status gate_forward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t C = e->in[0].dim[e->in[0].ndim - 1];
    const fvi_split sp = split_of(&e->in[0], &e->in[2]);
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t k, end, b, t0, t1;
        for (fvi_lane(sp.B * sp.S, lane, &k, &end); k < end; k++) {
            fvi_split_rows(&sp, k, &b, &t0, &t1);
            const float *gate = chunk_of(&e->in[2], b, e->attr->i[0], C);
            for (int64_t r = b * sp.T + t0; r < b * sp.T + t1; r++)
                ctx->cpu_ops->norm.gate(fvi_out_at(&e->out[0], r * C, false),
                                        fvi_in_at(&e->in[0], r * C), fvi_in_at(&e->in[1], r * C),
                                        gate, C);
        }
    }
    return FV_OK;
}

/* dh = dh2 unless the planner gave both one buffer */
static void gate_pass(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    if (!e->gin[0].data || e->gin[0].data == e->gout[0].data) return;
    const int64_t n = fv_tensor_count(&e->gout[0]);
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t i, end;
        fvi_lane_flat(n, lane, &i, &end);
        ctx->cpu_ops->pointwise.cast(fvi_out_at(&e->gin[0], i, e->gin_add[0]),
                                     fvi_in_at(&e->gout[0], i), end - i);
    }
}

static fv_status gate_backward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t C = e->in[0].dim[e->in[0].ndim - 1];
    const size_t pad = fvi_pad16(C);
    const fvi_split sp = split_of(&e->in[0], &e->in[2]);
    const bool want_gate = e->gin[2].data && e->attr->i[0] >= 0;
    gate_pass(e);
    clear_mod(&e->gin[2], e->gin_add[2]);
    if (!e->gin[1].data && !want_gate) return FV_OK;
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t k, end, b, t0, t1;
        for (fvi_lane(sp.B * sp.S, lane, &k, &end); k < end; k++) {
            fvi_split_rows(&sp, k, &b, &t0, &t1);
            const float *gate = chunk_of(&e->in[2], b, e->attr->i[0], C);
            float *sum = want_gate ? (float *)e->scratch + (size_t)k * pad : NULL;
            if (sum) memset(sum, 0, pad * sizeof *sum);
            for (int64_t r = b * sp.T + t0; r < b * sp.T + t1; r++)
                ctx->cpu_ops->norm.gate_bwd(fvi_out_at(&e->gin[1], r * C, e->gin_add[1]), sum,
                                            fvi_in_at(&e->gout[0], r * C),
                                            fvi_in_at(&e->in[1], r * C), gate, C);
        }
    }
    const chunk_sum sum = { &e->gin[2], &sp, e->scratch, pad, e->attr->i[0] };
    for (int64_t b = 0; b < sp.B && want_gate; b++) add_chunk(e, &sum, b, C);
    return FV_OK;
}
const fvi_op_def fvi_cpu_gate_res = {
    .name = "gate_res", .bwd_reads_in = 2 | 4, .grad_alias = true, .scratch_bytes = gate_scratch,
    .forward = gate_forward, .backward = gate_backward
};

/* ---- forecast: h + gate * sum of w_k y_k; for sampling, no gradient --------------------------- */

static fv_status forecast_forward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t C = e->in[0].dim[e->in[0].ndim - 1];
    const fvi_split sp = split_of(&e->in[0], &e->in[1]);
    const int count = e->attr->i[1];
    const float *w = e->in[2].data;
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t k, end, b, t0, t1;
        for (fvi_lane(sp.B * sp.S, lane, &k, &end); k < end; k++) {
            fvi_split_rows(&sp, k, &b, &t0, &t1);
            const float *gate = chunk_of(&e->in[1], b, e->attr->i[0], C);
            for (int64_t r = b * sp.T + t0; r < b * sp.T + t1; r++) {
                fvi_in y[FV_FORECAST_MAX];
                for (int i = 0; i < count; i++) y[i] = fvi_in_at(&e->in[3 + i], r * C);
                ctx->cpu_ops->norm.forecast(fvi_out_at(&e->out[0], r * C, false),
                                            fvi_in_at(&e->in[0], r * C), y, w, count, gate, C);
            }
        }
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_forecast = {.name = "forecast", .forward = forecast_forward};
