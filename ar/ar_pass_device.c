/* ar_pass_device.c - rows through all layers on a device.
 *
 * The host keeps what it decides with: tokens, features, logits. A pass is one block to the device
 * (which rows, what they see, what they begin with), kernels in a row, and one block back: logits
 * after guidance, and the features that are asked for. Keys and values stay there.
 *
 * Of a layer: norm | qkv | turn, store keys | attend, join | h += Wo o | norm | silu(gate) up |
 * h += W2 g. Rows are rounded for the next product where they are made, but for int8, whose scale
 * wants the whole row: there a kernel more before Wo and W2. Passes of a shape that came before are one
 * graph. */
#include "ar_net.h"
#include "device_graph.h"

#include <math.h>
#include <string.h>

#define GRAPHS 32

/* What the launches of a pass depend on; compared as bytes. */
typedef struct shape { int32_t is_draft, rows, wanted, outs, keeps, chunks; } shape;
typedef struct kept_graph {
    shape shape;
    float guidance;
    const ar_stack *stack;
    int passes; /* so far; 0: free */
    fvi_graph *graph;
} kept_graph;

struct ar_device {
    fv_ctx *ctx;
    const ar_weights *w;
    int rows, most_chunks;
    size_t most_more;
    fv_status failed; /* of a move, told with the next pass */
    /* host */
    int32_t *pass;
    float *input, *back; /* [rows, 2 width], [rows, vocab] and [rows, width] */
    /* device */
    int32_t *near;
    float *h, *qkv, *logits, *down, *part, *q_scale, *x_scale, *att, *gate;
    void *x;             /* rows for products: of any width */
    int8_t *q8;
    kept_graph graph[GRAPHS];
    int next_graph; /* that gives way to a new shape */
    bool is_off;    /* a recording was refused: passes run as they are */
};

/* Of the pass that runs. */
typedef struct run {
    ar_device *d;
    const ar_stack *s;
    int rows, wanted, outs, keeps, chunks;
} run;

/* ---- The block that goes there --------------------------------------------------------------- */

static size_t row_ints(void) { return sizeof(fvk_dec_row) / sizeof(int32_t); }

static size_t most_ints(const ar_device *d)
{
    const size_t rows = (size_t)d->rows;
    return FVK_PASS_HEAD + rows * (row_ints() + 2) + d->most_more + 4 +
           rows * 2 * (size_t)d->w->cfg.width;
}

static fvk_dec_row describe(const ar_row *r, int *keeps)
{
    fvk_dec_row to = { .seq = r->seq, .position = r->position, .slot = r->slot, .zeros = r->zeros,
                       .ranges = r->ranges, .n_more = r->n_more, .place = -1, .keep = -1 };
    for (int i = 0; i < r->ranges; i++) {
        to.first[i] = r->range[i].first;
        to.n[i] = r->range[i].n;
    }
    if (r->keep) to.keep = (*keeps)++;
    return to;
}

static int keys_of(const fvk_dec_row *r)
{
    int n = r->zeros + r->n_more;
    for (int i = 0; i < r->ranges; i++) n += r->n[i];
    return n;
}

/* Rows with logits stand together, in their order. */
static int place_rows(fvk_dec_row *to, int rows, const ar_out *out, int outs, int32_t *list)
{
    int wanted = 0;
    for (int i = 0; i < outs; i++) {
        to[out[i].cond].place = 0;
        if (out[i].null >= 0) to[out[i].null].place = 0;
    }
    for (int r = 0; r < rows; r++)
        if (to[r].place == 0) to[r].place = wanted++;
    for (int i = 0; i < outs; i++) {
        list[2 * i] = to[out[i].cond].place;
        list[2 * i + 1] = out[i].null >= 0 ? to[out[i].null].place : -1;
    }
    return wanted;
}

/* Fills the block and sends it. */
static fv_status send(run *k, const ar_row *row, const ar_out *out)
{
    ar_device *d = k->d;
    int32_t *p = d->pass;
    fvk_dec_row *to = (fvk_dec_row *)(void *)(p + FVK_PASS_HEAD);
    const size_t width = (size_t)d->w->cfg.width * (k->s->is_draft ? 2 : 1);
    const size_t list = FVK_PASS_HEAD + (size_t)k->rows * row_ints(),
                 first = list + 2 * (size_t)k->outs;
    size_t at = first;
    int most = 1;
    for (int r = 0; r < k->rows; r++) {
        to[r] = describe(&row[r], &k->keeps);
        to[r].more = (int32_t)at;
        if (at - first + (size_t)row[r].n_more > d->most_more)
            return fv_fail(d->ctx, FV_ERR_INTERNAL, "decoding: rows with too many ancestors");
        if (row[r].n_more > 0)
            memcpy(p + at, row[r].more, (size_t)row[r].n_more * sizeof *p);
        at += (size_t)row[r].n_more;
        if (keys_of(&to[r]) > most) most = keys_of(&to[r]);
    }
    at = (at + 3) / 4 * 4;
    k->chunks = FVI_DEV_CHUNKS(most);
    k->wanted = place_rows(to, k->rows, out, k->outs, p + list);
    p[FVK_PASS_ROWS] = k->rows;
    p[FVK_PASS_WANTED] = k->wanted;
    p[FVK_PASS_OUTS] = k->outs;
    p[FVK_PASS_LIST] = (int32_t)list;
    p[FVK_PASS_INPUT] = (int32_t)at;
    memcpy(p + at, d->input, (size_t)k->rows * width * sizeof *p);
    return fv_dev_copy(d->ctx, d->near, p, (at + (size_t)k->rows * width) * sizeof *p,
                       FV_COPY_TO_DEVICE);
}

/* ---- Kernels --------------------------------------------------------------------------------- */

/* Rows of a product with m to d->x. x NULL: the input of the pass, kept in h if `keeps_it`. */
static fv_status prepare(const run *k, const fvi_dec_matrix *m, const float *x, const float *norm,
                         bool keeps_it)
{
    ar_device *d = k->d;
    const fvk_dec_prepare_args a = {
        .pass = d->near, .x = x, .norm = norm, .y = d->x, .scale = d->x_scale,
        .copy = keeps_it ? d->h : NULL, .down = d->down, .ld = m->K, .K = m->K,
        .room = (int64_t)fvi_dec_pad(m->K), .vocab = d->w->cfg.vocab, .type = (int32_t)m->type,
        .cast = d->w->type == FV_BF16, .eps = k->s->eps
    };
    return fvi_dev_prepare(d->ctx, &a, k->rows);
}

static fv_status multiply(const run *k, const fvi_dec_matrix *m, const void *x, float *y, bool add)
{
    const ar_device *d = k->d;
    const fvi_dev_product p = { .pass = d->near, .m = m, .x = x, .x_scale = d->x_scale,
                                .y = { y, 0, add }, .ldy = (size_t)m->N, .act = FV_ACT_NONE,
                                .rows = k->rows };
    return fvi_dev_multiply(d->ctx, &p);
}

/* What a kernel leaves for a product: rounded already, but for int8. */
static bool is_half(const ar_device *d) { return d->w->type == FV_BF16; }
static size_t room_of(const ar_device *d, int width)
{
    return d->w->type == FV_I8 ? (size_t)width : fvi_dec_pad(width);
}
static fv_status ready(const run *k, const fvi_dec_matrix *m, const float *rows, const void **x)
{
    *x = rows;
    if (m->type != FV_I8) return FV_OK;
    *x = k->d->x;
    return prepare(k, m, rows, NULL, false);
}

static fv_status attend(const run *k, int layer)
{
    ar_device *d = k->d;
    const gpt_config *c = &d->w->cfg;
    const fvk_dec_store_args st = { .pass = d->near, .qkv = d->qkv, .q_scale = d->q_scale,
                                    .rope = d->w->rope, .q8 = d->q8, .cache = k->s->near,
                                    .ld = 3 * (int64_t)c->width, .layer = layer };
    const fvk_dec_attend_args at = { .pass = d->near, .qkv = d->qkv, .q_scale = d->q_scale,
                                     .q8 = d->q8, .part = d->part, .cache = k->s->near,
                                     .ld = 3 * (int64_t)c->width, .layer = layer,
                                     .chunks = k->chunks,
                                     .scale = 1.0f / sqrtf((float)gpt_head(c)) };
    FV_TRY(fvi_dev_store(d->ctx, &st, k->rows));
    return fvi_dev_attend(d->ctx, &at, (fvk_out){ d->att, is_half(d), 0 }, room_of(d, c->width),
                          k->rows);
}

static fv_status run_layer(const run *k, int l)
{
    ar_device *d = k->d;
    const ar_layer *a = &k->s->layer[l];
    const bool is_first = l == 0 && !k->s->is_draft;
    const void *x;
    FV_TRY(prepare(k, &a->qkv, is_first ? NULL : d->h, a->norm1, is_first));
    FV_TRY(multiply(k, &a->qkv, d->x, d->qkv, false));
    FV_TRY(attend(k, l));
    FV_TRY(ready(k, &a->wo, d->att, &x));
    FV_TRY(multiply(k, &a->wo, x, d->h, true));
    FV_TRY(prepare(k, &a->w1, d->h, a->norm2, false));
    const fvi_dev_product gate = { .pass = d->near, .m = &a->w1, .up = &a->w3, .x = d->x,
                                   .x_scale = d->x_scale, .y = { d->gate, is_half(d), 0 },
                                   .ldy = room_of(d, d->w->cfg.ffn), .act = FV_ACT_SILU,
                                   .rows = k->rows };
    FV_TRY(fvi_dev_multiply(d->ctx, &gate));
    FV_TRY(ready(k, &a->w2, d->gate, &x));
    return multiply(k, &a->w2, x, d->h, true);
}

/* Features behind the last norm, and logits. */
static fv_status run_head(const run *k, float guidance)
{
    ar_device *d = k->d;
    const ar_weights *w = d->w;
    const fvi_dec_matrix *m = &w->head;
    const fvk_dec_prepare_args a = {
        .pass = d->near, .x = d->h, .norm = k->s->is_draft ? NULL : w->norm, .y = d->x,
        .scale = d->x_scale, .down = d->down, .ld = m->K, .K = m->K,
        .room = (int64_t)fvi_dec_pad(m->K), .vocab = m->N, .type = (int32_t)m->type,
        .cast = is_half(d), .is_last = 1, .eps = k->s->eps
    };
    const fvi_dev_product p = { .pass = d->near, .m = m, .x = d->x, .x_scale = d->x_scale,
                                .y = { d->logits, 0, 0 }, .ldy = (size_t)m->N, .act = FV_ACT_NONE,
                                .is_last = true, .rows = k->wanted };
    const fvk_dec_guide_args g = { .pass = d->near, .logits = d->logits, .down = d->down,
                                   .vocab = m->N, .guidance = guidance };
    if (k->outs || k->keeps) FV_TRY(fvi_dev_prepare(d->ctx, &a, k->rows));
    if (k->outs == 0) return FV_OK;
    FV_TRY(fvi_dev_multiply(d->ctx, &p));
    return fvi_dev_guide(d->ctx, &g, k->outs);
}

static fv_status run_all(const run *k, float guidance)
{
    ar_device *d = k->d;
    if (k->s->is_draft) {
        FV_TRY(prepare(k, &d->w->fc, NULL, NULL, false));
        FV_TRY(multiply(k, &d->w->fc, d->x, d->h, false));
    }
    for (int l = 0; l < k->s->layers; l++) FV_TRY(run_layer(k, l));
    return run_head(k, guidance);
}

/* ---- The block that comes back --------------------------------------------------------------- */

static fv_status fetch(const run *k, const ar_row *row, const ar_out *out)
{
    ar_device *d = k->d;
    const size_t vocab = (size_t)d->w->cfg.vocab, width = (size_t)d->w->cfg.width;
    const size_t n = (size_t)k->outs * vocab + (size_t)k->keeps * width;
    const float *from = d->back;
    if (n == 0) return FV_OK;
    FV_TRY(fv_dev_copy(d->ctx, d->back, d->down, n * sizeof *d->back, FV_COPY_TO_HOST));
    for (int i = 0; i < k->outs; i++, from += vocab) memcpy(out[i].out, from, vocab * sizeof *from);
    for (int r = 0; r < k->rows; r++) {
        if (!row[r].keep) continue;
        memcpy(row[r].keep, from, width * sizeof *from);
        from += width;
    }
    return FV_OK;
}

/* ---- Graphs ---------------------------------------------------------------------------------- */

/* Launches are made for a few more rows, so that few shapes serve: kernels look how many there are. */
static int bucket(int n, int most)
{
    int b = n < 1 ? 0 : 1;
    while (b < n && b < 8) b *= 2;
    if (b < n) b = n <= 64 ? (n + 7) / 8 * 8 : (n + 31) / 32 * 32;
    return b < most ? b : most;
}

static kept_graph *find_graph(ar_device *d, const run *k, const shape *s, float guidance)
{
    for (int i = 0; i < GRAPHS; i++) {
        kept_graph *g = &d->graph[i];
        if (g->passes && g->stack == k->s && g->guidance == guidance &&
            memcmp(&g->shape, s, sizeof *s) == 0)
            return g;
    }
    kept_graph *g = &d->graph[d->next_graph];
    d->next_graph = (d->next_graph + 1) % GRAPHS;
    fvi_graph_destroy(d->ctx, &g->graph);
    *g = (kept_graph){ .shape = *s, .guidance = guidance, .stack = k->s };
    return g;
}

/* The second pass of a shape is recorded: making a graph costs more than a pass. */
static fv_status run_graph(const run *exact, float guidance)
{
    ar_device *d = exact->d;
    run k = *exact;
    k.rows = bucket(k.rows, d->rows);
    k.wanted = bucket(k.wanted, d->rows);
    k.outs = bucket(k.outs, d->rows);
    k.keeps = k.keeps > 0;
    k.chunks = k.chunks <= 4 ? k.chunks : (k.chunks + 3) / 4 * 4;
    if (k.chunks > d->most_chunks) k.chunks = d->most_chunks;
    const shape s = { k.s->is_draft, k.rows, k.wanted, k.outs, k.keeps, k.chunks };
    kept_graph *g = find_graph(d, &k, &s, guidance);
    if (g->passes++ == 0) return run_all(&k, guidance);
    if (!g->graph && !d->is_off) {
        fv_status made = fvi_graph_begin(d->ctx);
        if (made == FV_OK) made = fvi_graph_finish(d->ctx, run_all(&k, guidance), &g->graph);
        d->is_off = made != FV_OK;
    }
    return g->graph ? fvi_graph_run(d->ctx, g->graph) : run_all(&k, guidance);
}

fv_status ar_device_run(ar_device *d, const ar_stack *s, const ar_row *row, int rows,
                        const ar_out *out, int outs, float guidance)
{
    run k = { .d = d, .s = s, .rows = rows, .outs = outs };
    const fv_status failed = d->failed;
    d->failed = FV_OK;
    if (failed != FV_OK) return failed;
    FV_TRY(send(&k, row, out));
    FV_TRY(run_graph(&k, guidance));
    return fetch(&k, row, out);
}

void ar_device_move(ar_device *d, const ar_stack *s, const ar_moves *m)
{
    const fv_status st =
        fvi_dev_move(d->ctx, &s->near, m->seq, m->seqs, m->from, m->to, m->count);
    if (d->failed == FV_OK) d->failed = st;
}

float *ar_device_input(ar_device *d, int i, bool is_draft)
{
    return d->input + (size_t)i * (size_t)d->w->cfg.width * (is_draft ? 2 : 1);
}

/* ---- Captions: once a picture, as passes without attention ------------------------------------- */

static fv_status caption_rows(ar_device *d, const float *x, int n, float *y)
{
    const ar_weights *w = d->w;
    const ar_stack none = { .is_draft = false };
    const run k = { .d = d, .s = &none, .rows = n };
    const size_t in = (size_t)n * (size_t)w->cfg.caption_width;
    int32_t head[FVK_PASS_HEAD] = { n };
    head[FVK_PASS_INPUT] = FVK_PASS_HEAD;
    FV_TRY(fv_dev_copy(d->ctx, d->near, head, sizeof head, FV_COPY_TO_DEVICE));
    FV_TRY(fv_dev_copy(d->ctx, d->near + FVK_PASS_HEAD, x, in * sizeof *x, FV_COPY_TO_DEVICE));
    FV_TRY(prepare(&k, &w->fc1, NULL, NULL, false));
    const fvi_dev_product up = { .pass = d->near, .m = &w->fc1, .x = d->x, .x_scale = d->x_scale,
                                 .y = { d->att, is_half(d), 0 }, .ldy = room_of(d, w->cfg.width),
                                 .act = FV_ACT_GELU_TANH, .rows = n };
    const void *rows;
    FV_TRY(fvi_dev_multiply(d->ctx, &up));
    FV_TRY(ready(&k, &w->fc2, d->att, &rows));
    FV_TRY(multiply(&k, &w->fc2, rows, d->h, false));
    return fv_dev_copy(d->ctx, y, d->h, (size_t)n * (size_t)w->cfg.width * sizeof *y,
                       FV_COPY_TO_HOST);
}

fv_status ar_device_captions(ar_device *d, const float *x, int n, float *y)
{
    for (int i = 0, take; i < n; i += take) {
        take = n - i < d->rows ? n - i : d->rows;
        FV_TRY(caption_rows(d, x + (size_t)i * (size_t)d->w->cfg.caption_width, take,
                            y + (size_t)i * (size_t)d->w->cfg.width));
    }
    return FV_OK;
}

/* ---- Memory ---------------------------------------------------------------------------------- */

/* Whole groups of rows: products read those behind the last one, too. */
static void *floats(const ar_device *d, size_t row)
{
    const size_t groups = ((size_t)d->rows + FVK_DEC_ROWS - 1) / FVK_DEC_ROWS;
    return fv_dev_alloc(d->ctx, groups * FVK_DEC_ROWS, row * sizeof(float));
}

static fv_status create(ar_device *d)
{
    const gpt_config *c = &d->w->cfg;
    const size_t width = (size_t)c->width, vocab = (size_t)c->vocab, rows = (size_t)d->rows;
    size_t wide = (size_t)c->ffn > 2 * width ? (size_t)c->ffn : 2 * width;
    size_t ints = most_ints(d);
    const size_t caption = FVK_PASS_HEAD + rows * (size_t)c->caption_width;
    if (wide < (size_t)c->caption_width) wide = (size_t)c->caption_width;
    if (ints < caption) ints = caption;
    d->pass = fv_calloc(d->ctx, ints, sizeof *d->pass);
    d->input = fv_calloc(d->ctx, rows, 2 * width * sizeof *d->input);
    d->back = fv_calloc(d->ctx, rows, (vocab + width) * sizeof *d->back);
    d->near = fv_dev_alloc(d->ctx, ints, sizeof *d->near);
    d->h = floats(d, width);
    d->qkv = floats(d, 3 * width);
    d->logits = floats(d, vocab);
    d->down = floats(d, vocab + width);
    d->q_scale = floats(d, (size_t)c->heads);
    d->x_scale = floats(d, 1);
    d->att = floats(d, fvi_dec_pad(c->width));
    d->gate = floats(d, fvi_dec_pad(c->ffn));
    d->x = floats(d, fvi_dec_pad((int)wide));
    d->q8 = fv_dev_alloc(d->ctx, rows * (size_t)c->heads, fvi_dec_pad(gpt_head(c)));
    d->part = fv_dev_alloc(d->ctx, 1, fvi_dev_attend_bytes(d->rows, c->heads, gpt_head(c),
                                                          d->most_chunks));
    if (!d->pass || !d->input || !d->back || !d->near || !d->h || !d->qkv || !d->logits ||
        !d->down || !d->q_scale || !d->x_scale || !d->att || !d->gate || !d->x || !d->q8 ||
        !d->part)
        return FV_ERR_OOM;
    return FV_OK;
}

fv_status ar_device_create(fv_ctx *ctx, ar_device **out, const ar_weights *w, int rows, int condition,
                           int slots)
{
    *out = NULL;
    if (!w->on_device)
        return fv_fail(ctx, FV_ERR_ARG, "decoding: the model was opened on the CPU: open it with a "
                       "context of the device");
    ar_device *d = fv_calloc(ctx, 1, sizeof *d);
    if (!d) return FV_ERR_OOM;
    d->ctx = ctx;
    d->w = w;
    d->rows = rows;
    d->most_chunks = FVI_DEV_CHUNKS(condition + slots);
    d->most_more = (size_t)rows * (size_t)slots;
    const fv_status s = create(d);
    if (s != FV_OK) ar_device_destroy(&d);
    *out = d;
    return s;
}

void ar_device_destroy(ar_device **dd)
{
    ar_device *d = *dd;
    *dd = NULL;
    if (!d) return;
    void *host[] = { d->pass, d->input, d->back };
    void *near[] = { d->near, d->h, d->qkv, d->logits, d->down, d->part, d->q_scale, d->x_scale,
                     d->att, d->gate, d->x, d->q8 };
    for (int i = 0; i < GRAPHS; i++) fvi_graph_destroy(d->ctx, &d->graph[i].graph);
    for (size_t i = 0; i < FV_ARRAY_LEN(host); i++) fv_free(d->ctx, host[i]);
    for (size_t i = 0; i < FV_ARRAY_LEN(near); i++) fv_dev_free(d->ctx, near[i]);
    fv_free(d->ctx, d);
}
