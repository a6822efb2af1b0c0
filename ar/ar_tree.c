/* ar_tree.c - trees of guesses.
 *
 * Three ways to choose what the target looks at in one pass:
 *
 * - A shape that no logits change (GUMBEL, PQ, CHAIN, STATIC): numbers of children, level by level.
 *   Children of a node are the m largest of log q + g: m draws from q without replacement [Kool,
 *   van Hoof, Welling, ICML 2019]. g is the noise that the target will draw with, so the
 *   first child is its own draw wherever q = p. The shape of GUMBEL and PQ grows greedily by the
 *   chances that a child of that depth and rank is the target's draw. It must not follow
 *   the drawn tokens: tests by p/q ask for children that were drawn, not picked afterwards. Only
 *   nodes with children run through the draft.
 * - EAGLE-2 (2406.16858): the most probable tokens, expanded where the cumulative
 *   probability is largest; the best candidates of all levels form the tree. */
#include "ar_tree_work.h"
#include "exact_math.h"

#include <assert.h>
#include <string.h>

/* Numbers of children, node by node and level by level. */
typedef struct shape {
    int n;
    uint8_t children[AR_MAX_NODES];
    int first[AR_MAX_NODES]; /* child */
    float gain[AR_MAX_NODES];
} shape;

/* ---- Memory ---------------------------------------------------------------------------------- */

static int clamped(int x, int low, int high) { return x < low ? low : x > high ? high : x; }

static int most_nodes(const ar_tree_options *o) { return clamped(o->nodes, 1, AR_MAX_NODES); }

/* Nodes of one level that have children, at most. */
static int most_level_rows(const ar_tree_options *o)
{
    if (o->kind == AR_DRAFT_CHAIN) return 1;
    if (o->kind == AR_DRAFT_EAGLE2) return clamped(o->top_k, 1, AR_MAX_RANK);
    return clamped((most_nodes(o) - 1) / 2, 1, AR_MAX_NODES);
}

static fv_status create_parts(ar_tree_work *w, const ar_tree_options *o, int slots)
{
    const size_t vocab = (size_t)w->vocab;
    FV_TRY(ar_dists_create(w->ctx, &w->dists, w->vocab, 1 + slots));
    w->slots = slots;
    w->p = fv_calloc(w->ctx, vocab, sizeof *w->p);
    w->q = fv_calloc(w->ctx, vocab, sizeof *w->q);
    w->row_count = (o ? clamped(o->depth, 1, AR_MAX_DEPTH) : 0) + 2;
    w->rows = fv_calloc(w->ctx, (size_t)w->row_count, sizeof *w->rows);
    w->noise_block = fv_calloc(w->ctx, vocab * (size_t)w->row_count, sizeof(float));
    if (!w->p || !w->q || !w->rows || !w->noise_block) return FV_ERR_OOM;
    for (int i = 0; i < w->row_count; i++)
        w->rows[i] = (ar_noise_row){ .position = -1, .g = w->noise_block + vocab * (size_t)i };
    if (!o) return FV_OK;
    w->level_rows = most_level_rows(o);
    w->logits = fv_calloc(w->ctx, vocab * (size_t)w->level_rows, sizeof(float));
    if (!w->logits) return FV_ERR_OOM;
    if (o->kind != AR_DRAFT_EAGLE2) return FV_OK;
    const int k = w->level_rows;
    w->pool_size = k + (clamped(o->depth, 1, AR_MAX_DEPTH) - 1) * k * k;
    w->pool = fv_calloc(w->ctx, (size_t)w->pool_size, sizeof *w->pool);
    w->is_kept = fv_calloc(w->ctx, (size_t)w->pool_size, sizeof *w->is_kept);
    return w->pool && w->is_kept ? FV_OK : FV_ERR_OOM;
}

fv_status ar_tree_work_create(fv_ctx *ctx, ar_tree_work **out, int vocab, const ar_tree_options *o,
                              const ar_accept_options *a)
{
    *out = NULL;
    ar_tree_work *w = fv_calloc(ctx, 1, sizeof *w);
    if (!w) return FV_ERR_OOM;
    w->ctx = ctx;
    w->vocab = vocab;
    const bool keeps = o && a && o->kind != AR_DRAFT_EAGLE2 && ar_tests_ratio(o->kind, a);
    fv_status s = create_parts(w, o, keeps ? clamped(most_nodes(o) - 1, 1, AR_MAX_NODES) : 0);
    if (s != FV_OK) ar_tree_work_destroy(&w);
    *out = w;
    return s;
}

void ar_tree_work_destroy(ar_tree_work **work)
{
    ar_tree_work *w = *work;
    *work = NULL;
    if (!w) return;
    fv_ctx *ctx = w->ctx;
    if (w->dists.ctx) ar_dists_free(&w->dists);
    fv_free(ctx, w->p);
    fv_free(ctx, w->q);
    fv_free(ctx, w->rows);
    fv_free(ctx, w->noise_block);
    fv_free(ctx, w->logits);
    fv_free(ctx, w->pool);
    fv_free(ctx, w->is_kept);
    fv_free(ctx, w);
}

const float *ar_work_noise(ar_tree_work *w, ar_noise noise, int position)
{
    ar_noise_row *r = &w->rows[position % w->row_count];
    if (r->position != position || r->noise.seed != noise.seed || r->noise.image != noise.image) {
        ar_gumbel(w->dists.cpu, noise, position, w->vocab, r->g);
        r->noise = noise;
        r->position = position;
    }
    return r->g;
}

/* ---- Shapes ---------------------------------------------------------------------------------- */

const float *ar_accept_rates(void)
{
    /* What a draft head of one layer reaches on codes of pictures, roughly: every second first
     * guess, then a long tail, 8 % less a level. Replaced by what is measured (ar_cost.c). */
    static const float rate[AR_MAX_DEPTH][AR_MAX_RANK] = {
#define ROW(f)                                                                                   \
    { 0.50f * (f),  0.14f * (f),   0.07f * (f),   0.045f * (f),  0.03f * (f),   0.022f * (f),    \
      0.017f * (f), 0.013f * (f),  0.010f * (f),  0.008f * (f),  0.0065f * (f), 0.0055f * (f),   \
      0.0045f * (f), 0.004f * (f), 0.0035f * (f), 0.003f * (f) }
        ROW(1.0f),   ROW(0.92f),  ROW(0.846f), ROW(0.779f), ROW(0.716f), ROW(0.659f),
        ROW(0.606f), ROW(0.558f), ROW(0.513f), ROW(0.472f), ROW(0.434f), ROW(0.4f),
        ROW(0.368f), ROW(0.338f), ROW(0.311f), ROW(0.286f),
#undef ROW
    };
    return rate[0];
}

/* Children of each node of the static shapes, level by level. mc_sim_7b_63 is EAGLE-1's; the next
 * two have the sizes of LANTERN++'s: wide at the top, and five even branches. */
static const uint8_t static_shapes[][58] = {
    { 4,                                                                              /* root    */
      3, 2, 2, 1,                                                                     /* level 1 */
      3, 2, 2, 1, 0, 0, 0, 0,                                                         /* level 2 */
      3, 0, 0, 0, 0, 0, 0, 0,                                                         /* level 3 */
      2 },                                                                            /* level 4 */
    { 10,
      6, 4, 3, 2, 1, 1, 1, 1, 1, 1,
      4, 2, 2, 1, 1, 1, 2, 1, 1, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0,
      3, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0,
      1, 1 },
    { 5,
      1, 1, 1, 1, 1,
      1, 1, 1, 1, 1,
      1, 1, 1, 1, 1,
      1, 1, 1, 1, 1 },
    { 1, 1, 1, 1, 1 },
};
#define STATIC_SHAPES ((int)FV_ARRAY_LEN(static_shapes))

static const float *rates_of(const ar_tree_options *o)
{
    return o->accept ? o->accept : ar_accept_rates();
}

/* A tree that is being shaped: its nodes in the order in which they came. */
typedef struct growth {
    int n, depth;
    float gain[AR_MAX_NODES];
    int level[AR_MAX_NODES], parent[AR_MAX_NODES], children[AR_MAX_NODES];
} growth;

static void add_node(growth *t, int parent, const float *rates)
{
    const int level = t->level[parent];
    t->gain[t->n] = t->gain[parent] * rates[level * AR_MAX_RANK + t->children[parent]];
    t->level[t->n] = level + 1;
    t->parent[t->n] = parent;
    t->children[t->n++] = 0;
    t->children[parent]++;
}

/* Always the next child with the largest gain; of equal ones that of the older parent. */
static void grow_by_gain(growth *t, int nodes, int top_k, const float *rates)
{
    while (t->n < nodes) {
        float most = 0;
        int parent = -1;
        for (int i = 0; i < t->n; i++) {
            if (t->level[i] >= t->depth || t->children[i] >= top_k) continue;
            const float gain = t->gain[i] * rates[t->level[i] * AR_MAX_RANK + t->children[i]];
            if (gain > most) {
                most = gain;
                parent = i;
            }
        }
        if (parent < 0) return;
        add_node(t, parent, rates);
    }
}

static void grow_static(growth *t, int nodes, int number, const float *rates)
{
    number = clamped(number, 0, STATIC_SHAPES - 1);
    for (int i = 0; i < t->n && t->level[i] < t->depth; i++)
        for (int c = 0; c < static_shapes[number][i] && t->n < nodes; c++)
            add_node(t, i, rates);
}

static void grow_any(growth *t, const ar_tree_options *o, int depth)
{
    const int top_k = o->kind == AR_DRAFT_CHAIN ? 1 : clamped(o->top_k, 1, AR_MAX_RANK);
    *t = (growth){ .n = 1, .depth = clamped(depth, 0, AR_MAX_DEPTH), .gain = { 1 } };
    t->parent[0] = -1;
    if (o->kind == AR_DRAFT_STATIC) grow_static(t, most_nodes(o), o->shape, rates_of(o));
    else grow_by_gain(t, most_nodes(o), top_k, rates_of(o));
}

int ar_tree_gains(const ar_tree_options *o, float gain[AR_MAX_NODES], int level[AR_MAX_NODES])
{
    growth t;
    grow_any(&t, o, o->depth);
    memcpy(gain, t.gain, (size_t)t.n * sizeof *gain);
    memcpy(level, t.level, (size_t)t.n * sizeof *level);
    return t.n;
}

/* The same, level by level, siblings by rank. */
static void make_shape(shape *s, const ar_tree_options *o, int depth)
{
    growth t;
    int from[AR_MAX_NODES] = { 0 }; /* node of t */
    grow_any(&t, o, depth);
    s->n = 1;
    for (int i = 0; i < s->n; i++) {
        s->first[i] = s->n;
        s->children[i] = (uint8_t)t.children[from[i]];
        s->gain[i] = t.gain[from[i]];
        for (int c = from[i] + 1; c < t.n; c++) /* siblings came in the order of their ranks */
            if (t.parent[c] == from[i]) from[s->n++] = c;
    }
}

/* ---- Growing by a shape ---------------------------------------------------------------------- */

/* Indices of the m largest of logit + g (NULL: of logit), largest first, the lower token at a tie.
 * Returns how many there are. */
static int top_children(const ar_dist *d, const float *g, int m, int index[AR_MAX_RANK])
{
    float best[AR_MAX_RANK];
    int n = 0;
    for (int i = 0; i < d->n; i++) {
        const float x = g ? d->logit[i] + g[d->id[i]] : d->logit[i];
        if (n == m && !(x > best[n - 1])) continue;
        int at = n < m ? n++ : n - 1;
        for (; at > 0 && x > best[at - 1]; at--) {
            best[at] = best[at - 1];
            index[at] = index[at - 1];
        }
        best[at] = x;
        index[at] = i;
    }
    return n;
}

static void set_root(ar_tree_work *w, ar_tree *t, int32_t token, float score)
{
    memset(w->slot, 0, sizeof w->slot);
    w->used = 0;
    t->n = 1;
    t->token[0] = token;
    t->parent[0] = -1;
    t->depth[0] = t->rank[0] = 0;
    t->score[0] = score;
    t->q[0] = 1;
}

/* q of a child: what is left of its row when the siblings before it are gone. What can not be drawn
 * is no child. */
static void add_drawn(ar_tree *t, int node, const ar_dist *d, const int *index, int n)
{
    double rest = 1;
    for (int r = 0; r < n; r++) {
        const double p = d->p[index[r]];
        if (!(p > 0)) return;
        const int c = t->n++;
        t->token[c] = d->id[index[r]];
        t->parent[c] = node;
        t->depth[c] = t->depth[node] + 1;
        t->rank[c] = r;
        t->q[c] = p < rest ? (float)(p / rest) : 1.0f;
        rest -= p;
    }
}

/* One level: children of the nodes list[0..rows) of t from their logits. of: node of the shape. */
static void grow_level(ar_tree_work *w, const shape *sh, const ar_sampling *s, const ar_root *root,
                       const int *list, int rows, const float *logits, int *of, ar_tree *t)
{
    int index[AR_MAX_RANK];
    const int depth = t->depth[list[0]] + 1;
    const float *g =
        s->temperature > 0 ? ar_work_noise(w, root->noise, root->position + depth) : NULL;
    for (int i = 0; i < rows; i++) {
        const int node = list[i], from = of[node], slot = w->used < w->slots ? ++w->used : 0;
        const float *row = logits + (size_t)i * (size_t)w->vocab;
        ar_dist_make(&w->dists, slot, ar_echo_mix(root->echo, root->position + depth, row), s);
        w->slot[node] = slot;
        const ar_dist *d = &w->dists.d[slot];
        int child = t->n;
        add_drawn(t, node, d, index, top_children(d, g, sh->children[from], index));
        for (; child < t->n; child++) {
            of[child] = sh->first[from] + t->rank[child];
            t->score[child] = sh->gain[of[child]];
        }
    }
}

static fv_status grow_shaped(ar_tree_work *w, const ar_lm *lm, const ar_tree_options *o,
                             const ar_sampling *s, const ar_root *root, ar_tree *t)
{
    shape sh;
    int of[AR_MAX_NODES] = { 0 }, list[AR_MAX_NODES], fed_as[AR_MAX_NODES], fed = 0;
    int32_t token[AR_MAX_NODES], parent[AR_MAX_NODES];
    make_shape(&sh, o, o->depth < root->most_depth ? o->depth : root->most_depth);
    set_root(w, t, root->token, 1);
    fed_as[0] = -1;
    for (int begin = 0, end = 1; begin < end;) {
        int rows = 0;
        for (int i = begin; i < end; i++) {
            if (!sh.children[of[i]]) continue;
            token[rows] = t->token[i];
            parent[rows] = begin ? fed_as[t->parent[i]] : -1;
            if (begin) fed_as[i] = fed++;
            list[rows++] = i;
        }
        if (!rows) break;
        assert(!begin || rows <= w->level_rows);
        if (begin) FV_TRY(lm->draft_nodes(lm->self, root->image, rows, token, parent, w->logits));
        grow_level(w, &sh, s, root, list, rows, begin ? w->logits : root->draft_logits, of, t);
        begin = end;
        end = t->n;
    }
    return FV_OK;
}

/* ---- EAGLE-2 --------------------------------------------------------------------------------- */

/* Candidates from..to-1 into best[0..most), the largest score first, the older one at a tie. */
static int keep_best(const ar_candidate *pool, int from, int to, int most, int16_t *best)
{
    int n = 0;
    for (int i = from; i < to; i++) {
        const float x = pool[i].score;
        if (n == most && (n == 0 || !(x > pool[best[n - 1]].score))) continue;
        int at = n < most ? n++ : n - 1;
        for (; at > 0 && x > pool[best[at - 1]].score; at--) best[at] = best[at - 1];
        best[at] = (int16_t)i;
    }
    return n;
}

/* The top_k most probable successors of candidate `parent` (-1: the root), from its logits. */
static int add_candidates(ar_tree_work *w, int n, int parent, int top_k, const float *logits,
                          const ar_sampling *s)
{
    int index[AR_MAX_RANK];
    const ar_dist *d = &w->dists.d[0];
    ar_dist_make(&w->dists, 0, logits, s);
    const int k = top_children(d, NULL, top_k, index);
    /* p of the largest is 1 / sum of exp(logit): its logit is 0. */
    const float log_sum = -fvi_ln(d->p[index[0]]), base = parent < 0 ? 0 : w->pool[parent].score;
    for (int r = 0; r < k; r++) {
        const float log_q = d->logit[index[r]] - log_sum;
        w->pool[n++] = (ar_candidate){
            .token = d->id[index[r]], .score = base + (log_q < 0 ? log_q : 0),
            .parent = (int16_t)parent, .fed = -1, .rank = (uint8_t)r,
            .depth = (uint8_t)(parent < 0 ? 1 : w->pool[parent].depth + 1) };
    }
    return n;
}

/* All candidates: top_k behind the root, and top_k behind each of the top_k best of a level. */
static fv_status make_candidates(ar_tree_work *w, const ar_lm *lm, const ar_tree_options *o,
                                 const ar_sampling *s, const ar_root *root, int *count)
{
    const int top_k = clamped(o->top_k, 1, AR_MAX_RANK);
    const int depth = clamped(o->depth < root->most_depth ? o->depth : root->most_depth, 0,
                              AR_MAX_DEPTH);
    int16_t beam[AR_MAX_RANK];
    int32_t token[AR_MAX_RANK], parent[AR_MAX_RANK];
    int fed = 0, from = 0, n = 0;
    const float *first = ar_echo_mix(root->echo, root->position + 1, root->draft_logits);
    if (depth > 0) n = add_candidates(w, 0, -1, top_k, first, s);
    for (int level = 1; level < depth && n > from; level++) {
        const int rows = keep_best(w->pool, from, n, top_k, beam);
        for (int i = 0; i < rows; i++) {
            ar_candidate *c = &w->pool[beam[i]];
            c->fed = (int16_t)fed++;
            token[i] = c->token;
            parent[i] = c->parent < 0 ? -1 : w->pool[c->parent].fed;
        }
        assert(rows <= w->level_rows && n + rows * top_k <= w->pool_size);
        FV_TRY(lm->draft_nodes(lm->self, root->image, rows, token, parent, w->logits));
        from = n;
        for (int i = 0; i < rows; i++) {
            const float *row = w->logits + (size_t)i * (size_t)w->vocab;
            row = ar_echo_mix(root->echo, root->position + level + 1, row);
            n = add_candidates(w, n, beam[i], top_k, row, s);
        }
    }
    *count = n;
    return FV_OK;
}

/* The best candidates in the order in which they came. A child never scores more than its parent
 * and comes later, so parents of those that stay stay too, and so do siblings of lower rank. */
static fv_status grow_eagle2(ar_tree_work *w, const ar_lm *lm, const ar_tree_options *o,
                             const ar_sampling *s, const ar_root *root, ar_tree *t)
{
    int16_t best[AR_MAX_NODES];
    bool *is_kept = w->is_kept;
    int n;
    FV_TRY(make_candidates(w, lm, o, s, root, &n));
    set_root(w, t, root->token, 0);
    memset(is_kept, 0, (size_t)w->pool_size * sizeof *is_kept);
    const int kept = keep_best(w->pool, 0, n, most_nodes(o) - 1, best);
    for (int i = 0; i < kept; i++) is_kept[best[i]] = true;
    for (int i = 0; i < n; i++) {
        if (!is_kept[i]) continue;
        ar_candidate *c = &w->pool[i];
        const int at = t->n++;
        c->node = (int16_t)at;
        t->token[at] = c->token;
        t->parent[at] = c->parent < 0 ? 0 : w->pool[c->parent].node;
        t->depth[at] = c->depth;
        t->rank[at] = c->rank;
        t->score[at] = c->score;
        t->q[at] = 1;
    }
    return FV_OK;
}

/* ---- Paths ----------------------------------------------------------------------------------- */

static bool is_before(const int16_t *a, const int16_t *b)
{
    for (int i = 0; i <= AR_MAX_DEPTH; i++)
        if (a[i] != b[i]) return (uint16_t)a[i] < (uint16_t)b[i]; /* -1, the end, is the largest */
    return false;
}

void ar_tree_paths(ar_tree *t)
{
    bool is_parent[AR_MAX_NODES] = { false };
    int16_t row[AR_MAX_DEPTH + 1];
    for (int i = 1; i < t->n; i++) is_parent[t->parent[i]] = true;
    t->paths = t->path_length = 0;
    for (int leaf = 0; leaf < t->n; leaf++) {
        if (is_parent[leaf]) continue;
        memset(row, -1, sizeof row);
        for (int i = leaf; i >= 0; i = t->parent[i]) row[t->depth[i]] = (int16_t)i;
        int at = t->paths++;
        for (; at > 0 && is_before(row, t->path[at - 1]); at--)
            memcpy(t->path[at], t->path[at - 1], sizeof row);
        memcpy(t->path[at], row, sizeof row);
        if (t->depth[leaf] + 1 > t->path_length) t->path_length = t->depth[leaf] + 1;
    }
}

fv_status ar_tree_grow(ar_tree_work *w, const ar_lm *lm, const ar_tree_options *o,
                       const ar_sampling *s, const ar_root *root, ar_tree *out)
{
    if (o->kind == AR_DRAFT_EAGLE2) FV_TRY(grow_eagle2(w, lm, o, s, root, out));
    else FV_TRY(grow_shaped(w, lm, o, s, root, out));
    ar_tree_paths(out);
    return FV_OK;
}
