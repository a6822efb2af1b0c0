/* op_planes.h - private: planes of pictures in the losses that compare pictures (op_ssim.c,
 * op_texture.c): colour, halving, and filters along rows and columns, each with its transpose.
 *
 * A plane is width * height floats, one worker's own. Loops run along rows, so that compilers turn
 * them into vectors. */
#ifndef FV_OP_PLANES_H
#define FV_OP_PLANES_H

#include <string.h>

#include "op_tables.h"

/* y = sum of w[c] * channel c of n pixels; and its transpose, added. */
FV_INLINE void plane_mix(float *FV_RESTRICT y, const float *FV_RESTRICT rgb, const float w[3],
                         int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = w[0] * rgb[3 * i] + w[1] * rgb[3 * i + 1] + w[2] * rgb[3 * i + 2];
}
FV_INLINE void plane_unmix(float *FV_RESTRICT rgb, const float *FV_RESTRICT dy, const float w[3],
                           int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        for (int c = 0; c < 3; c++) rgb[3 * i + c] += w[c] * dy[i];
}

/* Means of 2x2, a side of n becomes n / 2: an odd last row or column is left out. */
FV_INLINE void plane_halve(float *FV_RESTRICT y, const float *FV_RESTRICT x, int w, int h)
{
    for (int r = 0; r < h / 2; r++) {
        const float *a = x + (int64_t)2 * r * w, *b = a + w;
        float *to = y + (int64_t)r * (w / 2);
        for (int i = 0; i < w / 2; i++)
            to[i] = 0.25f * (a[2 * i] + a[2 * i + 1] + b[2 * i] + b[2 * i + 1]);
    }
}
FV_INLINE void plane_halve_back(float *FV_RESTRICT dx, const float *FV_RESTRICT dy, int w, int h)
{
    for (int r = 0; r < h / 2; r++) {
        float *a = dx + (int64_t)2 * r * w, *b = a + w;
        const float *from = dy + (int64_t)r * (w / 2);
        for (int i = 0; i < w / 2; i++) {
            const float g = 0.25f * from[i];
            a[2 * i] += g;
            a[2 * i + 1] += g;
            b[2 * i] += g;
            b[2 * i + 1] += g;
        }
    }
}

/* Where a filter of n taps along columns and rows lies inside: [w, h] -> [w - n + 1, h - n + 1].
 * work: one row of w. back adds the transpose to dx. */
FV_INLINE void plane_filter(float *FV_RESTRICT y, const float *FV_RESTRICT x, int w, int h,
                            const float *down, const float *right, int n, float *FV_RESTRICT work)
{
    const int ow = w - n + 1;
    for (int r = 0; r + n <= h; r++) {
        float *to = y + (int64_t)r * ow;
        for (int i = 0; i < w; i++) work[i] = down[0] * x[(int64_t)r * w + i];
        for (int k = 1; k < n; k++)
            for (int i = 0; i < w; i++) work[i] += down[k] * x[(int64_t)(r + k) * w + i];
        for (int i = 0; i < ow; i++) to[i] = right[0] * work[i];
        for (int k = 1; k < n; k++)
            for (int i = 0; i < ow; i++) to[i] += right[k] * work[i + k];
    }
}
FV_INLINE void plane_filter_back(float *FV_RESTRICT dx, const float *FV_RESTRICT dy, int w, int h,
                                 const float *down, const float *right, int n,
                                 float *FV_RESTRICT work)
{
    const int ow = w - n + 1;
    for (int r = 0; r + n <= h; r++) {
        const float *from = dy + (int64_t)r * ow;
        memset(work, 0, (size_t)w * sizeof *work);
        for (int k = 0; k < n; k++)
            for (int i = 0; i < ow; i++) work[i + k] += right[k] * from[i];
        for (int k = 0; k < n; k++)
            for (int i = 0; i < w; i++) dx[(int64_t)(r + k) * w + i] += down[k] * work[i];
    }
}

/* Sum of n values: 16 chains in f32 over runs of 4096, runs in double. */
FV_INLINE double plane_sum(const float *x, int64_t n)
{
    double total = 0;
    for (int64_t first = 0; first < n; first += 4096) {
        const int64_t end = n - first < 4096 ? n : first + 4096;
        float chain[16] = { 0 };
        int64_t i = first;
        for (; i + 16 <= end; i += 16)
            for (int k = 0; k < 16; k++) chain[k] += x[i + k];
        for (int k = 0; i < end; i++, k++) chain[k] += x[i];
        for (int k = 0; k < 16; k++) total += (double)chain[k];
    }
    return total;
}

/* Sum of (x - y)^2, in the same order. */
FV_INLINE double plane_sqdiff(const float *x, const float *y, int64_t n)
{
    double total = 0;
    for (int64_t first = 0; first < n; first += 4096) {
        const int64_t end = n - first < 4096 ? n : first + 4096;
        float chain[16] = { 0 };
        int64_t i = first;
        for (; i + 16 <= end; i += 16)
            for (int k = 0; k < 16; k++) chain[k] += (x[i + k] - y[i + k]) * (x[i + k] - y[i + k]);
        for (int k = 0; i < end; i++, k++) chain[k] += (x[i] - y[i]) * (x[i] - y[i]);
        for (int k = 0; k < 16; k++) total += (double)chain[k];
    }
    return total;
}

#endif
