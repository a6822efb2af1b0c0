/* rdvq_encode.c - fv_vpic_encode: picture -> latents -> codes -> segments -> file.
 *
 *     alpha, hidden colours │ analysis, the 16 nearest codes of each token │ for each tile: choice
 * of
 *     codes while they are coded │ the size is compared, perhaps once more with another weight or
 *     another model │ file
 *
 * Analysis is done once for a model that is tried, coding once for a pass. */
#include <math.h>
#include <string.h>

#include "image_codec.h"
#include "rdvq_vpic.h"

#define CRCS_FROM 65536 /* bytes of a file from which on segments have checksums */

typedef struct encoding {
    fv_ctx *ctx;
    fv_vpic_options o;
    rdvq_models models;
    fv_image img;           /* the caller's, or `own` */
    fv_image own;           /* copy whose hidden colours are filled */
    vz_buf packed[RDVQ_CHUNKS];
    rdvq_bytes chunk[RDVQ_CHUNKS];
    rdvq_head head;
    int model;              /* that was analysed, -1: none */
    rdvq_nearest near;
    rdvq_tiling tiling;
    vz_buf *segment;        /* [tiles][RDVQ_MAX_LAYERS] */
    double mu, bits;        /* of the last pass */
    double token_seconds;
    rdvq_work work;
    uint64_t tokens;
    uint64_t limit, memory; /* bytes: allowed, most at a time */
} encoding;

/* ---- What goes beside tokens ---------------------------------------------------------------- */

static fv_status check_memory(encoding *e, uint64_t need)
{
    if (need > e->memory) e->memory = need;
    if (need <= e->limit) return FV_OK;
    return fv_fail(e->ctx, FV_ERR_OOM, "memory limit of %llu MiB: encoding takes %llu MiB",
                   (unsigned long long)(e->limit >> 20), (unsigned long long)((need >> 20) + 1));
}

static fv_status pack_alpha(encoding *e)
{
    const fv_image *img = &e->img;
    bool is_opaque;
    if (!fvi_has_alpha(img->channels)) return FV_OK;
    FV_TRY(check_memory(e, rdvq_hidden_memory(img)));
    FV_TRY(rdvq_alpha_pack(e->ctx, img, &e->packed[RDVQ_ALPHA], &is_opaque));
    if (is_opaque) return FV_OK;
    FV_TRY(fv_image_crop(e->ctx, &e->own, img, 0, 0, img->width, img->height));
    e->img = e->own;
    return rdvq_fill_hidden(e->ctx, &e->own);
}

static fv_status pack_chunks(encoding *e)
{
    const fv_image *img = &e->img;
    for (int i = 0; i < RDVQ_CHUNKS; i++) vz_buf_init(&e->packed[i], e->ctx);
    if (!e->o.drop_metadata && img->icc && img->icc_bytes > 0 && img->icc_bytes <= RDVQ_MAX_ICC)
        FV_TRY(rdvq_block_pack(e->ctx, img->icc, img->icc_bytes, &e->packed[RDVQ_ICC]));
    if (!e->o.drop_metadata && img->exif && img->exif_bytes > 0 &&
        img->exif_bytes <= RDVQ_MAX_EXIF)
        FV_TRY(rdvq_block_pack(e->ctx, img->exif, img->exif_bytes, &e->packed[RDVQ_EXIF]));
    const char *xmp = e->o.drop_metadata ? NULL : fv_image_text(img, FVI_XMP_KEY);
    const size_t xmp_bytes = xmp ? strlen(xmp) : 0;
    if (xmp_bytes > 0 && xmp_bytes <= RDVQ_MAX_XMP)
        FV_TRY(rdvq_block_pack(e->ctx, xmp, xmp_bytes, &e->packed[RDVQ_XMP]));
    FV_TRY(pack_alpha(e));
    for (int i = 0; i < RDVQ_CHUNKS; i++)
        if (e->packed[i].size > 0)
            e->chunk[i] = (rdvq_bytes){ e->packed[i].data, e->packed[i].size };
    if (e->chunk[RDVQ_ICC].data) e->head.colour = RDVQ_COLOUR_ICC;
    return FV_OK;
}

static fv_status make_head(encoding *e)
{
    const fv_image *img = &e->img;
    rdvq_head *h = &e->head;
    *h = (rdvq_head){ .width = img->width, .height = img->height, .depth = img->depth,
                      .tile_log2 = e->o.tile_log2 ? e->o.tile_log2 : 9 };
    if (img->channels <= 2) h->flags |= RDVQ_IS_GREY;
    if (e->o.sampled) h->flags |= RDVQ_IS_SAMPLED, h->seed = e->o.seed;
    FV_TRY(rdvq_head_check(e->ctx, h));
    const size_t n = (size_t)h->tiles_x * (size_t)h->tiles_y * RDVQ_MAX_LAYERS;
    e->segment = fv_calloc(e->ctx, n, sizeof *e->segment);
    if (!e->segment) return FV_ERR_OOM;
    for (size_t i = 0; i < n; i++) vz_buf_init(&e->segment[i], e->ctx);
    return FV_OK;
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

static fv_status use_model(encoding *e, int i)
{
    const fv_vpic_model *m = e->models.list[i];
    const rdvq_slices *s = rdvq_int_slices(m->entropy);
    if (e->model == i) return FV_OK;
    e->model = -1;
    rdvq_nearest_free(e->ctx, &e->near);
    rdvq_tiling_close(&e->tiling);
    e->head.model_id = m->id;
    e->head.model_hash = m->hash;
    e->head.slices = s->slices;
    e->head.layers = s->layers;
    rdvq_grid g;
    FV_TRY(rdvq_grid_of(e->ctx, rdvq_int_config(m->entropy), e->img.width, e->img.height, &g));
    e->tokens = (uint64_t)rdvq_coded_tokens(&g, s);
    const uint64_t fixed = e->tokens * RDVQ_NEAREST * 6;
    const uint64_t least = fixed + rdvq_pixels_least(m->pixels, &g),
                   coder = fixed + rdvq_tiling_memory(e->ctx, m, &e->head);
    if (least > e->limit) return check_memory(e, least);
    FV_TRY(check_memory(e, coder));
    e->work.memory = 0;
    FV_TRY(rdvq_analyse_picture(e->ctx, m->pixels, &e->img, e->limit - fixed, &e->near, &e->work));
    FV_TRY(check_memory(e, fixed + e->work.memory));
    FV_TRY(rdvq_tiling_open(e->ctx, &e->tiling, m, &e->head));
    e->model = i;
    return FV_OK;
}

/* Weight of bits by scale. A coarse latent reaches 16 and 4 times the pixels of a fine one, so its
 * distance counts for more; measured at 0.055 bits per pixel (rdvq-xs trained for 0.08, 4 photos):
 * equal weights 24.86 dB, MS-SSIM 0.893; by area 25.40, 0.907; these 25.43, 0.908. */
static const double scale_weight[RDVQ_SCALES] = { 1.0 / 256, 1.0 / 16, 1 };

static int32_t choose(void *user, int window, int position, const rdvq_prices *p)
{
    const encoding *e = user;
    const int count = e->near.count;
    const int64_t t = e->tiling.place[window * e->tiling.tokens + position] * (int64_t)count;
    const rdvq_slices *s = rdvq_int_slices(e->models.list[e->model]->entropy);
    const double weight =
        e->mu * scale_weight[s->layer[rdvq_layer_of(s, position)].scale] / 65536;
    double least = INFINITY;
    int32_t best = 0;
    for (int i = 0; i < count; i++) {
        /* Further away than the best costs: no price makes up for it. */
        if (e->near.distance[t + i] >= least) break;
        const uint16_t code = e->near.code[t + i];
        const double cost = e->near.distance[t + i] + weight * rdvq_price(p, code);
        if (cost < least) {
            least = cost;
            best = code;
        }
    }
    return best;
}

static fv_status code_tile(encoding *e, int tile)
{
    rdvq_tiling *t = &e->tiling;
    const rdvq_chooser chooser = { choose, e };
    const int windows = rdvq_tiling_go(t, tile, NULL);
    const rdvq_tile in = { windows, t->is_coded };
    vz_buf *segment = e->segment + (size_t)tile * RDVQ_MAX_LAYERS;
    double bits;
    for (int k = 0; k < RDVQ_MAX_LAYERS; k++) segment[k].size = 0;
    for (int i = 0; i < windows * t->tokens; i++)
        t->code[i] = t->place[i] < 0 ? 0 : e->near.code[(int64_t)t->place[i] * e->near.count];
    FV_TRY(rdvq_tile_encode(t->coder, &in, e->head.slices, e->mu > 0 ? &chooser : NULL, t->code,
                            segment, &bits));
    for (int k = 0; k < RDVQ_MAX_LAYERS; k++) FV_TRY(segment[k].status);
    e->bits += bits;
    return FV_OK;
}

/* Size of the file; larger ones have checksums of segments unless the caller says. */
static uint64_t measure(encoding *e)
{
    e->head.flags &= ~RDVQ_HAS_CRCS;
    if (e->o.segment_crcs > 0) e->head.flags |= RDVQ_HAS_CRCS;
    const uint64_t bytes = rdvq_file_bytes(&e->head, e->chunk, e->segment);
    if (e->o.segment_crcs != 0 || bytes <= CRCS_FROM) return bytes;
    e->head.flags |= RDVQ_HAS_CRCS;
    return rdvq_file_bytes(&e->head, e->chunk, e->segment);
}

static fv_status code_picture(void *user, const rdvq_way *way, uint64_t *bytes)
{
    encoding *e = user;
    const double start = fv_now();
    double analysis = e->work.seconds;
    FV_TRY(use_model(e, way->model));
    analysis = e->work.seconds - analysis;
    e->head.slices = way->slices;
    e->head.layers =
        rdvq_layers_of(rdvq_int_slices(e->models.list[e->model]->entropy), way->slices);
    e->mu = way->mu;
    e->bits = 0;
    const int tiles = e->head.tiles_x * e->head.tiles_y;
    for (int i = 0; i < tiles; i++) {
        FV_TRY(fv_report(e->ctx, "coding", (uint64_t)i, (uint64_t)tiles, NULL));
        FV_TRY(code_tile(e, i));
    }
    e->token_seconds += fv_now() - start - analysis;
    *bytes = measure(e);
    return FV_OK;
}

static int slices_of(void *user, int model)
{
    const encoding *e = user;
    return rdvq_int_slices(e->models.list[model]->entropy)->slices;
}

static double nominal_of(void *user, int model)
{
    return ((const encoding *)user)->models.list[model]->nominal_bpp;
}

/* ---- All of it ------------------------------------------------------------------------------- */

static fv_status find_way(encoding *e, int *passes)
{
    const uint64_t pixels = (uint64_t)e->img.width * (uint64_t)e->img.height;
    const rdvq_ladder l = { e, e->models.count, slices_of, nominal_of, pixels, code_picture };
    rdvq_way w;
    uint64_t bytes = e->o.size;
    if (bytes == 0 && e->o.bpp > 0) {
        const double want = e->o.bpp * (double)pixels / 8;
        bytes = want < 1 ? 1 : want > 1e15 ? (uint64_t)1e15 : (uint64_t)want;
    }
    if (bytes > 0) return rdvq_reach_size(&l, bytes, e->o.slices, &w, passes);
    *passes = 1;
    w = rdvq_way_of(&l, e->o.quality > 0 ? e->o.quality : 50);
    if (e->o.slices > 0 && e->o.slices < w.slices) w.slices = e->o.slices;
    return code_picture(e, &w, &bytes);
}

static void tell(const encoding *e, size_t size, int passes, fv_vpic_stats *st)
{
    const size_t n = (size_t)e->head.tiles_x * (size_t)e->head.tiles_y * RDVQ_MAX_LAYERS;
    const rdvq_config *c = rdvq_int_config(e->models.list[e->model]->entropy);
    memset(st, 0, sizeof *st);
    st->pixels = (uint64_t)e->img.width * (uint64_t)e->img.height;
    st->bytes = size;
    for (int i = 0; i < RDVQ_CHUNKS; i++) st->chunk_bytes += e->chunk[i].size;
    for (size_t i = 0; i < n; i++) st->segment_bytes += e->segment[i].size;
    st->bits = e->bits;
    st->tokens = e->tokens;
    snprintf(st->model, sizeof st->model, "%s", c->name);
    st->mu = e->mu;
    st->passes = passes;
    st->tiles = e->head.tiles_x * e->head.tiles_y;
    st->slices = st->slices_decoded = e->head.slices;
    st->pixel_seconds = e->work.seconds;
    st->token_seconds = e->token_seconds;
    st->pixel_flop = e->work.flop;
    st->memory_bytes = e->memory;
}

static fv_status check_options(fv_ctx *ctx, const fv_vpic_options *o)
{
    if (!(o->quality >= 0 && o->quality <= 100) || !(o->bpp >= 0) || isinf(o->bpp))
        return fv_fail(ctx, FV_ERR_ARG, "vpic: quality %g (0 to 100), %g bits per pixel",
                       o->quality, o->bpp);
    if (o->slices < 0 || o->slices > RDVQ_MAX_SLICES)
        return fv_fail(ctx, FV_ERR_ARG, "vpic: %d slices (1 to %d)", o->slices, RDVQ_MAX_SLICES);
    if (o->tile_log2 && (o->tile_log2 < RDVQ_TILE_LOG2_MIN || o->tile_log2 > RDVQ_TILE_LOG2_MAX))
        return fv_fail(ctx, FV_ERR_ARG, "vpic: tiles of 2^%d pixels (8 to 12)", o->tile_log2);
    return FV_OK;
}

static void drop(encoding *e)
{
    const size_t n = (size_t)e->head.tiles_x * (size_t)e->head.tiles_y * RDVQ_MAX_LAYERS;
    for (size_t i = 0; e->segment && i < n; i++) vz_buf_free(&e->segment[i]);
    fv_free(e->ctx, e->segment);
    rdvq_nearest_free(e->ctx, &e->near);
    rdvq_tiling_close(&e->tiling);
    for (int i = 0; i < RDVQ_CHUNKS; i++)
        if (e->packed[i].ctx) vz_buf_free(&e->packed[i]);
    fv_image_free(e->ctx, &e->own);
    rdvq_models_close(&e->models);
}

static fv_status encode(encoding *e, vz_buf *out, int *passes)
{
    FV_TRY(rdvq_models_open(e->ctx, &e->models, e->o.models, e->o.model_count));
    FV_TRY(make_head(e)); /* sides are within limits from here on */
    FV_TRY(pack_chunks(e));
    FV_TRY(find_way(e, passes));
    return rdvq_file_write(e->ctx, &e->head, e->chunk, e->segment, out);
}

fv_status fv_vpic_encode(fv_ctx *ctx, const fv_image *img, const fv_vpic_options *opts,
                         uint8_t **out, size_t *out_size, fv_vpic_stats *stats)
{
    encoding e = { .ctx = ctx, .o = FV_VPIC_OPTIONS_INIT, .model = -1 };
    vz_buf file;
    int passes = 0;
    if (!out || !out_size) return fv_fail(ctx, FV_ERR_ARG, "vpic: no place for the result");
    *out = NULL;
    *out_size = 0;
    if (stats) memset(stats, 0, sizeof *stats);
    FV_TRY(fvi_image_check(ctx, img, "vpic"));
    FV_TRY(FV_TAKE_OPTIONS(ctx, &e.o, opts, "vpic"));
    FV_TRY(check_options(ctx, &e.o));
    e.img = *img;
    e.limit = e.o.memory_bytes ? e.o.memory_bytes : RDVQ_MEMORY;
    vz_buf_init(&file, ctx);
    const fv_status s = encode(&e, &file, &passes);
    if (s == FV_OK && stats) tell(&e, file.size, passes, stats);
    drop(&e);
    if (s == FV_OK) {
        *out = file.data;
        *out_size = file.size;
        return FV_OK;
    }
    vz_buf_free(&file);
    return s;
}
