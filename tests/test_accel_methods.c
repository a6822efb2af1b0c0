/* test_accel_methods.c - published accelerations by name: their accounting against the papers, the
 * weights of their forecasts against the recursions, where they compute, and that they all run. */
#include "../diffusion/accel_methods.h"
#include "alloc_fail.h"
#include "dit_fixture.h"
#include "random_model.h"
#include "temp_dir.h"

#define STEPS 12
#define CLASSES 3

static fv_ctx *ctx;
static fv_model *file;
static fv_dit *dit;
static fv_sens *table;
static char model_path[128];

static fv_status write_model(void)
{
    dit_config c;
    FV_TRY(random_config(ctx, "F32", CLASSES, 4, &c));
    return random_model(ctx, &c, 5, model_path);
}

/* The default guidance interval leaves the first steps unguided: rows change once. */
static fv_generate_options base(int count)
{
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    o.count = count;
    o.steps = STEPS;
    o.cfg = 1.5f;
    o.seed = 11;
    return o;
}

static size_t state_values(int count)
{
    const dit_config *c = &dit->net.cfg;
    return (size_t)count * (size_t)(c->input_size * c->input_size * c->channels);
}

/* DiT-XL/2 as a description, without weights. */
static fv_dit xl2(void)
{
    fv_dit d = { .ctx = ctx };
    if (dit_preset(ctx, "DiT-XL/2", 1000, &d.net.cfg) != FV_OK) exit(1);
    d.row_flop = dit_row_flop(&d.net);
    return d;
}

static fv_accel *plan_xl2(const char *spec)
{
    const fv_dit d = xl2();
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    fv_accel *a = NULL;
    o.steps = 50;
    o.sampler = FV_SAMPLER_DDIM;
    o.cfg = 1.5f;
    if (fv_accel_method(ctx, &a, &d, &o, NULL, spec) == FV_OK) return a;
    printf("Bail out! %s: %s\n", spec, fv_ctx_error(ctx));
    exit(1);
}

/* ---- Accounting ----------------------------------------------------------------------------- */

/* What the papers print for 50 steps of DDIM with guidance, within 0.1 %. */
static void flop_are_those_of_the_papers(void)
{
    static const struct {
        const char *spec;
        double tera;
        int anchors;
    } paper[] = {
        { "fora:N=1", 23.735, 50 },       { "fora:N=3", 8.559, 18 },
        { "taylorseer:N=3", 8.56, 18 },   { "taylorseer:N=4", 6.662, 14 },
        { "taylorseer:N=5", 5.24, 11 },   { "taylorseer:N=6", 4.76, 10 },
        { "taylorseer:N=7", 3.82, 8 },    { "taylorseer:N=9", 3.34, 7 },
    };
    const double exact = 50 * 2 * xl2().row_flop * 1e-12;
    for (size_t i = 0; i < FV_ARRAY_LEN(paper); i++) {
        fv_accel *a = plan_xl2(paper[i].spec);
        const double tera = exact / a->flop_ratio, digits = i < 2 || i == 3 ? 0.001 : 0.003;
        CHECK(a->anchors == paper[i].anchors);
        CHECK_MSG(fabs(tera / paper[i].tera - 1) <= digits, "%s: %.4f T, paper %.3f T",
                  paper[i].spec, tera, paper[i].tera);
        fv_accel_free(&a);
    }
}

/* A pruned module costs its share, a skipped evaluation nearly nothing. */
static void partial_work_is_counted(void)
{
    fv_accel *fora = plan_xl2("toca:N=3,r0=0"), *toca = plan_xl2("toca:N=3,r0=0.07");
    fv_accel *duca = plan_xl2("duca:N=3"), *lite = plan_xl2("taylorseer:N=4,lite=1");
    fv_accel *deep = plan_xl2("taylorseer:N=4");
    CHECK(fora->anchors == 18 && toca->anchors == 20 && duca->anchors == 20);
    CHECK(toca->flop_ratio < 50.0 / 20 && toca->flop_ratio > 1.8);
    CHECK(duca->flop_ratio > toca->flop_ratio && duca->flop_ratio < 50.0 / 20);
    CHECK(lite->flop_ratio > deep->flop_ratio && lite->flop_ratio < 50.0 / 14);
    fv_accel *all[] = { fora, toca, duca, lite, deep };
    for (size_t i = 0; i < FV_ARRAY_LEN(all); i++) fv_accel_free(&all[i]);
}

/* ---- Weights -------------------------------------------------------------------------------- */

/* The released code: a dictionary of differences, updated at full steps from the old one. */
typedef struct recursion {
    double now[DIT_HISTORY], before[DIT_HISTORY];
    int have, last;
} recursion;

static void update(recursion *r, int order, int e, double f)
{
    const int had = r->have;
    memcpy(r->before, r->now, sizeof r->now);
    r->now[0] = f;
    r->have = 1;
    for (int j = 0; j < order && j < had; j++, r->have++)
        r->now[j + 1] = (r->now[j] - r->before[j]) / (e - r->last);
    r->last = e;
}

static double formula(const recursion *r, int e)
{
    double sum = 0, factorial = 1;
    for (int j = 0; j < r->have; j++) {
        sum += r->now[j] * pow(e - r->last, j) / factorial;
        factorial *= j + 1;
    }
    return sum;
}

static void taylor_equals_the_recursion(void)
{
    uint64_t seed = 3;
    for (int order = 1; order < DIT_HISTORY; order++)
        for (int even = 0; even < 2; even++) {
            char spec[64];
            recursion r = { .have = 0 };
            double f[DIT_HISTORY] = { 0 }; /* newest first */
            snprintf(spec, sizeof spec, "taylorseer:%s,order=%d", even ? "anchors=17" : "N=3",
                     order);
            fv_accel *a = plan_xl2(spec);
            for (int e = 0; e < 50; e++) {
                const size_t at = (size_t)e * 2 * (size_t)a->depth * DIT_HISTORY;
                if (a->anchor[e]) {
                    memmove(f + 1, f, (DIT_HISTORY - 1) * sizeof *f);
                    f[0] = test_next(&seed) * 1e-9;
                    update(&r, order, e, f[0]);
                    continue;
                }
                const bool is_plain = a->action[at / DIT_HISTORY] == DIT_REUSE;
                double sum = is_plain ? f[0] : 0;
                for (int i = 0; i < DIT_HISTORY && !is_plain; i++) sum += f[i] * a->weight[at + i];
                NEAR(sum, formula(&r, e), 2e-5 * (1 + fabs(sum)));
            }
            CHECK(a->history == order + 1);
            fv_accel_free(&a);
        }
}

/* 2 - x + 3 x^2 - 0.5 x^3 + 0.1 x^4, up to a degree */
static double polynomial(int degree, double x)
{
    static const double c[] = { 2, -1, 3, -0.5, 0.1 };
    double sum = 0;
    for (int j = degree; j >= 0; j--) sum = sum * x + c[j];
    return sum;
}

static void newton_and_chebyshev_are_exact_on_polynomials(void)
{
    static const int a[DIT_HISTORY] = { 20, 17, 16, 11, 9 };
    for (int order = 0; order < DIT_HISTORY; order++)
        for (int e = 21; e < 27; e++) {
            double w[DIT_HISTORY], v[DIT_HISTORY], newton = 0, cheb = 0, sum = 0;
            const double want = polynomial(order, 0.1 * e);
            fvi_forecast_weights(a, DIT_HISTORY, order, e, FVI_BASIS_NEWTON, 0, w);
            fvi_chebyshev_weights(a, DIT_HISTORY, order > 0 ? order : 1, 0, 30, e, v);
            for (int i = 0; i < DIT_HISTORY; i++) {
                newton += w[i] * polynomial(order, 0.1 * a[i]);
                cheb += v[i] * polynomial(order, 0.1 * a[i]);
                sum += v[i];
                CHECK(i <= order || w[i] == 0);
            }
            NEAR(newton, want, 1e-9 * (1 + fabs(want)));
            NEAR(cheb, want, 1e-2 * (1 + fabs(want))); /* the least ridge that stays solvable */
            NEAR(sum, 1, 1e-9);
        }
}

static void one_output_is_reuse_and_a_line_is_common(void)
{
    static const int a[DIT_HISTORY] = { 9, 6, 3, 1, 0 };
    double w[3][DIT_HISTORY];
    for (int basis = 0; basis < 3; basis++) {
        fvi_forecast_weights(a, 1, 3, 11, (fvi_basis)basis, 1, w[0]);
        CHECK(w[0][0] == 1 && w[0][1] == 0);
    }
    fvi_chebyshev_weights(a, 1, 4, 0.1, 30, 11, w[0]);
    CHECK(fabs(w[0][0] - 1) < 1e-12);
    for (int basis = 0; basis < 3; basis++)
        fvi_forecast_weights(a, DIT_HISTORY, 1, 11, (fvi_basis)basis, 1, w[basis]);
    NEAR(w[0][0], 1 + 2.0 / 3, 1e-12);
    for (int i = 0; i < DIT_HISTORY; i++) {
        NEAR(w[1][i], w[0][i], 1e-12);
        NEAR(w[2][i], w[0][i], 1e-12);
    }
    fvi_forecast_weights(a, DIT_HISTORY, 1, 11, FVI_BASIS_HERMITE, 0, w[0]);
    CHECK(w[0][0] == 1 && w[0][1] == 0); /* sigma 0: reuse */
}

/* ---- Where full evaluations are ------------------------------------------------------------- */

/* Worked out by hand from the rule; after evaluation 29 (i = 20) every second one. */
static void toca_and_duca_place_them_as_published(void)
{
    static const int at[] = { 0,  4,  5,  9,  13, 17, 19, 22, 25, 28,
                              31, 33, 35, 37, 39, 41, 43, 45, 47, 49 };
    fv_accel *toca = plan_xl2("toca"), *duca = plan_xl2("duca");
    uint8_t want[50] = { 0 };
    for (size_t i = 0; i < FV_ARRAY_LEN(at); i++) want[at[i]] = 1;
    CHECK(memcmp(toca->anchor, want, 50) == 0 && memcmp(duca->anchor, want, 50) == 0);
    CHECK(toca->score == DIT_SCORE_TOCA && toca->prunes && !toca->skipped[1]);
    /* i = 48 of a gap of 5: odd. i = 46: even to it only in the second sense, 46 mod 5 = 1. */
    CHECK(!duca->skipped[1] && duca->skipped[2] && !duca->skipped[3]);
    for (int e = 0; e < 50; e++) {
        CHECK(!duca->skipped[e] || duca->skip_weight[e * DIT_HISTORY] == 1);
        for (int l = 0; l < 28 && !want[e]; l++)
            CHECK(toca->action[(size_t)(e * 28 + l) * 2 + DIT_ATTN] == DIT_REUSE);
    }
    /* The last evaluations compute most: r = 0.07 * 2.5 * (0.8 to 1.2) * nearly 3. */
    const size_t late = (size_t)(48 * 28) * 2 + DIT_MLP;
    CHECK(toca->action[late] == DIT_PRUNE && toca->pruned[late] == 2);
    CHECK(toca->action[late + 54] == DIT_PRUNE && toca->pruned[late + 54] == 2);
    CHECK(toca->action[(size_t)28 * 2 + DIT_MLP] == DIT_REUSE); /* i = 48: the ratio is below 0 */
    fv_accel_free(&toca);
    fv_accel_free(&duca);
}

static void anchors_are_as_many_as_asked(void)
{
    static const char *const name[] = { "fora", "taylorseer", "cem", "procache", "dpcache",
                                        "hicache", "spectrum" };
    fv_generate_options o = base(1);
    for (size_t i = 0; i < FV_ARRAY_LEN(name); i++)
        for (int k = 5; k <= STEPS; k++)
            for (int with = 0; with < 2; with++) {
                fv_accel *a = NULL;
                char spec[64];
                snprintf(spec, sizeof spec, "%s:anchors=%d", name[i], k);
                OK(ctx, fv_accel_method(ctx, &a, dit, &o, with ? table : NULL, spec));
                if (!a) continue;
                CHECK_MSG(a->anchors <= k && a->anchors >= k - 1, "%s: %d", spec, a->anchors);
                CHECK(a->anchor[0] && a->anchor[2]); /* rows change at 2 */
                fv_accel_free(&a);
            }
    fv_accel *a = plan_xl2("fora:anchors=7");
    for (int j = 0; j < 7; j++) CHECK(a->anchor[(int)lround(j * 50 / 7.0)]);
    CHECK(a->anchors == 7);
    fv_accel_free(&a);
}

static void procache_gaps_do_not_grow(void)
{
    for (int k = 5; k < 40; k += 4) {
        char spec[64];
        snprintf(spec, sizeof spec, "procache:anchors=%d", k);
        fv_accel *a = plan_xl2(spec);
        int last = 0, gap = 50;
        for (int e = 1; e < 50; e++) {
            if (!a->anchor[e]) continue;
            CHECK(e - last <= gap);
            gap = e - last;
            last = e;
        }
        CHECK(a->anchors == k);
        fv_accel_free(&a);
    }
}

/* ---- Running -------------------------------------------------------------------------------- */

static void run_method(const fv_generate_options *from, const fv_sens *s, const char *spec,
                       float *x, fv_generate_stats *st)
{
    fv_generate_options o = *from;
    fv_accel *a = NULL;
    OK(ctx, fv_accel_method(ctx, &a, dit, &o, s, spec));
    o.accel = a;
    OK(ctx, fv_generate_state(ctx, dit, &o, NULL, x, st));
    fv_accel_free(&a);
}

static void every_method_runs(void)
{
    float *x = test_alloc(state_values(3) * 4), *y = test_alloc(state_values(3) * 4);
    const char *name;
    for (int heun = 0; heun < 2; heun++) {
        fv_generate_options o = base(3);
        o.batch = 2; /* and a last batch of one */
        o.sampler = heun ? FV_SAMPLER_HEUN : FV_SAMPLER_EULER;
        OK(ctx, fv_generate_state(ctx, dit, &o, NULL, y, NULL));
        for (int i = 0; (name = fv_accel_method_name(i, NULL, NULL, NULL)) != NULL; i++) {
            fv_generate_stats st;
            const bool is_tea = strcmp(name, "teacache") == 0; /* few steps: large changes */
            const bool is_rfc = strcmp(name, "rfc") == 0;
            const char *spec = is_tea   ? "teacache:threshold=0.6"
                               : is_rfc ? "rfc:threshold=4"
                                        : name;
            run_method(&o, heun ? NULL : table, spec, x, &st);
            bool is_finite = true;
            for (size_t k = 0; k < state_values(3); k++) is_finite = is_finite && isfinite(x[k]);
            CHECK_MSG(is_finite, "%s", name);
            CHECK_MSG(st.reused_modules > 0 && test_rel_l2(x, y, (int64_t)state_values(3)) < 2,
                      "%s: %lld reused, %g off", name, (long long)st.reused_modules,
                      test_rel_l2(x, y, (int64_t)state_values(3)));
        }
    }
    free(x);
    free(y);
}

static void nothing_saved_is_exact(void)
{
    static const char *const spec[] = { "fora:N=1", "toca:N=1,r0=0", "teacache:threshold=0",
                                        "rfc:threshold=0", "taylorseer:anchors=12",
                                        "cem:anchors=12", "procache:anchors=12",
                                        "dpcache:anchors=12", "clusca:N=1" };
    fv_generate_options o = base(2);
    float *x = test_alloc(state_values(2) * 4), *y = test_alloc(state_values(2) * 4);
    OK(ctx, fv_generate_state(ctx, dit, &o, NULL, x, NULL));
    for (size_t i = 0; i < FV_ARRAY_LEN(spec); i++) {
        run_method(&o, NULL, spec[i], y, NULL);
        CHECK_MSG(memcmp(x, y, state_values(2) * 4) == 0, "%s", spec[i]);
    }
    free(x);
    free(y);
}

/* Thresholds save more the larger they are; the plan serves batches of any size, again and again,
 * and the loop allocates nothing. */
static void check_policy(const char *name)
{
    float *x = test_alloc(state_values(3) * 4);
    double flop = INFINITY;
    char spec[64];
    for (int i = 0; i < 4; i++) {
        fv_generate_stats st;
        fv_generate_options o = base(2);
        snprintf(spec, sizeof spec, "%s:threshold=%g", name, 0.02 * pow(4, i));
        run_method(&o, NULL, spec, x, &st);
        CHECK(st.flop <= flop);
        flop = st.flop;
    }
    allocation_watch w = { 0 };
    fv_ctx_options co = FV_CTX_OPTIONS_INIT;
    fv_generate_options o = base(2);
    fv_accel *a = NULL;
    co.progress = watch_allocations;
    co.user = &w;
    OK(ctx, fv_ctx_create(&w.c, &co));
    snprintf(spec, sizeof spec, "%s:threshold=1", name);
    OK(w.c, fv_accel_method(w.c, &a, dit, &o, NULL, spec));
    o.accel = a;
    OK(w.c, fv_generate_state(w.c, dit, &o, NULL, x, NULL));
    CHECK(w.calls == STEPS && w.first == w.last);
    for (int n = 1; n <= 3; n += 2) {
        fv_generate_options p = base(n);
        p.accel = a;
        OK(w.c, fv_generate_state(w.c, dit, &p, NULL, x, NULL));
    }
    CHECK(fv_accel_write(w.c, a, temp_path("p.fvplan"), 1) == FV_ERR_UNSUPPORTED);
    fv_accel_free(&a);
    fv_ctx_destroy(&w.c);
    free(x);
}

static void policies_decide_while_they_run(void)
{
    check_policy("teacache");
    check_policy("rfc");
}

/* ---- SpeCa ----------------------------------------------------------------------------------- */

/* Worked out by hand: STEPS evaluations, rows change at 2. Of four modules a block of two. */
static void speca_places_full_evaluations_and_checks(void)
{
    static const struct {
        const char *spec;
        int full, checks;
    } want[] = {
        /* F d F d F d F d F d F d, checks where a draft or a full one may follow */
        { "speca:threshold=0,min=0", 6, 3 },
        { "speca:threshold=0,min=0,max=1", 6, 0 },
        { "speca:max=1", 6, 0 },
        { "speca:threshold=1e6", 4, 2 },               /* F d F d F d d c c d F d */
        { "speca:threshold=1e6,min=0,max=3", 4, 4 },   /* F d F d F c c d F c c d */
        { "speca:threshold=1e6,min=5", 4, 0 },
        { "speca:threshold=0,min=1", 5, 2 },           /* F d F d F d c F d c F d */
        { "speca:threshold=1e6,decay=1,min=0,max=12", 3, 6 },
    };
    float *x = test_alloc(state_values(2) * 4);
    const int K = 2 * dit->net.cfg.depth;
    for (size_t i = 0; i < FV_ARRAY_LEN(want); i++) {
        fv_generate_options o = base(2);
        fv_generate_stats st;
        o.batch = 2;
        run_method(&o, NULL, want[i].spec, x, &st);
        CHECK_MSG(st.full_modules == want[i].full * K + want[i].checks * 2,
                  "%s: %lld modules in full, not %d x %d + %d", want[i].spec,
                  (long long)st.full_modules, want[i].full, K, want[i].checks * 2);
        CHECK(st.reused_modules == (STEPS - want[i].full) * K);
    }
    fv_generate_options o = base(2);
    fv_generate_stats st;
    run_method(&o, NULL, "speca:threshold=1e6,decay=1e-9,min=0,max=12", x, &st);
    CHECK(st.reused_modules < (STEPS - 3) * K); /* in the end the threshold is the floor */
    free(x);
}

/* ---- ClusCa ---------------------------------------------------------------------------------- */

#define GROUPS 7
#define TOKENS 50
#define WIDTH 70 /* more than the channels that one thread moves */

static double distance_to(const float *x, const double *centre)
{
    double sum = 0;
    for (int d = 0; d < WIDTH; d++) sum += (x[d] - centre[d]) * (x[d] - centre[d]);
    return sum;
}

/* Lloyd's iterations from the same first centres, in double. */
static void plain_k_means(const float *h, int draw, int *cluster)
{
    static double centre[GROUPS][WIDTH];
    for (int k = 0; k < GROUPS; k++)
        for (int d = 0; d < WIDTH; d++)
            centre[k][d] =
                h[fv_rand_permute(0x436c7573u, (uint64_t)draw, TOKENS, (uint64_t)k) * WIDTH +
                  (uint64_t)d];
    for (int round = 0; round < 8; round++) {
        for (int i = 0; i < TOKENS; i++) {
            cluster[i] = 0;
            for (int k = 1; k < GROUPS; k++)
                if (distance_to(h + i * WIDTH, centre[k]) <
                    distance_to(h + i * WIDTH, centre[cluster[i]]))
                    cluster[i] = k;
        }
        for (int k = 0; k < GROUPS; k++)
            for (int d = 0; d < WIDTH; d++) {
                double sum = 0, n = 0;
                for (int i = 0; i < TOKENS; i++)
                    if (cluster[i] == k) {
                        sum += h[i * WIDTH + d];
                        n++;
                    }
                if (n > 0) centre[k][d] = sum / n;
            }
    }
}

static void clusters_are_those_of_plain_k_means(void)
{
    static float h[3][TOKENS * WIDTH], centre[3 * WIDTH * GROUPS];
    static uint8_t cluster[3 * TOKENS];
    const fvi_clusters c = { .ctx = ctx, .K = GROUPS, .kept = GROUPS, .tokens = TOKENS,
                             .width = WIDTH, .centre = centre, .cluster = cluster };
    for (int draw = 0; draw < 5; draw++) {
        int want[TOKENS];
        test_fill(h[0], 3 * TOKENS * WIDTH, (uint64_t)(draw + 1));
        memset(h[2], 0, sizeof h[2]); /* all equal: the first cluster */
        fvi_find_clusters(&c, draw, h[0], 3);
        for (int p = 0; p < 3; p++) {
            plain_k_means(h[p], draw, want);
            for (int i = 0; i < TOKENS; i++) CHECK(cluster[p * TOKENS + i] == want[i]);
        }
        for (int i = 0; i < TOKENS; i++) CHECK(cluster[2 * TOKENS + i] == 0);
    }
}

/* By their ranks, tokens are one of each cluster, the one of the largest draw, then the second of
 * each, and so on. */
static void a_token_of_each_cluster_comes_first(void)
{
    static float score[2 * TOKENS], draw[TOKENS];
    static uint8_t cluster[2 * TOKENS];
    const fvi_clusters c = { .ctx = ctx, .K = GROUPS, .kept = 24, .tokens = TOKENS,
                             .score = score, .draw = draw, .cluster = cluster };
    for (uint64_t seed = 1; seed < 20; seed++) {
        uint64_t state = seed;
        for (int i = 0; i < TOKENS; i++) /* one is empty, and draws may be equal */
            cluster[TOKENS + i] = (uint8_t)(test_next(&state) % (GROUPS - 1));
        fv_rand_uniform(seed, FV_STREAM_USER, 0, 0, TOKENS, draw);
        for (int i = 0; seed % 2 && i < TOKENS; i++) draw[i] = floorf(draw[i] * 4) / 4;
        fvi_rank_tokens(&c, 1);
        int last_round = 0;
        for (int i = 0; i < TOKENS; i++) {
            int round = 0; /* tokens of its cluster that come before it */
            for (int j = 0; j < TOKENS; j++)
                round += cluster[TOKENS + j] == cluster[TOKENS + i] &&
                         (draw[j] > draw[i] || (draw[j] == draw[i] && j < i));
            const float v = score[TOKENS + i];
            CHECK(v == draw[i] - (float)round || v == -1 - (float)TOKENS);
            if (v >= -(float)TOKENS && round > last_round) last_round = round;
        }
        for (int i = 0; i < TOKENS; i++) /* nobody is left out of a round before the last */
            CHECK(score[TOKENS + i] > -(float)TOKENS || last_round > 0);
        int ranked = 0, earlier = 0;
        for (int i = 0; i < TOKENS; i++) {
            ranked += score[TOKENS + i] >= -(float)last_round;
            earlier += score[TOKENS + i] >= 1 - (float)last_round;
        }
        CHECK(ranked >= 24 && earlier < 24);
    }
}

/* Full evaluations as TaylorSeer's; between them attention is forecast, and of MLPs the part of
 * tokens nearest to the number of clusters is computed, and counted. */
static void clusca_computes_a_token_of_each_cluster(void)
{
    static const struct {
        const char *spec;
        int which;
    } sizes[] = { { "clusca", 0 }, { "clusca:clusters=48", 0 }, { "clusca:clusters=49", 1 },
                  { "clusca:clusters=64", 1 } };
    fv_accel *taylor = plan_xl2("taylorseer:N=4");
    const double exact = 50 * 2 * xl2().row_flop;
    const double N = 256, D = 1152, mlp = 2 * (8 * N * D * D + 2 * D * D); /* and its modulation */
    for (size_t i = 0; i < FV_ARRAY_LEN(sizes); i++) {
        fv_accel *a = plan_xl2(sizes[i].spec);
        CHECK(memcmp(a->anchor, taylor->anchor, 50) == 0 && a->score == DIT_SCORE_GIVEN);
        CHECK(a->history == 3 && a->policy);
        for (int k = 2 * 56; k < 3 * 56; k++) {
            CHECK(a->action[k] == (k % 2 ? DIT_PRUNE : DIT_LINEAR));
            CHECK(k % 2 == 0 || a->pruned[k] == sizes[i].which);
        }
        const double more = exact / a->flop_ratio - exact / taylor->flop_ratio,
                     share = sizes[i].which ? 0.25 : 0.125;
        NEAR(more, (50 - 14) * 2 * 28 * share * mlp, 1e-6 * exact);
        fv_accel_free(&a);
    }
    fv_accel_free(&taylor);
}

/* What is spread changes a little, more clusters than tokens are computed change nothing; pictures
 * do not depend on their batch. */
static void clusca_options_do_what_they_say(void)
{
    static const char *const spec[] = { "clusca:N=3", "clusca:N=3,spread=0", "clusca:N=3,spread=1",
                                        "clusca:N=3,clusters=64" };
    const size_t n = state_values(2);
    float *x[4], *one = test_alloc(n * 4);
    fv_generate_options o = base(2);
    fv_generate_stats st, taylor;
    run_method(&o, NULL, "taylorseer:N=3", one, &taylor);
    for (int i = 0; i < 4; i++) {
        x[i] = test_alloc(n * 4);
        run_method(&o, NULL, spec[i], x[i], &st);
        CHECK(st.flop > taylor.flop && st.full_modules == taylor.full_modules);
        CHECK(test_rel_l2(x[i], one, (int64_t)n) > 1e-5);
    }
    const double little = test_rel_l2(x[0], x[1], (int64_t)n),
                 much = test_rel_l2(x[2], x[1], (int64_t)n);
    CHECK_MSG(little > 1e-7 && much > 20 * little, "%g, %g", little, much);
    o.batch = 1;
    run_method(&o, NULL, spec[0], one, NULL);
    CHECK(test_rel_l2(one, x[0], (int64_t)n) <= 1e-6);
    for (int i = 0; i < 4; i++) free(x[i]);
    free(one);
}

/* ---- Requests ------------------------------------------------------------------------------- */

static void wrong_requests_are_refused(void)
{
    static const struct {
        const char *spec;
        fv_status status;
        const char *says;
    } bad[] = {
        { "taylorser", FV_ERR_UNKNOWN, "nearest is \"taylorseer\"" },
        { "", FV_ERR_UNKNOWN, "nearest" },
        { "toca:ro=0.1", FV_ERR_UNKNOWN, "nearest is \"r0\"" },
        { "fora:N", FV_ERR_ARG, "key=value" },
        { "fora:N=", FV_ERR_ARG, "whole number from 1 to 12" },
        { "fora:N=0", FV_ERR_ARG, "from 1 to 12" },
        { "fora:N=13", FV_ERR_ARG, "from 1 to 12" },
        { "fora:N=2.5", FV_ERR_ARG, "whole number" },
        { "fora:N=nan", FV_ERR_ARG, "number" },
        { "fora:N=2,N=3", FV_ERR_ARG, "twice" },
        { "fora:N=2,anchors=3", FV_ERR_ARG, "exclude" },
        { "fora:anchors=1", FV_ERR_ARG, "at least 2" },
        { "dpcache:anchors=2", FV_ERR_ARG, "first 3" },
        { "taylorseer:form=old", FV_ERR_ARG, "official|newton" },
        { "taylorseer:order=5", FV_ERR_ARG, "1 to 4" },
        { "teacache:threshold=-1", FV_ERR_ARG, "from 0" },
        { "speca:threshold=-0.1", FV_ERR_ARG, "from 0" },
        { "speca:decay=0", FV_ERR_ARG, "1e-09 to 1" },
        { "speca:decay=1.5", FV_ERR_ARG, "1e-09 to 1" },
        { "speca:min=-1", FV_ERR_ARG, "0 to 12" },
        { "speca:max=0", FV_ERR_ARG, "1 to 12" },
        { "speca:max=13", FV_ERR_ARG, "1 to 12" },
        { "speca:min=4,max=3", FV_ERR_ARG, "more than max" },
        { "speca:order=5", FV_ERR_ARG, "1 to 4" },
        { "clusca:clusters=0", FV_ERR_ARG, "1 to 64" },
        { "clusca:clusters=65", FV_ERR_ARG, "1 to 64" },
        { "clusca:spread=1.01", FV_ERR_ARG, "0 to 1" },
        { "clusca:N=2,anchors=3", FV_ERR_ARG, "exclude" },
    };
    fv_generate_options o = base(1);
    char text[400];
    fv_accel *a = NULL;
    for (size_t i = 0; i < FV_ARRAY_LEN(bad); i++) {
        CHECK_MSG(fv_accel_method(ctx, &a, dit, &o, NULL, bad[i].spec) == bad[i].status, "%s",
                  bad[i].spec);
        CHECK_MSG(strstr(fv_ctx_error(ctx), bad[i].says), "%s: %s", bad[i].spec,
                  fv_ctx_error(ctx));
        CHECK(a == NULL);
    }
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = 0;
    CHECK(fv_accel_method(ctx, &a, dit, &o, NULL, text) == FV_ERR_ARG);
    CHECK(fv_accel_method(ctx, &a, dit, &o, NULL, NULL) == FV_ERR_ARG);
    o.steps = STEPS + 1;
    CHECK(fv_accel_method(ctx, &a, dit, &o, table, "cem") == FV_ERR_MODEL);
    CHECK(fv_accel_method_name(-1, NULL, NULL, NULL) == NULL);
}

static void failing_memory_is_reported(void)
{
    static const char *const spec[] = { "teacache", "rfc", "speca", "clusca", "cem", "dpcache",
                                        "taylorseer" };
    fv_generate_options o = base(1);
    for (size_t i = 0; i < FV_ARRAY_LEN(spec); i++) {
        bool done = false;
        for (int n = 0; n < 200 && !done; n++) {
            alloc_fail heap = { .left = ALLOC_ALL };
            fv_ctx_options co = FV_CTX_OPTIONS_INIT;
            const fv_allocator al = alloc_fail_allocator(&heap);
            fv_ctx *c;
            fv_accel *a = NULL;
            co.alloc = &al;
            OK(ctx, fv_ctx_create(&c, &co));
            heap.left = n;
            const fv_status s = fv_accel_method(c, &a, dit, &o, table, spec[i]);
            done = s == FV_OK;
            CHECK(done ? a != NULL : s == FV_ERR_OOM && a == NULL);
            heap.left = ALLOC_ALL;
            fv_accel_free(&a);
            fv_ctx_destroy(&c);
            CHECK(heap.live == 0);
        }
        CHECK(done);
    }
}

static fv_status set_up(void)
{
    fv_generate_options use = base(1);
    fv_calibrate_options o = FV_CALIBRATE_OPTIONS_INIT;
    o.gen = &use;
    o.draws = 2;
    o.weight_draws = -1;
    o.seed = 77;
    FV_TRY(write_model());
    FV_TRY(fv_model_open(ctx, &file, model_path, NULL));
    FV_TRY(fv_dit_open(ctx, &dit, file, NULL));
    return fv_sens_calibrate(ctx, &table, dit, &o);
}

int main(void)
{
    temp_dir_make("methods");
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    snprintf(model_path, sizeof model_path, "%s/m.safetensors", temp_dir);
    RUN(flop_are_those_of_the_papers);
    RUN(partial_work_is_counted);
    RUN(taylor_equals_the_recursion);
    RUN(newton_and_chebyshev_are_exact_on_polynomials);
    RUN(one_output_is_reuse_and_a_line_is_common);
    RUN(toca_and_duca_place_them_as_published);
    RUN(procache_gaps_do_not_grow);
    RUN(clusters_are_those_of_plain_k_means);
    RUN(a_token_of_each_cluster_comes_first);
    RUN(clusca_computes_a_token_of_each_cluster);
    if (set_up() != FV_OK) {
        printf("Bail out! %s\n", fv_ctx_error(ctx));
        return 1;
    }
    RUN(anchors_are_as_many_as_asked);
    RUN(every_method_runs);
    RUN(nothing_saved_is_exact);
    RUN(policies_decide_while_they_run);
    RUN(speca_places_full_evaluations_and_checks);
    RUN(clusca_options_do_what_they_say);
    RUN(wrong_requests_are_refused);
    RUN(failing_memory_is_reported);
    fv_sens_free(&table);
    fv_dit_close(&dit);
    fv_model_close(&file);
    fv_ctx_destroy(&ctx);
    return test_end();
}
