/* fovea_bench.c - fovea bench gemm|dit|train: times of this machine, one line a case.
 *
 * Each network is held against its own matrix products, timed in the same run at the same
 * precision: the ratio says what norms, attention, data movement and calls cost, whatever the clock
 * speed. */
#include "fovea_tool.h"
#include "bench_accel.h"
#include "bench_ar.h"
#include "bench_ar_speed.h"
#include "bench_distill.h"
#include "bench_gpu.h"
#include "bench_loss.h"
#include "bench_pic_speed.h"
#include "bench_process.h"
#include "bench_quality.h"
#include "bench_speedup.h"
#include "bench_sr.h"
#include "vpic_bench.h"
#include "vzip_bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_CASES 64
#define MAX_MARKS 4096
#define MIB 1048576.0

typedef struct bench_args {
    cli_common common;
    const char *preset;
    int rows, batch, steps;
    double seconds;
    bool with_conditioning;
} bench_args;

typedef struct bench_line {
    char name[24], shape[32];
    const char *variant;
    gemm_result time;
    double gflops, percent; /* percent of the product rate; NAN = not given */
} bench_line;

typedef struct bench {
    fv_ctx *ctx;
    const bench_args *a;
    const char *what;
    bench_line line[MAX_CASES];
    int count;
    double ratio;   /* network time / time of its products; NAN for gemm */
    double lift, place; /* what they take beyond squared error, percent of a step; NAN: no step */
    char temp[BENCH_FOLDER]; /* folder of this run, "" = none */
    double mark[MAX_MARKS];
    int marks;
    const char *stage;
    const fv_model *file;     /* of bench dit */
    fv_generate_stats memory; /* of one run of it; weight_bytes 0 = another bench */
    uint64_t resident;        /* of the process after that run */
} bench;

/* ---- Lines ----------------------------------------------------------------------------------- */

static void add_line(bench *b, const char *name, const char *shape, const char *variant,
                     const gemm_result *time, double flop, double rate)
{
    if (b->count == MAX_CASES) return;
    bench_line *l = &b->line[b->count++];
    snprintf(l->name, sizeof l->name, "%.*s", (int)sizeof l->name - 1, name);
    snprintf(l->shape, sizeof l->shape, "%.*s", (int)sizeof l->shape - 1, shape);
    l->variant = variant;
    l->time = *time;
    l->gflops = flop / time->median * 1e-9;
    l->percent = rate > 0 ? 100 * l->gflops / rate : NAN;
}

static void print_text(const bench *b)
{
    printf("%-14s %-18s %-5s %10s %10s %10s %8s %6s\n", "name", "shape", "type", "median ms", "p10",
           "p90", "GFLOP/s", "% gemm");
    for (int i = 0; i < b->count; i++) {
        const bench_line *l = &b->line[i];
        printf("%-14s %-18s %-5s %10.3f %10.3f %10.3f ", l->name, l->shape, l->variant,
               1e3 * l->time.median, 1e3 * l->time.p10, 1e3 * l->time.p90);
        if (l->gflops > 0) printf("%8.1f ", l->gflops);
        else printf("%8s ", "-");
        if (isfinite(l->percent))
            printf("%6.1f\n", l->percent);
        else
            printf("%6s\n", "-");
    }
}

static void print_json_cases(const bench *b, cli_json *j)
{
    cli_json_key(j, "cases");
    putchar('[');
    for (int i = 0; i < b->count; i++) {
        const bench_line *l = &b->line[i];
        cli_json c;
        if (i) fputs(", ", stdout);
        cli_json_open(&c, stdout);
        cli_json_string(&c, "name", l->name);
        cli_json_string(&c, "shape", l->shape);
        cli_json_string(&c, "type", l->variant);
        cli_json_number(&c, "median_seconds", l->time.median);
        cli_json_number(&c, "p10_seconds", l->time.p10);
        cli_json_number(&c, "p90_seconds", l->time.p90);
        cli_json_number(&c, "gflop_per_second", l->gflops);
        cli_json_number(&c, "percent_of_gemm", l->percent);
        cli_json_close(&c);
    }
    putchar(']');
}

/* Of what a run holds beside its weights against what its plans and caches need. */
static double memory_ratio(const fv_generate_stats *m)
{
    return (double)m->peak_bytes / (double)(m->activation_bytes + m->cache_bytes);
}

static void print_json_memory(const bench *b, cli_json *j)
{
    const fv_generate_stats *m = &b->memory;
    if (!m->weight_bytes) return;
    cli_json_u64(j, "weight_bytes", m->weight_bytes);
    cli_json_u64(j, "activation_bytes", m->activation_bytes);
    cli_json_u64(j, "cache_bytes", m->cache_bytes);
    cli_json_u64(j, "beside_weights_bytes", m->peak_bytes);
    cli_json_number(j, "memory_ratio", memory_ratio(m));
}

static void print_memory(const bench *b)
{
    const fv_generate_stats *m = &b->memory;
    if (!m->weight_bytes) return;
    printf("packed weights %.1f MiB; beside them at most %.1f MiB: %.3f of activations (%.1f MiB) "
           "and caches (%.1f MiB)\n",
           (double)m->weight_bytes / MIB, (double)m->peak_bytes / MIB, memory_ratio(m),
           (double)m->activation_bytes / MIB, (double)m->cache_bytes / MIB);
}

static void print_result(const bench *b)
{
    fv_memory_stats mem;
    char cpu[128];
    fv_ctx_memory(b->ctx, &mem);
    const uint64_t resident = b->resident ? b->resident : cli_resident_peak();
    cli_cpu_name(cpu, sizeof cpu);
    if (b->a->common.json) {
        cli_json j;
        cli_json_open(&j, stdout);
        cli_json_string(&j, "bench", b->what);
        cli_json_string(&j, "version", fv_version_string());
        cli_json_string(&j, "cpu", cpu);
        cli_json_u64(&j, "threads", (uint64_t)fv_ctx_threads(b->ctx));
        print_json_cases(b, &j);
        cli_json_number(&j, "ratio_to_gemm", b->ratio);
        if (isfinite(b->place)) {
            cli_json_number(&j, "lift_percent_of_step", b->lift);
            cli_json_number(&j, "place_percent_of_step", b->place);
        }
        cli_json_u64(&j, "peak_bytes", mem.peak_bytes);
        cli_json_u64(&j, "resident_bytes", resident);
        print_json_memory(b, &j);
        cli_json_close(&j);
        return;
    }
    print_text(b);
    if (isfinite(b->ratio)) printf("time / time of its matrix products: %.3f\n", b->ratio);
    if (isfinite(b->place))
        printf("beyond squared error LIFT takes %.2f %% of a training step, PLACE %.2f %%\n",
               b->lift, b->place);
    print_memory(b);
    printf("%s, %d threads; peak memory %.1f MiB, resident %.1f MiB\n", cpu, fv_ctx_threads(b->ctx),
           (double)mem.peak_bytes / MIB, (double)resident / MIB);
}

/* ---- bench gemm ------------------------------------------------------------------------------ */

static const gemm_case shapes[] = {
    /* DiT-XL/2, one picture with guidance: 2 rows of 256 tokens */
    {"xl qkv", 512, 3456, 1152, 1},
    {"xl proj", 512, 1152, 1152, 1},
    {"xl mlp in", 512, 4608, 1152, 1},
    {"xl mlp out", 512, 1152, 4608, 1},
    /* F64c, eight pictures with guidance, and one */
    {"f64c qkv", 1024, 768, 256, 1},
    {"f64c w12", 1024, 1376, 256, 1},
    {"f64c w3", 1024, 256, 688, 1},
    {"f64c qkv b1", 128, 768, 256, 1},
    {"square", 1024, 1024, 1024, 1},
    {"square", 2048, 2048, 2048, 1},
};
#define SHAPES ((int)(sizeof shapes / sizeof *shapes))

static int bench_gemm_type(bench *b, fv_dtype type)
{
    gemm_result r[SHAPES];
    double best = 0;
    for (int i = 0; i < SHAPES; i++) {
        const fv_status s = gemm_measure(b->ctx, &shapes[i], type, b->a->seconds / SHAPES, &r[i]);
        if (s != FV_OK) return cli_report(b->ctx, s, "bench gemm");
        const double rate = gemm_flop(&shapes[i]) / r[i].median * 1e-9;
        if (rate > best) best = rate;
    }
    for (int i = 0; i < SHAPES; i++) {
        char shape[32];
        snprintf(shape, sizeof shape, "%lldx%lldx%lld", (long long)shapes[i].M,
                 (long long)shapes[i].N, (long long)shapes[i].K);
        add_line(b, shapes[i].name, shape, fv_dtype_name(type), &r[i], gemm_flop(&shapes[i]), best);
    }
    return CLI_OK;
}

static int bench_gemm(bench *b)
{
    const fv_dtype type = cli_precision(b->ctx, &b->a->common);
    if (b->a->common.precision) return bench_gemm_type(b, type);
    const int code = bench_gemm_type(b, FV_F32);
    return code == CLI_OK && type != FV_F32 ? bench_gemm_type(b, type) : code;
}

/* ---- Networks -------------------------------------------------------------------------------- */

static void on_mark(void *user, const fv_progress *p)
{
    bench *b = user;
    if (strcmp(p->stage, b->stage) == 0 && b->marks < MAX_MARKS) b->mark[b->marks++] = cli_now();
}

/* Seconds between marks of one run, the first ones left out (packing, first touch). */
static int mark_times(const bench *b, double *out, int skip)
{
    int n = 0;
    for (int i = 1 + skip; i < b->marks; i++) out[n++] = b->mark[i] - b->mark[i - 1];
    return n;
}

static void quantiles(double *v, int n, gemm_result *r)
{
    r->median = cli_quantile(v, n, 0.5);
    r->p10 = cli_quantile(v, n, 0.1);
    r->p90 = cli_quantile(v, n, 0.9);
}

/* All products of one evaluation: seconds and FLOP; adds their lines. */
static int product_times(bench *b, const fv_model *file, const fv_dit_info *info, fv_dtype type,
                         int rows, double *seconds, double *flop)
{
    gemm_case g[16];
    gemm_result r[16];
    const int n = gemm_of_model(file, info, rows, g, 16);
    *seconds = *flop = 0;
    for (int i = 0; i < n; i++) {
        const fv_status s = gemm_measure(b->ctx, &g[i], type, b->a->seconds / 4 / n, &r[i]);
        if (s != FV_OK) return cli_report(b->ctx, s, "bench");
        *seconds += g[i].repeat * r[i].median;
        *flop += g[i].repeat * gemm_flop(&g[i]);
    }
    for (int i = 0; i < n; i++) {
        char shape[32];
        snprintf(shape, sizeof shape, "%lldx%lldx%lld", (long long)g[i].M, (long long)g[i].N,
                 (long long)g[i].K);
        add_line(b, g[i].name, shape, fv_dtype_name(type), &r[i], gemm_flop(&g[i]),
                 *flop / *seconds * 1e-9);
    }
    return CLI_OK;
}

static double attention_flop(const fv_dit_info *i, int rows)
{
    return 4.0 * rows * i->depth * (double)i->tokens * i->tokens * i->width;
}

/* ---- bench dit ------------------------------------------------------------------------------- */

/* What is timed: modulations computed before, for many evaluations at once (as sampling does), or
 * the whole network with them at each evaluation. */
enum { HOISTED = 0, WHOLE, VARIANTS };

typedef struct evaluations {
    const fv_dit *dit;
    fv_dit_info info;
    float *state;
    double *times[VARIANTS];
    int have[VARIANTS];
} evaluations;

/* Evaluations without guidance: `rows` pictures are `rows` rows. */
static fv_status run_evaluations(bench *b, evaluations *v, int variant, fv_generate_stats *st)
{
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    o.count = o.batch = b->a->rows;
    o.cfg = 1;
    o.steps = 8;
    o.no_hoisting = variant == WHOLE;
    b->stage = "sampling";
    b->marks = 0;
    cli_watch(on_mark, b);
    const fv_status s = fv_generate_state(b->ctx, v->dit, &o, NULL, v->state, st);
    cli_watch(NULL, NULL);
    return s;
}

/* The variants in turn: both see the same clock speed. */
static fv_status time_evaluations(bench *b, evaluations *v, gemm_result out[VARIANTS])
{
    const int last = b->a->with_conditioning ? WHOLE : HOISTED;
    const double end = cli_now() + b->a->seconds * 3 / 4;
    fv_status s = FV_OK;
    for (int run = 0; s == FV_OK && (run == 0 || cli_now() < end); run++)
        for (int k = HOISTED; k <= last && s == FV_OK; k++) {
            if (v->have[k] + 16 >= MAX_MARKS) return FV_OK;
            s = run_evaluations(b, v, k, NULL);
            v->have[k] += mark_times(b, v->times[k] + v->have[k], run == 0 ? 1 : 0);
        }
    for (int k = HOISTED; k <= last && s == FV_OK; k++) quantiles(v->times[k], v->have[k], &out[k]);
    return s;
}

static int report_evaluations(bench *b, evaluations *v, fv_dtype type)
{
    const fv_dit_info *info = &v->info;
    const int rows = b->a->rows;
    gemm_result r[VARIANTS];
    char shape[32], name[24];
    double seconds, flop;
    /* The first run packs the weights: memory is read before the products are measured. */
    fv_status s = run_evaluations(b, v, HOISTED, &b->memory);
    b->resident = cli_resident_peak();
    if (s != FV_OK) return cli_report(b->ctx, s, "bench dit");
    const int code = product_times(b, b->file, info, type, rows, &seconds, &flop);
    if (code != CLI_OK) return code;
    s = time_evaluations(b, v, r);
    if (s != FV_OK) return cli_report(b->ctx, s, "bench dit");
    snprintf(shape, sizeof shape, "%d rows x %d", rows, info->tokens);
    add_line(b, info->name, shape, fv_dtype_name(type), &r[HOISTED],
             flop + attention_flop(info, rows), flop / seconds * 1e-9);
    b->ratio = r[HOISTED].median / seconds;
    if (!b->a->with_conditioning) return CLI_OK;
    snprintf(name, sizeof name, "%.15s + cond", info->name);
    add_line(b, name, shape, fv_dtype_name(type), &r[WHOLE], rows * info->step_flop,
             flop / seconds * 1e-9);
    return CLI_OK;
}

static int bench_opened(bench *b, const fv_dit *dit, fv_dtype type)
{
    evaluations v = {.dit = dit};
    fv_dit_get_info(dit, &v.info);
    const size_t side = (size_t)v.info.input_size;
    v.state = malloc((size_t)b->a->rows * side * side * (size_t)v.info.channels * sizeof *v.state);
    bool has_room = v.state != NULL;
    for (int k = 0; k < VARIANTS; k++) {
        v.times[k] = malloc(MAX_MARKS * sizeof *v.times[k]);
        has_room = has_room && v.times[k];
    }
    const int code =
        has_room ? report_evaluations(b, &v, type) : cli_fail(CLI_FAILED, "out of memory");
    for (int k = 0; k < VARIANTS; k++) free(v.times[k]);
    free(v.state);
    return code;
}

static int bench_dit(bench *b, const char *path)
{
    char made[BENCH_FOLDER + 32];
    fv_model *file = NULL;
    fv_dit *dit = NULL;
    fv_dit_options o = FV_DIT_OPTIONS_INIT;
    int code = CLI_OK;
    fv_status s = FV_OK;
    if (!path) {
        if ((code = bench_make_folder("fovea-bench", b->temp)) != CLI_OK) return code;
        snprintf(made, sizeof made, "%s/model.safetensors", b->temp);
        s = fv_dit_random(b->ctx, b->a->preset, 1000, 1, made, 0);
        path = made;
    }
    o.precision = cli_precision(b->ctx, &b->a->common);
    if (s == FV_OK) s = fv_model_open(b->ctx, &file, path, NULL);
    if (s == FV_OK) s = fv_dit_open(b->ctx, &dit, file, &o);
    if (s != FV_OK) code = cli_report(b->ctx, s, path == made ? NULL : path);
    /* The weights of a made model are not part of the memory that is reported. */
    fv_ctx_memory_reset_peak(b->ctx);
    b->file = file;
    if (code == CLI_OK) code = bench_opened(b, dit, o.precision);
    b->file = NULL;
    fv_dit_close(&dit);
    fv_model_close(&file);
    return code;
}

/* ---- bench train ----------------------------------------------------------------------------- */

static fv_status run_training(bench *b, fv_dtype type)
{
    char text[512], out[BENCH_FOLDER + 32];
    fv_recipe *r = NULL;
    fv_train_result result;
    const int n = snprintf(text, sizeof text,
                           "engine = dit\npreset = %s\ndata = data\nbatch = %d\nsteps = %d\n"
                           "precision = %s\neval_batches = 0\nsplit = 0\nsave_every = 1000000\n"
                           "log_every = 1000000\n",
                           b->a->preset, b->a->batch, b->a->steps + 2, fv_dtype_name(type));
    if (n < 0 || n >= (int)sizeof text) return FV_ERR_CAPACITY;
    snprintf(out, sizeof out, "%s/out", b->temp);
    fv_trainer_options o = FV_TRAINER_OPTIONS_INIT;
    o.data_dir = b->temp;
    o.out_dir = out;
    b->stage = "training";
    b->marks = 0;
    fv_status s = fv_recipe_parse(b->ctx, &r, text, (size_t)n);
    if (s != FV_OK) return s;
    cli_watch(on_mark, b);
    s = fv_dit_train(b->ctx, r, &o, &result);
    cli_watch(NULL, NULL);
    fv_recipe_close(&r);
    return s;
}

/* Losses of distillation between pictures of a batch, against the step just timed. */
static int loss_times(bench *b, const fv_dit_info *info, double step)
{
    static const char *const name[FV_MEASURED_LOSSES] = {"squared error", "LIFT", "PLACE"};
    const int64_t dim[4] = {b->a->batch, info->input_size, info->input_size, info->channels};
    double times[MAX_MARKS], beyond[FV_MEASURED_LOSSES];
    char shape[32];
    snprintf(shape, sizeof shape, "%d x %dx%dx%d", b->a->batch, info->input_size, info->input_size,
             info->channels);
    for (int k = 0; k < FV_MEASURED_LOSSES; k++) {
        gemm_result r;
        const fv_status s = fv_measure_loss(b->ctx, (fv_measured_loss)k, dim, times, b->a->steps);
        if (s != FV_OK) return cli_report(b->ctx, s, "bench train");
        quantiles(times, b->a->steps, &r);
        add_line(b, name[k], shape, "f32", &r, 0, 0);
        beyond[k] = r.median;
    }
    b->lift = 100 * (beyond[FV_MEASURED_LIFT] - beyond[FV_MEASURED_MSE]) / step;
    b->place = 100 * (beyond[FV_MEASURED_PLACE] - beyond[FV_MEASURED_MSE]) / step;
    return CLI_OK;
}

/* Forward and backward are three times the forward's FLOP. */
static int report_training(bench *b, fv_dtype type)
{
    char path[BENCH_FOLDER + 32], shape[32];
    fv_model *file = NULL;
    fv_dit *dit = NULL;
    fv_dit_info info;
    gemm_result r;
    double times[MAX_MARKS], seconds, flop;
    int code = CLI_OK;
    snprintf(path, sizeof path, "%s/out/model.safetensors", b->temp);
    fv_status s = fv_model_open(b->ctx, &file, path, NULL);
    if (s == FV_OK) s = fv_dit_open(b->ctx, &dit, file, NULL);
    if (s != FV_OK) {
        code = cli_report(b->ctx, s, NULL);
    } else {
        fv_dit_get_info(dit, &info);
        quantiles(times, mark_times(b, times, 1), &r);
        code = product_times(b, file, &info, type, b->a->batch, &seconds, &flop);
    }
    if (code == CLI_OK) {
        snprintf(shape, sizeof shape, "batch %d x %d", b->a->batch, info.tokens);
        add_line(b, "train step", shape, fv_dtype_name(type), &r, 3 * b->a->batch * info.step_flop,
                 flop / seconds * 1e-9);
        b->ratio = r.median / (3 * seconds);
        code = loss_times(b, &info, r.median);
    }
    fv_dit_close(&dit);
    fv_model_close(&file);
    return code;
}

static int bench_train(bench *b)
{
    char path[BENCH_FOLDER + 32];
    const fv_dtype type = cli_precision(b->ctx, &b->a->common);
    int code = bench_make_folder("fovea-bench", b->temp);
    if (code != CLI_OK) return code;
    snprintf(path, sizeof path, "%s/data", b->temp);
    (void)mkdir(path, 0777);
    static const char *const classes[] = {"class0", "class1", "class2", "class3"};
    fv_status s = bench_write_pictures(b->ctx, path, 64, classes, 4);
    if (s == FV_OK) s = run_training(b, type);
    if (s != FV_OK) return cli_report(b->ctx, s, "bench train");
    return report_training(b, type);
}

/* ---- All of it ------------------------------------------------------------------------------- */

static int run(bench *b, const char *file)
{
    int code;
    if (strcmp(b->what, "gemm") == 0)
        code = bench_gemm(b);
    else if (strcmp(b->what, "dit") == 0)
        code = bench_dit(b, file);
    else
        code = bench_train(b);
    if (code == CLI_OK) print_result(b);
    bench_remove_folder(b->temp);
    return code;
}

static int check(const bench_args *a, const char *what, const char *file)
{
    const bool is_dit = strcmp(what, "dit") == 0, is_train = strcmp(what, "train") == 0;
    if (!is_dit && !is_train && strcmp(what, "gemm") != 0)
        return cli_fail(CLI_USAGE,
                        "bench %s: unknown; there are gemm, dit, train, distill, quality, "
                        "speedup, accel, ar, ar-speed, vzip, pic, pic-speed, sr, "
                        "gpu and ranks",
                        what);
    if (is_dit && (file != NULL) == (a->preset != NULL))
        return cli_fail(CLI_USAGE, "bench dit needs a model file or --preset");
    if (is_train && !a->preset) return cli_fail(CLI_USAGE, "bench train needs --preset, as in F32");
    if (!is_dit && file) return cli_fail(CLI_USAGE, "bench %s takes no file", what);
    return CLI_OK;
}

int fovea_bench(int argc, char **argv)
{
    bench_args a = {.rows = 2, .batch = 32, .steps = 10, .seconds = 4};
    const cli_option options[] = {
        {0, "preset", "NAME", "for dit: F32, F64c, DiT-XL/2, ...; for train: F models", CLI_STRING,
         &a.preset, 0, 0},
        {0, "rows", "N", "for dit: pictures in one evaluation (default 2)", CLI_INT, &a.rows, 1,
         256},
        {0, "with-conditioning", NULL, "for dit: also time evaluations that compute modulations",
         CLI_FLAG, &a.with_conditioning, 0, 0},
        {0, "batch", "N", "for train: pictures a step (default 32)", CLI_INT, &a.batch, 1, 1024},
        {0, "steps", "N", "for train: steps to time (default 10)", CLI_INT, &a.steps, 3, 1000},
        {0, "seconds", "S", "about how long to measure (default 4)", CLI_NUMBER, &a.seconds, 0.1,
         3600},
        CLI_OPT_THREADS(&a.common),
        CLI_OPT_DEVICE(&a.common),
        CLI_OPT_PRECISION(&a.common),
        CLI_OPT_JSON(&a.common),
        CLI_OPT_QUIET(&a.common),
        CLI_OPT_VERBOSE(&a.common),
        CLI_OPT_END};
    const cli_command command = {
        "fovea bench",
        "gemm [options]\ndit MODEL|--preset NAME [options]\n"
        "train --preset NAME [options]\ndistill TEACHER [options]\nquality MODEL [options]\nspeedup [MODEL] [options]\n"
        "accel [MODEL] [options]\nar MODEL [options]\nar-speed MODEL [options]\n"
        "vzip [options] FILE ...\npic [options] FOLDER|FILE ...\npic-speed PICTURE [options]\n"
        "sr [options] FOLDER|FILE ...\ngpu [options]\nranks [options] RECIPE",
        "Measure matrix products, a network's evaluation, training steps, or (with their own "
        "--help) the quality of samples, what a speed-up costs, ways of "
        "saving work and of decoding, its speed, compression, image coders, super-resolution, a "
        "GPU, and data-parallel training.",
        NULL,
        options,
        1,
        2};
    const char *arg[2] = {NULL, NULL};
    int files;
    if (argc > 1 && strcmp(argv[1], "quality") == 0) return bench_quality(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "distill") == 0) return bench_distill(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "accel") == 0) return bench_accel(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "ar") == 0) return bench_ar(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "ar-speed") == 0) return bench_ar_speed(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "pic-speed") == 0) return bench_pic_speed(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "sr") == 0) return bench_sr(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "gpu") == 0) return bench_gpu(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "ranks") == 0) return bench_ranks(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "speedup") == 0) return bench_speedup(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "vzip") == 0)
        return vzip_bench(argc - 1, argv + 1, "fovea bench vzip");
    if (argc > 1 && strcmp(argv[1], "pic") == 0)
        return vpic_bench(argc - 1, argv + 1, "fovea bench pic");
    int code = cli_parse(&command, argc, argv, arg, &files);
    bench *b = calloc(1, sizeof *b);
    if (!b) return cli_fail(CLI_FAILED, "out of memory");
    b->a = &a;
    b->what = arg[0];
    b->ratio = b->lift = b->place = NAN;
    if (code < 0 && (code = check(&a, arg[0], arg[1])) == CLI_OK &&
        (code = cli_start(&b->ctx, &a.common)) == CLI_OK)
        code = run(b, arg[1]);
    fv_ctx *ctx = b->ctx;
    free(b);
    return cli_finish(&ctx, code);
}
