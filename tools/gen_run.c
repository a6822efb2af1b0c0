/* gen_run.c - gen without a verb: options -> pictures -> files.
 *
 * The file of the model decides what makes the pictures (gen_kind); names, classes, files, progress
 * and the report are the same for all. Everything that can be refused is refused before the first
 * step. */
#include "gen_run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- What is made ---------------------------------------------------------------------------- */

static int find_class(gen_run *r, int *out)
{
    const char *name = r->a->class_name;
    const fv_status s = r->model.is_ar ? fv_ar_class_find(r->ctx, r->model.ar, name, out)
                                       : fv_dit_class_find(r->ctx, r->model.dit, name, out);
    return s == FV_OK ? CLI_OK : cli_report(r->ctx, s, "--class");
}

/* Without --class the pictures go through the classes, beginning with the seed's. */
static int choose_classes(gen_run *r)
{
    const gen_args *a = r->a;
    const int classes = r->model.classes;
    const bool is_all = classes > 0 && a->class_name && strcmp(a->class_name, "all") == 0;
    const int64_t count = is_all ? (int64_t)classes * a->n : a->n;
    int one = 0;
    if (count > GEN_MAX_PICTURES)
        return cli_fail(CLI_USAGE, "%lld pictures are too many: %d at most", (long long)count,
                        GEN_MAX_PICTURES);
    if (a->class_name && !is_all) {
        const int code = find_class(r, &one);
        if (code != CLI_OK) return code;
    }
    r->count = (int)count;
    r->classes = malloc((size_t)count * sizeof *r->classes);
    r->images = calloc((size_t)count, sizeof *r->images);
    if (!r->classes || !r->images) return cli_fail(CLI_FAILED, "out of memory");
    for (int i = 0; i < r->count; i++) {
        if (is_all) r->classes[i] = i / a->n;
        else if (a->class_name || classes == 0) r->classes[i] = one;
        else r->classes[i] = (int)((a->seed + (uint64_t)i) % (uint64_t)classes);
    }
    return CLI_OK;
}

/* ---- Report ---------------------------------------------------------------------------------- */

static void print_json(const gen_run *r)
{
    const gen_comparison *c = r->a->has_compare ? &r->comparison : NULL;
    gen_texts t;
    cli_json j;
    gen_describe(r, 0, r->count, &t);
    cli_json_open(&j, stdout);
    cli_json_string(&j, "version", fv_version_string());
    cli_json_string(&j, "model", r->model.name);
    cli_json_string(&j, "model_sha256", r->model.hash);
    cli_json_string(&j, "class", t.class_text);
    cli_json_u64(&j, "seed", r->a->seed);
    cli_json_u64(&j, "count", (uint64_t)r->count);
    cli_json_string(&j, "precision", fv_dtype_name(r->model.precision));
    cli_json_u64(&j, "threads", (uint64_t)fv_ctx_threads(r->ctx));
    cli_json_number(&j, "speedup_requested", r->a->speedup > 0 ? r->a->speedup : NAN);
    cli_json_number(&j, "psnr_db", c ? c->psnr_db : NAN);
    cli_json_number(&j, "ssim", c ? c->ssim : NAN);
    cli_json_key(&j, "identical");
    fputs(!c ? "null" : c->is_identical ? "true" : "false", j.to);
    cli_json_number(&j, "seconds", r->seconds);
    cli_json_number(&j, "seconds_exact", c ? c->exact_seconds : NAN);
    r->kind->print_json(r, &j);
    cli_json_u64(&j, "resident_bytes", cli_resident_peak());
    cli_json_strings(&j, "files", r->file, r->file_count);
    cli_json_close(&j);
}

static void print_comparison(const gen_run *r)
{
    const gen_comparison *c = &r->comparison;
    printf("exact %.3f s, accelerated %.3f s: %.2fx", c->exact_seconds, c->fast_seconds,
           c->speedup);
    if (r->a->speedup > 0) printf(" (%gx asked)", r->a->speedup);
    if (c->is_identical) printf(", identical pictures\n");
    else printf(", PSNR %.2f dB, SSIM %.4f\n", c->psnr_db, c->ssim);
}

static void print_text(const gen_run *r)
{
    gen_texts t;
    char about[300];
    gen_describe(r, 0, r->count, &t);
    if (r->a->has_compare && r->out != GEN_OUT_STDOUT) print_comparison(r);
    r->kind->about(r, about, sizeof about);
    cli_note("%s: %d picture%s (class %s) in %.2f s: %s, seed %s",
             r->out == GEN_OUT_STDOUT ? "standard output" : r->a->out, r->count,
             r->count == 1 ? "" : "s", t.class_text, r->seconds, about, t.seed);
    r->kind->print_details(r);
}

static int report(gen_run *r)
{
    if (r->a->common.json) print_json(r);
    else print_text(r);
    return CLI_OK;
}

/* ---- All of it ------------------------------------------------------------------------------- */

static int open_file(gen_run *r)
{
    int code = gen_open_file(r->ctx, &r->model, r->a->model);
    if (code == CLI_OK) code = gen_refuse_checkpoint(&r->model);
    r->kind = r->model.is_ar ? &gen_kind_ar : &gen_kind_dit;
    return code;
}

static int run_steps(gen_run *r)
{
    int code = open_file(r);
    const gen_kind *k = r->kind;
    int (*const step[])(gen_run *) = {
        k->check,   gen_check_output, k->open,       choose_classes, gen_name_files,
        k->prepare, k->generate,      gen_write_all, k->finish,      report};
    for (size_t i = 0; i < sizeof step / sizeof *step && code == CLI_OK; i++) code = step[i](r);
    return code;
}

static void run_free(gen_run *r)
{
    for (int i = 0; r->images && i < r->count; i++) fv_image_free(r->ctx, &r->images[i]);
    fv_image_free(r->ctx, &r->sheet);
    r->kind->end(r);
    gen_close(&r->model);
    for (int i = 0; i < r->file_count; i++) free(r->file[i]);
    free(r->file);
    free(r->images);
    free(r->classes);
}

static int check_args(const gen_args *a)
{
    if (a->sheet && !a->has_compare) return cli_fail(CLI_USAGE, "--side-by-side needs --compare");
    if (a->sheet && !cli_has_picture_suffix(a->sheet) && !cli_is_special(a->sheet))
        return cli_fail(CLI_USAGE, "--side-by-side %s: use .png .jpg .webp or .ppm", a->sheet);
    return CLI_OK;
}

static const char more[] =
    "-o x.png is one picture or a grid, -o folder/ one file each, -o - PNG to stdout.\n"
    "Each verb has its own --help; man gen has the methods of --accel and --mode.\n";

int gen_pictures(int argc, char **argv)
{
    gen_args a = {.n = 1, .out = "gen.png", .temperature = -1, .top_k = -1};
    const cli_option options[] = {
        {0, "model", "FILE", "model (default: the embedded one)", CLI_STRING, &a.model, 0, 0},
        {0, "class", "NAME|N|all", "class of the pictures", CLI_STRING, &a.class_name, 0, 0},
        {'n', NULL, "K", "number of pictures (with all: of each class)", CLI_INT, &a.n, 1,
         GEN_MAX_PICTURES},
        {0, "seed", "N", "picture i starts from seed N+i (default 0)", CLI_U64, &a.seed, 0, 0},
        GEN_OPT_SAMPLING(&a.sampling),
        {0, "speedup", "R", "be R times faster, as in 2x", CLI_RATIO, &a.speedup, 1, 1000},
        {0, "polish", "N", "with --speedup: N trials to improve the plan", CLI_INT, &a.polish, 0,
         100000},
        {0, "accel", "NAME", "with --speedup: how to plan; else a method of others", CLI_STRING,
         &a.accel, 0, 0},
        {0, "guard", "TAU", "mend the plan for unusual inputs; try 1.3", CLI_NUMBER, &a.guard, 0,
         1000},
        {0, "cache-mem", "SIZE", "with --speedup: most memory for reuse, as 64M", CLI_STRING,
         &a.cache_mem, 0, 0},
        {0, "compare", NULL, "also run exactly, report speed-up, PSNR, SSIM", CLI_FLAG,
         &a.has_compare, 0, 0},
        {0, "side-by-side", "FILE", "with --compare: exact, fast, difference", CLI_STRING, &a.sheet,
         0, 0},
        {0, "table", "FILE", "sensitivity table (default: beside the model)", CLI_STRING, &a.table,
         0, 0},
        {0, "plan-out", "FILE", "write the plan of --speedup", CLI_STRING, &a.plan_out, 0, 0},
        {0, "plan-in", "FILE", "use this plan", CLI_STRING, &a.plan_in, 0, 0},
        {0, "decoder", "FILE", "autoencoder of a latent model", CLI_STRING, &a.decoder, 0, 0},
        {0, "mode", "MODE", "ar, sd, vvs, jacobi (default: the fastest exact way)", CLI_STRING,
         &a.mode, 0, 0},
        {0, "temperature", "X", "of an AR model's tokens; 0 = the likeliest", CLI_NUMBER,
         &a.temperature, 0, 100},
        {0, "top-k", "N", "only the N likeliest tokens; 0 = all", CLI_INT, &a.top_k, 0, 1000000},
        {0, "top-p", "X", "only the likeliest that hold X of the mass; 1 = all", CLI_NUMBER,
         &a.top_p, 0.001, 1},
        {0, "kv", "f32|bf16|int8", "type of an AR model's keys and values", CLI_CHOICE, &a.kv, 0,
         0},
        {0, "tokenizer", "FILE", "tokenizer of an AR model without one", CLI_STRING, &a.tokenizer,
         0, 0},
        {0, "caption", "FILE", "features for an AR model of captions", CLI_STRING, &a.caption, 0,
         0},
        {'o', NULL, "FILE|DIR/", "output (default gen.png)", CLI_STRING, &a.out, 0, 0},
        {0, "grid", NULL, "with -o folder/: also grid.png", CLI_FLAG, &a.has_grid, 0, 0},
        CLI_OPT_FORCE(&a.common),
        CLI_OPT_THREADS(&a.common),
        CLI_OPT_DEVICE(&a.common),
        {0, "precision", "f32|bf16|fp8|int8", "default: bf16 where the CPU has it", CLI_CHOICE,
         &a.common.precision, 0, 0},
        CLI_OPT_JSON(&a.common),
        CLI_OPT_TALK_END(&a.common)};
    const cli_command command = {"gen",
                                 "[options]\ninfo|calibrate|explain [options]",
                                 "Make pictures with a diffusion transformer or an "
                                 "autoregressive (AR) model.",
                                 more,
                                 options,
                                 0,
                                 0};
    gen_run r = {.a = &a};
    int files;
    int code = cli_parse(&command, argc, argv, NULL, &files);
    if (code >= 0) return cli_finish(&r.ctx, code);
    if ((code = check_args(&a)) != CLI_OK) return code;
    if ((code = cli_start(&r.ctx, &a.common)) != CLI_OK) return code;
    code = run_steps(&r);
    run_free(&r);
    return cli_finish(&r.ctx, code);
}
