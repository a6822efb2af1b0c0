/* float_resize.c - separable resize of float pictures with the windows of resize_windows.c.
 *
 * Columns first: an output row is a weighted sum of whole input rows, one long loop, then its pixels
 * are sums along that one row. So there is no picture between the passes, only a row a thread. */
#include "internal.h"
#include "resize_windows.h"

#include <omp.h>
#include <string.h>

#define RADIUS_MAX 3.0 /* Lanczos */
#define CHANNELS_MAX 4
/* Below this many output values threads cost more than they bring. */
#define PARALLEL_MIN 16384

struct fvi_resize {
    fv_ctx *ctx;
    int threads, max_in, max_out;
    fvi_resampling how;
    int in[2], out[2];  /* height, width; 0: none yet */
    fvi_windows axis[2];
    float *weights[2];  /* those of the windows as f32 */
    float *rows;        /* a row of the input for each thread */
    size_t row_floats;
};

fv_status fvi_resize_create(fv_ctx *ctx, fvi_resize **out, int max_in, int max_out, int threads)
{
    *out = NULL;
    if (max_in < 1 || max_out < 1)
        return fv_fail(ctx, FV_ERR_ARG, "resize: sides of %d to %d pixels", max_in, max_out);
    fvi_resize *r = fv_calloc(ctx, 1, sizeof *r);
    if (!r) return FV_ERR_OOM;
    r->ctx = ctx;
    r->threads = threads > 0 ? threads : ctx->threads;
    r->max_in = max_in;
    r->max_out = max_out;
    r->row_floats = ((size_t)max_in * CHANNELS_MAX + 15) / 16 * 16;
    /* out * (2 ceil(r max(in / out, 1)) + 1) for any in and out up to the largest */
    const double need = 2 * RADIUS_MAX * ((double)max_in + max_out) + 3.0 * max_out;
    fv_status s = need < (double)(SIZE_MAX / 16) ? FV_OK : FV_ERR_OOM;
    for (int k = 0; k < 2 && s == FV_OK; k++) {
        s = fvi_windows_alloc(ctx, &r->axis[k], (size_t)max_out, (size_t)need);
        r->weights[k] = s == FV_OK ? fv_calloc(ctx, (size_t)need, sizeof(float)) : NULL;
        if (!r->weights[k]) s = FV_ERR_OOM;
    }
    if (s == FV_OK) r->rows = fv_calloc(ctx, (size_t)r->threads * r->row_floats, sizeof(float));
    if (s == FV_OK && !r->rows) s = FV_ERR_OOM;
    if (s == FV_OK) *out = r;
    else fvi_resize_free(&r);
    return s;
}

void fvi_resize_free(fvi_resize **r)
{
    if (!r || !*r) return;
    fv_ctx *ctx = (*r)->ctx;
    for (int k = 0; k < 2; k++) {
        fvi_windows_free(ctx, &(*r)->axis[k]);
        fv_free(ctx, (*r)->weights[k]);
    }
    fv_free(ctx, (*r)->rows);
    fv_free(ctx, *r);
    *r = NULL;
}

fv_status fvi_resize_set(fvi_resize *r, fvi_resampling how, const int in_size[2],
                         const int out_size[2])
{
    const bool is_same = how.filter == r->how.filter && how.antialias == r->how.antialias &&
                         how.repeats_edges == r->how.repeats_edges;
    if (!is_same) r->in[0] = r->in[1] = 0;
    r->how = how;
    for (int k = 0; k < 2; k++) {
        if (in_size[k] < 1 || in_size[k] > r->max_in || out_size[k] < 1 ||
            out_size[k] > r->max_out)
            return FV_ERR_CAPACITY;
        if ( in_size[k] == r->in[k] && out_size[k] == r->out[k]) continue;
        r->in[k] = 0; /* not usable before this has worked */
        FV_TRY(fvi_windows_fill(&r->axis[k], in_size[k], out_size[k], how));
        const size_t n = (size_t)out_size[k] * r->axis[k].width;
        for (size_t i = 0; i < n; i++) r->weights[k][i] = (float)r->axis[k].w[i];
        r->in[k] = in_size[k];
        r->out[k] = out_size[k];
    }
    return FV_OK;
}

/* y [n] = sum over rows of their weight; rows are `pitch` apart. */
static void sum_rows(float *FV_RESTRICT y, const float *rows, size_t n, size_t pitch,
                     const float *w, int count)
{
    for (size_t i = 0; i < n; i++) y[i] = w[0] * rows[i];
    for (int k = 1; k < count; k++) {
        const float *FV_RESTRICT x = rows + (size_t)k * pitch;
        const float g = w[k];
        for (size_t i = 0; i < n; i++) y[i] += g * x[i];
    }
}

static int within(int i, int n) { return i < 0 ? 0 : i < n ? i : n - 1; }

/* Outputs from `x` on; row: inputs from `left` on. */
FV_INLINE void sum_pixels(float *FV_RESTRICT y, const float *FV_RESTRICT row, const fvi_resize *r,
                          int x, int count, int left, const int channels)
{
    const fvi_windows *t = &r->axis[1];
    for (int i = 0; i < count; i++, y += channels) {
        const int at = within(x + i, r->out[1]);
        const float *w = r->weights[1] + (size_t)at * t->width;
        const float *p = row + (size_t)(t->first[at] - left) * (size_t)channels;
        float sum[CHANNELS_MAX] = { 0 };
        for (int k = 0; k < t->count[at]; k++, p += channels)
            for (int c = 0; c < channels; c++) sum[c] += w[k] * p[c];
        for (int c = 0; c < channels; c++) y[c] = sum[c];
    }
}

/* Row i of the rectangle. */
static void resize_row(const fvi_resize *r, int i, const float *in, int channels,
                       const int rect[4], float *out, float *row)
{
    const fvi_windows *v = &r->axis[0], *h = &r->axis[1];
    const int y = within(rect[1] + i, r->out[0]);
    const int x0 = within(rect[0], r->out[1]), x1 = within(rect[0] + rect[2] - 1, r->out[1]);
    const int left = h->first[x0], right = h->first[x1] + h->count[x1];
    const size_t ch = (size_t)channels, pitch = (size_t)r->in[1] * ch;
    float *to = out + (size_t)i * (size_t)rect[2] * ch;
    sum_rows(row, in + (size_t)v->first[y] * pitch + (size_t)left * ch, (size_t)(right - left) * ch,
             pitch, r->weights[0] + (size_t)y * v->width, v->count[y]);
    if (channels == 3) sum_pixels(to, row, r, rect[0], rect[2], left, 3);
    else if (channels == 1) sum_pixels(to, row, r, rect[0], rect[2], left, 1);
    else sum_pixels(to, row, r, rect[0], rect[2], left, channels);
}

void fvi_resize_rect(fvi_resize *r, const float *in, int channels, const int rect[4], float *out)
{
    const bool is_large = (double)rect[2] * rect[3] * channels >= PARALLEL_MIN;
    const int threads = is_large ? r->threads : 1;
    if (threads == 1) {
        for (int i = 0; i < rect[3]; i++) resize_row(r, i, in, channels, rect, out, r->rows);
        return;
    }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int i = 0; i < rect[3]; i++)
        resize_row(r, i, in, channels, rect, out,
                   r->rows + (size_t)omp_get_thread_num() * r->row_floats);
}

void fvi_resize_run(fvi_resize *r, const float *in, int channels, float *out)
{
    const int whole[4] = { 0, 0, r->out[1], r->out[0] };
    fvi_resize_rect(r, in, channels, whole, out);
}
