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

/* Bit j: lane j of a reaches lane j of b. */
static unsigned reach(vf a, vf b)
{
#if VW == 16
    return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
#else
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ));
#endif
}

/* A number that at least FVI_VQ_LARGEST of the products reach: the least of the largest of as many
 * lots. */
static float least_of_lots(const float *product, const float *factor, int64_t n)
{
    enum { PARTS = FVI_VQ_LARGEST / VW };
    float most[FVI_VQ_LARGEST], least = INFINITY;
    vf top[PARTS];
    for (int p = 0; p < PARTS; p++) top[p] = v_set1(-INFINITY);
    for (int64_t k = 0; k + FVI_VQ_LARGEST <= n; k += FVI_VQ_LARGEST)
        for (int p = 0; p < PARTS; p++) {
            const vf v = v_mul(v_ld(product + k + p * VW), v_ld(factor + k + p * VW));
            top[p] = v_select_gt(v, top[p], v, top[p]);
        }
    for (int p = 0; p < PARTS; p++) v_st(most + p * VW, top[p]);
    for (int i = 0; i < FVI_VQ_LARGEST; i++) least = most[i] < least ? most[i] : least;
    return least;
}

static void largest_v(uint16_t *code, float *value, int count, const float *product,
                      const float *factor, int64_t n)
{
    const float least = least_of_lots(product, factor, n);
    int64_t k = 0;
    for (int i = 0; i < count; i++) value[i] = -INFINITY, code[i] = 0;
    for (; k + VW <= n; k += VW) {
        const float last = value[count - 1];
        const vf v = v_mul(v_ld(product + k), v_ld(factor + k));
        unsigned lanes = reach(v, v_set1(last > least ? last : least));
        if (lanes == 0) continue;
        float all[VW];
        v_st(all, v);
        for (; lanes; lanes &= lanes - 1) {
            const int j = __builtin_ctz(lanes);
            fvi_vq_insert(code, value, count, all[j], k + j);
        }
    }
    for (; k < n; k++) fvi_vq_insert(code, value, count, product[k] * factor[k], k);
}

void VQ_INIT(fvi_vq_ops *o)
{
    o->largest = largest_v;
    o->nearest = nearest_v;
    o->products = products_v;
    o->combine = combine_v;
}
