/* op_picture_body.h - losses between one picture and its target, with their gradients: MS-SSIM, and
 * a Wasserstein distortion of textures. Plain C for every instruction set: included by op_picture.c
 * and its AVX2 and AVX-512 files, where the compiler makes vectors of the same loops.
 *
 * MS-SSIM [Wang, Simoncelli, Bovik 2003], as metrics.c has it, of luma in [0, 1]:
 *     cs = (2 sab + C2)/(saa + sbb + C2)   l = (2 ua ub + C1)/(ua^2 + ub^2 + C1)
 *     value = 1 - prod_j m_j^(w_j),  m_j = mean cs_j, at the last scale mean (l cs)
 * The gradient of m_j is taken per scale with weight one, and scaled when all m_j are known.
 *
 * Texture [Wasserstein distortion, Qiu, Wagner, Balle, Theis 2024]: means and deviations of filter
 * responses over windows of 2^a pixels,
 *     sum_a g_a mean[(mu_a - mu'_a)^2 + (nu_a - nu'_a)^2],  nu_a = sqrt(var_a + 1e-4),  nu_0 = 0
 * with g = 0.4, 0.2, 0.2, 0.1, 0.1: a = 0 compares pixels of a band, large a statistics of a
 * texture. Responses are those of the steerable quadrature pairs G2, H2 [Freeman, Adelson 1991] at
 * 0, 45, 90 and 135 degrees on each scale of luma and, from half size on, of two opponent colours
 * (weight 0.3); they are divided by sqrt(0.01 + energy of the target's pair), since contrast hides
 * errors. What is left after the last scale counts as one more band. The value is the weighted mean
 * over all bands. */
#include <math.h>

#include "op_planes.h"
#include "op_texture.h"

static const float luma_weight[3] = { 0.299f, 0.587f, 0.114f };

/* ---- MS-SSIM --------------------------------------------------------------------------------- */

#define SSIM_TAPS 11
static const double ssim_weight[5] = { 0.0448, 0.2856, 0.3001, 0.2363, 0.1333 };

typedef struct ssim_planes { float *a, *b, *g; int w, h; } ssim_planes;
typedef struct ssim_work {
    float *moment[5], *square, *row; /* ua, ub, E aa, E bb, E ab; one product plane */
    float taps[SSIM_TAPS];
} ssim_work;

static void ssim_taps(float taps[SSIM_TAPS])
{
    double t[SSIM_TAPS], sum = 0;
    for (int i = 0; i < SSIM_TAPS; i++) {
        t[i] = exp(-(i - 5.0) * (i - 5.0) / (2 * 1.5 * 1.5));
        sum += t[i];
    }
    for (int i = 0; i < SSIM_TAPS; i++) taps[i] = (float)(t[i] / sum);
}

static void ssim_moments(const ssim_planes *p, ssim_work *k)
{
    const int64_t n = (int64_t)p->w * p->h;
    const float *const x[5] = { p->a, p->b, p->a, p->b, p->a };
    const float *const y[5] = { NULL, NULL, p->a, p->b, p->b };
    for (int m = 0; m < 5; m++) {
        const float *from = x[m];
        if (y[m]) {
            for (int64_t i = 0; i < n; i++) k->square[i] = x[m][i] * y[m][i];
            from = k->square;
        }
        plane_filter(k->moment[m], from, p->w, p->h, k->taps, k->taps, SSIM_TAPS, k->row);
    }
}

/* Mean of cs, or of l cs (is_last), over windows; the moments ua, aa, ab become the derivatives to
 * ua, E aa and E ab of the sum. */
static double ssim_mean(const ssim_planes *p, const ssim_work *k, bool is_last)
{
    const int64_t n = (int64_t)(p->w - SSIM_TAPS + 1) * (p->h - SSIM_TAPS + 1);
    const float c1 = 0.0001f, c2 = 0.0009f;
    float *ua = k->moment[0], *aa = k->moment[2], *ab = k->moment[4], *value = k->moment[3];
    const float *ub = k->moment[1], *bb = k->moment[3];
    for (int64_t i = 0; i < n; i++) {
        const float a = ua[i], b = ub[i], mean = a * a + b * b + c1;
        const float den = 1.0f / (aa[i] - a * a + bb[i] - b * b + c2);
        const float cs = (2 * (ab[i] - a * b) + c2) * den, l = (2 * a * b + c1) / mean;
        const float by_cs = is_last ? l : 1.0f, by_l = is_last ? cs : 0.0f;
        const float dab = 2 * by_cs * den, daa = -by_cs * cs * den;
        ab[i] = dab;
        aa[i] = daa;
        ua[i] = -dab * b - 2 * daa * a + by_l * 2 * (b - a * l) / mean;
        value[i] = by_cs * cs; /* takes the place of bb[i], which was read */
    }
    return plane_sum(value, n) / (double)n;
}

/* g = gradient of the mean to plane a. */
static void ssim_gradient(const ssim_planes *p, const ssim_work *k)
{
    const int64_t n = (int64_t)p->w * p->h;
    const float count = (float)((p->w - SSIM_TAPS + 1) * (int64_t)(p->h - SSIM_TAPS + 1));
    float *g = p->g, *part = k->square;
    for (int m = 0; m < 5; m += 2) {
        memset(part, 0, (size_t)n * sizeof *part);
        plane_filter_back(part, k->moment[m], p->w, p->h, k->taps, k->taps, SSIM_TAPS, k->row);
        for (int64_t i = 0; i < n; i++) {
            const float by = m == 0 ? 1.0f : m == 2 ? 2 * p->a[i] : p->b[i];
            g[i] = (m ? g[i] : 0.0f) + by * part[i] / count;
        }
    }
}

static void ssim_layout(const fvi_picture_pair *p, ssim_planes s[5], ssim_work *k)
{
    const size_t n = fvi_pad16((int64_t)p->width * p->height);
    float *at = p->work;
    for (int m = 0; m < 5; m++, at += n) k->moment[m] = at;
    k->square = at;
    k->row = at + n;
    at += n + fvi_pad16(p->width);
    for (int j = 0; j < p->scales; j++) {
        const int w = p->width >> j, h = p->height >> j;
        const size_t size = fvi_pad16((int64_t)w * h);
        s[j] = (ssim_planes){ at, at + size, at + 2 * size, w, h };
        at += 3 * size;
    }
}

static double ssim_picture(const fvi_picture_pair *p)
{
    ssim_planes s[5];
    ssim_work k;
    double mean[5], total = 0, product = 1;
    const int64_t n = (int64_t)p->width * p->height;
    ssim_layout(p, s, &k);
    ssim_taps(k.taps);
    for (int c = 0; c < 2; c++) {
        float *y = c ? s[0].b : s[0].a;
        plane_mix(y, c ? p->target : p->a, luma_weight, n);
        for (int64_t i = 0; i < n; i++) y[i] = 0.5f * y[i] + 0.5f;
    }
    for (int j = 0; j < p->scales; j++) {
        if (j) plane_halve(s[j].a, s[j - 1].a, s[j - 1].w, s[j - 1].h);
        if (j) plane_halve(s[j].b, s[j - 1].b, s[j - 1].w, s[j - 1].h);
        ssim_moments(&s[j], &k);
        mean[j] = fmax(ssim_mean(&s[j], &k, j == p->scales - 1), 1e-4);
        if (p->grad) ssim_gradient(&s[j], &k);
        total += ssim_weight[j];
    }
    for (int j = 0; j < p->scales; j++) product *= pow(mean[j], ssim_weight[j] / total);
    for (int j = p->scales - 1; p->grad && j >= 0; j--) {
        const bool is_flat = mean[j] <= 1e-4; /* held there: no slope */
        const float f = is_flat ? 0.0f : (float)(ssim_weight[j] / total * product / mean[j]);
        for (int64_t i = 0; i < (int64_t)s[j].w * s[j].h; i++) s[j].g[i] *= f;
        if (j + 1 < p->scales) plane_halve_back(s[j].g, s[j + 1].g, s[j].w, s[j].h);
    }
    if (p->grad) {
        const float w[3] = { -0.5f * luma_weight[0], -0.5f * luma_weight[1],
                             -0.5f * luma_weight[2] };
        memset(p->grad, 0, (size_t)(3 * n) * sizeof *p->grad);
        plane_unmix(p->grad, s[0].g, w, n);
    }
    return 1 - product;
}

/* ---- Texture --------------------------------------------------------------------------------- */

#define BASIS TEXTURE_BASIS
#define TURNS TEXTURE_TURNS
#define POOLS TEXTURE_POOLS

/* Moments of a band and of its target over windows of 2, 4, 8 and 16 pixels, and gradients to the
 * first two. Single pixels need no memory of their own. */
typedef struct pool { float *mu, *m2, *mu_t, *m2_t, *g_mu, *g_m2; int w, h; } pool;

typedef struct texture_work {
    steerable f;
    float *plane[5], *plane_t[5], *grad[5]; /* of one channel, per scale; grad: residue too */
    float *basis[BASIS], *basis_t[BASIS], *g_basis[BASIS];
    float *even, *odd, *even_t, *odd_t;     /* responses at one turn */
    float *mask;
    float *row, *pools;
    bool want;
} texture_work;

static int make_pools(pool *p, float *at, int w, int h)
{
    int n = 0;
    for (w /= 2, h /= 2; n < POOLS - 1 && w > 0 && h > 0; n++, w /= 2, h /= 2) {
        const size_t size = fvi_pad16((int64_t)w * h);
        p[n] = (pool){ at, at + size, at + 2 * size, at + 3 * size, at + 4 * size, at + 5 * size,
                       w, h };
        at += 6 * size;
    }
    return n;
}

/* Both moments of 2x2 pixels of [w, h]. */
static void first_pool(float *FV_RESTRICT mu, float *FV_RESTRICT m2, const float *FV_RESTRICT x,
                       int w, int h)
{
    for (int r = 0; r < h / 2; r++) {
        const float *a = x + (int64_t)2 * r * w, *b = a + w;
        float *m = mu + (int64_t)r * (w / 2), *q = m2 + (int64_t)r * (w / 2);
        for (int i = 0; i < w / 2; i++) {
            const float c0 = a[2 * i], c1 = a[2 * i + 1], d0 = b[2 * i], d1 = b[2 * i + 1];
            m[i] = 0.25f * (c0 + c1 + d0 + d1);
            q[i] = 0.25f * (c0 * c0 + c1 * c1 + d0 * d0 + d1 * d1);
        }
    }
}

/* x becomes the gradient: slope (x - t), and what the first pool's moments want of it. */
static void first_pool_back(float *FV_RESTRICT x, const float *FV_RESTRICT t, int w, int h,
                            const pool *p, float slope)
{
    for (int r = 0; r < h; r++) {
        float *to = x + (int64_t)r * w;
        const float *goal = t + (int64_t)r * w;
        const bool is_in = p && r / 2 < p->h;
        const float *mu = is_in ? p->g_mu + (int64_t)(r / 2) * p->w : NULL;
        const float *m2 = is_in ? p->g_m2 + (int64_t)(r / 2) * p->w : NULL;
        const int pairs = is_in ? p->w : 0;
        for (int i = 0; i < pairs; i++)
            for (int k = 2 * i; k < 2 * i + 2; k++)
                to[k] = slope * (to[k] - goal[k]) + 0.25f * mu[i] + 0.5f * m2[i] * to[k];
        for (int i = 2 * pairs; i < w; i++) to[i] = slope * (to[i] - goal[i]);
    }
}

/* Loss of one pool, and gradients to its moments. */
static double pool_loss(const pool *p, float weight)
{
    const int64_t n = (int64_t)p->w * p->h;
    const float slope = 2 * weight / (float)n;
    float *square = p->m2_t; /* each is read before it is overwritten */
    for (int64_t i = 0; i < n; i++) {
        const float gap = p->mu[i] - p->mu_t[i];
        const float var = p->m2[i] - p->mu[i] * p->mu[i];
        const float var_t = p->m2_t[i] - p->mu_t[i] * p->mu_t[i];
        const float nu = sqrtf((var > 0 ? var : 0) + 1e-4f);
        const float d = nu - sqrtf((var_t > 0 ? var_t : 0) + 1e-4f);
        const float by_m2 = var > 0 ? 0.5f * slope * d / nu : 0;
        p->g_m2[i] = by_m2;
        p->g_mu[i] = slope * gap - 2 * p->mu[i] * by_m2;
        square[i] = gap * gap + d * d;
    }
    return weight * plane_sum(square, n) / (double)n;
}

/* Distance of a band x from its target; x becomes the gradient. */
static double band_loss(float *x, const float *target, int w, int h, texture_work *k)
{
    const float *weight = texture_weight;
    const int64_t n = (int64_t)w * h;
    pool p[POOLS - 1];
    const int pools = make_pools(p, k->pools, w, h);
    double loss = weight[0] * plane_sqdiff(x, target, n) / (double)n;
    for (int a = 0; a < pools; a++) {
        const pool *up = &p[a > 0 ? a - 1 : 0];
        if (a == 0) {
            first_pool(p[0].mu, p[0].m2, x, w, h);
            first_pool(p[0].mu_t, p[0].m2_t, target, w, h);
        } else {
            plane_halve(p[a].mu, up->mu, up->w, up->h);
            plane_halve(p[a].m2, up->m2, up->w, up->h);
            plane_halve(p[a].mu_t, up->mu_t, up->w, up->h);
            plane_halve(p[a].m2_t, up->m2_t, up->w, up->h);
        }
    }
    for (int a = 0; a < pools; a++) loss += pool_loss(&p[a], weight[a + 1]);
    if (!k->want) return loss;
    for (int a = pools - 1; a > 0; a--) {
        plane_halve_back(p[a - 1].g_mu, p[a].g_mu, p[a - 1].w, p[a - 1].h);
        plane_halve_back(p[a - 1].g_m2, p[a].g_m2, p[a - 1].w, p[a - 1].h);
    }
    first_pool_back(x, target, w, h, pools ? &p[0] : NULL, 2 * weight[0] / (float)n);
    return loss;
}

/* Both bands of turn t from the basis, masked. */
static void turn_bands(texture_work *k, int t, int64_t n)
{
    const float *c = k->f.turn[t];
    for (int64_t i = 0; i < n; i++) {
        const float e = c[0] * k->basis_t[0][i] + c[1] * k->basis_t[1][i] + c[2] * k->basis_t[2][i];
        const float o = c[3] * k->basis_t[3][i] + c[4] * k->basis_t[4][i] +
                        c[5] * k->basis_t[5][i] + c[6] * k->basis_t[6][i];
        const float mask = 1.0f / sqrtf(0.01f + e * e + o * o);
        k->mask[i] = mask;
        k->even_t[i] = mask * e;
        k->odd_t[i] = mask * o;
        k->even[i] = mask * (c[0] * k->basis[0][i] + c[1] * k->basis[1][i] +
                             c[2] * k->basis[2][i]);
        k->odd[i] = mask * (c[3] * k->basis[3][i] + c[4] * k->basis[4][i] +
                            c[5] * k->basis[5][i] + c[6] * k->basis[6][i]);
    }
}

/* Gradients of both bands, even and odd, onto those of the basis. */
static void turn_back(texture_work *k, int t, int64_t n)
{
    const float *c = k->f.turn[t];
    for (int64_t i = 0; i < n; i++) {
        k->even[i] *= k->mask[i];
        k->odd[i] *= k->mask[i];
    }
    for (int b = 0; b < BASIS; b++) {
        const float *g = b < 3 ? k->even : k->odd;
        float *to = k->g_basis[b];
        if (t == 0)
            for (int64_t i = 0; i < n; i++) to[i] = c[b] * g[i];
        else
            for (int64_t i = 0; i < n; i++) to[i] += c[b] * g[i];
    }
}

/* All bands of one scale; the gradient is added to k->grad[j]. */
static double scale_loss(texture_work *k, int j, int w, int h)
{
    const int ow = w - TEXTURE_TAPS + 1, oh = h - TEXTURE_TAPS + 1;
    const int64_t n = (int64_t)ow * oh;
    double loss = 0;
    for (int b = 0; b < BASIS; b++) {
        plane_filter(k->basis[b], k->plane[j], w, h, k->f.down[b], k->f.right[b], TEXTURE_TAPS,
                     k->row);
        plane_filter(k->basis_t[b], k->plane_t[j], w, h, k->f.down[b], k->f.right[b], TEXTURE_TAPS,
                     k->row);
    }
    for (int t = 0; t < TURNS; t++) {
        turn_bands(k, t, n);
        loss += band_loss(k->even, k->even_t, ow, oh, k);
        loss += band_loss(k->odd, k->odd_t, ow, oh, k);
        if (k->want) turn_back(k, t, n);
    }
    for (int b = 0; b < BASIS && k->want; b++)
        plane_filter_back(k->grad[j], k->g_basis[b], w, h, k->f.down[b], k->f.right[b],
                          TEXTURE_TAPS, k->row);
    return loss;
}

/* Sum over the bands of a channel whose planes stand in plane[0], plane_t[0] ([w, h], `scales` of
 * them); its gradient to plane[0] comes into grad[0]. */
static double channel_loss(texture_work *k, int w, int h, int scales)
{
    double loss = 0;
    for (int j = 0; j < scales; j++) {
        const int wj = w >> j, hj = h >> j;
        memset(k->grad[j], 0, (size_t)wj * (size_t)hj * sizeof(float));
        if (j) plane_halve(k->plane[j], k->plane[j - 1], w >> (j - 1), h >> (j - 1));
        if (j) plane_halve(k->plane_t[j], k->plane_t[j - 1], w >> (j - 1), h >> (j - 1));
        loss += scale_loss(k, j, wj, hj);
    }
    const int last = scales - 1, wl = w >> last, hl = h >> last;
    plane_halve(k->even, k->plane[last], wl, hl);
    plane_halve(k->even_t, k->plane_t[last], wl, hl);
    loss += band_loss(k->even, k->even_t, wl / 2, hl / 2, k);
    if (!k->want) return loss;
    plane_halve_back(k->grad[last], k->even, wl, hl);
    for (int j = last; j > 0; j--)
        plane_halve_back(k->grad[j - 1], k->grad[j], w >> (j - 1), h >> (j - 1));
    return loss;
}

static void texture_layout(const fvi_picture_pair *p, texture_work *k)
{
    const size_t n = fvi_pad16((int64_t)p->width * p->height);
    float *at = p->work;
    float **const single[] = { &k->even, &k->odd, &k->even_t, &k->odd_t, &k->mask };
    for (int i = 0; i < BASIS; i++, at += 3 * n) {
        k->basis[i] = at;
        k->basis_t[i] = at + n;
        k->g_basis[i] = at + 2 * n;
    }
    for (int i = 0; i < 5; i++, at += n) *single[i] = at;
    for (int j = 0; j < 5; j++) {
        const size_t size = fvi_pad16((int64_t)(p->width >> j) * (p->height >> j));
        k->plane[j] = at;
        k->plane_t[j] = at + size;
        k->grad[j] = at + 2 * size;
        at += 3 * size;
    }
    k->row = at;
    k->pools = at + fvi_pad16(p->width);
    k->want = p->grad != NULL;
}

static double texture_picture(const fvi_picture_pair *p)
{
    texture_work k;
    const int w = p->width, h = p->height;
    const int64_t n = (int64_t)w * h;
    double loss = 0;
    texture_layout(p, &k);
    make_steerable(&k.f);
    if (p->grad) memset(p->grad, 0, (size_t)(3 * n) * sizeof *p->grad);
    for (int c = 0; c < 3; c++) {
        const float *mix = texture_mix[c];
        const double weight = texture_colour_weight(c, p->scales);
        float *const x = c ? k.basis[0] : k.plane[0], *const y = c ? k.basis[1] : k.plane_t[0];
        plane_mix(x, p->a, mix, n);
        plane_mix(y, p->target, mix, n);
        if (c) plane_halve(k.plane[0], x, w, h);
        if (c) plane_halve(k.plane_t[0], y, w, h);
        loss += weight * (c ? channel_loss(&k, w / 2, h / 2, p->scales - 1)
                            : channel_loss(&k, w, h, p->scales));
        if (!p->grad) continue;
        float *g = k.grad[0];
        if (c) {
            g = k.basis[0];
            memset(g, 0, (size_t)n * sizeof *g);
            plane_halve_back(g, k.grad[0], w, h);
        }
        const float back[3] = { (float)(weight * (double)mix[0]),
                                (float)(weight * (double)mix[1]),
                                (float)(weight * (double)mix[2]) };
        plane_unmix(p->grad, g, back, n);
    }
    return loss;
}

void PICTURE_INIT(fvi_picture_ops *o)
{
    o->ssim = ssim_picture;
    o->texture = texture_picture;
}
