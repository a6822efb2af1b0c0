/* vzip_bench_peers.c - one file through one program and back: processes, times, memory, comparison.
 *
 * Every run is a process of its own, so that wait4 tells its CPU time and most memory, and a crash
 * is a line in a table. Programs are started with a vector of words, never through a shell, in a
 * folder of our own where files have fixed names. Our own codec runs in a fork without exec: the
 * same work as the program vzip, also from `fovea bench`. This process must not have other threads
 * at that time; it only copies, compares and draws. */
#define _DEFAULT_SOURCE /* wait4 */
#include "vzip_bench.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOG "log"

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

static bool is_installed(const char *program)
{
    const char *path = getenv("PATH");
    while (path && *path) {
        const size_t n = strcspn(path, ":");
        struct stat st;
        char *full = cli_format("%.*s/%s", n ? (int)n : 1, n ? path : ".", program);
        const bool is_there =
            access(full, X_OK) == 0 && stat(full, &st) == 0 && S_ISREG(st.st_mode);
        free(full);
        if (is_there) return true;
        path += n + (path[n] == ':');
    }
    return false;
}

const char *bench_lacks(const bench_peer *p)
{
    if (!is_installed(p->pack[0])) return p->pack[0];
    return is_installed(p->unpack[0]) ? NULL : p->unpack[0];
}

/* ---- Files in the folder --------------------------------------------------------------------- */

static char *in_folder(const bench_place *at, const char *name)
{
    return cli_format("%s/%s", at->folder, name);
}

static void forget(const bench_place *at, const char *name)
{
    char *path = in_folder(at, name);
    (void)unlink(path);
    free(path);
}

static bool size_of(const bench_place *at, const char *name, uint64_t *size)
{
    struct stat st;
    char *path = in_folder(at, name);
    const bool is_there = stat(path, &st) == 0 && S_ISREG(st.st_mode);
    *size = is_there ? (uint64_t)st.st_size : 0;
    free(path);
    return is_there;
}

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
    char *name = in_folder(at, at->in);
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
    if (at->in) forget(at, at->in);
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
    char *path[2] = {in_folder(at, at->in), in_folder(at, at->out)};
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
        char *path = in_folder(at, i ? at->out : at->in);
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

/* What a child does: a program's words, or a level of ours (0: back again). */
typedef struct task {
    const bench_place *at;
    char *const *words; /* NULL: ours */
    int level;
    const char *from, *to; /* to: where standard output goes, NULL: nowhere */
} task;

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
static int run_ours(const task *t)
{
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

static void be_child(const task *t)
{
    const int in = open("/dev/null", O_RDONLY);
    if (in < 0 || chdir(t->at->folder) != 0) _exit(126);
    const int out = open(t->to ? t->to : "/dev/null", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const int log = open(LOG, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (out < 0 || log < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(log, 2) < 0) _exit(126);
    if (!t->words) _exit(run_ours(t));
    execvp(t->words[0], t->words);
    _exit(127);
}

static double seconds_of(struct timeval t)
{
    return (double)t.tv_sec + 1e-6 * (double)t.tv_usec;
}

/* The wait status; -1 when it could not be started. An interrupt ends the child as well. */
static int run_child(const task *t, bench_time *time)
{
    struct rusage use;
    int status = -1;
    memset(time, 0, sizeof *time);
    const double start = cli_now();
    fflush(NULL); /* or the child might write it again */
    const pid_t child = fork();
    if (child < 0) return -1;
    if (child == 0) be_child(t);
    while (wait4(child, &status, 0, &use) < 0) {
        if (errno != EINTR) return -1;
        if (cli_interrupted()) kill(child, SIGKILL);
    }
    time->wall = cli_now() - start;
    time->cpu = seconds_of(use.ru_utime) + seconds_of(use.ru_stime);
    time->memory = (uint64_t)use.ru_maxrss * 1024;
    return status;
}

/* ---- There and back -------------------------------------------------------------------------- */

/* The first line that the program wrote to its standard error. */
static void first_words(const bench_place *at, char *to, size_t size)
{
    char *path = in_folder(at, LOG), line[400] = "";
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f) && strspn(line, " \r\n") == strlen(line)) line[0] = 0;
    if (f) fclose(f);
    free(path);
    line[strcspn(line, "\r\n")] = 0;
    cli_printable(line, to, size);
}

static void note_failure(const bench_place *at, int status, bench_result *r)
{
    char line[100];
    r->state = BENCH_FAILED;
    first_words(at, line, sizeof line);
    if (status < 0)
        snprintf(r->why, sizeof r->why, "cannot start a process");
    else if (WIFSIGNALED(status))
        snprintf(r->why, sizeof r->why, "ended by signal %d", WTERMSIG(status));
    else
        snprintf(r->why, sizeof r->why, "%s", line[0] ? line : "failed without a word");
}

/* Names and threads filled in; the strings belong to `to`. */
static void fill_words(const bench_place *at, const bench_peer *p, const char *const *words,
                       char *to[BENCH_WORDS + 1])
{
    memset(to, 0, (BENCH_WORDS + 1) * sizeof *to);
    for (int i = 0; i < BENCH_WORDS && words[i]; i++) {
        const char *w = words[i], *mark = strchr(w, '@');
        if (strcmp(w, "IN") == 0) w = at->in;
        else if (strcmp(w, "PACKED") == 0) w = p->packed;
        else if (strcmp(w, "OUT") == 0) w = at->out;
        to[i] = mark ? cli_format("%.*s%d%s", (int)(mark - w), w, at->threads, mark + 1)
                     : cli_format("%s", w);
    }
}

/* One direction; false with r->state set. */
static bool run_way(const bench_place *at, const bench_coder *c, bool is_back, const char *packed,
                    bench_result *r)
{
    const char *from = is_back ? packed : at->in, *to = is_back ? at->out : packed;
    char *words[BENCH_WORDS + 1] = {NULL};
    task t = {at, NULL, is_back ? 0 : c->level, from, to};
    uint64_t size;
    if (c->peer) {
        fill_words(at, c->peer, is_back ? c->peer->unpack : c->peer->pack, words);
        t.words = words;
        if (!c->peer->has_pipes) t.to = NULL;
    }
    forget(at, to);
    const int status = run_child(&t, is_back ? &r->unpack : &r->pack);
    if (status != 0 || !size_of(at, to, &size)) note_failure(at, status, r);
    for (int i = 0; i < BENCH_WORDS; i++) free(words[i]);
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
        (void)size_of(at, packed, &r->packed);
        if (run_way(at, c, true, packed, r)) {
            const bool is_picture = c->peer && c->peer->kind == BENCH_PICTURE;
            if (!(is_picture ? same_pixels(at) : same_bytes(at))) {
                r->state = BENCH_DIFFERENT;
                snprintf(r->why, sizeof r->why, "what came back is different");
            }
        }
    }
    forget(at, packed);
    forget(at, at->out);
}
