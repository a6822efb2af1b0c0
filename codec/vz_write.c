/* vz_write.c - the encoder: cuts the input into blocks, codes them over threads, writes in order.
 *
 *     read a block, find repeats ──> queue ──> code it on any thread ──> write in order
 *
 * Blocks depend on nothing but what was read and the options, so the archive is the same for every
 * number of threads. Memory holds a block more than there are threads, their codes, and the window
 * in which repeats are found, whatever the input's size; buffers grow as data arrives, so that a
 * pipe with ten bytes takes no 8 MiB.
 *
 * An input of known size is cut into blocks of equal size: the last one of 9 MiB would else have
 * one, and the thread that codes the 8 before it would keep everybody waiting. Only a file that
 * must not be cut (vz_whole.c) makes a block larger; as many of these are coded at once as memory
 * allows.
 *
 * The frame header is written when the first block has been read: by then it is known whether that
 * block is all, which saves end mark and trailer (9 bytes: 3 % of a file of a few hundred bytes). */
#include "vz_lanes.h"
#include "vz_models.h"
#include "vz_whole.h"

#include <string.h>
#define XXH_STATIC_LINKING_ONLY /* the state as a struct member */
#include <xxhash.h>

#define LONG_WINDOW_LOG2 28
/* Where there are many blocks, priming must not take longer than coding them. */
#define PRIME_FROM ((uint64_t)64 << 10)
/* For blocks that are larger than usual, where the caller gives no limit: a decoder's. */
#define LARGE_MEMORY ((uint64_t)1 << 30)

/* A block being coded. */
typedef struct slot {
    vz_buf in, refs, hints, out, check; /* check: what decoding gave, with `verify` */
    uint64_t original, hash, in_hash; /* size and hash of the block, hash of its plain bytes */
    vz_block_type type;
    bool has_failed_check;
    uint64_t need; /* bytes of memory while it is coded */
    fv_status status;
} slot;

typedef struct writer {
    fv_ctx *ctx;
    const fv_vzip_io *io;
    fv_vzip_options o;
    vz_cm_options cm;
    vz_prior prior; /* cm.prior, if there is a model */
    vz_lanes *lanes; /* a lane for each slot, where the context has a device */
    uint64_t block_size;
    int window_log2; /* 0: blocks do not refer to others */
    bool has_verify, is_single;
    vz_source *source;
    vz_wholes wholes;
    vz_tracker media; /* where there is no dedup, which has its own */
    vz_dedup *dedup;
    vz_crew *crew;
    slot *slots;
    int threads, slot_count;
    vz_header header;
    vz_buf index, text; /* pairs of the index; small things on their way out */
    uint64_t started, blocks;     /* blocks: written */
    uint64_t done, coded;         /* original bytes read and written */
    uint64_t used, large;         /* memory of blocks between; those larger than usual */
    XXH64_state_t hash;
    fv_vzip_stats stats;
} writer;

/* ---- Options --------------------------------------------------------------------------------- */

/* Equal blocks; then a window that holds two of them, and no more than the input has. */
static void cut_evenly(writer *w)
{
    const uint64_t size = w->o.size;
    if (!w->o.block_bytes && size > w->block_size) {
        const uint64_t blocks = (size - 1) / w->block_size + 1;
        /* Members of an archive are found at multiples of 512. */
        w->block_size = ((size - 1) / blocks + 512) / 512 * 512;
    }
    if (w->o.long_range < 0 || (size && size <= w->block_size)) {
        w->window_log2 = 0;
        return;
    }
    if (w->o.long_range > 0) w->window_log2 = LONG_WINDOW_LOG2;
    while ((uint64_t)1 << w->window_log2 < 2 * w->block_size) w->window_log2++;
    while (size && w->window_log2 > VZ_WINDOW_LOG2_MIN && size <= (uint64_t)1 << (w->window_log2 - 1))
        w->window_log2--;
}

static fv_status take_options(writer *w, const fv_vzip_options *opts)
{
    fv_ctx *ctx = w->ctx;
    w->o = (fv_vzip_options)FV_VZIP_OPTIONS_INIT;
    FV_TRY(FV_TAKE_OPTIONS(ctx, &w->o, opts, "vzip"));
    if (w->o.level == 0) w->o.level = VZ_LEVEL_DEFAULT;
    const vz_level *level = vz_level_of(w->o.level);
    if (!level) return fv_fail(ctx, FV_ERR_ARG, "level %d: there are levels 1 to %d", w->o.level,
                               FV_VZIP_LEVEL_ULTRA);
    w->block_size = w->o.block_bytes ? w->o.block_bytes : level->block_size;
    if (w->block_size > VZ_BLOCK_BYTES_MAX)
        return fv_fail(ctx, FV_ERR_ARG, "blocks of %llu bytes: at most 256 MiB are possible",
                       (unsigned long long)w->block_size);
    w->has_verify = w->o.verify > 0 || (w->o.verify == 0 && level->has_verify);
    w->cm.level = w->o.level;
    w->cm.memory_log2 = level->memory_log2;
    w->window_log2 = vz_window_of(w->o.level);
    cut_evenly(w);
    w->prior = (vz_prior){w->o.no_prime ? NULL : vz_model_of(w->o.model), 0,
                          w->o.no_network ? ~VZ_ALLOW_NET : UINT32_MAX, NULL};
    if (w->block_size >= PRIME_FROM && w->prior.model) w->cm.prior = &w->prior;
    if (w->o.name && (strlen(w->o.name) > VZ_NAME_MAX || !*w->o.name))
        return fv_fail(ctx, FV_ERR_ARG, "the file name to keep is empty or longer than %d bytes",
                       VZ_NAME_MAX);
    if (w->o.has_time && w->o.mtime_ns > 999999999)
        return fv_fail(ctx, FV_ERR_ARG, "mtime_ns is %lu: below 1,000,000,000 is needed",
                       (unsigned long)w->o.mtime_ns);
    return FV_OK;
}

/* What a worker holds for a block: input, code, and the tables. */
static uint64_t memory_of(const writer *w, uint64_t size)
{
    return size + vz_block_encode_memory(&w->cm, size) + (w->has_verify ? size : 0);
}

static uint64_t worker_memory(const writer *w)
{
    return memory_of(w, w->block_size);
}

static int slots_for(int threads)
{
    return threads > 1 ? threads + 1 : 1;
}

/* The window first, down to two blocks, and without one if it is still a quarter; then the tables;
 * these change the bytes. Then fewer workers. */
static fv_status fit_memory(writer *w)
{
    uint64_t cap = w->o.memory_bytes;
    w->threads = fv_ctx_threads(w->ctx);
    if (cap) {
        while (w->window_log2 > VZ_WINDOW_LOG2_MIN && vz_dedup_memory(w->window_log2) > cap / 4 &&
               (uint64_t)1 << (w->window_log2 - 1) >= 2 * w->block_size)
            w->window_log2--;
        if (w->window_log2 && vz_dedup_memory(w->window_log2) > cap / 4) w->window_log2 = 0;
        if (w->window_log2) cap -= vz_dedup_memory(w->window_log2);
        while (worker_memory(w) > cap && w->cm.memory_log2 > 20) w->cm.memory_log2--;
        const uint64_t each = worker_memory(w), waiting = 2 * w->block_size;
        if (each > cap)
            return fv_fail(w->ctx, FV_ERR_OOM,
                           "a memory limit of %llu bytes: at least %llu are needed for blocks of "
                           "%llu bytes; take smaller blocks or a lower level",
                           (unsigned long long)w->o.memory_bytes, (unsigned long long)each,
                           (unsigned long long)w->block_size);
        while (w->threads > 1 && (uint64_t)w->threads * each + waiting > cap) w->threads--;
    }
    return FV_OK;
}

static void code_slot(void *user, fv_ctx *ctx, int i);
static fv_status finish_all(void *user);

static fv_status open_input(writer *w)
{
    vz_wholes *h = &w->wholes;
    w->source = vz_source_open(w->ctx, w->io);
    if (!w->source || XXH64_reset(&w->hash, 0) != XXH_OK) return FV_ERR_OOM;
    h->source = w->source;
    h->cm = &w->cm;
    h->block_size = w->block_size;
    h->window = w->window_log2 ? (uint64_t)1 << w->window_log2 : 0;
    h->memory = UINT64_MAX;
    h->has_verify = w->has_verify;
    if (w->o.memory_bytes) {
        const uint64_t kept = w->window_log2 ? vz_dedup_memory(w->window_log2) : 0;
        h->memory = w->o.memory_bytes - kept;
        h->on_far = finish_all;
        h->user = w;
    }
    vz_wholes_open(h);
    return FV_OK;
}

static fv_status open_slots(writer *w)
{
    /* An announced size may need fewer. It is the caller's word, not the archive's. */
    const uint64_t blocks = w->o.size / w->block_size + 1;
    if (w->o.size && blocks < (uint64_t)w->threads) w->threads = (int)blocks;
    w->slot_count = slots_for(w->threads);
    FV_TRY(vz_crew_open(w->ctx, &w->crew, w->threads, w->slot_count, code_slot, w));
    if (w->cm.prior && !w->o.no_network)
        FV_TRY(vz_lanes_open(w->ctx, &w->lanes, w->prior.model, w->slot_count));
    w->prior.lanes = w->lanes;
    if (w->window_log2) FV_TRY(vz_dedup_open(w->ctx, &w->dedup, w->window_log2, &w->wholes));
    w->slots = fv_calloc(w->ctx, (size_t)w->slot_count, sizeof *w->slots);
    if (!w->slots) return FV_ERR_OOM;
    for (int i = 0; i < w->slot_count; i++) {
        vz_buf_init(&w->slots[i].in, w->ctx);
        vz_buf_init(&w->slots[i].refs, w->ctx);
        vz_buf_init(&w->slots[i].hints, w->ctx);
        vz_buf_init(&w->slots[i].out, vz_crew_ctx(w->crew, i));
        vz_buf_init(&w->slots[i].check, vz_crew_ctx(w->crew, i));
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
    h->models = w->cm.prior ? 1 : 0;
    if (h->models) {
        h->model[0].id = w->prior.model->id;
        h->model[0].hash = vz_model_short_hash(w->prior.model);
    }
    if (is_single)
        h->flags |= VZ_IS_SINGLE;
    else if (w->o.size || is_all)
        h->flags |= VZ_HAS_SIZE;
    h->size = w->o.size ? w->o.size : w->done;
    if (!is_single && w->done > 0 && !w->o.no_index) h->flags |= VZ_HAS_INDEX;
    if (!is_single && w->done > 0 && w->dedup) {
        h->flags |= VZ_IS_SOLID;
        h->window_log2 = w->window_log2;
    }
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

static void count(fv_vzip_stats *s, const slot *b)
{
    s->blocks++;
    s->stored += b->type == VZ_STORE;
    s->zstd += b->type == VZ_ZSTD;
    s->modelled += b->type == VZ_MODELLED;
    s->referring += b->refs.size > 0;
    s->failed_checks += b->has_failed_check;
}

static fv_status put_block(writer *w, slot *b)
{
    const vz_buf *payload = b->type == VZ_STORE ? &b->in : &b->out;
    const vz_block_header plain = {b->type, b->in.size, payload->size, b->in_hash, 0};
    vz_block_header h = {b->type, b->original, payload->size, b->hash, 0};
    vz_buf *t = &w->text;
    if (b->refs.size) {
        /* The block of plain bytes behind the references; first to see how long it is. */
        if (b->in.size) vz_block_header_put(&plain, t);
        h.type = VZ_REFERRING;
        h.coded = b->refs.size + t->size + (b->in.size ? payload->size : 0);
        t->size = 0;
    }
    vz_block_header_put(&h, t);
    const uint64_t coded = t->size + h.coded;
    vz_buf_put(t, b->refs.data, b->refs.size);
    if (b->refs.size && b->in.size) vz_block_header_put(&plain, t);
    vz_buf_varint(&w->index, coded);
    vz_buf_varint(&w->index, b->original);
    FV_TRY(w->index.status);
    FV_TRY(put_text(w));
    if (b->in.size) FV_TRY(put(w, payload->data, payload->size));
    w->blocks++;
    w->coded += b->original;
    count(&w->stats, b);
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
    vz_buf_le(t, w->dedup ? vz_dedup_hash(w->dedup) : XXH64_digest(&w->hash), 8);
    return put_text(w);
}

/* ---- Coding ---------------------------------------------------------------------------------- */

/* The decoder on the block just coded; what it does not give back is coded in a simpler way. */
static fv_status verify(fv_ctx *ctx, const vz_cm_options *cm, slot *b)
{
    const vz_block_header h = {b->type, b->in.size, b->out.size, b->in_hash, 0};
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
    b->type = VZ_STORE;
    b->has_failed_check = false;
    b->status = FV_OK;
    b->in_hash = vz_hash(b->in.data, b->in.size);
    if (!b->refs.size) b->hash = b->in_hash;
    if (!b->in.size) return;
    const vz_hints hints = {(const vz_hint *)(const void *)b->hints.data,
                            b->hints.size / sizeof(vz_hint)};
    b->status = vz_block_encode(ctx, &w->cm, b->in.data, b->in.size, &hints, &b->out, &b->type);
    if (b->status == FV_OK && w->has_verify) b->status = verify(ctx, &w->cm, b);
}

/* What large media the block holds, which was just read and begins at `from`. */
static fv_status track(writer *w, slot *b, uint64_t from)
{
    vz_tracker *t = &w->media;
    uint8_t head[VZ_MEDIA_LOOK];
    const uint64_t to = from + b->in.size;
    for (;;) {
        const vz_media *m = vz_wholes_get(&w->wholes, 0);
        if (m && m->start <= t->next && m->start < to) {
            FV_TRY(vz_tracker_put(t, m));
            vz_wholes_take(&w->wholes);
            continue;
        }
        if (t->next >= to) break;
        const uint8_t *p = b->in.data + (t->next - from);
        size_t n = to - t->next < VZ_MEDIA_LOOK ? (size_t)(to - t->next) : VZ_MEDIA_LOOK, more;
        if (!vz_tracker_may_begin(t, *p)) {
            vz_tracker_skip(t);
            continue;
        }
        if (n < VZ_MEDIA_LOOK) {
            /* The header may go on in the next block. */
            memcpy(head, p, n);
            FV_TRY(vz_source_look(w->source, 0, VZ_MEDIA_LOOK - n, head + n, &more));
            n += more;
            p = head;
        }
        FV_TRY(vz_tracker_look(t, p, n));
    }
    FV_TRY(vz_tracker_hints(t, from, to, 0, &b->hints));
    vz_tracker_forget(t, to);
    return FV_OK;
}

/* The size of the next block, which has no references. */
static fv_status next_size(writer *w, uint64_t *size)
{
    const uint64_t from = w->done;
    const vz_media *m;
    *size = w->block_size;
    FV_TRY(vz_wholes_look(&w->wholes, from + w->block_size));
    for (size_t i = 0; (m = vz_wholes_get(&w->wholes, i)) && m->start < from + w->block_size; i++) {
        const vz_cut cut = vz_wholes_cut(m->start - from, m->end - m->start, w->block_size);
        if (cut == VZ_CUT_FITS) continue;
        *size = (cut == VZ_CUT_GROW ? m->end : m->start) - from;
        break;
    }
    return FV_OK;
}

/* A block larger than usual leaves nothing behind. */
static void release_large(const writer *w, slot *b)
{
    vz_buf *list[3] = {&b->in, &b->out, &b->check};
    for (int i = 0; i < 3; i++)
        if (list[i]->capacity > 2 * w->block_size) vz_buf_free(list[i]);
}

/* The next block into b; its size is 0 at the end. */
static fv_status read_slot(writer *w, slot *b, bool *is_end)
{
    vz_in next;
    bool is_read = false;
    uint64_t size;
    release_large(w, b);
    b->in.size = b->refs.size = b->hints.size = 0;
    if (w->dedup && w->done == 0) {
        FV_TRY(vz_dedup_start(w->dedup, w->source, w->block_size, &b->in, &is_read));
        b->original = b->in.size;
        if (is_read) vz_dedup_close(&w->dedup); /* its hash has seen nothing, the block's says all */
    }
    if (!is_read && w->dedup) {
        vz_dedup_out to = {&b->in, &b->refs, &b->hints, 0, 0};
        FV_TRY(vz_dedup_block(w->dedup, w->source, w->block_size, &to));
        b->original = to.original;
        b->hash = to.hash;
    } else if (!is_read) {
        FV_TRY(next_size(w, &size));
        FV_TRY(vz_source_append(w->source, &b->in, size, &b->original));
    }
    if (!w->dedup && XXH64_update(&w->hash, b->in.data, b->in.size) != XXH_OK)
        return FV_ERR_INTERNAL;
    if (!w->dedup) FV_TRY(track(w, b, w->done));
    w->done += b->original;
    FV_TRY(vz_source_peek(w->source, 1, &next));
    *is_end = next.p == next.end && (!w->dedup || vz_dedup_is_empty(w->dedup));
    if (w->o.size && (w->done > w->o.size || (*is_end && w->done != w->o.size)))
        return fv_fail(w->ctx, FV_ERR_IO,
                       "the input has %s than the %llu bytes announced: it changed while it was "
                       "read", w->done > w->o.size ? "more" : "less",
                       (unsigned long long)w->o.size);
    return FV_OK;
}

/* The header of a frame with one block, which is coded by now: the model is named only if it was
 * used, since naming it takes 12 bytes. */
static fv_status put_single(writer *w, slot *b)
{
    if (w->cm.prior &&
        (b->type != VZ_MODELLED || !vz_modelled_needs_model(b->out.data, b->out.size))) {
        w->cm.prior = NULL;
        if (b->type == VZ_MODELLED) memmove(b->out.data, b->out.data + 1, --b->out.size);
    }
    return put_header(w, true, true);
}

/* Waits for the oldest block and writes it. */
static fv_status finish_one(writer *w)
{
    const int i = (int)(w->blocks % (uint64_t)w->slot_count);
    slot *b = &w->slots[i];
    const vz_progress p = {"compressing", w->coded, w->o.size};
    vz_crew_wait(w->crew, &p, i);
    if (b->status != FV_OK)
        return fv_fail(w->ctx, b->status, "%s", fv_ctx_error(vz_crew_ctx(w->crew, i)));
    if (w->is_single) FV_TRY(put_single(w, b));
    FV_TRY(put_block(w, b));
    w->used -= b->need;
    w->large -= b->in.size > w->block_size;
    release_large(w, b);
    return fv_report(w->ctx, "compressing", w->coded, w->o.size, NULL);
}

static fv_status finish_all(void *user)
{
    writer *w = user;
    while (w->started > w->blocks) FV_TRY(finish_one(w));
    return FV_OK;
}

/* The block that was read into slot i, as soon as there is memory for it. */
static fv_status start_slot(writer *w, int i)
{
    slot *b = &w->slots[i];
    const uint64_t limit = w->o.memory_bytes ? w->wholes.memory : LARGE_MEMORY;
    const bool is_large = b->in.size > w->block_size;
    b->need = memory_of(w, b->in.size);
    while ((is_large || w->large) && w->started > w->blocks && w->used + b->need > limit)
        FV_TRY(finish_one(w));
    const vz_progress p = {"compressing", w->coded, w->o.size};
    w->used += b->need;
    w->large += is_large;
    w->started++;
    vz_crew_start(w->crew, &p, i, b->in.size);
    return FV_OK;
}

static fv_status code_all(writer *w)
{
    bool is_end = false, has_header = false;
    while (!is_end || w->started > w->blocks) {
        if (is_end || w->started - w->blocks == (uint64_t)w->slot_count) {
            FV_TRY(finish_one(w));
            continue;
        }
        const int i = (int)(w->started % (uint64_t)w->slot_count);
        slot *b = &w->slots[i];
        FV_TRY(read_slot(w, b, &is_end));
        if (!has_header) {
            w->is_single = is_end && b->original > 0 && !b->refs.size;
            if (!w->is_single) FV_TRY(put_header(w, false, is_end));
            FV_TRY(fv_report(w->ctx, "compressing", 0, w->o.size, NULL));
        }
        has_header = true;
        if (b->original == 0) break;
        FV_TRY(start_slot(w, i));
    }
    if (!w->is_single) FV_TRY(put_end(w));
    return fv_report(w->ctx, "compressing", w->done, w->o.size, NULL);
}

static void close_writer(writer *w)
{
    vz_crew_stop(w->crew);
    vz_dedup_close(&w->dedup);
    vz_tracker_close(&w->media);
    vz_wholes_close(&w->wholes);
    vz_source_close(&w->source);
    for (int i = 0; w->slots && i < w->slot_count; i++) {
        vz_buf_free(&w->slots[i].in);
        vz_buf_free(&w->slots[i].refs);
        vz_buf_free(&w->slots[i].hints);
        vz_buf_free(&w->slots[i].out);
        vz_buf_free(&w->slots[i].check);
    }
    fv_free(w->ctx, w->slots);
    vz_crew_close(&w->crew);
    vz_lanes_close(&w->lanes);
    vz_buf_free(&w->index);
    vz_buf_free(&w->text);
}

fv_status fv_vzip_compress_stream(fv_ctx *ctx, const fv_vzip_io *io, const fv_vzip_options *opts,
                                  fv_vzip_stats *stats)
{
    writer w;
    memset(&w, 0, sizeof w);
    w.ctx = ctx;
    w.io = io;
    vz_tracker_open(&w.media, ctx);
    if (stats) memset(stats, 0, sizeof *stats);
    if (!io || !io->read || !io->write) return fv_fail(ctx, FV_ERR_ARG, "vzip: a callback is NULL");
    vz_buf_init(&w.index, ctx);
    vz_buf_init(&w.text, ctx);
    fv_status s = take_options(&w, opts);
    if (s == FV_OK) s = fit_memory(&w);
    if (s == FV_OK) s = open_slots(&w);
    if (s == FV_OK) s = open_input(&w);
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
