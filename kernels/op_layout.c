/* op_layout.c - ops that move data: timestep code, embedding, patches, upsampling, mean over
 * axis 1.
 *
 * All work row by row with the conversions of the pointwise table; each output element has one
 * writer, and sums run in an order that the shape alone decides. */
#include "cpu_ops.h"

#include <math.h>
#include <string.h>

static const fvi_pointwise_ops *rows(const fvi_exec *e) { return &e->ctx->cpu_ops->pointwise; }

/* ---- timestep: [cos(s t f_j) | sin(s t f_j)], [DiT, timestep_embedding] ---------------------- */

/* In double: s*t reaches 1000 and more, where a float angle is off by 1e-4. An odd last column is
 * 0, as in the official code. */
static fv_status timestep_forward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t B = e->out[0].dim[0], dim = e->out[0].dim[1], half = dim / 2;
    const double den = e->attr->f[1] != 0.0f ? e->attr->f[1] : (double)half;
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t b, end;
        for (fvi_lane(B, lane, &b, &end); b < end; b++) {
            const fvi_out y = fvi_out_at(&e->out[0], b * dim, false);
            const double t = (double)fvi_get(fvi_in_at(&e->in[0], 0), b) * e->attr->f[0];
            for (int64_t j = 0; j < half; j++) {
                const double angle = t * exp(-9.210340371976184 * (double)j / den); /* ln 10000 */
                fvi_put(y, j, (float)cos(angle));
                fvi_put(y, half + j, (float)sin(angle));
            }
            if (dim & 1) fvi_put(y, dim - 1, 0.0f);
        }
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_timestep = { .name = "timestep", .forward = timestep_forward };

/* ---- embed ----------------------------------------------------------------------------------- */

static fv_status check_ids(const fvi_exec *e)
{
    const int32_t *ids = e->in[1].data;
    const int64_t n = fv_tensor_count(&e->in[1]), V = e->in[0].dim[0];
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= V)
            return fv_fail(e->ctx, FV_ERR_ARG,
                           "embed: id %d at position %lld, the table has %lld rows", (int)ids[i],
                           (long long)i, (long long)V);
    return FV_OK;
}

static fv_status embed_forward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int32_t *ids = e->in[1].data;
    const int64_t n = fv_tensor_count(&e->in[1]), V = e->in[0].dim[0];
    const int64_t D = fv_tensor_count(&e->in[0]) / V;
    FV_TRY(check_ids(e));
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t i, end;
        for (fvi_lane(n, lane, &i, &end); i < end; i++)
            rows(e)->cast(fvi_out_at(&e->out[0], i * D, false), fvi_in_at(&e->in[0], ids[i] * D),
                          D);
    }
    return FV_OK;
}

/* Ids repeat: lanes own columns, and every lane adds the rows in order of position. */
static fv_status embed_backward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int32_t *ids = e->in[1].data;
    const int64_t n = fv_tensor_count(&e->in[1]), V = e->in[0].dim[0];
    const int64_t D = fv_tensor_count(&e->in[0]) / V;
    if (!e->gin[0].data) return FV_OK;
    FV_TRY(check_ids(e)); /* the caller may have changed them since forward */
    if (!e->gin_add[0])
        memset(e->gin[0].data, 0, (size_t)(V * D) * fv_dtype_size(e->gin[0].dtype));
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t c0, c1;
        fvi_lane((D + 15) / 16, lane, &c0, &c1);
        c0 *= 16;
        c1 = c1 * 16 < D ? c1 * 16 : D;
        for (int64_t i = 0; i < n && c0 < c1; i++)
            rows(e)->cast(fvi_out_at(&e->gin[0], ids[i] * D + c0, true),
                          fvi_in_at(&e->gout[0], i * D + c0), c1 - c0);
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_embed = {
    .name = "embed", .bwd_reads_in = 2, .forward = embed_forward, .backward = embed_backward
};

/* ---- patchify -------------------------------------------------------------------------------- */

typedef struct patch_job {
    const fv_tensor *src, *dst;
    bool to_tokens, add;
    int64_t H, W, C, p;
    bool channel_first;
} patch_job;

/* Row di of one patch: p*C values, contiguous in the image, at `token` (first element) in the
 * token: contiguous for (di,dj,c), strided for (c,di,dj). */
static void patch_row(const fvi_exec *e, const patch_job *j, int64_t image, int64_t token,
                      int64_t di)
{
    const int64_t p = j->p, C = j->C;
    if (!j->channel_first) {
        token += di * p * C;
        if (j->src->dtype == j->dst->dtype && !j->add) { /* short rows: no call through a table */
            const int64_t w = (int64_t)fv_dtype_size(j->src->dtype);
            char *dst = j->dst->data;
            const char *src = j->src->data;
            memcpy(dst + w * (j->to_tokens ? token : image),
                   src + w * (j->to_tokens ? image : token), (size_t)(w * p * C));
            return;
        }
        rows(e)->cast(fvi_out_at(j->dst, j->to_tokens ? token : image, j->add),
                      fvi_in_at(j->src, j->to_tokens ? image : token), p * C);
        return;
    }
    const fvi_in src = fvi_in_at(j->src, 0);
    const fvi_out dst = fvi_out_at(j->dst, 0, j->add);
    for (int64_t dj = 0; dj < p; dj++)
        for (int64_t c = 0; c < C; c++) {
            const int64_t a = image + dj * C + c, t = token + (c * p + di) * p + dj;
            fvi_put(dst, j->to_tokens ? t : a, fvi_get(src, j->to_tokens ? a : t));
        }
}

static void patch_move(const fvi_exec *e, const patch_job *j)
{
    fv_ctx *ctx = e->ctx;
    const int64_t p = j->p, C = j->C, th = j->H / p, tw = j->W / p;
    const int64_t B = fv_tensor_count(j->src) / (j->H * j->W * C);
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t k, end; /* one row of patches of one sample */
        for (fvi_lane(B * th, lane, &k, &end); k < end; k++)
            for (int64_t di = 0; di < p; di++)
                for (int64_t x = 0; x < tw; x++)
                    patch_row(e, j, ((k * p + di) * j->W + x * p) * C, (k * tw + x) * p * p * C,
                              di);
    }
}

static fv_status patch_forward(fvi_exec *e)
{
    const int32_t *a = e->attr->i;
    const patch_job j = { &e->in[0], &e->out[0], !a[2], false, a[3], a[4], a[5], a[0], a[1] != 0 };
    patch_move(e, &j);
    return FV_OK;
}

static fv_status patch_backward(fvi_exec *e)
{
    const int32_t *a = e->attr->i;
    const patch_job j = { &e->gout[0], &e->gin[0], a[2] != 0, e->gin_add[0] != 0,
                          a[3], a[4], a[5], a[0], a[1] != 0 };
    if (e->gin[0].data) patch_move(e, &j);
    return FV_OK;
}
const fvi_op_def fvi_cpu_patchify = {
    .name = "patchify", .forward = patch_forward, .backward = patch_backward
};

/* ---- upsample2x ------------------------------------------------------------------------------ */

static fv_status upsample_forward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t H = e->in[0].dim[1], W = e->in[0].dim[2], C = e->in[0].dim[3];
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t k, end; /* one output row */
        for (fvi_lane(e->in[0].dim[0] * H * 2, lane, &k, &end); k < end; k++)
            for (int64_t x = 0; x < 2 * W; x++)
                rows(e)->cast(fvi_out_at(&e->out[0], (k * 2 * W + x) * C, false),
                              fvi_in_at(&e->in[0], (k / 2 * W + x / 2) * C), C);
    }
    return FV_OK;
}

static fv_status upsample_backward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t H = e->in[0].dim[1], W = e->in[0].dim[2], C = e->in[0].dim[3];
    if (!e->gin[0].data) return FV_OK;
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t k, end; /* one input row */
        for (fvi_lane(e->in[0].dim[0] * H, lane, &k, &end); k < end; k++)
            for (int64_t x = 0; x < W; x++) {
                const int64_t up = (2 * k * 2 * W + 2 * x) * C, down = up + 2 * W * C;
                const fvi_in g[4] = {fvi_in_at(&e->gout[0], up), fvi_in_at(&e->gout[0], up + C),
                                     fvi_in_at(&e->gout[0], down),
                                     fvi_in_at(&e->gout[0], down + C)};
                rows(e)->add4(fvi_out_at(&e->gin[0], (k * W + x) * C, e->gin_add[0]), g, C);
            }
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_upsample2x = {
    .name = "upsample2x", .forward = upsample_forward, .backward = upsample_backward
};

/* ---- mean1: [B, T, C] -> [B, C] -------------------------------------------------------------- */

static size_t mean1_scratch(const fvi_exec *e, bool backward)
{
    const fvi_split sp = fvi_split_of(e->in[0].dim[0], e->in[0].dim[1]);
    return backward ? 0 : (size_t)(sp.B * sp.S) * fvi_pad16(e->in[0].dim[2]) * sizeof(float);
}

static fv_status mean1_forward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t T = e->in[0].dim[1], C = e->in[0].dim[2];
    const fvi_split sp = fvi_split_of(e->in[0].dim[0], T);
    const size_t pad = fvi_pad16(C);
    float *part = e->scratch; /* [B, S, C] sums of the segments */
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t k, end, b, t0, t1;
        for (fvi_lane(sp.B * sp.S, lane, &k, &end); k < end; k++) {
            float *sum = part + (size_t)k * pad;
            fvi_split_rows(&sp, k, &b, &t0, &t1);
            memset(sum, 0, pad * sizeof *sum);
            for (int64_t t = t0; t < t1; t++)
                rows(e)->cast(fvi_out_f32(sum, true), fvi_in_at(&e->in[0], (b * T + t) * C), C);
        }
    }
    for (int64_t b = 0; b < sp.B; b++) {
        float *sum = part + (size_t)(b * sp.S) * pad;
        for (int64_t s = 1; s < sp.S; s++)
            rows(e)->cast(fvi_out_f32(sum, true), fvi_in_f32(sum + (size_t)s * pad), C);
        rows(e)->affine(fvi_out_at(&e->out[0], b * C, false), fvi_in_f32(sum), C, 1.0f / (float)T,
                        0.0f);
    }
    return FV_OK;
}

static fv_status mean1_backward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t B = e->in[0].dim[0], T = e->in[0].dim[1], C = e->in[0].dim[2];
    if (!e->gin[0].data) return FV_OK;
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t r, end;
        for (fvi_lane(B * T, lane, &r, &end); r < end; r++)
            rows(e)->affine(fvi_out_at(&e->gin[0], r * C, e->gin_add[0]),
                            fvi_in_at(&e->gout[0], r / T * C), C, 1.0f / (float)T, 0.0f);
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_mean1 = {.name = "mean1",
                                  .scratch_bytes = mean1_scratch,
                                  .forward = mean1_forward,
                                  .backward = mean1_backward};
