/* resize_windows.c - weights of separable resizing.
 *
 * Along one axis, output x looks at input centre c = (x + 0.5) s, s = in / out. With antialiasing
 * the kernel is stretched by max(s, 1), so that shrinking averages. Weights of a window add up to 1:
 *
 *     w(i) = f((i - c + 0.5) / stretch) / sum,   floor(c - r + 0.5) <= i < floor(c + r + 0.5)
 *
 * Beyond the border a window is cut, as Pillow does it, or sees the edge sample again, as programs
 * for training do. Area: w(i) = length of [i, i + 1) in [x s, (x + 1) s), over s. */
#include "resize_windows.h"

#include <math.h>
#include <string.h>

#define PI 3.14159265358979323846

static double box(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

static double bilinear(double x)
{
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double keys(double x, double a) /* Keys 1981 */
{
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
    return 0.0;
}
static double bicubic(double x) { return keys(x, -0.5); }
static double bicubic75(double x) { return keys(x, -0.75); }

static double sinc(double x) { return x == 0.0 ? 1.0 : sin(x * PI) / (x * PI); }
static double lanczos3(double x) { return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0; }

const fvi_kernel fvi_kernels[FVI_RESIZE_COUNT] = {
    [FVI_RESIZE_BOX] = { box, 0.5 },           [FVI_RESIZE_BILINEAR] = { bilinear, 1.0 },
    [FVI_RESIZE_BICUBIC] = { bicubic, 2.0 },   [FVI_RESIZE_LANCZOS3] = { lanczos3, 3.0 },
    [FVI_RESIZE_BICUBIC75] = { bicubic75, 2.0 }, [FVI_RESIZE_AREA] = { NULL, 0.5 },
};

/* ---- Room ------------------------------------------------------------------------------------ */

/* Samples a window may have; one more for area, whose ends may lie inside of two. */
static size_t window_width(int in, int out, double radius, bool antialias)
{
    const double s = (double)in / out, stretch = antialias && s > 1.0 ? s : 1.0;
    const double widest = ceil(radius * stretch) * 2 + 1;
    return widest < (double)in ? (size_t)widest : (size_t)in;
}

bool fvi_windows_room(int in, int out, double radius, size_t *weights)
{
    return fv_mul_size((size_t)out, window_width(in, out, radius, true), weights);
}

fv_status fvi_windows_alloc(fv_ctx *ctx, fvi_windows *t, size_t outputs, size_t weights)
{
    memset(t, 0, sizeof *t);
    t->outputs = outputs;
    t->weights = weights;
    t->first = fv_calloc(ctx, outputs, sizeof *t->first);
    t->count = t->first ? fv_calloc(ctx, outputs, sizeof *t->count) : NULL;
    t->w = t->count ? fv_calloc(ctx, weights, sizeof *t->w) : NULL;
    return t->w ? FV_OK : FV_ERR_OOM;
}

void fvi_windows_free(fv_ctx *ctx, fvi_windows *t)
{
    fv_free(ctx, t->first);
    fv_free(ctx, t->count);
    fv_free(ctx, t->w);
    memset(t, 0, sizeof *t);
}

/* ---- Weights --------------------------------------------------------------------------------- */

static int clamp(int i, int n) { return i < 0 ? 0 : i >= n ? n - 1 : i; }

static void finish(fvi_windows *t, int i, int first, int last, double sum)
{
    double *w = t->w + (size_t)i * t->width;
    for (int x = first; x < last; x++) w[x - first] /= sum;
    t->first[i] = first;
    t->count[i] = last - first;
}

static void fill_window(fvi_windows *t, int i, int in, double s, double stretch,
                        const fvi_resampling *how)
{
    const fvi_kernel *k = &fvi_kernels[how->filter];
    const double centre = (i + 0.5) * s, r = k->radius * stretch;
    const int from = (int)floor(centre - r + 0.5), to = (int)floor(centre + r + 0.5);
    int first = clamp(from, in), last = to < in ? to : in;
    if (how->repeats_edges && to <= 0) last = 1;
    double *w = t->w + (size_t)i * t->width, sum = 0;
    for (int x = first; x < last; x++) w[x - first] = 0;
    for (int x = from; x < to; x++) {
        if (!how->repeats_edges && (x < 0 || x >= in)) continue;
        const double v = k->f((x - centre + 0.5) / stretch);
        w[clamp(x, in) - first] += v;
        sum += v;
    }
    if (!(sum > 0)) { /* a centre on an edge: rounding can leave the box without its one pixel */
        first = centre < in ? (int)centre : in - 1;
        last = first + 1;
        w[0] = sum = 1;
    }
    finish(t, i, first, last, sum);
}

static void fill_area(fvi_windows *t, int i, int in, double s)
{
    const double from = i * s, to = (i + 1) * s;
    const int first = clamp((int)floor(from), in);
    int last = (int)ceil(to);
    if (last > in) last = in;
    if (last <= first) last = first + 1;
    if ((size_t)(last - first) > t->width) last = first + (int)t->width; /* an empty end */
    double *w = t->w + (size_t)i * t->width, sum = 0;
    for (int x = first; x < last; x++) {
        const double v = fmin(to, x + 1.0) - fmax(from, x);
        sum += w[x - first] = v > 0 ? v : 0;
    }
    if (!(sum > 0)) w[0] = sum = 1;
    finish(t, i, first, last, sum);
}

fv_status fvi_windows_fill(fvi_windows *t, int in, int out, fvi_resampling how)
{
    const double s = (double)in / out, stretch = how.antialias && s > 1.0 ? s : 1.0;
    const bool is_area = !fvi_kernels[how.filter].f;
    size_t n;
    t->width = window_width(in, out, fvi_kernels[how.filter].radius, how.antialias || is_area);
    if ((size_t)out > t->outputs || !fv_mul_size((size_t)out, t->width, &n) || n > t->weights)
        return FV_ERR_CAPACITY;
    for (int i = 0; i < out; i++) {
        if (is_area) fill_area(t, i, in, s);
        else fill_window(t, i, in, s, stretch, &how);
    }
    return FV_OK;
}
