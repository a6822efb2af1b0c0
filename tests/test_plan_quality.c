/* test_plan_quality.c - what plans do to pictures of the shipped models: predicted errors order
 * random schedules as measured ones do, and a more elaborate planner makes better pictures of the
 * same time. Noise is disjoint from that of the calibration; times are given, so that nothing here
 * depends on a clock.
 *
 *     test_plan_quality                       F32, a few pictures
 *     test_plan_quality --full [FOLDER]       both models, as many pictures as statements need;
 *                                             plots of predicted against measured to FOLDER */
#include "dit_fixture.h"
#include "dpx.h"

#include <math.h>
#include <unistd.h>

#define MODELS FV_TEST_DIR "/../diffusion/models/"
#define SEED 100000 /* calibration: from 1 */
#define BATCH 8
#define MOST_GAP 10
#define SCHEDULES 50
#define MOST_PICTURES 64

static fv_ctx *ctx;
static bool is_full;
static const char *plots; /* folder, or NULL */

/* ---- A shipped model, its table and exact pictures ------------------------------------------- */

typedef struct subject {
    const char *name;
    fv_model *file;
    fv_dit *dit;
    fv_sens *sens;
    fv_timing *timing;
    fv_generate_options o;
    uint8_t *must; /* [T] the number of rows changes */
    int *classes;
    int T, K;
    size_t n; /* values of a picture */
    float *exact, *fast;
} subject;

/* Chosen, not measured: seconds per picture that make attention, the MLP, reuse and pruning cost in
 * about the proportions of a small DiT, so that plans do not depend on the machine. */
static fv_status script_times(subject *s)
{
    static const char times[] =
        "\"depth\":8,\"batch\":8,\"threads\":2,\"precision\":\"bf16\","
        "\"attn\":[0.0011,0.0021],\"mlp\":[0.0014,0.0027],\"reuse\":[0.00005,0.0001],"
        "\"ends\":[0.0008,0.0015],\"linear\":[0.00009,0.00018],\"skip\":[0.00003,0.00006],"
        "\"prune8\":[0.00035,0.0006],\"prune4\":[0.0005,0.0009],\"prune2\":[0.0008,0.0015],"
        "\"step\":0.0001,\"cond\":0.01,\"setup\":0.01,\"decode\":0.00005,\"correction\":1";
    char json[1024], hash[65];
    fv_hex(s->dit->hash, sizeof s->dit->hash, hash);
    snprintf(json, sizeof json, "{\"fovea_timing\":2,\"model\":\"%s\",%s}", hash, times);
    return fv_timing_parse(ctx, &s->timing, json, strlen(json));
}

static fv_status open_options(subject *s, int pictures)
{
    const dit_config *c = &s->dit->net.cfg;
    dit_schedule sc;
    s->n = (size_t)(c->input_size * c->input_size * c->channels);
    s->classes = test_alloc((size_t)pictures * sizeof *s->classes);
    for (int i = 0; i < pictures; i++) s->classes[i] = i % c->classes;
    s->o = (fv_generate_options)FV_GENERATE_OPTIONS_INIT;
    s->o.count = pictures;
    s->o.batch = BATCH;
    s->o.classes = s->classes;
    s->o.seed = SEED;
    FV_TRY(dit_schedule_create(ctx, &sc, c, &s->o));
    s->T = sc.evals;
    s->K = 2 * c->depth;
    s->must = test_alloc((size_t)s->T);
    for (int e = 1; e < s->T; e++)
        s->must[e] = dit_schedule_guided(&sc, e) != dit_schedule_guided(&sc, e - 1);
    dit_schedule_destroy(ctx, &sc);
    return FV_OK;
}

static fv_status subject_open(subject *s, const char *name, int pictures)
{
    const fv_dit_options bf16 = { .struct_size = sizeof bf16, .precision = FV_BF16 };
    char path[512];
    memset(s, 0, sizeof *s);
    s->name = name;
    snprintf(path, sizeof path, MODELS "%s.safetensors", name);
    FV_TRY(fv_model_open(ctx, &s->file, path, NULL));
    FV_TRY(fv_dit_open(ctx, &s->dit, s->file, &bf16));
    snprintf(path, sizeof path, MODELS "%s.fvsens", name);
    FV_TRY(fv_sens_read(ctx, &s->sens, path));
    FV_TRY(script_times(s));
    FV_TRY(open_options(s, pictures));
    FV_TRY(fv_sens_match(ctx, s->sens, s->dit, &s->o));
    s->exact = test_alloc((size_t)pictures * s->n * sizeof(float));
    s->fast = test_alloc((size_t)pictures * s->n * sizeof(float));
    return fv_generate_state(ctx, s->dit, &s->o, NULL, s->exact, NULL);
}

static void subject_close(subject *s)
{
    void *mem[] = { s->must, s->classes, s->exact, s->fast };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) free(mem[i]);
    fv_timing_free(&s->timing);
    fv_sens_free(&s->sens);
    fv_dit_close(&s->dit);
    fv_model_close(&s->file);
    memset(s, 0, sizeof *s);
}

static subject subject_of[2];
static int subjects;

/* Of all pictures that were made, the first `pictures` count from now on. */
static void shown(subject *s, int pictures)
{
    s->o.count = pictures;
}

/* Mean squared error and mean PSNR of the pictures of a plan to the exact ones; values are in about
 * -1..1. */
static fv_status measure(subject *s, const fv_accel *plan, double *mse, double *psnr)
{
    fv_generate_options o = s->o;
    o.accel = plan;
    FV_TRY(fv_generate_state(ctx, s->dit, &o, NULL, s->fast, NULL));
    *mse = *psnr = 0;
    for (int i = 0; i < o.count; i++) {
        double sum = 0;
        for (size_t j = (size_t)i * s->n; j < (size_t)(i + 1) * s->n; j++) {
            const double d = (double)s->fast[j] - s->exact[j];
            sum += d * d / (double)s->n;
        }
        *mse += sum / o.count;
        *psnr += 10 * log10(4 / fmax(sum, 1e-12)) / o.count;
    }
    return FV_OK;
}

/* ---- Random schedules ------------------------------------------------------------------------ */

typedef enum family { REUSE = 0, FORECAST, SKIPPING, FAMILIES } family;
static const char *const family_name[] = { "reuse", "forecasts", "forecasts and skips" };

/* Gaps of 1..most at random, anchors where rows change. */
static int random_anchors(const subject *s, uint64_t *r, int most, uint8_t *is_anchor)
{
    int count = 0;
    for (int e = 0, next = 0; e < s->T; e++) {
        is_anchor[e] = e == next || s->must[e];
        if (!is_anchor[e]) continue;
        count++;
        next = e + 1 + (int)(test_next(r) % (uint32_t)most);
    }
    return count;
}

/* Number x of a family; anchors 0: any number. */
static fv_status random_plan(const subject *s, family f, int anchors, int x, fv_accel **out)
{
    uint64_t r = (uint64_t)(1000 * (int)f + 100000 * anchors + x) * 7919 + 17;
    uint8_t is_anchor[FVI_SENS_MAX_EVALS];
    for (int i = 0; i < 4; i++) test_next(&r);
    int count = 0;
    for (int i = 0; i == 0 || (anchors && count != anchors && i < 100000); i++)
        count = random_anchors(s, &r, anchors ? 5 : 2 + (int)(test_next(&r) % 7), is_anchor);
    FV_TRY(fvi_accel_create(ctx, out, s->T, s->K / 2));
    fv_accel *a = *out;
    a->sampler = s->sens->sampler;
    a->steps = s->sens->steps;
    a->skip = DIT_SKIP_OUTPUT;
    a->past_of_anchors = f != REUSE;
    for (int e = 0; e < s->T; e++) {
        const bool is_skipped = f == SKIPPING && test_next(&r) % 2 && !is_anchor[e];
        if (is_anchor[e]) continue;
        a->skipped[e] = is_skipped;
        memset(a->action + (size_t)e * (size_t)s->K, is_skipped     ? DIT_FULL
                                                     : f == REUSE ? DIT_REUSE
                                                                  : DIT_LINEAR,
               (size_t)s->K);
    }
    if (f != REUSE) fvi_accel_weights(a, s->sens, s->must);
    fvi_accel_count(a);
    return FV_OK;
}

/* ---- Rank correlation ------------------------------------------------------------------------ */

/* Ranks from 1, equal values share the mean of theirs. */
static void ranks(const double *v, int n, double *rank)
{
    for (int i = 0; i < n; i++) {
        int below = 0, equal = 0;
        for (int j = 0; j < n; j++) {
            below += v[j] < v[i];
            equal += v[j] == v[i];
        }
        rank[i] = below + 0.5 * (equal + 1);
    }
}

static double correlation(const double *a, const double *b, int n)
{
    double ma = 0, mb = 0, ab = 0, aa = 0, bb = 0;
    for (int i = 0; i < n; i++) {
        ma += a[i] / n;
        mb += b[i] / n;
    }
    for (int i = 0; i < n; i++) {
        ab += (a[i] - ma) * (b[i] - mb);
        aa += (a[i] - ma) * (a[i] - ma);
        bb += (b[i] - mb) * (b[i] - mb);
    }
    return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : 0;
}

static double spearman(const double *a, const double *b, int n)
{
    double ra[SCHEDULES], rb[SCHEDULES];
    ranks(a, n, ra);
    ranks(b, n, rb);
    return correlation(ra, rb, n);
}

/* Spearman's coefficient by its other formula, without ties; and what ties do. */
static void rank_correlation_is_right(void)
{
    const double a[6] = { 0.1, 20, 3, 400, 5, 6 }, b[6] = { 1, 5, 3, 4, 9, 2 };
    const double ra[6] = { 1, 5, 2, 6, 3, 4 }, rb[6] = { 1, 5, 3, 4, 6, 2 };
    const double c[6] = { 2, 2, 2, 5, 5, 9 }, rc[6] = { 2, 2, 2, 4.5, 4.5, 6 };
    double sum = 0, got[6];
    for (int i = 0; i < 6; i++) sum += (ra[i] - rb[i]) * (ra[i] - rb[i]);
    NEAR(spearman(a, b, 6), 1 - 6 * sum / (6 * 35), 1e-12);
    ranks(c, 6, got);
    for (int i = 0; i < 6; i++) CHECK(got[i] == rc[i]);
    for (int i = 0; i < 6; i++) got[i] = -exp(a[i] / 50);
    NEAR(spearman(a, got, 6), -1, 1e-12);
}

/* ---- Predicted against measured -------------------------------------------------------------- */

typedef enum weighting { MEASURED = 0, UNIFORM, SIGMA, WEIGHTINGS } weighting;

/* Replaces the terminal weights: 1, or the squared steps of the noise over the signal; errors are
 * then relative to the size of a module's output. */
static void set_weights(fv_sens *s, weighting w, const float *measured)
{
    s->measured = w == MEASURED;
    for (int e = 0; e < s->evals; e++) {
        const double t = fmax(s->net_time[e], 1e-3),
                     next = e + 1 < s->evals ? s->net_time[e + 1] : 1,
                     step = (1 - t) / t - (1 - next) / next;
        s->omega[e] = w == MEASURED ? measured[e] : w == UNIFORM ? 1.0f : (float)(step * step);
    }
}

static fv_status predict(const subject *s, const fv_accel *plan, double predicted[WEIGHTINGS])
{
    float omega[FVI_SENS_MAX_EVALS];
    fv_status st = FV_OK;
    memcpy(omega, s->sens->omega, (size_t)s->T * sizeof *omega);
    for (int w = 0; w < WEIGHTINGS && st == FV_OK; w++) {
        set_weights(s->sens, (weighting)w, omega);
        st = fvi_accel_error(ctx, s->dit, &s->o, s->sens, plan, &predicted[w]);
    }
    set_weights(s->sens, MEASURED, omega);
    return st;
}

typedef struct scatter {
    double predicted[WEIGHTINGS][SCHEDULES];
    double mse[SCHEDULES], typical[SCHEDULES]; /* mean over pictures; their geometric mean */
    int n;
} scatter;

static fv_status gather(subject *s, family f, int anchors, int count, scatter *out)
{
    out->n = 0;
    for (int i = 0; i < count; i++) {
        double predicted[WEIGHTINGS], psnr;
        fv_accel *plan = NULL;
        fv_status st = random_plan(s, f, anchors, i, &plan);
        if (st == FV_OK) st = predict(s, plan, predicted);
        if (st == FV_OK) st = measure(s, plan, &out->mse[i], &psnr);
        fv_accel_free(&plan);
        if (st != FV_OK) return st;
        for (int w = 0; w < WEIGHTINGS; w++) out->predicted[w][i] = predicted[w];
        out->typical[i] = 4 * pow(10, -psnr / 10);
        out->n++;
    }
    return FV_OK;
}

static fv_status write_scatter(const char *name, scatter *const of[FAMILIES])
{
    fv_curve curve[FAMILIES];
    fv_plot_options po = FV_PLOT_OPTIONS_INIT;
    fv_image_write_options wo = FV_IMAGE_WRITE_OPTIONS_INIT;
    fv_image img = { 0 };
    char path[600], title[160];
    snprintf(title, sizeof title, "%s: random schedules", name);
    snprintf(path, sizeof path, "%s/%s_predicted.png", plots, name);
    for (int f = 0; f < FAMILIES; f++)
        curve[f] = (fv_curve){ family_name[f], of[f]->predicted[MEASURED], of[f]->typical, of[f]->n,
                               1 };
    po.title = title;
    po.x_label = "predicted squared error";
    po.y_label = "measured squared error, geometric mean";
    po.log_x = po.log_y = 1;
    wo.overwrite = 1;
    fv_status st = fv_plot(ctx, &img, curve, FAMILIES, &po);
    if (st == FV_OK) st = fv_image_write(ctx, &img, path, &wo);
    fv_image_free(ctx, &img);
    return st;
}

/* Asserted for schedules of any number of full steps, and of MSE, which is mostly that of one or
 * two pictures that become other ones. Printed beside it: geometric means of the pictures, that is
 * mean PSNR, and schedules of one number of full steps. */
static void check_order(subject *s, family f, int anchors, int count, scatter *sc)
{
    double typical[WEIGHTINGS], mse[WEIGHTINGS];
    OK(ctx, gather(s, f, anchors, count, sc));
    for (int w = 0; w < WEIGHTINGS; w++) {
        typical[w] = spearman(sc->predicted[w], sc->typical, sc->n);
        mse[w] = spearman(sc->predicted[w], sc->mse, sc->n);
    }
    printf("# %s, %d pictures, %d schedules of %s, %s: rank correlation of PSNR %.3f (uniform "
           "%.3f, sigma %.3f), of MSE %.3f (%.3f, %.3f)\n",
           s->name, s->o.count, sc->n, family_name[f], anchors ? "18 full steps" : "any number",
           typical[MEASURED], typical[UNIFORM], typical[SIGMA], mse[MEASURED], mse[UNIFORM],
           mse[SIGMA]);
    fflush(stdout);
    CHECK_MSG(anchors || mse[MEASURED] >= 0.9, "%s, %s: %.3f", s->name, family_name[f],
              mse[MEASURED]);
}

static void predictions_order(subject *s, int schedules)
{
    static scatter any[FAMILIES], equal;
    scatter *const all[FAMILIES] = { &any[REUSE], &any[FORECAST], &any[SKIPPING] };
    for (int f = 0; f < FAMILIES && !test_bad; f += is_full ? 1 : SKIPPING) {
        check_order(s, (family)f, 0, schedules, &any[f]);
        if (is_full && f == REUSE && !test_bad) check_order(s, REUSE, 18, schedules, &equal);
    }
    if (is_full && plots && !test_bad) OK(ctx, write_scatter(s->name, all));
}

static void predicted_errors_order_schedules(void)
{
    for (int i = 0; i < subjects && !test_bad; i++) {
        shown(&subject_of[i], is_full ? subject_of[i].dit->net.cfg.classes : 1); /* one of each */
        predictions_order(&subject_of[i], is_full ? SCHEDULES : 12);
    }
}

/* ---- Planners against one another ------------------------------------------------------------ */

static const fv_accel_mode ladder[] = { FV_ACCEL_FIXED, FV_ACCEL_DCS, FV_ACCEL_SODA, FV_ACCEL_DPX };
enum { LADDER = FV_ARRAY_LEN(ladder) };

/* A fixed interval, then what other planners make of its time. */
static fv_status plan_rung(const subject *s, int rung, int interval, double seconds,
                           fv_accel **out)
{
    fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
    double exact;
    a.mode = ladder[rung];
    FV_TRY(fvi_accel_seconds(ctx, s->dit, &s->o, s->timing, NULL, &exact));
    if (rung == 0) a.interval = interval;
    else a.speedup = exact / seconds * (1 - 1e-9);
    return fv_accel_plan(ctx, out, s->dit, &s->o, s->sens, s->timing, &a);
}

static void climb(subject *s, int interval)
{
    double before = 0, first = 0;
    for (int i = 0; i < (int)LADDER; i++) {
        fv_accel *plan = NULL;
        double mse = 0, psnr = 0, seconds = 0;
        OK(ctx, plan_rung(s, i, interval, first, &plan));
        fv_status st = fvi_accel_seconds(ctx, s->dit, &s->o, s->timing, plan, &seconds);
        if (st == FV_OK) st = measure(s, plan, &mse, &psnr);
        const int anchors = plan->anchors;
        const double speedup = plan->predicted_speedup;
        fv_accel_free(&plan);
        OK(ctx, st);
        printf("# %s, every %d: %s %.3fx, %d full steps, %.2f dB\n", s->name, interval,
               fv_accel_mode_name(ladder[i]), speedup, anchors, psnr);
        if (i == 0) first = seconds;
        CHECK_MSG(seconds <= first * (1 + 1e-6), "%g s, fixed interval %g s", seconds, first);
        CHECK_MSG(i == 0 || psnr >= before - 0.05, "%s: %.2f dB, below %.2f",
                  fv_accel_mode_name(ladder[i]), psnr, before);
        before = psnr;
    }
}

static void better_planners_make_better_pictures(void)
{
    for (int i = 0; i < subjects && !test_bad; i++) {
        shown(&subject_of[i], is_full ? MOST_PICTURES : 1);
        for (int n = is_full ? 2 : 3; n <= (is_full ? 4 : 3) && !test_bad; n++)
            climb(&subject_of[i], n);
    }
}

/* ---- Speed and fidelity ---------------------------------------------------------------------- */

static void falls_with_speed(subject *s)
{
    static const double R[] = { 1.25, 1.5, 2, 3, 4 };
    double before = INFINITY;
    for (size_t i = 0; i < FV_ARRAY_LEN(R); i += is_full ? 1 : 2) {
        fv_accel_options a = FV_ACCEL_OPTIONS_INIT;
        fv_accel *plan;
        double mse, psnr;
        a.speedup = R[i];
        OK(ctx, fv_accel_plan(ctx, &plan, s->dit, &s->o, s->sens, s->timing, &a));
        const double predicted = plan->predicted_speedup;
        const fv_status st = measure(s, plan, &mse, &psnr);
        fv_accel_free(&plan);
        OK(ctx, st);
        printf("# %s: %gx asked, %.3fx predicted, %.2f dB\n", s->name, R[i], predicted, psnr);
        CHECK(predicted >= R[i] * (1 - 1e-9) && predicted <= R[i] * 1.03);
        CHECK_MSG(psnr < before, "%.2f dB after %.2f", psnr, before);
        before = psnr;
    }
}

static void fidelity_falls_with_speed(void)
{
    for (int i = 0; i < subjects && !test_bad; i++) {
        shown(&subject_of[i], is_full ? MOST_PICTURES : 1);
        falls_with_speed(&subject_of[i]);
    }
}

/* The table's cost of dynamic programming is at most that of each fixed interval with as many full
 * steps, on the shipped tables. */
static void cost_on(const subject *s)
{
    for (int n = 1; n <= MOST_GAP; n++) {
        fv_accel_options fixed = FV_ACCEL_OPTIONS_INIT, soda = FV_ACCEL_OPTIONS_INIT;
        fv_accel *f, *p;
        double ef, ep;
        fixed.mode = FV_ACCEL_FIXED;
        fixed.interval = n;
        soda.mode = FV_ACCEL_SODA;
        OK(ctx, fv_accel_plan(ctx, &f, s->dit, &s->o, s->sens, NULL, &fixed));
        soda.anchors = f->anchors;
        OK(ctx, fv_accel_plan(ctx, &p, s->dit, &s->o, s->sens, NULL, &soda));
        OK(ctx, fvi_accel_error(ctx, s->dit, &s->o, s->sens, f, &ef));
        OK(ctx, fvi_accel_error(ctx, s->dit, &s->o, s->sens, p, &ep));
        CHECK_MSG(p->anchors == f->anchors && ep <= ef * (1 + 1e-12), "%s, every %d: %g above %g",
                  s->name, n, ep, ef);
        fv_accel_free(&f);
        fv_accel_free(&p);
    }
}

static void cost_is_never_above_a_fixed_interval(void)
{
    for (int i = 0; i < subjects && !test_bad; i++) cost_on(&subject_of[i]);
}

static bool open_subjects(void)
{
    subjects = is_full ? 2 : 1;
    for (int i = 0; i < subjects; i++) {
        const char *name = i ? "f64c" : "f32";
        if (subject_open(&subject_of[i], name, is_full ? MOST_PICTURES : 1) == FV_OK) continue;
        printf("Bail out! %s: %s\n", name, fv_ctx_error(ctx));
        return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    is_full = argc > 1 && strcmp(argv[1], "--full") == 0;
    plots = is_full && argc > 2 ? argv[2] : NULL;
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(rank_correlation_is_right);
    if (access(MODELS "f32.fvsens", R_OK) != 0 || access(MODELS "f64c.fvsens", R_OK) != 0) {
        SKIP(plans_of_shipped_models, "they are not in this tree");
        return test_end();
    }
    if (!open_subjects()) return 1;
    RUN(cost_is_never_above_a_fixed_interval);
    RUN(predicted_errors_order_schedules);
    RUN(better_planners_make_better_pictures);
    RUN(fidelity_falls_with_speed);
    for (int i = 0; i < subjects; i++) subject_close(&subject_of[i]);
    fv_ctx_destroy(&ctx);
    return test_end();
}
