/* op_spectrum.c - ops over the frequencies of pictures, f32 [B, H, W, C] (CPU).
 *
 *     low_pass       Butterworth 1 / (1 + (r / cutoff)^(2 order)), r in cycles a pixel, over planes
 *                    reflected by 16 pixels and more, up to the next fast length (band_filter.h)
 *     loss_spectrum  mean of | |F a| - |F t| | over frequencies of patches P x P, F the orthonormal
 *                    discrete Fourier transform. With g = sign(|F a| - |F t|) F a / |F a| the
 *                    gradient to the patch is the real part of F^-1 g, over the number of values.
 *
 * A transform serves two planes, as its real and imaginary part: H is real and even, so that the
 * filtered parts stay apart, and what belongs to which is told by symmetry: with z = a + i t,
 * F a (k) = (Z(k) + conj Z(-k)) / 2 and F t (k) = (Z(k) - conj Z(-k)) / 2i.
 *
 * The low-pass is linear and H is symmetric: backward embeds the gradient in zeros, filters it, and
 * adds each pixel of the margin to the one that it mirrors. A lane has whole planes (low_pass:
 * pairs of planes; loss: patches), so that every value has one writer. */
#include "cpu_ops.h"

#include <math.h>
#include <string.h>

#include "band_filter.h"

/* Of `count` pieces of work. */
static int lanes_of(int64_t count) { return count < FVI_LANES ? (int)count : FVI_LANES; }

/* ---- Low-pass: in x; out y ------------------------------------------------------------------- */

typedef struct low_pass {
    fvi_fft2 *fft;
    float *filter; /* [h, w] */
    int h, w;      /* padded */
} low_pass;

static void low_pass_release(fv_ctx *ctx, void *state)
{
    low_pass *p = state;
    if (!p) return;
    fvi_fft2_free(&p->fft);
    fv_free(ctx, p->filter);
    fv_free(ctx, p);
}

static void fill_filter(const low_pass *p, double cutoff, int order)
{
    for (int y = 0; y < p->h; y++)
        for (int x = 0; x < p->w; x++) {
            const double u = fvi_band_frequency(y, p->h), v = fvi_band_frequency(x, p->w);
            p->filter[(size_t)y * (size_t)p->w + (size_t)x] =
                (float)fvi_butterworth(u * u + v * v, cutoff, order);
        }
}

static int padded(int64_t n) { return fvi_fft_size((int)n + 2 * FVI_BAND_MARGIN); }

static fv_status low_pass_prepare(fvi_exec *e)
{
    low_pass *p = fv_calloc(e->ctx, 1, sizeof *p);
    if (!p) return FV_ERR_OOM;
    fv_status s = FV_OK;
    p->h = padded(e->in[0].dim[1]);
    p->w = padded(e->in[0].dim[2]);
    FV_TRY_GOTO(fvi_fft2_create(e->ctx, &p->fft, p->h, p->w));
    p->filter = fv_calloc(e->ctx, (size_t)p->h * (size_t)p->w, sizeof *p->filter);
    if (!p->filter) FV_TRY_GOTO(FV_ERR_OOM);
    fill_filter(p, e->attr->f[0], e->attr->i[0]);
    e->state = p;
    return FV_OK;
fail:
    low_pass_release(e->ctx, p);
    return s;
}

static int64_t pair_count(const fvi_exec *e)
{
    return (e->in[0].dim[0] * e->in[0].dim[3] + 1) / 2;
}

static size_t lane_floats(size_t h, size_t w)
{
    return fvi_pad16((int64_t)(2 * h * w + fvi_fft2_room((int)h, (int)w)));
}

static size_t low_pass_scratch(const fvi_exec *e, bool backward)
{
    const size_t h = (size_t)padded(e->in[0].dim[1]), w = (size_t)padded(e->in[0].dim[2]);
    (void)backward;
    return (size_t)lanes_of(pair_count(e)) * lane_floats(h, w) * sizeof(float);
}

static void filter_pair(const low_pass *p, float *plane, float *buffer)
{
    const size_t n = (size_t)p->h * (size_t)p->w;
    fvi_fft2_run_alone(p->fft, plane, false, buffer);
    for (size_t i = 0; i < n; i++) {
        plane[2 * i] *= p->filter[i];
        plane[2 * i + 1] *= p->filter[i];
    }
    fvi_fft2_run_alone(p->fft, plane, true, buffer);
}

/* Plane k of all, b * C + c: its first value in an array [B, H, W, C]. */
static int64_t plane_start(const fvi_exec *e, int64_t k)
{
    const int64_t *d = e->in[0].dim;
    return k / d[3] * d[1] * d[2] * d[3] + k % d[3];
}

static void pair_forward(const fvi_exec *e, int64_t pair, float *plane, float *buffer)
{
    const low_pass *p = e->state;
    const int64_t *d = e->in[0].dim, planes = d[0] * d[3];
    const int H = (int)d[1], W = (int)d[2];
    memset(plane, 0, 2 * sizeof *plane * (size_t)p->h * (size_t)p->w);
    for (int k = 0; k < 2 && 2 * pair + k < planes; k++) {
        const float *from = (const float *)e->in[0].data + plane_start(e, 2 * pair + k);
        for (int y = 0; y < p->h; y++) {
            const float *row = from + (int64_t)fvi_reflect(y - FVI_BAND_MARGIN, H) * W * d[3];
            float *to = plane + 2 * (size_t)y * (size_t)p->w + k;
            for (int x = 0; x < p->w; x++)
                to[2 * x] = row[fvi_reflect(x - FVI_BAND_MARGIN, W) * d[3]];
        }
    }
    filter_pair(p, plane, buffer);
    for (int k = 0; k < 2 && 2 * pair + k < planes; k++) {
        float *to = (float *)e->out[0].data + plane_start(e, 2 * pair + k);
        for (int64_t i = 0; i < (int64_t)H * W; i++)
            to[i * d[3]] = plane[2 * ((i / W + FVI_BAND_MARGIN) * p->w + i % W + FVI_BAND_MARGIN) +
                                 k];
    }
}

static void pair_backward(const fvi_exec *e, int64_t pair, float *plane, float *buffer)
{
    const low_pass *p = e->state;
    const int64_t *d = e->in[0].dim, planes = d[0] * d[3];
    const int H = (int)d[1], W = (int)d[2];
    memset(plane, 0, 2 * sizeof *plane * (size_t)p->h * (size_t)p->w);
    for (int k = 0; k < 2 && 2 * pair + k < planes; k++) {
        const float *from = (const float *)e->gout[0].data + plane_start(e, 2 * pair + k);
        for (int64_t i = 0; i < (int64_t)H * W; i++)
            plane[2 * ((i / W + FVI_BAND_MARGIN) * p->w + i % W + FVI_BAND_MARGIN) + k] =
                from[i * d[3]];
    }
    filter_pair(p, plane, buffer);
    for (int k = 0; k < 2 && 2 * pair + k < planes; k++) {
        float *to = (float *)e->gin[0].data + plane_start(e, 2 * pair + k);
        for (int64_t i = 0; i < (int64_t)H * W && !e->gin_add[0]; i++) to[i * d[3]] = 0;
        for (int y = 0; y < p->h; y++) {
            float *row = to + (int64_t)fvi_reflect(y - FVI_BAND_MARGIN, H) * W * d[3];
            const float *from = plane + 2 * (size_t)y * (size_t)p->w + k;
            for (int x = 0; x < p->w; x++)
                row[fvi_reflect(x - FVI_BAND_MARGIN, W) * d[3]] += from[2 * x];
        }
    }
}

static void low_pass_run(const fvi_exec *e, bool backward)
{
    const low_pass *p = e->state;
    const int64_t pairs = pair_count(e);
    const int lanes = lanes_of(pairs);
    const size_t floats = lane_floats((size_t)p->h, (size_t)p->w);
#pragma omp parallel for schedule(static, 1) num_threads(e->ctx->threads)
    for (int lane = 0; lane < lanes; lane++) {
        float *plane = (float *)e->scratch + (size_t)lane * floats;
        float *buffer = plane + 2 * (size_t)p->h * (size_t)p->w;
        for (int64_t k = pairs * lane / lanes; k < pairs * (lane + 1) / lanes; k++) {
            if (backward) pair_backward(e, k, plane, buffer);
            else pair_forward(e, k, plane, buffer);
        }
    }
}

static fv_status low_pass_forward(fvi_exec *e)
{
    low_pass_run(e, false);
    return FV_OK;
}

static fv_status low_pass_backward(fvi_exec *e)
{
    if (e->gin[0].data) low_pass_run(e, true);
    return FV_OK;
}
const fvi_op_def fvi_cpu_low_pass = {
    .name = "low_pass", .scratch_bytes = low_pass_scratch, .prepare = low_pass_prepare,
    .release = low_pass_release, .forward = low_pass_forward, .backward = low_pass_backward
};

/* ---- Spectral loss: in a, target; out loss[1], grad ------------------------------------------ */

static fv_status spectrum_prepare(fvi_exec *e)
{
    fvi_fft2 *f = NULL;
    FV_TRY(fvi_fft2_create(e->ctx, &f, e->attr->i[0], e->attr->i[0]));
    e->state = f;
    return FV_OK;
}

static void spectrum_release(fv_ctx *ctx, void *state)
{
    fvi_fft2 *f = state;
    (void)ctx;
    fvi_fft2_free(&f);
}

static int64_t patch_count(const fvi_exec *e)
{
    const int64_t *d = e->in[0].dim, P = e->attr->i[0];
    return d[0] * (d[1] / P) * (d[2] / P) * d[3];
}

static size_t spectrum_scratch(const fvi_exec *e, bool backward)
{
    const size_t P = (size_t)e->attr->i[0];
    if (backward) return 0;
    return (size_t)lanes_of(patch_count(e)) *
           (lane_floats(P, P) + fvi_pad16((int64_t)(2 * P * P))) * sizeof(float);
}

/* First value of patch k in [B, H, W, C]; patches of one channel after those of another. */
static int64_t patch_start(const fvi_exec *e, int64_t k)
{
    const int64_t *d = e->in[0].dim, P = e->attr->i[0], rows = d[1] / P, columns = d[2] / P;
    const int64_t c = k % d[3], x = k / d[3] % columns, y = k / d[3] / columns % rows;
    return ((k / d[3] / columns / rows * d[1] + y * P) * d[2] + x * P) * d[3] + c;
}

/* Sum of the differences of the amplitudes of z, the transform of a + i t; g [P, P, 2]: their
 * gradient, in frequencies. Amplitudes as if the transform were orthonormal. */
static double amplitudes(const float *z, float *g, int P)
{
    const float unit = 0.5f / (float)P;
    double sum = 0;
    for (int y = 0; y < P; y++)
        for (int x = 0; x < P; x++) {
            const float *p = z + 2 * (y * P + x), *q = z + 2 * ((P - y) % P * P + (P - x) % P);
            const float ar = unit * (p[0] + q[0]), ai = unit * (p[1] - q[1]);
            const float tr = unit * (p[1] + q[1]), ti = unit * (q[0] - p[0]);
            const float a = sqrtf(ar * ar + ai * ai), d = a - sqrtf(tr * tr + ti * ti);
            const float k = a > 0 ? (d > 0 ? 1 / a : d < 0 ? -1 / a : 0) : 0;
            sum += fabsf(d);
            g[2 * (y * P + x)] = k * ar;
            g[2 * (y * P + x) + 1] = k * ai;
        }
    return sum;
}

/* Loss of one patch times the number of values; its gradient, if there is a place for it. */
static double patch_forward(const fvi_exec *e, int64_t k, float *z)
{
    const fvi_fft2 *f = e->state;
    const int P = e->attr->i[0];
    const int64_t at = patch_start(e, k), C = e->in[0].dim[3], line = e->in[0].dim[2] * C;
    const float *a = (const float *)e->in[0].data + at, *t = (const float *)e->in[1].data + at;
    float *g = z + fvi_pad16(2 * (int64_t)P * P), *buffer = g + 2 * (size_t)P * (size_t)P;
    for (int i = 0; i < P * P; i++) {
        const int64_t from = i / P * line + i % P * C;
        z[2 * i] = a[from];
        z[2 * i + 1] = t[from];
    }
    fvi_fft2_run_alone(f, z, false, buffer);
    const double sum = amplitudes(z, g, P);
    if (!e->out[1].data) return sum;
    /* The inverse divides by P^2, an orthonormal one by P. */
    const float scale = (float)((double)P / (double)fv_tensor_count(&e->in[0]));
    float *to = (float *)e->out[1].data + at;
    fvi_fft2_run_alone(f, g, true, buffer);
    for (int i = 0; i < P * P; i++) to[i / P * line + i % P * C] = scale * g[2 * i];
    return sum;
}

static fv_status spectrum_forward(fvi_exec *e)
{
    const size_t P = (size_t)e->attr->i[0];
    const int64_t patches = patch_count(e);
    const int lanes = lanes_of(patches);
    const size_t floats = lane_floats(P, P) + fvi_pad16((int64_t)(2 * P * P));
    double sums[FVI_LANES] = { 0 }, total = 0;
#pragma omp parallel for schedule(static, 1) num_threads(e->ctx->threads)
    for (int lane = 0; lane < lanes; lane++)
        for (int64_t k = patches * lane / lanes; k < patches * (lane + 1) / lanes; k++)
            sums[lane] += patch_forward(e, k, (float *)e->scratch + (size_t)lane * floats);
    for (int lane = 0; lane < lanes; lane++) total += sums[lane];
    *(float *)e->out[0].data = (float)(total / (double)fv_tensor_count(&e->in[0]));
    return FV_OK;
}

static fv_status spectrum_backward(fvi_exec *e) { return fvi_kept_backward(e, 1); }

const fvi_op_def fvi_cpu_loss_spectrum = {
    .name = "loss_spectrum", .bwd_reads_out = 2, .scratch_bytes = spectrum_scratch,
    .prepare = spectrum_prepare, .release = spectrum_release, .forward = spectrum_forward,
    .backward = spectrum_backward
};
