/* cm_token_net.c - a model's network as the prior of the token coder.
 *
 * The network has read all pieces so far and says, for each node on the way to the next one, how
 * likely a 1 is: two inputs of the mixer, the logit and the probability itself. After a piece the
 * rows of the head at the nodes that were passed learn from the mistakes they made, and the network
 * takes a step. */
#include "cm_token.h"
#include "vz_model.h"

struct vz_token_net {
    nn_int_state state;
    nn_int_model model;        /* shares all tensors; kernels for this context's CPU */
    vz_logistic lg;
    int nodes;                 /* passed since the last piece */
    uint16_t split[NN_VOCAB_MAX_DEPTH], p16[NN_VOCAB_MAX_DEPTH];
    void *memory;
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
    nn_int_step(&n->state, (int)id);
}

fv_status vz_token_net_open(fv_ctx *ctx, vz_token_net **out, const vz_model *m, uint32_t primes)
{
    const vz_model_prime *first = primes ? NULL : vz_model_prime_of(m, VZ_TEXT);
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
    return FV_OK;
}

void vz_token_net_close(fv_ctx *ctx, vz_token_net **n)
{
    if (*n) fv_free(ctx, (*n)->memory);
    fv_free(ctx, *n);
    *n = NULL;
}

vz_token_prior vz_token_net_prior(vz_token_net *n)
{
    return (vz_token_prior){n, logits, piece};
}

uint64_t vz_token_net_memory(const vz_model *m)
{
    return sizeof(vz_token_net) + nn_int_state_bytes(m->net, true) + 256;
}
