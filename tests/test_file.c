/* test_file.c - file_atomic.c and hash.c. */
#define _XOPEN_SOURCE 700 /* symlink */
#include "alloc_fail.h"
#include "engine.h"
#include "temp_dir.h"
#include "test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

static fv_ctx *ctx;
/* Entries of the test folder. */
static int entries(const char *path)
{
    DIR *d = opendir(path);
    int n = 0;
    if (!d) return -1;
    for (const struct dirent *e; (e = readdir(d)) != NULL;) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static bool holds(const char *path, const char *text)
{
    uint8_t *p;
    size_t n;
    if (fv_read_file(ctx, path, 0, &p, &n) != FV_OK) return false;
    const bool same = n == strlen(text) && memcmp(p, text, n) == 0 && p[n] == 0;
    fv_free(ctx, p);
    return same;
}

static void write_then_read_and_map(void)
{
    const size_t n = 300000;
    uint8_t *data = malloc(n), *back;
    uint64_t seed = 1;
    for (size_t i = 0; i < n; i++) data[i] = (uint8_t)test_next(&seed);
    const size_t sizes[] = { 0, 1, 4095, 65535, 65536, 65537, n };
    for (size_t k = 0; k < FV_ARRAY_LEN(sizes); k++) {
        OK(ctx, fv_write_file(ctx, temp_path("rw"), data, sizes[k], 1));
        size_t got;
        OK(ctx, fv_read_file(ctx, temp_path("rw"), 0, &back, &got));
        CHECK(got == sizes[k] && memcmp(back, data, got) == 0);
        fv_free(ctx, back);
        fv_mapping m;
        OK(ctx, fv_map_file(ctx, &m, temp_path("rw")));
        CHECK(m.data && m.size == sizes[k] && memcmp(m.data, data, m.size) == 0);
        fv_unmap(&m);
        CHECK(!m.data && m.size == 0);
        fv_unmap(&m);
    }
    unlink(temp_path("rw"));
    CHECK(entries(temp_dir) == 0);
    free(data);
}

static void pieces_and_printf_keep_their_order(void)
{
    fv_out_file *f;
    OK(ctx, fv_out_open(ctx, &f, temp_path("p"), 0));
    OK(ctx, fv_out_printf(f, "%d,", 1));
    OK(ctx, fv_out_write(f, "two,", 4));
    OK(ctx, fv_out_printf(f, "%s", "three"));
    CHECK(access(temp_path("p"), F_OK) != 0); /* not visible before commit */
    OK(ctx, fv_out_commit(&f));
    CHECK(!f && holds(temp_path("p"), "1,two,three"));
    unlink(temp_path("p"));
    CHECK(entries(temp_dir) == 0);
}

static void existing_file_is_kept_without_overwrite(void)
{
    OK(ctx, fv_write_file(ctx, temp_path("e"), "old", 3, 0));
    CHECK(fv_write_file(ctx, temp_path("e"), "new", 3, 0) == FV_ERR_EXISTS);
    CHECK(strstr(fv_ctx_error(ctx), "exists"));
    CHECK(holds(temp_path("e"), "old"));
    OK(ctx, fv_write_file(ctx, temp_path("e"), "new", 3, 1));
    CHECK(holds(temp_path("e"), "new") && entries(temp_dir) == 1);
    unlink(temp_path("e"));
}

static void file_that_appears_meanwhile_is_not_replaced(void)
{
    fv_out_file *f;
    OK(ctx, fv_out_open(ctx, &f, temp_path("race"), 0));
    OK(ctx, fv_out_write(f, "mine", 4));
    OK(ctx, fv_write_file(ctx, temp_path("race"), "theirs", 6, 0)); /* the second temporary name */
    CHECK(fv_out_commit(&f) == FV_ERR_EXISTS);
    CHECK(!f && holds(temp_path("race"), "theirs") && entries(temp_dir) == 1);
    unlink(temp_path("race"));
}

static void abort_leaves_nothing(void)
{
    fv_out_file *f;
    OK(ctx, fv_out_open(ctx, &f, temp_path("a"), 0));
    OK(ctx, fv_out_write(f, "x", 1));
    CHECK(entries(temp_dir) == 1);
    fv_out_abort(&f);
    CHECK(!f && entries(temp_dir) == 0);
    fv_out_abort(&f);
    fv_out_abort(NULL);
    CHECK(fv_out_commit(&f) == FV_ERR_ARG);
}

static void full_device_gives_io_with_the_systems_text(void)
{
    char *big = calloc(1, 200000);
    CHECK(fv_write_file(ctx, "/dev/full", "x", 1, 0) == FV_ERR_IO); /* fails at the flush */
    CHECK(strstr(fv_ctx_error(ctx), strerror(ENOSPC)));
    CHECK(fv_write_file(ctx, "/dev/full", big, 200000, 0) == FV_ERR_IO); /* fails while writing */
    fv_out_file *f;
    OK(ctx, fv_out_open(ctx, &f, "/dev/full", 0));
    CHECK(fv_out_write(f, big, 200000) == FV_ERR_IO);
    CHECK(fv_out_write(f, "x", 1) == FV_ERR_IO); /* sticks */
    CHECK(fv_out_printf(f, "x") == FV_ERR_IO);
    fv_fail(ctx, FV_ERR_ARG, "another message");
    CHECK(fv_out_commit(&f) == FV_ERR_IO && strstr(fv_ctx_error(ctx), strerror(ENOSPC)));
    OK(ctx, fv_write_file(ctx, "/dev/null", big, 200000, 0));
    free(big);
}

static void bad_targets_are_named(void)
{
    CHECK(fv_write_file(ctx, temp_path("no/such/folder"), "x", 1, 0) == FV_ERR_NOT_FOUND);
    CHECK(strstr(fv_ctx_error(ctx), "no/such/folder"));
    CHECK(fv_write_file(ctx, temp_dir, "x", 1, 1) == FV_ERR_IO &&
          strstr(fv_ctx_error(ctx), "folder"));
    CHECK(fv_write_file(ctx, "", "x", 1, 1) == FV_ERR_ARG);
    if (geteuid() == 0) return; /* root writes everywhere */
    mkdir(temp_path("ro"), 0555);
    CHECK(fv_write_file(ctx, temp_path("ro/f"), "x", 1, 0) == FV_ERR_IO);
    CHECK(strstr(fv_ctx_error(ctx), strerror(EACCES)));
    rmdir(temp_path("ro"));
}

static void reading_refuses_what_is_not_a_file(void)
{
    fv_mapping m;
    uint8_t *p;
    size_t n;
    CHECK(fv_map_file(ctx, &m, temp_path("none")) == FV_ERR_NOT_FOUND && !m.data);
    CHECK(fv_read_file(ctx, temp_path("none"), 0, &p, &n) == FV_ERR_NOT_FOUND && !p && n == 0);
    CHECK(fv_map_file(ctx, &m, temp_dir) == FV_ERR_IO);
    CHECK(fv_read_file(ctx, temp_dir, 0, &p, &n) == FV_ERR_IO);
    CHECK(fv_map_file(ctx, &m, "/dev/null") == FV_ERR_IO);
    CHECK(mkfifo(temp_path("fifo"), 0600) == 0);
    CHECK(fv_map_file(ctx, &m, temp_path("fifo")) == FV_ERR_IO); /* returns, does not wait */
    unlink(temp_path("fifo"));
    OK(ctx, fv_write_file(ctx, temp_path("l"), "12345", 5, 0));
    CHECK(fv_read_file(ctx, temp_path("l"), 4, &p, &n) == FV_ERR_LIMIT && !p);
    OK(ctx, fv_read_file(ctx, temp_path("l"), 5, &p, &n));
    fv_free(ctx, p);
    unlink(temp_path("l"));
    if (access("/proc/self/status", R_OK) == 0) { /* says size 0, has text */
        OK(ctx, fv_read_file(ctx, "/proc/self/status", 0, &p, &n));
        CHECK(n > 100);
        fv_free(ctx, p);
        CHECK(fv_read_file(ctx, "/dev/zero", 10000, &p, &n) == FV_ERR_LIMIT);
    }
}

static void links_and_permissions_survive(void)
{
    OK(ctx, fv_write_file(ctx, temp_path("real"), "1", 1, 0));
    CHECK(chmod(temp_path("real"), 0640) == 0 && symlink("real", temp_path("link")) == 0);
    CHECK(fv_write_file(ctx, temp_path("link"), "2", 1, 0) == FV_ERR_EXISTS);
    OK(ctx, fv_write_file(ctx, temp_path("link"), "2", 1, 1));
    struct stat st;
    CHECK(lstat(temp_path("link"), &st) == 0 && S_ISLNK(st.st_mode));
    CHECK(stat(temp_path("real"), &st) == 0 && (st.st_mode & 0777) == 0640);
    CHECK(holds(temp_path("real"), "2") && entries(temp_dir) == 2);
    unlink(temp_path("real")); /* now a dangling link: a new name is not taken through it */
    CHECK(fv_write_file(ctx, temp_path("link"), "3", 1, 0) == FV_ERR_EXISTS);
    unlink(temp_path("link"));
    CHECK(entries(temp_dir) == 0);
}

static void *pipe_reader(void *arg)
{
    char *got = arg;
    const int fd = open(temp_path("pipe"), O_RDONLY);
    size_t n = 0;
    ssize_t r;
    while ((r = read(fd, got + n, 60 - n)) > 0) n += (size_t)r;
    close(fd);
    return NULL;
}

static void pipe_is_written_directly(void)
{
    char got[64] = { 0 };
    CHECK(mkfifo(temp_path("pipe"), 0600) == 0);
    pthread_t t;
    CHECK(pthread_create(&t, NULL, pipe_reader, got) == 0);
    const fv_status s = fv_write_file(ctx, temp_path("pipe"), "through", 7, 0);
    pthread_join(t, NULL);
    OK(ctx, s);
    CHECK(strcmp(got, "through") == 0 && entries(temp_dir) == 1);
    unlink(temp_path("pipe"));
}

/* ---- Failing allocations --------------------------------------------------------------------- */

static alloc_fail heap = { .left = ALLOC_ALL, .once = true };

static void every_failed_allocation_leaves_no_file(void)
{
    const fv_allocator al = alloc_fail_allocator(&heap);
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.alloc = &al;
    fv_ctx *c;
    heap.left = ALLOC_ALL;
    CHECK(fv_ctx_create(&c, &o) == FV_OK);
    fv_memory_stats before, after;
    fv_ctx_memory(c, &before);
    int k = 0;
    for (;; k++) {
        CHECK(k < 50);
        heap.left = k;
        const fv_status s = fv_write_file(c, temp_path("oom"), "data", 4, 1);
        const bool reached = heap.left < 0;
        heap.left = ALLOC_ALL;
        fv_ctx_memory(c, &after);
        CHECK(after.current_bytes == before.current_bytes);
        if (!reached) {
            CHECK(s == FV_OK);
            break;
        }
        /* Only the fsync of the folder comes after the rename. */
        CHECK(s == FV_ERR_OOM && entries(temp_dir) <= 1 && access(temp_path("oom.tmp"), F_OK) != 0);
    }
    CHECK(k >= 3 && entries(temp_dir) == 1);
    unlink(temp_path("oom"));
    fv_ctx_destroy(&c);
}

/* ---- Hashes ---------------------------------------------------------------------------------- */

static const char *sha_hex(const void *data, size_t n, size_t piece)
{
    static char hex[65];
    uint8_t out[32];
    fv_sha256 s;
    fv_sha256_init(&s);
    for (size_t i = 0; i < n; i += piece) {
        fv_sha256_update(&s, (const uint8_t *)data + i, n - i < piece ? n - i : piece);
    }
    fv_sha256_final(&s, out);
    fv_hex(out, 32, hex);
    return hex;
}

static void sha256_gives_the_standards_values(void)
{
    CHECK(!strcmp(sha_hex("", 0, 1),
                  "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"));
    CHECK(!strcmp(sha_hex("abc", 3, 1),
                  "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
    CHECK(!strcmp(sha_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, 7),
                  "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"));
    char *million = malloc(1000000);
    memset(million, 'a', 1000000);
    const size_t pieces[] = { 63, 64, 65, 1000, 1000000 };
    for (size_t i = 0; i < FV_ARRAY_LEN(pieces); i++) {
        CHECK(!strcmp(sha_hex(million, 1000000, pieces[i]),
                      "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"));
    }
    free(million);
}

static void crcs_give_the_catalogues_values(void)
{
    CHECK(fv_crc32(0, "123456789", 9) == 0xcbf43926u);
    CHECK(fv_crc32c(0, "123456789", 9) == 0xe3069283u);
    CHECK(fv_crc32(fv_crc32(0, "1234", 4), "56789", 5) == 0xcbf43926u);
    CHECK(fv_crc32c(fv_crc32c(0, "1234", 4), "56789", 5) == 0xe3069283u);
    CHECK(fv_crc32(7, NULL, 0) == 7 && fv_crc32c(7, NULL, 0) == 7);
    const uint8_t zeros[32] = { 0 };
    CHECK(fv_crc32c(0, zeros, 32) == 0x8a9136aau); /* RFC 3720, B.4 */
}

int main(void)
{
    temp_dir_make("file");
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(write_then_read_and_map);
    RUN(pieces_and_printf_keep_their_order);
    RUN(existing_file_is_kept_without_overwrite);
    RUN(file_that_appears_meanwhile_is_not_replaced);
    RUN(abort_leaves_nothing);
    if (access("/dev/full", W_OK) == 0) RUN(full_device_gives_io_with_the_systems_text);
    else SKIP(full_device_gives_io_with_the_systems_text, "no /dev/full");
    RUN(bad_targets_are_named);
    RUN(reading_refuses_what_is_not_a_file);
    RUN(links_and_permissions_survive);
    RUN(pipe_is_written_directly);
    RUN(every_failed_allocation_leaves_no_file);
    RUN(sha256_gives_the_standards_values);
    RUN(crcs_give_the_catalogues_values);
    fv_ctx_destroy(&ctx);
    return test_end();
}
