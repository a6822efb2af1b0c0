/* train_ranks.h - private: a training step shared by the ranks of a context (train_ranks.c). */
#ifndef FV_TRAIN_RANKS_H
#define FV_TRAIN_RANKS_H

#include "optim_tables.h"

#define FVI_RANK_LEVELS 12 /* of the tree of slices: 2^11 at most */

typedef struct fvi_ranks {
    fv_ctx *ctx;
    fv_params *params;
    fv_opt *opt;
    fv_comm *comm;
    int rank, size, slices; /* slices: of fv_train_options */
    int parts, rounds;      /* a step has parts * rounds micro-batches */
    float *sum[FVI_RANK_LEVELS]; /* gradients of 2^level slices, until their neighbours come */
    double loss[FVI_RANK_LEVELS];
    double *verdict; /* [size][2] status and a number of every rank */
    void *near;      /* on a device: sums there; NULL: over `host` [flat_count] */
    float *host;
} fvi_ranks;

/* FV_ERR_ARG: micro-batches or slices do not divide among the ranks. */
fv_status fvi_ranks_open(fvi_ranks *k, fv_ctx *ctx, fv_params *params, fv_opt *opt, int accumulate,
                         int slices);
void fvi_ranks_close(fvi_ranks *k);
/* One outcome for all: a failure of any rank (FV_ERR_COMM where it is another's), else a stop asked
 * of any. *value, NULL for none, becomes its sum over the ranks. */
fv_status fvi_ranks_agree(fvi_ranks *k, fv_status s, double *value);
/* The same at the end, where a stop comes too late. */
fv_status fvi_ranks_end(fvi_ranks *k, fv_status s);
/* What rank 0 has loaded, to all. */
fv_status fvi_ranks_share_state(fvi_ranks *k, uint64_t *step);
/* On a device: how gradients are summed. All ranks, after they have agreed to begin. */
fv_status fvi_ranks_near(fvi_ranks *k);
/* Forward and backward of all micro-batches: sums of gradients in the parameters, mean loss. With
 * more than one rank a stop waits for the end of the step. */
fv_status fvi_ranks_step(fvi_ranks *k, const fv_train_hooks *hooks, uint64_t step, double *loss);

#endif
