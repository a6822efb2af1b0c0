/* op_conv_cuda.c - host side of CONV2D: unfolded rows times weights. Definition: conv_dnnl.c.
 *
 *     y [places, O]      = rows of x [places, kh kw C]  by  w [O, kh kw C]
 *     dx [pixels, C]     = rows of dy [pixels, kh kw O] by  w [kh kw O, C]
 *     dw [O, kh kw C]    = dy^T                         by  rows of x
 *
 * Where a library has a convolution (cuDNN), a pass is one call of it; what follows is for all else, and
 * for 1x1 ones, which are plain products.
 *
 * Places go through scratch in pieces of fvi_cuda.column_bytes. A 1x1 convolution of stride 1 without
 * padding has its rows already. Rows of dx ask which outputs saw a pixel: each value has one writer
 * and one order of sums; with stride s all but 1 in s^2 of the terms are zeros. Weights of a model
 * are put in the order of the rows once; f32 tensors (masters) at each use. */
#include "cuda_ops.h"

#include <string.h>

#define PIECE_ROWS 128 /* a multiple of it: rows of later pieces begin aligned */

enum { FORWARD, DX, DW, PASSES };

typedef struct conv_shape {
    int64_t O, C, kh, kw, taps;
    int64_t places, pixels; /* of y and of x */
    int64_t piece[2], K[2]; /* of FORWARD and DW, of DX: rows at a time and columns */
    bool is_half, is_plain; /* products in bf16; rows are there */
} conv_shape;

typedef struct conv_state {
    fvk_product *product[PASSES][2]; /* of a whole piece, of the last one */
    fvk_library *library[PASSES];    /* the whole pass by a library (cuDNN); NULL: in pieces */
    const void *weights;             /* packed [O, taps, C]; NULL: in[1] */
    conv_shape c;
} conv_state;

/* ---- Shapes ---------------------------------------------------------------------------------- */

static int64_t piece_of(const fvi_exec *e, int64_t rows, int64_t K, bool is_half)
{
    const int64_t bytes = (int64_t)fvi_cuda_of(e->ctx)->column_bytes;
    int64_t n = bytes / (K * (is_half ? 2 : 4)) / PIECE_ROWS * PIECE_ROWS;
    if (n < PIECE_ROWS) n = PIECE_ROWS;
    return n < rows ? n : rows;
}

static conv_shape shape_of(const fvi_exec *e)
{
    const fv_tensor *x = &e->in[0], *w = &e->in[1], *y = &e->out[0];
    const int32_t *a = e->attr->i;
    conv_shape c = { .O = w->dim[0], .C = w->dim[1], .kh = w->dim[2], .kw = w->dim[3],
                     .taps = w->dim[2] * w->dim[3],
                     .places = y->dim[0] * y->dim[1] * y->dim[2],
                     .pixels = x->dim[0] * x->dim[1] * x->dim[2],
                     .is_half = x->dtype == FV_BF16 || y->dtype == FV_BF16 };
    c.is_plain = c.taps == 1 && a[0] == 1 && !a[1] && !a[2] && !a[3] && !a[4];
    c.K[0] = c.taps * c.C;
    c.K[1] = c.taps * c.O;
    c.piece[0] = piece_of(e, c.places, c.K[0], c.is_half);
    c.piece[1] = piece_of(e, c.pixels, c.K[1], c.is_half);
    return c;
}

/* Is t what a product takes as it is? */
static bool fits(const conv_shape *c, const fv_tensor *t)
{
    return (t->dtype == FV_BF16) == c->is_half;
}

/* Kernels count places, and elements of a piece, in 32 bits. */
static fv_status check_sizes(const fvi_exec *e, const conv_shape *c)
{
    bool is_small = c->places <= INT32_MAX && c->pixels <= INT32_MAX;
    for (int k = 0; k < 2 && is_small; k++)
        is_small = c->K[k] <= INT32_MAX && c->piece[k] <= INT32_MAX / c->K[k];
    if (is_small) return FV_OK;
    return fv_fail(e->ctx, FV_ERR_LIMIT, "conv2d: %lld places of %lld values are too many for CUDA",
                   (long long)c->places, (long long)c->K[0]);
}

/* ---- Scratch --------------------------------------------------------------------------------- */

static size_t take(size_t *total, int64_t count, size_t size)
{
    const size_t at = *total;
    *total += ((size_t)count * size + 255) / 256 * 256;
    return at;
}

/* Weights in the rows' order and type | rows | dy of a piece in bf16 | dw | sums of columns */
typedef struct conv_scratch { size_t weights, rows, dy, dw, sums, total; } conv_scratch;

static conv_scratch scratch_of(const fvi_exec *e, bool backward)
{
    const conv_shape c = shape_of(e);
    const size_t size = c.is_half ? 2 : 4;
    const int64_t forward = c.piece[0] * c.K[0], dx = c.piece[1] * c.K[1];
    conv_scratch s = { 0 };
    s.weights = take(&s.total, c.O * c.K[0], size);
    s.rows = take(&s.total, backward && dx > forward ? dx : forward, size);
    if (!backward) return s;
    s.dy = take(&s.total, fits(&c, &e->out[0]) ? 0 : c.piece[0] * c.O, 2);
    s.dw = take(&s.total, c.O * c.K[0], 4);
    s.sums = s.total;
    s.total += fvi_cuda_columns_bytes(1, c.places, c.O, 1);
    return s;
}

static size_t conv_scratch_bytes(const fvi_exec *e, bool backward)
{
    return scratch_of(e, backward).total;
}

/* ---- Prepare --------------------------------------------------------------------------------- */

static void conv_release(fv_ctx *ctx, void *state)
{
    conv_state *st = state;
    if (!st) return;
    for (int i = 0; i < PASSES; i++)
        for (int k = 0; k < 2; k++)
            if (st->product[i][k])
                fvi_cuda_of(ctx)->api->gemm_destroy(fvi_cuda_of(ctx)->dev, st->product[i][k]);
    for (int i = 0; i < PASSES; i++)
        if (st->library[i])
            fvi_cuda_of(ctx)->api->library_destroy(fvi_cuda_of(ctx)->dev, st->library[i]);
    fv_free(ctx, st);
}

/* Products for whole pieces and for what is left; *rows: the dimension of g that pieces cut. */
static fv_status create(fvi_exec *e, fvk_gemm *g, int64_t *rows, int64_t all, int64_t piece,
                        fvk_product *out[2])
{
    const fvi_cuda *d = fvi_cuda_of(e->ctx);
    for (int k = 0; k < 2; k++) {
        *rows = k ? all % piece : piece;
        if (*rows == 0) continue;
        FV_TRY(fvi_cuda_status(e->ctx, d->api->gemm_create(d->dev, g, &out[k]), "conv2d"));
    }
    return FV_OK;
}

/* Does the product add the bias? cuBLASLt wants a bf16 one for bf16. */
static bool adds_bias(const fvi_exec *e) { return e->in[2].ndim > 0 && e->out[0].dtype == FV_F32; }

static fv_status create_products(fvi_exec *e, conv_state *st)
{
    const conv_shape *c = &st->c;
    fvk_gemm y = { .N = c->O, .K = c->K[0], .ab_bf16 = c->is_half,
                   .c_bf16 = e->out[0].dtype == FV_BF16, .b_trans = 1, .bias = adds_bias(e) };
    fvk_gemm dx = { .N = c->C, .K = c->K[1], .ab_bf16 = c->is_half,
                    .c_bf16 = e->in[0].dtype == FV_BF16, .accumulate = e->gin_add[0] };
    fvk_gemm dw = { .M = c->O, .N = c->K[0], .ab_bf16 = c->is_half, .a_trans = 1,
                    .accumulate = 1 };
    FV_TRY(create(e, &y, &y.M, c->places, c->piece[0], st->product[FORWARD]));
    if (e->gin[0].ndim > 0)
        FV_TRY(create(e, &dx, &dx.M, c->pixels, c->piece[1], st->product[DX]));
    if (e->gin[1].ndim > 0)
        FV_TRY(create(e, &dw, &dw.K, c->places, c->piece[0], st->product[DW]));
    return FV_OK;
}

static fv_status create_library(fvi_exec *e, fvk_conv *c, int what, fvk_library **out)
{
    const fvi_cuda *d = fvi_cuda_of(e->ctx);
    c->what = what;
    c->w_bf16 = what != FVK_CONV_DW && c->w_bf16;
    const int code = d->api->conv_create(d->dev, c, out);
    return code == FVK_UNSUPPORTED ? FV_OK : fvi_cuda_status(e->ctx, code, "conv2d");
}

/* Passes of a library, whose maps and weights are of the types of the products here. */
static fv_status create_libraries(fvi_exec *e, conv_state *st)
{
    const conv_shape *s = &st->c;
    const fv_tensor *x = &e->in[0], *y = &e->out[0];
    const int32_t *a = e->attr->i;
    fvk_conv c = { .B = x->dim[0], .H = x->dim[1], .W = x->dim[2], .C = s->C, .O = s->O,
                   .h = y->dim[1], .w = y->dim[2], .kh = (int32_t)s->kh, .kw = (int32_t)s->kw,
                   .stride = a[0], .top = a[1], .left = a[2], .bottom = a[3], .right = a[4],
                   .x_bf16 = s->is_half, .w_bf16 = s->is_half, .y_bf16 = y->dtype == FV_BF16 };
    if (s->is_plain || !fits(s, x)) return FV_OK;
    FV_TRY(create_library(e, &c, FVK_CONV_FORWARD, &st->library[FORWARD]));
    if (!fits(s, y)) return FV_OK;
    if (e->gin[0].ndim > 0 && !e->gin_add[0])
        FV_TRY(create_library(e, &c, FVK_CONV_DX, &st->library[DX]));
    if (e->gin[1].ndim == 0) return FV_OK;
    return create_library(e, &c, FVK_CONV_DW, &st->library[DW]);
}

typedef struct conv_key { int32_t kind, type; int64_t O, C, taps; } conv_key; /* of a packed form */

/* [O, C, taps] -> [O, taps, C] in device memory */
static fv_status pack_weights(fv_ctx *ctx, const void *key, const void *values, void *dst)
{
    const conv_key *k = key;
    const size_t size = fv_dtype_size((fv_dtype)k->type), n = (size_t)(k->O * k->C * k->taps);
    uint8_t *packed = fv_alloc(ctx, n * size);
    if (!packed) return FV_ERR_OOM;
    for (size_t i = 0; i < n; i++) {
        const size_t c = i % (size_t)k->C, row = i / (size_t)k->C, tap = row % (size_t)k->taps,
                     o = row / (size_t)k->taps;
        const size_t from = (o * (size_t)k->C + c) * (size_t)k->taps + tap;
        memcpy(packed + i * size, (const uint8_t *)values + from * size, size);
    }
    const fv_status s = fv_dev_copy(ctx, dst, packed, n * size, FV_COPY_TO_DEVICE);
    fv_free(ctx, packed);
    return s;
}

static fv_status conv_prepare(fvi_exec *e)
{
    const conv_shape c = shape_of(e);
    FV_TRY(check_sizes(e, &c));
    conv_state *st = fv_calloc(e->ctx, 1, sizeof *st);
    if (!st) return FV_ERR_OOM;
    e->state = st;
    st->c = c;
    FV_TRY(create_products(e, st));
    FV_TRY(create_libraries(e, st));
    /* Masters change: they are ordered at each use (in[1]). */
    if (!e->params || e->pid[1] < 0 || fvi_params_master(e->params)) return FV_OK;
    const fv_dtype type = c.is_half ? FV_BF16 : FV_F32;
    const conv_key key = { 65, (int32_t)type, c.O, c.C, c.taps };
    const size_t bytes = (size_t)(c.O * c.K[0]) * fv_dtype_size(type);
    const fvi_form form = { &key, sizeof key, bytes, type, pack_weights };
    return fvi_param_packed_on_device(e->ctx, e->params, e->pid[1], &form, &st->weights);
}

/* ---- Pieces ---------------------------------------------------------------------------------- */

static uint8_t *scratch_at(const fvi_exec *e, size_t at) { return (uint8_t *)e->scratch + at; }

/* Rows first .. first + rows of t [.., C] as they lie there. */
static void *rows_at(const fv_tensor *t, int64_t first)
{
    return (uint8_t *)t->data + (size_t)(first * fvi_last(t)) * fv_dtype_size(t->dtype);
}

/* Rows of a piece: those of x, or transposed those of dy; where they are in *out. */
static fv_status unfold(fvi_exec *e, const conv_shape *c, bool transposed, int64_t first,
                        int64_t rows, size_t at, const void **out)
{
    const fv_tensor *from = transposed ? &e->gout[0] : &e->in[0];
    const fv_tensor *to = transposed ? &e->in[0] : &e->out[0];
    const int32_t *attr = e->attr->i;
    if (c->is_plain && fits(c, from)) {
        *out = rows_at(from, first);
        return FV_OK;
    }
    const fvk_unfold_args a = {
        .x = fvi_cuda_in(from), .y = { scratch_at(e, at), c->is_half, 0 }, .first = first,
        .rows = rows, .H = from->dim[1], .W = from->dim[2], .C = from->dim[3], .h = to->dim[1],
        .w = to->dim[2], .kh = (int32_t)c->kh, .kw = (int32_t)c->kw, .stride = attr[0],
        .top = attr[1], .left = attr[2], .transposed = transposed
    };
    *out = a.y.p;
    return FVI_LAUNCH(e->ctx, unfold, fvi_cuda_walk(rows * c->K[transposed]), &a);
}

/* f32 weights [O, C, taps] in another order: [O, taps, C], or for dx [taps, O, C]. */
static fv_status order_weights(fvi_exec *e, const conv_shape *c, bool taps_first, void *to)
{
    fvk_permute_args a = { .x = { e->in[1].data, 0 }, .y = { to, c->is_half, 0 },
                           .dim = { c->O, c->taps, c->C },
                           .stride = { c->K[0], 1, c->taps } };
    if (!a.x.p) return fv_fail(e->ctx, FV_ERR_STATE, "conv2d: the weights are not on the device");
    if (taps_first) {
        a.dim[0] = c->taps;
        a.dim[1] = c->O;
        a.stride[0] = 1;
        a.stride[1] = c->K[0];
    }
    return FVI_LAUNCH(e->ctx, permute, fvi_cuda_walk(c->O * c->K[0]), &a);
}

static fv_status product(fvi_exec *e, fvk_product *g, const void *a, const void *b,
                         const float *bias, void *y)
{
    const fvi_cuda *d = fvi_cuda_of(e->ctx);
    return fvi_cuda_status(e->ctx, d->api->gemm_run(d->dev, g, a, b, bias, y), "conv2d");
}

/* ---- Passes ---------------------------------------------------------------------------------- */

/* *done: the library has run; not where there is none, or memory is not aligned. */
static fv_status run_library(fvi_exec *e, int pass, const void *x, const void *w, const void *y, bool *done)
{
    const conv_state *st = e->state;
    const fvi_cuda *d = fvi_cuda_of(e->ctx);
    void *const p[3] = { (void *)(uintptr_t)x, (void *)(uintptr_t)w, (void *)(uintptr_t)y };
    *done = false;
    if (!st->library[pass]) return FV_OK;
    const int code = d->api->library_run(d->dev, st->library[pass], p);
    *done = code == FVK_OK;
    return code == FVK_UNSUPPORTED ? FV_OK : fvi_cuda_status(e->ctx, code, "conv2d");
}

/* Bias and activation, in one pass over y. */
static fv_status finish_library(fvi_exec *e, const conv_shape *c)
{
    const fvk_rescale_args a = { .y = fvi_cuda_out(&e->out[0], 0),
                                 .bias = e->in[2].ndim > 0 ? e->in[2].data : NULL,
                                 .n = c->places * c->O, .N = c->O, .act = e->attr->i[5] };
    if (!a.bias && a.act == FV_ACT_NONE) return FV_OK;
    return FVI_LAUNCH(e->ctx, rescale, fvi_cuda_walk(a.n), &a);
}

static fv_status finish(fvi_exec *e, const conv_shape *c)
{
    const fvk_in y = fvi_cuda_in(&e->out[0]);
    const fvk_out to = fvi_cuda_out(&e->out[0], 0);
    const int64_t n = c->places * c->O;
    if (e->in[2].ndim > 0 && !adds_bias(e)) {
        const fvk_binary_args a = { .a = y, .b = fvi_cuda_in(&e->in[2]), .y = to, .n = n,
                                    .nb = c->O, .per = c->places, .what = FVK_BINARY,
                                    .op = FV_ADD, .broadcast = 1 };
        FV_TRY(FVI_LAUNCH(e->ctx, binary, fvi_cuda_walk(n), &a));
    }
    if (e->attr->i[5] == FV_ACT_NONE) return FV_OK;
    const fvk_map_args a = { .x = y, .y = to, .n = n, .what = FVK_ACT, .act = e->attr->i[5] };
    return FVI_LAUNCH(e->ctx, map, fvi_cuda_walk(n), &a);
}

static fv_status conv_forward(fvi_exec *e)
{
    const conv_state *st = e->state;
    const conv_shape *c = &st->c;
    const conv_scratch at = scratch_of(e, false);
    const void *w = st->weights, *rows;
    if (!w) {
        w = scratch_at(e, at.weights);
        FV_TRY(order_weights(e, c, false, scratch_at(e, at.weights)));
    }
    bool done;
    FV_TRY(run_library(e, FORWARD, e->in[0].data, w, e->out[0].data, &done));
    if (done) return finish_library(e, c);
    for (int64_t i = 0; i < c->places; i += c->piece[0]) {
        const bool is_whole = c->places - i >= c->piece[0];
        FV_TRY(unfold(e, c, false, i, is_whole ? c->piece[0] : c->places - i, at.rows, &rows));
        FV_TRY(product(e, st->product[FORWARD][!is_whole], rows, w, e->in[2].data,
                       rows_at(&e->out[0], i)));
    }
    return finish(e, c);
}

static fv_status conv_dx(fvi_exec *e, const conv_scratch *at)
{
    const conv_state *st = e->state;
    const conv_shape *c = &st->c;
    const void *rows;
    bool done = false;
    if (st->library[DX]) {
        FV_TRY(order_weights(e, c, false, scratch_at(e, at->weights)));
        FV_TRY(run_library(e, DX, e->gin[0].data, scratch_at(e, at->weights), e->gout[0].data, &done));
    }
    if (done) return FV_OK;
    FV_TRY(order_weights(e, c, true, scratch_at(e, at->weights)));
    for (int64_t i = 0; i < c->pixels; i += c->piece[1]) {
        const bool is_whole = c->pixels - i >= c->piece[1];
        FV_TRY(unfold(e, c, true, i, is_whole ? c->piece[1] : c->pixels - i, at->rows, &rows));
        FV_TRY(product(e, st->product[DX][!is_whole], rows, scratch_at(e, at->weights), NULL,
                       rows_at(&e->gin[0], i)));
    }
    return FV_OK;
}

static fv_status dw_in_pieces(fvi_exec *e, const conv_scratch *at)
{
    const conv_state *st = e->state;
    const conv_shape *c = &st->c;
    float *sum = (float *)(void *)scratch_at(e, at->dw);
    FV_TRY(fvi_cuda_zero(e->ctx, sum, (size_t)(c->O * c->K[0]) * sizeof *sum));
    for (int64_t i = 0; i < c->places; i += c->piece[0]) {
        const bool is_whole = c->places - i >= c->piece[0];
        const int64_t n = is_whole ? c->piece[0] : c->places - i;
        const void *rows, *dy = rows_at(&e->gout[0], i);
        if (!fits(c, &e->gout[0])) {
            const fvk_map_args a = { .x = { dy, e->gout[0].dtype == FV_BF16 }, .n = n * c->O,
                                     .y = { scratch_at(e, at->dy), 1, 0 }, .what = FVK_COPY };
            FV_TRY(FVI_LAUNCH(e->ctx, map, fvi_cuda_walk(a.n), &a));
            dy = a.y.p;
        }
        FV_TRY(unfold(e, c, false, i, n, at->rows, &rows));
        FV_TRY(product(e, st->product[DW][!is_whole], dy, rows, NULL, sum));
    }
    return FV_OK;
}

static fv_status conv_dw(fvi_exec *e, const conv_scratch *at)
{
    const conv_shape *c = &((const conv_state *)e->state)->c;
    float *sum = (float *)(void *)scratch_at(e, at->dw);
    bool done;
    FV_TRY(run_library(e, DW, e->in[0].data, sum, e->gout[0].data, &done));
    if (!done) FV_TRY(dw_in_pieces(e, at));
    const fvk_permute_args a = { .x = { sum, 0 }, .y = fvi_cuda_out(&e->gin[1], 1),
                                 .dim = { c->O, c->C, c->taps },
                                 .stride = { c->K[0], 1, c->C } };
    return FVI_LAUNCH(e->ctx, permute, fvi_cuda_walk(c->O * c->K[0]), &a);
}

static fv_status conv_backward(fvi_exec *e)
{
    const conv_state *st = e->state;
    const conv_scratch at = scratch_of(e, true);
    if (st->product[DX][0] && e->gin[0].data) FV_TRY(conv_dx(e, &at));
    if (st->product[DW][0] && e->gin[1].data) FV_TRY(conv_dw(e, &at));
    if (e->in[2].ndim == 0 || !e->gin[2].data) return FV_OK;
    fvk_columns_args c = { .x = fvi_cuda_in(&e->gout[0]), .groups = 1, .T = st->c.places,
                           .C = st->c.O, .kind = FVK_SUM_X };
    FV_TRY(fvi_cuda_columns(e->ctx, &c, scratch_at(e, at.sums), 1));
    return fvi_cuda_fold(e->ctx, &c, fvi_cuda_out(&e->gin[2], 1), 0, 1.0f);
}

const fvi_op_def fvi_cuda_conv2d = {
    .name = "conv2d", .bwd_reads_in = 1, .scratch_bytes = conv_scratch_bytes,
    .prepare = conv_prepare, .release = conv_release, .forward = conv_forward,
    .backward = conv_backward
};
