/* cm_layout.c - which bytes of a record are numbers, of what type.
 *
 * For every place in a record and every type the bits are estimated that a number would take there,
 * from the distance to the value above or to the line through the two above, and for every single
 * byte the entropy of its values or differences. The cheapest way to tile the record wins, over the
 * first places where a record may begin, since a segment may begin inside of one. Only the encoder
 * measures; the layout is part of the code:
 *
 *     is there one: 1 | big-endian: 1 | phase: 3 | types, 3 bits each, until the record is full
 *
 * in bits of probability 1/2, the highest first. A type that does not fit into the rest of the
 * record is a single byte. */
#include "cm_number.h"

#include <string.h>

#define SAMPLE ((size_t)16384)
#define RECORDS 512u
#define STRETCHES 4u
#define LEAST 24u          /* records that a measure needs */
#define NUMBER_BITS 740u   /* of 256: entropy of a Laplace distribution above its mean logarithm */

static uint64_t load(const uint8_t *p, uint32_t bytes, bool is_big)
{
    uint64_t v = 0;
    for (uint32_t i = 0; i < bytes; i++) v = v << 8 | p[is_big ? i : bytes - 1 - i];
    return v;
}

static void store(uint8_t *p, uint32_t bytes, bool is_big, uint64_t v)
{
    for (uint32_t i = 0; i < bytes; i++) {
        p[is_big ? bytes - 1 - i : i] = (uint8_t)v;
        v >>= 8;
    }
}

/* 256 log2 x; 0 for 0. */
static uint32_t log256(uint64_t x)
{
    uint32_t n = 0;
    if (x == 0) return 0;
    while (x >> 8 >> n) n++;
    const uint32_t m = (uint32_t)(x >> n); /* below 256 */
    uint32_t k = 0;
    while (m >> (k + 1)) k++;
    return (n + k) * 256 + ((m << 8 >> k) & 255);
}

/* ---- Measures -------------------------------------------------------------------------------- */

/* Records that are looked at: stretches of neighbours. */
typedef struct sample {
    const uint8_t *data;
    uint32_t length, records, stretch; /* records of all, and of one stretch */
    size_t step;                       /* bytes from one stretch to the next */
} sample;

static bool take_sample(sample *s, const uint8_t *data, size_t size, uint32_t length)
{
    const size_t there = size / length;
    size_t records = SAMPLE / length;
    if (records > RECORDS) records = RECORDS;
    /* A number may reach into the record behind the last. */
    if (there < LEAST + 2) return false;
    s->data = data;
    s->length = length;
    const bool is_all = there - 2 <= records;
    s->stretch = (uint32_t)(is_all ? there - 2 : records / STRETCHES);
    s->records = is_all ? s->stretch : s->stretch * STRETCHES;
    s->step = is_all ? 0 : (there - 2 - s->stretch) / (STRETCHES - 1) * length;
    return s->stretch >= 4;
}

/* Bits of one byte at that place, in 1/256. */
static uint32_t byte_cost(const sample *s, uint32_t place)
{
    uint32_t value[256] = {0}, change[256] = {0}, best = 0;
    for (uint32_t at = 0; at < s->records; at += s->stretch) {
        const uint8_t *p = s->data + at / s->stretch * s->step + place;
        for (uint32_t i = 0; i < s->stretch; i++, p += s->length) {
            value[p[0]]++;
            if (i > 0) change[(p[0] - *(p - s->length)) & 255]++;
        }
    }
    for (int k = 0; k < 1; k++) {
        const uint32_t *count = k ? change : value;
        uint64_t sum = 0, n = 0;
        uint32_t seen = 0;
        for (int i = 0; i < 256; i++) {
            sum += (uint64_t)count[i] * log256(count[i]);
            n += count[i];
            seen += count[i] > 0;
        }
        /* Few samples make the entropy of many values too small (Miller and Madow 1955). */
        const uint32_t bits = log256(n) - (uint32_t)(sum / n) +
                              (uint32_t)((seen - 1) * 185 / n);
        if (k == 0 || bits < best) best = bits;
    }
    return best;
}

/* Neither zero nor of common magnitude: integers read as floating point mostly are. */
static bool is_odd_float(int type, uint64_t order)
{
    const int32_t bias = type == VZ_FLOAT32 ? 127 : 1023, near = type == VZ_FLOAT32 ? 40 : 100;
    const int32_t e = vz_number_scale(type, order);
    if (e == 0) return vz_number_bits(type, order) << 1 << (64 - 8 * vz_number_bytes(type)) != 0;
    return e < bias - near || e > bias + near;
}

/* The same of a number. */
static uint32_t number_cost(const sample *s, uint32_t place, int type, bool is_big)
{
    const uint32_t bytes = vz_number_bytes(type);
    uint64_t sum[2] = {0, 0};
    uint32_t n = 0, odd = 0;
    for (uint32_t at = 0; at < s->records; at += s->stretch) {
        const uint8_t *p = s->data + at / s->stretch * s->step + place;
        uint64_t a = 0, b = 0;
        for (uint32_t i = 0; i < s->stretch; i++, p += s->length) {
            const uint64_t v = vz_number_order(type, load(p, bytes, is_big));
            odd += type >= VZ_FLOAT32 && is_odd_float(type, v);
            if (i > 1) {
                const uint64_t d = v > a ? v - a : a - v, e = v - 2 * a + b;
                const uint64_t m = e >> 63 ? 0 - e : e;
                sum[0] += d ? log256(d) + NUMBER_BITS : 40;
                sum[1] += m ? log256(m) + NUMBER_BITS : 40;
                n++;
            }
            b = a;
            a = v;
        }
    }
    const uint64_t least = sum[0] < sum[1] ? sum[0] : sum[1];
    const uint32_t most = bytes * 8 * 256 + 64;
    if (odd > n / 16) return most;
    /* Of what is as likely the larger type, the rounder place, and floating point. */
    uint64_t bits = least / n;
    if (type >= VZ_FLOAT32) bits -= bits / 16;
    if (place % bytes == 0) bits -= bits * bytes / 256;
    return bits < most ? (uint32_t)bits : most;
}

/* ---- Tiling ---------------------------------------------------------------------------------- */

typedef struct costs {
    uint32_t of[VZ_LAYOUT_BYTES][VZ_NUMBER_TYPES]; /* [place][type] */
} costs;

/* Cheapest way from each place to the end of the record. */
static uint32_t tile(const costs *c, uint32_t length, uint32_t phase, uint8_t *type)
{
    uint32_t rest[VZ_LAYOUT_BYTES + 1];
    uint8_t best[VZ_LAYOUT_BYTES];
    rest[length] = 0;
    for (uint32_t at = length; at-- > 0;) {
        const uint32_t *of = c->of[(at + phase) % length];
        rest[at] = of[VZ_NO_NUMBER] + rest[at + 1];
        best[at] = VZ_NO_NUMBER;
        for (int t = VZ_INT16; t < VZ_NUMBER_TYPES; t++) {
            const uint32_t n = vz_number_bytes(t);
            if (at + n > length || of[t] + rest[at + n] >= rest[at]) continue;
            rest[at] = of[t] + rest[at + n];
            best[at] = (uint8_t)t;
        }
    }
    for (uint32_t at = 0; at < length; at += vz_number_bytes(best[at])) type[at] = best[at];
    return rest[0];
}

static bool is_half_float(const uint8_t *type, uint32_t length)
{
    uint32_t bytes = 0;
    for (uint32_t at = 0; at < length; at += vz_number_bytes(type[at]))
        if (type[at] >= VZ_FLOAT32) bytes += vz_number_bytes(type[at]);
    return bytes * 2 >= length;
}

uint32_t vz_layout_cost(const uint8_t *data, size_t size, uint32_t length, vz_layout *out)
{
    costs c;
    sample s;
    uint32_t bytes = 0;
    memset(out, 0, sizeof *out);
    if (length < 2 || length > VZ_LAYOUT_BYTES || !take_sample(&s, data, size, length))
        return length * 8 * 256;
    for (uint32_t i = 0; i < length; i++) {
        c.of[i][VZ_NO_NUMBER] = byte_cost(&s, i);
        bytes += c.of[i][VZ_NO_NUMBER];
    }
    uint32_t best = bytes;
    for (int is_big = 0; is_big < 2; is_big++) {
        for (uint32_t i = 0; i < length; i++)
            for (int t = VZ_INT16; t < VZ_NUMBER_TYPES; t++)
                c.of[i][t] = vz_number_bytes(t) <= length ? number_cost(&s, i, t, is_big) : 1 << 16;
        for (uint32_t phase = 0; phase < VZ_LAYOUT_PHASES && phase < length; phase++) {
            uint8_t type[VZ_LAYOUT_BYTES] = {0};
            const uint32_t bits = tile(&c, length, phase, type);
            /* Contexts see more in integers than single bytes do, and little in fractions. */
            const bool is_clear = bits < bytes - bytes / (is_half_float(type, length) ? 32 : 5);
            if (bits >= best || !is_clear) continue;
            best = bits;
            *out = (vz_layout){length, phase, is_big, {0}};
            memcpy(out->type, type, length);
        }
    }
    return out->length ? best : bytes;
}

/* ---- In the code ----------------------------------------------------------------------------- */

static void put_bits(vz_encoder *e, uint32_t v, int n)
{
    while (n-- > 0) vz_encode_bit(e, 32768, (int)(v >> n & 1));
}

static uint32_t get_bits(vz_decoder *d, int n)
{
    uint32_t v = 0;
    while (n-- > 0) v = v << 1 | (uint32_t)vz_decode_bit(d, 32768);
    return v;
}

void vz_layout_put(const vz_layout *l, vz_encoder *e)
{
    put_bits(e, l->length > 0, 1);
    if (l->length == 0) return;
    put_bits(e, l->is_big, 1);
    put_bits(e, l->phase, 3);
    for (uint32_t at = 0; at < l->length; at += vz_number_bytes(l->type[at]))
        put_bits(e, l->type[at], 3);
}

void vz_layout_get(vz_layout *l, uint32_t length, vz_decoder *d)
{
    memset(l, 0, sizeof *l);
    if (!get_bits(d, 1) || length > VZ_LAYOUT_BYTES) return;
    l->length = length;
    l->is_big = get_bits(d, 1);
    l->phase = get_bits(d, 3);
    if (l->phase >= length) l->phase = 0;
    for (uint32_t at = 0; at < length; at += vz_number_bytes(l->type[at])) {
        const uint32_t t = get_bits(d, 3);
        if (t < VZ_NUMBER_TYPES && at + vz_number_bytes((int)t) <= length) l->type[at] = (uint8_t)t;
    }
}

void vz_layout_apply(const vz_layout *l, uint8_t *data, size_t size, bool forward)
{
    if (l->length == 0 || size < l->phase) return;
    for (size_t at = l->phase; at + l->length <= size; at += l->length) {
        for (uint32_t i = 0; i < l->length;) {
            const int t = l->type[i];
            const uint32_t n = vz_number_bytes(t);
            uint8_t *p = data + at + i;
            if (t != VZ_NO_NUMBER) {
                const uint64_t v = load(p, n, forward ? l->is_big : true);
                if (forward) store(p, n, true, vz_number_order(t, v));
                else store(p, n, l->is_big, vz_number_bits(t, v));
            }
            i += n;
        }
    }
}
