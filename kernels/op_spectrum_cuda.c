/* op_spectrum_cuda.c - host side of LOW_PASS and LOSS_SPECTRUM on the device. Definition: op_spectrum.c;
 * kernels: cuda/losses.h.
 *
 * The filter H(u, v) is even in u and in v, so cas = cos + sin serves as well as exp: with the real
 * matrices E = (cas(2 pi j k / n)) the padded plane X becomes E_h (H o (E_h X E_w)) E_w / (h w).
 * Reflection at the edges and cutting the plane out are linear, too, and part of the matrices:
 *
 *     y = Q_h (H o (P_h x P_w^T)) Q_w^T        P_h [h, H], Q_h [H, h], P_w [w, W], Q_w [W, w]
 *
 * for all planes at once, laid out [H, planes, W]: four f32 products, no complex number, and the
 * gradient is the same with the transposed matrices. A transform by products costs h + w
 * multiplications a pixel and direction, which for the sides of training is less than what moving the
 * planes through a library's FFT and back would. */
#include "cuda_ops.h"

#include <math.h>

#include "band_filter.h"

#define TAU 6.283185307179586476925286766559

/* ---- Low-pass: in x; out y ------------------------------------------------------------------- */

enum { ALONG_ROWS, DOWN, UP, BACK_ROWS, PRODUCTS };

typedef struct band {
    int64_t planes, H, W, h, w;
    float *table;                        /* P_h | Q_h | P_w | Q_w | filter, in device memory */
    fvk_product *product[2][PRODUCTS];   /* forward, backward */
} band;

static int64_t padded(int64_t n) { return fvi_fft_size((int)n + 2 * FVI_BAND_MARGIN); }

static void band_release(fv_ctx *ctx, void *state)
{
    band *b = state;
    if (!b) return;
    for (int i = 0; i < 2 * PRODUCTS; i++)
        if (b->product[i / PRODUCTS][i % PRODUCTS])
            fvi_cuda_of(ctx)->api->gemm_destroy(fvi_cuda_of(ctx)->dev,
                                                b->product[i / PRODUCTS][i % PRODUCTS]);
    fv_dev_free(ctx, b->table);
    fv_free(ctx, b);
}

/* P [n padded, n] and Q [n, n padded] of an axis; wave: room for cas. */
static void fill_axis(int64_t n, int64_t full, double *wave, float *P, float *Q)
{
    for (int64_t k = 0; k < full; k++)
        wave[k] = cos(TAU * (double)k / (double)full) + sin(TAU * (double)k / (double)full);
    for (int64_t u = 0; u < full; u++) {
        for (int64_t i = 0; i < n; i++) {
            P[u * n + i] = 0;
            Q[i * full + u] = (float)(wave[u * (i + FVI_BAND_MARGIN) % full] / (double)full);
        }
        for (int64_t y = 0; y < full; y++)
            P[u * n + fvi_reflect((int)y - FVI_BAND_MARGIN, (int)n)] += (float)wave[u * y % full];
    }
}

static size_t table_floats(const band *b)
{
    return (size_t)(2 * b->H * b->h + 2 * b->W * b->w + b->h * b->w);
}

static fv_status send_table(fvi_exec *e, band *b)
{
    const size_t n = table_floats(b);
    float *t = fv_alloc(e->ctx, n * sizeof *t), *filter = t ? t + n - b->h * b->w : NULL;
    double *wave = fv_alloc(e->ctx, (size_t)(b->h > b->w ? b->h : b->w) * sizeof *wave);
    fv_status s = t && wave ? FV_OK : FV_ERR_OOM;
    if (s == FV_OK) {
        fill_axis(b->H, b->h, wave, t, t + b->H * b->h);
        fill_axis(b->W, b->w, wave, t + 2 * b->H * b->h, t + 2 * b->H * b->h + b->W * b->w);
        for (int64_t i = 0; i < b->h * b->w; i++) {
            const double u = fvi_band_frequency((int)(i / b->w), (int)b->h);
            const double v = fvi_band_frequency((int)(i % b->w), (int)b->w);
            filter[i] = (float)fvi_butterworth(u * u + v * v, e->attr->f[0], e->attr->i[0]);
        }
        b->table = fv_dev_alloc(e->ctx, n, sizeof *t);
        s = b->table ? fv_dev_copy(e->ctx, b->table, t, n * sizeof *t, FV_COPY_TO_DEVICE)
                     : FV_ERR_OOM;
    }
    fv_free(e->ctx, t);
    fv_free(e->ctx, wave);
    return s;
}

static fv_status create_products(fvi_exec *e, band *b)
{
    const fvi_cuda *d = fvi_cuda_of(e->ctx);
    const int64_t lines = b->H * b->planes, wide = b->planes * b->w;
    const fvk_gemm all[2][PRODUCTS] = {
        { { .M = lines, .N = b->w, .K = b->W, .b_trans = 1 }, { .M = b->h, .N = wide, .K = b->H },
          { .M = b->H, .N = wide, .K = b->h }, { .M = lines, .N = b->W, .K = b->w, .b_trans = 1 } },
        { { .M = lines, .N = b->w, .K = b->W }, { .M = b->h, .N = wide, .K = b->H, .a_trans = 1 },
          { .M = b->H, .N = wide, .K = b->h, .a_trans = 1 }, { .M = lines, .N = b->W, .K = b->w } }
    };
    for (int back = 0; back <= (e->gin[0].ndim > 0); back++)
        for (int k = 0; k < PRODUCTS; k++)
            FV_TRY(fvi_cuda_status(e->ctx, d->api->gemm_create(d->dev, &all[back][k],
                                                               &b->product[back][k]), "low_pass"));
    return FV_OK;
}

static fv_status band_prepare(fvi_exec *e)
{
    const int64_t *d = e->in[0].dim;
    band *b = fv_calloc(e->ctx, 1, sizeof *b);
    if (!b) return FV_ERR_OOM;
    e->state = b;
    *b = (band){ .planes = d[0] * d[3], .H = d[1], .W = d[2], .h = padded(d[1]),
                 .w = padded(d[2]) };
    FV_TRY(create_products(e, b));
    return send_table(e, b);
}

/* Two buffers, of lines [H, planes, w] and of the transform [h, planes, w]. */
static size_t lines_bytes(int64_t planes, int64_t H, int64_t w)
{
    return fvi_cuda_aligned((size_t)(planes * H * w) * sizeof(float));
}

static size_t band_scratch(const fvi_exec *e, bool backward)
{
    const int64_t *d = e->in[0].dim, planes = d[0] * d[3], w = padded(d[2]);
    (void)backward;
    return lines_bytes(planes, d[1], w) + lines_bytes(planes, padded(d[1]), w);
}

static fv_status multiply(fvi_exec *e, fvk_product *p, const float *x, const float *y, float *to)
{
    const fvi_cuda *d = fvi_cuda_of(e->ctx);
    return fvi_cuda_status(e->ctx, d->api->gemm_run(d->dev, p, x, y, NULL, to), "low_pass");
}

static fv_status band_run(fvi_exec *e, fvk_in from, fvk_out to, bool back)
{
    const band *b = e->state;
    const int64_t *d = e->in[0].dim, HH = b->H * b->h, WW = b->W * b->w;
    const float *Ph = b->table, *Qh = Ph + HH, *Pw = Qh + HH, *Qw = Pw + WW;
    fvk_product *const *p = b->product[back];
    float *lines = e->scratch;
    float *whole = (float *)(void *)((uint8_t *)e->scratch + lines_bytes(b->planes, b->H, b->w));
    fvk_band_turn_args t = { .x = from, .y = { whole, 0, 0 }, .B = d[0], .H = b->H, .W = b->W,
                             .C = d[3] };
    const fvk_band_mask_args m = { .z = whole, .m = Qw + WW, .h = b->h, .planes = b->planes,
                                   .w = b->w };
    const int64_t n = fv_tensor_count(&e->in[0]);
    FV_TRY(FVI_LAUNCH(e->ctx, band_turn, fvi_cuda_walk(n), &t));
    FV_TRY(multiply(e, p[ALONG_ROWS], whole, back ? Qw : Pw, lines));
    FV_TRY(multiply(e, p[DOWN], back ? Qh : Ph, lines, whole));
    FV_TRY(FVI_LAUNCH(e->ctx, band_mask, fvi_cuda_walk(b->h * b->planes * b->w), &m));
    FV_TRY(multiply(e, p[UP], back ? Ph : Qh, whole, lines));
    FV_TRY(multiply(e, p[BACK_ROWS], lines, back ? Pw : Qw, whole));
    t = (fvk_band_turn_args){ .x = { whole, 0 }, .y = to, .B = d[0], .H = b->H, .W = b->W,
                              .C = d[3], .is_back = 1 };
    return FVI_LAUNCH(e->ctx, band_turn, fvi_cuda_walk(n), &t);
}

static fv_status band_forward(fvi_exec *e)
{
    return band_run(e, fvi_cuda_in(&e->in[0]), fvi_cuda_out(&e->out[0], 0), false);
}

static fv_status band_backward(fvi_exec *e)
{
    if (!e->gin[0].data) return FV_OK;
    return band_run(e, fvi_cuda_in(&e->gout[0]), fvi_cuda_out(&e->gin[0], e->gin_add[0]), true);
}

const fvi_op_def fvi_cuda_low_pass = {
    .name = "low_pass", .scratch_bytes = band_scratch, .prepare = band_prepare,
    .release = band_release, .forward = band_forward, .backward = band_backward
};

/* ---- Losses that keep their gradient --------------------------------------------------------- */

fv_status fvi_cuda_total(fv_ctx *ctx, const double *part, int64_t n, double scale, float *y)
{
    const fvk_total_args a = { .part = part, .y = y, .n = n, .scale = scale };
    return FVI_LAUNCH(ctx, total, 1, &a);
}

fv_status fvi_cuda_kept_backward(fvi_exec *e, double parts)
{
    const fvk_kept_dx_args a = { .s = e->out[1].data, .dy = e->gout[0].data,
                                 .y = fvi_cuda_out(&e->gin[0], e->gin_add[0]),
                                 .n = fv_tensor_count(&e->in[0]), .scale = 1 / parts };
    if (!e->gin[0].data) return FV_OK;
    if (!a.s) return fv_fail(e->ctx, FV_ERR_STATE, "loss: backward needs a training forward");
    return FVI_LAUNCH(e->ctx, kept_dx, fvi_cuda_walk(a.n), &a);
}

/* ---- Spectral loss: in a, target; out loss[1], grad ------------------------------------------ */

static void spectrum_release(fv_ctx *ctx, void *state) { fv_dev_free(ctx, state); }

static fv_status spectrum_prepare(fvi_exec *e)
{
    const int P = e->attr->i[0];
    float wave[2 * FVK_PATCH];
    if (P > FVK_PATCH)
        return fv_fail(e->ctx, FV_ERR_UNSUPPORTED, "loss_spectrum: patches of %d on %s: at most %d "
                       "(use the CPU for larger ones)", P, e->ctx->backend->name, FVK_PATCH);
    for (int k = 0; k < P; k++) {
        wave[2 * k] = (float)cos(TAU * k / P);
        wave[2 * k + 1] = (float)-sin(TAU * k / P);
    }
    e->state = fv_dev_alloc(e->ctx, (size_t)(2 * P), sizeof *wave);
    if (!e->state) return FV_ERR_OOM;
    return fv_dev_copy(e->ctx, e->state, wave, (size_t)(2 * P) * sizeof *wave, FV_COPY_TO_DEVICE);
}

static int64_t patches_of(const fvi_exec *e)
{
    return fv_tensor_count(&e->in[0]) / ((int64_t)e->attr->i[0] * e->attr->i[0]);
}

static size_t spectrum_scratch(const fvi_exec *e, bool backward)
{
    return backward ? 0 : (size_t)patches_of(e) * sizeof(double);
}

static fv_status spectrum_forward(fvi_exec *e)
{
    const int64_t *d = e->in[0].dim, n = fv_tensor_count(&e->in[0]);
    /* Transforms there and back are P^2 times what is wanted, orthonormal ones P times. */
    const fvk_spectrum_args a = { .a = e->in[0].data, .target = e->in[1].data, .wave = e->state,
                                  .grad = e->out[1].data, .part = e->scratch, .H = d[1], .W = d[2],
                                  .C = d[3], .P = e->attr->i[0],
                                  .scale = (float)(1 / ((double)e->attr->i[0] * (double)n)) };
    FV_TRY(FVI_LAUNCH(e->ctx, spectrum, patches_of(e), &a));
    return fvi_cuda_total(e->ctx, a.part, patches_of(e), 1 / (double)n, e->out[0].data);
}

static fv_status spectrum_backward(fvi_exec *e) { return fvi_cuda_kept_backward(e, 1); }

const fvi_op_def fvi_cuda_loss_spectrum = {
    .name = "loss_spectrum", .bwd_reads_out = 2, .scratch_bytes = spectrum_scratch,
    .prepare = spectrum_prepare, .release = spectrum_release, .forward = spectrum_forward,
    .backward = spectrum_backward
};
