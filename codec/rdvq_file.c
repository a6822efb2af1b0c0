/* rdvq_file.c - reading and writing the container .rdvq; the bytes are in FORMAT-rdvq.md.
 *
 *     magic 8 | version | flags | model u16 u32 | sides vu vu | colour | depth | tile and layers |
 *     slices | seed u32 | CRC u16 || chunks, 0 || index vu[] || segments || CRC u32
 *
 * A file may be hostile: each number is checked before it is used, the index is not allocated
 * before as many bytes as it has entries are seen, and what a header asks for is compared with the
 * caller's limit first. A file may also be cut: then its last segments are shorter or missing. */
#include "rdvq_file.h"

#include <string.h>

static const uint8_t magic[8] = { 0x8a, 0x52, 0x44, 0x56, 0x51, 0x0d, 0x0a, 0x1a };

#define TAIL_BYTES 4
#define CRC_BYTES 4
#define FIRST_OPTIONAL_CHUNK 128 /* types from here on may be left unread */

static const uint8_t chunk_type[RDVQ_CHUNKS] = { 'I', 'X', 'X' | 128, 'A' };

/* ---- Header ---------------------------------------------------------------------------------- */

static int tiles_of(int side, int log2) { return (int)(((int64_t)side + (1 << log2) - 1) >> log2); }

fv_status rdvq_head_check(fv_ctx *ctx, rdvq_head *h)
{
    FV_TRY(fv_meta_range(ctx, "picture width", h->width, 1, RDVQ_MAX_SIDE));
    FV_TRY(fv_meta_range(ctx, "picture height", h->height, 1, RDVQ_MAX_SIDE));
    FV_TRY(fv_meta_range(ctx, "log2 of the tile's side", h->tile_log2, RDVQ_TILE_LOG2_MIN,
                         RDVQ_TILE_LOG2_MAX));
    FV_TRY(fv_meta_range(ctx, "pixels", (int64_t)h->width * h->height, 1, RDVQ_MAX_PIXELS));
    h->tiles_x = tiles_of(h->width, h->tile_log2);
    h->tiles_y = tiles_of(h->height, h->tile_log2);
    return fv_meta_range(ctx, "tiles", (int64_t)h->tiles_x * h->tiles_y, 1, RDVQ_MAX_TILES);
}

/* A number of a few bytes, at most `most`. */
static fv_status get_number(vz_in *r, const char *what, uint64_t most, uint64_t *out)
{
    FV_TRY(vz_in_varint(r, out));
    if (*out <= most) return FV_OK;
    return fv_fail(r->ctx, FV_ERR_LIMIT, "%s of %llu exceeds %llu", what, (unsigned long long)*out,
                   (unsigned long long)most);
}

static fv_status get_byte(vz_in *r, int *out)
{
    uint64_t v;
    *out = 0;
    FV_TRY(vz_in_le(r, 1, &v));
    *out = (int)v;
    return FV_OK;
}

static fv_status get_model(vz_in *r, rdvq_head *h)
{
    uint64_t id, hash;
    FV_TRY(vz_in_le(r, 2, &id));
    FV_TRY(vz_in_le(r, 4, &hash));
    h->model_id = (uint32_t)id;
    h->model_hash = (uint32_t)hash;
    return FV_OK;
}

/* Fields as they stand there, then the checksum: what follows is not about damage. */
static fv_status get_fields(vz_in *r, rdvq_head *h)
{
    const uint8_t *first = r->p;
    uint64_t side[2], seed = 0, crc;
    int version, tile;
    r->p += sizeof magic;
    FV_TRY(get_byte(r, &version));
    if (version != RDVQ_VERSION)
        return fv_fail(r->ctx, FV_ERR_VERSION, "version %d, this library reads version %d", version,
                       RDVQ_VERSION);
    FV_TRY(get_byte(r, &h->flags));
    FV_TRY(get_model(r, h));
    for (int i = 0; i < 2; i++) FV_TRY(vz_in_varint(r, &side[i]));
    FV_TRY(get_byte(r, &h->colour));
    FV_TRY(get_byte(r, &h->depth));
    FV_TRY(get_byte(r, &tile));
    FV_TRY(get_byte(r, &h->slices));
    if (h->flags & RDVQ_IS_SAMPLED) FV_TRY(vz_in_le(r, 4, &seed));
    const uint32_t have = fv_crc32c(0, first, (size_t)(r->p - first)) & 0xffff;
    FV_TRY(vz_in_le(r, 2, &crc));
    if (crc != have) return fv_fail(r->ctx, FV_ERR_CHECKSUM, "checksum of the header differs");
    for (int i = 0; i < 2; i++)
        if (side[i] >= RDVQ_MAX_SIDE)
            return fv_fail(r->ctx, FV_ERR_LIMIT, "a side of more than %d pixels", RDVQ_MAX_SIDE);
    h->width = (int)side[0] + 1;
    h->height = (int)side[1] + 1;
    h->tile_log2 = tile & 15;
    h->layers = tile >> 4;
    h->seed = (uint32_t)seed;
    return FV_OK;
}

static fv_status get_head(vz_in *r, rdvq_head *h)
{
    fv_ctx *ctx = r->ctx;
    const size_t n = (size_t)(r->end - r->p), have = n < sizeof magic ? n : sizeof magic;
    memset(h, 0, sizeof *h);
    if (n == 0 || memcmp(r->p, magic, have) != 0)
        return fv_fail(ctx, FV_ERR_FORMAT, "not a file of vpic");
    if (n < sizeof magic) return fv_fail(ctx, FV_ERR_TRUNCATED, "the data ends too early");
    FV_TRY(get_fields(r, h));
    if (h->flags & ~RDVQ_FLAGS || ((h->flags & RDVQ_HAS_ALPHA) && !(h->flags & RDVQ_HAS_CHUNKS)))
        return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: flags %d", h->flags);
    if (h->colour > RDVQ_COLOUR_ICC ||
        (h->colour == RDVQ_COLOUR_ICC && !(h->flags & RDVQ_HAS_CHUNKS)))
        return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: colour space %d", h->colour);
    if (h->depth != 8 && h->depth != 10 && h->depth != 12 && h->depth != 16)
        return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: %d bits a channel", h->depth);
    FV_TRY(fv_meta_range(ctx, "layers", h->layers, 1, RDVQ_MAX_LAYERS));
    FV_TRY(fv_meta_range(ctx, "slices", h->slices, h->layers, RDVQ_MAX_SLICES));
    return rdvq_head_check(ctx, h);
}

static void put_head(const rdvq_head *h, vz_buf *out)
{
    const size_t first = out->size;
    vz_buf_put(out, magic, sizeof magic);
    vz_buf_byte(out, RDVQ_VERSION);
    vz_buf_byte(out, (uint8_t)h->flags);
    vz_buf_le(out, h->model_id, 2);
    vz_buf_le(out, h->model_hash, 4);
    vz_buf_varint(out, (uint64_t)h->width - 1);
    vz_buf_varint(out, (uint64_t)h->height - 1);
    vz_buf_byte(out, (uint8_t)h->colour);
    vz_buf_byte(out, (uint8_t)h->depth);
    vz_buf_byte(out, (uint8_t)(h->layers << 4 | h->tile_log2));
    vz_buf_byte(out, (uint8_t)h->slices);
    if (h->flags & RDVQ_IS_SAMPLED) vz_buf_le(out, h->seed, 4);
    if (out->status == FV_OK)
        vz_buf_le(out, fv_crc32c(0, out->data + first, out->size - first), 2);
}

/* ---- Chunks ---------------------------------------------------------------------------------- */

static fv_status get_chunk(vz_in *r, int type, const uint8_t *first, rdvq_bytes *out)
{
    uint64_t n, crc;
    const uint8_t *p;
    FV_TRY(vz_in_varint(r, &n));
    if (n > (uint64_t)(r->end - r->p))
        return fv_fail(r->ctx, FV_ERR_TRUNCATED, "the data ends in a chunk");
    FV_TRY(vz_in_take(r, (size_t)n, &p));
    const uint32_t have = fv_crc32c(0, first, (size_t)(r->p - first));
    FV_TRY(vz_in_le(r, CRC_BYTES, &crc));
    if (crc != have)
        return fv_fail(r->ctx, FV_ERR_CHECKSUM, "checksum of chunk %d differs", type);
    if (out && out->data)
        return fv_fail(r->ctx, FV_ERR_FORMAT, "corrupt: chunk %d is there twice", type);
    if (out) *out = (rdvq_bytes){ p, (size_t)n };
    return FV_OK;
}

static fv_status get_chunks(vz_in *r, rdvq_file *f)
{
    for (int count = 0;; count++) {
        const uint8_t *first = r->p;
        rdvq_bytes *known = NULL;
        int type;
        FV_TRY(get_byte(r, &type));
        if (type == 0) break;
        if (count == RDVQ_MAX_CHUNKS)
            return fv_fail(r->ctx, FV_ERR_LIMIT, "more than %d chunks", RDVQ_MAX_CHUNKS);
        for (int i = 0; i < RDVQ_CHUNKS; i++)
            if (type == chunk_type[i]) known = &f->chunk[i];
        if (!known && type < FIRST_OPTIONAL_CHUNK)
            return fv_fail(r->ctx, FV_ERR_VERSION, "chunk %d, which this version does not know",
                           type);
        FV_TRY(get_chunk(r, type, first, known));
    }
    if (((f->head.flags & RDVQ_HAS_ALPHA) != 0) != (f->chunk[RDVQ_ALPHA].data != NULL) ||
        (f->head.colour == RDVQ_COLOUR_ICC && !f->chunk[RDVQ_ICC].data))
        return fv_fail(r->ctx, FV_ERR_FORMAT, "corrupt: a chunk that the header names is missing, "
                       "or alpha that it does not name");
    return FV_OK;
}

static void put_chunks(const rdvq_bytes chunk[RDVQ_CHUNKS], vz_buf *out)
{
    for (int i = 0; i < RDVQ_CHUNKS; i++) {
        const size_t first = out->size;
        if (!chunk[i].data) continue;
        vz_buf_byte(out, chunk_type[i]);
        vz_buf_varint(out, chunk[i].size);
        vz_buf_put(out, chunk[i].data, chunk[i].size);
        if (out->status == FV_OK)
            vz_buf_le(out, fv_crc32c(0, out->data + first, out->size - first), CRC_BYTES);
    }
    vz_buf_byte(out, 0);
}

/* ---- Index and segments ---------------------------------------------------------------------- */

static fv_status get_index(vz_in *r, rdvq_file *f)
{
    const rdvq_head *h = &f->head;
    const size_t tiles = (size_t)h->tiles_x * (size_t)h->tiles_y, n = (size_t)h->layers * tiles;
    const uint64_t crc = h->flags & RDVQ_HAS_CRCS ? CRC_BYTES : 0;
    /* A token takes two symbols of at most 16 bits, a latent at least one pixel. */
    const uint64_t most = crc + 8 + ((uint64_t)4 << 2 * h->tile_log2);
    if ((size_t)(r->end - r->p) < n)
        return fv_fail(r->ctx, FV_ERR_TRUNCATED, "the data ends in the index");
    f->start = fv_alloc(r->ctx, (n + 1) * sizeof *f->start);
    if (!f->start) return FV_ERR_OOM;
    f->start[0] = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t length;
        FV_TRY(get_number(r, "a segment's length", most, &length));
        if (length < crc + RDVQ_STATE_BYTES)
            return fv_fail(r->ctx, FV_ERR_FORMAT, "corrupt: a segment of %llu bytes",
                           (unsigned long long)length);
        f->start[i + 1] = f->start[i] + length; /* at most 2^19 * 2^27 */
    }
    return FV_OK;
}

static fv_status open_parts(vz_in *r, rdvq_file *f, uint64_t max_pixels)
{
    const uint8_t *first = r->p;
    const size_t size = (size_t)(r->end - r->p);
    FV_TRY(get_head(r, &f->head));
    const uint64_t pixels = (uint64_t)f->head.width * (uint64_t)f->head.height;
    if (pixels > max_pixels)
        return fv_fail(r->ctx, FV_ERR_LIMIT, "%d x %d pixels exceed the limit of %llu",
                       f->head.width, f->head.height, (unsigned long long)max_pixels);
    if (f->head.flags & RDVQ_HAS_CHUNKS) FV_TRY(get_chunks(r, f));
    FV_TRY(get_index(r, f));
    const uint64_t all = f->start[f->head.layers * f->head.tiles_x * f->head.tiles_y];
    f->segments = r->p;
    f->header_bytes = (uint64_t)(r->p - first);
    f->whole_bytes = f->header_bytes + all + TAIL_BYTES;
    f->present = size - f->header_bytes < all ? size - f->header_bytes : all;
    f->is_truncated = size < f->whole_bytes;
    if (size > f->whole_bytes)
        return fv_fail(r->ctx, FV_ERR_FORMAT, "corrupt: %llu bytes behind the end",
                       (unsigned long long)(size - f->whole_bytes));
    if (f->is_truncated) return FV_OK;
    vz_in tail = { r->ctx, first + size - TAIL_BYTES, r->end };
    uint64_t crc;
    FV_TRY(vz_in_le(&tail, TAIL_BYTES, &crc));
    if (crc != fv_crc32c(0, first, size - TAIL_BYTES))
        return fv_fail(r->ctx, FV_ERR_CHECKSUM, "checksum of the file differs");
    return FV_OK;
}

fv_status rdvq_file_open(fv_ctx *ctx, rdvq_file *f, const void *bytes, size_t size,
                         uint64_t max_pixels)
{
    static const uint8_t none[1];
    const uint8_t *first = bytes ? bytes : none;
    vz_in r = { ctx, first, first + (bytes ? size : 0) };
    memset(f, 0, sizeof *f);
    const fv_status s = open_parts(&r, f, max_pixels);
    if (s != FV_OK) rdvq_file_close(ctx, f);
    return s;
}

void rdvq_file_close(fv_ctx *ctx, rdvq_file *f)
{
    fv_free(ctx, f->start);
    memset(f, 0, sizeof *f);
}

fv_status rdvq_file_segment(fv_ctx *ctx, const rdvq_file *f, int layer, int tile, rdvq_bytes *out,
                            bool *is_cut)
{
    const int tiles = f->head.tiles_x * f->head.tiles_y;
    const uint64_t from = f->start[layer * tiles + tile], to = f->start[layer * tiles + tile + 1];
    const uint64_t end = to < f->present ? to : f->present;
    *out = (rdvq_bytes){ f->segments + (from < end ? from : end), from < end ? end - from : 0 };
    *is_cut = end < to;
    if (!(f->head.flags & RDVQ_HAS_CRCS)) return FV_OK;
    vz_in r = { ctx, out->data, out->data + out->size };
    uint64_t crc;
    if (out->size < CRC_BYTES) {
        out->size = 0;
        return FV_OK;
    }
    FV_TRY(vz_in_le(&r, CRC_BYTES, &crc));
    *out = (rdvq_bytes){ r.p, out->size - CRC_BYTES };
    if (!*is_cut && crc != fv_crc32c(0, out->data, out->size))
        return fv_fail(ctx, FV_ERR_CHECKSUM, "checksum of tile %d, layer %d differs", tile, layer);
    return FV_OK;
}

/* ---- Writing --------------------------------------------------------------------------------- */

static const vz_buf *segment_at(const rdvq_head *h, const vz_buf *segment, size_t i)
{
    const size_t tiles = (size_t)h->tiles_x * (size_t)h->tiles_y;
    return &segment[i % tiles * RDVQ_MAX_LAYERS + i / tiles];
}

static int varint_bytes(uint64_t v)
{
    int n = 1;
    for (; v >= 0x80; v >>= 7) n++;
    return n;
}

uint64_t rdvq_file_bytes(const rdvq_head *h, const rdvq_bytes chunk[RDVQ_CHUNKS],
                         const vz_buf *segment)
{
    const size_t n = (size_t)h->layers * (size_t)h->tiles_x * (size_t)h->tiles_y;
    const uint64_t crc = h->flags & RDVQ_HAS_CRCS ? CRC_BYTES : 0;
    uint64_t sum = sizeof magic + 8 + 4 + 2 + TAIL_BYTES;
    bool has_chunks = false;
    sum += (uint64_t)varint_bytes((uint64_t)h->width - 1) +
           (uint64_t)varint_bytes((uint64_t)h->height - 1);
    if (h->flags & RDVQ_IS_SAMPLED) sum += 4;
    for (int i = 0; i < RDVQ_CHUNKS; i++) {
        if (!chunk[i].data) continue;
        has_chunks = true;
        sum += 1 + (uint64_t)varint_bytes(chunk[i].size) + chunk[i].size + CRC_BYTES;
    }
    if (has_chunks) sum++;
    for (size_t i = 0; i < n; i++) {
        const uint64_t length = segment_at(h, segment, i)->size + crc;
        sum += (uint64_t)varint_bytes(length) + length;
    }
    return sum;
}

fv_status rdvq_file_write(fv_ctx *ctx, rdvq_head *h, const rdvq_bytes chunk[RDVQ_CHUNKS],
                          const vz_buf *segment, vz_buf *out)
{
    FV_TRY(rdvq_head_check(ctx, h));
    const size_t n = (size_t)h->layers * (size_t)h->tiles_x * (size_t)h->tiles_y;
    const uint64_t crc = h->flags & RDVQ_HAS_CRCS ? CRC_BYTES : 0;
    const size_t first = out->size;
    h->flags &= RDVQ_HAS_CRCS | RDVQ_IS_GREY | RDVQ_IS_SAMPLED;
    for (int i = 0; i < RDVQ_CHUNKS; i++)
        if (chunk[i].data) h->flags |= RDVQ_HAS_CHUNKS;
    if (chunk[RDVQ_ALPHA].data) h->flags |= RDVQ_HAS_ALPHA;
    (void)vz_buf_room(out, (size_t)rdvq_file_bytes(h, chunk, segment));
    put_head(h, out);
    if (h->flags & RDVQ_HAS_CHUNKS) put_chunks(chunk, out);
    for (size_t i = 0; i < n; i++) vz_buf_varint(out, segment_at(h, segment, i)->size + crc);
    for (size_t i = 0; i < n; i++) {
        const vz_buf *s = segment_at(h, segment, i);
        if (crc) vz_buf_le(out, fv_crc32c(0, s->data, s->size), CRC_BYTES);
        vz_buf_put(out, s->data, s->size);
    }
    if (out->status == FV_OK)
        vz_buf_le(out, fv_crc32c(0, out->data + first, out->size - first), TAIL_BYTES);
    return out->status;
}
