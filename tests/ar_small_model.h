/* ar_small_model.h - small generators with random weights as files: classes or captions, with draft
 * head and tokenizer. */
#ifndef AR_SMALL_MODEL_H
#define AR_SMALL_MODEL_H

#include "gpt_model.h"
#include "vq.h"

#include <stdlib.h>
#include <string.h>

static inline ar_config small_ar(bool is_caption)
{
    ar_config c = { .name = "small", .has_gpt = 1, .has_vq = 1, .gpt_prefix = "gpt.",
                    .draft_prefix = "draft.", .vq_prefix = "vq." };
    c.gpt = (gpt_config){ .layers = 3, .heads = 2, .width = 40, .ffn = 72, .vocab = 50, .grid = 5,
                          .classes = is_caption ? 0 : 4, .cond_tokens = is_caption ? 7 : 1,
                          .caption_width = is_caption ? 24 : 0, .norm_eps = 1e-5f,
                          .rope_theta = 10000, .cfg = 2.5f, .temperature = 1, .top_p = 1,
                          .top_k = 30, .has_draft = 1, .draft_eps = 1e-6f };
    c.vq = (vq_config){ .stem = 2, .channels = 16, .levels = 2, .mult = { 1, 2 },
                        .encoder_blocks = 1, .decoder_blocks = 1, .latent = 8, .codes = 50,
                        .code_width = 4, .has_attention = 1 };
    return c;
}

static inline void small_fill(fv_params *p, uint64_t seed)
{
    if (fv_params_alloc(p) != FV_OK) exit(1);
    for (int i = 0; i < fv_params_count(p); i++) {
        fv_params_init_normal(p, i, seed, 0.18f);
        if (strstr(fv_params_name(p, i), "norm") && strstr(fv_params_name(p, i), "weight"))
            fv_params_fill(p, i, 1.1f);
    }
}

/* Parameters under prefix + name; those named `without` are left out. */
static inline void small_put(fv_model_writer *w, const fv_params *p, const char *prefix,
                             const char *without)
{
    for (int i = 0; i < fv_params_count(p); i++) {
        char name[128];
        const fv_tensor t = fv_params_tensor(p, i);
        if (without && strcmp(fv_params_name(p, i), without) == 0) continue;
        snprintf(name, sizeof name, "%s%s", prefix, fv_params_name(p, i));
        if (fv_model_writer_tensor(w, name, &t) != FV_OK) exit(1);
    }
}

/* The draft's embedding is left out of the file: it is the target's. key, value: one more pair of
 * metadata, or NULL. */
static inline void small_ar_file(fv_ctx *ctx, const ar_config *c, const char *path,
                                 const char *key, const char *value)
{
    fv_meta meta = { .pairs = 0 };
    fv_model_writer *w;
    gpt_net gpt;
    draft_net draft;
    vq_net vq;
    fv_params *vq_params;
    if (gpt_net_create(ctx, &gpt, &c->gpt) != FV_OK) exit(1);
    if (draft_net_create(ctx, &draft, &c->gpt, false) != FV_OK) exit(1);
    if (fv_params_create(ctx, &vq_params) != FV_OK) exit(1);
    vq_net_add(&vq, vq_params, &c->vq, "");
    small_fill(gpt.params, 1);
    small_fill(draft.params, 2);
    small_fill(vq_params, 3);
    if (ar_config_meta(ctx, c, &meta) != FV_OK || fv_model_writer_create(ctx, &w) != FV_OK) exit(1);
    if (key && fv_meta_add(ctx, &meta, key, value) != FV_OK) exit(1);
    if (fv_meta_write(&meta, w) != FV_OK) exit(1);
    small_put(w, gpt.params, "gpt.", NULL);
    if (c->gpt.has_draft) small_put(w, draft.params, "draft.", "embed_tokens.weight");
    if (c->has_vq) small_put(w, vq_params, "vq.", NULL);
    if (fv_model_writer_finish(w, path, 1) != FV_OK) exit(1);
    fv_model_writer_destroy(&w);
    fv_meta_free(ctx, &meta);
    gpt_net_destroy(ctx, &gpt);
    draft_net_destroy(&draft);
    fv_params_destroy(&vq_params);
}

#endif
