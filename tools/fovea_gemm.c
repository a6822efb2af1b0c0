/* fovea_gemm.c - timing of matrix products with the library's own LINEAR op: one op on a tape,
 * weights packed, as inference runs them. Sums of these times are what a whole network is held
 * against.
 *
 * Weights are warm in the cache here when they fit, while a network streams all its layers, so a
 * ratio of network to products includes that difference. */
#include "fovea_tool.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_RUNS 400

double gemm_flop(const gemm_case *g)
{
    return 2.0 * (double)g->M * (double)g->N * (double)g->K;
}

/* A safetensors file in memory with one matrix w [N, K] f32: inference parameters come from a file.
 */
static uint8_t *matrix_file(int64_t N, int64_t K, size_t *size)
{
    const size_t bytes = (size_t)N * (size_t)K * sizeof(float);
    const size_t head = 128;
    uint8_t *file = malloc(8 + head + bytes);
    if (!file) return NULL;
    memset(file, ' ', 8 + head);
    for (int i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)head >> (8 * i));
    char text[128];
    const int n = snprintf(text, sizeof text,
                           "{\"w\":{\"dtype\":\"F32\",\"shape\":[%lld,%lld],"
                           "\"data_offsets\":[0,%zu]}}",
                           (long long)N, (long long)K, bytes);
    memcpy(file + 8, text, (size_t)n);
    float *w = (float *)(void *)(file + 8 + head); /* 136 is a multiple of 4 */
    fv_rand_uniform(1, FV_STREAM_USER, 0, 0, N * K, w);
    for (int64_t i = 0; i < N * K; i++) w[i] = (w[i] - 0.5f) * 0.1f;
    *size = 8 + head + bytes;
    return file;
}

static fv_status build(fv_ctx *ctx, const gemm_case *g, fv_dtype precision, fv_params *params,
                       fv_plan **plan)
{
    const int64_t xd[2] = {g->M, g->K};
    fv_tape *t;
    fv_status s = fv_tape_create(ctx, &t, params, FV_INFER, precision);
    if (s != FV_OK) return s;
    const fv_t x = fv_input(t, "x", fv_tape_precision(t), 2, xd);
    fv_output(t, "y", fv_linear(t, x, fv_params_find(params, "w"), -1, FV_ACT_NONE));
    s = fv_tape_status(t);
    if (s == FV_OK) s = fv_plan_build(ctx, plan, t, NULL);
    fv_tape_destroy(&t);
    return s;
}

static fv_status run(fv_plan *plan, double seconds, gemm_result *out)
{
    double *times = malloc(MAX_RUNS * sizeof *times);
    fv_status s = times ? FV_OK : FV_ERR_OOM;
    int n = 0;
    for (int i = 0; i < 2 && s == FV_OK; i++) s = fv_plan_forward(plan);
    const double end = cli_now() + seconds;
    while (s == FV_OK && n < MAX_RUNS && (n < 5 || cli_now() < end)) {
        const double t = cli_now();
        s = cli_interrupted() ? FV_ERR_CANCELLED : fv_plan_forward(plan);
        times[n++] = cli_now() - t;
    }
    if (s == FV_OK) {
        out->median = cli_quantile(times, n, 0.5);
        out->p10 = cli_quantile(times, n, 0.1);
        out->p90 = cli_quantile(times, n, 0.9);
    }
    free(times);
    return s;
}

fv_status gemm_measure(fv_ctx *ctx, const gemm_case *g, fv_dtype precision, double seconds,
                       gemm_result *out)
{
    const int64_t dim[2] = {g->N, g->K};
    fv_model *file = NULL;
    fv_params *params = NULL;
    fv_plan *plan = NULL;
    size_t size = 0;
    memset(out, 0, sizeof *out);
    uint8_t *bytes = matrix_file(g->N, g->K, &size);
    const size_t input = (size_t)g->M * (size_t)g->K * sizeof(float);
    void *x = calloc(1, input);
    fv_status s = bytes && x ? fv_model_open_memory(ctx, &file, bytes, size, NULL) : FV_ERR_OOM;
    if (s == FV_OK) s = fv_params_create(ctx, &params);
    if (s == FV_OK) {
        (void)fv_params_add(params, "w", 2, dim, 0);
        s = fv_params_load(params, file, "");
    }
    if (s == FV_OK) s = build(ctx, g, precision, params, &plan);
    if (s == FV_OK) s = fv_plan_bind(plan, "x", x);
    if (s == FV_OK) s = run(plan, seconds, out);
    fv_plan_destroy(&plan);
    fv_params_destroy(&params);
    fv_model_close(&file);
    free(x);
    free(bytes);
    return s;
}

/* Shape of a matrix that may be stored as int8 rows. */
static bool find_matrix(const fv_model *file, const char *name, fv_tensor *t)
{
    char int8[96];
    if (fv_model_find(file, name, t)) return true;
    snprintf(int8, sizeof int8, "%s.int8", name);
    return fv_model_find(file, int8, t) != 0;
}

int gemm_of_model(const fv_model *file, const fv_dit_info *info, int rows, gemm_case *out, int max)
{
    static const struct {
        const char *name, *official, *f;
    } parts[] = {
        {"patch", "x_embedder.proj.weight", "patch.weight"},
        {"patch.0", "-", "patch.0.weight"},
        {"patch.1", "-", "patch.1.weight"},
        {"qkv", "blocks.0.attn.qkv.weight", "blocks.0.qkv.weight"},
        {"proj", "blocks.0.attn.proj.weight", "blocks.0.proj.weight"},
        {"mlp in", "blocks.0.mlp.fc1.weight", "blocks.0.w12.weight"},
        {"mlp out", "blocks.0.mlp.fc2.weight", "blocks.0.w3.weight"},
        {"final", "final_layer.linear.weight", "final.out.weight"},
    };
    int n = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts && n < max; i++) {
        const char *name = info->is_official ? parts[i].official : parts[i].f;
        fv_tensor t;
        if (!find_matrix(file, name, &t) || t.ndim < 2 || t.dim[0] < 1) continue;
        gemm_case *g = &out[n++];
        snprintf(g->name, sizeof g->name, "%s", parts[i].name);
        g->M = (int64_t)rows * info->tokens;
        g->N = t.dim[0];
        g->K = fv_tensor_count(&t) / t.dim[0];
        g->repeat = strncmp(name, "blocks.", 7) == 0 ? info->depth : 1;
    }
    return n;
}
