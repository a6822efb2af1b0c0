/* fovea_distill.c - fovea prune MODEL -o OUT: a student with parts of a model; fovea distill -o
 * OUT: a student trained on its teacher. */
#include "fovea_distill.h"
#include "fovea_tool.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- fovea prune ----------------------------------------------------------------------------- */

#define MAX_BLOCKS 256

typedef struct prune_args {
    cli_common common;
    const char *out, *keep, *method, *importance, *type;
    int blocks, samples, steps;
    double width;
    uint64_t seed;
} prune_args;

static int prune_check(const void *args, const char *in)
{
    const prune_args *a = args;
    (void)in;
    if (!a->out) return cli_fail(CLI_USAGE, "prune: -o FILE is missing");
    if (a->blocks && a->keep)
        return cli_fail(CLI_USAGE, "--blocks and --keep exclude each other");
    if (a->method && !a->blocks)
        return cli_fail(CLI_USAGE, "--method needs --blocks");
    if (a->importance && !(a->width > 0))
        return cli_fail(CLI_USAGE, "--importance needs --width");
    if (!a->blocks && !a->keep && !(a->width > 0))
        return cli_fail(CLI_USAGE, "prune: nothing is to go: give --blocks, --keep or --width");
    return CLI_OK;
}

/* "0,2,5" into list; the number of items, -1: not a list. */
static int parse_list(const char *text, int *list)
{
    int n = 0;
    for (;;) {
        char *end;
        const long v = strtol(text, &end, 10);
        if (end == text || v < 0 || v > 100000 || n == MAX_BLOCKS) return -1;
        list[n++] = (int)v;
        if (*end == 0) return n;
        if (*end != ',') return -1;
        text = end + 1;
    }
}

static void print_json(const prune_args *a, const fv_prune_info *info)
{
    cli_json j;
    char *file = cli_format("%s", a->out);
    cli_json_open(&j, stdout);
    cli_json_u64(&j, "depth", (uint64_t)info->depth);
    cli_json_key(&j, "blocks");
    for (int i = 0; i < info->blocks; i++) fprintf(j.to, "%s%d", i ? ", " : "[", info->block[i]);
    fputs("]", j.to);
    if (info->influence) {
        cli_json_key(&j, "influence");
        for (int i = 0; i < info->depth; i++)
            fprintf(j.to, "%s%.6g", i ? ", " : "[", info->influence[i]);
        fputs("]", j.to);
    }
    cli_json_u64(&j, "heads", (uint64_t)info->heads);
    cli_json_u64(&j, "hidden", (uint64_t)info->hidden);
    cli_json_u64(&j, "parameters", (uint64_t)info->parameters);
    cli_json_u64(&j, "teacher_parameters", (uint64_t)info->was_parameters);
    cli_json_strings(&j, "files", &file, 1);
    cli_json_close(&j);
    free(file);
}

static void print_plan(const prune_args *a, const fv_prune_info *info)
{
    for (int i = 0; info->influence && i < info->depth; i++)
        cli_detail("block %d: influence %.4f", i, info->influence[i]);
    char *list = cli_format("%s", "");
    for (int i = 0; i < info->blocks; i++) {
        char *more = cli_format("%s %d", list, info->block[i]);
        free(list);
        list = more;
    }
    cli_note("%s: blocks%s of %d, heads %d of %d, MLP %d of %d; %.2f of %.2f M parameters", a->out,
             list, info->depth, info->heads, info->was_heads, info->hidden, info->was_hidden,
             (double)info->parameters * 1e-6, (double)info->was_parameters * 1e-6);
    free(list);
}

static fv_status prune_into(fv_ctx *ctx, const prune_args *a, const fv_model *model,
                            const fv_prune_options *o)
{
    fv_prune *plan = NULL;
    fv_prune_info info;
    fv_dtype type = FV_BF16;
    (void)fv_weights_find(a->type ? a->type : "bf16", &type);
    fv_status s = fv_prune_create(ctx, &plan, model, o);
    if (s == FV_OK) s = fv_prune_write(ctx, plan, model, type, a->out, a->common.force);
    if (s == FV_OK) {
        fv_prune_get_info(plan, &info);
        if (a->common.json) print_json(a, &info);
        else print_plan(a, &info);
    }
    fv_prune_free(&plan);
    return s;
}

static int prune(fv_ctx *ctx, const void *args, const char *in)
{
    const prune_args *a = args;
    fv_prune_options o = FV_PRUNE_OPTIONS_INIT;
    int list[MAX_BLOCKS];
    fv_model *model = NULL;
    int code = cli_check_place(a->out, a->common.force);
    if (code != CLI_OK) return code;
    o.blocks = a->blocks;
    o.width = a->width;
    o.samples = a->samples;
    o.seed = a->seed;
    if (a->method && strcmp(a->method, "shortgpt") == 0) o.depth = FV_PRUNE_SHORTGPT;
    if (a->method && strcmp(a->method, "learned") == 0) o.depth = FV_PRUNE_LEARNED;
    o.steps = a->steps;
    if (a->importance && strcmp(a->importance, "diff") == 0) o.importance = FV_PRUNE_DIFF;
    if (a->keep && (o.keep_count = parse_list(a->keep, list)) < 0)
        return cli_fail(CLI_USAGE, "--keep %s: numbers of blocks with commas between expected",
                        a->keep);
    if (a->keep) o.keep = list;
    fv_status s = fv_model_open(ctx, &model, in, NULL);
    if (s == FV_OK) s = prune_into(ctx, a, model, &o);
    if (s != FV_OK) code = cli_report(ctx, s, s == FV_ERR_ARG || s == FV_ERR_EXISTS ? NULL : in);
    fv_model_close(&model);
    return code;
}

int fovea_prune(int argc, char **argv)
{
    prune_args a = {.seed = 1};
    const cli_option options[] = {
        {'o', NULL, "FILE", "the model to write (needed)", CLI_STRING, &a.out, 0, 0},
        {0, "blocks", "N", "number of blocks that stay", CLI_INT, &a.blocks, 1, MAX_BLOCKS},
        {0, "method", "uniform|shortgpt|learned", "which: evenly spread, doing most, by training",
         CLI_CHOICE, &a.method, 0, 0},
        {0, "keep", "LIST", "these blocks, such as 0,2,5,7", CLI_STRING, &a.keep, 0, 0},
        {0, "width", "R", "share of heads and MLP channels that stays", CLI_NUMBER, &a.width, 0,
         1},
        {0, "importance", "magnitude|diff", "which: by weights, or by the change of the loss",
         CLI_CHOICE, &a.importance, 0, 0},
        {0, "samples", "N", "drawn to measure that (default 32, to learn 128)", CLI_INT, &a.samples, 1,
         100000},
        {0, "steps", "N", "of learning (default 400)", CLI_INT, &a.steps, 1, 1000000},
        {0, "seed", "N", "of these samples (default 1)", CLI_U64, &a.seed, 0, 0},
        {0, "type", "f32|bf16|int8", "type of the matrices (default bf16)", CLI_CHOICE, &a.type, 0,
         0},
        CLI_OPT_FORCE(&a.common),
        CLI_OPT_THREADS(&a.common),
        CLI_OPT_JSON(&a.common),
        CLI_OPT_TALK_END(&a.common)};
    const cli_command command = {
        "fovea prune",
        "[options] MODEL -o OUT",
        "Make a model with a part of another's blocks, heads and MLP channels.",
        "The result draws with gen, badly until it is trained: see fovea distill.\n",
        options,
        1,
        1};
    const cli_verb verb = {&command, &a.common, prune_check, prune, &a};
    return cli_run(&verb, argc, argv);
}

/* ---- fovea distill --------------------------------------------------------------------------- */

typedef struct distill_args {
    cli_common common;
    cli_list set;
    const char *out, *run, *teacher, *student, *vae, *prune, *loss, *data, *data_dir;
    int blocks, slices;
    bool resume;
} distill_args;

static int distill_check(const void *args, const char *recipe)
{
    const distill_args *a = args;
    if (!a->out) return cli_fail(CLI_USAGE, "distill: -o FILE is missing");
    if (!a->teacher && !recipe)
        return cli_fail(CLI_USAGE, "distill: --teacher FILE is missing");
    if ((a->student != NULL) + (a->blocks > 0) + (a->prune != NULL) > 1)
        return cli_fail(CLI_USAGE, "--student, --student-blocks and --prune exclude each other");
    return CLI_OK;
}

static fv_status set_key(fv_recipe *r, const char *key, const char *value)
{
    if (!value) return FV_OK;
    char *text = cli_format("%s=%s", key, value);
    const fv_status s = fv_recipe_set(r, text);
    free(text);
    return s;
}

/* Models that the recipe itself names: in its folder, or else relative to the working directory. */
static fv_status set_models(fv_recipe *r, const char *folder)
{
    static const char *const keys[] = {"teacher", "student", "vae"};
    fv_status s = FV_OK;
    for (int k = 0; k < 3 && s == FV_OK; k++) {
        const char *name = fv_recipe_string(r, keys[k], NULL);
        if (!name || name[0] == '/') continue;
        char *path = cli_format("%s/%s", folder, name);
        if (access(path, F_OK) == 0) s = set_key(r, keys[k], path);
        free(path);
    }
    return s;
}

/* "blocks=4 width=0.5": the recipe's keys prune_blocks, prune_width, ... */
static fv_status set_prune(fv_recipe *r, const char *text)
{
    fv_status s = FV_OK;
    while (*text && s == FV_OK) {
        const int n = (int)strcspn(text, " ");
        char *one = cli_format("prune_%.*s", n, text);
        if (n) s = fv_recipe_set(r, one);
        free(one);
        text += n;
        text += strspn(text, " ");
    }
    return s;
}

static fv_status set_all(fv_recipe *r, const distill_args *a, const char *folder)
{
    char blocks[16];
    snprintf(blocks, sizeof blocks, "%d", a->blocks);
    fv_status s = set_models(r, folder);
    if (s == FV_OK) s = set_key(r, "loss", a->loss);
    if (s == FV_OK) s = set_key(r, "data", a->data);
    if (s == FV_OK) s = set_key(r, "teacher", a->teacher);
    if (s == FV_OK) s = set_key(r, "student", a->student);
    if (s == FV_OK) s = set_key(r, "vae", a->vae);
    if (s == FV_OK && a->blocks) s = set_key(r, "prune_blocks", blocks);
    if (s == FV_OK && a->prune) s = set_prune(r, a->prune);
    for (int i = 0; i < a->set.count && s == FV_OK; i++) s = fv_recipe_set(r, a->set.item[i]);
    if (s == FV_OK && a->slices) s = fovea_set_slices(r, a->slices);
    return s;
}

static int run_distill(fv_ctx *ctx, fv_recipe *r, const distill_args *a, const char *data_dir,
                       const char *run, const char *recipe)
{
    fv_distill_options o = FV_DISTILL_OPTIONS_INIT;
    fv_train_result result = {0};
    fv_model *teacher = NULL, *student = NULL, *vae = NULL;
    const char *teacher_path = fv_recipe_string(r, "teacher", NULL), *file = teacher_path;
    const char *student_path = fv_recipe_string(r, "student", NULL);
    const char *vae_path = fv_recipe_string(r, "vae", NULL);
    int code = CLI_OK;
    if (!teacher_path)
        return cli_fail(CLI_USAGE, "distill: --teacher FILE is missing, and %s names none", recipe);
    fv_status s = fv_model_open(ctx, &teacher, teacher_path, NULL);
    if (s == FV_OK && student_path) s = fv_model_open(ctx, &student, file = student_path, NULL);
    if (s == FV_OK && vae_path) s = fv_model_open(ctx, &vae, file = vae_path, NULL);
    if (s != FV_OK) {
        code = cli_report(ctx, s, file);
    } else {
        o.teacher = teacher;
        o.student = student;
        o.vae = vae;
        o.trainer.data_dir = data_dir;
        o.trainer.out_dir = run;
        o.trainer.export_path = a->out;
        o.trainer.resume = a->resume;
        s = fv_distill_train(ctx, r, &o, &result);
        if (s != FV_OK) code = fovea_ranks_report(ctx, s);
        if (s == FV_ERR_UNKNOWN || (s == FV_ERR_ARG && recipe)) code = CLI_BAD_INPUT;
        if (s == FV_ERR_CANCELLED) cli_note("go on with the same command and --resume");
    }
    if (s == FV_OK && fovea_ranks_first())
        fovea_print_trained(ctx, a->common.json, run, a->out, &result);
    fv_model_close(&vae);
    fv_model_close(&student);
    fv_model_close(&teacher);
    return code;
}

static int distill(fv_ctx *ctx, const void *args, const char *recipe)
{
    const distill_args *a = args;
    const char *corpora = getenv("FOVEA_CORPORA");
    fv_recipe *r = NULL;
    int code = cli_check_place(a->out, a->common.force || a->resume);
    if (code != CLI_OK) return code;
    fv_status s = recipe ? fv_recipe_read(ctx, &r, recipe) : fv_recipe_parse(ctx, &r, "", 0);
    if (s != FV_OK) return cli_report(ctx, s, recipe);
    char *folder = recipe ? cli_folder_of(recipe) : cli_format(".");
    s = set_all(r, a, folder);
    if (s != FV_OK) {
        (void)cli_report(ctx, s, "--set or --prune");
        free(folder);
        fv_recipe_close(&r);
        return CLI_USAGE;
    }
    char *run = a->run ? cli_format("%s", a->run) : cli_with_suffix(a->out, "-run");
    const char *data = a->data_dir ? a->data_dir : corpora && *corpora ? corpora : folder;
    code = fovea_ranks_open(ctx);
    if (code == CLI_OK) code = run_distill(ctx, r, a, data, run, recipe);
    fovea_ranks_close(ctx, code);
    free(run);
    free(folder);
    fv_recipe_close(&r);
    return code;
}

int fovea_distill(int argc, char **argv)
{
    distill_args a = {.blocks = 0};
    const cli_option options[] = {
        {'o', NULL, "FILE", "the model to write (needed)", CLI_STRING, &a.out, 0, 0},
        {0, "teacher", "FILE", "the model to learn from", CLI_STRING, &a.teacher, 0, 0},
        {0, "student-blocks", "N", "student: the teacher with N blocks", CLI_INT, &a.blocks, 1,
         MAX_BLOCKS},
        {0, "prune", "WORDS", "student: such as 'blocks=4 width=0.5'", CLI_STRING, &a.prune, 0, 0},
        {0, "student", "FILE", "student: this model", CLI_STRING, &a.student, 0, 0},
        {0, "vae", "FILE", "of an official DiT: autoencoder with its encoder", CLI_STRING, &a.vae, 0,
         0},
        {0, "loss", "none|out|feat|lift|place", "how it learns (default place)", CLI_CHOICE,
         &a.loss, 0, 0},
        {0, "data", "LIST", "archives or folders of pictures (default: the teacher's)", CLI_STRING,
         &a.data, 0, 0},
        {0, "data-dir", "DIR", "put before relative data paths", CLI_STRING, &a.data_dir, 0, 0},
        {0, "run", "DIR", "checkpoints, samples, loss.png (default OUT-run)", CLI_STRING, &a.run, 0,
         0},
        {0, "resume", NULL, "go on from the newest checkpoint in DIR", CLI_FLAG, &a.resume, 0, 0},
        {0, "set", "KEY=VALUE", "change a value of the recipe; may be repeated", CLI_LIST, &a.set,
         0, 0},
        FOVEA_OPT_SLICES(&a.slices),
        CLI_OPT_FORCE(&a.common),
        CLI_OPT_THREADS(&a.common),
        CLI_OPT_DEVICE(&a.common),
        CLI_OPT_JSON(&a.common),
        CLI_OPT_TALK_END(&a.common)};
    const cli_command command = {
        "fovea distill",
        "[options] [RECIPE] -o OUT",
        "Train a student on pictures and on what its teacher makes of them.",
        "Data paths are relative to --data-dir, else to the environment variable\n"
        "FOVEA_CORPORA, else to the recipe's folder. A teacher or student that the recipe\n"
        "names is taken from the recipe's folder, or if it is not there from the working\n"
        "directory, as those of options are. Ctrl-C saves, --resume goes on.\n"
        FOVEA_HELP_RANKS,
        options,
        0,
        1};
    const cli_verb verb = {&command, &a.common, distill_check, distill, &a};
    return cli_run(&verb, argc, argv);
}
