/* ar_jacobi.c - speculative Jacobi decoding (SJD, arXiv 2410.01699): guesses without a draft head.
 *
 * Behind the root stand up to `window` guesses. One pass says what follows the root and each guess.
 *
 * Coupled: y_i = the target's draw behind row i, with the noise of its position. Guesses equal to
 * the draws are accepted; the first draw that differs is the next root; the draws behind it are the
 * next guesses. A position's draw changes only while the tokens in front of it do: a fixed point is
 * reached from the left, and it is the picture of plain decoding.
 *
 * By p/q: each guess was drawn from a known q (the p of the pass before; for a new guess the
 * uniform distribution, or all mass on one token where it is a copy), and is tested with it; after
 * the first that fails, the next root comes from norm(max(p - q, 0)), and the guesses behind it are
 * drawn anew from their p. That is speculative sampling with the last pass as the draft: the
 * distribution is the target's.
 *
 * ZipAR (rows of the picture that run ahead side by side) does not fit: its rows stand at places
 * with gaps in front, while rows of a pass here follow what is committed without gaps. */
#include "ar_decode.h"

#include <assert.h>

struct ar_jacobi {
    fv_ctx *ctx;
    ar_jacobi_options o;
    bool is_coupled;
    int grid;
    int n, guesses; /* guess i stands at position n + 1 + i */
    int passes;
    int32_t guess[AR_MAX_NODES];
    /* By p/q: what guess i was drawn from, and what the pass says in front of it; rows of dists. */
    int q[AR_MAX_NODES], p[AR_MAX_NODES + 1];
    ar_dists dists; /* coupled: 1; else 2 window + 1 */
    ar_tree_work *work;
    float *noise;   /* [vocab] */
};

fv_status ar_jacobi_create(fv_ctx *ctx, ar_jacobi **out, const ar_jacobi_options *o)
{
    fv_status s = FV_ERR_OOM;
    ar_jacobi *j = fv_calloc(ctx, 1, sizeof *j);
    *out = NULL;
    if (!j) return s;
    j->ctx = ctx;
    j->o = *o;
    j->is_coupled = o->sampling.temperature == 0.0f || !o->sampling.is_uniform;
    while ((j->grid + 1) * (j->grid + 1) <= o->tokens) j->grid++;
    j->noise = fv_calloc(ctx, (size_t)o->vocab, sizeof *j->noise);
    if (!j->noise) goto fail;
    for (int i = 0; i < o->window; i++) j->q[i] = o->window + 1 + i;
    for (int i = 0; i <= o->window; i++) j->p[i] = i;
    FV_TRY_GOTO(ar_dists_create(ctx, &j->dists, o->vocab, j->is_coupled ? 1 : 2 * o->window + 1));
    if (!j->is_coupled) FV_TRY_GOTO(ar_tree_work_create(ctx, &j->work, o->vocab, NULL, NULL));
    *out = j;
    return FV_OK;
fail:
    ar_jacobi_destroy(&j);
    return s;
}

void ar_jacobi_destroy(ar_jacobi **jp)
{
    ar_jacobi *j = *jp;
    if (!j) return;
    if (j->dists.ctx) ar_dists_free(&j->dists);
    if (j->work) ar_tree_work_destroy(&j->work);
    fv_free(j->ctx, j->noise);
    fv_free(j->ctx, j);
    *jp = NULL;
}

/* ---- Guessing -------------------------------------------------------------------------------- */

/* Coupled draws start from the draw of the uniform distribution under the same noise: of all blind
 * guesses the one that is right most often. */
static int32_t blind_guess(ar_jacobi *j, ar_noise noise, int position)
{
    const int vocab = j->o.vocab;
    uint32_t r;
    int best = 0;
    if (!j->is_coupled || j->o.sampling.temperature == 0.0f) {
        fv_rand_u32(noise.seed, FV_STREAM_SHUFFLE, noise.image, (uint64_t)position, 1, &r);
        return (int32_t)((uint64_t)r * (uint64_t)vocab >> 32);
    }
    ar_gumbel(j->dists.cpu, noise, position, vocab, j->noise);
    for (int v = 1; v < vocab; v++)
        if (j->noise[v] > j->noise[best]) best = v;
    return best;
}

/* Row q of a guess that no pass has proposed: all mass on one token, or the same everywhere. */
static void set_proposal(ar_jacobi *j, int i, bool is_copy)
{
    if (j->is_coupled) return;
    ar_dist *q = &j->dists.d[j->q[i]];
    q->n = is_copy ? 1 : j->o.vocab;
    for (int k = 0; k < q->n; k++) {
        q->id[k] = is_copy ? j->guess[i] : k;
        q->logit[k] = 0.0f;
        q->p[k] = 1.0f / (float)q->n;
    }
}

static void add_guess(ar_jacobi *j, const int32_t *known, ar_noise noise)
{
    const int i = j->guesses++, above = j->n + 1 + i - j->grid;
    const bool is_copy = j->o.init == AR_JACOBI_ABOVE && above >= 0;
    if (is_copy) j->guess[i] = above <= j->n ? known[above] : j->guess[above - j->n - 1];
    else j->guess[i] = blind_guess(j, noise, j->n + 1 + i);
    set_proposal(j, i, is_copy);
}

int ar_jacobi_guess(ar_jacobi *j, const int32_t *known, int n, ar_noise noise,
                    const int32_t **guess)
{
    /* The draw behind the last guess is the last token of the picture. */
    const int room = j->o.tokens - n - 2, most = room < j->o.window ? room : j->o.window;
    j->n = n;
    while (j->guesses < most) add_guess(j, known, noise);
    if (j->guesses > most) j->guesses = most > 0 ? most : 0;
    *guess = j->guess;
    return j->guesses;
}

/* ---- Coupled --------------------------------------------------------------------------------- */

static int32_t coupled_draw(ar_jacobi *j, const float *logits, ar_noise noise, int row)
{
    const ar_sampling *s = &j->o.sampling;
    ar_dist_make(&j->dists, 0, logits + (size_t)row * (size_t)j->o.vocab, s);
    return j->dists.d[0].id[ar_draw(&j->dists, 0, s, noise, j->n + 1 + row)];
}

static int judge_coupled(ar_jacobi *j, const float *logits, ar_noise noise, int32_t *next)
{
    int accepted = 0;
    int32_t y = coupled_draw(j, logits, noise, 0);
    while (accepted < j->guesses && j->guess[accepted] == y)
        y = coupled_draw(j, logits, noise, ++accepted);
    *next = y;
    const int rest = j->guesses - accepted;
    for (int i = 1; i <= rest; i++)
        j->guess[i - 1] = coupled_draw(j, logits, noise, accepted + i);
    j->guesses = rest;
    return accepted;
}

/* ---- By p/q ---------------------------------------------------------------------------------- */

/* Guess `to` is drawn anew from the distribution behind row `row`, which is its q from now on. A
 * position is tested once, with its numbers 0 and 1; what is drawn for a guess takes later ones. */
static void redraw(ar_jacobi *j, ar_noise noise, int to, int row)
{
    const int spare = j->q[to];
    const ar_dist *p = &j->dists.d[j->p[row]];
    const double u = ar_uniform(noise, j->n + 1 + row, 2 + j->passes);
    j->guess[to] = p->id[ar_pick_uniform(p, u)];
    j->q[to] = j->p[row];
    j->p[row] = spare;
}

static int judge_by_ratio(ar_jacobi *j, const float *logits, ar_noise noise, int32_t *next)
{
    const size_t vocab = (size_t)j->o.vocab;
    int accepted = 0;
    for (int row = 0; row <= j->guesses; row++)
        ar_dist_make(&j->dists, j->p[row], logits + (size_t)row * vocab, &j->o.sampling);
    while (accepted < j->guesses &&
           ar_accept_pq(j->work, &j->dists.d[j->p[accepted]], &j->dists.d[j->q[accepted]],
                        j->guess[accepted], noise, j->n + 1 + accepted, next))
        accepted++;
    if (accepted == j->guesses) {
        const ar_dist *p = &j->dists.d[j->p[accepted]];
        *next = p->id[ar_pick_uniform(p, ar_uniform(noise, j->n + 1 + accepted, 0))];
    }
    const int rest = j->guesses - accepted;
    for (int i = 1; i <= rest; i++) redraw(j, noise, i - 1, accepted + i);
    j->guesses = rest;
    j->passes++;
    return accepted;
}

int ar_jacobi_judge(ar_jacobi *j, const float *logits, ar_noise noise, int32_t *next)
{
    assert(j->guesses >= 0 && j->guesses <= j->o.window);
    return j->is_coupled ? judge_coupled(j, logits, noise, next)
                         : judge_by_ratio(j, logits, noise, next);
}
