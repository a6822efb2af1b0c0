/* utf8.h - one strict UTF-8 decoder (RFC 3629) for JSON, model names and pickles. */
#ifndef FV_UTF8_H
#define FV_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the well-formed sequence at p (n >= 1 bytes left), 0 if there is none: overlong forms,
 * surrogates, values above U+10FFFF and cut sequences are refused. */
static inline size_t fvi_utf8_step(const uint8_t *p, size_t n)
{
    if (p[0] < 0x80) return 1;
    if (p[0] >= 0xc2 && p[0] <= 0xdf) return n >= 2 && (p[1] & 0xc0) == 0x80 ? 2 : 0;
    if ((p[0] & 0xf0) == 0xe0) {
        if (n < 3 || (p[1] & 0xc0) != 0x80 || (p[2] & 0xc0) != 0x80) return 0;
        if (p[0] == 0xe0 && p[1] < 0xa0) return 0;
        return p[0] == 0xed && p[1] > 0x9f ? 0 : 3;
    }
    if (p[0] >= 0xf0 && p[0] <= 0xf4) {
        if (n < 4 || (p[1] & 0xc0) != 0x80 || (p[2] & 0xc0) != 0x80 || (p[3] & 0xc0) != 0x80)
            return 0;
        if (p[0] == 0xf0 && p[1] < 0x90) return 0;
        return p[0] == 0xf4 && p[1] > 0x8f ? 0 : 4;
    }
    return 0;
}

static inline bool fvi_utf8_valid(const void *text, size_t n)
{
    const uint8_t *p = (const uint8_t *)text;
    for (size_t i = 0; i < n;) {
        const size_t k = fvi_utf8_step(p + i, n - i);
        if (k == 0) return false;
        i += k;
    }
    return true;
}

#endif
