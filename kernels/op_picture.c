/* op_picture.c - losses between pictures on the CPU: the mean over a batch of what
 * op_picture_body.h says of one. The forward pass of a training makes the gradient along with the
 * value, because they share nearly all of their work, and keeps it; backward scales it. One picture
 * per lane at a time: nothing depends on the number of threads. */
#include "cpu_ops.h"

#define PICTURE_INIT picture_init_c
static void PICTURE_INIT(fvi_picture_ops *o);
#include "op_picture_body.h"

void fvi_picture_init(fvi_picture_ops *o, uint32_t cpu)
{
    picture_init_c(o);
#if defined(__x86_64__)
    if (cpu & FV_CPU_AVX2) fvi_picture_init_avx2(o);
    if (cpu & FV_CPU_AVX512) fvi_picture_init_avx512(o);
#endif
    (void)cpu;
}

/* Planes of a picture and of its halves. */
static size_t pyramid_floats(int width, int height)
{
    size_t n = 0;
    for (int j = 0; j < 5; j++) n += fvi_pad16((int64_t)(width >> j) * (height >> j));
    return n;
}

size_t fvi_ssim_floats(int width, int height)
{
    return 6 * fvi_pad16((int64_t)width * height) + fvi_pad16(width) +
           3 * pyramid_floats(width, height);
}

size_t fvi_texture_floats(int width, int height)
{
    return (3 * BASIS + 5) * fvi_pad16((int64_t)width * height) + fvi_pad16(width) +
           (3 + 6) * pyramid_floats(width, height);
}

/* ---- The ops: in a, target; out loss[1], grad ------------------------------------------------ */

static bool is_texture(const fvi_exec *e) { return e->attr->i[1] != 0; }

static size_t lane_floats(const fvi_exec *e)
{
    const int w = (int)e->in[0].dim[2], h = (int)e->in[0].dim[1];
    return fvi_pad16((int64_t)(is_texture(e) ? fvi_texture_floats(w, h) : fvi_ssim_floats(w, h)));
}

static int lanes_used(const fvi_exec *e)
{
    return e->in[0].dim[0] < FVI_LANES ? (int)e->in[0].dim[0] : FVI_LANES;
}

static size_t picture_scratch(const fvi_exec *e, bool backward)
{
    if (backward) return 0;
    return (size_t)lanes_used(e) * lane_floats(e) * sizeof(float) +
           (size_t)e->in[0].dim[0] * sizeof(double);
}

static fv_status picture_forward(fvi_exec *e)
{
    const int64_t B = e->in[0].dim[0], n = fv_tensor_count(&e->in[0]) / B;
    const int lanes = lanes_used(e);
    const size_t floats = lane_floats(e);
    const fvi_picture_ops *ops = &e->ctx->cpu_ops->picture;
    double *value = (double *)(void *)((float *)e->scratch + (size_t)lanes * floats), total = 0;
#pragma omp parallel for schedule(static, 1) num_threads(e->ctx->threads)
    for (int lane = 0; lane < lanes; lane++) {
        const int64_t end = B * (lane + 1) / lanes;
        for (int64_t b = B * lane / lanes; b < end; b++) {
            const fvi_picture_pair p = {
                (const float *)e->in[0].data + b * n, (const float *)e->in[1].data + b * n,
                e->out[1].data ? (float *)e->out[1].data + b * n : NULL,
                (float *)e->scratch + (size_t)lane * floats, (int)e->in[0].dim[2],
                (int)e->in[0].dim[1], e->attr->i[0] };
            value[b] = is_texture(e) ? ops->texture(&p) : ops->ssim(&p);
        }
    }
    for (int64_t b = 0; b < B; b++) total += value[b];
    *(float *)e->out[0].data = (float)(total / (double)B);
    return FV_OK;
}

fv_status fvi_kept_backward(fvi_exec *e, double parts)
{
    const int64_t n = fv_tensor_count(&e->in[0]);
    const float scale = (float)(*(const float *)e->gout[0].data / parts);
    if (!e->gin[0].data) return FV_OK;
    if (!e->out[1].data)
        return fv_fail(e->ctx, FV_ERR_STATE, "loss: backward needs a training forward");
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t i, end;
        fvi_lane_flat(n, lane, &i, &end);
        if (i < end)
            e->ctx->cpu_ops->pointwise.affine(fvi_out_at(&e->gin[0], i, e->gin_add[0]),
                                              fvi_in_at(&e->out[1], i), end - i, scale, 0.0f);
    }
    return FV_OK;
}

static fv_status picture_backward(fvi_exec *e)
{
    return fvi_kept_backward(e, (double)e->in[0].dim[0]);
}

const fvi_op_def fvi_cpu_loss_ssim = {
    .name = "loss_ssim", .bwd_reads_out = 2, .scratch_bytes = picture_scratch,
    .forward = picture_forward, .backward = picture_backward
};
const fvi_op_def fvi_cpu_loss_texture = {
    .name = "loss_texture", .bwd_reads_out = 2, .scratch_bytes = picture_scratch,
    .forward = picture_forward, .backward = picture_backward
};
