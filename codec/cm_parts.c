/* cm_parts.c - logistic tables, SSE, scalar mixer: see cm_parts.h. The scalar functions are the
 * definition of the format; cm_mix_avx2.c and cm_mix_avx512.c must equal them bit for bit. */
#include "cm_parts.h"

#include <string.h>

/* squash(k) = 2^16 / (1 + e^(-k/256)). e^(-k/256) is a running product in Q32: its error, below
 * k * 2^-32, does not matter, only that it is the same everywhere. */
#define EXP_STEP_Q32 0xff007fd5u /* e^(-1/256) */

void vz_logistic_init(vz_logistic *t)
{
    uint64_t e = (uint64_t)1 << 32;
    for (int k = 0; k <= VZ_SQUASH_MAX; k++) {
        const uint64_t one = (uint64_t)1 << 32;
        const uint32_t p = vz_p16_clamp((uint32_t)(((one << 16) + (one + e) / 2) / (one + e)));
        t->squash[VZ_SQUASH_MAX + k] = (uint16_t)p;
        t->squash[VZ_SQUASH_MAX - k] = (uint16_t)(65536 - p);
        e = (e >> 1) * EXP_STEP_Q32 >> 31;
    }
    t->squash[2 * VZ_SQUASH_MAX + 1] = t->squash[2 * VZ_SQUASH_MAX];
    int x = -VZ_SQUASH_MAX;
    for (int i = 0; i < 4096; i++) {
        const uint32_t p = (uint32_t)i * 16 + 8;
        while (x < VZ_SQUASH_MAX && t->squash[x + VZ_SQUASH_MAX] < p) x++;
        t->stretch[i] = (int16_t)vz_clamp(x, -VZ_LOGIT_MAX, VZ_LOGIT_MAX);
    }
    for (uint32_t n = 0; n < 1024; n++) t->rate[n] = (uint16_t)(655360 / (10 * n + 16));
    t->rate[VZ_PROB_FIXED] = 0;
}

void vz_apm_init(vz_apm *a, const vz_logistic *t, uint16_t *memory, uint32_t contexts)
{
    a->t = memory;
    a->at = 0;
    a->contexts = contexts;
    for (uint32_t c = 0; c < contexts; c++)
        for (int i = 0; i < VZ_APM_NODES; i++)
            memory[c * VZ_APM_NODES + (uint32_t)i] = (uint16_t)vz_squash(t, (i - 12) * 256);
}

/* ---- Mixer ----------------------------------------------------------------------------------- */

static void dot_c(const int16_t *x, int n, int32_t *const *w, int sets, int32_t *out)
{
    for (int s = 0; s < sets; s++) {
        int32_t sum = 0;
        for (int k = 0; k < n; k++) sum += vz_sar(w[s][k] * x[k], 8);
        out[s] = vz_sar(sum, 8);
    }
}

static void train_c(const int16_t *x, int n, int32_t *const *w, int sets, const int32_t *error)
{
    for (int s = 0; s < sets; s++)
        for (int k = 0; k < n; k++) {
            const int32_t v = w[s][k] + vz_sar(x[k] * error[s] + (1 << 13), 14);
            w[s][k] = vz_clamp(v, -VZ_MIX_WEIGHT_MAX, VZ_MIX_WEIGHT_MAX);
        }
}

const vz_mix_ops vz_mix_ops_c = {dot_c, train_c};

const vz_mix_ops *vz_mix_ops_for(uint32_t cpu)
{
#if defined(__x86_64__)
    if (cpu & FV_CPU_AVX512) return &vz_mix_ops_avx512;
    if (cpu & FV_CPU_AVX2) return &vz_mix_ops_avx2;
#else
    (void)cpu;
#endif
    return &vz_mix_ops_c;
}

static int padded(int inputs) { return (inputs + 15) & ~15; }

size_t vz_mixer_bytes(int inputs, int selectors, const uint32_t *contexts, uint32_t contexts2)
{
    size_t sum = contexts2;
    size_t bytes = 64 + ((size_t)padded(inputs) * sizeof(int16_t) + 63) / 64 * 64;
    bytes += sum * 16 * sizeof(int32_t);
    sum = 0;
    for (int i = 0; i < selectors; i++) sum += contexts[i];
    return bytes + sum * (size_t)padded(inputs) * sizeof(int32_t);
}

void vz_mixer_init(vz_mixer *m, const vz_mix_ops *ops, const vz_logistic *lg, void *memory,
                   int inputs, int selectors, const uint32_t *contexts, uint32_t contexts2,
                   int32_t w0)
{
    uint8_t *at = memory;
    memset(m, 0, sizeof *m);
    m->ops = ops;
    m->lg = lg;
    m->n = padded(inputs);
    m->selectors = selectors;
    m->rate = m->rate2 = 256;
    m->x2 = (int16_t *)at;
    memset(m->x2, 0, 64);
    at += 64;
    m->x = (int16_t *)at;
    const size_t x_bytes = ((size_t)m->n * sizeof(int16_t) + 63) / 64 * 64;
    memset(m->x, 0, x_bytes);
    at += x_bytes;
    m->group2 = m->pick2 = (int32_t *)at;
    for (uint32_t c = 0; c < contexts2; c++)
        for (int i = 0; i < 16; i++)
            m->group2[c * 16 + (uint32_t)i] = i < selectors ? 65536 / selectors : 0;
    at += (size_t)contexts2 * 16 * sizeof(int32_t);
    for (int i = 0; i < selectors; i++) {
        const size_t count = (size_t)contexts[i] * (size_t)m->n;
        m->group[i] = m->pick[i] = (int32_t *)at;
        for (size_t k = 0; k < count; k++) m->group[i][k] = w0;
        at += count * sizeof(int32_t);
    }
}

int32_t vz_mixer_logit(vz_mixer *m)
{
    m->ops->dot(m->x, m->n, m->pick, m->selectors, m->dot);
    for (int i = 0; i < m->selectors; i++) {
        m->dot[i] = vz_clamp(m->dot[i], -VZ_SQUASH_MAX, VZ_SQUASH_MAX);
        m->x2[i] = (int16_t)vz_clamp(m->dot[i], -VZ_LOGIT_MAX, VZ_LOGIT_MAX);
    }
    m->ops->dot(m->x2, 16, &m->pick2, 1, &m->logit);
    m->logit = vz_clamp(m->logit, -VZ_SQUASH_MAX, VZ_SQUASH_MAX);
    return m->logit;
}

static int32_t error_of(const vz_mixer *m, int32_t logit, int bit, int32_t rate)
{
    const int32_t e = (bit ? 65536 : 0) - (int32_t)vz_squash(m->lg, logit);
    return vz_clamp(vz_sar(e * rate, 10), -VZ_MIX_ERROR_MAX, VZ_MIX_ERROR_MAX);
}

void vz_mixer_update(vz_mixer *m, int bit)
{
    int32_t error[VZ_MIX_SELECTORS];
    for (int i = 0; i < m->selectors; i++) error[i] = error_of(m, m->dot[i], bit, m->rate);
    m->ops->train(m->x, m->n, m->pick, m->selectors, error);
    const int32_t e2 = error_of(m, m->logit, bit, m->rate2);
    m->ops->train(m->x2, 16, &m->pick2, 1, &e2);
}
