/* op_act.h - private: the activations and their derivatives, scalar: the definition. */
#ifndef FV_OP_ACT_H
#define FV_OP_ACT_H

#include <math.h>

#include "engine.h"

#define FVI_LRELU_SLOPE 0.2f
#define FVI_GELU_K 0.7978845608028654f /* sqrt(2/pi) */
#define FVI_GELU_C 0.044715f
#define FVI_SQRT_HALF 0.70710678118654752f
#define FVI_INV_SQRT_2PI 0.39894228040143268f

static inline float fvi_sigmoid_c(float x) { return 1.0f / (1.0f + expf(-x)); }

/* Comparisons are written so that a NaN stays a NaN: a broken training must be noticed. */
static inline float fvi_act_c(fv_act act, float x)
{
    switch (act) {
    case FV_ACT_RELU: return x < 0.0f ? 0.0f : x;
    case FV_ACT_SILU: return x * fvi_sigmoid_c(x);
    case FV_ACT_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(FVI_GELU_K * (x + FVI_GELU_C * x * x * x)));
    case FV_ACT_GELU_ERF: return 0.5f * x * (1.0f + erff(x * FVI_SQRT_HALF));
    case FV_ACT_SIGMOID: return fvi_sigmoid_c(x);
    case FV_ACT_TANH: return tanhf(x);
    case FV_ACT_LRELU: return x < 0.0f ? FVI_LRELU_SLOPE * x : x;
    case FV_ACT_SQUARE: return x * x;
    case FV_ACT_EXP: return expf(x);
    case FV_ACT_LOG: return logf(x);
    case FV_ACT_SQRT: return sqrtf(x);
    case FV_ACT_ABS: return fabsf(x);
    case FV_ACT_SOFTPLUS: return (x < 0.0f ? 0.0f : x) + log1pf(expf(-fabsf(x)));
    case FV_ACT_NONE:
    case FV_ACT_COUNT: break;
    }
    return x;
}

/* d act / dx. At the kinks of relu, lrelu and abs: 0, slope and 0, as PyTorch does. */
static inline float fvi_dact_c(fv_act act, float x)
{
    switch (act) {
    case FV_ACT_RELU: return x > 0.0f ? 1.0f : 0.0f;
    case FV_ACT_SILU: {
        const float s = fvi_sigmoid_c(x);
        return s * (1.0f + x * (1.0f - s));
    }
    case FV_ACT_GELU_TANH: {
        const float t = tanhf(FVI_GELU_K * (x + FVI_GELU_C * x * x * x));
        const float du = FVI_GELU_K * (1.0f + 3.0f * FVI_GELU_C * x * x);
        return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * du;
    }
    case FV_ACT_GELU_ERF:
        return 0.5f * (1.0f + erff(x * FVI_SQRT_HALF)) + x * FVI_INV_SQRT_2PI * expf(-0.5f * x * x);
    case FV_ACT_SIGMOID: {
        const float s = fvi_sigmoid_c(x);
        return s * (1.0f - s);
    }
    case FV_ACT_TANH: {
        const float t = tanhf(x);
        return 1.0f - t * t;
    }
    case FV_ACT_LRELU: return x > 0.0f ? 1.0f : FVI_LRELU_SLOPE;
    case FV_ACT_SQUARE: return 2.0f * x;
    case FV_ACT_EXP: return expf(x);
    case FV_ACT_LOG: return 1.0f / x;
    case FV_ACT_SQRT: return 0.5f / sqrtf(x);
    case FV_ACT_ABS: return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f;
    case FV_ACT_SOFTPLUS: return fvi_sigmoid_c(x);
    case FV_ACT_NONE:
    case FV_ACT_COUNT: break;
    }
    return 1.0f;
}

#endif
