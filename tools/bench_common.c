/* bench_common.c - model, options, table and plans of the verbs of `fovea bench` that draw
 * samples. */
#include "bench_common.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_SPEEDUP 100.0

int bench_open(fv_ctx *ctx, bench_model *m, const char *path, fv_dtype precision)
{
    fv_dit_options o = FV_DIT_OPTIONS_INIT;
    fv_status s;
    m->path = path;
    m->label = path ? path : "the default model";
    m->precision = o.precision = precision;
    if (path) {
        s = fv_model_open(ctx, &m->file, path, NULL);
    } else {
        size_t size = 0;
        const void *bytes = fv_dit_default_model(&size);
        if (size == 0) return cli_fail(CLI_USAGE, "no default model in this build: give a file");
        s = fv_model_open_memory(ctx, &m->file, bytes, size, NULL);
    }
    if (s == FV_OK) s = fv_dit_open(ctx, &m->dit, m->file, &o);
    if (s != FV_OK) return cli_report(ctx, s, m->label);
    fv_dit_get_info(m->dit, &m->info);
    return CLI_OK;
}

void bench_close(bench_model *m)
{
    fv_dit_close(&m->dit);
    fv_model_close(&m->file);
}

int bench_set_sampling(const bench_sampling *s, fv_generate_options *o)
{
    o->steps = s->steps;
    o->cfg = (float)s->cfg;
    if (!s->sampler) return CLI_OK;
    o->sampler = fv_sampler_find(s->sampler);
    if (o->sampler != FV_SAMPLER_AUTO) return CLI_OK;
    return cli_fail(CLI_USAGE, "--sampler %s: use ddpm, ddim, dpmpp2m, euler or heun", s->sampler);
}

int bench_read_ratios(const char *text, bench_ratios *out)
{
    const int most = (int)(sizeof out->ratio / sizeof *out->ratio);
    out->count = 0;
    for (const char *p = text; *p;) {
        char *end;
        const double v = strtod(p, &end);
        if (end == p || !(v >= 1 && v <= MAX_SPEEDUP) || (*end && !strchr("x, ", *end)))
            return cli_fail(CLI_USAGE, "--speedup %s: ratios from 1 to %g are needed, as in 1.5,2",
                            text, MAX_SPEEDUP);
        for (p = end; *p && strchr("x, ", *p); p++) continue;
        if (v == 1) continue;
        if (out->count == most)
            return cli_fail(CLI_USAGE, "--speedup: at most %d ratios are possible", most);
        out->ratio[out->count++] = v;
    }
    return CLI_OK;
}

int bench_find_table(fv_ctx *ctx, const bench_model *m, const char *named,
                     const fv_generate_options *o, fv_sens **out)
{
    char *beside = !named && m->path ? cli_with_suffix(m->path, ".fvsens") : NULL;
    const char *path = named ? named : beside && cli_file_exists(beside) ? beside : NULL;
    fv_status s = FV_OK;
    int code = CLI_OK;
    *out = NULL;
    if (path) {
        s = fv_sens_read(ctx, out, path);
    } else if (!m->path) {
        size_t size = 0;
        const void *bytes = fv_dit_default_table(&size);
        if (size) s = fv_sens_parse(ctx, out, bytes, size);
    }
    if (s == FV_OK && *out) s = fv_sens_match(ctx, *out, m->dit, o);
    if (s != FV_OK && named) code = cli_report(ctx, s, named);
    if (s != FV_OK) fv_sens_free(out);
    if (!*out && code == CLI_OK)
        cli_note("no sensitivity table for this model and sampler: planning by a general prior");
    free(beside);
    return code;
}

void bench_add_point(bench_points *p, double x, double y)
{
    if (p->n == (int)(sizeof p->x / sizeof *p->x)) return;
    int i = p->n++;
    for (; i > 0 && p->x[i - 1] > x; i--) {
        p->x[i] = p->x[i - 1];
        p->y[i] = p->y[i - 1];
    }
    p->x[i] = x;
    p->y[i] = y;
}

fv_status bench_solve(fv_ctx *ctx, const bench_model *m, const fv_generate_options *o,
                      const fv_sens *sens, fv_accel_mode mode, double speedup, bool corrects,
                      fv_timing **timing, fv_accel **out)
{
    fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
    *out = NULL;
    a.mode = mode;
    a.speedup = speedup;
    if (!*timing) {
        const fv_status s = fv_timing_measure(ctx, timing, m->dit, o);
        if (s != FV_OK) return s;
    }
    return corrects ? fv_accel_solve(ctx, out, m->dit, o, sens, *timing, &a, NULL)
                    : fv_accel_plan(ctx, out, m->dit, o, sens, *timing, &a);
}

/* ---- Accelerated runs against exact ones ----------------------------------------------------- */

int bench_pictures_open(bench_pictures *p, int samples, int batch, uint64_t seed)
{
    const fv_dit_info *info = &p->model->info;
    fv_generate_options *o = &p->all;
    if (o->sampler == FV_SAMPLER_AUTO) o->sampler = info->sampler;
    if (o->steps == 0) o->steps = info->steps;
    if (o->cfg == 0) o->cfg = info->cfg;
    p->classes = calloc((size_t)samples, sizeof *p->classes);
    p->exact = calloc((size_t)samples, sizeof *p->exact);
    p->fast = calloc((size_t)samples, sizeof *p->fast);
    o->count = samples;
    if (!p->classes || !p->exact || !p->fast) return cli_fail(CLI_FAILED, "out of memory");
    for (int i = 0; i < samples; i++) p->classes[i] = info->classes > 0 ? i % info->classes : 0;
    o->classes = p->classes;
    o->seed = seed;
    o->batch = batch < samples ? batch : samples;
    p->timed = *o;
    p->timed.count = o->batch;
    return CLI_OK;
}

static void free_images(bench_pictures *p, fv_image *images)
{
    for (int i = 0; images && i < p->all.count; i++) fv_image_free(p->ctx, &images[i]);
}

void bench_drop_fast(bench_pictures *p)
{
    free_images(p, p->fast);
}

void bench_pictures_close(bench_pictures *p)
{
    free_images(p, p->exact);
    free_images(p, p->fast);
    free(p->exact);
    free(p->fast);
    free(p->classes);
}

fv_status bench_make_exact(bench_pictures *p)
{
    fv_generate_stats st = {0};
    cli_progress_title("exact, %d samples", p->all.count);
    const fv_status s = fv_generate(p->ctx, p->model->dit, &p->all, p->exact, &st);
    p->exact_flop = st.flop;
    return s;
}

fv_status bench_make_fast(bench_pictures *p, const char *name, const fv_accel *accel, int steps)
{
    fv_generate_options o = p->all;
    fv_generate_stats st = {0};
    o.accel = accel;
    o.steps = steps;
    bench_drop_fast(p);
    cli_progress_title("%s, %d samples", name, o.count);
    const fv_status s = fv_generate(p->ctx, p->model->dit, &o, p->fast, &st);
    p->fast_flop = st.flop;
    return s;
}

fv_status bench_run_once(bench_pictures *p, const fv_accel *accel, int steps, double *seconds)
{
    fv_generate_options o = p->timed;
    fv_generate_stats st;
    o.accel = accel;
    o.steps = steps;
    bench_drop_fast(p);
    const clock_t start = clock();
    const fv_status s = fv_generate(p->ctx, p->model->dit, &o, p->fast, &st);
    if (s == FV_OK)
        *seconds = p->is_cpu_time ? (double)(clock() - start) / CLOCKS_PER_SEC : st.seconds;
    bench_drop_fast(p);
    return s;
}

fv_status bench_time_pairs(bench_pictures *p, const char *name, const fv_accel *accel, int steps,
                           int runs, double *ratio)
{
    double exact_seconds, fast_seconds;
    for (int i = 0; i < runs; i++) {
        cli_progress_title("%s, pair %d of %d", name, i + 1, runs);
        fv_status s = bench_run_once(p, NULL, p->timed.steps, &exact_seconds);
        if (s == FV_OK) s = bench_run_once(p, accel, steps, &fast_seconds);
        if (s != FV_OK) return s;
        ratio[i] = fast_seconds > 0 ? exact_seconds / fast_seconds : 1;
    }
    return FV_OK;
}

bench_spread bench_spread_of(double *v, int n)
{
    const double median = cli_quantile(v, n, 0.5);
    return (bench_spread){median, v[0], v[n - 1]};
}

fv_status bench_compare_images(fv_ctx *ctx, const fv_image *exact, const fv_image *fast, int n,
                               bench_fidelity *out)
{
    double error = 0, v;
    out->psnr = out->ssim = 0;
    for (int i = 0; i < n; i++) {
        fv_status s = fv_psnr(ctx, &exact[i], &fast[i], &v);
        if (s != FV_OK) return s;
        if (isfinite(v)) error += pow(10, -v / 10) / n;
        out->psnr += fmin(v, BENCH_EQUAL_DB) / n;
        s = fv_ssim(ctx, &exact[i], &fast[i], &v);
        if (s != FV_OK) return s;
        out->ssim += v / n;
    }
    out->psnr_of_mean = error > 0 ? fmin(-10 * log10(error), BENCH_EQUAL_DB) : BENCH_EQUAL_DB;
    return FV_OK;
}

fv_status bench_compare(const bench_pictures *p, bench_fidelity *out)
{
    return bench_compare_images(p->ctx, p->exact, p->fast, p->all.count, out);
}
