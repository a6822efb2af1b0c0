/* warping_error.c - what a clip changes along its own motion, see fovea.h; flow is given, not
 * estimated: clips made of stills (clip.c) know theirs.
 *
 * Rows are cut into the same lanes for any thread count, sums are double: one value for all. */
#include <math.h>

#include "internal.h"

typedef struct pair {
    const float *a, *b, *flow, *back;
    int width, height;
} pair;
typedef struct sums { double error, seen; bool is_bad; } sums;

/* Four neighbours of a place in the frame, and their weights. */
typedef struct corner { size_t at[4]; double w[4]; } corner;

static bool find(const pair *p, double x, double y, corner *c)
{
    if (!(x >= 0 && y >= 0 && x <= p->width - 1 && y <= p->height - 1)) return false;
    const int x0 = (int)x, y0 = (int)y;
    const double fx = x - x0, fy = y - y0;
    for (int i = 0; i < 4; i++) { /* beyond the last column its weight is 0 */
        const int xi = x0 + (i & 1) < p->width ? x0 + (i & 1) : x0;
        const int yi = y0 + (i >> 1) < p->height ? y0 + (i >> 1) : y0;
        c->at[i] = (size_t)yi * (size_t)p->width + (size_t)xi;
        c->w[i] = (i & 1 ? fx : 1 - fx) * (i >> 1 ? fy : 1 - fy);
    }
    return true;
}

static double take(const float *v, const corner *c, size_t channels, size_t channel)
{
    double sum = 0;
    for (int i = 0; i < 4; i++) sum += c->w[i] * v[c->at[i] * channels + channel];
    return sum;
}

static bool comes_back(const pair *p, const float *f, const corner *c)
{
    const double bx = take(p->back, c, 2, 0), by = take(p->back, c, 2, 1), fx = f[0], fy = f[1];
    const double apart = (fx + bx) * (fx + bx) + (fy + by) * (fy + by);
    return apart < 0.01 * (fx * fx + fy * fy + bx * bx + by * by) + 0.5;
}

static void add_pixel(const pair *p, int x, int y, sums *s)
{
    const size_t i = (size_t)y * (size_t)p->width + (size_t)x;
    const float *f = p->flow + 2 * i;
    corner c;
    if (!isfinite(f[0]) || !isfinite(f[1])) s->is_bad = true;
    if (!find(p, x + (double)f[0], y + (double)f[1], &c)) return;
    if (p->back && !comes_back(p, f, &c)) return;
    double e = 0;
    for (size_t k = 0; k < 3; k++) {
        const double d = p->a[3 * i + k] - take(p->b, &c, 3, k);
        e += d * d;
    }
    if (!isfinite(e)) s->is_bad = true;
    s->error += e;
    s->seen += 1;
}

fv_status fv_warping_error(fv_ctx *ctx, const float *a, const float *b, int width, int height,
                           const float *flow, const float *back, double *error, double *seen)
{
    if (!error) return fv_fail(ctx, FV_ERR_ARG, "warping error: no place for the result");
    *error = 0;
    if (seen) *seen = 0;
    if (!a || !b || !flow || width < 1 || height < 1)
        return fv_fail(ctx, FV_ERR_ARG, "warping error: two frames and a flow are needed");
    const pair p = { a, b, flow, back, width, height };
    sums part[FVI_LANES] = { { 0, 0, false } }, all = { 0, 0, false };
#pragma omp parallel for num_threads(ctx->threads)
    for (int lane = 0; lane < FVI_LANES; lane++) {
        int64_t y, end;
        for (fvi_lane(height, lane, &y, &end); y < end; y++)
            for (int x = 0; x < width; x++) add_pixel(&p, x, (int)y, &part[lane]);
    }
    for (int i = 0; i < FVI_LANES; i++) {
        all.error += part[i].error;
        all.seen += part[i].seen;
        all.is_bad |= part[i].is_bad;
    }
    if (all.is_bad)
        return fv_fail(ctx, FV_ERR_NUMERIC, "warping error: a frame or its flow is not finite");
    *error = all.seen > 0 ? all.error / all.seen : 0;
    if (seen) *seen = all.seen / ((double)width * height);
    return FV_OK;
}
