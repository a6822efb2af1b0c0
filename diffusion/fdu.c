/* fdu.c - frequency-domain update: the base picture keeps its low frequencies and its colours, and
 * takes as much of the draft's high frequencies as the draft has more of [PS-SR, Wu et al. 2026].
 *
 *     Y = luma, l = low-pass of Y, h = Y - l           of base c and draft d
 *     w = |h_d| / (|h_d| + |h_c| + 1e-6)
 *     m = w h_d + (1 - w) h_c
 *     lerp   Y' = Y_c + alpha (m - h_c) = Y_c + alpha w (h_d - h_c)
 *     lock   as lerp, its change multiplied in frequency by M(r): nothing below lock_low
 *     ref    Y' = l_c + alpha m, as the official program computes it
 *     gain   Y' = Y_c + alpha (g - 1) h_c,  g = min(sqrt((B h_d^2 + e) / (B h_c^2 + e)), 6), where B
 *            blurs by (1 8 28 56 70 56 28 8 1) / 256 along both sides and e = 1e-6
 *     RGB' = RGB_c + (Y' - Y_c), clamped
 * The last line is exact where the official matrices to YUV and back are inverse to 2e-5 only.
 *
 * The low-pass is a Butterworth filter H = 1 / (1 + (r / cutoff)^(2 order)), r in cycles a pixel.
 * Both luma planes are filtered by one complex transform, Y_c + i Y_d: H is real, and even after
 * H_s(k) = (H(k) + H(-k)) / 2, which is what taking the real part of the filtered plane does. The
 * grid of frequencies is the true one, but for ref: there it is linspace(-0.5, 0.5, n) over the
 * shifted spectrum, so that even sizes put the constant off the centre.
 *
 * lerp, lock and gain work on a plane reflected by 16 pixels and more, up to the next fast length;
 * ref on the picture itself, which wraps around, and leaves the outer 2 pixels alone.
 *
 * gain is ours. The others take the draft's pixels, and a small draft has no good ones: where detail
 * is to be made up it repeats a pattern of the input's grid. gain takes of the draft only how much
 * detail a place has, and of the base which: what is there grows or shrinks by a factor that changes
 * slowly, so that no pattern can arise, and detail moves with the base's. What the base does not show
 * at all it cannot make up. */
#include "fovea_diffusion.h"

#include <math.h>
#include <string.h>

#include "band_filter.h"
#include "engine.h"
#include "fdu.h"

#define REF_BORDER 2
#define LARGEST_SIDE (1 << 16)
#define REACH 4 /* of the blur B */

static const float blur_taps[2 * REACH + 1] = {
    1 / 256.0f, 8 / 256.0f, 28 / 256.0f, 56 / 256.0f, 70 / 256.0f, 56 / 256.0f, 28 / 256.0f,
    8 / 256.0f, 1 / 256.0f,
};

struct fv_fdu {
    fv_ctx *ctx;
    fv_fdu_options o;
    int width, height; /* of pictures */
    int pad_width, pad_height, margin;
    fvi_fft2 *fft;
    float *plane;          /* [pad_height, pad_width, 2] */
    float *energy;         /* the same, gain alone */
    double *u[2], *v[2];   /* squared frequency of a row, a column; of its mirror image */
};

static const char *const mode_names[] = { "lerp", "lock", "ref", "off", "gain" };

const char *fv_fdu_name(fv_fdu_mode mode)
{
    return (int)mode >= 0 && (int)mode < FV_FDU_COUNT ? mode_names[mode] : NULL;
}

int fv_fdu_find(const char *name, fv_fdu_mode *out)
{
    for (size_t i = 0; name && i < FV_ARRAY_LEN(mode_names); i++)
        if (strcmp(name, mode_names[i]) == 0) {
            *out = (fv_fdu_mode)i;
            return 1;
        }
    return 0;
}

/* ---- Making ---------------------------------------------------------------------------------- */

static double frequency(int k, int n, bool is_ref)
{
    if (is_ref) return n > 1 ? -0.5 + (double)((k + n / 2) % n) / (n - 1) : -0.5;
    return fvi_band_frequency(k, n);
}

static void fill_frequencies(double *at, double *mirrored, int n, bool is_ref)
{
    for (int k = 0; k < n; k++) {
        const double f = frequency(k, n, is_ref), g = frequency((n - k) % n, n, is_ref);
        at[k] = f * f;
        mirrored[k] = g * g;
    }
}

static fv_status check_options(fv_ctx *ctx, const fv_fdu_options *o, int width, int height)
{
    if (width < 1 || height < 1 || width > LARGEST_SIDE || height > LARGEST_SIDE)
        return fv_fail(ctx, FV_ERR_ARG, "fdu: a picture of %d x %d; sides are 1 to %d", width,
                       height, LARGEST_SIDE);
    if ((int)o->mode < 0 || (int)o->mode >= FV_FDU_COUNT)
        return fv_fail(ctx, FV_ERR_ARG, "fdu: no mode %d", (int)o->mode);
    if (!(o->alpha >= 0 && o->alpha <= 2))
        return fv_fail(ctx, FV_ERR_ARG, "fdu: alpha is %g; it must be 0 to 2", (double)o->alpha);
    if (!(o->cutoff > 0 && o->cutoff <= 1) || o->order < 1 || o->order > 8)
        return fv_fail(ctx, FV_ERR_ARG, "fdu: a filter of order %d at %g cycles a pixel; order "
                       "is 1 to 8, and the cutoff above 0, at most 1", o->order, (double)o->cutoff);
    if (!(o->lock_low >= 0 && o->lock_high > o->lock_low && o->lock_high <= 1))
        return fv_fail(ctx, FV_ERR_ARG, "fdu: lock from %g to %g; 0 <= low < high <= 1",
                       (double)o->lock_low, (double)o->lock_high);
    return FV_OK;
}

static fv_status make_plane(fv_fdu *f)
{
    const bool is_ref = f->o.mode == FV_FDU_REF;
    fv_ctx *ctx = f->ctx;
    size_t n = 0;
    f->margin = is_ref ? 0 : FVI_BAND_MARGIN;
    f->pad_width = is_ref ? f->width : fvi_fft_size(f->width + 2 * FVI_BAND_MARGIN);
    f->pad_height = is_ref ? f->height : fvi_fft_size(f->height + 2 * FVI_BAND_MARGIN);
    if (!fv_mul_size((size_t)f->pad_width, (size_t)f->pad_height, &n) ||
        !fv_mul_size(n, 2 * sizeof(float), &n))
        return fv_fail(ctx, FV_ERR_OOM, "fdu: %d x %d is too large", f->width, f->height);
    FV_TRY(fvi_fft2_create(ctx, &f->fft, f->pad_height, f->pad_width));
    f->plane = fv_alloc(ctx, n);
    f->energy = f->o.mode == FV_FDU_GAIN ? fv_alloc(ctx, n) : NULL;
    if (!f->plane || (f->o.mode == FV_FDU_GAIN && !f->energy)) return FV_ERR_OOM;
    for (int k = 0; k < 2; k++) {
        f->u[k] = fv_alloc(ctx, (size_t)f->pad_height * sizeof(double));
        f->v[k] = fv_alloc(ctx, (size_t)f->pad_width * sizeof(double));
        if (!f->u[k] || !f->v[k]) return FV_ERR_OOM;
    }
    fill_frequencies(f->u[0], f->u[1], f->pad_height, is_ref);
    fill_frequencies(f->v[0], f->v[1], f->pad_width, is_ref);
    return FV_OK;
}

fv_status fv_fdu_create(fv_ctx *ctx, fv_fdu **out, int width, int height,
                        const fv_fdu_options *opts)
{
    fv_fdu_options o = FV_FDU_OPTIONS_INIT;
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "fdu: no place for the result");
    *out = NULL;
    FV_TRY(FV_TAKE_OPTIONS(ctx, &o, opts, "fdu"));
    FV_TRY(check_options(ctx, &o, width, height));
    fv_fdu *f = fv_calloc(ctx, 1, sizeof *f);
    if (!f) return FV_ERR_OOM;
    f->ctx = ctx;
    f->o = o;
    f->width = width;
    f->height = height;
    const fv_status s = o.mode == FV_FDU_OFF ? FV_OK : make_plane(f);
    if (s == FV_OK) *out = f;
    else fv_fdu_close(&f);
    return s;
}

void fv_fdu_close(fv_fdu **f)
{
    if (!f || !*f) return;
    fv_ctx *ctx = (*f)->ctx;
    fvi_fft2_free(&(*f)->fft);
    fv_free(ctx, (*f)->plane);
    fv_free(ctx, (*f)->energy);
    for (int k = 0; k < 2; k++) {
        fv_free(ctx, (*f)->u[k]);
        fv_free(ctx, (*f)->v[k]);
    }
    fv_free(ctx, *f);
    *f = NULL;
}

/* ---- Running --------------------------------------------------------------------------------- */

static float luma(const float *rgb)
{
    return 0.299f * rgb[0] + 0.587f * rgb[1] + 0.114f * rgb[2];
}

/* Pixel of the picture under (x, y) of the padded plane. */
static size_t under(const fv_fdu *f, int x, int y)
{
    const int i = fvi_reflect(x - f->margin, f->width), j = fvi_reflect(y - f->margin, f->height);
    return 3 * ((size_t)j * (size_t)f->width + (size_t)i);
}

static double butterworth(const fv_fdu *f, double r2)
{
    return fvi_butterworth(r2, f->o.cutoff, f->o.order);
}

static double lock_mask(const fv_fdu *f, double r2)
{
    const double low = f->o.lock_low, high = f->o.lock_high;
    if (r2 <= low * low) return 0;
    if (r2 >= high * high) return 1;
    return 0.5 - 0.5 * cos(acos(-1.0) * (sqrt(r2) - low) / (high - low));
}

/* plane <- inverse FFT of (filter * FFT of plane) */
static void filter_plane(fv_fdu *f, bool is_lock)
{
    fvi_fft2_run(f->fft, f->plane, false);
#pragma omp parallel for num_threads(fv_ctx_threads(f->ctx)) schedule(static)
    for (int y = 0; y < f->pad_height; y++) {
        float *row = f->plane + 2 * (size_t)y * (size_t)f->pad_width;
        for (int x = 0; x < f->pad_width; x++) {
            const double r2 = f->u[0][y] + f->v[0][x], mirrored = f->u[1][y] + f->v[1][x];
            const double h = is_lock ? lock_mask(f, r2) :
                                       0.5 * (butterworth(f, r2) + butterworth(f, mirrored));
            row[2 * x] = (float)(row[2 * x] * h);
            row[2 * x + 1] = (float)(row[2 * x + 1] * h);
        }
    }
    fvi_fft2_run(f->fft, f->plane, true);
}

static void load_luma(fv_fdu *f, const float *base, const float *draft)
{
#pragma omp parallel for num_threads(fv_ctx_threads(f->ctx)) schedule(static)
    for (int y = 0; y < f->pad_height; y++) {
        float *row = f->plane + 2 * (size_t)y * (size_t)f->pad_width;
        for (int x = 0; x < f->pad_width; x++) {
            const size_t at = under(f, x, y);
            row[2 * x] = luma(base + at);
            row[2 * x + 1] = luma(draft + at);
        }
    }
}

/* Change of the luma at a pixel, from its low-passed pair. */
static float change(const fv_fdu *f, const float low[2], const float *base, const float *draft)
{
    const float hc = luma(base) - low[0], hd = luma(draft) - low[1];
    const float w = fabsf(hd) / (fabsf(hd) + fabsf(hc) + 1e-6f);
    if (f->o.mode == FV_FDU_REF) return f->o.alpha * (w * hd + (1 - w) * hc) - hc;
    return f->o.alpha * w * (hd - hc);
}

/* The low-passed pairs become changes. */
static void make_changes(fv_fdu *f, const float *base, const float *draft)
{
#pragma omp parallel for num_threads(fv_ctx_threads(f->ctx)) schedule(static)
    for (int y = 0; y < f->pad_height; y++) {
        float *row = f->plane + 2 * (size_t)y * (size_t)f->pad_width;
        for (int x = 0; x < f->pad_width; x++) {
            const size_t at = under(f, x, y);
            row[2 * x] = change(f, row + 2 * x, base + at, draft + at);
            row[2 * x + 1] = 0;
        }
    }
}

/* ---- gain ------------------------------------------------------------------------------------ */

/* The low-passed pairs become what is left of the lumas above them. */
static void make_high(fv_fdu *f, const float *base, const float *draft)
{
#pragma omp parallel for num_threads(fv_ctx_threads(f->ctx)) schedule(static)
    for (int y = 0; y < f->pad_height; y++) {
        float *row = f->plane + 2 * (size_t)y * (size_t)f->pad_width;
        for (int x = 0; x < f->pad_width; x++) {
            const size_t at = under(f, x, y);
            row[2 * x] = luma(base + at) - row[2 * x];
            row[2 * x + 1] = luma(draft + at) - row[2 * x + 1];
        }
    }
}

/* energy <- squares of the plane, blurred along columns, in rows that the picture covers. */
static void blur_down(fv_fdu *f)
{
    const size_t line = 2 * (size_t)f->pad_width;
#pragma omp parallel for num_threads(fv_ctx_threads(f->ctx)) schedule(static)
    for (int y = f->margin; y < f->margin + f->height; y++) {
        float *sum = f->energy + (size_t)y * line;
        memset(sum, 0, line * sizeof *sum);
        for (int k = -REACH; k <= REACH; k++) {
            const float *row = f->plane + (size_t)(y + k) * line, tap = blur_taps[REACH + k];
            for (size_t i = 0; i < line; i++) sum[i] += tap * (row[i] * row[i]);
        }
    }
}

/* plane <- changes, of the energies blurred along rows. */
static void make_gains(fv_fdu *f)
{
    const size_t line = 2 * (size_t)f->pad_width;
#pragma omp parallel for num_threads(fv_ctx_threads(f->ctx)) schedule(static)
    for (int y = f->margin; y < f->margin + f->height; y++) {
        const float *energy = f->energy + (size_t)y * line;
        float *row = f->plane + (size_t)y * line;
        for (int x = f->margin; x < f->margin + f->width; x++) {
            float c = FV_FDU_FLOOR, d = FV_FDU_FLOOR;
            for (int k = -REACH; k <= REACH; k++) {
                c += blur_taps[REACH + k] * energy[2 * (x + k)];
                d += blur_taps[REACH + k] * energy[2 * (x + k) + 1];
            }
            const float g = sqrtf(d / c);
            row[2 * x] *= f->o.alpha * ((g > FV_FDU_MOST_GAIN ? FV_FDU_MOST_GAIN : g) - 1);
        }
    }
}

/* ---- Result ---------------------------------------------------------------------------------- */

static bool is_kept(const fv_fdu *f, int x, int y)
{
    if (f->o.mode != FV_FDU_REF) return false;
    return f->width <= 2 * REF_BORDER || f->height <= 2 * REF_BORDER || x < REF_BORDER ||
           y < REF_BORDER || x >= f->width - REF_BORDER || y >= f->height - REF_BORDER;
}

/* Adds the changes; false: a pixel is not finite. */
static bool add_changes(const fv_fdu *f, const float *base, float *out)
{
    int bad = 0;
#pragma omp parallel for num_threads(fv_ctx_threads(f->ctx)) schedule(static) reduction(| : bad)
    for (int y = 0; y < f->height; y++) {
        const size_t first = (size_t)y * (size_t)f->width;
        const float *row = f->plane + 2 * ((size_t)(y + f->margin) * (size_t)f->pad_width +
                                           (size_t)f->margin);
        for (int x = 0; x < f->width; x++) {
            const float d = is_kept(f, x, y) ? 0 : row[2 * x];
            for (int c = 0; c < 3; c++) {
                const float v = base[3 * (first + (size_t)x) + (size_t)c] + d;
                if (!isfinite(v)) bad = 1;
                out[3 * (first + (size_t)x) + (size_t)c] = fv_clamp_unit(v);
            }
        }
    }
    return !bad;
}

/* off, or alpha 0 where that is the base: the picture alone */
static fv_status copy_picture(const fv_fdu *f, const float *from, float *out)
{
    const size_t n = 3 * (size_t)f->width * (size_t)f->height;
    bool is_finite = true;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(from[i])) is_finite = false;
        out[i] = fv_clamp_unit(from[i]);
    }
    return is_finite ? FV_OK : fv_fail(f->ctx, FV_ERR_NUMERIC, "fdu: the picture is not finite");
}

fv_status fv_fdu_run(fv_fdu *f, const float *base, const float *draft, float *out)
{
    if (!f) return FV_ERR_ARG;
    if (!base || !draft || !out)
        return fv_fail(f->ctx, FV_ERR_ARG, "fdu: a picture is missing");
    if (f->o.mode == FV_FDU_OFF) return copy_picture(f, draft, out);
    if (f->o.mode != FV_FDU_REF && f->o.alpha == 0) return copy_picture(f, base, out);
    load_luma(f, base, draft);
    filter_plane(f, false);
    if (f->o.mode == FV_FDU_GAIN) {
        make_high(f, base, draft);
        blur_down(f);
        make_gains(f);
    } else {
        make_changes(f, base, draft);
    }
    if (f->o.mode == FV_FDU_LOCK) filter_plane(f, true);
    if (!add_changes(f, base, out))
        return fv_fail(f->ctx, FV_ERR_NUMERIC, "fdu: base or draft is not finite; compute it again "
                       "in f32");
    return FV_OK;
}
