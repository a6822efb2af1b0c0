/* degrade_blur.c - blur kernels of degradations: Gauss, generalised Gauss and plateau [Liu et al.
 * 2020 as Real-ESRGAN uses them], and the circular low-pass filter
 *
 *     k(r) = omega J1(omega r) / (2 pi r),  k(0) = omega^2 / (4 pi)
 *
 * whose cut-off makes ringing. Values are taken at pixel centres in double and divided by their
 * sum. */
#ifndef _XOPEN_SOURCE
#define _XOPEN_SOURCE 700 /* j1 */
#endif
#include <math.h>
#include <string.h>

#include "degrade.h"

#define PI 3.14159265358979323846

bool fvi_blur_is_valid(const fv_blur *b)
{
    if ((int)b->kind < FV_BLUR_GAUSS || (int)b->kind > FV_BLUR_SINC || b->size < 1 ||
        b->size > FV_BLUR_SIZE_MAX || b->size % 2 == 0)
        return false;
    if (b->kind == FV_BLUR_SINC) return b->omega > 0 && b->omega <= 3.1415927f;
    if (!(b->sigma[0] > 1e-3f) || !(b->sigma[1] > 1e-3f) || !(b->sigma[0] < 1e3f) ||
        !(b->sigma[1] < 1e3f) || !isfinite(b->rotation))
        return false;
    return b->kind == FV_BLUR_GAUSS || (b->beta > 0.01f && b->beta < 100);
}

/* (x, y) in units of the deviations, squared. */
static double distance(const fv_blur *b, int x, int y)
{
    const double c = cos(b->rotation), s = sin(b->rotation);
    const double u = (c * x + s * y) / b->sigma[0], v = (c * y - s * x) / b->sigma[1];
    return u * u + v * v;
}

static double value(const fv_blur *b, int x, int y)
{
    if (b->kind == FV_BLUR_SINC) {
        const double r = sqrt((double)x * x + (double)y * y), w = b->omega;
        return r > 0 ? w * j1(w * r) / (2 * PI * r) : w * w / (4 * PI);
    }
    const double q = distance(b, x, y);
    if (b->kind == FV_BLUR_PLATEAU) return 1 / (1 + pow(q, b->beta));
    return exp(-0.5 * (b->kind == FV_BLUR_GENERAL ? pow(q, b->beta) : q));
}

void fvi_blur_fill(const fv_blur *b, float *k)
{
    double v[FV_BLUR_SIZE_MAX * FV_BLUR_SIZE_MAX], sum = 0;
    const int r = b->size / 2, n = b->size * b->size;
    for (int i = 0; i < n; i++) sum += v[i] = value(b, i % b->size - r, i / b->size - r);
    for (int i = 0; i < n; i++) k[i] = (float)(v[i] / sum);
}

fv_status fv_blur_kernel(fv_ctx *ctx, const fv_blur *b, float *k)
{
    if (!b || !k || !fvi_blur_is_valid(b))
        return fv_fail(ctx, FV_ERR_ARG,
                       "blur: no such kernel; size is odd and up to %d, deviations and beta are "
                       "above 0, omega is up to pi",
                       FV_BLUR_SIZE_MAX);
    fvi_blur_fill(b, k);
    return FV_OK;
}

/* ---- Filtering ------------------------------------------------------------------------------- */

#define PIECE 32

void fvi_blur_row_c(float *y, const float *from, size_t wide, const float *kernel, int size,
                    size_t n)
{
    for (size_t at = 0; at < n; at += PIECE) {
        const size_t m = n - at < PIECE ? n - at : PIECE;
        float sum[PIECE] = { 0 };
        for (int j = 0; j < size; j++)
            for (int i = 0; i < size; i++) {
                const float *x = from + at + (size_t)j * wide + 3 * (size_t)i;
                const float g = kernel[j * size + i];
                for (int t = 0; t < PIECE; t++) sum[t] += g * x[t];
            }
        memcpy(y + at, sum, m * sizeof *sum);
    }
}
