/* rdvq_pixels.c - analysis and synthesis of whole pictures by own models, region by region.
 *
 * A region is a rectangle of latents of scale 0 whose middle, the core, is wanted. Convolutions pad
 * with zeros, which is right where a region ends at the end of the picture, and wrong elsewhere:
 * there the wrong values spread by the reach of the network, so a core lies at least so far inside.
 * All regions of a picture have one size, that of the plan, and are moved inwards at the picture's
 * ends; so a core by the end has even more on its other side, and pixels are those of the whole
 * picture at once.
 *
 *     reach of synthesis   sum over levels of 2 blocks * stride, and the last convolution
 *     reach of analysis    the same from fine to coarse, rounded up to whole latents at each step
 *
 * A picture of up to REGION_PIXELS is one region if memory allows; the more there are, the more is
 * computed twice.
 *
 * Where the CPU multiplies bf16, activations are bf16: half the time and memory of f32, for 0.005
 * dB of 24 (rdvq-xs); the picture is within 50 dB of that in f32.
 *
 * Beyond its right and lower end a picture is continued by its last pixels up to whole latents. */
#include "rdvq_pixels.h"

#include <math.h>
#include <string.h>

#include "device_graph.h"
#include "image_codec.h"

#define REGION_PIXELS ((int64_t)9 << 20)
#define SEARCH_FLOATS ((int64_t)1 << 17)   /* products of latents and codes at a time: stay cached */
#define SEARCH_ROWS 1024
#define FIXED_BYTES ((uint64_t)8 << 20)    /* of plans, beside what grows with the region */

/* ---- Open and close -------------------------------------------------------------------------- */

static int round_up_div(int a, int b) { return (a + b - 1) / b; }

static void find_reach(rdvq_pixels *p)
{
    const rdvq_config *c = &p->net.cfg;
    const int cell = rdvq_stride(c, 0);
    int out = rdvq_stride(c, 0) >> (c->levels - 1), in = 1, most = 0;
    for (int i = 0; i < c->levels; i++) {
        const int stride = 2 << i;
        out += 2 * c->dec_blocks[i] * stride;
        in += 2 * c->enc_blocks[i];
        if (in * stride > most) most = in * stride; /* some scale is taken here, or later */
        in = round_up_div(in, 2);
    }
    p->reach_out = round_up_div(out, cell);
    p->reach_in = round_up_div(most, cell);
}

static fv_status measure_codes(fv_ctx *ctx, rdvq_pixels *p, const float *book)
{
    const size_t K = (size_t)p->net.cfg.codes, D = (size_t)p->net.cfg.code_width;
    for (size_t k = 0; k < K; k++) {
        double sum = 0;
        for (size_t d = 0; d < D; d++) sum += (double)book[k * D + d] * book[k * D + d];
        p->length[k] = (float)(1 / fmax(sqrt(sum), RDVQ_UNIT_EPS));
        if (!isfinite(sum)) return fv_fail(ctx, FV_ERR_MODEL, "model: code %zu is not finite", k);
    }
    return FV_OK;
}

/* Codes of unit length, by the tape that training used. */
static fv_status read_codes(fv_ctx *ctx, rdvq_pixels *p)
{
    const size_t K = (size_t)p->net.cfg.codes, D = (size_t)p->net.cfg.code_width;
    fv_tape *t;
    fv_plan *plan = NULL;
    FV_TRY(fv_tape_create(ctx, &t, p->params, FV_INFER, FV_F32));
    fv_output(t, "codes", rdvq_codes(t, &p->net));
    fv_output(t, "book", fv_affine(t, fv_param(t, p->net.codebook), 1.0f, 0.0f));
    fv_status s = fv_plan_finish(ctx, &plan, &t, NULL);
    if (s == FV_OK) s = fv_plan_forward(plan);
    p->codes = fv_alloc(ctx, K * D * sizeof *p->codes);
    p->length = fv_alloc(ctx, K * sizeof *p->length);
    float *book = fv_alloc(ctx, K * D * sizeof *book);
    if (s == FV_OK && (!p->codes || !p->length || !book)) s = FV_ERR_OOM;
    if (s == FV_OK)
        s = fv_dev_copy(ctx, p->codes, fv_plan_value(plan, "codes").data, K * D * sizeof *book,
                        FV_COPY_TO_HOST);
    if (s == FV_OK)
        s = fv_dev_copy(ctx, book, fv_plan_value(plan, "book").data, K * D * sizeof *book,
                        FV_COPY_TO_HOST);
    if (s == FV_OK) s = measure_codes(ctx, p, book);
    fv_free(ctx, book);
    fv_plan_destroy(&plan);
    return s;
}

/* Do the layers fit together? The smallest region on a tape, both ways. */
static fv_status record(fv_ctx *ctx, const rdvq_pixels *p, bool analyses, const int size[2],
                        fv_tape **out);
static fv_status check_shapes(fv_ctx *ctx, const rdvq_pixels *p)
{
    const int one[2] = { 1, 1 };
    for (int i = 0; i < 2; i++) {
        fv_tape *t;
        FV_TRY(record(ctx, p, i, one, &t));
        const fv_status s = fv_tape_status(t);
        fv_tape_destroy(&t);
        if (s == FV_ERR_OOM) return s;
        if (s != FV_OK) return fv_fail_in(ctx, FV_ERR_MODEL, "the layers do not fit together");
    }
    return FV_OK;
}

fv_status rdvq_pixels_open(fv_ctx *ctx, rdvq_pixels **out, const fv_model *m)
{
    fv_status s = FV_OK;
    rdvq_config cfg;
    *out = NULL;
    FV_TRY(rdvq_config_read(ctx, m, &cfg));
    if (cfg.is_official)
        return fv_fail(ctx, FV_ERR_UNSUPPORTED, "model: the official geometry cannot be cut into "
                       "tiles, and is not served; own models are");
    rdvq_pixels *p = fv_calloc(ctx, 1, sizeof *p);
    if (!p) return FV_ERR_OOM;
    p->ctx = ctx;
    FV_TRY_GOTO(fv_params_create(ctx, &p->params));
    rdvq_net_add_pixels(&p->net, p->params, &cfg, RDVQ_PREFIX);
    FV_TRY_GOTO(fv_params_load(p->params, m, ""));
    FV_TRY_GOTO(check_shapes(ctx, p));
    FV_TRY_GOTO(read_codes(ctx, p));
    find_reach(p);
    *out = p;
    return FV_OK;
fail:
    rdvq_pixels_close(&p);
    return s;
}

void rdvq_pixels_close(rdvq_pixels **pp)
{
    if (!pp || !*pp) return;
    rdvq_pixels *p = *pp;
    *pp = NULL;
    fv_params_destroy(&p->params);
    fv_free(p->ctx, p->codes);
    fv_free(p->ctx, p->length);
    fv_free(p->ctx, p);
}

/* ---- Maps ------------------------------------------------------------------------------------ */

void rdvq_map_of(const rdvq_grid *g, const rdvq_slices *s, rdvq_map *out)
{
    memset(out, 0, sizeof *out);
    out->layers = s->layers;
    for (int k = 0; k < s->layers; k++) {
        out->width[k] = g->map_w[s->layer[k].scale];
        out->height[k] = g->map_h[s->layer[k].scale];
        out->first[k + 1] = out->first[k] + (int64_t)out->width[k] * out->height[k];
    }
}

/* ---- Regions --------------------------------------------------------------------------------- */

/* In latents of scale 0: what is wanted, the picture, and how it is cut. */
typedef struct regions {
    int x, y, w, h, all_w, all_h, reach;
    int nx, ny, core_w, core_h, size_w, size_h;
} regions;

static int size_for(int core, int all, int reach)
{
    return core + 2 * reach < all ? core + 2 * reach : all;
}

/* The cut that computes least, of those with regions of at most `most` latents. */
static bool cut(regions *r, int64_t most)
{
    int64_t least = INT64_MAX;
    for (int nx = 1; nx <= r->w; nx++) {
        const int core_w = round_up_div(r->w, nx), size_w = size_for(core_w, r->all_w, r->reach);
        const int64_t rows = most / size_w;
        if (nx != round_up_div(r->w, core_w)) continue;
        const int64_t core = rows >= r->all_h ? r->h : rows - 2 * r->reach;
        if (core < 1) continue;
        const int ny = round_up_div(r->h, core < r->h ? (int)core : r->h);
        const int core_h = round_up_div(r->h, ny), size_h = size_for(core_h, r->all_h, r->reach);
        const int64_t total = (int64_t)nx * ny * size_w * size_h;
        if (total >= least) continue;
        least = total;
        r->nx = nx;
        r->ny = round_up_div(r->h, core_h);
        r->core_w = core_w;
        r->core_h = core_h;
        r->size_w = size_w;
        r->size_h = size_h;
    }
    return least < INT64_MAX;
}

/* Region i: where it begins, and its core (x, y, width, height), in latents of the picture. */
static void region_at(const regions *r, int i, int at[2], int core[4])
{
    core[0] = r->x + i % r->nx * r->core_w;
    core[1] = r->y + i / r->nx * r->core_h;
    core[2] = r->x + r->w - core[0] < r->core_w ? r->x + r->w - core[0] : r->core_w;
    core[3] = r->y + r->h - core[1] < r->core_h ? r->y + r->h - core[1] : r->core_h;
    const int size[2] = { r->size_w, r->size_h }, all[2] = { r->all_w, r->all_h };
    for (int k = 0; k < 2; k++) {
        at[k] = core[k] - r->reach;
        if (at[k] > all[k] - size[k]) at[k] = all[k] - size[k];
        if (at[k] < 0) at[k] = 0;
    }
}

/* ---- Plans ----------------------------------------------------------------------------------- */

static const char *const map_name[RDVQ_SCALES] = { "map0", "map1", "map2" };
static const char *const noise_name[2] = { "noise8", "noise4" };

static int64_t map_channels(const rdvq_config *c, int scale)
{
    return scale == RDVQ_SCALES - 1 ? (int64_t)c->code_width * c->groups : c->code_width;
}

/* size: width and height in latents of scale 0. */
static fv_status record(fv_ctx *ctx, const rdvq_pixels *p, bool analyses, const int size[2],
                        fv_tape **out)
{
    const rdvq_config *c = &p->net.cfg;
    const int64_t cell = rdvq_stride(c, 0);
    const int64_t dim[4] = { 1, cell * size[1], cell * size[0], 3 };
    fv_t map[RDVQ_SCALES], noise[2] = { 0, 0 };
    const bool has_bf16 = fv_ctx_device(ctx) == FV_DEVICE_CUDA ||
                          fv_ctx_cpu(ctx) & FV_CPU_AVX512BF16;
    const fv_dtype type = has_bf16 ? FV_BF16 : FV_F32;
    FV_TRY(fv_tape_create(ctx, out, p->params, FV_INFER, type));
    if (analyses) {
        rdvq_analyse(*out, &p->net, fv_input(*out, "picture", FV_F32, 4, dim), map);
        for (int s = 0; s < RDVQ_SCALES; s++) fv_output(*out, map_name[s], map[s]);
        return FV_OK;
    }
    for (int s = 0; s < RDVQ_SCALES; s++) {
        const int64_t d[4] = { 1, (int64_t)size[1] << s, (int64_t)size[0] << s,
                               map_channels(c, s) };
        map[s] = fv_input(*out, map_name[s], FV_F32, 4, d);
    }
    for (int k = 0; k < 2 && c->noise; k++) {
        const int64_t d[4] = { 1, dim[1] / (k ? 4 : 8), dim[2] / (k ? 4 : 8), c->noise };
        noise[k] = fv_input(*out, noise_name[k], FV_F32, 4, d);
    }
    fv_output(*out, "picture", rdvq_synthesise(*out, &p->net, map, noise));
    return FV_OK;
}

#define BUFFERS (1 + RDVQ_SCALES + 2)

/* A plan over one region and what it reads and writes: on the host and mirrored where the plan is. */
typedef struct run {
    fv_ctx *ctx;
    const rdvq_pixels *p;
    regions r;
    bool analyses;
    fv_plan *plan;
    float *picture, *map[RDVQ_SCALES], *noise[2], *near[BUFFERS];
    void *work;
    uint64_t bytes;
} run;

/* Floats of a region: picture, maps, noise. */
static size_t floats_of(const run *o, int what)
{
    const rdvq_config *c = &o->p->net.cfg;
    const size_t cells = (size_t)o->r.size_w * (size_t)o->r.size_h;
    const size_t side = (size_t)rdvq_stride(c, 0), pixels = cells * side * side;
    if (what == 0) return 3 * pixels;
    if (what <= RDVQ_SCALES) return (cells << 2 * (what - 1)) * (size_t)map_channels(c, what - 1);
    if (o->analyses) return 0;
    return pixels / (what == RDVQ_SCALES + 1 ? 64 : 16) * (size_t)c->noise;
}

static float **buffer_at(run *o, int what)
{
    return what == 0 ? &o->picture : what <= RDVQ_SCALES ? &o->map[what - 1]
                                                         : &o->noise[what - RDVQ_SCALES - 1];
}
static const char *buffer_name(int what)
{
    return what == 0 ? "picture" : what <= RDVQ_SCALES ? map_name[what - 1]
                                                       : noise_name[what - RDVQ_SCALES - 1];
}

/* Bytes of activations per latent of scale 0, roughly: the widest level has its stream and the two
 * results of a block at a time, or what is shuffled between levels; picture and maps. */
static uint64_t cell_bytes(const rdvq_config *c, bool analyses)
{
    const int *width = analyses ? c->enc_width : c->dec_width;
    const uint64_t pixels = (uint64_t)rdvq_stride(c, 0) * (uint64_t)rdvq_stride(c, 0);
    uint64_t most = 0;
    for (int i = 0; i < c->levels; i++) {
        const uint64_t here = pixels >> 2 * (i + 1);
        const uint64_t floats = here * 4 * (uint64_t)width[i];
        if (floats > most) most = floats;
    }
    return 4 * (most + 9 * pixels);
}

static void close_run(run *o)
{
    fv_plan_destroy(&o->plan);
    fv_dev_free(o->ctx, o->work);
    for (int i = 0; i < BUFFERS; i++) {
        fv_mirror_free(o->ctx, o->near[i], *buffer_at(o, i));
        fv_free(o->ctx, *buffer_at(o, i));
    }
    o->work = NULL;
}

static fv_status too_little(const run *o, uint64_t budget)
{
    return fv_fail(o->ctx, FV_ERR_OOM,
                   "memory limit: the pixels of %d x %d latents do not fit into %llu MiB",
                   o->r.all_w, o->r.all_h, (unsigned long long)(budget >> 20));
}

/* The largest regions that fit the budget, or all at once. */
static fv_status plan_regions(run *o, uint64_t budget)
{
    const rdvq_config *c = &o->p->net.cfg;
    const int64_t side = rdvq_stride(c, 0);
    int64_t most = REGION_PIXELS / (side * side);
    if (budget / cell_bytes(c, o->analyses) < (uint64_t)most)
        most = (int64_t)(budget / cell_bytes(c, o->analyses));
    for (;;) {
        fv_plan_options opts = FV_PLAN_OPTIONS_INIT;
        fv_tape *t;
        if (most < 1 || !cut(&o->r, most)) return too_little(o, budget);
        const int size[2] = { o->r.size_w, o->r.size_h };
        FV_TRY(record(o->ctx, o->p, o->analyses, size, &t));
        opts.external_work = 1;
        FV_TRY(fv_plan_finish(o->ctx, &o->plan, &t, &opts));
        o->bytes = fv_plan_work_bytes(o->plan);
        for (int i = 0; i < BUFFERS; i++) o->bytes += 4 * (uint64_t)floats_of(o, i);
        if (o->bytes <= budget) return FV_OK;
        fv_plan_destroy(&o->plan);
        most = (int64_t)o->r.size_w * o->r.size_h * 7 / 8;
    }
}

static fv_status open_run(run *o, uint64_t budget)
{
    FV_TRY(plan_regions(o, budget));
    const uint64_t bytes = fv_plan_work_bytes(o->plan);
    if (!(o->work = fv_work_alloc(o->ctx, bytes ? bytes : 64))) return FV_ERR_OOM;
    FV_TRY(fv_plan_set_work(o->plan, o->work, bytes));
    for (int i = 0; i < BUFFERS; i++) {
        if (floats_of(o, i) == 0) continue;
        float *f = *buffer_at(o, i) = fv_alloc(o->ctx, floats_of(o, i) * sizeof *f);
        if (!f) return FV_ERR_OOM;
        o->near[i] = fv_mirror_alloc(o->ctx, f, floats_of(o, i) * sizeof *f);
        if (!o->near[i]) return FV_ERR_OOM;
        FV_TRY(fv_plan_bind(o->plan, buffer_name(i), o->near[i]));
    }
    fvi_plan_record(o->plan);
    return FV_OK;
}

/* What the plan reads goes to it, then what it wrote comes back. */
static fv_status exchange(run *o, bool is_before)
{
    for (int i = 0; i < BUFFERS; i++) {
        float *host = *buffer_at(o, i);
        const bool is_read = o->analyses == (i == 0);
        if (!host || is_read != is_before) continue;
        const size_t bytes = floats_of(o, i) * sizeof *host;
        FV_TRY(is_before ? fv_mirror_send(o->ctx, o->near[i], host, bytes)
                         : fv_mirror_fetch(o->ctx, host, o->near[i], bytes));
    }
    return FV_OK;
}

static fv_status run_region(run *o, int i, rdvq_work *work)
{
    const double start = fv_now();
    FV_TRY(fv_report(o->ctx, o->analyses ? "analysing" : "painting", (uint64_t)i,
                     (uint64_t)(o->r.nx * o->r.ny), NULL));
    FV_TRY(exchange(o, true));
    FV_TRY(fv_plan_forward(o->plan));
    FV_TRY(exchange(o, false));
    work->seconds += fv_now() - start;
    work->flop += fv_plan_flop(o->plan);
    if (o->bytes > work->memory) work->memory = o->bytes;
    return FV_OK;
}

uint64_t rdvq_pixels_least(const rdvq_pixels *p, const rdvq_grid *g)
{
    const rdvq_config *c = &p->net.cfg;
    const int side = rdvq_stride(c, 0), w = g->padded_w / side, h = g->padded_h / side;
    uint64_t most = 0;
    for (int i = 0; i < 2; i++) {
        const int reach = i ? p->reach_in : p->reach_out;
        const uint64_t bytes = cell_bytes(c, i) * (uint64_t)size_for(1, w, reach) *
                               (uint64_t)size_for(1, h, reach);
        if (bytes > most) most = bytes;
    }
    return most * 5 / 4 + FIXED_BYTES;
}

/* ---- Analysis -------------------------------------------------------------------------------- */

static float level_of(const uint8_t *row, int depth, size_t i)
{
    return depth == 8 ? (float)row[i] * (2.0f / 255) - 1
                      : (float)((const uint16_t *)row)[i] * (2.0f / 65535) - 1;
}

static int within(int v, int n) { return v < n ? v : n - 1; }

/* The picture from (x, y) on, its last pixels repeated. */
static void read_pixels(const run *o, const fv_image *img, const int at[2])
{
    const int side = rdvq_stride(&o->p->net.cfg, 0);
    const int w = o->r.size_w * side, h = o->r.size_h * side;
    const size_t channels = (size_t)img->channels;
#pragma omp parallel for schedule(static) num_threads(fv_ctx_threads(o->ctx))
    for (int y = 0; y < h; y++) {
        const uint8_t *row = fvi_image_row(img, within(at[1] * side + y, img->height));
        float *out = o->picture + (size_t)y * (size_t)w * 3;
        for (int x = 0; x < w; x++) {
            const size_t i = (size_t)within(at[0] * side + x, img->width) * channels;
            for (size_t c = 0; c < 3; c++)
                out[3 * x + (int)c] = level_of(row, img->depth, channels > 2 ? i + c : i);
        }
    }
}

/* Latents that wait for their codes. */
typedef struct search {
    fv_ctx *ctx;
    const rdvq_pixels *p;
    fv_plan *plan;
    float *z, *near;     /* [rows, code_width], unit length; the same where the plan is */
    float *product;      /* [rows, codes] from a device; NULL: the plan's own */
    int64_t *token;      /* [rows] */
    int rows, filled;
    rdvq_nearest *out;
} search;

static size_t z_bytes(const search *f)
{
    return (size_t)f->rows * (size_t)f->p->net.cfg.code_width * sizeof(float);
}
static size_t product_bytes(const search *f)
{
    return (size_t)f->rows * (size_t)f->p->net.cfg.codes * sizeof(float);
}

static fv_status open_search(search *f)
{
    const rdvq_config *c = &f->p->net.cfg;
    const int64_t fit = SEARCH_FLOATS / c->codes;
    fv_tape *t;
    f->rows = fit < 16 ? 16 : fit > SEARCH_ROWS ? SEARCH_ROWS : (int)fit;
    const int64_t dim[2] = { f->rows, c->code_width };
    f->z = fv_calloc(f->ctx, (size_t)f->rows * (size_t)c->code_width, sizeof *f->z);
    f->token = fv_calloc(f->ctx, (size_t)f->rows, sizeof *f->token);
    if (!f->z || !f->token) return FV_ERR_OOM;
    f->near = fv_mirror_alloc(f->ctx, f->z, z_bytes(f));
    if (f->near != f->z) f->product = fv_alloc(f->ctx, product_bytes(f));
    if (!f->near || (f->near != f->z && !f->product)) return FV_ERR_OOM;
    FV_TRY(fv_tape_create(f->ctx, &t, f->p->params, FV_INFER, FV_F32));
    fv_output(t, "products", fv_linear_as(t, fv_input(t, "z", FV_F32, 2, dim), f->p->net.codebook,
                                          -1, FV_ACT_NONE, FV_F32));
    FV_TRY(fv_plan_finish(f->ctx, &f->plan, &t, NULL));
    fvi_plan_record(f->plan);
    return fv_plan_bind(f->plan, "z", f->near);
}

static void close_search(search *f)
{
    fv_plan_destroy(&f->plan);
    fv_mirror_free(f->ctx, f->near, f->z);
    fv_free(f->ctx, f->product);
    fv_free(f->ctx, f->z);
    fv_free(f->ctx, f->token);
}

/* Of the products of a latent with all codes: the nearest codes, and how far away they are. */
static void take_nearest(const search *f, const float *product, uint16_t *code, float *distance)
{
    const int count = f->out->count;
    fvi_vq_largest(f->ctx, code, distance, count, product, f->p->length, f->p->net.cfg.codes);
    for (int i = 0; i < count; i++) distance[i] = distance[i] > -2 ? 1 - distance[i] : 3;
}

static fv_status flush(search *f)
{
    const int codes = f->p->net.cfg.codes, n = f->out->count;
    if (f->filled == 0) return FV_OK;
    FV_TRY(fv_mirror_send(f->ctx, f->near, f->z, z_bytes(f)));
    FV_TRY(fv_plan_forward(f->plan));
    const float *product = fv_plan_value(f->plan, "products").data;
    if (f->product) {
        FV_TRY(fv_dev_copy(f->ctx, f->product, product, product_bytes(f), FV_COPY_TO_HOST));
        product = f->product;
    }
#pragma omp parallel for schedule(static) num_threads(fv_ctx_threads(f->ctx))
    for (int i = 0; i < f->filled; i++)
        take_nearest(f, product + (size_t)i * (size_t)codes, f->out->code + f->token[i] * n,
                     f->out->distance + f->token[i] * n);
    f->filled = 0;
    return FV_OK;
}

/* Adds a latent; one that is not finite counts as zero: all codes are equally far. */
static fv_status add_latent(search *f, const float *z, int64_t token)
{
    const int D = f->p->net.cfg.code_width;
    float *to = f->z + (size_t)f->filled * (size_t)D;
    double sum = 0;
    for (int d = 0; d < D; d++) sum += (double)z[d] * z[d];
    const float scale = isfinite(sum) ? (float)(1 / fmax(sqrt(sum), RDVQ_UNIT_EPS)) : 0;
    for (int d = 0; d < D; d++) to[d] = scale > 0 ? z[d] * scale : 0;
    f->token[f->filled++] = token;
    return f->filled == f->rows ? flush(f) : FV_OK;
}

/* Latents of a region's core. */
static fv_status add_core(search *f, const run *o, const rdvq_map *map, const int at[2],
                          const int core[4])
{
    const rdvq_slices *s = &o->p->net.slices;
    const int64_t D = o->p->net.cfg.code_width;
    for (int k = 0; k < s->layers; k++) {
        const int scale = s->layer[k].scale;
        const int64_t channels = map_channels(&o->p->net.cfg, scale);
        const int64_t width = (int64_t)o->r.size_w << scale;
        for (int y = core[1] << scale; y < (core[1] + core[3]) << scale; y++)
            for (int x = core[0] << scale; x < (core[0] + core[2]) << scale; x++) {
                const int64_t i = (y - (at[1] << scale)) * width + x - (at[0] << scale);
                FV_TRY(add_latent(f, o->map[scale] + i * channels + s->layer[k].group * D,
                                  map->first[k] + (int64_t)y * map->width[k] + x));
            }
    }
    return FV_OK;
}

static fv_status analyse_all(run *o, search *f, const fv_image *img, const rdvq_map *map,
                             rdvq_work *work)
{
    for (int i = 0; i < o->r.nx * o->r.ny; i++) {
        int at[2], core[4];
        region_at(&o->r, i, at, core);
        read_pixels(o, img, at);
        FV_TRY(run_region(o, i, work));
        FV_TRY(add_core(f, o, map, at, core));
    }
    return flush(f);
}

fv_status rdvq_analyse_picture(fv_ctx *ctx, const rdvq_pixels *p, const fv_image *img,
                               uint64_t budget, rdvq_nearest *out, rdvq_work *work)
{
    const rdvq_config *c = &p->net.cfg;
    const int side = rdvq_stride(c, 0);
    rdvq_grid g;
    rdvq_map map;
    memset(out, 0, sizeof *out);
    FV_TRY(rdvq_grid_of(ctx, c, img->width, img->height, &g));
    rdvq_map_of(&g, &p->net.slices, &map);
    const int w = g.padded_w / side, h = g.padded_h / side;
    run o = { ctx, p, { 0, 0, w, h, w, h, p->reach_in, 0, 0, 0, 0, 0, 0 }, true, NULL, NULL,
              { NULL }, { NULL }, { NULL }, NULL, 0 };
    search f = { .ctx = ctx, .p = p, .out = out };
    out->count = c->codes < RDVQ_NEAREST ? c->codes : RDVQ_NEAREST;
    const size_t n = (size_t)map.first[map.layers] * (size_t)out->count;
    out->code = fv_alloc(ctx, n * sizeof *out->code);
    out->distance = fv_alloc(ctx, n * sizeof *out->distance);
    fv_status s = out->code && out->distance ? open_search(&f) : FV_ERR_OOM;
    if (s == FV_OK) s = open_run(&o, budget);
    if (s == FV_OK) s = analyse_all(&o, &f, img, &map, work);
    close_run(&o);
    close_search(&f);
    if (s != FV_OK) rdvq_nearest_free(ctx, out);
    return s;
}

void rdvq_nearest_free(fv_ctx *ctx, rdvq_nearest *n)
{
    fv_free(ctx, n->code);
    fv_free(ctx, n->distance);
    memset(n, 0, sizeof *n);
}

/* ---- Synthesis ------------------------------------------------------------------------------- */

/* Latents of scale 0 under a part of the picture. */
static void cells_under(const rdvq_pixels *p, const int part[4], int out[4])
{
    const int side = rdvq_stride(&p->net.cfg, 0);
    for (int k = 0; k < 2; k++) {
        out[k] = part[k] / side;
        out[k + 2] = round_up_div(part[k] + part[k + 2], side) - out[k];
    }
}

void rdvq_reach(const rdvq_pixels *p, const rdvq_grid *g, const int part[4], int out[4])
{
    const int side = rdvq_stride(&p->net.cfg, 0);
    const int all[2] = { g->padded_w / side, g->padded_h / side };
    cells_under(p, part, out);
    for (int k = 0; k < 2; k++) {
        const int end = out[k] + out[k + 2] + p->reach_out;
        out[k] = out[k] > p->reach_out ? out[k] - p->reach_out : 0;
        out[k + 2] = (end < all[k] ? end : all[k]) - out[k];
    }
}

/* Codes of a region's tokens. */
static void fill_maps(const run *o, const rdvq_paint *how, const rdvq_map *map, const int at[2])
{
    const rdvq_slices *s = &o->p->net.slices;
    const size_t D = (size_t)o->p->net.cfg.code_width;
    for (int k = 0; k < s->layers; k++) {
        const int scale = s->layer[k].scale, h = o->r.size_h << scale, w = o->r.size_w << scale;
        const size_t channels = (size_t)map_channels(&o->p->net.cfg, scale);
#pragma omp parallel for schedule(static) num_threads(fv_ctx_threads(o->ctx))
        for (int y = 0; y < h; y++) {
            const uint16_t *token = how->token + map->first[k] +
                                    (int64_t)((at[1] << scale) + y) * map->width[k] +
                                    (at[0] << scale);
            float *to = o->map[scale] + (size_t)y * (size_t)w * channels +
                        (size_t)s->layer[k].group * D;
            for (int x = 0; x < w; x++)
                memcpy(to + (size_t)x * channels, o->p->codes + token[x] * D, D * sizeof *to);
        }
    }
}

static void fill_noise(const run *o, uint32_t seed, const int at[2])
{
    const int side = rdvq_stride(&o->p->net.cfg, 0);
    for (int k = 0; k < 2 && o->p->net.cfg.noise; k++) {
        const int stride = k ? 4 : 8, scale = side / stride;
        const int place[4] = { at[0] * scale, at[1] * scale, o->r.size_w * scale,
                               o->r.size_h * scale };
        rdvq_fill_noise(&o->p->net, seed, stride, place, o->noise[k]);
    }
}

/* What is added at a place before the fraction is dropped, [0, 1): a sequence whose neighbours are
 * far apart in both directions [Roberts 2018, R2], so that slopes of less than a level come out as
 * fine grain instead of steps. A function of the place alone, as regions need it. */
static float threshold_at(int x, int y, int channel)
{
    const uint32_t t = 3242174889u * (uint32_t)x + 2447445414u * (uint32_t)y +
                       1431655765u * (uint32_t)channel;
    return (float)(t >> 8) * 0x1p-24f;
}

/* v of [-1, 1] as a sample of `bits` bits; not a number: 0. */
static uint32_t sample_of(float v, int bits, float threshold)
{
    const float most = (float)((1 << bits) - 1);
    v = (v + 1) * 0.5f * most + threshold;
    return !(v > 0) ? 0 : v < most ? (uint32_t)v : (uint32_t)most;
}

/* Pixel (x, y) of the picture, at row[i]. */
static void write_pixel(uint8_t *row, const fv_image *img, size_t i, const float *v, int bits,
                        int x, int y)
{
    const uint32_t most = (1u << bits) - 1;
    const float grey = 0.299f * v[0] + 0.587f * v[1] + 0.114f * v[2];
    const int colours = img->channels > 2 ? 3 : 1;
    for (int c = 0; c < colours; c++) {
        const uint32_t k = sample_of(colours == 3 ? v[c] : grey, bits, threshold_at(x, y, c));
        if (img->depth == 8) row[i + (size_t)c] = (uint8_t)k;
        else ((uint16_t *)row)[i + (size_t)c] = (uint16_t)((k * 65535u + most / 2) / most);
    }
}

/* Pixels of a region's core that lie in `out`. */
static void write_core(const run *o, const rdvq_paint *how, const int at[2], const int core[4],
                       fv_image *out)
{
    const int side = rdvq_stride(&o->p->net.cfg, 0), w = o->r.size_w * side;
    int from[2], to[2];
    const int end[2] = { how->x + out->width, how->y + out->height };
    for (int k = 0; k < 2; k++) {
        const int first = k ? how->y : how->x;
        from[k] = core[k] * side > first ? core[k] * side : first;
        to[k] = (core[k] + core[k + 2]) * side < end[k] ? (core[k] + core[k + 2]) * side : end[k];
    }
#pragma omp parallel for schedule(static) num_threads(fv_ctx_threads(o->ctx))
    for (int y = from[1]; y < to[1]; y++) {
        uint8_t *row = fvi_image_row(out, y - how->y);
        const float *v = o->picture + (size_t)(y - at[1] * side) * (size_t)w * 3;
        for (int x = from[0]; x < to[0]; x++)
            write_pixel(row, out, (size_t)(x - how->x) * (size_t)out->channels,
                        v + 3 * (x - at[0] * side), how->bits, x, y);
    }
}

fv_status rdvq_paint_picture(fv_ctx *ctx, const rdvq_pixels *p, const rdvq_paint *how,
                             fv_image *out, rdvq_work *work)
{
    const int side = rdvq_stride(&p->net.cfg, 0);
    const int part[4] = { how->x, how->y, out->width, out->height };
    int want[4];
    rdvq_map map;
    rdvq_map_of(how->grid, &p->net.slices, &map);
    cells_under(p, part, want);
    run o = { ctx, p, { want[0], want[1], want[2], want[3], how->grid->padded_w / side,
                        how->grid->padded_h / side, p->reach_out, 0, 0, 0, 0, 0, 0 },
              false, NULL, NULL, { NULL }, { NULL }, { NULL }, NULL, 0 };
    fv_status s = open_run(&o, how->budget);
    for (int i = 0; s == FV_OK && i < o.r.nx * o.r.ny; i++) {
        int at[2], core[4];
        region_at(&o.r, i, at, core);
        fill_maps(&o, how, &map, at);
        fill_noise(&o, how->seed, at);
        s = run_region(&o, i, work);
        if (s == FV_OK) write_core(&o, how, at, core, out);
    }
    close_run(&o);
    return s;
}
