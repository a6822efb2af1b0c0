/* image_pnm.c - the netpbm family: P1-P6 and PAM (P7) in, P5, P6, P7 out.
 *
 *     P1 P4 bits (1 = black)   P2 P5 grey   P3 P6 RGB      header: width height [maxval]
 *     P7 lines WIDTH, HEIGHT, DEPTH, MAXVAL, TUPLTYPE, ENDHDR; DEPTH 1 to 4 as our channels
 *
 * '#' begins a comment in every header.
 *
 * Binary samples are one byte, or two (big endian) when maxval exceeds 255. Other maxvals are
 * stretched: v * 255 / maxval, or v * 65535 / maxval from 256 on, rounded. The size of the data is
 * checked before pixels are allocated. A second picture in the file is ignored. */
#include "image_codec.h"

#include <string.h>

typedef struct pnm_reader {
    fv_ctx *ctx;
    const uint8_t *p, *end;
} pnm_reader;

typedef struct pnm_header {
    uint32_t width, height, channels, maxval;
} pnm_header;

static bool is_space(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static fv_status ends_early(pnm_reader *r)
{
    return fv_fail(r->ctx, FV_ERR_TRUNCATED, "pnm: the file ends early");
}

/* White space and comments (# to the end of the line). */
static void skip_space(pnm_reader *r)
{
    while (r->p < r->end && (is_space(*r->p) || *r->p == '#')) {
        if (*r->p == '#')
            while (r->p < r->end && *r->p != '\n') r->p++;
        else
            r->p++;
    }
}

static fv_status read_number(pnm_reader *r, uint32_t *out)
{
    skip_space(r);
    if (r->p == r->end) return ends_early(r);
    uint64_t v = 0;
    const uint8_t *start = r->p;
    for (; r->p < r->end && *r->p >= '0' && *r->p <= '9'; r->p++) {
        v = v * 10 + (uint64_t)(*r->p - '0');
        if (v > INT32_MAX) return fv_fail(r->ctx, FV_ERR_FORMAT, "pnm: a number is too large");
    }
    if (r->p == start)
        return fv_fail(r->ctx, FV_ERR_FORMAT, "pnm: byte 0x%02x where a number is expected", *r->p);
    *out = (uint32_t)v;
    return FV_OK;
}

/* ---- Headers --------------------------------------------------------------------------------- */

static fv_status read_header(pnm_reader *r, int kind, pnm_header *h)
{
    h->channels = kind == 3 || kind == 6 ? 3 : 1;
    h->maxval = 1;
    FV_TRY(read_number(r, &h->width));
    FV_TRY(read_number(r, &h->height));
    if (kind != 1 && kind != 4) FV_TRY(read_number(r, &h->maxval));
    if (kind <= 3) return FV_OK;
    if (r->p == r->end) return ends_early(r);
    if (!is_space(*r->p))
        return fv_fail(r->ctx, FV_ERR_FORMAT, "pnm: no space between header and data");
    r->p++; /* exactly one: the next byte is a sample */
    return FV_OK;
}

/* The next header line of a PAM file: its first word, with r->p behind it. */
static fv_status pam_word(pnm_reader *r, char word[16])
{
    skip_space(r);
    size_t n = 0;
    for (; r->p < r->end && !is_space(*r->p); r->p++) {
        if (n == 15) return fv_fail(r->ctx, FV_ERR_FORMAT, "pnm: unknown word in the PAM header");
        word[n++] = (char)*r->p;
    }
    word[n] = 0;
    return r->p == r->end ? ends_early(r) : FV_OK;
}

static fv_status read_pam_header(pnm_reader *r, pnm_header *h)
{
    char word[16];
    memset(h, 0, sizeof *h);
    for (;;) {
        FV_TRY(pam_word(r, word));
        if (strcmp(word, "ENDHDR") == 0) break;
        if (strcmp(word, "TUPLTYPE") == 0) { /* DEPTH says all we need */
            while (r->p < r->end && *r->p != '\n') r->p++;
            continue;
        }
        uint32_t *field = strcmp(word, "WIDTH") == 0    ? &h->width
                          : strcmp(word, "HEIGHT") == 0 ? &h->height
                          : strcmp(word, "DEPTH") == 0  ? &h->channels
                          : strcmp(word, "MAXVAL") == 0 ? &h->maxval
                                                        : NULL;
        if (!field) return fv_fail(r->ctx, FV_ERR_FORMAT, "pnm: unknown word in the PAM header");
        FV_TRY(read_number(r, field));
    }
    while (r->p < r->end && *r->p != '\n') r->p++;
    if (r->p == r->end) return ends_early(r);
    r->p++;
    if (h->channels < 1 || h->channels > 4)
        return fv_fail(r->ctx, FV_ERR_UNSUPPORTED, "pnm: PAM with %u channels; 1 to 4 are read",
                       (unsigned)h->channels);
    return FV_OK;
}

/* ---- Samples --------------------------------------------------------------------------------- */

static fv_status above_maxval(pnm_reader *r, uint32_t v, uint32_t maxval)
{
    return fv_fail(r->ctx, FV_ERR_FORMAT, "pnm: sample %u exceeds the maximum %u", (unsigned)v,
                   (unsigned)maxval);
}

FV_INLINE void store(uint8_t *row, int depth, size_t i, uint32_t v, uint32_t maxval)
{
    const uint32_t max = depth == 8 ? 255 : 65535;
    const uint32_t s =
        maxval == max ? v : (v * max + maxval / 2) / maxval; /* at most 65535^2 + 32767 */
    if (depth == 8)
        row[i] = (uint8_t)s;
    else
        ((uint16_t *)(void *)row)[i] = (uint16_t)s;
}

static fv_status read_plain(pnm_reader *r, fv_image *out, int kind, uint32_t maxval)
{
    const size_t n = (size_t)out->width * (size_t)out->channels;
    for (int y = 0; y < out->height; y++) {
        uint8_t *row = fvi_image_row(out, y);
        for (size_t i = 0; i < n; i++) {
            uint32_t v;
            if (kind == 1) { /* digits need no space between them */
                skip_space(r);
                if (r->p == r->end) return ends_early(r);
                if (*r->p != '0' && *r->p != '1')
                    return fv_fail(r->ctx, FV_ERR_FORMAT, "pnm: a bit is neither 0 nor 1");
                v = *r->p++ == '0';
            } else {
                FV_TRY(read_number(r, &v));
                if (v > maxval) return above_maxval(r, v, maxval);
            }
            store(row, out->depth, i, v, maxval);
        }
    }
    return FV_OK;
}

static void read_bits(pnm_reader *r, fv_image *out)
{
    const size_t row_bytes = ((size_t)out->width + 7) / 8;
    for (int y = 0; y < out->height; y++, r->p += row_bytes) {
        uint8_t *row = fvi_image_row(out, y);
        for (int x = 0; x < out->width; x++) row[x] = r->p[x / 8] >> (7 - x % 8) & 1 ? 0 : 255;
    }
}

static fv_status read_binary(pnm_reader *r, fv_image *out, uint32_t maxval)
{
    const size_t n = (size_t)out->width * (size_t)out->channels;
    for (int y = 0; y < out->height; y++) {
        uint8_t *row = fvi_image_row(out, y);
        for (size_t i = 0; i < n; i++) {
            uint32_t v = *r->p++;
            if (out->depth == 16) v = v << 8 | *r->p++;
            if (v > maxval) return above_maxval(r, v, maxval);
            store(row, out->depth, i, v, maxval);
        }
    }
    return FV_OK;
}

fv_status fvi_pnm_decode(fv_ctx *ctx, fv_image *out, const fvi_image_source *src)
{
    pnm_reader r = {ctx, src->data + 2, src->data + src->size};
    const int kind = src->data[1] - '0';
    pnm_header h;
    FV_TRY(kind == 7 ? read_pam_header(&r, &h) : read_header(&r, kind, &h));
    FV_TRY(fvi_image_check_size(ctx, "pnm", h.width, h.height, src->max_pixels));
    if (h.maxval < 1 || h.maxval > 65535)
        return fv_fail(ctx, FV_ERR_FORMAT, "pnm: maximum %u; it must be 1 to 65535",
                       (unsigned)h.maxval);
    const int depth = h.maxval > 255 ? 16 : 8;
    /* Each side is below 2^31, so samples are below 2^64. Fewest bytes: plain bits 1, plain numbers
     * a digit and a space (not after the last). */
    const uint64_t samples = (uint64_t)h.width * h.height * h.channels,
                   left = (uint64_t)(r.end - r.p);
    const uint64_t bytes = kind == 1   ? samples
                           : kind <= 3 ? 2 * samples - 1
                           : kind == 4 ? ((uint64_t)h.width + 7) / 8 * h.height
                                       : samples * ((uint64_t)depth / 8);
    if (samples > UINT64_MAX / 4 || bytes > left)
        return fv_fail(ctx, FV_ERR_TRUNCATED,
                       "pnm: %llu bytes of pixels are there, %llu are needed",
                       (unsigned long long)left, (unsigned long long)bytes);
    FV_TRY(fv_image_create(ctx, out, (int)h.width, (int)h.height, (int)h.channels, depth));
    if (kind <= 3) return read_plain(&r, out, kind, h.maxval);
    if (kind != 4) return read_binary(&r, out, h.maxval);
    read_bits(&r, out);
    return FV_OK;
}

/* ---- Writing --------------------------------------------------------------------------------- */

fv_status fvi_pnm_encode(fv_ctx *ctx, const fv_image *img, const fv_image_write_options *opts,
                         fvi_bytes *out)
{
    (void)opts;
    static const char *const types[] = {"", "GRAYSCALE", "GRAYSCALE_ALPHA", "RGB", "RGB_ALPHA"};
    const unsigned max = img->depth == 8 ? 255 : 65535;
    char head[160];
    const int n =
        fvi_has_alpha(img->channels)
            ? snprintf(head, sizeof head,
                       "P7\nWIDTH %d\nHEIGHT %d\nDEPTH %d\nMAXVAL %u\nTUPLTYPE %s\nENDHDR\n",
                       img->width, img->height, img->channels, max, types[img->channels])
            : snprintf(head, sizeof head, "P%d\n%d %d\n%u\n", img->channels == 1 ? 5 : 6,
                       img->width, img->height, max);
    const size_t row_bytes = (size_t)img->width * fvi_pixel_bytes(img);
    size_t all;
    if (!fv_mul_size(row_bytes, (size_t)img->height, &all) ||
        !fv_add_size(all, (size_t)n, &all))
        return fv_fail(ctx, FV_ERR_OOM, "pnm: the file exceeds the address space");
    uint8_t *line = img->depth == 16 ? fv_alloc(ctx, row_bytes) : NULL;
    bool ok = (line || img->depth == 8) && fvi_bytes_reserve(out, all) &&
              fvi_bytes_add(out, head, (size_t)n);
    for (int y = 0; ok && y < img->height; y++) {
        const uint8_t *row = fvi_image_row(img, y);
        for (size_t i = 0; line && i < row_bytes; i += 2) {
            const uint16_t v = *(const uint16_t *)(const void *)(row + i);
            line[i] = (uint8_t)(v >> 8);
            line[i + 1] = (uint8_t)v;
        }
        ok = fvi_bytes_add(out, line ? line : row, row_bytes);
    }
    fv_free(ctx, line);
    return ok ? FV_OK : FV_ERR_OOM;
}
