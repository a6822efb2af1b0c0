/* bench_speedup.c - `fovea bench speedup`: is a plan as fast as asked, and better than simpler
 * ways?
 *
 * Each ratio R is reached in four ways, with the same seeds, classes and batch:
 *
 *     dpx             plan for R with the model's sensitivity table
 *     dpx, no table   plan for R without a table
 *     fixed interval  everything computed at every n-th evaluation [FORA, arXiv 2407.01425]: the
 *                     largest n whose measured ratio is not above R, so that it skips less than
 *                     its share rather than more; n = 2 if even that is above R
 *     fewer steps     the exact path with steps / R steps, from the same noise
 *
 * Speed: exact run and accelerated run in turn, `runs` pairs, median of the pairs' ratios; clock
 * speed and other load drift over seconds and hit both runs of a pair. A timed run is one call for
 * one batch. Fidelity: PSNR and SSIM of all samples against the exact pictures. */
#include "bench_speedup.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench_common.h"
#include "bench_csv.h"

#define MAX_LINES 64
#define TOLERANCE 0.05 /* "within 5 %" */
#define CURVE_STYLES 8 /* colours of fv_plot: markers get the colour of their line */

typedef enum method { PLANNED = 0, UNIFORM, FIXED, FEWER, METHODS } method;
static const char *const method_name[METHODS] = {"dpx", "dpx, no table", "fixed interval",
                                                 "fewer steps"};

typedef struct speedup_args {
    cli_common common;
    const char *model, *table, *speedup, *plot, *csv;
    bench_sampling sampling;
    int samples, runs, batch;
    uint64_t seed;
} speedup_args;

/* One line of the table. */
typedef struct line {
    method m;
    double asked;
    bench_spread measured;
    int steps, evals, full; /* of the sampler; of the network; of these in full */
    int interval;           /* fixed interval; 0 = another method */
    bench_fidelity fidelity;
    double flop_ratio;
    bool is_reached;
} line;

/* An interval of the fixed method: measured once for all ratios. */
typedef struct interval {
    line l; /* PSNR NAN: not yet judged */
    double predicted;
    bool is_timed;
} interval;

typedef struct bench {
    const speedup_args *a;
    fv_ctx *ctx;
    bench_model model;
    bench_ratios ratios;
    bench_pictures p;
    fv_sens *sens;
    fv_timing *timing;
    interval *fixed;
    int fixed_count;
    line line[MAX_LINES];
    int count;
} bench;

/* ---- One setting: time and fidelity ---------------------------------------------------------- */

/* accel and steps as in fv_generate_options. */
static fv_status time_pairs(bench *b, const char *name, const fv_accel *accel, int steps,
                            bench_spread *out)
{
    double v[BENCH_MAX_RUNS];
    const fv_status s = bench_time_pairs(&b->p, name, accel, steps, b->a->runs, v);
    if (s == FV_OK) *out = bench_spread_of(v, b->a->runs);
    return s;
}

static fv_status judge(bench *b, const char *name, const fv_accel *accel, int steps, line *l)
{
    fv_status s = bench_make_fast(&b->p, name, accel, steps);
    if (s == FV_OK) s = bench_compare(&b->p, &l->fidelity);
    bench_drop_fast(&b->p);
    l->flop_ratio = s == FV_OK ? b->p.exact_flop / b->p.fast_flop : NAN;
    return s;
}

/* ---- The four methods ------------------------------------------------------------------------ */

static line *add_line(bench *b, method m, double asked)
{
    line *l = &b->line[b->count++];
    *l = (line){.m = m, .asked = asked, .steps = b->p.all.steps, .is_reached = true};
    return l;
}

static void count_full(line *l, const fv_accel *accel)
{
    fv_accel_info info;
    fv_accel_get_info(accel, &info);
    l->evals = info.steps;
    l->full = info.anchors;
}

static fv_status run_planned(bench *b, method m, double R)
{
    line *l = add_line(b, m, R);
    fv_accel *accel;
    char name[32];
    snprintf(name, sizeof name, "%s %gx", method_name[m], R);
    cli_progress_title("%s, planning", name);
    fv_status s = bench_solve(b->ctx, &b->model, &b->p.timed, m == PLANNED ? b->sens : NULL,
                              FV_ACCEL_DPX, R, true, &b->timing, &accel);
    if (s == FV_ERR_ARG) { /* out of reach: the other methods still count */
        cli_progress_title(NULL);
        cli_note("%s: %s", name, fv_ctx_error(b->ctx));
        l->is_reached = false;
        return FV_OK;
    }
    if (s != FV_OK) return s;
    count_full(l, accel);
    s = time_pairs(b, name, accel, b->p.all.steps, &l->measured);
    if (s == FV_OK) s = judge(b, name, accel, b->p.all.steps, l);
    fv_accel_free(&accel);
    return s;
}

static fv_status plan_fixed(bench *b, int n, fv_accel **out)
{
    fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
    a.mode = FV_ACCEL_FIXED;
    a.interval = n;
    return fv_accel_plan(b->ctx, out, b->model.dit, &b->p.timed, NULL, b->timing, &a);
}

/* The smallest interval for each number of full evaluations: larger ones with the same number cost
 * the same and spread them less evenly. */
static fv_status list_intervals(bench *b)
{
    int evals = 2, last = 0;
    for (int n = 2; n <= evals; n++) {
        fv_accel *accel;
        fv_accel_info info;
        const fv_status s = plan_fixed(b, n, &accel);
        if (s != FV_OK) return s;
        fv_accel_get_info(accel, &info);
        fv_accel_free(&accel);
        if (!b->fixed) b->fixed = calloc((size_t)info.steps, sizeof *b->fixed);
        if (!b->fixed) return FV_ERR_OOM;
        evals = info.steps;
        if (n > 2 && info.anchors == last) continue;
        last = info.anchors;
        interval *v = &b->fixed[b->fixed_count++];
        v->l = (line){.m = FIXED, .steps = b->p.all.steps, .interval = n, .fidelity.psnr = NAN};
        v->predicted = info.predicted_speedup;
    }
    return FV_OK;
}

static fv_status measure_interval(bench *b, interval *v, bool with_fidelity)
{
    char name[32];
    fv_accel *accel;
    fv_status s = plan_fixed(b, v->l.interval, &accel);
    if (s != FV_OK) return s;
    snprintf(name, sizeof name, "%s %d", method_name[FIXED], v->l.interval);
    count_full(&v->l, accel);
    if (!v->is_timed) s = time_pairs(b, name, accel, b->p.all.steps, &v->l.measured);
    v->is_timed = s == FV_OK;
    if (s == FV_OK && with_fidelity && isnan(v->l.fidelity.psnr))
        s = judge(b, name, accel, b->p.all.steps, &v->l);
    fv_accel_free(&accel);
    return s;
}

/* From the prediction down while the measured ratio is above R, then up while the next is not. */
static fv_status run_fixed(bench *b, double R)
{
    fv_status s = b->fixed ? FV_OK : list_intervals(b);
    int i = 0;
    if (s != FV_OK) return s;
    while (i + 1 < b->fixed_count && b->fixed[i + 1].predicted <= R) i++;
    for (;; i--) {
        s = measure_interval(b, &b->fixed[i], false);
        if (s != FV_OK || i == 0 || b->fixed[i].l.measured.median <= R) break;
    }
    while (s == FV_OK && b->fixed[i].l.measured.median <= R && i + 1 < b->fixed_count) {
        s = measure_interval(b, &b->fixed[i + 1], false);
        if (s != FV_OK || b->fixed[i + 1].l.measured.median > R) break;
        i++;
    }
    if (s == FV_OK) s = measure_interval(b, &b->fixed[i], true);
    if (s != FV_OK) return s;
    line *l = add_line(b, FIXED, R);
    *l = b->fixed[i].l;
    l->asked = R;
    l->is_reached = true;
    return FV_OK;
}

static fv_status run_fewer(bench *b, double R)
{
    const fv_sampler sampler = b->p.all.sampler;
    const bool is_noise = sampler == FV_SAMPLER_DDPM || sampler == FV_SAMPLER_DDIM;
    const int least = is_noise ? 2 : 1;
    line *l = add_line(b, FEWER, R);
    char name[32];
    l->steps = (int)lround(b->p.all.steps / R);
    if (l->steps < least) l->steps = least;
    snprintf(name, sizeof name, "%d steps", l->steps);
    const fv_status s = time_pairs(b, name, NULL, l->steps, &l->measured);
    return s == FV_OK ? judge(b, name, NULL, l->steps, l) : s;
}

/* ---- All runs -------------------------------------------------------------------------------- */

static fv_status run_ratio(bench *b, double R)
{
    fv_status s = b->sens ? run_planned(b, PLANNED, R) : FV_OK;
    if (s == FV_OK) s = run_planned(b, UNIFORM, R);
    if (s == FV_OK) s = run_fixed(b, R);
    return s == FV_OK ? run_fewer(b, R) : s;
}

static int run_all(bench *b)
{
    int code = bench_pictures_open(&b->p, b->a->samples, b->a->batch, b->a->seed);
    if (code == CLI_OK)
        code = bench_find_table(b->ctx, &b->model, b->a->table, &b->p.all, &b->sens);
    if (code != CLI_OK) return code;
    fv_status s = bench_make_exact(&b->p);
    for (int i = 0; i < b->ratios.count && s == FV_OK; i++) s = run_ratio(b, b->ratios.ratio[i]);
    cli_progress_title(NULL);
    return s == FV_OK ? CLI_OK : cli_report(b->ctx, s, b->model.label);
}

/* ---- Claims ---------------------------------------------------------------------------------- */

/* In how many of the cases that can be judged it is so. */
typedef struct tally {
    int yes, of;
} tally;

static tally count_on_target(const bench *b, method m)
{
    tally t = {0, 0};
    for (int i = 0; i < b->count; i++) {
        const line *l = &b->line[i];
        if (l->m != m || !l->is_reached) continue;
        t.of++;
        t.yes += fabs(l->measured.median / l->asked - 1) <= TOLERANCE;
    }
    return t;
}

static const line *find_line(const bench *b, method m, double asked)
{
    for (int i = 0; i < b->count; i++)
        if (b->line[i].m == m && b->line[i].asked == asked && b->line[i].is_reached)
            return &b->line[i];
    return NULL;
}

/* Plan against a rival that is not faster by more than the tolerance: nearer to the exact pictures
 * in PSNR and in SSIM? A faster one is no comparison at this ratio. */
static tally count_better(const bench *b, method m, method rival)
{
    tally t = {0, 0};
    for (int i = 0; i < b->ratios.count; i++) {
        const line *l = find_line(b, m, b->ratios.ratio[i]);
        const line *r = find_line(b, rival, b->ratios.ratio[i]);
        if (!l || !r || r->measured.median > (1 + TOLERANCE) * l->measured.median) continue;
        t.of++;
        t.yes += l->fidelity.psnr > r->fidelity.psnr && l->fidelity.ssim > r->fidelity.ssim;
    }
    return t;
}

/* ---- Text ------------------------------------------------------------------------------------ */

static void what_runs(const line *l, char *out, size_t size)
{
    char every[24] = "";
    if (l->interval) snprintf(every, sizeof every, " (every %d)", l->interval);
    if (l->m == FEWER)
        snprintf(out, size, "%d steps", l->steps);
    else
        snprintf(out, size, "%d of %d full%s", l->full, l->evals, every);
}

static void print_line(const line *l)
{
    char what[48];
    printf("%-14s %5gx ", method_name[l->m], l->asked);
    if (!l->is_reached) {
        printf("  out of reach\n");
        return;
    }
    what_runs(l, what, sizeof what);
    printf("%7.3fx [%6.3f %6.3f] %6.2f %6.2f %8.5f %7.3fx  %s\n", l->measured.median,
           l->measured.least, l->measured.most, l->fidelity.psnr, l->fidelity.psnr_of_mean,
           l->fidelity.ssim, l->flop_ratio, what);
}

static void print_head(const bench *b)
{
    char cpu[128], name[64];
    cli_cpu_name(cpu, sizeof cpu);
    cli_printable(b->model.info.name, name, sizeof name);
    printf("%s, %d steps of %s, cfg %g, %s, %d threads, %s\n", name, b->p.all.steps,
           fv_sampler_name(b->p.all.sampler), (double)b->p.all.cfg,
           fv_dtype_name(b->model.precision), fv_ctx_threads(b->ctx), cpu);
    printf("%d samples, classes in turn, seeds %llu to %llu; timed: %d pairs of runs of %d "
           "pictures\n",
           b->a->samples, (unsigned long long)b->a->seed,
           (unsigned long long)b->a->seed + (unsigned long long)b->a->samples - 1, b->a->runs,
           b->p.timed.count);
    printf("PSNR: mean of the pictures', and of the mean squared error; [least most] of the "
           "pairs\n\n");
}

static void print_claims(const bench *b)
{
    for (method m = PLANNED; m <= UNIFORM; m++) {
        const tally on = count_on_target(b, m), fixed = count_better(b, m, FIXED);
        const tally fewer = count_better(b, m, FEWER);
        if (m == PLANNED && !b->sens) continue;
        printf("%s: within 5 %% of the ratio asked %d of %d; PSNR and SSIM above fixed interval "
               "%d of %d,\n  above fewer steps %d of %d (rivals at most 5 %% faster)\n",
               method_name[m], on.yes, on.of, fixed.yes, fixed.of, fewer.yes, fewer.of);
    }
}

static void print_text(const bench *b)
{
    print_head(b);
    printf("%-14s %6s %8s [%6s %6s] %6s %6s %8s %8s  %s\n", "method", "asked", "median", "least",
           "most", "PSNR", "(MSE)", "SSIM", "FLOP", "computed");
    for (int i = 0; i < b->count; i++) {
        if (i && b->line[i].asked != b->line[i - 1].asked) printf("\n");
        print_line(&b->line[i]);
    }
    printf("\n");
    print_claims(b);
}

/* ---- JSON and CSV ---------------------------------------------------------------------------- */

/* The numbers of a line, NAN = does not apply. */
#define COLUMNS 12
static const char *const column[COLUMNS] = {"speedup_requested",
                                            "speedup_measured",
                                            "speedup_min",
                                            "speedup_max",
                                            "steps",
                                            "evaluations",
                                            "full",
                                            "interval",
                                            "psnr_db",
                                            "psnr_of_mse_db",
                                            "ssim",
                                            "flop_ratio"};

static void column_values(const line *l, double v[COLUMNS])
{
    const double all[COLUMNS] = {l->asked,
                                 l->measured.median,
                                 l->measured.least,
                                 l->measured.most,
                                 l->steps,
                                 l->evals ? l->evals : NAN,
                                 l->evals ? l->full : NAN,
                                 l->interval ? l->interval : NAN,
                                 l->fidelity.psnr,
                                 l->fidelity.psnr_of_mean,
                                 l->fidelity.ssim,
                                 l->flop_ratio};
    for (int i = 0; i < COLUMNS; i++) v[i] = i == 0 || l->is_reached ? all[i] : NAN;
}

static void json_lines(const bench *b, cli_json *j)
{
    cli_json_key(j, "settings");
    putchar('[');
    for (int i = 0; i < b->count; i++) {
        double v[COLUMNS];
        cli_json c;
        if (i) fputs(", ", stdout);
        column_values(&b->line[i], v);
        cli_json_open(&c, stdout);
        cli_json_string(&c, "method", method_name[b->line[i].m]);
        for (int k = 0; k < COLUMNS; k++) cli_json_number(&c, column[k], v[k]);
        cli_json_close(&c);
    }
    putchar(']');
}

static void json_tally(cli_json *j, const char *key, tally t)
{
    cli_json_key(j, key);
    printf("{ \"yes\": %d, \"of\": %d }", t.yes, t.of);
}

static void print_json(const bench *b)
{
    const method m = b->sens ? PLANNED : UNIFORM;
    char cpu[128];
    cli_json j;
    cli_cpu_name(cpu, sizeof cpu);
    cli_json_open(&j, stdout);
    cli_json_string(&j, "bench", "speedup");
    cli_json_string(&j, "version", fv_version_string());
    cli_json_string(&j, "model", b->model.label);
    cli_json_string(&j, "name", b->model.info.name);
    cli_json_string(&j, "cpu", cpu);
    cli_json_u64(&j, "threads", (uint64_t)fv_ctx_threads(b->ctx));
    cli_json_string(&j, "precision", fv_dtype_name(b->model.precision));
    cli_json_string(&j, "sampler", fv_sampler_name(b->p.all.sampler));
    cli_json_u64(&j, "steps", (uint64_t)b->p.all.steps);
    cli_json_number(&j, "cfg", (double)b->p.all.cfg);
    cli_json_u64(&j, "samples", (uint64_t)b->a->samples);
    cli_json_u64(&j, "batch", (uint64_t)b->p.timed.count);
    cli_json_u64(&j, "runs", (uint64_t)b->a->runs);
    cli_json_u64(&j, "seed", b->a->seed);
    json_lines(b, &j);
    cli_json_string(&j, "judged", method_name[m]);
    json_tally(&j, "within_5_percent", count_on_target(b, m));
    json_tally(&j, "above_fixed_interval", count_better(b, m, FIXED));
    json_tally(&j, "above_fewer_steps", count_better(b, m, FEWER));
    cli_json_close(&j);
}

static int write_csv(const bench *b)
{
    bench_csv c;
    const int code = bench_csv_open(&c, "method");
    if (code != CLI_OK) return code;
    bench_csv_titles(&c, column, COLUMNS);
    for (int i = 0; i < b->count; i++) {
        double v[COLUMNS];
        column_values(&b->line[i], v);
        fputs(method_name[b->line[i].m], c.to);
        bench_csv_numbers(&c, v, COLUMNS);
    }
    return bench_csv_close(&c, b->a->csv);
}

/* ---- Plot ------------------------------------------------------------------------------------ */

static int write_plot(const bench *b)
{
    bench_points p[METHODS] = {{.n = 0}};
    fv_curve curve[CURVE_STYLES + METHODS];
    fv_plot_options po = FV_PLOT_OPTIONS_INIT;
    fv_image_write_options wo = FV_IMAGE_WRITE_OPTIONS_INIT;
    fv_image img = {0};
    char title[160], name[64];
    for (int i = 0; i < b->count; i++) {
        const line *l = &b->line[i];
        if (l->is_reached) bench_add_point(&p[l->m], l->measured.median, l->fidelity.psnr);
    }
    memset(curve, 0, sizeof curve);
    for (int m = 0; m < METHODS; m++) {
        curve[m] = (fv_curve){p[m].n ? method_name[m] : NULL, p[m].x, p[m].y, p[m].n, 0};
        curve[CURVE_STYLES + m] = (fv_curve){NULL, p[m].x, p[m].y, p[m].n, 1};
    }
    cli_printable(b->model.info.name, name, sizeof name);
    snprintf(title, sizeof title, "%s, %d steps of %s, cfg %g: %d samples against exact ones", name,
             b->p.all.steps, fv_sampler_name(b->p.all.sampler), (double)b->p.all.cfg,
             b->a->samples);
    po.title = title;
    po.x_label = "measured speed-up";
    po.y_label = "PSNR, dB";
    wo.overwrite = b->a->common.force;
    if (cli_is_special(b->a->plot)) wo.format = FV_IMAGE_PNG;
    fv_status s = fv_plot(b->ctx, &img, curve, CURVE_STYLES + METHODS, &po);
    if (s == FV_OK) s = fv_image_write(b->ctx, &img, b->a->plot, &wo);
    fv_image_free(b->ctx, &img);
    return s == FV_OK ? CLI_OK : cli_report(b->ctx, s, b->a->plot);
}

/* Files first: a failure leaves standard output empty. */
static int write_results(const bench *b)
{
    int code = b->a->csv ? write_csv(b) : CLI_OK;
    if (code == CLI_OK && b->a->plot) code = write_plot(b);
    if (code != CLI_OK) return code;
    if (b->a->common.json)
        print_json(b);
    else
        print_text(b);
    return CLI_OK;
}

/* ---- Command --------------------------------------------------------------------------------- */

static int parse(speedup_args *a, int argc, char **argv)
{
    const cli_option options[] = {
        {0, "speedup", "LIST", "ratios to reach (default 1.25,1.5,2,3)", CLI_STRING, &a->speedup, 0,
         0},
        {0, "runs", "N", "pairs of timed runs (default 5)", CLI_INT, &a->runs, 1, BENCH_MAX_RUNS},
        BENCH_OPT_PICTURES(a),
        BENCH_OPT_SAMPLING(&a->sampling),
        CLI_OPT_FORCE(&a->common),
        CLI_OPT_THREADS(&a->common),
        CLI_OPT_DEVICE(&a->common),
        CLI_OPT_PRECISION(&a->common),
        CLI_OPT_JSON(&a->common),
        CLI_OPT_QUIET(&a->common),
        CLI_OPT_VERBOSE(&a->common),
        CLI_OPT_END};
    const cli_command command = {
        .name = "fovea bench speedup",
        .usage = "[MODEL] [--speedup 1.5,2] [--plot FILE.png] [options]",
        .about = "Plans for speed-ups against a fixed interval and fewer steps: measured ratio, "
                 "and fidelity to the exact pictures on the same seeds.",
        .options = options,
        .max_files = 1};
    int count;
    return cli_parse(&command, argc, argv, &a->model, &count);
}

static int check(bench *b)
{
    const speedup_args *a = b->a;
    int code = bench_read_ratios(a->speedup, &b->ratios);
    if (code == CLI_OK && b->ratios.count == 0)
        return cli_fail(CLI_USAGE, "--speedup %s: a ratio above 1 is needed", a->speedup);
    if (code == CLI_OK) code = bench_set_sampling(&a->sampling, &b->p.all);
    if (code == CLI_OK && a->plot) code = cli_check_place(a->plot, a->common.force);
    if (code == CLI_OK && a->csv) code = cli_check_place(a->csv, a->common.force);
    return code;
}

static void close_bench(bench *b)
{
    bench_pictures_close(&b->p);
    fv_timing_free(&b->timing);
    fv_sens_free(&b->sens);
    bench_close(&b->model);
    free(b->fixed);
}

int bench_speedup(int argc, char **argv)
{
    speedup_args a = {
        .samples = 64, .runs = 5, .batch = 8, .seed = BENCH_SEED, .speedup = "1.25,1.5,2,3"};
    const int parsed = parse(&a, argc, argv);
    if (parsed >= 0) return parsed;
    bench *b = calloc(1, sizeof *b);
    if (!b) return cli_fail(CLI_FAILED, "out of memory");
    b->a = &a;
    b->p.all = (fv_generate_options)FV_GENERATE_OPTIONS_INIT;
    int code = check(b);
    if (code == CLI_OK) code = cli_start(&b->ctx, &a.common);
    if (b->ctx) {
        if (code == CLI_OK)
            code = bench_open(b->ctx, &b->model, a.model, cli_precision(b->ctx, &a.common));
        b->p.ctx = b->ctx;
        b->p.model = &b->model;
        if (code == CLI_OK) code = run_all(b);
        if (code == CLI_OK) code = write_results(b);
        close_bench(b);
        code = cli_finish(&b->ctx, code);
    }
    free(b);
    return code;
}
