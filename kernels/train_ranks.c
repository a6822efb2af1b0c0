/* train_ranks.c - data-parallel steps: who computes which micro-batches, and how they add up.
 *
 * A trainer divides the recipe's batch into parts (fv_trainer_share), so a step has parts * rounds
 * micro-batches, and micro-batch round * parts + part has the samples that it has with one rank.
 *
 *     ranks alone       parts = ranks: each takes part `rank` of every round, so that in a round
 *                       all ranks together hold one micro-batch of the recipe, and losses that look
 *                       at all of it can (fv_ctx_set_reduce)
 *     slices = S = 2^k  parts = S: each takes S / ranks neighbouring slices. Gradients of a slice
 *                       add up over its rounds, slices in a binary tree: a rank's own are a subtree,
 *                       and fv_comm_sum_f32 is the top of it. No bit depends on the ranks.
 *
 * On a device gradients are summed there where it has a library for that, else over the host, in the
 * same order as on CPUs; slices are not there.
 *
 * All ranks make the same update of the same masters. Rank 0 alone reads and writes files. */
#include "train_ranks.h"

#include "backend.h"

#include <math.h>
#include <string.h>

fv_status fvi_ranks_open(fvi_ranks *k, fv_ctx *ctx, fv_params *params, fv_opt *opt, int accumulate,
                         int slices)
{
    memset(k, 0, sizeof *k);
    k->ctx = ctx;
    k->params = params;
    k->opt = opt;
    k->comm = ctx->comm;
    k->rank = fv_comm_rank(ctx->comm);
    k->size = fv_comm_size(ctx->comm);
    k->slices = slices;
    k->parts = slices ? slices : k->size;
    k->rounds = accumulate / k->parts;
    if (slices < 0 || (slices & (slices - 1)) != 0 || slices >= 1 << FVI_RANK_LEVELS)
        return fv_fail(ctx, FV_ERR_ARG, "training: slices = %d: use a power of two up to %d", slices,
                       1 << (FVI_RANK_LEVELS - 1));
    if (k->parts % k->size != 0)
        return fv_fail(ctx, FV_ERR_ARG, "training: %d slices do not divide among %d ranks; use as "
                       "many ranks as a power of two, or more slices", slices, k->size);
    if (accumulate % k->parts != 0)
        return fv_fail(ctx, FV_ERR_ARG, "training: %d micro-batches do not divide into %d parts",
                       accumulate, k->parts);
    k->verdict = fv_calloc(ctx, 2 * (size_t)k->size, sizeof *k->verdict);
    return k->verdict ? FV_OK : FV_ERR_OOM;
}

void fvi_ranks_close(fvi_ranks *k)
{
    for (int i = 0; i < FVI_RANK_LEVELS; i++) fv_free(k->ctx, k->sum[i]);
    fv_free(k->ctx, k->verdict);
    fv_free(k->ctx, k->host);
    if (k->near) k->opt->device->ranks_close(k->ctx, k->near);
}

fv_status fvi_ranks_near(fvi_ranks *k)
{
    if (k->size < 2 || !k->opt->device) return FV_OK;
    FV_TRY(k->opt->device->ranks_open(k->ctx, &k->near));
    if (k->near) return FV_OK;
    k->host = fv_alloc(k->ctx, (size_t)fvi_params_flat_count(k->params) * sizeof *k->host);
    return fvi_ranks_agree(k, k->host ? FV_OK : FV_ERR_OOM, NULL);
}

/* ---- Agreement ------------------------------------------------------------------------------- */

static fv_status outcome(fvi_ranks *k, fv_status mine)
{
    bool cancelled = false;
    for (int r = 0; r < k->size; r++) {
        const int s = (int)k->verdict[2 * r];
        if (s == FV_ERR_CANCELLED) cancelled = true;
        if (s == FV_OK || s == FV_ERR_CANCELLED) continue;
        if (r == k->rank) return mine; /* its message is in the context */
        return fv_fail(k->ctx, FV_ERR_COMM, "training: rank %d failed (%s); see its message", r,
                       fv_status_name((fv_status)s));
    }
    if (!cancelled) return FV_OK;
    return mine == FV_ERR_CANCELLED ? mine : fv_fail(k->ctx, FV_ERR_CANCELLED, "training: cancelled");
}

fv_status fvi_ranks_agree(fvi_ranks *k, fv_status s, double *value)
{
    if (k->size < 2 || fv_comm_broken(k->comm)) return s;
    if (s == FV_OK && fv_ctx_cancelled(k->ctx))
        s = fv_fail(k->ctx, FV_ERR_CANCELLED, "training: cancelled");
    const double mine[2] = {(double)s, value ? *value : 0};
    FV_TRY(fv_comm_gather(k->comm, mine, sizeof mine, k->verdict));
    if (value) *value = fvi_tree_sum(k->verdict + 1, k->size, 2);
    return outcome(k, s);
}

fv_status fvi_ranks_end(fvi_ranks *k, fv_status s)
{
    if (k->size < 2) return s;
    atomic_store(&k->ctx->hold, 1);
    s = fvi_ranks_agree(k, s, NULL);
    atomic_store(&k->ctx->hold, 0);
    return s;
}

uint64_t fv_trainer_next(const fv_ctx *ctx, uint64_t number)
{
    return number + (uint64_t)fv_comm_size(fv_ctx_comm(ctx));
}

fv_status fvi_ranks_all(fv_ctx *ctx, fv_status s)
{
    fvi_ranks k = {.ctx = ctx, .comm = ctx->comm, .rank = fv_comm_rank(ctx->comm),
                   .size = fv_comm_size(ctx->comm)};
    if (k.size < 2) return s;
    k.verdict = fv_calloc(ctx, 2 * (size_t)k.size, sizeof *k.verdict);
    s = k.verdict ? fvi_ranks_agree(&k, s, NULL) : FV_ERR_OOM;
    fvi_ranks_close(&k);
    return s;
}

/* ---- State ----------------------------------------------------------------------------------- */

fv_status fvi_ranks_share_state(fvi_ranks *k, uint64_t *step)
{
    fv_opt *o = k->opt;
    const size_t bytes = (size_t)fvi_params_flat_count(k->params) * sizeof(float);
    uint64_t n[5] = {*step, o->steps, o->skipped, o->skipped_row, o->ema_ready};
    if (k->size < 2) return FV_OK;
    fvi_opt_state state;
    FV_TRY(fv_comm_broadcast(k->comm, n, sizeof n));
    FV_TRY(fvi_params_fetch(k->params));
    FV_TRY(fv_comm_broadcast(k->comm, fvi_params_master(k->params), bytes));
    FV_TRY(fvi_opt_state_get(k->ctx, o, k->rank == 0, &state));
    fv_status s = fv_comm_broadcast(k->comm, state.m, bytes);
    if (s == FV_OK) s = fv_comm_broadcast(k->comm, state.v, bytes);
    if (s == FV_OK && state.ema) s = fv_comm_broadcast(k->comm, state.ema, bytes);
    if (s == FV_OK) s = fvi_opt_state_put(k->ctx, o, &state);
    fvi_opt_state_free(k->ctx, o, &state);
    FV_TRY(s);
    *step = n[0];
    o->steps = n[1];
    o->skipped = n[2];
    o->skipped_row = (uint32_t)n[3];
    o->ema_ready = n[4] != 0;
    fv_params_touch(k->params);
    return FV_OK;
}

/* ---- Slices ---------------------------------------------------------------------------------- */

/* Slice number i of this rank is done, the last is last: add what is complete below it. */
static fv_status add_slice(fvi_ranks *k, int i, bool is_last, double *loss)
{
    const size_t n = (size_t)fvi_params_flat_count(k->params);
    float *g = fvi_params_grad_flat(k->params);
    int level = 0;
    for (; (i >> level) & 1; level++) {
        const float *left = k->sum[level];
        for (size_t e = 0; e < n; e++) g[e] = left[e] + g[e];
        *loss = k->loss[level] + *loss;
    }
    if (is_last) return FV_OK;
    if (!k->sum[level]) k->sum[level] = fv_alloc(k->ctx, n * sizeof(float));
    if (!k->sum[level]) return FV_ERR_OOM;
    memcpy(k->sum[level], g, n * sizeof(float));
    k->loss[level] = *loss;
    fv_params_zero_grad(k->params);
    return FV_OK;
}

/* ---- Step ------------------------------------------------------------------------------------ */

/* All rounds of one part. */
static fv_status run_part(fvi_ranks *k, const fv_train_hooks *hooks, uint64_t step, int part,
                          double *loss)
{
    const int n = k->parts * k->rounds;
    *loss = 0;
    for (int round = 0; round < k->rounds; round++) {
        double one = NAN;
        FV_TRY(hooks->step(hooks->user, step, round * k->parts + part, 1.0f / (float)n, &one));
        *loss += one / n;
    }
    return FV_OK;
}

static fv_status run_parts(fvi_ranks *k, const fv_train_hooks *hooks, uint64_t step, double *loss)
{
    const int mine = k->parts / k->size;
    if (!k->slices) return run_part(k, hooks, step, k->rank, loss);
    for (int i = 0; i < mine; i++) {
        FV_TRY(run_part(k, hooks, step, k->rank * mine + i, loss));
        FV_TRY(add_slice(k, i, i + 1 == mine, loss));
    }
    return FV_OK;
}

static fv_status sum_over_ranks(void *user, double *sums, int n)
{
    return fv_comm_sum_f64(((fvi_ranks *)user)->comm, sums, n);
}

static fv_status sum_floats(fvi_ranks *k, float *g, int64_t n)
{
    const size_t bytes = (size_t)n * sizeof *g;
    if (!k->opt->device) return fv_comm_sum_f32(k->comm, g, n);
    if (k->near) return k->opt->device->ranks_sum(k->ctx, k->near, g, n);
    FV_TRY(fv_dev_copy(k->ctx, k->host, g, bytes, FV_COPY_TO_HOST));
    FV_TRY(fv_comm_sum_f32(k->comm, k->host, n));
    return fv_dev_copy(k->ctx, g, k->host, bytes, FV_COPY_TO_DEVICE);
}

/* Runs of neighbouring parameters that are trained, the last first: about the order in which the
 * backward pass finishes them. Frozen ones are not sent. */
static fv_status sum_gradients(fvi_ranks *k)
{
    const fv_opt *o = k->opt;
    float *g = fvi_params_grad_flat(k->params);
    for (int s = o->segments - 1; s >= 0; s--) {
        const int64_t end = o->seg[s].end;
        while (s > 0 && o->seg[s - 1].end == o->seg[s].begin) s--;
        FV_TRY(sum_floats(k, g + o->seg[s].begin, end - o->seg[s].begin));
    }
    return FV_OK;
}

fv_status fvi_ranks_step(fvi_ranks *k, const fv_train_hooks *hooks, uint64_t step, double *loss)
{
    if (k->size < 2) return run_parts(k, hooks, step, loss);
    atomic_store(&k->ctx->hold, 1);
    if (!k->slices) fv_ctx_set_reduce(k->ctx, sum_over_ranks, k);
    fv_status s = run_parts(k, hooks, step, loss);
    fv_ctx_set_reduce(k->ctx, NULL, NULL);
    s = fvi_ranks_agree(k, s, loss);
    if (s == FV_OK && isfinite(*loss)) s = sum_gradients(k);
    atomic_store(&k->ctx->hold, 0);
    return s;
}
