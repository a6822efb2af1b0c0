/* fuzz_vpic.c - .rdvq files through the public interface, with the smallest model there is.
 *
 * Byte 0: bits. 1: checksums of the header and of the end are made right; 2: the header names the
 * model; 4: strict; 8: a region; 16: a prefix of slices; 32: the rest is the segment bytes of a
 * file whose header is made here. */
#include "fovea_codec.h"

#include "fuzz_ctx.h"
#include "rdvq_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static fv_vpic_model *model;
static fv_ctx *keeper; /* of the model */

static void make_model(void)
{
    rdvq_config c = rdvq_small_config(2);
    fv_model *m;
    temp_dir_make("fuzz_vpic");
    c.codes = 32;
    c.depth = 1;
    c.width = c.ffn = 16;
    c.heads = 1;
    for (int i = 0; i < c.levels; i++) c.enc_width[i] = c.dec_width[i] = 4;
    if (fv_ctx_create(&keeper, NULL) != FV_OK ||
        rdvq_write_model(keeper, &c, 1, FV_F32, temp_path("a")) != FV_OK ||
        fv_model_open(keeper, &m, temp_path("a"), NULL) != FV_OK ||
        fv_rdvq_convert(keeper, m, FV_F32, temp_path("b"), 1) != FV_OK ||
        fv_vpic_model_open(keeper, &model, temp_path("b")) != FV_OK)
        exit(1);
    fv_model_close(&m);
}

static void put_le(uint8_t *p, uint32_t v, int bytes)
{
    for (int i = 0; i < bytes; i++) p[i] = (uint8_t)(v >> 8 * i);
}

/* A header of two bytes a side at most lies before byte 30. */
static void repair(uint8_t *p, size_t size, int what)
{
    fv_vpic_model_info info;
    fv_vpic_model_get_info(model, &info);
    size_t at = 16;
    if (size < 40) return;
    if (what & 2) {
        put_le(p + 10, info.id, 2);
        put_le(p + 12, info.hash, 4);
    }
    if (!(what & 1)) return;
    for (int side = 0; side < 2; side++) {
        while (at < 22 && p[at] & 0x80) at++;
        at++;
    }
    at += p[9] & 16 ? 8 : 4;
    put_le(p + at, fv_crc32c(0, p, at), 2);
    put_le(p + size - 4, fv_crc32c(0, p, size - 4), 4);
}

/* One tile, four layers that share the bytes. */
static size_t make_file(uint8_t *out, const uint8_t *data, size_t size)
{
    static const uint8_t head[24] = { 0x8a, 0x52, 0x44, 0x56, 0x51, 0x0d, 0x0a, 0x1a, 1, 0, 0, 0,
                                      0, 0, 0, 0, 99, 70, 0, 8, 4 << 4 | 8, 44 };
    size_t n = 24;
    memcpy(out, head, sizeof head);
    for (int k = 0; k < 4; k++) {
        const size_t length = 4 + (size > 16 ? (size - 16) / 4 : 0);
        if (length >= 128) out[n++] = (uint8_t)(length | 0x80);
        out[n++] = (uint8_t)(length >= 128 ? length >> 7 : length);
    }
    for (size_t i = 0; i < 4 * (4 + (size > 16 ? (size - 16) / 4 : 0)); i++)
        out[n++] = i < size ? data[i] : 0x80;
    return n + 4;
}

/* What a context keeps is the work space of its largest matrix product: far less than a picture. */
static void check_leaks(const fv_ctx *ctx)
{
    static uint64_t kept;
    static int grown;
    fv_memory_stats m;
    fv_ctx_memory(ctx, &m);
    if (m.current_bytes <= kept) return;
    kept = m.current_bytes;
    if (++grown > 100) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > 8192) return 0;
    if (!model) make_model();
    fv_ctx *ctx = fuzz_ctx((uint64_t)64 << 20);
    const int what = data[0];
    const fv_vpic_model *list = model;
    fv_vpic_limits l = FV_VPIC_LIMITS_INIT;
    fv_vpic_info info;
    fv_vpic_stats st;
    fv_image img;
    uint8_t *p = malloc(size + 128); /* a sanitizer sees reads beyond the end */
    if (!p) return 0;
    size_t n = --size;
    if (what & 32) n = make_file(p, data + 1, size);
    else memcpy(p, data + 1, size);
    p = realloc(p, n ? n : 1);
    if (!p) return 0;
    repair(p, n, what & 32 ? 3 : what);
    l.max_pixels = 1 << 16;
    l.memory_bytes = (uint64_t)32 << 20;
    l.models = &list;
    l.model_count = 1;
    l.strict = what & 4;
    if (what & 8) l.region[0] = 3, l.region[1] = 5, l.region[2] = 30, l.region[3] = 20;
    if (what & 16) l.slices = 7;
    const fv_status read = fv_vpic_read_info(ctx, p, n, &info);
    const fv_status s = fv_vpic_decode(ctx, p, n, &l, &img, &st);
    if (s == FV_ERR_INTERNAL || read == FV_ERR_INTERNAL || (s == FV_OK && read != FV_OK)) abort();
    if (s == FV_OK) {
        if (img.channels != info.channels || st.slices_decoded > info.slices) abort();
        if (!(what & 8) && (img.width != info.width || img.height != info.height)) abort();
        fv_image_free(ctx, &img);
    } else if (img.pixels) {
        abort();
    }
    free(p);
    check_leaks(ctx);
    return 0;
}
