/* op_vq.c - vector quantiser: rows of length 1, the nearest code, and the two losses that tie codes
 * and latents together [VQ-VAE, van den Oord et al. 2017; unit length: ViT-VQGAN, Yu et al. 2021].
 *
 *     l2norm   y = x / max(|x|, eps)                       rows of the last dimension
 *     vq       index = argmax over v of z . e_v,  q = e_index     for unit rows the nearest code
 *     loss_vq  (1 + beta) mean (e_index - z)^2;  its gradient is that of
 *              mean (e_index - sg z)^2 + beta mean (sg e_index - z)^2
 *
 * vq is straight through: the gradient of q goes to z as it is, none to the codes.
 *
 * The codes are transposed once per run, so that a vector holds one component of 8 or 16 codes. All
 * variants fuse multiply and add in the order of the components: the same index on every CPU, also
 * in near ties. Exact ties go to the lowest index.
 *
 * Codes repeat in the gradient: a lane owns a range of codes and adds the latents that chose them
 * in their order, so that sums do not depend on the number of threads. */
#include "cpu_ops.h"

#include <math.h>
#include <string.h>

/* ---- Scalar rows: the definition ------------------------------------------------------------- */

static void nearest_c(int32_t *index, const float *z, int64_t n, const fvi_vq_codes *c)
{
    for (int64_t i = 0; i < n; i++, z += c->width) {
        float best = -INFINITY;
        index[i] = 0;
        for (int64_t v = 0; v < c->count; v++) {
            float sum = 0;
            for (int64_t d = 0; d < c->width; d++) sum = fmaf(z[d], c->t[d * c->stride + v], sum);
            if (sum > best) {
                best = sum;
                index[i] = (int32_t)v;
            }
        }
    }
}

static void products_c(float *s, const float *z, const fvi_vq_codes *c)
{
    memset(s, 0, (size_t)c->count * sizeof *s);
    for (int64_t d = 0; d < c->width; d++)
        for (int64_t v = 0; v < c->count; v++) s[v] = fmaf(z[d], c->t[d * c->stride + v], s[v]);
}

static void combine_c(float *z, const float *w, const fvi_vq_codes *c)
{
    for (int64_t d = 0; d < c->width; d++) {
        z[d] = 0;
        for (int64_t v = 0; v < c->count; v++) z[d] += w[v] * c->t[d * c->stride + v];
    }
}

static void largest_c(uint16_t *code, float *value, int count, const float *product,
                      const float *factor, int64_t n)
{
    for (int i = 0; i < count; i++) value[i] = -INFINITY, code[i] = 0;
    for (int64_t k = 0; k < n; k++)
        fvi_vq_insert(code, value, count, product[k] * factor[k], k);
}

void fvi_vq_largest(fv_ctx *ctx, uint16_t *code, float *value, int count, const float *product,
                    const float *factor, int64_t n)
{
    ctx->cpu_ops->vq.largest(code, value, count, product, factor, n);
}

void fvi_vq_init(fvi_vq_ops *o, uint32_t cpu)
{
    const fvi_vq_ops c = { nearest_c, products_c, combine_c, largest_c };
    *o = c;
#if defined(__x86_64__)
    if (cpu & FV_CPU_AVX2) fvi_vq_init_avx2(o);
    if (cpu & FV_CPU_AVX512) fvi_vq_init_avx512(o);
#endif
    (void)cpu;
}

/* ---- l2norm: in x, out y --------------------------------------------------------------------- */

static double dot_rows(const float *a, const float *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return sum;
}

static fv_status l2norm_forward(fvi_exec *e)
{
    const int64_t D = e->in[0].dim[e->in[0].ndim - 1], n = fv_tensor_count(&e->in[0]) / D;
    const float *in = e->in[0].data;
    float *out = e->out[0].data;
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t r, end;
        for (fvi_lane(n, lane, &r, &end); r < end; r++) {
            const float *x = in + r * D;
            const double length = fmax(sqrt(dot_rows(x, x, D)), e->attr->f[0]);
            for (int64_t i = 0; i < D; i++) out[r * D + i] = (float)(x[i] / length);
        }
    }
    return FV_OK;
}

/* dx = (dy - y (y . dy)) / |x|; a row shorter than eps is only scaled. */
static fv_status l2norm_backward(fvi_exec *e)
{
    const int64_t D = e->in[0].dim[e->in[0].ndim - 1], n = fv_tensor_count(&e->in[0]) / D;
    const float *in = e->in[0].data, *out = e->out[0].data, *dout = e->gout[0].data;
    float *din = e->gin[0].data;
    if (!din) return FV_OK;
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t r, end;
        for (fvi_lane(n, lane, &r, &end); r < end; r++) {
            const float *x = in + r * D, *y = out + r * D, *dy = dout + r * D;
            const double length = sqrt(dot_rows(x, x, D)), eps = e->attr->f[0];
            const double along = length > eps ? dot_rows(y, dy, D) : 0;
            const double inv = 1.0 / fmax(length, eps);
            for (int64_t i = 0; i < D; i++) {
                const float g = (float)((dy[i] - along * y[i]) * inv);
                din[r * D + i] = e->gin_add[0] ? din[r * D + i] + g : g;
            }
        }
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_l2norm = {
    .name = "l2norm", .bwd_reads_in = 1, .bwd_reads_out = 1, .forward = l2norm_forward,
    .backward = l2norm_backward
};

/* ---- vq: in z [.., D], e [V, D]; out q [.., D], index [n] ------------------------------------ */

static size_t vq_scratch(const fvi_exec *e, bool backward)
{
    const size_t D = (size_t)e->in[1].dim[1];
    return backward ? 0 : D * fvi_pad16(e->in[1].dim[0]) * sizeof(float);
}

fvi_vq_codes fvi_vq_transpose(fv_ctx *ctx, const fv_tensor *codes, float *t)
{
    const int64_t V = codes->dim[0], D = codes->dim[1];
    const fvi_vq_codes c = { t, V, D, (int64_t)fvi_pad16(V) };
    const float *code = codes->data;
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t v, end;
        fvi_lane_flat(V, lane, &v, &end);
        for (; v < end; v++)
            for (int64_t d = 0; d < D; d++) t[d * c.stride + v] = code[v * D + d];
    }
    return c;
}

static fv_status vq_forward(fvi_exec *e)
{
    const fvi_vq_codes c = fvi_vq_transpose(e->ctx, &e->in[1], e->scratch);
    const int64_t D = c.width, n = fv_tensor_count(&e->in[0]) / D;
    const float *z = e->in[0].data, *code = e->in[1].data;
    float *q = e->out[0].data;
    int32_t *index = e->out[1].data;
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t i, end;
        fvi_lane(n, lane, &i, &end);
        e->ctx->cpu_ops->vq.nearest(index + i, z + i * D, end - i, &c);
        for (; i < end; i++) memcpy(q + i * D, code + index[i] * D, (size_t)D * sizeof *q);
    }
    return FV_OK;
}

static fv_status vq_backward(fvi_exec *e)
{
    const int64_t n = fv_tensor_count(&e->in[0]);
    fv_tensor *codes = &e->gin[1];
    if (codes->data && !e->gin_add[1]) /* nothing comes from here, but it is read */
        memset(codes->data, 0, (size_t)fv_tensor_count(codes) * sizeof(float));
    if (!e->gin[0].data) return FV_OK;
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t i, end;
        fvi_lane_flat(n, lane, &i, &end);
        e->ctx->cpu_ops->pointwise.cast(fvi_out_at(&e->gin[0], i, e->gin_add[0]),
                                        fvi_in_at(&e->gout[0], i), end - i);
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_vq = {
    .name = "vq", .scratch_bytes = vq_scratch, .forward = vq_forward, .backward = vq_backward
};

/* ---- loss_vq: in z [.., D], e [V, D], index [n]; out loss [1] -------------------------------- */

/* The caller of the op may have given indices of its own. */
static fv_status check_index(const fvi_exec *e)
{
    const int32_t *index = e->in[2].data;
    const int64_t n = fv_tensor_count(&e->in[2]), V = e->in[1].dim[0];
    for (int64_t i = 0; i < n; i++)
        if (index[i] < 0 || index[i] >= V)
            return fv_fail(e->ctx, FV_ERR_ARG, "loss_vq: code %d at position %lld, there are %lld",
                           (int)index[i], (long long)i, (long long)V);
    return FV_OK;
}

static size_t loss_vq_scratch(const fvi_exec *e, bool backward)
{
    return backward ? 0 : (size_t)fv_tensor_count(&e->in[2]) * sizeof(double);
}

static fv_status loss_vq_forward(fvi_exec *e)
{
    const int64_t D = e->in[1].dim[1], n = fv_tensor_count(&e->in[2]);
    const float *z = e->in[0].data, *code = e->in[1].data;
    const int32_t *index = e->in[2].data;
    double *part = e->scratch, total = 0; /* squared distance of each latent */
    FV_TRY(check_index(e));
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t i, end;
        for (fvi_lane(n, lane, &i, &end); i < end; i++) {
            part[i] = 0;
            for (int64_t d = 0; d < D; d++) {
                const double gap = (double)z[i * D + d] - code[index[i] * D + d];
                part[i] += gap * gap;
            }
        }
    }
    for (int64_t i = 0; i < n; i++) total += part[i];
    *(float *)e->out[0].data = (float)((1.0 + e->attr->f[0]) * total / ((double)n * (double)D));
    return FV_OK;
}

static void loss_vq_latents(const fvi_exec *e, float scale)
{
    const int64_t D = e->in[1].dim[1], n = fv_tensor_count(&e->in[2]);
    const float *z = e->in[0].data, *code = e->in[1].data;
    const int32_t *index = e->in[2].data;
    const fvi_out dz = fvi_out_at(&e->gin[0], 0, e->gin_add[0]);
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t i, end;
        for (fvi_lane(n, lane, &i, &end); i < end; i++)
            for (int64_t d = 0; d < D; d++)
                fvi_put(dz, i * D + d, scale * (z[i * D + d] - code[index[i] * D + d]));
    }
}

static void loss_vq_codes(const fvi_exec *e, float scale)
{
    const int64_t V = e->in[1].dim[0], D = e->in[1].dim[1], n = fv_tensor_count(&e->in[2]);
    const float *z = e->in[0].data, *code = e->in[1].data;
    const int32_t *index = e->in[2].data;
    float *de = e->gin[1].data;
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t v0, v1;
        fvi_lane(V, lane, &v0, &v1);
        if (!e->gin_add[1]) memset(de + v0 * D, 0, (size_t)((v1 - v0) * D) * sizeof *de);
        for (int64_t i = 0; i < n; i++) {
            const int64_t at = index[i] * D;
            if (index[i] < v0 || index[i] >= v1) continue;
            for (int64_t d = 0; d < D; d++) de[at + d] += scale * (code[at + d] - z[i * D + d]);
        }
    }
}

static fv_status loss_vq_backward(fvi_exec *e)
{
    const double N = (double)fv_tensor_count(&e->in[0]);
    const double scale = 2.0 * *(const float *)e->gout[0].data / N;
    FV_TRY(check_index(e));
    if (e->gin[0].data) loss_vq_latents(e, (float)(scale * e->attr->f[0]));
    if (e->gin[1].data) loss_vq_codes(e, (float)scale);
    return FV_OK;
}
const fvi_op_def fvi_cpu_loss_vq = {
    .name = "loss_vq", .bwd_reads_in = 7, .scratch_bytes = loss_vq_scratch,
    .forward = loss_vq_forward, .backward = loss_vq_backward
};
