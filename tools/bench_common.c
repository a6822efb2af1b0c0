/* bench_common.c - model, options, table and plans of the verbs of `fovea bench` that draw
 * samples. */
#include "bench_common.h"

#include <stdlib.h>
#include <string.h>

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
        cli_note("no sensitivity table for this model and sampler: planning with uniform weights");
    free(beside);
    return code;
}

fv_status bench_solve(fv_ctx *ctx, const bench_model *m, const fv_generate_options *o,
                      const fv_sens *sens, double speedup, fv_timing **timing, fv_accel **out)
{
    fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
    *out = NULL;
    a.speedup = speedup;
    if (!*timing) {
        const fv_status s = fv_timing_measure(ctx, timing, m->dit, o);
        if (s != FV_OK) return s;
    }
    return fv_accel_solve(ctx, out, m->dit, o, sens, *timing, &a, NULL);
}
