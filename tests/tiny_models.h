/* tiny_models.h - random diffusion models small enough for tests, as model files in memory: an F
 * model, and an official DiT with a TAESD decoder in the same file. */
#ifndef TINY_MODELS_H
#define TINY_MODELS_H

#include "../diffusion/internal.h"
#include "safetensors_writer.h"
#include "test.h"

typedef struct tiny_model {
    uint8_t *bytes;
    size_t size;
    fv_model *m;
} tiny_model;

#define TINY_CLASSES 3
#define TINY_SEED 7

/* F: 16 x 16 pixels, 16 tokens. Official: 4 x 4 latents, 4 tokens; 32 x 32 pixels when decoded. */
static inline dit_config tiny_config(dit_family family)
{
    dit_config c;
    memset(&c, 0, sizeof c);
    const bool flow = family == DIT_F;
    c.family = family;
    snprintf(c.name, sizeof c.name, "tiny");
    c.input_size = flow ? 16 : 4;
    c.channels = flow ? 3 : 4;
    c.out_channels = flow ? 3 : 8;
    c.patch = flow ? 4 : 2;
    c.width = 32;
    c.depth = 2;
    c.heads = 2;
    c.hidden = flow ? 48 : 64;
    c.classes = TINY_CLASSES;
    c.has_null = 1;
    c.refine = flow ? 4 : 0;
    c.t_scale = flow ? 1000.0f : 1.0f;
    c.t_den = 128.0f;
    c.ln2_eps = 1e-6f;
    c.steps = 4;
    c.cfg = 2.0f;
    c.sampler = flow ? FV_SAMPLER_EULER : FV_SAMPLER_DDIM;
    return c;
}

/* Values in +-size; freed by tiny_make. */
static inline void tiny_tensor(st_writer *w, const char *name, int ndim, const int64_t *dim,
                               float size)
{
    fv_tensor t = { .dtype = FV_F32, .ndim = ndim };
    memcpy(t.dim, dim, (size_t)ndim * sizeof *dim);
    const int64_t n = fv_tensor_count(&t);
    float *v = malloc((size_t)n * sizeof *v);
    if (!v) abort();
    test_fill(v, n, TINY_SEED + (uint64_t)w->n);
    for (int64_t i = 0; i < n; i++) v[i] *= size;
    t.data = v;
    st_add(w, name, &t);
}

static inline void tiny_conv(st_writer *w, const char *name, int64_t out, int64_t in)
{
    const int64_t dim[4] = { out, in, 3, 3 };
    char full[64];
    snprintf(full, sizeof full, "vae.%s.weight", name);
    tiny_tensor(w, full, 4, dim, 0.2f);
    snprintf(full, sizeof full, "vae.%s.bias", name);
    tiny_tensor(w, full, 1, dim, 0.1f);
}

/* TAESD's decoder with 8 channels: c conv r, three levels of 3 blocks and a doubling, block,
 * conv. */
static inline void tiny_decoder(st_writer *w)
{
    static const char graph[] = "cCrBBBuCBBBuCBBBuCBC";
    for (int k = 0; graph[k]; k++) {
        char name[32];
        snprintf(name, sizeof name, "%d", k);
        if (graph[k] == 'C') tiny_conv(w, name, graph[k + 1] ? 8 : 3, k == 1 ? 4 : 8);
        for (int i = 0; graph[k] == 'B' && i < 3; i++) {
            snprintf(name, sizeof name, "%d.conv.%d", k, 2 * i);
            tiny_conv(w, name, 8, 8);
        }
    }
}

/* The metadata object of a file of configuration c, with class names "zero" "one" "two". */
static inline void tiny_meta(fv_ctx *ctx, st_writer *w, const dit_config *c)
{
    fv_meta meta;
    if (dit_config_meta(ctx, c, &meta) != FV_OK) abort();
    st_text(w, "{\"__metadata__\":{\"fovea.classes\":\"zero\\none\\ntwo\"");
    for (int i = 0; i < meta.pairs; i++) {
        char text[128];
        snprintf(text, sizeof text, ",\"%s\":\"%s\"", meta.item[2 * i], meta.item[2 * i + 1]);
        st_text(w, text);
    }
    st_text(w, "}");
    fv_meta_free(ctx, &meta);
}

/* A file of configuration c; an official one with a decoder when asked. */
static inline void tiny_make(fv_ctx *ctx, const dit_config *c, bool decoder, tiny_model *out)
{
    st_writer w = { 0 };
    dit_net net;
    memset(out, 0, sizeof *out);
    if (dit_net_create(ctx, &net, c) != FV_OK) abort();
    tiny_meta(ctx, &w, c);
    for (int i = 0; i < fv_params_count(net.params); i++) {
        const fv_tensor t = fv_params_tensor(net.params, i);
        const double fan = (double)fv_tensor_count(&t) / (double)t.dim[0];
        tiny_tensor(&w, fv_params_name(net.params, i), t.ndim, t.dim,
                    t.ndim > 1 ? (float)(1.0 / sqrt(fan)) : 0.5f);
    }
    if (decoder) tiny_decoder(&w);
    dit_net_destroy(ctx, &net);
    float *data[512];
    const int n = w.n;
    if (n > 512) abort();
    for (int i = 0; i < n; i++) data[i] = w.t[i].data;
    out->bytes = st_finish(&w, &out->size);
    for (int i = 0; i < n; i++) free(data[i]);
    if (fv_model_open_memory(ctx, &out->m, out->bytes, out->size, NULL) != FV_OK) {
        printf("# %s\n", fv_ctx_error(ctx));
        abort();
    }
}

static inline void tiny_free(tiny_model *t)
{
    fv_model_close(&t->m);
    free(t->bytes);
}

#endif
