/* op_filter.c - fixed small filters over pictures, the same for every channel (CPU).
 *
 *     sobel_x, sobel_y   derivative [-1 0 1]/2 along one side, [1 2 1]/4 along the other
 *     blur5              [1 4 6 4 1]/16 along both; with stride 2 the next level of a pyramid
 *
 * Beyond the edge the picture goes on with its edge pixels. Taps are applied along columns, then
 * along rows. They are for losses: a few per cent of the work of any network, plain loops that
 * compilers turn into vectors. Samples are independent and each has one writer. */
#include "backend.h"
#include "cpu_ops.h"

#include <string.h>

#define TAPS 5
#define MID 2

typedef struct taps { float down[TAPS], right[TAPS]; } taps;

static const taps filters[FV_FILTER_COUNT] = {
    [FV_FILTER_SOBEL_X] = { { 0, 0.25f, 0.5f, 0.25f, 0 }, { 0, -0.5f, 0, 0.5f, 0 } },
    [FV_FILTER_SOBEL_Y] = { { 0, -0.5f, 0, 0.5f, 0 }, { 0, 0.25f, 0.5f, 0.25f, 0 } },
    [FV_FILTER_BLUR5] = { { 0.0625f, 0.25f, 0.375f, 0.25f, 0.0625f },
                          { 0.0625f, 0.25f, 0.375f, 0.25f, 0.0625f } },
};

void fvi_filter_taps(fv_image_filter kind, float down[5], float right[5])
{
    memcpy(down, filters[kind].down, sizeof filters[kind].down);
    memcpy(right, filters[kind].right, sizeof filters[kind].right);
}

typedef struct filter_size { int64_t H, W, C, h, w, stride; } filter_size; /* in and out */

static filter_size size_of(const fvi_exec *e)
{
    const int64_t *x = e->in[0].dim, *y = e->out[0].dim;
    const filter_size s = { x[1], x[2], x[3], y[1], y[2], e->attr->i[1] };
    return s;
}

static int64_t clamp(int64_t i, int64_t n) { return i < 0 ? 0 : i >= n ? n - 1 : i; }

/* y += t x over n values */
static void add_scaled(float *FV_RESTRICT y, const float *FV_RESTRICT x, float t, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] += t * x[i];
}

/* One row of W*C values -> every stride-th pixel, filtered along the row. */
static void filter_row(float *y, const float *row, const float *right, const filter_size *s)
{
    const int64_t C = s->C;
    memset(y, 0, (size_t)(s->w * C) * sizeof *y);
    for (int k = 0; k < TAPS; k++) {
        if (right[k] == 0.0f) continue;
        int64_t x = 0;
        for (; x < s->w; x++) {
            const int64_t from = x * s->stride + k - MID;
            if (s->stride == 1 && from >= 0) break;
            add_scaled(y + x * C, row + clamp(from, s->W) * C, right[k], C);
        }
        if (x == s->w) continue;
        const int64_t from = x + k - MID; /* stride 1: a run without an edge */
        const int64_t run = s->w - x < s->W - from ? s->w - x : s->W - from;
        if (run > 0) add_scaled(y + x * C, row + from * C, right[k], run * C);
        for (x += run > 0 ? run : 0; x < s->w; x++)
            add_scaled(y + x * C, row + (s->W - 1) * C, right[k], C);
    }
}

/* Transposed: row += what each pixel of dy was made of. */
static void filter_row_back(float *row, const float *dy, const float *right, const filter_size *s)
{
    for (int k = 0; k < TAPS; k++)
        for (int64_t x = 0; right[k] != 0.0f && x < s->w; x++)
            add_scaled(row + clamp(x * s->stride + k - MID, s->W) * s->C, dy + x * s->C, right[k],
                       s->C);
}

/* A row of the input for each lane. */
static size_t filter_scratch(const fvi_exec *e, bool backward)
{
    (void)backward;
    return (size_t)FVI_LANES * fvi_pad16(e->in[0].dim[2] * e->in[0].dim[3]) * sizeof(float);
}

static fv_status filter_forward(fvi_exec *e)
{
    const filter_size s = size_of(e);
    const taps *f = &filters[e->attr->i[0]];
    const int64_t line = s.W * s.C, rows = e->in[0].dim[0] * s.h;
    const float *in = e->in[0].data;
    float *out = e->out[0].data;
    FVI_PARALLEL_LANES(e->ctx, lane) {
        float *sum = (float *)e->scratch + (size_t)lane * fvi_pad16(line);
        int64_t r, end; /* one row of the output */
        for (fvi_lane(rows, lane, &r, &end); r < end; r++) {
            const float *x = in + r / s.h * s.H * line;
            memset(sum, 0, (size_t)line * sizeof *sum);
            for (int k = 0; k < TAPS; k++)
                if (f->down[k] != 0.0f)
                    add_scaled(sum, x + clamp(r % s.h * s.stride + k - MID, s.H) * line,
                               f->down[k], line);
            filter_row(out + r * s.w * s.C, sum, f->right, &s);
        }
    }
    return FV_OK;
}

static fv_status filter_backward(fvi_exec *e)
{
    const filter_size s = size_of(e);
    const taps *f = &filters[e->attr->i[0]];
    const int64_t line = s.W * s.C, B = e->in[0].dim[0];
    const float *dout = e->gout[0].data;
    float *din = e->gin[0].data;
    if (!din) return FV_OK;
    FVI_PARALLEL_LANES(e->ctx, lane) {
        float *sum = (float *)e->scratch + (size_t)lane * fvi_pad16(line);
        int64_t b, end; /* rows of one sample overlap: a lane has whole samples */
        for (fvi_lane(B, lane, &b, &end); b < end; b++) {
            float *dx = din + b * s.H * line;
            if (!e->gin_add[0]) memset(dx, 0, (size_t)(s.H * line) * sizeof *dx);
            for (int64_t y = 0; y < s.h; y++) {
                memset(sum, 0, (size_t)line * sizeof *sum);
                filter_row_back(sum, dout + (b * s.h + y) * s.w * s.C, f->right, &s);
                for (int k = 0; k < TAPS; k++)
                    if (f->down[k] != 0.0f)
                        add_scaled(dx + clamp(y * s.stride + k - MID, s.H) * line, sum, f->down[k],
                                   line);
            }
        }
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_filter = {
    .name = "filter", .scratch_bytes = filter_scratch, .forward = filter_forward,
    .backward = filter_backward
};
