/* op_loss.c - mean squared error and smooth L1 with a weight per sample, mean absolute error, and
 * softmax cross-entropy with labels and with target distributions.
 *
 * Sums over elements are f32 in short pieces and double above, added in the order of a partition
 * that the shape alone decides. */
#include "cpu_ops.h"

#include <math.h>

/* ---- Scalar rows: the definition ------------------------------------------------------------- */

static double sqdiff_c(fvi_in a, fvi_in b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const float d = fvi_get(a, i) - fvi_get(b, i);
        sum += (double)d * d;
    }
    return sum;
}

static void diff_c(fvi_out y, fvi_in a, fvi_in b, int64_t n, float scale)
{
    for (int64_t i = 0; i < n; i++) fvi_put(y, i, scale * (fvi_get(a, i) - fvi_get(b, i)));
}

static double huber_c(fvi_in a, fvi_in b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const float d = fabsf(fvi_get(a, i) - fvi_get(b, i));
        sum += d < 1 ? 0.5 * (double)d * d : d - 0.5;
    }
    return sum;
}

static void clip_diff_c(fvi_out y, fvi_in a, fvi_in b, int64_t n, float scale)
{
    for (int64_t i = 0; i < n; i++)
        fvi_put(y, i, scale * fminf(fmaxf(fvi_get(a, i) - fvi_get(b, i), -1.0f), 1.0f));
}

static float softmax_c(fvi_out p, fvi_in x, int64_t n)
{
    float max = -INFINITY;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) max = fvi_get(x, i) > max ? fvi_get(x, i) : max;
    for (int64_t i = 0; i < n; i++) sum += expf(fvi_get(x, i) - max);
    const float inv = (float)(1.0 / sum);
    for (int64_t i = 0; i < n && p.p; i++) fvi_put(p, i, expf(fvi_get(x, i) - max) * inv);
    return max + (float)log(sum);
}

static double absdiff_c(fvi_in a, fvi_in b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += fabsf(fvi_get(a, i) - (b.p ? fvi_get(b, i) : 0.0f));
    return sum;
}

static void sign_c(fvi_out y, fvi_in a, fvi_in b, int64_t n, float scale)
{
    for (int64_t i = 0; i < n; i++) {
        const float d = fvi_get(a, i) - (b.p ? fvi_get(b, i) : 0.0f);
        fvi_put(y, i, d > 0 ? scale : d < 0 ? -scale : 0.0f);
    }
}

void fvi_loss_init(fvi_loss_ops *o, uint32_t cpu)
{
    const fvi_loss_ops c = { sqdiff_c, diff_c, huber_c, clip_diff_c, softmax_c, absdiff_c, sign_c };
    *o = c;
#if defined(__x86_64__)
    if (cpu & FV_CPU_AVX2) fvi_loss_init_avx2(o);
    if (cpu & FV_CPU_AVX512) fvi_loss_init_avx512(o);
#endif
    (void)cpu;
}

static const fvi_loss_ops *rows(const fvi_exec *e) { return &e->ctx->cpu_ops->loss; }

/* ---- Mean squared error: L = (1/N) sum_b w_b sum (a - t)^2; smooth L1 in the same form --------- */

/* Samples are the first dimension of a; a vector without weights is one sample. */
static fvi_split mse_split(const fvi_exec *e)
{
    const fv_tensor *a = &e->in[0];
    const int64_t B = a->ndim > 1 || e->in[2].ndim > 0 ? a->dim[0] : 1;
    return fvi_split_of(B, B > 0 ? fv_tensor_count(a) / B : 0);
}

static size_t mse_scratch(const fvi_exec *e, bool backward)
{
    (void)backward; /* backward needs the sums only for the gradient of the weights */
    const fvi_split sp = mse_split(e);
    return (size_t)(sp.B * sp.S) * sizeof(double);
}

/* part[b * S + s] = sum over the segments */
static double *mse_parts(const fvi_exec *e, const fvi_split *sp)
{
    fv_ctx *ctx = e->ctx;
    double *part = e->scratch;
    double (*const sum)(fvi_in, fvi_in, int64_t) = e->attr->i[0] ? rows(e)->huber : rows(e)->sqdiff;
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t k, end, b, t0, t1;
        for (fvi_lane(sp->B * sp->S, lane, &k, &end); k < end; k++) {
            fvi_split_rows(sp, k, &b, &t0, &t1);
            part[k] = sum(fvi_in_at(&e->in[0], b * sp->T + t0),
                          fvi_in_at(&e->in[1], b * sp->T + t0), t1 - t0);
        }
    }
    return part;
}

static fv_status mse_forward(fvi_exec *e)
{
    const fvi_split sp = mse_split(e);
    const float *weight = e->in[2].data;
    const double *part = mse_parts(e, &sp);
    double total = 0;
    for (int64_t b = 0; b < sp.B; b++) {
        double sum = 0;
        for (int64_t s = 0; s < sp.S; s++) sum += part[b * sp.S + s];
        total += weight ? weight[b] * sum : sum;
    }
    *(float *)e->out[0].data = (float)(total / ((double)sp.B * (double)sp.T));
    return FV_OK;
}

static void mse_weight_grad(fvi_exec *e, const fvi_split *sp, double scale)
{
    const double *part = mse_parts(e, sp);
    for (int64_t b = 0; b < sp->B; b++) {
        double sum = 0;
        for (int64_t s = 0; s < sp->S; s++) sum += part[b * sp->S + s];
        fvi_put(fvi_out_at(&e->gin[2], 0, e->gin_add[2]), b, (float)(scale * sum));
    }
}

static fv_status mse_backward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const fvi_split sp = mse_split(e);
    const float *weight = e->in[2].data;
    const double scale = *(const float *)e->gout[0].data / ((double)sp.B * (double)sp.T);
    const bool is_l1 = e->attr->i[0];
    void (*const diff)(fvi_out, fvi_in, fvi_in, int64_t, float) =
        is_l1 ? rows(e)->clip_diff : rows(e)->diff;
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t k, end, b, t0, t1;
        for (fvi_lane(sp.B * sp.S, lane, &k, &end); k < end; k++) {
            fvi_split_rows(&sp, k, &b, &t0, &t1);
            const int64_t at = b * sp.T + t0;
            const fvi_in a = fvi_in_at(&e->in[0], at), t = fvi_in_at(&e->in[1], at);
            const float g = (float)((is_l1 ? 1.0 : 2.0) * scale * (weight ? weight[b] : 1.0f));
            const fvi_out da = fvi_out_at(&e->gin[0], at, e->gin_add[0]);
            const fvi_out dt = fvi_out_at(&e->gin[1], at, e->gin_add[1]);
            if (da.p) diff(da, a, t, t1 - t0, g);
            if (dt.p) diff(dt, a, t, t1 - t0, -g);
        }
    }
    if (e->gin[2].data) mse_weight_grad(e, &sp, scale);
    return FV_OK;
}
const fvi_op_def fvi_cpu_loss_mse = {
    .name = "loss_mse", .bwd_reads_in = 1 | 2 | 4, .scratch_bytes = mse_scratch,
    .forward = mse_forward, .backward = mse_backward
};

/* ---- Mean absolute error: in a, [target] ------------------------------------------------------ */

static size_t l1_scratch(const fvi_exec *e, bool backward)
{
    const fvi_split sp = fvi_split_of(1, fv_tensor_count(&e->in[0]));
    return backward ? 0 : (size_t)sp.S * sizeof(double);
}

static fv_status l1_forward(fvi_exec *e)
{
    const int64_t n = fv_tensor_count(&e->in[0]);
    const fvi_split sp = fvi_split_of(1, n);
    double *part = e->scratch, total = 0;
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t k, end, b, t0, t1;
        for (fvi_lane(sp.S, lane, &k, &end); k < end; k++) {
            fvi_split_rows(&sp, k, &b, &t0, &t1);
            part[k] = rows(e)->absdiff(fvi_in_at(&e->in[0], t0), fvi_in_at(&e->in[1], t0), t1 - t0);
        }
    }
    for (int64_t k = 0; k < sp.S; k++) total += part[k];
    *(float *)e->out[0].data = (float)(total / (double)n);
    return FV_OK;
}

static fv_status l1_backward(fvi_exec *e)
{
    const int64_t n = fv_tensor_count(&e->in[0]);
    const float scale = (float)(*(const float *)e->gout[0].data / (double)n);
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t i, end;
        fvi_lane_flat(n, lane, &i, &end);
        for (int k = 0; k < 2 && i < end; k++)
            if (e->gin[k].data)
                rows(e)->sign(fvi_out_at(&e->gin[k], i, e->gin_add[k]), fvi_in_at(&e->in[0], i),
                              fvi_in_at(&e->in[1], i), end - i, k ? -scale : scale);
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_loss_l1 = {
    .name = "loss_l1", .bwd_reads_in = 3, .scratch_bytes = l1_scratch, .forward = l1_forward,
    .backward = l1_backward
};

/* ---- Cross-entropy: L = mean over labels >= 0 of (log sum exp x - x[label]) ------------------ */

/* Count of rows that take part; FV_ERR_ARG for a label outside [-1, V). */
static fv_status count_labels(const fvi_exec *e, int64_t *used)
{
    const int32_t *label = e->in[1].data;
    const int64_t n = fv_tensor_count(&e->in[1]), V = e->in[0].dim[e->in[0].ndim - 1];
    *used = 0;
    for (int64_t i = 0; i < n; i++) {
        if (label[i] < -1 || label[i] >= V)
            return fv_fail(e->ctx, FV_ERR_ARG,
                           "loss_cross_entropy: label %d at row %lld, there are %lld classes",
                           (int)label[i], (long long)i, (long long)V);
        *used += label[i] >= 0;
    }
    return FV_OK;
}

static size_t ce_scratch(const fvi_exec *e, bool backward)
{
    return backward ? 0 : (size_t)fv_tensor_count(&e->in[1]) * sizeof(float);
}

static fv_status ce_forward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int32_t *label = e->in[1].data;
    const int64_t n = fv_tensor_count(&e->in[1]), V = e->in[0].dim[e->in[0].ndim - 1];
    float *loss = e->scratch; /* [n] */
    int64_t used;
    FV_TRY(count_labels(e, &used));
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t i, end;
        for (fvi_lane(n, lane, &i, &end); i < end; i++) {
            const fvi_in x = fvi_in_at(&e->in[0], i * V);
            const float lse = rows(e)->softmax(fvi_out_at(&e->out[1], i * V, false), x, V);
            loss[i] = label[i] < 0 ? 0.0f : lse - fvi_get(x, label[i]);
        }
    }
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += loss[i];
    *(float *)e->out[0].data = used ? (float)(sum / (double)used) : 0.0f;
    return FV_OK;
}

/* dx = scale * (p - onehot(label)); the label's element apart, so that bf16 rounds once. */
static void ce_row_backward(const fvi_exec *e, int64_t i, int64_t V, int32_t label, float scale)
{
    const fvi_in p = fvi_in_at(&e->out[1], i * V);
    const fvi_out dx = fvi_out_at(&e->gin[0], i * V, e->gin_add[0]);
    const fvi_in here = { dx.p, dx.bf16 };
    const float old = label >= 0 && dx.add ? fvi_get(here, label) : 0.0f;
    e->ctx->cpu_ops->pointwise.affine(dx, p, V, label >= 0 ? scale : 0.0f, 0.0f);
    if (label < 0) return;
    const fvi_out put = { dx.p, dx.bf16, false };
    fvi_put(put, label, old + scale * (fvi_get(p, label) - 1.0f));
}

static fv_status ce_backward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int32_t *label = e->in[1].data;
    const int64_t n = fv_tensor_count(&e->in[1]), V = e->in[0].dim[e->in[0].ndim - 1];
    int64_t used;
    if (!e->gin[0].data) return FV_OK;
    FV_TRY(count_labels(e, &used));
    const float scale = used ? *(const float *)e->gout[0].data / (float)used : 0.0f;
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t i, end;
        for (fvi_lane(n, lane, &i, &end); i < end; i++) ce_row_backward(e, i, V, label[i], scale);
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_loss_ce = {
    .name = "loss_ce", .bwd_reads_in = 2, .bwd_reads_out = 2, .scratch_bytes = ce_scratch,
    .forward = ce_forward, .backward = ce_backward
};

/* ---- Cross-entropy to a distribution: L = (1/n) sum_i w_i (log sum exp x_i - sum_v p_iv x_iv) - */

static size_t soft_ce_scratch(const fvi_exec *e, bool backward)
{
    const size_t V = (size_t)e->in[0].dim[1], n = (size_t)e->in[0].dim[0];
    return backward ? 0 : n * sizeof(double) + FVI_LANES * V * sizeof(float);
}

/* Row i: the loss, and q - p for the backward pass. p [V]: work. */
static double soft_ce_row(const fvi_exec *e, int64_t i, float *p)
{
    const int64_t V = e->in[0].dim[1];
    const fvi_in x = fvi_in_at(&e->in[0], i * V), here = fvi_in_f32(p);
    const fvi_out q = fvi_out_at(&e->out[1], i * V, false);
    double dot = 0;
    (void)rows(e)->softmax(fvi_out_f32(p, false), fvi_in_at(&e->in[1], i * V), V);
    const float lse = rows(e)->softmax(q, x, V);
    for (int64_t k = 0; k < V; k++) dot += (double)p[k] * ((const float *)x.p)[k];
    if (q.p) rows(e)->diff(q, (fvi_in){ q.p, false }, here, V, 1.0f);
    return lse - dot;
}

static fv_status soft_ce_forward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t n = e->in[0].dim[0], V = e->in[0].dim[1];
    const float *weight = e->in[2].data;
    double *loss = e->scratch; /* [n] */
    float *work = (float *)(void *)(loss + n);
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t i, end;
        for (fvi_lane(n, lane, &i, &end); i < end; i++)
            loss[i] = soft_ce_row(e, i, work + lane * V);
    }
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (weight ? weight[i] : 1.0f) * loss[i];
    *(float *)e->out[0].data = (float)(sum / (double)n);
    return FV_OK;
}

static fv_status soft_ce_backward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t n = e->in[0].dim[0], V = e->in[0].dim[1];
    const float *weight = e->in[2].data;
    const float scale = *(const float *)e->gout[0].data / (float)n;
    if (e->gin[2].data)
        return fv_fail(ctx, FV_ERR_UNSUPPORTED, "loss_soft_ce: weights have no gradient");
    if (!e->gin[0].data) return FV_OK;
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t i, end;
        for (fvi_lane(n, lane, &i, &end); i < end; i++)
            ctx->cpu_ops->pointwise.affine(fvi_out_at(&e->gin[0], i * V, e->gin_add[0]),
                                           fvi_in_at(&e->out[1], i * V), V,
                                           scale * (weight ? weight[i] : 1.0f), 0.0f);
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_loss_soft_ce = {
    .name = "loss_soft_ce", .bwd_reads_in = 4, .bwd_reads_out = 2, .scratch_bytes = soft_ce_scratch,
    .forward = soft_ce_forward, .backward = soft_ce_backward
};
