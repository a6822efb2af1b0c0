/* test_vz_whole.c - PNG files and zip members that do not fit into a block: larger than it or than
 * the window, at its edge, in a row, cut off, lying about their size; pipes, threads, memory. */
#include "../codec/deflate_frozen.h"
#include "../codec/vz_deflate.h"
#include "../codec/vz_whole.h"
#include "sanitized.h"
#include "vz_fixture.h"

enum { ROOM = 1 << 20, BLOCK = 20000 };
static fv_ctx *ctx, *one_thread;
static uint8_t file[ROOM], vz_out[ROOM + 4096];

/* ---- Data ------------------------------------------------------------------------------------ */

static uint8_t *put_chunk(uint8_t *p, const char *type, const uint8_t *data, size_t n)
{
    put_number(p, (uint32_t)n, 4, true);
    memcpy(p + 4, type, 4);
    if (n) memcpy(p + 8, data, n);
    put_number(p + 8 + n, fv_crc32(0, p + 4, n + 4), 4, true);
    return p + 12 + n;
}

static uint8_t *put_head(uint8_t *p, uint32_t width, uint32_t height)
{
    uint8_t ihdr[13] = {0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0};
    put_number(ihdr, width, 4, true);
    put_number(ihdr + 4, height, 4, true);
    memcpy(p, "\x89PNG\r\n\x1a\n", 8);
    return put_chunk(p + 8, "IHDR", ihdr, 13);
}

/* Appends the stream with a checksum of zlib's, or without. */
static void deflate_all(const uint8_t *data, size_t n, bool is_zlib, vz_buf *out)
{
    const vz_frozen how = {6, is_zlib ? 1 : 0, 8, 15};
    uint32_t a = 1, b = 0;
    bool same;
    vz_buf_init(out, ctx);
    if (is_zlib) vz_buf_put(out, "\x78\x9c", 2);
    OK(ctx, vz_frozen_deflate(ctx, &how, data, n, NULL, 0, 0, out, &same));
    for (size_t i = 0; i < n; i++) {
        a = (a + data[i]) % 65521;
        b = (b + a) % 65521;
    }
    uint8_t sum[4];
    put_number(sum, b << 16 | a, 4, true);
    if (is_zlib) vz_buf_put(out, sum, 4);
}

/* A grey PNG of smooth shades with noise, in IDAT chunks of 8192; its end. */
static size_t put_png(size_t at, uint32_t width, uint32_t height, uint64_t seed)
{
    uint8_t *rows = malloc((size_t)(width + 1) * height), *p = put_head(file + at, width, height);
    vz_buf z;
    for (uint32_t y = 0; y < height; y++)
        for (uint32_t x = 0; x <= width; x++)
            rows[y * (width + 1) + x] =
                x ? (uint8_t)(x / 2 + y / 3 + (test_next(&seed) >> 9) % 6) : 0;
    deflate_all(rows, (size_t)(width + 1) * height, true, &z);
    for (size_t i = 0; i < z.size; i += 8192)
        p = put_chunk(p, "IDAT", z.data + i, z.size - i < 8192 ? z.size - i : 8192);
    p = put_chunk(p, "IEND", NULL, 0);
    vz_buf_free(&z);
    free(rows);
    return (size_t)(p - file);
}

static size_t put_text(size_t at, size_t n)
{
    for (size_t end = at + n, i = 0; at < end; i++) {
        char line[64];
        const size_t k = (size_t)snprintf(line, sizeof line, "line %zu of what is no picture\n", i);
        memcpy(file + at, line, k < end - at ? k : end - at);
        at += k < end - at ? k : end - at;
    }
    return at;
}

/* ---- Coding ---------------------------------------------------------------------------------- */

/* To read file[0 .. n) from, and to write into vz_out. */
static pipe_io pipe_of(size_t n, size_t step)
{
    return (pipe_io){file, n, step, vz_out, 0, sizeof vz_out, 0, 0};
}

static fv_vzip_options options(uint64_t block, int long_range)
{
    fv_vzip_options o = vz_test_options(1, block);
    o.long_range = long_range;
    return o;
}

/* Through a pipe that gives up to `step` bytes at a time, 0: as many as wanted. */
static void pack_file(fv_ctx *c, size_t n, size_t step, const fv_vzip_options *o, fv_vzip_stats *st,
                      size_t *size)
{
    pipe_io p = pipe_of(n, step);
    const fv_vzip_io io = pipe_both(&p);
    OK(c, fv_vzip_compress_stream(c, &io, o, st));
    CHECK(unpacks_to(c, vz_out, p.written, file, n));
    *size = p.written;
}

static size_t pack(fv_ctx *c, size_t n, size_t step, const fv_vzip_options *o, fv_vzip_stats *st)
{
    size_t size = 0;
    pack_file(c, n, step, o, st, &size);
    return size;
}

/* The same for every number of threads and way to read. */
static void code_file(size_t n, uint64_t block, int long_range, uint64_t *blocks, size_t *result)
{
    const fv_vzip_options o = options(block, long_range);
    static uint8_t first[sizeof vz_out];
    fv_vzip_stats st;
    const size_t size = pack(ctx, n, 0, &o, &st);
    memcpy(first, vz_out, size);
    *result = size;
    if (blocks) *blocks = st.blocks;
    if (block == ROOM) return;
    CHECK(pack(one_thread, n, 4099, &o, NULL) == size && memcmp(first, vz_out, size) == 0);
}

static size_t coded(size_t n, uint64_t block, int long_range, uint64_t *blocks)
{
    size_t size = 0;
    code_file(n, block, long_range, blocks, &size);
    return size;
}

/* ---- Tests ----------------------------------------------------------------------------------- */

static void a_png_larger_than_a_block(void)
{
    uint64_t blocks;
    const size_t n = put_png(0, 300, 260, 1), whole = coded(n, ROOM, -1, NULL);
    CHECK_MSG(n > 2 * BLOCK && whole < n - n / 8, "%zu bytes, %zu coded", n, whole);
    for (int range = -1; range <= 1; range++) {
        const size_t size = coded(n, BLOCK, range, &blocks);
        CHECK_MSG(size < whole + 60, "%zu bytes in a block, %zu", whole, size);
        CHECK(blocks == 1);
    }
}

static void pngs_at_the_edges_of_blocks(void)
{
    for (size_t before = 3000; before < BLOCK + 3000; before += TEST_SANITIZED ? 30011 : 9001)
        for (int range = -1; range <= 1; range += 2) {
            size_t n = put_text(0, before);
            n = put_png(n, 230, 190, 1);
            n = put_text(n, 5000);
            const size_t whole = coded(n, ROOM, -1, NULL), size = coded(n, BLOCK, range, NULL);
            CHECK_MSG(size < whole + whole / 50 + 1000, "at %zu: %zu bytes, %zu at once", before,
                      size, whole);
        }
}

static void several_in_a_row(void)
{
    uint64_t blocks;
    size_t n = put_png(0, 300, 260, 1);
    n = put_png(n, 300, 260, 2);
    for (int range = TEST_SANITIZED ? 1 : -1; range <= 1; range += 2) {
        const size_t whole = coded(n, ROOM, -1, NULL), size = coded(n, BLOCK, range, &blocks);
        CHECK_MSG(size < whole + 300 && blocks == 2, "%zu bytes, %zu at once", size, whole);
    }
    /* The same once more is a reference. */
    const size_t half = put_png(0, 300, 260, 1);
    memcpy(file + half, file, half);
    CHECK(coded(2 * half, BLOCK, 1, NULL) < coded(half, BLOCK, 1, NULL) + 300);
}

static void what_has_no_end_is_cut_like_data(void)
{
    uint64_t blocks, usual;
    const size_t n = put_png(0, 300, 260, 1), part = n / 2;
    for (int range = -1; range <= 1; range += 2) {
        (void)coded(part, BLOCK, range, &blocks);
        CHECK(blocks == (part - 1) / BLOCK + 1);
        (void)coded(n - 1, BLOCK, range, &blocks); /* IEND lacks a byte */
        CHECK(blocks == (n - 2) / BLOCK + 1);
        file[1] ^= 1;
        (void)coded(n, BLOCK, range, &usual);
        file[1] ^= 1;
        file[33 + 4] = 0; /* the type of the first IDAT */
        (void)coded(n, BLOCK, range, &blocks);
        CHECK(blocks == usual);
        file[33 + 4] = 'I';
    }
}

/* Nothing is taken for what is not there; nor is a block larger for it. */
static void lengths_that_lie(void)
{
    static const uint32_t lengths[] = {200 << 20, 90 << 20, 0x7fffffff, UINT32_MAX, 60000};
    fv_vzip_options o = options(BLOCK, 1);
    for (size_t i = 0; i < FV_ARRAY_LEN(lengths); i++) {
        const size_t n = 50000;
        fv_ctx *c = vz_test_ctx(1, 0);
        fv_memory_stats m;
        fv_vzip_stats st;
        put_noise(file, n, i + 3);
        uint8_t *p = put_head(file + 100, 10000, 10000);
        put_number(p, lengths[i], 4, true);
        memcpy(p + 4, "IDAT\x78\x9c", 6);
        (void)pack(c, n, 4096, &o, &st);
        CHECK(st.blocks == (n - 1) / BLOCK + 1);
        fv_ctx_memory(c, &m);
        CHECK_MSG(m.peak_bytes < 120u << 20, "%llu bytes", (unsigned long long)m.peak_bytes);
        fv_ctx_destroy(&c);
    }
}

static void many_heads_take_no_time(void)
{
    uint8_t *p = file;
    while (p < file + 50000) {
        p = put_head(p, 100, 100);
        put_number(p, 1000, 4, true); /* into the middle of others */
        memcpy(p + 4, "tEXt", 4);
        p += 8;
        for (int i = 0; i < 3; i++) p = put_chunk(p, "IDAT", NULL, 0);
    }
    const size_t n = (size_t)(p - file);
    (void)coded(n, BLOCK, 1, NULL);
}

static void memory_is_kept(void)
{
    const size_t n = put_png(0, 300, 260, 1);
    fv_vzip_options o = options(BLOCK, -1);
    fv_vzip_stats st;
    const vz_cm_options cm = {.level = 1, .memory_log2 = 20};
    /* Enough for a block of the usual size, not for the picture. */
    o.memory_bytes = BLOCK + vz_block_encode_memory(&cm, BLOCK) + BLOCK;
    (void)pack(ctx, n, 4096, &o, &st);
    CHECK(st.blocks == (n - 1) / BLOCK + 1);
    o.memory_bytes = 100 << 20;
    (void)pack(ctx, n, 4096, &o, &st);
    CHECK(st.blocks == 1);
}

/* The window holds no such block: it has no references, and its hint is right. */
static void larger_than_the_window(void)
{
    enum { LOG2 = 18 };
    const vz_cm_options cm = {.level = 1, .memory_log2 = 20};
    const size_t start = put_text(0, 700), end = put_png(start, 900, 700, 1);
    const size_t n = put_text(end, 100000);
    CHECK(end - start > (size_t)1 << LOG2);
    pipe_io p = pipe_of(n, 5000);
    const fv_vzip_io io = pipe_both(&p);
    vz_source *source = vz_source_open(ctx, &io);
    vz_wholes wholes = {source, &cm, BLOCK, UINT64_MAX, 1 << LOG2, false, NULL, NULL,
                        0,      0,   NULL,  0,          0,         0};
    vz_buf plain, refs, hints;
    vz_dedup_out to = {&plain, &refs, &hints, 0, 0};
    vz_dedup *d;
    bool is_all;
    uint64_t at = 0;
    int found = 0;
    vz_wholes_open(&wholes);
    vz_buf_init(&plain, ctx);
    vz_buf_init(&refs, ctx);
    vz_buf_init(&hints, ctx);
    OK(ctx, vz_dedup_open(ctx, &d, LOG2, &wholes));
    OK(ctx, vz_dedup_start(d, source, BLOCK, &plain, &is_all));
    do {
        OK(ctx, vz_dedup_block(d, source, BLOCK, &to));
        if (refs.size == 0)
            CHECK(plain.size == to.original && memcmp(plain.data, file + at, plain.size) == 0);
        const vz_hint *h = (const vz_hint *)(const void *)hints.data;
        for (size_t i = 0; i < hints.size / sizeof *h; i++, found++)
            CHECK(h[i].g.kind == VZ_DEFLATE && h[i].g.size == end - start &&
                  at + h[i].at == start && refs.size == 0);
        CHECK(to.hash == vz_hash(file + at, (size_t)to.original));
        at += to.original;
    } while (to.original > 0);
    CHECK(at == n && found == 1);
    vz_dedup_close(&d);
    vz_wholes_close(&wholes);
    vz_source_close(&source);
    vz_buf_free(&hints);
    vz_buf_free(&refs);
    vz_buf_free(&plain);
}

static void zip_members_at_the_edge(void)
{
    static uint8_t text[60000];
    vz_buf z;
    const size_t before = BLOCK - 8000;
    uint64_t seed = 6;
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (uint8_t)("etaoin shrdlu\n"[test_next(&seed) % 14]);
    deflate_all(text, sizeof text, false, &z);
    put_text(0, before);
    uint8_t *h = file + before;
    memset(h, 0, 31);
    memcpy(h, "PK\3\4\24\0\0\0\10", 9);
    put_number(h + 18, (uint32_t)z.size, 4, false);
    put_number(h + 22, sizeof text, 4, false);
    h[26] = 1;
    h[30] = 'n';
    memcpy(h + 31, z.data, z.size);
    CHECK(z.size > VZ_WHOLE_LEAST);
    const size_t n = put_text(before + 31 + z.size, 3000);
    vz_buf_free(&z);
    fv_vzip_options o = options(ROOM, 1);
    o.level = 6;
    const size_t whole = pack(one_thread, n, 0, &o, NULL);
    o.block_bytes = BLOCK;
    const size_t size = pack(one_thread, n, 0, &o, NULL);
    CHECK_MSG(size < whole + 600, "%zu bytes, %zu at once", size, whole);
}

int main(void)
{
    ctx = vz_test_ctx(2, 0);
    one_thread = vz_test_ctx(1, 0);
    RUN(a_png_larger_than_a_block);
    RUN(pngs_at_the_edges_of_blocks);
    RUN(several_in_a_row);
    RUN(what_has_no_end_is_cut_like_data);
    RUN(lengths_that_lie);
    RUN(many_heads_take_no_time);
    RUN(memory_is_kept);
    RUN(larger_than_the_window);
    RUN(zip_members_at_the_edge);
    fv_ctx_destroy(&one_thread);
    return vz_test_end(&ctx);
}
