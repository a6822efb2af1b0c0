/* check_cuda_train_codec.c - as check_cuda_train.c, of the codecs: the stages of rdvq, and vzip's
 * network. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "cuda_training.h"

#include "fovea_codec.h"

/* ---- rdvq ------------------------------------------------------------------------------------ */

#define RDVQ                                                                                      \
    "engine = rdvq\npreset = rdvq-xs\ndata = data.tar\nworkers = -1\nnative_max = 1.5\n"         \
    "codes = 16\nbatch = 1\nlr = 1e-3\nema = 0.9\nprecision = f32\nexport = f32\nwarmup = 0\n"   \
    "schedule = constant\nlog_every = 1\n"

static const char tokenizer_recipe[] =
    RDVQ "stage = tokenizer\nkmeans_at = 1\nkmeans_rounds = 2\nrestart_every = 3\n"
    "restart_batches = 2\nrestart_until = 1\neval_pictures = 0\nsteps = 4\n";
static const char entropy_recipe[] =
    RDVQ "stage = entropy\neval_pictures = 1\neval_size = 256\neval_every = 4\nsteps = 4\n";
static const char joint_recipe[] =
    RDVQ "stage = joint\nlambda = 2\nlambda_share = 0.5\neval_pictures = 0\nsteps = 4\n";

static const kind tokenizer = { fv_rdvq_train, tokenizer_recipe, NULL };
static const kind entropy = { fv_rdvq_train, entropy_recipe, "tokenizer-cpu" };
/* The same whatever the number of steps is. */
static const char even_recipe[] = RDVQ "stage = joint\nlambda = 2\nlambda_share = 0\ntau_share = 0\n"
                                       "eval_pictures = 0\nsteps = 4\n";
static const kind even = { fv_rdvq_train, even_recipe, "entropy-cpu" };
static const kind joint = { fv_rdvq_train, joint_recipe, "entropy-cpu" };

static void tokenizers_learn_what_they_learn_on_the_cpu(void)
{
    compare(&tokenizer, "", "tokenizer", 2e-3, 5e-3);
}
static void entropy_models_learn_what_they_learn_on_the_cpu(void)
{
    compare(&entropy, "", "entropy", 1e-4, 2e-3);
}
static void joint_runs_learn_what_they_learn_on_the_cpu(void)
{
    compare(&joint, "", "joint", 2e-3, 5e-3);
    compare(&even, "gan=0.5\ngan_from=0.25\ngan_match=0.5\ngan_channels=8\ngan_layers=1\n", "pair",
            2e-3, 5e-3);
}

/* ---- The network of vzip --------------------------------------------------------------------- */

static const char vzip_recipe[] =
    "engine = omnizip\ndata = text:text.tar, gene:gene.tar\nwidth = 16\nlayers = 2\nlanes = 4\n"
    "steps_per_lane = 20\nprecision = f32\nexport = f32\nsteps = 8\nlr = 2e-3\nbeta2 = 0.99\n"
    "ema = 0.9\nwarmup = 0\nschedule = constant\neval_every = 4\neval_pieces = 2\nlog_every = 1\n";
static const kind vzip = { fv_omnizip_train, vzip_recipe, NULL };

/* Texts of words and letters of a gene; the documents end within the run. */
static void make_texts(void)
{
    char text[900], name[32];
    uint64_t seed = 1;
    tar t = { 0 };
    for (int k = 0; k < 24; k++) {
        for (size_t i = 0; i < sizeof text; i++)
            text[i] = i % 6 == 5 ? ' ' : (char)('a' + (i % 6 * 3 + (size_t)k % 4));
        snprintf(name, sizeof name, "t/%d.txt", k);
        put_entry(&t, "", name, '0', text, sizeof text / 10 - (size_t)k);
    }
    save_tar(&t, temp_path("text.tar"));
    tar g = { 0 };
    for (size_t i = 0; i < sizeof text; i++) text[i] = "ACGT"[test_next(&seed) & 3];
    put_entry(&g, "", "one.fa", '0', text, sizeof text);
    save_tar(&g, temp_path("gene.tar"));
}

static void networks_of_vzip_learn_what_they_learn_on_the_cpu(void)
{
    compare(&vzip, "", "vzip", 1e-4, 2e-3);
    compare(&vzip, "v_moe=0\nffn_moe=0\nnoise=0\nhead=tree\n", "plain", 1e-4, 2e-3);
    /* Adam makes steps of signs, and bf16 turns some: smaller ones. */
    compare(&vzip, "hira=0\nrouter=mlp\nprecision=bf16\nlr=5e-4\n", "half", 3e-2, 5e-2);
}

static void networks_of_vzip_go_on(void)
{
    resumed_runs_are_uninterrupted_ones(&vzip, "vzip");
    runs_go_on_on_the_other_device(&vzip, "vzip", "steps=4\n", 2e-3);
}

static void tokenizers_go_on(void)
{
    resumed_runs_are_uninterrupted_ones(&tokenizer, "tokenizer");
}
static void joint_runs_go_on(void)
{
    runs_go_on_on_the_other_device(&even, "joint", "steps=2\n", 5e-3);
}

int main(int argc, char **argv)
{
    const int code = begin(argc, argv, "cuda_train_codec");
    if (code >= 0) return code;
    /* Convolutions of our own: those of the emulated library are by their definition, four times slower. */
    const fvi_cuda *d = fvi_cuda_of(gpu);
    if (!on_gpu && d->api->set(d->dev, FVK_SET_OFF, FVK_OFF_CUDNN) != FVK_OK) return 1;
    make_texts();
    RUN(networks_of_vzip_learn_what_they_learn_on_the_cpu);
    RUN(networks_of_vzip_go_on);
    RUN(tokenizers_learn_what_they_learn_on_the_cpu);
    RUN(entropy_models_learn_what_they_learn_on_the_cpu);
    RUN(joint_runs_learn_what_they_learn_on_the_cpu);
    RUN(tokenizers_go_on);
    RUN(joint_runs_go_on);
    return end();
}
