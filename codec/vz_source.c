/* vz_source.c - buffered input that counts its bytes.
 *
 * Headers are looked at before they are taken, since only their bytes say how long they are; long
 * payloads go past the buffer. A length from the archive never sizes an allocation: memory grows as
 * the bytes arrive, by half each time, so a lying length costs no more than the data behind it.
 *
 *     taken | buffer | ahead: pages, freed as they are read | the caller's function */
#include "internal.h"

#include <string.h>

#define FIRST_STEP ((size_t)65536)
#define AHEAD_LOG2 30

vz_source *vz_source_open(fv_ctx *ctx, const fv_vzip_io *io)
{
    vz_source *s = fv_alloc(ctx, sizeof *s);
    if (!s) return NULL;
    memset(s, 0, offsetof(vz_source, buffer));
    s->ctx = ctx;
    s->io = io;
    return s;
}

void vz_source_close(vz_source **source)
{
    vz_source *s = *source;
    *source = NULL;
    if (!s) return;
    fv_ctx *ctx = s->ctx;
    vz_past_close(&s->ahead);
    fv_free(ctx, s);
}

static uint64_t ahead_bytes(const vz_source *s)
{
    return s->ahead.end - s->ahead_at;
}

/* One call of the caller's function; 0 at the end. */
static fv_status call_read(vz_source *s, uint8_t *to, size_t size, size_t *got)
{
    *got = 0;
    if (s->has_read_all || size == 0) return FV_OK;
    if (fv_ctx_cancelled(s->ctx)) return fv_fail(s->ctx, FV_ERR_CANCELLED, "reading: cancelled");
    const int64_t n = s->io->read(s->io->user, to, size);
    if (fv_ctx_cancelled(s->ctx)) return fv_fail(s->ctx, FV_ERR_CANCELLED, "reading: cancelled");
    if (n < 0 || (uint64_t)n > size)
        return fv_fail(s->ctx, FV_ERR_IO, "reading the input failed at byte %llu",
                       (unsigned long long)(s->offset + (s->filled - s->at) + ahead_bytes(s)));
    if (n == 0) s->has_read_all = true;
    *got = (size_t)n;
    return FV_OK;
}

/* One read into `to`, of what was looked at first; 0 at the end. */
static fv_status read_some(vz_source *s, uint8_t *to, size_t size, size_t *got)
{
    if (ahead_bytes(s) == 0 || size == 0) {
        FV_TRY(call_read(s, to, size, got));
        if (s->has_read_all) s->is_at_end = true;
        return FV_OK;
    }
    const uint64_t want = ahead_bytes(s) < size ? ahead_bytes(s) : size;
    const uint8_t *p = vz_past_piece(&s->ahead, s->ahead_at, want, got);
    memcpy(to, p, *got);
    uint8_t **page = &s->ahead.pages[vz_past_page(&s->ahead, s->ahead_at)];
    s->ahead_at += *got;
    if (s->ahead_at % VZ_PAGE == 0) {
        fv_free(s->ctx, *page);
        *page = NULL;
    }
    return FV_OK;
}

/* So many bytes behind the buffer, or all that are left. */
static fv_status look_ahead(vz_source *s, uint64_t want)
{
    if (!s->ahead.pages) FV_TRY(vz_past_open(&s->ahead, s->ctx, AHEAD_LOG2));
    if (want > ((uint64_t)1 << AHEAD_LOG2) - VZ_PAGE)
        return fv_fail(s->ctx, FV_ERR_INTERNAL, "looking too far ahead");
    while (ahead_bytes(s) < want && !s->has_read_all) {
        size_t there, n;
        uint8_t *to = vz_past_room(&s->ahead, VZ_PAGE, &there);
        if (!to) return FV_ERR_OOM;
        FV_TRY(call_read(s, to, there, &n));
        s->ahead.end += n;
    }
    return FV_OK;
}

fv_status vz_source_piece(vz_source *s, uint64_t distance, const uint8_t **p, size_t *there)
{
    const size_t buffered = s->filled - s->at;
    *there = 0;
    if (distance < buffered) {
        *p = s->buffer + s->at + distance;
        *there = buffered - (size_t)distance;
        return FV_OK;
    }
    distance -= buffered;
    FV_TRY(look_ahead(s, distance + 1));
    if (ahead_bytes(s) > distance)
        *p = vz_past_piece(&s->ahead, s->ahead_at + distance, ahead_bytes(s) - distance, there);
    return FV_OK;
}

fv_status vz_source_look(vz_source *s, uint64_t distance, size_t n, uint8_t *to, size_t *got)
{
    *got = 0;
    while (*got < n) {
        const uint8_t *p;
        size_t there;
        FV_TRY(vz_source_piece(s, distance + *got, &p, &there));
        if (there == 0) break;
        if (there > n - *got) there = n - *got;
        memcpy(to + *got, p, there);
        *got += there;
    }
    return FV_OK;
}

fv_status vz_source_peek(vz_source *s, size_t want, vz_in *out)
{
    if (s->filled - s->at < want && s->at > 0) {
        memmove(s->buffer, s->buffer + s->at, s->filled - s->at);
        s->filled -= s->at;
        s->at = 0;
    }
    while (s->filled - s->at < want && !s->is_at_end) {
        size_t n;
        FV_TRY(read_some(s, s->buffer + s->filled, VZ_SOURCE_BYTES - s->filled, &n));
        s->filled += n;
    }
    const size_t there = s->filled - s->at;
    out->ctx = s->ctx;
    out->p = s->buffer + s->at;
    out->end = out->p + (there < want ? there : want);
    return FV_OK;
}

void vz_source_skip(vz_source *s, size_t n)
{
    s->at += n;
    s->offset += n;
}

fv_status vz_source_read(vz_source *s, void *to, size_t size, size_t *got)
{
    uint8_t *p = to;
    size_t n = s->filled - s->at;
    if (n > size) n = size;
    if (n > 0) memcpy(p, s->buffer + s->at, n);
    s->at += n;
    *got = n;
    s->offset += n;
    while (*got < size && !s->is_at_end) {
        FV_TRY(read_some(s, p + *got, size - *got, &n));
        *got += n;
        s->offset += n;
    }
    return FV_OK;
}

fv_status vz_source_append(vz_source *s, vz_buf *b, uint64_t size, uint64_t *got)
{
    *got = 0;
    while (*got < size) {
        const uint64_t left = size - *got;
        size_t step = b->capacity - b->size, n;
        if (step < FIRST_STEP) step = b->size / 2 > FIRST_STEP ? b->size / 2 : FIRST_STEP;
        if (step > left) step = (size_t)left;
        uint8_t *to = vz_buf_room(b, step);
        if (!to) return b->status;
        FV_TRY(vz_source_read(s, to, step, &n));
        b->size += n;
        *got += n;
        if (n < step) break;
    }
    return FV_OK;
}
