/* bench_process.c - child processes, the folder they work in, and what they leave. */
#define _DEFAULT_SOURCE /* wait4, realpath */
#include "bench_process.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOG "log"

bool bench_is_installed(const char *program)
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

const char *bench_lacks(const char *pack, const char *unpack)
{
    if (!bench_is_installed(pack)) return pack;
    return bench_is_installed(unpack) ? NULL : unpack;
}

/* ---- Folder ---------------------------------------------------------------------------------- */

int bench_make_folder(const char *prefix, char folder[BENCH_FOLDER])
{
    const char *base = getenv("TMPDIR");
    if (!base || !*base) base = "/tmp";
    const int n = snprintf(folder, BENCH_FOLDER, "%s/%s-XXXXXX", base, prefix);
    char *full = n >= 0 && n < BENCH_FOLDER && mkdtemp(folder) ? realpath(folder, NULL) : NULL;
    const int err = full ? ENAMETOOLONG : errno;
    if (full && strlen(full) < BENCH_FOLDER) {
        strcpy(folder, full);
        free(full);
        return CLI_OK;
    }
    free(full);
    (void)rmdir(folder);
    folder[0] = 0;
    return cli_fail(CLI_FAILED, "cannot make a folder in %s: %s", base, strerror(err));
}

static void remove_tree(const char *path, int depth)
{
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        struct stat st;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        char *full = bench_in_folder(path, e->d_name);
        if (lstat(full, &st) == 0 && S_ISDIR(st.st_mode) && depth < 8)
            remove_tree(full, depth + 1);
        else
            (void)unlink(full);
        free(full);
    }
    if (d) closedir(d);
    (void)rmdir(path);
}

void bench_remove_folder(const char *folder)
{
    if (folder[0]) remove_tree(folder, 0);
}

char *bench_in_folder(const char *folder, const char *name)
{
    return cli_format("%s/%s", folder, name);
}

void bench_forget(const char *folder, const char *name)
{
    char *path = bench_in_folder(folder, name);
    (void)unlink(path);
    free(path);
}

bool bench_size_of(const char *folder, const char *name, uint64_t *size)
{
    struct stat st;
    char *path = bench_in_folder(folder, name);
    const bool is_there = stat(path, &st) == 0 && S_ISREG(st.st_mode);
    *size = is_there ? (uint64_t)st.st_size : 0;
    free(path);
    return is_there;
}

/* ---- Children -------------------------------------------------------------------------------- */

static void be_child(const bench_task *t)
{
    const int in = open("/dev/null", O_RDONLY);
    if (in < 0 || chdir(t->folder) != 0) _exit(126);
    const int out = open(t->to ? t->to : "/dev/null", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const int log = open(LOG, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (out < 0 || log < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(log, 2) < 0) _exit(126);
    if (!t->words) _exit(t->run(t->user));
    execvp(t->words[0], t->words);
    _exit(127);
}

static double seconds_of(struct timeval t)
{
    return (double)t.tv_sec + 1e-6 * (double)t.tv_usec;
}

static void ignore_signal(int number)
{
    (void)number; /* that it came ends sigsuspend */
}

/* Signals that end the wait, held back except in sigsuspend: one that comes between the look at
 * cli_interrupted and the wait would be noticed only when the child has ended. */
typedef struct held_signals {
    sigset_t mask;
    struct sigaction child;
} held_signals;

static void hold_signals(held_signals *h)
{
    struct sigaction a;
    sigset_t set;
    memset(&a, 0, sizeof a);
    a.sa_handler = ignore_signal;
    sigemptyset(&a.sa_mask);
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, &h->mask);
    sigaction(SIGCHLD, &a, &h->child);
}

static void release_signals(const held_signals *h)
{
    sigaction(SIGCHLD, &h->child, NULL);
    sigprocmask(SIG_SETMASK, &h->mask, NULL);
}

/* False: there is nothing to wait for. */
static bool wait_for(pid_t child, int end_with, const held_signals *h, int *status,
                     struct rusage *use)
{
    sigset_t open = h->mask;
    bool is_killed = false;
    pid_t ended;
    sigdelset(&open, SIGCHLD);
    while ((ended = wait4(child, status, WNOHANG, use)) == 0) {
        if (cli_interrupted() && !is_killed) is_killed = kill(child, end_with) == 0;
        sigsuspend(&open);
    }
    return ended == child;
}

int bench_run_child(const bench_task *t, bench_time *time)
{
    struct rusage use;
    held_signals held;
    int status = -1;
    memset(time, 0, sizeof *time);
    const double start = cli_now();
    fflush(NULL); /* or the child might write it again */
    hold_signals(&held);
    const pid_t child = fork();
    if (child == 0) {
        release_signals(&held);
        be_child(t);
    }
    const bool is_done = child > 0 && wait_for(child, t->end_with ? t->end_with : SIGKILL, &held, &status, &use);
    release_signals(&held);
    if (!is_done) return -1;
    time->wall = cli_now() - start;
    time->cpu = seconds_of(use.ru_utime) + seconds_of(use.ru_stime);
    time->memory = (uint64_t)use.ru_maxrss * 1024;
    return status;
}

/* The first line with a word that the child wrote to its standard error. */
static bool has_word(const char *line)
{
    while (*line && !isalnum((unsigned char)*line)) line++; /* launchers begin with a rule */
    return *line != 0;
}

static void first_words(const char *folder, char *to, size_t size)
{
    char *path = bench_in_folder(folder, LOG), line[400] = "";
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f) && !has_word(line)) line[0] = 0;
    if (f) fclose(f);
    free(path);
    line[strcspn(line, "\r\n")] = 0;
    cli_printable(line, to, size);
}

void bench_why(const char *folder, int status, char *to, size_t size)
{
    char line[100];
    first_words(folder, line, sizeof line);
    if (status < 0)
        snprintf(to, size, "cannot start a process");
    else if (WIFSIGNALED(status))
        snprintf(to, size, "ended by signal %d", WTERMSIG(status));
    else
        snprintf(to, size, "%s", line[0] ? line : "failed without a word");
}

void bench_fill_words(const bench_names *n, const char *const *words, char *to[BENCH_WORDS + 1])
{
    memset(to, 0, (BENCH_WORDS + 1) * sizeof *to);
    for (int i = 0; i < BENCH_WORDS && words[i]; i++) {
        const char *w = words[i], *threads = strchr(w, '@'), *setting = strchr(w, '%');
        if (strcmp(w, "IN") == 0) w = n->in;
        else if (strcmp(w, "PACKED") == 0) w = n->packed;
        else if (strcmp(w, "OUT") == 0) w = n->out;
        if (threads)
            to[i] = cli_format("%.*s%d%s", (int)(threads - w), w, n->threads, threads + 1);
        else if (setting && n->setting)
            to[i] = cli_format("%.*s%s%s", (int)(setting - w), w, n->setting, setting + 1);
        else
            to[i] = cli_format("%s", w);
    }
}

void bench_free_words(char *to[BENCH_WORDS + 1])
{
    for (int i = 0; i < BENCH_WORDS; i++) free(to[i]);
}

/* ---- Tables and talk ------------------------------------------------------------------------- */

double bench_ratio(double part, double whole)
{
    return whole > 0 ? part / whole : NAN;
}

void bench_show(const cli_common *c, const char *fmt, ...)
{
    static bool is_shown; /* there is one terminal */
    char line[240], shown[80];
    va_list ap;
    if (is_shown) fputs("\r\033[K", stderr);
    is_shown = fmt && !c->quiet && isatty(STDERR_FILENO);
    if (!is_shown) return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    cli_printable(line, shown, sizeof shown);
    fputs(shown, stderr);
    fflush(stderr);
}
