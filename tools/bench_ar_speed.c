/* bench_ar_speed.c - `fovea bench ar-speed`: plain decoding of one picture against what memory and
 * arithmetic allow, and what passes of several tokens cost beside one. */
#include "bench_ar_speed.h"

#include <string.h>

#include "cli.h"
#include "fovea_ar.h"

typedef struct speed_args {
    cli_common common;
    const char *precision, *kv, *clock;
    int tokens, rounds;
    double cfg;
} speed_args;

/* One of the choices, f32 without one. */
static fv_dtype type_of(const char *name)
{
    fv_dtype type = FV_F32;
    (void)fv_weights_find(name, &type);
    return type;
}

static int measure(fv_ctx *ctx, const speed_args *a, const char *path, fv_ar_speed *out,
                   fv_ar_info *info)
{
    fv_ar_options how = FV_AR_OPTIONS_INIT;
    fv_ar_speed_options o = FV_AR_SPEED_OPTIONS_INIT;
    fv_model *file = NULL;
    fv_ar *ar = NULL;
    how.precision = type_of(a->precision);
    o.kv = type_of(a->kv);
    o.cfg = (float)a->cfg;
    o.tokens = a->tokens;
    o.rounds = a->rounds;
    o.is_cpu_time = a->clock && strcmp(a->clock, "cpu") == 0;
    fv_status s = fv_model_open(ctx, &file, path, NULL);
    if (s == FV_OK) s = fv_ar_open(ctx, &ar, file, &how);
    if (s == FV_OK) {
        fv_ar_get_info(ar, info);
        s = fv_ar_measure(ctx, ar, &o, out);
    }
    const int code = s == FV_OK ? CLI_OK : cli_report(ctx, s, path);
    info->name = NULL; /* the model's */
    fv_ar_close(&ar);
    fv_model_close(&file);
    cli_progress_clear();
    return code;
}

static void print_json(fv_ctx *ctx, const speed_args *a, const char *path, const fv_ar_speed *r)
{
    cli_json j;
    cli_json_open(&j, stdout);
    cli_json_string(&j, "bench", "ar-speed");
    cli_json_string(&j, "model", path);
    cli_json_string(&j, "precision", fv_weights_name(type_of(a->precision)));
    cli_json_string(&j, "kv", fv_weights_name(type_of(a->kv)));
    cli_json_string(&j, "clock", a->clock ? a->clock : "wall");
    cli_json_u64(&j, "threads", (uint64_t)fv_ctx_threads(ctx));
    cli_json_u64(&j, "tokens", (uint64_t)r->tokens);
    cli_json_u64(&j, "rows", (uint64_t)r->rows);
    cli_json_number(&j, "token_seconds", r->token_seconds);
    cli_json_number(&j, "tokens_per_second", 1 / r->token_seconds);
    cli_json_number(&j, "draw_seconds", r->draw_seconds);
    cli_json_number(&j, "bytes", r->bytes);
    cli_json_number(&j, "operations", r->operations);
    cli_json_number(&j, "bytes_per_second", r->bytes_a_second);
    cli_json_number(&j, "operations_per_second", r->operations_a_second);
    cli_json_number(&j, "roofline", r->roofline);
    cli_json_key(&j, "passes");
    for (int i = 0; i < FV_AR_SPEED_POINTS; i++)
        printf("%s{\"tokens\": %d, \"seconds\": %.9g, \"ratio\": %.4g}", i ? ", " : "[",
               r->pass_rows[i], r->pass_seconds[i], r->pass_seconds[i] / r->pass_seconds[0]);
    printf("]");
    cli_json_number(&j, "draft_feed_seconds", r->draft_feed_seconds);
    cli_json_number(&j, "draft_level_seconds", r->draft_level_seconds);
    cli_json_close(&j);
}

static void print_text(fv_ctx *ctx, const speed_args *a, const char *path, const fv_ar_speed *r)
{
    char cpu[128], name[256];
    cli_cpu_name(cpu, sizeof cpu);
    cli_printable(path, name, sizeof name);
    printf("%s, weights %s, keys and values %s, %d threads, %s\n", name,
           fv_weights_name(type_of(a->precision)), fv_weights_name(type_of(a->kv)),
           fv_ctx_threads(ctx), cpu);
    printf("plain decoding, %d rows a token, the first %d tokens, medians of %d rounds%s\n\n",
           r->rows, r->tokens, a->rounds,
           a->clock && strcmp(a->clock, "cpu") == 0 ? ", processor time" : "");
    printf("token      %9.3f ms  %.1f tokens/s; the draw is %.4f ms of it\n",
           1e3 * r->token_seconds, 1 / r->token_seconds, 1e3 * r->draw_seconds);
    printf("reading    %9.3f ms  %.1f MB at %.1f GB/s\n", 1e3 * r->bytes / r->bytes_a_second,
           1e-6 * r->bytes, 1e-9 * r->bytes_a_second);
    printf("arithmetic %9.3f ms  %.1f M operations at %.1f G/s\n",
           1e3 * r->operations / r->operations_a_second, 1e-6 * r->operations,
           1e-9 * r->operations_a_second);
    printf("roofline   %9.0f %%   the longer of the two / token\n\n", 100 * r->roofline);
    for (int i = 0; i < FV_AR_SPEED_POINTS; i++)
        printf("a pass of %2d  %9.3f ms  %5.2f times one\n", r->pass_rows[i],
               1e3 * r->pass_seconds[i], r->pass_seconds[i] / r->pass_seconds[0]);
    if (r->draft_feed_seconds > 0)
        printf("draft: first guess %.3f ms, each further level %.3f ms: %.2f and %.2f of a pass\n",
               1e3 * r->draft_feed_seconds, 1e3 * r->draft_level_seconds,
               r->draft_feed_seconds / r->pass_seconds[0],
               r->draft_level_seconds / r->pass_seconds[0]);
}

static int run(fv_ctx *ctx, const void *args, const char *path)
{
    const speed_args *a = args;
    fv_ar_speed r;
    fv_ar_info info;
    const int code = measure(ctx, a, path, &r, &info);
    if (code != CLI_OK) return code;
    if (a->common.json) print_json(ctx, a, path, &r);
    else print_text(ctx, a, path, &r);
    return CLI_OK;
}

static int check(const void *args, const char *path)
{
    const speed_args *a = args;
    if (!path) return cli_fail(CLI_USAGE, "bench ar-speed: a model file is missing");
    if (a->clock && strcmp(a->clock, "cpu") == 0 && a->common.threads != 1)
        return cli_fail(CLI_USAGE, "--clock cpu is for --threads 1");
    return CLI_OK;
}

int bench_ar_speed(int argc, char **argv)
{
    speed_args a = {.tokens = 64, .rounds = 5};
    const cli_option options[] = {
        {0, "tokens", "N", "timed in a round, from the picture's start (default 64)", CLI_INT,
         &a.tokens, 1, 16384},
        {0, "rounds", "N", "medians of so many (default 5)", CLI_INT, &a.rounds, 1, 101},
        {0, "cfg", "X", "guidance scale; 1 = off, one row a token", CLI_NUMBER, &a.cfg, 1, 1000},
        {0, "kv", "f32|bf16|int8", "type of keys and values", CLI_CHOICE, &a.kv, 0, 0},
        {0, "clock", "wall|cpu", "cpu: processor time, for busy machines", CLI_CHOICE, &a.clock, 0,
         0},
        CLI_OPT_THREADS(&a.common),
        CLI_OPT_DEVICE(&a.common),
        {0, "precision", "f32|bf16|int8", "of the weights", CLI_CHOICE, &a.precision, 0, 0},
        CLI_OPT_JSON(&a.common),
        CLI_OPT_TALK_END(&a.common)};
    const cli_command command = {
        .name = "fovea bench ar-speed",
        .usage = "MODEL [options]",
        .about = "Speed of decoding an autoregressive model: plain decoding of one picture against "
                 "what memory and arithmetic allow, measured in the same run, and passes of "
                 "several tokens, which speculative decoding is made of.",
        .options = options,
        .max_files = 1};
    const cli_verb verb = {&command, &a.common, check, run, &a};
    return cli_run(&verb, argc, argv);
}
