/* vq_codebook.c - codes that nobody chooses.
 *
 * A code that is not the nearest of any latent gets no gradient and stays where it is for ever. It
 * is set onto a latent instead [as in Jukebox, Dhariwal et al. 2020, and SoundStream]. Which codes
 * are dead is counted by the caller; here nothing is remembered from one call to the next, so that
 * a resumed training restarts the same codes. */
#include "vq_train.h"

#include <math.h>
#include <string.h>

#include "optim_tables.h"

/* Apart from all other streams: "VQ" */
#define STREAM (FV_STREAM_USER + 0x5651)

void fvi_vq_count(uint32_t *counts, int64_t codes, const int32_t *index, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (index[i] >= 0 && index[i] < codes) counts[index[i]]++;
}

int64_t fvi_vq_used(const uint32_t *counts, int64_t codes)
{
    int64_t used = 0;
    for (int64_t v = 0; v < codes; v++) used += counts[v] > 0;
    return used;
}

double fvi_vq_perplexity(const uint32_t *counts, int64_t codes)
{
    double total = 0, sum = 0;
    for (int64_t v = 0; v < codes; v++) total += counts[v];
    for (int64_t v = 0; v < codes; v++)
        if (counts[v]) sum -= counts[v] / total * log(counts[v] / total);
    return total > 0 ? exp(sum) : 0;
}

/* Value, moments and average of a parameter; the average may be NULL. */
static void arrays_of(const fv_opt *o, fv_pid id, float *out[4])
{
    const int64_t at = fvi_param_offset(o->params, id);
    float *const all[4] = { fvi_params_master(o->params), o->m, o->v, o->ema };
    for (int k = 0; k < 4; k++) out[k] = all[k] ? all[k] + at : NULL;
}

int64_t fvi_vq_restart_codes(const fvi_vq_restart *r)
{
    const fv_tensor t = fv_params_tensor(r->opt->params, r->id);
    const int64_t V = t.dim[0], D = t.dim[1];
    int64_t done = 0;
    float *part[4];
    if (r->n < 1) return 0;
    arrays_of(r->opt, r->id, part);
    for (int64_t v = 0; v < V; v++) {
        uint32_t bits[4];
        if (r->counts[v]) continue;
        fv_philox(r->seed, STREAM, (uint32_t)r->step, (uint64_t)v, bits);
        const uint64_t wide = (uint64_t)bits[0] << 32 | bits[1];
        const float *from = r->latents + (int64_t)(wide % (uint64_t)r->n) * D;
        for (int k = 0; k < 4; k++) {
            if (!part[k]) continue;
            if (k == 1 || k == 2) memset(part[k] + v * D, 0, (size_t)D * sizeof(float));
            else memcpy(part[k] + v * D, from, (size_t)D * sizeof(float));
        }
        done++;
    }
    if (done) fv_params_touch(r->opt->params);
    return done;
}

void fvi_opt_keep(const fv_opt *o, fv_pid id, float *state)
{
    const fv_tensor t = fv_params_tensor(o->params, id);
    const int64_t n = fv_tensor_count(&t);
    float *part[4];
    arrays_of(o, id, part);
    for (int k = 0; k < 4; k++)
        if (part[k]) memcpy(state + k * n, part[k], (size_t)n * sizeof *state);
}

void fvi_opt_put_back(fv_opt *o, fv_pid id, const float *state)
{
    const fv_tensor t = fv_params_tensor(o->params, id);
    const int64_t n = fv_tensor_count(&t);
    float *part[4];
    arrays_of(o, id, part);
    for (int k = 0; k < 4; k++)
        if (part[k]) memcpy(part[k], state + k * n, (size_t)n * sizeof *state);
    fv_params_touch(o->params);
}
