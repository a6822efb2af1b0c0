/* rdvq_code.c - tokens of a tile as bytes and back.
 *
 * A segment is rANS [Duda 2009] with a state of 32 bits: x in [2^23, 2^31), bytes, 16 bits of
 * probability. It begins with the decoder's first state, 4 bytes little-endian; behind the last
 * symbol the state must be 2^23, which the encoder began with, and all bytes must be read: a
 * damaged segment passes that with a probability of 2^-31 or so.
 *
 * A slice costs a pass of the network over all windows, on all threads; then tokens are coded one
 * after the other on the calling thread, a hundredth of the time. A context of a device runs the
 * network there (rdvq_cuda.c), with the same bits. The decoder pulls bytes only before a symbol that
 * needs them, so that of a segment which was cut all symbols are found that its bytes hold. */
#include "rdvq_code.h"

#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "rdvq_cuda.h"

#define RANS_LOW (1u << 23)
#define LOG_ENTRIES 257

struct rdvq_prices {
    const rdvq_int *m;
    const uint32_t *log; /* [LOG_ENTRIES] */
    const uint16_t *u;   /* of the place */
    const uint32_t *start;
    uint32_t *inner;     /* [groups][group + 1]: starts within a group */
    uint8_t *is_made;    /* [groups]: is inner filled? */
};

typedef struct symbol { uint16_t start, last; } symbol; /* last: frequency - 1 */

struct rdvq_coder {
    fv_ctx *ctx;
    const rdvq_int *m;
    int max_windows, threads, rows, slice_rows;
    size_t cache_size, work_size;
    int16_t *cache;      /* [max_windows][cache_size] */
    int32_t *history;    /* [max_windows][tokens] */
    uint16_t *u;         /* [max_windows * slice_rows][codes] */
    uint32_t *start;     /* [max_windows * slice_rows][groups + 1] */
    int32_t *row;        /* [max_windows] the first of a window's rows */
    symbol *symbols;     /* [2 * max_windows * tokens of a layer] */
    size_t symbol_count;
    uint8_t *work;       /* [threads][work_size] */
    struct rdvq_prices prices;
    uint32_t log[LOG_ENTRIES];
    void *arena;
    rdvq_device *device; /* NULL: the network runs on the CPU */
    int32_t *list;       /* [max_windows * slice_rows] rows that the device is asked for */
};

/* ---- Frequencies and prices ------------------------------------------------------------------ */

void rdvq_frequencies(const uint32_t *weight, int n, uint32_t *start)
{
    uint64_t sum = 0;
    uint32_t used = 0, most = 0;
    int first = 0;
    for (int i = 0; i < n; i++) {
        sum += weight[i];
        if (weight[i] > most) most = weight[i], first = i;
    }
    const uint64_t inv = sum ? ((uint64_t)(65536 - n) << 40) / sum : 0;
    const uint32_t even = sum ? 1 : 65536 / (uint32_t)n;
    for (int i = 0; i < n; i++) {
        start[i] = even + (uint32_t)(weight[i] * inv >> 40);
        used += start[i];
    }
    start[first] += 65536 - used;
    for (uint32_t i = 0, at = 0; i <= (uint32_t)n; i++) {
        const uint32_t f = i < (uint32_t)n ? start[i] : 0;
        start[i] = at;
        at += f;
    }
}

/* log2(1 + i/256) in 1/65536, by squaring. */
static void make_log(uint32_t log[LOG_ENTRIES])
{
    for (uint32_t i = 0; i < LOG_ENTRIES; i++) {
        uint64_t x = (uint64_t)(256 + i) << 22; /* Q30, 1 .. 2 */
        uint32_t v = 0;
        for (int bit = 0; bit < 17; bit++) {
            v <<= 1;
            if (x >> 31) x >>= 1, v |= 1;
            if (bit < 16) x = x * x >> 30;
        }
        log[i] = v;
    }
}

/* -log2(f / 65536) */
static uint32_t cost(const uint32_t *log, uint32_t f)
{
    const int e = rdvq_bits_of(f) - 1;
    const uint32_t m = (f << (16 - e)) - 65536, i = m >> 8;
    return ((uint32_t)(16 - e) << 16) - log[i] - (((log[i + 1] - log[i]) * (m & 255) + 128) >> 8);
}

static int size_of_group(const rdvq_int *m, int g)
{
    const int left = m->cfg.codes - g * m->group;
    return left < m->group ? left : m->group;
}

static const uint32_t *starts_within(const rdvq_prices *p, int g)
{
    const int n = size_of_group(p->m, g);
    uint32_t *start = p->inner + (size_t)g * (size_t)(p->m->group + 1), w[RDVQ_MAX_GROUP];
    if (p->is_made[g]) return start;
    for (int i = 0; i < n; i++) w[i] = rdvq_weight(p->u[g * p->m->group + i]);
    rdvq_frequencies(w, n, start);
    p->is_made[g] = 1;
    return start;
}

uint32_t rdvq_price(const rdvq_prices *p, int code)
{
    const int g = code / p->m->group, i = code % p->m->group;
    const uint32_t *within = starts_within(p, g);
    return cost(p->log, p->start[g + 1] - p->start[g]) + cost(p->log, within[i + 1] - within[i]);
}

/* Prices of the place that row belongs to. */
static const rdvq_prices *look_at(rdvq_coder *c, int row)
{
    c->prices.u = c->u + (size_t)row * (size_t)c->m->cfg.codes;
    c->prices.start = c->start + (size_t)row * (size_t)(c->m->groups + 1);
    memset(c->prices.is_made, 0, (size_t)c->m->groups);
    return &c->prices;
}

/* ---- rANS ------------------------------------------------------------------------------------ */

static void add_symbol(rdvq_coder *c, const uint32_t *start, int i)
{
    const symbol s = { (uint16_t)start[i], (uint16_t)(start[i + 1] - start[i] - 1) };
    c->symbols[c->symbol_count++] = s;
}

/* The symbols so far become a segment. Each of them takes 16 bits at most. */
static fv_status put_segment(rdvq_coder *c, vz_buf *out)
{
    const size_t most = 2 * c->symbol_count + 8;
    uint32_t x = RANS_LOW;
    if (c->symbol_count == 0) return FV_OK;
    uint8_t *room = vz_buf_room(out, most), *p = room ? room + most : NULL;
    if (!room) return FV_ERR_OOM;
    for (size_t i = c->symbol_count; i-- > 0;) {
        const uint32_t f = (uint32_t)c->symbols[i].last + 1;
        for (; x >= f << 15; x >>= 8) *--p = (uint8_t)x;
        x = (x / f << 16) + x % f + c->symbols[i].start;
    }
    for (int i = 3; i >= 0; i--) *--p = (uint8_t)(x >> (8 * i));
    memmove(room, p, (size_t)(room + most - p));
    out->size += (size_t)(room + most - p);
    c->symbol_count = 0;
    return FV_OK;
}

typedef struct reader {
    const uint8_t *p, *end;
    uint32_t x;
} reader;

static bool renormalise(reader *r)
{
    while (r->x < RANS_LOW) {
        if (r->p == r->end) return false;
        r->x = r->x << 8 | *r->p++;
    }
    return true;
}

/* The i with start[i] <= at < start[i + 1] */
static int find(const uint32_t *start, int n, uint32_t at)
{
    int lo = 0;
    while (n - lo > 1) {
        const int mid = (lo + n) / 2;
        if (start[mid] <= at) lo = mid;
        else n = mid;
    }
    return lo;
}

/* -1: bytes are missing. */
static int read_symbol(reader *r, const uint32_t *start, int n)
{
    if (!renormalise(r)) return -1;
    const uint32_t at = r->x & 65535;
    const int i = find(start, n, at);
    r->x = (start[i + 1] - start[i]) * (r->x >> 16) + at - start[i];
    return i;
}

static int32_t read_token(reader *r, const rdvq_prices *p)
{
    const int g = read_symbol(r, p->start, p->m->groups);
    if (g < 0) return -1;
    const int i = read_symbol(r, starts_within(p, g), size_of_group(p->m, g));
    return i < 0 ? -1 : g * p->m->group + i;
}

/* ---- A slice of all windows ------------------------------------------------------------------ */

static bool is_coded(const rdvq_coder *c, const rdvq_tile *t, int window, int position)
{
    return t->is_coded[(size_t)window * (size_t)c->m->slices.tokens + (size_t)position] != 0;
}

static int32_t *history_of(const rdvq_coder *c, int window)
{
    return c->history + (size_t)window * (size_t)c->m->slices.tokens;
}

/* Windows first .. end - 1: the network, then the rows that are coded, one after another. */
static void run_windows(rdvq_coder *c, const rdvq_tile *t, int slice, const int windows[2],
                        uint8_t *work)
{
    const rdvq_slices *s = &c->m->slices;
    const int first = s->first[slice], end = s->first[slice + 1];
    const size_t d = (size_t)c->m->cfg.width;
    const int base = windows[0] * c->slice_rows;
    rdvq_span spans[RDVQ_ROWS];
    int count = 0, row = 0, from = 0;
    for (int w = windows[0]; w < windows[1]; w++)
        spans[count++] = (rdvq_span){ c->cache + (size_t)w * c->cache_size, history_of(c, w), first,
                                      end };
    int16_t *x = rdvq_int_run(c->m, spans, count, c->rows, work);
    for (int w = windows[0]; w < windows[1]; w++) {
        c->row[w] = base + row;
        for (int i = first; i < end; i++, from++)
            if (is_coded(c, t, w, s->list[i])) {
                memmove(x + (size_t)row * d, x + (size_t)from * d, d * sizeof *x);
                row++;
            }
    }
    rdvq_int_spread(c->m, x, row, work, c->u + (size_t)base * (size_t)c->m->cfg.codes,
                    c->start + (size_t)base * (size_t)(c->m->groups + 1));
}

static fv_status run_on_device(rdvq_coder *c, const rdvq_tile *t, int slice)
{
    const rdvq_slices *s = &c->m->slices;
    const int first = s->first[slice], n = s->first[slice + 1] - first;
    int rows = 0;
    for (int w = 0; w < t->windows; w++) {
        c->row[w] = rows;
        for (int i = 0; i < n; i++)
            if (is_coded(c, t, w, s->list[first + i])) c->list[rows++] = w * n + i;
    }
    const rdvq_device_slice what = { slice, t->windows, c->history, c->list, rows };
    return rdvq_device_run(c->device, &what, c->u, c->start);
}

static fv_status run_slice(rdvq_coder *c, const rdvq_tile *t, int slice)
{
    if (c->device) return run_on_device(c, t, slice);
    const int n = c->m->slices.first[slice + 1] - c->m->slices.first[slice];
    const int share = (t->windows + c->threads - 1) / c->threads;
    int most = c->rows / n;
    if (most > RDVQ_ROWS) most = RDVQ_ROWS;
    if (most > share) most = share;
    const int parts = (t->windows + most - 1) / most;
#pragma omp parallel for schedule(dynamic) num_threads(c->threads) if (parts > 1)
    for (int i = 0; i < parts; i++) {
        const int last = (i + 1) * most < t->windows ? (i + 1) * most : t->windows;
#ifdef _OPENMP
        const int me = omp_get_thread_num();
#else
        const int me = 0;
#endif
        run_windows(c, t, slice, (const int[2]){ i * most, last },
                    c->work + (size_t)me * c->work_size);
    }
    return FV_OK;
}

/* Token of the nearest place of the slice that is coded (rdvq_int_net.h), or pad_token. */
static int32_t nearest(const rdvq_coder *c, const rdvq_tile *t, int window, int slice, int i)
{
    const rdvq_slices *s = &c->m->slices;
    const rdvq_layer *l = &s->layer[rdvq_layer_of(s, s->list[s->first[slice]])];
    const int across = l->side / l->cell_w, n = s->first[slice + 1] - s->first[slice];
    int best = -1, least = 0;
    for (int k = 0; k < n; k++) {
        if (!is_coded(c, t, window, s->list[s->first[slice] + k])) continue;
        const int far = abs(k / across - i / across) + abs(k % across - i % across);
        if (best < 0 || far < least) best = k, least = far;
    }
    return best < 0 ? c->m->cfg.pad_token
                    : history_of(c, window)[s->list[s->first[slice] + best]];
}

static void fill_history(rdvq_coder *c, const rdvq_tile *t, int slice)
{
    const rdvq_slices *s = &c->m->slices;
    for (int w = 0; w < t->windows; w++)
        for (int i = s->first[slice]; i < s->first[slice + 1]; i++)
            if (!is_coded(c, t, w, s->list[i]))
                history_of(c, w)[s->list[i]] = nearest(c, t, w, slice, i - s->first[slice]);
}

/* ---- Coder ----------------------------------------------------------------------------------- */

typedef struct carve {
    uint8_t *base; /* NULL: only count */
    uint64_t used;
    bool overflows;
} carve;

static void *take(carve *v, uint64_t a, uint64_t b, uint64_t c)
{
    void *at = v->base ? v->base + v->used : NULL;
    const uint64_t most = (uint64_t)1 << 62;
    if (b > most / a || a * b > most / c || a * b * c > most - v->used) v->overflows = true;
    else v->used += (a * b * c + 63) & ~(uint64_t)63;
    return at;
}

static void lay_out(rdvq_coder *c, carve *v)
{
    const rdvq_int *m = c->m;
    const uint64_t W = (uint64_t)c->max_windows, K = (uint64_t)m->cfg.codes,
                   T = (uint64_t)m->slices.tokens, S = (uint64_t)c->slice_rows,
                   G = (uint64_t)m->groups;
    c->cache = take(v, W, c->cache_size, sizeof *c->cache);
    c->history = take(v, W, T, sizeof *c->history);
    c->u = take(v, W * S, K, sizeof *c->u);
    c->start = take(v, W * S, G + 1, sizeof *c->start);
    c->row = take(v, W, 1, sizeof *c->row);
    c->symbols = take(v, W, 2 * 256, sizeof *c->symbols); /* of the largest layer */
    c->work = take(v, (uint64_t)c->threads, c->work_size, 1);
    c->prices.inner = take(v, G, (uint64_t)m->group + 1, sizeof *c->prices.inner);
    c->prices.is_made = take(v, G, 1, 1);
    c->list = take(v, W, S, sizeof *c->list);
}

static void set_sizes(rdvq_coder *c, const rdvq_int *m, int max_windows, int threads)
{
    c->m = m;
    c->max_windows = max_windows;
    c->threads = threads;
    for (int j = 0; j < m->slices.slices; j++) {
        const int n = m->slices.first[j + 1] - m->slices.first[j];
        if (n > c->slice_rows) c->slice_rows = n;
    }
    c->rows = c->slice_rows > RDVQ_ROWS ? c->slice_rows : RDVQ_ROWS;
    c->cache_size = rdvq_int_cache_size(m);
    c->work_size = (rdvq_int_work_size(m, c->rows) + 4095) & ~(size_t)4095;
}

uint64_t rdvq_coder_memory(const rdvq_int *m, int max_windows, int threads)
{
    rdvq_coder c = { 0 };
    carve v = { 0 };
    set_sizes(&c, m, max_windows > 0 ? max_windows : 1, threads > 0 ? threads : 1);
    lay_out(&c, &v);
    return v.overflows ? UINT64_MAX : v.used + sizeof c;
}

fv_status rdvq_coder_open(fv_ctx *ctx, rdvq_coder **out, const rdvq_int *m, int max_windows)
{
    *out = NULL;
    if (max_windows < 1) return fv_fail(ctx, FV_ERR_ARG, "rdvq: a tile has no windows");
    rdvq_coder *c = fv_calloc(ctx, 1, sizeof *c);
    carve v = { 0 };
    if (!c) return FV_ERR_OOM;
    c->ctx = ctx;
    set_sizes(c, m, max_windows, fv_ctx_threads(ctx));
    lay_out(c, &v);
    if (v.overflows || v.used > SIZE_MAX / 2) {
        fv_free(ctx, c);
        return fv_fail(ctx, FV_ERR_OOM, "rdvq: a tile of %d windows does not fit memory",
                       max_windows);
    }
    c->arena = fv_calloc(ctx, (size_t)v.used, 1);
    if (!c->arena) {
        fv_free(ctx, c);
        return FV_ERR_OOM;
    }
    v = (carve){ .base = c->arena };
    lay_out(c, &v);
    make_log(c->log);
    c->prices.m = m;
    c->prices.log = c->log;
    const fv_status s = fv_ctx_device(ctx) == FV_DEVICE_CPU
                            ? FV_OK
                            : rdvq_device_open(ctx, &c->device, m, max_windows);
    if (s == FV_OK) *out = c;
    else rdvq_coder_close(&c);
    return s;
}

void rdvq_coder_close(rdvq_coder **c)
{
    if (!c || !*c) return;
    fv_ctx *ctx = (*c)->ctx;
    rdvq_device_close(&(*c)->device);
    fv_free(ctx, (*c)->arena);
    fv_free(ctx, *c);
    *c = NULL;
}

static fv_status begin(rdvq_coder *c, const rdvq_tile *t, int slices)
{
    if (t->windows < 1 || t->windows > c->max_windows)
        return fv_fail(c->ctx, FV_ERR_ARG, "rdvq: a tile of %d windows, the coder has room for %d",
                       t->windows, c->max_windows);
    if (slices < 0 || slices > c->m->slices.slices)
        return fv_fail(c->ctx, FV_ERR_ARG, "rdvq: %d slices, the model has %d", slices,
                       c->m->slices.slices);
    const size_t n = (size_t)t->windows * (size_t)c->m->slices.tokens;
    for (size_t i = 0; i < n; i++) c->history[i] = c->m->cfg.pad_token;
    c->symbol_count = 0;
    return FV_OK;
}

static int layer_of_slice(const rdvq_int *m, int slice)
{
    return rdvq_layer_of(&m->slices, m->slices.list[m->slices.first[slice]]);
}

static bool ends_layer(const rdvq_int *m, int slice)
{
    const rdvq_layer *l = &m->slices.layer[layer_of_slice(m, slice)];
    return slice + 1 == l->first_slice + l->slices;
}

/* ---- Encoding -------------------------------------------------------------------------------- */

static fv_status encode_token(rdvq_coder *c, const rdvq_prices *p, int32_t token, double *bits)
{
    if (token < 0 || token >= c->m->cfg.codes)
        return fv_fail(c->ctx, FV_ERR_ARG, "rdvq: token %d, the model has %d codes", (int)token,
                       c->m->cfg.codes);
    const int g = token / c->m->group;
    add_symbol(c, p->start, g);
    add_symbol(c, starts_within(p, g), token % c->m->group);
    *bits += rdvq_price(p, token) / 65536.0;
    return FV_OK;
}

static fv_status encode_slice(rdvq_coder *c, const rdvq_tile *t, int slice,
                              const rdvq_chooser *choose, int32_t *tokens, double *bits)
{
    const rdvq_slices *s = &c->m->slices;
    for (int w = 0; w < t->windows; w++) {
        int row = c->row[w];
        for (int i = s->first[slice]; i < s->first[slice + 1]; i++) {
            const int position = s->list[i];
            const size_t at = (size_t)w * (size_t)s->tokens + (size_t)position;
            if (!t->is_coded[at]) continue;
            const rdvq_prices *p = look_at(c, row++);
            if (choose) tokens[at] = choose->choose(choose->user, w, position, p);
            FV_TRY(encode_token(c, p, tokens[at], bits));
            history_of(c, w)[position] = tokens[at];
        }
    }
    fill_history(c, t, slice);
    return FV_OK;
}

fv_status rdvq_tile_encode(rdvq_coder *c, const rdvq_tile *t, int slices,
                           const rdvq_chooser *choose, int32_t *tokens,
                           vz_buf seg[RDVQ_MAX_LAYERS], double *bits)
{
    double sum = 0;
    FV_TRY(begin(c, t, slices));
    for (int j = 0; j < slices; j++) {
        FV_TRY(run_slice(c, t, j));
        FV_TRY(encode_slice(c, t, j, choose, tokens, &sum));
        if (j + 1 == slices || ends_layer(c->m, j))
            FV_TRY(put_segment(c, &seg[layer_of_slice(c->m, j)]));
    }
    if (bits) *bits = sum;
    return FV_OK;
}

/* ---- Decoding -------------------------------------------------------------------------------- */

typedef struct decoder {
    rdvq_coder *c;
    const rdvq_tile *tile;
    const rdvq_segment *segment; /* of the layer */
    const rdvq_complete *complete;
    reader r;
    bool has_state;              /* the layer's first state has been read */
} decoder;

static fv_status damaged(const decoder *d, int slice, const char *why)
{
    return fv_fail(d->c->ctx, FV_ERR_FORMAT, "rdvq: segment of layer %d: %s",
                   layer_of_slice(d->c->m, slice), why);
}

/* The likeliest, or drawn. */
static int32_t complete_token(const decoder *d, const rdvq_prices *p, int window, int position)
{
    const rdvq_int *m = d->c->m;
    uint32_t random[4];
    int code = 0;
    if (!d->complete || !d->complete->sampled) {
        while (p->u[code] != 0) code++; /* that of the largest logit is 0 */
        return code;
    }
    fv_philox(d->complete->seed, FV_STREAM_SAMPLING, d->complete->tile,
              (uint64_t)window * (uint64_t)m->slices.tokens + (uint64_t)position, random);
    const int g = find(p->start, m->groups, random[0] >> 16);
    return g * m->group + find(starts_within(p, g), size_of_group(m, g), random[1] >> 16);
}

/* A token from the bytes; *is_short: they do not hold it. */
static fv_status next_token(decoder *d, const rdvq_prices *p, int slice, int32_t *token,
                            bool *is_short)
{
    if (!d->has_state) {
        const rdvq_segment *s = d->segment;
        d->r = (reader){ s->bytes, s->bytes + s->size, 0 };
        *is_short = s->size < 4;
        if (!*is_short) {
            for (int i = 0; i < 4; i++) d->r.x |= (uint32_t)*d->r.p++ << (8 * i);
            if (d->r.x < RANS_LOW || d->r.x >> 31)
                return damaged(d, slice, "its first state is impossible");
            d->has_state = true;
        }
    }
    if (!*is_short) {
        *token = read_token(&d->r, p);
        *is_short = *token < 0;
    }
    if (*is_short && !d->segment->is_cut) return damaged(d, slice, "it ends too early");
    return FV_OK;
}

/* Tokens of a slice from the bytes, or completed where there are none. */
static fv_status decode_slice(decoder *d, int slice, bool *has_bytes)
{
    const rdvq_coder *c = d->c;
    const rdvq_slices *s = &c->m->slices;
    for (int w = 0; w < d->tile->windows; w++) {
        int row = c->row[w];
        for (int i = s->first[slice]; i < s->first[slice + 1]; i++) {
            const int position = s->list[i];
            bool is_short = false;
            int32_t token = 0;
            if (!is_coded(c, d->tile, w, position)) continue;
            const rdvq_prices *p = look_at(d->c, row++);
            if (*has_bytes) FV_TRY(next_token(d, p, slice, &token, &is_short));
            if (is_short) { /* the whole slice is made instead */
                *has_bytes = false;
                return decode_slice(d, slice, has_bytes);
            }
            if (!*has_bytes) token = complete_token(d, p, w, position);
            history_of(c, w)[position] = token;
        }
    }
    return FV_OK;
}

/* Behind the last symbol of a segment. */
static fv_status check_end(decoder *d, int slice)
{
    if (d->segment->is_cut) return FV_OK;
    if (d->has_state && (!renormalise(&d->r) || d->r.x != RANS_LOW))
        return damaged(d, slice, "its last state is wrong");
    if (d->has_state ? d->r.p != d->r.end : d->segment->size != 0)
        return damaged(d, slice, "bytes are left over");
    return FV_OK;
}

fv_status rdvq_tile_decode(rdvq_coder *c, const rdvq_tile *t, int slices,
                           const rdvq_segment seg[RDVQ_MAX_LAYERS], const rdvq_complete *complete,
                           int32_t *tokens, int *decoded)
{
    const rdvq_slices *s = &c->m->slices;
    decoder d = { .c = c, .tile = t, .complete = complete };
    bool has_bytes = slices > 0;
    *decoded = 0;
    FV_TRY(begin(c, t, slices));
    for (int j = 0; j < s->slices; j++) {
        const int layer = layer_of_slice(c->m, j);
        has_bytes = has_bytes && j < slices;
        if (j == s->layer[layer].first_slice) {
            d.segment = &seg[layer];
            d.has_state = false;
        }
        FV_TRY(run_slice(c, t, j));
        FV_TRY(decode_slice(&d, j, &has_bytes));
        if (has_bytes) {
            *decoded = j + 1;
            if (j + 1 == slices || ends_layer(c->m, j)) FV_TRY(check_end(&d, j));
        }
        fill_history(c, t, j);
    }
    for (int w = 0; w < t->windows; w++)
        for (int i = 0; i < s->tokens; i++)
            tokens[(size_t)w * (size_t)s->tokens + (size_t)i] =
                is_coded(c, t, w, i) ? history_of(c, w)[i] : c->m->cfg.pad_token;
    return FV_OK;
}
