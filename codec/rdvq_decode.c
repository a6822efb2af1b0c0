/* rdvq_decode.c - fv_vpic_decode and fv_vpic_read_info: file -> tokens of the tiles that are
 * needed -> pixels, alpha, metadata.
 *
 * What a file asks for is known from its header: the picture, maps of tokens, one tile for the
 * entropy model, one region for the synthesis, the plane of alpha. All of it is compared with the
 * caller's limits before any of it is taken. */
#include <string.h>

#include "image_codec.h"
#include "rdvq_vpic.h"

/* ---- Information ----------------------------------------------------------------------------- */

static int channels_of(const rdvq_head *h)
{
    return (h->flags & RDVQ_IS_GREY ? 1 : 3) + (h->flags & RDVQ_HAS_ALPHA ? 1 : 0);
}

static void fill_info(const rdvq_file *f, fv_vpic_info *out)
{
    const rdvq_head *h = &f->head;
    const int tiles = h->tiles_x * h->tiles_y;
    *out = (fv_vpic_info){ .width = h->width, .height = h->height, .channels = channels_of(h),
                           .depth = h->depth, .colour = h->colour, .model_id = h->model_id,
                           .model_hash = h->model_hash, .tile = 1 << h->tile_log2,
                           .tiles_x = h->tiles_x, .tiles_y = h->tiles_y, .slices = h->slices,
                           .layers = h->layers,
                           .has_segment_crcs = (h->flags & RDVQ_HAS_CRCS) != 0,
                           .is_sampled = (h->flags & RDVQ_IS_SAMPLED) != 0, .seed = h->seed,
                           .header_bytes = f->header_bytes, .whole_bytes = f->whole_bytes,
                           .icc_bytes = f->chunk[RDVQ_ICC].size,
                           .exif_bytes = f->chunk[RDVQ_EXIF].size,
                           .alpha_bytes = f->chunk[RDVQ_ALPHA].size,
                           .xmp_bytes = f->chunk[RDVQ_XMP].size,
                           .is_truncated = f->is_truncated };
    for (int k = 0; k < h->layers; k++)
        out->layer_bytes[k] = f->start[(k + 1) * tiles] - f->start[k * tiles];
}

fv_status fv_vpic_read_info(fv_ctx *ctx, const void *file, size_t size, fv_vpic_info *out)
{
    rdvq_file f;
    if (!file || !out) return fv_fail(ctx, FV_ERR_ARG, "vpic: a file and a place are needed");
    memset(out, 0, sizeof *out);
    FV_TRY(rdvq_file_open(ctx, &f, file, size, RDVQ_MAX_PIXELS));
    fill_info(&f, out);
    rdvq_file_close(ctx, &f);
    return FV_OK;
}

/* ---- Decoding -------------------------------------------------------------------------------- */

typedef struct decoding {
    fv_ctx *ctx;
    fv_vpic_limits l;
    rdvq_file f;
    rdvq_models models;
    const fv_vpic_model *m;
    int part[4];           /* x, y, width, height */
    int slices;            /* to decode */
    uint64_t limit, maps;  /* bytes: in all, of the maps */
    rdvq_grid grid;
    uint16_t *token;
    fv_vpic_stats st;
} decoding;

static fv_status check_limits(decoding *d)
{
    const int *r = d->l.region;
    const rdvq_head *h = &d->f.head;
    const bool is_whole = !r[0] && !r[1] && !r[2] && !r[3];
    if (d->l.strict && d->f.is_truncated)
        return fv_fail(d->ctx, FV_ERR_TRUNCATED, "the file is cut: %llu bytes are missing",
                       (unsigned long long)(d->f.whole_bytes - d->f.header_bytes - d->f.present));
    if (!is_whole && (r[0] < 0 || r[1] < 0 || r[2] < 1 || r[3] < 1 || r[0] > h->width - r[2] ||
                      r[1] > h->height - r[3]))
        return fv_fail(d->ctx, FV_ERR_ARG, "vpic: region %d x %d at (%d, %d) of a picture of %d x "
                       "%d", r[2], r[3], r[0], r[1], h->width, h->height);
    const int whole[4] = { 0, 0, h->width, h->height };
    memcpy(d->part, is_whole ? whole : r, sizeof d->part);
    d->slices = d->l.slices && d->l.slices < h->slices ? d->l.slices : h->slices;
    return FV_OK;
}

/* The memory that each step takes, from the header alone. */
static fv_status check_memory(decoding *d)
{
    const rdvq_head *h = &d->f.head;
    const rdvq_config *c = rdvq_int_config(d->m->entropy);
    FV_TRY(rdvq_grid_of(d->ctx, c, h->width, h->height, &d->grid));
    d->limit = d->l.memory_bytes ? d->l.memory_bytes : RDVQ_MEMORY;
    d->maps = 2 * (uint64_t)rdvq_coded_tokens(&d->grid, rdvq_int_slices(d->m->entropy));
    const uint64_t tiling = rdvq_tiling_memory(d->ctx, d->m, h);
    uint64_t most = tiling;
    const uint64_t pixels = rdvq_pixels_least(d->m->pixels, &d->grid);
    const uint64_t alpha = h->flags & RDVQ_HAS_ALPHA ? rdvq_alpha_memory(h) : 0;
    if (pixels > most) most = pixels;
    if (alpha > most) most = alpha;
    d->st.memory_bytes = tiling > alpha ? tiling : alpha;
    if (d->maps + most <= d->limit) return FV_OK;
    return fv_fail(d->ctx, FV_ERR_OOM, "memory limit of %llu MiB: decoding takes %llu MiB",
                   (unsigned long long)(d->limit >> 20),
                   (unsigned long long)(((d->maps + most) >> 20) + 1));
}

/* The segments of a tile as the coder wants them, which must have lengths that tokens can have. */
static fv_status take_segments(decoding *d, int tile, const int64_t count[RDVQ_MAX_LAYERS],
                               rdvq_segment seg[RDVQ_MAX_LAYERS], bool *is_cut)
{
    const rdvq_slices *s = rdvq_int_slices(d->m->entropy);
    memset(seg, 0, RDVQ_MAX_LAYERS * sizeof *seg);
    *is_cut = false;
    for (int k = 0; k < d->f.head.layers; k++) {
        const rdvq_layer *l = &s->layer[k];
        rdvq_bytes span;
        bool lacks;
        if (l->first_slice >= d->slices) break;
        FV_TRY(rdvq_file_segment(d->ctx, &d->f, k, tile, &span, &lacks));
        if (!lacks && span.size > 8 + 4 * (uint64_t)count[k])
            return fv_fail(d->ctx, FV_ERR_FORMAT, "corrupt: %zu bytes for %lld tokens", span.size,
                           (long long)count[k]);
        const bool goes_on = d->slices < d->f.head.slices && l->first_slice + l->slices > d->slices;
        seg[k] = (rdvq_segment){ span.data, span.size, lacks || goes_on };
        *is_cut |= lacks;
    }
    return FV_OK;
}

static fv_status decode_tile(decoding *d, rdvq_tiling *t, int tile)
{
    const rdvq_head *h = &d->f.head;
    const rdvq_complete complete = { (h->flags & RDVQ_IS_SAMPLED) != 0, h->seed, (uint32_t)tile };
    int64_t count[RDVQ_MAX_LAYERS];
    rdvq_segment seg[RDVQ_MAX_LAYERS];
    bool is_cut;
    int decoded = 0;
    const rdvq_tile in = { rdvq_tiling_go(t, tile, count), t->is_coded };
    fv_status s = take_segments(d, tile, count, seg, &is_cut);
    if (s == FV_OK)
        s = rdvq_tile_decode(t->coder, &in, d->slices, seg, &complete, t->code, &decoded);
    if (s == FV_OK && !is_cut && decoded < d->slices)
        s = fv_fail(d->ctx, FV_ERR_FORMAT, "corrupt: %d slices where %d should be", decoded,
                    d->slices);
    if (s != FV_OK) return fv_fail_in(d->ctx, s, "tile %d", tile);
    for (int i = 0; i < in.windows * t->tokens; i++)
        if (t->place[i] >= 0) d->token[t->place[i]] = (uint16_t)t->code[i];
    d->st.tiles++;
    d->st.short_tiles += is_cut;
    if (decoded < d->st.slices_decoded) d->st.slices_decoded = decoded;
    return FV_OK;
}

/* The tiles that the part of the picture depends on. */
static fv_status decode_tokens(decoding *d)
{
    const rdvq_head *h = &d->f.head;
    const double start = fv_now();
    const int cells = (1 << h->tile_log2) / rdvq_stride(rdvq_int_config(d->m->entropy), 0);
    rdvq_tiling t;
    int r[4];
    rdvq_reach(d->m->pixels, &d->grid, d->part, r);
    const int x1 = (r[0] + r[2] - 1) / cells, y1 = (r[1] + r[3] - 1) / cells;
    const uint64_t all = (uint64_t)(x1 - r[0] / cells + 1) * (uint64_t)(y1 - r[1] / cells + 1);
    d->token = fv_calloc(d->ctx, (size_t)(d->maps / 2), sizeof *d->token);
    if (!d->token) return FV_ERR_OOM;
    FV_TRY(rdvq_tiling_open(d->ctx, &t, d->m, h));
    d->st.slices_decoded = d->slices;
    fv_status s = FV_OK;
    for (int y = r[1] / cells; y <= y1 && s == FV_OK; y++)
        for (int x = r[0] / cells; x <= x1 && s == FV_OK; x++) {
            s = fv_report(d->ctx, "decoding", (uint64_t)d->st.tiles, all, NULL);
            if (s == FV_OK) s = decode_tile(d, &t, y * h->tiles_x + x);
        }
    rdvq_tiling_close(&t);
    d->st.token_seconds = fv_now() - start;
    return s;
}

static fv_status read_metadata(decoding *d, fv_image *out)
{
    const rdvq_bytes *c = d->f.chunk;
    if (c[RDVQ_ICC].data)
        FV_TRY(rdvq_block_unpack(d->ctx, c[RDVQ_ICC], RDVQ_MAX_ICC, &out->icc, &out->icc_bytes));
    if (c[RDVQ_EXIF].data)
        FV_TRY(rdvq_block_unpack(d->ctx, c[RDVQ_EXIF], RDVQ_MAX_EXIF, &out->exif,
                                 &out->exif_bytes));
    if (c[RDVQ_XMP].data) {
        uint8_t *packet;
        size_t bytes;
        FV_TRY(rdvq_block_unpack(d->ctx, c[RDVQ_XMP], RDVQ_MAX_XMP, &packet, &bytes));
        const fv_status s = fvi_xmp_read(d->ctx, out, packet, bytes);
        fv_free(d->ctx, packet);
        return s;
    }
    return FV_OK;
}

static fv_status decode(decoding *d, fv_image *out)
{
    const rdvq_head *h = &d->f.head;
    rdvq_work work = { 0, 0, 0 };
    FV_TRY(check_limits(d));
    FV_TRY(rdvq_models_find(d->ctx, &d->models, d->l.models, d->l.model_count, h));
    d->m = d->models.list[0];
    FV_TRY(rdvq_tiling_check(d->ctx, d->m, h));
    FV_TRY(check_memory(d));
    FV_TRY(fv_image_create(d->ctx, out, d->part[2], d->part[3], channels_of(h),
                           h->depth == 8 ? 8 : 16));
    FV_TRY(read_metadata(d, out));
    FV_TRY(decode_tokens(d));
    const rdvq_paint how = { &d->grid, d->token, h->seed, d->part[0], d->part[1],
                             d->limit - d->maps, h->depth };
    FV_TRY(rdvq_paint_picture(d->ctx, d->m->pixels, &how, out, &work));
    d->st.pixel_seconds = work.seconds;
    d->st.pixel_flop = work.flop;
    if (work.memory > d->st.memory_bytes) d->st.memory_bytes = work.memory;
    d->st.memory_bytes += d->maps;
    if (!d->f.chunk[RDVQ_ALPHA].data) return FV_OK;
    return rdvq_alpha_unpack(d->ctx, d->f.chunk[RDVQ_ALPHA], h, d->part[0], d->part[1], out);
}

static void tell(decoding *d, size_t size, fv_vpic_stats *st)
{
    const rdvq_head *h = &d->f.head;
    const rdvq_slices *s = rdvq_int_slices(d->m->entropy);
    d->st.pixels = (uint64_t)d->part[2] * (uint64_t)d->part[3];
    d->st.bytes = size;
    for (int i = 0; i < RDVQ_CHUNKS; i++) d->st.chunk_bytes += d->f.chunk[i].size;
    d->st.segment_bytes = d->f.present;
    d->st.tokens = (uint64_t)rdvq_coded_tokens(&d->grid, s);
    snprintf(d->st.model, sizeof d->st.model, "%s", rdvq_int_config(d->m->entropy)->name);
    d->st.slices = h->slices;
    d->st.is_truncated = d->f.is_truncated;
    *st = d->st;
}

fv_status fv_vpic_decode(fv_ctx *ctx, const void *file, size_t size, const fv_vpic_limits *limits,
                         fv_image *out, fv_vpic_stats *stats)
{
    decoding d = { .ctx = ctx, .l = FV_VPIC_LIMITS_INIT };
    if (!file || !limits || !out)
        return fv_fail(ctx, FV_ERR_ARG, "vpic: a file, limits and a place are needed");
    memset(out, 0, sizeof *out);
    if (stats) memset(stats, 0, sizeof *stats);
    FV_TRY(FV_TAKE_OPTIONS(ctx, &d.l, limits, "vpic"));
    if (d.l.max_pixels == 0 || d.l.slices < 0)
        return fv_fail(ctx, FV_ERR_ARG, "vpic: limits need max_pixels, and slices of at least 0");
    FV_TRY(rdvq_file_open(ctx, &d.f, file, size,
                          d.l.max_pixels < RDVQ_MAX_PIXELS ? d.l.max_pixels : RDVQ_MAX_PIXELS));
    const fv_status s = decode(&d, out);
    if (s == FV_OK && stats) tell(&d, size, stats);
    if (s != FV_OK) fv_image_free(ctx, out);
    fv_free(ctx, d.token);
    rdvq_models_close(&d.models);
    rdvq_file_close(ctx, &d.f);
    return s;
}
