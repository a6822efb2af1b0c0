/* op_norm_body.h - vector rows of op_norm.c; included by its AVX2 and AVX-512 files.
 *
 * A row (some KB) stays in L1 between the passes, so memory sees it once. */
#include "op_vec.h"

FV_INLINE void norm_stats_v(fvi_norm_row *r)
{
    const int64_t n = r->n;
    vf sum = v_zero(), sq = v_zero();
    r->mean = 0.0f;
    if (!r->rms) {
        V_EACH(n, sum = v_add(sum, v_tail(v_get(r->x, i, m), m, 0.0f)););
        r->mean = v_hsum(sum) / (float)n;
    }
    const vf mean = v_set1(r->mean);
    V_EACH(n, const vf d = v_tail(v_sub(v_get(r->x, i, m), mean), m, 0.0f); sq = v_fma(d, d, sq););
    r->rstd = 1.0f / sqrtf(v_hsum(sq) / (float)n + r->eps);
}

static void norm_v(fvi_norm_row *r)
{
    norm_stats_v(r);
    const vf mean = v_set1(r->mean), rstd = v_set1(r->rstd);
    const fvi_in x = r->x;
    const fvi_out y = r->y;
    const float *gain = r->gain, *offset = r->offset;
    V_EACH(r->n, const vf h = v_mul(v_sub(v_get(x, i, m), mean), rstd);
           v_put(y, i, m, v_fma(h, v_getf(gain, i, m), v_getf(offset, i, m))););
}

/* Two sums over the row, and the column sums; see norm_bwd_c. */
FV_INLINE void norm_bwd_sums_v(const fvi_norm_row *r, float *s1, float *s2)
{
    const vf mean = v_set1(r->mean), rstd = v_set1(r->rstd);
    const fvi_in x = r->x, dy = r->dy;
    float *sd = r->sum_dy, *sx = r->sum_dyx;
    vf a = v_zero(), b = v_zero();
    V_EACH(r->n, const vf h = v_mul(v_sub(v_get(x, i, m), mean), rstd);
           const vf g = v_get(dy, i, m);
           const vf t = v_mul(g, v_getf(r->gain, i, m)); /* masked lanes: 0 */
           a = v_add(a, t);
           b = v_fma(t, h, b);
           if (sd) {
               v_putf(sd, i, m, v_add(v_getf(sd, i, m), g));
               v_putf(sx, i, m, v_fma(g, h, v_getf(sx, i, m)));
           });
    *s1 = r->rms ? 0.0f : v_hsum(a) / (float)r->n;
    *s2 = v_hsum(b) / (float)r->n;
}

static void norm_bwd_v(const fvi_norm_row *r)
{
    float s1, s2;
    norm_bwd_sums_v(r, &s1, &s2);
    if (!r->y.p) return;
    const vf mean = v_set1(r->mean), rstd = v_set1(r->rstd), m1 = v_set1(s1), m2 = v_set1(s2);
    const fvi_in x = r->x, dy = r->dy;
    const fvi_out dx = r->y;
    V_EACH(r->n, const vf h = v_mul(v_sub(v_get(x, i, m), mean), rstd);
           const vf t = v_fma(v_get(dy, i, m), v_getf(r->gain, i, m), v_neg(m1));
           v_put(dx, i, m, v_mul(rstd, v_fnma(h, m2, t))););
}

static void gate_v(fvi_out h2, fvi_in h, fvi_in y, const float *gate, int64_t n)
{
    if (gate)
        V_EACH(n, v_put(h2, i, m, v_fma(v_get(y, i, m), v_getf(gate, i, m), v_get(h, i, m))););
    else
        V_EACH(n, v_put(h2, i, m, v_add(v_get(y, i, m), v_get(h, i, m))););
}

/* One loop per count: the sum stays in a register. */
static void forecast_v(fvi_out h2, fvi_in h, const fvi_in *y, const float *w, int count,
                       const float *gate, int64_t n)
{
    const vf one = v_set1(1.0f);
#define FORECAST(count)                                                                     \
    V_EACH(n, vf sum = v_mul(v_set1(w[0]), v_get(y[0], i, m));                              \
           for (int k = 1; k < (count); k++) sum = v_fma(v_set1(w[k]), v_get(y[k], i, m), sum); \
           v_put(h2, i, m, v_fma(sum, gate ? v_getf(gate, i, m) : one, v_get(h, i, m)));)
    switch (count) {
    case 1: FORECAST(1); break;
    case 2: FORECAST(2); break;
    case 3: FORECAST(3); break;
    case 4: FORECAST(4); break;
    default: FORECAST(5);
    }
#undef FORECAST
}

static void gate_bwd_v(fvi_out dy, float *sum, fvi_in g, fvi_in y, const float *gate, int64_t n)
{
    const vf one = v_set1(1.0f);
    V_EACH(n, const vf d = v_get(g, i, m);
           if (sum) v_putf(sum, i, m, v_fma(d, v_get(y, i, m), v_getf(sum, i, m)));
           if (dy.p) v_put(dy, i, m, v_mul(d, gate ? v_getf(gate, i, m) : one)););
}

void NORM_INIT(fvi_norm_ops *o)
{
    o->norm = norm_v;
    o->norm_bwd = norm_bwd_v;
    o->gate = gate_v;
    o->forecast = forecast_v;
    o->gate_bwd = gate_bwd_v;
}
