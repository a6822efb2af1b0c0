/* comm.c - ranks of a data-parallel run: sums, broadcasts and gathers over point-to-point links.
 *
 * A link knows one thing, to send and receive at the same time; what goes where is decided here,
 * once for all back ends. So the bytes that each rank sends are counted, not estimated, and the
 * order of every sum is ours, whatever the message library would choose.
 *
 * Sums of gradients [Rabenseifner 2004] for R = 2^k ranks: halve with the partner at distance 1, 2,
 * 4, .. and add, until each rank has the sum of its R-th of the bucket; then the same way back:
 *
 *     element sums: ((r0 + r1) + (r2 + r3)) + ...   a binary tree, its shape known beforehand
 *
 * For other R, a ring of R chunks [Patarasuk & Yuan 2009]. Either way a rank sends 2 (R-1)/R of the
 * bytes of a bucket, the least that any sum to all ranks can do. */
#include "internal.h"

#include <string.h>

/* 4 to 8 MiB: above it the copy for the received part leaves the cache, below it the messages'
 * latency shows. */
#define BUCKET_FLOATS (INT64_C(1) << 21)
#define PIECE_BYTES ((size_t)8 << 20) /* of a broadcast */
#define MAX_LEVELS 16
#define MAX_SUMS 256

struct fv_comm {
    fv_ctx *ctx;
    fv_comm_link link;
    float *received;  /* [BUCKET_FLOATS] */
    double *gathered; /* [size * MAX_SUMS] */
    bool broken;      /* a rank is gone: nothing is sent any more */
    uint64_t *sent;   /* the counter of what is going on */
    fv_comm_stats stats;
};

fv_status fv_comm_create(fv_ctx *ctx, fv_comm **out, const fv_comm_link *link)
{
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "ranks: no place for the result");
    *out = NULL;
    fv_comm_link l = {.struct_size = sizeof l, .size = 1};
    FV_TRY(FV_TAKE_OPTIONS(ctx, &l, link, "ranks"));
    if (l.size < 1 || l.size > FV_MAX_RANKS || l.rank < 0 || l.rank >= l.size ||
        (l.size > 1 && !l.exchange))
        return fv_fail(ctx, FV_ERR_ARG, "ranks: rank %d of %d, at most %d, and a way to exchange "
                       "are needed", l.rank, l.size, FV_MAX_RANKS);
    fv_comm *c = fv_calloc(ctx, 1, sizeof *c);
    if (!c) return FV_ERR_OOM;
    c->ctx = ctx;
    c->link = l;
    c->sent = &c->stats.other_bytes;
    if (l.size > 1) c->received = fv_alloc(ctx, BUCKET_FLOATS * sizeof *c->received);
    if (l.size > 1) c->gathered = fv_alloc(ctx, (size_t)l.size * MAX_SUMS * sizeof *c->gathered);
    if (l.size > 1 && (!c->received || !c->gathered)) {
        fv_comm_destroy(&c);
        return FV_ERR_OOM;
    }
    *out = c;
    return FV_OK;
}

void fv_comm_destroy(fv_comm **comm)
{
    if (!comm || !*comm) return;
    fv_comm *c = *comm;
    *comm = NULL;
    fv_free(c->ctx, c->received);
    fv_free(c->ctx, c->gathered);
    fv_free(c->ctx, c);
}

int fv_comm_rank(const fv_comm *c) { return c ? c->link.rank : 0; }
int fv_comm_size(const fv_comm *c) { return c ? c->link.size : 1; }
int fv_comm_broken(const fv_comm *c) { return c && c->broken; }
void fv_comm_get_stats(const fv_comm *c, fv_comm_stats *out) { *out = c->stats; }

/* ---- Exchange -------------------------------------------------------------------------------- */

static fv_status exchange(fv_comm *c, int to, const void *send, size_t send_bytes, int from,
                          void *recv, size_t recv_bytes)
{
    char why[160] = "";
    if (c->broken)
        return fv_fail(c->ctx, FV_ERR_COMM, "ranks: a rank was lost before; nothing can go on");
    const double begin = fv_now();
    const int failed = c->link.exchange(c->link.user, to, send, send_bytes, from, recv, recv_bytes,
                                        why, sizeof why);
    c->stats.seconds += fv_now() - begin;
    if (!failed) {
        *c->sent += to >= 0 ? send_bytes : 0;
        return FV_OK;
    }
    c->broken = true;
    return fv_fail(c->ctx, FV_ERR_COMM, "ranks: rank %d lost touch with rank %d or %d (%s); resume "
                   "from the last checkpoint, with any number of ranks", c->link.rank, to, from,
                   why[0] ? why : "no reason given");
}

static void add_into(float *to, const float *from, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) to[i] += from[i];
}

/* ---- Sums of gradients ----------------------------------------------------------------------- */

typedef struct span {
    int64_t begin, end;
} span;

static fv_status exchange_floats(fv_comm *c, int to, const float *send, span s, int from,
                                 float *recv, span r)
{
    return exchange(c, to, send + s.begin, (size_t)(s.end - s.begin) * sizeof(float), from, recv,
                    (size_t)(r.end - r.begin) * sizeof(float));
}

static fv_status sum_halving(fv_comm *c, float *x, int64_t n)
{
    const int rank = c->link.rank, size = c->link.size;
    span kept[MAX_LEVELS], given[MAX_LEVELS], now = {0, n};
    int level = 0;
    for (int d = 1; d < size; d *= 2, level++) {
        const int64_t mid = now.begin + (now.end - now.begin) / 2;
        const span low = {now.begin, mid}, high = {mid, now.end};
        kept[level] = rank & d ? high : low;
        given[level] = rank & d ? low : high;
        now = kept[level];
        FV_TRY(exchange_floats(c, rank ^ d, x, given[level], rank ^ d, c->received, now));
        add_into(x + now.begin, c->received, now.end - now.begin);
    }
    for (int d = size / 2; d >= 1; d /= 2) {
        level--;
        FV_TRY(exchange_floats(c, rank ^ d, x, kept[level], rank ^ d, x + given[level].begin,
                               given[level]));
    }
    return FV_OK;
}

static span chunk(int64_t n, int k, int size)
{
    k = (k % size + size) % size;
    return (span){n * k / size, n * (k + 1) / size};
}

static fv_status sum_ring(fv_comm *c, float *x, int64_t n)
{
    const int rank = c->link.rank, size = c->link.size;
    const int next = (rank + 1) % size, before = (rank + size - 1) % size;
    for (int k = 0; k < size - 1; k++) {
        const span s = chunk(n, rank - k, size), r = chunk(n, rank - k - 1, size);
        FV_TRY(exchange_floats(c, next, x, s, before, c->received, r));
        add_into(x + r.begin, c->received, r.end - r.begin);
    }
    for (int k = 0; k < size - 1; k++) {
        const span s = chunk(n, rank + 1 - k, size), r = chunk(n, rank - k, size);
        FV_TRY(exchange_floats(c, next, x, s, before, x + r.begin, r));
    }
    return FV_OK;
}

fv_status fv_comm_sum_f32(fv_comm *c, float *x, int64_t n)
{
    if (fv_comm_size(c) < 2 || n < 1) return FV_OK;
    const bool is_power = (c->link.size & (c->link.size - 1)) == 0;
    const int64_t buckets = (n + BUCKET_FLOATS - 1) / BUCKET_FLOATS;
    fv_status s = FV_OK;
    c->sent = &c->stats.sum_bytes;
    for (int64_t b = buckets - 1; b >= 0 && s == FV_OK; b--) { /* the last layers' come first */
        const int64_t begin = n * b / buckets, end = n * (b + 1) / buckets;
        s = is_power ? sum_halving(c, x + begin, end - begin) : sum_ring(c, x + begin, end - begin);
    }
    c->sent = &c->stats.other_bytes;
    c->stats.summed_bytes += (uint64_t)n * sizeof *x;
    return s;
}

/* ---- Small and rare messages ------------------------------------------------------------------ */

fv_status fv_comm_gather(fv_comm *c, const void *mine, size_t bytes, void *all)
{
    const int rank = fv_comm_rank(c), size = fv_comm_size(c);
    uint8_t *to = all;
    memcpy(to + (size_t)rank * bytes, mine, bytes);
    for (int k = 0; k < size - 1; k++) {
        const int s = (rank - k + size) % size, r = (rank - k - 1 + size) % size;
        FV_TRY(exchange(c, (rank + 1) % size, to + (size_t)s * bytes, bytes,
                        (rank + size - 1) % size, to + (size_t)r * bytes, bytes));
    }
    return FV_OK;
}

/* Pairwise, so that a power of two of ranks adds in the order of a tree, as sum_halving does. */
double fvi_tree_sum(const double *x, int count, int stride)
{
    if (count == 1) return x[0];
    int left = 1;
    while (left * 2 < count) left *= 2;
    return fvi_tree_sum(x, left, stride) + fvi_tree_sum(x + left * stride, count - left, stride);
}

fv_status fv_comm_sum_f64(fv_comm *c, double *x, int n)
{
    const int size = fv_comm_size(c);
    if (size < 2 || n < 1) return FV_OK;
    if (n > MAX_SUMS)
        return fv_fail(c->ctx, FV_ERR_LIMIT, "ranks: %d sums at once, at most %d are possible", n,
                       MAX_SUMS);
    FV_TRY(fv_comm_gather(c, x, (size_t)n * sizeof *x, c->gathered));
    for (int i = 0; i < n; i++) x[i] = fvi_tree_sum(c->gathered + i, size, n);
    return FV_OK;
}

/* Binomial tree: in round d, ranks below d have the data and hand it on by d. */
static fv_status broadcast_piece(fv_comm *c, uint8_t *data, size_t bytes)
{
    const int rank = c->link.rank, size = c->link.size;
    for (int d = 1; d < size; d *= 2) {
        if (rank < d && rank + d < size)
            FV_TRY(exchange(c, rank + d, data, bytes, -1, NULL, 0));
        else if (rank >= d && rank < 2 * d)
            FV_TRY(exchange(c, -1, NULL, 0, rank - d, data, bytes));
    }
    return FV_OK;
}

fv_status fv_comm_broadcast(fv_comm *c, void *data, size_t bytes)
{
    if (fv_comm_size(c) < 2) return FV_OK;
    for (size_t at = 0; at < bytes; at += PIECE_BYTES) {
        const size_t n = bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES;
        FV_TRY(broadcast_piece(c, (uint8_t *)data + at, n));
    }
    return FV_OK;
}

fv_status fv_comm_barrier(fv_comm *c)
{
    double nothing = 0;
    return fv_comm_sum_f64(c, &nothing, 1);
}

void fv_ctx_set_comm(fv_ctx *ctx, fv_comm *comm) { ctx->comm = comm; }
fv_comm *fv_ctx_comm(const fv_ctx *ctx) { return ctx->comm; }

fv_status fvi_sum_ranks(fv_ctx *ctx, double *sums, int n)
{
    return ctx->reduce ? ctx->reduce(ctx->reduce_user, sums, n) : FV_OK;
}
