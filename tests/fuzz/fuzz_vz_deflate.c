/* fuzz_vz_deflate.c - PNG files and streams whose checksums are right, so that mutations reach what
 * is behind them, and the frozen deflate.
 *
 * Byte 0: what; bytes 1 to 7: parameters; the rest: content.
 *     0  the rest through the frozen deflate: zlib must inflate it to the same
 *     1  the rest is the raw stream in the IDAT chunks of a PNG
 *     2  the rest are rows, deflated into such a PNG; byte 7 damages a byte of the stream
 *     3  the rest deflated behind a gzip header
 *     4  the rest is code: decoded as either form */
#include <string.h>
#include <zlib.h>

#include "deflate_frozen.h"
#include "fuzz_ctx.h"
#include "vz_deflate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ROOM 65536
static uint8_t file[ROOM], back[ROOM];

static void be(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static void round_trip(fv_ctx *ctx, int level, uint32_t param, size_t size)
{
    const vz_cm_options o = {fuzz_level(level, file, size), 20, NULL};
    bool fits = false;
    vz_buf b;
    vz_buf_init(&b, ctx);
    if (vz_deflate_coder.encode(ctx, &o, param, file, size, &b, &fits) != FV_OK) abort();
    if (fits && (vz_deflate_coder.decode(ctx, &o, param, b.data, b.size, back, size) != FV_OK ||
                 memcmp(back, file, size) != 0))
        abort();
    vz_buf_free(&b);
}

static vz_frozen parameters_of(const uint8_t *p)
{
    const vz_frozen f = {1 + p[1] % 9, p[1] / 9 % 5, 1 + p[2] % 9, 9 + p[2] / 9 % 7};
    return f;
}

static void deflate_into(fv_ctx *ctx, const vz_frozen *f, const uint8_t *p, size_t n, vz_buf *out)
{
    bool same;
    if (vz_frozen_deflate(ctx, f, p, n, NULL, 0, 0, out, &same) != FV_OK || !same) abort();
}

static void check_frozen(fv_ctx *ctx, const uint8_t *p, const uint8_t *rest, size_t n)
{
    const vz_frozen f = parameters_of(p);
    vz_buf b;
    z_stream z;
    vz_buf_init(&b, ctx);
    deflate_into(ctx, &f, rest, n, &b);
    memset(&z, 0, sizeof z);
    if (inflateInit2(&z, -15) != Z_OK) exit(1);
    z.next_in = b.data;
    z.avail_in = (uInt)b.size;
    z.next_out = back;
    z.avail_out = sizeof back;
    if (inflate(&z, Z_FINISH) != Z_STREAM_END || z.total_out != n || memcmp(back, rest, n) != 0)
        abort();
    inflateEnd(&z);
    vz_buf_free(&b);
}

static size_t put_chunk(size_t at, const char *type, const uint8_t *data, size_t n)
{
    be(file + at, (uint32_t)n);
    memcpy(file + at + 4, type, 4);
    if (n) memcpy(file + at + 8, data, n);
    be(file + at + 8 + n, (uint32_t)crc32(0, file + at + 4, (uInt)n + 4));
    return at + 12 + n;
}

/* p: 1 and 2 level and window, 3 width, 4 height, 5 depth and colour, 6 size of IDAT chunks. */
static void check_png(fv_ctx *ctx, const uint8_t *p, const uint8_t *stream, size_t n)
{
    static const uint8_t DEPTH[8] = {8, 8, 16, 8, 1, 2, 4, 8}, COLOUR[5] = {0, 2, 3, 4, 6};
    uint8_t ihdr[13] = {0};
    size_t at = 8, each = 1 + (size_t)p[6] * 8;
    if (each < n / 200) each = n / 200;
    memcpy(file, "\x89PNG\r\n\x1a\n", 8);
    be(ihdr, 1 + p[3]);
    be(ihdr + 4, 1 + p[4]);
    ihdr[8] = DEPTH[p[5] & 7];
    ihdr[9] = COLOUR[(p[5] >> 3) % 5];
    ihdr[12] = p[5] >> 7;
    at = put_chunk(at, "IHDR", ihdr, 13);
    for (size_t i = 0; i < n; i += each)
        at = put_chunk(at, "IDAT", stream + i, n - i < each ? n - i : each);
    at = put_chunk(at, "IEND", NULL, 0);
    uint32_t param = 0;
    if (vz_png_detect(file, at, true, &param) == at) round_trip(ctx, 1 + p[7] % 9, param, at);
}

/* The zlib stream of a PNG, from rows or from a raw stream. */
static void check_stream(fv_ctx *ctx, const uint8_t *p, const uint8_t *rest, size_t n, bool is_rows)
{
    vz_frozen f = parameters_of(p);
    uint8_t check[4] = {0, 0, 0, 1};
    vz_buf b;
    vz_buf_init(&b, ctx);
    if (is_rows) f.window_bits = 15;
    vz_buf_byte(&b, (uint8_t)((f.window_bits - 8) << 4 | 8));
    vz_buf_byte(&b, (uint8_t)(p[2] & 0xc0));
    if (is_rows) {
        deflate_into(ctx, &f, rest, n, &b);
        be(check, (uint32_t)adler32(1, rest, (uInt)n));
        if (p[7] & 1) b.data[2 + (size_t)p[7] * 31 % (b.size - 2)] ^= (uint8_t)(1 << (p[7] >> 5));
    } else {
        vz_buf_put(&b, rest, n);
    }
    vz_buf_put(&b, check, 4);
    if (b.status != FV_OK) exit(1);
    if (b.size < ROOM - 4096) check_png(ctx, p, b.data, b.size);
    vz_buf_free(&b);
}

static void check_gzip(fv_ctx *ctx, const uint8_t *p, const uint8_t *rest, size_t n)
{
    static const uint8_t HEADER[10] = {0x1f, 0x8b, 8};
    const vz_frozen f = parameters_of(p);
    uint32_t param = 0;
    uint64_t budget = 1 << 22;
    vz_buf b;
    vz_buf_init(&b, ctx);
    deflate_into(ctx, &f, rest, n, &b);
    if (b.size < ROOM - 64) {
        memcpy(file, HEADER, 10);
        memcpy(file + 10, b.data, b.size);
        memset(file + 10 + b.size, p[7], 40);
        const size_t got = vz_stream_detect(ctx, file, b.size + 50, 9, &param, &budget);
        if (got) round_trip(ctx, 1 + p[7] % 9, param, got);
    }
    vz_buf_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 9 || size > 16384) return 0;
    fv_ctx *ctx = fuzz_ctx((uint64_t)512 << 20);
    const uint8_t *rest = data + 8;
    const size_t n = size - 8;
    switch (data[0] % 5) {
    case 0: check_frozen(ctx, data, rest, n); break;
    case 1: check_stream(ctx, data, rest, n, false); break;
    case 2: check_stream(ctx, data, rest, n, true); break;
    case 3: check_gzip(ctx, data, rest, n); break;
    default: {
        const vz_cm_options o = {1 + data[1] % 9, 20, NULL};
        const uint32_t param = (1u + (data[2] & 1)) | (10u + (data[2] >> 4)) << 8;
        const size_t to = 1 + (data[3] | (size_t)(data[4] & 15) << 8);
        (void)!vz_deflate_coder.decode(ctx, &o, param, rest, n, back, to);
    }
    }
    fuzz_check_leaks(ctx);
    return 0;
}
