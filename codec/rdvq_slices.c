/* rdvq_slices.c - the order in which tokens are coded, and all tables that follow from it.
 *
 * Order of a layer [spec of the method]: the window is tiled with unit cells of cell_h x cell_w
 * places, the factor pair of the number of slices closest to a square, and a place's slice is its
 * number in the cell:
 *
 *     official, 2x2: 0 1    2x4: 0 1 2 3    4x4: 0 .. 15 in raster order
 *                    2 3         4 5 6 7
 *
 * Own models visit cells in a dispersed order, so that early slices lie spread over the window: the
 * bits of row and column are taken from the lowest up, and each 2x2 unit is visited 0, 3, 1, 2 (the
 * two diagonals):
 *
 *     own, 2x2: 0 2    2x4: 0 4 1 5    4x4: 0  8  2 10
 *               3 1         6 2 7 3        12  4 14  6
 *                                           3 11  1  9
 *                                          15  7 13  5
 *
 * Neighbours of a place that was just coded then come last, when most is known around them. All
 * slices of a layer have the same number of tokens, one a cell: token t of a slice is paired with
 * token t of the slice before, which lies in the same cell. */
#include "rdvq.h"

#include <math.h>
#include <string.h>

/* ---- Order ----------------------------------------------------------------------------------- */

/* Number of a place in the cell, dispersed. */
static int dispersed(int y, int x, int cell_h, int cell_w)
{
    static const int visit[2][2] = { { 0, 2 }, { 3, 1 } };
    int number = 0, left = cell_h * cell_w;
    while (left > 1) {
        const int options = (cell_h > 1 ? 2 : 1) * (cell_w > 1 ? 2 : 1);
        left /= options;
        if (options == 4) number += visit[y & 1][x & 1] * left;
        else number += (cell_h > 1 ? y & 1 : x & 1) * left;
        if (cell_h > 1) { cell_h /= 2; y /= 2; }
        if (cell_w > 1) { cell_w /= 2; x /= 2; }
    }
    return number;
}

/* Slices n, a power of two: cell_h <= cell_w, as square as they can be. */
static void cell_of(int n, int *cell_h, int *cell_w)
{
    for (*cell_h = 1; 4 * *cell_h * *cell_h <= n; *cell_h *= 2) {}
    *cell_w = n / *cell_h;
}

static void add_layer(const rdvq_config *c, rdvq_slices *s, int scale, int group)
{
    rdvq_layer *l = &s->layer[s->layers++];
    l->scale = scale;
    l->group = group;
    l->side = 4 << scale;
    l->slices = c->slices[scale];
    cell_of(l->slices, &l->cell_h, &l->cell_w);
    l->first_slice = s->slices;
    l->first_token = s->tokens;
    l->tokens = l->side * l->side;
    for (int y = 0; y < l->side; y++)
        for (int x = 0; x < l->side; x++) {
            const int cy = y % l->cell_h, cx = x % l->cell_w;
            const int n = c->is_official ? cy * l->cell_w + cx
                                         : dispersed(cy, cx, l->cell_h, l->cell_w);
            s->slice_of[s->tokens++] = (int16_t)(l->first_slice + n);
        }
    s->slices += l->slices;
}

/* Pairs of slice j and the one before in the same layer, t-th with t-th. */
static void pair_slice(rdvq_slices *s, const rdvq_layer *l, int j)
{
    const int n = s->first[j + 1] - s->first[j];
    const int before = j > l->first_slice ? s->first[j] - s->first[j - 1] : 0;
    for (int t = 0; t < n; t++)
        s->pair[s->list[s->first[j] + t]] =
            before ? s->list[s->first[j - 1] + t % before] : (int16_t)-1;
}

void rdvq_slices_build(const rdvq_config *c, rdvq_slices *s)
{
    int place = 0;
    memset(s, 0, sizeof *s);
    for (int scale = 0; scale < RDVQ_SCALES; scale++)
        for (int g = 0; g < (scale == RDVQ_SCALES - 1 ? c->groups : 1); g++)
            add_layer(c, s, scale, g);
    for (int j = 0; j < s->slices; j++) {
        s->first[j] = (int16_t)place;
        for (int p = 0; p < s->tokens; p++)
            if (s->slice_of[p] == j) {
                s->rank[p] = (int16_t)place;
                s->list[place++] = (int16_t)p;
            }
    }
    s->first[s->slices] = (int16_t)place;
    for (int j = 0; j < s->slices; j++)
        s->visible[j] = s->first[c->strict_mask && j > 0 ? j : j + 1];
    for (int k = 0; k < s->layers; k++)
        for (int j = 0; j < s->layer[k].slices; j++)
            pair_slice(s, &s->layer[k], s->layer[k].first_slice + j);
}

int rdvq_layer_of(const rdvq_slices *s, int position)
{
    int k = 0;
    while (k + 1 < s->layers && position >= s->layer[k + 1].first_token) k++;
    return k;
}

/* ---- Coarse context -------------------------------------------------------------------------- */

void rdvq_bicubic(int n, int i, int index[4], int tap[4])
{
    static const int taps[2][4] = { { -9, 67, 225, -27 }, { -27, 225, 67, -9 } };
    const int first = i / 2 - (i % 2 ? 1 : 2);
    for (int k = 0; k < 4; k++) {
        const int at = first + k;
        index[k] = at < 0 ? 0 : at >= n ? n - 1 : at;
        tap[k] = taps[i % 2][k];
    }
}

void rdvq_coarse(const rdvq_slices *s, int position, int from[RDVQ_TAPS], int tap[RDVQ_TAPS])
{
    const int k = rdvq_layer_of(s, position);
    const rdvq_layer *l = &s->layer[k], *before = &s->layer[k > 0 ? k - 1 : 0];
    const int at = position - l->first_token, y = at / l->side, x = at % l->side;
    int row[4], column[4], down[4], right[4];
    for (int i = 0; i < RDVQ_TAPS; i++) from[i] = before->first_token, tap[i] = 0;
    if (k == 0) return;
    if (before->side == l->side) {
        from[0] = before->first_token + at;
        tap[0] = 65536;
        return;
    }
    rdvq_bicubic(before->side, y, row, down);
    rdvq_bicubic(before->side, x, column, right);
    for (int i = 0; i < RDVQ_TAPS; i++) {
        from[i] = before->first_token + row[i / 4] * before->side + column[i % 4];
        tap[i] = down[i / 4] * right[i % 4];
    }
}

/* ---- Rotary embedding ------------------------------------------------------------------------ */

void rdvq_rope(const rdvq_config *c, const rdvq_slices *s, float *table)
{
    const int pairs = c->width / c->heads / 2, half = pairs / 2;
    for (int place = 0; place < s->tokens; place++) {
        const int p = s->list[place];
        const rdvq_layer *l = &s->layer[rdvq_layer_of(s, p)];
        const int at = p - l->first_token;
        const bool is_zero = c->is_official && s->slice_of[p] == 0;
        float *cosine = table + (int64_t)place * 2 * pairs, *sine = cosine + pairs;
        for (int j = 0; j < pairs; j++) {
            const int step = j < half ? at / l->side : at % l->side;
            const double turn = 1000.0 * step / l->side * pow(1000.0, -2.0 * (j % half) / pairs);
            cosine[j] = is_zero ? 0.0f : (float)cos(turn);
            sine[j] = is_zero ? 0.0f : (float)sin(turn);
        }
    }
}

/* ---- Windows over a picture ------------------------------------------------------------------ */

static int round_up(int n, int step) { return (n + step - 1) / step * step; }

fv_status rdvq_grid_of(fv_ctx *ctx, const rdvq_config *c, int width, int height, rdvq_grid *g)
{
    const int stride = rdvq_stride(c, 0), window = rdvq_window(c);
    memset(g, 0, sizeof *g);
    FV_TRY(fv_meta_range(ctx, "picture width", width, 1, 65535));
    FV_TRY(fv_meta_range(ctx, "picture height", height, 1, 65535));
    g->width = width;
    g->height = height;
    g->padded_w = round_up(width, stride);
    g->padded_h = round_up(height, stride);
    if (c->is_official) { /* in the middle, the odd pixel at the right and the bottom */
        g->left = (g->padded_w - width) / 2;
        g->top = (g->padded_h - height) / 2;
    }
    g->windows_x = round_up(g->padded_w, window) / window;
    g->windows_y = round_up(g->padded_h, window) / window;
    for (int s = 0; s < RDVQ_SCALES; s++) {
        g->map_w[s] = g->padded_w / rdvq_stride(c, s);
        g->map_h[s] = g->padded_h / rdvq_stride(c, s);
    }
    return FV_OK;
}

bool rdvq_place(const rdvq_grid *g, const rdvq_slices *s, int window, int position, int *row,
                int *column)
{
    const rdvq_layer *l = &s->layer[rdvq_layer_of(s, position)];
    const int at = position - l->first_token;
    *row = window / g->windows_x * l->side + at / l->side;
    *column = window % g->windows_x * l->side + at % l->side;
    return *row < g->map_h[l->scale] && *column < g->map_w[l->scale];
}

int64_t rdvq_coded_tokens(const rdvq_grid *g, const rdvq_slices *s)
{
    int64_t n = 0;
    for (int k = 0; k < s->layers; k++)
        n += (int64_t)g->map_w[s->layer[k].scale] * g->map_h[s->layer[k].scale];
    return n;
}

/* ---- Noise ----------------------------------------------------------------------------------- */

/* Mixing of 32 bits by two multiplications (Wellons' lowbias32). */
static uint32_t mix(uint32_t h)
{
    h = (h ^ h >> 16) * 0x7feb352du;
    h = (h ^ h >> 15) * 0x846ca68bu;
    return h ^ h >> 16;
}

float rdvq_noise(uint32_t seed, int stride, int x, int y, int channel)
{
    uint32_t h = mix(seed ^ 0x52445651u);
    h = mix(h ^ (uint32_t)stride << 16 ^ (uint32_t)channel);
    h = mix(h ^ (uint32_t)y);
    h = mix(h ^ (uint32_t)x);
    return (float)((int32_t)(h >> 8) - (1 << 23)) * 0x1p-23f;
}
