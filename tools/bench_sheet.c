/* bench_sheet.c - pictures side by side, and what else the benches draw with. */
#include "bench_sheet.h"

#include <stdlib.h>
#include <string.h>

#define PLACES 4 /* tried along each side */

const uint8_t bench_black[3] = {0, 0, 0};

void bench_fill(fv_image *img, int x, int y, int w, int h, const uint8_t rgb[3])
{
    for (int r = y; r < y + h && r < img->height; r++) {
        uint8_t *row = (uint8_t *)img->pixels + (size_t)r * img->stride_bytes;
        for (int c = x; c < x + w && c < img->width; c++) memcpy(row + 3 * c, rgb, 3);
    }
}

fv_status bench_canvas(fv_ctx *ctx, fv_image *img, int width, int height)
{
    static const uint8_t white[3] = {255, 255, 255};
    const fv_status s = fv_image_create(ctx, img, width, height, 3, 8);
    if (s == FV_OK) bench_fill(img, 0, 0, width, height, white);
    return s;
}

void bench_paste(fv_image *to, const fv_image *from, int x, int y, int zoom)
{
    for (int r = 0; r < from->height * zoom; r++) {
        const uint8_t *in = (const uint8_t *)from->pixels + (size_t)(r / zoom) * from->stride_bytes;
        uint8_t *out = (uint8_t *)to->pixels + (size_t)(y + r) * to->stride_bytes + 3 * (size_t)x;
        for (int c = 0; c < from->width * zoom; c++) memcpy(out + 3 * c, in + 3 * (c / zoom), 3);
    }
}

/* Sum of steps of brightness. */
static double detail_of(const fv_image *img, int x, int y, int side)
{
    double sum = 0;
    for (int r = y; r + 1 < y + side; r++) {
        const uint8_t *p = (const uint8_t *)img->pixels + (size_t)r * img->stride_bytes + 3 * x + 1;
        const uint8_t *below = p + img->stride_bytes;
        for (int c = 0; c + 1 < side; c++, p += 3, below += 3)
            sum += abs(p[3] - p[0]) + abs(*below - *p);
    }
    return sum;
}

void bench_busiest(const fv_image *img, int side, int *x, int *y)
{
    double best = -1;
    for (int i = 0; i < PLACES * PLACES; i++) {
        const int u = i % PLACES * (img->width - side) / (PLACES - 1);
        const int v = i / PLACES * (img->height - side) / (PLACES - 1);
        const double detail = detail_of(img, u, v, side);
        if (detail <= best) continue;
        best = detail;
        *x = u;
        *y = v;
    }
}

int bench_save_picture(fv_ctx *ctx, fv_image *img, fv_status s, const char *path, bool overwrites)
{
    fv_image_write_options wo = FV_IMAGE_WRITE_OPTIONS_INIT;
    wo.overwrite = overwrites;
    if (!cli_has_picture_suffix(path)) wo.format = FV_IMAGE_PNG; /* a device or pipe */
    if (s == FV_OK) s = fv_image_write(ctx, img, path, &wo);
    fv_image_free(ctx, img);
    return s == FV_OK ? CLI_OK : cli_report(ctx, s, path);
}

int bench_write_sheet(fv_ctx *ctx, const bench_row *row, int rows, int count, const char *path,
                      bool overwrites)
{
    fv_image img = {0};
    const int size = row[0].image[0].width, zoom = size < 96 ? 2 : 1, step = size * zoom + 4;
    size_t letters = 0;
    for (int i = 0; i < rows; i++) {
        if (strlen(row[i].label) > letters) letters = strlen(row[i].label);
        if (strlen(row[i].numbers) > letters) letters = strlen(row[i].numbers);
    }
    const int left = 2 * BENCH_MARGIN + BENCH_LETTER_W * (int)letters;
    const fv_status s =
        bench_canvas(ctx, &img, left + count * step + BENCH_MARGIN, rows * step + 2 * BENCH_MARGIN);
    for (int i = 0; i < rows && s == FV_OK; i++) {
        const int y = BENCH_MARGIN + i * step, middle = y + size * zoom / 2;
        fv_plot_text(&img, BENCH_MARGIN, middle - BENCH_LETTER_H, 1, bench_black, row[i].label);
        fv_plot_text(&img, BENCH_MARGIN, middle + 2, 1, bench_black, row[i].numbers);
        for (int k = 0; k < count; k++)
            bench_paste(&img, &row[i].image[k], left + k * step, y, zoom);
    }
    return bench_save_picture(ctx, &img, s, path, overwrites);
}
