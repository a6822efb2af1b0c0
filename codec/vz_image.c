/* vz_image.c - VZ_IMAGE: uncompressed pictures with their header (PNM, BMP, TGA).
 *
 *     varint n, n bytes of header | colour transform | flags | row padding if HAS_PADDING | code
 *
 * A part of a picture that is larger than a block has no header, neither in the data nor in the
 * code: rows from anywhere, and a parameter that says what they are:
 *
 *     width | channels - 1 << 17 | bytes of a sample - 1 << 19 | rows padded to 4 bytes << 20
 *
 * The header is kept as it is, and everything about the samples is read from it again when
 * decoding. Rows are coded in the order of the file. Padding of BMP rows is zero as a rule and then
 * left out.
 *
 * Sources: netpbm's pnm(5), ppm(5); Microsoft's BITMAPINFOHEADER; Truevision TGA 2.0 (1991). */
#include "vz_image_model.h"
#include "vz_media.h"

#include <string.h>

#define HEADER_MAX 4096u
#define HAS_PADDING 1

typedef struct picture {
    size_t header, total; /* bytes of the header, of all */
    vz_pixels px;
} picture;

static uint32_t rd16(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

/* Fills in stride and total; false for sizes that are not taken. */
static bool finish(picture *p, uint32_t align)
{
    size_t row, all;
    if (p->px.width == 0 || p->px.width > VZ_PIXELS_WIDTH_MAX || p->px.height == 0) return false;
    row = (size_t)p->px.width * (size_t)(p->px.channels * p->px.bytes);
    p->px.stride = (row + align - 1) / align * align;
    return vz_pixels_valid(&p->px) && fv_mul_size(p->px.stride, p->px.height, &all) &&
           fv_add_size(all, p->header, &p->total);
}

static bool read_pnm(const uint8_t *d, size_t size, picture *p)
{
    uint32_t v[3] = {0, 0, 0};
    size_t at = 2;
    if (size < 9 || d[0] != 'P' || (d[1] != '5' && d[1] != '6')) return false;
    for (int i = 0; i < 3; i++) {
        const size_t start = at;
        while (at < size && (d[at] == ' ' || (d[at] >= '\t' && d[at] <= '\r') || d[at] == '#')) {
            if (d[at] == '#')
                while (at < size && d[at] != '\n' && at < HEADER_MAX) at++;
            else
                at++;
        }
        if (at == start || at >= size || at > HEADER_MAX || d[at] < '0' || d[at] > '9')
            return false;
        while (at < size && d[at] >= '0' && d[at] <= '9' && v[i] < 1u << 24)
            v[i] = v[i] * 10 + (d[at++] - (uint32_t)'0');
    }
    if (at >= size || !(d[at] == ' ' || (d[at] >= '\t' && d[at] <= '\r'))) return false;
    if (v[2] == 0 || v[2] > 65535) return false;
    p->header = at + 1;
    p->px.width = v[0];
    p->px.height = v[1];
    p->px.channels = d[1] == '6' ? 3 : 1;
    p->px.bytes = v[2] > 255 ? 2 : 1;
    p->px.is_big_endian = true;
    return finish(p, 1);
}

static bool has_grey_palette(const uint8_t *d, size_t from, size_t to)
{
    if (to < from || (to - from) / 4 < 2) return false;
    for (size_t i = 0; i < 256 && from + 4 * i + 4 <= to; i++) {
        const uint8_t *c = d + from + 4 * i;
        if (c[0] != c[1] || c[0] != c[2] || c[0] != i) return false;
    }
    return true;
}

static bool read_bmp(const uint8_t *d, size_t size, picture *p)
{
    if (size < 54 || d[0] != 'B' || d[1] != 'M') return false;
    const uint32_t offset = vz_rd32(d + 10), info = vz_rd32(d + 14), bits = rd16(d + 28);
    uint32_t height = vz_rd32(d + 22);
    if (info < 40 || info > 124 || offset < 14 + info || offset > HEADER_MAX || offset > size ||
        rd16(d + 26) != 1)
        return false;
    const uint32_t compression = vz_rd32(d + 30);
    if (compression != 0 && !(compression == 3 && bits == 32)) return false;
    if (bits != 24 && bits != 32 && !(bits == 8 && has_grey_palette(d, 14 + info, offset)))
        return false;
    if (height >> 31) height = 0u - height; /* from top to bottom */
    p->header = offset;
    p->px.width = vz_rd32(d + 18);
    p->px.height = height;
    p->px.channels = (int)bits / 8;
    p->px.bytes = 1;
    return finish(p, 4);
}

/* TGA has no magic: everything in the header must be plausible. */
static bool read_tga(const uint8_t *d, size_t size, picture *p)
{
    if (size < 18 || d[1] != 0 || (d[2] != 2 && d[2] != 3)) return false;
    for (int i = 3; i < 8; i++)
        if (d[i] != 0) return false;
    const int bits = d[16];
    if (d[2] == 3 ? bits != 8 : bits != 24 && bits != 32) return false;
    if ((d[17] & 0xc0) || (d[17] & 15) != (bits == 32 ? 8 : 0)) return false;
    p->header = 18u + d[0];
    p->px.width = rd16(d + 12);
    p->px.height = rd16(d + 14);
    p->px.channels = bits / 8;
    p->px.bytes = 1;
    return finish(p, 1);
}

static bool read_picture(const uint8_t *d, size_t size, picture *p)
{
    memset(p, 0, sizeof *p);
    return read_pnm(d, size, p) || read_bmp(d, size, p) || read_tga(d, size, p);
}

/* Rows of a part. */
static bool read_part(uint32_t param, size_t size, picture *p)
{
    memset(p, 0, sizeof *p);
    if (param >> 21) return false;
    p->px.width = param & 0x1ffff;
    p->px.channels = (int)(param >> 17 & 3) + 1;
    p->px.bytes = (int)(param >> 19 & 1) + 1;
    p->px.is_big_endian = true;
    p->px.height = 1;
    if (!finish(p, param >> 20 & 1 ? 4 : 1) || size < p->total || size % p->total ||
        size / p->total > UINT32_MAX)
        return false;
    p->px.height = (uint32_t)(size / p->total);
    p->total = size;
    return vz_pixels_valid(&p->px);
}

bool vz_image_describe(const uint8_t *d, size_t n, bool is_first, vz_media *m)
{
    picture p;
    const bool has_magic = n > 1 && (d[0] == 'P' ? d[1] > '4' : d[0] == 'B' && d[1] == 'M');
    if (n < 18 || !(has_magic || is_first) || !read_picture(d, n, &p)) return false;
    const size_t row = (size_t)p.px.width * (size_t)(p.px.channels * p.px.bytes);
    m->kind = VZ_IMAGE;
    m->param = p.px.width | (uint32_t)(p.px.channels - 1) << 17 |
               (uint32_t)(p.px.bytes - 1) << 19 | (uint32_t)(p.px.stride > row) << 20;
    m->unit = (uint32_t)p.px.stride;
    m->start = 0;
    m->data = p.header;
    m->end = p.total;
    return true;
}

size_t vz_image_detect(const uint8_t *data, size_t size, bool is_start, uint32_t *param)
{
    static const char FOOTER[] = "TRUEVISION-XFILE";
    picture p;
    *param = 0;
    if (size < 18 || (data[0] != 'P' && data[0] != 'B' && !is_start)) return 0;
    if (!read_picture(data, size, &p) || p.total > size || p.total - p.header < 64) return 0;
    if ((data[0] == 'P' && data[1] > '4') || (data[0] == 'B' && data[1] == 'M')) return p.total;
    /* A TGA is all of the block, or has its footer. */
    const bool has_footer = size - p.total >= 26 && memcmp(data + size - 18, FOOTER, 16) == 0;
    return is_start && (size == p.total || has_footer) ? p.total : 0;
}

/* Bytes between rows. */
static size_t padding_of(const picture *p)
{
    return p->px.stride - (size_t)p->px.width * (size_t)(p->px.channels * p->px.bytes);
}

static fv_status image_encode(fv_ctx *ctx, const vz_cm_options *o, uint32_t param,
                              const uint8_t *data, size_t size, vz_buf *out, bool *fits)
{
    picture p;
    picture again; /* the decoder has the header alone */
    if (param)
        *fits = read_part(param, size, &p);
    else
        *fits = read_picture(data, size, &p) && p.total == size &&
                read_picture(data, p.header, &again) && again.header == p.header &&
                again.total == size;
    if (!*fits) return FV_OK;
    const uint8_t *rows = data + p.header;
    const size_t padding = padding_of(&p);
    int flags = 0;
    for (uint32_t y = 0; y < p.px.height && !flags; y++) {
        const uint8_t *pad = rows + (size_t)(y + 1) * p.px.stride - padding;
        for (size_t i = 0; i < padding; i++)
            if (pad[i]) flags = HAS_PADDING;
    }
    p.px.colour = vz_pixels_colour(&p.px, rows);
    if (!param) {
        vz_buf_varint(out, p.header);
        vz_buf_put(out, data, p.header);
    }
    vz_buf_byte(out, (uint8_t)p.px.colour);
    vz_buf_byte(out, (uint8_t)flags);
    for (uint32_t y = 0; y < p.px.height && flags; y++)
        vz_buf_put(out, rows + (size_t)(y + 1) * p.px.stride - padding, padding);
    return vz_pixels_encode(ctx, o->level, &p.px, rows, out);
}

static fv_status image_decode(fv_ctx *ctx, const vz_cm_options *o, uint32_t param,
                              const uint8_t *code, size_t code_size, uint8_t *data, size_t size)
{
    vz_in r = {ctx, code, code + code_size};
    uint64_t n = 0, colour, flags;
    const uint8_t *header, *padding = NULL;
    picture p;
    if (!param) FV_TRY(vz_in_varint(&r, &n));
    if (n > size) return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: impossible header of a picture");
    FV_TRY(vz_in_take(&r, (size_t)n, &header));
    FV_TRY(vz_in_le(&r, 1, &colour));
    FV_TRY(vz_in_le(&r, 1, &flags));
    const bool known = param ? read_part(param, size, &p) : read_picture(header, (size_t)n, &p);
    if (known) p.px.colour = (vz_colour)colour;
    if (!known || p.header != n || p.total != size || flags > HAS_PADDING ||
        !vz_pixels_valid(&p.px))
        return fv_fail(ctx, FV_ERR_FORMAT,
                       "corrupt: the header of a picture does not suit its size");
    const size_t each = padding_of(&p);
    if (flags) FV_TRY(vz_in_take(&r, each * p.px.height, &padding));
    memcpy(data, header, (size_t)n);
    for (uint32_t y = 0; y < p.px.height && each > 0; y++) {
        uint8_t *to = data + n + (size_t)(y + 1) * p.px.stride - each;
        if (padding)
            memcpy(to, padding + (size_t)y * each, each);
        else
            memset(to, 0, each);
    }
    return vz_pixels_decode(ctx, o->level, &p.px, r.p, (size_t)(r.end - r.p), data + n);
}

static uint64_t image_memory(const vz_cm_options *o, uint32_t param, uint64_t size)
{
    (void)param;
    return vz_pixels_memory(o->level, size);
}

const vz_coder vz_image_coder = {VZ_IMAGE, "image", image_encode, image_decode, image_memory};
