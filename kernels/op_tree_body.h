/* op_tree_body.h - vector rows of op_tree.c; included by its AVX2 and AVX-512 files. */
#include "op_vec.h"

static void dots_v(float *z, fvi_in h, const float *w, const int32_t *node, int bits, int64_t D)
{
    for (int k = 0; k < bits; k++) {
        const float *row = w + node[k] * D;
        vf sum = v_zero();
        V_EACH(D, sum = v_fma(v_getf(row, i, m), v_get(h, i, m), sum);); /* masked lanes: 0 * 0 */
        z[k] = v_hsum(sum);
    }
}

static void mix_v(fvi_out dh, const float *w, const float *g, const int32_t *node, int bits,
                  int64_t D)
{
    V_EACH(D, vf sum = v_zero(); for (int k = 0; k < bits; k++) sum =
                                     v_fma(v_set1(g[k]), v_getf(w + node[k] * D, i, m), sum);
           v_put(dh, i, m, sum););
}

static void spread_v(float *dw, fvi_in h, const float *g, const int32_t *node, int bits,
                     const fvi_tree_columns *c)
{
    const fvi_in from = {(const char *)h.p + c->first * (h.bf16 ? 2 : 4), h.bf16};
    V_EACH(
        c->end - c->first, const vf x = v_get(from, i, m); for (int k = 0; k < bits; k++) {
            float *to = dw + node[k] * c->D + c->first;
            v_putf(to, i, m, v_fma(v_set1(g[k]), x, v_getf(to, i, m)));
        });
}

void TREE_INIT(fvi_tree_ops *o)
{
    o->dots = dots_v;
    o->mix = mix_v;
    o->spread = spread_v;
}
