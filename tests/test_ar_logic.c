/* test_ar_logic.c - ar_logits.c, ar_tree.c, ar_accept.c, ar_neighbours.c against straightforward
 * definitions in double (ar_toy.h). Whether whole sequences keep their distribution:
 * test_ar_lossless.c. */
#include "alloc_fail.h"
#include "ar_toy.h"
#include "exact_math.h"
#include "sanitized.h"

#define GUMBEL_CRC 0x39d6f186u

static fv_ctx *ctx;

/* ---- Exact functions ------------------------------------------------------------------------- */

static void logarithm_and_exponential_are_close(void)
{
    uint64_t state = 3;
    for (int i = 0; i < 200000; i++) {
        const double x = exp((double)test_next(&state) / 4294967296.0 * 160 - 80);
        const float f = (float)x;
        const double ln = log((double)f);
        CHECK_MSG(fabs(fvi_ln(f) - ln) < 2.5e-7 * fmax(1, fabs(ln)), "ln(%g)", x);
        const float e = -(float)((double)test_next(&state) / 4294967296.0 * 87.2);
        CHECK_MSG(fabs(fvi_exp_negative(e) / exp((double)e) - 1) < 3e-7, "exp(%g)", e);
        const float t = ((float)test_next(&state) * 0x1p-31f - 1) * 0.1715f;
        CHECK_MSG(fabs(fvi_ln_ratio(t) - 2 * atanh((double)t)) <= 3e-7 * fabs(2 * atanh((double)t)),
                  "atanh(%g)", t);
    }
    CHECK(fvi_exp_negative(0) == 1 && fvi_exp_negative(-INFINITY) == 0 &&
          fvi_exp_negative(-90) == 0);
    CHECK(fvi_ln(1) == 0);
}

/* ---- Noise ----------------------------------------------------------------------------------- */

static float noise_row[1 << 16], other_row[1 << 16];

static void noise_follows_its_formula(void)
{
    const ar_noise noise = { 0x123456789abcdefull, 41 };
    double worst = 0;
    for (int position = 0; position < 8; position++) {
        ar_gumbel(fv_ctx_cpu(ctx), noise, position * 77, 1 << 16, noise_row);
        for (int v = 0; v < 1 << 16; v++) {
            uint32_t x[4];
            fv_philox(noise.seed, FV_STREAM_GUMBEL, noise.image,
                      (uint64_t)(position * 77) << 32 | (uint32_t)v / 4, x);
            const double u = (x[v % 4] + 0.5) * 0x1p-32, g = -log(-log(u));
            worst = test_worst(worst, fabs(noise_row[v] - g) / fmax(1, fabs(g)));
        }
    }
    CHECK_MSG(worst < 1e-6, "error %g", worst);
}

static void noise_has_the_same_bits_everywhere(void)
{
    static const int sizes[] = { 1, 3, 4, 63, 64, 65, 1000, 16384 };
    const uint32_t variants[] = { 0, FV_CPU_AVX2, FV_CPU_AVX2 | FV_CPU_AVX512 };
    for (size_t s = 0; s < FV_ARRAY_LEN(sizes); s++) {
        ar_gumbel(0, (ar_noise){ 9, 2 }, 5, sizes[s], noise_row);
        for (size_t v = 1; v < FV_ARRAY_LEN(variants); v++) {
            memset(other_row, 0xee, sizeof other_row);
            ar_gumbel(variants[v] & fv_cpu_features(), (ar_noise){ 9, 2 }, 5, sizes[s], other_row);
            CHECK(memcmp(noise_row, other_row, (size_t)sizes[s] * 4) == 0);
            for (int i = sizes[s]; i < sizes[s] + 80; i++) /* nothing behind the end is touched */
                CHECK(memcmp(&other_row[i], "\xee\xee\xee\xee", 4) == 0);
        }
    }
    uint32_t crc = fv_crc32(0, noise_row, sizeof(float) * 16384);
    CHECK_MSG(crc == GUMBEL_CRC, "%08x", crc); /* pictures of a seed stay the same for ever */
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static void fill_row(float *logits, int vocab, int manner, uint64_t seed)
{
    test_fill(logits, vocab, seed);
    uint64_t state = seed + 1;
    for (int v = 0; v < vocab; v++) {
        logits[v] *= 8;
        if (manner == 1) logits[v] = roundf(logits[v]); /* ties, -0 */
        if (manner == 2 && test_next(&state) % 3 == 0) logits[v] = -INFINITY;
        if (manner == 3 && test_next(&state) % 3 == 0) logits[v] = NAN;
        if (manner == 4) logits[v] = v % 2 ? NAN : -INFINITY;
        if (manner == 5) logits[v] = logits[v] * 30 + 1e4f;
    }
}

/* Survivors must be those of the definition, except where rounding decides about top-p. */
static bool row_agrees(ar_dists *ds, const float *logits, const ar_sampling *s, double *p)
{
    const ar_dist *d = &ds->d[0];
    ar_dist_make(ds, 0, logits, s);
    const int n = slow_row(logits, ds->vocab, s, p);
    double sum = 0, missed = 0;
    int at = 0;
    for (int v = 0; v < ds->vocab; v++) {
        const bool is_there = at < d->n && d->id[at] == v;
        if (is_there && !(fabs(d->p[at] - p[v]) < 2e-6 * p[v] + 1e-30) && p[v] > 1e-36)
            missed += p[v];
        if (!is_there) missed += p[v];
        if (is_there) sum += d->p[at];
        at += is_there;
    }
    if (at != d->n || at < 1 || fabs(sum - 1) > 1e-5) return false;
    for (int i = 0; i < d->n; i++)
        if (!(d->logit[i] <= 0) || (i > 0 && d->id[i] <= d->id[i - 1])) return false;
    return s->top_p < 1 && s->temperature > 0 ? missed < 1e-4 && abs(n - d->n) <= 1
                                              : missed == 0 && n == d->n;
}

static void rows_are_processed_as_defined(void)
{
    static const int vocabs[] = {1, 2, 5, 6, 16, 50, 257, 1024, 16384},
                     tops[] = {0, 1, 5, 50, 2000};
    static const float ps[] = { 1, 0.9f, 0.5f, 0.1f, 0 }, heats[] = { 1, 0.7f, 1.3f, 0 };
    static float logits[16384];
    static double p[16384];
    for (size_t v = 0; v < FV_ARRAY_LEN(vocabs); v++) {
        ar_dists ds;
        OK(ctx, ar_dists_create(ctx, &ds, vocabs[v], 1));
        for (int c = 0; c < 5 * 5 * 4 * 6; c++) {
            if (vocabs[v] > 1024 && c % 7 != 0) continue; /* each value of each, not all of them */
            const ar_sampling s = { heats[c / 25 % 4], tops[c % 5], ps[c / 5 % 5], false };
            fill_row(logits, vocabs[v], c / 100, (uint64_t)c * 31 + v);
            CHECK_MSG(row_agrees(&ds, logits, &s, p),
                      "vocabulary %d, manner %d, T %g, top-k %d, top-p %g", vocabs[v], c / 100,
                      s.temperature, s.top_k, s.top_p);
        }
        ar_dists_free(&ds);
    }
}

static void rows_have_the_same_bits_everywhere(void)
{
    static float logits[1000];
    const uint32_t variants[] = { 0, FV_CPU_AVX2, FV_CPU_AVX2 | FV_CPU_AVX512 };
    ar_dists ds;
    OK(ctx, ar_dists_create(ctx, &ds, 1000, 3));
    for (int c = 0; c < 60; c++) {
        const ar_sampling s = { c % 2 ? 0.8f : 1, c % 3 * 100, c % 5 ? 1 : 0.8f, false };
        fill_row(logits, 1000, c % 6, (uint64_t)c);
        for (int v = 0; v < 3; v++) {
            ds.cpu = variants[v] & fv_cpu_features();
            ar_dist_make(&ds, v, logits, &s);
            const size_t bytes = (size_t)ds.d[0].n * 4;
            CHECK(ds.d[v].n == ds.d[0].n && memcmp(ds.d[v].id, ds.d[0].id, bytes) == 0 &&
                  memcmp(ds.d[v].logit, ds.d[0].logit, bytes) == 0 &&
                  memcmp(ds.d[v].p, ds.d[0].p, bytes) == 0);
        }
    }
    ar_dists_free(&ds);
}

static void infinite_logits_win(void)
{
    float logits[6] = { 1, INFINITY, 3, -INFINITY, NAN, INFINITY };
    const ar_sampling s = { .temperature = 0.5f, .top_p = 1 };
    ar_dists ds;
    OK(ctx, ar_dists_create(ctx, &ds, 6, 1));
    ar_dist_make(&ds, 0, logits, &s);
    const int one = ar_dist_find(&ds.d[0], 1), five = ar_dist_find(&ds.d[0], 5);
    NEAR(ds.d[0].p[one], 0.5, 1e-7);
    NEAR(ds.d[0].p[five], 0.5, 1e-7);
    CHECK(ar_dist_find(&ds.d[0], 3) < 0 && ar_dist_find(&ds.d[0], 4) < 0);
    const ar_sampling greedy = { .temperature = 0, .top_p = 1 };
    ar_dist_make(&ds, 0, logits, &greedy);
    CHECK(ds.d[0].id[ar_draw(&ds, 0, &greedy, (ar_noise){1, 1}, 0)] ==
          1); /* the lowest of equal ones */
    ar_dists_free(&ds);
}

/* ---- Draws ----------------------------------------------------------------------------------- */

static void draws_are_distributed_as_softmax(void)
{
    enum { VOCAB = 30, DRAWS = 60000 };
    float logits[VOCAB];
    double p[VOCAB];
    ar_dists ds;
    OK(ctx, ar_dists_create(ctx, &ds, VOCAB, 1));
    for (int c = 0; c < 4; c++) {
        const ar_sampling s = { .temperature = c < 2 ? 1 : 0.6f, .top_k = c < 2 ? 0 : 20,
                                .top_p = c == 3 ? 0.9f : 1, .is_uniform = c % 2 };
        int count[VOCAB] = { 0 }, cells = -1;
        double chi = 0;
        test_fill(logits, VOCAB, 40);
        for (int v = 0; v < VOCAB; v++) logits[v] *= 2;
        ar_dist_make(&ds, 0, logits, &s);
        slow_row(logits, VOCAB, &s, p);
        for (int i = 0; i < DRAWS; i++)
            count[ds.d[0].id[ar_draw(&ds, 0, &s, (ar_noise){ 5, (uint32_t)(i % 300) }, i / 300)]]++;
        for (int v = 0; v < VOCAB; v++) {
            if (p[v] == 0) CHECK(count[v] == 0);
            if (p[v] == 0) continue;
            chi += (count[v] - DRAWS * p[v]) * (count[v] - DRAWS * p[v]) / (DRAWS * p[v]);
            cells++;
        }
        CHECK_MSG(chi_excess(chi, cells) < CHI_LIMIT, "case %d: %g, %d degrees of freedom", c, chi,
                  cells);
    }
    ar_dists_free(&ds);
}

static void draw_takes_the_largest_sum(void)
{
    static float logits[777];
    ar_dists ds;
    OK(ctx, ar_dists_create(ctx, &ds, 777, 1));
    for (int i = 0; i < 300; i++) {
        const ar_sampling s = { .temperature = 1, .top_k = i % 2 ? 40 : 0, .top_p = 1 };
        const ar_noise noise = { 8, (uint32_t)i };
        fill_row(logits, 777, i % 3, (uint64_t)i);
        ar_dist_make(&ds, 0, logits, &s);
        const int got = ar_draw(&ds, 0, &s, noise, i * 3);
        ar_gumbel(0, noise, i * 3, 777, noise_row);
        int best = 0;
        for (int k = 0; k < ds.d[0].n; k++)
            if (ds.d[0].logit[k] + noise_row[ds.d[0].id[k]] >
                ds.d[0].logit[best] + noise_row[ds.d[0].id[best]]) best = k;
        CHECK(got == best);
    }
    ar_dists_free(&ds);
}

/* ---- Trees ----------------------------------------------------------------------------------- */

static const ar_sampling plain_draws = { .temperature = 1, .top_p = 1 };

static toy make_toy(int vocab, int tokens, uint64_t seed)
{
    toy t = { .vocab = vocab, .tokens = tokens, .seed = seed, .spread = 2, .likeness = 0.8 };
    t.root.n = 1;
    t.root.token[0] = (int32_t)(seed % (uint64_t)vocab);
    return t;
}

/* Whatever the kind: parents before children, depths, ranks, distinct siblings, paths. */
static bool tree_is_sound(const ar_tree *t)
{
    int leaves = 0, longest = 0;
    for (int i = 1; i < t->n; i++) {
        const int parent = t->parent[i];
        int siblings = 0;
        if (parent < 0 || parent >= i || t->depth[i] != t->depth[parent] + 1) return false;
        for (int c = 1; c < i; c++) {
            if (t->parent[c] == parent && t->token[c] == t->token[i]) return false;
            siblings += t->parent[c] == parent;
        }
        if (t->rank[i] != siblings || !(t->score[i] <= t->score[parent])) return false;
        if (!(t->q[i] > 0 && t->q[i] <= 1)) return false;
    }
    for (int i = 0; i < t->n; i++) {
        bool is_leaf = true;
        for (int c = 1; c < t->n; c++) is_leaf = is_leaf && t->parent[c] != i;
        leaves += is_leaf;
        if (t->depth[i] + 1 > longest) longest = t->depth[i] + 1;
    }
    if (t->parent[0] != -1 || t->depth[0] != 0 || leaves != t->paths || longest != t->path_length)
        return false;
    for (int r = 0; r < t->paths; r++) {
        const int16_t *path = t->path[r];
        int n = 0;
        while (n <= AR_MAX_DEPTH && path[n] >= 0) n++;
        for (int i = n; i <= AR_MAX_DEPTH; i++)
            if (path[i] != -1) return false;
        for (int i = 1; i < n; i++)
            if (t->parent[path[i]] != path[i - 1]) return false;
        if (path[0] != 0) return false;
        for (int i = 0; r > 0; i++) { /* in the order of node numbers, the end last */
            const int a = t->path[r - 1][i] < 0 ? 9999 : t->path[r - 1][i],
                      b = path[i] < 0 ? 9999 : path[i];
            if (a > b || i == AR_MAX_DEPTH) return false;
            if (a < b) break;
        }
    }
    return true;
}

typedef struct slow_candidate {
    int parent, depth, token;
    double score;
} slow_candidate;

/* The EAGLE-2 tree by its definition: all candidates in a list, sorted. */
static int slow_eagle2(const toy *t, const ar_tree_options *o, const ar_sampling *s, int depth,
                       slow_candidate *kept)
{
    static slow_candidate all[8000];
    static int taken[8000];
    int n = 0, beam[16], beams = 1, from = 0;
    beam[0] = -1;
    for (int level = 1; level <= depth; level++) {
        const int begin = n;
        for (int b = 0; b < beams; b++) {
            toy_prefix p = t->root;
            int up[32], ups = 0;
            float logits[TOY_VOCAB];
            double q[TOY_VOCAB];
            for (int i = beam[b]; i >= 0; i = all[i].parent) up[ups++] = all[i].token;
            while (ups > 0) p = toy_after(&p, up[--ups]);
            toy_row(t, &p, 1, logits);
            slow_row(logits, t->vocab, s, q);
            for (int k = 0; k < o->top_k; k++) {
                int best = -1;
                for (int v = 0; v < t->vocab; v++)
                    if (q[v] > 0 && (best < 0 || q[v] > q[best])) best = v;
                if (best < 0) break;
                all[n++] = (slow_candidate){beam[b], level, best,
                                            (beam[b] < 0 ? 0 : all[beam[b]].score) + log(q[best])};
                q[best] = 0;
            }
        }
        from = begin;
        memset(taken, 0, sizeof taken);
        for (beams = 0; beams < o->top_k; beams++) {
            int best = -1;
            for (int i = from; i < n; i++)
                if (!taken[i] && (best < 0 || all[i].score > all[best].score)) best = i;
            if (best < 0) break;
            taken[best] = 1;
            beam[beams] = best;
        }
    }
    memset(taken, 0, sizeof taken);
    for (int k = 1; k < o->nodes && k <= n; k++) {
        int best = -1;
        for (int i = 0; i < n; i++)
            if (!taken[i] && (best < 0 || all[i].score > all[best].score)) best = i;
        taken[best] = 1;
    }
    int nodes = 1, number[8000];
    for (int i = 0; i < n; i++) {
        if (!taken[i]) continue;
        number[i] = nodes;
        kept[nodes] = all[i];
        kept[nodes++].parent = all[i].parent < 0 ? 0 : number[all[i].parent];
    }
    return nodes;
}

static void eagle2_tree_is_that_of_the_definition(void)
{
    static const int sizes[][3] = {{5, 10, 59},  {1, 4, 59},   {3, 3, 8},  {4, 1, 10},
                                   {2, 10, 128}, {6, 16, 128}, {5, 10, 2}, {3, 5, 1}};
    static slow_candidate kept[AR_MAX_NODES + 1];
    for (int c = 0; c < 64; c++) {
        toy t = make_toy(c % 3 == 0 ? 12 : 60, c % 5 == 4 ? 4 : 30, (uint64_t)c + 100);
        const ar_tree_options o = { .kind = AR_DRAFT_EAGLE2, .depth = sizes[c % 8][0],
                                    .top_k = sizes[c % 8][1], .nodes = sizes[c % 8][2] };
        const ar_sampling s = {
            .temperature = c % 7 == 6 ? 0 : 1, .top_k = c % 4 == 3 ? 5 : 0, .top_p = 1};
        const int depth = o.depth < t.tokens - 1 ? o.depth : t.tokens - 1;
        ar_tree_work *w;
        ar_tree tree;
        OK(ctx, ar_tree_work_create(ctx, &w, t.vocab, &o, NULL));
        OK(ctx, toy_grow(&t, w, &o, &s, (ar_noise){ 1, 0 }, &tree));
        const int n = slow_eagle2(&t, &o, &s, depth, kept);
        CHECK_MSG(tree.n == n, "case %d: %d nodes, %d expected", c, tree.n, n);
        CHECK(tree_is_sound(&tree) && t.calls == depth - 1 && tree.token[0] == t.root.token[0]);
        for (int i = 1; i < n; i++) {
            CHECK_MSG(tree.token[i] == kept[i].token && tree.parent[i] == kept[i].parent, "case %d",
                      c);
            CHECK(tree.depth[i] == kept[i].depth && tree.q[i] == 1);
            NEAR(tree.score[i], kept[i].score, 1e-4);
        }
        ar_tree_work_destroy(&w);
    }
}

/* Equal scores: the candidate that came first. Every row says the same two values. */
static void eagle2_breaks_ties_by_age(void)
{
    float table[1 + 4 + 16 + 64][4];
    toy t = make_toy(4, 4, 0);
    const ar_tree_options o = { .kind = AR_DRAFT_EAGLE2, .depth = 2, .top_k = 3, .nodes = 6 };
    ar_tree_work *w;
    ar_tree tree;
    for (int i = 0; i < 85; i++) memcpy(table[i], (float[4]){0, 1, 1, -INFINITY}, sizeof table[i]);
    t.table[1] = table[0];
    OK(ctx, ar_tree_work_create(ctx, &w, 4, &o, NULL));
    OK(ctx, toy_grow(&t, w, &o, &plain_draws, (ar_noise){ 1, 0 }, &tree));
    /* Level 1: 1, 2, 0. Level 2: 1, 2, 0 below each. Behind 1 and 2 of level 1, four of level 2 are
     * equal and there is room for three. */
    static const int token[6] = { 0, 1, 2, 1, 2, 1 }, parent[6] = { -1, 0, 0, 1, 1, 2 };
    CHECK(tree.n == 6 && tree_is_sound(&tree));
    for (int i = 1; i < 6; i++) CHECK(tree.token[i] == token[i] && tree.parent[i] == parent[i]);
    ar_tree_work_destroy(&w);
}

static void static_shapes_are_those_of_the_paper(void)
{
    static const char *const paths[] = {"0",    "1",    "2",     "3",    "00",  "01",  "02",
                                        "10",   "11",   "20",    "21",   "30",  "000", "001",
                                        "002",  "010",  "011",   "020",  "021", "100", "0000",
                                        "0001", "0002", "00000", "00001"};
    static const int nodes[] = { 26, 58, 26, 6 }, depths[] = { 5, 5, 5, 5 };
    for (int shape = 0; shape < 4; shape++) {
        toy t = make_toy(40, 30, 5);
        const ar_tree_options o = { .kind = AR_DRAFT_STATIC, .depth = AR_MAX_DEPTH, .top_k = 10,
                                    .nodes = AR_MAX_NODES, .shape = shape };
        ar_tree_work *w;
        ar_tree tree;
        OK(ctx, ar_tree_work_create(ctx, &w, t.vocab, &o, NULL));
        OK(ctx, toy_grow(&t, w, &o, &plain_draws, (ar_noise){ 3, 1 }, &tree));
        CHECK(tree.n == nodes[shape] && tree.path_length == depths[shape] + 1 &&
              tree_is_sound(&tree));
        CHECK(t.calls == depths[shape] - 1);
        for (int i = 1; shape == 0 && i < tree.n; i++) {
            char path[8] = "";
            for (int k = i; k > 0; k = tree.parent[k])
                path[tree.depth[k] - 1] = (char)('0' + tree.rank[k]);
            CHECK_MSG(strcmp(path, paths[i - 1]) == 0, "%s, not %s", path, paths[i - 1]);
        }
        ar_tree_work_destroy(&w);
    }
}

/* Children are the largest of log q + g, and q is that of a draw without replacement. */
static void children_are_the_top_of_shared_noise(void)
{
    static const ar_draft_kind kinds[] = {AR_DRAFT_GUMBEL, AR_DRAFT_PQ, AR_DRAFT_STATIC,
                                          AR_DRAFT_CHAIN};
    for (int c = 0; c < 80; c++) {
        toy t = make_toy(c % 2 ? 7 : 50, 20, (uint64_t)c);
        const ar_tree_options o = { .kind = kinds[c % 4], .depth = 1 + c % 5, .top_k = 1 + c % 7,
                                    .nodes = 2 + c % 40 };
        const ar_sampling s = {
            .temperature = c % 9 == 8 ? 0 : 0.9f, .top_k = c % 3 ? 0 : 4, .top_p = 1};
        ar_tree_work *w;
        ar_tree tree;
        OK(ctx, ar_tree_work_create(ctx, &w, t.vocab, &o, NULL));
        OK(ctx, toy_grow(&t, w, &o, &s, (ar_noise){ 17, (uint32_t)c }, &tree));
        CHECK(tree_is_sound(&tree) && tree.n <= o.nodes && tree.path_length <= o.depth + 1 &&
              tree.n > 1);
        for (int i = 0; i < tree.n; i++) {
            const toy_prefix p = toy_node_prefix(&t, &tree, i);
            float logits[TOY_VOCAB];
            double q[TOY_VOCAB], rest = 1;
            toy_row(&t, &p, 1, logits);
            slow_row(logits, t.vocab, &s, q);
            ar_gumbel(0, (ar_noise){ 17, (uint32_t)c }, p.n, t.vocab, noise_row);
            for (int child = i + 1; child < tree.n; child++) {
                if (tree.parent[child] != i) continue;
                int best = -1;
                for (int v = 0; v < t.vocab; v++) {
                    const double x = log(q[v]) + (s.temperature > 0 ? noise_row[v] : 0);
                    if (q[v] > 0 &&
                        (best < 0 || x > log(q[best]) + (s.temperature > 0 ? noise_row[best] : 0)))
                        best = v;
                }
                CHECK(tree.token[child] == best);
                NEAR(tree.q[child], q[best] / rest, 1e-4);
                rest -= q[best];
                q[best] = 0;
            }
        }
        ar_tree_work_destroy(&w);
    }
}

static void trees_end_where_the_picture_and_the_survivors_end(void)
{
    static const ar_draft_kind kinds[] = {AR_DRAFT_GUMBEL, AR_DRAFT_PQ, AR_DRAFT_STATIC,
                                          AR_DRAFT_CHAIN, AR_DRAFT_EAGLE2};
    for (int k = 0; k < 5; k++) {
        const ar_tree_options o = { .kind = kinds[k], .depth = 5, .top_k = 4, .nodes = 30 };
        ar_tree_work *w;
        ar_tree tree;
        OK(ctx, ar_tree_work_create(ctx, &w, 9, &o, NULL));
        for (int left = 0; left < 8; left++) { /* positions behind the root */
            toy t = make_toy(9, 10, 3);
            t.root.n = 10 - left;
            OK(ctx, toy_grow(&t, w, &o, &plain_draws, (ar_noise){ 1, 1 }, &tree));
            CHECK(tree_is_sound(&tree) && tree.path_length <= (left < 5 ? left : 5) + 1);
            if (k == 2 || k == 3) CHECK(tree.path_length == (left < 5 ? left : 5) + 1);
            if (left == 0)
                CHECK(tree.n == 1 && t.calls == 0 && tree.paths == 1 && tree.path[0][0] == 0);
        }
        toy t = make_toy(9, 10, 3);
        const ar_sampling one = { .temperature = 1, .top_k = 1, .top_p = 1 };
        OK(ctx, toy_grow(&t, w, &o, &one, (ar_noise){ 1, 1 }, &tree)); /* one survivor: a chain */
        CHECK(tree_is_sound(&tree) && tree.n >= 4 && tree.paths == 1 && tree.q[tree.n - 1] == 1);
        ar_tree_work_destroy(&w);
    }
}

static int by_falling_value(const void *a, const void *b)
{
    return *(const double *)a < *(const double *)b ? 1 : -1;
}

static void growth_takes_the_largest_gains(void)
{
    float rates[AR_MAX_DEPTH][AR_MAX_RANK] = { { 0 } }, gain[AR_MAX_NODES];
    int level[AR_MAX_NODES];
    double all[3 + 9 + 27 + 1], sum = 1, expected = 1;
    for (int d = 0; d < 3; d++)
        for (int r = 0; r < 3; r++)
            rates[d][r] = 0.6f / (float)(1 + 2 * r) * (1 - 0.13f * (float)d);
    int n = 0;
    for (int a = 0; a < 3; a++) {
        all[n++] = rates[0][a];
        for (int b = 0; b < 3; b++) {
            all[n++] = (double)rates[0][a] * rates[1][b];
            for (int c = 0; c < 3; c++) all[n++] = (double)rates[0][a] * rates[1][b] * rates[2][c];
        }
    }
    qsort(all, (size_t)n, sizeof *all, by_falling_value);
    const ar_tree_options o = { .kind = AR_DRAFT_GUMBEL, .depth = 3, .top_k = 3, .nodes = 128,
                                .accept = rates[0] };
    CHECK(ar_tree_gains(&o, gain, level) == n + 1 && gain[0] == 1 && level[0] == 0);
    for (int i = 1; i <= n; i++) {
        sum += gain[i];
        expected += all[i - 1];
        NEAR(sum, expected, 1e-5);
        CHECK(level[i] >= 1 && level[i] <= 3);
    }
    rates[1][0] = rates[1][1] = rates[1][2] = 0; /* nothing is gained below level 1 */
    CHECK(ar_tree_gains(&o, gain, level) == 4);
    const float *built_in = ar_accept_rates();
    for (int d = 0; d < AR_MAX_DEPTH; d++) {
        float all_ranks = 0;
        for (int r = 0; r < AR_MAX_RANK; r++) {
            all_ranks += built_in[d * AR_MAX_RANK + r];
            if (r > 0) CHECK(built_in[d * AR_MAX_RANK + r] < built_in[d * AR_MAX_RANK + r - 1]);
            if (d > 0) CHECK(built_in[d * AR_MAX_RANK + r] < built_in[(d - 1) * AR_MAX_RANK + r]);
        }
        CHECK(all_ranks < 1);
    }
}

static void rates_are_read_and_filled_up(void)
{
    enum { ALL = AR_MAX_DEPTH * AR_MAX_RANK };
    float a[ALL], b[ALL];
    const float *known = ar_accept_rates();
    OK(ctx, ar_rates_parse(ctx, "0.6,0.2;0.3,0", a));
    CHECK(a[0] == 0.6f && a[1] == 0.2f && a[AR_MAX_RANK] == 0.3f && a[AR_MAX_RANK + 1] == 0);
    for (int d = 0; d < AR_MAX_DEPTH; d++)
        for (int r = 0; r < AR_MAX_RANK; r++) {
            const int i = d * AR_MAX_RANK + r;
            if (r > 1) NEAR(a[i] * known[i - 1], a[i - 1] * known[i], 1e-6);
            if (d > 1) NEAR(a[i] * known[i - AR_MAX_RANK], a[i - AR_MAX_RANK] * known[i], 1e-6);
        }
    char *text = ar_rates_text(ctx, known, AR_MAX_DEPTH, AR_MAX_RANK);
    OK(ctx, ar_rates_parse(ctx, text, b));
    for (int i = 0; i < ALL; i++) NEAR(b[i], known[i], 1e-4);
    fv_free(ctx, text);
    text = ar_rates_text(ctx, a, 2, 2);
    CHECK(strcmp(text, "0.6,0.2;0.3,0") == 0);
    fv_free(ctx, text);
    static const char *const bad[] = { "", "1.1", "-0.1", "0.5,0.6", "0.5;", ";0.5", "0.5,", "a",
        "0.1;0.1,0.1", "0.1,0.1;0.1", "nan", "0.1,0.1 ;0.1,0.1", "0.10000000000000000000000000001",
        "0;0;0;0;0;0;0;0;0;0;0;0;0;0;0;0;0", "0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0" };
    for (size_t i = 0; i < FV_ARRAY_LEN(bad); i++)
        CHECK_MSG(ar_rates_parse(ctx, bad[i], a) == FV_ERR_MODEL, "\"%s\"", bad[i]);
}

/* A cell that nobody tried follows the table of the file, not the built-in one. */
static void costs_begin_with_the_rates_of_the_file(void)
{
    float rate[AR_MAX_DEPTH * AR_MAX_RANK];
    ar_counters seen = { 0 };
    ar_cost c;
    OK(ctx, ar_rates_parse(ctx, "0.8,0.1,0;0.7,0.2,0", rate));
    ar_cost_init(&c, rate);
    NEAR(c.accept[0][0], 0.8, 1e-6);
    NEAR(c.accept[1][1], 0.2, 1e-6);
    CHECK(c.accept[0][2] == 0 && c.accept[3][5] == 0);
    seen.tried[0][0] = 3000;
    seen.hit[0][0] = 1200;
    ar_cost_learn(&c, NULL, &seen);
    NEAR(c.accept[0][0], 0.4, 0.01);
    NEAR(c.accept[1][0], 0.4 * 0.7 / 0.8, 0.01);
}

/* ---- Neighbours ------------------------------------------------------------------------------ */

static void neighbours_are_the_nearest(void)
{
    enum { CODES = 70, WIDTH = 8, MOST = 69 };
    float book[CODES * WIDTH];
    test_fill(book, CODES * WIDTH, 21);
    memcpy(book + 5 * WIDTH, book + 40 * WIDTH, WIDTH * sizeof *book); /* equal rows: ties */
    for (int c = 0; c < 4; c++) {
        const bool raw = c % 2;
        const int k = c < 2 ? MOST + 5 : 10;
        ar_neighbours *n;
        double x[CODES][WIDTH];
        OK(ctx, ar_neighbours_create(ctx, &n, book, CODES, WIDTH, k, raw));
        CHECK(n->codes == CODES && n->k == (k < MOST ? k : MOST));
        for (int i = 0; i < CODES; i++) {
            double sum = 0;
            for (int j = 0; j < WIDTH; j++)
                sum += (double)book[i * WIDTH + j] * book[i * WIDTH + j];
            for (int j = 0; j < WIDTH; j++) x[i][j] = book[i * WIDTH + j] / (raw ? 1 : sqrt(sum));
        }
        for (int i = 0; i < CODES; i++) {
            bool is_taken[CODES] = { false };
            is_taken[i] = true;
            for (int r = 0; r < n->k; r++) {
                double least = INFINITY;
                int best = -1;
                for (int j = 0; j < CODES; j++) {
                    double d = 0;
                    for (int v = 0; v < WIDTH; v++) d += (x[i][v] - x[j][v]) * (x[i][v] - x[j][v]);
                    if (!is_taken[j] && d < least) {
                        least = d;
                        best = j;
                    }
                }
                is_taken[best] = true;
                CHECK(n->id[i * n->k + r] == best);
                NEAR(n->distance[i * n->k + r], sqrt(least), 1e-6);
            }
        }
        ar_neighbours_free(ctx, &n);
        CHECK(!n);
    }
}

static void neighbours_refuse_what_makes_no_sense(void)
{
    float book[4 * 2] = { 1, 0, 0, 1, NAN, 0, 0, 0 };
    ar_neighbours *n;
    CHECK(ar_neighbours_create(ctx, &n, book, 4, 2, 2, false) == FV_ERR_NUMERIC && !n);
    CHECK(ar_neighbours_create(ctx, &n, book, 4, 2, 0, false) == FV_ERR_ARG && !n);
    CHECK(ar_neighbours_create(ctx, &n, book, 0, 2, 1, false) == FV_ERR_ARG && !n);
    CHECK(ar_neighbours_create(ctx, &n, book, AR_MAX_VOCAB + 1, 2, 1, false) == FV_ERR_ARG && !n);
    OK(ctx, ar_neighbours_create(ctx, &n, book, 1, 2, 3, false)); /* a single code has none */
    CHECK(n->k == 0);
    ar_neighbours_free(ctx, &n);
}

/* ---- Walks ----------------------------------------------------------------------------------- */

typedef struct walk_case {
    toy t;
    ar_tree_options o;
    ar_judge j;
    ar_tree tree;
    ar_tree_work *w;
    float logits[AR_MAX_NODES * TOY_VOCAB];
    ar_walk walk;
} walk_case;
static walk_case wc;

/* Grows a tree and walks it. The caller has set toy, options and judge. */
static fv_status walk_once(uint32_t image)
{
    wc.j.kind = wc.o.kind;
    wc.j.noise = (ar_noise){ 1234, image };
    wc.j.position = wc.t.root.n - 1;
    FV_TRY(toy_grow(&wc.t, wc.w, &wc.o, &wc.j.sampling, wc.j.noise, &wc.tree));
    toy_target(&wc.t, &wc.tree, wc.logits);
    ar_walk_tree(wc.w, &wc.tree, wc.logits, &wc.j, &wc.walk);
    return FV_OK;
}

static bool walk_is_sound(void)
{
    if (wc.walk.n < 1 || wc.walk.node[0] != 0) return false;
    for (int i = 1; i < wc.walk.n; i++)
        if (wc.tree.parent[wc.walk.node[i]] != wc.walk.node[i - 1]) return false;
    return wc.walk.next >= 0 && wc.walk.next < wc.t.vocab && wc.walk.substituted < wc.walk.n;
}

/* Step after step, trees of every kind: the tokens are those of plain draws. */
static void coupled_walks_give_the_tokens_of_plain_draws(void)
{
    for (int c = 0; c < 240; c++) {
        const ar_sampling s = { .temperature = c % 11 == 10 ? 0 : 1, .top_k = c % 3 ? 0 : 10,
                                .top_p = c % 4 ? 1 : 0.9f, .is_uniform = c % 7 == 6 };
        memset(&wc, 0, sizeof wc);
        wc.t = make_toy(32, 30, (uint64_t)c);
        wc.t.likeness = c % 5 * 0.25;
        wc.o = (ar_tree_options){.kind = (ar_draft_kind)(c % 4),
                                 .depth = 1 + c % 6,
                                 .top_k = 1 + c % 10,
                                 .nodes = 3 + c % 57,
                                 .shape = c / 4 % 4};
        wc.j.sampling = s;
        OK(ctx, ar_tree_work_create(ctx, &wc.w, 32, &wc.o, &wc.j.accept));
        ar_dists ds;
        OK(ctx, ar_dists_create(ctx, &ds, 32, 1));
        const ar_noise noise = { 1234, (uint32_t)c };
        toy_prefix plain = { 0 };
        while (plain.n < wc.t.tokens) {
            float logits[TOY_VOCAB];
            toy_row(&wc.t, &plain, 0, logits);
            ar_dist_make(&ds, 0, logits, &s);
            plain = toy_after(&plain, ds.d[0].id[ar_draw(&ds, 0, &s, noise, plain.n)]);
        }
        wc.t.root.n = 1;
        wc.t.root.token[0] = plain.token[0];
        while (wc.t.root.n < wc.t.tokens) {
            OK(ctx, walk_once((uint32_t)c));
            CHECK(walk_is_sound() && wc.walk.substituted == 0);
            for (int i = 1; i < wc.walk.n; i++)
                wc.t.root = toy_after(&wc.t.root, wc.tree.token[wc.walk.node[i]]);
            if (wc.t.root.n < wc.t.tokens) wc.t.root = toy_after(&wc.t.root, wc.walk.next);
            CHECK(memcmp(wc.t.root.token, plain.token, (size_t)wc.t.root.n * 4) == 0);
        }
        ar_dists_free(&ds);
        ar_tree_work_destroy(&wc.w);
    }
}

static ar_neighbours *toy_neighbours(int vocab, int k)
{
    float book[TOY_VOCAB * 4];
    ar_neighbours *n;
    test_fill(book, vocab * 4, 5);
    return ar_neighbours_create(ctx, &n, book, vocab, 4, k, false) == FV_OK ? n : NULL;
}

/* Every rule, every kind: the nodes and the next token of the definition, for the same numbers. */
static void ratio_walks_follow_the_definition(void)
{
    static const ar_draft_kind kinds[] = {AR_DRAFT_EAGLE2, AR_DRAFT_PQ, AR_DRAFT_STATIC,
                                          AR_DRAFT_CHAIN, AR_DRAFT_GUMBEL};
    ar_neighbours *near = toy_neighbours(40, 12);
    CHECK(near);
    int accepted = 0, rejected = 0;
    for (int c = 0; c < 600; c++) {
        const ar_accept_options a = {.rule = (ar_rule)(c / 5 % 5),
                                     .delta = c % 3 ? 0.3f : 1.6f,
                                     .lambda = 4,
                                     .group = 5,
                                     .k = c % 2 ? 0 : 8,
                                     .is_reference = true,
                                     .near = c / 5 % 5 == AR_RULE_GSD && c % 2 ? NULL : near,
                                     .lantern_compat = c % 4 == 3};
        memset(&wc, 0, sizeof wc);
        wc.t = make_toy(40, 30, (uint64_t)c);
        wc.t.likeness = 0.7;
        wc.t.spread = c % 2 ? 1 : 3;
        wc.o = (ar_tree_options){ .kind = kinds[c % 5], .depth = 4, .top_k = 1 + c % 6, .nodes = 30,
                                  .shape = c / 25 % 4 };
        wc.j.sampling = (ar_sampling){ .temperature = 1, .top_k = c % 7 ? 0 : 6, .top_p = 1 };
        wc.j.accept = a;
        OK(ctx, ar_tree_work_create(ctx, &wc.w, 40, &wc.o, &a));
        for (uint32_t image = 0; image < 12; image++) {
            int node[AR_MAX_DEPTH + 1], next;
            OK(ctx, walk_once(image));
            const int n = slow_walk(&wc.t, &wc.tree, &wc.j, 0, node, &next);
            CHECK(walk_is_sound());
            CHECK_MSG(n == wc.walk.n && next == wc.walk.next,
                      "case %d: %d nodes, %d expected; %d, not %d", c, wc.walk.n, n, wc.walk.next,
                      next);
            for (int i = 0; i < n; i++) CHECK(wc.walk.node[i] == node[i]);
            accepted += n > 1;
            rejected += n == 1;
        }
        ar_tree_work_destroy(&wc.w);
    }
    CHECK_MSG(accepted > 1000 && rejected > 500, "%d, %d", accepted, rejected);
    ar_neighbours_free(ctx, &near);
}

/* One child x and LANTERN: accepted with probability p(x) + C, summed over the target's draws, in
 * the form by one draw; the other form compares with the same number. delta = 0 is exact. */
static void lantern_accepts_with_the_mass_of_neighbours(void)
{
    enum { DRAWS = 4000 };
    ar_neighbours *near = toy_neighbours(24, 23);
    CHECK(near);
    for (int c = 0; c < 24; c++) {
        ar_accept_options a = {.rule = c % 2 ? AR_RULE_LANTERN : AR_RULE_LANTERNPP,
                               .near = near,
                               .k = 9,
                               .delta = c < 4 ? 0 : 0.3f,
                               .lambda = c < 4 ? 1 : 5,
                               .is_reference = c / 2 % 2};
        memset(&wc, 0, sizeof wc);
        wc.t = make_toy(24, 10, (uint64_t)c);
        wc.o = (ar_tree_options){ .kind = AR_DRAFT_EAGLE2, .depth = 1, .top_k = 1, .nodes = 2 };
        wc.j.sampling = plain_draws;
        wc.j.accept = a;
        OK(ctx, ar_tree_work_create(ctx, &wc.w, 24, &wc.o, &a));
        float logits[TOY_VOCAB];
        double p[TOY_VOCAB], chance = 0, sum;
        int n, hits = 0, wrong = 0;
        toy_row(&wc.t, &wc.t.root, 0, logits);
        slow_row(logits, 24, &plain_draws, p);
        OK(ctx, walk_once(0));
        const int x = wc.tree.token[1];
        sum = slow_neighbours(&a, p, x, &n);
        for (int own = 0; own < 24; own++) { /* by enumeration of what the target may draw */
            bool is_in = own == x;
            for (int i = 0; i < n; i++) is_in = is_in || near->id[x * near->k + i] == own;
            if (is_in) chance += p[own];
        }
        NEAR(chance, p[x] + sum, 1e-12);
        if (c < 4) NEAR(chance, p[x], 1e-12);
        for (uint32_t i = 0; i < DRAWS; i++) {
            OK(ctx, walk_once(i));
            hits += wc.walk.n == 2;
            int own = 0;
            ar_gumbel(0, wc.j.noise, 1, 24, noise_row);
            for (int v = 1; v < 24; v++)
                if (logits[v] + noise_row[v] > logits[own] + noise_row[own]) own = v;
            bool is_in = own == x;
            for (int k = 0; k < n; k++) is_in = is_in || near->id[x * near->k + k] == own;
            if (a.is_reference) is_in = ar_uniform(wc.j.noise, 1, 1) < chance;
            wrong += is_in != (wc.walk.n == 2);
            if (!a.is_reference && wc.walk.n == 2) CHECK(wc.walk.substituted == (own != x));
        }
        CHECK_MSG(wrong == 0, "case %d: %d", c, wrong);
        CHECK(fabs(hits - DRAWS * chance) < 5 * sqrt(DRAWS * chance * (1 - chance)) + 1);
        ar_tree_work_destroy(&wc.w);
    }
    ar_neighbours_free(ctx, &near);
}

/* Temperature 0: the longest path of tokens that are the argmax, or would be with their
 * neighbours. */
static void greedy_walks_take_the_longest_path(void)
{
    ar_neighbours *near = toy_neighbours(20, 6);
    CHECK(near);
    int substituted = 0;
    for (int c = 0; c < 400; c++) {
        memset(&wc, 0, sizeof wc);
        wc.t = make_toy(20, 12, (uint64_t)c);
        wc.t.likeness = 0.9;
        wc.o = (ar_tree_options){
            .kind = c % 2 ? AR_DRAFT_EAGLE2 : AR_DRAFT_GUMBEL, .depth = 4, .top_k = 4, .nodes = 40};
        wc.j.sampling = (ar_sampling){ .temperature = 0, .top_k = 3, .top_p = 0.5f };
        wc.j.accept = (ar_accept_options){
            .rule = c % 3 ? AR_RULE_LANTERN : AR_RULE_EXACT, .delta = 0.2f, .near = near};
        OK(ctx, ar_tree_work_create(ctx, &wc.w, 20, &wc.o, &wc.j.accept));
        OK(ctx, walk_once(0));
        CHECK(walk_is_sound());
        bool ok[AR_MAX_NODES] = { true };
        int best[AR_MAX_NODES], longest = 0, depth_of_first = -1;
        for (int i = 0; i < wc.tree.n; i++) {
            double p[TOY_VOCAB];
            slow_row(wc.logits + i * 20, 20, &wc.j.sampling, p);
            best[i] = 0;
            for (int v = 1; v < 20; v++)
                if (p[v] > p[best[i]]) best[i] = v;
            for (int child = i + 1; child < wc.tree.n; child++) {
                if (wc.tree.parent[child] != i) continue;
                const int x = wc.tree.token[child];
                int n;
                ok[child] =
                    ok[i] &&
                    (x == best[i] ||
                     (c % 3 && p[x] + slow_neighbours(&wc.j.accept, p, x, &n) > p[best[i]]));
            }
            if (ok[i] && wc.tree.depth[i] > longest) longest = wc.tree.depth[i];
        }
        CHECK(wc.walk.n == longest + 1);
        for (int r = 0; r < wc.tree.paths && depth_of_first < 0; r++) /* the first of the longest */
            if (longest < wc.tree.path_length && wc.tree.path[r][longest] >= 0 &&
                ok[wc.tree.path[r][longest]])
                depth_of_first = wc.tree.path[r][longest];
        CHECK(wc.walk.node[longest] == depth_of_first && wc.walk.next == best[depth_of_first]);
        for (int i = 1, n = 0; i <= longest; i++) {
            n += wc.tree.token[wc.walk.node[i]] != best[wc.walk.node[i - 1]];
            if (i == longest) CHECK(n == wc.walk.substituted);
        }
        substituted += wc.walk.substituted;
        ar_tree_work_destroy(&wc.w);
    }
    CHECK(substituted > 20);
    ar_neighbours_free(ctx, &near);
}

/* The released zeroing may leave nothing: then what follows comes from the whole row. */
static void a_row_that_lost_all_mass_is_taken_whole(void)
{
    float target[1 + 8][8], draft[1 + 8][8];
    ar_neighbours *near = toy_neighbours(8, 7);
    CHECK(near);
    /* The draft insists on 3; the target has little mass at its nearest code and the rest further
     * off. */
    const uint16_t *by_distance = near->id + 3 * near->k;
    for (int i = 0; i < 9; i++)
        for (int v = 0; v < 8; v++) {
            draft[i][v] = v == 3 ? 9 : 0;
            target[i][v] = v == by_distance[0]   ? logf(0.05f)
                           : v == by_distance[2] ? logf(0.95f)
                                                 : -INFINITY;
        }
    memset(&wc, 0, sizeof wc);
    wc.t = make_toy(8, 2, 0);
    wc.t.table[0] = target[0];
    wc.t.table[1] = draft[0];
    wc.o = (ar_tree_options){ .kind = AR_DRAFT_EAGLE2, .depth = 1, .top_k = 1, .nodes = 2 };
    wc.j.sampling = plain_draws;
    wc.j.accept = (ar_accept_options){ .rule = AR_RULE_LANTERN, .delta = 0.1f, .k = 6, .near = near,
                                       .lantern_compat = true, .is_reference = true };
    OK(ctx, ar_tree_work_create(ctx, &wc.w, 8, &wc.o, &wc.j.accept));
    int hits = 0, rare = 0;
    for (uint32_t i = 0; i < 2000; i++) {
        OK(ctx, walk_once(i));
        hits += wc.walk.n == 2;
        if (wc.walk.n == 2) continue;
        CHECK(wc.walk.next == by_distance[0] || wc.walk.next == by_distance[2]);
        rare += wc.walk.next == by_distance[0];
    }
    CHECK_MSG(hits > 60 && hits < 145 && rare > 55 && rare < 140, "%d, %d", hits, rare);
    ar_tree_work_destroy(&wc.w);
    ar_neighbours_free(ctx, &near);
}

/* Post verification: a token is held against one row. */
static void single_tokens_are_accepted_as_often_as_they_should(void)
{
    enum { DRAWS = 6000 };
    ar_neighbours *near = toy_neighbours(16, 10);
    CHECK(near);
    for (int rule = 0; rule <= AR_RULE_GSD; rule++) {
        ar_tree_work *w;
        toy t = make_toy(16, 9, (uint64_t)rule);
        float logits[TOY_VOCAB];
        double p[TOY_VOCAB], point[TOY_VOCAB];
        ar_judge j = {.sampling = plain_draws,
                      .position = 4,
                      .accept = {.rule = (ar_rule)rule,
                                 .delta = rule == AR_RULE_COOL ? 2 : 0.2f,
                                 .lambda = 3,
                                 .group = 4,
                                 .near = near}};
        OK(ctx, ar_tree_work_create(ctx, &w, 16, NULL, NULL));
        toy_row(&t, &t.root, 0, logits);
        slow_row(logits, 16, &plain_draws, p);
        for (int x = 0; x < 16; x++) {
            int hits = 0;
            memset(point, 0, sizeof point);
            point[x] = 1;
            const double chance = fmin(1, slow_ratio(&j.accept, p, point, x, 16, 1));
            for (int i = 0; i < DRAWS; i++) {
                int32_t own;
                j.noise = (ar_noise){ 6, (uint32_t)i };
                const bool is_accepted = ar_accept_one(w, logits, x, &j, &own);
                if (own == x) CHECK(is_accepted);
                if (rule == AR_RULE_EXACT) CHECK(is_accepted == (own == x));
                hits += is_accepted;
            }
            CHECK_MSG(fabs(hits - DRAWS * chance) < 4.5 * sqrt(DRAWS * chance * (1 - chance)) + 1,
                      "rule %d, token %d: %d, %g expected", rule, x, hits, DRAWS * chance);
        }
        j.sampling.temperature = 0;
        int32_t own;
        CHECK(!ar_accept_one(w, logits, 0, &j, &own) || own == 0 || rule > 0);
        CHECK(ar_accept_one(w, logits, own, &j, &own));
        ar_tree_work_destroy(&w);
    }
    ar_neighbours_free(ctx, &near);
}

/* min(1, p/q), else the residual: together p again. */
static void a_token_of_q_becomes_one_of_p(void)
{
    enum { DRAWS = 60000 };
    ar_tree_work *w;
    ar_dists ds;
    toy t = make_toy(10, 9, 4);
    float logits[2][TOY_VOCAB];
    double p[TOY_VOCAB], q[TOY_VOCAB], overlap = 0, chi = 0;
    int count[TOY_VOCAB] = { 0 }, accepted = 0;
    OK(ctx, ar_tree_work_create(ctx, &w, 10, NULL, NULL));
    OK(ctx, ar_dists_create(ctx, &ds, 10, 2));
    for (int k = 0; k < 2; k++) {
        const ar_sampling s = { .temperature = 1, .top_k = k ? 8 : 0, .top_p = 1 };
        toy_row(&t, &t.root, k, logits[k]);
        ar_dist_make(&ds, k, logits[k], &s);
        slow_row(logits[k], 10, &s, k ? q : p);
    }
    for (int v = 0; v < 10; v++) overlap += fmin(p[v], q[v]);
    for (int i = 0; i < DRAWS; i++) {
        const ar_noise noise = { 3, (uint32_t)i };
        int32_t token = ds.d[1].id[ar_draw(&ds, 1, &plain_draws, noise, 7)], next = -1;
        const bool is_accepted = ar_accept_pq(w, &ds.d[0], &ds.d[1], token, noise, 7, &next);
        accepted += is_accepted;
        count[is_accepted ? token : next]++;
    }
    for (int v = 0; v < 10; v++)
        chi += (count[v] - DRAWS * p[v]) * (count[v] - DRAWS * p[v]) / (DRAWS * p[v]);
    CHECK_MSG(chi_excess(chi, 9) < CHI_LIMIT, "%g", chi);
    NEAR(accepted / (double)DRAWS, overlap, 0.01);
    ar_dists_free(&ds);
    ar_tree_work_destroy(&w);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static fv_status make_all(fv_ctx *c)
{
    static const ar_draft_kind kinds[] = { AR_DRAFT_EAGLE2, AR_DRAFT_PQ };
    const ar_accept_options a = { .rule = AR_RULE_EXACT };
    float book[16] = { 1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 1, 2 };
    ar_neighbours *near;
    ar_dists ds;
    FV_TRY(ar_dists_create(c, &ds, 100, 3));
    ar_dists_free(&ds);
    for (int k = 0; k < 2; k++) {
        const ar_tree_options o = { .kind = kinds[k], .depth = 3, .top_k = 4, .nodes = 20 };
        ar_tree_work *w;
        FV_TRY(ar_tree_work_create(c, &w, 100, &o, &a));
        ar_tree_work_destroy(&w);
    }
    FV_TRY(ar_neighbours_create(c, &near, book, 8, 2, 3, false));
    ar_neighbours_free(c, &near);
    return FV_OK;
}

static void running_out_of_memory_leaks_nothing(void)
{
    for (int64_t n = 0;; n++) {
        alloc_fail heap = { .left = ALLOC_ALL };
        const fv_allocator al = alloc_fail_allocator(&heap);
        fv_ctx_options o = FV_CTX_OPTIONS_INIT;
        fv_ctx *c;
        o.alloc = &al;
        o.threads = 2;
        CHECK(fv_ctx_create(&c, &o) == FV_OK);
        const int64_t before = heap.live;
        heap.left = n;
        const fv_status s = make_all(c);
        heap.left = ALLOC_ALL;
        CHECK_MSG(heap.live == before, "allocation %d", (int)n);
        fv_ctx_destroy(&c);
        if (s == FV_OK) break;
        CHECK(s == FV_ERR_OOM && n < 200);
    }
}

static void drafting_and_walking_allocate_nothing(void)
{
    memset(&wc, 0, sizeof wc);
    wc.t = make_toy(50, 30, 1);
    wc.o = (ar_tree_options){ .kind = AR_DRAFT_PQ, .depth = 4, .top_k = 4, .nodes = 30 };
    wc.j.sampling = (ar_sampling){ .temperature = 1, .top_k = 20, .top_p = 0.95f };
    OK(ctx, ar_tree_work_create(ctx, &wc.w, 50, &wc.o, &wc.j.accept));
    fv_memory_stats before, after;
    fv_ctx_memory(ctx, &before);
    for (uint32_t i = 0; i < 50; i++) OK(ctx, walk_once(i));
    fv_ctx_memory(ctx, &after);
    CHECK(before.allocations == after.allocations && before.current_bytes == after.current_bytes);
    ar_tree_work_destroy(&wc.w);
}

/* A root with the children 1 and 2; behind 1 stand 3 and, behind that, 4. */
static void echoes_are_of_the_first_children(void)
{
    const ar_tree t = { .n = 5, .parent = { -1, 0, 0, 1, 3 }, .rank = { 0, 0, 1, 0, 0 } };
    const float draft[2] = { 10, 20 };
    float logits[5][2];
    ar_echo *e;
    for (int i = 0; i < 5; i++) logits[i][0] = logits[i][1] = (float)(i + 1);
    CHECK(ar_echo_mix(NULL, 8, draft) == draft);
    OK(ctx, ar_echo_create(ctx, &e, 2, 0.5f));
    CHECK(ar_echo_mix(e, 8, draft) == draft);
    ar_echo_keep(e, &t, 0, 7, logits[0]); /* rejected: node 1 at 7, its row is about 8 */
    for (int i = 0; i < 3; i++) {
        const int node = i == 0 ? 1 : i + 2;
        const float *m = ar_echo_mix(e, 8 + i, draft);
        CHECK(fabsf(m[0] - (8 + 0.3f * (float)(node + 1))) < 1e-5f);
        CHECK(fabsf(m[1] - (16 + 0.3f * (float)(node + 1))) < 1e-5f);
    }
    CHECK(ar_echo_mix(e, 7, draft) == draft && ar_echo_mix(e, 11, draft) == draft);
    ar_echo_keep(e, &t, 1, 9, logits[0]); /* newer rows replace older ones of their place */
    CHECK(fabsf(ar_echo_mix(e, 10, draft)[0] - (8 + 0.3f * 4)) < 1e-5f);
    ar_echo_keep(e, &t, 4, 20, logits[0]);
    CHECK(ar_echo_mix(e, 21, draft) == draft);
    ar_echo_destroy(&e);
}

int main(void)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(logarithm_and_exponential_are_close);
    RUN(noise_follows_its_formula);
    RUN(noise_has_the_same_bits_everywhere);
    RUN(rows_are_processed_as_defined);
    RUN(rows_have_the_same_bits_everywhere);
    RUN(infinite_logits_win);
    RUN(draws_are_distributed_as_softmax);
    RUN(draw_takes_the_largest_sum);
    RUN(eagle2_tree_is_that_of_the_definition);
    RUN(eagle2_breaks_ties_by_age);
    RUN(static_shapes_are_those_of_the_paper);
    RUN(children_are_the_top_of_shared_noise);
    RUN(trees_end_where_the_picture_and_the_survivors_end);
    RUN(growth_takes_the_largest_gains);
    RUN(rates_are_read_and_filled_up);
    RUN(costs_begin_with_the_rates_of_the_file);
    RUN(neighbours_are_the_nearest);
    RUN(neighbours_refuse_what_makes_no_sense);
    RUN(coupled_walks_give_the_tokens_of_plain_draws);
    RUN(ratio_walks_follow_the_definition);
    RUN(lantern_accepts_with_the_mass_of_neighbours);
    RUN(greedy_walks_take_the_longest_path);
    RUN(a_row_that_lost_all_mass_is_taken_whole);
    RUN(single_tokens_are_accepted_as_often_as_they_should);
    RUN(a_token_of_q_becomes_one_of_p);
    RUN(running_out_of_memory_leaks_nothing);
    RUN(drafting_and_walking_allocate_nothing);
    RUN(echoes_are_of_the_first_children);
    fv_ctx_destroy(&ctx);
    return test_end();
}
