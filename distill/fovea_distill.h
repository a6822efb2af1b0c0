/* fovea_distill.h - smaller students of diffusion transformers: pruning, knowledge distillation.
 *
 * A student that keeps four of the teacher's blocks, and half of their heads and MLP channels:
 *
 *     fv_prune_options o = FV_PRUNE_OPTIONS_INIT;
 *     fv_prune *plan;
 *     o.blocks = 4;
 *     o.width = 0.5;
 *     if (fv_prune_create(ctx, &plan, teacher, &o) == FV_OK)
 *         fv_prune_write(ctx, plan, teacher, FV_BF16, "student.safetensors", 0);
 *
 * The result is a model file like any other (fv_dit_open, gen). It lacks what was cut out until it
 * is trained: fv_distill_train does that with the teacher's help, and makes its students itself. */
#ifndef FOVEA_DISTILL_H
#define FOVEA_DISTILL_H

#include "fovea_diffusion.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Pruning --------------------------------------------------------------------------------- */

typedef enum fv_prune_depth {
    FV_PRUNE_UNIFORM = 0, /* of groups of neighbours the first in the first half of the blocks, the
                             last in the second [BK-SDM, Kim et al. 2024, on a transformer]      */
    FV_PRUNE_SHORTGPT,    /* those that turn the residual stream most [Men et al. 2024]: those with
                             the largest mean cosine of input and output go, never the last      */
    FV_PRUNE_LEARNED      /* those without which the network learns worst to do as the teacher does:
                             masks of groups of blocks, trained with the weights [TinyFusion, Fang et
                             al. 2025]; minutes                                                  */
} fv_prune_depth;

typedef enum fv_prune_width {
    FV_PRUNE_MAGNITUDE = 0, /* sum of squared weights                                        */
    FV_PRUNE_DIFF           /* sum of (weight * gradient)^2 [Diff-Pruning, Fang et al. 2023] */
} fv_prune_width;

typedef struct fv_prune_options {
    size_t struct_size;
    int blocks;              /* kept; 0 = all                                                    */
    const int *keep;         /* [keep_count] these instead, ascending, from 0; NULL = by method  */
    int keep_count;
    fv_prune_depth depth;
    double width;            /* share of the heads and of the MLP's channels of each block that is
                                kept, channels by sixteens; 0 = all                              */
    fv_prune_width importance;
    int samples;             /* that SHORTGPT, LEARNED and DIFF look at, drawn by the teacher; 0 = 32,
                                for LEARNED 128                                                  */
    uint64_t seed;           /* of these; 0 = 1                                                  */
    int steps;               /* of LEARNED, 8 rows each; 0 = 400                                 */
} fv_prune_options;
#define FV_PRUNE_OPTIONS_INIT { .struct_size = sizeof(fv_prune_options) }

/* What stays of a model. Belongs to its context. */
typedef struct fv_prune fv_prune;

/* Decides. SHORTGPT runs the teacher, DIFF also backwards: that takes eight bytes for each of its
 * parameters, as MAGNITUDE does, LEARNED sixteen and the stream of every block for eight rows.
 * FV_ERR_ARG: options out of range, or that keep everything; FV_ERR_MODEL: no diffusion transformer;
 * FV_ERR_NUMERIC: what it measures is not finite; FV_ERR_CANCELLED. Not thread-safe. The same for any
 * number of threads, LEARNED and DIFF but for rounding. */
FV_API FV_NODISCARD fv_status fv_prune_create(fv_ctx *ctx, fv_prune **out, const fv_model *teacher,
                                              const fv_prune_options *opts);
FV_API void fv_prune_free(fv_prune **p);

typedef struct fv_prune_info {
    int depth, blocks;        /* of the teacher; kept                                            */
    const int *block;         /* [blocks] ascending                                              */
    const double *influence;  /* [depth] 1 - mean cosine of a block's input and output, LEARNED: the
                                 probability that it stays; NULL: not measured                   */
    int was_heads, heads, was_hidden, hidden;
    int64_t was_parameters, parameters;
} fv_prune_info;
/* What it points to is the plan's. */
FV_API void fv_prune_get_info(const fv_prune *p, fv_prune_info *out);

/* Writes the student: tensors of the teacher, cut; matrices as `type` (FV_F32, FV_BF16, FV_I8).
 * teacher: the model that the plan is of, else FV_ERR_MODEL; its autoencoder goes along. Metadata
 * fovea.prune.* say where it comes from. */
FV_API FV_NODISCARD fv_status fv_prune_write(fv_ctx *ctx, const fv_prune *p,
                                             const fv_model *teacher, fv_dtype type,
                                             const char *path, int overwrite);

/* ---- Distillation ---------------------------------------------------------------------------- */

typedef struct fv_distill_options {
    size_t struct_size;
    const fv_model *teacher; /* needed                                                         */
    const fv_model *student; /* where to start from; NULL = as the recipe says: a pruned teacher
                                (prune_*), or random weights of other sizes (student_*)          */
    fv_trainer_options trainer; /* as of the other trainers; init and start_step are not taken */
    const fv_model *vae;     /* of an official DiT: the autoencoder that makes latents of the pictures;
                                NULL = that in the teacher's file, if it encodes               */
} fv_distill_options;
#define FV_DISTILL_OPTIONS_INIT                                                                    \
    { .struct_size = sizeof(fv_distill_options), .trainer = FV_TRAINER_OPTIONS_INIT }

/* `fovea distill`: trains a student on pictures, and on what the frozen teacher makes of the same
 * states. distill/distill_train.c lists the recipe's keys; without `data` those of the recipe in
 * the teacher's file are taken over. The metric is the held-out error of the velocity, as of
 * fv_dit_train, of official DiTs that of the noise. Resumes exactly, with the same models only. They
 * must stay open during the call. FV_ERR_MODEL: a latent teacher without an autoencoder that encodes. */
FV_API FV_NODISCARD fv_status fv_distill_train(fv_ctx *ctx, fv_recipe *recipe,
                                               const fv_distill_options *o,
                                               fv_train_result *result);

#ifdef __cplusplus
}
#endif
#endif
