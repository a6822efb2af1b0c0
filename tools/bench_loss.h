/* bench_loss.h - what benches of training share: time of a loss alone, and pictures to train on. */
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

/* Smooth random pictures of size x size pixels, FOLDER/CLASS/NNN.png, of `count` classes in turn. */
fv_status bench_write_pictures(fv_ctx *ctx, const char *folder, int size, const char *const *classes,
                               int count);

#endif
