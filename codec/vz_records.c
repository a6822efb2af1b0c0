/* vz_records.c - tables: binary data that consists of records of one length.
 *
 * Bytes a record apart are equal more often than others: in windows of 64 KiB the equal bytes at
 * every distance are counted. A distance stands out if it has a quarter more of them than the mean;
 * of the multiples of a length the smallest that comes near the best is taken. That is a guess: it
 * counts if the model codes an eighth of the data smaller with it than with the length that it
 * finds on line, which is tried with small tables. So a wrong guess costs time and no bytes.
 *
 * Arrays of integers and floating-point numbers are records of 2, 4 or 8 bytes. */
#include "cm_number.h"
#include "vz_records.h"

#include <string.h>

#define WINDOW ((size_t)65536)
#define LEAST ((size_t)4096) /* a shorter table is not worth an entry */
#define LAG_MAX 512
#define SAMPLE ((size_t)32768)
#define TABLES_LOG2 20

/* The distance that stands out in n bytes, 0: none. */
static uint32_t guess(const uint8_t *p, size_t n)
{
    uint32_t count[LAG_MAX + 1] = {0};
    uint64_t all = 0;
    uint32_t most = 0, best = 0;
    /* Stretches of 64 over the window: all columns of a record are met. */
    const size_t step = n / 64 > 64 ? n / 64 : 64;
    for (size_t at = LAG_MAX; at + 64 <= n; at += step)
        for (size_t i = at; i < at + 64; i++)
            for (size_t lag = 1; lag <= LAG_MAX; lag++) count[lag] += p[i] == p[i - lag];
    for (uint32_t lag = 2; lag <= LAG_MAX; lag++) {
        all += count[lag];
        if (count[lag] > most) most = count[lag];
    }
    const uint64_t mean = all / (LAG_MAX - 1);
    if (most < 200 || most < mean + mean / 4) return 0;
    for (uint32_t lag = 2; lag <= LAG_MAX && !best; lag++)
        if ((uint64_t)count[lag] - mean / 2 >= (uint64_t)(most - mean / 2) * 7 / 8 &&
            count[lag] > mean)
            best = lag;
    /* Equal neighbours: runs, not records. */
    return count[1] > most ? 0 : best;
}

static fv_status size_as(fv_ctx *ctx, const uint8_t *p, size_t n, vz_kind kind, uint32_t param,
                         size_t *size)
{
    const vz_cm_options o = {.level = 3, .memory_log2 = TABLES_LOG2};
    const vz_segment g = {kind, param, n};
    vz_buf b;
    vz_buf_init(&b, ctx);
    const fv_status s = vz_cm_encode(ctx, &o, &g, 1, p, &b);
    *size = b.size;
    vz_buf_free(&b);
    return s;
}

/* Is the data coded smaller as records? */
static fv_status is_better(fv_ctx *ctx, const uint8_t *p, size_t n, uint32_t length, bool *is)
{
    size_t with, without;
    const size_t part = n / 8 > SAMPLE ? SAMPLE : n / 8 > LEAST ? n / 8 : LEAST;
    p += (n - part) / 2 / length * length;
    FV_TRY(size_as(ctx, p, part, VZ_BINARY, 0, &without));
    FV_TRY(size_as(ctx, p, part, VZ_RECORDS, length, &with));
    *is = with + with / 64 + 8 < without;
    return FV_OK;
}

/* A multiple of the distance that stands out may be the record: columns of one type look alike byte
 * by byte, but not as numbers. */
static uint32_t length_of(const uint8_t *p, size_t n, vz_layout *layout)
{
    static const uint8_t TIMES[] = {2, 3, 4};
    const uint32_t first = guess(p, n);
    if (first == 0) return 0;
    uint32_t best = first, cost = vz_layout_cost(p, n, first, layout) / first;
    for (size_t i = 0; i < FV_ARRAY_LEN(TIMES); i++) {
        vz_layout l;
        const uint32_t length = first * TIMES[i];
        if (first > 32 || length > LAG_MAX) break;
        const uint32_t c = vz_layout_cost(p, n, length, &l) / length;
        if (l.length == 0 || c >= cost - cost / 6) continue;
        cost = c;
        best = length;
        *layout = l;
    }
    return best;
}

static bool is_numbers(const uint8_t *p, size_t n)
{
    vz_layout l;
    const uint32_t length = guess(p, n);
    uint32_t bytes = 0;
    if (length == 0 || length > 128) return false;
    vz_layout_cost(p, n, length, &l);
    for (uint32_t i = 0; i < l.length; i += vz_number_bytes(l.type[i]))
        if (l.type[i] >= VZ_INT32) bytes += vz_number_bytes(l.type[i]);
    return bytes * 2 >= length;
}

bool vz_records_are_numbers(const uint8_t *data, size_t size)
{
    const size_t n = size < WINDOW / 2 ? size : WINDOW / 2;
    if (n < LEAST) return false;
    for (size_t k = 0; k < 5; k++)
        if (!is_numbers(data + (size - n) / 4 * k, n)) return false;
    return true;
}

fv_status vz_records_next(fv_ctx *ctx, const uint8_t *data, size_t size, vz_segment *out)
{
    *out = (vz_segment){VZ_BINARY, 0, size};
    if (size < LEAST) return FV_OK;
    vz_layout layout;
    uint32_t length = 0;
    size_t end = 0;
    bool is = false;
    while (end < size) {
        const size_t n = size - end < WINDOW + LEAST ? size - end : WINDOW;
        if (end == 0) {
            length = length_of(data, n, &layout);
        } else {
            const uint32_t next = guess(data + end, n);
            /* Of a table of numbers parts and multiples of the record stand out as well. */
            if (next != length && (next == 0 || length == 0 ||
                                   (next % length != 0 && length % next != 0)))
                break;
        }
        end += n;
    }
    if (length) FV_TRY(is_better(ctx, data, end, length, &is));
    out->size = end;
    if (!is) return FV_OK;
    out->kind = VZ_RECORDS;
    out->param = length;
    return FV_OK;
}
