/* test_rdvq_file.c - the container .rdvq: round trips, damage at every bit and every length,
 * hostile headers, chunks and indexes whose checksums are right, alpha, hidden colours, memory
 * that runs out. */
#include "rdvq_chunks.h"

#include <zstd.h>

#include "alloc_fail.h"
#include "image_codec.h"
#include "test.h"

static fv_ctx *ctx;

/* ---- A file ---------------------------------------------------------------------------------- */

#define TILES_MAX 64
typedef struct parts {
    rdvq_head h;
    rdvq_bytes chunk[RDVQ_CHUNKS];
    vz_buf segment[TILES_MAX * RDVQ_MAX_LAYERS];
} parts;

static rdvq_head plain_head(int width, int height)
{
    const rdvq_head h = { .model_id = 0x1234, .model_hash = 0xdeadbeef, .width = width,
                          .height = height, .depth = 8, .tile_log2 = 8, .layers = 3,
                          .slices = 28 };
    return h;
}

/* Segments of 4 to 260 bytes with the number of tile and layer in them. */
static fv_status fill_parts(fv_ctx *c, parts *p, const rdvq_head *h)
{
    memset(p, 0, sizeof *p);
    p->h = *h;
    FV_TRY(rdvq_head_check(c, &p->h));
    const int tiles = p->h.tiles_x * p->h.tiles_y;
    for (int t = 0; t < tiles; t++)
        for (int k = 0; k < RDVQ_MAX_LAYERS; k++) {
            vz_buf *b = &p->segment[t * RDVQ_MAX_LAYERS + k];
            vz_buf_init(b, c);
            for (int i = 0; k < p->h.layers && i < 4 + (t * 7 + k * 13) % 257; i++)
                vz_buf_byte(b, (uint8_t)(t + 16 * k + i));
            FV_TRY(b->status);
        }
    return FV_OK;
}

static void drop_parts(parts *p)
{
    for (int i = 0; i < TILES_MAX * RDVQ_MAX_LAYERS; i++)
        if (p->segment[i].ctx) vz_buf_free(&p->segment[i]);
}

static fv_status write_parts(fv_ctx *c, parts *p, vz_buf *out)
{
    vz_buf_init(out, c);
    return rdvq_file_write(c, &p->h, p->chunk, p->segment, out);
}

static fv_status open_bytes(fv_ctx *c, rdvq_file *f, const void *bytes, size_t size)
{
    return rdvq_file_open(c, f, bytes, size, RDVQ_MAX_PIXELS);
}

/* Every segment of f begins as that of p; *whole counts those that are not cut. */
static bool same_segments(const rdvq_file *f, const parts *p, int *whole)
{
    const int tiles = f->head.tiles_x * f->head.tiles_y;
    *whole = 0;
    for (int k = 0; k < f->head.layers; k++)
        for (int t = 0; t < tiles; t++) {
            const vz_buf *b = &p->segment[t * RDVQ_MAX_LAYERS + k];
            rdvq_bytes s;
            bool is_cut;
            if (rdvq_file_segment(ctx, f, k, t, &s, &is_cut) != FV_OK) return false;
            if (s.size > b->size || memcmp(s.data, b->data, s.size) != 0) return false;
            if (!is_cut && s.size != b->size) return false;
            *whole += !is_cut;
        }
    return true;
}

static bool same_head(const rdvq_head *a, const rdvq_head *b)
{
    return a->flags == b->flags && a->model_id == b->model_id && a->model_hash == b->model_hash &&
           a->width == b->width && a->height == b->height && a->colour == b->colour &&
           a->depth == b->depth && a->tile_log2 == b->tile_log2 && a->layers == b->layers &&
           a->slices == b->slices && a->seed == b->seed && a->tiles_x == b->tiles_x &&
           a->tiles_y == b->tiles_y;
}

static void write_and_open(const rdvq_head *h)
{
    parts p;
    vz_buf out;
    rdvq_file f;
    int whole;
    OK(ctx, fill_parts(ctx, &p, h));
    p.chunk[RDVQ_EXIF] = (rdvq_bytes){ (const uint8_t *)"exif", h->width % 3 ? 4 : 0 };
    if (!p.chunk[RDVQ_EXIF].size) p.chunk[RDVQ_EXIF].data = NULL;
    OK(ctx, write_parts(ctx, &p, &out));
    CHECK(out.size == rdvq_file_bytes(&p.h, p.chunk, p.segment));
    OK(ctx, open_bytes(ctx, &f, out.data, out.size));
    CHECK(same_head(&f.head, &p.h) && !f.is_truncated && f.whole_bytes == out.size);
    CHECK(f.chunk[RDVQ_EXIF].size == p.chunk[RDVQ_EXIF].size && !f.chunk[RDVQ_ICC].data);
    CHECK(same_segments(&f, &p, &whole));
    CHECK(whole == f.head.layers * f.head.tiles_x * f.head.tiles_y);
    rdvq_file_close(ctx, &f);
    vz_buf_free(&out);
    drop_parts(&p);
}

static void files_come_back(void)
{
    static const int side[] = { 1, 7, 63, 128, 129, 255, 256, 257, 1000, 2048 };
    for (size_t i = 0; i < FV_ARRAY_LEN(side); i++)
        for (size_t j = 0; j < FV_ARRAY_LEN(side); j += 3) {
            rdvq_head h = plain_head(side[i], side[j]);
            h.layers = 1 + (int)(i + j) % 5;
            h.slices = h.layers + (int)i * 7;
            h.flags = (int)(i + j) % 2 ? RDVQ_HAS_CRCS : RDVQ_IS_GREY;
            if (i % 3 == 0) h.flags |= RDVQ_IS_SAMPLED, h.seed = 0x01020304;
            h.depth = i % 2 ? 8 : 16;
            h.tile_log2 = side[i] > 300 ? 9 : 8;
            write_and_open(&h);
            if (test_bad) return;
        }
}

static void smallest_file_is_small(void)
{
    const rdvq_head h = plain_head(100, 100);
    parts p;
    vz_buf out;
    OK(ctx, fill_parts(ctx, &p, &h));
    for (int i = 0; i < 3; i++) p.segment[i].size = 4;
    OK(ctx, write_parts(ctx, &p, &out));
    CHECK_MSG(out.size == 28 + 3 + 12, "%zu bytes", out.size);
    vz_buf_free(&out);
    drop_parts(&p);
}

/* ---- Damage ---------------------------------------------------------------------------------- */

static void cut_at_every_byte(int flags)
{
    rdvq_head h = plain_head(300, 300);
    parts p;
    vz_buf out;
    h.flags = flags;
    OK(ctx, fill_parts(ctx, &p, &h));
    p.chunk[RDVQ_EXIF] = (rdvq_bytes){ (const uint8_t *)"some exif", 9 };
    OK(ctx, write_parts(ctx, &p, &out));
    int before = -1;
    for (size_t n = 0; n < out.size; n++) {
        rdvq_file f;
        int whole = 0;
        uint8_t *copy = malloc(n ? n : 1); /* a sanitizer sees reads beyond the end */
        memcpy(copy, out.data, n);
        const fv_status s = open_bytes(ctx, &f, copy, n);
        if (s == FV_OK) {
            CHECK(f.is_truncated && f.whole_bytes == out.size && same_segments(&f, &p, &whole));
            CHECK(whole >= before);
            before = whole;
            rdvq_file_close(ctx, &f);
        } else {
            CHECK(before < 0 && (s == FV_ERR_TRUNCATED || (n == 0 && s == FV_ERR_FORMAT)));
        }
        free(copy);
    }
    CHECK(before == 12);
    vz_buf_free(&out);
    drop_parts(&p);
}
static void file_cut_at_every_byte_keeps_whole_segments(void)
{
    cut_at_every_byte(0);
    cut_at_every_byte(RDVQ_HAS_CRCS);
}

static void every_bit_is_protected(void)
{
    const rdvq_head h = plain_head(300, 200);
    parts p;
    vz_buf out;
    OK(ctx, fill_parts(ctx, &p, &h));
    p.chunk[RDVQ_EXIF] = (rdvq_bytes){ (const uint8_t *)"some exif", 9 };
    OK(ctx, write_parts(ctx, &p, &out));
    for (size_t i = 0; i < 8 * out.size; i++) {
        rdvq_file f;
        out.data[i / 8] ^= (uint8_t)(1 << i % 8);
        const fv_status s = open_bytes(ctx, &f, out.data, out.size);
        out.data[i / 8] ^= (uint8_t)(1 << i % 8);
        /* A longer segment than there are bytes looks like a file that is cut. */
        if (s == FV_OK) {
            CHECK_MSG(f.is_truncated, "bit %zu", i);
            rdvq_file_close(ctx, &f);
        }
    }
    vz_buf_free(&out);
    drop_parts(&p);
}

static void checksum_of_a_segment_is_checked(void)
{
    rdvq_head h = plain_head(300, 200);
    parts p;
    vz_buf out;
    rdvq_file f;
    rdvq_bytes s;
    bool is_cut;
    h.flags = RDVQ_HAS_CRCS;
    OK(ctx, fill_parts(ctx, &p, &h));
    OK(ctx, write_parts(ctx, &p, &out));
    OK(ctx, open_bytes(ctx, &f, out.data, out.size - 4));
    OK(ctx, rdvq_file_segment(ctx, &f, 1, 1, &s, &is_cut));
    ((uint8_t *)(uintptr_t)s.data)[0] ^= 1;
    CHECK(rdvq_file_segment(ctx, &f, 1, 1, &s, &is_cut) == FV_ERR_CHECKSUM);
    OK(ctx, rdvq_file_segment(ctx, &f, 1, 0, &s, &is_cut));
    rdvq_file_close(ctx, &f);
    vz_buf_free(&out);
    drop_parts(&p);
}

/* ---- Hostile files: checksums are right ----------------------------------------------------- */

#define SIDES 16 /* where the sides lie; two bytes each here */

/* Bytes of a header of 300 x 300, or of what `change` makes of it, with the right checksum, and a
 * body of zeros. */
static void expect_head(fv_status want, const char *what, int at, int value)
{
    uint8_t b[200] = { 0x8a, 0x52, 0x44, 0x56, 0x51, 0x0d, 0x0a, 0x1a, 1, 0, 1, 0, 2, 0, 0, 0,
                       0xab, 0x02, 0xab, 0x02, 0, 8, 3 << 4 | 8, 28 };
    rdvq_file f;
    if (at >= 0) b[at] = (uint8_t)value;
    const uint32_t crc = fv_crc32c(0, b, 24);
    b[24] = (uint8_t)crc;
    b[25] = (uint8_t)(crc >> 8);
    memset(b + 26, 4, 12);
    const fv_status s = open_bytes(ctx, &f, b, 26 + 12 + 48);
    CHECK_MSG(s == want, "%s: %s, not %s: %s", what, fv_status_name(s), fv_status_name(want),
              fv_ctx_error(ctx));
    if (s == FV_OK) rdvq_file_close(ctx, &f);
}

static void hostile_headers_are_refused(void)
{
    static const struct { fv_status want; const char *what; int at, value; } c[] = {
        { FV_OK, "as it is", -1, 0 },
        { FV_ERR_FORMAT, "magic", 3, 0 },
        { FV_ERR_VERSION, "version 2", 8, 2 },
        { FV_ERR_VERSION, "version 0", 8, 0 },
        { FV_ERR_FORMAT, "unknown flag", 9, 32 },
        { FV_ERR_FORMAT, "alpha without chunks", 9, 1 },
        { FV_ERR_FORMAT, "colour 6", 20, 6 },
        { FV_ERR_FORMAT, "profile without chunks", 20, 5 },
        { FV_ERR_FORMAT, "depth 9", 21, 9 },
        { FV_ERR_FORMAT, "depth 0", 21, 0 },
        { FV_ERR_LIMIT, "tile log2 0", 22, 3 << 4 },
        { FV_ERR_LIMIT, "tile log2 7", 22, 3 << 4 | 7 },
        { FV_ERR_LIMIT, "tile log2 13", 22, 3 << 4 | 13 },
        { FV_ERR_LIMIT, "tile log2 15", 22, 255 },
        { FV_ERR_LIMIT, "no layers", 22, 8 },
        { FV_ERR_LIMIT, "six layers", 22, 6 << 4 | 8 },
        { FV_ERR_LIMIT, "no slices", 23, 0 },
        { FV_ERR_LIMIT, "fewer slices than layers", 23, 2 },
        { FV_ERR_LIMIT, "81 slices", 23, 81 },
        { FV_ERR_FORMAT, "side not minimal", 17, 0 },
    };
    for (size_t i = 0; i < FV_ARRAY_LEN(c) && !test_bad; i++)
        expect_head(c[i].want, c[i].what, c[i].at, c[i].value);
}

/* A header with sides of any number of bytes, then `tail`. */
static fv_status open_sides(uint64_t w, uint64_t h, int tile, uint64_t max_pixels)
{
    static const uint8_t zeros[64];
    rdvq_file f;
    vz_buf b;
    vz_buf_init(&b, ctx);
    vz_buf_put(&b, "\x8a\x52\x44\x56\x51\x0d\x0a\x1a\x01\0\0\0\0\0\0\0", 16);
    vz_buf_varint(&b, w);
    vz_buf_varint(&b, h);
    vz_buf_le(&b, 8 << 8, 2);
    vz_buf_byte(&b, (uint8_t)tile);
    vz_buf_byte(&b, 28);
    vz_buf_le(&b, fv_crc32c(0, b.data, b.size), 2);
    vz_buf_put(&b, zeros, sizeof zeros);
    const fv_status s = rdvq_file_open(ctx, &f, b.data, b.size, max_pixels);
    vz_buf_free(&b);
    if (s == FV_OK) rdvq_file_close(ctx, &f);
    return s;
}

static void sides_have_limits(void)
{
    const uint64_t all = RDVQ_MAX_PIXELS;
    CHECK(open_sides(65535, 0, 3 << 4 | 12, all) == FV_ERR_LIMIT);
    CHECK(open_sides(0, 65535, 3 << 4 | 12, all) == FV_ERR_LIMIT);
    CHECK(open_sides(UINT64_MAX, UINT64_MAX, 3 << 4 | 12, all) == FV_ERR_LIMIT);
    CHECK(open_sides((uint64_t)1 << 32, 0, 3 << 4 | 12, all) == FV_ERR_LIMIT);
    CHECK(open_sides(65534, 65534, 3 << 4 | 12, all) == FV_ERR_LIMIT); /* pixels */
    CHECK(open_sides(4999, 999, 3 << 4 | 12, 5000000) != FV_ERR_LIMIT);
    CHECK(open_sides(4999, 999, 3 << 4 | 12, 4999999) == FV_ERR_LIMIT);
    CHECK(open_sides(16383, 16383, 5 << 4 | 8, all) == FV_ERR_TRUNCATED); /* 4096 tiles */
}

/* A whole file of one tile whose index is given, then n bytes; the tail is right. */
static fv_status open_index(const uint64_t *length, int count, size_t n, uint64_t *present)
{
    rdvq_file f;
    vz_buf b;
    vz_buf_init(&b, ctx);
    vz_buf_put(&b, "\x8a\x52\x44\x56\x51\x0d\x0a\x1a\x01\0\0\0\0\0\0\0\x05\x05\0\x08\x38\x1c", 22);
    vz_buf_le(&b, fv_crc32c(0, b.data, b.size), 2);
    for (int i = 0; i < count; i++) vz_buf_varint(&b, length[i]);
    for (size_t i = 0; i < n; i++) vz_buf_byte(&b, 1);
    vz_buf_le(&b, fv_crc32c(0, b.data, b.size), 4);
    const fv_status s = open_bytes(ctx, &f, b.data, b.size);
    vz_buf_free(&b);
    *present = f.present;
    if (s == FV_OK) rdvq_file_close(ctx, &f);
    return s;
}

static void hostile_indexes_are_refused(void)
{
    uint64_t n;
    CHECK(open_index((const uint64_t[]){ 10, 20, 30 }, 3, 60, &n) == FV_OK && n == 60);
    CHECK(open_index((const uint64_t[]){ 10, 20, 30 }, 3, 61, &n) == FV_ERR_FORMAT);
    CHECK(open_index((const uint64_t[]){ 10, 20, 30 }, 3, 59, &n) == FV_OK && n == 60);
    CHECK(open_index((const uint64_t[]){ 0, 20, 30 }, 3, 50, &n) == FV_ERR_FORMAT);
    CHECK(open_index((const uint64_t[]){ 3, 20, 30 }, 3, 53, &n) == FV_ERR_FORMAT);
    CHECK(open_index((const uint64_t[]){ UINT64_MAX, 2, 4 }, 3, 60, &n) == FV_ERR_LIMIT);
    CHECK(open_index((const uint64_t[]){ (uint64_t)1 << 62, 10, 10 }, 3, 60, &n) == FV_ERR_LIMIT);
    CHECK(open_index((const uint64_t[]){ 10, 8 + (4 << 16) + 1, 10 }, 3, 60, &n) == FV_ERR_LIMIT);
    CHECK(open_index((const uint64_t[]){ 10, 8 + (4 << 16), 10 }, 3, 60, &n) == FV_OK);
}

/* ---- Chunks ---------------------------------------------------------------------------------- */

static void put_chunk(vz_buf *b, int type, size_t n)
{
    const size_t first = b->size;
    vz_buf_byte(b, (uint8_t)type);
    vz_buf_varint(b, n);
    for (size_t i = 0; i < n; i++) vz_buf_byte(b, 7);
    vz_buf_le(b, fv_crc32c(0, b->data + first, b->size - first), 4);
}

/* Chunks of these types, 0: the end. flags in the header. */
static fv_status open_chunks(int flags, const int *type, int count, bool has_end)
{
    rdvq_file f;
    vz_buf b;
    vz_buf_init(&b, ctx);
    vz_buf_put(&b, "\x8a\x52\x44\x56\x51\x0d\x0a\x1a\x01", 9);
    vz_buf_byte(&b, (uint8_t)flags);
    vz_buf_put(&b, "\0\0\0\0\0\0\x05\x05\0\x08\x38\x1c", 12);
    vz_buf_le(&b, fv_crc32c(0, b.data, b.size), 2);
    for (int i = 0; i < count; i++) put_chunk(&b, type[i], (size_t)i * 3);
    if (has_end) vz_buf_byte(&b, 0);
    vz_buf_put(&b, "\x04\x04\x04" "abcdabcdabcd", 15);
    vz_buf_le(&b, fv_crc32c(0, b.data, b.size), 4);
    const fv_status s = open_bytes(ctx, &f, b.data, b.size);
    vz_buf_free(&b);
    if (s == FV_OK) rdvq_file_close(ctx, &f);
    return s;
}

static void chunks_are_checked(void)
{
    int many[RDVQ_MAX_CHUNKS + 1];
    for (int i = 0; i <= RDVQ_MAX_CHUNKS; i++) many[i] = 200;
    CHECK(open_chunks(2, (const int[]){ 'I', 'X' }, 2, true) == FV_OK);
    CHECK(open_chunks(2, NULL, 0, true) == FV_OK);
    CHECK(open_chunks(2, (const int[]){ 'I', 'I' }, 2, true) == FV_ERR_FORMAT);
    CHECK(open_chunks(2, (const int[]){ 'I', 'B' }, 2, true) == FV_ERR_VERSION);
    CHECK(open_chunks(2, (const int[]){ 200, 200, 128 }, 3, true) == FV_OK);
    CHECK(open_chunks(2, (const int[]){ 127 }, 1, true) == FV_ERR_VERSION);
    CHECK(open_chunks(2, (const int[]){ 'A' }, 1, true) == FV_ERR_FORMAT);
    CHECK(open_chunks(3, (const int[]){ 'A' }, 1, true) == FV_OK);
    CHECK(open_chunks(3, (const int[]){ 'I' }, 1, true) == FV_ERR_FORMAT);
    CHECK(open_chunks(2, many, RDVQ_MAX_CHUNKS, true) == FV_OK);
    CHECK(open_chunks(2, many, RDVQ_MAX_CHUNKS + 1, true) == FV_ERR_LIMIT);
    CHECK(open_chunks(2, (const int[]){ 'I' }, 1, false) != FV_OK);
}

static void blocks_come_back_within_their_limit(void)
{
    static uint8_t data[5000];
    vz_buf b;
    uint8_t *back;
    size_t n;
    vz_buf_init(&b, ctx);
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * i >> 3);
    OK(ctx, rdvq_block_pack(ctx, data, sizeof data, &b));
    OK(ctx, rdvq_block_unpack(ctx, (rdvq_bytes){ b.data, b.size }, sizeof data, &back, &n));
    CHECK(n == sizeof data && memcmp(back, data, n) == 0);
    fv_free(ctx, back);
    CHECK(rdvq_block_unpack(ctx, (rdvq_bytes){ b.data, b.size }, sizeof data - 1, &back, &n) ==
          FV_ERR_LIMIT && !back);
    CHECK(rdvq_block_unpack(ctx, (rdvq_bytes){ b.data, b.size - 1 }, sizeof data, &back, &n) ==
          FV_ERR_FORMAT && !back);
    CHECK(rdvq_block_unpack(ctx, (rdvq_bytes){ data, 40 }, sizeof data, &back, &n) ==
          FV_ERR_FORMAT);
    CHECK(rdvq_block_unpack(ctx, (rdvq_bytes){ data, 0 }, sizeof data, &back, &n) == FV_ERR_FORMAT);
    vz_buf_free(&b);
}

/* 64 MiB of zeros in a few KB. */
static void bombs_are_refused_before_memory_is_taken(void)
{
    const size_t n = (size_t)64 << 20;
    uint8_t *zeros = calloc(n, 1), *back;
    size_t size;
    vz_buf b;
    fv_memory_stats m;
    CHECK(zeros);
    vz_buf_init(&b, ctx);
    OK(ctx, rdvq_block_pack(ctx, zeros, n, &b));
    free(zeros);
    fv_ctx_memory_reset_peak(ctx);
    CHECK(b.size < 20000);
    CHECK(rdvq_block_unpack(ctx, (rdvq_bytes){ b.data, b.size }, RDVQ_MAX_ICC, &back, &size) ==
          FV_ERR_LIMIT);
    rdvq_head h = plain_head(100, 100);
    fv_image img;
    OK(ctx, fv_image_create(ctx, &img, 100, 100, 4, 8));
    CHECK(rdvq_alpha_unpack(ctx, (rdvq_bytes){ b.data, b.size }, &h, 0, 0, &img) == FV_ERR_FORMAT);
    fv_ctx_memory(ctx, &m);
    CHECK(m.peak_bytes - m.current_bytes < (1 << 20));
    fv_image_free(ctx, &img);
    vz_buf_free(&b);
}

/* ---- Alpha ----------------------------------------------------------------------------------- */

static fv_status make_image(fv_image *img, int w, int h, int channels, int depth, uint64_t seed)
{
    FV_TRY(fv_image_create(ctx, img, w, h, channels, depth));
    for (int y = 0; y < h; y++)
        for (int i = 0; i < w * channels; i++) {
            uint8_t *row = fvi_image_row(img, y);
            const uint32_t v = i % channels ? (uint32_t)(y * 5 + i) : test_next(&seed);
            if (depth == 8) row[i] = (uint8_t)v;
            else ((uint16_t *)row)[i] = (uint16_t)(v * 77);
        }
    return FV_OK;
}

static uint32_t sample(const fv_image *img, int x, int y, int c)
{
    const uint8_t *row = fvi_image_row(img, y);
    const int i = x * img->channels + c;
    return img->depth == 8 ? row[i] : ((const uint16_t *)(const void *)row)[i];
}

static void alpha_of(int w, int h, int channels, int depth)
{
    const int last = channels - 1;
    fv_image img, back;
    vz_buf b;
    bool is_opaque;
    rdvq_head head = plain_head(w, h);
    head.depth = depth;
    vz_buf_init(&b, ctx);
    OK(ctx, make_image(&img, w, h, channels, depth, 5));
    OK(ctx, rdvq_alpha_pack(ctx, &img, &b, &is_opaque));
    CHECK(!is_opaque && b.size > 0);
    const int x0 = w / 3, y0 = h / 4;
    OK(ctx, make_image(&back, w - x0, h - y0, channels, depth, 6));
    OK(ctx, rdvq_alpha_unpack(ctx, (rdvq_bytes){ b.data, b.size }, &head, x0, y0, &back));
    for (int y = y0; y < h; y++)
        for (int x = x0; x < w; x++)
            CHECK(sample(&img, x, y, last) == sample(&back, x - x0, y - y0, last));
    head.width++;
    CHECK(rdvq_alpha_unpack(ctx, (rdvq_bytes){ b.data, b.size }, &head, 0, 0, &back) ==
          FV_ERR_FORMAT);
    vz_buf_free(&b);
    fv_image_free(ctx, &img);
    fv_image_free(ctx, &back);
}

static void alpha_comes_back_exactly(void)
{
    alpha_of(1, 1, 4, 8);
    alpha_of(7, 3, 2, 8);
    alpha_of(63, 65, 4, 16);
    alpha_of(200, 100, 2, 16);
}

static void opaque_alpha_is_left_out(void)
{
    fv_image img;
    vz_buf b;
    bool is_opaque = false;
    vz_buf_init(&b, ctx);
    OK(ctx, fv_image_create(ctx, &img, 20, 20, 4, 8));
    memset(img.pixels, 255, img.stride_bytes * 20);
    OK(ctx, rdvq_alpha_pack(ctx, &img, &b, &is_opaque));
    CHECK(is_opaque && b.size == 0);
    fvi_image_row(&img, 19)[79] = 254;
    OK(ctx, rdvq_alpha_pack(ctx, &img, &b, &is_opaque));
    CHECK(!is_opaque);
    vz_buf_free(&b);
    fv_image_free(ctx, &img);
}

/* Left half visible, right half hidden noise: becomes a continuation without steps. */
static void hidden_colours_go_on_smoothly(void)
{
    fv_image img;
    uint64_t seed = 9;
    OK(ctx, fv_image_create(ctx, &img, 64, 40, 4, 8));
    for (int y = 0; y < 40; y++)
        for (int x = 0; x < 64; x++) {
            uint8_t *p = fvi_image_row(&img, y) + 4 * x;
            for (int c = 0; c < 3; c++)
                p[c] = x < 32 ? (uint8_t)(100 + y) : (uint8_t)test_next(&seed);
            p[3] = x < 32 ? 255 : 0;
        }
    OK(ctx, rdvq_fill_hidden(ctx, &img));
    for (int y = 0; y < 40; y++)
        for (int x = 0; x < 64; x++) {
            const int v = (int)sample(&img, x, y, 0);
            if (x < 32) CHECK(v == 100 + y);
            CHECK(v >= 99 && v <= 140);
            if (x > 0) CHECK(abs(v - (int)sample(&img, x - 1, y, 0)) <= 8);
        }
    memset(img.pixels, 0, img.stride_bytes * 40); /* nothing to go on from */
    OK(ctx, rdvq_fill_hidden(ctx, &img));
    fv_image_free(ctx, &img);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static fv_status whole_job(fv_ctx *c)
{
    const rdvq_head h = plain_head(600, 500);
    parts p;
    vz_buf out, block;
    rdvq_file f;
    uint8_t *back = NULL;
    size_t n;
    vz_buf_init(&out, c);
    vz_buf_init(&block, c);
    fv_status s = fill_parts(c, &p, &h);
    if (s == FV_OK) s = rdvq_block_pack(c, "a profile of colours", 20, &block);
    p.chunk[RDVQ_ICC] = (rdvq_bytes){ block.data, block.size };
    if (s == FV_OK) s = rdvq_file_write(c, &p.h, p.chunk, p.segment, &out);
    if (s == FV_OK) s = open_bytes(c, &f, out.data, out.size);
    if (s == FV_OK) {
        s = rdvq_block_unpack(c, f.chunk[RDVQ_ICC], 100, &back, &n);
        rdvq_file_close(c, &f);
    }
    fv_free(c, back);
    vz_buf_free(&out);
    vz_buf_free(&block);
    drop_parts(&p);
    return s;
}

static void memory_that_runs_out_leaves_nothing_behind(void)
{
    fv_status s = FV_ERR_OOM;
    int64_t n = 0;
    for (; s != FV_OK && n < 1000; n++) {
        alloc_fail heap = { .left = ALLOC_ALL };
        const fv_allocator al = alloc_fail_allocator(&heap);
        fv_ctx_options o = FV_CTX_OPTIONS_INIT;
        fv_ctx *c;
        o.alloc = &al;
        o.threads = 1;
        CHECK(fv_ctx_create(&c, &o) == FV_OK);
        const int64_t live = heap.live;
        heap.left = n;
        s = whole_job(c);
        heap.left = ALLOC_ALL;
        CHECK(s == FV_OK || s == FV_ERR_OOM);
        CHECK_MSG(heap.live == live, "allocation %lld", (long long)n);
        fv_ctx_destroy(&c);
    }
    CHECK(s == FV_OK && n > 10);
}

int main(void)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(files_come_back);
    RUN(smallest_file_is_small);
    RUN(file_cut_at_every_byte_keeps_whole_segments);
    RUN(every_bit_is_protected);
    RUN(checksum_of_a_segment_is_checked);
    RUN(hostile_headers_are_refused);
    RUN(sides_have_limits);
    RUN(hostile_indexes_are_refused);
    RUN(chunks_are_checked);
    RUN(blocks_come_back_within_their_limit);
    RUN(bombs_are_refused_before_memory_is_taken);
    RUN(alpha_comes_back_exactly);
    RUN(opaque_alpha_is_left_out);
    RUN(hidden_colours_go_on_smoothly);
    RUN(memory_that_runs_out_leaves_nothing_behind);
    fv_ctx_destroy(&ctx);
    return test_end();
}
