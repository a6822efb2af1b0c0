/* accel_polish.c - improving a plan by trying: the last part of dpx.
 *
 * Predicted errors are sums over evaluations, as if they did not meet in the picture. So a plan's
 * evaluations are moved about: an anchor trades places with a neighbour that is not one, a forecast
 * with a skipped neighbour. That costs no time, so the speed-up stays what it was. After each move
 * the weights are fitted anew, some pictures of the calibration's kind are made, and the move stays
 * if their mean PSNR to the exact ones has risen. */
#include "dpx.h"

#include <math.h>
#include <string.h>

#define DRAWS 8
#define TRIALS 64
#define MAX_DRAWS 4096
#define PEAK_DB 100.0 /* of pictures that are equal */

typedef struct polisher {
    fv_ctx *ctx;
    const fv_dit *d;
    const fv_sens *sens; /* the caller's, or `prior` */
    fv_sens *prior;
    fv_generate_options o;
    fv_accel *a, *best; /* being tried; as good as known */
    uint8_t *must, *guided;
    int *classes;
    float *exact, *state;
    int64_t n; /* values of a state */
} polisher;

/* Mean PSNR of the states, peak to peak 2; latents are compared as they are. */
static double fidelity(const polisher *p)
{
    const bool is_pixels = p->d->net.cfg.channels == 3;
    double sum = 0;
    for (int i = 0; i < p->o.count; i++) {
        double error = 0;
        for (int64_t j = 0; j < p->n; j++) {
            double a = p->exact[i * p->n + j], b = p->state[i * p->n + j];
            if (is_pixels) a = fmax(-1, fmin(1, a)), b = fmax(-1, fmin(1, b));
            error += (a - b) * (a - b);
        }
        const double db = 10 * log10(4 / (error / (double)p->n));
        sum += db < PEAK_DB ? db : db == db ? PEAK_DB : 0;
    }
    return sum / p->o.count;
}

static fv_status judge(polisher *p, double *db)
{
    fvi_accel_count(p->a);
    p->o.accel = p->a;
    FV_TRY(dit_generate_net(p->ctx, &p->d->net, p->d->precision, &p->o, NULL, p->state, NULL));
    *db = fidelity(p);
    return FV_OK;
}

static void swap_bytes(uint8_t *x, uint8_t *y, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const uint8_t t = x[i];
        x[i] = y[i];
        y[i] = t;
    }
}

/* Evaluations e and e+1 trade places; false where that is not possible or changes nothing. */
static bool swap(polisher *p, int e)
{
    fv_accel *a = p->a;
    const size_t K = 2 * (size_t)a->depth;
    uint8_t *x = a->action + (size_t)e * K, *y = x + K;
    if (e < 1 || p->must[e] || p->must[e + 1] || p->guided[e] != p->guided[e + 1]) return false;
    if (a->skipped[e] == a->skipped[e + 1] && memcmp(x, y, K) == 0) return false;
    swap_bytes(x, y, K);
    swap_bytes(a->pruned + (size_t)e * K, a->pruned + (size_t)(e + 1) * K, K);
    swap_bytes(&a->skipped[e], &a->skipped[e + 1], 1);
    return true;
}

/* What is in p->a now. */
static fv_status try_plan(polisher *p, double *best, bool *is_better)
{
    double db;
    *is_better = false;
    fvi_accel_weights(p->a, p->sens, p->must);
    fvi_accel_count(p->a);
    if (p->a->anchors != p->best->anchors) return FV_OK; /* something had no past any more */
    FV_TRY(judge(p, &db));
    if (!(db > *best)) return FV_OK;
    *best = db;
    *is_better = true;
    fvi_accel_copy(p->best, p->a);
    return FV_OK;
}

/* From front to back and again, until nothing helps or the trials are used up. */
static fv_status improve(polisher *p, int trials, double *best)
{
    const int last = p->a->evals - 2;
    char text[48];
    for (int e = 1, done = 0, idle = 0; last > 0 && done < trials && idle <= last;
         e = e < last ? e + 1 : 1) {
        bool is_better = false;
        fvi_accel_copy(p->a, p->best);
        if (swap(p, e)) {
            FV_TRY(try_plan(p, best, &is_better));
            snprintf(text, sizeof text, "%.2f dB", *best);
            FV_TRY(fv_report(p->ctx, "polishing", (uint64_t)++done, (uint64_t)trials, text));
        }
        idle = is_better ? 0 : idle + 1;
    }
    return FV_OK;
}

static fv_status open_polisher(polisher *p, const fv_accel *plan, uint64_t seed)
{
    const dit_config *c = &p->d->net.cfg;
    const size_t T = (size_t)plan->evals;
    dit_schedule s;
    FV_TRY(dit_schedule_create(p->ctx, &s, c, &p->o));
    const bool fits = s.evals == plan->evals && c->depth == plan->depth;
    p->must = fv_calloc(p->ctx, T, 1);
    p->guided = fv_calloc(p->ctx, T, 1);
    for (size_t e = 0; fits && p->must && p->guided && e < T; e++) {
        p->guided[e] = dit_schedule_guided(&s, (int)e) != 0;
        p->must[e] = e && p->guided[e] != p->guided[e - 1];
    }
    const fv_status st =
        p->sens || !fits ? FV_OK : fvi_sens_prior(p->ctx, &p->prior, &s, c->depth);
    dit_schedule_destroy(p->ctx, &s);
    FV_TRY(st);
    if (!p->sens) p->sens = p->prior;
    if (!fits) return fv_fail(p->ctx, FV_ERR_MODEL, "polish: the plan is of other steps or model");
    p->n = (int64_t)c->input_size * c->input_size * c->channels;
    p->classes = fv_calloc(p->ctx, (size_t)p->o.count, sizeof *p->classes);
    p->exact = fv_calloc(p->ctx, (size_t)p->o.count * (size_t)p->n, sizeof *p->exact);
    p->state = fv_calloc(p->ctx, (size_t)p->o.count * (size_t)p->n, sizeof *p->state);
    if (!p->must || !p->guided || !p->classes || !p->exact || !p->state) return FV_ERR_OOM;
    for (int i = 0; i < p->o.count; i++)
        p->classes[i] = (int)fv_rand_permute(seed, 0, (uint64_t)c->classes,
                                             (uint64_t)i % (uint64_t)c->classes);
    p->o.classes = p->classes;
    p->o.seed = seed;
    FV_TRY(fvi_accel_create(p->ctx, &p->a, plan->evals, plan->depth));
    FV_TRY(fvi_accel_create(p->ctx, &p->best, plan->evals, plan->depth));
    fvi_accel_copy(p->best, plan);
    fvi_accel_copy(p->a, plan);
    return dit_generate_net(p->ctx, &p->d->net, p->d->precision, &p->o, NULL, p->exact, NULL);
}

fv_status fv_accel_polish(fv_ctx *ctx, fv_accel *plan, const fv_dit *d,
                          const fv_generate_options *o, const fv_sens *sens,
                          const fv_polish_options *opts, double *before, double *after)
{
    fv_polish_options q = FV_POLISH_OPTIONS_INIT;
    polisher p = { .ctx = ctx, .d = d, .sens = sens, .o = FV_GENERATE_OPTIONS_INIT };
    double db = 0, first = 0;
    if (!plan || !d || !o)
        return fv_fail(ctx, FV_ERR_ARG, "polish: plan, model or options missing");
    FV_TRY(FV_TAKE_OPTIONS(ctx, &p.o, o, "polish"));
    FV_TRY(FV_TAKE_OPTIONS(ctx, &q, opts, "polish"));
    if (q.draws < 0 || q.draws > MAX_DRAWS || q.trials < 0)
        return fv_fail(ctx, FV_ERR_ARG, "polish: %d draws, %d trials: use 1 to %d draws", q.draws,
                       q.trials, MAX_DRAWS);
    if (strncmp(plan->mode, "dpx", 3) != 0)
        return fv_fail(ctx, FV_ERR_ARG, "polish: a plan of mode %s: only those of dpx are polished",
                       plan->mode);
    if (sens) FV_TRY(fv_sens_match(ctx, sens, d, o));
    p.o.count = q.draws ? q.draws : DRAWS;
    p.o.accel = NULL;
    fv_status s = open_polisher(&p, plan, q.seed ? q.seed : 1);
    if (s == FV_OK) s = judge(&p, &first);
    db = first;
    if (s == FV_OK) s = improve(&p, q.trials ? q.trials : TRIALS, &db);
    if (s == FV_OK) fvi_accel_copy(plan, p.best);
    if (before) *before = first;
    if (after) *after = db;
    fv_accel_free(&p.a);
    fv_accel_free(&p.best);
    fv_sens_free(&p.prior);
    void *mem[] = { p.must, p.guided, p.classes, p.exact, p.state };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(ctx, mem[i]);
    return s;
}
