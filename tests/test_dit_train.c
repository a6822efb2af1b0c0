/* test_dit_train.c - where training of an F model starts: --init goes by the names of the classes,
 * and files that do not fit are refused with a reason. With a rate of 1e-60 nothing moves: an
 * export shows the start. */
#include "engine.h"
#include "fovea_diffusion.h"
#include "tar_writer.h"
#include "temp_dir.h"
#include "test.h"

#define SIDE 32
#define PER_CLASS 4
#define WIDTH 16

static fv_ctx *ctx;

/* temp_dir/NAME: PER_CLASS pictures of noise for each letter of `classes`. */
static void make_data(const char *name, const char *classes)
{
    static uint8_t ppm[SIDE * SIDE * 3 + 64];
    char path[64];
    tar t = { 0 };
    uint64_t seed = 5;
    for (; *classes; classes++)
        for (int i = 0; i < PER_CLASS; i++) {
            size_t n = (size_t)sprintf((char *)ppm, "P6 %d %d 255\n", SIDE, SIDE);
            for (int k = 0; k < SIDE * SIDE * 3; k++) ppm[n++] = (uint8_t)(test_next(&seed) >> 8);
            snprintf(path, sizeof path, "%c/%d.ppm", *classes, i);
            put_entry(&t, "", path, '0', ppm, n);
        }
    save_tar(&t, temp_path(name));
}

/* Trains on a data set to temp_dir/OUT; `set` is a further KEY=VALUE. */
static fv_status train(const char *data, const char *init, const char *out, const char *set)
{
    fv_trainer_options o = FV_TRAINER_OPTIONS_INIT;
    fv_train_result result;
    fv_recipe *r;
    char text[512], folder[160];
    snprintf(text, sizeof text,
             "data = %s\nworkers = -1\nsplit = no\neval_batches = 0\nprecision = f32\n"
             "export = f32\npreset = F32\nwidth = %d\ndepth = 1\nbatch = 4\nsteps = 2\nema = 0\n"
             "lr = 1e-60\n", data, WIDTH);
    FV_TRY(fv_recipe_parse(ctx, &r, text, strlen(text)));
    snprintf(folder, sizeof folder, "%s/run-%s", temp_dir, out);
    o.data_dir = temp_dir;
    o.out_dir = folder;
    o.export_path = temp_path(out);
    o.init = init ? temp_path(init) : NULL;
    fv_status s = set[0] ? fv_recipe_set(r, set) : FV_OK;
    if (s == FV_OK) s = fv_dit_train(ctx, r, &o, &result);
    fv_recipe_close(&r);
    return s;
}

/* A copy of a model with other class names; NULL = without. */
static void write_named(const char *in, const char *out, const char *names)
{
    fv_model *m;
    fv_model_writer *w;
    OK(ctx, fv_model_open(ctx, &m, temp_path(in), NULL));
    OK(ctx, fv_model_writer_create(ctx, &w));
    for (int i = 0; i < fv_model_meta_count(m); i++) {
        const char *key, *value;
        fv_model_meta_at(m, i, &key, &value);
        if (strcmp(key, "fovea.classes") != 0) OK(ctx, fv_model_writer_meta(w, key, value));
    }
    if (names) OK(ctx, fv_model_writer_meta(w, "fovea.classes", names));
    for (int i = 0; i < fv_model_count(m); i++) {
        fv_tensor t;
        fv_model_tensor(m, i, &t);
        OK(ctx, fv_model_writer_tensor(w, fv_model_name(m, i), &t));
    }
    OK(ctx, fv_model_writer_finish(w, temp_path(out), 1));
    fv_model_writer_destroy(&w);
    fv_model_close(&m);
}

/* ---- By name --------------------------------------------------------------------------------- */

static bool same_row(const fv_model *a, int i, const fv_model *b, int k)
{
    fv_tensor x, y;
    if (!fv_model_find(a, "classes.weight", &x) || !fv_model_find(b, "classes.weight", &y))
        return false;
    return memcmp((const float *)x.data + i * WIDTH, (const float *)y.data + k * WIDTH,
                  WIDTH * sizeof(float)) == 0;
}

/* Are all other tensors of both files equal? */
static bool same_rest(const fv_model *a, const fv_model *b)
{
    for (int i = 0; i < fv_model_count(a); i++) {
        const char *name = fv_model_name(a, i);
        fv_tensor x, y;
        fv_model_tensor(a, i, &x);
        if (strcmp(name, "classes.weight") == 0) continue;
        if (!fv_model_find(b, name, &y) || fv_tensor_count(&x) != fv_tensor_count(&y) ||
            memcmp(x.data, y.data, (size_t)fv_tensor_count(&x) * sizeof(float)) != 0)
            return false;
    }
    return fv_model_count(a) == fv_model_count(b);
}

/* a b c -> a c d: b is gone, d is new and starts as in a run of its own. */
static void rows_of_the_class_table_go_by_name(void)
{
    fv_model *was, *now, *fresh;
    OK(ctx, train("abc.tar", NULL, "abc", "lr=0.01"));
    OK(ctx, train("acd.tar", "abc", "acd", "seed=9"));
    OK(ctx, train("acd.tar", NULL, "fresh", "seed=9"));
    OK(ctx, fv_model_open(ctx, &was, temp_path("abc"), NULL));
    OK(ctx, fv_model_open(ctx, &now, temp_path("acd"), NULL));
    OK(ctx, fv_model_open(ctx, &fresh, temp_path("fresh"), NULL));
    CHECK(strcmp(fv_model_meta(now, "fovea.classes"), "a\nc\nd") == 0);
    CHECK(same_row(now, 0, was, 0) && same_row(now, 1, was, 2));
    CHECK(same_row(now, 3, was, 3)); /* null */
    CHECK(same_row(now, 2, fresh, 2) && !same_row(now, 2, was, 1));
    CHECK(same_rest(now, was) && !same_rest(now, fresh));
    fv_model_close(&was);
    fv_model_close(&now);
    fv_model_close(&fresh);
}

/* The order of the names is the file's, whatever it is. */
static void names_may_stand_in_any_order(void)
{
    fv_model *was, *now;
    write_named("abc", "cad", "c\na\nd\n"); /* a newline at the end begins no fourth name */
    OK(ctx, train("acd.tar", "cad", "sorted", ""));
    OK(ctx, fv_model_open(ctx, &was, temp_path("cad"), NULL));
    OK(ctx, fv_model_open(ctx, &now, temp_path("sorted"), NULL));
    CHECK(same_row(now, 0, was, 1) && same_row(now, 1, was, 0) && same_row(now, 2, was, 2));
    CHECK(same_row(now, 3, was, 3) && same_rest(now, was));
    fv_model_close(&was);
    fv_model_close(&now);
}

static void without_names_the_order_counts(void)
{
    fv_model *was, *now;
    write_named("abc", "bare", NULL);
    OK(ctx, train("acd.tar", "bare", "taken", ""));
    OK(ctx, fv_model_open(ctx, &was, temp_path("bare"), NULL));
    OK(ctx, fv_model_open(ctx, &now, temp_path("taken"), NULL));
    for (int i = 0; i < 4; i++) CHECK(same_row(now, i, was, i));
    CHECK(same_rest(now, was));
    fv_model_close(&was);
    fv_model_close(&now);
}

/* ---- Refusals -------------------------------------------------------------------------------- */

/* Not FV_OK, nothing exported, and the message has both words. */
static bool refused(fv_status s, fv_status want, const char *word, const char *word2)
{
    const char *text = fv_ctx_error(ctx);
    const bool good = s == want && strstr(text, word) && strstr(text, word2) &&
                      access(temp_path("refused"), F_OK) != 0;
    if (!good) printf("# %s: %s\n", fv_status_name(s), text);
    return good;
}

static void files_that_do_not_fit_are_refused(void)
{
    static char many[1 << 20];
    write_named("abc", "bare", NULL);
    CHECK(refused(train("ad.tar", "bare", "refused", ""), FV_ERR_MODEL, "/bare",
                  "classes.weight is 4x16, expected 3x16"));
    for (size_t i = 0; i + 1 < sizeof many; i++) many[i] = i % 2 ? '\n' : 'a';
    write_named("abc", "many", many);
    CHECK(refused(train("abc.tar", "many", "refused", ""), FV_ERR_MODEL, "/many",
                  "524288 classes, but the class table has 4 rows"));
    write_named("abc", "few", "a\nb");
    CHECK(refused(train("abc.tar", "few", "refused", ""), FV_ERR_MODEL, "/few", "2 classes"));
    CHECK(refused(train("abc.tar", "abc", "refused", "width=32"), FV_ERR_MODEL, "/abc",
                  "expected"));
    CHECK(refused(train("abc.tar", "abc.tar", "refused", ""), FV_ERR_FORMAT, "/abc.tar", ""));
    CHECK(refused(train("abc.tar", "nothing", "refused", ""), FV_ERR_NOT_FOUND, "/nothing", ""));
}

/* Data sets hold pictures of 3 channels, and its states have 4. */
static void official_presets_are_refused(void)
{
    CHECK(refused(train("abc.tar", NULL, "refused", "preset=DiT-S/8"), FV_ERR_UNSUPPORTED,
                  "DiT-S/8", "latents"));
}

int main(void)
{
    temp_dir_make("dit-train");
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    make_data("abc.tar", "abc");
    make_data("acd.tar", "acd");
    make_data("ad.tar", "ad");
    RUN(rows_of_the_class_table_go_by_name);
    RUN(names_may_stand_in_any_order);
    RUN(without_names_the_order_counts);
    RUN(files_that_do_not_fit_are_refused);
    RUN(official_presets_are_refused);
    fv_ctx_destroy(&ctx);
    temp_dir_remove();
    return test_end();
}
