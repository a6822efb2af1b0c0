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
 * discriminator, and the discriminator's own step. */
typedef struct fvi_gan fvi_gan;
fv_status fvi_gan_create(fv_ctx *ctx, fvi_gan **out, const fvi_gan_net *n, const int64_t image[4],
                         fv_dtype precision);
void fvi_gan_destroy(fvi_gan **g);
/* *gradient: d(- mean D(fake)) / d fake, as large as fake; valid until the next call. No gradient
 * is added to any parameter. */
fv_status fvi_gan_pull(fvi_gan *g, const float *fake, const float **gradient);
/* The discriminator's hinge loss; its gradient times scale is added to its parameters. */
fv_status fvi_gan_learn(fvi_gan *g, const float *real, const float *fake, float scale,
                        double *loss);

/* Weight that makes the pull on the generator's last layer as strong as that of the other losses
 * [Esser et al. 2021]: |other| / (|pull| + 1e-4), at most 1e4; 0 where either is no number. */
double fvi_gan_weight(const float *other, const float *pull, int64_t n);

#endif
