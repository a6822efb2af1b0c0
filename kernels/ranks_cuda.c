/* ranks_cuda.c - sums of gradients over the devices of several ranks, by the library that the module
 * finds (NCCL). What it needs to begin goes over the ranks' own messages; where one rank lacks it, or
 * it does not serve them (two ranks on one device), all sum over the host instead. */
#include "ranks_cuda.h"

#include "cuda_ops.h"

/* Do all ranks say yes? */
static fv_status all_can(fv_ctx *ctx, bool mine, bool *all)
{
    double missing = !mine;
    FV_TRY(fv_comm_sum_f64(fv_ctx_comm(ctx), &missing, 1));
    *all = missing == 0;
    return FV_OK;
}

fv_status fvi_cuda_ranks_open(fv_ctx *ctx, void **out)
{
    const fvi_cuda *c = fvi_cuda_of(ctx);
    fv_comm *comm = fv_ctx_comm(ctx);
    const int rank = fv_comm_rank(comm), size = fv_comm_size(comm);
    uint8_t id[FVK_RANKS_ID] = { 0 };
    fvk_ranks *r = NULL;
    bool can = false;
    *out = NULL;
    FV_TRY(all_can(ctx, c->api->ranks_id(c->dev, rank == 0 ? id : NULL) == FVK_OK, &can));
    if (!can) return FV_OK;
    FV_TRY(fv_comm_broadcast(comm, id, sizeof id));
    const bool has_one = c->api->ranks_open(c->dev, id, rank, size, &r) == FVK_OK;
    const fv_status s = all_can(ctx, has_one, &can);
    if (s == FV_OK && can) *out = r;
    else if (r) c->api->ranks_close(c->dev, r);
    return s;
}

fv_status fvi_cuda_ranks_sum(fv_ctx *ctx, void *ranks, float *x, int64_t n)
{
    const fvi_cuda *c = fvi_cuda_of(ctx);
    if (n < 1) return FV_OK;
    return fvi_cuda_status(ctx, c->api->ranks_sum(c->dev, ranks, x, n), "sum over ranks");
}

void fvi_cuda_ranks_close(fv_ctx *ctx, void *ranks)
{
    const fvi_cuda *c = fvi_cuda_of(ctx);
    if (ranks) c->api->ranks_close(c->dev, ranks);
}
