/* bench_loss.h - what benches of training share: pictures to train on. */
#ifndef FOVEA_BENCH_LOSS_H
#define FOVEA_BENCH_LOSS_H

#include "fovea.h"

/* Smooth random pictures of size x size pixels, FOLDER/CLASS/NNN.png, of `count` classes in turn. */
fv_status bench_write_pictures(fv_ctx *ctx, const char *folder, int size, const char *const *classes,
                               int count);

#endif
