/* op_rope_body.h - vector kernels of QK_NORM_ROPE, included by op_rope_avx2.c and op_rope_avx512.c.
 * Definitions: op_rope.c. */
#include "attention_tables.h"
#include "simd.h"

/* Pairs of one vector: elements at a and at b = a + q with angle number j. */
typedef struct rotation { vf c, s; } rotation;
FV_INLINE rotation rotation_at(const float *angle, int hd, int j, int n)
{
    if (!angle) return (rotation){ v_set1(1.0f), v_zero() };
    return (rotation){ v_load(angle, j, 0, n), v_load(angle, hd / 2 + j, 0, n) };
}

#if VW == 16
/* Heads of 32: a half is one vector, its first 8 elements paired with the others. */
static void rope_32(fvi_rope_row *r)
{
    vf x[2] = { v_load(r->x, 0, r->is_bf16, 16), v_load(r->x, 16, r->is_bf16, 16) };
    const vf turned = v_concat8(v_set1(-1.0f), v_set1(1.0f));
    float rstd = r->norm == FVI_ROPE_HEAD ? 1.0f : r->rstd;
    if (r->w && r->norm == FVI_ROPE_HEAD)
        rstd = 1.0f / sqrtf(v_hsum(v_fma(x[1], x[1], v_mul(x[0], x[0]))) / 32 + r->eps);
    r->rstd = rstd;
    for (int half = 0; half < 2; half++) {
        vf y = x[half];
        if (r->w) y = v_mul(v_mul(y, v_set1(rstd)), v_ld(r->w + 16 * half));
        if (r->angle) {
            const vf c = v_ld8_twice(r->angle + 8 * half), s = v_ld8_twice(r->angle + 16 + 8 * half);
            y = v_fma(v_mul(v_swap8(y), turned), s, v_mul(y, c));
        }
        v_store(r->y, 16 * half, r->is_bf16, 16, y);
    }
}
#endif

static void rope(fvi_rope_row *r)
{
    const int hd = r->hd, q = hd / 4;
#if VW == 16
    if (hd == 32) {
        rope_32(r);
        return;
    }
#endif
    float rstd = r->norm == FVI_ROPE_HEAD ? 1.0f : r->rstd;
    if (r->w && r->norm == FVI_ROPE_HEAD) {
        vf sum = v_zero();
        for (int i = 0; i < hd; i += VW) {
            const vf x = v_load(r->x, i, r->is_bf16, hd - i < VW ? hd - i : VW);
            sum = v_fma(x, x, sum);
        }
        rstd = 1.0f / sqrtf(v_hsum(sum) / (float)hd + r->eps);
    }
    r->rstd = rstd;
    const vf f = v_set1(rstd);
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < q; i += VW) {
            const int n = q - i < VW ? q - i : VW, a = half * 2 * q + i, b = a + q;
            vf xa = v_load(r->x, a, r->is_bf16, n), xb = v_load(r->x, b, r->is_bf16, n);
            if (r->w) {
                xa = v_mul(v_mul(xa, f), v_load(r->w, a, 0, n));
                xb = v_mul(v_mul(xb, f), v_load(r->w, b, 0, n));
            }
            const rotation t = rotation_at(r->angle, hd, half * q + i, n);
            v_store(r->y, a, r->is_bf16, n, v_fnma(xb, t.s, v_mul(xa, t.c)));
            v_store(r->y, b, r->is_bf16, n, v_fma(xb, t.c, v_mul(xa, t.s)));
        }
}

FV_INLINE void put(const fvi_rope_row *r, int i, int n, vf g)
{
    if (!r->y) return;
    if (r->add) g = v_add(g, v_load(r->y, i, r->is_bf16, n));
    v_store(r->y, i, r->is_bf16, n, g);
}

/* u: gradient of element i after the norm. Leaves u*w in work, adds to dw; returns the new sum. */
FV_INLINE vf norm_part(const fvi_rope_row *r, int i, int n, vf u, vf sum)
{
    const vf xh = v_mul(v_load(r->x, i, r->is_bf16, n), v_set1(r->rstd));
    const vf uw = v_mul(u, v_load(r->w, i, 0, n));
    if (r->dw) v_store(r->dw, i, 0, n, v_fma(u, xh, v_load(r->dw, i, 0, n)));
    v_store(r->work, i, 0, n, uw);
    return v_fma(uw, xh, sum);
}

/* From the gradients before the norm, in work, to those of x. */
static void norm_grad(const fvi_rope_row *r, float norm_mean)
{
    const vf mean = v_set1(norm_mean), f = v_set1(r->rstd);
    for (int i = 0; i < r->hd; i += VW) {
        const int n = r->hd - i < VW ? r->hd - i : VW;
        const vf xh = v_mul(v_load(r->x, i, r->is_bf16, n), f);
        put(r, i, n, v_mul(f, v_fnma(xh, mean, v_load(r->work, i, 0, n))));
    }
}

static void rope_grad(fvi_rope_row *r)
{
    const int hd = r->hd, q = hd / 4;
    vf sum = v_zero();
    if (r->norm == FVI_ROPE_FINISH) {
        norm_grad(r, r->sum);
        return;
    }
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < q; i += VW) {
            const int n = q - i < VW ? q - i : VW, a = half * 2 * q + i, b = a + q;
            const vf ga = v_load(r->gy, a, r->is_bf16, n), gb = v_load(r->gy, b, r->is_bf16, n);
            const rotation t = rotation_at(r->angle, hd, half * q + i, n);
            const vf ua = v_fma(gb, t.s, v_mul(ga, t.c)), ub = v_fnma(ga, t.s, v_mul(gb, t.c));
            if (r->w) {
                sum = norm_part(r, a, n, ua, sum);
                sum = norm_part(r, b, n, ub, sum);
            } else {
                put(r, a, n, ua);
                put(r, b, n, ub);
            }
        }
    if (!r->w) return;
    if (r->norm == FVI_ROPE_START) r->sum = v_hsum(sum);
    else norm_grad(r, v_hsum(sum) / (float)hd);
}

static void rope_pairs(const fvi_rope_row *r, bool is_back)
{
    for (int i = 0; i < r->hd; i += VW) {
        const int n = r->hd - i < VW ? r->hd - i : VW;
        const vf x = v_load(r->x, i, r->is_bf16, n), other = v_swap2(x);
        const vf c = v_twice(r->angle + i / 2, n / 2);
        const vf s = v_mul(other, v_twice(r->angle + r->hd / 2 + i / 2, n / 2));
        vf y = is_back ? v_fmsubadd(x, c, s) : v_fmaddsub(x, c, s);
        if (r->add) y = v_add(y, v_load(r->y, i, r->is_bf16, n));
        v_store(r->y, i, r->is_bf16, n, y);
    }
}

void ROPE_INIT(fvi_attention_ops *o)
{
    o->rope_pairs = rope_pairs;
    o->rope = rope;
    o->rope_grad = rope_grad;
}
