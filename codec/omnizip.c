/* omnizip.c - OmniZip's network as tape code, written once for training and inference.
 *
 * [OmniZip's official code; RMS eps 1e-8, LN eps 1e-5, head norm eps 64e-5, no biases in linear
 * layers]. n width, heads of 16, one RMS weight for both ends:
 *
 *     x = RMS(E[token]);  x0 = x
 *     per layer:  x = mix_0 x + mix_1 x0;  x += TimeMix(LN1 x);  x += FFN(LN2 x)
 *     logits = Head RMS(x), or the nodes of a binary tree: w_m . RMS(x) + b_m (ours)
 *
 * TimeMix, d = x_{t-1} - x_t:
 *     xrg = x + d mix_rg;  xk = x + d mix_k;  xv = x + d mix_v
 *     r = Wr xrg;  k = Wk xk;  v = Wv xv  or  the experts' mixture;  g = sigmoid(xrg)
 *     v = v + (v of layer 0 - v) sigmoid(value_mix)           from the second layer on
 *     w_l = -softplus(-decay) - 0.5;  W = exp(-exp(w_l));  a = sigmoid(rate)
 *     k is used as removal key k/|k| and, times f, as replacement key:
 *         ma = sigmoid(key_rate), mk = sigmoid(key_decay): k (ma + a (1 - ma)) exp(w_l mk) = k f
 *     y = WKV(r, k, v; W, a, f);  y = GN(y) + (sum_head r (k f) bonus) v;  out = Wo (y g)
 * exp(min(w_l mk, 0)) of the code needs no minimum and W no clamp: w_l <= -0.5 always, and below
 * -17 W is 1 in f32 either way.
 *
 * FFN: Wd relu(Wu x)^2, or two of four such experts. The router is a linear map; checkpoints of the
 * official code have a layer of max(16, n/2) with SiLU between, with biases. */
#include "omnizip.h"

#include <math.h>
#include <string.h>

#include "tape.h"

/* ---- Configurations -------------------------------------------------------------------------- */

fv_status oz_preset(fv_ctx *ctx, const char *name, oz_config *out)
{
    static const struct {
        const char *name;
        int width, layers;
    } p[] = {{"XS", 96, 2}, {"S", 320, 2}, {"M", 912, 2}, {"L", 1488, 3}};
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < FV_ARRAY_LEN(p); i++) {
        if (strcmp(p[i].name, name) != 0) continue;
        snprintf(out->name, sizeof out->name, "%s", name);
        out->width = p[i].width;
        out->layers = p[i].layers;
        out->vocab = out->outputs = 16384;
        out->hidden = 2 * out->width;
        out->experts = 4;
        out->v_moe = out->ffn_moe = true;
        return FV_OK;
    }
    return fv_fail(ctx, FV_ERR_UNKNOWN, "omnizip: preset \"%.40s\" is unknown: XS S M L", name);
}

fv_status oz_config_check(fv_ctx *ctx, const oz_config *c)
{
    const char *wrong = NULL;
    if (c->width < 16 || c->width > OZ_MAX_WIDTH || c->width % 16)
        wrong = "the width must be a multiple of 16 up to 8192";
    else if (c->layers < 1 || c->layers > OZ_MAX_LAYERS) wrong = "there must be 1 to 32 layers";
    else if (c->vocab < 2 || c->vocab > OZ_MAX_VOCAB || c->outputs < 2 || c->outputs > c->vocab)
        wrong = "the vocabulary must be 2 to 1048576, and the head not larger";
    else if (c->hidden < 1 || c->hidden > 8 * OZ_MAX_WIDTH)
        wrong = "the hidden width is out of range";
    else if ((c->v_moe || c->ffn_moe) && (c->experts < 3 || c->experts > FV_MAX_EXPERTS))
        wrong = "there must be 3 to 64 experts";
    else if (c->tree && (c->outputs & (c->outputs - 1)) != 0)
        wrong = "a tree needs a power of two of outputs";
    else if (c->router_hidden < 0 || c->router_hidden > OZ_MAX_WIDTH)
        wrong = "the router's width is out of range";
    return wrong ? fv_fail(ctx, FV_ERR_MODEL, "omnizip: %s", wrong) : FV_OK;
}

typedef struct config_key {
    const char *key;
    size_t at;
    bool is_bool;
} config_key;
#define TREE_KEY "fovea.omnizip.tree" /* younger than the others: 0 where it is missing */
static const config_key config_keys[] = {
    {"fovea.omnizip.width", offsetof(oz_config, width), false},
    {"fovea.omnizip.layers", offsetof(oz_config, layers), false},
    {"fovea.omnizip.vocab", offsetof(oz_config, vocab), false},
    {"fovea.omnizip.outputs", offsetof(oz_config, outputs), false},
    {"fovea.omnizip.hidden", offsetof(oz_config, hidden), false},
    {"fovea.omnizip.experts", offsetof(oz_config, experts), false},
    {"fovea.omnizip.router_hidden", offsetof(oz_config, router_hidden), false},
    {"fovea.omnizip.v_moe", offsetof(oz_config, v_moe), true},
    {"fovea.omnizip.ffn_moe", offsetof(oz_config, ffn_moe), true},
    {TREE_KEY, offsetof(oz_config, tree), true},
};

void oz_config_meta(const oz_config *c, oz_meta *m)
{
    m->pairs = 0;
    m->item[0] = "fovea.kind";
    m->item[1] = "omnizip";
    m->pairs++;
    for (size_t i = 0; i < FV_ARRAY_LEN(config_keys); i++) {
        const char *at = (const char *)c + config_keys[i].at;
        const int v = config_keys[i].is_bool ? *(const bool *)at : *(const int *)at;
        snprintf(m->text[m->pairs], sizeof m->text[0], "%d", v);
        m->item[2 * m->pairs] = config_keys[i].key;
        m->item[2 * m->pairs + 1] = m->text[m->pairs];
        m->pairs++;
    }
}

fv_status oz_config_read(fv_ctx *ctx, const fv_model *m, oz_config *out)
{
    const char *kind = fv_model_meta(m, "fovea.kind");
    memset(out, 0, sizeof *out);
    if (!kind || strcmp(kind, "omnizip") != 0)
        return fv_fail(ctx, FV_ERR_MODEL,
                       "omnizip: the file is not an omnizip model: use fovea convert first");
    for (size_t i = 0; i < FV_ARRAY_LEN(config_keys); i++) {
        const char *text = fv_model_meta(m, config_keys[i].key);
        char *at = (char *)out + config_keys[i].at;
        int v = 0, digits = 0;
        if (!text && strcmp(config_keys[i].key, TREE_KEY) == 0) text = "0";
        for (; text && text[digits] >= '0' && text[digits] <= '9' && digits < 8; digits++)
            v = 10 * v + (text[digits] - '0');
        if (!digits || text[digits])
            return fv_fail(ctx, FV_ERR_MODEL, "omnizip: metadata %s is missing or not a number",
                           config_keys[i].key);
        if (config_keys[i].is_bool) *(bool *)at = v != 0;
        else *(int *)at = v;
    }
    return oz_config_check(ctx, out);
}

/* ---- Parameters ------------------------------------------------------------------------------ */

static fv_pid add(oz_net *n, int l, const char *name, int64_t rows, int64_t columns)
{
    char full[96];
    const int64_t dim[2] = {rows, columns};
    if (l < 0) snprintf(full, sizeof full, "%s", name);
    else snprintf(full, sizeof full, "blocks.%d.%s", l, name);
    return fv_params_add(n->params, full, columns ? 2 : 1, dim, 0);
}

static oz_projection add_projection(oz_net *n, int l, const char *name, int64_t count)
{
    const int64_t C = n->cfg.width, K = OZ_HIRA_FACTOR * C;
    char full[64];
    oz_projection p = {-1, -1, -1};
    snprintf(full, sizeof full, "att.%s.weight", name);
    p.w = add(n, l, full, count * C, C);
    if (!n->cfg.hira) return p;
    snprintf(full, sizeof full, "att.%s.hira_a", name);
    p.a = add(n, l, full, count * K, C);
    snprintf(full, sizeof full, "att.%s.hira_b", name);
    p.b = add(n, l, full, count * C, K);
    return p;
}

static oz_router add_router(oz_net *n, int l, const char *part)
{
    const oz_config *c = &n->cfg;
    oz_router r = {-1, -1, -1, -1, -1};
    char full[64];
    snprintf(full, sizeof full, "%s.router.0.weight", part);
    r.w0 = add(n, l, full, c->router_hidden ? c->router_hidden : c->experts, c->width);
    if (c->router_hidden) {
        snprintf(full, sizeof full, "%s.router.0.bias", part);
        r.b0 = add(n, l, full, c->router_hidden, 0);
        snprintf(full, sizeof full, "%s.router.2.weight", part);
        r.w2 = add(n, l, full, c->experts, c->router_hidden);
        snprintf(full, sizeof full, "%s.router.2.bias", part);
        r.b2 = add(n, l, full, c->experts, 0);
    }
    snprintf(full, sizeof full, "%s.router.noise", part);
    if (c->noise) r.noise = add(n, l, full, c->experts, c->width);
    return r;
}

static void add_block(oz_net *n, int l)
{
    const oz_config *c = &n->cfg;
    const int64_t C = c->width, E = c->experts, H = c->hidden;
    oz_block *b = &n->block[l];
    const struct {
        fv_pid *id;
        const char *name;
    } vectors[] = {{&b->ln1_w, "ln1.weight"},        {&b->ln1_b, "ln1.bias"},
                   {&b->ln2_w, "ln2.weight"},        {&b->ln2_b, "ln2.bias"},
                   {&b->mix_rg, "att.mix_rg"},       {&b->mix_k, "att.mix_k"},
                   {&b->mix_v, "att.mix_v"},         {&b->decay, "att.decay"},
                   {&b->rate, "att.rate"},           {&b->key_rate, "att.key_rate"},
                   {&b->key_decay, "att.key_decay"}, {&b->bonus, "att.bonus"},
                   {&b->norm_w, "att.norm.weight"},  {&b->norm_b, "att.norm.bias"}};
    b->mix = add(n, l, "mix", 2, 0);
    for (size_t i = 0; i < FV_ARRAY_LEN(vectors); i++)
        *vectors[i].id = add(n, l, vectors[i].name, C, 0);
    b->value_mix = l > 0 ? add(n, l, "att.value_mix", C, 0) : -1;
    b->r = add_projection(n, l, "receptance", 1);
    b->k = add_projection(n, l, "key", 1);
    b->v = add_projection(n, l, "value", c->v_moe ? E : 1);
    b->out = add(n, l, "att.output.weight", C, C);
    if (c->v_moe) b->v_router = add_router(n, l, "att");
    b->up = add(n, l, "ffn.up.weight", c->ffn_moe ? E * H : H, C);
    b->down = add(n, l, "ffn.down.weight", c->ffn_moe ? E * C : C, H);
    if (c->ffn_moe) b->ffn_router = add_router(n, l, "ffn");
}

fv_status oz_net_create(fv_ctx *ctx, oz_net *n, const oz_config *c)
{
    memset(n, 0, sizeof *n);
    FV_TRY(oz_config_check(ctx, c));
    n->cfg = *c;
    FV_TRY(fv_params_create(ctx, &n->params));
    n->embed = add(n, -1, "embed.weight", c->vocab, c->width);
    n->norm = add(n, -1, "norm.weight", c->width, 0);
    for (int l = 0; l < c->layers; l++) add_block(n, l);
    n->head = add(n, -1, "head.weight", c->outputs, c->width);
    n->bias = c->tree ? add(n, -1, "head.bias", c->outputs, 0) : -1;
    if (n->head >= 0 && (n->bias >= 0 || !c->tree)) return FV_OK;
    const fv_status s = fv_params_alloc(n->params); /* says why adding failed */
    oz_net_destroy(n);
    return s == FV_OK ? FV_ERR_INTERNAL : s;
}

void oz_net_destroy(oz_net *n) { fv_params_destroy(&n->params); }

/* ---- Starting values ------------------------------------------------------------------------- */

static void uniform(oz_net *n, fv_pid id, uint64_t seed, float size)
{
    if (id < 0) return;
    const fv_tensor t = fv_params_tensor(n->params, id);
    float *w = t.data;
    fv_rand_uniform(seed, FV_STREAM_INIT, (uint32_t)id, 0, fv_tensor_count(&t), w);
    for (int64_t i = 0; i < fv_tensor_count(&t); i++) w[i] = size * (2.0f * w[i] - 1.0f);
}

static void init_projection(oz_net *n, oz_projection p, uint64_t seed, float size)
{
    uniform(n, p.w, seed, size);
    uniform(n, p.a, seed, size);
    uniform(n, p.b, seed, size);
}

static void init_router(oz_net *n, oz_router r, uint64_t seed)
{
    const float in = 1.0f / sqrtf((float)n->cfg.width);
    const float inner = n->cfg.router_hidden ? 1.0f / sqrtf((float)n->cfg.router_hidden) : 0;
    uniform(n, r.w0, seed, in);
    uniform(n, r.b0, seed, in);
    uniform(n, r.w2, seed, inner);
    uniform(n, r.b2, seed, inner);
    if (r.noise >= 0) fv_params_init_normal(n->params, r.noise, seed, 1.0f);
}

static void init_vectors(oz_net *n, int l)
{
    const oz_block *b = &n->block[l];
    const int C = n->cfg.width, L = n->cfg.layers;
    const double q = 1.0 - (double)l / L, p = L > 1 ? (double)l / (L - 1) : 0;
    float *rg = fv_params_tensor(n->params, b->mix_rg).data;
    float *k = fv_params_tensor(n->params, b->mix_k).data;
    float *v = fv_params_tensor(n->params, b->mix_v).data;
    float *decay = fv_params_tensor(n->params, b->decay).data;
    for (int i = 0; i < C; i++) {
        const double x = (double)i / C, y = (double)i / (C - 1);
        rg[i] = (float)(1 - pow(x, 0.2 * q));
        k[i] = (float)(1 - (pow(x, 0.9 * q) + 0.4 * p));
        v[i] = (float)(1 - (pow(x, 0.4 * q) + 0.6 * p));
        decay[i] = (float)(-7 + 5 * pow(y, 0.85 + sqrt(p)) + 0.5);
    }
}

fv_status oz_net_init(fv_ctx *ctx, oz_net *n, uint64_t seed)
{
    fv_params *p = n->params;
    if (!fvi_params_master(p))
        return fv_fail(ctx, FV_ERR_STATE, "omnizip: values before fv_params_alloc");
    const float scale = 0.5f / sqrtf((float)n->cfg.width);
    fv_params_init_normal(p, n->embed, seed, 1.0f);
    fv_params_fill(p, n->norm, 1.0f);
    for (int l = 0; l < n->cfg.layers; l++) {
        const oz_block *b = &n->block[l];
        const fv_pid ones[] = {b->ln1_w, b->ln2_w, b->norm_w, b->value_mix};
        for (size_t i = 0; i < FV_ARRAY_LEN(ones); i++) fv_params_fill(p, ones[i], 1.0f);
        ((float *)fv_params_tensor(p, b->mix).data)[0] = 1.0f;
        init_vectors(n, l);
        init_projection(n, b->r, seed, scale);
        init_projection(n, b->k, seed, 0.1f * scale);
        init_projection(n, b->v, seed, scale);
        uniform(n, b->up, seed, 2.0f * scale); /* Kaiming with a = sqrt(5): 1/sqrt(n) */
        if (n->cfg.v_moe) init_router(n, b->v_router, seed);
        if (n->cfg.ffn_moe) init_router(n, b->ffn_router, seed);
    }
    fv_params_touch(p);
    return FV_OK;
}

/* ---- The network ----------------------------------------------------------------------------- */

typedef struct graph {
    fv_tape *t;
    const oz_net *n;
    oz_io *io;
    int64_t B, T;
    fv_t v1; /* values of the first layer */
} graph;

static fv_t norm(const graph *g, fv_t x, fv_norm_kind kind, fv_pid w, fv_pid b, float eps)
{
    const fv_norm o = {kind, eps, fv_param(g->t, w), b >= 0 ? fv_param(g->t, b) : 0, 0, -1, -1};
    return fv_norm_modulate(g->t, x, o);
}

/* sigmoid of a parameter vector */
static fv_t gate_of(const graph *g, fv_pid id)
{
    return fv_activate(g->t, fv_param(g->t, id), FV_ACT_SIGMOID);
}

/* Static vectors of the recurrence: W, a, f and the bonus on the raw key. */
static void statics(const graph *g, const oz_block *b, fv_wkv *w, fv_t *bonus)
{
    fv_tape *t = g->t;
    const fv_t minus = fv_affine(t, fv_param(t, b->decay), -1.0f, 0.0f);
    const fv_t wl = fv_affine(t, fv_activate(t, minus, FV_ACT_SOFTPLUS), -1.0f, -0.5f);
    const fv_t rate = fv_affine(t, fv_activate(t, wl, FV_ACT_EXP), -1.0f, 0.0f);
    w->decay = fv_activate(t, rate, FV_ACT_EXP);
    w->rate = gate_of(g, b->rate);
    const fv_t ma = gate_of(g, b->key_rate);
    const fv_t rest = fv_binary_op(t, FV_MUL, fv_affine(t, ma, -1.0f, 1.0f), w->rate);
    const fv_t later = fv_binary_op(t, FV_MUL, wl, gate_of(g, b->key_decay));
    w->key_scale = fv_binary_op(t, FV_MUL, fv_binary_op(t, FV_ADD, ma, rest),
                                fv_activate(t, later, FV_ACT_EXP));
    *bonus = fv_binary_op(t, FV_MUL, w->key_scale, fv_param(t, b->bonus));
}

/* Gates [B*T, E] for rows x; adds the balance loss to io->aux. */
static fv_t route(graph *g, const oz_router *r, fv_t x, int l, char part)
{
    fv_tape *t = g->t;
    const oz_config *c = &g->n->cfg;
    const int64_t rows = g->B * g->T, flat[2] = {rows, c->width}, shape[2] = {rows, c->experts};
    char name[32];
    x = fv_reshape(t, x, 2, flat);
    fv_t logits =
        fv_linear_as(t, x, r->w0, r->b0, c->router_hidden ? FV_ACT_SILU : FV_ACT_NONE, FV_F32);
    if (c->router_hidden) logits = fv_linear_as(t, logits, r->w2, r->b2, FV_ACT_NONE, FV_F32);
    if (r->noise < 0 || fv_tape_mode(t) != FV_TRAIN) return fv_route_top2(t, logits);
    snprintf(name, sizeof name, "noise.%c%d", part, l);
    const fv_t draw = fv_input(t, name, FV_F32, 2, shape);
    const fv_t raw = fv_linear_as(t, x, r->noise, -1, FV_ACT_SOFTPLUS, FV_F32);
    const fv_t std = fv_affine(t, raw, 1.0f, 0.01f);
    const fv_t noisy = fv_binary_op(t, FV_ADD, logits, fv_binary_op(t, FV_MUL, std, draw));
    const fv_t gate = fv_route_top2(t, noisy);
    const fv_t loss = fv_route_balance(t, logits, noisy, std, gate, g->io->balance, g->io->z);
    g->io->aux = g->io->aux ? fv_binary_op(t, FV_ADD, g->io->aux, loss) : loss;
    return gate;
}

static fv_t time_mix(graph *g, int l, fv_t x)
{
    fv_tape *t = g->t;
    const oz_block *b = &g->n->block[l];
    const int64_t C = g->n->cfg.width, N = FV_WKV_HEAD;
    const int64_t row[2] = {g->B, C}, state[4] = {g->B, C / N, N, N};
    char name[32];
    fv_t prev = 0, next = 0, bonus;
    fv_wkv w = {0};
    if (g->io->carry) {
        snprintf(name, sizeof name, "shift.%d", l);
        prev = fv_input(t, name, FV_F32, 2, row);
        snprintf(name, sizeof name, "state.%d", l);
        w.state = fv_input(t, name, FV_F32, 4, state);
    }
    const fv_t xrg = fv_token_shift(t, x, fv_param(t, b->mix_rg), prev);
    const fv_t xk = fv_token_shift(t, x, fv_param(t, b->mix_k), prev);
    const fv_t xv = fv_token_shift(t, x, fv_param(t, b->mix_v), prev);
    w.r = fv_linear(t, xrg, b->r.w, -1, FV_ACT_NONE);
    w.k = fv_linear(t, xk, b->k.w, -1, FV_ACT_NONE);
    w.v = g->n->cfg.v_moe ? fv_moe(t, xv, route(g, &b->v_router, xv, l, 'v'), -1, b->v.w)
                          : fv_linear(t, xv, b->v.w, -1, FV_ACT_NONE);
    if (l == 0) g->v1 = w.v;
    else w.v = fv_lerp(t, w.v, g->v1, gate_of(g, b->value_mix));
    statics(g, b, &w, &bonus);
    fv_t y = fv_wkv7(t, &w, g->io->carry ? &next : NULL);
    if (g->io->carry) {
        const int64_t lane[2] = {g->B, g->T * C};
        const fv_t flat = fv_reshape(t, fv_detach(t, x), 2, lane);
        snprintf(name, sizeof name, "last.%d", l);
        fv_output(t, name, fv_cast(t, fv_slice(t, flat, (g->T - 1) * C, C), FV_F32));
        snprintf(name, sizeof name, "next.%d", l);
        fv_output(t, name, next);
    }
    y = fv_wkv7_head(t, y, &w, fv_param(t, b->norm_w), fv_param(t, b->norm_b), bonus, 64e-5f);
    y = fv_binary_op(t, FV_MUL, y, fv_activate(t, xrg, FV_ACT_SIGMOID));
    return fv_linear_as(t, y, b->out, -1, FV_ACT_NONE, FV_F32);
}

static fv_t feed_forward(graph *g, int l, fv_t x)
{
    const oz_block *b = &g->n->block[l];
    if (g->n->cfg.ffn_moe)
        return fv_moe(g->t, x, route(g, &b->ffn_router, x, l, 'f'), b->up, b->down);
    const fv_t h = fv_linear(g->t, x, b->up, -1, FV_ACT_RELU);
    return fv_linear_as(g->t, fv_activate(g->t, h, FV_ACT_SQUARE), b->down, -1, FV_ACT_NONE,
                        FV_F32);
}

fv_t oz_forward(fv_tape *t, const oz_net *n, fv_t ids, int64_t B, int64_t T, oz_io *io)
{
    const int64_t seq[3] = {B, T, n->cfg.width}, flat[2] = {B * T, n->cfg.width};
    graph g = {t, n, io, B, T, 0};
    io->aux = 0;
    fv_t x = fv_reshape(t, fv_embed(t, n->embed, ids), 3, seq);
    x = fv_cast(t, norm(&g, x, FV_NORM_RMS, n->norm, -1, 1e-8f), FV_F32);
    const fv_t x0 = x;
    for (int l = 0; l < n->cfg.layers; l++) {
        const oz_block *b = &n->block[l];
        x = fv_mix2(t, x, x0, fv_param(t, b->mix));
        x = fv_gate_residual(
            t, x, time_mix(&g, l, norm(&g, x, FV_NORM_LAYER, b->ln1_w, b->ln1_b, 1e-5f)), 0, 0);
        x = fv_gate_residual(
            t, x, feed_forward(&g, l, norm(&g, x, FV_NORM_LAYER, b->ln2_w, b->ln2_b, 1e-5f)), 0, 0);
    }
    x = fv_reshape(t, norm(&g, x, FV_NORM_RMS, n->norm, -1, 1e-8f), 2, flat);
    if (n->cfg.tree) return x;
    return fv_linear_as(t, x, n->head, -1, FV_ACT_NONE, FV_F32);
}

fv_t oz_loss(fv_tape *t, const oz_net *n, fv_t y, fv_t labels, fv_t paths)
{
    return n->cfg.tree ? fv_loss_tree(t, y, n->head, n->bias, labels, paths)
                       : fv_loss_cross_entropy(t, y, labels);
}
