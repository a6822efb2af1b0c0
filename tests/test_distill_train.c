/* test_distill_train.c - training of students: teacher and student see the same, a student that is
 * its teacher has nothing to learn from it, every loss moves the weights, students of other widths,
 * the same model after any interruption, columns of metrics.csv, and recipes that are refused. */
#include "../distill/distill_net.h"
#include "alloc_fail.h"
#include "random_model.h"
#include "tar_writer.h"
#include "sanitized.h"
#include "test.h"
#include "training.h"

static fv_ctx *ctx;
static fv_model *teacher, *student; /* of the next training */

/* Pictures of waves, 16 x 16, of classes a and b; the names say which are held out. */
static void make_data(const char *path, const char *classes)
{
    static uint8_t ppm[16 * 16 * 3 + 64];
    tar t = { 0 };
    for (; *classes; classes++)
        for (int i = 0; i < 40; i++) {
            char name[32];
            size_t n = (size_t)sprintf((char *)ppm, "P6 16 16 255\n");
            for (int p = 0; p < 16 * 16 * 3; p++)
                ppm[n++] = (uint8_t)(128 + 100 * sin(0.1 * (i + 1) * (p / 3 % 16) + p / 48 +
                                                     (*classes - 'a') + p % 3));
            snprintf(name, sizeof name, "%c/%d.ppm", *classes, i);
            put_entry(&t, "", name, '0', ppm, n);
        }
    save_tar(&t, temp_path(path));
}

/* A random F network of this depth and width, with names of two classes. */
static void make_model(const char *name, int depth, int width, const char *more_key, const char *more)
{
    dit_config c;
    dit_net n;
    fv_meta m;
    fv_status s = random_config(ctx, "F32", 2, depth, &c);
    c.width = width;
    c.hidden = swiglu_width(width);
    if (s == FV_OK) s = random_net(ctx, &n, &c, 7, 0.1f);
    if (s == FV_OK) s = dit_config_meta(ctx, &c, &m);
    if (s == FV_OK) s = fv_meta_add(ctx, &m, "fovea.classes", "b\na");
    if (s == FV_OK && more_key) s = fv_meta_add(ctx, &m, more_key, more);
    if (s == FV_OK)
        s = fv_params_export(ctx, n.params, FV_F32, (const char *const *)m.item, m.pairs,
                             temp_path(name), 1);
    if (s != FV_OK) exit(1);
    fv_meta_free(ctx, &m);
    dit_net_destroy(ctx, &n);
}

static fv_status with_teacher(fv_ctx *c, fv_recipe *r, const fv_trainer_options *o,
                              fv_train_result *result)
{
    fv_distill_options d = FV_DISTILL_OPTIONS_INIT;
    d.teacher = teacher;
    d.student = student;
    d.trainer = *o;
    return fv_distill_train(c, r, &d, result);
}

static const char *const usual =
    "data = two.tar\nworkers = -1\nflip = no\nbatch = 4\nlr = 2e-3\nema = 0.9\nprecision = f32\n"
    "export = f32\neval_batches = 1\neval_every = 2\nwarmup = 1\nsave_every = 2\nsteps = 4\n"
    "log_every = 1\n";

static bool train_again; /* in the folder as it is */

static fv_status train(fv_ctx *c, const char *out, const char *more, int resume)
{
    if (!resume && !train_again) {
        char folder[160];
        snprintf(folder, sizeof folder, "run-%s", out);
        temp_remove_tree(temp_path(folder));
    }
    return train_recipe(c, with_teacher, usual, more, out, NULL, resume);
}

static double number(const char *model, const char *key)
{
    fv_model *m;
    double v = NAN;
    if (fv_model_open(ctx, &m, temp_path(model), NULL) != FV_OK) return v;
    if (fv_model_meta(m, key)) v = atof(fv_model_meta(m, key));
    fv_model_close(&m);
    return v;
}

/* The last value of a column of run-OUT/metrics.csv; NaN: empty, or there is no such column. */
static double last_of(const char *out, const char *column)
{
    char path[160], line[512], title[512] = "";
    snprintf(path, sizeof path, "run-%s/metrics.csv", out);
    FILE *f = fopen(temp_path(path), "r");
    double v = NAN;
    while (f && fgets(line, sizeof line, f)) {
        char *t = title, *p = line;
        line[strcspn(line, "\n")] = 0;
        if (!title[0]) {
            snprintf(title, sizeof title, "%s", line);
            continue;
        }
        for (v = NAN; t && p; t = strchr(t, ','), p = strchr(p, ',')) {
            if (*t == ',') t++;
            if (*p == ',') p++;
            const size_t n = strcspn(t, ",");
            if (n == strlen(column) && memcmp(t, column, n) == 0 && *p && *p != ',') v = atof(p);
        }
    }
    if (f) fclose(f);
    return v;
}

/* ---- Nothing to learn ------------------------------------------------------------------------ */

static void pairs_are_the_published_ones(void)
{
    for (int k = 0; k < 14; k++) CHECK(distill_pair(k, 28, 14) == 2 * k + 1);
    for (int k = 0; k < 7; k++) CHECK(distill_pair(k, 28, 7) == 4 * k + 3);
    CHECK(distill_pair(0, 5, 5) == 0 && distill_pair(2, 8, 3) == 7);
}

/* The teacher as its own student: both see the same states, labels and streams. */
static void a_copy_has_nothing_to_learn(void)
{
    student = teacher;
    const fv_status s = train(ctx, "copy", "loss = place\nsteps = 1\nlr = 1e-30\n", 0);
    student = NULL;
    OK(ctx, s);
    NEAR(last_of("copy", "kd"), 0, 1e-4);
    NEAR(last_of("copy", "feat"), 0, 1e-8);
    NEAR(last_of("copy", "w"), 1, 1e-3);
    CHECK(last_of("copy", "diff") > 0.1);
    NEAR(number("copy", "fovea.distill.distance"), 0, 1e-8);
    const double held = number("copy", "fovea.distill.heldout");
    NEAR(held, number("copy", "fovea.distill.heldout_teacher"), 1e-4 * held);
}

/* ---- Losses ---------------------------------------------------------------------------------- */

#define PRUNED "prune_blocks = 2\n"

static void every_loss_trains(void)
{
    static const struct { const char *more; bool kd, feat, place; } way[] = {
        { "loss = none\n", false, false, false },
        { "loss = out\n", true, false, false },
        { "loss = feat\n", true, true, false },
        { "loss = lift\n", true, true, true },
        { "loss = lift\nlift = sample\nl_feat = 0\n", true, false, true },
        { "loss = place\nweight = linear\n", true, true, true },
        { "loss = place\nweight = cosine\ncoarse = l2\n", true, true, true },
        { "loss = place\nweight = const\nweight_const = 0.25\ngroup = 8\n", true, true, true },
        { "loss = place\nl_feat = 0\n", true, false, true },
        { "loss = place\nreference = dit\nl_diff = 0.1\nl_kd = 0.9\n", true, true, true },
    };
    char more[160];
    for (size_t i = 0; i < sizeof way / sizeof *way; i++) {
        snprintf(more, sizeof more, PRUNED "lr = 1e-30\n%s", way[i].more);
        OK(ctx, train(ctx, "still", more, 0)); /* nothing moves: the same start */
        snprintf(more, sizeof more, PRUNED "%s", way[i].more);
        OK(ctx, train(ctx, "one", more, 0));
        CHECK_MSG(!same_tensors(ctx, "still", "one"), "%s", way[i].more);
        CHECK_MSG(isnan(last_of("one", "kd")) == !way[i].kd, "%s", way[i].more);
        CHECK_MSG(isnan(last_of("one", "feat")) == !way[i].feat, "%s", way[i].more);
        CHECK_MSG(isnan(last_of("one", "m")) == !way[i].place, "%s", way[i].more);
        if (way[i].place) { /* m and coarse agree, w is in its range */
            CHECK(last_of("one", "m") > 0 && last_of("one", "fine") > 0);
            CHECK(last_of("one", "w") >= 0 && last_of("one", "w") <= 1);
        }
        if (strstr(way[i].more, "const")) NEAR(last_of("one", "w"), 0.25, 1e-6);
        if (strstr(way[i].more, "linear")) NEAR(last_of("one", "w"), 0.75, 1e-6); /* step 3 of 4 */
        if (strstr(way[i].more, "cosine")) NEAR(last_of("one", "w"), 0.853553, 1e-5);
    }
}

/* Of the kinds that ask the teacher, each brings a pruned student nearer to it than none does. */
static void a_student_comes_nearer_to_its_teacher(void)
{
    static const char *const kind[] = { "out", "feat", "lift", "place" };
    char more[200];
#define LONGER PRUNED "steps = 150\neval_every = 150\nlog_every = 50\nlr = 5e-3\nl_diff = 0\n"
    OK(ctx, train(ctx, "before", PRUNED "steps = 1\neval_every = 1\nlr = 1e-30\n", 0));
    const double start = number("before", "fovea.distill.distance");
    for (int i = TEST_SANITIZED ? 3 : 0; i < 4; i++) {
        snprintf(more, sizeof more, LONGER "loss = %s\n", kind[i]);
        OK(ctx, train(ctx, "nearer", more, 0));
        const double now = number("nearer", "fovea.distill.distance");
        CHECK_MSG(now < 0.8 * start, "%s: %g, was %g", kind[i], now, start);
    }
}

/* ---- Students -------------------------------------------------------------------------------- */

static void students_may_be_narrower(void)
{
    fv_model *m;
    OK(ctx, train(ctx, "thin", "student_width = 32\nstudent_depth = 2\nloss = place\n", 0));
    CHECK(last_of("thin", "feat") > 0); /* through maps, which are not the model's */
    OK(ctx, fv_model_open(ctx, &m, temp_path("thin"), NULL));
    for (int i = 0; i < fv_model_count(m); i++)
        CHECK(strncmp(fv_model_name(m, i), "distill.", 8) != 0);
    fv_dit *dit;
    fv_dit_info info;
    OK(ctx, fv_dit_open(ctx, &dit, m, NULL));
    fv_dit_get_info(dit, &info);
    CHECK(info.width == 32 && info.depth == 2 && info.classes == 2);
    CHECK(strcmp(fv_dit_class_name(dit, 0), "b") == 0); /* the teacher's order, not the data's */
    fv_dit_close(&dit);
    fv_model_close(&m);
    OK(ctx, train(ctx, "deep", "student_depth = 6\nl_feat = 0\nsteps = 1\n", 0));
    OK(ctx, train(ctx, "slim", "prune_width = 0.5\nprune_keep = 0, 3\nloss = out\n", 0));
    OK(ctx, fv_model_open(ctx, &m, temp_path("slim"), NULL));
    CHECK(strcmp(fv_model_meta(m, "fovea.prune.blocks"), "0,3") == 0);
    CHECK(strcmp(fv_model_meta(m, "fovea.distill.loss"), "out") == 0);
    static const char *const kept[] = { "teacher", "teacher_name", "blocks", "depth_method", "width",
                                        "width_method" };
    fv_model *own = student, *slimmer = NULL;
    student = m; /* goes on from there: how it was pruned is still said */
    OK(ctx, train(ctx, "slimmer", "loss = lift\n", 0));
    OK(ctx, fv_model_open(ctx, &slimmer, temp_path("slimmer"), NULL));
    for (int i = 0; i < 6; i++) {
        char key[32];
        snprintf(key, sizeof key, "fovea.prune.%s", kept[i]);
        CHECK_MSG(strcmp(fv_model_meta(m, key), fv_model_meta(slimmer, key)) == 0, "%s", key);
    }
    CHECK(strcmp(fv_model_meta(slimmer, "fovea.distill.loss"), "lift") == 0);
    student = own;
    fv_model_close(&slimmer);
    fv_model_close(&m);
}

/* The classes of data and teacher are told by name: a teacher with them the other way round in its
 * table, and names in that order, is the same teacher. */
static void without_data_the_teachers_are_taken(void)
{
    fv_model *own = teacher;
    fv_recipe *r;
    fv_distill_options d = FV_DISTILL_OPTIONS_INIT;
    fv_train_result result;
    make_model("taught", 4, 64, "fovea.train.recipe", "engine = dit\ndata = two.tar\nflip = no\n");
    static const char *const short_run =
        "prune_blocks = 1\nworkers = -1\nbatch = 4\nsteps = 2\neval_batches = 1\nprecision = f32\n";
    OK(ctx, fv_model_open(ctx, &teacher, temp_path("taught"), NULL));
    OK(ctx, fv_recipe_parse(ctx, &r, short_run, strlen(short_run)));
    d.teacher = teacher;
    d.trainer.data_dir = temp_dir;
    d.trainer.out_dir = temp_path("run-taught");
    OK(ctx, fv_distill_train(ctx, r, &d, &result));
    CHECK(strstr(fv_recipe_text(r), "data = two.tar") && result.step == 2);
    CHECK(!strstr(fv_recipe_text(r), "l_vb")); /* resumes compare this text with older ones */
    d.trainer.out_dir = "";
    CHECK(fv_distill_train(ctx, r, &d, &result) == FV_ERR_ARG);
    CHECK(strstr(fv_ctx_error(ctx), "no output folder"));
    fv_recipe_close(&r);
    OK(ctx, fv_recipe_parse(ctx, &r, short_run, strlen(short_run)));
    d.teacher = own; /* its file has no recipe */
    d.trainer.out_dir = temp_path("run-untaught");
    CHECK(fv_distill_train(ctx, r, &d, &result) == FV_ERR_ARG);
    CHECK(strstr(fv_ctx_error(ctx), "give data"));
    fv_recipe_close(&r);
    fv_model_close(&teacher);
    teacher = own;
}

/* ---- Interruptions --------------------------------------------------------------------------- */

static const char *stopped_recipe;
static fv_status go_on(fv_ctx *c, void *user)
{
    (void)user;
    return train(c, "parts", stopped_recipe, 1);
}

static void check_stops(const char *more)
{
    fv_ctx *c = make_context(0, 1);
    fv_model *ours = teacher;
    int stops = 0;
    stopped_recipe = more;
    OK(c, fv_model_open(c, &teacher, temp_path("teacher"), NULL));
    temp_remove_tree(temp_path("run-parts"));
    const unsigned begin = micros();
    OK(c, train(c, "whole", more, 0));
    OK(c, stop_and_go(c, go_on, NULL, micros() - begin, 2, &stops));
    CHECK_MSG(stops > 1, "%d stops", stops);
    CHECK(same_tensors(c, "whole", "parts"));
    NEAR(last_of("parts", "kd"), last_of("whole", "kd"), 1e-12);
    fv_model_close(&teacher);
    teacher = ours;
    fv_ctx_destroy(&c);
}

static void stopped_runs_end_the_same(void)
{
    check_stops(PRUNED "steps = 30\nloss = place\n");
    check_stops("student_width = 32\nsteps = 30\nloss = feat\naccumulate = 2\n"); /* maps too */
}

/* Its last checkpoint is there, its model is not: as when it was killed between the two. */
static void a_run_that_lacks_only_its_model_writes_the_same(void)
{
    static const char *const key[] = { "fovea.distill.heldout", "fovea.distill.heldout_teacher",
                                       "fovea.distill.distance" };
    double was[3];
    OK(ctx, train(ctx, "late", PRUNED, 0));
    for (int k = 0; k < 3; k++) was[k] = number("late", key[k]);
    CHECK(unlink(temp_path("late")) == 0);
    OK(ctx, train(ctx, "late", PRUNED, 1));
    for (int k = 0; k < 3; k++) NEAR(number("late", key[k]), was[k], 0);
}

/* ---- Choices that take time ------------------------------------------------------------------ */

static int count_choosing(void *user, const fv_progress *p)
{
    *(int *)user += strcmp(p->stage, "learning blocks") == 0 || strcmp(p->stage, "calibration") == 0;
    return 0;
}

static char why[400]; /* the newest run failed */

/* Runs, and counts the reports of choosing. */
static void choosing_in(const char *out, const char *more, int resume, fv_status want, int *choosing)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_ctx *c = NULL;
    fv_model *own = teacher;
    *choosing = 0;
    o.threads = 1;
    o.progress = count_choosing;
    o.user = choosing;
    if (fv_ctx_create(&c, &o) != FV_OK) exit(1);
    if (fv_model_open(c, &teacher, temp_path("teacher"), NULL) != FV_OK) exit(1);
    const fv_status s = train(c, out, more, resume);
    CHECK_MSG(s == want, "%s: %s", fv_status_name(s), fv_ctx_error(c));
    snprintf(why, sizeof why, "%s", fv_ctx_error(c));
    fv_model_close(&teacher);
    teacher = own;
    fv_ctx_destroy(&c);
}

static void change_byte(const char *path, long at)
{
    FILE *f = fopen(temp_path(path), "r+b");
    CHECK(f && fseek(f, at, SEEK_END) == 0);
    const int c = getc(f);
    CHECK(fseek(f, at, SEEK_END) == 0 && putc(c ^ 1, f) >= 0 && fclose(f) == 0);
}

static void choices_are_kept_for_a_resume(void)
{
    static const char *const way[] = {
        PRUNED "prune_method = learned\nprune_samples = 8\nprune_steps = 2\n",
        PRUNED "prune_method = shortgpt\nprune_samples = 8\nprune_width = 0.5\n"
               "prune_importance = diff\n",
        "prune_width = 0.5\nprune_importance = diff\nprune_samples = 8\n",
    };
    char more[300], longer[300];
    int n;
    for (int k = 0; k < 3; k++) {
        snprintf(more, sizeof more, "%sschedule = constant\nl_feat = 0\n", way[k]);
        snprintf(longer, sizeof longer, "%sschedule = constant\nl_feat = 0\nsteps = 6\n", way[k]);
        choosing_in("at-once", longer, 0, FV_OK, &n);
        CHECK(n > 0);
        choosing_in("kept", more, 0, FV_OK, &n);
        CHECK(n > 0);
        choosing_in("kept", longer, 1, FV_OK, &n);
        CHECK(n == 0);
        CHECK(same_tensors(ctx, "at-once", "kept"));
        /* Not before it is known that the folder is free. */
        train_again = true;
        choosing_in("kept", more, 0, FV_ERR_EXISTS, &n);
        CHECK(n == 0);
        train_again = false;
        /* Nothing is taken of a damaged file, and one for something else is refused. */
        change_byte("run-kept/choice.safetensors", -1);
        choosing_in("kept", longer, 1, FV_OK, &n);
        CHECK(n > 0);
        choosing_in("kept", longer, 1, FV_OK, &n);
        CHECK(n == 0); /* written anew */
        CHECK(same_tensors(ctx, "at-once", "kept"));
        snprintf(more, sizeof more, "%sschedule = constant\nl_feat = 0\nseed = 2\n", way[k]);
        choosing_in("kept", more, 1, FV_ERR_MODEL, &n);
        CHECK(n == 0 && strstr(why, "another teacher or pruning"));
    }
    /* Other blocks by number are another choice, too. */
    const char *const wide = "prune_keep = %s\nprune_width = 0.5\nprune_importance = diff\n"
                             "prune_samples = 8\nschedule = constant\nl_feat = 0\n";
    snprintf(more, sizeof more, wide, "0,2");
    choosing_in("kept", more, 0, FV_OK, &n);
    CHECK(n > 0);
    choosing_in("kept", more, 1, FV_OK, &n);
    CHECK(n == 0);
    snprintf(more, sizeof more, wide, "0,1");
    choosing_in("kept", more, 1, FV_ERR_MODEL, &n);
    CHECK(n == 0 && strstr(why, "another teacher or pruning"));
    choosing_in("kept", PRUNED, 0, FV_OK, &n);
    CHECK(n == 0);
    CHECK(access(temp_path("run-kept/choice.safetensors"), F_OK) != 0); /* quick: not kept */
}

static void another_teacher_cannot_go_on(void)
{
    fv_model *own = teacher;
    OK(ctx, train(ctx, "mine", PRUNED, 0));
    make_model("other", 5, 64, NULL, NULL);
    OK(ctx, fv_model_open(ctx, &teacher, temp_path("other"), NULL));
    const fv_status s = train(ctx, "mine", PRUNED, 1);
    CHECK_MSG(s != FV_OK && strstr(fv_ctx_error(ctx), "teacher"), "%s", fv_ctx_error(ctx));
    fv_model_close(&teacher);
    teacher = own;
}

static void without_memory_nothing_is_left(void)
{
    alloc_fail heap = { .left = ALLOC_ALL };
    fv_model *own = teacher;
    int failed = 0;
    for (int64_t n = 0;; n += 1 + n / 12) { /* most allocations are the same for more tensors */
        atomic_store(&heap.left, ALLOC_ALL);
        fv_ctx *c = alloc_fail_context(&heap, 1);
        if (fv_model_open(c, &teacher, temp_path("teacher"), NULL) != FV_OK) exit(1);
        atomic_store(&heap.left, n);
        const fv_status s =
            train(c, "poor", "student_width = 32\nstudent_depth = 2\nsteps = 1\nsave_every = 1\n", 0);
        atomic_store(&heap.left, ALLOC_ALL);
        fv_model_close(&teacher);
        fv_ctx_destroy(&c);
        CHECK_MSG(s == FV_OK || s == FV_ERR_OOM, "%lld: %s", (long long)n, fv_status_name(s));
        CHECK(atomic_load(&heap.live) == 0);
        if (s == FV_OK) break;
        failed++;
    }
    teacher = own;
    CHECK(failed > 50);
}

/* ---- Refusals -------------------------------------------------------------------------------- */

static void bad_recipes_are_refused(void)
{
    static const struct { const char *more; fv_status status; const char *text; } bad[] = {
        { "", FV_ERR_ARG, "none is given" },
        { PRUNED "student_depth = 2\n", FV_ERR_ARG, "more than one" },
        { PRUNED "loss = both\n", FV_ERR_UNKNOWN, "none, out, feat, lift or place" },
        { PRUNED "weight = half\n", FV_ERR_UNKNOWN, "adaptive, linear, cosine or const" },
        { PRUNED "prune_method = best\n", FV_ERR_UNKNOWN, "uniform, shortgpt or learned" },
        { "prune_keep = 0, x\n", FV_ERR_MODEL, "prune_keep" },
        { "prune_blocks = 9\n", FV_ERR_ARG, "9 blocks cannot stay" },
        { PRUNED "l_diff = 0\nloss = none\n", FV_ERR_ARG, "weight 0" },
        { PRUNED "reference = dit\ncoarse = l1\n", FV_ERR_UNKNOWN, "coarse" },
        { PRUNED "gruop = 8\n", FV_ERR_UNKNOWN, "group" },
        { PRUNED "lr_fianl = 0\n", FV_ERR_UNKNOWN, "lr_final" },
        { PRUNED "lr = 0\n", FV_ERR_ARG, "above 0" },
        { PRUNED "ema = 1\n", FV_ERR_ARG, "ema_decay" },
        { "student = a.safetensors\n", FV_ERR_ARG, "names a student" },
        { "student_width = 30\n", FV_ERR_MODEL, "" },
        { "student_depth = 5\n", FV_ERR_ARG, "no pairs" },
        { PRUNED "data = three.tar\n", FV_ERR_MODEL, "class c" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const fv_status s = train(ctx, "none", bad[i].more, 0);
        CHECK_MSG(s == bad[i].status && strstr(fv_ctx_error(ctx), bad[i].text), "%s: %s: %s",
                  bad[i].more, fv_status_name(s), fv_ctx_error(ctx));
        CHECK(access(temp_path("none"), F_OK) != 0);
    }
    student = NULL;
    fv_model *own = teacher;
    teacher = NULL;
    CHECK(train(ctx, "none", PRUNED, 0) == FV_ERR_ARG);
    OK(ctx, fv_dit_random(ctx, "DiT-S/8", 2, 1, temp_path("official"), 1));
    OK(ctx, fv_model_open(ctx, &teacher, temp_path("official"), NULL));
    fv_recipe *r;
    fv_trainer_options o = FV_TRAINER_OPTIONS_INIT;
    OK(ctx, fv_recipe_parse(ctx, &r, PRUNED, sizeof PRUNED - 1));
    CHECK(with_teacher(ctx, r, &o, NULL) == FV_ERR_ARG); /* data is asked for first */
    OK(ctx, fv_recipe_set(r, "data=two.tar"));
    CHECK(with_teacher(ctx, r, &o, NULL) == FV_ERR_MODEL);
    CHECK(strstr(fv_ctx_error(ctx), "latents"));
    fv_recipe_close(&r);
    fv_model_close(&teacher);
    teacher = own;
}

int main(void)
{
    temp_dir_make("distill-train");
    ctx = make_context(0, 1);
    make_data("two.tar", "ab");
    make_data("three.tar", "abc");
    make_model("teacher", 4, 64, NULL, NULL);
    if (fv_model_open(ctx, &teacher, temp_path("teacher"), NULL) != FV_OK) return 1;
    RUN(pairs_are_the_published_ones);
    RUN(a_copy_has_nothing_to_learn);
    RUN(every_loss_trains);
    RUN(a_student_comes_nearer_to_its_teacher);
    RUN(students_may_be_narrower);
    RUN(without_data_the_teachers_are_taken);
    RUN(a_run_that_lacks_only_its_model_writes_the_same);
    RUN(choices_are_kept_for_a_resume);
    RUN(another_teacher_cannot_go_on);
    RUN(without_memory_nothing_is_left);
    RUN(bad_recipes_are_refused);
    RUN(stopped_runs_end_the_same);
    fv_model_close(&teacher);
    fv_ctx_destroy(&ctx);
    temp_dir_remove();
    return test_end();
}
