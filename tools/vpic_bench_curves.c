/* vpic_bench_curves.c - measures, from results to curves, and values at a rate. */
#include "vpic_bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TIMED_BPP 0.15
#define NEAR 1.02 /* a curve that ends 2 % before a rate still has a value there */
#define EQUAL_DB 100.0 /* stands for the infinite PSNR of equal pictures in means */

const double pic_rates[PIC_RATES] = {0.05, 0.10, 0.15, 0.20, 0.30};
const pic_measure pic_measures[PIC_MEASURES] = {
    {"MS-SSIM", "ms_ssim", true, 4},
    {"GMSD", "gmsd", false, 4},
    {"WD", "wd", false, 5},
    {"PSNR, dB", "psnr_db", true, 2},
};

pic_result *pic_result_of(const pic_bench *b, int picture, int coder, int setting)
{
    const size_t row = (size_t)picture * (size_t)b->coder_count + (size_t)coder;
    return &b->result[row * PIC_SETTINGS + (size_t)setting];
}

static void add_result(pic_point *to, const pic_result *r, double pixels, int pictures)
{
    const double share = 1.0 / pictures, per_mega = 1e6 / pixels / pictures;
    const double psnr = r->m.psnr < EQUAL_DB ? r->m.psnr : EQUAL_DB;
    const double value[PIC_MEASURES] = {r->m.ms_ssim, r->m.gmsd, r->m.texture, psnr};
    to->bpp += share * r->bpp;
    for (int i = 0; i < PIC_MEASURES; i++) to->value[i] += share * value[i];
    to->pack_cpu += per_mega * r->pack.cpu;
    to->pack_wall += per_mega * r->pack.wall;
    to->unpack_cpu += per_mega * r->unpack.cpu;
    to->unpack_wall += per_mega * r->unpack.wall;
    if (r->pack.memory > to->memory) to->memory = r->pack.memory;
    if (r->unpack.memory > to->memory) to->memory = r->unpack.memory;
}

static int by_rate(const void *a, const void *b)
{
    const double x = ((const pic_point *)a)->bpp, y = ((const pic_point *)b)->bpp;
    return (x > y) - (x < y);
}

void pic_make_curves(pic_bench *b)
{
    for (int k = 0; k < b->coder_count; k++) {
        pic_curve *c = &b->curve[k];
        memset(c, 0, sizeof *c);
        for (int s = 0; s < b->coder[k].settings; s++) {
            pic_point p = {.setting = s};
            int done = 0;
            for (int i = 0; i < b->done; i++) {
                const pic_result *r = pic_result_of(b, i, k, s);
                done += r->is_done;
                add_result(&p, r, (double)b->width[i] * b->height[i], b->done);
            }
            if (done == b->done) c->p[c->n++] = p; /* else the mean would be of other pictures */
        }
        qsort(c->p, (size_t)c->n, sizeof *c->p, by_rate);
    }
}

double pic_value_at(const pic_curve *c, double bpp, int measure)
{
    if (c->n == 0) return NAN;
    const pic_point *first = &c->p[0], *last = &c->p[c->n - 1];
    if (bpp < first->bpp) return first->bpp <= NEAR * bpp ? first->value[measure] : NAN;
    if (bpp > last->bpp) return bpp <= NEAR * last->bpp ? last->value[measure] : NAN;
    int i = 0;
    while (i + 2 < c->n && c->p[i + 1].bpp < bpp) i++;
    if (c->n == 1 || c->p[i + 1].bpp <= c->p[i].bpp) return c->p[i].value[measure];
    const double from = log(c->p[i].bpp), to = log(c->p[i + 1].bpp);
    const double part = (log(bpp) - from) / (to - from);
    return c->p[i].value[measure] * (1 - part) + c->p[i + 1].value[measure] * part;
}

int pic_reference(const pic_bench *b)
{
    int found = -1;
    for (int i = b->coder_count - 1; i >= 0; i--) {
        const pic_peer *p = b->coder[i].peer;
        if (b->curve[i].n == 0) continue;
        if (found < 0 || !b->coder[found].peer || strcmp(b->coder[found].peer->name, "jxl") != 0 ||
            (p && strcmp(p->name, "jxl") == 0))
            found = i;
    }
    return found;
}

const pic_point *pic_timed(const pic_curve *c)
{
    const pic_point *best = NULL;
    for (int i = 0; i < c->n; i++)
        if (!best || fabs(log(c->p[i].bpp / TIMED_BPP)) < fabs(log(best->bpp / TIMED_BPP)))
            best = &c->p[i];
    return best;
}
