/* dit_generate.c - opened models, class names, and the sampling loop.
 *
 * Picture i of a call starts from noise of seed + i and class i, whatever the batch: batches only
 * share matrix products. The loop allocates nothing: everything is made by dit_runner_create and
 * the state buffers before the first step. */
#include "class_names.h"
#include "internal.h"
#include "sampler_body.h"
#include "sampling_device.h"

#include <math.h>
#include <string.h>

#define MAX_COUNT 1000000
#define DECODE_GROUP 4 /* pictures for one call of the decoder, which may have to build its plan */

/* ---- Opening --------------------------------------------------------------------------------- */

bool dit_has_decoder(const fv_model *m)
{
    for (int i = 0; i < fv_model_count(m); i++)
        if (strncmp(fv_model_name(m, i), "vae.", 4) == 0) return true;
    return false;
}

static fv_status open_decoder(fv_ctx *ctx, fv_dit *d, const fv_dit_options *o)
{
    const fv_model *m = o->decoder ? o->decoder : d->file;
    if (d->net.cfg.family != DIT_OFFICIAL) return FV_OK;
    const bool inside = dit_has_decoder(m);
    /* Without one states can be sampled; pictures need it, and fv_generate says so. */
    if (!o->decoder && !inside) return FV_OK;
    FV_TRY(fv_vae_open(ctx, &d->vae, m, inside ? "vae." : "",
                       d->precision == FV_F8 ? FV_BF16 : d->precision));
    fv_vae_info info;
    fv_vae_get_info(d->vae, &info);
    if (info.can_decode && info.latent_channels == d->net.cfg.channels) return FV_OK;
    return fv_fail(
        ctx, FV_ERR_MODEL, "decoder: it %s latents of %d channels, this model makes %d channels",
        info.can_decode ? "decodes" : "only encodes to", info.latent_channels, d->net.cfg.channels);
}

static fv_status open_net(fv_ctx *ctx, fv_dit *d, const fv_dit_options *o)
{
    dit_config c;
    FV_TRY(dit_config_read(ctx, d->file, "", &c));
    if (o->diffusers_numerics) {
        c.t_den = 127.0f;
        c.ln2_eps = 1e-5f;
    }
    FV_TRY(dit_net_create(ctx, &d->net, &c));
    FV_TRY(fv_params_load(d->net.params, d->file, ""));
    d->row_flop = dit_row_flop(&d->net);
    FV_TRY(fv_class_names_read(ctx, d->file, d->net.cfg.classes, &d->class_name, &d->class_text));
    fv_model_hash(d->file, d->hash);
    return open_decoder(ctx, d, o);
}

fv_status fv_dit_open(fv_ctx *ctx, fv_dit **out, const fv_model *file, const fv_dit_options *opts)
{
    fv_dit_options o = FV_DIT_OPTIONS_INIT;
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "model: no place for the result");
    *out = NULL;
    if (!file) return fv_fail(ctx, FV_ERR_ARG, "model: no file given");
    FV_TRY(FV_TAKE_OPTIONS(ctx, &o, opts, "model"));
    if (o.precision == FV_F8) FV_TRY(fvi_fp8_check(ctx));
    if (o.precision != FV_F32 && o.precision != FV_BF16 && o.precision != FV_F8)
        return fv_fail(ctx, FV_ERR_ARG, "model: precision must be f32, bf16 or fp8");
    fv_dit *d = fv_calloc(ctx, 1, sizeof *d);
    if (!d) return FV_ERR_OOM;
    d->ctx = ctx;
    d->file = file;
    const bool has_bf16 =
        fv_ctx_cpu(ctx) & FV_CPU_AVX512 || fv_ctx_device(ctx) == FV_DEVICE_CUDA;
    d->precision = o.precision != FV_F32 && has_bf16 ? o.precision : FV_F32;
    const fv_status s = open_net(ctx, d, &o);
    if (s != FV_OK) {
        fv_dit_close(&d);
        return s;
    }
    *out = d;
    return FV_OK;
}

void fv_dit_close(fv_dit **dd)
{
    if (!dd || !*dd) return;
    fv_dit *d = *dd;
    *dd = NULL;
    fv_vae_close(&d->vae);
    dit_net_destroy(d->ctx, &d->net);
    fv_free(d->ctx, d->class_name);
    fv_free(d->ctx, d->class_text);
    fv_free(d->ctx, d);
}

void fv_dit_get_info(const fv_dit *d, fv_dit_info *o)
{
    const dit_config *c = &d->net.cfg;
    memset(o, 0, sizeof *o);
    o->name = c->name;
    o->is_official = c->family == DIT_OFFICIAL;
    o->is_latent = c->family == DIT_OFFICIAL;
    o->width = c->width;
    o->depth = c->depth;
    o->heads = c->heads;
    o->patch = c->patch;
    o->tokens = dit_tokens(c);
    o->input_size = c->input_size;
    o->channels = c->channels;
    o->image_size = c->input_size;
    if (o->is_latent) {
        fv_vae_info v = { .factor = 8 };
        if (d->vae) fv_vae_get_info(d->vae, &v);
        o->image_size *= v.factor;
    }
    o->classes = c->classes;
    o->parameters = fv_params_elements(d->net.params);
    o->weight_bytes = (uint64_t)o->parameters * (d->precision == FV_F32 ? 4 : d->precision == FV_F8 ? 1 : 2);
    o->step_flop = d->row_flop;
    o->sampler = c->sampler;
    o->steps = c->steps;
    o->cfg = c->cfg;
    memcpy(o->hash, d->hash, sizeof o->hash);
}

const char *fv_dit_class_name(const fv_dit *d, int i)
{
    if (i < 0 || i >= d->net.cfg.classes) return NULL;
    return d->class_name ? d->class_name[i] : "";
}

fv_status fv_dit_class_find(fv_ctx *ctx, const fv_dit *d, const char *name, int *out)
{
    return fv_class_names_find(ctx, d->class_name, d->net.cfg.classes, name, out);
}

/* ---- Sampling loop --------------------------------------------------------------------------- */

/* Rows x tokens of about 1024 keep the matrix products efficient without large activations. */
int dit_choose_batch(const dit_config *c, const fv_generate_options *o)
{
    int b = o->batch;
    if (b <= 0) {
        b = 1024 / (2 * dit_tokens(c));
        if (b < 1) b = 1;
        if (b > 32) b = 32;
    }
    return b < o->count ? b : o->count;
}

/* On a device states stay there; only the last ones are wanted here. */
static fv_status make_states(dit_walk *w)
{
    const size_t n = (size_t)w->B * (size_t)w->n;
    w->x = fv_calloc(w->ctx, n, sizeof(float));
    w->labels = fv_calloc(w->ctx, (size_t)w->B, sizeof *w->labels);
    if (fv_ctx_device(w->ctx) != FV_DEVICE_CPU) {
        w->near_x = fv_dev_alloc(w->ctx, n, sizeof(float));
        w->near_work = fv_dev_alloc(w->ctx, 2 * n, sizeof(float));
        return w->x && w->labels && w->near_x && w->near_work ? FV_OK : FV_ERR_OOM;
    }
    w->pred = fv_calloc(w->ctx, n, sizeof(float));
    w->var = fv_calloc(w->ctx, n, sizeof(float));
    w->noise = fv_calloc(w->ctx, n, sizeof(float));
    w->work = fv_calloc(w->ctx, 2 * n, sizeof(float));
    return w->x && w->pred && w->var && w->noise && w->work && w->labels ? FV_OK : FV_ERR_OOM;
}

fv_status dit_walk_create(fv_ctx *ctx, dit_walk *w, const dit_net *net, fv_dtype precision,
                          const dit_schedule *schedule, const dit_runner_options *ro)
{
    dit_runner_options near = *ro;
    memset(w, 0, sizeof *w);
    w->ctx = ctx;
    w->net = net;
    w->schedule = schedule;
    w->B = ro->B;
    w->n = (int64_t)net->cfg.input_size * net->cfg.input_size * net->cfg.channels;
    near.near = true;
    fv_status s = make_states(w);
    if (s == FV_OK) s = dit_runner_create(ctx, &w->runner, net, precision, schedule, &near);
    if (s != FV_OK) dit_walk_destroy(w);
    return s;
}

void dit_walk_destroy(dit_walk *w)
{
    dit_runner_destroy(&w->runner);
    void *mem[] = { w->x, w->pred, w->var, w->noise, w->work, w->labels };
    for (size_t i = 0; w->ctx && i < FV_ARRAY_LEN(mem); i++) fv_free(w->ctx, mem[i]);
    if (w->ctx) fv_dev_free(w->ctx, w->near_x);
    if (w->ctx) fv_dev_free(w->ctx, w->near_work);
    memset(w, 0, sizeof *w);
}

static fv_status start_near(dit_walk *w, const float *noise)
{
    const size_t n = (size_t)w->B * (size_t)w->n;
    const fvk_normals_args a = { .y = w->near_x, .B = w->B, .n = w->n, .seed = (int64_t)w->seed,
                                 .stream = FV_STREAM_NOISE };
    FV_TRY(fv_dev_zero(w->ctx, w->near_work, 2 * n * sizeof(float)));
    if (noise)
        return fv_dev_copy(w->ctx, w->near_x, noise, n * sizeof(float), FV_COPY_TO_DEVICE);
    return fvi_dev_normals(w->ctx, &a);
}

fv_status dit_walk_start(dit_walk *w, uint64_t seed, const float *noise)
{
    w->seed = seed;
    if (w->near_x) {
        FV_TRY(start_near(w, noise));
        return dit_runner_start(w->runner, w->labels);
    }
    if (noise) memcpy(w->x, noise, (size_t)w->B * (size_t)w->n * sizeof(float));
    for (int i = 0; !noise && i < w->B; i++)
        fv_rand_normal(seed + (uint64_t)i, FV_STREAM_NOISE, 0, 0, w->n, w->x + i * w->n);
    memset(w->work, 0, 2 * (size_t)w->B * (size_t)w->n * sizeof(float));
    return dit_runner_start(w->runner, w->labels);
}

fv_status dit_walk_fetch(dit_walk *w)
{
    if (!w->near_x) return FV_OK;
    return fv_dev_copy(w->ctx, w->x, w->near_x, (size_t)w->B * (size_t)w->n * sizeof(float),
                       FV_COPY_TO_HOST);
}

void dit_walk_update(dit_walk *w, int e, const float *out, int rows)
{
    const dit_config *c = &w->net->cfg;
    const int64_t pixels = w->n / c->channels, out_n = pixels * c->out_channels;
    const int B = w->B;
#pragma omp parallel for schedule(static) num_threads(fv_ctx_threads(w->ctx))
    for (int i = 0; i < B; i++) {
        float *x = w->x + i * w->n, *pred = w->pred + i * w->n, *var = w->var + i * w->n,
              *noise = NULL;
        dit_schedule_guide(w->schedule, out + i * out_n, rows > B ? out + (B + i) * out_n : NULL,
                           pixels, c->channels, c->out_channels, pred,
                           c->out_channels > c->channels ? var : NULL);
        if (w->schedule->needs_noise) {
            noise = w->noise + i * w->n;
            fv_rand_normal(w->seed + (uint64_t)i, FV_STREAM_SAMPLING, (uint32_t)e, 0, w->n, noise);
        }
        dit_schedule_step(w->schedule, e, x, pred, var, noise, w->work + 2 * i * w->n, w->n);
    }
}

/* dit_walk_update as one kernel. */
static fv_status update_near(dit_walk *w, int e, const float *out, int rows)
{
    const dit_config *c = &w->net->cfg;
    const dit_schedule *s = w->schedule;
    fvk_step_update_args a = {
        .out = out, .x = w->near_x, .work = w->near_work, .B = w->B, .n = w->n,
        .channels = c->channels, .out_channels = c->out_channels,
        .guided = rows > w->B ? s->cfg_channels : 0, .seed = (int64_t)w->seed,
        .stream = FV_STREAM_SAMPLING, .sample = e, .scale = s->cfg, .draws = s->needs_noise
    };
    dit_schedule_coef(s, e, a.coef);
    switch (s->kind) {
    case FV_SAMPLER_DDPM: a.kind = FVI_STEP_DDPM; break;
    case FV_SAMPLER_DDIM: a.kind = FVI_STEP_DDIM; break;
    case FV_SAMPLER_DPMPP2M: a.kind = FVI_STEP_DPMPP; break;
    default: a.kind = FVI_STEP_FLOW; break;
    }
    return fvi_dev_update(w->ctx, &a);
}

fv_status dit_walk_apply(dit_walk *w, int e, const float *out, int rows)
{
    if (w->near_x) return update_near(w, e, out, rows);
    dit_walk_update(w, e, out, rows);
    return FV_OK;
}

fv_status dit_walk_advance(dit_walk *w, int e, const dit_row *row)
{
    const float *out;
    int rows;
    FV_TRY(dit_runner_eval(w->runner, e, dit_walk_states(w), row, &out, &rows));
    return dit_walk_apply(w, e, out, rows);
}

/* As the policy says, which is shown the result too. */
static fv_status advance_by(dit_walk *w, int e, const dit_policy *p, dit_row *row)
{
    const float *out;
    int rows;
    FV_TRY(p->decide(p->user, w->runner, e, dit_walk_states(w), row));
    FV_TRY(dit_runner_eval(w->runner, e, dit_walk_states(w), row, &out, &rows));
    if (p->done) FV_TRY(p->done(p->user, w->runner, e, out, rows));
    return dit_walk_apply(w, e, out, rows);
}

typedef struct sampling {
    fv_ctx *ctx;
    const dit_net *net;
    const fv_generate_options *o;
    dit_schedule schedule;
    dit_walk walk;
    dit_guard *guard;         /* NULL: none */
    const dit_policy *policy; /* the plan's or the guard's; NULL: rows as planned */
    int done_evals, total_evals;
    fv_generate_stats stats;
} sampling;

/* Pictures first .. first+B-1 from their noise to their final state. */
static fv_status sample_batch(sampling *s, int first, const float *noise, float *state)
{
    const fv_generate_options *o = s->o;
    const fv_accel *a = o->accel;
    dit_walk *w = &s->walk;
    const size_t at = (size_t)first * (size_t)w->n;
    double flop;
    int64_t full, reused;
    for (int i = 0; i < w->B; i++) w->labels[i] = o->classes ? o->classes[first + i] : o->class_all;
    FV_TRY(dit_walk_start(w, o->seed + (uint64_t)first, noise ? noise + at : NULL));
    if (s->policy) FV_TRY(s->policy->start(s->policy->user, w->runner, w->B));
    for (int e = 0; e < s->schedule.evals; e++) {
        dit_row row = dit_accel_row(a, e);
        if (s->policy) FV_TRY(advance_by(w, e, s->policy, &row));
        else FV_TRY(dit_walk_advance(w, e, &row));
        FV_TRY(fv_report(s->ctx, "sampling", (uint64_t)++s->done_evals, (uint64_t)s->total_evals,
                         NULL));
    }
    FV_TRY(dit_walk_fetch(w));
    dit_runner_counters(w->runner, &flop, &full, &reused);
    s->stats.flop += flop;
    s->stats.full_modules += full;
    s->stats.reused_modules += reused;
    if (s->guard) s->stats.guard_fired = dit_guard_fired(s->guard);
    memcpy(state + at, w->x, (size_t)w->B * (size_t)w->n * sizeof(float));
    return FV_OK;
}

static fv_status check_classes(fv_ctx *ctx, const dit_config *c, const fv_generate_options *o)
{
    for (int i = 0; i < (o->classes ? o->count : 1); i++) {
        const int k = o->classes ? o->classes[i] : o->class_all;
        if (k >= 0 && k < c->classes + c->has_null) continue;
        return fv_fail(ctx, FV_ERR_ARG, "class %d is out of range: 0 to %d%s", k, c->classes - 1,
                       c->has_null ? ", or one more for unconditional" : "");
    }
    return FV_OK;
}

static fv_status check_accel(fv_ctx *ctx, const sampling *s)
{
    const fv_accel *a = s->o->accel;
    const char *made_for = a ? fv_sampler_name(a->sampler) : NULL;
    if (!a) return FV_OK;
    if (a->sampler != FV_SAMPLER_AUTO && a->sampler != s->schedule.kind)
        return fv_fail(ctx, FV_ERR_MODEL, "plan: made for the sampler %s, this run uses %s",
                       made_for ? made_for : "?", fv_sampler_name(s->schedule.kind));
    if (a->evals == s->schedule.evals && a->depth == s->net->cfg.depth) return FV_OK;
    return fv_fail(ctx, FV_ERR_MODEL,
                   "plan: made for %d evaluations of %d blocks, this run has %d of %d", a->evals,
                   a->depth, s->schedule.evals, s->net->cfg.depth);
}

static fv_status choose_policy(fv_ctx *ctx, sampling *s)
{
    const fv_accel *a = s->o->accel;
    const dit_config *c = &s->net->cfg;
    const dit_guard_options g = { .tau = s->o->guard, .B = dit_choose_batch(c, s->o) };
    if (!(g.tau >= 0 && g.tau < INFINITY))
        return fv_fail(ctx, FV_ERR_ARG, "guard is %g: use a number above 0, or 0 for none", g.tau);
    s->policy = a ? a->policy : NULL;
    if (!a || !(g.tau > 0)) return FV_OK;
    if (a->policy)
        return fv_fail(ctx, FV_ERR_ARG,
                       "guard: %s decides while it runs, there is no plan to guard", a->mode);
    FV_TRY(dit_guard_create(ctx, &s->guard, a, &s->schedule, c, &g));
    s->policy = dit_guard_policy(s->guard);
    return FV_OK;
}

/* The largest of the batches. */
static void note_memory(sampling *s)
{
    const dit_walk *w = &s->walk;
    uint64_t act, kept;
    dit_runner_memory(w->runner, &act, &kept);
    act += 6 * (uint64_t)w->B * (uint64_t)w->n * sizeof(float); /* the sampler's states */
    kept += s->guard ? dit_guard_bytes(s->guard) : 0;
    if (act + kept < s->stats.activation_bytes + s->stats.cache_bytes) return;
    s->stats.activation_bytes = act;
    s->stats.cache_bytes = kept;
}

/* All batches; the last one may be smaller and then gets plans of its own. */
static fv_status sample_all(sampling *s, fv_dtype precision, const float *noise, float *state)
{
    const int count = s->o->count, most = dit_choose_batch(&s->net->cfg, s->o);
    s->total_evals = (count + most - 1) / most * s->schedule.evals;
    for (int first = 0; first < count; first += most) {
        const int B = count - first < most ? count - first : most;
        if (B != s->walk.B) {
            dit_runner_options ro = { .B = B,
                                      .exact_cache = s->o->exact_cache != 0,
                                      .no_hoisting = s->o->no_hoisting != 0 };
            dit_runner_options_for(s->o->accel, &ro);
            ro.probes = s->policy && !s->policy->no_probes;
            dit_walk_destroy(&s->walk);
            FV_TRY(dit_walk_create(s->ctx, &s->walk, s->net, precision, &s->schedule, &ro));
            note_memory(s);
        }
        FV_TRY(sample_batch(s, first, noise, state));
    }
    return FV_OK;
}

fv_status dit_check_count(fv_ctx *ctx, const fv_generate_options *o)
{
    if (o->count >= 1 && o->count <= MAX_COUNT) return FV_OK;
    return fv_fail(ctx, FV_ERR_ARG, "count is %d: use 1 to %d pictures", o->count, MAX_COUNT);
}

fv_status dit_generate_net(fv_ctx *ctx, const dit_net *net, fv_dtype precision,
                           const fv_generate_options *o, const float *noise, float *state,
                           fv_generate_stats *stats)
{
    sampling s = { .ctx = ctx, .net = net, .o = o };
    if (stats) *stats = s.stats;
    FV_TRY(dit_check_count(ctx, o));
    FV_TRY(check_classes(ctx, &net->cfg, o));
    FV_TRY(dit_schedule_create(ctx, &s.schedule, &net->cfg, o));
    fv_status st = check_accel(ctx, &s);
    if (st == FV_OK) st = choose_policy(ctx, &s);
    if (st == FV_OK) st = sample_all(&s, precision, noise, state);
    if (stats) *stats = s.stats;
    dit_walk_destroy(&s.walk);
    dit_guard_destroy(&s.guard);
    dit_schedule_destroy(ctx, &s.schedule);
    return st;
}

/* ---- Memory of a call ------------------------------------------------------------------------ */

typedef struct memory_mark {
    uint64_t bytes, weights; /* of the calling context, at the start */
} memory_mark;

static uint64_t packed_bytes(const fv_ctx *ctx, const fv_dit *d, uint64_t *decoder_work)
{
    uint64_t vae = 0;
    *decoder_work = 0;
    if (d->vae) dit_vae_memory(ctx, d->vae, &vae, decoder_work);
    return fv_params_bytes(d->net.params) + vae;
}

static memory_mark mark_memory(fv_ctx *ctx, const fv_dit *d)
{
    fv_memory_stats m;
    uint64_t ignored;
    fv_ctx_memory_reset_peak(ctx);
    fv_ctx_memory(ctx, &m);
    return (memory_mark){ m.current_bytes, packed_bytes(ctx, d, &ignored) };
}

/* Weights that this call packed are part of the peak only in the context that opened the model.
 * Sampling is over before the decoder gets its work memory: the larger of the two counts. */
static void report_memory(fv_ctx *ctx, const fv_dit *d, memory_mark start, uint64_t results,
                          fv_generate_stats *st) /* results 0: states, nothing is decoded */
{
    fv_memory_stats m;
    uint64_t decoder;
    fv_ctx_memory(ctx, &m);
    st->weight_bytes = packed_bytes(ctx, d, &decoder);
    st->peak_bytes = m.peak_bytes - start.bytes;
    if (d->ctx == ctx) {
        const uint64_t packed = st->weight_bytes - start.weights;
        st->peak_bytes -= packed < st->peak_bytes ? packed : st->peak_bytes;
    }
    if (results && st->activation_bytes + st->cache_bytes < decoder) {
        st->activation_bytes = decoder;
        st->cache_bytes = 0;
    }
    st->activation_bytes += results;
}

fv_status fv_generate_state(fv_ctx *ctx, const fv_dit *d, const fv_generate_options *opts,
                            const float *noise, float *state, fv_generate_stats *stats)
{
    const double t = fv_now();
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    if (!d || !opts || !state)
        return fv_fail(ctx, FV_ERR_ARG, "generate: model, options or state missing");
    FV_TRY(FV_TAKE_OPTIONS(ctx, &o, opts, "generate"));
    const memory_mark start = mark_memory(ctx, d);
    const fv_status s = dit_generate_net(ctx, &d->net, d->precision, &o, noise, state, stats);
    if (stats) stats->seconds = fv_now() - t;
    if (stats) report_memory(ctx, d, start, 0, stats);
    return s;
}

/* ---- Pictures -------------------------------------------------------------------------------- */

/* Decoded values to pixels; the official evaluation truncates: clamp(127.5 y + 128). NaN gives
 * 0. */
static void truncate_pixels(const float *rgb, fv_image *img)
{
    uint8_t *p = img->pixels;
    for (int y = 0; y < img->height; y++)
        for (int x = 0; x < 3 * img->width; x++) {
            const float v = 127.5f * rgb[(size_t)y * 3 * (size_t)img->width + (size_t)x] + 128.0f;
            p[(size_t)y * img->stride_bytes + (size_t)x] = v > 255 ? 255 : v > 0 ? (uint8_t)v : 0;
        }
}

static fv_status decode_latents(fv_ctx *ctx, fv_vae *vae, const dit_config *c, int count,
                                const float *state, fv_image *images)
{
    const int S = c->input_size, most = count < DECODE_GROUP ? count : DECODE_GROUP;
    const size_t n = (size_t)S * (size_t)S * (size_t)c->channels;
    const size_t pixels = (size_t)images->width * (size_t)images->height * 3;
    float *rgb = fv_calloc(ctx, (size_t)most * pixels, sizeof(float));
    fv_status s = rgb ? FV_OK : FV_ERR_OOM;
    for (int first = 0; first < count && s == FV_OK; first += most) {
        const int B = count - first < most ? count - first : most;
        s = fv_vae_decode(ctx, vae, state + (size_t)first * n, B, S, S, rgb);
        for (int i = 0; i < B && s == FV_OK; i++)
            truncate_pixels(rgb + (size_t)i * pixels, &images[first + i]);
        if (s == FV_OK)
            s = fv_report(ctx, "decoding", (uint64_t)(first + B), (uint64_t)count, NULL);
    }
    fv_free(ctx, rgb);
    return s;
}

static fv_status decode_all(fv_ctx *ctx, const fv_dit *d, int count, const float *state,
                            fv_image *images)
{
    const dit_config *c = &d->net.cfg;
    const size_t n = (size_t)c->input_size * (size_t)c->input_size * (size_t)c->channels;
    fv_dit_info info;
    fv_dit_get_info(d, &info);
    for (int i = 0; i < count; i++)
        FV_TRY(fv_image_create(ctx, &images[i], info.image_size, info.image_size, 3, 8));
    if (d->vae) return decode_latents(ctx, d->vae, c, count, state, images);
    for (int i = 0; i < count; i++)
        fv_image_from_float(&images[i], -1.0f, 1.0f, state + (size_t)i * n);
    return FV_OK;
}

fv_status fv_generate(fv_ctx *ctx, const fv_dit *d, const fv_generate_options *opts,
                      fv_image *images, fv_generate_stats *stats)
{
    const double start = fv_now();
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    fv_generate_stats st = { 0 };
    if (!d || !opts || !images)
        return fv_fail(ctx, FV_ERR_ARG, "generate: model, options or pictures missing");
    FV_TRY(FV_TAKE_OPTIONS(ctx, &o, opts, "generate"));
    FV_TRY(dit_check_count(ctx, &o));
    memset(images, 0, (size_t)o.count * sizeof *images);
    const dit_config *c = &d->net.cfg;
    if (c->family == DIT_OFFICIAL && !d->vae)
        return fv_fail(ctx, FV_ERR_MODEL,
                       "this latent model has no decoder: give one (--decoder FILE)");
    const memory_mark before = mark_memory(ctx, d);
    const size_t n = (size_t)c->input_size * (size_t)c->input_size * (size_t)c->channels;
    float *state = fv_calloc(ctx, (size_t)o.count * n, sizeof(float));
    if (!state) return FV_ERR_OOM;
    fv_status s = dit_generate_net(ctx, &d->net, d->precision, &o, NULL, state, &st);
    const double decode = fv_now();
    if (s == FV_OK) s = decode_all(ctx, d, o.count, state, images);
    fv_free(ctx, state);
    st.seconds = fv_now() - start;
    st.decode_seconds = fv_now() - decode;
    const uint64_t pixels = (uint64_t)images->width * (uint64_t)images->height * 3;
    report_memory(ctx, d, before, (uint64_t)o.count * (n * sizeof(float) + pixels), &st);
    if (s != FV_OK)
        for (int i = 0; i < o.count; i++) fv_image_free(ctx, &images[i]);
    if (stats) *stats = st;
    return s;
}

/* ---- Training sheet -------------------------------------------------------------------------- */

/* vae NULL: states are pictures. */
static fv_status sheet_pictures(fv_ctx *ctx, const dit_config *c, fv_vae *vae, int count,
                                const float *state, fv_image *img)
{
    const size_t n = (size_t)c->input_size * (size_t)c->input_size * (size_t)c->channels;
    int side = c->input_size;
    if (vae) {
        fv_vae_info info;
        fv_vae_get_info(vae, &info);
        side *= info.factor;
    }
    for (int i = 0; i < count; i++) FV_TRY(fv_image_create(ctx, &img[i], side, side, 3, 8));
    if (vae) return decode_latents(ctx, vae, c, count, state, img);
    for (int i = 0; i < count; i++)
        fv_image_from_float(&img[i], -1.0f, 1.0f, state + (size_t)i * n);
    return FV_OK;
}

fv_status dit_sample_sheet(fv_ctx *ctx, const dit_net *net, fv_vae *vae, fv_dtype precision,
                           int columns, uint64_t seed, const char *path_stem)
{
    const dit_config *c = &net->cfg;
    const int shown = vae && c->classes > FV_DIT_SHEET_CLASSES ? FV_DIT_SHEET_CLASSES : c->classes;
    const int count = columns * shown;
    const size_t n = (size_t)c->input_size * (size_t)c->input_size * (size_t)c->channels;
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    if (c->family != DIT_F && !vae) return FV_OK; /* latents that nothing decodes */
    int *classes = fv_calloc(ctx, (size_t)count, sizeof *classes);
    float *state = fv_calloc(ctx, (size_t)count * n, sizeof(float));
    fv_image *img = fv_calloc(ctx, (size_t)count, sizeof *img);
    fv_status s = classes && state && img ? FV_OK : FV_ERR_OOM;
    for (int i = 0; i < count && s == FV_OK; i++)
        classes[i] = (int)((int64_t)(i / columns) * c->classes / shown);
    o.count = count;
    o.classes = classes;
    o.seed = seed;
    if (s == FV_OK) s = dit_generate_net(ctx, net, precision, &o, NULL, state, NULL);
    if (s == FV_OK) s = sheet_pictures(ctx, c, vae, count, state, img);
    if (s == FV_OK) s = fv_trainer_sheet(ctx, img, count, columns, 2, path_stem);
    for (int i = 0; img && i < count; i++) fv_image_free(ctx, &img[i]);
    fv_free(ctx, img);
    fv_free(ctx, state);
    fv_free(ctx, classes);
    return s;
}
