/* test_archive.c - tar archives are made here byte by byte, so that the reader is not tested
 * against itself. */
#include "alloc_fail.h"
#include "archive.h"
#include "tar_writer.h"
#include "test.h"
#include "temp_dir.h"

#include <sys/stat.h>
#include <unistd.h>

#include <lzma.h>
#include <zlib.h>

static fv_ctx *ctx;

/* ---- Packing --------------------------------------------------------------------------------- */

static tar pack_gzip(const tar *t)
{
    tar out = { malloc(t->size + 4096), 0, t->size + 4096 };
    z_stream z = { 0 };
    if (deflateInit2(&z, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY) != Z_OK) exit(1);
    z.next_in = t->data;
    z.avail_in = (uInt)t->size;
    z.next_out = out.data;
    z.avail_out = (uInt)out.capacity;
    if (deflate(&z, Z_FINISH) != Z_STREAM_END) exit(1);
    out.size = z.total_out;
    deflateEnd(&z);
    return out;
}

static tar pack_xz(const tar *t)
{
    tar out = { malloc(t->size + 4096), 0, t->size + 4096 };
    if (lzma_easy_buffer_encode(1, LZMA_CHECK_CRC64, NULL, t->data, t->size, out.data, &out.size,
                                out.capacity) != LZMA_OK)
        exit(1);
    return out;
}

/* ---- Reading all ----------------------------------------------------------------------------- */

static fv_status walk(fvi_archive *a, char *listing, size_t listing_bytes)
{
    size_t used = 0;
    listing[0] = 0;
    for (;;) {
        fvi_member m;
        FV_TRY(fvi_archive_next(a, &m));
        if (!m.path) return FV_OK;
        uint8_t *data;
        size_t size;
        const uint64_t declared = m.size;
        FV_TRY(fvi_archive_read(a, &data, &size));
        const int k = snprintf(listing + used, listing_bytes - used, "%.60s=%.*s;", m.path,
                               (int)(size < 40 ? size : 40), (const char *)data);
        if (k > 0 && used + (size_t)k < listing_bytes) used += (size_t)k;
        fv_free(ctx, data);
        if (size != declared) return FV_ERR_INTERNAL;
    }
}

static fv_status list(const tar *t, const fvi_archive_limits *limits, char *out, size_t out_bytes)
{
    fvi_archive *a;
    fv_status s = fvi_archive_open_memory(ctx, &a, "test.tar", t->data, t->size, limits);
    if (s == FV_OK) s = walk(a, out, out_bytes);
    fvi_archive_close(&a);
    return s;
}

static char text[4096];
#define LIST(t) list(&(t), NULL, text, sizeof text)

static tar sample(void)
{
    tar t = { 0 };
    put_entry(&t, "", "./", '5', "", 0);
    put_text(&t, "./b/one.txt", "first");
    put_entry(&t, "", "b/link", '2', "", 0);
    put_text(&t, "a//./two", "");
    put_entry(&t, "deep/er", "three", '0', "3", 1);
    put_end(&t);
    return t;
}
static const char sample_list[] = "b/one.txt=first;a/two=;deep/er/three=3;";

static void plain_gzip_and_xz_give_the_same_members(void)
{
    tar t = sample(), gz = pack_gzip(&t), xz = pack_xz(&t);
    OK(ctx, LIST(t));
    CHECK_MSG(strcmp(text, sample_list) == 0, "%s", text);
    OK(ctx, LIST(gz));
    CHECK(strcmp(text, sample_list) == 0);
    OK(ctx, LIST(xz));
    CHECK(strcmp(text, sample_list) == 0);
    drop(&t);
    drop(&gz);
    drop(&xz);
}

static void members_need_not_be_read(void)
{
    tar t = sample(), gz = pack_gzip(&t);
    fvi_archive *a;
    fvi_member m;
    OK(ctx, fvi_archive_open_memory(ctx, &a, "x", gz.data, gz.size, NULL));
    int n = 0;
    do {
        OK(ctx, fvi_archive_next(a, &m));
        n += m.path != NULL;
    } while (m.path);
    CHECK(n == 3);
    OK(ctx, fvi_archive_next(a, &m));
    CHECK(!m.path);
    uint8_t *data;
    size_t size;
    CHECK(fvi_archive_read(a, &data, &size) == FV_ERR_STATE);
    fvi_archive_close(&a);
    CHECK(!a);
    drop(&t);
    drop(&gz);
}

static void gzip_streams_may_be_joined_and_padded(void)
{
    tar t = sample(), half1 = { t.data, 1536, 0 }, half2 = { t.data + 1536, t.size - 1536, 0 };
    tar g1 = pack_gzip(&half1), g2 = pack_gzip(&half2);
    put(&g1, g2.data, g2.size);
    put_zeros(&g1, 100);
    OK(ctx, LIST(g1));
    CHECK(strcmp(text, sample_list) == 0);
    put(&g1, "x", 1);
    CHECK(LIST(g1) == FV_ERR_FORMAT);
    drop(&t);
    drop(&g1);
    drop(&g2);
}

static void long_names_gnu_and_pax(void)
{
    char path[400], pax[512], body[460];
    memset(path, 'n', sizeof path);
    for (int i = 50; i < 390; i += 50) path[i] = '/';
    path[390] = 0;
    tar t = { 0 };
    put_entry(&t, "", "././@LongLink", 'L', path, strlen(path) + 1);
    put_entry(&t, "", "././@LongLink", 'K', path, strlen(path) + 1);
    put_entry(&t, "", "short1", '0', "1", 1);
    snprintf(body, sizeof body, " path=%s\n", path);
    int len = (int)strlen(body) + 3;
    snprintf(pax, sizeof pax, "%d%s", len, body);
    strcat(pax, "11 a=bcdef\n");
    put_entry(&t, "", "PaxHeader", 'x', pax, strlen(pax));
    put_entry(&t, "", "defaults", 'g', "11 x=12345\n", 11);
    put_entry(&t, "", "short2", '0', "2", 1);
    put_entry(&t, "", "short3", '0', "3", 1);
    put_end(&t);
    fvi_archive *a;
    fvi_member m;
    OK(ctx, fvi_archive_open_memory(ctx, &a, "x", t.data, t.size, NULL));
    OK(ctx, fvi_archive_next(a, &m));
    CHECK(m.path && strcmp(m.path, path) == 0);
    OK(ctx, fvi_archive_next(a, &m));
    CHECK(m.path && strcmp(m.path, path) == 0);
    OK(ctx, fvi_archive_next(a, &m));
    CHECK(m.path && strcmp(m.path, "short3") == 0);
    fvi_archive_close(&a);
    drop(&t);
}

static void pax_size_and_base_256_size_are_read(void)
{
    uint8_t h[512];
    tar t = { 0 };
    put_entry(&t, "", "PaxHeader", 'x', "10 size=5\n", 10);
    make_header(h, "", "five", '0', 0);
    put(&t, h, 512);
    put_data(&t, "12345", 5);
    make_header(h, "", "six", '0', 0);
    memset(h + 124, 0, 12);
    h[124] = 0x80;
    h[135] = 6;
    seal(h);
    put(&t, h, 512);
    put_data(&t, "123456", 6);
    put_end(&t);
    OK(ctx, LIST(t));
    CHECK_MSG(strcmp(text, "five=12345;six=123456;") == 0, "%s", text);
    drop(&t);
}

static void every_truncation_is_reported(void)
{
    tar t = sample(), packed[3] = { t, pack_gzip(&t), pack_xz(&t) };
    for (int k = 0; k < 3; k++) {
        /* the second zero block of a plain tar is not needed */
        const size_t whole = k == 0 ? packed[k].size - 512 : packed[k].size;
        for (size_t n = 0; n < whole; n += k == 0 ? 97 : 1) {
            /* exact allocation: the address sanitizer sees any read beyond it */
            tar cut = { malloc(n ? n : 1), n, n };
            memcpy(cut.data, packed[k].data, n);
            const fv_status s = LIST(cut);
            free(cut.data);
            CHECK_MSG(s == FV_ERR_TRUNCATED || (n < 6 && s != FV_OK), "kind %d, %zu bytes: %s", k,
                      n, fv_status_name(s));
        }
    }
    CHECK(strstr(fv_ctx_error(ctx), "too early"));
    for (int k = 0; k < 3; k++) drop(&packed[k]);
}

static void damage_is_found(void)
{
    tar t = sample(), gz = pack_gzip(&t), xz = pack_xz(&t);
    t.data[512 + 3] ^= 1; /* second header */
    CHECK(LIST(t) == FV_ERR_CHECKSUM);
    t.data[512 + 3] ^= 1;
    t.data[0] ^= 1; /* first: not a tar at all */
    CHECK(LIST(t) == FV_ERR_FORMAT);
    gz.data[gz.size - 6] ^= 1; /* CRC */
    CHECK(LIST(gz) == FV_ERR_FORMAT);
    int missed = 0;
    for (size_t i = 0; i < xz.size; i++) {
        xz.data[i] ^= 0x10;
        missed += LIST(xz) == FV_OK;
        xz.data[i] ^= 0x10;
    }
    CHECK_MSG(missed == 0, "%d changed bytes unnoticed", missed);
    drop(&t);
    drop(&gz);
    drop(&xz);
}

static void hostile_paths_are_refused(void)
{
    static const char *const bad[] = { "/etc/passwd", "../x", "a/../../x", "a/..", ".." };
    for (size_t i = 0; i < FV_ARRAY_LEN(bad); i++) {
        tar t = { 0 };
        put_text(&t, bad[i], "x");
        put_end(&t);
        const fv_status s = LIST(t);
        drop(&t);
        CHECK_MSG(s == FV_ERR_FORMAT, "%s", bad[i]);
    }
    tar ok = { 0 };
    put_text(&ok, "a..b/..c/d..", "x");
    put_end(&ok);
    OK(ctx, LIST(ok));
    drop(&ok);
}

static void hostile_sizes_are_refused(void)
{
    static const char *const sizes[] = { "77777777777", "\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff",
                                         "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                                         "12x4567890 " };
    for (size_t i = 0; i < FV_ARRAY_LEN(sizes); i++)
        for (int type = 0; type < 3; type++) {
            uint8_t h[512];
            tar t = { 0 };
            make_header(h, "", "big", "0Lx"[type], 0);
            memcpy(h + 124, sizes[i], 11);
            seal(h);
            put(&t, h, 512);
            put_end(&t);
            const fv_status s = LIST(t);
            drop(&t);
            CHECK_MSG(s == FV_ERR_LIMIT || s == FV_ERR_FORMAT, "%s", fv_status_name(s));
        }
    /* inside the limit, but larger than the file: no allocation of that size */
    uint8_t h[512];
    tar t = { 0 };
    make_header(h, "", "big", '0', 200u << 20);
    put(&t, h, 512);
    put_end(&t);
    fv_ctx_memory_reset_peak(ctx);
    CHECK(LIST(t) == FV_ERR_TRUNCATED);
    fv_memory_stats st;
    fv_ctx_memory(ctx, &st);
    CHECK(st.peak_bytes < (1u << 20));
    drop(&t);
}

static void limits_hold(void)
{
    tar t = sample(), gz = pack_gzip(&t);
    fvi_archive_limits l = { .members = 4 };
    CHECK(list(&t, &l, text, sizeof text) == FV_ERR_LIMIT);
    l = (fvi_archive_limits){ .member_bytes = 4 };
    CHECK(list(&t, &l, text, sizeof text) == FV_ERR_LIMIT);
    l = (fvi_archive_limits){ .total_bytes = 2048 };
    CHECK(list(&gz, &l, text, sizeof text) == FV_ERR_LIMIT);
    l = (fvi_archive_limits){ .members = 5, .member_bytes = 5, .total_bytes = t.size };
    OK(ctx, list(&gz, &l, text, sizeof text));
    drop(&t);
    drop(&gz);
}

static void bad_pax_headers_are_refused(void)
{
    static const char *const bad[] = { "8 path=a\n",  "11 path=a\n",
                                       "x path=a\n",  "10path=ab\n",
                                       "5 abc\n",     "999999999999 path=a\n",
                                       "0 path=a\n",  "8 path=\n",
                                       "10 size=x\n", "32 size=11111111111111111111111\n" };
    for (size_t i = 0; i < FV_ARRAY_LEN(bad); i++) {
        tar t = { 0 };
        put_entry(&t, "", "PaxHeader", 'x', bad[i], strlen(bad[i]));
        put_text(&t, "f", "x");
        put_end(&t);
        const fv_status s = LIST(t);
        drop(&t);
        CHECK_MSG(s == FV_ERR_FORMAT, "%s: %s", bad[i], fv_status_name(s));
    }
}

static void write_file(const char *folder, const char *name, const void *data, size_t size)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f)) exit(1);
}

static void make_folder(const char *folder, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (mkdir(path, 0700)) exit(1);
}

static void folders_are_walked_in_order_of_path(void)
{
    char path[512];
    make_folder(temp_dir, "b");
    make_folder(temp_dir, "a");
    make_folder(temp_dir, "a/sub");
    write_file(temp_dir, "b/2", "two", 3);
    write_file(temp_dir, "a/sub/x", "", 0);
    write_file(temp_dir, "a/1", "one", 3);
    snprintf(path, sizeof path, "%s/b/loop", temp_dir);
    CHECK(symlink("..", path) == 0);
    fvi_archive *a;
    snprintf(path, sizeof path, "%s//", temp_dir);
    OK(ctx, fvi_archive_open(ctx, &a, path, NULL));
    OK(ctx, walk(a, text, sizeof text));
    fvi_archive_close(&a);
    CHECK_MSG(strcmp(text, "a/1=one;a/sub/x=;b/2=two;") == 0, "%s", text);
    tar t = sample();
    write_file(temp_dir, "t.tar", t.data, t.size);
    snprintf(path, sizeof path, "%s/t.tar", temp_dir);
    OK(ctx, fvi_archive_open(ctx, &a, path, NULL));
    const uint8_t *bytes;
    size_t size;
    CHECK(fvi_archive_bytes(a, &bytes, &size) && size == t.size);
    OK(ctx, walk(a, text, sizeof text));
    fvi_archive_close(&a);
    CHECK(strcmp(text, sample_list) == 0);
    CHECK(fvi_archive_open(ctx, &a, "/nonexistent/x.tar", NULL) == FV_ERR_NOT_FOUND && !a);
    drop(&t);
}

/* ---- Failing allocations --------------------------------------------------------------------- */

static alloc_fail heap;

static void every_failed_allocation_is_survived(void)
{
    tar t = sample(), packed[3] = { t, pack_gzip(&t), pack_xz(&t) };
    const fv_allocator al = alloc_fail_allocator(&heap);
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.alloc = &al;
    o.threads = 1;
    fv_ctx *saved = ctx, *own = NULL;
    for (int k = 0; k < 3; k++) {
        fv_status s = FV_ERR_OOM;
        int n = 0;
        for (; s != FV_OK && n < 200; n++) {
            heap.left = 1000;
            if (fv_ctx_create(&own, &o) != FV_OK) exit(1);
            heap.left = n;
            ctx = own;
            s = LIST(packed[k]);
            fv_memory_stats st;
            fv_ctx_memory(own, &st);
            ctx = saved;
            fv_ctx_destroy(&own);
            CHECK(st.current_bytes == 0);
            CHECK_MSG(s == FV_OK || s == FV_ERR_OOM, "%s", fv_status_name(s));
        }
        CHECK(s == FV_OK && n > 2);
    }
    for (int k = 0; k < 3; k++) drop(&packed[k]);
}

int main(void)
{
    temp_dir_make("archive");
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(plain_gzip_and_xz_give_the_same_members);
    RUN(members_need_not_be_read);
    RUN(gzip_streams_may_be_joined_and_padded);
    RUN(long_names_gnu_and_pax);
    RUN(pax_size_and_base_256_size_are_read);
    RUN(every_truncation_is_reported);
    RUN(damage_is_found);
    RUN(hostile_paths_are_refused);
    RUN(hostile_sizes_are_refused);
    RUN(limits_hold);
    RUN(bad_pax_headers_are_refused);
    RUN(folders_are_walked_in_order_of_path);
    RUN(every_failed_allocation_is_survived);
    fv_ctx_destroy(&ctx);
    return test_end();
}
