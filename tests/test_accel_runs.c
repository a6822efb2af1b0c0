/* test_accel_runs.c - every mode and every published method with every sampler: the same bytes for
 * one thread and two, no allocation between the first and the last step, and no more memory than
 * weights, kept outputs and modulations. */
#include "../diffusion/soda.h"
#include "dit_fixture.h"
#include "random_model.h"
#include "temp_dir.h"

#define STEPS 12
#define CLASSES 3
#define COUNT 2

static fv_ctx *ctx;
static bool is_full; /* --full: all requests with all samplers */

typedef struct model {
    fv_model *file;
    fv_dit *dit;
    fv_sens *sens;
    fv_generate_options o;
    fv_timing *timing;
} model;

/* ---- Models ---------------------------------------------------------------------------------- */

/* What the planners need of it: computing is slow, forecasts and skips are fast. */
static fv_status script_times(model *m)
{
    static const char times[] =
        "\"threads\":1,\"precision\":\"f32\",\"attn\":[0.001,0.002],\"mlp\":[0.0015,0.003],"
        "\"reuse\":[0.00002,0.00003],\"ends\":[0.0002,0.0004],\"linear\":[0.00004,0.00006],"
        "\"skip\":[0.00001,0.00002],\"prune8\":[0.0003,0.0006],\"prune4\":[0.0005,0.001],"
        "\"prune2\":[0.0009,0.0018],\"step\":0.00001,\"cond\":0.002,\"setup\":0.001,"
        "\"decode\":0.00001,\"correction\":1";
    char json[1024], hash[65];
    fv_hex(m->dit->hash, sizeof m->dit->hash, hash);
    snprintf(json, sizeof json, "{\"fovea_timing\":2,\"model\":\"%s\",\"depth\":%d,\"batch\":2,%s}",
             hash, m->dit->net.cfg.depth, times);
    return fv_timing_parse(ctx, &m->timing, json, strlen(json));
}

static fv_status model_open(model *m, const dit_config *c, fv_sampler sampler)
{
    fv_calibrate_options q = FV_CALIBRATE_OPTIONS_INIT;
    memset(m, 0, sizeof *m);
    FV_TRY(random_model(ctx, c, 5, temp_path("m.safetensors")));
    FV_TRY(fv_model_open(ctx, &m->file, temp_path("m.safetensors"), NULL));
    FV_TRY(fv_dit_open(ctx, &m->dit, m->file, NULL));
    m->o = (fv_generate_options)FV_GENERATE_OPTIONS_INIT;
    m->o.steps = STEPS;
    m->o.cfg = 1.5f; /* flow: the default interval leaves the first steps unguided */
    m->o.sampler = sampler;
    m->o.eta = sampler == FV_SAMPLER_DDIM ? 0.5f : 0; /* draws noise */
    m->o.count = COUNT;
    m->o.batch = COUNT;
    m->o.seed = 900;
    q.gen = &m->o;
    q.draws = 1;
    q.weight_draws = 1;
    q.weight_every = 4;
    FV_TRY(fv_sens_calibrate(ctx, &m->sens, m->dit, &q));
    return script_times(m);
}

static void model_close(model *m)
{
    fv_timing_free(&m->timing);
    fv_sens_free(&m->sens);
    fv_dit_close(&m->dit);
    fv_model_close(&m->file);
}

/* 64 tokens, so that a part of them can be chosen. */
static fv_status small_config(bool is_flow, dit_config *c)
{
    FV_TRY(random_config(ctx, is_flow ? "F32" : "DiT-S/4", CLASSES, 3, c));
    c->patch = 2;
    return FV_OK;
}

/* ---- Requests -------------------------------------------------------------------------------- */

/* Plans of this project in this order, then the methods by their number, then some with options
 * that reach other parts of the engine. */
static const struct {
    fv_accel_mode mode;
    double speedup;
} own[] = {
    { FV_ACCEL_EXACT, 1 },   { FV_ACCEL_FIXED, 1.5 }, { FV_ACCEL_DCS, 1.5 },
    { FV_ACCEL_SODA, 1.4 },  { FV_ACCEL_SODA_PAPER, 1.3 }, { FV_ACCEL_DPX, 1.3 },
    { FV_ACCEL_DPX, 2.5 },
};
static const char *const more[] = { "taylorseer:N=4,order=4", "taylorseer:N=3,order=1,lite=1",
                                    "toca:N=3,r0=0.3", "teacache:threshold=0.6",
                                    "rfc:threshold=4,order=1", "speca:threshold=0,min=0,order=2",
                                    "clusca:N=3,order=1,clusters=8,spread=0.5" };

/* Request number i; *name is "" after the last. */
static fv_status request(const model *m, int i, fv_accel **out, const char **name)
{
    const int modes = (int)FV_ARRAY_LEN(own);
    int methods = 0;
    *out = NULL;
    while (fv_accel_method_name(methods, NULL, NULL, NULL)) methods++;
    if (i < modes) {
        fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
        a.mode = own[i].mode;
        a.speedup = own[i].speedup;
        *name = fv_accel_mode_name(a.mode);
        return fv_accel_plan(ctx, out, m->dit, &m->o, m->sens, m->timing, &a);
    }
    i -= modes;
    *name = "";
    if (i < methods) *name = fv_accel_method_name(i, NULL, NULL, NULL);
    else if (i - methods < (int)FV_ARRAY_LEN(more)) *name = more[i - methods];
    if (!**name) return FV_OK;
    return fv_accel_method(ctx, out, m->dit, &m->o, m->sens, *name);
}

/* ---- Threads and allocations ----------------------------------------------------------------- */

typedef struct coverage {
    int64_t reused, linear, pruned;
    int skipped, policies, requests;
} coverage;

static void cover(coverage *c, const fv_accel *a)
{
    fv_accel_info i;
    fv_accel_get_info(a, &i);
    c->reused += i.reused;
    c->linear += i.linear;
    c->pruned += i.pruned;
    c->skipped += i.skipped;
    c->policies += i.at_run_time;
    c->requests++;
}

static void run_watched(const model *m, const fv_accel *a, const char *name, int threads, float *x)
{
    allocation_watch w = { 0 };
    fv_ctx_options co = FV_CTX_OPTIONS_INIT;
    fv_generate_options o = m->o;
    co.threads = threads;
    co.progress = watch_allocations;
    co.user = &w;
    o.accel = a;
    OK(ctx, fv_ctx_create(&w.c, &co));
    OK(w.c, fv_generate_state(w.c, m->dit, &o, NULL, x, NULL));
    CHECK_MSG(w.calls == m->sens->evals && w.first == w.last, "%s: %d calls, %llu allocations",
              name, w.calls, (unsigned long long)(w.last - w.first));
    fv_ctx_destroy(&w.c);
}

/* exact: what must come out if is_exact, and else must not, unless a threshold decides while it
 * runs. */
static void check_run(const model *m, const fv_accel *a, const char *name, bool is_exact,
                      const float *exact)
{
    const dit_config *c = &m->dit->net.cfg;
    const size_t n = COUNT * (size_t)(c->input_size * c->input_size * c->channels);
    float *x[2] = { test_alloc(n * 4), test_alloc(n * 4) };
    for (int t = 0; t < 2 && !test_bad; t++) run_watched(m, a, name, t + 1, x[t]);
    const double apart = test_rel_l2(x[1], x[0], (int64_t)n); /* NAN where a value is no number */
    const bool is_same = memcmp(x[0], x[1], n * 4) == 0 && apart == 0;
    const bool is_as_exact = memcmp(x[0], exact, n * 4) == 0;
    free(x[0]);
    free(x[1]);
    if (test_bad) return;
    CHECK_MSG(is_same, "%s: %g apart", name, apart);
    CHECK_MSG(a->policy || is_as_exact == is_exact, "%s: %sthe exact pictures", name,
              is_exact ? "not " : "");
}

/* Every `stride`-th request from `first`. */
static void run_requests(fv_sampler sampler, int first, int stride, coverage *c)
{
    float exact[COUNT * 16 * 16 * 4];
    dit_config config;
    model m;
    OK(ctx, small_config(sampler >= FV_SAMPLER_EULER, &config));
    OK(ctx, model_open(&m, &config, sampler));
    OK(ctx, fv_generate_state(ctx, m.dit, &m.o, NULL, exact, NULL));
    for (int i = first; !test_bad; i += stride) {
        const char *name;
        fv_accel *a;
        OK(ctx, request(&m, i, &a, &name));
        if (!a) break;
        cover(c, a);
        check_run(&m, a, name, i == 0, exact);
        fv_accel_free(&a);
    }
    printf("# %s: %d requests, %lld reused, %lld forecast, %lld pruned, %d skipped, %d at run "
           "time\n", fv_sampler_name(sampler), c->requests, (long long)c->reused,
           (long long)c->linear, (long long)c->pruned, c->skipped, c->policies);
    model_close(&m);
}

static void every_request(fv_sampler sampler)
{
    coverage c = { 0 };
    run_requests(sampler, 0, 1, &c);
    CHECK(test_bad || (c.requests >= 20 && c.reused && c.linear && c.pruned && c.skipped &&
                       c.policies >= 2));
}

static void same_bytes_and_no_allocation_on_flow_models(void)
{
    every_request(FV_SAMPLER_EULER);
}

static void same_bytes_and_no_allocation_on_official_models(void)
{
    every_request(FV_SAMPLER_DDIM);
}

/* The sampler does not know what the network saves: a part of the requests each. */
static void same_bytes_and_no_allocation_with_other_samplers(void)
{
    static const fv_sampler sampler[] = { FV_SAMPLER_HEUN, FV_SAMPLER_DPMPP2M, FV_SAMPLER_DDPM };
    const int stride = is_full ? 1 : 3;
    for (int i = 0; i < 3 && !test_bad; i++) {
        coverage c = { 0 };
        run_requests(sampler[i], is_full ? 0 : i, stride, &c);
    }
}

/* ---- Memory ---------------------------------------------------------------------------------- */

/* Wide networks of few tokens: weights are most of it, as in models that people use. */
static fv_status large_config(bool is_flow, dit_config *c)
{
    FV_TRY(dit_preset(ctx, is_flow ? "F64c" : "DiT-S/4", CLASSES, c));
    c->input_size = is_flow ? 32 : 16;
    if (is_flow) return FV_OK;
    c->depth = 6;
    c->width = 256;
    c->heads = 4;
    c->hidden = 1024;
    return FV_OK;
}

/* What a plan has to keep: outputs of modules and of skipped evaluations, modulations of the whole
 * run. Of one picture with its null row, f32. */
static double kept_bytes(const model *m, const fv_accel *a)
{
    const dit_config *c = &m->dit->net.cfg;
    const double rows = 2, slot = rows * dit_tokens(c) * c->width * 4,
                 output = rows * c->input_size * c->input_size * c->out_channels * 4;
    const bool is_output = a->skip == DIT_SKIP_OUTPUT;
    return (a->history > 1 ? a->history : 1) * 2 * c->depth * slot +
           a->step_history * (is_output ? output : slot) +
           m->sens->evals * rows * (6 * c->depth + 2) * c->width * 4;
}

static void check_peak(const model *m, fv_accel *a, const char *name, double *worst,
                       double *most)
{
    static float x[32 * 32 * 4];
    fv_generate_options o = m->o;
    fv_generate_stats st;
    o.accel = a;
    OK(ctx, fv_generate_state(ctx, m->dit, &o, NULL, x, &st));
    const double weights = (double)st.weight_bytes, peak = weights + (double)st.peak_bytes,
                 allowed = 1.1 * (weights + kept_bytes(m, a));
    *worst = test_worst(*worst, peak / allowed);
    CHECK_MSG(peak <= allowed, "%s: %.4g bytes, %.4g allowed, of these %.4g of weights", name, peak,
              allowed, weights);
    /* Nothing else is kept, and all is told but for what describes the plans. */
    CHECK_MSG((double)st.cache_bytes <= 1.1 * kept_bytes(m, a) + 65536,
              "%s: caches of %.4g, not %.4g", name, (double)st.cache_bytes, kept_bytes(m, a));
    const double rest = peak - weights - (double)(st.activation_bytes + st.cache_bytes);
    if (rest > *most) *most = rest;
    CHECK_MSG(rest <= 2e6, "%s: %.4g bytes are not told", name, rest);
}

static void peak_of(bool is_flow, fv_sampler sampler)
{
    static float x[32 * 32 * 4];
    dit_config config;
    model m;
    double worst = 0, most = 0;
    OK(ctx, large_config(is_flow, &config));
    OK(ctx, model_open(&m, &config, sampler));
    m.o.count = m.o.batch = 1;
    OK(ctx, fv_generate_state(ctx, m.dit, &m.o, NULL, x, NULL)); /* packs the weights */
    for (int i = 0; !test_bad; i++) {
        const char *name;
        fv_accel *a;
        OK(ctx, request(&m, i, &a, &name));
        if (!a) break;
        check_peak(&m, a, name, &worst, &most);
        fv_accel_free(&a);
    }
    printf("# %s: at most %.3f of what is allowed, %.3g bytes not told\n", fv_sampler_name(sampler),
           worst, most);
    model_close(&m);
}

static void peak_is_weights_kept_outputs_and_modulations(void)
{
    peak_of(true, FV_SAMPLER_EULER);
    if (!test_bad) peak_of(false, FV_SAMPLER_DDPM);
}

int main(int argc, char **argv)
{
    is_full = argc > 1 && strcmp(argv[1], "--full") == 0;
    temp_dir_make("runs");
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(same_bytes_and_no_allocation_on_flow_models);
    RUN(same_bytes_and_no_allocation_on_official_models);
    RUN(same_bytes_and_no_allocation_with_other_samplers);
    RUN(peak_is_weights_kept_outputs_and_modulations);
    fv_ctx_destroy(&ctx);
    return test_end();
}
