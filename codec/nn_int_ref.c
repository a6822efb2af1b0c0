/* nn_int_ref.c - the integer network in plain C: what nn_int.h describes, and what it means where
 * words leave a doubt. Every other variant must give the same bits.
 *
 * Experts: l_e = product of the router's rows with b, clamped to +-2^20, Q10. The first is the
 * largest, ties go to the lower number; the second likewise among the rest. w = sigmoid(l_1 - l_2);
 * the outputs q_1, q_2 of their feed-forward parts come in as
 *     x = sat_24(x + scaled(q_1, w 2^16, 31)), then the second with 2^15 - w, at most 32767. */
#include "nn_int.h"

static int32_t clamp_x(int64_t v)
{
    return v > NN_X_MAX ? NN_X_MAX : v < -NN_X_MAX ? -NN_X_MAX : (int32_t)v;
}

static void embed_c(int32_t *x, const int8_t *e, int n, int32_t mul, int shift)
{
    for (int i = 0; i < n; i++) x[i] = clamp_x(nn_scaled(e[i], mul, shift));
}

static void mix_c(int32_t *x, const int32_t *x0, int n, const int32_t mix[2])
{
    for (int i = 0; i < n; i++)
        x[i] = clamp_x(nn_rsh64((int64_t)x[i] * mix[0] + (int64_t)x0[i] * mix[1], 14));
}

/* mean is floored: shifted into the positive before dividing. */
static int32_t mean_of(const int32_t *x, int n)
{
    int64_t sum = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    const int64_t up = (int64_t)n << 25;
    return (int32_t)((sum + n / 2 + up) / n - ((int64_t)1 << 25));
}

static void normalise(int16_t *out, const int32_t *x, int n, int32_t mean, int64_t eps, int shift,
                      const int16_t *gain, const int16_t *bias)
{
    uint64_t sum = 0;
    int q;
    for (int i = 0; i < n; i++) {
        const int64_t d = x[i] - mean;
        sum += (uint64_t)(d * d);
    }
    const int32_t root = nn_int_root(sum / (uint64_t)n + (uint64_t)eps, &q);
    for (int i = 0; i < n; i++) {
        const int32_t xhat =
            vz_clamp(nn_scaled(x[i] - mean, root, 35 + q), -NN_XHAT_MAX, NN_XHAT_MAX);
        const int32_t y = nn_rsh(xhat * gain[i], shift) + (bias ? bias[i] : 0);
        out[i] = (int16_t)vz_clamp(y, -NN_ACT_MAX, NN_ACT_MAX);
    }
}

static void norm_c(int16_t *out, const int32_t *x, int n, const nn_int_norm *p)
{
    normalise(out, x, n, p->bias ? mean_of(x, n) : 0, p->eps, p->shift, p->gain, p->bias);
}

static void shift_c(int16_t *const out[3], const int16_t *a, const int16_t *before,
                    int16_t *const mu[3], int n)
{
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < n; i++) {
            const int32_t v = a[i] + nn_rsh((before[i] - a[i]) * mu[c][i], 14);
            out[c][i] = (int16_t)vz_clamp(v, -NN_ACT_MAX, NN_ACT_MAX);
        }
}

static void product_c(int32_t *out, const nn_int_matrix *m, int row0, int rows, const int16_t *x)
{
    for (int g = row0; g < row0 + rows; g += 16) {
        const int8_t *w = m->w + (size_t)g * (size_t)m->columns;
        int32_t acc[16] = {0};
        for (int k = 0; k < m->columns; k += 2, w += 32)
            for (int i = 0; i < 16; i++) acc[i] += w[2 * i] * x[k] + w[2 * i + 1] * x[k + 1];
        for (int i = 0; i < 16; i++) out[g - row0 + i] = nn_scaled(acc[i], m->mul[g + i], m->shift);
    }
}

static void narrow_c(int16_t *out, const int32_t *x, int n, int32_t limit)
{
    for (int i = 0; i < n; i++) out[i] = (int16_t)vz_clamp(x[i], -limit, limit);
}

static void square_c(int16_t *out, const int32_t *x, int n)
{
    for (int i = 0; i < n; i++) {
        const int32_t u = vz_clamp(x[i], 0, 32767), v = nn_rsh(u * u, 17);
        out[i] = (int16_t)(v > NN_ACT_MAX ? NN_ACT_MAX : v);
    }
}

static void add_c(int32_t *x, const int32_t *y, int n)
{
    for (int i = 0; i < n; i++) x[i] = clamp_x((int64_t)x[i] + y[i]);
}

static void lerp_c(int16_t *v, const int16_t *v1, const int16_t *mix, int n)
{
    for (int i = 0; i < n; i++) {
        const int32_t y = v[i] + nn_rsh((v1[i] - v[i]) * mix[i], 14);
        v[i] = (int16_t)vz_clamp(y, -NN_ACT_MAX, NN_ACT_MAX);
    }
}

/* ---- Recurrence ------------------------------------------------------------------------------ */

typedef struct key_parts {
    int32_t kk[NN_HEAD], kb[NN_HEAD], K[NN_HEAD], bonus;
} key_parts;

static void key_parts_of(const nn_int_wkv *w, key_parts *p)
{
    const nn_int_layer *y = w->layer;
    int32_t sum = 0, bonus = 0, q = 0, root = 0;
    for (int j = 0; j < NN_HEAD; j++) sum += w->k[j] * w->k[j];
    if (sum > 0) root = nn_int_root((uint64_t)sum, &q);
    for (int j = 0; j < NN_HEAD; j++) {
        const int32_t k = w->k[j];
        p->kk[j] = nn_scaled(k, root, 33 + q);
        p->kb[j] = nn_rsh(p->kk[j] * y->rate[w->at + j], 14);
        p->K[j] = vz_clamp(nn_scaled(k, y->key[w->at + j], y->key_shift), -NN_SA_MAX, NN_SA_MAX);
        bonus += w->r[j] * vz_clamp(nn_scaled(k, y->bonus[w->at + j], y->bonus_shift), -NN_ACT_MAX,
                                    NN_ACT_MAX);
    }
    p->bonus = vz_clamp(nn_scaled(bonus, y->bonus_mul, y->bonus_mul_shift), -32767, 32767);
}

static void time_mix_head(const nn_int_wkv *w)
{
    const nn_int_layer *l = w->layer;
    const int16_t *u = l->decay + w->at;
    int32_t sa[NN_HEAD] = {0}, Y[NN_HEAD] = {0};
    key_parts p;
    key_parts_of(w, &p);
    for (int j = 0; j < NN_HEAD; j++)
        for (int i = 0; i < NN_HEAD; i++) sa[i] += p.kk[j] * nn_rsh(w->S[j * NN_HEAD + i], 12);
    for (int i = 0; i < NN_HEAD; i++) sa[i] = vz_clamp(-nn_rsh(sa[i], 12), -NN_SA_MAX, NN_SA_MAX);
    for (int j = 0; j < NN_HEAD; j++)
        for (int i = 0; i < NN_HEAD; i++) {
            int32_t s = w->S[j * NN_HEAD + i];
            s -= vz_sar(nn_rsh(s, 11) * u[j], 5);
            s += vz_sar(sa[i] * p.kb[j] + w->v[i] * p.K[j] + 4, 3);
            s = vz_clamp(s, -NN_STATE_MAX, NN_STATE_MAX);
            w->S[j * NN_HEAD + i] = s;
            Y[i] += w->r[j] * nn_rsh(s, 12);
        }
    for (int i = 0; i < NN_HEAD; i++) Y[i] = nn_rsh(Y[i], 6);
    normalise(w->z, Y, NN_HEAD, mean_of(Y, NN_HEAD), l->head_eps[w->at / NN_HEAD], l->head.shift,
              l->head.gain + w->at, l->head.bias + w->at);
    for (int i = 0; i < NN_HEAD; i++)
        w->z[i] =
            (int16_t)vz_clamp(w->z[i] + nn_rsh(p.bonus * w->v[i], 12), -NN_ACT_MAX, NN_ACT_MAX);
}

static void time_mix_c(const nn_int_wkv *all)
{
    nn_int_wkv w = *all;
    for (int h = 0; h < all->heads; h++) {
        time_mix_head(&w);
        w.S += NN_HEAD * NN_HEAD;
        w.r += NN_HEAD;
        w.k += NN_HEAD;
        w.v += NN_HEAD;
        w.z += NN_HEAD;
        w.at += NN_HEAD;
    }
}

static void gate_c(int16_t *z, const int16_t *xrg, int n, int32_t gate, int shift)
{
    for (int i = 0; i < n; i++)
        z[i] = (int16_t)nn_rsh(z[i] * nn_int_sigmoid(nn_rsh(xrg[i] * gate, shift)), 15);
}

/* ---- Head ------------------------------------------------------------------------------------ */

static int32_t dot_c(const int8_t *w, const int16_t *h, int n)
{
    int32_t sum = 0;
    for (int i = 0; i < n; i++) sum += w[i] * h[i];
    return sum;
}

static int32_t dot_delta_c(const int16_t *d, const int16_t *h, int n)
{
    int32_t sum = 0;
    for (int i = 0; i < n; i += 2) sum += vz_sar(d[i] * h[i] + d[i + 1] * h[i + 1], 8);
    return sum;
}

static void adapt_c(int16_t *d, const int16_t *h, int n, int32_t e, int rate)
{
    for (int i = 0; i < n; i++)
        d[i] = (int16_t)vz_clamp(d[i] + nn_rsh(h[i] * e, rate), -32767, 32767);
}

const nn_int_ops nn_int_ops_c = {"scalar",   embed_c,  mix_c,    norm_c,      shift_c,
                                 product_c,  narrow_c, square_c, add_c,       lerp_c,
                                 time_mix_c, gate_c,   dot_c,    dot_delta_c, adapt_c};

/* ---- The step -------------------------------------------------------------------------------- */

static void attention(nn_int_state *s, const nn_int_ops *o, int l)
{
    const nn_int_model *m = s->model;
    const nn_int_layer *y = &m->layer[l];
    const int n = m->cfg.width;
    int16_t *before = s->shift + (size_t)l * (size_t)n;
    o->norm(s->a, s->x, n, &y->ln1);
    o->shift(s->xs, s->a, before, y->mu, n);
    memcpy(before, s->a, (size_t)n * sizeof *before);
    o->product(s->acc, &y->r, 0, n, s->xs[0]);
    o->narrow(s->r, s->acc, n, NN_R_MAX);
    o->product(s->acc, &y->k, 0, n, s->xs[1]);
    o->narrow(s->k, s->acc, n, NN_ACT_MAX);
    o->product(s->acc, &y->v, 0, n, s->xs[2]);
    o->narrow(s->v, s->acc, n, NN_ACT_MAX);
    if (l == 0) memcpy(s->v1, s->v, (size_t)n * sizeof *s->v);
    else o->lerp(s->v, s->v1, y->value_mix, n);
    const nn_int_wkv w = {
        s->wkv + (size_t)l * (size_t)n * NN_HEAD, s->r, s->k, s->v, y, 0, n / NN_HEAD, s->z};
    o->time_mix(&w);
    o->gate(s->z, s->xs[0], n, y->gate, y->gate_shift);
    o->product(s->acc, &y->out, 0, n, s->z);
    o->add(s->x, s->acc, n);
}

/* acc = the feed-forward part of one expert */
static void feed(nn_int_state *s, const nn_int_ops *o, const nn_int_layer *y, int expert)
{
    const int n = s->model->cfg.width, H = s->model->cfg.hidden;
    o->product(s->acc2, &y->up, expert * H, H, s->a);
    o->square(s->u, s->acc2, H);
    o->product(s->acc, &y->down, expert * n, n, s->u);
}

/* Numbers of the two experts that work; returns the weight of the first, Q15. */
static int32_t route(const int32_t *logit, int experts, int best[2])
{
    best[0] = logit[1] > logit[0];
    best[1] = !best[0];
    for (int e = 2; e < experts; e++) {
        if (logit[e] > logit[best[0]]) {
            best[1] = best[0];
            best[0] = e;
        } else if (logit[e] > logit[best[1]]) {
            best[1] = e;
        }
    }
    const int32_t far = 1 << 20;
    return nn_int_sigmoid(vz_clamp(logit[best[0]], -far, far) -
                          vz_clamp(logit[best[1]], -far, far));
}

static void feed_forward(nn_int_state *s, const nn_int_ops *o, int l)
{
    const nn_int_model *m = s->model;
    const nn_int_layer *y = &m->layer[l];
    const int n = m->cfg.width;
    o->norm(s->a, s->x, n, &y->ln2);
    if (m->cfg.experts == 0) {
        feed(s, o, y, 0);
        o->add(s->x, s->acc, n);
        return;
    }
    int best[2];
    o->product(s->acc, &y->router, 0, y->router.rows, s->a);
    const int32_t first = route(s->acc, m->cfg.experts, best);
    for (int i = 0; i < 2; i++) {
        const int32_t w = i ? vz_clamp(32768 - first, 0, 32767) : first;
        feed(s, o, y, best[i]);
        for (int c = 0; c < n; c++) s->acc[c] = nn_scaled(s->acc[c], w << 16, 31);
        o->add(s->x, s->acc, n);
    }
}

void nn_int_step(nn_int_state *s, int token)
{
    const nn_int_model *m = s->model;
    const nn_int_ops *o = m->ops;
    const int n = m->cfg.width;
    o->embed(s->x, m->embed + (size_t)token * (size_t)n, n, m->embed_mul[token], m->embed_shift);
    memcpy(s->x0, s->x, (size_t)n * sizeof *s->x);
    for (int l = 0; l < m->cfg.layers; l++) {
        o->mix(s->x, s->x0, n, m->layer[l].mix);
        attention(s, o, l);
        feed_forward(s, o, l);
    }
    o->norm(s->h, s->x, n, &m->norm);
}

int32_t nn_int_logit(const nn_int_state *s, int node)
{
    const nn_int_model *m = s->model;
    const int n = m->cfg.width;
    const size_t at = (size_t)node * (size_t)n;
    const int32_t dot = m->ops->dot(m->head + at, s->h, n) + m->head_bias[node];
    int32_t y = nn_scaled(dot, m->head_mul[node], m->head_shift);
    y = vz_clamp(y, -(1 << 20), 1 << 20);
    if (s->delta)
        y += nn_rsh(m->ops->dot_delta(s->delta + at, s->h, n), NN_ADAPT_SHIFT) +
             nn_rsh(s->delta_bias[node], 8);
    return vz_clamp(y, -VZ_LOGIT_MAX, VZ_LOGIT_MAX);
}

void nn_int_adapt(nn_int_state *s, int node, int32_t error)
{
    const nn_int_model *m = s->model;
    if (!s->delta) return;
    const int32_t e = vz_sar(vz_clamp(error, -65535, 65535), 1);
    int bits = 0;
    for (uint32_t v = s->visits[node]; v > 0; v >>= 1) bits++;
    if (s->visits[node] < 65535) s->visits[node]++;
    m->ops->adapt(s->delta + (size_t)node * (size_t)m->cfg.width, s->h, m->cfg.width, e,
                  m->adapt_rate + bits / 4);
    s->delta_bias[node] = vz_clamp(s->delta_bias[node] + vz_sar(e, 7), -(1 << 20), 1 << 20);
}
