/* sampling_device.h - private to the engines: samplers, tokens and distances between features on a
 * device; sampling_cuda.c, cuda/sampling.h. Each function queues one kernel, and may be recorded
 * (device_graph.h). */
#ifndef FV_SAMPLING_DEVICE_H
#define FV_SAMPLING_DEVICE_H

#include "cuda/abi.h"
#include "engine.h"

fv_status fvi_dev_begin(fv_ctx *ctx, const fvk_step_begin_args *a);
fv_status fvi_dev_normals(fv_ctx *ctx, const fvk_normals_args *a); /* bits as fv_rand_normal */
fv_status fvi_dev_update(fv_ctx *ctx, const fvk_step_update_args *a);
fv_status fvi_dev_score(fv_ctx *ctx, const fvk_token_score_args *a);
fv_status fvi_dev_select(fv_ctx *ctx, const fvk_token_select_args *a, int64_t pictures);
fv_status fvi_dev_gather(fv_ctx *ctx, const fvk_token_gather_args *a);
fv_status fvi_dev_change(fv_ctx *ctx, const fvk_token_change_args *a);
fv_status fvi_dev_merge(fv_ctx *ctx, const fvk_token_merge_args *a);
fv_status fvi_dev_age(fv_ctx *ctx, const fvk_token_age_args *a);
fv_status fvi_dev_copy(fv_ctx *ctx, float *to, const float *from, size_t n);
fv_status fvi_dev_subtract(fv_ctx *ctx, float *to, const float *a, const float *b, size_t n);
/* Waits for all that was queued. */
fv_status fvi_dev_wait(fv_ctx *ctx);

/* Sums over features, of which only the sums are copied. Belongs to a context that is not a CPU's. */
typedef struct fvi_meter fvi_meter;
fv_status fvi_meter_create(fv_ctx *ctx, fvi_meter **out, int rows);
void fvi_meter_destroy(fvi_meter **m);
/* Of d = sum over k < count <= FVK_BLEND_MOST of w[k] v[k], v[k] [rows, n] on the device: sums of d^2
 * and of |d| of each row; either may be NULL. One order of sums. */
fv_status fvi_meter_read(fvi_meter *m, const float *const *v, const double *w, int count, int rows,
                         size_t n, double *squares, double *sizes);
/* The same of all rows together, one number each. */
fv_status fvi_meter_total(fvi_meter *m, const float *const *v, const double *w, int count, int rows,
                          size_t n, double *squares, double *sizes);

#endif
