/* bench_distill.c - fovea bench distill TEACHER: what LIFT and PLACE add to an iteration.
 *
 * An iteration is a forward pass of the teacher and a training step of the student with PLACE, on
 * made-up pictures. Its time and those of the losses alone, forward and backward on as many values,
 * are taken in turns, a round each, so that both see the same machine; what counts is what a loss
 * takes beyond squared error, which it stands for, as a share of the iteration. */
#include "bench_distill.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bench_loss.h"
#include "bench_process.h"
#include "fovea_distill.h"
#include "fovea_tool.h"

#define MOST_ROUNDS 100
#define MOST_STEPS 1000
#define MOST_CLASSES 4
#define WARM_UP 2 /* steps */

typedef struct distill_bench_args {
    cli_common common;
    cli_list set;
    int blocks, batch, steps, rounds;
} distill_bench_args;

typedef struct distill_bench {
    const distill_bench_args *a;
    fv_ctx *ctx;
    fv_model *teacher;
    fv_dit_info info;
    char folder[BENCH_FOLDER];
    double mark[MOST_STEPS + WARM_UP + 1], step[MOST_ROUNDS], loss[FV_MEASURED_LOSSES][MOST_ROUNDS];
    int marks;
} distill_bench;

/* ---- One round ------------------------------------------------------------------------------- */

static void on_step(void *user, const fv_progress *p)
{
    distill_bench *b = user;
    if (strcmp(p->stage, "training") == 0 && b->marks < (int)(sizeof b->mark / sizeof *b->mark))
        b->mark[b->marks++] = cli_now();
}

static fv_status make_recipe(const distill_bench *b, fv_recipe **r)
{
    char *text = cli_format(
        "data = data\nloss = place\nbatch = %d\nsteps = %d\nprecision = %s\nflip = no\n"
        "eval_batches = 0\nsplit = 0\nsample_every = 0\nsave_every = 1000000\nlog_every = 1000000\n",
        b->a->batch, b->a->steps + WARM_UP + 1,
        fv_dtype_name(cli_precision(b->ctx, &b->a->common)));
    fv_status s = fv_recipe_parse(b->ctx, r, text, strlen(text));
    free(text);
    if (s == FV_OK && b->a->blocks) {
        text = cli_format("prune_blocks=%d", b->a->blocks);
        s = fv_recipe_set(*r, text);
        free(text);
    }
    for (int i = 0; i < b->a->set.count && s == FV_OK; i++)
        s = fv_recipe_set(*r, b->a->set.item[i]);
    return s;
}

/* Median of the steps of a training in a folder of its own. */
static fv_status time_steps(distill_bench *b, int round)
{
    fv_distill_options o = FV_DISTILL_OPTIONS_INIT;
    fv_train_result result;
    fv_recipe *r = NULL;
    char *out = cli_format("%s/run%d", b->folder, round);
    fv_status s = make_recipe(b, &r);
    o.teacher = b->teacher;
    o.trainer.data_dir = b->folder;
    o.trainer.out_dir = out;
    b->marks = 0;
    cli_watch(on_step, b);
    if (s == FV_OK) s = fv_distill_train(b->ctx, r, &o, &result);
    cli_watch(NULL, NULL);
    int n = 0;
    for (int i = WARM_UP; i + 1 < b->marks && n < b->a->steps; i++, n++)
        b->mark[n] = b->mark[i + 1] - b->mark[i];
    if (s == FV_OK) b->step[round] = cli_quantile(b->mark, n, 0.5);
    fv_recipe_close(&r);
    free(out);
    return s;
}

static fv_status time_losses(distill_bench *b, int round)
{
    const int64_t side = b->info.input_size, dim[4] = {b->a->batch, side, side, b->info.channels};
    double times[MOST_STEPS];
    for (int k = 0; k < FV_MEASURED_LOSSES; k++) {
        const fv_status s = fv_measure_loss(b->ctx, (fv_measured_loss)k, dim, times, b->a->steps);
        if (s != FV_OK) return s;
        b->loss[k][round] = cli_quantile(times, b->a->steps, 0.5);
    }
    return FV_OK;
}

/* ---- Report ---------------------------------------------------------------------------------- */

/* Percent of an iteration that a loss takes beyond squared error: of all rounds quantile q. */
static double share(const distill_bench *b, fv_measured_loss k, double q)
{
    double v[MOST_ROUNDS];
    for (int i = 0; i < b->a->rounds; i++)
        v[i] = 100 * (b->loss[k][i] - b->loss[FV_MEASURED_MSE][i]) / b->step[i];
    return cli_quantile(v, b->a->rounds, q);
}

static double median(const distill_bench *b, const double *v)
{
    double copy[MOST_ROUNDS];
    memcpy(copy, v, (size_t)b->a->rounds * sizeof *copy);
    return cli_quantile(copy, b->a->rounds, 0.5);
}

static void print_json(const distill_bench *b)
{
    static const char *const name[] = {"lift", "place"};
    cli_json j;
    cli_json_open(&j, stdout);
    cli_json_string(&j, "teacher", b->info.name);
    cli_json_u64(&j, "batch", (uint64_t)b->a->batch);
    cli_json_u64(&j, "threads", (uint64_t)fv_ctx_threads(b->ctx));
    cli_json_u64(&j, "rounds", (uint64_t)b->a->rounds);
    cli_json_number(&j, "iteration_seconds", median(b, b->step));
    cli_json_number(&j, "squared_error_seconds", median(b, b->loss[FV_MEASURED_MSE]));
    for (int k = 0; k < 2; k++) {
        static const struct { const char *word; double q; } of[] = {
            {"percent", 0.5}, {"percent_least", 0}, {"percent_most", 1}};
        const fv_measured_loss loss = k ? FV_MEASURED_PLACE : FV_MEASURED_LIFT;
        char *key = cli_format("%s_seconds", name[k]);
        cli_json_number(&j, key, median(b, b->loss[loss]));
        free(key);
        for (int i = 0; i < 3; i++) {
            key = cli_format("%s_%s", name[k], of[i].word);
            cli_json_number(&j, key, share(b, loss, of[i].q));
            free(key);
        }
    }
    cli_json_close(&j);
}

static void print_text(const distill_bench *b)
{
    printf("%s, batch %d, %d threads: an iteration takes %.2f ms\n", b->info.name, b->a->batch,
           fv_ctx_threads(b->ctx), 1e3 * median(b, b->step));
    printf("squared error %.3f ms\n", 1e3 * median(b, b->loss[FV_MEASURED_MSE]));
    for (int k = FV_MEASURED_LIFT; k <= FV_MEASURED_PLACE; k++)
        printf("%-5s %.3f ms: %.2f %% of an iteration more (%.2f to %.2f in %d rounds)\n",
               k == FV_MEASURED_LIFT ? "LIFT" : "PLACE", 1e3 * median(b, b->loss[k]),
               share(b, (fv_measured_loss)k, 0.5), share(b, (fv_measured_loss)k, 0),
               share(b, (fv_measured_loss)k, 1), b->a->rounds);
}

/* ---- All of it ------------------------------------------------------------------------------- */

/* Pictures of classes that the teacher knows, by name or else by number. */
static fv_status write_data(distill_bench *b, const fv_dit *dit)
{
    const char *name[MOST_CLASSES];
    char number[MOST_CLASSES][16];
    const int n = b->info.classes < MOST_CLASSES ? b->info.classes : MOST_CLASSES;
    for (int k = 0; k < n; k++) {
        snprintf(number[k], sizeof number[k], "%d", k);
        name[k] = fv_dit_class_name(dit, k);
        if (!name[k] || !*name[k] || strchr(name[k], '/')) name[k] = number[k];
    }
    char *data = cli_format("%s/data", b->folder);
    (void)mkdir(data, 0777);
    const fv_status s = bench_write_pictures(b->ctx, data, b->info.image_size, name, n);
    free(data);
    return s;
}

static int run_rounds(distill_bench *b, const char *path)
{
    fv_dit *dit = NULL;
    const fv_status opened = fv_model_open(b->ctx, &b->teacher, path, NULL);
    fv_status s = opened == FV_OK ? fv_dit_open(b->ctx, &dit, b->teacher, NULL) : opened;
    if (s != FV_OK) return cli_report(b->ctx, s, path);
    fv_dit_get_info(dit, &b->info);
    int code = bench_make_folder("fovea-distill", b->folder);
    if (code == CLI_OK) {
        s = write_data(b, dit);
        for (int k = 0; k < b->a->rounds && s == FV_OK; k++) {
            s = time_steps(b, k);
            if (s == FV_OK) s = time_losses(b, k);
        }
        if (s != FV_OK) code = cli_report(b->ctx, s, "bench distill");
    }
    if (code == CLI_OK && b->a->common.json) print_json(b);
    else if (code == CLI_OK) print_text(b);
    fv_dit_close(&dit);
    return code;
}

int bench_distill(int argc, char **argv)
{
    distill_bench_args a = {.batch = 32, .steps = 10, .rounds = 5};
    const cli_option options[] = {
        {0, "student-blocks", "N", "student: the teacher with N blocks", CLI_INT, &a.blocks, 1,
         4096},
        {0, "set", "KEY=VALUE", "of the recipe, such as student_width=64; may be repeated", CLI_LIST,
         &a.set, 0, 0},
        {0, "batch", "N", "pictures an iteration (default 32)", CLI_INT, &a.batch, 1, 1024},
        {0, "steps", "N", "iterations of a round (default 10)", CLI_INT, &a.steps, 3, MOST_STEPS},
        {0, "rounds", "N", "medians of so many (default 5)", CLI_INT, &a.rounds, 1, MOST_ROUNDS},
        CLI_OPT_MACHINE(&a.common),
        CLI_OPT_JSON(&a.common),
        CLI_OPT_TALK_END(&a.common)};
    const cli_command command = {
        .name = "fovea bench distill",
        .usage = "[options] TEACHER",
        .about = "What LIFT and PLACE add to an iteration of fovea distill, on made-up pictures.",
        .options = options,
        .min_files = 1,
        .max_files = 1};
    const char *path = NULL;
    int files, code = cli_parse(&command, argc, argv, &path, &files);
    if (code >= 0) return code;
    distill_bench *b = calloc(1, sizeof *b);
    if (!b) return cli_fail(CLI_FAILED, "out of memory");
    b->a = &a;
    code = cli_start(&b->ctx, &a.common);
    if (code == CLI_OK) code = run_rounds(b, path);
    fv_ctx *ctx = b->ctx;
    fv_model_close(&b->teacher);
    bench_remove_folder(b->folder);
    free(b);
    return cli_finish(&ctx, code);
}
