/* sens.c - offline sensitivity tables: what reusing a module's output costs [SODA, "OFS"].
 *
 * The exact sampler runs on `draws` (noise, class) samples. For every module (l, m) a band of Gram
 * values is kept,
 *     G(e, n) = mean over draws of <F_e, F_(e-n)> / size,   n = 0..window,
 * F being the un-gated module output over all rows and tokens. From it follow, without another run,
 *     the paper's error   1 - G(e,n) / sqrt(G(e,0) G(e-n,0))
 *     the squared error   G(e,0) - 2 G(e,n) + G(e-n,0)
 * and later that of any linear forecast. Sums are in double. A ring of window+1 past outputs is
 * enough; if it would need more than RING_BYTES, a random subset of the tokens stands for all.
 *
 * Feature errors do not say how much a step matters for the picture, so terminal weights are
 * measured: for evaluation e and age n in {1, 2, 4}, e alone reuses age n in all modules, the rest
 * is exact, and
 *     omega_e = median over n of  MSE(final picture) / sum over (l,m) of gate^2 * squared error.
 * The squared gate is ours: a module's output reaches the residual stream through it, and without
 * it modules of nearly closed gates would look as important as the others. Runs restart from the
 * stored state before e. Between measured evaluations the logarithm of omega is interpolated.
 *
 * Where the number of rows changes (guidance interval) caches of the two sides do not fit: such an
 * evaluation knows no age, and planning makes it an anchor.
 *
 * Picture k of the calibration has seed + k and class permute(seed, k mod classes). */
#include "soda.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_DRAWS 16
#define DEFAULT_WINDOW 10
#define DEFAULT_WEIGHT_DRAWS 4
#define MAX_DRAWS 100000
#define RING_BYTES ((size_t)512 << 20)
#define MAX_BATCH 4
#define WEIGHT_SLOTS 5 /* ages up to 4 and the present */

static const int weight_age[] = { 1, 2, 4 };
#define AGES ((int)FV_ARRAY_LEN(weight_age))

/* ---- The table ------------------------------------------------------------------------------ */

fv_status fvi_sens_create(fv_ctx *ctx, fv_sens **out, int evals, int depth, int window)
{
    const size_t T = (size_t)evals, K = 2 * (size_t)depth;
    fv_sens *s = fv_calloc(ctx, 1, sizeof *s);
    *out = NULL;
    if (!s) return FV_ERR_OOM;
    s->ctx = ctx;
    s->evals = evals;
    s->depth = depth;
    s->window = window;
    s->net_time = fv_calloc(ctx, T, sizeof *s->net_time);
    s->guided = fv_calloc(ctx, T, 1);
    s->gram = fv_calloc(ctx, K * T * (size_t)(window + 1), sizeof *s->gram);
    s->gate = fv_calloc(ctx, K * T, sizeof *s->gate);
    s->omega = fv_calloc(ctx, T, sizeof *s->omega);
    if (!s->net_time || !s->guided || !s->gram || !s->gate || !s->omega) {
        fv_sens_free(&s);
        return FV_ERR_OOM;
    }
    for (size_t i = 0; i < T; i++) s->omega[i] = 1.0f;
    for (size_t i = 0; i < K * T; i++) s->gate[i] = 1.0f;
    *out = s;
    return FV_OK;
}

void fv_sens_free(fv_sens **ss)
{
    if (!ss || !*ss) return;
    fv_sens *s = *ss;
    *ss = NULL;
    void *mem[] = { s->net_time, s->guided, s->gram, s->gate, s->omega };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(s->ctx, mem[i]);
    fv_free(s->ctx, s);
}

bool fvi_sens_known(const fv_sens *s, int e, int n)
{
    if (n < 1 || n > s->window || e - n < 0) return false;
    for (int i = e - n; i < e; i++)
        if (s->guided[i] != s->guided[e]) return false;
    return true;
}

static double gram(const fv_sens *s, int k, int e, int n)
{
    return s
        ->gram[((size_t)k * (size_t)s->evals + (size_t)e) * (size_t)(s->window + 1) + (size_t)n];
}

double fvi_sens_distance(const fv_sens *s, int k, int e, int n)
{
    const double d = gram(s, k, e, 0) - 2.0 * gram(s, k, e, n) + gram(s, k, e - n, 0);
    return d > 0 ? d : 0;
}

static double gated(const fv_sens *s, int k, int e, int n)
{
    return s->gate[(size_t)k * (size_t)s->evals + (size_t)e] * fvi_sens_distance(s, k, e, n);
}

double fvi_sens_error(const fv_sens *s, int k, int e, int n)
{
    const double self = gram(s, k, e, 0);
    if (s->measured) return s->omega[e] * gated(s, k, e, n);
    return self > 0 ? s->omega[e] * fvi_sens_distance(s, k, e, n) / self : 0;
}

double fvi_sens_cosine(const fv_sens *s, int k, int e, int n)
{
    const double norm = sqrt(gram(s, k, e, 0) * gram(s, k, e - n, 0));
    const double c = 1.0 - gram(s, k, e, n) / (norm + 1e-8);
    return c > 0 ? c : 0;
}

/* ---- Calibration: common -------------------------------------------------------------------- */

typedef struct calibration {
    fv_ctx *ctx;
    const fv_dit *dit;
    fv_sens *sens;
    const dit_schedule *schedule;
    dit_walk walk;
    uint8_t *ring;
    int modules, tokens, kept; /* tokens of a row; of these in the ring */
    int *token;                /* [kept] ascending */
    double *gram, *gate;       /* as in the table */
    double start, done, total; /* picture-evaluations */
} calibration;

static fv_status progress(calibration *c, double pictures)
{
    char text[48] = "";
    c->done += pictures;
    const double spent = fv_now() - c->start, left = spent / c->done * (c->total - c->done);
    if (left >= 90)
        snprintf(text, sizeof text, "about %.0f min left", left / 60);
    else if (spent > 1)
        snprintf(text, sizeof text, "about %.0f s left", left);
    return fv_report(c->ctx, "calibrating", (uint64_t)c->done, (uint64_t)c->total,
                     text[0] ? text : NULL);
}

/* The largest batch that divides `draws` and needs at most RING_BYTES for `slots` sets of outputs;
 * 1 if none does. */
static int batch_for(const calibration *c, int draws, size_t slots, size_t value_bytes)
{
    const dit_config *cfg = &c->dit->net.cfg;
    const size_t row = (size_t)c->tokens * (size_t)cfg->width * value_bytes;
    int best = 1;
    for (int b = 2; b <= MAX_BATCH; b++)
        if (draws % b == 0 && row * 2 * (size_t)b * (size_t)c->modules <= RING_BYTES / slots)
            best = b;
    return best;
}

static fv_status open_walk(calibration *c, int B)
{
    const dit_runner_options ro = { .B = B, .keep_outputs = true };
    dit_walk_destroy(&c->walk);
    return dit_walk_create(c->ctx, &c->walk, &c->dit->net, c->dit->precision, c->schedule, &ro);
}

static fv_status start_walk(calibration *c, int draw)
{
    const uint64_t classes = (uint64_t)c->dit->net.cfg.classes;
    for (int i = 0; i < c->walk.B; i++)
        c->walk.labels[i] =
            (int32_t)fv_rand_permute(c->sens->seed, 0, classes, (uint64_t)(draw + i) % classes);
    return dit_walk_start(&c->walk, c->sens->seed + (uint64_t)draw, NULL);
}

static int rows_at(const calibration *c, int e)
{
    return c->walk.B * (c->sens->guided[e] ? 2 : 1);
}

/* ---- Gram band ------------------------------------------------------------------------------ */

/* Eight partial sums: fixed order, and the compiler may keep them in vectors. */
static double dot(const float *a, const float *b, size_t n)
{
    double s[8] = { 0 };
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t j = 0; j < 8; j++) s[j] += (double)a[i + j] * (double)b[i + j];
    for (; i < n; i++) s[0] += (double)a[i] * (double)b[i];
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

/* Kept tokens of every row, as f32. */
static void copy_feature(const calibration *c, int k, int rows, float *to)
{
    const size_t D = (size_t)c->dit->net.cfg.width;
    fv_dtype type;
    const uint8_t *from = dit_runner_feature(c->walk.runner, k / 2, k % 2, &type);
    for (int row = 0; row < rows; row++)
        for (int i = 0; i < c->kept; i++, to += D) {
            const size_t at = ((size_t)row * (size_t)c->tokens + (size_t)c->token[i]) * D;
            if (type == FV_F32) {
                memcpy(to, (const float *)(const void *)from + at, D * sizeof(float));
                continue;
            }
            const uint16_t *h = (const uint16_t *)(const void *)from + at;
            for (size_t j = 0; j < D; j++) to[j] = fv_bf16_to_f32(h[j]);
        }
}

static float *ring_slot(const calibration *c, int e, int k)
{
    const size_t slot = 2 * (size_t)c->walk.B * (size_t)c->kept * (size_t)c->dit->net.cfg.width;
    const size_t at = (size_t)(e % (c->sens->window + 1)) * (size_t)c->modules + (size_t)k;
    return (float *)(void *)c->ring + at * slot;
}

/* Modules are independent: the same sums for any thread count. */
static void accumulate(const calibration *c, int e)
{
    const fv_sens *s = c->sens;
    const int rows = rows_at(c, e);
    const size_t n = (size_t)rows * (size_t)c->kept * (size_t)c->dit->net.cfg.width;
    const double scale = (double)c->walk.B / ((double)n * s->draws);
#pragma omp parallel for schedule(static) num_threads(fv_ctx_threads(c->ctx))
    for (int k = 0; k < c->modules; k++) {
        double *g = c->gram + ((size_t)k * (size_t)s->evals + (size_t)e) * (size_t)(s->window + 1);
        float *now = ring_slot(c, e, k);
        copy_feature(c, k, rows, now);
        g[0] += scale * dot(now, now, n);
        for (int age = 1; age <= s->window && fvi_sens_known(s, e, age); age++)
            g[age] += scale * dot(now, ring_slot(c, e - age, k), n);
        c->gate[(size_t)k * (size_t)s->evals + (size_t)e] +=
            dit_runner_gate(c->walk.runner, k / 2, k % 2, rows) * c->walk.B / s->draws;
    }
}

static int ascending(const void *a, const void *b)
{
    const int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

/* The ring, with as many tokens as fit. Without sampling all tokens are taken in order. */
static fv_status make_ring(calibration *c, int B)
{
    const size_t D = (size_t)c->dit->net.cfg.width;
    const size_t token =
        (size_t)(c->sens->window + 1) * (size_t)c->modules * 2 * (size_t)B * D * sizeof(float);
    size_t fit = RING_BYTES / token;
    if (fit < 16) fit = 16;
    c->kept = fit < (size_t)c->tokens ? (int)fit : c->tokens;
    c->token = fv_calloc(c->ctx, (size_t)c->kept, sizeof *c->token);
    c->ring = fv_alloc(c->ctx, token * (size_t)c->kept);
    if (!c->token || !c->ring) return FV_ERR_OOM;
    for (int i = 0; i < c->kept; i++)
        c->token[i] = c->kept == c->tokens ? i
                                           : (int)fv_rand_permute(c->sens->seed, 1,
                                                                  (uint64_t)c->tokens, (uint64_t)i);
    qsort(c->token, (size_t)c->kept, sizeof *c->token, ascending);
    return FV_OK;
}

static fv_status measure_gram(calibration *c)
{
    fv_sens *s = c->sens;
    const size_t n = (size_t)c->modules * (size_t)s->evals, W = (size_t)s->window + 1;
    const int B = batch_for(c, s->draws, W, sizeof(float));
    FV_TRY(open_walk(c, B));
    FV_TRY(make_ring(c, B));
    for (int draw = 0; draw < s->draws; draw += B) {
        FV_TRY(start_walk(c, draw));
        for (int e = 0; e < s->evals; e++) {
            FV_TRY(dit_walk_advance(&c->walk, e, NULL));
            accumulate(c, e);
            FV_TRY(progress(c, B));
        }
    }
    for (size_t i = 0; i < n * W; i++) s->gram[i] = (float)c->gram[i];
    for (size_t i = 0; i < n; i++) s->gate[i] = (float)c->gate[i];
    fv_free(c->ctx, c->ring);
    c->ring = NULL;
    for (size_t i = 0; i < n * W; i++)
        if (!isfinite(s->gram[i]))
            return fv_fail(
                c->ctx, FV_ERR_NUMERIC,
                "calibrating: a module's output is not finite: the model may be damaged");
    return FV_OK;
}

/* ---- Terminal weights ----------------------------------------------------------------------- */

typedef struct weighing {
    calibration *c;
    int every;
    float *final, *x, *work, *x0, *work0; /* exact end; exact state now; the state before e */
    uint8_t *reuse;                       /* one row of REUSE actions */
    double *damage; /* [evals][AGES] mean squared error of the final picture */
} weighing;

static bool weighs(const weighing *w, int e)
{
    return e % w->every == 0 || e == w->c->sens->evals - 1;
}

static uint8_t *weight_slot(const calibration *c, int e, int k)
{
    const size_t slot = dit_runner_feature_bytes(c->walk.runner, 2 * c->walk.B);
    return c->ring + ((size_t)(e % WEIGHT_SLOTS) * (size_t)c->modules + (size_t)k) * slot;
}

static void put_state(dit_walk *w, const float *x, const float *work)
{
    const size_t n = (size_t)w->B * (size_t)w->n * sizeof(float);
    memcpy(w->x, x, n);
    memcpy(w->work, work, 2 * n);
}

static void get_state(const dit_walk *w, float *x, float *work)
{
    const size_t n = (size_t)w->B * (size_t)w->n * sizeof(float);
    memcpy(x, w->x, n);
    memcpy(work, w->work, 2 * n);
}

/* From the state before e: reuse `age` everywhere at e, exact from there; adds the damage. */
static fv_status branch(weighing *w, int e, int which)
{
    calibration *c = w->c;
    const int rows = rows_at(c, e);
    const size_t n = (size_t)c->walk.B * (size_t)c->walk.n;
    const dit_row row = { .action = w->reuse };
    double sum = 0;
    put_state(&c->walk, w->x0, w->work0);
    for (int k = 0; k < c->modules; k++)
        FV_TRY(dit_runner_set_feature(c->walk.runner, k / 2, k % 2,
                                      weight_slot(c, e - weight_age[which], k), rows));
    for (int i = e; i < c->sens->evals; i++) {
        FV_TRY(dit_walk_advance(&c->walk, i, i == e ? &row : NULL));
        FV_TRY(progress(c, c->walk.B));
    }
    for (size_t i = 0; i < n; i++) {
        const double d = (double)c->walk.x[i] - w->final[i];
        sum += d * d;
    }
    w->damage[e * AGES + which] += sum / (double)n;
    return FV_OK;
}

static fv_status weigh_step(weighing *w, int e)
{
    calibration *c = w->c;
    const size_t bytes = dit_runner_feature_bytes(c->walk.runner, rows_at(c, e));
    fv_dtype type;
    put_state(&c->walk, w->x, w->work);
    memcpy(w->x0, w->x, (size_t)c->walk.B * (size_t)c->walk.n * sizeof(float));
    memcpy(w->work0, w->work, 2 * (size_t)c->walk.B * (size_t)c->walk.n * sizeof(float));
    FV_TRY(dit_walk_advance(&c->walk, e, NULL));
    FV_TRY(progress(c, c->walk.B));
    get_state(&c->walk, w->x, w->work);
    for (int k = 0; k < c->modules; k++)
        memcpy(weight_slot(c, e, k), dit_runner_feature(c->walk.runner, k / 2, k % 2, &type),
               bytes);
    if (!weighs(w, e)) return FV_OK;
    for (int i = 0; i < AGES; i++)
        if (fvi_sens_known(c->sens, e, weight_age[i])) FV_TRY(branch(w, e, i));
    return FV_OK;
}

/* 0 where nothing could be measured. */
static double weight_of(const weighing *w, int e)
{
    const fv_sens *s = w->c->sens;
    double ratio[AGES];
    int n = 0;
    for (int i = 0; weighs(w, e) && i < AGES; i++) {
        double error = 0;
        if (!fvi_sens_known(s, e, weight_age[i])) continue;
        for (int k = 0; k < w->c->modules; k++) error += gated(s, k, e, weight_age[i]);
        const double damage = w->damage[e * AGES + i];
        if (error > 0 && damage > 0 && isfinite(damage)) ratio[n++] = fmin(damage / error, 1e30);
    }
    return n ? fvi_median(ratio, n) : 0;
}

/* Logarithmic interpolation between measured neighbours; constant beyond the outermost. */
static void interpolate(fv_sens *s, const double *v)
{
    int before = -1;
    for (int e = 0; e < s->evals; e++) {
        int after = e;
        if (v[e] > 0) before = e;
        while (after < s->evals && !(v[after] > 0)) after++;
        if (before < 0 && after == s->evals) return; /* nothing was measured: uniform */
        s->measured = true;
        if (before < 0)
            s->omega[e] = (float)v[after];
        else if (after == s->evals || after == before)
            s->omega[e] = (float)v[before];
        else
            s->omega[e] = (float)exp(log(v[before]) + (log(v[after]) - log(v[before])) *
                                                          (e - before) / (after - before));
    }
}

static fv_status weigh_draws(weighing *w, int draws)
{
    calibration *c = w->c;
    const int T = c->sens->evals, B = c->walk.B;
    for (int draw = 0; draw < draws; draw += B) {
        FV_TRY(start_walk(c, draw));
        get_state(&c->walk, w->x, w->work);
        for (int e = 0; e < T; e++) {
            FV_TRY(dit_walk_advance(&c->walk, e, NULL));
            FV_TRY(progress(c, B));
        }
        memcpy(w->final, c->walk.x, (size_t)B * (size_t)c->walk.n * sizeof(float));
        for (int e = 0; e < T; e++) FV_TRY(weigh_step(w, e));
    }
    return FV_OK;
}

static fv_status weigh_all(weighing *w, int draws)
{
    calibration *c = w->c;
    const int T = c->sens->evals;
    const size_t value = c->dit->precision == FV_BF16 ? 2 : 4;
    const int B = batch_for(c, draws, WEIGHT_SLOTS, value);
    FV_TRY(open_walk(c, B));
    const size_t n = (size_t)B * (size_t)c->walk.n;
    c->ring = fv_alloc(c->ctx, WEIGHT_SLOTS * (size_t)c->modules *
                                   dit_runner_feature_bytes(c->walk.runner, 2 * B));
    w->final = fv_calloc(c->ctx, n, sizeof(float));
    w->x = fv_calloc(c->ctx, n, sizeof(float));
    w->x0 = fv_calloc(c->ctx, n, sizeof(float));
    w->work = fv_calloc(c->ctx, 2 * n, sizeof(float));
    w->work0 = fv_calloc(c->ctx, 2 * n, sizeof(float));
    w->reuse = fv_calloc(c->ctx, (size_t)c->modules, 1);
    w->damage = fv_calloc(c->ctx, (size_t)(T * AGES), sizeof(double));
    double *value_of = fv_calloc(c->ctx, (size_t)T, sizeof(double));
    fv_status s = c->ring && w->final && w->x && w->x0 && w->work && w->work0 && w->reuse &&
                          w->damage && value_of
                      ? FV_OK
                      : FV_ERR_OOM;
    if (s == FV_OK) {
        memset(w->reuse, DIT_REUSE, (size_t)c->modules);
        s = weigh_draws(w, draws);
    }
    for (int e = 0; e < T && s == FV_OK; e++) value_of[e] = weight_of(w, e);
    if (s == FV_OK) interpolate(c->sens, value_of);
    void *mem[] = { w->final, w->x, w->x0, w->work, w->work0, w->reuse, w->damage, value_of };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(c->ctx, mem[i]);
    return s;
}

/* ---- Calibration: entry --------------------------------------------------------------------- */

static double weight_cost(const weighing *w, int draws)
{
    const fv_sens *s = w->c->sens;
    double evals = 2.0 * s->evals;
    for (int e = 0; e < s->evals; e++)
        for (int i = 0; weighs(w, e) && i < AGES; i++)
            if (fvi_sens_known(s, e, weight_age[i])) evals += s->evals - e;
    return evals * draws;
}

static fv_status describe(fv_ctx *ctx, fv_sens **out, const fv_dit *d, const dit_schedule *sc,
                          const fv_calibrate_options *o, int window)
{
    FV_TRY(fvi_sens_create(ctx, out, sc->evals, d->net.cfg.depth, window));
    fv_sens *s = *out;
    snprintf(s->arch, sizeof s->arch, "%s", d->net.cfg.name);
    memcpy(s->hash, d->hash, sizeof s->hash);
    s->sampler = sc->kind;
    s->steps = sc->steps;
    s->cfg = sc->cfg;
    s->cfg_channels = sc->cfg_channels;
    s->eta = sc->eta;
    s->seed = o->seed;
    s->precision = d->precision;
    s->draws = o->draws ? o->draws : DEFAULT_DRAWS;
    for (int e = 0; e < sc->evals; e++) {
        s->net_time[e] = sc->net_time[e];
        s->guided[e] = dit_schedule_guided(sc, e) != 0;
    }
    memset(s->gate, 0, 2 * (size_t)s->depth * (size_t)s->evals * sizeof *s->gate);
    return FV_OK;
}

static fv_status run_calibration(calibration *c, weighing *w, int weight_draws)
{
    const size_t n = (size_t)c->modules * (size_t)c->sens->evals;
    c->gram = fv_calloc(c->ctx, n * (size_t)(c->sens->window + 1), sizeof(double));
    c->gate = fv_calloc(c->ctx, n, sizeof(double));
    if (!c->gram || !c->gate) return FV_ERR_OOM;
    c->start = fv_now();
    c->total = (double)c->sens->draws * c->sens->evals +
               (weight_draws > 0 ? weight_cost(w, weight_draws) : 0);
    FV_TRY(measure_gram(c));
    return weight_draws > 0 ? weigh_all(w, weight_draws) : FV_OK;
}

static fv_status check_options(fv_ctx *ctx, const fv_calibrate_options *o, const dit_schedule *sc)
{
    if (sc->evals > FVI_SENS_MAX_EVALS)
        return fv_fail(ctx, FV_ERR_ARG, "calibrating: %d evaluations, at most %d are supported",
                       sc->evals, FVI_SENS_MAX_EVALS);
    if (o->draws < 0 || o->draws > MAX_DRAWS || o->weight_draws < -1 || o->weight_draws > MAX_DRAWS)
        return fv_fail(
            ctx, FV_ERR_ARG,
            "calibrating: %d draws and %d weight draws: use 1 to %d (weights also -1 for none)",
            o->draws, o->weight_draws, MAX_DRAWS);
    if (o->window < 0 || o->window > FVI_SENS_MAX_WINDOW)
        return fv_fail(ctx, FV_ERR_ARG, "calibrating: window %d: use 1 to %d", o->window,
                       FVI_SENS_MAX_WINDOW);
    if (o->weight_every < 0)
        return fv_fail(ctx, FV_ERR_ARG, "calibrating: weight_every %d: use 1 or more",
                       o->weight_every);
    return FV_OK;
}

fv_status fv_sens_calibrate(fv_ctx *ctx, fv_sens **out, const fv_dit *d,
                            const fv_calibrate_options *opts)
{
    fv_calibrate_options all = FV_CALIBRATE_OPTIONS_INIT, *o = &all;
    fv_generate_options gen = FV_GENERATE_OPTIONS_INIT;
    dit_schedule sc;
    calibration c = { .ctx = ctx, .dit = d, .schedule = &sc };
    weighing w = { .c = &c };
    *out = NULL;
    if (!d || !opts) return fv_fail(ctx, FV_ERR_ARG, "calibrating: model or options missing");
    FV_TRY(FV_TAKE_OPTIONS(ctx, o, opts, "calibrating"));
    FV_TRY(FV_TAKE_OPTIONS(ctx, &gen, o->gen, "calibrating"));
    FV_TRY(dit_schedule_create(ctx, &sc, &d->net.cfg, &gen));
    fv_status s = check_options(ctx, o, &sc);
    int window = o->window ? o->window : DEFAULT_WINDOW;
    if (window >= sc.evals) window = sc.evals > 1 ? sc.evals - 1 : 1;
    if (s == FV_OK) s = describe(ctx, &c.sens, d, &sc, o, window);
    w.every = o->weight_every ? o->weight_every : 1;
    c.modules = 2 * d->net.cfg.depth;
    c.tokens = dit_tokens(&d->net.cfg);
    if (s == FV_OK)
        s = run_calibration(&c, &w, o->weight_draws ? o->weight_draws : DEFAULT_WEIGHT_DRAWS);
    dit_walk_destroy(&c.walk);
    void *mem[] = { c.ring, c.token, c.gram, c.gate };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(ctx, mem[i]);
    dit_schedule_destroy(ctx, &sc);
    if (s == FV_OK)
        *out = c.sens;
    else
        fv_sens_free(&c.sens);
    return s;
}
