/* rdvq_cuda.c - RDVQ's integer entropy model on a device: rdvq_int_run.c for kernels of
 * cuda/integer.h. The same integers, hence the same bits.
 *
 * A slice goes through the network in pieces of ROWS rows of whole windows, each layer a dozen
 * launches; nothing comes back before the weights of codes do. Those are two bytes for each code and
 * place, which is what the copies to the host are made of; frequencies and the coder are the host's.
 * Weights of 8 bits stay 8 bits (the CPU widens them), row after row, columns padded to fours.
 *
 * A product with many rows and columns of such weights is one of 8-bit halves on tensor cores, where the
 * device has it (FVK_GEMM_INT8), between two launches that part and join them; others are dp2a's. The
 * numbers are the same. Products are made at opening for a few counts of rows: a pass takes the next
 * larger one, and what stands in the rows beyond its own is not looked at. */
#include "rdvq_cuda.h"

#include "cuda_ops.h"
#include "device_fill.h"

#define ROWS 2048     /* at a time, unless one window has more */
#define HEAD_ROWS 512 /* rows of logits at a time */
#define SHAPES 8      /* of matrices: input, four of a layer, output */
#define SIZES 4       /* of rows: all, a half, a quarter, an eighth */

typedef struct near_matrix {
    const rdvq_matrix *from;
    void *w;
    int32_t *mul, *sum; /* sum: of weights of 8 bits of a row */
    int columns; /* padded */
    int shape;   /* of products on tensor cores; -1: none */
} near_matrix;

/* Products of halves: [2 rows, columns] by [outputs, columns]. */
typedef struct near_shape {
    int outputs, columns, rows[SIZES];
    fvk_product *product[SIZES];
} near_shape;

typedef struct near_layer {
    near_matrix qkv, wo, w13, w2;
    int32_t *scale;
} near_layer;

struct rdvq_device {
    fv_ctx *ctx;
    const rdvq_int *m;
    int max_windows, rows; /* rows: most at a time */
    void *arena;
    /* of the device */
    int16_t *codes, *turn;
    int32_t *list, *pair, *from, *tap, *bias;
    uint32_t *root, *sigmoid;
    near_matrix input, output;
    near_layer layer[RDVQ_MAX_DEPTH];
    int16_t *cache, *x, *y;
    int32_t *tokens, *chosen, *r, *acc, *logit;
    uint16_t *u;
    uint32_t *sum;
    near_shape shape[SHAPES];
    int shapes;
    int8_t *halves; /* [2, rows, columns] of any product on tensor cores */
    int32_t *both;  /* [2, rows, outputs] */
    /* of the host */
    uint32_t *sums; /* [HEAD_ROWS, groups] */
};

/* ---- Memory ---------------------------------------------------------------------------------- */

/* Row after row, in the width of the file. */
static void unpack(const rdvq_matrix *m, int columns, void *out)
{
    memset(out, 0, (size_t)m->rows * (size_t)columns * (m->bits == 8 ? 1 : 2));
    for (int r = 0; r < m->rows; r++)
        for (int k = 0; k < m->columns; k++) {
            const int16_t w = m->w[rdvq_int_at(m->columns, r, k)];
            const size_t at = (size_t)r * (size_t)columns + (size_t)k;
            if (m->bits == 8) ((int8_t *)out)[at] = (int8_t)w;
            else ((int16_t *)out)[at] = w;
        }
}

/* -> room [rows] */
static void add_up(const rdvq_matrix *m, int32_t *room)
{
    for (int r = 0; r < m->rows; r++) {
        room[r] = 0;
        for (int k = 0; k < m->columns; k++) room[r] += m->w[rdvq_int_at(m->columns, r, k)];
    }
}

static void put_matrix(device_fill *f, near_matrix *n, const rdvq_matrix *m)
{
    n->from = m;
    n->columns = (m->columns + 3) & ~3;
    if (f->most < (size_t)m->rows * sizeof *n->sum) f->most = (size_t)m->rows * sizeof *n->sum;
    if (f->base) add_up(m, f->room);
    n->sum = device_put(f, f->room, m->bits == 8 ? (size_t)m->rows * sizeof *n->sum : 0);
    const size_t bytes =
        (size_t)m->rows * (size_t)n->columns * (m->bits == 8 ? 1 : 2);
    if (bytes > f->most) f->most = bytes;
    if (f->base) unpack(m, n->columns, f->room);
    n->w = device_put(f, f->room, bytes);
    n->mul = device_put(f, m->mul, (size_t)m->rows * sizeof *m->mul);
}

/* Places in coding order and pairs by position, as the kernels read them. */
static void put_places(device_fill *f, rdvq_device *d)
{
    const rdvq_slices *s = &d->m->slices;
    const size_t T = (size_t)s->tokens, bytes = T * sizeof(int32_t);
    int32_t list[RDVQ_MAX_TOKENS], pair[RDVQ_MAX_TOKENS];
    for (size_t i = 0; i < T; i++) {
        list[i] = s->list[i];
        pair[i] = s->pair[i];
    }
    d->list = device_put(f, list, bytes);
    d->pair = device_put(f, pair, bytes);
    d->from = device_put(f, d->m->from, bytes * RDVQ_TAPS);
    d->tap = device_put(f, d->m->tap, bytes * RDVQ_TAPS);
}

static int most_columns(const rdvq_int *m)
{
    const rdvq_config *c = &m->cfg;
    const int in = (2 * c->code_width + 3) & ~3;
    const int wide = 3 * c->width > 2 * c->ffn ? 3 * c->width : 2 * c->ffn;
    return wide > in ? wide : in;
}

/* Work memory of products of halves. */
static void take_halves(device_fill *f, rdvq_device *d)
{
    size_t in = 0, out = 0;
    for (int i = 0; i < d->shapes; i++) {
        const near_shape *s = &d->shape[i];
        const size_t rows = 2 * (size_t)s->rows[0];
        if (rows * (size_t)s->columns > in) in = rows * (size_t)s->columns;
        if (rows * (size_t)s->outputs > out) out = rows * (size_t)s->outputs;
    }
    d->halves = device_take(f, in * sizeof *d->halves);
    d->both = device_take(f, out * sizeof *d->both);
}

static void fill(device_fill *f, void *user)
{
    rdvq_device *d = user;
    const rdvq_int *m = d->m;
    const rdvq_config *c = &m->cfg;
    const size_t T = (size_t)m->slices.tokens, R = (size_t)d->rows, W = (size_t)d->max_windows;
    const size_t width = (size_t)c->width, most = (size_t)most_columns(m);
    const size_t K = (size_t)c->codes, logits = HEAD_ROWS * K;
    d->codes = device_put(f, m->codes, K * (size_t)c->code_width * sizeof *m->codes);
    d->turn = device_put(f, m->turn, T * 2 * (size_t)m->head * sizeof *m->turn);
    d->bias = device_put(f, m->bias, (size_t)m->slices.slices * width * sizeof *m->bias);
    d->root = device_put(f, nn_int_root_table, sizeof nn_int_root_table);
    d->sigmoid = device_put(f, nn_int_sigmoid_table, sizeof nn_int_sigmoid_table);
    put_places(f, d);
    put_matrix(f, &d->input, &m->input);
    put_matrix(f, &d->output, &m->output);
    for (int i = 0; i < c->depth; i++) {
        near_layer *y = &d->layer[i];
        put_matrix(f, &y->qkv, &m->layer[i].qkv);
        put_matrix(f, &y->wo, &m->layer[i].wo);
        put_matrix(f, &y->w13, &m->layer[i].w13);
        put_matrix(f, &y->w2, &m->layer[i].w2);
        y->scale = device_put(f, m->layer[i].scale, (size_t)c->heads * sizeof(int32_t));
    }
    d->cache = device_take(f, W * rdvq_int_cache_size(m) * sizeof *d->cache);
    d->tokens = device_take(f, W * T * sizeof *d->tokens);
    d->chosen = device_take(f, R * sizeof *d->chosen);
    d->r = device_take(f, R * width * sizeof *d->r);
    d->acc = device_take(f, R * most * sizeof *d->acc);
    d->x = device_take(f, R * most * sizeof *d->x);
    d->y = device_take(f, R * width * sizeof *d->y);
    d->logit = device_take(f, logits * sizeof *d->logit);
    d->u = device_take(f, logits * sizeof *d->u);
    d->sum = device_take(f, HEAD_ROWS * (size_t)m->groups * sizeof *d->sum);
    take_halves(f, d);
}

static int most_places(const rdvq_slices *s)
{
    int most = 0;
    for (int j = 0; j < s->slices; j++) {
        const int n = s->first[j + 1] - s->first[j];
        if (n > most) most = n;
    }
    return most;
}

static fv_status allocate(rdvq_device *d)
{
    size_t bytes;
    const fv_status s = device_fill_all(d->ctx, fill, d, &d->arena, &bytes);
    if (s == FV_ERR_OOM)
        return fv_fail_in(d->ctx, s, "rdvq: the entropy model and a tile of %d windows take %llu MiB "
                          "of the device; choose smaller tiles or the CPU (--device cpu)",
                          d->max_windows, (unsigned long long)((bytes >> 20) + 1));
    FV_TRY(s);
    d->sums = fv_alloc(d->ctx, HEAD_ROWS * (size_t)d->m->groups * sizeof *d->sums);
    return d->sums ? FV_OK : FV_ERR_OOM;
}

/* A shape for these rows and fewer; none where all are too few, or the device has no such product. */
static fv_status add_shape(rdvq_device *d, near_matrix *n, const rdvq_matrix *m, int rows)
{
    const int64_t least = fvi_cuda_of(d->ctx)->int8_least;
    const int columns = (m->columns + 3) & ~3;
    n->shape = -1;
    if (m->bits != 8 || columns < least || columns > 1 << 16 || m->rows % 4 || rows < least) return FV_OK;
    for (int i = 0; i < d->shapes && n->shape < 0; i++) {
        const near_shape *s = &d->shape[i];
        if (s->outputs == m->rows && s->columns == columns && s->rows[0] >= rows) n->shape = i;
    }
    if (n->shape >= 0 || d->shapes == SHAPES) return FV_OK;
    near_shape *s = &d->shape[d->shapes];
    *s = (near_shape){ .outputs = m->rows, .columns = columns };
    for (int i = 0; i < SIZES; i++) {
        s->rows[i] = ((rows >> i) + 7) & ~7;
        const fvk_gemm g = { .M = 2 * s->rows[i], .N = m->rows, .K = columns, .b_trans = 1,
                             .kind = FVK_GEMM_INT8 };
        if (s->rows[i] >= least || i == 0) FV_TRY(fvi_cuda_product(d->ctx, &g, &s->product[i]));
        if (!s->product[0]) return FV_OK;
    }
    n->shape = d->shapes++;
    return FV_OK;
}

static fv_status add_shapes(rdvq_device *d)
{
    const int heads = d->rows < HEAD_ROWS ? d->rows : HEAD_ROWS;
    FV_TRY(add_shape(d, &d->input, &d->m->input, d->rows));
    FV_TRY(add_shape(d, &d->output, &d->m->output, heads));
    for (int i = 0; i < d->m->cfg.depth; i++) {
        const rdvq_int_layer *l = &d->m->layer[i];
        near_layer *y = &d->layer[i];
        FV_TRY(add_shape(d, &y->qkv, &l->qkv, d->rows));
        FV_TRY(add_shape(d, &y->wo, &l->wo, d->rows));
        FV_TRY(add_shape(d, &y->w13, &l->w13, d->rows));
        FV_TRY(add_shape(d, &y->w2, &l->w2, d->rows));
    }
    return FV_OK;
}

fv_status rdvq_device_open(fv_ctx *ctx, rdvq_device **out, const rdvq_int *m, int max_windows)
{
    rdvq_device *d = *out = fv_calloc(ctx, 1, sizeof *d);
    if (!d) return FV_ERR_OOM;
    const int places = most_places(&m->slices);
    const int64_t all = (int64_t)places * max_windows;
    d->ctx = ctx;
    d->m = m;
    d->max_windows = max_windows;
    d->rows = places > ROWS ? places : ROWS;
    if (all < d->rows) d->rows = (int)all;
    fv_status s = add_shapes(d);
    if (s == FV_OK) s = allocate(d);
    if (s != FV_OK) rdvq_device_close(out);
    return s;
}

void rdvq_device_close(rdvq_device **d)
{
    if (!d || !*d) return;
    fv_ctx *ctx = (*d)->ctx;
    for (int i = 0; i < SHAPES; i++)
        for (int k = 0; k < SIZES; k++)
            if ((*d)->shape[i].product[k])
                fvi_cuda_of(ctx)->api->gemm_destroy(fvi_cuda_of(ctx)->dev,
                                                    (*d)->shape[i].product[k]);
    fv_dev_free(ctx, (*d)->arena);
    fv_free(ctx, (*d)->sums);
    fv_free(ctx, *d);
    *d = NULL;
}

/* ---- The network ----------------------------------------------------------------------------- */

/* Rows of whole windows at work. */
typedef struct pass {
    rdvq_device *d;
    const rdvq_device_slice *s;
    int window, rows; /* the first; rows of all of them */
    int places;
} pass;

static int64_t blocks_over(int64_t n, int64_t each) { return (n + each - 1) / each; }

/* On tensor cores; `size` of the matrix's shape. */
static fv_status halves_product(const rdvq_device *d, int32_t *y, const near_matrix *m,
                                const int16_t *x, int rows, int add, int size)
{
    const fvi_cuda *c = fvi_cuda_of(d->ctx);
    const near_shape *s = &d->shape[m->shape];
    const int64_t N = m->from->rows;
    const fvk_halves_args part = { x, d->halves, (int64_t)rows * m->columns,
                                   (int64_t)s->rows[size] * m->columns };
    const fvk_join_halves_args join = { d->both, m->sum, m->mul, y, rows, N, s->rows[size] * N,
                                        m->from->shift, add };
    FV_TRY(FVI_LAUNCH(d->ctx, halves, fvi_cuda_walk(part.n), &part));
    FV_TRY(fvi_cuda_status(d->ctx, c->api->gemm_run(c->dev, s->product[size], d->halves, m->w, NULL,
                                                    d->both), "product"));
    return FVI_LAUNCH(d->ctx, join_halves, fvi_cuda_walk(rows * N), &join);
}

static fv_status product(const rdvq_device *d, int32_t *y, const near_matrix *m, const int16_t *x,
                         int rows, int add)
{
    int size = SIZES;
    while (m->shape >= 0 && --size >= 0)
        if (d->shape[m->shape].product[size] && d->shape[m->shape].rows[size] >= rows) break;
    if (m->shape >= 0 && size >= 0 && rows >= fvi_cuda_of(d->ctx)->int8_least)
        return halves_product(d, y, m, x, rows, add, size);
    const fvk_idots_args a = { x, m->w, m->mul, y, rows, m->from->rows, m->columns,
                               m->from->shift, m->from->bits != 8, add, 0 };
    return FVI_LAUNCH(d->ctx, idots, blocks_over(a.M, FVK_IDOTS_ROWS) *
                      blocks_over(a.N, FVK_IDOTS_COLUMNS), &a);
}

static fv_status normalise(const rdvq_device *d, const int32_t *list, int16_t *y, int rows)
{
    const fvk_code_norm_args a = { d->r, list, d->root, y, rows, d->m->cfg.width };
    return FVI_LAUNCH(d->ctx, code_norm, blocks_over(rows, FVK_THREADS / 32), &a);
}

static fv_status input(const pass *p)
{
    rdvq_device *d = p->d;
    const rdvq_int *m = d->m;
    const size_t width = (size_t)m->cfg.width, T = (size_t)m->slices.tokens;
    const fvk_code_input_args a = {
        .codes = d->codes, .tokens = d->tokens + (size_t)p->window * T, .list = d->list,
        .pair = d->pair, .from = d->from, .tap = d->tap,
        .bias = d->bias + (size_t)p->s->slice * width, .x = d->x, .r = d->r, .places = p->places,
        .T = (int64_t)T, .D = m->cfg.code_width, .K = d->input.columns, .width = (int64_t)width,
        .first = m->slices.first[p->s->slice] };
    FV_TRY(FVI_LAUNCH(d->ctx, code_input, p->rows, &a));
    return product(d, d->r, &d->input, d->x, p->rows, 1);
}

static fv_status attend(const pass *p, int layer)
{
    rdvq_device *d = p->d;
    const rdvq_int *m = d->m;
    const rdvq_config *c = &m->cfg;
    int16_t *cache = d->cache + (size_t)p->window * rdvq_int_cache_size(m);
    const fvk_code_turn_args t = {
        .x = d->acc, .turn = d->turn, .root = d->root, .y = d->y, .cache = cache, .rows = p->rows,
        .places = p->places, .T = m->slices.tokens, .heads = c->heads, .head = m->head,
        .depth = c->depth, .layer = layer, .first = m->slices.first[p->s->slice] };
    const fvk_code_attend_args a = {
        .y = d->y, .cache = cache, .scale = d->layer[layer].scale, .o = d->x, .places = p->places,
        .T = m->slices.tokens, .heads = c->heads, .head = m->head, .depth = c->depth,
        .layer = layer, .visible = m->slices.visible[p->s->slice] };
    FV_TRY(FVI_LAUNCH(d->ctx, code_turn, blocks_over(t.rows * t.heads, FVK_THREADS / 32), &t));
    return FVI_LAUNCH(d->ctx, code_attend, t.rows * t.heads, &a);
}

static fv_status layer_of_network(const pass *p, int layer)
{
    rdvq_device *d = p->d;
    const near_layer *y = &d->layer[layer];
    const rdvq_int_layer *of = &d->m->layer[layer];
    const fvk_code_gate_args gate = { d->acc, d->sigmoid, d->x, p->rows, d->m->cfg.ffn, of->up,
                                      of->down };
    FV_TRY(normalise(d, NULL, d->y, p->rows));
    FV_TRY(product(d, d->acc, &y->qkv, d->y, p->rows, 0));
    FV_TRY(attend(p, layer));
    FV_TRY(product(d, d->r, &y->wo, d->x, p->rows, 1));
    FV_TRY(normalise(d, NULL, d->y, p->rows));
    FV_TRY(product(d, d->acc, &y->w13, d->y, p->rows, 0));
    FV_TRY(FVI_LAUNCH(d->ctx, code_gate, fvi_cuda_walk(gate.rows * gate.width), &gate));
    return product(d, d->r, &y->w2, d->x, p->rows, 1);
}

/* Rows x [rows, width] of normed r -> u and start. */
static fv_status spread(rdvq_device *d, const int16_t *x, int rows, uint16_t *u, uint32_t *start)
{
    const rdvq_int *m = d->m;
    const size_t K = (size_t)m->cfg.codes, G = (size_t)m->groups;
    const fvk_code_spread_args a = { d->logit, d->u, d->sum, m->cfg.codes, m->group, m->groups };
    FV_TRY(product(d, d->logit, &d->output, x, rows, 0));
    FV_TRY(FVI_LAUNCH(d->ctx, code_spread, rows, &a));
    FV_TRY(fv_dev_copy(d->ctx, u, d->u, (size_t)rows * K * sizeof *u, FV_COPY_TO_HOST));
    FV_TRY(fv_dev_copy(d->ctx, d->sums, d->sum, (size_t)rows * G * sizeof *d->sums,
                       FV_COPY_TO_HOST));
    for (size_t r = 0; r < (size_t)rows; r++)
        rdvq_frequencies(d->sums + r * G, m->groups, start + r * (G + 1));
    return FV_OK;
}

/* The rows of the list that lie in the pass; *at: how many were before. */
static fv_status run_pass(const pass *p, int *at, uint16_t *u, uint32_t *start)
{
    rdvq_device *d = p->d;
    const size_t K = (size_t)d->m->cfg.codes, G = (size_t)d->m->groups;
    const int32_t first = p->window * p->places;
    int32_t list[HEAD_ROWS];
    FV_TRY(input(p));
    for (int l = 0; l < d->m->cfg.depth; l++) FV_TRY(layer_of_network(p, l));
    for (;;) {
        int n = 0;
        for (; n < HEAD_ROWS && *at + n < p->s->rows &&
               p->s->list[*at + n] < first + p->rows; n++)
            list[n] = p->s->list[*at + n] - first;
        if (n == 0) return FV_OK;
        FV_TRY(fv_dev_copy(d->ctx, d->chosen, list, (size_t)n * sizeof *list, FV_COPY_TO_DEVICE));
        FV_TRY(normalise(d, d->chosen, d->x, n));
        FV_TRY(spread(d, d->x, n, u + (size_t)*at * K, start + (size_t)*at * (G + 1)));
        *at += n;
    }
}

fv_status rdvq_device_run(rdvq_device *d, const rdvq_device_slice *s, uint16_t *u, uint32_t *start)
{
    const rdvq_slices *all = &d->m->slices;
    const size_t bytes = (size_t)s->windows * (size_t)all->tokens * sizeof *s->tokens;
    const int places = all->first[s->slice + 1] - all->first[s->slice], most = d->rows / places;
    int at = 0;
    FV_TRY(fv_dev_copy(d->ctx, d->tokens, s->tokens, bytes, FV_COPY_TO_DEVICE));
    for (int w = 0; w < s->windows; w += most) {
        const int windows = s->windows - w < most ? s->windows - w : most;
        const pass p = { d, s, w, windows * places, places };
        FV_TRY(run_pass(&p, &at, u, start));
    }
    return FV_OK;
}
