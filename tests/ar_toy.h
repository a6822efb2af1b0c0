/* ar_toy.h - for tests of decoding: a target and a draft that are functions of the tokens so far,
 * and straightforward definitions in double of what ar_logits.c and ar_accept.c compute. */
#ifndef AR_TOY_H
#define AR_TOY_H

#include "ar_decode.h"
#include "chi_square.h"
#include "test.h"

#define TOY_TOKENS 40
#define TOY_VOCAB 64
#define TOY_NODES 256

typedef struct toy_prefix {
    int n;
    int32_t token[TOY_TOKENS];
} toy_prefix;

/* Logits of a row: spread * (three uniform numbers of the prefix), the draft's are `likeness` of
 * the target's and the rest its own. With a table they are looked up: [prefixes by length, then
 * value]. root: what is committed, and the root of the tree behind it. */
typedef struct toy {
    int vocab, tokens;
    uint64_t seed;
    double spread, likeness;
    const float *table[2]; /* target, draft; NULL: computed */
    toy_prefix root, node[TOY_NODES];
    int nodes, calls, rows;
    ar_echo *echo; /* NULL: none */
} toy;

static inline void toy_make(const toy *t, const toy_prefix *p, int is_draft, float *logits)
{
    double x[2][TOY_VOCAB];
    for (int k = 0; k <= is_draft; k++) {
        uint64_t state = t->seed + 77u * (uint64_t)k;
        for (int i = 0; i < p->n; i++) {
            state ^= (uint64_t)p->token[i] + 1;
            test_next(&state);
            state ^= state >> 29;
        }
        for (int i = 0; i < 4; i++) test_next(&state);
        for (int v = 0; v < t->vocab; v++) {
            double sum = -1.5;
            for (int i = 0; i < 3; i++) sum += test_next(&state) / 4294967296.0;
            x[k][v] = 2 * t->spread * sum;
        }
    }
    for (int v = 0; v < t->vocab; v++)
        logits[v] =
            (float)(is_draft ? t->likeness * x[0][v] + (1 - t->likeness) * x[1][v] : x[0][v]);
}

static inline int toy_index(const toy *t, const toy_prefix *p)
{
    int first = 0, count = 1, value = 0;
    for (int i = 0; i < p->n; i++) {
        first += count;
        count *= t->vocab;
        value = value * t->vocab + p->token[i];
    }
    return first + value;
}

static inline void toy_row(const toy *t, const toy_prefix *p, int is_draft, float *logits)
{
    if (t->table[is_draft])
        memcpy(logits, t->table[is_draft] + (size_t)toy_index(t, p) * (size_t)t->vocab,
               (size_t)t->vocab * sizeof *logits);
    else toy_make(t, p, is_draft, logits);
}

static inline toy_prefix toy_after(const toy_prefix *p, int32_t token)
{
    toy_prefix next = *p;
    next.token[next.n++] = token;
    return next;
}

static inline fv_status toy_draft_nodes(void *self, int image, int n, const int32_t *token,
                                        const int32_t *parent, float *logits)
{
    toy *t = self;
    const int before = t->nodes;
    (void)image;
    t->calls++;
    t->rows += n;
    for (int i = 0; i < n; i++) {
        if (parent[i] >= before || t->nodes == TOY_NODES) return FV_ERR_INTERNAL;
        t->node[t->nodes] = toy_after(parent[i] < 0 ? &t->root : &t->node[parent[i]], token[i]);
        toy_row(t, &t->node[t->nodes++], 1, logits + (size_t)i * (size_t)t->vocab);
    }
    return FV_OK;
}

static inline ar_lm toy_lm(toy *t)
{
    return (ar_lm){ .self = t, .vocab = t->vocab, .tokens = t->tokens, .has_draft = true,
                    .draft_nodes = toy_draft_nodes };
}

/* Tokens in front of what follows node i. */
static inline toy_prefix toy_node_prefix(const toy *t, const ar_tree *tree, int i)
{
    int32_t up[AR_MAX_DEPTH + 1];
    int n = 0;
    toy_prefix p = t->root;
    for (; tree->parent[i] >= 0; i = tree->parent[i]) up[n++] = tree->token[i];
    while (n > 0) p.token[p.n++] = up[--n];
    return p;
}

/* What the target says behind each node [tree.n, vocab]; nothing behind the last position. */
static inline void toy_target(const toy *t, const ar_tree *tree, float *logits)
{
    for (int i = 0; i < tree->n; i++) {
        const toy_prefix p = toy_node_prefix(t, tree, i);
        if (p.n < t->tokens) toy_row(t, &p, 0, logits + (size_t)i * (size_t)t->vocab);
        else memset(logits + (size_t)i * (size_t)t->vocab, 0, (size_t)t->vocab * sizeof *logits);
    }
}

/* A tree behind t->root, whose last token is its root. */
static inline fv_status toy_grow(toy *t, ar_tree_work *w, const ar_tree_options *o,
                                 const ar_sampling *s, ar_noise noise, ar_tree *tree)
{
    float logits[TOY_VOCAB];
    const ar_lm lm = toy_lm(t);
    const int position = t->root.n - 1;
    toy_row(t, &t->root, 1, logits);
    t->nodes = t->calls = t->rows = 0;
    const ar_root root = { .position = position, .token = t->root.token[position], .noise = noise,
                           .most_depth = t->tokens - 1 - position, .draft_logits = logits,
                           .echo = t->echo };
    return ar_tree_grow(w, &lm, o, s, &root, tree);
}

/* ---- Definitions ----------------------------------------------------------------------------- */

/* p [vocab] of what survives; returns how many do. Sorted, then cut, as LlamaGen words it. */
static inline int slow_row(const float *logits, int vocab, const ar_sampling *s, double *p)
{
    static float x[1 << 16];
    static int order[1 << 16], from[1 << 16];
    const float t = s->temperature > 0 ? s->temperature < 1e-5f ? 1e-5f : s->temperature : 1;
    int n = 0, finite = 0;
    for (int v = 0; v < vocab; v++) finite += logits[v] > -INFINITY;
    for (int v = 0; v < vocab; v++) {
        x[v] = finite == 0 ? 0 : logits[v] > -INFINITY ? logits[v] / t : -INFINITY;
        p[v] = 0;
        if (x[v] > -INFINITY) order[n++] = v;
    }
    for (int width = 1; width < n; width *= 2) { /* merge sort: stable, so lower tokens first */
        memcpy(from, order, (size_t)n * sizeof *order);
        for (int at = 0; at < n; at += 2 * width) {
            int a = at, b = at + width, to = at;
            const int a_end = b < n ? b : n, b_end = at + 2 * width < n ? at + 2 * width : n;
            while (a < a_end || b < b_end)
                order[to++] = b >= b_end || (a < a_end && x[from[a]] >= x[from[b]]) ? from[a++]
                                                                                     : from[b++];
        }
    }
    const int is_argmax = !(s->temperature > 0);
    if (!is_argmax && s->top_k > 0 && s->top_k < n) {
        const float least = x[order[s->top_k - 1]];
        while (x[order[n - 1]] < least) n--;
    }
    double sum = 0, before = 0, kept = 0;
    for (int i = 0; i < n; i++) sum += exp((double)x[order[i]] - x[order[0]]);
    int left = 0;
    for (; left < n; left++) {
        const double e = exp((double)x[order[left]] - x[order[0]]);
        if (!is_argmax && s->top_p < 1 && left > 0 && before > s->top_p * sum) break;
        before += e;
        kept += p[order[left]] = e;
    }
    for (int v = 0; v < vocab; v++) p[v] /= kept;
    return left;
}

/* Ways to break the walk, for tests that must notice. */
enum { SLOW_NO_RESIDUAL = 1, SLOW_BONUS_FROM_Q = 2 };

static inline double slow_neighbours(const ar_accept_options *a, const double *p, int x, int *n)
{
    double sum = 0;
    const double bound = a->rule == AR_RULE_LANTERN ? a->delta : (a->lambda - 1.0) * p[x];
    const int k = a->k ? a->k : a->near->k;
    for (*n = 0; *n < k; (*n)++) {
        const double more = p[a->near->id[x * a->near->k + *n]];
        if (sum + more > bound) break;
        sum += more;
    }
    return sum;
}

static inline int slow_draw(const double *p, int vocab, double u)
{
    double sum = 0, total = 0;
    for (int v = 0; v < vocab; v++) total += p[v];
    for (int v = 0; v < vocab; v++)
        if ((sum += p[v]) > u * total) return v;
    return vocab - 1;
}

static inline void slow_scale(double *p, int vocab)
{
    double sum = 0;
    for (int v = 0; v < vocab; v++) sum += p[v];
    for (int v = 0; v < vocab && sum > 0; v++) p[v] /= sum;
}

/* Probability that x, drawn from q, is accepted at this depth, before min(1, .). */
static inline double slow_ratio(const ar_accept_options *a, const double *p, const double *q, int x,
                                int vocab, int depth)
{
    int n;
    double w, in_p = p[x], in_q = q[x];
    bool is_in[TOY_VOCAB] = { false };
    switch (a->rule) {
    case AR_RULE_EXACT: break;
    case AR_RULE_LANTERN:
    case AR_RULE_LANTERNPP: in_p += slow_neighbours(a, p, x, &n); break;
    case AR_RULE_COOL:
        w = a->delta * exp(-0.7 * (depth - 1));
        if (w > 1) in_p *= w;
        break;
    case AR_RULE_GSD:
        is_in[x] = true;
        for (int g = 1; g < a->group; g++) {
            int best = -1;
            for (int i = 0; i < (a->near ? a->near->k : vocab); i++) {
                const int v = a->near ? a->near->id[x * a->near->k + i] : i;
                if (is_in[v] || !(p[v] > 0) || fabs(p[v] - p[x]) > a->delta) continue;
                if (best < 0 || fabs(p[v] - p[x]) < fabs(p[best] - p[x])) best = v;
            }
            if (best < 0) break;
            is_in[best] = true;
            in_p += p[best];
            in_q += q[best];
        }
        break;
    }
    return in_p / in_q;
}

/* The walk by ratios. Returns the number of accepted nodes, the root
 * included. */
static inline int slow_walk(const toy *t, const ar_tree *tree, const ar_judge *j, int flaws,
                            int *node, int *next)
{
    double p[TOY_VOCAB], q[TOY_VOCAB], bonus[TOY_VOCAB], whole[TOY_VOCAB];
    float logits[TOY_VOCAB];
    int n = 1, at = node[0] = 0;
    for (;;) {
        const toy_prefix prefix = toy_node_prefix(t, tree, at);
        int tested = 0, accepted = -1;
        memset(logits, 0, sizeof logits);
        if (prefix.n < t->tokens) toy_row(t, &prefix, 0, logits);
        slow_row(logits, t->vocab, &j->sampling, p);
        memcpy(whole, p, sizeof p);
        if (prefix.n < t->tokens) toy_row(t, &prefix, 1, logits);
        slow_row(logits, t->vocab, &j->sampling, q);
        memcpy(bonus, q, sizeof q);
        for (int c = 1; c < tree->n && accepted < 0; c++) {
            if (tree->parent[c] != at) continue;
            const int x = tree->token[c];
            double proposal[TOY_VOCAB] = { 0 };
            if (j->kind == AR_DRAFT_EAGLE2) proposal[x] = 1;
            else memcpy(proposal, q, sizeof q);
            const double r = ar_uniform(j->noise, j->position + tree->depth[c], ++tested);
            if (r < slow_ratio(&j->accept, p, proposal, x, t->vocab, tree->depth[c])) {
                accepted = c;
                break;
            }
            q[x] = 0;
            slow_scale(q, t->vocab);
            if (flaws & SLOW_NO_RESIDUAL) continue;
            int near;
            if (j->accept.rule == AR_RULE_LANTERN || j->accept.rule == AR_RULE_LANTERNPP) {
                const ar_accept_options *a = &j->accept;
                const double mass = slow_neighbours(a, p, x, &near);
                if (near > 0) {
                    const int k = a->k ? a->k : a->near->k;
                    if (a->lantern_compat) near = k + 1 < a->near->k ? k + 1 : a->near->k;
                    for (int i = 0; i < near; i++) p[a->near->id[x * a->near->k + i]] = 0;
                    p[x] += mass;
                }
            }
            double left = 0;
            for (int v = 0; v < t->vocab; v++) left += p[v] = fmax(p[v] - proposal[v], 0);
            if (left > 0) slow_scale(p, t->vocab);
            else memcpy(p, whole, sizeof p);
        }
        if (accepted < 0) {
            const bool from_q = flaws & SLOW_BONUS_FROM_Q && tested == 0;
            *next = slow_draw(from_q ? bonus : p, t->vocab,
                              ar_uniform(j->noise, j->position + tree->depth[at] + 1, 0));
            return n;
        }
        node[n++] = at = accepted;
    }
}

#endif
