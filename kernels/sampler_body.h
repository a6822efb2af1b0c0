/* sampler_body.h - private: what a sampler makes of one value of a state; diffusion/sampler.c and
 * cuda/sampling.h. Formulas, and what the coefficients c are: sampler.c. */
#ifndef FV_SAMPLER_BODY_H
#define FV_SAMPLER_BODY_H

#include "engine.h"

#include <math.h>

#define FVI_STEP_COEF 8
enum { FVI_STEP_DDPM, FVI_STEP_DDIM, FVI_STEP_DPMPP, FVI_STEP_FLOW };
enum { FVI_STAGE_EULER = 0, FVI_STAGE_PREDICT = 1, FVI_STAGE_CORRECT = 2 };

/* share: of the larger variance, 0..1 */
FV_INLINE float fvi_step_ddpm(const float *c, float x, float eps, float share, float noise)
{
    const float deviation = expf(0.5f * (share * c[4] + (1.0f - share) * c[5]));
    return c[2] * (c[0] * x - c[1] * eps) + c[3] * x + deviation * noise;
}

FV_INLINE float fvi_step_ddpm_last(const float *c, float x, float eps)
{
    return c[2] * (c[0] * x - c[1] * eps) + c[3] * x;
}

/* eps is recomputed from x0, as the reference does: equal up to rounding, kept for closeness. */
FV_INLINE float fvi_step_ddim(const float *c, float x, float eps)
{
    const float rx = c[0] * x, x0 = rx - c[1] * eps;
    return c[2] * x0 + c[3] * ((rx - x0) / c[1]);
}

/* *before: the x0 estimate of the step before */
FV_INLINE float fvi_step_dpmpp(const float *c, float x, float eps, float *before)
{
    const float m = (x - c[0] * eps) / c[1];
    if (c[5] != 0.0f) return m;
    const float old = *before;
    *before = m;
    if (c[4] == 0.0f) return c[2] * x - c[3] * m; /* first step: nothing is before it */
    return c[2] * x - c[3] * (m + (m - old) * c[4]);
}

/* Heun: the predictor leaves the step's start in *start and its velocity in *v1. */
FV_INLINE float fvi_step_flow(const float *c, float x, float xhat, float *start, float *v1)
{
    const float v = (xhat - x) / c[0];
    const int stage = (int)c[2];
    if (stage == FVI_STAGE_EULER) return x + c[1] * v;
    if (stage == FVI_STAGE_CORRECT) return *start + c[1] * (0.5f * (*v1 + v));
    *start = x;
    *v1 = v;
    return x + c[1] * v;
}

#endif
