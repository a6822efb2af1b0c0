/* fuzz_vz.c - .vz archives from anywhere: decoding, opening, random access and recovery.
 *
 * What begins with the magic is an archive; it is tried as it is and with the checksum of its first
 * header made right. Other bytes are the payload of a modelled block, behind two bytes of its size
 * and one of its level (bit 4: with a model), so that mutations reach the segment table and the
 * coders without a hash in the way. What a payload holds is coded and decoded again. All ways to
 * read an archive must agree, and none takes more memory than was foretold. Most inputs are read in
 * one way only, and most payloads are small. */
#include "fuzz_vz_model.h"

#define OUTPUT_MAX ((uint64_t)1 << 20)
#define MEMORY_MAX ((uint64_t)96 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct sink {
    const uint8_t *archive;
    uint8_t *data;
    size_t size;
} sink;

static int read_at(void *user, uint64_t offset, void *to, size_t size)
{
    memcpy(to, ((sink *)user)->archive + offset, size);
    return 0;
}

static int write_to(void *user, const void *from, size_t size)
{
    sink *s = user;
    if (size > OUTPUT_MAX - s->size) abort(); /* beyond the limit that was given */
    memcpy(s->data + s->size, from, size);
    s->size += size;
    return 0;
}

static void read_parts(fv_ctx *ctx, const uint8_t *archive, size_t size, const fv_vzip_limits *l,
                       const uint8_t *whole, size_t n)
{
    fv_vzip_archive *a;
    uint8_t part[300];
    size_t got;
    if (fv_vzip_open_memory(ctx, &a, archive, size, l) != FV_OK) return;
    fv_vzip_info info;
    fv_vzip_get_info(a, &info);
    if (whole && info.original_bytes != n) abort();
    for (uint64_t at = 0; at < info.original_bytes && at < OUTPUT_MAX; at = at * 2 + 99) {
        if (fv_vzip_read(ctx, a, at, sizeof part, part, &got) != FV_OK) break;
        if (whole && memcmp(part, whole + at, got) != 0) abort();
    }
    fv_vzip_close(&a);
}

static void recover(fv_ctx *ctx, const uint8_t *archive, size_t size, const fv_vzip_limits *l,
                    const uint8_t *whole, size_t n)
{
    sink all = {archive, malloc(OUTPUT_MAX), 0};
    const fv_vzip_source source = {read_at, size, &all};
    const fv_vzip_io io = {NULL, write_to, &all};
    uint64_t lost;
    const fv_status s = fv_vzip_recover(ctx, &source, &io, OUTPUT_MAX, l, NULL, &lost, NULL);
    if (whole && (s != FV_OK || lost || all.size != n || memcmp(all.data, whole, n) != 0)) abort();
    free(all.data);
}

/* share: 0 in all ways, else one of three. */
static void read_archive(fv_ctx *ctx, const uint8_t *archive, size_t size, unsigned share)
{
    fv_vzip_limits l = FV_VZIP_LIMITS_INIT;
    fv_status s = FV_ERR_UNSUPPORTED;
    uint8_t *out = NULL;
    size_t n = 0;
    l.memory_bytes = MEMORY_MAX;
    l.max_block_bytes = OUTPUT_MAX;
    const fv_vzip_model *const models[] = {NULL, fuzz_vz_model()};
    l.models = models;
    l.model_count = 2;
    if (share <= 1) s = fv_vzip_decompress(ctx, archive, size, OUTPUT_MAX, &l, &out, &n);
    const uint8_t *whole = s == FV_OK ? out : NULL;
    if (share == 0 || share == 2) read_parts(ctx, archive, size, &l, whole, n);
    if (share == 0 || share == 3) recover(ctx, archive, size, &l, whole, n);
    fv_free(ctx, out);
}

/* Puts the right checksum behind the header, if it can be found. */
static void repair(fv_ctx *ctx, uint8_t *archive, size_t size)
{
    for (size_t n = 13; n + 4 <= size && n < VZ_HEADER_MAX; n++) {
        uint8_t old[4];
        vz_header h;
        const uint32_t crc = fv_crc32c(0, archive, n);
        memcpy(old, archive + n, 4);
        for (int i = 0; i < 4; i++) archive[n + (size_t)i] = (uint8_t)(crc >> (8 * i));
        vz_in in = {ctx, archive, archive + n + 4};
        const fv_status s = vz_header_get(&in, &h);
        if (s != FV_ERR_TRUNCATED && s != FV_ERR_CHECKSUM) return;
        memcpy(archive + n, old, 4);
    }
}

static void code_again(fv_ctx *ctx, const vz_cm_options *o, const uint8_t *data, size_t size)
{
    const vz_hints none = {NULL, 0};
    uint8_t *back = malloc(size);
    vz_buf b;
    vz_buf_init(&b, ctx);
    const fv_status s = vz_modelled_encode(ctx, o, data, size, &none, &b);
    if (s == FV_OK ? vz_modelled_decode(ctx, o, b.data, b.size, back, size) != FV_OK ||
                         memcmp(back, data, size) != 0
                   : s != FV_ERR_OOM)
        abort();
    vz_buf_free(&b);
    free(back);
}

static void read_payload(fv_ctx *ctx, const uint8_t *p, size_t size)
{
    const vz_prior prior = {vz_model_of(fuzz_vz_model()), 0, UINT32_MAX, NULL};
    const vz_cm_options o = {fuzz_level(1 + (p[2] & 15) % 10, p, size), 20,
                             p[2] & 16 ? &prior : NULL};
    const size_t claimed = p[0] | (size_t)p[1] << 8;
    const size_t original = 1 + (fuzz_share(p, size, 16) ? claimed % 512 : claimed);
    uint64_t memory;
    uint8_t *data = malloc(original);
    if (vz_modelled_memory(ctx, &o, p + 3, size - 3, original, &memory) == FV_OK &&
        memory < MEMORY_MAX) {
        const fv_status s = vz_modelled_decode(ctx, &o, p + 3, size - 3, data, original);
        if (s == FV_ERR_INTERNAL || s == FV_ERR_OOM) abort();
        if (s == FV_OK && original < 4096 && fuzz_share(p, size, 4) == 0)
            code_again(ctx, &o, data, original);
    }
    free(data);
}

/* Its texts take longer to learn than all else does. */
static bool names_own_model(const uint8_t *archive, size_t size)
{
    const vz_model *own = vz_prime_model();
    return own && size >= 17 && archive[12] > 0 && vz_rd32(archive + 13) == own->id;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fv_ctx *ctx = fuzz_ctx(MEMORY_MAX + (1 << 20));
    if (size >= VZ_MAGIC_BYTES && memcmp(data, vz_magic, VZ_MAGIC_BYTES) == 0) {
        if (names_own_model(data, size) && fuzz_share(data, size, 32)) return 0;
        const unsigned share = fuzz_share(data, size, 4);
        uint8_t *copy = malloc(size);
        memcpy(copy, data, size);
        read_archive(ctx, copy, size, share);
        repair(ctx, copy, size);
        if (memcmp(copy, data, size) != 0) read_archive(ctx, copy, size, share);
        free(copy);
    } else if (size > 3) {
        read_payload(ctx, data, size);
    }
    fuzz_check_leaks(ctx);
    return 0;
}
