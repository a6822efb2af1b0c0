/* rdvq_random.h - small RDVQ networks with weights that are functions of a hash of their names,
 * which tests/parity/rdvq_small.py computes too, and checkpoints of them as the published code writes. */
#ifndef TEST_RDVQ_RANDOM_H
#define TEST_RDVQ_RANDOM_H

#include <math.h>
#include <string.h>

#include "rdvq.h"

static inline uint32_t mix(uint32_t h)
{
    h = (h ^ h >> 16) * 0x7feb352du;
    h = (h ^ h >> 15) * 0x846ca68bu;
    return h ^ h >> 16;
}

static inline double noise_at(uint32_t seed, uint32_t i)
{
    return (double)(mix(mix(i) ^ seed) >> 8) / (1 << 23) - 1.0;
}

static inline bool has_end(const char *name, const char *end)
{
    const size_t n = strlen(name), k = strlen(end);
    return n >= k && strcmp(name + n - k, end) == 0;
}

static inline void fill_param(const fv_params *p, fv_pid id)
{
    const char *name = fv_params_name(p, id);
    const fv_tensor t = fv_params_tensor(p, id);
    const int64_t n = fv_tensor_count(&t);
    const uint32_t seed = fv_crc32(0, name, strlen(name));
    const double fan = sqrt((double)t.dim[0] / (double)n);
    for (int64_t i = 0; i < n; i++) {
        const double u = noise_at(seed, (uint32_t)i);
        double v = u * 1.7 * fan;
        if (has_end(name, "scale_mul_1H11") || has_end(name, "attention.scale")) v = 1.4 + 4 * u;
        else if (has_end(name, "bias")) v = 0.1 * u;
        else if (t.ndim == 1) v = 1 + 0.2 * u;
        ((float *)t.data)[i] = (float)v;
    }
}

static inline rdvq_config small_config(bool is_official)
{
    rdvq_config c = { .is_official = is_official, .codes = 64, .code_width = 8, .groups = 1,
                      .slices = { 4, 8, 16 }, .width = 48, .depth = 2, .heads = 4, .ffn = 64 };
    static const int enc[5] = { 8, 8, 12, 16, 16 }, dec[5] = { 8, 12, 16, 16, 16 };
    static const int enc_blocks[5] = { 1, 1, 2, 1, 1 }, dec_blocks[5] = { 1, 2, 1, 1, 1 };
    static const int official[7] = { 4, 4, 8, 8, 16, 16, 16 };
    c.levels = is_official ? 7 : 5;
    for (int i = 0; i < c.levels; i++) {
        c.enc_width[i] = is_official ? official[i] : enc[i];
        c.dec_width[i] = is_official ? official[i] : dec[i];
        c.enc_blocks[i] = is_official ? 2 : enc_blocks[i];
        c.dec_blocks[i] = is_official ? 3 : dec_blocks[i];
    }
    c.strict_mask = is_official;
    c.head = 8;
    c.norm_groups = 2;
    c.noise = is_official ? 0 : 2;
    return c;
}

/* The official one under `prefix`, with what else such a file holds. */
static inline fv_status write_checkpoint(fv_ctx *owner, const char *prefix, const char *path)
{
    static const float used[4] = { 1, 2, 3, 4 };
    const fv_tensor extra = { .data = (void *)(uintptr_t)used, .ndim = 1, .dim = { 4 } };
    const rdvq_config c = small_config(true);
    fv_params *params = NULL;
    fv_model_writer *w = NULL;
    rdvq_net net;
    char name[256];
    FV_TRY(fv_params_create(owner, &params));
    rdvq_net_add(&net, params, &c, "", 0);
    fv_status s = fv_params_alloc(params);
    if (s == FV_OK) s = fv_model_writer_create(owner, &w);
    for (fv_pid id = 0; id < fv_params_count(params) && s == FV_OK; id++) {
        const fv_tensor t = fv_params_tensor(params, id);
        fill_param(params, id);
        snprintf(name, sizeof name, "%s%s", prefix, fv_params_name(params, id));
        s = fv_model_writer_tensor(w, name, &t);
    }
    snprintf(name, sizeof name, "%squantize.codebook_used", prefix);
    if (s == FV_OK) s = fv_model_writer_tensor(w, name, &extra);
    if (s == FV_OK && *prefix) s = fv_model_writer_tensor(w, "optimizer.state.0.exp_avg", &extra);
    if (s == FV_OK) s = fv_model_writer_finish(w, path, 1);
    fv_model_writer_destroy(&w);
    fv_params_destroy(&params);
    return s;
}

#endif
