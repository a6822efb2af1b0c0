/* rdvq_tokens.c - which tokens lie in which tile.
 *
 * A tile is a square of pixels of whole windows, the last ones of a row and column are smaller. Its
 * windows go row by row; a place in a window is a token of the picture's maps, or lies beyond them
 * and is not coded. */
#include "rdvq_vpic.h"

#include <string.h>

int rdvq_layers_of(const rdvq_slices *s, int slices)
{
    int n = 0;
    while (n < s->layers && s->layer[n].first_slice < slices) n++;
    return n;
}

fv_status rdvq_tiling_check(fv_ctx *ctx, const fv_vpic_model *m, const rdvq_head *h)
{
    const rdvq_slices *s = rdvq_int_slices(m->entropy);
    const int side = 1 << h->tile_log2, window = rdvq_window(rdvq_int_config(m->entropy));
    if (side % window)
        return fv_fail(ctx, FV_ERR_FORMAT, "tiles of %d pixels are no multiple of the model's "
                       "windows of %d", side, window);
    if (h->slices > s->slices || h->layers != rdvq_layers_of(s, h->slices))
        return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: %d slices in %d layers, the model has %d in "
                       "%d", h->slices, h->layers, s->slices, s->layers);
    return FV_OK;
}

/* Windows that cover `size` pixels. */
static int windows_over(int size, int window) { return (size + window - 1) / window; }

static int largest_tile(const rdvq_config *c, const rdvq_head *h)
{
    const int side = 1 << h->tile_log2;
    return windows_over(h->width < side ? h->width : side, rdvq_window(c)) *
           windows_over(h->height < side ? h->height : side, rdvq_window(c));
}

uint64_t rdvq_tiling_memory(fv_ctx *ctx, const fv_vpic_model *m, const rdvq_head *h)
{
    const int windows = largest_tile(rdvq_int_config(m->entropy), h);
    const uint64_t places = (uint64_t)windows * (uint64_t)rdvq_int_slices(m->entropy)->tokens;
    return rdvq_coder_memory(m->entropy, windows, fv_ctx_threads(ctx)) + 9 * places;
}

fv_status rdvq_tiling_open(fv_ctx *ctx, rdvq_tiling *t, const fv_vpic_model *m, const rdvq_head *h)
{
    const rdvq_config *c = rdvq_int_config(m->entropy);
    memset(t, 0, sizeof *t);
    FV_TRY(rdvq_tiling_check(ctx, m, h));
    t->ctx = ctx;
    t->m = m;
    t->h = h;
    FV_TRY(rdvq_grid_of(ctx, c, h->width, h->height, &t->grid));
    rdvq_map_of(&t->grid, rdvq_int_slices(m->entropy), &t->map);
    t->windows = largest_tile(c, h);
    t->tokens = rdvq_int_slices(m->entropy)->tokens;
    const size_t n = (size_t)t->windows * (size_t)t->tokens;
    t->place = fv_alloc(ctx, n * sizeof *t->place);
    t->code = fv_alloc(ctx, n * sizeof *t->code);
    t->is_coded = fv_alloc(ctx, n);
    fv_status s = t->place && t->code && t->is_coded ? FV_OK : FV_ERR_OOM;
    if (s == FV_OK) s = rdvq_coder_open(ctx, &t->coder, m->entropy, t->windows);
    if (s != FV_OK) rdvq_tiling_close(t);
    return s;
}

void rdvq_tiling_close(rdvq_tiling *t)
{
    rdvq_coder_close(&t->coder);
    fv_free(t->ctx, t->place);
    fv_free(t->ctx, t->code);
    fv_free(t->ctx, t->is_coded);
    memset(t, 0, sizeof *t);
}

int rdvq_tiling_go(rdvq_tiling *t, int tile, int64_t count[RDVQ_MAX_LAYERS])
{
    const rdvq_slices *s = rdvq_int_slices(t->m->entropy);
    const int window = rdvq_window(rdvq_int_config(t->m->entropy));
    const int across = (1 << t->h->tile_log2) / window; /* of a whole tile */
    const int x0 = tile % t->h->tiles_x * across, y0 = tile / t->h->tiles_x * across;
    const int nx = t->grid.windows_x - x0 < across ? t->grid.windows_x - x0 : across;
    const int ny = t->grid.windows_y - y0 < across ? t->grid.windows_y - y0 : across;
    if (count) memset(count, 0, RDVQ_MAX_LAYERS * sizeof *count);
    for (int w = 0; w < nx * ny; w++)
        for (int p = 0; p < t->tokens; p++) {
            const int k = rdvq_layer_of(s, p), i = w * t->tokens + p;
            const int number = (y0 + w / nx) * t->grid.windows_x + x0 + w % nx;
            int row, column;
            t->is_coded[i] = rdvq_place(&t->grid, s, number, p, &row, &column);
            t->place[i] = -1;
            if (!t->is_coded[i]) continue;
            t->place[i] = (int32_t)(t->map.first[k] + (int64_t)row * t->map.width[k] + column);
            if (count) count[k]++;
        }
    return nx * ny;
}
