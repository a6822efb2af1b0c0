/* vq_codebook.c - codes that nobody chooses.
 *
 * A code that is not the nearest of any latent gets no gradient and stays where it is for ever. It
 * is set onto a latent instead [as in Jukebox, Dhariwal et al. 2020, and SoundStream]. Which codes
 * are dead is counted by the caller; here nothing is remembered from one call to the next, so that
 * a resumed training restarts the same codes. */
#include "vq_train.h"

#include <math.h>
#include <string.h>

#include "cpu_ops.h"
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

fv_status fvi_vq_gather(const fvi_vq_look *l, uint64_t seen, int64_t *rows)
{
    const int P = l->parts > 1 ? l->parts : 1;
    *rows = 0;
    memset(l->counts, 0, (size_t)l->V * sizeof *l->counts);
    for (int k = 0; k < l->batches && (uint64_t)k < seen; k++) {
        const int32_t *index;
        fv_batch b;
        /* The newest first, the parts of one in their order: latents stand as they do undivided. */
        const uint64_t number = seen - (uint64_t)((k / P + 1) * P) + (uint64_t)(k % P);
        FV_TRY(fv_dataset_batch(l->data, number, l->batch, &b));
        FV_TRY(fv_plan_feed(l->plan, "x", b.images));
        FV_TRY(fv_plan_forward(l->plan));
        FV_TRY(fv_plan_fetch(l->plan, "z", l->latents + *rows * l->D));
        FV_TRY(fv_plan_seen_ids(l->plan, "index", &index));
        fvi_vq_count(l->counts, l->V, index, l->n);
        *rows += l->n;
    }
    return FV_OK;
}

/* Where value, moments and average of a parameter are; the average may be NULL. What the host changed
 * goes to a device first. */
static fv_status arrays_of(const fv_opt *o, fv_pid id, float *out[4])
{
    if (o->device) FV_TRY(fvi_params_sync(o->ctx, o->params));
    const int64_t at = fvi_param_offset(o->params, id);
    float *const all[4] = { fvi_params_values(o->params), o->m, o->v, o->ema };
    for (int k = 0; k < 4; k++) out[k] = all[k] ? all[k] + at : NULL;
    return FV_OK;
}

static int64_t count_of(const fv_opt *o, fv_pid id)
{
    const fv_tensor t = fv_params_tensor(o->params, id);
    return fv_tensor_count(&t);
}

fv_status fvi_opt_keep(const fv_opt *o, fv_pid id, float *state)
{
    const int64_t n = count_of(o, id);
    float *part[4];
    FV_TRY(arrays_of(o, id, part));
    for (int k = 0; k < 4; k++)
        if (part[k])
            FV_TRY(fv_dev_copy(o->ctx, state + k * n, part[k], (size_t)n * sizeof *state,
                               FV_COPY_TO_HOST));
    return FV_OK;
}

fv_status fvi_opt_put_back(const fv_opt *o, fv_pid id, const float *state)
{
    const int64_t n = count_of(o, id);
    float *part[4];
    FV_TRY(arrays_of(o, id, part));
    for (int k = 0; k < 4; k++)
        if (part[k])
            FV_TRY(fv_dev_copy(o->ctx, part[k], state + k * n, (size_t)n * sizeof *state,
                               FV_COPY_TO_DEVICE));
    fvi_params_changed(o->params, false);
    return FV_OK;
}

/* Rows of state [4][V][D] that nobody chooses become latents. */
static int64_t replace_rows(const fvi_vq_restart *r, int64_t V, int64_t D, float *state)
{
    const size_t bytes = (size_t)D * sizeof *state;
    int64_t done = 0;
    for (int64_t v = 0; v < V; v++) {
        uint32_t bits[4];
        if (r->counts[v]) continue;
        fv_philox(r->seed, STREAM, (uint32_t)r->step, (uint64_t)v, bits);
        const uint64_t wide = (uint64_t)bits[0] << 32 | bits[1];
        const float *from = r->latents + (int64_t)(wide % (uint64_t)r->n) * D;
        for (int k = 0; k < 4; k++) {
            float *row = state + (k * V + v) * D;
            if (k == 1 || k == 2) memset(row, 0, bytes);
            else memcpy(row, from, bytes);
        }
        done++;
    }
    return done;
}

fv_status fvi_vq_restart_codes(const fvi_vq_restart *r, int64_t *done)
{
    const fv_tensor t = fv_params_tensor(r->opt->params, r->id);
    *done = 0;
    if (r->n < 1 || fvi_vq_used(r->counts, t.dim[0]) == t.dim[0]) return FV_OK;
    float *state = fv_alloc(r->opt->ctx, 4 * (size_t)fv_tensor_count(&t) * sizeof *state);
    if (!state) return FV_ERR_OOM;
    fv_status s = fvi_opt_keep(r->opt, r->id, state);
    if (s == FV_OK) {
        *done = replace_rows(r, t.dim[0], t.dim[1], state);
        s = fvi_opt_put_back(r->opt, r->id, state);
    }
    fv_free(r->opt->ctx, state);
    return s;
}

/* ---- k-means --------------------------------------------------------------------------------- */

/* Latent number `draw` for code v; numbers of one draw are distinct while v < n. */
static int64_t drawn(const fvi_vq_restart *r, int draw, int64_t v)
{
    return (int64_t)fv_rand_permute(r->seed + STREAM, r->step * 64 + (uint64_t)draw,
                                    (uint64_t)r->n, (uint64_t)(v % r->n));
}

/* Codes from the sums of their latents; those without any are drawn again. */
static void normalise(const fvi_vq_restart *r, int round, int64_t V, int64_t D, const double *sum,
                      float *codes)
{
    for (int64_t v = 0; v < V; v++) {
        double length = 0;
        for (int64_t d = 0; d < D; d++) length += sum[v * D + d] * sum[v * D + d];
        length = sqrt(length);
        const float *from = r->latents + drawn(r, round + 1, v) * D;
        for (int64_t d = 0; d < D; d++)
            codes[v * D + d] = length > 1e-6 ? (float)(sum[v * D + d] / length) : from[d];
    }
}

void fvi_vq_restarts_read(fvi_vq_restarts *w, fv_recipe *r, int batches, uint64_t steps)
{
    w->every = (uint64_t)fv_recipe_int(r, "restart_every", 100, 0, 1000000000);
    w->batches = (int)fv_recipe_int(r, "restart_batches", batches, 1, 4096);
    w->end = (uint64_t)(fv_recipe_number(r, "restart_until", 0.8, 0, 1) * (double)steps);
}

bool fvi_vq_restart_is_due(const fvi_vq_restarts *w, uint64_t step)
{
    return step > 0 && w->every > 0 && step % w->every == 0 && step < w->end;
}

fv_status fvi_vq_kmeans(fv_ctx *ctx, const fvi_vq_restart *r, int rounds, float *codes)
{
    const fv_tensor t = fv_params_tensor(r->opt->params, r->id);
    const int64_t V = t.dim[0], D = t.dim[1];
    const fv_tensor table = { codes, FV_F32, 2, { V, D } };
    float *work = fv_alloc(ctx, (size_t)D * fvi_pad16(V) * sizeof *work);
    int32_t *index = fv_alloc(ctx, (size_t)r->n * sizeof *index);
    double *sum = fv_alloc(ctx, (size_t)(V * D) * sizeof *sum);
    const fv_status s = work && index && sum ? FV_OK : FV_ERR_OOM;
    for (int64_t v = 0; v < V && s == FV_OK; v++)
        memcpy(codes + v * D, r->latents + drawn(r, 0, v) * D, (size_t)D * sizeof *codes);
    for (int k = 0; k < rounds && s == FV_OK; k++) {
        const fvi_vq_codes c = fvi_vq_transpose(ctx, &table, work);
        FVI_PARALLEL_LANES(ctx, lane) {
            int64_t i, end;
            fvi_lane(r->n, lane, &i, &end);
            ctx->cpu_ops->vq.nearest(index + i, r->latents + i * D, end - i, &c);
        }
        memset(sum, 0, (size_t)(V * D) * sizeof *sum);
        for (int64_t i = 0; i < r->n; i++)
            for (int64_t d = 0; d < D; d++) sum[index[i] * D + d] += r->latents[i * D + d];
        normalise(r, k, V, D, sum, codes);
    }
    fv_free(ctx, work);
    fv_free(ctx, index);
    fv_free(ctx, sum);
    return s;
}

fv_status fvi_opt_set(const fv_opt *o, fv_pid id, const float *values)
{
    const size_t bytes = (size_t)count_of(o, id) * sizeof *values;
    float *part[4];
    FV_TRY(arrays_of(o, id, part));
    for (int k = 0; k < 4; k++) {
        if (!part[k]) continue;
        if (k == 1 || k == 2) FV_TRY(fv_dev_zero(o->ctx, part[k], bytes));
        else FV_TRY(fv_dev_copy(o->ctx, part[k], values, bytes, FV_COPY_TO_DEVICE));
    }
    fvi_params_changed(o->params, false);
    return FV_OK;
}
