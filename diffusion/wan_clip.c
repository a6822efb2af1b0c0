/* wan_clip.c - clips of any length through windows of frames, and large frames through tiles.
 *
 * While a window is computed [wan_tile.c] there are its own frames and the last outputs of the window
 * before. What a window and its tiles take is known before they get it, from plans without memory: the
 * frames at a time and their tiles are the most that the caller's bound allows,
 *
 *     33 frames in one piece > in tiles, the fewer the better > 17 frames, from the start > 9 frames
 *
 * and if nothing does, the call fails before the first window and says what would. */
#include "fdu.h"
#include "wan.h"

#include <math.h>
#include <string.h>

#define DEFAULT_WINDOW 33
#define FEWEST 9              /* frames of a window that is chosen for the memory */
#define LEAST_TILE 256
#define DEFAULT_OVERLAP 128
#define TRIES 6
#define OWN_BYTES ((uint64_t)1 << 20) /* beside what is counted */

typedef struct clip {
    fv_ctx *ctx;
    const fv_wan_options *o;
    const fv_wan_frames *io;
    fv_wan_stats *stats;
    wan_tile tile;
    wan_axis axis[2];      /* rows, columns */
    fvi_resize *resize;    /* NULL: frames have their size */
    int all[2];            /* of a frame */
    int window, overlap;   /* frames */
    uint64_t before;       /* bytes that ctx held */
    size_t pixels;         /* floats of a frame */
    float *small;          /* a frame as read, if it is enlarged */
    float *in, *out, *tail; /* frames: of the source, results, of the window before */
    float *part;           /* results of a tile; NULL: there is one, which writes to `out` */
    int room;              /* frames in `in` */
    int shared;            /* frames in tail */
    bool has_ended;        /* the source */
    bool is_full;          /* frames alone break the bound */
} clip;

/* ---- Frames ---------------------------------------------------------------------------------- */

static bool take(clip *c, float **to, size_t frames, size_t floats)
{
    size_t n;
    *to = fv_mul_size(frames, floats, &n) ? fv_calloc(c->ctx, n, sizeof(float)) : NULL;
    return *to != NULL;
}

static fv_status read_frame(clip *c, float *to, int *has_one)
{
    *has_one = 0;
    if (!c->resize) return c->io->read(c->io->user, to, has_one);
    FV_TRY(c->io->read(c->io->user, c->small, has_one));
    if (!*has_one) return FV_OK;
    fvi_resize_run(c->resize, c->small, 3, to);
    for (size_t i = 0; i < c->pixels; i++) to[i] = fv_clamp_unit(to[i]);
    return FV_OK;
}

static uint64_t held(const clip *c)
{
    fv_memory_stats m;
    fv_ctx_memory(c->ctx, &m);
    return m.current_bytes - c->before;
}

/* Two frames are taken in any case: a picture is told by the second, which is not there. */
static fv_status make_room(clip *c, int frames)
{
    float *more;
    if (frames <= c->room) return FV_OK;
    c->is_full = frames > 2 && c->o->max_bytes &&
                 held(c) + (uint64_t)frames * c->pixels * sizeof *more > c->o->max_bytes;
    if (c->is_full) return FV_ERR_OOM;
    if (!take(c, &more, (size_t)frames, c->pixels)) return FV_ERR_OOM;
    if (c->room) memcpy(more, c->in, (size_t)c->room * c->pixels * sizeof *more);
    fv_free(c->ctx, c->in);
    c->in = more;
    c->room = frames;
    return FV_OK;
}

/* Frames up to place `end`, from `*count` on; fewer at the end of the clip. Room grows twofold, at
 * most to `end`: short clips take little memory. */
static fv_status read_frames(clip *c, int end, int *count)
{
    for (; *count < end && !c->has_ended; ++*count) {
        int has_one;
        if (*count == c->room)
            FV_TRY(make_room(c, c->room == 0 ? 1 : 2 * c->room < end ? 2 * c->room : end));
        FV_TRY(read_frame(c, c->in + (size_t)*count * c->pixels, &has_one));
        c->has_ended = !has_one;
        if (!has_one) break;
    }
    return FV_OK;
}

static fv_status write_frames(clip *c, int first, int end)
{
    for (int t = first; t < end; t++)
        FV_TRY(c->io->write(c->io->user, c->out + (size_t)t * c->pixels));
    return FV_OK;
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static int longest_window(const clip *c) { return c->o->window ? c->o->window : DEFAULT_WINDOW; }

/* Frames that are read before there are plans. A bound needs to be known to hold before all of a long
 * window are. */
static int first_frames(const clip *c)
{
    const int most = longest_window(c);
    return c->o->max_bytes && most > FEWEST ? FEWEST : most;
}

/* Of frames and parts, for windows of n frames. */
static uint64_t frame_bytes(const clip *c, const wan_axis axis[2], int n)
{
    const uint64_t parts = (uint64_t)axis[0].count * (uint64_t)axis[1].count;
    const uint64_t part = (uint64_t)axis[0].size * (uint64_t)axis[1].size * 3;
    const int blocks = c->has_ended ? 1 : 3; /* out; else in, with more room, and tail, too */
    const int unread = c->has_ended || first_frames(c) < c->room ? 0 : first_frames(c) - c->room;
    return sizeof(float) * ((uint64_t)(blocks * n + unread) * c->pixels +
                            (parts > 1 ? (uint64_t)n * part : 0));
}

/* Plans windows of n frames in such tiles; *need: bytes of the whole call. */
static fv_status plan(clip *c, const wan_axis axis[2], int n, uint64_t *need)
{
    const int size[2] = {axis[0].size, axis[1].size};
    FV_TRY(wan_tile_plan(&c->tile, size, n));
    memcpy(c->axis, axis, sizeof c->axis);
    *need = held(c) + frame_bytes(c, axis, n) + wan_tile_bytes(&c->tile) + OWN_BYTES;
    return FV_OK;
}

static int overlap_of(const clip *c, int least)
{
    const int overlap = c->o->tile_overlap ? c->o->tile_overlap : DEFAULT_OVERLAP;
    return !c->o->tile_overlap && overlap > least / 2 ? least / 2 : overlap;
}

static fv_status plan_given(clip *c, int n, uint64_t *need)
{
    const int side[2] = {c->o->tile_height / 16 * 16, c->o->tile_width / 16 * 16};
    const int overlap = overlap_of(c, side[0] < side[1] ? side[0] : side[1]);
    wan_axis axis[2];
    for (int k = 0; k < 2; k++) {
        if (side[k] <= overlap)
            return fv_fail(c->ctx, FV_ERR_ARG,
                           "super-resolution: tiles of %d x %d pixels that share %d: sides are "
                           "multiples of 16 above that",
                           c->o->tile_width, c->o->tile_height, overlap);
        wan_axis_cut(&axis[k], c->all[k], side[k], overlap);
    }
    return plan(c, axis, n, need);
}

/* Tiles for at most `most` bytes; *need: of the last that were tried, the smallest. */
static fv_status plan_tiles(clip *c, int n, uint64_t most, uint64_t *need)
{
    const int overlap = overlap_of(c, LEAST_TILE);
    const int least = overlap < LEAST_TILE ? LEAST_TILE : (overlap / 16 + 1) * 16;
    wan_axis axis[2];
    const double area = (double)c->tile.h * c->tile.w; /* of the whole frame, as planned */
    const double each = (double)wan_tile_bytes(&c->tile) / area + 12.0 * n;
    const uint64_t fixed = *need - wan_tile_bytes(&c->tile);
    double room = most > fixed ? (double)(most - fixed) / each : 0;
    for (int i = 0; i < TRIES && room >= (double)least * least; i++, room *= 0.85) {
        if (!wan_cut_find(c->all, overlap, least, (int64_t)room, axis)) break;
        FV_TRY(plan(c, axis, n, need));
        if (*need <= most) return FV_OK;
    }
    for (int k = 0; k < 2; k++) wan_axis_cut(&axis[k], c->all[k], least, overlap);
    return plan(c, axis, n, need);
}

static fv_status plan_window(clip *c, int n, uint64_t most, uint64_t *need)
{
    wan_axis whole[2];
    if (c->o->tile_height) return plan_given(c, n, need);
    for (int k = 0; k < 2; k++) wan_axis_cut(&whole[k], c->all[k], c->all[k], 0);
    FV_TRY(plan(c, whole, n, need));
    return *need <= most ? FV_OK : plan_tiles(c, n, most, need);
}

static fv_status too_little(clip *c, uint64_t need)
{
    c->stats->least_bytes = ((need >> 20) + 1) << 20;
    return fv_fail(c->ctx, FV_ERR_OOM,
                   "super-resolution: windows of %d frames of %d x %d pixels need at least %llu "
                   "MiB, and %llu MiB are allowed",
                   c->window, c->all[1], c->all[0],
                   (unsigned long long)(c->stats->least_bytes >> 20),
                   (unsigned long long)(c->o->max_bytes >> 20));
}

/* Frames at a time, at most n, and tiles. */
static fv_status fit(clip *c, int n)
{
    const int choice[3] = {n, 17, FEWEST};
    const uint64_t most = c->o->max_bytes ? c->o->max_bytes : UINT64_MAX;
    uint64_t need = 0;
    for (int i = 0; i < 3; i++) {
        if (i && (choice[i] >= c->window || choice[i] <= c->o->overlap || c->o->window)) continue;
        c->window = choice[i];
        FV_TRY(plan_window(c, c->window, most, &need));
        if (need <= most) return FV_OK;
    }
    return too_little(c, need);
}

/* Where frames alone are too much there is no plan that fits. */
static fv_status say_least(clip *c)
{
    const fv_status s = fit(c, longest_window(c));
    return s == FV_OK ? FV_ERR_OOM : s;
}

/* ---- A window -------------------------------------------------------------------------------- */

static void add_part(const clip *c, int row, int column, int n)
{
    const int y0 = wan_axis_begin(&c->axis[0], row), x0 = wan_axis_begin(&c->axis[1], column);
    const int h = c->axis[0].size, w = c->axis[1].size;
    const float *wy = c->axis[0].weight + (size_t)row * (size_t)h;
    const float *wx = c->axis[1].weight + (size_t)column * (size_t)w;
#pragma omp parallel for num_threads(fv_ctx_threads(c->ctx)) schedule(static) collapse(2)
    for (int t = 0; t < n; t++)
        for (int y = 0; y < h; y++) {
            const float *from = c->part + ((size_t)t * (size_t)h + (size_t)y) * (size_t)w * 3;
            float *to = c->out + (size_t)t * c->pixels +
                        ((size_t)(y0 + y) * (size_t)c->all[1] + (size_t)x0) * 3;
            for (int x = 0; x < w; x++)
                for (int k = 0; k < 3; k++) to[3 * x + k] += wy[y] * wx[x] * from[3 * x + k];
        }
}

/* Results of the n frames in `in`, blended with what the window before left. */
static fv_status compute(clip *c, int n)
{
    const double start = fv_now();
    const int rows = c->axis[0].count, columns = c->axis[1].count;
    c->tile.done = 0;
    c->tile.reported = -1;
    c->tile.total = c->tile.flop * rows * columns;
    if (c->part) memset(c->out, 0, (size_t)n * c->pixels * sizeof *c->out);
    for (int i = 0; i < rows * columns; i++) {
        const int at[2] = {wan_axis_begin(&c->axis[0], i / columns),
                           wan_axis_begin(&c->axis[1], i % columns)};
        FV_TRY(wan_tile_run(&c->tile, c->in, c->all, at, n, c->part ? c->part : c->out));
        if (c->part) add_part(c, i / columns, i % columns, n);
    }
    for (int t = 0; t < c->shared; t++) {
        const float f = c->shared > 1 ? (float)t / (float)(c->shared - 1) : 0.0f;
        float *out = c->out + (size_t)t * c->pixels;
        const float *old = c->tail + (size_t)t * c->pixels;
        for (size_t i = 0; i < c->pixels; i++) out[i] = (1 - f) * old[i] + f * out[i];
    }
    c->stats->windows++;
    c->stats->flop += c->tile.total;
    c->stats->seconds += fv_now() - start;
    return FV_OK;
}

/* ---- The clip -------------------------------------------------------------------------------- */

/* The networks, and what enlarges frames. */
static fv_status open_clip(clip *c, const fv_model *file)
{
    const fv_wan_options *o = c->o;
    const int in[2] = {o->in_height, o->in_width};
    const fvi_resampling how = {FVI_RESIZE_BICUBIC75, false, true};
    wan_config config;
    FV_TRY(wan_config_read(c->ctx, file, &config));
    c->tile.ctx = c->ctx;
    c->tile.steps = o->steps;
    c->tile.update = (fv_fdu_options)FV_FDU_OPTIONS_INIT;
    c->tile.update.mode = o->fdu < 0 ? config.fdu : (fv_fdu_mode)o->fdu;
    c->tile.update.alpha = o->detail < 0 ? config.alpha : o->detail;
    FV_TRY(wan_tile_open(&c->tile, file, o->precision));
    if (in[0] == c->all[0] && in[1] == c->all[1]) return FV_OK;
    if (!take(c, &c->small, (size_t)in[0] * 3, (size_t)in[1])) return FV_ERR_OOM;
    FV_TRY(fvi_resize_create(c->ctx, &c->resize, in[0] > in[1] ? in[0] : in[1],
                             c->all[0] > c->all[1] ? c->all[0] : c->all[1], 0));
    return fvi_resize_set(c->resize, how, in, c->all);
}

/* Memory for windows, the first of which has n frames. */
static fv_status prepare(clip *c, int n)
{
    const int parts = c->axis[0].count * c->axis[1].count, *size = c->tile.size;
    if (n < c->window) {
        const int same[2] = {size[0], size[1]};
        FV_TRY(wan_tile_plan(&c->tile, same, n)); /* the clip is shorter */
    }
    if (!take(c, &c->out, (size_t)n, c->pixels)) return FV_ERR_OOM;
    if (!c->has_ended && !take(c, &c->tail, (size_t)n, c->pixels)) return FV_ERR_OOM;
    if (parts > 1) {
        if (!take(c, &c->part, (size_t)n, (size_t)size[0] * (size_t)size[1] * 3))
            return FV_ERR_OOM;
        for (int k = 0; k < 2; k++) FV_TRY(wan_axis_weigh(c->ctx, &c->axis[k]));
    }
    fv_wan_stats *s = c->stats;
    s->steps = c->tile.steps;
    s->window = c->window;
    s->tiles = parts;
    s->tile_height = size[0];
    s->tile_width = size[1];
    return wan_tile_alloc(&c->tile);
}

/* The first window: its frames, its memory. */
static fv_status begin(clip *c, int *n)
{
    *n = 0;
    const fv_status s = read_frames(c, first_frames(c), n);
    if (c->is_full) return say_least(c);
    if (s != FV_OK || *n == 0) return s;
    FV_TRY(fit(c, c->has_ended ? *n : longest_window(c)));
    c->overlap = c->o->overlap < 0 ? c->window / 2 : c->o->overlap;
    if (!c->has_ended) FV_TRY(make_room(c, c->window));
    FV_TRY(read_frames(c, c->window, n));
    return prepare(c, *n);
}

/* New frames of the next window, in the first places of `in`: the oldest ones, which it does not have.
 * Each makes the oldest result final. */
static fv_status advance(clip *c, int *more)
{
    *more = 0;
    while (*more < c->window - c->overlap && !c->has_ended) {
        const int before = *more;
        FV_TRY(read_frames(c, before + 1, more));
        FV_TRY(write_frames(c, before, *more));
    }
    return FV_OK;
}

static fv_status run(clip *c, const fv_model *file)
{
    int n;
    FV_TRY(open_clip(c, file));
    FV_TRY(begin(c, &n));
    if (n == 0) return FV_OK;
    for (;;) {
        FV_TRY(compute(c, n));
        if (!c->tail) break; /* the only one */
        int more;
        FV_TRY(advance(c, &more));
        if (more == 0) break;
        c->shared = n - more;
        memcpy(c->tail, c->in, (size_t)more * c->pixels * sizeof *c->tail);
        memmove(c->in, c->in + (size_t)more * c->pixels,
                (size_t)c->shared * c->pixels * sizeof *c->in);
        memcpy(c->in + (size_t)c->shared * c->pixels, c->tail,
               (size_t)more * c->pixels * sizeof *c->in);
        memcpy(c->tail, c->out + (size_t)more * c->pixels,
               (size_t)c->shared * c->pixels * sizeof *c->tail);
    }
    return write_frames(c, 0, n);
}

static void free_clip(clip *c)
{
    float *const block[] = {c->in, c->out, c->tail, c->part, c->small, c->axis[0].weight,
                            c->axis[1].weight};
    wan_tile_close(&c->tile);
    fvi_resize_free(&c->resize);
    for (size_t i = 0; i < FV_ARRAY_LEN(block); i++) fv_free(c->ctx, block[i]);
}

static bool is_side(int n) { return n >= 1 && n <= 16384; }

static fv_status check_options(fv_ctx *ctx, const fv_wan_options *o)
{
    if (!is_side(o->in_height) || !is_side(o->in_width) || !is_side(o->height) ||
        !is_side(o->width))
        return fv_fail(ctx, FV_ERR_ARG, "super-resolution: sides must be 1 to 16384");
    const int window = o->window ? o->window : DEFAULT_WINDOW;
    if (window < 1 || window > 1025 || window % 4 != 1 || o->overlap < -1 || o->overlap >= window)
        return fv_fail(ctx, FV_ERR_ARG,
                       "super-resolution: windows must be 1 + 4k frames, at most "
                       "1025, and overlaps shorter");
    if (o->tile_height < 0 || o->tile_width < 0 || !o->tile_height != !o->tile_width ||
        o->tile_overlap < 0 || o->tile_overlap > 16384)
        return fv_fail(ctx, FV_ERR_ARG,
                       "super-resolution: tiles need both sides, and no length is below 0");
    if (o->steps < 0 || o->steps > WAN_MAX_TIMES || !(o->detail <= 2) || o->fdu < -1 ||
        o->fdu >= FV_FDU_COUNT || (o->precision != FV_F32 && o->precision != FV_BF16))
        return fv_fail(ctx, FV_ERR_ARG,
                       "super-resolution: steps, detail, update or precision is out "
                       "of range");
    return FV_OK;
}

static void end_stats(clip *c)
{
    fv_memory_stats m;
    fv_ctx_memory(c->ctx, &m);
    c->stats->peak_bytes = m.peak_bytes;
    c->stats->network_seconds = c->tile.network_seconds;
    c->stats->update_seconds = c->tile.update_seconds;
}

fv_status fv_wan_restore(fv_ctx *ctx, const fv_model *file, const fv_wan_options *opts,
                         const fv_wan_frames *io, fv_wan_stats *stats)
{
    fv_wan_options o = FV_WAN_OPTIONS_INIT;
    fv_wan_stats own = {0};
    fv_memory_stats m;
    if (stats) *stats = own;
    FV_TRY(FV_TAKE_OPTIONS(ctx, &o, opts, "super-resolution"));
    if (!file || !io || !io->read || !io->write)
        return fv_fail(ctx, FV_ERR_ARG, "super-resolution: no file, or nowhere to read and write");
    if (o.height == 0 && o.width == 0) {
        o.height = o.in_height;
        o.width = o.in_width;
    }
    FV_TRY(check_options(ctx, &o));
    fv_ctx_memory_reset_peak(ctx);
    fv_ctx_memory(ctx, &m);
    clip c = {.ctx = ctx, .o = &o, .io = io, .stats = &own, .all = {o.height, o.width},
              .before = m.current_bytes};
    c.pixels = (size_t)o.height * (size_t)o.width * 3;
    const fv_status s = run(&c, file);
    end_stats(&c);
    free_clip(&c);
    if (stats) *stats = own;
    return s;
}
