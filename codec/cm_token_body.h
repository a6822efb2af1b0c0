/* cm_token_body.h - predicts, codes and learns the decisions of a piece; compiled once per
 * instruction set (cm_token_bits.c, cm_token_bits_avx2.c, cm_token_bits_avx512.c), and in each once
 * per class with its shape as constants, because little else takes time. Encoder and decoder are
 * one function: only the source of a decision differs. */
#ifndef VZ_CM_TOKEN_BODY_H
#define VZ_CM_TOKEN_BODY_H

#include "cm_token.h"
#include "cm_mix_body.h"

#define APM_SHIFT 5
#define DIRECT_LIMIT_0 1022u
#define DIRECT_LIMIT_1 255u

FV_INLINE int16_t linear_of(uint32_t p16) { return (int16_t)vz_sar((int32_t)p16 - 32768, 5); }
FV_INLINE uint32_t depth_class(uint32_t k) { return k == 0 ? 0 : k < 4 ? 1 : k < 9 ? 2 : 3; }

FV_INLINE void way_step(vz_way *w, int value)
{
    w->is_open = w->is_open && (int)(w->rest >> 31) == value;
    w->rest <<= 1;
}

/* Length class and expected decision of the longest match that still predicts; 0: none does. */
FV_INLINE uint32_t match_state(const vz_token *t, vz_token_shape sh)
{
    uint32_t state = 0;
    for (int i = 0; i < sh.matches; i++) {
        const vz_token_match *m = &t->match[i];
        if (m->way.is_open) state = (m->bucket + 1) * 2 + (m->way.rest >> 31);
    }
    return state;
}

FV_INLINE int padded_inputs(vz_token_shape sh) { return (vz_token_inputs(sh) + 15) & ~15; }

/* The odd factor spreads the nodes over the table. */
FV_INLINE uint32_t apm_place(const vz_token *t, uint32_t base, uint32_t node)
{
    return (base + node * 0x9e3779b1u) >> (32 - t->apm_log2);
}

FV_INLINE void pick_weights(vz_token *t, uint32_t rank, uint32_t match, uint32_t k,
                            vz_token_shape sh)
{
    vz_mixer *m = &t->mixer;
    const uint32_t depth = k < VZ_TOKEN_DEPTHS ? k : VZ_TOKEN_DEPTHS - 1;
    const uint32_t contexts[6] = {rank, match, t->text->c4 & 255,
                                  t->select[0] * VZ_TOKEN_DEPTHS + depth,
                                  t->order * VZ_TOKEN_DEPTHS + depth,
                                  t->select[1] * VZ_TOKEN_DEPTHS + depth};
    FV_UNROLL
    for (int i = 0; i < sh.selectors; i++) vz_mixer_pick(m, i, contexts[i]);
    vz_mixer_pick2(m, rank);
}

FV_INLINE void seek_weights(const vz_mixer *m, int selector, uint32_t context, vz_token_shape sh)
{
    const int n = padded_inputs(sh);
    const int32_t *w = m->group[selector] + (size_t)context * (size_t)n;
    FV_UNROLL
    for (int j = 0; j < n; j += 16) FV_PREFETCH(w + j);
}

/* Asks the cache for what the node at depth k needs: before the decision that led there is
 * learnt. */
FV_INLINE void seek_node(vz_token *t, uint32_t node, uint32_t k, vz_token_shape sh)
{
    const vz_mixer *m = &t->mixer;
    const uint32_t depth = k < VZ_TOKEN_DEPTHS ? k : VZ_TOKEN_DEPTHS - 1;
    const uint32_t rank = t->branch[node].rank;
    seek_weights(m, 0, rank, sh);
    FV_PREFETCH(m->group2 + (size_t)rank * 16);
    if (k == 0) seek_weights(m, 2, t->text->c4 & 255, sh);
    if (sh.selectors > 3) seek_weights(m, 3, t->select[0] * VZ_TOKEN_DEPTHS + depth, sh);
    if (sh.selectors > 4) seek_weights(m, 4, t->order * VZ_TOKEN_DEPTHS + depth, sh);
    if (sh.selectors > 5) seek_weights(m, 5, t->select[1] * VZ_TOKEN_DEPTHS + depth, sh);
    FV_PREFETCH(t->direct[0] + node);
    for (int i = 0; i < sh.apms; i++)
        if (i != 2)
            FV_PREFETCH(t->apm[i].t + (size_t)apm_place(t, t->apm_base[i], node) * VZ_APM_ROW);
}

FV_INLINE void pick_rows(vz_token *t, uint32_t node, uint32_t match, uint32_t row[VZ_CM_APMS],
                         vz_token_shape sh)
{
    const uint32_t base[VZ_CM_APMS] = {t->apm_base[0], t->apm_base[1], match * 0x85ebca6bu,
                                       t->apm_base[3]};
    for (int i = 0; i < sh.apms; i++) {
        row[i] = apm_place(t, base[i], node);
        if (i == 2) FV_PREFETCH(t->apm[i].t + (size_t)row[i] * VZ_APM_ROW);
    }
}

FV_INLINE int16_t *run_inputs(vz_token *t, int16_t *x, uint32_t k, vz_token_shape sh)
{
    memset(x, 0, (size_t)sh.runs * sizeof *x);
    for (uint32_t open = t->open_runs; open; open &= open - 1) {
        const int i = FV_LOWEST_BIT(open);
        const uint32_t count = t->run[i]->count < 15 ? t->run[i]->count : 15;
        t->run_cell[i] =
            t->run_map + (uint32_t)i * VZ_CM_RUN_CELLS + count * 4 + depth_class(k);
        const int32_t v = vz_stretch(&t->lg, vz_prob_p16(*t->run_cell[i]));
        const int32_t sign = (int32_t)(t->run_rest[i] >> 31) - 1;
        x[i] = (int16_t)((v ^ sign) - sign);
    }
    return x + sh.runs;
}

FV_INLINE int16_t *match_inputs(vz_token *t, int16_t *x, uint32_t k, vz_token_shape sh)
{
    for (int i = 0; i < sh.matches; i++, x += 2) {
        vz_token_match *m = &t->match[i];
        x[0] = x[1] = 0;
        m->cell = NULL;
        if (!m->way.is_open) continue;
        m->cell = m->map + m->bucket * 4 + depth_class(k);
        const uint32_t p = vz_prob_p16(*m->cell);
        const int sign = m->way.rest >> 31 ? 1 : -1;
        x[0] = (int16_t)(vz_stretch(&t->lg, p) * sign);
        x[1] = (int16_t)(linear_of(p) * sign);
    }
    return x;
}

FV_INLINE void all_inputs(vz_token *t, const uint32_t *maps, uint32_t node, uint32_t k,
                          vz_token_shape sh)
{
    const uint32_t cell = node & 15;
    int16_t *x = t->mixer.x;
    for (int i = 0; i < sh.contexts; i++, maps += 256)
        *x++ = (int16_t)vz_stretch(&t->lg, maps[t->slot[i][cell]] >> 16);
    x = run_inputs(t, x, k, sh);
    x = match_inputs(t, x, k, sh);
    t->direct_cell[0] = t->direct[0] + node;
    t->direct_cell[1] = t->direct[1] + (t->direct_line | cell);
    for (int i = 0; i < 2; i++)
        *x++ = (int16_t)vz_stretch(&t->lg, vz_prob_p16(*t->direct_cell[i]));
    *x++ = 256;
    if (t->is_asleep) x[0] = x[1] = 0;
    else t->prior.logits(t->prior.user, t->branch[node].split, x);
}

FV_INLINE uint32_t corrected(vz_token *t, int32_t x, const uint32_t *row, vz_token_shape sh)
{
    const uint32_t p = vz_squash(&t->lg, x);
    const uint32_t a = vz_apm_p16(&t->apm[0], x, row[0]);
    const uint32_t b = vz_apm_p16(&t->apm[1], x, row[1]);
    if (sh.apms == 2) return (2 * p + a + b + 2) >> 2;
    const uint32_t c = vz_apm_p16(&t->apm[2], x, row[2]);
    if (sh.apms == 3) return (p + a + b + c + 2) >> 2;
    const uint32_t d = vz_apm_p16(&t->apm[3], x, row[3]);
    return (2 * p + a + 2 * b + c + 2 * d + 4) >> 3;
}

/* Probability of a 1. */
FV_INLINE uint32_t predict(vz_token *t, const uint32_t *maps, uint32_t node, uint32_t k,
                           vz_token_shape sh)
{
    uint32_t row[VZ_CM_APMS];
    const uint32_t match = match_state(t, sh);
    seek_weights(&t->mixer, 1, match, sh);
    pick_weights(t, t->branch[node].rank, match, k, sh);
    pick_rows(t, node, match, row, sh);
    all_inputs(t, maps, node, k, sh);
    const int32_t x = mix_logit(&t->mixer, padded_inputs(sh), sh.selectors);
    return vz_p16_clamp(corrected(t, x, row, sh));
}

FV_INLINE void learn(vz_token *t, uint32_t *maps, uint32_t cell, int value, vz_token_shape sh)
{
    mix_update(&t->mixer, padded_inputs(sh), sh.selectors, value);
    const uint32_t shift = t->map_shift;
    const uint8_t *next = t->st.next[value];
    for (int i = 0; i < sh.contexts; i++, maps += 256) {
        uint8_t *at = t->slot[i] + cell;
        const uint32_t state = *at, p = maps[state];
        maps[state] = value ? p + (~p >> shift) : p - (p >> shift);
        maps[0] = VZ_CM_NO_OPINION;
        *at = next[state];
    }
    uint32_t wrong = 0;
    for (uint32_t open = t->open_runs; open; open &= open - 1) {
        const int i = FV_LOWEST_BIT(open);
        const uint32_t is_wrong = t->run_rest[i] >> 31 ^ (uint32_t)value;
        vz_prob_update(&t->lg, t->run_cell[i], !is_wrong, 1022);
        t->run_rest[i] <<= 1;
        wrong |= is_wrong << i;
    }
    t->open_runs &= ~wrong;
    for (int i = 0; i < sh.matches; i++) {
        vz_token_match *m = &t->match[i];
        if (m->cell) vz_prob_update(&t->lg, m->cell, (int)(m->way.rest >> 31) == value, 1022);
        way_step(&m->way, value);
    }
    vz_prob_update(&t->lg, t->direct_cell[0], value, DIRECT_LIMIT_0);
    vz_prob_update(&t->lg, t->direct_cell[1], value, DIRECT_LIMIT_1);
    for (int i = 0; i < sh.apms; i++) vz_apm_update(&t->apm[i], value, APM_SHIFT);
}

/* Each subtree of four levels has slots of its own. The lines are asked for before the last
 * decision of the one before is learnt, and used after. */
FV_INLINE void seek_subtree(vz_token *t, uint32_t *h, uint32_t node, vz_token_shape sh)
{
    for (int i = 0; i < sh.contexts; i++) {
        h[i] = vz_hash2(t->hash[i], node);
        FV_PREFETCH(vz_slots_line(&t->slots, h[i]));
    }
    t->direct_line = vz_hash2(t->last[0], node) >> (32 - t->direct_log2) & ~15u;
    FV_PREFETCH(t->direct[1] + t->direct_line);
}

FV_INLINE uint32_t code_piece(vz_token *t, vz_encoder *e, vz_decoder *d, uint32_t piece,
                              vz_token_shape sh)
{
    const vz_branch *branch = t->branch;
    uint32_t node = 1, h[VZ_TOKEN_CONTEXTS], *maps = t->maps;
    const uint32_t *last_maps = maps + (VZ_TOKEN_LEVELS - 1) * (uint32_t)sh.contexts * 256;
    uint32_t path = d ? 0 : t->vocab->path[piece];
    seek_node(t, node, 0, sh);
    for (uint32_t k = 0;; k++) {
        const uint32_t p = predict(t, maps, node, k, sh), cell = node & 15;
        const int value = d ? vz_decode_bit(d, p) : (int)(path >> 31);
        path <<= 1;
        if (e) vz_encode_bit(e, p, value);
        node = branch[node].next[value];
        const bool is_leaf = (node & VZ_LEAF) != 0, is_line = !is_leaf && (node & 15) == 1;
        if (is_line) seek_subtree(t, h, node, sh);
        if (is_leaf) vz_token_see_piece(t, node & ~VZ_LEAF);
        else seek_node(t, node, k + 1, sh);
        if (value) learn(t, maps, cell, 1, sh);
        else learn(t, maps, cell, 0, sh);
        t->decisions++;
        if (is_leaf) break;
        if (!is_line) continue;
        if (maps != last_maps) maps += sh.contexts * 256;
        for (int i = 0; i < sh.contexts; i++) t->slot[i] = vz_slots_find(&t->slots, h[i]);
    }
    piece = node & ~VZ_LEAF;
    return piece;
}

#define CODERS(name, k)                                                       \
    static void encode_##name(vz_token *t, vz_encoder *e, uint32_t piece)     \
    {                                                                         \
        code_piece(t, e, NULL, piece, vz_token_shapes[k]);                    \
    }                                                                         \
    static uint32_t decode_##name(vz_token *t, vz_decoder *d)                 \
    {                                                                         \
        return code_piece(t, NULL, d, 0, vz_token_shapes[k]);                 \
    }
CODERS(fast, VZ_CM_FAST)
CODERS(mid, VZ_CM_MID)
CODERS(max, VZ_CM_MAX)
#define VZ_TOKEN_BITS {{encode_fast, encode_mid, encode_max}, {decode_fast, decode_mid, decode_max}}

#endif
