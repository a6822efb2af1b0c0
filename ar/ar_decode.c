/* ar_decode.c - the decoding loop: pictures go by ticks, each a state machine of its own.
 *
 *     tick: images that skip (VVS): take a piece of a path, draft again
 *           all images: one packed target pass over [skipped tokens ++ tree]
 *           all images: judge, commit, draft
 *
 * As skips are never consecutive, every image verifies once a tick, so a batch idles nowhere.
 * Of an image: `token` holds n tokens and behind them the root, which is drawn but not looked at.
 * The target has keys of all but the last `chain` of the n (those a skip took); the draft head has
 * `fed` pairs (token at p, feature of p - 1), n + 1 whenever a tree is grown.
 *
 * Plain decoding is a tree that is the root alone; Jacobi iteration a chain of guesses. A picture
 * is finished when its last token is the root: nothing needs what the target says behind it. Trees
 * end one place earlier, because the pass that accepts them draws the next token too; with skips
 * they may reach the last token, for a skip draws nothing. */
#include "ar_decode.h"

#include <assert.h>
#include <string.h>

#define COST_TICKS 16 /* between two looks at the costs */

typedef struct decode_image {
    int index;
    ar_noise noise;
    int32_t *token; /* [tokens + AR_MAX_NODES + 1] */
    int n, chain, fed;
    int64_t step;
    bool no_skip, is_done;
    ar_tree tree;
    ar_tree_work *work;
    ar_echo *echo; /* NULL: none */
    ar_jacobi *jacobi;
    int rows;
    int32_t row_token[AR_MAX_ROWS], row_parent[AR_MAX_ROWS];
    float *logits; /* [most_rows, vocab] */
} decode_image;

typedef struct decoder {
    fv_ctx *ctx;
    const ar_lm *lm;
    const ar_decode_options *o;
    ar_lm counted;        /* lm, its draft nodes counted           */
    ar_tree_options tree; /* as given, or as the costs would have it */
    bool is_drafting, is_adaptive;
    int images, active, most_rows;
    decode_image *image;
    ar_rows *rows;
    ar_dists dists;
    float *draft_logits;  /* [vocab] */
    ar_counters *counters, learned;
    const ar_decode_log *log;
} decoder;

/* ---- Options --------------------------------------------------------------------------------- */

void ar_decode_defaults(ar_decode_options *o)
{
    *o = (ar_decode_options){
        .sampling = { .temperature = 1.0f, .top_p = 1.0f },
        .tree = { .kind = AR_DRAFT_GUMBEL, .depth = 4, .top_k = 4, .nodes = 16 },
        .accept = { .delta = 0.1f, .lambda = 5.0f, .group = 10 },
        .vvs = { .interval = 4, .threshold = 0.7f, .decay = 0.9f, .stride = 2, .warm_up = 5,
                 .stale = { -1, 0 } },
    };
}

bool ar_keeps_sequence(const ar_decode_options *o)
{
    const bool is_greedy = o->sampling.temperature == 0.0f;
    if (o->is_plain) return true;
    if (o->jacobi) return is_greedy || !o->sampling.is_uniform;
    if (o->accept.rule != AR_RULE_EXACT) return false;
    if (o->vvs.schedule != AR_SKIP_NEVER && o->vvs.post != AR_POST_STRICT) return false;
    return is_greedy || !(o->sampling.is_uniform || o->accept.is_reference ||
                          o->tree.kind == AR_DRAFT_PQ);
}

static fv_status check_sampling(fv_ctx *ctx, const ar_sampling *s)
{
    if (!(s->temperature >= 0.0f && s->temperature <= 1e6f))
        return fv_fail(ctx, FV_ERR_ARG, "decoding: temperature %g is not in 0..1e6",
                       (double)s->temperature);
    if (s->top_k < 0)
        return fv_fail(ctx, FV_ERR_ARG, "decoding: top-k %d is below 0 (0 = all)", s->top_k);
    if (!(s->top_p > 0.0f && s->top_p <= 1.0f))
        return fv_fail(ctx, FV_ERR_ARG, "decoding: top-p %g is not in (0, 1]", (double)s->top_p);
    return FV_OK;
}

static fv_status check_range(fv_ctx *ctx, const char *what, int64_t value, int64_t low,
                             int64_t high)
{
    if (value >= low && value <= high) return FV_OK;
    return fv_fail(ctx, FV_ERR_ARG, "decoding: %s %lld is not in %lld..%lld", what,
                   (long long)value, (long long)low, (long long)high);
}

static fv_status check_tree(fv_ctx *ctx, const ar_tree_options *t)
{
    FV_TRY(check_range(ctx, "draft kind", t->kind, AR_DRAFT_GUMBEL, AR_DRAFT_PQ));
    FV_TRY(check_range(ctx, "tree depth", t->depth, 1, AR_MAX_DEPTH));
    if (t->kind == AR_DRAFT_STATIC) FV_TRY(check_range(ctx, "tree shape", t->shape, 0, 3));
    FV_TRY(check_range(ctx, "tree children", t->top_k, 1, AR_MAX_RANK));
    if (!(t->echo >= 0.0f && t->echo <= 1.0f))
        return fv_fail(ctx, FV_ERR_ARG, "decoding: weight %g of echoes is not in 0..1",
                       (double)t->echo);
    return check_range(ctx, "tree nodes", t->nodes, 2, AR_MAX_NODES);
}

static fv_status check_accept(fv_ctx *ctx, const ar_accept_options *a, int vocab)
{
    FV_TRY(check_range(ctx, "acceptance rule", a->rule, AR_RULE_EXACT, AR_RULE_GSD));
    if (a->rule == AR_RULE_EXACT) return FV_OK;
    const bool needs_near = a->rule == AR_RULE_LANTERN || a->rule == AR_RULE_LANTERNPP;
    if (a->near ? a->near->codes != vocab : needs_near)
        return fv_fail(ctx, FV_ERR_ARG,
                       "decoding: the acceptance rule needs the neighbours of all %d codes", vocab);
    if (needs_near) FV_TRY(check_range(ctx, "neighbours looked at", a->k, 0, a->near->k));
    if (a->rule != AR_RULE_COOL && !(a->delta >= 0.0f && a->delta <= 1.0f))
        return fv_fail(ctx, FV_ERR_ARG, "decoding: delta %g is not in 0..1", (double)a->delta);
    if (a->rule == AR_RULE_LANTERNPP && !(a->lambda >= 1.0f && a->lambda <= 1e6f))
        return fv_fail(ctx, FV_ERR_ARG, "decoding: lambda %g is not in 1..1e6", (double)a->lambda);
    if (a->rule == AR_RULE_COOL && !(a->delta >= 0.0f && a->delta <= 1e6f))
        return fv_fail(ctx, FV_ERR_ARG, "decoding: delta %g is not in 0..1e6", (double)a->delta);
    if (a->rule == AR_RULE_GSD) return check_range(ctx, "group", a->group, 1, AR_MAX_GROUP);
    return FV_OK;
}

static fv_status check_vvs(fv_ctx *ctx, const ar_vvs_options *v)
{
    FV_TRY(check_range(ctx, "skip schedule", v->schedule, AR_SKIP_NEVER, AR_SKIP_DYNAMIC));
    if (v->schedule == AR_SKIP_NEVER) return FV_OK;
    FV_TRY(check_range(ctx, "path selector", v->selector, AR_SELECT_RANDOM, AR_SELECT_COUPLED));
    FV_TRY(check_range(ctx, "post verification", v->post, AR_POST_RESTORE, AR_POST_STRICT));
    FV_TRY(check_range(ctx, "warm-up", v->warm_up, 0, INT32_MAX));
    FV_TRY(check_range(ctx, "staleness on verify steps", v->stale[0], -1, AR_MAX_NODES));
    FV_TRY(check_range(ctx, "staleness on skip steps", v->stale[1], 0, AR_MAX_NODES));
    if (v->schedule == AR_SKIP_UNIFORM)
        return check_range(ctx, "skip interval", v->interval, 2, INT32_MAX);
    FV_TRY(check_range(ctx, "path stride", v->stride, 1, AR_MAX_NODES));
    if (!(v->threshold >= -1e6f && v->threshold <= 1e6f))
        return fv_fail(ctx, FV_ERR_ARG, "decoding: skip threshold %g is no finite number",
                       (double)v->threshold);
    if (!(v->decay > 0.0f && v->decay <= 1.0f))
        return fv_fail(ctx, FV_ERR_ARG, "decoding: decay %g of the weights is not in (0, 1]",
                       (double)v->decay);
    if (!v->codebook || v->code_width < 1)
        return fv_fail(ctx, FV_ERR_ARG, "decoding: the dynamic schedule needs a codebook");
    return FV_OK;
}

static fv_status check_options(fv_ctx *ctx, const ar_lm *lm, const ar_decode_options *o)
{
    FV_TRY(check_range(ctx, "tokens of a picture", lm->tokens, 1, AR_MAX_GRID * AR_MAX_GRID));
    FV_TRY(check_range(ctx, "codes", lm->vocab, 1, AR_MAX_VOCAB));
    FV_TRY(check_sampling(ctx, &o->sampling));
    FV_TRY(check_range(ctx, "Jacobi window", o->jacobi, 0, AR_MAX_NODES - 1));
    if (o->is_plain && o->jacobi)
        return fv_fail(ctx, FV_ERR_ARG, "decoding: plain decoding has no Jacobi window");
    if (o->is_plain) return FV_OK;
    if (o->jacobi) {
        if (o->vvs.schedule != AR_SKIP_NEVER)
            return fv_fail(ctx, FV_ERR_ARG, "decoding: Jacobi iteration skips no verification");
        return check_range(ctx, "Jacobi start", o->jacobi_init, AR_JACOBI_RANDOM, AR_JACOBI_ABOVE);
    }
    FV_TRY(check_tree(ctx, &o->tree));
    FV_TRY(check_accept(ctx, &o->accept, lm->vocab));
    FV_TRY(check_vvs(ctx, &o->vvs));
    if (o->cost && o->cost->points < 1)
        return fv_fail(ctx, FV_ERR_ARG, "decoding: the costs have not been measured");
    if (!lm->has_draft)
        return fv_fail(ctx, FV_ERR_MODEL, "decoding: the model has no draft head: decode plainly "
                                          "or by Jacobi iteration");
    return FV_OK;
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static int most_rows(const ar_decode_options *o)
{
    if (o->is_plain) return 1;
    if (o->jacobi) return o->jacobi + 1;
    return o->tree.nodes + (o->vvs.schedule == AR_SKIP_NEVER ? 0 : o->tree.depth);
}

static fv_status create_image(decoder *d, decode_image *m)
{
    const ar_jacobi_options jo = { .vocab = d->lm->vocab, .tokens = d->lm->tokens,
                                   .window = d->o->jacobi, .init = d->o->jacobi_init,
                                   .sampling = d->o->sampling };
    m->token = fv_calloc(d->ctx, (size_t)d->lm->tokens + AR_MAX_NODES + 1, sizeof *m->token);
    m->logits = fv_calloc(d->ctx, (size_t)d->most_rows * (size_t)d->lm->vocab, sizeof *m->logits);
    if (!m->token || !m->logits) return FV_ERR_OOM;
    if (d->o->jacobi) return ar_jacobi_create(d->ctx, &m->jacobi, &jo);
    if (d->o->is_plain) return FV_OK;
    if (d->o->tree.echo > 0.0f)
        FV_TRY(ar_echo_create(d->ctx, &m->echo, d->lm->vocab, d->o->tree.echo));
    return ar_tree_work_create(d->ctx, &m->work, d->lm->vocab, &d->o->tree, &d->o->accept);
}

static fv_status create(decoder *d, const ar_noise *noise)
{
    const size_t vocab = (size_t)d->lm->vocab;
    d->image = fv_calloc(d->ctx, (size_t)d->images, sizeof *d->image);
    d->rows = fv_calloc(d->ctx, (size_t)d->images, sizeof *d->rows);
    d->draft_logits = fv_calloc(d->ctx, vocab, sizeof *d->draft_logits);
    if (!d->image || !d->rows || !d->draft_logits) return FV_ERR_OOM;
    FV_TRY(ar_dists_create(d->ctx, &d->dists, d->lm->vocab, 1));
    for (int i = 0; i < d->images; i++) {
        d->image[i].index = i;
        d->image[i].noise = noise[i];
        FV_TRY(create_image(d, &d->image[i]));
    }
    return FV_OK;
}

static void destroy(decoder *d)
{
    for (int i = 0; d->image && i < d->images; i++) {
        fv_free(d->ctx, d->image[i].token);
        fv_free(d->ctx, d->image[i].logits);
        if (d->image[i].work) ar_tree_work_destroy(&d->image[i].work);
        ar_echo_destroy(&d->image[i].echo);
        ar_jacobi_destroy(&d->image[i].jacobi);
    }
    if (d->dists.ctx) ar_dists_free(&d->dists);
    fv_free(d->ctx, d->draft_logits);
    fv_free(d->ctx, d->rows);
    fv_free(d->ctx, d->image);
}

/* ---- Draws ----------------------------------------------------------------------------------- */

static int32_t draw(decoder *d, const decode_image *m, const float *logits, int position)
{
    ar_dist_make(&d->dists, 0, logits, &d->o->sampling);
    return d->dists.d[0].id[ar_draw(&d->dists, 0, &d->o->sampling, m->noise, position)];
}

static ar_judge judge_at(const decoder *d, const decode_image *m, int position)
{
    return (ar_judge){ .sampling = d->o->sampling, .accept = d->o->accept, .kind = d->o->tree.kind,
                       .noise = m->noise, .position = position };
}

/* ---- Drafting -------------------------------------------------------------------------------- */

static fv_status counted_nodes(void *self, int image, int n, const int32_t *token,
                               const int32_t *parent, float *logits)
{
    decoder *d = self;
    d->counters->draft_passes++;
    d->counters->draft_rows += n;
    return d->lm->draft_nodes(d->lm->self, image, n, token, parent, logits);
}

/* Nodes at position n + depth. */
static int most_depth(const decoder *d, const decode_image *m)
{
    const int last = d->lm->tokens - (d->o->vvs.schedule == AR_SKIP_NEVER ? 2 : 1);
    return d->is_drafting && last > m->n ? last - m->n : 0;
}

static void root_alone(ar_tree *t, int32_t token)
{
    t->n = 1;
    t->token[0] = token;
    t->parent[0] = -1;
    t->depth[0] = t->rank[0] = 0;
    t->score[0] = 0.0f;
    t->q[0] = 1.0f;
    ar_tree_paths(t);
}

/* Brings the pairs up to the root. stale < 0: the features are there, else they are stand-ins from
 * the first `cached` positions. */
static fv_status feed(decoder *d, decode_image *m, int stale, int cached)
{
    int32_t feature[AR_MAX_ROWS];
    const int missing = m->n + 1 - m->fed;
    assert(missing > 0 && missing <= AR_MAX_ROWS);
    for (int i = 0; i < missing; i++)
        feature[i] = stale < 0 || cached == 0 ? m->fed + i - 1
                                              : ar_stale_feature(stale, cached, missing, i);
    FV_TRY(d->lm->draft_feed(d->lm->self, m->index, missing, m->token + m->fed, feature,
                             d->draft_logits));
    d->counters->draft_passes++;
    d->counters->draft_rows += missing;
    m->fed += missing;
    assert(m->fed == m->n + 1);
    return FV_OK;
}

static fv_status draft(decoder *d, decode_image *m, int stale, int cached)
{
    const double start = fv_now();
    const int depth = most_depth(d, m);
    const ar_root root = { .image = m->index, .position = m->n, .token = m->token[m->n],
                           .most_depth = depth, .noise = m->noise,
                           .draft_logits = d->draft_logits, .echo = m->echo };
    if (d->o->jacobi) return FV_OK; /* guesses are made when the rows are */
    if (depth == 0) {
        root_alone(&m->tree, m->token[m->n]);
        return FV_OK;
    }
    FV_TRY(feed(d, m, stale, cached));
    FV_TRY(ar_tree_grow(m->work, &d->counted, &d->tree, &d->o->sampling, &root, &m->tree));
    d->counters->seconds_draft += fv_now() - start;
    return FV_OK;
}

/* ---- Steps ----------------------------------------------------------------------------------- */

/* A step has ended: the picture may be complete, the caller may want to know. */
static void end_step(decoder *d, decode_image *m, const ar_step_log *what)
{
    ar_step_log log = *what;
    const bool is_certain = m->chain == 0 || d->o->vvs.post == AR_POST_RESTORE;
    log.image = m->index;
    log.step = (int)m->step++;
    log.length = m->n;
    m->is_done = m->n + 1 >= d->lm->tokens && is_certain;
    if (m->is_done) d->active--;
    if (d->log && d->log->step) d->log->step(d->log->user, &log);
}

static fv_status skip_step(decoder *d, decode_image *m)
{
    const double start = fv_now();
    const int cached = m->n;
    int gamma;
    const int path = ar_select_path(&d->o->vvs, &m->tree, m->noise, m->step, &gamma);
    assert(m->chain == 0 && !m->no_skip && gamma >= 2 && m->n + gamma <= d->lm->tokens);
    for (int i = 1; i < gamma; i++)
        m->token[m->n + i] = m->tree.token[m->tree.path[path][i]];
    m->chain = gamma - 1;
    m->n += m->chain;
    m->no_skip = true;
    d->counters->skips++;
    d->counters->advanced += m->chain;
    d->counters->chain_tokens += m->chain;
    d->counters->seconds_select += fv_now() - start;
    FV_TRY(draft(d, m, d->o->vvs.stale[1], cached));
    end_step(d, m, &(ar_step_log){ .skipped = 1, .gamma = gamma, .chain = m->chain });
    return FV_OK;
}

/* Skipped tokens, then the tree; the tree is left out when its root is the last token. */
static void pack_rows(decoder *d, decode_image *m)
{
    const int32_t *skipped = m->token + m->n - m->chain, *guess = NULL;
    int guesses = 0;
    if (m->jacobi) guesses = ar_jacobi_guess(m->jacobi, m->token, m->n, m->noise, &guess);
    m->rows = 0;
    for (int i = 0; i < m->chain; i++, m->rows++) {
        m->row_token[m->rows] = skipped[i];
        m->row_parent[m->rows] = i - 1;
    }
    if (m->jacobi) {
        for (int i = 0; i <= guesses; i++, m->rows++) {
            m->row_token[m->rows] = i ? guess[i - 1] : m->token[m->n];
            m->row_parent[m->rows] = i - 1;
        }
    } else if (m->n + 1 < d->lm->tokens) {
        for (int i = 0; i < m->tree.n; i++, m->rows++) {
            m->row_token[m->rows] = m->tree.token[i];
            m->row_parent[m->rows] = m->chain + (i ? m->tree.parent[i] : -1);
        }
    }
    assert(m->rows > 0 && m->rows <= d->most_rows);
}

/* Post verification: place of the first skipped token (or, last, of the root) that the target does
 * not accept, with its own draw; chain + 1 if there is none. The first is the target's draw. */
static int find_cut(decoder *d, decode_image *m, int32_t *own)
{
    const int cached = m->n - m->chain;
    if (m->chain == 0 || d->o->vvs.post == AR_POST_RESTORE) return m->chain + 1;
    for (int i = 1; i <= m->chain; i++) {
        ar_judge j = judge_at(d, m, cached + i);
        if (d->o->vvs.post == AR_POST_STRICT)
            j.accept = (ar_accept_options){ .rule = AR_RULE_EXACT };
        const float *logits = m->logits + (size_t)(i - 1) * (size_t)d->lm->vocab;
        if (!ar_accept_one(m->work, logits, m->token[cached + i], &j, own)) return i;
    }
    return m->chain + 1;
}

/* Takes `skipped` of the chain and the nodes of a walk (or so many guesses) for good. */
static void commit(decoder *d, decode_image *m, int skipped, const ar_walk *walk)
{
    int32_t row[AR_MAX_ROWS];
    int n = 0;
    for (; n < skipped; n++) row[n] = n;
    for (int i = 0; i < walk->n; i++) row[n++] = m->chain + walk->node[i];
    d->lm->commit(d->lm->self, m->index, row, n);
}

/* Pairs that were made from stand-ins, or of tokens that are gone, are forgotten. */
static void forget_pairs(decoder *d, decode_image *m, int cached, int valid)
{
    const bool is_refreshed = !d->o->vvs.keep_stale_draft && d->o->vvs.stale[0] < 0;
    if (m->chain > 0 && is_refreshed && valid > cached + 1) valid = cached + 1;
    if (m->fed <= valid) return;
    d->lm->draft_rewind(d->lm->self, m->index, m->fed - valid);
    m->fed = valid;
}

/* The chain holds up to place `at`: the target's own draw is the new root there, and nothing that
 * was drafted behind it is worth anything. */
static fv_status cut_chain(decoder *d, decode_image *m, int at, int32_t own)
{
    const int cached = m->n - m->chain, length = m->chain;
    commit(d, m, at, &(ar_walk){ .n = 0 });
    d->counters->advanced -= length - at;
    d->counters->chain_cuts++;
    m->n = cached + at;
    m->token[m->n] = own;
    forget_pairs(d, m, cached, m->n);
    m->chain = 0;
    m->no_skip = true;
    FV_TRY(draft(d, m, d->o->vvs.stale[0], cached));
    end_step(d, m, &(ar_step_log){ .accepted = -1, .chain = length });
    return FV_OK;
}

/* Which children of the walk's nodes were there, and which were taken. */
static void count_walk(ar_counters *c, const ar_tree *t, const ar_walk *walk)
{
    for (int i = 0; i < walk->n; i++) {
        for (int k = 1; k < t->n; k++) {
            if (t->parent[k] != walk->node[i]) continue;
            c->tried[t->depth[k] - 1][t->rank[k]]++;
            if (i + 1 < walk->n && walk->node[i + 1] == k) c->hit[t->depth[k] - 1][t->rank[k]]++;
        }
    }
    c->substitutions += walk->substituted;
}

/* Tokens behind the root that the target accepts go to m->token, and what follows them. */
static int judge_tree(decoder *d, decode_image *m, const float *logits, ar_walk *walk)
{
    const ar_judge j = judge_at(d, m, m->n);
    if (m->tree.n == 1) {
        d->counters->plain_steps++;
        *walk = (ar_walk){ .n = 1, .next = draw(d, m, logits, m->n + 1) };
    } else {
        ar_walk_tree(m->work, &m->tree, logits, &j, walk);
        count_walk(d->counters, &m->tree, walk);
        if (m->echo)
            ar_echo_keep(m->echo, &m->tree, walk->node[walk->n - 1], m->n + walk->n, logits);
    }
    for (int i = 1; i < walk->n; i++) m->token[m->n + i] = m->tree.token[walk->node[i]];
    m->token[m->n + walk->n] = walk->next;
    return walk->n - 1;
}

static void commit_guesses(decoder *d, decode_image *m, int accepted)
{
    int32_t row[AR_MAX_ROWS];
    for (int i = 0; i <= accepted; i++) {
        row[i] = i;
        m->token[m->n + i] = m->row_token[i];
    }
    d->lm->commit(d->lm->self, m->index, row, accepted + 1);
}

/* The pass is done: judge the chain, then the tree. */
static fv_status verify_step(decoder *d, decode_image *m)
{
    const double start = fv_now();
    const int cached = m->n - m->chain, length = m->chain;
    const float *logits = m->logits + (size_t)length * (size_t)d->lm->vocab;
    ar_walk walk = { .n = 0 };
    int32_t own = 0, next = 0;
    int accepted = 0;
    const int cut = find_cut(d, m, &own);
    if (cut <= length) {
        d->counters->seconds_select += fv_now() - start;
        return cut_chain(d, m, cut, own);
    }
    if (m->jacobi) {
        accepted = ar_jacobi_judge(m->jacobi, logits, m->noise, &next);
        commit_guesses(d, m, accepted);
        m->token[m->n + accepted + 1] = next;
    } else if (m->rows > length) {
        accepted = judge_tree(d, m, logits, &walk);
        commit(d, m, length, &walk);
    }
    forget_pairs(d, m, cached, m->n + 1);
    if (m->rows > length) { /* else the root is the last token, and it has been looked at */
        d->counters->accepted[accepted]++;
        d->counters->advanced += accepted + 1;
        m->n += accepted + 1;
    }
    m->chain = 0;
    m->no_skip = false;
    d->counters->seconds_select += fv_now() - start;
    if (m->n + 1 < d->lm->tokens) FV_TRY(draft(d, m, d->o->vvs.stale[0], cached));
    end_step(d, m, &(ar_step_log){ .accepted = accepted, .chain = length });
    return FV_OK;
}

/* ---- Costs ----------------------------------------------------------------------------------- */

static void choose_tree(decoder *d)
{
    ar_cost_choice choice;
    if (!d->is_adaptive || !d->is_drafting) return;
    ar_cost_learn(d->o->cost, &d->learned, d->counters);
    d->learned = *d->counters;
    ar_cost_choose(d->o->cost, &d->o->tree, d->active, &choice);
    d->counters->speedup = choice.speedup;
    if (choice.depth == 0) {
        d->is_drafting = false;
        d->counters->switched_off = true;
        return;
    }
    d->tree.depth = choice.depth;
    d->tree.nodes = choice.nodes;
    d->tree.accept = d->o->cost->accept[0];
}

/* ---- The loop -------------------------------------------------------------------------------- */

static fv_status start_image(decoder *d, decode_image *m)
{
    const double start = fv_now();
    FV_TRY(d->lm->prefill(d->lm->self, m->index, m->logits));
    m->token[0] = draw(d, m, m->logits, 0);
    d->counters->prefills++;
    d->counters->seconds_prefill += fv_now() - start;
    m->is_done = d->lm->tokens == 1;
    if (m->is_done) d->active--;
    return m->is_done ? FV_OK : draft(d, m, -1, 0);
}

static fv_status run_target(decoder *d)
{
    const double start = fv_now();
    int n = 0;
    for (int i = 0; i < d->images; i++) {
        decode_image *m = &d->image[i];
        if (m->is_done) continue;
        pack_rows(d, m);
        d->rows[n++] = (ar_rows){ .image = i, .n = m->rows, .token = m->row_token,
                                  .parent = m->row_parent, .logits = m->logits,
                                  .silent = d->o->vvs.post == AR_POST_RESTORE ? m->chain : 0 };
        d->counters->target_rows += m->rows;
        d->counters->verifies++;
    }
    if (n > 0) FV_TRY(d->lm->target(d->lm->self, n, d->rows));
    d->counters->seconds_verify += fv_now() - start;
    return FV_OK;
}

static fv_status tick(decoder *d)
{
    const ar_vvs_options *v = &d->o->vvs;
    const bool may_skip = !d->o->is_plain && !d->o->jacobi && v->schedule != AR_SKIP_NEVER;
    for (int i = 0; may_skip && i < d->images; i++) {
        decode_image *m = &d->image[i];
        const double start = fv_now();
        const bool skips = !m->is_done && ar_skips(v, m->step, m->n, &m->tree, m->no_skip);
        d->counters->seconds_select += fv_now() - start;
        if (skips) FV_TRY(skip_step(d, m));
    }
    FV_TRY(run_target(d));
    for (int i = 0; i < d->images; i++)
        if (!d->image[i].is_done) FV_TRY(verify_step(d, &d->image[i]));
    return FV_OK;
}

static fv_status run(decoder *d)
{
    const int64_t total = (int64_t)d->images * d->lm->tokens;
    for (int i = 0; i < d->images; i++) {
        FV_TRY(fv_report(d->ctx, "decoding", 0, (uint64_t)total, NULL));
        FV_TRY(start_image(d, &d->image[i]));
    }
    for (int64_t ticks = 1; d->active > 0; ticks++) {
        int64_t done = 0;
        for (int i = 0; i < d->images; i++) done += d->image[i].n;
        FV_TRY(fv_report(d->ctx, "decoding", (uint64_t)done, (uint64_t)total, NULL));
        FV_TRY(tick(d));
        if (ticks % COST_TICKS == 0 && d->active > 0) choose_tree(d);
    }
    return FV_OK;
}

fv_status ar_decode(fv_ctx *ctx, const ar_lm *lm, const ar_decode_options *o, int images,
                    const ar_noise *noise, int32_t *tokens, ar_counters *counters,
                    const ar_decode_log *log)
{
    decoder d = { .ctx = ctx, .lm = lm, .o = o, .tree = o->tree, .images = images,
                  .active = images, .counters = counters, .log = log };
    FV_TRY(check_options(ctx, lm, o));
    FV_TRY(check_range(ctx, "number of pictures", images, 1, INT32_MAX));
    d.most_rows = most_rows(o);
    d.is_drafting = !o->is_plain && !o->jacobi;
    d.is_adaptive = d.is_drafting && o->cost && ar_keeps_sequence(o);
    d.learned = *counters;
    d.counted = *lm;
    d.counted.self = &d;
    d.counted.draft_nodes = counted_nodes;
    fv_status s = create(&d, noise);
    if (s == FV_OK) choose_tree(&d);
    if (s == FV_OK) s = run(&d);
    if (s == FV_OK) {
        const size_t n = (size_t)lm->tokens;
        for (int i = 0; i < images; i++)
            memcpy(tokens + (size_t)i * n, d.image[i].token, n * sizeof *tokens);
        counters->tokens += (int64_t)images * lm->tokens;
        if (d.is_adaptive) ar_cost_learn(o->cost, &d.learned, counters);
    }
    destroy(&d);
    return s;
}
