/* op_picture_cuda.c - host side of LOSS_SSIM on the device. Definition: op_picture_body.h; kernels:
 * cuda/pictures.h. The gradient is made along with the value, and kept. */
#include "cuda_ops.h"

#include <math.h>

/* Scratch of all pictures: for each scale planes a, b, gradient and three slopes, in room for pixels;
 * values of windows; means, losses, factors. */
#define PLANES 6

typedef struct ssim_scratch {
    size_t plane[FVK_SSIM_SCALES], value, mean, loss, factor, all;
} ssim_scratch;

static size_t plane_bytes(const fvi_exec *e, int j)
{
    const int64_t *d = e->in[0].dim;
    return fvi_cuda_aligned((size_t)(d[0] * (d[1] >> j) * (d[2] >> j)) * sizeof(float));
}

static ssim_scratch scratch_of(const fvi_exec *e)
{
    const size_t B = (size_t)e->in[0].dim[0];
    ssim_scratch s = { .all = 0 };
    for (int j = 0; j < e->attr->i[0]; j++) {
        s.plane[j] = s.all;
        s.all += PLANES * plane_bytes(e, j);
    }
    s.value = s.all;
    s.mean = s.value + plane_bytes(e, 0);
    s.loss = s.mean + fvi_cuda_aligned(B * FVK_SSIM_SCALES * sizeof(double));
    s.factor = s.loss + fvi_cuda_aligned(B * sizeof(double));
    s.all = s.factor + fvi_cuda_aligned(B * FVK_SSIM_SCALES * sizeof(float));
    return s;
}

static size_t ssim_scratch_bytes(const fvi_exec *e, bool backward)
{
    return backward ? 0 : scratch_of(e).all;
}

static float *plane_at(const fvi_exec *e, const ssim_scratch *s, int j, int k)
{
    return (float *)(void *)((uint8_t *)e->scratch + s->plane[j] + (size_t)k * plane_bytes(e, j));
}

/* What kernels of scale j are given. */
static fvk_ssim_args args_of(const fvi_exec *e, const ssim_scratch *s, int j)
{
    static const double weight[FVK_SSIM_SCALES] = { 0.0448, 0.2856, 0.3001, 0.2363, 0.1333 };
    const int64_t *d = e->in[0].dim;
    uint8_t *base = e->scratch;
    fvk_ssim_args a = { .rgb = { e->in[0].data, e->in[1].data }, .B = d[0], .h = d[1] >> j,
                        .w = d[2] >> j, .scale = j, .scales = e->attr->i[0],
                        .is_last = j == e->attr->i[0] - 1,
                        .value = (float *)(void *)(base + s->value),
                        .mean = (double *)(void *)(base + s->mean),
                        .loss = (double *)(void *)(base + s->loss),
                        .factor = (float *)(void *)(base + s->factor),
                        .grad = j ? NULL : e->out[1].data, .g = plane_at(e, s, j, 2) };
    double taps[FVK_SSIM_TAPS], sum = 0, all = 0;
    for (int k = 0; k < 2; k++) a.plane[k] = plane_at(e, s, j, k);
    for (int k = 0; k < 3; k++) a.slope[k] = plane_at(e, s, j, 3 + k);
    for (int k = 0; j > 0 && k < 2; k++) a.fine[k] = plane_at(e, s, j - 1, k);
    if (j > 0) {
        a.H = d[1] >> (j - 1);
        a.W = d[2] >> (j - 1);
    }
    if (!a.is_last) a.coarse = plane_at(e, s, j + 1, 2);
    for (int i = 0; i < FVK_SSIM_TAPS; i++) {
        taps[i] = exp(-(i - 5.0) * (i - 5.0) / (2 * 1.5 * 1.5));
        sum += taps[i];
    }
    for (int i = 0; i < FVK_SSIM_TAPS; i++) a.taps[i] = (float)(taps[i] / sum);
    for (int k = 0; k < a.scales; k++) all += weight[k];
    for (int k = 0; k < a.scales; k++) a.weight[k] = weight[k] / all;
    return a;
}

static fv_status scale_forward(fvi_exec *e, const fvk_ssim_args *a)
{
    const int64_t pixels = a->B * a->h * a->w, reach = FVK_SSIM_TAPS - 1;
    const int64_t windows = a->B * (a->h - reach) * (a->w - reach);
    if (a->scale == 0) FV_TRY(FVI_LAUNCH(e->ctx, ssim_luma, fvi_cuda_walk(pixels), a));
    else FV_TRY(FVI_LAUNCH(e->ctx, ssim_halve, fvi_cuda_walk(pixels), a));
    FV_TRY(FVI_LAUNCH(e->ctx, ssim_windows, fvi_cuda_walk(windows), a));
    return FVI_LAUNCH(e->ctx, ssim_mean, a->B, a);
}

static fv_status ssim_forward(fvi_exec *e)
{
    const ssim_scratch s = scratch_of(e);
    fvk_ssim_args a;
    for (int j = 0; j < e->attr->i[0]; j++) {
        a = args_of(e, &s, j);
        FV_TRY(scale_forward(e, &a));
    }
    FV_TRY(FVI_LAUNCH(e->ctx, ssim_end, fvi_cuda_walk(a.B), &a));
    for (int j = e->attr->i[0] - 1; e->out[1].data && j >= 0; j--) {
        a = args_of(e, &s, j);
        FV_TRY(FVI_LAUNCH(e->ctx, ssim_slopes, fvi_cuda_walk(a.B * a.h * a.w), &a));
    }
    return fvi_cuda_total(e->ctx, a.loss, a.B, 1 / (double)a.B, e->out[0].data);
}

static fv_status ssim_backward(fvi_exec *e)
{
    return fvi_cuda_kept_backward(e, (double)e->in[0].dim[0]);
}

const fvi_op_def fvi_cuda_loss_ssim = {
    .name = "loss_ssim", .bwd_reads_out = 2, .scratch_bytes = ssim_scratch_bytes,
    .forward = ssim_forward, .backward = ssim_backward
};
