/* texture.h - private: the Wasserstein distortion of textures, with its gradient. Definition:
 * op_picture_body.h.
 *
 * Windows of 2 to 16 pixels do not overlap and lie in tiles of 16x16, so one block does all of a tile:
 * the seven filters of each of its pixels, both bands of a turn at once, means and deviations of their
 * windows up and the gradients down again in shared memory. A window exists where it lies inside the
 * band; cells of others hold 0. What the bands want of the filters' answers is summed over turns in
 * registers, and goes through the filters the other way round in the next kernel. */
#ifndef FV_CUDA_TEXTURE_H
#define FV_CUDA_TEXTURE_H

#include "cuda/dialect.h"

#include <math.h>

#define FVK_TEXTURE_REACH (FVK_TEXTURE_TAPS - 1)
#define FVK_TEXTURE_WIDE (FVK_TEXTURE_TILE + FVK_TEXTURE_REACH)
#define FVK_TEXTURE_CELLS 85 /* windows of a tile: 64 + 16 + 4 + 1 */
enum {
    FVK_CELL_MU, FVK_CELL_M2, FVK_CELL_MU_T, FVK_CELL_M2_T, FVK_CELL_D_MU, FVK_CELL_D_M2,
    FVK_CELL_ALL
};

/* One colour of the pictures, of every pixel or of 2x2. */
FVK_KERNEL(texture_planes)
{
    PHASE(t) EACH(i, t, a->B * a->h * a->w) {
        const int64_t x = i % a->w, y = i / a->w % a->h, b = i / a->w / a->h;
        const int step = a->is_half ? 2 : 1;
        for (int k = 0; k < 2; k++) {
            float sum = 0;
            for (int j = 0; j < step * step; j++) {
                const int64_t at = (b * a->H + step * y + j / 2) * a->W + step * x + j % 2;
                const float *p = a->rgb[k] + 3 * at;
                sum += a->mix[0] * p[0] + a->mix[1] * p[1] + a->mix[2] * p[2];
            }
            a->plane[k][i] = a->is_half ? 0.25f * sum : sum;
        }
    }
}

/* Windows of level 1 to 4 (2 to 16 pixels): how many a side, and where the first stands. */
FVK_FN int fvk_cells_side(int level) { return FVK_TEXTURE_TILE >> level; }
FVK_FN int fvk_cells_first(int level)
{
    return (256 - 4 * fvk_cells_side(level) * fvk_cells_side(level)) / 3;
}
FVK_FN float *fvk_cell(float *cell, int what, int part, int level, int y, int x)
{
    return cell + (what * 2 + part) * FVK_TEXTURE_CELLS + fvk_cells_first(level) +
           y * fvk_cells_side(level) + x;
}

/* The four moments of window t of a level, t over both parts. */
FVK_FN void fvk_texture_moments(float *cell, const float *band, int level, int parts, int t)
{
    const int side = fvk_cells_side(level), part = t / (side * side);
    const int y = t / side % side, x = t % side;
    if (part >= parts) return;
    for (int k = 0; k < 2; k++) { /* of the band, of its goal */
        float mu = 0, m2 = 0;
        for (int j = 0; j < 4; j++) {
            const int py = 2 * y + j / 2, px = 2 * x + j % 2;
            if (level == 1) {
                const float v = band[(2 * part + k) * FVK_THREADS + py * FVK_TEXTURE_TILE + px];
                mu += v;
                m2 += v * v;
            } else {
                mu += *fvk_cell(cell, FVK_CELL_MU + 2 * k, part, level - 1, py, px);
                m2 += *fvk_cell(cell, FVK_CELL_M2 + 2 * k, part, level - 1, py, px);
            }
        }
        *fvk_cell(cell, FVK_CELL_MU + 2 * k, part, level, y, x) = 0.25f * mu;
        *fvk_cell(cell, FVK_CELL_M2 + 2 * k, part, level, y, x) = 0.25f * m2;
    }
}

/* Loss of cell c of a tile at y0, x0 of a band [oh, ow], and gradients to its moments. */
FVK_FN double fvk_texture_cell(float *cell, const float *weight, int part, int c, int64_t y0,
                               int64_t x0, int64_t oh, int64_t ow)
{
    const int level = c < 64 ? 1 : c < 80 ? 2 : c < 84 ? 3 : 4, side = fvk_cells_side(level);
    const int y = (c - fvk_cells_first(level)) / side, x = (c - fvk_cells_first(level)) % side;
    float *d_mu = fvk_cell(cell, FVK_CELL_D_MU, part, level, y, x);
    float *d_m2 = fvk_cell(cell, FVK_CELL_D_M2, part, level, y, x);
    *d_mu = *d_m2 = 0;
    if ((y0 >> level) + y >= oh >> level || (x0 >> level) + x >= ow >> level) return 0;
    const int64_t n = (oh >> level) * (ow >> level);
    const float mu = *fvk_cell(cell, FVK_CELL_MU, part, level, y, x);
    const float mu_t = *fvk_cell(cell, FVK_CELL_MU_T, part, level, y, x);
    const float var = *fvk_cell(cell, FVK_CELL_M2, part, level, y, x) - mu * mu;
    const float var_t = *fvk_cell(cell, FVK_CELL_M2_T, part, level, y, x) - mu_t * mu_t;
    const float slope = 2 * weight[level] / (float)n, gap = mu - mu_t;
    const float nu = sqrtf((var > 0 ? var : 0) + 1e-4f);
    const float d = nu - sqrtf((var_t > 0 ? var_t : 0) + 1e-4f);
    *d_m2 = var > 0 ? 0.5f * slope * d / nu : 0;
    *d_mu = slope * gap - 2 * mu * *d_m2;
    return (double)(weight[level] * (gap * gap + d * d)) / (double)n;
}

/* What the windows of a level hand to the four inside each. */
FVK_FN void fvk_texture_down(float *cell, int level, int parts, int t)
{
    const int side = fvk_cells_side(level), part = t / (side * side);
    const int y = t / side % side, x = t % side;
    if (part >= parts) return;
    for (int k = FVK_CELL_D_MU; k <= FVK_CELL_D_M2; k++)
        *fvk_cell(cell, k, part, level, y, x) +=
            0.25f * *fvk_cell(cell, k, part, level + 1, y / 2, x / 2);
}

/* Answers of the seven filters at y, x of a tile of planes. */
FVK_FN void fvk_texture_filter(const fvk_texture_args *a, const float *tile, int y, int x,
                               float *answer)
{
    FVK_UNROLL for (int k = 0; k < FVK_TEXTURE_BASIS; k++) answer[k] = 0;
    for (int r = 0; r < FVK_TEXTURE_TAPS; r++) {
        const float *line = tile + (y + r) * FVK_TEXTURE_WIDE + x;
        FVK_UNROLL for (int k = 0; k < FVK_TEXTURE_BASIS; k++) {
            float sum = 0;
            FVK_UNROLL for (int c = 0; c < FVK_TEXTURE_TAPS; c++) sum += a->right[k][c] * line[c];
            answer[k] += a->down[k][r] * sum;
        }
    }
}

/* Both bands of a turn from the answers f; and of those of the target, whose energy is the mask. */
FVK_FN void fvk_texture_turn(const float *turn, const float *f, float *even, float *odd)
{
    *even = turn[0] * f[0] + turn[1] * f[1] + turn[2] * f[2];
    *odd = turn[3] * f[3] + turn[4] * f[4] + turn[5] * f[5] + turn[6] * f[6];
}

/* A block a tile of the bands of one scale. */
FVK_KERNEL(texture_bands)
{
    SHARED(float, tile, 2 * FVK_TEXTURE_WIDE * FVK_TEXTURE_WIDE);
    SHARED(float, band, 4 * FVK_THREADS); /* [part][band, goal][16, 16] */
    SHARED(float, cell, FVK_CELL_ALL * 2 * FVK_TEXTURE_CELLS);
    SHARED(double, sum, FVK_THREADS);
    LOCALS(float, own, FVK_TEXTURE_BASIS);
    LOCALS(float, goal, FVK_TEXTURE_BASIS);
    LOCALS(float, slope, FVK_TEXTURE_BASIS);
    LOCAL(float, mask);
    LOCAL(double, loss);
    const int reach = a->is_last ? 0 : FVK_TEXTURE_REACH, wide = FVK_TEXTURE_WIDE;
    const int turns = a->is_last ? 1 : FVK_TEXTURE_TURNS, parts = a->is_last ? 1 : 2;
    const int64_t oh = a->h - reach, ow = a->w - reach;
    const int64_t across = (ow + FVK_TEXTURE_TILE - 1) / FVK_TEXTURE_TILE;
    const int64_t down = (oh + FVK_TEXTURE_TILE - 1) / FVK_TEXTURE_TILE;
    const int64_t b = block_ / (across * down), x0 = block_ % across * FVK_TEXTURE_TILE;
    const int64_t y0 = block_ / across % down * FVK_TEXTURE_TILE;
    (void)grid_;
    PHASE(t) for (int i = t; i < 2 * wide * wide; i += FVK_THREADS) {
        const int64_t y = y0 + i / wide % wide, x = x0 + i % wide;
        const float *p = a->plane[i / (wide * wide)];
        tile[i] = y < a->h && x < a->w ? p[(b * a->h + y) * a->w + x] : 0.0f;
    }
    PHASE(t) {
        AT(loss, t) = 0;
        FVK_UNROLL for (int k = 0; k < FVK_TEXTURE_BASIS; k++) AT(slope, t)[k] = 0;
        if (!a->is_last) {
            fvk_texture_filter(a, tile, t / 16, t % 16, AT(own, t));
            fvk_texture_filter(a, tile + wide * wide, t / 16, t % 16, AT(goal, t));
        }
    }
    for (int turn = 0; turn < turns; turn++) {
        PHASE(t) {
            const bool is_in = y0 + t / 16 < oh && x0 + t % 16 < ow;
            float v[4];
            AT(mask, t) = 1;
            if (a->is_last) {
                v[0] = tile[t / 16 * wide + t % 16];
                v[1] = tile[wide * wide + t / 16 * wide + t % 16];
                v[2] = v[3] = 0;
            } else {
                fvk_texture_turn(a->turn[turn], AT(own, t), &v[0], &v[2]);
                fvk_texture_turn(a->turn[turn], AT(goal, t), &v[1], &v[3]);
                AT(mask, t) = 1.0f / sqrtf(0.01f + v[1] * v[1] + v[3] * v[3]);
            }
            FVK_UNROLL for (int k = 0; k < 4; k++)
                band[k * FVK_THREADS + t] = is_in ? AT(mask, t) * v[k] : 0.0f;
        }
        for (int level = 1; level < FVK_TEXTURE_POOLS; level++)
            PHASE(t) fvk_texture_moments(cell, band, level, parts, t);
        PHASE(t) if (t < parts * FVK_TEXTURE_CELLS) {
            AT(loss, t) += fvk_texture_cell(cell, a->pool, t / FVK_TEXTURE_CELLS,
                                            t % FVK_TEXTURE_CELLS, y0, x0, oh, ow);
        }
        for (int level = FVK_TEXTURE_POOLS - 2; level > 0; level--)
            PHASE(t) fvk_texture_down(cell, level, parts, t);
        PHASE(t) {
            const int64_t y = y0 + t / 16, x = x0 + t % 16;
            const double n = (double)(oh * ow);
            float by[2] = { 0, 0 };
            FVK_UNROLL for (int k = 0; k < 2; k++) {
                if (y >= oh || x >= ow || k >= parts) continue;
                const float v = band[2 * k * FVK_THREADS + t];
                const float gap = v - band[(2 * k + 1) * FVK_THREADS + t];
                AT(loss, t) += (double)(a->pool[0] * gap * gap) / n;
                by[k] = 2 * a->pool[0] / (float)n * gap +
                        0.25f * *fvk_cell(cell, FVK_CELL_D_MU, k, 1, t / 32, t % 16 / 2) +
                        0.5f * v * *fvk_cell(cell, FVK_CELL_D_M2, k, 1, t / 32, t % 16 / 2);
            }
            FVK_UNROLL for (int k = 0; k < FVK_TEXTURE_BASIS; k++)
                AT(slope, t)[k] += a->turn[turn][k] * AT(mask, t) * by[k < 3 ? 0 : 1];
            if (a->is_last && a->g && y < oh && x < ow) a->g[(b * oh + y) * ow + x] = by[0];
        }
    }
    PHASE(t) {
        const int64_t y = y0 + t / 16, x = x0 + t % 16;
        sum[t] = AT(loss, t);
        FVK_UNROLL for (int k = 0; k < FVK_TEXTURE_BASIS; k++)
            if (a->basis && y < oh && x < ow)
                a->basis[((b * FVK_TEXTURE_BASIS + k) * oh + y) * ow + x] = AT(slope, t)[k];
    }
    TREE_SUM(sum);
    PHASE(t) if (t == 0) a->part[block_] = a->weight * sum[0];
}

/* g of each pixel: the filters the other way round, and what half the size hands back. */
FVK_KERNEL(texture_slopes)
{
    const int64_t oh = a->h - FVK_TEXTURE_REACH, ow = a->w - FVK_TEXTURE_REACH;
    PHASE(t) EACH(i, t, a->B * a->h * a->w) {
        const int64_t x = i % a->w, y = i / a->w % a->h, b = i / a->w / a->h;
        float g = 0;
        for (int r = 0; r < FVK_TEXTURE_TAPS; r++) {
            if (y < r || y - r >= oh) continue;
            for (int k = 0; k < FVK_TEXTURE_BASIS; k++) {
                const float *line = a->basis + ((b * FVK_TEXTURE_BASIS + k) * oh + y - r) * ow;
                float sum = 0;
                for (int c = 0; c < FVK_TEXTURE_TAPS; c++)
                    if (x >= c && x - c < ow) sum += a->right[k][c] * line[x - c];
                g += a->down[k][r] * sum;
            }
        }
        if (y / 2 < a->h / 2 && x / 2 < a->w / 2)
            g += 0.25f * a->coarse[(b * (a->h / 2) + y / 2) * (a->w / 2) + x / 2];
        a->g[i] = g;
    }
}

FVK_KERNEL(texture_rgb)
{
    PHASE(t) EACH(i, t, a->B * a->H * a->W) {
        const int64_t x = i % a->W, y = i / a->W % a->H, b = i / a->W / a->H;
        const bool is_in = y / 2 < a->H / 2 && x / 2 < a->W / 2;
        const int64_t at = (b * (a->H / 2) + y / 2) * (a->W / 2) + x / 2;
        for (int k = 0; k < 3; k++) {
            float sum = a->back[0][k] * a->g[0][i];
            for (int c = 1; c < 3 && is_in; c++) sum += a->back[c][k] * (0.25f * a->g[c][at]);
            a->grad[3 * i + k] = sum;
        }
    }
}

#endif
