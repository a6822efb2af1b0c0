/* check_cuda_ranks.c - trainings shared by ranks that have a device each: the same weights as with one
 * rank and as on CPUs, whether gradients are summed on the devices or over the host.
 *
 * Ranks are threads of this process, each with an emulator of its own; their sums on devices are the
 * emulator's. With NCCL several GPUs and processes are needed, which no machine of a test has. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "rank_threads.h" /* before the names of the other headers */

#include "cuda_training.h"

#include "fovea_diffusion.h"
#include "fovea_distill.h"

static const char dit_recipe[] =
    "data = data.tar\nworkers = -1\neval_batches = 1\nprecision = f32\nexport = f32\n"
    "preset = F32\nwidth = 32\ndepth = 2\nbatch = 4\nema = 0.9\nlr = 1e-3\nwarmup = 0\n"
    "schedule = constant\nweight_decay = 0.1\nlog_every = 1\neval_every = 3\nsteps = 5\n";

/* A student of one block of the model that the first test trained; w of PLACE is of all ranks. */
static const char distill_recipe[] =
    "data = data.tar\nworkers = -1\neval_batches = 1\nprecision = f32\nexport = f32\nprune_blocks = 1\n"
    "batch = 4\nema = 0.9\nlr = 1e-3\nwarmup = 0\nschedule = constant\nlog_every = 1\neval_every = 3\n"
    "l_feat = 0.01\ncoarse = l2\ngroup = 256\neps = 0.01\nsample_columns = 1\nsteps = 4\n";

typedef struct job {
    bool on_device, distills;
    char folder[200], file[200], teacher[200];
    fv_status status;
    char message[300];
} job;

static fv_status train_one(fv_ctx *ctx, const job *j)
{
    const char *text = j->distills ? distill_recipe : dit_recipe;
    fv_trainer_options o = FV_TRAINER_OPTIONS_INIT;
    fv_distill_options d = FV_DISTILL_OPTIONS_INIT;
    fv_train_result result;
    fv_model *teacher = NULL;
    fv_recipe *r;
    if (j->on_device) FV_TRY(fvi_cuda_attach(ctx, &emulator_api, NULL));
    FV_TRY(fv_recipe_parse(ctx, &r, text, strlen(text)));
    o.data_dir = temp_dir;
    o.out_dir = j->folder;
    o.export_path = j->file;
    fv_status s = j->distills ? fv_model_open(ctx, &teacher, j->teacher, NULL) : FV_OK;
    d.teacher = teacher;
    d.trainer = o;
    if (s == FV_OK)
        s = j->distills ? fv_distill_train(ctx, r, &d, &result) : fv_dit_train(ctx, r, &o, &result);
    fv_model_close(&teacher);
    fv_recipe_close(&r);
    return s;
}

static void rank_body(rank_thread *t, void *user)
{
    job *j = user;
    j->status = train_one(t->ctx, j);
    snprintf(j->message, sizeof j->message, "%.290s", fv_ctx_error(t->ctx));
}

/* A run of so many ranks that exports `name`. */
static void run(int size, bool on_device, bool distills, const char *name)
{
    job all[RANKS_MOST];
    void *user[RANKS_MOST];
    for (int r = 0; r < size; r++) {
        memset(&all[r], 0, sizeof all[r]);
        all[r].on_device = on_device;
        all[r].distills = distills;
        snprintf(all[r].folder, sizeof all[r].folder, "%s/run-%s", temp_dir, name);
        snprintf(all[r].file, sizeof all[r].file, "%s/%s", temp_dir, name);
        snprintf(all[r].teacher, sizeof all[r].teacher, "%s/one", temp_dir);
        all[r].status = FV_ERR_INTERNAL;
        user[r] = &all[r];
    }
    CHECK(rank_run(size, rank_body, user));
    for (int r = 0; r < size; r++)
        CHECK_MSG(all[r].status == FV_OK, "%s: rank %d: %s", name, r, all[r].message);
    CHECK(device_is_whole());
}

/* ---- Runs ------------------------------------------------------------------------------------ */

static void one_and_two_ranks_agree_as_on_cpus(void)
{
    const long before = emulator_rank_sums;
    run(1, true, false, "one");
    CHECK(!test_bad && emulator_rank_sums == before);
    run(2, true, false, "two");
    CHECK(!test_bad && emulator_rank_sums > before);
    run(2, false, false, "two-cpu");
    CHECK(!test_bad);
    printf("# two ranks beside one %.2g, beside two CPUs %.2g\n", gap_of("two", "one"),
           gap_of("two", "two-cpu"));
    CHECK(gap_of("two", "one") < 2e-3 && gap_of("two", "two-cpu") < 2e-3);
    CHECK(gap_of("two", "one") > 0);
}

/* a + b is what it is, here and there. */
static void sums_over_the_host_are_the_same(void)
{
    const long before = emulator_rank_sums;
    emulator_no_ranks = 1;
    run(2, true, false, "host");
    emulator_no_ranks = 0;
    CHECK(!test_bad && emulator_rank_sums == before && same_tensors(cpu, "host", "two"));
}

static void students_share_the_weight_of_their_loss(void)
{
    run(1, true, true, "student");
    CHECK(!test_bad);
    run(2, true, true, "students");
    CHECK(!test_bad);
    run(2, false, true, "students-cpu");
    CHECK(!test_bad);
    printf("# two ranks beside one %.2g, beside two CPUs %.2g\n", gap_of("students", "student"),
           gap_of("students", "students-cpu"));
    CHECK(gap_of("students", "student") < 2e-3 && gap_of("students", "students-cpu") < 2e-3);
}

int main(int argc, char **argv)
{
    const int code = device_open(argc, argv, 0, 0, &cpu, &gpu);
    if (code >= 0) return code;
    temp_dir_make("cuda_ranks");
    make_data();
    RUN_EMULATED(one_and_two_ranks_agree_as_on_cpus);
    RUN_EMULATED(sums_over_the_host_are_the_same);
    RUN_EMULATED(students_share_the_weight_of_their_loss);
    return device_close(&cpu, &gpu);
}
