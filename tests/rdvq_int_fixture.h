/* rdvq_int_fixture.h - random RDVQ networks in float and in integers, of any size, whose
 * probabilities spread as those of trained ones do. */
#ifndef RDVQ_INT_FIXTURE_H
#define RDVQ_INT_FIXTURE_H

#include <math.h>
#include <string.h>

#include "rdvq_int_net.h"

typedef struct rdvq_pair {
    rdvq_net net;
    fv_params *params;
    rdvq_int *m;
} rdvq_pair;

/* 64 codes, 336 tokens for each group beyond the first 256 more. */
static inline rdvq_config rdvq_tiny(int groups)
{
    rdvq_config c = { .name = "tiny", .levels = 5, .codes = 64, .code_width = 4, .groups = groups,
                      .slices = { 4, 8, 16 }, .width = 32, .depth = 2, .heads = 2, .ffn = 48,
                      .pad_token = 5 };
    for (int i = 0; i < c.levels; i++) {
        c.enc_width[i] = c.dec_width[i] = 4;
        c.enc_blocks[i] = c.dec_blocks[i] = 1;
    }
    return c;
}

/* A vector around `mean`. */
static inline void rdvq_stir(rdvq_pair *p, fv_pid id, float mean, float spread, uint32_t seed)
{
    const fv_tensor t = fv_params_tensor(p->params, id);
    float *x = t.data;
    fv_rand_uniform(seed, FV_STREAM_USER, 0, 0, fv_tensor_count(&t), x);
    for (int64_t i = 0; i < fv_tensor_count(&t); i++) x[i] = mean + spread * (2 * x[i] - 1);
}

/* logits: their standard deviation in nats, about. */
static inline fv_status rdvq_pair_net(fv_ctx *ctx, rdvq_pair *p, const rdvq_config *c, float logits)
{
    memset(p, 0, sizeof *p);
    FV_TRY(rdvq_config_check(ctx, c));
    FV_TRY(fv_params_create(ctx, &p->params));
    rdvq_net_add(&p->net, p->params, c, RDVQ_PREFIX, 0);
    FV_TRY(fv_params_alloc(p->params));
    rdvq_net_init(&p->net, 3);
    fv_params_init_normal(p->params, p->net.head, 4, logits / sqrtf((float)c->width));
    fv_params_init_normal(p->params, p->net.codebook, 5, 1);
    for (int i = 0; i < c->depth; i++) {
        const rdvq_depth *l = &p->net.depth[i];
        rdvq_stir(p, l->norm1, 1, 0.6f, 10);
        rdvq_stir(p, l->norm2, 1, 0.6f, 11);
        rdvq_stir(p, l->scale, 1.8f, 0.6f, 12);
    }
    rdvq_stir(p, p->net.norm, 1, 0.6f, 13);
    fv_params_touch(p->params);
    return FV_OK;
}

static inline fv_status rdvq_pair_make(fv_ctx *ctx, rdvq_pair *p, const rdvq_config *c,
                                       float logits, int bits)
{
    FV_TRY(rdvq_pair_net(ctx, p, c, logits));
    return rdvq_int_from_net(ctx, &p->m, &p->net, bits);
}

static inline void rdvq_pair_free(rdvq_pair *p)
{
    rdvq_int_close(&p->m);
    fv_params_destroy(&p->params);
}

/* ---- Integers without any float: the same on every machine ---- */

static inline uint32_t rdvq_draw(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 32);
}

static inline fv_status rdvq_draw_field(void *user, const rdvq_field *f)
{
    static const int16_t angle[4][2] = { { 16384, 0 }, { 0, -16384 }, { 9830, 13107 },
                                         { -13107, 9830 } };
    uint64_t *state = user;
    size_t n = 1;
    void *at = f->scalar;
    for (int i = 0; i < f->ndim; i++) n *= (size_t)f->dim[i];
    if (f->array) memcpy(&at, f->array, sizeof at);
    if (f->scalar) {
        *f->scalar = f->lo == 31 ? 38 : f->lo == 1 ? 12 : 1;
        return FV_OK;
    }
    for (size_t i = 0; i < n; i++) {
        const uint32_t r = rdvq_draw(state);
        if (f->matrix) ((int16_t *)at)[i] = (int16_t)((int32_t)(r % 255) - 127);
        else if (strcmp(f->name, "codes") == 0)
            ((int16_t *)at)[i] = (int16_t)((int32_t)(r % 32769) - 16384);
        else if (strcmp(f->name, "rope") == 0)
            ((int16_t *)at)[i] = angle[(i / (2 * (size_t)f->dim[2]) + i % (size_t)f->dim[2]) % 4]
                                      [i / (size_t)f->dim[2] % 2];
        else if (strcmp(f->name, "bias") == 0) ((int32_t *)at)[i] = (int32_t)(r % 16385) - 8192;
        else if (f->hi == RDVQ_SCALE_LIMIT) ((int32_t *)at)[i] = 1500;
        else ((int32_t *)at)[i] = (int32_t)(r >> 1 | 1u << 30);
    }
    return FV_OK;
}

/* Ready to run. */
static inline fv_status rdvq_int_random(fv_ctx *ctx, rdvq_int **out, const rdvq_config *c,
                                        uint64_t state)
{
    FV_TRY(rdvq_int_create(ctx, out, c));
    FV_TRY(rdvq_int_visit(*out, rdvq_draw_field, &state));
    return rdvq_int_ready(ctx, *out);
}

#endif
