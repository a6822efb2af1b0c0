/* fovea_train.c - fovea train RECIPE: the recipe's key `engine` says which trainer runs. */
#include "fovea_ar.h"
#include "fovea_codec.h"
#include "fovea_tool.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct train_args {
    cli_common common;
    cli_list set;
    const char *data_dir, *out, *init;
    uint64_t start_step;
    bool resume;
    int slices;
} train_args;

typedef struct train_engine {
    const char *name;
    fv_trainer run;
    bool takes_init;
} train_engine;

static const train_engine engines[] = {
    {"dit", fv_dit_train, true},
    {"classifier", fv_classifier_train, false},
    {"omnizip", fv_omnizip_train, true},
    {"vq", fv_vq_train, true},
    {"ar", fv_ar_train, true},
    {"draft", fv_ar_draft_train, false},
    {"rdvq", fv_rdvq_train, true},
    {"pssr", fv_pssr_train, true},
};

static const train_engine *find_engine(const char *name)
{
    for (size_t i = 0; i < sizeof engines / sizeof *engines; i++)
        if (strcmp(name, engines[i].name) == 0) return &engines[i];
    return NULL;
}

static int unknown_engine(const char *path, const char *name)
{
    char known[128] = "";
    if (strcmp(name, "distill") == 0)
        return cli_fail(CLI_BAD_INPUT, "%s: engine = distill: use fovea distill with a teacher",
                        path);
    for (size_t i = 0, n = 0; i < sizeof engines / sizeof *engines && n < sizeof known; i++)
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", engines[i].name);
    return cli_fail(CLI_BAD_INPUT, "%s: engine = %s is unknown; there are %s", path, name, known);
}

/* train-NAME in the current folder, NAME from the recipe's file name. */
static char *default_out(const char *recipe)
{
    const char *base = cli_base_name(recipe), *dot = strrchr(base, '.');
    return cli_format("train-%.*s", (int)(dot && dot > base ? (size_t)(dot - base) : strlen(base)),
                      base);
}

fv_status fovea_set_slices(fv_recipe *r, int slices)
{
    char text[32];
    snprintf(text, sizeof text, "slices=%d", slices);
    return fv_recipe_set(r, text);
}

void fovea_print_trained(fv_ctx *ctx, bool as_json, const char *out, const char *model,
                         const fv_train_result *r)
{
    fv_memory_stats mem;
    cli_json j;
    fv_ctx_memory(ctx, &mem);
    if (!as_json) {
        char held[48] = "";
        if (r->metric == r->metric) /* NaN: not measured */
            snprintf(held, sizeof held, ", held-out %.4g", r->metric);
        cli_note("%s: step %llu, loss %.4g%s, %.0f s, %.1f samples/s, peak memory %.0f MiB", out,
                 (unsigned long long)r->step, r->loss, held, r->seconds, r->samples_per_second,
                 (double)mem.peak_bytes / 1048576);
        fovea_ranks_note(out);
        return;
    }
    char *file = model ? cli_format("%s", model) : cli_format("%s/model.safetensors", out);
    cli_json_open(&j, stdout);
    cli_json_u64(&j, "step", r->step);
    cli_json_number(&j, "loss", r->loss);
    cli_json_number(&j, "metric", r->metric);
    cli_json_number(&j, "seconds", r->seconds);
    cli_json_number(&j, "samples_per_second", r->samples_per_second);
    cli_json_u64(&j, "peak_bytes", mem.peak_bytes);
    fovea_ranks_json(&j);
    cli_json_strings(&j, "files", &file, 1);
    cli_json_close(&j);
    free(file);
}

static fv_status run_engine(fv_ctx *ctx, fv_recipe *r, const train_args *a, const char *data_dir,
                            const char *out, const train_engine *engine, fv_train_result *result)
{
    fv_trainer_options o = FV_TRAINER_OPTIONS_INIT;
    o.data_dir = data_dir;
    o.out_dir = out;
    o.init = a->init;
    o.start_step = a->start_step;
    o.resume = a->resume;
    return engine->run(ctx, r, &o, result);
}

static int train_into(fv_ctx *ctx, const train_args *a, const char *path, const char *data_dir,
                      const char *out)
{
    fv_recipe *r = NULL;
    fv_train_result result = {0};
    fv_status s = fv_recipe_read(ctx, &r, path);
    if (s != FV_OK) return cli_report(ctx, s, path);
    for (int i = 0; i < a->set.count && s == FV_OK; i++) s = fv_recipe_set(r, a->set.item[i]);
    if (s == FV_OK && a->slices) s = fovea_set_slices(r, a->slices);
    if (s != FV_OK) {
        (void)cli_report(ctx, s, "--set");
        fv_recipe_close(&r);
        return CLI_USAGE;
    }
    const char *name = fv_recipe_string(r, "engine", "dit");
    const train_engine *engine = find_engine(name);
    int code = CLI_OK;
    if (!engine) {
        code = unknown_engine(path, name);
    } else if (a->init && !engine->takes_init) {
        code = cli_fail(CLI_USAGE, "--init: recipes with engine = %s do not take it", name);
    } else {
        s = run_engine(ctx, r, a, data_dir, out, engine, &result);
        if (s != FV_OK) code = fovea_ranks_report(ctx, s);
        /* Wrong values come from the recipe here, which is input. */
        if (s == FV_ERR_ARG || s == FV_ERR_UNKNOWN) code = CLI_BAD_INPUT;
        if (s == FV_ERR_CANCELLED)
            cli_note("go on with: fovea train %s -o %s --resume%s", path, out,
                     a->init || a->set.count || a->data_dir
                         ? " and the same --init, --set and --data-dir" : "");
    }
    if (s == FV_OK && code == CLI_OK && fovea_ranks_first())
        fovea_print_trained(ctx, a->common.json, out, NULL, &result);
    fv_recipe_close(&r);
    return code;
}

static int train_check(const void *args, const char *path)
{
    const train_args *a = args;
    (void)path;
    if (a->start_step && !a->init) return cli_fail(CLI_USAGE, "--start-step needs --init");
    return CLI_OK;
}

static int train(fv_ctx *ctx, const void *args, const char *path)
{
    const train_args *a = args;
    const char *corpora = getenv("FOVEA_CORPORA");
    char *folder = cli_folder_of(path);
    char *out = a->out ? cli_format("%s", a->out) : default_out(path);
    const char *data = a->data_dir ? a->data_dir : corpora && *corpora ? corpora : folder;
    int code = fovea_ranks_open(ctx);
    if (code == CLI_OK) code = train_into(ctx, a, path, data, out);
    fovea_ranks_close(ctx, code);
    free(out);
    free(folder);
    return code;
}

int fovea_train(int argc, char **argv)
{
    train_args a = {.start_step = 0};
    const cli_option options[] = {
        {'o', NULL, "DIR", "where checkpoints and model go (default train-RECIPE)", CLI_STRING,
         &a.out, 0, 0},
        {0, "resume", NULL, "go on from the newest checkpoint in DIR", CLI_FLAG, &a.resume, 0, 0},
        {0, "set", "KEY=VALUE", "change a value of the recipe; may be repeated", CLI_LIST, &a.set,
         0, 0},
        {0, "data-dir", "DIR", "put before relative data paths", CLI_STRING, &a.data_dir, 0, 0},
        {0, "init", "FILE", "start from the weights of this model", CLI_STRING, &a.init, 0, 0},
        {0, "start-step", "N", "with --init: position in data and schedule", CLI_U64, &a.start_step,
         0, 0},
        FOVEA_OPT_SLICES(&a.slices),
        CLI_OPT_THREADS(&a.common),
        CLI_OPT_DEVICE(&a.common),
        CLI_OPT_JSON(&a.common),
        CLI_OPT_TALK_END(&a.common)};
    const cli_command command = {
        "fovea train",
        "[options] RECIPE",
        "Train a model as a recipe says.",
        "Data paths are relative to --data-dir, else to the environment variable\n"
        "FOVEA_CORPORA, else to the recipe's folder. Ctrl-C saves, --resume goes on.\n"
        FOVEA_HELP_RANKS,
        options,
        1,
        1};
    const cli_verb verb = {&command, &a.common, train_check, train, &a};
    return cli_run(&verb, argc, argv);
}
