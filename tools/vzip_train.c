/* vzip_train.c - vzip train: a model file for data like that of some files. */
#include "vzip.h"

#include <stdlib.h>
#include <string.h>

typedef struct train_args {
    cli_common common;
    const char *out, *texts, *network, *name, *size, *time;
    uint64_t id;
    double seconds;
    bool resume;
} train_args;

/* 90, 90s, 10m, 2h: seconds, minutes, hours. */
static int parse_time(const char *text, double *seconds)
{
    static const char units[] = "smh";
    char *end;
    const double v = strtod(text, &end);
    const char *unit = *end ? strchr(units, *end) : units;
    const double factor[] = {1, 60, 3600};
    if (end == text || text[strspn(text, "0123456789.smh")] || !unit || (*end && end[1]) ||
        !(v > 0) || v > 1e6)
        return cli_fail(CLI_USAGE, "--time %s: a time such as 90s, 10m or 2h is needed", text);
    *seconds = v * factor[unit - units];
    return CLI_OK;
}

static void print_result(const train_args *a, const fv_vzip_train_result *r)
{
    char id[VZIP_MODEL_ID];
    cli_json j;
    vzip_model_id(r->id, r->hash, id);
    if (!a->common.json) {
        cli_note("%s: %llu bytes, %d texts of %llu bytes, known to archives as %s", a->out,
                 (unsigned long long)r->model_bytes, r->texts, (unsigned long long)r->text_bytes,
                 id);
        if (r->steps)
            cli_note("network: %llu steps, %.3f bits per byte of text that it has not seen",
                     (unsigned long long)r->steps, r->bits_per_byte);
        if (r->held_files)
            cli_note("%llu files held out, %llu bytes: %llu with vzip's own model, %llu with this "
                     "one (%+.1f %%)",
                     (unsigned long long)r->held_files, (unsigned long long)r->held_bytes,
                     (unsigned long long)r->held_own, (unsigned long long)r->held_new,
                     100 * ((double)r->held_new / (double)r->held_own - 1));
        return;
    }
    cli_json_open(&j, stdout);
    cli_json_string(&j, "file", a->out);
    cli_json_string(&j, "model", id);
    cli_json_u64(&j, "bytes", r->model_bytes);
    cli_json_u64(&j, "texts", (uint64_t)r->texts);
    cli_json_u64(&j, "text_bytes", r->text_bytes);
    cli_json_u64(&j, "files_read", r->files);
    cli_json_u64(&j, "bytes_read", r->bytes);
    cli_json_u64(&j, "held_files", r->held_files);
    cli_json_u64(&j, "held_bytes", r->held_bytes);
    cli_json_u64(&j, "held_own", r->held_own);
    cli_json_u64(&j, "held_new", r->held_new);
    cli_json_u64(&j, "steps", r->steps);
    cli_json_number(&j, "bits_per_byte", r->bits_per_byte);
    cli_json_close(&j);
}

static int check(const train_args *a, int files)
{
    if (!a->out) return cli_fail(CLI_USAGE, "which file shall be made? -o MODEL.vzm");
    if (files == 0 && !a->texts)
        return cli_fail(CLI_USAGE,
                        "which files shall be learned from? vzip train FOLDER -o MODEL.vzm");
    if (a->size && strcmp(a->size, "dict") != 0 && (a->network || files == 0))
        return cli_fail(CLI_USAGE, a->network ? "--size and --network exclude each other"
                                              : "--size: a network needs files to be trained on");
    if (a->id > UINT32_MAX) return cli_fail(CLI_USAGE, "--id: a number below 2^32 is needed");
    return CLI_OK;
}

static int train(void *args, const char **files, int count)
{
    train_args *a = args;
    fv_vzip_train_options o = FV_VZIP_TRAIN_OPTIONS_INIT;
    fv_vzip_train_result r;
    fv_ctx *ctx = NULL;
    int code = check(a, count);
    if (code == CLI_OK && a->time) code = parse_time(a->time, &a->seconds);
    if (code == CLI_OK) code = cli_check_place(a->out, a->common.force);
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
    o.size = a->size;
    o.seconds = a->seconds;
    o.resume = a->resume;
    const fv_status s = fv_vzip_train(ctx, &o, &r);
    if (s == FV_OK) print_result(a, &r);
    else code = cli_report(ctx, s, NULL);
    if (s == FV_ERR_ARG) code = CLI_BAD_INPUT; /* what can be wrong in the options was looked at */
    if (s == FV_ERR_CANCELLED && a->size && strcmp(a->size, "dict") != 0)
        cli_note("the same command with --resume goes on");
    return cli_finish(&ctx, code);
}

int vzip_train(int argc, char **argv)
{
    train_args a = {.out = NULL};
    const cli_option options[] = {
        {'o', NULL, "FILE", "the model file to make", CLI_STRING, &a.out, 0, 0},
        {0, "size", "dict|t0|t1|t2",
         "dict, the default: typical texts, in seconds; t0 and larger: also "
         "a network for text",
         CLI_CHOICE, &a.size, 0, 0},
        {0, "time", "TIME", "of training, as 90s, 10m (the default), 2h", CLI_STRING, &a.time, 0,
         0},
        {0, "resume", NULL, "go on with a training that was stopped", CLI_FLAG, &a.resume, 0, 0},
        {0, "texts", "FILE",
         "the typical texts of this model file, or what collect_prime.py wrote", CLI_STRING,
         &a.texts, 0, 0},
        {0, "network", "FILE", "put in this network, which fovea train made", CLI_STRING,
         &a.network, 0, 0},
        {0, "name", "NAME", "name in the file (default: that of FILE)", CLI_STRING, &a.name, 0, 0},
        {0, "id", "N", "number in the file (default: of the name)", CLI_U64, &a.id, 0, 0},
        CLI_OPT_FORCE(&a.common),
        CLI_OPT_THREADS(&a.common),
        CLI_OPT_JSON(&a.common),
        CLI_OPT_TALK_END(&a.common)};
    const cli_command command = {
        "vzip train",
        "[options] -o MODEL.vzm [FILE ...]",
        "Make a model file for data like that of FILES.",
        "FILES are files, folders and tar archives. Every fifth file is held out,\n"
        "and compressed in the end. A network is trained in MODEL.vzm.train/.\n",
        options,
        0,
        argc};
    return cli_run_files(&command, argc, argv, train, &a);
}
