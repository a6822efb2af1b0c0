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
} train_args;

static const char *const engines[] = {"dit", "classifier", "omnizip", "vq", "ar", "draft", NULL};

/* train-NAME in the current folder, NAME from the recipe's file name. */
static char *default_out(const char *recipe)
{
    const char *slash = strrchr(recipe, '/'), *base = slash ? slash + 1 : recipe;
    const char *dot = strrchr(base, '.');
    return cli_format("train-%.*s", (int)(dot && dot > base ? (size_t)(dot - base) : strlen(base)),
                      base);
}

static void print_result(fv_ctx *ctx, const train_args *a, const char *out,
                         const fv_train_result *r)
{
    fv_memory_stats mem;
    cli_json j;
    fv_ctx_memory(ctx, &mem);
    if (!a->common.json) {
        char held[48] = "";
        if (r->metric == r->metric) /* NaN: not measured */
            snprintf(held, sizeof held, ", held-out %.4g", r->metric);
        cli_note("%s: step %llu, loss %.4g%s, %.0f s, %.1f samples/s, peak memory %.0f MiB", out,
                 (unsigned long long)r->step, r->loss, held, r->seconds, r->samples_per_second,
                 (double)mem.peak_bytes / 1048576);
        return;
    }
    char *model = cli_format("%s/model.safetensors", out);
    cli_json_open(&j, stdout);
    cli_json_u64(&j, "step", r->step);
    cli_json_number(&j, "loss", r->loss);
    cli_json_number(&j, "metric", r->metric);
    cli_json_number(&j, "seconds", r->seconds);
    cli_json_number(&j, "samples_per_second", r->samples_per_second);
    cli_json_u64(&j, "peak_bytes", mem.peak_bytes);
    cli_json_strings(&j, "files", &model, 1);
    cli_json_close(&j);
    free(model);
}

static fv_status run_ar(fv_ctx *ctx, fv_recipe *r, const train_args *a, const char *data_dir,
                        const char *out, const char *engine, fv_train_result *result)
{
    if (strcmp(engine, "draft") == 0) {
        fv_ar_draft_train_options d = FV_AR_DRAFT_TRAIN_OPTIONS_INIT;
        d.data_dir = data_dir;
        d.out_dir = out;
        d.resume = a->resume;
        return fv_ar_draft_train(ctx, r, &d, result);
    }
    if (strcmp(engine, "ar") == 0) {
        fv_ar_train_options g = FV_AR_TRAIN_OPTIONS_INIT;
        g.data_dir = data_dir;
        g.out_dir = out;
        g.init = a->init;
        g.start_step = a->start_step;
        g.resume = a->resume;
        return fv_ar_train(ctx, r, &g, result);
    }
    fv_vq_train_options v = FV_VQ_TRAIN_OPTIONS_INIT;
    v.data_dir = data_dir;
    v.out_dir = out;
    v.init = a->init;
    v.start_step = a->start_step;
    v.resume = a->resume;
    return fv_vq_train(ctx, r, &v, result);
}

static fv_status run_engine(fv_ctx *ctx, fv_recipe *r, const train_args *a, const char *data_dir,
                            const char *out, const char *engine, fv_train_result *result)
{
    if (strcmp(engine, "classifier") == 0) {
        fv_classifier_train_options c = FV_CLASSIFIER_TRAIN_OPTIONS_INIT;
        c.data_dir = data_dir;
        c.out_dir = out;
        c.resume = a->resume;
        return fv_classifier_train(ctx, r, &c, result);
    }
    if (strcmp(engine, "omnizip") == 0) {
        fv_omnizip_train_options z = FV_OMNIZIP_TRAIN_OPTIONS_INIT;
        z.data_dir = data_dir;
        z.out_dir = out;
        z.init = a->init;
        z.start_step = a->start_step;
        z.resume = a->resume;
        return fv_omnizip_train(ctx, r, &z, result);
    }
    if (strcmp(engine, "dit") != 0) return run_ar(ctx, r, a, data_dir, out, engine, result);
    fv_dit_train_options o = FV_DIT_TRAIN_OPTIONS_INIT;
    o.data_dir = data_dir;
    o.out_dir = out;
    o.init = a->init;
    o.start_step = a->start_step;
    o.resume = a->resume;
    return fv_dit_train(ctx, r, &o, result);
}

static int train_into(fv_ctx *ctx, const train_args *a, const char *path, const char *data_dir,
                      const char *out)
{
    fv_recipe *r = NULL;
    fv_train_result result = {0};
    fv_status s = fv_recipe_read(ctx, &r, path);
    if (s != FV_OK) return cli_report(ctx, s, path);
    for (int i = 0; i < a->set.count && s == FV_OK; i++) s = fv_recipe_set(r, a->set.item[i]);
    if (s != FV_OK) {
        (void)cli_report(ctx, s, "--set");
        fv_recipe_close(&r);
        return CLI_USAGE;
    }
    const char *engine = fv_recipe_string(r, "engine", "dit");
    bool is_known = false;
    for (int i = 0; engines[i]; i++) is_known |= strcmp(engine, engines[i]) == 0;
    int code = CLI_OK;
    if (!is_known) {
        code = cli_fail(CLI_BAD_INPUT,
                        "%s: engine = %s is unknown; there are dit, classifier, omnizip, vq, "
                        "ar, draft", path, engine);
    } else if (a->init && (strcmp(engine, "classifier") == 0 || strcmp(engine, "draft") == 0)) {
        code = cli_fail(CLI_USAGE, "--init: recipes with engine = %s do not take it", engine);
    } else {
        s = run_engine(ctx, r, a, data_dir, out, engine, &result);
        if (s != FV_OK) code = cli_report(ctx, s, NULL);
        /* Wrong values come from the recipe here, which is input. */
        if (s == FV_ERR_ARG || s == FV_ERR_UNKNOWN) code = CLI_BAD_INPUT;
        if (s == FV_ERR_CANCELLED)
            cli_note("go on with: fovea train %s -o %s --resume%s", path, out,
                     a->set.count || a->data_dir ? " and the same --set and --data-dir" : "");
    }
    if (s == FV_OK && code == CLI_OK) print_result(ctx, a, out, &result);
    fv_recipe_close(&r);
    return code;
}

static int train_check(const void *args, const char *path)
{
    const train_args *a = args;
    (void)path;
    if (a->start_step && !a->init) return cli_fail(CLI_USAGE, "--start-step needs --init");
    if (a->resume && a->init)
        return cli_fail(CLI_USAGE, "--resume and --init exclude each other");
    return CLI_OK;
}

static int train(fv_ctx *ctx, const void *args, const char *path)
{
    const train_args *a = args;
    const char *corpora = getenv("FOVEA_CORPORA");
    char *folder = cli_folder_of(path);
    char *out = a->out ? cli_format("%s", a->out) : default_out(path);
    const char *data = a->data_dir ? a->data_dir : corpora && *corpora ? corpora : folder;
    const int code = train_into(ctx, a, path, data, out);
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
        CLI_OPT_THREADS(&a.common),
        CLI_OPT_DEVICE(&a.common),
        CLI_OPT_JSON(&a.common),
        CLI_OPT_TALK_END(&a.common)};
    const cli_command command = {
        "fovea train",
        "[options] RECIPE",
        "Train a model as a recipe says.",
        "Data paths are relative to --data-dir, else to the environment variable\n"
        "FOVEA_CORPORA, else to the recipe's folder. Ctrl-C saves, --resume goes on.\n",
        options,
        1,
        1};
    const cli_verb verb = {&command, &a.common, train_check, train, &a};
    return cli_run(&verb, argc, argv);
}
