/* vz_archive.c - archives that can be read at any place: list, random access, recovery.
 *
 * Where the blocks are is found in two ways:
 *
 *     from the end:  ... | index | its length, magic, hash of the frame |      one read a frame
 *     from the start: header, then from block header to block header           one read a block
 *
 * Frames that have an index are taken from the end backwards; what lies before them is walked from
 * the start. The index repeats the frame header, so that a frame whose first bytes are damaged can
 * still be decoded. For recovery the walk stops at the first thing that makes no sense instead of
 * failing, and blocks that do not decode become zeros. */
#include "internal.h"

#include <string.h>

#define INDEX_STEP ((size_t)1 << 20)

typedef struct block {
    uint64_t at, coded; /* in the archive; header and payload */
    uint64_t original_at, original;
    size_t frame;
} block;

typedef struct frame {
    vz_header h;
    uint64_t at, original_at, original, first, count; /* first, count: of blocks */
} frame;

struct fv_vzip_archive {
    fv_ctx *ctx;
    fv_vzip_source source;
    fv_vzip_limits limits;
    frame *frames;
    block *blocks;
    size_t frame_count, frame_capacity, block_count, block_capacity;
    uint64_t original;
    bool has_index; /* for all frames */
    fv_vzip_info info;
    /* Where a lenient walk had to end: behind so many frames and blocks. */
    bool has_gap;
    size_t gap_frames, gap_blocks;
    char gap_why[256];
    /* The block decoded last. */
    size_t cached; /* SIZE_MAX = none */
    vz_buf coded, data;
};

/* ---- Reading the source ---------------------------------------------------------------------- */

static fv_status read_at(const fv_vzip_archive *a, uint64_t at, void *to, size_t n)
{
    if (at > a->source.size || n > a->source.size - at)
        return fv_fail(a->ctx, FV_ERR_TRUNCATED, "the archive ends at byte %llu",
                       (unsigned long long)a->source.size);
    if (n > 0 && a->source.read_at(a->source.user, at, to, n) != 0)
        return fv_fail(a->ctx, FV_ERR_IO, "reading the archive failed at byte %llu",
                       (unsigned long long)at);
    return FV_OK;
}

/* Up to `want` bytes at `at` into buf, as a reader. */
static fv_status look(const fv_vzip_archive *a, uint64_t at, uint8_t *buf, size_t want, vz_in *in)
{
    const uint64_t left = at < a->source.size ? a->source.size - at : 0;
    const size_t n = left < want ? (size_t)left : want;
    FV_TRY(read_at(a, at, buf, n));
    in->ctx = a->ctx;
    in->p = buf;
    in->end = buf + n;
    return FV_OK;
}

/* n bytes at `at`, in steps: a length that lies meets the end of the source first. */
static fv_status load(const fv_vzip_archive *a, uint64_t at, uint64_t n, vz_buf *b)
{
    b->size = 0;
    if (at > a->source.size || n > a->source.size - at) return read_at(a, at, NULL, SIZE_MAX);
    while (n > 0) {
        const size_t step = n < INDEX_STEP ? (size_t)n : INDEX_STEP;
        uint8_t *to = vz_buf_room(b, step);
        if (!to) {
            b->status = FV_OK; /* a later call may have more memory */
            return FV_ERR_OOM;
        }
        FV_TRY(read_at(a, at, to, step));
        b->size += step;
        at += step;
        n -= step;
    }
    return FV_OK;
}

static fv_status at_byte(const fv_vzip_archive *a, fv_status s, uint64_t at)
{
    if (s == FV_OK || s == FV_ERR_OOM || s == FV_ERR_IO) return s;
    return fv_fail_in(a->ctx, s, "at byte %llu", (unsigned long long)at);
}

/* ---- Lists ----------------------------------------------------------------------------------- */

static fv_status grow(fv_ctx *ctx, void **items, size_t count, size_t *capacity, size_t size)
{
    size_t more = *capacity + *capacity / 2 + 16, bytes;
    if (count < *capacity) return FV_OK;
    if (!fv_mul_size(more, size, &bytes)) return fv_fail(ctx, FV_ERR_OOM, "out of memory");
    void *p = fv_realloc(ctx, *items, count * size, bytes);
    if (!p) return FV_ERR_OOM;
    *items = p;
    *capacity = more;
    return FV_OK;
}

static fv_status add_frame(fv_vzip_archive *a, const vz_header *h, uint64_t at)
{
    void *p = a->frames;
    const fv_status s = grow(a->ctx, &p, a->frame_count, &a->frame_capacity, sizeof *a->frames);
    a->frames = p;
    FV_TRY(s);
    a->frames[a->frame_count++] = (frame){*h, at, 0, 0, a->block_count, 0};
    return FV_OK;
}

/* To the last frame. Offsets in the original are filled in when all frames are known. */
static fv_status add_block(fv_vzip_archive *a, uint64_t at, uint64_t coded, uint64_t original)
{
    void *p = a->blocks;
    const fv_status s = grow(a->ctx, &p, a->block_count, &a->block_capacity, sizeof *a->blocks);
    a->blocks = p;
    FV_TRY(s);
    a->blocks[a->block_count++] = (block){at, coded, 0, original, a->frame_count - 1};
    a->frames[a->frame_count - 1].count++;
    return FV_OK;
}

/* ---- From the end: indexes ------------------------------------------------------------------- */

/* The pairs of an index whose checksum is right, for the frame that ends at `end`; *start is where
 * the frame begins. */
static fv_status take_pairs(fv_vzip_archive *a, vz_in *in, const vz_header *h, uint64_t end,
                            uint64_t *start)
{
    uint64_t n, coded, original, blocks = 0;
    vz_in first;
    FV_TRY(vz_in_varint(in, &n));
    first = *in;
    for (uint64_t i = 0; i < n; i++) {
        FV_TRY(vz_in_varint(in, &coded));
        FV_TRY(vz_in_varint(in, &original));
        /* What check_block demands of a header: at least a type, sizes, hash and a byte. */
        if (coded < 12 || original == 0 || original > a->limits.max_block_bytes ||
            coded > end - blocks || coded > original + VZ_BLOCK_HEADER_MAX)
            return fv_fail(a->ctx, FV_ERR_FORMAT, "corrupt: impossible sizes in the index");
        blocks += coded;
    }
    if (in->p != in->end || blocks + h->bytes > end)
        return fv_fail(a->ctx, FV_ERR_FORMAT, "corrupt: an index of another length");
    *start = end - blocks - h->bytes;
    FV_TRY(add_frame(a, h, *start));
    uint64_t at = *start + h->bytes;
    for (uint64_t i = 0; i < n; i++) {
        FV_TRY(vz_in_varint(&first, &coded));
        FV_TRY(vz_in_varint(&first, &original));
        FV_TRY(add_block(a, at, coded, original));
        at += coded;
    }
    return FV_OK;
}

/* The frame whose trailer ends at `end`. FV_ERR_FORMAT and similar: it has no (good) index. */
static fv_status take_index(fv_vzip_archive *a, uint64_t end, uint64_t *start)
{
    uint8_t tail[VZ_INDEX_TAIL];
    uint64_t n, crc;
    vz_header h;
    vz_buf b;
    if (end < sizeof tail + VZ_HEADER_MAX / 32)
        return fv_fail(a->ctx, FV_ERR_FORMAT, "no index: the archive is too short");
    FV_TRY(read_at(a, end - sizeof tail, tail, sizeof tail));
    vz_in in = {a->ctx, tail, tail + 4};
    FV_TRY(vz_in_le(&in, 4, &n));
    if (memcmp(tail + 4, vz_index_magic, 4) != 0 || n < 8 || n > end - sizeof tail)
        return fv_fail(a->ctx, FV_ERR_FORMAT, "no index at the end of the archive");
    vz_buf_init(&b, a->ctx);
    const uint64_t index_at = end - sizeof tail - n;
    fv_status s = load(a, index_at, n, &b);
    in = (vz_in){a->ctx, b.data, b.data ? b.data + b.size - 4 : NULL};
    if (s == FV_OK) {
        vz_in stored = {a->ctx, in.end, in.end + 4};
        (void)vz_in_le(&stored, 4, &crc);
        if (crc != fv_crc32c(0, b.data, b.size - 4))
            s = fv_fail(a->ctx, FV_ERR_CHECKSUM, "corrupt: the checksum of the index differs");
    }
    if (s == FV_OK) s = vz_header_get(&in, &h);
    if (s == FV_OK && index_at == 0) s = fv_fail(a->ctx, FV_ERR_FORMAT, "corrupt: no end mark");
    if (s == FV_OK) s = take_pairs(a, &in, &h, index_at - 1, start);
    vz_buf_free(&b);
    return s;
}

/* ---- From the start: block headers ----------------------------------------------------------- */

/* The frame at *at; *at moves behind it. */
static fv_status walk_frame(fv_vzip_archive *a, uint64_t *at)
{
    uint8_t buf[VZ_HEADER_MAX];
    vz_in in;
    vz_header h;
    FV_TRY(look(a, *at, buf, sizeof buf, &in));
    FV_TRY(vz_header_get(&in, &h));
    FV_TRY(add_frame(a, &h, *at));
    *at += h.bytes;
    for (;;) {
        vz_block_header b;
        FV_TRY(look(a, *at, buf, VZ_BLOCK_HEADER_MAX, &in));
        FV_TRY(vz_block_header_get(&in, &a->limits, &b));
        if (b.type == VZ_END) break;
        if (b.coded > a->source.size - *at - b.bytes)
            return fv_fail(a->ctx, FV_ERR_TRUNCATED, "the archive ends inside of a block");
        FV_TRY(add_block(a, *at, b.bytes + b.coded, b.original));
        *at += b.bytes + b.coded;
        if (h.flags & VZ_IS_SINGLE) return FV_OK;
    }
    *at += 1;
    if (h.flags & VZ_HAS_INDEX) {
        /* Its length stands at its end: read through it. */
        uint64_t n = 0, skip;
        const frame *f = &a->frames[a->frame_count - 1];
        *at += h.bytes;
        for (uint64_t i = 0; i < 2 * f->count + 1; i++) {
            FV_TRY(look(a, *at, buf, 10, &in));
            FV_TRY(vz_in_varint(&in, i ? &skip : &n));
            if (i == 0 && n != f->count)
                return fv_fail(a->ctx, FV_ERR_FORMAT, "corrupt: the index differs from the blocks");
            *at += (uint64_t)(in.p - buf);
        }
    }
    const uint64_t tail = h.flags & VZ_HAS_INDEX ? 4 + VZ_INDEX_TAIL : 8;
    if (*at > a->source.size || a->source.size - *at < tail)
        return fv_fail(a->ctx, FV_ERR_TRUNCATED, "the archive ends inside of its trailer");
    *at += tail;
    return FV_OK;
}

/* ---- Opening --------------------------------------------------------------------------------- */

static void forget(fv_vzip_archive *a)
{
    a->frame_count = a->block_count = 0;
}

static bool is_fatal(fv_status s)
{
    return s == FV_ERR_OOM || s == FV_ERR_IO || s == FV_ERR_CANCELLED;
}

/* Frames before `end`. What stops a lenient walk is kept in the archive as the gap. */
static fv_status walk(fv_vzip_archive *a, uint64_t end, bool is_lenient, uint64_t *at)
{
    *at = 0;
    while (*at < end) {
        const fv_status s = at_byte(a, walk_frame(a, at), *at);
        if (s == FV_OK) continue;
        if (!is_lenient || is_fatal(s)) return s;
        a->has_gap = true;
        a->gap_frames = a->frame_count;
        a->gap_blocks = a->block_count;
        snprintf(a->gap_why, sizeof a->gap_why, "%s", fv_ctx_error(a->ctx));
        *at = end;
    }
    return FV_OK;
}

/* Ends of the frames that have an index, the last first. */
static fv_status find_indexes(fv_vzip_archive *a, vz_buf *ends, uint64_t *first)
{
    uint64_t start;
    *first = a->source.size;
    while (*first > 0) {
        forget(a);
        const fv_status s = take_index(a, *first, &start);
        if (is_fatal(s)) return s;
        if (s != FV_OK) break;
        vz_buf_put(ends, first, sizeof *first);
        *first = start;
    }
    forget(a);
    return ends->status;
}

static fv_status find_blocks(fv_vzip_archive *a, bool is_lenient)
{
    vz_buf ends;
    uint64_t first, at, end, start;
    vz_buf_init(&ends, a->ctx);
    fv_status s = find_indexes(a, &ends, &first);
    if (s == FV_OK) s = walk(a, first, is_lenient, &at);
    if (s == FV_OK && at != first) {
        /* The "index" was the end of a stored block: an archive inside of the archive. */
        forget(a);
        ends.size = 0;
        a->has_gap = false;
        s = walk(a, a->source.size, is_lenient, &at);
    }
    a->has_index = s == FV_OK && a->frame_count == 0;
    while (s == FV_OK && ends.size > 0) {
        ends.size -= sizeof end;
        memcpy(&end, ends.data + ends.size, sizeof end);
        s = take_index(a, end, &start);
    }
    vz_buf_free(&ends);
    if (s == FV_OK && a->frame_count == 0 && !a->has_gap)
        return fv_fail(a->ctx, FV_ERR_TRUNCATED, "the archive is empty");
    return s;
}

/* Offsets in the original, and what people want to know. */
static fv_status add_up(fv_vzip_archive *a)
{
    fv_vzip_info *info = &a->info;
    info->archive_bytes = a->source.size;
    info->frames = a->frame_count;
    info->blocks = a->block_count;
    info->has_index = a->has_index;
    for (size_t i = 0; i < a->block_count; i++) {
        block *b = &a->blocks[i];
        frame *f = &a->frames[b->frame];
        const vz_cm_options o = {f->h.level, f->h.memory_log2, NULL};
        const uint64_t need = b->original + b->coded + vz_block_memory_max(&o, b->original);
        if (f->original == 0) f->original_at = a->original;
        if (b->original > UINT64_MAX - a->original)
            return fv_fail(a->ctx, FV_ERR_LIMIT, "the archive claims more than 2^64 bytes");
        b->original_at = a->original;
        a->original += b->original;
        f->original += b->original;
        if (b->original > info->block_bytes) info->block_bytes = b->original;
        if (need > info->memory_bytes) info->memory_bytes = need;
    }
    info->original_bytes = a->original;
    return FV_OK;
}

static fv_status open_archive(fv_ctx *ctx, fv_vzip_archive **out, const fv_vzip_source *source,
                              const fv_vzip_limits *limits, bool is_lenient)
{
    fv_vzip_limits l;
    *out = NULL;
    FV_TRY(vz_take_limits(ctx, limits, &l));
    if (!source || !source->read_at) return fv_fail(ctx, FV_ERR_ARG, "vzip: the source is NULL");
    fv_vzip_archive *a = fv_calloc(ctx, 1, sizeof *a);
    if (!a) return FV_ERR_OOM;
    a->ctx = ctx;
    a->source = *source;
    a->limits = l;
    a->cached = SIZE_MAX;
    vz_buf_init(&a->coded, ctx);
    vz_buf_init(&a->data, ctx);
    fv_status s = find_blocks(a, is_lenient);
    if (s == FV_OK) s = add_up(a);
    if (s != FV_OK) {
        fv_vzip_close(&a);
        return s;
    }
    *out = a;
    return FV_OK;
}

fv_status fv_vzip_open(fv_ctx *ctx, fv_vzip_archive **out, const fv_vzip_source *source,
                       const fv_vzip_limits *limits)
{
    return open_archive(ctx, out, source, limits, false);
}

static int memory_read_at(void *user, uint64_t offset, void *to, size_t size)
{
    memcpy(to, (const uint8_t *)user + offset, size);
    return 0;
}

fv_status fv_vzip_open_memory(fv_ctx *ctx, fv_vzip_archive **out, const void *archive, size_t size,
                              const fv_vzip_limits *limits)
{
    *out = NULL;
    if (!archive) return fv_fail(ctx, FV_ERR_ARG, "vzip: the archive is NULL");
    const fv_vzip_source source = {memory_read_at, size, (void *)(uintptr_t)archive};
    return open_archive(ctx, out, &source, limits, false);
}

void fv_vzip_close(fv_vzip_archive **archive)
{
    if (!archive || !*archive) return;
    fv_vzip_archive *a = *archive;
    fv_ctx *ctx = a->ctx;
    *archive = NULL;
    vz_buf_free(&a->coded);
    vz_buf_free(&a->data);
    fv_free(ctx, a->frames);
    fv_free(ctx, a->blocks);
    fv_free(ctx, a);
}

void fv_vzip_get_info(const fv_vzip_archive *a, fv_vzip_info *out)
{
    *out = a->info;
}

fv_status fv_vzip_get_frame(const fv_vzip_archive *a, uint64_t i, fv_vzip_frame *out)
{
    memset(out, 0, sizeof *out);
    if (i >= a->frame_count)
        return fv_fail(a->ctx, FV_ERR_ARG, "frame %llu: the archive has %llu",
                       (unsigned long long)i, (unsigned long long)a->frame_count);
    const frame *f = &a->frames[i];
    out->archive_offset = f->at;
    out->original_offset = f->original_at;
    out->original_bytes = f->original;
    out->blocks = f->count;
    out->version = VZ_VERSION;
    out->level = f->h.level;
    out->memory_log2 = f->h.memory_log2;
    out->models = f->h.models;
    out->name = f->h.flags & VZ_HAS_NAME ? f->h.name : NULL;
    out->has_time = (f->h.flags & VZ_HAS_TIME) != 0;
    out->mtime_s = f->h.mtime_s;
    out->mtime_ns = f->h.mtime_ns;
    out->mode = f->h.mode;
    return FV_OK;
}

/* ---- Random access --------------------------------------------------------------------------- */

/* Block i into a->data. */
static fv_status decode(fv_vzip_archive *a, size_t i)
{
    const block *b = &a->blocks[i];
    const frame *f = &a->frames[b->frame];
    const vz_cm_options o = {f->h.level, f->h.memory_log2, NULL};
    vz_block_header h;
    uint64_t tables;
    a->cached = SIZE_MAX;
    FV_TRY(load(a, b->at, b->coded, &a->coded));
    vz_in in = {a->ctx, a->coded.data, a->coded.data + a->coded.size};
    FV_TRY(vz_block_header_get(&in, &a->limits, &h));
    if (h.type == VZ_END || h.original != b->original || h.coded != (uint64_t)(in.end - in.p))
        return fv_fail(a->ctx, FV_ERR_FORMAT, "corrupt: the block differs from the index");
    FV_TRY(vz_block_memory(a->ctx, &o, &h, in.p, &tables));
    const uint64_t need = h.original + b->coded + tables;
    if (need > a->limits.memory_bytes)
        return fv_fail(a->ctx, FV_ERR_OOM, "decoding takes %llu bytes of memory, the limit is %llu; "
                       "raise it", (unsigned long long)need,
                       (unsigned long long)a->limits.memory_bytes);
    a->data.size = 0;
    if (a->data.capacity < h.original) vz_buf_free(&a->data);
    if (!vz_buf_room(&a->data, (size_t)h.original)) {
        a->data.status = FV_OK;
        return FV_ERR_OOM;
    }
    FV_TRY(vz_block_decode(a->ctx, &o, &h, in.p, a->data.data));
    a->data.size = (size_t)h.original;
    a->cached = i;
    return FV_OK;
}

/* The block that holds the byte `offset` < original size. */
static size_t block_of(const fv_vzip_archive *a, uint64_t offset)
{
    size_t lo = 0, hi = a->block_count;
    while (hi - lo > 1) {
        const size_t mid = lo + (hi - lo) / 2;
        if (a->blocks[mid].original_at <= offset)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

fv_status fv_vzip_read(fv_ctx *ctx, fv_vzip_archive *a, uint64_t offset, size_t size, void *to,
                       size_t *got)
{
    uint8_t *p = to;
    size_t done = 0;
    *got = 0;
    if (ctx != a->ctx) return fv_fail(ctx, FV_ERR_ARG, "vzip: the archive is another context's");
    while (done < size && offset < a->original) {
        const size_t i = block_of(a, offset);
        const block *b = &a->blocks[i];
        if (a->cached != i) {
            const fv_status s = decode(a, i);
            if (s != FV_OK) return at_byte(a, s, b->at);
        }
        const size_t skip = (size_t)(offset - b->original_at);
        size_t n = (size_t)b->original - skip;
        if (n > size - done) n = size - done;
        memcpy(p + done, a->data.data + skip, n);
        done += n;
        offset += n;
    }
    *got = done;
    return FV_OK;
}

/* ---- Recovery -------------------------------------------------------------------------------- */

typedef struct recovery {
    fv_vzip_archive *a;
    const fv_vzip_io *io;
    void (*on_damage)(void *user, const fv_vzip_damage *d);
    uint64_t max_output, written, lost;
} recovery;

static fv_status give(recovery *r, const uint8_t *p, uint64_t n)
{
    static const uint8_t zeros[4096];
    fv_ctx *ctx = r->a->ctx;
    if (n > r->max_output - r->written)
        return fv_fail(ctx, FV_ERR_LIMIT, "the output is larger than the limit of %llu bytes",
                       (unsigned long long)r->max_output);
    FV_TRY(fv_report(ctx, "recovering", r->written, r->a->original, NULL));
    r->written += n;
    while (n > 0) {
        const size_t step = p || n < sizeof zeros ? (size_t)n : sizeof zeros;
        if (r->io->write(r->io->user, p ? p : zeros, step) != 0)
            return fv_fail(ctx, FV_ERR_IO, "writing the output failed");
        n -= step;
    }
    return FV_OK;
}

static fv_status lose(recovery *r, uint64_t n, const char *why)
{
    const fv_vzip_damage d = {r->written, n, why};
    if (r->on_damage) r->on_damage(r->io->user, &d);
    r->lost += n;
    return give(r, NULL, n);
}

/* The rest of the frame at which the walk from the start ended. */
static fv_status lose_gap(recovery *r)
{
    const fv_vzip_archive *a = r->a;
    uint64_t n = 0;
    if (a->gap_frames > 0) {
        const frame *f = &a->frames[a->gap_frames - 1];
        if ((f->h.flags & VZ_HAS_SIZE) && f->h.size > f->original) n = f->h.size - f->original;
        /* An announced size may lie; what is not there is not worth more than the archive was. */
        if (n / a->limits.max_expansion > a->source.size) n = 0;
    }
    return lose(r, n, a->gap_why);
}

static fv_status recover_blocks(recovery *r, fv_vzip_stats *stats)
{
    fv_vzip_archive *a = r->a;
    for (size_t i = 0; i < a->block_count; i++) {
        const block *b = &a->blocks[i];
        if (a->has_gap && i == a->gap_blocks) FV_TRY(lose_gap(r));
        const fv_status s = at_byte(a, decode(a, i), b->at);
        if (is_fatal(s)) return s;
        if (s == FV_OK)
            FV_TRY(give(r, a->data.data, b->original));
        else
            FV_TRY(lose(r, b->original, fv_ctx_error(a->ctx)));
        stats->blocks += s == FV_OK;
    }
    return a->has_gap && a->gap_blocks == a->block_count ? lose_gap(r) : FV_OK;
}

fv_status fv_vzip_recover(fv_ctx *ctx, const fv_vzip_source *source, const fv_vzip_io *io,
                          uint64_t max_output, const fv_vzip_limits *limits,
                          void (*on_damage)(void *user, const fv_vzip_damage *d),
                          uint64_t *lost_bytes, fv_vzip_stats *stats)
{
    recovery r = {NULL, io, on_damage, max_output, 0, 0};
    fv_vzip_stats own;
    memset(&own, 0, sizeof own);
    if (lost_bytes) *lost_bytes = 0;
    if (stats) *stats = own;
    if (!io || !io->write || max_output == 0)
        return fv_fail(ctx, FV_ERR_ARG, "vzip: no write callback, or max_output is 0");
    FV_TRY(open_archive(ctx, &r.a, source, limits, true));
    const fv_status s = recover_blocks(&r, &own);
    own.input_bytes = source->size;
    own.output_bytes = r.written;
    own.frames = r.a->frame_count;
    if (stats) *stats = own;
    if (lost_bytes) *lost_bytes = r.lost;
    fv_vzip_close(&r.a);
    return s;
}
