/* test_ar_decode.c - the decoding loops over a network of hashed logits that checks how it is used:
 * lossless modes against plain decoding token by token, VVS against the loop of the paper told once
 * more (reference_loop), Jacobi iteration, costs, options, failures. */
#include "ar_scripted.h"
#include "alloc_fail.h"
#include "chi_square.h"
#include "test.h"

static fv_ctx *ctx;
static bool is_full; /* --full: more trees, 2,000,000 draws of each distribution */

#define MAX_LOG 512

typedef struct recorder {
    const script *script; /* the books that must agree with the log; may be NULL */
    const char *broken;
    bool is_drafting;
    int n;
    ar_step_log log[MAX_LOG];
    uint64_t allocations;
    fv_ctx *ctx;
} recorder;

/* Invariants of a step: keys of all tokens but those just skipped; a pair for each token and for
 * the root, where anything can be drafted. */
static void record(void *user, const ar_step_log *l)
{
    recorder *r = user;
    fv_memory_stats m;
    fv_ctx_memory(r->ctx, &m);
    if (r->n == 0) r->allocations = m.allocations;
    if (m.allocations != r->allocations) r->broken = "memory allocated in the loop";
    if (r->n > 0 && l->skipped && r->log[r->n - 1].skipped && r->log[r->n - 1].image == l->image)
        r->broken = "two skips in a row";
    if (r->script) {
        const script_image *i = &r->script->image[l->image];
        const bool is_end = l->length + 1 >= r->script->tokens;
        if (i->n != l->length - (l->skipped ? l->chain : 0) && !is_end)
            r->broken = "tokens committed";
        if (r->is_drafting && i->pairs != l->length + 1 && l->length + 2 < r->script->tokens)
            r->broken = "pairs of the draft";
    }
    if (r->n < MAX_LOG) r->log[r->n++] = *l;
}

static ar_decode_options options(void)
{
    ar_decode_options o;
    ar_decode_defaults(&o);
    return o;
}

/* The definition: one pass a token. */
static void plain(const script *s, const ar_sampling *sampling, int image, ar_noise noise,
                  int32_t *token)
{
    ar_dists d;
    float *logits = malloc((size_t)s->vocab * sizeof *logits);
    uint64_t h = script_condition(s, image);
    if (ar_dists_create(ctx, &d, s->vocab, 1) != FV_OK || !logits) abort();
    for (int t = 0; t < s->tokens; t++) {
        script_target_logits(s, h, logits);
        ar_dist_make(&d, 0, logits, sampling);
        token[t] = d.d[0].id[ar_draw(&d, 0, sampling, noise, t)];
        h = script_after(h, token[t]);
    }
    ar_dists_free(&d);
    free(logits);
}

/* Decodes with books kept; a message where something is wrong, also if the tokens are not those of
 * plain decoding (exact). */
static const char *decode(script *s, const ar_decode_options *o, bool exact, ar_counters *c,
                          recorder *r)
{
    static char message[400];
    recorder own = { 0 };
    int32_t token[8 * SCRIPT_TOKENS], expected[SCRIPT_TOKENS];
    ar_noise noise[8];
    ar_counters counters = { 0 };
    const ar_lm lm = script_lm(s);
    if (!r) r = &own;
    if (!c) c = &counters;
    r->script = s;
    r->ctx = ctx;
    r->is_drafting = !o->is_plain && !o->jacobi && !o->cost;
    const ar_decode_log log = { record, r };
    for (int i = 0; i < s->images; i++) noise[i] = (ar_noise){ 11 + s->salt, (uint32_t)i };
    s->broken = NULL;
    if (ar_decode(ctx, &lm, o, s->images, noise, token, c, &log) != FV_OK) {
        snprintf(message, sizeof message, "%s; contract: %s", fv_ctx_error(ctx),
                 s->broken ? s->broken : "held");
        return message;
    }
    if (s->broken) return s->broken;
    if (r->broken) return r->broken;
    if (c->tokens != (int64_t)s->images * s->tokens) return "count of tokens";
    for (int i = 0; i < s->images && exact; i++) {
        plain(s, &o->sampling, i, noise[i], expected);
        for (int t = 0; t < s->tokens; t++) {
            if (token[i * s->tokens + t] == expected[t]) continue;
            snprintf(message, sizeof message, "image %d: token %d is %d, plainly %d", i, t,
                     token[i * s->tokens + t], expected[t]);
            return message;
        }
    }
    return NULL;
}

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
        const char *wrong = decode(&s, &o, true, &c, NULL);
        CHECK_MSG(!wrong, "setting %d: %s", setting, wrong);
        cuts += c.chain_cuts;
        skips += c.skips;
        free(s.image);
    }
    CHECK(cuts > 100 && skips > cuts);
}

/* ---- VVS: the loop of the paper, told once more ---------------------------------------------- */

/* One picture. Keeps what the text of the method keeps: the tokens, the list F of places whose
 * features there are, the pairs of the draft. Trees come from ar_tree_grow over a network of its
 * own; all else is done here. */
typedef struct reference {
    script s;
    const ar_decode_options *o;
    ar_noise noise;
    int32_t token[SCRIPT_TOKENS + AR_MAX_ROWS];
    int n, chain, F[2 * SCRIPT_TOKENS], features;
    int32_t pair[SCRIPT_TOKENS + AR_MAX_ROWS], from[SCRIPT_TOKENS + AR_MAX_ROWS];
    int pairs;
    ar_tree tree;
    ar_tree_work *work;
    ar_dists dists;
    float *logits;
    recorder *log;
} reference;

static int32_t target_draw(reference *r, const int32_t *token, int n)
{
    script_target_logits(&r->s, script_prefix(&r->s, 0, token, n), r->logits);
    ar_dist_make(&r->dists, 0, r->logits, &r->o->sampling);
    return r->dists.d[0].id[ar_draw(&r->dists, 0, &r->o->sampling, r->noise, n)];
}

static void add_pair(reference *r, int32_t token, int feature)
{
    r->pair[r->pairs] = token;
    r->from[r->pairs++] = feature;
}

/* All pairs are fed anew: what counts is which they are. */
static void expand(reference *r)
{
    script_image *m = r->s.image;
    const ar_lm lm = script_lm(&r->s);
    const int depth = r->s.tokens - r->n - 1;
    const ar_root root = { .position = r->n, .token = r->token[r->n], .noise = r->noise,
                           .most_depth = depth, .draft_logits = r->logits };
    if (depth <= 0) {
        r->tree = (ar_tree){ .n = 1, .token = { r->token[r->n] }, .parent = { -1 } };
        return;
    }
    m->is_started = true;
    m->pairs = 0;
    m->n = r->n;
    memcpy(m->token, r->token, sizeof m->token);
    if (script_feed(&r->s, 0, r->pairs, r->pair, r->from, r->logits) != FV_OK ||
        ar_tree_grow(r->work, &lm, &r->o->tree, &r->o->sampling, &root, &r->tree) != FV_OK)
        r->log->broken = "reference: tree";
}

static int length_of(const ar_tree *t, int path)
{
    int n = 0;
    while (n < t->path_length && t->path[path][n] >= 0) n++;
    return n;
}

static bool reference_skips(reference *r, int step, bool last_skip)
{
    const ar_vvs_options *v = &r->o->vvs;
    if (last_skip || r->n <= v->warm_up || r->tree.n < 2) return false;
    if (v->schedule == AR_SKIP_UNIFORM) return step % v->interval == 1;
    return ar_similarity(&r->tree, v) >= v->threshold;
}

static int mean_length(const ar_tree *t)
{
    int total = 0;
    for (int i = 0; i < t->paths; i++) total += length_of(t, i);
    return total / t->paths;
}

static void reference_skip(reference *r, int step)
{
    ar_vvs_options pick = r->o->vvs;
    int gamma, unused;
    pick.no_truncation = true;
    const int path = ar_select_path(&pick, &r->tree, r->noise, step, &unused);
    gamma = length_of(&r->tree, path);
    if (!r->o->vvs.no_truncation && gamma > mean_length(&r->tree)) gamma = mean_length(&r->tree);
    const int usable = r->features - r->o->vvs.stale[1] > 1 ? r->features - r->o->vvs.stale[1] : 1;
    for (int i = 1; i < gamma; i++) {
        int f = usable - (gamma - 1) + (i - 1);
        if (usable < gamma - 1) f = i - 1 < usable ? i - 1 : usable - 1;
        r->token[r->n + i] = r->tree.token[r->tree.path[path][i]];
        add_pair(r, r->token[r->n + i], r->F[f]);
    }
    r->chain = gamma - 1;
    r->n += gamma - 1;
    r->log->log[r->log->n++] = (ar_step_log){ .step = step, .skipped = 1, .gamma = gamma,
                                              .length = r->n, .chain = r->chain };
}

/* Strict: place of the first token of the chain, or of the root, that is not the target's draw. */
static int reference_cut(reference *r, int32_t *own)
{
    for (int i = 1; r->chain > 0 && r->o->vvs.post == AR_POST_STRICT && i <= r->chain; i++) {
        const int at = r->n - r->chain + i;
        *own = target_draw(r, r->token, at);
        if (*own != r->token[at]) return i;
    }
    return 0;
}

static void reference_verify(reference *r, int step)
{
    const int cached = r->n - r->chain, chain = r->chain, before = r->features;
    int32_t own = 0;
    int accepted = 0;
    const int cut = reference_cut(r, &own);
    const bool is_fresh = r->o->vvs.stale[0] < 0;
    if (chain && is_fresh && !r->o->vvs.keep_stale_draft) r->pairs = cached + 1;
    if (cut) {
        accepted = -1;
        r->n = cached + cut;
        r->token[r->n] = own;
        if (r->pairs > r->n) r->pairs = r->n;
    } else if (r->n + 1 < r->s.tokens) {
        int node = 0;
        for (;;) {
            const int32_t x = target_draw(r, r->token, r->n + 1);
            r->token[++r->n] = x;
            int next = -1;
            for (int k = 1; k < r->tree.n; k++)
                if (r->tree.parent[k] == node && r->tree.token[k] == x) next = k;
            if (next < 0) break;
            node = next;
            accepted++;
        }
    }
    for (int i = cached; i < r->n; i++) r->F[r->features++] = i;
    const int missing = r->n + 1 - r->pairs, old = r->pairs;
    for (int i = 0; i < missing; i++) {
        const int usable = before - r->o->vvs.stale[0] > 1 ? before - r->o->vvs.stale[0] : 1;
        int f = old + i - 1;
        if (!is_fresh && before > 0) {
            const int first = usable > missing ? usable - missing : 0;
            f = r->F[first + i < usable ? first + i : usable - 1];
        }
        add_pair(r, r->token[old + i], f);
    }
    r->chain = 0;
    r->log->log[r->log->n++] = (ar_step_log){ .step = step, .accepted = accepted, .length = r->n,
                                              .chain = chain };
}

static void reference_loop(reference *r)
{
    bool last_skip = false;
    r->token[0] = target_draw(r, r->token, 0);
    r->n = 0;
    add_pair(r, r->token[0], -1);
    expand(r);
    for (int step = 0; r->n + 1 < r->s.tokens ||
                       (r->chain && r->o->vvs.post != AR_POST_RESTORE); step++) {
        if (reference_skips(r, step, last_skip)) {
            reference_skip(r, step);
            last_skip = true;
        } else {
            reference_verify(r, step);
            last_skip = r->log->log[r->log->n - 1].accepted < 0;
        }
        expand(r);
    }
}

static bool same_logs(const recorder *a, const recorder *b)
{
    if (a->n != b->n) printf("# %d steps against %d\n", a->n, b->n);
    for (int i = 0; i < a->n && i < b->n; i++) {
        const ar_step_log *x = &a->log[i], *y = &b->log[i];
        if (x->step == y->step && x->skipped == y->skipped && x->gamma == y->gamma &&
            x->accepted == y->accepted && x->length == y->length && x->chain == y->chain)
            continue;
        printf("# step %d: skip %d gamma %d accepted %d length %d chain %d; expected step %d: %d "
               "%d %d %d %d\n", x->step, x->skipped, x->gamma, x->accepted, x->length, x->chain,
               y->step, y->skipped, y->gamma, y->accepted, y->length, y->chain);
        return false;
    }
    return a->n == b->n;
}

static ar_decode_options vvs_setting(int setting, const float *codebook)
{
    ar_decode_options o = options();
    static const int stale[4][2] = { { -1, 0 }, { -1, 3 }, { 0, 0 }, { -1, 0 } };
    o.tree.kind = setting % 2 ? AR_DRAFT_EAGLE2 : AR_DRAFT_GUMBEL;
    o.tree.top_k = 3 + setting % 4;
    o.tree.depth = 2 + setting % 4;
    o.tree.nodes = 12 + setting % 7;
    o.vvs.schedule = setting / 2 % 2 ? AR_SKIP_DYNAMIC : AR_SKIP_UNIFORM;
    o.vvs.interval = 2 + setting / 4 % 3;
    o.vvs.threshold = -0.05f;
    o.vvs.codebook = codebook;
    o.vvs.code_width = 8;
    o.vvs.selector = (ar_selector)(setting % 3);
    o.vvs.no_truncation = setting % 5 == 0;
    o.vvs.post = setting / 8 % 2 ? AR_POST_STRICT : AR_POST_RESTORE;
    o.vvs.keep_stale_draft = setting / 3 % 2;
    memcpy(o.vvs.stale, stale[setting / 16 % 4], sizeof o.vvs.stale);
    return o;
}

/* Spec 8.3 (8): step logs and tokens are those of the reference. */
static void vvs_replays_the_reference_loop(void)
{
    float codebook[64 * 8];
    int skips = 0, cuts = 0;
    test_fill(codebook, 64 * 8, 9);
    for (int setting = 0; setting < 64; setting++) {
        static recorder got, expected;
        int32_t token[SCRIPT_TOKENS];
        ar_counters c = { 0 };
        const ar_decode_options o = vvs_setting(setting, codebook);
        const ar_noise noise = { 77, 0 };
        reference r = { .s = script_create(64, 64, 1), .o = &o, .noise = noise, .log = &expected };
        script s = script_create(64, 64, 1);
        const ar_lm lm = script_lm(&s);
        got = (recorder){ .script = &s, .ctx = ctx, .is_drafting = true };
        expected = (recorder){ 0 };
        s.salt = r.s.salt = (uint64_t)setting;
        r.logits = malloc(64 * sizeof(float));
        OK(ctx, ar_dists_create(ctx, &r.dists, 64, 1));
        OK(ctx, ar_tree_work_create(ctx, &r.work, 64, &o.tree, &o.accept));
        reference_loop(&r);
        OK(ctx, ar_decode(ctx, &lm, &o, 1, &noise, token, &c, &(ar_decode_log){ record, &got }));
        CHECK_MSG(!s.broken && !got.broken && !expected.broken && !r.s.broken, "setting %d: %s %s",
                  setting, s.broken ? s.broken : "", got.broken ? got.broken : "");
        CHECK_MSG(same_logs(&got, &expected), "setting %d", setting);
        CHECK_MSG(memcmp(token, r.token, sizeof(int32_t) * 64) == 0, "setting %d", setting);
        skips += (int)c.skips;
        cuts += (int)c.chain_cuts;
        ar_dists_free(&r.dists);
        ar_tree_work_destroy(&r.work);
        free(r.logits);
        free(r.s.image);
        free(s.image);
    }
    CHECK(skips > 300 && cuts > 30);
}

/* Spec 8.1: TPF of VVS-U follows from the lengths; counters agree with the log. */
static void counters_are_those_of_the_log(void)
{
    static recorder r;
    int64_t skips = 0, verifies = 0, advanced = 0, chain = 0;
    script s = script_create(48, 100, 2);
    ar_decode_options o = options();
    ar_counters c = { 0 };
    o.vvs.schedule = AR_SKIP_UNIFORM;
    o.vvs.interval = 3;
    r = (recorder){ 0 };
    const char *wrong = decode(&s, &o, false, &c, &r);
    CHECK_MSG(!wrong, "%s", wrong);
    for (int i = 0; i < r.n; i++) {
        skips += r.log[i].skipped;
        verifies += !r.log[i].skipped;
        advanced += r.log[i].skipped ? r.log[i].gamma - 1 : r.log[i].accepted + 1;
        chain += r.log[i].skipped ? r.log[i].chain : 0;
    }
    CHECK(c.skips == skips && c.verifies == verifies && c.advanced == advanced);
    CHECK(c.chain_tokens == chain && skips > 0 && c.substitutions == 0 && c.chain_cuts == 0);
    int64_t accepted = 0, steps = 0, hits = 0;
    for (int i = 0; i < AR_MAX_NODES; i++) accepted += i * c.accepted[i];
    for (int i = 0; i < AR_MAX_NODES; i++) steps += c.accepted[i];
    for (int i = 0; i < AR_MAX_DEPTH * AR_MAX_RANK; i++) hits += (&c.hit[0][0])[i];
    CHECK(steps == verifies && hits == accepted && advanced == accepted + steps + chain);
    CHECK(c.target_rows > c.verifies + chain && c.draft_passes > verifies);
    free(s.image);
}

/* Pictures of a batch are those of pictures alone, also where tokens may differ from plain ones. */
static void batches_do_not_mix_pictures(void)
{
    float codebook[64 * 8];
    test_fill(codebook, 64 * 8, 9);
    for (int setting = 0; setting < 16; setting++) {
        const ar_decode_options o = vvs_setting(setting, codebook);
        int32_t all[4 * 50], one[50];
        ar_counters c = { 0 };
        ar_noise noise[4];
        script s = script_create(64, 50, 4);
        const ar_lm lm = script_lm(&s);
        s.is_same = true;
        for (int i = 0; i < 4; i++) noise[i] = (ar_noise){ 5, (uint32_t)i };
        OK(ctx, ar_decode(ctx, &lm, &o, 4, noise, all, &c, NULL));
        for (int i = 0; i < 4; i++) {
            OK(ctx, ar_decode(ctx, &lm, &o, 1, &noise[i], one, &c, NULL));
            CHECK_MSG(memcmp(one, all + i * 50, sizeof one) == 0, "setting %d image %d", setting,
                      i);
        }
        CHECK(!s.broken);
        free(s.image);
    }
}

/* Relaxed post verification keeps at least what the strict one keeps, and cuts less. */
static void relaxed_post_verification_cuts_less(void)
{
    float codebook[48 * 8];
    ar_neighbours *near = NULL;
    int64_t cuts[2];
    test_fill(codebook, 48 * 8, 3);
    OK(ctx, ar_neighbours_create(ctx, &near, codebook, 48, 8, 20, false));
    for (int relaxed = 0; relaxed < 2; relaxed++) {
        script s = script_create(48, 100, 3);
        ar_decode_options o = options();
        ar_counters c = { 0 };
        o.vvs.schedule = AR_SKIP_UNIFORM;
        o.vvs.interval = 2;
        o.vvs.post = relaxed ? AR_POST_RELAXED : AR_POST_STRICT;
        o.accept = (ar_accept_options){ .rule = AR_RULE_LANTERN, .delta = 0.5f, .near = near };
        const char *wrong = decode(&s, &o, false, &c, NULL);
        CHECK_MSG(!wrong, "%s", wrong);
        cuts[relaxed] = c.chain_cuts;
        CHECK(c.substitutions > 0 && c.skips > 10);
        free(s.image);
    }
    CHECK_MSG(cuts[1] < cuts[0], "%lld relaxed, %lld strict", (long long)cuts[1],
              (long long)cuts[0]);
    ar_neighbours_free(ctx, &near);
}

/* ---- VVS: parts ------------------------------------------------------------------------------ */

/* Tree with paths 0-1-3-5, 0-1-4, 0-2. */
static ar_tree small_tree(void)
{
    ar_tree t = { .n = 6, .token = { 9, 0, 1, 2, 3, 1 }, .parent = { -1, 0, 0, 1, 1, 3 },
                  .depth = { 0, 1, 1, 2, 2, 3 }, .rank = { 0, 0, 1, 0, 1, 0 },
                  .score = { 0.0f, -1.0f, -2.5f, -3.0f, -2.0f, -4.0f } };
    ar_tree_paths(&t);
    return t;
}

/* Spec 8.3 (7): padded tables, as the released code computes it. */
static double padded_similarity(const ar_tree *t, const ar_vvs_options *o)
{
    static double cell[AR_MAX_NODES][AR_MAX_DEPTH][16];
    static bool is_there[AR_MAX_NODES][AR_MAX_DEPTH];
    int rows = 0, longest = 0;
    double sum = 0.0, weights = 0.0;
    memset(is_there, 0, sizeof is_there);
    for (int p = 0; p < t->paths; p += o->stride, rows++) {
        for (int l = 1; l < length_of(t, p); l++) {
            const float *code = o->codebook + t->token[t->path[p][l]] * o->code_width;
            double norm = 0.0;
            for (int k = 0; k < o->code_width; k++) norm += (double)code[k] * code[k];
            for (int k = 0; k < o->code_width; k++) cell[rows][l - 1][k] = code[k] / sqrt(norm);
            is_there[rows][l - 1] = true;
            if (l > longest) longest = l;
        }
    }
    for (int l = 0; l < longest; l++) weights += pow(o->decay, l);
    int pairs = 0;
    for (int a = 0; a < rows; a++) {
        for (int b = a + 1; b < rows; b++, pairs++) {
            for (int l = 0; l < longest; l++) {
                double dot = 0.0;
                for (int k = 0; k < o->code_width; k++) dot += cell[a][l][k] * cell[b][l][k];
                if (is_there[a][l] && is_there[b][l]) sum += pow(o->decay, l) / weights * dot;
            }
        }
    }
    return pairs ? sum / pairs : 0.0;
}

static void similarity_is_that_of_padded_tables(void)
{
    float codebook[64 * 8];
    test_fill(codebook, 64 * 8, 21);
    script s = script_create(64, 64, 1);
    const ar_lm lm = script_lm(&s);
    float logits[64];
    for (int i = 0; i < 60; i++) {
        ar_decode_options o = vvs_setting(i, codebook);
        ar_tree t;
        ar_tree_work *work = NULL;
        o.vvs.stride = 1 + i % 3;
        o.vvs.decay = 0.5f + 0.1f * (float)(i % 6);
        OK(ctx, ar_tree_work_create(ctx, &work, 64, &o.tree, &o.accept));
        OK(ctx, lm.prefill(lm.self, 0, logits));
        OK(ctx, lm.draft_feed(lm.self, 0, 1, &(int32_t){ i }, &(int32_t){ -1 }, logits));
        const ar_root root = { .token = i, .most_depth = 9, .noise = { (uint64_t)i, 0 },
                               .draft_logits = logits };
        OK(ctx, ar_tree_grow(work, &lm, &o.tree, &o.sampling, &root, &t));
        NEAR(ar_similarity(&t, &o.vvs), padded_similarity(&t, &o.vvs), 1e-6);
        ar_tree_work_destroy(&work);
    }
    free(s.image);
}

/* Codes along axes: cosines are 0, 1 or -1, weights 1, 1/2, 1/4 over 7/4. */
static void similarity_by_hand(void)
{
    const float codebook[] = { 2, 0, 0, 3, -1, 0, 0, 1 };
    ar_vvs_options v = { .schedule = AR_SKIP_DYNAMIC, .decay = 0.5f, .stride = 1,
                         .codebook = codebook, .code_width = 2 };
    ar_tree t = small_tree();
    CHECK(t.paths == 3);
    /* (0-1-3-5, 0-1-4): 4/7 + cos(code 2, code 3) 2/7 = 4/7; code 0 against code 1: 0. */
    NEAR(ar_similarity(&t, &v), (4.0 / 7.0 + 0.0 + 0.0) / 3.0, 1e-7);
    v.stride = 2; /* paths 0-1-3-5 and 0-2 */
    NEAR(ar_similarity(&t, &v), 0.0, 1e-7);
    t.token[2] = 2; /* against code 0: -1 */
    NEAR(ar_similarity(&t, &v), -4.0 / 7.0, 1e-7);
    v.stride = 3;
    CHECK(ar_similarity(&t, &v) == 0.0);
}

static void schedulers_keep_their_phases(void)
{
    const float codebook[20] = { 1, 0, 1, 0, 1, 0, 1, 0 };
    const ar_tree t = small_tree();
    ar_tree root = t;
    ar_vvs_options v = { .schedule = AR_SKIP_UNIFORM, .interval = 3, .warm_up = 5, .stride = 1,
                         .decay = 0.9f, .codebook = codebook, .code_width = 2 };
    root.n = 1;
    for (int step = 0; step < 12; step++) {
        CHECK(ar_skips(&v, step, 6, &t, false) == (step % 3 == 1));
        CHECK(!ar_skips(&v, step, 5, &t, false) && !ar_skips(&v, step, 6, &t, true));
        CHECK(!ar_skips(&v, step, 6, &root, false));
    }
    v.schedule = AR_SKIP_DYNAMIC;
    v.threshold = (float)ar_similarity(&t, &v) - 0.01f;
    CHECK(ar_skips(&v, 0, 6, &t, false) && !ar_skips(&v, 0, 6, &t, true));
    CHECK(!ar_skips(&v, 0, 5, &t, false));
    v.threshold += 0.02f;
    CHECK(!ar_skips(&v, 0, 6, &t, false));
    v.schedule = AR_SKIP_NEVER;
    CHECK(!ar_skips(&v, 1, 100, &t, false));
}

/* Lengths 4, 3, 2 with the root: the mean is 3. */
static void selectors_choose_paths(void)
{
    const ar_tree t = small_tree();
    ar_vvs_options v = { .selector = AR_SELECT_RANDOM };
    int seen[3] = { 0 }, gamma;
    for (int step = 0; step < 3000; step++) {
        const int path = ar_select_path(&v, &t, (ar_noise){ 1, 2 }, step, &gamma);
        CHECK(path >= 0 && path < 3);
        CHECK(gamma == (length_of(&t, path) < 3 ? length_of(&t, path) : 3));
        seen[path]++;
    }
    for (int i = 0; i < 3; i++) CHECK_MSG(abs(seen[i] - 1000) < 130, "%d of 3000", seen[i]);
    v.selector = AR_SELECT_CONFIDENCE; /* leaf 4 has -2 */
    int path = ar_select_path(&v, &t, (ar_noise){ 1, 2 }, 0, &gamma);
    CHECK(t.path[path][2] == 4 && gamma == 3);
    v.selector = AR_SELECT_COUPLED;
    path = ar_select_path(&v, &t, (ar_noise){ 1, 2 }, 0, &gamma);
    CHECK(t.path[path][3] == 5 && gamma == 3);
    v.no_truncation = true;
    ar_select_path(&v, &t, (ar_noise){ 1, 2 }, 0, &gamma);
    CHECK(gamma == 4);
}

static void stand_ins_are_the_last_features(void)
{
    static const int last[3] = { 7, 8, 9 }, older[3] = { 4, 5, 6 }, few[4] = { 0, 1, 1, 1 };
    for (int i = 0; i < 3; i++) CHECK(ar_stale_feature(0, 10, 3, i) == last[i]);
    for (int i = 0; i < 3; i++) CHECK(ar_stale_feature(3, 10, 3, i) == older[i]);
    for (int i = 0; i < 4; i++) CHECK(ar_stale_feature(0, 2, 4, i) == few[i]);
    for (int i = 0; i < 4; i++) CHECK(ar_stale_feature(50, 2, 4, i) == 0);
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
    for (int i = 0; i <= 38; i++) {
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
        const fv_allocator al = alloc_fail_allocator(&heap);
        fv_ctx_options co = FV_CTX_OPTIONS_INIT;
        fv_ctx *own = NULL;
        co.alloc = &al;
        CHECK(fv_ctx_create(&own, &co) == FV_OK);
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
    RUN(vvs_replays_the_reference_loop);
    RUN(counters_are_those_of_the_log);
    RUN(batches_do_not_mix_pictures);
    RUN(relaxed_post_verification_cuts_less);
    RUN(similarity_is_that_of_padded_tables);
    RUN(similarity_by_hand);
    RUN(schedulers_keep_their_phases);
    RUN(selectors_choose_paths);
    RUN(stand_ins_are_the_last_features);
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
