/* op_unit_qk.c - queries and keys of unit length, for cosine attention [as in Swin v2, Liu et al.
 * 2022], forward and backward (CPU).
 *
 * qkv [B, T, 3, h, hd], per token and head, v copied:
 *     q' = s_h q / max(|q|, eps)    k' = k / max(|k|, eps)    s_h = exp(min(scale_h, most))
 *
 * With u = x/|x| and y = s u:  dx = s (dy - u (u . dy)) / |x|,  dscale_h = sum of s (u . dy), none
 * where scale_h is above `most`. Sums of lanes are added in order. */
#include "cpu_ops.h"

#include <math.h>
#include <string.h>

typedef struct qk_size { int64_t tokens, h, hd; } qk_size;

static qk_size size_of(const fvi_exec *e)
{
    const int64_t *d = e->in[0].dim;
    const qk_size s = { d[0] * d[1], d[3], d[4] };
    return s;
}

static double dot(const float *a, const float *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return sum;
}

/* Per lane: two rows of a head, and the sums of the scales. */
static size_t qk_scratch(const fvi_exec *e, bool backward)
{
    const qk_size s = size_of(e);
    (void)backward;
    return FVI_LANES * (2 * fvi_pad16(s.hd) * sizeof(float) + fvi_pad16(s.h) * sizeof(double));
}

static float *lane_rows(const fvi_exec *e, const qk_size *s, int lane)
{
    return (float *)e->scratch + (size_t)lane * 2 * fvi_pad16(s->hd);
}

static double *lane_sums(const fvi_exec *e, const qk_size *s, int lane)
{
    float *rows = lane_rows(e, s, FVI_LANES); /* behind those of all lanes */
    return (double *)(void *)rows + (size_t)lane * fvi_pad16(s->h);
}

static double scale_of(const fvi_exec *e, int64_t head)
{
    return exp(fmin(((const float *)e->in[1].data)[head], e->attr->f[1]));
}

static fv_status qk_forward(fvi_exec *e)
{
    const qk_size s = size_of(e);
    const fvi_pointwise_ops *p = &e->ctx->cpu_ops->pointwise;
    FVI_PARALLEL_LANES(e->ctx, lane) {
        float *x = lane_rows(e, &s, lane);
        int64_t t, end;
        for (fvi_lane(s.tokens, lane, &t, &end); t < end; t++) {
            for (int64_t i = 0; i < 2 * s.h; i++) {
                const int64_t at = (t * 3 * s.h + i) * s.hd;
                p->cast(fvi_out_f32(x, false), fvi_in_at(&e->in[0], at), s.hd);
                const double length = fmax(sqrt(dot(x, x, s.hd)), e->attr->f[0]);
                const double f = (i < s.h ? scale_of(e, i) : 1.0) / length;
                p->affine(fvi_out_at(&e->out[0], at, false), fvi_in_f32(x), s.hd, (float)f, 0.0f);
            }
            const int64_t v = (t * 3 + 2) * s.h * s.hd;
            p->cast(fvi_out_at(&e->out[0], v, false), fvi_in_at(&e->in[0], v), s.h * s.hd);
        }
    }
    return FV_OK;
}

/* One row of q (is_q) or k; returns s (u . dy). */
static double row_backward(const fvi_exec *e, int64_t at, int64_t hd, double f, float *x)
{
    const fvi_pointwise_ops *p = &e->ctx->cpu_ops->pointwise;
    float *dy = x + fvi_pad16(hd);
    p->cast(fvi_out_f32(x, false), fvi_in_at(&e->in[0], at), hd);
    p->cast(fvi_out_f32(dy, false), fvi_in_at(&e->gout[0], at), hd);
    const double length = sqrt(dot(x, x, hd)), eps = e->attr->f[0];
    const double inv = 1.0 / fmax(length, eps), along = dot(x, dy, hd) * inv;
    const double pull = length > eps ? along * inv : 0; /* a row shorter than eps is only scaled */
    for (int64_t i = 0; i < hd; i++) dy[i] = (float)(f * inv * (dy[i] - pull * x[i]));
    if (e->gin[0].data) p->cast(fvi_out_at(&e->gin[0], at, e->gin_add[0]), fvi_in_f32(dy), hd);
    return f * along;
}

static fv_status qk_backward(fvi_exec *e)
{
    const qk_size s = size_of(e);
    const fvi_pointwise_ops *p = &e->ctx->cpu_ops->pointwise;
    const float *scale = e->in[1].data;
    float *dscale = e->gin[1].data;
    FVI_PARALLEL_LANES(e->ctx, lane) {
        double *sum = lane_sums(e, &s, lane);
        int64_t t, end;
        memset(sum, 0, (size_t)s.h * sizeof *sum);
        for (fvi_lane(s.tokens, lane, &t, &end); t < end; t++) {
            for (int64_t i = 0; i < 2 * s.h; i++) {
                const double f = i < s.h ? scale_of(e, i) : 1.0;
                const double g = row_backward(e, (t * 3 * s.h + i) * s.hd, s.hd, f,
                                              lane_rows(e, &s, lane));
                if (i < s.h) sum[i] += g;
            }
            const int64_t v = (t * 3 + 2) * s.h * s.hd;
            if (e->gin[0].data)
                p->cast(fvi_out_at(&e->gin[0], v, e->gin_add[0]), fvi_in_at(&e->gout[0], v),
                        s.h * s.hd);
        }
    }
    for (int64_t i = 0; dscale && i < s.h; i++) {
        double sum = e->gin_add[1] ? dscale[i] : 0;
        for (int lane = 0; lane < FVI_LANES && scale[i] <= e->attr->f[1]; lane++)
            sum += lane_sums(e, &s, lane)[i];
        dscale[i] = (float)sum;
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_unit_qk = {
    .name = "unit_qk", .bwd_reads_in = 3, .scratch_bytes = qk_scratch, .forward = qk_forward,
    .backward = qk_backward
};
