/* rdvq_int_run.c - places of windows through RDVQ's integer network (rdvq_int_net.h).
 *
 * A call takes spans of places; all weights are read once for all of their rows. Keys and values
 * stay in the window's cache in the order in which products read them: keys as rows, and values as
 * columns of a packed matrix.
 *
 *     keys    [depth][heads][tokens/16][head/2][16][2]
 *     values  [depth][heads][head/16][tokens/2][16][2] */
#include "rdvq_int_net.h"

#include <assert.h>
#include <string.h>

/* Rows of logits at a time: those of 4096 codes fill a quarter of a second-level cache. */
#define HEAD_ROWS 12

#define QUERIES 16 /* of a slice at a time */

/* What does not depend on the number of rows comes first. */
typedef struct work {
    int32_t *logit; /* [HEAD_ROWS, codes] */
    uint32_t *sums; /* [groups] */
    int32_t *scores; /* [QUERIES, tokens] */
    int16_t *P;      /* the same */
    int32_t *r;      /* [rows, width] */
    int32_t *acc;    /* [rows, most] */
    int16_t *x;      /* the same */
    int16_t *y;      /* [rows, width] */
} work;

typedef struct pass {
    const rdvq_int *m;
    const rdvq_span *spans;
    int count, rows;
    work w;
} pass;

static int most_of(const rdvq_int *m)
{
    const rdvq_config *c = &m->cfg;
    const int in = 2 * c->code_width;
    const int wide = 3 * c->width > 2 * c->ffn ? 3 * c->width : 2 * c->ffn;
    return wide > in ? wide : in;
}

/* base NULL: only counts */
static size_t lay_out(const rdvq_int *m, int rows, uint8_t *base, work *w)
{
    const size_t R = (size_t)rows, d = (size_t)m->cfg.width, most = (size_t)most_of(m);
    const size_t T = (size_t)m->slices.tokens;
    const size_t bytes[] = { 4 * HEAD_ROWS * (size_t)m->cfg.codes, 4 * (size_t)m->groups,
                             4 * T * QUERIES, 2 * T * QUERIES, 4 * R * d, 4 * R * most,
                             2 * R * most, 2 * R * d };
    void *at[FV_ARRAY_LEN(bytes)] = { NULL };
    size_t used = 0;
    for (size_t i = 0; i < FV_ARRAY_LEN(bytes); i++) {
        if (base) at[i] = base + used;
        used += (bytes[i] + 63) & ~(size_t)63;
    }
    *w = (work){ at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7] };
    return used;
}

size_t rdvq_int_work_size(const rdvq_int *m, int rows)
{
    work w;
    return lay_out(m, rows, NULL, &w);
}

size_t rdvq_int_cache_size(const rdvq_int *m)
{
    return 2 * (size_t)m->cfg.depth * (size_t)m->slices.tokens * (size_t)m->cfg.width;
}

static void product(const pass *p, int32_t *out, const rdvq_matrix *a, const int16_t *x)
{
    const rdvq_dots d = { a->w, a->rows / 16, a->columns / 2, a->columns / 2, a->mul, a->shift };
    p->m->ops->dots(out, a->rows, &d, x, a->columns, p->rows);
}

/* ---- Input ----------------------------------------------------------------------------------- */

/* The layer before, interpolated at position q. */
static void coarse_of(const rdvq_int *m, const int32_t *tokens, int q, int16_t *out)
{
    const int D = m->cfg.code_width;
    const int32_t *from = m->from + q * RDVQ_TAPS, *tap = m->tap + q * RDVQ_TAPS;
    int32_t sum[RDVQ_INT_MAX_CODE];
    memset(sum, 0, (size_t)D * sizeof *sum);
    for (int k = 0; k < RDVQ_TAPS && tap[k]; k++) {
        const int16_t *e = m->codes + (size_t)tokens[from[k]] * (size_t)D;
        for (int i = 0; i < D; i++) sum[i] += tap[k] * e[i];
    }
    for (int i = 0; i < D; i++) out[i] = (int16_t)nn_rsh(sum[i], 16);
}

static void input(const pass *p)
{
    const rdvq_int *m = p->m;
    const size_t D = (size_t)m->cfg.code_width, d = (size_t)m->cfg.width;
    int16_t *x = p->w.x;
    int32_t *r = p->w.r;
    for (int s = 0; s < p->count; s++)
        for (int i = p->spans[s].first; i < p->spans[s].end; i++, x += 2 * D, r += d) {
            const int q = m->slices.list[i], pair = m->slices.pair[q];
            const int32_t *tokens = p->spans[s].tokens;
            coarse_of(m, tokens, q, x + D);
            memcpy(x, pair < 0 ? x + D : m->codes + (size_t)tokens[pair] * D, D * sizeof *x);
            memcpy(r, m->bias + (size_t)m->slices.slice_of[q] * d, d * sizeof *r);
        }
    product(p, p->w.acc, &m->input, p->w.x);
    m->nn->add(p->w.r, p->w.acc, (int)d * p->rows);
}

/* ---- Attention ------------------------------------------------------------------------------- */

static size_t head_size(const rdvq_int *m)
{
    return (size_t)m->slices.tokens * (size_t)m->head;
}
/* Keys of a head; its values lie behind the keys of all layers. */
static int16_t *keys_of(const rdvq_int *m, const rdvq_span *s, int layer, int h)
{
    return s->cache + (size_t)(layer * m->cfg.heads + h) * head_size(m);
}
static int16_t *values_of(const rdvq_int *m, const rdvq_span *s, int layer, int h)
{
    return keys_of(m, s, layer + m->cfg.depth, h);
}

static void put_key(const rdvq_int *m, int16_t *keys, int place, const int16_t *k)
{
    int16_t *to = keys + (size_t)(place >> 4) * (size_t)m->head * 16 + 2 * (place & 15);
    for (int i = 0; i < m->head; i += 2) memcpy(to + 16 * i, k + i, 2 * sizeof *k);
}

static void put_value(const rdvq_int *m, int16_t *values, int place, const int16_t *v)
{
    const size_t block = (size_t)m->slices.tokens * 16;
    int16_t *to = values + (size_t)(place >> 1) * 32 + (place & 1);
    for (int i = 0; i < m->head; i++)
        to[(size_t)(i >> 4) * block + 2 * (size_t)(i & 15)] = v[i];
}

/* acc [rows, 3 width] -> queries into y [rows, width], keys and values into the caches. */
static void take_qkv(const pass *p, int layer)
{
    const rdvq_int *m = p->m;
    const int d = m->cfg.width, n = m->head;
    const int32_t *row = p->w.acc;
    int16_t *y = p->w.y, *temp = p->w.P;
    for (int s = 0; s < p->count; s++)
        for (int i = p->spans[s].first; i < p->spans[s].end; i++, row += 3 * d, y += d) {
            const int16_t *turn = m->turn + (size_t)i * 2 * (size_t)n;
            for (int h = 0; h < m->cfg.heads; h++) {
                m->ops->unit(y + h * n, row + h * n, turn, n);
                m->ops->unit(temp, row + d + h * n, turn, n);
                put_key(m, keys_of(m, &p->spans[s], layer, h), i, temp);
                m->nn->narrow(temp, row + 2 * d + h * n, n, 32767);
                put_value(m, values_of(m, &p->spans[s], layer, h), i, temp);
            }
        }
}

/* Up to 16 queries y of one slice and head -> o. */
static void attend(const pass *p, const rdvq_dots d[2], int visible, int32_t scale,
                   const int16_t *y, int16_t *o, int rows)
{
    const rdvq_int *m = p->m;
    const size_t T = (size_t)m->slices.tokens, width = (size_t)m->cfg.width, n = (size_t)m->head;
    m->ops->dots(p->w.scores, (int)T, &d[0], y, (int)width, rows);
    for (size_t r = 0; r < (size_t)rows; r++)
        m->ops->attend(p->w.P + r * T, p->w.scores + r * T, visible, scale);
    m->ops->dots(p->w.scores, (int)n, &d[1], p->w.P, (int)T, rows); /* its room is free again */
    for (size_t r = 0; r < (size_t)rows; r++)
        m->ops->average(o + r * width, p->w.scores + r * n, (int)n);
}

/* All queries of a slice in one window: y, o point to their first row. */
static void attend_slice(const pass *p, const rdvq_span *s, int layer, int slice, const int16_t *y,
                         int16_t *o)
{
    const rdvq_int *m = p->m;
    const int n = m->head, visible = m->slices.visible[slice], T = m->slices.tokens;
    const int rows = m->slices.first[slice + 1] - m->slices.first[slice];
    for (int h = 0; h < m->cfg.heads; h++) {
        const rdvq_dots d[2] = {
            { keys_of(m, s, layer, h), (visible + 15) / 16, n / 2, n / 2, NULL, 0 },
            { values_of(m, s, layer, h), n / 16, (visible + 1) / 2, T / 2, NULL, 0 },
        };
        for (int r = 0; r < rows; r += QUERIES) {
            const size_t at = (size_t)r * (size_t)m->cfg.width + (size_t)(h * n);
            attend(p, d, visible, m->layer[layer].scale[h], y + at, o + at,
                   rows - r < QUERIES ? rows - r : QUERIES);
        }
    }
}

/* ---- The network ----------------------------------------------------------------------------- */

static void normalise(const pass *p, int16_t *y)
{
    const size_t d = (size_t)p->m->cfg.width;
    for (size_t r = 0; r < (size_t)p->rows; r++)
        p->m->ops->norm(y + r * d, p->w.r + r * d, (int)d);
}

static void layer_of_network(const pass *p, int layer)
{
    const rdvq_int *m = p->m;
    const rdvq_int_layer *y = &m->layer[layer];
    const size_t d = (size_t)m->cfg.width, f = (size_t)m->cfg.ffn;
    size_t row = 0;
    normalise(p, p->w.y);
    product(p, p->w.acc, &y->qkv, p->w.y);
    take_qkv(p, layer);
    for (int s = 0; s < p->count; s++)
        for (int i = p->spans[s].first; i < p->spans[s].end;) {
            const int slice = m->slices.slice_of[m->slices.list[i]];
            const int next = m->slices.first[slice + 1];
            attend_slice(p, &p->spans[s], layer, slice, p->w.y + row * d, p->w.x + row * d);
            row += (size_t)(next - i);
            i = next;
        }
    product(p, p->w.acc, &y->wo, p->w.x);
    m->nn->add(p->w.r, p->w.acc, (int)d * p->rows);
    normalise(p, p->w.y);
    product(p, p->w.acc, &y->w13, p->w.y);
    for (size_t r = 0; r < (size_t)p->rows; r++)
        m->ops->gate(p->w.x + r * f, p->w.acc + 2 * r * f, p->w.acc + 2 * r * f + f, (int)f, y);
    product(p, p->w.acc, &y->w2, p->w.x);
    m->nn->add(p->w.r, p->w.acc, (int)d * p->rows);
}

int16_t *rdvq_int_run(const rdvq_int *m, const rdvq_span *spans, int count, int rows, void *memory)
{
    pass p = { .m = m, .spans = spans, .count = count };
    (void)lay_out(m, rows, memory, &p.w);
    for (int s = 0; s < count; s++) p.rows += spans[s].end - spans[s].first;
    assert(p.rows <= rows);
    input(&p);
    for (int l = 0; l < m->cfg.depth; l++) layer_of_network(&p, l);
    normalise(&p, p.w.y);
    return p.w.y;
}

void rdvq_int_spread(const rdvq_int *m, const int16_t *x, int rows, void *memory, uint16_t *u,
                     uint32_t *start)
{
    const size_t d = (size_t)m->cfg.width, K = (size_t)m->cfg.codes;
    pass p = { .m = m };
    (void)lay_out(m, 1, memory, &p.w);
    for (int at = 0; at < rows; at += HEAD_ROWS) {
        p.rows = rows - at < HEAD_ROWS ? rows - at : HEAD_ROWS;
        product(&p, p.w.logit, &m->output, x + (size_t)at * d);
        for (size_t r = 0; r < (size_t)p.rows; r++, u += K, start += m->groups + 1) {
            m->ops->spread(u, p.w.sums, p.w.logit + r * K, (int)K, m->group);
            rdvq_frequencies(p.w.sums, m->groups, start);
        }
    }
}
