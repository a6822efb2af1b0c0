/* test_quality.c - judging samples: a tiny generator and a small classifier of the same colours,
 * both trained here on pictures of one colour with noise. */
#include "engine.h"
#include "fovea_diffusion.h"
#include "tar_writer.h"
#include "temp_dir.h"
#include "test.h"

#define SIDE 32
#define PIXELS (SIDE * SIDE * 3)
#define COLOURS 3
#define PER_CLASS 20
#define DIM 128
#define SAMPLES 10

static fv_ctx *ctx;
static const char *colour_name[COLOURS] = { "blue", "green", "red" };
static fv_model *dit_file, *judge_file;
static fv_dit *dit;
static fv_classifier *judge;

static void make_data(void)
{
    static uint8_t ppm[PIXELS + 64];
    char path[128];
    tar t = { 0 };
    uint64_t seed = 11;
    for (int c = 0; c < COLOURS; c++)
        for (int i = 0; i < PER_CLASS; i++) {
            size_t n = (size_t)sprintf((char *)ppm, "P6 %d %d 255\n", SIDE, SIDE);
            for (int k = 0; k < PIXELS; k++)
                ppm[n++] = (uint8_t)((k % 3 == 2 - c ? 170 : 60) + (int)(test_next(&seed) % 60));
            snprintf(path, sizeof path, "%s/%03d.ppm", colour_name[c], i);
            put_entry(&t, "", path, '0', ppm, n);
        }
    put_end(&t);
    snprintf(path, sizeof path, "%s/colours.tar", temp_dir);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(t.data, 1, t.size, f) != t.size || fclose(f)) exit(1);
    drop(&t);
}

static fv_recipe *recipe(const char *more)
{
    static char text[1024];
    fv_recipe *r;
    snprintf(text, sizeof text,
             "data = colours.tar\nworkers = -1\nprecision = f32\nexport = f32\nsplit = no\n"
             "ema = 0.8\n%s", more);
    return fv_recipe_parse(ctx, &r, text, strlen(text)) == FV_OK ? r : NULL;
}

/* A classifier of `size` pixels whose classes are `classes` (a recipe line), to temp_dir/name. */
static void train_judge(const char *name, int size, const char *classes, int steps)
{
    fv_trainer_options o = FV_TRAINER_OPTIONS_INIT;
    fv_train_result result;
    char more[256], out[128], path[128];
    snprintf(more, sizeof more, "image_size = %d\nbatch = 8\nlr = 3e-3\nsteps = %d\n%s", size,
             steps, classes);
    fv_recipe *r = recipe(more);
    CHECK(r != NULL);
    snprintf(out, sizeof out, "%s/run-%s", temp_dir, name);
    snprintf(path, sizeof path, "%s/%s.safetensors", temp_dir, name);
    o.data_dir = temp_dir;
    o.out_dir = out;
    o.export_path = path;
    OK(ctx, fv_classifier_train(ctx, r, &o, &result));
    fv_recipe_close(&r);
}

static void train_and_open_both(void)
{
    fv_trainer_options o = FV_TRAINER_OPTIONS_INIT;
    fv_train_result result;
    char out[128], path[128];
    fv_recipe *r = recipe("preset = F32\nwidth = 64\ndepth = 1\nheads = 1\nbatch = 4\nsteps = 2\n"
                          "eval_batches = 0\n");
    CHECK(r != NULL);
    snprintf(out, sizeof out, "%s/run-dit", temp_dir);
    snprintf(path, sizeof path, "%s/dit.safetensors", temp_dir);
    o.data_dir = temp_dir;
    o.out_dir = out;
    o.export_path = path;
    OK(ctx, fv_dit_train(ctx, r, &o, &result));
    fv_recipe_close(&r);
    OK(ctx, fv_model_open(ctx, &dit_file, path, NULL));
    OK(ctx, fv_dit_open(ctx, &dit, dit_file, NULL));
    train_judge("judge", SIDE, "", 20);
    snprintf(path, sizeof path, "%s/judge.safetensors", temp_dir);
    OK(ctx, fv_model_open(ctx, &judge_file, path, NULL));
    OK(ctx, fv_classifier_open(ctx, &judge, judge_file));
}

static fv_dit_quality_options options(uint64_t seed)
{
    static fv_generate_options gen = FV_GENERATE_OPTIONS_INIT;
    fv_dit_quality_options o = FV_DIT_QUALITY_OPTIONS_INIT;
    gen.steps = 2;
    gen.cfg = 1;
    o.gen = &gen;
    o.samples = SAMPLES;
    o.seed = seed;
    return o;
}

/* Sample i is picture i of fv_generate with seed + i and class i mod classes. */
static void judges_the_pictures_that_generate_makes(void)
{
    fv_dit_quality_options o = options(7);
    fv_dit_quality_result q;
    int classes[SAMPLES];
    fv_image image[SAMPLES];
    static float hwc[SAMPLES * PIXELS], logits[SAMPLES * COLOURS], features[SAMPLES * DIM];
    uint64_t correct = 0;
    CHECK(dit && judge);
    OK(ctx, fv_dit_quality(ctx, dit, judge, &o, &q));
    for (int i = 0; i < SAMPLES; i++) classes[i] = i % COLOURS;
    fv_generate_options g = *o.gen;
    g.count = SAMPLES;
    g.classes = classes;
    g.seed = 7;
    OK(ctx, fv_generate(ctx, dit, &g, image, NULL));
    for (int i = 0; i < SAMPLES; i++) {
        fv_image_to_float(&image[i], -1, 1, hwc + i * PIXELS);
        fv_image_free(ctx, &image[i]);
    }
    OK(ctx, fv_classifier_run(ctx, judge, hwc, SAMPLES, logits, features));
    for (int i = 0; i < SAMPLES; i++) {
        const float *l = logits + i * COLOURS;
        bool is_right = true;
        for (int k = 0; k < COLOURS; k++) is_right = is_right && l[k] <= l[classes[i]];
        correct += is_right;
    }
    CHECK(memcmp(features, q.features, sizeof features) == 0);
    CHECK(q.total.count == SAMPLES && q.total.correct == correct && q.classes == COLOURS &&
          q.feature_dim == DIM && isnan(q.frechet) && q.seconds > 0);
    NEAR(q.accuracy, (double)correct / SAMPLES, 1e-12);
    CHECK(q.per_class[0].count == 4 && q.per_class[1].count == 3 && q.per_class[2].count == 3);
    CHECK(q.per_class[0].correct + q.per_class[1].correct + q.per_class[2].correct == correct);
    fv_dit_quality_free(ctx, &q);
    CHECK(!q.features && !q.per_class);
}

/* A run against its own features is at distance 0, against other seeds it is not. With fewer
 * samples than features the distance is exact to about 2 r sqrt(1e-16) |S| (frechet.c): 1e-5 |S|. */
static void distance_to_itself_is_zero(void)
{
    fv_dit_quality_options o = options(100);
    fv_dit_quality_result a, b, c;
    CHECK(dit && judge);
    OK(ctx, fv_dit_quality(ctx, dit, judge, &o, &a));
    o.reference = a.features;
    o.reference_count = SAMPLES;
    OK(ctx, fv_dit_quality(ctx, dit, judge, &o, &b));
    o.seed += SAMPLES;
    OK(ctx, fv_dit_quality(ctx, dit, judge, &o, &c));
    CHECK(memcmp(a.features, b.features, SAMPLES * DIM * sizeof(float)) == 0);
    CHECK_MSG(fabs(b.frechet) <= 1e-4 * c.frechet && c.frechet > 0, "%g %g", b.frechet, c.frechet);
    fv_dit_quality_free(ctx, &a);
    fv_dit_quality_free(ctx, &b);
    fv_dit_quality_free(ctx, &c);
}

static void refuses_a_classifier_that_does_not_fit(void)
{
    static const struct { const char *name, *classes; int size; } wrong[] = {
        { "small", "", 16 }, { "other", "classes = red, blue:azure, green\n", SIDE } };
    fv_dit_quality_options o = options(1);
    fv_dit_quality_result q;
    CHECK(dit && judge);
    for (int i = 0; i < 2; i++) {
        char path[128];
        fv_model *m;
        fv_classifier *c;
        train_judge(wrong[i].name, wrong[i].size, wrong[i].classes, 1);
        snprintf(path, sizeof path, "%s/%s.safetensors", temp_dir, wrong[i].name);
        OK(ctx, fv_model_open(ctx, &m, path, NULL));
        OK(ctx, fv_classifier_open(ctx, &c, m));
        CHECK(fv_dit_quality(ctx, dit, c, &o, &q) == FV_ERR_MODEL && !q.features);
        CHECK(strstr(fv_ctx_error(ctx), i ? "blue" : "16") != NULL);
        fv_classifier_close(&c);
        fv_model_close(&m);
    }
}

static void refuses_wrong_arguments(void)
{
    fv_dit_quality_options o = options(1);
    fv_dit_quality_result q;
    CHECK(dit && judge);
    o.samples = 1;
    CHECK(fv_dit_quality(ctx, dit, judge, &o, &q) == FV_ERR_ARG);
    o.samples = -3;
    CHECK(fv_dit_quality(ctx, dit, judge, &o, &q) == FV_ERR_ARG);
    o.samples = 2;
    CHECK(fv_dit_quality(ctx, dit, NULL, &o, &q) == FV_ERR_ARG);
    CHECK(fv_dit_quality(ctx, NULL, judge, &o, &q) == FV_ERR_ARG);
    CHECK(fv_dit_quality(ctx, dit, judge, &o, NULL) == FV_ERR_ARG);
    fv_ctx_cancel(ctx);
    CHECK(fv_dit_quality(ctx, dit, judge, &o, &q) == FV_ERR_CANCELLED && !q.features);
    fv_ctx_uncancel(ctx);
}

static void close_both(void)
{
    fv_classifier_close(&judge);
    fv_dit_close(&dit);
    fv_model_close(&judge_file);
    fv_model_close(&dit_file);
}

int main(void)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    temp_dir_make("quality");
    make_data();
    RUN(train_and_open_both);
    RUN(judges_the_pictures_that_generate_makes);
    RUN(distance_to_itself_is_zero);
    RUN(refuses_a_classifier_that_does_not_fit);
    RUN(refuses_wrong_arguments);
    close_both();
    fv_ctx_destroy(&ctx);
    return test_end();
}
