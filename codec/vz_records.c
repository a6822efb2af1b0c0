/* vz_records.c - tables: binary data that consists of records of one length.
 *
 * Bytes a record apart are equal more often than others: in windows of 64 KiB the equal bytes at
 * every distance are counted. A distance stands out if it has a quarter more of them than the mean;
 * of the multiples of a length the smallest that comes near the best is taken. That is a guess: it
 * counts if the model codes an eighth of the data smaller with it than with the length that it
 * finds on line, which is tried with small tables. So a wrong guess costs time and no bytes.
 *
 * Arrays of integers and floating-point numbers are records of 2, 4 or 8 bytes. */
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

fv_status vz_records_next(fv_ctx *ctx, const uint8_t *data, size_t size, vz_segment *out)
{
    *out = (vz_segment){VZ_BINARY, 0, size};
    if (size < LEAST) return FV_OK;
    uint32_t length = 0;
    size_t end = 0;
    bool is = false;
    while (end < size) {
        const size_t n = size - end < WINDOW + LEAST ? size - end : WINDOW;
        const uint32_t next = guess(data + end, n);
        if (end > 0 && next != length) break;
        length = next;
        end += n;
    }
    if (length) FV_TRY(is_better(ctx, data, end, length, &is));
    out->size = end;
    if (!is) return FV_OK;
    out->kind = VZ_RECORDS;
    out->param = length;
    return FV_OK;
}
