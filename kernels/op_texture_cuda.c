/* op_texture_cuda.c - host side of LOSS_TEXTURE on the device. Definition: op_picture_body.h; kernels:
 * cuda/texture.h. Colour by colour: planes of all scales, fine to coarse; then bands, coarse to fine,
 * and with them gradients. The gradient is made along with the value, and kept. */
#include "cuda_ops.h"
#include "op_texture.h"

#define COLOURS 3
#define MOST_PLANES 6 /* five scales, and what is left */

/* Planes a, target and gradient of colour c and scale j; scales + 1 of them, the last one is the
 * residue. One set of gradients of filters' answers; losses of tiles. */
typedef struct texture_work {
    size_t plane[COLOURS][MOST_PLANES], basis, part, all;
    int64_t tiles;
} texture_work;

static int scales_of(const fvi_exec *e, int c) { return e->attr->i[0] - (c > 0); }
static int64_t side(const fvi_exec *e, int d, int c, int j)
{
    return e->in[0].dim[d] >> (j + (c > 0));
}

static size_t plane_bytes(const fvi_exec *e, int c, int j)
{
    return fvi_cuda_aligned((size_t)(e->in[0].dim[0] * side(e, 1, c, j) * side(e, 2, c, j)) *
                            sizeof(float));
}

static int64_t tiles_of(const fvi_exec *e, int c, int j)
{
    const int reach = j < scales_of(e, c) ? FVK_TEXTURE_TAPS - 1 : 0, tile = FVK_TEXTURE_TILE;
    return e->in[0].dim[0] * ((side(e, 1, c, j) - reach + tile - 1) / tile) *
           ((side(e, 2, c, j) - reach + tile - 1) / tile);
}

static texture_work work_of(const fvi_exec *e)
{
    texture_work w = { .all = 0 };
    for (int c = 0; c < COLOURS; c++)
        for (int j = 0; j <= scales_of(e, c); j++) {
            w.plane[c][j] = w.all;
            w.all += 3 * plane_bytes(e, c, j);
            w.tiles += tiles_of(e, c, j);
        }
    w.basis = w.all;
    w.all += FVK_TEXTURE_BASIS * plane_bytes(e, 0, 0);
    w.part = w.all;
    w.all += fvi_cuda_aligned((size_t)w.tiles * sizeof(double));
    return w;
}

static size_t texture_scratch(const fvi_exec *e, bool backward)
{
    return backward ? 0 : work_of(e).all;
}

static float *plane_at(const fvi_exec *e, const texture_work *w, int c, int j, int k)
{
    uint8_t *base = (uint8_t *)e->scratch + w->plane[c][j];
    return (float *)(void *)(base + (size_t)k * plane_bytes(e, c, j));
}

static fvk_texture_args args_of(const fvi_exec *e, const texture_work *w, const steerable *f, int c,
                                int j)
{
    const bool want = e->out[1].data != NULL, is_last = j == scales_of(e, c);
    fvk_texture_args a = { .rgb = { e->in[0].data, e->in[1].data }, .B = e->in[0].dim[0],
                           .h = side(e, 1, c, j), .w = side(e, 2, c, j), .H = e->in[0].dim[1],
                           .W = e->in[0].dim[2], .is_last = is_last, .is_half = c > 0,
                           .weight = texture_colour_weight(c, e->attr->i[0]) };
    for (int k = 0; k < 2; k++) a.plane[k] = plane_at(e, w, c, j, k);
    if (want) a.g = plane_at(e, w, c, j, 2);
    if (want && !is_last) {
        a.basis = (float *)(void *)((uint8_t *)e->scratch + w->basis);
        a.coarse = plane_at(e, w, c, j + 1, 2);
    }
    memcpy(a.down, f->down, sizeof a.down);
    memcpy(a.right, f->right, sizeof a.right);
    memcpy(a.turn, f->turn, sizeof a.turn);
    memcpy(a.pool, texture_weight, sizeof a.pool);
    memcpy(a.mix, texture_mix[c], sizeof a.mix);
    return a;
}

/* Planes of all scales of a colour. */
static fv_status make_planes(fvi_exec *e, const texture_work *w, const steerable *f, int c)
{
    const fvk_texture_args first = args_of(e, w, f, c, 0);
    FV_TRY(FVI_LAUNCH(e->ctx, texture_planes, fvi_cuda_walk(first.B * first.h * first.w), &first));
    for (int j = 1; j <= scales_of(e, c); j++) {
        fvk_ssim_args a = { .B = first.B, .h = side(e, 1, c, j), .w = side(e, 2, c, j),
                            .H = side(e, 1, c, j - 1), .W = side(e, 2, c, j - 1) };
        for (int k = 0; k < 2; k++) {
            a.fine[k] = plane_at(e, w, c, j - 1, k);
            a.plane[k] = plane_at(e, w, c, j, k);
        }
        FV_TRY(FVI_LAUNCH(e->ctx, ssim_halve, fvi_cuda_walk(a.B * a.h * a.w), &a));
    }
    return FV_OK;
}

/* Losses of a colour to *part on, and the gradient to its first plane. */
static fv_status make_bands(fvi_exec *e, const texture_work *w, const steerable *f, int c,
                            double **part)
{
    for (int j = scales_of(e, c); j >= 0; j--) {
        fvk_texture_args a = args_of(e, w, f, c, j);
        a.part = *part;
        *part += tiles_of(e, c, j);
        FV_TRY(FVI_LAUNCH(e->ctx, texture_bands, tiles_of(e, c, j), &a));
        if (a.basis) FV_TRY(FVI_LAUNCH(e->ctx, texture_slopes, fvi_cuda_walk(a.B * a.h * a.w), &a));
    }
    return FV_OK;
}

static fv_status make_gradient(fvi_exec *e, const texture_work *w)
{
    const int64_t *d = e->in[0].dim;
    fvk_texture_rgb_args a = { .grad = e->out[1].data, .B = d[0], .H = d[1], .W = d[2] };
    for (int c = 0; c < COLOURS; c++) {
        const double weight = texture_colour_weight(c, e->attr->i[0]);
        a.g[c] = plane_at(e, w, c, 0, 2);
        for (int k = 0; k < 3; k++) a.back[c][k] = (float)(weight * (double)texture_mix[c][k]);
    }
    return FVI_LAUNCH(e->ctx, texture_rgb, fvi_cuda_walk(a.B * a.H * a.W), &a);
}

static fv_status texture_forward(fvi_exec *e)
{
    const texture_work w = work_of(e);
    double *const first = (double *)(void *)((uint8_t *)e->scratch + w.part), *part = first;
    steerable f;
    make_steerable(&f);
    for (int c = 0; c < COLOURS; c++) {
        FV_TRY(make_planes(e, &w, &f, c));
        FV_TRY(make_bands(e, &w, &f, c, &part));
    }
    if (e->out[1].data) FV_TRY(make_gradient(e, &w));
    return fvi_cuda_total(e->ctx, first, w.tiles, 1 / (double)e->in[0].dim[0], e->out[0].data);
}

static fv_status texture_backward(fvi_exec *e)
{
    return fvi_cuda_kept_backward(e, (double)e->in[0].dim[0]);
}

const fvi_op_def fvi_cuda_loss_texture = {
    .name = "loss_texture", .bwd_reads_out = 2, .scratch_bytes = texture_scratch,
    .forward = texture_forward, .backward = texture_backward
};
