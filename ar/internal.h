/* internal.h - shared by the .c files of ar/ only.
 *
 * Words: the *target* is the GPT that decides the picture, the *draft* head guesses ahead. A picture
 * is tokens = grid * grid codes in raster order; image position p is the p-th of them. In front
 * stand cond_tokens rows of condition. With guidance there are two *branches*, 0 with the condition
 * and 1 without; both always hold the same tokens, and their logits are combined before anything
 * else sees them. */
#ifndef FV_AR_INTERNAL_H
#define FV_AR_INTERNAL_H

#include "engine.h"

#define AR_MAX_LAYERS 256
#define AR_MAX_WIDTH 16384
#define AR_MAX_VOCAB 65536
#define AR_MAX_GRID 128
#define AR_MAX_COND 1024
#define AR_BRANCHES 2

/* ---- What a file holds (ar_config.c) --------------------------------------------------------- */

typedef struct gpt_config {
    int layers, heads, width, ffn; /* head size width / heads, a multiple of 4 */
    int vocab, grid;               /* codes; tokens of a picture = grid * grid */
    int classes;                   /* c2i: without the null class; 0: t2i      */
    int cond_tokens;               /* 1, or tokens of a caption (120)          */
    int caption_width;             /* t2i: of the text features (2048)         */
    float norm_eps, rope_theta;    /* 1e-5, 10000                              */
    float cfg, temperature, top_p; /* defaults of the model                    */
    int top_k;                     /* 0 = all                                  */
    int has_draft;                 /* tensors "draft." are there               */
    float draft_eps;
} gpt_config;

#define VQ_MAX_LEVELS 8
typedef struct vq_config {
    int stem;                      /* space-to-depth factor in front, 1 = none         */
    int channels, levels, mult[VQ_MAX_LEVELS]; /* width of level i: channels * mult[i] */
    int encoder_blocks, decoder_blocks;        /* residual blocks of a level           */
    int latent;                    /* z channels                                       */
    int codes, code_width;         /* codebook [codes, code_width], rows of length 1   */
    int has_attention;             /* at the lowest level and in the middle            */
} vq_config;

/* ---- Noise ----------------------------------------------------------------------------------- */

/* What a picture's draws depend on, and nothing else: not drafter, tree, batch or threads. */
typedef struct ar_noise {
    uint64_t seed;
    uint32_t image;
} ar_noise;

#endif
