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

typedef struct writing {
    fv_ctx *ctx;
    dit_net net;
    fv_pack pack;
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

static fv_status add_parameter(writing *w, fv_pid id, uint64_t seed)
{
    const char *name = fv_params_name(w->net.params, id);
    fv_tensor t = fv_params_tensor(w->net.params, id);
    fv_status s;
    if (id == w->net.pos) {
        t.data = fv_pack_alloc(&w->pack, (size_t)fv_tensor_count(&t) * sizeof(float));
        if (!t.data) return FV_ERR_OOM;
        dit_pos_table(&w->net.cfg, t.data);
        s = fv_model_writer_tensor(w->pack.writer, name, &t);
    } else {
        s = fv_pack_random(&w->pack, name, &t, seed, (uint32_t)id,
                           spread(&w->net, id, name, &t));
    }
    if (s != FV_OK) return s;
    return fv_report(w->ctx, "random weights", (uint64_t)id + 1,
                     (uint64_t)fv_params_count(w->net.params), NULL);
}

static fv_status add_metadata(writing *w, uint64_t seed)
{
    fv_meta meta;
    char text[64];
    snprintf(text, sizeof text, "random weights, seed %llu", (unsigned long long)seed);
    FV_TRY(dit_config_meta(w->ctx, &w->net.cfg, &meta));
    fv_status s = fv_meta_add(w->ctx, &meta, "fovea.source", text);
    if (s == FV_OK) s = fv_meta_write(&meta, w->pack.writer);
    fv_meta_free(w->ctx, &meta);
    return s;
}

static fv_status write_all(writing *w, const char *preset, int classes, uint64_t seed,
                           const char *path, int overwrite)
{
    dit_config c;
    FV_TRY(dit_preset(w->ctx, preset, classes, &c));
    FV_TRY(dit_net_create(w->ctx, &w->net, &c));
    FV_TRY(fv_pack_create(w->ctx, &w->pack));
    FV_TRY(add_metadata(w, seed));
    for (int i = 0; i < fv_params_count(w->net.params); i++) FV_TRY(add_parameter(w, i, seed));
    return fv_model_writer_finish(w->pack.writer, path, overwrite);
}

fv_status fv_dit_random(fv_ctx *ctx, const char *preset, int classes, uint64_t seed,
                        const char *path, int overwrite)
{
    if (!preset || !path) return fv_fail(ctx, FV_ERR_ARG, "random model: no preset or no path");
    if (classes < 1 || classes > 100000)
        return fv_fail(ctx, FV_ERR_ARG, "random model: classes must be 1 to 100000");
    writing w = {.ctx = ctx};
    const fv_status s = write_all(&w, preset, classes, seed, path, overwrite);
    fv_pack_free(&w.pack);
    dit_net_destroy(ctx, &w.net);
    return s;
}
