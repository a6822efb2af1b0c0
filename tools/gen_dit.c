/* gen_dit.c - gen with a diffusion transformer: plan, pictures, what is said about them. */
#include "gen_run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- Options --------------------------------------------------------------------------------- */

static int refuse_ar_options(const gen_args *a)
{
    const struct {
        bool is_given;
        const char *name;
    } option[] = {
        {a->mode != NULL, "--mode"},       {a->temperature >= 0, "--temperature"},
        {a->top_k >= 0, "--top-k"},        {a->top_p > 0, "--top-p"},
        {a->kv != NULL, "--kv"},           {a->tokenizer != NULL, "--tokenizer"},
        {a->caption != NULL, "--caption"},
    };
    for (size_t i = 0; i < sizeof option / sizeof *option; i++)
        if (option[i].is_given)
            return cli_fail(CLI_USAGE, "%s: a diffusion transformer draws no tokens",
                            option[i].name);
    if (a->common.precision && strcmp(a->common.precision, "int8") == 0)
        return cli_fail(CLI_USAGE, "--precision int8: a diffusion transformer computes in f32 or "
                                   "bf16");
    return CLI_OK;
}

static int check(gen_run *r)
{
    const gen_args *a = r->a;
    const fv_generate_options init = FV_GENERATE_OPTIONS_INIT;
    r->dit.o = init;
    int code = refuse_ar_options(a);
    if (code == CLI_OK) code = gen_set_sampling(&a->sampling, &r->dit.o);
    if (code != CLI_OK) return code;
    if (a->speedup > 0 && a->plan_in)
        return cli_fail(CLI_USAGE, "--speedup and --plan-in exclude each other");
    if (a->accel && a->plan_in)
        return cli_fail(CLI_USAGE, "--accel and --plan-in exclude each other");
    if (a->has_compare && !(a->speedup > 0) && !a->plan_in && !a->accel)
        return cli_fail(CLI_USAGE, "--compare needs --speedup, --accel or --plan-in");
    if (a->plan_out && !(a->speedup > 1) && !a->accel)
        return cli_fail(CLI_USAGE, "--plan-out needs --speedup above 1, or --accel");
    if (a->polish && !(a->speedup > 1))
        return cli_fail(CLI_USAGE, "--polish needs --speedup above 1");
    if (a->guard > 0 && !(a->speedup > 1) && !a->plan_in && !a->accel)
        return cli_fail(CLI_USAGE, "--guard needs --speedup above 1, --plan-in or --accel");
    if (a->cache_mem && !(a->speedup > 1))
        return cli_fail(CLI_USAGE, "--cache-mem needs --speedup above 1");
    if (a->table && !(a->speedup > 0) && !a->accel)
        return cli_fail(CLI_USAGE, "--table needs --speedup or --accel");
    code = gen_check_accel(a->accel, a->speedup);
    if (code != CLI_OK || !a->cache_mem) return code;
    return cli_parse_size("--cache-mem", a->cache_mem, 1, &r->dit.cache_bytes);
}

static int open_model(gen_run *r)
{
    return gen_open_weights(r->ctx, &r->model, r->a->decoder, cli_precision(r->ctx, &r->a->common),
                            false);
}

/* ---- Plan and pictures ----------------------------------------------------------------------- */

static int prepare(gen_run *r)
{
    const gen_args *a = r->a;
    gen_dit_work *d = &r->dit;
    const gen_plan_request request = {a->speedup, a->table, a->plan_in,    r->count,
                                      a->polish,  a->accel, d->cache_bytes};
    d->o.count = r->count;
    d->o.classes = r->classes;
    d->o.seed = a->seed;
    d->o.guard = a->guard;
    const int code = gen_make_plan(r->ctx, &r->model, &d->o, &request, &d->plan);
    if (code != CLI_OK) return code;
    d->o.accel = d->plan.accel;
    if (a->guard > 0 && d->plan.accel && d->plan.info.at_run_time)
        return cli_fail(CLI_USAGE, "--guard: %s decides while it runs and has no plan", a->accel);
    if (a->plan_out && d->plan.accel && d->plan.info.at_run_time)
        return cli_fail(CLI_USAGE, "--plan-out: %s decides while it runs and has no plan",
                        a->accel);
    if (a->plan_out && !d->plan.accel)
        return cli_fail(CLI_USAGE, "--plan-out: a speed-up of 1 is exact and has no plan");
    return CLI_OK;
}

static fv_status make(void *user, bool is_exact, fv_image *images, double *seconds)
{
    gen_run *r = user;
    fv_generate_options exact = r->dit.o;
    fv_generate_stats stats;
    exact.accel = NULL;
    const fv_status s =
        fv_generate(r->ctx, r->model.dit, is_exact ? &exact : &r->dit.o, images, &stats);
    if (!is_exact) r->dit.stats = stats;
    *seconds = stats.seconds;
    return s;
}

static int generate(gen_run *r)
{
    const gen_pair pair = {r->count, make, r};
    if (r->a->has_compare) {
        const int code = gen_compare(r->ctx, &r->model, &pair, r->images, &r->comparison,
                                     r->a->sheet ? &r->sheet : NULL);
        r->seconds = r->comparison.fast_seconds;
        return code;
    }
    const fv_status s = make(r, false, r->images, &r->seconds);
    return s == FV_OK ? CLI_OK : cli_report(r->ctx, s, r->model.label);
}

static int finish(gen_run *r)
{
    const char *path = r->a->plan_out;
    if (!path) return CLI_OK;
    const fv_status s = fv_accel_write(r->ctx, r->dit.plan.accel, path, r->a->common.force);
    return s == FV_OK ? CLI_OK : cli_report(r->ctx, s, path);
}

/* ---- What is said about them ----------------------------------------------------------------- */

static int steps_of(const gen_run *r)
{
    return r->dit.o.steps ? r->dit.o.steps : r->model.info.steps;
}

static const char *sampler_of(const gen_run *r)
{
    return fv_sampler_name(r->dit.o.sampler ? r->dit.o.sampler : r->model.info.sampler);
}

static double cfg_of(const gen_run *r)
{
    return gen_plain_number(r->dit.o.cfg > 0 ? r->dit.o.cfg : r->model.info.cfg);
}

static void describe(const gen_run *r, gen_texts *t)
{
    const gen_dit_work *d = &r->dit;
    const char *precision = fv_dtype_name(r->model.precision);
    const int anchors = d->plan.accel ? d->plan.info.anchors : steps_of(r);
    char speedup[32];
    snprintf(speedup, sizeof speedup, "%g", r->a->speedup > 1 ? r->a->speedup : 1.0);
    if (d->plan.accel && r->a->plan_in)
        snprintf(speedup, sizeof speedup, "%.3g", d->plan.info.predicted_speedup);
    snprintf(t->human, sizeof t->human,
             "%s\nSteps: %d, Sampler: %s, CFG scale: %g, Seed: %s, Size: %dx%d, "
             "Model: %s, Model hash: %.10s, Precision: %s, Speed-up: %s (%d of %d steps in full), "
             "Version: %s",
             t->class_text, steps_of(r), sampler_of(r), cfg_of(r), t->seed, r->model.image_size,
             r->model.image_size, t->name, r->model.hash, precision, speedup, anchors, steps_of(r),
             t->software);
    gen_text(t, "fovea.steps", "%d", steps_of(r));
    gen_text(t, "fovea.sampler", "%s", sampler_of(r));
    gen_text(t, "fovea.cfg", "%g", cfg_of(r));
    gen_text(t, "fovea.speedup", "%s", speedup);
    gen_text(t, "fovea.anchors", "%d", anchors);
    gen_text(t, "fovea.accel", "%s", d->plan.accel ? d->plan.info.mode : "exact");
    gen_text(t, "fovea.precision", "%s", precision);
    if (d->o.guard > 0) gen_text(t, "fovea.guard", "%g", (double)d->o.guard);
}

/* Memory held at once against what the run needs by its plan. */
static double memory_ratio(const fv_generate_stats *st)
{
    return (double)st->peak_bytes / (double)(st->activation_bytes + st->cache_bytes);
}

static void print_json(const gen_run *r, cli_json *j)
{
    const gen_plan *plan = &r->dit.plan;
    const fv_generate_stats *st = &r->dit.stats;
    cli_json_u64(j, "steps", (uint64_t)steps_of(r));
    cli_json_string(j, "sampler", sampler_of(r));
    cli_json_number(j, "cfg", cfg_of(r));
    cli_json_number(j, "speedup_measured",
                    r->a->has_compare ? r->comparison.speedup : plan->measured);
    cli_json_number(j, "speedup_predicted", plan->accel ? plan->info.predicted_speedup : NAN);
    cli_json_number(j, "decode_seconds", st->decode_seconds);
    cli_json_string(j, "mode", plan->accel ? plan->info.mode : "exact");
    cli_json_number(j, "anchors", plan->accel ? plan->info.anchors : NAN);
    cli_json_number(j, "guard", r->a->guard > 0 ? r->a->guard : NAN);
    cli_json_u64(j, "guard_fired", (uint64_t)st->guard_fired);
    cli_json_number(j, "flop", st->flop);
    cli_json_u64(j, "full_modules", (uint64_t)st->full_modules);
    cli_json_u64(j, "reused_modules", (uint64_t)st->reused_modules);
    cli_json_u64(j, "peak_bytes", st->peak_bytes);
    cli_json_u64(j, "weight_bytes", st->weight_bytes);
    cli_json_u64(j, "activation_bytes", st->activation_bytes);
    cli_json_u64(j, "cache_bytes", st->cache_bytes);
    cli_json_number(j, "memory_ratio", memory_ratio(st));
}

static void about(const gen_run *r, char *out, size_t size)
{
    snprintf(out, size, "%s, %d steps", sampler_of(r), steps_of(r));
}

static void print_details(const gen_run *r)
{
    const gen_plan *plan = &r->dit.plan;
    const fv_generate_stats *st = &r->dit.stats;
    if (plan->accel)
        cli_detail("plan %s: %d of %d steps in full, predicted %.2fx, FLOP ratio %.2f",
                   plan->info.mode, plan->info.anchors, plan->info.steps,
                   plan->info.predicted_speedup, plan->info.flop_ratio);
    if (r->a->guard > 0)
        cli_detail("guard %g: %lld evaluations in full that were planned for later", r->a->guard,
                   (long long)st->guard_fired);
    cli_detail("%.3g GFLOP", st->flop * 1e-9);
    cli_detail("peak memory %.1f MiB beside %.1f MiB of packed weights: %.3f of activations "
               "(%.1f MiB) and caches (%.1f MiB); resident %.1f MiB",
               (double)st->peak_bytes / GEN_MIB, (double)st->weight_bytes / GEN_MIB,
               memory_ratio(st), (double)st->activation_bytes / GEN_MIB,
               (double)st->cache_bytes / GEN_MIB, (double)cli_resident_peak() / GEN_MIB);
}

static void end(gen_run *r) { gen_plan_free(&r->dit.plan); }

const gen_kind gen_kind_dit = {check,    open_model, prepare, generate,      finish,
                               describe, print_json, about,   print_details, end};
