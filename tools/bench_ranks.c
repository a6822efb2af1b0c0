/* bench_ranks.c - fovea bench ranks: a training of some steps by one process with T threads and by R
 * ranks with T / R threads each, in turns, from the same recipe and with the same global batch.
 *
 * Each run is a process of its own and says its rate itself, per step (metrics.csv). Of a run the
 * median over its steps counts, without the first third, where buffers and files are new; of all
 * rounds the median of the ratios. */
#define _DEFAULT_SOURCE /* realpath */
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "bench_process.h"
#include "fovea_tool.h"

#define RANKS_ROUNDS 100
#define MOST_SETS 16
#define MOST_STEPS 2000

typedef struct ranks_args {
    cli_common common;
    const char *data_dir;
    cli_list set;
    int ranks, steps, rounds;
} ranks_args;

typedef struct ranks_bench {
    const ranks_args *a;
    char self[FOVEA_OWN_PATH];
    char *recipe, *data_dir; /* absolute */
    int threads;
    double alone[RANKS_ROUNDS], ranks[RANKS_ROUNDS], ratio[RANKS_ROUNDS];
} ranks_bench;

/* Samples a second, from the rows of metrics.csv; NAN: there are too few. */
static double rate_of(const char *folder)
{
    char line[512], *path = bench_in_folder(folder, "metrics.csv");
    double rate[MOST_STEPS];
    int n = 0, column = -1;
    FILE *f = fopen(path, "r");
    free(path);
    while (f && fgets(line, sizeof line, f)) {
        char *word = line;
        for (int k = 0; word; k++) {
            char *next = strchr(word, ',');
            if (next) *next++ = 0;
            if (column < 0 && strcmp(word, "samples_per_s") == 0) {
                column = k;
                break;
            }
            if (k == column) {
                const double v = strtod(word, NULL);
                if (v > 0 && n < MOST_STEPS) rate[n++] = v;
                break;
            }
            word = next;
        }
    }
    if (f) fclose(f);
    return n < 3 ? NAN : cli_quantile(rate + n / 3, n - n / 3, 0.5);
}

/* The command of one run; `owned` are freed by the caller. */
typedef struct call {
    char *word[32 + 2 * MOST_SETS], *owned[4];
    int n;
} call;

static void say(call *c, const char *word) { c->word[c->n++] = (char *)(uintptr_t)word; }

static void make_call(const ranks_bench *b, bool is_ranks, call *c)
{
    memset(c, 0, sizeof *c);
    c->owned[0] = cli_format("%d", is_ranks ? b->threads / b->a->ranks : b->threads);
    c->owned[1] = cli_format("steps=%d", b->a->steps);
    c->owned[2] = cli_format("save_every=%d", b->a->steps);
    c->owned[3] = cli_format("%d", b->a->ranks);
    if (is_ranks) {
        static const char *const launcher[] = { "mpirun", "--bind-to", "none", "-n" };
        for (size_t i = 0; i < sizeof launcher / sizeof *launcher; i++) say(c, launcher[i]);
        say(c, c->owned[3]);
    }
    say(c, b->self);
    say(c, "train");
    say(c, b->recipe);
    for (int i = 0; i < b->a->set.count; i++) {
        say(c, "--set");
        say(c, b->a->set.item[i]);
    }
    const char *const last[] = { "--set", c->owned[1], "--set", c->owned[2], "--set", "log_every=1",
                                 "-o", ".", "-q", "--threads", c->owned[0] };
    for (size_t i = 0; i < sizeof last / sizeof *last; i++) say(c, last[i]);
    if (b->data_dir) {
        say(c, "--data-dir");
        say(c, b->data_dir);
    }
}

static int run_one(const ranks_bench *b, bool is_ranks, double *rate)
{
    char folder[BENCH_FOLDER] = "", why[300];
    bench_time time;
    call c;
    int code = bench_make_folder("fovea-ranks", folder);
    if (code != CLI_OK) return code;
    make_call(b, is_ranks, &c);
    /* SIGTERM: mpirun ends its ranks and removes what it has in the file system. */
    const bench_task task = { folder, c.word, NULL, NULL, NULL, SIGTERM };
    const int status = bench_run_child(&task, &time);
    if (cli_interrupted()) {
        code = cli_fail(CLI_INTERRUPTED, "interrupted");
    } else if (status != 0) {
        bench_why(folder, status, why, sizeof why);
        code = cli_fail(CLI_FAILED, "%s: %s", is_ranks ? "the ranks' training" : "the training", why);
    } else if (isnan(*rate = rate_of(folder))) {
        code = cli_fail(CLI_FAILED, "the training wrote no rates");
    }
    for (size_t i = 0; i < sizeof c.owned / sizeof *c.owned; i++) free(c.owned[i]);
    bench_remove_folder(folder);
    return code;
}

static int run_all(ranks_bench *b)
{
    for (int k = 0; k < b->a->rounds; k++) {
        for (int half = 0; half < 2; half++) {
            const bool is_ranks = (k + half) % 2 != 0; /* whoever was first is second now */
            bench_show(&b->a->common, "round %d of %d: %s", k + 1, b->a->rounds,
                       is_ranks ? "ranks" : "threads");
            const int code = run_one(b, is_ranks, is_ranks ? &b->ranks[k] : &b->alone[k]);
            if (code != CLI_OK) return code;
        }
        b->ratio[k] = b->ranks[k] / b->alone[k];
    }
    bench_show(&b->a->common, NULL);
    return CLI_OK;
}

static void report(ranks_bench *b)
{
    const int n = b->a->rounds;
    const double least = cli_quantile(b->ratio, n, 0), most = cli_quantile(b->ratio, n, 1);
    const double ratio = cli_quantile(b->ratio, n, 0.5);
    const double alone = cli_quantile(b->alone, n, 0.5), ranks = cli_quantile(b->ranks, n, 0.5);
    if (b->a->common.json) {
        cli_json j;
        cli_json_open(&j, stdout);
        cli_json_u64(&j, "ranks", (uint64_t)b->a->ranks);
        cli_json_u64(&j, "threads", (uint64_t)b->threads);
        cli_json_u64(&j, "steps", (uint64_t)b->a->steps);
        cli_json_u64(&j, "rounds", (uint64_t)n);
        cli_json_number(&j, "threads_samples_per_s", alone);
        cli_json_number(&j, "ranks_samples_per_s", ranks);
        cli_json_number(&j, "ratio", ratio);
        cli_json_number(&j, "ratio_least", least);
        cli_json_number(&j, "ratio_most", most);
        cli_json_close(&j);
        return;
    }
    printf("1 process, %d threads:%*s %8.2f samples/s\n", b->threads, 12, "", alone);
    printf("%d ranks, %d threads each:%*s %8.2f samples/s, %.2f of it (%.2f to %.2f in %d rounds)\n",
           b->a->ranks, b->threads / b->a->ranks, 9, "", ranks, ratio, least, most, n);
}

static int prepare(ranks_bench *b, const char *recipe, fv_ctx **ctx)
{
    if (!fovea_own_path(b->self))
        return cli_fail(CLI_FAILED, "cannot find this program's own file");
    b->recipe = realpath(recipe, NULL);
    if (!b->recipe) return cli_fail(CLI_FAILED, "%s: no such recipe", recipe);
    if (b->a->data_dir && !(b->data_dir = realpath(b->a->data_dir, NULL)))
        return cli_fail(CLI_FAILED, "%s: no such folder", b->a->data_dir);
    if (b->a->set.count > MOST_SETS)
        return cli_fail(CLI_USAGE, "--set: at most %d times", MOST_SETS);
    if (!bench_is_installed("mpirun"))
        return cli_fail(CLI_FAILED, "mpirun is not installed (Debian: openmpi-bin)");
    /* Open MPI 4 and 5: hardware threads count as well. */
    setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 0);
    setenv("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe", 0);
    const int code = cli_start(ctx, &b->a->common);
    if (code == CLI_OK) b->threads = fv_ctx_threads(*ctx);
    if (code == CLI_OK && b->threads % b->a->ranks != 0)
        return cli_fail(CLI_USAGE, "%d threads cannot be divided among %d ranks: --threads, --ranks",
                        b->threads, b->a->ranks);
    return code;
}

int bench_ranks(int argc, char **argv)
{
    ranks_args a = { .ranks = 2, .steps = 30, .rounds = 5 };
    const cli_option options[] = {
        {0, "ranks", "N", "processes (default 2)", CLI_INT, &a.ranks, 2, 1024},
        {0, "steps", "N", "of each training (default 30)", CLI_INT, &a.steps, 3, MOST_STEPS},
        {0, "rounds", "N", "medians of so many (default 5)", CLI_INT, &a.rounds, 1, RANKS_ROUNDS},
        {0, "set", "KEY=VALUE", "change a value of the recipe; may be repeated", CLI_LIST, &a.set,
         0, 0},
        {0, "data-dir", "DIR", "put before relative data paths", CLI_STRING, &a.data_dir, 0, 0},
        {0, "threads", "N", "of all ranks together (default: all cores)", CLI_INT,
         &a.common.threads, 1, 256},
        CLI_OPT_JSON(&a.common),
        CLI_OPT_TALK_END(&a.common)};
    const cli_command command = {
        .name = "fovea bench ranks",
        .usage = "[options] RECIPE",
        .about = "Rate of a training by ranks (mpirun) beside that by one process with as many "
                 "threads, same batch, in turns.",
        .options = options,
        .min_files = 1,
        .max_files = 1};
    const char *recipe = NULL;
    int files;
    int code = cli_parse(&command, argc, argv, &recipe, &files);
    if (code >= 0) return code;
    fv_ctx *ctx = NULL;
    ranks_bench *b = calloc(1, sizeof *b);
    if (!b) return cli_fail(CLI_FAILED, "out of memory");
    b->a = &a;
    code = prepare(b, recipe, &ctx);
    if (code == CLI_OK) code = run_all(b);
    if (code == CLI_OK) report(b);
    free(b->recipe);
    free(b->data_dir);
    free(b);
    return cli_finish(&ctx, code);
}
