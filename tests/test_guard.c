/* test_guard.c - plans that are watched while they run: without a reason nothing changes, with one
 * full evaluations trade places and no more is computed than planned. */
#include "../diffusion/soda.h"
#include "alloc_fail.h"
#include "dit_fixture.h"
#include "random_model.h"
#include "temp_dir.h"

#define STEPS 16
#define CLASSES 3
#define DEPTH 3
#define NEVER 1e9
#define ALWAYS 1e-9

static fv_ctx *ctx;
static fv_model *file;
static fv_dit *dit;
static fv_sens *table;

static fv_generate_options base(int count, fv_sampler sampler)
{
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    o.count = count;
    o.steps = STEPS;
    o.cfg = 1.5f;
    o.seed = 11;
    o.sampler = sampler;
    return o;
}

static size_t state_values(int count)
{
    const dit_config *c = &dit->net.cfg;
    return (size_t)count * (size_t)(c->input_size * c->input_size * c->channels);
}

/* Forecasts, pruned modules with and without one, skipped evaluations of two kinds, a plan of the
 * dynamic programme ("dpx") with all of them. */
static const char *const kind[] = { "fora:N=4", "taylorseer:N=4", "toca:N=4", "duca:N=4",
                                    "taylorseer:N=4,lite=1", "dpx" };
#define KINDS ((int)FV_ARRAY_LEN(kind))

static fv_accel *make_plan(const fv_generate_options *o, int i)
{
    fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
    fv_accel *plan = NULL;
    a.anchors = o->sampler == FV_SAMPLER_HEUN ? STEPS / 2 : STEPS / 3 + 1;
    const fv_sens *sens = o->sampler == FV_SAMPLER_HEUN ? NULL : table;
    const fv_status s = strcmp(kind[i], "dpx") == 0
                            ? fv_accel_plan(ctx, &plan, dit, o, sens, NULL, &a)
                            : fv_accel_method(ctx, &plan, dit, o, NULL, kind[i]);
    if (s == FV_OK) return plan;
    printf("Bail out! %s: %s\n", kind[i], fv_ctx_error(ctx));
    exit(1);
}

static bool all_finite(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return false;
    return true;
}

/* ---- Running --------------------------------------------------------------------------------- */

static int64_t fired; /* by the last plan that was tried */

static void try_plan(fv_generate_options o, int i)
{
    fv_accel *plan = make_plan(&o, i);
    const size_t n = state_values(o.count);
    float *planned = test_alloc(n * 4), *x = test_alloc(n * 4);
    fv_generate_stats want, st;
    o.accel = plan;
    o.batch = 2; /* and one of a single picture */
    OK(ctx, fv_generate_state(ctx, dit, &o, NULL, planned, &want));
    CHECK(want.guard_fired == 0);
    o.guard = NEVER;
    OK(ctx, fv_generate_state(ctx, dit, &o, NULL, x, &st));
    CHECK_MSG(memcmp(x, planned, n * 4) == 0 && st.guard_fired == 0, "%s", kind[i]);
    o.guard = ALWAYS;
    OK(ctx, fv_generate_state(ctx, dit, &o, NULL, x, &st));
    CHECK_MSG((st.guard_fired == 0) == (memcmp(x, planned, n * 4) == 0), "%s: fired %lld", kind[i],
              (long long)st.guard_fired);
    CHECK(all_finite(x, n) && test_rel_l2(x, planned, (int64_t)n) < 2);
    /* Rows trade places: what is computed stays the same. */
    CHECK_MSG(st.full_modules == want.full_modules && st.reused_modules == want.reused_modules,
              "%s: %lld full, planned %lld", kind[i], (long long)st.full_modules,
              (long long)want.full_modules);
    CHECK_MSG(st.flop <= want.flop * (1 + 1e-12), "%s: %g planned %g", kind[i], st.flop,
              want.flop);
    fv_accel_free(&plan);
    free(planned);
    free(x);
    fired = st.guard_fired;
}

static void no_more_is_computed_than_planned(void)
{
    int64_t short_stretches = 0; /* some have nothing to trade */
    for (int i = 0; i < KINDS; i++) {
        fv_generate_options o = base(3, FV_SAMPLER_EULER);
        try_plan(o, i);
        CHECK_MSG(fired >= 2, "%s", kind[i]);
        o.sampler = FV_SAMPLER_HEUN;
        try_plan(o, i);
        CHECK_MSG(fired >= 2, "%s, Heun", kind[i]);
    }
    for (int i = 0; i < KINDS - 1; i++) { /* the table is for the default interval */
        fv_generate_options o = base(3, FV_SAMPLER_EULER);
        o.cfg_start = 0.3f;
        o.cfg_end = 0.8f;
        try_plan(o, i);
        short_stretches += fired;
        o.cfg = 1;
        try_plan(o, i);
        CHECK_MSG(fired >= 2, "%s, no guidance", kind[i]);
    }
    CHECK(short_stretches >= 2);
}

static void the_same_bytes_for_any_thread_count(void)
{
    const size_t n = state_values(3);
    float *x[2] = { test_alloc(n * 4), test_alloc(n * 4) };
    int64_t count[2];
    for (int i = 0; i < KINDS; i++) {
        fv_generate_options o = base(3, FV_SAMPLER_EULER);
        fv_accel *plan = make_plan(&o, i);
        o.accel = plan;
        o.guard = 0.9;
        for (int t = 0; t < 2; t++) {
            fv_ctx_options co = FV_CTX_OPTIONS_INIT;
            fv_generate_stats st;
            fv_ctx *c;
            co.threads = t ? 3 : 1;
            OK(ctx, fv_ctx_create(&c, &co));
            OK(c, fv_generate_state(c, dit, &o, NULL, x[t], &st));
            count[t] = st.guard_fired;
            fv_ctx_destroy(&c);
        }
        CHECK_MSG(count[0] == count[1] && memcmp(x[0], x[1], n * 4) == 0, "%s", kind[i]);
        fv_accel_free(&plan);
    }
    free(x[0]);
    free(x[1]);
}

/* ---- Decisions ------------------------------------------------------------------------------- */

/* A guard on a runner whose states the test makes up; unguided, no sampler. */
typedef struct rig {
    dit_schedule s;
    dit_runner *r;
    dit_guard *g;
    float *x;
    int B;
} rig;

static void rig_open(rig *t, const fv_accel *plan, const fv_generate_options *o, double tau)
{
    const dit_guard_options go = { .tau = tau, .B = o->count };
    dit_runner_options ro = { .B = o->count };
    int32_t labels[4] = { 0, 1, 2, 0 };
    memset(t, 0, sizeof *t);
    t->B = o->count;
    dit_runner_options_for(plan, &ro);
    ro.probes = true;
    OK(ctx, dit_schedule_create(ctx, &t->s, &dit->net.cfg, o));
    OK(ctx, dit_runner_create(ctx, &t->r, &dit->net, FV_F32, &t->s, &ro));
    OK(ctx, dit_runner_start(t->r, labels));
    OK(ctx, dit_guard_create(ctx, &t->g, plan, &t->s, &dit->net.cfg, &go));
    t->x = test_alloc(state_values(o->count) * 4);
    const dit_policy *p = dit_guard_policy(t->g);
    OK(ctx, p->start(p->user, t->r, o->count));
}

static void rig_close(rig *t)
{
    dit_guard_destroy(&t->g);
    dit_runner_destroy(&t->r);
    dit_schedule_destroy(ctx, &t->s);
    free(t->x);
}

/* What the guard makes of evaluation e, the pictures being at[b] along a line through noise. */
static bool rig_step(rig *t, const fv_accel *plan, int e, const double *at, dit_row *row)
{
    const dit_policy *p = dit_guard_policy(t->g);
    const size_t n = state_values(1);
    for (int b = 0; b < t->B; b++)
        for (size_t i = 0; i < n; i++) {
            uint64_t seed = i + 1;
            const double u = (double)test_next(&seed) / 4294967296.0,
                         v = (double)test_next(&seed) / 4294967296.0;
            t->x[(size_t)b * n + i] = (float)(u - 0.5 + at[b] * (v - 0.5));
        }
    *row = dit_accel_row(plan, e);
    bool is_full = p->decide(p->user, t->r, e, t->x, row) == FV_OK && !row->skip_weight;
    for (int k = 0; k < 2 * DEPTH; k++) is_full = is_full && row->action[k] == DIT_FULL;
    return is_full;
}

static fv_accel *every_fourth(const fv_generate_options *o)
{
    fv_accel *plan = NULL;
    if (fv_accel_method(ctx, &plan, dit, o, NULL, "taylorseer:anchors=5,order=1") == FV_OK)
        return plan;
    printf("Bail out! %s\n", fv_ctx_error(ctx));
    exit(1);
}

static int fulls_of(const fv_accel *plan, int *at)
{
    int n = 0;
    for (int e = 0; e < plan->evals; e++)
        if (plan->anchor[e]) at[n++] = e;
    return n;
}

/* A jump of the state is answered at once, by the next full evaluation, which is nearest. */
static void a_jump_fires_where_it_happens(void)
{
    fv_generate_options o = base(1, FV_SAMPLER_EULER);
    int at[STEPS];
    o.cfg = 1;
    fv_accel *plan = every_fourth(&o);
    CHECK(fulls_of(plan, at) == 5 && at[0] == 0 && at[1] == 1);
    for (int jump = at[2] + 1; jump < at[3]; jump++) {
        rig t;
        dit_row row;
        int full = 0;
        rig_open(&t, plan, &o, 3);
        for (int e = 0; e < STEPS; e++) {
            const double x = 0.02 * e + (e >= jump ? 1.5 : 0);
            const bool is_full = rig_step(&t, plan, e, &x, &row);
            full += is_full;
            if (e <= at[2]) CHECK(is_full == (plan->anchor[e] != 0));
            if (e == jump) CHECK(is_full);
            else if (e < jump && e > at[2]) CHECK(!is_full);
        }
        CHECK(dit_guard_fired(t.g) == 1 && full == 5);
        rig_close(&t);
    }
    fv_accel_free(&plan);
}

/* The one of a batch that hurries decides, wherever it stands. */
static void one_picture_of_a_batch_is_enough(void)
{
    fv_generate_options o = base(3, FV_SAMPLER_EULER);
    int at[STEPS];
    o.cfg = 1;
    fv_accel *plan = every_fourth(&o);
    fulls_of(plan, at);
    for (int who = 0; who < 4; who++) { /* 3: none */
        rig t;
        dit_row row;
        rig_open(&t, plan, &o, 3);
        for (int e = 0; e <= at[2] + 1; e++) {
            double x[3];
            for (int b = 0; b < 3; b++) x[b] = 0.02 * e + (e > at[2] && b == who ? 1.5 : 0);
            const bool is_full = rig_step(&t, plan, e, x, &row);
            if (e == at[2] + 1) CHECK(is_full == (who < 3));
        }
        rig_close(&t);
    }
    fv_accel_free(&plan);
}

/* After a trade a forecast of order 1 is the line through the two outputs that are there, as far as
 * it may reach; before it, the plan's own weights. */
static void weights_follow_the_outputs_that_are_there(void)
{
    fv_generate_options o = base(1, FV_SAMPLER_EULER);
    int at[STEPS], newest = 0, before = -1;
    o.cfg = 1;
    fv_accel *plan = every_fourth(&o);
    fulls_of(plan, at);
    rig t;
    dit_row row;
    rig_open(&t, plan, &o, 3);
    const int jump = at[2] + 2;
    for (int e = 0; e < STEPS; e++) {
        const double x = 0.02 * e + (e >= jump ? 1.5 : 0);
        if (rig_step(&t, plan, e, &x, &row)) {
            before = newest;
            newest = e;
            continue;
        }
        for (int k = 0; k < 2 * DEPTH && e > 1; k++) {
            const float *w = row.weight + k * DIT_HISTORY;
            const double line = (double)(e - newest) / (newest - before);
            NEAR(w[0] + w[1], 1, 1e-6);
            if (e < jump) NEAR(-w[1], line, 1e-6);
            else CHECK(-w[1] <= line + 1e-6 && -w[1] >= fmin(line, 1) - 1e-6);
            CHECK(w[2] == 0);
        }
    }
    CHECK(dit_guard_fired(t.g) == 1);
    rig_close(&t);
    fv_accel_free(&plan);
}

/* ---- Requests -------------------------------------------------------------------------------- */

static void wrong_requests_are_refused(void)
{
    static const double bad[] = { -1, (double)NAN, (double)INFINITY };
    fv_generate_options o = base(1, FV_SAMPLER_EULER);
    float *x = test_alloc(state_values(1) * 4), *y = test_alloc(state_values(1) * 4);
    fv_accel *plan = NULL;
    for (size_t i = 0; i < FV_ARRAY_LEN(bad); i++) {
        o.guard = bad[i];
        CHECK(fv_generate_state(ctx, dit, &o, NULL, x, NULL) == FV_ERR_ARG);
        CHECK(strstr(fv_ctx_error(ctx), "guard") != NULL);
    }
    o.guard = 2;
    OK(ctx, fv_accel_method(ctx, &plan, dit, &o, NULL, "teacache"));
    o.accel = plan;
    CHECK(fv_generate_state(ctx, dit, &o, NULL, x, NULL) == FV_ERR_ARG);
    CHECK(strstr(fv_ctx_error(ctx), "teacache") != NULL);
    o.accel = NULL; /* nothing to guard */
    OK(ctx, fv_generate_state(ctx, dit, &o, NULL, x, NULL));
    o.guard = 0;
    OK(ctx, fv_generate_state(ctx, dit, &o, NULL, y, NULL));
    CHECK(memcmp(x, y, state_values(1) * 4) == 0);
    fv_accel_free(&plan);
    free(x);
    free(y);
}

static void the_loop_allocates_nothing(void)
{
    allocation_watch w = { 0 };
    fv_ctx_options co = FV_CTX_OPTIONS_INIT;
    fv_generate_options o = base(2, FV_SAMPLER_EULER);
    fv_accel *plan = make_plan(&o, 1);
    float *x = test_alloc(state_values(2) * 4);
    co.progress = watch_allocations;
    co.user = &w;
    OK(ctx, fv_ctx_create(&w.c, &co));
    o.accel = plan;
    o.guard = ALWAYS;
    OK(w.c, fv_generate_state(w.c, dit, &o, NULL, x, NULL));
    CHECK(w.calls == STEPS && w.first == w.last);
    fv_ctx_destroy(&w.c);
    fv_accel_free(&plan);
    free(x);
}

static void failing_memory_is_reported(void)
{
    fv_generate_options o = base(1, FV_SAMPLER_EULER);
    fv_accel *plan = make_plan(&o, 1);
    const dit_guard_options go = { .tau = 1, .B = 2 };
    dit_schedule s;
    bool done = false;
    OK(ctx, dit_schedule_create(ctx, &s, &dit->net.cfg, &o));
    for (int n = 0; n < 50 && !done; n++) {
        alloc_fail heap = { .left = ALLOC_ALL };
        fv_ctx_options co = FV_CTX_OPTIONS_INIT;
        const fv_allocator al = alloc_fail_allocator(&heap);
        fv_ctx *c;
        dit_guard *g;
        co.alloc = &al;
        OK(ctx, fv_ctx_create(&c, &co));
        heap.left = n;
        const fv_status st = dit_guard_create(c, &g, plan, &s, &dit->net.cfg, &go);
        done = st == FV_OK;
        CHECK(done ? g != NULL : st == FV_ERR_OOM && g == NULL);
        heap.left = ALLOC_ALL;
        dit_guard_destroy(&g);
        fv_ctx_destroy(&c);
        CHECK(heap.live == 0);
    }
    CHECK(done);
    dit_schedule_destroy(ctx, &s);
    fv_accel_free(&plan);
}

static fv_status set_up(void)
{
    char path[160];
    dit_config c;
    fv_generate_options use = base(1, FV_SAMPLER_EULER);
    fv_calibrate_options o = FV_CALIBRATE_OPTIONS_INIT;
    o.gen = &use;
    o.draws = 2;
    o.weight_draws = -1;
    snprintf(path, sizeof path, "%s/m.safetensors", temp_dir);
    FV_TRY(random_config(ctx, "F32", CLASSES, DEPTH, &c));
    c.t_scale = 1; /* modulations that change as smoothly as trained ones */
    FV_TRY(random_model(ctx, &c, 5, path));
    FV_TRY(fv_model_open(ctx, &file, path, NULL));
    FV_TRY(fv_dit_open(ctx, &dit, file, NULL));
    return fv_sens_calibrate(ctx, &table, dit, &o);
}

int main(void)
{
    temp_dir_make("guard");
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    if (set_up() != FV_OK) {
        printf("Bail out! %s\n", fv_ctx_error(ctx));
        return 1;
    }
    RUN(no_more_is_computed_than_planned);
    RUN(the_same_bytes_for_any_thread_count);
    RUN(a_jump_fires_where_it_happens);
    RUN(one_picture_of_a_batch_is_enough);
    RUN(weights_follow_the_outputs_that_are_there);
    RUN(wrong_requests_are_refused);
    RUN(the_loop_allocates_nothing);
    RUN(failing_memory_is_reported);
    fv_sens_free(&table);
    fv_dit_close(&dit);
    fv_model_close(&file);
    fv_ctx_destroy(&ctx);
    return test_end();
}
