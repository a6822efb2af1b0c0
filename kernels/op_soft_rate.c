/* op_soft_rate.c - the rate of softly chosen codes [RDVQ, arXiv 2604.10546]: what an entropy model
 * pays for a latent, with a gradient that reaches the latent (CPU).
 *
 * Latents z [N, D] and codes e [V, D] of unit length, logits x [N, V], and
 * d_k = |z - e_k|^2 = 2 - 2 s_k:
 *
 *     p = softmax(-d / tau) = softmax(2 s / tau)    q = softmax(x)    r_k = -log2 q_k
 *     R = sum_k p_k r_k  bits,  result: the mean over tokens
 *
 *     dR/dx_k = (q_k - p_k) / ln 2        dR/ds_k = (2 / tau) p_k (r_k - R)
 *     dR/dz = sum_k dR/ds_k e_k           dR/de_k = sum over tokens of dR/ds_k z
 *
 * With tau -> 0, p becomes the nearest code's one-hot and R its cross-entropy. Nothing of size
 * [N, V] is kept: backward computes p and q again. dR/de is collected per lane of tokens and added
 * in the order of the lanes. */
#include "cpu_ops.h"

#include <math.h>
#include <string.h>

#define LN2 0.69314718055994530942

typedef struct rate_size { int64_t N, V, D; } rate_size;

static rate_size size_of(const fvi_exec *e)
{
    const rate_size s = { e->in[2].dim[0], e->in[2].dim[1], e->in[1].dim[1] };
    return s;
}

/* Floats: transposed codes; per lane p, and q or a latent's gradient; in backward also the lane's
 * part of de. */
static size_t codes_floats(const rate_size *s) { return (size_t)s->D * fvi_pad16(s->V); }
static size_t row_floats(const rate_size *s) { return fvi_pad16(s->V > s->D ? s->V : s->D); }
static size_t lane_floats(const rate_size *s, bool with_codes)
{
    return 2 * row_floats(s) + (with_codes ? fvi_pad16(s->V * s->D) : 0);
}

static size_t rate_scratch(const fvi_exec *e, bool backward)
{
    const rate_size s = size_of(e);
    return (codes_floats(&s) + FVI_LANES * lane_floats(&s, backward)) * sizeof(float) +
           (backward ? 0 : (size_t)s.N * sizeof(double));
}

typedef struct lane_work { float *p, *q, *de; } lane_work;

static lane_work work_of(const fvi_exec *e, const rate_size *s, int lane, bool with_codes)
{
    float *base = (float *)e->scratch + codes_floats(s) + (size_t)lane * lane_floats(s, with_codes);
    const lane_work w = { base, base + row_floats(s), base + 2 * row_floats(s) };
    return w;
}

/* p of token i; *lse: log sum exp of its logits, q (if wanted) their softmax. Returns R in nats. */
static double token_rate(const fvi_exec *e, const fvi_vq_codes *c, int64_t i, const lane_work *w,
                         bool want_q, float *lse)
{
    const struct fvi_cpu_ops *ops = e->ctx->cpu_ops;
    const float *x = (const float *)e->in[2].data + i * c->count;
    const float sharp = 2.0f / *(const float *)e->in[3].data;
    double sum = 0;
    ops->vq.products(w->p, (const float *)e->in[0].data + i * c->width, c);
    ops->pointwise.affine(fvi_out_f32(w->p, false), fvi_in_f32(w->p), c->count, sharp, 0.0f);
    (void)ops->loss.softmax(fvi_out_f32(w->p, false), fvi_in_f32(w->p), c->count);
    *lse = ops->loss.softmax(fvi_out_f32(want_q ? w->q : NULL, false), fvi_in_f32(x), c->count);
    for (int64_t k = 0; k < c->count; k++) sum += (double)w->p[k] * ((double)*lse - x[k]);
    return sum;
}

static fv_status rate_forward(fvi_exec *e)
{
    const rate_size s = size_of(e);
    const float tau = *(const float *)e->in[3].data;
    if (!(tau > 0)) return fv_fail(e->ctx, FV_ERR_ARG, "soft_rate: tau is %g", (double)tau);
    const fvi_vq_codes c = fvi_vq_transpose(e->ctx, &e->in[1], e->scratch);
    const lane_work behind = work_of(e, &s, FVI_LANES, false);
    double *rate = (double *)(void *)behind.p, total = 0;
    FVI_PARALLEL_LANES(e->ctx, lane) {
        const lane_work w = work_of(e, &s, lane, false);
        int64_t i, end;
        float lse;
        for (fvi_lane(s.N, lane, &i, &end); i < end; i++)
            rate[i] = token_rate(e, &c, i, &w, false, &lse);
    }
    for (int64_t i = 0; i < s.N; i++) total += rate[i];
    *(float *)e->out[0].data = (float)(total / ((double)s.N * LN2));
    return FV_OK;
}

/* Gradients of token i: logits, then p becomes dR/ds for latent and codes. g: of the mean, per
 * token and in nats. */
static void token_backward(const fvi_exec *e, const fvi_vq_codes *c, int64_t i, const lane_work *w,
                           double g)
{
    const float *x = (const float *)e->in[2].data + i * c->count;
    const float *z = (const float *)e->in[0].data + i * c->width;
    float lse;
    const double R = token_rate(e, c, i, w, true, &lse);
    const float f = (float)g, sharp = (float)(2.0 * g / *(const float *)e->in[3].data);
    const float base = (float)((double)lse - R);
    if (e->gin[2].data) {
        float *dx = (float *)e->gin[2].data + i * c->count;
        if (e->gin_add[2])
            for (int64_t k = 0; k < c->count; k++) dx[k] += f * (w->q[k] - w->p[k]);
        else
            for (int64_t k = 0; k < c->count; k++) dx[k] = f * (w->q[k] - w->p[k]);
    }
    for (int64_t k = 0; k < c->count; k++) w->p[k] *= sharp * (base - x[k]);
    if (e->gin[0].data) {
        e->ctx->cpu_ops->vq.combine(w->q, w->p, c);
        e->ctx->cpu_ops->pointwise.cast(fvi_out_at(&e->gin[0], i * c->width, e->gin_add[0]),
                                        fvi_in_f32(w->q), c->width);
    }
    for (int64_t k = 0; e->gin[1].data && k < c->count; k++)
        for (int64_t d = 0; d < c->width; d++) w->de[k * c->width + d] += w->p[k] * z[d];
}

static void add_lanes(const fvi_exec *e, const rate_size *s)
{
    const int64_t n = s->V * s->D;
    FVI_PARALLEL_LANES(e->ctx, part) {
        int64_t i, end;
        fvi_lane_flat(n, part, &i, &end);
        for (; i < end; i++) {
            float *to = (float *)e->gin[1].data + i;
            double sum = e->gin_add[1] ? *to : 0;
            for (int lane = 0; lane < FVI_LANES; lane++) sum += work_of(e, s, lane, true).de[i];
            *to = (float)sum;
        }
    }
}

static fv_status rate_backward(fvi_exec *e)
{
    const rate_size s = size_of(e);
    const double g = *(const float *)e->gout[0].data / ((double)s.N * LN2);
    if (e->gin[3].data)
        return fv_fail(e->ctx, FV_ERR_UNSUPPORTED, "soft_rate: tau has no gradient");
    const fvi_vq_codes c = fvi_vq_transpose(e->ctx, &e->in[1], e->scratch);
    FVI_PARALLEL_LANES(e->ctx, lane) {
        const lane_work w = work_of(e, &s, lane, true);
        int64_t i, end;
        if (e->gin[1].data) memset(w.de, 0, (size_t)(s.V * s.D) * sizeof *w.de);
        for (fvi_lane(s.N, lane, &i, &end); i < end; i++) token_backward(e, &c, i, &w, g);
    }
    if (e->gin[1].data) add_lanes(e, &s);
    return FV_OK;
}
const fvi_op_def fvi_cpu_soft_rate = {
    .name = "soft_rate", .bwd_reads_in = 15, .scratch_bytes = rate_scratch,
    .forward = rate_forward, .backward = rate_backward
};
