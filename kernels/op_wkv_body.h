/* op_wkv_body.h - vector rows of op_wkv.c; included by its AVX2 and AVX-512 files.
 *
 * A head is 16 wide: one AVX-512 vector or two of AVX2 (WP parts). Forward keeps the state with the
 * value index along the vector, so that every sum over keys is a chain of multiply-adds with a
 * broadcast. Backward keeps the gradient of the state in both orders, which costs 32 multiply-adds
 * a step and saves 32 sums across lanes. */
#include "op_vec.h"

#include <string.h>

#define WP (FVI_WKV_HEAD / VW)
#define N FVI_WKV_HEAD

FV_INLINE vf w_get(fvi_in x, int64_t i)
{
    return v_load(x.p, i, x.bf16, VW);
}

/* What a step needs of the key: kk = k / max(|k|, 1e-12), b = kk*a, kf = k*f; returns |k|. */
FV_INLINE float key_parts_v(const fvi_wkv_head *h, int64_t at, float *k, float *kk, float *b,
                            float *kf)
{
    vf sum = v_zero();
    for (int p = 0; p < WP; p++) {
        const vf x = w_get(h->k, at + p * VW);
        v_st(k + p * VW, x);
        sum = v_fma(x, x, sum);
    }
    const float norm = sqrtf(v_hsum(sum));
    const vf inv = v_set1(1.0f / (norm > FVI_WKV_EPS ? norm : FVI_WKV_EPS));
    for (int p = 0; p < WP; p++) {
        const vf x = v_ld(k + p * VW), u = v_mul(x, inv);
        v_st(kk + p * VW, u);
        v_st(b + p * VW, v_mul(u, v_ld(h->a + p * VW)));
        v_st(kf + p * VW, v_mul(x, v_ld(h->f + p * VW)));
    }
    return norm;
}

static void wkv_forward_v(const fvi_wkv_head *h)
{
    vf S[N][WP];
    float k[N], kk[N], b[N], kf[N], r[N], tmp[N * N];
    for (int j = 0; j < N; j++)
        for (int i = 0; i < N; i++) tmp[j * N + i] = h->s0 ? h->s0[i * N + j] : 0.0f;
    for (int j = 0; j < N; j++)
        for (int p = 0; p < WP; p++) S[j][p] = v_ld(tmp + j * N + p * VW);
    for (int64_t t = 0; t < h->T; t++) {
        const int64_t at = t * h->stride;
        if (h->saved && t % FVI_WKV_STEPS == 0) {
            float *c = h->saved + h->T * N + t / FVI_WKV_STEPS * (N * N);
            for (int j = 0; j < N; j++)
                for (int p = 0; p < WP; p++) v_st(tmp + j * N + p * VW, S[j][p]);
            for (int i = 0; i < N; i++)
                for (int j = 0; j < N; j++) c[i * N + j] = tmp[j * N + i];
        }
        (void)key_parts_v(h, at, k, kk, b, kf);
        for (int p = 0; p < WP; p++) { v_st(r + p * VW, w_get(h->r, at + p * VW)); }
        for (int p = 0; p < WP; p++) {
            const vf v = w_get(h->v, at + p * VW);
            vf sa = v_zero(), y = v_zero();
            FV_UNROLL
            for (int j = 0; j < N; j++) sa = v_fnma(v_set1(kk[j]), S[j][p], sa);
            FV_UNROLL
            for (int j = 0; j < N; j++) {
                vf s = v_mul(S[j][p], v_set1(h->w[j]));
                s = v_fma(sa, v_set1(b[j]), s);
                s = v_fma(v, v_set1(kf[j]), s);
                S[j][p] = s;
                y = v_fma(s, v_set1(r[j]), y);
            }
            if (h->saved) v_st(h->saved + t * N + p * VW, sa);
            v_put(h->y, at + p * VW, VW, y);
        }
    }
    if (!h->s1) return;
    for (int j = 0; j < N; j++)
        for (int p = 0; p < WP; p++) v_st(tmp + j * N + p * VW, S[j][p]);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) h->s1[i * N + j] = tmp[j * N + i];
}

/* States of the steps t0 .. t0+n-1 of one piece: S[s] before step s, key index along the vector. */
typedef struct piece {
    float S[FVI_WKV_STEPS + 1][N * N];
    float k[FVI_WKV_STEPS][N], kk[FVI_WKV_STEPS][N], b[FVI_WKV_STEPS][N], kf[FVI_WKV_STEPS][N];
    float norm[FVI_WKV_STEPS];
} piece;

static void replay_v(const fvi_wkv_head *h, int64_t t0, int n, piece *q)
{
    memcpy(q->S[0], h->saved + h->T * N + t0 / FVI_WKV_STEPS * (N * N), sizeof q->S[0]);
    for (int s = 0; s < n; s++) {
        const int64_t at = (t0 + s) * h->stride;
        const float *sa = h->saved + (t0 + s) * N;
        float v[N];
        q->norm[s] = key_parts_v(h, at, q->k[s], q->kk[s], q->b[s], q->kf[s]);
        for (int p = 0; p < WP; p++) v_st(v + p * VW, w_get(h->v, at + p * VW));
        for (int i = 0; i < N; i++)
            for (int p = 0; p < WP; p++) {
                vf x = v_mul(v_ld(q->S[s] + i * N + p * VW), v_ld(h->w + p * VW));
                x = v_fma(v_set1(sa[i]), v_ld(q->b[s] + p * VW), x);
                x = v_fma(v_set1(v[i]), v_ld(q->kf[s] + p * VW), x);
                v_st(q->S[s + 1] + i * N + p * VW, x);
            }
    }
}

/* Gradients of one step. D1 [j][i] and D2 [i][j]: gradient of the state after it, becomes that of
 * the state before. */
static void step_back_v(const fvi_wkv_head *h, const fvi_wkv_grad *g, int64_t t, const piece *q,
                        int s, float *D1, float *D2)
{
    const int64_t at = t * h->stride;
    const float *sa = h->saved + t * N;
    float r[N], v[N], dy[N], dsa[N], dot = 0;
    for (int p = 0; p < WP; p++) {
        v_st(r + p * VW, w_get(h->r, at + p * VW));
        v_st(v + p * VW, w_get(h->v, at + p * VW));
        v_st(dy + p * VW, w_get(g->dy, at + p * VW));
    }
    for (int p = 0; p < WP; p++) {
        const vf y = v_ld(dy + p * VW);
        vf dv = v_zero(), ds = v_zero();
        for (int j = 0; j < N; j++) {
            const vf G = v_fma(y, v_set1(r[j]), v_ld(D1 + j * N + p * VW));
            v_st(D1 + j * N + p * VW, G);
            dv = v_fma(G, v_set1(q->kf[s][j]), dv);
            ds = v_fma(G, v_set1(q->b[s][j]), ds);
        }
        for (int j = 0; j < N; j++) {
            const vf G = v_mul(v_ld(D1 + j * N + p * VW), v_set1(h->w[j]));
            v_st(D1 + j * N + p * VW, v_fnma(ds, v_set1(q->kk[s][j]), G));
        }
        v_st(dsa + p * VW, ds);
        if (g->dv.p) v_put(g->dv, at + p * VW, VW, dv);
    }
    vf dkk[WP], dkf[WP];
    vf across = v_zero();
    for (int p = 0; p < WP; p++) {
        const vf R = v_ld(r + p * VW), W = v_ld(h->w + p * VW), K = v_ld(q->kk[s] + p * VW);
        vf dr = v_zero(), db = v_zero(), dw = v_ld(g->dw + p * VW);
        dkk[p] = dkf[p] = v_zero();
        for (int i = 0; i < N; i++) {
            const vf before = v_ld(q->S[s] + i * N + p * VW), dsi = v_set1(dsa[i]);
            const vf dyi = v_set1(dy[i]), G = v_fma(R, dyi, v_ld(D2 + i * N + p * VW));
            dr = v_fma(dyi, v_ld(q->S[s + 1] + i * N + p * VW), dr);
            dkf[p] = v_fma(G, v_set1(v[i]), dkf[p]);
            db = v_fma(G, v_set1(sa[i]), db);
            dw = v_fma(G, before, dw);
            dkk[p] = v_fnma(dsi, before, dkk[p]);
            v_st(D2 + i * N + p * VW, v_fnma(dsi, K, v_mul(G, W)));
        }
        v_st(g->dw + p * VW, dw);
        v_st(g->da + p * VW, v_fma(db, K, v_ld(g->da + p * VW)));
        v_st(g->df + p * VW, v_fma(dkf[p], v_ld(q->k[s] + p * VW), v_ld(g->df + p * VW)));
        if (g->dr.p) v_put(g->dr, at + p * VW, VW, dr);
        dkk[p] = v_fma(db, v_ld(h->a + p * VW), dkk[p]);
        across = v_fma(dkk[p], K, across);
    }
    if (!g->dk.p) return;
    dot = v_hsum(across);
    const vf inv = v_set1(q->norm[s] > FVI_WKV_EPS ? 1.0f / q->norm[s] : 0.0f);
    for (int p = 0; p < WP; p++) {
        const vf K = v_ld(q->kk[s] + p * VW);
        const vf through = v_mul(v_fnma(K, v_set1(dot), dkk[p]), inv);
        v_put(g->dk, at + p * VW, VW, v_fma(dkf[p], v_ld(h->f + p * VW), through));
    }
}

static void wkv_backward_v(const fvi_wkv_head *h, const fvi_wkv_grad *g)
{
    piece q;
    float D1[N * N] = {0}, D2[N * N] = {0};
    for (int64_t c = (h->T - 1) / FVI_WKV_STEPS; c >= 0; c--) {
        const int64_t t0 = c * FVI_WKV_STEPS;
        const int n = (int)(h->T - t0 < FVI_WKV_STEPS ? h->T - t0 : FVI_WKV_STEPS);
        replay_v(h, t0, n, &q);
        for (int s = n - 1; s >= 0; s--) step_back_v(h, g, t0 + s, &q, s, D1, D2);
    }
}

/* ---- Norm per head, bonus -------------------------------------------------------------------- */

typedef struct head_stats {
    float mean, rstd, bonus;
} head_stats;

FV_INLINE head_stats head_stats_v(const fvi_head_row *h, int64_t at)
{
    vf sum = v_zero(), var = v_zero(), dot = v_zero();
    head_stats st;
    for (int p = 0; p < WP; p++) sum = v_add(sum, w_get(h->y, at + p * VW));
    st.mean = v_hsum(sum) / N;
    for (int p = 0; p < WP; p++) {
        const int64_t i = at + p * VW;
        const vf d = v_sub(w_get(h->y, i), v_set1(st.mean));
        var = v_fma(d, d, var);
        dot = v_fma(v_mul(w_get(h->r, i), w_get(h->k, i)), v_ld(h->u + i), dot);
    }
    st.rstd = 1.0f / sqrtf(v_hsum(var) / N + h->eps);
    st.bonus = v_hsum(dot);
    return st;
}

static void head_forward_v(const fvi_head_row *h)
{
    for (int64_t at = 0; at < h->n; at += N) {
        const head_stats st = head_stats_v(h, at);
        const vf mean = v_set1(st.mean), rstd = v_set1(st.rstd), bonus = v_set1(st.bonus);
        for (int64_t i = at; i < at + N; i += VW) {
            const vf x = v_mul(v_sub(w_get(h->y, i), mean), rstd);
            const vf z = v_fma(x, v_ld(h->w + i), v_ld(h->b + i));
            v_put(h->z, i, VW, v_fma(bonus, w_get(h->v, i), z));
        }
    }
}

static void head_backward_v(const fvi_head_row *h)
{
    for (int64_t at = 0; at < h->n; at += N) {
        const head_stats st = head_stats_v(h, at);
        const vf mean = v_set1(st.mean), rstd = v_set1(st.rstd), bonus = v_set1(st.bonus);
        vf m1 = v_zero(), m2 = v_zero(), ds = v_zero();
        for (int64_t i = at; i < at + N; i += VW) {
            const vf x = v_mul(v_sub(w_get(h->y, i), mean), rstd), g = w_get(h->dz, i);
            const vf gw = v_mul(g, v_ld(h->w + i));
            m1 = v_add(m1, gw);
            m2 = v_fma(gw, x, m2);
            ds = v_fma(g, w_get(h->v, i), ds);
            v_st(h->dw + i, v_fma(g, x, v_ld(h->dw + i)));
            v_st(h->db + i, v_add(g, v_ld(h->db + i)));
        }
        const vf a = v_set1(v_hsum(m1) / N), b = v_set1(v_hsum(m2) / N), s = v_set1(v_hsum(ds));
        for (int64_t i = at; i < at + N; i += VW) {
            const vf x = v_mul(v_sub(w_get(h->y, i), mean), rstd), g = w_get(h->dz, i);
            const vf r = w_get(h->r, i), k = w_get(h->k, i), u = v_ld(h->u + i);
            const vf dx = v_sub(v_sub(v_mul(g, v_ld(h->w + i)), a), v_mul(x, b));
            if (h->dy.p) v_put(h->dy, i, VW, v_mul(dx, rstd));
            if (h->dr.p) v_put(h->dr, i, VW, v_mul(s, v_mul(k, u)));
            if (h->dk.p) v_put(h->dk, i, VW, v_mul(s, v_mul(r, u)));
            if (h->dv.p) v_put(h->dv, i, VW, v_mul(g, bonus));
            v_st(h->du + i, v_fma(s, v_mul(r, k), v_ld(h->du + i)));
        }
    }
}

/* ---- Interpolation --------------------------------------------------------------------------- */

FV_INLINE vf other(fvi_in b, int64_t i, int m)
{
    return b.p ? v_get(b, i, m) : v_zero();
}

static void lerp_v(fvi_out y, fvi_in a, fvi_in b, const float *mix, int64_t n)
{
    V_EACH(n, const vf x = v_get(a, i, m);
           v_put(y, i, m, v_fma(v_sub(other(b, i, m), x), v_getf(mix, i, m), x)););
}

static void lerp_da_v(fvi_out da, fvi_in dy, const float *mix, int64_t n)
{
    V_EACH(n, const vf g = v_get(dy, i, m); v_put(da, i, m, v_fnma(g, v_getf(mix, i, m), g)););
}

static void lerp_dmix_v(float *sum, fvi_in dy, fvi_in a, fvi_in b, int64_t n)
{
    V_EACH(n, const vf d = v_sub(other(b, i, m), v_get(a, i, m));
           v_putf(sum, i, m, v_fma(v_get(dy, i, m), d, v_getf(sum, i, m))););
}

void WKV_INIT(fvi_wkv_ops *o)
{
    o->forward = wkv_forward_v;
    o->backward = wkv_backward_v;
    o->head = head_forward_v;
    o->head_bwd = head_backward_v;
    o->lerp = lerp_v;
    o->lerp_da = lerp_da_v;
    o->lerp_dmix = lerp_dmix_v;
}
