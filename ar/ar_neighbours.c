/* ar_neighbours.c - for each code of a tokenizer the k codes nearest to it (LANTERN).
 *
 * All pairs: codes^2 * width, a second for 16384 codes of width 8. Of each row the k nearest are
 * held in a heap while the row is read, then sorted. */
#include <math.h>
#include <string.h>

#include "ar_decode.h"

/* Work memory of one thread. */
typedef struct scan {
    float *gap;    /* [codes] squared distances  */
    uint64_t *key; /* [codes] distance, then code */
} scan;

/* Rows of length 1, stored by column: at[c * codes + i]. */
static bool lay_out(float *at, const float *codebook, int codes, int width, bool raw)
{
    bool is_finite = true;
    for (int i = 0; i < codes; i++) {
        const float *row = codebook + (size_t)i * (size_t)width;
        double sum = 0;
        for (int c = 0; c < width; c++) sum += (double)row[c] * row[c];
        is_finite = is_finite && sum <= 1e30;
        const double length = sqrt(sum), scale = raw ? 1 : 1 / (length > 1e-12 ? length : 1e-12);
        for (int c = 0; c < width; c++)
            at[(size_t)c * (size_t)codes + (size_t)i] = (float)(row[c] * scale);
    }
    return is_finite;
}

static void measure(float *FV_RESTRICT gap, const float *FV_RESTRICT at, int codes, int width,
                    int i)
{
    memset(gap, 0, (size_t)codes * sizeof *gap);
    for (int c = 0; c < width; c++, at += codes) {
        const float x = at[i];
        for (int n = 0; n < codes; n++) {
            const float d = at[n] - x;
            gap[n] += d * d;
        }
    }
}

FV_INLINE void swap(uint64_t *a, uint64_t *b)
{
    const uint64_t t = *a;
    *a = *b;
    *b = t;
}

static void sift(uint64_t *key, int at, int n)
{
    for (;;) {
        int child = 2 * at + 1;
        if (child >= n) return;
        if (child + 1 < n && key[child + 1] > key[child]) child++;
        if (key[child] <= key[at]) return;
        swap(&key[child], &key[at]);
        at = child;
    }
}

/* The k smallest of n to the front, sorted. Keys differ. Selection by a heap of the k smallest so
 * far: a row is mostly larger than its top, so the cost is one comparison a code. */
static void sort_smallest(uint64_t *key, int n, int k)
{
    for (int i = k / 2 - 1; i >= 0; i--) sift(key, i, k);
    for (int i = k; i < n; i++) {
        if (key[i] > key[0]) continue;
        swap(&key[i], &key[0]);
        sift(key, 0, k);
    }
    for (int i = k - 1; i > 0; i--) {
        swap(&key[0], &key[i]);
        sift(key, 0, i);
    }
}

static void find_row(ar_neighbours *out, const float *at, int width, int i, scan *s)
{
    measure(s->gap, at, out->codes, width, i);
    int n = 0;
    for (int c = 0; c < out->codes; c++) {
        union { float f; uint32_t u; } v = { s->gap[c] }; /* >= 0: in the order of its bits */
        if (c != i) s->key[n++] = (uint64_t)v.u << 32 | (uint32_t)c;
    }
    sort_smallest(s->key, n, out->k);
    for (int c = 0; c < out->k; c++) {
        union { uint32_t u; float f; } v = { (uint32_t)(s->key[c] >> 32) };
        out->id[(size_t)i * (size_t)out->k + (size_t)c] = (uint16_t)s->key[c];
        out->distance[(size_t)i * (size_t)out->k + (size_t)c] = sqrtf(v.f);
    }
}

static fv_status find_all(fv_ctx *ctx, ar_neighbours *out, const float *at, int width)
{
    const int codes = out->codes, threads = fv_ctx_threads(ctx);
    float *gap = fv_calloc(ctx, (size_t)codes * (size_t)threads, sizeof *gap);
    uint64_t *key = fv_calloc(ctx, (size_t)codes * (size_t)threads, sizeof *key);
    if (gap && key) {
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int t = 0; t < threads; t++) {
            scan s = { gap + (size_t)codes * (size_t)t, key + (size_t)codes * (size_t)t };
            for (int64_t i = (int64_t)codes * t / threads; i < (int64_t)codes * (t + 1) / threads;
                 i++)
                if (!fv_ctx_cancelled(ctx)) find_row(out, at, width, (int)i, &s);
        }
    }
    fv_free(ctx, gap);
    fv_free(ctx, key);
    if (!gap || !key) return FV_ERR_OOM;
    return fv_report(ctx, "neighbours", (uint64_t)codes, (uint64_t)codes, NULL);
}

fv_status ar_neighbours_create(fv_ctx *ctx, ar_neighbours **out, const float *codebook, int codes,
                               int width, int k, bool raw)
{
    *out = NULL;
    if (codes < 1 || codes > AR_MAX_VOCAB || width < 1 || width > AR_MAX_WIDTH || k < 1)
        return fv_fail(ctx, FV_ERR_ARG,
                       "neighbours: %d codes of width %d, %d each, are out of range", codes, width,
                       k);
    ar_neighbours *n = fv_calloc(ctx, 1, sizeof *n);
    if (!n) return FV_ERR_OOM;
    n->codes = codes;
    n->k = k < codes ? k : codes - 1;
    const size_t count = (size_t)codes * (size_t)n->k;
    fv_status s = FV_ERR_OOM;
    n->id = fv_calloc(ctx, count + 1, sizeof *n->id); /* one code has no neighbours */
    n->distance = fv_calloc(ctx, count + 1, sizeof *n->distance);
    float *at = fv_calloc(ctx, (size_t)codes * (size_t)width, sizeof *at);
    if (n->id && n->distance && at) {
        s = lay_out(at, codebook, codes, width, raw)
                ? find_all(ctx, n, at, width)
                : fv_fail(ctx, FV_ERR_NUMERIC,
                          "neighbours: the codebook has entries that are no numbers");
    }
    fv_free(ctx, at);
    if (s != FV_OK) ar_neighbours_free(ctx, &n);
    *out = n;
    return s;
}

void ar_neighbours_free(fv_ctx *ctx, ar_neighbours **n)
{
    if (*n) {
        fv_free(ctx, (*n)->id);
        fv_free(ctx, (*n)->distance);
        fv_free(ctx, *n);
    }
    *n = NULL;
}
