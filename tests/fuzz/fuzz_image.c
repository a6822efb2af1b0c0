/* fuzz_image.c - any bytes as a picture. The last byte chooses how the reader is driven; what is
 * decoded must survive writing as PNG and reading back, pixel for pixel and with its text.
 *
 * The checksums of PNG chunks are made right first: else mutations would end at them. */
#include <stdlib.h>
#include <string.h>

#include "fuzz_ctx.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int ok)
{
    if (!ok) abort();
}

static void compare(const fv_image *a, const fv_image *b)
{
    require(a->width == b->width && a->height == b->height && a->channels == b->channels &&
            a->depth == b->depth);
    const size_t row = (size_t)a->width * (size_t)a->channels * ((size_t)a->depth / 8);
    for (int y = 0; y < a->height; y++)
        require(memcmp((const uint8_t *)a->pixels + (size_t)y * a->stride_bytes,
                       (const uint8_t *)b->pixels + (size_t)y * b->stride_bytes, row) == 0);
    require(a->text_count == b->text_count);
    for (int i = 0; i < 2 * a->text_count; i++) require(strcmp(a->text[i], b->text[i]) == 0);
}

static void round_trip(fv_ctx *ctx, const fv_image *a)
{
    fv_image_write_options w = FV_IMAGE_WRITE_OPTIONS_INIT;
    fv_image_read_options r = FV_IMAGE_READ_OPTIONS_INIT;
    fv_image b;
    uint8_t *bytes = NULL;
    size_t n = 0;
    w.format = FV_IMAGE_PNG;
    w.effort = 1;
    r.keep_metadata = 1;
    require(fv_image_encode(ctx, a, &w, &bytes, &n) == FV_OK);
    require(fv_image_decode(ctx, &b, bytes, n, &r) == FV_OK);
    compare(a, &b);
    fv_free(ctx, bytes);
    fv_image_free(ctx, &b);
}

/* length32 name32 data crc32, all big endian; the checksum is that of name and data. */
static void repair_png(uint8_t *p, size_t size)
{
    for (size_t at = 8; size - at >= 12;) {
        const size_t n = (size_t)p[at] << 24 | (size_t)p[at + 1] << 16 | (size_t)p[at + 2] << 8 |
                         p[at + 3];
        if (n > size - at - 12) return;
        const uint32_t crc = fv_crc32(0, p + at + 4, n + 4);
        for (size_t i = 0; i < 4; i++) p[at + 8 + n + i] = (uint8_t)(crc >> (24 - 8 * i));
        at += 12 + n;
    }
}

static void decode(fv_ctx *ctx, const uint8_t *data, size_t size)
{
    const uint8_t how = size ? data[size - 1] : 0;
    fv_image_read_options o = FV_IMAGE_READ_OPTIONS_INIT;
    fv_image a;
    o.max_pixels = 1u << 20;
    o.keep_metadata = 1;
    if (how >= 0xf0) { /* few inputs: most should keep what is stored */
        o.channels = how & 3 ? how & 3 : 4;
        o.depth = how & 4 ? 16 : 8;
        o.background[0] = 0.3f;
        o.keep_metadata = how >> 3 & 1;
    }
    if (fv_image_decode(ctx, &a, data, size, &o) == FV_OK) {
        require(a.pixels && (uint64_t)a.width * (uint64_t)a.height <= o.max_pixels);
        round_trip(ctx, &a);
        fv_image_free(ctx, &a);
    } else {
        require(!a.pixels && !a.text && !a.icc && !a.exif && fv_ctx_error(ctx)[0]);
    }
    fuzz_check_leaks(ctx);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fv_ctx *ctx = fuzz_ctx(1u << 30);
    uint8_t *copy = fv_image_sniff(data, size) == FV_IMAGE_PNG ? malloc(size) : NULL;
    if (copy) {
        memcpy(copy, data, size);
        repair_png(copy, size);
    }
    decode(ctx, copy ? copy : data, size);
    free(copy);
    return 0;
}
