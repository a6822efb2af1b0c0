/* test_vz_golden.c - archives of format version 1 that lie in golden/vz: each decodes to what it
 * was made of, and is made again byte for byte, on every kind of vector unit, with one and two
 * threads, and with floating-point settings under which no sum of floats would stay the same.
 *
 *     test_vz_golden [--full | make]
 *
 * Without --full, everything is decoded on every unit, but what takes long is made again on the best
 * one only. With "make" the archives are written anew and what they hold is printed. That is a
 * change of the format, and must never happen after a release: archives may only be added.
 *
 * Inputs are made from integers by vz_golden_data.h. What zstd writes may differ between its
 * versions; archives with a block of it are made again only with the version that wrote them. */
#include "../codec/vz_models.h"
#include "vz_golden_data.h"

#include <fenv.h>
#include <time.h>
#include <zstd.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#define FOLDER FV_TEST_DIR "/golden/vz/"
#define ZSTD_OF_ARCHIVES 10504 /* the version of zstd that made them */
enum { ROOM = 160000, ARCHIVE_MAX = 65536 };

static fv_ctx *ctx; /* for everything but archives */
static fv_vzip_model *own_model;
static bool is_full; /* --full: minutes instead of seconds */

/* ---- What they are made of ------------------------------------------------------------------- */

typedef void fill(gold *g, int arg);

static void text(gold *g, int kind) { gold_texts(g, kind, 900, false); }
static void long_text(gold *g, int kind) { gold_texts(g, kind, 5000, false); }
static void crlf(gold *g, int kind) { gold_texts(g, kind, 900, true); }
static void blocks_of_text(gold *g, int kind) { gold_texts(g, kind, 52000, false); }
static void noise(gold *g, int size) { gold_noise(g, (size_t)size); }
static void binary(gold *g, int size) { gold_binary(g, (size_t)size); }
static void x86(gold *g, int size) { gold_x86(g, (size_t)size); }
static void arm64(gold *g, int size) { gold_arm64(g, (size_t)size); }
static void table(gold *g, int kind) { gold_table(g, kind, 6000); }
static void sqlite(gold *g, int pages) { gold_sqlite(g, (uint32_t)pages); }
static void picture(gold *g, int kind) { gold_picture(g, kind); }
static void sound(gold *g, int kind) { gold_sound(g, kind); }
static void stream(gold *g, int wrap) { gold_wrapped(g, wrap, false); }
static void patched_stream(gold *g, int wrap) { gold_wrapped(g, wrap, true); }

static void genes(gold *g, int kind)
{
    if (kind < FASTQ) gold_fasta(g, kind);
    else gold_fastq(g, kind);
}

static void png(gold *g, int i)
{
    static const gold_png_form FORMS[] = {
        {0, 8, 40, 30, {9, 1, 9, 15}, 65536, false, false},
        {2, 8, 31, 30, {6, 1, 8, 15}, 500, false, true},
        {6, 8, 25, 30, {9, 0, 8, 15}, 65536, true, false},
        {3, 8, 60, 40, {9, 0, 8, 15}, 65536, false, false},
        {0, 16, 30, 27, {4, 1, 8, 15}, 65536, false, false},
        {2, 16, 24, 27, {9, 0, 9, 15}, 300, true, true},
    };
    gold_png(g, &FORMS[i]);
}

/* A block of `size` bytes that occurs again and again: in one block, or in each. */
static void repeats(gold *g, int size)
{
    const size_t n = (size_t)size;
    gold_noise(g, n);
    for (int i = 1; i < 6; i++) {
        gold_put(g, g->p, n);
        g->p[g->n - 100] ^= 1;
        gold_texts(g, LOGS, 80, false);
    }
}

/* One file of everything, at multiples of 512 as in a tar archive. */
static void next_member(gold *g) { gold_zeros(g, (512 - g->n % 512) % 512); }
static void mixed(gold *g, int with)
{
    gold_texts(g, PROSE, 700, false);
    next_member(g);
    gold_picture(g, PPM);
    next_member(g);
    gold_sound(g, WAV16);
    next_member(g);
    if (with > 0) gold_fastq(g, FASTQ);
    next_member(g);
    if (with > 0) gold_wrapped(g, GZIP, false);
    next_member(g);
    if (with > 0) gold_table(g, STRUCTS, 5000);
    gold_texts(g, CODE, 600, false);
}

typedef struct golden {
    const char *name;
    fill *fill;
    int arg, level;
    uint64_t block;
    bool no_prime, no_index, has_size, has_name, has_time, is_stream, own_model, no_long;
    int frames; /* 0 and 1: one */
} golden;

static const golden ARCHIVES[] = {
    /* Levels, of text and of a file of everything. */
    {"prose_1", .fill = text, PROSE, 1}, {"prose_2", .fill = text, PROSE, 2},
    {"prose_3", .fill = text, PROSE, 3}, {"prose_4", .fill = text, PROSE, 4},
    {"prose_5", .fill = text, PROSE, 5}, {"prose_6", .fill = text, PROSE, 6},
    {"prose_7", .fill = text, PROSE, 7}, {"prose_8", .fill = text, PROSE, 8},
    {"prose_9", .fill = text, PROSE, 9}, {"mixed_1", .fill = mixed, 0, 1},
    {"mixed_2", .fill = mixed, 0, 2}, {"mixed_3", .fill = mixed, 0, 3},
    {"mixed_4", .fill = mixed, 0, 4}, {"mixed_5", .fill = mixed, 1, 5},
    {"mixed_6", .fill = mixed, 0, 6}, {"mixed_7", .fill = mixed, 0, 7},
    {"mixed_8", .fill = mixed, 0, 8}, {"mixed_9", .fill = mixed, 1, 9},
    {"prose_ultra", .fill = text, PROSE, FV_VZIP_LEVEL_ULTRA},
    {"mixed_ultra", .fill = mixed, 1, FV_VZIP_LEVEL_ULTRA},
    /* Kinds of text; with and without texts of the model before them. */
    {"code", .fill = text, CODE, 3}, {"script", .fill = text, SCRIPT, 3},
    {"markup", .fill = text, MARKUP, 3}, {"json", .fill = text, JSON, 3},
    {"csv", .fill = text, CSV, 3}, {"logs", .fill = text, LOGS, 3},
    {"unicode", .fill = text, SCRIPTS_OF_THE_WORLD, 3},
    {"unicode_8", .fill = long_text, SCRIPTS_OF_THE_WORLD, 8}, {"crlf", .fill = crlf, PROSE, 3},
    {"crlf_code", .fill = crlf, CODE, 5}, {"code_1", .fill = long_text, CODE, 1},
    {"json_2", .fill = long_text, JSON, 2}, {"logs_9", .fill = long_text, LOGS, 9},
    {"csv_8", .fill = long_text, CSV, 8},
    {"prose_plain", .fill = text, PROSE, 3, .no_prime = true},
    {"markup_plain", .fill = long_text, MARKUP, 9, .no_prime = true},
    {"unicode_plain", .fill = text, SCRIPTS_OF_THE_WORLD, 1, .no_prime = true},
    /* Data. */
    {"object", .fill = binary, 2500, 3}, {"object_9", .fill = binary, 2500, 9},
    {"object_plain", .fill = binary, 2500, 4, .no_prime = true}, {"x86", .fill = x86, 3000, 3},
    {"x86_9", .fill = x86, 3000, 9}, {"x86_plain", .fill = x86, 3000, 2, .no_prime = true},
    {"arm64", .fill = arm64, 3000, 3}, {"arm64_6", .fill = arm64, 3000, 6},
    {"int16", .fill = table, INT16, 3}, {"int24", .fill = table, INT24, 4},
    {"int32", .fill = table, INT32, 3}, {"int64", .fill = table, INT64, 5},
    {"big16", .fill = table, BIG16, 3}, {"big32", .fill = table, BIG32, 6},
    {"floats", .fill = table, FLOATS, 3}, {"big_floats", .fill = table, BIG_FLOATS, 9},
    {"doubles", .fill = table, DOUBLES, 2}, {"structs", .fill = table, STRUCTS, 7},
    {"structs_1", .fill = table, STRUCTS, 1}, {"phase", .fill = table, PHASE, 3},
    {"columns", .fill = table, COLUMNS, 3}, {"sqlite", .fill = sqlite, 8, 3},
    {"sqlite_9", .fill = sqlite, 8, 9},
    /* Pictures, sound, genes. */
    {"pgm", .fill = picture, PGM, 3}, {"ppm", .fill = picture, PPM, 9},
    {"pgm16", .fill = picture, PGM16, 5}, {"ppm_colours", .fill = picture, PPM_COLOURS, 3},
    {"bmp24", .fill = picture, BMP24, 3}, {"bmp32", .fill = picture, BMP32, 1},
    {"bmp8", .fill = picture, BMP8, 6}, {"tga24", .fill = picture, TGA24, 3},
    {"tga32", .fill = picture, TGA32, 7}, {"tga8", .fill = picture, TGA8, 2},
    {"png_grey", .fill = png, 0, 3}, {"png_rgb", .fill = png, 1, 9},
    {"png_rgba", .fill = png, 2, 4}, {"png_palette", .fill = png, 3, 3},
    {"png_grey16", .fill = png, 4, 1}, {"png_rgb16", .fill = png, 5, 6},
    {"wav8", .fill = sound, WAV8, 3}, {"wav16", .fill = sound, WAV16, 1},
    {"wav16_stereo", .fill = sound, WAV16_STEREO, 9},
    {"wav24_stereo", .fill = sound, WAV24_STEREO, 3}, {"aiff", .fill = sound, AIFF16, 5},
    {"raw16", .fill = sound, RAW16, 2}, {"wav_values", .fill = sound, WAV_VALUES, 7},
    {"fasta", .fill = genes, FASTA, 3}, {"fasta_odd", .fill = genes, FASTA_ODD, 9},
    {"fasta_rna", .fill = genes, FASTA_CRLF_RNA, 1}, {"fastq", .fill = genes, FASTQ, 3},
    {"fastq_crlf", .fill = genes, FASTQ_CRLF, 6}, {"fastq_lower", .fill = genes, FASTQ_LOWER, 9},
    {"gzip_9", .fill = stream, GZIP, 9}, {"zip_9", .fill = stream, ZIP, 9},
    {"zlib_6", .fill = stream, ZLIB, 6}, {"gzip_patched", .fill = patched_stream, GZIP, 7},
    /* Blocks, frames, headers. */
    {"empty", .fill = noise, 0, 3}, {"one_byte", .fill = noise, 1, 3},
    {"stored", .fill = noise, 700, 3}, {"zstd", .fill = picture, PPM_FLAT, 3, .no_long = true},
    {"stored_blocks", .fill = noise, 1000, 3, 300, .has_size = true},
    {"referring", .fill = repeats, 5000, 3, 4096}, {"referring_9", .fill = repeats, 3000, 9, 2048},
    {"text_blocks", .fill = blocks_of_text, CSV, 1, 18000},
    {"text_blocks_3", .fill = blocks_of_text, LOGS, 3, 20000, .no_index = true, .is_stream = true},
    {"picture_blocks", .fill = picture, PPM_LARGE, 3, 30000},
    {"sound_blocks", .fill = sound, WAV_LARGE, 3, 30000},
    {"pipe", .fill = text, CODE, 4, 400, .is_stream = true},
    {"frames", .fill = text, PROSE, 3, .frames = 3},
   
    {"frames_of_all", .fill = repeats, 300, 5, 500, .has_name = true, .no_index = true, .frames = 2},
    {"named", .fill = text, JSON, 3, .has_name = true, .has_time = true},
   
    {"named_blocks", .fill = text, MARKUP, 3, 350, .has_name = true, .has_time = true, .is_stream = true, .has_size = true},
    {"own_model", .fill = text, LOGS, 3, .own_model = true},
    {"own_model_9", .fill = binary, 900, 9, .own_model = true},
};
enum { COUNT = sizeof ARCHIVES / sizeof *ARCHIVES };

static uint8_t data[ROOM], made[ROOM];

static size_t input_of(const golden *a)
{
    gold g = {data, 0, sizeof data, 0, ctx};
    for (const char *s = a->name; *s; s++) g.seed = g.seed * 31 + (uint8_t)*s;
    a->fill(&g, a->arg);
    return g.n;
}

/* ---- Making and reading them ----------------------------------------------------------------- */

/* A model with a text and an object file, but no network: text is in bytes. */
static bool write_own_model(vz_buf *out)
{
    static uint8_t texts[2][2000];
    const size_t size = 1200;
    vz_model m = {.id = 0x601d, .name = "golden", .primes = 2};
    for (int i = 0; i < 2; i++) {
        gold g = {texts[i], 0, sizeof texts[i], 7, ctx};
        if (i == 0) gold_texts(&g, LOGS, size, false);
        else gold_binary(&g, size);
        m.prime[i] = (vz_model_prime){i ? VZ_BINARY : VZ_TEXT, NULL, texts[i], size};
    }
    vz_buf_init(out, ctx);
    return vz_model_write(ctx, &m, out) == FV_OK;
}

static fv_status pack_frame(fv_ctx *c, const golden *a, const uint8_t *from, size_t n, uint8_t *to,
                            size_t *size)
{
    fv_vzip_options o = vz_test_options(a->level, a->block);
    uint8_t *vz;
    o.no_prime = a->no_prime;
    o.no_index = a->no_index;
    o.long_range = a->no_long ? -1 : 0;
    if (a->has_name) o.name = "golden \xc3\xa9t\xc3\xa9.txt";
    o.has_time = a->has_time;
    o.mtime_s = 1700000000;
    o.mtime_ns = 123456789;
    o.mode = 0644;
    o.size = a->has_size ? n : 0;
    o.model = a->own_model ? own_model : NULL;
    if (a->is_stream) {
        pipe_io p = {.in = from, .left = n, .step = 777, .out = to, .room = ARCHIVE_MAX};
        const fv_vzip_io io = pipe_both(&p);
        const fv_status s = fv_vzip_compress_stream(c, &io, &o, NULL);
        *size = p.written;
        return s;
    }
    const fv_status s = fv_vzip_compress(c, from, n, &o, &vz, size);
    if (s != FV_OK) return s;
    if (*size <= ARCHIVE_MAX) memcpy(to, vz, *size);
    fv_free(c, vz);
    return *size <= ARCHIVE_MAX ? FV_OK : FV_ERR_LIMIT;
}

/* Into `made`. */
static fv_status pack(fv_ctx *c, const golden *a, size_t n, size_t *size)
{
    const size_t frames = a->frames > 1 ? (size_t)a->frames : 1;
    *size = 0;
    for (size_t i = 0; i < frames; i++) {
        const size_t from = n * i / frames, to = n * (i + 1) / frames;
        size_t got = 0;
        FV_TRY(pack_frame(c, a, data + from, to - from, made + *size, &got));
        *size += got;
        if (*size > ROOM - ARCHIVE_MAX) return FV_ERR_LIMIT;
    }
    return FV_OK;
}

static bool decodes(fv_ctx *c, const uint8_t *vz, size_t size, size_t n)
{
    const fv_vzip_model *const models[1] = {own_model};
    fv_vzip_limits l = FV_VZIP_LIMITS_INIT;
    uint8_t *back;
    size_t got;
    l.models = models;
    l.model_count = 1;
    if (fv_vzip_decompress(c, vz, size, n + 1, &l, &back, &got) != FV_OK) return false;
    const bool is_same = got == n && (n == 0 || memcmp(back, data, n) == 0);
    fv_free(c, back);
    return is_same;
}

static size_t load(const char *name, const char *suffix, uint8_t *to, size_t room)
{
    char path[1024];
    snprintf(path, sizeof path, FOLDER "%s%s", name, suffix);
    FILE *f = fopen(path, "rb");
    if (!f) return 0;
    const size_t n = fread(to, 1, room, f);
    fclose(f);
    return n;
}

/* ---- What is in them ------------------------------------------------------------------------- */

typedef struct contents {
    uint32_t levels, flags, types, kinds, primes; /* bits of what occurs */
    uint32_t pieces;                              /* bit 0 without, bit 1 with the network */
    int frames, blocks;
} contents;

static bool see_modelled(contents *k, vz_in r, bool has_model, bool is_printed)
{
    uint64_t primes = 0, n, kind, param, size;
    if (has_model && vz_in_varint(&r, &primes) != FV_OK) return false;
    if (vz_in_varint(&r, &n) != FV_OK) return false;
    k->primes |= (uint32_t)primes;
    if (is_printed) printf(" {%x", (unsigned)primes);
    for (; n > 0; n--) {
        param = 0;
        if (vz_in_le(&r, 1, &kind) != FV_OK) return false;
        if ((kind & 128) && vz_in_varint(&r, &param) != FV_OK) return false;
        if (n > 1 && vz_in_varint(&r, &size) != FV_OK) return false;
        k->kinds |= 1u << (kind & 127);
        if ((kind & 127) == VZ_PIECES) k->pieces |= param ? 2u : 1u;
        if (is_printed) printf(" %d(%d)", (int)(kind & 127), (int)param);
    }
    if (is_printed) printf("}");
    return true;
}

static bool see_block(contents *k, vz_in *r, const fv_vzip_limits *l, const vz_header *h, bool *end,
                      bool is_printed)
{
    vz_block_header b;
    uint64_t n, v;
    if (vz_block_header_get(r, l, &b) != FV_OK) return false;
    *end = b.type == VZ_END;
    if (*end) return true;
    k->types |= 1u << b.type;
    k->blocks++;
    if (is_printed) printf(" %d", b.type);
    vz_in in = {r->ctx, r->p, r->p + b.coded};
    r->p = in.end;
    if (b.type == VZ_REFERRING) {
        if (vz_in_varint(&in, &n) != FV_OK) return false;
        for (n *= 3; n > 0; n--)
            if (vz_in_varint(&in, &v) != FV_OK) return false;
        if (vz_in_le(&in, 4, &v) != FV_OK) return false;
        if (in.p == in.end) return true;
        if (vz_block_header_get(&in, l, &b) != FV_OK) return false;
        if (is_printed) printf(":%d", b.type);
    }
    return b.type != VZ_MODELLED || see_modelled(k, in, h->models > 0, is_printed);
}

static bool see(contents *k, const uint8_t *vz, size_t size, bool is_printed)
{
    vz_in r = {ctx, vz, vz + size};
    fv_vzip_limits l;
    if (vz_take_limits(ctx, NULL, &l) != FV_OK) return false;
    while (r.p < r.end) {
        vz_header h;
        uint64_t n, v;
        bool is_end = false;
        if (vz_header_get(&r, &h) != FV_OK) return false;
        k->frames++;
        k->levels |= 1u << h.level;
        k->flags |= (uint32_t)h.flags;
        if (is_printed) printf(" [%02x]", (unsigned)h.flags);
        do
            if (!see_block(k, &r, &l, &h, &is_end, is_printed)) return false;
        while (!is_end && !(h.flags & VZ_IS_SINGLE));
        if (h.flags & VZ_HAS_INDEX) {
            r.p += h.bytes;
            if (vz_in_varint(&r, &n) != FV_OK) return false;
            for (n *= 2; n > 0; n--)
                if (vz_in_varint(&r, &v) != FV_OK) return false;
            r.p += 12;
        }
        if (is_end) r.p += 8;
    }
    return r.p == r.end;
}

/* ---- Tests ----------------------------------------------------------------------------------- */

static void own_model_is_made_again(void)
{
    static uint8_t file[4096];
    vz_buf b;
    CHECK(write_own_model(&b));
    const size_t n = load("golden", ".vzm", file, sizeof file);
    const bool is_same = n == b.size && memcmp(file, b.data, n) == 0;
    vz_buf_free(&b);
    CHECK(is_same);
    OK(ctx, fv_vzip_model_open_memory(ctx, &own_model, file, n));
}

/* All that FORMAT-vz.md knows. */
static void archives_cover_the_format(void)
{
    static uint8_t vz[ARCHIVE_MAX];
    contents k = {0};
    for (int i = 0; i < COUNT; i++) {
        const size_t size = load(ARCHIVES[i].name, ".vz", vz, sizeof vz);
        CHECK_MSG(size > 0 && see(&k, vz, size, false), "%s", ARCHIVES[i].name);
    }
    CHECK_MSG(k.levels == 0x7fe, "levels %x", (unsigned)k.levels);
    CHECK_MSG(k.flags == 0x3f, "flags %x", (unsigned)k.flags);
    CHECK_MSG(k.types == 0xf, "types of blocks %x", (unsigned)k.types);
    CHECK_MSG(k.kinds == 0x1f001f, "kinds %x", (unsigned)k.kinds);
    CHECK_MSG(k.primes == 0x7f, "texts of the model %x", (unsigned)k.primes);
    CHECK_MSG(k.pieces == 3, "pieces %x", (unsigned)k.pieces);
    CHECK(k.frames > COUNT && k.blocks > COUNT);
}

static bool is_made_again(const contents *k, const uint8_t *vz, size_t size, size_t got)
{
    if (got == size && memcmp(made, vz, size) == 0) return true;
    return ZSTD_versionNumber() != ZSTD_OF_ARCHIVES && (k->types & 1u << VZ_ZSTD);
}

/* Coded in an instant: texts of the model, its network and the thorough levels take their time. */
static bool is_quick(const golden *a, const contents *k)
{
    return a->level < 6 && k->primes == 0 && !(k->pieces & 2);
}

typedef enum what { EVERYTHING, OF_THREADS, OF_NETWORK, MOST } what;

static bool is_wanted(const golden *a, const contents *k, what w)
{
    if (w == OF_THREADS) return a->block >= 16384; /* smaller blocks are the caller's */
    return w != OF_NETWORK || (k->pieces & 2);
}

static void check_all(uint32_t disable, int threads, what w)
{
    static uint8_t vz[ARCHIVE_MAX];
    for (int i = 0; i < COUNT; i++) {
        const golden *a = &ARCHIVES[i];
        const size_t size = load(a->name, ".vz", vz, sizeof vz);
        contents k = {0};
        size_t got = 0;
        CHECK_MSG(size > 0 && see(&k, vz, size, false), "%s", a->name);
        if (!is_full && !is_wanted(a, &k, w)) continue;
        const size_t n = input_of(a);
        fv_ctx *c = vz_test_ctx(threads, disable);
        const bool has_decoded = decodes(c, vz, size, n);
        bool is_same = true;
        if (is_full || w == EVERYTHING || w == OF_THREADS || is_quick(a, &k))
            is_same = pack(c, a, n, &got) == FV_OK && is_made_again(&k, vz, size, got);
        if (!has_decoded || !is_same) printf("# %s\n", fv_ctx_error(c));
        fv_ctx_destroy(&c);
        CHECK_MSG(has_decoded, "%s is not decoded", a->name);
        CHECK_MSG(is_same, "%s is made differently", a->name);
    }
}

static void one_thread(void) { check_all(0, 1, EVERYTHING); }
static void two_threads(void) { check_all(0, 2, OF_THREADS); }
static void without_vnni(void) { check_all(FV_CPU_AVX512VNNI, 1, OF_NETWORK); }
static void without_avx512(void) { check_all(FV_CPU_AVX512, 1, MOST); }
static void scalar(void) { check_all(~0u, 1, MOST); }
static void scalar_with_two_threads(void) { check_all(~0u, 2, OF_THREADS); }

/* Rounding up; and where there is such a thing, tiny numbers are zeros. */
static void with_hostile_floats(void)
{
    fenv_t before;
    CHECK(fegetenv(&before) == 0);
    CHECK(fesetround(FE_UPWARD) == 0);
#if defined(__SSE__)
    _mm_setcsr(_mm_getcsr() | 0x8040); /* FTZ, DAZ */
#endif
    check_all(0, 2, MOST);
    fesetenv(&before);
}

/* ---- Making ---------------------------------------------------------------------------------- */

static bool save(const char *name, const char *suffix, const uint8_t *p, size_t n)
{
    char path[1024];
    snprintf(path, sizeof path, FOLDER "%s%s", name, suffix);
    FILE *f = fopen(path, "wb");
    const bool is_written = f && fwrite(p, 1, n, f) == n;
    return f && fclose(f) == 0 && is_written;
}

static int make_archives(void)
{
    vz_buf b;
    size_t all = 0;
    bool is_good = write_own_model(&b) && save("golden", ".vzm", b.data, b.size) &&
                   fv_vzip_model_open_memory(ctx, &own_model, b.data, b.size) == FV_OK;
    vz_buf_free(&b);
    for (int i = 0; is_good && i < COUNT; i++) {
        contents k = {0};
        size_t size = 0;
        const clock_t start = clock();
        const size_t n = input_of(&ARCHIVES[i]);
        is_good = pack(ctx, &ARCHIVES[i], n, &size) == FV_OK &&
                  save(ARCHIVES[i].name, ".vz", made, size);
        printf("%-16s %6d %6d", ARCHIVES[i].name, (int)n, (int)size);
        is_good = is_good && see(&k, made, size, true) && decodes(ctx, made, size, n);
        printf("  %d ms\n", (int)((clock() - start) * 1000 / CLOCKS_PER_SEC));
        all += size;
    }
    printf("%d archives, %d bytes: %s\n", (int)COUNT, (int)all, is_good ? "good" : "FAILED");
    fv_vzip_model_close(&own_model);
    return !is_good;
}

int main(int argc, char **argv)
{
    const uint32_t cpu = fv_cpu_features();
    is_full = vz_test_is_full(argc, argv);
    ctx = vz_test_ctx(1, 0);
    if (argc > 1 && strcmp(argv[1], "make") == 0) {
        const int result = make_archives();
        fv_ctx_destroy(&ctx);
        return result;
    }
    if (!fv_vzip_model_own()) {
        SKIP(one_thread, "the library is built without its model");
        return vz_test_end(&ctx);
    }
    RUN(own_model_is_made_again);
    RUN(archives_cover_the_format);
    RUN(one_thread);
    RUN(two_threads);
    if (cpu & FV_CPU_AVX512VNNI) RUN(without_vnni);
    else SKIP(without_vnni, "this processor has none");
    if (cpu & FV_CPU_AVX512) RUN(without_avx512);
    else SKIP(without_avx512, "this processor has none");
    RUN(scalar);
    RUN(scalar_with_two_threads);
    RUN(with_hostile_floats);
    fv_vzip_model_close(&own_model);
    return vz_test_end(&ctx);
}
