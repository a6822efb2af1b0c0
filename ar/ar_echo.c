/* ar_echo.c - what the target has already said about positions that are drafted now.
 *
 * A pass judges rows behind a guess that turns out wrong. Their logits are of no use for drawing,
 * as they saw a wrong token, but they come from the whole target: about the next positions they
 * know things that a draft head of one layer does not, and it knows the right tokens. Drafting from
 *
 *     (1 - 0.4 w) draft + 0.6 w echo,    w = 1 by default
 *
 * takes both; the weights sum to more than 1 because where two bad judges agree they are right more
 * often than either believes. Speculative Jacobi decoding (2410.01699) drafts from such rows alone.
 * Nothing about losslessness changes: an echo of a position depends on tokens before it only, and
 * guesses may come from anywhere. Tokens a pass of ar64 with and without (fovea bench ar
 * ar/models/ar64.safetensors --methods "sd;sd:echo=0;sd:draft=chain,depth=2;...", 1,024 samples): a
 * tree of 16 nodes 3.08 and 2.97, a chain of 2 guesses 1.98 and 1.93. */
#include "ar_decode.h"

#include <string.h>

#define SLOTS (AR_MAX_DEPTH + 2)

struct ar_echo {
    fv_ctx *ctx;
    int vocab;
    float of_draft, of_echo;
    int position[SLOTS]; /* whose logits are in the slot; -1: none */
    float *logits;       /* [SLOTS, vocab] */
    float *mixed;        /* [vocab] */
};

fv_status ar_echo_create(fv_ctx *ctx, ar_echo **out, int vocab, float weight)
{
    ar_echo *e = fv_calloc(ctx, 1, sizeof *e);
    *out = e;
    if (!e) return FV_ERR_OOM;
    e->ctx = ctx;
    e->vocab = vocab;
    e->of_draft = 1.0f - 0.4f * weight;
    e->of_echo = 0.6f * weight;
    for (int i = 0; i < SLOTS; i++) e->position[i] = -1;
    e->logits = fv_calloc(ctx, SLOTS * (size_t)vocab, sizeof *e->logits);
    e->mixed = fv_calloc(ctx, (size_t)vocab, sizeof *e->mixed);
    if (e->logits && e->mixed) return FV_OK;
    ar_echo_destroy(out);
    return FV_ERR_OOM;
}

void ar_echo_destroy(ar_echo **ee)
{
    ar_echo *e = *ee;
    *ee = NULL;
    if (!e) return;
    fv_ctx *ctx = e->ctx;
    fv_free(ctx, e->logits);
    fv_free(ctx, e->mixed);
    fv_free(ctx, e);
}

static int first_child(const ar_tree *t, int node)
{
    for (int i = node + 1; i < t->n; i++)
        if (t->parent[i] == node && t->rank[i] == 0) return i;
    return -1;
}

void ar_echo_keep(ar_echo *e, const ar_tree *t, int last, int position, const float *logits)
{
    const size_t vocab = (size_t)e->vocab;
    for (int c = first_child(t, last); c >= 0; c = first_child(t, c)) {
        const int slot = ++position % SLOTS;
        memcpy(e->logits + (size_t)slot * vocab, logits + (size_t)c * vocab,
               vocab * sizeof *logits);
        e->position[slot] = position;
    }
}

const float *ar_echo_mix(ar_echo *e, int position, const float *logits)
{
    if (!e || e->position[position % SLOTS] != position) return logits;
    const float *echo = e->logits + (size_t)(position % SLOTS) * (size_t)e->vocab;
    for (int i = 0; i < e->vocab; i++)
        e->mixed[i] = e->of_draft * logits[i] + e->of_echo * echo[i];
    return e->mixed;
}
