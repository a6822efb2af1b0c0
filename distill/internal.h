/* internal.h - shared by the .c files of distill/ only. */
#ifndef FV_DISTILL_INTERNAL_H
#define FV_DISTILL_INTERNAL_H

#include "engine.h"
#include "fovea_distill.h"

/* Units of a block that stay: MLP channels or heads. */
typedef struct prune_units {
    int was, kept;
    int *index; /* [blocks kept][kept] ascending */
} prune_units;

struct fv_prune {
    fv_ctx *ctx;
    fv_prune_options o;      /* keep is not the caller's list: see block */
    fv_dit_sizes was, now;
    char was_name[32], name[32];
    uint8_t hash[32];        /* of the teacher */
    int *block;              /* [now.depth] */
    double *influence;       /* [was.depth] or NULL */
    prune_units hidden, heads;
    int64_t was_parameters, parameters;
};

/* ---- prune_slice.c: from plan to student ---------------------------------------------------- */
fv_status prune_net(fv_ctx *ctx, const fv_prune *p, const fv_dit_net *teacher, fv_dit_net **out);
/* Values of the student's own parameters; those with other names stay. After fv_params_alloc. */
fv_status prune_fill(fv_ctx *ctx, const fv_prune *p, const fv_model *file,
                     const fv_dit_net *teacher, fv_dit_net *student);
fv_status prune_meta(fv_ctx *ctx, const fv_prune *p, fv_meta *m);

/* ---- prune_samples.c: what the teacher makes of its own pictures ---------------------------- */
/* Mean cosine of input and output of each block, over tokens, rows and times: cosine [depth]. */
fv_status prune_cosines(fv_ctx *ctx, const fv_model *file, const fv_prune_options *o,
                        double *cosine);
/* Adds the gradients of the denoising loss to those of `net`, which has masters of the file. */
fv_status prune_gradients(fv_ctx *ctx, const fv_model *file, const fv_prune_options *o,
                          fv_dit_net *net);

/* ---- prune_width.c: which heads and channels ------------------------------------------------ */
/* Heads and MLP channels of `now`, of which this share stays. */
void prune_width_sizes(const fv_dit_sizes *was, double share, fv_dit_sizes *now);
fv_status prune_choose_width(fv_ctx *ctx, fv_prune *p, const fv_model *file);

/* ---- prune_plan.c --------------------------------------------------------------------------- */
/* Blocks kept by the uniform rule: block [kept] ascending, 1 <= kept <= depth. */
void prune_uniform(int depth, int kept, int *block);
/* The `kept` blocks that remain when those with the largest cosines go; of equal ones the later.
 * Cosines, and v below, must be finite: others have no order. */
void prune_by_cosine(const double *cosine, int depth, int kept, int *block);
/* Indices of the k largest of v [n], ascending; of equal ones the first. */
void prune_largest(const double *v, int n, int k, int *index);

#endif
