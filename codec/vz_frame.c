/* vz_frame.c - levels, frame headers, block headers, limits. FORMAT-vz.md is the byte layout.
 *
 * A header is checked by its CRC before a field of it is believed, a block by the XXH64 of its
 * original bytes after decoding. Every other byte of an archive is either compared with what the
 * decoder has seen (index, sizes) or a hash itself: no bit can change without an error, except
 * where the decoded bytes are right all the same. */
#include "internal.h"

#include <string.h>
#include <xxhash.h>

#define MIB ((uint32_t)1 << 20)

const uint8_t vz_magic[VZ_MAGIC_BYTES] = {0x89, 'V', 'Z', 'P', 0x0d, 0x0a, 0x1a, 0x0a};
const uint8_t vz_index_magic[4] = {'V', 'Z', 'I', 'X'};

/* ---- Levels ---------------------------------------------------------------------------------- */

/* Larger blocks share statistics over more data; blocks are also what threads work on, so a file
 * below one block is coded by one thread. Table sizes follow the rule of 200 MiB for two threads at
 * the default level. */
const vz_level *vz_level_of(int level)
{
    static const vz_level levels[] = {
        /* block, memory, thorough, verify */
        {8 * MIB, 24, false, false},  /* 1 */
        {8 * MIB, 25, false, false},  /* 2 */
        {8 * MIB, 25, false, false},  /* 3: the default */
        {8 * MIB, 26, false, false},  /* 4 */
        {8 * MIB, 27, false, false},  /* 5 */
        {32 * MIB, 25, false, false}, /* 6 */
        {32 * MIB, 26, false, false}, /* 7 */
        {32 * MIB, 27, false, false}, /* 8 */
        {64 * MIB, 27, false, false}, /* 9 */
        {32 * MIB, 29, true, true},   /* FV_VZIP_LEVEL_ULTRA */
    };
    return level < 1 || level > FV_VZIP_LEVEL_ULTRA ? NULL : &levels[level - 1];
}

/* 16 MiB: what zstd -19 looks back to and a block more; with 256 MiB, versions of a large folder see
 * each other. */
int vz_window_of(int level)
{
    return level >= 6 ? 28 : 24;
}

uint64_t vz_hash(const void *data, size_t size)
{
    return XXH64(data, size, 0);
}

/* ---- Frame header ---------------------------------------------------------------------------- */

#define KNOWN_FLAGS \
    (VZ_HAS_SIZE | VZ_HAS_INDEX | VZ_HAS_NAME | VZ_HAS_TIME | VZ_IS_SOLID | VZ_IS_SINGLE)

void vz_header_put(const vz_header *h, vz_buf *out)
{
    const size_t start = out->size;
    vz_buf_put(out, vz_magic, sizeof vz_magic);
    vz_buf_byte(out, VZ_VERSION);
    vz_buf_byte(out, (uint8_t)h->flags);
    vz_buf_byte(out, (uint8_t)h->level);
    vz_buf_byte(out, (uint8_t)h->memory_log2);
    vz_buf_byte(out, (uint8_t)h->models);
    for (int i = 0; i < h->models; i++) {
        vz_buf_le(out, h->model[i].id, 4);
        vz_buf_le(out, h->model[i].hash, 8);
    }
    if (h->flags & VZ_IS_SOLID) vz_buf_byte(out, (uint8_t)h->window_log2);
    if (h->flags & VZ_HAS_SIZE) vz_buf_varint(out, h->size);
    if (h->flags & VZ_HAS_NAME) {
        const size_t n = strlen(h->name);
        vz_buf_varint(out, n);
        vz_buf_put(out, h->name, n);
    }
    if (h->flags & VZ_HAS_TIME) {
        vz_buf_le(out, (uint64_t)h->mtime_s, 8);
        vz_buf_le(out, h->mtime_ns, 4);
        vz_buf_le(out, h->mode, 2);
    }
    if (out->status == FV_OK)
        vz_buf_le(out, fv_crc32c(0, out->data + start, out->size - start), 4);
}

/* Magic and version. A few first bytes of the magic are a cut archive, others are no archive. */
static fv_status get_magic(vz_in *r)
{
    const size_t there = (size_t)(r->end - r->p);
    const size_t n = there < VZ_MAGIC_BYTES ? there : VZ_MAGIC_BYTES;
    const uint8_t *p;
    uint64_t version;
    if (memcmp(r->p, vz_magic, n) != 0)
        return fv_fail(r->ctx, FV_ERR_FORMAT, "not a .vz archive: it begins with other bytes");
    FV_TRY(vz_in_take(r, VZ_MAGIC_BYTES, &p));
    FV_TRY(vz_in_le(r, 1, &version));
    if (version != VZ_VERSION)
        return fv_fail(r->ctx, FV_ERR_VERSION,
                       "format version %d: this program reads version %d; a newer one is needed",
                       (int)version, VZ_VERSION);
    return FV_OK;
}

static fv_status get_models(vz_in *r, vz_header *h)
{
    uint64_t n, id;
    FV_TRY(vz_in_le(r, 1, &n));
    if (n > VZ_MODELS_MAX)
        return fv_fail(r->ctx, FV_ERR_LIMIT, "the header lists %d models, at most %d are allowed",
                       (int)n, VZ_MODELS_MAX);
    h->models = (int)n;
    for (int i = 0; i < h->models; i++) {
        FV_TRY(vz_in_le(r, 4, &id));
        FV_TRY(vz_in_le(r, 8, &h->model[i].hash));
        h->model[i].id = (uint32_t)id;
    }
    return FV_OK;
}

static fv_status get_name(vz_in *r, vz_header *h)
{
    uint64_t n;
    const uint8_t *p;
    FV_TRY(vz_in_varint(r, &n));
    if (n > VZ_NAME_MAX)
        return fv_fail(r->ctx, FV_ERR_LIMIT, "the file name has %llu bytes, at most %d are allowed",
                       (unsigned long long)n, VZ_NAME_MAX);
    FV_TRY(vz_in_take(r, (size_t)n, &p));
    if (n == 0 || memchr(p, 0, (size_t)n))
        return fv_fail(r->ctx, FV_ERR_FORMAT, "corrupt: a file name that is empty or holds a NUL");
    memcpy(h->name, p, (size_t)n);
    h->name[n] = 0;
    return FV_OK;
}

static fv_status get_time(vz_in *r, vz_header *h)
{
    uint64_t s, ns, mode;
    FV_TRY(vz_in_le(r, 8, &s));
    FV_TRY(vz_in_le(r, 4, &ns));
    FV_TRY(vz_in_le(r, 2, &mode));
    h->mtime_s = (int64_t)s;
    h->mtime_ns = (uint32_t)ns;
    h->mode = (uint32_t)mode & 07777;
    return FV_OK;
}

/* What a version 1 header with a right checksum may still say wrongly. */
static fv_status check_header(fv_ctx *ctx, const vz_header *h)
{
    if (h->flags & ~KNOWN_FLAGS)
        return fv_fail(ctx, FV_ERR_VERSION,
                       "the header has flags 0x%02x that this program does not know; a newer one "
                       "is needed", (unsigned)(h->flags & ~KNOWN_FLAGS));
    const bool is_single = h->flags & VZ_IS_SINGLE;
    if (!vz_level_of(h->level) || h->memory_log2 < 20 || h->memory_log2 > 30 ||
        (is_single && (h->flags & (VZ_HAS_SIZE | VZ_HAS_INDEX | VZ_IS_SOLID))) ||
        ((h->flags & VZ_IS_SOLID) && (h->window_log2 < VZ_WINDOW_LOG2_MIN ||
                                      h->window_log2 > VZ_WINDOW_LOG2_MAX)) ||
        h->mtime_ns > 999999999)
        return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: impossible values in the header");
    return FV_OK;
}

fv_status vz_header_get(vz_in *r, vz_header *h)
{
    const uint8_t *start = r->p;
    uint64_t fixed[3], crc, window = 0;
    memset(h, 0, sizeof *h);
    FV_TRY(get_magic(r));
    for (int i = 0; i < 3; i++) FV_TRY(vz_in_le(r, 1, &fixed[i]));
    h->flags = (int)fixed[0];
    h->level = (int)fixed[1];
    h->memory_log2 = (int)fixed[2];
    FV_TRY(get_models(r, h));
    if (h->flags & VZ_IS_SOLID) FV_TRY(vz_in_le(r, 1, &window));
    h->window_log2 = (int)window;
    if (h->flags & VZ_HAS_SIZE) FV_TRY(vz_in_varint(r, &h->size));
    if (h->flags & VZ_HAS_NAME) FV_TRY(get_name(r, h));
    if (h->flags & VZ_HAS_TIME) FV_TRY(get_time(r, h));
    const uint32_t expected = fv_crc32c(0, start, (size_t)(r->p - start));
    FV_TRY(vz_in_le(r, 4, &crc));
    /* New flags may bring new fields, so that the checksum is not where we look. */
    if (h->flags & ~KNOWN_FLAGS) return check_header(r->ctx, h);
    if (crc != expected)
        return fv_fail(r->ctx, FV_ERR_CHECKSUM, "corrupt: the checksum of the header differs");
    h->bytes = (size_t)(r->p - start);
    return check_header(r->ctx, h);
}

/* ---- Block header ---------------------------------------------------------------------------- */

void vz_block_header_put(const vz_block_header *h, vz_buf *out)
{
    vz_buf_byte(out, (uint8_t)h->type);
    if (h->type == VZ_END) return;
    vz_buf_varint(out, h->original);
    vz_buf_varint(out, h->coded);
    vz_buf_le(out, h->hash, 8);
}

/* The encoder stores what it cannot make smaller, hence coded <= original. */
static fv_status check_block(fv_ctx *ctx, const fv_vzip_limits *l, const vz_block_header *h)
{
    if (h->original > l->max_block_bytes)
        return fv_fail(ctx, FV_ERR_LIMIT, "a block of %llu bytes exceeds the limit of %llu",
                       (unsigned long long)h->original, (unsigned long long)l->max_block_bytes);
    if (h->original == 0 || h->coded == 0 || h->coded > h->original ||
        (h->type == VZ_STORE && h->coded != h->original))
        return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: impossible sizes of a block");
    if (h->original / h->coded > l->max_expansion)
        return fv_fail(ctx, FV_ERR_LIMIT, "a block expands %llu times, the limit is %llu",
                       (unsigned long long)(h->original / h->coded),
                       (unsigned long long)l->max_expansion);
    return FV_OK;
}

fv_status vz_block_header_get(vz_in *r, const fv_vzip_limits *limits, vz_block_header *h)
{
    const uint8_t *start = r->p;
    uint64_t type;
    memset(h, 0, sizeof *h);
    FV_TRY(vz_in_le(r, 1, &type));
    h->type = (int)type;
    h->bytes = 1;
    if (h->type == VZ_END) return FV_OK;
    if (h->type > VZ_REFERRING)
        return fv_fail(r->ctx, FV_ERR_VERSION,
                       "block type %d is not known: corrupt, or a newer program is needed", h->type);
    FV_TRY(vz_in_varint(r, &h->original));
    FV_TRY(vz_in_varint(r, &h->coded));
    FV_TRY(vz_in_le(r, 8, &h->hash));
    h->bytes = (size_t)(r->p - start);
    return check_block(r->ctx, limits, h);
}

fv_status vz_block_suits(fv_ctx *ctx, const vz_header *frame, const vz_block_header *h)
{
    if (h->type != VZ_REFERRING) return FV_OK;
    if (!(frame->flags & VZ_IS_SOLID) || h->original > (uint64_t)1 << frame->window_log2)
        return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: a block with references that the header does "
                       "not announce");
    return FV_OK;
}

fv_status vz_take_limits(fv_ctx *ctx, const fv_vzip_limits *limits, fv_vzip_limits *out)
{
    *out = (fv_vzip_limits)FV_VZIP_LIMITS_INIT;
    FV_TRY(FV_TAKE_OPTIONS(ctx, out, limits, "vzip"));
    if (out->memory_bytes == 0) out->memory_bytes = (uint64_t)1 << 30;
    if (out->max_block_bytes == 0 || out->max_block_bytes > VZ_BLOCK_BYTES_MAX)
        out->max_block_bytes = VZ_BLOCK_BYTES_MAX;
    if (out->max_expansion == 0) out->max_expansion = 1000000;
    if (out->max_learnt_bytes == 0) out->max_learnt_bytes = (uint64_t)4 << 30;
    return FV_OK;
}
