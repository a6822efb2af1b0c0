/* patch_gan.h - private: a discriminator of patches, its hinge losses, and what a trainer of
 * pictures needs around them (patch_gan.c). */
#ifndef FV_PATCH_GAN_H
#define FV_PATCH_GAN_H

#include "engine.h"

#define FVI_GAN_MAX_LAYERS 6

/* Convolutions 4x4 with LeakyReLU 0.2: `layers` of stride 2, the k-th with channels * 2^k (at most
 * 8 times as many), then one of stride 1, then one to a single number a patch. GroupNorm behind all
 * but the first and the last. */
typedef struct fvi_gan_net {
    int in, channels, layers;
    fv_params *params;
    fv_pid first, last; /* parameters, all in a row */
    fv_pid conv[FVI_GAN_MAX_LAYERS + 2], bias[FVI_GAN_MAX_LAYERS + 2];
    fv_pid norm_w[FVI_GAN_MAX_LAYERS + 2], norm_b[FVI_GAN_MAX_LAYERS + 2];
} fvi_gan_net;

/* Registers the parameters under `prefix`; they are FV_PARAM_TRAINER: in checkpoints, not in
 * exported models. in: channels of a picture; channels a multiple of 8; layers 1 to 6. */
void fvi_gan_add(fvi_gan_net *n, fv_params *params, const char *prefix);
void fvi_gan_init(const fvi_gan_net *n, uint64_t seed);
/* x [B, H, W, in], sides of at least 2^layers * 3 -> one number a patch, f32 [B, h, w, 1]: large
 * for real. */
fv_t fvi_gan_logits(fv_tape *t, const fvi_gan_net *n, fv_t x);
/* Scalars. (mean relu(1 - real) + mean relu(1 + fake)) / 2, and - mean fake [Lim & Ye 2017]. */
fv_t fvi_gan_hinge(fv_tape *t, fv_t real, fv_t fake);
fv_t fvi_gan_fool(fv_tape *t, fv_t fake);

/* ---- In a training step ---------------------------------------------------------------------- */

/* Two plans over one batch: how the pictures of a generator should change to fool the
 * discriminator, and the discriminator's own step. match: weight of feature matching beside
 * fooling, the mean over layers of mean |features(fake) - features(real)| [Wang et al. 2018]. */
typedef struct fvi_gan fvi_gan;
fv_status fvi_gan_create(fv_ctx *ctx, fvi_gan **out, const fvi_gan_net *n, const int64_t image[4],
                         float match, fv_dtype precision);
void fvi_gan_destroy(fvi_gan **g);
/* *gradient: d(- mean D(fake) + match * ...) / d fake, as large as fake; valid until the next call.
 * No gradient is added to any parameter. real: may be NULL without feature matching. Pictures and
 * gradient are where plans read: on a device in its memory. */
fv_status fvi_gan_pull(fvi_gan *g, const float *real, const float *fake, const float **gradient);
/* The discriminator's hinge loss; its gradient times scale is added to its parameters. */
fv_status fvi_gan_learn(fvi_gan *g, const float *real, const float *fake, float scale,
                        double *loss);

/* u = scale * pull [n], in the same memory. */
fv_status fvi_gan_scale(fv_ctx *ctx, const float *pull, int64_t n, float scale, float *u);

/* Weight that makes the pull on the generator's last layer as strong as that of the other losses
 * [Esser et al. 2021]: |other| / (|pull| + 1e-4), at most 1e4; 0 where either is no number. Over
 * all ranks of the context, which must all get here. work: of a device, as its norms need it. */
fv_status fvi_gan_weight(fv_ctx *ctx, const float *other, const float *pull, int64_t n, void *work,
                         double *weight);

/* ---- Beside an image loss -------------------------------------------------------------------- */

/* What a trainer of pictures holds. Its own plan has inputs "x", the pictures, and "u", as large,
 * and outputs "y", what it makes of them, and "loss", which has the term fvi_loss_dot(y, u) in
 * place of the image loss. */
typedef struct fvi_adversary {
    float weight, match; /* weight 0: none, and the rest is unused */
    double from;         /* share of the run before it joins in */
    fvi_gan_net net;
    fvi_gan *gan;
    fv_plan *image;      /* image loss and its gradient to y */
    float *u;            /* where plans read; also without a discriminator, where the image loss stands
                          * apart */
    int64_t n;
    void *work;          /* on a device: for norms */
    fv_ctx *ctx;
} fvi_adversary;
typedef struct fvi_image_term { /* the image loss, between y and the target */
    fv_t (*build)(const void *user, fv_tape *t, fv_t y, fv_t target);
    const void *user;
    fv_params *params; /* that it reads, frozen; NULL: none */
} fvi_image_term;
/* Keys gan, gan_from, gan_channels, gan_layers and gan_match of a recipe. */
void fvi_adversary_read(fvi_adversary *a, fv_recipe *r);
void fvi_adversary_add(fvi_adversary *a, fv_params *params);
void fvi_adversary_init(const fvi_adversary *a, uint64_t seed);
/* Its plans for batches of that size, and "u" of the trainer's plan. With weight 0 the image loss
 * alone, whose parameters are then not the trainer's. */
fv_status fvi_adversary_create(fv_ctx *ctx, fvi_adversary *a, const int64_t image[4],
                               fv_dtype precision, const fvi_image_term *loss, fv_plan *plan);
/* Forward and backward of the trainer's plan, and of the discriminator from its time on. x: pictures on
 * the host. *loss is what it would be without one. share: of the run that is over. */
fv_status fvi_adversary_step(fvi_adversary *a, fv_plan *plan, const float *x, double share,
                             float scale, double *loss);
void fvi_adversary_free(fvi_adversary *a);

#endif
