/* test_ar_vvs.c - verification that skips (VVS): against the loop of the paper told once more
 * (reference_loop), and its parts: similarity, schedulers, selectors, stand-ins. */
#include <inttypes.h>

#include "ar_decoding.h"

/* ---- The loop of the paper, told once more --------------------------------------------------- */

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

/* One setting of parity/vvs_loop.txt: options and network; false at the end of the file. */
static bool read_setting(FILE *f, ar_decode_options *o, script *s, ar_noise *noise, int *steps)
{
    int interval, selector, truncates, strict, keeps, depth, top_k, nodes, salt, stale[2];
    float threshold;
    if (fscanf(f, " setting %d %f %d %d %d %d %d %d %d %d %d %d %" SCNu64 " %d", &interval,
               &threshold, &selector, &truncates, &strict, &keeps, &depth, &top_k, &nodes, &salt,
               &stale[0], &stale[1], &noise->seed, steps) != 14)
        return false;
    o->sampling.temperature = 0;
    o->tree = (ar_tree_options){ .kind = AR_DRAFT_EAGLE2, .depth = depth, .top_k = top_k,
                                 .nodes = nodes };
    o->vvs.schedule = interval ? AR_SKIP_UNIFORM : AR_SKIP_DYNAMIC;
    o->vvs.interval = interval;
    o->vvs.threshold = threshold;
    o->vvs.selector = (ar_selector)selector;
    o->vvs.no_truncation = !truncates;
    o->vvs.post = strict ? AR_POST_STRICT : AR_POST_RESTORE;
    o->vvs.keep_stale_draft = keeps;
    memcpy(o->vvs.stale, stale, sizeof stale);
    s->salt = (uint64_t)salt;
    return true;
}

/* The log of a setting and its tokens are those of the file. */
static bool same_as_file(FILE *f, const recorder *got, const int32_t *token, int steps)
{
    static recorder r;
    r = (recorder){ 0 };
    for (int i = 0; i < steps; i++) {
        ar_step_log *l = &r.log[r.n++];
        l->step = i;
        if (fscanf(f, "%d %d %d %d %d", &l->skipped, &l->gamma, &l->accepted, &l->length,
                   &l->chain) != 5)
            return false;
    }
    bool same = same_logs(got, &r);
    for (int i = 0; i < 64; i++) {
        int want;
        if (fscanf(f, "%d", &want) != 1) return false;
        same &= token[i] == want;
    }
    return same;
}

/* Spec 8.3 (8), against parity/vvs_loop.py, which was written without this code. */
static void vvs_gives_the_logs_of_the_python_loop(void)
{
    float codebook[64 * 8];
    FILE *f = fopen(FV_TEST_DIR "/parity/vvs_loop.txt", "r");
    int settings = 0, with_selector[3] = { 0 }, stale_skips = 0, stale_verifies = 0;
    CHECK(f);
    for (int i = 0; i < 64 * 8; i++) codebook[i] = script_number(4711, i);
    while (f) {
        static recorder got;
        int32_t token[SCRIPT_TOKENS];
        ar_counters c = { 0 };
        ar_decode_options o = options();
        ar_noise noise = { 0, 0 };
        script s = script_create(64, 64, 1);
        const ar_lm lm = script_lm(&s);
        int steps = 0;
        s.is_same = true;
        o.vvs.codebook = codebook;
        o.vvs.code_width = 8;
        const bool more = read_setting(f, &o, &s, &noise, &steps);
        if (more) {
            settings++;
            with_selector[o.vvs.selector]++;
            stale_verifies += o.vvs.stale[0] >= 0;
            stale_skips += o.vvs.stale[1] > 0;
            got = (recorder){ .script = &s, .ctx = ctx, .is_drafting = true };
            OK(ctx, ar_decode(ctx, &lm, &o, 1, &noise, token, &c,
                              &(ar_decode_log){ record, &got }));
            CHECK_MSG(!s.broken && !got.broken, "setting %d", settings);
            CHECK_MSG(same_as_file(f, &got, token, steps), "setting %d", settings);
        }
        free(s.image);
        if (!more) break;
    }
    CHECK_MSG(settings == 33 && feof(f), "%d settings", settings);
    for (int i = 0; i < 3; i++) CHECK(with_selector[i] >= 7);
    CHECK(stale_verifies >= 12 && stale_skips >= 12);
    if (f) fclose(f);
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

/* ---- Parts ----------------------------------------------------------------------------------- */

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

int main(void)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(vvs_replays_the_reference_loop);
    RUN(vvs_gives_the_logs_of_the_python_loop);
    RUN(counters_are_those_of_the_log);
    RUN(batches_do_not_mix_pictures);
    RUN(relaxed_post_verification_cuts_less);
    RUN(similarity_is_that_of_padded_tables);
    RUN(similarity_by_hand);
    RUN(schedulers_keep_their_phases);
    RUN(selectors_choose_paths);
    RUN(stand_ins_are_the_last_features);
    fv_ctx_destroy(&ctx);
    return test_end();
}
