/* fft.c - two-dimensional complex FFT of single-precision planes. The one-dimensional transforms
 * are kissfft's: any length, lengths with factors beyond 2, 3 and 5 being slower (O(n p) for the
 * largest prime p), which is why fvi_fft_size exists.
 *
 * Rows are transformed in place through a buffer, columns eight at a time, so that a cache line
 * that is read is used. Each row and column is one thread's: results do not depend on the thread
 * count. */
#include "internal.h"

#include <kiss_fft.h>
#include <omp.h>
#include <string.h>

#define COLUMNS 8
#define LONGEST (1 << 20)

struct fvi_fft2 {
    fv_ctx *ctx;
    int height, width;
    kiss_fft_cfg rows[2], columns[2]; /* forward, inverse */
    kiss_fft_cpx *buffers;            /* per thread */
    size_t buffer_length;
};

int fvi_fft_size(int n)
{
    if (n < 1 || n > LONGEST) return 0;
    return kiss_fft_next_fast_size(n);
}

static fv_status make_config(fv_ctx *ctx, kiss_fft_cfg *out, int n, int is_inverse)
{
    size_t bytes = 0;
    (void)kiss_fft_alloc(n, is_inverse, NULL, &bytes);
    void *memory = fv_alloc(ctx, bytes);
    if (!memory) return FV_ERR_OOM;
    *out = kiss_fft_alloc(n, is_inverse, memory, &bytes);
    return FV_OK;
}

/* Complex numbers of one thread's work: columns, and one line. */
static size_t buffer_length(int height, int width)
{
    return (size_t)COLUMNS * (size_t)height + (size_t)(height > width ? height : width);
}

fv_status fvi_fft2_create(fv_ctx *ctx, fvi_fft2 **out, int height, int width)
{
    *out = NULL;
    if (height < 1 || width < 1 || height > LONGEST || width > LONGEST)
        return fv_fail(ctx, FV_ERR_ARG, "fft: a plane of %d x %d; sides are 1 to %d", width, height,
                       LONGEST);
    fvi_fft2 *f = fv_calloc(ctx, 1, sizeof *f);
    fv_status s = f ? FV_OK : FV_ERR_OOM;
    if (!f) return s;
    f->ctx = ctx;
    f->height = height;
    f->width = width;
    f->buffer_length = buffer_length(height, width);
    f->buffers = fv_calloc(ctx, (size_t)ctx->threads * f->buffer_length, sizeof *f->buffers);
    if (!f->buffers) s = FV_ERR_OOM;
    for (int k = 0; k < 2 && s == FV_OK; k++) {
        s = make_config(ctx, &f->rows[k], width, k);
        if (s == FV_OK) s = make_config(ctx, &f->columns[k], height, k);
    }
    if (s == FV_OK) *out = f;
    else fvi_fft2_free(&f);
    return s;
}

void fvi_fft2_free(fvi_fft2 **f)
{
    if (!f || !*f) return;
    fv_ctx *ctx = (*f)->ctx;
    for (int k = 0; k < 2; k++) {
        fv_free(ctx, (*f)->rows[k]);
        fv_free(ctx, (*f)->columns[k]);
    }
    fv_free(ctx, (*f)->buffers);
    fv_free(ctx, *f);
    *f = NULL;
}

static void run_row(const fvi_fft2 *f, int k, float scale, kiss_fft_cpx *row, kiss_fft_cpx *buffer)
{
    kiss_fft(f->rows[k], row, buffer);
    for (int x = 0; x < f->width; x++) {
        row[x].r = buffer[x].r * scale;
        row[x].i = buffer[x].i * scale;
    }
}

static void run_columns(const fvi_fft2 *f, int k, int first, kiss_fft_cpx *plane,
                        kiss_fft_cpx *buffer)
{
    const int count = f->width - first < COLUMNS ? f->width - first : COLUMNS;
    const size_t n = (size_t)f->height, stride = (size_t)f->width;
    kiss_fft_cpx *one = buffer + COLUMNS * n;
    for (size_t y = 0; y < n; y++)
        for (int c = 0; c < count; c++)
            buffer[(size_t)c * n + y] = plane[y * stride + (size_t)(first + c)];
    for (int c = 0; c < count; c++) {
        kiss_fft(f->columns[k], buffer + (size_t)c * n, one);
        memcpy(buffer + (size_t)c * n, one, n * sizeof *one);
    }
    for (size_t y = 0; y < n; y++)
        for (int c = 0; c < count; c++)
            plane[y * stride + (size_t)(first + c)] = buffer[(size_t)c * n + y];
}

void fvi_fft2_run(fvi_fft2 *f, float *plane, bool is_inverse)
{
    kiss_fft_cpx *z = (kiss_fft_cpx *)(void *)plane;
    const int k = is_inverse, groups = (f->width + COLUMNS - 1) / COLUMNS;
    const float scale = is_inverse ? (float)(1.0 / ((double)f->width * f->height)) : 1.0f;
#pragma omp parallel num_threads(f->ctx->threads)
    {
        kiss_fft_cpx *buffer = f->buffers + (size_t)omp_get_thread_num() * f->buffer_length;
#pragma omp for schedule(static)
        for (int y = 0; y < f->height; y++)
            run_row(f, k, scale, z + (size_t)y * (size_t)f->width, buffer);
#pragma omp for schedule(static)
        for (int g = 0; g < groups; g++) run_columns(f, k, g * COLUMNS, z, buffer);
    }
}

size_t fvi_fft2_room(int height, int width) { return 2 * buffer_length(height, width); }

void fvi_fft2_run_alone(const fvi_fft2 *f, float *plane, bool is_inverse, float *buffer)
{
    kiss_fft_cpx *z = (kiss_fft_cpx *)(void *)plane, *work = (kiss_fft_cpx *)(void *)buffer;
    const float scale = is_inverse ? (float)(1.0 / ((double)f->width * f->height)) : 1.0f;
    for (int y = 0; y < f->height; y++)
        run_row(f, is_inverse, scale, z + (size_t)y * (size_t)f->width, work);
    for (int x = 0; x < f->width; x += COLUMNS) run_columns(f, is_inverse, x, z, work);
}
