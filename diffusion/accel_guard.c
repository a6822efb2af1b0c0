/* accel_guard.c - a plan that is watched while it runs, and mended.
 *
 * A plan is made for the pictures of its calibration. The guard looks at the modulated input h of
 * the first block, which costs little, at every evaluation (the input of TeaCache and RFC). Of each
 * picture it knows how far h moved between the last two full evaluations k' < k, in relative L1:
 *     pace = |h_k - h_k'| / |h_k'| / (k - k')
 * and expects the same pace after k. Where
 *     |h_e - h_k| / |h_k|  >  tau pace (e - k)
 * for any picture of the batch, evaluation e is computed in full instead of as planned.
 *
 * Time: the full evaluation is one that the plan has later. e and that one trade places, so the
 * later one costs what e would have cost, and the sum of all stays what it was; there is nothing to
 * fire with once all later ones are used up. Only those of the same stretch of rows (guidance on,
 * or off) that are not its first and not side by side can be traded. The one whose loss costs
 * least is taken: between full evaluations errors grow as omega_e (age)^2, and an optimal plan has
 * equal errors in all its gaps,
 *     omega g^3 = constant,
 * so the gaps g of the plan itself tell omega.
 *
 * On the shipped model every firing that was measured cost fidelity: its pictures stay within 0.8
 * to 1.2 times the pace, and its plans are made for them. tau is for inputs unlike those that a
 * plan was made for; 1.3 lets usual ones pass.
 *
 * Forecasts: after a trade the outputs that a forecast reads are of other evaluations than those
 * its weights are for. From these, w at ages of a, comes
 *     gain = sum w_i,   lambda = sum w_i (a_i - a_0) / (e - a_0)
 * (1 and 1 for a line), and two weights of the same gain and lambda replace them. They reach no
 * further than the plan's own do, or than the distance of the two: with one small spacing a line is
 * no forecast.
 *
 * Decisions are the batch's, from sums in a fixed order: they do not depend on threads. */
#include "internal.h"
#include "sampling_device.h"

#include <math.h>
#include <string.h>

#define TRADED_IN (-1) /* source of an evaluation that the guard computes in full */

typedef int16_t trail[DIT_HISTORY]; /* evaluations whose outputs a ring holds, newest first; -1 */

struct dit_guard {
    fv_ctx *ctx;
    const fv_accel *plan;
    const dit_schedule *schedule;
    dit_policy policy;
    double tau;
    int T, K, B;
    size_t row;       /* values of h of one row */
    uint64_t bytes;
    trail *planned;   /* [T][K+1] before each evaluation of the plan; the last: for skips */
    trail *now;       /* [K+1] before this evaluation of this run */
    double *omega;    /* [T] */
    int *source;      /* [T] the evaluation of the plan whose row is run at e; TRADED_IN */
    float *before;    /* [2 B][row] h of the last full evaluation, where h is */
    fvi_meter *meter; /* features are on a device; NULL elsewhere */
    int before_at, before_rows; /* rows 0: none */
    double *pace;     /* [B] */
    bool has_pace, is_as_planned;
    double *change, *size; /* [2 B] sums of a row */
    uint8_t *action;  /* the row that is run: [K] */
    float *weight;    /* [K][DIT_HISTORY] */
    float skip[DIT_HISTORY];
    int64_t fired;
};

/* ---- What the rings hold --------------------------------------------------------------------- */

static bool is_guided(const dit_guard *g, int e)
{
    return dit_schedule_guided(g->schedule, e) != 0;
}

/* Outputs of a ring that e can read: of guided evaluations where e is. */
static int readable(const dit_guard *g, const trail t, int e)
{
    int n = 0;
    while (n < DIT_HISTORY && t[n] >= 0 && (is_guided(g, t[n]) || !is_guided(g, e))) n++;
    return n;
}

static void push(trail t, int e)
{
    memmove(t + 1, t, (DIT_HISTORY - 1) * sizeof *t);
    t[0] = (int16_t)e;
}

/* What a row leaves behind, as the engine does it: where outputs are missing it computes. */
static void follow(const dit_guard *g, trail *t, int e, const dit_row *row)
{
    int full = 0;
    if (row->skip_weight && readable(g, t[g->K], e) >= dit_reach(row->skip_weight)) return;
    for (int k = 0; k < g->K; k++) {
        const int action = row->action ? row->action[k] : DIT_FULL;
        const int reach = action == DIT_REUSE ? 1 : dit_reach(row->weight + k * DIT_HISTORY);
        if (action != DIT_FULL && readable(g, t[k], e) >= reach) continue;
        push(t[k], e);
        full++;
    }
    if (full == g->K || !g->plan->past_of_anchors) push(t[g->K], e);
}

static void follow_plan(dit_guard *g)
{
    const size_t n = (size_t)g->K + 1;
    memset(g->now, -1, n * sizeof *g->now);
    for (int e = 0; e < g->T; e++) {
        const dit_row row = dit_accel_row(g->plan, e);
        memcpy(g->planned + (size_t)e * n, g->now, n * sizeof *g->now);
        follow(g, g->now, e, &row);
    }
}

/* ---- Forecasts ------------------------------------------------------------------------------- */

/* Weights of the plan's evaluation s, which reads `was`, for e, which reads `is`. */
static void adapt(const dit_guard *g, const float *w, int s, const trail was, int e, const trail is,
                  float *to)
{
    const int reach = dit_reach(w);
    double gain = 0, moment = 0;
    memcpy(to, w, DIT_HISTORY * sizeof *to);
    if (reach < 2 || readable(g, was, s) < reach) return;
    if (s == e && memcmp(was, is, (size_t)reach * sizeof *was) == 0) return;
    for (int i = 0; i < reach; i++) {
        gain += w[i];
        moment += w[i] * (was[i] - was[0]);
    }
    memset(to, 0, DIT_HISTORY * sizeof *to);
    to[0] = (float)gain;
    if (readable(g, is, e) < 2) return;
    const double most = fmax(1, fabs(moment) / (was[0] - was[1]));
    const double x = moment / (s - was[0]) * (e - is[0]) / (is[0] - is[1]);
    const double far = fmax(-most, fmin(most, x));
    to[0] = (float)(gain + far);
    to[1] = (float)-far;
}

/* Row of the plan's evaluation s for e. */
static void adapt_row(dit_guard *g, int s, int e, dit_row *row)
{
    const trail *was = g->planned + (size_t)s * ((size_t)g->K + 1);
    *row = dit_accel_row(g->plan, s);
    if (row->skip_weight) {
        adapt(g, row->skip_weight, s, was[g->K], e, g->now[g->K], g->skip);
        row->skip_weight = g->skip;
        return;
    }
    for (int k = 0; k < g->K; k++)
        adapt(g, row->weight + k * DIT_HISTORY, s, was[k], e, g->now[k],
              g->weight + k * DIT_HISTORY);
    row->weight = g->weight;
}

/* ---- Trading --------------------------------------------------------------------------------- */

static bool is_full(const dit_guard *g, int e)
{
    const int s = g->source[e];
    return s == TRADED_IN || g->plan->anchor[s];
}

static bool begins_stretch(const dit_guard *g, int e)
{
    return e == 0 || is_guided(g, e) != is_guided(g, e - 1);
}

/* What it adds to the error if f is not full, but `e` is. */
static double loss(const dit_guard *g, int e, int f)
{
    double sum = 0;
    int from = f - 1;
    while (from > e && !is_full(g, from)) from--;
    for (int i = f; i < g->T && (i == f || !is_full(g, i)); i++)
        sum += g->omega[i] * ((double)(i - from) * (i - from) - (double)(i - f) * (i - f));
    return sum;
}

/* Where the plan has full evaluations side by side, gaps do not tell how much more they are worth:
 * most often a great deal, as at the end of a run. These stay. */
static bool can_trade(const dit_guard *g, int f)
{
    const bool is_beside = g->plan->anchor[f - 1] || f + 1 == g->T || g->plan->anchor[f + 1];
    return is_full(g, f) && !begins_stretch(g, f) && !is_beside;
}

/* The full evaluation after e that is best given up; -1: none can be. */
static int find_trade(const dit_guard *g, int e)
{
    double least = INFINITY;
    int best = -1;
    for (int f = e + 1; f < g->T && !begins_stretch(g, f); f++) {
        const double v = can_trade(g, f) ? loss(g, e, f) : INFINITY;
        if (!(v < least)) continue;
        least = v;
        best = f;
    }
    return best;
}

/* Is there anything left to trade, at e or later? */
static bool may_fire(const dit_guard *g, int e)
{
    for (int f = e + 1; f < g->T; f++)
        if (can_trade(g, f)) return true;
    return false;
}

/* ---- Watching -------------------------------------------------------------------------------- */

/* Sums of each row of h against the last full evaluation. */
static fv_status compare(dit_guard *g, const float *now, int rows)
{
    static const double difference[2] = { 1, -1 };
    const float *const v[2] = { now, g->before };
    if (g->meter) {
        FV_TRY(fvi_meter_read(g->meter, v, difference, 2, rows, g->row, NULL, g->change));
        return fvi_meter_read(g->meter, v + 1, difference, 1, rows, g->row, NULL, g->size);
    }
#pragma omp parallel for schedule(static) num_threads(fv_ctx_threads(g->ctx))
    for (int r = 0; r < rows; r++) {
        const float *a = now + (size_t)r * g->row, *b = g->before + (size_t)r * g->row;
        double change = 0, size = 0;
        for (size_t i = 0; i < g->row; i++) {
            change += fabs((double)a[i] - b[i]);
            size += fabs((double)b[i]);
        }
        g->change[r] = change;
        g->size[r] = size;
    }
    return FV_OK;
}

/* Relative change of picture b, over its rows. */
static double change_of(const dit_guard *g, int b, int rows)
{
    double change = 0, size = 0;
    for (int r = b; r < rows; r += g->B) {
        change += g->change[r];
        size += g->size[r];
    }
    return size > 0 ? change / size : 0;
}

static fv_status find_too_far(dit_guard *g, int e, const float *now, int rows, bool *is_too_far)
{
    *is_too_far = false;
    if (!g->has_pace || rows != g->before_rows) return FV_OK;
    FV_TRY(compare(g, now, rows));
    for (int b = 0; b < g->B; b++)
        if (change_of(g, b, rows) > g->tau * g->pace[b] * (e - g->before_at)) *is_too_far = true;
    return FV_OK;
}

static fv_status note_full(dit_guard *g, int e, const float *now, int rows)
{
    g->has_pace = rows == g->before_rows;
    if (g->has_pace) FV_TRY(compare(g, now, rows));
    for (int b = 0; g->has_pace && b < g->B; b++)
        g->pace[b] = change_of(g, b, rows) / (e - g->before_at);
    g->before_rows = rows;
    g->before_at = e;
    return fv_dev_copy(g->ctx, g->before, now, (size_t)rows * g->row * sizeof *now,
                       FV_COPY_ON_DEVICE);
}

/* ---- As a policy ----------------------------------------------------------------------------- */

static fv_status guard_start(void *user, const dit_runner *r, int B)
{
    dit_guard *g = user;
    (void)r;
    g->B = B;
    g->before_rows = 0;
    g->has_pace = false;
    g->is_as_planned = true;
    for (int e = 0; e < g->T; e++) g->source[e] = e;
    memset(g->now, -1, ((size_t)g->K + 1) * sizeof *g->now);
    return FV_OK;
}

/* Trades e if it has to be, and there is something for it. */
static fv_status judge(dit_guard *g, int e, const float *now, int rows)
{
    const int f = find_trade(g, e);
    bool is_too_far = false;
    if (f >= 0) FV_TRY(find_too_far(g, e, now, rows, &is_too_far));
    if (!is_too_far) return FV_OK;
    g->source[f] = g->source[e];
    g->source[e] = TRADED_IN;
    g->is_as_planned = false;
    g->fired++;
    return FV_OK;
}

static fv_status guard_decide(void *user, dit_runner *r, int e, const float *x, dit_row *row)
{
    dit_guard *g = user;
    if (may_fire(g, e)) {
        const float *now;
        int rows;
        FV_TRY(dit_runner_probe(r, e, x, &now, &rows));
        if (!is_full(g, e)) FV_TRY(judge(g, e, now, rows));
        if (is_full(g, e)) FV_TRY(note_full(g, e, now, rows));
    }
    if (g->source[e] == TRADED_IN) *row = (dit_row){ g->action, g->weight, NULL, NULL };
    else if (!g->is_as_planned) adapt_row(g, g->source[e], e, row);
    follow(g, g->now, e, row);
    return FV_OK;
}

/* ---- Life ------------------------------------------------------------------------------------ */

/* 1 / gap^3 of the plan. */
static void weigh(dit_guard *g)
{
    for (int from = 0, to; from < g->T; from = to) {
        for (to = from + 1; to < g->T && !g->plan->anchor[to];) to++;
        for (int e = from; e < to; e++) g->omega[e] = pow(to - from, -3);
    }
}

static void *take(dit_guard *g, size_t n, size_t size)
{
    g->bytes += (uint64_t)n * size;
    return g->ctx ? fv_calloc(g->ctx, n, size) : NULL; /* without: it is only counted */
}

static bool allocate(dit_guard *g, const dit_config *c)
{
    const size_t T = (size_t)g->T, K = (size_t)g->K, rows = 2 * (size_t)g->B;
    g->row = (size_t)dit_tokens(c) * (size_t)c->width;
    g->planned = take(g, T * (K + 1), sizeof *g->planned);
    g->now = take(g, K + 1, sizeof *g->now);
    g->omega = take(g, T, sizeof *g->omega);
    g->source = take(g, T, sizeof *g->source);
    g->bytes += (uint64_t)rows * g->row * sizeof *g->before; /* where the features are */
    if (g->ctx) g->before = fv_dev_alloc(g->ctx, rows * g->row, sizeof *g->before);
    g->pace = take(g, (size_t)g->B, sizeof *g->pace);
    g->change = take(g, rows, sizeof *g->change);
    g->size = take(g, rows, sizeof *g->size);
    g->action = take(g, K, 1); /* DIT_FULL */
    g->weight = take(g, K * DIT_HISTORY, sizeof *g->weight);
    return g->planned && g->now && g->omega && g->source && g->before && g->pace && g->change &&
           g->size && g->action && g->weight;
}

uint64_t dit_guard_cache_bytes(const dit_config *c, int evals, int B)
{
    dit_guard g = { .T = evals, .K = 2 * c->depth, .B = B };
    (void)allocate(&g, c);
    return g.bytes;
}

fv_status dit_guard_create(fv_ctx *ctx, dit_guard **out, const fv_accel *plan,
                           const dit_schedule *s, const dit_config *c, const dit_guard_options *o)
{
    dit_guard *g = fv_calloc(ctx, 1, sizeof *g);
    *out = NULL;
    if (!g) return FV_ERR_OOM;
    *g = (dit_guard){ .ctx = ctx, .plan = plan, .schedule = s, .tau = o->tau, .T = plan->evals,
                      .K = 2 * plan->depth, .B = o->B };
    g->policy = (dit_policy){ .start = guard_start, .decide = guard_decide, .user = g };
    *out = g;
    if (!allocate(g, c)) {
        dit_guard_destroy(out);
        return FV_ERR_OOM;
    }
    weigh(g);
    follow_plan(g);
    if (fv_ctx_device(ctx) == FV_DEVICE_CPU) return FV_OK;
    const fv_status st = fvi_meter_create(ctx, &g->meter, 2 * o->B);
    if (st != FV_OK) dit_guard_destroy(out);
    return st;
}

void dit_guard_destroy(dit_guard **gg)
{
    if (!gg || !*gg) return;
    dit_guard *g = *gg;
    *gg = NULL;
    void *mem[] = { g->planned, g->now, g->omega, g->source, g->pace, g->change, g->size,
                    g->action, g->weight };
    fvi_meter_destroy(&g->meter);
    fv_dev_free(g->ctx, g->before);
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(g->ctx, mem[i]);
    fv_free(g->ctx, g);
}

const dit_policy *dit_guard_policy(const dit_guard *g)
{
    return &g->policy;
}

int64_t dit_guard_fired(const dit_guard *g)
{
    return g->fired;
}

uint64_t dit_guard_bytes(const dit_guard *g)
{
    return g->bytes;
}
