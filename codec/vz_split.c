/* vz_split.c - which kinds of data a block holds, and where.
 *
 * Kinds with a coder of their own are found by their coders' detectors; what lies between them is
 * text, machine code, tables (vz_records.c) or other binary data. Text is valid UTF-8 of which more
 * than 95 % are printable characters or white space; where not all is text, windows are judged. A
 * block may begin or end inside of a character, so up to three odd bytes at either end are
 * forgiven. */
#include "cm.h"
#include "vz_deflate.h"
#include "vz_records.h"

/* Bytes of the well-formed character at p, 0 if there is none (Unicode 15, table 3-7). */
static size_t utf8_step(const uint8_t *p, size_t left)
{
    const uint8_t c = p[0];
    const size_t n = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
    if (n < 2 || n > left) return n == 1 ? 1 : 0;
    const uint8_t lo = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    const uint8_t hi = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    if (p[1] < lo || p[1] > hi) return 0;
    for (size_t i = 2; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    return n;
}

static bool is_text(const uint8_t *p, size_t size)
{
    size_t printable = 0, at = 0;
    while (at < 3 && at < size && (p[at] & 0xc0) == 0x80) at++;
    while (at < size) {
        const size_t n = utf8_step(p + at, size - at);
        if (n == 0 && size - at > 3) return false;
        if (n == 0) break;
        if (n > 1 || (p[at] >= 0x20 && p[at] != 0x7f) || (p[at] >= '\t' && p[at] <= '\r'))
            printable += n;
        at += n;
    }
    return printable * 20 > size * 19;
}

/* ---- Kinds with a coder of their own --------------------------------------------------------- */

/* Asked at the start of the block, behind each segment found, and at multiples of 512, where the
 * members of a tar archive begin; with is_anywhere also at every byte that is `first`. */
static const struct detector {
    vz_kind kind;
    int first; /* -1: any byte */
    bool is_anywhere;
    vz_detect *find;
} DETECTORS[] = {
    {VZ_DEFLATE, 0x89, true, vz_png_detect},
    {VZ_IMAGE, -1, false, vz_image_detect},
    {VZ_AUDIO, -1, false, vz_audio_detect},
    {VZ_GENES, -1, false, vz_genes_detect},
};

/* The segment that begins at data + at; size 0: none. */
static vz_segment find_at(const uint8_t *data, size_t size, size_t at, bool is_edge)
{
    vz_segment g = {VZ_BINARY, 0, 0};
    for (size_t i = 0; i < FV_ARRAY_LEN(DETECTORS); i++) {
        const struct detector *d = &DETECTORS[i];
        if ((d->first >= 0 && data[at] != d->first) || (!is_edge && !d->is_anywhere)) continue;
        g.param = 0;
        g.size = d->find(data + at, size - at, at == 0, &g.param);
        g.kind = d->kind;
        /* Sound without a header is a guess. */
        if (g.kind == VZ_AUDIO && data[at] != 'R' && data[at] != 'F' && g.size &&
            vz_records_are_numbers(data + at, size - at))
            g.size = 0;
        if (g.size) return g;
    }
    return g;
}

typedef struct list {
    fv_ctx *ctx;
    vz_segment *segs;
    size_t count, capacity;
} list;

static fv_status add(list *l, vz_segment g)
{
    if (g.size == 0) return FV_OK;
    if (l->count == l->capacity) {
        const size_t n = l->capacity ? 2 * l->capacity : 4;
        vz_segment *more = fv_realloc(l->ctx, l->segs, l->capacity * sizeof *more, n * sizeof *more);
        if (!more) return FV_ERR_OOM;
        l->segs = more;
        l->capacity = n;
    }
    l->segs[l->count++] = g;
    return FV_OK;
}

/* Mixed data is judged in windows. Text may hold zeros there: in archives every member has some. */
#define WINDOW ((size_t)8192)

static vz_kind kind_of_window(const uint8_t *p, size_t size)
{
    size_t printable = 0, zeros = 0, n;
    for (size_t at = 0; at < size; at += n) {
        n = utf8_step(p + at, size - at);
        const bool is_shown = n > 1 || (n == 1 && p[at] >= 0x20 && p[at] != 0x7f) ||
                              (p[at] >= '\t' && p[at] <= '\r');
        if (n == 0) n = 1;
        if (is_shown) printable += n;
        else zeros += p[at] == 0;
    }
    if (zeros * 2 <= size && printable * 20 > (size - zeros) * 19) return VZ_TEXT;
    return vz_exe_kind(p, size);
}

/* Bytes of one kind that begin here. A window that differs from both its neighbours does not
 * count: pieces are few. */
static size_t piece(const uint8_t *data, size_t size, vz_kind *kind)
{
    *kind = VZ_BINARY;
    if (size < 512) return size;
    size_t at = size < 2 * WINDOW ? size : WINDOW;
    *kind = kind_of_window(data, at);
    while (at < size) {
        const size_t left = size - at, n = left < 2 * WINDOW ? left : WINDOW;
        const size_t after = left - n < WINDOW ? left - n : WINDOW;
        if (kind_of_window(data + at, n) != *kind &&
            (after == 0 || kind_of_window(data + at + n, after) != *kind))
            break;
        at += n;
    }
    return at;
}

/* What lies between two found segments. */
static fv_status add_plain(list *l, const uint8_t *data, size_t size)
{
    vz_segment g = {VZ_TEXT, 0, size};
    if (size == 0 || is_text(data, size)) return add(l, g);
    if (vz_rows_begin_here(data, size)) {
        g.kind = VZ_BINARY; /* one segment: the model follows its pages */
        return add(l, g);
    }
    for (size_t at = 0, end = 0; at < size; at += (size_t)g.size) {
        if (at == end) {
            g.param = 0;
            g.size = piece(data + at, size - at, &g.kind);
            if ((g.kind == VZ_X86 || g.kind == VZ_ARM64) &&
                vz_records_are_numbers(data + at, (size_t)g.size))
                g.kind = VZ_BINARY;
            end = at + (size_t)g.size;
        }
        if (g.kind == VZ_BINARY || g.kind == VZ_RECORDS)
            FV_TRY(vz_records_next(l->ctx, data + at, end - at, &g));
        FV_TRY(add(l, g));
    }
    return FV_OK;
}

fv_status vz_split(fv_ctx *ctx, const uint8_t *data, size_t size, int level, const vz_hints *hints,
                   vz_segment **segs, int *count)
{
    list l = {.ctx = ctx};
    size_t done = 0, edge = 0, h = 0;
    fv_status s = FV_OK;
    /* What may be inflated in search of streams: bounds the time for hostile data. */
    uint64_t budget = 8 * (uint64_t)size + (1 << 20);
    for (size_t at = 0; at < size && s == FV_OK; at++) {
        vz_segment g = {VZ_BINARY, 0, 0};
        size_t end = size; /* what is found must leave the next hint alone */
        while (hints && h < hints->count && hints->list[h].at < at) h++;
        if (hints && h < hints->count) {
            if (hints->list[h].at == at && hints->list[h].g.size <= size - at)
                g = hints->list[h].g;
            else if (hints->list[h].at > at && hints->list[h].at < size)
                end = (size_t)hints->list[h].at;
        }
        if (g.size == 0) g = find_at(data, end, at, at == edge || at % 512 == 0);
        if (g.size == 0 && (data[at] == 0x78 || data[at] == 0x1f || data[at] == 'P')) {
            g.size = vz_stream_detect(ctx, data + at, end - at, level, &g.param, &budget);
            g.kind = VZ_DEFLATE;
        }
        if (g.size == 0) continue;
        s = add_plain(&l, data + done, at - done);
        if (s == FV_OK) s = add(&l, g);
        done = edge = at + (size_t)g.size;
        at = done - 1;
    }
    if (s == FV_OK) s = add_plain(&l, data + done, size - done);
    if (s != FV_OK) {
        fv_free(ctx, l.segs);
        l.segs = NULL;
        l.count = 0;
    }
    *segs = l.segs;
    *count = (int)l.count;
    return s;
}
