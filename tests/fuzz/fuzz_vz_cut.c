/* fuzz_vz_cut.c - blocks and references that the encoder makes of an input, without coding them.
 *
 * What fuzz_vz_whole codes is only cut here and put together again, a hundred times as fast. Byte
 * 0: bit 0 level 6 (which looks at zip members), bit 1 a large input in a small window, bit 2 a
 * memory limit. Byte 1: bytes of a read, squared. Byte 2: bytes of a block, in units of 64 above
 * 8192. The rest is the script of the input (fuzz_vz_script.h). */
#include "fuzz_ctx.h"
#include "fuzz_vz_script.h"
#include "vz_whole.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ROOM ((size_t)49152)
#define LARGE_ROOM ((size_t)1 << 19) /* two windows */
static uint8_t file[LARGE_ROOM];

typedef struct cutter {
    fv_ctx *ctx;
    vz_dedup *dedup;
    vz_buf plain, refs, hints;
    vz_past past; /* of the decoder */
    uint64_t done, size;
} cutter;

/* In order, inside of the plain bytes, and apart. */
static void check_hints(const cutter *c)
{
    const vz_hint *list = (const vz_hint *)(const void *)c->hints.data;
    uint64_t end = 0;
    for (size_t i = 0; i < c->hints.size / sizeof *list; i++) {
        const vz_segment *g = &list[i].g;
        if (list[i].at < end || g->size > c->plain.size || list[i].at > c->plain.size - g->size)
            abort();
        end = list[i].at + g->size;
    }
}

/* The block as a decoder makes it. */
static void check_block(cutter *c, const vz_dedup_out *b)
{
    const vz_block_header h = {VZ_REFERRING, b->original, c->refs.size, b->hash, 0};
    if (b->original == 0 || b->original > c->size - c->done ||
        vz_hash(file + c->done, (size_t)b->original) != b->hash)
        abort();
    if (c->refs.size == 0) {
        if (c->plain.size != b->original || memcmp(c->plain.data, file + c->done, c->plain.size))
            abort();
        if (vz_past_put(&c->past, c->plain.data, c->plain.size) != FV_OK) exit(1);
    } else if (vz_refs_apply(c->ctx, &h, c->refs.data, c->plain.data, c->plain.size, &c->past) !=
                   FV_OK ||
               c->past.end != c->done + b->original ||
               vz_past_hash(&c->past, c->done, b->original) != b->hash) {
        abort();
    }
    check_hints(c);
    c->done += b->original;
}

static void cut_all(cutter *c, vz_source *source, uint64_t block_size)
{
    bool is_all;
    vz_in next;
    vz_dedup_out b = {&c->plain, &c->refs, &c->hints, 0, 0};
    if (vz_dedup_start(c->dedup, source, block_size, &c->plain, &is_all) != FV_OK) abort();
    if (is_all) {
        if (c->plain.size != c->size || (c->size && memcmp(c->plain.data, file, c->size))) abort();
        return;
    }
    do {
        if (vz_dedup_block(c->dedup, source, block_size, &b) != FV_OK) abort();
        check_block(c, &b);
        if (vz_source_peek(source, 1, &next) != FV_OK) abort();
    } while (next.p != next.end || !vz_dedup_is_empty(c->dedup));
    if (c->done != c->size) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 4) return 0;
    fv_ctx *ctx = fuzz_ctx((uint64_t)256 << 20);
    const bool is_large = data[0] & 2 && fuzz_share(data, size, 16) == 0;
    script s = {data + 3, data + size, file, 0, is_large ? LARGE_ROOM : ROOM};
    script_run(&s);
    script_pipe p = {file, 0, s.at, 1 + (size_t)data[1] * data[1]};
    const fv_vzip_io io = {script_read, NULL, &p};
    const vz_cm_options cm = {data[0] & 1 ? 6 : 1, 20, NULL};
    cutter c = {.ctx = ctx, .size = s.at};
    vz_source *source = vz_source_open(ctx, &io);
    vz_wholes w = {.source = source, .cm = &cm, .block_size = 8192 + (uint64_t)data[2] * 64,
                   .memory = data[0] & 4 ? (uint64_t)24 << 20 : UINT64_MAX,
                   .window = (uint64_t)1 << VZ_WINDOW_LOG2_MIN};
    vz_wholes_open(&w);
    vz_buf_init(&c.plain, ctx);
    vz_buf_init(&c.refs, ctx);
    vz_buf_init(&c.hints, ctx);
    if (!source || vz_past_open(&c.past, ctx, VZ_WINDOW_LOG2_MIN) != FV_OK ||
        vz_dedup_open(ctx, &c.dedup, VZ_WINDOW_LOG2_MIN, &w) != FV_OK)
        exit(1);
    cut_all(&c, source, w.block_size);
    vz_dedup_close(&c.dedup);
    vz_past_close(&c.past);
    vz_buf_free(&c.plain);
    vz_buf_free(&c.refs);
    vz_buf_free(&c.hints);
    vz_wholes_close(&w);
    vz_source_close(&source);
    fuzz_check_leaks(ctx);
    return 0;
}
