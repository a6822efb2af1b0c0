/* test_soda.c - planning and running with cached modules: dynamic programme against brute force,
 * sensitivity tables against direct computation, plans, files, determinism, allocation. */
#include "../diffusion/soda.h"
#include "dit_fixture.h"
#include "random_model.h"
#include "temp_dir.h"

#include <unistd.h>

#define STEPS 20
#define CLASSES 3

static fv_ctx *ctx;
static fv_model *file;
static fv_dit *dit;
static fv_sens *table; /* of the options that base() gives */
static char model_path[128], path[128];

static fv_generate_options base(int count)
{
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    o.count = count;
    o.steps = STEPS;
    o.cfg = 1.5f; /* the default interval leaves the first steps unguided */
    o.seed = 11;
    return o;
}

static fv_status write_model(void)
{
    dit_config c;
    FV_TRY(random_config(ctx, "F32", CLASSES, 4, &c));
    return random_model(ctx, &c, 5, model_path);
}

static size_t state_values(int count)
{
    const dit_config *c = &dit->net.cfg;
    return (size_t)count * (size_t)(c->input_size * c->input_size * c->channels);
}

/* ---- Dynamic programme ---------------------------------------------------------------------- */

typedef struct search {
    const fvi_dp *p;
    int k, at[16], best_at[16];
    double best;
} search;

/* All ways to place anchors a = at[i] and later; the first optimum in order of larger gaps wins. */
static void enumerate(search *s, int i, int a)
{
    const fvi_dp *p = s->p;
    s->at[i] = a;
    if (i + 1 == s->k) {
        const int rest = p->T - a;
        const double v = rest > p->max_gap || (p->force_last && rest != 1)
                             ? INFINITY
                             : fvi_dp_cost(p, s->at, s->k);
        if (v < s->best) {
            s->best = v;
            memcpy(s->best_at, s->at, sizeof s->at);
        }
        return;
    }
    for (int g = p->max_gap; g >= 1; g--)
        if (p->gaps >> g & 1 && a + g < p->T) enumerate(s, i + 1, a + g);
}

/* Small whole numbers make many ties and exact sums; some cells are forbidden. */
static void random_costs(double *cost, int T, int G, uint64_t seed, bool forbid)
{
    for (int i = 0; i < T * G; i++) {
        const uint32_t r = test_next(&seed);
        cost[i] = forbid && r % 13 == 0 ? INFINITY : r / 16 % 4;
    }
}

static void check_problem(const fvi_dp *p)
{
    fvi_dp_table t;
    int at[16];
    OK(ctx, fvi_dp_solve(ctx, p, p->T, &t));
    for (int k = 1; k <= p->T; k++) {
        search s = { .p = p, .k = k, .best = INFINITY };
        enumerate(&s, 0, 0);
        CHECK(t.value[k * p->T] == s.best);
        if (s.best < INFINITY) {
            OK(ctx, fvi_dp_path(ctx, &t, k, at));
            CHECK(memcmp(at, s.best_at, (size_t)k * sizeof *at) == 0);
            CHECK(fvi_dp_cost(p, at, k) == s.best);
        } else {
            CHECK(fvi_dp_path(ctx, &t, k, at) == FV_ERR_ARG);
        }
        for (int a = 1; a < p->T; a++) { /* every suffix is optimal too */
            search suffix = { .p = p, .k = k, .best = INFINITY };
            enumerate(&suffix, 0, a);
            CHECK(t.value[k * p->T + a] == suffix.best);
        }
    }
    fvi_dp_free(ctx, &t);
}

static void dp_equals_brute_force(void)
{
    static const struct {
        uint32_t gaps;
        int max_gap;
    } set[] = {
        { ~1u, 10 },
        { ~1u, 3 },
        { 1u << 2 | 1u << 3 | 1u << 4, 4 },
        { 1u << 3, 3 },
        { 1u << 1 | 1u << 5, 5 },
    };
    double cost[12 * 10];
    for (int T = 1; T <= 12; T += T < 8 ? 1 : 2)
        for (size_t i = 0; i < FV_ARRAY_LEN(set); i++)
            for (int v = 0; v < 4; v++) {
                const fvi_dp p = { T, set[i].max_gap, set[i].gaps, v & 1, cost };
                random_costs(cost, T, p.max_gap, (uint64_t)(T * 100 + v), v & 2);
                check_problem(&p);
                if (test_bad) return;
            }
}

static void dp_ties_take_the_larger_gap(void)
{
    double cost[9 * 10] = { 0 };
    const fvi_dp p = { 9, 10, ~1u, false, cost };
    fvi_dp_table t;
    int at[9];
    OK(ctx, fvi_dp_solve(ctx, &p, 9, &t));
    OK(ctx, fvi_dp_path(ctx, &t, 3, at));
    CHECK(at[1] == 7 && at[2] == 8);
    fvi_dp_free(ctx, &t);
}

static void dp_names_the_feasible_numbers(void)
{
    static double cost[50 * 10];
    const fvi_dp p = { 50, 10, ~1u, false, cost },
                 paper = { 50, 4, 1u << 2 | 1u << 3 | 1u << 4, true, cost };
    fvi_dp_table t;
    int at[50], least, most;
    OK(ctx, fvi_dp_solve(ctx, &p, 50, &t));
    CHECK(fvi_dp_range(&t, &least, &most) && least == 5 && most == 50); /* ceil(T / n_max) .. T */
    CHECK(fvi_dp_path(ctx, &t, 4, at) == FV_ERR_ARG && strstr(fv_ctx_error(ctx), "5 to 50"));
    fvi_dp_free(ctx, &t);
    OK(ctx, fvi_dp_solve(ctx, &paper, 50, &t));
    CHECK(fvi_dp_range(&t, &least, &most) && least == 14 && most == 25);
    OK(ctx, fvi_dp_path(ctx, &t, 18, at));
    CHECK(at[0] == 0 && at[17] == 49);
    for (int i = 1; i < 18; i++) CHECK(at[i] - at[i - 1] >= 2 && at[i] - at[i - 1] <= 4);
    fvi_dp_free(ctx, &t);
    for (int i = 0; i < 500; i++) cost[i] = INFINITY;
    OK(ctx, fvi_dp_solve(ctx, &paper, 50, &t));
    CHECK(!fvi_dp_range(&t, &least, &most) && fvi_dp_path(ctx, &t, 18, at) == FV_ERR_ARG);
    fvi_dp_free(ctx, &t);
    CHECK(fvi_dp_solve(ctx, &p, 51, &t) == FV_ERR_ARG);
}

static void fixed_interval_restarts_at_forced_anchors(void)
{
    uint8_t must[10] = { 0 };
    int at[10];
    must[4] = 1;
    CHECK(fvi_dp_fixed(10, 3, NULL, at) == 4 && at[1] == 3 && at[3] == 9);
    CHECK(fvi_dp_fixed(10, 3, must, at) == 4 && at[1] == 3 && at[2] == 4 && at[3] == 7);
    CHECK(fvi_dp_fixed(10, 1, must, at) == 10);
    CHECK(fvi_dp_fixed(10, 99, NULL, at) == 1);
}

/* ---- Exactness of the engine ---------------------------------------------------------------- */

static void full_plan_is_the_plain_sampler(void)
{
    fv_generate_options o = base(3);
    fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
    fv_accel *plan;
    fv_generate_stats st;
    float *x = test_alloc(state_values(3) * 4), *y = test_alloc(state_values(3) * 4);
    a.mode = FV_ACCEL_EXACT;
    OK(ctx, fv_generate_state(ctx, dit, &o, NULL, x, NULL));
    OK(ctx, fv_accel_plan(ctx, &plan, dit, &o, NULL, NULL, &a));
    o.accel = plan;
    OK(ctx, fv_generate_state(ctx, dit, &o, NULL, y, &st));
    CHECK(memcmp(x, y, state_values(3) * 4) == 0 && st.reused_modules == 0);
    fv_accel_free(&plan);
    a.mode = FV_ACCEL_SODA; /* R = 1 is the exact path */
    a.speedup = 1;
    OK(ctx, fv_accel_plan(ctx, &plan, dit, &o, NULL, NULL, &a));
    fv_accel_info info;
    fv_accel_get_info(plan, &info);
    CHECK(strcmp(info.mode, "exact") == 0 && info.anchors == STEPS && info.flop_ratio == 1);
    fv_accel_free(&plan);
    free(x);
    free(y);
}

/* With and without a plan that reuses. */
static void batch_equals_singles(void)
{
    fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
    float *x = test_alloc(state_values(4) * 4), *y = test_alloc(state_values(4) * 4);
    const int classes[] = { 0, 2, 1, CLASSES };
    fv_accel *plan;
    fv_generate_options o = base(4);
    a.anchors = 9;
    OK(ctx, fv_accel_plan(ctx, &plan, dit, &o, table, NULL, &a));
    for (int with = 0; with < 2; with++) {
        o.accel = with ? plan : NULL;
        o.classes = classes;
        for (int batch = 1; batch <= 3; batch += 2) { /* 3: and a smaller last batch */
            o.batch = batch;
            OK(ctx, fv_generate_state(ctx, dit, &o, NULL, batch == 1 ? x : y, NULL));
        }
        /* Nothing with AVX-512; without, sums depend on the number of rows: 1.2e-6. */
        CHECK(test_rel_l2(y, x, (int64_t)state_values(4)) <= 1e-5);
    }
    fv_accel_free(&plan);
    free(x);
    free(y);
}

/* The bank of modulations against modulations computed for one evaluation inside dit_forward. */
static void hoisted_modulation_equals_per_step(void)
{
    const int B = 2, S = dit->net.cfg.input_size;
    const size_t n = (size_t)(B * S * S * 3);
    fv_generate_options o = base(B);
    dit_schedule sc;
    dit_runner *r;
    const dit_runner_options ro = { .B = B };
    const int32_t labels[2] = { 2, 0 };
    const float *out;
    int rows;
    fixture f = { .ctx = ctx, .net = dit->net };
    o.cfg = 1.0f;
    OK(ctx, dit_schedule_create(ctx, &sc, &dit->net.cfg, &o));
    OK(ctx, dit_runner_create(ctx, &r, &dit->net, FV_F32, &sc, &ro));
    OK(ctx, dit_runner_start(r, labels));
    OK(ctx, fixture_build(&f, B, FV_INFER, FV_F32, 0));
    test_fill(f.x, (int64_t)n, 3);
    memcpy(f.label, labels, sizeof labels);
    float *y = test_alloc(n * 4);
    OK(ctx, fv_plan_bind(f.plan, "out", y));
    for (int e = 0; e < STEPS; e += 7) {
        OK(ctx, dit_runner_eval(r, e, f.x, NULL, &out, &rows));
        f.time[0] = f.time[1] = (float)sc.net_time[e];
        OK(ctx, fv_plan_forward(f.plan));
        CHECK(rows == B && test_rel_l2(out, y, (int64_t)n) <= 1e-5);
    }
    free(y);
    dit_runner_destroy(&r);
    dit_schedule_destroy(ctx, &sc);
    memset(&f.net, 0, sizeof f.net); /* the model's */
    fixture_free(&f);
}

static void steps_do_not_allocate(void)
{
    allocation_watch w = { 0 };
    fv_ctx_options co = FV_CTX_OPTIONS_INIT;
    fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
    fv_generate_options o = base(2);
    fv_accel *plan;
    float *x = test_alloc(state_values(2) * 4);
    co.progress = watch_allocations;
    co.user = &w;
    OK(ctx, fv_ctx_create(&w.c, &co));
    a.anchors = 7;
    OK(ctx, fv_accel_plan(ctx, &plan, dit, &o, NULL, NULL, &a));
    o.accel = plan;
    OK(w.c, fv_generate_state(w.c, dit, &o, NULL, x, NULL));
    CHECK(w.calls == STEPS && w.first == w.last);
    fv_accel_free(&plan);
    fv_ctx_destroy(&w.c);
    free(x);
}

/* ---- Sensitivity tables --------------------------------------------------------------------- */

static fv_calibrate_options calibration_options(void)
{
    static fv_generate_options use;
    fv_calibrate_options o = FV_CALIBRATE_OPTIONS_INIT;
    use = base(1);
    o.gen = &use;
    o.draws = 4;
    o.weight_draws = 2;
    o.weight_every = 2;
    o.seed = 77;
    return o;
}

/* All outputs of one draw, by another route: a run of one picture that keeps everything. */
static fv_status features_of(int draw, const dit_schedule *sc, float *all, size_t slot)
{
    const dit_runner_options ro = { .B = 1, .keep_outputs = true };
    const int K = 2 * dit->net.cfg.depth;
    fv_dtype type;
    dit_walk w;
    FV_TRY(dit_walk_create(ctx, &w, &dit->net, dit->precision, sc, &ro));
    w.labels[0] = (int32_t)fv_rand_permute(77, 0, CLASSES, (uint64_t)(draw % CLASSES));
    fv_status s = dit_walk_start(&w, 77 + (uint64_t)draw, NULL);
    for (int e = 0; e < sc->evals && s == FV_OK; e++) {
        s = dit_walk_advance(&w, e, NULL);
        for (int k = 0; k < K; k++)
            memcpy(all + (size_t)(e * K + k) * slot,
                   dit_runner_feature(w.runner, k / 2, k % 2, &type),
                   dit_runner_feature_bytes(w.runner, table->guided[e] ? 2 : 1));
    }
    dit_walk_destroy(&w);
    return s;
}

/* Distance and Gram values of the table against sums over stored outputs. */
static void gram_gives_the_direct_errors(void)
{
    const dit_config *c = &dit->net.cfg;
    const int K = 2 * c->depth, draws = table->draws;
    const size_t row = (size_t)(dit_tokens(c) * c->width), slot = 2 * row;
    fv_generate_options o = base(1);
    dit_schedule sc;
    OK(ctx, dit_schedule_create(ctx, &sc, c, &o));
    float *all = test_alloc((size_t)(draws * STEPS * K) * slot * 4);
    for (int d = 0; d < draws; d++)
        OK(ctx, features_of(d, &sc, all + (size_t)(d * STEPS * K) * slot, slot));
    for (int e = 1; e < STEPS; e += 3)
        for (int n = 1; n <= 4; n++)
            for (int k = 0; k < K && fvi_sens_known(table, e, n); k++) {
                const size_t values = table->guided[e] ? slot : row;
                double square = 0, cosine = 0;
                for (int d = 0; d < draws; d++) {
                    const float *now = all + (size_t)((d * STEPS + e) * K + k) * slot;
                    const float *old = all + (size_t)((d * STEPS + e - n) * K + k) * slot;
                    double aa = 0, ab = 0, bb = 0, dd = 0;
                    for (size_t i = 0; i < values; i++) {
                        aa += (double)now[i] * now[i];
                        ab += (double)now[i] * old[i];
                        bb += (double)old[i] * old[i];
                        dd += ((double)now[i] - old[i]) * ((double)now[i] - old[i]);
                    }
                    square += dd / (double)values / draws;
                    cosine += (1 - ab / sqrt(aa * bb)) / draws;
                }
                const double self =
                    table->gram[((size_t)k * STEPS + (size_t)e) * (size_t)(table->window + 1)];
                CHECK_MSG(fabs(fvi_sens_distance(table, k, e, n) - square) <=
                              1e-5 * square + 2e-6 * self,
                          "e %d n %d module %d: %g against %g", e, n, k,
                          fvi_sens_distance(table, k, e, n), square);
                /* The mean of ratios against the ratio of means. */
                NEAR(fvi_sens_cosine(table, k, e, n), cosine, 0.05 * cosine + 1e-6);
            }
    free(all);
    dit_schedule_destroy(ctx, &sc);
}

static void ages_do_not_cross_a_change_of_rows(void)
{
    int first = 0;
    while (first < STEPS && !table->guided[first]) first++;
    CHECK(first == 2); /* t = 0, 0.05 | 0.1 */
    CHECK(fvi_sens_known(table, 1, 1) && !fvi_sens_known(table, first, 1) &&
          !fvi_sens_known(table, first + 1, 2));
    CHECK(fvi_sens_known(table, first + 1, 1) && !fvi_sens_known(table, 0, 1));
    CHECK(!fvi_sens_known(table, STEPS - 1, table->window + 1) && !fvi_sens_known(table, 3, 0));
}

/* One evaluation reuses age 1 everywhere: the table's prediction is the final error, up to the
 * spread of the draws and the median over ages. */
static void weights_predict_the_final_error(void)
{
    CHECK(table->measured);
    fv_generate_options o = base(1);
    const size_t n = state_values(1);
    float *x = test_alloc(n * 4), *y = test_alloc(n * 4);
    fv_accel *plan;
    fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
    a.mode = FV_ACCEL_EXACT;
    OK(ctx, fv_accel_plan(ctx, &plan, dit, &o, NULL, NULL, &a));
    const size_t K = 2 * (size_t)plan->depth;
    o.seed = 77;
    o.class_all = (int)fv_rand_permute(77, 0, CLASSES, 0);
    OK(ctx, fv_generate_state(ctx, dit, &o, NULL, x, NULL));
    o.accel = plan;
    for (int e = 4; e < STEPS; e += 5) {
        double predicted, actual = 0;
        memset(plan->action + (size_t)e * K, DIT_REUSE, K);
        fvi_accel_count(plan);
        OK(ctx, fv_generate_state(ctx, dit, &o, NULL, y, NULL));
        OK(ctx, fvi_accel_error(ctx, dit, &o, table, plan, &predicted));
        for (size_t i = 0; i < n; i++)
            actual += ((double)x[i] - y[i]) * ((double)x[i] - y[i]) / (double)n;
        CHECK_MSG(predicted < 8 * actual && actual < 8 * predicted, "e %d: %g against %g", e,
                  predicted, actual);
        memset(plan->action + (size_t)e * K, DIT_FULL, K);
    }
    fv_accel_free(&plan);
    free(x);
    free(y);
}

static void calibration_does_not_depend_on_threads(void)
{
    fv_ctx_options co = FV_CTX_OPTIONS_INIT;
    fv_calibrate_options o = calibration_options();
    fv_sens *s[2];
    uint8_t *bytes[2];
    size_t size[2];
    o.draws = 2;
    o.weight_draws = -1;
    for (int i = 0; i < 2; i++) {
        fv_ctx *c;
        co.threads = i + 1;
        OK(ctx, fv_ctx_create(&c, &co));
        OK(c, fv_sens_calibrate(c, &s[i], dit, &o));
        CHECK(!s[i]->measured && s[i]->omega[3] == 1);
        OK(ctx, fvi_sens_encode(ctx, s[i], &bytes[i], &size[i]));
        fv_sens_free(&s[i]);
        fv_ctx_destroy(&c);
    }
    CHECK(size[0] == size[1] && memcmp(bytes[0], bytes[1], size[0]) == 0);
    fv_free(ctx, bytes[0]);
    fv_free(ctx, bytes[1]);
}

static int stop_at(void *user, const fv_progress *p)
{
    (void)p;
    return --*(int *)user <= 0;
}

static void calibration_can_be_cancelled(void)
{
    int left;
    fv_ctx_options co = FV_CTX_OPTIONS_INIT;
    fv_calibrate_options o = calibration_options();
    co.progress = stop_at;
    co.user = &left;
    for (int at = 3; at < 300; at += 120) { /* in the Gram pass, in the weights */
        fv_memory_stats m[2]; /* the context keeps scratch memory: the second time adds nothing */
        fv_ctx *c;
        OK(ctx, fv_ctx_create(&c, &co));
        for (int i = 0; i < 2; i++) {
            fv_sens *s = table;
            left = at;
            CHECK(fv_sens_calibrate(c, &s, dit, &o) == FV_ERR_CANCELLED && s == NULL);
            fv_ctx_memory(c, &m[i]);
        }
        CHECK(m[0].current_bytes == m[1].current_bytes);
        fv_ctx_destroy(&c);
    }
}

static void tables_fit_only_their_run(void)
{
    fv_generate_options o = base(1);
    OK(ctx, fv_sens_match(ctx, table, dit, &o));
    o.cfg = 1.5f * 1.15f;
    OK(ctx, fv_sens_match(ctx, table, dit, &o));
    o.cfg = 1.5f * 1.3f;
    CHECK(fv_sens_match(ctx, table, dit, &o) == FV_ERR_MODEL &&
          strstr(fv_ctx_error(ctx), "guidance"));
    o = base(1);
    o.steps = STEPS + 1;
    CHECK(fv_sens_match(ctx, table, dit, &o) == FV_ERR_MODEL && strstr(fv_ctx_error(ctx), "steps"));
    o = base(1);
    o.sampler = FV_SAMPLER_HEUN;
    CHECK(fv_sens_match(ctx, table, dit, &o) == FV_ERR_MODEL && strstr(fv_ctx_error(ctx), "heun"));
    o = base(1);
    o.shift = 2;
    CHECK(fv_sens_match(ctx, table, dit, &o) == FV_ERR_MODEL && strstr(fv_ctx_error(ctx), "time"));
    o = base(1);
    o.cfg_start = 0.5f;
    CHECK(fv_sens_match(ctx, table, dit, &o) == FV_ERR_MODEL);
    o = base(1);
    table->hash[0] ^= 1;
    CHECK(fv_sens_match(ctx, table, dit, &o) == FV_ERR_MODEL &&
          strstr(fv_ctx_error(ctx), "another model"));
    table->hash[0] ^= 1;
}

/* ---- Plans ---------------------------------------------------------------------------------- */

/* Times as text, so that nothing here depends on a clock. */
static fv_timing *scripted(void)
{
    static const char text[] = "\"depth\":4,\"batch\":2,\"threads\":7,\"precision\":\"f32\","
                               "\"attn\":[0.001,0.002],\"mlp\":[0.0015,0.003],"
                               "\"reuse\":[0.00002,0.00003],\"ends\":[0.0005,0.0008],\"step\":0."
                               "0001,\"cond\":0.002,\"setup\":0.003,"
                               "\"decode\":0.0005,\"correction\":1,\"unknown\":[1,2]}";
    char json[1024], hash[65];
    fv_timing *t = NULL;
    fv_hex(dit->hash, 32, hash);
    snprintf(json, sizeof json, "{\"fovea_timing\":1,\"model\":\"%s\",%s", hash, text);
    if (fv_timing_parse(ctx, &t, json, strlen(json)) != FV_OK) printf("# %s\n", fv_ctx_error(ctx));
    return t;
}

/* The table's cost of SODA is at most that of every fixed interval with as many full steps. */
static void never_worse_than_a_fixed_interval(void)
{
    fv_generate_options o = base(2);
    for (int n = 1; n <= 10; n++) {
        fv_accel_options fixed = FV_ACCEL_OPTIONS_INIT, soda = FV_ACCEL_OPTIONS_INIT;
        fv_accel *f, *s;
        double ef, es;
        fixed.mode = FV_ACCEL_FIXED;
        fixed.interval = n;
        OK(ctx, fv_accel_plan(ctx, &f, dit, &o, table, NULL, &fixed));
        soda.anchors = f->anchors;
        OK(ctx, fv_accel_plan(ctx, &s, dit, &o, table, NULL, &soda));
        CHECK(s->anchors == f->anchors);
        OK(ctx, fvi_accel_error(ctx, dit, &o, table, f, &ef));
        OK(ctx, fvi_accel_error(ctx, dit, &o, table, s, &es));
        CHECK_MSG(es <= ef * (1 + 1e-12), "interval %d: %g against %g", n, es, ef);
        fv_accel_free(&f);
        fv_accel_free(&s);
    }
}

static void targets_are_met_and_monotone(void)
{
    static const double R[] = { 1.02, 1.25, 1.5, 2, 2.5, 3, 4 };
    fv_generate_options o = base(6);
    fv_timing *t = scripted();
    double exact, before = 1e9, error_before = 0;
    CHECK(t);
    OK(ctx, fvi_accel_seconds(ctx, dit, &o, t, NULL, &exact));
    for (int with = 0; with < 2; with++) {
        before = 1e9;
        error_before = 0;
        for (size_t i = 0; i < FV_ARRAY_LEN(R); i++) {
            fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
            fv_accel *p;
            double seconds, error;
            a.speedup = R[i];
            OK(ctx, fv_accel_plan(ctx, &p, dit, &o, with ? table : NULL, t, &a));
            OK(ctx, fvi_accel_seconds(ctx, dit, &o, t, p, &seconds));
            OK(ctx, fvi_accel_error(ctx, dit, &o, with ? table : NULL, p, &error));
            CHECK_MSG(seconds <= exact / R[i] * (1 + 1e-9) && exact / seconds <= R[i] * 1.03,
                      "%g: %g", R[i], exact / seconds);
            CHECK(seconds < before && error >= error_before && isfinite(error));
            NEAR(p->predicted_speedup, exact / seconds, 1e-9);
            CHECK(p->flop_ratio > 1 && p->anchors >= 2 && p->anchor[0] &&
                  p->anchor[2]); /* 2: rows change */
            CHECK(strcmp(p->mode, with ? "dpx" : "dpx (prior)") == 0);
            before = seconds;
            error_before = error;
            fv_accel_free(&p);
        }
    }
    fv_timing_free(&t);
}

static void impossible_targets_name_the_maximum(void)
{
    fv_generate_options o = base(2);
    fv_timing *t = scripted();
    for (int mode = FV_ACCEL_DPX; mode <= FV_ACCEL_FIXED; mode++) {
        fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
        fv_accel *p = NULL;
        a.mode = (fv_accel_mode)mode;
        a.speedup = 1000;
        CHECK(fv_accel_plan(ctx, &p, dit, &o, NULL, t, &a) == FV_ERR_ARG && !p);
        const char *most = strstr(fv_ctx_error(ctx), "maximum of ");
        CHECK(most);
        const double max = atof(most + strlen("maximum of "));
        a.speedup = max - 0.01;
        OK(ctx, fv_accel_plan(ctx, &p, dit, &o, NULL, t, &a));
        fv_accel_free(&p);
        a.speedup = max + 0.01;
        CHECK(fv_accel_plan(ctx, &p, dit, &o, NULL, t, &a) == FV_ERR_ARG);
    }
    fv_timing_free(&t);
}

static void wrong_requests_are_refused(void)
{
    fv_generate_options o = base(2);
    fv_timing *t = scripted();
    fv_accel *p;
    fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
    CHECK(fv_accel_plan(ctx, &p, dit, &o, NULL, t, &a) == FV_ERR_ARG); /* nothing asked for */
    a.speedup = 0.5;
    CHECK(fv_accel_plan(ctx, &p, dit, &o, NULL, t, &a) == FV_ERR_ARG);
    a.speedup = NAN;
    CHECK(fv_accel_plan(ctx, &p, dit, &o, NULL, t, &a) == FV_ERR_ARG);
    a.speedup = 2;
    CHECK(fv_accel_plan(ctx, &p, dit, &o, NULL, NULL, &a) == FV_ERR_ARG); /* no times */
    a.interval = 3;
    CHECK(fv_accel_plan(ctx, &p, dit, &o, NULL, t, &a) == FV_ERR_ARG); /* an interval for soda */
    a.interval = 0;
    a.anchors = STEPS + 1;
    CHECK(fv_accel_plan(ctx, &p, dit, &o, NULL, t, &a) == FV_ERR_ARG);
    a.anchors = 0;
    t->hash[5] ^= 4;
    CHECK(fv_accel_plan(ctx, &p, dit, &o, NULL, t, &a) == FV_ERR_MODEL);
    t->hash[5] ^= 4;
    t->attn[0] = 0;
    CHECK(fv_accel_plan(ctx, &p, dit, &o, NULL, t, &a) == FV_ERR_MODEL);
    o.steps = 30;
    CHECK(fv_accel_plan(ctx, &p, dit, &o, table, NULL, &a) != FV_OK);
    fv_timing_free(&t);
}

static void paper_mode_keeps_its_rules(void)
{
    fv_generate_options o = base(2);
    fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
    fv_accel *p;
    fv_timing *t = scripted();
    a.mode = FV_ACCEL_SODA_PAPER;
    a.speedup = 1.9;
    OK(ctx, fv_accel_plan(ctx, &p, dit, &o, table, t, &a));
    CHECK(strcmp(p->mode, "soda-paper") == 0 && p->anchor[STEPS - 1] &&
          p->predicted_speedup >= 1.9);
    for (int e = 0, last = 0; e < STEPS; e++) {
        if (!p->anchor[e]) continue;
        CHECK(e == 0 || (e - last >= 2 && e - last <= 4));
        last = e;
    }
    fv_accel_free(&p);
    fv_timing_free(&t);
}

/* A clock that answers `factor` times the prediction of the uncorrected model. */
typedef struct script {
    double factor;
    int calls;
    const fv_generate_options *o;
    double exact;
} script;

static fv_status scripted_ratio(void *user, const fv_accel *plan, double *ratio)
{
    script *s = user;
    fv_timing *t = scripted();
    double seconds = 0;
    FV_TRY(fvi_accel_seconds(ctx, dit, s->o, t, plan, &seconds));
    fv_timing_free(&t);
    s->calls++;
    /* What the model does not know grows with the share of reuse. */
    *ratio = 1 + s->factor * (s->exact / seconds - 1);
    return FV_OK;
}

static void solving_corrects_the_prediction(void)
{
    static const double factor[] = { 1.0, 0.8, 0.9, 1.3 };
    fv_generate_options o = base(2);
    for (size_t i = 0; i < FV_ARRAY_LEN(factor); i++) {
        fv_timing *t = scripted();
        script s = { factor[i], 0, &o, 0 };
        fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
        fv_accel *p;
        double measured;
        OK(ctx, fvi_accel_seconds(ctx, dit, &o, t, NULL, &s.exact));
        a.speedup = 2;
        OK(ctx, fvi_accel_solve(ctx, &p, dit, &o, table, t, &a, scripted_ratio, &s, &measured));
        CHECK_MSG(fabs(measured / 2 - 1) <= 0.03 && s.calls <= 4, "%g after %d", measured, s.calls);
        CHECK(factor[i] != 1.0 || s.calls == 1);
        NEAR(p->predicted_speedup, measured, 1e-12);
        fv_accel_free(&p);
        fv_timing_free(&t);
    }
}

/* The real clock: no statement about times, only that all parts work together. */
static void measured_times_work_end_to_end(void)
{
    fv_generate_options o = base(2);
    fv_timing *t, *again;
    fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
    fv_accel *p;
    double measured;
    char *text, *text2;
    o.steps = 6;
    OK(ctx, fv_timing_measure(ctx, &t, dit, &o));
    CHECK(t->batch == 2 && t->attn[0] > 0 && t->attn[1] > 0 && t->mlp[0] > 0 && t->ends[1] > 0 &&
          t->setup > 0);
    OK(ctx, fv_timing_text(t, ctx, &text));
    OK(ctx, fv_timing_parse(ctx, &again, text, strlen(text)));
    OK(ctx, fv_timing_text(again, ctx, &text2));
    CHECK(strcmp(text, text2) == 0);
    a.anchors = 3;
    OK(ctx, fv_accel_solve(ctx, &p, dit, &o, NULL, t, &a, &measured));
    CHECK(measured > 0 && p->anchors == 3 && p->predicted_speedup > 0);
    fv_accel_free(&p);
    fv_free(ctx, text);
    fv_free(ctx, text2);
    fv_timing_free(&t);
    fv_timing_free(&again);
    CHECK(fv_timing_parse(ctx, &t, "{}", 2) == FV_ERR_FORMAT && !t);
    CHECK(fv_timing_parse(ctx, &t, "[1]", 3) == FV_ERR_FORMAT);
}

static void plans_and_pictures_do_not_depend_on_threads(void)
{
    fv_ctx_options co = FV_CTX_OPTIONS_INIT;
    fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
    fv_accel *p[2];
    float *x[2];
    fv_timing *t = scripted();
    a.speedup = 2.2;
    for (int i = 0; i < 2; i++) {
        fv_ctx *c;
        fv_generate_options o = base(2);
        co.threads = i + 1;
        OK(ctx, fv_ctx_create(&c, &co));
        OK(ctx, fv_accel_plan(ctx, &p[i], dit, &o, table, t, &a));
        x[i] = test_alloc(state_values(2) * 4);
        o.accel = p[i];
        OK(c, fv_generate_state(c, dit, &o, NULL, x[i], NULL));
        fv_ctx_destroy(&c);
    }
    CHECK(memcmp(p[0]->action, p[1]->action, (size_t)STEPS * 8) == 0);
    CHECK(memcmp(x[0], x[1], state_values(2) * 4) == 0);
    for (int i = 0; i < 2; i++) {
        fv_accel_free(&p[i]);
        free(x[i]);
    }
    fv_timing_free(&t);
}

/* ---- Files ---------------------------------------------------------------------------------- */

static void tables_round_trip(void)
{
    uint8_t *a, *b;
    size_t na, nb;
    fv_sens *again;
    snprintf(path, sizeof path, "%s/t.fvsens", temp_dir);
    OK(ctx, fv_sens_write(ctx, table, path, 0));
    CHECK(fv_sens_write(ctx, table, path, 0) == FV_ERR_EXISTS);
    OK(ctx, fv_sens_read(ctx, &again, path));
    OK(ctx, fvi_sens_encode(ctx, table, &a, &na));
    OK(ctx, fvi_sens_encode(ctx, again, &b, &nb));
    CHECK(na == nb && memcmp(a, b, na) == 0);
    fv_generate_options o = base(1);
    OK(ctx, fv_sens_match(ctx, again, dit, &o));
    fv_sens_free(&again);
    fv_free(ctx, a);
    fv_free(ctx, b);
    unlink(path);
}

/* Every truncation and one flipped bit in every byte. */
static void damaged_tables_are_refused(void)
{
    uint8_t *a;
    size_t n;
    fv_sens *s;
    OK(ctx, fvi_sens_encode(ctx, table, &a, &n));
    for (size_t i = 0; i < n; i += i < 600 ? 1 : 97) {
        uint8_t *cut = test_alloc(i);
        memcpy(cut, a, i);
        CHECK(fv_sens_parse(ctx, &s, cut, i) != FV_OK && !s && fv_ctx_error(ctx)[0]);
        free(cut);
        a[i] ^= (uint8_t)(1u << i % 8);
        CHECK(fv_sens_parse(ctx, &s, a, n) != FV_OK && !s);
        a[i] ^= (uint8_t)(1u << i % 8);
    }
    OK(ctx, fv_sens_parse(ctx, &s, a, n));
    fv_sens_free(&s);
    fv_free(ctx, a);
}

/* A file made by hand: header text and two arrays of ones; W = 1, L = 1, T = 2. */
static size_t handmade(const char *extra, const char *arrays, int half, uint8_t *out)
{
    char header[1024], hash[65];
    fv_hex(dit->hash, 32, hash);
    const int n = snprintf(header, sizeof header,
                           "{\"version\":1,%s\"model_sha256\":\"%s\",\"arch\":\"x\",\"sampler\":"
                           "\"euler\",\"steps\":2,\"eta\":0,\"T\":2,"
                           "\"timesteps\":[0,0.5],\"guided\":[0,0],\"cfg\":1,\"cfg_channels\":3,"
                           "\"samples\":1,\"seed\":\"7\",\"L\":1,\"M\":2,"
                           "\"W\":1,\"omega\":\"uniform\",\"arrays\":[%s]}",
                           extra, hash, arrays);
    size_t at = 12 + (size_t)n;
    memset(out, 0, 2048);
    memcpy(out, "FVSENS\0\1", 8);
    out[8] = (uint8_t)n;
    out[9] = (uint8_t)(n >> 8);
    memcpy(out + 12, header, (size_t)n);
    for (int k = 0; k < 2; k++) {
        at = (at + 63) / 64 * 64;
        const int count = k == 0 ? 3 : 8;
        for (int i = 0; i < count; i++, at += half ? 2 : 4) {
            const float one = 1;
            const uint16_t h = fv_f32_to_f16(1);
            if (half)
                memcpy(out + at, &h, 2);
            else
                memcpy(out + at, &one, 4);
        }
    }
    const uint32_t crc = fv_crc32c(0, out, at);
    memcpy(out + at, &crc, 4);
    return at + 4;
}

static void unknown_keys_and_arrays_are_ignored(void)
{
    static uint8_t bytes[2048];
    const char *f32 = "{\"name\":\"later\",\"dtype\":\"f32\",\"shape\":[3]},{\"name\":\"gram\","
                      "\"dtype\":\"f32\",\"shape\":[2,2,2]}";
    const char *f16 = "{\"name\":\"later\",\"dtype\":\"f16\",\"shape\":[3]},{\"name\":\"gram\","
                      "\"dtype\":\"f16\",\"shape\":[2,2,2]}";
    fv_sens *s;
    size_t n = handmade("\"alphas\":[0,0.5],\"note\":{\"x\":null},", f32, 0, bytes);
    OK(ctx, fv_sens_parse(ctx, &s, bytes, n));
    CHECK(s->gram[7] == 1 && s->gate[3] == 1 && s->seed == 7 && fvi_sens_error(s, 0, 1, 1) == 0);
    fv_sens_free(&s);
    n = handmade("", f16, 1, bytes);
    OK(ctx, fv_sens_parse(ctx, &s, bytes, n));
    CHECK(s->gram[0] == 1);
    fv_sens_free(&s);
    n = handmade("",
                 "{\"name\":\"later\",\"dtype\":\"f32\",\"shape\":[3]},{\"name\":\"gram\","
                 "\"dtype\":\"f32\",\"shape\":[2,4,1]}",
                 0, bytes);
    CHECK(fv_sens_parse(ctx, &s, bytes, n) == FV_ERR_FORMAT); /* wrong shape */
    n = handmade("",
                 "{\"name\":\"later\",\"dtype\":\"f32\",\"shape\":[3,1099511627776,1099511627776]}",
                 0, bytes);
    CHECK(fv_sens_parse(ctx, &s, bytes, n) != FV_OK);
    n = handmade("", "{\"name\":\"later\",\"dtype\":\"f32\",\"shape\":[11]}", 0, bytes);
    CHECK(fv_sens_parse(ctx, &s, bytes, n) != FV_OK); /* no gram */
}

/* At equal work, never less faithful on its own pictures, the same again, and nothing lost. */
static void polishing_only_improves(void)
{
    fv_generate_options o = base(2);
    fv_polish_options q = FV_POLISH_OPTIONS_INIT;
    fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
    double before[2], after[2], again;
    fv_accel *p[2];
    q.draws = 2;
    q.trials = 12;
    a.anchors = STEPS / 2;
    for (int i = 0; i < 2; i++) {
        OK(ctx, fv_accel_plan(ctx, &p[i], dit, &o, table, NULL, &a));
        const int anchors = p[i]->anchors;
        OK(ctx, fv_accel_polish(ctx, p[i], dit, &o, table, &q, &before[i], &after[i]));
        CHECK(after[i] >= before[i] && p[i]->anchors == anchors);
    }
    CHECK(before[0] == before[1] && after[0] == after[1]);
    CHECK(memcmp(p[0]->action, p[1]->action, (size_t)STEPS * 8) == 0);
    q.trials = 1;
    OK(ctx, fv_accel_polish(ctx, p[0], dit, &o, table, &q, &again, NULL));
    NEAR(again, after[0], 1e-9);
    q.draws = -1;
    CHECK(fv_accel_polish(ctx, p[0], dit, &o, table, &q, NULL, NULL) == FV_ERR_ARG);
    q.draws = 2;
    o.steps = STEPS + 3;
    CHECK(fv_accel_polish(ctx, p[0], dit, &o, NULL, &q, NULL, NULL) == FV_ERR_MODEL);
    fv_accel_free(&p[0]);
    fv_accel_free(&p[1]);
}

/* The caches that a run of a plan reports; 0 if it fails. */
static uint64_t caches_of(fv_generate_options o, const fv_accel *plan)
{
    fv_generate_stats st = { 0 };
    float *x = test_alloc(state_values(o.count) * sizeof *x);
    o.accel = plan;
    const fv_status s = fv_generate_state(ctx, dit, &o, NULL, x, &st);
    free(x);
    return s == FV_OK ? st.cache_bytes : 0;
}

/* What the message about a bound of a byte names; 0 if there is none. */
static uint64_t least_caches(const fv_generate_options *o, const fv_sens *sens, fv_timing *t,
                             fv_accel_options a)
{
    fv_accel *p;
    a.max_cache_bytes = 1;
    if (fv_accel_plan(ctx, &p, dit, o, sens, t, &a) != FV_ERR_ARG) return 0;
    const char *at = strstr(fv_ctx_error(ctx), "batch: ");
    return at && strstr(at, "are the minimum") ? strtoull(at + 7, NULL, 10) : 0;
}

static bool same_text(const fv_accel *a, const fv_accel *b)
{
    char *x = NULL, *y = NULL;
    size_t n, m;
    const bool same = fvi_accel_text(ctx, a, &x, &n) == FV_OK &&
                      fvi_accel_text(ctx, b, &y, &m) == FV_OK && n == m && memcmp(x, y, n) == 0;
    fv_free(ctx, x);
    fv_free(ctx, y);
    return same;
}

/* From the least that does to what the plan without a bound takes: as fast, within the bound, and
 * the predicted error grows only as the bound shrinks (with single modules the planner goes by a
 * part of what they are predicted to save). */
static void try_bounds(const fv_generate_options *o, const fv_sens *sens, fv_timing *t,
                       fv_accel_options a)
{
    double error, before = INFINITY, best;
    fv_accel *p, *whole;
    OK(ctx, fv_accel_plan(ctx, &whole, dit, o, sens, t, &a));
    OK(ctx, fvi_accel_error(ctx, dit, o, sens, whole, &best));
    const uint64_t most = caches_of(*o, whole), least = least_caches(o, sens, t, a);
    CHECK_MSG(least && least < most, "%llu of %llu", (unsigned long long)least,
              (unsigned long long)most);
    for (int i = 0; i <= 8 && least; i++) {
        a.max_cache_bytes = least + (most - least) * (uint64_t)i / 8;
        OK(ctx, fv_accel_plan(ctx, &p, dit, o, sens, t, &a));
        OK(ctx, fvi_accel_error(ctx, dit, o, sens, p, &error));
        const uint64_t bytes = caches_of(*o, p);
        printf("# %s: %llu of at most %llu bytes: error %.3g, %d terms, %d of steps\n", p->mode,
               (unsigned long long)bytes, (unsigned long long)a.max_cache_bytes, error,
               p->keeps ? p->history : 0, p->step_history);
        CHECK(bytes && bytes <= a.max_cache_bytes && isfinite(error));
        CHECK_MSG(!a.no_single_modules || (error <= before && error >= best),
                  "%g after %g, %g at best", error, before, best);
        if (a.speedup > 0)
            CHECK_MSG(p->predicted_speedup >= a.speedup * (1 - 1e-9), "%g", p->predicted_speedup);
        CHECK(same_text(p, whole) == (i == 8));
        before = error;
        fv_accel_free(&p);
    }
    a.max_cache_bytes = least - 1;
    CHECK(fv_accel_plan(ctx, &p, dit, o, sens, t, &a) == FV_ERR_ARG && !p);
    a.max_cache_bytes = UINT64_MAX;
    OK(ctx, fv_accel_plan(ctx, &p, dit, o, sens, t, &a));
    CHECK(same_text(p, whole));
    fv_accel_free(&p);
    fv_accel_free(&whole);
}

static void caches_stay_within_a_bound(void)
{
    fv_generate_options o = base(5);
    fv_timing *t = scripted();
    o.batch = 3;
    for (int i = 0; i < 10; i++) {
        fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
        a.speedup = i / 2 == 3 ? 0 : i / 2 == 2 ? 3.5 : 2;
        a.anchors = i / 2 == 3 ? 7 : 0;
        a.no_skipping = i / 2 == 4;
        a.no_single_modules = i % 2;
        o.guard = i == 2 ? 1.2 : 0;
        try_bounds(&o, i / 2 == 1 ? NULL : table, t, a);
    }
    fv_timing_free(&t);
}

/* A ring of one output, and nothing for pruning where that is too much. */
static void other_modes_keep_to_a_bound_or_refuse(void)
{
    static const fv_accel_mode mode[] = { FV_ACCEL_SODA, FV_ACCEL_SODA_PAPER, FV_ACCEL_DCS,
                                          FV_ACCEL_FIXED, FV_ACCEL_EXACT };
    fv_generate_options o = base(2);
    fv_timing *t = scripted();
    for (size_t i = 0; i < FV_ARRAY_LEN(mode); i++) {
        fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
        fv_accel *p;
        a.mode = mode[i];
        a.speedup = mode[i] == FV_ACCEL_EXACT ? 1 : 1.8;
        const uint64_t least = least_caches(&o, table, t, a);
        CHECK(least);
        a.max_cache_bytes = least;
        OK(ctx, fv_accel_plan(ctx, &p, dit, &o, table, t, &a));
        CHECK(caches_of(o, p) == least && !p->prunes);
        CHECK(p->keeps == (mode[i] != FV_ACCEL_EXACT) && p->history == 1);
        fv_accel_free(&p);
        a.max_cache_bytes = least - 1;
        CHECK(fv_accel_plan(ctx, &p, dit, &o, table, t, &a) == FV_ERR_ARG && !p);
    }
    fv_timing_free(&t);
}

static void polishing_keeps_to_the_bound(void)
{
    fv_generate_options o = base(2);
    fv_polish_options q = FV_POLISH_OPTIONS_INIT;
    fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
    fv_timing *t = scripted();
    double before, after;
    fv_accel *p;
    q.draws = 2;
    q.trials = 12;
    a.speedup = 2;
    const uint64_t least = least_caches(&o, table, t, a);
    CHECK(least);
    for (uint64_t i = 0; i < 3; i++) {
        a.max_cache_bytes = least + i * least / 3;
        OK(ctx, fv_accel_plan(ctx, &p, dit, &o, table, t, &a));
        OK(ctx, fv_accel_polish(ctx, p, dit, &o, table, &q, &before, &after));
        CHECK(after >= before && caches_of(o, p) <= a.max_cache_bytes);
        fv_accel_free(&p);
    }
    fv_timing_free(&t);
}

static void plans_round_trip(void)
{
    fv_generate_options o = base(2);
    fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
    fv_accel *p, *q;
    char *text, *text2;
    size_t n, n2;
    fv_timing *t = scripted();
    a.speedup = 2.3;
    OK(ctx, fv_accel_plan(ctx, &p, dit, &o, table, t, &a));
    snprintf(path, sizeof path, "%s/p.fvplan", temp_dir);
    OK(ctx, fv_accel_write(ctx, p, path, 0));
    OK(ctx, fv_accel_read(ctx, &q, dit, path));
    OK(ctx, fvi_accel_text(ctx, p, &text, &n));
    OK(ctx, fvi_accel_text(ctx, q, &text2, &n2));
    CHECK(n == n2 && strcmp(text, text2) == 0 && n == strlen(text));
    CHECK(memcmp(p->action, q->action, (size_t)STEPS * 8) == 0 &&
          memcmp(p->anchor, q->anchor, STEPS) == 0);
    CHECK(p->anchors == q->anchors && strcmp(q->mode, "dpx") == 0 &&
          q->sampler == FV_SAMPLER_EULER);
    fv_accel_free(&q);
    for (size_t i = 0; i < n; i++) {
        char *cut = test_alloc(i);
        memcpy(cut, text, i);
        CHECK(fvi_accel_parse(ctx, &q, cut, i) != FV_OK && !q && fv_ctx_error(ctx)[0]);
        free(cut);
        text[i] ^= (char)(1 << i % 7);
        CHECK_MSG(fvi_accel_parse(ctx, &q, text, n) != FV_OK && !q, "flip at %zu", i);
        text[i] ^= (char)(1 << i % 7);
    }
    fv_free(ctx, text);
    fv_free(ctx, text2);
    unlink(path);
    p->model_hash[3] ^= 1;
    OK(ctx, fv_accel_write(ctx, p, path, 0));
    CHECK(fv_accel_read(ctx, &q, dit, path) == FV_ERR_MODEL);
    unlink(path);
    fv_accel_free(&p);
    fv_timing_free(&t);
}

static void plan_lines_may_be_unknown(void)
{
    char text[512], hash[65];
    fv_accel *p;
    fv_hex(dit->hash, 32, hash);
    int n = snprintf(text, sizeof text,
                     "fvplan 1\nmodel %s\n# comment\nforecaster none of ours\nsampler euler\nsteps "
                     "2\nevaluations 2\n"
                     "blocks 1\n\ncfg 1.5\n0 FF\n1 .F\n",
                     hash);
    n += snprintf(text + n, sizeof text - (size_t)n, "end %08x\n",
                  (unsigned)fv_crc32c(0, text, (size_t)n));
    OK(ctx, fvi_accel_parse(ctx, &p, text, (size_t)n));
    CHECK(p->anchors == 1 && p->action[2] == DIT_REUSE && p->action[3] == DIT_FULL &&
          p->cfg == 1.5f);
    fv_accel_free(&p);
}

/* ---- Failing allocations -------------------------------------------------------------------- */

static int allocations_left;

static void *failing_alloc(void *user, size_t bytes, size_t align)
{
    (void)user;
    return allocations_left-- > 0 ? aligned_alloc(align, (bytes + align - 1) / align * align)
                                  : NULL;
}

static void plain_free(void *user, void *ptr)
{
    (void)user;
    free(ptr);
}

/* Fail the 1st allocation, then the 2nd, ... until parsing and planning succeed. */
static void fail_in_turn(uint64_t max_cache_bytes)
{
    const fv_allocator heap = { failing_alloc, plain_free, NULL };
    fv_ctx_options co = FV_CTX_OPTIONS_INIT;
    fv_generate_options o = base(2);
    fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
    uint8_t *bytes;
    size_t n;
    fv_timing *t = scripted();
    bool done = false;
    OK(ctx, fvi_sens_encode(ctx, table, &bytes, &n));
    a.speedup = 1.7;
    a.max_cache_bytes = max_cache_bytes;
    co.alloc = &heap;
    co.threads = 1;
    for (int limit = 0; limit < 400 && !done; limit++) {
        fv_ctx *c;
        fv_sens *s;
        fv_accel *p;
        fv_memory_stats m;
        allocations_left = 1000;
        OK(ctx, fv_ctx_create(&c, &co));
        fv_ctx_memory(c, &m);
        const uint64_t before = m.current_bytes;
        allocations_left = limit;
        fv_status st = fv_sens_parse(c, &s, bytes, n);
        if (st == FV_OK) {
            st = fv_accel_plan(c, &p, dit, &o, s, t, &a);
            if (st == FV_OK) fv_accel_free(&p);
            fv_sens_free(&s);
        }
        CHECK(st == FV_OK || st == FV_ERR_OOM);
        done = st == FV_OK;
        fv_ctx_memory(c, &m);
        CHECK(m.current_bytes == before);
        fv_ctx_destroy(&c);
    }
    CHECK(done);
    fv_free(ctx, bytes);
    fv_timing_free(&t);
}

static void failing_memory_is_reported(void)
{
    fv_generate_options o = base(2);
    fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
    fv_timing *t = scripted();
    a.speedup = 1.7;
    fail_in_turn(0);
    fail_in_turn(least_caches(&o, table, t, a));
    fv_timing_free(&t);
}

/* ---- Main ----------------------------------------------------------------------------------- */

static fv_status set_up(void)
{
    fv_calibrate_options o = calibration_options();
    FV_TRY(write_model());
    FV_TRY(fv_model_open(ctx, &file, model_path, NULL));
    FV_TRY(fv_dit_open(ctx, &dit, file, NULL));
    return fv_sens_calibrate(ctx, &table, dit, &o);
}

int main(void)
{
    temp_dir_make("soda");
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    snprintf(model_path, sizeof model_path, "%s/m.safetensors", temp_dir);
    RUN(dp_equals_brute_force);
    RUN(dp_ties_take_the_larger_gap);
    RUN(dp_names_the_feasible_numbers);
    RUN(fixed_interval_restarts_at_forced_anchors);
    if (set_up() != FV_OK) {
        printf("Bail out! %s\n", fv_ctx_error(ctx));
        return 1;
    }
    RUN(full_plan_is_the_plain_sampler);
    RUN(batch_equals_singles);
    RUN(hoisted_modulation_equals_per_step);
    RUN(steps_do_not_allocate);
    RUN(gram_gives_the_direct_errors);
    RUN(ages_do_not_cross_a_change_of_rows);
    RUN(weights_predict_the_final_error);
    RUN(calibration_does_not_depend_on_threads);
    RUN(calibration_can_be_cancelled);
    RUN(tables_fit_only_their_run);
    RUN(never_worse_than_a_fixed_interval);
    RUN(targets_are_met_and_monotone);
    RUN(impossible_targets_name_the_maximum);
    RUN(wrong_requests_are_refused);
    RUN(paper_mode_keeps_its_rules);
    RUN(solving_corrects_the_prediction);
    RUN(measured_times_work_end_to_end);
    RUN(plans_and_pictures_do_not_depend_on_threads);
    RUN(tables_round_trip);
    RUN(damaged_tables_are_refused);
    RUN(unknown_keys_and_arrays_are_ignored);
    RUN(polishing_only_improves);
    RUN(caches_stay_within_a_bound);
    RUN(other_modes_keep_to_a_bound_or_refuse);
    RUN(polishing_keeps_to_the_bound);
    RUN(plans_round_trip);
    RUN(plan_lines_may_be_unknown);
    RUN(failing_memory_is_reported);
    fv_sens_free(&table);
    fv_dit_close(&dit);
    fv_model_close(&file);
    fv_ctx_destroy(&ctx);
    return test_end();
}
