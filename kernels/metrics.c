/* metrics.c - PSNR, SSIM, MS-SSIM and GMSD between two pictures.
 *
 * All but PSNR see luma, Y = 0.299 R + 0.587 G + 0.114 B, in double on a scale of 0..255 (16-bit
 * values are divided by 257).
 *
 * SSIM [Wang, Bovik, Sheikh, Simoncelli 2004], windows that lie inside the picture only:
 *     l = (2 ma mb + C1) / (ma^2 + mb^2 + C1)     cs = (2 sab + C2) / (saa + sbb + C2)
 *     SSIM = mean(l cs), C1 = (0.01 * 255)^2, C2 = (0.03 * 255)^2
 * MS-SSIM [Wang, Simoncelli, Bovik 2003]: prod_{j<5} mean(cs_j)^w_j * mean(l cs)_5^w_5, scales made
 * by 2x2 means. A negative mean(cs) has no real power: it counts as 0.
 * GMSD [Xue, Zhang, Mou, Bovik 2014]: 2x2 means, Prewitt gradients g, q = (2 ga gb + T) /
 * (ga^2 + gb^2 + T) with T = 170, the standard deviation of q over the picture. As in the authors'
 * program there are zeros around the picture and the deviation divides by N - 1.
 *
 * Rows are cut into the same lanes for any thread count, so results do not depend on it. */
#include "cpu_ops.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#define WINDOW 11
#define SCALES 5
#define MS_SSIM_SIDE 176 /* 11 << 4 */

typedef struct plane { double *v; int width, height; } plane;

static fv_status check_pair(fv_ctx *ctx, const char *what, const fv_image *a, const fv_image *b,
                            int min_side)
{
    if (!a || !b || !a->pixels || !b->pixels)
        return fv_fail(ctx, FV_ERR_ARG, "%s: no picture", what);
    if (a->width != b->width || a->height != b->height || a->channels != b->channels ||
        a->depth != b->depth)
        return fv_fail(ctx, FV_ERR_SHAPE,
                       "%s: pictures differ in form: %dx%d, %d channels of %d bits "
                       "against %dx%d, %d of %d",
                       what, a->width, a->height, a->channels, a->depth, b->width, b->height,
                       b->channels, b->depth);
    if (a->channels < 1 || a->channels > 4 || (a->depth != 8 && a->depth != 16))
        return fv_fail(ctx, FV_ERR_ARG, "%s: %d channels of %d bits", what, a->channels, a->depth);
    if (a->width < min_side || a->height < min_side)
        return fv_fail(ctx, FV_ERR_ARG, "%s: %dx%d pixels are too few, both sides need %d", what,
                       a->width, a->height, min_side);
    return FV_OK;
}

static const uint8_t *row_of(const fv_image *img, int y)
{
    return (const uint8_t *)img->pixels + (size_t)y * img->stride_bytes;
}

/* Sample i of a row. */
FV_INLINE uint32_t sample(const uint8_t *row, int depth, size_t i)
{
    if (depth == 8) return row[i];
    uint16_t v;
    memcpy(&v, row + 2 * i, 2);
    return v;
}

fv_status fv_psnr(fv_ctx *ctx, const fv_image *a, const fv_image *b, double *db)
{
    if (!db) return fv_fail(ctx, FV_ERR_ARG, "psnr: no place for the result");
    *db = 0;
    FV_TRY(check_pair(ctx, "psnr", a, b, 1));
    const int colours = a->channels < 3 ? 1 : 3;
    double lanes[FVI_LANES] = { 0 };
#pragma omp parallel for num_threads(ctx->threads)
    for (int lane = 0; lane < FVI_LANES; lane++) {
        int64_t y, end;
        fvi_lane(a->height, lane, &y, &end);
        for (; y < end; y++) {
            const uint8_t *ra = row_of(a, (int)y), *rb = row_of(b, (int)y);
            uint64_t sum = 0; /* 2^31 pixels * 3 * 2^32 fits */
            for (int x = 0; x < a->width; x++)
                for (int c = 0; c < colours; c++) {
                    const size_t i = (size_t)x * (size_t)a->channels + (size_t)c;
                    const int64_t d = (int64_t)sample(ra, a->depth, i) - sample(rb, a->depth, i);
                    sum += (uint64_t)(d * d);
                }
            lanes[lane] += (double)sum;
        }
    }
    double sum = 0;
    for (int i = 0; i < FVI_LANES; i++) sum += lanes[i];
    const double peak = a->depth == 8 ? 255 : 65535;
    const double mse = sum / ((double)a->width * a->height * colours);
    *db = mse > 0 ? 10 * log10(peak * peak / mse) : (double)INFINITY;
    return FV_OK;
}

/* ---- Planes ---------------------------------------------------------------------------------- */

static fv_status new_plane(fv_ctx *ctx, plane *p, int width, int height)
{
    size_t n;
    p->width = width;
    p->height = height;
    if (!fv_mul_size((size_t)width, (size_t)height, &n))
        return fv_fail(ctx, FV_ERR_OOM, "picture of %dx%d is too large", width, height);
    p->v = fv_calloc(ctx, n, sizeof *p->v);
    return p->v ? FV_OK : FV_ERR_OOM;
}

static void drop_plane(fv_ctx *ctx, plane *p)
{
    fv_free(ctx, p->v);
    p->v = NULL;
}

static double *plane_row(const plane *p, int64_t y) { return p->v + (size_t)y * (size_t)p->width; }

static fv_status luma(fv_ctx *ctx, plane *p, const fv_image *img)
{
    FV_TRY(new_plane(ctx, p, img->width, img->height));
    const double unit = img->depth == 8 ? 1.0 : 1.0 / 257.0;
    const bool is_grey = img->channels < 3;
#pragma omp parallel for num_threads(ctx->threads)
    for (int y = 0; y < img->height; y++) {
        const uint8_t *row = row_of(img, y);
        double *dst = plane_row(p, y);
        for (int x = 0; x < img->width; x++) {
            const size_t i = (size_t)x * (size_t)img->channels;
            if (is_grey)
                dst[x] = unit * sample(row, img->depth, i);
            else
                dst[x] = unit * (0.299 * sample(row, img->depth, i) +
                                 0.587 * sample(row, img->depth, i + 1) +
                                 0.114 * sample(row, img->depth, i + 2));
        }
    }
    return FV_OK;
}

/* dst(x, y) = mean of src at 2x, 2x+1 and 2y, 2y+1; beyond the border: the border again (MS-SSIM)
 * or zero (GMSD). */
static fv_status halve(fv_ctx *ctx, plane *dst, const plane *src, bool zero_outside)
{
    FV_TRY(new_plane(ctx, dst, (src->width + 1) / 2, (src->height + 1) / 2));
#pragma omp parallel for num_threads(ctx->threads)
    for (int y = 0; y < dst->height; y++) {
        const bool has_y = 2 * y + 1 < src->height;
        const double *r0 = plane_row(src, 2 * y), *r1 = plane_row(src, has_y ? 2 * y + 1 : 2 * y);
        double *out = plane_row(dst, y);
        for (int x = 0; x < dst->width; x++) {
            const bool has_x = 2 * x + 1 < src->width;
            const int x1 = has_x ? 2 * x + 1 : 2 * x;
            const double wx = has_x || !zero_outside, wy = has_y || !zero_outside;
            out[x] = 0.25 * (r0[2 * x] + wx * r0[x1] + wy * (r1[2 * x] + wx * r1[x1]));
        }
    }
    return FV_OK;
}

static fv_status halve_in_place(fv_ctx *ctx, plane *p)
{
    plane half = { 0 };
    FV_TRY(halve(ctx, &half, p, false));
    drop_plane(ctx, p);
    *p = half;
    return FV_OK;
}

static fv_status luma_pair(fv_ctx *ctx, plane p[2], const fv_image *a, const fv_image *b)
{
    const fv_status s = luma(ctx, &p[0], a);
    return s == FV_OK ? luma(ctx, &p[1], b) : s;
}

/* ---- SSIM ------------------------------------------------------------------------------------ */

typedef struct ssim_sums { double ssim, cs; } ssim_sums;

static void make_window(double w[WINDOW])
{
    double sum = 0;
    for (int i = 0; i < WINDOW; i++) {
        const double d = i - WINDOW / 2;
        w[i] = exp(-d * d / (2 * 1.5 * 1.5));
        sum += w[i];
    }
    for (int i = 0; i < WINDOW; i++) w[i] /= sum;
}

/* One row of windows with top row y. columns: 5 * width of work space. */
static ssim_sums ssim_row(const plane p[2], int64_t y, const double w[WINDOW], double *columns)
{
    const int n = p[0].width;
    double *ma = columns, *mb = ma + n, *aa = mb + n, *bb = aa + n, *ab = bb + n;
    memset(columns, 0, 5 * (size_t)n * sizeof *columns);
    for (int k = 0; k < WINDOW; k++) {
        const double *ra = plane_row(&p[0], y + k), *rb = plane_row(&p[1], y + k);
        for (int x = 0; x < n; x++) {
            const double a = ra[x], b = rb[x], wa = w[k] * a, wb = w[k] * b;
            ma[x] += wa;
            mb[x] += wb;
            aa[x] += wa * a;
            bb[x] += wb * b;
            ab[x] += wa * b;
        }
    }
    const double c1 = 0.01 * 255 * 0.01 * 255, c2 = 0.03 * 255 * 0.03 * 255;
    ssim_sums s = { 0, 0 };
    for (int x = 0; x + WINDOW <= n; x++) {
        double ua = 0, ub = 0, saa = 0, sbb = 0, sab = 0;
        for (int k = 0; k < WINDOW; k++) {
            ua += w[k] * ma[x + k];
            ub += w[k] * mb[x + k];
            saa += w[k] * aa[x + k];
            sbb += w[k] * bb[x + k];
            sab += w[k] * ab[x + k];
        }
        saa -= ua * ua;
        sbb -= ub * ub;
        sab -= ua * ub;
        const double cs = (2 * sab + c2) / (saa + sbb + c2);
        s.cs += cs;
        s.ssim += cs * (2 * ua * ub + c1) / (ua * ua + ub * ub + c1);
    }
    return s;
}

/* Means over all windows. */
static fv_status ssim_means(fv_ctx *ctx, const plane p[2], ssim_sums *out)
{
    const int rows = p[0].height - WINDOW + 1;
    const size_t n = 5 * (size_t)p[0].width;
    double w[WINDOW];
    make_window(w);
    ssim_sums lanes[FVI_LANES] = { { 0, 0 } };
    double *work = fv_calloc(ctx, FVI_LANES * n, sizeof *work);
    if (!work) return FV_ERR_OOM;
#pragma omp parallel for num_threads(ctx->threads)
    for (int lane = 0; lane < FVI_LANES; lane++) {
        int64_t y, end;
        fvi_lane(rows, lane, &y, &end);
        for (; y < end; y++) {
            const ssim_sums s = ssim_row(p, y, w, work + (size_t)lane * n);
            lanes[lane].ssim += s.ssim;
            lanes[lane].cs += s.cs;
        }
    }
    fv_free(ctx, work);
    const double count = (double)rows * (p[0].width - WINDOW + 1);
    *out = (ssim_sums){ 0, 0 };
    for (int i = 0; i < FVI_LANES; i++) {
        out->ssim += lanes[i].ssim;
        out->cs += lanes[i].cs;
    }
    out->ssim /= count;
    out->cs /= count;
    return FV_OK;
}

fv_status fv_ssim(fv_ctx *ctx, const fv_image *a, const fv_image *b, double *ssim)
{
    if (!ssim) return fv_fail(ctx, FV_ERR_ARG, "ssim: no place for the result");
    *ssim = 0;
    FV_TRY(check_pair(ctx, "ssim", a, b, WINDOW));
    plane p[2] = { { 0 } };
    ssim_sums m;
    fv_status s = luma_pair(ctx, p, a, b);
    if (s == FV_OK) s = ssim_means(ctx, p, &m);
    if (s == FV_OK) *ssim = m.ssim;
    drop_plane(ctx, &p[0]);
    drop_plane(ctx, &p[1]);
    return s;
}

fv_status fv_ms_ssim(fv_ctx *ctx, const fv_image *a, const fv_image *b, double *ms_ssim)
{
    static const double weight[SCALES] = { 0.0448, 0.2856, 0.3001, 0.2363, 0.1333 };
    if (!ms_ssim) return fv_fail(ctx, FV_ERR_ARG, "ms_ssim: no place for the result");
    *ms_ssim = 0;
    FV_TRY(check_pair(ctx, "ms_ssim", a, b, MS_SSIM_SIDE));
    plane p[2] = { { 0 } };
    double product = 1;
    fv_status s = luma_pair(ctx, p, a, b);
    for (int j = 0; s == FV_OK && j < SCALES; j++) {
        ssim_sums m;
        for (int k = 0; k < 2 && j > 0 && s == FV_OK; k++) s = halve_in_place(ctx, &p[k]);
        if (s == FV_OK) s = ssim_means(ctx, p, &m);
        if (s != FV_OK) break;
        const double v = j == SCALES - 1 ? m.ssim : m.cs;
        product *= v > 0 ? pow(v, weight[j]) : 0;
    }
    if (s == FV_OK) *ms_ssim = product;
    drop_plane(ctx, &p[0]);
    drop_plane(ctx, &p[1]);
    return s;
}

/* ---- GMSD ------------------------------------------------------------------------------------ */

/* Prewitt gradient magnitude at (x, y), zeros outside. */
static double gradient(const plane *p, int x, int64_t y)
{
    double v[3][3];
    for (int j = 0; j < 3; j++)
        for (int i = 0; i < 3; i++) {
            const int64_t xx = x + i - 1, yy = y + j - 1;
            const bool is_inside = xx >= 0 && yy >= 0 && xx < p->width && yy < p->height;
            v[j][i] = is_inside ? plane_row(p, yy)[xx] : 0;
        }
    const double dx = (v[0][0] + v[1][0] + v[2][0] - v[0][2] - v[1][2] - v[2][2]) / 3;
    const double dy = (v[0][0] + v[0][1] + v[0][2] - v[2][0] - v[2][1] - v[2][2]) / 3;
    return sqrt(dx * dx + dy * dy);
}

/* Mean and, in a second pass, the spread around it: q is near 1 everywhere for good pictures, where
 * mean(q^2) - mean(q)^2 would cancel. q replaces the first plane. */
static double similarity_deviation(fv_ctx *ctx, const plane *a, const plane *b, plane *q)
{
    const double t = 170, n = (double)a->width * a->height;
    double sums[FVI_LANES] = { 0 }, squares[FVI_LANES] = { 0 }, mean = 0, spread = 0;
#pragma omp parallel for num_threads(ctx->threads)
    for (int lane = 0; lane < FVI_LANES; lane++) {
        int64_t y, end;
        fvi_lane(a->height, lane, &y, &end);
        for (; y < end; y++)
            for (int x = 0; x < a->width; x++) {
                const double ga = gradient(a, x, y), gb = gradient(b, x, y);
                const double v = (2 * ga * gb + t) / (ga * ga + gb * gb + t);
                plane_row(q, y)[x] = v;
                sums[lane] += v;
            }
    }
    for (int i = 0; i < FVI_LANES; i++) mean += sums[i];
    mean /= n;
#pragma omp parallel for num_threads(ctx->threads)
    for (int lane = 0; lane < FVI_LANES; lane++) {
        int64_t y, end;
        fvi_lane(a->height, lane, &y, &end);
        for (; y < end; y++)
            for (int x = 0; x < a->width; x++) {
                const double d = plane_row(q, y)[x] - mean;
                squares[lane] += d * d;
            }
    }
    for (int i = 0; i < FVI_LANES; i++) spread += squares[i];
    return sqrt(spread / (n - 1));
}

fv_status fv_gmsd(fv_ctx *ctx, const fv_image *a, const fv_image *b, double *gmsd)
{
    if (!gmsd) return fv_fail(ctx, FV_ERR_ARG, "gmsd: no place for the result");
    *gmsd = 0;
    FV_TRY(check_pair(ctx, "gmsd", a, b, 3));
    plane p[2] = { { 0 } }, half[2] = { { 0 } }, q = { 0 };
    fv_status s = luma_pair(ctx, p, a, b);
    for (int k = 0; k < 2 && s == FV_OK; k++) {
        s = halve(ctx, &half[k], &p[k], true);
        drop_plane(ctx, &p[k]);
    }
    if (s == FV_OK) s = new_plane(ctx, &q, half[0].width, half[0].height);
    if (s == FV_OK) *gmsd = similarity_deviation(ctx, &half[0], &half[1], &q);
    for (int k = 0; k < 2; k++) {
        drop_plane(ctx, &p[k]);
        drop_plane(ctx, &half[k]);
    }
    drop_plane(ctx, &q);
    return s;
}

/* ---- Texture --------------------------------------------------------------------------------- */

#define TEXTURE_SCALES 4
#define TEXTURE_SIDE 72  /* 9 << 3 */
#define TEXTURE_TILE 128 /* pieces of at least this: work memory does not grow with the picture */

typedef struct texture_tile { int x, y, w, h; } texture_tile;

/* Piece `i` of pieces_x * pieces_y nearly equal ones. */
static texture_tile tile_of(const fv_image *img, int i, int pieces_x, int pieces_y)
{
    const int64_t px = i % pieces_x, py = i / pieces_x;
    const int x = (int)(px * img->width / pieces_x), y = (int)(py * img->height / pieces_y);
    const texture_tile t = { x, y, (int)((px + 1) * img->width / pieces_x) - x,
                             (int)((py + 1) * img->height / pieces_y) - y };
    return t;
}

/* Pixels of a tile as [h, w, 3] in [-1, 1]. */
static void tile_floats(float *rgb, const fv_image *img, const texture_tile *t)
{
    const float unit = 2.0f / (img->depth == 8 ? 255.0f : 65535.0f);
    const bool is_grey = img->channels < 3;
    for (int y = 0; y < t->h; y++)
        for (int x = 0; x < t->w; x++) {
            const size_t at = (size_t)(t->x + x) * (size_t)img->channels;
            for (size_t c = 0; c < 3; c++)
                *rgb++ = unit * (float)sample(row_of(img, t->y + y), img->depth,
                                              at + (is_grey ? 0 : c)) - 1.0f;
        }
}

/* Mean over tiles by area. work: per thread, two pictures and their work space. */
static double texture_tiles(fv_ctx *ctx, const fv_image *a, const fv_image *b, float *work,
                            size_t floats)
{
    const int nx = a->width < 2 * TEXTURE_TILE ? 1 : a->width / TEXTURE_TILE;
    const int ny = a->height < 2 * TEXTURE_TILE ? 1 : a->height / TEXTURE_TILE;
    const size_t side = 2 * TEXTURE_TILE, rgb = 3 * side * side;
    double total = 0;
    for (int first = 0; first < nx * ny; first += FVI_LANES) {
        double part[FVI_LANES] = { 0 };
        const int end = nx * ny - first < FVI_LANES ? nx * ny - first : FVI_LANES;
#pragma omp parallel for schedule(dynamic, 1) num_threads(ctx->threads)
        for (int i = 0; i < end; i++) {
            const texture_tile t = tile_of(a, first + i, nx, ny);
            float *x = work + (size_t)omp_get_thread_num() * floats, *y = x + rgb;
            tile_floats(x, a, &t);
            tile_floats(y, b, &t);
            const fvi_picture_pair p = { x, y, NULL, y + rgb, t.w, t.h, TEXTURE_SCALES };
            part[i] = ctx->cpu_ops->picture.texture(&p) * t.w * t.h;
        }
        for (int i = 0; i < end; i++) total += part[i];
    }
    return total / ((double)a->width * a->height);
}

fv_status fv_texture(fv_ctx *ctx, const fv_image *a, const fv_image *b, double *distance)
{
    if (!distance) return fv_fail(ctx, FV_ERR_ARG, "texture: no place for the result");
    *distance = 0;
    FV_TRY(check_pair(ctx, "texture", a, b, TEXTURE_SIDE));
    const size_t side = 2 * TEXTURE_TILE;
    const size_t floats = 6 * side * side + fvi_texture_floats((int)side, (int)side);
    float *work = fv_calloc(ctx, (size_t)ctx->threads * floats, sizeof *work);
    if (!work) return FV_ERR_OOM;
    *distance = texture_tiles(ctx, a, b, work, floats);
    fv_free(ctx, work);
    return FV_OK;
}
