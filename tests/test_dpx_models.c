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

int main(void)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.threads = 2;
    if (fv_ctx_create(&ctx, &o) != FV_OK) return 1;
    temp_dir_make("dpx");
    RUN(skips_count_what_the_plan_says);
    RUN(flow_samplers);
    RUN(samplers_of_official_models);
    fv_ctx_destroy(&ctx);
    return test_end();
}
