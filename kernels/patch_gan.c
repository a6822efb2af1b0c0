/* patch_gan.c - a discriminator that judges patches [PatchGAN, Isola et al. 2017] with the hinge
 * loss, GroupNorm in place of BatchNorm: a picture's verdict does not depend on its batch.
 *
 * A generator's own tape does not hold the discriminator. Its pictures y go through a second plan,
 * whose gradient to y is added to the generator's loss as the linear term mean(y u) with u as an
 * input. So one backward of each network is enough, and the weight of the term can be set between
 * them. The discriminator's parameters stand in the generator's fv_params, so that one optimiser
 * and one checkpoint serve both; what fooling it would do to them is taken back at once.
 *
 * On a device pictures, u and gradients stay in its memory. The host, which decides how much each
 * counts, reads the numbers for that: two norms, and losses. */
#include "patch_gan.h"

#include <math.h>
#include <string.h>

#include "backend.h"
#include "vq_train.h"

#define GROUPS 8
#define NORM_EPS 1e-5f
#define MAX_WEIGHT 1e4

struct fvi_gan {
    fv_ctx *ctx;
    const fvi_gan_net *net;
    fv_plan *pull, *learn;
    float match;
    float *kept; /* the discriminator's gradients, while they are not to change */
};

/* ---- Network --------------------------------------------------------------------------------- */

static int64_t width_of(const fvi_gan_net *n, int k)
{
    return (int64_t)n->channels << (k < 3 ? k : 3);
}

void fvi_gan_add(fvi_gan_net *n, fv_params *params, const char *prefix)
{
    n->params = params;
    n->first = fv_params_count(params);
    for (int k = 0; k < n->layers + 2; k++) {
        const bool is_last = k == n->layers + 1, has_norm = k > 0 && !is_last;
        const int64_t out = is_last ? 1 : width_of(n, k), in = k ? width_of(n, k - 1) : n->in;
        const int64_t dim[4] = { out, in, 4, 4 };
        char name[96];
        snprintf(name, sizeof name, "%sconv.%d.weight", prefix, k);
        n->conv[k] = fv_params_add(params, name, 4, dim, FV_PARAM_DECAY | FV_PARAM_TRAINER);
        snprintf(name, sizeof name, "%sconv.%d.bias", prefix, k);
        n->bias[k] = n->last = fv_params_add(params, name, 1, &out, FV_PARAM_TRAINER);
        n->norm_w[k] = n->norm_b[k] = -1;
        if (!has_norm) continue;
        snprintf(name, sizeof name, "%snorm.%d.weight", prefix, k);
        n->norm_w[k] = fv_params_add(params, name, 1, &out, FV_PARAM_TRAINER);
        snprintf(name, sizeof name, "%snorm.%d.bias", prefix, k);
        n->norm_b[k] = n->last = fv_params_add(params, name, 1, &out, FV_PARAM_TRAINER);
    }
}

void fvi_gan_init(const fvi_gan_net *n, uint64_t seed)
{
    for (int k = 0; k < n->layers + 2; k++) {
        const fv_tensor w = fv_params_tensor(n->params, n->conv[k]);
        const double fan_in = (double)(16 * w.dim[1]);
        fv_params_init_normal(n->params, n->conv[k], seed, (float)sqrt(1.0 / fan_in));
        fv_params_fill(n->params, n->bias[k], 0.0f);
        if (n->norm_w[k] < 0) continue;
        fv_params_fill(n->params, n->norm_w[k], 1.0f);
        fv_params_fill(n->params, n->norm_b[k], 0.0f);
    }
}

/* features: what comes out of all layers but the last. */
static fv_t judge(fv_tape *t, const fvi_gan_net *n, fv_t x, fv_t *features)
{
    for (int k = 0; k < n->layers + 2; k++) {
        const bool is_last = k == n->layers + 1;
        const fv_conv c = { k < n->layers ? 2 : 1, 1, 1, 1, 1, FV_ACT_NONE };
        x = fv_conv2d_as(t, x, n->conv[k], n->bias[k], c, is_last ? FV_F32 : fv_tape_precision(t));
        if (n->norm_w[k] >= 0)
            x = fv_groupnorm(t, x, fv_param(t, n->norm_w[k]), fv_param(t, n->norm_b[k]), GROUPS,
                             NORM_EPS, FV_ACT_NONE);
        if (!is_last) features[k] = x = fv_activate(t, x, FV_ACT_LRELU);
    }
    return x;
}

fv_t fvi_gan_logits(fv_tape *t, const fvi_gan_net *n, fv_t x)
{
    fv_t features[FVI_GAN_MAX_LAYERS + 1];
    return judge(t, n, x, features);
}

/* ---- Losses ---------------------------------------------------------------------------------- */

fv_t fvi_gan_hinge(fv_tape *t, fv_t real, fv_t fake)
{
    const fv_t a = fv_activate(t, fv_affine(t, real, -1.0f, 1.0f), FV_ACT_RELU);
    const fv_t b = fv_activate(t, fv_affine(t, fake, 1.0f, 1.0f), FV_ACT_RELU);
    return fv_binary_op(t, FV_ADD, fvi_loss_mean(t, a, 0.5f), fvi_loss_mean(t, b, 0.5f));
}

fv_t fvi_gan_fool(fv_tape *t, fv_t fake) { return fvi_loss_mean(t, fake, -1.0f); }

/* Sums of squares of both, on a device by its own sums. */
static fv_status squares(fv_ctx *ctx, const float *other, const float *pull, int64_t n, void *work,
                         double sum[2])
{
    const fvi_device_optim *device = ctx->backend->optim;
    sum[0] = sum[1] = 0;
    for (int64_t i = 0; i < n && !device; i++) {
        sum[0] += (double)other[i] * other[i];
        sum[1] += (double)pull[i] * pull[i];
    }
    if (!device) return FV_OK;
    FV_TRY(device->norm(ctx, other, n, work, &sum[0]));
    FV_TRY(device->norm(ctx, pull, n, work, &sum[1]));
    sum[0] *= sum[0];
    sum[1] *= sum[1];
    return FV_OK;
}

fv_status fvi_gan_weight(fv_ctx *ctx, const float *other, const float *pull, int64_t n, void *work,
                         double *weight)
{
    double sum[3] = { 0, 0, 1 };
    FV_TRY(squares(ctx, other, pull, n, work, sum));
    FV_TRY(fvi_sum_ranks(ctx, sum, 3));
    /* Both are gradients of means over a rank's part of the batch. */
    const double w = sqrt(sum[0]) / sum[2] / (sqrt(sum[1]) / sum[2] + 1e-4);
    *weight = !isfinite(w) ? 0 : w < MAX_WEIGHT ? w : MAX_WEIGHT;
    return FV_OK;
}

/* ---- Plans ----------------------------------------------------------------------------------- */

static fv_t pull_loss(const fvi_gan *g, fv_tape *t, const int64_t image[4])
{
    fv_t f[FVI_GAN_MAX_LAYERS + 1], r[FVI_GAN_MAX_LAYERS + 1];
    const int layers = g->net->layers + 1;
    const fv_t fake = fv_input_grad(t, "fake", FV_F32, 4, image);
    fv_t loss = fvi_gan_fool(t, judge(t, g->net, fake, f));
    if (!(g->match > 0)) return loss;
    (void)judge(t, g->net, fv_input(t, "real", FV_F32, 4, image), r);
    for (int k = 0; k < layers; k++) {
        const fv_t apart = fv_loss_l1(t, f[k], fv_detach(t, r[k]));
        loss = fv_binary_op(t, FV_ADD, loss, fv_affine(t, apart, g->match / (float)layers, 0));
    }
    return loss;
}

static fv_status build(fvi_gan *g, const int64_t image[4], fv_dtype precision, bool learn)
{
    fv_tape *t;
    FV_TRY(fv_tape_create(g->ctx, &t, g->net->params, FV_TRAIN, precision));
    if (learn) {
        const fv_t real = fvi_gan_logits(t, g->net, fv_input(t, "real", FV_F32, 4, image));
        const fv_t fake = fvi_gan_logits(t, g->net, fv_input(t, "fake", FV_F32, 4, image));
        fv_output(t, "loss", fvi_gan_hinge(t, real, fake));
    } else {
        fv_output(t, "loss", pull_loss(g, t, image));
    }
    return fv_plan_finish(g->ctx, learn ? &g->learn : &g->pull, &t, NULL);
}

static int64_t gradient_count(const fvi_gan_net *n)
{
    const fv_tensor t = fv_params_tensor(n->params, n->last);
    return fvi_param_offset(n->params, n->last) + fv_tensor_count(&t) -
           fvi_param_offset(n->params, n->first);
}

fv_status fvi_gan_create(fv_ctx *ctx, fvi_gan **out, const fvi_gan_net *n, const int64_t image[4],
                         float match, fv_dtype precision)
{
    *out = NULL;
    fvi_gan *g = fv_calloc(ctx, 1, sizeof *g);
    if (!g) return FV_ERR_OOM;
    fv_status s = FV_OK;
    g->ctx = ctx;
    g->net = n;
    g->match = match;
    FV_TRY_GOTO(build(g, image, precision, false));
    FV_TRY_GOTO(build(g, image, precision, true));
    g->kept = fv_dev_alloc(ctx, (size_t)gradient_count(n), sizeof *g->kept);
    if (!g->kept) FV_TRY_GOTO(FV_ERR_OOM);
    *out = g;
    return FV_OK;
fail:
    fvi_gan_destroy(&g);
    return s;
}

void fvi_gan_destroy(fvi_gan **gg)
{
    if (!gg || !*gg) return;
    fvi_gan *g = *gg;
    *gg = NULL;
    fv_plan_destroy(&g->pull);
    fv_plan_destroy(&g->learn);
    fv_dev_free(g->ctx, g->kept);
    fv_free(g->ctx, g);
}

fv_status fvi_gan_pull(fvi_gan *g, const float *real, const float *fake, const float **gradient)
{
    const size_t bytes = (size_t)gradient_count(g->net) * sizeof(float);
    float *own = fvi_params_grad_flat(g->net->params) +
                 fvi_param_offset(g->net->params, g->net->first);
    *gradient = NULL;
    FV_TRY(fv_plan_bind(g->pull, "fake", (void *)(uintptr_t)fake));
    if (g->match > 0) FV_TRY(fv_plan_bind(g->pull, "real", (void *)(uintptr_t)real));
    FV_TRY(fv_plan_forward(g->pull));
    FV_TRY(fv_dev_copy(g->ctx, g->kept, own, bytes, FV_COPY_ON_DEVICE));
    fv_status s = fv_plan_backward(g->pull, "loss", 1.0f);
    const fv_status back = fv_dev_copy(g->ctx, own, g->kept, bytes, FV_COPY_ON_DEVICE);
    if (s == FV_OK) s = back;
    if (s == FV_OK) *gradient = fv_plan_grad(g->pull, "fake").data;
    return s;
}

fv_status fvi_gan_learn(fvi_gan *g, const float *real, const float *fake, float scale,
                        double *loss)
{
    FV_TRY(fv_plan_bind(g->learn, "real", (void *)(uintptr_t)real));
    FV_TRY(fv_plan_bind(g->learn, "fake", (void *)(uintptr_t)fake));
    FV_TRY(fv_plan_forward(g->learn));
    FV_TRY(fv_plan_backward(g->learn, "loss", scale));
    return fv_plan_number(g->learn, "loss", loss);
}

fv_status fvi_gan_scale(fv_ctx *ctx, const float *pull, int64_t n, float scale, float *u)
{
    const fvi_device_optim *device = ctx->backend->optim;
    if (device) return device->scale(ctx, pull, n, scale, false, u);
    for (int64_t i = 0; i < n; i++) u[i] = scale * pull[i];
    return FV_OK;
}

/* ---- Beside an image loss -------------------------------------------------------------------- */

void fvi_adversary_read(fvi_adversary *a, fv_recipe *r)
{
    a->weight = (float)fv_recipe_number(r, "gan", 0, 0, 1000);
    if (!(a->weight > 0)) return;
    a->from = fv_recipe_number(r, "gan_from", 0.75, 0, 1);
    /* A checkpoint holds its recipe's text: those from before this key go on only without it. */
    if (fv_recipe_string(r, "gan_match", NULL))
        a->match = (float)fv_recipe_number(r, "gan_match", 0, 0, 1000);
    a->net.in = 3;
    a->net.channels = (int)fv_recipe_int(r, "gan_channels", 32, 8, 1024) / 8 * 8;
    a->net.layers = (int)fv_recipe_int(r, "gan_layers", 2, 1, FVI_GAN_MAX_LAYERS);
}

void fvi_adversary_add(fvi_adversary *a, fv_params *params)
{
    if (a->weight > 0) fvi_gan_add(&a->net, params, "gan.");
}

void fvi_adversary_init(const fvi_adversary *a, uint64_t seed)
{
    if (a->weight > 0) fvi_gan_init(&a->net, seed);
}

fv_status fvi_adversary_create(fv_ctx *ctx, fvi_adversary *a, const int64_t image[4],
                               fv_dtype precision, const fvi_image_term *loss, fv_plan *plan)
{
    fv_tape *t;
    if (!(a->weight > 0) && !loss->params) return FV_OK;
    a->ctx = ctx;
    a->n = image[0] * image[1] * image[2] * image[3];
    FV_TRY(fv_tape_create(ctx, &t, loss->params, FV_TRAIN, loss->params ? precision : FV_F32));
    const fv_t x = fv_input(t, "x", FV_F32, 4, image), y = fv_input_grad(t, "y", FV_F32, 4, image);
    fv_output(t, "loss", loss->build(loss->user, t, y, x));
    FV_TRY(fv_plan_finish(ctx, &a->image, &t, NULL));
    const fvi_device_optim *device = ctx->backend->optim;
    a->u = fv_dev_alloc(ctx, (size_t)a->n, sizeof *a->u);
    if (device) a->work = fv_dev_alloc(ctx, device->work_bytes(a->n), 1);
    if (!a->u || (device && !a->work)) return FV_ERR_OOM;
    FV_TRY(fv_plan_bind(plan, "u", a->u));
    if (a->weight <= 0) return FV_OK;
    return fvi_gan_create(ctx, &a->gan, &a->net, image, a->match, precision);
}

/* u = n (want + weight pull): n, since the tape takes the mean of y u. pull NULL: none. */
static fv_status set_u(const fvi_adversary *a, const float *want, double weight, const float *pull)
{
    const fvi_device_optim *device = a->ctx->backend->optim;
    const double n = (double)a->n;
    if (device) {
        FV_TRY(device->scale(a->ctx, want, a->n, (float)n, false, a->u));
        return pull ? device->scale(a->ctx, pull, a->n, (float)(n * weight), true, a->u) : FV_OK;
    }
    for (int64_t i = 0; i < a->n; i++)
        a->u[i] = (float)(n * (want[i] + (pull ? weight * pull[i] : 0)));
    return FV_OK;
}

/* What the losses want of y, into u; *loss: the image loss. */
static fv_status want_of_pictures(fvi_adversary *a, const float *x, const float *y, bool is_on,
                                  double *loss)
{
    const float *pull = NULL;
    FV_TRY(fv_plan_bind(a->image, "x", (void *)(uintptr_t)x));
    FV_TRY(fv_plan_bind(a->image, "y", (void *)(uintptr_t)y));
    FV_TRY(fv_plan_forward(a->image));
    FV_TRY(fv_plan_backward(a->image, "loss", 1.0f));
    FV_TRY(fv_plan_number(a->image, "loss", loss));
    const float *want = fv_plan_grad(a->image, "y").data;
    if (is_on) FV_TRY(fvi_gan_pull(a->gan, x, y, &pull));
    double weight = 0;
    if (is_on) FV_TRY(fvi_gan_weight(a->ctx, want, pull, a->n, a->work, &weight));
    return set_u(a, want, weight * a->weight, pull);
}

fv_status fvi_adversary_step(fvi_adversary *a, fv_plan *plan, const float *x, double share,
                             float scale, double *loss)
{
    const bool is_on = a->weight > 0 && share >= a->from;
    double image = 0, rest = 0, verdict = 0;
    FV_TRY(fv_dev_zero(a->ctx, a->u, (size_t)a->n * sizeof *a->u));
    FV_TRY(fv_plan_feed(plan, "x", x));
    FV_TRY(fv_plan_forward(plan));
    FV_TRY(fv_plan_number(plan, "loss", &rest)); /* with u = 0: all but the image loss */
    const float *y = fv_plan_value(plan, "y").data;
    x = fv_plan_value(plan, "x").data; /* where the plan reads them */
    FV_TRY(want_of_pictures(a, x, y, is_on, &image));
    *loss = image + rest;
    FV_TRY(fv_plan_backward(plan, "loss", scale));
    return is_on ? fvi_gan_learn(a->gan, x, y, scale, &verdict) : FV_OK;
}

void fvi_adversary_free(fvi_adversary *a)
{
    fv_plan_destroy(&a->image);
    fvi_gan_destroy(&a->gan);
    if (a->ctx) fv_dev_free(a->ctx, a->u);
    if (a->ctx) fv_dev_free(a->ctx, a->work);
    a->u = NULL;
    a->work = NULL;
}
