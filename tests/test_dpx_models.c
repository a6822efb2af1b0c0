/* test_dpx_models.c - planning and running with every sampler, on both families of networks. */
#include "dit_fixture.h"
#include "dpx.h"
#include "random_model.h"
#include "temp_dir.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLASSES 3
#define STEPS 14

static fv_ctx *ctx;

static fv_status write_model(const char *preset, const char *path)
{
    dit_config c;
    FV_TRY(random_config(ctx, preset, CLASSES, 3, &c));
    return random_model(ctx, &c, 7, path);
}

static double distance(const float *a, const float *b, size_t n)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        error += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)a[i] * a[i];
    }
    return sqrt(error / norm);
}

/* A plan at half of the evaluations is nearer to the exact state than the same number of evenly
 * spread ones with reuse; a plan file gives the same. */
static void try_sampler(const fv_dit *dit, fv_sampler sampler)
{
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    fv_calibrate_options q = FV_CALIBRATE_OPTIONS_INIT;
    fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
    fv_dit_info info;
    fv_sens *sens;
    fv_accel *plan, *again;
    char path[160];
    fv_dit_get_info(dit, &info);
    const size_t n = 2 * (size_t)info.input_size * (size_t)info.input_size * (size_t)info.channels;
    float *exact = test_alloc(n * sizeof *exact), *x = test_alloc(n * sizeof *x),
          *y = test_alloc(n * sizeof *y);
    o.count = 2;
    o.steps = STEPS;
    o.cfg = 1.5f;
    o.sampler = sampler;
    o.seed = 500;
    q.gen = &o;
    q.draws = 2;
    q.weight_draws = 1;
    q.weight_every = 3;
    OK(ctx, fv_sens_calibrate(ctx, &sens, dit, &q));
    OK(ctx, fv_generate_state(ctx, dit, &o, NULL, exact, NULL));
    double far[2];
    for (int i = 0; i < 2; i++) {
        a.mode = i ? FV_ACCEL_FIXED : FV_ACCEL_DPX;
        a.anchors = sampler == FV_SAMPLER_HEUN ? STEPS : STEPS / 2 + 1;
        OK(ctx, fv_accel_plan(ctx, &plan, dit, &o, sens, NULL, &a));
        fv_accel_info made;
        fv_accel_get_info(plan, &made);
        CHECK(made.anchors <= a.anchors && made.flop_ratio > 1);
        o.accel = plan;
        OK(ctx, fv_generate_state(ctx, dit, &o, NULL, x, NULL));
        far[i] = distance(exact, x, n);
        CHECK(isfinite(far[i]));
        snprintf(path, sizeof path, "%s/p%d.fvplan", temp_dir, i);
        OK(ctx, fv_accel_write(ctx, plan, path, 1));
        OK(ctx, fv_accel_read(ctx, &again, dit, path));
        o.accel = again;
        OK(ctx, fv_generate_state(ctx, dit, &o, NULL, y, NULL));
        CHECK(memcmp(x, y, n * sizeof *x) == 0);
        o.accel = NULL;
        fv_accel_free(&again);
        fv_accel_free(&plan);
    }
    printf("# %s %s: dpx %.2g, constant interval %.2g\n", info.name, fv_sampler_name(sampler),
           far[0], far[1]);
    CHECK_MSG(far[0] < far[1], "%s: %g, %g", fv_sampler_name(sampler), far[0], far[1]);
    fv_sens_free(&sens);
    free(exact);
    free(x);
    free(y);
}

static void try_family(const char *preset, const fv_sampler *sampler, int count)
{
    char path[160];
    fv_model *file;
    fv_dit *dit;
    snprintf(path, sizeof path, "%s/model.safetensors", temp_dir);
    OK(ctx, write_model(preset, path));
    OK(ctx, fv_model_open(ctx, &file, path, NULL));
    OK(ctx, fv_dit_open(ctx, &dit, file, NULL));
    for (int i = 0; i < count; i++) try_sampler(dit, sampler[i]);
    fv_dit_close(&dit);
    fv_model_close(&file);
}

/* Full, full, forecast, skipped: the second newest is the first evaluation where only full ones
 * count, the third newest where all that ran do. */
static void skips_count_what_the_plan_says(void)
{
    char path[160];
    fv_model *file;
    fv_dit *dit;
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    float *x[2];
    snprintf(path, sizeof path, "%s/skip.safetensors", temp_dir);
    OK(ctx, write_model("F32", path));
    OK(ctx, fv_model_open(ctx, &file, path, NULL));
    OK(ctx, fv_dit_open(ctx, &dit, file, NULL));
    const size_t n = 16 * 16 * 3, K = 6;
    o.steps = 4;
    o.cfg = 1.0f;
    for (int kind = DIT_SKIP_OUTPUT; kind <= DIT_SKIP_RESIDUAL; kind++) {
        for (int i = 0; i < 2; i++) {
            fv_accel *a;
            OK(ctx, fvi_accel_create(ctx, &a, 4, (int)K / 2));
            memset(a->action + 2 * K, DIT_LINEAR, K);
            for (size_t k = 0; k < K; k++) {
                a->weight[(2 * K + k) * DIT_HISTORY] = 1.5f;
                a->weight[(2 * K + k) * DIT_HISTORY + 1] = -0.5f;
            }
            a->skipped[3] = 1;
            a->skip_weight[3 * DIT_HISTORY + 1 + i] = 1;
            a->past_of_anchors = i == 0;
            a->skip = (dit_skip)kind;
            a->sampler = FV_SAMPLER_EULER;
            a->steps = 4;
            fvi_accel_count(a);
            o.accel = a;
            x[i] = test_alloc(n * sizeof *x[i]);
            OK(ctx, fv_generate_state(ctx, dit, &o, NULL, x[i], NULL));
            fv_accel_free(&a);
        }
        CHECK_MSG(distance(x[0], x[1], n) <= 1e-5, "kind %d: %g", kind, distance(x[0], x[1], n));
        free(x[0]);
        free(x[1]);
    }
    fv_dit_close(&dit);
    fv_model_close(&file);
}

/* A trained model at half of the evaluations, without a table: nearer to the exact pictures than
 * half of the steps are. */
static void plans_without_a_table_beat_fewer_steps(void)
{
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
    fv_accel_info made;
    fv_model *file;
    fv_dit *dit;
    fv_accel *plan;
    const size_t n = 2 * 32 * 32 * 3;
    float *exact = test_alloc(n * sizeof *exact), *x = test_alloc(n * sizeof *x),
          *y = test_alloc(n * sizeof *y);
    const fv_status s = fv_model_open(ctx, &file, FV_TEST_DIR "/../diffusion/models/f32.safetensors",
                                      NULL);
    OK(ctx, s);
    if (s != FV_OK) return;
    OK(ctx, fv_dit_open(ctx, &dit, file, NULL));
    o.count = 2;
    o.steps = 24;
    o.seed = 77;
    a.anchors = 12;
    OK(ctx, fv_generate_state(ctx, dit, &o, NULL, exact, NULL));
    OK(ctx, fv_accel_plan(ctx, &plan, dit, &o, NULL, NULL, &a));
    fv_accel_get_info(plan, &made);
    CHECK(strcmp(made.mode, "dpx (prior)") == 0 && made.anchors <= 12);
    o.accel = plan;
    OK(ctx, fv_generate_state(ctx, dit, &o, NULL, x, NULL));
    o.accel = NULL;
    o.steps = 12;
    OK(ctx, fv_generate_state(ctx, dit, &o, NULL, y, NULL));
    const double dpx = distance(exact, x, n), fewer = distance(exact, y, n);
    printf("# without a table %.3g, fewer steps %.3g\n", dpx, fewer);
    CHECK_MSG(dpx < 0.5 * fewer, "%g, %g", dpx, fewer);
    fv_accel_free(&plan);
    fv_dit_close(&dit);
    fv_model_close(&file);
    free(exact);
    free(x);
    free(y);
}

static void flow_samplers(void)
{
    static const fv_sampler all[] = { FV_SAMPLER_EULER, FV_SAMPLER_HEUN };
    try_family("F32", all, 2);
}

static void samplers_of_official_models(void)
{
    static const fv_sampler all[] = { FV_SAMPLER_DDIM, FV_SAMPLER_DPMPP2M, FV_SAMPLER_DDPM };
    try_family("DiT-S/4", all, 3);
}

/* ---- Whole plans against enumeration ---------------------------------------------------------- */

#define FEW 5       /* evaluations */
#define CHOICES 11  /* of one: 2 of attention x 5 of the MLP, or skipped */
#define ALL 29282   /* 2 kinds of skips x 11^4; the first evaluation is computed */

typedef struct tiny {
    fv_model *file;
    fv_dit *dit;
    fv_sens *sens;
    fv_timing *timing;
    fv_generate_options o;
    fv_accel *plan;
    double error[ALL], seconds[ALL];
} tiny;

/* One block of 64 tokens, so that a plan has two modules. */
static fv_status tiny_open(tiny *t)
{
    static const char times[] =
        "\"depth\":1,\"batch\":1,\"threads\":1,\"precision\":\"f32\",\"attn\":[0.0020,0.004],"
        "\"mlp\":[0.0031,0.006],\"reuse\":[0.0001,0.0002],\"ends\":[0.0004,0.0008],"
        "\"linear\":[0.00015,0.0003],\"skip\":[0.00005,0.0001],\"prune8\":[0.0007,0.0014],"
        "\"prune4\":[0.0011,0.0022],\"prune2\":[0.0018,0.0036],\"step\":0.00005,\"cond\":0.001,"
        "\"setup\":0.001,\"decode\":0.0001,\"correction\":1";
    fv_calibrate_options q = FV_CALIBRATE_OPTIONS_INIT;
    char path[160], json[1024], hash[65];
    dit_config c;
    snprintf(path, sizeof path, "%s/tiny.safetensors", temp_dir);
    FV_TRY(random_config(ctx, "F32", CLASSES, 1, &c));
    c.patch = 2;
    FV_TRY(random_model(ctx, &c, 7, path));
    FV_TRY(fv_model_open(ctx, &t->file, path, NULL));
    FV_TRY(fv_dit_open(ctx, &t->dit, t->file, NULL));
    t->o = (fv_generate_options)FV_GENERATE_OPTIONS_INIT;
    t->o.steps = FEW;
    t->o.cfg = 1;
    q.gen = &t->o;
    q.draws = 2;
    q.weight_draws = 2;
    FV_TRY(fv_sens_calibrate(ctx, &t->sens, t->dit, &q));
    fv_hex(t->dit->hash, sizeof t->dit->hash, hash);
    snprintf(json, sizeof json, "{\"fovea_timing\":2,\"model\":\"%s\",%s}", hash, times);
    FV_TRY(fv_timing_parse(ctx, &t->timing, json, strlen(json)));
    return fvi_accel_create(ctx, &t->plan, FEW, 1);
}

static void tiny_close(tiny *t)
{
    fv_accel_free(&t->plan);
    fv_timing_free(&t->timing);
    fv_sens_free(&t->sens);
    fv_dit_close(&t->dit);
    fv_model_close(&t->file);
}

static fv_status judge_all(tiny *t)
{
    fv_accel *a = t->plan;
    a->past_of_anchors = true;
    for (int x = 0; x < ALL; x++) {
        int rest = x / 2;
        a->skip = (dit_skip)(x % 2);
        for (int e = 1; e < FEW; e++, rest /= CHOICES) {
            const int choice = rest % CHOICES, mlp = choice / 2 % 5;
            a->skipped[e] = choice == CHOICES - 1;
            a->action[2 * e] = (uint8_t)(choice % 2 && !a->skipped[e] ? DIT_LINEAR : DIT_FULL);
            a->action[2 * e + 1] = (uint8_t)(a->skipped[e] || mlp == 0 ? DIT_FULL
                                             : mlp == 1                ? DIT_LINEAR
                                                                       : DIT_PRUNE);
            a->pruned[2 * e + 1] = (uint8_t)(mlp > 1 ? mlp - 2 : 0);
        }
        t->error[x] = fvi_plan_error(t->sens, a, NULL);
        FV_TRY(fvi_accel_seconds(ctx, t->dit, &t->o, t->timing, a, &t->seconds[x]));
    }
    return FV_OK;
}

/* Predicted error of the planner's plan for a ratio; -1: it is out of reach. */
static double planned_error(const tiny *t, double R, double budget, bool whole_evaluations)
{
    fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
    fv_accel *p;
    double seconds = INFINITY;
    a.speedup = R;
    a.no_single_modules = whole_evaluations;
    if (fv_accel_plan(ctx, &p, t->dit, &t->o, t->sens, t->timing, &a) != FV_OK) return -1;
    const fv_status s = fvi_accel_seconds(ctx, t->dit, &t->o, t->timing, p, &seconds);
    const double error = fvi_plan_error(t->sens, p, NULL);
    fv_accel_free(&p);
    return s == FV_OK && seconds <= budget * (1 + 1e-12) ? error : INFINITY;
}

/* The budget is kept, single modules never make a plan worse, and the plan is near the best one of
 * all. Not the best: what single modules save is believed in part only, because in pictures no more
 * of it comes true, and they are chosen one after the other. */
static void whole_plans_are_near_the_best_of_all(void)
{
    static tiny t;
    double exact, worst = 0, sum = 0;
    int n = 0;
    OK(ctx, tiny_open(&t));
    OK(ctx, judge_all(&t));
    OK(ctx, fvi_accel_seconds(ctx, t.dit, &t.o, t.timing, NULL, &exact));
    for (double R = 1.05; R < 3; R += 0.05, n++) {
        const double budget = exact / R, error = planned_error(&t, R, budget, false),
                     whole = planned_error(&t, R, budget, true);
        double best = INFINITY;
        for (int x = 0; x < ALL; x++)
            if (t.seconds[x] <= budget && t.error[x] < best) best = t.error[x];
        CHECK_MSG(error >= best * (1 - 1e-9) && error <= whole, "%gx: %g, best %g, whole %g", R,
                  error, best, whole);
        worst = test_worst(worst, error / best);
        sum += error / best;
    }
    printf("# predicted error over the least possible: mean %.3f, worst %.3f of %d\n", sum / n,
           worst, n);
    CHECK(sum / n < 1.3 && worst < 2.5);
    tiny_close(&t);
}

int main(void)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.threads = 2;
    if (fv_ctx_create(&ctx, &o) != FV_OK) return 1;
    temp_dir_make("dpx");
    RUN(skips_count_what_the_plan_says);
    RUN(whole_plans_are_near_the_best_of_all);
    RUN(plans_without_a_table_beat_fewer_steps);
    RUN(flow_samplers);
    RUN(samplers_of_official_models);
    fv_ctx_destroy(&ctx);
    return test_end();
}
