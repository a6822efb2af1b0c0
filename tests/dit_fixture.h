/* dit_fixture.h - a small DiT or F network on a tape, with its inputs; for parity tests.
 * Golden latents are NCHW, our states NHWC. */
#ifndef DIT_FIXTURE_H
#define DIT_FIXTURE_H

#include "../diffusion/internal.h"
#include "test.h"

#define STAGES 24

typedef struct fixture {
    fv_ctx *ctx;
    dit_net net;
    fv_plan *plan;
    int B;
    float *x, *time, *pos, *rope, *target,
        *weight; /* [B,S,S,C] [B] [N,D] [N,2,hd/2] [B,S,S,Cout] [B] */
    int32_t *label;
    const char *stage_name[STAGES];
    fv_t stage[STAGES], out;
    int stages;
} fixture;

static inline void *test_alloc(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p) exit(1);
    return p;
}

/* [B,C,H,W] <-> [B,H,W,C] with plane = H*W. */
static inline void nhwc_from_nchw(const float *in, int B, int C, int plane, float *out)
{
    for (int b = 0; b < B; b++)
        for (int c = 0; c < C; c++)
            for (int p = 0; p < plane; p++)
                out[((size_t)b * plane + p) * C + c] = in[((size_t)b * C + c) * plane + p];
}
static inline void nchw_from_nhwc(const float *in, int B, int C, int plane, float *out)
{
    for (int b = 0; b < B; b++)
        for (int c = 0; c < C; c++)
            for (int p = 0; p < plane; p++)
                out[((size_t)b * C + c) * plane + p] = in[((size_t)b * plane + p) * C + c];
}

static inline void fixture_stage(fixture *f, const char *name, fv_t x)
{
    f->stage_name[f->stages] = name;
    f->stage[f->stages++] = x;
}

/* dit_forward's order, keeping a handle of every stage. */
static inline fv_t fixture_forward(fixture *f, fv_tape *t, fv_t x, fv_t time, fv_t label, fv_t pos,
                                   fv_t rope)
{
    static const char *const after_attn[] = {"block0_after_attn", "block1_after_attn"};
    static const char *const block[] = {"block0", "block1"};
    const dit_net *n = &f->net;
    const fv_dtype out = fv_tape_precision(t);
    fv_t h = dit_embed(t, n, x, pos);
    fixture_stage(f, "tokens_in", h);
    const fv_t cond = dit_condition(t, n, time, label), shared = dit_shared_mod(t, n, cond);
    fixture_stage(f, "c", cond);
    for (int l = 0; l < n->cfg.depth; l++) {
        const fv_t mod = dit_block_mod_from(t, n, l, shared, cond);
        h = fv_gate_residual(t, h, dit_attention(t, n, l, h, mod, rope, out), mod, DIT_GATE1);
        fixture_stage(f, after_attn[l], h);
        h = fv_gate_residual(t, h, dit_mlp(t, n, l, h, mod, out), mod, DIT_GATE2);
        fixture_stage(f, block[l], h);
    }
    return dit_final(t, n, h, dit_final_mod(t, n, cond));
}

/* After fixture->net is created and has values. with_stages: every stage readable; else
 * dit_forward. */
static inline fv_status fixture_build(fixture *f, int B, fv_mode mode, fv_dtype precision,
                                      int with_stages)
{
    const dit_config *c = &f->net.cfg;
    const int64_t S = c->input_size, N = dit_tokens(c), hd = c->width / c->heads;
    const int64_t in_dim[4] = {B, S, S, c->channels}, out_dim[4] = {B, S, S, c->out_channels};
    const int64_t pos_dim[2] = {N, c->width}, rope_dim[3] = {N, 2, hd / 2}, rows = B;
    fv_tape *t;
    fv_status s;
    FV_TRY(fv_tape_create(f->ctx, &t, f->net.params, mode, precision));
    const fv_t x = fv_input_grad(t, "x", FV_F32, 4, in_dim),
               time = fv_input(t, "t", FV_F32, 1, &rows);
    const fv_t y = fv_input(t, "y", FV_I32, 1, &rows);
    const fv_t pos =
        f->net.pos >= 0 ? fv_param_row(t, f->net.pos, 0) : fv_input(t, "pos", FV_F32, 2, pos_dim);
    const fv_t rope = c->family == DIT_F ? fv_input(t, "rope", FV_F32, 3, rope_dim) : 0;
    f->B = B;
    f->stages = 0;
    f->out = with_stages ? fixture_forward(f, t, x, time, y, pos, rope)
                         : dit_forward(t, &f->net, x, time, y, pos, rope);
    fv_output(t, "out", f->out);
    if (mode == FV_TRAIN)
        fv_output(t, "loss",
                  fv_loss_mse(t, f->out, fv_input(t, "target", FV_F32, 4, out_dim),
                              fv_input(t, "weight", FV_F32, 1, &rows)));
    fv_plan_options o = FV_PLAN_OPTIONS_INIT;
    o.keep_all = with_stages;
    s = fv_tape_status(t);
    if (s == FV_OK) s = fv_plan_build(f->ctx, &f->plan, t, &o);
    fv_tape_destroy(&t);
    FV_TRY(s);
    f->x = test_alloc((size_t)(B * S * S * c->channels) * 4);
    f->target = test_alloc((size_t)(B * S * S * c->out_channels) * 4);
    f->time = test_alloc((size_t)B * 4);
    f->weight = test_alloc((size_t)B * 4);
    f->label = test_alloc((size_t)B * 4);
    f->pos = test_alloc((size_t)(N * c->width) * 4);
    f->rope = test_alloc((size_t)(N * hd) * 4);
    dit_pos_table(c, f->pos);
    dit_rope(c, f->rope);
    FV_TRY(fv_plan_bind(f->plan, "x", f->x));
    FV_TRY(fv_plan_bind(f->plan, "t", f->time));
    FV_TRY(fv_plan_bind(f->plan, "y", f->label));
    if (f->net.pos < 0) FV_TRY(fv_plan_bind(f->plan, "pos", f->pos));
    if (rope) FV_TRY(fv_plan_bind(f->plan, "rope", f->rope));
    if (mode == FV_TRAIN) FV_TRY(fv_plan_bind(f->plan, "target", f->target));
    if (mode == FV_TRAIN) FV_TRY(fv_plan_bind(f->plan, "weight", f->weight));
    return FV_OK;
}

/* t and y of a golden file, as f32 and i32. */
static inline void fixture_conditions(fixture *f, const fv_model *io)
{
    fv_tensor t, y;
    if (!fv_model_find(io, "t", &t) || !fv_model_find(io, "y", &y)) exit(1);
    for (int b = 0; b < f->B; b++) {
        f->time[b] =
            t.dtype == FV_I32 ? (float)((const int32_t *)t.data)[b] : ((const float *)t.data)[b];
        f->label[b] = ((const int32_t *)y.data)[b];
    }
}

static inline void fixture_free(fixture *f)
{
    fv_plan_destroy(&f->plan);
    dit_net_destroy(f->ctx, &f->net);
    free(f->x);
    free(f->target);
    free(f->time);
    free(f->weight);
    free(f->label);
    free(f->pos);
    free(f->rope);
    memset(f, 0, sizeof *f);
}

#endif
