/* check_cuda_distill.c - students of latent models on the emulated GPU against the CPU, and what is
 * measured of a teacher before some of it goes. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "cuda_training.h"

#include "fovea_distill.h"
#include "random_model.h"

#define PARITY(name) FV_TEST_DIR "/parity/" name

/* ---- Models ---------------------------------------------------------------------------------- */

static fv_status write_teacher(const char *name, const dit_config *c)
{
    fv_meta m;
    dit_net n = { 0 };
    FV_TRY(dit_config_meta(cpu, c, &m));
    fv_status s = fv_meta_add(cpu, &m, "fovea.classes", "a\nb");
    if (s == FV_OK) s = random_net(cpu, &n, c, 7, 0.1f);
    if (s == FV_OK)
        s = fv_params_export(cpu, n.params, FV_F32, (const char *const *)m.item, m.pairs,
                             temp_path(name), 1);
    fv_meta_free(cpu, &m);
    dit_net_destroy(cpu, &n);
    return s;
}

/* "pixels": an F model. "latents": an official one of 4 x 4 latents of the autoencoder that lies here,
 * which predicts variances too. */
static void make_teachers(void)
{
    dit_config c;
    OK(cpu, random_config(cpu, "F32", 2, 4, &c));
    c.input_size = SIDE;
    OK(cpu, write_teacher("pixels", &c));
    OK(cpu, random_config(cpu, "DiT-S/2", 2, 3, &c));
    c.input_size = 4;
    c.out_channels = 8;
    OK(cpu, write_teacher("latents", &c));
}

/* ---- Trainings ------------------------------------------------------------------------------- */

static const char recipe[] =
    "data = data.tar\nworkers = -1\neval_batches = 1\nprecision = f32\nexport = f32\nprune_blocks = 2\n"
    "batch = 4\nema = 0.9\nlr = 1e-3\nwarmup = 0\nschedule = constant\nlog_every = 1\neval_every = 4\n"
    "l_feat = 0\nloss = out\nsample_columns = 1\nsteps = 6\n";

static fv_status distill(fv_ctx *ctx, fv_recipe *r, const fv_trainer_options *o,
                         fv_train_result *result, const char *teacher, const char *vae)
{
    fv_distill_options d = FV_DISTILL_OPTIONS_INIT;
    fv_model *from = NULL, *coder = NULL;
    FV_TRY(fv_model_open(ctx, &from, temp_path(teacher), NULL));
    fv_status s = vae ? fv_model_open(ctx, &coder, vae, NULL) : FV_OK;
    d.teacher = from;
    d.vae = coder;
    d.trainer = *o;
    if (s == FV_OK) s = fv_distill_train(ctx, r, &d, result);
    fv_model_close(&coder);
    fv_model_close(&from);
    return s;
}
static fv_status of_latents(fv_ctx *ctx, fv_recipe *r, const fv_trainer_options *o,
                            fv_train_result *result)
{
    return distill(ctx, r, o, result, "latents", PARITY("taesd_encoder_small.safetensors"));
}
static fv_status of_pixels(fv_ctx *ctx, fv_recipe *r, const fv_trainer_options *o,
                           fv_train_result *result)
{
    return distill(ctx, r, o, result, "pixels", NULL);
}
static const kind latents = { of_latents, recipe, NULL };
static const kind pixels = { of_pixels, recipe, NULL };

static void students_of_latent_models_learn_what_they_learn_on_the_cpu(void)
{
    compare(&latents, "", "latent", 1e-3, 2e-3);
    compare(&latents, "loss=lift\nlift=sample\nl_feat=0.01\n", "latent-lift", 1e-3, 2e-3);
    compare(&latents, "loss=none\nprecision=bf16\naccumulate=2\n", "latent-half", 3e-2, 5e-2);
}

static void students_of_latent_models_go_on(void)
{
    resumed_runs_are_uninterrupted_ones(&latents, "latent");
    runs_go_on_on_the_other_device(&latents, "latent", "steps=3\n", 2e-3);
}

/* ---- What stays ------------------------------------------------------------------------------ */

/* Tensors of the choices of two runs: numbers of blocks, heads and channels are the same, measures of
 * blocks within `bound`. */
static void same_choices(const char *one, const char *two, int tensors, double bound)
{
    char path[2][80];
    fv_model *a = NULL, *b = NULL;
    snprintf(path[0], sizeof path[0], "run-%s/choice.safetensors", one);
    snprintf(path[1], sizeof path[1], "run-%s/choice.safetensors", two);
    OK(cpu, fv_model_open(cpu, &a, temp_path(path[0]), NULL));
    OK(cpu, fv_model_open(cpu, &b, temp_path(path[1]), NULL));
    CHECK(fv_model_count(a) == tensors && fv_model_count(b) == tensors);
    for (int i = 0; i < tensors; i++) {
        fv_tensor x, y;
        fv_model_tensor(a, i, &x);
        CHECK(fv_model_find(b, fv_model_name(a, i), &y) && x.dtype == y.dtype);
        if (x.dtype == FV_I32)
            CHECK_MSG(memcmp(x.data, y.data, (size_t)fv_tensor_count(&x) * 4) == 0, "%s",
                      fv_model_name(a, i));
        for (int64_t k = 0; x.dtype == FV_F64 && k < fv_tensor_count(&x); k++) {
            const double u = ((const double *)x.data)[k], v = ((const double *)y.data)[k];
            CHECK_MSG(fabs(u - v) <= bound * fmax(fabs(v), 0.01), "%s %d: %g, %g",
                      fv_model_name(a, i), (int)k, u, v);
        }
    }
    fv_model_close(&a);
    fv_model_close(&b);
}

/* The same blocks, and so students that learn alike. */
static void blocks_are_chosen_as_on_the_cpu(void)
{
    compare(&pixels, "prune_method=shortgpt\nprune_samples=4\n", "short", 1e-3, 2e-3);
    same_choices("short-gpu", "short-cpu", 2, 1e-3);
    compare(&pixels, "prune_method=learned\nprune_samples=4\nprune_steps=4\n", "learned", 1e-3, 2e-3);
    same_choices("learned-gpu", "learned-cpu", 2, 1e-3);
}

static void heads_and_channels_are_chosen_as_on_the_cpu(void)
{
    compare(&pixels, "prune_blocks=0\nprune_width=0.5\nprune_importance=diff\nprune_samples=4\n",
            "narrow", 1e-3, 2e-3);
    same_choices("narrow-gpu", "narrow-cpu", 3, 0);
    compare(&latents, "prune_blocks=0\nprune_width=0.5\nprune_importance=diff\nprune_samples=4\n",
            "narrow-latent", 1e-3, 2e-3);
    same_choices("narrow-latent-gpu", "narrow-latent-cpu", 3, 0);
}

int main(int argc, char **argv)
{
    const int code = begin(argc, argv, "cuda_distill");
    if (code >= 0) return code;
    make_teachers();
    RUN(students_of_latent_models_learn_what_they_learn_on_the_cpu);
    RUN(students_of_latent_models_go_on);
    RUN(blocks_are_chosen_as_on_the_cpu);
    RUN(heads_and_channels_are_chosen_as_on_the_cpu);
    return end();
}
