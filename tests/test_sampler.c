/* test_sampler.c - samplers against tests/parity/samplers.safetensors: closed-form networks for
 * Gaussian data (formulas in samplers.py), injected noise, exact step lists, guidance channels. */
#include "../diffusion/internal.h"
#include "test.h"

static fv_ctx *ctx;
static fv_model *golden;

static const float *values(const char *name, int64_t *n)
{
    fv_tensor t;
    if (!fv_model_find(golden, name, &t)) {
        printf("# %s is missing\n", name);
        exit(1);
    }
    if (n) *n = fv_tensor_count(&t);
    return t.data;
}

static dit_config official(void)
{
    dit_config c = {.family = DIT_OFFICIAL,
                    .input_size = 32,
                    .channels = 4,
                    .out_channels = 8,
                    .patch = 2,
                    .classes = 10,
                    .has_null = 1,
                    .steps = 50,
                    .cfg = 1.0f,
                    .sampler = FV_SAMPLER_DDIM};
    return c;
}

static dit_config f_family(void)
{
    dit_config c = {.family = DIT_F,
                    .input_size = 32,
                    .channels = 3,
                    .out_channels = 3,
                    .patch = 4,
                    .classes = 10,
                    .has_null = 1,
                    .steps = 50,
                    .cfg = 1.0f,
                    .sampler = FV_SAMPLER_EULER};
    return c;
}

/* ---- Closed-form networks ------------------------------------------------------------------- */

static double abar_at(double timestep)
{
    double a = 1.0;
    for (int i = 0; i <= (int)timestep; i++) a *= 1.0 - (1e-4 + i * ((0.02 - 1e-4) / 999.0));
    return a;
}

static float gauss_eps(double x, double a, double m, double s)
{
    return (float)(sqrt(1 - a) * (x - sqrt(a) * m) / (a * s * s + 1 - a));
}

static double flow_x(double z, double t, double m, double s)
{
    return m + t * s * s * (z - t * m) / (t * t * s * s + (1 - t) * (1 - t));
}

/* xhat whose x-prediction velocity is the ideal velocity. */
static double flow_v_as_x(double z, double t, double m, double s)
{
    const double noise = (1 - t) * (z - t * m) / (t * t * s * s + (1 - t) * (1 - t));
    return z + (flow_x(z, t, m, s) - noise) * fmax(1 - t, 0.05);
}

typedef struct gauss_case {
    const char *golden;
    fv_sampler kind;
    int steps;
    float eta, shift;
    int is_velocity;
    const char *var, *noise, *trace;
} gauss_case;

static float network(const gauss_case *g, const dit_schedule *s, int e, double x, double m,
                     double sd)
{
    if (!s->flow) return gauss_eps(x, abar_at(s->net_time[e]), m, sd);
    return (float)(g->is_velocity ? flow_v_as_x : flow_x)(x, s->net_time[e], m, sd);
}

static void run_gauss(const gauss_case *g)
{
    const dit_config c = g->kind >= FV_SAMPLER_EULER ? f_family() : official();
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    o.sampler = g->kind;
    o.steps = g->steps;
    o.eta = g->eta;
    o.shift = g->shift;
    dit_schedule s;
    OK(ctx, dit_schedule_create(ctx, &s, &c, &o));
    int64_t n;
    const float *want = values(g->golden, &n), *m = values("gauss.mean", NULL),
                *sd = values("gauss.std", NULL);
    const float *trace = g->trace ? values(g->trace, NULL) : NULL;
    float x[8], pred[8], work[16];
    memcpy(x, values("gauss.x", NULL), (size_t)n * 4);
    for (int i = 0; i < 16; i++) work[i] = NAN; /* must not be read before it is written */
    for (int e = 0; e < s.evals; e++) {
        const int row = (s.steps - 1 - e) * (int)n;
        for (int i = 0; i < n; i++) pred[i] = network(g, &s, e, x[i], m[i], sd[i]);
        dit_schedule_step(&s, e, x, pred, g->var ? values(g->var, NULL) + row : NULL,
                          g->noise ? values(g->noise, NULL) + row : NULL, work, n);
        if (trace) CHECK_MSG(test_rel_l2(x, trace + e * n, n) <= 1e-5, "step %d", e);
    }
    CHECK(s.needs_noise == (g->noise != NULL));
    dit_schedule_destroy(ctx, &s);
    const double d = test_rel_l2(x, want, n);
    CHECK_MSG(d <= 1e-5, "%s: %g", g->golden, d);
}

static void diffusion_samplers_match_references(void)
{
    static const gauss_case cases[] = {
        {"ddpm50.final", FV_SAMPLER_DDPM, 50, 0, 0, 0, "ddpm50.v", "ddpm50.noise", NULL},
        {"ddpm250.final", FV_SAMPLER_DDPM, 250, 0, 0, 0, "ddpm250.v", "ddpm250.noise", NULL},
        {"ddim50.final", FV_SAMPLER_DDIM, 50, 0, 0, 0, NULL, NULL, "ddim50.trace"},
        {"ddim50_eta05.final", FV_SAMPLER_DDIM, 50, 0.5f, 0, 0, NULL, "ddpm50.noise", NULL},
        {"dpmpp20.final", FV_SAMPLER_DPMPP2M, 20, 0, 0, 0, NULL, NULL, NULL},
        {"dpmpp10.final", FV_SAMPLER_DPMPP2M, 10, 0, 0, 0, NULL, NULL, NULL},
    };
    for (size_t i = 0; i < FV_ARRAY_LEN(cases); i++) run_gauss(&cases[i]);
}

static void flow_samplers_match_references(void)
{
    for (int k = 0; k < 8; k++) {
        const bool is_heun = k & 1, is_velocity = k & 2;
        const int shift = k & 4 ? 3 : 1;
        char name[64];
        snprintf(name, sizeof name, "flow.%s50_shift%d_%s", is_heun ? "heun" : "euler", shift,
                 is_velocity ? "v" : "x");
        const gauss_case g = {name,         is_heun ? FV_SAMPLER_HEUN : FV_SAMPLER_EULER,
                              50,           0,
                              (float)shift, is_velocity,
                              NULL,         NULL,
                              NULL};
        run_gauss(&g);
    }
}

/* ---- Guidance: golden latents are [4,2,2], states [pixel][channel] -------------------------- */

static int nchw(int pixel, int channel)
{
    return channel * 4 + pixel;
}

static void run_guided(const char *name, const dit_config *c, const fv_generate_options *o)
{
    dit_schedule s;
    OK(ctx, dit_schedule_create(ctx, &s, c, o));
    const float *mc = values("cfg.mean_cond", NULL), *mu = values("cfg.mean_null", NULL),
                *sd = values("cfg.std", NULL);
    const float *x0 = values("cfg.x", NULL), *v = values("cfg.v", NULL),
                *z = values("cfg.noise", NULL);
    const int out = c->out_channels;
    float x[16], cond[32] = {0}, null[32] = {0}, pred[16], var[16], noise[16], work[32], got[16];
    for (int i = 0; i < 16; i++) x[i] = x0[nchw(i / 4, i % 4)];
    for (int e = 0; e < s.evals; e++) {
        const int step = s.steps - 1 - e;
        for (int i = 0; i < 16; i++) {
            const int p = i / 4, k = i % 4, g = nchw(p, k);
            if (s.flow) {
                cond[p * out + k] = (float)flow_v_as_x(x[i], s.net_time[e], mc[g], sd[0]);
                null[p * out + k] = (float)flow_v_as_x(x[i], s.net_time[e], mu[g], sd[1]);
            } else {
                cond[p * out + k] = gauss_eps(x[i], abar_at(s.net_time[e]), mc[g], sd[0]);
                null[p * out + k] = gauss_eps(x[i], abar_at(s.net_time[e]), mu[g], sd[1]);
            }
            if (s.kind != FV_SAMPLER_DDPM) continue;
            cond[p * out + 4 + k] = v[step * 16 + g];
            null[p * out + 4 + k] = 77.0f; /* the null half's variance must not be used */
            noise[i] = z[step * 16 + g];
        }
        dit_schedule_guide(&s, cond, dit_schedule_guided(&s, e) ? null : NULL, 4, 4, out, pred,
                           s.flow ? NULL : var);
        dit_schedule_step(&s, e, x, pred, s.kind == FV_SAMPLER_DDPM ? var : NULL, noise, work, 16);
    }
    dit_schedule_destroy(ctx, &s);
    for (int i = 0; i < 16; i++) got[nchw(i / 4, i % 4)] = x[i];
    const double d = test_rel_l2(got, values(name, NULL), 16);
    CHECK_MSG(d <= 1e-5, "%s: %g", name, d);
}

static void guidance_on_3_or_4_channels_matches(void)
{
    const dit_config c = official();
    for (int k = 0; k < 4; k++) {
        fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
        char name[32];
        o.sampler = k & 1 ? FV_SAMPLER_DDPM : FV_SAMPLER_DDIM;
        o.steps = k & 1 ? 10 : 50;
        o.cfg = 1.5f;
        o.cfg_channels = k & 2 ? 4 : 0; /* 0: the official 3 */
        snprintf(name, sizeof name, "cfg.%s%d_ch%d", fv_sampler_name(o.sampler), o.steps,
                 k & 2 ? 4 : 3);
        run_guided(name, &c, &o);
    }
}

static void flow_guidance_interval_matches(void)
{
    dit_config c = f_family();
    c.channels = c.out_channels = 4;
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    o.cfg = 2.0f;
    o.cfg_start = 0.11f;
    o.sampler = FV_SAMPLER_EULER;
    run_guided("flow.cfg_euler50", &c, &o);
    o.sampler = FV_SAMPLER_HEUN;
    run_guided("flow.cfg_heun50", &c, &o);
}

/* ---- Lists and defaults --------------------------------------------------------------------- */

static void respacing_lists_are_exact(void)
{
    static const int counts[] = {2, 10, 20, 50, 100, 250, 1000};
    for (size_t k = 0; k < FV_ARRAY_LEN(counts); k++) {
        char name[32];
        int list[1000];
        snprintf(name, sizeof name, "respacing.%d", counts[k]);
        dit_respace(counts[k], list);
        CHECK_MSG(memcmp(list, values(name, NULL), (size_t)counts[k] * 4) == 0, "%s", name);
    }
}

static void network_times_are_exact(void)
{
    dit_config c = official();
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    dit_schedule s;
    o.sampler = FV_SAMPLER_DPMPP2M;
    for (o.steps = 10; o.steps <= 20; o.steps += 10) {
        char name[32];
        snprintf(name, sizeof name, "dpmpp.steps_%d", o.steps);
        const int32_t *want = (const int32_t *)(const void *)values(name, NULL);
        OK(ctx, dit_schedule_create(ctx, &s, &c, &o));
        for (int e = 0; e < s.evals; e++) CHECK(s.net_time[e] == want[e]);
        dit_schedule_destroy(ctx, &s);
    }
    o.sampler = FV_SAMPLER_DDIM;
    o.steps = 50;
    OK(ctx, dit_schedule_create(ctx, &s, &c, &o));
    const int32_t *kept = (const int32_t *)(const void *)values("respacing.50", NULL);
    for (int e = 0; e < 50; e++) CHECK(s.net_time[e] == kept[49 - e]);
    dit_schedule_destroy(ctx, &s);
    c = f_family();
    o.sampler = FV_SAMPLER_HEUN;
    for (int shift = 1; shift <= 3; shift += 2) {
        char name[32];
        snprintf(name, sizeof name, "flow.grid_50_shift%d", shift);
        const float *grid = values(name, NULL);
        o.shift = (float)shift;
        OK(ctx, dit_schedule_create(ctx, &s, &c, &o));
        CHECK(s.evals == 99);
        for (int e = 0; e < 99; e++) CHECK((float)s.net_time[e] == grid[(e + 1) / 2]);
        dit_schedule_destroy(ctx, &s);
    }
}

static void zero_options_take_the_models_defaults(void)
{
    dit_config c = f_family();
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    dit_schedule s;
    c.cfg = 3.0f;
    c.steps = 20;
    OK(ctx, dit_schedule_create(ctx, &s, &c, &o));
    CHECK(s.kind == FV_SAMPLER_EULER && s.steps == 20 && s.evals == 20 && s.cfg == 3.0f && s.flow);
    CHECK(s.cfg_channels == 3 && s.cfg_start == 0.1f && s.cfg_end == 1.0f && !s.needs_noise);
    /* The limit 0.1f includes the grid point 2/20. */
    CHECK(!dit_schedule_guided(&s, 1) && dit_schedule_guided(&s, 2) && dit_schedule_guided(&s, 19));
    dit_schedule_destroy(ctx, &s);
    o.cfg_end = 1.0f; /* explicit: from the start */
    OK(ctx, dit_schedule_create(ctx, &s, &c, &o));
    CHECK(dit_schedule_guided(&s, 0));
    dit_schedule_destroy(ctx, &s);
    c = official();
    c.cfg = 4.0f;
    o.cfg_end = 0.0f;
    OK(ctx, dit_schedule_create(ctx, &s, &c, &o));
    CHECK(s.kind == FV_SAMPLER_DDIM && s.steps == 50 && s.cfg_channels == 3 && !s.flow);
    CHECK(dit_schedule_guided(&s, 0) && dit_schedule_guided(&s, 49));
    dit_schedule_destroy(ctx, &s);
    c.has_null = 0; /* the default scale is then off, an explicit one an error */
    OK(ctx, dit_schedule_create(ctx, &s, &c, &o));
    CHECK(s.cfg == 1.0f && !dit_schedule_guided(&s, 10));
    dit_schedule_destroy(ctx, &s);
    o.cfg = 2.0f;
    CHECK(dit_schedule_create(ctx, &s, &c, &o) == FV_ERR_ARG);
}

static fv_status try_options(const dit_config *c, fv_generate_options o)
{
    dit_schedule s;
    const fv_status status = dit_schedule_create(ctx, &s, c, &o);
    if (status == FV_OK) dit_schedule_destroy(ctx, &s);
    return status;
}

static void wrong_combinations_are_refused(void)
{
    const dit_config d = official(), f = f_family();
    const fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
#define WITH(field, value) ((void)(w = o), w.field = (value), w)
    fv_generate_options w;
    CHECK(try_options(&d, WITH(sampler, FV_SAMPLER_EULER)) == FV_ERR_ARG);
    CHECK(strstr(fv_ctx_error(ctx), "ddim") != NULL);
    CHECK(try_options(&f, WITH(sampler, FV_SAMPLER_DDIM)) == FV_ERR_ARG);
    CHECK(strstr(fv_ctx_error(ctx), "euler") != NULL);
    CHECK(try_options(&d, WITH(sampler, (fv_sampler)77)) == FV_ERR_ARG);
    CHECK(try_options(&d, WITH(steps, -1)) == FV_ERR_ARG);
    CHECK(try_options(&d, WITH(steps, 1)) == FV_ERR_ARG);
    CHECK(try_options(&d, WITH(steps, 1001)) == FV_ERR_ARG);
    CHECK(try_options(&d, WITH(steps, 1000)) == FV_OK);
    CHECK(try_options(&f, WITH(steps, 1)) == FV_OK);
    CHECK(try_options(&d, WITH(shift, 2.0f)) == FV_ERR_ARG);
    CHECK(try_options(&f, WITH(shift, -1.0f)) == FV_ERR_ARG);
    CHECK(try_options(&f, WITH(eta, 0.5f)) == FV_ERR_ARG);
    CHECK(try_options(&d, WITH(eta, 1.5f)) == FV_ERR_ARG);
    CHECK(try_options(&d, WITH(cfg, NAN)) == FV_ERR_ARG);
    CHECK(try_options(&d, WITH(cfg, -1.0f)) == FV_ERR_ARG);
    CHECK(try_options(&d, WITH(cfg_start, 1.5f)) == FV_ERR_ARG);
    CHECK(try_options(&d, WITH(cfg_channels, 5)) == FV_ERR_ARG);
#undef WITH
}

static void names_round_trip(void)
{
    for (int i = FV_SAMPLER_AUTO; i <= FV_SAMPLER_HEUN; i++)
        CHECK((int)fv_sampler_find(fv_sampler_name((fv_sampler)i)) == i);
    CHECK(fv_sampler_find("DDIM") == FV_SAMPLER_DDIM);
    CHECK(fv_sampler_find("plms") == FV_SAMPLER_AUTO && fv_sampler_find(NULL) == FV_SAMPLER_AUTO);
    CHECK(fv_sampler_name((fv_sampler)6) == NULL && fv_sampler_name((fv_sampler)-1) == NULL);
}

int main(void)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    if (fv_model_open(ctx, &golden, FV_TEST_DIR "/parity/samplers.safetensors", NULL) != FV_OK) {
        printf("# %s\n", fv_ctx_error(ctx));
        return 1;
    }
    RUN(names_round_trip);
    RUN(respacing_lists_are_exact);
    RUN(network_times_are_exact);
    RUN(diffusion_samplers_match_references);
    RUN(flow_samplers_match_references);
    RUN(guidance_on_3_or_4_channels_matches);
    RUN(flow_guidance_interval_matches);
    RUN(zero_options_take_the_models_defaults);
    RUN(wrong_combinations_are_refused);
    fv_model_close(&golden);
    fv_ctx_destroy(&ctx);
    return test_end();
}
