/* gpt_sample.c - plain sampling through the tape.
 *
 * Without caches every token runs the sequence again; the plans have a quarter, a half, three
 * quarters and all of its length. Good enough for a sheet in a training. */
#include "gpt_sample.h"

#include <string.h>

#define LENGTHS 4

struct gpt_sampler {
    fv_ctx *ctx;
    gpt_config cfg;
    int images, tokens;
    int length[LENGTHS];
    fv_plan *plan[LENGTHS];
    int32_t *label, *input; /* [2 * images], [2 * images * (tokens - 1)] */
    float *rope, *row;      /* [tokens + 1 rows], [vocab] */
    float *branch;          /* [2, vocab] */
    ar_dists dists;
};

static fv_status build(gpt_sampler *s, const gpt_net *n, int k, fv_dtype precision)
{
    const int64_t B = AR_BRANCHES * s->images, T = s->length[k], ids = B * (T - 1);
    const int64_t rope[3] = {T, 2, gpt_head(&s->cfg) / 2};
    fv_tape *t;
    FV_TRY(fv_tape_create(s->ctx, &t, n->params, FV_INFER, precision));
    const fv_t label = fv_input(t, "label", FV_I32, 1, &B);
    const fv_t x = T > 1 ? fv_input(t, "tokens", FV_I32, 1, &ids) : 0;
    const fv_t f = gpt_features(t, n, gpt_classes(t, n, label), x,
                                fv_input(t, "rope", FV_F32, 3, rope));
    fv_output(t, "logits", gpt_logits(t, n, f));
    FV_TRY(fv_plan_finish(s->ctx, &s->plan[k], &t, NULL));
    return fv_plan_feed(s->plan[k], "rope", s->rope);
}

static fv_status prepare(gpt_sampler *s, const gpt_net *n, fv_dtype precision)
{
    const size_t B = (size_t)(AR_BRANCHES * s->images), N = (size_t)s->tokens;
    s->label = fv_calloc(s->ctx, B, sizeof *s->label);
    s->input = fv_calloc(s->ctx, B * N, sizeof *s->input);
    s->rope = fv_calloc(s->ctx, (N + 1) * (size_t)gpt_head(&s->cfg), sizeof *s->rope);
    s->row = fv_calloc(s->ctx, (size_t)s->cfg.vocab, sizeof *s->row);
    s->branch = fv_calloc(s->ctx, AR_BRANCHES * (size_t)s->cfg.vocab, sizeof *s->branch);
    if (!s->label || !s->input || !s->rope || !s->row || !s->branch) return FV_ERR_OOM;
    gpt_rope(&s->cfg, 1, s->rope);
    FV_TRY(ar_dists_create(s->ctx, &s->dists, s->cfg.vocab, 1));
    for (int k = 0; k < LENGTHS; k++) {
        s->length[k] = (s->tokens * (k + 1) + LENGTHS - 1) / LENGTHS;
        FV_TRY(build(s, n, k, precision));
    }
    return FV_OK;
}

fv_status gpt_sampler_create(fv_ctx *ctx, gpt_sampler **out, const gpt_net *n, int images,
                             fv_dtype precision)
{
    *out = NULL;
    if (n->cfg.classes < 1 || images < 1)
        return fv_fail(ctx, FV_ERR_ARG, "sampling: a model of classes and a picture are needed");
    gpt_sampler *s = fv_calloc(ctx, 1, sizeof *s);
    if (!s) return FV_ERR_OOM;
    s->ctx = ctx;
    s->cfg = n->cfg;
    s->images = images;
    s->tokens = gpt_tokens(&n->cfg);
    const fv_status st = prepare(s, n, precision);
    if (st != FV_OK) gpt_sampler_destroy(&s);
    *out = s;
    return st;
}

void gpt_sampler_destroy(gpt_sampler **ss)
{
    gpt_sampler *s = ss ? *ss : NULL;
    if (!s) return;
    *ss = NULL;
    for (int k = 0; k < LENGTHS; k++) fv_plan_destroy(&s->plan[k]);
    if (s->dists.ctx) ar_dists_free(&s->dists);
    void *mem[] = {s->label, s->input, s->rope, s->row, s->branch};
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(s->ctx, mem[i]);
    fv_free(s->ctx, s);
}

/* Tokens so far of both branches of every picture, in the layout of a plan of T rows. */
static void set_input(gpt_sampler *s, const int32_t *codes, int known, int T)
{
    for (int b = 0; b < AR_BRANCHES * s->images; b++) {
        const int32_t *from = codes + (size_t)(b % s->images) * (size_t)s->tokens;
        int32_t *to = s->input + (size_t)b * (size_t)(T - 1);
        for (int p = 0; p < T - 1; p++) to[p] = p < known ? from[p] : 0;
    }
}

/* Logits of position p of picture i, with and without condition; of a device's, which has those of all
 * positions, no more comes to the host. */
static fv_status fetch_row(gpt_sampler *s, int k, int i, int p)
{
    const size_t V = (size_t)s->cfg.vocab, T = (size_t)s->length[k];
    const float *c = (const float *)fv_plan_value(s->plan[k], "logits").data +
                     ((size_t)i * T + (size_t)p) * V;
    const float *u = c + (size_t)s->images * T * V;
    FV_TRY(fv_dev_copy(s->ctx, s->branch, c, V * sizeof *c, FV_COPY_TO_HOST));
    return fv_dev_copy(s->ctx, s->branch + V, u, V * sizeof *u, FV_COPY_TO_HOST);
}

fv_status gpt_sampler_run(gpt_sampler *s, const int32_t *labels, float cfg, const ar_sampling *how,
                          ar_noise first, int32_t *codes)
{
    const int V = s->cfg.vocab;
    for (int i = 0; i < s->images; i++) {
        s->label[i] = labels[i];
        s->label[s->images + i] = s->cfg.classes;
    }
    for (int p = 0, k = 0; p < s->tokens; p++) {
        while (s->length[k] < p + 1) k++;
        const int T = s->length[k];
        set_input(s, codes, p, T);
        FV_TRY(fv_plan_feed(s->plan[k], "label", s->label));
        if (T > 1) FV_TRY(fv_plan_feed(s->plan[k], "tokens", s->input));
        FV_TRY(fv_plan_forward(s->plan[k]));
        for (int i = 0; i < s->images; i++) {
            const float *c = s->branch, *u = s->branch + V;
            FV_TRY(fetch_row(s, k, i, p));
            const ar_noise noise = {first.seed, first.image + (uint32_t)i};
            for (int v = 0; v < V; v++) s->row[v] = cfg > 1 ? u[v] + cfg * (c[v] - u[v]) : c[v];
            ar_dist_make(&s->dists, 0, s->row, how);
            const int at = ar_draw(&s->dists, 0, how, noise, p);
            codes[(size_t)i * (size_t)s->tokens + (size_t)p] = s->dists.d[0].id[at];
        }
    }
    return FV_OK;
}
