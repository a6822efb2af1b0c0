/* cm_parts.c - logistic tables, SSE, scalar mixer: see cm_parts.h. cm_mix_body.h is
 * compiled here as scalar code; cm_mix_avx2.c and cm_mix_avx512.c must equal it bit for bit. */
#define VZ_MIX_DEFINE_OPS
#include "cm_mix_body.h"

#include <string.h>

/* What is there is copied behind itself: memcpy is as fast as memory is. */
void vz_fill32(uint32_t *to, size_t n, uint32_t v)
{
    const size_t most = 1024; /* stays in the cache */
    size_t done = n < 16 ? n : 16;
    for (size_t i = 0; i < done; i++) to[i] = v;
    while (done < n) {
        size_t step = done < most ? done : most;
        if (step > n - done) step = n - done;
        memcpy(to + done, to, step * sizeof *to);
        done += step;
    }
}

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
    uint16_t row[VZ_APM_ROW] = {0};
    for (int i = 0; i < VZ_APM_NODES; i++) row[i] = (uint16_t)vz_squash(t, (i - 12) * 256);
    for (size_t c = 0; c < contexts; c++) memcpy(memory + c * VZ_APM_ROW, row, sizeof row);
}

/* ---- Mixer ----------------------------------------------------------------------------------- */

const vz_mix_ops vz_mix_ops_c = VZ_MIX_OPS;

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
        vz_fill32((uint32_t *)m->group[i], count, (uint32_t)w0);
        at += count * sizeof(int32_t);
    }
}
