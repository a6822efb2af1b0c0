/* pssr_train.c - training of super-resolution in pixel space, `engine = pssr`, in two stages:
 *
 *     base    one step from the enlarged picture to the original
 *             pixel Charbonnier + spectrum | |FFT| - |FFT| |                        on RGB
 *     draft   the small steps after it; --init names a model with a base, which stays as it is
 *             sum over steps, the last weighing half, of what pssr_loss.c says of a draft, behind
 *             the frequency-domain update, lerp or gain (key update): every step is trained on what it
 *             makes itself of the steps before (roll-out), not on points of the ideal path. texture
 *             and peaks, 0 if not given, weigh what keeps it from single bright pixels
 *
 * Inputs are crops of photographs, made four times smaller and enlarged again (pssr_judge.c). Until
 * clean_first of the run all are shrunk by bicubic alone, with either of the two usual kernels;
 * then a share `clean` of them, and the others go through blur, noise and JPEG (degrade: pssr,
 * two-stage or both). A draft starts as a copy of every third block of its base.
 *
 * Models of -video see features of the frame before [pssr_shift]. They are trained on clips, frames =
 * N: the network is unrolled over N frames, from the first, which sees none, and gradients flow back
 * through all of them. Clips are stills that a camera moves over, and a share video_share of them,
 * where video names archives or folders of frames, real ones (pssr_clips.c). Every frame has the
 * losses of a picture; blur, noise and JPEG are drawn once a clip, the noise itself for each frame.
 * The tensors are those of models of pictures, which --init takes: what it makes of pictures, and of
 * first frames, is the same then. Held-out pictures stay pictures.
 *
 * With gan > 0 a discriminator (patch_gan.h, hinge loss) joins the last draft step after gan_from
 * of the run. It sees the high band of the luma beside that of the input: nothing else can reach
 * the result. Where it tells the two apart with a loss below 0.05, it does not pull.
 *
 * The weight of the detail, alpha, is chosen on held-out pictures whenever they are measured: the
 * largest of 0.1, 0.2 ... 2 that costs less than alpha_loss dB against the base, clean and
 * degraded alike. A model of the first stage alone is complete, with one time.
 *
 * Keys beside the shared ones (train_recipe.c):
 *     stage preset crop batch accumulate precision export     frames video video_share
 *     pixel spectrum patch low fidelity texture peaks     update features     alpha_loss own_steps
 *     clean clean_first degrade
 *     gan gan_from gan_channels gan_layers
 *     eval_every eval_pictures eval_size sample_rows
 *
 * own_steps: how many the model takes where none are asked for (0: all); it changes no training.
 *
 * The metric is the gain in Y-PSNR over bicubic on clean held-out pictures, in dB, of the result
 * with all steps: larger is better. */
#include <math.h>
#include <string.h>

#include "patch_gan.h"
#include "pssr_train.h"
#include "vq_train.h"

#define KIND_STREAM (FV_STREAM_USER + 5)
#define GAN_LEAST 0.05
#define MOST_FRAMES 16 /* of a clip; memory grows with them */
#define MOST_VIDEOS 16

typedef enum pssr_stage { BASE, DRAFT } pssr_stage;
typedef enum degrade_choice { PSSR, TWO_STAGE, BOTH } degrade_choice;

typedef struct adversary {
    float weight; /* 0: none */
    double from;
    fvi_gan_net net;
    fvi_gan *gan;
    float *u;     /* pull on the high bands, times their number */
    int64_t n;
} adversary;

typedef struct trainer {
    fv_ctx *ctx;
    pssr_stage stage;
    pssr_config cfg;
    pssr_net net;
    fv_params *params;
    fv_opt *opt;
    fv_dataset *data, *held;
    pssr_clips clips;    /* frames > 1 */
    fv_plan *plan;
    pssr_tables tables;
    pssr_pairs pairs;
    uint64_t drawn;      /* number of the micro-batch in them + 1; 0: none */
    pssr_judge judge;
    pssr_loss weights;
    adversary adv;
    fv_dtype precision, export_type;
    degrade_choice degrade;
    int batch, frames, accumulate, crop, eval_pictures, eval_size, sample_rows;
    double clean, clean_first, alpha_loss;
    uint64_t seed, steps;
    pssr_score score[2]; /* clean, degraded */
    bool is_alone;       /* features = no: a draft that sees nothing of the base's, for ablations */
    uint64_t judged;     /* step of the scores + 1 */
    const char *recipe_text;
} trainer;

/* ---- Steps ----------------------------------------------------------------------------------- */

/* What happens to the picture of a sample number. */
static fv_degrade_kind draw_kind(const trainer *tr, uint32_t sample, double share)
{
    float u[2];
    fv_rand_uniform(tr->seed, KIND_STREAM, sample, 0, 2, u);
    if (share < tr->clean_first || (double)u[0] < tr->clean) return FV_DEGRADE_CLEAN;
    const bool is_two = tr->degrade == TWO_STAGE || (tr->degrade == BOTH && u[1] < 0.5f);
    return is_two ? FV_DEGRADE_TWO_STAGE : FV_DEGRADE_PSSR;
}

/* The discriminator's own step, and what it wants of the high bands, into u. Of a device the host reads
 * its verdict, one number: the bands stay there. */
static fv_status let_judge(trainer *tr, float scale)
{
    adversary *a = &tr->adv;
    const float *real = fv_plan_value(tr->plan, "real").data, *pull = NULL;
    const float *fake = fv_plan_value(tr->plan, "fake").data;
    double verdict[2] = { 0, 1 }; /* sum over the ranks, their number */
    FV_TRY(fvi_gan_learn(a->gan, real, fake, scale, &verdict[0]));
    FV_TRY(fvi_sum_ranks(tr->ctx, verdict, 2));
    if (!(verdict[0] / verdict[1] >= GAN_LEAST)) return FV_OK;
    FV_TRY(fvi_gan_pull(a->gan, real, fake, &pull));
    return fvi_gan_scale(tr->ctx, pull, a->n, a->weight * (float)a->n, a->u);
}

/* Input t: a frame of all clips. */
static const char *frame_name(char out[16], int t)
{
    snprintf(out, 16, "x.%d", t);
    return out;
}

static fv_status feed_pairs(trainer *tr)
{
    const size_t frame = 3 * (size_t)tr->batch * (size_t)tr->crop * (size_t)tr->crop;
    char name[16];
    for (int k = 0; k < tr->frames; k++)
        FV_TRY(fv_plan_feed(tr->plan, frame_name(name, k), tr->pairs.input + (size_t)k * frame));
    return fv_plan_feed(tr->plan, "hq", tr->pairs.hq);
}

static fv_status draw_pairs(trainer *tr, uint64_t number)
{
    const uint32_t first = (uint32_t)(number * (uint64_t)tr->batch);
    const double share = (double)(number / (uint64_t)tr->accumulate) / (double)tr->steps;
    fv_batch b;
    FV_TRY(fv_dataset_batch(tr->data, number, tr->batch, &b));
    for (int i = 0; i < tr->batch; i++)
        pssr_pairs_kind(&tr->pairs, i, draw_kind(tr, first + (uint32_t)i, share));
    if (tr->frames > 1) {
        FV_TRY(pssr_clips_make(&tr->clips, b.images, first, tr->pairs.hq));
        FV_TRY(pssr_pairs_degrade(&tr->pairs, first));
    } else {
        FV_TRY(pssr_pairs_make(&tr->pairs, b.images, first));
    }
    tr->drawn = number + 1;
    return FV_OK;
}

/* While a device computes, the host draws what comes next. */
static fv_status train_step(void *user, uint64_t step, int micro, float scale, double *loss)
{
    trainer *tr = user;
    const uint64_t number = step * (uint64_t)tr->accumulate + (uint64_t)micro;
    const double share = (double)step / (double)tr->steps;
    if (tr->drawn != number + 1) FV_TRY(draw_pairs(tr, number));
    FV_TRY(feed_pairs(tr));
    if (tr->adv.gan) FV_TRY(fv_dev_zero(tr->ctx, tr->adv.u, (size_t)tr->adv.n * sizeof(float)));
    FV_TRY(fv_plan_forward(tr->plan));
    if (tr->adv.gan && share >= tr->adv.from) FV_TRY(let_judge(tr, scale));
    FV_TRY(fv_plan_backward(tr->plan, "loss", scale));
    if (fv_ctx_device(tr->ctx) != FV_DEVICE_CPU)
        FV_TRY(draw_pairs(tr, fv_trainer_next(tr->ctx, number)));
    return fv_plan_number(tr->plan, "loss", loss);
}

/* ---- Held-out pictures ----------------------------------------------------------------------- */

static double refined(const trainer *tr, const pssr_score *s, bool is_spectrum)
{
    const int k = (int)(tr->cfg.alpha * 10 + 0.5f) - 1;
    if (tr->stage == BASE || k < 0) return is_spectrum ? s->base_spectrum : s->base;
    return is_spectrum ? s->refined_spectrum[k] : s->refined[k];
}

/* Scores of the present masters, once per step; the weight of the detail with them. */
static fv_status measure(trainer *tr, uint64_t step)
{
    if (tr->judged == step + 1) return FV_OK;
    FV_TRY(pssr_judge_run(&tr->judge, FV_DEGRADE_CLEAN, &tr->score[0]));
    FV_TRY(pssr_judge_run(&tr->judge, FV_DEGRADE_PSSR, &tr->score[1]));
    tr->judged = step + 1;
    if (tr->stage == DRAFT)
        tr->net.cfg.alpha = tr->cfg.alpha = pssr_best_alpha(tr->score, 2, tr->alpha_loss);
    return FV_OK;
}

static fv_status evaluate(void *user, uint64_t step, double *metric)
{
    trainer *tr = user;
    const pssr_score *s = tr->score;
    char line[240];
    FV_TRY(measure(tr, step));
    *metric = refined(tr, &s[0], false) - s[0].bicubic;
    int n = snprintf(line, sizeof line, "bicubic %.2f and %.2f dB; base %+.3f clean, %+.3f "
                     "degraded, spectra %+.1f %%, %+.1f %%", s[0].bicubic, s[1].bicubic,
                     s[0].base - s[0].bicubic, s[1].base - s[1].bicubic,
                     100 * (s[0].base_spectrum / s[0].bicubic_spectrum - 1),
                     100 * (s[1].base_spectrum / s[1].bicubic_spectrum - 1));
    if (tr->stage == DRAFT && n > 0 && (size_t)n < sizeof line)
        snprintf(line + n, sizeof line - (size_t)n, "; detail x %.1f: %+.3f, %+.3f against base, "
                 "spectra %+.1f %%, %+.1f %%", (double)tr->cfg.alpha,
                 refined(tr, &s[0], false) - s[0].base, refined(tr, &s[1], false) - s[1].base,
                 100 * (refined(tr, &s[0], true) / s[0].base_spectrum - 1),
                 100 * (refined(tr, &s[1], true) / s[1].base_spectrum - 1));
    return fv_report(tr->ctx, "held-out", step, tr->steps, line);
}

static fv_status sample(void *user, uint64_t step, const char *path_stem)
{
    trainer *tr = user;
    (void)step;
    return pssr_judge_sheet(&tr->judge, tr->sample_rows, tr->cfg.alpha, path_stem);
}

static fv_status export_model(void *user, uint64_t step, const char *path)
{
    trainer *tr = user;
    const fv_trainer_model m = { tr->params, tr->data, tr->recipe_text, tr->export_type, step };
    fv_meta meta;
    if (tr->held) FV_TRY(measure(tr, step));
    const pssr_score *s = tr->score;
    const fv_trainer_number held[] = {
        { "fovea.train.bicubic_db", s[0].bicubic }, { "fovea.train.base_db", s[0].base },
        { "fovea.train.psnr_db", refined(tr, &s[0], false) },
        { "fovea.train.bicubic_degraded_db", s[1].bicubic },
        { "fovea.train.base_degraded_db", s[1].base },
        { "fovea.train.psnr_degraded_db", refined(tr, &s[1], false) },
        { "fovea.train.base_spectrum", s[0].base_spectrum },
        { "fovea.train.spectrum", refined(tr, &s[0], true) },
    };
    FV_TRY(pssr_config_meta(tr->ctx, &tr->cfg, &meta));
    return fv_trainer_export(tr->ctx, &m, &meta, held, tr->held ? (int)FV_ARRAY_LEN(held) : 0,
                             path);
}

/* ---- Plans ----------------------------------------------------------------------------------- */

static fv_t picture(fv_tape *t, fv_t z) { return fv_affine(t, pssr_shuffle(t, z), 0.5f, 0.5f); }

/* High bands of the last step and of the original, each beside that of the input. */
static fv_t adversarial_term(const trainer *tr, fv_tape *t, fv_t luma, fv_t input, fv_t hq)
{
    const int64_t dim[4] = { tr->frames * tr->batch, tr->crop, tr->crop, 2 };
    const fv_t beside = pssr_high(t, pssr_luma(t, input));
    const fv_t fake = fv_concat(t, pssr_high(t, luma), beside, 3);
    fv_output(t, "fake", fake);
    fv_output(t, "real", fv_concat(t, pssr_high(t, pssr_luma(t, hq)), beside, 3));
    return fvi_loss_dot(t, fake, fv_input(t, "u", FV_F32, 4, dim));
}

/* Frames of the input in [0, 1], one after another. */
static fv_t whole_input(const trainer *tr, fv_tape *t, const fv_t *x)
{
    fv_t all = x[0];
    for (int k = 1; k < tr->frames; k++) all = fv_concat(t, all, x[k], 0);
    return fv_affine(t, all, 0.5f, 0.5f);
}

static fv_t draft_losses(const trainer *tr, fv_tape *t, const fv_t *zhat, const fv_t *x, fv_t hq)
{
    const int drafts = tr->cfg.times - 1;
    fv_t sum = 0, luma = 0;
    pssr_anchor a;
    pssr_anchor_make(t, &tr->weights, picture(t, zhat[0]), hq, &a);
    for (int k = 1; k <= drafts; k++) {
        const float share = drafts == 1 ? 1.0f : k == drafts ? 0.5f : 0.5f / (float)(drafts - 1);
        const fv_t loss = pssr_draft_loss(t, &tr->weights, &a, picture(t, zhat[k]), &luma);
        const fv_t term = fv_affine(t, loss, share, 0.0f);
        sum = sum ? fv_binary_op(t, FV_ADD, sum, term) : term;
    }
    if (!(tr->adv.weight > 0)) return sum;
    return fv_binary_op(t, FV_ADD, sum, adversarial_term(tr, t, luma,
                                                         whole_input(tr, t, x), hq));
}

static fv_status build_plan(trainer *tr)
{
    const int64_t dim[4] = { tr->batch, tr->crop, tr->crop, 3 };
    const int64_t all[4] = { tr->frames * tr->batch, tr->crop, tr->crop, 3 };
    const int drafts = tr->stage == DRAFT ? tr->cfg.times - 1 : 0;
    fv_t zhat[PSSR_MAX_TIMES], x[MOST_FRAMES], z[MOST_FRAMES];
    char name[16];
    pssr_graph g;
    fv_tape *t;
    FV_TRY(fv_tape_create(tr->ctx, &t, tr->params, FV_TRAIN, tr->precision));
    for (int k = 0; k < tr->frames; k++) {
        x[k] = fv_input(t, frame_name(name, k), FV_F32, 4, dim);
        z[k] = pssr_unshuffle(t, x[k]);
    }
    const fv_t hq = fv_input(t, "hq", FV_F32, 4, all);
    pssr_graph_begin(&g, t, &tr->net, tr->batch, drafts);
    pssr_refine_clip(&g, z, tr->frames, drafts, zhat);
    fv_output(t, "loss", drafts > 0 ? draft_losses(tr, t, zhat, x, hq) :
                                      pssr_base_loss(t, &tr->weights, picture(t, zhat[0]), hq));
    FV_TRY(fv_plan_finish(tr->ctx, &tr->plan, &t, NULL));
    return pssr_tables_bind(&tr->tables, tr->plan);
}

static fv_status build_adversary(trainer *tr)
{
    const int64_t dim[4] = { tr->frames * tr->batch, tr->crop, tr->crop, 2 };
    adversary *a = &tr->adv;
    if (!(a->weight > 0)) return FV_OK;
    a->n = dim[0] * dim[1] * dim[2] * dim[3];
    a->u = fv_dev_alloc(tr->ctx, (size_t)a->n, sizeof *a->u);
    if (!a->u) return FV_ERR_OOM;
    FV_TRY(fv_plan_bind(tr->plan, "u", a->u));
    return fvi_gan_create(tr->ctx, &a->gan, &a->net, dim, 0.0f, tr->precision);
}

/* ---- Set-up ---------------------------------------------------------------------------------- */

static fv_status read_choice(trainer *tr, fv_recipe *r, const char *key, const char *const *names,
                             int *out)
{
    const char *v = fv_recipe_string(r, key, names[0]);
    for (int k = 0; names[k]; k++) {
        if (strcmp(v, names[k]) != 0) continue;
        *out = k;
        return FV_OK;
    }
    return fv_fail(tr->ctx, FV_ERR_UNKNOWN, "recipe: %s = %.40s: use %s, %s%s%s", key, v, names[0],
                   names[1], names[2] ? " or " : "", names[2] ? names[2] : "");
}

/* Part of the stored recipe only where it is given. */
static fv_status read_frames(trainer *tr, fv_recipe *r)
{
    tr->frames = 1;
    if (fv_recipe_string(r, "frames", NULL))
        tr->frames = (int)fv_recipe_int(r, "frames", 1, 1, MOST_FRAMES);
    if (tr->cfg.is_video == (tr->frames > 1)) return FV_OK;
    if (tr->cfg.is_video) /* it would say what it was not trained for */
        return fv_fail(tr->ctx, FV_ERR_ARG, "recipe: preset = %s: models of -video are trained on "
                       "clips; set frames to 2 to %d, or leave -video out", tr->cfg.name,
                       MOST_FRAMES);
    return fv_fail(tr->ctx, FV_ERR_ARG, "recipe: frames = %d: %s sees single pictures; clips are for "
                   "%s-video", tr->frames, tr->cfg.name, tr->cfg.name);
}

static fv_status read_network(trainer *tr, fv_recipe *r)
{
    static const char *const stages[] = { "base", "draft", NULL };
    static const char *const degrades[] = { "pssr", "two-stage", "both", NULL };
    int stage = 0, degrade = 0;
    FV_TRY(read_choice(tr, r, "stage", stages, &stage));
    FV_TRY(read_choice(tr, r, "degrade", degrades, &degrade));
    tr->stage = (pssr_stage)stage;
    tr->degrade = (degrade_choice)degrade;
    FV_TRY(pssr_preset(tr->ctx, fv_recipe_string(r, "preset", "tiny"), &tr->cfg));
    FV_TRY(read_frames(tr, r));
    if (tr->stage == BASE) tr->cfg.times = 1; /* a model without a draft */
    if (fv_recipe_string(r, "own_steps", NULL))
        tr->cfg.own_steps = (int)fv_recipe_int(r, "own_steps", 0, 0, tr->cfg.times);
    tr->crop = (int)fv_recipe_int(r, "crop", 128, 16, 4096);
    tr->batch = (int)fv_recipe_int(r, "batch", 8, 1, 65536);
    tr->accumulate = (int)fv_recipe_int(r, "accumulate", 1, 1, 65536);
    tr->eval_pictures = (int)fv_recipe_int(r, "eval_pictures", 13, 0, 100000);
    tr->eval_size = (int)fv_recipe_int(r, "eval_size", 384, 16, 4096);
    tr->sample_rows = (int)fv_recipe_int(r, "sample_rows", 6, 1, 64);
    if (pssr_patch(tr->crop) && pssr_patch(tr->eval_size)) return FV_OK;
    return fv_fail(tr->ctx, FV_ERR_ARG, "recipe: crop and eval_size must be multiples of 16");
}

/* A weight that is 0, and no part of the stored recipe, where it is not given. */
static float weight_if_given(fv_recipe *r, const char *key)
{
    return fv_recipe_string(r, key, NULL) ? (float)fv_recipe_number(r, key, 0, 0, 1000) : 0;
}

/* Part of the stored recipe only where it is given. */
static fv_status read_update(trainer *tr, fv_recipe *r)
{
    static const char *const updates[] = { "lerp", "gain", NULL };
    int k = 0;
    if (fv_recipe_string(r, "update", NULL)) FV_TRY(read_choice(tr, r, "update", updates, &k));
    tr->weights.update = tr->cfg.fdu = k ? FV_FDU_GAIN : FV_FDU_LERP;
    return FV_OK;
}

static fv_status read_draft_losses(trainer *tr, fv_recipe *r)
{
    pssr_loss *w = &tr->weights;
    w->low = (float)fv_recipe_number(r, "low", 1, 0, 1000);
    w->fidelity = weight_if_given(r, "fidelity");
    FV_TRY(read_update(tr, r));
    w->texture = weight_if_given(r, "texture");
    w->peaks = weight_if_given(r, "peaks");
    w->scales = pssr_scales(tr->crop);
    if (!(w->texture > 0) || w->scales > 1) return FV_OK;
    return fv_fail(tr->ctx, FV_ERR_ARG, "recipe: crops of %d are too small for the texture loss; 32 "
                   "is enough", tr->crop);
}

static fv_status read_losses(trainer *tr, fv_recipe *r)
{
    const bool is_draft = tr->stage == DRAFT;
    pssr_loss *w = &tr->weights;
    w->pixel = (float)fv_recipe_number(r, "pixel", is_draft ? 0.1 : 1, 0, 1000);
    w->spectrum = (float)fv_recipe_number(r, "spectrum", is_draft ? 0.1 : 0.05, 0, 1000);
    w->patch = (int)fv_recipe_int(r, "patch", pssr_patch(tr->crop), 2, 1024);
    if (tr->crop % w->patch != 0)
        return fv_fail(tr->ctx, FV_ERR_ARG, "recipe: crop %d is not a multiple of patch %d", tr->crop,
                       w->patch);
    if (is_draft) FV_TRY(read_draft_losses(tr, r));
    tr->clean = fv_recipe_number(r, "clean", 0.5, 0, 1);
    tr->clean_first = fv_recipe_number(r, "clean_first", 0.2, 0, 1);
    if (!(w->pixel > 0 || w->spectrum > 0 || w->low > 0 || w->texture > 0 || w->peaks > 0 ||
          w->fidelity > 0))
        return fv_fail(tr->ctx, FV_ERR_ARG, "recipe: all losses have weight 0");
    if (!is_draft) return FV_OK;
    if (fv_recipe_string(r, "features", NULL)) tr->is_alone = !fv_recipe_bool(r, "features", 1);
    tr->alpha_loss = fv_recipe_number(r, "alpha_loss", 0.5, 0, 100);
    tr->adv.weight = (float)fv_recipe_number(r, "gan", 0, 0, 1000);
    if (!(tr->adv.weight > 0)) return FV_OK;
    tr->adv.from = fv_recipe_number(r, "gan_from", 0.3, 0, 1);
    tr->adv.net.in = 2;
    tr->adv.net.channels = (int)fv_recipe_int(r, "gan_channels", 32, 8, 1024) / 8 * 8;
    tr->adv.net.layers = (int)fv_recipe_int(r, "gan_layers", 2, 1, FVI_GAN_MAX_LAYERS);
    if (tr->crop >= 3 << tr->adv.net.layers) return FV_OK;
    return fv_fail(tr->ctx, FV_ERR_ARG, "recipe: crops of %d are too small for a discriminator of "
                   "%d layers", tr->crop, tr->adv.net.layers);
}

static fv_status open_clips(trainer *tr, fv_recipe *r, const char *data_dir)
{
    const char *const *item = NULL;
    char *path[MOST_VIDEOS] = { NULL };
    FV_TRY(pssr_clips_create(tr->ctx, &tr->clips, tr->batch, tr->frames, tr->crop, tr->seed));
    const int n = fv_recipe_list(r, "video", &item);
    if (n > MOST_VIDEOS)
        return fv_fail(tr->ctx, FV_ERR_LIMIT, "recipe: video: more than %d sources", MOST_VIDEOS);
    if (n < 1) return FV_OK;
    const double share = fv_recipe_number(r, "video_share", 0.25, 0, 1);
    fv_status s = FV_OK;
    for (int i = 0; i < n && s == FV_OK; i++) {
        path[i] = item[i][0] == '/' || !data_dir ? fv_strdup(tr->ctx, item[i])
                                                 : fv_format(tr->ctx, "%s/%s", data_dir, item[i]);
        if (!path[i]) s = FV_ERR_OOM;
    }
    if (s == FV_OK) s = pssr_clips_video(&tr->clips, (const char *const *)path, n, share);
    for (int i = 0; i < n; i++) fv_free(tr->ctx, path[i]);
    return s;
}

static fv_status open_data(trainer *tr, fv_recipe *r, const char *data_dir)
{
    const bool has_held = tr->eval_pictures > 0;
    if (has_held)
        FV_TRY(fv_dataset_from_recipe(tr->ctx, &tr->held, r, data_dir, tr->eval_size,
                                      FV_SPLIT_HELDOUT));
    const int side = tr->frames > 1 ? pssr_clips_source(tr->crop) : tr->crop;
    FV_TRY(fv_dataset_from_recipe(tr->ctx, &tr->data, r, data_dir, side,
                                  has_held ? FV_SPLIT_TRAIN : FV_SPLIT_ALL));
    return tr->frames > 1 ? open_clips(tr, r, data_dir) : FV_OK;
}

static bool is_of_base(const char *name) { return strncmp(name, "base.", 5) == 0; }

/* A draft that goes on learning does so for the update that it was made for. */
static fv_status check_update(const trainer *tr, const pssr_config *c)
{
    if (c->fdu == tr->cfg.fdu) return FV_OK;
    return fv_fail(tr->ctx, FV_ERR_MODEL, "the model's draft is for update = %s, the recipe's for %s",
                   fv_fdu_name(c->fdu), fv_fdu_name(tr->cfg.fdu));
}

static fv_status load_init(void *user, const fv_model *m)
{
    trainer *tr = user;
    pssr_config c;
    bool is_new = false;
    FV_TRY(pssr_config_read(tr->ctx, m, &c));
    if (c.channels != tr->cfg.channels || c.blocks != tr->cfg.blocks)
        return fv_fail(tr->ctx, FV_ERR_MODEL, "the model has %d blocks of %d channels, the "
                       "recipe's preset %s has %d of %d", c.blocks, c.channels, tr->cfg.name,
                       tr->cfg.blocks, tr->cfg.channels);
    if (tr->stage == DRAFT && c.times == tr->cfg.times && c.every == tr->cfg.every) {
        FV_TRY(check_update(tr, &c));
        FV_TRY(fv_params_load(tr->params, m, ""));
    } else {
        FV_TRY(fv_params_load_some(tr->params, m, "", is_of_base));
        is_new = tr->stage == DRAFT;
        if (is_new) pssr_draft_init(&tr->net);
    }
    if (tr->is_alone) pssr_draft_alone(&tr->net, is_new);
    return FV_OK;
}

static fv_status start_net(trainer *tr, const char *init)
{
    const bool is_draft = tr->stage == DRAFT;
    if (is_draft && !init)
        return fv_fail(tr->ctx, FV_ERR_ARG, "training: a draft needs the model of the stage "
                       "before, which is trained with stage = base: name it (--init)");
    FV_TRY(fv_params_create(tr->ctx, &tr->params));
    pssr_net_add(&tr->net, tr->params, &tr->cfg, "", is_draft ? PSSR_BASE | PSSR_DRAFT : PSSR_BASE,
                 is_draft ? PSSR_BASE | (tr->is_alone ? PSSR_FEATURES : 0) : 0);
    if (tr->adv.weight > 0) fvi_gan_add(&tr->adv.net, tr->params, "gan.");
    FV_TRY(fv_params_alloc(tr->params));
    pssr_net_init(&tr->net, tr->seed);
    if (tr->adv.weight > 0) fvi_gan_init(&tr->adv.net, tr->seed);
    return fv_trainer_init(tr->ctx, init, load_init, tr);
}

static fv_status build(trainer *tr)
{
    const pssr_pairs_options pairs = { tr->batch, tr->frames, tr->crop, tr->seed, 0 };
    FV_TRY(pssr_pairs_create(tr->ctx, &tr->pairs, &pairs));
    FV_TRY(pssr_tables_create(tr->ctx, &tr->tables, &tr->cfg, tr->batch));
    FV_TRY(build_plan(tr));
    FV_TRY(build_adversary(tr));
    if (!tr->held) return FV_OK;
    return pssr_judge_create(tr->ctx, &tr->judge, &tr->net, tr->held,
                             fv_trainer_count(tr->held, tr->eval_pictures), tr->eval_size,
                             tr->precision);
}

static void trainer_free(void *state)
{
    trainer *tr = state;
    fv_opt_destroy(&tr->opt);
    fv_plan_destroy(&tr->plan);
    fvi_gan_destroy(&tr->adv.gan);
    fv_dev_free(tr->ctx, tr->adv.u);
    pssr_judge_free(&tr->judge);
    pssr_pairs_free(&tr->pairs);
    pssr_clips_free(&tr->clips);
    pssr_tables_free(tr->ctx, &tr->tables);
    fv_params_destroy(&tr->params);
    fv_dataset_close(&tr->data);
    fv_dataset_close(&tr->held);
}

static fv_status prepare(void *state, fv_recipe *r, const fv_trainer_options *o,
                         fv_train_options *t, fv_trainer_run *run)
{
    trainer *tr = state;
    tr->seed = (uint64_t)fv_recipe_int(r, "seed", 1, 0, INT64_MAX);
    int parts;
    FV_TRY(read_network(tr, r));
    FV_TRY(fv_trainer_share(tr->ctx, r, &tr->batch, &tr->accumulate, &parts));
    FV_TRY(read_losses(tr, r));
    FV_TRY(fv_trainer_types(tr->ctx, r, "bf16", &tr->precision, &tr->export_type));
    FV_TRY(open_data(tr, r, o->data_dir));
    const fv_trainer_size size = { tr->batch, tr->accumulate, tr->held != NULL, tr->seed };
    FV_TRY(fv_trainer_read(tr->ctx, r, o, &size, t));
    tr->steps = t->steps;
    FV_TRY(start_net(tr, o->init));
    FV_TRY(fv_trainer_opt(tr->ctx, &tr->opt, tr->params, r));
    FV_TRY(build(tr));
    tr->recipe_text = fv_recipe_text(r);
    *run = (fv_trainer_run){ tr->recipe_text, tr->params, tr->opt, tr->plan,
                             { tr, train_step, tr->held ? evaluate : NULL,
                               tr->held ? sample : NULL, export_model } };
    return FV_OK;
}

fv_status fv_pssr_train(fv_ctx *ctx, fv_recipe *r, const fv_trainer_options *opts,
                        fv_train_result *result)
{
    trainer tr = { .ctx = ctx };
    const fv_training all = { "pssr", true, &tr, prepare, trainer_free };
    return fv_trainer_train(ctx, &all, r, opts, result);
}
