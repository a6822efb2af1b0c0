/* check_conv.c - CONV2D on oneDNN against a double reference: forward, gradients, thread counts,
 * accumulation. The whole list runs twice, see dnnl_check.h (with AVX2 only there is no bf16:
 * FV_ERR_UNSUPPORTED is expected).
 *
 * Tolerances: a sum of K f32 products has an error of about sqrt(K) u sum|x w|, u = 2^-24 (a factor
 * 4 on top); operands are given as bf16 values, so bf16 adds only the rounding of the result
 * (2^-8). */
#include <pthread.h>

#include "dnnl_check.h"
#include "safetensors_writer.h"

typedef struct shape {
    int B, H, W, C, O, kh, kw, stride, top, left, bottom, right;
    fv_act act;
    bool bias;
} shape;

static const shape shapes[] = {
    { 2, 8, 8, 16, 64, 3, 3, 1, 1, 1, 1, 1, FV_ACT_SILU, true },
    { 1, 9, 7, 3, 33, 3, 3, 1, 1, 1, 1, 1, FV_ACT_RELU, true },
    { 2, 8, 8, 64, 3, 3, 3, 1, 1, 1, 1, 1, FV_ACT_NONE, true },
    { 1, 5, 5, 4, 4, 1, 1, 1, 0, 0, 0, 0, FV_ACT_TANH, true },
    { 1, 13, 11, 33, 1, 1, 1, 1, 0, 0, 0, 0, FV_ACT_NONE, false },
    { 3, 10, 10, 64, 33, 3, 3, 2, 1, 1, 1, 1, FV_ACT_NONE, false },
    { 1, 10, 12, 16, 16, 3, 3, 2, 0, 0, 1, 1, FV_ACT_GELU_TANH, true }, /* SD encoder */
    { 1, 9, 9, 3, 64, 3, 3, 2, 0, 1, 0, 1, FV_ACT_SIGMOID, true },
    { 2, 9, 9, 1, 16, 5, 5, 1, 2, 2, 2, 2, FV_ACT_RELU, true },
    { 1, 15, 8, 4, 3, 7, 7, 1, 3, 3, 3, 3, FV_ACT_GELU_ERF, true },
    { 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, FV_ACT_NONE, true },
    { 1, 3, 2, 1, 3, 3, 3, 1, 1, 1, 1, 1, FV_ACT_LRELU, true },
    { 1, 4, 4, 33, 33, 4, 4, 4, 0, 0, 0, 0, FV_ACT_NONE, true },
    { 1, 8, 7, 130, 68, 3, 3, 1, 1, 1, 1, 1, FV_ACT_SILU, true },
    { 1, 6, 9, 16, 4, 1, 1, 2, 0, 0, 0, 0, FV_ACT_NONE, true },
    { 1, 7, 1, 16, 64, 3, 1, 1, 1, 0, 1, 0, FV_ACT_NONE, true },
};

/* ---- Double reference ------------------------------------------------------------------------ */

static int out_h(const shape *s) { return (s->H + s->top + s->bottom - s->kh) / s->stride + 1; }
static int out_w(const shape *s) { return (s->W + s->left + s->right - s->kw) / s->stride + 1; }
static int64_t x_count(const shape *s) { return (int64_t)s->B * s->H * s->W * s->C; }
static int64_t w_count(const shape *s) { return (int64_t)s->O * s->C * s->kh * s->kw; }
static int64_t y_count(const shape *s) { return (int64_t)s->B * out_h(s) * out_w(s) * s->O; }

/* Walks over all products y[yi] += x[xi] w[wi]. */
typedef struct walk { int b, oy, ox, o, i, j, c; int64_t xi, wi, yi; } walk;
typedef void (*walk_fn)(void *user, const walk *k);

static void each_product(const shape *s, walk_fn fn, void *user)
{
    walk k;
    for (k.b = 0; k.b < s->B; k.b++)
    for (k.oy = 0; k.oy < out_h(s); k.oy++)
    for (k.ox = 0; k.ox < out_w(s); k.ox++)
    for (k.o = 0; k.o < s->O; k.o++)
    for (k.i = 0; k.i < s->kh; k.i++)
    for (k.j = 0; k.j < s->kw; k.j++) {
        const int y = k.oy * s->stride - s->top + k.i, x = k.ox * s->stride - s->left + k.j;
        if (y < 0 || y >= s->H || x < 0 || x >= s->W) continue;
        k.yi = (((int64_t)k.b * out_h(s) + k.oy) * out_w(s) + k.ox) * s->O + k.o;
        for (k.c = 0; k.c < s->C; k.c++) {
            k.xi = (((int64_t)k.b * s->H + y) * s->W + x) * s->C + k.c;
            k.wi = (((int64_t)k.o * s->C + k.c) * s->kh + k.i) * s->kw + k.j;
            fn(user, &k);
        }
    }
}

/* Values and, for tolerances, sums of magnitudes. */
typedef struct ref {
    const float *x, *w, *b, *dy;
    double *y, *dx, *dw, *db, *ya, *dxa, *dwa, *dba;
    int64_t *xn, *wn; /* products per element */
} ref;

static void ref_product(void *user, const walk *k)
{
    ref *r = user;
    const double f = (double)r->x[k->xi] * r->w[k->wi];
    r->y[k->yi] += f;
    r->ya[k->yi] += fabs(f);
    if (!r->dy) return;
    const double d = (double)r->dy[k->yi] * r->w[k->wi], g = (double)r->dy[k->yi] * r->x[k->xi];
    r->dx[k->xi] += d;
    r->dxa[k->xi] += fabs(d);
    r->dw[k->wi] += g;
    r->dwa[k->wi] += fabs(g);
}

static void ref_free(ref *r)
{
    double *p[] = { r->y, r->dx, r->dw, r->db, r->ya, r->dxa, r->dwa, r->dba };
    for (size_t i = 0; i < FV_ARRAY_LEN(p); i++) free(p[i]);
}

static ref reference(const shape *s, const float *x, const float *w, const float *b,
                     const float *dy)
{
    ref r = { .x = x, .w = w, .b = b, .dy = dy };
    r.y = calloc((size_t)y_count(s), sizeof(double));
    r.ya = calloc((size_t)y_count(s), sizeof(double));
    r.dx = calloc((size_t)x_count(s), sizeof(double));
    r.dxa = calloc((size_t)x_count(s), sizeof(double));
    r.dw = calloc((size_t)w_count(s), sizeof(double));
    r.dwa = calloc((size_t)w_count(s), sizeof(double));
    r.db = calloc((size_t)s->O, sizeof(double));
    r.dba = calloc((size_t)s->O, sizeof(double));
    each_product(s, ref_product, &r);
    for (int64_t i = 0; i < y_count(s); i++) {
        if (b) r.y[i] += b[i % s->O];
        if (dy) r.db[i % s->O] += dy[i], r.dba[i % s->O] += fabs((double)dy[i]);
    }
    return r;
}

/* ---- One node by hand ------------------------------------------------------------------------ */

typedef struct node {
    shape s;
    fv_ctx *ctx;
    fv_params *params;
    fvi_attr attr;
    fvi_exec e;
    fv_dtype xt, yt;
    float *x, *w, *b, *dy;      /* values, exact in the types used */
    void *xv, *yv, *dxv, *dyv;  /* as the op sees them */
    float *out, *dx;            /* results widened */
    void *scratch;
    bool train, ready;
    fv_model *file;             /* weights of FROM_FILE */
    uint8_t *file_bytes;
} node;

/* Inference packs weights of a file; with masters it reads their current values. */
typedef enum mode { FROM_FILE, FROM_MASTERS, TRAINING } mode;

static void *buffer(size_t bytes)
{
    void *p = NULL;
    if (posix_memalign(&p, 64, bytes + 64) != 0) abort();
    memset(p, 0, bytes + 64);
    return p;
}

static void to_type(fv_dtype t, const float *src, int64_t n, void *dst)
{
    for (int64_t i = 0; i < n; i++) {
        if (t == FV_BF16) ((uint16_t *)dst)[i] = fv_f32_to_bf16(src[i]);
        else ((float *)dst)[i] = src[i];
    }
}

static void from_type(fv_dtype t, const void *src, int64_t n, float *dst)
{
    for (int64_t i = 0; i < n; i++)
        dst[i] =
            t == FV_BF16 ? fv_bf16_to_f32(((const uint16_t *)src)[i]) : ((const float *)src)[i];
}

static float *values(int64_t n, uint64_t seed, bool half)
{
    float *v = buffer((size_t)n * 4);
    test_fill(v, n, seed);
    for (int64_t i = 0; half && i < n; i++) v[i] = fv_bf16_to_f32(fv_f32_to_bf16(v[i]));
    return v;
}

static fv_tensor tensor(fv_dtype t, void *data, int nd, const int64_t *dim)
{
    fv_tensor v = { .data = data, .dtype = t, .ndim = nd };
    memcpy(v.dim, dim, (size_t)nd * sizeof *dim);
    return v;
}

static void node_close(node *n)
{
    if (n->ready) fvi_cpu_conv2d.release(n->ctx, n->e.state);
    fv_params_destroy(&n->params);
    fv_model_close(&n->file);
    free(n->file_bytes);
    void *p[] = {
        n->x, n->w, n->b, n->dy, n->xv, n->yv, n->dxv, n->dyv, n->out, n->dx, n->scratch
    };
    for (size_t i = 0; i < FV_ARRAY_LEN(p); i++) free(p[i]);
}

static void node_tensors(node *n, bool add)
{
    const shape *s = &n->s;
    fvi_exec *e = &n->e;
    const int64_t xd[4] = { s->B, s->H, s->W, s->C }, yd[4] = { s->B, out_h(s), out_w(s), s->O };
    e->in[0] = tensor(n->xt, NULL, 4, xd);
    e->in[1] = fv_params_tensor(n->params, 0);
    if (s->bias) e->in[2] = fv_params_tensor(n->params, 1);
    e->out[0] = tensor(n->yt, NULL, 4, yd);
    if (n->train) {
        e->gin[0] = e->in[0];
        e->gin[1] = fv_params_grad(n->params, 0);
        if (s->bias) e->gin[2] = fv_params_grad(n->params, 1);
        e->gout[0] = e->out[0];
        e->gin_add[0] = add;
    }
    e->pid[0] = -1;
    e->pid[1] = 0;
    e->pid[2] = s->bias ? 1 : -1;
}

static void node_values(node *n)
{
    const shape *s = &n->s;
    const bool half = n->xt == FV_BF16 || n->yt == FV_BF16;
    n->x = values(x_count(s), 1, half);
    n->w = values(w_count(s), 2, half);
    n->b = values(s->O, 3, false);
    n->dy = values(y_count(s), 4, half);
    n->xv = buffer((size_t)x_count(s) * 4);
    n->dxv = buffer((size_t)x_count(s) * 4);
    n->yv = buffer((size_t)y_count(s) * 4);
    n->dyv = buffer((size_t)y_count(s) * 4);
    n->out = buffer((size_t)y_count(s) * 4);
    n->dx = buffer((size_t)x_count(s) * 4);
    to_type(n->xt, n->x, x_count(s), n->xv);
    to_type(n->yt, n->dy, y_count(s), n->dyv);
}

static fv_status node_weights(node *n, mode m)
{
    const shape *s = &n->s;
    const int64_t wd[4] = { s->O, s->C, s->kh, s->kw }, bd[1] = { s->O };
    FV_TRY(fv_params_create(n->ctx, &n->params));
    fv_params_add(n->params, "w", 4, wd, 0);
    if (s->bias) fv_params_add(n->params, "b", 1, bd, 0);
    if (m != FROM_FILE) FV_TRY(fv_params_alloc(n->params));
    st_writer st = { 0 };
    const fv_tensor w = tensor(FV_F32, n->w, 4, wd), b = tensor(FV_F32, n->b, 1, bd);
    size_t size;
    st_add(&st, "w", &w);
    st_add(&st, "b", &b);
    n->file_bytes = st_finish(&st, &size);
    FV_TRY(fv_model_open_memory(n->ctx, &n->file, n->file_bytes, size, NULL));
    return fv_params_load(n->params, n->file, "");
}

/* Prepared node; the status of prepare. */
static fv_status node_open(node *n, fv_ctx *ctx, const shape *s, fv_dtype xt, fv_dtype yt, mode m,
                           bool add)
{
    const bool train = m == TRAINING;
    memset(n, 0, sizeof *n);
    n->s = *s;
    n->ctx = ctx;
    n->xt = xt;
    n->yt = yt;
    n->train = train;
    node_values(n);
    FV_TRY(node_weights(n, m));
    n->attr = (fvi_attr){ .i = { s->stride, s->top, s->left, s->bottom, s->right,
                                 train ? 0 : (int32_t)s->act } };
    fvi_exec *e = &n->e;
    e->ctx = ctx;
    e->attr = &n->attr;
    e->training = train;
    e->params = n->params;
    node_tensors(n, add);
    FV_TRY(fvi_cpu_conv2d.prepare(e));
    n->ready = true;
    FV_TRY(fvi_params_sync(ctx, n->params));
    const size_t f = fvi_cpu_conv2d.scratch_bytes(e, false),
                 b = train ? fvi_cpu_conv2d.scratch_bytes(e, true) : 0;
    n->scratch = buffer(f > b ? f : b);
    e->scratch = n->scratch;
    e->in[0].data = n->xv;
    e->in[1].data = NULL; /* fetched by id */
    if (s->bias && m == FROM_FILE) e->in[2].data = n->b;
    e->out[0].data = n->yv;
    e->gin[0].data = n->dxv;
    e->gout[0].data = n->dyv;
    return FV_OK;
}

static fv_status node_forward(node *n)
{
    FV_TRY(fvi_cpu_conv2d.forward(&n->e));
    from_type(n->yt, n->yv, y_count(&n->s), n->out);
    return FV_OK;
}

static fv_status node_backward(node *n)
{
    FV_TRY(fvi_cpu_conv2d.backward(&n->e));
    from_type(n->xt, n->dxv, x_count(&n->s), n->dx);
    return FV_OK;
}

/* ---- Tests ----------------------------------------------------------------------------------- */

static double bound(double magnitude, double value, double terms, fv_dtype t)
{
    return 4 * (1 + sqrt(terms)) * ldexp(magnitude, -24) +
           (t == FV_BF16 ? ldexp(fabs(value), -8) : 0) + 1e-30;
}

static bool refused(fv_dtype xt, fv_dtype yt, fv_status s)
{
    return !bf16_offered && (xt == FV_BF16 || yt == FV_BF16) && s == FV_ERR_UNSUPPORTED;
}

static void forward_case(const shape *s, fv_dtype xt, fv_dtype yt, mode m)
{
    const bool train = m == TRAINING;
    node n;
    const fv_status st = node_open(&n, two, s, xt, yt, m, false);
    if (refused(xt, yt, st)) {
        node_close(&n);
        return;
    }
    OK(two, st);
    OK(two, node_forward(&n));
    ref r = reference(s, n.x, n.w, s->bias ? n.b : NULL, NULL);
    for (int64_t i = 0; i < y_count(s); i++) {
        const double want = train ? r.y[i] : activate(s->act, r.y[i]);
        double tol = 1.2 * bound(r.ya[i] + 1, want, s->C * s->kh * s->kw, yt);
        if (!train && s->act > FV_ACT_RELU) tol += 2e-6; /* oneDNN's polynomial activations */
        CHECK_MSG(fabs(want - n.out[i]) <= tol,
                  "shape %d, %s -> %s, element %lld: %.9g, expected %.9g, tolerance %g",
                  (int)(s - shapes), fv_dtype_name(xt), fv_dtype_name(yt), (long long)i, n.out[i],
                  want, tol);
    }
    ref_free(&r);
    node_close(&n);
}

static void forward_table(fv_dtype xt, fv_dtype yt, mode m)
{
    for (size_t i = 0; i < FV_ARRAY_LEN(shapes) && !test_bad; i++)
        forward_case(&shapes[i], xt, yt, m);
}

static void forward_f32_matches_double(void) { forward_table(FV_F32, FV_F32, FROM_FILE); }
static void forward_bf16_matches_double(void) { forward_table(FV_BF16, FV_BF16, FROM_FILE); }
static void forward_bf16_to_f32_matches_double(void) { forward_table(FV_BF16, FV_F32, FROM_FILE); }
static void forward_f32_to_bf16_rounds_once(void) { forward_table(FV_F32, FV_BF16, FROM_FILE); }
static void forward_f32_from_masters_matches_double(void)
{
    forward_table(FV_F32, FV_F32, FROM_MASTERS);
}
static void forward_bf16_from_masters_matches_double(void)
{
    forward_table(FV_BF16, FV_BF16, FROM_MASTERS);
}
static void training_forward_f32_matches_double(void) { forward_table(FV_F32, FV_F32, TRAINING); }
static void training_forward_bf16_matches_double(void)
{
    forward_table(FV_BF16, FV_BF16, TRAINING);
}

/* The convolution is linear in x and in w, so central differences are exact up to rounding. */
static void reference_gradient_matches_central_differences(void)
{
    const shape s = { 1, 4, 3, 2, 2, 3, 2, 2, 1, 0, 0, 1, FV_ACT_NONE, true };
    float *x = values(x_count(&s), 1, true), *w = values(w_count(&s), 2, true);
    float *b = values(s.O, 3, true), *dy = values(y_count(&s), 4, true);
    ref g = reference(&s, x, w, b, dy);
    struct { float *v; const double *d; int64_t n; } part[3] = {
        { x, g.dx, x_count(&s) }, { w, g.dw, w_count(&s) }, { b, g.db, s.O } };
    for (int k = 0; k < 3; k++)
        for (int64_t i = 0; i < part[k].n; i++) {
            double loss[2];
            const float old = part[k].v[i];
            for (int side = 0; side < 2; side++) {
                part[k].v[i] = old + (side ? 0.125f : -0.125f);
                ref r = reference(&s, x, w, b, NULL);
                loss[side] = 0;
                for (int64_t j = 0; j < y_count(&s); j++) loss[side] += r.y[j] * dy[j];
                ref_free(&r);
            }
            part[k].v[i] = old;
            NEAR((loss[1] - loss[0]) / 0.25, part[k].d[i], 1e-6);
        }
    ref_free(&g);
    free(x), free(w), free(b), free(dy);
}

static void backward_case(const shape *s, fv_dtype xt, fv_dtype yt, bool add)
{
    node n;
    const fv_status st = node_open(&n, two, s, xt, yt, TRAINING, add);
    if (refused(xt, yt, st)) {
        node_close(&n);
        return;
    }
    OK(two, st);
    /* Gradients that are there already: dx only with add, parameters always. */
    float *start = values(x_count(s), 9, true);
    to_type(xt, start, x_count(s), n.dxv);
    float *dw = fv_params_grad(n.params, 0).data,
          *db = s->bias ? fv_params_grad(n.params, 1).data : NULL;
    for (int64_t i = 0; i < w_count(s); i++) dw[i] = 0.5f;
    for (int64_t i = 0; db && i < s->O; i++) db[i] = -0.25f;
    OK(two, node_forward(&n));
    OK(two, node_backward(&n));
    ref r = reference(s, n.x, n.w, NULL, n.dy);
    const double pixels = (double)s->B * out_h(s) * out_w(s);
    for (int64_t i = 0; i < x_count(s); i++) {
        const double want = r.dx[i] + (add ? start[i] : 0);
        const double tol = bound(r.dxa[i] + 1, want, (double)s->O * s->kh * s->kw, xt);
        CHECK_MSG(fabs(want - n.dx[i]) <= tol,
                  "dx, shape %d, %s, element %lld: %.9g, expected %.9g", (int)(s - shapes),
                  fv_dtype_name(xt), (long long)i, n.dx[i], want);
    }
    for (int64_t i = 0; i < w_count(s); i++)
        CHECK_MSG(fabs(r.dw[i] + 0.5 - dw[i]) <= bound(r.dwa[i] + 1, 0, pixels, FV_F32),
                  "dw, shape %d, %s, element %lld: %.9g, expected %.9g", (int)(s - shapes),
                  fv_dtype_name(xt), (long long)i, dw[i], r.dw[i] + 0.5);
    for (int64_t i = 0; db && i < s->O; i++)
        CHECK_MSG(fabs(r.db[i] - 0.25 - db[i]) <= bound(r.dba[i] + 1, 0, pixels, FV_F32),
                  "db, shape %d, %s: %.9g, expected %.9g", (int)(s - shapes), fv_dtype_name(xt),
                  db[i], r.db[i] - 0.25);
    ref_free(&r);
    free(start);
    node_close(&n);
}

static void backward_table(fv_dtype xt, fv_dtype yt, bool add)
{
    for (size_t i = 0; i < FV_ARRAY_LEN(shapes) && !test_bad; i++)
        backward_case(&shapes[i], xt, yt, add);
}

static void backward_f32_matches_double(void) { backward_table(FV_F32, FV_F32, false); }
static void backward_f32_adds_to_gradients(void) { backward_table(FV_F32, FV_F32, true); }
static void backward_bf16_matches_double(void) { backward_table(FV_BF16, FV_BF16, false); }
static void backward_bf16_adds_with_one_rounding(void) { backward_table(FV_BF16, FV_BF16, true); }
static void backward_bf16_to_f32_matches_double(void) { backward_table(FV_BF16, FV_F32, false); }

/* y and dx of b, on other threads, against those of a, on one. */
static void same_bytes_as(node *a, fv_ctx *ctx, const shape *s, fv_dtype t, int *differ)
{
    const size_t e = t == FV_BF16 ? 2 : 4;
    node b;
    OK(ctx, node_open(&b, ctx, s, t, t, TRAINING, false));
    OK(ctx, node_forward(&b));
    OK(ctx, node_backward(&b));
    CHECK_MSG(memcmp(a->yv, b.yv, (size_t)y_count(s) * e) == 0, "y, shape %d, %s, %d threads",
              (int)(s - shapes), fv_dtype_name(t), fv_ctx_threads(ctx));
    CHECK_MSG(memcmp(a->dxv, b.dxv, (size_t)x_count(s) * e) == 0, "dx, shape %d, %s, %d threads",
              (int)(s - shapes), fv_dtype_name(t), fv_ctx_threads(ctx));
    *differ += memcmp(fv_params_grad(a->params, 0).data, fv_params_grad(b.params, 0).data,
                      (size_t)w_count(s) * 4) != 0;
    node_close(&b);
}

static void same_bytes_for_1_to_3_threads(void)
{
    int differ = 0;
    for (size_t i = 0; i < FV_ARRAY_LEN(shapes) && !test_bad; i++)
        for (int half = 0; half <= (bf16_offered ? 1 : 0) && !test_bad; half++) {
            const fv_dtype t = half ? FV_BF16 : FV_F32;
            node a;
            OK(one, node_open(&a, one, &shapes[i], t, t, TRAINING, false));
            OK(one, node_forward(&a));
            OK(one, node_backward(&a));
            same_bytes_as(&a, two, &shapes[i], t, &differ);
            if (!test_bad) same_bytes_as(&a, three, &shapes[i], t, &differ);
            node_close(&a);
        }
    printf("# dw differs between 1 and 2 or 3 threads in %d cases (oneDNN splits the sum; "
           "documented)\n",
           differ);
}

static void second_step_follows_the_masters(void)
{
    for (int half = 0; half <= (bf16_offered ? 1 : 0); half++) {
        const fv_dtype t = half ? FV_BF16 : FV_F32;
        node n;
        OK(two, node_open(&n, two, &shapes[0], t, t, TRAINING, false));
        OK(two, node_forward(&n));
        float *first = buffer((size_t)y_count(&n.s) * 4);
        memcpy(first, n.out, (size_t)y_count(&n.s) * 4);
        float *w = fv_params_tensor(n.params, 0).data, *b = fv_params_tensor(n.params, 1).data;
        for (int64_t i = 0; i < w_count(&n.s); i++) w[i] *= 2;
        for (int i = 0; i < n.s.O; i++) b[i] *= 2;
        fv_params_touch(n.params);
        fv_memory_stats before, after;
        fv_ctx_memory(two, &before);
        OK(two, fvi_params_sync(two, n.params));
        OK(two, node_forward(&n));
        OK(two, node_backward(&n));
        fv_ctx_memory(two, &after);
        CHECK(after.allocations == before.allocations);
        for (int64_t i = 0; i < y_count(&n.s); i++) CHECK(n.out[i] == 2 * first[i]);
        free(first);
        node_close(&n);
    }
}

static void *run_forward(void *user)
{
    node *n = user;
    return node_forward(n) == FV_OK ? n : NULL;
}

/* A context may move to another thread between calls: scratchpads must move with it. */
static void plan_made_on_one_thread_runs_on_another(void)
{
    for (int half = 0; half <= (bf16_offered ? 1 : 0); half++) {
        const fv_dtype t = half ? FV_BF16 : FV_F32;
        node n;
        OK(one, node_open(&n, one, &shapes[1], t, t, FROM_FILE, false));
        OK(one, node_forward(&n));
        float *first = buffer((size_t)y_count(&n.s) * 4);
        memcpy(first, n.out, (size_t)y_count(&n.s) * 4);
        memset(n.yv, 0, (size_t)y_count(&n.s) * 2);
        pthread_t thread;
        void *result = NULL;
        CHECK(pthread_create(&thread, NULL, run_forward, &n) == 0);
        CHECK(pthread_join(thread, &result) == 0 && result);
        CHECK(memcmp(first, n.out, (size_t)y_count(&n.s) * 4) == 0);
        free(first);
        node_close(&n);
    }
}

static void wrong_shapes_are_refused(void)
{
    node n;
    OK(one, node_open(&n, one, &shapes[0], FV_F32, FV_F32, FROM_FILE, false));
    fvi_exec e = n.e;
    e.out[0].dim[1]++;
    CHECK(fvi_cpu_conv2d.prepare(&e) == FV_ERR_SHAPE && strstr(fv_ctx_error(one), "conv2d"));
    e = n.e;
    e.in[0].dim[3] = 5;
    CHECK(fvi_cpu_conv2d.prepare(&e) == FV_ERR_SHAPE);
    e = n.e;
    e.in[0].dim[0] = e.out[0].dim[0] = 0;
    CHECK(fvi_cpu_conv2d.prepare(&e) == FV_ERR_SHAPE);
    e = n.e;
    e.in[0].dtype = FV_I8;
    CHECK(fvi_cpu_conv2d.prepare(&e) == FV_ERR_DTYPE);
    node_close(&n);
}

static void every_test(void)
{
    RUN(forward_f32_matches_double);
    RUN(forward_bf16_matches_double);
    RUN(forward_bf16_to_f32_matches_double);
    RUN(forward_f32_to_bf16_rounds_once);
    RUN(forward_f32_from_masters_matches_double);
    RUN(forward_bf16_from_masters_matches_double);
    RUN(training_forward_f32_matches_double);
    RUN(training_forward_bf16_matches_double);
    RUN(reference_gradient_matches_central_differences);
    RUN(backward_f32_matches_double);
    RUN(backward_f32_adds_to_gradients);
    RUN(backward_bf16_matches_double);
    RUN(backward_bf16_adds_with_one_rounding);
    RUN(backward_bf16_to_f32_matches_double);
    RUN(same_bytes_for_1_to_3_threads);
    RUN(second_step_follows_the_masters);
    RUN(plan_made_on_one_thread_runs_on_another);
    RUN(wrong_shapes_are_refused);
}

int main(void) { return dnnl_check_main(every_test); }
