/* op_pointwise_body.h - vector rows of op_pointwise.c; included by its AVX2 and AVX-512 files. */
#include "op_vec.h"

static void cast_v(fvi_out y, fvi_in x, int64_t n)
{
    V_EACH(n, v_put(y, i, m, v_get(x, i, m)););
}

static void affine_v(fvi_out y, fvi_in x, int64_t n, float scale, float shift)
{
    const vf a = v_set1(scale), b = v_set1(shift);
    V_EACH(n, v_put(y, i, m, v_fma(v_get(x, i, m), a, b)););
}

/* One loop per activation: `which` is a constant in each. */
#define EACH_ACT(act, loop)                                    \
    switch (act) {                                             \
    case FV_ACT_RELU: loop(FV_ACT_RELU); break;                \
    case FV_ACT_SILU: loop(FV_ACT_SILU); break;                \
    case FV_ACT_GELU_TANH: loop(FV_ACT_GELU_TANH); break;      \
    case FV_ACT_GELU_ERF: loop(FV_ACT_GELU_ERF); break;        \
    case FV_ACT_SIGMOID: loop(FV_ACT_SIGMOID); break;          \
    case FV_ACT_TANH: loop(FV_ACT_TANH); break;                \
    case FV_ACT_LRELU: loop(FV_ACT_LRELU); break;              \
    case FV_ACT_SQUARE: loop(FV_ACT_SQUARE); break;            \
    case FV_ACT_EXP: loop(FV_ACT_EXP); break;                  \
    case FV_ACT_LOG: loop(FV_ACT_LOG); break;                  \
    case FV_ACT_SQRT: loop(FV_ACT_SQRT); break;                \
    case FV_ACT_ABS: loop(FV_ACT_ABS); break;                  \
    case FV_ACT_SOFTPLUS: loop(FV_ACT_SOFTPLUS); break;        \
    case FV_ACT_NONE:                                          \
    case FV_ACT_COUNT: loop(FV_ACT_NONE); break;               \
    }

static void act_v(fvi_out y, fvi_in x, int64_t n, fv_act act)
{
#define FORWARD(which) V_EACH(n, v_put(y, i, m, v_act(which, v_get(x, i, m)));)
    EACH_ACT(act, FORWARD)
#undef FORWARD
}

static void act_bwd_v(fvi_out dx, fvi_in x, fvi_in dy, int64_t n, fv_act act)
{
#define BACKWARD(which)                                                             \
    V_EACH(n, v_put(dx, i, m, v_mul(v_get(dy, i, m), v_dact(which, v_get(x, i, m))));)
    EACH_ACT(act, BACKWARD)
#undef BACKWARD
}

FV_INLINE vf v_binary(fv_binary op, vf a, vf b)
{
    switch (op) {
    case FV_ADD: return v_add(a, b);
    case FV_SUB: return v_sub(a, b);
    case FV_MUL: return v_mul(a, b);
    case FV_DIV: break;
    }
    return v_div(a, b);
}

FV_INLINE vf v_binary_db(fv_binary op, vf dy, vf a, vf b)
{
    switch (op) {
    case FV_ADD: return dy;
    case FV_SUB: return v_neg(dy);
    case FV_MUL: return v_mul(dy, a);
    case FV_DIV: break;
    }
    return v_neg(v_div(v_mul(dy, a), v_mul(b, b)));
}

static void binary_v(fvi_out y, fvi_in a, fvi_in b, int64_t n, fv_binary op)
{
    V_EACH(n, v_put(y, i, m, v_binary(op, v_get(a, i, m), v_get(b, i, m))););
}

static void binary1_v(fvi_out y, fvi_in a, float b, int64_t n, fv_binary op)
{
    const vf vb = v_set1(b);
    V_EACH(n, v_put(y, i, m, v_binary(op, v_get(a, i, m), vb)););
}

/* Sums need neither a nor b: do not fetch them from memory. */
static void binary_db_v(fvi_out db, fvi_in dy, fvi_in a, fvi_in b, int64_t n, fv_binary op)
{
    if (op == FV_ADD)
        cast_v(db, dy, n);
    else if (op == FV_SUB)
        affine_v(db, dy, n, -1.0f, 0.0f);
    else
        V_EACH(n,
               v_put(db, i, m, v_binary_db(op, v_get(dy, i, m), v_get(a, i, m), v_get(b, i, m))););
}

static float binary_db1_v(fvi_in dy, fvi_in a, float b, int64_t n, fv_binary op)
{
    const vf vb = v_set1(b);
    vf sum = v_zero();
    if (op == FV_ADD || op == FV_SUB) {
        V_EACH(n, sum = v_add(sum, v_tail(v_get(dy, i, m), m, 0.0f)););
        return op == FV_ADD ? v_hsum(sum) : -v_hsum(sum);
    }
    V_EACH(n, const vf t = v_binary_db(op, v_get(dy, i, m), v_get(a, i, m), vb);
           sum = v_add(sum, v_tail(t, m, 0.0f)););
    return v_hsum(sum);
}

static void add4_v(fvi_out y, const fvi_in x[4], int64_t n)
{
    V_EACH(n, const vf a = v_add(v_get(x[0], i, m), v_get(x[1], i, m));
           const vf b = v_add(v_get(x[2], i, m), v_get(x[3], i, m));
           v_put(y, i, m, v_add(a, b)););
}

static void swiglu_v(fvi_out y, fvi_in x, int64_t n)
{
    V_EACH(n, const vf a = v_get(x, i, m), b = v_get(x, n + i, m);
           v_put(y, i, m, v_mul(v_mul(a, v_sigmoid(a)), b)););
}

static void swiglu_bwd_v(fvi_out dx, fvi_in x, fvi_in dy, int64_t n)
{
    const vf one = v_set1(1.0f);
    V_EACH(n, const vf a = v_get(x, i, m), b = v_get(x, n + i, m), g = v_get(dy, i, m);
           const vf s = v_sigmoid(a);
           const vf ds = v_mul(s, v_fma(a, v_sub(one, s), one));
           v_put(dx, i, m, v_mul(v_mul(g, b), ds));
           v_put(dx, n + i, m, v_mul(g, v_mul(a, s))););
}

void POINTWISE_INIT(fvi_pointwise_ops *o)
{
    o->cast = cast_v;
    o->affine = affine_v;
    o->act = act_v;
    o->act_bwd = act_bwd_v;
    o->binary = binary_v;
    o->binary1 = binary1_v;
    o->binary_db = binary_db_v;
    o->binary_db1 = binary_db1_v;
    o->add4 = add4_v;
    o->swiglu = swiglu_v;
    o->swiglu_bwd = swiglu_bwd_v;
}
