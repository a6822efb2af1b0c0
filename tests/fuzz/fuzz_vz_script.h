/* fuzz_vz_script.h - inputs of vzip with files in them whose lengths lie, from a script of steps:
 *
 *     0  text        n: 2      1  zeros      n: 2      2  the last n bytes once more    n: 2
 *     3  PNG header  width: 2, height: 2, depth and colour: 1
 *     4  chunk       type: 1, bytes there: 2, bytes it claims: 4 (0: as many)
 *     5  zip header  bytes: 4, original: 4, flags: 1, name: 1
 *     6  the input ends behind byte n: 2 of it
 *     7  bytes of the input itself          n: 1
 *
 * A script of fifty bytes makes an input of many blocks. */
#ifndef FUZZ_VZ_SCRIPT_H
#define FUZZ_VZ_SCRIPT_H

#include <string.h>

#include "engine.h"

/* An input that arrives in pieces of at most `step` bytes: fv_vzip_io's read. */
typedef struct script_pipe {
    const uint8_t *file;
    size_t at, size, step;
} script_pipe;

static inline int64_t script_read(void *user, void *to, size_t size)
{
    script_pipe *p = user;
    size_t n = p->size - p->at < size ? p->size - p->at : size;
    if (n > p->step) n = p->step;
    if (n > 0) memcpy(to, p->file + p->at, n);
    p->at += n;
    return (int64_t)n;
}

typedef struct script {
    const uint8_t *p, *end; /* what is left of the script */
    uint8_t *file;
    size_t at, room; /* in file */
} script;

static inline uint32_t script_number(script *s, int bytes)
{
    uint32_t v = 0;
    while (bytes-- > 0) v = v << 8 | (s->p < s->end ? *s->p++ : 0);
    return v;
}

static inline void script_put(script *s, const void *from, size_t n)
{
    if (n > s->room - s->at) n = s->room - s->at;
    if (n > 0) memmove(s->file + s->at, from, n);
    s->at += n;
}

static inline void script_put_le(script *s, uint32_t v, int bytes)
{
    for (; bytes > 0; bytes--, v >>= 8) script_put(s, (const uint8_t[]){(uint8_t)v}, 1);
}

static inline void script_put_be(script *s, uint32_t v)
{
    for (int i = 24; i >= 0; i -= 8) script_put_le(s, v >> i, 1);
}

/* Bytes that repeat after 30, zeros if c is 0. */
static inline void script_fill(script *s, size_t n, uint8_t c)
{
    uint8_t part[30];
    for (size_t i = 0; i < sizeof part; i++) part[i] = (uint8_t)(c ? c + i : 0);
    for (size_t i = 0; i < n && s->at < s->room; i += sizeof part)
        script_put(s, part, n - i < sizeof part ? n - i : sizeof part);
}

static inline void script_put_png_head(script *s)
{
    const size_t from = s->at + 12;
    script_put(s, "\x89PNG\r\n\x1a\n\0\0\0\15IHDR", 16);
    script_put_be(s, script_number(s, 2));
    script_put_be(s, script_number(s, 2));
    const uint32_t kind = script_number(s, 1);
    script_put_le(s, kind & 31, 1);
    script_put_le(s, kind >> 5, 1);
    script_put_le(s, 0, 3);
    script_put_be(s, s->at > from ? fv_crc32(0, s->file + from, s->at - from) : 0);
}

static inline void script_put_chunk(script *s)
{
    static const char TYPES[8][5] = {"IDAT", "IDAT", "IEND", "tEXt",
                                     "PLTE", "gAMA", "IDAT", "I1\1T"};
    const char *type = TYPES[script_number(s, 1) % 8];
    const uint32_t n = script_number(s, 2), claimed = script_number(s, 4);
    script_put_be(s, claimed ? claimed : n);
    script_put(s, type, 4);
    script_fill(s, n, 0x78);
    script_put_be(s, claimed);
}

static inline void script_put_zip_head(script *s)
{
    const uint32_t packed = script_number(s, 4), plain = script_number(s, 4);
    const uint32_t flags = script_number(s, 1), name = script_number(s, 1);
    script_put(s, "PK\3\4\24", 6);
    script_put_le(s, flags & 15, 2);
    script_put_le(s, flags & 128 ? 0 : 8, 2);
    script_put_le(s, 0, 8);
    script_put_le(s, packed, 4);
    script_put_le(s, plain, 4);
    script_put_le(s, name, 2);
    script_put_le(s, flags >> 4 & 3, 2);
    script_fill(s, name, 'n');
}

static inline void script_step(script *s)
{
    switch (script_number(s, 1) % 8) {
    case 0: script_fill(s, script_number(s, 2), 'a'); break;
    case 1: script_fill(s, script_number(s, 2), 0); break;
    case 2: {
        const size_t n = script_number(s, 2), have = n < s->at ? n : s->at;
        script_put(s, s->file + s->at - have, have);
        break;
    }
    case 3: script_put_png_head(s); break;
    case 4: script_put_chunk(s); break;
    case 5: script_put_zip_head(s); break;
    case 6: {
        const size_t n = script_number(s, 2);
        if (n < s->at) s->at = n;
        s->p = s->end;
        break;
    }
    default: {
        const size_t n = script_number(s, 1), left = (size_t)(s->end - s->p);
        script_put(s, s->p, n < left ? n : left);
        s->p += n < left ? n : left;
    }
    }
}

static inline void script_run(script *s)
{
    while (s->p < s->end && s->at < s->room) script_step(s);
}

#endif
