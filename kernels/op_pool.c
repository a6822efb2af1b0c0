/* op_pool.c - pooling of pictures and feature maps, f32 [B, H, W, C] (CPU).
 *
 *     max   largest value of a window; no padding, what does not fill a window is left out. The
 *           gradient goes to the first of equals
 *     l2    sqrt(sum of g x^2 + 1e-12) over 3x3 with the outer product g of [1 2 1]/4, every second
 *           pixel, zeros outside [Ding et al. 2020; Henaff & Simoncelli 2016]
 *
 * Both passes have one writer for each row of their result: the backward one asks for each row of
 * the input which windows lie over it. Plain loops: convolutions stand around them. */
#include "cpu_ops.h"

#include <math.h>
#include <string.h>

#define L2_EPS 1e-12f

typedef struct pool {
    int64_t H, W, C, h, w; /* in and out */
    int64_t size, stride, pad;
    bool is_l2;
} pool;

static const float tap[3] = { 0.25f, 0.5f, 0.25f };

static pool pool_of(const fvi_exec *e)
{
    const int64_t *x = e->in[0].dim, *y = e->out[0].dim;
    const bool is_l2 = e->attr->i[0] == FVI_POOL_L2;
    const pool p = { x[1], x[2], x[3], y[1], y[2], e->attr->i[1], e->attr->i[2], is_l2, is_l2 };
    return p;
}

static bool is_inside(int64_t i, int64_t n) { return i >= 0 && i < n; }

/* ---- Forward --------------------------------------------------------------------------------- */

/* One window: x the sample, (top, left) its first pixel. */
static void max_window(float *y, const float *x, const pool *p, int64_t top, int64_t left)
{
    memcpy(y, x + (top * p->W + left) * p->C, (size_t)p->C * sizeof *y);
    for (int64_t k = 1; k < p->size * p->size; k++) {
        const float *v = x + ((top + k / p->size) * p->W + left + k % p->size) * p->C;
        for (int64_t c = 0; c < p->C; c++) y[c] = v[c] > y[c] ? v[c] : y[c];
    }
}

static void l2_window(float *y, const float *x, const pool *p, int64_t top, int64_t left)
{
    for (int64_t c = 0; c < p->C; c++) y[c] = L2_EPS;
    for (int k = 0; k < 9; k++) {
        const int64_t row = top + k / 3, column = left + k % 3;
        if (!is_inside(row, p->H) || !is_inside(column, p->W)) continue;
        const float *v = x + (row * p->W + column) * p->C, g = tap[k / 3] * tap[k % 3];
        for (int64_t c = 0; c < p->C; c++) y[c] += g * v[c] * v[c];
    }
    for (int64_t c = 0; c < p->C; c++) y[c] = sqrtf(y[c]);
}

static fv_status pool_forward(fvi_exec *e)
{
    const pool p = pool_of(e);
    const float *in = e->in[0].data;
    float *out = e->out[0].data;
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t r, end; /* one row of the output */
        for (fvi_lane(e->in[0].dim[0] * p.h, lane, &r, &end); r < end; r++)
            for (int64_t i = 0; i < p.w; i++)
                (p.is_l2 ? l2_window : max_window)(
                    out + (r * p.w + i) * p.C, in + r / p.h * p.H * p.W * p.C, &p,
                    r % p.h * p.stride - p.pad, i * p.stride - p.pad);
    }
    return FV_OK;
}

/* ---- Backward -------------------------------------------------------------------------------- */

typedef struct window { /* of a backward pass */
    const float *x, *y, *dy; /* sample; pixel of the output and its gradient */
    float *dx;               /* row of the input's gradient */
    int64_t row, top, left;
} window;

static void max_back(const pool *p, const window *w)
{
    for (int64_t c = 0; c < p->C; c++) {
        int64_t best = 0;
        float most = -INFINITY;
        for (int64_t k = 0; k < p->size * p->size; k++) {
            const int64_t at = (w->top + k / p->size) * p->W + w->left + k % p->size;
            const float v = w->x[at * p->C + c];
            if (k > 0 && !(v > most)) continue;
            most = v;
            best = k;
        }
        if (w->top + best / p->size == w->row)
            w->dx[(w->left + best % p->size) * p->C + c] += w->dy[c];
    }
}

static void l2_back(const pool *p, const window *w)
{
    for (int64_t k = 0; k < 3; k++) {
        const int64_t column = w->left + k;
        if (!is_inside(column, p->W)) continue;
        const float g = tap[w->row - w->top] * tap[k];
        const float *v = w->x + (w->row * p->W + column) * p->C;
        float *dx = w->dx + column * p->C;
        for (int64_t c = 0; c < p->C; c++) dx[c] += g * v[c] * w->dy[c] / w->y[c];
    }
}

/* All windows over row r of the batch's rows. */
static void row_back(const fvi_exec *e, const pool *p, int64_t r)
{
    const int64_t b = r / p->H, row = r % p->H, below = row + p->pad - p->size;
    const int64_t first = below < 0 ? 0 : below / p->stride + 1, last = (row + p->pad) / p->stride;
    window w = { .x = (const float *)e->in[0].data + b * p->H * p->W * p->C, .row = row,
                 .dx = (float *)e->gin[0].data + r * p->W * p->C };
    if (!e->gin_add[0]) memset(w.dx, 0, (size_t)(p->W * p->C) * sizeof *w.dx);
    for (int64_t j = first; j <= last && j < p->h; j++)
        for (int64_t i = 0; i < p->w; i++) {
            const int64_t at = ((b * p->h + j) * p->w + i) * p->C;
            w.y = (const float *)e->out[0].data + at;
            w.dy = (const float *)e->gout[0].data + at;
            w.top = j * p->stride - p->pad;
            w.left = i * p->stride - p->pad;
            (p->is_l2 ? l2_back : max_back)(p, &w);
        }
}

static fv_status pool_backward(fvi_exec *e)
{
    const pool p = pool_of(e);
    if (!e->gin[0].data) return FV_OK;
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t r, end;
        for (fvi_lane(e->in[0].dim[0] * p.H, lane, &r, &end); r < end; r++) row_back(e, &p, r);
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_pool = {
    .name = "pool", .bwd_reads_in = 1, .bwd_reads_out = 1, .forward = pool_forward,
    .backward = pool_backward
};
