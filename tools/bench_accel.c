/* bench_accel.c - `fovea bench accel`: all ways of saving work at equal measured time.
 *
 * For each ratio R every method gets as much time as R leaves, and its pictures are compared with
 * the exact ones of the same seeds:
 *
 *     dpx, soda, soda-paper,  plans of this project for R (dcs: full steps by dynamic
 *     dcs, fixed              programming alone; fixed: a constant interval)
 *     fora, toca, ...         methods of others (fv_accel_method); their one number - full steps,
 *                             interval or threshold - is searched for the fastest setting whose
 *                             measured ratio is at most R + 3 %. A whole number seldom hits R: the
 *                             method is then slower and not faster than R, which favours it
 *     fewer                   the exact path with fewer steps, from the same noise
 *
 * The search starts from FLOP ratios, scaled by what the method's settings measured so far, and
 * each setting is timed once for all ratios. Speed: medians of exact and accelerated run of one
 * batch in turn, by the clock, or on a busy machine by processor time (which counts threads that
 * spin while they wait: with several, set OMP_WAIT_POLICY=passive). The feature distance is the
 * mean squared distance of a classifier's features. */
#include "bench_accel.h"
#include "bench_csv.h"
#include "bench_judge.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TOLERANCE 0.03
#define PLAN_TRIES 3
#define MAX_LEVELS 2048
static const char default_methods[] =
    "dpx,soda,soda-paper,dcs,fora,toca,duca,taylorseer:order=1,taylorseer:order=2,"
    "taylorseer:order=3,taylorseer:order=4,taylorseer:order=2,form=newton,"
    "taylorseer:order=3,form=newton,taylorseer:order=2,lite=1,teacache,rfc,speca:min=0,clusca,"
    "cem,procache,dpcache,hicache,spectrum,fewer";

typedef struct accel_args {
    cli_common common;
    const char *model, *table, *speedup, *methods, *classifier, *plot, *schedule, *sheet, *csv,
        *clock;
    bench_sampling sampling;
    int samples, runs, batch;
    uint64_t seed;
} accel_args;

typedef struct accel_run {
    accel_bench b;
    const accel_args *a;
    fv_sens *sens;
    fv_timing *timing;
    bench_judge judge;
    float *exact_feature, *fast_feature;
} accel_run;

/* ---- Names ----------------------------------------------------------------------------------- */

/* Index in the library's list, -1 if it is not there. */
static int find_method(const char *spec, const char **options, const char **source)
{
    const size_t n = strcspn(spec, ":");
    const char *name;
    for (int i = 0; (name = fv_accel_method_name(i, options, source, NULL)) != NULL; i++)
        if (strlen(name) == n && strncmp(name, spec, n) == 0) return i;
    return -1;
}

static bool has_option(const char *spec, const char *key)
{
    const size_t n = strlen(key);
    const char *p = strchr(spec, ':');
    for (; p; p = strchr(p + 1, ','))
        if (strncmp(p + 1, key, n) == 0 && p[1 + n] == '=') return true;
    return false;
}

/* What is searched; a setting that was given is kept. */
static const char *search_key(const char *spec, const char *options)
{
    static const char *const key[] = {"anchors", "N", "threshold"};
    for (size_t i = 0; i < sizeof key / sizeof *key; i++)
        if (has_option(spec, key[i])) return NULL;
    for (size_t i = 0; i < sizeof key / sizeof *key; i++) {
        const char *at = strstr(options, key[i]);
        if (at && at[strlen(key[i])] == '=') return key[i];
    }
    return NULL;
}

static int add_method(accel_bench *b, const char *spec, bool is_default)
{
    const char *options = NULL, *source = NULL;
    accel_method *m = &b->method[b->methods];
    fv_accel_mode mode;
    if (b->methods == ACCEL_METHODS)
        return cli_fail(CLI_USAGE, "--methods: at most %d are possible", ACCEL_METHODS);
    memset(m, 0, sizeof *m);
    m->correction = 1;
    snprintf(m->spec, sizeof m->spec, "%s", spec);
    snprintf(m->label, sizeof m->label, "%s", spec);
    if (strcmp(spec, "fewer") == 0) {
        m->kind = ACCEL_FEWER;
    } else if (fv_accel_mode_find(spec, &mode) && mode != FV_ACCEL_EXACT) {
        m->kind = ACCEL_PLANNER;
        m->mode = mode;
    } else if (find_method(spec, &options, &source) >= 0) {
        const int n = (int)strcspn(spec, ":");
        m->kind = ACCEL_METHOD;
        m->key = search_key(spec, options);
        if (strstr(source, "description")) /* its constants are not from its authors' code */
            snprintf(m->label, sizeof m->label, "%.*s-like%s", n, spec, spec + n);
    } else {
        if (is_default) return CLI_OK;
        return cli_fail(CLI_USAGE, "--methods: %s is unknown; --methods list prints all", spec);
    }
    b->methods++;
    return CLI_OK;
}

/* A list with commas; "key=value" behind a comma belongs to the method before it. */
static int read_methods(accel_bench *b, const char *text, bool is_default)
{
    char spec[ACCEL_SPEC];
    size_t n = 0;
    while (*text) {
        const size_t word = strcspn(text, ","), name = strcspn(text, ",:=");
        const bool goes_on = n > 0 && text[name] == '=';
        if (n > 0 && !goes_on) {
            const int code = add_method(b, spec, is_default);
            if (code != CLI_OK) return code;
            n = 0;
        }
        if (n + word + 2 > sizeof spec)
            return cli_fail(CLI_USAGE, "--methods: a method has at most %d characters",
                            ACCEL_SPEC - 2);
        if (goes_on) spec[n++] = ',';
        memcpy(spec + n, text, word);
        n += word;
        spec[n] = 0;
        text += word + (text[word] == ',');
    }
    return n > 0 ? add_method(b, spec, is_default) : CLI_OK;
}

/* ---- Settings -------------------------------------------------------------------------------- */

static fv_status make_plan(accel_run *r, const accel_method *m, double value, fv_accel **out)
{
    char spec[ACCEL_SPEC + 32];
    if (m->key)
        snprintf(spec, sizeof spec, "%s%c%s=%.9g", m->spec, strchr(m->spec, ':') ? ',' : ':',
                 m->key, value);
    else
        snprintf(spec, sizeof spec, "%s", m->spec);
    return fv_accel_method(r->b.ctx, out, r->b.model.dit, &r->b.p.timed, r->sens, spec);
}

/* The j-th number to try, NAN after the last. */
static double level_value(const accel_run *r, const accel_method *m, int j, int evals)
{
    const fv_sampler sampler = r->b.p.all.sampler;
    if (m->kind == ACCEL_FEWER) {
        const int least = sampler == FV_SAMPLER_DDPM || sampler == FV_SAMPLER_DDIM ? 2 : 1;
        return r->b.p.all.steps - j >= least ? r->b.p.all.steps - j : NAN;
    }
    if (m->key && m->key[0] == 'a') return j < evals ? evals - j : NAN;
    if (!m->key) return j == 0 ? 0 : NAN;
    if (m->key[0] == 'N') return pow(1.03, j) <= evals ? pow(1.03, j) : NAN;
    return 0.002 * pow(1.08, j) <= 10 ? 0.002 * pow(1.08, j) : NAN;
}

/* Settings of a method, each faster by FLOP than the one before; where that is known only from a
 * run, all of them. */
static fv_status list_settings(accel_run *r, accel_method *m, int evals)
{
    double last = 0;
    m->setting = calloc(MAX_LEVELS, sizeof *m->setting);
    if (!m->setting) return FV_ERR_OOM;
    for (int j = 0; j < MAX_LEVELS; j++) {
        const double value = level_value(r, m, j, evals);
        accel_setting *to = &m->setting[m->settings];
        fv_accel *plan = NULL;
        fv_accel_info info = {0};
        if (isnan(value)) break;
        *to = (accel_setting){.value = value, .predicted = r->b.p.all.steps / value};
        if (m->kind == ACCEL_METHOD) {
            const fv_status s = make_plan(r, m, value, &plan);
            if (s == FV_ERR_ARG && m->key) continue; /* too few full steps for it */
            if (s != FV_OK) return s;
            fv_accel_get_info(plan, &info);
            to->predicted = info.at_run_time ? NAN : info.flop_ratio;
            fv_accel_free(&plan);
        }
        if (to->predicted <= last * 1.0001) continue;
        last = info.at_run_time ? 0 : to->predicted;
        m->settings++;
    }
    return FV_OK;
}

static fv_status count_evals(accel_run *r, int *evals)
{
    fv_accel *plan;
    fv_accel_info info;
    const fv_status s =
        fv_accel_method(r->b.ctx, &plan, r->b.model.dit, &r->b.p.timed, NULL, "fora:N=1");
    if (s != FV_OK) return s;
    fv_accel_get_info(plan, &info);
    fv_accel_free(&plan);
    *evals = info.steps;
    return FV_OK;
}

/* ---- Timing and search ----------------------------------------------------------------------- */

static int steps_of(const accel_run *r, const accel_method *m, double value)
{
    return m->kind == ACCEL_FEWER ? (int)value : r->b.p.all.steps;
}

/* At least `runs` pairs of setting i; the first comes after a run that is not timed: a plan may
 * need weights in a form that was not there before. */
static fv_status measure(accel_run *r, accel_method *m, int i, int runs)
{
    accel_setting *t = &m->setting[i];
    double v[BENCH_MAX_RUNS], ignored;
    char name[ACCEL_SPEC + 40];
    fv_accel *plan = NULL;
    if (t->runs >= runs) return FV_OK;
    fv_status s = m->kind == ACCEL_METHOD ? make_plan(r, m, t->value, &plan) : FV_OK;
    const int steps = steps_of(r, m, t->value);
    snprintf(name, sizeof name, "%s %s %.4g", m->label, m->key ? m->key : "", t->value);
    if (s == FV_OK && !t->runs) s = bench_run_once(&r->b.p, plan, steps, &ignored);
    if (s == FV_OK)
        s = bench_time_pairs(&r->b.p, name, plan, steps, runs - t->runs, t->ratio + t->runs);
    fv_accel_free(&plan);
    if (s != FV_OK) return s;
    t->runs = runs;
    memcpy(v, t->ratio, (size_t)runs * sizeof *v);
    t->median = bench_spread_of(v, runs).median;
    if (t->predicted > 0) m->correction = t->median / t->predicted;
    return FV_OK;
}

/* Next setting to try between lo and hi. */
static int next_setting(const accel_method *m, int lo, int hi, double limit)
{
    if (isnan(m->setting[lo + 1].predicted)) return (lo + hi) / 2 > lo ? (lo + hi) / 2 : lo + 1;
    int i = lo + 1;
    while (i + 1 < hi && m->setting[i + 1].predicted * m->correction <= limit) i++;
    return i;
}

/* lo and hi close in on the limit; few pairs may mislead, the caller looks again. */
static fv_status close_in(accel_run *r, accel_method *m, double limit, int *lo, int *hi)
{
    const int few = r->a->runs / 3 > 0 ? r->a->runs / 3 : 1;
    while (*hi - *lo > 1) {
        const int i = next_setting(m, *lo, *hi, limit);
        const fv_status s = measure(r, m, i, few);
        if (s != FV_OK) return s;
        if (m->setting[i].median <= limit) *lo = i;
        else *hi = i;
    }
    return FV_OK;
}

/* The fastest setting that is at most as fast as the ratio and its tolerance; 0 if none is. */
static fv_status search(accel_run *r, accel_method *m, double asked, int *out)
{
    const double limit = asked * (1 + TOLERANCE);
    int lo = 0, hi = m->settings;
    fv_status s = FV_OK;
    for (bool is_sure = false; s == FV_OK && !is_sure;) {
        s = close_in(r, m, limit, &lo, &hi);
        if (s == FV_OK) s = measure(r, m, lo, r->a->runs);
        if (s != FV_OK) break;
        const double median = m->setting[lo].median;
        const bool is_below = median < asked * (1 - TOLERANCE) && hi < m->settings;
        is_sure = true;
        if (median > limit && lo > 0) { /* more pairs say otherwise */
            hi = lo--;
            is_sure = false;
        } else if (is_below && m->setting[hi].runs < r->a->runs) {
            s = measure(r, m, hi, r->a->runs);
            if (m->setting[hi].median > limit) continue;
            lo = hi;
            hi = m->settings;
            is_sure = false;
        }
    }
    *out = lo;
    return s;
}

/* ---- A method at a ratio --------------------------------------------------------------------- */

static fv_status judge_features(accel_run *r, accel_line *l)
{
    const size_t n = (size_t)r->b.p.all.count * (size_t)r->judge.info.features;
    l->feature = NAN;
    if (!r->judge.net) return FV_OK;
    const fv_status s = bench_judge_images(&r->judge, r->b.p.fast, r->b.p.all.count, NULL,
                                           r->fast_feature);
    double sum = 0;
    for (size_t i = 0; i < n && s == FV_OK; i++) {
        const double d = (double)r->fast_feature[i] - r->exact_feature[i];
        sum += d * d;
    }
    l->feature = sum / (double)n;
    return s;
}

static fv_status judge(accel_run *r, accel_line *l, int steps)
{
    bench_pictures *p = &r->b.p;
    fv_status s = bench_make_fast(p, l->method->label, l->plan, steps);
    if (s == FV_OK) s = bench_compare(p, &l->fidelity);
    if (s == FV_OK) s = judge_features(r, l);
    l->flop_ratio = p->fast_flop > 0 ? p->exact_flop / p->fast_flop : NAN;
    l->is_made = s == FV_OK;
    l->is_reached = l->is_made && l->measured.median >= l->asked * (1 - TOLERANCE);
    for (int i = 0; i < r->b.shown && s == FV_OK && l->asked == r->b.shown_ratio; i++) {
        l->shown[i] = p->fast[i];
        p->fast[i] = (fv_image){0};
    }
    bench_drop_fast(p);
    return s;
}

static void describe(accel_line *l, const char *key, double value)
{
    fv_accel_info info;
    char number[32] = "";
    if (!l->plan) {
        snprintf(l->setting, sizeof l->setting, "%d steps", (int)value);
        return;
    }
    fv_accel_get_info(l->plan, &info);
    if (key) snprintf(number, sizeof number, "%s=%.4g", key, value);
    if (info.at_run_time)
        snprintf(l->setting, sizeof l->setting, "%s", number);
    else
        snprintf(l->setting, sizeof l->setting, "%s%s%d of %d full", number, key ? ", " : "",
                 info.anchors, info.steps);
}

static fv_status run_searched(accel_run *r, accel_method *m, accel_line *l)
{
    double v[BENCH_MAX_RUNS];
    int i;
    fv_status s = search(r, m, l->asked, &i);
    if (s != FV_OK) return s;
    const accel_setting *t = &m->setting[i];
    memcpy(v, t->ratio, (size_t)t->runs * sizeof *v);
    l->measured = bench_spread_of(v, t->runs);
    if (m->kind == ACCEL_METHOD) s = make_plan(r, m, t->value, &l->plan);
    if (s != FV_OK) return s;
    describe(l, m->key, t->value);
    return judge(r, l, steps_of(r, m, t->value));
}

/* Planned again for a little more or less where the measured ratio misses; the nearest counts. */
static fv_status run_planner(accel_run *r, const accel_method *m, accel_line *l)
{
    double ask = l->asked, v[BENCH_MAX_RUNS];
    fv_status s = FV_OK;
    for (int i = 0; i < PLAN_TRIES; i++) {
        fv_accel *plan = NULL;
        cli_progress_title("%s %gx, planning", m->label, l->asked);
        s = bench_solve(r->b.ctx, &r->b.model, &r->b.p.timed, r->sens, m->mode, ask,
                        !r->b.p.is_cpu_time, &r->timing, &plan);
        if (s == FV_ERR_ARG && l->plan) break;
        if (s == FV_OK)
            s = bench_time_pairs(&r->b.p, m->label, plan, r->b.p.all.steps, r->a->runs, v);
        if (s != FV_OK) {
            fv_accel_free(&plan);
            break;
        }
        const bench_spread t = bench_spread_of(v, r->a->runs);
        const double miss = fabs(log(t.median / l->asked));
        if (!l->plan || miss < fabs(log(l->measured.median / l->asked))) {
            fv_accel_free(&l->plan);
            l->plan = plan;
            l->measured = t;
        } else {
            fv_accel_free(&plan);
        }
        ask = fmax(ask * l->asked / t.median, 1.0001);
        if (miss <= TOLERANCE) break;
    }
    if (s == FV_ERR_ARG && !l->plan) { /* out of reach: the other methods still count */
        cli_progress_title(NULL);
        cli_note("%s %gx: %s", m->label, l->asked, fv_ctx_error(r->b.ctx));
        return FV_OK;
    }
    if (s != FV_OK && s != FV_ERR_ARG) return s;
    describe(l, NULL, 0);
    return judge(r, l, r->b.p.all.steps);
}

/* ---- All runs -------------------------------------------------------------------------------- */

static int open_judge(accel_run *r)
{
    const size_t n = (size_t)r->b.p.all.count;
    if (!r->a->classifier) return CLI_OK;
    const int code =
        bench_judge_open(r->b.ctx, &r->judge, r->a->classifier, r->b.model.info.image_size);
    if (code != CLI_OK) return code;
    const size_t F = (size_t)r->judge.info.features;
    r->exact_feature = calloc(n * F, sizeof(float));
    r->fast_feature = calloc(n * F, sizeof(float));
    if (!r->exact_feature || !r->fast_feature)
        return cli_fail(CLI_FAILED, "out of memory");
    return CLI_OK;
}

static fv_status run_ratio(accel_run *r, double R)
{
    fv_status s = FV_OK;
    for (int i = 0; i < r->b.methods && s == FV_OK; i++) {
        accel_method *m = &r->b.method[i];
        accel_line *l = &r->b.line[r->b.lines++];
        l->method = m;
        l->asked = R;
        l->feature = NAN;
        if (m->kind == ACCEL_PLANNER) s = run_planner(r, m, l);
        else if (m->settings > 0) s = run_searched(r, m, l);
    }
    return s;
}

static fv_status run_settings(accel_run *r)
{
    int evals;
    fv_status s = count_evals(r, &evals);
    for (int i = 0; i < r->b.methods && s == FV_OK; i++)
        if (r->b.method[i].kind != ACCEL_PLANNER) s = list_settings(r, &r->b.method[i], evals);
    if (s == FV_OK) s = bench_make_exact(&r->b.p);
    if (s == FV_OK && r->judge.net)
        s = bench_judge_images(&r->judge, r->b.p.exact, r->b.p.all.count, NULL, r->exact_feature);
    for (int i = 0; i < r->b.ratios.count && s == FV_OK; i++)
        s = run_ratio(r, r->b.ratios.ratio[i]);
    cli_progress_title(NULL);
    return s;
}

static int run_all(accel_run *r)
{
    accel_bench *b = &r->b;
    const accel_args *a = r->a;
    int code = bench_pictures_open(&b->p, a->samples, a->batch, a->seed);
    if (code == CLI_OK) code = bench_find_table(b->ctx, &b->model, a->table, &b->p.all, &r->sens);
    if (code == CLI_OK) code = open_judge(r);
    if (code != CLI_OK) return code;
    b->line = calloc((size_t)b->ratios.count * (size_t)b->methods, sizeof *b->line);
    if (!b->line) return cli_fail(CLI_FAILED, "out of memory");
    b->shown_ratio = b->ratios.ratio[b->ratios.count / 2];
    b->shown = !a->sheet ? 0 : a->samples < ACCEL_SHOWN ? a->samples : ACCEL_SHOWN;
    const fv_status s = run_settings(r);
    return s == FV_OK ? CLI_OK : cli_report(b->ctx, s, b->model.label);
}

const accel_line *accel_best_line(const accel_bench *b, accel_kind kind, double asked)
{
    const accel_line *best = NULL;
    for (int i = 0; i < b->lines; i++) {
        const accel_line *l = &b->line[i];
        if (!l->is_made || l->asked != asked || l->method->kind != kind) continue;
        if (!best || l->fidelity.psnr > best->fidelity.psnr) best = l;
    }
    return best;
}

/* ---- Text ------------------------------------------------------------------------------------ */

static void print_head(const accel_run *r)
{
    const accel_bench *b = &r->b;
    const fv_generate_options *o = &b->p.all;
    char cpu[128], name[64];
    cli_cpu_name(cpu, sizeof cpu);
    cli_printable(b->model.info.name, name, sizeof name);
    printf("%s, %d steps of %s, cfg %g, %s, %d threads, %s\n", name, o->steps,
           fv_sampler_name(o->sampler), (double)o->cfg, fv_dtype_name(b->model.precision),
           fv_ctx_threads(b->ctx), cpu);
    printf("%d samples, classes in turn, seeds %llu to %llu; timed%s: %d pairs of runs of %d "
           "pictures\n",
           o->count, (unsigned long long)o->seed,
           (unsigned long long)o->seed + (unsigned long long)o->count - 1,
           b->p.is_cpu_time ? " by processor time" : "", r->a->runs, b->p.timed.count);
    printf("methods of others: the fastest setting up to 3 %% above the ratio; < is slower than "
           "3 %% below it\n\n");
}

static void print_line(const accel_run *r, const accel_line *l)
{
    printf("%-32s %4gx ", l->method->label, l->asked);
    if (!l->is_made) {
        printf("  out of reach\n");
        return;
    }
    printf("%7.3fx%c[%6.3f %6.3f] %6.2f %6.2f %8.5f ", l->measured.median,
           l->is_reached ? ' ' : '<', l->measured.least, l->measured.most, l->fidelity.psnr,
           l->fidelity.psnr_of_mean, l->fidelity.ssim);
    if (r->judge.net) printf("%9.3g ", l->feature);
    printf("%7.3fx  %s\n", l->flop_ratio, l->setting);
}

static void print_text(const accel_run *r)
{
    const accel_bench *b = &r->b;
    print_head(r);
    printf("%-32s %5s %8s [%6s %6s] %6s %6s %8s %s%8s  %s\n", "method", "asked", "median", "least",
           "most", "PSNR", "(MSE)", "SSIM", r->judge.net ? "  feature " : "", "FLOP", "setting");
    for (int i = 0; i < b->lines; i++) {
        if (i && b->line[i].asked != b->line[i - 1].asked) printf("\n");
        print_line(r, &b->line[i]);
    }
    printf("\n");
    for (int i = 0; i < b->ratios.count; i++) {
        const double R = b->ratios.ratio[i];
        const accel_line *own = accel_best_line(b, ACCEL_PLANNER, R);
        const accel_line *other = accel_best_line(b, ACCEL_METHOD, R);
        if (own && other)
            printf("%gx: %s %.2f dB, best of the others %s %.2f dB (%+.2f)\n", R,
                   own->method->label, own->fidelity.psnr, other->method->label,
                   other->fidelity.psnr, own->fidelity.psnr - other->fidelity.psnr);
    }
}

/* ---- JSON and CSV ---------------------------------------------------------------------------- */

#define COLUMNS 9
static const char *const column[COLUMNS] = {
    "speedup_requested", "speedup_measured", "speedup_min",      "speedup_max", "psnr_db",
    "psnr_of_mse_db",    "ssim",             "feature_distance", "flop_ratio"};

static void column_values(const accel_line *l, double v[COLUMNS])
{
    const double all[COLUMNS] = {
        l->asked,         l->measured.median,       l->measured.least, l->measured.most,
        l->fidelity.psnr, l->fidelity.psnr_of_mean, l->fidelity.ssim,  l->feature,
        l->flop_ratio};
    for (int i = 0; i < COLUMNS; i++) v[i] = i == 0 || l->is_made ? all[i] : NAN;
}

static void json_lines(const accel_bench *b, cli_json *j)
{
    cli_json_key(j, "settings");
    putchar('[');
    for (int i = 0; i < b->lines; i++) {
        double v[COLUMNS];
        cli_json c;
        if (i) fputs(", ", stdout);
        column_values(&b->line[i], v);
        cli_json_open(&c, stdout);
        cli_json_string(&c, "method", b->line[i].method->label);
        for (int k = 0; k < COLUMNS; k++) cli_json_number(&c, column[k], v[k]);
        cli_json_string(&c, "setting", b->line[i].setting);
        cli_json_close(&c);
    }
    putchar(']');
}

static void print_json(const accel_run *r)
{
    const accel_bench *b = &r->b;
    const fv_generate_options *o = &b->p.all;
    char cpu[128];
    cli_json j;
    cli_cpu_name(cpu, sizeof cpu);
    cli_json_open(&j, stdout);
    cli_json_string(&j, "bench", "accel");
    cli_json_string(&j, "version", fv_version_string());
    cli_json_string(&j, "model", b->model.label);
    cli_json_string(&j, "name", b->model.info.name);
    cli_json_string(&j, "cpu", cpu);
    cli_json_u64(&j, "threads", (uint64_t)fv_ctx_threads(b->ctx));
    cli_json_string(&j, "precision", fv_dtype_name(b->model.precision));
    cli_json_string(&j, "sampler", fv_sampler_name(o->sampler));
    cli_json_u64(&j, "steps", (uint64_t)o->steps);
    cli_json_number(&j, "cfg", (double)o->cfg);
    cli_json_u64(&j, "samples", (uint64_t)o->count);
    cli_json_u64(&j, "batch", (uint64_t)b->p.timed.count);
    cli_json_u64(&j, "runs", (uint64_t)r->a->runs);
    cli_json_string(&j, "clock", b->p.is_cpu_time ? "cpu" : "wall");
    cli_json_u64(&j, "seed", o->seed);
    cli_json_string(&j, "classifier", r->a->classifier);
    json_lines(b, &j);
    cli_json_close(&j);
}

static int write_csv(const accel_run *r)
{
    const accel_bench *b = &r->b;
    bench_csv c;
    const int code = bench_csv_open(&c, "method,setting");
    if (code != CLI_OK) return code;
    bench_csv_titles(&c, column, COLUMNS);
    for (int i = 0; i < b->lines; i++) {
        double v[COLUMNS];
        column_values(&b->line[i], v);
        bench_csv_quoted(&c, b->line[i].method->label);
        putc(',', c.to);
        bench_csv_quoted(&c, b->line[i].setting);
        bench_csv_numbers(&c, v, COLUMNS);
    }
    return bench_csv_close(&c, r->a->csv);
}

/* Files first: a failure leaves standard output empty. */
static int write_results(const accel_run *r)
{
    const accel_args *a = r->a;
    int code = a->csv ? write_csv(r) : CLI_OK;
    if (code == CLI_OK && a->plot) code = accel_write_plot(&r->b, a->plot);
    if (code == CLI_OK && a->schedule) code = accel_write_schedule(&r->b, a->schedule);
    if (code == CLI_OK && a->sheet) code = accel_write_sheet(&r->b, a->sheet);
    if (code != CLI_OK) return code;
    if (a->common.json) print_json(r);
    else print_text(r);
    return CLI_OK;
}

/* ---- Command --------------------------------------------------------------------------------- */

static const char more[] =
    "--methods LIST: dpx, soda, soda-paper, dcs and fixed plan for the ratio, fewer\n"
    "takes fewer steps, and methods of others, as in fora,taylorseer:order=2,lite=1\n"
    "(what they leave out of N, anchors and threshold is searched). The word list\n"
    "prints these methods with their options.\n";

static int list_methods(void)
{
    const char *name, *options, *source, *about;
    for (int i = 0; (name = fv_accel_method_name(i, &options, &source, &about)) != NULL; i++)
        printf("%-10s %s\n           %s\n           [%s]\n", name, options, about, source);
    return CLI_OK;
}

static int parse(accel_args *a, int argc, char **argv)
{
    const cli_option options[] = {
        {0, "speedup", "LIST", "ratios to reach (default 2,3,5)", CLI_STRING, &a->speedup, 0, 0},
        {0, "methods", "LIST", "what is compared (default: all)", CLI_STRING, &a->methods, 0, 0},
        {0, "runs", "N", "pairs of timed runs (default 3)", CLI_INT, &a->runs, 1, BENCH_MAX_RUNS},
        BENCH_OPT_PICTURES(a),
        {0, "clock", "wall|cpu", "cpu: processor time, for busy machines", CLI_CHOICE, &a->clock, 0,
         0},
        {0, "classifier", "FILE", "also the distance of its features", CLI_STRING, &a->classifier,
         0, 0},
        {0, "schedule", "FILE", "picture: what the first plan computes when", CLI_STRING,
         &a->schedule, 0, 0},
        {0, "sheet", "FILE", "picture: samples of exact and accelerated runs", CLI_STRING,
         &a->sheet, 0, 0},
        BENCH_OPT_SAMPLING(&a->sampling),
        CLI_OPT_FORCE(&a->common),
        CLI_OPT_MACHINE(&a->common),
        CLI_OPT_JSON(&a->common),
        CLI_OPT_TALK_END(&a->common)};
    const cli_command command = {
        .name = "fovea bench accel",
        .usage = "[MODEL] [--speedup 2,3] [--methods LIST] [options]",
        .about = "All ways of saving work at equal measured time: how near their pictures are to "
                 "the exact ones of the same seeds.",
        .more = more,
        .options = options,
        .max_files = 1};
    int count;
    return cli_parse(&command, argc, argv, &a->model, &count);
}

static int check(accel_run *r)
{
    const accel_args *a = r->a;
    const char *const place[] = {a->plot, a->schedule, a->sheet, a->csv};
    int code = bench_read_ratios(a->speedup, &r->b.ratios);
    if (code == CLI_OK && r->b.ratios.count == 0)
        return cli_fail(CLI_USAGE, "--speedup %s: a ratio above 1 is needed", a->speedup);
    if (code == CLI_OK)
        code = read_methods(&r->b, a->methods ? a->methods : default_methods, !a->methods);
    if (code == CLI_OK && r->b.methods == 0)
        return cli_fail(CLI_USAGE, "--methods: the list is empty");
    if (code == CLI_OK) code = bench_set_sampling(&a->sampling, &r->b.p.all);
    for (size_t i = 0; i < sizeof place / sizeof *place && code == CLI_OK; i++) {
        if (!place[i]) continue;
        if (place[i] != a->csv && !cli_has_picture_suffix(place[i]) && !cli_is_special(place[i]))
            return cli_fail(CLI_USAGE, "%s: use .png .jpg .webp or .ppm", place[i]);
        code = cli_check_place(place[i], a->common.force);
    }
    return code;
}

static void close_run(accel_run *r)
{
    accel_bench *b = &r->b;
    for (int i = 0; i < b->lines; i++) {
        fv_accel_free(&b->line[i].plan);
        for (int k = 0; k < ACCEL_SHOWN; k++) fv_image_free(b->ctx, &b->line[i].shown[k]);
    }
    free(b->line);
    for (int i = 0; i < b->methods; i++) free(b->method[i].setting);
    bench_pictures_close(&b->p);
    bench_judge_close(&r->judge);
    free(r->exact_feature);
    free(r->fast_feature);
    fv_timing_free(&r->timing);
    fv_sens_free(&r->sens);
    bench_close(&b->model);
}

int bench_accel(int argc, char **argv)
{
    accel_args a = {.samples = 64, .runs = 3, .batch = 8, .seed = BENCH_SEED, .speedup = "2,3,5"};
    const int parsed = parse(&a, argc, argv);
    if (parsed >= 0) return parsed;
    if (a.methods && strcmp(a.methods, "list") == 0) {
        fv_ctx *none = NULL;
        return cli_finish(&none, list_methods());
    }
    accel_run *r = calloc(1, sizeof *r);
    if (!r) return cli_fail(CLI_FAILED, "out of memory");
    accel_bench *b = &r->b;
    r->a = &a;
    b->p.all = (fv_generate_options)FV_GENERATE_OPTIONS_INIT;
    b->overwrites = a.common.force;
    b->p.is_cpu_time = a.clock && strcmp(a.clock, "cpu") == 0;
    int code = check(r);
    if (code == CLI_OK) code = cli_start(&b->ctx, &a.common);
    if (b->ctx) {
        b->p.ctx = b->ctx;
        b->p.model = &b->model;
        if (code == CLI_OK)
            code = bench_open(b->ctx, &b->model, a.model, cli_precision(b->ctx, &a.common));
        if (code == CLI_OK) code = run_all(r);
        if (code == CLI_OK) code = write_results(r);
        fv_ctx *ctx = b->ctx;
        close_run(r);
        code = cli_finish(&ctx, code);
    }
    free(r);
    return code;
}
