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
 * All settings advance together, a round of ROUND samples at a time, and the measured ratio is the
 * median over the rounds of exact time / time of the setting: a long run passes through other clock
 * speeds and other load, and settings that ran one after another were off by 6 % from the pairs of
 * `fovea bench speedup`. Only features are kept of a round, no pictures.
 *
 * The real reference has equally many pictures of every class (as the samples have), or all of a
 * class that has fewer; held-out and training pictures together. */
#include "bench_quality.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench_common.h"
#include "bench_judge.h"

#define MAX_SETTINGS 16 /* exact, and those of bench_ratios */
#define ROUND 128 /* samples of a setting between two turns */
#define WEAK 0.8  /* a class is weak below this share of what real pictures reach */

typedef struct quality_args {
    cli_common common;
    const char *model, *classifier, *data_dir, *recipe, *table, *speedup, *plan_in;
    bench_sampling sampling;
    int samples, batch;
    uint64_t seed;
} quality_args;

/* One line of the table; exact B is one that is not shown. */
typedef struct setting {
    double requested, measured;
    int anchors; /* full steps; 0 = exact */
    fv_accel *accel;
    uint64_t seed;
    double seconds;                   /* of generating */
    double *round;                    /* [rounds] seconds */
    float *features;                  /* [samples, judge features] */
    fv_class_score total, *per_class; /* [model classes] */
    double to_real, to_exact;
} setting;

typedef struct bench {
    const quality_args *a;
    fv_ctx *ctx;
    bench_model model;
    bench_judge judge;
    fv_recipe *recipe;
    fv_generate_options gen;
    fv_sens *sens;
    fv_timing *timing;
    fv_class_score held, *held_class; /* [judge classes] */
    setting set[MAX_SETTINGS + 1]; /* the last one in use is exact B */
    int count;                     /* without exact B */
    int rounds, done;              /* done: samples of all settings */
    double start;
} bench;

/* ---- Arguments ------------------------------------------------------------------------------- */

/* The exact run is always first. */
static int read_settings(bench *b)
{
    bench_ratios r;
    b->set[b->count++].requested = 1;
    if (b->a->plan_in) { /* its ratio is known when it has been read */
        b->count++;
        return CLI_OK;
    }
    const int code = bench_read_ratios(b->a->speedup ? b->a->speedup : "1,2,3", &r);
    for (int i = 0; code == CLI_OK && i < r.count; i++) b->set[b->count++].requested = r.ratio[i];
    return code;
}

static int open_files(bench *b)
{
    const quality_args *a = b->a;
    int code = bench_open(b->ctx, &b->model, a->model, cli_precision(b->ctx, &a->common));
    if (code != CLI_OK) return code;
    code = bench_judge_open(b->ctx, &b->judge, a->classifier, b->model.info.image_size);
    if (code != CLI_OK) return code;
    const fv_status s = fv_recipe_read(b->ctx, &b->recipe, a->recipe);
    return s == FV_OK ? CLI_OK : cli_report(b->ctx, s, a->recipe);
}

/* ---- Real pictures --------------------------------------------------------------------------- */

static fv_status open_data(bench *b, fv_dataset **out, fv_split split)
{
    return fv_dataset_from_recipe(b->ctx, out, b->recipe, b->a->data_dir, b->judge.info.size,
                                  split);
}

static fv_status score_held_out(bench *b)
{
    fv_dataset *ds;
    b->held_class = calloc((size_t)b->judge.info.classes, sizeof *b->held_class);
    if (!b->held_class) return FV_ERR_OOM;
    fv_status s = open_data(b, &ds, FV_SPLIT_HELDOUT);
    if (s == FV_OK)
        s = fv_classifier_score(b->ctx, b->judge.net, ds, &b->held, b->held_class, NULL);
    fv_dataset_close(&ds);
    return s;
}

/* ---- Plans and buffers ----------------------------------------------------------------------- */

static fv_status open_setting(bench *b, setting *t, uint64_t seed)
{
    const size_t dim = (size_t)b->judge.info.features;
    t->seed = seed;
    t->round = calloc((size_t)b->rounds, sizeof *t->round);
    t->features = calloc((size_t)b->a->samples, dim * sizeof *t->features);
    t->per_class = calloc((size_t)b->model.info.classes, sizeof *t->per_class);
    if (!t->round || !t->features || !t->per_class) return FV_ERR_OOM;
    if (t->requested == 1) return FV_OK;
    fv_generate_options o = b->gen;
    fv_accel_info info;
    fv_status s;
    o.count = o.batch; /* as `fovea bench speedup` times */
    o.seed = seed;
    if (b->a->plan_in) {
        s = fv_accel_read(b->ctx, &t->accel, b->model.dit, b->a->plan_in);
    } else {
        cli_progress_title("planning %gx", t->requested);
        s = bench_solve(b->ctx, &b->model, &o, b->sens, FV_ACCEL_DPX, t->requested, true,
                        &b->timing, &t->accel);
    }
    if (s != FV_OK) return s;
    fv_accel_get_info(t->accel, &info);
    t->anchors = info.anchors;
    if (b->a->plan_in) t->requested = info.predicted_speedup;
    return FV_OK;
}

static void close_setting(setting *t)
{
    fv_accel_free(&t->accel);
    free(t->per_class);
    free(t->features);
    free(t->round);
}

/* ---- Rounds ---------------------------------------------------------------------------------- */

/* A single sample left over would be refused as a run of its own. */
static int round_size(const bench *b, int first)
{
    const int left = b->a->samples - first;
    return left <= ROUND + 1 ? left : ROUND;
}

static int count_rounds(const bench *b)
{
    int n = 0;
    for (int first = 0; first < b->a->samples; first += round_size(b, first)) n++;
    return n;
}

static void show_progress(const bench *b, const setting *t, int first)
{
    const int all = b->a->samples * (b->count + 1);
    const double left = (cli_now() - b->start) * (all - b->done) / (b->done ? b->done : 1);
    char when[24] = "";
    if (b->done) snprintf(when, sizeof when, ", %d:%02d left", (int)(left / 60), (int)left % 60);
    cli_progress_title("%gx %d/%d%s", t->requested, first, b->a->samples, when);
}

static fv_status run_round(bench *b, setting *t, int round, int first, int n)
{
    fv_dit_quality_options o = FV_DIT_QUALITY_OPTIONS_INIT;
    fv_dit_quality_result r;
    const size_t dim = (size_t)b->judge.info.features;
    fv_generate_options gen = b->gen;
    gen.accel = t->accel;
    o.gen = &gen;
    o.samples = n;
    o.first = first;
    o.seed = t->seed;
    show_progress(b, t, first);
    const fv_status s = fv_dit_quality(b->ctx, b->model.dit, b->judge.net, &o, &r);
    if (s != FV_OK) return s;
    memcpy(t->features + (size_t)first * dim, r.features, (size_t)n * dim * sizeof *r.features);
    for (int k = 0; k < r.classes; k++) {
        t->per_class[k].count += r.per_class[k].count;
        t->per_class[k].correct += r.per_class[k].correct;
    }
    t->total.count += r.total.count;
    t->total.correct += r.total.correct;
    t->round[round] = r.seconds;
    t->seconds += r.seconds;
    b->done += n;
    fv_dit_quality_free(b->ctx, &r);
    return FV_OK;
}

static fv_status run_rounds(bench *b)
{
    b->start = cli_now();
    for (int first = 0, i = 0; first < b->a->samples; i++) {
        const int n = round_size(b, first);
        for (int k = 0; k <= b->count; k++) {
            const fv_status s = run_round(b, &b->set[k], i, first, n);
            if (s != FV_OK) return s;
        }
        first += n;
        const double spent = cli_now() - b->start;
        const double left = spent * (b->a->samples - first) / first;
        cli_progress_title(NULL);
        if (i == 0 && left > 60)
            cli_note("%d samples at %d settings: about %.0f minutes", b->a->samples, b->count + 1,
                     (spent + left) / 60);
        cli_detail("%d of %d samples a setting, %.0f s, %.0f s left", first, b->a->samples, spent,
                   left);
    }
    return FV_OK;
}

static fv_status finish_setting(bench *b, setting *t, double *ratios)
{
    const setting *exact = &b->set[0], *other = &b->set[b->count];
    const int dim = b->judge.info.features, n = b->a->samples;
    for (int i = 0; i < b->rounds; i++) ratios[i] = exact->round[i] / t->round[i];
    t->measured = cli_quantile(ratios, b->rounds, 0.5);
    const fv_status s =
        fv_frechet(b->ctx, t->features, n, b->judge.real, b->judge.real_count, dim, &t->to_real);
    if (s != FV_OK) return s;
    return fv_frechet(b->ctx, t->features, n, other->features, n, dim, &t->to_exact);
}

static fv_status run_settings(bench *b)
{
    double *ratios = calloc((size_t)b->rounds, sizeof *ratios);
    fv_status s = ratios ? FV_OK : FV_ERR_OOM;
    for (int i = 0; i <= b->count && s == FV_OK; i++)
        s = open_setting(b, &b->set[i], b->a->seed + (i == b->count ? (uint64_t)b->a->samples : 0));
    if (s == FV_OK) s = run_rounds(b);
    for (int i = 0; i < b->count && s == FV_OK; i++) s = finish_setting(b, &b->set[i], ratios);
    free(ratios);
    return s;
}

static int run_all(bench *b)
{
    fv_status s = score_held_out(b);
    if (s == FV_OK)
        s = bench_judge_read_real(&b->judge, b->recipe, b->a->data_dir, b->a->samples, b->a->seed);
    if (s != FV_OK) return cli_report(b->ctx, s, b->a->recipe);
    int code = CLI_OK;
    if (!b->a->plan_in) code = bench_find_table(b->ctx, &b->model, b->a->table, &b->gen, &b->sens);
    if (code != CLI_OK) return code;
    b->rounds = count_rounds(b);
    b->set[b->count].requested = 1;
    s = run_settings(b);
    cli_progress_title(NULL);
    if (s == FV_OK) return CLI_OK;
    code = cli_report(b->ctx, s, b->a->plan_in ? b->a->plan_in : b->a->model);
    /* A ratio out of reach is not wrong usage. */
    return s == FV_ERR_ARG && !b->a->plan_in ? CLI_FAILED : code;
}

/* ---- Output ---------------------------------------------------------------------------------- */

static double share_of(fv_class_score s)
{
    return s.count ? (double)s.correct / (double)s.count : NAN;
}

static fv_class_score held_of(const bench *b, int model_class)
{
    const int k =
        fv_classifier_class_find(b->judge.net, fv_dit_class_name(b->model.dit, model_class));
    return k < 0 ? (fv_class_score){0} : b->held_class[k];
}

/* A class that the model draws worse than the data are recognised. */
static bool is_weak(const bench *b, int k)
{
    return share_of(b->set[0].per_class[k]) < WEAK * share_of(held_of(b, k));
}

static void print_classes(const bench *b)
{
    int weak = 0;
    printf("\n%-24s %9s %6s", "class, recognised in %", "real", "exact");
    for (int i = 1; i < b->count; i++) printf(" %5.3gx", b->set[i].requested);
    printf("\n");
    for (int k = 0; k < b->model.info.classes; k++) {
        const fv_class_score real = held_of(b, k);
        char name[64];
        cli_printable(fv_dit_class_name(b->model.dit, k), name, sizeof name);
        printf("%-24s %4llu %4.0f", name, (unsigned long long)real.count, 100 * share_of(real));
        for (int i = 0; i < b->count; i++) printf(" %6.1f", 100 * share_of(b->set[i].per_class[k]));
        printf(is_weak(b, k) ? " *\n" : "\n");
        weak += is_weak(b, k);
    }
    printf("real: number of held-out pictures and share; * exact below %.0f %% of it: %d of %d "
           "classes\n",
           100 * WEAK, weak, b->model.info.classes);
}

static void print_text(const bench *b)
{
    const double held = share_of(b->held);
    const unsigned long long seed = b->a->seed, n = (unsigned long long)b->a->samples;
    printf("real held-out pictures: %llu, recognised %.2f %% (reference: %lld pictures)\n",
           (unsigned long long)b->held.count, 100 * held, (long long)b->judge.real_count);
    printf("samples: %d a setting, classes in turn, seeds %llu to %llu (noise floor: to %llu)\n\n",
           b->a->samples, seed, seed + n - 1, seed + 2 * n - 1);
    printf("%-8s %9s %8s %10s %7s %9s %9s\n", "setting", "measured", "seconds", "recognised",
           "ratio", "to real", "to exact");
    for (int i = 0; i < b->count; i++) {
        const setting *t = &b->set[i];
        char name[32];
        snprintf(name, sizeof name, "%.4gx", t->requested);
        printf("%-8s %8.3fx %8.1f %9.2f%% %7.3f %9.4f %9.4f\n", i ? name : "exact", t->measured,
               t->seconds, 100 * share_of(t->total), share_of(t->total) / held, t->to_real,
               t->to_exact);
    }
    printf("\nmeasured: median of %d round%s of at most %d samples, settings in turn\n", b->rounds,
           b->rounds == 1 ? "" : "s", ROUND + 1);
    printf("to exact: Frechet distance to an exact run with other seeds; noise floor %.4f\n",
           b->set[0].to_exact);
    print_classes(b);
}

static void json_value(double value)
{
    if (isfinite(value))
        printf("%.9g", value);
    else
        printf("null");
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
    json_field("seconds", t->seconds, ", ");
    json_field("accuracy", share_of(t->total), ", ");
    json_field("accuracy_ratio", share_of(t->total) / share_of(b->held), ", ");
    json_field("frechet_to_real", t->to_real, ", ");
    json_field("frechet_to_exact", t->to_exact, ", ");
    printf(", \"class_accuracy\": {");
    for (int k = 0; k < b->model.info.classes; k++) {
        printf("%s", k ? ", " : " ");
        cli_json_text(stdout, fv_dit_class_name(b->model.dit, k));
        printf(": ");
        json_value(share_of(t->per_class[k]));
    }
    printf(" } }");
}

/* What real pictures reach, under the names of the model's classes. */
static void json_real_classes(const bench *b, cli_json *j)
{
    cli_json_key(j, "real_class_accuracy");
    printf("{");
    for (int k = 0; k < b->model.info.classes; k++) {
        printf("%s", k ? ", " : " ");
        cli_json_text(stdout, fv_dit_class_name(b->model.dit, k));
        printf(": ");
        json_value(share_of(held_of(b, k)));
    }
    printf(" }");
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
    cli_json_u64(&j, "real_reference", (uint64_t)b->judge.real_count);
    cli_json_number(&j, "noise_floor", b->set[0].to_exact);
    cli_json_u64(&j, "seed_noise_floor", b->a->seed + (uint64_t)b->a->samples);
    cli_json_u64(&j, "batch", (uint64_t)b->gen.batch);
    cli_json_u64(&j, "rounds", (uint64_t)b->rounds);
    json_real_classes(b, &j);
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
    for (int i = 0; i <= b->count; i++) close_setting(&b->set[i]);
    fv_timing_free(&b->timing);
    fv_sens_free(&b->sens);
    fv_recipe_close(&b->recipe);
    bench_judge_close(&b->judge);
    bench_close(&b->model);
    free(b->held_class);
}

static int parse(quality_args *a, int argc, char **argv)
{
    const cli_option options[] = {
        {0, "classifier", "FILE", "feature classifier of the model's classes", CLI_STRING,
         &a->classifier, 0, 0},
        {0, "recipe", "FILE", "recipe that names the data and classes", CLI_STRING, &a->recipe, 0,
         0},
        {0, "data-dir", "DIR", "where the recipe's archives are", CLI_STRING, &a->data_dir, 0, 0},
        {0, "samples", "N", "samples a setting (default 2000)", CLI_INT, &a->samples, 2, 1000000},
        {0, "batch", "N", "pictures computed together (default 8)", CLI_INT, &a->batch, 1, ROUND},
        {0, "speedup", "LIST", "ratios to measure (default 1,2,3)", CLI_STRING, &a->speedup, 0, 0},
        {0, "plan-in", "FILE", "measure this plan instead of ratios", CLI_STRING, &a->plan_in, 0,
         0},
        {0, "table", "FILE", "sensitivity table (default: beside the model)", CLI_STRING, &a->table,
         0, 0},
        BENCH_OPT_SAMPLING(&a->sampling),
        {0, "seed", "N", "first seed (default 100000)", CLI_U64, &a->seed, 0, 0},
        CLI_OPT_THREADS(&a->common),
        CLI_OPT_DEVICE(&a->common),
        CLI_OPT_PRECISION(&a->common),
        CLI_OPT_JSON(&a->common),
        CLI_OPT_QUIET(&a->common),
        CLI_OPT_VERBOSE(&a->common),
        CLI_OPT_END};
    const cli_command command = {
        .name = "fovea bench quality",
        .usage = "MODEL --classifier FILE --recipe FILE [--data-dir DIR] [--speedup 1,2,3]",
        .about = "Compare exact and accelerated samples: recognised share and Frechet distances.",
        .options = options,
        .min_files = 1,
        .max_files = 1};
    int count;
    return cli_parse(&command, argc, argv, &a->model, &count);
}

int bench_quality(int argc, char **argv)
{
    quality_args a = {.samples = 2000, .batch = 8, .seed = BENCH_SEED};
    const int parsed = parse(&a, argc, argv);
    if (parsed >= 0) return parsed;
    if (!a.classifier || !a.recipe)
        return cli_fail(CLI_USAGE, "--classifier and --recipe are needed (fovea bench quality "
                                   "--help)");
    if (a.plan_in && (a.speedup || a.table))
        return cli_fail(CLI_USAGE, "--plan-in excludes --speedup and --table");
    bench *b = calloc(1, sizeof *b);
    if (!b) return cli_fail(CLI_FAILED, "out of memory");
    b->a = &a;
    b->gen = (fv_generate_options)FV_GENERATE_OPTIONS_INIT;
    b->gen.batch = a.batch;
    int code = read_settings(b);
    if (code == CLI_OK) code = bench_set_sampling(&a.sampling, &b->gen);
    if (code == CLI_OK) code = cli_start(&b->ctx, &a.common);
    if (b->ctx) {
        if (code == CLI_OK) code = open_files(b);
        if (code == CLI_OK) code = run_all(b);
        if (code == CLI_OK && a.common.json)
            print_json(b);
        else if (code == CLI_OK)
            print_text(b);
        close_bench(b);
        code = cli_finish(&b->ctx, code);
    }
    free(b);
    return code;
}
