/* bench_loss.c - see bench_loss.h. */
#include "bench_loss.h"

#include <stdlib.h>
#include <sys/stat.h>

#include "cli.h"

#define PICTURES 96

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
