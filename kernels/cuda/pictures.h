/* pictures.h - private: MS-SSIM between pictures, with its gradient. Definition: op_picture_body.h.
 *
 * Planes are [B, h, w] of a scale. windows: a thread a window, 121 products from the L1 cache for all
 * five moments at once, then the value and its derivatives to three of them; slopes: a thread a pixel,
 * the same windows the other way round, and what the next scale hands back. No sum has two writers. */
#ifndef FV_CUDA_PICTURES_H
#define FV_CUDA_PICTURES_H

#include "cuda/dialect.h"

#include <math.h>

#define FVK_SSIM_REACH (FVK_SSIM_TAPS - 1)

FVK_KERNEL(ssim_luma)
{
    PHASE(t) EACH(i, t, a->B * a->h * a->w) {
        for (int k = 0; k < 2; k++) {
            const float *p = a->rgb[k] + 3 * i;
            const float luma = 0.299f * p[0] + 0.587f * p[1] + 0.114f * p[2];
            a->plane[k][i] = 0.5f * luma + 0.5f;
        }
    }
}

/* Means of 2x2 of the finer planes [B, H, W]. */
FVK_KERNEL(ssim_halve)
{
    PHASE(t) EACH(i, t, a->B * a->h * a->w) {
        const int64_t x = i % a->w, y = i / a->w % a->h, b = i / a->w / a->h;
        const int64_t at = (b * a->H + 2 * y) * a->W + 2 * x;
        for (int k = 0; k < 2; k++) {
            const float *p = a->fine[k] + at;
            a->plane[k][i] = 0.25f * (p[0] + p[1] + p[a->W] + p[a->W + 1]);
        }
    }
}

FVK_KERNEL(ssim_windows)
{
    const int64_t ow = a->w - FVK_SSIM_REACH, oh = a->h - FVK_SSIM_REACH;
    PHASE(t) EACH(i, t, a->B * oh * ow) {
        const int64_t x = i % ow, y = i / ow % oh, b = i / ow / oh;
        const float c1 = 0.0001f, c2 = 0.0009f;
        float ua = 0, ub = 0, aa = 0, bb = 0, ab = 0;
        for (int r = 0; r < FVK_SSIM_TAPS; r++) {
            const int64_t at = (b * a->h + y + r) * a->w + x;
            for (int c = 0; c < FVK_SSIM_TAPS; c++) {
                const float u = a->plane[0][at + c], v = a->plane[1][at + c];
                const float tap = a->taps[r] * a->taps[c];
                ua += tap * u;
                ub += tap * v;
                aa += tap * (u * u);
                bb += tap * (v * v);
                ab += tap * (u * v);
            }
        }
        const float mean = ua * ua + ub * ub + c1;
        const float den = 1.0f / (aa - ua * ua + bb - ub * ub + c2);
        const float cs = (2 * (ab - ua * ub) + c2) * den, l = (2 * ua * ub + c1) / mean;
        const float by_cs = a->is_last ? l : 1.0f, by_l = a->is_last ? cs : 0.0f;
        const float dab = 2 * by_cs * den, daa = -by_cs * cs * den;
        a->value[i] = by_cs * cs;
        a->slope[0][i] = -dab * ub - 2 * daa * ua + by_l * 2 * (ub - ua * l) / mean;
        a->slope[1][i] = daa;
        a->slope[2][i] = dab;
    }
}

/* Mean of the windows of a picture, a block each. */
FVK_KERNEL(ssim_mean)
{
    SHARED(double, sum, FVK_THREADS);
    const int64_t n = (a->h - FVK_SSIM_REACH) * (a->w - FVK_SSIM_REACH), first = block_ * n;
    (void)grid_;
    PHASE(t) {
        double s = 0;
        for (int64_t i = t; i < n; i += FVK_THREADS) s += a->value[first + i];
        sum[t] = s;
    }
    TREE_SUM(sum);
    PHASE(t) {
        const double m = sum[0] / (double)n;
        if (t == 0) a->mean[block_ * FVK_SSIM_SCALES + a->scale] = m > 1e-4 ? m : 1e-4;
    }
}

/* Of each picture: loss, and what the gradients of its scales are multiplied by. */
FVK_KERNEL(ssim_end)
{
    PHASE(t) EACH(b, t, a->B) {
        const double *m = a->mean + b * FVK_SSIM_SCALES;
        double product = 1;
        for (int j = 0; j < a->scales; j++) product *= pow(m[j], a->weight[j]);
        for (int j = 0; j < a->scales; j++) /* held at 1e-4: no slope */
            a->factor[b * FVK_SSIM_SCALES + j] =
                m[j] <= 1e-4 ? 0.0f : (float)(a->weight[j] * product / m[j]);
        a->loss[b] = 1 - product;
    }
}

/* g = gradient to plane 0; coarse: that of half the size, NULL for none. grad: RGB, of the first. */
FVK_KERNEL(ssim_slopes)
{
    const int64_t ow = a->w - FVK_SSIM_REACH, oh = a->h - FVK_SSIM_REACH;
    const float count = (float)(ow * oh);
    PHASE(t) EACH(i, t, a->B * a->h * a->w) {
        const int64_t x = i % a->w, y = i / a->w % a->h, b = i / a->w / a->h;
        float by[3] = { 0, 0, 0 };
        for (int r = 0; r < FVK_SSIM_TAPS; r++) {
            if (y < r || y - r >= oh) continue;
            const int64_t at = (b * oh + y - r) * ow + x;
            for (int c = 0; c < FVK_SSIM_TAPS; c++) {
                if (x < c || x - c >= ow) continue;
                const float tap = a->taps[r] * a->taps[c];
                for (int k = 0; k < 3; k++) by[k] += tap * a->slope[k][at - c];
            }
        }
        const float own = by[0] + 2 * a->plane[0][i] * by[1] + a->plane[1][i] * by[2];
        float g = a->factor[b * FVK_SSIM_SCALES + a->scale] * (own / count);
        if (a->coarse && y / 2 < a->h / 2 && x / 2 < a->w / 2)
            g += 0.25f * a->coarse[(b * (a->h / 2) + y / 2) * (a->w / 2) + x / 2];
        if (a->grad) {
            a->grad[3 * i] = -0.5f * 0.299f * g;
            a->grad[3 * i + 1] = -0.5f * 0.587f * g;
            a->grad[3 * i + 2] = -0.5f * 0.114f * g;
        } else {
            a->g[i] = g;
        }
    }
}

#endif
