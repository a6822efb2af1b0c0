/* train_log.h - private: metrics.csv and loss.png of a training run. */
#ifndef FV_TRAIN_LOG_H
#define FV_TRAIN_LOG_H

#include "engine.h"

typedef struct fvi_log_row {
    uint64_t step;
    double loss, lr, grad_norm; /* means since the row before (lr: current)        */
    double metric;              /* NaN = not evaluated                             */
    double rate, seconds;       /* samples per second; seconds trained, all in all */
    double extra[FV_TRAIN_EXTRAS];
} fvi_log_row;

typedef struct fvi_log {
    fv_ctx *ctx;
    char *path, *plot_path;
    int fd; /* -1 = closed */
    fvi_log_row *row;
    size_t count, capacity;
    size_t *end;       /* [count] offset in the file after each row */
    size_t header_end; /* 0 = the file is empty */
    char header[256];  /* names of the columns, with the newline */
    int extras;        /* columns behind the usual ones */
} fvi_log;

/* Open or create dir/metrics.csv and read its rows. A run holds a lock on it, so that two programs
 * cannot train into one folder: FV_ERR_STATE. names: of `extras` columns more, NULL for none. */
fv_status fvi_log_open(fv_ctx *ctx, fvi_log *log, const char *dir, const char *names, int extras);
/* Drop rows after `step` from memory and file; write the header where it is missing. */
fv_status fvi_log_keep(fvi_log *log, uint64_t step);
fv_status fvi_log_add(fvi_log *log, const fvi_log_row *row);
fv_status fvi_log_sync(fvi_log *log);
/* Write dir/loss.png. */
fv_status fvi_log_plot(fvi_log *log);
void fvi_log_close(fvi_log *log);

#endif
