/* accel.c - plans: which module is computed at which evaluation, and --speedup as a contract on
 * wall-clock time.
 *
 * dpx         what --speedup means: accel_dpx.c places full evaluations, forecasts and skipped ones
 *             for the time there is; what is left of it is spent on single modules, computed or
 *             pruned between anchors, in order of error saved per second. So the ratio is met to
 *             within the time of one module, where whole steps would leave gaps of several per
 *             cent. A few lower budgets are tried for the first part as well, and the plan of least
 *             predicted error wins.
 * soda        the same with reuse in place of forecasts: anchors from anchor_dp.c [SODA, "DCS"] on
 *             weighted squared errors, then single modules, refreshed or pruned ["UAS"].
 * soda-paper  as published: unweighted cosine error, gaps of 2, 3 or 4, the last step in full;
 *             between anchors MLPs are pruned where that has the smaller error, with rates that
 *             follow the sensitivity and whose mean fits the time.
 * dcs         anchors as in soda, nothing else.
 * fixed       a constant interval (FORA).
 * exact       everything in full.
 *
 * Without a table the error of age n is taken as n^2 in every module: outputs move nearly linearly
 * over a few steps, so squared differences grow with the square, and anchors come out evenly
 * spaced.
 *
 * Plans are a pure function of table, times and options. */
#include "dpx.h"

#include <math.h>
#include <string.h>

#define MAX_GAP 10 /* longest reuse between anchors */
#define PAPER_GAPS (1u << 2 | 1u << 3 | 1u << 4)
#define FEWER_ANCHORS 8
#define RATE_SLOPE 0.5 /* soda-paper: how much rates follow the sensitivity */
#define TOLERANCE 0.03
#define ROUNDS 4
#define PAIRS 3
#define PAIRS_SECONDS 1.5
#define DOUBT 0.1 /* share by which a measured ratio differs from the predicted one */
#define MIN_SECONDS 1e-12 /* a scripted timing may say 0 */
#define MIB 1048576.0

typedef struct planner {
    fv_ctx *ctx;
    const fv_dit *d;
    const fv_generate_options *o;
    const fv_sens *sens; /* the caller's, or in mode dpx without one `prior`, or NULL */
    fv_sens *prior;
    const fv_timing *timing;
    const fv_accel_options *a;
    dit_schedule schedule;
    int T, K, G;   /* evaluations, modules, largest gap */
    uint8_t *must; /* [T] the number of rows changes here */
    double *cost;  /* [T][G]: all modules at e reuse age n; INFINITY = not possible */
    int *at;       /* [T] anchors */
    fvi_dp dp;
    fvi_dp_table table;
    double exact, batches; /* predicted seconds of the exact run; batches of a call */
    bool can_prune;        /* the table knows what pruning does */
    bool no_room;          /* ... but its scores are too much for the bound on caches */
    uint64_t most_bytes;   /* of caches, while this bound holds; 0 = none */
    uint64_t free_bytes;   /* of the plan without a bound */
} planner;

/* ---- Errors --------------------------------------------------------------------------------- */

/* Largest age that evaluation e may reuse: no change of rows between, nothing before the start. */
static int oldest(const planner *p, int e)
{
    int n = 0;
    while (n < e && !p->must[e - n]) n++;
    return n;
}

static double error_of(const planner *p, int k, int e, int n)
{
    if (!p->sens) return (double)n * n;
    if (!fvi_sens_known(p->sens, e, n)) return INFINITY;
    return p->a->mode == FV_ACCEL_SODA_PAPER ? fvi_sens_cosine(p->sens, k, e, n)
                                             : fvi_sens_error(p->sens, k, e, n);
}

static fv_status fill_costs(planner *p)
{
    p->cost = fv_calloc(p->ctx, (size_t)p->T, (size_t)p->G * sizeof(double));
    if (!p->cost) return FV_ERR_OOM;
    for (int e = 0; e < p->T; e++) {
        double *cost = p->cost + (size_t)e * (size_t)p->G;
        const int most = oldest(p, e);
        for (int n = 1; n < p->G; n++)
            for (int k = 0; k < p->K; k++) cost[n] += n <= most ? error_of(p, k, e, n) : INFINITY;
    }
    return FV_OK;
}

/* ---- Set-up --------------------------------------------------------------------------------- */

static fv_status check_inputs(const planner *p)
{
    const fv_accel_options *a = p->a;
    FV_TRY(dit_check_count(p->ctx, p->o));
    if ((unsigned)a->mode > FV_ACCEL_EXACT)
        return fv_fail(p->ctx, FV_ERR_ARG, "plan: unknown mode %d", (int)a->mode);
    if (a->anchors < 0 || a->interval < 0 || !(a->speedup == 0 || a->speedup >= 1))
        return fv_fail(p->ctx, FV_ERR_ARG,
                       "plan: speed-up %g, anchors %d, interval %d: use a speed-up of 1 or more, "
                       "or a positive number",
                       a->speedup, a->anchors, a->interval);
    if (a->mode != FV_ACCEL_FIXED && a->interval)
        return fv_fail(p->ctx, FV_ERR_ARG, "plan: an interval belongs to mode fixed");
    if (a->mode != FV_ACCEL_EXACT && !a->anchors && !a->interval && a->speedup == 0)
        return fv_fail(p->ctx, FV_ERR_ARG,
                       "plan: give a speed-up, a number of full steps or an interval");
    const bool is_timed =
        a->speedup > 1 && !a->anchors && !a->interval && a->mode != FV_ACCEL_EXACT;
    if (is_timed && !p->timing)
        return fv_fail(p->ctx, FV_ERR_ARG,
                       "plan: a speed-up needs measured times (fv_timing_measure)");
    if (p->timing && (memcmp(p->timing->hash, p->d->hash, sizeof p->d->hash) != 0 ||
                      p->timing->depth != p->d->net.cfg.depth))
        return fv_fail(p->ctx, FV_ERR_MODEL,
                       "plan: the times were measured on another model: measure again");
    return p->sens ? fv_sens_match(p->ctx, p->sens, p->d, p->o) : FV_OK;
}

static fv_status check_times(const planner *p)
{
    const fv_timing *t = p->timing;
    for (int e = 0; t && e < p->T; e++) {
        const int g = dit_schedule_guided(&p->schedule, e) != 0;
        if (t->attn[g] <= 0 || t->mlp[g] <= 0)
            return fv_fail(p->ctx, FV_ERR_MODEL,
                           "plan: the times do not cover steps %s guidance: measure again",
                           g ? "with" : "without");
    }
    return FV_OK;
}

static fv_status open_planner(planner *p)
{
    FV_TRY(check_inputs(p));
    FV_TRY(dit_schedule_create(p->ctx, &p->schedule, &p->d->net.cfg, p->o));
    p->T = p->schedule.evals;
    FV_TRY(check_times(p));
    p->K = 2 * p->d->net.cfg.depth;
    if (!p->sens && p->a->mode == FV_ACCEL_DPX) {
        FV_TRY(fvi_sens_prior(p->ctx, &p->prior, &p->schedule, p->K / 2));
        p->sens = p->prior;
    }
    const double share = p->sens ? fvi_sens_pruned(p->sens, 0, p->T - 1, 0, 1) : NAN;
    p->can_prune =
        share == share && dit_pruned_tokens(&p->d->net.cfg, 2) < dit_tokens(&p->d->net.cfg);
    p->G = p->a->mode == FV_ACCEL_SODA_PAPER ? 4 : MAX_GAP;
    if (p->sens && p->sens->window + 1 < p->G) p->G = p->sens->window + 1;
    p->must = fv_calloc(p->ctx, (size_t)p->T, 1);
    p->at = fv_calloc(p->ctx, (size_t)p->T, sizeof(int));
    if (!p->must || !p->at) return FV_ERR_OOM;
    for (int e = 1; e < p->T; e++)
        p->must[e] =
            dit_schedule_guided(&p->schedule, e) != dit_schedule_guided(&p->schedule, e - 1);
    if (!p->timing) return FV_OK;
    p->batches = (p->o->count + p->timing->batch - 1) / p->timing->batch;
    return fvi_accel_seconds(p->ctx, p->d, p->o, p->timing, NULL, &p->exact);
}

static void close_planner(planner *p)
{
    void *mem[] = { p->must, p->cost, p->at };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(p->ctx, mem[i]);
    fv_sens_free(&p->prior);
    fvi_dp_free(p->ctx, &p->table);
    dit_schedule_destroy(p->ctx, &p->schedule);
}

/* ---- Plans from anchors --------------------------------------------------------------------- */

static void put_anchors(const planner *p, const int *at, int k, fv_accel *a)
{
    memset(a->action, DIT_REUSE, (size_t)p->T * (size_t)p->K);
    memset(a->skipped, 0, (size_t)p->T);
    for (int i = 0; i < k; i++)
        memset(a->action + (size_t)at[i] * (size_t)p->K, DIT_FULL, (size_t)p->K);
}

static int guided(const planner *p, int e)
{
    return dit_schedule_guided(&p->schedule, e) != 0;
}

static fvi_spend spending(const planner *p)
{
    return (fvi_spend){ p->ctx, p->sens, p->must, p->timing, &p->schedule, p->batches,
                        p->can_prune && !p->no_room && !p->a->no_pruning };
}

/* As fvi_accel_seconds, from the exact time down. */
static double anchors_seconds(const planner *p, const int *at, int k)
{
    const fvi_spend spend = spending(p);
    const fvi_doing full = { DIT_FULL, 0 }, reuse = { DIT_REUSE, 0 };
    double s = p->exact;
    for (int e = 0, i = 0; e < p->T; e++) {
        if (i < k && at[i] == e) {
            i++;
            continue;
        }
        for (int m = 0; m < 2; m++)
            s -= fvi_more_seconds(&spend, m, e, full, reuse) * (p->K / 2);
    }
    return s;
}

static fv_status solve_table(planner *p)
{
    const bool is_paper = p->a->mode == FV_ACCEL_SODA_PAPER;
    if (p->table.value) return FV_OK;
    FV_TRY(fill_costs(p));
    p->dp = (fvi_dp){ p->T, p->G, is_paper ? PAPER_GAPS : ~1u, is_paper, p->cost };
    return fvi_dp_solve(p->ctx, &p->dp, p->T, &p->table);
}

static fv_status plan_dp(planner *p, int k, fv_accel *out)
{
    FV_TRY(solve_table(p));
    FV_TRY(fvi_dp_path(p->ctx, &p->table, k, p->at));
    put_anchors(p, p->at, k, out);
    return FV_OK;
}

static fv_status too_fast(const planner *p, double fastest)
{
    return fv_fail(p->ctx, FV_ERR_ARG,
                   "speed-up %.3g is beyond the maximum of %.2f for this model, batch and decoder: "
                   "ask for less",
                   p->a->speedup, p->timing->correction * p->exact / fastest);
}

/* The smallest interval with at most `anchors` full steps, or fast enough for `budget` seconds. */
static fv_status plan_fixed(planner *p, int interval, int anchors, double budget, fv_accel *out)
{
    double least = INFINITY;
    int k = 0;
    for (int n = interval ? interval : 1; n <= p->T || interval; n++) {
        k = fvi_dp_fixed(p->T, n, p->must, p->at);
        const double t = p->timing ? anchors_seconds(p, p->at, k) : 0;
        if (t < least) least = t;
        if (interval || (anchors && k <= anchors) || (!anchors && t <= budget)) {
            put_anchors(p, p->at, k, out);
            return FV_OK;
        }
    }
    if (anchors)
        return fv_fail(p->ctx, FV_ERR_ARG,
                       "plan: a fixed interval needs at least %d full steps here", k);
    return too_fast(p, least);
}

static fv_status spend(const planner *p, double budget, fv_accel *a, double *error)
{
    const fvi_spend s = spending(p);
    return fvi_spend_time(&s, budget, a, error);
}

/* ---- Memory of caches ------------------------------------------------------------------------ */

/* How far back the plan of a run may look. */
typedef struct reach {
    int terms;      /* outputs of a module; 0: none is used again */
    int step_terms; /* evaluations; 0: none is skipped */
    dit_skip skip;
    bool prunes;
} reach;

static dit_runner_options run_options(const planner *p)
{
    return (dit_runner_options){ .B = dit_choose_batch(&p->d->net.cfg, p->o),
                                 .exact_cache = p->o->exact_cache != 0,
                                 .no_hoisting = p->o->no_hoisting != 0 };
}

/* The runner's caches and what the guard keeps. */
static uint64_t run_bytes(const planner *p, const dit_runner_options *o)
{
    const dit_net *n = &p->d->net;
    const uint64_t guard = p->o->guard > 0 ? dit_guard_cache_bytes(&n->cfg, p->T, o->B) : 0;
    return dit_runner_cache_bytes(p->ctx, n, p->d->precision, &p->schedule, o) + guard;
}

static uint64_t plan_bytes(const planner *p, const fv_accel *a)
{
    dit_runner_options o = run_options(p);
    dit_runner_options_for(a, &o);
    return run_bytes(p, &o);
}

static uint64_t reach_bytes(const planner *p, const reach *r)
{
    dit_runner_options o = run_options(p);
    o.keep_outputs = r->terms > 0;
    o.history = r->terms;
    o.step_history = r->step_terms;
    o.skip = r->skip;
    o.prunes = r->prunes;
    return run_bytes(p, &o);
}

/* Always, where no bound holds. */
static bool fits(const planner *p, reach r)
{
    return !p->most_bytes || reach_bytes(p, &r) <= p->most_bytes;
}

/* Evaluations that skips of a kind (-1: none are skipped) may look back on beside modules'
 * forecasts from `terms` outputs; -1 where not even the fewest fit. */
static int most_steps(const planner *p, int terms, int kind, bool prunes)
{
    int n = kind < 0 ? 0 : FVI_DPX_TERMS;
    const dit_skip skip = kind < 0 ? DIT_SKIP_OUTPUT : (dit_skip)kind;
    const int fewest = kind < 0 ? 0 : 1;
    while (n >= fewest && !fits(p, (reach){ terms, n, skip, prunes })) n--;
    return n >= fewest ? n : -1;
}

/* Does this fit, and nothing that could only be better? */
static bool is_largest(const planner *p, int terms, int kind, bool prunes)
{
    const int n = most_steps(p, terms, kind, prunes);
    const bool is_most = terms == FVI_DPX_TERMS || (p->a->anchors > 0 && kind >= 0);
    return n >= 0 && (is_most || most_steps(p, terms + 1, kind, prunes) < n) &&
           (prunes || most_steps(p, terms, kind, true) < n);
}

static fv_status too_small(const planner *p, uint64_t least)
{
    const reach none = { 0, 0, DIT_SKIP_OUTPUT, false };
    return fv_fail(p->ctx, FV_ERR_ARG,
                   "caches of at most %llu bytes are too small for this plan, model and batch: "
                   "%llu bytes (%.1f MiB) are the minimum, %.1f MiB of them modulations and tables",
                   (unsigned long long)p->a->max_cache_bytes, (unsigned long long)least,
                   (double)least / MIB, (double)reach_bytes(p, &none) / MIB);
}

/* ---- dpx ------------------------------------------------------------------------------------- */

typedef struct dpx_search {
    fvi_dpx p;
    fvi_dpx_work *work;
    double *seconds; /* [3][T] */
    uint8_t *kind;   /* [T] */
    double fixed;    /* seconds that no plan changes */
    bool prunes;
} dpx_search;

/* The best plan of several searches. */
typedef struct dpx_best {
    fv_accel *plan, *trial;
    bool is_found;
    double error, fastest; /* of the plan; seconds of the fastest of all */
} dpx_best;

static fv_status open_dpx(planner *p, dpx_search *s, reach r, const fvi_dpx_work *like)
{
    const fv_timing *t = p->timing;
    const size_t T = (size_t)p->T;
    memset(s, 0, sizeof *s);
    s->seconds = fv_calloc(p->ctx, 3 * T, sizeof(double));
    s->kind = fv_calloc(p->ctx, T, 1);
    if (!s->seconds || !s->kind) return FV_ERR_OOM;
    s->fixed = p->exact;
    for (size_t e = 0; e < T; e++) {
        const int g = guided(p, (int)e);
        double *at = s->seconds + e;
        at[0] = 1;
        if (t) {
            const double ends = t->ends[g] + t->step, depth = p->K / 2;
            at[0] = p->batches * (ends + depth * (t->attn[g] + t->mlp[g]));
            at[T] = p->batches * (ends + 2 * depth * t->linear[g]);
            at[2 * T] = p->batches * fvi_skip_seconds(t, g, r.skip);
            s->fixed -= at[0];
        }
        if (!r.terms) at[T] = INFINITY;
    }
    s->prunes = r.prunes;
    s->p = (fvi_dpx){ .T = p->T, .K = p->K, .max_gap = p->T < FVI_DPX_GAP ? p->T : FVI_DPX_GAP,
                      .terms = r.terms ? r.terms : 1,
                      .step_terms = r.step_terms ? r.step_terms : 1,
                      .sens = p->sens, .must = p->must,
                      .seconds = { s->seconds, s->seconds + T,
                                   r.step_terms ? s->seconds + 2 * T : NULL },
                      .skip = r.skip };
    return fvi_dpx_open(p->ctx, &s->work, &s->p, like);
}

static void close_dpx(const planner *p, dpx_search *s)
{
    fvi_dpx_close(p->ctx, &s->work);
    fv_free(p->ctx, s->seconds);
    fv_free(p->ctx, s->kind);
}

static void put_kinds(const planner *p, const dpx_search *s, fv_accel *a)
{
    a->skip = s->p.skip;
    a->past_of_anchors = true;
    a->terms = s->p.terms;
    a->step_terms = s->p.step_terms;
    for (int e = 0; e < p->T; e++) { /* a skip that lacks its past is computed in full */
        a->skipped[e] = s->kind[e] == FVI_STEP_SKIP;
        memset(a->action + (size_t)e * (size_t)p->K,
               s->kind[e] == FVI_STEP_FORECAST ? DIT_LINEAR : DIT_FULL, (size_t)p->K);
    }
}

static void keep_better(dpx_best *b, double error)
{
    if (b->is_found && !(error < b->error)) return;
    b->is_found = true;
    b->error = error;
    fvi_accel_copy(b->plan, b->trial);
}

static fv_status search_anchors(planner *p, dpx_search *s, dpx_best *b)
{
    double error, seconds;
    FV_TRY(fvi_dpx_anchors(p->ctx, s->work, p->a->anchors, s->kind));
    fvi_dpx_judge(&s->p, s->kind, &error, &seconds);
    put_kinds(p, s, b->trial);
    keep_better(b, error);
    return FV_OK;
}

/* Keeps the best plan of a search if it is better; lowers b->fastest to its fastest. */
static fv_status search_dpx(planner *p, double budget, dpx_search *s, dpx_best *b)
{
    static const double reserve[] = { 0, 1, 2 }; /* anchors' worth of time kept for spending */
    if (p->a->anchors > 0) return search_anchors(p, s, b);
    p->no_room = !s->prunes;
    for (int i = 0; i < (p->a->no_single_modules ? 1 : (int)FV_ARRAY_LEN(reserve)); i++) {
        double error, seconds;
        const double most = budget - s->fixed - reserve[i] * s->seconds[p->T - 1];
        const fv_status st = fvi_dpx_within(p->ctx, s->work, most, s->kind, &error, &seconds);
        if (!i && seconds + s->fixed < b->fastest) b->fastest = seconds + s->fixed;
        if (st == FV_ERR_ARG) break; /* too little time: others may do */
        FV_TRY(st);
        put_kinds(p, s, b->trial);
        if (!p->a->no_single_modules)
            FV_TRY(spend(p, budget - s->fixed - seconds, b->trial, &error));
        if (error < INFINITY) keep_better(b, error);
    }
    return FV_OK;
}

static bool knows_skip(const planner *p, dit_skip kind)
{
    return p->sens && !p->a->no_skipping && fvi_sens_omega_step(p->sens, kind, p->T - 1) >= 0;
}

/* With skips of one kind, without any, or of the other, whatever is predicted to be best; forecasts
 * of modules from `terms` outputs. Plans for a number of anchors skip only where memory leaves
 * nothing else. */
static fv_status search_terms(planner *p, double budget, int terms, bool prunes, dpx_best *b)
{
    dpx_search plain = { .work = NULL }, skips;
    fv_status s = FV_OK;
    if (terms && is_largest(p, terms, -1, prunes)) {
        s = open_dpx(p, &plain, (reach){ terms, 0, DIT_SKIP_OUTPUT, prunes }, NULL);
        if (s == FV_OK) s = search_dpx(p, budget, &plain, b);
    }
    for (int kind = DIT_SKIP_OUTPUT; s == FV_OK && kind <= DIT_SKIP_HIDDEN; kind++) {
        if (!knows_skip(p, (dit_skip)kind) || !is_largest(p, terms, kind, prunes)) continue;
        if (p->a->anchors > 0 && terms) continue;
        const int steps = most_steps(p, terms, kind, prunes);
        s = open_dpx(p, &skips, (reach){ terms, steps, (dit_skip)kind, prunes }, plain.work);
        if (s == FV_OK) s = search_dpx(p, budget, &skips, b);
        close_dpx(p, &skips);
    }
    close_dpx(p, &plain);
    return s;
}

/* What the plan that is cheapest in memory needs; at most what the one without a bound does. */
static fv_status name_least(planner *p, double budget, dpx_best *b)
{
    static const reach small[] = { { 0, 1, DIT_SKIP_OUTPUT, false },
                                   { 0, 1, DIT_SKIP_HIDDEN, false },
                                   { 1, 0, DIT_SKIP_OUTPUT, false },
                                   { 1, 1, DIT_SKIP_OUTPUT, false },
                                   { 1, 1, DIT_SKIP_HIDDEN, false } };
    uint64_t least = p->free_bytes;
    p->most_bytes = 0;
    for (size_t i = 0; i < FV_ARRAY_LEN(small); i++) {
        const uint64_t bytes = reach_bytes(p, &small[i]);
        dpx_search s;
        if (bytes >= least || (small[i].step_terms && !knows_skip(p, small[i].skip))) continue;
        b->is_found = false;
        fv_status st = open_dpx(p, &s, small[i], NULL);
        if (st == FV_OK) st = search_dpx(p, budget, &s, b);
        close_dpx(p, &s);
        if (st != FV_OK && st != FV_ERR_ARG) return st;
        if (b->is_found) least = bytes;
    }
    return too_small(p, least);
}

static fv_status plan_dpx(planner *p, double budget, fv_accel *out)
{
    const int fewest = p->most_bytes ? 0 : FVI_DPX_TERMS;
    dpx_best b = { .plan = out, .error = INFINITY, .fastest = INFINITY };
    if (p->a->anchors > p->T)
        return fv_fail(p->ctx, FV_ERR_ARG, "plan: %d full steps, but there are %d evaluations",
                       p->a->anchors, p->T);
    FV_TRY(fvi_accel_create(p->ctx, &b.trial, p->T, p->K / 2));
    fv_status s = FV_OK;
    for (int terms = FVI_DPX_TERMS; s == FV_OK && terms >= fewest; terms--) {
        s = search_terms(p, budget, terms, true, &b);
        if (s == FV_OK) s = search_terms(p, budget, terms, false, &b);
    }
    if (p->most_bytes && !b.is_found && (s == FV_OK || s == FV_ERR_ARG))
        s = name_least(p, budget, &b);
    else if (s == FV_OK && !p->a->anchors && b.fastest > budget)
        s = too_fast(p, b.fastest);
    fv_accel_free(&b.trial);
    if (s == FV_OK) fvi_accel_weights(out, p->sens, p->must);
    return s;
}

/* ---- Speed targets -------------------------------------------------------------------------- */

/* Largest feasible number of anchors within `budget` seconds. */
static fv_status most_anchors(planner *p, double budget, int *count)
{
    int least, most;
    double fastest = INFINITY;
    FV_TRY(solve_table(p));
    if (!fvi_dp_range(&p->table, &least, &most))
        return fvi_dp_path(p->ctx, &p->table, 1, p->at); /* its message */
    *count = 0;
    for (int k = least; k <= most; k++) {
        if (fvi_dp_path(p->ctx, &p->table, k, p->at) != FV_OK) continue;
        const double t = anchors_seconds(p, p->at, k);
        if (t < fastest) fastest = t;
        if (t <= budget) *count = k;
    }
    if (*count) return FV_OK;
    return too_fast(p, fastest);
}

/* Mean over what is reused; 0 if nothing is. */
static double mean_cosine(const planner *p, const fv_accel *a)
{
    double sum = 0, n = 0;
    for (int k = DIT_MLP; k < p->K; k += 2)
        for (int e = 0, age = 0; e < p->T; e++) {
            age = a->action[(size_t)e * (size_t)p->K + (size_t)k] == DIT_FULL ? 0 : age + 1;
            if (!age) continue;
            sum += fvi_sens_cosine(p->sens, k, e, age);
            n++;
        }
    return n ? sum / n : 0;
}

/* Prunes the MLPs of a plan of anchors with mean rate `rate` of kept tokens, where that errs less
 * than reuse; *error: the sum of the smaller errors. */
static void prune_by_rate(const planner *p, double rate, double mean, fv_accel *a, double *error)
{
    const double tokens = dit_tokens(&p->d->net.cfg);
    *error = 0;
    for (int k = 0; k < p->K; k++)
        for (int e = 0, age = 0; e < p->T; e++) {
            uint8_t *action = &a->action[(size_t)e * (size_t)p->K + (size_t)k];
            age = *action == DIT_FULL ? 0 : age + 1;
            if (!age) continue;
            const double reuse = fvi_sens_cosine(p->sens, k, e, age);
            const double kept = rate * (1 + RATE_SLOPE * (mean > 0 ? reuse / mean - 1 : 0));
            *action = DIT_REUSE;
            *error += reuse;
            if (k % 2 != DIT_MLP || kept * tokens < 8) continue;
            const int size = kept > 0.354 ? 2 : kept > 0.177 ? 1 : 0; /* nearest on a log scale */
            const double pruned = fvi_sens_prune_cosine(p->sens, k / 2, e, size, age);
            if (!(pruned < reuse)) continue;
            *action = DIT_PRUNE;
            a->pruned[(size_t)e * (size_t)p->K + (size_t)k] = (uint8_t)size;
            *error += pruned - reuse;
        }
}

/* The largest mean rate that the budget pays for. */
static fv_status fit_rate(planner *p, double budget, fv_accel *a, double *error)
{
    const double mean = mean_cosine(p, a);
    double low = 0, high = 1, seconds;
    for (int i = 0; p->can_prune && !p->no_room && i < 24; i++) {
        const double middle = 0.5 * (low + high);
        prune_by_rate(p, middle, mean, a, error);
        FV_TRY(fvi_accel_seconds(p->ctx, p->d, p->o, p->timing, a, &seconds));
        if (seconds <= budget) low = middle;
        else high = middle;
    }
    prune_by_rate(p, low, mean, a, error);
    return FV_OK;
}

/* What is done with the time that k anchors leave. */
static fv_status spend_rest(planner *p, double budget, double seconds, fv_accel *a, double *error)
{
    if (p->a->mode == FV_ACCEL_SODA_PAPER && p->sens) return fit_rate(p, budget, a, error);
    *error = fvi_plan_error(p->sens, a, p->must);
    if (p->a->mode == FV_ACCEL_SODA && !p->a->no_single_modules)
        return spend(p, budget - seconds, a, error);
    return FV_OK;
}

static fv_status plan_timed(planner *p, double budget, fv_accel *out)
{
    int most;
    double best = INFINITY;
    fv_accel *trial;
    FV_TRY(most_anchors(p, budget, &most));
    if (p->a->mode == FV_ACCEL_DCS) return plan_dp(p, most, out);
    FV_TRY(fvi_accel_create(p->ctx, &trial, p->T, p->K / 2));
    fv_status s = FV_OK;
    for (int k = most; k >= 1 && k >= most - FEWER_ANCHORS && s == FV_OK; k--) {
        double error = INFINITY;
        if (plan_dp(p, k, trial) != FV_OK) break;
        const double seconds = anchors_seconds(p, p->at, k);
        if (seconds > budget) continue;
        s = spend_rest(p, budget, seconds, trial, &error);
        if (s != FV_OK || !(error < best)) continue;
        best = error;
        fvi_accel_copy(out, trial);
    }
    fv_accel_free(&trial);
    return s;
}

/* ---- Plans ---------------------------------------------------------------------------------- */

static double skipped_flop(const planner *p, const fv_accel *a)
{
    const dit_config *c = &p->d->net.cfg;
    const double final = 2.0 * dit_tokens(c) * c->width * c->out_channels * c->patch * c->patch;
    return a->skip == DIT_SKIP_OUTPUT ? 0 : final;
}

static double flop_ratio(const planner *p, const fv_accel *a)
{
    const dit_config *c = &p->d->net.cfg;
    const double N = dit_tokens(c), D = c->width, H = c->hidden;
    const double module[2] = { 2 * (4 * N * D * D + 2 * N * N * D),
                               2 * N * D * H * (c->family == DIT_F ? 3 : 2) };
    double exact = 0, plan = 0;
    for (int e = 0; e < p->T; e++) {
        const double rows = guided(p, e) ? 2 : 1;
        exact += rows * p->d->row_flop;
        plan += rows * (a->skipped[e] ? skipped_flop(p, a) : p->d->row_flop);
        for (int k = 0; !a->skipped[e] && k < p->K; k++) {
            const size_t i = (size_t)e * (size_t)p->K + (size_t)k;
            const double kept = a->action[i] == DIT_FULL    ? 1
                                : a->action[i] == DIT_PRUNE ? dit_pruned_tokens(c, a->pruned[i]) / N
                                                            : 0;
            plan -= rows * module[k % 2] * (1 - kept);
        }
    }
    return exact / plan;
}

static fv_status plan_actions(planner *p, double budget, fv_accel *out)
{
    const fv_accel_options *a = p->a;
    fv_status s;
    if (a->mode == FV_ACCEL_FIXED) s = plan_fixed(p, a->interval, a->anchors, budget, out);
    else if (a->mode == FV_ACCEL_DPX) s = plan_dpx(p, budget, out);
    else s = a->anchors > 0 ? plan_dp(p, a->anchors, out) : plan_timed(p, budget, out);
    if (s == FV_OK) fvi_accel_count(out);
    return s;
}

/* The plan that would be made without a bound, if it is within; else what the bound leaves: dpx
 * looks back on less, the others give up pruning. */
static fv_status plan_within(planner *p, double budget, bool is_exact, fv_accel *out)
{
    const uint64_t most = p->a->max_cache_bytes;
    const bool is_dpx = p->a->mode == FV_ACCEL_DPX && !is_exact;
    if (is_exact) fvi_accel_count(out);
    else FV_TRY(plan_actions(p, budget, out));
    if (!most) return FV_OK;
    p->free_bytes = plan_bytes(p, out);
    if (p->free_bytes > most && (is_dpx || out->prunes)) {
        p->most_bytes = most;
        p->no_room = true;
        FV_TRY(plan_actions(p, budget, out));
    }
    if (plan_bytes(p, out) > most) return too_small(p, plan_bytes(p, out));
    if (is_dpx) { /* polishing must not look back on more */
        out->terms = out->history;
        out->step_terms = out->step_history;
    }
    return FV_OK;
}

static fv_status make_plan(planner *p, fv_accel *out)
{
    const fv_accel_options *a = p->a;
    const double correction = p->timing ? p->timing->correction : 1;
    const double budget = a->speedup > 0 ? correction * p->exact / a->speedup : INFINITY;
    static const char *const name[] = { "dpx", "soda", "soda-paper", "dcs", "fixed", "exact" };
    const bool has_count = a->anchors > 0 || a->interval > 0;
    const bool is_exact = a->mode == FV_ACCEL_EXACT || (a->speedup == 1 && !has_count);
    const char *errors = is_exact || a->mode == FV_ACCEL_FIXED ? ""
                         : p->prior                             ? " (prior)"
                         : p->sens                              ? ""
                                                                : " (uniform)";
    snprintf(out->mode, sizeof out->mode, "%s%s", is_exact ? "exact" : name[a->mode], errors);
    FV_TRY(plan_within(p, budget, is_exact, out));
    out->flop_ratio = flop_ratio(p, out);
    out->predicted_speedup = out->flop_ratio;
    if (!p->timing) return FV_OK;
    double seconds = 0;
    FV_TRY(fvi_accel_seconds(p->ctx, p->d, p->o, p->timing, out, &seconds));
    out->predicted_speedup = out->anchors == out->evals
                                 ? 1.0
                                 : correction * p->exact / (seconds > 0 ? seconds : MIN_SECONDS);
    return FV_OK;
}

static fv_status take(fv_ctx *ctx, const fv_dit *d, const fv_generate_options *from_o,
                      const fv_accel_options *from_a, fv_generate_options *o, fv_accel_options *a)
{
    *o = (fv_generate_options)FV_GENERATE_OPTIONS_INIT;
    *a = (fv_accel_options)FV_ACCEL_OPTIONS_INIT;
    if (!d || !from_o || !from_a)
        return fv_fail(ctx, FV_ERR_ARG, "plan: model or options missing");
    FV_TRY(FV_TAKE_OPTIONS(ctx, o, from_o, "plan"));
    return FV_TAKE_OPTIONS(ctx, a, from_a, "plan");
}

fv_status fv_accel_plan(fv_ctx *ctx, fv_accel **out, const fv_dit *d,
                        const fv_generate_options *opts, const fv_sens *sens, fv_timing *timing,
                        const fv_accel_options *accel)
{
    fv_generate_options o;
    fv_accel_options a;
    planner p = { .ctx = ctx, .d = d, .o = &o, .sens = sens, .timing = timing, .a = &a };
    fv_accel *plan = NULL;
    *out = NULL;
    FV_TRY(take(ctx, d, opts, accel, &o, &a));
    fv_status s = open_planner(&p);
    if (s == FV_OK) s = fvi_accel_create(ctx, &plan, p.T, p.K / 2);
    if (s == FV_OK) {
        memcpy(plan->model_hash, d->hash, sizeof plan->model_hash);
        plan->sampler = p.schedule.kind;
        plan->steps = p.schedule.steps;
        plan->cfg = p.schedule.cfg;
        s = make_plan(&p, plan);
    }
    close_planner(&p);
    if (s == FV_OK)
        *out = plan;
    else
        fv_accel_free(&plan);
    return s;
}

fv_status fvi_accel_error(fv_ctx *ctx, const fv_dit *d, const fv_generate_options *o,
                          const fv_sens *sens, const fv_accel *plan, double *error)
{
    const bool is_dpx = strncmp(plan->mode, "dpx", 3) == 0;
    const fv_accel_options a = { .struct_size = sizeof a,
                                 .mode = is_dpx ? FV_ACCEL_DPX : FV_ACCEL_SODA,
                                 .anchors = 1 };
    planner p = { .ctx = ctx, .d = d, .o = o, .sens = sens, .a = &a };
    const fv_status s = open_planner(&p);
    if (s == FV_OK) *error = fvi_plan_error(p.sens, plan, p.must);
    close_planner(&p);
    return s;
}

/* ---- Correcting the prediction by running --------------------------------------------------- */

typedef struct trial_runs {
    fv_ctx *ctx;
    const fv_dit *d;
    const fv_generate_options *o;
    fv_image *image; /* [count] */
    float *state;    /* for latent models without a decoder */
} trial_runs;

static fv_status run_once(const trial_runs *r, const fv_accel *plan, double *seconds)
{
    fv_generate_options o = *r->o;
    fv_generate_stats st;
    o.accel = plan;
    if (r->state)
        FV_TRY(fv_generate_state(r->ctx, r->d, &o, NULL, r->state, &st));
    else
        FV_TRY(fv_generate(r->ctx, r->d, &o, r->image, &st));
    for (int i = 0; !r->state && i < o.count; i++) fv_image_free(r->ctx, &r->image[i]);
    *seconds = st.seconds;
    return FV_OK;
}

/* Exact and plan in turn, so that a slow phase of the machine hits both; the fastest of each, since
 * other work only adds. One pair of long runs is enough where it agrees with the prediction; where
 * it does not, more likely something disturbed it. */
static fv_status run_pairs(void *user, const fv_accel *plan, double *ratio)
{
    const trial_runs *r = user;
    const double start = fv_now();
    double exact = INFINITY, fast = INFINITY, t;
    for (int n = 0; n < PAIRS; n++) {
        FV_TRY(run_once(r, NULL, &t));
        exact = t < exact ? t : exact;
        FV_TRY(run_once(r, plan, &t));
        fast = t < fast ? t : fast;
        *ratio = fast > 0 ? exact / fast : 1;
        const bool is_doubtful = fabs(*ratio / plan->predicted_speedup - 1) > DOUBT;
        if (fv_now() - start >= PAIRS_SECONDS && !is_doubtful) break;
    }
    return FV_OK;
}

static bool same_actions(const fv_accel *a, const fv_accel *b)
{
    const size_t n = a && b ? (size_t)a->evals * 2 * (size_t)a->depth : 0;
    return a && b && memcmp(a->action, b->action, n) == 0 && memcmp(a->pruned, b->pruned, n) == 0 &&
           memcmp(a->skipped, b->skipped, (size_t)a->evals) == 0 && a->skip == b->skip;
}

fv_status fvi_accel_solve(fv_ctx *ctx, fv_accel **out, const fv_dit *d,
                          const fv_generate_options *o, const fv_sens *sens, fv_timing *timing,
                          const fv_accel_options *a, fvi_measure_fn run, void *user,
                          double *measured)
{
    const double R = a->speedup;
    const bool is_target = R > 1 && !a->anchors && !a->interval && a->mode != FV_ACCEL_EXACT;
    fv_accel *best = NULL, *plan = NULL;
    double ratio = 1;
    *out = NULL;
    *measured = 0;
    for (int round = 0; round < ROUNDS; round++) {
        fv_status s = fv_accel_plan(ctx, &plan, d, o, sens, timing, a);
        if (s != FV_OK && best && s == FV_ERR_ARG)
            break; /* corrected, the target is out of reach: the closest stays */
        if (s == FV_OK && same_actions(plan, best)) break;
        if (s == FV_OK) s = run(user, plan, &ratio);
        if (s == FV_OK && !(ratio > 0 && ratio < INFINITY))
            s = fv_fail(ctx, FV_ERR_INTERNAL, "plan: the clock stands still");
        if (s != FV_OK) {
            fv_accel_free(&plan);
            fv_accel_free(&best);
            return s;
        }
        /* Predictions are proportional to the correction: scale it by what was measured. */
        const double old = timing ? timing->correction : 1;
        double fresh = old * ratio / plan->predicted_speedup;
        fresh = fresh < 0.01 ? 0.01 : fresh > 100 ? 100 : fresh;
        if (timing && is_target) timing->correction = fresh;
        plan->predicted_speedup = is_target ? ratio : plan->predicted_speedup;
        if (!best || fabs(ratio / R - 1) < fabs(*measured / R - 1)) {
            fv_accel_free(&best);
            best = plan;
            plan = NULL;
            *measured = ratio;
        }
        fv_accel_free(&plan);
        if (!is_target || fabs(*measured / R - 1) <= TOLERANCE) break;
    }
    fv_accel_free(&plan);
    *out = best;
    return FV_OK;
}

fv_status fv_accel_solve(fv_ctx *ctx, fv_accel **out, const fv_dit *d,
                         const fv_generate_options *opts, const fv_sens *sens, fv_timing *timing,
                         const fv_accel_options *accel, double *measured)
{
    fv_generate_options o;
    fv_accel_options a;
    trial_runs r = { .ctx = ctx, .d = d, .o = &o };
    fv_dit_info info;
    double ignored;
    *out = NULL;
    FV_TRY(take(ctx, d, opts, accel, &o, &a));
    FV_TRY(dit_check_count(ctx, &o));
    fv_dit_get_info(d, &info);
    r.image = fv_calloc(ctx, (size_t)o.count, sizeof *r.image);
    if (!r.image) return FV_ERR_OOM;
    if (info.is_latent && !d->vae) {
        const size_t n = (size_t)info.input_size * (size_t)info.input_size * (size_t)info.channels;
        r.state = fv_calloc(ctx, (size_t)o.count * n, sizeof(float));
        if (!r.state) {
            fv_free(ctx, r.image);
            return FV_ERR_OOM;
        }
    }
    const fv_status s = fvi_accel_solve(ctx, out, d, &o, sens, timing, &a, run_pairs, &r,
                                        measured ? measured : &ignored);
    fv_free(ctx, r.image);
    fv_free(ctx, r.state);
    return s;
}
