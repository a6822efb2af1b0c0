/* conv_dnnl.c - the CONV2D op on oneDNN.
 *
 * Activations stay channels-last in memory ([B,H,W,C] = oneDNN's nhwc), so that no reorder stands
 * between a convolution and the norms, pointwise ops and attention around it. Weights are OIHW in
 * files and masters; oneDNN chooses its own blocked layout (`any`):
 *   model files: packed once per (type, layout), bias and activation as post-ops.
 *   masters (training, and sampling while it goes on): the master or its bf16 copy is reordered
 *              before each use into a buffer of the node; that is O*C*kh*kw elements against
 *              B*H'*W' times as many multiply-adds.
 *   backward:  dx = conv^T(dy, w): where a gradient is already there it goes to scratch in f32 and
 *              is added with one rounding; dw comes in oneDNN's layout and is reordered with `+=`
 *              onto the OIHW gradient; db comes with dw.
 *
 * Arithmetic is bf16 when x or y is bf16 (an operand in f32 is rounded once into scratch), else
 * f32; sums are f32 in both. For a given shape the forward pass and dx give the same bytes for any
 * thread count; dw and db do not: oneDNN splits their sum over images and rows by the number of
 * threads. */
#include "dnnl_call.h"

#include <string.h>

typedef struct conv_shape {
    int64_t B, H, W, C, O, kh, kw, OH, OW;
    int64_t stride, top, left, bottom, right;
    dnnl_data_type_t type;       /* of the products */
    dnnl_data_type_t x, y, dx;
    bool bias;
    fv_act act;
} conv_shape;

typedef struct conv_state {
    fvi_dnnl_call forward, dx, dw;
    fvi_dnnl_call pack_forward, pack_dx, add_dw; /* reorders; prim NULL: the layouts are equal */
    const void *packed;  /* weights, NULL when there are masters: then the current values */
    void *weights;       /* masters: w in the layout of forward or dx; dw before it is added */
    float *db;
} conv_state;

enum { CALLS = 6 };
static fvi_dnnl_call *call_at(conv_state *st, int i)
{
    fvi_dnnl_call *const call[CALLS] = { &st->forward,      &st->dx,      &st->dw,
                                         &st->pack_forward, &st->pack_dx, &st->add_dw };
    return call[i];
}

/* ---- Shapes ---------------------------------------------------------------------------------- */

static bool is_half(const fvi_exec *e)
{
    return e->in[0].dtype == FV_BF16 || e->out[0].dtype == FV_BF16;
}

static fv_status read_shape(const fvi_exec *e, conv_shape *c)
{
    const fv_tensor *x = &e->in[0], *w = &e->in[1], *y = &e->out[0];
    const int32_t *a = e->attr->i;
    if (x->ndim != 4 || w->ndim != 4 || y->ndim != 4)
        return fv_fail(e->ctx, FV_ERR_SHAPE, "conv2d: x, w and y must have 4 dimensions");
    if ((x->dtype != FV_F32 && x->dtype != FV_BF16) || (y->dtype != FV_F32 && y->dtype != FV_BF16))
        return fv_fail(e->ctx, FV_ERR_DTYPE, "conv2d: %s -> %s is not one of f32 and bf16",
                       fv_dtype_name(x->dtype), fv_dtype_name(y->dtype));
    *c = (conv_shape){ .B = x->dim[0], .H = x->dim[1], .W = x->dim[2], .C = x->dim[3],
                       .O = w->dim[0],
                       .kh = w->dim[2], .kw = w->dim[3], .OH = y->dim[1], .OW = y->dim[2],
                       .stride = a[0], .top = a[1], .left = a[2], .bottom = a[3], .right = a[4],
                       .type = is_half(e) ? dnnl_bf16 : dnnl_f32, .y = fvi_dnnl_type(y->dtype),
                       .bias = e->in[2].ndim > 0, .act = (fv_act)a[5] };
    c->x = c->type;
    c->dx = e->gin_add[0] ? dnnl_f32 : fvi_dnnl_type(x->dtype);
    if (c->B < 1 || c->H < 1 || c->W < 1 || c->C < 1 || c->O < 1 || c->kh < 1 || c->kw < 1 ||
        c->stride < 1 || c->top < 0 || c->left < 0 || c->bottom < 0 || c->right < 0)
        return fv_fail(e->ctx, FV_ERR_SHAPE,
                       "conv2d: a size or the stride is below 1, or a pad below 0");
    const int64_t h = c->H + c->top + c->bottom - c->kh, v = c->W + c->left + c->right - c->kw;
    if (w->dim[1] != c->C || y->dim[0] != c->B || y->dim[3] != c->O || h < 0 || v < 0 ||
        c->OH != h / c->stride + 1 || c->OW != v / c->stride + 1)
        return fv_fail(e->ctx, FV_ERR_SHAPE,
                       "conv2d: y is %lldx%lldx%lld, which x, w, stride and pads "
                       "do not give",
                       (long long)c->OH, (long long)c->OW, (long long)y->dim[3]);
    return FV_OK;
}

/* ---- Primitive descriptors ------------------------------------------------------------------- */

typedef struct conv_mds { fvi_md x, w, b, y; } conv_mds;

static void free_mds(conv_mds *m)
{
    fvi_md_free(&m->x);
    fvi_md_free(&m->w);
    fvi_md_free(&m->b);
    fvi_md_free(&m->y);
}

static dnnl_status_t make_mds(const conv_shape *c, conv_mds *m, dnnl_data_type_t x,
                              dnnl_data_type_t w, dnnl_data_type_t y)
{
    const dnnl_dims_t xd = { c->B, c->C, c->H, c->W }, wd = { c->O, c->C, c->kh, c->kw };
    const dnnl_dims_t bd = { c->O }, yd = { c->B, c->O, c->OH, c->OW };
    memset(m, 0, sizeof *m);
    dnnl_status_t s = fvi_md_tagged(&m->x, 4, xd, x, dnnl_nhwc);
    if (s == dnnl_success) s = fvi_md_tagged(&m->w, 4, wd, w, dnnl_format_tag_any);
    if (s == dnnl_success) s = fvi_md_tagged(&m->b, 1, bd, dnnl_f32, dnnl_a);
    if (s == dnnl_success) s = fvi_md_tagged(&m->y, 4, yd, y, dnnl_nhwc);
    return s;
}

static dnnl_status_t forward_pd(const conv_shape *c, dnnl_engine_t e, bool train,
                                dnnl_primitive_desc_t *pd)
{
    const dnnl_prop_kind_t kind = train ? dnnl_forward_training : dnnl_forward_inference;
    const dnnl_dims_t stride = { c->stride, c->stride };
    const dnnl_dims_t before = { c->top, c->left }, after = { c->bottom, c->right };
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    conv_mds m;
    dnnl_status_t s = make_mds(c, &m, c->x, c->type, c->y);
    if (s == dnnl_success) s = fvi_dnnl_attr(&attr);
    if (s == dnnl_success) s = dnnl_post_ops_create(&ops);
    if (s == dnnl_success) s = fvi_dnnl_append_act(ops, c->act);
    if (s == dnnl_success) s = dnnl_primitive_attr_set_post_ops(attr, ops);
#if DNNL_VERSION_MAJOR >= 3
    const dnnl_dims_t dilate = { 0, 0 };
    if (s == dnnl_success)
        s = dnnl_convolution_forward_primitive_desc_create(pd, e, kind, dnnl_convolution_direct,
                                                           m.x, m.w, c->bias ? m.b : NULL, m.y,
                                                           stride, dilate, before, after, attr);
#else
    dnnl_convolution_desc_t op;
    if (s == dnnl_success)
        s = dnnl_convolution_forward_desc_init(&op, kind, dnnl_convolution_direct, &m.x, &m.w,
                                               c->bias ? &m.b : NULL, &m.y, stride, before, after);
    if (s == dnnl_success) s = dnnl_primitive_desc_create(pd, &op, attr, e, NULL);
#endif
    if (ops) dnnl_post_ops_destroy(ops);
    if (attr) dnnl_primitive_attr_destroy(attr);
    free_mds(&m);
    return s;
}

/* Gradient by the data (weights false) or by weights and bias; `hint` is the forward descriptor. */
static dnnl_status_t backward_pd(const conv_shape *c, dnnl_engine_t e, bool weights,
                                 const_dnnl_primitive_desc_t hint, dnnl_primitive_desc_t *pd)
{
    const dnnl_dims_t stride = { c->stride, c->stride };
    const dnnl_dims_t before = { c->top, c->left }, after = { c->bottom, c->right };
    dnnl_primitive_attr_t attr = NULL;
    conv_mds m;
    dnnl_status_t s =
        make_mds(c, &m, weights ? c->x : c->dx, weights ? dnnl_f32 : c->type, c->type);
    if (s == dnnl_success) s = fvi_dnnl_attr(&attr);
#if DNNL_VERSION_MAJOR >= 3
    const dnnl_dims_t dilate = { 0, 0 };
    if (s == dnnl_success && weights)
        s = dnnl_convolution_backward_weights_primitive_desc_create(
            pd, e, dnnl_convolution_direct, m.x, m.w, c->bias ? m.b : NULL, m.y, stride, dilate,
            before, after, hint, attr);
    else if (s == dnnl_success)
        s = dnnl_convolution_backward_data_primitive_desc_create(pd, e, dnnl_convolution_direct,
                                                                 m.x, m.w, m.y, stride, dilate,
                                                                 before, after, hint, attr);
#else
    dnnl_convolution_desc_t op;
    if (s == dnnl_success && weights)
        s = dnnl_convolution_backward_weights_desc_init(&op, dnnl_convolution_direct, &m.x, &m.w,
                                                        c->bias ? &m.b : NULL, &m.y, stride, before,
                                                        after);
    else if (s == dnnl_success)
        s = dnnl_convolution_backward_data_desc_init(&op, dnnl_convolution_direct, &m.x, &m.w, &m.y,
                                                     stride, before, after);
    if (s == dnnl_success) s = dnnl_primitive_desc_create(pd, &op, attr, e, hint);
#endif
    if (attr) dnnl_primitive_attr_destroy(attr);
    free_mds(&m);
    return s;
}

/* ---- Prepare --------------------------------------------------------------------------------- */

static void conv_release(fv_ctx *ctx, void *state)
{
    conv_state *st = state;
    if (!st) return;
    for (int i = 0; i < CALLS; i++) fvi_dnnl_call_destroy(call_at(st, i));
    fv_free(ctx, st->weights);
    fv_free(ctx, st->db);
    fv_free(ctx, st);
}

static fv_status no_kernel(const fvi_exec *e, dnnl_status_t s, const char *what)
{
    if (s == dnnl_out_of_memory) return fv_fail(e->ctx, FV_ERR_OOM, "conv2d: out of memory");
    const fv_tensor *x = &e->in[0], *w = &e->in[1];
    return fv_fail(e->ctx, FV_ERR_UNSUPPORTED,
                   "conv2d: oneDNN has no %s kernel for %s %lldx%lldx%lldx%lld "
                   "by %lldx%lldx%lld (status %d)",
                   what, is_half(e) ? "bf16" : "f32", (long long)x->dim[0], (long long)x->dim[1],
                   (long long)x->dim[2], (long long)x->dim[3], (long long)w->dim[0],
                   (long long)w->dim[2], (long long)w->dim[3], (int)s);
}

static dnnl_status_t plain_weights(const conv_shape *c, dnnl_data_type_t t, fvi_md *md)
{
    const dnnl_dims_t d = { c->O, c->C, c->kh, c->kw };
    memset(md, 0, sizeof *md);
    return fvi_md_tagged(md, 4, d, t, dnnl_oihw);
}

typedef struct conv_key {      /* identity of a packed form */
    int32_t kind, type;
    int64_t O, C, kh, kw, bytes;
    uint64_t layout;
} conv_key;

typedef struct conv_pack { conv_key key; const fvi_md *from, *to; } conv_pack;

static fv_status pack_weights(fv_ctx *ctx, const void *key, const void *f32, void *dst)
{
    const conv_pack *p = key; /* the key is the head of the caller's struct */
    fvi_dnnl_call call;
    const int old = fvi_threads_enter(ctx);
    const dnnl_status_t s = fvi_dnnl_reorder_create(ctx, &call, p->from, p->to, false);
    fvi_threads_leave(old);
    if (s != dnnl_success)
        return fv_fail(ctx, FV_ERR_UNSUPPORTED, "conv2d: packing weights failed (status %d)",
                       (int)s);
    const fv_status r =
        fvi_dnnl_call_run(ctx, &call, "conv2d weights", (const void *const[]){ f32, dst });
    fvi_dnnl_call_destroy(&call);
    return r;
}

static fv_status pack_once(fvi_exec *e, const conv_shape *c, conv_state *st,
                           const_dnnl_primitive_desc_t pd)
{
    fvi_md from, to;
    memset(&to, 0, sizeof to);
    dnnl_status_t s = plain_weights(c, dnnl_f32, &from);
    if (s == dnnl_success) s = fvi_md_query(&to, pd, dnnl_query_weights_md, 0);
    fv_status r = s == dnnl_success ? FV_OK : no_kernel(e, s, "packing");
    if (r == FV_OK) {
        const size_t bytes = fvi_md_bytes(&to);
        conv_pack p = { { 2, (int32_t)c->type, c->O, c->C, c->kh, c->kw, (int64_t)bytes,
                          fvi_md_layout(&to, 4) }, &from, &to };
        const fvi_form form = { &p, sizeof p.key, bytes, FV_F32, pack_weights };
        r = fvi_param_packed(e->ctx, e->params, e->pid[1], &form, &st->packed);
    }
    fvi_md_free(&from);
    fvi_md_free(&to);
    return r;
}

/* Reorder between OIHW of type t and the weights of pd, if the two differ; *bytes: largest form. */
static dnnl_status_t make_reorder(fvi_exec *e, const conv_shape *c, const_dnnl_primitive_desc_t pd,
                                  dnnl_data_type_t t, bool gradient, fvi_dnnl_call *call,
                                  size_t *bytes)
{
    fvi_md plain, own;
    memset(&own, 0, sizeof own);
    dnnl_status_t s = plain_weights(c, t, &plain);
    if (s == dnnl_success)
        s = fvi_md_query(&own, pd, gradient ? dnnl_query_diff_weights_md : dnnl_query_weights_md,
                         0);
    if (s == dnnl_success) {
        if (fvi_md_bytes(&own) > *bytes) *bytes = fvi_md_bytes(&own);
        if (gradient) s = fvi_dnnl_reorder_create(e->ctx, call, &own, &plain, true);
        else if (!fvi_md_same(&plain, &own))
            s = fvi_dnnl_reorder_create(e->ctx, call, &plain, &own, false);
    }
    fvi_md_free(&plain);
    fvi_md_free(&own);
    return s;
}

static fv_status prepare_backward(fvi_exec *e, const conv_shape *c, conv_state *st,
                                  const_dnnl_primitive_desc_t hint, size_t *bytes)
{
    static const int dx_id[] = { DNNL_ARG_DIFF_DST, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_SRC };
    static const int dw_id[] = { DNNL_ARG_SRC, DNNL_ARG_DIFF_DST, DNNL_ARG_DIFF_WEIGHTS,
                                 DNNL_ARG_DIFF_BIAS };
    dnnl_engine_t engine = e->ctx->dnnl_engine;
    if (e->gin[0].ndim > 0) {
        dnnl_primitive_desc_t pd = NULL;
        dnnl_status_t s = backward_pd(c, engine, false, hint, &pd);
        if (s == dnnl_success) s = fvi_dnnl_call_create(e->ctx, &st->dx, pd, dx_id, NULL, 3);
        if (s == dnnl_success) s = make_reorder(e, c, pd, c->type, false, &st->pack_dx, bytes);
        if (pd) dnnl_primitive_desc_destroy(pd);
        if (s != dnnl_success) return no_kernel(e, s, "backward data");
    }
    const bool want_db = c->bias && e->gin[2].ndim > 0;
    if (e->gin[1].ndim > 0 || want_db) {
        dnnl_primitive_desc_t pd = NULL;
        dnnl_status_t s = backward_pd(c, engine, true, hint, &pd);
        if (s == dnnl_success)
            s = fvi_dnnl_call_create(e->ctx, &st->dw, pd, dw_id, NULL, c->bias ? 4 : 3);
        if (s == dnnl_success) s = make_reorder(e, c, pd, dnnl_f32, true, &st->add_dw, bytes);
        if (pd) dnnl_primitive_desc_destroy(pd);
        if (s != dnnl_success) return no_kernel(e, s, "backward weights");
    }
    if (c->bias && st->dw.prim && !(st->db = fv_alloc(e->ctx, (size_t)c->O * sizeof(float))))
        return FV_ERR_OOM;
    return FV_OK;
}

static fv_status make_state(fvi_exec *e, const conv_shape *c, conv_state *st)
{
    static const int id[] = { DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_BIAS };
    dnnl_primitive_desc_t pd = NULL;
    size_t bytes = 0;
    fv_status r = FV_OK;
    const bool masters = fvi_params_master(e->params) != NULL;
    dnnl_status_t s = forward_pd(c, e->ctx->dnnl_engine, e->training, &pd);
    if (s == dnnl_success)
        s = fvi_dnnl_call_create(e->ctx, &st->forward, pd, id, NULL, c->bias ? 4 : 3);
    if (s == dnnl_success && masters)
        s = make_reorder(e, c, pd, c->type, false, &st->pack_forward, &bytes);
    if (s != dnnl_success) r = no_kernel(e, s, "forward");
    else if (!masters) r = pack_once(e, c, st, pd);
    if (r == FV_OK && e->training) r = prepare_backward(e, c, st, pd, &bytes);
    if (pd) dnnl_primitive_desc_destroy(pd);
    if (r == FV_OK && bytes > 0 && !(st->weights = fv_alloc(e->ctx, bytes))) r = FV_ERR_OOM;
    return r;
}

static fv_status conv_prepare(fvi_exec *e)
{
    conv_shape c;
    e->state = NULL;
    FV_TRY(read_shape(e, &c));
    FV_TRY(fvi_dnnl_start(e->ctx));
    if (e->training && !fvi_params_master(e->params))
        return fv_fail(e->ctx, FV_ERR_STATE, "conv2d: training needs fv_params_alloc first");
    if (is_half(e) && fvi_params_master(e->params)) FV_TRY(fvi_params_need_bf16(e->ctx, e->params));
    conv_state *st = fv_calloc(e->ctx, 1, sizeof *st);
    if (!st) return FV_ERR_OOM;
    const int old = fvi_threads_enter(e->ctx); /* primitives are made for a thread count */
    fv_status s = make_state(e, &c, st);
    fvi_threads_leave(old);
    for (int i = 0; i < CALLS && s == FV_OK; i++) s = fvi_dnnl_reserve(e->ctx, call_at(st, i));
    if (s != FV_OK) {
        conv_release(e->ctx, st);
        return s;
    }
    e->state = st;
    return FV_OK;
}

/* ---- Run ------------------------------------------------------------------------------------- */

/* Scratch: [ x as bf16 ][ dy as bf16 ][ dx in f32 before it is added ], each only when needed. */
typedef struct conv_scratch { size_t x, dy, dx, total; } conv_scratch;

static size_t take(size_t *total, const fv_tensor *t, size_t element)
{
    const size_t at = *total;
    *total += ((size_t)fv_tensor_count(t) * element + 63) / 64 * 64;
    return at;
}

static conv_scratch scratch_layout(const fvi_exec *e, bool backward)
{
    conv_scratch s = { 0, 0, 0, 0 };
    const bool half = is_half(e);
    if (half && e->in[0].dtype == FV_F32) s.x = take(&s.total, &e->in[0], 2);
    if (!backward) return s;
    if (half && e->out[0].dtype == FV_F32) s.dy = take(&s.total, &e->out[0], 2);
    if (e->gin[0].ndim > 0 && e->gin_add[0]) s.dx = take(&s.total, &e->in[0], 4);
    return s;
}

static size_t conv_scratch_bytes(const fvi_exec *e, bool backward)
{
    return scratch_layout(e, backward).total;
}

/* t as the products want it: itself, or rounded to bf16 at `at`. */
static fv_status as_product(const fvi_exec *e, const fv_tensor *t, size_t at, const void **out)
{
    *out = t->data;
    if (!is_half(e) || t->dtype == FV_BF16) return FV_OK;
    uint8_t *dst = (uint8_t *)e->scratch + at;
    *out = dst;
    return fv_convert(e->ctx, FV_F32, t->data, fv_tensor_count(t), FV_BF16, dst);
}

/* Current values of the weights in the layout of a primitive. */
static fv_status current_weights(fvi_exec *e, conv_state *st, fvi_dnnl_call *pack, const void **out)
{
    const void *w = is_half(e) ? (const void *)fvi_param_bf16(e->params, e->pid[1])
                               : fv_params_tensor(e->params, e->pid[1]).data;
    *out = w;
    if (!pack->prim) return FV_OK;
    *out = st->weights;
    return fvi_dnnl_call_run(e->ctx, pack, "conv2d weights",
                             (const void *const[]){ w, st->weights });
}

static fv_status conv_forward(fvi_exec *e)
{
    conv_state *st = e->state;
    const conv_scratch at = scratch_layout(e, false);
    const void *w = st->packed, *x;
    if (!w) FV_TRY(current_weights(e, st, &st->pack_forward, &w));
    FV_TRY(as_product(e, &e->in[0], at.x, &x));
    const void *const data[] = { x, w, e->out[0].data, e->in[2].data };
    return fvi_dnnl_call_run(e->ctx, &st->forward, "conv2d", data);
}

static void add_gradient(fv_ctx *ctx, const fv_tensor *g, const float *d)
{
    const int64_t n = fv_tensor_count(g);
    const bool half = g->dtype == FV_BF16;
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t i0, i1;
        fvi_lane(n, lane, &i0, &i1);
        if (half) {
            uint16_t *y = g->data;
            for (int64_t i = i0; i < i1; i++) y[i] = fv_f32_to_bf16(fv_bf16_to_f32(y[i]) + d[i]);
        } else {
            float *y = g->data;
            for (int64_t i = i0; i < i1; i++) y[i] += d[i];
        }
    }
}

static fv_status conv_backward(fvi_exec *e)
{
    conv_state *st = e->state;
    const conv_scratch at = scratch_layout(e, true);
    const void *w, *x, *dy;
    FV_TRY(as_product(e, &e->gout[0], at.dy, &dy));
    if (st->dx.prim && e->gin[0].data) {
        void *dx = e->gin_add[0] ? (void *)((uint8_t *)e->scratch + at.dx) : e->gin[0].data;
        FV_TRY(current_weights(e, st, &st->pack_dx, &w));
        FV_TRY(fvi_dnnl_call_run(e->ctx, &st->dx, "conv2d dx", (const void *const[]){ dy, w, dx }));
        if (e->gin_add[0]) add_gradient(e->ctx, &e->gin[0], dx);
    }
    if (!st->dw.prim || (!e->gin[1].data && !e->gin[2].data)) return FV_OK;
    FV_TRY(as_product(e, &e->in[0], at.x, &x));
    FV_TRY(fvi_dnnl_call_run(e->ctx, &st->dw, "conv2d dw",
                             (const void *const[]){ x, dy, st->weights, st->db }));
    if (e->gin[1].data) {
        const void *const data[] = { st->weights, e->gin[1].data };
        FV_TRY(fvi_dnnl_call_run(e->ctx, &st->add_dw, "conv2d dw", data));
    }
    if (st->db && e->gin[2].data) {
        float *db = e->gin[2].data;
        for (int64_t o = 0; o < e->in[1].dim[0]; o++) db[o] += st->db[o];
    }
    return FV_OK;
}

const fvi_op_def fvi_cpu_conv2d = {
    .name = "conv2d",
    .bwd_reads_in = 1,
    .bwd_reads_out = 0,
    .scratch_bytes = conv_scratch_bytes,
    .prepare = conv_prepare,
    .release = conv_release,
    .forward = conv_forward,
    .backward = conv_backward,
};
