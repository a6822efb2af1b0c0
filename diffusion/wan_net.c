/* wan_net.c - base and draft network of wan.h as tape code.
 *
 *     HALF.patch.*  draft.patch_state.weight  HALF.text.{0,1}.*  HALF.time.{0,1,mod}.*
 *     HALF.blocks.I.{table,qkv.*,out.*,q_norm,k_norm,norm.*,cross.{q,k,v,out}.*,cross.q_norm,
 *                    cross.k_norm,up.*,down.*}
 *     draft.blocks.J.{feature.*,stream.weight}  HALF.head_table  HALF.head.*
 *
 * where HALF is base or draft and * weight and bias. */
#include "wan.h"

#include <math.h>
#include <string.h>

/* ---- Parameters ------------------------------------------------------------------------------ */

typedef struct adder {
    fv_params *params;
    const char *half;
} adder;

static fv_pid add(const adder *a, const char *name, int ndim, const int64_t *dim)
{
    char full[128];
    snprintf(full, sizeof full, "%s.%s", a->half, name);
    return fv_params_add(a->params, full, ndim, dim, ndim > 1 ? FV_PARAM_DECAY : 0);
}

static wan_layer add_layer(const adder *a, const char *name, int64_t out, int64_t in)
{
    const int64_t dim[2] = {out, in};
    char full[96];
    wan_layer l;
    snprintf(full, sizeof full, "%s.weight", name);
    l.w = add(a, full, 2, dim);
    snprintf(full, sizeof full, "%s.bias", name);
    l.b = add(a, full, 1, dim);
    return l;
}

static void add_block(const adder *a, wan_block *b, int index, const wan_config *c, bool is_draft)
{
    char name[64];
    const int64_t C = c->width, table[2] = {6, C}, square[2] = {C, C};
#define NAME(text) (snprintf(name, sizeof name, "blocks.%d." text, index), name)
    b->table = add(a, NAME("table"), 2, table);
    b->qkv = add_layer(a, NAME("qkv"), 3 * C, C);
    b->out = add_layer(a, NAME("out"), C, C);
    b->q_norm = add(a, NAME("q_norm"), 1, &C);
    b->k_norm = add(a, NAME("k_norm"), 1, &C);
    b->norm.w = add(a, NAME("norm.weight"), 1, &C);
    b->norm.b = add(a, NAME("norm.bias"), 1, &C);
    b->cross_q = add_layer(a, NAME("cross.q"), C, C);
    b->cross_k = add_layer(a, NAME("cross.k"), C, C);
    b->cross_v = add_layer(a, NAME("cross.v"), C, C);
    b->cross_out = add_layer(a, NAME("cross.out"), C, C);
    b->cross_q_norm = add(a, NAME("cross.q_norm"), 1, &C);
    b->cross_k_norm = add(a, NAME("cross.k_norm"), 1, &C);
    b->up = add_layer(a, NAME("up"), c->ffn, C);
    b->down = add_layer(a, NAME("down"), C, c->ffn);
    if (!is_draft) return;
    b->feature = add_layer(a, NAME("feature"), C, C);
    b->stream = add(a, NAME("stream.weight"), 2, square);
#undef NAME
}

static void add_half(const adder *a, wan_half *h, const wan_config *c, bool is_draft)
{
    const int64_t C = c->width, head[2] = {2, C}, patch[2] = {C, WAN_PATCH};
    h->blocks = is_draft ? c->drafts : c->blocks;
    h->patch = add_layer(a, "patch", C, WAN_PATCH);
    if (is_draft) h->patch_state = add(a, "patch_state.weight", 2, patch);
    h->text0 = add_layer(a, "text.0", C, c->text_width);
    h->text1 = add_layer(a, "text.1", C, C);
    h->time0 = add_layer(a, "time.0", C, WAN_SINUSOIDS);
    h->time1 = add_layer(a, "time.1", C, C);
    h->time_mod = add_layer(a, "time.mod", 6 * C, C);
    for (int i = 0; i < h->blocks; i++) add_block(a, &h->block[i], i, c, is_draft);
    h->head_table = add(a, "head_table", 2, head);
    h->head = add_layer(a, "head", WAN_PATCH, C);
}

void wan_net_add(wan_net *n, fv_params *params, const wan_config *c)
{
    const adder base = {params, "base"}, draft = {params, "draft"};
    memset(n, 0xff, sizeof *n); /* every id -1 */
    n->cfg = *c;
    n->params = params;
    add_half(&base, &n->base, c, false);
    add_half(&draft, &n->draft, c, true);
}

/* ---- Tables ---------------------------------------------------------------------------------- */

void wan_rope_table(int frames, int rows, int columns, int head_dim, float *table)
{
    const int side = head_dim / 6, pairs = head_dim / 2, count[3] = {pairs - 2 * side, side, side};
    for (int64_t t = 0; t < (int64_t)frames * rows * columns; t++) {
        const int64_t at[3] = {t / columns / rows, t / columns % rows, t % columns};
        float *c = table + t * 2 * pairs, *s = c + pairs;
        for (int axis = 0; axis < 3; axis++)
            for (int j = 0; j < count[axis]; j++) {
                const double angle = (double)at[axis] * pow(10000.0, -(double)j / count[axis]);
                *c++ = (float)cos(angle);
                *s++ = (float)sin(angle);
            }
    }
}

/* ---- What depends on prompt and times alone -------------------------------------------------- */

static fv_t dense(fv_tape *t, fv_t x, wan_layer l, fv_act act, fv_dtype type)
{
    return fv_linear_as(t, x, l.w, l.b, act, type);
}

static fv_t rms(fv_tape *t, fv_t x, fv_pid weight)
{
    const fv_norm n = {FV_NORM_RMS, WAN_EPS, fv_param(t, weight), 0, 0, -1, -1};
    return fv_norm_modulate(t, x, n);
}

static void fix_text(fv_tape *t, const wan_half *h, fv_t text, fv_t *kv)
{
    const fv_dtype type = fv_tape_precision(t);
    fv_t x = dense(t, text, h->text0, FV_ACT_GELU_TANH, type);
    x = dense(t, x, h->text1, FV_ACT_NONE, type);
    for (int i = 0; i < h->blocks; i++) {
        const wan_block *b = &h->block[i];
        const fv_t k = rms(t, dense(t, x, b->cross_k, FV_ACT_NONE, type), b->cross_k_norm);
        const fv_t v = dense(t, x, b->cross_v, FV_ACT_NONE, type);
        kv[i] = fv_concat(t, k, v, 2);
    }
}

void wan_fix(fv_tape *t, const wan_net *n, fv_t text, const fv_t *time, wan_fixed *out)
{
    for (int k = 0; k < n->cfg.times; k++) {
        const wan_half *h = k ? &n->draft : &n->base;
        fv_t e = fv_timestep_embed(t, time[k], WAN_SINUSOIDS, 1.0f, 0.0f);
        e = dense(t, e, h->time0, FV_ACT_SILU, FV_F32);
        out->time[k] = dense(t, e, h->time1, FV_ACT_NONE, FV_F32);
        e = fv_activate(t, out->time[k], FV_ACT_SILU);
        out->mod[k] = dense(t, e, h->time_mod, FV_ACT_NONE, FV_F32);
    }
    fix_text(t, &n->base, text, out->base_kv);
    fix_text(t, &n->draft, text, out->draft_kv);
}

/* Calls f for each value with its name. */
typedef void each_fn(fv_tape *t, const wan_net *n, const char *name, int64_t rows, fv_t *x);
static void each_fixed(fv_tape *t, const wan_net *n, int64_t rows, wan_fixed *f, each_fn *kv,
                       each_fn *row)
{
    char name[48];
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < (half ? n->draft.blocks : n->base.blocks); i++) {
            snprintf(name, sizeof name, "wan.%s.kv.%d", half ? "draft" : "base", i);
            kv(t, n, name, rows, half ? &f->draft_kv[i] : &f->base_kv[i]);
        }
    for (int k = 0; k < n->cfg.times; k++) {
        snprintf(name, sizeof name, "wan.time.%d", k);
        row(t, n, name, 1, &f->time[k]);
        snprintf(name, sizeof name, "wan.mod.%d", k);
        row(t, n, name, 6, &f->mod[k]);
    }
}

static void output_kv(fv_tape *t, const wan_net *n, const char *name, int64_t rows, fv_t *x)
{
    (void)n;
    (void)rows;
    fv_output(t, name, *x);
}

static void input_kv(fv_tape *t, const wan_net *n, const char *name, int64_t rows, fv_t *x)
{
    const int64_t dim[3] = {1, rows, 2 * n->cfg.width};
    *x = fv_input(t, name, fv_tape_precision(t), 3, dim);
}

static void input_row(fv_tape *t, const wan_net *n, const char *name, int64_t rows, fv_t *x)
{
    const int64_t dim[2] = {1, rows * n->cfg.width};
    *x = fv_input(t, name, FV_F32, 2, dim);
}

void wan_fixed_outputs(fv_tape *t, const wan_net *n, const wan_fixed *f)
{
    wan_fixed copy = *f;
    each_fixed(t, n, 0, &copy, output_kv, output_kv);
}

void wan_fixed_inputs(fv_tape *t, const wan_net *n, int64_t rows, wan_fixed *out)
{
    each_fixed(t, n, rows, out, input_kv, input_row);
}

/* ---- Blocks ---------------------------------------------------------------------------------- */

static fv_t modulate(fv_tape *t, fv_t x, fv_t mod, int shift)
{
    const fv_norm n = {FV_NORM_LAYER, WAN_EPS, 0, 0, mod, shift, shift + 1};
    return fv_norm_modulate(t, x, n);
}

static fv_t self_attention(const wan_graph *g, const wan_block *b, fv_t u)
{
    fv_tape *t = g->tape;
    const wan_config *c = &g->net->cfg;
    const int64_t N = fv_tape_tensor(t, u).dim[1];
    const int64_t dim[5] = {1, N, 3, c->heads, c->width / c->heads};
    fv_t q = fv_reshape(t, dense(t, u, b->qkv, FV_ACT_NONE, fv_tape_precision(t)), 5, dim);
    q = fv_qk_norm_rope(t, q, fv_param(t, b->q_norm), fv_param(t, b->k_norm), WAN_EPS, 0);
    return fv_sdpa(t, fv_rope_pairs(t, q, g->rope), 0.0f, 0);
}

static fv_t cross_attention(const wan_graph *g, const wan_block *b, fv_t x, fv_t kv)
{
    fv_tape *t = g->tape;
    const wan_config *c = &g->net->cfg;
    const int64_t head = c->width / c->heads, rows = fv_tape_tensor(t, kv).dim[1];
    const int64_t dim[4] = {1, fv_tape_tensor(t, x).dim[1], c->heads, head};
    const int64_t other[5] = {1, rows, 2, c->heads, head};
    const fv_norm n = {
        FV_NORM_LAYER, WAN_EPS, fv_param(t, b->norm.w), fv_param(t, b->norm.b), 0, -1, -1};
    const fv_t q =
        dense(t, fv_norm_modulate(t, x, n), b->cross_q, FV_ACT_NONE, fv_tape_precision(t));
    return fv_cross_attention(t, fv_reshape(t, rms(t, q, b->cross_q_norm), 4, dim),
                              fv_reshape(t, kv, 5, other), g->fixed.bias, 0.0f);
}

fv_t wan_run_block(wan_graph *g, const wan_block *b, int step, fv_t x, fv_t kv)
{
    fv_tape *t = g->tape;
    const fv_dtype type = fv_tape_precision(t);
    const int64_t flat[1] = {6 * g->net->cfg.width};
    const fv_t mod =
        fv_binary_op(t, FV_ADD, g->fixed.mod[step], fv_reshape(t, fv_param(t, b->table), 1, flat));
    fv_t u = self_attention(g, b, modulate(t, x, mod, 0));
    x = fv_gate_residual(t, x, dense(t, u, b->out, FV_ACT_NONE, type), mod, 2);
    u = cross_attention(g, b, x, kv);
    x = fv_gate_residual(t, x, dense(t, u, b->cross_out, FV_ACT_NONE, type), 0, 0);
    u = dense(t, modulate(t, x, mod, 3), b->up, FV_ACT_GELU_TANH, type);
    return fv_gate_residual(t, x, dense(t, u, b->down, FV_ACT_NONE, type), mod, 5);
}

/* [F, H, W, 16] -> [1, N, 64] */
static fv_t tokens(fv_tape *t, fv_t z)
{
    const fv_tensor s = fv_tape_tensor(t, z);
    const int64_t dim[3] = {1, s.dim[0] * (s.dim[1] / 2) * (s.dim[2] / 2), WAN_PATCH};
    return fv_reshape(t, fv_patchify(t, z, 2, 1), 3, dim);
}

static fv_t head(const wan_graph *g, const wan_half *h, int step, fv_t x, fv_t like)
{
    fv_tape *t = g->tape;
    const fv_tensor s = fv_tape_tensor(t, like);
    const int64_t flat[1] = {2 * g->net->cfg.width};
    const int64_t dim[3] = {s.dim[0], s.dim[1] / 2 * (s.dim[2] / 2), WAN_PATCH};
    const fv_t twice = fv_concat(t, g->fixed.time[step], g->fixed.time[step], 1);
    const fv_t mod =
        fv_binary_op(t, FV_ADD, twice, fv_reshape(t, fv_param(t, h->head_table), 1, flat));
    const fv_t y = dense(t, modulate(t, x, mod, 0), h->head, FV_ACT_NONE, FV_F32);
    return fv_unpatchify(t, fv_reshape(t, y, 3, dim), (int)s.dim[1], (int)s.dim[2], 2, 0);
}

fv_t wan_base(wan_graph *g, fv_t z_lq, fv_t *features)
{
    const wan_config *c = &g->net->cfg;
    const wan_half *h = &g->net->base;
    fv_t x = dense(g->tape, tokens(g->tape, z_lq), h->patch, FV_ACT_NONE, FV_F32);
    for (int i = 0, j = 0; i < h->blocks; i++) {
        if (features && j < c->drafts && i == c->kept[j]) features[j++] = x;
        x = wan_run_block(g, &h->block[i], 0, x, g->fixed.base_kv[i]);
    }
    return head(g, h, 0, x, z_lq);
}

void wan_draft_once(wan_graph *g, fv_t z_lq, const fv_t *features, wan_once *out)
{
    fv_tape *t = g->tape;
    const wan_half *h = &g->net->draft;
    memset(out, 0, sizeof *out);
    if (!g->net->cfg.draft_sees_zero)
        out->patch = dense(t, tokens(t, z_lq), h->patch, FV_ACT_NONE, FV_F32);
    for (int j = 0; j < h->blocks; j++)
        out->fused[j] =
            dense(t, fv_detach(t, features[j]), h->block[j].feature, FV_ACT_NONE, FV_F32);
}

fv_t wan_draft(wan_graph *g, int step, fv_t state, const wan_once *once)
{
    fv_tape *t = g->tape;
    const wan_half *h = &g->net->draft;
    const wan_layer patch = {h->patch_state, once->patch ? -1 : h->patch.b};
    fv_t x = dense(t, tokens(t, state), patch, FV_ACT_NONE, FV_F32);
    if (once->patch) x = fv_binary_op(t, FV_ADD, x, once->patch);
    for (int j = 0; j < h->blocks; j++) {
        const wan_layer stream = {h->block[j].stream, -1};
        x = fv_binary_op(t, FV_ADD, dense(t, x, stream, FV_ACT_NONE, FV_F32), once->fused[j]);
        x = wan_run_block(g, &h->block[j], step, x, g->fixed.draft_kv[j]);
    }
    return head(g, h, step, x, state);
}

/* ---- The flow -------------------------------------------------------------------------------- */

fv_t wan_estimate(wan_graph *g, int step, fv_t state, fv_t v)
{
    return fv_binary_op(g->tape, FV_SUB, state,
                        fv_affine(g->tape, v, g->net->cfg.sigma[step], 0.0f));
}

fv_t wan_advance(wan_graph *g, int step, fv_t state, fv_t v)
{
    const float *s = g->net->cfg.sigma;
    return fv_binary_op(g->tape, FV_SUB, state, fv_affine(g->tape, v, s[step] - s[step + 1], 0.0f));
}

void wan_refine(wan_graph *g, fv_t z_lq, int steps, fv_t *zhat)
{
    fv_t features[WAN_MAX_BLOCKS], state = z_lq;
    fv_t v = wan_base(g, z_lq, steps > 1 ? features : NULL);
    wan_once once;
    zhat[0] = wan_estimate(g, 0, state, v);
    if (steps > 1) wan_draft_once(g, z_lq, features, &once);
    for (int k = 1; k < steps; k++) {
        state = wan_advance(g, k - 1, state, v);
        v = wan_draft(g, k, state, &once);
        zhat[k] = wan_estimate(g, k, state, v);
    }
}
