/* wan_random.h - small checkpoints of PS-SR on Wan2.1, with weights that are functions of a hash of
 * their names, which tests/parity/wan_small.py computes too. */
#ifndef TEST_WAN_RANDOM_H
#define TEST_WAN_RANDOM_H

#include <math.h>
#include <string.h>

#include "wan.h"

enum {
    SMALL_C = 96,
    SMALL_FFN = 160,
    SMALL_TEXT = 64,
    SMALL_BLOCKS = 3,
    SMALL_L = 5,
    SMALL_RANK = 4
};

static inline uint32_t wan_mix(uint32_t h)
{
    h = (h ^ h >> 16) * 0x7feb352du;
    h = (h ^ h >> 15) * 0x846ca68bu;
    return h ^ h >> 16;
}

static inline void wan_noise(const char *name, float *x, int64_t n)
{
    const uint32_t seed = fv_crc32(0, name, strlen(name));
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)((double)(wan_mix(wan_mix((uint32_t)i) ^ seed) >> 8) / (1 << 23) - 1.0);
}

/* Values of tensor `name` of file `label`. */
static inline void wan_fill(const char *label, const char *name, fv_tensor *t)
{
    char full[256];
    const int64_t n = fv_tensor_count(t);
    float *x = t->data;
    snprintf(full, sizeof full, "%s%s", label, name);
    wan_noise(full, x, n);
    for (int64_t i = 0; i < n; i++) {
        double v = (double)x[i];
        if (fv_ends_with(name, "modulation")) v *= 0.5;
        else if (fv_ends_with(name, "bias")) v *= 0.1;
        else if (t->ndim == 1 || fv_ends_with(name, "gamma")) v = 1 + 0.2 * v;
        else v *= 1.7 * sqrt((double)t->dim[0] / (double)n);
        x[i] = (float)(strstr(name, "lora_B") ? 0.2 * v : v);
    }
}

/* ---- Files ----------------------------------------------------------------------------------- */

/* How a file differs from the plain one. */
typedef struct wan_file {
    const char *label;      /* of the values: "dit.", "lora.", "k1." */
    const char *prefix;     /* of all names */
    const char *drop, *add; /* a tensor to leave out, one to add */
    const char *reshape;    /* a tensor whose first two dimensions are swapped */
    const char *infinite;   /* a tensor whose first value is */
    int blocks, fused;
    bool diffusers, no_default;
    fv_pack pack;
    fv_ctx *ctx;
    int count; /* of tensors written */
} wan_file;

/* Authors' name -> Diffusers': a list of replacements, in their order. */
static inline void wan_rename(char name[200])
{
    static const char *const pair[][2] = {
        {"text_embedding.0", "condition_embedder.text_embedder.linear_1"},
        {"text_embedding.2", "condition_embedder.text_embedder.linear_2"},
        {"time_embedding.0", "condition_embedder.time_embedder.linear_1"},
        {"time_embedding.2", "condition_embedder.time_embedder.linear_2"},
        {"time_projection.1", "condition_embedder.time_proj"},
        {"head.head", "proj_out"},
        {"head.modulation", "scale_shift_table"},
        {"modulation", "scale_shift_table"},
        {"norm3", "norm2"},
        {"self_attn.norm", "attn1.norm"},
        {"cross_attn.norm", "attn2.norm"},
        {"self_attn.o", "attn1.to_out.0"},
        {"cross_attn.o", "attn2.to_out.0"},
        {"self_attn.", "attn1.to_"},
        {"cross_attn.", "attn2.to_"},
        {"ffn.0", "ffn.net.0.proj"},
        {"ffn.2", "ffn.net.2"}};
    for (size_t i = 0; i < FV_ARRAY_LEN(pair); i++) {
        char rest[200], *at = strstr(name, pair[i][0]);
        if (!at) continue;
        snprintf(rest, sizeof rest, "%s", at + strlen(pair[i][0]));
        snprintf(at, 200 - (size_t)(at - name), "%s%s", pair[i][1], rest);
        return;
    }
}

static inline fv_status wan_put_tensor(wan_file *f, const char *name, fv_tensor t)
{
    char full[256], own[200];
    if (f->drop && strcmp(f->drop, name) == 0) return FV_OK;
    t.data = fv_pack_alloc(&f->pack, (size_t)fv_tensor_count(&t) * sizeof(float));
    if (!t.data) return FV_ERR_OOM;
    wan_fill(f->label, name, &t);
    if (f->infinite && strcmp(f->infinite, name) == 0) *(float *)t.data = (float)INFINITY;
    if (f->reshape && strcmp(f->reshape, name) == 0) {
        const int64_t rows = t.dim[0];
        t.dim[0] = t.dim[1];
        t.dim[1] = rows;
    }
    snprintf(own, sizeof own, "%s", name);
    if (f->diffusers) wan_rename(own);
    char *at = f->no_default ? strstr(own, ".default") : NULL;
    if (at) memmove(at, at + 8, strlen(at + 8) + 1);
    snprintf(full, sizeof full, "%s%s", f->prefix ? f->prefix : "", own);
    f->count++;
    return fv_model_writer_tensor(f->pack.writer, full, &t);
}

static inline fv_status wan_put(wan_file *f, const char *name, int ndim, int64_t a, int64_t b,
                                int64_t c)
{
    fv_tensor t = {.dtype = FV_F32, .ndim = ndim, .dim = {a, b, c}};
    if (ndim == 5) {
        t.dim[2] = 1;
        t.dim[3] = t.dim[4] = 2;
    }
    return wan_put_tensor(f, name, t);
}

static inline fv_status wan_put_linear(wan_file *f, const char *stem, int64_t out, int64_t in)
{
    char name[224];
    snprintf(name, sizeof name, "%s.weight", stem);
    FV_TRY(wan_put(f, name, 2, out, in, 0));
    snprintf(name, sizeof name, "%s.bias", stem);
    return wan_put(f, name, 1, out, 0, 0);
}

/* Linear layers of a block: stem, out, in; false: no more. */
static inline bool wan_linear(int block, int i, char stem[96], int64_t *out, int64_t *in)
{
    static const char *const part[10] = {
        "self_attn.q",  "self_attn.k",  "self_attn.v",  "self_attn.o", "cross_attn.q",
        "cross_attn.k", "cross_attn.v", "cross_attn.o", "ffn.0",       "ffn.2"};
    if (i >= 10) return false;
    snprintf(stem, 96, "blocks.%d.%s", block, part[i]);
    *out = i == 8 ? SMALL_FFN : SMALL_C;
    *in = i == 9 ? SMALL_FFN : SMALL_C;
    return true;
}

static inline fv_status wan_put_dit(wan_file *f, int channels)
{
    static const char *const norm[4] = {"self_attn.norm_q", "self_attn.norm_k", "cross_attn.norm_q",
                                        "cross_attn.norm_k"};
    char name[160];
    int64_t out, in;
    FV_TRY(wan_put(f, "patch_embedding.weight", 5, SMALL_C, channels, 1));
    FV_TRY(wan_put(f, "patch_embedding.bias", 1, SMALL_C, 0, 0));
    FV_TRY(wan_put_linear(f, "text_embedding.0", SMALL_C, SMALL_TEXT));
    FV_TRY(wan_put_linear(f, "text_embedding.2", SMALL_C, SMALL_C));
    FV_TRY(wan_put_linear(f, "time_embedding.0", SMALL_C, WAN_SINUSOIDS));
    FV_TRY(wan_put_linear(f, "time_embedding.2", SMALL_C, SMALL_C));
    FV_TRY(wan_put_linear(f, "time_projection.1", 6 * SMALL_C, SMALL_C));
    FV_TRY(wan_put_linear(f, "head.head", WAN_PATCH, SMALL_C));
    FV_TRY(wan_put(f, "head.modulation", 3, 1, 2, SMALL_C));
    for (int b = 0; b < f->blocks; b++) {
        for (int i = 0; wan_linear(b, i, name, &out, &in); i++)
            FV_TRY(wan_put_linear(f, name, out, in));
        for (int i = 0; i < 4; i++) {
            snprintf(name, sizeof name, "blocks.%d.%s.weight", b, norm[i]);
            FV_TRY(wan_put(f, name, 1, SMALL_C, 0, 0));
        }
        snprintf(name, sizeof name, "blocks.%d.norm3.weight", b);
        FV_TRY(wan_put(f, name, 1, SMALL_C, 0, 0));
        snprintf(name, sizeof name, "blocks.%d.norm3.bias", b);
        FV_TRY(wan_put(f, name, 1, SMALL_C, 0, 0));
        snprintf(name, sizeof name, "blocks.%d.modulation", b);
        FV_TRY(wan_put(f, name, 3, 1, 6, SMALL_C));
    }
    for (int j = 0; j < f->fused; j++) {
        snprintf(name, sizeof name, "fc_layers.%d", j);
        FV_TRY(wan_put_linear(f, name, SMALL_C, 2 * SMALL_C));
    }
    return FV_OK;
}

static inline fv_status wan_put_lora(wan_file *f)
{
    char stem[96], name[160];
    int64_t out, in;
    FV_TRY(wan_put(f, "patch_embedding.weight", 5, SMALL_C, 2 * WAN_LATENT, 1));
    FV_TRY(wan_put(f, "patch_embedding.bias", 1, SMALL_C, 0, 0));
    FV_TRY(wan_put_linear(f, "head.head", WAN_PATCH, SMALL_C));
    for (int b = 0; b < f->blocks; b++)
        for (int i = 0; wan_linear(b, i, stem, &out, &in); i++)
            for (int half = 0; half < 2; half++) {
                snprintf(name, sizeof name, "%s.lora_%c.default.weight", stem, half ? 'B' : 'A');
                FV_TRY(wan_put(f, name, 2, half ? out : SMALL_RANK, half ? SMALL_RANK : in, 0));
            }
    return FV_OK;
}

static const int wan_small_width[4] = {8, 12, 16, 16};

static inline fv_status wan_put_vae(wan_file *f)
{
    fv_params *p = NULL;
    FV_TRY(fv_params_create(f->ctx, &p));
    (void)wan_vae_add(p, wan_small_width);
    fv_status s = FV_OK;
    for (fv_pid id = 0; id < fv_params_count(p) && s == FV_OK; id++) {
        fv_tensor t;
        wan_vae_published_shape(p, id, &t);
        s = wan_put_tensor(f, fv_params_name(p, id) + strlen("vae."), t);
    }
    fv_params_destroy(&p);
    return s;
}

/* Writes f: "lora." a base, "vae." an autoencoder, else a transformer. */
static inline fv_status wan_write(fv_ctx *owner, wan_file *f, const char *path)
{
    f->ctx = owner;
    f->count = 0;
    FV_TRY(fv_pack_create(owner, &f->pack));
    const bool is_lora = strcmp(f->label, "lora.") == 0, is_dit = strcmp(f->label, "dit.") == 0;
    fv_status s = is_lora ? wan_put_lora(f)
                  : strcmp(f->label, "vae.") == 0
                      ? wan_put_vae(f)
                      : wan_put_dit(f, is_dit ? WAN_LATENT : 2 * WAN_LATENT);
    if (s == FV_OK && f->add) s = wan_put(f, f->add, 2, 2, 3, 0);
    if (s == FV_OK) s = fv_model_writer_finish(f->pack.writer, path, 1);
    fv_pack_free(&f->pack);
    return s;
}

/* The encoded prompt. */
static inline fv_status wan_write_context(fv_ctx *owner, int rows, const char *path)
{
    float x[64 * SMALL_TEXT];
    const fv_tensor t = {.data = x, .ndim = 2, .dim = {rows, SMALL_TEXT}};
    fv_model_writer *w = NULL;
    wan_noise("text", x, (int64_t)rows * SMALL_TEXT);
    FV_TRY(fv_model_writer_create(owner, &w));
    fv_status s = fv_model_writer_tensor(w, "context", &t);
    if (s == FV_OK) s = fv_model_writer_finish(w, path, 1);
    fv_model_writer_destroy(&w);
    return s;
}

/* Opens transformer, base, draft, prompt and autoencoder (NULL: none) and converts them. */
static inline fv_status wan_convert_files(fv_ctx *owner, const char *const path[5],
                                          fv_wan_convert_options *o, const char *out)
{
    fv_model *m[5] = {0};
    fv_status s = FV_OK;
    for (int i = 0; i < 5 && s == FV_OK; i++)
        if (path[i]) s = fv_model_open(owner, &m[i], path[i], NULL);
    o->base = m[1];
    o->draft = m[2];
    o->context = m[3];
    o->vae = m[4];
    o->heads = 3;
    o->overwrite = 1;
    if (s == FV_OK) s = fv_wan_convert(owner, m[0], o, out);
    for (int i = 0; i < 5; i++) fv_model_close(&m[i]);
    return s;
}

/* A model with networks, prompt and autoencoder, f32, draft of k = 1.5. path: of six files that are
 * written, the model the last. */
static inline fv_status wan_write_model(fv_ctx *owner, char path[6][300])
{
    wan_file dit = {.label = "dit.", .blocks = SMALL_BLOCKS};
    wan_file lora = {.label = "lora.", .blocks = SMALL_BLOCKS};
    wan_file draft = {.label = "k1.5.", .blocks = 1, .fused = 1}, vae = {.label = "vae."};
    fv_wan_convert_options o = FV_WAN_CONVERT_OPTIONS_INIT;
    const char *in[5];
    for (int i = 0; i < 5; i++) in[i] = path[i];
    o.type = FV_F32;
    FV_TRY(wan_write(owner, &dit, path[0]));
    FV_TRY(wan_write(owner, &lora, path[1]));
    FV_TRY(wan_write(owner, &draft, path[2]));
    FV_TRY(wan_write_context(owner, SMALL_L, path[3]));
    FV_TRY(wan_write(owner, &vae, path[4]));
    return wan_convert_files(owner, in, &o, path[5]);
}

#endif
