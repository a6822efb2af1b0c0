/* accel_weights.c - linear forecasts of what is not computed: weights and predicted errors.
 *
 * A forecast of F_e from the values at earlier evaluations a is a sum of w_a F_a. Its mean squared
 * error follows from Gram values alone,
 *     G(e,e) - 2 sum w_a G(e,a) + sum w_a w_b G(a,b)
 * and is least where sum_b G(a,b) w_b = G(e,a). Values a few evaluations apart are nearly parallel,
 * so these equations are nearly singular: RIDGE on the diagonal. On F64c at half of the evaluations
 * two terms give 50.3 dB with a ridge of 1e-3 of the trace, 53.6 with 1e-4, 54.1 with 1e-5; three
 * terms 54.6; reuse at the same evaluations 45.7. */
#include "dpx.h"

#include <math.h>
#include <string.h>

#define RIDGE 1e-5

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

/* Products of the terms of a forecast with each other and with what is forecast. */
typedef struct products {
    double term[DIT_HISTORY][DIT_HISTORY], with[DIT_HISTORY], self;
} products;

/* Of the first n terms. */
static double fit(const products *g, int n, double *w)
{
    double A[DIT_HISTORY][DIT_HISTORY + 1];
    double trace = 0;
    for (int i = 0; i < n; i++) trace += g->term[i][i];
    if (!(trace > 0)) { /* always 0: so is the forecast */
        for (int i = 0; i < n; i++) w[i] = i == 0;
        return g->self > 0 ? INFINITY : 0;
    }
    for (int i = 0; i < n; i++) {
        memcpy(A[i], g->term[i], (size_t)n * sizeof A[i][0]);
        A[i][i] += RIDGE * trace / n;
        A[i][n] = g->with[i];
    }
    if (!solve(A, n, w)) return INFINITY;
    double error = g->self;
    for (int i = 0; i < n; i++) {
        error -= 2 * w[i] * g->with[i];
        for (int j = 0; j < n; j++) error += w[i] * w[j] * g->term[i][j];
    }
    return error == error ? fmax(error, 0) : INFINITY;
}

double fvi_forecast_fit(fvi_gram_fn gram, const void *user, int e, const int *at, int count,
                        float *w)
{
    double best = INFINITY, x[DIT_HISTORY];
    products g = { .self = count > 0 ? gram(user, e, 0) : 0 };
    if (w) memset(w, 0, DIT_HISTORY * sizeof *w);
    for (int n = 1; n <= count && n <= DIT_HISTORY; n++) {
        for (int i = 0; i < n; i++)
            g.term[n - 1][i] = g.term[i][n - 1] = between(gram, user, at[n - 1], at[i]);
        g.with[n - 1] = between(gram, user, e, at[n - 1]);
        const double error = fit(&g, n, x);
        if (!(error < best)) continue;
        best = error;
        for (int i = 0; w && i < n; i++) w[i] = (float)x[i];
    }
    return best;
}

/* As solve and fit, operation by operation: the same bits. n is a constant where this is called,
 * so that nothing but the loop over lanes is left. */
FV_INLINE void fit_lanes(const fvi_lanes *g, int n, double best[FVI_LANES])
{
    double A[FVI_DPX_TERMS][FVI_DPX_TERMS + 1][FVI_LANES], x[FVI_DPX_TERMS][FVI_LANES];
    for (int v = 0; v < FVI_LANES; v++) {
        double trace = 0, good = 1;
        for (int i = 0; i < n; i++) trace += g->term[i][i][v];
        for (int i = 0; i < n; i++) {
            for (int j = 0; j < n; j++) A[i][j][v] = g->term[i][j][v];
            A[i][i][v] += RIDGE * trace / n;
            A[i][n][v] = g->with[i][v];
        }
        for (int i = 0; i < n; i++) {
            good = A[i][i][v] > 0 ? good : 0;
            for (int r = i + 1; r < n; r++) {
                const double f = A[r][i][v] / A[i][i][v];
                for (int c = i; c <= n; c++) A[r][c][v] -= f * A[i][c][v];
            }
        }
        for (int i = n - 1; i >= 0; i--) {
            x[i][v] = A[i][n][v];
            for (int j = i + 1; j < n; j++) x[i][v] -= A[i][j][v] * x[j][v];
            x[i][v] /= A[i][i][v];
            good = x[i][v] - x[i][v] == 0 ? good : 0;
        }
        double error = g->self[v];
        for (int i = 0; i < n; i++) {
            error -= 2 * x[i][v] * g->with[i][v];
            for (int j = 0; j < n; j++) error += x[i][v] * x[j][v] * g->term[i][j][v];
        }
        good = error == error ? good : 0;
        error = error > 0 ? error : 0;
        error = good > 0 ? error : INFINITY;
        const double none = g->self[v] > 0 ? INFINITY : 0;
        error = trace > 0 ? error : none;
        best[v] = error < best[v] ? error : best[v];
    }
}

void fvi_forecast_lanes(const fvi_lanes *g, int n, double best[FVI_LANES])
{
    if (n == 1) fit_lanes(g, 1, best);
    else if (n == 2) fit_lanes(g, 2, best);
    else fit_lanes(g, 3, best);
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

int fvi_sens_known_terms(const fv_sens *s, int e, const int *at, int count)
{
    int n = 0;
    while (n < count && fvi_sens_known(s, e, e - at[n])) n++;
    return n;
}

/* Squared error to what it does to the picture. */
double fvi_weighted_error(const fv_sens *s, int k, int e, double error)
{
    const double self = fvi_sens_gram(s, k, e, 0), effect = s->omega[e] * fvi_sens_gate(s, k, e);
    if (s->measured) return effect > 0 ? effect * error : 0;
    return self > 0 ? s->omega[e] * error / self : 0;
}

double fvi_forecast_error(const fv_sens *sens, int k, int e, const int *at, int count)
{
    const module_gram g = { sens, k };
    if (count < 1) return INFINITY;
    const int n = fvi_sens_known_terms(sens, e, at, count);
    return fvi_weighted_error(sens, k, e,
                              fvi_forecast_fit(gram_of_module, &g, e, at, n, NULL));
}

double fvi_skip_error(const fv_sens *sens, dit_skip kind, int e, const int *at, int count)
{
    const step_gram g = { sens, kind };
    if (count < 1) return INFINITY;
    const double omega = fvi_sens_omega_step(sens, kind, e);
    const int n = fvi_sens_known_terms(sens, e, at, count);
    if (!(omega >= 0) || !n) return INFINITY;
    return omega * fvi_forecast_fit(gram_of_step, &g, e, at, n, NULL);
}

/* ---- The past of a module -------------------------------------------------------------------- */

fvi_past fvi_past_of(int terms)
{
    return (fvi_past){ .most = terms ? terms : FVI_DPX_TERMS };
}

void fvi_past_push(fvi_past *p, int e)
{
    memmove(p->at + 1, p->at, (FVI_DPX_TERMS - 1) * sizeof *p->at);
    p->at[0] = e;
    if (p->count < p->most) p->count++;
}

double fvi_action_error(const fv_sens *sens, const fv_accel *a, int k, int e, const fvi_past *p)
{
    const size_t i = (size_t)e * 2 * (size_t)a->depth + (size_t)k;
    if (a->skipped[e] || a->action[i] == DIT_FULL) return 0;
    if (!p->count) return INFINITY;
    const int age = e - p->at[0];
    if (!sens) return (double)age * age;
    double error = INFINITY;
    if (a->action[i] == DIT_LINEAR || (a->action[i] == DIT_PRUNE && a->past_of_anchors))
        error = fvi_forecast_error(sens, k, e, p->at, p->count);
    else if (fvi_sens_known(sens, e, age)) /* as soda prunes: over reuse */
        error = fvi_sens_error(sens, k, e, age);
    if (a->action[i] == DIT_PRUNE) {
        const double share = fvi_sens_pruned(sens, k / 2, e, a->pruned[i], age);
        if (share == share) error *= share;
    }
    return error;
}

double fvi_module_error(const fv_sens *sens, const fv_accel *a, const uint8_t *must, int k,
                        int from, int to)
{
    fvi_past p = fvi_past_of(a->terms);
    double sum = 0;
    for (int e = 0; e < to; e++) {
        if (must && must[e]) p.count = 0;
        if (e >= from) sum += fvi_action_error(sens, a, k, e, &p);
        if (fvi_is_pushed(a, k, e)) fvi_past_push(&p, e);
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
    fvi_past p = fvi_past_of(a->step_terms);
    double sum = 0;
    for (int e = 0; e < a->evals; e++) {
        if (must && must[e]) p.count = 0;
        if (a->skipped[e])
            sum += sens ? fvi_skip_error(sens, a->skip, e, p.at, p.count) : INFINITY;
        else if (is_anchor(a, e)) fvi_past_push(&p, e);
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
    fvi_past p = fvi_past_of(a->terms);
    for (int e = 0; e < a->evals; e++) {
        const size_t i = (size_t)e * K + (size_t)k;
        float *w = a->weight + i * DIT_HISTORY;
        if (must && must[e]) p.count = 0;
        if (a->skipped[e]) continue;
        const int n = fvi_sens_known_terms(sens, e, p.at, p.count);
        if (a->action[i] == DIT_FULL || !p.count) {
            a->action[i] = DIT_FULL;
            fvi_past_push(&p, e);
        } else if (a->action[i] == DIT_REUSE) {
            continue;
        } else if (!n) {
            a->action[i] = DIT_REUSE; /* further back than the table knows */
        } else if (!(fvi_forecast_fit(gram_of_module, &g, e, p.at, n, w) < INFINITY)) {
            fvi_forecast_polynomial(e, p.at, 1, w);
        }
    }
}

void fvi_accel_weights(fv_accel *a, const fv_sens *sens, const uint8_t *must)
{
    const step_gram g = { sens, a->skip };
    const size_t K = 2 * (size_t)a->depth;
    fvi_past p = fvi_past_of(a->step_terms);
    for (int e = 0; e < a->evals; e++) {
        if (must && must[e]) p.count = 0;
        if (a->skipped[e]) {
            float *w = a->skip_weight + (size_t)e * DIT_HISTORY;
            const int n = fvi_sens_known_terms(sens, e, p.at, p.count);
            if (!n) {
                a->skipped[e] = 0;
                memset(a->action + (size_t)e * K, DIT_FULL, K);
            } else if (!(fvi_forecast_fit(gram_of_step, &g, e, p.at, n, w) < INFINITY)) {
                fvi_forecast_polynomial(e, p.at, n < 2 ? n : 2, w);
            }
        }
        if (is_anchor(a, e)) fvi_past_push(&p, e);
    }
    for (int k = 0; k < 2 * a->depth; k++) module_weights(a, sens, must, k);
    a->past_of_anchors = true;
}
