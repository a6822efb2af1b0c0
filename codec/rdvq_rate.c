/* rdvq_rate.c - from a quality or a size to a model, a weight of bits, and a number of slices.
 *
 * An encoder may take another code than the nearest: the one, of those around a latent, of least
 *
 *     |z - e|^2 / 2 + mu * bits * (weight of its scale, rdvq_encode.c)
 *
 * so that mu trades nearness for rate, and nothing changes for the decoder. Two rdvq-xs of 0.071
 * and 0.033 bpp, 7 photos, rate at MS-SSIM against the line between the two (in log rate): mu 0.003
 * and 0.006 are 1 % below it, 0.01 on it (with 16 % fewer bits than mu 0), 0.015 5 % above, 0.03
 * 35 %. So by quality mu goes to MU_QUALITY, and only a size that lies between two models asks for
 * more. A size below all models is reached by leaving out slices. */
#include <math.h>

#include "rdvq_vpic.h"

#define MU_QUALITY 0.01 /* most by quality */
#define MU_SIZE 0.1     /* most by size */
#define TOLERANCE 0.015 /* a size is reached from below */
#define PASSES 10       /* of one search */

/* At 100 the last model without weight; a model's part of the scale begins at MU_QUALITY. */
rdvq_way rdvq_way_of(const rdvq_ladder *l, double quality)
{
    const double at = fmin(fmax(quality, 0), 100) / 100 * l->models;
    const int model = at >= l->models ? l->models - 1 : (int)at;
    const rdvq_way w = { model, l->slices(l->user, model), MU_QUALITY * (1 - (at - model)) };
    return w;
}

typedef struct hunt {
    const rdvq_ladder *l;
    uint64_t want;
    int passes;
    rdvq_way last, best;
    uint64_t best_bytes;
} hunt;

/* Better: at most `want` bytes and more of them, or else less beyond. */
static bool is_better(const hunt *h, uint64_t bytes)
{
    if (h->best_bytes == 0) return true;
    if (bytes <= h->want) return h->best_bytes > h->want || bytes > h->best_bytes;
    return h->best_bytes > h->want && bytes < h->best_bytes;
}

static fv_status try_way(hunt *h, const rdvq_way *w, uint64_t *bytes)
{
    FV_TRY(h->l->code(h->l->user, w, bytes));
    h->passes++;
    h->last = *w;
    if (is_better(h, *bytes)) {
        h->best = *w;
        h->best_bytes = *bytes;
    }
    return FV_OK;
}

static bool is_there(const hunt *h, uint64_t bytes)
{
    return bytes <= h->want && (double)bytes >= (1 - TOLERANCE) * (double)h->want;
}

/* mu between one that gives too much and one that gives too little: the straight line through the
 * logarithms of both sizes, kept off the ends so that it cannot creep. */
static fv_status search_mu(hunt *h, rdvq_way w, double low, double low_log, double high,
                           double high_log)
{
    const double want = log((double)h->want * (1 - TOLERANCE / 2));
    for (int i = 0; i < PASSES; i++) {
        uint64_t bytes;
        double part = low_log > high_log ? (low_log - want) / (low_log - high_log) : 0.5;
        part = i % 3 == 2 ? 0.5 : fmin(fmax(part, 0.05), 0.95);
        w.mu = low + (high - low) * part;
        FV_TRY(try_way(h, &w, &bytes));
        if (is_there(h, bytes)) break;
        if (bytes > h->want) {
            low = w.mu;
            low_log = log((double)bytes);
        } else {
            high = w.mu;
            high_log = log((double)bytes);
        }
    }
    return FV_OK;
}

/* The most slices that fit, at the largest mu. */
static fv_status search_slices(hunt *h, rdvq_way w)
{
    int low = 1, high = w.slices - 1;
    while (low <= high) {
        uint64_t bytes;
        w.slices = (low + high) / 2;
        FV_TRY(try_way(h, &w, &bytes));
        if (bytes <= h->want) low = w.slices + 1;
        else high = w.slices - 1;
    }
    return FV_OK;
}

/* First guess: the smallest model that promises the size. */
static int first_model(const rdvq_ladder *l, uint64_t want)
{
    int i = 0;
    while (i + 1 < l->models &&
           l->nominal_bpp(l->user, i) * (double)l->pixels / 8 < (double)want)
        i++;
    return i;
}

static fv_status hunt_size(hunt *h, int fixed_slices)
{
    const rdvq_ladder *l = h->l;
    int i = first_model(l, h->want), came_from = -1;
    for (;;) {
        const int all = l->slices(l->user, i);
        rdvq_way w = { i, fixed_slices && fixed_slices < all ? fixed_slices : all, 0 };
        uint64_t most, least;
        FV_TRY(try_way(h, &w, &most));
        if (is_there(h, most)) return FV_OK;
        if (most <= h->want) { /* more only from a larger model, unless it gave too much */
            if (i + 1 >= l->models || came_from == i + 1) return FV_OK;
            came_from = i++;
            continue;
        }
        w.mu = MU_SIZE;
        FV_TRY(try_way(h, &w, &least));
        if (is_there(h, least)) return FV_OK;
        if (least <= h->want)
            return search_mu(h, w, 0, log((double)most), MU_SIZE, log((double)least));
        if (i > 0 && came_from == i - 1) return FV_OK; /* a gap between the two */
        if (i == 0) return fixed_slices ? FV_OK : search_slices(h, w);
        came_from = i--;
    }
}

fv_status rdvq_reach_size(const rdvq_ladder *l, uint64_t bytes, int fixed_slices, rdvq_way *way,
                          int *passes)
{
    hunt h = { .l = l, .want = bytes };
    uint64_t same;
    FV_TRY(hunt_size(&h, fixed_slices));
    const rdvq_way best = h.best;
    if (best.model != h.last.model || best.slices != h.last.slices || best.mu != h.last.mu)
        FV_TRY(try_way(&h, &best, &same));
    *way = best;
    *passes = h.passes;
    return FV_OK;
}
