/* rdvq_pixels.h - private: a picture to latents and their nearest codes, and tokens to a picture,
 * by own models (local operations only), in as much memory as the caller allows. */
#ifndef FV_RDVQ_PIXELS_H
#define FV_RDVQ_PIXELS_H

#include "rdvq.h"

/* Transforms and codebook. Immutable after open but for the packing of weights, which is locked:
 * any number of threads and contexts. Memory belongs to ctx. */
typedef struct rdvq_pixels {
    fv_ctx *ctx;
    rdvq_net net;
    fv_params *params;
    float *codes;        /* [codes, code_width], unit length */
    float *length;       /* [codes]: 1 / length of the codebook's rows */
    int reach_in;        /* latents of scale 0 beyond which analysis sees nothing */
    int reach_out;       /* and synthesis */
} rdvq_pixels;

/* m must outlive the result. FV_ERR_MODEL: tensors missing or of other shapes. FV_ERR_UNSUPPORTED:
 * an official model, whose norms see the whole picture. */
fv_status rdvq_pixels_open(fv_ctx *ctx, rdvq_pixels **out, const fv_model *m);
void rdvq_pixels_close(rdvq_pixels **p);

/* Maps of a picture: token (row, column) of layer k is number first[k] + row * width + column. */
typedef struct rdvq_map {
    int layers;
    int64_t first[RDVQ_MAX_LAYERS + 1];
    int width[RDVQ_MAX_LAYERS], height[RDVQ_MAX_LAYERS];
} rdvq_map;
void rdvq_map_of(const rdvq_grid *g, const rdvq_slices *s, rdvq_map *out);

/* What running cost: added to; memory: the most. */
typedef struct rdvq_work { double seconds, flop; uint64_t memory; } rdvq_work;

#define RDVQ_NEAREST FVI_VQ_LARGEST
/* The codes nearest to each token's latent, the nearest first, and half their squared distance. */
typedef struct rdvq_nearest {
    int count;           /* of each token, at most RDVQ_NEAREST */
    uint16_t *code;      /* [tokens, count] */
    float *distance;     /* [tokens, count] */
} rdvq_nearest;
/* budget: bytes for activations. FV_ERR_OOM: not even the smallest region fits. */
fv_status rdvq_analyse_picture(fv_ctx *ctx, const rdvq_pixels *p, const fv_image *img,
                               uint64_t budget, rdvq_nearest *out, rdvq_work *work);
void rdvq_nearest_free(fv_ctx *ctx, rdvq_nearest *n);

/* Picture from tokens, of the part that begins at (x, y) and is as large as `out`, which has 1..4
 * channels (alpha is left alone). Tokens further away than rdvq_reach says are not read. */
typedef struct rdvq_paint {
    const rdvq_grid *grid;
    const uint16_t *token; /* by rdvq_map */
    uint32_t seed;         /* of the noise channels */
    int x, y;
    uint64_t budget;
    int bits;              /* of a channel, to which it is dithered; 8 in pictures of 8 bits */
} rdvq_paint;
fv_status rdvq_paint_picture(fv_ctx *ctx, const rdvq_pixels *p, const rdvq_paint *how,
                             fv_image *out, rdvq_work *work);
/* Rectangle of latents of scale 0 (x, y, width, height) that the pixels of `part` depend on. */
void rdvq_reach(const rdvq_pixels *p, const rdvq_grid *g, const int part[4], int out[4]);

/* A memory estimate from the sides alone, not less than the smallest budget that works. */
uint64_t rdvq_pixels_least(const rdvq_pixels *p, const rdvq_grid *g);

#endif
