/* accel_policy.c - accelerations that decide while sampling.
 *
 * TeaCache [arXiv 2411.19108]: the first block's modulated input h says how far the network has
 * moved. Its relative L1 changes
 *     d_e = |h_e - h_(e-1)| / |h_(e-1)|
 * are added up; while the sum is below the threshold the network is skipped and what it last added
 * to its embedded input is added again. Otherwise, and at the first and last evaluation, it is
 * computed and the sum starts anew. The published method bends d_e by a polynomial of degree 4 that
 * is fitted per model; the sensitivity tables hold nothing to fit it to, so it is the identity here
 * and the threshold takes up the scale. The decision is the batch's, from sums over all rows. */
#include "accel_methods.h"

#include <math.h>
#include <string.h>

typedef struct teacache {
    fv_ctx *ctx;
    dit_policy policy;
    double threshold, sum;
    int evals, rows; /* rows: of `before`, 0 = none */
    size_t row;      /* values */
    size_t capacity; /* values of `before` */
    float *before;
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
    fv_free(t->ctx, t->before);
    t->before = fv_calloc(t->ctx, n, sizeof *t->before);
    t->capacity = t->before ? n : 0;
    return t->before ? FV_OK : FV_ERR_OOM;
}

/* In one order, whatever the number of threads. */
static double relative_change(const float *now, const float *before, size_t n)
{
    double change = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        change += fabs((double)now[i] - before[i]);
        size += fabs((double)before[i]);
    }
    return size > 0 ? change / size : INFINITY;
}

static fv_status teacache_decide(void *user, dit_runner *r, int e, const float *x, dit_row *row)
{
    teacache *t = user;
    const float *now;
    int rows;
    FV_TRY(dit_runner_probe(r, e, x, &now, &rows));
    const size_t n = (size_t)rows * t->row;
    const bool can_skip = t->rows == rows && e + 1 < t->evals;
    if (can_skip) t->sum += relative_change(now, t->before, n);
    const bool is_full = !can_skip || !(t->sum < t->threshold);
    if (is_full) t->sum = 0;
    else row->skip_weight = t->weight;
    memcpy(t->before, now, n * sizeof *now);
    t->rows = rows;
    return FV_OK;
}

static void teacache_destroy(void *user)
{
    teacache *t = user;
    fv_free(t->ctx, t->before);
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
