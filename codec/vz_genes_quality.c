/* vz_genes_quality.c - the model of read qualities: seven binary decisions each, from contexts of
 * the qualities before, the position, what the read has shown so far, and the read before.
 *
 * Behind each quality stands a flag: whether the base is an N, which mostly follows from it.
 *
 * Sources: the contexts of Bonfield and Mahoney, "Compression of FASTQ and SAM format sequencing
 * data" (2013), fqzcomp. */
#include "vz_genes.h"

#include <string.h>

#define CONTEXTS_MAX 10
#define NODES 128

typedef struct qualities {
    vz_logistic lg;
    vz_mixer mixer;
    vz_apm apm;
    uint8_t *memory;
    vz_prob *cells; /* [contexts][2^log2] */
    int contexts, log2;
    vz_prob flag[NODES * 2];
    uint32_t hash[CONTEXTS_MAX];
    const vz_genes_bits *bits;
} qualities;

static int contexts_of(int level)
{
    return 4 + 3 * vz_class_of(level);
}

static const uint32_t MIX_CONTEXTS[3] = {NODES, 64 * 8, 96};

typedef struct layout {
    int log2;
    size_t mixer, apm, total;
} layout;

static layout lay_out(const vz_cm_options *o, uint64_t count)
{
    layout l = {12, 0, 0, 0};
    const int most = vz_clamp(o->memory_log2 - 6, 12, 22);
    while (l.log2 < most && ((uint64_t)1 << l.log2) < count) l.log2++;
    size_t at = (size_t)contexts_of(o->level) * (sizeof(vz_prob) << l.log2);
    l.mixer = at;
    at += (vz_mixer_bytes(CONTEXTS_MAX + 1, 3, MIX_CONTEXTS, NODES) + 63) / 64 * 64;
    l.apm = at;
    l.total = at + vz_apm_bytes(NODES * 96);
    return l;
}

uint64_t vz_quality_memory(const vz_cm_options *o, uint64_t count)
{
    return lay_out(o, count).total + sizeof(qualities) + 128;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* What a read has shown so far. */
typedef struct view {
    uint32_t q1, q2, q3, top, mean, changes, position; /* mean: Q4 */
} view;

static void set_contexts(qualities *m, const view *v, uint32_t above)
{
    const uint32_t m2 = v->q2 > v->q3 ? v->q2 : v->q3;
    const uint32_t c[CONTEXTS_MAX] = {
        v->q1 | v->q2 << 8,
        v->q1 | m2 << 8 | (v->q2 == v->q3) << 16,
        least(v->position, 1023) | v->q1 << 16,
        v->top | v->mean >> 5 << 8,
        above | v->q1 << 8 | v->top << 16,
        v->q1 | v->q2 << 8 | v->q3 << 16,
        v->mean >> 3 | least(v->changes >> 2, 15) << 10 | v->q1 << 16,
        v->top | least(v->position, 1023) << 8,
        above | least(v->position, 1023) << 8 | m2 << 20,
        v->q1 | m2 << 8 | least(v->position >> 3, 31) << 16 | least(v->changes >> 3, 7) << 24,
    };
    for (int i = 0; i < m->contexts; i++)
        m->hash[i] = vz_hash2(c[i], (uint32_t)(i + 1) * 0x3c6ef372u);
    vz_mixer_pick(&m->mixer, 1, least(v->position >> 2, 63) * 8 + least(v->changes >> 2, 7));
    vz_mixer_pick(&m->mixer, 2, v->q1);
}

static uint8_t code_quality(qualities *m, const view *v, uint8_t value)
{
    uint32_t node = 1;
    const uint32_t mask = ((uint32_t)1 << m->log2) - 1;
    for (int k = 6; k >= 0; k--) {
        vz_prob *c[CONTEXTS_MAX];
        for (int i = 0; i < m->contexts; i++) {
            const uint32_t at = (m->hash[i] + node * 0x9e3779b1u) ^ (m->hash[i] >> 15);
            c[i] = m->cells + ((size_t)i << m->log2) + (at & mask);
            m->mixer.x[i] = (int16_t)vz_stretch(&m->lg, vz_prob_p16(*c[i]));
        }
        m->mixer.x[m->contexts] = 256;
        vz_mixer_pick(&m->mixer, 0, node);
        vz_mixer_pick2(&m->mixer, node);
        const int32_t logit = vz_mixer_logit(&m->mixer);
        const uint32_t a = vz_apm_p16(&m->apm, logit, v->q1 * NODES + node);
        const uint32_t p = vz_p16_clamp((3 * vz_squash(&m->lg, logit) + a) >> 2);
        const int bit = vz_genes_bit(m->bits, p, value >> k & 1);
        vz_mixer_update(&m->mixer, bit);
        vz_apm_update(&m->apm, bit, 7);
        for (int i = 0; i < m->contexts; i++)
            vz_prob_update(&m->lg, c[i], bit, i == 3 || i == 7 ? 1022 : 250);
        node = node << 1 | (uint32_t)bit;
    }
    return (uint8_t)(node & 127);
}

static uint8_t code_flag(qualities *m, uint32_t q, uint32_t last, uint8_t flag)
{
    vz_prob *p = &m->flag[q * 2 + last];
    const int bit = vz_genes_bit(m->bits, vz_p16_clamp(vz_prob_p16(*p)), flag);
    vz_prob_update(&m->lg, p, bit, 1022);
    return (uint8_t)bit;
}

static fv_status run(fv_ctx *ctx, qualities *m, const uint32_t *lengths, size_t reads,
                     uint8_t *quality, uint8_t *is_n)
{
    const uint8_t *above = NULL;
    uint32_t above_length = 0;
    uint64_t done = 0;
    for (size_t r = 0; r < reads; r++) {
        view v = {0};
        uint32_t last = 0;
        for (uint32_t i = 0; i < lengths[r]; i++) {
            v.position = i;
            m->mixer.rate = 40 + (int32_t)(300000 / (1000 + done));
            set_contexts(m, &v, i < above_length ? above[i] : 0);
            const uint32_t q = code_quality(m, &v, quality[i]);
            if (q > VZ_QUALITY_MAX)
                return fv_fail(ctx, FV_ERR_FORMAT, "vzip: a corrupt quality in a segment of reads");
            quality[i] = (uint8_t)q;
            last = is_n[i] = code_flag(m, q, last, is_n[i]);
            v.changes += v.q1 > q ? v.q1 - q : q - v.q1;
            v.changes -= v.changes >> 4;
            v.q3 = v.q2;
            v.q2 = v.q1;
            v.q1 = q;
            if (q > v.top) v.top = q;
            v.mean = i ? v.mean + (q << 4) / 16 - v.mean / 16 : q << 4;
            if (++done % 16384 == 0) FV_TRY(fv_report(ctx, "coding", done, 0, NULL));
            if (!m->bits->e && m->bits->d->past > 4)
                return fv_fail(ctx, FV_ERR_TRUNCATED, "vzip: the code of qualities ends after %llu",
                               (unsigned long long)done);
        }
        above = quality;
        above_length = lengths[r];
        quality += lengths[r];
        is_n += lengths[r];
    }
    return FV_OK;
}

fv_status vz_quality_code(fv_ctx *ctx, const vz_cm_options *o, const vz_genes_bits *b,
                          const uint32_t *lengths, size_t reads, uint8_t *quality, uint8_t *is_n)
{
    uint64_t count = 0;
    for (size_t i = 0; i < reads; i++) count += lengths[i];
    const layout l = lay_out(o, count);
    qualities *m = fv_calloc(ctx, 1, sizeof *m);
    if (!m) return FV_ERR_OOM;
    fv_status s = FV_ERR_OOM;
    m->memory = fv_alloc(ctx, l.total);
    if (m->memory) {
        m->bits = b;
        m->contexts = contexts_of(o->level);
        m->log2 = l.log2;
        vz_logistic_init(&m->lg);
        m->cells = (vz_prob *)m->memory;
        for (size_t i = 0; i < (size_t)m->contexts << l.log2; i++)
            m->cells[i] = vz_prob_of(32768, 0);
        for (int i = 0; i < NODES * 2; i++) m->flag[i] = vz_prob_of(600, 4);
        vz_mixer_init(&m->mixer, vz_mix_ops_for(fv_ctx_cpu(ctx)), &m->lg, m->memory + l.mixer,
                      m->contexts + 1, 3, MIX_CONTEXTS, NODES, 65536 / 3);
        vz_apm_init(&m->apm, &m->lg, (uint16_t *)(m->memory + l.apm), NODES * 96);
        s = run(ctx, m, lengths, reads, quality, is_n);
    }
    fv_free(ctx, m->memory);
    fv_free(ctx, m);
    return s;
}
