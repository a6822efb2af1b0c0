/* op_vec.h - private: loops, tails and activations in vectors, for the op_*_body.h files.
 *
 * Include after the compiler flags chose AVX2 or AVX-512. Errors against op_act.h, measured over
 * [-20, 20]: below 5e-7 * max(1, |value|) for every activation and derivative. */
#ifndef FV_OP_VEC_H
#define FV_OP_VEC_H

#include "op_act.h"
#include "op_tables.h"
#include "simd.h"

/* Run the statements for each vector of n elements: i is the first element, m the count. The
 * statements appear twice, so that m is constant in the main loop: no masks there. */
#define V_EACH(n, ...)                                                              \
    do {                                                                            \
        int64_t i = 0;                                                              \
        for (; i + VW <= (n); i += VW) { const int m = VW; __VA_ARGS__ }            \
        if (i < (n)) { const int m = (int)((n) - i); __VA_ARGS__ }                  \
    } while (0)

FV_INLINE vf v_get(fvi_in x, int64_t i, int m) { return v_load(x.p, i, x.bf16, m); }
FV_INLINE void v_put(fvi_out y, int64_t i, int m, vf v)
{
    if (y.add) v = v_add(v_load(y.p, i, y.bf16, m), v);
    v_store(y.p, i, y.bf16, m, v);
}
FV_INLINE vf v_getf(const float *p, int64_t i, int m)
{
    return m == VW ? v_ld(p + i) : v_ldn(p + i, m);
}
FV_INLINE void v_putf(float *p, int64_t i, int m, vf v)
{
    if (m == VW) v_st(p + i, v);
    else v_stn(p + i, v, m);
}
/* Lanes from m on become `fill`: a sum or maximum must not see what a masked load left there. */
FV_INLINE vf v_tail(vf v, int m, float fill)
{
    if (m == VW) return v;
#if VW == 16
    return _mm512_mask_mov_ps(v_set1(fill), v_mask_(m), v);
#else
    return _mm256_blendv_ps(v_set1(fill), v, _mm256_castsi256_ps(v_mask_(m)));
#endif
}
FV_INLINE vf v_neg(vf x) { return v_sub(v_zero(), x); }

/* x = f * 2^e with f in [sqrt(1/2), sqrt(2)), for normal x > 0 */
FV_INLINE vf v_frexp_(vf x, vf *e)
{
#if VW == 16
    const __m512i u = _mm512_castps_si512(x);
    const __m512i k = _mm512_srai_epi32(_mm512_sub_epi32(u, _mm512_set1_epi32(0x3f3504f3)), 23);
    *e = _mm512_cvtepi32_ps(k);
    return _mm512_castsi512_ps(_mm512_sub_epi32(u, _mm512_slli_epi32(k, 23)));
#else
    const __m256i u = _mm256_castps_si256(x);
    const __m256i k = _mm256_srai_epi32(_mm256_sub_epi32(u, _mm256_set1_epi32(0x3f3504f3)), 23);
    *e = _mm256_cvtepi32_ps(k);
    return _mm256_castsi256_ps(_mm256_sub_epi32(u, _mm256_slli_epi32(k, 23)));
#endif
}

/* Natural logarithm, Cephes logf; -inf at 0, NaN below. */
FV_INLINE vf v_log(vf x)
{
    const vf small = v_set1(1.17549435e-38f), one = v_set1(1.0f);
    const vf up = v_select_gt(small, x, v_set1(8388608.0f), one); /* denormals times 2^23 */
    vf e, f = v_frexp_(v_mul(x, up), &e);
    e = v_sub(e, v_select_gt(small, x, v_set1(23.0f), v_zero()));
    f = v_sub(f, one);
    const vf z = v_mul(f, f);
    vf p = v_set1(7.0376836292e-2f);
    p = v_fma(p, f, v_set1(-1.1514610310e-1f));
    p = v_fma(p, f, v_set1(1.1676998740e-1f));
    p = v_fma(p, f, v_set1(-1.2420140846e-1f));
    p = v_fma(p, f, v_set1(1.4249322787e-1f));
    p = v_fma(p, f, v_set1(-1.6668057665e-1f));
    p = v_fma(p, f, v_set1(2.0000714765e-1f));
    p = v_fma(p, f, v_set1(-2.4999993993e-1f));
    p = v_fma(p, f, v_set1(3.3333331174e-1f));
    p = v_mul(v_mul(p, f), z);
    p = v_fma(e, v_set1(-2.12194440e-4f), p);
    p = v_fnma(v_set1(0.5f), z, p);
    p = v_fma(e, v_set1(0.693359375f), v_add(f, p));
    p = v_select_gt(x, v_set1(3.40282347e38f), x, p);              /* inf  */
    p = v_select_gt(v_set1(1e-45f), x, v_set1(-INFINITY), p);      /* zero */
    p = v_select_gt(v_zero(), x, v_set1(NAN), p);
    return v_select_gt(v_abs(x), v_set1(-1.0f), p, v_add(x, x));   /* NaN  */
}

/* Cephes tanhf: polynomial below 0.625, where 2*sigmoid(2x) - 1 loses digits. */
FV_INLINE vf v_tanh(vf x)
{
    const vf z = v_mul(x, x);
    vf p = v_set1(-5.70498872745e-3f);
    p = v_fma(p, z, v_set1(2.06390887954e-2f));
    p = v_fma(p, z, v_set1(-5.37397155531e-2f));
    p = v_fma(p, z, v_set1(1.33314422036e-1f));
    p = v_fma(p, z, v_set1(-3.33332819422e-1f));
    p = v_fma(v_mul(p, z), x, x);
    const vf t = v_fma(v_set1(2.0f), v_sigmoid(v_add(x, x)), v_set1(-1.0f));
    return v_select_gt(v_abs(x), v_set1(0.625f), t, p);
}

/* Normal distribution function by Abramowitz & Stegun 7.1.26 (|error| < 1e-7); phi: its density. */
FV_INLINE vf v_normal_cdf(vf x, vf *phi)
{
    const vf z = v_mul(v_abs(x), v_set1(FVI_SQRT_HALF)), one = v_set1(1.0f);
    const vf t = v_div(one, v_fma(z, v_set1(0.3275911f), one));
    vf p = v_set1(1.061405429f);
    p = v_fma(p, t, v_set1(-1.453152027f));
    p = v_fma(p, t, v_set1(1.421413741f));
    p = v_fma(p, t, v_set1(-0.284496736f));
    p = v_fma(p, t, v_set1(0.254829592f));
    const vf e = v_exp(v_neg(v_mul(z, z)));
    const vf q = v_mul(v_mul(v_mul(p, t), e), v_set1(0.5f)); /* the tail beyond |x| */
    *phi = v_mul(e, v_set1(FVI_INV_SQRT_2PI));
    return v_select_gt(x, v_zero(), v_sub(one, q), q);
}

FV_INLINE vf v_gelu_u(vf x) /* 2 * sqrt(2/pi) * (x + c x^3): gelu = x * sigmoid(u) */
{
    const vf z = v_mul(x, x);
    return v_mul(v_mul(x, v_set1(2.0f * FVI_GELU_K)), v_fma(z, v_set1(FVI_GELU_C), v_set1(1.0f)));
}

FV_INLINE vf v_softplus(vf x)
{
    /* log1p(e) = log(u) * e / (u - 1) with u = 1 + e repairs the rounding of u */
    const vf one = v_set1(1.0f), e = v_exp(v_neg(v_abs(x))), u = v_add(one, e), d = v_sub(u, one);
    const vf l = v_div(v_mul(v_log(u), e), d);
    return v_add(v_max(v_zero(), x), v_select_gt(d, v_zero(), l, e));
}

FV_INLINE vf v_act(fv_act act, vf x)
{
    vf phi;
    switch (act) {
    case FV_ACT_RELU: return v_max(v_zero(), x);
    case FV_ACT_SILU: return v_mul(x, v_sigmoid(x));
    case FV_ACT_GELU_TANH: return v_mul(x, v_sigmoid(v_gelu_u(x)));
    case FV_ACT_GELU_ERF: return v_mul(x, v_normal_cdf(x, &phi));
    case FV_ACT_SIGMOID: return v_sigmoid(x);
    case FV_ACT_TANH: return v_tanh(x);
    case FV_ACT_LRELU: return v_select_gt(v_zero(), x, v_mul(x, v_set1(FVI_LRELU_SLOPE)), x);
    case FV_ACT_SQUARE: return v_mul(x, x);
    case FV_ACT_EXP: return v_exp(x);
    case FV_ACT_LOG: return v_log(x);
    case FV_ACT_SQRT: return v_sqrt(x);
    case FV_ACT_ABS: return v_abs(x);
    case FV_ACT_SOFTPLUS: return v_softplus(x);
    case FV_ACT_NONE:
    case FV_ACT_COUNT: break;
    }
    return x;
}

FV_INLINE vf v_dact(fv_act act, vf x)
{
    const vf one = v_set1(1.0f), zero = v_zero();
    vf s, t, phi;
    switch (act) {
    case FV_ACT_RELU: return v_select_gt(x, zero, one, zero);
    case FV_ACT_SILU:
        s = v_sigmoid(x);
        return v_mul(s, v_fma(x, v_sub(one, s), one));
    case FV_ACT_GELU_TANH: /* s + x s (1-s) u' */
        s = v_sigmoid(v_gelu_u(x));
        t = v_fma(v_mul(x, x), v_set1(6.0f * FVI_GELU_K * FVI_GELU_C), v_set1(2.0f * FVI_GELU_K));
        return v_fma(v_mul(v_mul(x, s), v_sub(one, s)), t, s);
    case FV_ACT_GELU_ERF:
        s = v_normal_cdf(x, &phi);
        return v_fma(x, phi, s);
    case FV_ACT_SIGMOID:
        s = v_sigmoid(x);
        return v_mul(s, v_sub(one, s));
    case FV_ACT_TANH:
        t = v_tanh(x);
        return v_fnma(t, t, one);
    case FV_ACT_LRELU: return v_select_gt(x, zero, one, v_set1(FVI_LRELU_SLOPE));
    case FV_ACT_SQUARE: return v_add(x, x);
    case FV_ACT_EXP: return v_exp(x);
    case FV_ACT_LOG: return v_div(one, x);
    case FV_ACT_SQRT: return v_div(v_set1(0.5f), v_sqrt(x));
    case FV_ACT_ABS: return v_select_gt(x, zero, one, v_select_gt(zero, x, v_set1(-1.0f), zero));
    case FV_ACT_SOFTPLUS: return v_sigmoid(x);
    case FV_ACT_NONE:
    case FV_ACT_COUNT: break;
    }
    return one;
}

#endif
