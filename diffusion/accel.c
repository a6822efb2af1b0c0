/* accel.c - plans: which module is computed at which evaluation [SODA, "DCS"], and --speedup as a
 * contract on wall-clock time.
 *
 * soda        anchors (full evaluations) from anchor_dp.c on the measured errors of sens.c. The
 *             target time decides how many: the largest number N whose predicted time fits. What is
 *             left of the time is spent on single modules, refreshed between anchors in order of
 *             error saved per second; a refreshed output is younger for the evaluations that
 *             follow, and that counts as saved too. A few N below the largest are tried as well
 *             (more time for single modules), and the plan of least predicted error wins. So the
 *             ratio is met to within the time of one module, where whole steps would leave gaps
 *             of several per cent.
 * soda-paper  as published: unweighted cosine error, gaps of 2, 3 or 4, the last step in full,
 *             whole steps only.
 * fixed       a constant interval (FORA).
 * exact       everything in full.
 *
 * Without a table the error of age n is taken as n^2 in every module: outputs move nearly linearly
 * over a few steps, so squared differences grow with the square, and anchors come out evenly
 * spaced.
 *
 * Plans are a pure function of table, times and options. */
#include "soda.h"

#include <math.h>
#include <string.h>

#define MAX_GAP 10 /* longest reuse between anchors */
#define PAPER_GAPS (1u << 2 | 1u << 3 | 1u << 4)
#define FEWER_ANCHORS 8
#define TOLERANCE 0.03
#define ROUNDS 4
#define PAIRS 3
#define PAIRS_SECONDS 1.5
#define MIN_SECONDS 1e-12 /* a scripted timing may say 0 */

typedef struct planner {
    fv_ctx *ctx;
    const fv_dit *d;
    const fv_generate_options *o;
    const fv_sens *sens;
    const fv_timing *timing;
    const fv_accel_options *a;
    dit_schedule schedule;
    int T, K, G;   /* evaluations, modules, largest gap */
    uint8_t *must; /* [T] the number of rows changes here */
    double *error; /* [K][T][G]: module k at e reuses age n; INFINITY = not possible */
    double *cost;  /* [T][G]: all modules */
    int *at;       /* [T] anchors */
    fvi_dp dp;
    fvi_dp_table table;
    double exact, batches; /* predicted seconds of the exact run; batches of a call */
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

static double *error_at(const planner *p, int k, int e)
{
    return p->error + ((size_t)k * (size_t)p->T + (size_t)e) * (size_t)p->G;
}

static void fill_errors(planner *p)
{
    for (int e = 0; e < p->T; e++) {
        double *cost = p->cost + (size_t)e * (size_t)p->G;
        const int most = oldest(p, e);
        for (int n = 1; n < p->G; n++) {
            cost[n] = 0;
            for (int k = 0; k < p->K; k++) {
                const double v = n <= most ? error_of(p, k, e, n) : INFINITY;
                error_at(p, k, e)[n] = v;
                cost[n] += v;
            }
        }
    }
}

/* Predicted error of a plan; INFINITY where it reuses what the model of errors does not know. */
static double plan_error(const planner *p, const uint8_t *action)
{
    double sum = 0;
    for (int k = 0; k < p->K; k++)
        for (int e = 0, age = 0; e < p->T; e++) {
            const bool is_reused = action[(size_t)e * (size_t)p->K + (size_t)k] == DIT_REUSE;
            age = is_reused ? age + 1 : 0;
            if (is_reused) sum += age < p->G ? error_at(p, k, e)[age] : INFINITY;
        }
    return sum;
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
    const bool is_paper = p->a->mode == FV_ACCEL_SODA_PAPER;
    p->G = is_paper ? 4 : MAX_GAP;
    if (p->sens && p->sens->window + 1 < p->G) p->G = p->sens->window + 1;
    p->must = fv_calloc(p->ctx, (size_t)p->T, 1);
    p->error = fv_calloc(p->ctx, (size_t)p->K * (size_t)p->T, (size_t)p->G * sizeof(double));
    p->cost = fv_calloc(p->ctx, (size_t)p->T, (size_t)p->G * sizeof(double));
    p->at = fv_calloc(p->ctx, (size_t)p->T, sizeof(int));
    if (!p->must || !p->error || !p->cost || !p->at) return FV_ERR_OOM;
    for (int e = 1; e < p->T; e++)
        p->must[e] =
            dit_schedule_guided(&p->schedule, e) != dit_schedule_guided(&p->schedule, e - 1);
    fill_errors(p);
    p->dp = (fvi_dp){ p->T, p->G, is_paper ? PAPER_GAPS : ~1u, is_paper, p->cost };
    if (!p->timing) return FV_OK;
    p->batches = (p->o->count + p->timing->batch - 1) / p->timing->batch;
    return fvi_accel_seconds(p->ctx, p->d, p->o, p->timing, NULL, &p->exact);
}

static void close_planner(planner *p)
{
    void *mem[] = { p->must, p->error, p->cost, p->at };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(p->ctx, mem[i]);
    fvi_dp_free(p->ctx, &p->table);
    dit_schedule_destroy(p->ctx, &p->schedule);
}

/* ---- Plans from anchors --------------------------------------------------------------------- */

static void put_anchors(const planner *p, const int *at, int k, uint8_t *action)
{
    memset(action, DIT_REUSE, (size_t)p->T * (size_t)p->K);
    for (int i = 0; i < k; i++)
        memset(action + (size_t)at[i] * (size_t)p->K, DIT_FULL, (size_t)p->K);
}

/* Seconds that computing module k at e costs more than reusing it. */
static double upgrade_seconds(const planner *p, int k, int e)
{
    const fv_timing *t = p->timing;
    const int g = dit_schedule_guided(&p->schedule, e) != 0;
    const double more = (k % 2 == DIT_ATTN ? t->attn[g] : t->mlp[g]) - t->reuse[g];
    return (more > MIN_SECONDS ? more : MIN_SECONDS) * p->batches;
}

/* As fvi_accel_seconds, from the exact time down. */
static double anchors_seconds(const planner *p, const int *at, int k)
{
    double s = p->exact;
    for (int e = 0, i = 0; e < p->T; e++) {
        if (i < k && at[i] == e) {
            i++;
            continue;
        }
        for (int m = 0; m < 2; m++) s -= upgrade_seconds(p, m, e) * (p->K / 2);
    }
    return s;
}

static fv_status solve_table(planner *p)
{
    if (p->table.value) return FV_OK;
    return fvi_dp_solve(p->ctx, &p->dp, p->T, &p->table);
}

static fv_status plan_dp(planner *p, int k, uint8_t *action)
{
    FV_TRY(solve_table(p));
    FV_TRY(fvi_dp_path(p->ctx, &p->table, k, p->at));
    put_anchors(p, p->at, k, action);
    return FV_OK;
}

/* The smallest interval with at most `anchors` full steps, or fast enough for `budget` seconds. */
static fv_status plan_fixed(planner *p, int interval, int anchors, double budget, uint8_t *action)
{
    double least = INFINITY;
    int k = 0;
    for (int n = interval ? interval : 1; n <= p->T || interval; n++) {
        k = fvi_dp_fixed(p->T, n, p->must, p->at);
        const double t = p->timing ? anchors_seconds(p, p->at, k) : 0;
        if (t < least) least = t;
        if (interval || (anchors && k <= anchors) || (!anchors && t <= budget)) {
            put_anchors(p, p->at, k, action);
            return FV_OK;
        }
    }
    if (anchors)
        return fv_fail(p->ctx, FV_ERR_ARG,
                       "plan: a fixed interval needs at least %d full steps here", k);
    return fv_fail(p->ctx, FV_ERR_ARG,
                   "speed-up %.3g is beyond the maximum of %.2f for this model, batch and decoder: "
                   "ask for less",
                   p->a->speedup, p->timing->correction * p->exact / least);
}

/* ---- Spending left-over time on single modules ---------------------------------------------- */

typedef struct upgrade {
    int e;
    double saved, rate;
} upgrade;

/* Error saved by computing module k at e, where it is `age` old now: at e itself and, because what
 * follows reuses a younger output, until its next refresh. */
static double saving(const planner *p, const uint8_t *action, int k, int e, int age)
{
    double saved = error_at(p, k, e)[age];
    for (int n = 1; e + n < p->T && action[(size_t)(e + n) * (size_t)p->K + (size_t)k] == DIT_REUSE;
         n++)
        saved += error_at(p, k, e + n)[age + n] - error_at(p, k, e + n)[n];
    return saved;
}

/* Best single refresh of module k that costs at most `budget`; e -1 if none. Ties: the earliest. */
static upgrade best_upgrade(const planner *p, const uint8_t *action, int k, double budget)
{
    upgrade best = { -1, 0, 0 };
    for (int e = 0, age = 0; e < p->T; e++) {
        if (action[(size_t)e * (size_t)p->K + (size_t)k] != DIT_REUSE) {
            age = 0;
            continue;
        }
        age++;
        const double seconds = upgrade_seconds(p, k, e);
        if (seconds > budget) continue;
        const double saved = saving(p, action, k, e, age), rate = saved / seconds;
        if (saved > 0 && rate > best.rate) best = (upgrade){ e, saved, rate };
    }
    return best;
}

/* Greedy; the best candidate of each module is kept and renewed only when that module changed or
 * the budget no longer pays for it. */
static fv_status spend(const planner *p, double budget, uint8_t *action)
{
    upgrade *best = fv_calloc(p->ctx, (size_t)p->K, sizeof *best);
    if (!best) return FV_ERR_OOM;
    for (int k = 0; k < p->K; k++) best[k] = best_upgrade(p, action, k, budget);
    for (;;) {
        int top = -1;
        for (int k = 0; k < p->K; k++) {
            if (best[k].e >= 0 && upgrade_seconds(p, k, best[k].e) > budget)
                best[k] = best_upgrade(p, action, k, budget);
            if (best[k].e >= 0 && (top < 0 || best[k].rate > best[top].rate)) top = k;
        }
        if (top < 0) break;
        budget -= upgrade_seconds(p, top, best[top].e);
        action[(size_t)best[top].e * (size_t)p->K + (size_t)top] = DIT_FULL;
        best[top] = best_upgrade(p, action, top, budget);
    }
    fv_free(p->ctx, best);
    return FV_OK;
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
    return fv_fail(p->ctx, FV_ERR_ARG,
                   "speed-up %.3g is beyond the maximum of %.2f for this model, batch and decoder: "
                   "ask for less",
                   p->a->speedup, p->timing->correction * p->exact / fastest);
}

static fv_status plan_timed(planner *p, double budget, uint8_t *action)
{
    const size_t n = (size_t)p->T * (size_t)p->K;
    int most;
    double best = INFINITY;
    fv_status s = FV_OK;
    FV_TRY(most_anchors(p, budget, &most));
    if (p->a->mode == FV_ACCEL_SODA_PAPER) return plan_dp(p, most, action);
    uint8_t *trial = fv_calloc(p->ctx, n, 1);
    if (!trial) return FV_ERR_OOM;
    for (int k = most; k >= 1 && k >= most - FEWER_ANCHORS && s == FV_OK; k--) {
        if (plan_dp(p, k, trial) != FV_OK) break;
        const double seconds = anchors_seconds(p, p->at, k);
        if (seconds > budget) continue;
        s = spend(p, budget - seconds, trial);
        const double error = plan_error(p, trial);
        if (s != FV_OK || !(error < best)) continue;
        best = error;
        memcpy(action, trial, n);
    }
    fv_free(p->ctx, trial);
    return s;
}

/* ---- Plans ---------------------------------------------------------------------------------- */

static double flop_ratio(const planner *p, const uint8_t *action)
{
    const dit_config *c = &p->d->net.cfg;
    const double N = dit_tokens(c), D = c->width, H = c->hidden;
    const double module[2] = { 2 * (4 * N * D * D + 2 * N * N * D),
                               2 * N * D * H * (c->family == DIT_F ? 3 : 2) };
    double exact = 0, plan = 0;
    for (int e = 0; e < p->T; e++) {
        const double rows = dit_schedule_guided(&p->schedule, e) ? 2 : 1;
        exact += rows * p->d->row_flop;
        plan += rows * p->d->row_flop;
        for (int k = 0; k < p->K; k++)
            if (action[(size_t)e * (size_t)p->K + (size_t)k] == DIT_REUSE)
                plan -= rows * module[k % 2];
    }
    return exact / plan;
}

static fv_status make_plan(planner *p, fv_accel *out)
{
    const fv_accel_options *a = p->a;
    const double correction = p->timing ? p->timing->correction : 1;
    const double budget = a->speedup > 0 ? correction * p->exact / a->speedup : INFINITY;
    static const char *const name[] = { "soda", "soda-paper", "fixed", "exact" };
    const bool has_count = a->anchors > 0 || a->interval > 0;
    const bool is_exact = a->mode == FV_ACCEL_EXACT || (a->speedup == 1 && !has_count);
    snprintf(out->mode, sizeof out->mode, "%s%s", is_exact ? "exact" : name[a->mode],
             !is_exact && a->mode != FV_ACCEL_FIXED && !p->sens ? " (uniform)" : "");
    if (!is_exact) {
        if (a->mode == FV_ACCEL_FIXED)
            FV_TRY(plan_fixed(p, a->interval, a->anchors, budget, out->action));
        else if (a->anchors > 0)
            FV_TRY(plan_dp(p, a->anchors, out->action));
        else
            FV_TRY(plan_timed(p, budget, out->action));
    }
    fvi_accel_count(out);
    out->flop_ratio = flop_ratio(p, out->action);
    out->predicted_speedup = out->flop_ratio;
    if (!p->timing) return FV_OK;
    double seconds = 0;
    FV_TRY(fvi_accel_seconds(p->ctx, p->d, p->o, p->timing, out->action, &seconds));
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
                          const fv_sens *sens, const uint8_t *action, double *error)
{
    const fv_accel_options a = { .struct_size = sizeof a, .mode = FV_ACCEL_SODA, .anchors = 1 };
    planner p = { .ctx = ctx, .d = d, .o = o, .sens = sens, .a = &a };
    const fv_status s = open_planner(&p);
    if (s == FV_OK) *error = plan_error(&p, action);
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

/* Exact and plan in turn, so that a slow phase of the machine hits both; median of the ratios. Runs
 * longer than a second vary little: one pair is enough for them. */
static fv_status run_pairs(void *user, const fv_accel *plan, double *ratio)
{
    const trial_runs *r = user;
    const double start = fv_now();
    double v[PAIRS], exact, fast;
    int n = 0;
    while (n < PAIRS && (n == 0 || fv_now() - start < PAIRS_SECONDS)) {
        FV_TRY(run_once(r, NULL, &exact));
        FV_TRY(run_once(r, plan, &fast));
        v[n++] = fast > 0 ? exact / fast : 1;
    }
    *ratio = fvi_median(v, n);
    return FV_OK;
}

static bool same_actions(const fv_accel *a, const fv_accel *b)
{
    return a && b && memcmp(a->action, b->action, (size_t)a->evals * 2 * (size_t)a->depth) == 0;
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
