/* bench_loss.h - time of a loss alone, for `fovea bench train`. */
#ifndef FOVEA_BENCH_LOSS_H
#define FOVEA_BENCH_LOSS_H

#include "fovea.h"

typedef enum bench_loss {
    BENCH_LOSS_MSE = 0, BENCH_LOSS_LIFT, BENCH_LOSS_PLACE, BENCH_LOSSES
} bench_loss;

/* Seconds of n forward and backward passes between a student's and a teacher's pictures of dims
 * [B, H, W, C], a tenth of their size apart. */
fv_status bench_loss_times(fv_ctx *ctx, bench_loss which, const int64_t dim[4], double *seconds,
                           int n);

#endif
