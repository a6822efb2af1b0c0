/* ar_pass.c - rows through all layers in one parallel region.
 *
 * A layer is five stages with a meeting after each; in a stage every thread has its outputs:
 *     1  norm, qkv                            panels of outputs
 *     2  rotate, store keys, attend           heads of sequences
 *     3  h += Wo o                            panels
 *     4  norm, gate and up, silu(gate) up     panels
 *     5  h += W2 g                            panels
 * What a product reads (normed rows, in bf16 or 8 bits) each thread makes for itself where there
 * are few rows: that is cheaper than another meeting. More rows are shared out, and met for. */
#include "ar_net.h"
#include "op_act.h"

#include <omp.h>
#include <string.h>

#define OWN_ROWS 8 /* up to so many rows, every thread prepares all of them */

typedef struct lane {
    uint8_t *x;      /* [OWN_ROWS] rows of products */
    float *x_scale, *normed, *scratch;
    fvi_dec_query *query; /* [rows] */
} lane;

struct ar_work {
    fv_ctx *ctx;
    const ar_weights *w;
    ar_device *device; /* NULL: all else is of the CPU */
    fvi_decode_ops ops;
    fv_dtype kv;
    int rows, threads;
    size_t d, qkv_room, ffn, vocab, x_bytes; /* padded lengths of rows */
    float *h, *qkv, *att, *gate, *up, *logits, *x_scale;
    uint8_t *x;
    int *place;      /* [rows] of a row among those whose logits are wanted, -1: not wanted */
    int wanted;
    lane *lane;
    fvi_team team;
};

/* What a thread has at hand. */
typedef struct worker {
    ar_work *w;
    const ar_stack *stack;
    const ar_row *row;
    int rows, thread, threads;
    lane *lane;
    /* the last prepared rows */
    const void *x;
    size_t x_stride;
    const float *x_scale;
    int x_rows;
} worker;

static void meet(const worker *k) { fvi_team_wait(&k->w->team); }

/* ---- Products -------------------------------------------------------------------------------- */

/* Rows that a product is to read. */
typedef struct source {
    const float *x;
    size_t ld;
    const float *norm; /* NULL: as they are */
    float eps;
    bool is_last;      /* before the head: also to row.keep, and only wanted rows are multiplied */
} source;

static void prepare_row(const worker *k, const source *s, const fvi_dec_matrix *m, int r,
                        bool is_mine, uint8_t *x, float *scale)
{
    const ar_work *w = k->w;
    const float *v = s->x + (size_t)r * s->ld;
    float *keep = s->is_last && is_mine ? k->row[r].keep : NULL;
    const int to = s->is_last ? w->place[r] : r;
    if (to < 0 && !keep) return;
    if (s->norm) {
        w->ops.norm(k->lane->normed, v, s->norm, m->K, s->eps, w->w->type == FV_BF16);
        v = k->lane->normed;
    }
    if (keep) memcpy(keep, v, (size_t)m->K * sizeof *v);
    if (to >= 0) w->ops.prepare[m->type](x + (size_t)to * w->x_bytes, scale + to, v, m->K);
}

static void prepare(worker *k, const source *s, const fvi_dec_matrix *m)
{
    const ar_work *w = k->w;
    const bool is_shared = k->rows > OWN_ROWS && k->threads > 1;
    uint8_t *x = is_shared || k->rows > OWN_ROWS ? w->x : k->lane->x;
    float *scale = is_shared || k->rows > OWN_ROWS ? w->x_scale : k->lane->x_scale;
    int begin, end;
    fvi_team_slice(k->rows, k->thread, k->threads, &begin, &end);
    for (int r = is_shared ? begin : 0; r < (is_shared ? end : k->rows); r++)
        prepare_row(k, s, m, r, r >= begin && r < end, x, scale);
    k->x = x;
    k->x_stride = w->x_bytes;
    k->x_scale = scale;
    k->x_rows = s->is_last ? w->wanted : k->rows;
    if (is_shared) meet(k);
}

/* This thread's panels of a matrix; where they lie, NULL if it has none. */
static const void *panels_of(const worker *k, const fvi_dec_matrix *m, int *p0, int *p1)
{
    fvi_team_slice((int)(fvi_dec_pad(m->N) / FVI_DEC_PANEL), k->thread, k->threads, p0, p1);
    if (*p0 == *p1) return NULL;
    return (const uint8_t *)m->panels + (size_t)*p0 * fvi_dec_panel_bytes(m->type, m->K);
}

/* y (+)= W x for this thread's panels; next: the matrix behind this one, or NULL. */
static void multiply(const worker *k, const fvi_dec_matrix *m, const fvi_dec_matrix *next,
                     float *y, size_t ldy, bool add)
{
    fvi_dec_product p = { m, k->x, k->x_stride, k->x_scale, y, ldy, k->x_rows, add, NULL };
    int p0, p1;
    if (next) p.ahead = panels_of(k, next, &p0, &p1);
    if (panels_of(k, m, &p0, &p1)) k->w->ops.product[m->type](&p, p0, p1);
}

/* ---- Attention ------------------------------------------------------------------------------- */

fvi_dec_cache ar_stack_cache(const ar_work *w, const ar_stack *s, int seq, int layer, int head)
{
    const gpt_config *c = &w->w->cfg;
    const size_t at = ((size_t)seq * (size_t)s->layers + (size_t)layer) * (size_t)c->heads;
    return fvi_dec_cache_at(w->kv, gpt_head(c), s->condition, s->slots,
                            s->cache + (at + (size_t)head) * s->head_bytes);
}

/* Rows first .. end - 1 of one sequence, one head. Keys of all rows are there before the first of
 * them looks. */
static void attend(worker *k, int layer, int head, int first, int end)
{
    const ar_work *w = k->w;
    const size_t hd = (size_t)gpt_head(&w->w->cfg), d = (size_t)w->w->cfg.width;
    const fvi_dec_cache c = ar_stack_cache(w, k->stack, k->row[first].seq, layer, head);
    for (int r = first; r < end; r++) {
        const ar_row *row = &k->row[r];
        float *q = w->qkv + (size_t)r * w->qkv_room + (size_t)head * hd, *v = q + 2 * d;
        fvi_dec_query *y = &k->lane->query[r];
        *y = (fvi_dec_query){ .o = w->att + (size_t)r * w->d + (size_t)head * hd,
                              .zeros = row->zeros, .ranges = row->ranges, .more = row->more,
                              .n_more = row->n_more };
        memcpy(y->range, row->range, sizeof y->range);
        if (row->position < 0) { /* cosine and sine are 0 there */
            w->ops.store_condition(&c, row->slot, v);
            continue;
        }
        const float *table = w->w->rope + (size_t)row->position * 2 * hd;
        w->ops.rope(q, q, table, (int)hd);
        w->ops.rope(q + d, q + d, table, (int)hd);
        w->ops.store(&c, row->slot, q + d, v);
        y->q = q;
    }
    fvi_dec_attend(&w->ops, &c, k->lane->query + first, end - first, k->lane->scratch);
}

static void attend_all(worker *k, int layer)
{
    const int heads = k->w->w->cfg.heads;
    int seqs = 0, begin, stop;
    for (int r = 0; r < k->rows; r++) seqs += r == 0 || k->row[r].seq != k->row[r - 1].seq;
    fvi_team_slice(seqs * heads, k->thread, k->threads, &begin, &stop);
    for (int first = 0, end, unit = 0; first < k->rows; first = end, unit += heads) {
        for (end = first + 1; end < k->rows && k->row[end].seq == k->row[first].seq;) end++;
        for (int head = 0; head < heads; head++)
            if (unit + head >= begin && unit + head < stop) attend(k, layer, head, first, end);
    }
}

/* ---- Layers ---------------------------------------------------------------------------------- */

static void run_layer(worker *k, int l)
{
    const ar_work *w = k->w;
    const ar_layer *a = &k->stack->layer[l];
    const float eps = k->stack->eps;
    const fvi_dec_matrix *next = l + 1 < k->stack->layers ? &a[1].qkv : &w->w->head;
    int p0, p1;
    prepare(k, &(source){ w->h, w->d, a->norm1, eps, false }, &a->qkv);
    multiply(k, &a->qkv, &a->wo, w->qkv, w->qkv_room, false);
    meet(k);
    attend_all(k, l);
    meet(k);
    prepare(k, &(source){ w->att, w->d, NULL, 0, false }, &a->wo);
    multiply(k, &a->wo, &a->w1, w->h, w->d, true);
    meet(k);
    prepare(k, &(source){ w->h, w->d, a->norm2, eps, false }, &a->w1);
    multiply(k, &a->w1, &a->w3, w->gate, w->ffn, false);
    multiply(k, &a->w3, &a->w2, w->up, w->ffn, false);
    for (int r = 0; r < k->rows && panels_of(k, &a->w3, &p0, &p1); r++) {
        const size_t at = (size_t)r * w->ffn + (size_t)p0 * FVI_DEC_PANEL;
        w->ops.swiglu(w->gate + at, w->up + at, (p1 - p0) * FVI_DEC_PANEL);
    }
    meet(k);
    prepare(k, &(source){ w->gate, w->ffn, NULL, 0, false }, &a->w2);
    multiply(k, &a->w2, next, w->h, w->d, true);
    meet(k);
}

/* Columns of all outputs, with guidance. */
static void combine(const worker *k, const ar_out *out, int outs, float guidance)
{
    const ar_work *w = k->w;
    int begin, end;
    fvi_team_slice((int)(w->vocab / 16), k->thread, k->threads, &begin, &end);
    begin *= 16;
    end = end * 16 < w->w->cfg.vocab ? end * 16 : w->w->cfg.vocab;
    for (int i = 0; i < outs && begin < end; i++) {
        float *y = out[i].out + begin;
        const float *cond = w->logits + (size_t)w->place[out[i].cond] * w->vocab + begin;
        memcpy(y, cond, (size_t)(end - begin) * sizeof *y);
        if (out[i].null >= 0)
            w->ops.guide(y, w->logits + (size_t)w->place[out[i].null] * w->vocab + begin, guidance,
                         end - begin);
    }
}

static void run_thread(worker *k, const ar_out *out, int outs, float guidance)
{
    const ar_work *w = k->w;
    const ar_stack *s = k->stack;
    if (s->is_draft) {
        prepare(k, &(source){ w->qkv, w->qkv_room, NULL, 0, false }, &w->w->fc);
        multiply(k, &w->w->fc, &s->layer->qkv, w->h, w->d, false);
        meet(k);
    }
    for (int l = 0; l < s->layers; l++) run_layer(k, l);
    prepare(k, &(source){ w->h, w->d, s->is_draft ? NULL : w->w->norm, s->eps, true },
            &w->w->head);
    if (outs == 0) return;
    multiply(k, &w->w->head, NULL, w->logits, w->vocab, false);
    meet(k);
    combine(k, out, outs, guidance);
}

/* Wanted rows stand together before the head, in their order. */
static void place_rows(ar_work *w, int rows, const ar_out *out, int outs)
{
    for (int r = 0; r < rows; r++) w->place[r] = -1;
    for (int i = 0; i < outs; i++) {
        w->place[out[i].cond] = 0;
        if (out[i].null >= 0) w->place[out[i].null] = 0;
    }
    w->wanted = 0;
    for (int r = 0; r < rows; r++)
        if (w->place[r] == 0) w->place[r] = w->wanted++;
}

fv_status ar_pass_run(ar_work *w, const ar_stack *s, const ar_row *row, int rows,
                      const ar_out *out, int outs, float guidance)
{
    if (w->device) return ar_device_run(w->device, s, row, rows, out, outs, guidance);
    place_rows(w, rows, out, outs);
    w->team.threads = 1;
#pragma omp parallel num_threads(w->threads)
    {
#pragma omp single
        w->team.threads = omp_get_num_threads();
        worker k = { .w = w, .stack = s, .row = row, .rows = rows,
                     .thread = omp_get_thread_num(), .threads = w->team.threads };
        k.lane = &w->lane[k.thread];
        run_thread(&k, out, outs, guidance);
    }
    return FV_OK;
}

/* ---- Caches ---------------------------------------------------------------------------------- */

fv_status ar_stack_create(fv_ctx *ctx, ar_stack *s, const gpt_config *c, fv_dtype kv, int seqs,
                          uint64_t *bytes)
{
    const int hd = gpt_head(c);
    size_t each, all;
    s->head_bytes = fvi_dec_cache_bytes(kv, hd, s->condition, s->slots);
    each = s->head_bytes * (size_t)s->layers * (size_t)c->heads;
    if (fv_ctx_device(ctx) != FV_DEVICE_CPU)
        s->near = fvi_dev_cache(kv, hd, c->heads, s->layers, s->condition, s->slots, &each);
    if (each == 0 || !fv_mul_size((size_t)seqs, each, &all))
        return fv_fail(ctx, FV_ERR_OOM, "decoding: keys and values of %d sequences are too many",
                       seqs);
    s->cache = fv_dev_alloc(ctx, (size_t)seqs, each);
    s->near.p = s->cache;
    *bytes += all;
    return s->cache ? FV_OK : FV_ERR_OOM;
}

void ar_stack_destroy(fv_ctx *ctx, ar_stack *s)
{
    fv_dev_free(ctx, s->cache);
    s->cache = NULL;
}

void ar_stack_move(ar_work *w, const ar_stack *s, const ar_moves *m)
{
    if (w->device) {
        ar_device_move(w->device, s, m);
        return;
    }
    for (int seq = m->seq; seq < m->seq + m->seqs; seq++)
        for (int l = 0; l < s->layers; l++)
            for (int h = 0; h < w->w->cfg.heads; h++) {
                const fvi_dec_cache c = ar_stack_cache(w, s, seq, l, h);
                for (int k = 0; k < m->count; k++) fvi_dec_cache_move(&c, m->from[k], m->to[k]);
            }
}

/* ---- Work memory ----------------------------------------------------------------------------- */

static size_t most(size_t a, size_t b) { return a > b ? a : b; }

static float *floats(ar_work *w, size_t row)
{
    return fv_calloc(w->ctx, (size_t)w->rows, row * sizeof(float));
}

static fv_status create_lanes(ar_work *w, size_t scratch)
{
    w->lane = fv_calloc(w->ctx, (size_t)w->threads, sizeof *w->lane);
    if (!w->lane) return FV_ERR_OOM;
    for (int i = 0; i < w->threads; i++) {
        lane *l = &w->lane[i];
        l->x = fv_calloc(w->ctx, OWN_ROWS, w->x_bytes);
        l->x_scale = fv_calloc(w->ctx, OWN_ROWS, sizeof *l->x_scale);
        l->normed = fv_calloc(w->ctx, w->d, sizeof *l->normed);
        l->scratch = fv_calloc(w->ctx, 1, scratch);
        l->query = fv_calloc(w->ctx, (size_t)w->rows, sizeof *l->query);
        if (!l->x || !l->x_scale || !l->normed || !l->scratch || !l->query) return FV_ERR_OOM;
    }
    return FV_OK;
}

static fv_status create(ar_work *w, int condition, int slots)
{
    const gpt_config *c = &w->w->cfg;
    w->d = fvi_dec_pad(c->width);
    w->qkv_room = fvi_dec_pad(3 * c->width);
    w->ffn = fvi_dec_pad(c->ffn > c->width ? c->ffn : c->width);
    w->vocab = fvi_dec_pad(c->vocab);
    const size_t wide = most((size_t)c->ffn, most(2 * (size_t)c->width, (size_t)c->caption_width));
    w->x_bytes = fvi_dec_row_bytes((int)wide);
    w->h = floats(w, w->d);
    w->qkv = floats(w, w->qkv_room);
    w->att = floats(w, w->d);
    w->gate = floats(w, w->ffn);
    w->up = floats(w, w->ffn);
    w->logits = floats(w, w->vocab);
    w->x_scale = floats(w, 1);
    w->x = fv_calloc(w->ctx, (size_t)w->rows, w->x_bytes);
    w->place = fv_calloc(w->ctx, (size_t)w->rows, sizeof *w->place);
    if (!w->place) return FV_ERR_OOM;
    if (!w->h || !w->qkv || !w->att || !w->gate || !w->up || !w->logits || !w->x_scale || !w->x)
        return FV_ERR_OOM;
    return create_lanes(w, fvi_dec_attend_bytes(gpt_head(c), condition, slots));
}

fv_status ar_work_create(fv_ctx *ctx, ar_work **out, const ar_weights *weights, fv_dtype kv,
                         int rows, int condition, int slots)
{
    *out = NULL;
    ar_work *w = fv_calloc(ctx, 1, sizeof *w);
    if (!w) return FV_ERR_OOM;
    w->ctx = ctx;
    w->w = weights;
    w->kv = kv;
    w->rows = rows;
    w->threads = fv_ctx_threads(ctx);
    fvi_decode_init(&w->ops, fv_ctx_cpu(ctx));
    fv_status s;
    if (fv_ctx_device(ctx) != FV_DEVICE_CPU)
        s = ar_device_create(ctx, &w->device, weights, rows, condition, slots);
    else if (weights->on_device)
        s = fv_fail(ctx, FV_ERR_ARG, "decoding: the model was opened on a device: a context of the "
                    "CPU cannot generate from it");
    else s = create(w, condition, slots);
    if (s != FV_OK) ar_work_destroy(&w);
    *out = w;
    return s;
}

void ar_work_destroy(ar_work **ww)
{
    ar_work *w = *ww;
    *ww = NULL;
    if (!w) return;
    ar_device_destroy(&w->device);
    for (int i = 0; w->lane && i < w->threads; i++) {
        lane *l = &w->lane[i];
        void *mem[] = { l->x, l->x_scale, l->normed, l->scratch, l->query };
        for (size_t j = 0; j < FV_ARRAY_LEN(mem); j++) fv_free(w->ctx, mem[j]);
    }
    void *mem[] = { w->h, w->qkv, w->att, w->gate, w->up, w->logits, w->x_scale, w->x, w->place,
                    w->lane };
    for (size_t j = 0; j < FV_ARRAY_LEN(mem); j++) fv_free(w->ctx, mem[j]);
    fv_free(w->ctx, w);
}

int ar_work_rows(const ar_work *w) { return w->rows; }

float *ar_work_input(ar_work *w, int i, bool is_draft)
{
    if (w->device) return ar_device_input(w->device, i, is_draft);
    return is_draft ? w->qkv + (size_t)i * w->qkv_room : w->h + (size_t)i * w->d;
}

/* Once a picture: one row after another on this thread. */
fv_status ar_caption_rows(ar_work *w, const float *x, int n, float *y)
{
    const ar_weights *m = w->w;
    if (w->device) return ar_device_captions(w->device, x, n, y);
    lane *l = w->lane;
    for (int i = 0; i < n; i++) {
        const size_t width = (size_t)m->cfg.width;
        const fvi_dec_product up = { .w = &m->fc1, .x = l->x, .x_scale = l->x_scale, .y = w->gate,
                                     .ldy = w->ffn, .rows = 1 };
        const fvi_dec_product down = { .w = &m->fc2, .x = l->x, .x_scale = l->x_scale,
                                       .y = w->up, .ldy = w->ffn, .rows = 1 };
        const int panels = (int)(w->d / FVI_DEC_PANEL);
        w->ops.prepare[m->type](l->x, l->x_scale, x + (size_t)i * (size_t)m->cfg.caption_width,
                                m->cfg.caption_width);
        w->ops.product[m->type](&up, 0, panels);
        for (size_t j = 0; j < width; j++)
            w->gate[j] = fvi_act_c(FV_ACT_GELU_TANH, w->gate[j]);
        w->ops.prepare[m->type](l->x, l->x_scale, w->gate, (int)width);
        w->ops.product[m->type](&down, 0, panels);
        memcpy(y + (size_t)i * width, w->up, width * sizeof *y);
    }
    return FV_OK;
}
