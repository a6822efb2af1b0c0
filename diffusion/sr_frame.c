/* sr_frame.c - one enlarged frame: sizes, memory, tiles, update [sr.h].
 *
 *     planes    base and last draft of the whole enlarged frame, from tiles [sr_tiles.c]
 *     update    of the whole frame, or where memory is short of tiles with a margin of 32 pixels,
 *               beyond which the low-pass is below 3e-5 of its middle; the mask of lock reaches
 *               further (2e-4 there), and ref has each tile's own frequencies, so that in these two
 *               modes pixels depend a little on the tiles
 *
 * Everything is made by sr_frame_prepare; running allocates nothing, so a video is frames of one
 * sr_frame. */
#include "fdu.h"
#include "sr.h"

#include <math.h>
#include <string.h>

#define NETWORK_SCALE 4        /* what models are trained for */
#define MOST_SIDE (1 << 20)
#define UPDATE_TILE 512        /* pixels of a tile of the update, without its margin */
#define UPDATE_MARGIN 32
#define MOST_UPDATE (1 << 16)  /* side of a picture that is updated at once */
#define DEFAULT_OVERLAP 128
#define MIB ((uint64_t)1 << 20)
#define OWN_BYTES (2 * MIB)    /* plans and tables, beside what grows */

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

fv_status sr_frame_sizes(sr_frame *r)
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
    FV_TRY(side_of(r->ctx, "width", r->in_width, scale, o->width, &r->width));
    FV_TRY(side_of(r->ctx, "height", r->in_height, scale, o->height, &r->height));
    const int64_t most[2] = { (int64_t)r->in_width * NETWORK_SCALE,
                              (int64_t)r->in_height * NETWORK_SCALE };
    r->net_width = r->width < most[0] ? r->width : (int)most[0];
    r->net_height = r->height < most[1] ? r->height : (int)most[1];
    return FV_OK;
}

fv_status sr_frame_pixels(const sr_frame *r)
{
    const fv_sr_options *o = &r->o;
    if ((!o->depth || o->depth == 8 || o->depth == 16) && (int)o->alpha >= 0 &&
        o->alpha <= FV_SR_ALPHA_NEAREST)
        return FV_OK;
    return fv_fail(r->ctx, FV_ERR_ARG,
                   "super-resolution: depth is 8 or 16, alpha bicubic or nearest");
}

static void choose_planes(sr_frame *r)
{
    sr_job *j = &r->job;
    j->planes = 1;
    j->plane_step[0] = r->mode == FV_FDU_OFF ? r->drafts : 0;
    if (r->drafts == 0 || r->mode == FV_FDU_OFF) return;
    for (int k = r->o.update_each ? 1 : r->drafts; k <= r->drafts; k++)
        j->plane_step[j->planes++] = k;
}

/* Drafts of pictures put detail where the input's pixels are, which flickers in clips. */
static float own_detail(const sr_frame *r)
{
    const pssr_config *c = &r->sr->net.cfg;
    return r->is_stream && !c->is_video && r->o.steps == 0 ? 0 : c->alpha;
}

fv_status sr_frame_options(sr_frame *r, const fv_sr_options *opts)
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
    if (o->fdu < -1 || o->fdu >= FV_FDU_COUNT)
        return fv_fail(r->ctx, FV_ERR_ARG, "super-resolution: no update %d", o->fdu);
    if (isnan(o->scene_cut) || o->scene_cut > 1)
        return fv_fail(r->ctx, FV_ERR_ARG, "super-resolution: a scene cut at a difference of %g; it "
                       "is 0 to 1", (double)o->scene_cut);
    FV_TRY(sr_frame_pixels(r));
    if (o->tile_width < 0 || o->tile_height < 0 || o->overlap < 0 || o->overlap > MOST_SIDE ||
        (o->tile_width > 0) != (o->tile_height > 0))
        return fv_fail(r->ctx, FV_ERR_ARG,
                       "super-resolution: tiles need both sides, and no length is below 0");
    r->drafts = (o->steps ? o->steps : r->sr->info.own_steps) - 1;
    r->mode = o->fdu < 0 ? c->fdu : (fv_fdu_mode)o->fdu;
    r->detail = o->detail < 0 ? own_detail(r) : o->detail;
    if (r->detail == 0 && r->mode != FV_FDU_OFF && r->mode != FV_FDU_REF) r->drafts = 0;
    FV_TRY(sr_frame_sizes(r));
    choose_planes(r);
    return FV_OK;
}

/* ---- Memory and tiles ------------------------------------------------------------------------ */

static fv_fdu_options update_options(const sr_frame *r)
{
    fv_fdu_options o = FV_FDU_OPTIONS_INIT;
    o.mode = r->mode;
    o.alpha = r->detail;
    return o;
}

/* A padded complex plane a pixel, or two. */
static uint64_t update_bytes(const sr_frame *r) { return r->mode == FV_FDU_GAIN ? 18 : 9; }

static void update_tile_size(sr_frame *r)
{
    r->update_w = sr_smaller(r->net_width, UPDATE_TILE + 2 * UPDATE_MARGIN);
    r->update_h = sr_smaller(r->net_height, UPDATE_TILE + 2 * UPDATE_MARGIN);
}

/* Two tiles and the update's own. */
static uint64_t tiled_update_bytes(sr_frame *r)
{
    update_tile_size(r);
    return (uint64_t)r->update_w * (uint64_t)r->update_h * (24 + update_bytes(r));
}

static fv_status make_update(sr_frame *r)
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

static void drop_update(sr_frame *r)
{
    fv_fdu_close(&r->fdu);
    for (int k = 0; k < 2; k++) {
        fv_free(r->ctx, r->tile[k]);
        r->tile[k] = NULL;
    }
}

static uint64_t held(const sr_frame *r)
{
    fv_memory_stats m;
    fv_ctx_memory(r->ctx, &m);
    return m.current_bytes;
}

static fv_status too_small(sr_frame *r, uint64_t needed)
{
    r->least = (needed / MIB + 1) * MIB;
    return fv_fail(r->ctx, FV_ERR_OOM, "super-resolution: %d x %d pixels need at least %llu MiB, "
                   "and %llu MiB are allowed", r->net_width, r->net_height,
                   (unsigned long long)(r->least / MIB),
                   (unsigned long long)(r->o.max_bytes / MIB));
}

static void set_cut(sr_frame *r, int core[2])
{
    sr_cut *c = &r->job.cut;
    const int cell = PSSR_PATCH * PSSR_WINDOW, reach = sr_reach(&r->sr->net.cfg, r->drafts);
    const int overlap = r->o.overlap ? r->o.overlap : DEFAULT_OVERLAP;
    c->all_w = (r->net_width + cell - 1) / cell * PSSR_WINDOW;
    c->all_h = (r->net_height + cell - 1) / cell * PSSR_WINDOW;
    c->halo = r->o.exact_tiles ? reach : (overlap + cell - 1) / cell * PSSR_WINDOW;
    c->ramp = r->o.exact_tiles ? 0 : c->halo / 2;
    core[0] = (sr_smaller(r->o.tile_width, r->net_width) + cell - 1) / cell * PSSR_WINDOW;
    core[1] = (sr_smaller(r->o.tile_height, r->net_height) + cell - 1) / cell * PSSR_WINDOW;
}

/* Bytes of one of the two states of the past. */
static uint64_t past_bytes(const sr_frame *r)
{
    return (uint64_t)r->past.cells * (uint64_t)r->past.planes * (uint64_t)r->past.channels * 4;
}

static void set_past(sr_frame *r)
{
    const pssr_config *c = &r->sr->net.cfg;
    sr_past *p = &r->past;
    if (!r->is_stream || !c->is_video) return;
    p->channels = pssr_shift_channels(c);
    for (int k = 0; k <= r->drafts; k++) p->planes += pssr_step_blocks(c, k);
    p->cells = (int64_t)r->job.cut.all_w * r->job.cut.all_h;
    r->job.past = p;
}

/* What the call holds beside tiles and update: planes, packed weights, tables. */
static uint64_t own_bytes(const sr_frame *r, uint64_t before)
{
    const fv_sr_info *m = &r->sr->info;
    const uint64_t pixels = (uint64_t)r->net_width * (uint64_t)r->net_height;
    return held(r) - before + OWN_BYTES + pixels * 12 * (uint64_t)r->job.planes +
           (uint64_t)(m->base_parameters + m->draft_parameters) * 6 + 2 * past_bytes(r);
}

/* Are regions large enough for little work? If not, r->ample is what would do, from above: some
 * bytes of the plan at hand do not grow with its region. */
static bool is_ample(sr_frame *r, uint64_t own)
{
    const sr_cut *c = &r->job.cut, ample = sr_cut_ample(c);
    const double grows = (double)ample.size_w * ample.size_h / ((double)c->size_w * c->size_h);
    const double tiles = (double)r->job.plan_bytes * grows;
    r->ample = 0;
    if (sr_cut_work(c) <= SR_AMPLE_WORK || sr_cut_work(c) <= sr_cut_work(&ample)) return true;
    r->ample = ((own + (uint64_t)tiles) / MIB + 1) * MIB;
    return false;
}

/* The update of the whole picture if it leaves enough for regions, else of tiles. */
static fv_status plan_tiles(sr_frame *r, uint64_t before)
{
    const uint64_t most = r->o.max_bytes ? r->o.max_bytes : UINT64_MAX;
    const uint64_t plane = (uint64_t)r->net_width * (uint64_t)r->net_height *
                           update_bytes(r);
    const bool is_long = r->net_width > MOST_UPDATE || r->net_height > MOST_UPDATE;
    const bool can_tile = is_long || plane > tiled_update_bytes(r);
    const bool has_choice = r->job.planes > 1 && plane / 2 > tiled_update_bytes(r);
    uint64_t least = 0;
    int core[2];
    set_cut(r, core);
    set_past(r);
    for (int tiled = 0; tiled <= (r->job.planes > 1 && can_tile); tiled++) {
        r->is_tiled = tiled != 0;
        if (!tiled && can_tile && r->job.planes > 1 &&
            (is_long || own_bytes(r, before) + plane > most))
            continue;
        FV_TRY(make_update(r));
        const uint64_t own = own_bytes(r, before);
        r->budget = most == UINT64_MAX ? most : own < most ? most - own : 0;
        const fv_status s = sr_tiles_plan(&r->job, core, r->budget, &least);
        if (s != FV_OK && s != FV_ERR_CAPACITY) return s;
        const bool is_good = core[0] > 0 || is_ample(r, own);
        if (s == FV_OK && (is_good || tiled || !has_choice)) return FV_OK;
        sr_tiles_free(&r->job);
        least += own;
        if (!tiled) drop_update(r);
    }
    return too_small(r, least);
}

static fv_status make_planes(sr_frame *r)
{
    size_t n = 0;
    if (!fv_mul_size((size_t)r->net_width, (size_t)r->net_height, &n))
        return fv_fail(r->ctx, FV_ERR_OOM, "super-resolution: the result is too large");
    for (int k = 0; k < r->job.planes; k++) {
        r->job.plane[k] = fv_calloc(r->ctx, n, 3 * sizeof(float));
        if (!r->job.plane[k]) return FV_ERR_OOM;
    }
    for (int k = 0; k < 2 && r->job.past; k++) {
        r->past.plane[k] = fv_alloc(r->ctx, (size_t)past_bytes(r));
        if (!r->past.plane[k]) return FV_ERR_OOM;
    }
    return FV_OK;
}

void sr_frame_forget(sr_frame *r)
{
    r->past.is_there = false;
}

static fv_status run_tiles(sr_frame *r, fv_sr_stats *stats)
{
    sr_job *j = &r->job;
    const size_t n = (size_t)r->net_width * (size_t)r->net_height * 3;
    if (!j->plan || !j->in)
        return fv_fail(r->ctx, FV_ERR_STATE, "super-resolution: a frame before this one failed");
    for (int k = 0; k < j->planes; k++) memset(j->plane[k], 0, n * sizeof(float));
    fv_status s = sr_tiles_run(j);
    if (s == FV_ERR_NUMERIC && j->precision == FV_BF16) { /* from here on with more range */
        const int core[2] = { j->cut.core_w, j->cut.core_h }, any[2] = { 0, 0 };
        uint64_t least = 0;
        sr_tiles_free(j);
        j->precision = FV_F32;
        stats->redone = 1;
        for (int k = 0; k < j->planes; k++) memset(j->plane[k], 0, n * sizeof(float));
        s = sr_tiles_plan(j, core, r->budget, &least);
        if (s == FV_ERR_CAPACITY) s = sr_tiles_plan(j, any, r->budget, &least);
        if (s == FV_ERR_CAPACITY)
            return fv_fail(r->ctx, FV_ERR_OOM,
                           "super-resolution: bf16 was not enough, and f32 needs %llu MiB for tiles",
                           (unsigned long long)((least >> 20) + 1));
        if (s == FV_OK) s = sr_tiles_alloc(j);
        if (s == FV_OK) s = sr_tiles_run(j);
    }
    stats->tiles = j->cut.nx * j->cut.ny;
    stats->flop = j->flop * stats->tiles;
    return s;
}

fv_status sr_frame_prepare(sr_frame *r, uint64_t before)
{
    const fvi_resampling how = { FVI_RESIZE_BICUBIC, true, false };
    const int in[2] = { r->in_height, r->in_width }, size[2] = { r->net_height, r->net_width };
    FV_TRY(fvi_resize_create(r->ctx, &r->resize, in[0] > in[1] ? in[0] : in[1],
                             size[0] > size[1] ? size[0] : size[1], 0));
    FV_TRY(fvi_resize_set(r->resize, how, in, size));
    r->job.ctx = r->ctx;
    r->job.sr = r->sr;
    r->job.resize = r->resize;
    r->job.width = r->net_width;
    r->job.height = r->net_height;
    r->job.drafts = r->drafts;
    r->job.precision = r->sr->precision;
    FV_TRY(plan_tiles(r, before));
    FV_TRY(make_planes(r));
    return sr_tiles_alloc(&r->job);
}

void sr_frame_free(sr_frame *r)
{
    sr_tiles_free(&r->job);
    drop_update(r);
    for (int k = 0; k < PSSR_MAX_TIMES; k++) {
        fv_free(r->ctx, r->job.plane[k]);
        r->job.plane[k] = NULL;
    }
    for (int k = 0; k < 2; k++) {
        fv_free(r->ctx, r->past.plane[k]);
        r->past.plane[k] = NULL;
    }
    fvi_resize_free(&r->resize);
}

/* ---- Running --------------------------------------------------------------------------------- */

/* The update of one tile: planes -> result. */
static fv_status update_tile(sr_frame *r, const int core[4])
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
    r->write(r->user, r->tile[0] + 3 * ((size_t)(core[1] - at[1]) * (size_t)r->update_w +
                                      (size_t)(core[0] - at[0])), r->update_w, core);
    return FV_OK;
}

static fv_status update(sr_frame *r)
{
    sr_job *j = &r->job;
    const int whole[4] = { 0, 0, r->net_width, r->net_height };
    if (!r->is_tiled || j->planes == 1) {
        for (int k = 1; k < j->planes; k++)
            FV_TRY(fv_fdu_run(r->fdu, j->plane[0], j->plane[k], j->plane[0]));
        r->write(r->user, j->plane[0], r->net_width, whole);
        return FV_OK;
    }
    for (int y = 0; y < r->net_height; y += UPDATE_TILE)
        for (int x = 0; x < r->net_width; x += UPDATE_TILE) {
            const int core[4] = { x, y, sr_smaller(UPDATE_TILE, r->net_width - x),
                                  sr_smaller(UPDATE_TILE, r->net_height - y) };
            FV_TRY(fv_report(r->ctx, "updating", (uint64_t)y, (uint64_t)r->net_height, NULL));
            FV_TRY(update_tile(r, core));
        }
    return FV_OK;
}

fv_status sr_frame_run(sr_frame *r, const float *source, fv_sr_stats *stats)
{
    const double start = fv_now();
    r->job.source = source;
    FV_TRY(run_tiles(r, stats));
    const double middle = fv_now();
    FV_TRY(update(r));
    stats->network_seconds = middle - start;
    stats->update_seconds = fv_now() - middle;
    stats->steps = r->drafts + 1;
    stats->is_beyond = r->net_width != r->width || r->net_height != r->height;
    return FV_OK;
}
