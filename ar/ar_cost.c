/* ar_cost.c - which tree pays on this machine, or none.
 *
 * A step with a tree of R rows and L levels brings 1 + sum over nodes of the chance that the walk
 * reaches them, and costs T_v(R) + T_first + (L - 1) T_level. T_v is measured at 1, 2, 4, ... rows,
 * as it is flat where weights are read from memory and steep where arithmetic binds. The chance of
 * a node is the product of a[depth][rank] along its path; a is counted while decoding. For each
 * bound of the depth the tree grows by the most likely node, and the best rate of all is taken.
 *
 * Times change from run to run and machine to machine, and with them the tree: ar_decode asks here
 * only where the tokens do not depend on the tree. */
#include "ar_decode.h"

#include <assert.h>
#include <string.h>

#define PRIOR_TRIES 16.0  /* weight of what a cell's neighbours say                        */
#define MEMORY 4000.0     /* tries of the first child until old ones count half            */
#define REPEATS 5
#define ENOUGH_SECONDS 0.1 /* of one kind of pass                                          */
#define DEAREST 8.0       /* passes that take so many times a row's are not measured further */

/* ---- Rates ----------------------------------------------------------------------------------- */

/* Tables of files may hold zeros. */
static double ratio(float a, float b) { return b > 0.0f ? (double)a / (double)b : 0.0; }

/* A cell nobody has tried is to the one above it (first level: to the rank before) as in the table
 * of before. Together the children of a node hold at most all of its mass. */
static void smooth(ar_cost *c)
{
    for (int d = 0; d < AR_MAX_DEPTH; d++) {
        double left = 1.0;
        for (int r = 0; r < AR_MAX_RANK; r++) {
            const float *t = c->prior + d * AR_MAX_RANK + r;
            double prior = *t;
            if (d > 0) prior = c->accept[d - 1][r] * ratio(t[0], t[-AR_MAX_RANK]);
            else if (r > 0) prior = c->accept[d][r - 1] * ratio(t[0], t[-1]);
            double a = (c->hit[d][r] + PRIOR_TRIES * prior) / (c->tried[d][r] + PRIOR_TRIES);
            if (a > 0.98 * left) a = 0.98 * left;
            left -= a;
            c->accept[d][r] = (float)a;
        }
    }
}

void ar_cost_init(ar_cost *c, const float *prior)
{
    memset(c, 0, sizeof *c);
    c->prior = prior ? prior : ar_accept_rates();
    smooth(c);
}

void ar_cost_learn(ar_cost *c, const ar_counters *before, const ar_counters *after)
{
    for (int d = 0; d < AR_MAX_DEPTH; d++) {
        for (int r = 0; r < AR_MAX_RANK; r++) {
            c->tried[d][r] += (double)(after->tried[d][r] - (before ? before->tried[d][r] : 0));
            c->hit[d][r] += (double)(after->hit[d][r] - (before ? before->hit[d][r] : 0));
        }
    }
    if (c->tried[0][0] > MEMORY) {
        for (int i = 0; i < AR_MAX_DEPTH * AR_MAX_RANK; i++) {
            (&c->tried[0][0])[i] *= 0.5;
            (&c->hit[0][0])[i] *= 0.5;
        }
    }
    smooth(c);
}

/* ---- Rates as text --------------------------------------------------------------------------- */

/* A row at *text, up to its end or ';': how many numbers. */
static fv_status parse_row(fv_ctx *ctx, const char **text, float *row, int *n)
{
    double sum = 0.0;
    for (*n = 0;;) {
        const size_t length = strcspn(*text, ",;");
        const char end = (*text)[length];
        char word[24];
        double v = 0.0;
        if (*n == AR_MAX_RANK || length >= sizeof word)
            return fv_fail(ctx, FV_ERR_MODEL, "model: metadata %s has more than %d numbers in a "
                           "row, or one that is too long", AR_RATES_KEY, AR_MAX_RANK);
        memcpy(word, *text, length);
        word[length] = 0;
        FV_TRY(fv_meta_parse(ctx, AR_RATES_KEY, word, false, &v));
        sum += v;
        if (!(v >= 0.0 && sum <= 1.0001))
            return fv_fail(ctx, FV_ERR_MODEL, "model: metadata %s: the chances of a row are "
                           "negative or more than one together", AR_RATES_KEY);
        row[(*n)++] = (float)v;
        *text += length + (end == ',');
        if (end != ',') return FV_OK;
    }
}

fv_status ar_rates_parse(fv_ctx *ctx, const char *text, float rate[AR_MAX_DEPTH * AR_MAX_RANK])
{
    const float *known = ar_accept_rates();
    int rows = 0, ranks = 0;
    for (;; text++) {
        int n;
        FV_TRY(parse_row(ctx, &text, rate + rows * AR_MAX_RANK, &n));
        if (rows++ == 0) ranks = n;
        if (n != ranks || (*text && rows == AR_MAX_DEPTH))
            return fv_fail(ctx, FV_ERR_MODEL, "model: metadata %s has rows of several lengths, or "
                           "more than %d", AR_RATES_KEY, AR_MAX_DEPTH);
        if (*text == 0) break;
    }
    for (int i = 0; i < AR_MAX_DEPTH * AR_MAX_RANK; i++) {
        const int d = i / AR_MAX_RANK, r = i % AR_MAX_RANK;
        if (d < rows && r < ranks) continue;
        const int from = r < ranks || (d >= rows && d > 0) ? i - AR_MAX_RANK : i - 1;
        rate[i] = rate[from] * (float)ratio(known[i], known[from]);
    }
    return FV_OK;
}

char *ar_rates_text(fv_ctx *ctx, const float *rate, int rows, int ranks)
{
    const size_t size = (size_t)rows * (size_t)ranks * 16 + 1;
    char *text = fv_alloc(ctx, size);
    size_t n = 0;
    for (int i = 0; text && i < rows * ranks; i++) {
        const char *split = i == 0 ? "" : i % ranks ? "," : ";";
        n += (size_t)snprintf(text + n, size - n, "%s%.4g", split,
                              (double)rate[i / ranks * AR_MAX_RANK + i % ranks]);
    }
    return text;
}

/* ---- Times ----------------------------------------------------------------------------------- */

typedef struct stopwatch {
    fv_ctx *ctx;
    const ar_lm *lm;
    ar_tree_options tree;
    int most_rows, n; /* n committed tokens, then the root */
    int32_t token[AR_MAX_ROWS], parent[AR_MAX_ROWS];
    float *logits;    /* [most_rows, vocab] */
    ar_dists dists;
    ar_tree_work *work;
    ar_tree grown;
} stopwatch;

/* n rows: one behind the other, or all the children of the first. */
static fv_status pass(stopwatch *w, int n, bool is_chain)
{
    const ar_rows rows = { .image = 0, .n = n, .token = w->token, .parent = w->parent,
                           .logits = w->logits };
    for (int i = 0; i < n; i++) {
        w->token[i] = (int32_t)((w->n + i) % w->lm->vocab);
        w->parent[i] = i == 0 ? -1 : is_chain ? i - 1 : 0;
    }
    return w->lm->target(w->lm->self, 1, &rows);
}

/* Half a picture, in few passes. */
static fv_status go_to_the_middle(stopwatch *w)
{
    int32_t token[AR_MAX_ROWS], place[AR_MAX_ROWS];
    const int middle = w->lm->tokens / 2;
    FV_TRY(w->lm->prefill(w->lm->self, 0, w->logits));
    for (w->n = 0; w->n < middle;) {
        const int n = middle - w->n < w->most_rows ? middle - w->n : w->most_rows;
        FV_TRY(fv_report(w->ctx, "measuring", (uint64_t)w->n, (uint64_t)middle, NULL));
        FV_TRY(pass(w, n, true));
        for (int i = 0; i < n; i++) {
            place[i] = i;
            token[i] = w->token[i];
        }
        w->lm->commit(w->lm->self, 0, place, n);
        for (int i = 0; i < n; i++) place[i] = w->n + i - 1;
        if (w->lm->has_draft)
            FV_TRY(w->lm->draft_feed(w->lm->self, 0, n, token, place, w->logits));
        w->n += n;
    }
    return FV_OK;
}

static fv_status one_target(stopwatch *w, int rows) { return pass(w, rows, false); }

static fv_status one_draft(stopwatch *w, int depth)
{
    const ar_sampling sampling = { .temperature = 1.0f, .top_p = 1.0f };
    const int32_t token = 0, feature = w->n - 1;
    const ar_root root = { .position = w->n, .token = token, .most_depth = depth,
                           .draft_logits = w->logits };
    w->tree.depth = depth;
    FV_TRY(w->lm->draft_feed(w->lm->self, 0, 1, &token, &feature, w->logits));
    const fv_status s = ar_tree_grow(w->work, w->lm, &w->tree, &sampling, &root, &w->grown);
    w->lm->draft_rewind(w->lm->self, 0, 1);
    return s;
}

static fv_status one_draw(stopwatch *w, int times)
{
    const ar_sampling sampling = { .temperature = 1.0f, .top_p = 1.0f };
    for (int i = 0; i < times; i++) {
        ar_dist_make(&w->dists, 0, w->logits, &sampling);
        ar_draw(&w->dists, 0, &sampling, (ar_noise){ .seed = 1 }, w->n);
    }
    return FV_OK;
}

/* The shortest of some runs, the first left out: what disturbs only adds. */
static fv_status shortest(stopwatch *w, fv_status (*run)(stopwatch *, int), int argument,
                          double *seconds)
{
    double total = 0.0;
    FV_TRY(run(w, argument));
    *seconds = 1e30;
    for (int i = 0; i < REPEATS && (i == 0 || total < ENOUGH_SECONDS); i++) {
        FV_TRY(fv_report(w->ctx, "measuring", 0, 0, NULL));
        const double start = fv_now();
        FV_TRY(run(w, argument));
        const double t = fv_now() - start;
        total += t;
        if (t < *seconds) *seconds = t;
    }
    return FV_OK;
}

static fv_status time_target(stopwatch *w, ar_cost *c)
{
    c->points = 0;
    for (int rows = 1; c->points < AR_COST_POINTS && rows <= w->most_rows; rows *= 2) {
        double t;
        FV_TRY(shortest(w, one_target, rows, &t));
        /* More rows are never cheaper; what says so was disturbed before. */
        if (c->points && t < c->target[c->points - 1]) t = c->target[c->points - 1];
        c->target[c->points++] = t;
        if (t > DEAREST * c->target[0]) break;
    }
    return FV_OK;
}

static fv_status time_draft(stopwatch *w, ar_cost *c)
{
    const int room = w->lm->tokens - w->n - 2;
    int deep = w->tree.depth < 3 ? w->tree.depth : 3;
    double t;
    if (deep > room) deep = room;
    FV_TRY(shortest(w, one_draft, 1, &c->first));
    c->level = c->first;
    if (deep < 2) return FV_OK;
    FV_TRY(shortest(w, one_draft, deep, &t));
    c->level = t > c->first ? (t - c->first) / (deep - 1) : 0.0;
    return FV_OK;
}

fv_status ar_cost_measure(fv_ctx *ctx, const ar_lm *lm, const ar_tree_options *o, int most_rows,
                          ar_cost *c)
{
    stopwatch w = { .ctx = ctx, .lm = lm, .tree = *o, .most_rows = most_rows };
    fv_status s = FV_ERR_OOM;
    if (most_rows < 1 || most_rows > AR_MAX_ROWS || lm->tokens < AR_COST_TOKENS)
        return fv_fail(ctx, FV_ERR_ARG,
                       "measuring: %d rows of %d tokens: 1..%d rows and at least %d tokens needed",
                       most_rows, lm->tokens, AR_MAX_ROWS, AR_COST_TOKENS);
    w.logits = fv_calloc(ctx, (size_t)most_rows * (size_t)lm->vocab, sizeof *w.logits);
    if (!w.logits) return s;
    FV_TRY_GOTO(ar_dists_create(ctx, &w.dists, lm->vocab, 1));
    FV_TRY_GOTO(ar_tree_work_create(ctx, &w.work, lm->vocab, o, NULL));
    FV_TRY_GOTO(go_to_the_middle(&w));
    FV_TRY_GOTO(time_target(&w, c));
    if (lm->has_draft) FV_TRY_GOTO(time_draft(&w, c));
    FV_TRY_GOTO(shortest(&w, one_draw, 8, &c->draw));
    c->draw /= 8.0;
fail:
    if (w.work) ar_tree_work_destroy(&w.work);
    if (w.dists.ctx) ar_dists_free(&w.dists);
    fv_free(ctx, w.logits);
    return s;
}

double ar_cost_target(const ar_cost *c, double rows)
{
    double at = 1.0;
    int i = 0;
    if (c->points < 2) return c->target[0] * (rows > 1.0 ? rows : 1.0);
    if (rows <= 1.0) return c->target[0];
    while (i + 2 < c->points && rows > 2.0 * at) {
        at *= 2.0;
        i++;
    }
    return c->target[i] + (c->target[i + 1] - c->target[i]) * (rows - at) / at;
}

/* ---- Choice ---------------------------------------------------------------------------------- */

/* What trees of some first nodes of a growing one bring and cost. */
typedef struct growth {
    const ar_cost *cost;
    int images, nodes;
    float gain[AR_MAX_NODES];
    int level[AR_MAX_NODES];
} growth;

static double tokens_a_second(const growth *g, int nodes, double tokens, int levels)
{
    const ar_cost *c = g->cost;
    double own = tokens * c->draw;
    if (levels > 0) own += c->first + (levels - 1) * c->level;
    return g->images * tokens / (ar_cost_target(c, (double)g->images * nodes) + g->images * own);
}

/* The best n >= least; a better one than *best goes to *out. */
static void look_through(const growth *g, int least, double *best, ar_cost_choice *out)
{
    double tokens = 0.0;
    int levels = 0;
    for (int i = 0; i < g->nodes; i++) {
        tokens += g->gain[i];
        if (g->level[i] > levels) levels = g->level[i];
        if (i + 1 < least) continue;
        const double rate = tokens_a_second(g, i + 1, tokens, levels);
        if (rate <= *best) continue;
        *best = rate;
        *out = (ar_cost_choice){ .depth = levels, .nodes = i + 1, .tokens = tokens };
    }
}

void ar_cost_choose(const ar_cost *c, const ar_tree_options *o, int images, ar_cost_choice *out)
{
    const bool is_static = o->kind == AR_DRAFT_STATIC;
    growth g = { .cost = c, .images = images };
    ar_tree_options t = *o;
    double best = 0.0;
    assert(images > 0 && c->points > 0);
    const double plain = tokens_a_second(&g, 1, 1.0, 0);
    t.accept = c->accept[0];
    if (o->kind == AR_DRAFT_EAGLE2) t.kind = AR_DRAFT_GUMBEL;
    for (t.depth = is_static ? o->depth : 1; t.depth <= o->depth; t.depth++) {
        g.nodes = ar_tree_gains(&t, g.gain, g.level);
        look_through(&g, is_static ? g.nodes : 2, &best, out);
    }
    out->speedup = best / plain;
    if (best > plain) return;
    *out = (ar_cost_choice){ .depth = 0, .nodes = 1, .tokens = 1.0, .speedup = best / plain };
}
