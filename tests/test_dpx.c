/* test_dpx.c - the planner of diffusion/accel_dpx.c and its forecasts, against enumeration. */
#include "dpx.h"
#include "test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define T 8
#define DEPTH 2
#define K (2 * DEPTH)
#define WINDOW 7
#define DIM 6
#define SCHEDULES 2187 /* 3^(T-1) */

static fv_ctx *ctx;

/* ---- Tables whose Gram values are those of vectors -------------------------------------------- */

static double vectors[K + FVI_SENS_STEP_KINDS][T][DIM];

static double dot(int k, int a, int b)
{
    double sum = 0;
    for (int i = 0; i < DIM; i++) sum += vectors[k][a][i] * vectors[k][b][i];
    return sum / DIM;
}

/* Smooth paths with some noise: forecasts of all lengths get their turn. */
static fv_sens *random_table(uint64_t seed)
{
    fv_sens *s;
    if (fvi_sens_create(ctx, &s, T, DEPTH, WINDOW) != FV_OK || fvi_sens_add_steps(s) != FV_OK ||
        fvi_sens_add_weights(s) != FV_OK)
        exit(1);
    s->measured = true;
    for (int k = 0; k < K + FVI_SENS_STEP_KINDS; k++)
        for (int i = 0; i < DIM; i++) {
            float r[4 + T];
            fv_rand_normal(seed, (uint32_t)k, (uint32_t)i, 0, 4 + T, r);
            for (int e = 0; e < T; e++) {
                const double x = (double)e / T;
                vectors[k][e][i] = (double)r[0] + (double)r[1] * x + (double)r[2] * x * x +
                                   0.3 * (double)r[3] * sin(6 * x) + 0.02 * (double)r[4 + e];
            }
        }
    for (int e = 0; e < T; e++) {
        float w[3];
        fv_rand_uniform(seed, 99, (uint32_t)e, 0, 3, w);
        s->omega[e] = 0.1f + w[0];
        for (int k = 0; k < K; k++) s->gate[(size_t)k * T + (size_t)e] = 0.5f + w[1];
        for (int i = 0; i < FVI_SENS_STEP_WEIGHTS; i++)
            s->step_omega[(size_t)i * T + (size_t)e] = 2 + 4 * w[2];
        for (int n = 0; n <= WINDOW && n <= e; n++) {
            for (int k = 0; k < K; k++)
                s->gram[((size_t)k * T + (size_t)e) * (WINDOW + 1) + (size_t)n] = dot(k, e, e - n);
            for (int k = 0; k < FVI_SENS_STEP_KINDS; k++)
                s->step_gram[((size_t)k * T + (size_t)e) * (WINDOW + 1) + (size_t)n] =
                    dot(K + k, e, e - n);
        }
    }
    return s;
}

typedef struct problem {
    fvi_dpx p;
    double seconds[3][T];
    uint8_t must[T];
} problem;

static void make_problem(problem *q, uint64_t seed, const fv_sens *s, int gap, bool skips)
{
    memset(q, 0, sizeof *q);
    for (int e = 0; e < T; e++) {
        float r[3];
        fv_rand_uniform(seed, 7, (uint32_t)e, 0, 3, r);
        q->seconds[FVI_STEP_ANCHOR][e] = 1 + (double)r[0];
        q->seconds[FVI_STEP_FORECAST][e] = 0.2 + 0.1 * (double)r[1];
        q->seconds[FVI_STEP_SKIP][e] = 0.05 + 0.02 * (double)r[2];
    }
    if (seed % 3 == 0) q->must[3] = 1;
    q->p = (fvi_dpx){ T, K, gap, FVI_DPX_TERMS - (int)(seed / 2 % 3),
                      FVI_DPX_TERMS - (int)(seed / 3 % 3), s, q->must,
                      { q->seconds[0], q->seconds[1], skips ? q->seconds[2] : NULL },
                      (dit_skip)(seed % 2) };
}

/* Number `x` of all schedules that begin with an anchor; false if it breaks the rules. */
static bool schedule_of(const problem *q, int x, uint8_t *kind)
{
    int last = 0;
    kind[0] = FVI_STEP_ANCHOR;
    for (int e = 1; e < T; e++, x /= 3) {
        kind[e] = (uint8_t)(x % 3);
        if (kind[e] == FVI_STEP_ANCHOR) last = e;
        else if (q->must[e] || e - last >= q->p.max_gap) return false;
        if (kind[e] == FVI_STEP_SKIP && !q->p.seconds[FVI_STEP_SKIP]) return false;
    }
    return true;
}

/* ---- Tests ------------------------------------------------------------------------------------ */

static void schedules_are_the_best_at_every_price(void)
{
    static const double price[] = { 0, 1e-3, 0.02, 0.3, 3, 1e6 };
    for (uint64_t seed = 1; seed <= 12; seed++) {
        fv_sens *s = random_table(seed);
        problem q;
        fvi_dpx_work *w, *first;
        make_problem(&q, seed, s, 2 + (int)(seed % 6), seed % 4 != 0);
        OK(ctx, fvi_dpx_open(ctx, &first, &q.p, NULL));
        OK(ctx, fvi_dpx_open(ctx, &w, &q.p, first)); /* the same */
        for (size_t i = 0; i < FV_ARRAY_LEN(price); i++) {
            uint8_t kind[T], found[T];
            double error, seconds, best = INFINITY;
            for (int x = 0; x < SCHEDULES; x++) {
                if (!schedule_of(&q, x, kind)) continue;
                fvi_dpx_judge(&q.p, kind, &error, &seconds);
                best = fmin(best, error + price[i] * seconds);
            }
            fvi_dpx_solve(w, price[i], found, &error, &seconds);
            CHECK_MSG(fabs(error + price[i] * seconds - best) <= 1e-9 * (1 + best),
                      "seed %d price %g: %.12g, best %.12g", (int)seed, price[i],
                      error + price[i] * seconds, best);
        }
        fvi_dpx_close(ctx, &w);
        fvi_dpx_close(ctx, &first);
        fv_sens_free(&s);
    }
}

/* Is there a price at which no schedule is better? So it is for the points of the lower hull: all
 * that take longer save less per second than all that are faster lose. */
static bool is_on_hull(const problem *q, double error, double seconds)
{
    double save = 0, lose = INFINITY;
    for (int x = 0; x < SCHEDULES; x++) {
        uint8_t any[T];
        double e, s;
        if (!schedule_of(q, x, any)) continue;
        fvi_dpx_judge(&q->p, any, &e, &s);
        if (s > seconds + 1e-9) save = fmax(save, (error - e) / (s - seconds));
        else if (s < seconds - 1e-9) lose = fmin(lose, (e - error) / (seconds - s));
        else if (e < error * (1 - 1e-9)) return false;
    }
    return save <= lose * (1 + 1e-6);
}

/* Within a budget: on the lower hull of what enumeration gives, and never above the budget. */
static void budgets_are_kept_on_the_hull(void)
{
    for (uint64_t seed = 21; seed <= 26; seed++) {
        fv_sens *s = random_table(seed);
        problem q;
        fvi_dpx_work *w;
        double error, seconds, before = INFINITY, fastest = INFINITY;
        uint8_t kind[T], any[T];
        make_problem(&q, seed, s, 5, true);
        OK(ctx, fvi_dpx_open(ctx, &w, &q.p, NULL));
        for (int x = 0; x < SCHEDULES; x++) {
            if (!schedule_of(&q, x, any)) continue;
            fvi_dpx_judge(&q.p, any, &error, &seconds);
            fastest = fmin(fastest, seconds);
        }
        CHECK(fvi_dpx_within(ctx, w, fastest * 0.999, kind, &error, &seconds) == FV_ERR_ARG);
        NEAR(seconds, fastest, 1e-9);
        for (double budget = fastest * 1.0001; budget < 20; budget *= 1.2) {
            double e2, s2;
            OK(ctx, fvi_dpx_within(ctx, w, budget, kind, &error, &seconds));
            CHECK(seconds <= budget && error <= before);
            fvi_dpx_judge(&q.p, kind, &e2, &s2); /* one by one: the same bits as side by side */
            CHECK_MSG(e2 == error && s2 == seconds, "%.17g, %.17g", e2, error);
            CHECK_MSG(is_on_hull(&q, error, seconds), "seed %d, %g s: %g", (int)seed, seconds,
                      error);
            before = error;
        }
        fvi_dpx_close(ctx, &w);
        fv_sens_free(&s);
    }
}

static void anchors_are_counted(void)
{
    fv_sens *s = random_table(31);
    problem q;
    fvi_dpx_work *w;
    uint8_t kind[T];
    make_problem(&q, 31, s, 4, false);
    OK(ctx, fvi_dpx_open(ctx, &w, &q.p, NULL));
    CHECK(fvi_dpx_anchors(ctx, w, 1, kind) == FV_ERR_ARG);
    for (int n = 2; n <= T; n++) {
        int count = 0;
        OK(ctx, fvi_dpx_anchors(ctx, w, n, kind));
        for (int e = 0; e < T; e++) count += kind[e] == FVI_STEP_ANCHOR;
        CHECK(count <= n && count >= 2);
    }
    fvi_dpx_close(ctx, &w);
    fv_sens_free(&s);
}

static double gram_of(const void *user, int e, int n)
{
    return dot(*(const int *)user, e, e - n);
}

/* Against the vectors themselves; no other weights are better by more than the ridge. */
static void fitted_forecasts_have_the_least_error(void)
{
    fv_sens *s = random_table(41);
    for (int k = 0; k < K; k++)
        for (int e = 4; e < T; e++)
            for (int n = 1; n <= 3; n++) {
                const int at[3] = { e - 1, e - 2, e - 4 };
                float w[DIT_HISTORY];
                double direct = 0, rival[DIT_HISTORY] = { 0 };
                const double error = fvi_forecast_fit(gram_of, &k, e, at, n, w);
                for (int i = 0; i < DIM; i++) {
                    double x = vectors[k][e][i];
                    for (int j = 0; j < n; j++) x -= (double)w[j] * vectors[k][at[j]][i];
                    direct += x * x / DIM;
                }
                NEAR(error, direct, 1e-5 * (1 + dot(k, e, e)));
                for (int j = n; j < DIT_HISTORY; j++) CHECK(w[j] == 0.0f);
                fvi_forecast_polynomial(e, at, n, w);
                for (int i = 0; i < DIM; i++) {
                    double x = vectors[k][e][i];
                    for (int j = 0; j < n; j++) x -= (double)w[j] * vectors[k][at[j]][i];
                    rival[0] += x * x / DIM;
                }
                CHECK(error <= rival[0] + 1e-3 * dot(k, e, e));
            }
    fv_sens_free(&s);
}

static void polynomials_are_met(void)
{
    const int at[5] = { 9, 7, 4, 2, 1 };
    for (int n = 1; n <= 5; n++) {
        float w[DIT_HISTORY];
        double got = 0, want = 0;
        fvi_forecast_polynomial(12, at, n, w);
        for (int power = 0; power < n; power++) {
            got = 0;
            want = pow(12, power);
            for (int i = 0; i < n; i++) got += (double)w[i] * pow(at[i], power);
            NEAR(got, want, 1e-4 * (1 + want));
        }
    }
}

/* Full and forecast in a row: the sum of what single forecasts err. */
static void module_errors_follow_the_past(void)
{
    static const uint8_t row[T] = { DIT_FULL, DIT_LINEAR, DIT_FULL, DIT_LINEAR,
                                    DIT_LINEAR, DIT_REUSE, DIT_FULL, DIT_LINEAR };
    fv_sens *s = random_table(51);
    fv_accel *a;
    OK(ctx, fvi_accel_create(ctx, &a, T, DEPTH));
    for (int e = 0; e < T; e++) memset(a->action + (size_t)e * K, row[e], K);
    for (int k = 0; k < K; k++) {
        const int first[1] = { 0 }, second[2] = { 2, 0 }, third[3] = { 6, 2, 0 };
        const double want = fvi_forecast_error(s, k, 1, first, 1) +
                            fvi_forecast_error(s, k, 3, second, 2) +
                            fvi_forecast_error(s, k, 4, second, 2) + fvi_sens_error(s, k, 5, 3) +
                            fvi_forecast_error(s, k, 7, third, 3);
        NEAR(fvi_module_error(s, a, NULL, k, 0, T), want, 1e-12);
        NEAR(fvi_module_error(s, a, NULL, k, 2, 4), fvi_forecast_error(s, k, 3, second, 2), 1e-12);
    }
    fvi_accel_weights(a, s, NULL);
    fvi_accel_count(a);
    CHECK(a->history == 3 && a->anchors == 3);
    for (int k = 0; k < K; k++) {
        CHECK(a->weight[(3 * K + k) * DIT_HISTORY + 1] != 0.0f);
        CHECK(a->weight[(5 * K + k) * DIT_HISTORY] == 0.0f); /* REUSE has none */
    }
    fv_accel_free(&a);
    fv_sens_free(&s);
}

/* ---- Single modules --------------------------------------------------------------------------- */

static fv_timing some_times(void)
{
    return (fv_timing){ .attn = { 1.0, 2 }, .mlp = { 1.3, 2.6 }, .reuse = { 0.05, 0.1 },
                        .linear = { 0.1, 0.2 },
                        .prune = { { 0.3, 0.5, 0.8 }, { 0.6, 1.0, 1.6 } } };
}

/* Every change of every module by its effect on the whole plan, one at a time. */
static void spend_plainly(const fvi_spend *p, double budget, fv_accel *a)
{
    for (;;) {
        double rate = 0, cost = 0;
        int at = -1, action = 0, size = 0;
        for (int i = 0; i < T * K * (1 + DIT_PRUNED); i++) {
            const int k = i / (T * (1 + DIT_PRUNED)), e = i / (1 + DIT_PRUNED) % T,
                      which = i % (1 + DIT_PRUNED), j = e * K + k;
            const fvi_doing old = { a->action[j], a->pruned[j] },
                            now = { which ? DIT_PRUNE : DIT_FULL, which ? which - 1 : 0 };
            if (a->skipped[e] || old.action == DIT_FULL) continue;
            if (which && (k % 2 == DIT_ATTN || !p->can_prune)) continue;
            if (old.action == DIT_PRUNE && which && now.size <= old.size) continue;
            const double seconds = fvi_more_seconds(p, k, e, now, old);
            const double before = fvi_module_error(p->sens, a, p->must, k, 0, T);
            a->action[j] = (uint8_t)now.action;
            a->pruned[j] = (uint8_t)now.size;
            const double saved = (which ? FVI_TRUST_PRUNED : FVI_TRUST_FULL) *
                                 (before - fvi_module_error(p->sens, a, p->must, k, 0, T));
            a->action[j] = (uint8_t)old.action;
            a->pruned[j] = (uint8_t)old.size;
            if (seconds > budget || !(saved / seconds > rate)) continue;
            rate = saved / seconds, cost = seconds, at = j;
            action = now.action, size = now.size;
        }
        if (at < 0 || rate < 1e-12) return;
        budget -= cost;
        a->action[at] = (uint8_t)action;
        a->pruned[at] = (uint8_t)size;
    }
}

static void single_modules_are_the_greedy_choice(void)
{
    const dit_schedule schedule = { .evals = T, .cfg = 1 };
    const fv_timing timing = some_times();
    int changed = 0;
    for (uint64_t seed = 61; seed <= 80; seed++) {
        uint8_t must[T] = { 0 };
        fv_sens *s = random_table(seed);
        fv_accel *a[2];
        OK(ctx, fvi_sens_add_pruned(s));
        for (int i = 0; i < DEPTH * T * DIT_PRUNED * FVI_SENS_PRUNE_AGES; i++)
            s->pruned[i] = 0.7f - 0.2f * (float)(i / FVI_SENS_PRUNE_AGES % DIT_PRUNED);
        must[4] = seed % 4 == 0;
        const fvi_spend p = { ctx, s, must, &timing, &schedule, 2, seed % 5 != 0 };
        for (int i = 0; i < 2; i++) {
            double error = 0;
            OK(ctx, fvi_accel_create(ctx, &a[i], T, DEPTH));
            a[i]->past_of_anchors = seed % 3 != 0;
            a[i]->terms = (int)(seed % 4);
            for (int e = 1; e < T; e++)
                if (e % 3 && !must[e])
                    memset(a[i]->action + (size_t)e * K, seed % 3 ? DIT_LINEAR : DIT_REUSE, K);
            a[i]->skipped[2] = seed % 2;
            if (i) spend_plainly(&p, 14, a[i]);
            else OK(ctx, fvi_spend_time(&p, 14, a[i], &error));
            for (int j = 0; !i && j < T * K; j++) changed += a[i]->action[j] == DIT_PRUNE;
        }
        CHECK_MSG(memcmp(a[0]->action, a[1]->action, T * K) == 0 &&
                      memcmp(a[0]->pruned, a[1]->pruned, T * K) == 0, "seed %d", (int)seed);
        fv_accel_free(&a[0]);
        fv_accel_free(&a[1]);
        fv_sens_free(&s);
    }
    CHECK(changed > 0); /* some were pruned */
}

/* ---- Without a table -------------------------------------------------------------------------- */

static void check_prior(const char *preset, fv_sampler sampler, int steps)
{
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    dit_config c;
    dit_schedule sc;
    fv_sens *s;
    o.sampler = sampler;
    o.steps = steps;
    o.cfg = 1.5f;
    o.cfg_start = 0.2f;
    OK(ctx, dit_preset(ctx, preset, 10, &c));
    OK(ctx, dit_schedule_create(ctx, &sc, &c, &o));
    OK(ctx, fvi_sens_prior(ctx, &s, &sc, 5));
    CHECK(s->evals == sc.evals && s->depth == 5 && fv_sens_match(ctx, s, NULL, &o) != FV_OK);
    for (int e = 0; e < s->evals; e++) {
        const int at[3] = { e - 1, e - 2, e - 4 };
        CHECK(s->guided[e] == dit_schedule_guided(&sc, e) && s->omega[e] >= 1 &&
              isfinite(s->omega[e]) && fvi_sens_gram(s, 9, e, 0) == 1);
        CHECK(fvi_sens_omega_step(s, DIT_SKIP_OUTPUT, e) > 10 * (double)s->omega[e] &&
              !(fvi_sens_omega_step(s, DIT_SKIP_HIDDEN, e) >= 0));
        double before = 0;
        for (int n = 1; fvi_sens_known(s, e, n); n++) { /* further back is never better */
            CHECK(fvi_sens_distance(s, 3, e, n) >= before);
            before = fvi_sens_distance(s, 3, e, n);
        }
        if (!fvi_sens_known(s, e, 4)) continue;
        const double one = fvi_forecast_error(s, 0, e, at, 1),
                     two = fvi_forecast_error(s, 0, e, at, 2);
        CHECK_MSG(two <= one && two >= 0.05 * one && isfinite(one), "%s %d: %g, %g", preset, e,
                  one, two);
    }
    fv_sens_free(&s);
    dit_schedule_destroy(ctx, &sc);
}

static void priors_fit_any_schedule(void)
{
    check_prior("F32", FV_SAMPLER_EULER, 50);
    check_prior("F64c", FV_SAMPLER_HEUN, 9);
    check_prior("DiT-S/4", FV_SAMPLER_DDIM, 50);
    check_prior("DiT-S/4", FV_SAMPLER_DDPM, 250);
    check_prior("DiT-S/4", FV_SAMPLER_DPMPP2M, 2);
}

int main(void)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.threads = 1;
    if (fv_ctx_create(&ctx, &o) != FV_OK) return 1;
    RUN(schedules_are_the_best_at_every_price);
    RUN(budgets_are_kept_on_the_hull);
    RUN(anchors_are_counted);
    RUN(fitted_forecasts_have_the_least_error);
    RUN(polynomials_are_met);
    RUN(module_errors_follow_the_past);
    RUN(single_modules_are_the_greedy_choice);
    RUN(priors_fit_any_schedule);
    fv_ctx_destroy(&ctx);
    return test_end();
}
