/* vz_golden_data.h - what the golden archives of vzip hold: texts, machine code, tables, pictures,
 * sound, genes and files that hold deflate streams, all made from integers alone, so that every
 * machine and compiler makes the same bytes. Nothing here may ever change: see test_vz_golden.c. */
#ifndef VZ_GOLDEN_DATA_H
#define VZ_GOLDEN_DATA_H

#include "../codec/deflate_frozen.h"
#include "vz_fixture.h"

typedef struct gold {
    uint8_t *p;
    size_t n, room;
    uint64_t seed;
    fv_ctx *ctx; /* for the frozen deflate */
} gold;

static inline uint32_t gold_next(gold *g, uint32_t below)
{
    return (test_next(&g->seed) >> 8) % below;
}

static inline void gold_put(gold *g, const void *from, size_t n)
{
    if (n > g->room - g->n) abort();
    if (n) memcpy(g->p + g->n, from, n);
    g->n += n;
}

static inline void gold_text(gold *g, const char *s)
{
    gold_put(g, s, strlen(s));
}

static inline void gold_number(gold *g, uint64_t v, int bytes, bool is_big)
{
    for (int i = 0; i < bytes; i++) {
        const uint8_t b = (uint8_t)(v >> 8 * (is_big ? bytes - 1 - i : i));
        gold_put(g, &b, 1);
    }
}

static inline void gold_zeros(gold *g, size_t n)
{
    for (size_t i = 0; i < n; i++) gold_number(g, 0, 1, false);
}

/* ---- Text ------------------------------------------------------------------------------------ */

enum { PROSE, CODE, SCRIPT, MARKUP, JSON, CSV, LOGS, SCRIPTS_OF_THE_WORLD, TEXTS };

#define LINES 8
/* ~ stands for a word, # for a number. */
static const struct {
    const char *lines[LINES], *words[LINES];
} GOLD_TEXT[TEXTS] = {
    {{"The ~ of the ~ is read from the ~ and written to the ~.\n",
      "If the ~ does not exist, the default ~ is used instead. See the manual page for a list of "
      "the options.\n",
      "Note that this ~ may change the # ~s that were given on the command line.\n",
      "In the beginning there was a ~, and it was # years old.\n", "\n",
      "This option can be specified more than once; each ~ is one ~.\n",
      "By default, # of them are shown, which is the number of the ~.\n",
      "\"Where is the ~?\" she asked, and nobody could tell her.\n"},
     {"file", "directory", "configuration", "output", "name", "program", "value", "system"}},
    {{"    if (~ == NULL || ~ < #) return -1;\n", "static int ~_#(const char *~, size_t ~)\n{\n",
      "    for (size_t i = 0; i < ~; i++) ~[i] = ~ + #;\n", "    return ~;\n}\n\n",
      "#include <stdint.h>\n", "/* Returns the ~ of the ~, or # on failure. */\n",
      "    unsigned int ~ = 0x#u;\n", "    free(~);\n    ~ = malloc(# * sizeof *~);\n"},
     {"buffer", "size", "count", "data", "result", "ctx", "node", "length"}},
    {{"def ~(self, ~=None):\n", "    return self.~\n", "import ~\n",
      "    for ~ in range(#):\n        print(~)\n", "    if ~ is None:\n        ~ = {}\n",
      "        raise ValueError(\"~ must be below #\")\n", "    \"\"\"Return the ~.\"\"\"\n",
      "    self.~ = ~\n\n"},
     {"name", "path", "value", "args", "os", "key", "options", "result"}},
    {{"<div class=\"~\">\n", "  <p>The ~ and the ~.</p>\n", "</div>\n",
      "<item id=\"#\" ~=\"~\">#</item>\n", "  <a href=\"~/#.html\">~</a>\n",
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n", "  <td>#</td><td>#</td>\n",
      "<!-- ~ of # -->\n"},
     {"title", "name", "class", "type", "content", "value", "style", "link"}},
    {{"  {\"id\": #, \"name\": \"~\", \"~\": \"~\"},\n", "  \"~\": [#, #, #],\n",
      "  \"version\": \"1.#.0\",\n", "  \"~\": {\"type\": \"~\", \"size\": #},\n",
      "  \"~\": true,\n", "  \"~\": null,\n", "  {\"id\": #, \"name\": \"~\", \"~\": #.5},\n",
      "  \"dependencies\": {\"~\": \"^#.1\"},\n"},
     {"name", "status", "active", "user", "email", "title", "color", "price"}},
    {{"#,~,#.25,2024-03-17,~\n", "#,~,#.50,2024-03-18,~\n", "#,~,#.75,2024-04-01,~\n",
      "#,\"~, ~\",#,2024-05-09,~\n", "#,~,,2024-05-10,~\n", "#,~,#.00,2024-06-11,~\n",
      "#,~,-#.10,2024-06-12,~\n", "#,~,#.35,2024-07-30,~\n"},
     {"London", "Berlin", "open", "closed", "Smith", "Miller", "north", "blue"}},
    {{"2024-05-06 10:11:# INFO ~: request # took # ms\n", "2024-05-06 10:12:# WARN ~: retry #\n",
      "2024-05-06 10:12:# INFO ~: connection from 10.0.0.# closed\n",
      "2024-05-06 10:13:# DEBUG ~: ~ = #\n", "2024-05-06 10:13:# ERROR ~: ~ not found (#)\n",
      "2024-05-06 10:14:# INFO ~: user # logged in\n",
      "192.168.1.# - - [06/May/2024:10:14:#] \"GET /~/# HTTP/1.1\" 200 #\n",
      "May  6 10:15:# host ~[#]: started ~\n"},
     {"server", "daemon", "http", "kernel", "worker", "session", "cache", "index"}},
    {{"\xd0\x92 \xd0\xbd\xd0\xb0\xd1\x87\xd0\xb0\xd0\xbb\xd0\xb5 \xd0\xb1\xd1\x8b\xd0\xbb\xd0\xbe "
      "~.\n",
      "\xce\x95\xce\xbd \xce\xb1\xcf\x81\xcf\x87\xce\xae \xce\xae\xce\xbd ~ (#).\n",
      "\xe5\xa4\xaa\xe5\x88\x9d\xe6\x9c\x89\xe9\x81\x93\xef\xbc\x8c~\xe3\x80\x82\n",
      "\xd9\x81\xd9\x8a \xd8\xa7\xd9\x84\xd8\xa8\xd8\xaf\xd8\xa1 \xd9\x83\xd8\xa7\xd9\x86 ~\n",
      "\xe3\x81\xaf\xe3\x81\x98\xe3\x82\x81\xe3\x81\xab~\xe3\x81\x8c\xe3\x81\x82\xe3\x81\xa3"
      "\xe3\x81\x9f\xe3\x80\x82#\n",
      "\xe0\xa4\x86\xe0\xa4\xa6\xe0\xa4\xbf \xe0\xa4\xae\xe0\xa5\x87\xe0\xa4\x82 ~ "
      "\xe0\xa4\xa5\xe0\xa4\xbe\xe0\xa5\xa4\n",
      "\xf0\x9f\x98\x80 \xf0\x9f\x8c\x8d # ~ \xf0\x9f\x9a\x80\n",
      "Im Anfang war # ~, gr\xc3\xb6\xc3\x9f" "er als \xc3\xa9t\xc3\xa9.\n"},
     {"\xd1\x81\xd0\xbb\xd0\xbe\xd0\xb2\xd0\xbe", "\xce\xbb\xcf\x8c\xce\xb3\xce\xbf\xcf\x82",
      "\xe8\xa8\x80\xe8\x91\x89", "\xd9\x83\xd9\x84\xd9\x85\xd8\xa9",
      "\xeb\xa7\x90\xec\x94\x80", "Wort", "\xd7\x93\xd7\x91\xd7\xa8",
      "\xe0\xb8\x84\xe0\xb8\xb3"}}};

static inline void gold_line(gold *g, int kind, bool is_crlf)
{
    char digits[12];
    for (const char *s = GOLD_TEXT[kind].lines[gold_next(g, LINES)]; *s; s++) {
        if (*s == '~') {
            gold_text(g, GOLD_TEXT[kind].words[gold_next(g, LINES)]);
        } else if (*s == '#' && s[1] != 'i') { /* not #include */
            snprintf(digits, sizeof digits, "%u", (unsigned)gold_next(g, 90) + 10);
            gold_text(g, digits);
        } else {
            if (*s == '\n' && is_crlf) gold_text(g, "\r");
            gold_put(g, s, 1);
        }
    }
}

/* Exactly `size` bytes more. */
static inline void gold_texts(gold *g, int kind, size_t size, bool is_crlf)
{
    const size_t end = g->n + size;
    while (g->n < end) gold_line(g, kind, is_crlf);
    g->n = end;
}

/* ---- Binary, machine code, tables ------------------------------------------------------------ */

static inline void gold_noise(gold *g, size_t size)
{
    for (size_t i = 0; i < size; i++) gold_number(g, gold_next(g, 256), 1, false);
}

/* The look of an object file: a header, small numbers, names of sections. */
static inline void gold_binary(gold *g, size_t size)
{
    static const char NAMES[] = "\0.symtab\0.strtab\0.shstrtab\0.text\0.data\0.bss\0.rodata\0"
                                ".comment\0.note.GNU-stack\0.eh_frame\0__libc_start_main\0";
    const size_t end = g->n + size;
    gold_put(g, "\x7f" "ELF\2\1\1\0\0\0\0\0\0\0\0\0\1\0\x3e\0\1\0\0\0", 24);
    while (g->n < end) {
        const uint32_t r = gold_next(g, 8);
        if (r == 0) gold_put(g, NAMES, sizeof NAMES - 1);
        else if (r < 4) gold_number(g, gold_next(g, 3000), 8, false);
        else if (r < 6) gold_number(g, gold_next(g, 1 << 20), 4, false);
        else if (r == 6) gold_noise(g, 5);
        else gold_zeros(g, 16);
    }
    g->n = end;
}

static inline void gold_x86(gold *g, size_t size)
{
    static const struct {
        size_t n;
        const char *bytes;
    } OPS[8] = {{8, "\xf3\x0f\x1e\xfa\x55\x48\x89\xe5"},
                {10, "\x66\x2e\x0f\x1f\x84\0\0\0\0\0"},
                {8, "\x48\x83\xec\x08\x48\x8b\x45\xf8"},
                {11, "\x5b\x5d\x41\x5c\x41\x5d\x41\x5e\x41\x5f\xc3"},
                {7, "\x0f\x1f\x80\0\0\0\0"},
                {6, "\x48\x83\xc4\x08\xc3\x90"},
                {9, "\x41\x57\x41\x56\x41\x55\x41\x54\x55"},
                {4, "\x85\xc0\x74\x0c"}};
    const size_t end = g->n + size;
    while (g->n < end) {
        const uint32_t r = gold_next(g, 12);
        if (r < 8) {
            gold_put(g, OPS[r].bytes, OPS[r].n);
        } else if (r < 11) { /* a call of one of eight functions */
            gold_text(g, r == 10 ? "\xe9" : "\xe8");
            gold_number(g, (uint32_t)(gold_next(g, 8) * 160) - (uint32_t)(g->n + 4), 4, false);
        } else {
            gold_text(g, "\x48\x8d\x05");
            gold_number(g, gold_next(g, 6) * 8 + size - g->n, 4, false);
        }
    }
    g->n = end;
}

static inline void gold_arm64(gold *g, size_t size)
{
    static const uint32_t OPS[] = {0xa9be7bfd, 0x910003fd, 0xf9400000, 0xd65f03c0,
                                   0x2a0003e0, 0xb9000fe0, 0xaa0003f3, 0x52800000};
    const size_t end = g->n + size;
    while (g->n < end) {
        const uint32_t r = gold_next(g, 12);
        uint32_t w = r < 8 ? OPS[r] | (r == 7 ? gold_next(g, 16) << 5 : 0) : 0;
        if (r >= 8 && r < 11)
            w = 0x94000000u | (((gold_next(g, 8) * 160 - (uint32_t)g->n) / 4) & 0x3ffffff);
        if (r == 11) w = 0x90000000u | gold_next(g, 4) << 29;
        gold_number(g, w, 4, false);
    }
    g->n = end;
}

/* Near a sine of amplitude 32768 and period 65536: parabolas. */
static inline int32_t gold_wave(uint32_t phase)
{
    const int32_t x = (int32_t)(phase & 0xffff) - 32768, a = x < 0 ? -x : x;
    return x * (32768 - a) / 8192;
}

/* The bits of the float v / 2^shift; |v| < 2^24, so nothing is rounded. */
static inline uint64_t gold_float(int32_t v, int shift, bool is_double)
{
    const int digits = is_double ? 52 : 23;
    uint64_t m = (uint64_t)(v < 0 ? -v : v), sign = v < 0;
    int exponent = is_double ? 1023 : 127;
    if (m == 0) return 0;
    for (exponent += digits - shift; !(m >> digits); exponent--) m <<= 1;
    m &= ((uint64_t)1 << digits) - 1;
    return sign << (is_double ? 63 : 31) | (uint64_t)exponent << digits | m;
}

enum { INT16, INT32, INT64, BIG16, BIG32, FLOATS, BIG_FLOATS, DOUBLES, STRUCTS, INT24, PHASE,
       COLUMNS };

static inline void gold_record(gold *g, int table, uint32_t i, int32_t *x)
{
    const int32_t r = (int32_t)gold_next(g, 81) - 40;
    const bool is_big = table == BIG16 || table == BIG32 || table == BIG_FLOATS;
    switch (table) {
    case INT16: case BIG16:
        gold_number(g, (uint32_t)(x[0] += r), 2, is_big);
        gold_number(g, (uint32_t)(x[1] += (int32_t)gold_next(g, 301) - 150), 2, is_big);
        break;
    case INT24:
        gold_number(g, (uint32_t)(x[0] += r * 9), 3, false);
        break;
    case INT32: case BIG32: case PHASE:
        gold_number(g, (uint32_t)(x[0] += 1 + (r > 30) * 6), 4, is_big);
        gold_number(g, (uint32_t)(x[1] += r * 7), 4, is_big);
        break;
    case INT64: gold_number(g, 1700000000000u + (uint32_t)(x[0] += 900 + r), 8, false); break;
    case FLOATS: case BIG_FLOATS:
        for (uint32_t c = 1; c <= 3; c++)
            gold_number(g, gold_float(gold_wave(i * 300 * c) * 8 + r, 10, false), 4, is_big);
        break;
    case DOUBLES:
        gold_number(g, gold_float(x[0] += r * 1001, 7, true), 8, false);
        gold_number(g, gold_float(x[1] += r * r * 15 - 7000, 9, true), 8, false);
        break;
    case STRUCTS:
        gold_number(g, (uint32_t)(x[0] += 1 + (r > 20) * 59), 4, false);
        gold_number(g, i * 7, 2, false);
        gold_number(g, gold_next(g, 3), 2, false);
        gold_number(g, gold_float(x[1] += r * 10, 5, false), 4, false);
        gold_number(g, gold_float(x[2] += r * 900, 5, true), 8, false);
        break;
    default: /* fixed columns of characters between zeros */
        gold_number(g, i / 7, 1, false);
        gold_put(g, &"AB\0\0CD\0\0\x80\xff"[i % 2 * 4], 6);
        gold_number(g, gold_next(g, 4) << 4 | 1, 2, true);
        gold_put(g, "\0\xff\0", 3);
    }
}

static inline void gold_table(gold *g, int table, size_t size)
{
    const size_t end = g->n + size;
    int32_t x[3] = {0, 5000, 70000};
    if (table == PHASE) gold_put(g, "\x01\x80\xfe", 3);
    for (uint32_t i = 0; g->n < end; i++) gold_record(g, table, i, x);
    g->n = end;
}

/* A database of leaf pages of 512 bytes: rows of a small integer, a text and a large integer. */
static inline void gold_sqlite(gold *g, uint32_t pages)
{
    const size_t start = g->n;
    uint32_t row = 1;
    gold_put(g, "SQLite format 3\0\x02\0\1\1\0\x40\x20\x20", 24);
    gold_number(g, 5, 4, true);
    gold_number(g, pages, 4, true);
    gold_zeros(g, 512 - 32);
    for (uint32_t page = 1; page < pages; page++) {
        uint8_t *p = g->p + g->n;
        uint32_t cells = 0, at = 512;
        gold_zeros(g, 512);
        for (;; cells++, row++) {
            const uint32_t text = 5 + gold_next(g, 9), size = 4 + 1 + text + 4;
            if (at - size - 3 < 8 + 2 * (cells + 1) || row > 8000) break;
            at -= size + 3;
            put_number(p + 8 + 2 * cells, at, 2, true);
            p[at] = (uint8_t)size;
            p[at + 1] = (uint8_t)(0x80 | row >> 7);
            p[at + 2] = row & 127;
            memcpy(p + at + 3, "\4\1", 2);
            p[at + 5] = (uint8_t)(13 + 2 * text);
            p[at + 6] = 4;
            p[at + 7] = (uint8_t)gold_next(g, 5);
            for (uint32_t i = 0; i < text; i++)
                p[at + 8 + i] = (uint8_t)"name of a customer"[i + gold_next(g, 2)];
            put_number(p + at + 8 + text, 1700000000u + row * 61, 4, true);
        }
        p[0] = 13;
        put_number(p + 3, cells, 2, true);
        put_number(p + 5, at, 2, true);
    }
    if (g->n - start != 512 * (size_t)pages) abort();
}

/* ---- Pictures -------------------------------------------------------------------------------- */

enum { NOISY, FLAT, COLOURS, SMOOTH }; /* natures of a picture */

/* Sample of channel c at x, y: smooth with an edge and a little noise; flat: a pattern; colours:
 * one of 68. */
static inline uint32_t gold_sample(gold *g, uint32_t x, uint32_t y, uint32_t c, int nature)
{
    static uint32_t colour; /* of the pixel */
    if (nature == FLAT) return (x / 5 + y / 4) % 5 * 37 + c * 11;
    if (nature == COLOURS) {
        if (c == 0)
            colour = (uint32_t)(gold_wave(x * 900 + y * 500) + 32768) / 1024 + gold_next(g, 4);
        return c == 0 ? colour * 3 : c == 1 ? colour * 2 : 255 - colour;
    }
    const int32_t v = gold_wave(x * 700 + y * 310 + c * 900) / 400;
    const int32_t dots = nature == SMOOTH ? gold_next(g, 40) == 0 : (int32_t)gold_next(g, 4);
    return (uint32_t)(120 + v + dots + (x > y + 9 ? 40 : 0)) & 255;
}

static inline void gold_pixels(gold *g, uint32_t w, uint32_t h, uint32_t channels, int bytes,
                               size_t padding, int nature)
{
    for (uint32_t y = 0; y < h; y++) {
        for (uint32_t x = 0; x < w; x++)
            for (uint32_t c = 0; c < channels; c++) {
                gold_number(g, gold_sample(g, x, y, c, nature), 1, false);
                if (bytes == 2) gold_number(g, gold_next(g, 64) << 2, 1, false);
            }
        for (size_t i = 0; i < padding; i++) gold_number(g, y & 1, 1, false);
    }
}

enum { PGM, PPM, PGM16, PPM_COLOURS, BMP24, BMP32, BMP8, TGA24, TGA32, TGA8, PPM_LARGE,
       PPM_FLAT, PICTURES };

static inline void gold_bmp_head(gold *g, uint32_t w, uint32_t h, uint32_t bits)
{
    const uint32_t head = bits == 8 ? 1078 : 54;
    gold_text(g, "BM");
    gold_number(g, head + w * bits / 8 * h, 4, false);
    gold_number(g, 0, 4, false);
    gold_number(g, head, 4, false);
    gold_number(g, 40, 4, false);
    gold_number(g, w, 4, false);
    gold_number(g, h, 4, false);
    gold_number(g, 1, 2, false);
    gold_number(g, bits, 2, false);
    gold_zeros(g, 24);
    for (uint32_t i = 0; i < 256 && bits == 8; i++) gold_number(g, i * 0x10101, 4, false);
}

static inline void gold_picture(gold *g, int kind)
{
    const uint32_t w = kind == BMP8 ? 70 : 37, h = kind == BMP8 ? 60 : 29;
    switch (kind) {
    case PGM:
        gold_text(g, "P5\n# grey\n37 29\n255\n");
        gold_pixels(g, w, h, 1, 1, 0, NOISY);
        break;
    case PPM: case PPM_COLOURS: case PPM_FLAT:
        gold_text(g, kind == PPM ? "P6\n37 29\n255\n" : "P6\n60 60\n255\n");
        if (kind == PPM) gold_pixels(g, w, h, 3, 1, 0, NOISY);
        else gold_pixels(g, 60, 60, 3, 1, 0, kind == PPM_FLAT ? FLAT : COLOURS);
        break;
    case PGM16:
        gold_text(g, "P5\n37 29\n65535\n");
        gold_pixels(g, w, h, 1, 2, 0, NOISY);
        break;
    case BMP24: case BMP32: case BMP8:
        gold_bmp_head(g, w, h, kind == BMP24 ? 24 : kind == BMP32 ? 32 : 8);
        gold_pixels(g, w, h, kind == BMP24 ? 3 : kind == BMP32 ? 4 : 1, 1,
                    kind == BMP24 ? 1 : kind == BMP8 ? 2 : 0, NOISY);
        break;
    case PPM_LARGE: /* of several blocks */
        gold_text(g, "P6\n170 150\n255\n");
        gold_pixels(g, 170, 150, 3, 1, 0, SMOOTH);
        break;
    default:
        gold_put(g, kind == TGA8 ? "\0\0\3" : "\0\0\2", 3);
        gold_zeros(g, 9);
        gold_number(g, w, 2, false);
        gold_number(g, h, 2, false);
        gold_number(g, kind == TGA8 ? 8 : kind == TGA24 ? 24 : 32, 1, false);
        gold_number(g, kind == TGA32 ? 8 : 0, 1, false);
        gold_pixels(g, w, h, kind == TGA8 ? 1 : kind == TGA24 ? 3 : 4, 1, 0, NOISY);
    }
}

/* ---- Deflate --------------------------------------------------------------------------------- */

static inline uint32_t gold_adler(const uint8_t *p, size_t n)
{
    uint32_t a = 1, b = 0;
    for (size_t i = 0; i < n; i++) {
        a = (a + p[i]) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}

/* A raw stream; is_patched: other padding behind its last block, which zlib would have zero. */
static inline void gold_deflate(gold *g, const uint8_t *data, size_t n, const vz_frozen *f,
                                bool is_patched)
{
    vz_buf b;
    bool same;
    vz_buf_init(&b, g->ctx);
    if (vz_frozen_deflate(g->ctx, f, data, n, NULL, 0, 0, &b, &same) != FV_OK) abort();
    if (is_patched) b.data[b.size - 1] |= 0x80;
    gold_put(g, b.data, b.size);
    vz_buf_free(&b);
}

static inline void gold_chunk(gold *g, const char *type, const uint8_t *data, size_t n)
{
    gold_number(g, n, 4, true);
    const size_t start = g->n;
    gold_text(g, type);
    gold_put(g, data, n);
    gold_number(g, fv_crc32(0, g->p + start, g->n - start), 4, true);
}

static inline uint8_t gold_predicted(const uint8_t *p, size_t i, size_t x, size_t row, size_t step,
                                     int filter)
{
    const int a = x > step ? p[i - step] : 0, b = i > row ? p[i - row - 1] : 0;
    const int c = x > step && i > row ? p[i - step - row - 1] : 0, all = a + b - c;
    const int paeth = abs(all - a) <= abs(all - b) && abs(all - a) <= abs(all - c) ? a
                      : abs(all - b) <= abs(all - c)                               ? b
                                                                                   : c;
    const int by[5] = {0, a, b, (a + b) / 2, paeth};
    return (uint8_t)by[filter];
}

typedef struct gold_png_form {
    uint32_t colour, depth, w, h;
    vz_frozen f;
    size_t idat; /* bytes of a chunk */
    bool is_patched, has_texts; /* texts: chunks before and behind */
} gold_png_form;

static inline void gold_png(gold *g, const gold_png_form *f)
{
    static const uint32_t CHANNELS[7] = {1, 0, 3, 1, 2, 0, 4};
    static uint8_t plain[20000], rows[20000], z[20000];
    const uint32_t channels = CHANNELS[f->colour];
    const size_t step = channels * f->depth / 8, row = step * f->w, n = (row + 1) * f->h;
    gold pixels = {plain, 0, sizeof plain, g->seed, g->ctx};
    gold stream = {z, 0, sizeof z, 0, g->ctx};
    for (uint32_t y = 0; y < f->h; y++) {
        gold_number(&pixels, 0, 1, false);
        if (f->colour == 3)
            for (uint32_t x = 0; x < f->w; x++)
                gold_number(&pixels, (x / 3 + y / 2) % 16, 1, false);
        else
            gold_pixels(&pixels, f->w, 1, channels, (int)f->depth / 8, 0,
                        y % 7 == 6 ? FLAT : NOISY);
    }
    for (size_t i = 0; i < n; i++) {
        const size_t x = i % (row + 1);
        const int filter = f->colour == 3 ? 0 : (int)(i / (row + 1) % 5);
        rows[i] = (uint8_t)(x ? plain[i] - gold_predicted(plain, i, x, row, step, filter) : filter);
    }
    gold_put(&stream, "\x78\xda", 2);
    gold_deflate(&stream, rows, n, &f->f, f->is_patched);
    gold_number(&stream, gold_adler(rows, n), 4, true);
    gold_put(g, "\x89PNG\r\n\x1a\n", 8);
    const uint8_t ihdr[13] = {0, 0, 0, (uint8_t)f->w, 0, 0, 0, (uint8_t)f->h,
                              (uint8_t)f->depth, (uint8_t)f->colour};
    gold_chunk(g, "IHDR", ihdr, 13);
    for (size_t i = 0; i < 48; i++) rows[i] = (uint8_t)(i * 5);
    if (f->colour == 3) gold_chunk(g, "PLTE", rows, 48);
    if (f->has_texts) gold_chunk(g, "tEXt", (const uint8_t *)"Title\0Golden", 12);
    for (size_t i = 0; i < stream.n; i += f->idat)
        gold_chunk(g, "IDAT", z + i, stream.n - i < f->idat ? stream.n - i : f->idat);
    if (f->has_texts) gold_chunk(g, "tIME", (const uint8_t *)"\x07\xe8\1\2\3\4\5", 7);
    gold_chunk(g, "IEND", NULL, 0);
}

enum { GZIP, ZIP, ZLIB };

/* A stream in its wrapper, with plain text around it. */
static inline void gold_wrapped(gold *g, int wrap, bool is_patched)
{
    static uint8_t plain[4000];
    const vz_frozen f = {wrap == ZIP ? 9 : 6, 0, 8, 15};
    gold t = {plain, 0, sizeof plain, g->seed, g->ctx};
    if (wrap == ZLIB) gold_binary(&t, 3000);
    else gold_texts(&t, PROSE, 3000, false);
    if (wrap == GZIP) {
        gold_put(g, "\x1f\x8b\x08\0\0\0\0\0\0\3", 10);
    } else if (wrap == ZIP) {
        gold_put(g, "PK\3\4\24\0\0\0\10\0\0\0\0\0", 14);
        gold_number(g, fv_crc32(0, plain, t.n), 4, false);
        gold_zeros(g, 4); /* length of the stream: not known */
        gold_number(g, t.n, 4, false);
        gold_number(g, 3, 4, false);
        gold_text(g, "a.b");
    } else {
        gold_put(g, "\x78\x9c", 2);
    }
    gold_deflate(g, plain, t.n, &f, is_patched);
    gold_number(g, wrap == ZLIB ? gold_adler(plain, t.n) : fv_crc32(0, plain, t.n), 4,
                wrap == ZLIB);
    if (wrap == GZIP) gold_number(g, t.n, 4, false);
}

/* ---- Sound ----------------------------------------------------------------------------------- */

enum { WAV8, WAV16, WAV16_STEREO, WAV24_STEREO, AIFF16, RAW16, WAV_VALUES, WAV_LARGE, SOUNDS };

static inline void gold_sound_head(gold *g, bool is_aiff, uint32_t channels, uint32_t bytes,
                                   uint32_t frames)
{
    const uint32_t n = frames * channels * bytes;
    if (is_aiff) {
        gold_text(g, "FORM");
        gold_number(g, n + 46, 4, true);
        gold_text(g, "AIFFCOMM");
        gold_number(g, 18, 4, true);
        gold_number(g, channels, 2, true);
        gold_number(g, frames, 4, true);
        gold_number(g, bytes * 8, 2, true);
        gold_put(g, "\x40\x0e\xac\x44\0\0\0\0\0\0SSND", 14);
        gold_number(g, n + 8, 4, true);
        gold_zeros(g, 8);
        return;
    }
    gold_text(g, "RIFF");
    gold_number(g, n + 36, 4, false);
    gold_text(g, "WAVEfmt ");
    gold_number(g, 16, 4, false);
    gold_number(g, 1, 2, false);
    gold_number(g, channels, 2, false);
    gold_number(g, 16000, 4, false);
    gold_number(g, 16000 * channels * bytes, 4, false);
    gold_number(g, channels * bytes, 2, false);
    gold_number(g, bytes * 8, 2, false);
    gold_text(g, "data");
    gold_number(g, n, 4, false);
}

static inline void gold_sound(gold *g, int kind)
{
    const uint32_t channels = kind == WAV16_STEREO || kind == WAV24_STEREO || kind == RAW16 ? 2 : 1;
    const uint32_t bytes = kind == WAV8 ? 1 : kind == WAV24_STEREO ? 3 : 2;
    const uint32_t frames = kind == WAV_LARGE ? 36000 : kind == RAW16 ? 4096 : 900;
    const bool is_big = kind == AIFF16;
    if (kind != RAW16) gold_sound_head(g, is_big, channels, bytes, frames);
    for (uint32_t i = 0; i < frames; i++)
        for (uint32_t c = 0; c < channels; c++) {
            int32_t v = gold_wave(i * 1771 + c * 9000) / 3 + gold_wave(i * 5603) / 5;
            v = kind == WAV_VALUES ? v / 700 * 31
                : kind == WAV_LARGE ? gold_wave(i * 1024) / 1000
                : kind == RAW16     ? gold_wave(i * 601 + c * 9000) / 3 + (int32_t)gold_next(g, 4)
                                    : v + (int32_t)gold_next(g, 24);
            if (bytes == 1) v = v / 256 + 128;
            if (bytes == 3) v = v * 256 + (int32_t)gold_next(g, 256);
            gold_number(g, (uint32_t)v, (int)bytes, is_big);
        }
}

/* ---- Genes ----------------------------------------------------------------------------------- */

enum { FASTA, FASTA_ODD, FASTA_CRLF_RNA, FASTQ, FASTQ_CRLF, FASTQ_LOWER, GENES };

static inline void gold_fasta(gold *g, int kind)
{
    const char *end = kind == FASTA_CRLF_RNA ? "\r\n" : "\n";
    char name[40];
    uint32_t from[700];
    for (uint32_t i = 0; i < 700; i++) from[i] = gold_next(g, 4);
    for (uint32_t r = 0; r < 3; r++) {
        snprintf(name, sizeof name, ">record_%u some species%s", (unsigned)r + 8, end);
        gold_text(g, name);
        for (uint32_t i = 0; i < 700; i++) { /* the third is the first's other strand */
            const uint32_t base = r == 2 ? 3 - from[699 - i] : r == 1 ? gold_next(g, 4) : from[i];
            char c = (kind == FASTA_CRLF_RNA ? "ACGU" : "ACGT")[base];
            if (kind == FASTA_ODD && i / 77 % 3 == 1) c = (char)(c | 0x20);
            if (kind == FASTA_ODD && i % 211 > 195) c = "NNRYKMSWBD-"[i % 11];
            gold_put(g, &c, 1);
            if (i % 60 == 59 || i == 699) gold_text(g, end);
        }
    }
}

static inline void gold_fastq(gold *g, int kind)
{
    const char *end = kind == FASTQ_CRLF ? "\r\n" : "\n";
    char name[40];
    for (uint32_t r = 0; r < 22; r++) {
        const uint32_t length = kind == FASTQ_LOWER ? 40 + gold_next(g, 30) : 60;
        snprintf(name, sizeof name, "@run.%u x/1%s", (unsigned)r + 95, end);
        gold_text(g, name);
        for (uint32_t i = 0; i < length; i++) {
            char c = gold_next(g, 40) == 0 ? 'N' : "ACGT"[gold_next(g, 4)];
            if (kind == FASTQ_LOWER && i % 30 > 25) c = i % 2 ? 'r' : 'a';
            gold_put(g, &c, 1);
        }
        gold_text(g, end);
        gold_text(g, "+");
        if (kind == FASTQ_LOWER) {
            snprintf(name, sizeof name, "run.%u x/1", (unsigned)r + 95);
            gold_text(g, name);
        }
        gold_text(g, end);
        for (uint32_t i = 0; i < length; i++)
            gold_number(g, 73 - i / 9 - gold_next(g, 5), 1, false);
        gold_text(g, end);
    }
}

#endif
