/* ar_random.c - model files with random weights: for tests, and for benchmarks of large presets.
 *
 * The training start has a head of zeros and would draw all codes alike. Here each matrix is
 * N(0, 1/K), so that signals keep their size from layer to layer; the head is three times as large:
 * logits of a deviation of 3 make draws about as peaked as trained ones. Only the stored form is
 * kept in memory. Values depend on seed, part and parameter number alone. */
#include <math.h>
#include <string.h>

#include "fovea_ar.h"
#include "gpt_model.h"
#include "vq.h"

typedef struct writing {
    fv_ctx *ctx;
    ar_config cfg;
    gpt_net gpt;
    draft_net draft;
    fv_params *vq_params;
    vq_net vq;
    fv_pack pack;
} writing;

/* Standard deviation of a parameter; negative: all ones. */
static float spread(const char *name, const fv_tensor *t)
{
    static const char *const tables[] = {"tok_embeddings", "embed_tokens", "embedding_table",
                                         "uncond_embedding", "quantize.embedding"};
    if (strstr(name, "norm") && strstr(name, "weight")) return -1.0f;
    if (t->ndim < 2) return 0.02f;
    for (size_t i = 0; i < FV_ARRAY_LEN(tables); i++)
        if (strstr(name, tables[i])) return 1.0f; /* a row is a signal */
    const double columns = (double)fv_tensor_count(t) / (double)t->dim[0];
    return (float)((strcmp(name, "output.weight") == 0 ? 3.0 : 1.0) / sqrt(columns));
}

/* All parameters under prefix + name; `part` keeps their random numbers apart. */
static fv_status add_part(writing *w, const fv_params *p, const char *prefix, uint32_t part,
                          uint64_t seed)
{
    for (int i = 0; i < fv_params_count(p); i++) {
        const fv_tensor t = fv_params_tensor(p, i);
        const char *name = fv_params_name(p, i);
        char *full = fv_format(w->ctx, "%s%s", prefix, name);
        const fv_status s = full ? fv_pack_random(&w->pack, full, &t, seed,
                                                  part << 24 | (uint32_t)i, spread(name, &t))
                                 : FV_ERR_OOM;
        fv_free(w->ctx, full);
        FV_TRY(s);
        FV_TRY(fv_report(w->ctx, "random weights", (uint64_t)i + 1,
                         (uint64_t)fv_params_count(p), prefix));
    }
    return FV_OK;
}

static fv_status add_metadata(writing *w, uint64_t seed)
{
    fv_meta meta;
    char text[64];
    snprintf(text, sizeof text, "random weights, seed %llu", (unsigned long long)seed);
    FV_TRY(ar_config_meta(w->ctx, &w->cfg, &meta));
    fv_status s = fv_meta_add(w->ctx, &meta, "fovea.source", text);
    if (s == FV_OK) s = fv_meta_write(&meta, w->pack.writer);
    fv_meta_free(w->ctx, &meta);
    return s;
}

static fv_status write_all(writing *w, const char *preset, int classes, uint64_t seed,
                           const char *path, int overwrite)
{
    FV_TRY(ar_preset(w->ctx, preset, classes, &w->cfg));
    w->cfg.gpt.has_draft = w->cfg.has_gpt;
    FV_TRY(fv_pack_create(w->ctx, &w->pack));
    FV_TRY(add_metadata(w, seed));
    if (w->cfg.has_gpt) {
        FV_TRY(gpt_net_create(w->ctx, &w->gpt, &w->cfg.gpt));
        FV_TRY(add_part(w, w->gpt.params, "gpt.", 1, seed));
        FV_TRY(draft_net_create(w->ctx, &w->draft, &w->cfg.gpt, false));
        FV_TRY(add_part(w, w->draft.params, "draft.", 2, seed));
    }
    FV_TRY(fv_params_create(w->ctx, &w->vq_params));
    vq_net_add(&w->vq, w->vq_params, &w->cfg.vq, "vq.");
    if (w->vq.last < 0) return fv_params_alloc(w->vq_params); /* says why */
    FV_TRY(add_part(w, w->vq_params, "", 3, seed));
    return fv_model_writer_finish(w->pack.writer, path, overwrite);
}

fv_status fv_ar_random(fv_ctx *ctx, const char *preset, int classes, uint64_t seed,
                       const char *path, int overwrite)
{
    if (!preset || !path) return fv_fail(ctx, FV_ERR_ARG, "random model: no preset or no path");
    if (classes < 1 || classes > AR_MAX_CLASSES)
        return fv_fail(ctx, FV_ERR_ARG, "random model: classes must be 1 to %d", AR_MAX_CLASSES);
    writing w = {.ctx = ctx};
    const fv_status s = write_all(&w, preset, classes, seed, path, overwrite);
    fv_pack_free(&w.pack);
    gpt_net_destroy(ctx, &w.gpt);
    draft_net_destroy(&w.draft);
    fv_params_destroy(&w.vq_params);
    return s;
}
