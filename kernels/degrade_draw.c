/* degrade_draw.c - which steps a picture undergoes: ranges and chances of Real-ESRGAN's published
 * options [Wang et al. 2021], and those that PS-SR's program runs of them.
 *
 * Every setting has its own number in the stream of the sample, whether it is used or not, so that
 * a frame can be drawn alone, and settings of the clip are the same in all of its frames. */
#include "degrade.h"

#include <math.h>
#include <string.h>

#define PI 3.14159265358979323846

/* Numbers of settings. A blur takes 8, a noise 4, a resize 4. */
enum {
    AT_BLUR1 = 0, AT_BLUR2 = 8, AT_BLUR3 = 16, AT_NOISE1 = 24, AT_NOISE2 = 28, AT_RESIZE1 = 32,
    AT_RESIZE2 = 36, AT_RESIZE3 = 40, AT_JPEG1 = 44, AT_JPEG2 = 45, AT_ORDER = 46, AT_CLEAN = 47,
    AT_USE_BLUR2 = 48, AT_USE_SINC = 49
};

typedef struct range { double lo, hi; } range;
typedef struct drawing {
    const fvi_degrade_rule *rule;
    const fv_degrade_job *job;
    fv_degrade_list *out;
} drawing;

/* ---- Numbers --------------------------------------------------------------------------------- */

static double uniform(const drawing *d, bool is_of_frame, int at)
{
    float u;
    fv_rand_uniform(d->rule->seed, d->rule->stream, d->job->sample,
                    fvi_degrade_setting_at(d->job->frame, is_of_frame) + (uint64_t)at, 1, &u);
    return u;
}

static double between(const drawing *d, bool is_of_frame, int at, range r)
{
    return r.lo + (r.hi - r.lo) * uniform(d, is_of_frame, at);
}

static fv_degrade_step *next(const drawing *d, fv_degrade_op op)
{
    fv_degrade_step *s = &d->out->step[d->out->count++];
    memset(s, 0, sizeof *s);
    s->op = op;
    return s;
}

/* ---- Steps ----------------------------------------------------------------------------------- */

static int kernel_size(const drawing *d, bool f, int at)
{
    return 7 + 2 * (int)(8 * uniform(d, f, at));
}

static void add_sinc(const drawing *d, int at, range omega)
{
    const bool f = d->rule->all_per_frame;
    fv_blur *b = &next(d, FV_DEGRADE_BLUR)->blur;
    b->kind = FV_BLUR_SINC;
    b->size = kernel_size(d, f, at + 1);
    b->omega = (float)between(d, f, at + 2, omega);
}

static void add_blur(const drawing *d, int at, range sigma)
{
    static const double chance[] = { 0.45, 0.25, 0.12, 0.03, 0.12 }; /* the sixth: the rest */
    static const fv_blur_kind kind[] = { FV_BLUR_GAUSS,   FV_BLUR_GAUSS,   FV_BLUR_GENERAL,
                                         FV_BLUR_GENERAL, FV_BLUR_PLATEAU, FV_BLUR_PLATEAU };
    const bool f = d->rule->all_per_frame;
    const int size = kernel_size(d, f, at + 1);
    if (uniform(d, f, at) < 0.1) {
        const range omega = { size < 13 ? PI / 3 : PI / 5, PI };
        add_sinc(d, at, omega);
        return;
    }
    double u = uniform(d, f, at + 2);
    size_t i = 0;
    while (i < FV_ARRAY_LEN(chance) && u >= chance[i]) u -= chance[i++];
    fv_blur *b = &next(d, FV_DEGRADE_BLUR)->blur;
    b->kind = kind[i];
    b->size = size;
    b->sigma[0] = b->sigma[1] = (float)between(d, f, at + 3, sigma);
    if (i % 2) { /* of each pair the second is anisotropic */
        b->sigma[1] = (float)between(d, f, at + 4, sigma);
        b->rotation = (float)between(d, f, at + 5, (range){ -PI, PI });
    }
    /* as often below 1 as above */
    const range low = { b->kind == FV_BLUR_GENERAL ? 0.5 : 1, 1 };
    const range high = { 1, b->kind == FV_BLUR_GENERAL ? 4 : 2 };
    b->beta = (float)between(d, f, at + 7, uniform(d, f, at + 6) < 0.5 ? low : high);
}

/* gauss: chance of normal noise */
static void add_noise(const drawing *d, int at, double gauss, range normal, range poisson)
{
    const bool f = !d->rule->all_per_clip, is_gauss = uniform(d, f, at) < gauss;
    fv_degrade_step *s = next(d, is_gauss ? FV_DEGRADE_GAUSS : FV_DEGRADE_POISSON);
    s->is_grey = uniform(d, f, at + 1) < 0.4;
    s->strength = (float)between(d, f, at + 2, is_gauss ? normal : poisson);
    if (is_gauss) s->strength /= 255;
}

static void add_jpeg(const drawing *d, int at)
{
    next(d, FV_DEGRADE_JPEG)->quality =
        (int)floor(between(d, !d->rule->all_per_clip, at, (range){ 30, 95 }) + 0.5);
}

static void add_resize(const drawing *d, int at, int width, int height)
{
    fv_degrade_step *s = next(d, FV_DEGRADE_RESIZE);
    s->width = width < 1 ? 1 : width;
    s->height = height < 1 ? 1 : height;
    s->filter = (fv_degrade_filter)(3 * uniform(d, false, at));
    s->antialias = uniform(d, false, at + 1) < d->rule->antialias;
}

/* A factor above 1, below 1 or 1 to a size. */
static void add_resize_by(const drawing *d, int at, double up, double down, range factor,
                          int width, int height)
{
    const double u = uniform(d, false, at + 2);
    const range r = { u < up ? 1 : factor.lo, u < up ? factor.hi : 1 };
    const double by = u < up + down ? between(d, false, at + 3, r) : 1;
    add_resize(d, at, (int)(by * width), (int)(by * height));
}

/* ---- Lists ----------------------------------------------------------------------------------- */

static const range first_sigma = { 0.2, 3 }, second_sigma = { 0.2, 1.5 };
static const range first_normal = { 1, 30 }, second_normal = { 1, 25 };
static const range first_poisson = { 0.05, 3 }, second_poisson = { 0.05, 2.5 };
static const range last_omega = { PI / 3, PI };

static void draw_clean(const drawing *d)
{
    double a = d->rule->clean_a;
    if (a == 0) a = uniform(d, false, AT_CLEAN) < 0.5 ? -0.5 : -0.75;
    fv_degrade_step *s = next(d, FV_DEGRADE_RESIZE);
    s->width = d->job->lq_width;
    s->height = d->job->lq_height;
    s->filter = a < -0.6 ? FV_DEGRADE_BICUBIC : FV_DEGRADE_BICUBIC_SOFT;
    s->antialias = 1;
}

static void draw_pssr(const drawing *d)
{
    const bool f = d->rule->all_per_frame;
    add_blur(d, AT_BLUR1, first_sigma);
    add_noise(d, AT_NOISE1, 1, first_normal, first_poisson);
    add_jpeg(d, AT_JPEG1);
    add_blur(d, AT_BLUR2, second_sigma);
    add_resize(d, AT_RESIZE2, d->job->lq_width, d->job->lq_height);
    add_noise(d, AT_NOISE2, 1, second_normal, second_poisson);
    if (uniform(d, f, AT_USE_SINC) < 0.8) add_sinc(d, AT_BLUR3, last_omega);
    add_jpeg(d, AT_JPEG2);
}

static void draw_two_stage(const drawing *d)
{
    const fv_degrade_job *j = d->job;
    const bool f = d->rule->all_per_frame;
    add_blur(d, AT_BLUR1, first_sigma);
    add_resize_by(d, AT_RESIZE1, 0.2, 0.7, (range){ 0.15, 1.5 }, j->width, j->height);
    add_noise(d, AT_NOISE1, 0.5, first_normal, first_poisson);
    add_jpeg(d, AT_JPEG1);
    if (uniform(d, f, AT_USE_BLUR2) < 0.8) add_blur(d, AT_BLUR2, second_sigma);
    add_resize_by(d, AT_RESIZE2, 0.3, 0.4, (range){ 0.3, 1.2 }, j->lq_width, j->lq_height);
    add_noise(d, AT_NOISE2, 0.5, second_normal, second_poisson);
    const bool is_jpeg_last = uniform(d, false, AT_ORDER) < 0.5;
    if (!is_jpeg_last) add_jpeg(d, AT_JPEG2);
    add_resize(d, AT_RESIZE3, j->lq_width, j->lq_height);
    if (uniform(d, f, AT_USE_SINC) < 0.8) add_sinc(d, AT_BLUR3, last_omega);
    if (is_jpeg_last) add_jpeg(d, AT_JPEG2);
}

void fvi_degrade_draw(const fvi_degrade_rule *rule, const fv_degrade_job *job,
                      fv_degrade_list *out)
{
    const drawing d = { rule, job, out };
    out->count = 0;
    if (job->kind == FV_DEGRADE_CLEAN) draw_clean(&d);
    else if (job->kind == FV_DEGRADE_PSSR) draw_pssr(&d);
    else draw_two_stage(&d);
    next(&d, FV_DEGRADE_ROUND);
}
