/* op_texture.h - private: filters and weights of the texture loss, which every device takes from here.
 * What they are for stands in op_picture_body.h. */
#ifndef FV_OP_TEXTURE_H
#define FV_OP_TEXTURE_H

#include <math.h>

#include "compiler.h"

#define TEXTURE_BASIS 7 /* G2: 3, H2: 4 separable filters */
#define TEXTURE_TURNS 4
#define TEXTURE_TAPS 9
#define TEXTURE_POOLS 5

/* g of the windows of 1, 2, 4, 8 and 16 pixels */
static const float texture_weight[TEXTURE_POOLS] = { 0.4f, 0.2f, 0.2f, 0.1f, 0.1f };
/* Luma and two opponent colours of RGB. */
static const float texture_mix[3][3] = { { 0.299f, 0.587f, 0.114f }, { 0.5f, -0.5f, 0 },
                                         { -0.25f, -0.25f, 0.5f } };

/* Part of each band of colour c in the whole: all bands together are one. */
FV_INLINE double texture_colour_weight(int c, int scales)
{
    const int bands = 2 * TEXTURE_TURNS * scales + 1;
    const int colour_bands = 2 * TEXTURE_TURNS * (scales - 1) + 1;
    return (c ? 0.3 : 1.0) / (bands + 2 * 0.3 * colour_bands);
}

typedef struct steerable {
    float down[TEXTURE_BASIS][TEXTURE_TAPS], right[TEXTURE_BASIS][TEXTURE_TAPS];
    float turn[TEXTURE_TURNS][TEXTURE_BASIS]; /* even part: 0..2, odd part: 3..6 */
} steerable;

/* Sum of |response| of basis filters first .. first + n mixed as in f->turn[0]: their scale. */
FV_INLINE double basis_size(const steerable *f, int first, int n)
{
    double sum = 0;
    for (int y = 0; y < TEXTURE_TAPS; y++)
        for (int x = 0; x < TEXTURE_TAPS; x++) {
            double v = 0;
            for (int i = first; i < first + n; i++)
                v += (double)f->turn[0][i] * f->down[i][y] * f->right[i][x];
            sum += fabs(v);
        }
    return sum;
}

/* Profiles of [Freeman, Adelson 1991, tables III and VI] at steps of 0.67. The second derivative
 * gets the small part of a Gaussian that takes its sampled mean away: flat areas answer 0. */
FV_INLINE void make_steerable(steerable *f)
{
    double g[TEXTURE_TAPS], g1[TEXTURE_TAPS], g3[TEXTURE_TAPS], h1[TEXTURE_TAPS], h3[TEXTURE_TAPS],
        h4[TEXTURE_TAPS], sum_g = 0, sum_g1 = 0;
    for (int i = 0; i < TEXTURE_TAPS; i++) {
        const double x = 0.67 * (i - TEXTURE_TAPS / 2), e = exp(-x * x);
        g[i] = e;
        g1[i] = (2 * x * x - 1) * e * 0.9213;
        g3[i] = x * e * sqrt(2 * 0.9213);
        h1[i] = (x * x * x - 2.254 * x) * e * 0.9780;
        h3[i] = x * e;
        h4[i] = (x * x - 2.254 / 3) * e * 0.9780;
        sum_g += g[i];
        sum_g1 += g1[i];
    }
    for (int i = 0; i < TEXTURE_TAPS; i++) g1[i] -= sum_g1 / sum_g * g[i];
    const double *const right[TEXTURE_BASIS] = { g1, g3, g, h1, h4, h3, g };
    const double *const down[TEXTURE_BASIS] = { g, g3, g1, g, h3, h4, h1 };
    for (int t = 0; t < TEXTURE_TURNS; t++) {
        static const double cosine[TEXTURE_TURNS] = { 1, 0.70710678118654752, 0, -0.70710678118654752 };
        static const double sine[TEXTURE_TURNS] = { 0, 0.70710678118654752, 1, 0.70710678118654752 };
        const double c = cosine[t], s = sine[t];
        const double k[TEXTURE_BASIS] = { c * c, -2 * c * s, s * s, c * c * c, -3 * c * c * s,
                                  3 * c * s * s, -s * s * s };
        for (int i = 0; i < TEXTURE_BASIS; i++) f->turn[t][i] = (float)k[i];
    }
    for (int i = 0; i < TEXTURE_BASIS; i++)
        for (int j = 0; j < TEXTURE_TAPS; j++) {
            f->down[i][j] = (float)down[i][j];
            f->right[i][j] = (float)right[i][j];
        }
    const double size[2] = { basis_size(f, 0, 3), basis_size(f, 3, 4) };
    for (int i = 0; i < TEXTURE_BASIS; i++)
        for (int j = 0; j < TEXTURE_TAPS; j++)
            f->right[i][j] = (float)(right[i][j] / size[i >= 3]);
}

#endif
