/* bench_loss.c - see bench_loss.h. */
#include "bench_loss.h"

#include <stdlib.h>
#include <sys/stat.h>

#include "cli.h"

#define PICTURES 96

static fv_status build(fv_ctx *ctx, bench_loss which, const int64_t dim[4], fv_params *params,
                       fv_plan **out)
{
    fv_tape *t;
    fv_place_options o = FV_PLACE_OPTIONS_INIT;
    o.kind = which == BENCH_LOSS_LIFT ? FV_LIFT_CHANNEL : FV_PLACE_GROUPS;
    fv_status s = fv_tape_create(ctx, &t, params, FV_TRAIN, FV_F32);
    if (s != FV_OK) return s;
    const fv_t x = fv_input_grad(t, "x", FV_F32, 4, dim), y = fv_input(t, "y", FV_F32, 4, dim);
    fv_output(t, "loss", which == BENCH_LOSS_MSE ? fv_loss_mse(t, x, y, 0)
                                                 : fv_loss_place(t, x, y, &o, NULL));
    s = fv_plan_build(ctx, out, t, NULL);
    fv_tape_destroy(&t);
    return s;
}

fv_status bench_loss_times(fv_ctx *ctx, bench_loss which, const int64_t dim[4], double *seconds,
                           int n)
{
    const int64_t count = dim[0] * dim[1] * dim[2] * dim[3];
    float *x = malloc(2 * (size_t)count * sizeof *x), *y = x + count;
    fv_params *params = NULL;
    fv_plan *plan = NULL;
    fv_status s = x ? fv_params_create(ctx, &params) : FV_ERR_OOM;
    if (s == FV_OK) s = build(ctx, which, dim, params, &plan);
    if (s == FV_OK) s = fv_plan_bind(plan, "x", x);
    if (s == FV_OK) s = fv_plan_bind(plan, "y", y);
    if (s == FV_OK) {
        fv_rand_normal(1, FV_STREAM_USER, 0, 0, count, y);
        fv_rand_normal(1, FV_STREAM_USER, 1, 0, count, x);
        for (int64_t i = 0; i < count; i++) x[i] = y[i] + 0.1f * x[i];
    }
    for (int k = -2; k < n && s == FV_OK; k++) { /* two to warm up */
        const double start = cli_now();
        s = fv_plan_forward(plan);
        if (s == FV_OK) s = fv_plan_backward(plan, "loss", 1.0f);
        if (k >= 0) seconds[k] = cli_now() - start;
    }
    fv_plan_destroy(&plan);
    fv_params_destroy(&params);
    free(x);
    return s;
}

fv_status bench_write_pictures(fv_ctx *ctx, const char *folder, int size, const char *const *classes,
                               int count)
{
    fv_image small = {0}, img = {0};
    fv_image_write_options wo = FV_IMAGE_WRITE_OPTIONS_INIT;
    fv_status s = fv_image_create(ctx, &small, 8, 8, 3, 8);
    for (int i = 0; i < PICTURES && s == FV_OK; i++) {
        float v[8 * 8 * 3];
        char *of = cli_format("%s/%s", folder, classes[i % count]);
        char *path = cli_format("%s/%03d.png", of, i);
        (void)mkdir(of, 0777);
        fv_rand_uniform(7, FV_STREAM_USER, (uint32_t)i, 0, 8 * 8 * 3, v);
        fv_image_from_float(&small, 0, 1, v);
        s = fv_image_resize(ctx, &img, &small, size, size, FV_FILTER_BICUBIC);
        if (s == FV_OK) s = fv_image_write(ctx, &img, path, &wo);
        fv_image_free(ctx, &img);
        free(path);
        free(of);
    }
    fv_image_free(ctx, &small);
    return s;
}
