/* fuzz_vz_parse.c - all that reads headers and tables in vzip, and decodes nothing: thousands of
 * inputs a second where a decoder takes tens.
 *
 * Byte 0: what the rest is, and in bits 4 to 7 a variant.
 *     0  a frame header       its checksum is made right, and written it must be the same again
 *     1  block headers
 *     2  a list of references, behind two bytes of the block's size
 *     3  a segment table, behind three bytes of the block's size
 *     4  an archive that is opened; variant 1: as recovery does, 2: with the index's checksum right
 *     5  a file: the recognisers; checksums of a PNG's chunks are made right
 *     6  a block: into segments. Large ones are not coded for comparison: at most 4 KiB
 *     7  a layout of records, whose numbers must come back */
#include "cm.h"
#include "fuzz_vz_model.h"
#include "vz_archive.h"
#include "vz_audio.h"
#include "vz_deflate.h"
#include "vz_image_model.h"
#include "vz_media.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put_le32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (8 * i));
}

/* ---- The container --------------------------------------------------------------------------- */

/* Makes the checksum right; *end: behind the header, if there is one. */
static bool repair_header(fv_ctx *ctx, uint8_t *p, size_t size, size_t *end)
{
    vz_header h;
    vz_in in = {ctx, p, p + size};
    fv_status s = vz_header_get(&in, &h);
    if (s == FV_ERR_CHECKSUM) {
        const size_t n = (size_t)(in.p - p) - 4;
        put_le32(p + n, fv_crc32c(0, p, n));
        in.p = p;
        s = vz_header_get(&in, &h);
        if (s == FV_ERR_CHECKSUM) abort();
    }
    *end = (size_t)(in.p - p);
    return s == FV_OK;
}

static void try_header(fv_ctx *ctx, uint8_t *p, size_t size)
{
    size_t n;
    if (!repair_header(ctx, p, size, &n)) return;
    vz_header h;
    vz_in in = {ctx, p, p + size};
    vz_buf b;
    vz_buf_init(&b, ctx);
    if (vz_header_get(&in, &h) != FV_OK || h.bytes != n || n > VZ_HEADER_MAX) abort();
    vz_header_put(&h, &b);
    /* Bits of the mode that are no permissions are left out. */
    if (b.size != n || (!(h.flags & VZ_HAS_TIME) && memcmp(b.data, p, n) != 0)) abort();
    vz_buf_free(&b);
}

static void try_blocks(fv_ctx *ctx, const fv_vzip_limits *l, const uint8_t *p, size_t size)
{
    vz_in in = {ctx, p, p + size};
    vz_block_header h;
    vz_buf b;
    vz_buf_init(&b, ctx);
    for (size_t at = 0; vz_block_header_get(&in, l, &h) == FV_OK; at += h.bytes) {
        b.size = 0;
        vz_block_header_put(&h, &b);
        if (b.size != h.bytes || memcmp(b.data, p + at, b.size) != 0) abort();
    }
    vz_buf_free(&b);
}

static void try_references(fv_ctx *ctx, const fv_vzip_limits *l, uint8_t *p, size_t size)
{
    if (size < 3) return;
    const uint64_t original = 1 + (p[0] | (uint64_t)p[1] << 8);
    vz_block_header h = {VZ_REFERRING, original, size - 2, 0, 0}, inner;
    vz_refs r;
    vz_ref ref;
    const uint8_t *code;
    vz_past past;
    p += 2;
    size -= 2;
    if (vz_refs_open(&r, ctx, p, size, original) != FV_OK) return;
    while (r.left > 0)
        if (vz_refs_next(&r, &ref) != FV_OK) return;
    const size_t n = (size_t)(r.in.p - p);
    if (size - n >= 4) put_le32(p + n, fv_crc32c(0, p, n));
    if (vz_refs_inner(ctx, l, &h, p, &inner, &code) != FV_OK) return;
    if (inner.original != original - r.referred || code > p + size) abort();
    if (vz_past_open(&past, ctx, VZ_WINDOW_LOG2_MIN) != FV_OK) exit(1);
    uint8_t *plain = calloc(1, (size_t)inner.original + 1);
    if (plain && vz_past_skip(&past, 1000) == FV_OK &&
        vz_refs_apply(ctx, &h, p, plain, inner.original, &past) == FV_OK &&
        past.end != 1000 + original)
        abort();
    free(plain);
    vz_past_close(&past);
}

static void try_table(fv_ctx *ctx, const uint8_t *p, size_t size, int variant)
{
    const vz_prior prior = {vz_model_of(fuzz_vz_model()), 0, UINT32_MAX, NULL};
    const vz_cm_options o = {1 + variant % 10, 20 + variant / 2, variant & 1 ? &prior : NULL};
    uint64_t memory;
    if (size < 4) return;
    const uint64_t original = 1 + (p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16);
    p += 3;
    size -= 3;
    const fv_status s = vz_modelled_memory(ctx, &o, p, size, original, &memory);
    if (s == FV_ERR_INTERNAL || s == FV_ERR_OOM) abort();
    (void)!vz_modelled_needs_model(p, size);
}

static int read_at(void *user, uint64_t offset, void *to, size_t size)
{
    memcpy(to, (const uint8_t *)user + offset, size);
    return 0;
}

static void repair_index(uint8_t *p, size_t size)
{
    if (size < VZ_INDEX_TAIL || memcmp(p + size - 12, vz_index_magic, 4) != 0) return;
    const uint8_t *tail = p + size - VZ_INDEX_TAIL;
    const size_t n = tail[0] | (size_t)tail[1] << 8;
    if (n < 8 || n > size - VZ_INDEX_TAIL) return;
    uint8_t *index = p + size - VZ_INDEX_TAIL - n;
    put_le32(index + n - 4, fv_crc32c(0, index, n - 4));
}

static void try_archive(fv_ctx *ctx, const fv_vzip_limits *l, uint8_t *p, size_t size, int variant)
{
    const fv_vzip_source source = {read_at, size, p};
    fv_vzip_archive *a;
    fv_vzip_info info;
    fv_vzip_frame f;
    size_t n;
    uint64_t sum = 0;
    (void)repair_header(ctx, p, size, &n);
    if (variant & 2) repair_index(p, size);
    const fv_status s = vz_archive_open(ctx, &a, &source, l, variant & 1);
    if (s == FV_ERR_INTERNAL || s == FV_ERR_OOM) abort();
    if (s != FV_OK) return;
    fv_vzip_get_info(a, &info);
    for (uint64_t i = 0; i < info.frames; i++) {
        if (fv_vzip_get_frame(a, i, &f) != FV_OK) abort();
        sum += f.original_bytes;
    }
    if (sum != info.original_bytes || fv_vzip_get_frame(a, info.frames, &f) == FV_OK) abort();
    fv_vzip_close(&a);
}

/* ---- Files ----------------------------------------------------------------------------------- */

static void repair_png(uint8_t *p, size_t size)
{
    if (size < 8 || p[0] != 0x89) return;
    for (size_t at = 8; size - at >= 12;) {
        const uint64_t n = (uint64_t)p[at] << 24 | (uint64_t)p[at + 1] << 16 |
                           (uint64_t)p[at + 2] << 8 | p[at + 3];
        if (n > size - at - 12) return;
        const uint32_t crc = fv_crc32(0, p + at + 4, (size_t)n + 4);
        at += 8 + (size_t)n;
        for (int i = 24; i >= 0; i -= 8) p[at++] = (uint8_t)(crc >> i);
    }
}

static void check_media(const vz_media *m, bool is_known)
{
    if (is_known && (m->unit == 0 || m->data < m->start || m->end < m->data)) abort();
}

static void recognise(fv_ctx *ctx, uint8_t *p, size_t size, int variant)
{
    static vz_detect *const detectors[] = {vz_png_detect, vz_image_detect, vz_audio_detect,
                                           vz_genes_detect};
    vz_media m = {VZ_BINARY, 0, 1, 0, 0, 0};
    uint32_t param = 0;
    uint64_t bytes, budget = 1 << 16;
    repair_png(p, size);
    for (size_t i = 0; i < FV_ARRAY_LEN(detectors); i++)
        if (size > 0 && detectors[i](p, size, variant & 1, &param) > size) abort();
    check_media(&m, vz_audio_describe(p, size, &m));
    check_media(&m, vz_image_describe(p, size, variant & 1, &m));
    (void)!vz_png_head(p, size, &param);
    if (vz_zip_head(p, size, &param, &bytes) && bytes < 30) abort();
    if (size > 0 && vz_stream_detect(ctx, p, size, 9, &param, &budget) > size) abort();
    if (vz_exe_kind(p, size) >= VZ_RECORDS) abort();
    (void)!vz_rows_begin_here(p, size);
}

static void split(fv_ctx *ctx, uint8_t *p, size_t size, int variant)
{
    vz_segment *segs;
    vz_hint hint = {0, {VZ_IMAGE, 3, 100}};
    const vz_hints hints = {&hint, 1};
    int count;
    uint64_t sum = 0;
    if (size < 2 || size > 4000) return;
    hint.at = p[0];
    hint.g.size = 1 + p[1];
    repair_png(p, size);
    if (vz_split(ctx, p, size, 1 + variant % 9, variant > 8 ? &hints : NULL, &segs, &count))
        abort();
    for (int i = 0; i < count; i++) {
        if (segs[i].size == 0) abort();
        sum += segs[i].size;
    }
    if (sum != size) abort();
    fv_free(ctx, segs);
}

/* A layout from bits of the decoder, and the bytes of its records there and back. */
static void try_layout(const uint8_t *p, size_t size, int variant)
{
    uint8_t copy[1024];
    vz_decoder d;
    vz_layout l;
    const size_t n = size < sizeof copy ? size : sizeof copy;
    if (n == 0) return;
    vz_decoder_init(&d, p, size);
    vz_layout_get(&l, 2 + (uint32_t)variant * 5, &d);
    memcpy(copy, p, n);
    vz_layout_apply(&l, copy, n, true);
    vz_layout_apply(&l, copy, n, false);
    if (memcmp(copy, p, n) != 0) abort();
    if (fuzz_share(p, size, 16) == 0) (void)!vz_layout_cost(p, size, 2 + (uint32_t)variant, &l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const fv_vzip_model *const models[] = {fuzz_vz_model()};
    fv_vzip_limits l = FV_VZIP_LIMITS_INIT;
    if (size < 1 || size > 8192) return 0;
    fv_ctx *ctx = fuzz_ctx((uint64_t)64 << 20);
    const int variant = data[0] >> 4;
    uint8_t *p = malloc(--size ? size : 1); /* a sanitizer sees reads beyond the end */
    if (!p) return 0;
    memcpy(p, data + 1, size);
    l.models = models;
    l.model_count = 1;
    l.memory_bytes = (uint64_t)1 << 20; /* recovery decodes what it finds, if it is small */
    switch (data[0] & 7) {
    case 0: try_header(ctx, p, size); break;
    case 1: try_blocks(ctx, &l, p, size); break;
    case 2: try_references(ctx, &l, p, size); break;
    case 3: try_table(ctx, p, size, variant); break;
    case 4: try_archive(ctx, &l, p, size, variant); break;
    case 5: recognise(ctx, p, size, variant); break;
    case 6: split(ctx, p, size, variant); break;
    default: try_layout(p, size, variant);
    }
    free(p);
    fuzz_check_leaks(ctx);
    return 0;
}
