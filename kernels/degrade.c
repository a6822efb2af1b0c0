/* degrade.c - running degradation steps on float pictures.
 *
 * A picture is one worker's: two buffers that steps go between, and what blur, resize and JPEG need
 * beside them. Pixels of noise are numbered, hence the same for any number of threads.
 *
 * Blur: the picture is copied with its reflected margin, then each row is the sum of whole shifted
 * rows; channels need no care that way. Kernels are as large as drawn, not padded to
 * 21: on average 217 taps instead of 441.
 *
 * Poisson numbers come from one uniform number each by inversion, walking from the most frequent
 * value outwards, about 0.8 sqrt(mean) steps. Pixels are rounded to 8 bits before, as in the
 * published program, so there are 256 means at most, and their tables cost nothing. */
#include "degrade.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "band_filter.h"
#include "image_codec.h"
#include "internal.h"

#define NOISE_BLOCK 1024
#define GROWTH_NUM 3 /* pictures between steps are up to 1.5 times as wide and high */
#define GROWTH_DEN 2
#define SIDE_LARGEST 32768
#define LEVELS 256

typedef struct poisson_level {
    double mean, at_mode, below_mode; /* probability of the mode; of all up to it */
    int mode;
} poisson_level;

typedef struct worker {
    float *a, *b;     /* the picture, and room for the next */
    float *margin;    /* the picture with its surroundings  */
    float kernel[FV_BLUR_SIZE_MAX * FV_BLUR_SIZE_MAX];
    float noise[NOISE_BLOCK];
    uint32_t bits[NOISE_BLOCK];
    poisson_level level[LEVELS];
    uint8_t *rgb;
    fvi_resize *resize;
    fvi_jpeg_pass *jpeg;
    int width, height; /* of the picture in a */
} worker;

struct fv_degrade {
    fv_ctx *ctx;
    fv_degrade_options o;
    fvi_degrade_rule rule;
    fvi_blur_row *blur_row;
    int max_width, max_height; /* between steps */
    int workers;
    worker *w;
    double log_factorial[LEVELS + 1];
};

/* ---- Making ---------------------------------------------------------------------------------- */

static fvi_blur_row *choose_row(uint32_t cpu)
{
#if defined(__x86_64__)
    if (cpu & FV_CPU_AVX512) return fvi_blur_row_avx512;
    if (cpu & FV_CPU_AVX2) return fvi_blur_row_avx2;
#endif
    (void)cpu;
    return fvi_blur_row_c;
}

static fv_status make_worker(const fv_degrade *d, worker *w)
{
    fv_ctx *ctx = d->ctx;
    const size_t pixels = (size_t)d->max_width * (size_t)d->max_height, r = FV_BLUR_SIZE_MAX / 2;
    const size_t wide = (size_t)d->max_width + 2 * r, high = (size_t)d->max_height + 2 * r;
    const int side = d->max_width > d->max_height ? d->max_width : d->max_height;
    w->a = fv_calloc(ctx, pixels * 3, sizeof *w->a);
    w->b = w->a ? fv_calloc(ctx, pixels * 3, sizeof *w->b) : NULL;
    w->margin = w->b ? fv_calloc(ctx, wide * high * 3 + FVI_BLUR_SLACK, sizeof *w->margin) : NULL;
    w->rgb = w->margin ? fv_calloc(ctx, pixels, 3) : NULL;
    if (!w->rgb) return FV_ERR_OOM;
    FV_TRY(fvi_resize_create(ctx, &w->resize, side, side, 1));
    return fvi_jpeg_pass_create(ctx, &w->jpeg, d->max_width, d->max_height);
}

static void free_worker(fv_ctx *ctx, worker *w)
{
    fv_free(ctx, w->a);
    fv_free(ctx, w->b);
    fv_free(ctx, w->margin);
    fv_free(ctx, w->rgb);
    fvi_resize_free(&w->resize);
    fvi_jpeg_pass_free(ctx, &w->jpeg);
}

static fv_status check_options(fv_ctx *ctx, const fv_degrade_options *o)
{
    if (o->max_width < 1 || o->max_height < 1 || o->max_width > SIDE_LARGEST ||
        o->max_height > SIDE_LARGEST)
        return fv_fail(ctx, FV_ERR_ARG,
                       "degrade: largest pictures of %d x %d; sides are 1 to %d (max_width, "
                       "max_height)",
                       o->max_width, o->max_height, SIDE_LARGEST);
    if (!(o->antialias >= 0 && o->antialias <= 1))
        return fv_fail(ctx, FV_ERR_ARG, "degrade: antialias is %g, not 0 to 1",
                       (double)o->antialias);
    if (o->clean_a != 0 && o->clean_a != -0.5f && o->clean_a != -0.75f)
        return fv_fail(ctx, FV_ERR_ARG, "degrade: clean_a is %g, not -0.5, -0.75 or 0",
                       (double)o->clean_a);
    if (o->parallel < 0 || o->parallel > FVI_MAX_THREADS)
        return fv_fail(ctx, FV_ERR_ARG, "degrade: %d pictures at a time, not 0 to %d", o->parallel,
                       FVI_MAX_THREADS);
    return FV_OK;
}

fv_status fv_degrade_create(fv_ctx *ctx, fv_degrade **out, const fv_degrade_options *opts)
{
    fv_degrade_options o = FV_DEGRADE_OPTIONS_INIT;
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "degrade: no place for the handle");
    *out = NULL;
    FV_TRY(FV_TAKE_OPTIONS(ctx, &o, opts, "degrade"));
    FV_TRY(check_options(ctx, &o));
    fv_degrade *d = fv_calloc(ctx, 1, sizeof *d);
    if (!d) return FV_ERR_OOM;
    d->ctx = ctx;
    d->o = o;
    d->rule = (fvi_degrade_rule){ o.seed, o.stream ? o.stream : FV_STREAM_DEGRADE, o.antialias,
                                  o.clean_a, o.all_per_frame != 0, false };
    d->blur_row = choose_row(ctx->cpu);
    d->max_width = o.max_width * GROWTH_NUM / GROWTH_DEN;
    d->max_height = o.max_height * GROWTH_NUM / GROWTH_DEN;
    for (int i = 1; i <= LEVELS; i++) d->log_factorial[i] = d->log_factorial[i - 1] + log(i);
    d->workers = o.parallel && o.parallel < ctx->threads ? o.parallel : ctx->threads;
    d->w = fv_calloc(ctx, (size_t)d->workers, sizeof *d->w);
    fv_status s = d->w ? FV_OK : FV_ERR_OOM;
    for (int i = 0; i < d->workers && s == FV_OK; i++) s = make_worker(d, &d->w[i]);
    if (s == FV_OK) *out = d;
    else fv_degrade_destroy(&d);
    return s;
}

void fv_degrade_destroy(fv_degrade **d)
{
    if (!d || !*d) return;
    fv_ctx *ctx = (*d)->ctx;
    for (int i = 0; (*d)->w && i < (*d)->workers; i++) free_worker(ctx, &(*d)->w[i]);
    fv_free(ctx, (*d)->w);
    fv_free(ctx, *d);
    *d = NULL;
}

/* ---- Blur ------------------------------------------------------------------------------------ */

static void add_margin(worker *w, int r)
{
    const size_t line = (size_t)w->width * 3, wide = line + 6 * (size_t)r;
    for (int y = -r; y < w->height + r; y++) {
        const float *from = w->a + (size_t)fvi_reflect(y, w->height) * line;
        float *to = w->margin + (size_t)(y + r) * wide;
        for (int x = 0; x < r; x++) {
            memcpy(to + 3 * x, from + 3 * fvi_reflect(x - r, w->width), 3 * sizeof *to);
            memcpy(to + 3 * (size_t)r + line + 3 * x,
                   from + 3 * fvi_reflect(w->width + x, w->width), 3 * sizeof *to);
        }
        memcpy(to + 3 * (size_t)r, from, line * sizeof *to);
    }
}

static void blur(const fv_degrade *d, worker *w, const fv_blur *b)
{
    fvi_blur_fill(b, w->kernel);
    const int r = b->size / 2;
    const size_t line = (size_t)w->width * 3, wide = line + 6 * (size_t)r;
    add_margin(w, r);
    for (int y = 0; y < w->height; y++)
        d->blur_row(w->a + (size_t)y * line, w->margin + (size_t)y * wide, wide, w->kernel, b->size,
                    line);
}

/* ---- Other steps ----------------------------------------------------------------------------- */

static float clamp1(float v) { return v > 0 ? (v < 1 ? v : 1) : 0; } /* NaN: 0 */

static uint8_t to_byte(float v) { return (uint8_t)lrintf(clamp1(v) * 255); }

static fv_status resize(worker *w, const fv_degrade_step *s)
{
    static const fvi_resize_filter filters[] = { FVI_RESIZE_AREA, FVI_RESIZE_BILINEAR,
                                                 FVI_RESIZE_BICUBIC75, FVI_RESIZE_BICUBIC };
    const fvi_resampling how = { filters[s->filter], s->antialias != 0,
                                 s->filter != FV_DEGRADE_BICUBIC_SOFT };
    const int in[2] = { w->height, w->width }, out[2] = { s->height, s->width };
    FV_TRY(fvi_resize_set(w->resize, how, in, out));
    fvi_resize_run(w->resize, w->a, 3, w->b);
    float *t = w->a;
    w->a = w->b;
    w->b = t;
    w->width = s->width;
    w->height = s->height;
    const size_t n = (size_t)w->width * (size_t)w->height * 3;
    for (size_t i = 0; i < n; i++) w->a[i] = clamp1(w->a[i]);
    return FV_OK;
}

static void add_normal(const fv_degrade *d, worker *w, const fv_degrade_job *job,
                       const fv_degrade_step *s, uint64_t at)
{
    const size_t pixels = (size_t)w->width * (size_t)w->height, step = s->is_grey ? 1 : 3;
    for (size_t i = 0; i < pixels * step; i += NOISE_BLOCK) {
        const size_t n = pixels * step - i < NOISE_BLOCK ? pixels * step - i : NOISE_BLOCK;
        fv_rand_normal(d->rule.seed, d->rule.stream, job->sample, at + i, (int64_t)n, w->noise);
        for (size_t k = 0; k < n; k++) {
            float *p = w->a + (i + k) * (3 / step);
            for (size_t c = 0; c < 3 / step; c++) p[c] = clamp1(p[c] + s->strength * w->noise[k]);
        }
    }
}

static int power_of_two(int n)
{
    int p = 1;
    while (p < n) p *= 2;
    return p;
}

static void fill_level(const fv_degrade *d, poisson_level *l, double mean)
{
    l->mean = mean;
    l->mode = (int)mean;
    l->at_mode = mean > 0 ? exp(l->mode * log(mean) - mean - d->log_factorial[l->mode]) : 1;
    l->below_mode = 0;
    double p = l->at_mode;
    for (int k = l->mode; k >= 0 && p > 1e-20; k--) {
        l->below_mode += p;
        p *= k / mean;
    }
}

static int poisson(const poisson_level *l, uint32_t word)
{
    const double u = (word + 0.5) * 0x1p-32;
    double p = l->at_mode, below = l->below_mode;
    int k = l->mode;
    if (u < below) {
        while (k > 0 && u < below - p) {
            below -= p;
            p *= k / l->mean;
            k--;
        }
    } else {
        while (u >= below && p > 1e-20) {
            k++;
            p *= l->mean / k;
            below += p;
        }
    }
    return k;
}

static uint8_t luma(const float *p)
{
    return to_byte(0.299f * p[0] + 0.587f * p[1] + 0.114f * p[2]);
}

/* The picture, or its luma, as 8 bits in w->rgb -> how many different values it has */
static int quantise(worker *w, size_t values, bool is_grey)
{
    bool is_seen[LEVELS] = { false };
    int n = 0;
    for (size_t i = 0; i < values; i++) {
        const uint8_t v = is_grey ? luma(w->a + 3 * i) : to_byte(w->a[i]);
        w->rgb[i] = v;
        n += !is_seen[v];
        is_seen[v] = true;
    }
    return n;
}

static void add_poisson(const fv_degrade *d, worker *w, const fv_degrade_job *job,
                        const fv_degrade_step *s, uint64_t at)
{
    const size_t pixels = (size_t)w->width * (size_t)w->height, step = s->is_grey ? 1 : 3;
    const size_t values = pixels * step;
    const double scale = power_of_two(quantise(w, values, s->is_grey != 0));
    for (int v = 0; v < LEVELS; v++) fill_level(d, &w->level[v], v / 255.0 * scale);
    for (size_t i = 0; i < values; i += NOISE_BLOCK) {
        const size_t n = values - i < NOISE_BLOCK ? values - i : NOISE_BLOCK;
        fv_rand_u32(d->rule.seed, d->rule.stream, job->sample, at + i, (int64_t)n, w->bits);
        for (size_t k = 0; k < n; k++) {
            const poisson_level *l = &w->level[w->rgb[i + k]];
            const float e = (float)((poisson(l, w->bits[k]) - l->mean) / scale) * s->strength;
            float *p = w->a + (i + k) * (3 / step);
            for (size_t c = 0; c < 3 / step; c++) p[c] = clamp1(p[c] + e);
        }
    }
}

static fv_status jpeg(worker *w, int quality)
{
    const size_t n = (size_t)w->width * (size_t)w->height * 3;
    for (size_t i = 0; i < n; i++) w->rgb[i] = to_byte(w->a[i]);
    FV_TRY(fvi_jpeg_pass_run(w->jpeg, w->rgb, w->width, w->height, quality));
    for (size_t i = 0; i < n; i++) w->a[i] = (float)w->rgb[i] / 255;
    return FV_OK;
}

static void round_values(worker *w)
{
    const size_t n = (size_t)w->width * (size_t)w->height * 3;
    for (size_t i = 0; i < n; i++) w->a[i] = (float)to_byte(w->a[i]) / 255;
}

/* ---- Lists ----------------------------------------------------------------------------------- */

static fv_status run_step(const fv_degrade *d, worker *w, const fv_degrade_job *job,
                          const fv_degrade_step *s, int number)
{
    const uint64_t at = fvi_degrade_noise_at(job->frame, number);
    switch (s->op) {
    case FV_DEGRADE_BLUR: blur(d, w, &s->blur); return FV_OK;
    case FV_DEGRADE_RESIZE: return resize(w, s);
    case FV_DEGRADE_GAUSS: add_normal(d, w, job, s, at); return FV_OK;
    case FV_DEGRADE_POISSON: add_poisson(d, w, job, s, at); return FV_OK;
    case FV_DEGRADE_JPEG: return jpeg(w, s->quality);
    case FV_DEGRADE_ROUND: round_values(w); return FV_OK;
    }
    return FV_ERR_INTERNAL;
}

static fv_status run_job(const fv_degrade *d, worker *w, const fv_degrade_job *job,
                         const fv_degrade_list *list)
{
    w->width = job->width;
    w->height = job->height;
    memcpy(w->a, job->hq, (size_t)job->width * (size_t)job->height * 3 * sizeof *w->a);
    for (int i = 0; i < list->count; i++) FV_TRY(run_step(d, w, job, &list->step[i], i));
    const size_t n = (size_t)job->lq_width * (size_t)job->lq_height * 3;
    memcpy(job->lq, w->a, n * sizeof *w->a);
    return FV_OK;
}

static fv_status check_job(const fv_degrade *d, const fv_degrade_job *j, bool has_pictures)
{
    fv_ctx *ctx = d->ctx;
    if (!j || (has_pictures && (!j->hq || !j->lq || j->hq == j->lq)))
        return fv_fail(ctx, FV_ERR_ARG, "degrade: a job needs two pictures, hq and lq");
    if ((int)j->kind < FV_DEGRADE_CLEAN || (int)j->kind > FV_DEGRADE_TWO_STAGE)
        return fv_fail(ctx, FV_ERR_ARG, "degrade: kind %d does not exist", (int)j->kind);
    if (j->frame >= FVI_FRAME_MAX)
        return fv_fail(ctx, FV_ERR_ARG, "degrade: frame %u is not below %u", (unsigned)j->frame,
                       FVI_FRAME_MAX);
    if (j->width < 1 || j->height < 1 || j->lq_width < 1 || j->lq_height < 1 ||
        j->width > d->o.max_width || j->height > d->o.max_height ||
        j->lq_width > d->o.max_width || j->lq_height > d->o.max_height)
        return fv_fail(ctx, FV_ERR_SHAPE,
                       "degrade: %d x %d to %d x %d pixels; this handle takes sides up to %d x %d",
                       j->width, j->height, j->lq_width, j->lq_height, d->o.max_width,
                       d->o.max_height);
    return FV_OK;
}

static bool is_step_valid(const fv_degrade *d, const fv_degrade_step *s)
{
    switch (s->op) {
    case FV_DEGRADE_BLUR: return fvi_blur_is_valid(&s->blur);
    case FV_DEGRADE_RESIZE:
        return s->width >= 1 && s->height >= 1 && s->width <= d->max_width &&
               s->height <= d->max_height && (int)s->filter >= FV_DEGRADE_AREA &&
               (int)s->filter <= FV_DEGRADE_BICUBIC_SOFT;
    case FV_DEGRADE_GAUSS: return s->strength >= 0 && s->strength <= 1;
    case FV_DEGRADE_POISSON: return s->strength >= 0 && s->strength <= 8;
    case FV_DEGRADE_JPEG: return s->quality >= 1 && s->quality <= 100;
    case FV_DEGRADE_ROUND: return true;
    }
    return false;
}

static fv_status check_list(const fv_degrade *d, const fv_degrade_job *job,
                            const fv_degrade_list *list)
{
    if (!list || list->count < 0 || list->count > FV_DEGRADE_STEPS)
        return fv_fail(d->ctx, FV_ERR_ARG, "degrade: no list of up to %d steps", FV_DEGRADE_STEPS);
    int width = job->width, height = job->height;
    for (int i = 0; i < list->count; i++) {
        const fv_degrade_step *s = &list->step[i];
        if (!is_step_valid(d, s))
            return fv_fail(d->ctx, FV_ERR_ARG, "degrade: step %d has a value out of range", i + 1);
        if (s->op != FV_DEGRADE_RESIZE) continue;
        width = s->width;
        height = s->height;
    }
    if (width != job->lq_width || height != job->lq_height)
        return fv_fail(d->ctx, FV_ERR_SHAPE, "degrade: the steps end with %d x %d pixels, lq has "
                                             "%d x %d",
                       width, height, job->lq_width, job->lq_height);
    return FV_OK;
}

static fv_status failure(const fv_degrade *d, fv_status s, int job)
{
    if (s == FV_OK) return s;
    return fv_fail(d->ctx, s, "degrade: picture %d of the call failed in libjpeg (%s)", job + 1,
                   fv_status_name(s));
}

void fvi_degrade_per_clip(fv_degrade *d) { d->rule.all_per_clip = !d->rule.all_per_frame; }

fv_status fv_degrade_draw(fv_degrade *d, const fv_degrade_job *job, fv_degrade_list *out)
{
    if (!out) return fv_fail(d->ctx, FV_ERR_ARG, "degrade: no place for the steps");
    out->count = 0;
    FV_TRY(check_job(d, job, false));
    fvi_degrade_draw(&d->rule, job, out);
    return FV_OK;
}

fv_status fv_degrade_apply(fv_degrade *d, const fv_degrade_job *job, const fv_degrade_list *steps)
{
    FV_TRY(check_job(d, job, true));
    FV_TRY(check_list(d, job, steps));
    return failure(d, run_job(d, &d->w[0], job, steps), 0);
}

fv_status fv_degrade_run(fv_degrade *d, const fv_degrade_job *jobs, int count)
{
    if (count < 0 || (count > 0 && !jobs)) return fv_fail(d->ctx, FV_ERR_ARG, "degrade: no jobs");
    for (int i = 0; i < count; i++) FV_TRY(check_job(d, &jobs[i], true));
    fv_status first = FV_OK;
    int failed = count;
    const int threads = d->workers < count ? d->workers : count > 0 ? count : 1;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int i = 0; i < count; i++) {
        fv_degrade_list list;
        fvi_degrade_draw(&d->rule, &jobs[i], &list);
        const fv_status s = run_job(d, &d->w[omp_get_thread_num()], &jobs[i], &list);
        if (s == FV_OK) continue;
#pragma omp critical
        if (i < failed) {
            failed = i;
            first = s;
        }
    }
    return failure(d, first, failed);
}
