/* check_cm.c - the vector variants of the mixer against the scalar definition, bit for bit, at
 * random and at extreme values, with guard words behind the weights. */
#include "cm_parts.h"
#include "test.h"

#define SETS 6
#define GUARD 16
static FV_ALIGNED(64) int16_t inputs[VZ_MIX_INPUTS];
static FV_ALIGNED(64) int32_t weights[2][SETS][VZ_MIX_INPUTS + GUARD];

static int32_t pick(uint64_t *seed, int32_t most, int extreme)
{
    const uint32_t r = test_next(seed);
    if (extreme && (r >> 28) < 12) return (r & 1) ? most : -most;
    return (int32_t)(r % (2u * (uint32_t)most + 1)) - most;
}

static void fill(uint64_t *seed, int extreme)
{
    for (int k = 0; k < VZ_MIX_INPUTS; k++)
        inputs[k] = (int16_t)pick(seed, extreme ? 2048 - (k & 1) : 2047, extreme);
    for (int s = 0; s < SETS; s++)
        for (int k = 0; k < VZ_MIX_INPUTS + GUARD; k++)
            weights[0][s][k] = weights[1][s][k] = pick(seed, VZ_MIX_WEIGHT_MAX, extreme);
}

static void compare(const vz_mix_ops *ops)
{
    uint64_t seed = 7;
    for (int round = 0; round < 400; round++) {
        const int n = 16 * (1 + round % (VZ_MIX_INPUTS / 16)), sets = 1 + round % SETS;
        int32_t *w[2][SETS], out[2][SETS], error[SETS];
        fill(&seed, round & 1);
        /* 2048 only where the definition's range allows it: |w x| < 2^30 */
        for (int k = 0; k < n; k++)
            inputs[k] = (int16_t)vz_clamp(inputs[k], -VZ_LOGIT_MAX, VZ_LOGIT_MAX);
        for (int s = 0; s < SETS; s++) {
            w[0][s] = weights[0][s];
            w[1][s] = weights[1][s];
            error[s] = pick(&seed, VZ_MIX_ERROR_MAX, round & 1);
        }
        for (int step = 0; step < 3; step++) {
            vz_mix_ops_c.dot(inputs, n, w[0], sets, out[0]);
            ops->dot(inputs, n, w[1], sets, out[1]);
            CHECK(memcmp(out[0], out[1], (size_t)sets * sizeof out[0][0]) == 0);
            vz_mix_ops_c.train(inputs, n, w[0], sets, error);
            ops->train(inputs, n, w[1], sets, error);
            CHECK(vz_mix_ops_c.sum_dot(inputs, n, w[0], sets) ==
                  ops->sum_dot(inputs, n, w[1], sets));
            vz_mix_ops_c.sum_train(inputs, n, w[0], sets, error[0]);
            ops->sum_train(inputs, n, w[1], sets, error[0]);
            CHECK(memcmp(weights[0], weights[1], sizeof weights[0]) == 0);
        }
    }
}

#if defined(__x86_64__)
static void avx2_equals_scalar(void) { compare(&vz_mix_ops_avx2); }
static void avx512_equals_scalar(void) { compare(&vz_mix_ops_avx512); }
#endif

/* Every input and weight at its edge, all of one sign: the largest sum there is. */
static void largest_sum_fits(void)
{
    int32_t *w = weights[0][0], out;
    for (int sign = -1; sign <= 1; sign += 2) {
        for (int k = 0; k < VZ_MIX_INPUTS; k++) {
            inputs[k] = (int16_t)(sign * VZ_LOGIT_MAX);
            w[k] = VZ_MIX_WEIGHT_MAX;
        }
        vz_mix_ops_c.dot(inputs, VZ_MIX_INPUTS, &w, 1, &out);
        const int64_t term = (int64_t)VZ_LOGIT_MAX * VZ_MIX_WEIGHT_MAX;
        const int64_t each = sign > 0 ? term >> 8 : -((term + 255) >> 8);
        const int64_t sum = each * VZ_MIX_INPUTS;
        CHECK(out == (sum >= 0 ? sum >> 8 : -((-sum + 255) >> 8)));
    }
}

static void tables_are_monotone(void)
{
    static vz_logistic t;
    vz_logistic_init(&t);
    for (int x = -VZ_SQUASH_MAX; x < VZ_SQUASH_MAX; x++)
        CHECK(vz_squash(&t, x) <= vz_squash(&t, x + 1));
    for (uint32_t p = 16; p < 65536; p++)
        CHECK(vz_stretch(&t, p - 16) <= vz_stretch(&t, p));
    for (int x = -VZ_SQUASH_MAX; x <= VZ_SQUASH_MAX; x++) {
        const double p = 65536 / (1 + exp(-x / 256.0));
        NEAR(vz_squash(&t, x), p < 1 ? 1 : p > 65535 ? 65535 : p, 1.01);
    }
    CHECK(vz_squash(&t, -100000) == 1 && vz_squash(&t, 100000) == 65535);
    CHECK(t.rate[VZ_PROB_FIXED] == 0);
}

int main(void)
{
    RUN(tables_are_monotone);
    RUN(largest_sum_fits);
#if defined(__x86_64__)
    const uint32_t cpu = fv_cpu_features();
    if (cpu & FV_CPU_AVX2) RUN(avx2_equals_scalar);
    else SKIP(avx2_equals_scalar, "this CPU has no AVX2");
    if (cpu & FV_CPU_AVX512) RUN(avx512_equals_scalar);
    else SKIP(avx512_equals_scalar, "this CPU has no AVX-512");
#endif
    return test_end();
}
