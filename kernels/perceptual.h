/* perceptual.h - private: sizes and layers of the perceptual distances, shared by perceptual.c and
 * perceptual_convert.c. */
#ifndef FV_PERCEPTUAL_H
#define FV_PERCEPTUAL_H

#include "engine.h"

#define FVI_PERCEPTUAL_VERSION 1
#define FVI_STAGES 5
#define FVI_MAX_FEATURE_LAYERS 13
#define FVI_MAX_FEATURE_WIDTH 4096

typedef struct fvi_feature_layer {
    int index;            /* torchvision's number */
    int stage, kernel, stride, pad;
} fvi_feature_layer;

typedef struct fvi_perceptual_config {
    bool is_dists, is_alex;
    int width[FVI_STAGES]; /* channels */
} fvi_perceptual_config;

int fvi_feature_layers(const fvi_perceptual_config *c, const fvi_feature_layer **out);
/* Channels that come into layer i. */
int fvi_feature_input(const fvi_perceptual_config *c, const fvi_feature_layer *layers, int i);
/* Channels of stage k of a distance; with DISTS stage 0 is the picture. */
int fvi_perceptual_stages(const fvi_perceptual_config *c);
int fvi_perceptual_width(const fvi_perceptual_config *c, int k);
/* Ranges of all numbers, and whether the two go together. */
fv_status fvi_perceptual_check(fv_ctx *ctx, const fvi_perceptual_config *c);

#endif
