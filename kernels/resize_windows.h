/* resize_windows.h - private: which inputs an output sample of a separable resize looks at, and how
 * much of each; shared by image_resize.c (pixels) and float_resize.c (float pictures). */
#ifndef FV_RESIZE_WINDOWS_H
#define FV_RESIZE_WINDOWS_H

#include "engine.h"

typedef struct fvi_kernel {
    double (*f)(double); /* NULL: each input counts by the length that it shares with the output */
    double radius;
} fvi_kernel;
extern const fvi_kernel fvi_kernels[FVI_RESIZE_COUNT];

/* Output i sums `count[i]` inputs from `first[i]`; its weights start at w + i * width. */
typedef struct fvi_windows {
    int *first, *count;
    double *w;
    size_t width;
    size_t outputs, weights; /* room */
} fvi_windows;

/* Weights that `out` samples of `in` need at most; false on overflow. */
bool fvi_windows_room(int in, int out, double radius, size_t *weights);
fv_status fvi_windows_alloc(fv_ctx *ctx, fvi_windows *t, size_t outputs, size_t weights);
void fvi_windows_free(fv_ctx *ctx, fvi_windows *t);
/* FV_ERR_CAPACITY, without a message, when the room is too small. */
fv_status fvi_windows_fill(fvi_windows *t, int in, int out, fvi_resampling how);

#endif
