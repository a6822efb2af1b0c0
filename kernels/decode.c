/* decode.c - kernels for decoding: packing, caches, attention, and the scalar definitions.
 *
 * bf16 products: weights and activations are rounded to bf16, sums are f32. int8 products: exact in
 * int32, then one scale of the row and one of the weights; so they have the same bits on every CPU
 * where the rows do. Where decode_body.h differs from here is the use of fused multiply-add, the
 * order of the one sum across lanes (norm), and exp: relative 2e-6 of the largest output. */
#include "decode.h"
#include "op_act.h"

#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#define PANEL FVI_DEC_PANEL

static int unit_of(fv_dtype t) { return t == FV_I8 ? 4 : t == FV_BF16 ? 2 : 1; }
static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

/* ---- Packing --------------------------------------------------------------------------------- */

static size_t panel_bytes(fv_dtype type, int N, int K)
{
    size_t n;
    const size_t k = round_up((size_t)K, (size_t)unit_of(type)) * fv_dtype_size(type);
    return fv_mul_size(fvi_dec_pad(N), k, &n) ? n : 0;
}

size_t fvi_dec_pack_bytes(fv_dtype type, int N, int K)
{
    const size_t n = panel_bytes(type, N, K), more = type == FV_I8 ? 8 * fvi_dec_pad(N) : 0;
    size_t sum;
    return n && fv_add_size(n, more, &sum) ? sum : 0;
}

/* Place of (n, k) in panels of a type. */
static size_t place(fv_dtype type, size_t n, size_t k, size_t K)
{
    const size_t u = (size_t)unit_of(type);
    return ((n / PANEL * round_up(K, u) / u + k / u) * PANEL + n % PANEL) * u + k % u;
}

/* What 8 bits hold of x: value i becomes q[i] * scale, q[i] = to_i8(x[i] * inverse). */
typedef struct range_i8 { float scale, inverse; } range_i8;
static range_i8 range_of(const float *x, int n)
{
    float most = 0;
    for (int i = 0; i < n; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    return (range_i8){ most / 127.0f, most > 0 ? 127.0f / most : 0 };
}

static int8_t to_i8(float v) /* NaN: -127, as the vectors do */
{
    const float r = nearbyintf(v);
    return (int8_t)(r > 127 ? 127 : r > -127 ? r : -127);
}

/* Row n of w into its lane. K is at most 65536: sums of 255 * 127 * K stay below 2^31. */
static void pack_row_i8(int n, const fvi_dec_matrix *m, const float *row, void *dst)
{
    int8_t *q = dst;
    float *scale = (float *)((uint8_t *)dst + panel_bytes(FV_I8, m->N, m->K));
    int32_t *sum = (int32_t *)(scale + fvi_dec_pad(m->N));
    const range_i8 range = range_of(row, m->K);
    scale[n] = range.scale;
    for (int k = 0; k < m->K; k++) {
        const int8_t i = to_i8(row[k] * range.inverse);
        q[place(FV_I8, (size_t)n, (size_t)k, (size_t)m->K)] = i;
        sum[n] += 128 * i;
    }
}

static void pack_row(int n, const fvi_dec_matrix *m, const float *row, void *dst)
{
    for (int k = 0; k < m->K; k++) {
        const size_t at = place(m->type, (size_t)n, (size_t)k, (size_t)m->K);
        if (m->type == FV_BF16) ((uint16_t *)dst)[at] = fv_f32_to_bf16(row[k]);
        else ((float *)dst)[at] = row[k];
    }
}

void fvi_dec_pack(fv_dtype type, int N, int K, const float *w, void *dst, int threads)
{
    const fvi_dec_matrix m = { .type = type, .N = N, .K = K };
    memset(dst, 0, fvi_dec_pack_bytes(type, N, K));
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int n = 0; n < N; n++) {
        const float *row = w + (size_t)n * (size_t)K;
        if (type == FV_I8) pack_row_i8(n, &m, row, dst);
        else pack_row(n, &m, row, dst);
    }
}

void fvi_dec_pack_rows(fv_dtype type, int N, int K, const float *w, void *dst, int threads)
{
    const size_t room = fvi_dec_pad(K);
    float *scale = (float *)(void *)((uint8_t *)dst + (size_t)N * room);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int n = 0; n < N; n++) {
        const float *row = w + (size_t)n * (size_t)K;
        const range_i8 range = range_of(row, type == FV_I8 ? K : 0);
        if (type == FV_I8) scale[n] = range.scale;
        for (size_t k = 0; k < room; k++) {
            const float v = k < (size_t)K ? row[k] : 0;
            const size_t at = (size_t)n * room + k;
            if (type == FV_I8) ((int8_t *)dst)[at] = to_i8(v * range.inverse);
            else if (type == FV_BF16) ((uint16_t *)dst)[at] = fv_f32_to_bf16(v);
            else ((float *)dst)[at] = v;
        }
    }
}

fvi_dec_matrix fvi_dec_view(fv_dtype type, int N, int K, const void *packed)
{
    fvi_dec_matrix m = { .type = type, .N = N, .K = K, .panels = packed };
    if (type == FV_I8) {
        m.scale = (const float *)((const uint8_t *)packed + panel_bytes(type, N, K));
        m.sum = (const int32_t *)(m.scale + fvi_dec_pad(N));
    }
    return m;
}

size_t fvi_dec_row_bytes(int K)
{
    return round_up((size_t)K, 16) * sizeof(float);
}

/* ---- Caches ---------------------------------------------------------------------------------- */

typedef struct cache_sizes { size_t k, v, k_scale, v_scale; } cache_sizes;

static cache_sizes sizes_of(fv_dtype type, int hd, int condition, int slots)
{
    const size_t keys = fvi_dec_pad(slots), each = fv_dtype_size(type);
    const size_t all = (size_t)condition + (size_t)slots, f = type == FV_I8 ? sizeof(float) : 0;
    return (cache_sizes){ round_up(keys * (size_t)hd * each, 64),
                          round_up(all * fvi_dec_pad(hd) * each, 64), round_up(keys * f, 64),
                          round_up(all * f, 64) };
}

size_t fvi_dec_cache_bytes(fv_dtype type, int hd, int condition, int slots)
{
    const cache_sizes s = sizes_of(type, hd, condition, slots);
    return s.k + s.v + s.k_scale + s.v_scale;
}

fvi_dec_cache fvi_dec_cache_at(fv_dtype type, int hd, int condition, int slots, void *block)
{
    const cache_sizes s = sizes_of(type, hd, condition, slots);
    uint8_t *at = block;
    fvi_dec_cache c = { .type = type, .hd = hd, .condition = condition, .slots = slots };
    c.k = at;
    c.v = at + s.k;
    c.k_scale = (float *)(at + s.k + s.v);
    c.v_scale = (float *)(at + s.k + s.v + s.k_scale);
    return c;
}

void fvi_dec_cache_move(const fvi_dec_cache *c, int from, int to)
{
    const size_t u = (size_t)unit_of(c->type) * fv_dtype_size(c->type), hd = (size_t)c->hd;
    const size_t units = hd / (size_t)unit_of(c->type), row = fvi_dec_pad(c->hd);
    const size_t each = row * fv_dtype_size(c->type), C = (size_t)c->condition;
    uint8_t *k = c->k, *v = c->v;
    const size_t a = (size_t)from / PANEL * units * PANEL + (size_t)from % PANEL;
    const size_t b = (size_t)to / PANEL * units * PANEL + (size_t)to % PANEL;
    if (from == to) return;
    for (size_t i = 0; i < units; i++) memcpy(k + (b + i * PANEL) * u, k + (a + i * PANEL) * u, u);
    memcpy(v + (C + (size_t)to) * each, v + (C + (size_t)from) * each, each);
    if (c->type != FV_I8) return;
    c->k_scale[to] = c->k_scale[from];
    c->v_scale[C + (size_t)to] = c->v_scale[C + (size_t)from];
}

/* ---- Attention ------------------------------------------------------------------------------- */

/* Scratch: raw and sorted scores of FVI_DEC_ROWS rows, then their outputs. */
static size_t score_room(int condition, int slots)
{
    return fvi_dec_pad(condition) + fvi_dec_pad(slots) + PANEL;
}

size_t fvi_dec_attend_bytes(int hd, int condition, int slots)
{
    const size_t row = 2 * score_room(condition, slots) + fvi_dec_pad(hd);
    return FVI_DEC_ROWS * row * sizeof(float);
}

static bool sees_same(const fvi_dec_query *a, const fvi_dec_query *b)
{
    if (!a->q != !b->q || a->first != b->first || a->zeros != b->zeros || a->ranges != b->ranges)
        return false;
    for (int i = 0; i < a->ranges; i++)
        if (a->range[i].first != b->range[i].first || a->range[i].n != b->range[i].n) return false;
    return true;
}

/* Slots up to the last that a row sees. */
static int slots_seen(const fvi_dec_query *q)
{
    int top = q->n_more ? q->more[q->n_more - 1] + 1 : 0;
    for (int i = 0; i < q->ranges; i++) {
        const int end = q->range[i].first + q->range[i].n;
        if (end > top) top = end;
    }
    return top;
}

/* Scores in the order of positions; their number. */
static int sort_scores(const fvi_dec_query *q, const float *raw, float *s)
{
    int n = q->zeros;
    memset(s, 0, (size_t)n * sizeof *s);
    for (int i = 0; i < q->ranges; i++) {
        memcpy(s + n, raw + q->range[i].first, (size_t)q->range[i].n * sizeof *s);
        n += q->range[i].n;
    }
    for (int i = 0; i < q->n_more; i++) s[n++] = raw[q->more[i]];
    return n;
}

/* The values that all rows of a group see. */
static void add_shared(const fvi_decode_ops *o, const fvi_dec_cache *c, const fvi_dec_query *q,
                       fvi_dec_values *v)
{
    v->first = q->first;
    v->n = q->zeros;
    if (v->n > 0) o->values[c->type](c, v);
    for (int r = 0; r < v->rows; r++) v->p[r] += v->n;
    for (int i = 0; i < q->ranges; i++) {
        v->first = c->condition + q->range[i].first;
        v->n = q->range[i].n;
        if (v->n > 0) o->values[c->type](c, v);
        for (int r = 0; r < v->rows; r++) v->p[r] += v->n;
    }
}

/* A row's single slots, neighbours together. */
static void add_single(const fvi_decode_ops *o, const fvi_dec_cache *c, const fvi_dec_query *q,
                       fvi_dec_values *v)
{
    for (int i = 0; i < q->n_more; i += v->n) {
        v->first = c->condition + q->more[i];
        for (v->n = 1; i + v->n < q->n_more && q->more[i + v->n] == q->more[i] + v->n;) v->n++;
        o->values[c->type](c, v);
        v->p[0] += v->n;
    }
}

static void attend_group(const fvi_decode_ops *o, const fvi_dec_cache *c, const fvi_dec_query *q,
                         int rows, float *scratch)
{
    const size_t room = score_room(c->condition, c->slots), hd = fvi_dec_pad(c->hd);
    fvi_dec_scores s = { .rows = rows, .scale = 1.0f / sqrtf((float)c->hd) };
    fvi_dec_values v = { .rows = rows };
    float sum[FVI_DEC_ROWS];
    for (int r = 0; r < rows; r++) {
        s.q[r] = q[r].q;
        s.raw[r] = scratch + 2 * (size_t)r * room;
        v.p[r] = s.raw[r] + room;
        v.o[r] = scratch + 2 * FVI_DEC_ROWS * room + (size_t)r * hd;
        memset(v.o[r], 0, hd * sizeof(float));
        const int seen = slots_seen(&q[r]);
        if (seen > s.n) s.n = seen;
    }
    if (q->q && s.n > 0) o->scores[c->type](c, &s);
    else memset(scratch, 0, 2 * (size_t)rows * room * sizeof(float));
    for (int r = 0; r < rows; r++) {
        float *sorted = s.raw[r] + room;
        sum[r] = o->softmax(sorted, sort_scores(&q[r], s.raw[r], sorted));
    }
    add_shared(o, c, q, &v);
    for (int r = 0; r < rows; r++) {
        fvi_dec_values one = { .p = { v.p[r] }, .o = { v.o[r] }, .rows = 1 };
        add_single(o, c, &q[r], &one);
        const float inverse = 1.0f / sum[r];
        for (int i = 0; i < c->hd; i++) q[r].o[i] = v.o[r][i] * inverse;
    }
}

void fvi_dec_attend(const fvi_decode_ops *o, const fvi_dec_cache *c, const fvi_dec_query *q, int n,
                    float *scratch)
{
    for (int i = 0, rows; i < n; i += rows) {
        for (rows = 1; rows < FVI_DEC_ROWS && i + rows < n && sees_same(&q[i], &q[i + rows]);)
            rows++;
        attend_group(o, c, q + i, rows, scratch);
    }
}

/* ---- Rotary table ---------------------------------------------------------------------------- */

/* [cos_0 cos_0 cos_1 cos_1 ..][-sin_0 sin_0 -sin_1 sin_1 ..]: y = x * cos + swapped x * sin.
 * Angles: the row for the first half of the pairs, the column for the second. */
void fvi_dec_rope_row(float *table, int r, int c, int hd, double theta)
{
    const int pairs = hd / 2, nf = pairs / 2;
    for (int j = 0; j < pairs; j++) {
        const double at = j < nf ? r : c, f = pow(theta, -2.0 * (j % nf) / pairs);
        table[2 * j] = table[2 * j + 1] = (float)cos(at * f);
        table[hd + 2 * j + 1] = (float)sin(at * f);
        table[hd + 2 * j] = -table[hd + 2 * j + 1];
    }
}

/* ---- Scalar: products ------------------------------------------------------------------------ */

static void prepare_c(void *dst, float *scale, const float *x, int K)
{
    (void)scale;
    if (dst != (const void *)x) memcpy(dst, x, (size_t)K * sizeof *x);
}

static void prepare_bf16_c(void *dst, float *scale, const float *x, int K)
{
    uint16_t *d = dst;
    (void)scale;
    for (int k = 0; k < K; k++) d[k] = fv_f32_to_bf16(x[k]);
    if (K & 1) d[K] = 0;
}

static void quantise_c(int8_t *q, float *scale, const float *x, int n)
{
    const range_i8 range = range_of(x, n);
    *scale = range.scale;
    for (int i = 0; i < n; i++) q[i] = to_i8(x[i] * range.inverse);
}

static void prepare_i8_c(void *dst, float *scale, const float *x, int K)
{
    int8_t *d = dst;
    quantise_c(d, scale, x, K);
    for (int k = K; k % 4; k++) d[k] = 0;
}

/* y (+)= bias + v for one output */
static void finish_c(const fvi_dec_product *p, int r, size_t n, float v)
{
    float *y = p->y + (size_t)r * p->ldy + n;
    if (p->w->bias) v += p->w->bias[n];
    *y = p->add ? *y + v : v;
}

static void product_c(const fvi_dec_product *p, int p0, int p1)
{
    const size_t K = (size_t)p->w->K;
    const float *w = p->w->panels;
    for (int r = 0; r < p->rows; r++) {
        const float *x = (const float *)((const uint8_t *)p->x + (size_t)r * p->x_stride);
        for (size_t n = (size_t)p0 * PANEL; n < (size_t)p1 * PANEL; n++) {
            float sum = 0;
            for (size_t k = 0; k < K; k++) sum += x[k] * w[place(FV_F32, n, k, K)];
            finish_c(p, r, n, sum);
        }
    }
}

static void product_bf16_c(const fvi_dec_product *p, int p0, int p1)
{
    const size_t K = (size_t)p->w->K;
    const uint16_t *w = p->w->panels;
    for (int r = 0; r < p->rows; r++) {
        const uint16_t *x = (const uint16_t *)((const uint8_t *)p->x + (size_t)r * p->x_stride);
        for (size_t n = (size_t)p0 * PANEL; n < (size_t)p1 * PANEL; n++) {
            float sum = 0;
            for (size_t k = 0; k < K; k++)
                sum += fv_bf16_to_f32(x[k]) * fv_bf16_to_f32(w[place(FV_BF16, n, k, K)]);
            finish_c(p, r, n, sum);
        }
    }
}

static void product_i8_c(const fvi_dec_product *p, int p0, int p1)
{
    const size_t K = (size_t)p->w->K;
    const int8_t *w = p->w->panels;
    for (int r = 0; r < p->rows; r++) {
        const int8_t *x = (const int8_t *)p->x + (size_t)r * p->x_stride;
        for (size_t n = (size_t)p0 * PANEL; n < (size_t)p1 * PANEL; n++) {
            int32_t sum = 0;
            for (size_t k = 0; k < K; k++) sum += x[k] * w[place(FV_I8, n, k, K)];
            finish_c(p, r, n, (float)sum * (p->w->scale[n] * p->x_scale[r]));
        }
    }
}

/* ---- Scalar: rows ---------------------------------------------------------------------------- */

static void norm_c(float *y, const float *x, const float *w, int n, float eps, bool cast)
{
    float sq = 0;
    for (int i = 0; i < n; i++) sq += x[i] * x[i];
    const float r = 1.0f / sqrtf(sq / (float)n + eps);
    for (int i = 0; i < n; i++) {
        const float v = x[i] * r;
        y[i] = (cast ? fv_bf16_to_f32(fv_f32_to_bf16(v)) : v) * w[i];
    }
}

static void rope_c(float *y, const float *x, const float *table, int hd)
{
    for (int i = 0; i < hd; i += 2) {
        const float a = x[i], b = x[i + 1];
        y[i] = a * table[i] + b * table[hd + i];
        y[i + 1] = b * table[i + 1] + a * table[hd + i + 1];
    }
}

static void swiglu_c(float *gate, const float *up, int n)
{
    for (int i = 0; i < n; i++) gate[i] = fvi_act_c(FV_ACT_SILU, gate[i]) * up[i];
}

static void guide_c(float *y, const float *base, float scale, int n)
{
    for (int i = 0; i < n; i++) y[i] = base[i] + scale * (y[i] - base[i]);
}

/* ---- Scalar: attention ----------------------------------------------------------------------- */

static void put_row(const fvi_dec_cache *c, void *dst, float *scale, const float *x)
{
    if (c->type == FV_I8) quantise_c(dst, scale, x, c->hd);
    for (int i = 0; i < c->hd && c->type == FV_BF16; i++)
        ((uint16_t *)dst)[i] = fv_f32_to_bf16(x[i]);
    if (c->type == FV_F32) memcpy(dst, x, (size_t)c->hd * sizeof *x);
}

/* Values of slot `at`, condition slots counted. */
static void store_value(const fvi_dec_cache *c, size_t at, const float *v)
{
    const size_t row = fvi_dec_pad(c->hd) * fv_dtype_size(c->type);
    put_row(c, (uint8_t *)c->v + at * row, c->v_scale + (c->type == FV_I8 ? at : 0), v);
}

static void store_condition_c(const fvi_dec_cache *c, int slot, const float *v)
{
    store_value(c, (size_t)slot, v);
}

static void store_c(const fvi_dec_cache *c, int slot, const float *k, const float *v)
{
    const size_t hd = (size_t)c->hd, n = (size_t)slot;
    store_value(c, (size_t)c->condition + n, v);
    if (c->type == FV_I8) {
        const range_i8 range = range_of(k, c->hd);
        c->k_scale[n] = range.scale;
        for (size_t i = 0; i < hd; i++)
            ((int8_t *)c->k)[place(FV_I8, n, i, hd)] = to_i8(k[i] * range.inverse);
    }
    for (size_t i = 0; i < hd && c->type == FV_BF16; i++)
        ((uint16_t *)c->k)[place(FV_BF16, n, i, hd)] = fv_f32_to_bf16(k[i]);
    for (size_t i = 0; i < hd && c->type == FV_F32; i++)
        ((float *)c->k)[place(FV_F32, n, i, hd)] = k[i];
}

static float key_at(const fvi_dec_cache *c, size_t n, size_t i)
{
    const size_t at = place(c->type, n, i, (size_t)c->hd);
    if (c->type == FV_I8) return (float)((const int8_t *)c->k)[at];
    if (c->type == FV_BF16) return fv_bf16_to_f32(((const uint16_t *)c->k)[at]);
    return ((const float *)c->k)[at];
}

static void scores_c(const fvi_dec_cache *c, const fvi_dec_scores *s)
{
    for (int r = 0; r < s->rows; r++)
        for (int n = 0; n < s->n; n++) {
            float sum = 0;
            for (int i = 0; i < c->hd; i++) sum += s->q[r][i] * key_at(c, (size_t)n, (size_t)i);
            s->raw[r][n] = sum * s->scale;
        }
}

/* Queries become 8 bits too: the sum over the head is exact. */
static void scores_i8_c(const fvi_dec_cache *c, const fvi_dec_scores *s)
{
    const size_t hd = (size_t)c->hd;
    for (int r = 0; r < s->rows; r++) {
        const float *q = s->q[r];
        const range_i8 range = range_of(q, c->hd);
        const float scale = range.scale * s->scale;
        for (int n = 0; n < s->n; n++) {
            int32_t sum = 0;
            for (size_t i = 0; i < hd; i++)
                sum += to_i8(q[i] * range.inverse) *
                       ((const int8_t *)c->k)[place(FV_I8, (size_t)n, i, hd)];
            s->raw[r][n] = (float)sum * (c->k_scale[n] * scale);
        }
    }
}

static float softmax_c(float *s, int n)
{
    float most = s[0], sum = 0;
    for (int i = 1; i < n; i++) most = s[i] > most ? s[i] : most;
    for (int i = 0; i < n; i++) sum += s[i] = expf(s[i] - most);
    return sum;
}

static void values_c(const fvi_dec_cache *c, const fvi_dec_values *v)
{
    const size_t row = fvi_dec_pad(c->hd);
    for (int r = 0; r < v->rows; r++)
        for (int i = 0; i < v->n; i++) {
            const size_t at = (size_t)v->first + (size_t)i;
            const float p = c->type == FV_I8 ? v->p[r][i] * c->v_scale[at] : v->p[r][i];
            for (size_t d = 0; d < (size_t)c->hd; d++) {
                const size_t k = at * row + d;
                const float x = c->type == FV_I8     ? (float)((const int8_t *)c->v)[k]
                                : c->type == FV_BF16 ? fv_bf16_to_f32(((const uint16_t *)c->v)[k])
                                                     : ((const float *)c->v)[k];
                v->o[r][d] += p * x;
            }
        }
}

void fvi_decode_init(fvi_decode_ops *o, uint32_t cpu)
{
    *o = (fvi_decode_ops){ .prepare = { prepare_c, prepare_bf16_c, prepare_i8_c },
                           .product = { product_c, product_bf16_c, product_i8_c },
                           .norm = norm_c, .rope = rope_c, .swiglu = swiglu_c, .guide = guide_c,
                           .store = store_c, .store_condition = store_condition_c,
                           .scores = { scores_c, scores_c, scores_i8_c }, .softmax = softmax_c,
                           .values = { values_c, values_c, values_c } };
#if defined(__x86_64__)
    if (cpu & FV_CPU_AVX2) fvi_decode_init_avx2(o);
    if (cpu & FV_CPU_AVX512) fvi_decode_init_avx512(o);
    if (cpu & FV_CPU_AVX512 && cpu & FV_CPU_AVX512VNNI) fvi_decode_init_avx512vnni(o);
    if (cpu & FV_CPU_AVX512 && cpu & FV_CPU_AVX512BF16) fvi_decode_init_avx512bf16(o);
#else
    (void)cpu;
#endif
}

/* ---- Threads --------------------------------------------------------------------------------- */

/* The last to arrive turns the page; the others look for it, and give their core away when it takes
 * longer than a stage should: then another program has it. */
void fvi_team_wait(fvi_team *t)
{
    if (t->threads <= 1) return;
    const unsigned turn = atomic_load_explicit(&t->turn, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&t->arrived, 1, memory_order_acq_rel) + 1 == t->threads) {
        atomic_store_explicit(&t->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&t->turn, turn + 1, memory_order_release);
        return;
    }
    for (int i = 0; atomic_load_explicit(&t->turn, memory_order_acquire) == turn; i++) {
        FV_PAUSE();
        if (i >= 4096) sched_yield();
    }
}
