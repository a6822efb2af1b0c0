/* pssr_loss.c - losses of super-resolution that need no trained network, and the frequency-domain
 * update as tape code, so that drafts are trained through it:
 *
 *     h = Y - low-pass Y,  w = |h_d| / (|h_d| + |h_c| + 1e-6),  Y' = Y_c + w (h_d - h_c)   (fdu.c)
 *
 *     gain:  Y' = Y_c + (g - 1) h_c,  g = min(sqrt((B h_d^2 + e) / (B h_c^2 + e)), 6)
 *
 * The update uses of a draft only the detail of its luma, so that its losses are on Y'. Amplitudes
 * want detail where the pixels alone would blur it, but do not say where in a patch: in patches of 64
 * single bright pixels serve as well as texture, in patches of 8 crosses do (card of pssr_tiny), so
 * that they do not make a good draft alone. Two terms look at places:
 *
 *     texture  Wasserstein distortion of the picture after the update [op_picture_body.h], whose
 *              windows of 2 to 16 pixels tell energy in one pixel from the same energy in many
 *     peaks    mean of max(0, |h(Y')| - limit), limit = 8/3 sqrt(B h(original)^2 + 1e-6), B a blur
 *              of 5x5 pixels. One-sided: detail that is missing costs nothing, so that it does not
 *              blur. B's middle weight is (6/16)^2, of which 8/3 is the inverse root: the original
 *              itself never costs
 *
 * The low band holds detail in its place. The draft's own pixels keep a small weight: later steps
 * begin where earlier ones end. */
#include "fdu.h"
#include "pssr_train.h"

#define CHARBONNIER 1e-3f
#define LOW_CUTOFF 0.12f /* cycles a pixel */
#define LOW_ORDER 4
#define EPS 1e-6f
#define PEAK 2.6666667f /* standard deviations */
#define TEXTURE_SIDE 9  /* least one of the coarsest scale */

fv_t pssr_luma(fv_tape *t, fv_t rgb)
{
    static const float weight[3] = { 0.299f, 0.587f, 0.114f };
    fv_t sum = 0;
    for (int c = 0; c < 3; c++) {
        const fv_t part = fv_affine(t, fv_slice(t, rgb, c, 1), weight[c], 0.0f);
        sum = c ? fv_binary_op(t, FV_ADD, sum, part) : part;
    }
    return sum;
}

fv_t pssr_high(fv_tape *t, fv_t luma)
{
    const fv_fdu_options o = FV_FDU_OPTIONS_INIT;
    return fv_binary_op(t, FV_SUB, luma, fv_low_pass(t, luma, o.cutoff, o.order));
}

/* e + means of squares around each pixel. */
static fv_t energy(fv_tape *t, fv_t high)
{
    fv_t x = fv_activate(t, high, FV_ACT_SQUARE);
    for (int k = 0; k < 2; k++) x = fv_filter_image(t, x, FV_FILTER_BLUR5, 1);
    return fv_affine(t, x, 1.0f, FV_FDU_FLOOR);
}

static fv_t gain_change(fv_tape *t, fv_t hc, fv_t hd)
{
    const float most = FV_FDU_MOST_GAIN;
    const fv_t ratio = fv_binary_op(t, FV_DIV, energy(t, hd), energy(t, hc));
    const fv_t below = fv_activate(t, fv_affine(t, fv_activate(t, ratio, FV_ACT_SQRT), -1.0f, most),
                                   FV_ACT_RELU);
    return fv_binary_op(t, FV_MUL, fv_affine(t, below, -1.0f, most - 1), hc);
}

/* From the high bands of base and draft. */
static fv_t change_of(fv_tape *t, fv_fdu_mode mode, fv_t hc, fv_t hd)
{
    if (mode == FV_FDU_GAIN) return gain_change(t, hc, hd);
    const fv_t c = fv_activate(t, hc, FV_ACT_ABS), d = fv_activate(t, hd, FV_ACT_ABS);
    const fv_t below = fv_affine(t, fv_binary_op(t, FV_ADD, d, c), 1.0f, EPS);
    return fv_binary_op(t, FV_MUL, fv_binary_op(t, FV_DIV, d, below),
                        fv_binary_op(t, FV_SUB, hd, hc));
}

fv_t pssr_fdu_change(fv_tape *t, fv_fdu_mode mode, fv_t base_luma, fv_t draft_luma)
{
    return change_of(t, mode, pssr_high(t, base_luma), pssr_high(t, draft_luma));
}

int pssr_patch(int side)
{
    for (int patch = 64; patch >= 16; patch /= 2)
        if (side % patch == 0) return patch;
    return 0;
}

int pssr_scales(int side)
{
    int n = 1;
    while (n < 5 && side >> n >= TEXTURE_SIDE) n++;
    return n;
}

static fv_t add_term(fv_tape *t, fv_t sum, fv_t term, float weight)
{
    if (!(weight > 0)) return sum;
    term = fv_affine(t, term, weight, 0.0f);
    return sum ? fv_binary_op(t, FV_ADD, sum, term) : term;
}

static fv_t amplitudes(fv_tape *t, const pssr_loss *w, fv_t a, fv_t target)
{
    return fv_loss_spectrum(t, a, target, w->patch);
}

fv_t pssr_base_loss(fv_tape *t, const pssr_loss *w, fv_t rgb, fv_t hq)
{
    fv_t sum = 0;
    if (w->pixel > 0) sum = add_term(t, sum, fv_loss_charbonnier(t, rgb, hq, CHARBONNIER),
                                     w->pixel);
    if (w->spectrum > 0) sum = add_term(t, sum, amplitudes(t, w, rgb, hq), w->spectrum);
    return sum;
}

static fv_t low_band(fv_tape *t, fv_t luma) { return fv_low_pass(t, luma, LOW_CUTOFF, LOW_ORDER); }

/* What a pixel of the high band may have: PEAK deviations of the original's around it. */
static fv_t peak_limit(fv_tape *t, fv_t luma)
{
    const fv_t square = fv_activate(t, pssr_high(t, luma), FV_ACT_SQUARE);
    const fv_t around = fv_filter_image(t, square, FV_FILTER_BLUR5, 1);
    return fv_affine(t, fv_activate(t, fv_affine(t, around, 1.0f, EPS), FV_ACT_SQRT), PEAK, 0.0f);
}

static fv_t above(fv_tape *t, fv_t luma, fv_t limit)
{
    const fv_t size = fv_activate(t, pssr_high(t, luma), FV_ACT_ABS);
    return fv_loss_l1(t, fv_activate(t, fv_binary_op(t, FV_SUB, size, limit), FV_ACT_RELU), 0);
}

/* The picture after the update, in [-1, 1]. */
static fv_t with_change(fv_tape *t, fv_t base_rgb, fv_t change)
{
    const fv_t three = fv_concat(t, fv_concat(t, change, change, 3), change, 3);
    return fv_affine(t, fv_binary_op(t, FV_ADD, base_rgb, three), 2.0f, -1.0f);
}

void pssr_anchor_make(fv_tape *t, const pssr_loss *w, fv_t base_rgb, fv_t hq, pssr_anchor *out)
{
    *out = (pssr_anchor){ .hq = hq, .luma = pssr_luma(t, hq) };
    out->base_luma = pssr_luma(t, base_rgb);
    out->base_high = pssr_high(t, out->base_luma);
    if (w->low > 0) out->low = low_band(t, out->luma);
    if (w->peaks > 0) out->limit = peak_limit(t, out->luma);
    out->base = base_rgb;
    if (w->texture > 0) out->goal = fv_affine(t, hq, 2.0f, -1.0f);
}

fv_t pssr_draft_loss(fv_tape *t, const pssr_loss *w, const pssr_anchor *a, fv_t rgb, fv_t *refined)
{
    const fv_t change = change_of(t, w->update, a->base_high, pssr_high(t, pssr_luma(t, rgb)));
    const fv_t y = fv_binary_op(t, FV_ADD, a->base_luma, change);
    fv_t sum = 0;
    *refined = y;
    if (w->pixel > 0) sum = add_term(t, sum, fv_loss_charbonnier(t, rgb, a->hq, CHARBONNIER),
                                     w->pixel);
    if (w->low > 0) sum = add_term(t, sum, fv_loss_charbonnier(t, low_band(t, y), a->low,
                                                               CHARBONNIER), w->low);
    if (w->fidelity > 0) sum = add_term(t, sum, fv_loss_charbonnier(t, y, a->luma, CHARBONNIER),
                                        w->fidelity);
    if (w->spectrum > 0) sum = add_term(t, sum, amplitudes(t, w, y, a->luma), w->spectrum);
    if (w->peaks > 0) sum = add_term(t, sum, above(t, y, a->limit), w->peaks);
    if (w->texture > 0)
        sum = add_term(t, sum, fv_loss_texture(t, with_change(t, a->base, change), a->goal,
                                               w->scales), w->texture);
    return sum;
}
