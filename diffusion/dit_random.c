/* dit_random.c - model files with random weights: for benchmarks and tests of large presets, and as
 * a start that never saw data.
 *
 * The training start (dit_net_init) makes every block the identity and the output zero, so it would
 * show nothing about caching or timing. Here each matrix is N(0, 1/K), so that signals keep their
 * size from layer to layer. The modulation is half as large: gates, shifts and scales then move
 * with the timestep and the class as in a trained model. So is the output, for pictures within
 * range.
 *
 * Matrices are stored as bf16, vectors as f32. Only the stored form is kept in memory: DiT-XL/2
 * needs 1.4 GB, where masters and gradients would be 5.4 GB. Values depend on seed, parameter
 * number and position alone, so a file is the same bytes for any thread count. */
#include "internal.h"

#include <math.h>
#include <string.h>

#define CHUNK 4096

typedef struct writing {
    fv_ctx *ctx;
    dit_net net;
    fv_model_writer *writer;
    void **data; /* [parameters], owned */
    int count;
} writing;

/* Standard deviation of a parameter; negative: all ones. */
static float spread(const dit_net *n, fv_pid id, const char *name, const fv_tensor *t)
{
    if (strstr(name, "norm")) return -1.0f;
    if (id == n->classes) return 1.0f;
    if (t->ndim < 2) return 0.02f;
    if (id == n->ada_offset) return 0.1f;
    const double columns = (double)fv_tensor_count(t) / (double)t->dim[0];
    const bool is_small = strstr(name, "ada") || id == n->out_w;
    return (float)((is_small ? 0.5 : 1.0) / sqrt(columns));
}

static void fill_bf16(fv_ctx *ctx, uint16_t *to, int64_t count, uint64_t seed, fv_pid id, float std)
{
#pragma omp parallel for schedule(static) num_threads(fv_ctx_threads(ctx))
    for (int64_t at = 0; at < count; at += CHUNK) {
        float v[CHUNK];
        const int64_t n = count - at < CHUNK ? count - at : CHUNK;
        fv_rand_normal(seed, FV_STREAM_INIT, (uint32_t)id, (uint64_t)at, n, v);
        for (int64_t i = 0; i < n; i++) to[at + i] = fv_f32_to_bf16(std * v[i]);
    }
}

static void fill_f32(float *to, int64_t count, uint64_t seed, fv_pid id, float std)
{
    fv_rand_normal(seed, FV_STREAM_INIT, (uint32_t)id, 0, count, to);
    for (int64_t i = 0; i < count; i++) to[i] = std < 0 ? 1.0f : std * to[i];
}

static fv_status add_parameter(writing *w, fv_pid id, uint64_t seed)
{
    const char *name = fv_params_name(w->net.params, id);
    fv_tensor t = fv_params_tensor(w->net.params, id);
    const float std = spread(&w->net, id, name, &t);
    const int64_t count = fv_tensor_count(&t);
    size_t bytes;
    t.dtype = t.ndim >= 2 && std > 0 && id != w->net.pos ? FV_BF16 : FV_F32;
    if (count < 1 || !fv_mul_size((size_t)count, fv_dtype_size(t.dtype), &bytes))
        return fv_fail(w->ctx, FV_ERR_LIMIT, "random model: %s is too large", name);
    t.data = w->data[id] = fv_alloc(w->ctx, bytes);
    if (!t.data) return FV_ERR_OOM;
    if (id == w->net.pos)
        dit_pos_table(&w->net.cfg, t.data);
    else if (t.dtype == FV_BF16)
        fill_bf16(w->ctx, t.data, count, seed, id, std);
    else
        fill_f32(t.data, count, seed, id, std);
    FV_TRY(fv_model_writer_tensor(w->writer, name, &t));
    return fv_report(w->ctx, "random weights", (uint64_t)id + 1, (uint64_t)w->count, NULL);
}

static fv_status add_metadata(writing *w, uint64_t seed)
{
    fv_meta meta;
    char text[64];
    snprintf(text, sizeof text, "random weights, seed %llu", (unsigned long long)seed);
    FV_TRY(dit_config_meta(w->ctx, &w->net.cfg, &meta));
    fv_status s = fv_meta_add(w->ctx, &meta, "fovea.source", text);
    if (s == FV_OK) s = fv_meta_write(&meta, w->writer);
    fv_meta_free(w->ctx, &meta);
    return s;
}

static fv_status write_all(writing *w, const char *preset, int classes, uint64_t seed,
                           const char *path, int overwrite)
{
    dit_config c;
    FV_TRY(dit_preset(w->ctx, preset, classes, &c));
    FV_TRY(dit_net_create(w->ctx, &w->net, &c));
    w->count = fv_params_count(w->net.params);
    w->data = fv_calloc(w->ctx, (size_t)w->count, sizeof *w->data);
    if (!w->data) return FV_ERR_OOM;
    FV_TRY(fv_model_writer_create(w->ctx, &w->writer));
    FV_TRY(add_metadata(w, seed));
    for (int i = 0; i < w->count; i++) FV_TRY(add_parameter(w, i, seed));
    return fv_model_writer_finish(w->writer, path, overwrite);
}

fv_status fv_dit_random(fv_ctx *ctx, const char *preset, int classes, uint64_t seed,
                        const char *path, int overwrite)
{
    if (!preset || !path) return fv_fail(ctx, FV_ERR_ARG, "random model: no preset or no path");
    if (classes < 1 || classes > 100000)
        return fv_fail(ctx, FV_ERR_ARG, "random model: classes must be 1 to 100000");
    writing w = {.ctx = ctx};
    const fv_status s = write_all(&w, preset, classes, seed, path, overwrite);
    fv_model_writer_destroy(&w.writer);
    for (int i = 0; w.data && i < w.count; i++) fv_free(ctx, w.data[i]);
    fv_free(ctx, w.data);
    dit_net_destroy(ctx, &w.net);
    return s;
}
