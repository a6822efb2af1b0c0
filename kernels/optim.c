/* optim.c - AdamW with global-norm clipping and an exponential moving average; learning-rate
 * schedules.
 *
 * [Loshchilov & Hutter 2019], decoupled decay, t counted from 1:
 *
 *     g <- g * min(1, clip / (|g| + 1e-6))
 *     m <- b1 m + (1-b1) g            v <- b2 v + (1-b2) g^2
 *     p <- p - lr ( (m/(1-b1^t)) / (sqrt(v/(1-b2^t)) + eps) + wd p )
 *     e <- d e + (1-d) p              d = min(ema_decay, (1+k)/(10+k)), k = t - 1
 *
 * Two passes over the flat arrays: the norm (reads g), then everything else at once, which also
 * clears g. Both are cut into FVI_LANES lanes by the number of elements alone, and the norm adds
 * sixteen double sums per lane in one order, so neither thread count nor CPU variant changes a bit.
 * The update is bound by memory: 36 bytes in and out of each element with EMA.
 *
 * A device does all of it in three launches (optim_cuda.c), in an order that depends on the number of
 * elements alone; the host reads the norm of a step back and nothing else. */
#include "optim_tables.h"

#include "backend.h"

#include <math.h>
#include <string.h>

#define MAX_SKIPPED_ROW 10

/* ---- Scalar kernels: the definition ---------------------------------------------------------- */

static void adamw_c(const fvi_adamw *a)
{
    for (int64_t i = 0; i < a->n; i++) {
        const float g = a->g[i] * a->scale, old = a->p[i];
        const float m = a->b1 * a->m[i] + a->k1 * g;
        const float v = a->b2 * a->v[i] + a->k2 * (g * g);
        const float u = m * a->c1 / (sqrtf(v * a->c2) + a->eps);
        const float p = old - a->lr * (u + a->wd * old);
        a->p[i] = p;
        a->m[i] = m;
        a->v[i] = v;
        a->g[i] = 0;
        if (a->ema) a->ema[i] = a->d * a->ema[i] + a->kd * p;
    }
}

static void square_c(const float *g, int64_t n, double acc[FVI_OPT_BLOCK])
{
    for (int64_t i = 0; i < n; i++) acc[i % FVI_OPT_BLOCK] += (double)g[i] * g[i];
}

void fvi_optim_init(fvi_optim_ops *o, uint32_t cpu)
{
    o->adamw = adamw_c;
    o->square = square_c;
#if defined(__x86_64__)
    if (cpu & FV_CPU_AVX2) fvi_optim_init_avx2(o);
    if (cpu & FV_CPU_AVX512) fvi_optim_init_avx512(o);
#endif
    (void)cpu;
}

/* ---- Creation -------------------------------------------------------------------------------- */

fv_status fvi_opt_check(fv_ctx *ctx, fv_opt_options *o)
{
    if (o->beta1 == 0) o->beta1 = 0.9f;
    if (o->beta2 == 0) o->beta2 = 0.95f;
    if (o->eps == 0) o->eps = 1e-8f;
    const bool ok = o->beta1 > 0 && o->beta1 < 1 && o->beta2 > 0 && o->beta2 < 1 && o->eps > 0 &&
                    o->weight_decay >= 0 && o->clip >= 0 && o->ema_decay >= 0 && o->ema_decay < 1;
    if (ok && isfinite(o->eps) && isfinite(o->weight_decay) && isfinite(o->clip)) return FV_OK;
    return fv_fail(
        ctx, FV_ERR_ARG,
        "optimiser: beta1, beta2 and ema_decay must lie in [0, 1), eps above 0, weight_decay "
        "and clip must not be negative");
}

/* Neighbours with equal flags join, so that a lane is a few long loops. */
static fv_status find_segments(fv_opt *o)
{
    const int n = fv_params_count(o->params);
    o->seg = fv_calloc(o->ctx, (size_t)n + 1, sizeof *o->seg);
    if (!o->seg) return FV_ERR_OOM;
    for (int i = 0; i < n; i++) {
        const uint32_t flags = fvi_param_flags(o->params, i);
        if (flags & FV_PARAM_FROZEN) continue;
        const int64_t begin = fvi_param_offset(o->params, i);
        const int64_t end =
            i + 1 < n ? fvi_param_offset(o->params, i + 1) : fvi_params_flat_count(o->params);
        const bool decay = flags & FV_PARAM_DECAY;
        fvi_opt_segment *last = o->segments ? &o->seg[o->segments - 1] : NULL;
        if (last && last->end == begin && last->decay == decay) {
            last->end = end;
        } else {
            const fvi_opt_segment s = {begin, end, decay};
            o->seg[o->segments++] = s;
        }
    }
    return FV_OK;
}

/* Blocks of the flat arrays by what is done with them, for the device. */
static fv_status send_kinds(fv_opt *o)
{
    const size_t n = (size_t)fvi_params_flat_count(o->params) / FVI_OPT_BLOCK;
    uint8_t *kind = fv_calloc(o->ctx, n, 1);
    o->kind = fv_dev_alloc(o->ctx, n, 1);
    o->work = fv_dev_alloc(o->ctx, o->device->work_bytes((int64_t)n * FVI_OPT_BLOCK), 1);
    fv_status s = kind && o->kind && o->work ? FV_OK : FV_ERR_OOM;
    for (int k = 0; k < o->segments && s == FV_OK; k++)
        memset(kind + o->seg[k].begin / FVI_OPT_BLOCK, o->seg[k].decay ? 2 : 1,
               (size_t)(o->seg[k].end - o->seg[k].begin) / FVI_OPT_BLOCK);
    if (s == FV_OK) s = fv_dev_copy(o->ctx, o->kind, kind, n, FV_COPY_TO_DEVICE);
    fv_free(o->ctx, kind);
    return s;
}

fv_status fv_opt_create(fv_ctx *ctx, fv_opt **out, fv_params *params, const fv_opt_options *opts)
{
    *out = NULL;
    fv_opt_options chosen = FV_OPT_OPTIONS_INIT;
    FV_TRY(FV_TAKE_OPTIONS(ctx, &chosen, opts, "optimiser"));
    FV_TRY(fvi_opt_check(ctx, &chosen));
    FV_TRY(fv_params_alloc(params));
    fv_opt *o = fv_calloc(ctx, 1, sizeof *o);
    if (!o) return FV_ERR_OOM;
    fv_status s = FV_ERR_OOM;
    o->ctx = ctx;
    o->params = params;
    o->o = chosen;
    fvi_optim_init(&o->ops, ctx->cpu);
    const size_t n = (size_t)fvi_params_flat_count(params);
    o->device = ctx->backend->optim;
    o->m = fv_dev_alloc(ctx, n, sizeof(float));
    o->v = fv_dev_alloc(ctx, n, sizeof(float));
    if (o->o.ema_decay > 0) o->ema = fv_dev_alloc(ctx, n, sizeof(float));
    if (!o->m || !o->v || (o->o.ema_decay > 0 && !o->ema)) goto fail;
    FV_TRY_GOTO(find_segments(o));
    if (o->device) FV_TRY_GOTO(send_kinds(o));
    *out = o;
    return FV_OK;
fail:
    fv_opt_destroy(&o);
    return s;
}

void fv_opt_destroy(fv_opt **opt)
{
    if (!opt || !*opt) return;
    fv_opt *o = *opt;
    fv_ctx *ctx = o->ctx;
    *opt = NULL;
    fv_dev_free(ctx, o->m);
    fv_dev_free(ctx, o->v);
    fv_dev_free(ctx, o->ema);
    fv_dev_free(ctx, o->kind);
    fv_dev_free(ctx, o->work);
    fv_free(ctx, o->seg);
    fv_free(ctx, o);
}

/* ---- Step ------------------------------------------------------------------------------------ */

/* Part of segment s in lane; false if there is none. */
static bool lane_part(const fv_opt *o, int s, int lane, int64_t *begin, int64_t *end)
{
    fvi_lane(fvi_params_flat_count(o->params) / FVI_OPT_BLOCK, lane, begin, end);
    *begin *= FVI_OPT_BLOCK;
    *end *= FVI_OPT_BLOCK;
    if (*begin < o->seg[s].begin) *begin = o->seg[s].begin;
    if (*end > o->seg[s].end) *end = o->seg[s].end;
    return *begin < *end;
}

static double gradient_norm(const fv_opt *o)
{
    const float *g = fvi_params_grad_flat(o->params);
    double sum[FVI_LANES];
    FVI_PARALLEL_LANES(o->ctx, lane)
    {
        double acc[FVI_OPT_BLOCK] = {0}, total = 0;
        int64_t b, e;
        for (int s = 0; s < o->segments; s++)
            if (lane_part(o, s, lane, &b, &e)) o->ops.square(g + b, e - b, acc);
        for (int j = 0; j < FVI_OPT_BLOCK; j++) total += acc[j];
        sum[lane] = total;
    }
    double total = 0;
    for (int lane = 0; lane < FVI_LANES; lane++) total += sum[lane];
    return sqrt(total);
}

/* norm: of a device not known yet, and its scale neither. */
static fvi_adamw constants(const fv_opt *o, float lr, double norm)
{
    const double t = (double)o->steps + 1, b1 = o->o.beta1, b2 = o->o.beta2;
    const double warm = t / (t + 9.0); /* (1+k)/(10+k) */
    const double d = o->o.ema_decay < warm ? o->o.ema_decay : warm;
    fvi_adamw a = {0};
    a.scale = fvi_clip_scale(o->o.clip, norm);
    a.b1 = o->o.beta1;
    a.k1 = (float)(1 - b1);
    a.b2 = o->o.beta2;
    a.k2 = (float)(1 - b2);
    a.c1 = (float)(1 / (1 - pow(b1, t)));
    a.c2 = (float)(1 / (1 - pow(b2, t)));
    a.eps = o->o.eps;
    a.lr = lr;
    a.d = (float)d;
    a.kd = (float)(1 - d);
    return a;
}

static void update(fv_opt *o, const fvi_adamw *common)
{
    float *p = fvi_params_master(o->params), *g = fvi_params_grad_flat(o->params);
    FVI_PARALLEL_LANES(o->ctx, lane)
    {
        int64_t b, e;
        for (int s = 0; s < o->segments; s++) {
            if (!lane_part(o, s, lane, &b, &e)) continue;
            fvi_adamw a = *common;
            a.p = p + b;
            a.g = g + b;
            a.m = o->m + b;
            a.v = o->v + b;
            a.ema = o->ema ? o->ema + b : NULL;
            a.n = e - b;
            a.wd = o->seg[s].decay ? o->o.weight_decay : 0.0f;
            o->ops.adamw(&a);
        }
    }
}

fv_status fvi_opt_skip(fv_opt *o, fv_opt_info *info)
{
    fv_params_zero_grad(o->params);
    o->skipped++;
    o->skipped_row++;
    if (info) info->skipped = 1;
    if (o->skipped_row < MAX_SKIPPED_ROW) return FV_OK;
    return fv_fail(
        o->ctx, FV_ERR_NUMERIC,
        "optimiser: loss or gradient not finite in %d steps in a row; lower the learning "
        "rate or check the data",
        MAX_SKIPPED_ROW);
}

/* The whole step; whether it was one is known with the norm. */
static fv_status device_step(fv_opt *o, float lr, double *norm)
{
    uint16_t *half = fvi_params_half(o->params);
    fvi_adamw a = constants(o, lr, 0);
    FV_TRY(fvi_params_sync(o->ctx, o->params)); /* the host's changes come first */
    FV_TRY(fvi_opt_start_ema(o));
    a.p = fvi_params_values(o->params);
    a.g = fvi_params_grad_flat(o->params);
    a.m = o->m;
    a.v = o->v;
    a.ema = o->ema;
    a.n = fvi_params_flat_count(o->params);
    a.wd = o->o.weight_decay;
    FV_TRY(o->device->step(o->ctx, &a, o->o.clip, o->kind, half, o->work, norm));
    fvi_params_changed(o->params, half != NULL);
    return FV_OK;
}

fv_status fv_opt_step(fv_opt *o, float lr, fv_opt_info *info)
{
    FV_TRY(o->failed);
    if (o->swapped) {
        return fv_fail(
            o->ctx, FV_ERR_STATE,
            "optimiser: the averaged weights are in place; swap them back before a step");
    }
    if (!isfinite(lr))
        return fv_fail(o->ctx, FV_ERR_ARG, "optimiser: the learning rate is not finite");
    double norm = 0;
    if (o->device) FV_TRY(device_step(o, lr, &norm));
    else norm = gradient_norm(o);
    if (info) {
        info->grad_norm = norm;
        info->skipped = 0;
    }
    if (!isfinite(norm)) return fvi_opt_skip(o, info);
    if (!o->device) {
        FV_TRY(fvi_opt_start_ema(o));
        const fvi_adamw a = constants(o, lr, norm);
        update(o, &a);
        fvi_params_changed(o->params, false);
    }
    o->steps++;
    o->skipped_row = 0;
    return FV_OK;
}

uint64_t fv_opt_steps(const fv_opt *o)
{
    return o->steps;
}

/* ---- EMA ------------------------------------------------------------------------------------- */

fv_status fvi_opt_start_ema(fv_opt *o)
{
    if (!o->ema || o->ema_ready) return FV_OK;
    if (o->device) FV_TRY(fvi_params_sync(o->ctx, o->params));
    FV_TRY(fv_dev_copy(o->ctx, o->ema, fvi_params_values(o->params),
                       (size_t)fvi_params_flat_count(o->params) * sizeof(float),
                       FV_COPY_ON_DEVICE));
    o->ema_ready = true;
    return FV_OK;
}

/* On the device, where both may be newer than what the host has. */
static fv_status swap_on_device(fv_opt *o)
{
    FV_TRY(fvi_params_sync(o->ctx, o->params));
    FV_TRY(o->device->swap(o->ctx, fvi_params_values(o->params), o->ema, o->kind,
                           fvi_params_flat_count(o->params)));
    fvi_params_changed(o->params, false);
    return FV_OK;
}

void fv_opt_swap_ema(fv_opt *o)
{
    if (!o->ema) return;
    fv_status failed = fvi_opt_start_ema(o);
    if (failed == FV_OK && o->device) failed = swap_on_device(o);
    if (o->failed == FV_OK) o->failed = failed;
    float *p = fvi_params_master(o->params);
    for (int s = o->device ? o->segments : 0; s < o->segments; s++) {
        for (int64_t i = o->seg[s].begin; i < o->seg[s].end; i++) {
            const float t = p[i];
            p[i] = o->ema[i];
            o->ema[i] = t;
        }
    }
    o->swapped = !o->swapped;
    if (!o->device) fv_params_touch(o->params);
}

/* ---- State on the host ----------------------------------------------------------------------- */

void fvi_opt_state_free(fv_ctx *ctx, const fv_opt *o, fvi_opt_state *s)
{
    float *const copy[3] = { s->m, s->v, s->ema };
    for (int k = 0; o && o->device && k < 3; k++) fv_free(ctx, copy[k]);
    *s = (fvi_opt_state){ 0 };
}

fv_status fvi_opt_state_get(fv_ctx *ctx, const fv_opt *o, bool read, fvi_opt_state *out)
{
    float *const from[3] = { o->m, o->v, o->ema };
    float **const to[3] = { &out->m, &out->v, &out->ema };
    const size_t n = (size_t)fvi_params_flat_count(o->params);
    *out = (fvi_opt_state){ o->m, o->v, o->ema };
    if (!o->device) return FV_OK;
    *out = (fvi_opt_state){ 0 };
    fv_status s = FV_OK;
    for (int k = 0; k < 3 && s == FV_OK; k++) {
        if (!from[k]) continue;
        *to[k] = fv_calloc(ctx, n, sizeof(float));
        s = *to[k] ? FV_OK : FV_ERR_OOM;
        if (s == FV_OK && read)
            s = fv_dev_copy(o->ctx, *to[k], from[k], n * sizeof(float), FV_COPY_TO_HOST);
    }
    if (s != FV_OK) fvi_opt_state_free(ctx, o, out);
    return s;
}

fv_status fvi_opt_state_put(fv_ctx *ctx, fv_opt *o, const fvi_opt_state *s)
{
    float *const from[3] = { s->m, s->v, s->ema }, *const to[3] = { o->m, o->v, o->ema };
    const size_t bytes = (size_t)fvi_params_flat_count(o->params) * sizeof(float);
    (void)ctx;
    for (int k = 0; k < 3 && o->device; k++)
        if (to[k]) FV_TRY(fv_dev_copy(o->ctx, to[k], from[k], bytes, FV_COPY_TO_DEVICE));
    return FV_OK;
}

/* ---- Schedules ------------------------------------------------------------------------------- */

#define WSD_DECAY 0.2

double fv_schedule(fv_schedule_kind kind, uint64_t step, uint64_t total, uint64_t warmup,
                   double peak, double final)
{
    static const double pi = 3.14159265358979323846;
    if (step < warmup) return peak * ((double)step + 1) / (double)warmup;
    if (kind == FV_LR_CONSTANT || total <= warmup) return peak;
    /* x: 0 at the end of the warm-up, 1 at `total` and after */
    double x = step >= total ? 1.0 : (double)(step - warmup) / (double)(total - warmup);
    switch (kind) {
    case FV_LR_COSINE: return peak * (final + (1 - final) * 0.5 * (1 + cos(pi * x)));
    case FV_LR_LINEAR: return peak * (1 - (1 - final) * x);
    case FV_LR_WSD: {
        /* the decay takes the last 20 % of all steps, never more than what follows the warm-up */
        const double begin = fmax((1 - WSD_DECAY) * (double)total, (double)warmup);
        x = step >= total ? 1.0 : ((double)step - begin) / ((double)total - begin);
        return x <= 0 ? peak : peak * (1 - (1 - final) * x);
    }
    case FV_LR_CONSTANT: break;
    }
    return peak;
}
