/* op_vq_body.h - vector rows of op_vq.c; included by its AVX2 and AVX-512 files. */
#include "op_vec.h"

static void nearest_v(int32_t *index, const float *z, int64_t n, const fvi_vq_codes *c)
{
    for (int64_t i = 0; i < n; i++, z += c->width) {
        vf best = v_set1(-INFINITY), where = v_zero(); /* where: first code of the vector, exact */
        float score[VW], first[VW];
        for (int64_t v = 0; v < c->count; v += VW) {
            const int m = c->count - v < VW ? (int)(c->count - v) : VW;
            vf sum = v_zero();
            for (int64_t d = 0; d < c->width; d++)
                sum = v_fma(v_set1(z[d]), v_getf(c->t + d * c->stride + v, 0, m), sum);
            sum = v_tail(sum, m, -INFINITY);
            where = v_select_gt(sum, best, v_set1((float)v), where);
            best = v_select_gt(sum, best, sum, best);
        }
        v_st(score, best);
        v_st(first, where);
        int k = 0;
        for (int j = 1; j < VW; j++)
            if (score[j] > score[k] ||
                (score[j] == score[k] && first[j] + (float)j < first[k] + (float)k))
                k = j;
        index[i] = score[k] > -INFINITY ? (int32_t)first[k] + k : 0;
    }
}

static void products_v(float *s, const float *z, const fvi_vq_codes *c)
{
    V_EACH(c->count, vf sum = v_zero();
           for (int64_t d = 0; d < c->width; d++)
               sum = v_fma(v_set1(z[d]), v_getf(c->t + d * c->stride, i, m), sum);
           v_putf(s, i, m, sum););
}

static void combine_v(float *z, const float *w, const fvi_vq_codes *c)
{
    for (int64_t d = 0; d < c->width; d++) {
        const float *t = c->t + d * c->stride;
        vf sum = v_zero();
        V_EACH(c->count, sum = v_fma(v_getf(w, i, m), v_getf(t, i, m), sum););
        z[d] = v_hsum(sum);
    }
}

void VQ_INIT(fvi_vq_ops *o)
{
    o->nearest = nearest_v;
    o->products = products_v;
    o->combine = combine_v;
}
