/* sr_tiles.c - the networks of super-resolution over the tiles of an enlarged picture [sr.h].
 *
 * Convolutions pad with zeros and windows repeat the edge, as is right where a region ends with the
 * picture, and wrong elsewhere; from there the wrong values spread by the reach of the networks. A
 * halo of the reach gives the pixels of the whole picture: windows begin at multiples of 8 from the
 * corner of a region, and regions at multiples of 8. A shorter one, as is usual, leaves small
 * differences, and the ramps hide where they change.
 *
 * The bicubic enlargement is made region by region; its pixels do not depend on the cut.
 *
 * What a frame of a video sees of the one before is kept for the whole picture, not for regions: a
 * region reads all that it covers and leaves what is its core's. Wrong values at its borders come no
 * further than in a picture: a block gets those of the same block, which have come as far. */
#include "sr.h"

#include "device_graph.h"

#include <math.h>
#include <string.h>

static int up(int n, int to) { return (n + to - 1) / to * to; }

/* ---- The cut --------------------------------------------------------------------------------- */

static int size_for(int core, int all, int halo)
{
    return core + 2 * halo < all ? core + 2 * halo : all;
}

static void cut_by(sr_cut *c, int core_w, int core_h)
{
    c->nx = (c->all_w + core_w - 1) / core_w;
    c->ny = (c->all_h + core_h - 1) / core_h;
    c->core_w = up((c->all_w + c->nx - 1) / c->nx, PSSR_WINDOW);
    c->core_h = up((c->all_h + c->ny - 1) / c->ny, PSSR_WINDOW);
    c->nx = (c->all_w + c->core_w - 1) / c->core_w;
    c->ny = (c->all_h + c->core_h - 1) / c->core_h;
    c->size_w = size_for(c->core_w, c->all_w, c->halo);
    c->size_h = size_for(c->core_h, c->all_h, c->halo);
}

bool sr_cut_find(sr_cut *c, const int core[2], int64_t most)
{
    sr_cut best = *c;
    int64_t least = INT64_MAX;
    if (core[0] > 0) {
        cut_by(c, core[0], core[1]);
        return (int64_t)c->size_w * c->size_h <= most;
    }
    for (int w = PSSR_WINDOW; w < c->all_w + PSSR_WINDOW; w += PSSR_WINDOW) {
        const int64_t rows = most / size_for(w, c->all_w, c->halo);
        const int64_t h = rows >= c->all_h ? c->all_h :
                                             (rows - 2 * c->halo) / PSSR_WINDOW * PSSR_WINDOW;
        if (h < PSSR_WINDOW) continue;
        cut_by(c, w, (int)h);
        const int64_t size = (int64_t)c->size_w * c->size_h, total = size * c->nx * c->ny;
        if (size > most || total >= least) continue;
        least = total;
        best = *c;
    }
    *c = best;
    return least < INT64_MAX;
}

double sr_cut_work(const sr_cut *c)
{
    return (double)c->size_w * c->size_h * c->nx * c->ny / ((double)c->all_w * c->all_h);
}

/* Wide halos need more than SR_MAX_REGION: of a region of 7 halos a core of 5 is left. */
int64_t sr_cut_most(const sr_cut *c)
{
    const int64_t wide = 7 * (int64_t)c->halo;
    return wide * wide > SR_MAX_REGION ? wide * wide : SR_MAX_REGION;
}

sr_cut sr_cut_ample(const sr_cut *c)
{
    const int any[2] = { 0, 0 };
    int64_t few = 0, enough = sr_cut_most(c);
    sr_cut ample = *c;
    (void)sr_cut_find(&ample, any, enough);
    while (enough - few > PSSR_WINDOW * PSSR_WINDOW) {
        const int64_t middle = few + (enough - few) / 2;
        sr_cut cut = *c;
        if (!sr_cut_find(&cut, any, middle) || sr_cut_work(&cut) > SR_AMPLE_WORK) {
            few = middle;
            continue;
        }
        enough = middle;
        ample = cut;
    }
    return ample;
}

/* Where region i begins, and its core: x, y, width, height. */
static void region_at(const sr_cut *c, int i, int at[2], int core[4])
{
    core[0] = i % c->nx * c->core_w;
    core[1] = i / c->nx * c->core_h;
    core[2] = c->all_w - core[0] < c->core_w ? c->all_w - core[0] : c->core_w;
    core[3] = c->all_h - core[1] < c->core_h ? c->all_h - core[1] : c->core_h;
    const int size[2] = { c->size_w, c->size_h }, all[2] = { c->all_w, c->all_h };
    for (int k = 0; k < 2; k++) {
        at[k] = core[k] - c->halo;
        if (at[k] > all[k] - size[k]) at[k] = all[k] - size[k];
        if (at[k] < 0) at[k] = 0;
    }
}

/* ---- The frame before ------------------------------------------------------------------------ */

static void past_name(char name[32], const char *what, int step, int block)
{
    snprintf(name, 32, "%s.%d.%d", what, step, block);
}

static void add_past(const sr_job *j, fv_tape *t, pssr_shift *shift)
{
    const pssr_config *c = &j->sr->net.cfg;
    const int64_t channels = j->past->channels;
    const int64_t dim[4] = { 1, j->cut.size_h, j->cut.size_w, channels };
    const fv_t take = fv_input(t, "take", FV_F32, 1, &channels);
    for (int k = 0; k <= j->drafts; k++) {
        shift[k] = (pssr_shift){ .take = take };
        for (int i = 0; i < pssr_step_blocks(c, k); i++) {
            char name[32];
            past_name(name, "past", k, i);
            shift[k].past[i] = fv_input(t, name, FV_F32, 4, dim);
        }
    }
}

static void put_out_next(const sr_job *j, fv_tape *t, const pssr_shift *shift)
{
    for (int k = 0; k <= j->drafts; k++)
        for (int i = 0; i < pssr_step_blocks(&j->sr->net.cfg, k); i++) {
            char name[32];
            past_name(name, "next", k, i);
            fv_output(t, name, shift[k].next[i]);
        }
}

/* Values of a plane of the past under a region. */
static size_t plane_floats(const sr_job *j)
{
    return (size_t)j->cut.size_w * (size_t)j->cut.size_h * (size_t)j->past->channels;
}

static size_t seen_bytes(const sr_job *j)
{
    return 2 * plane_floats(j) * (size_t)j->past->planes * sizeof(float);
}

static fv_status bind_past(sr_job *j)
{
    const size_t n = plane_floats(j), shares = (size_t)j->past->channels * sizeof(float);
    j->seen = fv_alloc(j->ctx, seen_bytes(j));
    if (!j->seen) return FV_ERR_OOM;
    j->near.seen = fv_mirror_alloc(j->ctx, j->seen, seen_bytes(j));
    j->near.take = fv_mirror_alloc(j->ctx, j->past->take, shares);
    if (!j->near.seen || !j->near.take) return FV_ERR_OOM;
    float *at = j->near.seen;
    FV_TRY(fv_plan_bind(j->plan, "take", j->near.take));
    for (int k = 0; k <= j->drafts; k++)
        for (int i = 0; i < pssr_step_blocks(&j->sr->net.cfg, k); i++, at += n) {
            char name[32];
            past_name(name, "past", k, i);
            FV_TRY(fv_plan_bind(j->plan, name, at));
            past_name(name, "next", k, i);
            FV_TRY(fv_plan_bind(j->plan, name, at + (size_t)j->past->planes * n));
        }
    return FV_OK;
}

static void load_past(const sr_job *j, const int at[2])
{
    const sr_past *p = j->past;
    const size_t row = (size_t)j->cut.size_w * (size_t)p->channels;
    float *to = j->seen;
    if (!p->is_there) memset(to, 0, seen_bytes(j) / 2);
    for (int i = 0; i < p->planes && p->is_there; i++)
        for (int y = 0; y < j->cut.size_h; y++, to += row) {
            const int64_t cell = (int64_t)i * p->cells +
                                 (int64_t)(at[1] + y) * j->cut.all_w + at[0];
            memcpy(to, p->plane[0] + cell * p->channels, row * sizeof(float));
        }
}

static void store_next(const sr_job *j, const int at[2], const int core[4])
{
    const sr_past *p = j->past;
    for (int i = 0; i < p->planes; i++) {
        const float *next = j->seen + (size_t)(p->planes + i) * plane_floats(j);
        for (int y = 0; y < core[3]; y++) {
            const int64_t from = (int64_t)(core[1] - at[1] + y) * j->cut.size_w +
                                 (core[0] - at[0]);
            const int64_t to = (int64_t)i * p->cells +
                               (int64_t)(core[1] + y) * j->cut.all_w + core[0];
            memcpy(p->plane[1] + to * p->channels, next + from * p->channels,
                   (size_t)core[2] * (size_t)p->channels * sizeof(float));
        }
    }
}

/* A frame has come to its end. */
static void keep_next(sr_past *p)
{
    float *now = p->plane[1];
    p->plane[1] = p->plane[0];
    p->plane[0] = now;
    p->is_there = true;
}

/* ---- The plan -------------------------------------------------------------------------------- */

static fv_status record(const sr_job *j, fv_tape **out)
{
    const int64_t dim[4] = { 1, (int64_t)j->cut.size_h * PSSR_PATCH,
                             (int64_t)j->cut.size_w * PSSR_PATCH, 3 };
    fv_t zhat[PSSR_MAX_TIMES];
    pssr_shift shift[PSSR_MAX_TIMES];
    pssr_graph g;
    FV_TRY(fv_tape_create(j->ctx, out, j->sr->params, FV_INFER, j->precision));
    const fv_t z = pssr_unshuffle(*out, fv_input(*out, "picture", FV_F32, 4, dim));
    pssr_graph_begin(&g, *out, &j->sr->net, 1, j->drafts);
    if (j->past) add_past(j, *out, shift);
    pssr_refine(&g, z, j->drafts, zhat, j->past ? shift : NULL);
    if (j->past) put_out_next(j, *out, shift);
    for (int k = 0; k < j->planes; k++) {
        char name[24];
        snprintf(name, sizeof name, "estimate.%d", k);
        fv_output(*out, name, pssr_shuffle(*out, zhat[j->plane_step[k]]));
    }
    return FV_OK;
}

static size_t region_floats(const sr_job *j)
{
    return (size_t)j->cut.size_w * (size_t)j->cut.size_h * PSSR_STATE;
}

static fv_status build(sr_job *j)
{
    fv_plan_options o = FV_PLAN_OPTIONS_INIT;
    fv_tape *t = NULL;
    fv_plan_destroy(&j->plan);
    o.external_work = 1;
    const fv_status s = record(j, &t);
    if (s != FV_OK) return s;
    FV_TRY(fv_plan_finish(j->ctx, &j->plan, &t, &o));
    fvi_plan_record(j->plan);
    j->flop = fv_plan_flop(j->plan);
    j->plan_bytes = fv_plan_work_bytes(j->plan) +
                    (uint64_t)(1 + j->planes) * region_floats(j) * sizeof(float);
    if (j->past) j->plan_bytes += seen_bytes(j);
    return FV_OK;
}

/* Bytes of the smallest region: what a bound must leave. */
static fv_status smallest(sr_job *j, const int core[2], uint64_t *least)
{
    const int one[2] = { PSSR_WINDOW, PSSR_WINDOW };
    (void)sr_cut_find(&j->cut, core[0] > 0 ? core : one, INT64_MAX);
    FV_TRY(build(j));
    *least = j->plan_bytes;
    return FV_ERR_CAPACITY;
}

static fv_status plan(sr_job *j, const int core[2], uint64_t budget, uint64_t *least)
{
    int64_t most = core[0] > 0 ? INT64_MAX : sr_cut_most(&j->cut);
    FV_TRY(pssr_tables_create(j->ctx, &j->tables, &j->sr->net.cfg, 1));
    for (int tries = 0; tries < 8; tries++) {
        if (!sr_cut_find(&j->cut, core, most)) break;
        FV_TRY(build(j));
        if (j->plan_bytes <= budget) return FV_OK;
        if (core[0] > 0) break;
        const double cells = (double)j->cut.size_w * j->cut.size_h;
        most = (int64_t)(cells * fmin(0.95, 0.98 * (double)budget / (double)j->plan_bytes));
    }
    if (core[0] == 0) { /* the smallest one may fit though the guesses did not */
        const fv_status s = smallest(j, core, least);
        return s == FV_ERR_CAPACITY && *least <= budget ? FV_OK : s;
    }
    return smallest(j, core, least);
}

fv_status sr_tiles_plan(sr_job *j, const int core[2], uint64_t budget, uint64_t *least)
{
    const fv_status s = plan(j, core, budget, least);
    if (s != FV_OK) {
        sr_tiles_free(j);
        return s;
    }
    const int shorter = j->cut.core_w < j->cut.core_h ? j->cut.core_w : j->cut.core_h;
    if (j->cut.ramp > shorter) j->cut.ramp = shorter; /* no pixel is in two ramps of an axis */
    return FV_OK;
}

fv_status sr_tiles_alloc(sr_job *j)
{
    const size_t n = region_floats(j) * sizeof(float);
    j->in = fv_alloc(j->ctx, n);
    j->plan_work = fv_work_alloc(j->ctx, fv_plan_work_bytes(j->plan));
    if (!j->in || !j->plan_work) return FV_ERR_OOM;
    if (!(j->near.in = fv_mirror_alloc(j->ctx, j->in, n))) return FV_ERR_OOM;
    FV_TRY(fv_plan_set_work(j->plan, j->plan_work, fv_plan_work_bytes(j->plan)));
    FV_TRY(pssr_tables_bind(&j->tables, j->plan));
    FV_TRY(fv_plan_bind(j->plan, "picture", j->near.in));
    for (int k = 0; k < j->planes; k++) {
        char name[24];
        snprintf(name, sizeof name, "estimate.%d", k);
        j->estimate[k] = fv_alloc(j->ctx, n);
        if (!j->estimate[k]) return FV_ERR_OOM;
        j->near.estimate[k] = fv_mirror_alloc(j->ctx, j->estimate[k], n);
        if (!j->near.estimate[k]) return FV_ERR_OOM;
        FV_TRY(fv_plan_bind(j->plan, name, j->near.estimate[k]));
    }
    return j->past ? bind_past(j) : FV_OK;
}

void sr_tiles_free(sr_job *j)
{
    fv_plan_destroy(&j->plan);
    pssr_tables_free(j->ctx, &j->tables);
    fv_mirror_free(j->ctx, j->near.in, j->in);
    fv_mirror_free(j->ctx, j->near.seen, j->seen);
    if (j->past) fv_mirror_free(j->ctx, j->near.take, j->past->take);
    for (int k = 0; k < PSSR_MAX_TIMES; k++)
        fv_mirror_free(j->ctx, j->near.estimate[k], j->estimate[k]);
    memset(&j->near, 0, sizeof j->near);
    fv_free(j->ctx, j->in);
    fv_free(j->ctx, j->seen);
    fv_dev_free(j->ctx, j->plan_work);
    j->seen = NULL;
    for (int k = 0; k < PSSR_MAX_TIMES; k++) fv_free(j->ctx, j->estimate[k]);
    j->in = NULL;
    j->plan_work = NULL;
    memset(j->estimate, 0, sizeof j->estimate);
}

/* ---- Running --------------------------------------------------------------------------------- */

/* The enlarged picture under a region, from [0, 1] to [-1, 1]. */
static void load(const sr_job *j, const int at[2])
{
    const int rect[4] = { at[0] * PSSR_PATCH, at[1] * PSSR_PATCH, j->cut.size_w * PSSR_PATCH,
                          j->cut.size_h * PSSR_PATCH };
    const int64_t n = (int64_t)region_floats(j);
    fvi_resize_rect(j->resize, j->source, 3, rect, j->in);
#pragma omp parallel for num_threads(fv_ctx_threads(j->ctx)) schedule(static)
    for (int64_t i = 0; i < n; i++) j->in[i] = 2 * fv_clamp_unit(j->in[i]) - 1;
}

/* Share of pixel p of an axis in the core [first, end) of `all`, in pixels: 1 inside; rising over
 * `ramp` pixels around borders to other cores. */
static float share(int p, int first, int end, int all, int ramp)
{
    const float x = (float)p + 0.5f;
    float w = 1;
    if (first > 0) w = fv_clamp_unit((x - (float)first) / (float)ramp + 0.5f);
    if (end < all) w *= 1 - fv_clamp_unit((x - (float)end) / (float)ramp + 0.5f);
    return w;
}

/* Range of an axis that a core writes, in pixels, within the picture. */
static void written(int first, int count, int all, int ramp, int limit, int *from, int *to)
{
    *from = (first > 0 ? first * PSSR_PATCH - ramp / 2 : 0);
    *to = first + count < all ? (first + count) * PSSR_PATCH + ramp / 2 : limit;
    if (*to > limit) *to = limit;
}

/* Adds a region's estimate to its plane. false: it is not finite. */
static bool store(const sr_job *j, const float *estimate, float *plane, const int at[2],
                  const int core[4])
{
    const sr_cut *c = &j->cut;
    const int P = PSSR_PATCH, ramp = c->ramp > 0 ? c->ramp * P : 0;
    int x0, x1, y0, y1, bad = 0;
    written(core[0], core[2], c->all_w, ramp, j->width, &x0, &x1);
    written(core[1], core[3], c->all_h, ramp, j->height, &y0, &y1);
    const int blend = ramp ? ramp : 1;
#pragma omp parallel for num_threads(fv_ctx_threads(j->ctx)) schedule(static) reduction(| : bad)
    for (int y = y0; y < y1; y++) {
        const float wy =
            ramp ? share(y, core[1] * P, (core[1] + core[3]) * P, c->all_h * P, blend) : 1;
        const float *from = estimate + 3 * ((size_t)(y - at[1] * P) * (size_t)(c->size_w * P) +
                                            (size_t)(x0 - at[0] * P));
        float *to = plane + 3 * ((size_t)y * (size_t)j->width + (size_t)x0);
        for (int x = x0; x < x1; x++, from += 3, to += 3) {
            const float w =
                ramp ? wy * share(x, core[0] * P, (core[0] + core[2]) * P, c->all_w * P, blend) :
                       1;
            for (int k = 0; k < 3; k++) {
                const float v = 0.5f * from[k] + 0.5f;
                if (!isfinite(v)) bad = 1;
                to[k] += w * v;
            }
        }
    }
    return !bad;
}

/* One region: what the plan reads, the plan, what it wrote. */
static fv_status run_region(sr_job *j, const int at[2])
{
    const size_t n = region_floats(j) * sizeof(float);
    load(j, at);
    if (j->past) load_past(j, at);
    FV_TRY(fv_mirror_send(j->ctx, j->near.in, j->in, n));
    if (j->past) FV_TRY(fv_mirror_send(j->ctx, j->near.seen, j->seen, seen_bytes(j) / 2));
    FV_TRY(fv_plan_forward(j->plan));
    for (int k = 0; k < j->planes; k++)
        FV_TRY(fv_mirror_fetch(j->ctx, j->estimate[k], j->near.estimate[k], n));
    if (!j->past) return FV_OK;
    const size_t next = seen_bytes(j) / 2 / sizeof(float);
    return fv_mirror_fetch(j->ctx, j->seen + next, j->near.seen + next, seen_bytes(j) / 2);
}

fv_status sr_tiles_run(sr_job *j)
{
    const int n = j->cut.nx * j->cut.ny, channels = j->past ? j->past->channels : 0;
    for (int c = 0; c < channels; c++) j->past->take[c] = j->past->is_there ? 1.0f : 0.0f;
    if (j->past)
        FV_TRY(fv_mirror_send(j->ctx, j->near.take, j->past->take,
                              (size_t)channels * sizeof(float)));
    for (int i = 0; i < n; i++) {
        int at[2], core[4];
        FV_TRY(fv_report(j->ctx, "enlarging", (uint64_t)i, (uint64_t)n, NULL));
        region_at(&j->cut, i, at, core);
        FV_TRY(run_region(j, at));
        if (j->past) store_next(j, at, core);
        for (int k = 0; k < j->planes; k++)
            if (!store(j, j->estimate[k], j->plane[k], at, core))
                return fv_fail(j->ctx, FV_ERR_NUMERIC, "super-resolution: the estimate of step %d "
                               "is not finite in the tile at %d, %d", j->plane_step[k],
                               core[0] * PSSR_PATCH, core[1] * PSSR_PATCH);
    }
    FV_TRY(fv_report(j->ctx, "enlarging", (uint64_t)n, (uint64_t)n, NULL));
    if (j->past) keep_next(j->past);
    return FV_OK;
}
