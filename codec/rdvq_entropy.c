/* rdvq_entropy.c - the entropy model of RDVQ as tape code: a transformer over the tokens of a
 * window in coding order, each of which sees earlier slices only.
 *
 *     h = input(tokens before) ; depth times: h += Wo attn(norm h), h += W2 (silu(W1 n) * W3 n)
 *     logits = head norm(h)
 *
 * Attention is cosine attention on queries and keys turned by their place (rdvq_rope), q times
 * exp(min(scale, ln 100)) per head; the mask is a prefix of the coding order (rdvq_slices.visible).
 *
 * Input of a place, from codes e of unit length:
 *     own        W [paired; coarse] + b + layer code + slice code. paired: the code of the slice
 *                before (rdvq_slices.pair), in the first slice of a layer the coarse one; coarse:
 *                the layer before, interpolated (rdvq_coarse). Zero where there is nothing.
 *     official   start token in slice 0, W paired + b elsewhere
 *
 * Interpolation comes before W, its weights sum to 1.
 *
 * Own names:
 *     entropy.input.{weight,bias}  entropy.layer_code  entropy.slice_code  entropy.norm.weight
 *     entropy.layers.I.{attention_norm,attention.wqkv,attention.wo}.weight  .attention.scale
 *     entropy.layers.I.{ffn_norm,feed_forward.w13,feed_forward.w2}.weight  entropy.output.weight */
#include "rdvq_add.h"

#include <math.h>
#include <string.h>

#define OFFICIAL "quantize.condition_entropy_small."
#define FIRST_SCALE 1.38629436f /* ln 4 */

/* ---- Parameters ------------------------------------------------------------------------------ */

typedef struct full_name { char text[192]; } full_name;

static full_name name_of(const rdvq_adder *a, const char *fmt, va_list ap)
{
    full_name n;
    const int k = snprintf(n.text, sizeof n.text, "%s", a->prefix);
    vsnprintf(n.text + k, sizeof n.text - (size_t)k, fmt, ap);
    return n;
}

static fv_pid add(rdvq_adder *a, const char *name, const char *suffix, const fv_tensor *shape,
                  uint32_t flags)
{
    char full[224];
    snprintf(full, sizeof full, "%s%s", name, suffix);
    return fv_params_add(a->n->params, full, shape->ndim, shape->dim, flags | a->flags);
}

rdvq_conv rdvq_add_conv(rdvq_adder *a, int out, int in, int k, const char *fmt, ...)
{
    const fv_tensor w = { NULL, FV_F32, 4, { out, in, k, k } }, b = { NULL, FV_F32, 1, { out } };
    va_list ap;
    va_start(ap, fmt);
    const full_name n = name_of(a, fmt, ap);
    va_end(ap);
    const rdvq_conv c = { add(a, n.text, ".weight", &w, FV_PARAM_DECAY),
                          add(a, n.text, ".bias", &b, 0) };
    return c;
}

rdvq_conv rdvq_add_norm(rdvq_adder *a, int width, const char *fmt, ...)
{
    const fv_tensor v = { NULL, FV_F32, 1, { width } };
    va_list ap;
    va_start(ap, fmt);
    const full_name n = name_of(a, fmt, ap);
    va_end(ap);
    const rdvq_conv c = { add(a, n.text, ".weight", &v, 0), add(a, n.text, ".bias", &v, 0) };
    return c;
}

fv_pid rdvq_add_matrix(rdvq_adder *a, int out, int in, const char *fmt, ...)
{
    const fv_tensor w = { NULL, FV_F32, 2, { out, in } };
    va_list ap;
    va_start(ap, fmt);
    const full_name n = name_of(a, fmt, ap);
    va_end(ap);
    return add(a, n.text, ".weight", &w, FV_PARAM_DECAY);
}

fv_pid rdvq_add_vector(rdvq_adder *a, int n, uint32_t flags, const char *fmt, ...)
{
    const fv_tensor v = { NULL, FV_F32, 1, { n } };
    va_list ap;
    va_start(ap, fmt);
    const full_name name = name_of(a, fmt, ap);
    va_end(ap);
    return add(a, name.text, "", &v, flags);
}

fv_pid rdvq_add_table(rdvq_adder *a, int rows, int columns, const char *name)
{
    const fv_tensor t = { NULL, FV_F32, 2, { rows, columns } };
    char full[192];
    snprintf(full, sizeof full, "%s%s", a->prefix, name);
    return add(a, full, "", &t, 0);
}

static void add_depth(rdvq_adder *a, int i)
{
    const rdvq_config *c = &a->n->cfg;
    rdvq_depth *l = &a->n->depth[i];
    char base[96];
    snprintf(base, sizeof base, "%s.layers.%d", c->is_official ? OFFICIAL "transformer" : "entropy",
             i);
    l->norm1 = rdvq_add_vector(a, c->width, 0, "%s.attention_norm.weight", base);
    l->qkv = rdvq_add_matrix(a, 3 * c->width, c->width, "%s.attention.wqkv", base);
    l->wo = rdvq_add_matrix(a, c->width, c->width, "%s.attention.wo", base);
    l->norm2 = rdvq_add_vector(a, c->width, 0, "%s.ffn_norm.weight", base);
    if (c->is_official) {
        const fv_tensor scale = { NULL, FV_F32, 4, { 1, c->heads, 1, 1 } };
        char full[224];
        snprintf(full, sizeof full, "%s%s.attention.scale_mul_1H11", a->prefix, base);
        l->scale = add(a, full, "", &scale, 0);
        l->w1 = rdvq_add_matrix(a, c->ffn, c->width, "%s.feed_forward.w1", base);
        l->w3 = rdvq_add_matrix(a, c->ffn, c->width, "%s.feed_forward.w3", base);
    } else {
        l->scale = rdvq_add_vector(a, c->heads, 0, "%s.attention.scale", base);
        l->w1 = rdvq_add_matrix(a, 2 * c->ffn, c->width, "%s.feed_forward.w13", base);
    }
    l->w2 = rdvq_add_matrix(a, c->width, c->ffn, "%s.feed_forward.w2", base);
}

void rdvq_entropy_add(rdvq_adder *a)
{
    rdvq_net *n = a->n;
    const rdvq_config *c = &n->cfg;
    const char *base = c->is_official ? OFFICIAL "transformer" : "entropy";
    const fv_tensor start = { NULL, FV_F32, 3, { 1, 1, c->width } };
    char full[192];
    if (c->is_official) {
        snprintf(full, sizeof full, "%s" OFFICIAL "start_token", a->prefix);
        n->start = add(a, full, "", &start, 0);
        n->input.w = rdvq_add_matrix(a, c->width, c->code_width, OFFICIAL "input_proj");
        n->input.b = rdvq_add_vector(a, c->width, 0, OFFICIAL "input_proj.bias");
    } else {
        n->input.w = rdvq_add_matrix(a, c->width, 2 * c->code_width, "entropy.input");
        n->input.b = rdvq_add_vector(a, c->width, 0, "entropy.input.bias");
        n->layer_code = rdvq_add_table(a, n->slices.layers, c->width, "entropy.layer_code");
        n->slice_code = rdvq_add_table(a, n->slices.slices, c->width, "entropy.slice_code");
    }
    for (int i = 0; i < c->depth; i++) add_depth(a, i);
    n->norm = rdvq_add_vector(a, c->width, 0, "%s.norm.weight", base);
    n->head = rdvq_add_matrix(a, c->codes, c->width, "%s.output", base);
}

/* Fan-in scaling is done; what writes to the stream starts small, and the head at zero: at first
 * all codes are equally likely. */
void rdvq_entropy_init(rdvq_net *n, uint64_t seed)
{
    const rdvq_config *c = &n->cfg;
    const float small = 0.5f / sqrtf((float)c->depth);
    for (int i = 0; i < c->depth; i++) {
        const rdvq_depth *l = &n->depth[i];
        fv_params_fill(n->params, l->scale, FIRST_SCALE);
        fv_params_init_normal(n->params, l->wo, seed, small / sqrtf((float)c->width));
        fv_params_init_normal(n->params, l->w2, seed, small / sqrtf((float)c->ffn));
    }
    if (n->start >= 0) fv_params_init_normal(n->params, n->start, seed, 0.02f);
    if (n->layer_code >= 0) fv_params_init_normal(n->params, n->layer_code, seed, 0.5f);
    if (n->slice_code >= 0) fv_params_init_normal(n->params, n->slice_code, seed, 0.5f);
    fv_params_fill(n->params, n->head, 0.0f);
}

/* ---- Tables ---------------------------------------------------------------------------------- */

static void fill_taps(const rdvq_slices *s, int place, rdvq_tables *t)
{
    const int p = s->list[place];
    int from[RDVQ_TAPS], tap[RDVQ_TAPS];
    int32_t *pair = t->pair + place * RDVQ_TAPS, *coarse = t->coarse + place * RDVQ_TAPS;
    float *pair_weight = t->pair_weight + place * RDVQ_TAPS;
    float *coarse_weight = t->coarse_weight + place * RDVQ_TAPS;
    rdvq_coarse(s, p, from, tap);
    for (int k = 0; k < RDVQ_TAPS; k++) {
        coarse[k] = from[k];
        coarse_weight[k] = (float)tap[k] / 65536.0f;
        pair[k] = s->pair[p] >= 0 ? (k ? -1 : s->pair[p]) : from[k];
        pair_weight[k] = s->pair[p] >= 0 ? (k ? 0.0f : 1.0f) : coarse_weight[k];
    }
}

fv_status rdvq_tables_create(fv_ctx *ctx, rdvq_tables *t, const rdvq_net *n)
{
    const rdvq_slices *s = &n->slices;
    const size_t T = (size_t)s->tokens, d = (size_t)n->cfg.width;
    const size_t head = d / (size_t)n->cfg.heads;
    memset(t, 0, sizeof *t);
    int32_t **const whole[] = { &t->visible, &t->order, &t->layer, &t->slice, &t->pair,
                                &t->coarse };
    for (size_t i = 0; i < FV_ARRAY_LEN(whole); i++)
        *whole[i] = fv_calloc(ctx, T * (i < 4 ? 1 : RDVQ_TAPS), sizeof(int32_t));
    t->one = fv_calloc(ctx, T, sizeof(float));
    t->pair_weight = fv_calloc(ctx, T * RDVQ_TAPS, sizeof(float));
    t->coarse_weight = fv_calloc(ctx, T * RDVQ_TAPS, sizeof(float));
    t->rope = fv_calloc(ctx, T * head, sizeof(float));
    t->start_rows = fv_calloc(ctx, n->cfg.is_official ? T * d : 1, sizeof(float));
    if (!t->visible || !t->order || !t->layer || !t->slice || !t->pair || !t->coarse || !t->one ||
        !t->pair_weight || !t->coarse_weight || !t->rope || !t->start_rows) {
        rdvq_tables_free(ctx, t);
        return FV_ERR_OOM;
    }
    for (int i = 0; i < s->tokens; i++) {
        const int p = s->list[i];
        t->order[i] = p;
        t->one[i] = 1.0f;
        t->slice[i] = s->slice_of[p];
        t->visible[i] = s->visible[s->slice_of[p]];
        t->layer[i] = rdvq_layer_of(s, p);
        fill_taps(s, i, t);
    }
    for (size_t i = 0; n->cfg.is_official && i < (size_t)s->first[1] * d; i++)
        t->start_rows[i] = 1.0f;
    rdvq_rope(&n->cfg, s, t->rope);
    return FV_OK;
}

void rdvq_tables_free(fv_ctx *ctx, rdvq_tables *t)
{
    void *all[] = { t->visible, t->order, t->pair, t->coarse, t->layer, t->slice, t->one,
                    t->pair_weight, t->coarse_weight, t->rope, t->start_rows };
    for (size_t i = 0; i < FV_ARRAY_LEN(all); i++) fv_free(ctx, all[i]);
    memset(t, 0, sizeof *t);
}

fv_status rdvq_tables_bind(const rdvq_tables *t, fv_plan *p)
{
    const struct { const char *name; void *data; } all[] = {
        { "rdvq.visible", t->visible }, { "rdvq.order", t->order }, { "rdvq.one", t->one },
        { "rdvq.pair", t->pair }, { "rdvq.pair_weight", t->pair_weight },
        { "rdvq.coarse", t->coarse }, { "rdvq.coarse_weight", t->coarse_weight },
        { "rdvq.layer", t->layer }, { "rdvq.slice", t->slice }, { "rdvq.rope", t->rope },
        { "rdvq.start_rows", t->start_rows },
    };
    for (size_t i = 0; i < FV_ARRAY_LEN(all); i++) {
        const fv_status s = fv_plan_feed(p, all[i].name, all[i].data);
        if (s != FV_OK && s != FV_ERR_UNKNOWN) return s; /* a tape reads some of them */
    }
    return FV_OK;
}

/* ---- The transformer ------------------------------------------------------------------------- */

static fv_t table(fv_tape *t, const char *name, fv_dtype type, int64_t rows, int64_t columns)
{
    const int64_t dim[2] = { rows, columns };
    return fv_input(t, name, type, columns ? 2 : 1, dim);
}

static fv_t own_input(fv_tape *t, const rdvq_net *n, fv_t q)
{
    const int64_t T = n->slices.tokens;
    const fv_t pair = fv_mix_rows(t, q, table(t, "rdvq.pair", FV_I32, T, RDVQ_TAPS),
                                  table(t, "rdvq.pair_weight", FV_F32, T, RDVQ_TAPS));
    const fv_t coarse = fv_mix_rows(t, q, table(t, "rdvq.coarse", FV_I32, T, RDVQ_TAPS),
                                    table(t, "rdvq.coarse_weight", FV_F32, T, RDVQ_TAPS));
    const fv_t place = fv_binary_op(
        t, FV_ADD, fv_embed(t, n->layer_code, table(t, "rdvq.layer", FV_I32, T, 0)),
        fv_embed(t, n->slice_code, table(t, "rdvq.slice", FV_I32, T, 0)));
    const fv_t h = fv_linear_as(t, fv_concat(t, pair, coarse, 2), n->input.w, n->input.b,
                                FV_ACT_NONE, FV_F32);
    return fv_binary_op(t, FV_ADD, h, place);
}

/* Slice 0 must not get the bias of the projection: codes are projected first here. */
static fv_t official_input(fv_tape *t, const rdvq_net *n, fv_t q)
{
    const int64_t T = n->slices.tokens, d = n->cfg.width;
    const fv_t e = fv_linear_as(t, q, n->input.w, n->input.b, FV_ACT_NONE, FV_F32);
    const fv_t pair = fv_mix_rows(t, e, table(t, "rdvq.pair", FV_I32, T, RDVQ_TAPS),
                                  table(t, "rdvq.pair_weight", FV_F32, T, RDVQ_TAPS));
    const fv_t start = fv_binary_op(t, FV_MUL, table(t, "rdvq.start_rows", FV_F32, T, d),
                                    fv_reshape(t, fv_param(t, n->start), 1, &d));
    return fv_binary_op(t, FV_ADD, pair, start);
}

static fv_t rms(fv_tape *t, fv_t h, fv_pid weight)
{
    const fv_norm o = { FV_NORM_RMS, RDVQ_NORM_EPS, fv_param(t, weight), 0, 0, -1, -1 };
    return fv_norm_modulate(t, h, o);
}

static fv_t attention(fv_tape *t, const rdvq_net *n, const rdvq_depth *l, fv_t h,
                      const fv_t rope_visible[2])
{
    const fv_tensor s = fv_tape_tensor(t, h);
    const int64_t dim[5] = { s.dim[0], s.dim[1], 3, n->cfg.heads, n->cfg.width / n->cfg.heads };
    fv_t q = fv_linear(t, rms(t, h, l->norm1), l->qkv, -1, FV_ACT_NONE);
    q = fv_rope_pairs(t, fv_reshape(t, q, 5, dim), rope_visible[0]);
    q = fv_unit_qk(t, q, fv_param(t, l->scale), RDVQ_UNIT_EPS, (float)RDVQ_MAX_SCALE_MUL);
    const fv_t o = fv_sdpa_prefix(t, q, 1.0f, rope_visible[1]);
    return fv_gate_residual(t, h, fv_linear(t, o, l->wo, -1, FV_ACT_NONE), 0, 0);
}

static fv_t mlp(fv_tape *t, const rdvq_depth *l, fv_t h)
{
    const fv_t u = rms(t, h, l->norm2);
    fv_t m;
    if (l->w3 < 0)
        m = fv_swiglu(t, fv_linear(t, u, l->w1, -1, FV_ACT_NONE));
    else
        m = fv_binary_op(t, FV_MUL, fv_linear(t, u, l->w1, -1, FV_ACT_SILU),
                         fv_linear(t, u, l->w3, -1, FV_ACT_NONE));
    return fv_gate_residual(t, h, fv_linear(t, m, l->w2, -1, FV_ACT_NONE), 0, 0);
}

fv_t rdvq_logits(fv_tape *t, const rdvq_net *n, fv_t q)
{
    const rdvq_config *c = &n->cfg;
    const int64_t T = n->slices.tokens, rope[3] = { T, 2, c->width / c->heads / 2 };
    const fv_t tables[2] = { fv_input(t, "rdvq.rope", FV_F32, 3, rope),
                             table(t, "rdvq.visible", FV_I32, T, 0) };
    fv_t h = c->is_official ? official_input(t, n, q) : own_input(t, n, q);
    for (int i = 0; i < c->depth; i++)
        h = mlp(t, &n->depth[i], attention(t, n, &n->depth[i], h, tables));
    h = rms(t, h, n->norm);
    const fv_tensor s = fv_tape_tensor(t, h);
    const int64_t rows[2] = { s.dim[0] * s.dim[1], s.dim[2] };
    return fv_linear_as(t, fv_reshape(t, h, 2, rows), n->head, -1, FV_ACT_NONE, FV_F32);
}

fv_t rdvq_in_order(fv_tape *t, const rdvq_net *n, fv_t rows)
{
    const int64_t T = n->slices.tokens;
    return fv_mix_rows(t, rows, table(t, "rdvq.order", FV_I32, T, 1),
                       table(t, "rdvq.one", FV_F32, T, 1));
}
