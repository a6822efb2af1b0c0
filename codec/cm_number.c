/* cm_number.c - experts that predict whole numbers, bit by bit.
 *
 * In records with a layout every number is stored as a big-endian integer whose order is that of
 * the values (floating point: sign and magnitude become one scale). So the bits known so far are an
 * interval of values and the next bit says in which half the value lies:
 *
 *     lo            middle            hi        bit = value >= middle
 *     |----------------|--------x------|        x: an expert's prediction, error e on average
 *
 * The probability is learnt in a context of (x - middle) / e and of the interval's width / e, both
 * on a logarithmic scale. It serves all columns and kinds of numbers, and is learnt within a
 * hundred of them.
 *
 * Experts of a column: the value above; the line through two; the change of the number to the left;
 * the running mean; normalised least mean squares over 16 changes above and 2 to the left; the
 * change of the value in full, which learns steps that return. All integer. */
#include "cm_number.h"

#define VALUE_MAX ((int64_t)1 << 61)
#define FLOAT_TOP 59

static uint32_t bit_length(uint64_t x)
{
    uint32_t n = 0;
    for (uint32_t s = 32; s; s >>= 1)
        if (x >> s) {
            n += s;
            x >>= s;
        }
    return n + (uint32_t)x;
}

/* 4 log2 x, rounded down; 0 for 0 and 1. */
static uint32_t log4(uint64_t x)
{
    const uint32_t n = bit_length(x);
    return n < 3 ? (x > 1 ? 4 + 2 * (x == 3) : 0) : 4 * (n - 1) + (uint32_t)(x >> (n - 3) & 3);
}

static int64_t cut(int64_t x)
{
    return x > VALUE_MAX ? VALUE_MAX : x < -VALUE_MAX ? -VALUE_MAX : x;
}
/* Both within +-2^61: never overflows. */
static int64_t minus(int64_t a, int64_t b) { return cut(a - b); }
static uint64_t magnitude(int64_t x) { return x < 0 ? (uint64_t)-x : (uint64_t)x; }
static int64_t shift_left(int64_t x, int n)
{
    if (x == 0 || n <= 0) return x;
    const int64_t sign = x < 0 ? -1 : 1;
    const uint64_t m = magnitude(x);
    return sign * (n > 61 || m > ((uint64_t)VALUE_MAX >> n) ? VALUE_MAX : (int64_t)(m << n));
}
static int64_t shift_right(int64_t x, int n)
{
    if (n > 62) return 0;
    return x < 0 ? -(int64_t)(magnitude(x) >> n) : x >> n;
}
static int64_t scaled(int64_t x, int n) { return n >= 0 ? shift_left(x, n) : shift_right(x, -n); }

/* ---- Numbers and their values ---------------------------------------------------------------- */

static bool is_float(int type) { return type >= VZ_FLOAT32; }
static uint64_t top_bit(int type) { return (uint64_t)1 << (8 * vz_number_bytes(type) - 1); }
static uint64_t all_bits(int type) { return top_bit(type) * 2 - 1; }

uint64_t vz_number_order(int type, uint64_t bits)
{
    const uint64_t top = top_bit(type);
    return is_float(type) && (bits & top) ? ~bits & all_bits(type) : bits ^ top;
}

uint64_t vz_number_bits(int type, uint64_t order)
{
    const uint64_t top = top_bit(type);
    return is_float(type) && !(order & top) ? ~order & all_bits(type) : order ^ top;
}

static int fraction_bits(int type) { return type == VZ_FLOAT32 ? 23 : 52; }

int32_t vz_number_scale(int type, uint64_t order)
{
    if (!is_float(type)) return 0;
    const int f = fraction_bits(type);
    return (int32_t)((vz_number_bits(type, order) & (top_bit(type) - 1)) >> f);
}

int64_t vz_number_value(int type, uint64_t order, int32_t e)
{
    if (!is_float(type)) {
        /* Of 8 bytes the lowest two bits are lost to the experts, not to the coder. */
        const uint64_t top = top_bit(type);
        const uint64_t v = order >= top ? order - top : top - order;
        const int64_t value = type == VZ_INT64 ? (int64_t)(v >> 2) : (int64_t)(v << 8);
        return cut(order >= top ? value : -value);
    }
    const uint64_t bits = vz_number_bits(type, order);
    const int f = fraction_bits(type);
    const int32_t own = vz_number_scale(type, order);
    int64_t m = (int64_t)(bits & (((uint64_t)1 << f) - 1));
    if (own > 0) m |= (int64_t)1 << f;
    m = scaled(m, (own > 0 ? own : 1) - e + FLOAT_TOP - f);
    return bits & top_bit(type) ? -m : m;
}

/* The number nearest to a value, in order. */
static uint64_t order_of(int type, int64_t value, int32_t e)
{
    const uint64_t top = top_bit(type);
    uint64_t m = magnitude(value);
    if (!is_float(type)) {
        m = type == VZ_INT64 ? m << 2 : m >> 8;
        if (m > top - 1) m = top - 1;
        return value < 0 ? top - m : top + m;
    }
    const int f = fraction_bits(type), n = (int)bit_length(m);
    int32_t own = e + n - 1 - FLOAT_TOP;
    if (n == 0 || own <= 0) return top;
    const int32_t own_max = (int32_t)((top >> f) - 2);
    if (own > own_max) own = own_max;
    m = n - 1 >= f ? m >> (n - 1 - f) : m << (f - n + 1);
    m = (m & (((uint64_t)1 << f) - 1)) | (uint64_t)own << f;
    return value < 0 ? top - 1 - m : top + m;
}

/* ---- Columns --------------------------------------------------------------------------------- */

/* New numbers are larger than any before, or all have been smaller for long. */
static void rescale(vz_column *k, int32_t e)
{
    const int n = (int)(k->e - e);
    for (int i = 0; i <= VZ_NUMBER_TAPS; i++) k->past[i] = scaled(k->past[i], n);
    for (int i = 0; i < VZ_EXPERTS; i++)
        k->error[i] = (uint64_t)scaled((int64_t)k->error[i], n);
    k->mean = scaled(k->mean, n);
    k->step = scaled(k->step, n);
    k->e = e;
}


/* Inputs of the mixed expert: about 14 bits each. */
static void set_inputs(vz_numbers *n, const vz_column *k, const vz_column *left)
{
    int64_t change[VZ_NUMBER_INPUTS], sum = 0;
    uint64_t most = 0;
    for (int i = 0; i < VZ_NUMBER_TAPS; i++) change[i] = minus(k->past[i], k->past[i + 1]);
    for (int i = 0; i < VZ_NUMBER_LEFT; i++) {
        const vz_column *l = left - i;
        const bool is_there = n->column > (uint32_t)i;
        change[VZ_NUMBER_TAPS + i] = is_there ? scaled(l->step, (int)(l->e - k->e)) : 0;
    }
    for (int i = 0; i < VZ_NUMBER_INPUTS; i++) most |= magnitude(change[i]);
    n->shift = (int)bit_length(most) - 14;
    for (int i = 0; i < VZ_NUMBER_INPUTS; i++) {
        n->input[i] = (int32_t)scaled(change[i], -n->shift);
        sum += (int64_t)n->input[i] * k->weight[i];
    }
    n->mixed = shift_right(sum, 16);
}

static void train(vz_numbers *n, vz_column *k, int64_t change)
{
    int64_t power = 1 << 12, e = scaled(change, -n->shift) - n->mixed;
    e = e > 65535 ? 65535 : e < -65535 ? -65535 : e;
    for (int i = 0; i < VZ_NUMBER_INPUTS; i++) power += (int64_t)n->input[i] * n->input[i];
    const int64_t gain = e * ((int64_t)1 << 24) / power; /* at most 2^28 */
    for (int i = 0; i < VZ_NUMBER_INPUTS; i++) {
        const int64_t w = k->weight[i] + shift_right(gain * n->input[i], 8 + 5);
        k->weight[i] = (int32_t)(w > 1 << 20 ? 1 << 20 : w < -(1 << 20) ? -(1 << 20) : w);
    }
}

/* The number that begins at the next byte. */
static void begin_number(vz_numbers *n)
{
    vz_column *k = &n->columns[n->column];
    const vz_column *left = k - (n->column > 0);
    set_inputs(n, k, left);
    const int64_t mixed = scaled(n->mixed, n->shift);
    int64_t *p = n->predicted;
    p[VZ_EXPERT_ABOVE] = 0;
    p[VZ_EXPERT_MIXED] = cut(mixed);
    p[VZ_EXPERT_LINE] = k->step;
    p[VZ_EXPERT_LEFT] = n->column > 0 ? scaled(left->step, (int)(left->e - k->e)) : k->step / 2;
    p[VZ_EXPERT_MEAN] = minus(k->mean, k->past[0]);
    uint64_t least = k->error[0];
    for (int i = 0; i < VZ_EXPERT_EXACT; i++) {
        if (k->error[i] < least) least = k->error[i];
        n->scale[i] = log4(k->error[i]);
    }
    n->last = n->last_order[n->column];
    for (int i = VZ_EXPERT_MIXED; i <= VZ_EXPERT_LEFT; i++)
        n->order[i] = order_of(n->type, cut(k->past[0] + p[i]), k->e);
    const uint64_t unit = is_float(n->type) ? magnitude(minus(
        vz_number_value(n->type, (n->last ^ 1) & all_bits(n->type), k->e), k->past[0]))
        : n->type == VZ_INT64 ? 1 : 256;
    const uint32_t noise = bit_length(least), last_bit = bit_length(unit);
    n->noise = noise > last_bit ? noise - last_bit : 0;
}

static void end_number(vz_numbers *n)
{
    vz_column *k = &n->columns[n->column];
    const int32_t e = vz_number_scale(n->type, n->prefix);
    const int32_t e_max = n->type == VZ_FLOAT32 ? 254 : 2046;
    if (e <= e_max && e > k->e_now) k->e_now = e;
    if (e <= e_max && e > k->e) rescale(k, e);
    if (++k->seen % 64 == 0) {
        if (k->e_now < k->e) rescale(k, k->e_now);
        k->e_now = 0;
    }
    const int64_t v = vz_number_value(n->type, n->prefix, k->e);
    const int64_t change = minus(v, k->past[0]);
    for (int i = 0; i < VZ_EXPERT_EXACT; i++) {
        const uint64_t d = magnitude(minus(change, n->predicted[i]));
        const int rate = k->seen < 8 ? 1 : k->seen < 32 ? 3 : 4;
        k->error[i] = k->error[i] - (k->error[i] >> rate) + (d >> rate);
    }
    if (k->seen > 1) train(n, k, change);
    for (int i = VZ_NUMBER_TAPS; i > 0; i--) k->past[i] = k->past[i - 1];
    k->past[0] = v;
    k->step = change;
    k->mean += minus(v, k->mean) / (k->seen < 32 ? (int64_t)k->seen : 32);
    if (k->seen == 1) { /* what was before is not known: no changes */
        for (int i = 1; i <= VZ_NUMBER_TAPS; i++) k->past[i] = v;
        k->step = 0;
    }
    n->last_order[n->column] = n->prefix;
    n->column++;
}

/* ---- Bytes and bits -------------------------------------------------------------------------- */

static void next_type(vz_numbers *n)
{
    n->type = n->at < n->layout.length ? n->layout.type[n->at] : VZ_NO_NUMBER;
    n->bytes = vz_number_bytes(n->type);
    n->byte = 0;
    n->prefix = 0;
    if (n->type != VZ_NO_NUMBER) begin_number(n);
}

/* The layout has been set. */
void vz_numbers_start(vz_numbers *n, uint64_t size)
{
    const vz_layout *l = &n->layout;
    n->lead = l->phase;
    n->left = size > l->phase ? (size - l->phase) / l->length * l->length : 0;
    memset(n->columns, 0, sizeof n->columns);
    memset(n->last_order, 0, sizeof n->last_order);
    memset(n->cell, 0, sizeof n->cell);
    for (size_t i = 0; i < FV_ARRAY_LEN(n->map); i++) n->map[i] = vz_prob_of(32768, 0);
    for (size_t i = 0; i < FV_ARRAY_LEN(n->exact); i++) n->exact[i] = vz_prob_of(32768, 0);
    n->column = n->at = 0;
    n->type = VZ_NO_NUMBER;
    if (n->lead == 0 && n->left > 0) next_type(n);
}

static void learn_bit(const vz_logistic *lg, vz_numbers *n, int bit)
{
    for (int i = 0; i < VZ_EXPERTS; i++)
        if (n->cell[i]) vz_prob_update(lg, n->cell[i], bit, i == VZ_EXPERT_EXACT ? 127 : 510);
    memset(n->cell, 0, sizeof n->cell);
}

void vz_numbers_byte(const vz_logistic *lg, vz_numbers *n, uint32_t c)
{
    learn_bit(lg, n, (int)(c & 1));
    if (n->left == 0) return;
    if (n->lead > 0) {
        if (--n->lead == 0) next_type(n);
        return;
    }
    n->left--;
    if (n->type != VZ_NO_NUMBER) {
        n->prefix = n->prefix << 8 | c;
        if (++n->byte == n->bytes) end_number(n);
    }
    if (++n->at == n->layout.length) {
        n->at = 0;
        n->column = 0;
    }
    if (n->left == 0) n->type = VZ_NO_NUMBER;
    else if (n->type == VZ_NO_NUMBER || n->byte == n->bytes) next_type(n);
}

static uint32_t context_of(int64_t distance, uint32_t scale, uint32_t width)
{
    int32_t d = (int32_t)log4(magnitude(distance)) - (int32_t)scale + 18;
    int32_t w = ((int32_t)width - (int32_t)scale + 8) / 2;
    d = d < 0 ? 0 : d > 31 ? 31 : d;
    w = w < 0 ? 0 : w > 15 ? 15 : w;
    return (uint32_t)(w * 64 + (distance < 0 ? d : 32 + d));
}

void vz_numbers_inputs(const vz_logistic *lg, vz_numbers *n, uint32_t c0, int16_t *x, int count)
{
    const vz_column *k = &n->columns[n->column];
    const uint32_t known = bit_length(c0) - 1, left = 8 * (n->bytes - n->byte) - known;
    const uint64_t high = n->prefix << known | (c0 & ((1u << known) - 1));
    if (known > 0) learn_bit(lg, n, (int)(c0 & 1));
    const uint64_t low = (left < 64 ? high << left : 0);
    const uint64_t middle = low + ((uint64_t)1 << (left - 1));
    const int64_t m = vz_number_value(n->type, middle, k->e);
    const int64_t half = minus(m, vz_number_value(n->type, low, k->e));
    const int64_t at = minus(m, k->past[0]);
    const uint32_t width = log4((uint64_t)half);
    for (int i = 0; i < VZ_EXPERT_EXACT && i < count; i++) {
        const uint32_t c = context_of(minus(n->predicted[i], at), n->scale[i], width);
        n->cell[i] = &n->map[i * 1024 + c];
    }
    const int64_t step = (int64_t)(middle - n->last);
    if (count > VZ_EXPERT_EXACT && step < 4096 && step > -4096) {
        const uint32_t h = vz_hash2((uint32_t)step, n->column << 8 | (left < 20 ? left : 20));
        n->cell[VZ_EXPERT_EXACT] = &n->exact[h >> 16];
    }
    for (int i = 0; i < count; i++)
        x[i] = n->cell[i] ? (int16_t)vz_stretch(lg, vz_prob_p16(*n->cell[i])) : 0;
}
