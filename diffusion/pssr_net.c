/* pssr_net.c - base and draft network of pssr.h as tape code.
 *
 *     HALF.stem.{weight,bias}  draft.stem_state.weight  HALF.time.{0,1,mod}.*  HALF.head.*
 *     HALF.head_table  HALF.blocks.I.{table,conv.*,qkv.*,out.*,q_norm,k_norm,up.*,down.*}
 *     draft.blocks.J.{feature.*,stream.weight}
 *
 * where HALF is base or draft. Convolutions are padded with zeros, the middle of the range of
 * pictures; windows repeat the map's edge. */
#include "pssr.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

static const pssr_layer none = { -1, -1 };

/* ---- Parameters ------------------------------------------------------------------------------ */

typedef struct adder {
    fv_params *params;
    const char *prefix, *half;
    uint32_t flags, feature_flags; /* of all, of the features' weights */
} adder;

static fv_pid add(const adder *a, const char *name, int ndim, const int64_t *dim, uint32_t flags)
{
    char full[160];
    snprintf(full, sizeof full, "%s%s.%s", a->prefix, a->half, name);
    return fv_params_add(a->params, full, ndim, dim, flags | a->flags);
}

/* NAME.weight and, unless has_bias is 0, NAME.bias. kernel 0: a matrix. */
static pssr_layer add_layer(const adder *a, const char *name, int64_t out, int64_t in, int kernel,
                            bool has_bias)
{
    const int64_t dim[4] = { out, in, kernel, kernel };
    char full[96];
    pssr_layer l = none;
    snprintf(full, sizeof full, "%s.weight", name);
    l.w = add(a, full, kernel ? 4 : 2, dim, FV_PARAM_DECAY);
    snprintf(full, sizeof full, "%s.bias", name);
    if (has_bias) l.b = add(a, full, 1, dim, 0);
    return l;
}

static void add_block(const adder *a, pssr_block *b, int index, int64_t C, bool is_draft)
{
    char name[64];
    const int64_t table[2] = { 6, C };
#define NAME(text) (snprintf(name, sizeof name, "blocks.%d." text, index), name)
    b->table = add(a, NAME("table"), 2, table, 0);
    if (pssr_attends(b->origin)) {
        b->qkv = add_layer(a, NAME("qkv"), 3 * C, C, 0, true);
        b->out = add_layer(a, NAME("out"), C, C, 0, true);
        b->q_norm = add(a, NAME("q_norm"), 1, &C, 0);
        b->k_norm = add(a, NAME("k_norm"), 1, &C, 0);
    } else {
        b->conv = add_layer(a, NAME("conv"), C, C, 3, true);
    }
    b->up = add_layer(a, NAME("up"), 2 * C, C, 0, true);
    b->down = add_layer(a, NAME("down"), C, 2 * C, 0, true);
    if (!is_draft) return;
    adder feature = *a;
    feature.flags |= a->feature_flags;
    b->feature = add_layer(&feature, NAME("feature"), C, C, 0, true);
    b->stream = add_layer(a, NAME("stream"), C, C, 0, false).w;
#undef NAME
}

static void add_half(const adder *a, pssr_half *h, const pssr_config *c, bool is_draft)
{
    const int64_t C = c->channels, head[2] = { 2, C };
    h->blocks = is_draft ? pssr_draft_blocks(c) : c->blocks;
    h->stem = add_layer(a, "stem", C, PSSR_STATE, 3, true);
    if (is_draft) h->stem_state = add_layer(a, "stem_state", C, PSSR_STATE, 3, false).w;
    h->time0 = add_layer(a, "time.0", C, PSSR_SINUSOIDS, 0, true);
    h->time1 = add_layer(a, "time.1", C, C, 0, true);
    h->time_mod = add_layer(a, "time.mod", 6 * C, C, 0, true);
    for (int i = 0; i < h->blocks; i++) {
        h->block[i].origin = is_draft ? pssr_kept_block(c, i) : i;
        add_block(a, &h->block[i], i, C, is_draft);
    }
    h->head_table = add(a, "head_table", 2, head, 0);
    h->head = add_layer(a, "head", PSSR_STATE, C, 3, true);
}

void pssr_net_add(pssr_net *n, fv_params *params, const pssr_config *c, const char *prefix,
                  unsigned parts, unsigned frozen)
{
    memset(n, 0xff, sizeof *n); /* every id -1 */
    n->cfg = *c;
    n->params = params;
    n->base.blocks = n->draft.blocks = 0;
    for (int k = 0; k < 2; k++) {
        const unsigned part = k ? PSSR_DRAFT : PSSR_BASE;
        const adder a = { params, prefix, k ? "draft" : "base",
                          frozen & part ? FV_PARAM_FROZEN : 0,
                          frozen & PSSR_FEATURES ? FV_PARAM_FROZEN : 0 };
        if (parts & part) add_half(&a, k ? &n->draft : &n->base, c, k != 0);
    }
}

/* ---- Start of a training --------------------------------------------------------------------- */

static void start_layer(fv_params *p, pssr_layer l, uint64_t seed, double gain)
{
    const fv_tensor w = fv_params_tensor(p, l.w);
    const double fan_in = (double)(fv_tensor_count(&w) / w.dim[0]);
    fv_params_init_normal(p, l.w, seed, (float)(gain / sqrt(fan_in)));
    if (l.b >= 0) fv_params_fill(p, l.b, 0.0f);
}

static void start_block(fv_params *p, const pssr_block *b, uint64_t seed)
{
    const fv_tensor table = fv_params_tensor(p, b->table);
    const int64_t C = table.dim[1];
    float *row = table.data;
    for (int64_t i = 0; i < 6 * C; i++) row[i] = i / C == 2 || i / C == 5 ? PSSR_GATE : 0.0f;
    if (b->conv.w >= 0) start_layer(p, b->conv, seed, 1.0);
    if (b->qkv.w >= 0) {
        start_layer(p, b->qkv, seed, 1.0);
        start_layer(p, b->out, seed, 1.0);
        fv_params_fill(p, b->q_norm, 1.0f);
        fv_params_fill(p, b->k_norm, 1.0f);
    }
    start_layer(p, b->up, seed, 1.4142136);
    start_layer(p, b->down, seed, 1.0);
}

/* W = on_diagonal I */
static void start_mix(fv_params *p, fv_pid w, float on_diagonal)
{
    const fv_tensor t = fv_params_tensor(p, w);
    float *v = t.data;
    for (int64_t i = 0; i < t.dim[0] * t.dim[1]; i++)
        v[i] = i / t.dim[1] == i % t.dim[1] ? on_diagonal : 0.0f;
}

static void start_fusion(fv_params *p, fv_pid w) { start_mix(p, w, 0.5f); }

static void start_half(fv_params *p, const pssr_half *h, uint64_t seed)
{
    start_layer(p, h->stem, seed, 1.0);
    if (h->stem_state >= 0) start_layer(p, (pssr_layer){ h->stem_state, -1 }, seed, 1.0);
    start_layer(p, h->time0, seed, 1.0);
    start_layer(p, h->time1, seed, 0.1);
    start_layer(p, h->time_mod, seed, 0.0);
    for (int i = 0; i < h->blocks; i++) {
        start_block(p, &h->block[i], seed);
        if (h->block[i].stream < 0) continue;
        start_fusion(p, h->block[i].feature.w);
        start_fusion(p, h->block[i].stream);
        fv_params_fill(p, h->block[i].feature.b, 0.0f);
    }
    fv_params_fill(p, h->head_table, 0.0f);
    start_layer(p, h->head, seed, 0.0);
}

void pssr_net_init(pssr_net *n, uint64_t seed)
{
    if (n->base.blocks) start_half(n->params, &n->base, seed);
    if (n->draft.blocks) start_half(n->params, &n->draft, seed);
    fv_params_touch(n->params);
}

/* to = factor * from; ids that are not there are passed over. */
static void copy_values(fv_params *p, fv_pid to, fv_pid from, float factor)
{
    if (to < 0 || from < 0) return;
    const fv_tensor d = fv_params_tensor(p, to), s = fv_params_tensor(p, from);
    for (int64_t i = 0; i < fv_tensor_count(&d); i++)
        ((float *)d.data)[i] = factor * ((const float *)s.data)[i];
}

static void copy_layer(fv_params *p, pssr_layer to, pssr_layer from)
{
    copy_values(p, to.w, from.w, 1.0f);
    copy_values(p, to.b, from.b, 1.0f);
}

void pssr_draft_init(pssr_net *n)
{
    fv_params *p = n->params;
    const pssr_half *b = &n->base, *d = &n->draft;
    copy_layer(p, d->stem, b->stem);
    copy_values(p, d->stem.w, b->stem.w, 0.5f);
    copy_values(p, d->stem_state, b->stem.w, 0.5f);
    copy_layer(p, d->time0, b->time0);
    copy_layer(p, d->time1, b->time1);
    copy_layer(p, d->time_mod, b->time_mod);
    for (int j = 0; j < d->blocks; j++) {
        const pssr_block *to = &d->block[j], *from = &b->block[to->origin];
        copy_values(p, to->table, from->table, 1.0f);
        copy_layer(p, to->conv, from->conv);
        copy_layer(p, to->qkv, from->qkv);
        copy_layer(p, to->out, from->out);
        copy_values(p, to->q_norm, from->q_norm, 1.0f);
        copy_values(p, to->k_norm, from->k_norm, 1.0f);
        copy_layer(p, to->up, from->up);
        copy_layer(p, to->down, from->down);
        start_fusion(p, to->feature.w);
        start_fusion(p, to->stream);
        fv_params_fill(p, to->feature.b, 0.0f);
    }
    copy_values(p, d->head_table, b->head_table, 1.0f);
    copy_layer(p, d->head, b->head);
    fv_params_touch(p);
}

void pssr_draft_alone(pssr_net *n, bool is_new)
{
    for (int j = 0; j < n->draft.blocks; j++) {
        const pssr_block *b = &n->draft.block[j];
        start_mix(n->params, b->feature.w, 0.0f);
        if (is_new) start_mix(n->params, b->stream, 1.0f);
        fv_params_fill(n->params, b->feature.b, 0.0f);
    }
    fv_params_touch(n->params);
}

int64_t pssr_count(const pssr_net *n, unsigned part)
{
    const pssr_half *h = part == PSSR_BASE ? &n->base : &n->draft;
    int64_t sum = 0;
    if (!h->blocks) return 0;
    for (fv_pid id = h->stem.w; id <= h->head.b; id++) { /* added in a row */
        const fv_tensor t = fv_params_tensor(n->params, id);
        sum += fv_tensor_count(&t);
    }
    return sum;
}

/* ---- Tables ---------------------------------------------------------------------------------- */

static void fill_time(float *row, float s)
{
    const int n = PSSR_SINUSOIDS / 2;
    for (int j = 0; j < n; j++) {
        const double angle = 1000.0 * (double)s * pow(10000.0, -(double)j / n);
        row[j] = (float)cos(angle);
        row[n + j] = (float)sin(angle);
    }
}

/* n floats for the device of ctx, from a copy on the host. */
static fv_status upload(fv_ctx *ctx, const float *host, size_t n, float **out)
{
    *out = fv_dev_alloc(ctx, n, sizeof(float));
    return *out ? fv_dev_copy(ctx, *out, host, n * sizeof(float), FV_COPY_TO_DEVICE) : FV_ERR_OOM;
}

static fv_status upload_tables(fv_ctx *ctx, pssr_tables *out, const pssr_config *c, int64_t B,
                               float *host)
{
    fv_rope_table(PSSR_WINDOW, PSSR_WINDOW, PSSR_HEAD, 10000.0, host);
    FV_TRY(upload(ctx, host, PSSR_WINDOW * PSSR_WINDOW * PSSR_HEAD, &out->rope));
    for (int k = 0; k < c->times; k++) {
        for (int64_t b = 0; b < B; b++) fill_time(host + b * PSSR_SINUSOIDS, c->time[k]);
        FV_TRY(upload(ctx, host, (size_t)B * PSSR_SINUSOIDS, &out->time[k]));
    }
    return FV_OK;
}

fv_status pssr_tables_create(fv_ctx *ctx, pssr_tables *out, const pssr_config *c, int64_t B)
{
    const int64_t rope = PSSR_WINDOW * PSSR_WINDOW * PSSR_HEAD, time = B * PSSR_SINUSOIDS;
    memset(out, 0, sizeof *out);
    out->times = c->times;
    float *host = fv_calloc(ctx, (size_t)(rope > time ? rope : time), sizeof *host);
    const fv_status s = host ? upload_tables(ctx, out, c, B, host) : FV_ERR_OOM;
    fv_free(ctx, host);
    if (s != FV_OK) pssr_tables_free(ctx, out);
    return s;
}

void pssr_tables_free(fv_ctx *ctx, pssr_tables *t)
{
    fv_dev_free(ctx, t->rope);
    for (int k = 0; k < PSSR_MAX_TIMES; k++) fv_dev_free(ctx, t->time[k]);
    memset(t, 0, sizeof *t);
}

fv_status pssr_tables_bind(const pssr_tables *tables, fv_plan *p)
{
    FV_TRY(fv_plan_bind(p, "pssr.rope", tables->rope));
    for (int k = 0; k < tables->times; k++) {
        char name[32];
        snprintf(name, sizeof name, "pssr.time.%d", k);
        const fv_status s = fv_plan_bind(p, name, tables->time[k]);
        if (s == FV_ERR_UNKNOWN) break; /* fewer steps */
        if (s != FV_OK) return s;
    }
    return FV_OK;
}

/* ---- The graph ------------------------------------------------------------------------------- */

static fv_t dense(fv_tape *t, fv_t x, pssr_layer l, fv_act act, fv_dtype type)
{
    return fv_linear_as(t, x, l.w, l.b, act, type);
}

static fv_t conv3(fv_tape *t, fv_t x, pssr_layer l, fv_dtype type)
{
    const fv_conv c = { 1, 1, 1, 1, 1, FV_ACT_NONE };
    return fv_conv2d_as(t, x, l.w, l.b, c, type);
}

void pssr_graph_begin(pssr_graph *g, fv_tape *t, const pssr_net *n, int64_t B, int drafts)
{
    const int64_t rope[3] = { PSSR_WINDOW * PSSR_WINDOW, 2, PSSR_HEAD / 2 };
    const int64_t time[2] = { B, PSSR_SINUSOIDS };
    *g = (pssr_graph){ .tape = t, .net = n, .B = B };
    g->rope = fv_input(t, "pssr.rope", FV_F32, 3, rope);
    for (int k = 0; k <= drafts && k < n->cfg.times; k++) {
        const pssr_half *h = k ? &n->draft : &n->base;
        char name[32];
        snprintf(name, sizeof name, "pssr.time.%d", k);
        const fv_t e = dense(t, fv_input(t, name, FV_F32, 2, time), h->time0, FV_ACT_SILU, FV_F32);
        g->time[k] = dense(t, e, h->time1, FV_ACT_NONE, FV_F32);
        g->mod[k] = dense(t, fv_activate(t, g->time[k], FV_ACT_SILU), h->time_mod, FV_ACT_NONE,
                          FV_F32);
    }
}

fv_t pssr_unshuffle(fv_tape *t, fv_t x)
{
    const fv_tensor s = fv_tape_tensor(t, x);
    const int64_t dim[4] = { s.dim[0], s.dim[1] / PSSR_PATCH, s.dim[2] / PSSR_PATCH, PSSR_STATE };
    return fv_reshape(t, fv_patchify(t, x, PSSR_PATCH, 0), 4, dim);
}

fv_t pssr_shuffle(fv_tape *t, fv_t z)
{
    const fv_tensor s = fv_tape_tensor(t, z);
    const int64_t dim[3] = { s.dim[0], s.dim[1] * s.dim[2], PSSR_STATE };
    return fv_unpatchify(t, fv_reshape(t, z, 3, dim), (int)s.dim[1] * PSSR_PATCH,
                         (int)s.dim[2] * PSSR_PATCH, PSSR_PATCH, 0);
}

/* ---- Blocks ---------------------------------------------------------------------------------- */

/* B, h, w, C of the stream */
typedef struct map { int64_t dim[4]; } map;

static fv_t as_map(fv_tape *t, fv_t x, const map *m, int64_t C)
{
    const int64_t dim[4] = { m->dim[0], m->dim[1], m->dim[2], C };
    return fv_reshape(t, x, 4, dim);
}

static fv_t as_rows(fv_tape *t, fv_t x, const map *m, int64_t C)
{
    const int64_t dim[3] = { m->dim[0], m->dim[1] * m->dim[2], C };
    return fv_reshape(t, x, 3, dim);
}

static fv_t modulate(fv_tape *t, fv_t x, fv_t mod, int shift)
{
    const fv_norm n = { FV_NORM_LAYER, PSSR_EPS, 0, 0, mod, shift, shift + 1 };
    return fv_norm_modulate(t, x, n);
}

static fv_t attention(const pssr_graph *g, const pssr_block *b, fv_t u, const map *m)
{
    fv_tape *t = g->tape;
    const fv_dtype type = fv_tape_precision(t);
    const int64_t C = m->dim[3];
    const int shift = pssr_window_shift(b->origin);
    fv_t q = as_map(t, dense(t, u, b->qkv, FV_ACT_NONE, type), m, 3 * C);
    q = fv_windows(t, q, PSSR_WINDOW, shift);
    const int64_t heads[5] = { fv_tape_tensor(t, q).dim[0], PSSR_WINDOW * PSSR_WINDOW, 3,
                               C / PSSR_HEAD, PSSR_HEAD };
    q = fv_qk_norm_rope(t, fv_reshape(t, q, 5, heads), fv_param(t, b->q_norm),
                        fv_param(t, b->k_norm), PSSR_EPS, g->rope);
    const fv_t o = fv_unwindows(t, fv_sdpa(t, q, 0.0f, 0), (int)m->dim[1], (int)m->dim[2],
                                PSSR_WINDOW, shift);
    return dense(t, as_rows(t, o, m, C), b->out, FV_ACT_NONE, type);
}

/* take past + (1 - take) own: with 0 and 1 either of them, to the bit. */
static fv_t choose(fv_tape *t, fv_t past, fv_t own, fv_t take)
{
    return fv_binary_op(t, FV_ADD, fv_binary_op(t, FV_MUL, past, take),
                        fv_binary_op(t, FV_MUL, own, fv_affine(t, take, -1.0f, 1.0f)));
}

/* Channels of the frame before in front of those that stay; u [B, h*w, C]. */
static fv_t shift_in(fv_tape *t, fv_t u, pssr_shift *s, int index, const map *m)
{
    const int64_t C = m->dim[3], moved = C / 8;
    fv_t past = s->past[index];
    const fv_t own = fv_cast(t, fv_slice(t, as_map(t, u, m, C), 0, moved), FV_F32);
    s->next[index] = own;
    if (!past) return u;
    if (s->take) past = choose(t, past, own, s->take);
    const fv_t front = as_rows(t, fv_cast(t, past, fv_tape_tensor(t, u).dtype), m, moved);
    return fv_concat(t, front, fv_slice(t, u, moved, C - moved), 2);
}

static fv_t block(const pssr_graph *g, const pssr_block *b, int index, int step, fv_t x,
                  pssr_shift *shift, const map *m)
{
    fv_tape *t = g->tape;
    const fv_dtype type = fv_tape_precision(t);
    const int64_t C = m->dim[3], flat[1] = { 6 * C };
    const fv_t mod =
        fv_binary_op(t, FV_ADD, g->mod[step], fv_reshape(t, fv_param(t, b->table), 1, flat));
    fv_t u = modulate(t, x, mod, 0);
    if (shift) u = shift_in(t, u, shift, index, m);
    if (b->conv.w >= 0)
        u = as_rows(t, conv3(t, as_map(t, u, m, C), b->conv, type), m, C);
    else u = attention(g, b, u, m);
    x = fv_gate_residual(t, x, u, mod, 2);
    u = dense(t, modulate(t, x, mod, 3), b->up, FV_ACT_GELU_TANH, type);
    return fv_gate_residual(t, x, dense(t, u, b->down, FV_ACT_NONE, type), mod, 5);
}

static fv_t head(const pssr_graph *g, const pssr_half *h, int step, fv_t x, const map *m)
{
    fv_tape *t = g->tape;
    const int64_t flat[1] = { 2 * m->dim[3] };
    const fv_t twice = fv_concat(t, g->time[step], g->time[step], 1);
    const fv_t mod =
        fv_binary_op(t, FV_ADD, twice, fv_reshape(t, fv_param(t, h->head_table), 1, flat));
    const fv_t u = as_map(t, modulate(t, x, mod, 0), m, m->dim[3]);
    return conv3(t, u, h->head, FV_F32);
}

static map map_of(const pssr_graph *g, fv_t z)
{
    const fv_tensor s = fv_tape_tensor(g->tape, z);
    const map m = { { s.dim[0], s.dim[1], s.dim[2], g->net->cfg.channels } };
    return m;
}

fv_t pssr_base(pssr_graph *g, fv_t z_lq, fv_t *features, pssr_shift *shift)
{
    const pssr_half *h = &g->net->base;
    const map m = map_of(g, z_lq);
    fv_t x = as_rows(g->tape, conv3(g->tape, z_lq, h->stem, FV_F32), &m, m.dim[3]);
    for (int i = 0; i < h->blocks; i++) {
        const int j = i / g->net->cfg.every;
        if (features && i == pssr_kept_block(&g->net->cfg, j)) features[j] = x;
        x = block(g, &h->block[i], i, 0, x, shift, &m);
    }
    return head(g, h, 0, x, &m);
}

void pssr_draft_once(pssr_graph *g, fv_t z_lq, const fv_t *features, pssr_once *out)
{
    fv_tape *t = g->tape;
    const pssr_half *h = &g->net->draft;
    memset(out, 0, sizeof *out);
    out->stem = conv3(t, z_lq, h->stem, FV_F32);
    for (int j = 0; j < h->blocks; j++)
        out->fused[j] = dense(t, fv_detach(t, features[j]), h->block[j].feature, FV_ACT_NONE,
                              FV_F32);
}

fv_t pssr_draft(pssr_graph *g, int step, fv_t state, const pssr_once *once, pssr_shift *shift)
{
    fv_tape *t = g->tape;
    const pssr_half *h = &g->net->draft;
    const map m = map_of(g, state);
    const pssr_layer stem = { h->stem_state, -1 };
    fv_t x = fv_binary_op(t, FV_ADD, conv3(t, state, stem, FV_F32), once->stem);
    x = as_rows(t, x, &m, m.dim[3]);
    for (int j = 0; j < h->blocks; j++) {
        const pssr_layer stream = { h->block[j].stream, -1 };
        x = dense(t, x, stream, FV_ACT_NONE, FV_F32);
        x = fv_binary_op(t, FV_ADD, x, once->fused[j]);
        x = block(g, &h->block[j], j, step, x, shift, &m);
    }
    return head(g, h, step, x, &m);
}

/* ---- The flow -------------------------------------------------------------------------------- */

fv_t pssr_estimate(pssr_graph *g, int step, fv_t state, fv_t v)
{
    const float s = g->net->cfg.time[step];
    return fv_binary_op(g->tape, FV_SUB, state, s == 1 ? v : fv_affine(g->tape, v, s, 0.0f));
}

fv_t pssr_advance(pssr_graph *g, int step, fv_t state, fv_t v)
{
    const float *s = g->net->cfg.time;
    return fv_binary_op(g->tape, FV_SUB, state,
                        fv_affine(g->tape, v, s[step] - s[step + 1], 0.0f));
}

void pssr_refine(pssr_graph *g, fv_t z_lq, int drafts, fv_t *zhat, pssr_shift *shift)
{
    fv_t features[PSSR_MAX_BLOCKS], state = z_lq;
    fv_t v = pssr_base(g, z_lq, drafts ? features : NULL, shift);
    pssr_once once;
    zhat[0] = pssr_estimate(g, 0, state, v);
    if (drafts) pssr_draft_once(g, z_lq, features, &once);
    for (int k = 1; k <= drafts; k++) {
        state = pssr_advance(g, k - 1, state, v);
        v = pssr_draft(g, k, state, &once, shift ? &shift[k] : NULL);
        zhat[k] = pssr_estimate(g, k, state, v);
    }
}

void pssr_refine_clip(pssr_graph *g, const fv_t *z_lq, int frames, int drafts, fv_t *zhat)
{
    pssr_shift shift[PSSR_MAX_TIMES];
    memset(shift, 0, sizeof shift);
    for (int t = 0; t < frames; t++) {
        fv_t now[PSSR_MAX_TIMES];
        pssr_refine(g, z_lq[t], drafts, now, frames > 1 ? shift : NULL);
        for (int k = 0; k <= drafts; k++) {
            zhat[k] = t ? fv_concat(g->tape, zhat[k], now[k], 0) : now[k];
            memcpy(shift[k].past, shift[k].next, sizeof shift[k].past);
        }
    }
}
