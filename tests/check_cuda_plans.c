/* check_cuda_plans.c - accelerated sampling on the emulated GPU against the CPU: samplers and their
 * noise, plans whose modules are forecast, skipped and pruned by every score, methods that decide from
 * features, the guard; and the graphs that courses become. Small networks with random weights, in f32:
 * what differs is the order of sums, so that states agree to 1e-4 unless a decision falls otherwise. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "fovea_diffusion.h"
#include "cuda_device.h"

#include "../diffusion/accel_methods.h"
#include "device_graph.h"
#include "dit_fixture.h"
#include "random_model.h"
#include "sampling_device.h"
#include "temp_dir.h"
#include "tiny_models.h"

#define STEPS 8
#define BOUND 1e-4

static fv_ctx *cpu, *gpu;
static const dit_family families[2] = { DIT_F, DIT_OFFICIAL };

/* 64 tokens of 32 values. */
static dit_config config(dit_family family)
{
    dit_config c = tiny_config(family);
    if (family == DIT_F) c.patch = 2;
    else c.input_size = 16;
    return c;
}

static size_t values(const dit_config *c)
{
    return (size_t)(c->input_size * c->input_size * c->channels);
}

static fv_generate_options options(const dit_config *c, int count)
{
    static const int classes[4] = { 1, 2, 0, 1 };
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    o.steps = STEPS;
    o.cfg = 2;
    o.seed = 5;
    o.sampler = c->family == DIT_F ? FV_SAMPLER_EULER : FV_SAMPLER_DDIM;
    o.count = count;
    o.batch = 2;
    o.classes = classes;
    return o;
}

static fv_status sample(fv_ctx *ctx, const dit_config *c, const fv_generate_options *o, float *x,
                        fv_generate_stats *st)
{
    dit_net net;
    FV_TRY(random_net(ctx, &net, c, 5, 0.15f));
    const fv_status s = dit_generate_net(ctx, &net, FV_F32, o, NULL, x, st);
    dit_net_destroy(ctx, &net);
    return s;
}

/* The same pictures on both; what they are off goes to *off. */
static void compare(const dit_config *c, const fv_generate_options *o, double *off)
{
    const size_t n = (size_t)o->count * values(c);
    float *x = test_alloc(n * 4), *y = test_alloc(n * 4);
    fv_generate_stats a, b;
    *off = 1;
    OK(cpu, sample(cpu, c, o, x, &a));
    OK(gpu, sample(gpu, c, o, y, &b));
    CHECK(a.full_modules == b.full_modules && a.reused_modules == b.reused_modules);
    CHECK(a.guard_fired == b.guard_fired && a.flop == b.flop);
    *off = test_rel_l2(y, x, (int64_t)n);
    free(x);
    free(y);
    CHECK(device_is_clean(gpu));
}

/* ---- Noise and samplers ---------------------------------------------------------------------- */

static void noise_has_the_bits_of_the_hosts(void)
{
    const int64_t n = 4099;
    float *want = test_alloc(3 * (size_t)n * 4), *got = test_alloc(3 * (size_t)n * 4);
    float *near = fv_dev_alloc(gpu, 3 * (size_t)n, sizeof *near);
    const uint64_t seed = UINT64_MAX - 1; /* seeds of pictures wrap */
    const fvk_normals_args a = { .y = near, .B = 3, .n = n, .seed = (int64_t)seed,
                                 .stream = FV_STREAM_SAMPLING, .sample = 7 };
    for (uint64_t b = 0; b < 3; b++)
        fv_rand_normal(seed + b, FV_STREAM_SAMPLING, 7, 0, n, want + (int64_t)b * n);
    CHECK(near);
    OK(gpu, fvi_dev_normals(gpu, &a));
    OK(gpu, fv_dev_copy(gpu, got, near, 3 * (size_t)n * 4, FV_COPY_TO_HOST));
    CHECK(memcmp(want, got, 3 * (size_t)n * 4) == 0);
    fv_dev_free(gpu, near);
    free(want);
    free(got);
}

static void every_sampler_ends_where_the_cpus_does(void)
{
    static const struct { fv_sampler kind; float eta; dit_family family; } s[] = {
        { FV_SAMPLER_DDPM, 0, DIT_OFFICIAL },    { FV_SAMPLER_DDIM, 0, DIT_OFFICIAL },
        { FV_SAMPLER_DDIM, 0.5f, DIT_OFFICIAL }, { FV_SAMPLER_DPMPP2M, 0, DIT_OFFICIAL },
        { FV_SAMPLER_EULER, 0, DIT_F },          { FV_SAMPLER_HEUN, 0, DIT_F },
    };
    for (size_t i = 0; i < FV_ARRAY_LEN(s); i++) {
        const dit_config c = config(s[i].family);
        fv_generate_options o = options(&c, 3);
        double off;
        o.sampler = s[i].kind;
        o.eta = s[i].eta;
        compare(&c, &o, &off);
        CHECK_MSG(off < BOUND, "%s: %g off", fv_sampler_name(s[i].kind), off);
    }
}

/* ---- Plans ----------------------------------------------------------------------------------- */

static void set(fv_accel *a, int e, int k, int action, int size, const float *w, int count)
{
    const size_t at = (size_t)e * 2 * (size_t)a->depth + (size_t)k;
    a->action[at] = (uint8_t)action;
    a->pruned[at] = (uint8_t)size;
    memset(a->weight + at * DIT_HISTORY, 0, DIT_HISTORY * sizeof *w);
    memcpy(a->weight + at * DIT_HISTORY, w, (size_t)count * sizeof *w);
}

/* Forecasts, reuse, pruned MLPs of all sizes, and two skipped evaluations. */
static fv_status mixed_plan(fv_accel **out, const dit_config *c, dit_skip skip, dit_score score)
{
    static const float one[] = { 1 }, two[] = { 1.5f, -0.5f }, three[] = { 2, -1.5f, 0.5f };
    FV_TRY(fvi_accel_create(cpu, out, STEPS, c->depth));
    fv_accel *a = *out;
    a->skip = skip;
    a->score = score;
    a->steps = STEPS;
    for (int k = 0; k < 4; k++) {
        set(a, 3, k, k % 2 ? DIT_PRUNE : DIT_LINEAR, k / 2, two, 2);
        set(a, 5, k, k == 0 ? DIT_REUSE : k == 1 ? DIT_PRUNE : DIT_LINEAR, 2, k == 1 ? one : three,
            k == 1 ? 1 : 3);
        if (k) set(a, 6, k, k == 3 ? DIT_PRUNE : DIT_REUSE, 1, one, 1);
    }
    a->skipped[4] = a->skipped[7] = 1;
    memcpy(a->skip_weight + 4 * DIT_HISTORY, three, sizeof three);
    memcpy(a->skip_weight + 7 * DIT_HISTORY, two, sizeof two);
    fvi_accel_count(a);
    return FV_OK;
}

static void plans_of_all_kinds_give_the_cpus_pictures(void)
{
    for (int i = 0; i < 8; i++) {
        const dit_config c = config(families[i % 2]);
        fv_generate_options o = options(&c, 3);
        fv_accel *a;
        double off;
        OK(cpu, mixed_plan(&a, &c, (dit_skip)(i % 3), (dit_score)(i / 2)));
        CHECK(a->prunes && a->history == 3 && a->step_history == 3);
        o.accel = a;
        compare(&c, &o, &off);
        CHECK_MSG(off < BOUND, "skip %d, score %d: %g off", i % 3, i / 2, off);
        fv_accel_free(&a);
    }
}

static void methods_that_look_at_features_decide_alike(void)
{
    static const char *const spec[] = { "teacache:threshold=0.6", "rfc:threshold=4", "speca",
                                        "clusca",                 "toca",            "taylorseer" };
    const dit_config c = config(DIT_F);
    for (size_t i = 0; i < FV_ARRAY_LEN(spec); i++) {
        const size_t n = 3 * values(&c);
        float *x[2] = { test_alloc(n * 4), test_alloc(n * 4) };
        fv_generate_stats st[2];
        for (int g = 0; g < 2; g++) {
            fv_ctx *ctx = g ? gpu : cpu;
            fv_generate_options o = options(&c, 3);
            fv_dit d = { .ctx = ctx };
            fv_accel *a;
            OK(ctx, random_net(ctx, &d.net, &c, 5, 0.15f));
            OK(ctx, fv_accel_method(ctx, &a, &d, &o, NULL, spec[i]));
            o.accel = a;
            OK(ctx, dit_generate_net(ctx, &d.net, FV_F32, &o, NULL, x[g], &st[g]));
            fv_accel_free(&a);
            dit_net_destroy(ctx, &d.net);
        }
        const double off = test_rel_l2(x[1], x[0], (int64_t)n);
        printf("# %s: %lld full, %lld reused, %.2g off\n", spec[i], (long long)st[0].full_modules,
               (long long)st[0].reused_modules, off);
        CHECK(st[0].reused_modules > 0 && st[0].full_modules == st[1].full_modules);
        CHECK_MSG(off < BOUND, "%s: %g off", spec[i], off);
        free(x[0]);
        free(x[1]);
        CHECK(device_is_clean(gpu));
    }
}

static void the_guard_fires_where_the_cpus_does(void)
{
    int64_t fired = 0;
    for (int i = 0; i < 2; i++) {
        const dit_config c = config(families[i]);
        fv_generate_options o = options(&c, 2);
        static const float one[] = { 1 };
        fv_generate_stats st;
        fv_accel *a;
        double off;
        float *x = test_alloc(2 * values(&c) * 4);
        o.steps = 12;
        OK(cpu, fvi_accel_create(cpu, &a, 12, c.depth));
        for (int e = 0; e < 12; e++)
            for (int k = 0; k < 4 && e % 3; k++) set(a, e, k, DIT_REUSE, 0, one, 1);
        a->steps = 12;
        fvi_accel_count(a);
        o.accel = a;
        o.guard = 0.2f;
        compare(&c, &o, &off);
        CHECK_MSG(off < BOUND, "%g off", off);
        OK(gpu, sample(gpu, &c, &o, x, &st));
        fired += st.guard_fired;
        free(x);
        fv_accel_free(&a);
    }
    CHECK(fired > 0);
}

static void a_target_is_planned_from_times_of_the_device(void)
{
    const dit_config c = config(DIT_F);
    fv_generate_options o = options(&c, 2);
    fv_accel_options want = FV_ACCEL_OPTIONS_INIT;
    fv_dit d = { .ctx = gpu };
    fv_timing *t = NULL;
    fv_accel *a = NULL;
    char *text = NULL;
    double off = 1;
    want.anchors = 3;
    OK(gpu, random_net(gpu, &d.net, &c, 5, 0.15f));
    OK(gpu, fv_timing_measure(gpu, &t, &d, &o));
    OK(gpu, fv_timing_text(t, gpu, &text));
    CHECK(strstr(text, "\"prune4\""));
    OK(gpu, fv_accel_plan(gpu, &a, &d, &o, NULL, t, &want));
    dit_net_destroy(gpu, &d.net);
    o.accel = a;
    compare(&c, &o, &off);
    CHECK_MSG(off < BOUND, "%g off", off);
    fv_accel_free(&a);
    fv_timing_free(&t);
    fv_free(gpu, text);
}

static void no_order_of_threads_changes_a_bit(void)
{
    for (int i = 0; i < 4; i++) {
        const dit_config c = config(families[i % 2]);
        fv_generate_options o = options(&c, 3);
        const size_t n = 3 * values(&c);
        float *x = test_alloc(n * 4), *y = test_alloc(n * 4);
        fv_accel *a;
        OK(cpu, mixed_plan(&a, &c, DIT_SKIP_RESIDUAL, (dit_score)i));
        o.accel = a;
        o.guard = 0.5f;
        OK(gpu, sample(gpu, &c, &o, x, NULL));
        emulator_reversed = 1;
        const fv_status s = sample(gpu, &c, &o, y, NULL);
        emulator_reversed = 0;
        OK(gpu, s);
        CHECK(memcmp(x, y, n * 4) == 0);
        fv_accel_free(&a);
        free(x);
        free(y);
    }
}

static void calibrating_is_for_the_cpu(void)
{
    const dit_config c = config(DIT_F);
    fv_calibrate_options o = FV_CALIBRATE_OPTIONS_INIT;
    fv_dit d = { .ctx = gpu };
    fv_sens *s = NULL;
    OK(gpu, random_net(gpu, &d.net, &c, 5, 0.15f));
    CHECK(fv_sens_calibrate(gpu, &s, &d, &o) == FV_ERR_UNSUPPORTED && !s);
    CHECK(strstr(fv_ctx_error(gpu), "--device cpu"));
    dit_net_destroy(gpu, &d.net);
}

/* ---- Graphs ---------------------------------------------------------------------------------- */

/* One course, the first run plain. Then two courses, of which a second batch finds both. */
static void courses_that_come_again_are_graphs(void)
{
    const dit_config c = config(DIT_OFFICIAL);
    fv_generate_options o = options(&c, 2);
    static const float one[] = { 1 };
    double off;
    fv_accel *a;
    long before = device_replays();
    compare(&c, &o, &off);
    CHECK(off < BOUND && device_replays() - before == STEPS - 1);
    OK(cpu, fvi_accel_create(cpu, &a, STEPS, c.depth));
    for (int k = 0; k < 4; k++) set(a, 4, k, DIT_REUSE, 0, one, 1);
    a->steps = STEPS;
    fvi_accel_count(a);
    o.accel = a;
    o.count = 4;
    before = device_replays();
    compare(&c, &o, &off);
    CHECK(off < BOUND && device_replays() - before == 2 * STEPS - 2);
    fv_accel_free(&a);
}

static int no_recording(fvk_dev *d, fvk_graph **out)
{
    (void)emulator_graph_end(d, NULL);
    if (out) *out = NULL;
    return emulator_say(d, FVK_FAILED, "no recording");
}

static void without_graphs_all_is_launched(void)
{
    fvk_api api = emulator_api;
    const dit_config c = config(DIT_F);
    const fv_generate_options o = options(&c, 2);
    fv_ctx_options co = FV_CTX_OPTIONS_INIT;
    fv_ctx *other = NULL;
    const size_t n = 2 * values(&c);
    float *x = test_alloc(n * 4), *y = test_alloc(n * 4);
    const long before = device_replays();
    api.graph_end = no_recording;
    co.device = FV_DEVICE_CPU;
    OK(cpu, fv_ctx_create(&other, &co));
    OK(other, fvi_cuda_attach(other, &api, NULL));
    OK(cpu, sample(cpu, &c, &o, x, NULL));
    OK(other, sample(other, &c, &o, y, NULL));
    CHECK(test_rel_l2(y, x, (int64_t)n) < BOUND && device_replays() == before);
    fv_ctx_destroy(&other);
    free(x);
    free(y);
}

/* y = 2 x, recorded; other pointers are a recording of their own. */
static void a_plan_follows_its_pointers(void)
{
    const int64_t n = 100;
    fv_tape *t;
    fv_plan *p;
    float x[100], y[100];
    const long before = device_replays();
    float *from[2] = { fv_dev_alloc(gpu, 100, 4), fv_dev_alloc(gpu, 100, 4) };
    OK(gpu, fv_tape_create(gpu, &t, NULL, FV_INFER, FV_F32));
    fv_output(t, "y", fv_affine(t, fv_input(t, "x", FV_F32, 1, &n), 2, 0));
    OK(gpu, fv_plan_finish(gpu, &p, &t, NULL));
    fvi_plan_record(p);
    for (int i = 0; i < 8; i++) {
        test_fill(x, n, 3 + (uint64_t)i);
        OK(gpu, fv_dev_copy(gpu, from[i / 4], x, sizeof x, FV_COPY_TO_DEVICE));
        OK(gpu, fv_plan_bind(p, "x", from[i / 4]));
        OK(gpu, fv_plan_forward(p));
        OK(gpu, fv_plan_fetch(p, "y", y));
        for (int k = 0; k < 100; k++) CHECK(y[k] == 2 * x[k]);
    }
    CHECK(device_replays() - before == 6);
    fv_plan_destroy(&p);
    fv_dev_free(gpu, from[0]);
    fv_dev_free(gpu, from[1]);
    CHECK(device_is_clean(gpu));
}

int main(int argc, char **argv)
{
    const int code = device_open(argc, argv, 0, 0, &cpu, &gpu);
    if (code >= 0) return code;
    RUN(noise_has_the_bits_of_the_hosts);
    RUN(every_sampler_ends_where_the_cpus_does);
    RUN(plans_of_all_kinds_give_the_cpus_pictures);
    RUN(methods_that_look_at_features_decide_alike);
    RUN(the_guard_fires_where_the_cpus_does);
    RUN(a_target_is_planned_from_times_of_the_device);
    RUN_EMULATED(no_order_of_threads_changes_a_bit);
    RUN(calibrating_is_for_the_cpu);
    RUN(courses_that_come_again_are_graphs);
    RUN_EMULATED(without_graphs_all_is_launched);
    RUN(a_plan_follows_its_pointers);
    return device_close(&cpu, &gpu);
}
