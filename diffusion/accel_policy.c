/* accel_policy.c - accelerations that decide while sampling.
 *
 * TeaCache [arXiv 2411.19108]: the first block's modulated input h says how far the network has
 * moved. Its relative L1 changes
 *     d_e = |h_e - h_(e-1)| / |h_(e-1)|
 * are added up; while the sum is below the threshold the network is skipped and what it last added
 * to its embedded input is added again. Otherwise, and at the first and last evaluation, it is
 * computed and the sum starts anew. The published method bends d_e by a polynomial of degree 4 that
 * is fitted per model; the sensitivity tables hold nothing to fit it to, so it is the identity here
 * and the threshold takes up the scale.
 *
 * RFC, from its description: of the same h (the input I) and of what the blocks add to the
 * embedding (the output O), those of the last full evaluations k, k-1, ... are kept. The direction
 * in which O goes on is TaylorSeer's forecast; how far, the input tells:
 *     |O_e - O_k|  is taken as  |I_e - I_k| |O_k - O_(k-1)| / |I_k - I_(k-1)|
 * (at most MOST_STRETCH times Taylor's own). The relative error of the same forecast of I is added
 * up, and at the threshold the network is computed.
 *
 * SpeCa [arXiv 2509.11628], as released: all modules are drafted by TaylorSeer's series, and the
 * last block is then computed on the input that it has in the draft. Of the residual stream after
 * it, h computed and h' drafted,
 *     |h' - h| / |h|  >  max(threshold decay^progress, 0.01)
 * makes the next evaluation a full one, progress going from 0 to 1; the draft itself stays. A full
 * evaluation is followed by one draft at least and `max` at most, of which the first `min` are not
 * checked; a stretch of equal rows begins full, drafted, full. A check that cannot change what
 * follows (a full evaluation comes anyway, or the end) is left out.
 *
 * Decisions are the batch's, from sums over all rows. On a device features stay there, and the host
 * decides from their sums. */
#include "accel_methods.h"
#include "sampling_device.h"

#include <math.h>
#include <string.h>

#define RFC_KEPT 3 /* order 2 */
#define MOST_STRETCH 4.0

/* ---- Sums ------------------------------------------------------------------------------------ */

#define CHUNKS 64

/* Over all threads, as the network is; in one order, whatever their number. */
static double sum_of(fv_ctx *ctx, size_t n, double (*value)(const void *user, size_t i),
                     const void *user)
{
    double part[CHUNKS], sum = 0;
#pragma omp parallel for schedule(static) num_threads(fv_ctx_threads(ctx))
    for (int k = 0; k < CHUNKS; k++) {
        double s = 0;
        for (size_t i = n * (size_t)k / CHUNKS; i < n * ((size_t)k + 1) / CHUNKS; i++)
            s += value(user, i);
        part[k] = s;
    }
    for (int k = 0; k < CHUNKS; k++) sum += part[k];
    return sum;
}

/* For features of 2 B rows where they are on a device; NULL elsewhere. */
static fv_status need_meter(fv_ctx *ctx, fvi_meter **m, int B)
{
    fvi_meter_destroy(m);
    return fv_ctx_device(ctx) == FV_DEVICE_CPU ? FV_OK : fvi_meter_create(ctx, m, 2 * B);
}

static fv_status copy_features(fv_ctx *ctx, float *to, const float *from, size_t n)
{
    return fv_dev_copy(ctx, to, from, n * sizeof *to, FV_COPY_ON_DEVICE);
}

/* Of one policy: where its features are summed, and their rows. */
typedef struct ruler {
    fv_ctx *ctx;
    fvi_meter *meter;
    int rows;
    size_t row;
} ruler;

/* ---- TeaCache ------------------------------------------------------------------------------- */

typedef struct teacache {
    fv_ctx *ctx;
    dit_policy policy;
    double threshold, sum;
    int evals, rows; /* rows: of `before`, 0 = none */
    size_t row;      /* values */
    size_t capacity; /* values of `before` */
    float *before;
    fvi_meter *meter;
    float weight[DIT_HISTORY];
} teacache;

static fv_status teacache_start(void *user, const dit_runner *r, int B)
{
    teacache *t = user;
    const size_t n = 2 * (size_t)B * t->row;
    (void)r;
    t->rows = 0;
    t->sum = 0;
    if (n <= t->capacity) return FV_OK;
    fv_dev_free(t->ctx, t->before);
    t->before = fv_dev_alloc(t->ctx, n, sizeof *t->before);
    t->capacity = t->before ? n : 0;
    return t->before ? need_meter(t->ctx, &t->meter, B) : FV_ERR_OOM;
}

static double change_of(const void *user, size_t i)
{
    const float *const *v = user;
    return fabs((double)v[0][i] - v[1][i]);
}

static double size_of(const void *user, size_t i)
{
    const float *const *v = user;
    return fabs((double)v[1][i]);
}

static fv_status relative_change(const ruler *r, const float *now, const float *before, double *out)
{
    static const double difference[2] = { 1, -1 };
    const float *const v[2] = { now, before };
    const size_t n = (size_t)r->rows * r->row;
    double change, size;
    if (r->meter) {
        FV_TRY(fvi_meter_total(r->meter, v, difference, 2, r->rows, r->row, NULL, &change));
        FV_TRY(fvi_meter_total(r->meter, v + 1, difference, 1, r->rows, r->row, NULL, &size));
    } else {
        change = sum_of(r->ctx, n, change_of, v);
        size = sum_of(r->ctx, n, size_of, v);
    }
    *out = size > 0 ? change / size : INFINITY;
    return FV_OK;
}

static fv_status teacache_decide(void *user, dit_runner *r, int e, const float *x, dit_row *row)
{
    teacache *t = user;
    const float *now;
    int rows;
    FV_TRY(dit_runner_probe(r, e, x, &now, &rows));
    const size_t n = (size_t)rows * t->row;
    const bool can_skip = t->rows == rows && e + 1 < t->evals;
    const ruler as = { t->ctx, t->meter, rows, t->row };
    double moved = 0;
    if (can_skip) FV_TRY(relative_change(&as, now, t->before, &moved));
    t->sum += moved;
    const bool is_full = !can_skip || !(t->sum < t->threshold);
    if (is_full) t->sum = 0;
    else row->skip_weight = t->weight;
    t->rows = rows;
    return copy_features(t->ctx, t->before, now, n);
}

static void teacache_destroy(void *user)
{
    teacache *t = user;
    fvi_meter_destroy(&t->meter);
    fv_dev_free(t->ctx, t->before);
    fv_free(t->ctx, t);
}

fv_status fvi_make_teacache(fvi_method *m)
{
    const dit_config *c = &m->d->net.cfg;
    teacache *t = fv_calloc(m->ctx, 1, sizeof *t);
    if (!t) return FV_ERR_OOM;
    t->ctx = m->ctx;
    t->threshold = fvi_method_value(m, "threshold");
    t->evals = m->T;
    t->row = (size_t)dit_tokens(c) * (size_t)c->width;
    t->weight[0] = 1.0f;
    t->policy = (dit_policy){ .start = teacache_start, .decide = teacache_decide,
                              .destroy = teacache_destroy, .user = t };
    fvi_accel_count(m->plan);
    m->plan->policy = &t->policy;
    m->plan->skip = DIT_SKIP_RESIDUAL;
    m->plan->step_history = 1;
    return FV_OK;
}

/* ---- RFC ------------------------------------------------------------------------------------ */

typedef struct rfc {
    fv_ctx *ctx;
    dit_policy policy;
    double threshold, sum;
    int order, evals;
    int rows, count, at[RFC_KEPT]; /* of the full evaluations kept, newest first */
    bool is_full;                  /* the evaluation that was decided last */
    size_t row, capacity;          /* values */
    float *input[RFC_KEPT], *output[RFC_KEPT], *now;
    fvi_meter *meter;
    float weight[DIT_HISTORY];
} rfc;

static void rfc_free_buffers(rfc *t)
{
    for (int i = 0; i < RFC_KEPT; i++) {
        fv_dev_free(t->ctx, t->input[i]);
        fv_dev_free(t->ctx, t->output[i]);
        t->input[i] = t->output[i] = NULL;
    }
    fv_dev_free(t->ctx, t->now);
    t->now = NULL;
    t->capacity = 0;
}

static fv_status rfc_start(void *user, const dit_runner *r, int B)
{
    rfc *t = user;
    const size_t n = 2 * (size_t)B * t->row;
    (void)r;
    t->rows = t->count = 0;
    t->sum = 0;
    if (n <= t->capacity) return FV_OK;
    rfc_free_buffers(t);
    t->now = fv_dev_alloc(t->ctx, n, sizeof(float));
    bool ok = t->now != NULL;
    for (int i = 0; i < RFC_KEPT && ok; i++) {
        t->input[i] = fv_dev_alloc(t->ctx, n, sizeof(float));
        t->output[i] = fv_dev_alloc(t->ctx, n, sizeof(float));
        ok = t->input[i] && t->output[i];
    }
    if (ok) t->capacity = n;
    return ok ? need_meter(t->ctx, &t->meter, B) : FV_ERR_OOM;
}

typedef struct combination {
    const float *base;
    float *const *v;
    const double *w;
    int count;
} combination;

static double square_of(const void *user, size_t i)
{
    const combination *c = user;
    double d = c->base ? c->base[i] : 0;
    for (int k = 0; k < c->count; k++) d += c->w[k] * c->v[k][i];
    return d * d;
}

/* |base + sum of w v|, base NULL = 0 */
static fv_status norm_of(const ruler *r, const float *base, float *const *v, const double *w,
                         int count, double *out)
{
    const combination c = { base, v, w, count };
    const float *all[1 + RFC_KEPT];
    double weight[1 + RFC_KEPT];
    int n = 0;
    if (!r->meter) {
        *out = sqrt(sum_of(r->ctx, (size_t)r->rows * r->row, square_of, &c));
        return FV_OK;
    }
    if (base) {
        all[n] = base;
        weight[n++] = 1;
    }
    for (int k = 0; k < count; k++, n++) {
        all[n] = v[k];
        weight[n] = w[k];
    }
    FV_TRY(fvi_meter_total(r->meter, all, weight, n, r->rows, r->row, out, NULL));
    *out = sqrt(*out);
    return FV_OK;
}

/* How far the input has moved, against how far a forecast of the output moves it. */
static fv_status stretch(const rfc *t, const ruler *r, const double *w, double *out)
{
    const double back[2] = { 1, -1 }, from[1] = { -1 };
    double step[DIT_HISTORY], taylor, input, now, output;
    memcpy(step, w, sizeof step);
    step[0] -= 1;
    FV_TRY(norm_of(r, NULL, t->output, step, t->count, &taylor));
    FV_TRY(norm_of(r, NULL, t->input, back, 2, &input));
    FV_TRY(norm_of(r, t->now, t->input, from, 1, &now));
    FV_TRY(norm_of(r, NULL, t->output, back, 2, &output));
    const double want = now * output / (input > 0 ? input : INFINITY);
    *out = taylor > 0 ? fmin(want / taylor, MOST_STRETCH) : 0;
    return FV_OK;
}

static fv_status rfc_decide(void *user, dit_runner *r, int e, const float *x, dit_row *row)
{
    rfc *t = user;
    const float *now;
    int rows;
    FV_TRY(dit_runner_probe(r, e, x, &now, &rows));
    const ruler as = { t->ctx, t->meter, rows, t->row };
    FV_TRY(copy_features(t->ctx, t->now, now, (size_t)rows * t->row));
    if (rows != t->rows) t->count = 0;
    t->rows = rows;
    t->is_full = t->count < 2 || e + 1 == t->evals;
    if (!t->is_full) {
        double w[DIT_HISTORY], minus[DIT_HISTORY], size, off, s = 0;
        fvi_forecast_weights(t->at, t->count, t->order, e, FVI_BASIS_TAYLOR, 0, w);
        for (int i = 0; i < DIT_HISTORY; i++) minus[i] = -w[i];
        FV_TRY(norm_of(&as, t->now, NULL, NULL, 0, &size));
        FV_TRY(norm_of(&as, t->now, t->input, minus, t->count, &off));
        t->sum += size > 0 ? off / size : INFINITY;
        t->is_full = !(t->sum < t->threshold);
        if (!t->is_full) FV_TRY(stretch(t, &as, w, &s));
        for (int i = 0; i < DIT_HISTORY; i++)
            t->weight[i] = (float)((i == 0) + s * (w[i] - (i == 0)));
        if (!t->is_full) row->skip_weight = t->weight;
    }
    if (t->is_full) t->sum = 0;
    return FV_OK;
}

static void rotate(float **v, int n)
{
    float *last = v[n - 1];
    memmove(v + 1, v, (size_t)(n - 1) * sizeof *v);
    v[0] = last;
}

static fv_status rfc_done(void *user, dit_runner *r, int e, const float *out, int rows)
{
    rfc *t = user;
    const int kept = t->order + 1;
    const size_t n = (size_t)rows * t->row;
    const float *embedded, *hidden = dit_runner_hidden(r, &embedded);
    (void)out;
    if (!t->is_full) return FV_OK;
    rotate(t->input, kept);
    rotate(t->output, kept);
    FV_TRY(copy_features(t->ctx, t->input[0], t->now, n));
    if (t->meter) FV_TRY(fvi_dev_subtract(t->ctx, t->output[0], hidden, embedded, n));
    for (size_t i = 0; !t->meter && i < n; i++)
        t->output[0][i] = hidden[i] - (embedded ? embedded[i] : 0);
    memmove(t->at + 1, t->at, (RFC_KEPT - 1) * sizeof *t->at);
    t->at[0] = e;
    if (t->count < kept) t->count++;
    return FV_OK;
}

static void rfc_destroy(void *user)
{
    rfc *t = user;
    fvi_meter_destroy(&t->meter);
    rfc_free_buffers(t);
    fv_free(t->ctx, t);
}

fv_status fvi_make_rfc(fvi_method *m)
{
    const dit_config *c = &m->d->net.cfg;
    rfc *t = fv_calloc(m->ctx, 1, sizeof *t);
    if (!t) return FV_ERR_OOM;
    t->ctx = m->ctx;
    t->threshold = fvi_method_value(m, "threshold");
    t->order = (int)fvi_method_value(m, "order");
    t->evals = m->T;
    t->row = (size_t)dit_tokens(c) * (size_t)c->width;
    t->policy = (dit_policy){ .start = rfc_start, .decide = rfc_decide, .done = rfc_done,
                              .destroy = rfc_destroy, .user = t };
    fvi_accel_count(m->plan);
    m->plan->policy = &t->policy;
    m->plan->skip = DIT_SKIP_RESIDUAL;
    m->plan->step_history = t->order + 1;
    return FV_OK;
}

/* ---- SpeCa ----------------------------------------------------------------------------------- */

#define SPECA_LEAD 3     /* evaluations of a stretch that are drafted only after a full one */
#define SPECA_FLOOR 0.01 /* least threshold */

typedef struct speca {
    fv_ctx *ctx;
    dit_policy policy;
    double threshold, decay;
    double error;             /* of the last check since the last full evaluation; 0: none */
    int min, max, order, evals, modules;
    int first, drafted;       /* of the stretch of equal rows; since the last full evaluation */
    int count, at[DIT_HISTORY]; /* full evaluations of the stretch, newest first */
    bool is_full, is_checked; /* the evaluation that was decided last */
    size_t row;               /* values */
    uint8_t *must, *action;   /* [evals] the number of rows changes; [modules] */
    float *weight;            /* [modules][DIT_HISTORY] */
    fvi_meter *meter;
    int room;                 /* pictures that it is for */
} speca;

static fv_status speca_start(void *user, const dit_runner *r, int B)
{
    speca *t = user; /* the first evaluation forgets everything */
    (void)r;
    if (B <= t->room) return FV_OK;
    t->room = B;
    return need_meter(t->ctx, &t->meter, B);
}

static bool speca_needs_full(const speca *t, int e)
{
    const double progress = (e + 1.0) / t->evals;
    if (!t->count) return true;
    if (!t->drafted) return false;
    if (e - t->first < SPECA_LEAD || t->drafted >= t->max) return true;
    return t->error > fmax(t->threshold * pow(t->decay, progress), SPECA_FLOOR);
}

static void speca_draft(speca *t, int e, dit_row *row)
{
    double w[DIT_HISTORY];
    fvi_forecast_weights(t->at, t->count, t->order, e, FVI_BASIS_TAYLOR, 0, w);
    for (int k = 0; k < t->modules; k++)
        for (int i = 0; i < DIT_HISTORY; i++) t->weight[k * DIT_HISTORY + i] = (float)w[i];
    row->action = t->action;
    row->weight = t->weight;
    t->is_checked = t->drafted >= t->min && t->drafted + 1 < t->max && e + 1 < t->evals &&
                    e + 1 - t->first >= SPECA_LEAD && !t->must[e + 1];
    t->drafted++;
}

static fv_status speca_decide(void *user, dit_runner *r, int e, const float *x, dit_row *row)
{
    speca *t = user;
    (void)r;
    (void)x;
    if (e == 0 || t->must[e]) {
        t->first = e;
        t->count = 0;
    }
    t->is_full = speca_needs_full(t, e);
    t->is_checked = false;
    if (!t->is_full) {
        speca_draft(t, e, row);
        return FV_OK;
    }
    t->drafted = 0;
    t->error = 0;
    memmove(t->at + 1, t->at, (DIT_HISTORY - 1) * sizeof *t->at);
    t->at[0] = e;
    if (t->count < DIT_HISTORY) t->count++;
    return FV_OK;
}

static fv_status speca_done(void *user, dit_runner *r, int e, const float *out, int rows)
{
    speca *t = user;
    const float *computed;
    (void)e;
    (void)out;
    if (!t->is_checked) return FV_OK;
    FV_TRY(dit_runner_check(r, &computed, &rows));
    const ruler as = { t->ctx, t->meter, rows, t->row };
    return relative_change(&as, dit_runner_hidden(r, NULL), computed, &t->error);
}

static void speca_destroy(void *user)
{
    speca *t = user;
    fvi_meter_destroy(&t->meter);
    fv_free(t->ctx, t->must);
    fv_free(t->ctx, t->action);
    fv_free(t->ctx, t->weight);
    fv_free(t->ctx, t);
}

static fv_status speca_fill(speca *t, const fvi_method *m)
{
    const size_t K = (size_t)m->K;
    t->must = fv_calloc(m->ctx, (size_t)m->T, 1);
    t->action = fv_calloc(m->ctx, K, 1);
    t->weight = fv_calloc(m->ctx, K * DIT_HISTORY, sizeof *t->weight);
    if (!t->must || !t->action || !t->weight) return FV_ERR_OOM;
    memcpy(t->must, m->must, (size_t)m->T);
    memset(t->action, DIT_LINEAR, K);
    return FV_OK;
}

fv_status fvi_make_speca(fvi_method *m)
{
    const dit_config *c = &m->d->net.cfg;
    const int max = (int)fvi_method_value(m, "max");
    int min = (int)fvi_method_value(m, "min");
    if (min > max && !fvi_method_given(m, "min")) min = max;
    if (min > max)
        return fv_fail(m->ctx, FV_ERR_ARG, "speca: min is %d, more than max, which is %d", min,
                       max);
    speca *t = fv_calloc(m->ctx, 1, sizeof *t);
    if (!t) return FV_ERR_OOM;
    *t = (speca){ .ctx = m->ctx, .threshold = fvi_method_value(m, "threshold"),
                  .decay = fvi_method_value(m, "decay"), .min = min, .max = max,
                  .order = (int)fvi_method_value(m, "order"), .evals = m->T, .modules = m->K };
    t->row = (size_t)dit_tokens(c) * (size_t)c->width;
    t->policy = (dit_policy){ .start = speca_start, .decide = speca_decide, .done = speca_done,
                              .destroy = speca_destroy, .user = t, .no_probes = true,
                              .checks = true };
    fvi_accel_count(m->plan);
    m->plan->policy = &t->policy; /* frees t from here on */
    m->plan->history = t->order + 1;
    return speca_fill(t, m);
}
