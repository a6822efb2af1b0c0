/* cli_picture.h - pictures as the programs take and compare them. */
#ifndef FOVEA_CLI_PICTURE_H
#define FOVEA_CLI_PICTURE_H

#include "cli.h"

/* A whole regular file, "-" is standard input; at most `most` bytes. Malloced. An exit code, message
 * written. */
int cli_read_bytes(const char *path, uint64_t most, uint8_t **out, size_t *size);

/* Turned as its EXIF data say, which say "upright" afterwards; without such data, nothing happens.
 * On failure the picture is as it was. */
fv_status cli_turn_upright(fv_ctx *ctx, fv_image *img);
/* Decodes, with metadata, and turns it. o may be NULL. */
fv_status cli_decode_picture(fv_ctx *ctx, const uint8_t *bytes, size_t size,
                             const fv_image_read_options *o, fv_image *out);

/* Paths of the pictures among and in `paths`, files and folders, sorted by name in each folder; at most
 * `most` (0: all), evenly taken. An exit code, message written; cli_free_pictures also then. */
int cli_take_pictures(const char **paths, int count, int most, char ***files, int *file_count);
void cli_free_pictures(char **files, int count);

/* Sides that the measures need; NAN below. */
#define CLI_GMSD_SIDE 3
#define CLI_MS_SSIM_SIDE 176
#define CLI_TEXTURE_SIDE 72

typedef struct cli_measures {
    double psnr;          /* dB; INFINITY: equal */
    double ms_ssim;       /* 1: equal */
    double gmsd, texture; /* 0: equal */
} cli_measures;
/* Of b; a is the original. Pictures of equal size, channels and depth; alpha is ignored. */
fv_status cli_measure(fv_ctx *ctx, const fv_image *a, const fv_image *b, cli_measures *out);

#endif
