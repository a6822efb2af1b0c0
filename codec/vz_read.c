/* vz_read.c - the decoder of streams: frames one after the other, blocks in parallel, output in
 * order and only after its checksum was found right.
 *
 *     read header and payload ──> queue ──> decode on any thread ──> put together, write in order
 *
 * A damaged or cut archive gives its correct beginning and a status that says where it breaks.
 * Index and trailer are compared with what was decoded, so that no byte of an archive is without
 * a check. How many blocks run at once also depends on the memory limit: their tables are known
 * from the payloads before anything of the size of a block is taken. In a solid frame the threads
 * decode the plain bytes of a block; references are copied when its turn to be written has come,
 * from a window whose size the header says. */
#include "vz_lanes.h"
#include "vz_models.h"

#include <string.h>
#define XXH_STATIC_LINKING_ONLY /* the state as a struct member */
#include <xxhash.h>

typedef struct slot {
    vz_block_header h;
    uint64_t offset, number; /* of the block, for messages */
    vz_buf coded, data;
    vz_block_header inner;  /* the block of plain bytes of one with references, else h */
    const uint8_t *payload; /* of inner */
    uint64_t need;          /* bytes of memory */
    fv_status status;
} slot;

typedef struct reader {
    fv_ctx *ctx;
    const fv_vzip_io *io;
    fv_vzip_limits limits;
    uint64_t max_output;
    vz_source *source;
    vz_crew *crew;
    slot *slots;
    int threads, slot_count;
    /* The current frame. */
    vz_header header;
    vz_cm_options cm;
    vz_prior prior; /* cm.prior, if the frame has a model */
    vz_lanes *lanes; /* for that model, where the context has a device */
    const vz_model *lanes_model;
    uint64_t blocks, original;
    XXH64_state_t hash, pairs; /* of the original bytes; of the index as it should be */
    vz_past past;              /* of a solid frame */
    uint64_t started, written, used; /* blocks; memory of those between */
    uint64_t learnt, paid;     /* of all frames: bytes of texts; original bytes that they are for */
    bool is_waiting;           /* the next slot holds a block that does not fit into memory yet */
    bool is_end;               /* the frame's last block has been read */
    fv_vzip_stats stats;
} reader;

/* Adds where to the message. */
static fv_status at(reader *r, fv_status s, uint64_t offset)
{
    if (s == FV_OK || s == FV_ERR_CANCELLED || s == FV_ERR_OOM || s == FV_ERR_IO) return s;
    return fv_fail_in(r->ctx, s, "at byte %llu", (unsigned long long)offset);
}

static fv_status cut(reader *r, const char *what)
{
    return fv_fail(r->ctx, FV_ERR_TRUNCATED, "the archive ends at byte %llu, inside of %s",
                   (unsigned long long)(r->source->offset + (r->source->filled - r->source->at)),
                   what);
}

/* ---- Headers --------------------------------------------------------------------------------- */

/* No block is being decoded between frames. */
static fv_status take_lanes(reader *r)
{
    if (r->prior.model && r->prior.model != r->lanes_model) {
        vz_lanes_close(&r->lanes);
        r->lanes_model = NULL;
        FV_TRY(vz_lanes_open(r->ctx, &r->lanes, r->prior.model, r->slot_count));
        r->lanes_model = r->prior.model;
    }
    r->prior.lanes = r->prior.model ? r->lanes : NULL;
    return FV_OK;
}

static fv_status read_header(reader *r)
{
    vz_in in;
    FV_TRY(vz_source_peek(r->source, VZ_HEADER_MAX, &in));
    fv_status s = vz_header_get(&in, &r->header);
    if (s == FV_ERR_TRUNCATED) return cut(r, "a header");
    if (s == FV_ERR_FORMAT && r->stats.frames > 0)
        return fv_fail(r->ctx, s, "at byte %llu: bytes after the end of the archive that are no "
                       "further archive", (unsigned long long)r->source->offset);
    if (s != FV_OK) return at(r, s, r->source->offset);
    vz_source_skip(r->source, r->header.bytes);
    if ((r->header.flags & VZ_HAS_SIZE) && r->header.size > r->max_output - r->stats.output_bytes)
        return fv_fail(r->ctx, FV_ERR_LIMIT,
                       "the header announces %llu bytes, more than the limit for the output",
                       (unsigned long long)r->header.size);
    r->cm.level = r->header.level;
    r->cm.memory_log2 = r->header.memory_log2;
    FV_TRY(vz_model_take(r->ctx, &r->limits, &r->header, &r->prior));
    FV_TRY(take_lanes(r));
    r->cm.prior = r->header.models ? &r->prior : NULL;
    r->blocks = r->original = r->started = r->written = r->used = 0;
    r->is_end = r->is_waiting = false;
    vz_past_close(&r->past);
    if (r->header.flags & VZ_IS_SOLID) {
        r->used = (uint64_t)1 << r->header.window_log2;
        if (r->used > r->limits.memory_bytes)
            return fv_fail(r->ctx, FV_ERR_OOM, "decoding takes more than %llu bytes of memory, the "
                           "limit is %llu; raise it", (unsigned long long)r->used,
                           (unsigned long long)r->limits.memory_bytes);
        FV_TRY(vz_past_open(&r->past, r->ctx, r->header.window_log2));
    }
    r->stats.frames++;
    XXH64_reset(&r->hash, 0);
    XXH64_reset(&r->pairs, 0);
    return FV_OK;
}

/* What the index must say about a block. */
static void expect_pair(reader *r, const vz_block_header *h)
{
    uint8_t pair[16];
    const uint64_t value[2] = {h->bytes + h->coded, h->original};
    for (int i = 0; i < 16; i++) pair[i] = (uint8_t)(value[i / 8] >> (i % 8 * 8));
    XXH64_update(&r->pairs, pair, sizeof pair);
}

/* The next block of the frame into b; *is_block false at its end. */
static fv_status read_block(reader *r, slot *b, bool *is_block)
{
    vz_in in;
    uint64_t got;
    *is_block = false;
    FV_TRY(vz_source_peek(r->source, VZ_BLOCK_HEADER_MAX, &in));
    b->offset = r->source->offset;
    b->number = r->blocks;
    fv_status s = vz_block_header_get(&in, &r->limits, &b->h);
    if (s == FV_ERR_TRUNCATED) return cut(r, "a block");
    if (s == FV_OK) s = vz_block_suits(r->ctx, &r->header, &b->h);
    if (s != FV_OK) return at(r, s, b->offset);
    if (b->h.type == VZ_END) {
        if (r->header.flags & VZ_IS_SINGLE)
            return at(r, fv_fail(r->ctx, FV_ERR_FORMAT, "corrupt: a block is missing"), b->offset);
        vz_source_skip(r->source, b->h.bytes);
        r->is_end = true;
        return FV_OK;
    }
    vz_source_skip(r->source, b->h.bytes);
    b->coded.size = 0;
    FV_TRY(vz_source_append(r->source, &b->coded, b->h.coded, &got));
    if (got < b->h.coded) return cut(r, "a block");
    expect_pair(r, &b->h);
    r->blocks++;
    r->is_end = r->header.flags & VZ_IS_SINGLE;
    *is_block = true;
    return FV_OK;
}

/* ---- Blocks ---------------------------------------------------------------------------------- */

/* Blocks of the usual sizes learn at most 4.5 times their bytes; what is beyond LEARNT_FREE times
 * is bounded, or an archive of tiny blocks would take hours. */
#define LEARNT_FREE 8
static fv_status count_learnt(reader *r, const slot *b, uint64_t bytes)
{
    r->learnt += bytes;
    r->paid += LEARNT_FREE * b->h.original;
    if (r->learnt <= r->paid || r->learnt - r->paid <= r->limits.max_learnt_bytes) return FV_OK;
    return at(r, fv_fail(r->ctx, FV_ERR_LIMIT, "many small blocks that learn %llu bytes of texts "
                         "exceed the limit of %llu", (unsigned long long)r->learnt,
                         (unsigned long long)r->limits.max_learnt_bytes), b->offset);
}

/* What the block in b takes, and where its plain bytes are. */
static fv_status prepare(reader *r, slot *b)
{
    vz_need tables = {0, 0};
    b->inner = b->h;
    b->payload = b->coded.data;
    if (b->h.type == VZ_REFERRING)
        FV_TRY(at(r, vz_refs_inner(r->ctx, &r->limits, &b->h, b->coded.data, &b->inner, &b->payload),
                  b->offset));
    if (b->inner.original > 0)
        FV_TRY(at(r, vz_block_need(r->ctx, &r->cm, &b->inner, b->payload, &tables), b->offset));
    FV_TRY(count_learnt(r, b, tables.learnt));
    b->need = b->inner.original + b->h.coded + tables.memory;
    const uint64_t alone = b->need + (r->past.pages ? (uint64_t)1 << r->past.log2 : 0);
    if (alone > r->limits.memory_bytes)
        return fv_fail(r->ctx, FV_ERR_OOM,
                       "decoding block %llu takes %llu bytes of memory, the limit is %llu; raise it",
                       (unsigned long long)b->number, (unsigned long long)alone,
                       (unsigned long long)r->limits.memory_bytes);
    return FV_OK;
}

static void decode_slot(void *user, fv_ctx *ctx, int i)
{
    reader *r = user;
    slot *b = &r->slots[i];
    b->status = FV_OK;
    b->data.size = 0;
    if (b->inner.original == 0) return;
    if (b->data.capacity < b->inner.original) vz_buf_free(&b->data); /* before, not beside */
    uint8_t *to = vz_buf_room(&b->data, (size_t)b->inner.original);
    b->status = b->data.status;
    if (to) b->status = vz_block_decode(ctx, &r->cm, &b->inner, b->payload, to);
    if (b->status == FV_OK) b->data.size = (size_t)b->inner.original;
}

/* Decoded bytes that were found right. */
static fv_status put(reader *r, const uint8_t *p, size_t n)
{
    if (fv_ctx_cancelled(r->ctx)) return fv_fail(r->ctx, FV_ERR_CANCELLED, "writing: cancelled");
    if (n > 0 && r->io->write(r->io->user, p, n) != 0)
        return fv_fail(r->ctx, FV_ERR_IO, "writing the output failed at byte %llu",
                       (unsigned long long)r->stats.output_bytes);
    XXH64_update(&r->hash, p, n);
    r->original += n;
    r->stats.output_bytes += n;
    return FV_OK;
}

/* Plain bytes and what they refer to, in the window; compared, then written. */
static fv_status put_referring(reader *r, const slot *b)
{
    uint64_t from = r->past.end, n = b->h.original;
    FV_TRY(vz_refs_apply(r->ctx, &b->h, b->coded.data, b->data.data, b->data.size, &r->past));
    if (vz_past_hash(&r->past, from, n) != b->h.hash)
        return fv_fail(r->ctx, FV_ERR_CHECKSUM, "corrupt: the checksum of the data differs");
    while (n > 0) {
        size_t there;
        const uint8_t *p = vz_past_piece(&r->past, from, n, &there);
        FV_TRY(put(r, p, there));
        from += there;
        n -= there;
    }
    return FV_OK;
}

static fv_status put_block(reader *r, const slot *b)
{
    if (b->h.original > r->max_output - r->stats.output_bytes)
        return fv_fail(r->ctx, FV_ERR_LIMIT, "the output is larger than the limit of %llu bytes",
                       (unsigned long long)r->max_output);
    if (b->h.type == VZ_REFERRING) {
        const fv_status s = put_referring(r, b);
        if (s != FV_OK && s != FV_ERR_OOM && s != FV_ERR_IO && s != FV_ERR_CANCELLED)
            return fv_fail_in(r->ctx, s, "at byte %llu: block %llu", (unsigned long long)b->offset,
                              (unsigned long long)b->number);
        FV_TRY(s);
    } else {
        if (r->past.pages) FV_TRY(vz_past_put(&r->past, b->data.data, b->data.size));
        FV_TRY(put(r, b->data.data, b->data.size));
    }
    r->stats.blocks++;
    r->stats.referring += b->h.type == VZ_REFERRING;
    r->stats.stored += b->inner.type == VZ_STORE;
    r->stats.zstd += b->inner.type == VZ_ZSTD;
    r->stats.modelled += b->inner.type == VZ_MODELLED;
    return FV_OK;
}

/* Waits for the oldest block and writes it. */
static fv_status finish_block(reader *r)
{
    const int i = (int)(r->written % (uint64_t)r->slot_count);
    slot *b = &r->slots[i];
    const vz_progress p = {"decompressing", r->stats.output_bytes, r->header.size};
    vz_crew_wait(r->crew, &p, i);
    if (b->status != FV_OK) {
        fv_fail(r->ctx, b->status, "%s", fv_ctx_error(vz_crew_ctx(r->crew, i)));
        if (b->status == FV_ERR_OOM || b->status == FV_ERR_CANCELLED) return b->status;
        return fv_fail_in(r->ctx, b->status, "at byte %llu: block %llu",
                          (unsigned long long)b->offset, (unsigned long long)b->number);
    }
    FV_TRY(put_block(r, b));
    r->used -= b->need;
    r->written++;
    return fv_report(r->ctx, "decompressing", r->stats.output_bytes, r->header.size, NULL);
}

/* Reads the next block and starts it, unless slots or memory are taken: then *is_full. */
static fv_status start_block(reader *r, bool *is_full)
{
    const int i = (int)(r->started % (uint64_t)r->slot_count);
    slot *b = &r->slots[i];
    bool is_block = true;
    *is_full = r->started - r->written == (uint64_t)r->slot_count;
    if (*is_full) return FV_OK;
    if (!r->is_waiting) {
        FV_TRY(read_block(r, b, &is_block));
        if (!is_block) return FV_OK;
        FV_TRY(prepare(r, b));
    }
    /* What this slot holds from a larger block would be memory beyond the limit. */
    if (b->data.capacity > b->inner.original) vz_buf_free(&b->data);
    r->is_waiting = r->started > r->written && b->need > r->limits.memory_bytes - r->used;
    *is_full = r->is_waiting;
    if (r->is_waiting) return FV_OK;
    r->used += b->need;
    const vz_progress p = {"decompressing", r->stats.output_bytes, r->header.size};
    r->started++;
    vz_crew_start(r->crew, &p, i, b->inner.original);
    return FV_OK;
}

/* A failure of reading comes after the blocks that were complete before it. */
static fv_status read_blocks(reader *r)
{
    char why[512];
    FV_TRY(fv_report(r->ctx, "decompressing", r->stats.output_bytes, r->header.size, NULL));
    fv_status s = FV_OK;
    while (r->started > r->written || (s == FV_OK && (r->is_waiting || !r->is_end))) {
        bool is_full = true;
        if (s == FV_OK && (r->is_waiting || !r->is_end)) {
            s = start_block(r, &is_full);
            if (s != FV_OK) snprintf(why, sizeof why, "%s", fv_ctx_error(r->ctx));
        }
        if (s == FV_OK && !is_full) continue;
        if (r->started > r->written) FV_TRY(finish_block(r));
    }
    return s == FV_OK ? s : fv_fail(r->ctx, s, "%s", why);
}

/* ---- Index and trailer ----------------------------------------------------------------------- */

static fv_status bad_index(reader *r)
{
    return fv_fail(r->ctx, FV_ERR_CHECKSUM,
                   "corrupt: the index at byte %llu differs from the blocks; the data before it is "
                   "right", (unsigned long long)r->source->offset);
}

/* A varint of the index, checked and counted. */
static fv_status index_varint(reader *r, uint32_t *crc, uint64_t *v)
{
    vz_in in;
    FV_TRY(vz_source_peek(r->source, 10, &in));
    const uint8_t *start = in.p;
    const fv_status s = vz_in_varint(&in, v);
    if (s == FV_ERR_TRUNCATED) return cut(r, "the index");
    if (s != FV_OK) return bad_index(r);
    *crc = fv_crc32c(*crc, start, (size_t)(in.p - start));
    vz_source_skip(r->source, (size_t)(in.p - start));
    return FV_OK;
}

/* Exactly these bytes must follow. */
static fv_status expect(reader *r, const void *bytes, size_t n)
{
    vz_in in;
    FV_TRY(vz_source_peek(r->source, n, &in));
    if ((size_t)(in.end - in.p) < n) return cut(r, "the index");
    if (memcmp(in.p, bytes, n) != 0) return bad_index(r);
    vz_source_skip(r->source, n);
    return FV_OK;
}

static fv_status read_index(reader *r)
{
    const uint64_t start = r->source->offset;
    uint64_t n, coded, original;
    XXH64_state_t pairs;
    vz_buf b;
    vz_buf_init(&b, r->ctx);
    vz_header_put(&r->header, &b);
    fv_status s = b.status;
    if (s == FV_OK) s = expect(r, b.data, b.size);
    uint32_t crc = s == FV_OK ? fv_crc32c(0, b.data, b.size) : 0;
    if (s == FV_OK) s = index_varint(r, &crc, &n);
    if (s == FV_OK && n != r->blocks) s = bad_index(r);
    XXH64_reset(&pairs, 0);
    for (uint64_t i = 0; s == FV_OK && i < r->blocks; i++) {
        uint8_t pair[16];
        s = index_varint(r, &crc, &coded);
        if (s == FV_OK) s = index_varint(r, &crc, &original);
        for (int k = 0; s == FV_OK && k < 16; k++)
            pair[k] = (uint8_t)((k < 8 ? coded : original) >> (k % 8 * 8));
        if (s == FV_OK) XXH64_update(&pairs, pair, sizeof pair);
    }
    if (s == FV_OK && XXH64_digest(&pairs) != XXH64_digest(&r->pairs)) s = bad_index(r);
    b.size = 0;
    vz_buf_le(&b, crc, 4);
    vz_buf_le(&b, r->source->offset + 4 - start, 4);
    vz_buf_put(&b, vz_index_magic, sizeof vz_index_magic);
    if (s == FV_OK) s = b.status;
    if (s == FV_OK) s = expect(r, b.data, b.size);
    vz_buf_free(&b);
    return s;
}

static fv_status read_trailer(reader *r)
{
    vz_in in;
    uint64_t hash;
    if (r->header.flags & VZ_HAS_INDEX) FV_TRY(read_index(r));
    FV_TRY(vz_source_peek(r->source, 8, &in));
    if (in.end - in.p < 8) return cut(r, "the trailer");
    FV_TRY(vz_in_le(&in, 8, &hash));
    if (hash != XXH64_digest(&r->hash))
        return at(r, fv_fail(r->ctx, FV_ERR_CHECKSUM, "corrupt: the checksum of the whole differs"),
                  r->source->offset);
    vz_source_skip(r->source, 8);
    if ((r->header.flags & VZ_HAS_SIZE) && r->header.size != r->original)
        return at(r, fv_fail(r->ctx, FV_ERR_FORMAT,
                             "corrupt: %llu bytes came out, the header announces %llu",
                             (unsigned long long)r->original, (unsigned long long)r->header.size),
                  r->source->offset);
    return FV_OK;
}

/* ---- All frames ------------------------------------------------------------------------------ */

static fv_status read_all(reader *r)
{
    vz_in in;
    for (;;) {
        FV_TRY(vz_source_peek(r->source, 1, &in));
        if (in.p == in.end && r->stats.frames > 0) break;
        if (in.p == in.end) return fv_fail(r->ctx, FV_ERR_TRUNCATED, "the archive is empty");
        FV_TRY(read_header(r));
        FV_TRY(read_blocks(r));
        if (!(r->header.flags & VZ_IS_SINGLE)) FV_TRY(read_trailer(r));
    }
    return fv_report(r->ctx, "decompressing", r->stats.output_bytes, r->stats.output_bytes, NULL);
}

static fv_status open_reader(reader *r, const fv_vzip_limits *limits)
{
    FV_TRY(vz_take_limits(r->ctx, limits, &r->limits));
    if (r->max_output == 0)
        return fv_fail(r->ctx, FV_ERR_ARG, "vzip: max_output is 0; a limit or FV_VZIP_NO_LIMIT is "
                       "needed");
    r->threads = fv_ctx_threads(r->ctx);
    r->slot_count = r->threads > 1 ? r->threads + 1 : 1;
    FV_TRY(vz_crew_open(r->ctx, &r->crew, r->threads, r->slot_count, decode_slot, r));
    r->slots = fv_calloc(r->ctx, (size_t)r->slot_count, sizeof *r->slots);
    if (!r->slots) return FV_ERR_OOM;
    for (int i = 0; i < r->slot_count; i++) {
        vz_buf_init(&r->slots[i].coded, r->ctx);
        vz_buf_init(&r->slots[i].data, vz_crew_ctx(r->crew, i));
    }
    r->source = vz_source_open(r->ctx, r->io);
    return r->source ? FV_OK : FV_ERR_OOM;
}

static void close_reader(reader *r)
{
    vz_crew_stop(r->crew);
    vz_past_close(&r->past);
    for (int i = 0; r->slots && i < r->slot_count; i++) {
        vz_buf_free(&r->slots[i].coded);
        vz_buf_free(&r->slots[i].data);
    }
    fv_free(r->ctx, r->slots);
    vz_crew_close(&r->crew);
    vz_lanes_close(&r->lanes);
    vz_source_close(&r->source);
}

fv_status fv_vzip_decompress_stream(fv_ctx *ctx, const fv_vzip_io *io, uint64_t max_output,
                                    const fv_vzip_limits *limits, fv_vzip_stats *stats)
{
    reader r;
    memset(&r, 0, sizeof r);
    r.ctx = ctx;
    r.io = io;
    r.max_output = max_output;
    if (stats) memset(stats, 0, sizeof *stats);
    if (!io || !io->read || !io->write) return fv_fail(ctx, FV_ERR_ARG, "vzip: a callback is NULL");
    fv_status s = open_reader(&r, limits);
    if (s == FV_OK) s = read_all(&r);
    if (r.source) r.stats.input_bytes = r.source->offset;
    if (stats) *stats = r.stats;
    close_reader(&r);
    return s;
}
