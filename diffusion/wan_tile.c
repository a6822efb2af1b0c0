/* wan_tile.c - one window of frames, or a part of their pixels: encoder, flow, two decodings and the
 * frequency-domain update; and how frames are cut into parts.
 *
 *     frames [s, s + W) --VAE--> z_L --flow--> zhat_0, zhat_last --VAE--> base, draft --FDU--> frames
 *
 * One decoding of the base, one of the last draft: the estimates between are never shown. Of the two
 * only what is shown is decoded, and without the draft's detail no draft is computed.
 *
 * On a device frames and latents are the host's between the networks, whose plans have copies; the
 * update is the host's.
 *
 * Flow and autoencoder work one after another, in the same memory. Plans are made first and tell what
 * they would take; memory comes with wan_tile_alloc. */
#include "wan.h"

#include <math.h>
#include <string.h>

/* ---- Cutting --------------------------------------------------------------------------------- */

static int up16(int n) { return (n + 15) / 16 * 16; }

void wan_axis_cut(wan_axis *a, int all, int most, int overlap)
{
    *a = (wan_axis){.all = all, .count = 1, .size = all};
    if (all <= most) return;
    const int step = most - overlap;
    a->count = (all - overlap + step - 1) / step;
    const int64_t sum = (int64_t)all + (int64_t)(a->count - 1) * overlap;
    a->size = up16((int)((sum + a->count - 1) / a->count));
}

int wan_axis_begin(const wan_axis *a, int part)
{
    if (a->count == 1) return 0;
    return (int)((int64_t)part * (a->all - a->size) / (a->count - 1));
}

/* Of pixel p in [begin, begin + size): rises and falls over what is shared with the neighbours. */
static float ramp(const wan_axis *a, int part, int p)
{
    const int begin = wan_axis_begin(a, part), end = begin + a->size;
    float w = 1;
    if (p < begin || p >= end) return 0;
    if (part > 0) {
        const int shared = wan_axis_begin(a, part - 1) + a->size - begin;
        w = fminf(w, ((float)(p - begin) + 0.5f) / (float)shared);
    }
    if (part + 1 < a->count) {
        const int shared = end - wan_axis_begin(a, part + 1);
        w = fminf(w, ((float)(end - p) - 0.5f) / (float)shared);
    }
    return w;
}

fv_status wan_axis_weigh(fv_ctx *ctx, wan_axis *a)
{
    a->weight = fv_calloc(ctx, (size_t)a->count * (size_t)a->size, sizeof *a->weight);
    if (!a->weight) return FV_ERR_OOM;
    for (int i = 0; i < a->count; i++)
        for (int k = 0; k < a->size; k++) {
            const int p = wan_axis_begin(a, i) + k;
            float sum = 0; /* of more than two where parts are half overlap */
            for (int j = 0; j < a->count; j++) sum += ramp(a, j, p);
            a->weight[(size_t)i * (size_t)a->size + (size_t)k] = ramp(a, i, p) / sum;
        }
    return FV_OK;
}

bool wan_cut_find(const int all[2], int overlap, int least, int64_t area, wan_axis axis[2])
{
    int64_t fewest = INT64_MAX;
    const int rows = up16(all[0]), columns = up16(all[1]);
    for (int h = rows < least ? rows : least; h <= rows; h += 16) {
        const int64_t room = area / h / 16 * 16;
        const int w = room < columns ? (int)room : columns;
        wan_axis a[2];
        if (w < least && w < columns) break;
        wan_axis_cut(&a[0], all[0], h, overlap);
        wan_axis_cut(&a[1], all[1], w, overlap);
        const int64_t sum =
            (int64_t)a[0].count * up16(a[0].size) * a[1].count * up16(a[1].size);
        if (sum >= fewest) continue;
        fewest = sum;
        axis[0] = a[0];
        axis[1] = a[1];
    }
    return fewest < INT64_MAX;
}

/* ---- Networks and memory --------------------------------------------------------------------- */

fv_status wan_tile_open(wan_tile *t, const fv_model *file, fv_dtype precision)
{
    const fv_fdu_options *u = &t->update;
    FV_TRY(wan_model_open(t->ctx, &t->model, file, NULL, false, precision));
    const int times = t->model->net.cfg.times;
    if (t->steps == 0) t->steps = times;
    if (t->steps > times)
        return fv_fail(t->ctx, FV_ERR_ARG, "super-resolution: %d steps, the model has %d", t->steps,
                       times);
    if (u->alpha == 0 && u->mode != FV_FDU_REF && u->mode != FV_FDU_OFF) t->steps = 1;
    t->has_draft = t->steps > 1;
    t->has_base = !t->has_draft || u->mode != FV_FDU_OFF;
    return wan_vae_load(t->ctx, &t->vae, file);
}

static void free_window(wan_tile *t)
{
    float *const block[] = {t->four, t->draft, t->z};
    fv_fdu_close(&t->fdu);
    wan_flow_close(&t->flow);
    for (size_t i = 0; i < FV_ARRAY_LEN(block); i++) fv_free(t->ctx, block[i]);
    for (int k = 0; k < WAN_MAX_TIMES; k++) fv_free(t->ctx, t->zhat[k]);
    fv_dev_free(t->ctx, t->work);
    memset(t->zhat, 0, sizeof t->zhat);
    t->four = t->draft = t->z = NULL;
    t->work = NULL;
}

static size_t latent_floats(const wan_tile *t)
{
    return (size_t)t->h / 8 * ((size_t)t->w / 8) * WAN_LATENT;
}

static size_t latents(const wan_tile *t) { return (size_t)(t->frames - 1) / 4 + 1; }

static double count_flop(const wan_tile *t)
{
    const double calls = (double)latents(t) - 1;
    double sum = wan_flow_flop(t->flow);
    for (int k = 0; k < 3; k++)
        if (k == 0 || (k == 1 ? t->has_base : t->has_draft))
            sum += wan_vae_flop(t->vae, k > 0, true) + calls * wan_vae_flop(t->vae, k > 0, false);
    return sum;
}

fv_status wan_tile_plan(wan_tile *t, const int size[2], int n)
{
    const int F = (n + 2) / 4 + 1;
    free_window(t);
    t->size[0] = size[0];
    t->size[1] = size[1];
    t->h = up16(size[0]);
    t->w = up16(size[1]);
    t->frames = 4 * F - 3;
    FV_TRY(wan_vae_plan(t->vae, t->h, t->w, 1));
    FV_TRY(wan_flow_plan(t->model, &t->flow, F, t->h / 8, t->w / 8, t->steps));
    t->flop = count_flop(t);
    return FV_OK;
}

static uint64_t work_bytes(const wan_tile *t)
{
    const uint64_t a = wan_vae_work_bytes(t->vae), b = wan_flow_work_bytes(t->flow);
    return a > b ? a : b;
}

/* A pixel: 8, a little more for sides that are prime; twice that for gains. */
static uint64_t update_bytes(const wan_tile *t) { return t->update.mode == FV_FDU_GAIN ? 24 : 12; }

#define SMALL_BYTES ((uint64_t)1 << 20)

uint64_t wan_tile_bytes(const wan_tile *t)
{
    const uint64_t pixels = (uint64_t)t->size[0] * (uint64_t)t->size[1];
    const uint64_t floats = 4 * 3 * (uint64_t)t->h * (uint64_t)t->w +
                            (1 + t->has_base + t->has_draft) * latents(t) * latent_floats(t) +
                            (t->has_draft ? 3 * pixels : 0);
    return work_bytes(t) + wan_vae_cache_bytes(t->vae) + wan_flow_own_bytes(t->flow) +
           floats * sizeof(float) + update_bytes(t) * pixels + SMALL_BYTES;
}

static bool take(wan_tile *t, float **to, size_t frames, size_t floats)
{
    size_t n;
    *to = fv_mul_size(frames, floats, &n) ? fv_calloc(t->ctx, n, sizeof(float)) : NULL;
    return *to != NULL;
}

/* `more` is done beside t->done. Each percent once. */
static fv_status report(void *user, double more)
{
    wan_tile *t = user;
    const double part = t->total > 0 ? (t->done + more) / t->total : 0;
    const int percent = part < 0.99 ? (int)(100 * part) : 99;
    if (percent <= t->reported) return FV_OK;
    t->reported = percent;
    return fv_report(t->ctx, "restoring", (uint64_t)percent, 100, NULL);
}

fv_status wan_tile_alloc(wan_tile *t)
{
    const size_t n = latents(t), latent = latent_floats(t);
    t->work = fv_work_alloc(t->ctx, work_bytes(t));
    if (!t->work || !take(t, &t->four, 4, (size_t)t->h * (size_t)t->w * 3) ||
        !take(t, &t->z, n, latent) || (t->has_base && !take(t, &t->zhat[0], n, latent)) ||
        (t->has_draft && !take(t, &t->zhat[t->steps - 1], n, latent)))
        return FV_ERR_OOM;
    FV_TRY(wan_vae_alloc(t->vae, t->work));
    FV_TRY(wan_flow_alloc(t->flow, t->work));
    wan_flow_watch(t->flow, report, t);
    if (!t->has_base || !t->has_draft) return FV_OK;
    if (!take(t, &t->draft, (size_t)t->size[0] * 3, (size_t)t->size[1])) return FV_ERR_OOM;
    return fv_fdu_create(t->ctx, &t->fdu, t->size[1], t->size[0], &t->update);
}

void wan_tile_close(wan_tile *t)
{
    free_window(t);
    wan_vae_close(&t->vae);
    wan_model_close(&t->model);
}

/* ---- Running --------------------------------------------------------------------------------- */

/* To [-1, 1], the last row and column go on. */
static void extend(const wan_tile *t, const float *frame, const int all[2], const int at[2],
                   float *to)
{
#pragma omp parallel for num_threads(fv_ctx_threads(t->ctx)) schedule(static)
    for (int y = 0; y < t->h; y++) {
        const int sy = at[0] + (y < t->size[0] ? y : t->size[0] - 1);
        float *row = to + (size_t)y * (size_t)t->w * 3;
        for (int x = 0; x < t->w; x++) {
            const int sx = at[1] + (x < t->size[1] ? x : t->size[1] - 1);
            const float *from = frame + ((size_t)sy * (size_t)all[1] + (size_t)sx) * 3;
            for (int k = 0; k < 3; k++) row[3 * x + k] = 2 * from[k] - 1;
        }
    }
}

static void crop(const wan_tile *t, const float *from, float *rgb)
{
    const size_t row = (size_t)t->size[1] * 3;
#pragma omp parallel for num_threads(fv_ctx_threads(t->ctx)) schedule(static)
    for (int y = 0; y < t->size[0]; y++)
        for (size_t x = 0; x < row; x++)
            rgb[(size_t)y * row + x] = 0.5f * from[(size_t)y * (size_t)t->w * 3 + x] + 0.5f;
}

static fv_status encode(wan_tile *t, const float *frames, const int all[2], const int at[2], int n)
{
    const size_t pixels = (size_t)all[0] * (size_t)all[1] * 3;
    wan_vae_restart(t->vae);
    for (int i = 0, k = 0; i < t->frames; k++) {
        const int count = i ? 4 : 1;
        FV_TRY(report(t, 0));
        for (int j = 0; j < count; j++, i++)
            extend(t, frames + (size_t)(i < n ? i : n - 1) * pixels, all, at,
                   t->four + (size_t)j * (size_t)t->h * (size_t)t->w * 3);
        FV_TRY(wan_vae_encode(t->vae, t->four, t->z + (size_t)k * latent_floats(t)));
        t->done += wan_vae_flop(t->vae, false, k == 0);
    }
    return FV_OK;
}

/* The first n frames of latents into `out`, or as the draft that updates what is there. */
static fv_status decode(wan_tile *t, const float *z, bool is_update, int n, float *out)
{
    const size_t pixels = (size_t)t->size[0] * (size_t)t->size[1] * 3;
    wan_vae_restart(t->vae);
    for (int i = 0, k = 0; i < n; k++) {
        const int count = i ? 4 : 1;
        FV_TRY(report(t, 0));
        FV_TRY(wan_vae_decode(t->vae, z + (size_t)k * latent_floats(t), t->four));
        t->done += wan_vae_flop(t->vae, true, k == 0);
        for (int j = 0; j < count && i < n; j++, i++) {
            float *to = out + (size_t)i * pixels;
            crop(t, t->four + (size_t)j * (size_t)t->h * (size_t)t->w * 3,
                 is_update ? t->draft : to);
            if (!is_update) continue;
            const double start = fv_now();
            FV_TRY(fv_fdu_run(t->fdu, to, t->draft, to));
            t->update_seconds += fv_now() - start;
        }
    }
    return FV_OK;
}

static fv_status check_finite(const wan_tile *t, const float *out, int n)
{
    for (size_t i = 0; i < (size_t)n * (size_t)t->size[0] * (size_t)t->size[1] * 3; i++)
        if (!isfinite(out[i]))
            return fv_fail(t->ctx, FV_ERR_NUMERIC, "super-resolution: a value is not finite");
    return FV_OK;
}

fv_status wan_tile_run(wan_tile *t, const float *frames, const int all[2], const int at[2], int n,
                       float *out)
{
    const double start = fv_now(), before = t->update_seconds;
    FV_TRY(encode(t, frames, all, at, n));
    FV_TRY(report(t, 0));
    FV_TRY(wan_flow_run(t->flow, t->z, t->zhat));
    t->done += wan_flow_flop(t->flow);
    if (t->has_base) FV_TRY(decode(t, t->zhat[0], false, n, out));
    if (t->has_draft) FV_TRY(decode(t, t->zhat[t->steps - 1], t->has_base, n, out));
    t->network_seconds += fv_now() - start - (t->update_seconds - before);
    return check_finite(t, out, n);
}
