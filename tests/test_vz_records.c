/* test_vz_records.c - tables of numbers and databases: found, smaller than with zstd -19, the same
 * for every vector width; any layout is inverted; hostile layouts and codes are survived. */
#include "cm.h"
#include "sanitized.h"
#include "vz_bytes_case.h"
#include "vz_records.h"

#include <zstd.h>

/* ---- Tables ---------------------------------------------------------------------------------- */

typedef struct maker {
    uint8_t *p;
    size_t at;
    uint64_t seed;
} maker;

static double noise(maker *m) /* nearly normal, deviation 1 */
{
    double sum = 0;
    for (int i = 0; i < 12; i++) sum += test_next(&m->seed) / 4294967296.0;
    return sum - 6;
}
static void put(maker *m, uint64_t v, int bytes, bool is_big)
{
    for (int i = 0; i < bytes; i++)
        m->p[m->at++] = (uint8_t)(v >> 8 * (is_big ? bytes - 1 - i : i));
}
static void put_f32(maker *m, double x, bool is_big)
{
    const float f = (float)x;
    uint32_t v;
    memcpy(&v, &f, sizeof v);
    put(m, v, 4, is_big);
}
static void put_f64(maker *m, double x)
{
    uint64_t v;
    memcpy(&v, &x, sizeof v);
    put(m, v, 8, false);
}

enum { FLOATS, SMOOTH_FLOATS, BIG_FLOATS, DOUBLES, WALK16, WALK32, COUNTER, TIMES, STRUCTS,
       TRIANGLES, TABLES };

static void record(maker *m, int table, size_t i, double *x, int64_t *t)
{
    const uint32_t r = test_next(&m->seed) >> 8;
    switch (table) {
    case FLOATS:
        for (int c = 1; c <= 8; c++)
            put_f32(m, sin((double)i * 0.01 * c) * c + 0.01 * noise(m), false);
        break;
    case SMOOTH_FLOATS: put_f32(m, 100 * sin((double)i / 500), false); break;
    case BIG_FLOATS:
        for (int c = 0; c < 3; c++) put_f32(m, x[c] = 0.99 * x[c] + noise(m), true);
        break;
    case DOUBLES: put_f64(m, x[0] += noise(m)); break;
    case WALK16: put(m, (uint64_t)(*t += r % 81 - 40), 2, false); break;
    case WALK32: put(m, (uint64_t)(*t += r % 621 - 300), 4, false); break;
    case COUNTER: put(m, (uint64_t)(*t += 1 + (r % 5 == 0) * 6), 4, false); break;
    case TIMES: put(m, 1700000000000u + (uint64_t)(*t += 900 + r % 200), 8, false); break;
    case STRUCTS:
        put(m, (uint64_t)(*t += 1 + (r % 4 == 0) * 59), 4, false);
        put(m, i * 7, 2, false);
        put(m, r % 3, 2, false);
        put_f32(m, x[0] += 0.1 * noise(m), false);
        put_f64(m, x[1] += 0.2 * noise(m));
        break;
    default:
        put(m, i, 4, false);
        put(m, i + r % 30, 4, false);
        put(m, i + (r >> 8) % 200, 4, false);
    }
}

static size_t make(uint8_t *p, size_t room, int table)
{
    maker m = {p, 0, (uint64_t)table + 1};
    double x[3] = {0, 0, 0};
    int64_t t = 0;
    for (size_t i = 0; m.at + 32 <= room; i++) record(&m, table, i, x, &t);
    return m.at;
}

static uint8_t data[50000], code[60000], back[50000];

/* ---- Found, small, and back ------------------------------------------------------------------ */

static void tables_are_smaller_than_with_zstd(void)
{
    for (int table = 0; table < TABLES; table++) {
        const size_t n = make(data, sizeof data, table);
        const size_t zstd = ZSTD_compress(code, sizeof code, data, n, 19);
        fv_ctx *ctx = vz_test_ctx(0, 0);
        for (int level = 3; level <= (TEST_SANITIZED ? 3 : 9); level += 6) {
            const vz_cm_options o = {level, 22, NULL};
            vz_buf b;
            vz_buf_init(&b, ctx);
            const fv_status s = vz_modelled_encode(ctx, &o, data, n, NULL, &b);
            const fv_status d = vz_modelled_decode(ctx, &o, b.data, b.size, back, n);
            const size_t size = b.size;
            const bool is_table = b.size > 2 && b.data[1] == (VZ_RECORDS | 128);
            vz_buf_free(&b);
            CHECK(s == FV_OK && d == FV_OK && memcmp(data, back, n) == 0);
            CHECK_MSG(is_table, "table %d at level %d is not found", table, level);
            CHECK_MSG(size < zstd - zstd / 10, "table %d at level %d: %zu bytes, zstd %zu", table,
                      level, size, zstd);
        }
        fv_ctx_destroy(&ctx);
    }
}

static void code_is_the_same_for_every_vector_width(void)
{
    static const struct { int table; uint32_t length; } CASES[] = {{FLOATS, 32}, {STRUCTS, 20}};
    for (int level = 1; level <= 9; level += 4)
        for (size_t k = 0; k < FV_ARRAY_LEN(CASES); k++) {
            const size_t n = make(data, 12000, CASES[k].table) - 5;
            const vz_segment g = {VZ_RECORDS, CASES[k].length, n};
            same_code_for_every_vector_width(vz_bytes_case(level, 20, &g, 1, data, n));
        }
}

/* A layout, or numbers, is found only where they are. */
static void other_data_is_left_alone(void)
{
    vz_layout l;
    put_noise(data, sizeof data, 3);
    CHECK(!vz_records_are_numbers(data, sizeof data));
    for (uint32_t length = 2; length < 40; length++) {
        vz_layout_cost(data, sizeof data, length, &l);
        CHECK(l.length == 0);
    }
    vz_layout_cost(data, 30, 4, &l); /* too few */
    CHECK(l.length == 0);
    vz_layout_cost(data, sizeof data, VZ_LAYOUT_BYTES + 1, &l);
    CHECK(l.length == 0);
    CHECK(!vz_records_are_numbers(data, 0));
    const size_t n = make(data, sizeof data, FLOATS);
    CHECK(vz_records_are_numbers(data, n));
}

/* ---- Layouts --------------------------------------------------------------------------------- */

static void layout_is_found(void)
{
    vz_layout l;
    const size_t n = make(data, sizeof data, BIG_FLOATS);
    vz_layout_cost(data, n, 12, &l);
    CHECK(l.length == 12 && l.phase == 0 && l.is_big);
    for (int i = 0; i < 12; i++) CHECK(l.type[i] == (i % 4 == 0 ? VZ_FLOAT32 : VZ_NO_NUMBER));
    vz_layout_cost(data + 3, n - 3, 12, &l);
    CHECK(l.length == 12 && l.phase % 4 == 1 && l.type[0] == VZ_FLOAT32);
}

static void order_is_that_of_values(void)
{
    static const double VALUES[] = {-1e300, -2, -1, -1e-300, 0, 1e-300, 0.5, 1, 1.5, 2, 1e300};
    uint64_t last = 0;
    for (size_t i = 0; i < FV_ARRAY_LEN(VALUES); i++) {
        uint64_t bits;
        memcpy(&bits, &VALUES[i], sizeof bits);
        const uint64_t order = vz_number_order(VZ_FLOAT64, bits);
        CHECK(order > last);
        CHECK(vz_number_bits(VZ_FLOAT64, order) == bits);
        const int64_t v = vz_number_value(VZ_FLOAT64, order, 1023);
        if (fabs(VALUES[i]) < 3) CHECK(v == (int64_t)(VALUES[i] * 576460752303423488.0));
        last = order;
    }
    for (int type = VZ_INT16; type < VZ_NUMBER_TYPES; type++) {
        const uint64_t all = ~(uint64_t)0 >> (64 - 8 * vz_number_bytes(type));
        uint64_t seed = 1;
        for (int i = 0; i < 2000; i++) {
            const uint64_t v = ((uint64_t)test_next(&seed) << 32 | test_next(&seed)) & all;
            CHECK(vz_number_bits(type, vz_number_order(type, v)) == v);
            CHECK(vz_number_order(type, v) <= all);
            const int64_t value = vz_number_value(type, v, i % 3000);
            CHECK(value <= (int64_t)1 << 61 && value >= -((int64_t)1 << 61));
        }
    }
}

/* Whatever bits say, a layout fits its record and is inverted. */
static void any_layout_is_inverted(void)
{
    static const uint32_t LENGTHS[] = {2, 3, 5, 8, 31, 511, 512, 513, 65535};
    uint64_t seed = 5;
    for (int round = 0; round < 400; round++) {
        const uint32_t length = LENGTHS[round % FV_ARRAY_LEN(LENGTHS)];
        const size_t n = round % 7 ? 700 + (size_t)round : (size_t)round % 5;
        vz_decoder d;
        vz_layout l;
        for (size_t i = 0; i < 300; i++) code[i] = (uint8_t)(test_next(&seed) >> 9);
        for (size_t i = 0; i < n; i++) data[i] = back[i] = (uint8_t)(test_next(&seed) >> 9);
        vz_decoder_init(&d, code, (size_t)round % 300);
        vz_layout_get(&l, length, &d);
        CHECK(l.length == 0 || (l.length == length && length <= VZ_LAYOUT_BYTES));
        CHECK(l.length == 0 || (l.phase < VZ_LAYOUT_PHASES && l.phase < length));
        for (uint32_t i = 0; i < l.length; i++)
            CHECK(l.type[i] < VZ_NUMBER_TYPES && i + vz_number_bytes(l.type[i]) <= length);
        vz_layout_apply(&l, back, n, true);
        vz_layout_apply(&l, back, n, false);
        CHECK(memcmp(back, data, n) == 0);
    }
}

/* ---- Hostile --------------------------------------------------------------------------------- */

static void random_codes_are_survived(void)
{
    static const uint32_t LENGTHS[] = {2, 3, 8, 30, 512, 513, 65535};
    fv_ctx *ctx = vz_test_ctx(0, 0);
    uint64_t seed = 9;
    bool good = true;
    for (int round = 0; good && round < 60; round++) {
        const vz_cm_options o = {round % 9 + 1, 20, NULL};
        const uint32_t length = LENGTHS[round % FV_ARRAY_LEN(LENGTHS)];
        const vz_segment g[] = {{VZ_RECORDS, length, 1 + (uint64_t)round * 17},
                                {VZ_BINARY, 0, 40}, {VZ_RECORDS, 9, 100}};
        const size_t n = 40 + (size_t)round * 8;
        for (size_t i = 0; i < n; i++) code[i] = (uint8_t)(test_next(&seed) >> 9);
        code[0] |= 0x40; /* a small code begins with a 1: there is a layout */
        if (round % 2) code[0] &= 0x7f;
        const fv_status s = vz_cm_decode(ctx, &o, g, 3, code, n, back);
        good = s == FV_OK || s == FV_ERR_TRUNCATED;
    }
    fv_ctx_destroy(&ctx);
    CHECK(good);
}

static void wrong_bits_are_survived(void)
{
    fv_ctx *ctx = vz_test_ctx(0, 0);
    const vz_cm_options o = {3, 20, NULL};
    const size_t n = make(data, 3000, STRUCTS);
    const vz_segment g = {VZ_RECORDS, 20, n};
    vz_buf b;
    vz_buf_init(&b, ctx);
    bool good = vz_cm_encode(ctx, &o, &g, 1, data, &b) == FV_OK;
    for (size_t i = 0; good && i < b.size; i += i < 24 ? 1 : 97)
        for (int bit = 0; good && bit < 8; bit++) {
            b.data[i] ^= (uint8_t)(1 << bit);
            const fv_status s = vz_cm_decode(ctx, &o, &g, 1, b.data, b.size, back);
            good = s == FV_OK || s == FV_ERR_TRUNCATED;
            b.data[i] ^= (uint8_t)(1 << bit);
        }
    vz_buf_free(&b);
    fv_ctx_destroy(&ctx);
    CHECK(good);
}

/* Infinities, NaNs, subnormal numbers, and the ends of all ranges, in any order. */
static void extreme_numbers_return(void)
{
    fv_ctx *ctx = vz_test_ctx(0, 0);
    uint64_t seed = 4;
    bool good = true;
    for (int table = 0; good && table < TABLES; table++) {
        const size_t n = make(data, 4500, table);
        for (size_t i = 1500; i + 8 < 3000; i += 8 + test_next(&seed) % 16)
            memset(data + i, test_next(&seed) & 256 ? 0xff : test_next(&seed) & 256 ? 0x7f : 0, 8);
        for (uint32_t length = 4; good && length < 70; length += 12) {
            const vz_segment g = {VZ_RECORDS, length, n};
            const vz_case t = vz_bytes_case(length % 8 ? 3 : 9, 20, &g, 1, data, n);
            good = vz_round_trip(ctx, t, NULL) > 0;
        }
    }
    fv_ctx_destroy(&ctx);
    CHECK(good);
}

/* What begins like a database may be anything behind its header. */
static void any_database_returns(void)
{
    static const uint8_t KINDS[] = {13, 10, 5, 2, 13, 0, 255, 13};
    fv_ctx *ctx = vz_test_ctx(0, 0);
    uint64_t seed = 6;
    bool good = true;
    for (int round = 0; good && round < 12; round++) {
        const uint32_t log2 = round % 5 == 4 ? 0 : 9 + (uint32_t)round % 5;
        const uint32_t page = log2 ? 1u << log2 : 65536;
        const size_t n = 9000;
        for (size_t i = 0; i < n; i++) {
            const uint32_t r = test_next(&seed) >> 9;
            data[i] = (uint8_t)(r % 3 ? r >> 8 & 15 : r >> 8);
            if (i % page == 0) data[i] = KINDS[r >> 8 & 7];
        }
        memcpy(data, "SQLite format 3", 16);
        data[16] = (uint8_t)(log2 ? page >> 8 : 0);
        data[17] = log2 ? 0 : 1;
        const vz_cm_options o = {round % 3 * 4 + 1, 20, NULL};
        vz_buf b;
        vz_buf_init(&b, ctx);
        good = vz_rows_begin_here(data, n) &&
               vz_modelled_encode(ctx, &o, data, n, NULL, &b) == FV_OK &&
               vz_modelled_decode(ctx, &o, b.data, b.size, back, n) == FV_OK &&
               memcmp(data, back, n) == 0;
        for (size_t i = 400; good && i < b.size; i += 2001) {
            b.data[i] ^= 4;
            (void)vz_modelled_decode(ctx, &o, b.data, b.size, back, n);
        }
        vz_buf_free(&b);
    }
    fv_ctx_destroy(&ctx);
    CHECK(good);
    data[17] = 3; /* no page size */
    CHECK(!vz_rows_begin_here(data, 9000));
}

int main(void)
{
    RUN(order_is_that_of_values);
    RUN(any_layout_is_inverted);
    RUN(layout_is_found);
    RUN(other_data_is_left_alone);
    RUN(tables_are_smaller_than_with_zstd);
    RUN(code_is_the_same_for_every_vector_width);
    RUN(random_codes_are_survived);
    RUN(wrong_bits_are_survived);
    RUN(extreme_numbers_return);
    RUN(any_database_returns);
    return test_end();
}
