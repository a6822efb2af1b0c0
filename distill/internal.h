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
/* What the metadata fovea.prune.* of a student's file say; then those of a file that has them. */
fv_status prune_meta(fv_ctx *ctx, const fv_prune *p, fv_meta *m);
fv_status prune_meta_of(fv_ctx *ctx, const fv_model *file, fv_meta *m);

/* ---- prune_samples.c: what the teacher makes of its own pictures ---------------------------- */
#define PRUNE_ROWS 8 /* of a batch */
/* Pictures that the teacher drew, and batches of them at random times. */
typedef struct prune_samples {
    fv_ctx *ctx;
    fv_dit_net *net;
    fv_dit_sizes size;
    fv_dit_draw draw;
    fv_dit_batch batch;
    float *x;            /* [padded][values] */
    int *class_of;       /* [padded] */
    int32_t *label;      /* [padded] */
    int count, padded;   /* a multiple of PRUNE_ROWS: the first ones again */
} prune_samples;
/* net: of the file's sizes; stays the caller's. Accepts zeros to free. */
fv_status prune_samples_create(fv_ctx *ctx, prune_samples *s, const fv_model *file, fv_dit_net *net,
                               const fv_prune_options *o);
void prune_samples_free(prune_samples *s);
/* States of samples first .. first + PRUNE_ROWS - 1, of which each draw.seed makes others. */
void prune_samples_batch(prune_samples *s, int first);
/* f32 [PRUNE_ROWS, S, S, C]; and the batch to the inputs "z", "t", "y" of a plan. */
fv_t prune_state_input(const prune_samples *s, fv_tape *t, const char *name);
fv_status prune_samples_feed(const prune_samples *s, fv_plan *plan);
/* Mean cosine of input and output of each block, over tokens, rows and times: cosine [depth]. */
fv_status prune_cosines(fv_ctx *ctx, const fv_model *file, const fv_prune_options *o,
                        double *cosine);
/* Adds the gradients of the denoising loss to those of `net`, which has masters of the file. */
fv_status prune_gradients(fv_ctx *ctx, const fv_model *file, const fv_prune_options *o,
                          fv_dit_net *net);

/* ---- prune_learn.c: which blocks, by learning ------------------------------------------------ */
#define PRUNE_MASKS 1024 /* of a group, at most */
/* Groups of neighbours: group g has size[g] blocks, of which keep[g] stay; their number. size and
 * keep are [depth]. */
int prune_groups(int depth, int kept, int *size, int *keep);
/* The `kept` blocks that stay, ascending, and with which probability each block does: stay [depth]. */
fv_status prune_learn(fv_ctx *ctx, const fv_model *file, const fv_prune_options *o, int depth,
                      int kept, int *block, double *stay);

/* ---- prune_width.c: which heads and channels ------------------------------------------------ */
/* Heads and MLP channels of `now`, of which this share stays. */
void prune_width_sizes(const fv_dit_sizes *was, double share, fv_dit_sizes *now);
fv_status prune_choose_width(fv_ctx *ctx, fv_prune *p, const fv_model *file);

/* ---- prune_choice.c -------------------------------------------------------------------------- */
/* Does choosing run the model? */
bool prune_is_slow(const fv_prune_options *o);
fv_status prune_choice_write(const fv_prune *p, const char *path);
/* Into the plan's lists, which are made. *found false: there is no such file, or it is damaged.
 * FV_ERR_MODEL: it is of another choice. */
fv_status prune_choice_read(fv_prune *p, const char *path, bool *found);

/* ---- prune_plan.c --------------------------------------------------------------------------- */
/* Where a slow choice is kept. */
typedef struct prune_place { const char *path; bool reads, writes; } prune_place;
/* fv_prune_create; place NULL: nowhere. */
fv_status prune_create(fv_ctx *ctx, fv_prune **out, const fv_model *teacher,
                       const fv_prune_options *opts, const prune_place *place);
/* Blocks kept by the uniform rule: block [kept] ascending, 1 <= kept <= depth. */
void prune_uniform(int depth, int kept, int *block);
/* The `kept` blocks that remain when those with the largest cosines go; of equal ones the later.
 * Cosines, and v below, must be finite: others have no order. */
void prune_by_cosine(const double *cosine, int depth, int kept, int *block);
/* Indices of the k largest of v [n], ascending; of equal ones the first. */
void prune_largest(const double *v, int n, int k, int *index);

#endif
