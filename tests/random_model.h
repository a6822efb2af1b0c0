/* random_model.h - small diffusion models with every tensor random (a fresh network would output
 * 0), in memory or as a file; and a callback that watches allocations. */
#ifndef RANDOM_MODEL_H
#define RANDOM_MODEL_H

#include "../diffusion/internal.h"

#include <string.h>

/* A preset made small: 16 values a side, width 64. */
static inline fv_status random_config(fv_ctx *ctx, const char *preset, int classes, int depth,
                                      dit_config *c)
{
    FV_TRY(dit_preset(ctx, preset, classes, c));
    c->input_size = 16;
    c->width = 64;
    c->depth = depth;
    c->heads = 2;
    c->hidden = c->family == DIT_F ? swiglu_width(64) : 256;
    return FV_OK;
}

/* Normal values of this spread; weights of norms 1.1. */
static inline fv_status random_net(fv_ctx *ctx, dit_net *n, const dit_config *c, uint64_t seed,
                                   float spread)
{
    FV_TRY(dit_net_create(ctx, n, c));
    FV_TRY(fv_params_alloc(n->params));
    for (int i = 0; i < fv_params_count(n->params); i++) {
        fv_params_init_normal(n->params, i, seed, spread);
        if (strstr(fv_params_name(n->params, i), "norm")) fv_params_fill(n->params, i, 1.1f);
    }
    return FV_OK;
}

static inline fv_status random_model(fv_ctx *ctx, const dit_config *c, uint64_t seed,
                                     const char *path)
{
    dit_net n = { 0 };
    fv_meta m;
    FV_TRY(random_net(ctx, &n, c, seed, 0.12f));
    FV_TRY(dit_config_meta(ctx, c, &m));
    const fv_status s =
        fv_params_export(ctx, n.params, FV_F32, (const char *const *)m.item, m.pairs, path, 1);
    fv_meta_free(ctx, &m);
    dit_net_destroy(ctx, &n);
    return s;
}

/* fv_ctx's progress callback: allocations of c at the first report and at the last. */
typedef struct allocation_watch {
    fv_ctx *c;
    int calls;
    uint64_t first, last;
} allocation_watch;

static inline int watch_allocations(void *user, const fv_progress *p)
{
    allocation_watch *w = user;
    fv_memory_stats m;
    (void)p;
    fv_ctx_memory(w->c, &m);
    if (w->calls++ == 0) w->first = m.allocations;
    w->last = m.allocations;
    return 0;
}

#endif
