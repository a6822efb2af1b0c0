/* cm.c - the engine of the context-mixing coder: memory, prediction and update of one bit, blocks.
 *
 * Encoder and decoder run the same predict() and update(); only the source of the bit differs.
 *
 *     code = range-coded bits of all segments of the block, one after the other
 *
 * Each text segment begins with one bit of probability 1/2: whether it is prose. Targets in machine
 * code are made absolute first (cm_exe.c). */
#include "cm.h"

#include <string.h>

#define DIRECT_LIMIT 255u
#define APM_SHIFT 6
#define NO_OPINION 0x80000000u /* of the empty history, for ever */
#define RATE_AT_START 600u
#define BLOCK_MAX ((uint64_t)1 << 30)

static vz_cm_class class_of(int level)
{
    return level <= 2 ? VZ_CM_FAST : level <= 5 ? VZ_CM_MID : VZ_CM_MAX;
}

/* What a class has. contexts: of the family with most of them; runs: how many of them, from
 * FIRST_RUN on, also keep the byte that came last. */
typedef struct plan {
    int contexts, per_context, runs, direct, matches, selectors, apms;
    uint32_t groups[VZ_MIX_SELECTORS];
    int run_log2;
    int32_t first_weight, rate; /* of the mixer */
} plan;
static const plan PLANS[3] = {
    {8, 1, 0, 1, 1, 2, 2, {256, 512}, 0, 12000, 250},
    {20, 2, 5, 2, 2, 5, 3, {256, 512, 256, 256, 2048}, 20, 6000, 120},
    {32, 2, 30, 2, 3, 8, 4, {256, 512, 256, 512, 2048, 256, 2048, 2048}, 22, 3000, 100},
};
#define FIRST_RUN 2
#define MIX2_CONTEXTS 256u

/* ---- Memory ---------------------------------------------------------------------------------- */

static int log2_ceil(uint64_t x)
{
    int n = 0;
    while (n < 40 && ((uint64_t)1 << n) < x) n++;
    return n;
}
/* Small inputs get small tables: clearing them would take longer than coding. Two slots of 16 bytes
 * per context and byte is what a file without repetition fills. */
static int table_log2(const vz_cm_options *o, vz_cm_class k, uint64_t total)
{
    const int need = log2_ceil(total * (uint64_t)PLANS[k].contexts * 32);
    return need < 16 ? 16 : need < o->memory_log2 ? need : o->memory_log2;
}
static int match_log2(uint64_t total)
{
    const int need = log2_ceil(total);
    return need < 10 ? 10 : need > 22 ? 22 : need;
}
static int small_log2(uint64_t total, int least, int most)
{
    const int need = log2_ceil(total);
    return need < least ? least : need > most ? most : need;
}
/* Contexts, runs, direct, matches, neural prior, constant. */
static int inputs_of(const plan *p)
{
    return p->contexts * p->per_context + p->runs + p->direct * p->per_context +
           2 * p->matches + VZ_CM_EXTRA + 1;
}
static size_t maps_bytes(const plan *p)
{
    return (size_t)p->contexts * 256 * sizeof(uint32_t) +
           (size_t)p->runs * VZ_CM_RUN_CELLS * sizeof(vz_prob);
}
static size_t family_bytes(const plan *p, int apm_log2)
{
    return maps_bytes(p) +
           vz_mixer_bytes(inputs_of(p), p->selectors, p->groups, MIX2_CONTEXTS) +
           (size_t)p->apms * vz_apm_bytes(1u << apm_log2);
}
#define DIRECT_LOG2(total) small_log2((total) * 16, 12, 20)
#define APM_LOG2(total) small_log2(total, 10, 16)
#define RUN_LOG2(p, total) small_log2((total) * 2, 10, (p)->run_log2)

uint64_t vz_cm_memory(const vz_cm_options *o, uint64_t size)
{
    const vz_cm_class k = class_of(o->level);
    const plan *p = &PLANS[k];
    return sizeof(vz_cm) + ((uint64_t)1 << table_log2(o, k, size)) + size + 64 +
           (uint64_t)p->matches * ((uint64_t)4 << match_log2(size)) +
           ((uint64_t)4 << 16) + ((uint64_t)4 << DIRECT_LOG2(size)) +
           (p->runs ? (uint64_t)sizeof(vz_run) << RUN_LOG2(p, size) : 0) +
           (uint64_t)VZ_CM_FAMILIES * (family_bytes(p, APM_LOG2(size)) + 256) + 4096;
}

static void release(vz_cm *cm)
{
    for (int i = 0; i < VZ_CM_FAMILIES; i++) {
        fv_free(cm->ctx, cm->family[i].maps);
    }
    for (int i = 0; i < VZ_CM_MATCHES; i++) fv_free(cm->ctx, cm->match[i].table);
    for (int i = 0; i < 2; i++) fv_free(cm->ctx, cm->direct[i]);
    fv_free(cm->ctx, cm->run_table);
    fv_free(cm->ctx, cm->hist);
    fv_free(cm->ctx, cm->table);
    fv_free(cm->ctx, cm);
}

static fv_status make_family(vz_cm *cm, vz_family *f)
{
    const plan *p = &PLANS[cm->strength];
    const size_t mixer = vz_mixer_bytes(inputs_of(p), p->selectors, p->groups, MIX2_CONTEXTS);
    uint8_t *at = fv_alloc(cm->ctx, family_bytes(p, cm->apm_log2));
    if (!at) return FV_ERR_OOM;
    f->maps = (uint32_t *)at;
    for (int i = 0; i < p->contexts * 256; i++)
        f->maps[i] = i % 256 ? (uint32_t)cm->st.p16[i & 255] << 16 : NO_OPINION;
    f->run_maps = (vz_prob *)(f->maps + p->contexts * 256);
    for (uint32_t i = 0; i < (uint32_t)p->runs * VZ_CM_RUN_CELLS; i++)
        f->run_maps[i] = vz_prob_of(40000 + 1600 * (i / 4 % 16), 0);
    at += maps_bytes(p);
    vz_mixer_init(&f->mixer, cm->ops, &cm->lg, at, inputs_of(p), p->selectors, p->groups,
                  MIX2_CONTEXTS, p->first_weight);
    at += mixer;
    for (int i = 0; i < p->apms; i++) {
        vz_apm_init(&f->apm[i], &cm->lg, (uint16_t *)at, 1u << cm->apm_log2);
        at += vz_apm_bytes(1u << cm->apm_log2);
    }
    f->made = true;
    return FV_OK;
}

static int family_of(vz_kind kind)
{
    return kind == VZ_TEXT ? 0 : kind == VZ_X86 || kind == VZ_ARM64 ? 2 : 1;
}

/* Rates that learn fast from little, slowly from much. */
static uint32_t map_shift(uint32_t pos) { return pos < 512 ? 5 : pos < 4096 ? 6 : 7; }
static int32_t mixer_rate(int32_t rate, uint32_t pos)
{
    return rate + (int32_t)((RATE_AT_START << 15) / ((1u << 15) + pos));
}

static void start_models(vz_cm *cm, const vz_cm_options *o, uint64_t total)
{
    static const int SHIFT[3][VZ_CM_MATCHES] = {{5, 0, 0}, {6, 3, 0}, {8, 5, 2}};
    static const uint32_t LENGTH[3][VZ_CM_MATCHES] = {{6, 0, 0}, {5, 12, 0}, {4, 7, 16}};
    vz_logistic_init(&cm->lg);
    vz_states_init(&cm->st);
    vz_slots_init(&cm->slots, cm->table, table_log2(o, cm->strength, total));
    for (int i = 0; i < cm->matches; i++)
        vz_match_init(&cm->match[i], cm->match[i].table, match_log2(total),
                      SHIFT[cm->strength][i], LENGTH[cm->strength][i]);
    for (uint32_t k = 0; k < 1u << 16; k++) cm->direct[0][k] = vz_prob_of(32768, 0);
    for (uint32_t k = 0; k < 1u << cm->direct_log2; k++) cm->direct[1][k] = vz_prob_of(32768, 0);
    cm->c0 = cm->node = 1;
    cm->map_shift = map_shift(0);
}

/* kinds: bit i set: a segment of family i will come. */
static fv_status create(fv_ctx *ctx, const vz_cm_options *o, uint64_t total, uint32_t families,
                        vz_cm **out)
{
    if (total > BLOCK_MAX)
        return fv_fail(ctx, FV_ERR_LIMIT, "vzip: a block of %llu bytes is too large for modelling",
                       (unsigned long long)total);
    vz_cm *cm = fv_calloc(ctx, 1, sizeof *cm);
    if (!cm) return FV_ERR_OOM;
    cm->ctx = ctx;
    cm->strength = class_of(o->level);
    cm->ops = vz_mix_ops_for(fv_ctx_cpu(ctx));
    const plan *p = &PLANS[cm->strength];
    cm->matches = p->matches;
    cm->capacity = (uint32_t)total;
    cm->direct_log2 = DIRECT_LOG2(total);
    cm->apm_log2 = APM_LOG2(total);
    cm->run_log2 = RUN_LOG2(p, total);
    cm->hist = fv_alloc(ctx, (size_t)total + 8);
    cm->table = fv_calloc(ctx, (size_t)1 << table_log2(o, cm->strength, total), 1);
    cm->direct[0] = fv_alloc(ctx, ((size_t)1 << 16) * sizeof(vz_prob));
    cm->direct[1] = fv_alloc(ctx, ((size_t)1 << cm->direct_log2) * sizeof(vz_prob));
    if (p->runs) cm->run_table = fv_calloc(ctx, (size_t)1 << cm->run_log2, sizeof(vz_run));
    bool ok = cm->hist && cm->table && cm->direct[0] && cm->direct[1] &&
              (cm->run_table || !p->runs);
    for (int i = 0; i < cm->matches; i++) {
        cm->match[i].table = fv_calloc(ctx, (size_t)1 << match_log2(total), sizeof(uint32_t));
        ok = ok && cm->match[i].table;
    }
    if (ok) start_models(cm, o, total);
    for (int i = 0; i < VZ_CM_FAMILIES; i++)
        if (ok && families >> i & 1) ok = make_family(cm, &cm->family[i]) == FV_OK;
    if (!ok) {
        release(cm);
        return FV_ERR_OOM;
    }
    *out = cm;
    return FV_OK;
}

/* ---- One bit --------------------------------------------------------------------------------- */

FV_INLINE int16_t linear_of(uint32_t p16) { return (int16_t)(((int32_t)p16 - 32768) / 32); }
/* By how much of the byte is known: nothing, a little, half, nearly all. */
static const uint8_t PLACE[8] = {0, 1, 1, 2, 2, 2, 3, 3};

/* Inputs of the contexts; returns the place of the next input. */
FV_INLINE int16_t *context_inputs(vz_cm *cm, int16_t *x, int count, int each)
{
    const uint32_t *map = cm->f->maps, node = cm->node;
    for (int i = 0; i < count; i++, map += 256, x += each) {
        const uint32_t p = map[cm->slot[i][node]] >> 16;
        x[0] = (int16_t)vz_stretch(&cm->lg, p);
        if (each > 1) x[1] = linear_of(p);
    }
    return x;
}

/* Sure of the byte that came last in the context, as long as the bits so far agree with it. */
static int16_t *run_inputs(vz_cm *cm, int16_t *x)
{
    const int runs = PLANS[cm->strength].runs;
    vz_prob *map = cm->f->run_maps;
    for (int i = 0; i < runs; i++, map += VZ_CM_RUN_CELLS) {
        const vz_run *r = cm->run[i];
        const uint32_t byte = 256u | r->byte;
        cm->run_cell[i] = NULL;
        x[i] = 0;
        if (r->count == 0 || byte >> (8 - cm->bit) != cm->c0) continue;
        cm->run_cell[i] = map + (r->count < 15 ? r->count : 15) * 4 + PLACE[cm->bit];
        const int32_t v = vz_stretch(&cm->lg, vz_prob_p16(*cm->run_cell[i]));
        x[i] = (int16_t)(byte >> (7 - cm->bit) & 1 ? v : -v);
    }
    return x + runs;
}

static int16_t *match_inputs(vz_cm *cm, int16_t *x)
{
    for (int i = 0; i < cm->matches; i++, x += 2) {
        vz_match *m = &cm->match[i];
        x[0] = x[1] = 0;
        m->cell = NULL;
        if (m->expected == 0) continue;
        if (m->expected >> (8 - cm->bit) != cm->c0) {
            m->expected = 0;
            continue;
        }
        m->cell = m->map + m->bucket * 4 + PLACE[cm->bit];
        const uint32_t p = vz_prob_p16(*m->cell);
        const int sign = m->expected >> (7 - cm->bit) & 1 ? 1 : -1;
        x[0] = (int16_t)(vz_stretch(&cm->lg, p) * sign);
        x[1] = (int16_t)(linear_of(p) * sign);
    }
    return x;
}

static int16_t *direct_inputs(vz_cm *cm, int16_t *x, int count, int each)
{
    for (int i = 0; i < count; i++, x += each) {
        const uint32_t at = cm->direct_base[i] ^ cm->c0;
        cm->direct_cell[i] = cm->direct[i] + at;
        const uint32_t p = vz_prob_p16(*cm->direct_cell[i]);
        x[0] = (int16_t)vz_stretch(&cm->lg, p);
        if (each > 1) x[1] = linear_of(p);
    }
    return x;
}

/* Length class and expected bit of the first match model that predicts; 0: none does. */
static uint32_t match_state(const vz_cm *cm)
{
    for (int i = cm->matches - 1; i >= 0; i--) {
        const vz_match *m = &cm->match[i];
        if (m->expected) return (m->bucket + 1) * 2 + (m->expected >> (7 - cm->bit) & 1);
    }
    return 0;
}

static void pick_weights(vz_cm *cm, uint32_t match)
{
    vz_mixer *m = &cm->f->mixer;
    vz_mixer_pick(m, 0, cm->c0);
    vz_mixer_pick2(m, cm->c0);
    if (cm->strength == VZ_CM_FAST) {
        vz_mixer_pick(m, 1, match);
        return;
    }
    vz_mixer_pick(m, 1, match);
    vz_mixer_pick(m, 2, cm->c4 & 255);
    vz_mixer_pick(m, 3, cm->order * 8 + cm->bit);
    vz_mixer_pick(m, 4, cm->select[0] * 8 + cm->bit);
    if (cm->strength == VZ_CM_MID) return;
    vz_mixer_pick(m, 5, cm->c4 >> 8 & 255);
    vz_mixer_pick(m, 6, cm->select[1] * 8 + cm->bit);
    vz_mixer_pick(m, 7, cm->select[2] * 8 + cm->bit);
}

/* apm_base is hashed once per byte; the odd factor spreads the nodes over the table. */
FV_INLINE uint32_t apm_place(const vz_cm *cm, uint32_t base)
{
    return (base + cm->c0 * 0x9e3779b1u) >> (32 - cm->apm_log2);
}

static uint32_t corrected(vz_cm *cm, uint32_t match)
{
    vz_family *f = cm->f;
    const int32_t x = cm->logit;
    const uint32_t p = vz_squash(&cm->lg, x);
    const uint32_t a = vz_apm_p16(&f->apm[0], x, apm_place(cm, cm->apm_base[0]));
    const uint32_t b = vz_apm_p16(&f->apm[1], x, apm_place(cm, cm->apm_base[1]));
    if (cm->strength == VZ_CM_FAST) return (2 * p + a + b + 2) >> 2;
    const uint32_t c = vz_apm_p16(&f->apm[2], x, apm_place(cm, match * 0x85ebca6bu));
    if (cm->strength == VZ_CM_MID) return (p + a + b + c + 2) >> 2;
    const uint32_t d = vz_apm_p16(&f->apm[3], x, apm_place(cm, cm->apm_base[3]));
    return (2 * p + a + 2 * b + c + 2 * d + 4) >> 3;
}

/* The counts are constants for the compiler: one copy of the loops per class. */
FV_INLINE void predict_class(vz_cm *cm, int contexts, int each, int direct)
{
    vz_family *f = cm->f;
    int16_t *x = context_inputs(cm, f->mixer.x, contexts, each);
    if (each > 1) x = run_inputs(cm, x);
    x = match_inputs(cm, x);
    x = direct_inputs(cm, x, direct, each);
    *x++ = 256;
    if (cm->prior.logits) cm->prior.logits(cm->prior.user, cm->c0, x);
    const uint32_t match = match_state(cm);
    pick_weights(cm, match);
    cm->logit = vz_mixer_logit(&f->mixer);
    cm->p16 = vz_p16_clamp(corrected(cm, match));
}

static void predict(vz_cm *cm)
{
    switch (cm->strength) {
    case VZ_CM_FAST: predict_class(cm, 8, 1, 1); break;
    case VZ_CM_MID: predict_class(cm, 20, 2, 2); break;
    default: predict_class(cm, 32, 2, 2);
    }
}

static void set_runs(vz_cm *cm)
{
    const int runs = PLANS[cm->strength].runs;
    for (int i = 0; i < runs; i++) {
        const uint32_t h = cm->hash[i + FIRST_RUN];
        vz_run *r = cm->run_table + (h * 0x9e3779b1u >> (32 - cm->run_log2));
        if (r->check != (h & 0xffff)) {
            r->check = (uint16_t)h;
            r->count = 0;
        }
        cm->run[i] = r;
    }
}

static void update_runs(vz_cm *cm, uint32_t c)
{
    const int runs = PLANS[cm->strength].runs;
    for (int i = 0; i < runs; i++) {
        vz_run *r = cm->run[i];
        if (r->count && r->byte == c) {
            if (r->count < 255) r->count++;
        } else {
            r->count = 1;
            r->byte = (uint8_t)c;
        }
    }
}

static void set_slots(vz_cm *cm)
{
    const int n = PLANS[cm->strength].contexts;
    for (int i = 0; i < n; i++) FV_PREFETCH(vz_slots_line(&cm->slots, cm->hash[i]));
    cm->order = 0;
    for (int i = 0; i < n; i++) {
        cm->slot[i] = vz_slots_find(&cm->slots, cm->hash[i]);
        cm->order += cm->slot[i][1] != 0;
    }
}

/* The second nibble of each context has a slot of its own. */
static void set_half_slots(vz_cm *cm)
{
    const int n = PLANS[cm->strength].contexts;
    uint32_t h[VZ_CM_CONTEXTS];
    for (int i = 0; i < n; i++) {
        h[i] = vz_hash2(cm->hash[i], cm->c0);
        FV_PREFETCH(vz_slots_line(&cm->slots, h[i]));
    }
    for (int i = 0; i < n; i++) cm->slot[i] = vz_slots_find(&cm->slots, h[i]);
}

static void next_contexts(vz_cm *cm)
{
    switch (family_of(cm->kind)) {
    case 0: vz_cm_text_contexts(cm); break;
    case 1: vz_cm_binary_contexts(cm); break;
    default: vz_cm_code_contexts(cm);
    }
    cm->direct_base[0] = (cm->c4 & 255) << 8;
    cm->direct_base[1] = vz_hash2(cm->c4 & 0xffff, 0) >> (32 - cm->direct_log2);
    cm->apm_base[0] = vz_hash2(cm->c4 & 0xff, 1);
    cm->apm_base[1] = vz_hash2(cm->c4 & 0xffff, 2);
    cm->apm_base[3] = vz_hash2(cm->c4 & 0xffffff, 3);
    set_slots(cm);
    set_runs(cm);
}

static void end_byte(vz_cm *cm)
{
    cm->f->mixer.rate = mixer_rate(PLANS[cm->strength].rate, cm->pos);
    cm->map_shift = map_shift(cm->pos);

    const uint32_t c = cm->c0 & 255;
    update_runs(cm, c);
    cm->hist[cm->pos++] = (uint8_t)c;
    cm->c8 = cm->c8 << 8 | cm->c4 >> 24;
    cm->indirect2[cm->c4 & 0xffff] = (uint16_t)(cm->indirect2[cm->c4 & 0xffff] << 8 | c);
    cm->indirect1[cm->c4 & 255] = (uint16_t)(cm->indirect1[cm->c4 & 255] << 8 | c);
    cm->c4 = cm->c4 << 8 | c;
    cm->c0 = cm->node = 1;
    cm->bit = 0;
    for (int i = 0; i < cm->matches; i++) vz_match_byte(&cm->match[i], cm->hist, cm->pos);
    if (cm->kind == VZ_TEXT) {
        vz_cm_text_byte(cm, c);
    } else {
        vz_cm_stride_byte(cm, c);
        vz_cm_word_byte(cm, c);
    }
    if (cm->kind == VZ_X86 || cm->kind == VZ_ARM64) vz_cm_code_byte(cm, c);
    if (cm->prior.byte) cm->prior.byte(cm->prior.user, (uint8_t)c);
    next_contexts(cm);
}

FV_INLINE void update_contexts(vz_cm *cm, int count, int bit)
{
    const uint32_t shift = cm->map_shift, node = cm->node;
    const uint8_t *next = cm->st.next[bit];
    uint32_t *map = cm->f->maps;
    for (int i = 0; i < count; i++, map += 256) {
        uint8_t *cell = cm->slot[i] + node;
        const uint32_t state = *cell, p = map[state];
        map[state] = bit ? p + (~p >> shift) : p - (p >> shift);
        map[0] = NO_OPINION;
        *cell = next[state];
    }
}

static void update_rest(vz_cm *cm, int bit)
{
    const plan *p = &PLANS[cm->strength];
    for (int i = 0; i < p->runs; i++)
        if (cm->run_cell[i])
            vz_prob_update(&cm->lg, cm->run_cell[i],
                           (cm->run[i]->byte >> (7 - cm->bit) & 1) == bit, 1022);
    for (int i = 0; i < cm->matches; i++) {
        vz_match *m = &cm->match[i];
        if (m->cell)
            vz_prob_update(&cm->lg, m->cell, (int)(m->expected >> (7 - cm->bit) & 1) == bit,
                           1022);
    }
    for (int i = 0; i < p->direct; i++)
        vz_prob_update(&cm->lg, cm->direct_cell[i], bit, DIRECT_LIMIT);
    for (int i = 0; i < p->apms; i++) vz_apm_update(&cm->f->apm[i], bit, APM_SHIFT);
}

static void update(vz_cm *cm, int bit)
{
    const int contexts = PLANS[cm->strength].contexts;
    vz_mixer_update(&cm->f->mixer, bit);
    if (bit) update_contexts(cm, contexts, 1);
    else update_contexts(cm, contexts, 0);
    update_rest(cm, bit);
    cm->c0 = cm->c0 << 1 | (uint32_t)bit;
    cm->node = cm->node << 1 | (uint32_t)bit;
    cm->bit++;
    if (cm->bit == 4) {
        cm->node = 1;
        set_half_slots(cm);
    } else if (cm->bit == 8) {
        end_byte(cm);
    }
}

/* ---- Segments -------------------------------------------------------------------------------- */

static void start_segment(vz_cm *cm, vz_kind kind, uint32_t param, bool is_prose)
{
    cm->is_prose = is_prose;
    cm->kind = kind;
    cm->param = param;
    cm->f = &cm->family[family_of(kind)];
    memset(&cm->text, 0, sizeof cm->text);
    memset(&cm->code, 0, sizeof cm->code);
    memset(&cm->stride, 0, sizeof cm->stride);
    cm->text.line_start = cm->text.line_prev = cm->text.field_start = cm->pos;
    cm->stride.start = cm->pos;
    next_contexts(cm);
}

static void encode_bytes(vz_cm *cm, vz_encoder *e, const uint8_t *data, size_t size)
{
    for (size_t k = 0; k < size; k++)
        for (int i = 7; i >= 0; i--) {
            const int bit = data[k] >> i & 1;
            predict(cm);
            vz_encode_bit(e, cm->p16, bit);
            update(cm, bit);
        }
}

void vz_cm_replay(vz_cm *cm, vz_kind kind, uint32_t param, const uint8_t *data, size_t size)
{
    if (size > cm->capacity - cm->pos) size = cm->capacity - cm->pos;
    start_segment(cm, kind, param, kind == VZ_TEXT && vz_cm_is_prose(data, size));
    for (size_t k = 0; k < size; k++)
        for (int i = 7; i >= 0; i--) {
            predict(cm);
            update(cm, data[k] >> i & 1);
        }
}

static void transform(const vz_segment *s, uint8_t *data, bool forward)
{
    if (s->kind == VZ_X86) vz_exe_x86(data, (size_t)s->size, forward);
    else vz_exe_arm64(data, (size_t)s->size, forward);
}

static fv_status total_of(fv_ctx *ctx, const vz_segment *segs, int count, uint64_t *total,
                          uint32_t *families)
{
    *total = 0;
    *families = 0;
    for (int i = 0; i < count; i++) {
        if (!vz_kind_is_cm(segs[i].kind)) continue;
        if (segs[i].size > BLOCK_MAX || *total + segs[i].size > BLOCK_MAX)
            return fv_fail(ctx, FV_ERR_LIMIT, "vzip: the segments of a block are larger than "
                           "1 GiB");
        *total += segs[i].size;
        *families |= 1u << family_of(segs[i].kind);
    }
    return FV_OK;
}

fv_status vz_cm_encode(fv_ctx *ctx, const vz_cm_options *o, const vz_segment *segs, int count,
                       const uint8_t *data, vz_buf *out)
{
    uint64_t total;
    uint32_t families;
    FV_TRY(total_of(ctx, segs, count, &total, &families));
    if (total == 0) return FV_OK;
    vz_cm *cm;
    FV_TRY(create(ctx, o, total, families, &cm));
    fv_status s = FV_OK;
    vz_encoder e;
    vz_encoder_init(&e, out);
    for (int i = 0; i < count && s == FV_OK; i++) {
        const vz_segment *g = &segs[i];
        if (vz_kind_is_cm(g->kind) && g->size > 0) {
            uint8_t *copy = cm->hist + cm->pos;
            memcpy(copy, data, (size_t)g->size);
            const bool is_prose = g->kind == VZ_TEXT && vz_cm_is_prose(copy, (size_t)g->size);
            if (g->kind == VZ_TEXT) vz_encode_bit(&e, 32768, is_prose);
            start_segment(cm, g->kind, g->param, is_prose);
            if (g->kind == VZ_X86 || g->kind == VZ_ARM64) transform(g, copy, true);
            encode_bytes(cm, &e, copy, (size_t)g->size);
        }
        data += g->size;
        if (fv_ctx_cancelled(ctx)) s = fv_fail(ctx, FV_ERR_CANCELLED, "vzip: cancelled");
    }
    vz_encoder_flush(&e);
    release(cm);
    return s == FV_OK ? out->status : s;
}

static fv_status decode_bytes(vz_cm *cm, vz_decoder *d, size_t size)
{
    for (size_t k = 0; k < size; k++) {
        for (int i = 0; i < 8; i++) {
            predict(cm);
            update(cm, vz_decode_bit(d, cm->p16));
        }
        if (d->past > 4)
            return fv_fail(cm->ctx, FV_ERR_TRUNCATED, "vzip: the code of a block ends after %u of "
                           "%u bytes", (unsigned)cm->pos, (unsigned)cm->capacity);
    }
    return FV_OK;
}

fv_status vz_cm_decode(fv_ctx *ctx, const vz_cm_options *o, const vz_segment *segs, int count,
                       const uint8_t *code, size_t code_size, uint8_t *data)
{
    uint64_t total;
    uint32_t families;
    FV_TRY(total_of(ctx, segs, count, &total, &families));
    if (total == 0) return FV_OK;
    vz_cm *cm;
    FV_TRY(create(ctx, o, total, families, &cm));
    fv_status s = FV_OK;
    vz_decoder d;
    vz_decoder_init(&d, code, code_size);
    for (int i = 0; i < count && s == FV_OK; i++) {
        const vz_segment *g = &segs[i];
        if (vz_kind_is_cm(g->kind) && g->size > 0) {
            const uint8_t *from = cm->hist + cm->pos;
            start_segment(cm, g->kind, g->param,
                          g->kind == VZ_TEXT && vz_decode_bit(&d, 32768));
            s = decode_bytes(cm, &d, (size_t)g->size);
            if (s == FV_OK) {
                memcpy(data, from, (size_t)g->size);
                if (g->kind == VZ_X86 || g->kind == VZ_ARM64) transform(g, data, false);
            }
        }
        data += g->size;
        if (s == FV_OK && fv_ctx_cancelled(ctx))
            s = fv_fail(ctx, FV_ERR_CANCELLED, "vzip: cancelled");
    }
    release(cm);
    return s;
}
