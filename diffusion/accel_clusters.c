/* accel_clusters.c - which tokens ClusCa computes [arXiv 2509.10312].
 *
 * After each full evaluation the tokens of every picture are put into K clusters, by k-means on the
 * residual stream before the final layer. Evaluations up to the next full one compute in their MLPs
 * one token of each cluster, drawn anew, and the others are forecasts; where a pruned module has
 * room for more tokens than clusters, second and third ones are drawn in turn.
 *
 * On a device the clusters are found here all the same, from a copy of the stream once a full
 * evaluation; choosing, gathering and what is spread is the device's.
 *
 * All draws depend on the number of the evaluation alone: pictures do not depend on their batch.
 * Centres are kept as [width][K], so that distances to all of them are sums side by side, each in
 * the order of the channels: the same for any number of threads. */
#include "accel_methods.h"

#include <string.h>

#define ITERATIONS 8
#define SEED 0x436c7573u
#define BLOCK 64 /* channels of a centre that one thread moves */

/* ---- k-means --------------------------------------------------------------------------------- */

/* Different tokens; ones of the same number for all pictures. */
static void first_centres(const fvi_clusters *t, int draw, const float *h, int pictures)
{
    const size_t D = (size_t)t->width, K = (size_t)t->K, N = (size_t)t->tokens;
    for (size_t p = 0; p < (size_t)pictures; p++)
        for (size_t k = 0; k < K; k++) {
            const float *x = h + (p * N + fv_rand_permute(SEED, (uint64_t)draw, N, k)) * D;
            for (size_t d = 0; d < D; d++) t->centre[(p * D + d) * K + k] = x[d];
        }
}

/* The first of the nearest. */
static uint8_t nearest(const float *x, const float *centre, int width, int K)
{
    float distance[FVI_MOST_CLUSTERS] = { 0 };
    int best = 0;
    for (int d = 0; d < width; d++, centre += K)
        for (int k = 0; k < K; k++) {
            const float off = x[d] - centre[k];
            distance[k] += off * off;
        }
    for (int k = 1; k < K; k++)
        if (distance[k] < distance[best]) best = k;
    return (uint8_t)best;
}

static void assign(const fvi_clusters *t, const float *h, int pictures)
{
    const size_t D = (size_t)t->width, K = (size_t)t->K, N = (size_t)t->tokens;
    const size_t n = (size_t)pictures * N;
#pragma omp parallel for schedule(static) num_threads(fv_ctx_threads(t->ctx))
    for (size_t i = 0; i < n; i++)
        t->cluster[i] = nearest(h + i * D, t->centre + i / N * D * K, t->width, t->K);
}

/* Channels from..to-1 of a picture's centres to the means of their tokens; a centre without tokens
 * stays where it is. */
static void move_centres(const fvi_clusters *t, const float *h, size_t p, size_t from, size_t to)
{
    const size_t D = (size_t)t->width, K = (size_t)t->K, N = (size_t)t->tokens;
    const uint8_t *cluster = t->cluster + p * N;
    float sum[BLOCK * FVI_MOST_CLUSTERS] = { 0 };
    int members[FVI_MOST_CLUSTERS] = { 0 };
    for (size_t i = 0; i < N; i++) {
        const float *x = h + (p * N + i) * D;
        for (size_t d = from; d < to; d++) sum[(d - from) * K + cluster[i]] += x[d];
        members[cluster[i]]++;
    }
    for (size_t d = from; d < to; d++)
        for (size_t k = 0; k < K; k++)
            if (members[k])
                t->centre[(p * D + d) * K + k] = sum[(d - from) * K + k] / (float)members[k];
}

void fvi_find_clusters(const fvi_clusters *t, int draw, const float *h, int pictures)
{
    const size_t D = (size_t)t->width, blocks = (D + BLOCK - 1) / BLOCK;
    const size_t jobs = (size_t)pictures * blocks;
    first_centres(t, draw, h, pictures);
    assign(t, h, pictures);
    for (int i = 1; i < ITERATIONS; i++) {
#pragma omp parallel for schedule(static) num_threads(fv_ctx_threads(t->ctx))
        for (size_t j = 0; j < jobs; j++) {
            const size_t from = j % blocks * BLOCK, to = from + BLOCK < D ? from + BLOCK : D;
            move_centres(t, h, j / blocks, from, to);
        }
        assign(t, h, pictures);
    }
}

/* ---- Choosing -------------------------------------------------------------------------------- */

/* Round after round a token of each cluster that has one left, the one of the largest draw; earlier
 * rounds have higher scores. */
void fvi_rank_tokens(const fvi_clusters *t, int p)
{
    const int N = t->tokens;
    const uint8_t *cluster = t->cluster + (size_t)p * (size_t)N;
    float *score = t->score + (size_t)p * (size_t)N;
    int chosen = 0;
    for (int i = 0; i < N; i++) score[i] = -1 - (float)N;
    for (int round = 0; chosen < t->kept; round++) {
        int best[FVI_MOST_CLUSTERS];
        for (int k = 0; k < t->K; k++) best[k] = -1;
        for (int i = 0; i < N; i++) {
            int *b = &best[cluster[i]];
            if (score[i] < -(float)N && (*b < 0 || t->draw[i] > t->draw[*b])) *b = i;
        }
        for (int k = 0; k < t->K; k++) {
            if (best[k] < 0) continue;
            score[best[k]] = t->draw[best[k]] - (float)round;
            chosen++;
        }
    }
}

/* ---- As a policy ----------------------------------------------------------------------------- */

typedef struct clusca {
    fv_ctx *ctx;
    dit_policy policy;
    const fv_accel *plan;
    fvi_clusters c;
    int B;            /* pictures that there is room for */
    float *h;         /* [B][tokens][width] of features that are on a device; NULL elsewhere */
    float spread;
} clusca;

static void free_room(clusca *t)
{
    void *mem[] = { t->c.centre, t->c.score, t->c.draw, t->c.cluster, t->h };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(t->ctx, mem[i]);
    t->c.centre = t->c.score = t->c.draw = NULL;
    t->c.cluster = NULL;
    t->h = NULL;
    t->B = 0;
}

static fv_status clusca_start(void *user, const dit_runner *r, int B)
{
    clusca *t = user;
    fvi_clusters *c = &t->c;
    const size_t N = (size_t)c->tokens, b = (size_t)B;
    (void)r;
    if (B <= t->B) return FV_OK;
    free_room(t);
    c->centre = fv_calloc(t->ctx, b * (size_t)c->width * (size_t)c->K, sizeof *c->centre);
    c->score = fv_calloc(t->ctx, b * N, sizeof *c->score);
    c->draw = fv_calloc(t->ctx, N, sizeof *c->draw);
    c->cluster = fv_calloc(t->ctx, b * N, sizeof *c->cluster);
    if (!c->centre || !c->score || !c->draw || !c->cluster) return FV_ERR_OOM;
    if (fv_ctx_device(t->ctx) != FV_DEVICE_CPU &&
        !(t->h = fv_calloc(t->ctx, b * N * (size_t)c->width, sizeof *t->h)))
        return FV_ERR_OOM;
    t->B = B;
    return FV_OK;
}

static fv_status clusca_decide(void *user, dit_runner *r, int e, const float *x, dit_row *row)
{
    clusca *t = user;
    const int pictures = dit_runner_pictures(r);
    const dit_choice choice = { t->c.score, t->c.cluster, t->c.K, t->spread };
    (void)x;
    (void)row;
    if (t->plan->anchor[e]) return FV_OK;
    fv_rand_uniform(SEED, FV_STREAM_SAMPLING, (uint32_t)e, 0, t->c.tokens, t->c.draw);
#pragma omp parallel for schedule(static) num_threads(fv_ctx_threads(t->ctx))
    for (int p = 0; p < pictures; p++) fvi_rank_tokens(&t->c, p);
    return dit_runner_choose(r, &choice);
}

static fv_status clusca_done(void *user, dit_runner *r, int e, const float *out, int rows)
{
    clusca *t = user;
    const int pictures = dit_runner_pictures(r);
    (void)out;
    (void)rows;
    /* Not where nothing is chosen before the next ones. */
    if (!t->plan->anchor[e] || e + 1 == t->plan->evals || t->plan->anchor[e + 1]) return FV_OK;
    const float *h = dit_runner_hidden(r, NULL);
    const size_t n = (size_t)pictures * (size_t)t->c.tokens * (size_t)t->c.width;
    if (t->h) FV_TRY(fv_dev_copy(t->ctx, t->h, h, n * sizeof *h, FV_COPY_TO_HOST));
    fvi_find_clusters(&t->c, e, t->h ? t->h : h, pictures);
    dit_runner_count(r, 3.0 * ITERATIONS * pictures * t->c.tokens * t->c.K * t->c.width);
    return FV_OK;
}

/* ---- Making ---------------------------------------------------------------------------------- */

static void clusca_destroy(void *user)
{
    clusca *t = user;
    free_room(t);
    fv_free(t->ctx, t);
}

fv_status fvi_add_clusters(fvi_method *m, int kept)
{
    const dit_config *c = &m->d->net.cfg;
    const int K = (int)fvi_method_value(m, "clusters");
    clusca *t = fv_calloc(m->ctx, 1, sizeof *t);
    if (!t) return FV_ERR_OOM;
    *t = (clusca){ .ctx = m->ctx, .plan = m->plan,
                   .c = { .ctx = m->ctx, .K = K < kept ? K : kept, .kept = kept,
                          .tokens = dit_tokens(c), .width = c->width },
                   .spread = (float)fvi_method_value(m, "spread") };
    t->policy = (dit_policy){ .start = clusca_start, .decide = clusca_decide, .done = clusca_done,
                              .destroy = clusca_destroy, .user = t, .no_probes = true,
                              .keeps_rows = true };
    m->plan->policy = &t->policy;
    return FV_OK;
}
