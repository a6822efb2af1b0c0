/* rdvq_chunks.c - alpha, ICC profile and EXIF of a .rdvq: kept exactly, through zstd.
 *
 * Alpha goes row by row through the filters of PNG, each row with the filter that leaves least, a
 * byte a sample, or two with the low one first. A plane of zstd'ed rows is within a few percent of
 * what PNG makes of it.
 *
 * Hidden colours: the picture is averaged 2x2, pixels with alpha 0 not counted, until one pixel is
 * left; then on the way back each cell without a colour takes it from the four of the coarser level
 * around it (Gortler et al. 1996 call it pull-push), and a few times the mean of its neighbours, so
 * that no step is left where the known ones end. */
#include "rdvq_chunks.h"

#include <string.h>
#include <zstd.h>

#include "image_codec.h"

#define QUICK_LEVEL 9                      /* where the best one would take seconds */
#define QUICK_FROM ((size_t)1 << 20)
#define ZSTD_DECODER_BYTES ((uint64_t)256 << 10)
#define ZSTD_CODER_BYTES ((uint64_t)96 << 20) /* level 9, large planes */

/* ---- Blocks ---------------------------------------------------------------------------------- */

fv_status rdvq_block_pack(fv_ctx *ctx, const void *data, size_t size, vz_buf *out)
{
    const size_t room = ZSTD_COMPRESSBOUND(size);
    const int level = size < QUICK_FROM ? VZ_ZSTD_BEST : QUICK_LEVEL;
    size_t coded = 0;
    uint8_t *to = vz_buf_room(out, room);
    if (!to) return out->status;
    FV_TRY(vz_zstd_code(ctx, level, data, size, to, room, &coded));
    if (coded == 0) return fv_fail(ctx, FV_ERR_INTERNAL, "zstd failed on %zu bytes", size);
    out->size += coded;
    return FV_OK;
}

fv_status rdvq_block_unpack(fv_ctx *ctx, rdvq_bytes in, uint64_t most, uint8_t **out, size_t *size)
{
    const unsigned long long n = ZSTD_getFrameContentSize(in.data, in.size);
    *out = NULL;
    *size = 0;
    if (n == ZSTD_CONTENTSIZE_ERROR || n == ZSTD_CONTENTSIZE_UNKNOWN || n == 0)
        return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: a chunk that is no zstd frame of known size");
    if (n > most)
        return fv_fail(ctx, FV_ERR_LIMIT, "a chunk of %llu bytes exceeds %llu", n,
                       (unsigned long long)most);
    if (!(*out = fv_alloc(ctx, (size_t)n))) return FV_ERR_OOM;
    const fv_status s = vz_zstd_decode(ctx, in.data, in.size, *out, (size_t)n);
    if (s == FV_OK) {
        *size = (size_t)n;
        return FV_OK;
    }
    fv_free(ctx, *out);
    *out = NULL;
    return s;
}

/* ---- Alpha ----------------------------------------------------------------------------------- */

static uint32_t sample_at(const void *row, int depth, size_t i)
{
    return depth == 8 ? ((const uint8_t *)row)[i] : ((const uint16_t *)row)[i];
}

static bool is_all_opaque(const fv_image *img)
{
    const size_t c = (size_t)img->channels;
    const uint32_t full = img->depth == 8 ? 255 : 65535;
    for (int y = 0; y < img->height; y++)
        for (size_t x = 0; x < (size_t)img->width; x++)
            if (sample_at(fvi_image_row(img, y), img->depth, x * c + c - 1) != full) return false;
    return true;
}

static vz_filtered rows_of(int width, int height, int depth)
{
    const size_t step = depth == 8 ? 1 : 2;
    const vz_filtered r = { (uint32_t)height, (size_t)width * step, step };
    return r;
}

fv_status rdvq_alpha_pack(fv_ctx *ctx, const fv_image *img, vz_buf *out, bool *is_opaque)
{
    const vz_filtered r = rows_of(img->width, img->height, img->depth);
    const size_t c = (size_t)img->channels, pitch = r.bytes + 1;
    *is_opaque = !fvi_has_alpha(img->channels) || is_all_opaque(img);
    if (*is_opaque) return FV_OK;
    uint8_t *plane = fv_alloc(ctx, pitch * r.count);
    if (!plane) return FV_ERR_OOM;
    for (int y = 0; y < img->height; y++) {
        uint8_t *row = plane + pitch * (size_t)y + 1;
        for (size_t x = 0; x < (size_t)img->width; x++) {
            const uint32_t v = sample_at(fvi_image_row(img, y), img->depth, x * c + c - 1);
            row[x * r.step] = (uint8_t)v;
            if (r.step == 2) row[x * 2 + 1] = (uint8_t)(v >> 8);
        }
        row[-1] = (uint8_t)vz_filtered_likely(&r, row, y > 0 ? row - pitch : NULL);
    }
    vz_filtered_again(&r, plane);
    const fv_status s = rdvq_block_pack(ctx, plane, pitch * r.count, out);
    fv_free(ctx, plane);
    return s;
}

uint64_t rdvq_alpha_memory(const rdvq_head *h)
{
    const vz_filtered r = rows_of(h->width, h->height, h->depth);
    return (r.bytes + 1) * (uint64_t)r.count + ZSTD_DECODER_BYTES;
}

fv_status rdvq_alpha_unpack(fv_ctx *ctx, rdvq_bytes in, const rdvq_head *h, int x, int y,
                            fv_image *img)
{
    const vz_filtered r = rows_of(h->width, h->height, h->depth);
    const size_t size = (r.bytes + 1) * r.count, c = (size_t)img->channels;
    uint8_t *plane = fv_alloc(ctx, size);
    if (!plane) return FV_ERR_OOM;
    fv_status s = vz_zstd_decode(ctx, in.data, in.size, plane, size);
    if (s == FV_OK && !vz_filtered_plain(&r, plane))
        s = fv_fail(ctx, FV_ERR_FORMAT, "corrupt: alpha with an unknown filter");
    for (int i = 0; i < img->height && s == FV_OK; i++) {
        const uint8_t *from = plane + (r.bytes + 1) * (size_t)(y + i) + 1 + r.step * (size_t)x;
        uint8_t *row = fvi_image_row(img, i);
        for (size_t j = 0; j < (size_t)img->width; j++)
            if (r.step == 1) row[j * c + c - 1] = from[j];
            else ((uint16_t *)row)[j * c + c - 1] = (uint16_t)(from[2 * j] | from[2 * j + 1] << 8);
    }
    fv_free(ctx, plane);
    return s;
}

/* ---- Hidden colours -------------------------------------------------------------------------- */

#define PYRAMID 17 /* sides up to 65535 */

#define ROUNDS 8   /* of smoothing */

/* cell: [h, w, 4]: colour, and 1 where known, GUESSED where filled, 0 before */
typedef struct level { int w, h; float *cell; } level;
#define GUESSED 0.5f

/* Colours of pixel (x, y); false: hidden. */
static bool pixel_at(const fv_image *img, int y, int x, float out[3])
{
    const size_t c = (size_t)img->channels, at = (size_t)x * c;
    const uint8_t *row = fvi_image_row(img, y);
    if (sample_at(row, img->depth, at + c - 1) == 0) return false;
    for (size_t k = 0; k < 3; k++) out[k] = (float)sample_at(row, img->depth, at + (c > 2 ? k : 0));
    return true;
}

static bool cell_at(const level *l, int y, int x, float out[3])
{
    const float *v = l->cell + 4 * ((size_t)y * (size_t)l->w + (size_t)x);
    memcpy(out, v, 3 * sizeof *out);
    return v[3] > 0;
}

/* Cell (x, y) of `to` from the 2x2 below it, in `from`, or in the picture. */
static void average(level *to, const level *from, const fv_image *img, int y, int x)
{
    const int w = from ? from->w : img->width, h = from ? from->h : img->height;
    float *out = to->cell + 4 * ((size_t)y * (size_t)to->w + (size_t)x), n = 0;
    for (int i = 0; i < 4; i++) {
        const int yy = 2 * y + i / 2, xx = 2 * x + i % 2;
        float v[3];
        if (yy >= h || xx >= w) continue;
        if (!(from ? cell_at(from, yy, xx, v) : pixel_at(img, yy, xx, v))) continue;
        for (int k = 0; k < 3; k++) out[k] += v[k];
        n++;
    }
    for (int k = 0; k < 3 && n > 0; k++) out[k] /= n;
    out[3] = n > 0;
}

/* Colour at (x, y) of a level twice as fine as l, all of which is known. */
static void between(const level *l, int y, int x, float out[3])
{
    const int step[2] = { y % 2 ? 1 : -1, x % 2 ? 1 : -1 };
    memset(out, 0, 3 * sizeof *out);
    for (int i = 0; i < 4; i++) {
        int yy = y / 2 + (i / 2 ? step[0] : 0), xx = x / 2 + (i % 2 ? step[1] : 0);
        float v[3];
        yy = yy < 0 ? 0 : yy >= l->h ? l->h - 1 : yy;
        xx = xx < 0 ? 0 : xx >= l->w ? l->w - 1 : xx;
        (void)cell_at(l, yy, xx, v);
        const float weight = (i / 2 ? 0.25f : 0.75f) * (i % 2 ? 0.25f : 0.75f);
        for (int k = 0; k < 3; k++) out[k] += weight * v[k];
    }
}

static fv_status pull(fv_ctx *ctx, const fv_image *img, level l[PYRAMID], int *levels)
{
    int w = img->width, h = img->height, n = 0;
    while (n == 0 || w > 1 || h > 1) {
        w = (w + 1) / 2;
        h = (h + 1) / 2;
        l[n] = (level){ w, h, fv_calloc(ctx, (size_t)w * (size_t)h, 4 * sizeof(float)) };
        if (!l[n].cell) return FV_ERR_OOM;
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++) average(&l[n], n ? &l[n - 1] : NULL, img, y, x);
        *levels = ++n;
    }
    return FV_OK;
}

static void push(const level *from, level *to)
{
    for (int y = 0; y < to->h; y++)
        for (int x = 0; x < to->w; x++) {
            float *v = to->cell + 4 * ((size_t)y * (size_t)to->w + (size_t)x);
            if (v[3] > 0) continue;
            between(from, y, x, v);
            v[3] = GUESSED;
        }
}

static const int beside[4][2] = { { -1, 0 }, { 1, 0 }, { 0, -1 }, { 0, 1 } };

/* Guessed cells become the mean of their neighbours, one after another. */
static void smooth(level *l)
{
    for (int i = 0; i < ROUNDS * l->w * l->h; i++) {
        const int at = i % (l->w * l->h), y = at / l->w, x = at % l->w;
        float *v = l->cell + 4 * (size_t)at, sum[3] = { 0, 0, 0 }, n = 0, near[3];
        if (v[3] != GUESSED) continue;
        for (int k = 0; k < 4; k++) {
            const int yy = y + beside[k][0], xx = x + beside[k][1];
            if (yy < 0 || xx < 0 || yy >= l->h || xx >= l->w) continue;
            (void)cell_at(l, yy, xx, near);
            for (int c = 0; c < 3; c++) sum[c] += near[c];
            n++;
        }
        for (int c = 0; c < 3 && n > 0; c++) v[c] = sum[c] / n;
    }
}

static void paint(const level *from, fv_image *img, int y)
{
    const size_t c = (size_t)img->channels;
    uint8_t *row = fvi_image_row(img, y);
    for (int x = 0; x < img->width; x++) {
        float v[3];
        if (sample_at(row, img->depth, (size_t)x * c + c - 1) != 0) continue;
        between(from, y, x, v);
        for (size_t k = 0; k < (c > 2 ? 3u : 1u); k++)
            if (img->depth == 8) row[(size_t)x * c + k] = (uint8_t)(v[k] + 0.5f);
            else ((uint16_t *)row)[(size_t)x * c + k] = (uint16_t)(v[k] + 0.5f);
    }
}

uint64_t rdvq_hidden_memory(const fv_image *img)
{
    const vz_filtered r = rows_of(img->width, img->height, img->depth);
    const uint64_t plane = (r.bytes + 1) * (uint64_t)r.count;
    uint64_t cells = 0, w = (uint64_t)img->width, h = (uint64_t)img->height;
    const uint64_t copy = w * h * (uint64_t)img->channels * (uint64_t)img->depth / 8;
    do {
        w = (w + 1) / 2;
        h = (h + 1) / 2;
        cells += w * h;
    } while (w > 1 || h > 1);
    /* The plane and what zstd makes of it come first, what zstd made stays. */
    const uint64_t packed = plane + plane / 128 + 1024;
    const uint64_t filling = copy + cells * 4 * sizeof(float);
    return packed + (plane + ZSTD_CODER_BYTES > filling ? plane + ZSTD_CODER_BYTES : filling);
}

fv_status rdvq_fill_hidden(fv_ctx *ctx, fv_image *img)
{
    level l[PYRAMID] = { { 0, 0, NULL } };
    int n = 0;
    const fv_status s = pull(ctx, img, l, &n);
    if (s == FV_OK) {
        for (int i = n - 1; i > 0; i--) {
            push(&l[i], &l[i - 1]);
            smooth(&l[i - 1]);
        }
        for (int y = 0; y < img->height; y++) paint(&l[0], img, y);
    }
    for (int i = 0; i < n; i++) fv_free(ctx, l[i].cell);
    return s;
}
