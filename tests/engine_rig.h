/* engine_rig.h - a small network with random weights, its schedule and one runner, whose evaluations
 * a test calls one by one: F without guidance or with an interval that begins after the first
 * evaluation (there the number of rows changes), official DiT with guidance. */
#ifndef TEST_ENGINE_RIG_H
#define TEST_ENGINE_RIG_H

#include "../diffusion/soda.h"
#include "dit_fixture.h"
#include "random_model.h"
#include "tiny_models.h"

#define STEPS 8
#define MOST_B 4

static fv_ctx *ctx;

typedef struct rig {
    dit_net net;
    dit_schedule sc;
    dit_runner *r;
    int B;
    size_t n, out_n, token; /* values of a state, an output, the tokens of a row */
    float *x;               /* [STEPS][B][n]: what each evaluation is given */
} rig;

/* 64 tokens, or 4. */
static inline dit_config config(dit_family family, bool is_large)
{
    dit_config c = tiny_config(family);
    if (family == DIT_F) c.patch = 2;
    if (family == DIT_F && !is_large) c.input_size = 4;
    if (family == DIT_OFFICIAL && is_large) c.input_size = 16;
    return c;
}

static inline fv_generate_options options(const dit_config *c, float cfg)
{
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    o.steps = STEPS;
    o.cfg = cfg;
    o.seed = 5;
    o.sampler = c->family == DIT_F ? FV_SAMPLER_EULER : FV_SAMPLER_DDIM;
    return o;
}

static inline fv_status rig_runner(rig *g, fv_dtype precision, const dit_runner_options *ro)
{
    static const int32_t labels[MOST_B] = { 1, 2, 0, 1 };
    dit_runner_destroy(&g->r);
    FV_TRY(dit_runner_create(ctx, &g->r, &g->net, precision, &g->sc, ro));
    return dit_runner_start(g->r, labels);
}

static inline fv_status rig_open(rig *g, const dit_config *c, float cfg, fv_dtype precision,
                                 const dit_runner_options *ro)
{
    const fv_generate_options o = options(c, cfg);
    memset(g, 0, sizeof *g);
    g->B = ro->B;
    g->n = (size_t)(c->input_size * c->input_size * c->channels);
    g->out_n = g->n / (size_t)c->channels * (size_t)c->out_channels;
    g->token = (size_t)dit_tokens(c) * (size_t)c->width;
    g->x = test_alloc((size_t)STEPS * (size_t)g->B * g->n * sizeof(float));
    for (int e = 0; e < STEPS; e++)
        test_fill(g->x + (size_t)e * (size_t)g->B * g->n, (int64_t)((size_t)g->B * g->n),
                  (uint64_t)(40 + e));
    FV_TRY(random_net(ctx, &g->net, c, 5, 0.15f));
    FV_TRY(dit_schedule_create(ctx, &g->sc, c, &o));
    return rig_runner(g, precision, ro);
}

static inline void rig_close(rig *g)
{
    dit_runner_destroy(&g->r);
    dit_schedule_destroy(ctx, &g->sc);
    dit_net_destroy(ctx, &g->net);
    free(g->x);
    memset(g, 0, sizeof *g);
}

/* Output of evaluation e, a copy; *rows may be NULL. Exits when it fails: nothing could go on. */
static inline float *eval(rig *g, int e, const dit_row *row, int *rows)
{
    const float *out;
    int n = 0;
    if (dit_runner_eval(g->r, e, g->x + (size_t)e * (size_t)g->B * g->n, row, &out, &n) != FV_OK) {
        printf("Bail out! %s\n", fv_ctx_error(ctx));
        exit(1);
    }
    float *copy = test_alloc((size_t)n * g->out_n * sizeof *copy);
    memcpy(copy, out, (size_t)n * g->out_n * sizeof *copy);
    if (rows) *rows = n;
    return copy;
}

static inline void drop(rig *g, int e, const dit_row *row)
{
    free(eval(g, e, row, NULL));
}

/* The newest output of module k as float [rows][token]; a copy. */
static inline float *feature(const rig *g, int k, int rows)
{
    fv_dtype type;
    const void *p = dit_runner_feature(g->r, k / 2, k % 2, &type);
    const size_t n = (size_t)rows * g->token;
    float *f = test_alloc(n * sizeof *f);
    for (size_t i = 0; i < n; i++)
        f[i] = type == FV_F32 ? ((const float *)p)[i] : fv_bf16_to_f32(((const uint16_t *)p)[i]);
    return f;
}

static inline fv_status set_feature(rig *g, int k, const float *f, int rows)
{
    fv_dtype type;
    const size_t n = (size_t)rows * g->token;
    (void)dit_runner_feature(g->r, k / 2, k % 2, &type);
    if (type == FV_F32) return dit_runner_set_feature(g->r, k / 2, k % 2, f, rows);
    uint16_t *half = test_alloc(n * sizeof *half);
    for (size_t i = 0; i < n; i++) half[i] = fv_f32_to_bf16(f[i]);
    const fv_status s = dit_runner_set_feature(g->r, k / 2, k % 2, half, rows);
    free(half);
    return s;
}

/* Rows of a plan for one evaluation, all modules alike unless changed. */
typedef struct actions {
    uint8_t action[8], pruned[8];
    float weight[8][DIT_HISTORY], skip[DIT_HISTORY];
} actions;

static inline dit_row row_of(const actions *a)
{
    return (dit_row){ a->action, &a->weight[0][0], a->pruned, NULL };
}

static inline actions all(dit_action action, const float *w, int count)
{
    actions a = { { 0 }, { 0 }, { { 0 } }, { 0 } };
    for (int k = 0; k < 8; k++) {
        a.action[k] = (uint8_t)action;
        for (int i = 0; i < count; i++) a.weight[k][i] = w[i];
    }
    return a;
}

static inline bool is_same(const float *a, const float *b, size_t n)
{
    return memcmp(a, b, n * sizeof *a) == 0;
}

/* sum over i of w[i] y[i], in double. */
static inline float *combine(float *const y[], const float *w, int count, size_t n)
{
    float *f = test_alloc(n * sizeof *f);
    for (size_t j = 0; j < n; j++) {
        double sum = 0;
        for (int i = 0; i < count; i++) sum += (double)w[i] * y[i][j];
        f[j] = (float)sum;
    }
    return f;
}

static const dit_family families[2] = { DIT_F, DIT_OFFICIAL };

#endif
