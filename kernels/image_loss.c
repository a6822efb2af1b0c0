/* image_loss.c - a loss between pictures that needs no trained network.
 *
 * All terms are means of absolute values of linear functions of the difference d:
 *
 *     d itself; its Sobel slopes, for edges; and three bands of a Laplacian pyramid,
 *     g_0 = d,  band_k = g_k - blur(g_k),  g_{k+1} = blur(g_k) at every second pixel,  band_2 = g_2
 *
 * (g_k - blur(g_k) in place of g_k - expand(g_{k+1}): the same band to within the interpolation,
 * without the expansion.) */
#include "vq_train.h"

/* Over columns of 64 where they fit: the mean of an axis works on rows. */
fv_t fvi_loss_mean(fv_tape *t, fv_t x, float scale)
{
    const fv_tensor s = fv_tape_tensor(t, x);
    const int64_t n = fv_tensor_count(&s), C = n % 64 ? 1 : 64, one = 1;
    const int64_t wide[3] = { 1, n / C, C }, narrow[3] = { 1, C, 1 };
    x = fv_mean_axis1(t, fv_reshape(t, x, 3, wide));
    if (C > 1) x = fv_mean_axis1(t, fv_reshape(t, x, 3, narrow));
    return fv_affine(t, fv_reshape(t, x, 1, &one), scale, 0.0f);
}

fv_t fvi_loss_dot(fv_tape *t, fv_t a, fv_t b)
{
    return fvi_loss_mean(t, fv_binary_op(t, FV_MUL, a, b), 1.0f);
}

fv_t fv_loss_charbonnier(fv_tape *t, fv_t a, fv_t target, float eps)
{
    const fv_t d = fv_activate(t, fv_binary_op(t, FV_SUB, a, target), FV_ACT_SQUARE);
    return fvi_loss_mean(t, fv_activate(t, fv_affine(t, d, 1.0f, eps * eps), FV_ACT_SQRT), 1.0f);
}

/* sum + weight * mean |x|; sum 0: the first term */
static fv_t add_term(fv_tape *t, fv_t sum, fv_t x, float weight)
{
    const fv_t term = fv_affine(t, fv_loss_l1(t, x, 0), weight, 0.0f);
    return sum ? fv_binary_op(t, FV_ADD, sum, term) : term;
}

fv_t fvi_loss_image(fv_tape *t, fv_t a, fv_t target, const fvi_image_loss *w)
{
    const fv_t d = fv_binary_op(t, FV_SUB, a, target);
    fv_t sum = 0, g = d;
    if (w->l1 > 0) sum = add_term(t, sum, d, w->l1);
    if (w->sobel > 0) {
        sum = add_term(t, sum, fv_filter_image(t, d, FV_FILTER_SOBEL_X, 1), w->sobel);
        sum = add_term(t, sum, fv_filter_image(t, d, FV_FILTER_SOBEL_Y, 1), w->sobel);
    }
    for (int k = 0; k < 2 && w->pyramid > 0; k++) {
        const fv_t low = fv_filter_image(t, g, FV_FILTER_BLUR5, 1);
        sum = add_term(t, sum, fv_binary_op(t, FV_SUB, g, low), w->pyramid);
        g = fv_filter_image(t, g, FV_FILTER_BLUR5, 2);
    }
    return w->pyramid > 0 ? add_term(t, sum, g, w->pyramid) : sum;
}
