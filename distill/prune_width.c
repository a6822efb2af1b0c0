/* prune_width.c - which heads and MLP channels of a block stay.
 *
 * A channel is a coupled set of slices: the rows of the first MLP matrix that make it (of both
 * halves where it is gated, with the bias) and the column of the second that reads it; a head its
 * rows of q, k and v and its columns of the projection. Importance of a set = mean over its members
 * of (sum over the slice) / (mean of these sums over the layer), so that members of different size
 * and scale count alike. The sum is of w^2, or of (w g)^2 with the gradient g of the denoising loss
 * [Diff-Pruning, Fang et al. 2023: first-order change of the loss when w goes]. The same share goes
 * from each block, not the least of all blocks: shapes stay equal, which plans and caches need. */
#include "internal.h"

#include <math.h>
#include <string.h>

typedef struct job {
    const fv_params *params;
    bool with_gradient;
    int block, units;
    double *part, *score; /* [units] */
    float *change;        /* with_gradient: of the present member, where a device has it */
    fv_ctx *ctx;
    fv_status status;
    int members;
    bool is_finite;
} job;

/* Where the host reads the gradient of a parameter; NULL: it is not asked for. */
static const float *gradient_of(job *j, fv_pid id)
{
    const fv_tensor g = fv_params_grad(j->params, id);
    const size_t bytes = (size_t)fv_tensor_count(&g) * sizeof(float);
    if (!j->with_gradient || fv_ctx_device(j->ctx) == FV_DEVICE_CPU)
        return j->with_gradient ? g.data : NULL;
    fv_free(j->ctx, j->change);
    j->change = fv_alloc(j->ctx, bytes);
    j->status = j->change ? fv_dev_copy(j->ctx, j->change, g.data, bytes, FV_COPY_TO_HOST)
                          : FV_ERR_OOM;
    return j->change;
}

/* Adds the member NAME of the block: slices are rows (or columns) of `unit` neighbours, in each of
 * `parts` parts. A parameter that the family lacks is none. */
static void add_member(job *j, const char *name, int64_t unit, int parts, bool are_columns)
{
    char full[96];
    snprintf(full, sizeof full, "blocks.%d.%s", j->block, name);
    const fv_pid id = fv_params_find(j->params, full);
    if (id < 0 || j->status != FV_OK) return;
    const fv_tensor w = fv_params_tensor(j->params, id);
    const float *g = gradient_of(j, id);
    const int64_t rows = w.dim[0], columns = fv_tensor_count(&w) / rows;
    const int64_t length = (are_columns ? columns : rows) / parts;
    double mean = 0;
    if (j->status != FV_OK) return;
    memset(j->part, 0, (size_t)j->units * sizeof *j->part);
    for (int64_t i = 0; i < rows * columns; i++) {
        const int64_t at = (are_columns ? i % columns : i / columns) % length;
        const double v = ((const float *)w.data)[i];
        const double change = j->with_gradient ? v * g[i] : v;
        j->part[at / unit] += change * change;
    }
    for (int k = 0; k < j->units; k++) mean += j->part[k] / j->units;
    if (!isfinite(mean)) j->is_finite = false;
    for (int k = 0; k < j->units && mean > 0; k++) j->score[k] += j->part[k] / mean;
    j->members++;
}

static void score_heads(job *j, int64_t head)
{
    add_member(j, "qkv.weight", head, 3, false);
    add_member(j, "attn.qkv.weight", head, 3, false);
    add_member(j, "attn.qkv.bias", head, 3, false);
    add_member(j, "proj.weight", head, 1, true);
    add_member(j, "attn.proj.weight", head, 1, true);
}

static void score_channels(job *j)
{
    add_member(j, "w12.weight", 1, 2, false);
    add_member(j, "mlp.fc1.weight", 1, 1, false);
    add_member(j, "mlp.fc1.bias", 1, 1, false);
    add_member(j, "w3.weight", 1, 1, true);
    add_member(j, "mlp.fc2.weight", 1, 1, true);
}

static fv_status choose(fv_ctx *ctx, const fv_prune *p, const fv_params *params, prune_units *u)
{
    const bool are_heads = u == &p->heads;
    job j = { .params = params, .with_gradient = p->o.importance == FV_PRUNE_DIFF,
              .units = u->was, .is_finite = true, .ctx = ctx };
    double *block = fv_calloc(ctx, 2 * (size_t)u->was, sizeof *block);
    if (!block) return FV_ERR_OOM;
    j.part = block;
    j.score = block + u->was;
    for (int k = 0; k < p->now.depth && j.is_finite && j.status == FV_OK; k++) {
        j.block = p->block[k];
        memset(j.score, 0, (size_t)u->was * sizeof *j.score);
        if (are_heads) score_heads(&j, p->was.head_dim);
        else score_channels(&j);
        if (j.is_finite && j.status == FV_OK)
            prune_largest(j.score, u->was, u->kept, u->index + (size_t)k * (size_t)u->kept);
    }
    fv_free(ctx, block);
    fv_free(ctx, j.change);
    if (j.status != FV_OK) return j.status;
    if (j.is_finite) return FV_OK;
    return fv_fail(ctx, FV_ERR_NUMERIC, "prune: weights%s of block %d are not finite: the model is "
                   "damaged", j.with_gradient ? " or gradients" : "", j.block);
}

/* By sixteens, which is what matrix kernels like; at least one. */
static int kept_channels(int was, double share)
{
    const int n = (int)(share * was / 16 + 0.5) * 16;
    return n < 16 ? (was < 16 ? was : 16) : n > was ? was : n;
}

void prune_width_sizes(const fv_dit_sizes *was, double share, fv_dit_sizes *now)
{
    const int heads = (int)(share * was->heads + 0.5);
    now->heads = heads < 1 ? 1 : heads;
    now->hidden = kept_channels(was->hidden, share);
}

fv_status prune_choose_width(fv_ctx *ctx, fv_prune *p, const fv_model *file)
{
    fv_dit_net *net;
    FV_TRY(fv_dit_net_open(ctx, &net, file));
    fv_params *params = fv_dit_net_params(net);
    fv_status s = fv_params_alloc(params);
    if (s == FV_OK) s = fv_params_load(params, file, "");
    if (s == FV_OK && p->o.importance == FV_PRUNE_DIFF)
        s = prune_gradients(ctx, file, &p->o, net);
    if (s == FV_OK) s = choose(ctx, p, params, &p->hidden);
    if (s == FV_OK) s = choose(ctx, p, params, &p->heads);
    fv_dit_net_close(&net);
    return s;
}
