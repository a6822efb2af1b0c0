/* test_optim.c - AdamW, clipping, EMA and schedules against double references; bits do not depend
 * on threads or CPU variant. */
#include "tape.h"
#include "test.h"

static fv_ctx *context(int threads, uint32_t disable)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_ctx *c = NULL;
    o.threads = threads;
    o.cpu_disable = disable;
    return fv_ctx_create(&c, &o) == FV_OK ? c : NULL;
}

/* ---- Against the golden trajectories (computed in float64 by tests/parity/optim.py) ---------- */

enum { STEPS = 20, N = 12 };

static const float *golden(fv_model *m, const char *name)
{
    fv_tensor t;
    return fv_model_find(m, name, &t) && t.dtype == FV_F32 ? t.data : NULL;
}

typedef struct hyper {
    const char *name;
    float b2, wd, clip, ema;
    const char *ema_name;
} hyper;

static void check_trajectory(fv_model *m, const hyper *h)
{
    fv_ctx *c = context(1, 0);
    fv_params *p;
    fv_opt *o;
    char name[64];
    const float *p0 = golden(m, "p0"), *grads = golden(m, "grads");
    snprintf(name, sizeof name, "adamw_%s.p", h->name);
    const float *want = golden(m, name);
    CHECK(p0 && grads && want);
    OK(c, fv_params_create(c, &p));
    CHECK(fv_params_add(p, "w", 1, (int64_t[]){N}, FV_PARAM_DECAY) == 0);
    fv_opt_options opts = FV_OPT_OPTIONS_INIT;
    opts.beta2 = h->b2;
    opts.weight_decay = h->wd;
    opts.clip = h->clip;
    opts.ema_decay = h->ema;
    OK(c, fv_opt_create(c, &o, p, &opts));
    float *w = fv_params_tensor(p, 0).data, *g = fv_params_grad(p, 0).data;
    for (int i = 0; i < N; i++) w[i] = p0[i];
    for (int t = 0; t < STEPS; t++) {
        for (int i = 0; i < N; i++) g[i] = grads[t * N + i];
        OK(c, fv_opt_step(o, 1e-2f, NULL));
        /* each step rounds p (half an ulp of |p| < 4) and the update (some ulp of lr = 0.01); the
         * constants b, lr are rounded to f32, the largest effect being 1-b2: 1e-5 of 0.001, halved
         * by the root and by the bias correction taking the same b2 */
        for (int i = 0; i < N; i++) NEAR(w[i], want[t * N + i], (t + 1) * (2.4e-7 + 0.01 * 1e-5));
    }
    if (h->ema_name) {
        const float *e = golden(m, h->ema_name);
        CHECK(e);
        fv_opt_swap_ema(o);
        for (int i = 0; i < N; i++) NEAR(w[i], e[i], STEPS * 6e-7);
        fv_opt_swap_ema(o);
        for (int i = 0; i < N; i++) NEAR(w[i], want[(STEPS - 1) * N + i], STEPS * 4e-7);
    }
    fv_opt_destroy(&o);
    fv_params_destroy(&p);
    fv_ctx_destroy(&c);
}

static void trajectories_agree_with_float64(void)
{
    static const hyper h[] = {{"a", 0.95f, 0.0f, 0.0f, 0.9995f, "ema_warm0.e"},
                              {"b", 0.999f, 0.1f, 0.0f, 0, NULL},
                              {"clip", 0.95f, 0.01f, 1.0f, 0, NULL}};
    fv_ctx *c = context(1, 0);
    fv_model *m;
    OK(c, fv_model_open(c, &m, FV_TEST_DIR "/parity/optim.safetensors", NULL));
    for (size_t i = 0; i < FV_ARRAY_LEN(h) && !test_bad; i++) check_trajectory(m, &h[i]);
    fv_model_close(&m);
    fv_ctx_destroy(&c);
}

/* ---- Bits ------------------------------------------------------------------------------------ */

enum { PARAMS = 7 };
static const int64_t size_of[PARAMS] = {1, 16, 1009, 17, 5000, 33, 250};

typedef struct state {
    fv_ctx *c;
    fv_params *p;
    fv_opt *o;
    int64_t n;
} state;

static fv_status open_state(state *s, int threads, uint32_t disable)
{
    memset(s, 0, sizeof *s);
    s->c = context(threads, disable);
    if (!s->c) return FV_ERR_OOM;
    FV_TRY(fv_params_create(s->c, &s->p));
    for (int i = 0; i < PARAMS; i++) {
        char name[8];
        snprintf(name, sizeof name, "p%d", i);
        const uint32_t flags = (i % 2 ? FV_PARAM_DECAY : 0) | (i == 3 ? FV_PARAM_FROZEN : 0);
        if (fv_params_add(s->p, name, 1, &size_of[i], flags) != i) return FV_ERR_INTERNAL;
    }
    FV_TRY(fv_params_alloc(s->p));
    for (int i = 0; i < PARAMS; i++) fv_params_init_normal(s->p, i, 9, 1.0f);
    fv_opt_options o = FV_OPT_OPTIONS_INIT;
    o.weight_decay = 0.1f;
    o.clip = 20.0f;
    o.ema_decay = 0.99f;
    s->n = fvi_params_flat_count(s->p);
    return fv_opt_create(s->c, &s->o, s->p, &o);
}

static void close_state(state *s)
{
    fv_opt_destroy(&s->o);
    fv_params_destroy(&s->p);
    fv_ctx_destroy(&s->c);
}

static void fill_grads(state *s, uint64_t seed, float scale)
{
    for (int i = 0; i < PARAMS; i++) {
        float *g = fv_params_grad(s->p, i).data;
        test_fill(g, size_of[i], seed + (uint64_t)i);
        for (int64_t k = 0; k < size_of[i]; k++) g[k] = i == 3 ? 0 : g[k] * scale;
    }
}

static void bits_do_not_depend_on_threads_or_variant(void)
{
    static const struct {
        int threads;
        uint32_t disable;
    } v[] = {{1, FV_CPU_AVX2 | FV_CPU_AVX512},
             {1, FV_CPU_AVX512},
             {1, 0},
             {2, 0},
             {5, 0},
             {3, FV_CPU_AVX512},
             {4, FV_CPU_AVX2 | FV_CPU_AVX512}};
    state a;
    double norm[5];
    for (size_t k = 0; k < FV_ARRAY_LEN(v); k++) {
        state b;
        state *s = k ? &b : &a;
        OK(s->c, open_state(s, v[k].threads, v[k].disable));
        for (int t = 0; t < 5; t++) {
            fv_opt_info info;
            fill_grads(s, 100 + (uint64_t)t, t == 2 ? 1e-3f : 1.0f);
            OK(s->c, fv_opt_step(s->o, 1e-2f, &info));
            if (!k) norm[t] = info.grad_norm;
            CHECK_MSG(norm[t] == info.grad_norm && !info.skipped, "variant %zu", k);
            const float *g = fvi_params_grad_flat(s->p);
            for (int64_t i = 0; i < s->n; i++) CHECK(g[i] == 0);
        }
        const size_t bytes = (size_t)a.n * sizeof(float);
        if (!k) continue;
        CHECK_MSG(memcmp(fvi_params_master(a.p), fvi_params_master(b.p), bytes) == 0, "variant %zu",
                  k);
        fv_opt_swap_ema(a.o);
        fv_opt_swap_ema(b.o);
        CHECK_MSG(memcmp(fvi_params_master(a.p), fvi_params_master(b.p), bytes) == 0,
                  "ema, variant %zu", k);
        fv_opt_swap_ema(a.o);
        close_state(&b);
    }
    close_state(&a);
}

static void padding_stays_zero_and_frozen_untouched(void)
{
    state s;
    OK(s.c, open_state(&s, 2, 0));
    float before[17];
    const fv_tensor frozen = fv_params_tensor(s.p, 3);
    memcpy(before, frozen.data, sizeof before);
    for (int t = 0; t < 3; t++) {
        fill_grads(&s, 5, 1);
        OK(s.c, fv_opt_step(s.o, 0.1f, NULL));
    }
    CHECK(memcmp(before, frozen.data, sizeof before) == 0);
    fv_opt_swap_ema(s.o);
    CHECK(memcmp(before, frozen.data, sizeof before) == 0);
    fv_opt_swap_ema(s.o);
    const float *w = fvi_params_master(s.p);
    for (int i = 0; i < PARAMS; i++) {
        const int64_t end = i + 1 < PARAMS ? fvi_param_offset(s.p, i + 1) : s.n;
        for (int64_t k = fvi_param_offset(s.p, i) + size_of[i]; k < end; k++) CHECK(w[k] == 0);
    }
    close_state(&s);
}

static void norm_is_exact_and_clipping_scales(void)
{
    state s;
    fv_opt_info info;
    OK(s.c, open_state(&s, 2, 0));
    fill_grads(&s, 77, 1e18f); /* squares overflow float */
    double sum = 0;
    for (int i = 0; i < PARAMS; i++) {
        const float *g = fv_params_grad(s.p, i).data;
        for (int64_t k = 0; k < size_of[i]; k++) sum += (double)g[k] * g[k];
    }
    float *w = fv_params_tensor(s.p, 0).data;
    const float old = *w;
    OK(s.c, fv_opt_step(s.o, 1e-3f, &info));
    NEAR(info.grad_norm / sqrt(sum), 1, 6400 * 1.2e-16);
    /* first step of Adam: the size of the gradient does not matter, lr does */
    NEAR(fabs(*w - old), 1e-3, 1e-6);
    close_state(&s);
}

/* ---- Skips ----------------------------------------------------------------------------------- */

static void bad_gradients_skip_the_update(void)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    state s;
    fv_opt_info info;
    OK(s.c, open_state(&s, 1, 0));
    float *before = malloc((size_t)s.n * sizeof(float));
    CHECK(before);
    memcpy(before, fvi_params_master(s.p), (size_t)s.n * sizeof(float));
    for (int t = 0; t < 9; t++) {
        fill_grads(&s, 1, 1);
        ((float *)fv_params_grad(s.p, t % 2 ? 2 : 6).data)[7] = bad[t % 3];
        OK(s.c, fv_opt_step(s.o, 1e-2f, &info));
        CHECK(info.skipped && !isfinite(info.grad_norm));
    }
    CHECK(fv_opt_steps(s.o) == 0);
    CHECK(memcmp(before, fvi_params_master(s.p), (size_t)s.n * sizeof(float)) == 0);
    for (int64_t i = 0; i < s.n; i++) CHECK(fvi_params_grad_flat(s.p)[i] == 0);
    fill_grads(&s, 1, 1);
    OK(s.c, fv_opt_step(s.o, 1e-2f, &info)); /* ends the row */
    CHECK(!info.skipped && fv_opt_steps(s.o) == 1);
    for (int t = 0; t < 10; t++) {
        ((float *)fv_params_grad(s.p, 0).data)[0] = NAN;
        const fv_status st = fv_opt_step(s.o, 1e-2f, NULL);
        CHECK_MSG(st == (t < 9 ? FV_OK : FV_ERR_NUMERIC), "step %d: %s", t, fv_status_name(st));
    }
    free(before);
    close_state(&s);
}

static void wrong_use_is_refused(void)
{
    state s;
    OK(s.c, open_state(&s, 1, 0));
    CHECK(fv_opt_step(s.o, NAN, NULL) == FV_ERR_ARG);
    fv_opt_swap_ema(s.o);
    CHECK(fv_opt_step(s.o, 1e-3f, NULL) == FV_ERR_STATE);
    fv_opt_swap_ema(s.o);
    const fv_opt_options bad[] = {{.struct_size = sizeof *bad, .beta1 = 1},
                                  {.struct_size = sizeof *bad, .beta2 = -0.1f},
                                  {.struct_size = sizeof *bad, .eps = -1},
                                  {.struct_size = sizeof *bad, .clip = NAN},
                                  {.struct_size = sizeof *bad, .ema_decay = 1},
                                  {.struct_size = 0},
                                  {.struct_size = sizeof *bad, .weight_decay = INFINITY}};
    for (size_t i = 0; i < FV_ARRAY_LEN(bad); i++) {
        fv_opt *o = (fv_opt *)&s;
        CHECK_MSG(fv_opt_create(s.c, &o, s.p, &bad[i]) == FV_ERR_ARG && !o, "%zu", i);
    }
    fv_opt *o;
    OK(s.c, fv_opt_create(s.c, &o, s.p, NULL));
    fv_opt_swap_ema(o); /* no EMA: nothing happens */
    fill_grads(&s, 1, 1);
    OK(s.c, fv_opt_step(o, 1e-3f, NULL));
    fv_opt_destroy(&o);
    fv_opt_destroy(&o);
    close_state(&s);
}

static void average_starts_from_loaded_weights(void)
{
    state s;
    OK(s.c, open_state(&s, 1, 0));
    fv_params_fill(s.p, 2, 3.0f); /* after fv_opt_create, as loading does */
    fv_opt_swap_ema(s.o);
    CHECK(((float *)fv_params_tensor(s.p, 2).data)[5] == 3.0f);
    fv_opt_swap_ema(s.o);
    close_state(&s);
}

/* ---- Schedules ------------------------------------------------------------------------------- */

static void schedules_have_their_shape(void)
{
    for (int k = FV_LR_CONSTANT; k <= FV_LR_WSD; k++) {
        const fv_schedule_kind kind = (fv_schedule_kind)k;
        NEAR(fv_schedule(kind, 0, 100, 10, 2, 0.1), 0.2, 1e-15);
        NEAR(fv_schedule(kind, 9, 100, 10, 2, 0.1), 2, 1e-15);
        NEAR(fv_schedule(kind, 10, 100, 10, 2, 0.1), 2, 1e-15);
        double last = 2;
        for (uint64_t t = 10; t < 120; t++) {
            const double lr = fv_schedule(kind, t, 100, 10, 2, 0.1);
            CHECK(lr <= last && lr >= 0.2 - 1e-12);
            last = lr;
        }
        NEAR(last, k == FV_LR_CONSTANT ? 2 : 0.2, 1e-12);
        NEAR(fv_schedule(kind, 5, 5, 5, 2, 0.1), 2, 0); /* all warm-up */
        NEAR(fv_schedule(kind, 0, 0, 0, 2, 0.1), 2, 0);
    }
    NEAR(fv_schedule(FV_LR_COSINE, 55, 100, 10, 2, 0), 1, 1e-12);
    NEAR(fv_schedule(FV_LR_LINEAR, 55, 100, 10, 2, 0), 1, 1e-12);
    NEAR(fv_schedule(FV_LR_WSD, 80, 100, 10, 2, 0), 2, 1e-12);
    NEAR(fv_schedule(FV_LR_WSD, 90, 100, 10, 2, 0), 1, 1e-12);
}

int main(void)
{
    RUN(trajectories_agree_with_float64);
    RUN(bits_do_not_depend_on_threads_or_variant);
    RUN(padding_stays_zero_and_frozen_untouched);
    RUN(norm_is_exact_and_clipping_scales);
    RUN(bad_gradients_skip_the_update);
    RUN(wrong_use_is_refused);
    RUN(average_starts_from_loaded_weights);
    RUN(schedules_have_their_shape);
    return test_end();
}
