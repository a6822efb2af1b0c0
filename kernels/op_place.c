/* op_place.c - LIFT and PLACE, losses of distillation [Han, Yeo, Yoo, CVPR 2026] (CPU).
 *
 * Student x and teacher y are [B, .., C]. LIFT takes their difference apart: coarse is how far the
 * least squares map y ~ b0 + b1 x is from the identity, fine is what that map leaves. PLACE fits a
 * map for each K elements of similar |y - x|: a row (sample, channel) of n elements is sorted by
 * it, ties by position, and cut into groups. Per group, moments over its elements:
 *
 *     b1 = S / (V + eps), b0 = mean y - b1 mean x          V = var x, S = cov(x, y)
 *     c  = |b1 - 1| + |b0|   or   (b1 - 1)^2 + b0^2
 *     r  = b0 + b1 x - y
 *     L  = mean c + w mean r^2, w = 1 - min(1, m), m = mean of |b1 - 1| + |b0| over the batch
 *
 * Means over groups weigh by size. With s1, s0 the derivatives of c by b1 and b0, and N elements:
 *
 *     dL/dx_j = ((s1 - s0 mean x) (dy_j - 2 b1 dx_j) / (V + eps) - s0 b1 + 2 w b1 r_j) / N
 *
 * The order, w and the map in r are constants for it. We keep the sum's first two terms apart from
 * the last, since w is known at the end of the batch only: backward reads two arrays in the order
 * of memory, neither x nor y, and needs no order of its own.
 *
 * Guards. Where a student hardly varies, the gradient would have no bound and w be 0 for the whole
 * batch; where both are equal and constant, b1 = 0 would cost 1. With them
 *
 *     b1 = (S + a) / D, D = max(V + a, eps, 1e-4 var y), a = eps^2 / (eps + var y)
 *
 * and m counts at most 10 of a group: equal outputs cost nothing, constant or not, and else the map
 * is that of least squares. Where D is not V + a, it is a constant: no -2 b1 dx_j above. To shrink
 * to b1 = 1 by all of eps was rejected: a dead student then moves against its teacher, for b0. */
#include "cpu_ops.h"
#include "op_place.h"

#include <math.h>
#include <string.h>

#define MOST_OF_A_GROUP 10.0f
#define EPS_OF_TEACHER 1e-4f
#define DECILES FVI_PLACE_DECILES

static const fvi_distill_ops *rows(const fvi_exec *e) { return &e->ctx->cpu_ops->distill; }

/* ---- Shapes ---------------------------------------------------------------------------------- */

static int64_t row_start(const fvi_place_shape *s, int64_t row)
{
    const int64_t per_sample = s->used / s->columns;
    return row / per_sample * s->P * s->C + row % per_sample;
}

/* ---- Order ----------------------------------------------------------------------------------- */

#define SMALL_ROW 3000 /* up to here digits of 8 bits are faster than of 11 */
#define BUCKETS 2048

/* Two digits of |y - x| as its bits, which order as the values do: (bits - least) >> shift. What is
 * below them is rarely needed, and insertion does it; all four bytes cost twice the time. */
typedef struct digits {
    uint32_t least;
    int bits, shift;
} digits;

/* Keys: bits of |y - x| above the position. count: of both digits. */
static digits make_keys(uint64_t *key, const float *x, const float *y, int64_t n, uint32_t *count)
{
    digits d = { UINT32_MAX, n < SMALL_ROW ? 8 : 11, 0 };
    uint32_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        const float gap = fabsf(y[i] - x[i]);
        uint32_t k;
        memcpy(&k, &gap, sizeof k);
        d.least = k < d.least ? k : d.least;
        most = k > most ? k : most;
        key[i] = (uint64_t)k << 32 | (uint32_t)i;
    }
    while ((most - d.least) >> d.shift >> d.bits >> d.bits) d.shift++;
    const uint32_t mask = (1u << d.bits) - 1;
    memset(count, 0, 2 * BUCKETS * sizeof *count);
    for (int64_t i = 0; i < n; i++) {
        const uint32_t v = ((uint32_t)(key[i] >> 32) - d.least) >> d.shift;
        count[v & mask]++;
        count[BUCKETS + (v >> d.bits)]++;
    }
    return d;
}

/* One stable pass, from a to b, by bits from `shift` on of the value. */
static void spread(const uint64_t *a, uint64_t *b, int64_t n, uint32_t *count, digits d)
{
    const uint32_t mask = (1u << d.bits) - 1;
    uint32_t at = 0;
    for (uint32_t k = 0; k <= mask; k++) {
        const uint32_t c = count[k];
        count[k] = at;
        at += c;
    }
    for (int64_t i = 0; i < n; i++)
        b[count[((uint32_t)(a[i] >> 32) - d.least) >> d.shift & mask]++] = a[i];
}

/* Insertion sort of what is nearly sorted; false: it is not, after 4 n steps. */
static bool settle(uint64_t *a, int64_t n)
{
    int64_t left = 4 * n;
    for (int64_t i = 1; i < n; i++) {
        const uint64_t v = a[i];
        int64_t j = i;
        for (; j > 0 && a[j - 1] > v; j--) a[j] = a[j - 1];
        a[j] = v;
        if ((left -= i - j) < 0) return false;
    }
    return true;
}

/* Sorts a by value, ties by position; b: room for as many. */
static void sort_keys(uint64_t *a, uint64_t *b, int64_t n, uint32_t *count, digits d)
{
    const digits high = { d.least, d.bits, d.shift + d.bits };
    spread(a, b, n, count, d);
    spread(b, a, n, count + BUCKETS, high);
    if (d.shift == 0 || settle(a, n)) return;
    for (int p = 0; p < 4; p++) { /* equal values are still in order of position */
        uint64_t *from = p & 1 ? b : a, *to = p & 1 ? a : b;
        memset(count, 0, BUCKETS * sizeof *count);
        for (int64_t i = 0; i < n; i++) count[from[i] >> (32 + 8 * p) & 255]++;
        spread(from, to, n, count, (digits){ 0, 8, 8 * p });
    }
}

/* ---- One group ------------------------------------------------------------------------------- */

/* Of a row, or of all: c, m and r^2 times elements; c by tenths of the groups of a row. */
typedef struct place_sums {
    double coarse, m, fine, decile[DECILES], groups[DECILES];
} place_sums;

static float sign_of(float v) { return v > 0 ? 1.0f : v < 0 ? -1.0f : 0.0f; }

/* Numerator of b1 beyond S, and its denominator; does the latter depend on x? */
typedef struct shrink { float more, below; bool moves; } shrink;

static shrink shrink_of(const fvi_attr *a, const fvi_place_moments *m, int64_t n)
{
    const float eps = a->i[2] & FVI_PLACE_EPS_OF_SUM ? a->f[0] / (float)n : a->f[0];
    shrink s = { 0, m->vx + eps, true };
    if (!(a->i[2] & FVI_PLACE_GUARDED)) return s;
    const float least = EPS_OF_TEACHER * m->vy > eps ? EPS_OF_TEACHER * m->vy : eps;
    s.more = eps * (eps / (eps + m->vy));
    s.below = m->vx + s.more;
    if (s.below < 0.999f * least) { /* rounding alone does not make the two differ */
        s.below = least;
        s.moves = false;
    }
    return s;
}

/* The map of a group of n elements, and its part of the sums but r^2; returns c. */
static double fit(const fvi_attr *a, const fvi_place_moments *m, int64_t n, fvi_place_map *g,
                  place_sums *sum)
{
    const bool guarded = a->i[2] & FVI_PLACE_GUARDED, squared = a->i[2] & FVI_PLACE_SQUARED;
    const shrink k = shrink_of(a, m, n);
    const float b1 = (m->cov + k.more) / k.below, off = b1 - 1;
    const float b0 = (float)((double)m->my - (double)b1 * m->mx);
    const float s1 = squared ? 2 * off : sign_of(off), s0 = squared ? 2 * b0 : sign_of(b0);
    const double l1 = fabs((double)off) + fabs((double)b0);
    const double c = squared ? (double)off * off + (double)b0 * b0 : l1;
    *g = (fvi_place_map){ m->mx, m->my, b1, k.moves ? 2 * b1 : 0, (s1 - s0 * m->mx) / k.below,
                          -s0 * b1 };
    sum->coarse += c * (double)n;
    sum->m += (guarded && l1 > MOST_OF_A_GROUP ? MOST_OF_A_GROUP : l1) * (double)n;
    return c;
}

/* ---- One row --------------------------------------------------------------------------------- */

/* Room of a lane: x and y of a row, then (with groups) keys twice and counts of digits. */
static size_t lane_floats(const fvi_place_shape *s)
{
    return fvi_pad16(2 * s->n + (s->G > 1 ? 4 * s->n + 2 * BUCKETS : 0));
}

static void take_row(const fvi_place_shape *s, fvi_in x, float *to)
{
    for (int64_t p = 0; p < s->P; p++)
        for (int64_t k = 0; k < s->columns; k++) *to++ = fvi_get(x, p * s->C + k);
}

/* Values of a row back to their places; order NULL: as they are. */
static void put_row(const fvi_place_shape *s, const float *v, const uint64_t *order, float *to)
{
    if (order) {
        for (int64_t i = 0; i < s->n; i++) to[(int64_t)(uint32_t)order[i] * s->C] = v[i];
        return;
    }
    for (int64_t p = 0; p < s->P; p++)
        for (int64_t k = 0; k < s->columns; k++) to[p * s->C + k] = *v++;
}

/* x, y become the gradients, if they are kept. */
static void fit_groups(const fvi_exec *e, const fvi_place_shape *s, float *x, float *y,
                       place_sums *sum)
{
    const int64_t G = s->G;
    const bool keeps = e->out[2].data != NULL;
    for (int64_t g = 0; g < G; g++) {
        float *gx = x + g * s->K, *gy = y + g * s->K;
        const int64_t n = g == G - 1 ? s->n - g * s->K : s->K;
        const int64_t tenth = fvi_place_tenth(g, G);
        fvi_place_moments m;
        fvi_place_map map;
        rows(e)->moments(&m, gx, gy, n);
        sum->decile[tenth] += fit(e->attr, &m, n, &map, sum);
        sum->groups[tenth]++;
        sum->fine += rows(e)->residual(keeps ? gx : NULL, gy, gx, gy, &map, n);
    }
}

/* Channels that take no part get no gradient. */
static void clear_unused(const fvi_exec *e, const fvi_place_shape *s, int64_t sample)
{
    const int64_t n = fv_tensor_count(&e->in[0]);
    float *g = (float *)e->out[2].data + sample * s->P * s->C;
    for (int64_t p = 0; p < s->P; p++)
        for (int64_t k = s->used; k < s->C; k++) g[p * s->C + k] = g[n + p * s->C + k] = 0;
}

static void run_row(const fvi_exec *e, const fvi_place_shape *s, int64_t row, float *room,
                    place_sums *sum)
{
    const int64_t at = row_start(s, row), n = s->n;
    float *x = room, *y = room + n, *saved = e->out[2].data;
    const uint64_t *order = NULL;
    memset(sum, 0, sizeof *sum);
    take_row(s, fvi_in_at(&e->in[0], at), x);
    take_row(s, fvi_in_at(&e->in[1], at), y);
    if (s->G > 1) {
        uint64_t *a = (uint64_t *)(void *)(room + 2 * n), *b = a + n;
        uint32_t *count = (uint32_t *)(void *)(b + n);
        sort_keys(a, b, n, count, make_keys(a, x, y, n, count));
        order = a;
        float *sx = (float *)(void *)b, *sy = sx + n;
        for (int64_t i = 0; i < n; i++) {
            sx[i] = x[(uint32_t)order[i]];
            sy[i] = y[(uint32_t)order[i]];
        }
        x = sx;
        y = sy;
    }
    fit_groups(e, s, x, y, sum);
    if (!saved) return;
    put_row(s, x, order, saved + at);
    put_row(s, y, order, saved + fv_tensor_count(&e->in[0]) + at);
    if (s->used < s->C && row % (s->used / s->columns) == 0)
        clear_unused(e, s, row / (s->used / s->columns));
}

/* ---- The op: in x, y, [w]; out loss, parts, [2][N] gradients of both terms ------------------- */

static size_t place_scratch(const fvi_exec *e, bool backward)
{
    const fvi_place_shape s = fvi_place_shape_of(e);
    const size_t lanes = s.rows < FVI_LANES ? (size_t)s.rows : FVI_LANES;
    if (backward) return 0;
    return (size_t)s.rows * sizeof(place_sums) + 64 + lanes * lane_floats(&s) * sizeof(float);
}

/* The first row that is not finite; -1: all are. */
static int64_t add_rows(const fvi_place_shape *s, const place_sums *row, place_sums *all)
{
    int64_t bad = -1;
    memset(all, 0, sizeof *all);
    for (int64_t r = 0; r < s->rows; r++) {
        if (bad < 0 && !isfinite(row[r].coarse + row[r].m + row[r].fine)) bad = r;
        all->coarse += row[r].coarse;
        all->m += row[r].m;
        all->fine += row[r].fine;
        for (int k = 0; k < DECILES; k++) {
            all->decile[k] += row[r].decile[k];
            all->groups[k] += row[r].groups[k];
        }
    }
    return bad;
}

/* m over the batches of all ranks. A rank with a bad sample (-1: none) takes part, too: others
 * would wait for it for ever, and so fail as it does. */
static fv_status mean_map(const fvi_exec *e, double sum, double count, int64_t bad_sample,
                          double *m)
{
    double sums[2] = { bad_sample < 0 ? sum : NAN, count };
    FV_TRY(fvi_sum_ranks(e->ctx, sums, 2));
    *m = sums[0] / sums[1];
    if (bad_sample >= 0)
        return fv_fail(e->ctx, FV_ERR_NUMERIC, "student or teacher is not finite in sample %lld; a "
                       "lower learning rate or clipped gradients keep them so",
                       (long long)bad_sample);
    if (isfinite(*m)) return FV_OK;
    return fv_fail(e->ctx, FV_ERR_NUMERIC, "student or teacher is not finite on another rank");
}

static double weight_of(const fvi_exec *e, double m)
{
    switch (e->attr->i[3]) {
    case FV_PLACE_CONSTANT: return e->attr->f[1];
    case FV_PLACE_GIVEN: return *(const float *)e->in[2].data;
    default: return m < 1 ? 1 - m : 0;
    }
}

static fv_status finish(fvi_exec *e, const place_sums *all, double count, int64_t bad_sample)
{
    float *part = e->out[1].data;
    double m;
    FV_TRY(mean_map(e, all->m, count, bad_sample, &m));
    const float w = (float)weight_of(e, m);
    if (!isfinite(w)) return fv_fail(e->ctx, FV_ERR_NUMERIC, "the weight w is not finite");
    part[FV_PLACE_COARSE] = (float)(all->coarse / count);
    part[FV_PLACE_FINE] = (float)(all->fine / count);
    part[FV_PLACE_W] = w;
    part[FV_PLACE_M] = (float)m;
    for (int k = 0; k < DECILES; k++)
        part[FV_PLACE_DECILE + k] =
            all->groups[k] > 0 ? (float)(all->decile[k] / all->groups[k]) : 0.0f;
    *(float *)e->out[0].data = (float)((all->coarse + w * all->fine) / count);
    return FV_OK;
}

static fv_status place_forward(fvi_exec *e)
{
    const fvi_place_shape s = fvi_place_shape_of(e);
    place_sums *row = e->scratch, all;
    /* Lanes begin at a cache line. */
    float *room = (float *)(void *)((char *)(row + s.rows) + 63 -
                                    ((uintptr_t)(row + s.rows) + 63) % 64);
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t r, end;
        fvi_lane(s.rows, lane, &r, &end);
        float *own = room + (size_t)(s.rows < FVI_LANES ? r : lane) * lane_floats(&s);
        for (; r < end; r++) run_row(e, &s, r, own, &row[r]);
    }
    const int64_t bad = add_rows(&s, row, &all);
    return finish(e, &all, (double)s.rows * (double)s.n,
                  bad < 0 ? -1 : bad / (s.used / s.columns));
}

static fv_status place_backward(fvi_exec *e)
{
    const fvi_place_shape s = fvi_place_shape_of(e);
    const int64_t n = fv_tensor_count(&e->in[0]);
    const float w = ((const float *)e->out[1].data)[FV_PLACE_W];
    const float scale =
        (float)(*(const float *)e->gout[0].data / ((double)s.rows * (double)s.n));
    const float *saved = e->out[2].data;
    if (!e->gin[0].data) return FV_OK;
    FVI_PARALLEL_LANES(e->ctx, lane) {
        int64_t i, end;
        fvi_lane_flat(n, lane, &i, &end);
        if (i < end)
            rows(e)->blend(fvi_out_at(&e->gin[0], i, e->gin_add[0]), saved + i, saved + n + i,
                           end - i, scale, w);
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_loss_place = {
    .name = "loss_place", .bwd_reads_out = 2 | 4, .scratch_bytes = place_scratch,
    .forward = place_forward, .backward = place_backward
};
