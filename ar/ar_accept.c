/* ar_accept.c - which guesses of a tree hold, and what follows them.
 *
 * By one draw (the default): the target draws its token x* ~ p with the noise of the
 * position. A child x* is accepted, else x* is the next root. The tokens are those of plain
 * decoding, whatever was guessed. LANTERN lets the first child whose neighbourhood holds x* stand
 * for it.
 *
 * By ratios: each child has a uniform number r and is accepted if r < p(x)/q(x); on
 * rejection p <- norm(max(p - q, 0)), and q loses the child [Leviathan et al. 2023; for trees
 * 2305.09781]. EAGLE-2's children are point masses, q = 1: then p loses the child. Where no number
 * is accepted, the next root is drawn from what is left of p. Lossless too, token for token it is
 * not.
 *
 * Relaxed rules move mass of p to the child: LANTERN (2410.03355) that of its nearest codes up to
 * delta, LANTERN++ (2502.06352) up to (lambda - 1) p(x); COOL (2601.09212) multiplies p/q by a
 * weight that falls with depth; GSD (2508.07747) compares the masses of a group of equally likely
 * tokens.
 *
 * At temperature 0 the longest path is accepted whose tokens are the argmax of their parents. */
#include "ar_tree_work.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* ---- Rows as dense arrays -------------------------------------------------------------------- */

static void spread(double *to, const ar_dist *d)
{
    double sum = 0;
    for (int i = 0; i < d->n; i++) sum += d->p[i];
    for (int i = 0; i < d->n; i++) to[d->id[i]] = d->p[i] / sum;
}

static void clear(double *to, const ar_dist *d)
{
    for (int i = 0; i < d->n; i++) to[d->id[i]] = 0;
}

/* Sums to 1 again; false, and nothing is changed, if no mass is left. */
static bool normalise(double *p, const ar_dist *d)
{
    double sum = 0;
    for (int i = 0; i < d->n; i++) sum += p[d->id[i]];
    if (!(sum > 0)) return false;
    for (int i = 0; i < d->n; i++) p[d->id[i]] /= sum;
    return true;
}

static int32_t draw_dense(const double *p, const ar_dist *d, double u)
{
    double sum = 0;
    int32_t last = d->id[0];
    for (int i = 0; i < d->n; i++) {
        const double x = p[d->id[i]];
        sum += x;
        if (sum > u) return d->id[i];
        if (x > 0) last = d->id[i];
    }
    return last;
}

/* ---- Neighbourhoods -------------------------------------------------------------------------- */

static bool is_lantern(const ar_accept_options *a)
{
    return a->rule == AR_RULE_LANTERN || a->rule == AR_RULE_LANTERNPP;
}

/* LANTERN: how many of the nearest codes of x belong to A(x), the largest number whose mass C stays
 * within the bound; *mass: C. */
static int neighbourhood(const ar_accept_options *a, const double *p, int32_t x, double *mass)
{
    *mass = 0;
    const ar_neighbours *near = a->near;
    if (!near || x >= near->codes) return 0;
    const double bound = a->rule == AR_RULE_LANTERN ? a->delta : ((double)a->lambda - 1) * p[x];
    const uint16_t *id = near->id + (size_t)x * (size_t)near->k;
    const int k = a->k > 0 && a->k < near->k ? a->k : near->k;
    int n = 0;
    for (double sum = 0; n < k; n++) {
        sum += p[id[n]];
        if (sum > bound) break;
        *mass = sum;
    }
    return n;
}

static bool is_neighbour(const ar_accept_options *a, const double *p, int32_t x, int32_t token)
{
    double mass;
    const int n = neighbourhood(a, p, x, &mass);
    for (int i = 0; i < n; i++)
        if (a->near->id[(size_t)x * (size_t)a->near->k + (size_t)i] == token) return true;
    return false;
}

/* What a rejected x leaves of p under LANTERN: A(x) holds nothing. Its mass went to x, where the
 * residual takes it away: x was rejected because p(x) + C < q(x). The released code empties the
 * k + 1 nearest as soon as A(x) is not empty. */
static void empty_neighbourhood(const ar_accept_options *a, double *p, int32_t x)
{
    double mass;
    int n = neighbourhood(a, p, x, &mass);
    if (n == 0) return;
    const ar_neighbours *near = a->near;
    if (a->lantern_compat) n = a->k > 0 && a->k < near->k ? a->k + 1 : near->k;
    for (int i = 0; i < n; i++) p[near->id[(size_t)x * (size_t)near->k + (size_t)i]] = 0;
}

/* The G - 1 tokens that are closest to x in probability, and x itself: their mass in p and q. */
typedef struct group {
    int n, most;
    int32_t token[AR_MAX_GROUP];
    double gap[AR_MAX_GROUP];
} group;

static void join(group *g, int32_t token, double gap)
{
    if (g->n == g->most && (g->n == 0 || !(gap < g->gap[g->n - 1]))) return;
    int at = g->n < g->most ? g->n++ : g->n - 1;
    for (; at > 0 && gap < g->gap[at - 1]; at--) {
        g->gap[at] = g->gap[at - 1];
        g->token[at] = g->token[at - 1];
    }
    g->gap[at] = gap;
    g->token[at] = token;
}

static void group_mass(const ar_accept_options *a, const ar_dist *d, const double *p,
                       const double *q, int32_t x, double *in_p, double *in_q)
{
    assert(a->group >= 1 && a->group <= AR_MAX_GROUP);
    group g = { .most = a->group - 1 };
    const ar_neighbours *near = a->near && x < a->near->codes ? a->near : NULL;
    const int n = near ? near->k : d->n;
    for (int i = 0; i < n; i++) {
        const int32_t t = near ? near->id[(size_t)x * (size_t)near->k + (size_t)i] : d->id[i];
        const double gap = fabs(p[t] - p[x]);
        if (t != x && p[t] > 0 && gap <= a->delta) join(&g, t, gap);
    }
    *in_p = p[x];
    *in_q = q[x];
    for (int i = 0; i < g.n; i++) {
        *in_p += p[g.token[i]];
        *in_q += q[g.token[i]];
    }
}

/* COOL: weight of p/q at a depth, from 1. */
static double cool_weight(const ar_accept_options *a, int depth)
{
    const double w = a->delta * exp(-0.7 * (depth - 1));
    return w > 1 ? w : 1;
}

/* ---- By ratios ------------------------------------------------------------------------------- */

/* Is x, drawn from q [dense], accepted at this depth by the uniform number r? */
static bool passes(const ar_accept_options *a, const ar_dist *d, const double *p, const double *q,
                   int32_t x, int depth, double r)
{
    double in_p = p[x], in_q = q[x], mass;
    switch (a->rule) {
    case AR_RULE_EXACT: break;
    case AR_RULE_LANTERN:
    case AR_RULE_LANTERNPP:
        neighbourhood(a, p, x, &mass);
        in_p += mass;
        break;
    case AR_RULE_COOL: in_p *= cool_weight(a, depth); break;
    case AR_RULE_GSD: group_mass(a, d, p, q, x, &in_p, &in_q); break;
    }
    return r * in_q < in_p;
}

/* x was rejected: what is left of p. */
static void take_away(const ar_accept_options *a, const ar_dist *d, double *p, const double *q,
                      int32_t x)
{
    if (is_lantern(a)) empty_neighbourhood(a, p, x);
    for (int i = 0; i < d->n; i++) {
        const int32_t t = d->id[i];
        p[t] = p[t] > q[t] ? p[t] - q[t] : 0;
    }
    if (!normalise(p, d)) spread(p, d);
}

/* Tests the children of a node in their order. Returns the accepted one, or -1 and the token that
 * is drawn from what is left. */
static int test_children(ar_tree_work *w, const ar_tree *t, int node, const ar_judge *j,
                         int32_t *next)
{
    const ar_accept_options *a = &j->accept;
    const ar_dist *d = &w->dists.d[0], *draft = w->slot[node] ? &w->dists.d[w->slot[node]] : NULL;
    const int position = j->position + t->depth[node] + 1;
    double *p = w->p, *q = w->q;
    int accepted = -1, tested = 0;
    spread(p, d);
    if (draft) spread(q, draft);
    for (int c = node + 1; c < t->n && accepted < 0; c++) {
        if (t->parent[c] != node) continue;
        const int32_t x = t->token[c];
        if (!draft) q[x] = 1; /* a point mass */
        if (passes(a, d, p, q, x, t->depth[c], ar_uniform(j->noise, position, ++tested)))
            accepted = c;
        else take_away(a, d, p, q, x);
        q[x] = 0;
        if (draft && accepted < 0) normalise(q, draft);
    }
    if (accepted < 0) *next = draw_dense(p, d, ar_uniform(j->noise, position, 0));
    clear(p, d);
    if (draft) clear(q, draft);
    return accepted;
}

bool ar_accept_pq(ar_tree_work *w, const ar_dist *p, const ar_dist *q, int32_t token,
                  ar_noise noise, int position, int32_t *next)
{
    static const ar_accept_options exact = { .rule = AR_RULE_EXACT };
    spread(w->p, p);
    spread(w->q, q);
    const bool is_accepted =
        passes(&exact, p, w->p, w->q, token, 1, ar_uniform(noise, position, 1));
    if (!is_accepted) {
        take_away(&exact, p, w->p, w->q, token);
        *next = draw_dense(w->p, p, ar_uniform(noise, position, 0));
    }
    clear(w->p, p);
    clear(w->q, q);
    return is_accepted;
}

/* ---- By one draw ----------------------------------------------------------------------------- */

/* The target's own token at a position, from row 0 of the work memory. */
static int32_t own_draw(ar_tree_work *w, const ar_judge *j, int position)
{
    const ar_dist *d = &w->dists.d[0];
    if (!(j->sampling.temperature > 0)) return d->id[ar_pick(d, NULL)];
    if (j->sampling.is_uniform) return d->id[ar_pick_uniform(d, ar_uniform(j->noise, position, 0))];
    return d->id[ar_pick(d, ar_work_noise(w, j->noise, position))];
}

/* The child that is the drawn token, or the first that may stand for it; -1: none. */
static int find_child(ar_tree_work *w, const ar_tree *t, int node, const ar_accept_options *a,
                      int32_t own)
{
    int children = 0, found = -1;
    for (int c = node + 1; c < t->n; c++) {
        if (t->parent[c] != node) continue;
        if (t->token[c] == own) return c;
        children++;
    }
    if (!is_lantern(a) || children == 0) return -1;
    const ar_dist *d = &w->dists.d[0];
    spread(w->p, d);
    for (int c = node + 1; c < t->n && found < 0; c++)
        if (t->parent[c] == node && is_neighbour(a, w->p, t->token[c], own)) found = c;
    clear(w->p, d);
    return found;
}

/* ---- Temperature 0 --------------------------------------------------------------------------- */

/* Is x the argmax, or would it be with the mass of its neighbourhood? w->p holds the row. */
static bool passes_greedy(const ar_tree_work *w, const ar_accept_options *a, int32_t x,
                          int32_t best)
{
    double mass;
    if (x == best) return true;
    if (!is_lantern(a)) return false;
    neighbourhood(a, w->p, x, &mass);
    mass += w->p[x];
    return mass > w->p[best] || (mass == w->p[best] && x < best);
}

static void walk_greedy(ar_tree_work *w, const ar_tree *t, const float *logits, const ar_judge *j,
                        ar_walk *out)
{
    int32_t best[AR_MAX_NODES];
    bool is_reached[AR_MAX_NODES] = { true };
    const ar_dist *d = &w->dists.d[0];
    for (int i = 0; i < t->n; i++) {
        if (!is_reached[i]) continue;
        ar_dist_make(&w->dists, 0, logits + (size_t)i * (size_t)w->vocab, &j->sampling);
        best[i] = own_draw(w, j, 0);
        spread(w->p, d);
        for (int c = i + 1; c < t->n; c++)
            if (t->parent[c] == i)
                is_reached[c] = passes_greedy(w, &j->accept, t->token[c], best[i]);
        clear(w->p, d);
    }
    int path = 0;
    out->n = 0;
    for (int i = 0; i < t->paths; i++) {
        int n = 0;
        while (n < t->path_length && t->path[i][n] >= 0 && is_reached[t->path[i][n]]) n++;
        if (n <= out->n) continue;
        out->n = n;
        path = i;
    }
    for (int i = 0; i < out->n; i++) {
        out->node[i] = t->path[path][i];
        if (i > 0 && t->token[out->node[i]] != best[out->node[i - 1]]) out->substituted++;
    }
    out->next = best[out->node[out->n - 1]];
}

/* ---- Walks ----------------------------------------------------------------------------------- */

void ar_walk_tree(ar_tree_work *w, const ar_tree *t, const float *logits, const ar_judge *j,
                  ar_walk *out)
{
    const bool tests_ratio = ar_tests_ratio(j->kind, &j->accept);
    *out = (ar_walk){ .n = 1 };
    if (!(j->sampling.temperature > 0)) {
        walk_greedy(w, t, logits, j, out);
        return;
    }
    for (int node = 0;;) {
        ar_dist_make(&w->dists, 0, logits + (size_t)node * (size_t)w->vocab, &j->sampling);
        if (tests_ratio) {
            node = test_children(w, t, node, j, &out->next);
        } else {
            out->next = own_draw(w, j, j->position + t->depth[node] + 1);
            node = find_child(w, t, node, &j->accept, out->next);
            if (node >= 0) out->substituted += t->token[node] != out->next;
        }
        if (node < 0) return;
        out->node[out->n++] = node;
    }
}

bool ar_accept_one(ar_tree_work *w, const float *logits, int32_t token, const ar_judge *j,
                   int32_t *own)
{
    const ar_accept_options *a = &j->accept;
    const ar_dist *d = &w->dists.d[0];
    ar_dist_make(&w->dists, 0, logits, &j->sampling);
    *own = own_draw(w, j, j->position);
    if (token == *own) return true;
    if (a->rule == AR_RULE_EXACT) return false;
    bool is_accepted = false;
    spread(w->p, d);
    if (!(j->sampling.temperature > 0)) {
        is_accepted = passes_greedy(w, a, token, *own);
    } else if (is_lantern(a)) {
        is_accepted = is_neighbour(a, w->p, token, *own);
    } else if (w->p[token] < 1) { /* p(x) has been decided by the draw: the rest of the chance */
        const double p = w->p[token], r = ar_uniform(j->noise, j->position, 1);
        w->q[token] = 1;
        is_accepted = passes(a, d, w->p, w->q, token, 1, p + r * (1 - p));
        w->q[token] = 0;
    }
    clear(w->p, d);
    return is_accepted;
}
