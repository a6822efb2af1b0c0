/* vz_whole.c - blocks end where a PNG does not.
 *
 *     input    | text ........ | PNG ........................ | text ... | PNG ... | text ..... |
 *     blocks   | up to half full, then as large as it must    |  more than half    | PNG ...
 *
 * The stream of a PNG is made again from all that it holds, so its code cannot go on in another
 * block. The input is searched before it is read for the headers of such files, and the lengths of
 * their chunks are followed to the end. What does not fit makes a block larger that is up to half
 * full, and else begins the next. Lengths are believed as far as the data goes:
 * memory grows as it arrives, a picture holds no more than its header says, and a file whose block
 * would take too much memory, here or in a decoder with the usual limit, is cut like any data.
 *
 * Members of a zip archive are kept whole as well at the levels that look into them (6 and above),
 * as far as their header says how long they are. gzip files do not say that. */
#include "vz_whole.h"

#include "vz_deflate.h"

#include <string.h>

#define HEAD 64
#define CHUNKS_MAX (65536 + 4096)
#define STEPS_FIRST ((int64_t)1 << 18)
#define DECODER_MEMORY (((uint64_t)1 << 30) - ((uint64_t)1 << 20))

void vz_wholes_open(vz_wholes *w)
{
    w->steps = STEPS_FIRST;
}

void vz_wholes_close(vz_wholes *w)
{
    if (w->source) fv_free(w->source->ctx, w->list);
    memset(w, 0, sizeof *w);
}

const vz_media *vz_wholes_get(const vz_wholes *w, size_t i)
{
    return i < w->count ? &w->list[w->first + i] : NULL;
}

void vz_wholes_take(vz_wholes *w)
{
    w->first++;
    if (--w->count == 0) w->first = 0;
}

vz_cut vz_wholes_cut(uint64_t has, uint64_t size, uint64_t block_size)
{
    if (has <= block_size && size <= block_size - has) return VZ_CUT_FITS;
    return has > block_size / 2 ? VZ_CUT_BEFORE : VZ_CUT_GROW;
}

/* ---- Finding the end ------------------------------------------------------------------------- */

/* May a block hold a file of that size, and up to half a block before it? */
static bool fits(const vz_wholes *w, uint32_t param, uint64_t size)
{
    const uint64_t block = size + w->block_size / 2, holds = (uint64_t)1 << (param >> 8);
    if (size > holds + holds / 4 + (1 << 20) || block > VZ_BLOCK_BYTES_MAX) return false;
    if (size <= w->block_size / 2) return true;
    const uint64_t own = vz_deflate_coder.memory(w->cm, param, size);
    uint64_t encode = vz_block_encode_memory(w->cm, block);
    uint64_t decode = vz_block_memory_max(w->cm, block);
    if (encode < 3 * block + own + holds / 2) encode = 3 * block + own + holds / 2;
    if (decode < own) decode = own;
    return encode + (w->has_verify ? 2 : 1) * block <= w->memory &&
           decode + 2 * block + w->window <= DECODER_MEMORY;
}

static fv_status look(const vz_wholes *w, uint64_t at, size_t n, uint8_t *to, size_t *got)
{
    return vz_source_look(w->source, at - w->source->offset, n, to, got);
}

static bool is_type(const uint8_t *p)
{
    for (int i = 0; i < 4; i++)
        if ((p[i] | 32) < 'a' || (p[i] | 32) > 'z') return false;
    return true;
}

/* From chunk to chunk to IEND; *end stays 0 where that is not reached. */
static fv_status follow_png(vz_wholes *w, uint32_t param, uint64_t *end)
{
    const uint64_t start = w->next;
    uint64_t at = start + VZ_PNG_HEAD;
    bool is_far = false;
    for (int i = 0; i < CHUNKS_MAX && w->steps > 0; i++, w->steps--) {
        uint8_t p[8];
        size_t got;
        FV_TRY(look(w, at, 8, p, &got));
        if (got < 8 || !is_type(p + 4)) break;
        at += 12 + ((uint64_t)p[0] << 24 | (uint64_t)p[1] << 16 | (uint64_t)p[2] << 8 | p[3]);
        if (!fits(w, param, at - start)) break;
        if (!is_far && w->on_far && at - start > w->block_size) {
            FV_TRY(w->on_far(w->user));
            is_far = true;
        }
        if (memcmp(p + 4, "IEND", 4) != 0) continue;
        FV_TRY(look(w, at - 1, 1, p, &got));
        if (got == 1) *end = at;
        break;
    }
    return FV_OK;
}

static fv_status follow_zip(vz_wholes *w, uint32_t param, uint64_t size, uint64_t *end)
{
    uint8_t last;
    size_t got;
    if (!fits(w, param, size)) return FV_OK;
    FV_TRY(look(w, w->next + size - 1, 1, &last, &got));
    if (got == 1) *end = w->next + size;
    return FV_OK;
}

/* ---- Finding the beginning ------------------------------------------------------------------- */

static fv_status add(vz_wholes *w, const vz_media *m)
{
    fv_ctx *ctx = w->source->ctx;
    if (w->first + w->count == w->capacity) {
        const size_t more = w->capacity ? 2 * w->capacity : 16;
        vz_media *list = fv_realloc(ctx, w->list, w->capacity * sizeof *list, more * sizeof *list);
        if (!list) return FV_ERR_OOM;
        w->list = list;
        w->capacity = more;
    }
    w->list[w->first + w->count++] = *m;
    return FV_OK;
}

/* One may begin at w->next, which moves on. */
static fv_status try_here(vz_wholes *w)
{
    uint8_t head[HEAD];
    size_t n;
    vz_media m = {VZ_BINARY, 0, 1, w->next, w->next, 0};
    uint64_t size;
    FV_TRY(look(w, w->next, HEAD, head, &n));
    if (vz_png_head(head, n, &m.param)) {
        m.kind = VZ_DEFLATE;
        m.data += VZ_PNG_HEAD;
        FV_TRY(follow_png(w, m.param, &m.end));
    } else if (w->cm->level >= VZ_STREAMS_FROM && vz_zip_head(head, n, &m.param, &size)) {
        FV_TRY(follow_zip(w, m.param, size, &m.end));
    }
    if (m.end == 0) {
        w->next++;
        return FV_OK;
    }
    if (m.end - w->next >= VZ_WHOLE_LEAST) FV_TRY(add(w, &m));
    w->steps += (int64_t)((m.end - w->next) / 64);
    w->next = m.end;
    return FV_OK;
}

/* The first of n bytes with which one may begin. */
static size_t candidate(const uint8_t *p, size_t n)
{
    size_t i = 0;
    while (i < n && !(p[i] == 0x89 && (i + 1 == n || p[i + 1] == 'P')) &&
           !(p[i] == 'P' && (i + 1 == n || p[i + 1] == 'K')))
        i++;
    return i;
}

fv_status vz_wholes_look(vz_wholes *w, uint64_t until)
{
    while (w->next < until) {
        const uint8_t *p;
        size_t there;
        FV_TRY(vz_source_piece(w->source, w->next - w->source->offset, &p, &there));
        if (there == 0) return FV_OK; /* the end */
        if (there > until - w->next) there = (size_t)(until - w->next);
        const size_t i = candidate(p, there);
        w->next += i;
        if (i < there) FV_TRY(try_here(w));
    }
    return FV_OK;
}
