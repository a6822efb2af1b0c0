/* vzip_train.c - vzip train: a model file for data like that of some files. */
#include "vzip.h"

#include <stdlib.h>
#include <string.h>

typedef struct train_args {
    cli_common common;
    const char *out, *texts, *network, *name;
    uint64_t id;
} train_args;

static void print_result(const train_args *a, const fv_vzip_train_result *r)
{
    char id[32];
    cli_json j;
    snprintf(id, sizeof id, "%08lx-%016llx", (unsigned long)r->id, (unsigned long long)r->hash);
    if (!a->common.json) {
        cli_note("%s: %llu bytes, %d texts of %llu bytes, known to archives as %s", a->out,
                 (unsigned long long)r->model_bytes, r->texts, (unsigned long long)r->text_bytes, id);
        return;
    }
    cli_json_open(&j, stdout);
    cli_json_string(&j, "file", a->out);
    cli_json_string(&j, "model", id);
    cli_json_u64(&j, "bytes", r->model_bytes);
    cli_json_u64(&j, "texts", (uint64_t)r->texts);
    cli_json_u64(&j, "text_bytes", r->text_bytes);
    cli_json_close(&j);
}

static int train(const train_args *a, const char *const *files, int count)
{
    fv_vzip_train_options o = FV_VZIP_TRAIN_OPTIONS_INIT;
    fv_vzip_train_result r;
    fv_ctx *ctx = NULL;
    int code = cli_check_place(a->out, a->common.force);
    if (code == CLI_OK) code = cli_start(&ctx, &a->common);
    if (code != CLI_OK) return cli_finish(&ctx, code);
    o.out_path = a->out;
    o.overwrite = a->common.force;
    o.inputs = files;
    o.input_count = count;
    o.texts = a->texts;
    o.network = a->network;
    o.name = a->name;
    o.id = (uint32_t)a->id;
    const fv_status s = fv_vzip_train(ctx, &o, &r);
    if (s == FV_OK) print_result(a, &r);
    else code = cli_report(ctx, s, NULL);
    return cli_finish(&ctx, code);
}

static int check(const train_args *a, int files)
{
    if (!a->out) return cli_fail(CLI_USAGE, "which file shall be made? -o MODEL.vzm");
    if (files == 0 && !a->texts)
        return cli_fail(CLI_USAGE, "which files shall be learned from? vzip train FOLDER -o MODEL.vzm");
    if (a->id > UINT32_MAX) return cli_fail(CLI_USAGE, "--id: a number below 2^32 is needed");
    return CLI_OK;
}

int vzip_train(int argc, char **argv)
{
    train_args a = {.out = NULL};
    const cli_option options[] = {
        {'o', NULL, "FILE", "the model file to make", CLI_STRING, &a.out, 0, 0},
        {0, "texts", "FILE", "take the typical texts of this model file", CLI_STRING, &a.texts, 0, 0},
        {0, "network", "FILE", "put in this network, which fovea train made", CLI_STRING, &a.network,
         0, 0},
        {0, "name", "NAME", "name in the file (default: that of FILE)", CLI_STRING, &a.name, 0, 0},
        {0, "id", "N", "number in the file (default: of the name)", CLI_U64, &a.id, 0, 0},
        CLI_OPT_FORCE(&a.common),
        CLI_OPT_THREADS(&a.common),
        CLI_OPT_JSON(&a.common),
        CLI_OPT_TALK_END(&a.common)};
    const cli_command command = {"vzip train",
                                 "[options] -o MODEL.vzm [FILE ...]",
                                 "Make a model file for data like that of FILES.",
                                 NULL,
                                 options,
                                 0,
                                 argc};
    const char **files = calloc((size_t)argc + 1, sizeof *files);
    if (!files) return cli_fail(CLI_FAILED, "out of memory");
    int count = 0;
    fv_ctx *none = NULL;
    int code = cli_parse(&command, argc, argv, files, &count);
    if (code >= 0) {
        code = cli_finish(&none, code);
    } else {
        code = check(&a, count);
        code = code == CLI_OK ? train(&a, files, count) : cli_finish(&none, code);
    }
    free(files);
    return code;
}
