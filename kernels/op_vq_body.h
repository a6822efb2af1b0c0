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

void VQ_INIT(fvi_vq_ops *o)
{
    o->nearest = nearest_v;
}
