/* bench_quality.c - `fovea bench quality`: are accelerated samples as good as exact ones?
 *
 *     real      held-out pictures through the classifier: what accuracy means here
 *     exact A   seeds s, s+1, ...          accuracy, distance to real pictures
 *     exact B   the next seeds             distance A-B: the noise floor of all distances below
 *     R x       seeds of A, plan for R     accuracy, distance to real pictures, distance to B
 *
 * A plan is compared with B, not with A: it starts from the noise of A, so that its distance to A
 * would be smaller than that of two independent exact runs and hide an error.
 *
 * The real reference has equally many pictures of every class (as the samples have), or all of a
 * class that has fewer; held-out and training pictures together. */
#include "bench_quality.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench_common.h"

#define MAX_SETTINGS 16 /* exact, and those of bench_ratios */
#define READ_ROWS 32
#define SOLVE_COUNT 8 /* pictures of the runs that correct a plan against the clock */

typedef struct quality_args {
    cli_common common;
    const char *model, *classifier, *data_dir, *recipe, *table, *speedup;
    bench_sampling sampling;
    int samples;
    uint64_t seed;
} quality_args;

/* One line of the table. */
typedef struct setting {
    double requested, measured;
    int anchors; /* full steps; 0 = exact */
    fv_dit_quality_result result;
    double to_exact;
} setting;

typedef struct bench {
    const quality_args *a;
    fv_ctx *ctx;
    bench_model model;
    fv_model *judge_file;
    fv_classifier *judge;
    fv_classifier_info judge_info;
    fv_recipe *recipe;
    fv_generate_options gen;
    fv_sens *sens;
    fv_timing *timing;
    fv_class_score held, *held_class; /* [judge classes] */
    float *real;                      /* [real_count, features] */
    int64_t real_count;
    setting set[MAX_SETTINGS];
    int count;
    fv_dit_quality_result other; /* exact B */
} bench;

/* ---- Arguments ------------------------------------------------------------------------------- */

/* The exact run is always first. */
static int read_settings(bench *b)
{
    bench_ratios r;
    const int code = bench_read_ratios(b->a->speedup, &r);
    b->set[b->count++].requested = 1;
    for (int i = 0; code == CLI_OK && i < r.count; i++)
        b->set[b->count++].requested = r.ratio[i];
    return code;
}

static int open_files(bench *b)
{
    const quality_args *a = b->a;
    const int code =
        bench_open(b->ctx, &b->model, a->model, cli_precision(b->ctx, &a->common));
    if (code != CLI_OK) return code;
    fv_status s = fv_model_open(b->ctx, &b->judge_file, a->classifier, NULL);
    if (s == FV_OK) s = fv_classifier_open(b->ctx, &b->judge, b->judge_file);
    if (s != FV_OK) return cli_report(b->ctx, s, a->classifier);
    fv_classifier_get_info(b->judge, &b->judge_info);
    if (b->judge_info.size != b->model.info.image_size)
        return cli_fail(CLI_BAD_INPUT, "%s: takes pictures of %d pixels, the model makes %d",
                        a->classifier, b->judge_info.size, b->model.info.image_size);
    s = fv_recipe_read(b->ctx, &b->recipe, a->recipe);
    return s == FV_OK ? CLI_OK : cli_report(b->ctx, s, a->recipe);
}

/* ---- Real pictures --------------------------------------------------------------------------- */

static fv_status open_data(bench *b, fv_dataset **out, fv_split split)
{
    return fv_dataset_from_recipe(b->ctx, out, b->recipe, b->a->data_dir, b->judge_info.size,
                                  split);
}

static fv_status score_held_out(bench *b)
{
    fv_dataset *ds;
    b->held_class = calloc((size_t)b->judge_info.classes, sizeof *b->held_class);
    if (!b->held_class) return FV_ERR_OOM;
    fv_status s = open_data(b, &ds, FV_SPLIT_HELDOUT);
    if (s == FV_OK)
        s = fv_classifier_score(b->ctx, b->judge, ds, &b->held, b->held_class, NULL);
    fv_dataset_close(&ds);
    return s;
}

/* Walks the set in random order until every class has its share. */
static fv_status read_reference(bench *b, fv_dataset *ds, float *rows, int *left)
{
    const uint64_t n = fv_dataset_count(ds);
    const size_t pixels = (size_t)b->judge_info.size * (size_t)b->judge_info.size * 3;
    const int dim = b->judge_info.features;
    int waiting = 0;
    for (uint64_t i = 0; i <= n; i++) {
        int32_t label;
        if (waiting == READ_ROWS || (i == n && waiting > 0)) {
            const fv_status s = fv_classifier_run(b->ctx, b->judge, rows, waiting, NULL,
                                                  b->real + b->real_count * dim);
            if (s != FV_OK) return s;
            b->real_count += waiting;
            waiting = 0;
        }
        if (i == n) break;
        const uint64_t at = fv_rand_permute(b->a->seed, 0, n, i);
        const fv_status s = fv_dataset_get(ds, at, rows + (size_t)waiting * pixels, &label);
        if (s == FV_ERR_FORMAT) continue; /* an unreadable picture */
        if (s != FV_OK) return s;
        if (left[label] > 0) {
            left[label]--;
            waiting++;
        }
    }
    return FV_OK;
}

static fv_status make_reference(bench *b)
{
    fv_dataset *ds;
    fv_status s = open_data(b, &ds, FV_SPLIT_ALL);
    if (s != FV_OK) return s;
    const int classes = fv_dataset_classes(ds);
    const int share = (b->a->samples + classes - 1) / classes;
    const size_t pixels = (size_t)b->judge_info.size * (size_t)b->judge_info.size * 3;
    int *left = calloc((size_t)classes, sizeof *left);
    float *rows = calloc(READ_ROWS * pixels, sizeof *rows);
    b->real = calloc((size_t)share * (size_t)classes,
                     (size_t)b->judge_info.features * sizeof *b->real);
    for (int i = 0; left && i < classes; i++) left[i] = share;
    s = left && rows && b->real ? read_reference(b, ds, rows, left) : FV_ERR_OOM;
    free(rows);
    free(left);
    fv_dataset_close(&ds);
    return s;
}

/* ---- Plans ----------------------------------------------------------------------------------- */

static fv_status make_plan(bench *b, double speedup, fv_accel **out)
{
    fv_generate_options o = b->gen;
    o.count = SOLVE_COUNT;
    o.seed = b->a->seed;
    return bench_solve(b->ctx, &b->model, &o, b->sens, speedup, &b->timing, out);
}

/* ---- Runs ------------------------------------------------------------------------------------ */

static fv_status judge(bench *b, const fv_accel *accel, uint64_t seed, fv_dit_quality_result *out)
{
    fv_dit_quality_options o = FV_DIT_QUALITY_OPTIONS_INIT;
    o.gen = b->gen;
    o.gen.accel = accel;
    o.samples = b->a->samples;
    o.seed = seed;
    o.reference = b->real;
    o.reference_count = b->real_count;
    return fv_dit_quality(b->ctx, b->model.dit, b->judge, &o, out);
}

static fv_status run_setting(bench *b, setting *t)
{
    fv_accel *accel = NULL;
    fv_accel_info info = { 0 };
    fv_status s = FV_OK;
    if (t->requested > 1) {
        cli_detail("planning %gx", t->requested);
        s = make_plan(b, t->requested, &accel);
        if (s == FV_OK) fv_accel_get_info(accel, &info);
        t->anchors = info.anchors;
    }
    cli_detail("%d samples at %gx", b->a->samples, t->requested);
    if (s == FV_OK) s = judge(b, accel, b->a->seed, &t->result);
    if (s == FV_OK)
        s = fv_frechet(b->ctx, t->result.features, b->a->samples, b->other.features,
                       b->a->samples, b->judge_info.features, &t->to_exact);
    if (s == FV_OK) t->measured = b->set[0].result.seconds / t->result.seconds;
    fv_accel_free(&accel);
    return s;
}

static int run_all(bench *b)
{
    fv_status s = score_held_out(b);
    if (s == FV_OK) s = make_reference(b);
    if (s != FV_OK) return cli_report(b->ctx, s, b->a->recipe);
    int code = bench_find_table(b->ctx, &b->model, b->a->table, &b->gen, &b->sens);
    if (code != CLI_OK) return code;
    cli_detail("%d samples, exact, other seeds", b->a->samples);
    s = judge(b, NULL, b->a->seed + (uint64_t)b->a->samples, &b->other);
    for (int i = 0; i < b->count && s == FV_OK; i++) s = run_setting(b, &b->set[i]);
    if (s == FV_OK) return CLI_OK;
    code = cli_report(b->ctx, s, b->a->model);
    return s == FV_ERR_ARG ? CLI_FAILED : code; /* a ratio out of reach is not wrong usage */
}

/* ---- Output ---------------------------------------------------------------------------------- */

static double share_of(fv_class_score s)
{
    return s.count ? (double)s.correct / (double)s.count : NAN;
}

static fv_class_score held_of(const bench *b, int model_class)
{
    const int k = fv_classifier_class_find(b->judge, fv_dit_class_name(b->model.dit, model_class));
    return k < 0 ? (fv_class_score){ 0 } : b->held_class[k];
}

static void print_classes(const bench *b)
{
    printf("\n%-24s %8s", "class", "real");
    for (int i = 0; i < b->count; i++) printf(" %7gx", b->set[i].requested);
    printf("\n");
    for (int k = 0; k < b->model.info.classes; k++) {
        char name[64];
        cli_printable(fv_dit_class_name(b->model.dit, k), name, sizeof name);
        printf("%-24s %7.1f%%", name, 100 * share_of(held_of(b, k)));
        for (int i = 0; i < b->count; i++)
            printf(" %7.1f%%", 100 * share_of(b->set[i].result.per_class[k]));
        printf("\n");
    }
}

static void print_text(const bench *b)
{
    const double held = share_of(b->held);
    printf("real held-out pictures: %llu, recognised %.2f %% (reference: %lld pictures)\n",
           (unsigned long long)b->held.count, 100 * held, (long long)b->real_count);
    printf("samples: %d a setting, classes in turn, seeds from %llu\n\n", b->a->samples,
           (unsigned long long)b->a->seed);
    printf("%-8s %9s %8s %10s %7s %9s %9s\n", "setting", "measured", "seconds", "recognised",
           "ratio", "to real", "to exact");
    for (int i = 0; i < b->count; i++) {
        const setting *t = &b->set[i];
        char name[32];
        snprintf(name, sizeof name, "%gx", t->requested);
        printf("%-8s %8.2fx %8.1f %9.2f%% %7.3f %9.4f %9.4f\n", i ? name : "exact", t->measured,
               t->result.seconds, 100 * t->result.accuracy, t->result.accuracy / held,
               t->result.frechet, t->to_exact);
    }
    printf("\nto exact: Frechet distance to an exact run with other seeds; noise floor %.4f\n",
           b->set[0].to_exact);
    if (b->a->common.verbose) print_classes(b);
}

static void json_value(double value)
{
    if (isfinite(value)) printf("%.9g", value);
    else printf("null");
}

static void json_field(const char *key, double value, const char *before)
{
    printf("%s\"%s\": ", before, key);
    json_value(value);
}

static void json_setting(const bench *b, const setting *t)
{
    printf("    { ");
    json_field("speedup_requested", t->requested, "");
    json_field("speedup_measured", t->measured, ", ");
    json_field("full_steps", t->anchors ? t->anchors : NAN, ", ");
    json_field("seconds", t->result.seconds, ", ");
    json_field("accuracy", t->result.accuracy, ", ");
    json_field("accuracy_ratio", t->result.accuracy / share_of(b->held), ", ");
    json_field("frechet_to_real", t->result.frechet, ", ");
    json_field("frechet_to_exact", t->to_exact, ", ");
    printf(", \"class_accuracy\": {");
    for (int k = 0; k < b->model.info.classes; k++) {
        printf("%s", k ? ", " : " ");
        cli_json_text(stdout, fv_dit_class_name(b->model.dit, k));
        printf(": ");
        json_value(share_of(t->result.per_class[k]));
    }
    printf(" } }");
}

static void print_json(const bench *b)
{
    cli_json j;
    cli_json_open(&j, stdout);
    cli_json_string(&j, "model", b->a->model);
    cli_json_string(&j, "classifier", b->a->classifier);
    cli_json_u64(&j, "samples", (uint64_t)b->a->samples);
    cli_json_u64(&j, "seed", b->a->seed);
    cli_json_u64(&j, "real_heldout", b->held.count);
    cli_json_number(&j, "real_heldout_accuracy", share_of(b->held));
    cli_json_u64(&j, "real_reference", (uint64_t)b->real_count);
    cli_json_number(&j, "noise_floor", b->set[0].to_exact);
    cli_json_key(&j, "settings");
    printf("[\n");
    for (int i = 0; i < b->count; i++) {
        json_setting(b, &b->set[i]);
        printf("%s\n", i + 1 < b->count ? "," : "");
    }
    printf("  ]");
    cli_json_close(&j);
}

/* ---- Command --------------------------------------------------------------------------------- */

static void close_bench(bench *b)
{
    for (int i = 0; i < b->count; i++) fv_dit_quality_free(b->ctx, &b->set[i].result);
    fv_dit_quality_free(b->ctx, &b->other);
    fv_timing_free(&b->timing);
    fv_sens_free(&b->sens);
    fv_recipe_close(&b->recipe);
    fv_classifier_close(&b->judge);
    fv_model_close(&b->judge_file);
    bench_close(&b->model);
    free(b->held_class);
    free(b->real);
}

static int parse(quality_args *a, int argc, char **argv)
{
    const cli_option options[] = {
        { 0, "classifier", "FILE", "feature classifier of the model's classes", CLI_STRING,
          &a->classifier, 0, 0 },
        { 0, "recipe", "FILE", "recipe that names the data and classes", CLI_STRING, &a->recipe, 0,
          0 },
        { 0, "data-dir", "DIR", "where the recipe's archives are", CLI_STRING, &a->data_dir, 0, 0 },
        { 0, "samples", "N", "samples a setting (default 2000)", CLI_INT, &a->samples, 2, 1000000 },
        { 0, "speedup", "LIST", "ratios to measure (default 1,2,3)", CLI_STRING, &a->speedup, 0,
          0 },
        { 0, "table", "FILE", "sensitivity table (default: beside the model)", CLI_STRING,
          &a->table, 0, 0 },
        BENCH_OPT_SAMPLING(&a->sampling),
        { 0, "seed", "N", "first seed (default 0)", CLI_U64, &a->seed, 0, 0 },
        CLI_OPT_THREADS(&a->common),
        CLI_OPT_DEVICE(&a->common),
        CLI_OPT_PRECISION(&a->common),
        CLI_OPT_JSON(&a->common),
        CLI_OPT_QUIET(&a->common),
        CLI_OPT_VERBOSE(&a->common),
        CLI_OPT_END
    };
    const cli_command command = {
        .name = "fovea bench quality",
        .usage = "MODEL --classifier FILE --recipe FILE [--data-dir DIR] [--speedup 1,2,3]",
        .about = "Compare exact and accelerated samples: recognised share and Frechet distances.",
        .options = options,
        .min_files = 1,
        .max_files = 1
    };
    int count;
    return cli_parse(&command, argc, argv, &a->model, &count);
}

int bench_quality(int argc, char **argv)
{
    quality_args a = { .samples = 2000, .speedup = "1,2,3" };
    const int parsed = parse(&a, argc, argv);
    if (parsed >= 0) return parsed;
    if (!a.classifier || !a.recipe)
        return cli_fail(CLI_USAGE, "--classifier and --recipe are needed (fovea bench quality "
                                   "--help)");
    bench *b = calloc(1, sizeof *b);
    if (!b) return cli_fail(CLI_FAILED, "out of memory");
    b->a = &a;
    b->gen = (fv_generate_options)FV_GENERATE_OPTIONS_INIT;
    int code = read_settings(b);
    if (code == CLI_OK) code = bench_set_sampling(&a.sampling, &b->gen);
    if (code == CLI_OK) code = cli_start(&b->ctx, &a.common);
    if (b->ctx) {
        if (code == CLI_OK) code = open_files(b);
        if (code == CLI_OK) code = run_all(b);
        cli_progress_clear();
        if (code == CLI_OK && a.common.json) print_json(b);
        else if (code == CLI_OK) print_text(b);
        close_bench(b);
        code = cli_finish(&b->ctx, code);
    }
    free(b);
    return code;
}
