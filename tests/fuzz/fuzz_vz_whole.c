/* fuzz_vz_whole.c - where the encoder cuts blocks: files in the input whose lengths lie.
 *
 * Byte 0: bit 0 level 6 (which looks at zip members), bit 1 references, bit 2 a memory limit, bit 3
 * the size is announced, bit 4 verify. Byte 1: bytes of a read, squared. Byte 2: bytes of a
 * block, in units of 64 above 8192. The rest are steps that write the input:
 *     0  text        n: 2      1  zeros      n: 2      2  the last n bytes once more    n: 2
 *     3  PNG header  width: 2, height: 2, depth and colour: 1
 *     4  chunk       type: 1, bytes there: 2, bytes it claims: 4 (0: as many)
 *     5  zip header  bytes: 4, original: 4, flags: 1, name: 1
 *     6  the input ends behind byte n: 2 of it
 *     7  bytes of the input itself          n: 1
 * What is written must come back. */
#include <string.h>

#include "fuzz_ctx.h"
#include "vz_whole.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ROOM 49152
static uint8_t file[ROOM], archive[ROOM + 65536];

typedef struct script {
    const uint8_t *p, *end;
    size_t at; /* in file */
} script;

static uint32_t number(script *s, int bytes)
{
    uint32_t v = 0;
    while (bytes-- > 0) v = v << 8 | (s->p < s->end ? *s->p++ : 0);
    return v;
}

static void put(script *s, const void *from, size_t n)
{
    if (n > ROOM - s->at) n = ROOM - s->at;
    if (n > 0) memmove(file + s->at, from, n);
    s->at += n;
}

static void put_le(script *s, uint32_t v, int bytes)
{
    for (; bytes > 0; bytes--, v >>= 8) put(s, (const uint8_t[]){(uint8_t)v}, 1);
}

static void put_be(script *s, uint32_t v)
{
    for (int i = 24; i >= 0; i -= 8) put_le(s, v >> i, 1);
}

/* Bytes that repeat after 30, zeros if c is 0. */
static void fill(script *s, size_t n, uint8_t c)
{
    for (size_t i = 0; i < n && s->at < ROOM; i++)
        put_le(s, c ? (uint32_t)(c + i % 30) : 0, 1);
}

static void put_png_head(script *s)
{
    const size_t from = s->at + 12;
    put(s, "\x89PNG\r\n\x1a\n\0\0\0\15IHDR", 16);
    put_be(s, number(s, 2));
    put_be(s, number(s, 2));
    const uint32_t kind = number(s, 1);
    put_le(s, kind & 31, 1);
    put_le(s, kind >> 5, 1);
    put_le(s, 0, 3);
    put_be(s, s->at > from ? fv_crc32(0, file + from, s->at - from) : 0);
}

static void put_chunk(script *s)
{
    static const char TYPES[8][5] = {"IDAT", "IDAT", "IEND", "tEXt",
                                     "PLTE", "gAMA", "IDAT", "I1\1T"};
    const char *type = TYPES[number(s, 1) % 8];
    const uint32_t n = number(s, 2), claimed = number(s, 4);
    put_be(s, claimed ? claimed : n);
    put(s, type, 4);
    fill(s, n, 0x78);
    put_be(s, claimed);
}

static void put_zip_head(script *s)
{
    const uint32_t packed = number(s, 4), plain = number(s, 4), flags = number(s, 1);
    const uint32_t name = number(s, 1);
    put(s, "PK\3\4\24", 6);
    put_le(s, flags & 15, 2);
    put_le(s, flags & 128 ? 0 : 8, 2);
    put_le(s, 0, 8);
    put_le(s, packed, 4);
    put_le(s, plain, 4);
    put_le(s, name, 2);
    put_le(s, flags >> 4 & 3, 2);
    fill(s, name, 'n');
}

static void step(script *s)
{
    switch (number(s, 1) % 8) {
    case 0: fill(s, number(s, 2), 'a'); break;
    case 1: fill(s, number(s, 2), 0); break;
    case 2: {
        const size_t n = number(s, 2), have = n < s->at ? n : s->at;
        put(s, file + s->at - have, have);
        break;
    }
    case 3: put_png_head(s); break;
    case 4: put_chunk(s); break;
    case 5: put_zip_head(s); break;
    case 6: {
        const size_t n = number(s, 2);
        if (n < s->at) s->at = n;
        s->p = s->end;
        break;
    }
    default: {
        const size_t n = number(s, 1), left = (size_t)(s->end - s->p);
        put(s, s->p, n < left ? n : left);
        s->p += n < left ? n : left;
    }
    }
}

typedef struct pipe_io {
    size_t at, size, step, written;
} pipe_io;

static int64_t read_pipe(void *user, void *to, size_t size)
{
    pipe_io *p = user;
    size_t n = p->size - p->at < size ? p->size - p->at : size;
    if (n > p->step) n = p->step;
    if (n > 0) memcpy(to, file + p->at, n);
    p->at += n;
    return (int64_t)n;
}

static int write_pipe(void *user, const void *from, size_t n)
{
    pipe_io *p = user;
    if (n > sizeof archive - p->written) abort(); /* larger than the input by far */
    memcpy(archive + p->written, from, n);
    p->written += n;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    script s = {data + 3, data + size, 0};
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    fv_vzip_stats st;
    uint8_t *back;
    size_t n;
    if (size < 4) return 0;
    fv_ctx *ctx = fuzz_ctx((uint64_t)256 << 20);
    while (s.p < s.end && s.at < ROOM) step(&s);
    pipe_io p = {0, s.at, 1 + (size_t)data[1] * data[1], 0};
    const fv_vzip_io io = {read_pipe, write_pipe, &p};
    o.level = data[0] & 1 ? 6 : 1;
    o.long_range = data[0] & 2 ? 1 : -1;
    o.memory_bytes = data[0] & 4 ? (uint64_t)24 << 20 : 0;
    o.size = data[0] & 8 ? s.at : 0;
    o.verify = data[0] & 16 ? 1 : -1;
    o.no_prime = 1;
    o.block_bytes = 8192 + (uint64_t)data[2] * 64; /* every block clears its tables */
    const fv_status c = fv_vzip_compress_stream(ctx, &io, &o, &st);
    if (c == FV_ERR_OOM && o.memory_bytes) return 0;
    if (c != FV_OK || st.failed_checks || st.input_bytes != s.at) abort();
    if (fv_vzip_decompress(ctx, archive, p.written, ROOM, NULL, &back, &n) != FV_OK || n != s.at ||
        memcmp(back, file, n) != 0)
        abort();
    fv_free(ctx, back);
    fuzz_check_leaks(ctx);
    return 0;
}
