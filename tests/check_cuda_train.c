/* check_cuda_train.c - training on the emulated GPU against the CPU: the same losses and weights, runs
 * that go on bit for bit and on the other device, steps that are skipped, and what is refused. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "cuda_training.h"

#include "fovea_codec.h"
#include "fovea_diffusion.h"
#include "fovea_distill.h"
#include "optim_tables.h"

/* ---- Runs ------------------------------------------------------------------------------------ */

static const char dit_recipe[] =
    "data = data.tar\nworkers = -1\neval_batches = 1\nprecision = f32\nexport = f32\n"
    "preset = F32\nwidth = 32\ndepth = 2\nbatch = 4\nema = 0.9\nlr = 1e-3\nwarmup = 0\n"
    "schedule = constant\nweight_decay = 0.1\nlog_every = 1\neval_every = 4\nsteps = 8\n";

static const char pssr_recipe[] =
    "data = data.tar\nworkers = -1\neval_pictures = 1\neval_size = 16\nprecision = f32\nexport = f32\n"
    "preset = nano\ncrop = 16\nbatch = 2\nema = 0.9\nlr = 1e-3\nwarmup = 0\nschedule = constant\n"
    "clean_first = 0\nlog_every = 1\neval_every = 6\nsteps = 6\nsample_rows = 1\nsample_every = 6\n";

/* A student of one block of the model that the first test trained. */
static const char distill_recipe[] =
    "data = data.tar\nworkers = -1\neval_batches = 1\nprecision = f32\nexport = f32\nprune_blocks = 1\n"
    "batch = 4\nema = 0.9\nlr = 1e-3\nwarmup = 0\nschedule = constant\nlog_every = 1\neval_every = 4\n"
    "l_feat = 0\nsample_columns = 1\nsteps = 6\n"; /* its weight would depend on the steps */

static fv_status distill(fv_ctx *ctx, fv_recipe *r, const fv_trainer_options *o,
                         fv_train_result *result)
{
    fv_distill_options d = FV_DISTILL_OPTIONS_INIT;
    fv_model *teacher = NULL;
    FV_TRY(fv_model_open(ctx, &teacher, temp_path("dit-cpu"), NULL));
    d.teacher = teacher;
    d.trainer = *o;
    const fv_status s = fv_distill_train(ctx, r, &d, result);
    fv_model_close(&teacher);
    return s;
}

static const kind dit = { fv_dit_train, dit_recipe, NULL };
static const kind pssr = { fv_pssr_train, pssr_recipe, NULL };
static const kind student = { distill, distill_recipe, NULL };
static const kind draft = { fv_pssr_train, pssr_recipe, "base-cpu" };

static void a_dit_learns_what_it_learns_on_the_cpu(void) { compare(&dit, "", "dit", 1e-4, 2e-3); }
static void in_bf16_and_in_two_rounds(void)
{
    compare(&dit, "precision=bf16\naccumulate=2\nbatch=2\n", "half", 2e-2, 5e-2);
}

/* Both stages; the second on the first one's model. */
static void super_resolution_learns_what_it_learns_on_the_cpu(void)
{
    compare(&pssr, "", "base", 1e-4, 2e-3);
    /* Losses with kinks: what is next to one goes either way, and Adam makes steps of signs. */
    compare(&draft, "stage=draft\npeaks=0.1\nfidelity=0.1\nlr=1e-4\n", "draft", 1e-2, 2e-3);
    compare(&draft, "stage=draft\ntexture=0.1\ncrop=32\nbatch=1\nlr=1e-4\nsteps=4\n", "texture", 2e-2,
            1e-2);
    compare(&draft, "stage=draft\nupdate=gain\nprecision=bf16\nlr=1e-4\n", "gain", 3e-2, 2e-2);
    compare(&draft, "stage=draft\nlr=1e-4\ngan=5\ngan_from=0.3\ngan_channels=8\ngan_layers=1\n",
            "gan", 1e-2, 5e-3);
    compare(&pssr, "preset=nano-video\nframes=2\nsteps=4\neval_every=4\n", "clips", 1e-3, 5e-3);
}

static void students_learn_what_they_learn_on_the_cpu(void)
{
    /* Large groups and squares: the last bit of a value may say which group it is of, one of few
     * neighbours is divided by a variance near 0, and |b0| has a kink. */
    compare(&student, "l_feat=0.01\ncoarse=l2\ngroup=256\neps=0.01\n", "place", 1e-3, 2e-3);
    compare(&student, "loss=lift\nlift=sample\nweight=cosine\nl_feat=0.01\n", "lift", 1e-3, 2e-3);
    compare(&student, "loss=feat\nl_feat=0.01\naccumulate=2\nprecision=bf16\n", "feat", 3e-2, 5e-2);
}

/* ---- Resuming -------------------------------------------------------------------------------- */

static void a_dit_goes_on_bit_for_bit(void) { resumed_runs_are_uninterrupted_ones(&dit, "dit"); }

static void super_resolution_goes_on_bit_for_bit(void)
{
    resumed_runs_are_uninterrupted_ones(&pssr, "sr");
}

static void students_go_on_bit_for_bit(void)
{
    resumed_runs_are_uninterrupted_ones(&student, "student");
}

static void a_run_goes_on_on_the_other_device(void)
{
    runs_go_on_on_the_other_device(&dit, "dit", "steps=4\n", 2e-3);
}

/* ---- The optimiser alone --------------------------------------------------------------------- */

#define VALUES 1003

typedef struct small { fv_params *p; fv_opt *o; fv_pid id[3]; } small;

static fv_status make_small(fv_ctx *ctx, small *s)
{
    static const uint32_t flags[3] = { FV_PARAM_DECAY, FV_PARAM_FROZEN, 0 };
    fv_opt_options o = FV_OPT_OPTIONS_INIT;
    const int64_t dim[2] = { 17, 59 };
    o.clip = 0.5f;
    o.ema_decay = 0.9f;
    o.weight_decay = 0.2f;
    FV_TRY(fv_params_create(ctx, &s->p));
    for (int i = 0; i < 3; i++)
        s->id[i] = fv_params_add(s->p, (const char *[]){ "a", "b", "c" }[i], 2, dim, flags[i]);
    FV_TRY(fv_params_alloc(s->p));
    for (int i = 0; i < 3; i++) fv_params_init_normal(s->p, s->id[i], 3, 1.0f);
    return fv_opt_create(ctx, &s->o, s->p, &o);
}

static void free_small(small *s)
{
    fv_opt_destroy(&s->o);
    fv_params_destroy(&s->p);
}

/* A step with gradients that depend on k; `bad` is the one at 5. */
static fv_status step_small(fv_ctx *ctx, small *s, int k, float bad, fv_opt_info *info)
{
    static float g[3 * 1008];
    const size_t n = (size_t)fvi_params_flat_count(s->p);
    for (size_t i = 0; i < n; i++)
        g[i] = i % 1008 < VALUES && i / 1008 != 1 ? (float)sin(0.1 * (double)i * (k + 1)) : 0;
    if (bad != 0) g[5] = bad;
    FV_TRY(fv_dev_copy(ctx, fvi_params_grad_flat(s->p), g, n * sizeof *g, FV_COPY_TO_DEVICE));
    return fv_opt_step(s->o, 0.01f, info);
}

static const float *values_of(const small *s)
{
    return fvi_params_fetch(s->p) == FV_OK ? fv_params_tensor(s->p, 0).data : NULL;
}

static void steps_are_those_of_the_cpu(void)
{
    small a, b;
    fv_opt_info on = { 0, 0 }, off = { 0, 0 };
    OK(cpu, make_small(cpu, &a));
    OK(gpu, make_small(gpu, &b));
    for (int k = 0; k < 4; k++) {
        const float bad = k == 2 ? INFINITY : 0;
        OK(cpu, step_small(cpu, &a, k, bad, &off));
        OK(gpu, step_small(gpu, &b, k, bad, &on));
        CHECK(on.skipped == off.skipped && on.skipped == (k == 2));
        CHECK(k == 2 || apart(on.grad_norm, off.grad_norm) < 1e-12);
    }
    for (int average = 0; average < 2; average++) {
        const float *x = values_of(&a), *y = values_of(&b);
        double worst = 0;
        for (int64_t i = 0; x && y && i < fvi_params_flat_count(a.p); i++)
            worst = test_worst(worst, fabs((double)x[i] - y[i]));
        CHECK_MSG(worst < 1e-6, "%g", worst);
        fv_opt_swap_ema(a.o);
        fv_opt_swap_ema(b.o);
    }
    CHECK(fv_opt_step(b.o, 0.01f, NULL) == FV_OK); /* swapped twice: back in place */
    free_small(&a);
    free_small(&b);
}

/* Values changed on the host reach the device, unless they would undo its steps. */
static void changes_of_the_host_are_sent(void)
{
    small s;
    OK(gpu, make_small(gpu, &s));
    OK(gpu, step_small(gpu, &s, 0, 0, NULL));
    OK(gpu, fvi_params_fetch(s.p));
    fv_params_fill(s.p, s.id[1], 4.0f);
    OK(gpu, step_small(gpu, &s, 1, 0, NULL));
    const float *x = values_of(&s);
    CHECK(x && x[fvi_param_offset(s.p, s.id[1]) + 7] == 4.0f); /* frozen: as filled */
    OK(gpu, step_small(gpu, &s, 2, 0, NULL));
    fv_params_fill(s.p, s.id[1], 5.0f);
    CHECK(step_small(gpu, &s, 3, 0, NULL) == FV_ERR_INTERNAL);
    free_small(&s);
}

/* ---- What is refused ------------------------------------------------------------------------- */

static void slices_are_refused(void)
{
    CHECK(go(gpu, &dit, "slices", "slices=2\n", 0) == FV_ERR_UNSUPPORTED);
    CHECK(strstr(fv_ctx_error(gpu), "slices"));
    OK(gpu, go(gpu, &dit, "one", "slices=1\nsteps=1\n", 0));
}

/* Pictures are made of the averaged weights on the device. */
static void samples_are_those_of_the_cpu(void)
{
    const char *more = "steps=2\nsample_every=2\nsample_columns=1\n";
    fv_image a = { 0 }, b = { 0 };
    int worst = 0;
    OK(cpu, go(cpu, &dit, "seen-cpu", more, 0));
    OK(gpu, go(gpu, &dit, "seen-gpu", more, 0));
    OK(cpu, fv_image_read(cpu, &a, temp_path("run-seen-cpu/sample-00000002.png"), NULL));
    OK(cpu, fv_image_read(cpu, &b, temp_path("run-seen-gpu/sample-00000002.png"), NULL));
    CHECK(a.width > 0 && a.width == b.width && a.height == b.height);
    CHECK(a.channels == 3 && b.channels == 3 && a.stride_bytes == b.stride_bytes);
    const uint8_t *x = a.pixels, *y = b.pixels;
    for (size_t i = 0; x && y && i < (size_t)a.height * a.stride_bytes; i++)
        worst = abs(x[i] - y[i]) > worst ? abs(x[i] - y[i]) : worst;
    CHECK_MSG(worst <= 1, "%d steps of 255", worst);
    fv_image_free(cpu, &a);
    fv_image_free(cpu, &b);
}

int main(int argc, char **argv)
{
    const int code = begin(argc, argv, "cuda_train");
    if (code >= 0) return code;
    RUN(steps_are_those_of_the_cpu);
    RUN(changes_of_the_host_are_sent);
    RUN(a_dit_learns_what_it_learns_on_the_cpu);
    RUN(in_bf16_and_in_two_rounds);
    RUN(super_resolution_learns_what_it_learns_on_the_cpu);
    RUN(students_learn_what_they_learn_on_the_cpu);
    RUN(a_dit_goes_on_bit_for_bit);
    RUN(students_go_on_bit_for_bit);
    RUN(super_resolution_goes_on_bit_for_bit);
    RUN(a_run_goes_on_on_the_other_device);
    RUN(samples_are_those_of_the_cpu);
    RUN(slices_are_refused);
    return end();
}
