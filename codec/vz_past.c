/* vz_past.c - the last bytes of a frame, for blocks that refer to them.
 *
 * A ring of pages that are taken as data arrives: a window of 256 MiB over ten bytes costs a page,
 * and nothing is ever moved. Position p of the frame lies in page p / VZ_PAGE % pages. */
#include "internal.h"

#include <string.h>

fv_status vz_past_open(vz_past *p, fv_ctx *ctx, int log2)
{
    memset(p, 0, sizeof *p);
    p->ctx = ctx;
    p->log2 = log2;
    p->pages = fv_calloc(ctx, (size_t)1 << (log2 - VZ_PAGE_LOG2), sizeof *p->pages);
    return p->pages ? FV_OK : FV_ERR_OOM;
}

void vz_past_close(vz_past *p)
{
    const size_t n = p->pages ? (size_t)1 << (p->log2 - VZ_PAGE_LOG2) : 0;
    for (size_t i = 0; i < n; i++) fv_free(p->ctx, p->pages[i]);
    fv_free(p->ctx, p->pages);
    memset(p, 0, sizeof *p);
}

uint8_t *vz_past_room(vz_past *p, size_t want, size_t *there)
{
    uint8_t **page = &p->pages[vz_past_page(p, p->end)];
    const size_t in_page = (size_t)(p->end % VZ_PAGE), left = VZ_PAGE - in_page;
    if (!*page) *page = fv_alloc(p->ctx, VZ_PAGE);
    if (!*page) return NULL;
    *there = want < left ? want : left;
    return *page + in_page;
}

const uint8_t *vz_past_piece(const vz_past *p, uint64_t at, uint64_t want, size_t *there)
{
    const size_t in_page = (size_t)(at % VZ_PAGE), left = VZ_PAGE - in_page;
    *there = want < left ? (size_t)want : left;
    return p->pages[vz_past_page(p, at)] + in_page;
}

/* Without data: zeros. */
static fv_status append(vz_past *p, const uint8_t *data, uint64_t n)
{
    while (n > 0) {
        size_t there;
        uint8_t *to = vz_past_room(p, n < VZ_PAGE ? (size_t)n : VZ_PAGE, &there);
        if (!to) return FV_ERR_OOM;
        if (data) {
            memcpy(to, data, there);
            data += there;
        } else {
            memset(to, 0, there);
        }
        n -= there;
        p->end += there;
    }
    return FV_OK;
}

fv_status vz_past_put(vz_past *p, const uint8_t *data, uint64_t n) { return append(p, data, n); }

fv_status vz_past_skip(vz_past *p, uint64_t n) { return append(p, NULL, n); }

fv_status vz_past_repeat(vz_past *p, uint64_t distance, uint64_t n)
{
    while (n > 0) {
        size_t from_there, there;
        /* Never more than the distance at once: what is copied may be what was just written. */
        uint64_t step = n < distance ? n : distance;
        const uint8_t *from = vz_past_piece(p, p->end - distance, step, &from_there);
        uint8_t *to = vz_past_room(p, from_there, &there);
        if (!to) return FV_ERR_OOM;
        memmove(to, from, there);
        n -= there;
        p->end += there;
    }
    return FV_OK;
}

fv_status vz_past_take(const vz_past *p, uint64_t at, uint64_t n, vz_buf *out)
{
    while (n > 0) {
        size_t there;
        const uint8_t *from = vz_past_piece(p, at, n, &there);
        vz_buf_put(out, from, there);
        at += there;
        n -= there;
    }
    return out->status;
}
