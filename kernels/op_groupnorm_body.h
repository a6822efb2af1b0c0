/* op_groupnorm_body.h - vector rows of op_groupnorm.c; included by its AVX2 and AVX-512 files. */
#include "op_vec.h"

static void sqdev_v(float *sum, fvi_in x, const float *mean, int64_t n)
{
    V_EACH(n, const vf d = v_sub(v_get(x, i, m), v_getf(mean, i, m));
           v_putf(sum, i, m, v_fma(d, d, v_getf(sum, i, m))););
}

static void apply_v(fvi_out y, fvi_in x, const fvi_group_coef *c, int64_t n)
{
    const fv_act act = c->act;
    V_EACH(n,
           const vf h = v_mul(v_sub(v_get(x, i, m), v_getf(c->mean, i, m)), v_getf(c->rstd, i, m));
           const vf v = v_fma(h, v_getf(c->w, i, m), v_getf(c->b, i, m));
           if (act == FV_ACT_SILU) v_put(y, i, m, v_act(FV_ACT_SILU, v));
           else if (act == FV_ACT_RELU) v_put(y, i, m, v_act(FV_ACT_RELU, v));
           else v_put(y, i, m, v););
}

/* yhat, and dv = dy * act'(v) */
FV_INLINE vf dv_v(fvi_in x, fvi_in dy, const fvi_group_coef *c, int64_t i, int m, vf *h)
{
    *h = v_mul(v_sub(v_get(x, i, m), v_getf(c->mean, i, m)), v_getf(c->rstd, i, m));
    const vf g = v_get(dy, i, m);
    if (c->act == FV_ACT_NONE) return g;
    const vf v = v_fma(*h, v_getf(c->w, i, m), v_getf(c->b, i, m));
    return v_mul(g, c->act == FV_ACT_SILU ? v_dact(FV_ACT_SILU, v) : v_dact(FV_ACT_RELU, v));
}

static void bwd_sums_v(float *sum_dv, float *sum_dvx, fvi_in x, fvi_in dy, const fvi_group_coef *c,
                       int64_t n)
{
    V_EACH(n, vf h; const vf dv = dv_v(x, dy, c, i, m, &h);
           v_putf(sum_dv, i, m, v_add(v_getf(sum_dv, i, m), dv));
           v_putf(sum_dvx, i, m, v_fma(dv, h, v_getf(sum_dvx, i, m))););
}

static void bwd_apply_v(fvi_out dx, fvi_in x, fvi_in dy, const fvi_group_coef *c, int64_t n)
{
    V_EACH(n, vf h; const vf dv = dv_v(x, dy, c, i, m, &h);
           vf t = v_sub(v_mul(dv, v_getf(c->w, i, m)), v_getf(c->m1, i, m));
           t = v_fnma(h, v_getf(c->m2, i, m), t);
           v_put(dx, i, m, v_mul(t, v_getf(c->rstd, i, m))););
}

void GROUP_INIT(fvi_group_ops *o)
{
    o->sqdev = sqdev_v;
    o->apply = apply_v;
    o->bwd_sums = bwd_sums_v;
    o->bwd_apply = bwd_apply_v;
}
