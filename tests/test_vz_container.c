/* test_vz_container.c - vzip archives: round trips, the same bytes for every thread count, damage
 * at every bit and every length, hostile headers, limits, memory that runs out. */
#include "sanitized.h"
#include "vz_fixture.h"

#include <dirent.h>
#include <sys/stat.h>
#include <zstd.h>

static fv_ctx *ctx, *one_thread;
static bool is_full; /* --full: minutes instead of seconds */

/* ---- Data ------------------------------------------------------------------------------------ */

enum { TEXT, NOISE, ZEROS, KINDS };

static void fill(uint8_t *p, size_t n, int kind, uint64_t seed)
{
    static const char *const words[] = {"the ", "block ", "of ", "an ", "archive ", "holds ",
                                        "bytes,\n", "and ", "index "};
    size_t i = 0;
    if (kind == ZEROS) memset(p, 0, n);
    if (kind == NOISE) put_noise(p, n, seed);
    while (kind == TEXT && i < n) {
        const char *w = words[test_next(&seed) % FV_ARRAY_LEN(words)];
        while (*w && i < n) p[i++] = (uint8_t)*w++;
    }
}

static fv_status pack(fv_ctx *c, const uint8_t *data, size_t n, uint64_t block, uint8_t **vz,
                      size_t *size)
{
    const fv_vzip_options o = vz_test_options(1, block);
    return fv_vzip_compress(c, data, n, &o, vz, size);
}

/* ---- Round trips ----------------------------------------------------------------------------- */

static void round_trip_of_every_length(void)
{
    enum { MAX = 4100 };
    static uint8_t data[MAX];
    fv_ctx *c[4];
    for (int i = 0; i < 4; i++) c[i] = vz_test_ctx(i + 1, 0);
    /* Modelled blocks take milliseconds to set up, so that all lengths are for --full. */
    for (size_t n = 0; n <= MAX; n += is_full || n < 260 || n % 1500 < 2 ? 1 : 41) {
        uint8_t *vz, *back;
        size_t size, got;
        fv_ctx *one = c[n % 4], *other = c[(n + 1) % 4];
        fill(data, n, (int)(n % KINDS), n);
        OK(one, pack(one, data, n, 1500, &vz, &size));
        CHECK(size <= n + 130); /* three blocks and their index */
        OK(other, fv_vzip_decompress(other, vz, size, n ? n : 1, NULL, &back, &got));
        CHECK_MSG(got == n && memcmp(back, data, n) == 0, "length %zu", n);
        fv_free(one, vz);
        fv_free(other, back);
    }
    for (int i = 0; i < 4; i++) fv_ctx_destroy(&c[i]);
}

static void same_bytes_for_1_to_4_threads(void)
{
    enum { N = 200000 };
    uint8_t *data = malloc(N), *vz;
    size_t size;
    vz_buf first;
    vz_buf_init(&first, ctx);
    fill(data, N, TEXT, 1);
    fill(data + 30000, 70000, NOISE, 2);
    fill(data + 120000, 40000, ZEROS, 3);
    for (int t = 1; t <= 4; t++) {
        fv_ctx *c = vz_test_ctx(t, 0);
        OK(c, pack(c, data, N, 20011, &vz, &size));
        CHECK(is_as_the_first(&first, vz, size));
        fv_free(c, vz);
        fv_ctx_destroy(&c);
    }
    vz_buf_free(&first);
    free(data);
}

static void round_trip_of_streams_with_short_reads(void)
{
    enum { N = 50000 };
    static uint8_t data[N], vz[N + 4096], back[N];
    const size_t lengths[] = {0, 1, 4095, 4096, 4097, 40960, N};
    fv_vzip_options o = vz_test_options(1, 4096);
    fill(data, N, TEXT, 5);
    for (size_t i = 0; i < FV_ARRAY_LEN(lengths); i++)
        for (int known = 0; known < 2; known++) {
            const size_t n = lengths[i];
            pipe_io in = {data, n, 37, vz, 0, sizeof vz, 0, 0};
            const fv_vzip_io io = pipe_both(&in);
            fv_vzip_stats st;
            o.size = known ? n : 0;
            OK(ctx, fv_vzip_compress_stream(ctx, &io, &o, &st));
            CHECK(st.input_bytes == n && st.output_bytes == in.written);
            pipe_io out = {vz, in.written, 11, back, 0, N, 0, 0};
            const fv_vzip_io oi = pipe_both(&out);
            OK(ctx, fv_vzip_decompress_stream(ctx, &oi, N, NULL, &st));
            CHECK(out.written == n && memcmp(back, data, n) == 0 && st.frames == 1);
            CHECK(st.blocks == (n + 4095) / 4096);
        }
}

static void concatenated_archives_give_concatenated_data(void)
{
    uint8_t data[3000], all[8192], *vz;
    size_t size, got, n = 0;
    fv_vzip_archive *a;
    fv_vzip_info info;
    fill(data, sizeof data, TEXT, 6);
    /* Several blocks, one block, nothing, one block without an index behind it. */
    const size_t from[] = {0, 1000, 1000, 1500}, to[] = {1000, 1000, 1500, 3000};
    const uint64_t block[] = {300, 300, 4096, 400};
    for (int i = 0; i < 4; i++) {
        OK(ctx, pack(ctx, data + from[i], to[i] - from[i], block[i], &vz, &size));
        memcpy(all + n, vz, size);
        n += size;
        fv_free(ctx, vz);
    }
    CHECK(unpacks_to(ctx, all, n, data, 3000));
    OK(ctx, fv_vzip_open_memory(ctx, &a, all, n, NULL));
    fv_vzip_get_info(a, &info);
    CHECK(info.frames == 4 && info.original_bytes == 3000 && info.blocks == 9);
    OK(ctx, fv_vzip_read(ctx, a, 990, 20, all, &got));
    CHECK(got == 20 && memcmp(all, data + 990, 20) == 0);
    fv_vzip_close(&a);
}

static void archive_of_an_archive_is_not_mistaken_for_it(void)
{
    uint8_t data[5000], *vz, *twice, *back;
    size_t size, size2, got;
    fv_vzip_archive *a;
    fill(data, sizeof data, NOISE, 7);
    OK(ctx, pack(ctx, data, sizeof data, 1000, &vz, &size));
    OK(ctx, pack(ctx, vz, size, 1 << 20, &twice, &size2));
    OK(ctx, fv_vzip_open_memory(ctx, &a, twice, size2, NULL));
    fv_vzip_info info;
    fv_vzip_get_info(a, &info);
    CHECK(info.original_bytes == size && info.blocks == 1);
    back = malloc(size);
    OK(ctx, fv_vzip_read(ctx, a, 0, size, back, &got));
    CHECK(got == size && memcmp(back, vz, size) == 0);
    free(back);
    fv_vzip_close(&a);
    fv_free(ctx, vz);
    fv_free(ctx, twice);
}

static void name_and_time_are_kept(void)
{
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    uint8_t *vz;
    size_t size;
    fv_vzip_archive *a;
    fv_vzip_frame f;
    o.name = "na\xc3\xafve file.txt";
    o.has_time = 1;
    o.mtime_s = -5;
    o.mtime_ns = 999999999;
    o.mode = 0640;
    OK(ctx, fv_vzip_compress(ctx, "abc", 3, &o, &vz, &size));
    OK(ctx, fv_vzip_open_memory(ctx, &a, vz, size, NULL));
    OK(ctx, fv_vzip_get_frame(a, 0, &f));
    CHECK(strcmp(f.name, o.name) == 0 && f.has_time && f.mtime_s == -5);
    CHECK(f.mtime_ns == 999999999 && f.mode == 0640 && f.level == 3 && f.original_bytes == 3);
    CHECK(fv_vzip_get_frame(a, 1, &f) == FV_ERR_ARG);
    fv_vzip_close(&a);
    fv_free(ctx, vz);
}

static void never_larger_than_stored(void)
{
    uint64_t seed = 9;
    uint8_t data[2000];
    for (int i = 0; i < 300; i++) {
        uint8_t *vz;
        size_t size;
        const size_t n = test_next(&seed) % sizeof data;
        fill(data, n, NOISE, seed);
        OK(ctx, fv_vzip_compress(ctx, data, n, NULL, &vz, &size));
        CHECK(size <= n + 40);
        fv_free(ctx, vz);
    }
}

/* ---- Never larger than zstd -19 -------------------------------------------------------------- */

/* Files of this system, for parts of all kinds; the test itself if there are no others. */
enum { FILES_MAX = 3000 };
static char *files[FILES_MAX];
static size_t file_count;

static void find_files(const char *folder, int depth, size_t most)
{
    DIR *d = opendir(folder);
    struct dirent *e;
    struct stat st;
    char path[1024];
    for (size_t n = 0; d && n < most && file_count < FILES_MAX && (e = readdir(d)) != NULL;) {
        if (e->d_name[0] == '.') continue;
        if (snprintf(path, sizeof path, "%s/%s", folder, e->d_name) >= (int)sizeof path) continue;
        if (lstat(path, &st) != 0) continue;
        if (S_ISDIR(st.st_mode) && depth > 0) find_files(path, depth - 1, most);
        if (!S_ISREG(st.st_mode) || st.st_size == 0) continue;
        files[file_count++] = strdup(path);
        n++;
    }
    if (d) closedir(d);
}

/* Up to `most` bytes from anywhere in some file, or made. */
static size_t some_bytes(uint8_t *p, size_t most, uint64_t *seed)
{
    size_t n = test_next(seed) % 3 ? test_next(seed) % (most / 10) : test_next(seed) % (most + 1);
    const int made = (int)(test_next(seed) % 8);
    FILE *f = file_count ? fopen(files[test_next(seed) % file_count], "rb") : NULL;
    if (made < KINDS || !f) {
        fill(p, n, made % KINDS, test_next(seed));
    } else {
        (void)!fseek(f, 0, SEEK_END);
        const long all = ftell(f);
        const bool is_inside = test_next(seed) % 2 && all > 0;
        (void)!fseek(f, is_inside ? (long)(test_next(seed) % (uint32_t)all) : 0, SEEK_SET);
        n = fread(p, 1, n, f);
    }
    if (f) fclose(f);
    return n;
}

static void never_larger_than_zstd(void)
{
    enum { MOST = 20000 };
    static uint8_t data[MOST], code[2 * MOST];
    static const int levels[] = {1, 3, 9};
    static const char *const folders[] = {"/usr/bin", "/usr/lib", "/usr/share", "/etc",
                                          "/usr/include"};
    uint64_t seed = 91;
    for (size_t i = 0; i < FV_ARRAY_LEN(folders); i++) find_files(folders[i], 3, 40);
    for (int i = 0; i < (is_full ? 10000 : TEST_SANITIZED ? 30 : 300); i++) {
        const fv_vzip_options o = vz_test_options(levels[i % 3], 0);
        uint8_t *vz;
        size_t size;
        /* Most files are small: --full is half an hour otherwise. */
        const size_t most = !is_full ? MOST / 3 : i % 16 ? MOST / 10 : MOST;
        const size_t n = some_bytes(data, most, &seed);
        const size_t zstd = ZSTD_compress(code, sizeof code, data, n, 19);
        OK(one_thread, fv_vzip_compress(one_thread, data, n, &o, &vz, &size));
        CHECK_MSG(size <= zstd + 64 + 24, "file %d of %zu bytes, level %d: %zu, zstd -19 %zu", i, n,
                  o.level, size, zstd);
        fv_free(one_thread, vz);
    }
    while (file_count) free(files[--file_count]);
}

/* What zstd -19 finds with its window of 8 MiB: a repeat within a block, and one in the next. */
static void never_larger_than_zstd_over_blocks(void)
{
    enum { A = (TEST_SANITIZED ? 1 : 5) << 20, MORE = A / 5 * 2 };
    uint8_t *data = malloc(2 * A), *vz;
    size_t size;
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    fill(data, A, NOISE, 92);
    memcpy(data + A, data, A);
    OK(ctx, fv_vzip_compress(ctx, data, A + MORE, &o, &vz, &size));
    CHECK_MSG(size < A + A / 100, "%zu bytes", size);
    fv_free(ctx, vz);
    OK(ctx, fv_vzip_compress(ctx, data, 2 * A, &o, &vz, &size));
    CHECK_MSG(size < A + 1000, "%zu bytes", size);
    fv_free(ctx, vz);
    free(data);
}

/* ---- Random access --------------------------------------------------------------------------- */

static void random_access_equals_slices(void)
{
    enum { N = 100000 };
    static uint8_t data[N], part[N];
    uint64_t seed = 10;
    for (int no_index = 0; no_index < 2; no_index++) {
        fv_vzip_options o = vz_test_options(1, 7777);
        uint8_t *vz;
        size_t size, got;
        fv_vzip_archive *a;
        fv_vzip_info info;
        o.no_index = no_index;
        fill(data, N, TEXT, 11);
        OK(ctx, fv_vzip_compress(ctx, data, N, &o, &vz, &size));
        OK(ctx, fv_vzip_open_memory(ctx, &a, vz, size, NULL));
        fv_vzip_get_info(a, &info);
        CHECK(info.has_index == !no_index && info.original_bytes == N && info.blocks == 13);
        for (int i = 0; i < 60; i++) {
            const size_t at = test_next(&seed) % (N + 10), n = test_next(&seed) % 20000;
            const size_t want = at >= N ? 0 : n < N - at ? n : N - at;
            OK(ctx, fv_vzip_read(ctx, a, at, n, part, &got));
            CHECK(got == want && memcmp(part, data + (at < N ? at : 0), got) == 0);
        }
        OK(ctx, fv_vzip_read(ctx, a, UINT64_MAX, 5, part, &got));
        CHECK(got == 0);
        fv_vzip_close(&a);
        fv_free(ctx, vz);
    }
}

/* ---- Damage ---------------------------------------------------------------------------------- */

static void make_mixed(uint8_t *data, size_t n)
{
    fill(data, n, TEXT, 12);
    fill(data + n / 4, n / 4, NOISE, 13);
}

/* Stored blocks and a modelled one at the end: a wrong block ends the decoding, and a modelled one
 * takes milliseconds. */
static void every_flipped_bit_is_seen_or_harmless(void)
{
    enum { N = 5250 };
    static uint8_t data[N];
    uint8_t *vz;
    size_t size;
    fv_vzip_options o = vz_test_options(1, N / 3);
    fill(data, N, NOISE, 13);
    fill(data + 2 * N / 3, is_full ? N / 3 : N / 9, TEXT, 12);
    fill(data + 2 * N / 3 + N / 9, 2 * N / 9, ZEROS, 12);
    o.name = "x";
    o.has_time = 1;
    OK(ctx, fv_vzip_compress(ctx, data, N, &o, &vz, &size));
    CHECK_MSG(size > 3500 && size < 4500, "archive of %zu bytes", size);
    each_flip_is_seen_or_harmless(one_thread, vz, size, data, N);
    fv_free(ctx, vz);
}

static void every_flipped_bit_of_a_zstd_block_is_seen_or_harmless(void)
{
    static uint8_t data[4000], code[4000];
    vz_buf b;
    vz_header h = {.flags = VZ_IS_SINGLE, .level = 3, .memory_log2 = 26};
    fill(data, sizeof data, TEXT, 15);
    const size_t n = ZSTD_compress(code, sizeof code, data, sizeof data, 19);
    CHECK(!ZSTD_isError(n));
    const vz_block_header block = {VZ_ZSTD, sizeof data, n, vz_hash(data, sizeof data), 0};
    vz_buf_init(&b, ctx);
    vz_header_put(&h, &b);
    vz_block_header_put(&block, &b);
    vz_buf_put(&b, code, n);
    OK(ctx, b.status);
    each_flip_is_seen_or_harmless(one_thread, b.data, b.size, data, sizeof data);
    vz_buf_free(&b);
}

static void every_truncation_is_an_error_with_a_right_beginning(void)
{
    enum { N = 6000 };
    static uint8_t data[N], out[N];
    uint8_t *vz;
    size_t size;
    make_mixed(data, N);
    for (int single = 0; single < 2; single++) {
        OK(ctx, pack(ctx, data, N, single ? N : 1000, &vz, &size));
        for (size_t n = 0; n < size; n += is_full || single ? 1 : 1 + n / 200) {
            pipe_io p = {vz, n, 0, out, 0, N, 0, 0};
            const fv_vzip_io io = pipe_both(&p);
            const fv_status s = fv_vzip_decompress_stream(one_thread, &io, N, NULL, NULL);
            CHECK_MSG(s == FV_ERR_TRUNCATED, "%zu: %s", n, fv_status_name(s));
            CHECK(memcmp(out, data, p.written) == 0 && p.written % 1000 == 0);
            fv_vzip_archive *a = NULL;
            CHECK(fv_vzip_open_memory(ctx, &a, vz, n, NULL) != FV_OK && a == NULL);
        }
        fv_free(ctx, vz);
    }
}

static void bytes_after_the_end_are_an_error(void)
{
    uint8_t *vz, *back, more[200];
    size_t size, got;
    OK(ctx, pack(ctx, (const uint8_t *)"abc", 3, 0, &vz, &size));
    memcpy(more, vz, size);
    more[size] = 'x';
    CHECK(fv_vzip_decompress(ctx, more, size + 1, 100, NULL, &back, &got) == FV_ERR_FORMAT);
    CHECK(strstr(fv_ctx_error(ctx), "after the end"));
    fv_free(ctx, vz);
}

/* ---- Recovery -------------------------------------------------------------------------------- */

static void recovery_loses_only_the_damaged_block(void)
{
    enum { N = 5000 };
    static uint8_t data[N], out[N];
    uint8_t *vz;
    size_t size;
    recovered r;
    fill(data, N, NOISE, 14);
    OK(ctx, pack(ctx, data, N, 1000, &vz, &size));
    /* Payload, block header (its length), frame header. */
    const size_t head = 20; /* of the frame, with window and size */
    const size_t where[] = {head + 1 + 4 + 8 + 500, head + 2 * 1013 + 3, 9};
    const uint64_t begin[] = {0, 2000, N}, length[] = {1000, 1000, 0};
    for (int i = 0; i < 3; i++) {
        vz[where[i]] ^= 0x40;
        OK(ctx, vz_test_recover(ctx, &r, vz, size, out, N));
        CHECK_MSG(r.lost == length[i] && r.io.written == N, "%d: %d lost", i, (int)r.lost);
        CHECK(r.damages == (length[i] > 0));
        if (length[i]) CHECK(r.damage[0].offset == begin[i] && r.damage[0].size == length[i]);
        for (size_t k = 0; k < N; k++) {
            const bool is_lost = k >= begin[i] && k < begin[i] + length[i];
            CHECK_MSG(out[k] == (is_lost ? 0 : data[k]), "%d: byte %zu", i, k);
        }
        vz[where[i]] ^= 0x40;
    }
    /* Index and a block header: the blocks behind it are found by what they look like. The first of
     * them might be the inside of the one that is lost. */
    vz[size - 20] ^= 1;
    vz[where[1]] ^= 0x40;
    OK(ctx, vz_test_recover(ctx, &r, vz, size, out, N));
    CHECK_MSG(r.damages >= 1 && r.damage[0].offset == 2000 && r.lost == 2000 &&
                  r.io.written == N,
              "%d damages, %d lost, %d written", r.damages, (int)r.lost, (int)r.io.written);
    CHECK(memcmp(out, data, 2000) == 0 && out[2000] == 0);
    CHECK(memcmp(out + 4000, data + 4000, 1000) == 0);
    fv_free(ctx, vz);
}

static void recovery_of_a_cut_archive_keeps_its_beginning(void)
{
    enum { N = 5000 };
    static uint8_t data[N], out[N];
    uint8_t *vz;
    size_t size;
    recovered r;
    make_mixed(data, N);
    OK(ctx, pack(ctx, data, N, 500, &vz, &size));
    for (size_t n = 0; n < size; n += is_full ? 1 : 61) {
        if (vz_test_recover(ctx, &r, vz, n, out, N) != FV_OK) continue;
        CHECK(r.io.written >= r.lost && memcmp(out, data, r.io.written - r.lost) == 0);
        CHECK(r.damages == 1);
    }
    fv_free(ctx, vz);
}

/* ---- Hostile archives ------------------------------------------------------------------------ */

static char said[512]; /* message of the last open_forged */

typedef struct forged {
    vz_buf b;
    vz_header h;
} forged;

static void forge(forged *f, int flags)
{
    memset(f, 0, sizeof *f);
    vz_buf_init(&f->b, ctx);
    f->h.flags = flags;
    f->h.level = 3;
    f->h.memory_log2 = 26;
    vz_header_put(&f->h, &f->b);
}

static fv_status open_forged(forged *f, const fv_vzip_limits *l)
{
    uint8_t *out;
    size_t n;
    fv_vzip_archive *a;
    fv_memory_stats m;
    fv_ctx_memory_reset_peak(ctx);
    const fv_status s = fv_vzip_decompress(ctx, f->b.data, f->b.size, 1 << 20, l, &out, &n);
    if (s == FV_OK) fv_free(ctx, out);
    snprintf(said, sizeof said, "%s", fv_ctx_error(ctx));
    fv_ctx_memory(ctx, &m);
    if (m.peak_bytes > 4000000) return FV_ERR_INTERNAL; /* a claimed length was believed */
    if (fv_vzip_open_memory(ctx, &a, f->b.data, f->b.size, l) == FV_OK) fv_vzip_close(&a);
    vz_buf_free(&f->b);
    return s;
}

static void hostile_headers_are_refused(void)
{
    forged f;
    for (int byte = 9; byte < 12; byte++) { /* flags, level, memory */
        static const uint8_t bad[] = {0, 64, 128, 255};
        for (size_t i = 0; i < FV_ARRAY_LEN(bad); i++) {
            forge(&f, VZ_IS_SINGLE);
            f.b.data[byte] = bad[i];
            f.b.size -= 4;
            vz_buf_le(&f.b, fv_crc32c(0, f.b.data, f.b.size), 4);
            CHECK(open_forged(&f, NULL) >= 20);
        }
    }
    forge(&f, VZ_IS_SINGLE);
    f.b.data[8] = 2;
    CHECK(open_forged(&f, NULL) == FV_ERR_VERSION);
    forge(&f, VZ_IS_SINGLE);
    f.b.data[10] = FV_VZIP_LEVEL_ULTRA + 1;
    f.b.size -= 4;
    vz_buf_le(&f.b, fv_crc32c(0, f.b.data, f.b.size), 4);
    CHECK(open_forged(&f, NULL) == FV_ERR_FORMAT);
    forge(&f, VZ_IS_SOLID); /* a window of one byte */
    CHECK(open_forged(&f, NULL) == FV_ERR_FORMAT);
    forge(&f, VZ_IS_SINGLE | VZ_HAS_INDEX);
    CHECK(open_forged(&f, NULL) == FV_ERR_FORMAT);
    forge(&f, 0);
    f.h.models = 1;
    f.h.model[0].id = 7;
    f.b.size = 0;
    vz_header_put(&f.h, &f.b);
    CHECK(open_forged(&f, NULL) == FV_ERR_MODEL);
    CHECK(strstr(said, "00000007"));
}

static fv_status open_block(int type, uint64_t original, uint64_t coded, const void *payload,
                            size_t there, const fv_vzip_limits *l)
{
    forged f;
    const vz_block_header h = {type, original, coded, 0, 0};
    forge(&f, VZ_IS_SINGLE);
    vz_block_header_put(&h, &f.b);
    vz_buf_put(&f.b, payload, there);
    return open_forged(&f, l);
}

static void hostile_blocks_are_refused(void)
{
    static const uint8_t zeros[100];
    fv_vzip_limits l = FV_VZIP_LIMITS_INIT;
    CHECK(open_block(VZ_STORE, 100, 100, zeros, 100, NULL) == FV_ERR_CHECKSUM);
    CHECK(open_block(VZ_STORE, 200, 100, zeros, 100, NULL) == FV_ERR_FORMAT);
    CHECK(open_block(VZ_ZSTD, 0, 0, zeros, 0, NULL) == FV_ERR_FORMAT);
    CHECK(open_block(VZ_ZSTD, 10, 100, zeros, 100, NULL) == FV_ERR_FORMAT);
    CHECK(open_block(VZ_ZSTD, 1000, 100, zeros, 100, NULL) == FV_ERR_FORMAT);
    CHECK(open_block(VZ_STORE, 1 << 27, 1 << 27, zeros, 100, NULL) == FV_ERR_TRUNCATED);
    CHECK(open_block(VZ_ZSTD, (uint64_t)1 << 29, 100, zeros, 100, NULL) == FV_ERR_LIMIT);
    CHECK(open_block(VZ_ZSTD, UINT64_MAX, UINT64_MAX, zeros, 100, NULL) == FV_ERR_LIMIT);
    CHECK(open_block(4, 100, 100, zeros, 100, NULL) == FV_ERR_VERSION);
    CHECK(open_block(VZ_REFERRING, 100, 100, zeros, 100, NULL) == FV_ERR_FORMAT); /* not solid */
    CHECK(open_block(VZ_END, 0, 0, zeros, 0, NULL) == FV_ERR_FORMAT);
    l.max_expansion = 9;
    CHECK(open_block(VZ_ZSTD, 1000, 100, zeros, 100, &l) == FV_ERR_LIMIT);
    l.memory_bytes = 150;
    CHECK(open_block(VZ_STORE, 100, 100, zeros, 100, &l) == FV_ERR_OOM);
    CHECK(strstr(said, "200"));
}

static void wrong_input_is_named(void)
{
    uint8_t *out;
    size_t n;
    CHECK(fv_vzip_decompress(ctx, "hello", 5, 9, NULL, &out, &n) == FV_ERR_FORMAT);
    CHECK(strstr(fv_ctx_error(ctx), "not a .vz archive"));
    CHECK(fv_vzip_decompress(ctx, "", 0, 9, NULL, &out, &n) == FV_ERR_TRUNCATED);
    CHECK(fv_vzip_decompress(ctx, vz_magic, 5, 9, NULL, &out, &n) == FV_ERR_TRUNCATED);
    CHECK(fv_vzip_decompress(ctx, "hello", 5, 0, NULL, &out, &n) == FV_ERR_ARG);
    fv_vzip_options o = vz_test_options(FV_VZIP_LEVEL_ULTRA + 1, 0);
    CHECK(fv_vzip_compress(ctx, "a", 1, &o, &out, &n) == FV_ERR_ARG);
    o = vz_test_options(1, VZ_BLOCK_BYTES_MAX + 1);
    CHECK(fv_vzip_compress(ctx, "a", 1, &o, &out, &n) == FV_ERR_ARG);
}

static void output_limit_holds(void)
{
    uint8_t data[3000], *vz, *out;
    size_t size, n;
    fill(data, sizeof data, ZEROS, 0);
    for (int single = 0; single < 2; single++) {
        OK(ctx, pack(ctx, data, sizeof data, single ? 0 : 1000, &vz, &size));
        CHECK(fv_vzip_decompress(ctx, vz, size, 2999, NULL, &out, &n) == FV_ERR_LIMIT && !out);
        OK(ctx, fv_vzip_decompress(ctx, vz, size, 3000, NULL, &out, &n));
        fv_free(ctx, out);
        fv_free(ctx, vz);
    }
}

/* Frames of a few bytes that each learn 32 KiB of a text. */
static void learning_limit_holds(void)
{
    static const char text[] = "The quick brown fox jumps over the lazy dog, and the dog sleeps.\n";
    fv_vzip_limits l = FV_VZIP_LIMITS_INIT;
    uint8_t *vz, *out, three[3 * 200];
    size_t size, n;
    OK(ctx, pack(ctx, (const uint8_t *)text, strlen(text), 0, &vz, &size));
    CHECK(size <= 200);
    for (size_t i = 0; i < 3; i++) memcpy(three + i * size, vz, size);
    fv_free(ctx, vz);
    for (int kib = 40; kib <= 120; kib += 40) {
        l.max_learnt_bytes = (uint64_t)kib << 10;
        const fv_status s = fv_vzip_decompress(ctx, three, 3 * size, 1000, &l, &out, &n);
        CHECK(s == (kib < 120 ? FV_ERR_LIMIT : FV_OK));
        if (s == FV_OK) fv_free(ctx, out);
    }
    OK(ctx, fv_vzip_decompress(ctx, three, 3 * size, 1000, NULL, &out, &n));
    CHECK(n == 3 * strlen(text));
    fv_free(ctx, out);
}

/* ---- Failures -------------------------------------------------------------------------------- */

static void announced_size_must_be_right(void)
{
    static uint8_t out[20000];
    for (uint64_t size = 99; size <= 101; size++) {
        pipe_io p = {out, 100, 0, out + 1000, 0, 10000, 0, 0};
        const fv_vzip_io io = pipe_both(&p);
        fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
        o.size = size;
        CHECK((fv_vzip_compress_stream(ctx, &io, &o, NULL) == FV_OK) == (size == 100));
    }
}

static void failing_callbacks_are_io_errors(void)
{
    static uint8_t data[5000], vz[8000], out[5000];
    const fv_vzip_options o = vz_test_options(1, 1000);
    fill(data, sizeof data, TEXT, 20);
    size_t size = 0;
    for (int decode = 0; decode < 2; decode++)
        for (int which = 0; which < 2; which++)
            for (int n = 1;; n++) {
                pipe_io p = {data, sizeof data, 700, vz, 0, sizeof vz, 0, 0};
                if (decode) p = (pipe_io){vz, size, 700, out, 0, sizeof out, 0, 0};
                p.fail_read = which ? n : 0;
                p.fail_write = which ? 0 : n;
                const fv_vzip_io io = pipe_both(&p);
                const fv_status s =
                    decode ? fv_vzip_decompress_stream(ctx, &io, sizeof out, NULL, NULL)
                           : fv_vzip_compress_stream(ctx, &io, &o, NULL);
                if (s == FV_OK) {
                    if (!decode) size = p.written;
                    break;
                }
                CHECK(s == FV_ERR_IO && n < 100);
            }
}

static int stop(void *user, const fv_progress *p)
{
    int *left = user;
    (void)p;
    return --*left < 0;
}

static void cancelling_stops(void)
{
    static uint8_t data[100000];
    fill(data, sizeof data, TEXT, 21);
    for (int n = 0;; n++) {
        int left = n;
        uint8_t *vz = NULL;
        size_t size;
        fv_ctx *c;
        fv_ctx_options co = FV_CTX_OPTIONS_INIT;
        co.progress = stop;
        co.user = &left;
        co.threads = 2;
        CHECK(fv_ctx_create(&c, &co) == FV_OK);
        const fv_status s = pack(c, data, sizeof data, 20000, &vz, &size);
        fv_free(c, vz);
        fv_ctx_destroy(&c);
        CHECK(s == FV_OK || (s == FV_ERR_CANCELLED && !vz));
        if (s == FV_OK) {
            CHECK(n > 2);
            break;
        }
    }
}

static void every_failing_allocation_is_reported(void)
{
    uint8_t data[4000];
    make_mixed(data, sizeof data);
    each_allocation_of_a_job_may_fail(data, sizeof data, 1500, 1450, 1);
}

static void memory_limit_of_the_encoder_holds(void)
{
    static uint8_t data[300000];
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    uint8_t *vz;
    size_t size;
    o.block_bytes = sizeof data;
    o.memory_bytes = 100000;
    CHECK(fv_vzip_compress(ctx, data, sizeof data, &o, &vz, &size) == FV_ERR_OOM);
    CHECK(strstr(fv_ctx_error(ctx), "at least"));
}

int main(int argc, char **argv)
{
    is_full = vz_test_is_full(argc, argv);
    ctx = vz_test_ctx(2, 0);
    one_thread = vz_test_ctx(1, 0);
    RUN(round_trip_of_every_length);
    RUN(same_bytes_for_1_to_4_threads);
    RUN(round_trip_of_streams_with_short_reads);
    RUN(concatenated_archives_give_concatenated_data);
    RUN(archive_of_an_archive_is_not_mistaken_for_it);
    RUN(name_and_time_are_kept);
    RUN(never_larger_than_stored);
    RUN(never_larger_than_zstd);
    RUN(never_larger_than_zstd_over_blocks);
    RUN(random_access_equals_slices);
    RUN(every_flipped_bit_is_seen_or_harmless);
    RUN(every_flipped_bit_of_a_zstd_block_is_seen_or_harmless);
    RUN(every_truncation_is_an_error_with_a_right_beginning);
    RUN(bytes_after_the_end_are_an_error);
    RUN(recovery_loses_only_the_damaged_block);
    RUN(recovery_of_a_cut_archive_keeps_its_beginning);
    RUN(hostile_headers_are_refused);
    RUN(hostile_blocks_are_refused);
    RUN(wrong_input_is_named);
    RUN(output_limit_holds);
    RUN(learning_limit_holds);
    RUN(announced_size_must_be_right);
    RUN(failing_callbacks_are_io_errors);
    RUN(cancelling_stops);
    RUN(every_failing_allocation_is_reported);
    RUN(memory_limit_of_the_encoder_holds);
    fv_ctx_destroy(&one_thread);
    return vz_test_end(&ctx);
}
