/* cm_binary.c - contexts of binary data and records.
 *
 * Beside the last 1 to 6 bytes: single bytes and pairs further back (sparse), what followed the
 * last bytes earlier (indirect), and the record that the data seems to have: the byte above, its
 * neighbours and the column. The length of a record is given (VZ_RECORDS) or found on line: a
 * distance at which equal bytes return again and again. */
#include "cm.h"

#define STRIDE_MAX 1024u

void vz_cm_stride_byte(vz_cm *cm, uint32_t c)
{
    vz_stride *s = &cm->stride;
    const uint32_t gap = cm->pos - 1 - s->last[c];
    s->last[c] = cm->pos - 1;
    if (cm->kind == VZ_RECORDS) {
        s->length = cm->param;
        return;
    }
    if (gap < 2 || gap > STRIDE_MAX) return;
    uint32_t worst = 0;
    for (uint32_t i = 0; i < 4; i++) {
        if (s->candidate[i] == gap) {
            if (s->score[i] < 4000) s->score[i] += 8;
            if (s->score[i] > 250 && s->score[i] > s->score[0] + 32 * (i > 0)) {
                const uint32_t top = s->score[i];
                s->score[i] = s->score[0];
                s->candidate[i] = s->candidate[0];
                s->score[0] = top;
                s->candidate[0] = gap;
                s->length = gap;
            }
            return;
        }
        if (s->score[i] > 0) s->score[i]--;
        if (i > 0 && (worst == 0 || s->score[i] < s->score[worst])) worst = i;
    }
    if (s->score[worst] < 8) {
        s->candidate[worst] = gap;
        s->score[worst] = 8;
    }
}

/* The byte `back` records and `left` bytes before the next one. */
static uint32_t record_byte(const vz_cm *cm, uint32_t back, uint32_t left)
{
    const uint64_t distance = (uint64_t)back * cm->stride.length + left;
    return distance > 0 && distance <= cm->pos ? cm->hist[cm->pos - distance] : 0;
}

#define ADD(v) (h[n] = vz_hash2((v), (uint32_t)(n + 1) * 0x2c1b3c6du), n++)

/* The 10 contexts of the strongest class beyond the 14 of the middle one. */
static void more_contexts(const vz_cm *cm, uint32_t *h, int n, uint32_t above)
{
    const uint32_t c4 = cm->c4, c8 = cm->c8, c1 = c4 & 0xff;
    ADD(vz_hash2(c4, c8 & 0xff));
    ADD(vz_hash2(c4, c8));
    ADD(c4 & 0xff0000);
    ADD(c4 & 0xff00ff);
    ADD(c4 & 0xff000000);
    ADD(vz_hash2(cm->indirect1[c1], c1));
    ADD(((above + c1 - record_byte(cm, 1, 1)) & 0xff) | cm->stride.length << 8);
    ADD(vz_hash2(c4 & 0xf0f0f0f0, c8 & 0xf0f0));
    ADD(c8 & 0xffff);
    ADD(c1 | (cm->pos & 3) << 8);
}

/* In a number: its column, what is known of it, and what the experts expect of its next byte. They
 * take the places of contexts that need bytes without a meaning of their own. */
static void number_contexts(vz_cm *cm)
{
    uint32_t *h = cm->hash;
    const vz_numbers *k = cm->numbers;
    const uint32_t down = 8 * (k->bytes - k->byte - 1), place = k->column << 4 | k->byte;
    const uint32_t prefix = vz_hash2((uint32_t)k->prefix, (uint32_t)(k->prefix >> 32));
    const uint64_t said[3] = {k->last, k->order[VZ_EXPERT_MIXED], k->order[VZ_EXPERT_LINE]};
    static const uint8_t AT[3] = {4, 10, 12};
    for (int i = 0; i < 3; i++) {
        if (cm->strength == VZ_CM_FAST && i > 0) break;
        /* By how much the known bytes differ; beyond a little it does not matter. */
        const uint64_t above = down < 56 ? said[i] >> down >> 8 : 0;
        const int64_t d = (int64_t)(k->prefix - above);
        const uint32_t ahead = d > 2 || d < -2 ? 7 : (uint32_t)(d + 3);
        const int n = AT[i];
        h[n] = vz_hash2((uint32_t)(said[i] >> down & 255) << 4 | ahead,
                        vz_hash2(place, 0x2f1b3c6du + (uint32_t)i));
    }
    h[6] = vz_hash2(prefix, vz_hash2(place, 0x6c1b3c2du));
    if (cm->strength == VZ_CM_FAST) return;
    h[8] = vz_hash2(vz_hash2(prefix, (uint32_t)k->last ^ (uint32_t)(k->last >> 32)), place);
    const uint32_t noise = k->noise + 8 > down ? k->noise + 8 - down : 0;
    cm->select[0] = noise < 24 ? noise + 24 * (k->byte < 8 ? k->byte : 8) : 23;
}

/* In a database: slot of the row, type and place in it, and the slot in the row before. */
static void row_contexts(vz_cm *cm)
{
    uint32_t *h = cm->hash;
    const vz_rows *r = &cm->rows;
    const uint32_t k = cm->pos - r->begin[r->slot], c4 = cm->c4, c1 = c4 & 0xff;
    const uint32_t up = r->above + k < cm->pos ? cm->hist[r->above + k] : 0;
    const uint32_t up2 = r->above + k + 1 < cm->pos ? cm->hist[r->above + k + 1] : 0;
    const uint32_t row = r->kind | r->columns << 8;
    const uint32_t type = r->slot >= 6 ? r->type[r->column % VZ_ROWS_COLUMNS] : 0;
    const uint32_t slot = vz_hash2(r->slot | r->zone << 8, row);
    h[4] = vz_hash2(vz_hash2(slot, up), c1 | 0x10000);
    h[6] = vz_hash2(vz_hash2(slot, type), (k < 255 ? k : 255) | 0x20000);
    if (cm->strength == VZ_CM_FAST) return;
    h[10] = vz_hash2(vz_hash2(slot, up | up2 << 8), (c4 & 0xffff) | 0x30000);
    h[11] = vz_hash2(vz_hash2(slot, c4 & 0xffff), 0x40000);
    h[12] = vz_hash2(vz_hash2(slot, up | up2 << 8), (k < 255 ? k : 255) | 0x50000);
    cm->select[0] = up;
    cm->select[1] = (r->slot * 4 + (k < 3 ? k : 3)) & 255;
}

void vz_cm_binary_contexts(vz_cm *cm)
{
    uint32_t *h = cm->hash;
    const uint32_t c4 = cm->c4, c8 = cm->c8, c1 = c4 & 0xff;
    const uint32_t length = cm->stride.length;
    const uint32_t above = record_byte(cm, 1, 0), above2 = record_byte(cm, 2, 0);
    const uint32_t column = length ? (cm->pos - cm->stride.start) % length : 0;
    int n = 0;
    if (cm->strength != VZ_CM_FAST) ADD(c1);
    ADD(c4 & 0xffff);
    ADD(c4 & 0xffffff);
    ADD(c4);
    ADD(vz_hash2(c4, c8 & 0xffff));
    ADD(above | c1 << 8 | length << 16);
    ADD(c4 & 0xff00);
    ADD(vz_hash2(column, length));
    if (cm->strength == VZ_CM_FAST) {
        if (cm->is_number) number_contexts(cm);
        if (cm->rows.is_on && cm->rows.slot) row_contexts(cm);
        return;
    }
    ADD(vz_hash2(cm->text.word, c1));
    ADD(above | above2 << 8 | length << 16);
    ADD(vz_hash2(above | c1 << 8, column | length << 16));
    ADD(vz_hash2(above | record_byte(cm, 1, 1) << 8 | c1 << 16, length));
    ADD(c4 & 0xffff00);
    ADD(vz_hash2(cm->indirect2[c4 & 0xffff], c1));
    cm->select[0] = above;
    cm->select[1] = column < 255 ? column : 255;
    if (cm->strength == VZ_CM_MAX) more_contexts(cm, h, n, above);
    if (cm->is_number) number_contexts(cm);
    if (cm->rows.is_on && cm->rows.slot) row_contexts(cm);
}
