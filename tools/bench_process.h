/* bench_process.h - what benches need to run other programs, and ourselves, as child processes.
 *
 * Every run is a process of its own, so that wait4 tells its CPU time and most memory, and a crash
 * is a line in a table. Programs are started with a vector of words, never through a shell, in a
 * folder of our own where files have fixed names. What we compute ourselves runs in a fork without
 * exec. The calling process must not have other threads at that time. */
#ifndef FOVEA_BENCH_PROCESS_H
#define FOVEA_BENCH_PROCESS_H

#include "cli.h"

/* Is there such a program on the PATH? */
bool bench_is_installed(const char *program);
/* The first of two programs that cannot be found; NULL when both can. */
const char *bench_lacks(const char *pack, const char *unpack);

/* ---- A folder of our own, below TMPDIR ------------------------------------------------------- */

#define BENCH_FOLDER 300
/* The folder's absolute path. An exit code, message written; folder is empty text then. */
int bench_make_folder(const char *prefix, char folder[BENCH_FOLDER]);
/* With all that is in it: programs that were interrupted leave theirs. Empty text: nothing. */
void bench_remove_folder(const char *folder);
char *bench_in_folder(const char *folder, const char *name); /* malloced */
void bench_forget(const char *folder, const char *name);
/* False: it is not there, or no file. */
bool bench_size_of(const char *folder, const char *name, uint64_t *size);

/* ---- Children -------------------------------------------------------------------------------- */

typedef struct bench_time {
    double cpu, wall; /* seconds */
    uint64_t memory;  /* most in RAM, bytes */
} bench_time;

/* What a child does, with the folder as its own and its standard error in a file of it. */
typedef struct bench_task {
    const char *folder;
    char *const *words;       /* a program's */
    int (*run)(void *user);   /* without words; 0: done. Its words go to standard error */
    void *user;
    const char *to;           /* where standard output goes, NULL: nowhere */
    int end_with;             /* signal for a child that is interrupted; 0: SIGKILL */
} bench_task;
/* The wait status; -1 when it could not be started. An interrupt ends the child as well. */
int bench_run_child(const bench_task *t, bench_time *time);
/* Why the last child failed: its first words, or how it ended. */
void bench_why(const char *folder, int status, char *to, size_t size);

#define BENCH_WORDS 24
/* What stands for words of a call: IN, PACKED and OUT for files, @ in a word for the number of
 * threads, % for the setting. */
typedef struct bench_names {
    const char *in, *packed, *out, *setting;
    int threads;
} bench_names;
/* words end with NULL. The strings belong to `to`: bench_free_words. */
void bench_fill_words(const bench_names *n, const char *const *words, char *to[BENCH_WORDS + 1]);
void bench_free_words(char *to[BENCH_WORDS + 1]);

/* ---- Tables and talk ------------------------------------------------------------------------- */

double bench_ratio(double part, double whole); /* NAN where there is no whole */
/* A line on a terminal that the next one takes the place of; NULL only removes it. */
void bench_show(const cli_common *c, const char *fmt, ...) CLI_PRINTF(2, 3);

#endif
