/* rdvq_fixture.h - small picture models with random weights, as files, and pictures for them. */
#ifndef RDVQ_FIXTURE_H
#define RDVQ_FIXTURE_H

#include <math.h>

#include "image_codec.h"
#include "rdvq.h"
#include "temp_dir.h"

/* Own model: strides 32, 16, 8, windows of 128 pixels. */
static inline rdvq_config rdvq_small_config(int groups)
{
    rdvq_config c = { .levels = 5, .noise = 2, .codes = 64, .code_width = 4, .groups = groups,
                      .slices = { 4, 8, 16 }, .width = 32, .depth = 2, .heads = 2, .ffn = 48 };
    snprintf(c.name, sizeof c.name, "small-%d", groups);
    for (int i = 0; i < c.levels; i++) {
        c.enc_width[i] = c.dec_width[i] = 8 + 4 * i;
        c.enc_blocks[i] = c.dec_blocks[i] = 1;
    }
    return c;
}

/* Weights as training starts with, but the head of the entropy model, which would be zero. */
static inline fv_status rdvq_write_as(fv_ctx *ctx, const rdvq_config *c, uint64_t seed,
                                      const char *nominal, fv_dtype type, const char *path)
{
    rdvq_net n;
    fv_params *params = NULL;
    fv_meta meta = { { NULL }, 0 };
    FV_TRY(rdvq_config_check(ctx, c));
    FV_TRY(fv_params_create(ctx, &params));
    rdvq_net_add(&n, params, c, RDVQ_PREFIX, 0);
    fv_status s = fv_params_alloc(params);
    if (s == FV_OK) {
        rdvq_net_init(&n, seed);
        fv_params_init_normal(params, n.head, seed + 1, 0.3f);
        s = rdvq_config_meta(ctx, c, &meta);
    }
    if (s == FV_OK && nominal) s = fv_meta_add(ctx, &meta, "fovea.train.bpp", nominal);
    if (s == FV_OK)
        s = fv_params_export(ctx, params, type, (const char *const *)meta.item, meta.pairs, path,
                             1);
    fv_meta_free(ctx, &meta);
    fv_params_destroy(&params);
    return s;
}

static inline fv_status rdvq_write_model(fv_ctx *ctx, const rdvq_config *c, uint64_t seed,
                                         fv_dtype type, const char *path)
{
    return rdvq_write_as(ctx, c, seed, NULL, type, path);
}
static inline fv_status rdvq_write_model_rate(fv_ctx *ctx, const rdvq_config *c, uint64_t seed,
                                              const char *nominal, const char *path)
{
    return rdvq_write_as(ctx, c, seed, nominal, FV_F32, path);
}

static inline uint32_t rdvq_next(uint64_t *state)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(*state >> 32);
}

/* Smooth colours with edges and some noise. */
static inline fv_status rdvq_make_picture(fv_ctx *ctx, fv_image *img, int w, int h, int channels,
                                          int depth, uint64_t seed)
{
    FV_TRY(fv_image_create(ctx, img, w, h, channels, depth));
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int c = 0; c < channels; c++) {
                const int wave = (int)(60 * sin(x * 0.05 + c) + 50 * cos(y * 0.07 - c));
                const int edge = (x / 37 + y / 23) % 2 ? 40 : 0;
                int v = 110 + wave + edge - 20 + (int)(rdvq_next(&seed) % 12);
                v = v < 0 ? 0 : v > 255 ? 255 : v;
                uint8_t *row = fvi_image_row(img, y);
                if (depth == 8) row[x * channels + c] = (uint8_t)v;
                else ((uint16_t *)(void *)row)[x * channels + c] = (uint16_t)(v * 257);
            }
    return FV_OK;
}

/* Largest difference of two pictures of one size, channels and depth; 65536 if they are not. */
static inline int rdvq_difference(const fv_image *a, const fv_image *b)
{
    int most = 0;
    if (a->width != b->width || a->height != b->height || a->channels != b->channels ||
        a->depth != b->depth)
        return 65536;
    for (int y = 0; y < a->height; y++)
        for (int i = 0; i < a->width * a->channels; i++) {
            const void *p = fvi_image_row(a, y), *q = fvi_image_row(b, y);
            const int d = a->depth == 8 ? ((const uint8_t *)p)[i] - ((const uint8_t *)q)[i]
                                        : ((const uint16_t *)p)[i] - ((const uint16_t *)q)[i];
            if (abs(d) > most) most = abs(d);
        }
    return most;
}

#endif
