/* internal.h - shared by the .c files of ar/ only.
 *
 * Words: the *target* is the GPT that decides the picture, the *draft* head guesses ahead. A
 * picture is tokens = grid * grid codes in raster order; image position p is the p-th of them. In
 * front stand cond_tokens rows of condition. With guidance there are two *branches*, 0 with the
 * condition and 1 without; both always hold the same tokens, and their logits are combined before
 * anything else sees them. */
#ifndef FV_AR_INTERNAL_H
#define FV_AR_INTERNAL_H

#include "engine.h"

#define AR_MAX_LAYERS 256
#define AR_MAX_WIDTH 16384
#define AR_MAX_VOCAB 65536
#define AR_MAX_GRID 128
#define AR_MAX_COND 1024
#define AR_MAX_CLASSES 1000000
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

FV_INLINE int gpt_tokens(const gpt_config *c) { return c->grid * c->grid; }
FV_INLINE int gpt_head(const gpt_config *c) { return c->width / c->heads; }
/* Pixels of a side of a code. */
FV_INLINE int vq_factor(const vq_config *c) { return c->stem << (c->levels - 1); }

/* Metadata: of a draft head, all that begins so; measured methods. Both go when the draft goes. */
#define AR_DRAFT_KEYS "fovea.draft."
#define AR_POINTS_KEY "fovea.ar.points"

/* One file: a GPT, a tokenizer or both. */
typedef struct ar_config {
    char name[64];
    int has_gpt, has_vq;
    gpt_config gpt;
    vq_config vq;
    /* In front of the parts' tensor names: "gpt.", "draft.", "vq." in our files. Static text. */
    const char *gpt_prefix, *draft_prefix, *vq_prefix;
} ar_config;

/* What a model file holds: by metadata, or by the shapes of an official LlamaGen file. Every number
 * is checked. FV_ERR_MODEL for a file of another kind or layout. */
fv_status ar_config_read(fv_ctx *ctx, const fv_model *m, ar_config *out);
/* ar-nano ar-xs ar-s ar-s24 ar-m; GPT-{B,L,XL,XXL,3B}[-t2i][/256,/384,/512] (default 384, t2i 256);
 * vq-s8 vq-m8 VQ-16 VQ-8 (a tokenizer alone). */
fv_status ar_preset(fv_ctx *ctx, const char *name, int classes, ar_config *out);
/* Metadata that ar_config_read understands; free it with fv_meta_free. */
fv_status ar_config_meta(fv_ctx *ctx, const ar_config *c, fv_meta *out);
/* Every number in range, sizes consistent, products far from overflow. */
fv_status gpt_config_check(fv_ctx *ctx, const gpt_config *c);
fv_status vq_config_check(fv_ctx *ctx, const vq_config *c);

/* ---- Noise ----------------------------------------------------------------------------------- */

/* What a picture's draws depend on, and nothing else: not drafter, tree, batch or threads. */
typedef struct ar_noise {
    uint64_t seed;
    uint32_t image;
} ar_noise;

#endif
