/* vz_archive.c - archives that can be read at any place: list and random access.
 *
 * Where the blocks are is found in two ways:
 *
 *     from the end:  ... | index | its length, magic, hash of the frame |      one read a frame
 *     from the start: header, then from block header to block header           one read a block
 *
 * Frames that have an index are taken from the end backwards; what lies before them is walked from
 * the start. The index repeats the frame header, so that a frame whose first bytes are damaged can
 * still be decoded. For recovery the walk goes on behind the first thing that makes no sense
 * (vz_recover.c) instead of failing.
 *
 * A block with references needs others, which their lists say before anything is decoded: going
 * backwards from the block, those that hold what is needed are marked, and only they are decoded,
 * into a window like that of the decoder of streams. */
#include "vz_archive.h"
#include "vz_models.h"

#include <string.h>

#define INDEX_STEP ((size_t)1 << 20)

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

fv_status vz_archive_look(const fv_vzip_archive *a, uint64_t at, uint8_t *buf, size_t want,
                          vz_in *in)
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

fv_status vz_archive_at(const fv_vzip_archive *a, fv_status s, uint64_t at)
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
    a->frames[a->frame_count++] = (vz_frame){*h, at, 0, 0, a->block_count, 0, false};
    return FV_OK;
}

/* To the last frame. Offsets in the original are filled in when all frames are known. */
fv_status vz_archive_add(fv_vzip_archive *a, uint64_t at, uint64_t coded, uint64_t original)
{
    void *p = a->blocks;
    const fv_status s = grow(a->ctx, &p, a->block_count, &a->block_capacity, sizeof *a->blocks);
    a->blocks = p;
    FV_TRY(s);
    a->blocks[a->block_count++] =
        (vz_place){at, coded, 0, original, a->frame_count - 1, false, false};
    a->frames[a->frame_count - 1].count++;
    return FV_OK;
}

void vz_archive_drop_last(fv_vzip_archive *a)
{
    a->block_count--;
    a->frames[a->frame_count - 1].count--;
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
    a->frames[a->frame_count - 1].is_indexed = true;
    uint64_t at = *start + h->bytes;
    for (uint64_t i = 0; i < n; i++) {
        FV_TRY(vz_in_varint(&first, &coded));
        FV_TRY(vz_in_varint(&first, &original));
        FV_TRY(vz_archive_add(a, at, coded, original));
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

/* Blocks of the last frame from *at to its end mark, on which *at then is; or behind its only
 * block. */
static fv_status walk_blocks(fv_vzip_archive *a, uint64_t *at)
{
    uint8_t buf[VZ_BLOCK_HEADER_MAX];
    vz_in in;
    for (;;) {
        const vz_header *h = &a->frames[a->frame_count - 1].h;
        vz_block_header b;
        FV_TRY(vz_archive_look(a, *at, buf, sizeof buf, &in));
        FV_TRY(vz_block_header_get(&in, &a->limits, &b));
        if (b.type == VZ_END) return FV_OK;
        FV_TRY(vz_block_suits(a->ctx, h, &b));
        if (b.coded > a->source.size - *at - b.bytes)
            return fv_fail(a->ctx, FV_ERR_TRUNCATED, "the archive ends inside of a block");
        FV_TRY(vz_archive_add(a, *at, b.bytes + b.coded, b.original));
        *at += b.bytes + b.coded;
        if (h->flags & VZ_IS_SINGLE) return FV_OK;
    }
}

/* End mark, index and trailer of the last frame; `count` blocks are in its index. */
static fv_status walk_end(fv_vzip_archive *a, uint64_t *at, bool is_whole)
{
    uint8_t buf[10];
    vz_in in;
    const vz_frame *f = &a->frames[a->frame_count - 1];
    *at += 1;
    if (f->h.flags & VZ_HAS_INDEX) {
        /* Its length stands at its end: read through it. */
        uint64_t n = f->count, skip;
        *at += f->h.bytes;
        for (uint64_t i = 0; i < 2 * n + 1; i++) {
            FV_TRY(vz_archive_look(a, *at, buf, 10, &in));
            FV_TRY(vz_in_varint(&in, i ? &skip : &n));
            if (i == 0 && ((is_whole && n != f->count) || n > a->source.size))
                return fv_fail(a->ctx, FV_ERR_FORMAT, "corrupt: the index differs from the blocks");
            *at += (uint64_t)(in.p - buf);
        }
    }
    const uint64_t tail = f->h.flags & VZ_HAS_INDEX ? 4 + VZ_INDEX_TAIL : 8;
    if (*at > a->source.size || a->source.size - *at < tail)
        return fv_fail(a->ctx, FV_ERR_TRUNCATED, "the archive ends inside of its trailer");
    *at += tail;
    return FV_OK;
}

/* What does not make sense at *at becomes a gap; *at moves to where it goes on: behind the header
 * of a frame (*is_frame) or at a block of the last one. */
static fv_status pass_gap(fv_vzip_archive *a, uint64_t *at, bool *is_frame)
{
    void *p = a->gaps;
    const fv_status s = grow(a->ctx, &p, a->gap_count, &a->gap_capacity, sizeof *a->gaps);
    a->gaps = p;
    FV_TRY(s);
    vz_gap *g = &a->gaps[a->gap_count];
    snprintf(g->why, sizeof g->why, "%s", fv_ctx_error(a->ctx));
    FV_TRY(vz_archive_resync(a, *at, at, is_frame));
    g->block = a->block_count;
    g->frames = a->frame_count;
    a->gap_count++;
    return FV_OK;
}

/* The frame at *at; *at moves behind it. */
static fv_status walk_frame(fv_vzip_archive *a, uint64_t *at)
{
    uint8_t buf[VZ_HEADER_MAX];
    vz_in in;
    vz_header h;
    FV_TRY(vz_archive_look(a, *at, buf, sizeof buf, &in));
    FV_TRY(vz_header_get(&in, &h));
    FV_TRY(add_frame(a, &h, *at));
    *at += h.bytes;
    bool is_whole = true, is_frame;
    for (;;) {
        fv_status s = vz_archive_at(a, walk_blocks(a, at), *at);
        if (s == FV_OK && (h.flags & VZ_IS_SINGLE)) return FV_OK;
        if (s == FV_OK) s = vz_archive_at(a, walk_end(a, at, is_whole), *at);
        if (s == FV_OK || !a->is_lenient || vz_is_fatal(s)) return s;
        is_whole = is_frame = false;
        FV_TRY(pass_gap(a, at, &is_frame));
        if (is_frame || *at == a->source.size) return FV_OK;
    }
}

/* ---- Opening --------------------------------------------------------------------------------- */

static void forget(fv_vzip_archive *a)
{
    a->frame_count = a->block_count = a->gap_count = 0;
}

bool vz_is_fatal(fv_status s)
{
    return s == FV_ERR_OOM || s == FV_ERR_IO || s == FV_ERR_CANCELLED || s == FV_ERR_MODEL;
}

/* Frames before `end`. A lenient walk keeps what stops it as a gap. */
static fv_status walk(fv_vzip_archive *a, uint64_t end, uint64_t *at)
{
    bool is_frame;
    *at = 0;
    while (*at < end) {
        const fv_status s = vz_archive_at(a, walk_frame(a, at), *at);
        if (s == FV_OK) continue;
        if (!a->is_lenient || vz_is_fatal(s)) return s;
        is_frame = true;
        FV_TRY(pass_gap(a, at, &is_frame));
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
        if (vz_is_fatal(s)) return s;
        if (s != FV_OK) break;
        vz_buf_put(ends, first, sizeof *first);
        *first = start;
    }
    forget(a);
    return ends->status;
}

static fv_status find_blocks(fv_vzip_archive *a)
{
    vz_buf ends;
    uint64_t first, at, end, start;
    vz_buf_init(&ends, a->ctx);
    fv_status s = find_indexes(a, &ends, &first);
    if (s == FV_OK) s = walk(a, first, &at);
    if (s == FV_OK && at != first) {
        /* The "index" was the end of a stored block: an archive inside of the archive. */
        forget(a);
        ends.size = 0;
        s = walk(a, a->source.size, &at);
    }
    a->has_index = s == FV_OK && a->frame_count == 0;
    while (s == FV_OK && ends.size > 0) {
        ends.size -= sizeof end;
        memcpy(&end, ends.data + ends.size, sizeof end);
        s = take_index(a, end, &start);
    }
    vz_buf_free(&ends);
    if (s == FV_OK && a->frame_count == 0 && a->gap_count == 0)
        return fv_fail(a->ctx, FV_ERR_TRUNCATED, "the archive is empty");
    return s;
}

static uint64_t window_of(const vz_frame *f)
{
    return f->h.flags & VZ_IS_SOLID ? (uint64_t)1 << f->h.window_log2 : 0;
}

/* NULL: none, or one that is not at hand; then nothing can be decoded. */
static const vz_model *model_of(const fv_vzip_archive *a, const vz_frame *f)
{
    return f->h.models == 1 ? vz_model_find(&a->limits, f->h.model[0].id, f->h.model[0].hash)
                            : NULL;
}

/* Offsets in the original, and what people want to know. */
static fv_status add_up(fv_vzip_archive *a)
{
    fv_vzip_info *info = &a->info;
    const vz_model *model = NULL;
    size_t frame = SIZE_MAX;
    info->archive_bytes = a->source.size;
    info->frames = a->frame_count;
    info->blocks = a->block_count;
    info->has_index = a->has_index;
    for (size_t i = 0; i < a->block_count; i++) {
        vz_place *b = &a->blocks[i];
        vz_frame *f = &a->frames[b->frame];
        if (b->frame != frame) model = model_of(a, f);
        frame = b->frame;
        const vz_prior prior = {model, 0, 0, NULL};
        const vz_cm_options o = {f->h.level, f->h.memory_log2, model ? &prior : NULL};
        const uint64_t need = b->original + b->coded + vz_block_memory_max(&o, b->original) +
                              window_of(f);
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

fv_status vz_archive_open(fv_ctx *ctx, fv_vzip_archive **out, const fv_vzip_source *source,
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
    a->is_lenient = is_lenient;
    a->cached = SIZE_MAX;
    vz_buf_init(&a->coded, ctx);
    vz_buf_init(&a->data, ctx);
    fv_status s = find_blocks(a);
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
    return vz_archive_open(ctx, out, source, limits, false);
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
    return vz_archive_open(ctx, out, &source, limits, false);
}

void fv_vzip_close(fv_vzip_archive **archive)
{
    if (!archive || !*archive) return;
    fv_vzip_archive *a = *archive;
    fv_ctx *ctx = a->ctx;
    *archive = NULL;
    vz_buf_free(&a->coded);
    vz_buf_free(&a->data);
    vz_past_close(&a->past);
    fv_free(ctx, a->gaps);
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
    const vz_frame *f = &a->frames[i];
    out->archive_offset = f->at;
    out->original_offset = f->original_at;
    out->original_bytes = f->original;
    out->blocks = f->count;
    out->version = VZ_VERSION;
    out->level = f->h.level;
    out->memory_log2 = f->h.memory_log2;
    out->models = f->h.models;
    out->model_id = f->h.models ? f->h.model[0].id : 0;
    out->model_hash = f->h.models ? f->h.model[0].hash : 0;
    out->name = f->h.flags & VZ_HAS_NAME ? f->h.name : NULL;
    out->has_time = (f->h.flags & VZ_HAS_TIME) != 0;
    out->mtime_s = f->h.mtime_s;
    out->mtime_ns = f->h.mtime_ns;
    out->mode = f->h.mode;
    return FV_OK;
}

/* ---- Random access --------------------------------------------------------------------------- */

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

fv_status vz_archive_load(fv_vzip_archive *a, size_t i, vz_block_header *h, vz_block_header *inner,
                          const uint8_t **payload)
{
    const vz_place *b = &a->blocks[i];
    FV_TRY(load(a, b->at, b->coded, &a->coded));
    vz_in in = {a->ctx, a->coded.data, a->coded.data + a->coded.size};
    FV_TRY(vz_block_header_get(&in, &a->limits, h));
    if (h->type == VZ_END || h->original != b->original || h->coded != (uint64_t)(in.end - in.p))
        return fv_fail(a->ctx, FV_ERR_FORMAT, "corrupt: the block differs from the index");
    FV_TRY(vz_block_suits(a->ctx, &a->frames[b->frame].h, h));
    *inner = *h;
    *payload = in.p;
    if (h->type != VZ_REFERRING) return FV_OK;
    return vz_refs_inner(a->ctx, &a->limits, h, in.p, inner, payload);
}

fv_status vz_archive_plain(fv_vzip_archive *a, size_t i, const vz_block_header *h,
                           const vz_block_header *inner, const uint8_t *payload)
{
    const vz_frame *f = &a->frames[a->blocks[i].frame];
    vz_prior prior;
    FV_TRY(vz_model_take(a->ctx, &a->limits, &f->h, &prior));
    const vz_cm_options o = {f->h.level, f->h.memory_log2, f->h.models ? &prior : NULL};
    vz_need tables = {0, 0};
    a->data.size = 0;
    if (inner->original > 0)
        FV_TRY(vz_block_need(a->ctx, &o, inner, payload, &tables));
    const uint64_t need = h->original + a->coded.size + tables.memory +
                          (h->type == VZ_REFERRING || a->past.pages ? window_of(f) : 0);
    if (need > a->limits.memory_bytes)
        return fv_fail(a->ctx, FV_ERR_OOM, "decoding takes %llu bytes of memory, the limit is %llu; "
                       "raise it", (unsigned long long)need,
                       (unsigned long long)a->limits.memory_bytes);
    if (inner->original == 0) return FV_OK;
    if (a->data.capacity < inner->original) vz_buf_free(&a->data);
    if (!vz_buf_room(&a->data, (size_t)inner->original)) {
        a->data.status = FV_OK;
        return FV_ERR_OOM;
    }
    FV_TRY(vz_block_decode(a->ctx, &o, inner, payload, a->data.data));
    a->data.size = (size_t)inner->original;
    return FV_OK;
}

void vz_archive_forget_window(fv_vzip_archive *a)
{
    for (size_t k = 0; a->past.pages && k < a->block_count; k++) a->blocks[k].is_there = false;
    vz_past_close(&a->past);
}

fv_status vz_archive_window(fv_vzip_archive *a, size_t i)
{
    const size_t frame = a->blocks[i].frame;
    const vz_frame *f = &a->frames[frame];
    if (a->past.pages && a->past_frame == frame && a->past.end <= vz_archive_place(a, i))
        return FV_OK;
    vz_archive_forget_window(a);
    a->past_frame = frame;
    return vz_past_open(&a->past, a->ctx, f->h.window_log2);
}

fv_status vz_archive_move_window(fv_vzip_archive *a, uint64_t at)
{
    const uint64_t window = (uint64_t)1 << a->past.log2;
    /* More than a window of nothing need not be written down. */
    if (at - a->past.end > window) a->past.end = at - window;
    return vz_past_skip(&a->past, at - a->past.end);
}

/* Block i, whose references lead to what is there, to the end of the window. */
static fv_status decode_into_window(fv_vzip_archive *a, size_t i)
{
    vz_place *b = &a->blocks[i];
    const uint64_t at = vz_archive_place(a, i);
    vz_block_header h, inner;
    const uint8_t *payload;
    FV_TRY(vz_archive_load(a, i, &h, &inner, &payload));
    FV_TRY(vz_archive_plain(a, i, &h, &inner, payload));
    FV_TRY(vz_archive_move_window(a, at));
    if (h.type == VZ_REFERRING) {
        FV_TRY(vz_refs_apply(a->ctx, &h, a->coded.data + h.bytes, a->data.data, a->data.size,
                             &a->past));
        if (vz_past_hash(&a->past, at, h.original) != h.hash)
            return fv_fail(a->ctx, FV_ERR_CHECKSUM, "corrupt: the checksum of the data differs");
    } else {
        FV_TRY(vz_past_put(&a->past, a->data.data, a->data.size));
    }
    b->is_there = true;
    return FV_OK;
}

/* Marks the blocks before k that its references lead to. */
static fv_status mark_needed(fv_vzip_archive *a, size_t k)
{
    const vz_frame *f = &a->frames[a->blocks[k].frame];
    vz_block_header h, inner;
    const uint8_t *payload;
    vz_refs r;
    vz_ref ref;
    FV_TRY(vz_archive_load(a, k, &h, &inner, &payload));
    if (h.type != VZ_REFERRING) return FV_OK;
    FV_TRY(vz_refs_open(&r, a->ctx, a->coded.data + h.bytes, h.coded, h.original));
    uint64_t at = a->blocks[k].original_at;
    while (r.left > 0) {
        FV_TRY(vz_refs_next(&r, &ref));
        at += ref.plain;
        if (ref.distance > at - f->original_at || ref.distance > window_of(f))
            return fv_fail(a->ctx, FV_ERR_FORMAT, "corrupt: a reference to what is not there");
        const uint64_t from = at - ref.distance;
        const uint64_t to = from + ref.length;
        for (size_t j = block_of(a, from); j < k && a->blocks[j].original_at < to; j++)
            a->blocks[j].is_needed = true;
        at += ref.length;
    }
    return FV_OK;
}

/* Marks block i and what it needs, as far as the window does not hold it. *is_possible false: some
 * of it lies before the end of the window, but is not in it. */
static fv_status mark_all(fv_vzip_archive *a, size_t i, bool *is_possible)
{
    const size_t first = (size_t)a->frames[a->blocks[i].frame].first;
    for (size_t k = first; k < i; k++) a->blocks[k].is_needed = false;
    a->blocks[i].is_needed = true;
    *is_possible = true;
    for (size_t k = i + 1; k-- > first && *is_possible;) {
        vz_place *b = &a->blocks[k];
        /* All that needs it lies behind the window's end, and so no more than a window away. */
        if (b->is_there) b->is_needed = false;
        if (!b->is_needed) continue;
        *is_possible = vz_archive_place(a, k) >= a->past.end;
        if (*is_possible) FV_TRY(mark_needed(a, k));
    }
    return FV_OK;
}

/* A block with references: what it needs and itself into the window. */
static fv_status decode_solid(fv_vzip_archive *a, size_t i)
{
    bool is_possible;
    FV_TRY(vz_archive_window(a, i));
    FV_TRY(mark_all(a, i, &is_possible));
    if (!is_possible) {
        vz_archive_forget_window(a);
        FV_TRY(vz_archive_window(a, i));
        FV_TRY(mark_all(a, i, &is_possible));
    }
    for (size_t k = (size_t)a->frames[a->blocks[i].frame].first; k <= i; k++)
        if (a->blocks[k].is_needed) FV_TRY(decode_into_window(a, k));
    a->data.size = 0;
    const fv_status s = vz_past_take(&a->past, vz_archive_place(a, i), a->blocks[i].original,
                                     &a->data);
    a->data.status = FV_OK; /* a later call may have more memory */
    return s;
}

/* Block i into a->data. */
static fv_status decode(fv_vzip_archive *a, size_t i)
{
    vz_block_header h, inner;
    const uint8_t *payload;
    a->cached = SIZE_MAX;
    FV_TRY(vz_archive_load(a, i, &h, &inner, &payload));
    const fv_status s = h.type == VZ_REFERRING ? decode_solid(a, i)
                                               : vz_archive_plain(a, i, &h, &inner, payload);
    if (s == FV_OK) a->cached = i;
    if (s != FV_OK) vz_archive_forget_window(a);
    return s;
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
        const vz_place *b = &a->blocks[i];
        if (a->cached != i) {
            const fv_status s = decode(a, i);
            if (s != FV_OK) return vz_archive_at(a, s, b->at);
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
