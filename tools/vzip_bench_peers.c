/* vzip_bench_peers.c - one file through one program and back: files, times, memory, comparison.
 *
 * Our own codec runs in a fork without exec: the same work as the program vzip, also from
 * `fovea bench`. This process only copies, compares and draws, so it has no other threads. */
#include "vzip_bench.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Peers ----------------------------------------------------------------------------------- */

/* Their strongest usual settings. flac without padding and seek table, which are not data; cwebp
 * with the colours under transparent pixels, which are. lrzip counts processors. */
const bench_peer bench_peers[] = {
    {"zstd",
     "zstd -19 --long=27",
     BENCH_ANY,
     true,
     true,
     "packed",
     {"zstd", "-q", "-19", "--long=27", "-T@", "-c", "IN"},
     {"zstd", "-q", "-d", "--long=27", "-c", "PACKED"}},
    {"xz",
     "xz -9e",
     BENCH_ANY,
     true,
     true,
     "packed",
     {"xz", "-q", "-9e", "-T@", "-c", "IN"},
     {"xz", "-q", "-d", "-T@", "-c", "--format=xz", "PACKED"}},
    {"brotli",
     "brotli -q 11 -w 24",
     BENCH_ANY,
     false,
     true,
     "packed",
     {"brotli", "-q", "11", "-w", "24", "-c", "IN"},
     {"brotli", "-d", "-c", "PACKED"}},
    {"bzip3",
     "bzip3 -b 64",
     BENCH_ANY,
     true,
     true,
     "packed",
     {"bzip3", "-e", "-b", "64", "-j", "@", "-c", "IN"},
     {"bzip3", "-d", "-j", "@", "-c", "PACKED"}},
    {"zpaq",
     "zpaq -m5",
     BENCH_ANY,
     true,
     false,
     "packed.zpaq",
     {"zpaq", "add", "PACKED", "IN", "-m5", "-t@"},
     {"zpaq", "extract", "PACKED", "IN", "-to", "OUT", "-t@"}},
    {"lrzip",
     "lrzip -z -L 9",
     BENCH_ANY,
     true,
     false,
     "packed",
     {"lrzip", "-Q", "-f", "-z", "-L", "9", "-p", "@", "-o", "PACKED", "IN"},
     {"lrzip", "-Q", "-f", "-d", "-p", "@", "-o", "OUT", "PACKED"}},
    {"flac",
     "flac -8",
     BENCH_SOUND,
     false,
     false,
     "packed",
     {"flac", "-s", "-f", "-8", "--no-padding", "--no-seektable",
      "--keep-foreign-metadata-if-present", "-o", "PACKED", "IN"},
     {"flac", "-s", "-f", "-d", "--keep-foreign-metadata-if-present", "-o", "OUT", "PACKED"}},
    {"cwebp",
     "cwebp -lossless -m 6",
     BENCH_PICTURE,
     false,
     false,
     "packed",
     {"cwebp", "-quiet", "-lossless", "-exact", "-m", "6", "IN", "-o", "PACKED"},
     {"dwebp", "-quiet", "PACKED", "-o", "OUT"}},
    {"cjxl",
     "cjxl -d 0 -e 9",
     BENCH_PICTURE,
     false,
     false,
     "packed.jxl",
     {"cjxl", "--quiet", "-d", "0", "-e", "9", "--num_threads=0", "IN", "PACKED"},
     {"djxl", "--quiet", "--num_threads=0", "PACKED", "OUT"}},
};
const int bench_peer_count = (int)(sizeof bench_peers / sizeof *bench_peers);

/* ---- Files in the folder --------------------------------------------------------------------- */

/* Names with the suffixes that some programs look at. */
static void set_kind(bench_place *at, const uint8_t *head, size_t n)
{
    static const struct {
        const char *magic, *type, *in, *out; /* type: at byte 8, or NULL */
        bench_kind kind;
    } known[] = {
        {"\x89PNG\r\n\x1a\n", NULL, "in.png", "out.png", BENCH_PICTURE},
        {"P5", NULL, "in.pgm", "out.png", BENCH_PICTURE},
        {"P6", NULL, "in.ppm", "out.png", BENCH_PICTURE},
        {"RIFF", "WAVE", "in.wav", "out.wav", BENCH_SOUND},
        {"FORM", "AIFF", "in.aif", "out.aif", BENCH_SOUND},
    };
    at->kind = BENCH_ANY;
    at->in = "in";
    at->out = "out";
    for (size_t i = 0; n >= 12 && i < sizeof known / sizeof *known; i++) {
        if (memcmp(head, known[i].magic, strlen(known[i].magic)) != 0) continue;
        if (known[i].type && memcmp(head + 8, known[i].type, 4) != 0) continue;
        at->kind = known[i].kind;
        at->in = known[i].in;
        at->out = known[i].out;
    }
}

static int copy(FILE *from, bench_place *at, const char *path)
{
    uint8_t buffer[65536];
    size_t n = fread(buffer, 1, sizeof buffer, from);
    set_kind(at, buffer, n);
    char *name = bench_in_folder(at->folder, at->in);
    FILE *to = fopen(name, "wb");
    int code = to ? CLI_OK : cli_fail(CLI_FAILED, "%s: cannot write: %s", name, strerror(errno));
    for (at->size = 0; code == CLI_OK && n > 0; n = fread(buffer, 1, sizeof buffer, from)) {
        at->size += n;
        if (cli_interrupted()) code = CLI_INTERRUPTED;
        else if (fwrite(buffer, 1, n, to) != n)
            code = cli_fail(CLI_FAILED, "%s: cannot write: %s", name, strerror(errno));
    }
    if (code == CLI_OK && ferror(from))
        code = cli_fail(CLI_FAILED, "%s: cannot read: %s", path, strerror(errno));
    if (to && fclose(to) != 0 && code == CLI_OK)
        code = cli_fail(CLI_FAILED, "%s: cannot write: %s", name, strerror(errno));
    free(name);
    return code;
}

int bench_take(bench_place *at, const char *path)
{
    struct stat st;
    if (at->in) bench_forget(at->folder, at->in);
    FILE *from = fopen(path, "rb");
    if (!from) return cli_fail(CLI_FAILED, "%s: %s", path, strerror(errno));
    int code = CLI_OK;
    if (fstat(fileno(from), &st) != 0 || !S_ISREG(st.st_mode))
        code = cli_fail(CLI_FAILED, "%s: not a regular file: name the files to measure", path);
    if (code == CLI_OK) code = copy(from, at, path);
    fclose(from);
    return code;
}

static bool same_bytes(const bench_place *at)
{
    uint8_t a[32768], b[32768];
    char *path[2] = {bench_in_folder(at->folder, at->in), bench_in_folder(at->folder, at->out)};
    FILE *f[2] = {fopen(path[0], "rb"), fopen(path[1], "rb")};
    bool is_same = f[0] && f[1];
    for (size_t n = 1; is_same && n > 0;) {
        n = fread(a, 1, sizeof a, f[0]);
        is_same = fread(b, 1, sizeof b, f[1]) == n && memcmp(a, b, n) == 0;
    }
    for (int i = 0; i < 2; i++) {
        if (f[i]) fclose(f[i]);
        free(path[i]);
    }
    return is_same;
}

static bool same_pixels(const bench_place *at)
{
    fv_image_read_options o = FV_IMAGE_READ_OPTIONS_INIT;
    fv_image img[2] = {{0}, {0}};
    o.channels = 4;
    o.depth = 16;
    bool is_same = true;
    for (int i = 0; i < 2 && is_same; i++) {
        char *path = bench_in_folder(at->folder, i ? at->out : at->in);
        is_same = fv_image_read(at->ctx, &img[i], path, &o) == FV_OK;
        free(path);
    }
    is_same = is_same && img[0].width == img[1].width && img[0].height == img[1].height;
    for (int y = 0; is_same && y < img[0].height; y++)
        is_same = memcmp((const uint8_t *)img[0].pixels + (size_t)y * img[0].stride_bytes,
                         (const uint8_t *)img[1].pixels + (size_t)y * img[1].stride_bytes,
                         (size_t)img[0].width * 8) == 0;
    for (int i = 0; i < 2; i++) fv_image_free(at->ctx, &img[i]);
    return is_same;
}

/* ---- Processes ------------------------------------------------------------------------------- */

/* What a child of our own does: a level, or 0: back again. */
typedef struct own_task {
    const bench_place *at;
    int level;
    const char *from;
} own_task;

static int64_t read_fd(void *user, void *to, size_t size)
{
    const int *fd = user;
    ssize_t n;
    do n = read(fd[0], to, size);
    while (n < 0 && errno == EINTR && !cli_interrupted());
    return n;
}

static int write_fd(void *user, const void *from, size_t size)
{
    const int *fd = user;
    const char *p = from;
    while (size > 0) {
        const ssize_t n = write(fd[1], p, size);
        if (n < 0 && errno == EINTR && !cli_interrupted()) continue;
        if (n <= 0) return 1;
        p += n;
        size -= (size_t)n;
    }
    return 0;
}

/* In the child. */
static int run_ours(void *user)
{
    const own_task *t = user;
    int fd[2] = {open(t->from, O_RDONLY), STDOUT_FILENO};
    const fv_vzip_io io = {read_fd, write_fd, fd};
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    fv_ctx *ctx = t->at->ctx;
    if (fd[0] < 0) return 1;
    o.level = t->level;
    o.size = t->at->size;
    const fv_status s =
        t->level ? fv_vzip_compress_stream(ctx, &io, &o, NULL)
                 : fv_vzip_decompress_stream(ctx, &io, FV_VZIP_NO_LIMIT, NULL, NULL);
    const char *why = fv_ctx_error(ctx);
    if (s != FV_OK) (void)!write(STDERR_FILENO, why, strlen(why));
    return s != FV_OK;
}

/* ---- There and back -------------------------------------------------------------------------- */

/* One direction; false with r->state set. */
static bool run_way(const bench_place *at, const bench_coder *c, bool is_back, const char *packed,
                    bench_result *r)
{
    const char *from = is_back ? packed : at->in, *to = is_back ? at->out : packed;
    char *words[BENCH_WORDS + 1] = {NULL};
    own_task own = {at, is_back ? 0 : c->level, from};
    bench_task t = {at->folder, NULL, run_ours, &own, to, 0};
    uint64_t size;
    if (c->peer) {
        const bench_names names = {at->in, packed, at->out, NULL, at->threads};
        bench_fill_words(&names, is_back ? c->peer->unpack : c->peer->pack, words);
        t.words = words;
        if (!c->peer->has_pipes) t.to = NULL;
    }
    bench_forget(at->folder, to);
    const int status = bench_run_child(&t, is_back ? &r->unpack : &r->pack);
    if (status != 0 || !bench_size_of(at->folder, to, &size)) {
        r->state = BENCH_FAILED;
        bench_why(at->folder, status, r->why, sizeof r->why);
    }
    bench_free_words(words);
    return r->state == BENCH_OK;
}

void bench_run(const bench_place *at, const bench_coder *c, bench_result *r)
{
    const char *packed = c->peer ? c->peer->packed : "packed";
    memset(r, 0, sizeof *r);
    r->original = at->size;
    if (c->lacks) {
        r->state = BENCH_MISSING;
        snprintf(r->why, sizeof r->why, "%s is not installed", c->lacks);
        return;
    }
    if (c->peer && c->peer->kind != BENCH_ANY && c->peer->kind != at->kind) {
        r->state = BENCH_OTHER;
        snprintf(r->why, sizeof r->why, "not for this kind of file");
        return;
    }
    if (run_way(at, c, false, packed, r)) {
        (void)bench_size_of(at->folder, packed, &r->packed);
        if (run_way(at, c, true, packed, r)) {
            const bool is_picture = c->peer && c->peer->kind == BENCH_PICTURE;
            if (!(is_picture ? same_pixels(at) : same_bytes(at))) {
                r->state = BENCH_DIFFERENT;
                snprintf(r->why, sizeof r->why, "what came back is different");
            }
        }
    }
    bench_forget(at->folder, packed);
    bench_forget(at->folder, at->out);
}
