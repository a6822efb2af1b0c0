/* cm_bits_body.h - predicts, codes and learns the 8 bits of a byte; compiled once per instruction
 * set (cm_bits.c, cm_bits_avx2.c, cm_bits_avx512.c), and in each once per class with its shape as
 * constants, because nothing else takes time. Encoder and decoder are one function: only the source
 * of a bit differs. */
#ifndef VZ_CM_BITS_BODY_H
#define VZ_CM_BITS_BODY_H

#include "cm.h"
#include "cm_mix_body.h"

#define APM_SHIFT 6
#define DIRECT_LIMIT 255u

FV_INLINE int16_t linear_of(uint32_t p16) { return (int16_t)vz_sar((int32_t)p16 - 32768, 5); }
/* By how much of the byte is known: nothing, a little, half, nearly all. */
static const uint8_t PLACE[8] = {0, 1, 1, 2, 2, 2, 3, 3};

/* Inputs of the contexts: logits first, then probabilities; returns the place of the next input. */
FV_INLINE int16_t *context_inputs(vz_cm *cm, int16_t *x, uint8_t *const *slot, uint32_t node,
                                  vz_cm_shape sh)
{
    const uint32_t *map = cm->f->maps;
    FV_ALIGNED(64) uint16_t p16[VZ_CM_CONTEXTS];
    FV_UNROLL
    for (int i = 0; i < sh.contexts; i++) {
        const uint32_t p = map[i * 256 + slot[i][node]];
        x[i] = cm->lg.stretch[p >> 20];
        if (sh.each > 1) p16[i] = (uint16_t)(p >> 16);
    }
    if (sh.each > 1)
        for (int i = 0; i < sh.contexts; i++) x[sh.contexts + i] = linear_of(p16[i]);
    return x + sh.contexts * sh.each;
}

/* Sure of the byte that came last in the context, as long as the bits so far agree with it. */
FV_INLINE int16_t *run_inputs(vz_cm *cm, int16_t *x, uint32_t bit, vz_cm_shape sh)
{
    vz_prob *map = cm->f->run_maps;
    if (sh.runs) memset(x, 0, (size_t)sh.runs * sizeof *x);
    for (uint32_t open = cm->open_runs; sh.runs && open; open &= open - 1) {
        const int i = FV_LOWEST_BIT(open);
        const vz_run *r = cm->run[i];
        cm->run_cell[i] = map + (uint32_t)i * VZ_CM_RUN_CELLS +
                          (r->count < 15u ? r->count : 15u) * 4 + PLACE[bit];
        const int32_t v = vz_stretch(&cm->lg, vz_prob_p16(*cm->run_cell[i]));
        const int32_t sign = (r->byte >> (7 - bit) & 1) - 1;
        x[i] = (int16_t)((v ^ sign) - sign);
    }
    return x + sh.runs;
}

/* Drops the predictions that the last bit proved wrong. Length class and expected bit of the
 * longest match model that still predicts; 0: none does. */
FV_INLINE uint32_t match_state(vz_cm *cm, uint32_t bit, vz_cm_shape sh)
{
    uint32_t state = 0;
    for (int i = 0; i < sh.matches; i++) {
        vz_match *m = &cm->match[i];
        if (m->expected >> (8 - bit) != cm->c0) m->expected = 0;
        else state = (m->bucket + 1) * 2 + (m->expected >> (7 - bit) & 1);
    }
    return state;
}

FV_INLINE int16_t *match_inputs(vz_cm *cm, int16_t *x, uint32_t bit, vz_cm_shape sh)
{
    for (int i = 0; i < sh.matches; i++, x += 2) {
        vz_match *m = &cm->match[i];
        x[0] = x[1] = 0;
        m->cell = NULL;
        if (m->expected == 0) continue;
        m->cell = m->map + m->bucket * 4 + PLACE[bit];
        const uint32_t p = vz_prob_p16(*m->cell);
        const int sign = m->expected >> (7 - bit) & 1 ? 1 : -1;
        x[0] = (int16_t)(vz_stretch(&cm->lg, p) * sign);
        x[1] = (int16_t)(linear_of(p) * sign);
    }
    return x;
}

FV_INLINE int16_t *direct_inputs(vz_cm *cm, int16_t *x, vz_cm_shape sh)
{
    for (int i = 0; i < sh.direct; i++, x += sh.each) {
        cm->direct_cell[i] = cm->direct[i] + (cm->direct_base[i] ^ cm->c0);
        const uint32_t p = vz_prob_p16(*cm->direct_cell[i]);
        x[0] = (int16_t)vz_stretch(&cm->lg, p);
        if (sh.each > 1) x[1] = linear_of(p);
    }
    return x;
}

FV_INLINE int padded_inputs(vz_cm_shape sh) { return (vz_cm_inputs(sh) + 15) & ~15; }

FV_INLINE void pick_weights(vz_cm *cm, uint32_t match, uint32_t bit, vz_cm_shape sh)
{
    vz_mixer *m = &cm->f->mixer;
    const uint32_t contexts[6] = {cm->c0, match, cm->c4 & 255, cm->select[0] * 8 + bit,
                                  cm->order * 8 + bit, cm->select[1] * 8 + bit};
    FV_UNROLL
    for (int i = 0; i < sh.selectors; i++) vz_mixer_pick(m, i, contexts[i]);
}

FV_INLINE void seek_weights(const vz_mixer *m, int selector, uint32_t context, vz_cm_shape sh)
{
    const int n = padded_inputs(sh);
    const int32_t *w = m->group[selector] + (size_t)context * (size_t)n;
    FV_UNROLL
    for (int k = 0; k < n; k += 16) FV_PREFETCH(w + k);
}

/* apm_base is hashed once per byte; the odd factor spreads the nodes over the table. */
FV_INLINE uint32_t apm_place(const vz_cm *cm, uint32_t base)
{
    return (base + cm->c0 * 0x9e3779b1u) >> (32 - cm->apm_log2);
}

/* Asks the cache for what node cm->c0 needs: before the bit that led there is learnt. */
FV_INLINE void seek_node(vz_cm *cm, uint32_t bit, vz_cm_shape sh)
{
    const vz_mixer *m = &cm->f->mixer;
    seek_weights(m, 0, cm->c0, sh);
    if (bit == 0 && sh.selectors > 2) seek_weights(m, 2, cm->c4 & 255, sh);
    if (sh.selectors > 3) seek_weights(m, 3, cm->select[0] * 8 + bit, sh);
    if (sh.selectors > 4) seek_weights(m, 4, cm->order * 8 + bit, sh);
    if (sh.selectors > 5) seek_weights(m, 5, cm->select[1] * 8 + bit, sh);
    for (int i = 0; i < sh.direct; i++)
        FV_PREFETCH(cm->direct[i] + (cm->direct_base[i] ^ cm->c0));
    for (int i = 0; i < sh.apms; i++) {
        const uint32_t row = apm_place(cm, cm->apm_base[sh.apms == 1 ? 1 : i]);
        if (i != 2) FV_PREFETCH(cm->f->apm[i].t + (size_t)row * VZ_APM_ROW);
    }
}

/* Rows of the SSE stages: known before the inputs are, so the cache can fetch them meanwhile. */
FV_INLINE void pick_rows(vz_cm *cm, uint32_t match, uint32_t row[VZ_CM_APMS], vz_cm_shape sh)
{
    const uint32_t base[VZ_CM_APMS] = {cm->apm_base[sh.apms == 1], cm->apm_base[1],
                                       match * 0x85ebca6bu, cm->apm_base[3]};
    for (int i = 0; i < sh.apms; i++) {
        row[i] = apm_place(cm, base[i]);
        if (i == 2) FV_PREFETCH(cm->f->apm[i].t + (size_t)row[i] * VZ_APM_ROW);
    }
}

FV_INLINE uint32_t corrected(vz_cm *cm, int32_t x, const uint32_t *row, vz_cm_shape sh)
{
    vz_family *f = cm->f;
    const uint32_t p = vz_squash(&cm->lg, x);
    const uint32_t a = vz_apm_p16(&f->apm[0], x, row[0]);
    if (sh.apms == 1) return (p + a + 1) >> 1;
    const uint32_t b = vz_apm_p16(&f->apm[1], x, row[1]);
    if (sh.apms == 2) return (2 * p + a + b + 2) >> 2;
    const uint32_t c = vz_apm_p16(&f->apm[2], x, row[2]);
    if (sh.apms == 3) return (p + a + b + c + 2) >> 2;
    const uint32_t d = vz_apm_p16(&f->apm[3], x, row[3]);
    return (2 * p + a + 2 * b + c + 2 * d + 4) >> 3;
}

/* Probability of a 1. */
FV_INLINE uint32_t predict(vz_cm *cm, uint8_t *const *slot, uint32_t node, uint32_t bit,
                           vz_cm_shape sh)
{
    vz_mixer *m = &cm->f->mixer;
    uint32_t row[VZ_CM_APMS];
    const uint32_t match = match_state(cm, bit, sh);
    seek_weights(m, 1, match, sh);
    pick_weights(cm, match, bit, sh);
    pick_rows(cm, match, row, sh);
    int16_t *x = context_inputs(cm, m->x, slot, node, sh);
    x = run_inputs(cm, x, bit, sh);
    x = match_inputs(cm, x, bit, sh);
    x = direct_inputs(cm, x, sh);
    *x++ = 256;
    if (cm->is_number) vz_numbers_inputs(&cm->lg, cm->numbers, cm->c0, x, sh.experts);
    else if (cm->has_layout) memset(x, 0, (size_t)sh.experts * sizeof *x);
    return vz_p16_clamp(corrected(cm, mix_sum_logit(m, padded_inputs(sh), sh.selectors), row, sh));
}

FV_INLINE void update_contexts(vz_cm *cm, uint8_t *const *slot, uint32_t node, int value,
                               vz_cm_shape sh)
{
    const uint32_t shift = cm->map_shift;
    const uint8_t *next = cm->st.next[value];
    uint32_t *map = cm->f->maps;
    FV_UNROLL
    for (int i = 0; i < sh.contexts; i++) {
        uint8_t *cell = slot[i] + node;
        const uint32_t state = *cell;
        uint32_t *q = map + i * 256 + state;
        const uint32_t p = *q;
        *q = value ? p + (~p >> shift) : p - (p >> shift);
        *cell = next[state];
    }
    FV_UNROLL
    for (int i = 0; i < sh.contexts; i++) map[i * 256] = VZ_CM_NO_OPINION;
}

FV_INLINE void learn(vz_cm *cm, uint8_t *const *slot, uint32_t node, uint32_t bit, int value,
                     vz_cm_shape sh)
{
    vz_mixer *m = &cm->f->mixer;
    const int n = padded_inputs(sh);
    mix_sum_train(m, n, sh.selectors, value);
    update_contexts(cm, slot, node, value, sh);
    uint32_t wrong = 0;
    for (uint32_t open = cm->open_runs; sh.runs && open; open &= open - 1) {
        const int i = FV_LOWEST_BIT(open);
        const uint32_t is_wrong = (cm->run[i]->byte >> (7 - bit) & 1u) ^ (uint32_t)value;
        vz_prob_update(&cm->lg, cm->run_cell[i], !is_wrong, 1022);
        wrong |= is_wrong << i;
    }
    cm->open_runs &= ~wrong;
    for (int i = 0; i < sh.matches; i++) {
        vz_match *k = &cm->match[i];
        if (k->cell)
            vz_prob_update(&cm->lg, k->cell, (int)(k->expected >> (7 - bit) & 1) == value, 1022);
    }
    for (int i = 0; i < sh.direct; i++)
        vz_prob_update(&cm->lg, cm->direct_cell[i], value, DIRECT_LIMIT);
    for (int i = 0; i < sh.apms; i++) vz_apm_update(&cm->f->apm[i], value, APM_SHIFT);
}

/* The second nibble of each context has a slot of its own. The lines are asked for before the last
 * bit of the first nibble is learnt, and used after. */
FV_INLINE void seek_half_slots(vz_cm *cm, uint32_t *h, uint32_t c0, vz_cm_shape sh)
{
    for (int i = 0; i < sh.contexts; i++) {
        h[i] = vz_hash2(cm->hash[i], c0);
        FV_PREFETCH(vz_slots_line(&cm->slots, h[i]));
    }
}

FV_INLINE uint32_t code_byte(vz_cm *cm, vz_encoder *e, vz_decoder *d, uint32_t c, vz_cm_shape sh)
{
    if (cm->sure) {
        const uint32_t expected = cm->sure->expected & 255;
        vz_prob *map = &cm->sure_map[cm->sure->bucket >> 2];
        const uint32_t p = vz_p16_clamp(vz_prob_p16(*map));
        const int came = d ? vz_decode_bit(d, p) : c == expected;
        if (e) vz_encode_bit(e, p, came);
        vz_prob_update(&cm->lg, map, came, 1022);
        if (came) {
            vz_cm_see_byte(cm, expected);
            vz_cm_end_byte(cm, expected);
            return expected;
        }
        vz_cm_unsure(cm);
    }
    uint32_t node = 1, h[VZ_CM_CONTEXTS];
    uint8_t *slot[VZ_CM_CONTEXTS];
    seek_node(cm, 0, sh);
    for (int i = 0; i < sh.contexts; i++) slot[i] = cm->slot[i];
    for (uint32_t bit = 0; bit < 8; bit++) {
        const uint32_t p = predict(cm, slot, node, bit, sh);
        const int value = d ? vz_decode_bit(d, p) : (int)(c >> (7 - bit) & 1);
        if (e) vz_encode_bit(e, p, value);
        cm->c0 = cm->c0 << 1 | (uint32_t)value;
        if (bit == 3) seek_half_slots(cm, h, cm->c0, sh);
        if (bit == 7) vz_cm_see_byte(cm, cm->c0 & 255);
        else seek_node(cm, bit + 1, sh);
        if (value) learn(cm, slot, node, bit, 1, sh);
        else learn(cm, slot, node, bit, 0, sh);
        node = node << 1 | (uint32_t)value;
        if (bit == 3) {
            node = 1;
            for (int i = 0; i < sh.contexts; i++) slot[i] = vz_slots_find(&cm->slots, h[i]);
        }
    }
    const uint32_t coded = cm->c4 & 255;
    vz_cm_end_byte(cm, coded);
    return coded;
}

#define CODERS(name, k)                                                  \
    static void encode_##name(vz_cm *cm, vz_encoder *e, uint32_t c)      \
    {                                                                    \
        code_byte(cm, e, NULL, c, vz_cm_shapes[k]);                      \
    }                                                                    \
    static uint32_t decode_##name(vz_cm *cm, vz_decoder *d)              \
    {                                                                    \
        return code_byte(cm, NULL, d, 0, vz_cm_shapes[k]);               \
    }
CODERS(fast, VZ_CM_FAST)
CODERS(mid, VZ_CM_MID)
CODERS(max, VZ_CM_MAX)
#define VZ_CM_BITS {{encode_fast, encode_mid, encode_max}, {decode_fast, decode_mid, decode_max}}

#endif
