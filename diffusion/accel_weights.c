/* accel_weights.c - linear forecasts of what is not computed: weights and predicted errors.
 *
 * A forecast of F_e from the values at earlier evaluations a is a sum of w_a F_a. Its mean squared
 * error follows from Gram values alone,
 *     G(e,e) - 2 sum w_a G(e,a) + sum w_a w_b G(a,b)
 * and is least where sum_b G(a,b) w_b = G(e,a). Values a few evaluations apart are nearly parallel,
 * so these equations are nearly singular: RIDGE on the diagonal. On F64c at half of the evaluations
 * two terms give 50.3 dB with a ridge of 1e-3 of the trace, 53.6 with 1e-4, 54.1 with 1e-5; three
 * terms 54.6; reuse at the same evaluations 45.7.
 *
 * Without a table polynomials through the last values are extrapolated; outputs move almost
 * linearly over a few evaluations, so errors are taken as squared products of ages. */
#include "dpx.h"

#include <math.h>
#include <string.h>

#define RIDGE 1e-5
#define UNIFORM_CURVE 0.25 /* error of extrapolating a line over that of reuse, at ages 1 and 2 */

/* ---- One forecast ---------------------------------------------------------------------------- */

static double between(fvi_gram_fn gram, const void *user, int a, int b)
{
    return a > b ? gram(user, a, a - b) : gram(user, b, b - a);
}

/* Elimination without pivoting: the matrix is positive definite. */
static bool solve(double A[DIT_HISTORY][DIT_HISTORY + 1], int n, double *x)
{
    for (int i = 0; i < n; i++) {
        if (!(A[i][i] > 0)) return false;
        for (int r = i + 1; r < n; r++) {
            const double f = A[r][i] / A[i][i];
            for (int c = i; c <= n; c++) A[r][c] -= f * A[i][c];
        }
    }
    for (int i = n - 1; i >= 0; i--) {
        x[i] = A[i][n];
        for (int j = i + 1; j < n; j++) x[i] -= A[i][j] * x[j];
        x[i] /= A[i][i];
        if (!isfinite(x[i])) return false;
    }
    return true;
}

static double fit(fvi_gram_fn gram, const void *user, int e, const int *at, int n, double *w)
{
    double A[DIT_HISTORY][DIT_HISTORY + 1], G[DIT_HISTORY][DIT_HISTORY + 1] = { { 0 } };
    double trace = 0;
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) G[i][j] = between(gram, user, at[i], at[j]);
        G[i][n] = between(gram, user, e, at[i]);
        trace += G[i][i];
    }
    if (!(trace > 0)) { /* always 0: so is the forecast */
        for (int i = 0; i < n; i++) w[i] = i == 0;
        return gram(user, e, 0) > 0 ? INFINITY : 0;
    }
    memcpy(A, G, sizeof A);
    for (int i = 0; i < n; i++) A[i][i] += RIDGE * trace / n;
    if (!solve(A, n, w)) return INFINITY;
    double error = gram(user, e, 0);
    for (int i = 0; i < n; i++) {
        error -= 2 * w[i] * G[i][n];
        for (int j = 0; j < n; j++) error += w[i] * w[j] * G[i][j];
    }
    return error == error ? fmax(error, 0) : INFINITY;
}

double fvi_forecast_fit(fvi_gram_fn gram, const void *user, int e, const int *at, int count,
                        float *w)
{
    double best = INFINITY, x[DIT_HISTORY];
    if (w) memset(w, 0, DIT_HISTORY * sizeof *w);
    for (int n = 1; n <= count && n <= DIT_HISTORY; n++) {
        const double error = fit(gram, user, e, at, n, x);
        if (!(error < best)) continue;
        best = error;
        for (int i = 0; w && i < n; i++) w[i] = (float)x[i];
    }
    return best;
}

void fvi_forecast_polynomial(int e, const int *at, int count, float *w)
{
    memset(w, 0, DIT_HISTORY * sizeof *w);
    for (int i = 0; i < count; i++) {
        double x = 1;
        for (int j = 0; j < count; j++)
            if (j != i) x *= (double)(e - at[j]) / (at[i] - at[j]);
        w[i] = (float)x;
    }
}

/* ---- Errors of a table ----------------------------------------------------------------------- */

typedef struct module_gram {
    const fv_sens *sens;
    int k;
} module_gram;

static double gram_of_module(const void *user, int e, int n)
{
    const module_gram *g = user;
    return fvi_sens_gram(g->sens, g->k, e, n);
}

typedef struct step_gram {
    const fv_sens *sens;
    dit_skip kind;
} step_gram;

static double gram_of_step(const void *user, int e, int n)
{
    const step_gram *g = user;
    return fvi_sens_step_gram(g->sens, g->kind, e, n);
}

/* How many of at[] the table knows together with e. */
static int known(const fv_sens *s, int e, const int *at, int count)
{
    int n = 0;
    while (n < count && fvi_sens_known(s, e, e - at[n])) n++;
    return n;
}

/* Squared error to what it does to the picture. */
static double weighted(const fv_sens *s, int k, int e, double error)
{
    const double self = fvi_sens_gram(s, k, e, 0), effect = s->omega[e] * fvi_sens_gate(s, k, e);
    if (s->measured) return effect > 0 ? effect * error : 0;
    return self > 0 ? s->omega[e] * error / self : 0;
}

static double uniform_error(int e, const int *at, int count)
{
    const double a = e - at[0];
    if (count < 2) return a * a;
    const double b = e - at[1], line = UNIFORM_CURVE * a * a * b * b / 4;
    return line < a * a ? line : a * a;
}

double fvi_forecast_error(const fv_sens *sens, int k, int e, const int *at, int count)
{
    const module_gram g = { sens, k };
    if (count < 1) return INFINITY;
    if (!sens) return uniform_error(e, at, count);
    return weighted(sens, k, e,
                    fvi_forecast_fit(gram_of_module, &g, e, at, known(sens, e, at, count), NULL));
}

double fvi_skip_error(const fv_sens *sens, dit_skip kind, int e, const int *at, int count)
{
    const step_gram g = { sens, kind };
    if (!sens || count < 1) return INFINITY;
    const double omega = fvi_sens_omega_step(sens, kind, e);
    const int n = known(sens, e, at, count);
    if (!(omega >= 0) || !n) return INFINITY;
    return omega * fvi_forecast_fit(gram_of_step, &g, e, at, n, NULL);
}

/* ---- The past of a module -------------------------------------------------------------------- */

typedef struct past {
    int at[FVI_DPX_TERMS], count;
} past;

static void push(past *p, int e)
{
    memmove(p->at + 1, p->at, (FVI_DPX_TERMS - 1) * sizeof *p->at);
    p->at[0] = e;
    if (p->count < FVI_DPX_TERMS) p->count++;
}

double fvi_module_error(const fv_sens *sens, const fv_accel *a, const uint8_t *must, int k,
                        int from, int to)
{
    past p = { { 0 }, 0 };
    double sum = 0;
    for (int e = 0; e < to; e++) {
        const size_t i = (size_t)e * 2 * (size_t)a->depth + (size_t)k;
        if (must && must[e]) p.count = 0;
        if (a->skipped[e]) continue;
        if (a->action[i] == DIT_FULL) {
            push(&p, e);
            continue;
        }
        if (e < from) continue;
        double error = INFINITY;
        if (!p.count) return INFINITY;
        const bool is_reused = a->action[i] == DIT_REUSE ||
                               (a->action[i] == DIT_PRUNE && !a->past_of_anchors); /* soda's */
        if (!is_reused || !sens)
            error = fvi_forecast_error(sens, k, e, p.at, is_reused ? 1 : p.count);
        else if (fvi_sens_known(sens, e, e - p.at[0]))
            error = fvi_sens_error(sens, k, e, e - p.at[0]);
        if (a->action[i] == DIT_PRUNE && sens) {
            const double share = fvi_sens_pruned(sens, k / 2, e, a->pruned[i], e - p.at[0]);
            if (share == share) error *= share;
        }
        sum += error;
    }
    return sum;
}

static bool is_anchor(const fv_accel *a, int e)
{
    const size_t K = 2 * (size_t)a->depth;
    if (a->skipped[e]) return false;
    for (size_t k = 0; k < K; k++)
        if (a->action[(size_t)e * K + k] != DIT_FULL) return false;
    return true;
}

double fvi_plan_error(const fv_sens *sens, const fv_accel *a, const uint8_t *must)
{
    past p = { { 0 }, 0 };
    double sum = 0;
    for (int e = 0; e < a->evals; e++) {
        if (must && must[e]) p.count = 0;
        if (a->skipped[e]) sum += fvi_skip_error(sens, a->skip, e, p.at, p.count);
        else if (is_anchor(a, e)) push(&p, e);
    }
    for (int k = 0; k < 2 * a->depth; k++)
        sum += fvi_module_error(sens, a, must, k, 0, a->evals);
    return sum;
}

/* ---- Weights of a plan ----------------------------------------------------------------------- */

static void module_weights(fv_accel *a, const fv_sens *sens, const uint8_t *must, int k)
{
    const size_t K = 2 * (size_t)a->depth;
    const module_gram g = { sens, k };
    past p = { { 0 }, 0 };
    for (int e = 0; e < a->evals; e++) {
        const size_t i = (size_t)e * K + (size_t)k;
        float *w = a->weight + i * DIT_HISTORY;
        if (must && must[e]) p.count = 0;
        if (a->skipped[e]) continue;
        const int n = sens ? known(sens, e, p.at, p.count) : p.count;
        if (a->action[i] == DIT_FULL || !p.count) {
            a->action[i] = DIT_FULL;
            push(&p, e);
        } else if (a->action[i] == DIT_REUSE) {
            continue;
        } else if (!n) {
            a->action[i] = DIT_REUSE; /* further back than the table knows */
        } else if (!sens) {
            fvi_forecast_polynomial(e, p.at, n < 2 ? n : 2, w);
        } else if (!(fvi_forecast_fit(gram_of_module, &g, e, p.at, n, w) < INFINITY)) {
            fvi_forecast_polynomial(e, p.at, 1, w);
        }
    }
}

void fvi_accel_weights(fv_accel *a, const fv_sens *sens, const uint8_t *must)
{
    const step_gram g = { sens, a->skip };
    const size_t K = 2 * (size_t)a->depth;
    past p = { { 0 }, 0 };
    for (int e = 0; e < a->evals; e++) {
        if (must && must[e]) p.count = 0;
        if (a->skipped[e]) {
            float *w = a->skip_weight + (size_t)e * DIT_HISTORY;
            const int n = sens ? known(sens, e, p.at, p.count) : p.count;
            if (!n) {
                a->skipped[e] = 0;
                memset(a->action + (size_t)e * K, DIT_FULL, K);
            } else if (!sens || !(fvi_forecast_fit(gram_of_step, &g, e, p.at, n, w) < INFINITY)) {
                fvi_forecast_polynomial(e, p.at, n < 2 ? n : 2, w);
            }
        }
        if (is_anchor(a, e)) push(&p, e);
    }
    for (int k = 0; k < 2 * a->depth; k++) module_weights(a, sens, must, k);
    a->past_of_anchors = true;
}
