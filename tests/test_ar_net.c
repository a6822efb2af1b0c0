/* test_ar_net.c - decoding step by step against the same network as tape code, and the contract
 * that speculative decoding stands on: rows of a tree have the bits of plain decoding, caches after
 * a commit are those of plain decoding, whatever shares the pass. */
#include "ar_net.h"
#include "test.h"

/* ---- Small networks -------------------------------------------------------------------------- */

static fv_ctx *context(int threads, uint32_t disable)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_ctx *ctx = NULL;
    o.threads = threads;
    o.cpu_disable = disable;
    if (fv_ctx_create(&ctx, &o) != FV_OK) exit(1);
    return ctx;
}

static gpt_config small(bool is_caption)
{
    gpt_config c = { .layers = 3, .heads = 2, .width = 40, .ffn = 72, .vocab = 50, .grid = 5,
                     .classes = 4, .cond_tokens = 1, .norm_eps = 1e-5f, .rope_theta = 10000,
                     .has_draft = 1, .draft_eps = 1e-6f };
    if (is_caption) {
        c.classes = 0;
        c.cond_tokens = 7;
        c.caption_width = 24;
    }
    return c;
}

typedef struct model {
    fv_ctx *ctx;
    gpt_net gpt;
    draft_net draft;
    ar_weights *w;
    float *caption; /* [5][caption_width] */
} model;

static void fill_params(fv_params *p, uint64_t seed)
{
    if (fv_params_alloc(p) != FV_OK) exit(1);
    for (int i = 0; i < fv_params_count(p); i++) {
        fv_params_init_normal(p, i, seed, 0.18f);
        if (strstr(fv_params_name(p, i), "norm")) fv_params_fill(p, i, 1.1f);
    }
}

static model model_of(fv_ctx *ctx, gpt_config c, fv_dtype type)
{
    model m = { .ctx = ctx };
    if (gpt_net_create(ctx, &m.gpt, &c) != FV_OK) exit(1);
    if (draft_net_create(ctx, &m.draft, &c, true) != FV_OK) exit(1);
    fill_params(m.gpt.params, 1);
    fill_params(m.draft.params, 2);
    const fv_tensor from = fv_params_tensor(m.gpt.params, m.gpt.head);
    memcpy(fv_params_tensor(m.draft.params, m.draft.head).data, from.data,
           (size_t)fv_tensor_count(&from) * sizeof(float));
    if (ar_weights_create(ctx, &m.w, &m.gpt, &m.draft, type) != FV_OK) {
        printf("# %s\n", fv_ctx_error(ctx));
        exit(1);
    }
    m.caption = calloc(5 * 64, sizeof(float));
    if (!m.caption) exit(1);
    test_fill(m.caption, 5 * 64, 9);
    return m;
}

static void model_free(model *m)
{
    ar_weights_destroy(&m->w);
    gpt_net_destroy(m->ctx, &m->gpt);
    draft_net_destroy(&m->draft);
    free(m->caption);
}

static ar_net *net_of(const model *m, ar_net_options o)
{
    ar_net *n;
    if (!o.images) o.images = 1;
    if (!o.cfg) o.cfg = 2.5f;
    if (!o.cfg_interval) o.cfg_interval = -1;
    if (ar_net_create(m->ctx, &n, m->w, &o) != FV_OK) {
        printf("# %s\n", fv_ctx_error(m->ctx));
        exit(1);
    }
    for (int i = 0; i < o.images; i++) {
        if (m->gpt.cfg.classes) ar_net_set_class(n, i, (i + 2) % m->gpt.cfg.classes);
        else if (ar_net_set_caption(n, i, m->caption, 5 - i % 3) != FV_OK) exit(1);
    }
    return n;
}

static float *rows_of(int rows, int width)
{
    float *p = calloc((size_t)rows * (size_t)width, sizeof *p);
    if (!p) exit(1);
    return p;
}

static int32_t token_at(int i, int position) { return (int32_t)((7 * position + 11 * i + 3) % 50); }

/* ---- The tape's answer ----------------------------------------------------------------------- */

static void plan_run(fv_ctx *ctx, fv_tape *t, const char *const *name, void *const *data, int n)
{
    fv_plan *p;
    if (fv_tape_status(t) != FV_OK || fv_plan_build(ctx, &p, t, NULL) != FV_OK) {
        printf("# %s\n", fv_ctx_error(ctx));
        exit(1);
    }
    for (int i = 0; i < n; i++)
        if (fv_plan_bind(p, name[i], data[i]) != FV_OK) exit(1);
    if (fv_plan_forward(p) != FV_OK) exit(1);
    fv_plan_destroy(&p);
}

/* Features [cond + m, d] and logits [cond + m, V] of one branch of image i with m tokens. */
static void tape_target(const model *q, int i, int branch, int m, float *feature, float *logits)
{
    const gpt_config *c = &q->gpt.cfg;
    const int cond = c->classes ? 1 : 5 - i % 3, T = cond + m;
    const int64_t one = 1, count = m, hd = gpt_head(c);
    const int64_t rope_dim[3] = { T, 2, hd / 2 }, cap_dim[3] = { 1, cond, c->caption_width };
    float *rope = rows_of(cond + gpt_tokens(c), (int)hd);
    int32_t label = branch ? c->classes : (i + 2) % (c->classes ? c->classes : 1), tokens[64];
    float *caption = q->caption;
    if (branch && !c->classes) {
        const fv_tensor null = fv_params_tensor(q->gpt.params, q->gpt.null_caption);
        caption = (float *)null.data + (size_t)(c->cond_tokens - cond) * (size_t)c->caption_width;
    }
    for (int p = 0; p < m; p++) tokens[p] = token_at(i, p);
    gpt_rope(c, cond, rope);
    fv_tape *t;
    if (fv_tape_create(q->ctx, &t, q->gpt.params, FV_INFER, FV_F32) != FV_OK) exit(1);
    const fv_t in = c->classes ? gpt_classes(t, &q->gpt, fv_input(t, "cond", FV_I32, 1, &one))
                               : gpt_captions(t, &q->gpt, fv_input(t, "cond", FV_F32, 3, cap_dim));
    const fv_t tok = m ? fv_input(t, "tokens", FV_I32, 1, &count) : 0;
    const fv_t f = gpt_features(t, &q->gpt, in, tok, fv_input(t, "rope", FV_F32, 3, rope_dim));
    fv_output(t, "feature", f);
    fv_output(t, "logits", gpt_logits(t, &q->gpt, f));
    void *const data[] = { rope, c->classes ? (void *)&label : caption, feature, logits, tokens };
    static const char *const name[] = { "rope", "cond", "feature", "logits", "tokens" };
    plan_run(q->ctx, t, name, data, m ? 5 : 4);
    fv_tape_destroy(&t);
    free(rope);
}

/* Logits of what follows positions -1 .. m - 1 with guidance: [m + 1][V]. */
static float *tape_logits(const model *q, int i, int m, float cfg, int interval)
{
    const int cond = q->gpt.cfg.classes ? 1 : 5 - i % 3, V = q->gpt.cfg.vocab;
    float *f = rows_of(cond + m, q->gpt.cfg.width), *l[2], *out = rows_of(m + 1, V);
    for (int b = 0; b < 2; b++) {
        l[b] = rows_of(cond + m, V);
        tape_target(q, i, b, m, f, l[b]);
    }
    for (int p = -1; p < m; p++)
        for (int v = 0; v < V; v++) {
            const size_t at = (size_t)(cond + p) * (size_t)V + (size_t)v;
            const bool guided = cfg > 1 && (interval < 0 || p <= interval);
            out[(size_t)(p + 1) * (size_t)V + (size_t)v] =
                guided ? l[1][at] + cfg * (l[0][at] - l[1][at]) : l[0][at];
        }
    free(f);
    free(l[0]);
    free(l[1]);
    return out;
}

/* ---- Plain decoding -------------------------------------------------------------------------- */

/* Positions from `from` on, one row a pass, committed; logits to rows from + 1 on. */
static fv_status decode(ar_lm lm, int i, int from, int m, float *logits)
{
    for (int p = from; p < m; p++) {
        const int32_t token = token_at(i, p), parent = -1, row = 0;
        const ar_rows r = { i, 1, &token, &parent,
                            logits + (size_t)(p + 1) * (size_t)lm.vocab, 0 };
        FV_TRY(lm.target(lm.self, 1, &r));
        lm.commit(lm.self, i, &row, 1);
    }
    return FV_OK;
}

static float *plain_logits(ar_lm lm, int i, int m)
{
    float *l = rows_of(m + 1, lm.vocab);
    if (lm.prefill(lm.self, i, l) != FV_OK || decode(lm, i, 0, m, l) != FV_OK) exit(1);
    return l;
}

static void check_plain(bool is_caption, fv_dtype type, fv_dtype kv, double tolerance)
{
    fv_ctx *ctx = context(2, 0);
    model m = model_of(ctx, small(is_caption), type);
    for (int k = 0; k < 3; k++) {
        const float cfg = k == 1 ? 1 : 2.5f;
        const int interval = k == 2 ? 4 : -1, tokens = 11;
        ar_net *n = net_of(&m, (ar_net_options){ .kv = kv, .cfg = cfg, .cfg_interval = interval });
        float *got = plain_logits(ar_net_lm(n), 0, tokens);
        float *want = tape_logits(&m, 0, tokens, cfg, interval);
        const double e = test_rel_l2(got, want, (tokens + 1) * 50);
        free(got);
        free(want);
        ar_net_destroy(&n);
        CHECK_MSG(e < tolerance, "case %d: %g", k, e);
    }
    model_free(&m);
    fv_ctx_destroy(&ctx);
}
static void classes_match_the_tape(void) { check_plain(false, FV_F32, FV_F32, 3e-6); }
static void captions_match_the_tape(void) { check_plain(true, FV_F32, FV_F32, 3e-6); }
/* Guidance of 2.5 makes rounding errors 4 times larger against logits that it shrinks. */
static void bf16_weights_are_near_the_tape(void) { check_plain(true, FV_BF16, FV_F32, 5e-2); }
static void int8_weights_are_near_the_tape(void) { check_plain(false, FV_I8, FV_F32, 8e-2); }
static void bf16_caches_are_near_the_tape(void) { check_plain(false, FV_F32, FV_BF16, 2e-2); }
static void int8_caches_are_near_the_tape(void) { check_plain(true, FV_F32, FV_I8, 4e-2); }

/* ---- Trees ----------------------------------------------------------------------------------- */

/* The path of token_at tokens, and other children around it. Row k of the path is path[k]. */
enum { TREE = 9, PATH = 4 };
static const int32_t tree_parent[TREE] = { -1, 0, 0, 1, 2, 2, 4, 5, 6 };
static const int32_t tree_path[PATH] = { 0, 2, 4, 6 };
static void tree_tokens(int i, int position, int32_t token[TREE])
{
    for (int k = 0; k < TREE; k++) token[k] = (int32_t)((k * 13 + 1) % 50);
    for (int k = 0; k < PATH; k++) token[tree_path[k]] = token_at(i, position + k);
}

/* A tree at `at`, committed along its path, and on to m: the logits of the path and behind. */
static float *tree_logits(ar_lm lm, int i, int at, int m)
{
    float *l = rows_of(m + 1, lm.vocab), *rows = rows_of(TREE, lm.vocab);
    const size_t V = (size_t)lm.vocab;
    int32_t token[TREE];
    tree_tokens(i, at, token);
    const ar_rows r = { i, TREE, token, tree_parent, rows, 0 };
    if (lm.prefill(lm.self, i, l) != FV_OK || decode(lm, i, 0, at, l) != FV_OK ||
        lm.target(lm.self, 1, &r) != FV_OK)
        exit(1);
    lm.commit(lm.self, i, tree_path, PATH);
    for (int k = 0; k < PATH; k++)
        memcpy(l + (size_t)(at + k + 1) * V, rows + (size_t)tree_path[k] * V, V * sizeof *l);
    if (decode(lm, i, at + PATH, m, l) != FV_OK) exit(1);
    free(rows);
    return l;
}

/* Bytes of committed keys, values and features that differ. */
static int cache_differences(const ar_net *a, const ar_net *b, const gpt_config *c, int tokens)
{
    int bad = 0;
    const size_t hd = (size_t)gpt_head(c), width = (size_t)c->width;
    for (int branch = 0; branch < 2; branch++) {
        for (int p = -1; p < tokens; p++)
            bad += memcmp(ar_net_feature(a, 0, branch, p), ar_net_feature(b, 0, branch, p),
                          width * sizeof(float)) != 0;
        for (int l = 0; l < c->layers; l++)
            for (int h = 0; h < c->heads; h++) {
                const fvi_dec_cache x = ar_net_cache(a, 0, branch, l, h),
                                    y = ar_net_cache(b, 0, branch, l, h);
                const size_t rows = (size_t)(x.condition + tokens) * fvi_dec_pad(x.hd);
                bad += memcmp(x.v, y.v, rows * fv_dtype_size(x.type)) != 0;
                for (size_t i = 0; i < hd * (size_t)tokens && x.type == FV_F32; i++) {
                    const size_t p = i / hd, e = i % hd;
                    const size_t at = (p / 16 * hd + e) * 16 + p % 16;
                    bad += ((float *)x.k)[at] != ((float *)y.k)[at];
                }
            }
    }
    return bad;
}

static void trees_have_the_bits_of_plain_decoding(void)
{
    static const fv_dtype types[3] = { FV_F32, FV_BF16, FV_I8 };
    for (int k = 0; k < 9; k++) {
        fv_ctx *ctx = context(2, 0);
        model m = model_of(ctx, small(k & 1), types[k % 3]);
        const ar_net_options o = { .kv = types[k / 3] };
        ar_net *a = net_of(&m, o), *b = net_of(&m, o);
        float *plain = plain_logits(ar_net_lm(a), 0, 20);
        int bad = 0, moved = 0;
        for (int at = 0; at < 14; at += 5) {
            float *tree = tree_logits(ar_net_lm(b), 0, at, 20);
            bad += memcmp(plain, tree, 21 * 50 * sizeof *tree) != 0;
            moved += cache_differences(a, b, &m.gpt.cfg, 20);
            free(tree);
        }
        free(plain);
        ar_net_destroy(&a);
        ar_net_destroy(&b);
        model_free(&m);
        fv_ctx_destroy(&ctx);
        CHECK_MSG(bad == 0 && moved == 0, "weights %s, caches %s: %d of logits, %d of caches",
                  fv_dtype_name(types[k % 3]), fv_dtype_name(types[k / 3]), bad, moved);
    }
}

/* 9 pictures at different positions in one pass, more rows than a pass takes at once. */
static void pictures_in_a_pass_do_not_see_each_other(void)
{
    enum { IMAGES = 9, ROWS = 40, M = 12 };
    fv_ctx *ctx = context(3, 0);
    model m = model_of(ctx, small(true), FV_F32);
    ar_net *n = net_of(&m, (ar_net_options){ .images = IMAGES, .rows = ROWS });
    ar_net *one = net_of(&m, (ar_net_options){ .images = IMAGES, .rows = 9 });
    ar_lm lm = ar_net_lm(n);
    int32_t token[IMAGES][ROWS], parent[ROWS];
    ar_rows rows[IMAGES];
    float *l = rows_of(IMAGES * ROWS, 50), *first = rows_of(M + 1, 50);
    int bad = 0;
    for (int k = 0; k < ROWS; k++) parent[k] = k < 8 ? k - 1 : 3 + k % 5; /* chain, then bushes */
    for (int i = 0; i < IMAGES; i++) {
        if (lm.prefill(lm.self, i, first) != FV_OK || decode(lm, i, 0, i, first) != FV_OK) exit(1);
        for (int k = 0; k < ROWS; k++) token[i][k] = k < 8 ? token_at(i, i + k) : k;
        rows[i] = (ar_rows){ i, ROWS, token[i], parent, l + (size_t)i * ROWS * 50, 0 };
    }
    const fv_status s = lm.target(lm.self, IMAGES, rows);
    for (int i = 0; i < IMAGES && s == FV_OK; i++) {
        float *plain = plain_logits(ar_net_lm(one), i, i + 8);
        bad += memcmp(plain + (size_t)(i + 1) * 50, rows[i].logits, 8 * 50 * sizeof *l) != 0;
        free(plain);
    }
    free(l);
    free(first);
    ar_net_destroy(&n);
    ar_net_destroy(&one);
    model_free(&m);
    CHECK(s == FV_OK && bad == 0);
    fv_ctx_destroy(&ctx);
}

/* The head leaves out rows that nobody asks for: the others have the same bits, so have caches. */
static void silent_rows_change_nothing_else(void)
{
    fv_ctx *ctx = context(2, 0);
    model m = model_of(ctx, small(false), FV_I8);
    ar_net *a = net_of(&m, (ar_net_options){ 0 }), *b = net_of(&m, (ar_net_options){ 0 });
    ar_lm x = ar_net_lm(a), y = ar_net_lm(b);
    int bad = 0;
    for (int silent = 0; silent <= TREE; silent++) {
        float *full = tree_logits(x, 0, 3, 3 + PATH), *some = rows_of(TREE, 50);
        float *start = plain_logits(y, 0, 3);
        int32_t token[TREE];
        tree_tokens(0, 3, token);
        const ar_rows r = { 0, TREE, token, tree_parent, some, silent };
        if (y.target(y.self, 1, &r) != FV_OK) exit(1);
        y.commit(y.self, 0, tree_path, PATH);
        bad += cache_differences(a, b, &m.gpt.cfg, 3 + PATH);
        for (int k = 0; k < PATH; k++) {
            const float *row = some + tree_path[k] * 50, *want = full + (4 + k) * 50;
            if (tree_path[k] >= silent) bad += memcmp(row, want, 50 * sizeof *row) != 0;
            else for (int v = 0; v < 50; v++) bad += row[v] != 0;
        }
        free(full);
        free(some);
        free(start);
    }
    ar_net_destroy(&a);
    ar_net_destroy(&b);
    model_free(&m);
    fv_ctx_destroy(&ctx);
    CHECK(bad == 0);
}

static void rewinding_forgets(void)
{
    fv_ctx *ctx = context(1, 0);
    model m = model_of(ctx, small(false), FV_F32);
    ar_net *a = net_of(&m, (ar_net_options){ 0 }), *b = net_of(&m, (ar_net_options){ 0 });
    ar_lm lm = ar_net_lm(b);
    float *plain = plain_logits(ar_net_lm(a), 0, 15), *again = plain_logits(lm, 0, 12);
    lm.rewind(lm.self, 0, 7);
    float *l = rows_of(16, 50);
    const fv_status s = decode(lm, 0, 5, 15, l);
    const int bad = memcmp(plain + 6 * 50, l + 6 * 50, 10 * 50 * sizeof *l) != 0;
    free(plain);
    free(again);
    free(l);
    ar_net_destroy(&a);
    ar_net_destroy(&b);
    model_free(&m);
    fv_ctx_destroy(&ctx);
    CHECK(s == FV_OK && bad == 0);
}

/* Two lines of five and the first: trees agree with plain decoding, and it makes a difference; with
 * as many lines as there are it makes none. */
static void kept_lines_depend_on_the_position_alone(void)
{
    enum { M = 24 };
    fv_ctx *ctx = context(2, 0);
    model m = model_of(ctx, small(false), FV_F32);
    const ar_net_options few = { .keep_lines = 2, .rows = 16 }, many = { .keep_lines = 4 };
    ar_net *all = net_of(&m, (ar_net_options){ 0 }), *a = net_of(&m, few), *b = net_of(&m, few),
           *c = net_of(&m, many);
    float *full = plain_logits(ar_net_lm(all), 0, M), *plain = plain_logits(ar_net_lm(a), 0, M);
    float *same = plain_logits(ar_net_lm(c), 0, M);
    const bool differs = memcmp(full, plain, (M + 1) * 50 * sizeof *full) != 0;
    const bool equal = !memcmp(full, plain, 16 * 50 * sizeof *full) &&
                       !memcmp(full, same, (M + 1) * 50 * sizeof *full);
    int bad = 0;
    for (int at = 0; at <= M - PATH; at += 3) {
        float *tree = tree_logits(ar_net_lm(b), 0, at, M);
        bad += memcmp(plain, tree, (M + 1) * 50 * sizeof *tree) != 0;
        free(tree);
    }
    free(full);
    free(plain);
    free(same);
    ar_net_destroy(&all);
    ar_net_destroy(&a);
    ar_net_destroy(&b);
    ar_net_destroy(&c);
    model_free(&m);
    fv_ctx_destroy(&ctx);
    CHECK(differs && equal);
    CHECK(bad == 0);
}

/* ---- Draft ----------------------------------------------------------------------------------- */

/* Pairs of image 0: prefix, then (token p, feature p - 1) for p < m. Logits [m][V] by the tape. */
static float *tape_draft(const model *q, int m, float cfg)
{
    const gpt_config *c = &q->gpt.cfg;
    const int cond = c->classes ? 1 : 5, T = cond - 1 + m, V = c->vocab, d = c->width;
    const int64_t hd = gpt_head(c), count = T;
    const int64_t rope_dim[3] = { T, 2, hd / 2 }, f_dim[3] = { 1, T, d };
    float *rope = rows_of(cond + gpt_tokens(c), (int)hd), *l[2], *out = rows_of(m, V);
    int32_t token[64];
    for (int i = 0; i < T; i++) token[i] = i < cond - 1 ? 0 : token_at(0, i - cond + 1);
    gpt_rope(c, cond - 1, rope);
    for (int b = 0; b < 2; b++) {
        float *f = rows_of(cond + m, d), *skip = rows_of(cond + m, V), *u = rows_of(T, d);
        l[b] = rows_of(T, V);
        tape_target(q, 0, b, m, f, skip);
        fv_tape *t;
        if (fv_tape_create(q->ctx, &t, q->draft.params, FV_INFER, FV_F32) != FV_OK) exit(1);
        const fv_t y = draft_features(t, &q->draft, fv_input(t, "tokens", FV_I32, 1, &count),
                                      fv_input(t, "f", FV_F32, 3, f_dim),
                                      fv_input(t, "rope", FV_F32, 3, rope_dim));
        fv_output(t, "u", y);
        fv_output(t, "logits", draft_logits(t, &q->draft, y));
        static const char *const name[] = { "tokens", "f", "rope", "u", "logits" };
        void *const data[] = { token, f, rope, u, l[b] };
        plan_run(q->ctx, t, name, data, 5);
        fv_tape_destroy(&t);
        free(f);
        free(skip);
        free(u);
    }
    for (int k = 0; k < m * V; k++) {
        const size_t at = (size_t)(cond - 1) * (size_t)V + (size_t)k;
        out[k] = l[1][at] + cfg * (l[0][at] - l[1][at]);
    }
    free(rope);
    free(l[0]);
    free(l[1]);
    return out;
}

/* Fed one by one, and in two lots after a rewind. */
static void check_draft(bool is_caption)
{
    enum { M = 9 };
    fv_ctx *ctx = context(2, 0);
    model m = model_of(ctx, small(is_caption), FV_F32);
    ar_net *n = net_of(&m, (ar_net_options){ 0 });
    ar_lm lm = ar_net_lm(n);
    float *plain = plain_logits(lm, 0, M), *got = rows_of(M, 50), *lots = rows_of(2, 50);
    float *want = tape_draft(&m, M, 2.5f);
    int32_t token[M], feature[M];
    fv_status s = FV_OK;
    for (int p = 0; p < M; p++) {
        token[p] = token_at(0, p);
        feature[p] = p - 1;
        if (s == FV_OK) s = lm.draft_feed(lm.self, 0, 1, &token[p], &feature[p], got + p * 50);
    }
    lm.draft_rewind(lm.self, 0, 6);
    if (s == FV_OK) s = lm.draft_feed(lm.self, 0, 2, token + 3, feature + 3, lots);
    if (s == FV_OK) s = lm.draft_feed(lm.self, 0, 4, token + 5, feature + 5, lots + 50);
    const double e = test_rel_l2(got, want, M * 50);
    const bool same = !memcmp(lots, got + 4 * 50, 50 * sizeof *got) &&
                      !memcmp(lots + 50, got + 8 * 50, 50 * sizeof *got);
    free(plain);
    free(got);
    free(want);
    free(lots);
    ar_net_destroy(&n);
    model_free(&m);
    fv_ctx_destroy(&ctx);
    CHECK(s == FV_OK);
    CHECK_MSG(e < 3e-6, "%g", e);
    CHECK(same);
}
static void drafts_of_classes_match_the_tape(void) { check_draft(false); }
static void drafts_of_captions_match_the_tape(void) { check_draft(true); }

/* A node is what a chain of the same tokens gives, its siblings and the order of adding aside. */
static void draft_nodes_do_not_depend_on_siblings(void)
{
    fv_ctx *ctx = context(2, 0);
    model m = model_of(ctx, small(true), FV_BF16);
    ar_net *n = net_of(&m, (ar_net_options){ .kv = FV_BF16 });
    ar_lm lm = ar_net_lm(n);
    float *plain = plain_logits(lm, 0, 6), *l = rows_of(8, 50), *chain = rows_of(3, 50), one[50];
    const int32_t token[] = { 4, 9, 4, 17, 30, 2, 8 }, parent[] = { -1, -1, 0, 1, 1, 3, 3 };
    const int32_t path[] = { 9, 17, 8 }, line[] = { -1, 0, 1 };
    const int32_t first[] = { 3, 5, 1 }, feature[] = { -1, 0, 1 };
    fv_status s = lm.draft_feed(lm.self, 0, 3, first, feature, one);
    if (s == FV_OK) s = lm.draft_nodes(lm.self, 0, 2, token, parent, l);
    if (s == FV_OK) s = lm.draft_nodes(lm.self, 0, 3, token + 2, parent + 2, l + 2 * 50);
    if (s == FV_OK) s = lm.draft_nodes(lm.self, 0, 2, token + 5, parent + 5, l + 5 * 50);
    lm.draft_rewind(lm.self, 0, 1);
    if (s == FV_OK) s = lm.draft_feed(lm.self, 0, 1, first + 2, feature + 2, one);
    for (int i = 0; i < 3 && s == FV_OK; i++)
        s = lm.draft_nodes(lm.self, 0, 1, path + i, line + i, chain + i * 50);
    const int at[] = { 1, 3, 6 };
    int bad = 0;
    for (int i = 0; i < 3; i++)
        bad += memcmp(l + at[i] * 50, chain + i * 50, 50 * sizeof *l) != 0;
    free(plain);
    free(l);
    free(chain);
    ar_net_destroy(&n);
    model_free(&m);
    fv_ctx_destroy(&ctx);
    CHECK(s == FV_OK);
    CHECK(bad == 0);
}

/* ---- The rest -------------------------------------------------------------------------------- */

static void same_bytes_for_any_number_of_threads(void)
{
    float *l[3];
    for (int k = 0; k < 3; k++) {
        fv_ctx *ctx = context(k + 1, 0);
        model m = model_of(ctx, small(true), FV_I8);
        ar_net *n = net_of(&m, (ar_net_options){ .kv = FV_I8 });
        l[k] = tree_logits(ar_net_lm(n), 0, 3, 12);
        ar_net_destroy(&n);
        model_free(&m);
        fv_ctx_destroy(&ctx);
    }
    const bool same = !memcmp(l[0], l[1], 13 * 50 * sizeof(float)) &&
                      !memcmp(l[0], l[2], 13 * 50 * sizeof(float));
    for (int k = 0; k < 3; k++) free(l[k]);
    CHECK(same);
}

static void cpu_variants_agree(void)
{
    static const uint32_t disable[] = { ~0u, ~(uint32_t)FV_CPU_AVX2, 0 };
    static const fv_dtype types[] = { FV_F32, FV_BF16, FV_I8 };
    for (int t = 0; t < 3; t++) {
        float *l[3];
        for (int k = 0; k < 3; k++) {
            fv_ctx *ctx = context(1, disable[k]);
            model m = model_of(ctx, small(false), types[t]);
            ar_net *n = net_of(&m, (ar_net_options){ .kv = types[t] });
            l[k] = plain_logits(ar_net_lm(n), 0, 6);
            ar_net_destroy(&n);
            model_free(&m);
            fv_ctx_destroy(&ctx);
        }
        const double a = test_rel_l2(l[1], l[0], 7 * 50), b = test_rel_l2(l[2], l[0], 7 * 50);
        for (int k = 0; k < 3; k++) free(l[k]);
        /* a value that rounds to its other neighbour moves by 2^-8 or 1/127 */
        CHECK_MSG(a < (t ? 3e-2 : 3e-6) && b < (t ? 3e-2 : 3e-6), "%d: %g %g", t, a, b);
    }
}

static void decoding_allocates_nothing(void)
{
    fv_ctx *ctx = context(2, 0);
    model m = model_of(ctx, small(false), FV_F32);
    ar_net *n = net_of(&m, (ar_net_options){ 0 });
    fv_memory_stats before, after;
    fv_ctx_memory(ctx, &before);
    float *l = tree_logits(ar_net_lm(n), 0, 5, 12);
    fv_ctx_memory(ctx, &after);
    free(l);
    ar_net_destroy(&n);
    model_free(&m);
    const uint64_t left = after.allocations - before.allocations;
    fv_ctx_memory(ctx, &after);
    fv_ctx_destroy(&ctx);
    CHECK(left == 0 && after.current_bytes == 0);
}

static void what_lies_outside_is_refused(void)
{
    fv_ctx *ctx = context(1, 0);
    model m = model_of(ctx, small(false), FV_F32);
    ar_net *n = net_of(&m, (ar_net_options){ .rows = 4 });
    ar_lm lm = ar_net_lm(n);
    float l[5 * 50];
    const int32_t token[5] = { 1, 2, 3, 4, 50 }, parent[5] = { -1, 0, 1, 2, 3 }, late = 24;
    const ar_rows many = { 0, 5, token, parent, l, 0 }, odd = { 0, 1, token + 4, parent, l, 0 };
    float *plain = plain_logits(lm, 0, 24);
    const ar_rows past = { 0, 2, token, parent, l, 0 };
    ar_net *none;
    const ar_net_options bad[] = { { .images = 0 }, { .images = 1, .kv = FV_F64 },
                                   { .images = 1, .keep_lines = 1 } };
    CHECK(lm.target(lm.self, 1, &many) == FV_ERR_CAPACITY);
    CHECK(lm.target(lm.self, 1, &odd) == FV_ERR_INTERNAL);
    CHECK(lm.target(lm.self, 1, &past) == FV_ERR_INTERNAL);
    CHECK(lm.draft_feed(lm.self, 0, 1, token, &late, l) == FV_ERR_INTERNAL);
    CHECK(lm.draft_nodes(lm.self, 0, 1, token, parent, l) == FV_ERR_INTERNAL);
    CHECK(ar_net_set_caption(n, 0, l, 1) == FV_ERR_ARG);
    for (size_t i = 0; i < FV_ARRAY_LEN(bad); i++)
        CHECK(ar_net_create(ctx, &none, m.w, &bad[i]) == FV_ERR_ARG && !none);
    fv_ctx_cancel(ctx);
    CHECK(lm.prefill(lm.self, 0, l) == FV_ERR_CANCELLED);
    free(plain);
    ar_net_destroy(&n);
    model_free(&m);
    fv_ctx_destroy(&ctx);
}

int main(void)
{
    RUN(classes_match_the_tape);
    RUN(captions_match_the_tape);
    RUN(bf16_weights_are_near_the_tape);
    RUN(int8_weights_are_near_the_tape);
    RUN(bf16_caches_are_near_the_tape);
    RUN(int8_caches_are_near_the_tape);
    RUN(trees_have_the_bits_of_plain_decoding);
    RUN(pictures_in_a_pass_do_not_see_each_other);
    RUN(silent_rows_change_nothing_else);
    RUN(rewinding_forgets);
    RUN(kept_lines_depend_on_the_position_alone);
    RUN(drafts_of_classes_match_the_tape);
    RUN(drafts_of_captions_match_the_tape);
    RUN(draft_nodes_do_not_depend_on_siblings);
    RUN(same_bytes_for_any_number_of_threads);
    RUN(cpu_variants_agree);
    RUN(decoding_allocates_nothing);
    RUN(what_lies_outside_is_refused);
    return test_end();
}
