/* ar_logits_body.h - the loops of ar_logits_tables.h, for compilers to turn into vectors of the
 * width that the flags of the including file allow. AR_LOGITS_INIT names the register function.
 *
 * Sums and maxima run in LANES lanes whatever the width of a vector: they have one order. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "ar_logits_tables.h"
#include "exact_math.h"

#define LANES 16

/* -log(-log u), u = (x + 0.5) 2^-32. A float u has no digits left near 1, where the largest values
 * come from: there the distance from 1 is what is rounded. */
FV_INLINE float gumbel_of(uint32_t x)
{
    const float u = ((float)x + 0.5f) * 0x1p-32f, t = ((float)~x + 0.5f) * 0x1p-32f;
    const float low = -fvi_ln(u), high = fvi_ln_ratio(t / (2.0f - t));
    return -fvi_ln(x > 0xb504f333u ? high : low); /* 2^31.5 */
}

static void gumbel_row(ar_noise noise, int position, int n, float *g)
{
    const uint32_t k0 = (uint32_t)noise.seed, k1 = (uint32_t)(noise.seed >> 32);
    float out[4 * LANES];
    uint32_t word[4 * LANES];
    for (int at = 0; at < n; at += 4 * LANES) {
        for (int l = 0; l < LANES; l++) {
            uint32_t c[4] = { (uint32_t)(at / 4 + l), (uint32_t)position, noise.image,
                              FV_STREAM_GUMBEL };
            fvi_philox10(c, k0, k1);
            for (int j = 0; j < 4; j++) word[4 * l + j] = c[j];
        }
        float *to = n - at < 4 * LANES ? out : g + at;
        for (int l = 0; l < 4 * LANES; l++) to[l] = gumbel_of(word[l]);
        if (to == out) memcpy(g + at, out, (size_t)(n - at) * sizeof *g);
    }
}

FV_INLINE float divided(float logit, float temperature)
{
    float x = logit / temperature;
    x = x > FLT_MAX ? FLT_MAX : x;
    return (x >= -FLT_MAX ? x : -INFINITY) + 0.0f;
}

static float divide(float *FV_RESTRICT x, const float *FV_RESTRICT logits, int n, float temperature)
{
    float most[LANES];
    for (int l = 0; l < LANES; l++) most[l] = -INFINITY;
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            const float v = divided(logits[i + l], temperature);
            x[i + l] = v;
            most[l] = v > most[l] ? v : most[l];
        }
    for (; i < n; i++) {
        x[i] = divided(logits[i], temperature);
        if (x[i] > most[0]) most[0] = x[i];
    }
    for (int l = 1; l < LANES; l++)
        if (most[l] > most[0]) most[0] = most[l];
    return most[0];
}

static double exp_sum(float *FV_RESTRICT p, const float *FV_RESTRICT x, int n)
{
    double sum[LANES] = { 0 };
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            const float e = fvi_exp_negative(x[i + l]);
            p[i + l] = e;
            sum[l] += e;
        }
    for (int l = 0; i < n; i++, l++) {
        p[i] = fvi_exp_negative(x[i]);
        sum[l] += p[i];
    }
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int l = 0; l < width; l++) sum[l] += sum[l + width];
    return sum[0];
}

void AR_LOGITS_INIT(ar_logits_ops *o)
{
    o->gumbel = gumbel_row;
    o->divide = divide;
    o->exp_sum = exp_sum;
}
