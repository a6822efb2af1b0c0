/* rdvq_train.c - training of the learned image codec, `engine = rdvq`, in three stages that each
 * start from the model of the one before (--init):
 *
 *     tokenizer   D + codebook loss + beta * commitment        transforms and codebook
 *     entropy     rate of the tokens                           the entropy model alone
 *     joint       D + beta * commitment + lambda * rate        all but the codebook
 *     D = mse MSE + ssim (1 - MS-SSIM) + texture WD            (op_picture_body.h)
 *         + lpips LPIPS or DISTS                               (lpips_model: fovea.h, 12.)
 * With gan > 0 a discriminator of patches joins in after gan_from of the run, in the weight that
 * patch_gan.h says, with gan_match times the distance of its features. LPIPS comes in with the
 * quantiser: its gradient to the pictures is taken in a plan of its own, so that its weights are
 * neither in the optimiser nor in checkpoints.
 *
 * The rate is that of softly chosen codes (op_soft_rate.c), in bits per pixel, so that it has a
 * gradient to the latents: directly, and through the context that other tokens are coded with.
 *
 * The first kmeans_at steps of a tokenizer run without a quantiser; then the codebook becomes the
 * k-means of what the encoder gives for the last batches. Every restart_every steps from there on,
 * until restart_until of the run, codes that the last batches do not choose are set onto latents.
 * Both are functions of masters and step, as everything else: a resumed run is the same run.
 *
 * A tokenizer may begin with the transforms of another model, of any number of codes and groups; its
 * codebook is then made at kmeans_at (0: it must have the same codes, and they are taken over). With
 * relaxation = no the rate trains the entropy model alone: the encoder knows nothing of it, for
 * comparison [arXiv 2604.10546, ablation].
 *
 * tau falls geometrically from tau to tau_last over tau_share of the run; lambda rises linearly
 * over lambda_share of it.
 *
 * Keys beside the shared ones (train_recipe.c):
 *     stage preset groups codes relaxation crop batch accumulate precision export
 *     mse ssim texture lpips lpips_model beta     gan gan_from gan_match gan_channels gan_layers
 *     tau tau_last tau_share lambda lambda_share     kmeans_at kmeans_rounds
 *     restart_every restart_batches restart_until     eval_every eval_pictures eval_size
 *     sample_pictures
 *
 * The first eval_pictures held-out pictures, which come in the order of the data, are measured at
 * eval_size pixels. The metric is their mean PSNR in dB (larger is better), that of the entropy
 * stage the bits per pixel of their tokens (smaller is better). */
#include "rdvq.h"

#include <math.h>
#include <string.h>

#include "fovea_codec.h"
#include "patch_gan.h"
#include "vq_train.h"

typedef enum rdvq_stage { TOKENIZER, ENTROPY, JOINT } rdvq_stage;

typedef struct quality { double bpp, soft_bpp, psnr, ms_ssim, gmsd, texture, used; } quality;

/* One size of pictures: inputs of the plans over it. */
typedef struct batch_size { int64_t B, side; } batch_size;

typedef struct trainer {
    fv_ctx *ctx;
    rdvq_config cfg;
    rdvq_net net;
    rdvq_tables tables;
    rdvq_stage stage;
    fv_params *params;
    fv_opt *opt;
    fv_dataset *data, *held;
    fv_plan *plan, *warm;  /* the step; without quantiser */
    fv_plan *look;         /* x -> unit latents, codes, index: of a batch */
    fv_plan *view, *price; /* held-out: x -> picture, codes, index; codes, labels -> rate */
    fv_dtype precision, export_type;
    bool has_relaxation;
    int batch, accumulate, parts, crop, eval_pictures, eval_size, sample_count, kmeans_rounds;
    float lpips;
    fv_model *lpips_file;
    fv_perceptual *lpips_net;
    float mse, ssim, texture, beta, tau, lambda; /* tau, lambda: of this step */
    double tau_first, tau_last, tau_share, lambda_last, lambda_share;
    fvi_vq_restarts restarts;
    uint64_t kmeans_at, changed, steps, seed; /* changed: step + 1 */
    uint64_t drawn; /* number of the micro-batch in noise + 1; 0: none */
    float *noise[2], *view_noise[2], *latents, *kept, *x;
    int32_t *labels;
    uint32_t *counts;
    fvi_adversary adv;
    quality last;
    const char *recipe_text;
} trainer;

static int64_t tokens_of(const trainer *tr, int64_t B, int64_t side)
{
    const int64_t n = side / rdvq_window(&tr->cfg);
    return B * n * n * tr->net.slices.tokens;
}

/* Inputs that a plan may lack. */
static fv_status feed_if_there(fv_plan *p, const char *name, const void *host)
{
    return fv_plan_value(p, name).ndim > 0 ? fv_plan_feed(p, name, host) : FV_OK;
}

static fv_status feed_controls(trainer *tr, fv_plan *p)
{
    FV_TRY(feed_if_there(p, "tau", &tr->tau));
    return feed_if_there(p, "lambda", &tr->lambda);
}

static fv_status feed_noise(fv_plan *p, float *const noise[2])
{
    FV_TRY(feed_if_there(p, "noise8", noise[0]));
    return feed_if_there(p, "noise4", noise[1]);
}

/* ---- Codes ----------------------------------------------------------------------------------- */

/* k-means or restarts that are due before this step. */
static fv_status change_codes(trainer *tr, uint64_t step)
{
    const bool is_start = step == tr->kmeans_at && step > 0;
    const bool is_restart = step > tr->kmeans_at && fvi_vq_restart_is_due(&tr->restarts, step);
    const fvi_vq_look look = { tr->data, tr->look, tr->batch, tokens_of(tr, tr->batch, tr->crop),
                               tr->cfg.code_width, tr->cfg.codes, tr->restarts.batches, tr->latents,
                               tr->counts, tr->parts };
    fvi_vq_restart r = { tr->opt, tr->net.codebook, tr->counts, tr->latents, 0, tr->seed, step };
    int64_t replaced;
    if (tr->stage != TOKENIZER || tr->changed == step + 1 || (!is_start && !is_restart)) return FV_OK;
    FV_TRY(fvi_vq_gather(&look, step * (uint64_t)tr->accumulate, &r.n));
    FV_TRY(fvi_opt_keep(tr->opt, tr->net.codebook, tr->kept));
    tr->changed = step + 1;
    if (!is_start) return fvi_vq_restart_codes(&r, &replaced);
    const size_t count = (size_t)tr->cfg.codes * (size_t)tr->cfg.code_width;
    float *codes = fv_alloc(tr->ctx, count * sizeof *codes);
    fv_status s = codes ? fvi_vq_kmeans(tr->ctx, &r, tr->kmeans_rounds, codes) : FV_ERR_OOM;
    if (s == FV_OK) s = fvi_opt_set(tr->opt, tr->net.codebook, codes);
    fv_free(tr->ctx, codes);
    return s;
}

/* ---- Steps ----------------------------------------------------------------------------------- */

static void fill_noise(const trainer *tr, uint32_t seed, const batch_size *s, float *const to[2])
{
    for (int k = 0; k < 2 && tr->cfg.noise; k++) {
        const int stride = k ? 4 : 8, side = (int)s->side / stride;
        const int at[4] = { 0, 0, side, side };
        for (int64_t b = 0; b < s->B; b++)
            rdvq_fill_noise(&tr->net, seed + (uint32_t)b, stride, at,
                            to[k] + b * side * side * tr->cfg.noise);
    }
}

static void set_controls(trainer *tr, uint64_t step)
{
    const double at = (double)step / (double)tr->steps;
    const double fall = tr->tau_share > 0 ? fmin(at / tr->tau_share, 1) : 1;
    const double rise = tr->lambda_share > 0 ? fmin(at / tr->lambda_share, 1) : 1;
    tr->tau = (float)(tr->tau_first * pow(tr->tau_last / tr->tau_first, fall));
    tr->lambda = (float)(tr->lambda_last * rise);
}

/* Is the image loss in a plan of its own? */
static bool is_apart(const trainer *tr) { return tr->adv.weight > 0 || tr->lpips_net; }

/* Pictures (NULL: they come later), or for the entropy model what they become, go to the device; the
 * loss comes back. */
static fv_status feed_step(trainer *tr, fv_plan *p, const float *images)
{
    FV_TRY(feed_controls(tr, p));
    if (tr->stage != ENTROPY) {
        FV_TRY(feed_noise(p, tr->noise));
        return images ? fv_plan_feed(p, "x", images) : FV_OK;
    }
    FV_TRY(fv_plan_feed(tr->look, "x", images));
    FV_TRY(fv_plan_forward(tr->look));
    FV_TRY(fv_plan_bind(p, "z", fv_plan_value(tr->look, "z").data));
    return fv_plan_bind(p, "q", fv_plan_value(tr->look, "q").data);
}

/* Noise of micro-batch `number`. While a device computes, the host draws that of the next. */
static void draw_noise(trainer *tr, uint64_t number)
{
    const batch_size size = { tr->batch, tr->crop };
    if (tr->stage == ENTROPY || tr->drawn == number + 1) return;
    fill_noise(tr, (uint32_t)number * (uint32_t)tr->batch, &size, tr->noise);
    tr->drawn = number + 1;
}

static fv_status run_step(trainer *tr, uint64_t step, int micro, float scale, double *loss)
{
    const uint64_t number = step * (uint64_t)tr->accumulate + (uint64_t)micro;
    fv_plan *p = tr->stage == TOKENIZER && step < tr->kmeans_at ? tr->warm : tr->plan;
    const bool has_u = tr->stage != ENTROPY && is_apart(tr) && p == tr->plan;
    fv_batch b;
    FV_TRY(change_codes(tr, step));
    set_controls(tr, step);
    FV_TRY(fv_dataset_batch(tr->data, number, tr->batch, &b));
    draw_noise(tr, number);
    FV_TRY(feed_step(tr, p, has_u ? NULL : b.images));
    if (has_u)
        return fvi_adversary_step(&tr->adv, p, b.images, (double)step / (double)tr->steps, scale,
                                  loss);
    FV_TRY(fv_plan_forward(p));
    FV_TRY(fv_plan_backward(p, "loss", scale));
    if (fv_ctx_device(tr->ctx) != FV_DEVICE_CPU)
        draw_noise(tr, fv_trainer_next(tr->ctx, number));
    return fv_plan_number(p, "loss", loss);
}

static fv_status train_step(void *user, uint64_t step, int micro, float scale, double *loss)
{
    trainer *tr = user;
    const fv_status s = run_step(tr, step, micro, scale, loss);
    /* The loop saves the state before this step and will do it again. */
    if (s != FV_OK && tr->changed == step + 1)
        FV_TRY(fvi_opt_put_back(tr->opt, tr->net.codebook, tr->kept));
    return s;
}

/* ---- Held-out pictures ----------------------------------------------------------------------- */

static fv_status judge(trainer *tr, const float *a, const float *b, fv_image pair[2], quality *q)
{
    double v[4] = { 0 };
    for (int k = 0; k < 2; k++) {
        FV_TRY(fv_image_create(tr->ctx, &pair[k], tr->eval_size, tr->eval_size, 3, 8));
        fv_image_from_float(&pair[k], -1.0f, 1.0f, k ? b : a);
    }
    FV_TRY(fv_psnr(tr->ctx, &pair[0], &pair[1], &v[0]));
    FV_TRY(fv_ms_ssim(tr->ctx, &pair[0], &pair[1], &v[1]));
    FV_TRY(fv_gmsd(tr->ctx, &pair[0], &pair[1], &v[2]));
    FV_TRY(fv_texture(tr->ctx, &pair[1], &pair[0], &v[3])); /* judged by the original */
    q->psnr += fmin(v[0], 100); /* equal pictures: infinite */
    q->ms_ssim += v[1];
    q->gmsd += v[2];
    q->texture += v[3];
    return FV_OK;
}

/* Rate of the picture in the view, by the model, or without one by how its codes are spread. */
static fv_status add_rate(trainer *tr, quality *q)
{
    const int64_t n = tokens_of(tr, 1, tr->eval_size);
    const double per_pixel = (double)n / ((double)tr->eval_size * tr->eval_size);
    const int32_t *index;
    double hard = 0, soft = 0;
    FV_TRY(fv_plan_seen_ids(tr->view, "index", &index));
    fvi_vq_count(tr->counts, tr->cfg.codes, index, n);
    if (!tr->price) return FV_OK;
    const int T = tr->net.slices.tokens;
    for (int64_t i = 0; i < n; i++)
        tr->labels[i] = index[i / T * T + tr->net.slices.list[i % T]];
    FV_TRY(fv_plan_bind(tr->price, "z", fv_plan_value(tr->view, "z").data));
    FV_TRY(fv_plan_bind(tr->price, "q", fv_plan_value(tr->view, "q").data));
    FV_TRY(fv_plan_feed(tr->price, "labels", tr->labels));
    FV_TRY(feed_controls(tr, tr->price));
    FV_TRY(fv_plan_forward(tr->price));
    FV_TRY(fv_plan_number(tr->price, "hard", &hard));
    FV_TRY(fv_plan_number(tr->price, "soft", &soft));
    q->bpp += per_pixel * hard / log(2);
    q->soft_bpp += per_pixel * soft;
    return FV_OK;
}

/* Held-out picture i through the codec; pair: original and result, to be freed. */
static fv_status view_one(trainer *tr, uint64_t i, fv_image pair[2], quality *q)
{
    int32_t label;
    const float *y;
    FV_TRY(fv_dataset_get(tr->held, i, tr->x, &label));
    FV_TRY(fv_plan_feed(tr->view, "x", tr->x));
    FV_TRY(fv_plan_forward(tr->view));
    FV_TRY(add_rate(tr, q));
    FV_TRY(fv_plan_seen(tr->view, "y", &y));
    return judge(tr, tr->x, y, pair, q);
}

static void finish_quality(trainer *tr, quality *q, int count)
{
    double *const all[] = { &q->bpp, &q->soft_bpp, &q->psnr, &q->ms_ssim, &q->gmsd, &q->texture };
    const int V = tr->cfg.codes, side = rdvq_window(&tr->cfg);
    for (size_t i = 0; i < FV_ARRAY_LEN(all); i++) *all[i] /= count;
    q->used = (double)fvi_vq_used(tr->counts, V) / V;
    if (!tr->price) /* as if each token cost its own frequency */
        q->bpp = q->soft_bpp = log2(fvi_vq_perplexity(tr->counts, V)) * tr->net.slices.tokens /
                               ((double)side * side);
    tr->last = *q;
}

static fv_status evaluate(void *user, uint64_t step, double *metric)
{
    trainer *tr = user;
    const int count = fv_trainer_count(tr->held, tr->eval_pictures);
    quality q = { 0 };
    char line[192];
    memset(tr->counts, 0, (size_t)tr->cfg.codes * sizeof *tr->counts);
    set_controls(tr, step);
    for (int i = 0; i < count; i++) {
        fv_image pair[2] = { { 0 }, { 0 } };
        const fv_status s = view_one(tr, (uint64_t)i, pair, &q);
        for (int k = 0; k < 2; k++) fv_image_free(tr->ctx, &pair[k]);
        FV_TRY(s);
    }
    finish_quality(tr, &q, count);
    *metric = tr->stage == ENTROPY ? q.bpp : q.psnr;
    snprintf(line, sizeof line, "%.4f bpp%s, soft %+.4f, %.2f dB, MS-SSIM %.4f, GMSD %.4f, texture "
             "%.4f, %.1f %% of the codes used", q.bpp, tr->price ? "" : " by frequency",
             q.soft_bpp - q.bpp, q.psnr, q.ms_ssim, q.gmsd, q.texture, 100 * q.used);
    return fv_report(tr->ctx, "held-out", step, tr->steps, line);
}

/* Sheet of pairs (original, result), spread over the pictures that are measured. */
static fv_status sample(void *user, uint64_t step, const char *path_stem)
{
    trainer *tr = user;
    const int measured = fv_trainer_count(tr->held, tr->eval_pictures);
    const int count = tr->sample_count < measured ? tr->sample_count : measured;
    quality q = { 0 };
    fv_image *img = fv_calloc(tr->ctx, 2 * (size_t)count, sizeof *img);
    if (!img) return FV_ERR_OOM;
    fv_status s = FV_OK;
    set_controls(tr, step);
    for (int i = 0; i < count && s == FV_OK; i++)
        s = view_one(tr, (uint64_t)(i * measured / count), img + 2 * i, &q);
    if (s == FV_OK) s = fv_trainer_sheet(tr->ctx, img, 2 * count, 4, 4, path_stem);
    for (int i = 0; i < 2 * count; i++) fv_image_free(tr->ctx, &img[i]);
    fv_free(tr->ctx, img);
    return s;
}

static fv_status export_model(void *user, uint64_t step, const char *path)
{
    const trainer *tr = user;
    const fv_trainer_model m = { tr->params, tr->data, tr->recipe_text, tr->export_type, step };
    const fv_trainer_number held[] = {
        { "fovea.train.bpp", tr->last.bpp }, { "fovea.train.psnr_db", tr->last.psnr },
        { "fovea.train.ms_ssim", tr->last.ms_ssim }, { "fovea.train.gmsd", tr->last.gmsd },
        { "fovea.train.texture", tr->last.texture }, { "fovea.train.codes_used", tr->last.used },
    };
    fv_meta meta;
    FV_TRY(rdvq_config_meta(tr->ctx, &tr->cfg, &meta));
    return fv_trainer_export(tr->ctx, &m, &meta, held,
                             tr->last.psnr > 0 ? (int)FV_ARRAY_LEN(held) : 0, path);
}

/* ---- Plans ----------------------------------------------------------------------------------- */

typedef struct coded { fv_t z, q, index, codes, maps[RDVQ_SCALES]; } coded; /* z, q by position */

static batch_size train_size(const trainer *tr)
{
    const batch_size s = { tr->batch, tr->crop };
    return s;
}

static fv_t picture_input(fv_tape *t, const batch_size *s)
{
    const int64_t dim[4] = { s->B, s->side, s->side, 3 };
    return fv_input(t, "x", FV_F32, 4, dim);
}

/* Encoder, and quantiser unless is_warm. */
static coded encode(const trainer *tr, fv_tape *t, fv_t x, const batch_size *s, bool is_warm)
{
    const int64_t n = s->side / rdvq_window(&tr->cfg), windows[3] = { s->B, n, n };
    fv_t z[RDVQ_SCALES];
    coded c = { 0 };
    rdvq_analyse(t, &tr->net, x, z);
    c.z = c.q = rdvq_unit(t, rdvq_to_windows(t, &tr->net, z));
    if (!is_warm) {
        c.codes = rdvq_codes(t, &tr->net);
        c.q = fv_vq_nearest(t, c.z, c.codes, &c.index);
    }
    rdvq_from_windows(t, &tr->net, c.q, windows, c.maps);
    return c;
}

static fv_t decode(const trainer *tr, fv_tape *t, const coded *c, const batch_size *s)
{
    fv_t noise[2] = { 0, 0 };
    for (int k = 0; k < 2 && tr->cfg.noise; k++) {
        const int64_t side = s->side / (k ? 4 : 8);
        const int64_t dim[4] = { s->B, side, side, tr->cfg.noise };
        noise[k] = fv_input(t, k ? "noise4" : "noise8", FV_F32, 4, dim);
    }
    return rdvq_synthesise(t, &tr->net, c->maps, noise);
}

/* sum + weight * term; sum 0: the first one */
static fv_t add_term(fv_tape *t, fv_t sum, fv_t term, float weight)
{
    term = fv_affine(t, term, weight, 0.0f);
    return sum ? fv_binary_op(t, FV_ADD, sum, term) : term;
}

/* Scales of a loss between pictures whose coarsest side must be `least`. */
static int scales_for(const trainer *tr, int least)
{
    int n = 1;
    while (n < 5 && tr->crop >> n >= least) n++;
    return n;
}

static fv_t distortion(const void *user, fv_tape *t, fv_t y, fv_t x)
{
    const trainer *tr = user;
    fv_t sum = 0;
    if (tr->mse > 0) sum = add_term(t, sum, fv_loss_mse(t, y, x, 0), tr->mse);
    if (tr->ssim > 0)
        sum = add_term(t, sum, fv_loss_ms_ssim(t, y, x, scales_for(tr, 11)), tr->ssim);
    if (tr->texture > 0)
        sum = add_term(t, sum, fv_loss_texture(t, y, x, scales_for(tr, 9)), tr->texture);
    return sum;
}

/* The same with what has parameters of its own. */
static fv_t whole_distortion(const void *user, fv_tape *t, fv_t y, fv_t x)
{
    const trainer *tr = user;
    const fv_t sum = distortion(tr, t, y, x);
    if (!tr->lpips_net) return sum;
    return add_term(t, sum, fv_loss_perceptual(t, tr->lpips_net, y, x), tr->lpips);
}

/* Bits per pixel of softly chosen codes. */
static fv_t soft_bpp(const trainer *tr, fv_tape *t, const coded *c)
{
    const int64_t one = 1, side = rdvq_window(&tr->cfg);
    const fv_t z = tr->has_relaxation ? c->z : fv_detach(t, c->z);
    const fv_t logits = rdvq_logits(t, &tr->net, tr->has_relaxation ? c->q : fv_detach(t, c->q));
    const fv_t tau = fv_input(t, "tau", FV_F32, 1, &one);
    const fv_t bits = fv_soft_rate(t, rdvq_in_order(t, &tr->net, z), c->codes, logits, tau);
    return fv_affine(t, bits, (float)tr->net.slices.tokens / (float)(side * side), 0.0f);
}

static fv_status finish_plan(trainer *tr, fv_plan **p, fv_tape **t)
{
    FV_TRY(fv_plan_finish(tr->ctx, p, t, NULL));
    return rdvq_tables_bind(&tr->tables, *p);
}

/* The step of stages 1 and 3: x -> loss. */
static fv_status build_step(trainer *tr, fv_plan **p, bool is_warm)
{
    const batch_size s = train_size(tr);
    const int64_t one = 1, image[4] = { s.B, s.side, s.side, 3 };
    const bool has_u = is_apart(tr) && !is_warm;
    const fvi_image_term term = { whole_distortion, tr,
                                  tr->lpips_net ? fv_perceptual_params(tr->lpips_net) : NULL };
    fv_tape *t;
    FV_TRY(fv_tape_create(tr->ctx, &t, tr->params, FV_TRAIN, tr->precision));
    const fv_t x = picture_input(t, &s);
    const coded c = encode(tr, t, x, &s, is_warm);
    const fv_t y = decode(tr, t, &c, &s);
    if (has_u) fv_output(t, "y", y);
    fv_t loss = has_u ? fvi_loss_dot(t, y, fv_input(t, "u", FV_F32, 4, image)) :
                        distortion(tr, t, y, x);
    if (!is_warm)
        loss = add_term(t, loss, fv_loss_vq(t, c.z, c.codes, c.index, tr->beta), 1.0f);
    if (tr->stage == JOINT)
        loss = add_term(t, loss, fv_binary_op(t, FV_MUL, soft_bpp(tr, t, &c),
                                              fv_input(t, "lambda", FV_F32, 1, &one)), 1.0f);
    fv_output(t, "loss", loss);
    FV_TRY(finish_plan(tr, p, &t));
    if (!has_u) return FV_OK;
    return fvi_adversary_create(tr->ctx, &tr->adv, image, tr->precision, &term, *p);
}

/* z, q -> rate: the step of stage 2, and the price of held-out pictures. */
static fv_status build_rate(trainer *tr, fv_plan **p, const batch_size *s, bool is_step)
{
    const int64_t T = tr->net.slices.tokens, n = tokens_of(tr, s->B, s->side);
    const int64_t dim[3] = { n / T, T, tr->cfg.code_width };
    fv_tape *t;
    FV_TRY(fv_tape_create(tr->ctx, &t, tr->params, is_step ? FV_TRAIN : FV_INFER, tr->precision));
    coded c = { .z = fv_input(t, "z", FV_F32, 3, dim), .q = fv_input(t, "q", FV_F32, 3, dim) };
    c.codes = rdvq_codes(t, &tr->net);
    if (is_step) {
        fv_output(t, "loss", soft_bpp(tr, t, &c));
    } else {
        const int64_t one = 1;
        const fv_t logits = rdvq_logits(t, &tr->net, c.q);
        const fv_t labels = fv_input(t, "labels", FV_I32, 1, &n);
        fv_output(t, "hard", fv_loss_cross_entropy(t, logits, labels));
        fv_output(t, "soft", fv_soft_rate(t, rdvq_in_order(t, &tr->net, c.z), c.codes, logits,
                                          fv_input(t, "tau", FV_F32, 1, &one)));
    }
    return finish_plan(tr, p, &t);
}

/* x -> z, q, index, and with a decoder y. */
static fv_status build_view(trainer *tr, fv_plan **p, const batch_size *s, bool has_decoder)
{
    fv_tape *t;
    FV_TRY(fv_tape_create(tr->ctx, &t, tr->params, FV_INFER, tr->precision));
    const coded c = encode(tr, t, picture_input(t, s), s, false);
    fv_output(t, "z", c.z);
    fv_output(t, "q", c.q);
    fv_output(t, "index", c.index);
    if (has_decoder) fv_output(t, "y", decode(tr, t, &c, s));
    return finish_plan(tr, p, &t);
}

static fv_status build_plans(trainer *tr)
{
    const batch_size train = train_size(tr), view = { 1, tr->eval_size };
    if (tr->stage == ENTROPY) FV_TRY(build_rate(tr, &tr->plan, &train, true));
    else FV_TRY(build_step(tr, &tr->plan, false));
    if (tr->stage == TOKENIZER && tr->kmeans_at > 0) FV_TRY(build_step(tr, &tr->warm, true));
    if (tr->stage != JOINT) FV_TRY(build_view(tr, &tr->look, &train, false));
    if (!tr->held) return FV_OK;
    FV_TRY(build_view(tr, &tr->view, &view, true));
    fill_noise(tr, 0, &view, tr->view_noise);
    FV_TRY(feed_noise(tr->view, tr->view_noise));
    return tr->stage == TOKENIZER ? FV_OK : build_rate(tr, &tr->price, &view, false);
}

/* ---- Set-up ---------------------------------------------------------------------------------- */

static fv_status read_stage(trainer *tr, fv_recipe *r)
{
    static const char *const names[] = { "tokenizer", "entropy", "joint" };
    const char *name = fv_recipe_string(r, "stage", "tokenizer");
    for (int i = 0; i < 3; i++)
        if (strcmp(name, names[i]) == 0) {
            tr->stage = (rdvq_stage)i;
            return FV_OK;
        }
    return fv_fail(tr->ctx, FV_ERR_UNKNOWN,
                   "recipe: stage = %.40s: use tokenizer, entropy or joint", name);
}

static fv_status check_side(trainer *tr, const char *key, int side, int least)
{
    const int window = rdvq_window(&tr->cfg);
    if (side % window == 0 && side >= least) return FV_OK;
    return fv_fail(tr->ctx, FV_ERR_ARG, "recipe: %s %d is not a multiple of %d, the window, or "
                   "below %d", key, side, window, least);
}

static fv_status read_config(trainer *tr, fv_recipe *r)
{
    rdvq_config *c = &tr->cfg;
    FV_TRY(rdvq_preset(tr->ctx, fv_recipe_string(r, "preset", "rdvq-xs"), c));
    c->groups = (int)fv_recipe_int(r, "groups", c->groups, 1, RDVQ_MAX_GROUPS);
    c->codes = (int)fv_recipe_int(r, "codes", c->codes, 2, RDVQ_MAX_CODES);
    FV_TRY(rdvq_config_check(tr->ctx, c));
    tr->crop = (int)fv_recipe_int(r, "crop", rdvq_window(c), 1, 4096);
    tr->eval_size = (int)fv_recipe_int(r, "eval_size", 512, 1, 4096);
    FV_TRY(check_side(tr, "crop", tr->crop, 1));
    return check_side(tr, "eval_size", tr->eval_size, 176); /* of MS-SSIM */
}

static fv_status read_numbers(trainer *tr, fv_recipe *r)
{
    tr->seed = (uint64_t)fv_recipe_int(r, "seed", 1, 0, INT64_MAX);
    tr->batch = (int)fv_recipe_int(r, "batch", 16, 1, 65536);
    tr->accumulate = (int)fv_recipe_int(r, "accumulate", 1, 1, 65536);
    FV_TRY(fv_trainer_share(tr->ctx, r, &tr->batch, &tr->accumulate, &tr->parts));
    tr->mse = (float)fv_recipe_number(r, "mse", 1, 0, 1000);
    tr->ssim = (float)fv_recipe_number(r, "ssim", 0.3, 0, 1000);
    tr->texture = (float)fv_recipe_number(r, "texture", 1, 0, 1000);
    tr->beta = (float)fv_recipe_number(r, "beta", 0.25, 0, 100);
    tr->tau_first = fv_recipe_number(r, "tau", 0.1, 1e-4, 10);
    tr->tau_last = fv_recipe_number(r, "tau_last", 0.02, 1e-4, 10);
    tr->tau_share = fv_recipe_number(r, "tau_share", 0.6, 0, 1);
    tr->lambda_last = fv_recipe_number(r, "lambda", 0.1, 0, 1000);
    tr->lambda_share = fv_recipe_number(r, "lambda_share", 0.1, 0, 1);
    if (tr->stage != ENTROPY) { /* which makes no pictures */
        tr->lpips = (float)fv_recipe_number(r, "lpips", 0, 0, 1000);
        fvi_adversary_read(&tr->adv, r);
    }
    tr->has_relaxation = fv_recipe_bool(r, "relaxation", 1);
    tr->kmeans_at = (uint64_t)fv_recipe_int(r, "kmeans_at", 500, 0, 1000000000);
    tr->kmeans_rounds = (int)fv_recipe_int(r, "kmeans_rounds", 10, 1, 1000);
    tr->eval_pictures = (int)fv_recipe_int(r, "eval_pictures", 1000000, 0, 1000000);
    tr->sample_count = (int)fv_recipe_int(r, "sample_pictures", 8, 1, 4096);
    const bool has_warm = tr->stage == TOKENIZER && tr->kmeans_at > 0; /* lpips is not in there */
    if (tr->mse + tr->ssim + tr->texture > 0 || (tr->lpips > 0 && !has_warm)) return FV_OK;
    return fv_fail(tr->ctx, FV_ERR_ARG, "recipe: mse, ssim and texture are all 0%s",
                   tr->lpips > 0 ? ", and lpips begins at kmeans_at only" : "");
}

/* Weights of LPIPS or DISTS. */
static fv_status open_lpips(trainer *tr, fv_recipe *r)
{
    if (!(tr->lpips > 0)) return FV_OK;
    const char *path = fv_recipe_string(r, "lpips_model", "");
    if (!*path)
        return fv_fail(tr->ctx, FV_ERR_ARG, "recipe: lpips without lpips_model, the file with its "
                       "weights, which fovea convert makes");
    FV_TRY(fv_model_open(tr->ctx, &tr->lpips_file, path, NULL));
    return fv_perceptual_open(tr->ctx, &tr->lpips_net, tr->lpips_file);
}

static fv_status open_data(trainer *tr, fv_recipe *r, const char *data_dir)
{
    const bool has_held = tr->eval_pictures > 0;
    if (has_held)
        FV_TRY(fv_dataset_from_recipe(tr->ctx, &tr->held, r, data_dir, tr->eval_size,
                                      FV_SPLIT_HELDOUT));
    return fv_dataset_from_recipe(tr->ctx, &tr->data, r, data_dir, tr->crop,
                                  has_held ? FV_SPLIT_TRAIN : FV_SPLIT_ALL);
}

static fv_status read_run(trainer *tr, fv_recipe *r, const fv_trainer_options *o,
                          fv_train_options *t)
{
    const fv_trainer_size size = { tr->batch, tr->accumulate, tr->held != NULL, tr->seed };
    FV_TRY(fv_trainer_read(tr->ctx, r, o, &size, t));
    tr->steps = t->steps;
    fvi_vq_restarts_read(&tr->restarts, r, 12, t->steps);
    tr->restarts.batches *= tr->parts; /* all ranks look at the same pictures, all of them */
    return FV_OK;
}

static fv_status allocate(trainer *tr)
{
    const size_t D = (size_t)tr->cfg.code_width, V = (size_t)tr->cfg.codes;
    const size_t rows = tr->stage == TOKENIZER ? (size_t)tr->restarts.batches *
                        (size_t)tokens_of(tr, tr->batch, tr->crop) : 1;
    const size_t side = (size_t)tr->eval_size;
    bool is_full = true;
    for (int k = 0; k < 2; k++) {
        const size_t s = k ? 4 : 8, crop = (size_t)tr->crop / s, N = (size_t)tr->cfg.noise + 1;
        tr->noise[k] = fv_calloc(tr->ctx, (size_t)tr->batch * crop * crop * N, sizeof(float));
        tr->view_noise[k] = fv_calloc(tr->ctx, side / s * (side / s) * N, sizeof(float));
        is_full = is_full && tr->noise[k] && tr->view_noise[k];
    }
    tr->x = fv_calloc(tr->ctx, 3 * side * side, sizeof *tr->x);
    tr->latents = fv_calloc(tr->ctx, rows * D, sizeof *tr->latents);
    tr->kept = fv_calloc(tr->ctx, 4 * V * D, sizeof *tr->kept);
    tr->counts = fv_calloc(tr->ctx, V, sizeof *tr->counts);
    tr->labels = fv_calloc(tr->ctx, (size_t)tokens_of(tr, 1, tr->eval_size), sizeof *tr->labels);
    is_full = is_full && tr->x && tr->latents && tr->kept && tr->counts && tr->labels;
    return is_full ? rdvq_tables_create(tr->ctx, &tr->tables, &tr->net) : FV_ERR_OOM;
}

static bool is_transform(const char *name)
{
    static const char coders[2][24] = { RDVQ_PREFIX "encoder.", RDVQ_PREFIX "decoder." };
    return strncmp(name, coders[0], strlen(coders[0])) == 0 ||
           strncmp(name, coders[1], strlen(coders[1])) == 0;
}

/* The finest latents' width depends on the number of groups. */
static bool is_transform_of_any_groups(const char *name)
{
    return is_transform(name) && !strstr(name, "coder.latent.2");
}

/* Said by numbers before the first tensor of another shape is found. A tokenizer that makes its own
 * codebook takes the transforms alone. */
static fv_status load_init(void *user, const fv_model *m)
{
    trainer *tr = user;
    rdvq_config c;
    FV_TRY(rdvq_config_read(tr->ctx, m, &c));
    if (tr->stage == TOKENIZER && tr->kmeans_at > 0)
        return fv_params_load_some(tr->params, m, "", c.groups == tr->cfg.groups ?
                                   is_transform : is_transform_of_any_groups);
    if (c.codes != tr->cfg.codes || c.groups != tr->cfg.groups)
        return fv_fail(tr->ctx, FV_ERR_MODEL, "model: %d codes in %d groups, the recipe says %d in "
                       "%d", c.codes, c.groups, tr->cfg.codes, tr->cfg.groups);
    return fv_params_load(tr->params, m, "");
}

static fv_status start_net(trainer *tr, const char *init)
{
    static const unsigned frozen[] = { RDVQ_ENTROPY, RDVQ_TRANSFORMS | RDVQ_CODEBOOK,
                                       RDVQ_CODEBOOK };
    if (tr->stage != TOKENIZER && !init)
        return fv_fail(tr->ctx, FV_ERR_ARG, "training: this stage goes on from the model of the "
                       "one before: name it (--init)");
    FV_TRY(fv_params_create(tr->ctx, &tr->params));
    rdvq_net_add(&tr->net, tr->params, &tr->cfg, RDVQ_PREFIX, frozen[tr->stage]);
    fvi_adversary_add(&tr->adv, tr->params);
    FV_TRY(fv_params_alloc(tr->params));
    rdvq_net_init(&tr->net, tr->seed);
    fvi_adversary_init(&tr->adv, tr->seed);
    return fv_trainer_init(tr->ctx, init, load_init, tr);
}

static void trainer_free(void *state)
{
    trainer *tr = state;
    fv_plan **const plans[] = { &tr->plan, &tr->warm, &tr->look, &tr->view, &tr->price };
    fv_opt_destroy(&tr->opt);
    for (size_t i = 0; i < FV_ARRAY_LEN(plans); i++) fv_plan_destroy(plans[i]);
    fvi_adversary_free(&tr->adv);
    fv_perceptual_close(&tr->lpips_net);
    fv_model_close(&tr->lpips_file);
    fv_params_destroy(&tr->params);
    fv_dataset_close(&tr->data);
    fv_dataset_close(&tr->held);
    rdvq_tables_free(tr->ctx, &tr->tables);
    void *mem[] = { tr->x, tr->latents, tr->kept, tr->counts, tr->labels, tr->noise[0],
                    tr->noise[1], tr->view_noise[0], tr->view_noise[1] };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(tr->ctx, mem[i]);
}

static fv_status prepare(void *state, fv_recipe *r, const fv_trainer_options *o,
                         fv_train_options *t, fv_trainer_run *run)
{
    trainer *tr = state;
    FV_TRY(read_stage(tr, r));
    FV_TRY(read_numbers(tr, r));
    FV_TRY(read_config(tr, r));
    FV_TRY(fv_trainer_types(tr->ctx, r, "bf16", &tr->precision, &tr->export_type));
    FV_TRY(open_lpips(tr, r));
    FV_TRY(open_data(tr, r, o->data_dir));
    FV_TRY(read_run(tr, r, o, t));
    FV_TRY(start_net(tr, o->init));
    FV_TRY(fv_trainer_opt(tr->ctx, &tr->opt, tr->params, r));
    FV_TRY(allocate(tr));
    FV_TRY(build_plans(tr));
    tr->recipe_text = fv_recipe_text(r);
    *run = (fv_trainer_run){ tr->recipe_text, tr->params, tr->opt, tr->plan,
                             { tr, train_step, tr->held ? evaluate : NULL,
                               tr->held ? sample : NULL, export_model } };
    return FV_OK;
}

fv_status fv_rdvq_train(fv_ctx *ctx, fv_recipe *r, const fv_trainer_options *opts,
                        fv_train_result *result)
{
    trainer tr = { .ctx = ctx };
    const fv_training all = { "rdvq", true, &tr, prepare, trainer_free };
    return fv_trainer_train(ctx, &all, r, opts, result);
}
