/* test_classifier.c - the feature classifier: gradients of the whole network, learning, files,
 * determinism, and what its features say about two sets of pictures.
 *
 * Pictures are 16x16 noise around a colour that is the class; bright enough to learn in seconds,
 * noisy enough that the features have a spread. */
#include "../kernels/classifier.c"

#include "tar_writer.h"
#include "temp_dir.h"
#include "test.h"

#include <sys/stat.h>
#include <unistd.h>

#define SIDE 16
#define PIXELS (SIDE * SIDE * 3)
#define COLOURS 4
#define PER_CLASS 40

static fv_ctx *ctx;
static char model_path[128];
static const char *colour_name[COLOURS] = { "blue", "green", "grey", "red" };
static const int colour[COLOURS][3] = { { 60, 60, 190 }, { 60, 190, 60 }, { 128, 128, 128 },
                                        { 190, 60, 60 } };

/* ---- Data ------------------------------------------------------------------------------------ */

static size_t make_ppm(uint8_t *out, int c, uint64_t *seed)
{
    size_t n = (size_t)sprintf((char *)out, "P6 %d %d 255\n", SIDE, SIDE);
    for (int i = 0; i < PIXELS; i++)
        out[n++] = (uint8_t)(colour[c][i % 3] + (int)(test_next(seed) % 100) - 50);
    return n;
}

static void write_bytes(const char *path, const void *data, size_t size)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f)) exit(1);
}

static void make_data(void)
{
    static uint8_t ppm[PIXELS + 64];
    char path[128];
    tar t = { 0 };
    uint64_t seed = 11;
    for (int c = 0; c < COLOURS; c++)
        for (int i = 0; i < PER_CLASS; i++) {
            snprintf(path, sizeof path, "%s/%03d.ppm", colour_name[c], i);
            put_entry(&t, "", path, '0', ppm, make_ppm(ppm, c, &seed));
        }
    put_end(&t);
    snprintf(path, sizeof path, "%s/colours.tar", temp_dir);
    write_bytes(path, t.data, t.size);
    drop(&t);
    snprintf(model_path, sizeof model_path, "%s/model.safetensors", temp_dir);
}

static fv_recipe *recipe(const char *more)
{
    static char text[1024];
    fv_recipe *r;
    snprintf(text, sizeof text,
             "data = colours.tar\nimage_size = %d\nbatch = 16\nsteps = 40\nlr = 3e-3\n"
             "warmup = 5\nema = 0.9\nprecision = f32\nexport = f32\nworkers = -1\n%s",
             SIDE, more);
    return fv_recipe_parse(ctx, &r, text, strlen(text)) == FV_OK ? r : NULL;
}

/* Noise around a colour, as floats. */
static void fill_pictures(float *hwc, int n, int c, uint64_t seed)
{
    for (int i = 0; i < n * PIXELS; i++)
        hwc[i] = ((float)colour[c][i % 3] + (float)(test_next(&seed) % 100) - 50.0f) / 127.5f - 1;
}

/* ---- Gradients ------------------------------------------------------------------------------- */

/* Central differences of the loss of the whole network, in f32, along one direction d (|d| = 1) of
 * each parameter. Both losses, about 1.4, carry rounding of a few units in the last place, say
 * 4 * 6e-8 * 1.4; two of them divided by 2 h = 1e-2: 5e-5. The cubic term is h^2/6 f''' =
 * 4e-6 f''', with f''' of the order of the slope. Hence 1e-4 + 0.2 % of the slope; a wrong factor
 * or a lost path in any op changes the slope by much more. */
static double loss_of(fv_plan *plan)
{
    if (fv_plan_forward(plan) != FV_OK) return NAN;
    return *(const float *)fv_plan_value(plan, "loss").data;
}

static void check_direction(network *n, fv_plan *plan, fv_pid id, uint64_t seed)
{
    const fv_tensor w = fv_params_tensor(n->params, id), g = fv_params_grad(n->params, id);
    const int64_t count = fv_tensor_count(&w);
    float *v = w.data, *keep = malloc((size_t)count * sizeof *keep);
    float *dir = malloc((size_t)count * sizeof *dir);
    double norm = 0, expected = 0, loss[2];
    const double h = 5e-3;
    CHECK(keep && dir);
    memcpy(keep, v, (size_t)count * sizeof *keep);
    /* Half along the gradient, half random: large enough to see, and not blind to errors beside
     * the gradient. */
    test_fill(dir, count, seed);
    double gg = 0, dd = 0;
    for (int64_t i = 0; i < count; i++) {
        gg += (double)((float *)g.data)[i] * ((float *)g.data)[i];
        dd += (double)dir[i] * dir[i];
    }
    for (int64_t i = 0; i < count; i++) {
        dir[i] = (float)(dir[i] / sqrt(dd) + (gg > 0 ? ((float *)g.data)[i] / sqrt(gg) : 0));
        norm += (double)dir[i] * dir[i];
    }
    for (int64_t i = 0; i < count; i++) {
        dir[i] = (float)(dir[i] / sqrt(norm));
        expected += (double)dir[i] * ((float *)g.data)[i];
    }
    for (int side = 0; side < 2; side++) {
        for (int64_t i = 0; i < count; i++) v[i] = keep[i] + (float)((side ? h : -h) * dir[i]);
        fv_params_touch(n->params);
        loss[side] = loss_of(plan);
    }
    memcpy(v, keep, (size_t)count * sizeof *keep);
    fv_params_touch(n->params);
    const double found = (loss[1] - loss[0]) / (2 * h), tolerance = 2e-3 * fabs(expected) + 1e-4;
    free(keep);
    free(dir);
    CHECK_MSG(fabs(found - expected) <= tolerance, "%s: %.6g by differences, %.6g by backward",
              fv_params_name(n->params, id), found, expected);
}

static void gradients_of_all_parameters_agree_with_differences(void)
{
    enum { B = 6 };
    static float x[B * PIXELS];
    int32_t y[B];
    network n = { 0 };
    fv_plan *plan;
    OK(ctx, create_network(ctx, &n, SIDE, COLOURS));
    OK(ctx, fv_params_alloc(n.params));
    start_values(&n, 3);
    /* Away from the start values: every path carries signal. */
    for (fv_pid id = 0; id < fv_params_count(n.params); id++) {
        const fv_tensor t = fv_params_tensor(n.params, id);
        float *v = t.data;
        uint64_t state = 100 + (uint64_t)id;
        for (int64_t i = 0; i < fv_tensor_count(&t); i++)
            v[i] += 0.05f * ((float)test_next(&state) / 2147483648.0f - 1.0f);
    }
    fv_params_touch(n.params);
    OK(ctx, build(ctx, &plan, &n, B, FV_TRAIN, FV_F32));
    for (int i = 0; i < B; i++) {
        y[i] = i % COLOURS;
        fill_pictures(x + i * PIXELS, 1, (i + 1) % COLOURS, 20 + (uint64_t)i);
    }
    OK(ctx, fv_plan_bind(plan, "x", x));
    OK(ctx, fv_plan_bind(plan, "y", y));
    fv_params_zero_grad(n.params);
    OK(ctx, fv_plan_forward(plan));
    OK(ctx, fv_plan_backward(plan, "loss", 1.0f));
    for (fv_pid id = 0; id < fv_params_count(n.params); id++)
        check_direction(&n, plan, id, 40 + (uint64_t)id);
    fv_plan_destroy(&plan);
    fv_params_destroy(&n.params);
}

/* ---- Learning -------------------------------------------------------------------------------- */

static void learns_colours(void)
{
    fv_trainer_options o = FV_TRAINER_OPTIONS_INIT;
    fv_train_result result;
    fv_recipe *r = recipe("eval_every = 40\nlog_every = 20\n");
    char out[128];
    CHECK(r != NULL);
    snprintf(out, sizeof out, "%s/run", temp_dir);
    o.data_dir = temp_dir;
    o.out_dir = out;
    o.export_path = model_path;
    OK(ctx, fv_classifier_train(ctx, r, &o, &result));
    CHECK_MSG(result.metric < 0.05, "held-out error %g", result.metric);
    fv_recipe_close(&r);
}

/* 2400 pictures, about 120 of them held out, one of these unreadable. */
static void make_faulty(void)
{
    static uint8_t ppm[PIXELS + 64];
    char path[128];
    tar t = { 0 };
    uint64_t seed = 12;
    bool has_bad = false;
    for (int i = 0; i < 2400; i++) {
        snprintf(path, sizeof path, "%s/%04d.ppm", colour_name[i % COLOURS], i);
        const bool is_held = fv_crc32(0, path, strlen(path)) % 20 == 7;
        const size_t n = make_ppm(ppm, i % COLOURS, &seed);
        put_entry(&t, "", path, '0', ppm, is_held && !has_bad ? 20 : n);
        has_bad |= is_held;
    }
    put_end(&t);
    snprintf(path, sizeof path, "%s/faulty.tar", temp_dir);
    write_bytes(path, t.data, t.size);
    drop(&t);
}

/* Also: other steps resume a recipe that leaves the warm-up open. */
static void an_unreadable_held_out_picture_does_not_end_a_run(void)
{
    fv_trainer_options o = FV_TRAINER_OPTIONS_INIT;
    char out[128];
    make_faulty();
    snprintf(out, sizeof out, "%s/faulty", temp_dir);
    o.data_dir = temp_dir;
    o.out_dir = out;
    for (int steps = 30; steps <= 34; steps += 4) { /* 3 % of them: 0 and 1 */
        char text[256];
        fv_train_result result;
        fv_recipe *r;
        snprintf(text, sizeof text,
                 "data = faulty.tar\nimage_size = %d\nbatch = 2\nsteps = %d\neval_every = 1000\n"
                 "workers = -1\nprecision = f32\nlog_every = 1000\n", SIDE, steps);
        OK(ctx, fv_recipe_parse(ctx, &r, text, strlen(text)));
        OK(ctx, fv_classifier_train(ctx, r, &o, &result));
        CHECK(result.metric >= 0 && result.metric <= 1);
        o.resume = 1;
        fv_recipe_close(&r);
    }
}

static void open_all(fv_model **m, fv_classifier **c, fv_ctx *with)
{
    *m = NULL;
    *c = NULL;
    OK(with, fv_model_open(with, m, model_path, NULL));
    OK(with, fv_classifier_open(with, c, *m));
}

static void recognises_all_pictures_of_the_set(void)
{
    fv_model *m;
    fv_classifier *c;
    fv_dataset *ds;
    fv_class_score total, score[COLOURS];
    fv_recipe *r = recipe("");
    open_all(&m, &c, ctx);
    CHECK(c && r);
    OK(ctx, fv_dataset_from_recipe(ctx, &ds, r, temp_dir, SIDE, FV_SPLIT_ALL));
    float *f = malloc((size_t)fv_dataset_count(ds) * FEATURES * sizeof *f);
    CHECK(f != NULL);
    OK(ctx, fv_classifier_score(ctx, c, ds, &total, score, f));
    CHECK(total.count == COLOURS * PER_CLASS && total.correct * 100 > total.count * 95);
    uint64_t sum = 0;
    for (int i = 0; i < COLOURS; i++) {
        CHECK(score[i].count == PER_CLASS);
        sum += score[i].correct;
    }
    CHECK(sum == total.correct);
    /* The same features as through fv_classifier_run. */
    static float hwc[PIXELS];
    float own[FEATURES];
    int32_t label;
    OK(ctx, fv_dataset_get(ds, 33, hwc, &label));
    OK(ctx, fv_classifier_run(ctx, c, hwc, 1, NULL, own));
    CHECK(memcmp(own, f + 33 * FEATURES, sizeof own) == 0);
    free(f);
    fv_dataset_close(&ds);
    fv_recipe_close(&r);
    fv_classifier_close(&c);
    fv_model_close(&m);
}

static void names_and_sizes_come_from_the_file(void)
{
    fv_model *m;
    fv_classifier *c;
    fv_classifier_info info;
    open_all(&m, &c, ctx);
    CHECK(c != NULL);
    fv_classifier_get_info(c, &info);
    CHECK(info.size == SIDE && info.classes == COLOURS && info.features == FEATURES);
    CHECK_MSG(info.parameters > 300000 && info.parameters < 500000, "%lld",
              (long long)info.parameters);
    for (int i = 0; i < COLOURS; i++) {
        CHECK(strcmp(fv_classifier_class_name(c, i), colour_name[i]) == 0);
        CHECK(fv_classifier_class_find(c, colour_name[i]) == i);
    }
    CHECK(!fv_classifier_class_name(c, COLOURS) && !fv_classifier_class_name(c, -1));
    CHECK(fv_classifier_class_find(c, "yellow") == -1);
    CHECK(strstr(fv_model_meta(m, "fovea.train.data"), "colours.tar") != NULL);
    CHECK(strstr(fv_model_meta(m, "fovea.train.recipe"), temp_dir) == NULL);
    fv_classifier_close(&c);
    fv_classifier_close(&c);
    fv_model_close(&m);
}

/* ---- Running --------------------------------------------------------------------------------- */

enum { MANY = 2 * ROWS + 5 };
static float pictures[MANY * PIXELS];

static void fill_many(void)
{
    for (int i = 0; i < MANY; i++)
        fill_pictures(pictures + i * PIXELS, 1, i % COLOURS, 500 + (uint64_t)i);
}

static void same_logits_for_1_and_2_threads(void)
{
    static float logits[2][MANY * COLOURS], features[2][MANY * FEATURES];
    fill_many();
    for (int i = 0; i < 2; i++) {
        fv_ctx_options co = FV_CTX_OPTIONS_INIT;
        fv_ctx *own;
        fv_model *m;
        fv_classifier *c;
        co.threads = 1 + i;
        CHECK(fv_ctx_create(&own, &co) == FV_OK);
        open_all(&m, &c, own);
        CHECK(c != NULL);
        OK(own, fv_classifier_run(own, c, pictures, MANY, logits[i], features[i]));
        fv_classifier_close(&c);
        fv_model_close(&m);
        fv_ctx_destroy(&own);
    }
    CHECK(memcmp(logits[0], logits[1], sizeof logits[0]) == 0);
    CHECK(memcmp(features[0], features[1], sizeof features[0]) == 0);
}

static void a_picture_does_not_depend_on_its_batch(void)
{
    static float all[MANY * COLOURS];
    float one[COLOURS];
    fv_model *m;
    fv_classifier *c;
    fill_many();
    open_all(&m, &c, ctx);
    CHECK(c != NULL);
    OK(ctx, fv_classifier_run(ctx, c, pictures, MANY, all, NULL));
    for (int i = 0; i < MANY; i += 7) {
        OK(ctx, fv_classifier_run(ctx, c, pictures + i * PIXELS, 1, one, NULL));
        CHECK_MSG(memcmp(one, all + i * COLOURS, sizeof one) == 0, "picture %d", i);
    }
    OK(ctx, fv_classifier_run(ctx, c, NULL, 0, NULL, NULL));
    CHECK(fv_classifier_run(ctx, c, NULL, 1, one, NULL) == FV_ERR_ARG);
    CHECK(fv_classifier_run(ctx, c, pictures, -1, one, NULL) == FV_ERR_ARG);
    fv_classifier_close(&c);
    fv_model_close(&m);
}

static void runs_without_allocating(void)
{
    static float logits[MANY * COLOURS];
    fv_memory_stats before, after;
    fv_model *m;
    fv_classifier *c;
    open_all(&m, &c, ctx);
    CHECK(c != NULL);
    OK(ctx, fv_classifier_run(ctx, c, pictures, MANY, logits, NULL));
    fv_ctx_memory(ctx, &before);
    for (int i = 0; i < 3; i++)
        OK(ctx, fv_classifier_run(ctx, c, pictures, MANY, logits, NULL));
    fv_ctx_memory(ctx, &after);
    CHECK(before.allocations == after.allocations && before.current_bytes == after.current_bytes);
    fv_classifier_close(&c);
    fv_model_close(&m);
}

static void refuses_another_context(void)
{
    fv_ctx *other;
    fv_model *m;
    fv_classifier *c;
    float logits[COLOURS];
    CHECK(fv_ctx_create(&other, NULL) == FV_OK);
    open_all(&m, &c, ctx);
    CHECK(c != NULL);
    CHECK(fv_classifier_run(other, c, pictures, 1, logits, NULL) == FV_ERR_ARG);
    CHECK(fv_classifier_run(ctx, NULL, pictures, 1, logits, NULL) == FV_ERR_ARG);
    fv_classifier_close(&c);
    fv_model_close(&m);
    fv_ctx_destroy(&other);
}

/* ---- Frechet distance of features ------------------------------------------------------------ */

/* Sets of the same pictures, of the same class, of another class: the distance grows in this order.
 * Sampling noise of a distance is about dim / n times the variance; a colour is far beyond. */
static void frechet_of_features_orders_sets(void)
{
    enum { N = 200 };
    float *hwc = malloc((size_t)N * PIXELS * sizeof *hwc), *f[3];
    double same, near, far;
    fv_model *m;
    fv_classifier *c;
    open_all(&m, &c, ctx);
    CHECK(c && hwc);
    for (int k = 0; k < 3; k++) {
        f[k] = malloc((size_t)N * FEATURES * sizeof **f);
        CHECK(f[k] != NULL);
        fill_pictures(hwc, N, k == 2 ? 1 : 0, 900 + (uint64_t)k);
        OK(ctx, fv_classifier_run(ctx, c, hwc, N, NULL, f[k]));
    }
    OK(ctx, fv_frechet(ctx, f[0], N, f[0], N, FEATURES, &same));
    OK(ctx, fv_frechet(ctx, f[0], N, f[1], N, FEATURES, &near));
    OK(ctx, fv_frechet(ctx, f[0], N, f[2], N, FEATURES, &far));
    CHECK_MSG(fabs(same) < 1e-3 * near + 1e-6 && near * 10 < far, "%g %g %g", same, near, far);
    for (int k = 0; k < 3; k++) free(f[k]);
    free(hwc);
    fv_classifier_close(&c);
    fv_model_close(&m);
}

/* ---- Wrong input ----------------------------------------------------------------------------- */

/* A copy of the trained file with one metadata value changed (NULL = left out) or without
 * `tensor`. */
static fv_status open_changed(const char *key, const char *value, const char *tensor)
{
    char path[128];
    fv_model *m, *changed;
    fv_model_writer *w;
    fv_classifier *c;
    snprintf(path, sizeof path, "%s/changed.safetensors", temp_dir);
    FV_TRY(fv_model_open(ctx, &m, model_path, NULL));
    FV_TRY(fv_model_writer_create(ctx, &w));
    for (int i = 0; i < fv_model_meta_count(m); i++) {
        const char *k, *v;
        fv_model_meta_at(m, i, &k, &v);
        if (strcmp(k, key) == 0) v = value;
        if (v) FV_TRY(fv_model_writer_meta(w, k, v));
    }
    for (int i = 0; i < fv_model_count(m); i++) {
        fv_tensor t;
        fv_model_tensor(m, i, &t);
        if (tensor && strcmp(fv_model_name(m, i), tensor) == 0) continue;
        FV_TRY(fv_model_writer_tensor(w, fv_model_name(m, i), &t));
    }
    FV_TRY(fv_model_writer_finish(w, path, 1));
    fv_model_writer_destroy(&w);
    fv_model_close(&m);
    FV_TRY(fv_model_open(ctx, &changed, path, NULL));
    const fv_status s = fv_classifier_open(ctx, &c, changed);
    fv_classifier_close(&c);
    fv_model_close(&changed);
    return s;
}

static void refuses_files_that_are_not_classifiers(void)
{
    fv_classifier *c;
    OK(ctx, open_changed("fovea.nothing", NULL, NULL));
    CHECK(open_changed("fovea.kind", NULL, NULL) == FV_ERR_MODEL);
    CHECK(open_changed("fovea.kind", "dit", NULL) == FV_ERR_MODEL);
    CHECK(strstr(fv_ctx_error(ctx), "dit") != NULL);
    CHECK(open_changed("fovea.version", "2", NULL) == FV_ERR_VERSION);
    CHECK(open_changed("fovea.input_size", NULL, NULL) == FV_ERR_MODEL);
    CHECK(open_changed("fovea.input_size", "-16", NULL) == FV_ERR_MODEL);
    CHECK(open_changed("fovea.input_size", "99999999999999999999", NULL) == FV_ERR_MODEL);
    CHECK(open_changed("fovea.input_size", "1000000", NULL) == FV_ERR_LIMIT);
    CHECK(open_changed("fovea.class_count", "0", NULL) == FV_ERR_LIMIT);
    CHECK(open_changed("fovea.class_count", "3", NULL) != FV_OK);
    CHECK(open_changed("fovea.class_count", "5", NULL) != FV_OK);
    CHECK(open_changed("fovea.classes", "a\nb\nc", NULL) == FV_ERR_MODEL);
    CHECK(open_changed("fovea.classes", "a\nb\nc\nd\ne", NULL) == FV_ERR_MODEL);
    CHECK(open_changed("fovea.classes", NULL, NULL) == FV_ERR_MODEL);
    CHECK(open_changed("fovea.nothing", NULL, "head.weight") != FV_OK);
    CHECK(fv_classifier_open(ctx, &c, NULL) == FV_ERR_ARG && !c);
}

static void refuses_data_of_other_classes(void)
{
    fv_model *m;
    fv_classifier *c;
    fv_dataset *ds;
    fv_class_score total;
    fv_recipe *r = recipe("classes = red:crimson, blue\n");
    open_all(&m, &c, ctx);
    CHECK(c && r);
    OK(ctx, fv_dataset_from_recipe(ctx, &ds, r, temp_dir, SIDE, FV_SPLIT_ALL));
    CHECK(fv_dataset_classes(ds) == 2);
    CHECK(fv_classifier_score(ctx, c, ds, &total, NULL, NULL) == FV_ERR_MODEL);
    CHECK(strstr(fv_ctx_error(ctx), "crimson") != NULL);
    fv_dataset_close(&ds);
    fv_recipe_close(&r);
    fv_classifier_close(&c);
    fv_model_close(&m);
}

static void recipes_with_wrong_words_are_refused(void)
{
    static const char *const wrong[] = { "schedule = cosin\n", "precision = fp16\n",
                                         "image_size = 8\n", "clases = red\n", "export = bf\n" };
    fv_trainer_options o = FV_TRAINER_OPTIONS_INIT;
    char out[128];
    snprintf(out, sizeof out, "%s/wrong", temp_dir);
    o.data_dir = temp_dir;
    o.out_dir = out;
    for (size_t i = 0; i < FV_ARRAY_LEN(wrong); i++) {
        char text[256];
        fv_recipe *r;
        fv_train_result result;
        snprintf(text, sizeof text, "data = colours.tar\nworkers = -1\nbatch = 2\n%s", wrong[i]);
        OK(ctx, fv_recipe_parse(ctx, &r, text, strlen(text)));
        CHECK_MSG(fv_classifier_train(ctx, r, &o, &result) != FV_OK, "%s", wrong[i]);
        fv_recipe_close(&r);
    }
    CHECK(access(out, F_OK) != 0);
}

static void a_model_to_start_from_is_refused(void)
{
    fv_train_result result;
    fv_trainer_options from_model = FV_TRAINER_OPTIONS_INIT, from_step = FV_TRAINER_OPTIONS_INIT;
    fv_recipe *r = recipe("");
    char out[128];
    snprintf(out, sizeof out, "%s/from", temp_dir);
    from_model.data_dir = from_step.data_dir = temp_dir;
    from_model.out_dir = from_step.out_dir = out;
    from_model.init = "model";
    from_step.start_step = 5;
    CHECK(fv_classifier_train(ctx, r, &from_model, &result) == FV_ERR_UNSUPPORTED);
    CHECK(fv_classifier_train(ctx, r, &from_step, &result) == FV_ERR_UNSUPPORTED);
    CHECK(fv_classifier_train(ctx, r, NULL, &result) == FV_ERR_ARG);
    CHECK(fv_classifier_train(ctx, NULL, &from_model, &result) == FV_ERR_ARG);
    CHECK(access(out, F_OK) != 0);
    fv_recipe_close(&r);
}

static void memory_failures_leave_nothing_behind(void)
{
    fv_memory_stats base, st;
    fv_model *m;
    fv_classifier *c;
    /* A cap that grows until opening succeeds; every failure is clean (leaks: sanitizer). */
    int failures = 0, opened = 0;
    for (uint64_t cap = 1 << 16; cap < (64u << 20) && !opened; cap = cap * 3 / 2) {
        fv_ctx_options co = FV_CTX_OPTIONS_INIT;
        fv_ctx *own;
        co.threads = 1;
        co.memory_cap_bytes = cap;
        if (fv_ctx_create(&own, &co) != FV_OK) continue;
        if (fv_model_open(own, &m, model_path, NULL) == FV_OK) {
            fv_ctx_memory(own, &base);
            const fv_status s = fv_classifier_open(own, &c, m);
            CHECK_MSG(s == FV_OK || (s == FV_ERR_OOM && !c), "%s", fv_status_name(s));
            opened = s == FV_OK;
            failures += s != FV_OK;
            fv_classifier_close(&c);
            fv_ctx_memory(own, &st);
            fv_model_close(&m);
        }
        fv_ctx_destroy(&own);
    }
    CHECK_MSG(opened && failures > 3, "%d failures", failures);
}

int main(void)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    temp_dir_make("classifier");
    make_data();
    RUN(gradients_of_all_parameters_agree_with_differences);
    RUN(learns_colours);
    RUN(an_unreadable_held_out_picture_does_not_end_a_run);
    RUN(recognises_all_pictures_of_the_set);
    RUN(names_and_sizes_come_from_the_file);
    RUN(same_logits_for_1_and_2_threads);
    RUN(a_picture_does_not_depend_on_its_batch);
    RUN(runs_without_allocating);
    RUN(refuses_another_context);
    RUN(frechet_of_features_orders_sets);
    RUN(refuses_files_that_are_not_classifiers);
    RUN(refuses_data_of_other_classes);
    RUN(recipes_with_wrong_words_are_refused);
    RUN(a_model_to_start_from_is_refused);
    RUN(memory_failures_leave_nothing_behind);
    fv_ctx_destroy(&ctx);
    return test_end();
}
