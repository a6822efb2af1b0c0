/* sequence.h - private: the recurrence of RWKV-7, experts' gates, distances of features, rate of soft
 * codes, decisions of a tree; formulas in op_wkv.c, op_moe.c, op_feature_loss.c, op_soft_rate.c,
 * op_tree.c.
 *
 * wkv: a block a head, thread (i, j) one number of its 16 x 16 state, some six barriers a step: a step
 * waits for the one before. */
#ifndef FV_CUDA_SEQUENCE_H
#define FV_CUDA_SEQUENCE_H

#include <math.h>

#include "cuda/dialect.h"

/* ---- Gates ----------------------------------------------------------------------------------- */

/* The three largest of x; of equals the first. */
typedef struct fvk_best { int64_t first, second, third; } fvk_best;

FVK_FN fvk_best fvk_best_of(const float *x, int64_t E)
{
    fvk_best b = { -1, -1, -1 };
    for (int64_t i = 0; i < E; i++) {
        if (b.first < 0 || x[i] > x[b.first]) {
            b.third = b.second;
            b.second = b.first;
            b.first = i;
        } else if (b.second < 0 || x[i] > x[b.second]) {
            b.third = b.second;
            b.second = i;
        } else if (b.third < 0 || x[i] > x[b.third]) {
            b.third = i;
        }
    }
    return b;
}

FVK_KERNEL(route)
{
    PHASE(t) EACH(r, t, a->R) {
        const float *x = a->x + r * a->E, *dy = a->dy ? a->dy + r * a->E : 0;
        const fvk_best b = fvk_best_of(x, a->E);
        const float w = 1.0f / (1.0f + expf(x[b.second] - x[b.first]));
        const float v = 1.0f / (1.0f + expf(x[b.first] - x[b.second]));
        const float d = dy ? w * (1.0f - w) * (dy[b.first] - dy[b.second]) : 0.0f;
        for (int64_t i = 0; i < a->E; i++) {
            const float y = i == b.first ? (dy ? d : w) : i == b.second ? (dy ? -d : v) : 0.0f;
            fvk_put(a->y, r * a->E + i, y);
        }
    }
}

/* Chance that i is among the two when its noise is drawn again; what it has to beat. */
FVK_FN double fvk_chance(const fvk_balance_args *a, int64_t r, const fvk_best *b, int64_t i,
                         int64_t *rival, double *z)
{
    *rival = i == b->first || i == b->second ? b->third : b->second;
    *z = ((double)a->clean[r * a->E + i] - a->noisy[r * a->E + *rival]) / a->std[r * a->E + i];
    return 0.5 * erfc(-*z * 0.70710678118654752440);
}

FVK_FN double fvk_log_sum(const float *x, int64_t E)
{
    double most = x[0], sum = 0;
    for (int64_t i = 1; i < E; i++) most = x[i] > most ? x[i] : most;
    for (int64_t i = 0; i < E; i++) sum += exp(x[i] - most);
    return most + log(sum);
}

FVK_KERNEL(balance_row)
{
    PHASE(t) EACH(r, t, a->R) {
        const int64_t E = a->E;
        const fvk_best b = fvk_best_of(a->noisy + r * E, E);
        const double l = fvk_log_sum(a->clean + r * E, E);
        float *row = a->row + r * (2 * E + 1);
        for (int64_t i = 0; i < E; i++) {
            int64_t rival;
            double z;
            row[i] = a->gate[r * E + i];
            row[E + i] = (float)fvk_chance(a, r, &b, i, &rival, &z);
        }
        row[2 * E] = (float)(l * l);
    }
}

/* Squared coefficient of variation of x [E], and its derivatives where d is there. */
FVK_FN double fvk_cv_squared(const float *x, int64_t E, double *d)
{
    double mean = 0, var = 0;
    for (int64_t i = 0; i < E; i++) mean += x[i] / (double)E;
    for (int64_t i = 0; i < E; i++) var += (x[i] - mean) * (x[i] - mean) / (double)(E - 1);
    const double below = mean * mean + 1e-10;
    for (int64_t i = 0; i < E && d; i++)
        d[i] = 2 * (x[i] - mean) / ((double)(E - 1) * below) -
               2 * var * mean / ((double)E * below * below);
    return var / below;
}

/* One block. */
FVK_KERNEL(balance)
{
    (void)grid_;
    (void)block_;
    PHASE(t) {
        const int64_t E = a->E;
        if (t > 0) continue;
        const double cv = fvk_cv_squared(a->sum, E, 0) + fvk_cv_squared(a->sum + E, E, 0);
        a->loss[0] = (float)(a->balance * cv + a->z * (double)a->sum[2 * E] / (double)a->R);
        for (int64_t i = 0; a->saved && i < 2 * E; i++) a->saved[i] = a->sum[i];
    }
}

FVK_FN void fvk_balance_back(const fvk_balance_args *a, int64_t r, const double *slopes)
{
    const int64_t E = a->E;
    const double dy = a->dy[0], of_z = dy * a->z / (double)a->R;
    const fvk_best b = fvk_best_of(a->noisy + r * E, E);
    const double l = fvk_log_sum(a->clean + r * E, E);
    double dn[FVK_EXPERTS_MOST] = { 0 };
    for (int64_t i = 0; i < E; i++) {
        const int64_t at = r * E + i;
        int64_t rival;
        double z;
        (void)fvk_chance(a, r, &b, i, &rival, &z);
        const double slope = dy * a->balance * slopes[FVK_EXPERTS_MOST + i] * exp(-0.5 * z * z) *
                             0.39894228040143267794 / a->std[at];
        dn[rival] -= slope;
        if (a->g[0].p)
            fvk_put(a->g[0], at, (float)(slope + of_z * 2 * l * exp(a->clean[at] - l)));
        if (a->g[2].p) fvk_put(a->g[2], at, (float)(-slope * z));
        if (a->g[3].p) fvk_put(a->g[3], at, (float)(dy * a->balance * slopes[i]));
    }
    for (int64_t i = 0; i < E && a->g[1].p; i++) fvk_put(a->g[1], r * E + i, (float)dn[i]);
}

FVK_KERNEL(balance_dx)
{
    SHARED(double, slopes, 2 * FVK_EXPERTS_MOST);
    PHASE(t) {
        if (t > 0) continue;
        (void)fvk_cv_squared(a->saved, a->E, slopes);
        (void)fvk_cv_squared(a->saved + a->E, a->E, slopes + FVK_EXPERTS_MOST);
    }
    PHASE(t) EACH(r, t, a->R) fvk_balance_back(a, r, slopes);
}

/* ---- Distances of features ------------------------------------------------------------------- */

#define FVK_LENGTH_EPS 1e-10f
#define FVK_STABLE 1e-6

FVK_KERNEL(lpips)
{
    LOCAL(float, aa);
    LOCAL(float, bb);
    LOCAL(float, sum);
    const int64_t C = a->C, first = (int64_t)block_ * (FVK_THREADS / 32);
    (void)grid_;
    PHASE(t) {
        const int64_t r = first + t / 32;
        float u = 0, v = 0;
        for (int64_t c = t % 32; r < a->rows && c < C; c += 32) {
            u += a->a[r * C + c] * a->a[r * C + c];
            v += a->b[r * C + c] * a->b[r * C + c];
        }
        AT(aa, t) = u;
        AT(bb, t) = v;
    }
    WARP_SUM(aa);
    WARP_SUM(bb);
    PHASE(t) {
        const int64_t r = first + t / 32;
        const float ia = 1.0f / (sqrtf(AT(aa, t)) + FVK_LENGTH_EPS);
        const float ib = 1.0f / (sqrtf(AT(bb, t)) + FVK_LENGTH_EPS);
        float s = 0;
        for (int64_t c = t % 32; r < a->rows && c < C; c += 32) {
            const float u = a->a[r * C + c] * ia, d = u - a->b[r * C + c] * ib;
            s += a->dy ? u * 2 * a->w[c] * d : a->w[c] * d * d;
        }
        AT(sum, t) = s;
    }
    WARP_SUM(sum);
    PHASE(t) {
        const int64_t r = first + t / 32;
        const float ia = 1.0f / (sqrtf(AT(aa, t)) + FVK_LENGTH_EPS);
        const float ib = 1.0f / (sqrtf(AT(bb, t)) + FVK_LENGTH_EPS);
        if (r >= a->rows) continue;
        if (!a->dy && t % 32 == 0) a->loss[r] = AT(sum, t);
        for (int64_t c = t % 32; a->dy && c < C; c += 32) {
            const float u = a->a[r * C + c] * ia;
            const float g = 2 * a->w[c] * (u - a->b[r * C + c] * ib) - u * AT(sum, t);
            const float scale = a->dy[0] / (float)a->rows * ia;
            fvk_put(a->y, r * C + c, AT(aa, t) > 0 ? scale * g : 0.0f); /* no direction, none */
        }
    }
}

/* Block: 32 channels of a sample; 8 rows at a time. */
FVK_KERNEL(dists_moments)
{
    SHARED(double, part, 3 * FVK_THREADS);
    SHARED(double, mean, 2 * FVK_TILE);
    const int64_t tiles = (a->C + FVK_TILE - 1) / FVK_TILE, b = block_ / tiles;
    const int64_t c0 = block_ % tiles * FVK_TILE;
    (void)grid_;
    for (int pass = 0; pass < 2; pass++) {
        PHASE(t) {
            const int64_t c = c0 + t % FVK_TILE;
            const double ma = pass ? mean[t % FVK_TILE] : 0;
            const double mb = pass ? mean[FVK_TILE + t % FVK_TILE] : 0;
            double u = 0, v = 0, w = 0;
            for (int64_t r = t / FVK_TILE; r < a->T && c < a->C; r += FVK_THREADS / FVK_TILE) {
                const int64_t at = (b * a->T + r) * a->C + c;
                const double x = a->a[at] - ma, y = a->b[at] - mb;
                u += pass ? x * x : x;
                v += pass ? y * y : y;
                w += x * y;
            }
            part[t] = u;
            part[FVK_THREADS + t] = v;
            part[2 * FVK_THREADS + t] = w;
        }
        PHASE(t) {
            const int64_t c = c0 + t;
            if (t >= FVK_TILE) continue;
            double s[3] = { 0, 0, 0 };
            for (int k = 0; k < 3; k++)
                for (int i = t; i < FVK_THREADS; i += FVK_TILE) s[k] += part[k * FVK_THREADS + i];
            for (int k = 0; k < 3; k++) s[k] /= (double)a->T;
            if (pass == 0) {
                mean[t] = s[0];
                mean[FVK_TILE + t] = s[1];
            }
            if (c >= a->C) continue;
            double *m = a->m + (b * a->C + c) * 5;
            for (int k = 0; k < 2 + pass; k++) m[2 * pass + k] = s[k];
        }
    }
}

FVK_FN double fvk_mean_term(const double *m)
{
    return (2 * m[0] * m[1] + FVK_STABLE) / (m[0] * m[0] + m[1] * m[1] + FVK_STABLE);
}
FVK_FN double fvk_spread_term(const double *m)
{
    return (2 * m[4] + FVK_STABLE) / (m[2] + m[3] + FVK_STABLE);
}

/* One block. */
FVK_KERNEL(dists)
{
    SHARED(double, sum, FVK_THREADS);
    PHASE(t) {
        sum[t] = 0;
        EACH(i, t, a->B * a->C) {
            const double *m = a->m + 5 * i;
            const int64_t c = i % a->C;
            sum[t] += a->alpha[c] * fvk_mean_term(m) + a->beta[c] * fvk_spread_term(m);
        }
    }
    TREE_SUM(sum)
    PHASE(t) {
        if (t == 0) fvk_put(a->y, 0, (float)(sum[0] / (double)a->B));
    }
}

FVK_KERNEL(dists_dx)
{
    const double scale = a->dy[0] / ((double)a->B * (double)a->T);
    PHASE(t) EACH(i, t, a->B * a->T * a->C) {
        const int64_t c = i % a->C;
        const double *m = a->m + (i / (a->T * a->C) * a->C + c) * 5;
        const double below = m[0] * m[0] + m[1] * m[1] + FVK_STABLE;
        const double k = scale * a->alpha[c] * 2 * (m[1] - fvk_mean_term(m) * m[0]) / below;
        const double kb = scale * a->beta[c] * 2 / (m[2] + m[3] + FVK_STABLE);
        const double ka = kb * fvk_spread_term(m);
        fvk_put(a->y, i, (float)(k + kb * (a->b[i] - m[1]) - ka * (a->a[i] - m[0])));
    }
}

/* ---- Rate of soft codes ---------------------------------------------------------------------- */

/* 2 z . e_k / tau */
FVK_FN float fvk_rate_near(const fvk_rate_args *a, const float *z, int64_t k)
{
    float sum = 0;
    for (int64_t d = 0; d < a->D; d++) sum += z[d] * a->e[k * a->D + d];
    return sum * (2.0f / a->tau[0]);
}

/* Largest and sums of exponentials of both, then the rate R in nats: of all threads. */
#define FVK_RATE_SUMS                                                                          \
    SHARED(float, top, FVK_THREADS);                                                           \
    SHARED(float, top2, FVK_THREADS);                                                          \
    SHARED(double, sum, FVK_THREADS);                                                          \
    SHARED(double, sum2, FVK_THREADS);                                                         \
    SHARED(double, rate, FVK_THREADS);                                                         \
    const float *z = a->z + (int64_t)block_ * a->D, *x = a->x + (int64_t)block_ * a->V;        \
    PHASE(t) {                                                                                 \
        if (t == 0 && !(a->tau[0] > 0)) FVK_RAISE(a->fault, FVK_FAULT_TAU);                    \
        top[t] = top2[t] = -INFINITY;                                                          \
        for (int64_t k = t; k < a->V; k += FVK_THREADS) {                                      \
            const float s = fvk_rate_near(a, z, k);                                            \
            if (s > top[t]) top[t] = s;                                                        \
            if (x[k] > top2[t]) top2[t] = x[k];                                                \
        }                                                                                      \
    }                                                                                          \
    TREE_MAX(top)                                                                              \
    TREE_MAX(top2)                                                                             \
    PHASE(t) {                                                                                 \
        sum[t] = sum2[t] = 0;                                                                  \
        for (int64_t k = t; k < a->V; k += FVK_THREADS) {                                      \
            sum[t] += expf(fvk_rate_near(a, z, k) - top[0]);                                   \
            sum2[t] += expf(x[k] - top2[0]);                                                   \
        }                                                                                      \
    }                                                                                          \
    TREE_SUM(sum)                                                                              \
    TREE_SUM(sum2)                                                                             \
    PHASE(t) {                                                                                 \
        const double lse = top2[0] + log(sum2[0]);                                             \
        rate[t] = 0;                                                                           \
        for (int64_t k = t; k < a->V; k += FVK_THREADS)                                        \
            rate[t] += expf(fvk_rate_near(a, z, k) - top[0]) / sum[0] * (lse - x[k]);          \
    }                                                                                          \
    TREE_SUM(rate)

FVK_KERNEL(rate)
{
    (void)grid_;
    FVK_RATE_SUMS
    PHASE(t) {
        if (t == 0) a->rate[block_] = rate[0];
    }
}

FVK_KERNEL(rate_dx)
{
    (void)grid_;
    FVK_RATE_SUMS
    SHARED(double, dz, FVK_THREADS);
    float *ds = a->ds + (int64_t)block_ * a->V;
    PHASE(t) {
        const double g = a->dy[0] / ((double)a->N * 0.69314718055994530942);
        const double lse = top2[0] + log(sum2[0]);
        for (int64_t k = t; k < a->V; k += FVK_THREADS) {
            const double p = expf(fvk_rate_near(a, z, k) - top[0]) / sum[0];
            const double q = expf(x[k] - top2[0]) / sum2[0];
            if (a->dx.p) fvk_put(a->dx, (int64_t)block_ * a->V + k, (float)(g * (q - p)));
            ds[k] = (float)(2 * g / a->tau[0] * p * (lse - x[k] - rate[0]));
        }
    }
    for (int64_t d = 0; a->dz.p && d < a->D; d++) {
        PHASE(t) {
            dz[t] = 0;
            for (int64_t k = t; k < a->V; k += FVK_THREADS) dz[t] += ds[k] * a->e[k * a->D + d];
        }
        TREE_SUM(dz)
        PHASE(t) {
            if (t == 0) fvk_put(a->dz, (int64_t)block_ * a->D + d, (float)dz[0]);
        }
    }
}

/* ---- Loss over a tree ------------------------------------------------------------------------ */

/* Decision k of row i as the paths have it; 0: there is none. */
FVK_FN int64_t fvk_decision(const fvk_tree_args *a, int64_t i, int64_t k)
{
    const int64_t label = a->label[i];
    if (label < -1 || label >= a->L) FVK_RAISE(a->fault, FVK_FAULT_ID);
    if (label < 0 || label >= a->L) return 0;
    const int32_t *path = a->paths + label * a->K;
    for (int64_t j = 0; j <= k; j++) {
        if (path[j] < 0 || path[j] / 2 >= a->V) FVK_RAISE(a->fault, FVK_FAULT_ID);
        if (path[j] <= 0 || path[j] / 2 >= a->V) return 0;
    }
    return path[k];
}

/* A warp a row. */
FVK_KERNEL(tree)
{
    LOCAL(float, dot);
    LOCAL(double, sum);
    const int64_t first = (int64_t)block_ * (FVK_THREADS / 32);
    (void)grid_;
    PHASE(t) AT(sum, t) = 0;
    for (int64_t k = 0; k < a->K; k++) {
        PHASE(t) {
            const int64_t i = first + t / 32, c = i < a->n ? fvk_decision(a, i, k) : 0;
            float s = 0;
            for (int64_t d = t % 32; c > 0 && d < a->D; d += 32)
                s += fvk_get(a->h, i * a->D + d) * a->w[(c >> 1) * a->D + d];
            AT(dot, t) = s;
        }
        WARP_SUM(dot);
        PHASE(t) {
            const int64_t i = first + t / 32, c = i < a->n ? fvk_decision(a, i, k) : 0;
            if (c == 0) continue;
            const float x = AT(dot, t) + a->bias[c >> 1], small = expf(-fabsf(x));
            const int is_wrong = c & 1 ? x < 0 : x > 0;
            AT(sum, t) += log1pf(small) + (is_wrong ? fabsf(x) : 0.0f);
            if (a->err && t % 32 == 0)
                a->err[i * a->K + k] =
                    (x >= 0 ? 1.0f : small) / (1.0f + small) - (float)(c & 1);
        }
    }
    PHASE(t) {
        const int64_t i = first + t / 32;
        if (t % 32 == 0 && i < a->n) a->loss[i] = AT(sum, t);
    }
}

FVK_FN float fvk_tree_scale(const fvk_tree_args *a)
{
    return a->number[0] > 0 ? a->dy[0] / a->number[0] : 0.0f;
}

FVK_KERNEL(tree_dh)
{
    const float scale = fvk_tree_scale(a);
    PHASE(t) EACH(e, t, a->n * a->D) {
        const int64_t i = e / a->D;
        float sum = 0;
        for (int64_t k = 0; k < a->K; k++) {
            const int64_t c = fvk_decision(a, i, k);
            if (c > 0) sum += scale * a->err[i * a->K + k] * a->w[(c >> 1) * a->D + e % a->D];
        }
        fvk_put(a->y, e, sum);
    }
}

/* Of each decision its node, -1 for none, and the slope of the loss there. */
FVK_KERNEL(tree_nodes)
{
    const float scale = fvk_tree_scale(a);
    PHASE(t) EACH(e, t, a->n * a->K) {
        const int64_t c = fvk_decision(a, e / a->K, e % a->K);
        a->node[e] = c > 0 ? (int32_t)(c >> 1) : -1;
        a->slope[e] = c > 0 ? scale * a->err[e] : 0.0f;
    }
}

/* ---- The recurrence -------------------------------------------------------------------------- */

#define FVK_STATE (FVK_WKV * FVK_WKV) /* = FVK_THREADS */

/* What a step needs of its token: key, removal key, that times the rate, key times its factor. */
typedef struct fvk_key { float k[FVK_WKV], kk[FVK_WKV], b[FVK_WKV], kf[FVK_WKV], norm; } fvk_key;

/* First element of step s of the block's head; of its 16 channels in [C]. */
FVK_FN int64_t fvk_wkv_at(const fvk_wkv_args *a, int64_t item, int64_t s)
{
    const int64_t H = a->C / FVK_WKV;
    return (item / H * a->T + s) * a->C + item % H * FVK_WKV;
}
FVK_FN int64_t fvk_wkv_channel(const fvk_wkv_args *a, int64_t item)
{
    return item % (a->C / FVK_WKV) * FVK_WKV;
}

/* Thread j < 16 makes its part from the shared key, which is there. */
FVK_FN void fvk_make_key(const fvk_wkv_args *a, int64_t channel, fvk_key *q, int j)
{
    float sum = 0;
    for (int i = 0; i < FVK_WKV; i++) sum += q->k[i] * q->k[i];
    const float norm = sqrtf(sum);
    q->kk[j] = q->k[j] / (norm > 1e-12f ? norm : 1e-12f);
    q->b[j] = q->kk[j] * a->a[channel + j];
    q->kf[j] = q->k[j] * a->f[channel + j];
    if (j == 0) q->norm = norm;
}

FVK_KERNEL(wkv)
{
    SHARED(fvk_key, q, 1);
    SHARED(float, r, FVK_WKV);
    SHARED(float, v, FVK_WKV);
    SHARED(float, sa, FVK_WKV);
    SHARED(float, part, FVK_STATE);
    LOCAL(float, S);
    const int64_t item = block_, channel = fvk_wkv_channel(a, item);
    const int64_t pieces = (a->T + FVK_WKV - 1) / FVK_WKV;
    float *saved = a->saved ? a->saved + item * (a->T * FVK_WKV + pieces * FVK_STATE) : 0;
    (void)grid_;
    PHASE(t) AT(S, t) = a->s0 ? a->s0[item * FVK_STATE + t] : 0.0f;
    for (int64_t s = 0; s < a->T; s++) {
        const int64_t at = fvk_wkv_at(a, item, s);
        PHASE(t) {
            if (saved && s % FVK_WKV == 0)
                saved[a->T * FVK_WKV + s / FVK_WKV * FVK_STATE + t] = AT(S, t);
            if (t >= FVK_WKV) continue;
            q[0].k[t] = fvk_get(a->k, at + t);
            r[t] = fvk_get(a->r, at + t);
            v[t] = fvk_get(a->v, at + t);
        }
        PHASE(t) {
            if (t < FVK_WKV) fvk_make_key(a, channel, q, t);
        }
        PHASE(t) part[t] = q[0].kk[t % FVK_WKV] * AT(S, t);
        PHASE(t) {
            if (t >= FVK_WKV) continue;
            sa[t] = 0;
            for (int j = 0; j < FVK_WKV; j++) sa[t] -= part[t * FVK_WKV + j];
            if (saved) saved[s * FVK_WKV + t] = sa[t];
        }
        PHASE(t) {
            const int i = t / FVK_WKV, j = t % FVK_WKV;
            AT(S, t) = AT(S, t) * a->w[channel + j] + sa[i] * q[0].b[j] + v[i] * q[0].kf[j];
            part[t] = AT(S, t) * r[j];
        }
        PHASE(t) {
            float y = 0;
            if (t >= FVK_WKV) continue;
            for (int j = 0; j < FVK_WKV; j++) y += part[t * FVK_WKV + j];
            fvk_put(a->y, at + t, y);
        }
    }
    PHASE(t) {
        if (a->s1) a->s1[item * FVK_STATE + t] = AT(S, t);
    }
}

FVK_KERNEL(wkv_dx)
{
    SHARED(fvk_key, q, 1);
    SHARED(float, state, (FVK_WKV + 1) * FVK_STATE); /* before each step of a piece, and after */
    SHARED(float, in, 4 * FVK_WKV);                  /* r, v, dy, sa */
    SHARED(float, g, FVK_STATE);
    SHARED(float, dsa, FVK_WKV);
    SHARED(float, dkf, FVK_WKV);
    SHARED(float, dkk, FVK_WKV);
    LOCAL(float, D);
    LOCAL(float, dw);
    LOCAL(float, da);
    LOCAL(float, df);
    const int64_t item = block_, channel = fvk_wkv_channel(a, item);
    const int64_t pieces = (a->T + FVK_WKV - 1) / FVK_WKV;
    const float *saved = a->saved + item * (a->T * FVK_WKV + pieces * FVK_STATE);
    const float *r = in, *v = in + FVK_WKV, *dy = in + 2 * FVK_WKV, *sa = in + 3 * FVK_WKV;
    (void)grid_;
    PHASE(t) AT(D, t) = AT(dw, t) = AT(da, t) = AT(df, t) = 0;
    /* Each piece: its steps forward, which makes the states again, then back. */
    for (int64_t p = pieces - 1; p >= 0; p--) {
        const int64_t s0 = p * FVK_WKV, n = a->T - s0 < FVK_WKV ? a->T - s0 : FVK_WKV;
        PHASE(t) state[t] = saved[a->T * FVK_WKV + p * FVK_STATE + t];
        for (int64_t step = 0; step < 2 * n; step++) {
            const int is_back = step >= n;
            const int64_t k = is_back ? 2 * n - 1 - step : step, at = fvk_wkv_at(a, item, s0 + k);
            const float *before = state + k * FVK_STATE, *after = before + FVK_STATE;
            PHASE(t) {
                if (t >= FVK_WKV) continue;
                q[0].k[t] = fvk_get(a->k, at + t);
                in[t] = fvk_get(a->r, at + t);
                in[FVK_WKV + t] = fvk_get(a->v, at + t);
                in[2 * FVK_WKV + t] = fvk_get(a->dy, at + t);
                in[3 * FVK_WKV + t] = saved[(s0 + k) * FVK_WKV + t];
            }
            PHASE(t) {
                if (t < FVK_WKV) fvk_make_key(a, channel, q, t);
            }
            PHASE(t) {
                const int i = t / FVK_WKV, j = t % FVK_WKV;
                if (!is_back) {
                    state[(k + 1) * FVK_STATE + t] =
                        before[t] * a->w[channel + j] + sa[i] * q[0].b[j] + v[i] * q[0].kf[j];
                    continue;
                }
                g[t] = AT(D, t) + dy[i] * r[j];
                AT(dw, t) += g[t] * before[t];
            }
            if (!is_back) continue;
            PHASE(t) { /* row t of values, column t of keys */
                float dv = 0, rows = 0, dr = 0, keys = 0, db = 0;
                if (t >= FVK_WKV) continue;
                for (int i = 0; i < FVK_WKV; i++) {
                    dv += g[t * FVK_WKV + i] * q[0].kf[i];
                    rows += g[t * FVK_WKV + i] * q[0].b[i];
                    dr += dy[i] * after[i * FVK_WKV + t];
                    keys += g[i * FVK_WKV + t] * v[i];
                    db += g[i * FVK_WKV + t] * sa[i];
                }
                dsa[t] = rows;
                dkf[t] = keys;
                dkk[t] = db * a->a[channel + t];
                AT(da, t) += db * q[0].kk[t];
                AT(df, t) += keys * q[0].k[t];
                if (a->dv.p) fvk_put(a->dv, at + t, dv);
                if (a->dr.p) fvk_put(a->dr, at + t, dr);
            }
            PHASE(t) {
                const int i = t / FVK_WKV, j = t % FVK_WKV;
                AT(D, t) = g[t] * a->w[channel + j] - dsa[i] * q[0].kk[j];
                for (int m = 0; t < FVK_WKV && m < FVK_WKV; m++)
                    dkk[t] -= dsa[m] * before[m * FVK_WKV + t];
            }
            PHASE(t) {
                float dot = 0;
                if (t >= FVK_WKV || !a->dk.p) continue;
                for (int j = 0; j < FVK_WKV; j++) dot += dkk[j] * q[0].kk[j];
                const float through =
                    q[0].norm > 1e-12f ? (dkk[t] - q[0].kk[t] * dot) / q[0].norm : 0.0f;
                fvk_put(a->dk, at + t, dkf[t] * a->f[channel + t] + through);
            }
        }
    }
    PHASE(t) g[t] = AT(dw, t);
    PHASE(t) {
        const int64_t to = item / (a->C / FVK_WKV) * a->C + channel + t, n = a->B * a->C;
        float sum = 0;
        if (t >= FVK_WKV) continue;
        for (int i = 0; i < FVK_WKV; i++) sum += g[i * FVK_WKV + t];
        a->part[to] = sum;
        a->part[n + to] = AT(da, t);
        a->part[2 * n + to] = AT(df, t);
    }
}

FVK_FN void fvk_head_back(const fvk_wkv_head_args *a, int64_t at, float mean, float rstd,
                          float bonus)
{
    float m1 = 0, m2 = 0, ds = 0;
    for (int64_t i = at; i < at + FVK_WKV; i++) {
        const float h = (fvk_get(a->y, i) - mean) * rstd, g = fvk_get(a->dz, i);
        m1 += g * a->w[i % a->C] / FVK_WKV;
        m2 += g * a->w[i % a->C] * h / FVK_WKV;
        ds += g * fvk_get(a->v, i);
    }
    a->stats[at / FVK_WKV * 3] = mean;
    a->stats[at / FVK_WKV * 3 + 1] = rstd;
    a->stats[at / FVK_WKV * 3 + 2] = ds;
    for (int64_t i = at; i < at + FVK_WKV; i++) {
        const float h = (fvk_get(a->y, i) - mean) * rstd, g = fvk_get(a->dz, i);
        const float u = a->u[i % a->C];
        if (a->dy.p) fvk_put(a->dy, i, (g * a->w[i % a->C] - m1 - h * m2) * rstd);
        if (a->dr.p) fvk_put(a->dr, i, ds * fvk_get(a->k, i) * u);
        if (a->dk.p) fvk_put(a->dk, i, ds * fvk_get(a->r, i) * u);
        if (a->dv.p) fvk_put(a->dv, i, g * bonus);
    }
}

FVK_KERNEL(wkv_head)
{
    PHASE(t) EACH(head, t, a->n / FVK_WKV) {
        const int64_t at = head * FVK_WKV;
        double mean = 0, var = 0, bonus = 0;
        for (int64_t i = at; i < at + FVK_WKV; i++) mean += fvk_get(a->y, i) / (double)FVK_WKV;
        for (int64_t i = at; i < at + FVK_WKV; i++) {
            const double d = fvk_get(a->y, i) - mean;
            var += d * d / FVK_WKV;
            bonus += (double)fvk_get(a->r, i) * fvk_get(a->k, i) * a->u[i % a->C];
        }
        const float m = (float)mean, rstd = (float)(1.0 / sqrt(var + a->eps)), s = (float)bonus;
        if (a->dz.p) {
            fvk_head_back(a, at, m, rstd, s);
            continue;
        }
        for (int64_t i = at; i < at + FVK_WKV; i++) {
            const float h = (fvk_get(a->y, i) - m) * rstd;
            fvk_put(a->z, i, h * a->w[i % a->C] + a->b[i % a->C] + s * fvk_get(a->v, i));
        }
    }
}

#endif
