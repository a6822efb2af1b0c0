/* gpt_model.c - LlamaGen's GPT (Sun et al. 2024) and the EAGLE draft head (Li et al. 2024).
 *
 *     h = [condition rows] ++ [E x_t]
 *     h += Wo attn(rms(h) w1);  y = rms(h) w2;  h += W2 (silu(W1 y) * (W3 y))        each layer
 *     f = rms(h) w;  logits = Wout f
 * No biases. q and k turn by 2-D angles in neighbouring pairs; the rows of the condition have
 * cosine and sine 0, so their q and k vanish: a condition acts through its values alone, with
 * score 0.
 *
 * The draft guesses the next feature f' of the target from a token x and the feature f before it:
 *     u = Wfc [E x; f] + b;  u += Wo attn(u);  f' = u + mlp(rms(u) w2)
 * with the angles of x's own cell; f' goes to the target's head as it is. */
#include "gpt_model.h"

#include <string.h>

/* ---- Parameters ------------------------------------------------------------------------------ */

static fv_pid add(fv_params *p, const char *name, int64_t a, int64_t b, uint32_t flags)
{
    const int64_t dim[2] = {a, b};
    return fv_params_add(p, name, b ? 2 : 1, dim, flags);
}

static fv_pid add_in_layer(fv_params *p, int l, const char *name, int64_t a, int64_t b)
{
    char full[96];
    snprintf(full, sizeof full, "layers.%d.%s", l, name);
    return add(p, full, a, b, b ? FV_PARAM_DECAY : 0);
}

static void add_layer(fv_params *p, const gpt_config *c, int l, bool has_norm1, gpt_layer *out)
{
    const int64_t d = c->width, f = c->ffn;
    out->norm1 = has_norm1 ? add_in_layer(p, l, "attention_norm.weight", d, 0) : -1;
    out->qkv = add_in_layer(p, l, "attention.wqkv.weight", 3 * d, d);
    out->wo = add_in_layer(p, l, "attention.wo.weight", d, d);
    out->norm2 = add_in_layer(p, l, "ffn_norm.weight", d, 0);
    out->w1 = add_in_layer(p, l, "feed_forward.w1.weight", f, d);
    out->w3 = add_in_layer(p, l, "feed_forward.w3.weight", f, d);
    out->w2 = add_in_layer(p, l, "feed_forward.w2.weight", d, f);
}

static void add_condition(gpt_net *n)
{
    const gpt_config *c = &n->cfg;
    fv_params *p = n->params;
    if (c->classes) {
        n->classes = add(p, "cls_embedding.embedding_table.weight", c->classes + 1, c->width, 0);
        return;
    }
    n->fc1 = add(p, "cls_embedding.cap_proj.fc1.weight", c->width, c->caption_width,
                 FV_PARAM_DECAY);
    n->fc2 = add(p, "cls_embedding.cap_proj.fc2.weight", c->width, c->width, FV_PARAM_DECAY);
    n->null_caption = add(p, "cls_embedding.uncond_embedding", c->cond_tokens, c->caption_width, 0);
}

fv_status gpt_net_create(fv_ctx *ctx, gpt_net *n, const gpt_config *c)
{
    memset(n, 0, sizeof *n);
    n->cfg = *c;
    n->classes = n->fc1 = n->fc2 = n->null_caption = -1;
    n->layer = fv_calloc(ctx, (size_t)c->layers, sizeof *n->layer);
    if (!n->layer) return FV_ERR_OOM;
    fv_status s = fv_params_create(ctx, &n->params);
    if (s == FV_OK) {
        n->tokens = add(n->params, "tok_embeddings.weight", c->vocab, c->width, 0);
        add_condition(n);
        for (int l = 0; l < c->layers; l++) add_layer(n->params, c, l, true, &n->layer[l]);
        n->norm = add(n->params, "norm.weight", c->width, 0, 0);
        n->head = add(n->params, "output.weight", c->vocab, c->width, FV_PARAM_DECAY);
        /* A failed add sticks: alloc then returns why and does nothing else. */
        if (n->head < 0) s = fv_params_alloc(n->params);
    }
    if (s != FV_OK) gpt_net_destroy(ctx, n);
    return s;
}

void gpt_net_destroy(fv_ctx *ctx, gpt_net *n)
{
    fv_params_destroy(&n->params);
    fv_free(ctx, n->layer);
    n->layer = NULL;
}

static void init_params(fv_params *p, uint64_t seed)
{
    for (int i = 0; i < fv_params_count(p); i++) {
        const char *name = fv_params_name(p, i);
        if (strstr(name, "norm")) fv_params_fill(p, i, 1.0f);
        else if (strstr(name, "bias")) fv_params_fill(p, i, 0.0f);
        else fv_params_init_normal(p, i, seed, 0.02f);
    }
}

void gpt_net_init(gpt_net *n, uint64_t seed)
{
    init_params(n->params, seed);
    fv_params_fill(n->params, n->head, 0.0f);
}

void gpt_rope(const gpt_config *c, int cond_rows, float *table)
{
    const size_t head = (size_t)gpt_head(c);
    memset(table, 0, (size_t)cond_rows * head * sizeof *table);
    fv_rope_table(c->grid, c->grid, (int)head, c->rope_theta, table + (size_t)cond_rows * head);
}

/* ---- Layers ---------------------------------------------------------------------------------- */

static fv_t rms(fv_tape *t, fv_t h, fv_pid weight, float eps)
{
    const fv_norm o = {FV_NORM_RMS, eps, fv_param(t, weight), 0, 0, -1, -1};
    return fv_norm_modulate(t, h, o);
}

/* h [B, T, d] f32 -> h + attention of u, u [B, T, d] in any type */
static fv_t attention(fv_tape *t, const gpt_config *c, const gpt_layer *l, fv_t h, fv_t u,
                      fv_t rope)
{
    const fv_tensor s = fv_tape_tensor(t, h);
    const int64_t heads[5] = {s.dim[0], s.dim[1], 3, c->heads, gpt_head(c)};
    const fv_t q = fv_reshape(t, fv_linear(t, u, l->qkv, -1, FV_ACT_NONE), 5, heads);
    const fv_t o = fv_sdpa(t, fv_rope_pairs(t, q, rope), 0.0f, 1);
    return fv_gate_residual(t, h, fv_linear(t, o, l->wo, -1, FV_ACT_NONE), 0, 0);
}

static fv_t mlp(fv_tape *t, const gpt_layer *l, fv_t h, float eps)
{
    const fv_t u = rms(t, h, l->norm2, eps);
    const fv_t gate = fv_linear(t, u, l->w1, -1, FV_ACT_SILU);
    const fv_t m = fv_binary_op(t, FV_MUL, gate, fv_linear(t, u, l->w3, -1, FV_ACT_NONE));
    return fv_gate_residual(t, h, fv_linear(t, m, l->w2, -1, FV_ACT_NONE), 0, 0);
}

static fv_t embed_tokens(fv_tape *t, fv_pid table, fv_t tokens, int64_t B)
{
    const fv_t e = fv_embed(t, table, tokens);
    const fv_tensor s = fv_tape_tensor(t, e);
    const int64_t dim[3] = {B, B > 0 ? s.dim[0] / B : 0, s.dim[1]};
    return fv_reshape(t, e, 3, dim);
}

/* ---- The target ------------------------------------------------------------------------------ */

fv_t gpt_classes(fv_tape *t, const gpt_net *n, fv_t labels)
{
    const fv_tensor s = fv_tape_tensor(t, labels);
    return embed_tokens(t, n->classes, labels, s.dim[0]);
}

fv_t gpt_captions(fv_tape *t, const gpt_net *n, fv_t features)
{
    const fv_t u = fv_linear(t, features, n->fc1, -1, FV_ACT_GELU_TANH);
    return fv_linear_as(t, u, n->fc2, -1, FV_ACT_NONE, FV_F32);
}

fv_t gpt_features(fv_tape *t, const gpt_net *n, fv_t cond, fv_t tokens, fv_t rope)
{
    const gpt_config *c = &n->cfg;
    const fv_tensor s = fv_tape_tensor(t, cond);
    fv_t h = cond;
    if (tokens) h = fv_concat(t, cond, embed_tokens(t, n->tokens, tokens, s.dim[0]), 1);
    for (int l = 0; l < c->layers; l++) {
        h = attention(t, c, &n->layer[l], h, rms(t, h, n->layer[l].norm1, c->norm_eps), rope);
        h = mlp(t, &n->layer[l], h, c->norm_eps);
    }
    return rms(t, h, n->norm, c->norm_eps);
}

static fv_t logits(fv_tape *t, fv_pid head, fv_t features)
{
    const fv_tensor s = fv_tape_tensor(t, features);
    const int64_t rows[2] = {s.dim[0] * s.dim[1], s.dim[2]};
    return fv_linear_as(t, fv_reshape(t, features, 2, rows), head, -1, FV_ACT_NONE, FV_F32);
}

fv_t gpt_logits(fv_tape *t, const gpt_net *n, fv_t features)
{
    return logits(t, n->head, features);
}

/* ---- The draft ------------------------------------------------------------------------------- */

fv_status draft_net_create(fv_ctx *ctx, draft_net *n, const gpt_config *c, bool with_head)
{
    const int64_t d = c->width;
    memset(n, 0, sizeof *n);
    n->cfg = *c;
    FV_TRY(fv_params_create(ctx, &n->params));
    const uint32_t target = FV_PARAM_FROZEN | (with_head ? FV_PARAM_TRAINER : 0);
    n->embed = add(n->params, "embed_tokens.weight", c->vocab, d, target);
    n->fc_w = add(n->params, "fc.weight", d, 2 * d, FV_PARAM_DECAY);
    n->fc_b = add(n->params, "fc.bias", d, 0, 0);
    add_layer(n->params, c, 0, false, &n->layer);
    n->head = with_head ? add(n->params, "head.weight", c->vocab, d, target) : -1;
    const fv_status s = n->layer.w2 < 0 || (with_head && n->head < 0) ? fv_params_alloc(n->params)
                                                                      : FV_OK;
    if (s != FV_OK) draft_net_destroy(n);
    return s;
}

void draft_net_destroy(draft_net *n)
{
    fv_params_destroy(&n->params);
}

void draft_net_init(draft_net *n, uint64_t seed)
{
    init_params(n->params, seed);
}

fv_t draft_features(fv_tape *t, const draft_net *n, fv_t tokens, fv_t feature, fv_t rope)
{
    const fv_tensor s = fv_tape_tensor(t, feature);
    const fv_t e = embed_tokens(t, n->embed, tokens, s.dim[0]);
    fv_t u = fv_linear_as(t, fv_concat(t, e, feature, 2), n->fc_w, n->fc_b, FV_ACT_NONE, FV_F32);
    u = attention(t, &n->cfg, &n->layer, u, u, rope);
    return mlp(t, &n->layer, u, n->cfg.draft_eps);
}

fv_t draft_logits(fv_tape *t, const draft_net *n, fv_t features)
{
    return logits(t, n->head, features);
}
