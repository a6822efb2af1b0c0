/* test_ar_decode.c - the decoding loops over a network of hashed logits that checks how it is used:
 * lossless modes against plain decoding token by token, Jacobi iteration, distributions, costs,
 * options, failures. */
#include "alloc_fail.h"
#include "ar_decoding.h"
#include "chi_square.h"

static bool is_full; /* --full: more trees, 2,000,000 draws of each distribution */

/* ---- Lossless -------------------------------------------------------------------------------- */

static void plain_decoding_takes_one_pass_a_token(void)
{
    script s = script_create(40, 25, 3);
    ar_decode_options o = options();
    ar_counters c = { 0 };
    o.is_plain = true;
    const char *wrong = decode(&s, &o, true, &c, NULL);
    CHECK_MSG(!wrong, "%s", wrong);
    CHECK(c.prefills == 3 && c.verifies == 3 * 24 && c.target_rows == c.verifies);
    CHECK(c.draft_passes == 0 && c.plain_steps == c.verifies && c.tokens == 75);
    o.sampling.is_uniform = true;
    wrong = decode(&s, &o, true, NULL, NULL);
    CHECK_MSG(!wrong, "uniform: %s", wrong);
    free(s.image);
}

/* All trees, bounds, filters, drafters for one sampling and number of pictures. */
static const char *all_trees(script *s, ar_decode_options *o, int64_t *accepted)
{
    static const ar_draft_kind kinds[] = { AR_DRAFT_GUMBEL, AR_DRAFT_CHAIN, AR_DRAFT_STATIC,
                                           AR_DRAFT_EAGLE2 };
    static char message[500];
    for (int k = 0; k < 4; k++) {
        for (o->tree.depth = 1; o->tree.depth <= 5; o->tree.depth++) {
            for (o->tree.top_k = 1; o->tree.top_k <= 10; o->tree.top_k += is_full ? 1 : 3) {
                ar_counters c = { 0 };
                o->tree.kind = kinds[k];
                o->tree.nodes = k == 2 ? 58 : 4 * o->tree.top_k + 2;
                o->tree.shape = o->tree.top_k / 3 % 4;
                o->tree.echo = o->tree.depth % 2 ? 0.0f : 1.0f;
                const char *wrong = decode(s, o, true, &c, NULL);
                if (c.verifies > s->images * (s->tokens - 1)) wrong = "more passes than tokens";
                for (int i = 1; i < AR_MAX_NODES; i++) *accepted += i * c.accepted[i];
                if (!wrong) continue;
                snprintf(message, sizeof message, "kind %d depth %d children %d drafter %d: %s",
                         kinds[k], o->tree.depth, o->tree.top_k, s->drafter, wrong);
                return message;
            }
        }
    }
    return NULL;
}

/* T1 */
static void greedy_trees_decode_as_plain(void)
{
    int64_t accepted[3] = { 0 };
    for (int drafter = DRAFTS_WELL; drafter <= DRAFTS_AGAINST; drafter++) {
        script s = script_create(32, 20, 1);
        ar_decode_options o = options();
        s.drafter = drafter;
        o.sampling.temperature = 0.0f;
        const char *wrong = all_trees(&s, &o, &accepted[drafter]);
        CHECK_MSG(!wrong, "%s", wrong);
        free(s.image);
    }
    CHECK(accepted[DRAFTS_WELL] > 2 * accepted[DRAFTS_AT_RANDOM]);
}

/* T2 */
static void coupled_trees_decode_as_plain(void)
{
    for (int setting = 0; setting < 24; setting++) {
        int64_t accepted = 0;
        script s = script_create(setting % 2 ? 32 : 60, is_full ? 20 : 14,
                                 setting / 12 ? 3 : 1);
        ar_decode_options o = options();
        s.drafter = setting % 3;
        s.salt = 100 + (uint64_t)setting;
        o.sampling.top_k = setting / 3 % 2 ? 50 : 0;
        o.sampling.top_p = setting / 6 % 2 ? 0.9f : 1.0f;
        const char *wrong = all_trees(&s, &o, &accepted);
        CHECK_MSG(!wrong, "setting %d: %s", setting, wrong);
        CHECK(accepted > 0 || s.drafter == DRAFTS_AGAINST);
        free(s.image);
    }
}

/* Settings in which the draft head has nothing, or hardly anything, to offer. */
static void few_candidates_and_small_pictures_decode_as_plain(void)
{
    for (int tokens = 1; tokens <= 6; tokens++) {
        for (int vocab = 1; vocab <= 3; vocab++) {
            script s = script_create(vocab, tokens, 2);
            ar_decode_options o = options();
            o.sampling.top_p = 0.3f;
            o.tree.depth = 5;
            for (int kind = AR_DRAFT_GUMBEL; kind <= AR_DRAFT_EAGLE2; kind++) {
                o.tree.kind = kind;
                const char *wrong = decode(&s, &o, true, NULL, NULL);
                CHECK_MSG(!wrong, "%d tokens, %d codes, kind %d: %s", tokens, vocab, kind, wrong);
            }
            free(s.image);
        }
    }
}

/* T3 */
static void strict_post_verification_decodes_as_plain(void)
{
    int64_t cuts = 0, skips = 0;
    float codebook[32 * 4];
    test_fill(codebook, 32 * 4, 5);
    for (int setting = 0; setting < 96; setting++) {
        ar_counters c = { 0 };
        script s = script_create(32, 24, setting / 48 ? 3 : 1);
        ar_decode_options o = options();
        s.drafter = setting % 3;
        o.sampling.temperature = setting / 24 % 2 ? 0.0f : 1.0f;
        o.tree.kind = (ar_draft_kind)(setting / 3 % 4);
        o.vvs.schedule = setting / 12 % 2 ? AR_SKIP_DYNAMIC : AR_SKIP_UNIFORM;
        o.vvs.interval = 2;
        o.vvs.threshold = -0.2f;
        o.vvs.codebook = codebook;
        o.vvs.code_width = 4;
        o.vvs.warm_up = setting % 5;
        o.vvs.post = AR_POST_STRICT;
        o.vvs.keep_stale_draft = setting % 2;
        o.vvs.selector = (ar_selector)(setting % 3);
        o.tree.echo = setting / 2 % 2 ? 0.5f : 0.0f;
        const char *wrong = decode(&s, &o, true, &c, NULL);
        CHECK_MSG(!wrong, "setting %d: %s", setting, wrong);
        cuts += c.chain_cuts;
        skips += c.skips;
        free(s.image);
    }
    CHECK(cuts > 100 && skips > cuts);
}

/* ---- Jacobi ---------------------------------------------------------------------------------- */

static void coupled_jacobi_decodes_as_plain(void)
{
    static const int windows[] = { 1, 2, 5, 16, 40, AR_MAX_NODES - 1 };
    int64_t passes[2] = { 0 };
    for (int setting = 0; setting < 48; setting++) {
        script s = script_create(24, 36, setting / 24 ? 3 : 1);
        ar_decode_options o = options();
        ar_counters c = { 0 };
        s.salt = (uint64_t)setting;
        o.jacobi = windows[setting % 6];
        o.jacobi_init = setting / 6 % 2 ? AR_JACOBI_ABOVE : AR_JACOBI_RANDOM;
        o.sampling.temperature = setting / 12 % 2 ? 0.0f : 1.0f;
        o.sampling.top_k = setting % 5 ? 0 : 7;
        s.scale = setting % 2 ? 0.5f : 2.0f; /* flat logits: the noise decides, drafts hold */
        const char *wrong = decode(&s, &o, true, &c, NULL);
        CHECK_MSG(!wrong, "setting %d: %s", setting, wrong);
        CHECK(c.verifies <= s.images * (s.tokens - 1) && c.draft_passes == 0);
        if (o.sampling.temperature > 0.0f && o.jacobi == 16) passes[1] += c.verifies / s.images;
        if (o.sampling.temperature > 0.0f && o.jacobi == 16) passes[0] += s.tokens - 1;
        free(s.image);
    }
    CHECK_MSG(passes[1] * 10 < passes[0] * 9, "%lld passes for %lld", (long long)passes[1],
              (long long)passes[0]);
}

/* ---- Distributions --------------------------------------------------------------------------- */

#define TOY_CODES 6
#define TOY_TOKENS 4
#define TOY_CELLS 1296
#define TOY_BATCH 1000

static void toy_joint(const script *s, const ar_sampling *sampling, double p[TOY_CELLS])
{
    ar_dists d;
    float logits[TOY_CODES];
    if (ar_dists_create(ctx, &d, TOY_CODES, 1) != FV_OK) abort();
    for (int cell = 0; cell < TOY_CELLS; cell++) {
        uint64_t h = script_condition(s, 0);
        p[cell] = 1.0;
        for (int t = 0, rest = cell; t < TOY_TOKENS; t++, rest /= TOY_CODES) {
            script_target_logits(s, h, logits);
            ar_dist_make(&d, 0, logits, sampling);
            const int i = ar_dist_find(&d.d[0], rest % TOY_CODES);
            p[cell] *= i < 0 ? 0.0 : d.d[0].p[i];
            h = script_after(h, rest % TOY_CODES);
        }
    }
    ar_dists_free(&d);
}

/* Small cells are put together; a cell of probability 0 that is hit is infinitely unlikely. */
static double excess_of(const double *p, const int64_t *hits, int64_t n)
{
    double x = 0.0, rest_p = 0.0, rest_hits = 0.0;
    int cells = 0;
    for (int i = 0; i < TOY_CELLS; i++) {
        if (p[i] <= 0.0 && hits[i] > 0) return 1e9;
        if (p[i] * (double)n >= 10.0) {
            const double d = (double)hits[i] - p[i] * (double)n;
            x += d * d / (p[i] * (double)n);
            cells++;
        } else {
            rest_p += p[i];
            rest_hits += (double)hits[i];
        }
    }
    if (rest_p * (double)n >= 1.0) {
        const double d = rest_hits - rest_p * (double)n;
        x += d * d / (rest_p * (double)n);
        cells++;
    }
    return chi_excess(x, cells - 1);
}

static double toy_excess(const ar_decode_options *o)
{
    const int batches = is_full ? 2000 : 20;
    static int64_t hits[TOY_CELLS];
    static double p[TOY_CELLS];
    static int32_t token[TOY_BATCH * TOY_TOKENS];
    static ar_noise noise[TOY_BATCH];
    script s = script_create(TOY_CODES, TOY_TOKENS, TOY_BATCH);
    const ar_lm lm = script_lm(&s);
    ar_counters c = { 0 };
    s.is_same = true;
    s.scale = 1.0f;
    s.blur = 1.5f;
    memset(hits, 0, sizeof hits);
    toy_joint(&s, &o->sampling, p);
    for (int b = 0; b < batches; b++) {
        for (int i = 0; i < TOY_BATCH; i++)
            noise[i] = (ar_noise){ 1000 + (uint64_t)b, (uint32_t)i };
        if (ar_decode(ctx, &lm, o, TOY_BATCH, noise, token, &c, NULL) != FV_OK || s.broken)
            return 1e8;
        for (int i = 0; i < TOY_BATCH; i++) {
            const int32_t *t = token + i * TOY_TOKENS;
            hits[t[0] + TOY_CODES * (t[1] + TOY_CODES * (t[2] + TOY_CODES * t[3]))]++;
        }
    }
    free(s.image);
    return excess_of(p, hits, (int64_t)batches * TOY_BATCH);
}

static void jacobi_by_ratio_keeps_the_distribution(void)
{
    for (int setting = 0; setting < 4; setting++) {
        ar_decode_options o = options();
        o.sampling.is_uniform = true;
        o.sampling.top_k = setting / 2 ? 4 : 0;
        o.jacobi = 3;
        o.jacobi_init = setting % 2 ? AR_JACOBI_ABOVE : AR_JACOBI_RANDOM;
        const double excess = toy_excess(&o);
        CHECK_MSG(excess < CHI_LIMIT, "setting %d: %.2f", setting, excess);
    }
}

static void strict_skipping_keeps_the_distribution_and_other_skipping_does_not(void)
{
    ar_decode_options o = options();
    o.vvs.schedule = AR_SKIP_UNIFORM;
    o.vvs.interval = 2;
    o.vvs.warm_up = 0;
    o.vvs.post = AR_POST_STRICT;
    o.tree.depth = 3;
    double excess = toy_excess(&o);
    CHECK_MSG(excess < CHI_LIMIT, "strict: %.2f", excess);
    o.vvs.post = AR_POST_RESTORE;
    excess = toy_excess(&o);
    CHECK_MSG(excess > 3.0 * CHI_LIMIT && excess < 1e8, "restore: %.2f", excess);
}

/* ---- Costs ----------------------------------------------------------------------------------- */

/* target(R) = base + slope R */
static ar_cost made_up(double base, double slope, double draft, double rate)
{
    ar_cost c;
    ar_cost_init(&c, NULL);
    c.points = AR_COST_POINTS;
    for (int i = 0; i < c.points; i++) c.target[i] = base + slope * (1 << i);
    c.first = c.level = draft;
    for (int d = 0; d < AR_MAX_DEPTH; d++)
        for (int r = 0; r < AR_MAX_RANK; r++) c.accept[d][r] = (float)(rate * pow(1.0 - rate, r));
    return c;
}

static void costs_choose_the_best_tree(void)
{
    const ar_tree_options o = { .kind = AR_DRAFT_GUMBEL, .depth = 8, .top_k = 8, .nodes = 64 };
    ar_cost_choice best;
    ar_cost c = made_up(1.0, 0.0, 0.0, 0.7); /* rows are free */
    ar_cost_choose(&c, &o, 1, &best);
    CHECK(best.nodes == 64 && best.speedup > 4.0);
    NEAR(best.speedup, best.tokens, 1e-9);
    c = made_up(0.0, 1.0, 0.1, 0.7); /* a row costs as much as a pass */
    ar_cost_choose(&c, &o, 1, &best);
    CHECK(best.depth == 0 && best.nodes == 1 && best.speedup < 1.0 && best.speedup > 0.3);
    c = made_up(1.0, 0.05, 0.2, 0.6);
    ar_cost_choose(&c, &o, 1, &best);
    CHECK(best.depth > 1 && best.depth < 8 && best.nodes > best.depth && best.nodes < 64);
    /* No other chain is better than the best chain. */
    ar_tree_options chain = o;
    chain.kind = AR_DRAFT_CHAIN;
    ar_cost_choose(&c, &chain, 1, &best);
    double tokens = 1.0, top = 0.0;
    for (int d = 1; d <= 8; d++) {
        tokens += pow(0.6, d);
        const double rate = tokens / (1.0 + 0.05 * (d + 1) + 0.2 * d);
        if (rate > top) top = rate;
    }
    NEAR(best.speedup, top * 1.05, 1e-6);
    CHECK(best.nodes == best.depth + 1);
    /* A batch fills the machine: trees shrink, and do not pay at last. */
    ar_cost_choose(&c, &o, 64, &best);
    CHECK(best.depth < 4);
    c.draw = 0.1;
    ar_cost_choose(&c, &o, 1, &best);
    CHECK(best.depth > 0);
}

static void costs_are_read_between_the_points(void)
{
    ar_cost c = { .points = 3, .target = { 1.0, 2.0, 6.0 } };
    NEAR(ar_cost_target(&c, 1), 1.0, 0);
    NEAR(ar_cost_target(&c, 1.5), 1.5, 1e-12);
    NEAR(ar_cost_target(&c, 2), 2.0, 1e-12);
    NEAR(ar_cost_target(&c, 3), 4.0, 1e-12);
    NEAR(ar_cost_target(&c, 4), 6.0, 1e-12);
    NEAR(ar_cost_target(&c, 6), 10.0, 1e-12);
    c.points = 1;
    NEAR(ar_cost_target(&c, 5), 5.0, 1e-12);
}

static void costs_learn_rates(void)
{
    ar_cost c;
    ar_counters before = { 0 }, after = { 0 };
    ar_cost_init(&c, NULL);
    for (int d = 0; d < AR_MAX_DEPTH; d++) {
        double sum = 0.0;
        for (int r = 0; r < AR_MAX_RANK; r++) {
            CHECK(c.accept[d][r] > 0.0f && (r == 0 || c.accept[d][r] <= c.accept[d][r - 1]));
            sum += c.accept[d][r];
        }
        CHECK(sum <= 1.0);
    }
    after.tried[0][0] = 1000;
    after.hit[0][0] = 300;
    ar_cost_learn(&c, &before, &after);
    NEAR(c.accept[0][0], 0.3, 0.01);
    CHECK(c.accept[3][0] < 0.31f); /* what nobody tried follows */
    before = after;
    after.tried[0][0] += 9000;
    after.hit[0][0] += 8100;
    ar_cost_learn(&c, &before, &after);
    ar_cost_learn(&c, &after, &after);
    NEAR(c.accept[0][0], 0.84, 0.02);
    CHECK(c.tried[0][0] <= 5000.0);
}

static void costs_change_speed_and_not_the_picture(void)
{
    for (int setting = 0; setting < 4; setting++) {
        script s = script_create(48, 100, 2);
        ar_decode_options o = options();
        ar_counters c = { 0 };
        ar_cost cost = made_up(1.0, setting == 1 ? 2.0 : 0.02, 0.1, 0.6);
        o.cost = &cost;
        o.tree.nodes = 40;
        if (setting == 2) s.drafter = DRAFTS_AGAINST; /* found out while decoding */
        if (setting == 3) o.sampling.temperature = 0.0f;
        const char *wrong = decode(&s, &o, true, &c, NULL);
        CHECK_MSG(!wrong, "setting %d: %s", setting, wrong);
        CHECK(c.speedup > 0.0 && c.switched_off == (setting == 1 || setting == 2));
        if (setting == 1) CHECK(c.draft_passes == 0 && c.plain_steps == c.verifies);
        if (setting == 2) CHECK(c.draft_passes > 0 && c.plain_steps > 50 && c.speedup < 1.0);
        if (setting == 0) CHECK(cost.tried[0][0] > 16.0);
        free(s.image);
    }
}

/* Where tokens depend on the tree the clock must not choose it. */
static void costs_do_not_touch_lossy_modes(void)
{
    int32_t token[2][60];
    for (int i = 0; i < 2; i++) {
        script s = script_create(48, 60, 1);
        const ar_lm lm = script_lm(&s);
        ar_decode_options o = options();
        ar_counters c = { 0 };
        ar_cost cost = made_up(1.0, i ? 2.0 : 0.0, 0.1, 0.6);
        o.cost = &cost;
        o.vvs.schedule = AR_SKIP_UNIFORM;
        CHECK(!ar_keeps_sequence(&o));
        OK(ctx, ar_decode(ctx, &lm, &o, 1, &(ar_noise){ 3, 0 }, token[i], &c, NULL));
        CHECK(!c.switched_off && c.speedup == 0.0);
        free(s.image);
    }
    CHECK(memcmp(token[0], token[1], sizeof token[0]) == 0);
}

static void costs_are_measured_within_the_contract(void)
{
    for (int kind = AR_DRAFT_GUMBEL; kind <= AR_DRAFT_PQ; kind++) {
        script s = script_create(200, 64, 1);
        ar_lm lm = script_lm(&s);
        ar_cost c;
        ar_tree_options o = options().tree;
        ar_cost_choice best;
        o.kind = kind;
        ar_cost_init(&c, NULL);
        OK(ctx, ar_cost_measure(ctx, &lm, &o, 64, &c));
        CHECK_MSG(!s.broken, "%s", s.broken);
        CHECK(c.points >= 3 && c.first > 0.0 && c.level >= 0.0 && c.draw > 0.0);
        for (int i = 0; i < c.points; i++) CHECK(c.target[i] > 0.0);
        ar_cost_choose(&c, &o, 1, &best);
        CHECK(best.speedup > 0.0);
        lm.has_draft = false;
        OK(ctx, ar_cost_measure(ctx, &lm, &o, 1, &c));
        lm.tokens = 4;
        CHECK(ar_cost_measure(ctx, &lm, &o, 64, &c) == FV_ERR_ARG);
        lm.tokens = 64;
        CHECK(ar_cost_measure(ctx, &lm, &o, AR_MAX_ROWS + 1, &c) == FV_ERR_ARG);
        free(s.image);
    }
}

/* ---- Options, failures ----------------------------------------------------------------------- */

static void sequences_are_kept_by_lossless_modes_only(void)
{
    ar_decode_options o = options();
    CHECK(ar_keeps_sequence(&o));
    o.tree.kind = AR_DRAFT_PQ;
    CHECK(!ar_keeps_sequence(&o));
    o.sampling.temperature = 0.0f;
    CHECK(ar_keeps_sequence(&o));
    o = options();
    o.accept.is_reference = true;
    CHECK(!ar_keeps_sequence(&o));
    o = options();
    o.accept.rule = AR_RULE_LANTERN;
    CHECK(!ar_keeps_sequence(&o));
    o = options();
    o.vvs.schedule = AR_SKIP_UNIFORM;
    CHECK(!ar_keeps_sequence(&o));
    o.vvs.post = AR_POST_STRICT;
    CHECK(ar_keeps_sequence(&o));
    o = options();
    o.jacobi = 4;
    CHECK(ar_keeps_sequence(&o));
    o.sampling.is_uniform = true;
    CHECK(!ar_keeps_sequence(&o));
    o.jacobi = 0;
    CHECK(!ar_keeps_sequence(&o));
    o.is_plain = true;
    CHECK(ar_keeps_sequence(&o));
}

static ar_decode_options spoilt(int i, ar_cost *unmeasured, const ar_neighbours *near,
                                const ar_neighbours *other)
{
    ar_decode_options o = options();
    o.vvs.schedule = AR_SKIP_UNIFORM;
    switch (i) {
    case 0: o.sampling.temperature = -1.0f; break;
    case 1: o.sampling.temperature = NAN; break;
    case 2: o.sampling.top_k = -1; break;
    case 3: o.sampling.top_p = 0.0f; break;
    case 4: o.sampling.top_p = 1.5f; break;
    case 5: o.sampling.top_p = NAN; break;
    case 6: o.tree.kind = (ar_draft_kind)9; break;
    case 7: o.tree.depth = 0; break;
    case 8: o.tree.depth = AR_MAX_DEPTH + 1; break;
    case 9: o.tree.top_k = 0; break;
    case 10: o.tree.top_k = AR_MAX_RANK + 1; break;
    case 11: o.tree.nodes = 1; break;
    case 12: o.tree.nodes = AR_MAX_NODES + 1; break;
    case 13: o.tree.kind = AR_DRAFT_STATIC; o.tree.shape = 4; break;
    case 14: o.accept.rule = (ar_rule)-1; break;
    case 15: o.accept.rule = AR_RULE_LANTERN; break; /* no neighbours */
    case 16: o.accept.rule = AR_RULE_COOL; o.accept.delta = NAN; break;
    case 17: o.accept.rule = AR_RULE_GSD; o.accept.group = 0; break;
    case 18: o.accept.rule = AR_RULE_GSD; o.accept.near = other; break; /* of other codes */
    case 19: o.vvs.schedule = (ar_schedule)7; break;
    case 20: o.vvs.interval = 1; break;
    case 21: o.vvs.warm_up = -1; break;
    case 22: o.vvs.selector = (ar_selector)3; break;
    case 23: o.vvs.post = (ar_post)3; break;
    case 24: o.vvs.stale[0] = -2; break;
    case 25: o.vvs.stale[1] = -1; break;
    case 26: o.vvs.schedule = AR_SKIP_DYNAMIC; break; /* no codebook */
    case 27: o.vvs.schedule = AR_SKIP_DYNAMIC; o.vvs.stride = 0; break;
    case 28: o.vvs.schedule = AR_SKIP_DYNAMIC; o.vvs.decay = 0.0f; break;
    case 29: o.vvs.schedule = AR_SKIP_DYNAMIC; o.vvs.threshold = NAN; break;
    case 30: o.jacobi = 4; break; /* and skips */
    case 31: o = options(); o.jacobi = AR_MAX_NODES; break;
    case 32: o = options(); o.jacobi = -1; break;
    case 33: o = options(); o.jacobi = 2; o.is_plain = true; break;
    case 34: o = options(); o.jacobi = 2; o.jacobi_init = (ar_jacobi_init)2; break;
    case 35: o.cost = unmeasured; break;
    case 36: o.accept = (ar_accept_options){ AR_RULE_LANTERN, .delta = 1.1f, .near = near }; break;
    case 37:
        o.accept = (ar_accept_options){ AR_RULE_LANTERNPP, .lambda = 0.9f, .near = near };
        break;
    case 38: o.accept = (ar_accept_options){ AR_RULE_LANTERN, .k = 3, .near = near }; break;
    case 39: o.accept.rule = AR_RULE_GSD; o.accept.group = AR_MAX_GROUP + 1; break;
    }
    return o;
}

static void options_out_of_range_are_refused(void)
{
    const float codebook[16 * 2] = { 1, 0, 0, 1, 1, 1 };
    ar_neighbours *near = NULL, *other = NULL;
    ar_cost unmeasured;
    OK(ctx, ar_neighbours_create(ctx, &other, codebook, 3, 2, 1, false));
    OK(ctx, ar_neighbours_create(ctx, &near, codebook, 16, 2, 2, true));
    ar_cost_init(&unmeasured, NULL);
    script s = script_create(16, 16, 1);
    ar_lm lm = script_lm(&s);
    const ar_noise noise = { 1, 0 };
    ar_counters c = { 0 };
    int32_t token[16];
    for (int i = 0; i <= 39; i++) {
        const ar_decode_options o = spoilt(i, &unmeasured, near, other);
        CHECK_MSG(ar_decode(ctx, &lm, &o, 1, &noise, token, &c, NULL) == FV_ERR_ARG, "case %d", i);
        CHECK_MSG(strncmp(fv_ctx_error(ctx), "decoding: ", 10) == 0, "case %d", i);
    }
    ar_decode_options o = options();
    CHECK(ar_decode(ctx, &lm, &o, 0, &noise, token, &c, NULL) == FV_ERR_ARG);
    lm.has_draft = false;
    CHECK(ar_decode(ctx, &lm, &o, 1, &noise, token, &c, NULL) == FV_ERR_MODEL);
    CHECK(strstr(fv_ctx_error(ctx), "no draft head"));
    o.is_plain = true;
    OK(ctx, ar_decode(ctx, &lm, &o, 1, &noise, token, &c, NULL));
    ar_neighbours_free(ctx, &near);
    ar_neighbours_free(ctx, &other);
    free(s.image);
}

static int stop_after(void *user, const fv_progress *p)
{
    int *left = user;
    return p->done <= p->total && (*left)-- <= 0;
}

static void decoding_stops_when_asked(void)
{
    bool is_finished = false;
    for (int calls = 0; !is_finished; calls += 5) {
        int left = calls;
        fv_ctx *own = NULL;
        fv_ctx_options co = FV_CTX_OPTIONS_INIT;
        script s = script_create(16, 40, 2);
        const ar_lm lm = script_lm(&s);
        const ar_noise noise[2] = { { 1, 0 }, { 1, 1 } };
        const ar_decode_options o = options();
        ar_counters c = { 0 };
        int32_t token[80];
        co.progress = stop_after;
        co.user = &left;
        CHECK(fv_ctx_create(&own, &co) == FV_OK);
        const fv_status status = ar_decode(own, &lm, &o, 2, noise, token, &c, NULL);
        is_finished = status == FV_OK;
        CHECK(is_finished || status == FV_ERR_CANCELLED);
        CHECK(is_finished || c.tokens == 0);
        CHECK(!is_finished || calls > 5);
        fv_ctx_destroy(&own);
        free(s.image);
    }
}

static void failing_passes_are_reported(void)
{
    for (int64_t after = 0; after < 12; after += 3) {
        script s = script_create(16, 40, 1);
        const ar_lm lm = script_lm(&s);
        const ar_decode_options o = options();
        ar_counters c = { 0 };
        int32_t token[40];
        s.fails = FV_ERR_DEVICE;
        s.fails_after = after;
        CHECK(ar_decode(ctx, &lm, &o, 1, &(ar_noise){ 1, 0 }, token, &c, NULL) == FV_ERR_DEVICE);
        CHECK(!s.broken);
        free(s.image);
    }
}

static fv_status one_of_each(fv_ctx *own)
{
    script s = script_create(16, 16, 2);
    const ar_lm lm = script_lm(&s);
    const ar_noise noise[2] = { { 1, 0 }, { 1, 1 } };
    ar_counters c = { 0 };
    ar_cost cost;
    int32_t token[32];
    fv_status status = FV_OK;
    for (int i = 0; i < 4 && status == FV_OK; i++) {
        ar_decode_options o = options();
        if (i == 1) o.vvs.schedule = AR_SKIP_UNIFORM;
        if (i == 2) o.jacobi = 5;
        if (i == 3) o.jacobi = 5;
        if (i == 3) o.sampling.is_uniform = true;
        status = ar_decode(own, &lm, &o, 2, noise, token, &c, NULL);
    }
    ar_cost_init(&cost, NULL);
    const ar_tree_options tree = options().tree;
    if (status == FV_OK) status = ar_cost_measure(own, &lm, &tree, 8, &cost);
    free(s.image);
    return status;
}

static void memory_that_runs_out_is_reported_and_returned(void)
{
    fv_status status = FV_ERR_OOM;
    int n = 0;
    for (; status != FV_OK && n < 500; n++) {
        alloc_fail heap = { .left = ALLOC_ALL };
        fv_ctx *own = alloc_fail_context(&heap, 0);
        heap.left = n;
        status = one_of_each(own);
        CHECK_MSG(status == FV_OK || status == FV_ERR_OOM, "%s", fv_status_name(status));
        CHECK(status == FV_OK || fv_ctx_error(own)[0]);
        fv_ctx_destroy(&own);
        CHECK_MSG(heap.live == 0, "%lld blocks after %d", (long long)heap.live, n);
    }
    CHECK(status == FV_OK && n > 30);
}

int main(int argc, char **argv)
{
    is_full = argc > 1 && strcmp(argv[1], "--full") == 0;
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(plain_decoding_takes_one_pass_a_token);
    RUN(greedy_trees_decode_as_plain);
    RUN(coupled_trees_decode_as_plain);
    RUN(few_candidates_and_small_pictures_decode_as_plain);
    RUN(strict_post_verification_decodes_as_plain);
    RUN(coupled_jacobi_decodes_as_plain);
    RUN(jacobi_by_ratio_keeps_the_distribution);
    RUN(strict_skipping_keeps_the_distribution_and_other_skipping_does_not);
    RUN(costs_choose_the_best_tree);
    RUN(costs_are_read_between_the_points);
    RUN(costs_learn_rates);
    RUN(costs_change_speed_and_not_the_picture);
    RUN(costs_do_not_touch_lossy_modes);
    RUN(costs_are_measured_within_the_contract);
    RUN(sequences_are_kept_by_lossless_modes_only);
    RUN(options_out_of_range_are_refused);
    RUN(decoding_stops_when_asked);
    RUN(failing_passes_are_reported);
    RUN(memory_that_runs_out_is_reported_and_returned);
    fv_ctx_destroy(&ctx);
    return test_end();
}
