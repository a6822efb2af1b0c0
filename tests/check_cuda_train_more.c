/* check_cuda_train_more.c - as check_cuda_train.c, of the trainings whose networks work on codes of
 * pictures, and of the classifier. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "cuda_training.h"

#include "fovea_ar.h"

#define COMMON \
    "data = data.tar\nworkers = -1\nprecision = f32\nexport = f32\nbatch = 4\nseed = 3\nema = 0.9\n" \
    "lr = 1e-3\nwarmup = 0\nschedule = constant\nlog_every = 1\n"

/* ---- Recipes --------------------------------------------------------------------------------- */

static const char vq_recipe[] =
    COMMON "preset = vq-s8\nimage_size = 16\nchannels = 8\nlatent = 8\ncodes = 16\ncode_width = 4\n"
    "encoder_blocks = 1\ndecoder_blocks = 1\nattention = no\neval_pictures = 4\neval_every = 3\n"
    "restart_every = 2\nrestart_until = 1\nrestart_batches = 2\nsample_pictures = 2\nsample_every = 6\nsteps = 6\n";
static const char ar_recipe[] =
    COMMON "preset = ar-nano\nlayers = 1\nwidth = 32\nheads = 2\nffn = 32\ngrid = 2\ndraws = 16\n"
    "eval_pictures = 4\neval_every = 4\nsample_columns = 1\nsample_every = 8\nsteps = 8\n";
static const char draft_recipe[] =
    COMMON "draws = 16\neval_pictures = 4\neval_every = 4\nself_draws = 6\naccept_pictures = 2\n"
    "steps = 8\n";
static const char classifier_recipe[] = COMMON "image_size = 16\neval_every = 3\nsteps = 6\n";

/* A discriminator from the second step on. */
#define GAN "gan=0.5\ngan_from=0.2\ngan_match=0.5\ngan_channels=8\ngan_layers=1\n"

/* The recipe with a line "KEY = FILE" of this folder. */
static fv_status train_with(fv_ctx *ctx, fv_recipe *r, const fv_trainer_options *o,
                            fv_train_result *result, const char *key, const char *file,
                            fv_trainer train)
{
    char line[300];
    snprintf(line, sizeof line, "%s=%s/%s", key, temp_dir, file);
    FV_TRY(fv_recipe_set(r, line));
    return train(ctx, r, o, result);
}

/* All generators use one tokenizer, and all drafts one generator: make_models. */
static fv_status train_ar(fv_ctx *ctx, fv_recipe *r, const fv_trainer_options *o, fv_train_result *n)
{
    return train_with(ctx, r, o, n, "tokenizer", "tokenizer", fv_ar_train);
}
static fv_status train_draft(fv_ctx *ctx, fv_recipe *r, const fv_trainer_options *o,
                             fv_train_result *n)
{
    return train_with(ctx, r, o, n, "model", "generator", fv_ar_draft_train);
}

static const kind vq = { fv_vq_train, vq_recipe, NULL };
static const kind ar = { train_ar, ar_recipe, NULL };
static const kind draft = { train_draft, draft_recipe, NULL };
static const kind classifier = { fv_classifier_train, classifier_recipe, NULL };

/* On the CPU. Without restarts codes stay so far from each other that bf16 chooses the same ones. */
static void make_models(void)
{
    OK(cpu, go(cpu, &vq, "tokenizer", GAN "restart_every=0\n", 0));
    OK(cpu, go(cpu, &ar, "generator", "", 0));
    OK(cpu, go(cpu, &classifier, "classifier", "", 0));
}

/* ---- As on the CPU --------------------------------------------------------------------------- */

static void tokenizers_learn_what_they_learn_on_the_cpu(void)
{
    compare(&vq, "", "vq", 1e-3, 5e-3);
    compare(&vq, GAN "restart_every=0\n", "vq-gan", 1e-3, 5e-3);
}

static void generators_learn_what_they_learn_on_the_cpu(void)
{
    compare(&ar, "", "ar", 1e-4, 2e-3);
    compare(&ar, "precision=bf16\naccumulate=2\nbatch=2\n", "ar-half", 2e-2, 5e-2);
}

static void drafts_learn_what_they_learn_on_the_cpu(void)
{
    compare(&draft, "", "draft", 1e-4, 2e-3);
    compare(&draft, "unroll=0\ncfg_weight=0\nself_draws=0\n", "plain", 1e-4, 2e-3);
}

static void classifiers_learn_what_they_learn_on_the_cpu(void)
{
    compare(&classifier, "", "class", 1e-4, 2e-3);
}

/* What the trained classifier sees in pictures, on both. */
static void classifiers_see_what_they_see_on_the_cpu(void)
{
    enum { N = 5, PIXELS = 16 * 16 * 3 };
    static float x[N * PIXELS];
    fv_classifier_info info;
    fv_ctx *const on[2] = { cpu, gpu };
    float *out[2];
    test_fill(x, N * PIXELS, 9);
    for (int k = 0; k < 2; k++) {
        fv_model *m;
        fv_classifier *c;
        OK(on[k], fv_model_open(on[k], &m, temp_path("classifier"), NULL));
        OK(on[k], fv_classifier_open(on[k], &c, m));
        fv_classifier_get_info(c, &info);
        out[k] = fv_calloc(cpu, (size_t)N * (size_t)(info.features + info.classes), sizeof(float));
        OK(on[k], fv_classifier_run(on[k], c, x, N, out[k], out[k] + N * info.classes));
        fv_classifier_close(&c);
        fv_model_close(&m);
    }
    double most = 0, apart_most = 0;
    for (int i = 0; i < N * (info.features + info.classes); i++) {
        most = fmax(most, fabs((double)out[0][i]));
        apart_most = fmax(apart_most, fabs((double)out[0][i] - out[1][i]));
    }
    CHECK_MSG(most > 0.1 && apart_most < 1e-4 * most, "%g of %g", apart_most, most);
    for (int k = 0; k < 2; k++) fv_free(cpu, out[k]);
}

/* ---- Resuming -------------------------------------------------------------------------------- */

static void tokenizers_go_on(void)
{
    resumed_runs_are_uninterrupted_ones(&vq, "vq");
    runs_go_on_on_the_other_device(&vq, "vq", "steps=3\n", 5e-3);
}

static void generators_go_on(void)
{
    resumed_runs_are_uninterrupted_ones(&ar, "ar");
    runs_go_on_on_the_other_device(&ar, "ar", "steps=4\n", 2e-3);
}

static void drafts_go_on(void)
{
    resumed_runs_are_uninterrupted_ones(&draft, "draft");
    runs_go_on_on_the_other_device(&draft, "draft", "steps=4\n", 2e-3);
}

static void classifiers_go_on(void)
{
    resumed_runs_are_uninterrupted_ones(&classifier, "class");
    runs_go_on_on_the_other_device(&classifier, "class", "steps=3\n", 2e-3);
}

/* Stopped by the clock again and again, also while codes are set anew: nothing is lost. */
typedef struct endless { const kind *k; const char *more, *out; } endless;
static fv_status go_on(fv_ctx *ctx, void *user)
{
    const endless *e = user;
    return go(ctx, e->k, e->out, e->more, 1);
}
static void stopped_runs_are_uninterrupted_ones(void)
{
    const kind *const kinds[] = { &vq, &vq, &ar, &draft };
    static const char *const name[] = { "vq", "judged", "ar", "draft" };
    for (int i = 0; i < 4; i++) {
        const char *more = i == 1 ? GAN : "";
        char out[32], whole[32];
        int stops;
        snprintf(out, sizeof out, "%s-stopped", name[i]);
        snprintf(whole, sizeof whole, "%s-again", name[i]);
        const unsigned begun = micros();
        OK(gpu, go(gpu, kinds[i], whole, more, 0));
        endless e = { kinds[i], more, out };
        OK(gpu, stop_and_go(gpu, go_on, &e, micros() - begun, 4, &stops));
        CHECK(stops > 1);
        CHECK(same_tensors(cpu, out, whole));
        CHECK(device_is_whole());
    }
}

int main(int argc, char **argv)
{
    const int code = begin(argc, argv, "cuda_train_more");
    if (code >= 0) return code;
    make_models();
    RUN(tokenizers_learn_what_they_learn_on_the_cpu);
    RUN(generators_learn_what_they_learn_on_the_cpu);
    RUN(drafts_learn_what_they_learn_on_the_cpu);
    RUN(classifiers_learn_what_they_learn_on_the_cpu);
    RUN(classifiers_see_what_they_see_on_the_cpu);
    RUN(tokenizers_go_on);
    RUN(generators_go_on);
    RUN(drafts_go_on);
    RUN(classifiers_go_on);
    RUN(stopped_runs_are_uninterrupted_ones);
    return end();
}
