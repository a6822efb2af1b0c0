/* cm_match.c - predicts the byte that followed the last occurrence of the current context.
 *
 * A rolling hash whose old bytes are shifted out finds the candidate; the bytes themselves are
 * compared, so a hash collision costs nothing. After a wrong byte the model stays at its place with
 * length 0 (tables and logs often differ in one field only) until a verified candidate is longer or
 * 8 of 16 bytes were wrong. Confidence is learnt per (length, recent misses). */
#include "cm.h"

void vz_match_init(vz_match *m, uint32_t *table, int bits, int hash_shift, uint32_t min_length)
{
    m->table = table;
    m->bits = bits;
    m->factor = 0x2f0b4c47u << hash_shift;
    m->min_length = min_length;
    m->hash = m->at = m->length = m->misses = m->expected = m->bucket = 0;
    for (uint32_t i = 0; i < FV_ARRAY_LEN(m->map); i++)
        m->map[i] = vz_prob_of(40000 + 800 * (i >> 4), 0);
    m->cell = NULL;
}

static uint32_t length_bucket(uint32_t n)
{
    if (n < 16) return n;
    if (n < 32) return 12 + (n >> 2); /* 16..19 */
    if (n < 64) return 16 + (n >> 3); /* 20..23 */
    if (n < 128) return 20 + (n >> 4); /* 24..27 */
    if (n < 256) return 28;
    return n < 512 ? 29 : n < 2048 ? 30 : 31;
}

uint32_t vz_match_bucket(uint32_t length, uint32_t misses)
{
    const uint32_t recent = vz_match_misses(misses & 0xff);
    return length_bucket(length) * 4 + (recent < 3 ? recent : 3);
}

void vz_match_seek(vz_match *m, uint32_t c)
{
    m->hash = m->hash * m->factor + c + 1;
    m->entry = m->table + (m->hash * 0x9e3779b1u >> (32 - m->bits));
    FV_PREFETCH(m->entry);
}

void vz_match_byte(vz_match *m, const uint8_t *hist, uint32_t pos)
{
    const uint32_t c = hist[pos - 1];
    if (m->at) {
        const bool hit = hist[m->at] == c;
        m->misses = (m->misses << 1 | !hit) & 0xffff;
        if (!hit) m->length = 0;
        else if (m->length < VZ_MATCH_LONGEST) m->length++;
        m->at++;
        if (vz_match_misses(m->misses) > 8) m->at = m->length = 0;
    }
    uint32_t *entry = m->entry;
    if (m->length < VZ_MATCH_VERIFIED / 4 && *entry) {
        const uint32_t n = vz_match_common(hist, *entry, pos);
        if (n >= m->min_length && n > m->length) {
            m->at = *entry;
            m->length = n;
            m->misses = 0;
        }
    }
    *entry = pos;
    m->expected = m->at ? 256u | hist[m->at] : 0;
    m->bucket = vz_match_bucket(m->length, m->misses);
}
