/* cm_parts.h - small parts shared by all modelling coders of codec/: range coder, logistic tables,
 * adaptive probabilities, SSE, mixer, hashed slots.
 *
 * Everything is integer, and every result is a function of its arguments alone, so that encoder and
 * decoder agree on every CPU and compiler. Units: a probability is that of a 1 bit, 16 bits, in
 * [1, 65535]; a logit is ln(p / (1 - p)) in Q8.
 *
 * Sources: the logistic mixing of Mahoney's PAQ7 to PAQ8 ("Adaptive Weighing of Context Models for
 * Lossless Data Compression", 2005) and the carry-less coder of the same family. */
#ifndef VZ_CM_PARTS_H
#define VZ_CM_PARTS_H

#include <string.h>

#include "internal.h"

/* Arithmetic shift right: C leaves the shift of a negative number to the compiler. */
FV_INLINE int32_t vz_sar(int32_t x, int n) { return x < 0 ? ~(~x >> n) : x >> n; }
FV_INLINE int32_t vz_clamp(int32_t x, int32_t lo, int32_t hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}
FV_INLINE uint32_t vz_rd32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* All of to[0 .. n) become v: tables of a million cells are most of the time that a small input
 * takes (cm_parts.c). */
void vz_fill32(uint32_t *to, size_t n, uint32_t v);

/* ---- Range coder: carry-less, [low, high] both inclusive, top bytes always differ ------------ */
typedef struct vz_encoder {
    uint32_t low, high;
    vz_buf *out;
} vz_encoder;
FV_INLINE void vz_encoder_init(vz_encoder *e, vz_buf *out)
{
    e->low = 0;
    e->high = 0xffffffffu;
    e->out = out;
}
FV_INLINE uint32_t vz_range_split(uint32_t low, uint32_t high, uint32_t p16)
{
    return low + (uint32_t)((uint64_t)(high - low) * p16 >> 16); /* < high as p16 < 65536 */
}
/* p16: probability of a 1, in [1, 65535]. */
FV_INLINE void vz_encode_bit(vz_encoder *e, uint32_t p16, int bit)
{
    const uint32_t mid = vz_range_split(e->low, e->high, p16);
    if (bit) e->high = mid;
    else e->low = mid + 1;
    while (((e->low ^ e->high) & 0xff000000u) == 0) {
        vz_buf_byte(e->out, (uint8_t)(e->high >> 24));
        e->low <<= 8;
        e->high = e->high << 8 | 255;
    }
}
/* One byte is enough: the decoder reads zeros past the end, and the top bytes differ. */
FV_INLINE void vz_encoder_flush(vz_encoder *e)
{
    if (e->low != 0) vz_buf_byte(e->out, (uint8_t)((e->low >> 24) + 1));
}

typedef struct vz_decoder {
    uint32_t low, high, x;
    const uint8_t *p, *end;
    uint32_t past; /* bytes read past the end: more than 4 only if the code is truncated or wrong */
} vz_decoder;
FV_INLINE uint32_t vz_decoder_byte(vz_decoder *d)
{
    if (d->p < d->end) return *d->p++;
    d->past++;
    return 0;
}
FV_INLINE void vz_decoder_init(vz_decoder *d, const uint8_t *code, size_t size)
{
    d->low = 0;
    d->high = 0xffffffffu;
    d->p = code;
    d->end = code + size;
    d->past = 0;
    d->x = 0;
    for (int i = 0; i < 4; i++) d->x = d->x << 8 | vz_decoder_byte(d);
}
/* Any code gives some bit; low <= x <= high holds whatever the code. */
FV_INLINE int vz_decode_bit(vz_decoder *d, uint32_t p16)
{
    const uint32_t mid = vz_range_split(d->low, d->high, p16);
    const int bit = d->x <= mid;
    if (bit) d->high = mid;
    else d->low = mid + 1;
    while (((d->low ^ d->high) & 0xff000000u) == 0) {
        d->low <<= 8;
        d->high = d->high << 8 | 255;
        d->x = d->x << 8 | vz_decoder_byte(d);
    }
    return bit;
}

/* ---- Logistic tables --------------------------------------------------------------------------
 * stretch: 12-bit index, clamped to +-2047 (8 nats). squash covers +-3071 (12 nats), because a sum
 * of inputs may be surer than each of them: a 16-bit probability reaches 11.1 nats. */
#define VZ_LOGIT_MAX 2047
#define VZ_SQUASH_MAX 3071
typedef struct vz_logistic {
    uint16_t squash[2 * VZ_SQUASH_MAX + 2];
    int16_t stretch[4096];
    uint16_t rate[1024]; /* 65536 / (n + 1.6): step of a probability seen n times; [1023]: 0 */
} vz_logistic;
void vz_logistic_init(vz_logistic *t); /* about 50 us */
FV_INLINE int32_t vz_stretch(const vz_logistic *t, uint32_t p16) { return t->stretch[p16 >> 4]; }
FV_INLINE uint32_t vz_squash(const vz_logistic *t, int32_t logit)
{
    return t->squash[vz_clamp(logit, -VZ_SQUASH_MAX, VZ_SQUASH_MAX) + VZ_SQUASH_MAX];
}
FV_INLINE uint32_t vz_p16_clamp(uint32_t p) { return p < 1 ? 1 : p > 65535 ? 65535 : p; }

/* ---- Adaptive probabilities ------------------------------------------------------------------ */
/* 22 bits of probability above 10 bits of count: the step is 1/(count + 1.6) until count reaches
 * `limit` (<= 1022): exact averages first, then exponential forgetting. Count 1023: never moves. */
typedef uint32_t vz_prob;
#define VZ_PROB_FIXED 1023u
FV_INLINE vz_prob vz_prob_of(uint32_t p16, uint32_t count) { return p16 << 16 | count; }
FV_INLINE uint32_t vz_prob_p16(vz_prob v) { return v >> 16; } /* may be 0: clamp before coding */
FV_INLINE void vz_prob_update(const vz_logistic *t, vz_prob *v, int bit, uint32_t limit)
{
    const uint32_t n = *v & 1023, p = *v >> 10, count = n + (n < limit);
    const uint64_t rate = t->rate[n];
    /* All bits set for a 0: without a branch, since `bit` is often not to be foretold. */
    const uint32_t is_0 = (uint32_t)(bit != 0) - 1u;
    const uint32_t step = (uint32_t)((p ^ (~is_0 & 4194303u)) * rate >> 16);
    *v = (p + ((step ^ is_0) - is_0)) << 10 | count;
}
/* Two rates in one: quick to follow, slow to settle. */
typedef struct vz_prob2 {
    uint16_t quick, slow;
} vz_prob2;
FV_INLINE vz_prob2 vz_prob2_of(uint32_t p16)
{
    const vz_prob2 v = {(uint16_t)p16, (uint16_t)p16};
    return v;
}
FV_INLINE uint32_t vz_prob2_p16(vz_prob2 v) { return ((uint32_t)v.quick + v.slow) >> 1; }
FV_INLINE void vz_prob2_update(vz_prob2 *v, int bit, int quick_shift, int slow_shift)
{
    if (bit) {
        v->quick = (uint16_t)(v->quick + ((65535 - v->quick) >> quick_shift));
        v->slow = (uint16_t)(v->slow + ((65535 - v->slow) >> slow_shift));
    } else {
        v->quick = (uint16_t)(v->quick - (v->quick >> quick_shift));
        v->slow = (uint16_t)(v->slow - (v->slow >> slow_shift));
    }
}

/* ---- SSE: corrects a probability by what happened at like ones in a small context ------------ */
#define VZ_APM_NODES 25 /* logits -3072, -2816, ... 3072 */
#define VZ_APM_ROW 32   /* nodes, and padding to one cache line */
typedef struct vz_apm {
    uint16_t *t; /* [contexts][VZ_APM_ROW] */
    uint32_t at; /* the node that the next update moves */
    uint32_t contexts;
} vz_apm;
FV_INLINE size_t vz_apm_bytes(uint32_t contexts)
{
    return (size_t)contexts * VZ_APM_ROW * sizeof(uint16_t);
}
void vz_apm_init(vz_apm *a, const vz_logistic *t, uint16_t *memory, uint32_t contexts);
FV_INLINE uint32_t vz_apm_p16(vz_apm *a, int32_t logit, uint32_t context)
{
    const uint32_t x = (uint32_t)(vz_clamp(logit, -VZ_SQUASH_MAX, VZ_SQUASH_MAX) + 3072);
    const uint32_t low = context * VZ_APM_ROW + (x >> 8), f = x & 255;
    a->at = low + (f >> 7);
    return (a->t[low] * (256 - f) + a->t[low + 1] * f) >> 8;
}
FV_INLINE void vz_apm_update(vz_apm *a, int bit, int shift)
{
    uint16_t *p = a->t + a->at;
    if (bit) *p = (uint16_t)(*p + ((65535 - *p) >> shift));
    else *p = (uint16_t)(*p - (*p >> shift));
}

/* ---- Mixer ------------------------------------------------------------------------------------
 * Layer 1: `selectors` weight vectors, each picked from its own group by a small context, mix the n
 * inputs and learn apart. Layer 2 mixes their logits, weights picked by one more context.
 *
 *     dot = sum_k (w_k * x_k >> 8) >> 8,   w += (x_k * e + 2^13) >> 14,   |w| < 2^19 (Q16)
 *
 * |x| <= 2047 and |e| <= 2^19 keep all products inside 31 bits; sums of exact integers do not
 * depend on their order, hence the vector variants are equal to the scalar one by construction. */
#define VZ_MIX_SELECTORS 16
#define VZ_MIX_INPUTS 512
#define VZ_MIX_WEIGHT_MAX 524287
#define VZ_MIX_ERROR_MAX 524288
struct vz_mixer;
typedef struct vz_mix_ops {
    /* n: multiple of 16; x and w[i] are 64-byte aligned. out: logits, not clamped. */
    void (*dot)(const int16_t *x, int n, int32_t *const *w, int sets, int32_t *out);
    void (*train)(const int16_t *x, int n, int32_t *const *w, int sets, const int32_t *error);
    /* One layer: the weights of up to 16 sets are added up, cut to the range of one weight, and
     * meet the inputs together; all learn from one error. */
    int32_t (*sum_dot)(const int16_t *x, int n, int32_t *const *w, int sets);
    void (*sum_train)(const int16_t *x, int n, int32_t *const *w, int sets, int32_t error);
    int32_t (*logit)(struct vz_mixer *m);
    void (*update)(struct vz_mixer *m, int bit);
} vz_mix_ops;
/* The best for the FV_CPU_* bits of a context (fv_ctx_cpu). */
const vz_mix_ops *vz_mix_ops_for(uint32_t cpu);
extern const vz_mix_ops vz_mix_ops_c, vz_mix_ops_avx2, vz_mix_ops_avx512;

typedef struct vz_mixer {
    const vz_mix_ops *ops;
    const vz_logistic *lg;
    int16_t *x;                      /* [n] inputs, to be filled before vz_mixer_logit */
    int n, selectors;
    int32_t *group[VZ_MIX_SELECTORS]; /* weights of selector i: [contexts_i][n] */
    int32_t *pick[VZ_MIX_SELECTORS];
    int32_t dot[VZ_MIX_SELECTORS];
    int16_t *x2;                     /* [16] */
    int32_t *group2, *pick2;         /* [contexts2][16] */
    int32_t logit;                   /* the result */
    int32_t rate, rate2;             /* 64 = one unit of error (Q16) moves w by x / 2^18 */
} vz_mixer;
/* Bytes of a mixer's arrays (64-byte aligned) for contexts[selectors] and contexts2. inputs is
 * padded to 16. */
size_t vz_mixer_bytes(int inputs, int selectors, const uint32_t *contexts, uint32_t contexts2);
/* w0: first weight of each input, Q16. memory: 64-byte aligned, vz_mixer_bytes of it. */
void vz_mixer_init(vz_mixer *m, const vz_mix_ops *ops, const vz_logistic *lg, void *memory,
                   int inputs, int selectors, const uint32_t *contexts, uint32_t contexts2,
                   int32_t w0);
FV_INLINE void vz_mixer_pick(vz_mixer *m, int selector, uint32_t context)
{
    m->pick[selector] = m->group[selector] + (size_t)context * (size_t)m->n;
}
FV_INLINE void vz_mixer_pick2(vz_mixer *m, uint32_t context)
{
    m->pick2 = m->group2 + (size_t)context * 16;
}
/* The mixed logit, clamped to +-VZ_SQUASH_MAX. */
FV_INLINE int32_t vz_mixer_logit(vz_mixer *m) { return m->ops->logit(m); }
FV_INLINE void vz_mixer_update(vz_mixer *m, int bit) { m->ops->update(m, bit); }

/* ---- Hashed slots: 64-byte lines of four 16-byte slots, each a check byte and 15 cells ---------
 * A slot serves the 15 nodes of a nibble. The line comes from the upper bits of a hash, the check
 * from the low 8. Cell [1] is the root: the slot with the smallest root is replaced, so cells must
 * be numbered such that larger means more worth keeping. */
typedef struct vz_slots {
    uint8_t *lines;
    uint32_t shift; /* 32 - log2(lines) */
} vz_slots;
/* memory: 64-byte aligned, zeroed, 2^log2_bytes (12..36) bytes. */
FV_INLINE void vz_slots_init(vz_slots *s, uint8_t *memory, int log2_bytes)
{
    s->lines = memory;
    s->shift = (uint32_t)(38 - log2_bytes);
}
FV_INLINE uint8_t *vz_slots_line(const vz_slots *s, uint32_t hash)
{
    return s->lines + ((size_t)(hash >> s->shift) << 6);
}
FV_INLINE uint8_t *vz_slots_find(const vz_slots *s, uint32_t hash)
{
    uint8_t *line = vz_slots_line(s, hash);
    const uint8_t check = (uint8_t)hash;
    if (line[0] == check) return line;
    if (line[16] == check) return line + 16;
    if (line[32] == check) return line + 32;
    if (line[48] == check) return line + 48;
    uint8_t *a = line[1] <= line[17] ? line : line + 16;
    uint8_t *b = line[33] <= line[49] ? line + 32 : line + 48;
    uint8_t *slot = a[1] <= b[1] ? a : b;
    memset(slot, 0, 16);
    slot[0] = check;
    return slot;
}
/* Multiplicative hashing (Knuth); the upper bits are the good ones. */
FV_INLINE uint32_t vz_hash2(uint32_t a, uint32_t b)
{
    uint32_t h = a * 0x2f0b4c47u + b * 0x9e3779b1u + 0x7f4a7c15u;
    h ^= h >> 15;
    h *= 0x85ebca6bu;
    return h ^ h >> 13;
}

#endif
