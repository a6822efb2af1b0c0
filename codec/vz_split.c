/* vz_split.c - which kind of data a block holds: one segment for all of it.
 *
 * Text is valid UTF-8 of which more than 95 % are printable characters or white space. A block may
 * begin or end inside of a character, so up to three odd bytes at either end are forgiven. */
#include "internal.h"

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

fv_status vz_split(fv_ctx *ctx, const uint8_t *data, size_t size, int level, vz_segment **segs,
                   int *count)
{
    (void)level;
    *count = 0;
    *segs = fv_calloc(ctx, 1, sizeof **segs);
    if (!*segs) return FV_ERR_OOM;
    (*segs)->kind = is_text(data, size) ? VZ_TEXT : VZ_BINARY;
    (*segs)->size = size;
    *count = size > 0;
    return FV_OK;
}
