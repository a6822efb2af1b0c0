/* fuzz_rdvq_file.c - the container .rdvq and what lies in its chunks; no model, no tokens.
 *
 * Byte 0: bits. 1: the header's checksum is made right; 2: those of chunks; 4: that of the end; 8:
 * a block is unpacked from the rest instead of a file; 16: with a limit of 1000 pixels. */
#include "../codec/rdvq_chunks.h"

#include "fuzz_ctx.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PIXELS_MAX ((uint64_t)1 << 22)

static void put_le(uint8_t *p, uint32_t v, int bytes)
{
    for (int i = 0; i < bytes; i++) p[i] = (uint8_t)(v >> 8 * i);
}

/* ---- Checksums ------------------------------------------------------------------------------- */

/* Where the header's checksum lies, 0: nowhere. */
static size_t header_end(const uint8_t *p, size_t size)
{
    size_t at = 16;
    for (int side = 0; side < 2; side++) {
        while (at < size && p[at] & 0x80) at++;
        at++;
    }
    at += 4;
    if (size > 9 && p[9] & RDVQ_IS_SAMPLED) at += 4;
    return at + 2 <= size ? at : 0;
}

static void repair_chunks(uint8_t *p, size_t size, size_t at)
{
    while (at < size && p[at] != 0) {
        const size_t first = at++;
        uint64_t n = 0;
        int shift = 0;
        for (; at < size && p[at] & 0x80 && shift < 56; shift += 7)
            n |= (uint64_t)(p[at++] & 0x7f) << shift;
        if (at >= size) return;
        n |= (uint64_t)p[at++] << shift;
        if (n > size - at || size - at - n < 4) return;
        at += (size_t)n;
        put_le(p + at, fv_crc32c(0, p + first, at - first), 4);
        at += 4;
    }
}

static void repair(uint8_t *p, size_t size, int what)
{
    const size_t end = header_end(p, size);
    if (what & 1 && end) put_le(p + end, fv_crc32c(0, p, end), 2);
    if (what & 2 && end && p[9] & RDVQ_HAS_CHUNKS) repair_chunks(p, size, end + 2);
    if (what & 4 && size > 4) put_le(p + size - 4, fv_crc32c(0, p, size - 4), 4);
}

/* ---- What must hold -------------------------------------------------------------------------- */

static void check_status(fv_status s)
{
    if (s == FV_ERR_INTERNAL || s == FV_ERR_OOM || s == FV_ERR_ARG) abort();
}

/* All segments together are what is there; written again it is the same file. */
static void check_file(fv_ctx *ctx, const rdvq_file *f, const uint8_t *p, size_t size)
{
    rdvq_head h = f->head;
    const int tiles = h.tiles_x * h.tiles_y;
    uint64_t sum = 0;
    bool is_right = true;
    vz_buf out, *segment = fv_calloc(ctx, (size_t)tiles * RDVQ_MAX_LAYERS, sizeof *segment);
    if (!segment) abort();
    for (int i = 0; i < h.layers * tiles; i++) {
        rdvq_bytes s;
        bool is_cut;
        const fv_status r = rdvq_file_segment(ctx, f, i / tiles, i % tiles, &s, &is_cut);
        check_status(r);
        if (s.size && (s.data < p || s.data + s.size > p + size)) abort();
        sum += s.size;
        if (r != FV_OK || is_cut) is_right = false;
        segment[i % tiles * RDVQ_MAX_LAYERS + i / tiles] =
            (vz_buf){ .ctx = ctx, .data = (uint8_t *)(uintptr_t)s.data, .size = s.size };
    }
    if (sum > f->present) abort();
    vz_buf_init(&out, ctx);
    if (is_right && !f->is_truncated) {
        check_status(rdvq_file_write(ctx, &h, f->chunk, segment, &out));
        if (out.size > size) abort(); /* unknown chunks are not written again */
        if (out.size == size && h.flags == f->head.flags && !(h.flags & RDVQ_HAS_CHUNKS) &&
            memcmp(out.data, p, size) != 0)
            abort();
    }
    vz_buf_free(&out);
    fv_free(ctx, segment);
}

static void unpack_chunks(fv_ctx *ctx, const rdvq_file *f)
{
    uint8_t *bytes;
    size_t n;
    for (int i = 0; i < RDVQ_ALPHA; i++) {
        if (!f->chunk[i].data) continue;
        check_status(rdvq_block_unpack(ctx, f->chunk[i], 65536, &bytes, &n));
        fv_free(ctx, bytes);
    }
    if (!f->chunk[RDVQ_ALPHA].data || rdvq_alpha_memory(&f->head) > (1 << 20)) return;
    fv_image img;
    if (fv_image_create(ctx, &img, f->head.width, f->head.height, 2, f->head.depth > 8 ? 16 : 8))
        abort();
    check_status(rdvq_alpha_unpack(ctx, f->chunk[RDVQ_ALPHA], &f->head, 0, 0, &img));
    fv_image_free(ctx, &img);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > 65536) return 0;
    fv_ctx *ctx = fuzz_ctx((uint64_t)256 << 20);
    const int what = data[0];
    uint8_t *p = malloc(--size ? size : 1), *bytes; /* a sanitizer sees reads beyond the end */
    rdvq_file f;
    size_t n;
    if (!p) return 0;
    memcpy(p, data + 1, size);
    if (what & 8) {
        check_status(rdvq_block_unpack(ctx, (rdvq_bytes){ p, size }, 65536, &bytes, &n));
        fv_free(ctx, bytes);
    } else {
        repair(p, size, what);
        const fv_status s = rdvq_file_open(ctx, &f, p, size, what & 16 ? 1000 : PIXELS_MAX);
        check_status(s);
        if (s == FV_OK) {
            if (what & 16 && f.head.width * f.head.height > 1000) abort();
            check_file(ctx, &f, p, size);
            unpack_chunks(ctx, &f);
            rdvq_file_close(ctx, &f);
        }
    }
    free(p);
    fuzz_check_leaks(ctx);
    return 0;
}
