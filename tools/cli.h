/* cli.h - what the programs share: options, errors, progress, signals, JSON, the cache folder.
 *
 * A program describes its options once, in a table; parsing, --help and the messages about wrong
 * options come from it. stdout is data, stderr is talk. */
#ifndef FOVEA_CLI_H
#define FOVEA_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "fovea.h"

#if defined(__GNUC__)
#define CLI_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define CLI_PRINTF(f, a)
#endif

/* Exit codes of all programs. */
enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_BAD_INPUT = 3, CLI_INTERRUPTED = 130 };

/* ---- Options --------------------------------------------------------------------------------- */

typedef enum cli_kind {
    CLI_FLAG,   /* bool: given or not                                   */
    CLI_STRING, /* const char *                                         */
    CLI_CHOICE, /* const char *: one of the words in `value` (a|b|c)    */
    CLI_INT,    /* int in lo..hi                                        */
    CLI_U64,    /* uint64_t, any                                        */
    CLI_NUMBER, /* double in lo..hi                                     */
    CLI_RATIO,  /* double in lo..hi, "2x" is 2                          */
    CLI_LIST    /* cli_list: may be repeated                            */
} cli_kind;

typedef struct cli_option {
    char letter;       /* 0 = none */
    const char *name;  /* without the dashes; NULL = none */
    const char *value; /* NULL for flags; "FILE", "auto|cpu|cuda" */
    const char *help;
    cli_kind kind;
    void *to;
    double lo, hi;
} cli_option;

typedef struct cli_list {
    const char *item[64];
    int count;
} cli_list;

typedef struct cli_command {
    const char *name;          /* "gen", "gen info" */
    const char *usage;         /* what follows the name; lines after \n are further forms */
    const char *about;         /* one sentence */
    const char *more;          /* text after the options, or NULL */
    const cli_option *options; /* ends with an option without letter and name */
    int min_files, max_files;  /* positional arguments */
} cli_command;

/* Options that mean the same everywhere. */
typedef struct cli_common {
    const char *device, *precision;
    int threads;
    bool force, quiet, verbose, json;
} cli_common;

#define CLI_OPT_THREADS(c)                                                                         \
    {                                                                                              \
        0, "threads", "N", "threads (default: all cores)", CLI_INT, &(c)->threads, 1, 256          \
    }
#define CLI_OPT_DEVICE(c)                                                                          \
    {                                                                                              \
        0, "device", "auto|cpu|cuda", "where to compute", CLI_CHOICE, &(c)->device, 0, 0           \
    }
#define CLI_OPT_PRECISION(c)                                                                       \
    {                                                                                              \
        0, "precision", "f32|bf16", "default: bf16 where the CPU has AVX-512", CLI_CHOICE,         \
            &(c)->precision, 0, 0                                                                  \
    }
#define CLI_OPT_FORCE(c)                                                                           \
    {                                                                                              \
        'f', NULL, NULL, "overwrite files", CLI_FLAG, &(c)->force, 0, 0                            \
    }
#define CLI_OPT_QUIET(c)                                                                           \
    {                                                                                              \
        'q', NULL, NULL, "only errors on stderr", CLI_FLAG, &(c)->quiet, 0, 0                      \
    }
#define CLI_OPT_VERBOSE(c)                                                                         \
    {                                                                                              \
        'v', NULL, NULL, "more on stderr", CLI_FLAG, &(c)->verbose, 0, 0                           \
    }
#define CLI_OPT_JSON(c)                                                                            \
    {                                                                                              \
        0, "json", NULL, "one JSON object on stdout", CLI_FLAG, &(c)->json, 0, 0                   \
    }
/* What every verb that computes takes. */
#define CLI_OPT_MACHINE(c) CLI_OPT_THREADS(c), CLI_OPT_DEVICE(c), CLI_OPT_PRECISION(c)
/* The last two of every table; the parser handles them itself. */
#define CLI_OPT_END                                                                                \
    {0, "version", NULL, "print the version", CLI_FLAG, NULL, 0, 0},                               \
        {0, "help", NULL, "print this text", CLI_FLAG, NULL, 0, 0},                                \
    {                                                                                              \
        0, NULL, NULL, NULL, CLI_FLAG, NULL, 0, 0                                                  \
    }

/* The end of the tables of verbs: how much to say, and the two of every table. */
#define CLI_OPT_TALK_END(c) CLI_OPT_QUIET(c), CLI_OPT_VERBOSE(c), CLI_OPT_END

/* Returns -1 to go on, else the exit code (help was printed, or the usage is wrong). files receives
 * the positional arguments (max_files entries). */
int cli_parse(const cli_command *c, int argc, char **argv, const char **files, int *count);
/* A size as the value of an option, at least `lo`: a whole number, with K, M, G or T for powers of
 * 1024; B or iB may follow. Returns an exit code. */
int cli_parse_size(const char *option, const char *text, uint64_t lo, uint64_t *out);
/* The name among `names` (NULL-terminated) that is nearest to `word`, NULL if none is near. */
const char *cli_nearest(const char *word, const char *const *names);

/* ---- Messages -------------------------------------------------------------------------------- */

/* Program name before every message; quiet mutes notes. First call of main. */
void cli_setup(const char *program, char **argv);
void cli_set_talk(bool quiet, bool verbose);
/* "program: message" on stderr; returns `code`. */
int cli_fail(int code, const char *fmt, ...) CLI_PRINTF(2, 3);
/* A line of talk; cli_detail only with -v. */
void cli_note(const char *fmt, ...) CLI_PRINTF(1, 2);
void cli_detail(const char *fmt, ...) CLI_PRINTF(1, 2);
int cli_exit_code(fv_status s);
/* Message of a failed call, with `what` (a file name) in front unless NULL; returns its exit code.
 */
int cli_report(const fv_ctx *ctx, fv_status s, const char *what);
/* Copy for a terminal or for a picture's text: control characters become '?'. */
void cli_printable(const char *text, char *out, size_t size);

/* ---- Context, progress, signals -------------------------------------------------------------- */

/* Context from the common options; Ctrl-C and SIGTERM cancel it. Returns an exit code. */
int cli_start(fv_ctx **ctx, const cli_common *c);
/* Precision asked for, or the default of this machine. */
fv_dtype cli_precision(const fv_ctx *ctx, const cli_common *c);
bool cli_interrupted(void);
/* Progress of library calls goes to this function as well (benchmarks take times there). */
void cli_watch(void (*watch)(void *user, const fv_progress *p), void *user);
void cli_progress_clear(void);
/* Text in front of the progress line from now on ("2x soda, run 3 of 5"); NULL = none. Clears the
 * line. */
void cli_progress_title(const char *fmt, ...) CLI_PRINTF(1, 2);
/* Flush stdout and report a failure (full disk); returns the final exit code. */
int cli_finish(fv_ctx **ctx, int code);

/* A verb with one file at most, from its words to the exit code: parse, check, start, run, finish.
 * file is NULL where none was given. check may be NULL; it refuses what does not fit together. */
typedef struct cli_verb {
    const cli_command *command;
    const cli_common *common;
    int (*check)(const void *args, const char *file);
    int (*run)(fv_ctx *ctx, const void *args, const char *file);
    const void *args; /* where the options go */
} cli_verb;
int cli_run(const cli_verb *v, int argc, char **argv);
/* The same for any number of files, with room for one more: run checks, starts and finishes. */
int cli_run_files(const cli_command *c, int argc, char **argv,
                  int (*run)(void *args, const char **files, int count), void *args);

/* ---- JSON: one object on stdout -------------------------------------------------------------- */

typedef struct cli_json {
    FILE *to;
    bool is_first;
} cli_json;
void cli_json_open(cli_json *j, FILE *to);
void cli_json_key(cli_json *j, const char *key);
void cli_json_text(FILE *to, const char *text);
void cli_json_string(cli_json *j, const char *key, const char *value); /* NULL = null */
void cli_json_number(cli_json *j, const char *key, double value);      /* not finite = null */
void cli_json_u64(cli_json *j, const char *key, uint64_t value);
void cli_json_bool(cli_json *j, const char *key, bool value);
void cli_json_strings(cli_json *j, const char *key, char *const *item, int count);
void cli_json_close(cli_json *j);

/* ---- Small things ---------------------------------------------------------------------------- */

double cli_now(void); /* seconds, monotonic */
/* Quantile q in 0..1 of v, which is sorted in place. */
double cli_quantile(double *v, int n, double q);
void cli_hex(const uint8_t *bytes, int n, char *out);
uint64_t cli_hash(uint64_t h, const char *text); /* FNV-1a; start with 0 */
/* Most memory the process has had in RAM so far, file pages included; 0 = unknown. */
uint64_t cli_resident_peak(void);
/* What this process may still take: free memory, and what its control groups (containers) leave of
 * their limits; 0 = unknown (cli_memory.c). */
uint64_t cli_free_memory(void);
/* The processor's name as the system tells it. */
void cli_cpu_name(char *out, size_t size);
/* PATH with `suffix` in place of .safetensors, .pt, .pth or .bin (else after it). Malloced. */
char *cli_with_suffix(const char *path, const char *suffix);
char *cli_format(const char *fmt, ...)
    CLI_PRINTF(1, 2); /* malloced; ends the program if no memory */
bool cli_file_exists(const char *path);
bool cli_is_folder(const char *path);
bool cli_is_special(const char *path); /* device or pipe */
/* Does a name go on before this end of it? The second does not tell capitals from small letters. */
bool cli_ends_with(const char *path, const char *suffix);
bool cli_has_suffix(const char *path, const char *suffix);
bool cli_has_picture_suffix(const char *path);
/* The folder of a path, "." if it has none. Malloced. */
char *cli_folder_of(const char *path);
const char *cli_base_name(const char *path); /* what follows the folder */
/* Sorted names in a folder, malloced as they are, without . and ..; NULL and errno: it cannot be
 * read. */
char **cli_names_of(const char *path, size_t *count);
/* Can a file be made at `path`? Asked before long work; returns an exit code. */
int cli_check_place(const char *path, bool may_overwrite);
/* Writes a file, atomically unless it is a device or pipe; returns an exit code. Text replaces what
 * is there. */
int cli_save_bytes(const char *path, const void *bytes, size_t size, bool may_overwrite);
int cli_save_text(const char *path, const char *text, size_t size);

/* File `name` in the user's cache folder (XDG base directory specification), which is made; NULL if
 * there is none. Malloced. */
char *cli_cache_path(const char *name);
/* Whole file as malloced text with a NUL; NULL if it cannot be read or is larger than 16 MiB. */
char *cli_read_text(const char *path, size_t *size);
/* Atomic; failures are not worth a message for a cache. */
void cli_write_text(const char *path, const char *text, size_t size);

#endif
