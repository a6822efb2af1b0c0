/* op_loss_body.h - vector rows of op_loss.c; included by its AVX2 and AVX-512 files. */
#include "op_vec.h"

/* f32 sums of 4096 elements (256 or 512 per lane), added in double. */
static double sqdiff_v(fvi_in a, fvi_in b, int64_t n)
{
    double total = 0;
    for (int64_t first = 0; first < n; first += 4096) {
        const int64_t len = n - first < 4096 ? n - first : 4096;
        vf sum = v_zero();
        V_EACH(len, const vf d = v_sub(v_get(a, first + i, m), v_get(b, first + i, m));
               sum = v_fma(d, d, sum);); /* masked lanes: 0 - 0 */
        total += v_hsum(sum);
    }
    return total;
}

static void diff_v(fvi_out y, fvi_in a, fvi_in b, int64_t n, float scale)
{
    const vf s = v_set1(scale);
    V_EACH(n, v_put(y, i, m, v_mul(s, v_sub(v_get(a, i, m), v_get(b, i, m)))););
}

/* With m = min(|d|, 1) both branches are m (|d| - m/2). */
static double huber_v(fvi_in a, fvi_in b, int64_t n)
{
    const vf one = v_set1(1.0f), half = v_set1(0.5f);
    double total = 0;
    for (int64_t first = 0; first < n; first += 4096) {
        const int64_t len = n - first < 4096 ? n - first : 4096;
        vf sum = v_zero();
        V_EACH(len, const vf d = v_abs(v_sub(v_get(a, first + i, m), v_get(b, first + i, m)));
               const vf near = v_min(d, one);
               sum = v_fma(near, v_fnma(half, near, d), sum););
        total += v_hsum(sum);
    }
    return total;
}

static void clip_diff_v(fvi_out y, fvi_in a, fvi_in b, int64_t n, float scale)
{
    const vf s = v_set1(scale), lo = v_set1(-1.0f), hi = v_set1(1.0f);
    V_EACH(n, const vf d = v_sub(v_get(a, i, m), v_get(b, i, m));
           v_put(y, i, m, v_mul(s, v_min(hi, v_max(lo, d)))););
}

static float softmax_v(fvi_out p, fvi_in x, int64_t n)
{
    vf top = v_set1(-INFINITY), sum = v_zero();
    V_EACH(n, top = v_max(top, v_tail(v_get(x, i, m), m, -INFINITY)););
    const float max = v_hmax(top);
    const vf vmax = v_set1(max);
    V_EACH(n, sum = v_add(sum, v_tail(v_exp(v_sub(v_get(x, i, m), vmax)), m, 0.0f)););
    const float total = v_hsum(sum);
    const vf inv = v_set1(1.0f / total);
    if (p.p) V_EACH(n, v_put(p, i, m, v_mul(v_exp(v_sub(v_get(x, i, m), vmax)), inv)););
    return max + logf(total);
}

/* As sqdiff: f32 sums of 4096 elements. */
static double absdiff_v(fvi_in a, fvi_in b, int64_t n)
{
    double total = 0;
    for (int64_t first = 0; first < n; first += 4096) {
        const int64_t len = n - first < 4096 ? n - first : 4096;
        vf sum = v_zero();
        V_EACH(len, const vf t = b.p ? v_get(b, first + i, m) : v_zero();
               sum = v_add(sum, v_abs(v_sub(v_get(a, first + i, m), t))););
        total += v_hsum(sum);
    }
    return total;
}

static void sign_v(fvi_out y, fvi_in a, fvi_in b, int64_t n, float scale)
{
    const vf up = v_set1(scale), down = v_set1(-scale), zero = v_zero();
    V_EACH(n, const vf d = b.p ? v_sub(v_get(a, i, m), v_get(b, i, m)) : v_get(a, i, m);
           v_put(y, i, m, v_select_gt(d, zero, up, v_select_gt(zero, d, down, zero))););
}

void LOSS_INIT(fvi_loss_ops *o)
{
    o->sqdiff = sqdiff_v;
    o->diff = diff_v;
    o->huber = huber_v;
    o->clip_diff = clip_diff_v;
    o->softmax = softmax_v;
    o->absdiff = absdiff_v;
    o->sign = sign_v;
}
