/* cli.c - what the programs share; see cli.h.
 *
 * State of the process (program name, verbosity, progress line, the context to cancel) is static
 * here, because there is one terminal and one set of signals. The library itself has none. */
#define _XOPEN_SOURCE 700 /* sigaltstack */
#include "cli.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_CACHE_BYTES ((size_t)16 << 20)
#define HELP_COLUMNS 80

static const char *program = "fovea";
static bool is_quiet, is_verbose;

/* ---- Small things ---------------------------------------------------------------------------- */

double cli_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

uint64_t cli_resident_peak(void)
{
    struct rusage use;
    memset(&use, 0, sizeof use);
    return getrusage(RUSAGE_SELF, &use) == 0 ? (uint64_t)use.ru_maxrss * 1024 : 0; /* KiB */
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double cli_quantile(double *v, int n, double q)
{
    if (n < 1) return NAN;
    qsort(v, (size_t)n, sizeof *v, by_value);
    const double at = q * (n - 1);
    const int i = (int)at;
    return i + 1 < n ? v[i] + (at - i) * (v[i + 1] - v[i]) : v[i];
}

void cli_hex(const uint8_t *bytes, int n, char *out)
{
    for (int i = 0; i < n; i++) {
        out[2 * i] = "0123456789abcdef"[bytes[i] >> 4];
        out[2 * i + 1] = "0123456789abcdef"[bytes[i] & 15];
    }
    out[2 * n] = 0;
}

uint64_t cli_hash(uint64_t h, const char *text)
{
    if (h == 0) h = 0xcbf29ce484222325u;
    for (; *text; text++) h = (h ^ (uint8_t)*text) * 0x100000001b3u;
    return h;
}

void cli_cpu_name(char *out, size_t size)
{
    char line[512];
    snprintf(out, size, "unknown");
    FILE *f = fopen("/proc/cpuinfo", "r");
    if (!f) return;
    while (fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        line[strcspn(line, "\n")] = 0;
        cli_printable(colon + 1 + (colon[1] == ' '), out, size);
        break;
    }
    fclose(f);
}

char *cli_format(const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    const int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *p = n < 0 ? NULL : malloc((size_t)n + 1);
    if (p) vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    if (!p) exit(cli_fail(CLI_FAILED, "out of memory"));
    return p;
}

bool cli_ends_with(const char *path, const char *suffix)
{
    const size_t n = strlen(path), k = strlen(suffix);
    return n > k && strcmp(path + n - k, suffix) == 0;
}

bool cli_has_suffix(const char *path, const char *suffix)
{
    const size_t n = strlen(path), k = strlen(suffix);
    return n > k && strcasecmp(path + n - k, suffix) == 0;
}

char *cli_with_suffix(const char *path, const char *suffix)
{
    static const char *const known[] = {".safetensors", ".pt", ".pth", ".bin"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (cli_ends_with(path, known[i]))
            return cli_format("%.*s%s", (int)(strlen(path) - strlen(known[i])), path, suffix);
    return cli_format("%s%s", path, suffix);
}

char *cli_folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash) return cli_format(".");
    return slash == path ? cli_format("/") : cli_format("%.*s", (int)(slash - path), path);
}

const char *cli_base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

char **cli_names_of(const char *path, size_t *count)
{
    size_t room = 0;
    char **names = NULL;
    struct dirent *e;
    DIR *d = opendir(path);
    *count = 0;
    if (!d) return NULL;
    while ((e = readdir(d)) != NULL) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (*count == room) {
            char **more = realloc(names, (room = 2 * room + 16) * sizeof *names);
            if (!more) exit(cli_fail(CLI_FAILED, "out of memory"));
            names = more;
        }
        names[(*count)++] = cli_format("%s", e->d_name);
    }
    closedir(d);
    if (*count) qsort(names, *count, sizeof *names, by_name);
    return names ? names : calloc(1, sizeof *names);
}

bool cli_file_exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

bool cli_is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool cli_is_special(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && (S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode));
}

bool cli_has_picture_suffix(const char *path)
{
    static const char *const known[] = {".png",  ".jpg", ".jpeg", ".webp",
                                        ".ppm", ".pgm", ".pnm"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (cli_has_suffix(path, known[i])) return true;
    return false;
}

int cli_check_place(const char *path, bool may_overwrite)
{
    int code = CLI_OK;
    if (cli_is_special(path)) return CLI_OK;
    if (cli_is_folder(path)) return cli_fail(CLI_FAILED, "%s: is a folder", path);
    if (cli_file_exists(path) && !may_overwrite)
        return cli_fail(CLI_FAILED, "%s: exists; -f overwrites", path);
    char *folder = cli_folder_of(path);
    if (access(folder, W_OK | X_OK) != 0)
        code = cli_fail(CLI_FAILED, "%s: cannot write into %s: %s", path, folder, strerror(errno));
    free(folder);
    return code;
}

static int say_errno(const char *path)
{
    return cli_fail(CLI_FAILED, "%s: %s", path, errno ? strerror(errno) : "write failed");
}

int cli_save_bytes(const char *path, const void *bytes, size_t size, bool may_overwrite)
{
    const uint8_t *from = bytes;
    const bool is_special = cli_is_special(path);
    const size_t room = strlen(path) + FV_TEMP_ROOM;
    char *temp = malloc(room);
    if (!temp) return cli_fail(CLI_FAILED, "out of memory");
    const int fd = is_special ? open(path, O_WRONLY | O_CLOEXEC)
                              : fv_temp_open(path, 0666, temp, room);
    int code = fd >= 0 ? CLI_OK : say_errno(path);
    for (size_t at = 0; code == CLI_OK && at < size;) {
        const ssize_t n = write(fd, from + at, size - at);
        if (n > 0) at += (size_t)n;
        else if (n == 0 || errno != EINTR) code = say_errno(path);
    }
    if (code == CLI_OK && !is_special && fv_temp_publish(fd, temp, path, may_overwrite) != 0)
        code = say_errno(path);
    else if (fd >= 0 && (code != CLI_OK || is_special) && close(fd) != 0 && code == CLI_OK)
        code = say_errno(path);
    if (code != CLI_OK && fd >= 0 && !is_special) unlink(temp);
    free(temp);
    return code;
}

int cli_save_text(const char *path, const char *text, size_t size)
{
    return cli_save_bytes(path, text, size, true);
}

void cli_printable(const char *text, char *out, size_t size)
{
    size_t n = 0;
    for (; *text && n + 1 < size; text++) {
        const uint8_t c = (uint8_t)*text;
        out[n++] = c < 0x20 || c == 0x7f ? '?' : *text;
    }
    /* A cut must not leave half a UTF-8 character. */
    if (*text)
        while (n > 0 && ((uint8_t)out[n - 1] & 0x80)) {
            const uint8_t c = (uint8_t)out[--n];
            if (c >= 0xc0) break;
        }
    out[n] = 0;
}

/* ---- Messages -------------------------------------------------------------------------------- */

/* OpenMP threads that wait by spinning make a busy machine crawl: 20 steps took 51 s with the usual
 * setting, 4 s with short spins and 2.5 s on one thread, with the cores shared. The runtime reads
 * its setting before main, so the program starts itself again with short spins; people who set one
 * of these variables keep theirs. Results do not depend on it. */
static void wait_calmly(char **argv)
{
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT") || getenv("KMP_BLOCKTIME")) return;
    if (setenv("GOMP_SPINCOUNT", "1000", 0) || setenv("KMP_BLOCKTIME", "0", 0)) return;
    execv("/proc/self/exe", argv); /* on failure: go on as we are */
}

/* A standard stream that the caller closed would be given to the first file that is opened, and
 * messages would land in a picture or a log. Standard output opens for reading: writes fail there,
 * and that is reported. */
static void hold_streams(void)
{
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
            (void)!open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY);
}

void cli_setup(const char *name, char **argv)
{
    program = name;
    hold_streams();
    wait_calmly(argv);
}

void cli_set_talk(bool quiet, bool verbose)
{
    is_quiet = quiet;
    is_verbose = verbose && !quiet;
}

/* One line, whatever a file name or a message contains. */
static void say(const char *fmt, va_list ap)
{
    char raw[2048], text[2048];
    vsnprintf(raw, sizeof raw, fmt, ap);
    cli_printable(raw, text, sizeof text);
    cli_progress_clear();
    fprintf(stderr, "%s: %s\n", program, text);
}

int cli_fail(int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(fmt, ap);
    va_end(ap);
    return code;
}

void cli_note(const char *fmt, ...)
{
    va_list ap;
    if (is_quiet) return;
    va_start(ap, fmt);
    say(fmt, ap);
    va_end(ap);
}

void cli_detail(const char *fmt, ...)
{
    va_list ap;
    if (!is_verbose) return;
    va_start(ap, fmt);
    say(fmt, ap);
    va_end(ap);
}

int cli_exit_code(fv_status s)
{
    if (s == FV_OK) return CLI_OK;
    if (s == FV_ERR_CANCELLED) return CLI_INTERRUPTED;
    if (s == FV_ERR_UNKNOWN || s == FV_ERR_ARG) return CLI_USAGE;
    return s >= 20 && s < 40 ? CLI_BAD_INPUT : CLI_FAILED;
}

int cli_report(const fv_ctx *ctx, fv_status s, const char *what)
{
    const char *text = fv_ctx_error(ctx);
    const int code = cli_exit_code(s);
    if (code == CLI_INTERRUPTED && cli_interrupted())
        return cli_fail(code, "%s", *text && strstr(text, "saved") ? text : "interrupted");
    if (!*text) text = fv_status_name(s);
    /* Many messages begin with the file already. */
    if (!what || strncmp(text, what, strlen(what)) == 0) return cli_fail(code, "%s", text);
    return cli_fail(code, "%s: %s", what, text);
}

/* ---- Options --------------------------------------------------------------------------------- */

/* Edit distance with neighbouring letters exchanged counted once; long words are cut. */
static int distance(const char *a, const char *b)
{
    int d[34][34];
    int n = (int)strlen(a), m = (int)strlen(b);
    if (n > 32) n = 32;
    if (m > 32) m = 32;
    for (int i = 0; i <= n; i++) d[i][0] = i;
    for (int j = 0; j <= m; j++) d[0][j] = j;
    for (int i = 1; i <= n; i++)
        for (int j = 1; j <= m; j++) {
            int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best) best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best) best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    return d[n][m];
}

/* Near: a third of the letters at most, or a beginning of the name. */
static const char *nearer(const char *word, const char *name, int *best, const char *so_far)
{
    const size_t n = strlen(word);
    int d = distance(word, name);
    if (n >= 2 && strncmp(word, name, n) == 0) d = 1;
    if (d >= *best || d > (int)(n / 3) + 1) return so_far;
    *best = d;
    return name;
}

const char *cli_nearest(const char *word, const char *const *names)
{
    const char *found = NULL;
    int best = 1000;
    for (; *names; names++) found = nearer(word, *names, &best, found);
    return found;
}

static bool is_last(const cli_option *o)
{
    return !o->letter && !o->name;
}

static int unknown_option(const cli_command *c, const char *word, size_t n)
{
    char name[64];
    const char *found = NULL;
    int best = 1000;
    snprintf(name, sizeof name, "%.*s", (int)(n < 63 ? n : 63), word);
    for (const cli_option *o = c->options; !is_last(o); o++)
        if (o->name) found = nearer(name, o->name, &best, found);
    if (found) return cli_fail(CLI_USAGE, "unknown option --%s, did you mean --%s?", name, found);
    return cli_fail(CLI_USAGE, "unknown option --%s (%s --help lists all)", name, c->name);
}

/* How an option is called in messages. */
static const char *called(const cli_option *o, char out[40])
{
    if (o->name)
        snprintf(out, 40, "--%s", o->name);
    else
        snprintf(out, 40, "-%c", o->letter);
    return out;
}

static bool is_whole(const char *t)
{
    if (*t == '-') t++;
    if (!*t) return false;
    for (; *t; t++)
        if (!isdigit((unsigned char)*t)) return false;
    return true;
}

static bool parse_u64(const char *t, uint64_t *out)
{
    char *end;
    if (!is_whole(t) || *t == '-') return false;
    errno = 0;
    const unsigned long long v = strtoull(t, &end, 10);
    *out = v;
    return errno == 0 && *end == 0;
}

static bool parse_number(const char *t, bool is_ratio, double *out)
{
    char *end;
    /* strtod takes spaces, hexadecimal, inf and nan as well. */
    if (t[strspn(t, "+-.0123456789eExX")] || !*t) return false;
    if (t[0] == '0' && (t[1] == 'x' || t[1] == 'X')) return false;
    *out = strtod(t, &end);
    if (end == t) return false;
    if (is_ratio && (*end == 'x' || *end == 'X')) end++;
    return *end == 0 && isfinite(*out);
}

int cli_parse_size(const char *option, const char *text, uint64_t lo, uint64_t *out)
{
    static const char units[] = "KMGT";
    uint64_t v = 0;
    const char *p = text;
    bool ok = *p >= '0' && *p <= '9';
    for (; *p >= '0' && *p <= '9'; p++) {
        if (v > (UINT64_MAX - 9) / 10) ok = false;
        else v = 10 * v + (uint64_t)(*p - '0');
    }
    const char *unit = *p ? strchr(units, *p >= 'a' && *p <= 'z' ? *p - 32 : *p) : NULL;
    if (unit) {
        const int shift = 10 * (int)(unit - units + 1);
        if (v > UINT64_MAX >> shift) ok = false;
        else v <<= shift;
        p++;
        if (*p == 'i' && p[1] == 'B') p++;
    }
    if (*p == 'B') p++;
    if (!ok || *p || v < lo)
        return cli_fail(CLI_USAGE, "%s %s: a size such as 64K, 8M or 1G is needed, %llu or more",
                        option, text, (unsigned long long)lo);
    *out = v;
    return CLI_OK;
}

static int set_number(const cli_option *o, const char *text)
{
    char name[40];
    double v = 0;
    const bool is_int = o->kind == CLI_INT;
    const bool ok = (!is_int || is_whole(text)) && parse_number(text, o->kind == CLI_RATIO, &v);
    if (!ok || v < o->lo || v > o->hi)
        return cli_fail(CLI_USAGE, "%s %s: %s from %.10g to %.10g is needed", called(o, name), text,
                        is_int ? "a whole number" : "a number", o->lo, o->hi);
    if (is_int)
        *(int *)o->to = (int)v;
    else
        *(double *)o->to = v;
    return -1;
}

static int set_choice(const cli_option *o, const char *text)
{
    char name[40];
    const size_t n = strlen(text);
    for (const char *p = o->value; n > 0 && (p = strstr(p, text)) != NULL; p++)
        if ((p == o->value || p[-1] == '|') && (p[n] == 0 || p[n] == '|')) {
            *(const char **)o->to = text;
            return -1;
        }
    return cli_fail(CLI_USAGE, "%s %s: one of %s is needed", called(o, name), text, o->value);
}

static int set_option(const cli_option *o, const char *text)
{
    char name[40];
    switch (o->kind) {
    case CLI_FLAG: *(bool *)o->to = true; return -1;
    case CLI_STRING:
        if (!*text) return cli_fail(CLI_USAGE, "%s: the value is empty", called(o, name));
        *(const char **)o->to = text;
        return -1;
    case CLI_CHOICE: return set_choice(o, text);
    case CLI_U64:
        if (parse_u64(text, o->to)) return -1;
        return cli_fail(CLI_USAGE, "%s %s: a whole number from 0 to 18446744073709551615 is needed",
                        called(o, name), text);
    case CLI_INT:
    case CLI_NUMBER:
    case CLI_RATIO: return set_number(o, text);
    case CLI_LIST: break;
    }
    cli_list *l = o->to;
    if (l->count == (int)(sizeof l->item / sizeof *l->item))
        return cli_fail(CLI_USAGE, "%s: given more than %d times", called(o, name), l->count);
    l->item[l->count++] = text;
    return -1;
}

static void print_wrapped(const char *text, int indent, int at)
{
    while (*text) {
        const int n = (int)strcspn(text, " \n");
        if (at > indent && at + 1 + n > HELP_COLUMNS) {
            printf("\n%*s", indent, "");
            at = indent;
        } else if (at > indent) {
            putchar(' ');
            at++;
        }
        printf("%.*s", n, text);
        at += n;
        text += n + (text[n] != 0);
    }
    putchar('\n');
}

static void print_option(const cli_option *o)
{
    char left[64];
    const char *value = o->value ? o->value : "";
    const char *space = *value ? " " : "";
    if (o->letter && o->name)
        snprintf(left, sizeof left, "  -%c, --%s%s%s", o->letter, o->name, space, value);
    else if (o->letter)
        snprintf(left, sizeof left, "  -%c%s%s", o->letter, space, value);
    else
        snprintf(left, sizeof left, "  --%s%s%s", o->name, space, value);
    printf("%-26s", left);
    if (strlen(left) >= 26) printf("\n%26s", "");
    print_wrapped(o->help, 26, 26);
}

static void print_help(const cli_command *c)
{
    const char *u = c->usage;
    for (int i = 0; *u; i++) {
        const int n = (int)strcspn(u, "\n");
        char line[256];
        const int at = printf("%s %s ", i ? "      " : "Usage:", c->name);
        snprintf(line, sizeof line, "%.*s", n, u);
        print_wrapped(line, at, at);
        u += n + (u[n] != 0);
    }
    print_wrapped(c->about, 0, 0);
    putchar('\n');
    for (const cli_option *o = c->options; !is_last(o); o++) print_option(o);
    if (c->more) printf("\n%s", c->more);
}

/* --help and --version have no destination. */
static int built_in(const cli_command *c, const cli_option *o)
{
    if (o->to) return -1;
    if (strcmp(o->name, "version") == 0)
        printf("%s %s\n", program, fv_version_string());
    else
        print_help(c);
    return CLI_OK;
}

static int parse_long(const cli_command *c, char **argv, int argc, int *at)
{
    const char *word = argv[*at] + 2, *equal = strchr(word, '=');
    const size_t n = equal ? (size_t)(equal - word) : strlen(word);
    for (const cli_option *o = c->options; !is_last(o); o++) {
        if (!o->name || strlen(o->name) != n || strncmp(o->name, word, n) != 0) continue;
        if (!o->value) {
            if (equal) return cli_fail(CLI_USAGE, "--%s takes no value", o->name);
            const int code = built_in(c, o);
            return code >= 0 ? code : set_option(o, "");
        }
        if (equal) return set_option(o, equal + 1);
        if (*at + 1 >= argc) return cli_fail(CLI_USAGE, "--%s: a value is missing", o->name);
        return set_option(o, argv[++*at]);
    }
    return unknown_option(c, word, n);
}

/* "-n4", "-n 4", "-qf". */
static int parse_short(const cli_command *c, char **argv, int argc, int *at)
{
    for (const char *p = argv[*at] + 1; *p; p++) {
        const cli_option *o = c->options;
        while (!is_last(o) && o->letter != *p) o++;
        if (is_last(o))
            return cli_fail(CLI_USAGE, "unknown option -%c (%s --help lists all)", *p, c->name);
        if (!o->value) {
            const int code = set_option(o, "");
            if (code >= 0) return code;
            continue;
        }
        if (p[1]) return set_option(o, p + 1);
        if (*at + 1 >= argc) return cli_fail(CLI_USAGE, "-%c: a value is missing", o->letter);
        return set_option(o, argv[++*at]);
    }
    return -1;
}

int cli_parse(const cli_command *c, int argc, char **argv, const char **files, int *count)
{
    bool only_files = false;
    *count = 0;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        int code = -1;
        if (!only_files && strcmp(a, "--") == 0)
            only_files = true;
        else if (!only_files && a[0] == '-' && a[1] == '-')
            code = parse_long(c, argv, argc, &i);
        else if (!only_files && a[0] == '-' && a[1])
            code = parse_short(c, argv, argc, &i);
        else if (*count < c->max_files)
            files[(*count)++] = a;
        else
            code = cli_fail(CLI_USAGE, "unexpected argument \"%s\" (%s --help)", a, c->name);
        if (code >= 0) return code;
    }
    if (*count >= c->min_files) return -1;
    return cli_fail(CLI_USAGE, "an argument is missing: %s %.*s", c->name,
                    (int)strcspn(c->usage, "\n"), c->usage);
}

/* ---- Progress -------------------------------------------------------------------------------- */

static struct {
    bool is_on, is_shown;
    double start, last;
    char stage[32], title[40];
    void (*watch)(void *user, const fv_progress *p);
    void *user;
} bar;

void cli_watch(void (*watch)(void *user, const fv_progress *p), void *user)
{
    bar.watch = watch;
    bar.user = user;
}

void cli_progress_clear(void)
{
    if (bar.is_shown) fputs("\r\033[K", stderr);
    bar.is_shown = false;
}

void cli_progress_title(const char *fmt, ...)
{
    cli_progress_clear();
    bar.title[0] = bar.stage[0] = 0;
    if (!fmt) return;
    va_list ap;
    va_start(ap, fmt);
    const int n = vsnprintf(bar.title, sizeof bar.title - 2, fmt, ap);
    va_end(ap);
    if (n > 0) strcat(bar.title, ": ");
}

static void draw(const fv_progress *p, double elapsed)
{
    char line[240], shown[80], blocks[21];
    const int n = snprintf(line, sizeof line, "%s", bar.title); /* shorter than the line */
    char *at = line + n;
    const size_t room = sizeof line - (size_t)n;
    if (p->total > 0 && !p->detail) {
        const double part = (double)p->done / (double)p->total;
        const double left = part > 0 ? elapsed * (1 - part) / part : 0;
        for (int i = 0; i < 20; i++) blocks[i] = i < (int)(20 * part) ? '#' : '.';
        blocks[20] = 0;
        snprintf(at, room, "%s [%s] %llu/%llu ETA %.0f:%02.0f", p->stage, blocks,
                 (unsigned long long)p->done, (unsigned long long)p->total, floor(left / 60),
                 floor(fmod(left, 60)));
    } else if (p->total > 0) {
        snprintf(at, room, "%s %llu/%llu %s", p->stage, (unsigned long long)p->done,
                 (unsigned long long)p->total, p->detail);
    } else {
        snprintf(at, room, "%s %llu %s", p->stage, (unsigned long long)p->done,
                 p->detail ? p->detail : "");
    }
    cli_printable(line, shown, sizeof shown); /* the detail may be a file name */
    fprintf(stderr, "\r\033[K%s", shown);
    fflush(stderr);
    bar.is_shown = true;
}

/* The line appears when a stage has taken half a second and changes ten times a second. */
static int on_progress(void *user, const fv_progress *p)
{
    (void)user;
    if (bar.watch) bar.watch(bar.user, p);
    if (strcmp(p->stage, "profile") == 0 && p->detail && !is_quiet) {
        cli_progress_clear();
        fputs(p->detail, stderr); /* a table of several lines, asked for by the recipe */
    }
    if (!bar.is_on) return 0;
    const double now = cli_now();
    if (strcmp(bar.stage, p->stage) != 0 || p->done <= 1) {
        snprintf(bar.stage, sizeof bar.stage, "%s", p->stage);
        bar.start = now;
    }
    if (now - bar.start < 0.5 || now - bar.last < 0.1) return 0;
    bar.last = now;
    draw(p, now - bar.start);
    return 0;
}

/* ---- Context and signals --------------------------------------------------------------------- */

static fv_ctx *volatile cancel_ctx;
static volatile sig_atomic_t has_signal;

/* fv_ctx_cancel stores to one lock-free atomic, which a handler may do. A second signal meets the
 * system's own action and ends the program at once. */
static void on_signal(int number)
{
    (void)number;
    has_signal = 1;
    fv_ctx *ctx = cancel_ctx;
    if (ctx) fv_ctx_cancel(ctx);
}

bool cli_interrupted(void)
{
    return has_signal != 0;
}

/* The handler runs on a stack of its own: while oneDNN multiplies matrices without AVX-512, the
 * stack pointer points into its work space on the heap, and a signal's frame would be written over
 * what lies before that. One run in six that was interrupted in a training died of it. */
static void catch_signals(void)
{
    static char memory[65536];
    const stack_t stack = {.ss_sp = memory, .ss_size = sizeof memory};
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = on_signal;
    /* No SA_RESTART: a blocked read or open must notice. */
    a.sa_flags = (int)(SA_RESETHAND | (sigaltstack(&stack, NULL) == 0 ? SA_ONSTACK : 0));
    sigemptyset(&a.sa_mask);
    /* A signal that the parent chose to ignore (a shell's background job) stays ignored. */
    static const int numbers[] = {SIGINT, SIGTERM};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct sigaction old;
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(numbers[i], &a, NULL);
    }
}

/* The context that would have said why could not be made: another asks. */
static int without_device(const cli_common *c)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_cuda_info info;
    fv_ctx *cpu = NULL;
    const char *why = "a device is there, but cannot be opened";
    o.device = FV_DEVICE_CPU;
    o.threads = 1;
    if (fv_ctx_create(&cpu, &o) == FV_OK && fv_cuda_device(cpu, 0, &info) != FV_OK)
        why = fv_ctx_error(cpu);
    const int code = cli_fail(CLI_FAILED, "--device %s: %s; use --device cpu", c->device, why);
    fv_ctx_destroy(&cpu);
    return code;
}

/* Which of the ranks on this machine a launcher made this process (Open MPI, Hydra, MVAPICH): each
 * takes a device of its own. */
static int local_rank(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID",
                                        "MV2_COMM_WORLD_LOCAL_RANK"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *v = getenv(names[i]);
        const int n = v ? atoi(v) : 0;
        if (n > 0) return n;
    }
    return 0;
}

int cli_start(fv_ctx **ctx, const cli_common *c)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    cli_set_talk(c->quiet, c->verbose);
    bar.is_on = !c->quiet && isatty(STDERR_FILENO);
    o.threads = c->threads;
    o.progress = on_progress;
    if (c->device && strcmp(c->device, "cpu") == 0) o.device = FV_DEVICE_CPU;
    if (c->device && strcmp(c->device, "cuda") == 0) o.device = FV_DEVICE_CUDA;
    o.cuda_device = local_rank();
    const fv_status s = fv_ctx_create(ctx, &o);
    if (s == FV_ERR_DEVICE) return without_device(c);
    if (s != FV_OK) return cli_fail(CLI_FAILED, "cannot start: %s", fv_status_name(s));
    cancel_ctx = *ctx;
    catch_signals();
    return CLI_OK;
}

fv_dtype cli_precision(const fv_ctx *ctx, const cli_common *c)
{
    const bool is_cuda = fv_ctx_device(ctx) == FV_DEVICE_CUDA;
    const bool has_bf16 = is_cuda || fv_ctx_cpu(ctx) & FV_CPU_AVX512;
    if (!c->precision) return has_bf16 ? FV_BF16 : FV_F32;
    if (strcmp(c->precision, "f32") == 0) return FV_F32;
    if (strcmp(c->precision, "int8") == 0) return FV_I8;
    if (strcmp(c->precision, "fp8") == 0) return FV_F8;
    if (!has_bf16) cli_note("--precision bf16 needs AVX-512, which this CPU lacks or "
                            "ONEDNN_MAX_CPU_ISA forbids: using f32");
    return has_bf16 ? FV_BF16 : FV_F32;
}

int cli_finish(fv_ctx **ctx, int code)
{
    cli_progress_clear();
    cancel_ctx = NULL;
    fv_ctx_destroy(ctx);
    errno = 0;
    const bool failed = fflush(stdout) != 0 || ferror(stdout);
    if (failed && code == CLI_OK)
        return cli_fail(CLI_FAILED, "standard output: %s",
                        errno ? strerror(errno) : "write failed");
    return code;
}

int cli_run(const cli_verb *v, int argc, char **argv)
{
    const char *file = NULL;
    fv_ctx *ctx = NULL;
    int files;
    int code = cli_parse(v->command, argc, argv, &file, &files);
    if (code >= 0) return cli_finish(&ctx, code);
    code = v->check ? v->check(v->args, file) : CLI_OK;
    if (code == CLI_OK) code = cli_start(&ctx, v->common);
    if (code == CLI_OK) code = v->run(ctx, v->args, file);
    return cli_finish(&ctx, code);
}

int cli_run_files(const cli_command *c, int argc, char **argv,
                  int (*run)(void *args, const char **files, int count), void *args)
{
    const char **files = calloc((size_t)argc + 1, sizeof *files);
    fv_ctx *none = NULL;
    int count = 0;
    if (!files) return cli_fail(CLI_FAILED, "out of memory");
    int code = cli_parse(c, argc, argv, files, &count);
    code = code < 0 ? run(args, files, count) : cli_finish(&none, code);
    free(files);
    return code;
}

/* ---- JSON ------------------------------------------------------------------------------------ */

/* Bytes of the well-formed UTF-8 character at p, 0 if there is none. The NUL ends a cut one. */
static int utf8_step(const uint8_t *p)
{
    const int n = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (n < 2) return n;
    /* Overlong forms, surrogates and values above U+10FFFF differ in the second byte. */
    const uint8_t lo = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;
    const uint8_t hi = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
    if (p[0] > 0xf4 || p[1] < lo || p[1] > hi) return 0;
    for (int i = 2; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    return n;
}

/* File names may hold any bytes, JSON holds Unicode only: what is not UTF-8 becomes U+FFFD. */
void cli_json_text(FILE *to, const char *text)
{
    putc('"', to);
    for (const uint8_t *p = (const uint8_t *)text; *p;) {
        const int n = utf8_step(p);
        if (*p == '"' || *p == '\\')
            fprintf(to, "\\%c", *p);
        else if (*p < 0x20 || *p == 0x7f)
            fprintf(to, "\\u%04x", *p);
        else if (n == 0)
            fputs("\\ufffd", to);
        else
            fwrite(p, 1, (size_t)n, to);
        p += n ? n : 1;
    }
    putc('"', to);
}

void cli_json_open(cli_json *j, FILE *to)
{
    j->to = to;
    j->is_first = true;
    putc('{', to);
}

void cli_json_key(cli_json *j, const char *key)
{
    fputs(j->is_first ? "\n  " : ",\n  ", j->to);
    j->is_first = false;
    cli_json_text(j->to, key);
    fputs(": ", j->to);
}

void cli_json_string(cli_json *j, const char *key, const char *value)
{
    cli_json_key(j, key);
    if (value)
        cli_json_text(j->to, value);
    else
        fputs("null", j->to);
}

void cli_json_number(cli_json *j, const char *key, double value)
{
    cli_json_key(j, key);
    if (isfinite(value))
        fprintf(j->to, "%.9g", value);
    else
        fputs("null", j->to);
}

void cli_json_u64(cli_json *j, const char *key, uint64_t value)
{
    cli_json_key(j, key);
    fprintf(j->to, "%llu", (unsigned long long)value);
}

void cli_json_bool(cli_json *j, const char *key, bool value)
{
    cli_json_key(j, key);
    fputs(value ? "true" : "false", j->to);
}

void cli_json_strings(cli_json *j, const char *key, char *const *item, int count)
{
    cli_json_key(j, key);
    putc('[', j->to);
    for (int i = 0; i < count; i++) {
        if (i) fputs(", ", j->to);
        cli_json_text(j->to, item[i]);
    }
    putc(']', j->to);
}

void cli_json_close(cli_json *j)
{
    fputs("\n}\n", j->to);
}

/* ---- Cache ----------------------------------------------------------------------------------- */

char *cli_cache_path(const char *name)
{
    const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char *root, *folder, *path;
    if (base && base[0] == '/')
        root = cli_format("%s", base); /* relative: to be ignored */
    else if (home && home[0] == '/')
        root = cli_format("%s/.cache", home);
    else
        return NULL;
    folder = cli_format("%s/fovea", root);
    (void)mkdir(root, 0700);
    (void)mkdir(folder, 0700);
    path = cli_is_folder(folder) ? cli_format("%s/%s", folder, name) : NULL;
    free(root);
    free(folder);
    return path;
}

char *cli_read_text(const char *path, size_t *size)
{
    struct stat st;
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    char *text = NULL;
    *size = 0;
    if (fstat(fileno(f), &st) == 0 && S_ISREG(st.st_mode) && st.st_size >= 0 &&
        (uint64_t)st.st_size <= MAX_CACHE_BYTES)
        text = malloc((size_t)st.st_size + 1);
    if (text) {
        *size = fread(text, 1, (size_t)st.st_size, f);
        text[*size] = 0;
    }
    fclose(f);
    return text;
}

void cli_write_text(const char *path, const char *text, size_t size)
{
    char *temp = cli_format("%s.XXXXXX", path);
    const int fd = mkstemp(temp);
    FILE *f = fd >= 0 ? fdopen(fd, "wb") : NULL;
    if (f) {
        const bool wrote = fwrite(text, 1, size, f) == size;
        const bool closed = fclose(f) == 0;
        if (!wrote || !closed || rename(temp, path) != 0) unlink(temp);
    } else if (fd >= 0) {
        close(fd);
        unlink(temp);
    }
    free(temp);
}
