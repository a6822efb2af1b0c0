/* vz_media.c - sound and pictures that are larger than a block.
 *
 *     input    | header | samples ............................................ | more |
 *     blocks   ...............|.........................|..........................|
 *     hints        audio      |      part               |        part       |
 *
 * A header says what follows it for longer than a block, or than the pieces that references leave
 * of one. So headers are looked for in the input, where the members of an archive begin at
 * multiples of 512, and each block gets a list of what it holds: whole files, sound with its header
 * that goes on, or samples from the middle, whose format stands in the segment's parameter. Parts
 * begin and end with whole frames or rows, so each block is decoded without the others.
 *
 * Hints may be wrong, since headers lie and a magic number may be an accident: coders look at what
 * they get, and a code that is larger than the plain model's is not used. Small files are left to
 * the detectors (vz_split.c). PNG files and others that have no parts (vz_whole.c) are remembered
 * here as well. */
#include "vz_media.h"

#define MEDIA_LEAST ((uint64_t)65536)
#define PART_LEAST ((uint64_t)4096) /* a shorter part has learnt nothing when it ends */
#define STEP 512

void vz_tracker_open(vz_tracker *t, fv_ctx *ctx)
{
    *t = (vz_tracker){.ctx = ctx};
}

void vz_tracker_close(vz_tracker *t)
{
    if (t->ctx) fv_free(t->ctx, t->list);
    *t = (vz_tracker){0};
}

bool vz_tracker_may_begin(const vz_tracker *t, uint8_t first)
{
    return first == 'R' || first == 'F' || first == 'B' || first == 'P' || t->next == 0;
}

/* The next place: where the last file ends, or a multiple of 512. */
void vz_tracker_skip(vz_tracker *t)
{
    const uint64_t at = t->next;
    t->next = (at / STEP + 1) * STEP;
    if (t->count && t->list[t->count - 1].end > at && t->list[t->count - 1].end < t->next)
        t->next = t->list[t->count - 1].end;
}

static bool has_parts(const vz_media *m)
{
    return m->kind == VZ_AUDIO || m->kind == VZ_IMAGE;
}

static fv_status add(vz_tracker *t, const vz_media *m)
{
    /* A header inside of another file: that one's length was a lie, as of sound from a pipe. */
    if (t->count && t->list[t->count - 1].end > m->start) t->list[t->count - 1].end = m->start;
    if (t->count == t->capacity) {
        const size_t more = t->capacity ? 2 * t->capacity : 8;
        vz_media *list = fv_realloc(t->ctx, t->list, t->capacity * sizeof *list,
                                    more * sizeof *list);
        if (!list) return FV_ERR_OOM;
        t->list = list;
        t->capacity = more;
    }
    t->list[t->count++] = *m;
    return FV_OK;
}

fv_status vz_tracker_look(vz_tracker *t, const uint8_t *p, size_t n)
{
    const uint64_t at = t->next;
    vz_media m = {VZ_BINARY, 0, 1, 0, 0, 0};
    const bool is_known = vz_audio_describe(p, n, &m) || vz_image_describe(p, n, at == 0, &m);
    vz_tracker_skip(t);
    if (!is_known || m.end < MEDIA_LEAST) return FV_OK;
    m.start = at;
    m.data += at;
    m.end += at;
    return add(t, &m);
}

fv_status vz_tracker_put(vz_tracker *t, const vz_media *m)
{
    if (t->next < m->end) t->next = m->end;
    return add(t, m);
}

const vz_media *vz_tracker_whole(const vz_tracker *t, uint64_t at)
{
    for (size_t i = 0; i < t->count; i++)
        if (t->list[i].start >= at && !has_parts(&t->list[i])) return &t->list[i];
    return NULL;
}

uint64_t vz_tracker_end(const vz_tracker *t, uint64_t at)
{
    for (size_t i = t->count; i-- > 0;)
        if (t->list[i].start <= at)
            return at >= t->list[i].data && at < t->list[i].end ? t->list[i].end : at;
    return at;
}

void vz_tracker_forget(vz_tracker *t, uint64_t before)
{
    size_t n = 0;
    while (n < t->count && t->list[n].end <= before) n++;
    if (n == 0) return;
    for (size_t i = n; i < t->count; i++) t->list[i - n] = t->list[i];
    t->count -= n;
}

static void put_hint(vz_buf *hints, uint64_t at, const vz_segment *g)
{
    const vz_hint h = {at, *g};
    if (g->size >= PART_LEAST) vz_buf_put(hints, &h, sizeof h);
}

fv_status vz_tracker_hints(const vz_tracker *t, uint64_t from, uint64_t to, uint64_t plain,
                           vz_buf *hints)
{
    for (size_t i = 0; i < t->count; i++) {
        const vz_media *m = &t->list[i];
        uint64_t lo = m->start > from ? m->start : from;
        const uint64_t hi = m->end < to ? m->end : to;
        if (lo >= hi) continue;
        vz_segment g = {m->kind, 0, hi - lo};
        if (!has_parts(m)) {
            g.param = m->param;
            if (m->kind == VZ_DEFLATE && hi - lo == m->end - m->start)
                put_hint(hints, plain + (lo - from), &g);
            continue;
        }
        const bool is_sound = m->kind == VZ_AUDIO, has_head = lo == m->start;
        if (!has_head || !(hi == m->end || is_sound)) {
            if (lo < m->data) lo = m->data;
            lo += (m->unit - (lo - m->data) % m->unit) % m->unit;
            if (lo >= hi) continue;
            g.param = m->param;
            g.size = hi - lo;
            if (!is_sound) g.size -= g.size % m->unit;
        }
        put_hint(hints, plain + (lo - from), &g);
    }
    return hints->status;
}
