/* test_distill_dit.c - students of official DiTs: the bounds on learned variances against their
 * definition in double precision, and trainings on latents. */
#include "../distill/distill_net.h"

#include <math.h>

#include "random_model.h"
#include "tar_writer.h"
#include "test.h"
#include "training.h"

#define GOLDEN(name) FV_TEST_DIR "/parity/" name

static fv_ctx *ctx;
static fv_model *teacher, *vae, *student; /* of the next training */

/* ---- Bounds ---------------------------------------------------------------------------------- */

#define ROWS 5
#define VALUES 24

/* As published: abar of t and t-1, x_0, noise; what the student says of noise and range. */
typedef struct sample { int t; double x0, noise, said, range, teacher, teacher_range; } sample;

static double abar_at(int t)
{
    double product = 1;
    for (int i = 0; i <= t; i++) product *= 1 - (1e-4 + (0.02 - 1e-4) * i / 999);
    return product;
}

static double posterior_log(int t)
{
    if (t == 0) t = 1;
    const double a = abar_at(t), before = abar_at(t - 1);
    return log((1 - a / before) * (1 - before) / (1 - a));
}

/* Mean of one step back from x_t, as its noise says. */
static double step_mean(const sample *s, double noise)
{
    const double a = abar_at(s->t), before = s->t ? abar_at(s->t - 1) : 1, beta = 1 - a / before;
    const double x = sqrt(a) * s->x0 + sqrt(1 - a) * s->noise;
    const double guess = (x - sqrt(1 - a) * noise) / sqrt(a);
    return beta * sqrt(before) / (1 - a) * guess + (1 - before) * sqrt(1 - beta) / (1 - a) * x;
}

static double step_log(const sample *s, double range)
{
    const double most = log(1 - abar_at(s->t) / (s->t ? abar_at(s->t - 1) : 1)), v = (range + 1) / 2;
    return v * most + (1 - v) * posterior_log(s->t);
}

static double below(double x)
{
    return 0.5 * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

/* -log of the mass around x_0, in nats. */
static double discretised(const sample *s)
{
    const double narrow = exp(-0.5 * step_log(s, s->range)), d = s->x0 - step_mean(s, s->said);
    const double high = below(narrow * (d + 1 / 255.0)), low = below(narrow * (d - 1 / 255.0));
    if (s->x0 < -0.999) return -log(fmax(high, 1e-12));
    if (s->x0 > 0.999) return -log(fmax(1 - low, 1e-12));
    return -log(fmax(high - low, 1e-12));
}

static double kl(double m1, double l1, double m2, double l2)
{
    return 0.5 * (l2 - l1 - 1 + exp(l1 - l2) + (m1 - m2) * (m1 - m2) * exp(-l2));
}

/* Bits; against the teacher, or against the picture. */
static double bits(const sample *s, bool by_teacher)
{
    const double m = step_mean(s, s->said), l = step_log(s, s->range);
    if (s->t == 0) return discretised(s) / log(2);
    if (by_teacher) return kl(step_mean(s, s->teacher), step_log(s, s->teacher_range), m, l) / log(2);
    return kl(step_mean(s, s->noise), posterior_log(s->t), m, l) / log(2);
}

typedef struct bound_rig {
    sample of[ROWS * VALUES];
    float said[ROWS * VALUES], range[ROWS * VALUES], teacher[ROWS * VALUES], x0[ROWS * VALUES];
    distill_nets n;
    fv_plan *plan;
} bound_rig;

/* First steps, with x_0 at both edges and between them, and later ones; said noise near the true one,
 * since otherwise a first step has no mass at all. */
static void fill_rig(bound_rig *r)
{
    static const int time[ROWS] = { 0, 0, 1, 400, 999 };
    for (int i = 0; i < ROWS * VALUES; i++) {
        sample *s = &r->of[i];
        float u[6];
        fv_rand_normal(3, FV_STREAM_USER, (uint32_t)i, 0, 6, u);
        s->t = time[i / VALUES];
        r->x0[i] = i % 5 == 0 ? -1.5f : i % 5 == 1 ? 1.5f : 0.3f * u[0];
        r->n.batch.target[i] = u[1];
        r->said[i] = u[1] + 0.3f * u[2];
        r->range[i] = 0.5f * u[3];
        r->teacher[i] = u[1] + 0.2f * u[4];
        r->n.range[i] = 0.5f * u[5];
        *s = (sample){ s->t, r->x0[i], u[1], r->said[i], r->range[i], r->teacher[i], r->n.range[i] };
        r->n.batch.time[i / VALUES] = (float)s->t;
    }
}

static void record_rig(bound_rig *r, fv_params *none, bool with_teacher)
{
    const int64_t dim[4] = { ROWS, 2, 3, VALUES / 6 };
    fv_tape *t;
    fv_t vb = 0, vb_kd = 0;
    OK(ctx, fv_tape_create(ctx, &t, none, FV_TRAIN, FV_F32));
    distill_vb_input in = { fv_input_grad(t, "noise", FV_F32, 4, dim),
                            fv_input_grad(t, "range", FV_F32, 4, dim),
                            fv_input(t, "target", FV_F32, 4, dim),
                            fv_input(t, "teacher", FV_F32, 4, dim),
                            fv_input(t, "teacher_range", FV_F32, 4, dim) };
    distill_record_vb(&r->n, t, &in, &vb, &vb_kd);
    fv_output(t, "loss", with_teacher ? vb_kd : vb);
    OK(ctx, fv_plan_finish(ctx, &r->plan, &t, NULL));
    r->n.student_plan = r->plan;
    OK(ctx, distill_feed_vb(&r->n));
    OK(ctx, fv_plan_bind(r->plan, "noise", r->said));
    OK(ctx, fv_plan_bind(r->plan, "range", r->range));
    OK(ctx, fv_plan_bind(r->plan, "target", r->n.batch.target));
    OK(ctx, fv_plan_bind(r->plan, "teacher", r->teacher));
    OK(ctx, fv_plan_bind(r->plan, "teacher_range", r->n.range));
}

/* Value, and gradients: of the range against differences of the definition, of the noise none. */
static void check_rig(bound_rig *r, bool with_teacher)
{
    double mean = 0;
    OK(ctx, fv_plan_forward(r->plan));
    OK(ctx, fv_plan_backward(r->plan, "loss", 1.0f));
    for (int i = 0; i < ROWS * VALUES; i++) mean += bits(&r->of[i], with_teacher);
    mean /= ROWS * VALUES;
    NEAR(*(const float *)fv_plan_value(r->plan, "loss").data, mean, 2e-5 * mean);
    const float *g = fv_plan_grad(r->plan, "range").data, *none = fv_plan_grad(r->plan, "noise").data;
    for (int i = 0; i < ROWS * VALUES; i++) {
        sample low = r->of[i], high = r->of[i];
        const double h = 1e-4;
        low.range -= h;
        high.range += h;
        const double want = (bits(&high, with_teacher) - bits(&low, with_teacher)) / (2 * h) /
                            (ROWS * VALUES);
        CHECK_MSG(fabs(g[i] - want) < 1e-3 * fabs(want) + 1e-7, "%d of t %d: %g, not %g", i,
                  low.t, (double)g[i], want);
        CHECK(!none || none[i] == 0);
    }
}

static void bounds_are_those_of_their_definition(void)
{
    static bound_rig r;
    fv_params *none;
    r.n.ctx = ctx;
    r.n.batch.count = ROWS;
    r.n.batch.values = VALUES;
    r.n.batch.target = fv_calloc(ctx, ROWS * VALUES, sizeof(float));
    r.n.batch.time = fv_calloc(ctx, ROWS, sizeof(float));
    OK(ctx, distill_make_vb(&r.n));
    fill_rig(&r);
    distill_fill_vb(&r.n, r.x0);
    OK(ctx, fv_params_create(ctx, &none));
    for (int k = 0; k < 2; k++) {
        record_rig(&r, none, k);
        check_rig(&r, k);
        fv_plan_destroy(&r.plan);
    }
    r.n.student_plan = NULL;
    fv_params_destroy(&none);
    distill_close(&r.n);
}

/* ---- Trainings ------------------------------------------------------------------------------- */

static void make_data(const char *path, const char *classes)
{
    static uint8_t ppm[32 * 32 * 3 + 64];
    tar t = { 0 };
    for (; *classes; classes++)
        for (int i = 0; i < 40; i++) {
            char name[32];
            size_t n = (size_t)sprintf((char *)ppm, "P6 32 32 255\n");
            for (int p = 0; p < 32 * 32 * 3; p++)
                ppm[n++] = (uint8_t)(128 + 100 * sin(0.05 * (i + 1) * (p / 3 % 32) + p / 96 +
                                                     *classes + p % 3));
            snprintf(name, sizeof name, "%c/%d.ppm", *classes, i);
            put_entry(&t, "", name, '0', ppm, n);
        }
    save_tar(&t, temp_path(path));
}

enum { ENCODER = 1, DECODER = 2 };

/* One of its halves under "vae.", as in a file of all parts. */
static void put_half(fv_pack *p, const char *path, const char *half)
{
    fv_model *m = NULL;
    OK(ctx, fv_model_open(ctx, &m, path, NULL));
    for (int i = 0; i < fv_model_count(m); i++) {
        fv_tensor from;
        char name[128];
        fv_model_tensor(m, i, &from);
        fv_tensor t = from;
        OK(ctx, fv_pack_floats(ctx, "tensor", &t));
        OK(ctx, fv_convert(ctx, from.dtype, from.data, fv_tensor_count(&from), FV_F32, t.data));
        snprintf(name, sizeof name, "vae.%s.%s", half, fv_model_name(m, i));
        OK(ctx, fv_pack_give(p, name, &t, FV_F32));
    }
    fv_model_close(&m);
}

/* An official DiT of 4 x 4 latents, three classes without names; with halves of an autoencoder. */
static void make_model(const char *name, int depth, int out_channels, int halves)
{
    dit_config c;
    dit_net n;
    fv_meta m;
    fv_pack p;
    OK(ctx, random_config(ctx, "DiT-S/2", 3, depth, &c));
    c.input_size = 4;
    c.out_channels = out_channels;
    OK(ctx, random_net(ctx, &n, &c, 7, 0.1f));
    OK(ctx, dit_config_meta(ctx, &c, &m));
    OK(ctx, fv_pack_create(ctx, &p));
    OK(ctx, fv_meta_write(&m, p.writer));
    OK(ctx, fv_pack_params(&p, n.params, "", FV_F32));
    if (halves & ENCODER) put_half(&p, GOLDEN("taesd_encoder_small.safetensors"), "encoder");
    if (halves & DECODER) put_half(&p, GOLDEN("taesd_decoder_small.safetensors"), "decoder");
    OK(ctx, fv_model_writer_finish(p.writer, temp_path(name), 1));
    fv_pack_free(&p);
    fv_meta_free(ctx, &m);
    dit_net_destroy(ctx, &n);
}

static fv_model *open_model(const char *path)
{
    fv_model *m = NULL;
    if (fv_model_open(ctx, &m, path, NULL) != FV_OK) exit(1);
    return m;
}

static fv_status with_teacher(fv_ctx *c, fv_recipe *r, const fv_trainer_options *o,
                              fv_train_result *result)
{
    fv_distill_options d = FV_DISTILL_OPTIONS_INIT;
    d.teacher = teacher;
    d.student = student;
    d.vae = vae;
    d.trainer = *o;
    return fv_distill_train(c, r, &d, result);
}

static const char *const usual =
    "data = two.tar\nworkers = -1\nflip = no\nbatch = 4\nlr = 2e-3\nema = 0.9\nprecision = f32\n"
    "export = f32\neval_batches = 1\neval_every = 2\nwarmup = 1\nsave_every = 2\nsteps = 4\n"
    "log_every = 1\nsample_every = 4\nsample_columns = 2\n";

static fv_status train(fv_ctx *c, const char *out, const char *more, int resume)
{
    if (!resume) {
        char folder[160];
        snprintf(folder, sizeof folder, "run-%s", out);
        temp_remove_tree(temp_path(folder));
    }
    return train_recipe(c, with_teacher, usual, more, out, NULL, resume);
}

static double number(const char *model, const char *key)
{
    fv_model *m = open_model(temp_path(model));
    const double v = fv_model_meta(m, key) ? atof(fv_model_meta(m, key)) : NAN;
    fv_model_close(&m);
    return v;
}

/* The n last values of the last row of run-OUT/metrics.csv, of which empty ones are NaN. */
static void last_values(const char *out, int n, double *v)
{
    char path[160], line[512], last[512] = "";
    snprintf(path, sizeof path, "run-%s/metrics.csv", out);
    FILE *f = fopen(temp_path(path), "r");
    while (f && fgets(line, sizeof line, f)) snprintf(last, sizeof last, "%s", line);
    if (f) fclose(f);
    for (int k = n - 1; k >= 0; k--) {
        char *comma = strrchr(last, ',');
        v[k] = comma && comma[1] > ' ' ? atof(comma + 1) : NAN;
        if (comma) *comma = 0;
    }
}

static void a_copy_has_nothing_to_learn(void)
{
    double v[9]; /* diff, kd, feat, coarse, fine, w, m, vb, vb_kd */
    student = teacher;
    OK(ctx, train(ctx, "copy", "steps = 1\nlr = 1e-30\nt_mu = 0\n", 0));
    student = NULL;
    last_values("copy", 9, v);
    NEAR(v[1], 0, 1e-4);
    NEAR(v[2], 0, 1e-8);
    NEAR(v[5], 1, 1e-3);
    CHECK(v[0] > 0.1 && v[7] > 0);
    CHECK(v[8] >= 0 && v[8] < v[7]);
    NEAR(number("copy", "fovea.distill.distance"), 0, 1e-8);
    const double held = number("copy", "fovea.distill.heldout");
    NEAR(held, number("copy", "fovea.distill.heldout_teacher"), 1e-4 * held);
}

/* The file draws, has the teacher's autoencoder, and the sheet of samples is there. */
static void check_student(const char *name, int depth)
{
    fv_model *m = open_model(temp_path(name));
    fv_dit *dit = NULL;
    fv_dit_info info;
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    fv_image img = { 0 };
    OK(ctx, fv_dit_open(ctx, &dit, m, NULL));
    fv_dit_get_info(dit, &info);
    CHECK(info.is_official && info.depth == depth && info.classes == 3 && info.image_size == 32);
    o.steps = 3;
    OK(ctx, fv_generate(ctx, dit, &o, &img, NULL));
    CHECK(img.width == 32 && img.height == 32);
    fv_image_free(ctx, &img);
    fv_dit_close(&dit);
    fv_model_close(&m);
}

static void students_learn_on_latents(void)
{
    char more[200];
    double first[9], last[9];
#define PRUNED "prune_blocks = 2\n"
#define LONGER PRUNED "steps = 150\neval_every = 150\nlog_every = 50\nlr = 5e-3\nl_diff = 0\n" \
                      "sample_every = 0\nl_feat = 0\n"
    for (int k = 0; k < 4; k++) {
        static const char *const loss[] = { "none", "feat", "lift", "place" };
        snprintf(more, sizeof more, PRUNED "loss = %s\n", loss[k]);
        OK(ctx, train(ctx, "one", more, 0));
        last_values("one", 9, last);
        CHECK_MSG(isnan(last[1]) == (k == 0) && isnan(last[8]) == (k == 0), "%s", loss[k]);
        CHECK_MSG(last[7] > 0 && (k == 0 || last[8] > 0), "%s", loss[k]);
    }
    check_student("one", 2);
    CHECK(access(temp_path("run-one/sample-00000004.png"), F_OK) == 0);
    OK(ctx, train(ctx, "before", LONGER "lr = 1e-30\n", 0)); /* the same states, nothing moves */
    last_values("before", 9, first);
    const double was = number("before", "fovea.distill.distance");
    for (int k = 0; k < 2; k++) {
        static const char *const loss[] = { "out", "place" };
        snprintf(more, sizeof more, LONGER "loss = %s\n", loss[k]);
        OK(ctx, train(ctx, "after", more, 0));
        const double now = number("after", "fovea.distill.distance");
        CHECK_MSG(now < (k ? 0.95 : 0.8) * was, "%s: %g, was %g", loss[k], now, was);
        last_values("after", 9, last);
        CHECK_MSG(last[8] < first[8], "%s: %g, was %g", loss[k], last[8], first[8]);
    }
    OK(ctx, train(ctx, "thin", "student_width = 32\nstudent_depth = 2\nsample_every = 0\n", 0));
    check_student("thin", 2);
}

static fv_status go_on(fv_ctx *c, void *user)
{
    (void)user;
    return train(c, "parts", PRUNED "steps = 30\nsample_every = 0\n", 1);
}

static void stopped_runs_end_the_same(void)
{
    int stops = 0;
    temp_remove_tree(temp_path("run-parts"));
    OK(ctx, train(ctx, "whole", PRUNED "steps = 30\nsample_every = 0\n", 0));
    OK(ctx, stop_and_go(ctx, go_on, NULL, 30000, 2, &stops));
    CHECK_MSG(stops > 1, "%d stops", stops);
    CHECK(same_tensors(ctx, "whole", "parts"));
}

/* A teacher that predicts noise alone has no bounds, and a whole autoencoder of its own. */
static void teachers_may_lack_variances(void)
{
    double v[2];
    fv_model *own = teacher, *other = vae;
    make_model("plain", 4, 4, ENCODER | DECODER);
    teacher = open_model(temp_path("plain"));
    vae = NULL;
    OK(ctx, train(ctx, "simple", PRUNED "steps = 1\n", 0));
    last_values("simple", 2, v);
    CHECK(v[0] >= 0 && v[0] <= 1 && v[1] > 0); /* w and m */
    check_student("simple", 2);
    fv_model_close(&teacher);
    teacher = own;
    vae = other;
}

static void what_cannot_be_trained_is_refused(void)
{
    static const struct { const char *more, *text; } bad[] = {
        { PRUNED "data = names.tar\n", "such as dog:207" },
        { PRUNED "l_vb = -1\n", "l_vb" },
    };
    fv_model *own = teacher, *other = vae;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const fv_status s = train(ctx, "none", bad[i].more, 0);
        CHECK_MSG(s != FV_OK && strstr(fv_ctx_error(ctx), bad[i].text), "%s", fv_ctx_error(ctx));
    }
    OK(ctx, train(ctx, "none", PRUNED "data = names.tar\nclasses = a:2, b:0\nsteps = 1\n", 0));
    vae = NULL; /* the teacher's own only decodes */
    CHECK(train(ctx, "none", PRUNED, 0) == FV_ERR_MODEL);
    CHECK_MSG(strstr(fv_ctx_error(ctx), "no encoder"), "%s", fv_ctx_error(ctx));
    vae = teacher; /* another file without one */
    CHECK(train(ctx, "none", PRUNED, 0) == FV_ERR_MODEL);
    OK(ctx, fv_dit_random(ctx, "F32", 2, 1, temp_path("f"), 1));
    teacher = open_model(temp_path("f"));
    vae = other;
    CHECK(train(ctx, "none", PRUNED, 0) == FV_ERR_ARG);
    CHECK_MSG(strstr(fv_ctx_error(ctx), "takes no vae"), "%s", fv_ctx_error(ctx));
    fv_model_close(&teacher);
    teacher = own;
    OK(ctx, train(ctx, "mine", PRUNED "steps = 2\n", 0));
    vae = open_model(temp_path("whole-vae"));
    const fv_status s = train(ctx, "mine", PRUNED "steps = 2\n", 1); /* resumed with another one */
    CHECK_MSG(s != FV_OK && strstr(fv_ctx_error(ctx), "vae"), "%s", fv_ctx_error(ctx));
    fv_model_close(&vae);
    vae = other;
}

int main(void)
{
    temp_dir_make("distill-dit");
    ctx = make_context(0, 1);
    RUN(bounds_are_those_of_their_definition);
    make_data("two.tar", "02");
    make_data("names.tar", "ab");
    make_model("teacher", 4, 8, DECODER);
    make_model("whole-vae", 1, 8, ENCODER | DECODER);
    teacher = open_model(temp_path("teacher"));
    vae = open_model(GOLDEN("taesd_encoder_small.safetensors"));
    RUN(a_copy_has_nothing_to_learn);
    RUN(students_learn_on_latents);
    RUN(teachers_may_lack_variances);
    RUN(what_cannot_be_trained_is_refused);
    RUN(stopped_runs_end_the_same);
    fv_model_close(&teacher);
    fv_model_close(&vae);
    fv_ctx_destroy(&ctx);
    temp_dir_remove();
    return test_end();
}
