/* vzip.c - the program vzip: options and verbs.
 *
 * vzip FILE makes FILE.vz, vzip -d FILE.vz the file again; without files it is a filter. The verbs
 * c, d, t and l are the same as no option, -d, -t and -l, with the options that belong to them;
 * models lists model files, train makes them, bench measures.
 * Installed as vunzip it decompresses, as vzcat to standard output. */
#include "vzip.h"
#include "vzip_bench.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#define OPTIONS_MAX 40
#define LONG_BLOCK ((uint64_t)256 << 20)

/* ---- Options --------------------------------------------------------------------------------- */

/* As parsed; the job follows from it. */
typedef struct args {
    vzip_job job;
    bool is_decompress, is_test, is_list, is_keep, is_no_name, is_long;
    const char *memory, *block, *most;
    cli_option options[OPTIONS_MAX];
    int count;
} args;

static void add(args *a, cli_option o)
{
    a->options[a->count++] = o;
}

/* Those that verb 'c', 'd', 't' or 'l' takes; 0: all. */
static const cli_option *describe(args *a, char verb)
{
    vzip_job *j = &a->job;
    const bool all = !verb, c = all || verb == 'c', d = all || verb == 'd', code = c || d;
    const bool t = verb == 't', l = all || verb == 'l', data = code || t;
    if (c)
        add(a, (cli_option){0, "level", "N", "1 fastest .. 9, also -1 .. -9, or 10 for --ultra; 3"
                            " if not given. Decompressing takes as long as compressing", CLI_INT,
                            &j->level, 1, FV_VZIP_LEVEL_ULTRA});
    if (c)
        add(a, (cli_option){0, "ultra", NULL, "smallest: the network reads all text, up to five"
                            " times the time of -9", CLI_FLAG, &j->is_ultra, 0, 0});
    if (all) {
        add(a, (cli_option){'d', "decompress", NULL, "the file from the archive", CLI_FLAG,
                            &a->is_decompress, 0, 0});
        add(a, (cli_option){'t', "test", NULL, "decompress, but write nothing", CLI_FLAG,
                            &a->is_test, 0, 0});
        add(a, (cli_option){'l', "list", NULL, "what is in archives", CLI_FLAG, &a->is_list, 0, 0});
    }
    if (code) {
        add(a, (cli_option){'o', NULL, "FILE", "write here; - is standard output", CLI_STRING,
                            &j->out, 0, 0});
        add(a, (cli_option){'c', "stdout", NULL, "write to standard output", CLI_FLAG,
                            &j->to_stdout, 0, 0});
        add(a, (cli_option){'k', "keep", NULL, "keep the input: the default", CLI_FLAG, &a->is_keep,
                            0, 0});
        add(a, (cli_option){0, "rm", NULL, "delete the input after success", CLI_FLAG,
                            &j->remove_input, 0, 0});
        add(a, (cli_option){'f', NULL, NULL, "overwrite; take links, devices and terminals",
                            CLI_FLAG, &j->common.force, 0, 0});
    }
    add(a, (cli_option){'r', "recursive", NULL, "all files below folders", CLI_FLAG, &j->recursive,
                        0, 0});
    if (code) {
        add(a, (cli_option){'N', "name", NULL, "keep or restore name, time and mode in the archive",
                            CLI_FLAG, &j->keep_name, 0, 0});
        add(a, (cli_option){'n', "no-name", NULL, "do not: the default", CLI_FLAG,
                            &a->is_no_name, 0, 0});
    }
    if (data) {
        add(a, (cli_option){'T', "threads", "N", "0 and the default: all cores", CLI_INT,
                            &j->common.threads, 0, 256});
        add(a, (cli_option){'M', "memory", "SIZE", "most memory to use; 1G for decompressing",
                            CLI_STRING, &a->memory, 0, 0});
        add(a, (cli_option){0, "device", "auto|cpu|cuda", "where the network runs; auto is the"
                            " CPU", CLI_CHOICE, &j->common.device, 0, 0});
    }
    if (c) {
        add(a, (cli_option){0, "block-size", "SIZE", "8M, from level 6 on 32M, 64M at 9; at most"
                            " 256M", CLI_STRING, &a->block, 0, 0});
        add(a, (cli_option){0, "long", NULL, "blocks of 256M", CLI_FLAG, &a->is_long, 0, 0});
        add(a, (cli_option){0, "verify", NULL, "decode each block and compare; --ultra does",
                            CLI_FLAG, &j->verify, 0, 0});
        add(a, (cli_option){0, "no-neural", NULL, "without the network: faster; small text is"
                            " larger from level 3 on, and all text with --ultra", CLI_FLAG,
                            &j->no_neural, 0, 0});
        add(a, (cli_option){0, "no-prime", NULL, "no model: larger, and decompressing needs none",
                            CLI_FLAG, &j->no_prime, 0, 0});
    }
    add(a, (cli_option){0, "model", "FILE", "use this model file (.vzm) as well; compressing:"
                        " instead of vzip's own", CLI_STRING, &j->model, 0, 0});
    if (d || t)
        add(a, (cli_option){0, "max-output", "SIZE", "refuse to write more", CLI_STRING,
                            &a->most, 0, 0});
    if (d) {
        add(a, (cli_option){0, "keep-broken", NULL, "keep the right beginning of a damaged file",
                            CLI_FLAG, &j->keep_broken, 0, 0});
        add(a, (cli_option){0, "recover", NULL, "write zeros for damaged blocks and go on",
                            CLI_FLAG, &j->recover, 0, 0});
    }
    if (l) add(a, (cli_option)CLI_OPT_JSON(&j->common));
    add(a, (cli_option)CLI_OPT_QUIET(&j->common));
    add(a, (cli_option)CLI_OPT_VERBOSE(&j->common));
    const cli_option end[] = {CLI_OPT_END};
    for (size_t i = 0; i < sizeof end / sizeof *end; i++) add(a, end[i]);
    return a->options;
}

/* Does the word -abc end in a letter that takes the next word? *letters: how many come before a
 * value in the same word. */
static bool takes_next(const cli_option *o, const char *word, size_t *letters)
{
    *letters = strlen(word);
    for (size_t i = 1; word[i]; i++)
        for (const cli_option *p = o; p->letter || p->name; p++)
            if (p->letter == word[i] && p->value) {
                *letters = i;
                return word[i + 1] == 0;
            }
    return false;
}

static bool long_takes_next(const cli_option *o, const char *word)
{
    for (; o->letter || o->name; o++)
        if (o->name && o->value && strcmp(o->name, word + 2) == 0) return true;
    return false;
}

/* -1 .. -9, alone or among other letters, become the level and vanish; argv is changed. */
static int take_digits(const cli_option *o, int *argc, char **argv, int *level)
{
    int n = 1;
    for (int i = 1; i < *argc; i++) {
        char *w = argv[i];
        size_t letters;
        if (strcmp(w, "--") == 0) {
            while (i < *argc) argv[n++] = argv[i++];
            break;
        }
        bool has_next = false;
        if (w[0] == '-' && w[1] == '-') {
            has_next = long_takes_next(o, w);
        } else if (w[0] == '-' && w[1]) {
            has_next = takes_next(o, w, &letters);
            size_t to = 1;
            for (size_t k = 1; w[k]; k++) {
                if (k < letters && w[k] >= '1' && w[k] <= '9') {
                    if (!level) return cli_fail(CLI_USAGE, "%s: a level is for compressing", w);
                    *level = w[k] - '0';
                } else {
                    w[to++] = w[k];
                }
            }
            w[to] = 0;
            if (to == 1) continue;
        }
        argv[n++] = w;
        if (has_next && i + 1 < *argc) argv[n++] = argv[++i];
    }
    *argc = n;
    return CLI_OK;
}

static int set_job(args *a, int files)
{
    vzip_job *j = &a->job;
    int code = CLI_OK;
    if (a->is_decompress + a->is_test + a->is_list > 1)
        return cli_fail(CLI_USAGE, "-d, -t and -l exclude each other");
    if (a->is_decompress) j->mode = VZIP_DECOMPRESS;
    if (a->is_test) j->mode = VZIP_TEST;
    if (a->is_list) j->mode = VZIP_LIST;
    if (j->out && j->to_stdout) return cli_fail(CLI_USAGE, "-o and -c exclude each other");
    if (j->out && (files > 1 || j->recursive))
        return cli_fail(CLI_USAGE, "-o takes the result of one file, not of several");
    if (a->is_keep && j->remove_input) return cli_fail(CLI_USAGE, "-k and --rm exclude each other");
    if (a->is_no_name && j->keep_name) return cli_fail(CLI_USAGE, "-n and -N exclude each other");
    if (j->is_ultra && j->level)
        return cli_fail(CLI_USAGE, "--ultra and a level exclude each other");
    if (a->is_long && a->block)
        return cli_fail(CLI_USAGE, "--long and --block-size exclude each other");
    if (j->common.json && j->mode != VZIP_LIST)
        return cli_fail(CLI_USAGE, "--json is for listing: -l");
    if (j->model && j->no_prime)
        return cli_fail(CLI_USAGE, "--model and --no-prime exclude each other");
    if (j->to_stdout && j->remove_input)
        return cli_fail(CLI_USAGE,
                        "--rm and -c exclude each other: the input would be all there is");
    if (a->memory) code = cli_parse_size("--memory", a->memory, 1, &j->memory_bytes);
    if (code == CLI_OK && a->most)
        code = cli_parse_size("--max-output", a->most, 1, &j->max_output);
    if (code == CLI_OK && a->block)
        code = cli_parse_size("--block-size", a->block, 4096, &j->block_bytes);
    if (code == CLI_OK && j->block_bytes > LONG_BLOCK)
        code = cli_fail(CLI_USAGE, "--block-size %s: 256M at most", a->block);
    if (a->is_long) j->block_bytes = LONG_BLOCK;
    if (j->is_ultra) j->level = FV_VZIP_LEVEL_ULTRA;
    return code;
}

/* ---- Running --------------------------------------------------------------------------------- */

static int work(const vzip_job *j, const char **files, int count)
{
    int code = CLI_OK;
    int (*each)(const vzip_job *, const char *, void *) =
        j->mode == VZIP_COMPRESS ? vzip_compress_file : vzip_decompress_file;
    if (j->mode == VZIP_LIST) {
        if (count == 0) return cli_fail(CLI_USAGE, "which archive? vzip l FILE.vz");
        return vzip_list_files(j, files, count);
    }
    /* A closed pipe must not leave a temporary file: it is seen in write. */
    signal(SIGPIPE, SIG_IGN);
    if (count == 0) {
        if (isatty(STDIN_FILENO) && !j->common.force)
            return cli_fail(CLI_USAGE, "which file? vzip FILE makes FILE.vz (vzip --help)");
        files[count++] = "-";
    }
    for (int i = 0; i < count; i++) {
        const char *path = strcmp(files[i], "-") == 0 ? NULL : files[i];
        const int c = cli_interrupted() ? CLI_INTERRUPTED : vzip_each(j, path, each, NULL);
        if (code == CLI_OK || c == CLI_INTERRUPTED) code = c;
    }
    return code;
}

static int run_job(void *user, const char **files, int count)
{
    args *a = user;
    vzip_shelf shelf;
    memset(&shelf, 0, sizeof shelf);
    a->job.shelf = &shelf;
    int code = set_job(a, count);
    if (code == CLI_OK) code = cli_start(&a->job.ctx, &a->job.common);
    if (code == CLI_OK) code = vzip_shelf_open(&shelf, a->job.ctx, a->job.model);
    if (code == CLI_OK) code = work(&a->job, files, count);
    vzip_shelf_close(&shelf);
    return cli_finish(&a->job.ctx, code);
}

static int run(int argc, char **argv, char verb, const char *name, vzip_mode mode, bool to_stdout)
{
    static const char *const about[] = {"Lossless compression: FILE becomes FILE.vz, and back. "
                                        "Without FILE, or with -: from standard input to standard "
                                        "output.",
                                        "FILE becomes FILE.vz.", "FILE.vz becomes FILE.",
                                        "Are archives whole? Decodes them and writes nothing.",
                                        "Sizes, ratio, level, blocks and names of archives."};
    static const char letters[] = "cdtl";
    args a;
    memset(&a, 0, sizeof a);
    a.job.mode = mode;
    a.job.to_stdout = to_stdout;
    const cli_option *options = describe(&a, verb);
    const char *usage = verb ? "[options] [FILE ...]"
                             : "[-d | -t | -l] [options] [FILE ...]\n"
                               "c | d | t | l [options] [FILE ...]\n"
                               "models [options] [FILE ...]\n"
                               "train [options] -o MODEL.vzm FILE ...\n"
                               "bench [options] FILE ...";
    const cli_command command = {
        name, usage, about[verb ? strchr(letters, verb) - letters + 1 : 0],
        verb == 'l' ? NULL : "SIZE is a number of bytes, or K, M, G: 64K, 8M, 1G.\n", options, 0,
        argc};
    const int code = take_digits(options, &argc, argv, verb && verb != 'c' ? NULL : &a.job.level);
    if (code != CLI_OK) return cli_finish(&a.job.ctx, code);
    return cli_run_files(&command, argc, argv, run_job, &a);
}

/* ---- Verbs ----------------------------------------------------------------------------------- */

static int verb_c(int argc, char **argv)
{
    return run(argc, argv, 'c', "vzip c", VZIP_COMPRESS, false);
}

static int verb_d(int argc, char **argv)
{
    return run(argc, argv, 'd', "vzip d", VZIP_DECOMPRESS, false);
}

static int verb_t(int argc, char **argv)
{
    return run(argc, argv, 't', "vzip t", VZIP_TEST, false);
}

static int verb_l(int argc, char **argv)
{
    return run(argc, argv, 'l', "vzip l", VZIP_LIST, false);
}

static int verb_bench(int argc, char **argv)
{
    return vzip_bench(argc, argv, "vzip bench");
}

/* A block's large buffers go back to the system as soon as they are free: else threads that take
 * turns with them would hold all of them at once. */
static void keep_memory_low(void)
{
#if defined(__GLIBC__)
    (void)mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } verbs[] = {
        {"c", verb_c},
        {"d", verb_d},
        {"t", verb_t},
        {"l", verb_l},
        {"models", vzip_models},
        {"train", vzip_train},
        {"bench", verb_bench},
    };
    keep_memory_low();
    cli_setup("vzip", argv);
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    const char *called = argc > 0 ? slash ? slash + 1 : argv[0] : "vzip";
    if (strcmp(called, "vunzip") == 0) return run(argc, argv, 'd', called, VZIP_DECOMPRESS, false);
    if (strcmp(called, "vzcat") == 0) return run(argc, argv, 'd', called, VZIP_DECOMPRESS, true);
    for (size_t i = 0; argc > 1 && i < sizeof verbs / sizeof *verbs; i++)
        if (strcmp(argv[1], verbs[i].name) == 0) return verbs[i].run(argc - 1, argv + 1);
    return run(argc, argv, 0, "vzip", VZIP_COMPRESS, false);
}
