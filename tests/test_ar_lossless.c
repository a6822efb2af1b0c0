/* test_ar_lossless.c - speculative decoding keeps the distribution of whole sequences.
 *
 * A toy target: 6 values, 4 tokens, random conditional tables; the probability of each of the 1296
 * sequences is the product of four entries. Every rule decodes many sequences with independent
 * seeds, and their counts are held against the exact probabilities: chi-square (p > 1e-4), and
 * total variation below 1.5 times that of as many plainly drawn sequences. Rules that are broken on
 * purpose, or lossy, must fail the same test.
 *
 * --full: 2,000,000 sequences each instead of 100,000. */
#include "ar_toy.h"
#include "sanitized.h"

enum { VOCAB = 6, TOKENS = 4, SEQUENCES = 1296, PREFIXES = 1 + 6 + 36 + 216 };

static fv_ctx *ctx;
static int most_samples = TEST_SANITIZED ? 20000 : 100000;
static float tables[2][PREFIXES * VOCAB];
static double exact[SEQUENCES];
static double plain_distance; /* total variation of plainly drawn sequences from the exact ones */

/* Draft rows that resemble the target's, so that guesses are accepted and rejected. */
static void make_tables(void)
{
    toy t = { .vocab = VOCAB, .tokens = TOKENS, .seed = 2024, .spread = 1.3, .likeness = 0.6 };
    const ar_sampling s = { .temperature = 1, .top_p = 1 };
    double p[PREFIXES][VOCAB];
    for (int length = 0, at = 0, count = 1; length < TOKENS; length++, count *= VOCAB)
        for (int value = 0; value < count; value++, at++) {
            toy_prefix prefix = { .n = length };
            for (int i = length - 1, v = value; i >= 0; i--, v /= VOCAB)
                prefix.token[i] = v % VOCAB;
            for (int k = 0; k < 2; k++) toy_make(&t, &prefix, k, tables[k] + at * VOCAB);
            slow_row(tables[0] + at * VOCAB, VOCAB, &s, p[at]);
        }
    for (int i = 0; i < SEQUENCES; i++)
        exact[i] = p[0][i / 216] * p[1 + i / 216][i / 36 % 6] * p[7 + i / 36][i / 6 % 6] *
                   p[43 + i / 6][i % 6];
}

typedef struct way {
    ar_tree_options tree;
    ar_judge judge;
    bool is_plain;
    int flaws;      /* of slow_walk, which then walks in place of ar_walk_tree */
    bool is_slow;
    uint64_t seed;
    bool is_coarse; /* a fifth of the samples: beyond what the quick layer must show */
} way;

/* One step behind t->root: the accepted tokens and the next root are appended. */
static void step(toy *t, ar_tree_work *w, const way *y, ar_judge *j)
{
    static ar_tree tree;
    static float logits[AR_MAX_NODES * VOCAB];
    ar_walk walk;
    int node[AR_MAX_DEPTH + 1], next, n;
    j->position = t->root.n - 1;
    if (toy_grow(t, w, &y->tree, &j->sampling, j->noise, &tree) != FV_OK) abort();
    if (y->is_slow) {
        n = slow_walk(t, &tree, j, y->flaws, node, &next);
    } else {
        toy_target(t, &tree, logits);
        ar_walk_tree(w, &tree, logits, j, &walk);
        n = walk.n;
        next = walk.next;
        for (int i = 0; i < n; i++) node[i] = walk.node[i];
        if (t->echo) ar_echo_keep(t->echo, &tree, node[n - 1], j->position + n, logits);
    }
    for (int i = 1; i < n; i++) t->root = toy_after(&t->root, tree.token[node[i]]);
    if (t->root.n < TOKENS) t->root = toy_after(&t->root, next);
}

static int decode(ar_tree_work *w, ar_dists *ds, const way *y, uint32_t image)
{
    toy t = { .vocab = VOCAB, .tokens = TOKENS, .table = { tables[0], tables[1] } };
    ar_judge j = y->judge;
    j.kind = y->tree.kind;
    j.noise = (ar_noise){ y->seed, image };
    if (y->tree.echo > 0 && ar_echo_create(ctx, &t.echo, VOCAB, y->tree.echo) != FV_OK) abort();
    do {
        float logits[VOCAB];
        if (t.root.n > 0 && !y->is_plain) {
            step(&t, w, y, &j);
            continue;
        }
        toy_row(&t, &t.root, 0, logits);
        ar_dist_make(ds, 0, logits, &j.sampling);
        t.root = toy_after(&t.root, ds->d[0].id[ar_draw(ds, 0, &j.sampling, j.noise, t.root.n)]);
    } while (t.root.n < TOKENS);
    ar_echo_destroy(&t.echo);
    return ((t.root.token[0] * VOCAB + t.root.token[1]) * VOCAB + t.root.token[2]) * VOCAB +
           t.root.token[3];
}

/* Do the counts look like draws from the exact probabilities? Cells of less than five expected ones
 * are thrown together. */
static bool is_distributed_exactly(const int *count, int samples, double *distance, double *chi,
                                   int *freedom)
{
    double rare_expected = 0, rare = 0;
    *distance = *chi = 0;
    *freedom = -1;
    for (int i = 0; i < SEQUENCES; i++) {
        const double expected = exact[i] * samples;
        *distance += fabs(count[i] / (double)samples - exact[i]) / 2;
        if (expected < 5) {
            rare_expected += expected;
            rare += count[i];
            continue;
        }
        *chi += (count[i] - expected) * (count[i] - expected) / expected;
        ++*freedom;
    }
    if (rare_expected >= 5) {
        *chi += (rare - rare_expected) * (rare - rare_expected) / rare_expected;
        ++*freedom;
    }
    return chi_excess(*chi, *freedom) < CHI_LIMIT;
}

static bool passes(const char *name, way y)
{
    static int count[SEQUENCES];
    static uint64_t seed = 1;
    ar_tree_work *w;
    ar_dists ds;
    double distance, chi;
    int freedom;
    const int share = y.is_coarse ? 5 : 1, samples = most_samples / share;
    y.seed = ++seed * 1000003;
    y.judge.sampling.temperature = 1;
    y.judge.sampling.top_p = 1;
    memset(count, 0, sizeof count);
    if (ar_tree_work_create(ctx, &w, VOCAB, &y.tree, &y.judge.accept) != FV_OK) abort();
    if (ar_dists_create(ctx, &ds, VOCAB, 1) != FV_OK) abort();
    for (int i = 0; i < samples; i++) count[decode(w, &ds, &y, (uint32_t)i)]++;
    ar_dists_free(&ds);
    ar_tree_work_destroy(&w);
    const bool fits = is_distributed_exactly(count, samples, &distance, &chi, &freedom);
    if (y.is_plain && !y.is_coarse) plain_distance = distance;
    const double plain = plain_distance * sqrt(share);
    printf("# %-28s chi-square %8.1f of %d, distance %.5f (plain %.5f)\n", name, chi, freedom,
           distance, plain);
    return fits && distance < 1.5 * plain;
}

#define TREE(k, d, m, n) .tree = { .kind = (k), .depth = (d), .top_k = (m), .nodes = (n) }
#define BY_RATIO .judge = { .accept = { .is_reference = true } }

static void plain_draws_fit(void)
{
    CHECK(passes("plain", (way){ .is_plain = true }));
    way uniform = { .is_plain = true, .is_coarse = true,
                    .judge = { .sampling = { .is_uniform = true } } };
    CHECK(passes("plain, by uniform numbers", uniform));
}

static void point_masses_in_sequence_fit(void)
{
    CHECK(passes("EAGLE-2, one number a child", (way){ TREE(AR_DRAFT_EAGLE2, 3, 3, 8), BY_RATIO }));
}

static void ratios_with_residual_fit(void)
{
    CHECK(passes("p/q", (way){ TREE(AR_DRAFT_PQ, 2, 3, 8) }));
    way y = { TREE(AR_DRAFT_STATIC, 3, 3, 26), BY_RATIO, .is_coarse = true };
    CHECK(passes("p/q, static tree", y));
    y.tree = (ar_tree_options){ .kind = AR_DRAFT_CHAIN, .depth = 2, .nodes = 3 };
    CHECK(passes("p/q, chain", y));
}

static void one_draw_fits(void)
{
    CHECK(passes("coupled", (way){ TREE(AR_DRAFT_GUMBEL, 3, 3, 8) }));
    CHECK(passes("EAGLE-2, one draw", (way){ TREE(AR_DRAFT_EAGLE2, 3, 2, 8), .is_coarse = true }));
    way uniform = { TREE(AR_DRAFT_GUMBEL, 2, 2, 6), .is_coarse = true,
                    .judge = { .sampling = { .is_uniform = true } } };
    CHECK(passes("one uniform draw", uniform));
}

/* Drafts that follow the target's rows of earlier steps are other drafts, nothing else. */
static void echoes_fit(void)
{
    way y = { TREE(AR_DRAFT_PQ, 2, 2, 7) };
    y.tree.echo = 1;
    CHECK(passes("p/q, echoes", y));
    y.tree.kind = AR_DRAFT_GUMBEL;
    y.is_coarse = true;
    CHECK(passes("coupled, echoes", y));
}

/* The definition itself, then with one flaw each: the test sees them. */
static void flaws_are_noticed(void)
{
    const way y = { TREE(AR_DRAFT_PQ, 1, 2, 3), .is_slow = true };
    way no_residual = y, from_q = y;
    no_residual.flaws = SLOW_NO_RESIDUAL;
    from_q.flaws = SLOW_BONUS_FROM_Q;
    CHECK(passes("definition", y));
    CHECK(!passes("no residual", no_residual));
    CHECK(!passes("bonus token from the draft", from_q));
}

static void relaxed_rules_are_noticed(void)
{
    float book[VOCAB * 2];
    ar_neighbours *near;
    for (int v = 0; v < VOCAB; v++) {
        book[2 * v] = (float)cos(v);
        book[2 * v + 1] = (float)sin(v);
    }
    OK(ctx, ar_neighbours_create(ctx, &near, book, VOCAB, 2, VOCAB - 1, false));
    way y = { TREE(AR_DRAFT_GUMBEL, 3, 3, 8),
              .judge = { .accept = { .rule = AR_RULE_LANTERN, .delta = 0.2f, .near = near } } };
    CHECK(!passes("LANTERN, delta 0.2", y));
    y.is_coarse = true;
    y.judge.accept.is_reference = true;
    CHECK(!passes("LANTERN, delta 0.2, p/q", y));
    y.judge.accept.delta = 0;
    CHECK(passes("LANTERN, delta 0, p/q", y));
    y.judge.accept.is_reference = false;
    CHECK(passes("LANTERN, delta 0", y));
    y.judge.accept = (ar_accept_options){ .rule = AR_RULE_COOL, .delta = 2 };
    CHECK(!passes("COOL, delta 2", y));
    y.judge.accept.delta = 1;
    CHECK(passes("COOL, delta 1", y));
    y.judge.accept = (ar_accept_options){ .rule = AR_RULE_GSD, .delta = 1, .group = 3 };
    CHECK(!passes("GSD, groups of 3", y));
    y.judge.accept.group = 1;
    CHECK(passes("GSD, groups of 1", y));
    ar_neighbours_free(ctx, &near);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--full") == 0) most_samples = 2000000;
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    make_tables();
    RUN(plain_draws_fit);
    RUN(point_masses_in_sequence_fit);
    RUN(ratios_with_residual_fit);
    RUN(one_draw_fits);
    RUN(echoes_fit);
    RUN(flaws_are_noticed);
    RUN(relaxed_rules_are_noticed);
    fv_ctx_destroy(&ctx);
    return test_end();
}
