/* op_groupnorm.c - GroupNorm [Wu & He, arXiv:1803.08494] over [B,H,W,C] with affine and activation.
 *
 * Channels lie innermost, so a pixel is a row and all sums are per channel first, then over the
 * channels of a group:
 *
 *     yhat = (x - mean_g) * rstd_g      v = yhat * w + b      y = act(v)
 *     dv = dy act'(v)      db = sum dv      dw = sum dv yhat
 *     dx = rstd (dv w - m1 - yhat m2),  m1 = mean_g(dv w),  m2 = mean_g(dv w yhat)
 *
 * The variance is a second pass: one pass over x and x^2 loses it where mean >> deviation. v is
 * computed again in backward instead of being kept.
 *
 * Order of sums: segments of at most 1024 pixels in f32 per channel (fvi_split), then double. */
#include "cpu_ops.h"
#include "op_act.h"

#include <math.h>
#include <string.h>

/* ---- Scalar rows: the definition ------------------------------------------------------------- */

static void sqdev_c(float *sum, fvi_in x, const float *mean, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const float d = fvi_get(x, i) - mean[i];
        sum[i] += d * d;
    }
}

static void apply_c(fvi_out y, fvi_in x, const fvi_group_coef *c, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const float h = (fvi_get(x, i) - c->mean[i]) * c->rstd[i];
        fvi_put(y, i, fvi_act_c(c->act, h * c->w[i] + c->b[i]));
    }
}

static float dv_c(fvi_in x, fvi_in dy, const fvi_group_coef *c, int64_t i, float *h)
{
    *h = (fvi_get(x, i) - c->mean[i]) * c->rstd[i];
    return fvi_get(dy, i) * fvi_dact_c(c->act, *h * c->w[i] + c->b[i]);
}

static void bwd_sums_c(float *sum_dv, float *sum_dvx, fvi_in x, fvi_in dy, const fvi_group_coef *c,
                       int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float h;
        const float dv = dv_c(x, dy, c, i, &h);
        sum_dv[i] += dv;
        sum_dvx[i] += dv * h;
    }
}

static void bwd_apply_c(fvi_out dx, fvi_in x, fvi_in dy, const fvi_group_coef *c, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float h;
        const float dv = dv_c(x, dy, c, i, &h);
        fvi_put(dx, i, c->rstd[i] * (dv * c->w[i] - c->m1[i] - h * c->m2[i]));
    }
}

void fvi_group_init(fvi_group_ops *o, uint32_t cpu)
{
    const fvi_group_ops c = { sqdev_c, apply_c, bwd_sums_c, bwd_apply_c };
    *o = c;
#if defined(__x86_64__)
    if (cpu & FV_CPU_AVX2) fvi_group_init_avx2(o);
    if (cpu & FV_CPU_AVX512) fvi_group_init_avx512(o);
#endif
    (void)cpu;
}

/* ---- The op ---------------------------------------------------------------------------------- */

/* Scratch, rows of C padded to cache lines: per sample COEF_ROWS, then per item 2 (sums). */
enum { MEAN, RSTD, WEIGHT, BIAS, M1, M2, COEF_ROWS };

typedef struct group_job {
    fv_ctx *ctx;
    const fvi_exec *e;
    const fvi_group_ops *ops;
    fvi_split sp;          /* samples of H*W pixels */
    int64_t C, G;
    size_t pad;
    float *coef, *part;    /* [B, COEF_ROWS, pad], [B * S, 2, pad] */
} group_job;

static group_job job_of(const fvi_exec *e)
{
    const fv_tensor *x = &e->in[0];
    group_job j = { .ctx = e->ctx, .e = e, .C = x->dim[x->ndim - 1], .G = e->attr->i[0] };
    const int64_t B = x->dim[0];
    j.sp = fvi_split_of(B, B > 0 ? fv_tensor_count(x) / (B * j.C) : 0);
    j.pad = fvi_pad16(j.C);
    j.coef = e->scratch;
    j.part = j.coef ? j.coef + (size_t)B * COEF_ROWS * j.pad : NULL;
    j.ops = e->ctx ? &e->ctx->cpu_ops->group : NULL;
    return j;
}

static size_t group_scratch(const fvi_exec *e, bool backward)
{
    (void)backward;
    const group_job j = job_of(e);
    return (size_t)j.sp.B * (COEF_ROWS + 2 * (size_t)j.sp.S) * j.pad * sizeof(float);
}

static float *coef_row(const group_job *j, int64_t b, int row)
{
    return j->coef + ((size_t)b * COEF_ROWS + (size_t)row) * j->pad;
}

static fvi_group_coef coef_of(const group_job *j, int64_t b)
{
    const fvi_group_coef c = { coef_row(j, b, MEAN), coef_row(j, b, RSTD), coef_row(j, b, WEIGHT),
                               coef_row(j, b, BIAS), coef_row(j, b, M1), coef_row(j, b, M2),
                               (fv_act)j->e->attr->i[1] };
    return c;
}

/* Channel sums of x, or of (x - mean)^2, per item into part row 0. */
static void channel_sums(const group_job *j, bool squares)
{
    fv_ctx *ctx = j->ctx;
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t k, end, b, t0, t1;
        for (fvi_lane(j->sp.B * j->sp.S, lane, &k, &end); k < end; k++) {
            float *sum = j->part + (size_t)k * 2 * j->pad;
            fvi_split_rows(&j->sp, k, &b, &t0, &t1);
            memset(sum, 0, j->pad * sizeof *sum);
            for (int64_t r = b * j->sp.T + t0; r < b * j->sp.T + t1; r++) {
                const fvi_in x = fvi_in_at(&j->e->in[0], r * j->C);
                if (squares) j->ops->sqdev(sum, x, coef_row(j, b, MEAN), j->C);
                else ctx->cpu_ops->pointwise.cast(fvi_out_f32(sum, true), x, j->C);
            }
        }
    }
}

/* Mean over the group of sample b of part row `row`, times w when weighted; set on all channels of
 * the group in `dst`. */
static void group_mean(const group_job *j, int64_t b, int row, const float *w, float *dst)
{
    const int64_t size = j->C / j->G;
    for (int64_t g = 0; g < j->G; g++) {
        double total = 0;
        for (int64_t c = g * size; c < (g + 1) * size; c++) {
            double sum = 0;
            for (int64_t s = 0; s < j->sp.S; s++)
                sum += j->part[((size_t)(b * j->sp.S + s) * 2 + (size_t)row) * j->pad + (size_t)c];
            total += w ? sum * w[c] : sum;
        }
        const float mean = (float)(total / ((double)size * (double)j->sp.T));
        for (int64_t c = g * size; c < (g + 1) * size; c++) dst[c] = mean;
    }
}

static void fill_affine(const group_job *j, int64_t b)
{
    const float *w = j->e->in[1].data, *bias = j->e->in[2].data;
    float *cw = coef_row(j, b, WEIGHT), *cb = coef_row(j, b, BIAS);
    for (int64_t c = 0; c < j->C; c++) {
        cw[c] = w ? w[c] : 1.0f;
        cb[c] = bias ? bias[c] : 0.0f;
    }
}

static fv_status group_forward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const group_job j = job_of(e);
    float *stats = e->out[1].data;
    channel_sums(&j, false);
    for (int64_t b = 0; b < j.sp.B; b++) group_mean(&j, b, 0, NULL, coef_row(&j, b, MEAN));
    channel_sums(&j, true);
    for (int64_t b = 0; b < j.sp.B; b++) {
        const float *mean = coef_row(&j, b, MEAN);
        float *rstd = coef_row(&j, b, RSTD);
        group_mean(&j, b, 0, NULL, rstd);
        for (int64_t c = 0; c < j.C; c++) rstd[c] = 1.0f / sqrtf(rstd[c] + e->attr->f[0]);
        fill_affine(&j, b);
        for (int64_t g = 0; g < j.G && stats; g++) {
            stats[(b * j.G + g) * 2] = mean[g * (j.C / j.G)];
            stats[(b * j.G + g) * 2 + 1] = rstd[g * (j.C / j.G)];
        }
    }
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t r, end;
        for (fvi_lane(j.sp.B * j.sp.T, lane, &r, &end); r < end; r++) {
            const fvi_group_coef c = coef_of(&j, r / j.sp.T);
            j.ops->apply(fvi_out_at(&e->out[0], r * j.C, false), fvi_in_at(&e->in[0], r * j.C), &c,
                         j.C);
        }
    }
    return FV_OK;
}

static void group_bwd_sums(const group_job *j)
{
    fv_ctx *ctx = j->ctx;
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t k, end, b, t0, t1;
        for (fvi_lane(j->sp.B * j->sp.S, lane, &k, &end); k < end; k++) {
            float *sum = j->part + (size_t)k * 2 * j->pad;
            fvi_split_rows(&j->sp, k, &b, &t0, &t1);
            memset(sum, 0, 2 * j->pad * sizeof *sum);
            const fvi_group_coef c = coef_of(j, b);
            for (int64_t r = b * j->sp.T + t0; r < b * j->sp.T + t1; r++)
                j->ops->bwd_sums(sum, sum + j->pad, fvi_in_at(&j->e->in[0], r * j->C),
                                 fvi_in_at(&j->e->gout[0], r * j->C), &c, j->C);
        }
    }
}

/* dw (row 1: sums of dv*yhat) or db (row 0) over all items in order */
static void group_param_grad(const group_job *j, int input, int row)
{
    const fv_tensor *grad = &j->e->gin[input];
    if (!grad->data) return;
    for (int64_t c = 0; c < j->C; c++) {
        double sum = 0;
        for (int64_t k = 0; k < j->sp.B * j->sp.S; k++)
            sum += j->part[((size_t)k * 2 + (size_t)row) * j->pad + (size_t)c];
        fvi_put(fvi_out_at(grad, 0, j->e->gin_add[input]), c, (float)sum);
    }
}

static fv_status group_backward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const group_job j = job_of(e);
    const float *stats = e->out[1].data;
    for (int64_t b = 0; b < j.sp.B; b++) {
        fill_affine(&j, b);
        for (int64_t c = 0; c < j.C; c++) {
            const int64_t g = c / (j.C / j.G);
            coef_row(&j, b, MEAN)[c] = stats[(b * j.G + g) * 2];
            coef_row(&j, b, RSTD)[c] = stats[(b * j.G + g) * 2 + 1];
        }
    }
    group_bwd_sums(&j);
    group_param_grad(&j, 1, 1);
    group_param_grad(&j, 2, 0);
    if (!e->gin[0].data) return FV_OK;
    for (int64_t b = 0; b < j.sp.B; b++) {
        group_mean(&j, b, 0, coef_row(&j, b, WEIGHT), coef_row(&j, b, M1));
        group_mean(&j, b, 1, coef_row(&j, b, WEIGHT), coef_row(&j, b, M2));
    }
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t r, end;
        for (fvi_lane(j.sp.B * j.sp.T, lane, &r, &end); r < end; r++) {
            const fvi_group_coef c = coef_of(&j, r / j.sp.T);
            j.ops->bwd_apply(fvi_out_at(&e->gin[0], r * j.C, e->gin_add[0]),
                             fvi_in_at(&e->in[0], r * j.C), fvi_in_at(&e->gout[0], r * j.C), &c,
                             j.C);
        }
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_groupnorm = {.name = "groupnorm",
                                      .bwd_reads_in = 1 | 2 | 4,
                                      .bwd_reads_out = 2,
                                      .scratch_bytes = group_scratch,
                                      .forward = group_forward,
                                      .backward = group_backward};
