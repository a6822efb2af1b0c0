/* check_cuda_dit.c - whole networks on the emulated GPU: runners of small diffusion transformers, from a
 * model file, against the same on the CPU; full evaluations, reused and forecast modules. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "fovea_diffusion.h"
#include "cuda_device.h"

#include "../diffusion/internal.h"
#include "image_codec.h"
#include "random_model.h"
#include "temp_dir.h"
#include "tiny_models.h"

static fv_ctx *cpu, *gpu;
static char path[600];

typedef struct runner {
    fv_model *m;
    dit_net net;
    dit_schedule sc;
    dit_runner *r;
} runner;

static fv_status runner_open(fv_ctx *ctx, const dit_config *c, fv_dtype precision, runner *g)
{
    static const int32_t labels[2] = { 1, 2 };
    const dit_runner_options ro = { .B = 2, .keep_outputs = true, .history = 2 };
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    o.steps = 4;
    o.cfg = 2.0f;
    o.sampler = c->sampler;
    memset(g, 0, sizeof *g);
    FV_TRY(fv_model_open(ctx, &g->m, path, NULL));
    FV_TRY(dit_net_create(ctx, &g->net, c));
    FV_TRY(fv_params_load(g->net.params, g->m, NULL));
    FV_TRY(dit_schedule_create(ctx, &g->sc, c, &o));
    FV_TRY(dit_runner_create(ctx, &g->r, &g->net, precision, &g->sc, &ro));
    return dit_runner_start(g->r, labels);
}

static void runner_close(fv_ctx *ctx, runner *g)
{
    dit_runner_destroy(&g->r);
    dit_schedule_destroy(ctx, &g->sc);
    dit_net_destroy(ctx, &g->net);
    fv_model_close(&g->m);
}

static dit_config config_of(dit_family family)
{
    dit_config c = tiny_config(family);
    return c;
}

/* Evaluations 0..3: two in full, one that reuses and forecasts modules, one in full. */
static void compare(dit_family family, fv_dtype precision, double bound)
{
    const dit_config c = config_of(family);
    runner a, b;
    float x[2 * 16 * 16 * 4];
    uint8_t action[8], pruned[8] = { 0 };
    float weight[8][DIT_HISTORY] = { { 0 } };
    const dit_row mixed = { action, &weight[0][0], pruned, NULL };
    OK(cpu, random_model(cpu, &c, 5, path));
    OK(cpu, runner_open(cpu, &c, FV_F32, &a));
    OK(gpu, runner_open(gpu, &c, precision, &b));
    for (int k = 0; k < 8; k++) {
        action[k] = (uint8_t)(k % 2 ? DIT_LINEAR : DIT_REUSE);
        weight[k][0] = 2;
        weight[k][1] = -1;
    }
    double worst = 0, most = 0;
    for (int e = 0; e < 4; e++) {
        const float *p, *q;
        int rows_a = 0, rows_b = 0;
        test_fill(x, (int64_t)(sizeof x / sizeof *x), 40 + (uint64_t)e);
        OK(cpu, dit_runner_eval(a.r, e, x, e == 2 ? &mixed : NULL, &p, &rows_a));
        OK(gpu, dit_runner_eval(b.r, e, x, e == 2 ? &mixed : NULL, &q, &rows_b));
        CHECK(rows_a == rows_b && rows_a > 0);
        const int n = rows_a * c.input_size * c.input_size * c.out_channels;
        for (int i = 0; i < n; i++) {
            worst = test_worst(worst, fabs((double)p[i] - q[i]));
            if (fabs(p[i]) > most) most = fabs(p[i]);
        }
    }
    printf("# largest difference %.2g of %.2g\n", worst, most);
    CHECK(most > 0.01 && worst <= bound * most);
    runner_close(cpu, &a);
    runner_close(gpu, &b);
    CHECK(device_is_whole());
}
/* Three pictures in batches of two, from noise to levels. */
static fv_status paint(fv_ctx *ctx, fv_image img[3])
{
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    fv_model *file = NULL;
    fv_dit *d = NULL;
    o.count = 3;
    o.batch = 2;
    o.steps = 4;
    o.cfg = 2;
    o.seed = 5;
    FV_TRY(fv_model_open(ctx, &file, path, NULL));
    fv_status s = fv_dit_open(ctx, &d, file, NULL);
    if (s == FV_OK) s = fv_generate(ctx, d, &o, img, NULL);
    fv_dit_close(&d);
    fv_model_close(&file);
    return s;
}

static void pictures_are_the_same(void)
{
    const dit_config c = tiny_config(DIT_F);
    fv_image a[3], b[3];
    int worst = 0, most = 0, least = 255;
    OK(cpu, random_model(cpu, &c, 5, path));
    OK(cpu, paint(cpu, a));
    OK(gpu, paint(gpu, b));
    for (int k = 0; k < 3; k++) {
        CHECK(a[k].width == b[k].width && a[k].height == b[k].height && a[k].channels == 3);
        for (int i = 0; i < a[k].height * a[k].width * 3; i++) {
            const int row = i / (a[k].width * 3), at = i % (a[k].width * 3);
            const int u = fvi_image_row(&a[k], row)[at], v = fvi_image_row(&b[k], row)[at];
            if (abs(u - v) > worst) worst = abs(u - v);
            if (u > most) most = u;
            if (u < least) least = u;
        }
        fv_image_free(cpu, &a[k]);
        fv_image_free(gpu, &b[k]);
    }
    printf("# levels %d to %d, largest difference %d\n", least, most, worst);
    CHECK(most > least + 50 && worst <= 1);
    CHECK(device_is_clean(gpu));
}

/* bf16 against f32, with products that add biases and make GELU of them, and without. */
static void official_network_in_bf16(void)
{
    const fvi_cuda *c = fvi_cuda_of(gpu);
    const long before = emulator_fused;
    compare(DIT_OFFICIAL, FV_BF16, 3e-2);
    const long fused = emulator_fused;
    CHECK(on_gpu || fused > before);
    CHECK(c->api->set(c->dev, FVK_SET_OFF, ~0u) == FVK_OK);
    compare(DIT_OFFICIAL, FV_BF16, 3e-2);
    CHECK(on_gpu || emulator_fused == fused);
    CHECK(c->api->set(c->dev, FVK_SET_OFF, 0) == FVK_OK);
}
/* 8-bit floats: 4 bits in some 20 products. With scales in the product, after it, and refused. */
static void networks_in_fp8(void)
{
    fvi_cuda *c = (fvi_cuda *)(uintptr_t)fvi_cuda_of(gpu);
    const uint32_t off[3] = { 0, FVK_OFF_SCALES, FVK_OFF_FP8 };
    c->fp8_least = 16;
    for (int i = 0; i < 3; i++) {
        if (on_gpu && fvi_fp8_check(gpu) != FV_OK) break;
        CHECK(c->api->set(c->dev, FVK_SET_OFF, off[i]) == FVK_OK);
        const long before = emulator_fp8;
        emulator_reversed = i == 1;
        compare(DIT_OFFICIAL, FV_F8, i < 2 ? 0.15 : 3e-2);
        compare(DIT_F, FV_F8, i < 2 ? 0.15 : 3e-2);
        CHECK(on_gpu || (emulator_fp8 > before) == (i < 2));
    }
    emulator_reversed = 0;
    CHECK(c->api->set(c->dev, FVK_SET_OFF, 0) == FVK_OK);
    c->fp8_least = FVI_CUDA_FP8_LEAST;
}
static void fp8_is_refused_where_it_is_not(void)
{
    const fvi_cuda *c = fvi_cuda_of(gpu);
    const dit_config tiny = config_of(DIT_F);
    fv_dit_options o = FV_DIT_OPTIONS_INIT;
    fv_model *m = NULL;
    fv_dit *d = NULL;
    o.precision = FV_F8;
    OK(cpu, random_model(cpu, &tiny, 5, path));
    OK(cpu, fv_model_open(cpu, &m, path, NULL));
    CHECK(fv_dit_open(cpu, &d, m, &o) == FV_ERR_UNSUPPORTED && !d);
    CHECK(strstr(fv_ctx_error(cpu), "fp8 needs a GPU"));
    CHECK(c->api->set(c->dev, FVK_SET_OFF, FVK_OFF_FP8) == FVK_OK);
    CHECK(fv_dit_open(gpu, &d, m, &o) == FV_ERR_UNSUPPORTED && !d);
    CHECK(strstr(fv_ctx_error(gpu), "8.9"));
    CHECK(c->api->set(c->dev, FVK_SET_OFF, 0) == FVK_OK);
    fv_model_close(&m);
}
static void official_network_in_f32(void) { compare(DIT_OFFICIAL, FV_F32, 1e-4); }
static void flow_network_in_f32(void) { compare(DIT_F, FV_F32, 1e-4); }
/* Against f32: CPUs without AVX-512 have no bf16 products. 8 bits in some 20 roundings. */
static void flow_network_in_bf16(void) { compare(DIT_F, FV_BF16, 3e-2); }

int main(int argc, char **argv)
{
    const int code = device_open(argc, argv, 0, 0, &cpu, &gpu);
    if (code >= 0) return code;
    temp_dir_make("cuda_dit");
    snprintf(path, sizeof path, "%s", temp_path("tiny.safetensors"));
    RUN(official_network_in_f32);
    RUN(flow_network_in_f32);
    RUN(flow_network_in_bf16);
    RUN(official_network_in_bf16);
    RUN(networks_in_fp8);
    RUN(fp8_is_refused_where_it_is_not);
    RUN(pictures_are_the_same);
    return device_close(&cpu, &gpu);
}
