/* anchor_dp.c - where the full steps go: dynamic programming over anchors [SODA, "DCS"].
 *
 * For consecutive anchors a < b the evaluations between reuse what a computed, so a schedule costs
 *     S(a, b) = sum over a < e < b of cost(e, e - a),    sum of S over its segments
 * where cost(e, n) is the weighted error of reusing age n in all modules at e. The best schedule
 * with k anchors has optimal suffixes:
 *     V[1][a] = S(a, T)                                    if T - a <= max_gap
 *     V[k][a] = min over allowed gaps g of S(a, a+g) + V[k-1][a+g]
 * in O(k T max_gap); S comes from running sums, one row of max_gap values an anchor. The published
 * code of CEM instead charges the whole segment with the error at its landing step; S is the exact
 * additive cost of what is reused.
 *
 * Pure functions of their arguments; doubles summed in one order, so results do not depend on
 * threads. */
#include "soda.h"

#include <math.h>
#include <string.h>

double fvi_dp_segment(const fvi_dp *p, int a, int b)
{
    double sum = 0;
    if (b - a > p->max_gap) return INFINITY;
    for (int n = 1; a + n < b; n++)
        sum += p->cost[(size_t)(a + n) * (size_t)p->max_gap + (size_t)n];
    return sum;
}

/* seg[a*(max_gap+1) + g] = S(a, a+g); INFINITY beyond T. Running sums, in fvi_dp_segment's order.
 */
static void fill_segments(const fvi_dp *p, double *seg)
{
    const int G = p->max_gap;
    for (int a = 0; a < p->T; a++) {
        double *row = seg + (size_t)a * (size_t)(G + 1), sum = 0;
        row[0] = INFINITY;
        for (int g = 1; g <= G; g++) {
            if (g > 1 && a + g <= p->T)
                sum += p->cost[(size_t)(a + g - 1) * (size_t)G + (size_t)(g - 1)];
            row[g] = a + g <= p->T ? sum : INFINITY;
        }
    }
}

static void solve_row(const fvi_dp *p, const double *seg, const double *below, double *value,
                      uint8_t *step)
{
    const int G = p->max_gap;
    for (int a = 0; a < p->T; a++) {
        for (int g = 1; g <= G && a + g < p->T; g++) {
            if (!(p->gaps >> g & 1)) continue;
            const double v = seg[(size_t)a * (size_t)(G + 1) + (size_t)g] + below[a + g];
            if (v < INFINITY && v <= value[a]) { /* <=: of equal ones the larger gap */
                value[a] = v;
                step[a] = (uint8_t)g;
            }
        }
    }
}

static bool problem_ok(const fvi_dp *p, int most)
{
    return p->T >= 1 && p->max_gap >= 1 && p->max_gap <= FVI_DP_MAX_GAP && most >= 1 &&
           most <= p->T;
}

fv_status fvi_dp_solve(fv_ctx *ctx, const fvi_dp *p, int most, fvi_dp_table *out)
{
    memset(out, 0, sizeof *out);
    if (!problem_ok(p, most))
        return fv_fail(ctx, FV_ERR_ARG, "plan: %d anchors of %d evaluations", most, p->T);
    const size_t T = (size_t)p->T, n = ((size_t)most + 1) * T;
    double *seg = fv_calloc(ctx, T * (size_t)(p->max_gap + 1), sizeof *seg);
    out->T = p->T;
    out->most = most;
    out->value = fv_calloc(ctx, n, sizeof *out->value);
    out->step = fv_calloc(ctx, n, sizeof *out->step);
    if (!seg || !out->value || !out->step) {
        fv_free(ctx, seg);
        fvi_dp_free(ctx, out);
        return FV_ERR_OOM;
    }
    fill_segments(p, seg);
    for (size_t i = 0; i < n; i++) out->value[i] = INFINITY;
    for (int a = 0; a < p->T; a++) {
        const int rest = p->T - a;
        if (rest > p->max_gap || (p->force_last && rest > 1)) continue;
        out->value[T + (size_t)a] = seg[(size_t)a * (size_t)(p->max_gap + 1) + (size_t)rest];
        out->step[T + (size_t)a] = (uint8_t)rest;
    }
    for (int k = 2; k <= most; k++)
        solve_row(p, seg, out->value + (size_t)(k - 1) * T, out->value + (size_t)k * T,
                  out->step + (size_t)k * T);
    fv_free(ctx, seg);
    return FV_OK;
}

void fvi_dp_free(fv_ctx *ctx, fvi_dp_table *t)
{
    fv_free(ctx, t->value);
    fv_free(ctx, t->step);
    memset(t, 0, sizeof *t);
}

bool fvi_dp_range(const fvi_dp_table *t, int *least, int *most)
{
    *least = *most = 0;
    for (int k = 1; k <= t->most; k++) {
        if (!(t->value[(size_t)k * (size_t)t->T] < INFINITY)) continue;
        if (!*least) *least = k;
        *most = k;
    }
    return *least > 0;
}

fv_status fvi_dp_path(fv_ctx *ctx, const fvi_dp_table *t, int k, int *at)
{
    int least, most, a = 0;
    if (k < 1 || k > t->most || !(t->value[(size_t)k * (size_t)t->T] < INFINITY)) {
        if (!fvi_dp_range(t, &least, &most))
            return fv_fail(
                ctx, FV_ERR_ARG,
                "plan: no schedule of %d evaluations fits these intervals: use another mode", t->T);
        return fv_fail(
            ctx, FV_ERR_ARG,
            "plan: %d full steps of %d are not possible with these intervals: use %d to %d", k,
            t->T, least, most);
    }
    for (int i = 0; i < k; i++) {
        at[i] = a;
        a += t->step[(size_t)(k - i) * (size_t)t->T + (size_t)a];
    }
    return FV_OK;
}

double fvi_dp_cost(const fvi_dp *p, const int *at, int k)
{
    double sum = 0;
    for (int i = k - 1; i >= 0; i--)
        sum = fvi_dp_segment(p, at[i], i + 1 < k ? at[i + 1] : p->T) + sum;
    return sum;
}

int fvi_dp_fixed(int T, int interval, const uint8_t *must, int *at)
{
    int count = 0;
    for (int e = 0; e < T; e++)
        if (e == 0 || (must && must[e]) || e - at[count - 1] >= interval) at[count++] = e;
    return count;
}
