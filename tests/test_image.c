/* test_image.c - pictures: every channel count, depth and format; hostile files; resize. */
#include <stdio.h>
#include <unistd.h>

#include <jpeglib.h> /* needs stdio.h before it */
#include <png.h>
#include <zlib.h>

#include "alloc_fail.h"
#include "engine.h"
#include "test.h"
#include "temp_dir.h"

static alloc_fail heap = {.left = ALLOC_ALL};
static fv_ctx *ctx;

static fv_ctx *make_ctx(int threads)
{
    const fv_allocator al = alloc_fail_allocator(&heap);
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.threads = threads;
    o.alloc = &al;
    fv_ctx *c = NULL;
    if (fv_ctx_create(&c, &o) != FV_OK) exit(2);
    return c;
}

static uint64_t live_bytes(void)
{
    fv_memory_stats m;
    fv_ctx_memory(ctx, &m);
    return m.current_bytes;
}

/* ---- Pictures -------------------------------------------------------------------------------- */

static uint32_t get(const fv_image *i, int x, int y, int c)
{
    const uint8_t *row = (const uint8_t *)i->pixels + (size_t)y * i->stride_bytes;
    const int k = x * i->channels + c;
    return i->depth == 8 ? row[k] : ((const uint16_t *)(const void *)row)[k];
}

static void set(fv_image *i, int x, int y, int c, uint32_t v)
{
    uint8_t *row = (uint8_t *)i->pixels + (size_t)y * i->stride_bytes;
    const int k = x * i->channels + c;
    if (i->depth == 8)
        row[k] = (uint8_t)v;
    else
        ((uint16_t *)(void *)row)[k] = (uint16_t)v;
}

/* noise != 0: every value random; else smooth. Pixel 0 is fully transparent if there is alpha. */
static fv_image picture(int w, int h, int channels, int depth, int noise)
{
    fv_image i;
    if (fv_image_create(ctx, &i, w, h, channels, depth) != FV_OK) exit(2);
    uint64_t seed = (uint64_t)(w * 31 + h * 7 + channels * 3 + depth);
    const uint32_t max = depth == 8 ? 255 : 65535;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int c = 0; c < channels; c++) {
                const double wave = 0.5 + 0.4 * sin(0.11 * x + 0.17 * y + c);
                set(&i, x, y, c, noise ? test_next(&seed) & max : (uint32_t)(wave * max));
            }
    if (channels == 2 || channels == 4) set(&i, 0, 0, channels - 1, 0);
    return i;
}

static int same(const fv_image *a, const fv_image *b)
{
    if (a->width != b->width || a->height != b->height || a->channels != b->channels ||
        a->depth != b->depth)
        return 0;
    for (int y = 0; y < a->height; y++)
        for (int x = 0; x < a->width; x++)
            for (int c = 0; c < a->channels; c++)
                if (get(a, x, y, c) != get(b, x, y, c)) return 0;
    return 1;
}

static double psnr(const fv_image *a, const fv_image *b)
{
    double e = 0;
    for (int y = 0; y < a->height; y++)
        for (int x = 0; x < a->width; x++)
            for (int c = 0; c < a->channels; c++) {
                const double d = (double)get(a, x, y, c) - get(b, x, y, c);
                e += d * d;
            }
    e /= (double)a->width * a->height * a->channels;
    return 10 * log10(255.0 * 255.0 / (e + 1e-9));
}

static fv_status encode(const fv_image *i, fv_image_format f, int lossless, uint8_t **bytes,
                        size_t *size)
{
    fv_image_write_options o = FV_IMAGE_WRITE_OPTIONS_INIT;
    o.format = f;
    o.lossless = lossless;
    return fv_image_encode(ctx, i, &o, bytes, size);
}

static fv_status decode_all(fv_image *i, const void *bytes, size_t size)
{
    fv_image_read_options o = FV_IMAGE_READ_OPTIONS_INIT;
    o.keep_metadata = 1;
    return fv_image_decode(ctx, i, bytes, size, &o);
}

/* A profile that libpng takes: header and one empty tag. */
static size_t make_icc(uint8_t icc[160], const char *space)
{
    memset(icc, 0, 160);
    icc[3] = 160;
    icc[8] = 2;
    memcpy(icc + 12, "mntr", 4);
    memcpy(icc + 16, space, 4);
    memcpy(icc + 20, "XYZ ", 4);
    memcpy(icc + 36, "acsp", 4);
    static const uint8_t d50[12] = {0, 0, 0xf6, 0xd6, 0, 1, 0, 0, 0, 0, 0xd3, 0x2d};
    memcpy(icc + 68, d50, 12);
    icc[131] = 1;
    memcpy(icc + 132, "cprt", 4);
    icc[139] = 144;
    icc[143] = 16;
    return 160;
}

static const uint8_t tiff[14] = {'I', 'I', 42, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0};
static const char *const texts[] = {
    "Title",
    "plain",
    "parameters",
    "seed: 42, steps: 50\nsampler: ddim <&>\"' x",
    ("Gr\xfc\xdf"
     "e"), /* one text: \xdfe would be one number */
    "gr\xc3\xbc\xc3\x9f dich \xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x98\x80",
    "a_x41_ b.c-d:9",
    "tab\there, return\r, e\xc3\xa9",
    "Comment",
    "Note: with colon",
    "Empty",
    "",
};
#define TEXT_COUNT ((int)(sizeof texts / sizeof texts[0] / 2))

static fv_status dress(fv_image *i)
{
    uint8_t icc[160];
    const size_t n = make_icc(icc, i->channels >= 3 ? "RGB " : "GRAY");
    i->icc = fv_alloc(ctx, n);
    if (!i->icc) return FV_ERR_OOM;
    memcpy(i->icc, icc, n);
    i->icc_bytes = n;
    i->exif = fv_alloc(ctx, sizeof tiff);
    if (!i->exif) return FV_ERR_OOM;
    memcpy(i->exif, tiff, sizeof tiff);
    i->exif_bytes = sizeof tiff;
    for (int k = 0; k < TEXT_COUNT; k++)
        FV_TRY(fv_image_add_text(ctx, i, texts[2 * k], texts[2 * k + 1]));
    return FV_OK;
}

static int zeroed(const fv_image *i)
{
    const fv_image z = {0};
    return i->pixels == NULL && i->width == 0 && i->text == NULL && i->icc == NULL &&
           i->exif == NULL && z.width == i->height;
}

/* ---- Round trips ----------------------------------------------------------------------------- */

static void lossless_formats_are_exact(void)
{
    static const int sizes[][2] = {{1, 1}, {1, 7}, {13, 1}, {17, 11}, {33, 20}};
    for (size_t k = 0; k < FV_ARRAY_LEN(sizes); k++)
        for (int ch = 1; ch <= 4; ch++)
            for (int depth = 8; depth <= 16; depth += 8)
                for (int f = 0; f < 3; f++) {
                    static const fv_image_format formats[] = {FV_IMAGE_PNG, FV_IMAGE_PNM,
                                                              FV_IMAGE_WEBP};
                    if (formats[f] == FV_IMAGE_WEBP && (ch < 3 || depth != 8)) continue;
                    fv_image a = picture(sizes[k][0], sizes[k][1], ch, depth, 1), b;
                    uint8_t *bytes;
                    size_t n;
                    OK(ctx, encode(&a, formats[f], 1, &bytes, &n));
                    CHECK(fv_image_sniff(bytes, n) == formats[f]);
                    OK(ctx, fv_image_decode(ctx, &b, bytes, n, NULL));
                    CHECK_MSG(same(&a, &b), "format %d, %d channels, depth %d", f, ch, depth);
                    fv_free(ctx, bytes);
                    fv_image_free(ctx, &a);
                    fv_image_free(ctx, &b);
                }
    CHECK(live_bytes() == 0);
}

static void lossy_formats_are_close(void)
{
    for (int ch = 1; ch <= 4; ch++)
        for (int f = 0; f < 2; f++) {
            fv_image a = picture(61, 47, ch, 8, 0), b;
            if (ch == 2 || ch == 4)
                for (int y = 0; y < a.height; y++)
                    for (int x = 0; x < a.width; x++)
                        set(&a, x, y, ch - 1, f ? 255u - (uint32_t)x : 255);
            uint8_t *bytes;
            size_t n;
            OK(ctx, encode(&a, f ? FV_IMAGE_WEBP : FV_IMAGE_JPEG, 0, &bytes, &n));
            fv_image_read_options o = FV_IMAGE_READ_OPTIONS_INIT;
            OK(ctx, fv_image_decode(ctx, &b, bytes, n, NULL));
            CHECK(b.channels == (f ? (ch == 2 || ch == 4 ? 4 : 3) : (ch < 3 ? 1 : 3)));
            fv_image_free(ctx, &b);
            o.channels = ch;
            OK(ctx, fv_image_decode(ctx, &b, bytes, n, &o));
            CHECK_MSG(psnr(&a, &b) > 36, "%d channels, format %d: %.1f dB", ch, f, psnr(&a, &b));
            fv_free(ctx, bytes);
            fv_image_free(ctx, &a);
            fv_image_free(ctx, &b);
        }
    fv_image a = picture(20, 20, 3, 16, 0), b; /* 16 bits are rounded to 8 */
    uint8_t *bytes;
    size_t n;
    OK(ctx, encode(&a, FV_IMAGE_JPEG, 0, &bytes, &n));
    OK(ctx, fv_image_decode(ctx, &b, bytes, n, NULL));
    CHECK(b.depth == 8 && b.channels == 3);
    fv_free(ctx, bytes);
    fv_image_free(ctx, &a);
    fv_image_free(ctx, &b);
    CHECK(live_bytes() == 0);
}

static void metadata_survives_every_format(void)
{
    static const struct {
        fv_image_format f;
        int lossless;
    } cases[] = {{FV_IMAGE_PNG, 0}, {FV_IMAGE_JPEG, 0}, {FV_IMAGE_WEBP, 0}, {FV_IMAGE_WEBP, 1}};
    for (size_t k = 0; k < FV_ARRAY_LEN(cases); k++)
        for (int ch = 1; ch <= 4; ch++) {
            if (cases[k].f == FV_IMAGE_WEBP && ch < 3) continue;
            fv_image a = picture(9, 5, ch, 8, 1), b;
            OK(ctx, dress(&a));
            uint8_t *bytes;
            size_t n;
            OK(ctx, encode(&a, cases[k].f, cases[k].lossless, &bytes, &n));
            OK(ctx, decode_all(&b, bytes, n));
            CHECK(b.icc_bytes == a.icc_bytes && memcmp(a.icc, b.icc, a.icc_bytes) == 0);
            CHECK(b.exif_bytes == a.exif_bytes && memcmp(a.exif, b.exif, a.exif_bytes) == 0);
            CHECK_MSG(b.text_count == TEXT_COUNT, "%d entries", b.text_count);
            for (int i = 0; i < 2 * TEXT_COUNT; i++)
                CHECK_MSG(strcmp(b.text[i], texts[i]) == 0, "format %d: \"%s\" for \"%s\"",
                          (int)cases[k].f, b.text[i], texts[i]);
            CHECK(strcmp(fv_image_text(&b, "Title"), "plain") == 0 && !fv_image_text(&b, "title"));
            fv_image_free(ctx, &b);
            OK(ctx, fv_image_decode(ctx, &b, bytes, n, NULL)); /* not asked: not there */
            CHECK(!b.icc && !b.exif && !b.text && b.text_count == 0);
            fv_image_free(ctx, &b);
            fv_free(ctx, bytes);
            fv_image_free(ctx, &a);
        }
    CHECK(live_bytes() == 0);
}

static void foreign_xmp_and_comments_are_kept(void)
{
    static const char xmp[] =
        "<x:xmpmeta xmlns:x='adobe:ns:meta/'><dc:title>t</dc:title></x:xmpmeta>";
    static const fv_image_format formats[] = {FV_IMAGE_PNG, FV_IMAGE_JPEG, FV_IMAGE_WEBP};
    for (size_t k = 0; k < FV_ARRAY_LEN(formats); k++) {
        fv_image a = picture(3, 3, 3, 8, 1), b;
        OK(ctx, fv_image_add_text(ctx, &a, "XML:com.adobe.xmp", xmp));
        if (formats[k] == FV_IMAGE_JPEG)
            OK(ctx, fv_image_add_text(ctx, &a, "Comment", "made by hand"));
        uint8_t *bytes;
        size_t n;
        OK(ctx, encode(&a, formats[k], 0, &bytes, &n));
        OK(ctx, decode_all(&b, bytes, n));
        CHECK(fv_image_text(&b, "XML:com.adobe.xmp") &&
              strcmp(fv_image_text(&b, "XML:com.adobe.xmp"), xmp) == 0);
        if (formats[k] == FV_IMAGE_JPEG)
            CHECK(strcmp(fv_image_text(&b, "Comment"), "made by hand") == 0);
        fv_image_free(ctx, &a);
        fv_image_free(ctx, &b);
        fv_free(ctx, bytes);
    }
    CHECK(live_bytes() == 0);
}

static void text_rules_are_enforced(void)
{
    fv_image a = picture(2, 2, 1, 8, 0);
    char key[82];
    memset(key, 'k', sizeof key);
    key[80] = 0;
    CHECK(fv_image_add_text(ctx, &a, key, "v") == FV_ERR_ARG);
    key[79] = 0;
    OK(ctx, fv_image_add_text(ctx, &a, key, "v"));
    CHECK(fv_image_add_text(ctx, &a, "", "v") == FV_ERR_ARG);
    CHECK(fv_image_add_text(ctx, &a, " a", "v") == FV_ERR_ARG);
    CHECK(fv_image_add_text(ctx, &a, "a ", "v") == FV_ERR_ARG);
    CHECK(fv_image_add_text(ctx, &a, "a  b", "v") == FV_ERR_ARG);
    CHECK(fv_image_add_text(ctx, &a, "a\n", "v") == FV_ERR_ARG);
    CHECK(fv_image_add_text(ctx, &a, "a", "\xff") == FV_ERR_ARG);
    CHECK(fv_image_add_text(ctx, &a, "a", "\x01") == FV_ERR_ARG);
    CHECK(fv_image_add_text(ctx, &a, "a", "\xef\xbf\xbf") == FV_ERR_ARG);
    CHECK(fv_image_add_text(ctx, &a, "a", NULL) == FV_ERR_ARG);
    CHECK(a.text_count == 1);
    char *big = calloc(1, 70001); /* more than a JPEG segment */
    CHECK(big != NULL);
    memset(big, 'x', 70000);
    OK(ctx, fv_image_add_text(ctx, &a, "big", big));
    free(big);
    uint8_t *bytes;
    size_t n;
    CHECK(encode(&a, FV_IMAGE_JPEG, 0, &bytes, &n) == FV_ERR_UNSUPPORTED && bytes == NULL &&
          n == 0);
    fv_image_free(ctx, &a);
    CHECK(live_bytes() == 0);
}

/* ---- PNG of every kind, made with libpng ----------------------------------------------------- */

typedef struct buffer {
    uint8_t *data;
    size_t size, capacity;
} buffer;

static void buffer_add(buffer *b, const void *p, size_t n)
{
    if (b->size + n > b->capacity) {
        b->capacity = (b->size + n) * 2;
        b->data = realloc(b->data, b->capacity);
        if (!b->data) exit(2);
    }
    memcpy(b->data + b->size, p, n);
    b->size += n;
}
static void on_png_write(png_structp p, png_bytep d, size_t n)
{
    buffer_add(png_get_io_ptr(p), d, n);
}
static void on_png_flush(png_structp p)
{
    (void)p;
}

typedef struct png_kind {
    int type, bits, interlace, trns;
} png_kind;

/* Sample c of pixel x, y before expansion. */
static uint32_t raw_sample(int x, int y, int c, int bits)
{
    return (uint32_t)(x * 5 + y * 3 + c * 7 + x * y) * 2654435761u >> (32 - bits);
}

static buffer make_png(png_kind k, int w, int h)
{
    buffer b = {0};
    png_structp p = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop i = p ? png_create_info_struct(p) : NULL;
    if (!i || setjmp(png_jmpbuf(p))) exit(2);
    png_set_write_fn(p, &b, on_png_write, on_png_flush);
    png_set_IHDR(p, i, (png_uint_32)w, (png_uint_32)h, k.bits, k.type, k.interlace,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_color palette[256];
    png_byte alpha[256];
    for (int c = 0; c < 256; c++) {
        palette[c] = (png_color){(png_byte)c, (png_byte)(c * 3), (png_byte)(255 - c)};
        alpha[c] = (png_byte)(c * 5);
    }
    if (k.type == PNG_COLOR_TYPE_PALETTE) png_set_PLTE(p, i, palette, 1 << k.bits);
    const png_color_16 key = {
        0, (png_uint_16)raw_sample(1, 0, 0, k.bits), (png_uint_16)raw_sample(1, 0, 1, k.bits),
        (png_uint_16)raw_sample(1, 0, 2, k.bits), (png_uint_16)raw_sample(1, 0, 0, k.bits)};
    if (k.trns && k.type == PNG_COLOR_TYPE_PALETTE)
        png_set_tRNS(p, i, alpha, 1 << k.bits, NULL);
    else if (k.trns)
        png_set_tRNS(p, i, NULL, 0, &key);
    png_write_info(p, i);
    const int ch = png_get_channels(p, i), passes = png_set_interlace_handling(p);
    uint8_t row[1024];
    for (int pass = 0; pass < passes; pass++)
        for (int y = 0; y < h; y++) {
            memset(row, 0, sizeof row);
            for (int n = 0; n < w * ch; n++) {
                const uint32_t v = raw_sample(n / ch, y, n % ch, k.bits);
                if (k.bits == 16)
                    row[2 * n] = (uint8_t)(v >> 8), row[2 * n + 1] = (uint8_t)v;
                else
                    row[n * k.bits / 8] |= (uint8_t)(v << (8 - k.bits - n * k.bits % 8));
            }
            png_write_row(p, row);
        }
    png_write_end(p, i);
    png_destroy_write_struct(&p, &i);
    return b;
}

/* Expected value of channel c after expansion. */
static uint32_t expected(png_kind k, int x, int y, int c, int raw_channels)
{
    const uint32_t max = (1u << k.bits) - 1, out = k.bits == 16 ? 65535 : 255;
    if (k.type == PNG_COLOR_TYPE_PALETTE) {
        const uint32_t v = raw_sample(x, y, 0, k.bits);
        return (c == 0 ? v : c == 1 ? v * 3 : c == 2 ? 255 - v : v * 5) & 255;
    }
    if (c < raw_channels) return raw_sample(x, y, c, k.bits) * (out / max);
    for (int i = 0; i < raw_channels; i++) /* transparency by colour key */
        if (raw_sample(x, y, i, k.bits) != raw_sample(1, 0, i, k.bits)) return out;
    return 0;
}

static void png_kinds_expand(void)
{
    static const struct {
        int type, bits;
    } types[] = {{PNG_COLOR_TYPE_GRAY, 1},        {PNG_COLOR_TYPE_GRAY, 2},
                 {PNG_COLOR_TYPE_GRAY, 4},        {PNG_COLOR_TYPE_GRAY, 8},
                 {PNG_COLOR_TYPE_GRAY, 16},       {PNG_COLOR_TYPE_GRAY_ALPHA, 8},
                 {PNG_COLOR_TYPE_GRAY_ALPHA, 16}, {PNG_COLOR_TYPE_RGB, 8},
                 {PNG_COLOR_TYPE_RGB, 16},        {PNG_COLOR_TYPE_RGB_ALPHA, 8},
                 {PNG_COLOR_TYPE_RGB_ALPHA, 16},  {PNG_COLOR_TYPE_PALETTE, 1},
                 {PNG_COLOR_TYPE_PALETTE, 2},     {PNG_COLOR_TYPE_PALETTE, 4},
                 {PNG_COLOR_TYPE_PALETTE, 8}};
    static const int raw[] = {1, 0, 3, 3, 2, 0, 4};
    for (size_t t = 0; t < FV_ARRAY_LEN(types); t++)
        for (int variant = 0; variant < 4; variant++) {
            const png_kind k = {types[t].type, types[t].bits, variant & 1, variant >> 1};
            if (k.trns && (k.type & PNG_COLOR_MASK_ALPHA)) continue;
            buffer b = make_png(k, 19, 13);
            fv_image i;
            OK(ctx, fv_image_decode(ctx, &i, b.data, b.size, NULL));
            CHECK(i.width == 19 && i.height == 13 && i.depth == (k.bits == 16 ? 16 : 8));
            CHECK(i.channels == raw[k.type] + k.trns);
            for (int y = 0; y < 13; y++)
                for (int x = 0; x < 19; x++)
                    for (int c = 0; c < i.channels; c++)
                        CHECK_MSG(get(&i, x, y, c) == expected(k, x, y, c, raw[k.type]),
                                  "type %d bits %d variant %d at %d,%d,%d: %u", k.type, k.bits,
                                  variant, x, y, c, get(&i, x, y, c));
            fv_image_free(ctx, &i);
            free(b.data);
        }
    CHECK(live_bytes() == 0);
}

/* ---- JPEG kinds, made with libjpeg ----------------------------------------------------------- */

static buffer make_jpeg(int components, J_COLOR_SPACE space, int progressive)
{
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr e;
    unsigned char *mem = NULL;
    unsigned long n = 0;
    c.err = jpeg_std_error(&e);
    jpeg_create_compress(&c);
    jpeg_mem_dest(&c, &mem, &n);
    c.image_width = 24;
    c.image_height = 16;
    c.input_components = components;
    c.in_color_space = space;
    jpeg_set_defaults(&c);
    jpeg_set_quality(&c, 98, TRUE);
    if (progressive) jpeg_simple_progression(&c);
    jpeg_start_compress(&c, TRUE);
    uint8_t row[24 * 4];
    for (int y = 0; y < 16; y++) {
        for (int i = 0; i < 24 * components; i++)
            row[i] = (uint8_t)(40 + i % components * 30 + i / components * 3 + y);
        JSAMPROW r = row;
        jpeg_write_scanlines(&c, &r, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    buffer b = {0};
    buffer_add(&b, mem, n);
    free(mem);
    return b;
}

static void jpeg_kinds_decode(void)
{
    for (int progressive = 0; progressive < 2; progressive++) {
        buffer b = make_jpeg(4, JCS_CMYK, progressive);
        fv_image i;
        OK(ctx, fv_image_decode(ctx, &i, b.data, b.size, NULL));
        CHECK(i.channels == 3);
        for (int y = 0; y < 16; y++)
            for (int x = 0; x < 24; x++)
                for (int c = 0; c < 3; c++) { /* libjpeg marks it as Adobe's: inverted */
                    const double k = (40 + 90 + x * 3 + y) / 255.0, v = 40 + c * 30 + x * 3 + y;
                    NEAR(get(&i, x, y, c), v * k, 4);
                }
        fv_image_free(ctx, &i);
        free(b.data);
        b = make_jpeg(3, JCS_RGB, progressive);
        OK(ctx, fv_image_decode(ctx, &i, b.data, b.size, NULL));
        NEAR(get(&i, 8, 8, 0), 40 + 24 + 8, 5);
        NEAR(get(&i, 8, 8, 2), 100 + 24 + 8, 5);
        fv_image_free(ctx, &i);
        free(b.data);
    }
    CHECK(live_bytes() == 0);
}

/* ---- PNM ------------------------------------------------------------------------------------- */

static void pnm_kinds_decode(void)
{
    static const struct {
        const char *text;
        size_t size;
        int w, h, ch, depth;
        uint32_t v[6];
    } t[] = {
#define S(x) x, sizeof x - 1
        {S("P1\n# c\n3 2\n101\n0 1 0\n"), 3, 2, 1, 8, {0, 255, 0, 255, 0, 255}},
        {S("P2 2 2 15 # c\n 0 15 7 8"), 2, 2, 1, 8, {0, 255, 119, 136}},
        {S("P3\n1 1\n1023\n0 1023 512\n"), 1, 1, 3, 16, {0, 65535, 32800}},
        {S("P4\n3 2\n\xa0\x40"), 3, 2, 1, 8, {0, 255, 0, 255, 0, 255}},
        {S("P5\n2 1\n255\n\x01\xff trailing"), 2, 1, 1, 8, {1, 255}},
        {S("P5\n2 1\n65535\n\x01\x02\xff\xfe"), 2, 1, 1, 16, {258, 65534}},
        {S("P6\n1 1\n100\n\x00\x32\x64"), 1, 1, 3, 8, {0, 128, 255}},
        {S("P7\nWIDTH 1\nHEIGHT 1\n# c\nDEPTH 4\nMAXVAL 255\nTUPLTYPE "
           "RGB_ALPHA\nENDHDR\n\x01\x02\x03\x04"),
         1,
         1,
         4,
         8,
         {1, 2, 3, 4}},
        {S("P7\nWIDTH 2\nHEIGHT 1\nDEPTH 1\nMAXVAL 1\nTUPLTYPE BLACKANDWHITE\nENDHDR\n\x01\x00"),
         2,
         1,
         1,
         8,
         {255, 0}},
    };
    for (size_t k = 0; k < FV_ARRAY_LEN(t); k++) {
        fv_image i;
        OK(ctx, fv_image_decode(ctx, &i, t[k].text, t[k].size, NULL));
        CHECK(i.width == t[k].w && i.height == t[k].h && i.channels == t[k].ch &&
              i.depth == t[k].depth);
        for (int n = 0; n < i.width * i.height * i.channels; n++) {
            const int p = n / i.channels;
            CHECK_MSG(get(&i, p % i.width, p / i.width, n % i.channels) == t[k].v[n],
                      "case %d value %d", (int)k, n);
        }
        fv_image_free(ctx, &i);
    }
    static const struct {
        const char *text;
        size_t size;
        fv_status s;
    } bad[] = {
        {S("P5\n2 1\n70000\n\x01\xff\x01\x01"), FV_ERR_FORMAT},
        {S("P5\n2 1\n0\n\x01\xff"), FV_ERR_FORMAT},
        {S("P5\n0 1\n255\n\x01\xff"), FV_ERR_FORMAT},
        {S("P5\n2 1\n100\n\x01\xff"), FV_ERR_FORMAT},
        {S("P5\n99999999999 1\n255\n\x01\xff"), FV_ERR_FORMAT},
        {S("P5\n-2 1\n255\n\x01\xff"), FV_ERR_FORMAT},
        {S("P5\n20000 20000\n255\n\x01\xff"), FV_ERR_LIMIT},
        {S("P5\n2000 2000\n255\n\x01\xff"), FV_ERR_TRUNCATED},
        {S("P1\n2 1\n12"), FV_ERR_FORMAT},
        {S("P7\nWIDTH 1\nBOGUS 1\nENDHDR\n."), FV_ERR_FORMAT},
        {S("P7\nWIDTH 1\nHEIGHT 1\nDEPTH 5\nMAXVAL 1\nENDHDR\n....."), FV_ERR_UNSUPPORTED},
        {S("P2 2 2 15 0 15 7 16"), FV_ERR_FORMAT},
        {S("P2 2 2 15 0 15 7 "), FV_ERR_TRUNCATED},
        {S("P5\n2147483647 2147483647\n255\n\x01"), FV_ERR_LIMIT},
    };
    for (size_t k = 0; k < FV_ARRAY_LEN(bad); k++) {
        fv_image i;
        const fv_status s = fv_image_decode(ctx, &i, bad[k].text, bad[k].size, NULL);
        CHECK_MSG(s == bad[k].s && zeroed(&i), "case %d: %s", (int)k, fv_status_name(s));
    }
    CHECK(live_bytes() == 0);
}

/* ---- Conversion ------------------------------------------------------------------------------ */

static fv_status decode_as(fv_image *out, const fv_image *in, int channels, int depth, float bg)
{
    uint8_t *bytes = NULL;
    size_t n = 0;
    FV_TRY(encode(in, FV_IMAGE_PNG, 0, &bytes, &n));
    fv_image_read_options o = FV_IMAGE_READ_OPTIONS_INIT;
    o.channels = channels;
    o.depth = depth;
    o.keep_metadata = 1;
    o.background[0] = o.background[1] = o.background[2] = bg;
    const fv_status s = fv_image_decode(ctx, out, bytes, n, &o);
    fv_free(ctx, bytes);
    return s;
}

static void conversion_follows_the_formulas(void)
{
    for (int ch = 1; ch <= 4; ch++)
        for (int to = 1; to <= 4; to++)
            for (int d = 0; d < 4; d++) {
                const int depth = d & 1 ? 16 : 8, to_depth = d & 2 ? 16 : 8;
                fv_image a = picture(7, 5, ch, depth, 1), b;
                OK(ctx, decode_as(&b, &a, to, to_depth, 0.75f));
                CHECK(b.channels == to && b.depth == to_depth);
                const double max = depth == 8 ? 255 : 65535, tmax = to_depth == 8 ? 255 : 65535;
                for (int p = 0; p < 35; p++) {
                    const int x = p % 7, y = p / 7, has = ch % 2 == 0;
                    double v[4], al = has ? get(&a, x, y, ch - 1) / max : 1;
                    for (int c = 0; c < 3; c++) {
                        v[c] = get(&a, x, y, ch >= 3 ? c : 0) / max;
                        if (has && to % 2) v[c] = v[c] * al + 0.75 * (1 - al);
                    }
                    if (to <= 2) v[0] = 0.299 * v[0] + 0.587 * v[1] + 0.114 * v[2];
                    if (to % 2 == 0) v[to - 1] = al;
                    /* three roundings: over, luma, depth */
                    const double tol = 0.5 + tmax / max * 1.2 + 0.01;
                    for (int c = 0; c < to; c++) NEAR(get(&b, x, y, c), v[c] * tmax, tol);
                }
                fv_image_free(ctx, &a);
                fv_image_free(ctx, &b);
            }
    fv_image a = picture(5, 5, 3, 8, 1), b, c;
    OK(ctx, dress(&a));
    OK(ctx, decode_as(&b, &a, 3, 16, 0)); /* 8 -> 16 -> 8 is exact, the profile stays */
    CHECK(b.icc_bytes == a.icc_bytes);
    OK(ctx, decode_as(&c, &b, 3, 8, 0));
    CHECK(same(&a, &c));
    fv_image_free(ctx, &c);
    OK(ctx, decode_as(&c, &b, 1, 0, 0)); /* a colour profile does not describe grey */
    CHECK(!c.icc && c.text_count == TEXT_COUNT);
    fv_image_free(ctx, &a);
    fv_image_free(ctx, &b);
    fv_image_free(ctx, &c);
    CHECK(live_bytes() == 0);
}

static void floats_round_trip(void)
{
    for (int depth = 8; depth <= 16; depth += 8) {
        fv_image a = picture(11, 3, 3, depth, 1), b = picture(11, 3, 3, depth, 0);
        float f[99];
        fv_image_to_float(&a, -1, 1, f);
        for (int i = 0; i < 99; i++) CHECK(f[i] >= -1 && f[i] <= 1);
        NEAR(f[0], 2.0 * get(&a, 0, 0, 0) / (depth == 8 ? 255 : 65535) - 1, 1e-6);
        fv_image_from_float(&b, -1, 1, f);
        CHECK(same(&a, &b));
        f[0] = NAN;
        f[1] = INFINITY;
        f[2] = -INFINITY;
        f[3] = 7;
        fv_image_from_float(&b, -1, 1, f);
        const uint32_t max = depth == 8 ? 255 : 65535;
        CHECK(get(&b, 0, 0, 0) == 0 && get(&b, 0, 0, 1) == max && get(&b, 0, 0, 2) == 0 &&
              get(&b, 1, 0, 0) == max);
        fv_image_free(ctx, &a);
        fv_image_free(ctx, &b);
    }
}

static void crop_and_grid(void)
{
    fv_image a = picture(9, 7, 3, 16, 1), b, g;
    OK(ctx, fv_image_crop(ctx, &b, &a, 2, 3, 5, 4));
    for (int y = 0; y < 4; y++)
        for (int x = 0; x < 5; x++) CHECK(get(&b, x, y, 1) == get(&a, x + 2, y + 3, 1));
    fv_image_free(ctx, &b);
    CHECK(fv_image_crop(ctx, &b, &a, 5, 0, 5, 1) == FV_ERR_ARG && zeroed(&b));
    CHECK(fv_image_crop(ctx, &b, &a, -1, 0, 5, 1) == FV_ERR_ARG);
    CHECK(fv_image_crop(ctx, &b, &a, 0, 0, 0, 1) == FV_ERR_ARG);
    CHECK(fv_image_crop(ctx, &b, &a, 0x7fffffff, 0, 0x7fffffff, 1) == FV_ERR_ARG);
    fv_image five[5];
    for (int i = 0; i < 5; i++) five[i] = a;
    OK(ctx, fv_image_grid(ctx, &g, five, 5, 0, 2));
    CHECK(g.width == 3 * 9 + 4 && g.height == 2 * 7 + 2 && g.depth == 16);
    CHECK(get(&g, 11, 9, 2) == get(&a, 0, 0, 2) && get(&g, 9, 0, 0) == 0 &&
          get(&g, 30, 15, 0) == 0);
    fv_image_free(ctx, &g);
    OK(ctx, fv_image_grid(ctx, &g, five, 2, 8, 0));
    CHECK(g.width == 18 && g.height == 7);
    fv_image_free(ctx, &g);
    five[1].width = 8;
    CHECK(fv_image_grid(ctx, &g, five, 2, 0, 0) == FV_ERR_SHAPE && zeroed(&g));
    CHECK(fv_image_grid(ctx, &g, five, 0, 0, 0) == FV_ERR_ARG);
    CHECK(fv_image_grid(ctx, &g, five, 1, 1, -1) == FV_ERR_ARG);
    five[0].stride_bytes = 10;
    CHECK(fv_image_grid(ctx, &g, five, 1, 0, 0) == FV_ERR_ARG);
    fv_image_free(ctx, &a);
    CHECK(fv_image_create(ctx, &a, 0, 1, 1, 8) == FV_ERR_ARG &&
          fv_image_create(ctx, &a, 1, 1, 5, 8) == FV_ERR_ARG);
    CHECK(fv_image_create(ctx, &a, 1, 1, 1, 12) == FV_ERR_ARG && zeroed(&a));
    CHECK(live_bytes() == 0);
}

/* ---- Hostile input --------------------------------------------------------------------------- */

typedef struct sample_file {
    uint8_t *bytes;
    size_t size;
} sample_file;

#define SAMPLES 7
/* Small dressed files of each format. */
static fv_status make_samples(sample_file f[SAMPLES])
{
    static const struct {
        fv_image_format f;
        int lossless, channels, depth;
    } t[SAMPLES] = {{FV_IMAGE_PNG, 0, 4, 16}, {FV_IMAGE_PNG, 0, 1, 8},  {FV_IMAGE_JPEG, 0, 3, 8},
                    {FV_IMAGE_JPEG, 0, 1, 8}, {FV_IMAGE_WEBP, 0, 4, 8}, {FV_IMAGE_WEBP, 1, 3, 8},
                    {FV_IMAGE_PNM, 0, 4, 8}};
    for (int i = 0; i < SAMPLES; i++) {
        fv_image a = picture(12, 9, t[i].channels, t[i].depth, 1);
        fv_status s = dress(&a);
        if (s == FV_OK) s = encode(&a, t[i].f, t[i].lossless, &f[i].bytes, &f[i].size);
        fv_image_free(ctx, &a);
        if (s != FV_OK) return s;
    }
    return FV_OK;
}

static void truncation_fails_cleanly(void)
{
    sample_file f[SAMPLES];
    OK(ctx, make_samples(f));
    for (int i = 0; i < SAMPLES; i++) {
        const uint64_t before = live_bytes();
        for (size_t n = 0; n < f[i].size; n++) {
            uint8_t *exact = malloc(n ? n : 1); /* so that a sanitizer sees reads beyond the end */
            CHECK(exact != NULL);
            memcpy(exact, f[i].bytes, n);
            fv_image o;
            const fv_status s = decode_all(&o, exact, n);
            free(exact);
            CHECK_MSG(s == FV_ERR_TRUNCATED || s == FV_ERR_FORMAT,
                      "file %d cut to %zu of %zu bytes: %s", i, n, f[i].size, fv_status_name(s));
            CHECK(zeroed(&o) && live_bytes() == before && fv_ctx_error(ctx)[0]);
        }
    }
    for (int i = 0; i < SAMPLES; i++) fv_free(ctx, f[i].bytes);
    CHECK(live_bytes() == 0);
}

static void bit_flips_never_crash(void)
{
    sample_file f[SAMPLES];
    OK(ctx, make_samples(f));
    fv_image_read_options o = FV_IMAGE_READ_OPTIONS_INIT;
    o.keep_metadata = 1;
    o.max_pixels = 1 << 16;
    for (int i = 0; i < SAMPLES; i++) {
        const uint64_t before = live_bytes();
        for (size_t n = 0; n < f[i].size; n++) {
            const uint8_t bit = (uint8_t)(1u << (n % 8));
            f[i].bytes[n] ^= bit;
            fv_image a;
            const fv_status s = fv_image_decode(ctx, &a, f[i].bytes, f[i].size, &o);
            CHECK_MSG(s == FV_OK || (s >= 20 && s < 40) || s == FV_ERR_UNSUPPORTED,
                      "file %d byte %zu: %s", i, n, fv_status_name(s));
            CHECK(s == FV_OK || zeroed(&a));
            fv_image_free(ctx, &a);
            CHECK(live_bytes() == before);
            f[i].bytes[n] ^= bit;
        }
    }
    for (int i = 0; i < SAMPLES; i++) fv_free(ctx, f[i].bytes);
    CHECK(live_bytes() == 0);
}

static void limits_are_kept(void)
{
    sample_file f[SAMPLES];
    OK(ctx, make_samples(f));
    fv_image_read_options o = FV_IMAGE_READ_OPTIONS_INIT;
    fv_image a;
    for (int i = 0; i < SAMPLES; i++) {
        o.max_pixels = 12 * 9 - 1;
        const uint64_t before = live_bytes();
        fv_ctx_memory_reset_peak(ctx);
        CHECK(fv_image_decode(ctx, &a, f[i].bytes, f[i].size, &o) == FV_ERR_LIMIT && zeroed(&a));
        fv_memory_stats m;
        fv_ctx_memory(ctx, &m);
        CHECK(m.peak_bytes < before + 65536); /* refused before pixels are allocated */
        o.max_pixels = 12 * 9;
        OK(ctx, fv_image_decode(ctx, &a, f[i].bytes, f[i].size, &o));
        fv_image_free(ctx, &a);
    }
    /* a small file that promises 10000 x 10000 pixels is refused without taking the memory */
    for (int i = 0; i < 2; i++) {
        buffer b = make_png((png_kind){PNG_COLOR_TYPE_GRAY, 8, 0, 0}, 4, 4);
        for (int k = 16; k < 24; k += 4) b.data[k + 2] = 0x27, b.data[k + 3] = 0x10;
        /* the header's CRC, by libpng's own polynomial */
        const uint32_t crc = (uint32_t)crc32(0, b.data + 12, 17);
        for (int k = 0; k < 4; k++) b.data[29 + k] = (uint8_t)(crc >> (24 - 8 * k));
        fv_ctx_memory_reset_peak(ctx);
        CHECK(fv_image_decode(ctx, &a, b.data, b.size, NULL) == FV_ERR_TRUNCATED);
        fv_memory_stats m;
        fv_ctx_memory(ctx, &m);
        CHECK(m.peak_bytes < 4u << 20);
        free(b.data);
    }
    for (int i = 0; i < SAMPLES; i++) fv_free(ctx, f[i].bytes);
    CHECK(live_bytes() == 0);
}

static void metadata_bomb_is_refused(void)
{
    /* 40 zTXt chunks of 15 MB zeros each: 15 KB in the file, 600 MB unpacked */
    buffer b = make_png((png_kind){PNG_COLOR_TYPE_GRAY, 8, 0, 0}, 4, 4), bomb = {0};
    const size_t plain = 15u << 20;
    uLongf packed = compressBound(plain);
    uint8_t *zeros = malloc(plain), *chunk = malloc(packed + 16);
    CHECK(zeros && chunk);
    memset(zeros, 'a', plain);
    memcpy(chunk + 4, "zTXtkey\0", 9);
    CHECK(compress2(chunk + 13, &packed, zeros, plain, 9) == Z_OK);
    buffer_add(&bomb, b.data, 33);
    for (int i = 0; i < 40; i++) {
        const uint32_t n = (uint32_t)packed + 5, crc = (uint32_t)crc32(0, chunk + 4, n + 4);
        for (int k = 0; k < 4; k++) chunk[k] = (uint8_t)(n >> (24 - 8 * k));
        buffer_add(&bomb, chunk, n + 8);
        const uint8_t be[4] = {(uint8_t)(crc >> 24), (uint8_t)(crc >> 16), (uint8_t)(crc >> 8),
                               (uint8_t)crc};
        buffer_add(&bomb, be, 4);
    }
    buffer_add(&bomb, b.data + 33, b.size - 33);
    fv_image a;
    CHECK(decode_all(&a, bomb.data, bomb.size) == FV_ERR_LIMIT && zeroed(&a));
    OK(ctx, fv_image_decode(ctx, &a, bomb.data, bomb.size, NULL)); /* skipped when not asked for */
    fv_image_free(ctx, &a);
    free(b.data);
    free(bomb.data);
    free(zeros);
    free(chunk);
    CHECK(live_bytes() == 0);
}

static void bad_arguments_are_refused(void)
{
    fv_image a = picture(3, 3, 3, 8, 1), b;
    fv_image_read_options r = FV_IMAGE_READ_OPTIONS_INIT;
    fv_image_write_options w = FV_IMAGE_WRITE_OPTIONS_INIT;
    uint8_t *bytes;
    size_t n;
    r.channels = 5;
    CHECK(fv_image_decode(ctx, &b, "P5 1 1 255 x", 12, &r) == FV_ERR_ARG);
    r.channels = 0;
    r.depth = 12;
    CHECK(fv_image_decode(ctx, &b, "P5 1 1 255 x", 12, &r) == FV_ERR_ARG);
    CHECK(fv_image_decode(ctx, &b, "not a picture", 13, NULL) == FV_ERR_FORMAT);
    CHECK(fv_image_decode(ctx, &b, NULL, 0, NULL) == FV_ERR_TRUNCATED);
    w.quality = 101;
    CHECK(fv_image_encode(ctx, &a, &w, &bytes, &n) == FV_ERR_ARG);
    w.quality = 0;
    w.effort = 10;
    CHECK(fv_image_encode(ctx, &a, &w, &bytes, &n) == FV_ERR_ARG);
    w.format = FV_IMAGE_WEBP;
    w.effort = 7;
    CHECK(fv_image_encode(ctx, &a, &w, &bytes, &n) == FV_ERR_ARG);
    CHECK(fv_image_encode(ctx, NULL, NULL, &bytes, &n) == FV_ERR_ARG);
    CHECK(fv_image_resize(ctx, &a, &a, 2, 2, FV_FILTER_BOX) == FV_ERR_ARG && a.pixels);
    CHECK(fv_image_resize(ctx, &b, &a, 0, 2, FV_FILTER_BOX) == FV_ERR_ARG);
    CHECK(fv_image_resize(ctx, &b, &a, 2, 2, (fv_filter)9) == FV_ERR_ARG);
    fv_image wide = picture(17000, 1, 1, 8, 0);
    w.effort = 0;
    CHECK(fv_image_encode(ctx, &wide, &w, &bytes, &n) == FV_ERR_UNSUPPORTED);
    fv_image_free(ctx, &wide);
    wide = picture(65501, 1, 1, 8, 0);
    w.format = FV_IMAGE_JPEG;
    CHECK(fv_image_encode(ctx, &wide, &w, &bytes, &n) == FV_ERR_UNSUPPORTED);
    fv_image_free(ctx, &wide);
    fv_image_free(ctx, &a);
    CHECK(live_bytes() == 0);
}

/* ---- Resize ---------------------------------------------------------------------------------- */

static double ref_filter(int f, double x)
{
    const double pi = 3.14159265358979323846, ax = fabs(x);
    switch (f) {
    case FV_FILTER_BOX: return x > -0.5 && x <= 0.5;
    case FV_FILTER_BILINEAR: return ax < 1 ? 1 - ax : 0;
    case FV_FILTER_BICUBIC:
        return ax < 1   ? 1.5 * ax * ax * ax - 2.5 * ax * ax + 1
               : ax < 2 ? -0.5 * ax * ax * ax + 2.5 * ax * ax - 4 * ax + 2
                        : 0;
    default:
        return ax == 0 ? 1 : ax < 3 ? 3 * sin(pi * x) * sin(pi * x / 3) / (pi * pi * x * x) : 0;
    }
}

/* Weight of input i for output o, straight from the definition, over the whole axis. */
static void ref_weights(int f, int in, int out, double *w)
{
    const double s = (double)in / out, st = s > 1 ? s : 1;
    for (int o = 0; o < out; o++) {
        double sum = 0;
        for (int i = 0; i < in; i++)
            sum += w[o * in + i] = ref_filter(f, (i + 0.5 - (o + 0.5) * s) / st);
        for (int i = 0; i < in; i++) w[o * in + i] /= sum;
    }
}

static double ref_value(const fv_image *a, const double *wx, const double *wy, int c, int ch_alpha)
{
    double v = 0;
    for (int y = 0; y < a->height; y++)
        for (int x = 0; x < a->width; x++)
            v += wy[y] * wx[x] * get(a, x, y, c) * (ch_alpha >= 0 ? get(a, x, y, ch_alpha) : 1.0);
    return v;
}

static void resize_matches_the_definition(void)
{
    static const int sizes[][4] = {{23, 17, 10, 7}, {11, 9, 31, 20}, {16, 16, 4, 4}, {5, 1, 1, 1},
                                   {1, 1, 5, 3},    {13, 8, 13, 3},  {7, 30, 9, 30}};
    static double wx[64 * 64], wy[64 * 64];
    for (size_t k = 0; k < FV_ARRAY_LEN(sizes); k++)
        for (int f = 0; f < 4; f++)
            for (int ch = 1; ch <= 4; ch++)
                for (int depth = 8; depth <= 16; depth += 8) {
                    fv_image a = picture(sizes[k][0], sizes[k][1], ch, depth, 1), b;
                    const int al = ch % 2 ? -1 : ch - 1;
                    const double max = depth == 8 ? 255 : 65535;
                    OK(ctx, fv_image_resize(ctx, &b, &a, sizes[k][2], sizes[k][3], (fv_filter)f));
                    ref_weights(f, a.width, b.width, wx);
                    ref_weights(f, a.height, b.height, wy);
                    for (int y = 0; y < b.height; y++)
                        for (int x = 0; x < b.width; x++)
                            for (int c = 0; c < ch; c++) {
                                const double *px = wx + x * a.width, *py = wy + y * a.height;
                                double v = ref_value(&a, px, py, c, c == al ? -1 : al);
                                /* 8 bits round between the passes: 1/2 step times the sum of
                                 * |weights|, 1 for these two filters. With negative weights noise
                                 * is clipped there as well: the next test looks at those. */
                                if (depth == 8 && al < 0 && f >= FV_FILTER_BICUBIC) continue;
                                const double tol = depth == 8 && al < 0 ? 1.01 : 0.52;
                                if (al >= 0 && c != al) {
                                    const double s = ref_value(&a, px, py, al, -1);
                                    if (s < 2) continue; /* nearly invisible */
                                    v /= s;
                                }
                                v = v < 0 ? 0 : v > max ? max : v;
                                CHECK_MSG(fabs(v - get(&b, x, y, c)) <= tol,
                                          "%dx%d -> %dx%d filter %d ch %d depth %d: %g for %u",
                                          a.width, a.height, b.width, b.height, f, ch, depth, v,
                                          get(&b, x, y, c));
                            }
                    fv_image_free(ctx, &a);
                    fv_image_free(ctx, &b);
                }
    CHECK(live_bytes() == 0);
}

/* Values that no pass clips: here 8 bits must follow the definition with every filter. */
static void resize_8_bit_is_close_without_clipping(void)
{
    static double wx[64 * 64], wy[64 * 64];
    for (int f = 0; f < 4; f++) {
        fv_image a = picture(37, 29, 3, 8, 1), b;
        for (int y = 0; y < 29; y++)
            for (int x = 0; x < 37; x++)
                for (int c = 0; c < 3; c++) set(&a, x, y, c, 96 + get(&a, x, y, c) / 4);
        OK(ctx, fv_image_resize(ctx, &b, &a, 15, 50, (fv_filter)f));
        ref_weights(f, 37, 15, wx);
        ref_weights(f, 29, 50, wy);
        for (int y = 0; y < 50; y++)
            for (int x = 0; x < 15; x++)
                for (int c = 0; c < 3; c++)
                    NEAR(get(&b, x, y, c), ref_value(&a, wx + x * 37, wy + y * 29, c, -1),
                         0.5 + 0.5 * 1.6);
        fv_image_free(ctx, &a);
        fv_image_free(ctx, &b);
    }
}

/* CRC-32 of what Pillow 10.4 makes of the same picture with BOX, BILINEAR, BICUBIC, LANCZOS. */
static void resize_equals_pillow_to_the_bit(void)
{
    static const struct {
        int w, h, to_w, to_h;
        uint32_t crc[4];
    } t[] = {
        {39, 27, 20, 11, {0x1a8505e6, 0x5b1b4ac1, 0x17f94478, 0x62030a1e}},
        {19, 17, 64, 45, {0xa38aacd3, 0x57c5493a, 0x13652a92, 0x42fce592}},
    };
    for (size_t k = 0; k < FV_ARRAY_LEN(t); k++) {
        fv_image a = picture(t[k].w, t[k].h, 3, 8, 0), b;
        for (int y = 0; y < a.height; y++)
            for (int x = 0; x < a.width; x++)
                for (int c = 0; c < 3; c++)
                    set(&a, x, y, c, (uint32_t)(x * 37 + y * 91 + x * y * 13 + c * c * 50) & 255);
        for (int f = 0; f < 4; f++) {
            OK(ctx, fv_image_resize(ctx, &b, &a, t[k].to_w, t[k].to_h, (fv_filter)f));
            const uint32_t crc =
                (uint32_t)crc32(0, b.pixels, (uInt)(b.stride_bytes * (size_t)b.height));
            fv_image_free(ctx, &b);
            CHECK_MSG(crc == t[k].crc[f], "case %d filter %d: %08x", (int)k, f, crc);
        }
        fv_image_free(ctx, &a);
    }
    CHECK(live_bytes() == 0);
}

static void resize_keeps_constants_and_identity(void)
{
    for (int f = 0; f <= FV_FILTER_NEAREST; f++)
        for (int ch = 1; ch <= 4; ch++)
            for (int depth = 8; depth <= 16; depth += 8) {
                fv_image a = picture(21, 14, ch, depth, 1), b;
                OK(ctx, fv_image_resize(ctx, &b, &a, 21, 14, (fv_filter)f));
                CHECK(same(&a, &b));
                fv_image_free(ctx, &b);
                for (int y = 0; y < 14; y++)
                    for (int x = 0; x < 21; x++)
                        for (int c = 0; c < ch; c++)
                            set(&a, x, y, c, (depth == 8 ? 50u : 13000u) * (uint32_t)(c + 1));
                static const int to[][2] = {{1, 1}, {9, 5}, {64, 33}, {20, 14}, {1, 40}};
                for (size_t k = 0; k < FV_ARRAY_LEN(to); k++) {
                    OK(ctx, fv_image_resize(ctx, &b, &a, to[k][0], to[k][1], (fv_filter)f));
                    for (int y = 0; y < b.height; y++)
                        for (int x = 0; x < b.width; x++)
                            for (int c = 0; c < ch; c++)
                                CHECK(get(&b, x, y, c) ==
                                      (depth == 8 ? 50u : 13000u) * (uint32_t)(c + 1));
                    fv_image_free(ctx, &b);
                }
                fv_image_free(ctx, &a);
            }
    CHECK(live_bytes() == 0);
}

static void resize_is_the_same_for_any_thread_count(void)
{
    fv_ctx *four = make_ctx(4);
    for (int ch = 3; ch <= 4; ch++) {
        fv_image a = picture(301, 207, ch, 8, 1), b, c;
        OK(ctx, fv_image_resize(ctx, &b, &a, 150, 333, FV_FILTER_LANCZOS3));
        OK(four, fv_image_resize(four, &c, &a, 150, 333, FV_FILTER_LANCZOS3));
        CHECK(same(&b, &c));
        fv_image_free(ctx, &a);
        fv_image_free(ctx, &b);
        fv_image_free(four, &c);
    }
    fv_ctx_destroy(&four);
}

static void resize_nearest_picks_centres(void)
{
    fv_image a, b;
    OK(ctx, fv_image_create(ctx, &a, 5, 1, 1, 8));
    for (int x = 0; x < 5; x++) set(&a, x, 0, 0, (uint32_t)x * 10);
    OK(ctx, fv_image_resize(ctx, &b, &a, 2, 1, FV_FILTER_NEAREST));
    CHECK(get(&b, 0, 0, 0) == 10 && get(&b, 1, 0, 0) == 30);
    fv_image_free(ctx, &b);
    OK(ctx, fv_image_resize(ctx, &b, &a, 10, 2, FV_FILTER_NEAREST));
    for (int x = 0; x < 10; x++) CHECK(get(&b, x, 1, 0) == (uint32_t)(x / 2) * 10);
    fv_image_free(ctx, &a);
    fv_image_free(ctx, &b);
}

/* ---- Allocation failure ---------------------------------------------------------------------- */

static fv_status everything(const sample_file *f, fv_image_format format, int lossless)
{
    fv_image a = {0}, b = {0}, c = {0};
    uint8_t *bytes = NULL;
    size_t n = 0;
    fv_image_read_options o = FV_IMAGE_READ_OPTIONS_INIT;
    o.keep_metadata = 1;
    o.depth = 16;
    fv_status s = fv_image_decode(ctx, &a, f->bytes, f->size, &o);
    if (s == FV_OK) s = fv_image_resize(ctx, &b, &a, 5, 6, FV_FILTER_BICUBIC);
    if (s == FV_OK) s = fv_image_crop(ctx, &c, &a, 1, 1, 3, 3);
    if (s == FV_OK) s = encode(&a, format, lossless, &bytes, &n);
    fv_free(ctx, bytes);
    fv_image_free(ctx, &a);
    fv_image_free(ctx, &b);
    fv_image_free(ctx, &c);
    return s;
}

static void every_allocation_may_fail(void)
{
    static const fv_image_format formats[SAMPLES] = {FV_IMAGE_PNG,  FV_IMAGE_PNM,  FV_IMAGE_JPEG,
                                                     FV_IMAGE_WEBP, FV_IMAGE_WEBP, FV_IMAGE_WEBP,
                                                     FV_IMAGE_PNG};
    sample_file f[SAMPLES];
    OK(ctx, make_samples(f));
    const uint64_t before = live_bytes();
    for (int i = 0; i < SAMPLES; i++) {
        int64_t n = 0;
        for (fv_status s = FV_ERR_OOM; s != FV_OK; n++) {
            heap.left = n;
            s = everything(&f[i], formats[i], i % 2);
            heap.left = ALLOC_ALL;
            CHECK_MSG(s == FV_OK || s == FV_ERR_OOM, "file %d allocation %d: %s", i, (int)n,
                      fv_status_name(s));
            CHECK(live_bytes() == before && n < 5000);
        }
        CHECK(n > 3);
    }
    for (int i = 0; i < SAMPLES; i++) fv_free(ctx, f[i].bytes);
    CHECK(live_bytes() == 0);
}

/* ---- Files ----------------------------------------------------------------------------------- */

static void files_are_named_in_errors(void)
{
    char path[600];
    temp_dir_make("image");
    fv_image a = picture(6, 4, 3, 8, 1), b;
    static const char *const names[] = {"a.png", "b.PNG", "c.ppm", "d.webp", "e.jpeg", "f.pam"};
    fv_image_write_options w = FV_IMAGE_WRITE_OPTIONS_INIT;
    w.lossless = 1;
    for (size_t k = 0; k < FV_ARRAY_LEN(names); k++) {
        snprintf(path, sizeof path, "%s/%s", temp_dir, names[k]);
        OK(ctx, fv_image_write(ctx, &a, path, &w));
        OK(ctx, fv_image_read(ctx, &b, path, NULL));
        CHECK(k == 4 || same(&a, &b));
        fv_image_free(ctx, &b);
        CHECK(fv_image_write(ctx, &a, path, &w) == FV_ERR_EXISTS);
        w.overwrite = 1;
        OK(ctx, fv_image_write(ctx, &a, path, &w));
        w.overwrite = 0;
        if (k > 0) unlink(path);
    }
    snprintf(path, sizeof path, "%s/x.bmp", temp_dir);
    CHECK(fv_image_write(ctx, &a, path, NULL) == FV_ERR_ARG && strstr(fv_ctx_error(ctx), "x.bmp"));
    CHECK(fv_image_read(ctx, &b, path, NULL) == FV_ERR_NOT_FOUND &&
          strstr(fv_ctx_error(ctx), "x.bmp"));
    snprintf(path, sizeof path, "%s/a.png", temp_dir);
    fv_image_read_options r = FV_IMAGE_READ_OPTIONS_INIT;
    r.max_pixels = 3;
    CHECK(fv_image_read(ctx, &b, path, &r) == FV_ERR_LIMIT &&
          strstr(fv_ctx_error(ctx), "a.png: png: 6 x 4") && zeroed(&b));
    unlink(path);
    CHECK(rmdir(temp_dir) == 0); /* and no temporary file is left */
    fv_image_free(ctx, &a);
    CHECK(live_bytes() == 0);
}

int main(void)
{
    ctx = make_ctx(1);
    RUN(lossless_formats_are_exact);
    RUN(lossy_formats_are_close);
    RUN(metadata_survives_every_format);
    RUN(foreign_xmp_and_comments_are_kept);
    RUN(text_rules_are_enforced);
    RUN(png_kinds_expand);
    RUN(jpeg_kinds_decode);
    RUN(pnm_kinds_decode);
    RUN(conversion_follows_the_formulas);
    RUN(floats_round_trip);
    RUN(crop_and_grid);
    RUN(truncation_fails_cleanly);
    RUN(bit_flips_never_crash);
    RUN(limits_are_kept);
    RUN(metadata_bomb_is_refused);
    RUN(bad_arguments_are_refused);
    RUN(resize_matches_the_definition);
    RUN(resize_8_bit_is_close_without_clipping);
    RUN(resize_equals_pillow_to_the_bit);
    RUN(resize_keeps_constants_and_identity);
    RUN(resize_is_the_same_for_any_thread_count);
    RUN(resize_nearest_picks_centres);
    RUN(every_allocation_may_fail);
    RUN(files_are_named_in_errors);
    fv_ctx_destroy(&ctx);
    return test_end();
}
