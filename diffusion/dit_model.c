/* dit_model.c - the two transformer families as tape code, written once for training and inference.
 *
 * Official DiT (Peebles & Xie 2023, section 3.2; names and numerics of the official code):
 *     h = W_pe patch(x) + b + pos;  c = MLP_t(sincos t) + E_y[y]
 *     (sh1, sc1, g1, sh2, sc2, g2) = W_ada[l] silu(c) + b_ada[l]
 *     h += g1 * Attn(LN(h)(1+sc1)+sh1);  h += g2 * MLP(LN(h)(1+sc2)+sh2)
 * F family: RMSNorm with weight, one W_ada for all blocks plus a learned offset per block (28 %
 * fewer parameters), RMS norm of q and k, 2-D RoPE, SwiGLU, no biases in attention and MLP,
 * x-prediction. For patch >= 8 the patch embedding is a low-rank bottleneck (3p^2 -> 64 -> D).
 *
 * The patch grid: with 8-pixel patches neighbouring patches are written by independent linear maps,
 * and 7 M parameters leave visible seams. `refine` adds three 3x3 convolutions over the assembled
 * picture (the last one starts at zero), 3 % of the FLOP at 16 channels. */
#include "internal.h"

#include <string.h>
#include <strings.h>

int dit_tokens(const dit_config *c)
{
    return (c->input_size / c->patch) * (c->input_size / c->patch);
}

int dit_head_dim(const dit_config *c)
{
    return c->head_dim ? c->head_dim : c->width / c->heads;
}

/* ---- Presets --------------------------------------------------------------------------------- */

int swiglu_width(int width) { return (8 * width / 3 + 15) / 16 * 16; }

static void f_preset(dit_config *c, const char *name, int size, int patch, int width, int depth)
{
    memset(c, 0, sizeof *c);
    snprintf(c->name, sizeof c->name, "%s", name);
    c->family = DIT_F;
    c->input_size = size;
    c->channels = c->out_channels = 3;
    c->patch = patch;
    c->width = width;
    c->depth = depth;
    c->heads = width / 64;
    c->hidden = swiglu_width(width);
    c->has_null = 1;
    c->bottleneck = patch >= 8 ? 64 : 0;
    c->t_scale = 1000.0f;
    c->t_den = 128.0f;
    c->ln2_eps = 1e-6f;
    c->steps = 50;
    c->cfg = 2.0f;
    c->sampler = FV_SAMPLER_EULER;
}

static void official_preset(dit_config *c, const char *name, int patch, int width, int depth,
                            int heads)
{
    memset(c, 0, sizeof *c);
    snprintf(c->name, sizeof c->name, "%s", name);
    c->family = DIT_OFFICIAL;
    c->input_size = 32;
    c->channels = 4;
    c->out_channels = 8;
    c->patch = patch;
    c->width = width;
    c->depth = depth;
    c->heads = heads;
    c->hidden = 4 * width;
    c->has_null = 1;
    c->t_scale = 1.0f;
    c->t_den = 128.0f;
    c->ln2_eps = 1e-6f;
    c->steps = 50;
    c->cfg = 4.0f;
    c->sampler = FV_SAMPLER_DDIM;
}

fv_status dit_preset(fv_ctx *ctx, const char *name, int classes, dit_config *out)
{
    static const struct { const char *name; int size, patch, width, depth; } f[] = {
        { "F32", 32, 4, 192, 8 }, { "F64c", 64, 8, 256, 8 }, { "F64", 64, 4, 384, 12 },
        { "F128", 128, 8, 384, 12 }, { "F128L", 128, 8, 512, 12 },
    };
    static const struct { const char *letter; int width, depth, heads; } o[] = {
        { "S", 384, 12, 6 }, { "B", 768, 12, 12 }, { "L", 1024, 24, 16 }, { "XL", 1152, 28, 16 },
    };
    bool found = false;
    for (size_t i = 0; i < FV_ARRAY_LEN(f) && !found; i++)
        if (strcasecmp(name, f[i].name) == 0) {
            f_preset(out, f[i].name, f[i].size, f[i].patch, f[i].width, f[i].depth);
            found = true;
        }
    for (size_t i = 0; i < FV_ARRAY_LEN(o) && !found; i++)
        for (int p = 2; p <= 8 && !found; p *= 2) {
            char full[32];
            snprintf(full, sizeof full, "DiT-%s/%d", o[i].letter, p);
            if (strcasecmp(name, full) != 0) continue;
            official_preset(out, full, p, o[i].width, o[i].depth, o[i].heads);
            found = true;
        }
    if (!found)
        return fv_fail(
            ctx, FV_ERR_UNKNOWN,
            "model preset \"%s\" is unknown: F32 F64c F64 F128 F128L or DiT-{S,B,L,XL}/{2,4,8}",
            name);
    out->classes = classes;
    return FV_OK;
}

/* ---- Parameters ------------------------------------------------------------------------------ */

static fv_pid add(dit_net *n, const char *name, int64_t a, int64_t b, uint32_t flags)
{
    const int64_t dim[2] = { a, b };
    return fv_params_add(n->params, name, b ? 2 : 1, dim, flags);
}

static fv_pid add_block(dit_net *n, int l, const char *name, int64_t a, int64_t b, uint32_t flags)
{
    char full[96];
    snprintf(full, sizeof full, "blocks.%d.%s", l, name);
    return add(n, full, a, b, flags);
}

static void add_official_block(dit_net *n, int l)
{
    const int64_t D = n->cfg.width, H = n->cfg.hidden;
    const int64_t A = (int64_t)n->cfg.heads * dit_head_dim(&n->cfg);
    dit_block *b = &n->block[l];
    b->norm1 = b->norm2 = b->q_norm = b->k_norm = -1;
    b->qkv_w = add_block(n, l, "attn.qkv.weight", 3 * A, D, FV_PARAM_DECAY);
    b->qkv_b = add_block(n, l, "attn.qkv.bias", 3 * A, 0, 0);
    b->proj_w = add_block(n, l, "attn.proj.weight", D, A, FV_PARAM_DECAY);
    b->proj_b = add_block(n, l, "attn.proj.bias", D, 0, 0);
    b->fc1_w = add_block(n, l, "mlp.fc1.weight", H, D, FV_PARAM_DECAY);
    b->fc1_b = add_block(n, l, "mlp.fc1.bias", H, 0, 0);
    b->fc2_w = add_block(n, l, "mlp.fc2.weight", D, H, FV_PARAM_DECAY);
    b->fc2_b = add_block(n, l, "mlp.fc2.bias", D, 0, 0);
    b->ada_w = add_block(n, l, "adaLN_modulation.1.weight", 6 * D, D, FV_PARAM_DECAY);
    b->ada_b = add_block(n, l, "adaLN_modulation.1.bias", 6 * D, 0, 0);
}

static void add_official(dit_net *n)
{
    const dit_config *c = &n->cfg;
    const int64_t D = c->width, p = c->patch;
    const int64_t pos[3] = { 1, dit_tokens(c), D }, pe[4] = { D, c->channels, p, p };
    n->pos = fv_params_add(n->params, "pos_embed", 3, pos, FV_PARAM_FROZEN);
    n->patch_w = fv_params_add(n->params, "x_embedder.proj.weight", 4, pe, FV_PARAM_DECAY);
    n->patch_b = add(n, "x_embedder.proj.bias", D, 0, 0);
    n->t0_w = add(n, "t_embedder.mlp.0.weight", D, 256, FV_PARAM_DECAY);
    n->t0_b = add(n, "t_embedder.mlp.0.bias", D, 0, 0);
    n->t2_w = add(n, "t_embedder.mlp.2.weight", D, D, FV_PARAM_DECAY);
    n->t2_b = add(n, "t_embedder.mlp.2.bias", D, 0, 0);
    n->classes = add(n, "y_embedder.embedding_table.weight", c->classes + c->has_null, D, 0);
    for (int l = 0; l < c->depth; l++) add_official_block(n, l);
    n->final_ada_w = add(n, "final_layer.adaLN_modulation.1.weight", 2 * D, D, FV_PARAM_DECAY);
    n->final_ada_b = add(n, "final_layer.adaLN_modulation.1.bias", 2 * D, 0, 0);
    n->out_w = add(n, "final_layer.linear.weight", p * p * c->out_channels, D, FV_PARAM_DECAY);
    n->out_b = add(n, "final_layer.linear.bias", p * p * c->out_channels, 0, 0);
}

static void add_f_block(dit_net *n, int l)
{
    const int64_t D = n->cfg.width, H = n->cfg.hidden, hd = dit_head_dim(&n->cfg);
    const int64_t A = n->cfg.heads * hd;
    dit_block *b = &n->block[l];
    b->qkv_b = b->proj_b = b->fc1_b = b->fc2_b = b->ada_w = b->ada_b = -1;
    b->norm1 = add_block(n, l, "norm1.weight", D, 0, 0);
    b->qkv_w = add_block(n, l, "qkv.weight", 3 * A, D, FV_PARAM_DECAY);
    b->q_norm = add_block(n, l, "q_norm.weight", hd, 0, 0);
    b->k_norm = add_block(n, l, "k_norm.weight", hd, 0, 0);
    b->proj_w = add_block(n, l, "proj.weight", D, A, FV_PARAM_DECAY);
    b->norm2 = add_block(n, l, "norm2.weight", D, 0, 0);
    b->fc1_w = add_block(n, l, "w12.weight", 2 * H, D, FV_PARAM_DECAY);
    b->fc2_w = add_block(n, l, "w3.weight", D, H, FV_PARAM_DECAY);
}

static void add_refine(dit_net *n)
{
    const int64_t C = n->cfg.refine, io = n->cfg.out_channels;
    for (int i = 0; i < DIT_REFINE_LAYERS && C > 0; i++) {
        const int64_t w[4] = { i == DIT_REFINE_LAYERS - 1 ? io : C, i == 0 ? io : C, 3, 3 };
        char name[32];
        snprintf(name, sizeof name, "refine.%d.weight", i);
        n->refine_w[i] = fv_params_add(n->params, name, 4, w, FV_PARAM_DECAY);
        snprintf(name, sizeof name, "refine.%d.bias", i);
        n->refine_b[i] = add(n, name, w[0], 0, 0);
    }
}

static void add_f(dit_net *n)
{
    const dit_config *c = &n->cfg;
    const int64_t D = c->width, in = (int64_t)c->channels * c->patch * c->patch;
    const int64_t offset[2] = { c->depth, 6 * D };
    if (c->bottleneck) {
        n->patch0_w = add(n, "patch.0.weight", c->bottleneck, in, FV_PARAM_DECAY);
        n->patch_w = add(n, "patch.1.weight", D, c->bottleneck, FV_PARAM_DECAY);
        n->patch_b = add(n, "patch.1.bias", D, 0, 0);
    } else {
        n->patch_w = add(n, "patch.weight", D, in, FV_PARAM_DECAY);
        n->patch_b = add(n, "patch.bias", D, 0, 0);
    }
    n->t0_w = add(n, "t_mlp.0.weight", D, 256, FV_PARAM_DECAY);
    n->t0_b = add(n, "t_mlp.0.bias", D, 0, 0);
    n->t2_w = add(n, "t_mlp.2.weight", D, D, FV_PARAM_DECAY);
    n->t2_b = add(n, "t_mlp.2.bias", D, 0, 0);
    n->classes = add(n, "classes.weight", c->classes + c->has_null, D, 0);
    n->ada_w = add(n, "ada.weight", 6 * D, D, FV_PARAM_DECAY);
    n->ada_b = add(n, "ada.bias", 6 * D, 0, 0);
    n->ada_offset = fv_params_add(n->params, "ada_offset", 2, offset, 0);
    for (int l = 0; l < c->depth; l++) add_f_block(n, l);
    n->final_norm = add(n, "final.norm.weight", D, 0, 0);
    n->final_ada_w = add(n, "final.ada.weight", 2 * D, D, FV_PARAM_DECAY);
    n->final_ada_b = add(n, "final.ada.bias", 2 * D, 0, 0);
    n->out_w = add(n, "final.out.weight", (int64_t)c->out_channels * c->patch * c->patch, D,
                   FV_PARAM_DECAY);
    n->out_b = add(n, "final.out.bias", (int64_t)c->out_channels * c->patch * c->patch, 0, 0);
    add_refine(n);
}

fv_status dit_net_create(fv_ctx *ctx, dit_net *n, const dit_config *c)
{
    memset(n, 0, sizeof *n);
    if (c->family == DIT_OFFICIAL && c->refine)
        return fv_fail(ctx, FV_ERR_ARG,
                       "model: refine belongs to F models, not to official DiTs: leave it 0");
    n->cfg = *c;
    n->patch0_w = n->pos = n->ada_w = n->ada_b = n->ada_offset = n->final_norm = -1;
    for (int i = 0; i < DIT_REFINE_LAYERS; i++) n->refine_w[i] = n->refine_b[i] = -1;
    n->block = fv_calloc(ctx, (size_t)c->depth, sizeof *n->block);
    if (!n->block) return FV_ERR_OOM;
    fv_status s = fv_params_create(ctx, &n->params);
    if (s == FV_OK) {
        if (c->family == DIT_OFFICIAL) add_official(n);
        else add_f(n);
        /* A failed add sticks: alloc then returns why (out of memory, ...) and does nothing
         * else. */
        if (n->out_b < 0 || (c->refine && n->refine_b[DIT_REFINE_LAYERS - 1] < 0))
            s = fv_params_alloc(n->params);
    }
    if (s != FV_OK) dit_net_destroy(ctx, n);
    return s;
}

void dit_net_destroy(fv_ctx *ctx, dit_net *n)
{
    fv_params_destroy(&n->params);
    fv_free(ctx, n->block);
    n->block = NULL;
}

/* DiT's initialisation: Xavier for linear layers, N(0, 0.02) for the timestep MLP and the class
 * table, zero for adaLN and the output, so that every block starts as the identity. */
void dit_net_init(dit_net *n, uint64_t seed)
{
    fv_params *p = n->params;
    for (int i = 0; i < fv_params_count(p); i++) {
        const fv_tensor t = fv_params_tensor(p, i);
        const char *name = fv_params_name(p, i);
        if (strstr(name, "norm") && strstr(name, "weight")) fv_params_fill(p, i, 1.0f);
        else if (t.ndim >= 2 && !strstr(name, "ada") && i != n->pos)
            fv_params_init_xavier(p, i, seed);
        else fv_params_fill(p, i, 0.0f);
    }
    fv_params_init_normal(p, n->t0_w, seed, 0.02f);
    fv_params_init_normal(p, n->t2_w, seed, 0.02f);
    fv_params_init_normal(p, n->classes, seed, 0.02f);
    fv_params_fill(p, n->out_w, 0.0f);
    if (n->cfg.refine) fv_params_fill(p, n->refine_w[DIT_REFINE_LAYERS - 1], 0.0f);
    if (n->pos >= 0) dit_pos_table(&n->cfg, fv_params_tensor(p, n->pos).data);
}

void dit_pos_table(const dit_config *c, float *pos)
{
    const int g = c->input_size / c->patch;
    fv_sincos_table(g, g, c->width, pos);
}

void dit_rope(const dit_config *c, float *rope)
{
    const int g = c->input_size / c->patch;
    fv_rope_table(g, g, dit_head_dim(c), 10000.0, rope);
}

/* ---- Modules --------------------------------------------------------------------------------- */

static fv_t optional_param(fv_tape *t, fv_pid id) { return id >= 0 ? fv_param(t, id) : 0; }

fv_t dit_embed(fv_tape *t, const dit_net *n, fv_t x, fv_t pos)
{
    fv_t h = fv_patchify(t, x, n->cfg.patch, 1);
    if (n->patch0_w >= 0) h = fv_linear(t, h, n->patch0_w, -1, FV_ACT_NONE);
    h = fv_linear_as(t, h, n->patch_w, n->patch_b, FV_ACT_NONE, FV_F32);
    return fv_binary_op(t, FV_ADD, h, pos);
}

fv_t dit_condition(fv_tape *t, const dit_net *n, fv_t time, fv_t label)
{
    fv_t c = fv_timestep_embed(t, time, 256, n->cfg.t_scale, n->cfg.t_den);
    c = fv_linear_as(t, c, n->t0_w, n->t0_b, FV_ACT_SILU, FV_F32);
    c = fv_linear_as(t, c, n->t2_w, n->t2_b, FV_ACT_NONE, FV_F32);
    c = fv_binary_op(t, FV_ADD, c, fv_embed(t, n->classes, label));
    return fv_activate(t, c, FV_ACT_SILU);
}

fv_t dit_shared_mod(fv_tape *t, const dit_net *n, fv_t cond)
{
    return n->ada_w >= 0 ? fv_linear_as(t, cond, n->ada_w, n->ada_b, FV_ACT_NONE, FV_F32) : 0;
}

fv_t dit_block_mod_from(fv_tape *t, const dit_net *n, int l, fv_t shared, fv_t cond)
{
    const dit_block *b = &n->block[l];
    if (n->ada_offset >= 0)
        return fv_binary_op(t, FV_ADD, shared, fv_param_row(t, n->ada_offset, l));
    return fv_linear_as(t, cond, b->ada_w, b->ada_b, FV_ACT_NONE, FV_F32);
}

fv_t dit_block_mod(fv_tape *t, const dit_net *n, int l, fv_t cond)
{
    return dit_block_mod_from(t, n, l, dit_shared_mod(t, n, cond), cond);
}

fv_t dit_final_mod(fv_tape *t, const dit_net *n, fv_t cond)
{
    return fv_linear_as(t, cond, n->final_ada_w, n->final_ada_b, FV_ACT_NONE, FV_F32);
}

static fv_t norm(fv_tape *t, const dit_net *n, fv_t h, fv_pid weight, float eps, fv_t mod,
                 int shift, int scale)
{
    const fv_norm_kind kind = n->cfg.family == DIT_F ? FV_NORM_RMS : FV_NORM_LAYER;
    const fv_norm o = { kind, eps, optional_param(t, weight), 0, mod, shift, scale };
    return fv_norm_modulate(t, h, o);
}

fv_t dit_attention_input(fv_tape *t, const dit_net *n, int l, fv_t h, fv_t mod)
{
    return norm(t, n, h, n->block[l].norm1, 1e-6f, mod, DIT_SHIFT1, DIT_SCALE1);
}

fv_t dit_attention(fv_tape *t, const dit_net *n, int l, fv_t h, fv_t mod, fv_t rope, fv_dtype out)
{
    const dit_block *b = &n->block[l];
    const fv_tensor s = fv_tape_tensor(t, h);
    const int64_t heads[5] = { s.dim[0], s.dim[1], 3, n->cfg.heads, dit_head_dim(&n->cfg) };
    const fv_t u = dit_attention_input(t, n, l, h, mod);
    fv_t q = fv_reshape(t, fv_linear(t, u, b->qkv_w, b->qkv_b, FV_ACT_NONE), 5, heads);
    if (b->q_norm >= 0)
        q = fv_qk_norm_rope(t, q, fv_param(t, b->q_norm), fv_param(t, b->k_norm), 1e-6f, rope);
    return fv_linear_as(t, fv_sdpa(t, q, 0.0f, 0), b->proj_w, b->proj_b, FV_ACT_NONE, out);
}

fv_t dit_mlp(fv_tape *t, const dit_net *n, int l, fv_t h, fv_t mod, fv_dtype out)
{
    const dit_block *b = &n->block[l];
    const fv_t u = norm(t, n, h, b->norm2, n->cfg.ln2_eps, mod, DIT_SHIFT2, DIT_SCALE2);
    fv_t m;
    if (n->cfg.family == DIT_F) m = fv_swiglu(t, fv_linear(t, u, b->fc1_w, -1, FV_ACT_NONE));
    else m = fv_linear(t, u, b->fc1_w, b->fc1_b, FV_ACT_GELU_TANH);
    return fv_linear_as(t, m, b->fc2_w, b->fc2_b, FV_ACT_NONE, out);
}

static fv_t refine(fv_tape *t, const dit_net *n, fv_t x)
{
    fv_t r = x;
    for (int i = 0; i < DIT_REFINE_LAYERS; i++) {
        const bool last = i == DIT_REFINE_LAYERS - 1;
        const fv_conv c = { 1, 1, 1, 1, 1, last ? FV_ACT_NONE : FV_ACT_SILU };
        r = fv_conv2d(t, r, n->refine_w[i], n->refine_b[i], c);
    }
    return fv_binary_op(t, FV_ADD, x, r);
}

fv_t dit_final(fv_tape *t, const dit_net *n, fv_t h, fv_t mod2)
{
    const fv_t u = norm(t, n, h, n->final_norm, 1e-6f, mod2, 0, 1);
    const fv_t y = fv_linear_as(t, u, n->out_w, n->out_b, FV_ACT_NONE, FV_F32);
    const fv_t x = fv_unpatchify(t, y, n->cfg.input_size, n->cfg.input_size, n->cfg.patch, 0);
    return n->cfg.refine ? refine(t, n, x) : x;
}

/* was + gate (now - was), the stream [B, N, C] as [B, N C, 1]: [B] could be meant for channels. */
static fv_t pass(fv_tape *t, fv_t was, fv_t now, fv_t gate)
{
    const fv_tensor s = fv_tape_tensor(t, now);
    const int64_t rows[3] = { s.dim[0], s.dim[1] * s.dim[2], 1 };
    const fv_t added = fv_reshape(t, fv_binary_op(t, FV_SUB, now, was), 3, rows);
    return fv_binary_op(t, FV_ADD, was, fv_reshape(t, fv_binary_op(t, FV_MUL, added, gate), 3,
                                                   s.dim));
}

fv_t dit_forward_hidden(fv_tape *t, const dit_net *n, fv_t x, fv_t time, fv_t label, fv_t pos,
                        fv_t rope, fv_t *hidden, const fv_t *gate)
{
    fv_t h = dit_embed(t, n, x, pos);
    if (hidden) hidden[0] = h;
    const fv_t cond = dit_condition(t, n, time, label), shared = dit_shared_mod(t, n, cond);
    const fv_dtype out = fv_tape_precision(t);
    for (int l = 0; l < n->cfg.depth; l++) {
        const fv_t mod = dit_block_mod_from(t, n, l, shared, cond);
        const fv_t was = h;
        h = fv_gate_residual(t, h, dit_attention(t, n, l, h, mod, rope, out), mod, DIT_GATE1);
        h = fv_gate_residual(t, h, dit_mlp(t, n, l, h, mod, out), mod, DIT_GATE2);
        if (gate) h = pass(t, was, h, gate[l]);
        if (hidden) hidden[l + 1] = h;
    }
    return dit_final(t, n, h, dit_final_mod(t, n, cond));
}

fv_t dit_forward(fv_tape *t, const dit_net *n, fv_t x, fv_t time, fv_t label, fv_t pos, fv_t rope)
{
    return dit_forward_hidden(t, n, x, time, label, pos, rope, NULL, NULL);
}
