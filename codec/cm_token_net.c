/* cm_token_net.c - a model's network as the prior of the token coder.
 *
 * The network has read all pieces so far and says, for each node on the way to the next one, how
 * likely a 1 is: two inputs of the mixer, the logit and the probability itself. After a piece the
 * rows of the head at the nodes that were passed learn from the mistakes they made, and the network
 * takes a step: here, or in a lane of a device (vz_lanes.h); head and learning are here either way. */
#include "cm_token.h"
#include "vz_lanes.h"
#include "vz_model.h"

struct vz_token_net {
    nn_int_state state;
    nn_int_model model;        /* shares all tensors; kernels for this context's CPU */
    vz_logistic lg;
    int nodes;                 /* passed since the last piece */
    uint16_t split[NN_VOCAB_MAX_DEPTH], p16[NN_VOCAB_MAX_DEPTH];
    void *memory;
    vz_lane *lane;             /* NULL: the network runs here */
};

static void logits(void *user, uint32_t split, int16_t out[VZ_CM_EXTRA])
{
    vz_token_net *n = user;
    const int32_t x = nn_int_logit(&n->state, (int)split);
    const uint32_t p = vz_squash(&n->lg, x);
    n->split[n->nodes] = (uint16_t)split;
    n->p16[n->nodes++] = (uint16_t)p;
    out[0] = (int16_t)x;
    out[1] = (int16_t)vz_sar((int32_t)p - 32768, 5);
}

static void piece(void *user, uint32_t id)
{
    vz_token_net *n = user;
    for (int i = 0; i < n->nodes; i++)
        nn_int_adapt(&n->state, n->split[i],
                     (id >= n->split[i] ? 65536 : 0) - (int32_t)n->p16[i]);
    n->nodes = 0;
    if (n->lane) vz_lane_step(n->lane, id, n->state.h);
    else nn_int_step(&n->state, (int)id);
}

static void ahead(void *user, const uint16_t *take, size_t size)
{
    const vz_token_net *n = user;
    if (n->lane) vz_lane_ahead(n->lane, take, size);
}

static void skip(void *user, uint32_t pieces)
{
    const vz_token_net *n = user;
    if (n->lane) vz_lane_skip(n->lane, pieces);
}

fv_status vz_token_net_open(fv_ctx *ctx, vz_token_net **out, const vz_prior *p)
{
    const vz_model *m = p->model;
    const vz_model_prime *first = p->primes ? NULL : vz_model_prime_of(m, VZ_TEXT);
    vz_token_net *n = *out = fv_calloc(ctx, 1, sizeof *n);
    if (!n) return FV_ERR_OOM;
    n->model = *m->net;
    n->memory = fv_alloc(ctx, nn_int_state_bytes(m->net, true));
    if (!n->memory) {
        vz_token_net_close(ctx, out);
        return FV_ERR_OOM;
    }
    nn_int_model_ready(ctx, &n->model);
    vz_logistic_init(&n->lg);
    nn_int_state_init(&n->state, &n->model, n->memory, true);
    if (first && first->state) nn_int_state_load(&n->state, first->state);
    n->lane = p->lanes ? vz_lanes_take(p->lanes, &n->state) : NULL;
    return FV_OK;
}

fv_status vz_token_net_check(fv_ctx *ctx, const vz_token_net *n, fv_status s)
{
    const fv_status of_lane = n && n->lane ? vz_lane_check(ctx, n->lane) : FV_OK;
    return of_lane != FV_OK ? of_lane : s;
}

void vz_token_net_close(fv_ctx *ctx, vz_token_net **n)
{
    if (*n) vz_lane_give((*n)->lane);
    if (*n) fv_free(ctx, (*n)->memory);
    fv_free(ctx, *n);
    *n = NULL;
}

vz_token_prior vz_token_net_prior(vz_token_net *n)
{
    return (vz_token_prior){n, logits, piece, ahead, skip};
}

uint64_t vz_token_net_memory(const vz_model *m)
{
    return sizeof(vz_token_net) + nn_int_state_bytes(m->net, true) + 256;
}
