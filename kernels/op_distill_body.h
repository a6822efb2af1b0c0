/* op_distill_body.h - vector rows of op_distill.c; included by its AVX2 and AVX-512 files.
 *
 * Sums are f32 over 4096 elements, added in double. moments: products of equal rows are equal bit
 * by bit, so that x = y gives vx = cov, which op_place.c counts on. */
#include "op_vec.h"

#define PIECE 4096

/* ---- LIFT and PLACE -------------------------------------------------------------------------- */

static void means(fvi_place_moments *out, const float *x, const float *y, int64_t n)
{
    double sx = 0, sy = 0;
    for (int64_t first = 0; first < n; first += PIECE) {
        const int64_t len = n - first < PIECE ? n - first : PIECE;
        vf ax = v_zero(), ay = v_zero();
        V_EACH(len, ax = v_add(ax, v_getf(x, first + i, m));
               ay = v_add(ay, v_getf(y, first + i, m)););
        sx += v_hsum(ax);
        sy += v_hsum(ay);
    }
    out->mx = (float)(sx / (double)n);
    out->my = (float)(sy / (double)n);
}

static void moments_v(fvi_place_moments *out, const float *x, const float *y, int64_t n)
{
    double vx = 0, vy = 0, cov = 0;
    means(out, x, y, n);
    const vf mx = v_set1(out->mx), my = v_set1(out->my);
    for (int64_t first = 0; first < n; first += PIECE) {
        const int64_t len = n - first < PIECE ? n - first : PIECE;
        vf ax = v_zero(), ay = v_zero(), ac = v_zero();
        V_EACH(len, const vf dx = v_tail(v_sub(v_getf(x, first + i, m), mx), m, 0.0f);
               const vf dy = v_tail(v_sub(v_getf(y, first + i, m), my), m, 0.0f);
               ax = v_fma(dx, dx, ax); ay = v_fma(dy, dy, ay); ac = v_fma(dx, dy, ac););
        vx += v_hsum(ax);
        vy += v_hsum(ay);
        cov += v_hsum(ac);
    }
    out->vx = (float)(vx / (double)n);
    out->vy = (float)(vy / (double)n);
    out->cov = (float)(cov / (double)n);
}

static double residual_v(float *coarse, float *fine, const float *x, const float *y,
                         const fvi_place_map *g, int64_t n)
{
    const vf mx = v_set1(g->mx), my = v_set1(g->my), b1 = v_set1(g->b1), two = v_set1(2 * g->b1);
    const vf slope = v_set1(g->slope), level = v_set1(g->level), pull = v_set1(g->pull);
    double total = 0;
    for (int64_t first = 0; first < n; first += PIECE) {
        const int64_t len = n - first < PIECE ? n - first : PIECE;
        vf sum = v_zero();
        V_EACH(len, const vf dx = v_sub(v_getf(x, first + i, m), mx);
               const vf dy = v_sub(v_getf(y, first + i, m), my);
               const vf r = v_sub(v_mul(b1, dx), dy), kept = v_tail(r, m, 0.0f);
               sum = v_fma(kept, kept, sum);
               if (coarse) {
                   v_putf(coarse, first + i, m, v_fma(slope, v_fnma(pull, dx, dy), level));
                   v_putf(fine, first + i, m, v_mul(two, r));
               });
        total += v_hsum(sum);
    }
    return total;
}

static void blend_v(fvi_out y, const float *a, const float *b, int64_t n, float scale, float w)
{
    const vf s = v_set1(scale), vw = v_set1(w);
    V_EACH(n, v_put(y, i, m, v_mul(s, v_fma(vw, v_getf(b, i, m), v_getf(a, i, m)))););
}

/* ---- Masked difference ----------------------------------------------------------------------- */

static double sum_v(fvi_in x, int64_t n)
{
    double total = 0;
    for (int64_t first = 0; first < n; first += PIECE) {
        const int64_t len = n - first < PIECE ? n - first : PIECE;
        vf sum = v_zero();
        V_EACH(len, sum = v_add(sum, v_get(x, first + i, m)););
        total += v_hsum(sum);
    }
    return total;
}

static double sqdev_v(fvi_in x, float mean, int64_t n)
{
    const vf c = v_set1(mean);
    double total = 0;
    for (int64_t first = 0; first < n; first += PIECE) {
        const int64_t len = n - first < PIECE ? n - first : PIECE;
        vf sum = v_zero();
        V_EACH(len, const vf d = v_tail(v_sub(v_get(x, first + i, m), c), m, 0.0f);
               sum = v_fma(d, d, sum););
        total += v_hsum(sum);
    }
    return total;
}

FV_INLINE vf v_kept(vf x, vf mean, vf bound, vf value)
{
    return v_select_gt(bound, v_abs(v_sub(x, mean)), value, v_zero());
}

static double kept_sqdiff_v(fvi_in a, fvi_in b, const fvi_keep *k, int64_t n)
{
    const vf ma = v_set1(k->a_mean), mb = v_set1(k->b_mean);
    const vf ka = v_set1(k->a_bound), kb = v_set1(k->b_bound);
    double total = 0;
    for (int64_t first = 0; first < n; first += PIECE) {
        const int64_t len = n - first < PIECE ? n - first : PIECE;
        vf sum = v_zero();
        V_EACH(len, const vf va = v_get(a, first + i, m), vb = v_get(b, first + i, m);
               const vf d = v_sub(v_kept(va, ma, ka, va), v_kept(vb, mb, kb, vb));
               sum = v_fma(d, d, sum);); /* masked lanes: 0 - 0 */
        total += v_hsum(sum);
    }
    return total;
}

static void kept_diff_v(fvi_out y, fvi_in a, fvi_in b, const fvi_keep *k, int64_t n, float scale)
{
    const vf ma = v_set1(k->a_mean), mb = v_set1(k->b_mean), s = v_set1(scale);
    const vf ka = v_set1(k->a_bound), kb = v_set1(k->b_bound);
    V_EACH(n, const vf va = v_get(a, i, m), vb = v_get(b, i, m);
           const vf d = v_mul(s, v_sub(va, v_kept(vb, mb, kb, vb)));
           v_put(y, i, m, v_kept(va, ma, ka, d)););
}

void DISTILL_INIT(fvi_distill_ops *o)
{
    o->moments = moments_v;
    o->residual = residual_v;
    o->blend = blend_v;
    o->sum = sum_v;
    o->sqdev = sqdev_v;
    o->kept_sqdiff = kept_sqdiff_v;
    o->kept_diff = kept_diff_v;
}
