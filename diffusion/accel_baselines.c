/* accel_baselines.c - published accelerations whose plan is known before sampling.
 *
 * i counts down as in the papers, i = T-1-e. A change of the number of rows (guidance interval)
 * splits a run into stretches: outputs of one do not fit the other, so each begins in full and
 * remembers nothing. Differences to the methods as published:
 *
 * FORA         none: i = T-1, and i mod N = 0. `anchors` places any number evenly instead.
 * ToCa, DuCa   the intervals and ratios of the released code. Tokens are chosen by the norm of
 *              their output instead of the attention map (DIT_SCORE_TOCA), once per picture and not
 *              once per row; their number is rounded to the nearest that the engine has: none, an
 *              eighth, a quarter, half, all. N may be a fraction. DuCa takes ToCa's bonus for the
 *              best of each 2x2, 0.6 instead of 0.8.
 * TaylorSeer   form=official is the released recursion: all differences of an update are divided by
 *              the newest spacing. It is linear in the last outputs, and so are its forecasts; the
 *              engine gets them as weights. form=newton is the polynomial through the outputs.
 * ClusCa       the tokens to compute are chosen once for an evaluation and not for each module; as
 *              many as the size of a pruned module that is nearest to the number of clusters. They
 *              are chosen for the rows with and without guidance together, clusters being those of
 *              the row with it. Neither they nor what they spread change the outputs kept.
 * CEM          cosine errors of all modules' outputs for those of the last block; where the step
 *              after a segment has other rows, the segment's last step stands in for it. The
 *              range of gaps widens until the number of full steps is possible.
 * ProCache     its schedule search is replaced by gaps that shrink linearly, the slope being the
 *              one of ten with the least error in the sensitivity table.
 * DPCache      forecasts from two hidden states; root mean squared errors from the table instead of
 *              L1 errors. Without a table, or if it does not reach far enough, the errors of a
 *              parabola. Its recurrence, which keeps one predecessor only.
 * HiCache, Spectrum  constants from descriptions. Spectrum's ridge leaves the constant free:
 *              shrinking it would shrink every forecast. At most DIT_HISTORY outputs are kept. */
#include "accel_methods.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_GAP 10
#define TOCA_MODULE 2.5 /* factor of the ratio for MLPs; attention has none */
#define SLOPES 10

/* ---- Where full evaluations go -------------------------------------------------------------- */

static int count_full(const fvi_method *m)
{
    int n = 0;
    for (int e = 0; e < m->T; e++) n += m->full[e];
    return n;
}

/* Every N-th, counted from the end of a stretch back. */
static void mark_from_end(fvi_method *m, int N)
{
    int end = m->T;
    for (int e = m->T - 1; e >= 0; e--) {
        m->full[e] = e == 0 || m->must[e] || (end - 1 - e) % N == 0;
        if (m->must[e]) end = e;
    }
}

/* The first two of a stretch, then every N-th. */
static void mark_after_two(fvi_method *m, int N)
{
    for (int e = 0, first = 0; e < m->T; e++) {
        if (m->must[e]) first = e;
        m->full[e] = e == first || (e - first - 1) % N == 0;
    }
}

/* k of them: the first `lead`, also from each that must be (a method that forecasts has forgotten
 * everything there), the others evenly after the first ones; fewer even ones where that would be
 * more than k. */
static fv_status mark_even(fvi_method *m, int k, int lead)
{
    int n = m->T;
    for (int even = k; even >= 1; even--) {
        const int first = lead < even ? lead : even;
        memcpy(m->full, m->must, (size_t)m->T);
        for (int e = 0; e < m->T; e++)
            for (int i = 0; (e == 0 || m->must[e]) && i < first && e + i < m->T; i++)
                m->full[e + i] = 1;
        for (int j = 1; j <= even - first; j++) {
            const double gap = (double)(m->T - first + 1) / (even - first + 1);
            m->full[first - 1 + (int)lround(j * gap)] = 1;
        }
        n = count_full(m);
        if (n <= k) return FV_OK;
    }
    return fv_fail(m->ctx, FV_ERR_ARG, "%s: at least %d full steps are needed here, not %d",
                   m->entry->name, n, k);
}

static int asked_anchors(const fvi_method *m)
{
    if (fvi_method_given(m, "anchors")) return (int)fvi_method_value(m, "anchors");
    return m->T / 3 > 1 ? m->T / 3 : 1;
}

/* ---- Rows ----------------------------------------------------------------------------------- */

static uint8_t *actions(fvi_method *m, int e)
{
    return m->plan->action + (size_t)e * (size_t)m->K;
}

static bool is_plain(const double w[DIT_HISTORY])
{
    bool rest = false;
    for (int i = 1; i < DIT_HISTORY; i++) rest = rest || w[i] != 0;
    return w[0] == 1 && !rest;
}

/* All modules at e from weighted outputs. */
static void put_forecast(fvi_method *m, int e, const double w[DIT_HISTORY])
{
    float *to = m->plan->weight + (size_t)e * (size_t)m->K * DIT_HISTORY;
    memset(actions(m, e), is_plain(w) ? DIT_REUSE : DIT_LINEAR, (size_t)m->K);
    for (int k = 0; k < m->K && !is_plain(w); k++)
        for (int i = 0; i < DIT_HISTORY; i++) to[k * DIT_HISTORY + i] = (float)w[i];
}

static void put_skip(fvi_method *m, int e, const double w[DIT_HISTORY])
{
    m->plan->skipped[e] = 1;
    for (int i = 0; i < DIT_HISTORY; i++)
        m->plan->skip_weight[(size_t)e * DIT_HISTORY + (size_t)i] = (float)w[i];
}

static const double newest_only[DIT_HISTORY] = { 1 };

fv_status fvi_make_fora(fvi_method *m)
{
    if (fvi_method_given(m, "anchors")) FV_TRY(mark_even(m, asked_anchors(m), 1));
    else mark_from_end(m, (int)fvi_method_value(m, "N"));
    for (int e = 0; e < m->T; e++)
        if (!m->full[e]) put_forecast(m, e, newest_only);
    fvi_accel_count(m->plan);
    return FV_OK;
}

/* ---- ToCa, DuCa, ProCache ------------------------------------------------------------------- */

/* Share of the tokens that block l computes at i. */
static double toca_share(const fvi_method *m, double r0, int i, int l)
{
    const bool is_ddpm = m->schedule.kind == FV_SAMPLER_DDPM;
    const int L = m->K / 2;
    const double x = (double)i / m->T, y = L > 1 ? (double)l / (L - 1) : 0;
    const double step = is_ddpm ? 1.4 - 0.8 * x : 3 - 4 * x;
    const double layer = is_ddpm ? 1.8 - 1.6 * y : 0.8 + 0.4 * y;
    return fmin(fmax(r0 * layer * step * TOCA_MODULE, 0), 1);
}

/* The MLP of block l at e computes about `share` of its tokens, the rest is reused. */
static void put_pruned(fvi_method *m, int e, int l, double share)
{
    const dit_config *c = &m->d->net.cfg;
    const size_t at = (size_t)e * (size_t)m->K + (size_t)(2 * l + DIT_MLP);
    const double tokens = dit_tokens(c), want = share * tokens;
    double off = want; /* none */
    m->plan->action[at] = DIT_REUSE;
    for (int i = 0; i < DIT_PRUNED; i++) {
        const double d = fabs(dit_pruned_tokens(c, i) - want);
        if (d >= off) continue;
        off = d;
        m->plan->action[at] = DIT_PRUNE;
        m->plan->pruned[at] = (uint8_t)i;
        m->plan->weight[at * DIT_HISTORY] = 1.0f;
    }
    if (tokens - want < off) m->plan->action[at] = DIT_FULL;
}

static void put_toca(fvi_method *m, int e, double r0, int first_block)
{
    put_forecast(m, e, newest_only);
    for (int l = first_block; l < m->K / 2; l++)
        put_pruned(m, e, l, toca_share(m, r0, m->T - 1 - e, l));
}

/* Gap that a full evaluation at i begins. */
static int toca_gap(const fvi_method *m, double N, double r0, int i)
{
    const double x = (double)i / m->T;
    if (r0 == 0) return N < 1.5 ? 1 : (int)lround(N);
    if (x >= 0.2 && x < 0.4) return 2;
    const long gap = lround(N / (1.4 - 0.8 * x));
    return gap < 1 ? 1 : (int)gap;
}

static fv_status make_toca(fvi_method *m, bool skips)
{
    const double N = fvi_method_value(m, "N"), r0 = fvi_method_value(m, "r0");
    int gap = 1;
    m->plan->score = DIT_SCORE_TOCA;
    m->plan->skip = DIT_SKIP_HIDDEN;
    for (int e = 0; e < m->T; e++) {
        const int i = m->T - 1 - e;
        m->full[e] = e == 0 || m->must[e] || i % gap == 0;
        if (m->full[e]) gap = toca_gap(m, N, r0, i);
        else if (skips && i % gap % 2 == 0) put_skip(m, e, newest_only);
        else put_toca(m, e, r0, 0);
    }
    fvi_accel_count(m->plan);
    return FV_OK;
}

fv_status fvi_make_toca(fvi_method *m)
{
    return make_toca(m, false);
}

fv_status fvi_make_duca(fvi_method *m)
{
    return make_toca(m, true);
}

/* ---- Errors of reuse ------------------------------------------------------------------------ */

/* Largest age that e may reuse. */
static int oldest(const fvi_method *m, int e)
{
    int n = 0;
    while (n < e && !m->must[e - n]) n++;
    return n;
}

/* Of all modules at e from outputs of age n; INFINITY = not possible, or not in the table. */
static double age_error(const fvi_method *m, int e, int n, bool is_cosine)
{
    double sum = 0;
    if (n < 1 || n > oldest(m, e)) return n == 0 ? 0 : INFINITY;
    if (!m->sens) return (double)n * n;
    if (!fvi_sens_known(m->sens, e, n)) return INFINITY;
    for (int k = 0; k < m->K; k++)
        sum += is_cosine ? fvi_sens_cosine(m->sens, k, e, n) : fvi_sens_error(m->sens, k, e, n);
    return sum;
}

/* Gaps 1 +- slope in ratio, largest first, that add up to T. */
static void shrinking_gaps(fvi_method *m, int k, double slope)
{
    int *gap = m->at, sum = 0;
    for (int j = 0; j < k; j++) {
        const double x = k > 1 ? 1 - 2.0 * j / (k - 1) : 0;
        gap[j] = (int)((double)m->T / k * (1 + slope * x));
        if (gap[j] < 1) gap[j] = 1;
        sum += gap[j];
    }
    for (int j = 0; sum < m->T; j = (j + 1) % k, sum++) gap[j]++;
    for (int j = k - 1; sum > m->T; j = j > 0 ? j - 1 : k - 1)
        if (gap[j] > 1 && (j == k - 1 || gap[j] > gap[j + 1])) {
            gap[j]--;
            sum--;
        }
    memcpy(m->full, m->must, (size_t)m->T);
    for (int j = 0, e = 0; j < k; e += gap[j++]) m->full[e] = 1;
}

static double marked_error(const fvi_method *m)
{
    double sum = 0;
    for (int e = 0, age = 0; e < m->T; e++) {
        age = m->full[e] ? 0 : age + 1;
        sum += age ? age_error(m, e, age, false) : 0;
    }
    return sum;
}

/* The largest number of gaps up to k for which, with those that must be, there are at most k. */
static int fitting_gaps(fvi_method *m, int k, double slope)
{
    int n = k;
    for (shrinking_gaps(m, n, slope); n > 1 && count_full(m) > k; shrinking_gaps(m, n, slope)) n--;
    return n;
}

fv_status fvi_make_procache(fvi_method *m)
{
    const double r0 = fvi_method_value(m, "r0");
    const int k = asked_anchors(m);
    double best = INFINITY, slope = 0;
    for (int j = 0; j < SLOPES; j++) {
        fitting_gaps(m, k, (double)j / SLOPES);
        const double error = marked_error(m);
        if (!(error < best) || count_full(m) > k) continue;
        best = error;
        slope = (double)j / SLOPES;
    }
    fitting_gaps(m, k, slope);
    if (count_full(m) > k)
        return fv_fail(m->ctx, FV_ERR_ARG, "procache: at least %d full steps are needed here, "
                       "not %d", count_full(m), k);
    m->plan->score = DIT_SCORE_TOCA;
    for (int e = 0, age = 0; e < m->T; e++) {
        age = m->full[e] ? 0 : age + 1;
        if (age && age % 2 == 0) put_toca(m, e, r0, m->K / 2 * 3 / 4);
        else if (age) put_forecast(m, e, newest_only);
    }
    fvi_accel_count(m->plan);
    return FV_OK;
}

/* ---- CEM ------------------------------------------------------------------------------------ */

/* cost [T][MAX_GAP] so that a segment of gap g to its landing step b adds up to
 *     C^2 * sum over e <= b of E(e, C),   C = g - 1
 * the cumulated column of the published code. The programme adds what each reused step costs, so
 * these are the differences from gap to gap. sum is work memory of the same size. */
static void cem_costs(const fvi_method *m, double *cost, double *sum)
{
    for (int C = 1; C < MAX_GAP; C++) {
        double total = 0;
        for (int e = 0; e < m->T; e++) {
            const double v = age_error(m, e, C, true);
            total += v < INFINITY ? v : 0;
            sum[e * MAX_GAP + C] = total;
        }
    }
    for (int last = 0; last < m->T; last++)
        for (int C = 1; C < MAX_GAP; C++) { /* evaluation `last` is the last of C reused ones */
            const bool has_landing = last + 1 < m->T && age_error(m, last + 1, C, true) < INFINITY;
            const int b = has_landing ? last + 1 : last;
            double before = 0;
            cost[last * MAX_GAP + C] = INFINITY;
            if (!(age_error(m, last, C, true) < INFINITY)) continue;
            if (C > 1) { /* the gap that is one smaller would have landed here */
                const bool had = age_error(m, last, C - 1, true) < INFINITY;
                before = (C - 1) * (C - 1) * sum[(had ? last : last - 1) * MAX_GAP + C - 1];
            }
            cost[last * MAX_GAP + C] = C * C * sum[b * MAX_GAP + C] - before;
        }
}

static fv_status solve_cem(fvi_method *m, const double *cost, int k)
{
    const int usual = (int)lround((double)m->T / k);
    fv_status s = FV_ERR_ARG;
    for (int wide = 1; wide <= MAX_GAP && s == FV_ERR_ARG; wide++) {
        fvi_dp p = { m->T, MAX_GAP, 0, true, cost };
        fvi_dp_table t;
        for (int g = 1; g <= MAX_GAP; g++)
            if (g >= usual - wide && g <= usual + wide) p.gaps |= 1u << g;
        FV_TRY(fvi_dp_solve(m->ctx, &p, k, &t));
        s = fvi_dp_path(m->ctx, &t, k, m->at);
        fvi_dp_free(m->ctx, &t);
    }
    return s;
}

fv_status fvi_make_cem(fvi_method *m)
{
    const int k = asked_anchors(m);
    double *cost = fv_calloc(m->ctx, (size_t)m->T * MAX_GAP, sizeof *cost);
    double *sum = fv_calloc(m->ctx, (size_t)m->T * MAX_GAP, sizeof *sum);
    fv_status s = cost && sum ? FV_OK : FV_ERR_OOM;
    if (s == FV_OK) {
        cem_costs(m, cost, sum);
        s = solve_cem(m, cost, k);
    }
    fv_free(m->ctx, cost);
    fv_free(m->ctx, sum);
    if (s != FV_OK) return s;
    for (int i = 0; i < k; i++) m->full[m->at[i]] = 1;
    for (int e = 0; e < m->T; e++)
        if (!m->full[e]) put_forecast(m, e, newest_only);
    fvi_accel_count(m->plan);
    return FV_OK;
}

/* ---- Forecasts ------------------------------------------------------------------------------ */

static double basis_value(fvi_basis basis, int j, double x, double sigma)
{
    double before = 1, now = sigma * x, scale = 1;
    if (basis == FVI_BASIS_TAYLOR) return pow(x, j);
    if (j == 0) return 1;
    for (int n = 1; n < j; n++) { /* He_(n+1) = x He_n - n He_(n-1) */
        const double next = sigma * x * now - n * before;
        before = now;
        now = next;
    }
    for (int n = 0; n < j; n++) scale *= sigma;
    return scale * now;
}

static void newton_weights(const int *a, int count, int e, double *w)
{
    for (int i = 0; i < count; i++) {
        w[i] = 1;
        for (int j = 0; j < count; j++)
            if (j != i) w[i] *= (double)(e - a[j]) / (a[i] - a[j]);
    }
}

/* Differences as weights: v[p] is the j-th difference at the p-th newest output,
 *     D(j+1, p) = (D(j, p) - D(j, p+1)) / (a_p - a_(p+1)),   D(0, p) = F_p
 * and the forecast the sum of basis_j(e - a_0) / j! D(j, 0) [TaylorSeer]. */
void fvi_forecast_weights(const int *a, int count, int order, int e, fvi_basis basis, double sigma,
                          double w[DIT_HISTORY])
{
    double v[DIT_HISTORY][DIT_HISTORY] = { { 0 } }, factorial = 1;
    memset(w, 0, DIT_HISTORY * sizeof *w);
    if (count > order + 1) count = order + 1;
    if (basis == FVI_BASIS_NEWTON) {
        newton_weights(a, count, e, w);
        return;
    }
    for (int p = 0; p < count; p++) v[p][p] = 1;
    for (int j = 0; j < count; j++) {
        const double x = basis_value(basis, j, e - a[0], sigma) / factorial;
        for (int i = 0; i < count; i++) w[i] += x * v[0][i];
        for (int p = 0; p + 1 < count - j; p++)
            for (int i = 0; i < count; i++)
                v[p][i] = (v[p][i] - v[p + 1][i]) / (a[p] - a[p + 1]);
        factorial *= j + 1;
    }
}

static void chebyshev(int degree, double x, double t[DIT_HISTORY])
{
    t[0] = 1;
    t[1] = x;
    for (int n = 2; n <= degree; n++) t[n] = 2 * x * t[n - 1] - t[n - 2];
}

/* Symmetric positive A y = b by Cholesky, in place; n <= DIT_HISTORY. */
static void solve_small(double A[DIT_HISTORY][DIT_HISTORY], double b[DIT_HISTORY], int n)
{
    for (int j = 0; j < n; j++) {
        for (int k = 0; k < j; k++) A[j][j] -= A[j][k] * A[j][k];
        A[j][j] = sqrt(fmax(A[j][j], 1e-30));
        for (int i = j + 1; i < n; i++) {
            for (int k = 0; k < j; k++) A[i][j] -= A[i][k] * A[j][k];
            A[i][j] /= A[j][j];
        }
    }
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < i; k++) b[i] -= A[i][k] * b[k];
        b[i] /= A[i][i];
    }
    for (int i = n - 1; i >= 0; i--) {
        for (int k = i + 1; k < n; k++) b[i] -= A[k][i] * b[k];
        b[i] /= A[i][i];
    }
}

/* w = T(e) (P'P + ridge)^-1 P', P the polynomials at the outputs; a free constant means that values
 * and polynomials are taken less their means. */
void fvi_chebyshev_weights(const int *a, int count, int degree, double ridge, int T, int e,
                           double w[DIT_HISTORY])
{
    double P[DIT_HISTORY][DIT_HISTORY], mean[DIT_HISTORY] = { 0 }, now[DIT_HISTORY];
    double A[DIT_HISTORY][DIT_HISTORY] = { { 0 } }, y[DIT_HISTORY], mid = 0;
    const double half = T > 1 ? 0.5 * (T - 1) : 1;
    memset(w, 0, DIT_HISTORY * sizeof *w);
    for (int i = 0; i < count; i++) {
        chebyshev(degree, a[i] / half - 1, P[i]);
        for (int j = 1; j <= degree; j++) mean[j] += P[i][j] / count;
    }
    chebyshev(degree, e / half - 1, now);
    for (int j = 1; j <= degree; j++) {
        y[j - 1] = now[j] - mean[j];
        for (int k = 1; k <= degree; k++)
            for (int i = 0; i < count; i++)
                A[j - 1][k - 1] += (P[i][j] - mean[j]) * (P[i][k] - mean[k]);
        A[j - 1][j - 1] += ridge + 1e-9;
    }
    solve_small(A, y, degree);
    for (int i = 0; i < count; i++) {
        for (int j = 1; j <= degree; j++) w[i] += y[j - 1] * (P[i][j] - mean[j]);
        mid += w[i] / count;
    }
    for (int i = 0; i < count; i++) w[i] += 1.0 / count - mid;
}

typedef struct forecast {
    int order;
    fvi_basis basis;
    double sigma, ridge; /* ridge >= 0: Chebyshev polynomials of degree `order` */
    bool skips;          /* the last hidden state instead of every module */
} forecast;

/* Between what m->full marks. */
static void put_forecasts(fvi_method *m, const forecast *f)
{
    int past[DIT_HISTORY], count = 0; /* newest first */
    m->plan->skip = DIT_SKIP_HIDDEN;
    for (int e = 0; e < m->T; e++) {
        double w[DIT_HISTORY];
        if (m->must[e]) count = 0;
        if (m->full[e]) {
            memmove(past + 1, past, (DIT_HISTORY - 1) * sizeof *past);
            past[0] = e;
            if (count < DIT_HISTORY) count++;
            continue;
        }
        if (f->ridge >= 0) fvi_chebyshev_weights(past, count, f->order, f->ridge, m->T, e, w);
        else fvi_forecast_weights(past, count, f->order, e, f->basis, f->sigma, w);
        if (f->skips) put_skip(m, e, w);
        else put_forecast(m, e, w);
    }
    fvi_accel_count(m->plan);
}

static fv_status mark_taylor(fvi_method *m)
{
    if (fvi_method_given(m, "anchors")) return mark_even(m, asked_anchors(m), 2);
    mark_after_two(m, (int)fvi_method_value(m, "N"));
    return FV_OK;
}

fv_status fvi_make_taylorseer(fvi_method *m)
{
    const forecast f = { .order = (int)fvi_method_value(m, "order"), .ridge = -1,
                         .basis = fvi_method_value(m, "form") > 0 ? FVI_BASIS_NEWTON
                                                                  : FVI_BASIS_TAYLOR,
                         .skips = fvi_method_value(m, "lite") > 0 };
    FV_TRY(mark_taylor(m));
    put_forecasts(m, &f);
    return FV_OK;
}

fv_status fvi_make_hicache(fvi_method *m)
{
    const forecast f = { .order = (int)fvi_method_value(m, "order"), .ridge = -1,
                         .basis = FVI_BASIS_HERMITE, .sigma = fvi_method_value(m, "sigma") };
    FV_TRY(mark_taylor(m));
    put_forecasts(m, &f);
    return FV_OK;
}

fv_status fvi_make_spectrum(fvi_method *m)
{
    const forecast f = { .order = (int)fvi_method_value(m, "degree"),
                         .ridge = fvi_method_value(m, "ridge"), .skips = true };
    FV_TRY(mark_taylor(m));
    put_forecasts(m, &f);
    return FV_OK;
}

/* ---- ClusCa --------------------------------------------------------------------------------- */

/* The size of a pruned module that is nearest to `tokens`. */
static int nearest_size(const dit_config *c, int tokens)
{
    int best = 0;
    for (int i = 1; i < DIT_PRUNED; i++)
        if (abs(dit_pruned_tokens(c, i) - tokens) < abs(dit_pruned_tokens(c, best) - tokens))
            best = i;
    return best;
}

fv_status fvi_make_clusca(fvi_method *m)
{
    const dit_config *c = &m->d->net.cfg;
    const forecast f = { .order = (int)fvi_method_value(m, "order"), .ridge = -1,
                         .basis = FVI_BASIS_TAYLOR };
    const int which = nearest_size(c, (int)fvi_method_value(m, "clusters"));
    fv_accel *a = m->plan;
    FV_TRY(mark_taylor(m));
    put_forecasts(m, &f);
    for (size_t at = DIT_MLP; at < (size_t)m->T * (size_t)m->K; at += 2) {
        if (a->action[at] != DIT_LINEAR) continue;
        a->action[at] = DIT_PRUNE;
        a->pruned[at] = (uint8_t)which;
    }
    a->score = DIT_SCORE_GIVEN;
    fvi_accel_count(a);
    return fvi_add_clusters(m, dit_pruned_tokens(c, which));
}

/* ---- DPCache -------------------------------------------------------------------------------- */

/* Mean squared change of the last hidden state from e-n to e, NAN where the table has none. */
static double hidden_change(const fv_sens *s, int e, int n)
{
    const double d = fvi_sens_step_gram(s, DIT_SKIP_HIDDEN, e, 0) -
                     2 * fvi_sens_step_gram(s, DIT_SKIP_HIDDEN, e, n) +
                     fvi_sens_step_gram(s, DIT_SKIP_HIDDEN, e - n, 0);
    return d < 0 ? 0 : d;
}

/* Error at e of the line through what was at p < c (p < 0: of reuse). With weights 1+t and -t its
 * square is (1+t) D(e,c) - t D(e,p) + t (1+t) D(c,p), D the squared changes. */
static double line_error(const fvi_method *m, bool has_table, int p, int c, int e)
{
    const fv_sens *s = m->sens;
    if (!has_table) return p < 0 ? e - c : (double)(e - c) * (e - p);
    if (!fvi_sens_known(s, e, e - (p < 0 ? c : p))) return INFINITY;
    if (p < 0) return sqrt(hidden_change(s, e, e - c));
    const double t = (double)(e - c) / (c - p);
    const double square = (1 + t) * hidden_change(s, e, e - c) - t * hidden_change(s, e, e - p) +
                          t * (1 + t) * hidden_change(s, c, c - p);
    return sqrt(square < 0 ? 0 : square);
}

/* Of the evaluations between c and b, the full one before c being p; INFINITY across a change of
 * rows. */
static double line_segment(const fvi_method *m, bool has_table, int p, int c, int b)
{
    double sum = 0;
    if (c == 0 || m->must[c]) p = -1;
    for (int e = c + 1; e < b && sum < INFINITY; e++)
        sum += m->must[e] ? INFINITY : line_error(m, has_table, p, c, e);
    return sum;
}

/* value and from are [k+1][T]: the least cost with j full evaluations of which the last is at c,
 * and the one before it. */
static bool solve_dpcache(fvi_method *m, bool has_table, int k, double *value, int *from)
{
    const int T = m->T;
    int last = -1;
    double best = INFINITY;
    for (int i = 0; i < (k + 1) * T; i++) value[i] = INFINITY;
    value[3 * T + 2] = 0; /* the first three */
    from[3 * T + 2] = 1;
    for (int j = 3; j < k; j++)
        for (int c = j - 1; c < T; c++) {
            if (!(value[j * T + c] < INFINITY)) continue;
            for (int b = c + 1; b < T && b <= c + MAX_GAP; b++) {
                const double v = value[j * T + c] +
                                 line_segment(m, has_table, from[j * T + c], c, b);
                if (!(v < value[(j + 1) * T + b])) continue;
                value[(j + 1) * T + b] = v;
                from[(j + 1) * T + b] = c;
            }
        }
    for (int c = k - 1; c < T; c++) {
        const double v =
            value[k * T + c] < INFINITY && c + MAX_GAP >= T
                ? value[k * T + c] + line_segment(m, has_table, from[k * T + c], c, T)
                : INFINITY;
        if (!(v < best)) continue;
        best = v;
        last = c;
    }
    if (last < 0) return false;
    m->full[0] = m->full[1] = 1;
    for (int j = k, c = last; j >= 3; c = from[j * T + c], j--) m->full[c] = 1;
    return true;
}

fv_status fvi_make_dpcache(fvi_method *m)
{
    const forecast f = { .order = 1, .basis = FVI_BASIS_NEWTON, .ridge = -1, .skips = true };
    const int k = asked_anchors(m);
    size_t n;
    if (k < 3 || m->T < 3)
        return fv_fail(m->ctx, FV_ERR_ARG, "dpcache: the first 3 steps are full: anchors from 3");
    if (!fv_mul_size((size_t)k + 1, (size_t)m->T, &n)) return FV_ERR_OOM;
    double *value = fv_calloc(m->ctx, n, sizeof *value);
    int *from = fv_calloc(m->ctx, n, sizeof *from);
    bool is_solved = false;
    fv_status s = value && from ? FV_OK : FV_ERR_OOM;
    if (s == FV_OK && m->sens && fvi_sens_step_gram(m->sens, DIT_SKIP_HIDDEN, 0, 0) > 0)
        is_solved = solve_dpcache(m, true, k, value, from);
    if (s == FV_OK && !is_solved) is_solved = solve_dpcache(m, false, k, value, from);
    fv_free(m->ctx, value);
    fv_free(m->ctx, from);
    if (s != FV_OK) return s;
    if (!is_solved)
        return fv_fail(m->ctx, FV_ERR_ARG,
                       "dpcache: %d full steps of %d leave gaps of more than %d: use more", k,
                       m->T, MAX_GAP);
    put_forecasts(m, &f);
    return FV_OK;
}
