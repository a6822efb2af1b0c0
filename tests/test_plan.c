/* test_plan.c - contexts, tapes and plans: reuse of buffers never changes a value, runs allocate
 * nothing, threads do not change bytes, failures are clean. */
#include <stdint.h>

#include "alloc_fail.h"
#include "engine.h"
#include "test.h"

static fv_ctx *make_ctx(int threads, const fv_allocator *alloc)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_ctx *ctx = NULL;
    o.threads = threads;
    o.alloc = alloc;
    if (fv_ctx_create(&ctx, &o) != FV_OK) return NULL;
    return ctx;
}

/* ---- Random networks ------------------------------------------------------------------------- */

#define B 2
#define T 5
#define C 16

typedef struct net {
    fv_params *p;
    fv_tape *t;
    fv_plan *plan;
    fv_pid w[24], b[24], g[24];
    fv_t value[64];
    int values;
} net;

static void net_free(net *n)
{
    fv_plan_destroy(&n->plan);
    fv_tape_destroy(&n->t);
    fv_params_destroy(&n->p);
}

/* A random chain with branches over [B,T,C] values; every op kind that keeps the shape. */
static fv_t grow(net *n, fv_t x, int layers, uint64_t *seed)
{
    fv_t pool[64];
    int k = 0;
    pool[k++] = x;
    for (int i = 0; i < layers; i++) {
        const fv_t a = pool[test_next(seed) % (uint32_t)k], b = pool[test_next(seed) % (uint32_t)k];
        fv_t y = 0;
        switch (test_next(seed) % 7) {
        case 0: y = fv_linear(n->t, a, n->w[i], n->b[i], FV_ACT_SILU); break;
        case 1: y = fv_binary_op(n->t, FV_ADD, a, b); break;
        case 2: y = fv_binary_op(n->t, FV_MUL, a, b); break;
        case 3: y = fv_activate(n->t, a, FV_ACT_TANH); break;
        case 4: {
            const fv_norm o = { FV_NORM_RMS, 1e-6f, fv_param(n->t, n->g[i]), 0, 0, -1, -1 };
            y = fv_norm_modulate(n->t, a, o);
            break;
        }
        case 5: y = fv_gate_residual(n->t, a, b, 0, 0); break;
        default: {
            const int64_t flat[2] = { B * T, C }, back[3] = { B, T, C };
            y = fv_reshape(n->t, fv_affine(n->t, fv_reshape(n->t, a, 2, flat), 0.7f, 0.1f), 3,
                           back);
        }
        }
        pool[k++] = y;
    }
    fv_t sum = pool[k - 1];
    for (int i = 0; i < k - 1; i += 3) sum = fv_binary_op(n->t, FV_ADD, sum, pool[i]);
    return sum;
}

static fv_status build(fv_ctx *ctx, net *n, fv_mode mode, int layers, uint64_t seed, int keep_all)
{
    const int64_t x_dim[3] = { B, T, C }, w_dim[2] = { C, C }, c_dim = C;
    memset(n, 0, sizeof *n);
    fv_status s = fv_params_create(ctx, &n->p);
    if (s != FV_OK) return s;
    for (int i = 0; i < layers; i++) {
        char name[32];
        snprintf(name, sizeof name, "w%d", i);
        n->w[i] = fv_params_add(n->p, name, 2, w_dim, FV_PARAM_DECAY);
        snprintf(name, sizeof name, "b%d", i);
        n->b[i] = fv_params_add(n->p, name, 1, &c_dim, 0);
        snprintf(name, sizeof name, "g%d", i);
        n->g[i] = fv_params_add(n->p, name, 1, &c_dim, 0);
    }
    s = fv_params_alloc(n->p);
    for (int i = 0; i < fv_params_count(n->p) && s == FV_OK; i++)
        fv_params_init_normal(n->p, i, seed, 0.4f);
    if (s == FV_OK) s = fv_tape_create(ctx, &n->t, n->p, mode, FV_F32);
    if (s != FV_OK) return s;
    const fv_t x = fv_input_grad(n->t, "x", FV_F32, 3, x_dim);
    const fv_t goal = fv_input(n->t, "goal", FV_F32, 3, x_dim);
    const fv_t y = grow(n, x, layers, &seed);
    fv_output(n->t, "y", y);
    if (mode == FV_TRAIN) fv_output(n->t, "loss", fv_loss_mse(n->t, y, goal, 0));
    fv_plan_options o = FV_PLAN_OPTIONS_INIT;
    o.keep_all = keep_all;
    s = fv_tape_status(n->t);
    return s == FV_OK ? fv_plan_build(ctx, &n->plan, n->t, &o) : s;
}

static fv_status run(net *n, float *x, float *goal, bool train)
{
    fv_status s = fv_plan_bind(n->plan, "x", x);
    if (s == FV_OK) s = fv_plan_bind(n->plan, "goal", goal);
    if (s == FV_OK) s = fv_plan_forward(n->plan);
    fv_params_zero_grad(n->p);
    if (s == FV_OK && train) s = fv_plan_backward(n->plan, "loss", 1.0f);
    return s;
}

static bool same_results(const net *a, const net *b)
{
    const size_t n = B * T * C * sizeof(float);
    if (memcmp(fv_plan_value(a->plan, "y").data, fv_plan_value(b->plan, "y").data, n)) return false;
    if (memcmp(fv_plan_grad(a->plan, "x").data, fv_plan_grad(b->plan, "x").data, n)) return false;
    for (int i = 0; i < fv_params_count(a->p); i++) {
        const fv_tensor g = fv_params_grad(a->p, i), h = fv_params_grad(b->p, i);
        if (memcmp(g.data, h.data, (size_t)fv_tensor_count(&g) * sizeof(float))) return false;
    }
    return true;
}

static void planned_equals_unshared_buffers(void)
{
    fv_ctx *ctx = make_ctx(2, NULL);
    CHECK(ctx);
    float x[B * T * C], goal[B * T * C];
    test_fill(x, B * T * C, 1);
    test_fill(goal, B * T * C, 2);
    for (uint64_t seed = 1; seed <= 60; seed++) {
        net a, b;
        const int layers = 2 + (int)(seed % 20);
        OK(ctx, build(ctx, &a, FV_TRAIN, layers, seed, 0));
        OK(ctx, build(ctx, &b, FV_TRAIN, layers, seed, 1));
        OK(ctx, run(&a, x, goal, true));
        OK(ctx, run(&b, x, goal, true));
        CHECK_MSG(same_results(&a, &b), "seed %d", (int)seed);
        CHECK(fv_plan_work_bytes(a.plan) <= fv_plan_work_bytes(b.plan));
        net_free(&a);
        net_free(&b);
    }
    fv_ctx_destroy(&ctx);
}

static void same_bytes_for_1_2_and_3_threads(void)
{
    float x[B * T * C], goal[B * T * C];
    test_fill(x, B * T * C, 3);
    test_fill(goal, B * T * C, 4);
    for (uint64_t seed = 100; seed < 110; seed++) {
        net n[3];
        fv_ctx *ctx[3];
        for (int k = 0; k < 3; k++) {
            ctx[k] = make_ctx(k + 1, NULL);
            CHECK(ctx[k]);
            OK(ctx[k], build(ctx[k], &n[k], FV_TRAIN, 12, seed, 0));
            OK(ctx[k], run(&n[k], x, goal, false));
        }
        for (int k = 1; k < 3; k++)
            CHECK(!memcmp(fv_plan_value(n[0].plan, "y").data, fv_plan_value(n[k].plan, "y").data,
                          sizeof x));
        for (int k = 0; k < 3; k++) {
            net_free(&n[k]);
            fv_ctx_destroy(&ctx[k]);
        }
    }
}

/* Gradient of the loss along a random direction of all parameters and of x, by central
 * differences. */
static void gradient_matches_finite_differences(void)
{
    fv_ctx *ctx = make_ctx(1, NULL);
    CHECK(ctx);
    float x[B * T * C], goal[B * T * C], dir[C * C];
    test_fill(x, B * T * C, 5);
    test_fill(goal, B * T * C, 6);
    for (uint64_t seed = 200; seed < 215; seed++) {
        net n;
        OK(ctx, build(ctx, &n, FV_TRAIN, 8, seed, 0));
        OK(ctx, run(&n, x, goal, true));
        for (int i = 0; i < fv_params_count(n.p); i++) {
            fv_tensor w = fv_params_tensor(n.p, i), g = fv_params_grad(n.p, i);
            const int64_t count = fv_tensor_count(&w);
            float saved[C * C];
            double analytic = 0, loss[2];
            memcpy(saved, w.data, (size_t)count * sizeof(float));
            test_fill(dir, count, seed + (uint64_t)i);
            for (int64_t k = 0; k < count; k++) analytic += (double)dir[k] * ((float *)g.data)[k];
            const float h = 1e-2f;
            for (int side = 0; side < 2; side++) {
                for (int64_t k = 0; k < count; k++)
                    ((float *)w.data)[k] = saved[k] + (side ? -h : h) * dir[k];
                fv_params_touch(n.p);
                OK(ctx, fv_plan_forward(n.plan));
                loss[side] = *(float *)fv_plan_value(n.plan, "loss").data;
            }
            memcpy(w.data, saved, (size_t)count * sizeof(float));
            const double numeric = (loss[0] - loss[1]) / (2.0 * h);
            /* f32 loss: rounding eps*loss/h, truncation h^2 * third derivative */
            const double tolerance = 2e-2 * fabs(numeric) + 2e-3 * (1.0 + fabs(loss[0]));
            CHECK_MSG(fabs(numeric - analytic) <= tolerance, "seed %d %s: %g against %g (loss %g)",
                      (int)seed, fv_params_name(n.p, i), analytic, numeric, loss[0]);
        }
        net_free(&n);
    }
    fv_ctx_destroy(&ctx);
}

static void gradients_accumulate_over_runs(void)
{
    fv_ctx *ctx = make_ctx(1, NULL);
    float x[B * T * C], goal[B * T * C];
    net n;
    test_fill(x, B * T * C, 7);
    test_fill(goal, B * T * C, 8);
    OK(ctx, build(ctx, &n, FV_TRAIN, 6, 300, 0));
    OK(ctx, run(&n, x, goal, true));
    float once[C * C];
    const fv_tensor g = fv_params_grad(n.p, n.w[0]);
    memcpy(once, g.data, sizeof once);
    OK(ctx, fv_plan_forward(n.plan));
    OK(ctx, fv_plan_backward(n.plan, "loss", 0.5f));
    for (int i = 0; i < C * C; i++)
        NEAR(((float *)g.data)[i], 1.5 * once[i], 1e-6 + 1e-5 * fabs(once[i]));
    net_free(&n);
    fv_ctx_destroy(&ctx);
}

/* y = (w x) (detached w x): the gradient of w is x (w x), not twice that. */
static void no_gradient_passes_a_detached_view(void)
{
    fv_ctx *ctx = make_ctx(1, NULL);
    fv_params *p;
    fv_tape *t;
    fv_plan *plan;
    const int64_t dim[2] = { 3, C }, square[2] = { C, C };
    float x[3 * C], goal[3 * C], sum = 0;
    test_fill(x, 3 * C, 21);
    test_fill(goal, 3 * C, 22);
    OK(ctx, fv_params_create(ctx, &p));
    const fv_pid w = fv_params_add(p, "w", 2, square, 0);
    OK(ctx, fv_params_alloc(p));
    fv_params_init_normal(p, w, 5, 0.3f);
    OK(ctx, fv_tape_create(ctx, &t, p, FV_TRAIN, FV_F32));
    const fv_t y = fv_linear(t, fv_input(t, "x", FV_F32, 2, dim), w, -1, FV_ACT_NONE);
    const fv_t z = fv_reshape(t, fv_detach(t, y), 2, dim);
    fv_output(t, "y", fv_affine(t, y, 1.0f, 0.0f));
    fv_output(t, "loss", fv_loss_mse(t, fv_binary_op(t, FV_MUL, y, z),
                                     fv_input(t, "goal", FV_F32, 2, dim), 0));
    OK(ctx, fv_plan_build(ctx, &plan, t, NULL));
    fv_tape_destroy(&t);
    OK(ctx, fv_plan_bind(plan, "x", x));
    OK(ctx, fv_plan_bind(plan, "goal", goal));
    OK(ctx, fv_plan_forward(plan));
    OK(ctx, fv_plan_backward(plan, "loss", 1.0f));
    const float *v = fv_plan_value(plan, "y").data, *g = fv_params_grad(p, w).data;
    for (int i = 0; i < C; i++)
        for (int j = 0; j < C; j++) {
            double want = 0;
            for (int r = 0; r < 3; r++) {
                const double a = v[r * C + i];
                want += 2.0 / (3 * C) * (a * a - goal[r * C + i]) * a * x[r * C + j];
            }
            NEAR(g[i * C + j], want, 1e-6 + 1e-4 * fabs(want));
            sum += fabsf(g[i * C + j]);
        }
    CHECK(sum > 0);
    fv_plan_destroy(&plan);
    fv_params_destroy(&p);
    fv_ctx_destroy(&ctx);
}

static void runs_allocate_nothing(void)
{
    fv_ctx *ctx = make_ctx(2, NULL);
    float x[B * T * C], goal[B * T * C];
    net n;
    fv_memory_stats a, b;
    test_fill(x, B * T * C, 9);
    test_fill(goal, B * T * C, 10);
    OK(ctx, build(ctx, &n, FV_TRAIN, 10, 400, 0));
    OK(ctx, run(&n, x, goal, true));
    fv_ctx_memory(ctx, &a);
    for (int i = 0; i < 20; i++) OK(ctx, run(&n, x, goal, true));
    fv_ctx_memory(ctx, &b);
    CHECK(a.allocations == b.allocations && a.current_bytes == b.current_bytes);
    net_free(&n);
    fv_ctx_memory(ctx, &b);
    fv_ctx_destroy(&ctx);
}

/* ---- Failures -------------------------------------------------------------------------------- */

static void every_failed_allocation_is_a_status(void)
{
    float x[B * T * C], goal[B * T * C];
    test_fill(x, B * T * C, 11);
    test_fill(goal, B * T * C, 12);
    int64_t n_failed = 0;
    for (int64_t n = 0;; n++) {
        alloc_fail f = { .left = n };
        const fv_allocator al = alloc_fail_allocator(&f);
        fv_ctx *ctx = make_ctx(1, &al);
        net net0;
        memset(&net0, 0, sizeof net0);
        fv_status s = ctx ? build(ctx, &net0, FV_TRAIN, 5, 500, 0) : FV_ERR_OOM;
        if (s == FV_OK) s = run(&net0, x, goal, true);
        CHECK_MSG(s == FV_OK || s == FV_ERR_OOM, "%s", fv_status_name(s));
        if (ctx && s != FV_OK) CHECK(fv_ctx_error(ctx)[0]);
        net_free(&net0);
        fv_ctx_destroy(&ctx);
        CHECK_MSG(f.live == 0, "%lld blocks leaked at allocation %lld", (long long)f.live,
                  (long long)n);
        if (s == FV_OK) break;
        n_failed++;
    }
    CHECK(n_failed > 20);
}

static void a_failed_op_poisons_the_tape(void)
{
    fv_ctx *ctx = make_ctx(1, NULL);
    fv_params *p;
    fv_tape *t;
    fv_plan *plan;
    const int64_t w_dim[2] = { 8, 6 }, x_dim[2] = { 3, 5 };
    OK(ctx, fv_params_create(ctx, &p));
    const fv_pid w = fv_params_add(p, "w", 2, w_dim, 0);
    OK(ctx, fv_tape_create(ctx, &t, p, FV_TRAIN, FV_F32));
    const fv_t x = fv_input(t, "x", FV_F32, 2, x_dim);
    const fv_t y = fv_linear(t, x, w, -1, FV_ACT_NONE);
    CHECK(y == 0 && fv_tape_status(t) == FV_ERR_SHAPE && strstr(fv_ctx_error(ctx), "w"));
    CHECK(fv_activate(t, x, FV_ACT_SILU) == 0);
    CHECK(fv_plan_build(ctx, &plan, t, NULL) == FV_ERR_SHAPE && !plan);
    fv_tape_destroy(&t);
    fv_params_destroy(&p);
    fv_ctx_destroy(&ctx);
}

static void unbound_input_is_named(void)
{
    fv_ctx *ctx = make_ctx(1, NULL);
    net n;
    OK(ctx, build(ctx, &n, FV_INFER, 3, 600, 0));
    CHECK(fv_plan_forward(n.plan) == FV_ERR_STATE && strstr(fv_ctx_error(ctx), "\"x\""));
    CHECK(fv_plan_bind(n.plan, "nonsense", NULL) == FV_ERR_UNKNOWN);
    net_free(&n);
    fv_ctx_destroy(&ctx);
}

static void cancel_stops_a_run(void)
{
    fv_ctx *ctx = make_ctx(1, NULL);
    float x[B * T * C], goal[B * T * C];
    net n;
    test_fill(x, B * T * C, 13);
    test_fill(goal, B * T * C, 14);
    OK(ctx, build(ctx, &n, FV_INFER, 3, 700, 0));
    fv_ctx_cancel(ctx);
    CHECK(run(&n, x, goal, false) == FV_ERR_CANCELLED);
    fv_ctx_uncancel(ctx);
    OK(ctx, run(&n, x, goal, false));
    net_free(&n);
    fv_ctx_destroy(&ctx);
}

typedef struct watched {
    double flop;
    int calls, stop_at; /* 0: never */
    bool is_rising;
} watched;

static fv_status note_work(void *user, double flop)
{
    watched *w = user;
    w->is_rising = w->is_rising && flop > w->flop;
    w->flop = flop;
    return ++w->calls == w->stop_at ? FV_ERR_LIMIT : FV_OK;
}

static void work_can_be_watched_and_ended(void)
{
    fv_ctx *ctx = make_ctx(1, NULL);
    float x[B * T * C], goal[B * T * C];
    net n;
    test_fill(x, B * T * C, 13);
    test_fill(goal, B * T * C, 14);
    OK(ctx, build(ctx, &n, FV_INFER, 20, 701, 0));
    watched all = { .is_rising = true }, some = { .is_rising = true };
    fv_plan_watch(n.plan, note_work, &all);
    OK(ctx, run(&n, x, goal, false));
    CHECK_MSG(all.calls > 1 && all.is_rising, "%d calls", all.calls);
    NEAR(all.flop, fv_plan_flop(n.plan), 0.5);
    some.stop_at = 1;
    fv_plan_watch(n.plan, note_work, &some);
    CHECK(run(&n, x, goal, false) == FV_ERR_LIMIT && some.calls == 1 && some.flop < all.flop);
    fv_plan_watch(n.plan, NULL, NULL);
    OK(ctx, run(&n, x, goal, false));
    CHECK(some.calls == 1);
    net_free(&n);
    fv_ctx_destroy(&ctx);
}

static void memory_cap_is_kept(void)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.memory_cap_bytes = 4096;
    fv_ctx *ctx;
    CHECK(fv_ctx_create(&ctx, &o) == FV_OK);
    fv_image img;
    CHECK(fv_image_create(ctx, &img, 100, 100, 3, 8) == FV_ERR_OOM && !img.pixels);
    CHECK(strstr(fv_ctx_error(ctx), "cap"));
    fv_ctx_destroy(&ctx);
}

static void every_status_has_a_name(void)
{
    const int known[] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  20, 21,
                         22, 23, 24, 25, 40, 41, 42, 43, 44, 45, 60, 61};
    int named = 0;
    for (int s = 0; s < 100; s++) named += strcmp(fv_status_name((fv_status)s), "FV_ERR_?") != 0;
    CHECK(named == (int)(sizeof known / sizeof known[0]));
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        CHECK(strncmp(fv_status_name((fv_status)known[i]), "FV_", 3) == 0);
}

/* A tape that refuses leaves a message; sizes near the limits of int64 do not overflow. */
static bool refuses(fv_ctx *ctx, int what)
{
    const int64_t dim[2] = { 4, 8 }, huge[2] = { (int64_t)1 << 40, (int64_t)1 << 20 };
    fv_params *p;
    fv_tape *t = NULL;
    if (fv_params_create(ctx, &p) != FV_OK) return false;
    const fv_pid w = fv_params_add(p, "w", 2, dim, 0);
    bool good = fv_tape_create(ctx, &t, p, FV_INFER, FV_BF16) == FV_OK;
    const fv_t x = good ? fv_input(t, "x", FV_F32, 2, dim) : 0;
    fv_t y = x;
    switch (what) {
    case 0: y = fv_slice(t, x, 1, INT64_MAX); break;
    case 1: y = fv_slice(t, x, 1, 8); break;
    case 2: y = fv_input(t, "huge", FV_F32, 2, huge); break;
    case 3: y = fv_linear_as(t, x, w, -1, FV_ACT_NONE, FV_I32); break;
    case 4: y = fv_unpatchify(t, x, -8, -8, 4, 0); break;
    default: y = fv_reshape(t, x, 2, huge); break;
    }
    /* On an f32 tape outputs are f32, whatever is asked for. */
    const bool allowed = what == 3 && fv_tape_precision(t) == FV_F32;
    good = good && (allowed || (y == 0 && fv_tape_status(t) != FV_OK && fv_ctx_error(ctx)[0]));
    fv_tape_destroy(&t);
    fv_params_destroy(&p);
    return good;
}

static void bad_shapes_and_types_are_refused(void)
{
    fv_ctx *ctx = make_ctx(1, NULL);
    for (int what = 0; what < 6; what++) CHECK_MSG(refuses(ctx, what), "case %d", what);
    fv_params *p;
    OK(ctx, fv_params_create(ctx, &p));
    const int64_t most = INT64_MAX;
    CHECK(fv_params_add(p, "a", 1, &most, 0) == -1);
    CHECK(fv_params_alloc(p) == FV_ERR_SHAPE); /* the failure sticks */
    fv_params_destroy(&p);
    fv_ctx_destroy(&ctx);
}

/* fv_gate_forecast with one thing wrong; 0 = nothing. */
static fv_status forecast(fv_ctx *ctx, int what)
{
    const int64_t dim[3] = { B, T, C }, other[3] = { B, T + 1, C }, mod_dim[2] = { B, 2 * C },
                  rows[2] = { B + 1, 2 * C }, two = 2, three = 3;
    fv_tape *t;
    fv_status s = fv_tape_create(ctx, &t, NULL, what == 1 ? FV_TRAIN : FV_INFER, FV_F32);
    if (s != FV_OK) return s;
    const fv_t h = fv_input(t, "h", what == 2 ? FV_BF16 : FV_F32, 3, dim),
               w = fv_input(t, "w", what == 3 ? FV_I32 : FV_F32, 1, what == 4 ? &three : &two),
               mod = what == 5 ? 0 : fv_input(t, "mod", FV_F32, 2, what == 6 ? rows : mod_dim);
    fv_t y[FV_FORECAST_MAX + 1];
    for (int k = 0; k <= FV_FORECAST_MAX; k++) {
        char name[8];
        snprintf(name, sizeof name, "y%d", k);
        y[k] = fv_input(t, name, what == 7 && k == 1 ? FV_BF16 : what == 8 ? FV_I32 : FV_F32, 3,
                        what == 9 && k == 1 ? other : dim);
    }
    if (what == 10) y[1] = 0;
    const int count = what == 11 ? 0 : what == 12 ? FV_FORECAST_MAX + 1 : what == 13 ? -1 : 2;
    const int chunk = what == 14 ? 2 : what == 15 ? -2 : 1;
    const fv_t out = fv_gate_forecast(t, h, y, count, w, mod, chunk);
    s = fv_tape_status(t);
    if ((out == 0) != (s != FV_OK) || (s != FV_OK && !fv_ctx_error(ctx)[0])) s = FV_ERR_INTERNAL;
    fv_tape_destroy(&t);
    return s;
}

static void forecasts_are_for_sampling(void)
{
    fv_ctx *ctx = make_ctx(1, NULL);
    CHECK(forecast(ctx, 1) == FV_ERR_STATE);
    for (int what = 0; what < 16; what++) {
        const fv_status s = forecast(ctx, what);
        const bool is_right = what == 0 || what == 5; /* 5: without a gate */
        CHECK_MSG(is_right ? s == FV_OK : s != FV_OK && s != FV_ERR_INTERNAL, "case %d: %s", what,
                  fv_status_name(s));
    }
    fv_ctx_destroy(&ctx);
}

static void options_of_another_size_are_taken_or_refused(void)
{
    fv_ctx *ctx = make_ctx(1, NULL);
    const int64_t dim = 4;
    const size_t sizes[] = { sizeof(size_t), sizeof(fv_plan_options), sizeof(fv_plan_options) + 64,
                             0, 1, SIZE_MAX };
    struct { fv_plan_options o; char tail[64]; } given = { .o = FV_PLAN_OPTIONS_INIT };
    fv_tape *t;
    OK(ctx, fv_tape_create(ctx, &t, NULL, FV_INFER, FV_F32));
    fv_output(t, "y", fv_affine(t, fv_input(t, "x", FV_F32, 1, &dim), 2.0f, 0.0f));
    given.o.external_work = 1;
    for (int i = 0; i < 6; i++) {
        fv_plan *plan;
        given.o.struct_size = sizes[i];
        const fv_status s = fv_plan_build(ctx, &plan, t, &given.o);
        CHECK_MSG(s == (i < 3 ? FV_OK : FV_ERR_ARG), "size %zu: %s", sizes[i], fv_status_name(s));
        /* The shortest struct does not reach external_work: the plan has memory of its own. */
        if (s == FV_OK) CHECK((fv_plan_set_work(plan, NULL, 0) == FV_ERR_STATE) == (i == 0));
        fv_plan_destroy(&plan);
    }
    fv_tape_destroy(&t);
    fv_ctx_destroy(&ctx);
}

int main(void)
{
    RUN(every_status_has_a_name);
    RUN(planned_equals_unshared_buffers);
    RUN(same_bytes_for_1_2_and_3_threads);
    RUN(gradient_matches_finite_differences);
    RUN(gradients_accumulate_over_runs);
    RUN(no_gradient_passes_a_detached_view);
    RUN(runs_allocate_nothing);
    RUN(every_failed_allocation_is_a_status);
    RUN(a_failed_op_poisons_the_tape);
    RUN(unbound_input_is_named);
    RUN(cancel_stops_a_run);
    RUN(work_can_be_watched_and_ended);
    RUN(memory_cap_is_kept);
    RUN(bad_shapes_and_types_are_refused);
    RUN(forecasts_are_for_sampling);
    RUN(options_of_another_size_are_taken_or_refused);
    return test_end();
}
