/* dit_device.c - runners on a device: a graph for each course, tokens of pruned modules.
 *
 * A course that came before runs as a graph, one call of the host for some 250 launches. Making one
 * costs more than an evaluation, so the second run of a course is recorded. A plan of T evaluations has
 * at most T courses, and its batches repeat them; GRAPHS are kept, and where more are wanted, the one
 * whose last run is the longest ago gives way: then nothing is recorded twice in vain, as a course that
 * was dropped runs plainly first. What cannot be recorded runs plainly always. */
#include "device_graph.h"
#include "dit_runner.h"
#include "sampling_device.h"

#include <string.h>

#define GRAPHS 128
#define TIMED 16 /* runs of a part queued at once */

_Static_assert((int)FVK_SCORE_STALE == (int)DIT_SCORE_STALE &&
                   (int)FVK_SCORE_TOCA == (int)DIT_SCORE_TOCA &&
                   (int)FVK_SCORE_DRIFT == (int)DIT_SCORE_DRIFT &&
                   (int)FVK_SCORE_GIVEN == (int)DIT_SCORE_GIVEN,
               "scores are numbered alike");

/* ---- Graphs ---------------------------------------------------------------------------------- */

typedef struct kept_graph {
    fvi_graph *graph; /* NULL: it ran once */
    int64_t last;     /* run that used it; 0: free */
} kept_graph;

struct dit_graphs {
    kept_graph kept[GRAPHS];
    uint8_t *course; /* [GRAPHS][course_bytes] */
    int64_t runs;
    bool is_off;
};

fv_status dit_graphs_create(dit_runner *r)
{
    struct dit_graphs *g = fv_calloc(r->ctx, 1, sizeof *g);
    r->graphs = g;
    if (!g) return FV_ERR_OOM;
    g->course = fv_calloc(r->ctx, GRAPHS, r->course_bytes);
    return g->course ? FV_OK : FV_ERR_OOM;
}

void dit_graphs_destroy(dit_runner *r)
{
    struct dit_graphs *g = r->graphs;
    if (!g) return;
    for (int i = 0; i < GRAPHS; i++)
        if (g->kept[i].graph) fvi_graph_destroy(r->ctx, &g->kept[i].graph);
    fv_free(r->ctx, g->course);
    fv_free(r->ctx, g);
    r->graphs = NULL;
}

/* The course's own; or a place for it, the oldest, with last = 0. */
static kept_graph *find(dit_runner *r)
{
    struct dit_graphs *g = r->graphs;
    int at = 0;
    for (int i = 0; i < GRAPHS; i++) {
        if (g->kept[i].last &&
            memcmp(g->course + (size_t)i * r->course_bytes, r->course, r->course_bytes) == 0)
            return &g->kept[i];
        if (g->kept[i].last < g->kept[at].last) at = i;
    }
    kept_graph *k = &g->kept[at];
    if (k->graph) fvi_graph_destroy(r->ctx, &k->graph);
    k->last = 0;
    memcpy(g->course + (size_t)at * r->course_bytes, r->course, r->course_bytes);
    return k;
}

static fv_status record(dit_runner *r, module_set *s, fvi_graph **out)
{
    FV_TRY(fvi_graph_begin(r->ctx));
    return fvi_graph_finish(r->ctx, dit_run_course(r, s), out);
}

fv_status dit_graphs_run(dit_runner *r, module_set *s)
{
    struct dit_graphs *g = r->graphs;
    if (g->is_off) return dit_run_course(r, s);
    kept_graph *k = find(r);
    const bool is_new = k->last == 0;
    if (is_new) {
        FV_TRY(dit_run_course(r, s));
        k->last = ++g->runs;
        return FV_OK;
    }
    k->last = ++g->runs;
    if (!k->graph) {
        const fv_status st = record(r, s, &k->graph);
        if (st == FV_ERR_CANCELLED) return st;
        g->is_off = st != FV_OK;
        if (g->is_off) return dit_run_course(r, s);
    }
    if (fv_ctx_cancelled(r->ctx)) return fv_fail(r->ctx, FV_ERR_CANCELLED, "cancelled");
    return fvi_graph_run(r->ctx, k->graph);
}

/* ---- Timing ---------------------------------------------------------------------------------- */

static fv_status queue_some(fv_status (*queue)(void *user), void *user)
{
    for (int i = 0; i < TIMED; i++) FV_TRY(queue(user));
    return FV_OK;
}

/* As in a graph, where that can be: the host's share of plain launches is not in a run. */
fv_status dit_device_time(dit_runner *r, fv_status (*queue)(void *user), void *user,
                          double *seconds)
{
    fvi_graph *graph = NULL;
    FV_TRY(queue(user)); /* pointers are resolved */
    fv_status st = fvi_graph_begin(r->ctx);
    if (st == FV_OK) st = fvi_graph_finish(r->ctx, queue_some(queue, user), &graph);
    if (st == FV_ERR_CANCELLED) return st;
    st = fvi_dev_wait(r->ctx);
    const double t = fv_now();
    if (st == FV_OK) st = graph ? fvi_graph_run(r->ctx, graph) : queue_some(queue, user);
    if (st == FV_OK) st = fvi_dev_wait(r->ctx);
    *seconds = (fv_now() - t) / TIMED;
    if (graph) fvi_graph_destroy(r->ctx, &graph);
    return st;
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

static size_t of_block(const dit_runner *r, int l)
{
    return (size_t)l * (size_t)r->B * (size_t)r->tokens;
}

fv_status dit_device_age(dit_runner *r, int l, int blocks, bool is_new)
{
    const pruning *p = &r->prune;
    const size_t n = (size_t)blocks * (size_t)r->B * (size_t)r->tokens;
    const size_t D = (size_t)r->net->cfg.width;
    const fvk_token_age_args a = { .stale = p->stale + of_block(r, l), .n = (int64_t)n,
                                   .is_new = is_new };
    if (is_new && p->input) FV_TRY(fvi_dev_copy(r->ctx, p->input + of_block(r, l) * D, r->h, n * D));
    const bool counts = p->score == DIT_SCORE_STALE || p->score == DIT_SCORE_TOCA;
    return counts ? fvi_dev_age(r->ctx, &a) : FV_OK;
}

static fvk_in feature(const dit_runner *r, const void *data)
{
    return (fvk_in){ data, r->feature_type == FV_BF16 };
}

/* Which tokens: to index, place, and their rows of h to p->h. */
static fv_status choose(dit_runner *r, const module_set *s, int k, const dit_deed *d)
{
    const pruning *p = &r->prune;
    const int l = k / 2, D = r->net->cfg.width;
    float *input = p->input ? p->input + of_block(r, l) * (size_t)D : NULL;
    const fvk_token_score_args score = {
        .h = r->h, .input = input, .newest = feature(r, dit_slot(r, k, d->at)), .value = p->value,
        .rows = s->rows, .pictures = r->B, .N = r->tokens, .D = D, .score = p->score
    };
    const fvk_token_select_args select = {
        .value = p->value, .given = p->choice.score, .stale = p->stale + of_block(r, l),
        .index = p->index, .place = p->place, .N = r->tokens, .kept = p->tokens[d->size],
        .grid = r->net->cfg.input_size / r->net->cfg.patch, .score = p->score
    };
    const fvk_token_gather_args gather = { .h = r->h, .index = p->index, .to = p->h,
                                           .input = input, .rows = s->rows, .pictures = r->B,
                                           .N = r->tokens, .D = D, .kept = p->tokens[d->size] };
    FV_TRY(fvi_dev_score(r->ctx, &score));
    FV_TRY(fvi_dev_select(r->ctx, &select, r->B));
    return fvi_dev_gather(r->ctx, &gather);
}

/* Computed tokens to their places, the forecast for the others, in one pass. */
static fv_status merge(dit_runner *r, const module_set *s, int k, const dit_deed *d,
                       const float *change)
{
    const pruning *p = &r->prune;
    const int64_t D = r->net->cfg.width;
    fvk_token_merge_args a = {
        .h = r->h, .moved = p->h, .w = r->weight + (size_t)k * DIT_HISTORY,
        .gate = dit_mod_of(r, k / 2) + DIT_GATE2 * D, .change = change,
        .fresh = feature(r, p->y), .place = p->place, .cluster = p->choice.cluster,
        .rows = s->rows, .pictures = r->B, .N = r->tokens, .D = D, .kept = p->tokens[d->size],
        .stride = 6 * D, .clusters = p->choice.clusters, .count = d->count,
        .spread = p->choice.spread
    };
    for (int i = 0; i < d->count; i++)
        a.x[i] = feature(r, dit_slot(r, k, (d->at + r->history - i) % r->history));
    if (d->count == 1)
        a.newest = (fvk_out){ dit_slot(r, k, d->at), r->feature_type == FV_BF16, 0 };
    return fvi_dev_merge(r->ctx, &a);
}

fv_status dit_device_prune(dit_runner *r, module_set *s, int k, const dit_deed *d)
{
    const pruning *p = &r->prune;
    const bool spreads = d->count > 1 && p->choice.spread > 0 && p->choice.cluster;
    float *change = spreads ? (float *)(void *)p->y : NULL; /* y is not wanted then */
    FV_TRY(choose(r, s, k, d));
    FV_TRY(fv_plan_forward(s->pruned[k / 2 * DIT_PRUNED + d->size]));
    const fvk_token_change_args c = {
        .h = r->h, .moved = p->h, .index = p->index, .cluster = p->choice.cluster,
        .change = change, .rows = s->rows, .pictures = r->B, .N = r->tokens,
        .D = r->net->cfg.width, .kept = p->tokens[d->size], .clusters = p->choice.clusters
    };
    if (spreads) FV_TRY(fvi_dev_change(r->ctx, &c));
    return merge(r, s, k, d, change);
}
