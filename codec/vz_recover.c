/* vz_recover.c - what can still be read of damaged archives.
 *
 * Where a walk over block headers meets nonsense, the archive is searched from there, byte by byte,
 * for the next frame header (magic and checksum) or block header. Any bytes look like a block header
 * once in a hundred places, so one counts if two more follow it or the end of the frame, or if it
 * says the size of a block that was met before; and then only if its data has the right hash. In a
 * solid frame a plain block that was found so may be the inside of a referring one, whose bytes
 * belong anywhere in it: it is given up, and the walk goes on behind it.
 *
 * In a solid frame damage spreads to what was copied from it, and no further: references lead from
 * damaged ranges to damaged ranges; they have a checksum, and the plain bytes of a block another.
 *
 * How many bytes are missing in a gap is known when the frame's size is and nothing else in it is in
 * doubt; else references over the gap lead anywhere, and what lies before it counts as lost for
 * them. The same holds for a block that cannot be read and of whose size only its header speaks. */
#include "vz_archive.h"

#include <string.h>

#define SEARCH_BYTES 16384
#define CHAIN 3
#define RANGES_MAX 4096 /* beyond, a whole block is given up: bounds the time for hostile archives */

/* ---- Finding the next header ----------------------------------------------------------------- */

static bool is_known_size(const fv_vzip_archive *a, uint64_t original)
{
    const vz_frame *f = &a->frames[a->frame_count - 1];
    return f->count > 0 && original >= 1024 && a->blocks[f->first].original == original;
}

/* Is `at` where a frame may end: an index or a hash of the whole behind the end mark? */
static bool is_end(const fv_vzip_archive *a, uint64_t at)
{
    const vz_frame *f = &a->frames[a->frame_count - 1];
    const uint64_t left = a->source.size - at - 1;
    uint8_t buf[VZ_MAGIC_BYTES];
    vz_in in;
    if (left == 8 && !(f->h.flags & VZ_HAS_INDEX)) return true;
    if (vz_archive_look(a, at + 1 + (f->h.flags & VZ_HAS_INDEX ? 0 : 8), buf, sizeof buf, &in) != FV_OK)
        return false;
    return in.end - in.p == sizeof buf && memcmp(buf, vz_magic, sizeof buf) == 0;
}

/* Does something like a list of blocks begin at `at`? *h is the first. */
static bool is_chain(const fv_vzip_archive *a, uint64_t at, vz_block_header *h)
{
    const vz_frame *f = &a->frames[a->frame_count - 1];
    uint8_t buf[VZ_BLOCK_HEADER_MAX];
    vz_block_header b;
    vz_in in;
    for (int i = 0; i < CHAIN; i++) {
        if (i > 0 && at == a->source.size) return true; /* the archive was cut here */
        if (vz_archive_look(a, at, buf, sizeof buf, &in) != FV_OK ||
            vz_block_header_get(&in, &a->limits, &b) != FV_OK)
            return i > 0 && is_known_size(a, h->original);
        if (b.type == VZ_END) return i > 0 && is_end(a, at);
        if (vz_block_suits(a->ctx, &f->h, &b) != FV_OK || b.coded > a->source.size - at - b.bytes)
            return i > 0 && is_known_size(a, h->original);
        if (i == 0) *h = b;
        at += b.bytes + b.coded;
    }
    return true;
}

/* Has block i, the last, the data that its header says? */
static fv_status verify(fv_vzip_archive *a, size_t i, bool *is_good)
{
    vz_block_header h, inner;
    const uint8_t *payload;
    fv_status s = vz_archive_load(a, i, &h, &inner, &payload);
    if (s == FV_OK) s = vz_archive_plain(a, i, &h, &inner, payload);
    *is_good = s == FV_OK;
    /* What only looks like a header asks for any amount of memory. */
    return vz_is_fatal(s) && s != FV_ERR_OOM ? s : FV_OK;
}

static bool is_frame_at(const fv_vzip_archive *a, uint64_t at)
{
    uint8_t buf[VZ_HEADER_MAX];
    vz_in in;
    vz_header h;
    return vz_archive_look(a, at, buf, sizeof buf, &in) == FV_OK && vz_header_get(&in, &h) == FV_OK;
}

/* *next: where the walk goes on if there is a block at `at` (*is_good). */
static fv_status is_block_at(fv_vzip_archive *a, uint64_t at, uint64_t *next, bool *is_good)
{
    const bool is_solid = a->frames[a->frame_count - 1].h.flags & VZ_IS_SOLID;
    vz_block_header h = {0};
    *is_good = false;
    if (!is_chain(a, at, &h)) return FV_OK;
    FV_TRY(vz_archive_add(a, at, h.bytes + h.coded, h.original));
    const fv_status s = verify(a, a->block_count - 1, is_good);
    vz_archive_drop_last(a);
    *next = is_solid && h.type != VZ_REFERRING ? at + h.bytes + h.coded : at;
    return s;
}

fv_status vz_archive_resync(fv_vzip_archive *a, uint64_t at, uint64_t *next, bool *is_frame)
{
    uint8_t buf[SEARCH_BYTES];
    bool is_good, is_only_frame = *is_frame;
    vz_in in;
    if (!is_only_frame && a->frames[a->frame_count - 1].count > 0) {
        FV_TRY(verify(a, a->block_count - 1, &is_good));
        if (!is_good) {
            at = a->blocks[a->block_count - 1].at; /* its sizes may have led anywhere */
            vz_archive_drop_last(a);
        }
    }
    if (!is_only_frame && (a->frames[a->frame_count - 1].h.flags & VZ_IS_SINGLE)) is_only_frame = true;
    *is_frame = false;
    while (++at < a->source.size) {
        FV_TRY(fv_report(a->ctx, "searching", at, a->source.size, NULL));
        FV_TRY(vz_archive_look(a, at, buf, sizeof buf, &in));
        const size_t n = (size_t)(in.end - in.p);
        for (size_t i = 0; i < n; i++, at++) {
            *next = at;
            if (buf[i] == vz_magic[0] && is_frame_at(a, at)) {
                *is_frame = true;
                return FV_OK;
            }
            if (is_only_frame || buf[i] > VZ_REFERRING) continue;
            FV_TRY(is_block_at(a, at, next, &is_good));
            if (is_good) return FV_OK;
        }
        at--;
    }
    *next = a->source.size;
    return FV_OK;
}

/* ---- Output ---------------------------------------------------------------------------------- */

/* Positions in the frame whose bytes are zeros for want of better ones, in order. */
typedef struct range {
    uint64_t begin, end;
} range;

typedef struct recovery {
    fv_vzip_archive *a;
    const fv_vzip_io *io;
    void (*on_damage)(void *user, const fv_vzip_damage *d);
    uint64_t max_output, written, lost;
    size_t frame; /* being written */
    uint64_t at;  /* position in it */
    size_t doubts; /* blocks of it whose size was not known */
    vz_buf damage; /* ranges of it, in order */
    size_t joined; /* ranges before this number are not made longer */
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

static range *ranges(const recovery *r)
{
    return (range *)(void *)r->damage.data;
}

/* Notes that [begin, end) of the frame is lost. */
static fv_status spoil(recovery *r, uint64_t begin, uint64_t end)
{
    const size_t count = r->damage.size / sizeof(range);
    if (begin == end) return FV_OK;
    if (count > r->joined && ranges(r)[count - 1].end == begin) {
        ranges(r)[count - 1].end = end;
        return FV_OK;
    }
    const range next = {begin, end};
    vz_buf_put(&r->damage, &next, sizeof next);
    return r->damage.status;
}

/* [r->at, r->at + n) is lost, and if n is but a guess all before, for what refers to it. */
static fv_status spoil_next(recovery *r, uint64_t n, bool is_known)
{
    if (!is_known) r->damage.size = r->joined = 0; /* one range is all before */
    FV_TRY(spoil(r, is_known ? r->at : 0, r->at + n));
    r->at += n;
    return FV_OK;
}

/* Is block i, if it cannot be read, perhaps of another size than its header says? */
static fv_status is_in_doubt(fv_vzip_archive *a, size_t i, bool *is)
{
    const vz_frame *f = &a->frames[a->blocks[i].frame];
    const uint64_t original = a->blocks[i].original;
    vz_block_header h, inner;
    const uint8_t *payload;
    *is = false;
    if (f->is_indexed || ((f->h.flags & VZ_HAS_SIZE) && f->h.size == f->original)) return FV_OK;
    if (i != f->first && original >= 1024 && original == a->blocks[f->first].original) return FV_OK;
    fv_status s = vz_archive_load(a, i, &h, &inner, &payload);
    /* Two numbers say the same: two lengths, or the length and what the references add up to. */
    if (s == FV_OK && (h.type == VZ_STORE || h.type == VZ_REFERRING)) return FV_OK;
    if (s == FV_OK) s = vz_archive_plain(a, i, &h, &inner, payload);
    *is = s != FV_OK;
    return vz_is_fatal(s) && s != FV_ERR_OOM ? s : FV_OK;
}

/* Bytes of the frame that are missing between its blocks before and from `next`, if `known` of its
 * bytes lie in these, and nothing else in it is in doubt; 0: that is not so. */
static fv_status missing(recovery *r, size_t frame, uint64_t known, size_t next, int gaps,
                         uint64_t *n)
{
    fv_vzip_archive *a = r->a;
    const vz_frame *f = &a->frames[frame];
    bool is_doubt;
    *n = 0;
    if (!(f->h.flags & VZ_HAS_SIZE) || f->h.size <= known) return FV_OK;
    /* An announced size may lie; what is not there is not worth more than the archive was. */
    if ((f->h.size - known) / a->limits.max_expansion > a->source.size) return FV_OK;
    for (size_t i = 0; i < a->gap_count; i++) gaps -= a->gaps[i].frames == frame + 1;
    if (gaps != 0) return FV_OK;
    for (; next < f->first + f->count; next++) {
        FV_TRY(is_in_doubt(a, next, &is_doubt));
        if (is_doubt) return FV_OK;
    }
    *n = f->h.size - known;
    return FV_OK;
}

/* The bytes between the blocks that the gap separates. */
static fv_status lose_gap(recovery *r, const vz_gap *g)
{
    uint64_t n = 0;
    if (g->frames > 0) {
        const size_t frame = g->frames - 1;
        const bool is_here = frame == r->frame;
        if (!is_here || r->doubts == 0)
            FV_TRY(missing(r, frame, r->a->frames[frame].original, g->block, 1, &n));
        if (is_here) FV_TRY(spoil_next(r, n, n > 0));
    }
    return lose(r, n, g->why);
}

/* Block i, which the context's error is about. */
static fv_status lose_block(recovery *r, size_t i)
{
    fv_vzip_archive *a = r->a;
    uint64_t n = a->blocks[i].original, size = 0;
    char why[sizeof a->gaps->why];
    bool is_doubt;
    snprintf(why, sizeof why, "%s", fv_ctx_error(a->ctx));
    FV_TRY(is_in_doubt(a, i, &is_doubt));
    if (is_doubt && ++r->doubts == 1)
        FV_TRY(missing(r, r->frame, a->frames[r->frame].original - n, i + 1, 0, &size));
    if (size > 0) n = size;
    FV_TRY(spoil_next(r, n, !is_doubt || size > 0));
    return lose(r, n, why);
}

/* Adds what [from, from + n) hands on to `to`. */
static fv_status inherit(recovery *r, uint64_t from, uint64_t to, uint64_t n)
{
    const size_t count = r->damage.size / sizeof(range);
    size_t lo = 0, hi = count;
    while (lo < hi) { /* the first that ends behind `from` */
        const size_t mid = lo + (hi - lo) / 2;
        if (ranges(r)[mid].end <= from) lo = mid + 1;
        else hi = mid;
    }
    for (size_t i = lo; i < count && ranges(r)[i].begin < from + n; i++) {
        const range d = ranges(r)[i];
        /* A repeat of itself: all of it. */
        if (from + n > to) return spoil(r, to, to + n);
        const uint64_t begin = d.begin > from ? d.begin : from;
        const uint64_t end = d.end < from + n ? d.end : from + n;
        FV_TRY(spoil(r, begin - from + to, end - from + to));
    }
    return FV_OK;
}

/* What references inherit; false if it is better to give the whole block up. */
static fv_status inherit_all(recovery *r, const vz_block_header *h, bool has_plain, bool *is_worth)
{
    vz_refs refs;
    vz_ref ref;
    uint64_t at = r->at;
    *is_worth = true;
    FV_TRY(vz_refs_open(&refs, r->a->ctx, r->a->coded.data + h->bytes, h->coded, h->original));
    while (refs.left > 0) {
        FV_TRY(vz_refs_next(&refs, &ref));
        if (!has_plain) FV_TRY(spoil(r, at, at + ref.plain));
        at += ref.plain;
        FV_TRY(inherit(r, at - ref.distance, at, ref.length));
        at += ref.length;
        *is_worth = r->damage.size / sizeof(range) < RANGES_MAX;
        if (!*is_worth) return FV_OK;
    }
    return has_plain ? FV_OK : spoil(r, at, r->at + h->original);
}

/* The block whose plain bytes are in the archive's data, at the end of the window. */
static fv_status put_together(recovery *r, const vz_block_header *h, bool has_plain)
{
    fv_vzip_archive *a = r->a;
    static const char lost[] = "damaged, or copied from bytes that are lost";
    const size_t first = r->damage.size / sizeof(range);
    const uint64_t end = r->at + h->original;
    bool is_worth;
    r->joined = first;
    FV_TRY(vz_archive_move_window(a, r->at));
    FV_TRY(vz_refs_apply(a->ctx, h, a->coded.data + h->bytes, a->data.data, a->data.size, &a->past));
    FV_TRY(inherit_all(r, h, has_plain, &is_worth));
    const size_t count = r->damage.size / sizeof(range);
    if (first == count && vz_past_hash(&a->past, r->at, h->original) != h->hash)
        return fv_fail(a->ctx, FV_ERR_CHECKSUM, "corrupt: the checksum of the data differs");
    if (!is_worth) {
        r->damage.size = first * sizeof(range);
        r->joined = 0;
        return fv_fail(a->ctx, FV_ERR_CHECKSUM, "%s", lost);
    }
    for (size_t i = first; r->at < end;) {
        const range *d = ranges(r) + i;
        const uint64_t bad = i < count ? d->begin : end;
        while (r->at < bad) {
            size_t there;
            const uint8_t *p = vz_past_piece(&a->past, r->at, bad - r->at, &there);
            FV_TRY(give(r, p, there));
            r->at += there;
        }
        if (i < count) {
            FV_TRY(lose(r, d->end - d->begin, lost));
            r->at = d->end;
            i++;
        }
    }
    return FV_OK;
}

/* Block i, of whatever kind; a status other than FV_OK: nothing of it has been written. */
static fv_status recover_block(recovery *r, size_t i)
{
    fv_vzip_archive *a = r->a;
    vz_block_header h, inner;
    const uint8_t *payload;
    const bool is_solid = a->frames[r->frame].h.flags & VZ_IS_SOLID;
    FV_TRY(vz_archive_load(a, i, &h, &inner, &payload));
    fv_status s = vz_archive_plain(a, i, &h, &inner, payload);
    if (s != FV_OK && (h.type != VZ_REFERRING || vz_is_fatal(s))) return s;
    if (h.type == VZ_REFERRING) {
        /* References are of use without the bytes between them. */
        const bool has_plain = s == FV_OK;
        if (!has_plain && a->data.capacity < inner.original) return s;
        if (!has_plain && inner.original) memset(a->data.data, 0, (size_t)inner.original);
        if (!has_plain) a->data.size = (size_t)inner.original;
        s = put_together(r, &h, has_plain);
        /* What a list that lies has left in the window. */
        if (s != FV_OK) a->past.end = r->at;
        return s;
    }
    if (is_solid) FV_TRY(vz_archive_move_window(a, r->at));
    if (is_solid) FV_TRY(vz_past_put(&a->past, a->data.data, a->data.size));
    r->at += a->data.size;
    return give(r, a->data.data, a->data.size);
}

static fv_status start_frame(recovery *r, size_t i)
{
    fv_vzip_archive *a = r->a;
    const size_t frame = a->blocks[i].frame;
    if (r->frame == frame) return FV_OK;
    r->frame = frame;
    r->at = 0;
    r->doubts = 0;
    r->damage.size = r->joined = 0;
    vz_archive_forget_window(a);
    if (!(a->frames[frame].h.flags & VZ_IS_SOLID)) return FV_OK;
    return vz_past_open(&a->past, a->ctx, a->frames[frame].h.window_log2);
}

static fv_status recover_blocks(recovery *r, fv_vzip_stats *stats)
{
    fv_vzip_archive *a = r->a;
    size_t gap = 0;
    r->frame = SIZE_MAX;
    for (size_t i = 0; i <= a->block_count; i++) {
        /* Before a new frame's window: the gap may belong to the old one. */
        for (; gap < a->gap_count && a->gaps[gap].block == i &&
               (i == a->block_count || a->gaps[gap].frames <= a->blocks[i].frame); gap++)
            FV_TRY(lose_gap(r, &a->gaps[gap]));
        if (i == a->block_count) break;
        FV_TRY(start_frame(r, i));
        for (; gap < a->gap_count && a->gaps[gap].block == i; gap++)
            FV_TRY(lose_gap(r, &a->gaps[gap]));
        const vz_place *b = &a->blocks[i];
        const uint64_t lost = r->lost;
        const fv_status s = vz_archive_at(a, recover_block(r, i), b->at);
        if (s == FV_ERR_LIMIT && r->written + b->original > r->max_output) return s;
        if (vz_is_fatal(s)) return s;
        if (s != FV_OK) FV_TRY(lose_block(r, i));
        stats->blocks += s == FV_OK && r->lost == lost;
    }
    return FV_OK;
}

fv_status fv_vzip_recover(fv_ctx *ctx, const fv_vzip_source *source, const fv_vzip_io *io,
                          uint64_t max_output, const fv_vzip_limits *limits,
                          void (*on_damage)(void *user, const fv_vzip_damage *d),
                          uint64_t *lost_bytes, fv_vzip_stats *stats)
{
    recovery r = {NULL, io, on_damage, max_output, 0, 0, 0, 0, 0, {0}, 0};
    fv_vzip_stats own;
    memset(&own, 0, sizeof own);
    if (lost_bytes) *lost_bytes = 0;
    if (stats) *stats = own;
    if (!io || !io->write || max_output == 0)
        return fv_fail(ctx, FV_ERR_ARG, "vzip: no write callback, or max_output is 0");
    vz_buf_init(&r.damage, ctx);
    FV_TRY(vz_archive_open(ctx, &r.a, source, limits, true));
    const fv_status s = recover_blocks(&r, &own);
    own.input_bytes = source->size;
    own.output_bytes = r.written;
    own.frames = r.a->frame_count;
    if (stats) *stats = own;
    if (lost_bytes) *lost_bytes = r.lost;
    vz_buf_free(&r.damage);
    fv_vzip_close(&r.a);
    return s;
}
