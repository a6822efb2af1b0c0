/* op_feature_loss.c - distances between feature maps a and b, f32 [B, .., C], of one stage (CPU).
 *
 *     loss_lpips  mean over rows of sum_c w_c (a_c/|a| - b_c/|b|)^2    [Zhang et al. 2018, eq. 1]
 *     loss_dists  mean over samples of sum_c alpha_c l_c + beta_c s_c  [Ding et al. 2020]
 *                 l = (2 ma mb + k) / (ma^2 + mb^2 + k)      structure of means over the sample
 *                 s = (2 cov + k) / (va + vb + k), k = 1e-6  of deviations from them
 *
 * Sums are in double: where a feature hardly varies the second is a quotient of small differences.
 * There is no gradient to b. A row of zeros, of which no direction is known, gets none. */
#include "cpu_ops.h"

#include <math.h>

#define LENGTH_EPS 1e-10
#define STABLE 1e-6

/* ---- LPIPS: in a, b, w; out loss ------------------------------------------------------------- */

static double inverse_length(const float *x, int64_t C)
{
    double sum = 0;
    for (int64_t c = 0; c < C; c++) sum += (double)x[c] * x[c];
    return 1.0 / (sqrt(sum) + LENGTH_EPS);
}

static fv_status lpips_forward(fvi_exec *e)
{
    const int64_t C = fv_tensor_count(&e->in[2]), rows = fv_tensor_count(&e->in[0]) / C;
    const float *w = e->in[2].data;
    double lanes[FVI_LANES] = { 0 }, sum = 0;
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t r, end;
        for (fvi_lane(rows, lane, &r, &end); r < end; r++) {
            const float *a = (const float *)e->in[0].data + r * C;
            const float *b = (const float *)e->in[1].data + r * C;
            const double ia = inverse_length(a, C), ib = inverse_length(b, C);
            for (int64_t c = 0; c < C; c++) {
                const double d = a[c] * ia - b[c] * ib;
                lanes[lane] += w[c] * d * d;
            }
        }
    }
    for (int lane = 0; lane < FVI_LANES; lane++) sum += lanes[lane];
    *(float *)e->out[0].data = (float)(sum / (double)rows);
    return FV_OK;
}

/* With u = a/|a| and g = 2 w (u - b/|b|) / rows: da = (g - u (u . g)) / |a|. */
static void lpips_row_back(const fvi_exec *e, int64_t r, int64_t C, double scale)
{
    const float *a = (const float *)e->in[0].data + r * C;
    const float *b = (const float *)e->in[1].data + r * C, *w = e->in[2].data;
    float *da = (float *)e->gin[0].data + r * C;
    const double ia = inverse_length(a, C), ib = inverse_length(b, C);
    const bool is_zero = ia >= 1.0 / LENGTH_EPS;
    double along = 0;
    for (int64_t c = 0; c < C; c++) along += a[c] * ia * 2 * w[c] * (a[c] * ia - b[c] * ib);
    for (int64_t c = 0; c < C; c++) {
        const double u = a[c] * ia, g = 2 * w[c] * (u - b[c] * ib) - u * along;
        const float v = is_zero ? 0.0f : (float)(scale * ia * g);
        da[c] = e->gin_add[0] ? da[c] + v : v;
    }
}

static fv_status lpips_backward(fvi_exec *e)
{
    const int64_t C = fv_tensor_count(&e->in[2]), rows = fv_tensor_count(&e->in[0]) / C;
    const double scale = *(const float *)e->gout[0].data / (double)rows;
    if (!e->gin[0].data) return FV_OK;
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t r, end;
        for (fvi_lane(rows, lane, &r, &end); r < end; r++) lpips_row_back(e, r, C, scale);
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_loss_lpips = {
    .name = "loss_lpips", .bwd_reads_in = 7, .forward = lpips_forward, .backward = lpips_backward
};

/* ---- DISTS: in a, b, alpha, beta; out loss --------------------------------------------------- */

typedef struct moments { double ma, mb, va, vb, cov; } moments;

/* Of channels [c0, c1) of a sample of T rows; m: one for each channel. */
static void take_moments(const float *a, const float *b, int64_t T, int64_t C, int64_t c0,
                         int64_t c1, moments *m)
{
    for (int64_t c = c0; c < c1; c++) m[c] = (moments){ 0 };
    for (int64_t t = 0; t < T; t++)
        for (int64_t c = c0; c < c1; c++) {
            m[c].ma += a[t * C + c];
            m[c].mb += b[t * C + c];
        }
    for (int64_t c = c0; c < c1; c++) {
        m[c].ma /= (double)T;
        m[c].mb /= (double)T;
    }
    for (int64_t t = 0; t < T; t++)
        for (int64_t c = c0; c < c1; c++) {
            const double x = a[t * C + c] - m[c].ma, y = b[t * C + c] - m[c].mb;
            m[c].va += x * x;
            m[c].vb += y * y;
            m[c].cov += x * y;
        }
    for (int64_t c = c0; c < c1; c++) {
        m[c].va /= (double)T;
        m[c].vb /= (double)T;
        m[c].cov /= (double)T;
    }
}

static double mean_term(const moments *m)
{
    return (2 * m->ma * m->mb + STABLE) / (m->ma * m->ma + m->mb * m->mb + STABLE);
}

static double spread_term(const moments *m)
{
    return (2 * m->cov + STABLE) / (m->va + m->vb + STABLE);
}

static size_t dists_scratch(const fvi_exec *e, bool backward)
{
    (void)backward;
    return (size_t)fv_tensor_count(&e->in[2]) * (sizeof(moments) + sizeof(double));
}

static fv_status dists_forward(fvi_exec *e)
{
    const int64_t C = fv_tensor_count(&e->in[2]), B = e->in[0].dim[0];
    const int64_t T = fv_tensor_count(&e->in[0]) / (B * C);
    const float *alpha = e->in[2].data, *beta = e->in[3].data;
    moments *m = e->scratch;
    double *value = (double *)(void *)(m + C), sum = 0;
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t c0, c1;
        fvi_lane(C, lane, &c0, &c1);
        for (int64_t c = c0; c < c1; c++) value[c] = 0;
        for (int64_t b = 0; b < B && c0 < c1; b++) {
            take_moments((const float *)e->in[0].data + b * T * C,
                         (const float *)e->in[1].data + b * T * C, T, C, c0, c1, m);
            for (int64_t c = c0; c < c1; c++)
                value[c] += alpha[c] * mean_term(&m[c]) + beta[c] * spread_term(&m[c]);
        }
    }
    for (int64_t c = 0; c < C; c++) sum += value[c];
    *(float *)e->out[0].data = (float)(sum / (double)B);
    return FV_OK;
}

/* da_t = (alpha dl/dma + beta ds/dva 2 (a_t - ma) + beta ds/dcov (b_t - mb)) / T */
static void dists_sample_back(const fvi_exec *e, int64_t at, int64_t T, const int64_t range[2],
                              double scale)
{
    const int64_t C = fv_tensor_count(&e->in[2]);
    const float *a = (const float *)e->in[0].data + at, *b = (const float *)e->in[1].data + at;
    const float *alpha = e->in[2].data, *beta = e->in[3].data;
    float *da = (float *)e->gin[0].data + at;
    moments *all = e->scratch;
    take_moments(a, b, T, C, range[0], range[1], all);
    for (int64_t c = range[0]; c < range[1]; c++) {
        const moments *m = &all[c];
        const double below = m->ma * m->ma + m->mb * m->mb + STABLE;
        const double spread = m->va + m->vb + STABLE;
        const double k = scale * alpha[c] * 2 * (m->mb - mean_term(m) * m->ma) / below;
        const double kb = scale * beta[c] * 2 / spread, ka = kb * spread_term(m);
        for (int64_t t = 0; t < T; t++) {
            const float v = (float)(k + kb * (b[t * C + c] - m->mb) - ka * (a[t * C + c] - m->ma));
            da[t * C + c] = e->gin_add[0] ? da[t * C + c] + v : v;
        }
    }
}

static fv_status dists_backward(fvi_exec *e)
{
    const int64_t C = fv_tensor_count(&e->in[2]), B = e->in[0].dim[0];
    const int64_t T = fv_tensor_count(&e->in[0]) / (B * C);
    const double scale = *(const float *)e->gout[0].data / (double)(B * T);
    if (!e->gin[0].data) return FV_OK;
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t range[2];
        fvi_lane(C, lane, &range[0], &range[1]);
        for (int64_t b = 0; b < B && range[0] < range[1]; b++)
            dists_sample_back(e, b * T * C, T, range, scale);
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_loss_dists = {
    .name = "loss_dists", .bwd_reads_in = 15, .scratch_bytes = dists_scratch,
    .forward = dists_forward, .backward = dists_backward
};
