/* sr_image.c - pictures through super-resolution: sizes, alpha, tiles, update, pixels.
 *
 *     source    RGB as floats; colours under alpha 0 replaced by the nearest visible ones, so that
 *               no rim of them is enlarged
 *     planes    base and last draft of the whole enlarged picture, from tiles [sr_tiles.c]
 *     update    of the whole picture, or where memory is short of tiles with a margin of 32 pixels,
 *               beyond which the filter's kernel is below 3e-5 of its middle
 *     beyond 4x the result is enlarged further by bicubic interpolation, at 16 bits */
#include "sr.h"

#include <math.h>
#include <string.h>

#include "image_codec.h"

#define NETWORK_SCALE 4        /* what models are trained for */
#define MOST_SIDE (1 << 20)
#define UPDATE_TILE 512        /* pixels of a tile of the update, without its margin */
#define UPDATE_MARGIN 32
#define MOST_UPDATE (1 << 16)  /* side of a picture that is updated at once */
#define ALPHA_ROWS 64
#define DEFAULT_OVERLAP 128
#define OWN_BYTES ((uint64_t)2 << 20) /* plans and tables, beside what grows */

typedef struct run {
    fv_ctx *ctx;
    const fv_sr *sr;
    const fv_image *in;
    fv_sr_options o;
    int width, height;         /* of the result */
    int net_width, net_height; /* of the planes: at most 4 times the picture */
    int drafts;
    fv_fdu_mode mode;
    float detail;
    fv_image *out;             /* at the size of the planes */
    float *source;
    fvi_resize *resize;
    sr_job job;
    fv_fdu *fdu;
    bool is_tiled;             /* the update */
    int update_w, update_h;    /* of its tiles, with margins */
    float *tile[2];
} run;

/* ---- Options --------------------------------------------------------------------------------- */

static fv_status side_of(fv_ctx *ctx, const char *what, int in, double scale, int wanted, int *out)
{
    const double exact = wanted > 0 ? wanted : floor(in * scale + 0.5);
    if (exact < in || exact > (double)in * FV_SR_MAX_SCALE)
        return fv_fail(ctx, FV_ERR_ARG, "super-resolution: a %s of %g pixels from %d: results are "
                       "1 to %d times as large", what, exact, in, FV_SR_MAX_SCALE);
    if (exact > MOST_SIDE)
        return fv_fail(ctx, FV_ERR_LIMIT, "super-resolution: a %s of %g pixels; at most %d", what,
                       exact, MOST_SIDE);
    *out = (int)exact;
    return FV_OK;
}

static fv_status take_sizes(run *r)
{
    const fv_sr_options *o = &r->o;
    const double scale = o->scale != 0 ? o->scale : NETWORK_SCALE;
    if (!(scale >= 1 && scale <= FV_SR_MAX_SCALE))
        return fv_fail(r->ctx, FV_ERR_ARG, "super-resolution: a scale of %g; it is 1 to %d", scale,
                       FV_SR_MAX_SCALE);
    if ((o->width > 0) != (o->height > 0) || o->width < 0 || o->height < 0 ||
        (o->width && o->scale != 0))
        return fv_fail(r->ctx, FV_ERR_ARG,
                       "super-resolution: give width and height, or the scale");
    FV_TRY(side_of(r->ctx, "width", r->in->width, scale, o->width, &r->width));
    FV_TRY(side_of(r->ctx, "height", r->in->height, scale, o->height, &r->height));
    const int64_t most[2] = { (int64_t)r->in->width * NETWORK_SCALE,
                              (int64_t)r->in->height * NETWORK_SCALE };
    r->net_width = r->width < most[0] ? r->width : (int)most[0];
    r->net_height = r->height < most[1] ? r->height : (int)most[1];
    return FV_OK;
}

static fv_status take_options(run *r, const fv_sr_options *opts)
{
    const pssr_config *c = &r->sr->net.cfg;
    r->o = (fv_sr_options)FV_SR_OPTIONS_INIT;
    FV_TRY(FV_TAKE_OPTIONS(r->ctx, &r->o, opts, "super-resolution"));
    const fv_sr_options *o = &r->o;
    if (o->steps < 0 || o->steps > c->times)
        return fv_fail(r->ctx, FV_ERR_ARG, "super-resolution: %d steps; the model has 1 to %d",
                       o->steps, c->times);
    if (isnan(o->detail) || o->detail > 2)
        return fv_fail(r->ctx, FV_ERR_ARG,
                       "super-resolution: a detail of %g; it is 0 to 2", (double)o->detail);
    if (o->fdu < -1 || o->fdu > (int)FV_FDU_OFF)
        return fv_fail(r->ctx, FV_ERR_ARG, "super-resolution: no update %d", o->fdu);
    if ((o->depth && o->depth != 8 && o->depth != 16) || (int)o->alpha < 0 ||
        o->alpha > FV_SR_ALPHA_NEAREST)
        return fv_fail(r->ctx, FV_ERR_ARG,
                       "super-resolution: depth is 8 or 16, alpha bicubic or nearest");
    if (o->tile_width < 0 || o->tile_height < 0 || o->overlap < 0 || o->overlap > MOST_SIDE ||
        (o->tile_width > 0) != (o->tile_height > 0))
        return fv_fail(r->ctx, FV_ERR_ARG,
                       "super-resolution: tiles need both sides, and no length is below 0");
    r->drafts = (o->steps ? o->steps : c->times) - 1;
    r->mode = o->fdu < 0 ? c->fdu : (fv_fdu_mode)o->fdu;
    r->detail = o->detail < 0 ? c->alpha : o->detail;
    if (r->detail == 0 && r->mode != FV_FDU_OFF && r->mode != FV_FDU_REF) r->drafts = 0;
    return take_sizes(r);
}

/* ---- The source ------------------------------------------------------------------------------ */

static uint32_t sample(const fv_image *img, int x, int y, int channel)
{
    const uint8_t *row = fvi_image_row(img, y);
    const size_t at = (size_t)x * (size_t)img->channels + (size_t)channel;
    return img->depth == 8 ? row[at] : ((const uint16_t *)(const void *)row)[at];
}

static void load_source(const run *r)
{
    const fv_image *in = r->in;
    const int colours = in->channels < 3 ? 1 : 3;
    const float unit = in->depth == 8 ? 1 / 255.0f : 1 / 65535.0f;
#pragma omp parallel for num_threads(fv_ctx_threads(r->ctx)) schedule(static)
    for (int y = 0; y < in->height; y++) {
        float *to = r->source + 3 * (size_t)y * (size_t)in->width;
        for (int x = 0; x < in->width; x++)
            for (int c = 0; c < 3; c++)
                *to++ = unit * (float)sample(in, x, y, colours == 1 ? 0 : c);
    }
}

/* Colours of transparent pixels from the nearest other ones, ring by ring. */
static fv_status spread_colours(const run *r)
{
    const fv_image *in = r->in;
    const int w = in->width, h = in->height, alpha = in->channels - 1;
    const int64_t n = (int64_t)w * h;
    int64_t count = 0;
    int64_t *queue = fv_calloc(r->ctx, (size_t)n, sizeof *queue);
    uint8_t *is_done = fv_calloc(r->ctx, (size_t)n, 1);
    if (queue && is_done) {
        for (int64_t i = 0; i < n; i++) {
            if (sample(in, (int)(i % w), (int)(i / w), alpha) == 0) continue;
            is_done[i] = 1;
            queue[count++] = i;
        }
        for (int64_t k = 0; k < count; k++) {
            const int64_t i = queue[k], x = i % w, y = i / w;
            const int64_t near[4] = { x > 0 ? i - 1 : -1, x + 1 < w ? i + 1 : -1,
                                      y > 0 ? i - w : -1, y + 1 < h ? i + w : -1 };
            for (int d = 0; d < 4; d++) {
                if (near[d] < 0 || is_done[near[d]]) continue;
                is_done[near[d]] = 1;
                memcpy(r->source + 3 * near[d], r->source + 3 * i, 3 * sizeof(float));
                queue[count++] = near[d];
            }
        }
    }
    const bool has_memory = queue && is_done;
    fv_free(r->ctx, queue);
    fv_free(r->ctx, is_done);
    return has_memory ? FV_OK : FV_ERR_OOM;
}

static fv_status make_source(run *r)
{
    const fvi_resampling how = { FVI_RESIZE_BICUBIC, true, false };
    const int in[2] = { r->in->height, r->in->width }, size[2] = { r->net_height, r->net_width };
    size_t n = 0;
    if (!fv_mul_size((size_t)in[0], (size_t)in[1], &n) || !fv_mul_size(n, 3 * sizeof(float), &n))
        return fv_fail(r->ctx, FV_ERR_OOM, "super-resolution: the picture is too large");
    r->source = fv_alloc(r->ctx, n);
    if (!r->source) return FV_ERR_OOM;
    load_source(r);
    if (fvi_has_alpha(r->in->channels)) FV_TRY(spread_colours(r));
    FV_TRY(fvi_resize_create(r->ctx, &r->resize, in[0] > in[1] ? in[0] : in[1],
                             size[0] > size[1] ? size[0] : size[1], 0));
    return fvi_resize_set(r->resize, how, in, size);
}

/* ---- Memory and tiles ------------------------------------------------------------------------ */

static void choose_planes(run *r)
{
    sr_job *j = &r->job;
    j->planes = 1;
    j->plane_step[0] = r->mode == FV_FDU_OFF ? r->drafts : 0;
    if (r->drafts == 0 || r->mode == FV_FDU_OFF) return;
    for (int k = r->o.update_each ? 1 : r->drafts; k <= r->drafts; k++)
        j->plane_step[j->planes++] = k;
}

static fv_fdu_options update_options(const run *r)
{
    fv_fdu_options o = FV_FDU_OPTIONS_INIT;
    o.mode = r->mode;
    o.alpha = r->detail;
    return o;
}

static int smaller(int a, int b) { return a < b ? a : b; }

static void update_tile_size(run *r)
{
    r->update_w = smaller(r->net_width, UPDATE_TILE + 2 * UPDATE_MARGIN);
    r->update_h = smaller(r->net_height, UPDATE_TILE + 2 * UPDATE_MARGIN);
}

/* Two tiles and a padded complex plane. */
static uint64_t tiled_update_bytes(run *r)
{
    update_tile_size(r);
    return (uint64_t)r->update_w * (uint64_t)r->update_h * (24 + 9);
}

static fv_status make_update(run *r)
{
    const fv_fdu_options o = update_options(r);
    if (r->job.planes == 1) return FV_OK;
    r->update_w = r->net_width;
    r->update_h = r->net_height;
    if (r->is_tiled) {
        update_tile_size(r);
        for (int k = 0; k < 2; k++) {
            r->tile[k] = fv_calloc(r->ctx, (size_t)r->update_w * (size_t)r->update_h,
                                   3 * sizeof(float));
            if (!r->tile[k]) return FV_ERR_OOM;
        }
    }
    return fv_fdu_create(r->ctx, &r->fdu, r->update_w, r->update_h, &o);
}

static void drop_update(run *r)
{
    fv_fdu_close(&r->fdu);
    for (int k = 0; k < 2; k++) {
        fv_free(r->ctx, r->tile[k]);
        r->tile[k] = NULL;
    }
}

static uint64_t held(const run *r)
{
    fv_memory_stats m;
    fv_ctx_memory(r->ctx, &m);
    return m.current_bytes;
}

static fv_status too_small(const run *r, uint64_t needed)
{
    return fv_fail(r->ctx, FV_ERR_OOM, "super-resolution: %d x %d pixels need at least %llu MiB, "
                   "and %llu MiB are allowed", r->net_width, r->net_height,
                   (unsigned long long)((needed >> 20) + 1),
                   (unsigned long long)(r->o.max_bytes >> 20));
}

static void set_cut(run *r, int core[2])
{
    sr_cut *c = &r->job.cut;
    const int cell = PSSR_PATCH * PSSR_WINDOW, reach = sr_reach(&r->sr->net.cfg, r->drafts);
    const int overlap = r->o.overlap ? r->o.overlap : DEFAULT_OVERLAP;
    c->all_w = (r->net_width + cell - 1) / cell * PSSR_WINDOW;
    c->all_h = (r->net_height + cell - 1) / cell * PSSR_WINDOW;
    c->halo = r->o.exact_tiles ? reach : (overlap + cell - 1) / cell * PSSR_WINDOW;
    c->ramp = r->o.exact_tiles ? 0 : c->halo / 2;
    core[0] = (r->o.tile_width + cell - 1) / cell * PSSR_WINDOW;
    core[1] = (r->o.tile_height + cell - 1) / cell * PSSR_WINDOW;
    if (core[0] > c->all_w) core[0] = c->all_w;
    if (core[1] > c->all_h) core[1] = c->all_h;
}

/* What the call holds beside tiles and update: planes, packed weights, tables. */
static uint64_t own_bytes(const run *r, uint64_t before)
{
    const fv_sr_info *m = &r->sr->info;
    const uint64_t pixels = (uint64_t)r->net_width * (uint64_t)r->net_height;
    return held(r) - before + OWN_BYTES + pixels * 12 * (uint64_t)r->job.planes +
           (uint64_t)(m->base_parameters + m->draft_parameters) * 6;
}

/* The update of the whole picture if it fits, else of tiles; the rest of the memory for regions. */
static fv_status plan_tiles(run *r, uint64_t before)
{
    const uint64_t most = r->o.max_bytes ? r->o.max_bytes : UINT64_MAX;
    const uint64_t plane = (uint64_t)r->net_width * (uint64_t)r->net_height * 9;
    const bool is_long = r->net_width > MOST_UPDATE || r->net_height > MOST_UPDATE;
    const bool can_tile = is_long || plane > tiled_update_bytes(r);
    uint64_t least = 0;
    int core[2];
    set_cut(r, core);
    for (int tiled = 0; tiled <= (r->job.planes > 1 && can_tile); tiled++) {
        r->is_tiled = tiled != 0;
        if (!tiled && can_tile && r->job.planes > 1 &&
            (is_long || own_bytes(r, before) + plane > most))
            continue;
        FV_TRY(make_update(r));
        const uint64_t own = own_bytes(r, before);
        const fv_status s = sr_tiles_plan(&r->job, core, own < most ? most - own : 0, &least);
        if (s == FV_OK) return FV_OK;
        sr_tiles_free(&r->job);
        if (s != FV_ERR_CAPACITY) return s;
        least += own;
        if (!tiled) drop_update(r);
    }
    return too_small(r, least);
}

static fv_status make_planes(run *r)
{
    size_t n = 0;
    if (!fv_mul_size((size_t)r->net_width, (size_t)r->net_height, &n))
        return fv_fail(r->ctx, FV_ERR_OOM, "super-resolution: the result is too large");
    for (int k = 0; k < r->job.planes; k++) {
        r->job.plane[k] = fv_calloc(r->ctx, n, 3 * sizeof(float));
        if (!r->job.plane[k]) return FV_ERR_OOM;
    }
    return FV_OK;
}

static fv_status run_tiles(run *r, fv_sr_stats *stats)
{
    sr_job *j = &r->job;
    FV_TRY(sr_tiles_alloc(j));
    fv_status s = sr_tiles_run(j);
    if (s == FV_ERR_NUMERIC && j->precision == FV_BF16) { /* once more, with more range */
        const size_t n = (size_t)r->net_width * (size_t)r->net_height * 3;
        const int core[2] = { j->cut.core_w, j->cut.core_h };
        uint64_t least;
        sr_tiles_free(j);
        j->precision = FV_F32;
        stats->redone = 1;
        for (int k = 0; k < j->planes; k++) memset(j->plane[k], 0, n * sizeof(float));
        s = sr_tiles_plan(j, core, UINT64_MAX, &least);
        if (s == FV_OK) s = sr_tiles_alloc(j);
        if (s == FV_OK) s = sr_tiles_run(j);
    }
    stats->tiles = j->cut.nx * j->cut.ny;
    stats->flop = j->flop * stats->tiles;
    return s;
}

/* ---- Results --------------------------------------------------------------------------------- */

static uint32_t to_sample(float v, float max)
{
    return (uint32_t)rintf((v < 0 ? 0 : v > 1 ? 1 : v) * max); /* nearest, half to even */
}

static void put(const fv_image *img, int x, int y, int channel, uint32_t v)
{
    uint8_t *row = fvi_image_row(img, y);
    const size_t at = (size_t)x * (size_t)img->channels + (size_t)channel;
    if (img->depth == 8) row[at] = (uint8_t)v;
    else ((uint16_t *)(void *)row)[at] = (uint16_t)v;
}

/* rgb: rows of `pitch` pixels; what goes to the rectangle of the result. */
static void write_pixels(const run *r, const float *rgb, int pitch, const int rect[4])
{
    const fv_image *out = r->out;
    const float max = out->depth == 8 ? 255.0f : 65535.0f;
    const bool is_grey = out->channels < 3;
#pragma omp parallel for num_threads(fv_ctx_threads(r->ctx)) schedule(static)
    for (int y = 0; y < rect[3]; y++) {
        const float *p = rgb + 3 * (size_t)y * (size_t)pitch;
        for (int x = 0; x < rect[2]; x++, p += 3) {
            const float luma = 0.299f * p[0] + 0.587f * p[1] + 0.114f * p[2];
            for (int c = 0; c < (is_grey ? 1 : 3); c++)
                put(out, rect[0] + x, rect[1] + y, c, to_sample(is_grey ? luma : p[c], max));
        }
    }
}

/* The update of one tile: planes -> result. */
static fv_status update_tile(run *r, const int core[4])
{
    const int all[2] = { r->net_width, r->net_height }, size[2] = { r->update_w, r->update_h };
    const size_t row = (size_t)r->update_w * 3 * sizeof(float);
    int at[2];
    for (int k = 0; k < 2; k++) {
        at[k] = core[k] - UPDATE_MARGIN;
        if (at[k] > all[k] - size[k]) at[k] = all[k] - size[k];
        if (at[k] < 0) at[k] = 0;
    }
    for (int k = 0; k < r->job.planes; k++) {
        for (int y = 0; y < r->update_h; y++)
            memcpy(r->tile[k > 0] + 3 * (size_t)y * (size_t)r->update_w,
                   r->job.plane[k] + 3 * ((size_t)(at[1] + y) * (size_t)all[0] + (size_t)at[0]),
                   row);
        if (k) FV_TRY(fv_fdu_run(r->fdu, r->tile[0], r->tile[1], r->tile[0]));
    }
    write_pixels(r, r->tile[0] + 3 * ((size_t)(core[1] - at[1]) * (size_t)r->update_w +
                                      (size_t)(core[0] - at[0])), r->update_w, core);
    return FV_OK;
}

static fv_status update(run *r)
{
    sr_job *j = &r->job;
    const int whole[4] = { 0, 0, r->net_width, r->net_height };
    if (!r->is_tiled || j->planes == 1) {
        for (int k = 1; k < j->planes; k++)
            FV_TRY(fv_fdu_run(r->fdu, j->plane[0], j->plane[k], j->plane[0]));
        write_pixels(r, j->plane[0], r->net_width, whole);
        return FV_OK;
    }
    for (int y = 0; y < r->net_height; y += UPDATE_TILE)
        for (int x = 0; x < r->net_width; x += UPDATE_TILE) {
            const int core[4] = { x, y, smaller(UPDATE_TILE, r->net_width - x),
                                  smaller(UPDATE_TILE, r->net_height - y) };
            FV_TRY(fv_report(r->ctx, "updating", (uint64_t)y, (uint64_t)r->net_height, NULL));
            FV_TRY(update_tile(r, core));
        }
    return FV_OK;
}

/* ---- Alpha ----------------------------------------------------------------------------------- */

/* Are all values 0 or the largest? */
static bool is_mask(const fv_image *in)
{
    const uint32_t max = in->depth == 8 ? 255 : 65535;
    for (int y = 0; y < in->height; y++)
        for (int x = 0; x < in->width; x++) {
            const uint32_t v = sample(in, x, y, in->channels - 1);
            if (v != 0 && v != max) return false;
        }
    return true;
}

static void nearest_alpha(const run *r)
{
    const fv_image *in = r->in, *out = r->out;
    for (int y = 0; y < out->height; y++)
        for (int x = 0; x < out->width; x++) {
            const int64_t i = (2 * (int64_t)x + 1) * in->width / (2 * (int64_t)out->width);
            const int64_t j = (2 * (int64_t)y + 1) * in->height / (2 * (int64_t)out->height);
            const uint32_t v = sample(in, (int)i, (int)j, in->channels - 1);
            put(out, x, y, out->channels - 1,
                out->depth == in->depth ? v : out->depth == 16 ? v * 257 : (v * 255 + 32767) / 65535);
        }
}

static fv_status smooth_alpha(const run *r)
{
    const fv_image *in = r->in, *out = r->out;
    const bool is_binary = is_mask(in);
    const float max = out->depth == 8 ? 255.0f : 65535.0f;
    const float unit = in->depth == 8 ? 1 / 255.0f : 1 / 65535.0f;
    float *plane = fv_calloc(r->ctx, (size_t)in->width * (size_t)in->height, sizeof *plane);
    float *band = fv_calloc(r->ctx, (size_t)out->width * ALPHA_ROWS, sizeof *band);
    const bool has_memory = plane && band;
    for (int y = 0; y < in->height && has_memory; y++)
        for (int x = 0; x < in->width; x++)
            plane[(size_t)y * (size_t)in->width + (size_t)x] =
                unit * (float)sample(in, x, y, in->channels - 1);
    for (int y = 0; y < out->height && has_memory; y += ALPHA_ROWS) {
        const int rect[4] = { 0, y, out->width, smaller(ALPHA_ROWS, out->height - y) };
        fvi_resize_rect(r->resize, plane, 1, rect, band);
        for (int i = 0; i < rect[2] * rect[3]; i++) {
            const float v = is_binary ? (band[i] >= 0.5f ? 1.0f : 0.0f) : band[i];
            put(out, i % rect[2], y + i / rect[2], out->channels - 1, to_sample(v, max));
        }
    }
    fv_free(r->ctx, plane);
    fv_free(r->ctx, band);
    return has_memory ? FV_OK : FV_ERR_OOM;
}

/* ---- The call -------------------------------------------------------------------------------- */

static fv_status copy_metadata(fv_ctx *ctx, const fv_image *in, fv_image *out)
{
    FV_TRY(fvi_image_set_icc(ctx, out, in->icc, in->icc_bytes));
    FV_TRY(fvi_image_set_exif(ctx, out, in->exif, in->exif_bytes));
    for (int i = 0; i < in->text_count; i++)
        FV_TRY(fv_image_add_text(ctx, out, in->text[2 * i], in->text[2 * i + 1]));
    return FV_OK;
}

/* From the planes' size and depth to those asked for. */
static fv_status finish(run *r, fv_image *out)
{
    fv_image larger = { 0 };
    const fvi_pixel_type type = { r->in->channels, r->o.depth ? r->o.depth : r->in->depth };
    static const float black[3];
    fv_status s = FV_OK;
    if (r->net_width != r->width || r->net_height != r->height)
        s = fv_image_resize(r->ctx, &larger, r->out, r->width, r->height, FV_FILTER_BICUBIC);
    else {
        larger = *r->out;
        memset(r->out, 0, sizeof *r->out);
    }
    if (s == FV_OK && larger.depth != type.depth) {
        s = fvi_image_converted(r->ctx, out, &larger, type, black);
        fv_image_free(r->ctx, &larger);
    } else {
        *out = larger;
    }
    return s == FV_OK ? copy_metadata(r->ctx, r->in, out) : s;
}

static fv_status enlarge(run *r, fv_image *result, fv_sr_stats *stats)
{
    fv_memory_stats m;
    fv_ctx_memory(r->ctx, &m);
    const uint64_t before = m.current_bytes;
    const bool is_beyond = r->net_width != r->width || r->net_height != r->height;
    const int depth = is_beyond ? 16 : r->o.depth ? r->o.depth : r->in->depth;
    choose_planes(r);
    FV_TRY(make_source(r));
    FV_TRY(fv_image_create(r->ctx, r->out, r->net_width, r->net_height, r->in->channels, depth));
    r->job.ctx = r->ctx;
    r->job.sr = r->sr;
    r->job.resize = r->resize;
    r->job.source = r->source;
    r->job.width = r->net_width;
    r->job.height = r->net_height;
    r->job.drafts = r->drafts;
    r->job.precision = r->sr->precision;
    FV_TRY(plan_tiles(r, before));
    FV_TRY(make_planes(r));
    const double start = fv_now();
    FV_TRY(run_tiles(r, stats));
    sr_tiles_free(&r->job);
    const double middle = fv_now();
    stats->network_seconds = middle - start;
    FV_TRY(update(r));
    stats->update_seconds = fv_now() - middle;
    if (fvi_has_alpha(r->in->channels)) {
        if (r->o.alpha == FV_SR_ALPHA_NEAREST) nearest_alpha(r);
        else FV_TRY(smooth_alpha(r));
    }
    for (int k = 0; k < r->job.planes; k++) { /* room for a larger one */
        fv_free(r->ctx, r->job.plane[k]);
        r->job.plane[k] = NULL;
    }
    stats->is_beyond = is_beyond;
    stats->steps = r->drafts + 1;
    return finish(r, result);
}

static void release(run *r)
{
    sr_tiles_free(&r->job);
    drop_update(r);
    for (int k = 0; k < PSSR_MAX_TIMES; k++) fv_free(r->ctx, r->job.plane[k]);
    fvi_resize_free(&r->resize);
    fv_free(r->ctx, r->source);
    fv_image_free(r->ctx, r->out);
}

fv_status fv_sr_image(fv_ctx *ctx, const fv_sr *sr, const fv_image *in, const fv_sr_options *o,
                      fv_image *out, fv_sr_stats *stats)
{
    fv_sr_stats own = { 0 };
    fv_image middle = { 0 };
    run r = { .ctx = ctx, .sr = sr, .in = in, .out = &middle };
    const double start = fv_now();
    if (!sr || !in || !out || out == in)
        return fv_fail(ctx, FV_ERR_ARG, "super-resolution: a model or picture is missing");
    memset(out, 0, sizeof *out);
    FV_TRY(fvi_image_check(ctx, in, "super-resolution"));
    FV_TRY(take_options(&r, o));
    fv_ctx_memory_reset_peak(ctx);
    const fv_status s = enlarge(&r, out, &own);
    release(&r);
    if (s != FV_OK) fv_image_free(ctx, out);
    fv_memory_stats m;
    fv_ctx_memory(ctx, &m);
    own.peak_bytes = m.peak_bytes;
    own.seconds = fv_now() - start;
    if (stats) *stats = own;
    return s;
}
