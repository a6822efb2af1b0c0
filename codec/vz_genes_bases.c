/* vz_genes_bases.c - the model of nucleotides: two binary decisions a base.
 *
 *     contexts of the last 1..24 bases -> a probability each \
 *     match models, also of the opposite strand              -> mixer -> SSE -> range coder
 *
 * Short contexts index tables of their own; long ones are hashed into groups of four cells, one for
 * each last base, so that a group can be fetched one base ahead. A cell is a check and three
 * probabilities of 12 bits with 4 bits of count; what count and probability together are worth is
 * learnt in a map.
 *
 * Both strands of DNA carry the sequence, and reads come from both: after base x(t), the complement
 * of x(t-k) is learnt in the context that the opposite strand shows, the complements of x(t-k+1) ..
 * x(t) read backwards; match models follow such copies downwards. A match survives single
 * mismatches, as most repeats and all reads have them.
 *
 * Sources: GeCo2 and GeCo3 (Pratas et al. 2016, 2020: mixtures of context models with inverted
 * repeats and tolerance of substitutions), XM (Cao et al. 2007: copy models), and cm_parts.h. */
#include "vz_genes.h"

#include <string.h>

#define DIRECT_MAX 8
#define HASHED_MAX 9
#define MATCH_MAX 3
#define INPUTS_MAX (DIRECT_MAX + 2 * HASHED_MAX + 2 * MATCH_MAX + 1)
#define MISSES_MAX 8 /* of the last 16 bases, before a match is given up */
#define VERIFY_MAX 32

typedef struct plan {
    int direct, orders[DIRECT_MAX];
    int hashed, long_orders[HASHED_MAX];
    int matches, lengths[MATCH_MAX];
} plan;
static const plan *plan_of(int level)
{
    static const plan plans[] = {
        {4, {2, 4, 6, 9}, 2, {12, 16}, 1, {20}},
        {6, {1, 2, 3, 4, 6, 9}, 4, {11, 13, 16, 20}, 2, {24, 12}},
        {7, {1, 2, 3, 4, 6, 8, 9}, 8, {10, 11, 12, 13, 14, 16, 18, 22}, 3, {32, 20, 12}},
    };
    return &plans[vz_class_of(level)];
}

typedef struct cell {
    uint16_t check, p[3];
} cell;

typedef struct match {
    uint32_t *table; /* end of the last occurrence of a hash of `order` bases, plus 1 */
    int order, log2;
    bool is_on, is_inverted;
    uint32_t at; /* the base that is expected next, its complement if inverted */
    uint32_t length, misses;
    vz_prob map[16 * 16], *used;
    int expected; /* -1: none */
} match;

typedef struct hashed {
    cell *cells;
    int order;
    cell *group, *now, *late; /* of the next base; of this one; of the opposite strand */
    uint16_t check, next_check, late_check;
    int late_symbol; /* -1: none */
    vz_prob map[3][16 * 64], *used;
} hashed;

typedef struct model {
    const plan *p;
    vz_logistic lg;
    vz_mixer mixer;
    vz_apm apm[2];
    uint8_t *memory;
    int log2;             /* cells of a hashed order */
    uint16_t rate[2][16]; /* steps of cells by count, Q16: middle and high orders */
    vz_prob *direct[DIRECT_MAX];
    hashed h[HASHED_MAX];
    match m[MATCH_MAX];
    uint64_t past, opposite; /* last 32 bases, newest lowest; their complements, newest highest */
    const uint8_t *bases;
    uint32_t t;
    const vz_genes_bits *bits;
    uint32_t side;
} model;

static uint64_t mask_of(int order)
{
    return order >= 32 ? UINT64_MAX : ((uint64_t)1 << (2 * order)) - 1;
}
/* The last `order` bases of the opposite strand, in the layout of `past`. */
static uint64_t opposite_of(const model *m, int order)
{
    return m->opposite >> (64 - 2 * order);
}

/* ---- Hashed contexts ------------------------------------------------------------------------- */

#define MIX64 0x9e3779b97f4a7c15u
static cell *group_of(const model *m, const hashed *h, uint64_t context, uint16_t *check)
{
    const uint64_t x = (context + 1) * MIX64, y = (x ^ x >> 29) * 0xbf58476d1ce4e5b9u;
    *check = (uint16_t)((y >> 8 & 0x7fff) | 0x8000);
    return h->cells + ((y >> (64 - (m->log2 - 2))) << 2);
}

/* A cell for this check: an old one with little in it gives way. */
static void claim(cell *c, uint16_t check)
{
    if (c->check == check) return;
    if (c->check && (c->p[0] & 15) > 2) { /* first it ages */
        c->p[0] = (uint16_t)(c->p[0] - 2);
        return;
    }
    c->check = check;
    c->p[0] = c->p[1] = c->p[2] = 2048 << 4;
}

static void cell_update(const model *m, uint16_t *p, int bit, int is_high)
{
    const int n = *p & 15;
    const int32_t v = *p >> 4, target = bit ? 4095 : 0;
    const int32_t w = v + vz_sar((target - v) * m->rate[is_high][n] + 32768, 16);
    *p = (uint16_t)(w << 4 | (n < 15 ? n + 1 : 15));
}

static void cell_symbol(const model *m, cell *c, int symbol, int is_high)
{
    cell_update(m, &c->p[0], symbol >> 1, is_high);
    cell_update(m, &c->p[1 + (symbol >> 1)], symbol & 1, is_high);
}

/* After a base: what the opposite strand shows is learnt one base later, when it has been fetched.
 */
static void hashed_next(model *m, hashed *h, int symbol)
{
    const int high = h->order >= 14;
    if (h->now->check == h->check) cell_symbol(m, h->now, symbol, high);
    if (h->late_symbol >= 0) {
        claim(h->late, h->late_check);
        if (h->late->check == h->late_check) cell_symbol(m, h->late, h->late_symbol, high);
    }
    h->late_symbol = -1;
    if (m->t > (uint32_t)h->order) {
        const uint64_t c = opposite_of(m, h->order);
        h->late = group_of(m, h, c >> 2, &h->late_check) + (c & 3);
        h->late_symbol = 3 - m->bases[m->t - 1 - (uint32_t)h->order];
        FV_PREFETCH(h->late);
    }
    /* `group` was found without the newest base; the next one needs order - 1 bases */
    h->now = h->group + symbol;
    h->check = h->next_check;
    h->group = group_of(m, h, m->past & mask_of(h->order - 1), &h->next_check);
    FV_PREFETCH(h->group);
}

/* ---- Matches --------------------------------------------------------------------------------- */

static uint32_t match_slot(const match *a, uint64_t context)
{
    return (uint32_t)(((context + 1) * MIX64) >> (64 - a->log2));
}

/* Equal bases before `at` (the next one), at most VERIFY_MAX. */
static uint32_t forward_length(const model *m, uint32_t at)
{
    uint32_t n = 0;
    while (n < VERIFY_MAX && n < at && m->bases[at - 1 - n] == m->bases[m->t - 1 - n]) n++;
    return n;
}
static uint32_t inverted_length(const model *m, uint32_t at)
{
    uint32_t n = 0; /* at: next one downwards; at + 1 + n is the partner of the n-th last base */
    while (n < VERIFY_MAX && at + 1 + n < m->t && n < m->t &&
           m->bases[at + 1 + n] == 3 - m->bases[m->t - 1 - n])
        n++;
    return n;
}

static void match_find(const model *m, match *a)
{
    const uint32_t k = (uint32_t)a->order;
    const uint32_t f = a->table[match_slot(a, m->past & mask_of(a->order))];
    const uint32_t r = a->table[match_slot(a, opposite_of(m, a->order))];
    const uint32_t nf = f ? forward_length(m, f) : 0;
    const uint32_t nr = r > k ? inverted_length(m, r - k - 1) : 0;
    const uint32_t n = nf >= nr ? nf : nr;
    if (n < k || (a->is_on && n <= a->length)) return;
    a->is_on = true;
    a->is_inverted = nr > nf;
    a->at = a->is_inverted ? r - k - 1 : f;
    a->length = n;
    a->misses = 0;
}

static int ones(uint32_t x)
{
    int n = 0;
    for (; x; x &= x - 1) n++;
    return n;
}

static void match_next(model *m, match *a, int symbol)
{
    if (a->expected >= 0) {
        const bool hit = a->expected == symbol;
        a->misses = (a->misses << 1 | !hit) & 0xffff;
        a->length = hit ? a->length + (a->length < 65535) : 0;
        if (a->is_inverted && a->at == 0) a->is_on = false;
        a->at = a->is_inverted ? a->at - 1 : a->at + 1;
        if (ones(a->misses) > MISSES_MAX) a->is_on = false;
    }
    if (m->t < (uint32_t)a->order) return;
    if (!a->is_on || (a->misses && a->length < (uint32_t)a->order + 4)) match_find(m, a);
    a->table[match_slot(a, m->past & mask_of(a->order))] = m->t;
    FV_PREFETCH(&a->table[match_slot(a, (m->past << 2) & mask_of(a->order))]);
}

static void match_expect(const model *m, match *a)
{
    static const uint16_t steps[] = {1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 48, 96, 200, 400};
    a->expected = -1;
    if (!a->is_on || a->at >= m->t) return;
    a->expected = a->is_inverted ? 3 - m->bases[a->at] : m->bases[a->at];
    uint32_t i = 0;
    while (i < FV_ARRAY_LEN(steps) && a->length >= steps[i]) i++;
    const int n = ones(a->misses);
    a->used = &a->map[i * 16 + (uint32_t)(n < 8 ? 2 * n : 14) + (a->misses & 1)];
}

/* ---- A decision ------------------------------------------------------------------------------ */

/* node: 0 for the first bit, 1 + first bit for the second. */
static int code_bit(model *m, int node, int bit)
{
    const plan *p = m->p;
    vz_prob *d[DIRECT_MAX];
    int16_t *x = m->mixer.x;
    int n = 0;
    for (int i = 0; i < p->direct; i++) {
        d[i] = &m->direct[i][(m->past & mask_of(p->orders[i])) * 4 + (uint32_t)node];
        x[n++] = (int16_t)vz_stretch(&m->lg, vz_prob_p16(*d[i]));
    }
    for (int i = 0; i < p->hashed; i++) {
        hashed *h = &m->h[i];
        const uint32_t v = h->now->p[node];
        h->used = NULL;
        x[n] = x[n + 1] = 0;
        if (h->now->check == h->check && (v & 15)) {
            h->used = &h->map[node][(v & 15) * 64 + (v >> 10)];
            const int32_t q = (int32_t)vz_prob_p16(*h->used);
            x[n] = (int16_t)vz_stretch(&m->lg, (uint32_t)q);
            x[n + 1] = (int16_t)vz_sar(q - 32768, 5);
        }
        n += 2;
    }
    uint32_t state = 0;
    for (int i = 0; i < p->matches; i++) {
        match *a = &m->m[i];
        const bool on = a->expected >= 0 && (node == 0 || a->expected >> 1 == node - 1);
        x[n] = x[n + 1] = 0;
        if (on) {
            const int up = node ? a->expected & 1 : a->expected >> 1;
            const int32_t q = (int32_t)vz_prob_p16(*a->used);
            const int32_t s = vz_stretch(&m->lg, (uint32_t)q), l = vz_sar(q - 32768, 5);
            x[n] = (int16_t)(up ? s : -s);
            x[n + 1] = (int16_t)(up ? l : -l);
            if (!state) state = 1 + (uint32_t)(q >> 13);
        }
        n += 2;
    }
    x[n] = 256;
    vz_mixer_pick(&m->mixer, 0, state * 3 + (uint32_t)node);
    vz_mixer_pick(&m->mixer, 1, (uint32_t)(m->past & 255) * 3 + (uint32_t)node);
    vz_mixer_pick(&m->mixer, 2, m->side * 3 + (uint32_t)node);
    vz_mixer_pick2(&m->mixer, (uint32_t)node);
    const int32_t logit = vz_mixer_logit(&m->mixer);
    const uint32_t in[2] = {(uint32_t)(m->past & 0xfff), m->side * 9 + state};
    const uint32_t a0 = vz_apm_p16(&m->apm[0], logit, in[0] * 3 + (uint32_t)node);
    const uint32_t a1 = vz_apm_p16(&m->apm[1], logit, in[1] * 3 + (uint32_t)node);
    const uint32_t q = (2 * vz_squash(&m->lg, logit) + a0 + a1) >> 2;
    bit = vz_genes_bit(m->bits, vz_p16_clamp(q), bit);
    vz_mixer_update(&m->mixer, bit);
    vz_apm_update(&m->apm[0], bit, 7);
    vz_apm_update(&m->apm[1], bit, 7);
    for (int i = 0; i < p->direct; i++) vz_prob_update(&m->lg, d[i], bit, 1022);
    for (int i = 0; i < p->hashed; i++)
        if (m->h[i].used) vz_prob_update(&m->lg, m->h[i].used, bit, 1022);
    return bit;
}

static int code_base(model *m, int symbol)
{
    for (int i = 0; i < m->p->hashed; i++) {
        hashed *h = &m->h[i];
        claim(h->now, h->check);
    }
    for (int i = 0; i < m->p->matches; i++) match_expect(m, &m->m[i]);
    const int first = code_bit(m, 0, symbol >> 1);
    symbol = first * 2 + code_bit(m, 1 + first, symbol & 1);
    for (int i = 0; i < m->p->matches; i++)
        if (m->m[i].expected >= 0)
            vz_prob_update(&m->lg, m->m[i].used, m->m[i].expected == symbol, 500);
    return symbol;
}

static void after_base(model *m, int symbol)
{
    m->t++;
    m->past = m->past << 2 | (uint64_t)symbol;
    m->opposite = m->opposite >> 2 | (uint64_t)(3 - symbol) << 62;
    for (int i = 0; i < m->p->hashed; i++) hashed_next(m, &m->h[i], symbol);
    for (int i = 0; i < m->p->matches; i++) match_next(m, &m->m[i], symbol);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static const uint32_t MIX_CONTEXTS[3] = {9 * 3, 256 * 3, VZ_GENES_SIDES * 3};
static const uint32_t APM_CONTEXTS[2] = {4096 * 3, VZ_GENES_SIDES * 9 * 3};

typedef struct layout {
    int log2, match_log2;
    size_t direct[DIRECT_MAX], hashed, match, mixer, apm[2], total;
} layout;

/* Tables in proportion to the bases, at most half of the memory that the frame's header allows for
 * contexts and a quarter for matches: the streams take as much again. */
static layout lay_out(const vz_cm_options *o, uint64_t count)
{
    const plan *p = plan_of(o->level);
    layout l = {0};
    size_t at = 0;
    const int need = vz_log2_within(count, 0, 40) + 2;
    const int most = o->memory_log2 - 4 - vz_log2_within((uint64_t)p->hashed, 0, 40);
    l.log2 = vz_clamp(need, 10, most < 10 ? 10 : most);
    l.match_log2 = vz_clamp(need - 1, 10, o->memory_log2 - 5 < 24 ? o->memory_log2 - 5 : 24);
    for (int i = 0; i < p->direct; i++) {
        l.direct[i] = at;
        at += sizeof(vz_prob) << (2 * p->orders[i] + 2);
        at = (at + 63) / 64 * 64;
    }
    l.hashed = at;
    at += (size_t)p->hashed * (sizeof(cell) << l.log2);
    l.match = at;
    at += (size_t)p->matches * (sizeof(uint32_t) << l.match_log2);
    l.mixer = at;
    at += (vz_mixer_bytes(INPUTS_MAX, 3, MIX_CONTEXTS, 3) + 63) / 64 * 64;
    for (int i = 0; i < 2; i++) {
        l.apm[i] = at;
        at += (vz_apm_bytes(APM_CONTEXTS[i]) + 63) / 64 * 64;
    }
    l.total = at;
    return l;
}

uint64_t vz_bases_memory(const vz_cm_options *o, uint64_t count)
{
    return lay_out(o, count).total + sizeof(model) + 128;
}

static void init(model *m, fv_ctx *ctx, const layout *l)
{
    const plan *p = m->p;
    vz_logistic_init(&m->lg);
    m->log2 = l->log2;
    for (int n = 0; n < 16; n++) {
        m->rate[0][n] = (uint16_t)(655360 / (10 * (n < 15 ? n : 30) + 16));
        m->rate[1][n] = (uint16_t)(655360 / (10 * (n < 6 ? n : 6) + 16));
    }
    for (int i = 0; i < p->direct; i++) {
        m->direct[i] = (vz_prob *)(m->memory + l->direct[i]);
        vz_fill32(m->direct[i], (size_t)4 << (2 * p->orders[i]), vz_prob_of(32768, 0));
    }
    for (int i = 0; i < p->hashed; i++) {
        hashed *h = &m->h[i];
        h->cells = (cell *)(m->memory + l->hashed) + ((size_t)i << l->log2);
        h->order = p->long_orders[i];
        h->late_symbol = -1;
        h->group = h->now = group_of(m, h, 0, &h->check);
        h->next_check = h->check;
        for (uint32_t k = 0; k < 16 * 64; k++)
            for (int n = 0; n < 3; n++) h->map[n][k] = vz_prob_of(((k & 63) * 1024 + 512), 6);
    }
    for (int i = 0; i < p->matches; i++) {
        match *a = &m->m[i];
        a->table = (uint32_t *)(m->memory + l->match) + ((size_t)i << l->match_log2);
        a->order = p->lengths[i];
        a->log2 = l->match_log2;
        a->expected = -1;
        for (uint32_t k = 0; k < 256; k++)
            a->map[k] = vz_prob_of((k >> 4) > 8 && (k & 15) < 4 ? 64000 : 50000, 4);
    }
    vz_mixer_init(&m->mixer, vz_mix_ops_for(fv_ctx_cpu(ctx)), &m->lg, m->memory + l->mixer,
                  p->direct + 2 * (p->hashed + p->matches) + 1, 3, MIX_CONTEXTS, 3, 65536 / 5);
    for (int i = 0; i < 2; i++)
        vz_apm_init(&m->apm[i], &m->lg, (uint16_t *)(m->memory + l->apm[i]), APM_CONTEXTS[i]);
}

static fv_status run(fv_ctx *ctx, model *m, uint8_t *bases, size_t count, const uint8_t *side)
{
    for (size_t i = 0; i < count; i++) {
        m->side = side ? side[i] : 0;
        m->mixer.rate = 24 + (int32_t)(300000 / (1000 + i));
        const int symbol = code_base(m, m->bits->e ? bases[i] : 0);
        bases[i] = (uint8_t)symbol;
        after_base(m, symbol);
        if (i % 16384 == 16383) FV_TRY(fv_report(ctx, "coding", i, 0, NULL));
        if (!m->bits->e && m->bits->d->past > 4)
            return fv_fail(ctx, FV_ERR_TRUNCATED, "vzip: the code of bases ends after %zu of %zu",
                           i, count);
    }
    return FV_OK;
}

fv_status vz_bases_code(fv_ctx *ctx, const vz_cm_options *o, const vz_genes_bits *b, uint8_t *bases,
                        size_t count, const uint8_t *side)
{
    const layout l = lay_out(o, count);
    if (count == 0) return FV_OK;
    if (count >= UINT32_MAX)
        return fv_fail(ctx, FV_ERR_LIMIT, "vzip: a segment has too many bases");
    model *m = fv_calloc(ctx, 1, sizeof *m);
    if (!m) return FV_ERR_OOM;
    m->memory = fv_calloc(ctx, 1, l.total);
    fv_status s = FV_ERR_OOM;
    if (m->memory) {
        m->p = plan_of(o->level);
        m->bits = b;
        m->bases = bases;
        init(m, ctx, &l);
        s = run(ctx, m, bases, count, side);
    }
    fv_free(ctx, m->memory);
    fv_free(ctx, m);
    return s;
}
