/* optim_body.h - vector kernels of optim.c; included by its AVX2 and AVX-512 files.
 *
 * Multiplications and additions are kept apart (no fused multiply-add) and square roots and
 * divisions are exact, so each variant gives the bits of the scalar code; the pass waits for memory
 * anyway. */
#include "optim_tables.h"
#include "simd.h"

FV_INLINE vf lerp_v(vf a, vf old, vf b, vf now)
{
    return v_add(v_mul(a, old), v_mul(b, now));
}

static void adamw_v(const fvi_adamw *a)
{
    const vf b1 = v_set1(a->b1), k1 = v_set1(a->k1), b2 = v_set1(a->b2), k2 = v_set1(a->k2);
    const vf c1 = v_set1(a->c1), c2 = v_set1(a->c2), eps = v_set1(a->eps), lr = v_set1(a->lr);
    const vf wd = v_set1(a->wd), d = v_set1(a->d), kd = v_set1(a->kd), scale = v_set1(a->scale);
    for (int64_t i = 0; i < a->n; i += VW) {
        const vf g = v_mul(v_ld(a->g + i), scale), old = v_ld(a->p + i);
        const vf m = lerp_v(b1, v_ld(a->m + i), k1, g);
        const vf v = lerp_v(b2, v_ld(a->v + i), k2, v_mul(g, g));
        const vf u = v_div(v_mul(m, c1), v_add(v_sqrt(v_mul(v, c2)), eps));
        const vf p = v_sub(old, v_mul(lr, v_add(u, v_mul(wd, old))));
        v_st(a->p + i, p);
        v_st(a->m + i, m);
        v_st(a->v + i, v);
        v_st(a->g + i, v_zero());
        if (a->ema) v_st(a->ema + i, lerp_v(d, v_ld(a->ema + i), kd, p));
    }
}

/* Sixteen double sums, one per position in a block: the scalar code's order. The square of a float
 * is exact in double, so a fused multiply-add changes nothing there. */
#if VW == 16
typedef __m512d vd;
#define VD 8
FV_INLINE vd vd_ld(const double *p)
{
    return _mm512_loadu_pd(p);
}
FV_INLINE void vd_st(double *p, vd x)
{
    _mm512_storeu_pd(p, x);
}
FV_INLINE vd vd_square_add(const float *g, vd s)
{
    const vd x = _mm512_cvtps_pd(_mm256_loadu_ps(g));
    return _mm512_fmadd_pd(x, x, s);
}
#else
typedef __m256d vd;
#define VD 4
FV_INLINE vd vd_ld(const double *p)
{
    return _mm256_loadu_pd(p);
}
FV_INLINE void vd_st(double *p, vd x)
{
    _mm256_storeu_pd(p, x);
}
FV_INLINE vd vd_square_add(const float *g, vd s)
{
    const vd x = _mm256_cvtps_pd(_mm_loadu_ps(g));
    return _mm256_fmadd_pd(x, x, s);
}
#endif
#define VDS (FVI_OPT_BLOCK / VD)

static void square_v(const float *g, int64_t n, double acc[FVI_OPT_BLOCK])
{
    vd s[VDS];
    FV_UNROLL
    for (int j = 0; j < VDS; j++) s[j] = vd_ld(acc + j * VD);
    for (int64_t i = 0; i < n; i += FVI_OPT_BLOCK) {
        FV_UNROLL
        for (int j = 0; j < VDS; j++) s[j] = vd_square_add(g + i + j * VD, s[j]);
    }
    FV_UNROLL
    for (int j = 0; j < VDS; j++) vd_st(acc + j * VD, s[j]);
}

void OPTIM_INIT(fvi_optim_ops *o)
{
    o->adamw = adamw_v;
    o->square = square_v;
}
