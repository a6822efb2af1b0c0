/* op_haar.c - Haar resampling of pictures and feature maps, forward and backward (CPU).
 *
 * Each 2x2 block (a b / c d) of a channel becomes four channels at half the size, and back:
 *
 *     LL = (a + b + c + d)/2    LH = (a - b + c - d)/2
 *     HL = (a + b - c - d)/2    HH = (a - b - c + d)/2
 *
 * [B, H, W, C] <-> [B, H/2, W/2, 4C], channels band after band: C of LL, C of LH, ... The matrix is
 * orthogonal and its own inverse, so each direction is also the other one's gradient. Bandwidth
 * bound: rows go through f32 buffers of the lane. */
#include "cpu_ops.h"

#include <string.h>

/* h, w: of the small side; C: of the large side */
typedef struct haar_size { int64_t rows, w, C; } haar_size;

static haar_size size_of(const fvi_exec *e)
{
    const fv_tensor *small = e->attr->i[0] ? &e->in[0] : &e->out[0];
    const haar_size s = { small->dim[0] * small->dim[1], small->dim[2], small->dim[3] / 4 };
    return s;
}

/* Two large rows and one small one, each 4wC/2 floats: 4wC in all for either side. */
static size_t haar_scratch(const fvi_exec *e, bool backward)
{
    const haar_size s = size_of(e);
    (void)backward;
    return FVI_LANES * 2 * fvi_pad16(4 * s.w * s.C) * sizeof(float);
}

/* One row of blocks: large is two rows [2w, C], small one row [w, 4C]. The same sums either way. */
static void split_blocks(float *FV_RESTRICT small, const float *FV_RESTRICT large,
                         const haar_size *s)
{
    const int64_t C = s->C, line = 2 * s->w * C;
    for (int64_t x = 0; x < s->w; x++) {
        const float *a = large + 2 * x * C, *b = a + C, *c = a + line, *d = b + line;
        float *y = small + 4 * x * C;
        for (int64_t k = 0; k < C; k++) {
            const float p = 0.5f * (a[k] + b[k]), q = 0.5f * (c[k] + d[k]);
            const float u = 0.5f * (a[k] - b[k]), v = 0.5f * (c[k] - d[k]);
            y[k] = p + q;
            y[C + k] = u + v;
            y[2 * C + k] = p - q;
            y[3 * C + k] = u - v;
        }
    }
}

static void join_blocks(float *FV_RESTRICT large, const float *FV_RESTRICT small,
                        const haar_size *s)
{
    const int64_t C = s->C, line = 2 * s->w * C;
    for (int64_t x = 0; x < s->w; x++) {
        float *a = large + 2 * x * C, *b = a + C, *c = a + line, *d = b + line;
        const float *y = small + 4 * x * C;
        for (int64_t k = 0; k < C; k++) {
            const float p = 0.5f * (y[k] + y[2 * C + k]), q = 0.5f * (y[k] - y[2 * C + k]);
            const float u = 0.5f * (y[C + k] + y[3 * C + k]), v = 0.5f * (y[C + k] - y[3 * C + k]);
            a[k] = p + u;
            b[k] = p - u;
            c[k] = q + v;
            d[k] = q - v;
        }
    }
}

/* to (+)= the transform of from; join: from is the small side. */
static void transform(const fvi_exec *e, const fv_tensor *from, const fv_tensor *to, bool join,
                      bool add)
{
    const haar_size s = size_of(e);
    const int64_t n = 4 * s.w * s.C;
    const fvi_pointwise_ops *p = &e->ctx->cpu_ops->pointwise;
    FVI_PARALLEL_LANES(e->ctx, lane) {
        float *in = (float *)e->scratch + (size_t)lane * 2 * fvi_pad16(n), *out = in + fvi_pad16(n);
        int64_t r, end;
        for (fvi_lane(s.rows, lane, &r, &end); r < end; r++) {
            p->cast(fvi_out_f32(in, false), fvi_in_at(from, r * n), n);
            if (join) join_blocks(out, in, &s);
            else split_blocks(out, in, &s);
            p->cast(fvi_out_at(to, r * n, add), fvi_in_f32(out), n);
        }
    }
}

static fv_status haar_forward(fvi_exec *e)
{
    transform(e, &e->in[0], &e->out[0], e->attr->i[0] != 0, false);
    return FV_OK;
}

static fv_status haar_backward(fvi_exec *e)
{
    if (e->gin[0].data)
        transform(e, &e->gout[0], &e->gin[0], e->attr->i[0] == 0, e->gin_add[0]);
    return FV_OK;
}
const fvi_op_def fvi_cpu_haar = {
    .name = "haar", .scratch_bytes = haar_scratch, .forward = haar_forward,
    .backward = haar_backward
};
