/* gen_plan.c - from --speedup R or --accel METHOD to a plan: table, timings, cache.
 *
 * A plan for a wall-clock ratio needs the times of the modules on this machine. They are measured
 * once and kept in the user's cache folder, with the plans that were checked against the clock, for
 * KEEP_DAYS:
 *
 *     $XDG_CACHE_HOME/fovea/timing-KEY.json    model, CPU, threads, batch, precision, guidance
 *     $XDG_CACHE_HOME/fovea/plan-KEY.fvplan    the same, and steps, sampler, table, R, --cache-mem
 *
 * The first use stays below three seconds: the plan is run and corrected (fv_accel_solve) only when
 * the exact path is short enough for that, else the prediction stands. Kept times may stem from a
 * busy machine or a damaged file: when no plan comes of them, or one that misses R, they are
 * measured again before that is the answer. */
#include "gen.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define KEEP_DAYS 30
#define MISS 0.05 /* measured / R - 1 from which kept times are doubted */

/* fv_accel_solve runs the exact path and a few plans, together about four exact runs. */
#define SOLVE_SECONDS 0.6
#define SOLVE_MAX_COUNT 8
#define MAX_BATCH 32 /* pictures that the library computes together unless told: caches follow it */

/* ---- Tables ---------------------------------------------------------------------------------- */

static void note_prior(const gen_model *m, const fv_generate_options *o, const char *why)
{
    const int steps = o->steps ? o->steps : m->info.steps;
    const fv_sampler sampler = o->sampler ? o->sampler : m->info.sampler;
    const double cfg = o->cfg > 0 ? (double)o->cfg : (double)m->info.cfg;
    cli_note("%s; planning by a general prior. Make a table with: gen calibrate %s --steps %d "
             "--sampler %s --cfg %g",
             why, m->path ? m->path : "MODEL", steps, fv_sampler_name(sampler), cfg);
}

int gen_find_table(fv_ctx *ctx, const gen_model *m, const char *path, const fv_generate_options *o,
                   fv_sens **out)
{
    char *beside = !path && m->path ? cli_with_suffix(m->path, ".fvsens") : NULL;
    const char *file = path ? path : beside && cli_file_exists(beside) ? beside : NULL;
    fv_status s = FV_OK;
    size_t size = 0;
    int code = CLI_OK;
    *out = NULL;
    if (file) {
        s = fv_sens_read(ctx, out, file);
    } else if (!m->path) {
        const void *bytes = fv_dit_default_table(&size);
        if (size) s = fv_sens_parse(ctx, out, bytes, size);
    }
    if (s != FV_OK) {
        code = cli_report(ctx, s, file ? file : "embedded table");
    } else if (!*out) {
        note_prior(m, o, "no sensitivity table for this model");
    } else if ((s = fv_sens_match(ctx, *out, m->dit, o)) != FV_OK) {
        /* A table that was named must fit; one that merely lies there is left out. */
        if (path)
            code = cli_report(ctx, s, path);
        else
            note_prior(m, o, fv_ctx_error(ctx));
        fv_sens_free(out);
    }
    free(beside);
    return code;
}

/* ---- Cache ----------------------------------------------------------------------------------- */

static char *timing_key(fv_ctx *ctx, const gen_model *m, const fv_generate_options *o)
{
    char cpu[128];
    fv_cuda_info gpu = { 0 };
    cli_cpu_name(cpu, sizeof cpu);
    if (fv_ctx_device(ctx) == FV_DEVICE_CUDA && fv_cuda_device(ctx, 0, &gpu) != FV_OK)
        snprintf(gpu.name, sizeof gpu.name, "cuda");
    return cli_format("%s %s %s%s cpu %x threads %d batch %d/%d %s guided %d", fv_version_string(),
                      m->hash, gpu.name, cpu, (unsigned)fv_ctx_cpu(ctx), fv_ctx_threads(ctx),
                      o->batch, o->count, fv_dtype_name(m->precision), o->cfg != 1.0f);
}

static char *cache_file(const char *kind, const char *key, const char *suffix)
{
    char name[64];
    snprintf(name, sizeof name, "%s-%016llx%s", kind, (unsigned long long)cli_hash(0, key), suffix);
    return cli_cache_path(name);
}

static fv_status measure_timing(fv_ctx *ctx, const gen_model *m, const fv_generate_options *o,
                                fv_timing **out)
{
    cli_detail("measuring module times");
    return fv_timing_measure(ctx, out, m->dit, o);
}

/* Written lately? Machines and their libraries change. */
static bool is_fresh(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 &&
           fabs(difftime(time(NULL), st.st_mtime)) < KEEP_DAYS * 24 * 3600.0;
}

static fv_status get_timing(fv_ctx *ctx, const gen_model *m, const fv_generate_options *o,
                            const char *cache, fv_timing **out, bool *is_new)
{
    size_t size = 0;
    char *text = cache && is_fresh(cache) ? cli_read_text(cache, &size) : NULL;
    *is_new = true;
    *out = NULL;
    if (text && fv_timing_parse(ctx, out, text, size) == FV_OK) {
        cli_detail("timings from %s", cache);
        *is_new = false;
    }
    free(text);
    return *is_new ? measure_timing(ctx, m, o, out) : FV_OK;
}

static void keep_timing(fv_ctx *ctx, const fv_timing *t, const char *cache)
{
    char *text = NULL;
    if (!cache || fv_timing_text(t, ctx, &text) != FV_OK) return;
    cli_write_text(cache, text, strlen(text));
    fv_free(ctx, text);
}

static uint64_t table_identity(const gen_model *m, const char *path)
{
    char *beside = !path && m->path ? cli_with_suffix(m->path, ".fvsens") : NULL;
    size_t size = 0;
    char *bytes = path || beside ? cli_read_text(path ? path : beside, &size) : NULL;
    uint64_t h = 0xcbf29ce484222325u ^ (uint64_t)!m->path;
    for (size_t i = 0; i < size; i++) h = (h ^ (uint8_t)bytes[i]) * 0x100000001b3u;
    free(bytes);
    free(beside);
    return h;
}

/* ---- Planning -------------------------------------------------------------------------------- */

/* Seconds of the exact path, from a tenth of its steps. */
static fv_status estimate_exact(fv_ctx *ctx, const gen_model *m, const fv_generate_options *o,
                                double *seconds)
{
    fv_generate_options p = *o;
    fv_generate_stats st;
    const int steps = o->steps ? o->steps : m->info.steps;
    const size_t n = (size_t)m->info.input_size * (size_t)m->info.input_size *
                     (size_t)m->info.channels * (size_t)o->count;
    float *state = malloc(n * sizeof *state);
    if (!state) return FV_ERR_OOM;
    p.steps = steps / 10 > 2 ? steps / 10 : 2;
    const fv_status s = fv_generate_state(ctx, m->dit, &p, NULL, state, &st);
    *seconds = s == FV_OK ? st.seconds * steps / p.steps : 0;
    free(state);
    return s;
}

static fv_status plan_with(fv_ctx *ctx, const gen_model *m, const fv_generate_options *o,
                           const fv_sens *sens, fv_timing *timing, const gen_plan_request *r,
                           gen_plan *out)
{
    fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
    fv_generate_options run = *o;
    double exact;
    if (r->cache_bytes) run.count = r->count < MAX_BATCH ? r->count : MAX_BATCH;
    a.speedup = r->speedup;
    a.max_cache_bytes = r->cache_bytes;
    if (r->accel) (void)fv_accel_mode_find(r->accel, &a.mode);
    out->measured = NAN;
    fv_accel_free(&out->accel);
    const fv_status s = estimate_exact(ctx, m, o, &exact);
    if (s != FV_OK) return s;
    if (exact * run.count / o->count >= SOLVE_SECONDS)
        return fv_accel_plan(ctx, &out->accel, m->dit, &run, sens, timing, &a);
    return fv_accel_solve(ctx, &out->accel, m->dit, &run, sens, timing, &a, &out->measured);
}

static fv_status solve(fv_ctx *ctx, const gen_model *m, const fv_generate_options *o,
                       const fv_sens *sens, const gen_plan_request *r, const char *timing_file,
                       gen_plan *out)
{
    fv_timing *timing;
    bool is_new;
    fv_status s = get_timing(ctx, m, o, timing_file, &timing, &is_new);
    if (s != FV_OK) return s;
    s = plan_with(ctx, m, o, sens, timing, r, out);
    const bool is_missed = s == FV_OK && fabs(out->measured / r->speedup - 1) > MISS;
    if (!is_new && (is_missed || s == FV_ERR_ARG || s == FV_ERR_MODEL)) {
        fv_timing_free(&timing);
        s = measure_timing(ctx, m, o, &timing);
        if (s == FV_OK) s = plan_with(ctx, m, o, sens, timing, r, out);
    }
    if (s == FV_OK) keep_timing(ctx, timing, timing_file);
    fv_timing_free(&timing);
    return s;
}

static fv_status polish(fv_ctx *ctx, const gen_model *m, const fv_generate_options *o,
                        const fv_sens *sens, int trials, gen_plan *out)
{
    fv_polish_options q = FV_POLISH_OPTIONS_INIT;
    fv_generate_options p = *o;
    double before, after;
    q.trials = trials;
    p.batch = 0;
    const fv_status s =
        fv_accel_polish(ctx, out->accel, m->dit, &p, sens, &q, &before, &after);
    if (s == FV_OK) cli_note("polished: %.2f dB to the exact pictures, before %.2f", after, before);
    return s;
}

static int plan_for_speedup(fv_ctx *ctx, const gen_model *m, const fv_generate_options *asked,
                            const gen_plan_request *r, gen_plan *out)
{
    fv_generate_options o = *asked;
    fv_sens *sens;
    int code = gen_find_table(ctx, m, r->table, asked, &sens);
    if (code != CLI_OK) return code;
    out->has_table = sens != NULL;
    o.count = r->count < SOLVE_MAX_COUNT ? r->count : SOLVE_MAX_COUNT;
    o.classes = NULL;
    o.class_all = 0;
    char *key = timing_key(ctx, m, &o);
    char *plan_key =
        cli_format("%s %d %d %g table %llx %g %s %d %g caches %llu of %d", key, (int)o.sampler,
                   o.steps, (double)o.cfg, (unsigned long long)table_identity(m, r->table),
                   r->speedup, r->accel ? r->accel : "", r->polish, o.guard,
                   (unsigned long long)r->cache_bytes, r->cache_bytes ? r->count : 0);
    char *timing_file = cache_file("timing", key, ".json");
    char *plan_file = cache_file("plan", plan_key, ".fvplan");
    fv_status s = FV_ERR_NOT_FOUND;
    if (plan_file && is_fresh(plan_file))
        s = fv_accel_read(ctx, &out->accel, m->dit, plan_file);
    if (s == FV_OK) {
        cli_detail("plan from %s", plan_file);
    } else {
        s = solve(ctx, m, &o, sens, r, timing_file, out);
        if (s == FV_OK && r->polish) s = polish(ctx, m, &o, sens, r->polish, out);
        if (s == FV_OK && plan_file && fv_accel_write(ctx, out->accel, plan_file, 1) != FV_OK)
            cli_detail("plan not kept: %s", fv_ctx_error(ctx));
        if (s != FV_OK) code = cli_report(ctx, s, "--speedup");
        /* Out of reach is a failure on this machine, not wrong usage. */
        if (s == FV_ERR_ARG) code = CLI_FAILED;
    }
    free(plan_file);
    free(timing_file);
    free(plan_key);
    free(key);
    fv_sens_free(&sens);
    return code;
}

/* ---- Methods of others ----------------------------------------------------------------------- */

int gen_check_accel(const char *accel, double speedup)
{
    fv_accel_mode mode;
    const bool is_mode = accel && fv_accel_mode_find(accel, &mode);
    if (is_mode && !(speedup > 0))
        return cli_fail(CLI_USAGE, "--accel %s needs --speedup", accel);
    if (!accel || is_mode || !(speedup > 0)) return CLI_OK;
    char modes[128] = "";
    const char *name;
    for (int i = 0; (name = fv_accel_mode_name((fv_accel_mode)i)) != NULL; i++)
        snprintf(modes + strlen(modes), sizeof modes - strlen(modes), "%s%s", i ? ", " : "", name);
    return cli_fail(CLI_USAGE, "--accel %s: it does not plan for a --speedup, as do %s", accel,
                    modes);
}

/* Do its plans follow from errors of a table? */
static bool uses_table(const char *accel)
{
    static const char *const name[] = {"cem", "procache", "dpcache"};
    const size_t n = strcspn(accel, ":");
    for (size_t i = 0; i < sizeof name / sizeof *name; i++)
        if (strlen(name[i]) == n && strncmp(name[i], accel, n) == 0) return true;
    return false;
}

static int plan_for_method(fv_ctx *ctx, const gen_model *m, const fv_generate_options *o,
                           const gen_plan_request *r, gen_plan *out)
{
    fv_sens *sens = NULL;
    const bool needs = uses_table(r->accel);
    if (r->table && !needs)
        return cli_fail(CLI_USAGE, "--table: --accel %s does not use one", r->accel);
    int code = needs ? gen_find_table(ctx, m, r->table, o, &sens) : CLI_OK;
    if (code != CLI_OK) return code;
    out->has_table = sens != NULL;
    const fv_status s = fv_accel_method(ctx, &out->accel, m->dit, o, sens, r->accel);
    if (s != FV_OK) code = cli_report(ctx, s, "--accel");
    fv_sens_free(&sens);
    return code;
}

int gen_make_plan(fv_ctx *ctx, const gen_model *m, const fv_generate_options *o,
                  const gen_plan_request *r, gen_plan *out)
{
    int code = CLI_OK;
    memset(out, 0, sizeof *out);
    out->measured = NAN;
    if (r->plan_in) {
        const fv_status s = fv_accel_read(ctx, &out->accel, m->dit, r->plan_in);
        if (s != FV_OK) code = cli_report(ctx, s, r->plan_in);
    } else if (r->speedup > 1) {
        code = plan_for_speedup(ctx, m, o, r, out);
    } else if (r->accel && !(r->speedup > 0)) {
        code = plan_for_method(ctx, m, o, r, out);
    }
    if (out->accel) fv_accel_get_info(out->accel, &out->info);
    return code;
}

void gen_plan_free(gen_plan *p)
{
    fv_accel_free(&p->accel);
}
