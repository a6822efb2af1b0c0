/* op_windows.c - square windows of feature maps, forward and backward (CPU).
 *
 * A map [B, H, W, C] is laid out as windows of s x s pixels; the first one begins `shift` pixels
 * above and left of the map. Pixel (r, q) of window (i, j) is the map's pixel (y, x) nearest to
 * (i s + r - shift, j s + q - shift): beyond the edges the edge is repeated, nothing wraps around,
 * and sides need not be multiples of s.
 *
 * Plain copies, bandwidth bound. The gradient of a map's pixel is the sum over the places that it
 * was copied to, of which there is one but at the edges; taking the map out of windows is the other
 * way round, with no gradient beyond the edges. Each pixel is written by one lane, sums are in
 * raster order: the same bytes for any number of threads. */
#include "cpu_ops.h"

#include <string.h>

typedef struct window_map {
    int64_t B, H, W, C, s, shift;
    int64_t rows, columns; /* windows down, across */
} window_map;

static window_map map_of(const fvi_exec *e)
{
    const int32_t *a = e->attr->i;
    const fv_tensor *map = a[2] ? &e->out[0] : &e->in[0];
    window_map m = { map->dim[0], a[3], a[4], map->dim[3], a[0], a[1], 0, 0 };
    m.rows = (m.H + m.shift + m.s - 1) / m.s;
    m.columns = (m.W + m.shift + m.s - 1) / m.s;
    return m;
}

/* First element in the windows of (y, x) counted from the corner of window 0. */
static int64_t place(const window_map *m, int64_t b, int64_t y, int64_t x)
{
    const int64_t window = (b * m->rows + y / m->s) * m->columns + x / m->s;
    return ((window * m->s + y % m->s) * m->s + x % m->s) * m->C;
}

static int64_t clamp(int64_t i, int64_t n) { return i < 0 ? 0 : i < n ? i : n - 1; }

/* Pixels of the map from x on that lie side by side in their window too. */
static int64_t row_in_window(const window_map *m, int64_t x)
{
    const int64_t left = m->s - (x + m->shift) % m->s;
    return left < m->W - x ? left : m->W - x;
}

/* Windows from a map: copies with repeated edges; or, is_gradient, zeros beyond the edges. */
static void fill_windows(const fvi_exec *e, const fv_tensor *map, const fv_tensor *windows,
                         bool is_gradient, bool add)
{
    const window_map m = map_of(e);
    const fvi_pointwise_ops *p = &e->ctx->cpu_ops->pointwise;
    const int64_t padded = m.rows * m.s;
    const size_t w = fv_dtype_size(windows->dtype);
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t k, end; /* rows of all windows of a sample */
        for (fvi_lane(m.B * padded, lane, &k, &end); k < end; k++) {
            const int64_t b = k / padded, wy = k % padded, y = clamp(wy - m.shift, m.H);
            for (int64_t wx = 0; wx < m.columns * m.s; wx++) {
                const int64_t x = clamp(wx - m.shift, m.W), to = place(&m, b, wy, wx);
                const int64_t from = ((b * m.H + y) * m.W + x) * m.C;
                const bool is_inside = x + m.shift == wx && y + m.shift == wy;
                const int64_t run = is_inside ? row_in_window(&m, x) : 1;
                if (!is_gradient || is_inside)
                    p->cast(fvi_out_at(windows, to, add), fvi_in_at(map, from), run * m.C);
                else if (!add)
                    memset((char *)windows->data + (size_t)to * w, 0, (size_t)m.C * w);
                wx += run - 1;
            }
        }
    }
}

/* Where the copies of row or column i of n lie: [first, last]. */
static void copies(int64_t i, int64_t n, int64_t shift, int64_t padded, int64_t *first,
                   int64_t *last)
{
    *first = i == 0 ? 0 : i + shift;
    *last = i == n - 1 ? padded - 1 : i + shift;
}

/* A map from windows: what is inside; or, with_copies, the sum of all copies. */
static void fill_map(const fvi_exec *e, const fv_tensor *windows, const fv_tensor *map,
                     bool with_copies, bool add)
{
    const window_map m = map_of(e);
    const fvi_pointwise_ops *p = &e->ctx->cpu_ops->pointwise;
    FVI_PARALLEL_LANES(e->ctx, lane) {
        float *sum = with_copies ? (float *)e->scratch + (size_t)lane * fvi_pad16(m.C) : NULL;
        int64_t k, end; /* rows of the maps */
        for (fvi_lane(m.B * m.H, lane, &k, &end); k < end; k++) {
            const int64_t b = k / m.H, y = k % m.H;
            int64_t y0 = y + m.shift, y1 = y0;
            if (with_copies) copies(y, m.H, m.shift, m.rows * m.s, &y0, &y1);
            for (int64_t x = 0; x < m.W; x++) {
                int64_t x0 = x + m.shift, x1 = x0;
                if (with_copies) copies(x, m.W, m.shift, m.columns * m.s, &x0, &x1);
                const fvi_out to = fvi_out_at(map, (k * m.W + x) * m.C, add);
                if (y0 == y1 && x0 == x1) {
                    const int64_t run = with_copies ? 1 : row_in_window(&m, x);
                    p->cast(to, fvi_in_at(windows, place(&m, b, y0, x0)), run * m.C);
                    x += run - 1;
                    continue;
                }
                for (int64_t i = y0; i <= y1; i++)
                    for (int64_t j = x0; j <= x1; j++)
                        p->cast(fvi_out_f32(sum, i > y0 || j > x0),
                                fvi_in_at(windows, place(&m, b, i, j)), m.C);
                p->cast(to, fvi_in_f32(sum), m.C);
            }
        }
    }
}

static size_t windows_scratch(const fvi_exec *e, bool backward)
{
    return backward ? FVI_LANES * fvi_pad16(map_of(e).C) * sizeof(float) : 0;
}

static fv_status windows_forward(fvi_exec *e)
{
    if (e->attr->i[2]) fill_map(e, &e->in[0], &e->out[0], false, false);
    else fill_windows(e, &e->in[0], &e->out[0], false, false);
    return FV_OK;
}

static fv_status windows_backward(fvi_exec *e)
{
    if (!e->gin[0].data) return FV_OK;
    if (e->attr->i[2]) fill_windows(e, &e->gout[0], &e->gin[0], true, e->gin_add[0]);
    else fill_map(e, &e->gout[0], &e->gin[0], true, e->gin_add[0]);
    return FV_OK;
}

const fvi_op_def fvi_cpu_windows = {
    .name = "windows", .scratch_bytes = windows_scratch, .forward = windows_forward,
    .backward = windows_backward
};
