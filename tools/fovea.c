/* fovea.c - the program fovea: which verb; convert and new. */
#include "fovea_ar.h"
#include "fovea_codec.h"
#include "fovea_tool.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- fovea convert --------------------------------------------------------------------------- */

typedef struct convert_args {
    cli_common common;
    const char *vae, *tokenizer, *draft, *weights, *base, *context, *out, *type;
    int grid;
    double prune;
} convert_args;

static int convert_check(const void *args, const char *in)
{
    const convert_args *a = args;
    (void)in;
    return a->out ? CLI_OK : cli_fail(CLI_USAGE, "convert: -o FILE is missing");
}

/* A generator or a tokenizer, with parts from other files. */
static int convert_ar(fv_ctx *ctx, const convert_args *a, const char *in, const fv_model *model,
                      fv_dtype type)
{
    fv_ar_convert_options o = FV_AR_CONVERT_OPTIONS_INIT;
    fv_model *tokenizer = NULL, *draft = NULL;
    const char *file = a->tokenizer;
    fv_status s = FV_OK;
    if (a->vae) return cli_fail(CLI_USAGE, "--vae: an autoregressive model has no autoencoder");
    if (file) s = fv_model_open(ctx, &tokenizer, file, NULL);
    if (s == FV_OK && a->draft) s = fv_model_open(ctx, &draft, file = a->draft, NULL);
    if (s == FV_OK) {
        file = in;
        o.tokenizer = tokenizer;
        o.draft = draft;
        o.type = type;
        o.grid = a->grid;
        o.overwrite = a->common.force;
        s = fv_ar_convert(ctx, model, &o, a->out);
        if (s != FV_ERR_MODEL && s != FV_ERR_FORMAT) file = NULL;
    }
    fv_model_close(&tokenizer);
    fv_model_close(&draft);
    return s == FV_OK ? CLI_OK : cli_report(ctx, s, file);
}

static int convert_other(fv_ctx *ctx, const convert_args *a, const char *in, const fv_model *model,
                         fv_dtype type)
{
    fv_model *vae = NULL;
    int code = CLI_OK;
    fv_status s = FV_OK;
    const bool is_omnizip = fv_omnizip_is_checkpoint(model);
    const bool is_rdvq = fv_rdvq_is_model(model) || fv_rdvq_is_checkpoint(model);
    if (a->tokenizer || a->draft || a->grid)
        return cli_fail(CLI_USAGE, "--tokenizer, --draft, --grid: %s is no autoregressive model",
                        in);
    if (a->vae && (s = fv_model_open(ctx, &vae, a->vae, NULL)) != FV_OK)
        code = cli_report(ctx, s, a->vae);
    if (code == CLI_OK && (is_omnizip || is_rdvq) && a->vae)
        code = cli_fail(CLI_USAGE, "--vae: %s has no autoencoder",
                        is_rdvq ? "an rdvq model" : "an OmniZip checkpoint");
    else if (code == CLI_OK && is_omnizip &&
             (s = fv_omnizip_convert(ctx, model, type, a->out, a->common.force)) != FV_OK)
        code = cli_report(ctx, s, s == FV_ERR_MODEL ? in : NULL);
    else if (code == CLI_OK && is_rdvq &&
             (s = fv_rdvq_convert(ctx, model, type, a->out, a->common.force)) != FV_OK)
        code = cli_report(ctx, s, s == FV_ERR_MODEL || s == FV_ERR_UNSUPPORTED ? in : NULL);
    if (code == CLI_OK && !is_omnizip && !is_rdvq &&
        (s = fv_dit_convert(ctx, model, vae, type, a->out, a->common.force)) != FV_OK)
        code = cli_report(ctx, s, s == FV_ERR_MODEL || s == FV_ERR_FORMAT ? in : NULL);
    fv_model_close(&vae);
    return code;
}

/* PS-SR on Wan2.1: the transformer, with what the published files hold beside it. */
static int convert_wan(fv_ctx *ctx, const convert_args *a, const char *in, const fv_model *model,
                       fv_dtype type)
{
    fv_wan_convert_options o = FV_WAN_CONVERT_OPTIONS_INIT;
    const char *const path[4] = { a->base, a->draft, a->vae, a->context };
    fv_model *part[4] = { 0 };
    fv_status s = FV_OK;
    int code = CLI_OK;
    if (!a->base || !a->draft)
        return cli_fail(CLI_USAGE, "%s is the transformer of Wan2.1: PS-SR needs --base and --draft",
                        in);
    if (a->tokenizer || a->grid)
        return cli_fail(CLI_USAGE, "--tokenizer, --grid: %s is no autoregressive model", in);
    if (type != FV_F32 && type != FV_BF16)
        return cli_fail(CLI_USAGE, "--type int8: models of PS-SR are f32 or bf16");
    for (int i = 0; i < 4 && code == CLI_OK; i++)
        if (path[i] && (s = fv_model_open(ctx, &part[i], path[i], NULL)) != FV_OK)
            code = cli_report(ctx, s, path[i]);
    o.base = part[0];
    o.draft = part[1];
    o.vae = part[2];
    o.context = part[3];
    o.type = type;
    o.prune = a->prune;
    o.overwrite = a->common.force;
    if (code == CLI_OK && (s = fv_wan_convert(ctx, model, &o, a->out)) != FV_OK)
        code = cli_report(ctx, s, NULL);
    for (int i = 0; i < 4; i++) fv_model_close(&part[i]);
    return code;
}

static int convert_sr(fv_ctx *ctx, const convert_args *a, const char *in, const fv_model *model,
                      fv_dtype type)
{
    if (a->vae || a->tokenizer || a->draft || a->grid)
        return cli_fail(CLI_USAGE, "--vae, --tokenizer, --draft, --grid: %s is a model of gen sr",
                        in);
    const fv_status s = fv_sr_convert(ctx, model, type, a->out, a->common.force);
    return s == FV_OK ? CLI_OK : cli_report(ctx, s, s == FV_ERR_MODEL ? in : NULL);
}

/* Features, with the weights of LPIPS or DISTS. */
static int convert_perceptual(fv_ctx *ctx, const convert_args *a, const char *in,
                              const fv_model *model, fv_dtype type)
{
    fv_model *weights = NULL;
    if (a->vae || a->tokenizer || a->draft || a->grid)
        return cli_fail(CLI_USAGE, "--vae, --tokenizer, --draft, --grid: %s holds features of "
                        "pictures", in);
    fv_status s = a->weights ? fv_model_open(ctx, &weights, a->weights, NULL) : FV_OK;
    if (s != FV_OK) return cli_report(ctx, s, a->weights);
    s = fv_perceptual_convert(ctx, model, weights, type, a->out, a->common.force);
    fv_model_close(&weights);
    return s == FV_OK ? CLI_OK : cli_report(ctx, s, s == FV_ERR_MODEL ? in : NULL);
}

static int convert(fv_ctx *ctx, const void *args, const char *in)
{
    const convert_args *a = args;
    const char *name = a->type ? a->type : "bf16";
    fv_model *model = NULL;
    int code = cli_check_place(a->out, a->common.force);
    if (code != CLI_OK) return code;
    const fv_status s = fv_model_open(ctx, &model, in, NULL);
    const bool is_perceptual = s == FV_OK && fv_perceptual_is_checkpoint(model);
    fv_dtype type = FV_BF16;
    if (is_perceptual && !a->type) name = "f32"; /* figures are compared with those of others */
    (void)fv_weights_find(name, &type);
    if (s != FV_OK) code = cli_report(ctx, s, in);
    else if (is_perceptual) code = convert_perceptual(ctx, a, in, model, type);
    else if (fv_wan_is_checkpoint(model) && !a->weights)
        code = convert_wan(ctx, a, in, model, type);
    else if (a->base || a->context || a->prune > 0)
        code = cli_fail(CLI_USAGE, "--base, --context, --prune: %s is not the transformer of Wan2.1",
                        in);
    else if (a->weights) code = cli_fail(CLI_USAGE, "--weights: %s holds no features of VGG-16 or "
                                         "AlexNet", in);
    else if (fv_sr_is_model(model)) code = convert_sr(ctx, a, in, model, type);
    else if (fv_ar_is_checkpoint(model) && !fv_rdvq_is_checkpoint(model)) /* that has codes too */
        code = convert_ar(ctx, a, in, model, type);
    else code = convert_other(ctx, a, in, model, type);
    if (code == CLI_OK) cli_note("%s: written as %s", a->out, name);
    fv_model_close(&model);
    return code;
}

int fovea_convert(int argc, char **argv)
{
    convert_args a = {.out = NULL};
    const cli_option options[] = {
        {'o', NULL, "FILE", "the model to write (needed)", CLI_STRING, &a.out, 0, 0},
        {0, "vae", "FILE", "autoencoder to put into the model", CLI_STRING, &a.vae, 0, 0},
        {0, "tokenizer", "FILE", "tokenizer to put into a generator", CLI_STRING, &a.tokenizer, 0,
         0},
        {0, "draft", "FILE", "draft head to put into a generator; draft of PS-SR", CLI_STRING,
         &a.draft, 0, 0},
        {0, "base", "FILE", "PS-SR: what turns Wan2.1's transformer into the base", CLI_STRING,
         &a.base, 0, 0},
        {0, "context", "FILE", "PS-SR: the encoded prompt", CLI_STRING, &a.context, 0, 0},
        {0, "prune", "K", "PS-SR: k of the draft's blocks (default: by their number)", CLI_NUMBER,
         &a.prune, 1, 64},
        {0, "grid", "N", "codes a side of an official generator (24, t2i 16)", CLI_INT, &a.grid, 1,
         128},
        {0, "weights", "FILE", "LPIPS or DISTS weights, for features of VGG-16 or AlexNet",
         CLI_STRING, &a.weights, 0, 0},
        {0, "type", "f32|bf16|int8", "type of the matrices (default bf16)", CLI_CHOICE, &a.type, 0,
         0},
        CLI_OPT_FORCE(&a.common),
        CLI_OPT_TALK_END(&a.common)};
    const cli_command command = {"fovea convert",
                                 "[options] IN -o OUT",
                                 "Make one fovea model of an "
                                 "official DiT or LlamaGen checkpoint, a Diffusers file, a "
                                 "fovea model, an OmniZip or an RDVQ checkpoint; of a "
                                 "trained rdvq model the one that codes pictures; of VGG-16 "
                                 "or AlexNet with --weights a perceptual distance; of "
                                 "Wan2.1's transformer with --base and --draft a "
                                 "super-resolution model.",
                                 NULL,
                                 options,
                                 1,
                                 1};
    const cli_verb verb = {&command, &a.common, convert_check, convert, &a};
    return cli_run(&verb, argc, argv);
}

/* ---- fovea new ------------------------------------------------------------------------------- */

typedef struct new_args {
    cli_common common;
    const char *out;
    int classes;
    uint64_t seed;
} new_args;

static int new_check(const void *args, const char *preset)
{
    const new_args *a = args;
    (void)preset;
    return a->out ? CLI_OK : cli_fail(CLI_USAGE, "new: -o FILE is missing");
}

static int new_model(fv_ctx *ctx, const void *args, const char *preset)
{
    const new_args *a = args;
    const int code = cli_check_place(a->out, a->common.force);
    if (code != CLI_OK) return code;
    const bool is_ar = strncasecmp(preset, "ar-", 3) == 0 || strncasecmp(preset, "gpt-", 4) == 0 ||
                       strncasecmp(preset, "vq-", 3) == 0;
    const bool is_sr = strncasecmp(preset, "pssr-", 5) == 0;
    const bool is_wan = strncasecmp(preset, "wan-", 4) == 0;
    const fv_status s =
        is_wan  ? fv_wan_random(ctx, preset, a->seed, a->out, a->common.force)
        : is_sr ? fv_sr_random(ctx, preset, a->seed, a->out, a->common.force)
        : is_ar ? fv_ar_random(ctx, preset, a->classes, a->seed, a->out, a->common.force)
                : fv_dit_random(ctx, preset, a->classes, a->seed, a->out, a->common.force);
    if (s != FV_OK) return cli_report(ctx, s, NULL);
    cli_note("%s: %s with random weights", a->out, preset);
    return CLI_OK;
}

int fovea_new(int argc, char **argv)
{
    new_args a = {.classes = 10, .seed = 1};
    const cli_option options[] = {
        {'o', NULL, "FILE", "the model to write (needed)", CLI_STRING, &a.out, 0, 0},
        {0, "seed", "N", "of the random weights (default 1)", CLI_U64, &a.seed, 0, 0},
        {0, "classes", "N", "number of classes (default 10)", CLI_INT, &a.classes, 1, 100000},
        CLI_OPT_FORCE(&a.common),
        CLI_OPT_THREADS(&a.common),
        CLI_OPT_TALK_END(&a.common)};
    const cli_command command = {"fovea new",
                                 "[options] PRESET -o FILE",
                                 "Write a model with random weights, for benchmarks and tests.",
                                 "Presets: F32 F64c F64 F128 F128L, DiT-{S,B,L,XL}/{2,4,8};\n"
                                 "ar-nano ar-xs ar-s ar-s24 ar-m, GPT-{B,L,XL,XXL,3B}[-t2i]\n"
                                 "[/256,/384,/512], and tokenizers vq-s8 vq-m8 VQ-16 VQ-8;\n"
                                 "super-resolution pssr-{nano,tiny,small,large}[-video],\n"
                                 "wan-{nano,1.3b}.\n",
                                 options,
                                 1,
                                 1};
    const cli_verb verb = {&command, &a.common, new_check, new_model, &a};
    return cli_run(&verb, argc, argv);
}

/* ---- Verbs ----------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} verbs[] = {
    {"train", fovea_train},
    {"convert", fovea_convert},
    {"new", fovea_new},
    {"prune", fovea_prune},
    {"distill", fovea_distill},
    {"bench", fovea_bench},
};
#define MISSING "a verb is missing: train, convert, new, prune, distill or bench"
#define VERBS ((int)(sizeof verbs / sizeof *verbs))

int main(int argc, char **argv)
{
    const cli_option options[] = {CLI_OPT_END};
    const cli_command command = {"fovea",
                                 "train|convert|new|prune|distill|bench [options]",
                                 "Train, convert and measure models.",
                                 "fovea train RECIPE       train a model\n"
                                 "fovea convert IN -o OUT  make a fovea model of another file\n"
                                 "fovea new PRESET -o OUT  a model with random weights\n"
                                 "fovea prune MODEL -o OUT a model with parts of another\n"
                                 "fovea distill -o OUT     train a small model on a large one\n"
                                 "fovea bench WHAT         measure: gemm dit train quality "
                                 "speedup accel\n"
                                 "                         ar ar-speed vzip pic pic-speed sr ranks\n"
                                 "Each verb has its own --help.\n",
                                 options,
                                 0,
                                 0};
    const char *names[VERBS + 1] = {NULL};
    fv_ctx *none = NULL;
    cli_setup("fovea", argv);
    for (int i = 0; i < VERBS; i++) {
        names[i] = verbs[i].name;
        if (argc > 1 && strcmp(argv[1], verbs[i].name) == 0)
            return verbs[i].run(argc - 1, argv + 1);
    }
    if (argc < 2) return cli_fail(CLI_USAGE, MISSING);
    if (argv[1][0] != '-') {
        const char *near = cli_nearest(argv[1], names);
        return cli_fail(CLI_USAGE, "unknown verb \"%s\"%s%s (fovea --help)", argv[1],
                        near ? ", did you mean " : "", near ? near : "");
    }
    int files;
    const int code = cli_parse(&command, argc, argv, NULL, &files);
    if (code >= 0) return cli_finish(&none, code);
    return cli_fail(CLI_USAGE, MISSING);
}
