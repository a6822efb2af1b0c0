/* test_vz_solid.c - archives whose blocks refer to earlier data: round trips, random access, damage
 * that spreads no further than what was copied, hostile references, memory. */
#include "alloc_fail.h"
#include "../codec/internal.h"
#include "test.h"

static fv_ctx *ctx;
static bool is_full; /* --full: more of everything */

/* ---- Data: versions of a folder -------------------------------------------------------------- */

enum { PART = 40000, VERSIONS = 5, ALL = PART * VERSIONS };
static uint8_t data[ALL], out[ALL + 4096];

/* Noise, so that whatever is small is small because of references; a few changes in each version. */
static void make_versions(uint64_t seed)
{
    for (size_t i = 0; i < PART; i++) data[i] = (uint8_t)(test_next(&seed) >> 13);
    for (size_t v = 1; v < VERSIONS; v++) {
        uint8_t *p = data + v * PART;
        const size_t shift = test_next(&seed) % 100;
        memcpy(p, data + (v - 1) * PART + shift, PART - shift);
        memset(p + PART - shift, 'e', shift);
        for (int i = 0; i < 5; i++) p[test_next(&seed) % PART] ^= 0x55;
    }
}

static fv_ctx *threads(int n)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_ctx *c = NULL;
    o.threads = n;
    return fv_ctx_create(&c, &o) == FV_OK ? c : NULL;
}

static fv_status pack(fv_ctx *c, uint64_t block, int no_index, uint8_t **vz, size_t *size)
{
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    o.level = 1;
    o.block_bytes = block;
    o.no_index = no_index;
    return fv_vzip_compress(c, data, ALL, &o, vz, size);
}

typedef struct stream {
    const uint8_t *in;
    size_t left, written;
    int damages;
    fv_vzip_damage damage[64];
} stream;

static int64_t stream_read(void *user, void *to, size_t size)
{
    stream *s = user;
    const size_t n = size < s->left ? size : s->left, step = n > 777 ? 777 : n;
    memcpy(to, s->in, step);
    s->in += step;
    s->left -= step;
    return (int64_t)step;
}

static int stream_write(void *user, const void *from, size_t n)
{
    stream *s = user;
    if (n > sizeof out - s->written) return 1;
    memcpy(out + s->written, from, n);
    s->written += n;
    return 0;
}

/* ---- Round trips ----------------------------------------------------------------------------- */

static void versions_are_coded_once(void)
{
    uint8_t *first = NULL, *vz, *back;
    size_t first_size = 0, size, got;
    for (int t = 1; t <= 4; t++) {
        fv_ctx *c = threads(t);
        OK(c, pack(c, 20000, 0, &vz, &size));
        OK(c, fv_vzip_decompress(c, vz, size, ALL, NULL, &back, &got));
        CHECK(got == ALL && memcmp(back, data, ALL) == 0);
        CHECK_MSG(size < PART + PART / 4, "%zu bytes", size);
        if (first) CHECK(size == first_size && memcmp(vz, first, size) == 0);
        if (!first) {
            first = malloc(size);
            first_size = size;
            memcpy(first, vz, size);
        }
        fv_free(c, back);
        fv_free(c, vz);
        fv_ctx_destroy(&c);
    }
    free(first);
}

static void streams_of_unknown_size_as_well(void)
{
    static uint8_t vz[ALL + 4096];
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    o.level = 1;
    for (uint64_t block = 5000; block <= 2 * ALL; block *= 3) {
        stream s = {data, ALL, 0, 0, {{0, 0, NULL}}};
        fv_vzip_io io = {stream_read, stream_write, &s};
        fv_vzip_stats st;
        o.block_bytes = block;
        OK(ctx, fv_vzip_compress_stream(ctx, &io, &o, &st));
        CHECK(st.input_bytes == ALL && (st.referring > 0) == (block < ALL));
        const size_t n = s.written;
        memcpy(vz, out, n);
        s = (stream){vz, n, 0, 0, {{0, 0, NULL}}};
        OK(ctx, fv_vzip_decompress_stream(ctx, &io, ALL, NULL, &st));
        CHECK(s.written == ALL && memcmp(out, data, ALL) == 0 && (st.referring > 0) == (block < ALL));
    }
}

/* One block of references only; a run; a repeat at the very end and of the whole. */
static void odd_repeats(void)
{
    static uint8_t odd[300000];
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    uint8_t *vz, *back;
    size_t size, got;
    o.level = 1;
    o.block_bytes = 10000;
    for (int kind = 0; kind < 4; kind++) {
        memset(odd, kind == 0 ? 0 : 'a', sizeof odd);
        if (kind == 1) memcpy(odd + 290000, data, 10000);
        if (kind >= 2)
            for (size_t i = 0; i < sizeof odd; i++) odd[i] = data[i % (kind == 2 ? 10000 : 997)];
        OK(ctx, fv_vzip_compress(ctx, odd, sizeof odd, &o, &vz, &size));
        OK(ctx, fv_vzip_decompress(ctx, vz, size, sizeof odd, NULL, &back, &got));
        CHECK(got == sizeof odd && memcmp(back, odd, got) == 0);
        CHECK_MSG(size < 12000, "kind %d: %zu bytes", kind, size);
        fv_free(ctx, vz);
        fv_free(ctx, back);
    }
}

/* A block as long as the window, where headers are looked for beyond its end: its first bytes are
 * still needed when the last have been read. */
static void a_full_window_loses_nothing(void)
{
    enum { BLOCK = 512 << 10, PERIOD = BLOCK - 4096, TIMES = 3, LOG2 = 20 };
    uint8_t *all = malloc(TIMES * PERIOD);
    stream s = {all, TIMES * PERIOD, 0, 0, {{0, 0, NULL}}};
    const fv_vzip_io io = {stream_read, stream_write, &s};
    vz_source *source = vz_source_open(ctx, &io);
    vz_buf plain, refs, hints;
    vz_dedup_out to = {&plain, &refs, &hints, 0, 0};
    vz_dedup *d = NULL;
    vz_past past;
    uint64_t seed = 5;
    bool is_all;
    for (size_t i = 0; i < PERIOD; i++) all[i] = i % 512 ? (uint8_t)(test_next(&seed) >> 13) : 'P';
    memcpy(all + 40960, all + 20480, 4096);
    for (int i = 1; i < TIMES; i++) memcpy(all + i * PERIOD, all, PERIOD);
    vz_buf_init(&plain, ctx);
    vz_buf_init(&refs, ctx);
    vz_buf_init(&hints, ctx);
    OK(ctx, vz_past_open(&past, ctx, LOG2));
    OK(ctx, vz_dedup_open(ctx, &d, LOG2, NULL));
    OK(ctx, vz_dedup_start(d, source, BLOCK, &plain, &is_all));
    while (!is_all && past.end < TIMES * PERIOD) {
        const uint64_t from = past.end;
        OK(ctx, vz_dedup_block(d, source, BLOCK, &to));
        const vz_block_header h = {VZ_REFERRING, to.original, refs.size, to.hash, 0};
        OK(ctx, vz_refs_apply(ctx, &h, refs.data, plain.data, plain.size, &past));
        CHECK(vz_past_hash(&past, from, to.original) == to.hash);
    }
    vz_past_close(&past);
    vz_dedup_close(&d);
    vz_buf_free(&hints);
    vz_buf_free(&refs);
    vz_buf_free(&plain);
    vz_source_close(&source);
    free(all);
}

static void references_can_be_left_out(void)
{
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    uint8_t *vz;
    size_t size;
    o.level = 1;
    o.block_bytes = 20000;
    o.long_range = -1;
    OK(ctx, fv_vzip_compress(ctx, data, ALL, &o, &vz, &size));
    CHECK(size > ALL - PART && !(vz[9] & VZ_IS_SOLID)); /* the runs between versions get small */
    fv_free(ctx, vz);
}

/* ---- Random access --------------------------------------------------------------------------- */

static void random_access_equals_slices(void)
{
    uint64_t seed = 3;
    for (int no_index = 0; no_index < 2; no_index++) {
        uint8_t *vz;
        size_t size, got;
        fv_vzip_archive *a;
        OK(ctx, pack(ctx, 7000, no_index, &vz, &size));
        OK(ctx, fv_vzip_open_memory(ctx, &a, vz, size, NULL));
        for (int i = 0; i < (is_full ? 1000 : 60); i++) {
            size_t at = test_next(&seed) % ALL;
            if (i % 3 == 1) at = (size_t)i * 3000 % ALL; /* forwards */
            const size_t n = test_next(&seed) % 10000;
            OK(ctx, fv_vzip_read(ctx, a, at, n, out, &got));
            CHECK(got == (n < ALL - at ? n : ALL - at) && memcmp(out, data + at, got) == 0);
        }
        fv_vzip_close(&a);
        fv_free(ctx, vz);
    }
}

/* ---- Damage ---------------------------------------------------------------------------------- */

static int source_read(void *user, uint64_t offset, void *to, size_t n)
{
    memcpy(to, ((const stream *)user)->in + offset, n);
    return 0;
}

static void on_damage(void *user, const fv_vzip_damage *d)
{
    stream *s = user;
    if (s->damages < 64) s->damage[s->damages++] = *d;
}

/* Recovers and checks that each byte is right or in a range that is said to be lost. */
static bool is_told_truly(const uint8_t *vz, size_t size, uint64_t *lost)
{
    stream s = {vz, size, 0, 0, {{0, 0, NULL}}};
    const fv_vzip_source source = {source_read, size, &s};
    const fv_vzip_io io = {NULL, stream_write, &s};
    if (fv_vzip_recover(ctx, &source, &io, ALL, NULL, on_damage, lost, NULL) != FV_OK) return false;
    if (s.written != ALL) return false;
    for (int i = 0; i < s.damages; i++)
        memcpy(out + s.damage[i].offset, data + s.damage[i].offset, (size_t)s.damage[i].size);
    return memcmp(out, data, ALL) == 0;
}

static void damage_spreads_to_copies_only(void)
{
    uint64_t seed = 4, lost;
    for (int no_index = 0; no_index < 2; no_index++) {
        uint8_t *vz;
        size_t size;
        OK(ctx, pack(ctx, 7000, no_index, &vz, &size));
        CHECK(is_told_truly(vz, size, &lost) && lost == 0);
        for (int i = 0; i < (is_full ? 300 : 20); i++) {
            const size_t at = 24 + test_next(&seed) % (size - 24 - 8);
            const uint8_t bit = (uint8_t)(1u << test_next(&seed) % 8);
            vz[at] ^= bit;
            CHECK_MSG(is_told_truly(vz, size, &lost), "byte %zu of %zu", at, size);
            /* Behind the noise are lists of references, on which all later versions depend. */
            if (at < PART) CHECK_MSG(lost <= VERSIONS * 7000, "byte %zu: %d lost", at, (int)lost);
            vz[at] ^= bit;
        }
        fv_free(ctx, vz);
    }
}

static void no_flipped_bit_is_silent(void)
{
    uint64_t seed = 5;
    uint8_t *vz, *back;
    size_t size, got;
    OK(ctx, pack(ctx, 20000, 0, &vz, &size));
    for (int i = 0; i < (is_full ? 20000 : 400); i++) {
        /* Half of them behind the noise, where the references are. */
        const size_t at = i % 2 ? test_next(&seed) % size : size - 1 - test_next(&seed) % (size / 20);
        vz[at] ^= (uint8_t)(1u << i / 2 % 8);
        const fv_status s = fv_vzip_decompress(ctx, vz, size, ALL, NULL, &back, &got);
        CHECK_MSG(s != FV_OK || (got == ALL && memcmp(back, data, ALL) == 0), "byte %zu", at);
        CHECK_MSG(s == FV_OK || (s >= 20 && s < 40) || s == FV_ERR_OOM, "%s", fv_status_name(s));
        if (s == FV_OK) fv_free(ctx, back);
        vz[at] ^= (uint8_t)(1u << i / 2 % 8);
    }
    fv_free(ctx, vz);
}

/* ---- Hostile references ---------------------------------------------------------------------- */

/* A stored block of 300 bytes, then one of `original` with one reference and `plain` bytes of its
 * own at its end. */
static fv_status open_forged(uint64_t literals, uint64_t length, uint64_t distance, uint64_t plain,
                             uint64_t original, int window_log2, const fv_vzip_limits *l)
{
    vz_header h = {.flags = VZ_IS_SOLID, .level = 1, .memory_log2 = 24, .window_log2 = window_log2};
    const vz_block_header first = {VZ_STORE, 300, 300, vz_hash(data, 300), 0};
    const vz_block_header inner = {VZ_STORE, plain, plain, vz_hash(data, (size_t)plain), 0};
    vz_buf b, refs;
    uint8_t *back;
    size_t n;
    fv_vzip_archive *a;
    vz_buf_init(&b, ctx);
    vz_buf_init(&refs, ctx);
    vz_buf_varint(&refs, 1);
    vz_buf_varint(&refs, literals);
    vz_buf_varint(&refs, length);
    vz_buf_varint(&refs, distance << 1);
    vz_buf_le(&refs, fv_crc32c(0, refs.data, refs.size), 4);
    if (plain) vz_block_header_put(&inner, &refs);
    vz_buf_put(&refs, data, (size_t)plain);
    vz_header_put(&h, &b);
    vz_block_header_put(&first, &b);
    vz_buf_put(&b, data, 300);
    const vz_block_header second = {VZ_REFERRING, original, refs.size, 0, 0};
    vz_block_header_put(&second, &b);
    vz_buf_put(&b, refs.data, refs.size);
    vz_buf_byte(&b, VZ_END);
    const fv_status s = fv_vzip_decompress(ctx, b.data, b.size, 1 << 20, l, &back, &n);
    if (s == FV_OK) fv_free(ctx, back);
    if (fv_vzip_open_memory(ctx, &a, b.data, b.size, l) == FV_OK) {
        (void)!fv_vzip_read(ctx, a, 250, 500, out, &n);
        fv_vzip_close(&a);
    }
    vz_buf_free(&b);
    vz_buf_free(&refs);
    return s;
}

static void hostile_references_are_refused(void)
{
    fv_vzip_limits l = FV_VZIP_LIMITS_INIT;
    CHECK(open_forged(5, 200, 100, 10, 210, 20, NULL) == FV_ERR_CHECKSUM); /* well formed */
    CHECK(open_forged(0, 200, 300, 0, 200, 20, NULL) == FV_ERR_CHECKSUM);
    CHECK(open_forged(0, 200, 301, 0, 200, 20, NULL) == FV_ERR_FORMAT);  /* before the start */
    CHECK(open_forged(0, 200, 0, 0, 200, 20, NULL) == FV_ERR_FORMAT);    /* of itself */
    CHECK(open_forged(0, 0, 10, 200, 200, 20, NULL) == FV_ERR_FORMAT);   /* nothing */
    CHECK(open_forged(11, 190, 10, 10, 200, 20, NULL) == FV_ERR_FORMAT); /* more than there is */
    CHECK(open_forged(0, 201, 10, 0, 200, 20, NULL) == FV_ERR_FORMAT);
    CHECK(open_forged(0, 199, 10, 0, 200, 20, NULL) == FV_ERR_TRUNCATED);
    CHECK(open_forged(UINT64_MAX, 2, 10, 0, 200, 20, NULL) == FV_ERR_FORMAT);
    CHECK(open_forged(0, UINT64_MAX, UINT64_MAX / 2, 0, 200, 20, NULL) == FV_ERR_FORMAT);
    CHECK(open_forged(0, (1 << 18) + 1, 10, 0, (1 << 18) + 1, 18, NULL) == FV_ERR_FORMAT);
    CHECK(open_forged(0, 200, 10, 0, 200, 17, NULL) == FV_ERR_FORMAT);
    CHECK(open_forged(0, 200, 10, 0, 200, 31, NULL) == FV_ERR_FORMAT);
    l.memory_bytes = (1 << 20) - 1;
    CHECK(open_forged(5, 200, 100, 10, 210, 20, &l) == FV_ERR_OOM);
    l.memory_bytes = (1 << 20) + 1000;
    CHECK(open_forged(5, 200, 100, 10, 210, 20, &l) == FV_ERR_CHECKSUM);
}

static fv_status whole_job(fv_ctx *c)
{
    uint8_t *vz = NULL, *back = NULL, part[100];
    size_t size, got;
    fv_vzip_archive *a = NULL;
    fv_status s = pack(c, 20000, 0, &vz, &size);
    if (s == FV_OK) s = fv_vzip_decompress(c, vz, size, ALL, NULL, &back, &got);
    if (s == FV_OK && (got != ALL || memcmp(back, data, ALL) != 0)) s = FV_ERR_INTERNAL;
    if (s == FV_OK) s = fv_vzip_open_memory(c, &a, vz, size, NULL);
    if (s == FV_OK) s = fv_vzip_read(c, a, ALL - 200, sizeof part, part, &got);
    if (s == FV_OK && memcmp(part, data + ALL - 200, sizeof part) != 0) s = FV_ERR_INTERNAL;
    fv_vzip_close(&a);
    fv_free(c, back);
    fv_free(c, vz);
    return s;
}

static void every_failing_allocation_is_reported(void)
{
    for (int64_t n = 0;; n += is_full || n < 60 ? 1 : 7) {
        alloc_fail heap = {.left = n};
        const fv_allocator al = alloc_fail_allocator(&heap);
        fv_ctx *c;
        fv_ctx_options o = FV_CTX_OPTIONS_INIT;
        o.alloc = &al;
        o.threads = 2;
        if (fv_ctx_create(&c, &o) != FV_OK) continue;
        const fv_status s = whole_job(c);
        const bool has_message = fv_ctx_error(c)[0] != 0;
        fv_ctx_destroy(&c);
        CHECK_MSG(heap.live == 0, "allocation %d: %d blocks left", (int)n, (int)heap.live);
        if (s == FV_OK) break;
        CHECK_MSG(s == FV_ERR_OOM && has_message, "allocation %d: %s", (int)n, fv_status_name(s));
        CHECK(n < 5000);
    }
}

int main(int argc, char **argv)
{
    is_full = argc > 1 && strcmp(argv[1], "--full") == 0;
    ctx = threads(2);
    if (!ctx) return 1;
    make_versions(1);
    RUN(versions_are_coded_once);
    RUN(streams_of_unknown_size_as_well);
    RUN(odd_repeats);
    RUN(a_full_window_loses_nothing);
    RUN(references_can_be_left_out);
    RUN(random_access_equals_slices);
    RUN(damage_spreads_to_copies_only);
    RUN(no_flipped_bit_is_silent);
    RUN(hostile_references_are_refused);
    RUN(every_failing_allocation_is_reported);
    fv_memory_stats m;
    fv_ctx_memory(ctx, &m);
    if (m.current_bytes) printf("# %llu bytes leaked\n", (unsigned long long)m.current_bytes);
    fv_ctx_destroy(&ctx);
    return test_end() || m.current_bytes;
}
