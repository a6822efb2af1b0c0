/* test_sens.c - sensitivity tables: bands, weights and prune shares against direct computation on
 * stored outputs; calibrations that are interrupted; files of both versions. */
#include "../diffusion/soda.h"
#include "alloc_fail.h"
#include "dit_fixture.h"
#include "random_model.h"
#include "temp_dir.h"
#include "tiny_models.h"

#include <unistd.h>

#define STEPS 24
#define CLASSES 3
#define DRAWS 5 /* in batches of one picture, as features_of() has them */
#define SEED 77

static fv_ctx *ctx;
static fv_model *file;
static fv_dit *dit;
static fv_sens *table;
static int modules, tokens, width;
static size_t slot;   /* values that the largest output of an evaluation has */
static float *stored; /* [DRAWS][STEPS][modules, then the kinds of dit_skip][slot] */

static fv_generate_options use(void)
{
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    o.steps = STEPS;
    o.cfg = 1.5f; /* the default interval leaves the first steps unguided */
    return o;
}

static fv_calibrate_options options(const fv_generate_options *gen)
{
    fv_calibrate_options o = FV_CALIBRATE_OPTIONS_INIT;
    o.gen = gen;
    o.draws = DRAWS;
    o.weight_draws = 2;
    o.weight_every = 3;
    o.seed = SEED;
    return o;
}

/* Of 64 tokens. */
static fv_status write_model(const char *path)
{
    dit_config c;
    FV_TRY(random_config(ctx, "F32", CLASSES, 2, &c));
    c.patch = 2;
    return random_model(ctx, &c, 5, path);
}

/* ---- Outputs by another route --------------------------------------------------------------- */

static int kinds(void)
{
    return modules + FVI_SENS_STEP_KINDS;
}

static float *stored_at(int draw, int e, int k)
{
    return stored + (size_t)((draw * STEPS + e) * kinds() + k) * slot;
}

static size_t values_of(int e, int k)
{
    const size_t rows = table->guided[e] ? 2 : 1, S = (size_t)dit->net.cfg.input_size;
    return k == modules + DIT_SKIP_OUTPUT ? rows * S * S * 3 : rows * (size_t)(tokens * width);
}

static void keep_evaluation(const dit_walk *w, int draw, int e, const float *out)
{
    const float *embedded, *hidden = dit_runner_hidden(w->runner, &embedded);
    fv_dtype type;
    for (int k = 0; k < modules; k++)
        memcpy(stored_at(draw, e, k), dit_runner_feature(w->runner, k / 2, k % 2, &type),
               values_of(e, k) * 4);
    memcpy(stored_at(draw, e, modules + DIT_SKIP_OUTPUT), out,
           values_of(e, modules + DIT_SKIP_OUTPUT) * 4);
    float *h = stored_at(draw, e, modules + DIT_SKIP_HIDDEN),
          *r = stored_at(draw, e, modules + DIT_SKIP_RESIDUAL);
    for (size_t i = 0; i < values_of(e, 0); i++) {
        h[i] = hidden[i];
        r[i] = hidden[i] - embedded[i];
    }
}

static fv_status open_single(dit_walk *w, const dit_schedule *sc, int draw)
{
    const dit_runner_options ro = { .B = 1,
                                    .keep_outputs = true,
                                    .step_history = 1,
                                    .skip = DIT_SKIP_RESIDUAL };
    FV_TRY(dit_walk_create(ctx, w, &dit->net, dit->precision, sc, &ro));
    w->labels[0] = (int32_t)fv_rand_permute(SEED, 0, CLASSES, (uint64_t)(draw % CLASSES));
    return dit_walk_start(w, SEED + (uint64_t)draw, NULL);
}

static fv_status features_of(int draw, const dit_schedule *sc)
{
    dit_walk w;
    fv_status s = open_single(&w, sc, draw);
    for (int e = 0; e < STEPS && s == FV_OK; e++) {
        const float *out;
        int rows;
        s = dit_runner_eval(w.runner, e, w.x, NULL, &out, &rows);
        if (s == FV_OK) keep_evaluation(&w, draw, e, out);
        if (s == FV_OK) dit_walk_update(&w, e, out, rows);
    }
    dit_walk_destroy(&w);
    return s;
}

/* ---- Forecasts ------------------------------------------------------------------------------ */

#define MOST 3

typedef struct forecast {
    int count, age[MOST];
    double w[MOST];
} forecast;

static double gram(int k, int e, int n)
{
    return k < modules ? fvi_sens_gram(table, k, e, n)
                       : fvi_sens_step_gram(table, (dit_skip)(k - modules), e, n);
}

/* <F_(e-a), F_(e-b)> */
static double product(int k, int e, int a, int b)
{
    return a < b ? gram(k, e - a, b - a) : gram(k, e - b, a - b);
}

static double error_from_gram(int k, int e, const forecast *f)
{
    double sum = gram(k, e, 0);
    for (int i = 0; i < f->count; i++) {
        sum -= 2 * f->w[i] * gram(k, e, f->age[i]);
        for (int j = 0; j < f->count; j++)
            sum += f->w[i] * f->w[j] * product(k, e, f->age[i], f->age[j]);
    }
    return sum;
}

static double error_directly(int k, int e, const forecast *f)
{
    const size_t n = values_of(e, k);
    double sum = 0;
    for (int d = 0; d < DRAWS; d++)
        for (size_t i = 0; i < n; i++) {
            double v = stored_at(d, e, k)[i];
            for (int j = 0; j < f->count; j++)
                v -= f->w[j] * (double)stored_at(d, e - f->age[j], k)[i];
            sum += v * v / (double)n / DRAWS;
        }
    return sum;
}

/* Normal equations by Gauss, with a pivot: three unknowns at most. */
static forecast least_squares(int k, int e, const int *age, int count)
{
    forecast f = { .count = count };
    double a[MOST][MOST + 1];
    for (int i = 0; i < count; i++) {
        f.age[i] = age[i];
        a[i][count] = gram(k, e, age[i]);
        for (int j = 0; j < count; j++) a[i][j] = product(k, e, age[i], age[j]);
    }
    for (int c = 0; c < count; c++) {
        int p = c;
        for (int i = c; i < count; i++)
            if (fabs(a[i][c]) > fabs(a[p][c])) p = i;
        for (int j = 0; j <= count; j++) {
            const double t = a[c][j];
            a[c][j] = a[p][j];
            a[p][j] = t;
        }
        for (int i = 0; i < count; i++)
            for (int j = count; i != c && j >= c; j--) a[i][j] -= a[i][c] / a[c][c] * a[c][j];
    }
    for (int i = 0; i < count; i++) f.w[i] = a[i][count] / a[i][i];
    return f;
}

/* TaylorSeer of order count-1 on equal spacings. */
static forecast taylor(const int *age, int count)
{
    forecast f = { .count = count };
    const double h = count > 1 ? age[1] - age[0] : 1, x = age[0] / h;
    const double first[MOST] = { 1, -1, 0 }, second[MOST] = { 1, -2, 1 };
    for (int i = 0; i < count; i++) {
        f.age[i] = age[i];
        f.w[i] = (i == 0) + (count > 1 ? x * first[i] : 0) + (count > 2 ? x * x / 2 * second[i] : 0);
    }
    return f;
}

static void check_forecast(int k, int e, const forecast *f, double *error)
{
    const double direct = error_directly(k, e, f), given = error_from_gram(k, e, f);
    double size = 1;
    for (int i = 0; i < f->count; i++) size += fabs(f->w[i]);
    CHECK_MSG(fabs(given - direct) <= 1e-5 * direct + 1e-14 * size * size * gram(k, e, 0),
              "e %d output %d, %d from age %d: %g against %g", e, k, f->count, f->age[0], given,
              direct);
    *error = direct;
}

static void forecast_errors_follow_from_the_bands(void)
{
    static const struct {
        int e, count, age[MOST];
    } of[] = { { 1, 1, { 1 } },          { 6, 1, { 2 } },           { 9, 2, { 1, 2 } },
               { 12, 2, { 2, 5 } },      { 15, 3, { 1, 2, 3 } },    { 17, 3, { 2, 4, 6 } },
               { 20, 3, { 4, 8, 12 } },  { 23, 2, { 3, 20 } },      { 23, 3, { 1, 7, 13 } } };
    for (size_t i = 0; i < FV_ARRAY_LEN(of); i++)
        for (int k = 0; k < kinds() && !test_bad; k++) {
            const int e = of[i].e, last = of[i].age[of[i].count - 1];
            double best = 0, other = 0;
            CHECK(fvi_sens_known(table, e, last));
            const forecast ls = least_squares(k, e, of[i].age, of[i].count);
            check_forecast(k, e, &ls, &best);
            for (int order = 1; order <= of[i].count && !test_bad; order++) { /* 1: reuse */
                const forecast f = taylor(of[i].age, order);
                check_forecast(k, e, &f, &other);
                CHECK_MSG(best <= other * (1 + 1e-6), "e %d output %d order %d: %g above %g", e, k,
                          order - 1, best, other);
            }
            if (k < modules) {
                const forecast reuse = taylor(of[i].age, 1);
                NEAR(fvi_sens_distance(table, k, e, of[i].age[0]), error_from_gram(k, e, &reuse),
                     1e-12 * gram(k, e, 0));
            }
        }
}

static void cosine_is_near_the_mean_of_cosines(void)
{
    for (int e = 4; e < STEPS; e += 5)
        for (int k = 0; k < modules; k++) {
            double cosine = 0;
            for (int d = 0; d < DRAWS; d++) {
                const float *a = stored_at(d, e, k), *b = stored_at(d, e - 1, k);
                double aa = 0, ab = 0, bb = 0;
                for (size_t i = 0; i < values_of(e, k); i++) {
                    aa += (double)a[i] * a[i];
                    ab += (double)a[i] * b[i];
                    bb += (double)b[i] * b[i];
                }
                cosine += (1 - ab / sqrt(aa * bb)) / DRAWS;
            }
            NEAR(fvi_sens_cosine(table, k, e, 1), cosine, 0.02 * cosine + 1e-7);
        }
}

static void bands_end_where_they_should(void)
{
    CHECK(table->window == 20 && isnan(fvi_sens_gram(table, 0, 23, 21)) &&
          isnan(fvi_sens_gram(table, 0, 2, 3)) && isnan(fvi_sens_gram(table, 0, 2, -1)) &&
          isnan(fvi_sens_step_gram(table, DIT_SKIP_HIDDEN, 23, 21)));
    int first = 0;
    while (!table->guided[first]) first++;
    CHECK(first == 3 && !fvi_sens_known(table, first, 1) && fvi_sens_known(table, 23, 20));
    for (int k = 0; k < modules; k++) CHECK(fvi_sens_gate(table, k, 5) > 0);
}

/* ---- Terminal weights ----------------------------------------------------------------------- */

/* At e the network's output is that of the evaluation before; the rest is exact. */
static fv_status damage_of(const dit_schedule *sc, int draw, int e, double *mse)
{
    dit_walk w[2] = { { 0 }, { 0 } };
    fv_status s = FV_OK;
    *mse = 0;
    for (int i = 0; i < 2 && s == FV_OK; i++) {
        s = open_single(&w[i], sc, draw);
        for (int j = 0; j < STEPS && s == FV_OK; j++) {
            if (i == 1 && j == e)
                dit_walk_update(&w[i], j, stored_at(draw, e - 1, modules + DIT_SKIP_OUTPUT),
                                table->guided[j] ? 2 : 1);
            else
                s = dit_walk_advance(&w[i], j, NULL);
        }
    }
    for (int64_t i = 0; i < w[0].n && s == FV_OK; i++) {
        const double d = (double)w[0].x[i] - w[1].x[i];
        *mse += d * d / (double)w[0].n;
    }
    for (int i = 0; i < 2; i++) dit_walk_destroy(&w[i]);
    return s;
}

static void step_weights_predict_the_final_error(void)
{
    fv_generate_options o = use();
    dit_schedule sc;
    CHECK(table->measured && table->step_omega);
    OK(ctx, dit_schedule_create(ctx, &sc, &dit->net.cfg, &o));
    for (int e = 5; e < STEPS; e += 6) {
        const forecast reuse = { 1, { 1 }, { 1 } };
        double actual = 0, mse;
        for (int d = 0; d < 2; d++) {
            OK(ctx, damage_of(&sc, d, e, &mse));
            actual += mse / 2;
        }
        const double gap = error_from_gram(modules + DIT_SKIP_OUTPUT, e, &reuse),
                     predicted = fvi_sens_omega_out(table, e) * gap;
        CHECK_MSG(predicted < 6 * actual && actual < 6 * predicted, "e %d: %g against %g", e,
                  predicted, actual);
    }
    CHECK(fvi_sens_omega_step(table, DIT_SKIP_HIDDEN, 9) > 0 &&
          fvi_sens_omega_step(table, DIT_SKIP_HIDDEN, 9) ==
              fvi_sens_omega_step(table, DIT_SKIP_RESIDUAL, 9));
    dit_schedule_destroy(ctx, &sc);
}

/* ---- Pruning -------------------------------------------------------------------------------- */

typedef struct scored {
    double score;
    int token;
} scored;

static int best_first(const void *a, const void *b)
{
    const scored *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    return x->token - y->token;
}

/* Which tokens a picture computes, by the mean magnitude over its rows. */
static void choose(const float *old, int rows, int count, bool *is_exact)
{
    scored *v = test_alloc((size_t)tokens * sizeof *v);
    for (int t = 0; t < tokens; t++) {
        v[t].token = t;
        v[t].score = 0;
        for (int row = 0; row < rows; row++)
            for (int i = 0; i < width; i++)
                v[t].score += fabs((double)old[(row * tokens + t) * width + i]);
        is_exact[t] = false;
    }
    qsort(v, (size_t)tokens, sizeof *v, best_first);
    for (int i = 0; i < count; i++) is_exact[v[i].token] = true;
    free(v);
}

static void prune_directly(int l, int e, int size, int n, double *share, double *cosine)
{
    const int k = 2 * l + DIT_MLP, rows = table->guided[e] ? 2 : 1;
    double left = 0, all = 0;
    bool is_exact[64];
    *cosine = 0;
    for (int d = 0; d < DRAWS; d++) {
        const float *now = stored_at(d, e, k), *old = stored_at(d, e - n, k);
        double aa = 0, am = 0, mm = 0;
        choose(old, rows, dit_pruned_tokens(&dit->net.cfg, size), is_exact);
        for (int i = 0; i < rows * tokens * width; i++) {
            const bool exact = is_exact[i / width % tokens];
            const double a = now[i], b = old[i], m = exact ? a : b;
            left += exact ? 0 : (a - b) * (a - b);
            all += (a - b) * (a - b);
            aa += a * a;
            am += a * m;
            mm += m * m;
        }
        *cosine += (1 - am / sqrt(aa * mm)) / DRAWS;
    }
    *share = left / all;
}

static void prune_shares_are_the_direct_ones(void)
{
    CHECK(tokens == 64 && dit_pruned_tokens(&dit->net.cfg, 0) == 8);
    for (int e = 1; e < STEPS; e += 4)
        for (int l = 0; l < modules / 2; l++)
            for (int n = 1; n <= FVI_SENS_PRUNE_AGES; n++) {
                double before = 1;
                for (int size = 0; size < DIT_PRUNED && fvi_sens_known(table, e, n); size++) {
                    double share, cosine;
                    prune_directly(l, e, size, n, &share, &cosine);
                    NEAR(fvi_sens_pruned(table, l, e, size, n), share, 1e-6);
                    NEAR(fvi_sens_prune_cosine(table, l, e, size, n), cosine,
                         1e-5 * cosine + 1e-12);
                    CHECK(share < before);
                    before = share;
                }
            }
    CHECK(fvi_sens_pruned(table, 1, 20, 1, 9) == fvi_sens_pruned(table, 1, 20, 1, 3));
    CHECK(fvi_sens_pruned(table, 0, 3, 0, 1) == 1); /* another number of rows before it */
    CHECK(isnan(fvi_sens_pruned(table, 0, 3, DIT_PRUNED, 1)) &&
          isnan(fvi_sens_pruned(table, 0, 3, 0, 0)));
}

/* Less memory: some tokens stand for all, pruning keeps its own ring or is not measured. */
static void little_memory_takes_a_part_of_the_tokens(void)
{
    static const size_t bytes[] = { 2 << 20, 400 << 10 };
    fv_generate_options gen = use();
    fv_calibrate_options o = options(&gen);
    const size_t prune = (size_t)(modules / 2 * STEPS * 9);
    o.weight_draws = -1;
    for (int i = 0; i < 2; i++) {
        fv_sens *s;
        o.most_bytes = bytes[i];
        OK(ctx, fv_sens_calibrate(ctx, &s, dit, &o));
        for (int e = 5; e < STEPS; e += 4)
            for (int k = 0; k < modules; k++) {
                const double part = fvi_sens_distance(s, k, e, 1),
                             all = fvi_sens_distance(table, k, e, 1);
                CHECK_MSG(part != all && part < 2 * all && all < 2 * part, "%g against %g", part,
                          all);
            }
        CHECK(fvi_sens_step_gram(s, DIT_SKIP_OUTPUT, 9, 4) ==
              fvi_sens_step_gram(table, DIT_SKIP_OUTPUT, 9, 4));
        if (i == 0)
            CHECK(memcmp(s->pruned, table->pruned, prune * 4) == 0 &&
                  memcmp(s->prune_cosine, table->prune_cosine, prune * 4) == 0);
        for (size_t j = 0; i == 1 && j < prune; j++)
            CHECK(s->pruned[j] == 1 && s->prune_cosine[j] == 1);
        fv_sens_free(&s);
    }
}

/* ---- Amount of work ------------------------------------------------------------------------- */

typedef struct meter {
    uint64_t done, total;
    int calls, left; /* calls until it stops; 0: never */
} meter;

static int watch(void *user, const fv_progress *p)
{
    meter *m = user;
    m->done = p->done;
    m->total = p->total;
    m->calls++;
    return m->left > 0 && --m->left == 0;
}

static fv_ctx *watched(meter *m)
{
    fv_ctx_options co = FV_CTX_OPTIONS_INIT;
    fv_ctx *c = NULL;
    co.progress = watch;
    co.user = m;
    if (fv_ctx_create(&c, &co) != FV_OK) exit(1);
    return c;
}

static void runs_are_counted_and_bounded(void)
{
    fv_generate_options gen = use();
    fv_calibrate_options o = options(&gen);
    meter m = { 0 };
    double runs;
    fv_sens *s;
    fv_ctx *c = watched(&m);
    OK(ctx, fv_sens_calibrate_runs(ctx, dit, &o, &runs));
    OK(c, fv_sens_calibrate(c, &s, dit, &o));
    CHECK(s->runs == runs && m.done == m.total && fabs((double)m.done - runs * STEPS) < 1e-6);
    fv_sens_free(&s);
    fv_ctx_destroy(&c);
    /* As `gen calibrate --quick` asks for it. */
    o = (fv_calibrate_options)FV_CALIBRATE_OPTIONS_INIT;
    o.gen = &gen;
    for (int i = 0; i < 6; i++) {
        gen.sampler = i % 2 ? FV_SAMPLER_HEUN : FV_SAMPLER_EULER;
        gen.steps = i < 2 ? 50 : i < 4 ? 250 : 4;
        o.weight_every = 4;
        o.most_runs = 150;
        OK(ctx, fv_sens_calibrate_runs(ctx, dit, &o, &runs));
        CHECK_MSG(runs > 24 && runs <= 150, "%g", runs);
        o.weight_every = o.most_runs = 0;
        OK(ctx, fv_sens_calibrate_runs(ctx, dit, &o, &runs));
        CHECK(gen.steps < 50 || runs > 150);
    }
    o.most_runs = 20;
    CHECK(fv_sens_calibrate_runs(ctx, dit, &o, &runs) == FV_ERR_ARG);
    o.most_runs = -1;
    CHECK(fv_sens_calibrate_runs(ctx, dit, &o, &runs) == FV_ERR_ARG);
}

/* ---- Interrupted calibrations --------------------------------------------------------------- */

static bool is_there(const char *path)
{
    return access(path, F_OK) == 0;
}

static void same_table(const fv_sens *a, const fv_sens *b)
{
    uint8_t *x, *y;
    size_t nx, ny;
    OK(ctx, fvi_sens_encode(ctx, a, &x, &nx));
    OK(ctx, fvi_sens_encode(ctx, b, &y, &ny));
    CHECK(nx == ny && memcmp(x, y, nx) == 0);
    fv_free(ctx, x);
    fv_free(ctx, y);
}

/* Cancelled at random points until it is through. */
static void interrupted_calibrations_give_the_same_table(void)
{
    fv_generate_options gen = use();
    fv_calibrate_options o = options(&gen);
    meter m = { 0 };
    fv_sens *s = NULL;
    fv_ctx *c = watched(&m);
    uint64_t random = 4;
    int stops = 0;
    o.checkpoint = temp_path("a.part");
    for (;; stops++) {
        m.left = 40 + (int)(test_next(&random) % 120);
        const fv_status st = fv_sens_calibrate(c, &s, dit, &o);
        if (st == FV_OK) break;
        CHECK(st == FV_ERR_CANCELLED && !s && stops < 50);
        CHECK(is_there(o.checkpoint) && strstr(fv_ctx_error(c), "saved in"));
    }
    CHECK_MSG(stops >= 3 && !is_there(o.checkpoint) && m.done == m.total, "%d stops, %d of %d",
              stops, (int)m.done, (int)m.total);
    same_table(s, table);
    fv_sens_free(&s);
    m.left = 3; /* before anything is complete */
    CHECK(fv_sens_calibrate(c, &s, dit, &o) == FV_ERR_CANCELLED && !is_there(o.checkpoint));
    fv_ctx_destroy(&c);
}

/* Official DiT with guidance throughout and noise in every step; 4 tokens, which is less than any
 * size of a pruned MLP; Heun with two evaluations a step. Interrupted once, somewhere. */
static void other_samplers_calibrate_and_go_on(void)
{
    static const fv_sampler sampler[] = { FV_SAMPLER_DDPM, FV_SAMPLER_DDIM, FV_SAMPLER_DPMPP2M,
                                          FV_SAMPLER_HEUN };
    for (int i = 0; i < 4; i++) {
        const dit_config config = tiny_config(i < 3 ? DIT_OFFICIAL : DIT_F);
        tiny_model m;
        fv_generate_options gen = FV_GENERATE_OPTIONS_INIT;
        fv_calibrate_options o = options(&gen);
        fv_sens *s = NULL, *whole = NULL;
        fv_dit *d;
        meter stop = { .left = 30 + 25 * i };
        fv_ctx *c = watched(&stop);
        gen.sampler = sampler[i];
        gen.steps = 9;
        tiny_make(ctx, &config, false, &m);
        OK(ctx, fv_dit_open(ctx, &d, m.m, NULL));
        OK(ctx, fv_sens_calibrate(ctx, &whole, d, &o));
        o.checkpoint = temp_path("d.part");
        CHECK(fv_sens_calibrate(c, &s, d, &o) == FV_ERR_CANCELLED);
        OK(c, fv_sens_calibrate(c, &s, d, &o));
        same_table(s, whole);
        const int e = s->evals - 2;
        CHECK(s->measured && fvi_sens_omega_out(s, e) > 0 &&
              fvi_sens_omega_step(s, DIT_SKIP_HIDDEN, e) > 0 &&
              fvi_sens_step_gram(s, DIT_SKIP_OUTPUT, e, 0) > 0);
        if (i < 3) CHECK(fvi_sens_pruned(s, 1, e, 0, 2) < 1e-9); /* all tokens are computed */
        CHECK(s->evals == (i == 3 ? 17 : 9));
        fv_sens_free(&s);
        fv_sens_free(&whole);
        fv_ctx_destroy(&c);
        fv_dit_close(&d);
        tiny_free(&m);
    }
}

static void refuse_checkpoint(fv_calibrate_options *o, const uint8_t *bytes, size_t n,
                              fv_status least, fv_status most)
{
    fv_sens *s;
    OK(ctx, fv_write_file(ctx, o->checkpoint, bytes, n, 1));
    const fv_status st = fv_sens_calibrate(ctx, &s, dit, o);
    CHECK_MSG(st >= least && st <= most && !s && is_there(o->checkpoint), "%s: %s",
              fv_status_name(st), fv_ctx_error(ctx));
}

static void foreign_and_damaged_checkpoints_are_refused(void)
{
    fv_generate_options gen = use();
    fv_calibrate_options o = options(&gen);
    meter m = { .left = 300 };
    fv_ctx *c = watched(&m);
    uint8_t *bytes;
    size_t n;
    fv_sens *s;
    o.checkpoint = temp_path("b.part");
    CHECK(fv_sens_calibrate(c, &s, dit, &o) == FV_ERR_CANCELLED);
    fv_ctx_destroy(&c);
    OK(ctx, fv_read_file(ctx, o.checkpoint, 1 << 24, &bytes, &n));
    refuse_checkpoint(&o, bytes, 0, FV_ERR_FORMAT, FV_ERR_CHECKSUM);
    for (size_t i = 1; i < n && !test_bad; i = i < 80 ? i + 1 : i + n / 40)
        refuse_checkpoint(&o, bytes, i, FV_ERR_FORMAT, FV_ERR_CHECKSUM);
    for (size_t i = 0; i < n && !test_bad; i = i < 80 ? i + 1 : i + n / 40) {
        bytes[i] ^= (uint8_t)(1u << i % 8);
        refuse_checkpoint(&o, bytes, n, FV_ERR_FORMAT, FV_ERR_CHECKSUM);
        bytes[i] ^= (uint8_t)(1u << i % 8);
    }
    o.seed++;
    refuse_checkpoint(&o, bytes, n, FV_ERR_MODEL, FV_ERR_MODEL);
    o = options(&gen);
    o.weight_every = 2;
    o.checkpoint = temp_path("b.part");
    refuse_checkpoint(&o, bytes, n, FV_ERR_MODEL, FV_ERR_MODEL);
    o.window = 7; /* another size of file */
    refuse_checkpoint(&o, bytes, n, FV_ERR_MODEL, FV_ERR_MODEL);
    /* Counters of no run, with the right checksum. */
    o = options(&gen);
    o.checkpoint = temp_path("b.part");
    bytes[40] = DRAWS + 1;
    const uint32_t crc = fv_crc32c(0, bytes, n - 4);
    for (int i = 0; i < 4; i++) bytes[n - 4 + (size_t)i] = (uint8_t)(crc >> (8 * i));
    refuse_checkpoint(&o, bytes, n, FV_ERR_MODEL, FV_ERR_MODEL);
    unlink(o.checkpoint);
    o.checkpoint = temp_dir; /* a folder */
    CHECK(fv_sens_calibrate(ctx, &s, dit, &o) == FV_ERR_IO);
    fv_free(ctx, bytes);
}

/* ---- Files ---------------------------------------------------------------------------------- */

/* What the first version wrote: three arrays of f32. */
static size_t first_version(const fv_sens *s, uint8_t *out, size_t room)
{
    const size_t n = (size_t)(modules * STEPS * (s->window + 1)), gates = (size_t)(modules * STEPS);
    char hash[65], *p = (char *)out + 12;
    fv_hex(s->hash, 32, hash);
    memset(out, 0, room);
    memcpy(out, "FVSENS\0\1", 8);
    p += sprintf(p, "{\"version\":1,\"engine\":\"0.1.0\",\"model_sha256\":\"%s\",\"arch\":\"F32\","
                    "\"sampler\":\"euler\",\"steps\":%d,\"eta\":0,\"T\":%d,\"timesteps\":[",
                 hash, STEPS, STEPS);
    for (int e = 0; e < STEPS; e++) p += sprintf(p, "%s%.17g", e ? "," : "", s->net_time[e]);
    p += sprintf(p, "],\"guided\":[");
    for (int e = 0; e < STEPS; e++) p += sprintf(p, "%s%d", e ? "," : "", s->guided[e]);
    p += sprintf(p, "],\"cfg\":1.5,\"cfg_channels\":%d,\"samples\":5,\"seed\":\"77\",\"L\":%d,"
                    "\"M\":2,\"W\":%d,\"omega\":\"measured\",\"precision\":\"f32\",\"arrays\":["
                    "{\"name\":\"gram\",\"dtype\":\"f32\",\"shape\":[%d,%d,%d]},"
                    "{\"name\":\"gate\",\"dtype\":\"f32\",\"shape\":[%d,%d]},"
                    "{\"name\":\"omega\",\"dtype\":\"f32\",\"shape\":[%d]}]}",
                 s->cfg_channels, modules / 2, s->window, modules, STEPS, s->window + 1, modules,
                 STEPS, STEPS);
    size_t at = (size_t)(p - (char *)out);
    out[8] = (uint8_t)(at - 12);
    out[9] = (uint8_t)((at - 12) >> 8);
    at = (at + 63) / 64 * 64;
    for (size_t i = 0; i < n; i++, at += 4) {
        const float v = (float)s->gram[i];
        memcpy(out + at, &v, 4);
    }
    at = (at + 63) / 64 * 64;
    memcpy(out + at, s->gate, gates * 4);
    at = (at + gates * 4 + 63) / 64 * 64;
    memcpy(out + at, s->omega, STEPS * 4);
    at += STEPS * 4;
    const uint32_t crc = fv_crc32c(0, out, at);
    memcpy(out + at, &crc, 4);
    return at + 4;
}

static void files_of_the_first_version_are_read(void)
{
    const size_t room = 1 << 16;
    uint8_t *bytes = test_alloc(room);
    fv_generate_options o = use();
    fv_sens *s;
    const size_t n = first_version(table, bytes, room);
    OK(ctx, fv_sens_parse(ctx, &s, bytes, n));
    OK(ctx, fv_sens_match(ctx, s, dit, &o));
    CHECK(s->measured && s->runs == 0 && s->omega[7] == table->omega[7] &&
          s->gram[40] == (double)(float)table->gram[40] && s->gate[9] == table->gate[9]);
    CHECK(isnan(fvi_sens_step_gram(s, DIT_SKIP_OUTPUT, 5, 0)) &&
          isnan(fvi_sens_omega_out(s, 5)) && isnan(fvi_sens_omega_step(s, DIT_SKIP_HIDDEN, 5)) &&
          isnan(fvi_sens_pruned(s, 0, 5, 0, 1)) && isnan(fvi_sens_prune_cosine(s, 0, 5, 0, 1)));
    uint8_t *again;
    size_t size;
    fv_sens *copy;
    OK(ctx, fvi_sens_encode(ctx, s, &again, &size)); /* as the present version, still without */
    OK(ctx, fv_sens_parse(ctx, &copy, again, size));
    CHECK(!copy->step_gram && !copy->step_omega && !copy->pruned && !copy->prune_cosine);
    same_table(s, copy);
    fv_free(ctx, again);
    fv_sens_free(&copy);
    fv_sens_free(&s);
    free(bytes);
}

/* Parses what `s` would be in a file. */
static fv_status reread(const fv_sens *s, fv_sens **out)
{
    uint8_t *bytes;
    size_t n;
    *out = NULL;
    FV_TRY(fvi_sens_encode(ctx, s, &bytes, &n));
    const fv_status st = fv_sens_parse(ctx, out, bytes, n);
    fv_free(ctx, bytes);
    return st;
}

static void tables_keep_everything(void)
{
    fv_sens *s;
    OK(ctx, reread(table, &s));
    same_table(s, table);
    const size_t band = (size_t)(STEPS * 21), prune = (size_t)(modules / 2 * STEPS * 9);
    CHECK(memcmp(s->gram, table->gram, (size_t)modules * band * 8) == 0 &&
          memcmp(s->step_gram, table->step_gram, 3 * band * 8) == 0 &&
          memcmp(s->step_omega, table->step_omega, 2 * STEPS * 4) == 0 &&
          memcmp(s->pruned, table->pruned, prune * 4) == 0 &&
          memcmp(s->prune_cosine, table->prune_cosine, prune * 4) == 0);
    CHECK(s->runs == table->runs && s->runs > 0);
    fv_sens_free(&s);
}

static void values_out_of_range_are_refused(void)
{
    fv_sens *s, *out;
    OK(ctx, reread(table, &s));
    s->pruned[5] = 1.5f;
    CHECK(reread(s, &out) == FV_ERR_NUMERIC && !out);
    s->pruned[5] = 0.5f;
    s->prune_cosine[3] = NAN;
    CHECK(reread(s, &out) == FV_ERR_NUMERIC && !out);
    s->prune_cosine[3] = 0;
    s->step_gram[21] = -1e-9;
    CHECK(reread(s, &out) == FV_ERR_FORMAT && !out);
    s->step_gram[21] = 1;
    s->step_omega[2] = -1;
    CHECK(reread(s, &out) == FV_ERR_NUMERIC && !out);
    s->step_omega[2] = 1;
    s->gram[4] = INFINITY;
    CHECK(reread(s, &out) == FV_ERR_NUMERIC && !out);
    s->gram[4] = 0;
    float *one = s->prune_cosine;
    s->prune_cosine = NULL;
    CHECK(reread(s, &out) == FV_ERR_FORMAT && !out);
    s->prune_cosine = one;
    OK(ctx, reread(s, &out));
    fv_sens_free(&out);
    fv_sens_free(&s);
}

static void later_versions_are_refused(void)
{
    uint8_t *bytes;
    size_t n;
    fv_sens *s;
    OK(ctx, fvi_sens_encode(ctx, table, &bytes, &n));
    char *v = strstr((char *)bytes + 12, "\"version\":2");
    CHECK(v);
    v[strlen("\"version\":")] = '3';
    const uint32_t crc = fv_crc32c(0, bytes, n - 4);
    for (int i = 0; i < 4; i++) bytes[n - 4 + (size_t)i] = (uint8_t)(crc >> (8 * i));
    CHECK(fv_sens_parse(ctx, &s, bytes, n) == FV_ERR_VERSION && !s);
    fv_free(ctx, bytes);
}

/* ---- Failing allocations -------------------------------------------------------------------- */

/* Where the engine's plans fail is tested elsewhere: every seventh allocation is enough. */
static void failing_memory_is_reported(void)
{
    fv_generate_options gen = use();
    fv_calibrate_options o = options(&gen);
    fv_status s = FV_ERR_OOM;
    gen.steps = 4;
    o.draws = o.weight_draws = 1;
    o.checkpoint = temp_path("c.part");
    for (int limit = 0; s != FV_OK && limit < 20000; limit += 7) {
        alloc_fail heap = { .left = ALLOC_ALL };
        const fv_allocator al = alloc_fail_allocator(&heap);
        fv_ctx_options co = FV_CTX_OPTIONS_INIT;
        fv_ctx *c;
        fv_sens *t;
        co.alloc = &al;
        co.threads = 1;
        OK(ctx, fv_ctx_create(&c, &co));
        atomic_store(&heap.left, limit);
        s = fv_sens_calibrate(c, &t, dit, &o);
        CHECK((s == FV_OK) == (t != NULL) && (s == FV_OK || s == FV_ERR_OOM));
        fv_sens_free(&t);
        fv_ctx_destroy(&c);
        CHECK(atomic_load(&heap.live) == 0);
    }
    CHECK(s == FV_OK);
}

/* ---- Main ----------------------------------------------------------------------------------- */

static fv_status set_up(void)
{
    const char *path = temp_path("m.safetensors");
    fv_generate_options gen = use();
    const fv_calibrate_options o = options(&gen);
    dit_schedule sc;
    FV_TRY(write_model(path));
    FV_TRY(fv_model_open(ctx, &file, path, NULL));
    FV_TRY(fv_dit_open(ctx, &dit, file, NULL));
    FV_TRY(fv_sens_calibrate(ctx, &table, dit, &o));
    modules = 2 * dit->net.cfg.depth;
    tokens = dit_tokens(&dit->net.cfg);
    width = dit->net.cfg.width;
    slot = 2 * (size_t)(tokens * width);
    stored = test_alloc((size_t)(DRAWS * STEPS * kinds()) * slot * sizeof(float));
    FV_TRY(dit_schedule_create(ctx, &sc, &dit->net.cfg, &gen));
    fv_status s = FV_OK;
    for (int d = 0; d < DRAWS && s == FV_OK; d++) s = features_of(d, &sc);
    dit_schedule_destroy(ctx, &sc);
    return s;
}

int main(void)
{
    temp_dir_make("sens");
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    if (set_up() != FV_OK) {
        printf("Bail out! %s\n", fv_ctx_error(ctx));
        return 1;
    }
    RUN(forecast_errors_follow_from_the_bands);
    RUN(cosine_is_near_the_mean_of_cosines);
    RUN(bands_end_where_they_should);
    RUN(step_weights_predict_the_final_error);
    RUN(prune_shares_are_the_direct_ones);
    RUN(little_memory_takes_a_part_of_the_tokens);
    RUN(runs_are_counted_and_bounded);
    RUN(interrupted_calibrations_give_the_same_table);
    RUN(other_samplers_calibrate_and_go_on);
    RUN(foreign_and_damaged_checkpoints_are_refused);
    RUN(files_of_the_first_version_are_read);
    RUN(tables_keep_everything);
    RUN(values_out_of_range_are_refused);
    RUN(later_versions_are_refused);
    RUN(failing_memory_is_reported);
    free(stored);
    fv_sens_free(&table);
    fv_dit_close(&dit);
    fv_model_close(&file);
    fv_ctx_destroy(&ctx);
    return test_end();
}
