/* test_vz_solid.c - archives whose blocks refer to earlier data: round trips, random access, damage
 * that spreads no further than what was copied, hostile references, memory. */
#include "../codec/vz_archive.h"
#include "vz_fixture.h"

static fv_ctx *ctx;
static bool is_full; /* --full: more of everything */

/* ---- Data: versions of a folder -------------------------------------------------------------- */

enum { PART = 40000, VERSIONS = 5, ALL = PART * VERSIONS };
static uint8_t data[ALL], out[2 * ALL];

/* Noise, so that whatever is small is small because of references; some changes in each version. */
static void make_versions(uint64_t seed)
{
    put_noise(data, PART, seed);
    seed += 77;
    for (size_t v = 1; v < VERSIONS; v++) {
        uint8_t *p = data + v * PART;
        const size_t shift = test_next(&seed) % 100;
        memcpy(p, data + (v - 1) * PART + shift, PART - shift);
        memset(p + PART - shift, 'e', shift);
        for (int i = 0; i < 5; i++) p[test_next(&seed) % PART] ^= 0x55;
    }
}

enum { INDEXED, WALKED, PIPED, KINDS }; /* of archives: walked have no index, nor piped a size */

static fv_status pack(fv_ctx *c, uint64_t block, int kind, uint8_t **vz, size_t *size)
{
    fv_vzip_options o = vz_test_options(1, block);
    o.no_index = kind != INDEXED;
    if (kind != PIPED) return fv_vzip_compress(c, data, ALL, &o, vz, size);
    pipe_io p = {data, ALL, 777, out, 0, sizeof out, 0, 0};
    const fv_vzip_io io = pipe_both(&p);
    const fv_status s = fv_vzip_compress_stream(c, &io, &o, NULL);
    *size = p.written;
    *vz = s == FV_OK ? fv_alloc(c, p.written) : NULL;
    if (*vz) memcpy(*vz, out, p.written);
    return s == FV_OK && !*vz ? FV_ERR_OOM : s;
}

/* ---- Round trips ----------------------------------------------------------------------------- */

static void versions_are_coded_once(void)
{
    uint8_t *vz;
    size_t size;
    vz_buf first;
    vz_buf_init(&first, ctx);
    for (int t = 1; t <= 4; t++) {
        fv_ctx *c = vz_test_ctx(t, 0);
        OK(c, pack(c, 20000, INDEXED, &vz, &size));
        CHECK(unpacks_to(c, vz, size, data, ALL));
        CHECK_MSG(size < PART + PART / 4, "%zu bytes", size);
        CHECK(is_as_the_first(&first, vz, size));
        fv_free(c, vz);
        fv_ctx_destroy(&c);
    }
    vz_buf_free(&first);
}

static void streams_of_unknown_size_as_well(void)
{
    static uint8_t vz[ALL + 4096];
    fv_vzip_options o = vz_test_options(1, 0);
    for (uint64_t block = 5000; block <= 2 * ALL; block *= 3) {
        pipe_io s = {data, ALL, 777, out, 0, sizeof out, 0, 0};
        const fv_vzip_io io = pipe_both(&s);
        fv_vzip_stats st;
        o.block_bytes = block;
        OK(ctx, fv_vzip_compress_stream(ctx, &io, &o, &st));
        CHECK(st.input_bytes == ALL && (st.referring > 0) == (block < ALL));
        const size_t n = s.written;
        memcpy(vz, out, n);
        s = (pipe_io){vz, n, 777, out, 0, sizeof out, 0, 0};
        OK(ctx, fv_vzip_decompress_stream(ctx, &io, ALL, NULL, &st));
        CHECK(s.written == ALL && memcmp(out, data, ALL) == 0);
        CHECK((st.referring > 0) == (block < ALL));
    }
}

/* One block of references only; a run; a repeat at the very end and of the whole. */
static void odd_repeats(void)
{
    static uint8_t odd[300000];
    const fv_vzip_options o = vz_test_options(1, 10000);
    uint8_t *vz;
    size_t size;
    for (int kind = 0; kind < 4; kind++) {
        memset(odd, kind == 0 ? 0 : 'a', sizeof odd);
        if (kind == 1) memcpy(odd + 290000, data, 10000);
        if (kind >= 2)
            for (size_t i = 0; i < sizeof odd; i++) odd[i] = data[i % (kind == 2 ? 10000 : 997)];
        OK(ctx, fv_vzip_compress(ctx, odd, sizeof odd, &o, &vz, &size));
        CHECK(unpacks_to(ctx, vz, size, odd, sizeof odd));
        CHECK_MSG(size < 12000, "kind %d: %zu bytes", kind, size);
        fv_free(ctx, vz);
    }
}

/* A block as long as the window, where headers are looked for beyond its end: its first bytes are
 * still needed when the last have been read. */
static void a_full_window_loses_nothing(void)
{
    enum { BLOCK = 512 << 10, PERIOD = BLOCK - 4096, TIMES = 3, LOG2 = 20 };
    uint8_t *all = malloc(TIMES * PERIOD);
    pipe_io s = {all, TIMES * PERIOD, 777, out, 0, sizeof out, 0, 0};
    const fv_vzip_io io = pipe_both(&s);
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
    fv_vzip_options o = vz_test_options(1, 20000);
    uint8_t *vz;
    size_t size;
    o.long_range = -1;
    OK(ctx, fv_vzip_compress(ctx, data, ALL, &o, &vz, &size));
    CHECK(size > ALL - PART && !(vz[9] & VZ_IS_SOLID)); /* the runs between versions get small */
    fv_free(ctx, vz);
}

/* What is left beside the references is small as well, and the decoder agrees. */
static void verified_references_pass(void)
{
    enum { TEXT = 60000, COPY = 20000 };
    static uint8_t text[TEXT];
    fv_vzip_options o = vz_test_options(1, 20000);
    fv_vzip_stats st;
    for (size_t at = 0, i = 0; at + 20 < TEXT; i++)
        at += (size_t)snprintf((char *)text + at, 20, "line %zu, %zu\n", i, i * i % 9973);
    memcpy(text + TEXT / 2, text + 100, COPY);
    o.verify = 1;
    pipe_io p = {text, TEXT, 777, out, 0, sizeof out, 0, 0};
    const fv_vzip_io io = pipe_both(&p);
    OK(ctx, fv_vzip_compress_stream(ctx, &io, &o, &st));
    CHECK(st.referring > 0 && st.failed_checks == 0 && st.stored == 0);
    CHECK(unpacks_to(ctx, out, p.written, text, TEXT));
}

/* ---- Random access --------------------------------------------------------------------------- */

static void random_access_equals_slices(void)
{
    uint64_t seed = 3;
    for (int kind = 0; kind < KINDS; kind++) {
        uint8_t *vz;
        size_t size, got;
        fv_vzip_archive *a;
        OK(ctx, pack(ctx, 7000, kind, &vz, &size));
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

/* Recovers and checks that each byte is right or in a range that is said to be lost. Where no size
 * was known the first range may have another length than what is lost. */
static bool is_told_truly(const uint8_t *vz, size_t size, int kind, uint64_t *lost)
{
    recovered r;
    uint64_t sum = 0;
    const fv_status s = vz_test_recover(ctx, &r, vz, size, out, kind == PIPED ? sizeof out : ALL);
    *lost = r.lost;
    if (kind == PIPED && (s == FV_ERR_LIMIT || s == FV_ERR_OOM)) return true; /* a size that lies */
    if (s != FV_OK || r.damages > 64 || (kind != PIPED && r.io.written != ALL)) return false;
    const uint64_t first = r.damages ? r.damage[0].offset + r.damage[0].size : 0;
    const uint64_t behind = r.io.written - first;
    if (first > r.io.written || behind > ALL) return false;
    const uint8_t *expected = data + ALL - behind;
    for (int i = 0; i < r.damages; i++) {
        const fv_vzip_damage *d = &r.damage[i];
        sum += d->size;
        if (i > 0) memcpy(out + d->offset, expected + (d->offset - first), (size_t)d->size);
    }
    return sum == r.lost && memcmp(out + first, expected, (size_t)behind) == 0 &&
           (!r.damages || memcmp(out, data, (size_t)r.damage[0].offset) == 0);
}

/* The block that byte `at` of the archive is in, which ends before *end, and where its plain bytes
 * begin; false: behind all blocks. */
static bool find_block(fv_vzip_archive *a, size_t at, vz_place *b, uint64_t *plain, uint64_t *n)
{
    for (size_t i = 0; i < a->block_count; i++) {
        vz_block_header h, inner;
        const uint8_t *payload;
        *b = a->blocks[i];
        if (at >= b->at + b->coded) continue;
        if (vz_archive_load(a, i, &h, &inner, &payload) != FV_OK) return false;
        *plain = b->at + b->coded - inner.coded;
        *n = inner.original;
        return true;
    }
    return false;
}

/* What may be lost at most if byte `at` of the archive is wrong. Behind the blocks: nothing. In the
 * plain bytes of a block: these and their copies in each version. In its header, or its list of
 * references: the block, for where its plain bytes belong is not known either, and as the later
 * blocks are made of copies, these. */
static uint64_t most_lost(fv_vzip_archive *a, size_t at)
{
    vz_place b;
    uint64_t plain, n;
    if (!find_block(a, at, &b, &plain, &n)) return 0;
    return at >= plain ? VERSIONS * n : ALL - b.original_at;
}

/* Byte `at` of the archive changed. */
static void damage(fv_vzip_archive *a, uint8_t *vz, size_t size, int kind, size_t at,
                   uint8_t change)
{
    uint64_t lost;
    vz[at] ^= change;
    CHECK_MSG(is_told_truly(vz, size, kind, &lost), "kind %d, byte %zu of %zu", kind, at, size);
    CHECK_MSG(kind == PIPED || lost <= most_lost(a, at), "kind %d, byte %zu of %zu: %d lost", kind,
              at, size, (int)lost);
    vz[at] ^= change;
}

/* Headers and lists of references. The plain bytes inside of a block of which both are gone must
 * not be taken for a block. */
static void damage_lists(fv_vzip_archive *a, uint8_t *vz, const uint8_t *whole, size_t size,
                         int kind)
{
    uint64_t plain, n, lost;
    vz_place b;
    for (size_t at = (size_t)a->blocks[0].at; find_block(a, at, &b, &plain, &n);
         at = (size_t)(b.at + b.coded)) {
        for (; at < plain; at++)
            for (int bit = 0; bit < 8; bit += is_full ? 1 : 5)
                damage(a, vz, size, kind, at, (uint8_t)(1 << bit));
        for (at = (size_t)b.at; at + 13 < plain; at++) vz[at] = 0xee;
        CHECK_MSG(is_told_truly(vz, size, kind, &lost), "kind %d, block at %d", kind, (int)b.at);
        memcpy(vz, whole, size);
    }
}

static void damage_spreads_to_copies_only(void)
{
    uint64_t seed = 4, lost;
    for (int kind = 0; kind < KINDS; kind++) {
        uint8_t *vz, *whole;
        size_t size;
        fv_vzip_archive *a;
        OK(ctx, pack(ctx, 7000, kind, &vz, &size));
        CHECK(whole = malloc(size));
        memcpy(whole, vz, size);
        OK(ctx, fv_vzip_open_memory(ctx, &a, whole, size, NULL));
        CHECK(is_told_truly(vz, size, kind, &lost) && lost == 0);
        for (int i = 0; i < (is_full ? 300 : 20); i++) {
            const size_t at = 24 + test_next(&seed) % (size - 24 - 8);
            damage(a, vz, size, kind, at, (uint8_t)(1u << test_next(&seed) % 8));
        }
        damage_lists(a, vz, whole, size, kind);
        fv_vzip_close(&a);
        free(whole);
        fv_free(ctx, vz);
    }
}

static void no_flipped_bit_is_silent(void)
{
    uint64_t seed = 5;
    uint8_t *vz, *back;
    size_t size, got;
    OK(ctx, pack(ctx, 20000, INDEXED, &vz, &size));
    for (int i = 0; i < (is_full ? 20000 : 400); i++) {
        /* Half of them behind the noise, where the references are. */
        const size_t at = i % 2 ? test_next(&seed) % size
                                : size - 1 - test_next(&seed) % (size / 20);
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

static void every_failing_allocation_is_reported(void)
{
    each_allocation_of_a_job_may_fail(data, ALL, 20000, ALL - 200, is_full ? 1 : 7);
}

int main(int argc, char **argv)
{
    is_full = vz_test_is_full(argc, argv);
    ctx = vz_test_ctx(2, 0);
    make_versions(1);
    RUN(versions_are_coded_once);
    RUN(streams_of_unknown_size_as_well);
    RUN(odd_repeats);
    RUN(a_full_window_loses_nothing);
    RUN(references_can_be_left_out);
    RUN(verified_references_pass);
    RUN(random_access_equals_slices);
    RUN(damage_spreads_to_copies_only);
    RUN(no_flipped_bit_is_silent);
    RUN(hostile_references_are_refused);
    RUN(every_failing_allocation_is_reported);
    return vz_test_end(&ctx);
}
