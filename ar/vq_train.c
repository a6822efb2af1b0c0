/* vq_train.c - training of VQ tokenizers.
 *
 *     L = image loss (kernels/image_loss.c) + mean (code - sg z)^2 + beta mean (sg code - z)^2
 *
 * In place of a perceptual network, whose weights would be somebody else's, edges and bands of a
 * pyramid are compared. With gan > 0 a discriminator of patches (kernels/patch_gan.c) joins in for
 * the last part of the run. Then the tape's loss is mean(y u) + the codes' part, where u holds what
 * the image loss and the discriminator want of each value of the pictures y, the latter as strong
 * as gan times the former [the adaptive weight of VQGAN, but measured at the pictures, not at the
 * last layer's weights].
 *
 * Keys beside the shared ones (train_recipe.c):
 *     preset image_size channels latent codes code_width encoder_blocks decoder_blocks attention
 *     batch accumulate precision export     l1 sobel pyramid beta     gan gan_from gan_match
 *     gan_channels gan_layers     restart_every restart_batches restart_until     eval_every
 *     eval_pictures sample_pictures split
 *
 * Every restart_every steps the pictures of the last restart_batches steps go through the encoder
 * once more, and codes that none of their latents chooses are set onto latents. Counting anew costs
 * a per cent of the work and leaves nothing to remember: a restart is a function of masters and
 * step, so that a resumed run is the same run. A step that is cut short takes its restart back.
 *
 * On a device a step gets its pictures and gives back its loss, with a discriminator two numbers
 * more. For a restart all latents and codes come to the host, and the codebook goes back.
 *
 * The metric is the mean PSNR of held-out pictures in dB (larger is better). */
#include "vq.h"

#include <math.h>
#include <string.h>

#include "fovea_ar.h"
#include "patch_gan.h"
#include "vq_train.h"

#define PREFIX "vq."

typedef struct quality { double psnr, ssim, used, perplexity; } quality;

typedef struct trainer {
    fv_ctx *ctx;
    ar_config cfg;
    vq_net net;
    fv_params *params;
    fv_opt *opt;
    fv_dataset *data, *held;
    fv_plan *plan, *view; /* training step; x -> y, z, index */
    fv_dtype precision, export_type;
    int size, batch, accumulate, parts, eval_pictures, sample_count;
    float beta;
    fvi_image_loss loss;
    fvi_vq_restarts restarts;
    uint64_t restarted; /* step + 1, 0 = none */
    int64_t tokens, pixels; /* of one picture: codes; values */
    float *x, *latents, *kept;
    uint32_t *counts;
    uint64_t seed, steps;
    quality last;
    fvi_adversary adv;
    const char *recipe_text;
} trainer;

/* ---- Codes that are not used ----------------------------------------------------------------- */

/* One batch through encoder, quantiser and decoder. */
static fv_status view_batch(trainer *tr, const float *images)
{
    FV_TRY(fv_plan_feed(tr->view, "x", images));
    return fv_plan_forward(tr->view);
}

static fv_status restart_codes(trainer *tr, uint64_t step)
{
    const vq_config *c = &tr->net.cfg;
    const fvi_vq_look look = { tr->data, tr->view, tr->batch, tr->batch * tr->tokens, c->code_width,
                               c->codes, tr->restarts.batches, tr->latents, tr->counts, tr->parts };
    fvi_vq_restart r = { tr->opt, tr->net.codebook, tr->counts, tr->latents, 0, tr->seed, step };
    int64_t replaced;
    FV_TRY(fvi_vq_gather(&look, step * (uint64_t)tr->accumulate, &r.n));
    FV_TRY(fvi_opt_keep(tr->opt, tr->net.codebook, tr->kept));
    tr->restarted = step + 1;
    return fvi_vq_restart_codes(&r, &replaced);
}

/* ---- Steps ----------------------------------------------------------------------------------- */

static fv_status run_step(trainer *tr, uint64_t step, int micro, float scale, double *loss)
{
    const uint64_t number = step * (uint64_t)tr->accumulate + (uint64_t)micro;
    fv_batch b;
    if (tr->restarted != step + 1 && fvi_vq_restart_is_due(&tr->restarts, step))
        FV_TRY(restart_codes(tr, step));
    FV_TRY(fv_dataset_batch(tr->data, number, tr->batch, &b));
    if (tr->adv.weight > 0)
        return fvi_adversary_step(&tr->adv, tr->plan, b.images,
                                  (double)step / (double)tr->steps, scale, loss);
    FV_TRY(fv_plan_feed(tr->plan, "x", b.images));
    FV_TRY(fv_plan_forward(tr->plan));
    FV_TRY(fv_plan_backward(tr->plan, "loss", scale));
    return fv_plan_number(tr->plan, "loss", loss);
}

static fv_status train_step(void *user, uint64_t step, int micro, float scale, double *loss)
{
    trainer *tr = user;
    const fv_status s = run_step(tr, step, micro, scale, loss);
    /* The loop saves the state before this step and will do it again. */
    if (s != FV_OK && tr->restarted == step + 1)
        FV_TRY(fvi_opt_put_back(tr->opt, tr->net.codebook, tr->kept));
    return s;
}

/* ---- Held-out pictures ----------------------------------------------------------------------- */

static fv_status picture(trainer *tr, const float *hwc, fv_image *out)
{
    FV_TRY(fv_image_create(tr->ctx, out, tr->size, tr->size, 3, 8));
    fv_image_from_float(out, -1.0f, 1.0f, hwc);
    return FV_OK;
}

static fv_status judge_one(trainer *tr, const float *a, const float *b, quality *sum)
{
    fv_image pa = { 0 }, pb = { 0 };
    double psnr = 0, ssim = 0;
    fv_status s = picture(tr, a, &pa);
    if (s == FV_OK) s = picture(tr, b, &pb);
    if (s == FV_OK) s = fv_psnr(tr->ctx, &pa, &pb, &psnr);
    if (s == FV_OK) s = fv_ssim(tr->ctx, &pa, &pb, &ssim);
    fv_image_free(tr->ctx, &pa);
    fv_image_free(tr->ctx, &pb);
    sum->psnr += fmin(psnr, 100); /* equal pictures: infinite */
    sum->ssim += ssim;
    return s;
}

/* Held-out pictures first .. first + n into x (the rest of the batch keeps what it was), then the
 * view; n at most the batch. */
static fv_status view_held(trainer *tr, int first, int n)
{
    int32_t label;
    for (int i = 0; i < n; i++)
        FV_TRY(fv_dataset_get(tr->held, (uint64_t)(first + i), tr->x + i * tr->pixels, &label));
    return view_batch(tr, tr->x);
}

static fv_status evaluate(void *user, uint64_t step, double *metric)
{
    trainer *tr = user;
    const int count = fv_trainer_count(tr->held, tr->eval_pictures), V = tr->net.cfg.codes;
    const int32_t *index;
    const float *y;
    quality q = { 0 };
    char line[128];
    memset(tr->counts, 0, (size_t)V * sizeof *tr->counts);
    for (int i = 0; i < count; i += tr->batch) {
        const int n = count - i < tr->batch ? count - i : tr->batch;
        FV_TRY(view_held(tr, i, n));
        FV_TRY(fv_plan_seen(tr->view, "y", &y));
        FV_TRY(fv_plan_seen_ids(tr->view, "index", &index));
        fvi_vq_count(tr->counts, V, index, n * tr->tokens);
        for (int k = 0; k < n; k++)
            FV_TRY(judge_one(tr, tr->x + k * tr->pixels, y + k * tr->pixels, &q));
    }
    q.psnr /= count;
    q.ssim /= count;
    q.used = (double)fvi_vq_used(tr->counts, V) / V;
    q.perplexity = fvi_vq_perplexity(tr->counts, V);
    tr->last = q;
    *metric = q.psnr;
    snprintf(line, sizeof line, "%.2f dB, SSIM %.4f, %.1f %% of the codes used, perplexity %.0f",
             q.psnr, q.ssim, 100 * q.used, q.perplexity);
    return fv_report(tr->ctx, "held-out", step, tr->steps, line);
}

/* Pairs (original, reconstruction) of pictures spread over the held-out set, which is sorted by
 * class. Pictures first .. first + n of `count`. */
static fv_status sample_pairs(trainer *tr, int first, int n, int count, fv_image *pair)
{
    const uint64_t have = fv_dataset_count(tr->held);
    int32_t label;
    for (int i = 0; i < n; i++)
        FV_TRY(fv_dataset_get(tr->held, (uint64_t)(first + i) * have / (uint64_t)count,
                              tr->x + i * tr->pixels, &label));
    const float *y;
    FV_TRY(view_batch(tr, tr->x));
    FV_TRY(fv_plan_seen(tr->view, "y", &y));
    for (int i = 0; i < n; i++) {
        FV_TRY(picture(tr, tr->x + i * tr->pixels, &pair[2 * i]));
        FV_TRY(picture(tr, y + i * tr->pixels, &pair[2 * i + 1]));
    }
    return FV_OK;
}

static fv_status sample(void *user, uint64_t step, const char *path_stem)
{
    trainer *tr = user;
    const int count = fv_trainer_count(tr->held, tr->sample_count);
    (void)step;
    fv_image *img = fv_calloc(tr->ctx, 2 * (size_t)count, sizeof *img);
    if (!img) return FV_ERR_OOM;
    fv_status s = FV_OK;
    for (int i = 0; i < count && s == FV_OK; i += tr->batch)
        s = sample_pairs(tr, i, count - i < tr->batch ? count - i : tr->batch, count, img + 2 * i);
    if (s == FV_OK) s = fv_trainer_sheet(tr->ctx, img, 2 * count, 12, 2, path_stem);
    for (int i = 0; i < 2 * count; i++) fv_image_free(tr->ctx, &img[i]);
    fv_free(tr->ctx, img);
    return s;
}

static fv_status export_model(void *user, uint64_t step, const char *path)
{
    const trainer *tr = user;
    const fv_trainer_model m = { tr->params, tr->data, tr->recipe_text, tr->export_type, step };
    const fv_trainer_number held[] = {
        { "fovea.train.psnr_db", tr->last.psnr }, { "fovea.train.ssim", tr->last.ssim },
        { "fovea.train.codes_used", tr->last.used },
        { "fovea.train.perplexity", tr->last.perplexity },
    };
    fv_meta meta;
    FV_TRY(ar_config_meta(tr->ctx, &tr->cfg, &meta));
    return fv_trainer_export(tr->ctx, &m, &meta, held,
                             tr->last.psnr > 0 ? (int)FV_ARRAY_LEN(held) : 0, path);
}

/* ---- Set-up ---------------------------------------------------------------------------------- */

static int block_count(fv_recipe *r, const char *key, int preset)
{
    return (int)fv_recipe_int(r, key, preset, 1, VQ_MAX_BLOCKS);
}

static fv_status read_config(trainer *tr, fv_recipe *r)
{
    vq_config *c = &tr->cfg.vq;
    FV_TRY(ar_preset(tr->ctx, fv_recipe_string(r, "preset", "vq-s8"), 1, &tr->cfg));
    if (tr->cfg.has_gpt)
        return fv_fail(tr->ctx, FV_ERR_ARG, "recipe: preset %s is a generator: use vq-s8, vq-m8, "
                       "VQ-16 or VQ-8", tr->cfg.name);
    c->channels = (int)fv_recipe_int(r, "channels", c->channels, 4, 1024);
    c->latent = (int)fv_recipe_int(r, "latent", c->latent, 1, 4096);
    c->codes = (int)fv_recipe_int(r, "codes", c->codes, 1, AR_MAX_VOCAB);
    c->code_width = (int)fv_recipe_int(r, "code_width", c->code_width, 1, 1024);
    c->encoder_blocks = block_count(r, "encoder_blocks", c->encoder_blocks);
    c->decoder_blocks = block_count(r, "decoder_blocks", c->decoder_blocks);
    c->has_attention = fv_recipe_bool(r, "attention", c->has_attention);
    FV_TRY(vq_config_check(tr->ctx, c));
    const int f = vq_factor(c);
    tr->size = (int)fv_recipe_int(r, "image_size", 64, 1, 4096);
    if (tr->size % f || tr->size / f > AR_MAX_GRID)
        return fv_fail(tr->ctx, FV_ERR_ARG, "recipe: image_size %d is not a multiple of %d, the "
                       "pixels of a code, or above %d codes", tr->size, f, AR_MAX_GRID);
    tr->tokens = (int64_t)(tr->size / f) * (tr->size / f);
    tr->pixels = 3 * (int64_t)tr->size * tr->size;
    return FV_OK;
}

static fv_status read_numbers(trainer *tr, fv_recipe *r)
{
    tr->seed = (uint64_t)fv_recipe_int(r, "seed", 1, 0, INT64_MAX);
    tr->batch = (int)fv_recipe_int(r, "batch", 32, 1, 65536);
    tr->accumulate = (int)fv_recipe_int(r, "accumulate", 1, 1, 65536);
    tr->beta = (float)fv_recipe_number(r, "beta", 0.25, 0, 100);
    tr->loss.l1 = (float)fv_recipe_number(r, "l1", 1, 0, 1000);
    tr->loss.sobel = (float)fv_recipe_number(r, "sobel", 0.5, 0, 1000);
    tr->loss.pyramid = (float)fv_recipe_number(r, "pyramid", 0.1, 0, 1000);
    tr->eval_pictures = (int)fv_recipe_int(r, "eval_pictures", 1000000, 0, 1000000);
    tr->sample_count = (int)fv_recipe_int(r, "sample_pictures", 72, 1, 4096);
    FV_TRY(fv_trainer_share(tr->ctx, r, &tr->batch, &tr->accumulate, &tr->parts));
    fvi_adversary_read(&tr->adv, r);
    if (tr->loss.l1 + tr->loss.sobel + tr->loss.pyramid > 0) return FV_OK;
    return fv_fail(tr->ctx, FV_ERR_ARG, "recipe: l1, sobel and pyramid are all 0");
}

static fv_status open_data(trainer *tr, fv_recipe *r, const char *data_dir)
{
    const bool hold_out = tr->eval_pictures > 0 || fv_recipe_bool(r, "split", 1);
    FV_TRY(fv_dataset_from_recipe(tr->ctx, &tr->held, r, data_dir, tr->size,
                                  hold_out ? FV_SPLIT_HELDOUT : FV_SPLIT_ALL));
    return fv_dataset_from_recipe(tr->ctx, &tr->data, r, data_dir, tr->size,
                                  hold_out ? FV_SPLIT_TRAIN : FV_SPLIT_ALL);
}

static fv_status read_run(trainer *tr, fv_recipe *r, const fv_trainer_options *o,
                          fv_train_options *t)
{
    const fv_trainer_size size = { tr->batch, tr->accumulate, tr->eval_pictures > 0, tr->seed };
    FV_TRY(fv_trainer_read(tr->ctx, r, o, &size, t));
    tr->steps = t->steps;
    fvi_vq_restarts_read(&tr->restarts, r, 16, t->steps);
    tr->restarts.batches *= tr->parts; /* all ranks look at the same pictures, all of them */
    return FV_OK;
}

static fv_status allocate(trainer *tr)
{
    const size_t B = (size_t)tr->batch, codes = (size_t)tr->net.cfg.codes;
    const size_t rows = B * (size_t)tr->tokens * (size_t)tr->restarts.batches;
    const size_t D = (size_t)tr->net.cfg.code_width;
    tr->x = fv_calloc(tr->ctx, B * (size_t)tr->pixels, sizeof *tr->x);
    tr->latents = fv_calloc(tr->ctx, rows * D, sizeof *tr->latents);
    tr->kept = fv_calloc(tr->ctx, 4 * codes * D, sizeof *tr->kept);
    tr->counts = fv_calloc(tr->ctx, codes, sizeof *tr->counts);
    return tr->x && tr->latents && tr->kept && tr->counts ? FV_OK : FV_ERR_OOM;
}

/* x -> y, z (unit length), index: for restarts, held-out pictures and sheets. */
static fv_status build_view(trainer *tr)
{
    const int64_t image[4] = { tr->batch, tr->size, tr->size, 3 };
    fv_tape *t;
    fv_t index;
    FV_TRY(fv_tape_create(tr->ctx, &t, tr->params, FV_INFER, tr->precision));
    const fv_t x = fv_input(t, "x", FV_F32, 4, image);
    const fv_t z = fv_l2norm(t, vq_encode(t, &tr->net, x), VQ_UNIT_EPS);
    const fv_t q = vq_quantise(t, &tr->net, z, 0, &index, NULL);
    fv_output(t, "z", z);
    fv_output(t, "index", index);
    fv_output(t, "y", vq_decode(t, &tr->net, q));
    return fv_plan_finish(tr->ctx, &tr->view, &t, NULL);
}

static fv_t image_loss(const void *user, fv_tape *t, fv_t y, fv_t target)
{
    return fvi_loss_image(t, y, target, user);
}

static fv_status build_plan(trainer *tr)
{
    const int64_t image[4] = { tr->batch, tr->size, tr->size, 3 };
    fv_tape *t;
    const bool has_gan = tr->adv.weight > 0;
    fv_t index, vq, loss;
    FV_TRY(fv_tape_create(tr->ctx, &t, tr->params, FV_TRAIN, tr->precision));
    const fv_t x = fv_input(t, "x", FV_F32, 4, image);
    const fv_t u = has_gan ? fv_input(t, "u", FV_F32, 4, image) : 0;
    const fv_t q = vq_quantise(t, &tr->net, vq_encode(t, &tr->net, x), tr->beta, &index, &vq);
    const fv_t y = vq_decode(t, &tr->net, q);
    if (has_gan) {
        fv_output(t, "y", y);
        loss = fvi_loss_dot(t, y, u);
    } else {
        loss = fvi_loss_image(t, y, x, &tr->loss);
    }
    fv_output(t, "loss", fv_binary_op(t, FV_ADD, loss, vq));
    FV_TRY(fv_plan_finish(tr->ctx, &tr->plan, &t, NULL));
    const fvi_image_term term = { image_loss, &tr->loss, NULL };
    return fvi_adversary_create(tr->ctx, &tr->adv, image, tr->precision, &term, tr->plan);
}

static fv_status load_init(void *user, const fv_model *m)
{
    return fv_params_load(((trainer *)user)->params, m, "");
}

static fv_status start_net(trainer *tr, const char *init)
{
    FV_TRY(fv_params_create(tr->ctx, &tr->params));
    vq_net_add(&tr->net, tr->params, &tr->cfg.vq, PREFIX);
    fvi_adversary_add(&tr->adv, tr->params);
    FV_TRY(fv_params_alloc(tr->params));
    vq_net_init(&tr->net, tr->seed);
    fvi_adversary_init(&tr->adv, tr->seed);
    return fv_trainer_init(tr->ctx, init, load_init, tr);
}

static void trainer_free(void *state)
{
    trainer *tr = state;
    fv_opt_destroy(&tr->opt);
    fv_plan_destroy(&tr->plan);
    fv_plan_destroy(&tr->view);
    fvi_adversary_free(&tr->adv);
    fv_params_destroy(&tr->params);
    fv_dataset_close(&tr->data);
    fv_dataset_close(&tr->held);
    void *mem[] = { tr->x, tr->latents, tr->kept, tr->counts };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(tr->ctx, mem[i]);
}

static fv_status prepare(void *state, fv_recipe *r, const fv_trainer_options *o,
                         fv_train_options *t, fv_trainer_run *run)
{
    trainer *tr = state;
    FV_TRY(read_numbers(tr, r));
    FV_TRY(read_config(tr, r));
    FV_TRY(fv_trainer_types(tr->ctx, r, "bf16", &tr->precision, &tr->export_type));
    FV_TRY(open_data(tr, r, o->data_dir));
    FV_TRY(read_run(tr, r, o, t));
    FV_TRY(start_net(tr, o->init));
    FV_TRY(fv_trainer_opt(tr->ctx, &tr->opt, tr->params, r));
    FV_TRY(allocate(tr));
    FV_TRY(build_view(tr));
    FV_TRY(build_plan(tr));
    tr->recipe_text = fv_recipe_text(r);
    *run = (fv_trainer_run){ tr->recipe_text, tr->params, tr->opt, tr->plan,
                             { tr, train_step, tr->eval_pictures ? evaluate : NULL,
                               sample, export_model } };
    return FV_OK;
}

fv_status fv_vq_train(fv_ctx *ctx, fv_recipe *r, const fv_trainer_options *opts,
                      fv_train_result *result)
{
    trainer tr = { .ctx = ctx };
    const fv_training all = { "vq", true, &tr, prepare, trainer_free };
    return fv_trainer_train(ctx, &all, r, opts, result);
}
