/* vz_dedup.c - data that repeats over long distances: references instead of coding it again.
 *
 * The encoder keeps the last bytes of the input (vz_past.c) and looks for repeats before blocks are
 * coded. A gear hash [Xia et al. 2014, Ddelta] h = 2 h + gear[byte] mod 2^64 depends on the last 64
 * bytes; positions where its top ANCHOR_BITS are zero are anchors, the same ones in every copy of
 * the data whatever its place. A table keeps the last position of each anchor; a hit is compared
 * byte by byte, extended to both sides, and becomes a reference when it is long enough. Short ones
 * cost more than the model takes for them, which has seen the same data if it lies in one block.
 *
 *     payload:  n | n times (plain bytes before it, its length, change of distance) | CRC32C | block
 *
 * The plain bytes, all that is not referred to, are a block of their own with a hash of their own,
 * of at most the block size: many versions of a folder fill one block with what changed in them.
 * Blocks are decoded in parallel all the same, only putting them together needs an order.
 *
 * Silence and flat areas repeat, too, but are next to nothing for the coders of sound and pictures,
 * which lose their place where bytes are missing. Inside of such files (vz_media.c) only repeats of
 * MIN_MEDIA count.
 *
 * Anchors every 64 bytes and 96 bytes at least: on two copies of a tree of headers with edits 32
 * and 128 were within 0.2 %. */
#include "vz_whole.h"

#include <string.h>
#define XXH_STATIC_LINKING_ONLY /* the state as a struct member */
#include <xxhash.h>

#define ANCHOR_BITS 6
#define VERIFIED 32 /* equal bytes before an anchor, else the hash was deceived */
#define MIN_FAR 96
#define MIN_NEAR 2048 /* in the block being made */
#define MIN_MEDIA ((uint64_t)1 << 20) /* that begin in sound or a picture */

typedef struct entry {
    uint32_t at, check; /* position modulo 2^32: a window is smaller */
} entry;

struct vz_dedup {
    vz_past past;
    XXH64_state_t hash, whole; /* of the block; of the frame */
    entry *table;
    int table_log2;
    uint64_t gear[256], rolling;
    uint64_t at;          /* bytes before it have been looked at */
    uint64_t block, plain; /* begin of the block, of the plain bytes not yet handed out */
    uint64_t match, match_length, distance; /* the repeat being extended; length 0: none */
    uint64_t last_distance, count;          /* of references of the block */
    vz_buf list;                            /* the references */
    vz_tracker media;
    vz_buf head, *hints; /* head: bytes that may be a header */
    vz_wholes *wholes;
    uint64_t judged; /* those that begin before it have their place */
    uint64_t room;   /* for plain bytes in the block */
    uint64_t kept;   /* until here the block has to go on; 0: it may end anywhere */
    bool is_alone;   /* the block is larger than the window, and so without references */
};

/* ---- Opening --------------------------------------------------------------------------------- */

uint64_t vz_dedup_memory(int window_log2)
{
    return ((uint64_t)1 << window_log2) + ((uint64_t)sizeof(entry) << (window_log2 - ANCHOR_BITS));
}

fv_status vz_dedup_open(fv_ctx *ctx, vz_dedup **out, int window_log2, vz_wholes *wholes)
{
    vz_dedup *d = fv_calloc(ctx, 1, sizeof *d);
    *out = NULL;
    if (!d) return FV_ERR_OOM;
    vz_buf_init(&d->list, ctx);
    vz_buf_init(&d->head, ctx);
    vz_tracker_open(&d->media, ctx);
    d->wholes = wholes;
    d->table_log2 = window_log2 - ANCHOR_BITS;
    uint64_t x = 0;
    for (int i = 0; i < 256; i++) { /* splitmix64 */
        uint64_t z = x += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        d->gear[i] = z ^ z >> 31;
    }
    (void)XXH64_reset(&d->whole, 0);
    const fv_status s = vz_past_open(&d->past, ctx, window_log2);
    if (s != FV_OK) {
        fv_free(ctx, d);
        return s;
    }
    *out = d;
    return FV_OK;
}

void vz_dedup_close(vz_dedup **dedup)
{
    vz_dedup *d = *dedup;
    if (!d) return;
    fv_ctx *ctx = d->past.ctx;
    *dedup = NULL;
    vz_buf_free(&d->list);
    vz_buf_free(&d->head);
    vz_tracker_close(&d->media);
    vz_past_close(&d->past);
    fv_free(ctx, d->table);
    fv_free(ctx, d);
}

/* ---- Looking --------------------------------------------------------------------------------- */

FV_INLINE uint8_t byte_at(const vz_dedup *d, uint64_t at)
{
    return d->past.pages[vz_past_page(&d->past, at)][at % VZ_PAGE];
}

static uint64_t least(const vz_dedup *d)
{
    return d->match - d->distance >= d->block ? MIN_NEAR : MIN_FAR;
}

/* Bytes at the end of the repeat that are worth a reference. */
static uint64_t worth(const vz_dedup *d)
{
    uint64_t length = d->match_length;
    if (length && length < MIN_MEDIA) {
        const uint64_t inside = vz_tracker_end(&d->media, d->match) - d->match;
        length = inside < length ? length - inside : 0;
    }
    return length < least(d) ? 0 : length;
}

/* Bytes up to `end` are plain. */
static fv_status take_plain(vz_dedup *d, uint64_t end, vz_buf *plain)
{
    FV_TRY(vz_tracker_hints(&d->media, d->plain, end, plain->size, d->hints));
    return vz_past_take(&d->past, d->plain, end - d->plain, plain);
}

/* The repeat has ended at d->at. */
static fv_status end_match(vz_dedup *d, vz_buf *plain)
{
    const uint64_t length = worth(d);
    d->match_length = 0;
    if (length == 0) return FV_OK;
    d->match = d->at - length;
    /* A place near the one of the reference before it: a small number with its sign at the bottom. */
    const int64_t change = (int64_t)(d->distance - d->last_distance);
    vz_buf_varint(&d->list, d->match - d->plain);
    vz_buf_varint(&d->list, length);
    vz_buf_varint(&d->list, (uint64_t)change << 1 ^ (change < 0 ? UINT64_MAX : 0));
    FV_TRY(d->list.status);
    FV_TRY(take_plain(d, d->match, plain));
    d->plain = d->at;
    d->last_distance = d->distance;
    d->count++;
    return FV_OK;
}

/* d->at lies behind an anchor: has its data been there before? */
static void look(vz_dedup *d)
{
    const uint64_t key = d->rolling * 0xff51afd7ed558ccdu;
    entry *e = &d->table[key >> (64 - d->table_log2)];
    const uint32_t check = (uint32_t)key | 1, here = (uint32_t)d->at;
    const uint64_t distance = here - e->at, window = (uint64_t)1 << d->past.log2;
    const bool is_known = e->check == check;
    e->at = here;
    e->check = check;
    /* As the repeat goes on, at most so much is read ahead of it. */
    if (!is_known || d->match_length || d->is_alone || distance == 0 ||
        distance > window - VZ_PAGE - VZ_MEDIA_LOOK)
        return;
    const uint64_t oldest = d->past.end > window ? d->past.end - window : 0;
    uint64_t n = 0;
    while (d->at - n > d->plain && d->at - n > oldest + distance &&
           byte_at(d, d->at - n - 1) == byte_at(d, d->at - n - 1 - distance))
        n++;
    if (n < VERIFIED) return;
    d->match = d->at - n;
    d->match_length = n;
    d->distance = distance;
}

/* Plain bytes that the block has at least. */
static uint64_t plain_so_far(const vz_dedup *d, const vz_buf *plain)
{
    return plain->size + (d->at - d->plain) - worth(d);
}

/* Up to n bytes at p, which lie at d->at; *taken of them before the block is full. */
static fv_status scan(vz_dedup *d, const uint8_t *p, size_t n, vz_buf *plain, size_t *taken)
{
    uint64_t h = d->rolling;
    size_t i = 0;
    while (i < n) {
        const uint64_t room = d->room - plain_so_far(d, plain);
        if (room == 0) break;
        /* In a repeat a byte costs nothing, but it may end, and then be plain. */
        const size_t stop = n - i < room ? n : i + (size_t)room;
        for (bool is_anchor = false; i < stop && !is_anchor;) {
            const uint8_t c = p[i];
            if (d->match_length) {
                if (byte_at(d, d->at - d->distance) == c) {
                    d->match_length++;
                } else {
                    FV_TRY(end_match(d, plain));
                }
            }
            h = (h << 1) + d->gear[c];
            is_anchor = h >> (64 - ANCHOR_BITS) == 0;
            i++;
            d->at++;
        }
        d->rolling = h;
        if (h >> (64 - ANCHOR_BITS) == 0) look(d);
    }
    *taken = i;
    return FV_OK;
}

/* ---- Blocks ---------------------------------------------------------------------------------- */

static fv_status fill(vz_dedup *d, vz_source *source, uint64_t want, uint64_t *got)
{
    *got = 0;
    if (d->wholes) FV_TRY(vz_wholes_look(d->wholes, d->past.end + want));
    while (*got < want) {
        size_t there, n;
        uint8_t *to = vz_past_room(&d->past, want - *got < VZ_PAGE ? (size_t)(want - *got) : VZ_PAGE,
                                   &there);
        if (!to) return FV_ERR_OOM;
        FV_TRY(vz_source_read(source, to, there, &n));
        d->past.end += n;
        *got += n;
        if (n < there) break;
    }
    return FV_OK;
}

/* Looks for headers in what has been read, but for the last bytes, which may hold half of one. */
static fv_status look_for_media(vz_dedup *d, bool is_end)
{
    vz_tracker *t = &d->media;
    for (;;) {
        const vz_media *m = d->wholes ? vz_wholes_get(d->wholes, 0) : NULL;
        if (m && m->start <= t->next && m->start < d->past.end) {
            FV_TRY(vz_tracker_put(t, m));
            vz_wholes_take(d->wholes);
            continue;
        }
        const uint64_t at = t->next, left = d->past.end - at;
        if (at >= d->past.end || (!is_end && left < VZ_MEDIA_LOOK)) return FV_OK;
        if (!vz_tracker_may_begin(t, byte_at(d, at))) {
            vz_tracker_skip(t);
            continue;
        }
        d->head.size = 0;
        FV_TRY(vz_past_take(&d->past, at, left < VZ_MEDIA_LOOK ? left : VZ_MEDIA_LOOK, &d->head));
        FV_TRY(vz_tracker_look(t, d->head.data, d->head.size));
    }
}

/* Reads, and finds headers. Then d->at can go up to *limit; where the window is full, it stays: the
 * block's bytes are to be kept. */
static fv_status track(vz_dedup *d, vz_source *source, uint64_t *limit)
{
    for (;;) {
        vz_in next;
        uint64_t got;
        FV_TRY(vz_source_peek(source, 1, &next));
        const bool is_end = next.p == next.end;
        FV_TRY(look_for_media(d, is_end));
        *limit = d->media.next < d->past.end ? d->media.next : d->past.end;
        const uint64_t more = VZ_PAGE - d->past.end % VZ_PAGE;
        const uint64_t needed = d->is_alone ? d->plain : d->block;
        if (*limit > d->at || is_end) return FV_OK;
        if (d->past.end + more - needed > (uint64_t)1 << d->past.log2) return FV_OK;
        FV_TRY(fill(d, source, more, &got));
    }
}

fv_status vz_dedup_start(vz_dedup *d, vz_source *source, uint64_t block_size, vz_buf *plain,
                         bool *is_all)
{
    uint64_t got;
    vz_in next;
    *is_all = false;
    FV_TRY(fill(d, source, block_size, &got));
    FV_TRY(vz_source_peek(source, 1, &next));
    if (next.p != next.end) {
        d->table = fv_calloc(d->past.ctx, (size_t)1 << d->table_log2, sizeof *d->table);
        return d->table ? FV_OK : FV_ERR_OOM;
    }
    *is_all = true;
    d->at = d->past.end;
    return vz_past_take(&d->past, 0, got, plain);
}

/* A decoder keeps the block in its window, and refuses what expands a million times: a reference
 * of megabytes takes at least 7 bytes with the number of them, others 3. */
static uint64_t most(const vz_dedup *d, const vz_buf *plain)
{
    const uint64_t window = (uint64_t)1 << d->past.log2;
    const uint64_t fair = plain_so_far(d, plain) + 900000 * (3 * d->count + 7);
    if (d->is_alone) return d->kept - d->block;
    return window < fair ? window : fair;
}

/* A file that is not to be cut begins at d->at: room for it, or *is_full. */
static fv_status make_room(vz_dedup *d, const vz_media *m, uint64_t block_size, vz_buf *plain,
                           bool *is_full)
{
    const uint64_t has = plain_so_far(d, plain), size = m->end - m->start, done = d->at - d->block;
    const vz_cut cut = d->kept ? VZ_CUT_FITS : vz_wholes_cut(has, size, block_size);
    const uint64_t window = (uint64_t)1 << d->past.log2;
    const bool has_window = done + size + VZ_MEDIA_LOOK + 2 * VZ_PAGE <= window;
    const bool has_refs = d->count > 0 || d->match_length > 0;
    *is_full = cut == VZ_CUT_BEFORE || (cut == VZ_CUT_GROW && !has_window && has_refs);
    if (*is_full) return FV_OK;
    d->judged = d->at + 1;
    if (cut == VZ_CUT_FITS) return FV_OK;
    d->room = has + size;
    d->kept = m->end;
    d->is_alone = !has_window;
    if (d->is_alone) {
        FV_TRY(take_plain(d, d->at, plain));
        d->plain = d->at;
        FV_TRY(vz_tracker_hints(&d->media, m->start, m->end, plain->size, d->hints));
    }
    return vz_buf_room(plain, (size_t)(d->room - plain->size)) ? FV_OK : plain->status;
}

/* How far the block may go now; *limit: how far what is in it is known. */
static fv_status find_stop(vz_dedup *d, vz_source *source, uint64_t block_size, vz_buf *plain,
                           uint64_t *limit, uint64_t *stop)
{
    bool is_full = false;
    *stop = d->at;
    if (d->at == d->kept && d->kept) {
        const uint64_t has = plain_so_far(d, plain);
        d->kept = 0;
        d->room = has > block_size ? has : block_size;
        if (d->is_alone) return FV_OK;
    }
    const uint64_t end = d->block + most(d, plain);
    if (end <= d->at) return FV_OK;
    if (d->at == *limit) FV_TRY(track(d, source, limit));
    const vz_media *m = vz_tracker_whole(&d->media, d->judged > d->at ? d->judged : d->at);
    if (m && m->start == d->at && *limit > d->at) {
        FV_TRY(make_room(d, m, block_size, plain, &is_full));
        if (is_full) return FV_OK;
        m = vz_tracker_whole(&d->media, d->judged);
    }
    *stop = *limit < end || d->is_alone ? *limit : end;
    if (m && m->start < *stop) *stop = m->start;
    if (d->kept && d->kept < *stop) *stop = d->kept;
    return FV_OK;
}

fv_status vz_dedup_block(vz_dedup *d, vz_source *source, uint64_t block_size, vz_dedup_out *out)
{
    vz_buf *plain = out->plain, *refs = out->refs;
    uint64_t limit = d->at, stop;
    d->block = d->plain = d->at;
    d->match_length = d->last_distance = d->count = d->kept = 0;
    d->room = block_size;
    d->is_alone = false;
    d->list.size = 0;
    d->hints = out->hints;
    plain->size = refs->size = d->hints->size = 0;
    vz_tracker_forget(&d->media, d->at);
    (void)XXH64_reset(&d->hash, 0);
    for (;;) {
        size_t there, taken;
        FV_TRY(find_stop(d, source, block_size, plain, &limit, &stop));
        if (stop == d->at) break;
        const uint8_t *p = vz_past_piece(&d->past, d->at, stop - d->at, &there);
        FV_TRY(scan(d, p, there, plain, &taken));
        (void)XXH64_update(&d->hash, p, taken);
        (void)XXH64_update(&d->whole, p, taken);
        if (d->is_alone) {
            /* The window does not keep it until the end. Its hint is there. */
            FV_TRY(vz_past_take(&d->past, d->plain, d->at - d->plain, plain));
            d->plain = d->at;
        }
        if (taken < there) break;
    }
    if (d->match_length) FV_TRY(end_match(d, plain));
    FV_TRY(take_plain(d, d->at, plain));
    out->original = d->at - d->block;
    out->hash = XXH64_digest(&d->hash);
    if (d->count) {
        vz_buf_varint(refs, d->count);
        vz_buf_put(refs, d->list.data, d->list.size);
        if (refs->status == FV_OK) vz_buf_le(refs, fv_crc32c(0, refs->data, refs->size), 4);
    }
    return refs->status;
}

bool vz_dedup_is_empty(const vz_dedup *d)
{
    return d->at == d->past.end;
}

uint64_t vz_dedup_hash(const vz_dedup *d)
{
    return XXH64_digest(&d->whole);
}

/* ---- Reading references ---------------------------------------------------------------------- */

fv_status vz_refs_open(vz_refs *r, fv_ctx *ctx, const uint8_t *payload, uint64_t size,
                       uint64_t original)
{
    memset(r, 0, sizeof *r);
    r->in = (vz_in){ctx, payload, payload + size};
    r->room = original;
    FV_TRY(vz_in_varint(&r->in, &r->left));
    /* Each takes three bytes, so a lying number meets the end of the payload. */
    if (r->left == 0 || r->left > size / 3)
        return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: impossible number of references");
    return FV_OK;
}

fv_status vz_refs_next(vz_refs *r, vz_ref *ref)
{
    uint64_t change;
    FV_TRY(vz_in_varint(&r->in, &ref->plain));
    FV_TRY(vz_in_varint(&r->in, &ref->length));
    FV_TRY(vz_in_varint(&r->in, &change));
    r->distance += change >> 1 ^ (change & 1 ? UINT64_MAX : 0);
    ref->distance = r->distance;
    if (ref->plain > r->room || ref->length == 0 || ref->length > r->room - ref->plain ||
        ref->distance == 0)
        return fv_fail(r->in.ctx, FV_ERR_FORMAT, "corrupt: an impossible reference");
    r->room -= ref->plain + ref->length;
    r->referred += ref->length;
    r->left--;
    return FV_OK;
}

fv_status vz_refs_inner(fv_ctx *ctx, const fv_vzip_limits *limits, const vz_block_header *h,
                        const uint8_t *payload, vz_block_header *inner, const uint8_t **code)
{
    vz_refs r;
    vz_ref ref;
    uint64_t crc;
    memset(inner, 0, sizeof *inner);
    *code = payload;
    FV_TRY(vz_refs_open(&r, ctx, payload, h->coded, h->original));
    while (r.left > 0) FV_TRY(vz_refs_next(&r, &ref));
    const uint32_t expected = fv_crc32c(0, payload, (size_t)(r.in.p - payload));
    FV_TRY(vz_in_le(&r.in, 4, &crc));
    if (crc != expected)
        return fv_fail(ctx, FV_ERR_CHECKSUM, "corrupt: the checksum of references differs");
    const uint64_t plain = h->original - r.referred;
    if (plain > 0) {
        FV_TRY(vz_block_header_get(&r.in, limits, inner));
        if (inner->type > VZ_MODELLED)
            return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: references inside of references");
    }
    *code = r.in.p;
    if (inner->original != plain || inner->coded != (uint64_t)(r.in.end - r.in.p))
        return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: plain bytes of another size than references "
                       "leave");
    return FV_OK;
}

fv_status vz_refs_apply(fv_ctx *ctx, const vz_block_header *h, const uint8_t *payload,
                        const uint8_t *plain, uint64_t plain_size, vz_past *past)
{
    const uint64_t window = (uint64_t)1 << past->log2;
    vz_refs r;
    vz_ref ref;
    FV_TRY(vz_refs_open(&r, ctx, payload, h->coded, h->original));
    while (r.left > 0) {
        FV_TRY(vz_refs_next(&r, &ref));
        if (ref.plain > plain_size || ref.distance > window ||
            ref.distance > past->end + ref.plain)
            return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: a reference to what is not there");
        FV_TRY(vz_past_put(past, plain, ref.plain));
        plain += ref.plain;
        plain_size -= ref.plain;
        FV_TRY(vz_past_repeat(past, ref.distance, ref.length));
    }
    return vz_past_put(past, plain, plain_size);
}

uint64_t vz_past_hash(const vz_past *past, uint64_t at, uint64_t n)
{
    XXH64_state_t x;
    (void)XXH64_reset(&x, 0);
    while (n > 0) {
        size_t there;
        const uint8_t *p = vz_past_piece(past, at, n, &there);
        (void)XXH64_update(&x, p, there);
        at += there;
        n -= there;
    }
    return XXH64_digest(&x);
}
