/* rdvq_int_ref.c - RDVQ's entropy model in integers, in plain C: what rdvq_int_net.h describes, and
 * what it means where words leave a doubt. Every other variant must give the same bits. */
#include "rdvq_int_net.h"

static int32_t sat15(int32_t x) { return vz_clamp(x, -32767, 32767); }

static void dots_c(int32_t *out, int step_out, const rdvq_dots *d, const int16_t *x, int step_x,
                   int rows)
{
    for (int r = 0; r < rows; r++)
        for (int n = 0; n < 16 * d->blocks; n++) {
            const int16_t *w = d->w + (size_t)(n >> 4) * (size_t)d->stride * 32 + 2 * (n & 15);
            const int16_t *a = x + (size_t)r * (size_t)step_x;
            int32_t sum = 0;
            for (int k = 0; k < d->pairs; k++)
                sum += a[2 * k] * w[32 * k] + a[2 * k + 1] * w[32 * k + 1];
            out[(size_t)r * (size_t)step_out + (size_t)n] =
                d->mul ? nn_scaled(sum, d->mul[n], d->shift) : sum;
        }
}

static void norm_c(int16_t *y, const int32_t *r, int n)
{
    int64_t sum = 0;
    int q;
    for (int i = 0; i < n; i++) sum += (int64_t)r[i] * r[i];
    const int32_t R = nn_int_root((uint64_t)sum / (uint64_t)n + RDVQ_EPS, &q);
    for (int i = 0; i < n; i++) y[i] = (int16_t)sat15(nn_scaled(r[i], R, 35 + q));
}

static void unit_c(int16_t *y, const int32_t *x, const int16_t *turn, int n)
{
    uint64_t sum = 0;
    int q = 0;
    for (int i = 0; i < n; i++) sum += (uint64_t)((int64_t)sat15(x[i]) * sat15(x[i]));
    const int32_t R = sum > 0 ? nn_int_root(sum, &q) : 0;
    for (int i = 0; i < n; i++) {
        const int32_t t = sat15(x[i]) * turn[i] + sat15(x[i ^ 1]) * turn[n + i];
        y[i] = (int16_t)nn_scaled(t, R, 46 + q);
    }
}

static void attend_c(int16_t *P, int32_t *s, int n, int32_t scale)
{
    int32_t most = INT32_MIN;
    uint32_t Z = 0;
    for (int k = 0; k < n; k++) {
        s[k] = nn_rsh(nn_rsh(s[k], 13) * scale, 13);
        most = s[k] > most ? s[k] : most;
    }
    for (int k = 0; k < n; k++) {
        const uint32_t u = (uint32_t)(most - s[k]), shift = u >> 10;
        s[k] = (int32_t)(rdvq_exp2(u & 1023) >> (3 + (shift < 28 ? shift : 28)));
        Z += (uint32_t)s[k];
    }
    const int b = rdvq_bits_of(Z) - 17;
    const int32_t inv = (int32_t)(((uint64_t)1 << (29 + b)) / Z);
    for (int k = 0; k < n; k++) {
        const int32_t p = nn_rsh(s[k] * inv, 14 + b);
        P[k] = (int16_t)(p < 32767 ? p : 32767);
    }
    for (int k = n; k % 16; k++) P[k] = 0;
}

static void average_c(int16_t *o, const int32_t *sum, int n)
{
    for (int i = 0; i < n; i++) o[i] = (int16_t)sat15(nn_rsh(sum[i], 15));
}

static void gate_c(int16_t *h, const int32_t *g, const int32_t *l, int n, const rdvq_int_layer *y)
{
    for (int i = 0; i < n; i++) {
        const int32_t a = sat15(g[i]), b = sat15(l[i]);
        const int32_t s = nn_rsh(a * nn_int_sigmoid(a * (1 << y->up)), 15);
        h[i] = (int16_t)sat15(nn_rsh(s * b, y->down));
    }
}

static void spread_c(uint16_t *u, uint32_t *sum, const int32_t *logit, int n, int group)
{
    int32_t most = -RDVQ_LOGIT_LIMIT;
    for (int k = 0; k < n; k++) {
        const int32_t x = vz_clamp(logit[k], -RDVQ_LOGIT_LIMIT, RDVQ_LOGIT_LIMIT);
        most = x > most ? x : most;
    }
    for (int k = 0; k < n; k++) {
        const int32_t d = most - vz_clamp(logit[k], -RDVQ_LOGIT_LIMIT, RDVQ_LOGIT_LIMIT);
        u[k] = (uint16_t)(d < 65535 ? d : 65535);
    }
    for (int at = 0; at < n; at += group) {
        const int end = at + group < n ? at + group : n;
        uint32_t w = 0;
        for (int k = at; k < end; k++) w += rdvq_weight(u[k]);
        *sum++ = w;
    }
}

const rdvq_int_ops rdvq_int_ops_c = { "c", dots_c, norm_c, unit_c, attend_c, average_c, gate_c,
                                      spread_c };
