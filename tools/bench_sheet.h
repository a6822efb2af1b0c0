/* bench_sheet.h - pictures that the verbs of `fovea bench` draw. */
#ifndef FOVEA_BENCH_SHEET_H
#define FOVEA_BENCH_SHEET_H

#include "cli.h"

#define BENCH_LETTER_W 6
#define BENCH_LETTER_H 12
#define BENCH_MARGIN 8

extern const uint8_t bench_black[3];

/* White, 8-bit RGB. */
fv_status bench_canvas(fv_ctx *ctx, fv_image *img, int width, int height);
/* What is beyond the picture to the right and below is left out. */
void bench_fill(fv_image *img, int x, int y, int w, int h, const uint8_t rgb[3]);
void bench_paste(fv_image *to, const fv_image *from, int x, int y, int zoom);
/* Writes it (unless s says that it was not made) and frees it; returns an exit code. */
int bench_save_picture(fv_ctx *ctx, fv_image *img, fv_status s, const char *path, bool overwrites);

/* Where in an 8-bit RGB picture a square of `side` pixels, at most the picture's, shows most: the
 * largest sum of steps of brightness among a few places. */
void bench_busiest(const fv_image *img, int side, int *x, int *y);

typedef struct bench_row {
    char label[64], numbers[64];
    const fv_image *image; /* all of one size */
} bench_row;
/* A line of `count` pictures for each row. Returns an exit code. */
int bench_write_sheet(fv_ctx *ctx, const bench_row *row, int rows, int count, const char *path,
                      bool overwrites);

#endif
