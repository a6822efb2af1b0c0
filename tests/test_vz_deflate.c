/* test_vz_deflate.c - PNG files and deflate streams come back bit for bit; the frozen deflate makes
 * what the system's zlib makes, where that is the classic one. */
#include <zlib.h>

#include "deflate_frozen.h"
#include "vz_deflate.h"
#include "vz_fixture.h"

#define ROOM 200000

static vz_case deflated(uint32_t param, const uint8_t *data, size_t size)
{
    return (vz_case){&vz_deflate_coder, {3, 20, NULL}, param, data, size};
}

/* Bytes of several natures. */
static void make(uint8_t *p, size_t n, int nature, uint64_t seed)
{
    static const char TEXT[] =
        "the quick brown fox jumps over the lazy dog; pack my box with five ";
    for (size_t i = 0; i < n; i++) {
        const uint32_t r = test_next(&seed);
        p[i] = (uint8_t)(nature == 0   ? r >> 13
                         : nature == 1 ? 0
                         : nature == 2 ? (uint8_t)TEXT[(i + (r % 31 == 0 ? r >> 8 & 7 : 0)) % 67]
                         : nature == 3 ? (r & 7) * (r >> 9 & 1)
                                       : i / 40 + (r % 17 == 0));
    }
}

static size_t zlib_raw(const uint8_t *in, size_t n, int level, int window, int mem, int strategy,
                       uint8_t *out)
{
    z_stream z;
    memset(&z, 0, sizeof z);
    if (deflateInit2(&z, level, 8, -window, mem, strategy) != Z_OK) abort();
    z.next_in = (Bytef *)(uintptr_t)in;
    z.avail_in = (uInt)n;
    z.next_out = out;
    z.avail_out = ROOM;
    if (deflate(&z, Z_FINISH) != Z_STREAM_END) abort();
    deflateEnd(&z);
    return (size_t)z.total_out;
}

static void frozen_deflate_equals_classic_zlib(void)
{
    static uint8_t data[90000], out[ROOM];
    static const size_t SIZES[] = {1, 2, 3, 300, 90000};
    fv_ctx *ctx = vz_test_ctx(0, 0);
    for (int level = 1; level <= 9; level++)
        for (int nature = 0; nature < 5; nature++)
            for (size_t i = 0; i < FV_ARRAY_LEN(SIZES); i++) {
                const int k = level + nature + (int)i;
                vz_frozen f = {level, k % 5,
                               k % 3 == 0   ? 9
                               : k % 3 == 1 ? 8
                                            : 1 + k % 7,
                               k % 2 ? 15 : 9 + k % 7};
                if (level == 6 || level == 9) f.strategy = nature & 1;
                const size_t n = SIZES[i];
                make(data, n, nature, i + 1);
                const size_t want =
                    zlib_raw(data, n, f.level, f.window_bits, f.mem_level, f.strategy, out);
                vz_buf b;
                bool same;
                vz_buf_init(&b, ctx);
                const fv_status s = vz_frozen_deflate(ctx, &f, data, n, out, want, 0, &b, &same);
                const bool good = s == FV_OK && same && b.size == want;
                vz_buf_free(&b);
                CHECK_MSG(good, "level %d nature %d size %d strategy %d mem %d window %d", level,
                          nature, (int)n, f.strategy, f.mem_level, f.window_bits);
            }
    fv_ctx_destroy(&ctx);
}

static void frozen_deflate_never_changes(void)
{
    static uint8_t data[70000];
    uint32_t crc = 0;
    fv_ctx *ctx = vz_test_ctx(0, 0);
    for (int level = 1; level <= 9; level++)
        for (int strategy = 0; strategy < 5; strategy++) {
            const vz_frozen f = {level, strategy, 8 + (level & 1), 15 - strategy};
            vz_buf b;
            bool same;
            make(data, sizeof data, strategy, (uint64_t)level);
            vz_buf_init(&b, ctx);
            const fv_status s =
                vz_frozen_deflate(ctx, &f, data, sizeof data, NULL, 0, 0, &b, &same);
            crc = fv_crc32(crc, b.data, b.size);
            vz_buf_free(&b);
            CHECK(s == FV_OK);
        }
    fv_ctx_destroy(&ctx);
    CHECK_MSG(crc == 0xba42fda8u, "checksum 0x%08x", crc);
}

/* ---- PNG
 * ------------------------------------------------------------------------------------------ */

typedef struct form {
    int colour, depth, interlace;
    uint32_t w, h;
    int level, strategy, mem;
    size_t idat; /* bytes of each chunk */
    int odd; /* bits: 1 chunks before and behind, 2 wrong CRC, 4 wrong checksum, 8 uneven chunks,
                16 bytes behind the stream */
} form;

static size_t put_chunk(uint8_t *to, const char *type, const uint8_t *data, size_t n)
{
    put_number(to, (uint32_t)n, 4, true);
    memcpy(to + 4, type, 4);
    if (n) memcpy(to + 8, data, n);
    put_number(to + 8 + n, (uint32_t)crc32(0, to + 4, (uInt)n + 4), 4, true);
    return n + 12;
}

/* Smooth samples with noise, as rows with filters 0 to 4 in turn. */
static void make_rows(uint8_t *rows, size_t n, size_t row, size_t step, int depth)
{
    static uint8_t plain[60000];
    uint64_t seed = n;
    for (size_t i = 0; i < n; i++) {
        const size_t x = i % (row + 1), y = i / (row + 1);
        plain[i] = (uint8_t)(depth == 16 && x % 2 ? 7 : x + y + (test_next(&seed) & 3));
        if (depth < 8) plain[i] = (uint8_t)(x / 5 % 3 * 0x55);
    }
    for (size_t i = 0; i < n; i++) {
        const size_t x = i % (row + 1), y = i / (row + 1);
        const int a = x > step ? plain[i - step] : 0, b = y ? plain[i - row - 1] : 0;
        const int c = x > step && y ? plain[i - step - row - 1] : 0, p = a + b - c;
        const int paeth = abs(p - a) <= abs(p - b) && abs(p - a) <= abs(p - c) ? a
                          : abs(p - b) <= abs(p - c)                           ? b
                                                                               : c;
        const int by[5] = {0, a, b, (a + b) / 2, paeth};
        rows[i] = x == 0 ? (uint8_t)(y % 5) : (uint8_t)(plain[i] - by[y % 5]);
    }
}

static size_t make_png(const form *f, uint8_t *out)
{
    static const int CHANNELS[7] = {1, 0, 3, 1, 2, 0, 4};
    static uint8_t rows[60000], z[ROOM];
    const size_t row = ((size_t)f->w * (size_t)(CHANNELS[f->colour] * f->depth) + 7) / 8;
    uint8_t ihdr[13] = {0};
    size_t n = (row + 1) * f->h, at = 8;
    if (f->interlace) n += 3 * f->h;
    const size_t step = (size_t)(CHANNELS[f->colour] * f->depth + 7) / 8;
    make_rows(rows, n, row, step, f->depth);
    z[0] = 0x78;
    z[1] = 0xda;
    size_t size = 2 + zlib_raw(rows, n, f->level, 15, f->mem, f->strategy, z + 2);
    put_number(z + size, (uint32_t)adler32(1, rows, (uInt)n) ^ (f->odd & 4 ? 1 : 0), 4, true);
    size += 4;
    if (f->odd & 16) z[size++] = 'x';
    memcpy(out, "\x89PNG\r\n\x1a\n", 8);
    put_number(ihdr, f->w, 4, true);
    put_number(ihdr + 4, f->h, 4, true);
    ihdr[8] = (uint8_t)f->depth;
    ihdr[9] = (uint8_t)f->colour;
    ihdr[12] = (uint8_t)f->interlace;
    at += put_chunk(out + at, "IHDR", ihdr, 13);
    if (f->colour == 3) at += put_chunk(out + at, "PLTE", rows, 12);
    if (f->odd & 1) at += put_chunk(out + at, "tRNS", ihdr, 4);
    for (size_t i = 0; i < size;) {
        size_t part = f->idat + (f->odd & 8 ? i % 7 : 0);
        if (part > size - i) part = size - i;
        at += put_chunk(out + at, "IDAT", z + i, part);
        if ((f->odd & 2) && i == 0) out[at - 1] ^= 1;
        i += part;
    }
    if (f->odd & 1) at += put_chunk(out + at, "fdAT", rows, 30);
    return at + put_chunk(out + at, "IEND", NULL, 0);
}

static const form FORMS[] = {
    {0, 8, 0, 40, 30, 9, 1, 9, 65536, 0},  {2, 8, 0, 31, 20, 6, 1, 8, 8192, 0},
    {6, 8, 0, 25, 20, 9, 0, 8, 300, 0},    {4, 8, 0, 33, 9, 1, 1, 8, 65536, 1},
    {0, 16, 0, 30, 17, 9, 1, 9, 65536, 0}, {2, 16, 0, 14, 17, 6, 0, 8, 100, 2},
    {6, 16, 0, 9, 11, 5, 1, 8, 65536, 4},  {4, 16, 0, 40, 20, 2, 0, 8, 500, 8},
    {3, 8, 0, 50, 20, 9, 0, 8, 65536, 1},  {3, 4, 0, 51, 20, 9, 0, 9, 65536, 0},
    {0, 1, 0, 99, 20, 9, 0, 8, 65536, 16}, {0, 2, 0, 41, 5, 7, 0, 8, 65536, 0},
    {2, 8, 1, 20, 20, 9, 1, 8, 65536, 0},  {3, 2, 1, 21, 9, 8, 0, 8, 64, 9},
    {2, 8, 0, 1, 1, 9, 1, 8, 65536, 0},    {0, 8, 0, 1, 60, 9, 2, 8, 65536, 0},
    {2, 8, 0, 60, 1, 9, 3, 8, 65536, 31},  {0, 8, 0, 300, 150, 4, 1, 9, 8192, 0}};

static void every_form_of_png_returns(void)
{
    static uint8_t data[ROOM];
    fv_ctx *ctx = vz_test_ctx(0, 0);
    for (size_t i = 0; i < FV_ARRAY_LEN(FORMS); i++) {
        uint32_t param;
        const size_t size = make_png(&FORMS[i], data);
        CHECK_MSG(vz_png_detect(data, size, false, &param) == size, "form %d", (int)i);
        const int64_t code = vz_round_trip(ctx, deflated(param, data, size), NULL);
        CHECK_MSG(code > 0 && code < (int64_t)size, "form %d: %d of %d", (int)i, (int)code,
                  (int)size);
        data[size] = 'x'; /* what follows is not part of it */
        CHECK(vz_png_detect(data, size + 1, false, &param) == size);
        CHECK(vz_png_detect(data, size - 1, false, &param) == 0);
    }
    fv_ctx_destroy(&ctx);
}

static void foreign_streams_do_not_fit(void)
{
    static uint8_t data[ROOM];
    fv_ctx *ctx = vz_test_ctx(0, 0);
    bool fits = true;
    uint32_t param;
    vz_buf b;
    vz_buf_init(&b, ctx);
    vz_buf_byte(&b, 7);
    form f = FORMS[0];
    f.level = 0; /* stored: not zlib's usual way */
    f.strategy = 0;
    const size_t size = make_png(&f, data);
    CHECK(vz_png_detect(data, size, true, &param) == size);
    const vz_case t = deflated(param, data, size);
    const bool good = vz_case_encode(ctx, &t, &b, &fits) == FV_OK;
    const size_t left = b.size;
    vz_buf_free(&b);
    fv_ctx_destroy(&ctx);
    CHECK(good && !fits && left == 1);
}

static void streams_return_and_are_found(void)
{
    static uint8_t plain[30000], data[ROOM];
    static const char ZIP[30] = "PK\3\4\24\0\0\0\10";
    fv_ctx *ctx = vz_test_ctx(0, 0);
    for (int wrap = 0; wrap < 3; wrap++) {
        uint32_t param;
        uint64_t budget = 1 << 20;
        size_t n = wrap == 0 ? 2 : wrap == 1 ? 10 : 33;
        make(plain, sizeof plain, 2, (uint64_t)wrap);
        if (wrap == 0) memcpy(data, "\x78\x9c", 2);
        if (wrap == 1) memcpy(data, "\x1f\x8b\x08\0\0\0\0\0\0\3", 10);
        if (wrap == 2) {
            memcpy(data, ZIP, 30);
            data[26] = 3;
            memcpy(data + 30, "a.b", 3);
        }
        n += zlib_raw(plain, sizeof plain, 6 + wrap, 15, 8, 0, data + n);
        const size_t whole = n;
        put_number(data + n, (uint32_t)adler32(1, plain, sizeof plain), 4, true);
        memset(data + n + 4, 0, 100);
        const size_t found = vz_stream_detect(ctx, data, n + 104, 9, &param, &budget);
        CHECK_MSG(found == whole, "wrap %d: %d", wrap, (int)found);
        CHECK(vz_stream_detect(ctx, data, n / 2, 9, &param, &budget) == 0);
        const int64_t code = vz_round_trip(ctx, deflated(param, data, found), NULL);
        CHECK(code > 0 && code < (int64_t)found);
    }
    fv_ctx_destroy(&ctx);
}

static void wrong_code_is_survived(void)
{
    static uint8_t data[ROOM];
    for (size_t k = 1; k < 13; k += 11) {
        uint32_t param = 0;
        const size_t size = make_png(&FORMS[k], data);
        CHECK(vz_png_detect(data, size, true, &param) == size);
        wrong_codes_are_survived(deflated(param, data, size));
    }
}

static void memory_is_at_most_what_was_declared(void)
{
    static uint8_t data[ROOM];
    for (size_t k = 0; k < FV_ARRAY_LEN(FORMS); k += 3) {
        uint32_t param = 0;
        const size_t size = make_png(&FORMS[k], data);
        CHECK(vz_png_detect(data, size, true, &param) == size);
        memory_is_as_declared(deflated(param, data, size));
    }
}

static void allocations_may_fail(void)
{
    static uint8_t data[ROOM];
    uint32_t param;
    const size_t size = make_png(&FORMS[14], data);
    CHECK(vz_png_detect(data, size, true, &param) == size);
    each_allocation_may_fail(deflated(param, data, size));
}

/* As flat as noise to look at, and larger than the blocks for which everything is tried. */
static void large_png_is_not_taken_for_noise(void)
{
    enum { W = 250, H = 500, ROW = 3 * W + 1, SIZE = ROW * H, MOST = 3 * SIZE };
    fv_ctx *ctx = vz_test_ctx(0, 0);
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    uint8_t *rows = calloc(1, SIZE), *z = malloc(MOST), *png = malloc(MOST), *out = NULL;
    uint8_t ihdr[13] = {0, 0, 0, W, 0, 0, H >> 8, H & 255, 8, 2};
    uLongf n = MOST;
    size_t at = 8, got = 0;
    uint64_t seed = 5;
    for (size_t i = 0; i < SIZE; i++) { /* in a row, one byte of a pixel decides the others */
        const uint32_t noise = (uint32_t)(test_next(&seed) >> 9);
        if (i % ROW) rows[i] = (uint8_t)(i % ROW % 3 == 1 ? noise : rows[i - 1] + i / ROW);
    }
    CHECK(compress2(z, &n, rows, SIZE, 6) == Z_OK);
    memcpy(png, "\x89PNG\r\n\x1a\n", 8);
    at += put_chunk(png + at, "IHDR", ihdr, 13);
    at += put_chunk(png + at, "IDAT", z, n);
    at += put_chunk(png + at, "IEND", NULL, 0);
    CHECK(at > (size_t)256 << 10);
    o.level = 1;
    CHECK(fv_vzip_compress(ctx, png, at, &o, &out, &got) == FV_OK);
    CHECK_MSG(got < at - at / 100, "%d of %d bytes", (int)got, (int)at);
    fv_free(ctx, out);
    fv_ctx_destroy(&ctx);
    free(png);
    free(z);
    free(rows);
}

int main(void)
{
    if (strstr(zlibVersion(), "ng"))
        SKIP(frozen_deflate_equals_classic_zlib, "zlib is zlib-ng");
    else
        RUN(frozen_deflate_equals_classic_zlib);
    RUN(frozen_deflate_never_changes);
    RUN(every_form_of_png_returns);
    RUN(large_png_is_not_taken_for_noise);
    RUN(foreign_streams_do_not_fit);
    RUN(streams_return_and_are_found);
    RUN(wrong_code_is_survived);
    RUN(memory_is_at_most_what_was_declared);
    RUN(allocations_may_fail);
    return test_end();
}
