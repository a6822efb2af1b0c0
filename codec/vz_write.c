/* vz_write.c - the encoder: cuts the input into blocks, codes them over threads, writes in order.
 *
 *     read T blocks ──> code them in parallel ──> write them in order ──> again
 *
 * Blocks depend on nothing but their own bytes and the options, so the archive is the same for
 * every number of threads. Memory holds T blocks with their codes, whatever the input's size; an
 * input buffer grows as data arrives, so that a pipe with ten bytes takes no 8 MiB.
 *
 * The frame header is written when the first block has been read: by then it is known whether that
 * block is all, which saves end mark and trailer (9 bytes: 3 % of a file of a few hundred bytes). */
#include "internal.h"

#include <string.h>
#define XXH_STATIC_LINKING_ONLY /* the state as a struct member */
#include <xxhash.h>

/* A block being coded. */
typedef struct slot {
    vz_buf in, out, check; /* check: what decoding gave, with `verify` */
    vz_block_type type;
    uint64_t hash;
    bool has_failed_check;
    fv_status status;
} slot;

typedef struct writer {
    fv_ctx *ctx;
    const fv_vzip_io *io;
    fv_vzip_options o;
    vz_cm_options cm;
    uint64_t block_size;
    bool has_verify;
    vz_source *source;
    vz_crew *crew;
    slot *slots;
    int slot_count;
    vz_header header;
    vz_buf index, text; /* pairs of the index; small things on their way out */
    uint64_t blocks, done; /* done: original bytes read */
    XXH64_state_t hash;
    fv_vzip_stats stats;
} writer;

/* ---- Options --------------------------------------------------------------------------------- */

static fv_status take_options(writer *w, const fv_vzip_options *opts)
{
    fv_ctx *ctx = w->ctx;
    w->o = (fv_vzip_options)FV_VZIP_OPTIONS_INIT;
    FV_TRY(FV_TAKE_OPTIONS(ctx, &w->o, opts, "vzip"));
    if (w->o.level == 0) w->o.level = VZ_LEVEL_DEFAULT;
    const vz_level *level = vz_level_of(w->o.level);
    if (!level) return fv_fail(ctx, FV_ERR_ARG, "level %d: there are levels 1 to 9", w->o.level);
    w->block_size = w->o.block_bytes ? w->o.block_bytes : level->block_size;
    if (w->block_size > VZ_BLOCK_BYTES_MAX)
        return fv_fail(ctx, FV_ERR_ARG, "blocks of %llu bytes: at most 256 MiB are possible",
                       (unsigned long long)w->block_size);
    w->has_verify = w->o.verify > 0 || (w->o.verify == 0 && level->has_verify);
    w->cm.level = w->o.level;
    w->cm.memory_log2 = level->memory_log2;
    if (w->o.name && (strlen(w->o.name) > VZ_NAME_MAX || !*w->o.name))
        return fv_fail(ctx, FV_ERR_ARG, "the file name to keep is empty or longer than %d bytes",
                       VZ_NAME_MAX);
    if (w->o.has_time && w->o.mtime_ns > 999999999)
        return fv_fail(ctx, FV_ERR_ARG, "mtime_ns is %lu: below 1,000,000,000 is needed",
                       (unsigned long)w->o.mtime_ns);
    return FV_OK;
}

/* What one worker holds: input, code, and the tables. */
static uint64_t worker_memory(const writer *w)
{
    return w->block_size + vz_block_encode_memory(&w->cm, w->block_size) +
           (w->has_verify ? w->block_size : 0);
}

/* Tables first, since they alone change the bytes; then fewer workers. */
static fv_status fit_memory(writer *w)
{
    const uint64_t cap = w->o.memory_bytes;
    w->slot_count = fv_ctx_threads(w->ctx);
    if (!cap) return FV_OK;
    while (worker_memory(w) > cap && w->cm.memory_log2 > 20) w->cm.memory_log2--;
    const uint64_t each = worker_memory(w);
    if (each > cap)
        return fv_fail(w->ctx, FV_ERR_OOM,
                       "a memory limit of %llu bytes: at least %llu are needed for blocks of %llu "
                       "bytes; take smaller blocks or a lower level",
                       (unsigned long long)cap, (unsigned long long)each,
                       (unsigned long long)w->block_size);
    if ((uint64_t)w->slot_count > cap / each) w->slot_count = (int)(cap / each);
    return FV_OK;
}

static fv_status open_slots(writer *w)
{
    /* An announced size may need fewer. */
    const uint64_t blocks = w->o.size / w->block_size + 1;
    if (w->o.size && blocks < (uint64_t)w->slot_count) w->slot_count = (int)blocks;
    FV_TRY(vz_crew_open(w->ctx, &w->crew, w->slot_count));
    w->slots = fv_calloc(w->ctx, (size_t)w->slot_count, sizeof *w->slots);
    if (!w->slots) return FV_ERR_OOM;
    for (int i = 0; i < w->slot_count; i++) {
        vz_buf_init(&w->slots[i].in, w->ctx);
        vz_buf_init(&w->slots[i].out, vz_crew_ctx(w->crew, i));
        vz_buf_init(&w->slots[i].check, vz_crew_ctx(w->crew, i));
        /* An announced size is the caller's word, not the archive's. */
        const uint64_t first = w->o.size < w->block_size ? w->o.size : w->block_size;
        if (first && !vz_buf_room(&w->slots[i].in, (size_t)first)) return FV_ERR_OOM;
    }
    return FV_OK;
}

/* ---- Output ---------------------------------------------------------------------------------- */

static fv_status put(writer *w, const void *data, size_t size)
{
    if (size == 0) return FV_OK;
    if (fv_ctx_cancelled(w->ctx)) return fv_fail(w->ctx, FV_ERR_CANCELLED, "writing: cancelled");
    if (w->io->write(w->io->user, data, size) != 0)
        return fv_fail(w->ctx, FV_ERR_IO, "writing the archive failed at byte %llu",
                       (unsigned long long)w->stats.output_bytes);
    w->stats.output_bytes += size;
    return FV_OK;
}

static fv_status put_text(writer *w)
{
    FV_TRY(w->text.status);
    FV_TRY(put(w, w->text.data, w->text.size));
    w->text.size = 0;
    return FV_OK;
}

static fv_status put_header(writer *w, bool is_single, bool is_all)
{
    vz_header *h = &w->header;
    h->level = w->o.level;
    h->memory_log2 = w->cm.memory_log2;
    if (is_single)
        h->flags |= VZ_IS_SINGLE;
    else if (w->o.size || is_all)
        h->flags |= VZ_HAS_SIZE;
    h->size = w->o.size ? w->o.size : w->done;
    if (!is_single && w->done > 0 && !w->o.no_index) h->flags |= VZ_HAS_INDEX;
    if (w->o.name) {
        h->flags |= VZ_HAS_NAME;
        memcpy(h->name, w->o.name, strlen(w->o.name) + 1);
    }
    if (w->o.has_time) {
        h->flags |= VZ_HAS_TIME;
        h->mtime_s = w->o.mtime_s;
        h->mtime_ns = w->o.mtime_ns;
        h->mode = w->o.mode & 07777;
    }
    vz_header_put(h, &w->text);
    return put_text(w);
}

static void count(fv_vzip_stats *s, vz_block_type type)
{
    s->blocks++;
    s->stored += type == VZ_STORE;
    s->zstd += type == VZ_ZSTD;
    s->modelled += type == VZ_MODELLED;
}

static fv_status put_block(writer *w, slot *b)
{
    const vz_buf *payload = b->type == VZ_STORE ? &b->in : &b->out;
    const vz_block_header h = {b->type, b->in.size, payload->size, b->hash, 0};
    if (XXH64_update(&w->hash, b->in.data, b->in.size) != XXH_OK) return FV_ERR_INTERNAL;
    vz_block_header_put(&h, &w->text);
    vz_buf_varint(&w->index, w->text.size + payload->size);
    vz_buf_varint(&w->index, b->in.size);
    FV_TRY(w->index.status);
    FV_TRY(put_text(w));
    FV_TRY(put(w, payload->data, payload->size));
    w->blocks++;
    count(&w->stats, b->type);
    w->stats.failed_checks += b->has_failed_check;
    return FV_OK;
}

/* End mark, index, hash of everything. */
static fv_status put_end(writer *w)
{
    vz_buf *t = &w->text;
    vz_buf_byte(t, VZ_END);
    if (w->header.flags & VZ_HAS_INDEX) {
        const size_t start = t->size;
        vz_header_put(&w->header, t);
        vz_buf_varint(t, w->blocks);
        vz_buf_put(t, w->index.data, w->index.size);
        FV_TRY(w->index.status);
        FV_TRY(t->status);
        vz_buf_le(t, fv_crc32c(0, t->data + start, t->size - start), 4);
        if (t->size - start > UINT32_MAX)
            return fv_fail(w->ctx, FV_ERR_LIMIT, "too many blocks for an index; take larger ones");
        vz_buf_le(t, t->size - start, 4);
        vz_buf_put(t, vz_index_magic, sizeof vz_index_magic);
    }
    vz_buf_le(t, XXH64_digest(&w->hash), 8);
    return put_text(w);
}

/* ---- Coding ---------------------------------------------------------------------------------- */

/* The decoder on the block just coded; what it does not give back is coded in a simpler way. */
static fv_status verify(fv_ctx *ctx, const vz_cm_options *cm, slot *b)
{
    const vz_block_header h = {b->type, b->in.size, b->out.size, b->hash, 0};
    if (b->type == VZ_STORE) return FV_OK;
    b->check.size = 0;
    uint8_t *to = vz_buf_room(&b->check, b->in.size);
    if (!to) return b->check.status;
    const fv_status s = vz_block_decode(ctx, cm, &h, b->out.data, to);
    if (s == FV_OK && memcmp(to, b->in.data, b->in.size) == 0) return FV_OK;
    if (s == FV_ERR_OOM || s == FV_ERR_CANCELLED) return s;
    b->has_failed_check = true;
    b->type = VZ_STORE;
    return FV_OK;
}

static void code_slot(void *user, fv_ctx *ctx, int i)
{
    writer *w = user;
    slot *b = &w->slots[i];
    b->out.size = 0;
    b->hash = vz_hash(b->in.data, b->in.size);
    b->has_failed_check = false;
    b->status = vz_block_encode(ctx, &w->cm, b->in.data, b->in.size, &b->out, &b->type);
    if (b->status == FV_OK && w->has_verify) b->status = verify(ctx, &w->cm, b);
}

/* Fills slots until they or the input end. */
static fv_status read_slots(writer *w, int *filled, bool *is_end)
{
    vz_in next;
    for (*filled = 0; *filled < w->slot_count && !*is_end;) {
        slot *b = &w->slots[*filled];
        uint64_t got;
        b->in.size = 0;
        FV_TRY(vz_source_append(w->source, &b->in, w->block_size, &got));
        w->done += got;
        if (got > 0) ++*filled;
        FV_TRY(vz_source_peek(w->source, 1, &next));
        *is_end = next.p == next.end;
        if (w->o.size && (w->done > w->o.size || (*is_end && w->done != w->o.size)))
            return fv_fail(w->ctx, FV_ERR_IO,
                           "the input has %s than the %llu bytes announced: it changed while it "
                           "was read", w->done > w->o.size ? "more" : "less",
                           (unsigned long long)w->o.size);
    }
    return FV_OK;
}

static fv_status code_all(writer *w)
{
    bool is_end = false, has_header = false;
    while (!is_end) {
        int filled;
        const uint64_t before = w->done;
        FV_TRY(read_slots(w, &filled, &is_end));
        if (!has_header) FV_TRY(put_header(w, is_end && filled == 1, is_end));
        has_header = true;
        FV_TRY(fv_report(w->ctx, "compressing", before, w->o.size, NULL));
        if (filled == 0) break;
        const vz_progress p = {"compressing", before, w->o.size};
        vz_crew_run(w->crew, &p, w->done - before, filled, code_slot, w);
        for (int i = 0; i < filled; i++) {
            slot *b = &w->slots[i];
            if (b->status != FV_OK)
                return fv_fail(w->ctx, b->status, "%s", fv_ctx_error(vz_crew_ctx(w->crew, i)));
            FV_TRY(put_block(w, b));
        }
    }
    if (!(w->header.flags & VZ_IS_SINGLE)) FV_TRY(put_end(w));
    return fv_report(w->ctx, "compressing", w->done, w->o.size, NULL);
}

static void close_writer(writer *w)
{
    for (int i = 0; w->slots && i < w->slot_count; i++) {
        vz_buf_free(&w->slots[i].in);
        vz_buf_free(&w->slots[i].out);
        vz_buf_free(&w->slots[i].check);
    }
    fv_free(w->ctx, w->slots);
    vz_crew_close(&w->crew);
    vz_buf_free(&w->index);
    vz_buf_free(&w->text);
    fv_free(w->ctx, w->source);
}

fv_status fv_vzip_compress_stream(fv_ctx *ctx, const fv_vzip_io *io, const fv_vzip_options *opts,
                                  fv_vzip_stats *stats)
{
    writer w;
    memset(&w, 0, sizeof w);
    w.ctx = ctx;
    w.io = io;
    if (stats) memset(stats, 0, sizeof *stats);
    if (!io || !io->read || !io->write) return fv_fail(ctx, FV_ERR_ARG, "vzip: a callback is NULL");
    vz_buf_init(&w.index, ctx);
    vz_buf_init(&w.text, ctx);
    fv_status s = take_options(&w, opts);
    if (s == FV_OK) s = fit_memory(&w);
    if (s == FV_OK) s = open_slots(&w);
    if (s == FV_OK) {
        w.source = vz_source_open(ctx, io);
        if (!w.source || XXH64_reset(&w.hash, 0) != XXH_OK) s = FV_ERR_OOM;
    }
    if (s == FV_OK) s = code_all(&w);
    w.stats.input_bytes = w.done;
    w.stats.frames = 1;
    if (stats) *stats = w.stats;
    close_writer(&w);
    return s;
}

/* ---- Memory to memory ------------------------------------------------------------------------ */

typedef struct memory_io {
    const uint8_t *p;
    size_t left;
    vz_buf out;
} memory_io;

static int64_t memory_read(void *user, void *to, size_t size)
{
    memory_io *m = user;
    const size_t n = m->left < size ? m->left : size;
    if (n > 0) memcpy(to, m->p, n);
    m->p += n;
    m->left -= n;
    return (int64_t)n;
}

static int memory_write(void *user, const void *from, size_t size)
{
    memory_io *m = user;
    vz_buf_put(&m->out, from, size);
    return m->out.status != FV_OK;
}

/* The buffer's bytes become the caller's. */
static fv_status hand_out(memory_io *m, fv_status s, uint8_t **out, size_t *out_size)
{
    if (s == FV_OK && !vz_buf_room(&m->out, 1)) s = m->out.status; /* never NULL */
    if (s == FV_ERR_IO && m->out.status != FV_OK)
        s = fv_fail(m->out.ctx, m->out.status, "out of memory for the output");
    if (s == FV_OK) {
        *out = m->out.data;
        *out_size = m->out.size;
    } else {
        vz_buf_free(&m->out);
    }
    return s;
}

fv_status fv_vzip_compress(fv_ctx *ctx, const void *data, size_t size, const fv_vzip_options *opts,
                           uint8_t **out, size_t *out_size)
{
    memory_io m = {data, size, {0}};
    const fv_vzip_io io = {memory_read, memory_write, &m};
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    *out = NULL;
    *out_size = 0;
    FV_TRY(FV_TAKE_OPTIONS(ctx, &o, opts, "vzip"));
    if (!data && size) return fv_fail(ctx, FV_ERR_ARG, "vzip: the data is NULL");
    o.size = size;
    vz_buf_init(&m.out, ctx);
    const fv_status s = fv_vzip_compress_stream(ctx, &io, &o, NULL);
    return hand_out(&m, s, out, out_size);
}

fv_status fv_vzip_decompress(fv_ctx *ctx, const void *archive, size_t size, uint64_t max_output,
                             const fv_vzip_limits *limits, uint8_t **out, size_t *out_size)
{
    memory_io m = {archive, size, {0}};
    const fv_vzip_io io = {memory_read, memory_write, &m};
    *out = NULL;
    *out_size = 0;
    if (!archive && size) return fv_fail(ctx, FV_ERR_ARG, "vzip: the archive is NULL");
    vz_buf_init(&m.out, ctx);
    const fv_status s = fv_vzip_decompress_stream(ctx, &io, max_output, limits, NULL);
    return hand_out(&m, s, out, out_size);
}
