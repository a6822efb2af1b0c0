/* ar_net.c - images in the course of decoding: caches, features, the draft's nodes; ar_lm.
 *
 * A sequence is one branch of one image. Its cache has condition slots (values only), then
 *     committed tokens by position | rows of the last pass
 * so that plain decoding commits without moving anything; accepted rows of a tree are moved
 * together by commit. With keep_lines the committed part is the first line of the grid, then a
 * ring of the last lines:
 *     first line | ring of keep_lines lines and REWIND tokens | rows of the last pass
 * What a row sees depends on its position alone: a tree still gives what plain decoding gives. */
#include "ar_net.h"

#include <string.h>

#define MOST_WORK_ROWS 512
#define REWIND 64 /* tokens that may be forgotten where lines are */

typedef struct image {
    int label;
    int condition;    /* rows of it, 1 for a class */
    int n;            /* committed tokens */
    int pass_rows;    /* of the last pass */
    int32_t *more;    /* [rows][rows] ancestors' slots of each, itself last */
    int *depth;       /* [rows] */
    int fed, nodes;   /* draft: pairs for good; temporary nodes */
    int32_t *node_more; /* [AR_MAX_NODES][AR_MAX_NODES] */
    int *node_depth;
} image;

struct ar_net {
    fv_ctx *ctx;
    const ar_weights *w;
    ar_net_options o;
    int branches, rows, tokens, ring; /* ring 0: all lines are kept */
    ar_stack target, draft;
    ar_work *work;
    image *image;
    float *caption;       /* t2i: [seq][cond_tokens][width] input of the condition rows */
    float *null_caption;  /* t2i: [cond_tokens][caption_width] */
    float *cond_feature;  /* [seq][cond_tokens][width]   */
    float *feature;       /* [seq][tokens][width]        */
    float *pass_feature;  /* [seq][rows][width]          */
    float *hidden;        /* [seq][1 + AR_MAX_NODES][width]: end of what was fed, nodes */
    ar_row *row;          /* [work rows] of the pass that is being put together */
    ar_out *out;
    int row_count, out_count;
    uint64_t cache_bytes;
};

static size_t width_of(const ar_net *n) { return (size_t)n->w->cfg.width; }
static size_t seq_of(const ar_net *n, int i, int b)
{
    return (size_t)i * (size_t)n->branches + (size_t)b;
}

const float *ar_net_feature(const ar_net *n, int i, int branch, int position)
{
    const size_t seq = seq_of(n, i, branch), cond = (size_t)n->w->cfg.cond_tokens;
    if (position < 0)
        return n->cond_feature + (seq * cond + (size_t)n->image[i].condition - 1) * width_of(n);
    return n->feature + (seq * (size_t)n->tokens + (size_t)position) * width_of(n);
}

fvi_dec_cache ar_net_cache(const ar_net *n, int i, int branch, int layer, int head)
{
    return ar_stack_cache(n->work, &n->target, (int)seq_of(n, i, branch), layer, head);
}

/* ---- A pass that is being put together ------------------------------------------------------- */

static fv_status flush(ar_net *n, const ar_stack *s)
{
    const int rows = n->row_count, outs = n->out_count;
    n->row_count = n->out_count = 0;
    if (fv_ctx_cancelled(n->ctx)) return fv_fail(n->ctx, FV_ERR_CANCELLED, "cancelled");
    return rows > 0 ? ar_pass_run(n->work, s, n->row, rows, n->out, outs, n->o.cfg) : FV_OK;
}

/* Rows of each branch that still fit. */
static int room(const ar_net *n)
{
    return (ar_work_rows(n->work) - n->row_count) / n->branches;
}

static bool is_guided(const ar_net *n, int position)
{
    const int last = n->o.cfg_interval;
    return n->branches > 1 && (last == -1 || position < 0 || position <= last);
}

/* Logits of the row `cond`, which stands `apart` rows in front of its twin without condition. */
static void want_logits(ar_net *n, int cond, int apart, int position, float *logits)
{
    if (!logits) return;
    n->out[n->out_count++] =
        (ar_out){ cond, is_guided(n, position) ? cond + apart : -1, logits };
}

/* ---- Target ---------------------------------------------------------------------------------- */

static int slot_of(const ar_net *n, int position)
{
    const int G = n->w->cfg.grid;
    return !n->ring || position < G ? position : G + (position - G) % n->ring;
}

static int pass_base(const ar_net *n, const image *m)
{
    return n->ring ? n->w->cfg.grid + n->ring : m->n;
}

/* What a row sees of the committed tokens, and which of its ancestors. */
static void see_past(const ar_net *n, const image *m, ar_row *r)
{
    const int G = n->w->cfg.grid;
    r->ranges = 1;
    r->range[0] = (fvi_dec_range){ 0, n->ring && m->n > G ? G : m->n };
    if (!n->ring || m->n < G) return;
    int first = (r->position / G - n->o.keep_lines + 1) * G;
    if (first < G) first = G;
    const int count = m->n - first, slot = slot_of(n, first), end = G + n->ring;
    if (count < 0) { /* check_rows: not where ancestors stand in the first line */
        r->more -= count;
        r->n_more += count;
    }
    if (count <= 0) return;
    const int one = slot + count <= end ? count : end - slot;
    r->range[r->ranges++] = (fvi_dec_range){ slot, one };
    if (count > one) r->range[r->ranges++] = (fvi_dec_range){ G, count - one };
}

static fv_status check_rows(const ar_net *n, const ar_rows *q, const image *m)
{
    for (int i = 0; i < q->n; i++) {
        const int p = q->parent[i], depth = p < 0 ? 0 : p < i ? m->depth[p] + 1 : n->tokens;
        if (q->token[i] < 0 || q->token[i] >= n->w->cfg.vocab || m->n + depth >= n->tokens ||
            (n->ring && depth >= n->o.keep_lines * n->w->cfg.grid))
            return fv_fail(n->ctx, FV_ERR_INTERNAL, "decoding: row %d lies outside the picture", i);
        m->depth[i] = depth;
    }
    return FV_OK;
}

static fv_status plan_rows(const ar_net *n, const ar_rows *q)
{
    image *m = &n->image[q->image];
    const size_t width = (size_t)n->rows;
    if (q->n > n->rows)
        return fv_fail(n->ctx, FV_ERR_CAPACITY, "decoding: %d rows in a pass, made for %d", q->n,
                       n->rows);
    FV_TRY(check_rows(n, q, m));
    m->pass_rows = q->n;
    for (int i = 0; i < q->n; i++) {
        int32_t *more = m->more + (size_t)i * width;
        if (q->parent[i] >= 0)
            memcpy(more, m->more + (size_t)q->parent[i] * width,
                   (size_t)m->depth[i] * sizeof *more);
        more[m->depth[i]] = pass_base(n, m) + i;
    }
    return FV_OK;
}

/* Rows begin .. end - 1 of a request, all branches. */
static void put_rows(ar_net *n, const ar_rows *q, int begin, int end)
{
    const image *m = &n->image[q->image];
    for (int b = 0; b < n->branches; b++)
        for (int i = begin; i < end; i++) {
            const size_t seq = seq_of(n, q->image, b);
            ar_row *r = &n->row[n->row_count];
            *r = (ar_row){ .seq = (int)seq, .position = m->n + m->depth[i],
                           .slot = pass_base(n, m) + i, .zeros = m->condition,
                           .more = m->more + (size_t)i * (size_t)n->rows,
                           .n_more = m->depth[i] + 1 };
            r->keep = n->pass_feature + (seq * (size_t)n->rows + (size_t)i) * width_of(n);
            see_past(n, m, r);
            ar_table_row(&n->w->tokens, q->token[i], ar_work_input(n->work, n->row_count, false));
            if (b == 0)
                want_logits(n, n->row_count, end - begin, r->position,
                            q->logits && i >= q->silent
                                ? q->logits + (size_t)i * (size_t)n->w->cfg.vocab
                                : NULL);
            n->row_count++;
        }
}

static fv_status target(void *self, int images, const ar_rows *rows)
{
    ar_net *n = self;
    n->row_count = n->out_count = 0;
    for (int k = 0; k < images; k++) {
        FV_TRY(plan_rows(n, &rows[k]));
        for (int i = 0, take; i < rows[k].n; i += take) {
            if (room(n) == 0) FV_TRY(flush(n, &n->target));
            take = rows[k].n - i < room(n) ? rows[k].n - i : room(n);
            put_rows(n, &rows[k], i, i + take);
        }
    }
    return flush(n, &n->target);
}

/* Rows that stand elsewhere, in all branches. */
static void move_rows(ar_net *n, int i, const int32_t *row, int count)
{
    const image *m = &n->image[i];
    ar_moves moves = { .seq = (int)seq_of(n, i, 0), .seqs = n->branches };
    for (int k = 0; k < count; k++) {
        const int from = pass_base(n, m) + row[k], to = slot_of(n, m->n + k);
        if (from != to) {
            moves.from[moves.count] = from;
            moves.to[moves.count++] = to;
        }
        if (moves.count == 0 || (moves.count < AR_MOVES && k + 1 < count)) continue;
        ar_stack_move(n->work, &n->target, &moves);
        moves.count = 0;
    }
}

static void commit(void *self, int i, const int32_t *row, int count)
{
    ar_net *n = self;
    image *m = &n->image[i];
    const size_t width = width_of(n);
    move_rows(n, i, row, count);
    for (int b = 0; b < n->branches; b++) {
        const size_t seq = seq_of(n, i, b);
        for (int k = 0; k < count; k++)
            memcpy(n->feature + (seq * (size_t)n->tokens + (size_t)(m->n + k)) * width,
                   n->pass_feature + (seq * (size_t)n->rows + (size_t)row[k]) * width,
                   width * sizeof(float));
    }
    m->n += count;
}

static void rewind_tokens(void *self, int i, int count)
{
    ar_net *n = self;
    n->image[i].n -= count;
}

/* ---- Draft ----------------------------------------------------------------------------------- */

static float *hidden_of(const ar_net *n, size_t seq, int node) /* -1: end of what was fed */
{
    return n->hidden + (seq * (1 + AR_MAX_NODES) + (size_t)(node + 1)) * width_of(n);
}

/* A row of the draft: token, and the feature before it. */
static ar_row *put_pair(ar_net *n, int i, int b, int32_t token, const float *feature)
{
    const image *m = &n->image[i];
    ar_row *r = &n->row[n->row_count];
    float *input = ar_work_input(n->work, n->row_count, true);
    ar_table_row(&n->w->draft_tokens, token, input);
    memcpy(input + width_of(n), feature, width_of(n) * sizeof *input);
    *r = (ar_row){ .seq = (int)seq_of(n, i, b), .zeros = m->condition - 1, .ranges = 1 };
    n->row_count++;
    return r;
}

/* Pairs (embedding of 0, feature of a condition row), all but the last row (t2i). */
static fv_status feed_prefix(ar_net *n, int i)
{
    const image *m = &n->image[i];
    const size_t cond = (size_t)n->w->cfg.cond_tokens;
    for (int k = 0, take; k < m->condition - 1; k += take) {
        take = m->condition - 1 - k < room(n) ? m->condition - 1 - k : room(n);
        for (int b = 0; b < n->branches; b++)
            for (int j = k; j < k + take; j++) {
                const float *f =
                    n->cond_feature + (seq_of(n, i, b) * cond + (size_t)j) * width_of(n);
                ar_row *r = put_pair(n, i, b, 0, f);
                r->position = -1;
                r->slot = j;
                r->zeros = j + 1;
                r->ranges = 0;
            }
        FV_TRY(flush(n, &n->draft));
    }
    return FV_OK;
}

static fv_status outside(const ar_net *n)
{
    return fv_fail(n->ctx, FV_ERR_INTERNAL, "drafting: a token or a feature is out of range");
}

static fv_status check_pairs(const ar_net *n, int i, int count, const int32_t *token,
                             const int32_t *feature)
{
    const image *m = &n->image[i];
    if (count < 1 || m->fed + count > n->tokens) return outside(n);
    for (int k = 0; k < count; k++)
        if (token[k] < 0 || token[k] >= n->w->cfg.vocab || feature[k] < -1 || feature[k] >= m->n)
            return outside(n);
    return FV_OK;
}

static fv_status draft_feed(void *self, int i, int count, const int32_t *token,
                            const int32_t *feature, float *logits)
{
    ar_net *n = self;
    image *m = &n->image[i];
    FV_TRY(check_pairs(n, i, count, token, feature));
    m->nodes = 0;
    for (int k = 0, take; k < count; k += take) {
        take = count - k < room(n) ? count - k : room(n);
        for (int b = 0; b < n->branches; b++)
            for (int j = k; j < k + take; j++) {
                ar_row *r = put_pair(n, i, b, token[j], ar_net_feature(n, i, b, feature[j]));
                r->position = r->slot = m->fed + j;
                r->range[0] = (fvi_dec_range){ 0, m->fed + j + 1 };
                if (j + 1 < count) continue;
                r->keep = hidden_of(n, seq_of(n, i, b), -1);
                if (b == 0) want_logits(n, n->row_count - 1, take, r->position, logits);
            }
        FV_TRY(flush(n, &n->draft));
    }
    m->fed += count;
    return FV_OK;
}

static fv_status check_nodes(const ar_net *n, int i, int count, const int32_t *token,
                             const int32_t *parent)
{
    const image *m = &n->image[i];
    if (count < 1 || m->nodes + count > AR_MAX_NODES || m->fed < 1) return outside(n);
    for (int k = 0; k < count; k++) {
        if (token[k] < 0 || token[k] >= n->w->cfg.vocab || parent[k] < -1 || parent[k] >= m->nodes)
            return outside(n);
        const int depth = parent[k] < 0 ? 0 : m->node_depth[parent[k]] + 1;
        if (m->fed + depth >= n->tokens) return outside(n);
    }
    return FV_OK;
}

static fv_status draft_nodes(void *self, int i, int count, const int32_t *token,
                             const int32_t *parent, float *logits)
{
    ar_net *n = self;
    image *m = &n->image[i];
    FV_TRY(check_nodes(n, i, count, token, parent));
    for (int k = 0; k < count; k++) {
        const int node = m->nodes + k, p = parent[k];
        int32_t *more = m->node_more + (size_t)node * AR_MAX_NODES;
        const int depth = m->node_depth[node] = p < 0 ? 0 : m->node_depth[p] + 1;
        if (p >= 0)
            memcpy(more, m->node_more + (size_t)p * AR_MAX_NODES, (size_t)depth * sizeof *more);
        more[depth] = m->fed + node;
    }
    for (int k = 0, take; k < count; k += take) {
        take = count - k < room(n) ? count - k : room(n);
        for (int b = 0; b < n->branches; b++)
            for (int j = k; j < k + take; j++) {
                const int node = m->nodes + j;
                const size_t seq = seq_of(n, i, b);
                ar_row *r = put_pair(n, i, b, token[j], hidden_of(n, seq, parent[j]));
                r->position = m->fed + m->node_depth[node];
                r->slot = m->fed + node;
                r->range[0] = (fvi_dec_range){ 0, m->fed };
                r->more = m->node_more + (size_t)node * AR_MAX_NODES;
                r->n_more = m->node_depth[node] + 1;
                r->keep = hidden_of(n, seq, node);
                if (b == 0)
                    want_logits(n, n->row_count - 1, take, r->position,
                                logits + (size_t)j * (size_t)n->w->cfg.vocab);
            }
        FV_TRY(flush(n, &n->draft));
    }
    m->nodes += count;
    return FV_OK;
}

static void draft_rewind(void *self, int i, int count)
{
    ar_net *n = self;
    n->image[i].fed -= count;
    n->image[i].nodes = 0;
}

/* ---- Condition ------------------------------------------------------------------------------- */

void ar_net_set_class(ar_net *n, int i, int label) { n->image[i].label = label; }

/* The null caption keeps the rows where the caption has its own: captions stand at the end. */
fv_status ar_net_set_caption(ar_net *n, int i, const float *features, int tokens)
{
    const gpt_config *c = &n->w->cfg;
    const size_t cond = (size_t)c->cond_tokens, d = width_of(n);
    if (!n->caption || tokens < 1 || tokens > c->cond_tokens)
        return fv_fail(n->ctx, FV_ERR_ARG, "caption of %d tokens: this model takes %s%d", tokens,
                       n->caption ? "1 to " : "classes, not captions; 1 to ", c->cond_tokens);
    n->image[i].condition = tokens;
    FV_TRY(ar_caption_rows(n->work, features, tokens, n->caption + seq_of(n, i, 0) * cond * d));
    if (n->branches == 1) return FV_OK;
    for (int k = 0; k < tokens; k++)
        ar_table_row(&n->w->null_caption, c->cond_tokens - tokens + k,
                     n->null_caption + (size_t)k * (size_t)c->caption_width);
    return ar_caption_rows(n->work, n->null_caption, tokens,
                           n->caption + seq_of(n, i, 1) * cond * d);
}

static void put_condition(ar_net *n, int i, int b, int k)
{
    const gpt_config *c = &n->w->cfg;
    const size_t seq = seq_of(n, i, b), at = seq * (size_t)c->cond_tokens + (size_t)k;
    float *input = ar_work_input(n->work, n->row_count, false);
    if (n->caption) memcpy(input, n->caption + at * width_of(n), width_of(n) * sizeof *input);
    else ar_table_row(&n->w->classes, b ? c->classes : n->image[i].label, input);
    n->row[n->row_count++] = (ar_row){ .seq = (int)seq, .position = -1, .slot = k, .zeros = k + 1,
                                       .keep = n->cond_feature + at * width_of(n) };
}

static fv_status prefill(void *self, int i, float *logits)
{
    ar_net *n = self;
    image *m = &n->image[i];
    m->n = m->fed = m->nodes = m->pass_rows = 0;
    for (int k = 0, take; k < m->condition; k += take) {
        take = m->condition - k < room(n) ? m->condition - k : room(n);
        for (int b = 0; b < n->branches; b++)
            for (int j = k; j < k + take; j++) {
                put_condition(n, i, b, j);
                if (b == 0 && j + 1 == m->condition)
                    want_logits(n, n->row_count - 1, take, -1, logits);
            }
        FV_TRY(flush(n, &n->target));
    }
    return n->w->has_draft ? feed_prefix(n, i) : FV_OK;
}

/* ---- Making one ------------------------------------------------------------------------------ */

ar_lm ar_net_lm(ar_net *n)
{
    return (ar_lm){ n, n->w->cfg.vocab, n->tokens, n->w->has_draft, prefill, target, commit,
                    rewind_tokens, draft_feed, draft_nodes, draft_rewind };
}

uint64_t ar_net_cache_bytes(const ar_net *n) { return n->cache_bytes; }

static float *per_sequence(ar_net *n, size_t rows)
{
    const size_t seqs = (size_t)n->o.images * (size_t)n->branches;
    n->cache_bytes += seqs * rows * width_of(n) * sizeof(float);
    return fv_calloc(n->ctx, seqs * rows, width_of(n) * sizeof(float));
}

static fv_status create_images(ar_net *n)
{
    const size_t rows = (size_t)n->rows;
    n->image = fv_calloc(n->ctx, (size_t)n->o.images, sizeof *n->image);
    if (!n->image) return FV_ERR_OOM;
    for (int i = 0; i < n->o.images; i++) {
        image *m = &n->image[i];
        m->condition = 1;
        m->more = fv_calloc(n->ctx, rows * rows, sizeof *m->more);
        m->depth = fv_calloc(n->ctx, rows, sizeof *m->depth);
        if (!m->more || !m->depth) return FV_ERR_OOM;
        if (!n->w->has_draft) continue;
        m->node_more = fv_calloc(n->ctx, AR_MAX_NODES * AR_MAX_NODES, sizeof *m->node_more);
        m->node_depth = fv_calloc(n->ctx, AR_MAX_NODES, sizeof *m->node_depth);
        if (!m->node_more || !m->node_depth) return FV_ERR_OOM;
    }
    return FV_OK;
}

static fv_status create_caches(ar_net *n)
{
    const gpt_config *c = &n->w->cfg;
    const size_t cond = (size_t)c->cond_tokens;
    const int seqs = n->o.images * n->branches;
    FV_TRY(ar_stack_create(n->ctx, &n->target, c, n->o.kv, seqs, &n->cache_bytes));
    n->cond_feature = per_sequence(n, cond);
    n->feature = per_sequence(n, (size_t)n->tokens);
    n->pass_feature = per_sequence(n, (size_t)n->rows);
    if (!n->cond_feature || !n->feature || !n->pass_feature) return FV_ERR_OOM;
    if (!c->classes) {
        n->caption = per_sequence(n, cond);
        n->null_caption = fv_calloc(n->ctx, cond, (size_t)c->caption_width * sizeof(float));
        if (!n->caption || !n->null_caption) return FV_ERR_OOM;
    }
    if (!n->w->has_draft) return FV_OK;
    FV_TRY(ar_stack_create(n->ctx, &n->draft, c, n->o.kv, seqs, &n->cache_bytes));
    n->hidden = per_sequence(n, 1 + AR_MAX_NODES);
    return n->hidden ? FV_OK : FV_ERR_OOM;
}

static void plan_stacks(ar_net *n)
{
    const gpt_config *c = &n->w->cfg;
    const int kept = n->ring ? c->grid + n->ring : n->tokens;
    n->target = (ar_stack){ .layers = c->layers, .condition = c->cond_tokens,
                            .slots = kept + n->rows, .layer = n->w->layer, .eps = c->norm_eps };
    n->draft = (ar_stack){ .layers = 1, .condition = c->cond_tokens - 1,
                           .slots = n->tokens + AR_MAX_NODES, .layer = &n->w->draft,
                           .eps = c->draft_eps, .is_draft = true };
}

static fv_status create_work(ar_net *n)
{
    int rows = n->o.images * n->branches;
    rows = rows > MOST_WORK_ROWS / n->rows ? MOST_WORK_ROWS : rows * n->rows;
    if (rows < n->branches) rows = n->branches;
    const int slots = n->target.slots > n->draft.slots ? n->target.slots : n->draft.slots;
    FV_TRY(ar_work_create(n->ctx, &n->work, n->w, n->o.kv, rows, n->w->cfg.cond_tokens, slots));
    n->row = fv_calloc(n->ctx, (size_t)rows, sizeof *n->row);
    n->out = fv_calloc(n->ctx, (size_t)rows, sizeof *n->out);
    return n->row && n->out ? FV_OK : FV_ERR_OOM;
}

static fv_status check_options(fv_ctx *ctx, const ar_net_options *o)
{
    const int rows = o->rows ? o->rows : AR_MAX_ROWS;
    if (o->images < 1 || o->images > 65536 || rows < 1 || rows > 4096)
        return fv_fail(ctx, FV_ERR_ARG, "decoding: %d pictures of %d rows at once", o->images,
                       rows);
    if (o->kv != FV_F32 && o->kv != FV_BF16 && o->kv != FV_I8)
        return fv_fail(ctx, FV_ERR_ARG, "decoding: keys and values must be f32, bf16 or int8");
    if (o->keep_lines < 0 || o->keep_lines == 1)
        return fv_fail(ctx, FV_ERR_ARG, "decoding: keep_lines is %d: 0 (all), or 2 and more",
                       o->keep_lines);
    return FV_OK;
}

fv_status ar_net_create(fv_ctx *ctx, ar_net **out, const ar_weights *w, const ar_net_options *o)
{
    *out = NULL;
    FV_TRY(check_options(ctx, o));
    ar_net *n = fv_calloc(ctx, 1, sizeof *n);
    if (!n) return FV_ERR_OOM;
    n->ctx = ctx;
    n->w = w;
    n->o = *o;
    n->rows = o->rows ? o->rows : AR_MAX_ROWS;
    n->tokens = gpt_tokens(&w->cfg);
    n->branches = o->cfg > 1 ? AR_BRANCHES : 1;
    n->ring = o->keep_lines ? o->keep_lines * w->cfg.grid + REWIND : 0;
    if (o->keep_lines + 1 >= w->cfg.grid) n->ring = 0; /* nothing would ever leave */
    plan_stacks(n);
    fv_status s = create_images(n);
    if (s == FV_OK) s = create_caches(n);
    if (s == FV_OK) s = create_work(n);
    if (s != FV_OK) ar_net_destroy(&n);
    *out = n;
    return s;
}

void ar_net_destroy(ar_net **nn)
{
    ar_net *n = nn ? *nn : NULL;
    if (!n) return;
    *nn = NULL;
    for (int i = 0; n->image && i < n->o.images; i++) {
        fv_free(n->ctx, n->image[i].more);
        fv_free(n->ctx, n->image[i].depth);
        fv_free(n->ctx, n->image[i].node_more);
        fv_free(n->ctx, n->image[i].node_depth);
    }
    ar_work_destroy(&n->work);
    ar_stack_destroy(n->ctx, &n->target);
    ar_stack_destroy(n->ctx, &n->draft);
    void *mem[] = { n->image, n->caption, n->null_caption, n->cond_feature, n->feature,
                    n->pass_feature, n->hidden, n->row, n->out };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(n->ctx, mem[i]);
    fv_free(n->ctx, n);
}
