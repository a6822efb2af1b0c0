/* check_matmul.c - fvi_matmul and the LINEAR op against a double reference: types, transposes,
 * accumulation, activations, packed weights, leading dimensions, odd sizes; gradients of LINEAR.
 * Runs twice, see dnnl_check.h (with AVX2 only there is no bf16 and no int8: FV_ERR_UNSUPPORTED is
 * expected).
 *
 * Tolerances: a sum of K f32 products has an error of about sqrt(K) u sum|a b|, u = 2^-24 (times
 * 4); bf16 operands are exact, a bf16 result adds 2^-8 of itself; s8 sums are exact before the
 * scale. */
#include <pthread.h>

#include "dnnl_check.h"
#include "safetensors_writer.h"

static void *buffer(size_t bytes)
{
    void *p = NULL;
    if (posix_memalign(&p, 64, bytes + 64) != 0) abort();
    memset(p, 0x7f, bytes + 64); /* what is not written shows */
    return p;
}

static float *values(int64_t n, uint64_t seed, fv_dtype t)
{
    float *v = buffer((size_t)n * 4);
    test_fill(v, n, seed);
    for (int64_t i = 0; i < n; i++) {
        if (t == FV_BF16) v[i] = fv_bf16_to_f32(fv_f32_to_bf16(v[i]));
        if (t == FV_I8) v[i] = nearbyintf(v[i] * 127.0f);
    }
    return v;
}

static void *typed(fv_dtype t, const float *src, int64_t n)
{
    uint8_t *p = buffer((size_t)n * fv_dtype_size(t));
    for (int64_t i = 0; i < n; i++) {
        if (t == FV_F32) ((float *)(void *)p)[i] = src[i];
        else if (t == FV_BF16) ((uint16_t *)(void *)p)[i] = fv_f32_to_bf16(src[i]);
        else ((int8_t *)p)[i] = (int8_t)src[i];
    }
    return p;
}

static double widened(fv_dtype t, const void *p, int64_t i)
{
    return t == FV_BF16 ? fv_bf16_to_f32(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

/* ---- fvi_matmul ------------------------------------------------------------------------------ */

typedef struct product {
    fvi_matmul_desc d;
    int64_t lda, ldb, ldc;
    float *a, *b, *bias, *scale, *c;
    void *av, *bv, *cv, *packed;
} product;

static void product_free(product *p)
{
    void *v[] = { p->a, p->b, p->bias, p->scale, p->c, p->av, p->bv, p->cv, p->packed };
    for (size_t i = 0; i < FV_ARRAY_LEN(v); i++) free(v[i]);
}

static product product_make(const fvi_matmul_desc *d)
{
    product p = { .d = *d };
    p.lda = d->lda ? d->lda : (d->a_trans ? d->M : d->K);
    p.ldb = d->ldb ? d->ldb : (d->b_trans ? d->K : d->N);
    p.ldc = d->ldc ? d->ldc : d->N;
    const int64_t na = p.lda * (d->a_trans ? d->K : d->M), nb = p.ldb * (d->b_trans ? d->N : d->K);
    p.a = values(na, 1, d->a_type);
    p.b = values(nb, 2, d->b_type);
    p.bias = values(d->N, 3, FV_F32);
    p.scale = values(d->N, 4, FV_F32);
    for (int64_t i = 0; i < d->N; i++) p.scale[i] = ldexpf(1.0f + p.scale[i] * 0.5f, -10);
    p.c = values(p.ldc * d->M, 5, d->c_type);
    p.av = typed(d->a_type, p.a, na);
    p.bv = typed(d->b_type, p.b, nb);
    p.cv = typed(d->c_type, p.c, p.ldc * d->M);
    return p;
}

static void product_check(const product *p)
{
    const fvi_matmul_desc *d = &p->d;
    for (int64_t m = 0; m < d->M; m++)
        for (int64_t n = 0; n < p->ldc; n++) {
            const int64_t at = m * p->ldc + n;
            const double got = widened(d->c_type, p->cv, at);
            if (n >= d->N) {
                CHECK_MSG(got == p->c[at], "beyond column %lld of row %lld", (long long)d->N,
                          (long long)m);
                continue;
            }
            double sum = 0, mag = 0;
            for (int64_t k = 0; k < d->K; k++) {
                const double f = (double)p->a[d->a_trans ? k * p->lda + m : m * p->lda + k] *
                                 p->b[d->b_trans ? n * p->ldb + k : k * p->ldb + n];
                sum += f;
                mag += fabs(f);
            }
            if (d->scaled) sum *= p->scale[n], mag = fabs(sum); /* integer sums are exact */
            if (d->accumulate) sum += p->c[at];
            if (d->bias) sum += p->bias[n];
            const double want = activate(d->act, sum);
            double tol = 5 * (1 + sqrt((double)d->K)) * ldexp(mag + 2, -24);
            if (d->c_type == FV_BF16) tol += ldexp(fabs(want), -8) * (d->accumulate ? 2 : 1);
            if (d->act > FV_ACT_RELU) tol += 2e-6;
            CHECK_MSG(fabs(got - want) <= tol,
                      "%s x %s -> %s %lldx%lldx%lld trans %d%d packed %d bias %d add %d "
                      "act %d scaled %d at %lld,%lld: %.9g, expected %.9g",
                      fv_dtype_name(d->a_type), fv_dtype_name(d->b_type), fv_dtype_name(d->c_type),
                      (long long)d->M, (long long)d->N, (long long)d->K, d->a_trans, d->b_trans,
                      d->b_packed, d->bias, d->accumulate, (int)d->act, d->scaled, (long long)m,
                      (long long)n, got, want);
        }
}

static void product_case(const fvi_matmul_desc *d)
{
    fvi_matmul *m;
    const fv_status s = fvi_matmul_create(two, &m, d);
    if (!bf16_offered && d->a_type == FV_BF16) {
        CHECK(s == FV_ERR_UNSUPPORTED && !m && strstr(fv_ctx_error(two), "bf16"));
        return;
    }
    if (!int8_offered && d->a_type == FV_I8) {
        CHECK(s == FV_ERR_UNSUPPORTED && !m && strstr(fv_ctx_error(two), "VNNI"));
        return;
    }
    OK(two, s);
    product p = product_make(d);
    if (d->b_packed) {
        p.packed = buffer(fvi_matmul_packed_bytes(m));
        OK(two, fvi_matmul_pack(two, m, p.bv, p.packed));
    }
    OK(two, fvi_matmul_run(two, m, p.av, d->b_packed ? p.packed : p.bv, p.bias, p.scale, p.cv));
    product_check(&p);
    product_free(&p);
    fvi_matmul_destroy(two, &m);
}

static const int64_t sizes[][3] = { { 1, 1, 1 },    { 1, 64, 96 },   { 1, 130, 33 },
                                    { 2, 3, 5 },    { 7, 1, 13 },    { 16, 16, 16 },
                                    { 17, 31, 64 }, { 33, 65, 129 }, { 130, 127, 1 },
                                    { 64, 4, 130 }, { 5, 128, 127 }, { 100, 96, 72 } };

static void all_sizes(fvi_matmul_desc d)
{
    for (size_t i = 0; i < FV_ARRAY_LEN(sizes) && !test_bad; i++) {
        d.M = sizes[i][0];
        d.N = sizes[i][1];
        d.K = sizes[i][2];
        product_case(&d);
    }
}

/* Every combination of transposes, packing, bias and accumulation. */
static void all_forms(fv_dtype a, fv_dtype b, fv_dtype c, bool scaled)
{
    for (int f = 0; f < 32 && !test_bad; f++) {
        const fvi_matmul_desc d = { .a_type = a,
                                    .b_type = b,
                                    .c_type = c,
                                    .scaled = scaled,
                                    .a_trans = f & 1,
                                    .b_trans = f & 2,
                                    .b_packed = f & 4,
                                    .bias = f & 8,
                                    .accumulate = f & 16 };
        all_sizes(d);
    }
}

static void f32_products(void) { all_forms(FV_F32, FV_F32, FV_F32, false); }
static void bf16_to_bf16_products(void) { all_forms(FV_BF16, FV_BF16, FV_BF16, false); }
static void bf16_to_f32_products(void) { all_forms(FV_BF16, FV_BF16, FV_F32, false); }
static void s8_products_with_column_scales(void) { all_forms(FV_I8, FV_I8, FV_F32, true); }
static void s8_products_unscaled(void)
{
    all_sizes((fvi_matmul_desc){ .a_type = FV_I8, .b_type = FV_I8, .c_type = FV_F32 });
}

static void activations_follow_bias_and_scale(void)
{
    static const fv_act acts[] = { FV_ACT_RELU,    FV_ACT_SILU, FV_ACT_GELU_TANH, FV_ACT_GELU_ERF,
                                   FV_ACT_SIGMOID, FV_ACT_TANH, FV_ACT_LRELU };
    static const fv_dtype types[][3] = { { FV_F32, FV_F32, FV_F32 }, { FV_BF16, FV_BF16, FV_BF16 },
                                         { FV_I8, FV_I8, FV_F32 } };
    for (size_t i = 0; i < FV_ARRAY_LEN(acts); i++)
        for (size_t t = 0; t < FV_ARRAY_LEN(types) && !test_bad; t++) {
            const fvi_matmul_desc d = { .a_type = types[t][0],
                                        .b_type = types[t][1],
                                        .c_type = types[t][2],
                                        .b_trans = true,
                                        .b_packed = true,
                                        .bias = true,
                                        .act = acts[i],
                                        .scaled = types[t][0] == FV_I8 };
            all_sizes(d);
        }
}

static void unknown_activation_is_refused(void)
{
    const fvi_matmul_desc d = { .M = 4, .N = 4, .K = 4, .act = FV_ACT_LOG };
    fvi_matmul *m;
    CHECK(fvi_matmul_create(two, &m, &d) == FV_ERR_UNSUPPORTED && !m);
}

static void leading_dimensions_leave_the_rest_alone(void)
{
    for (int f = 0; f < 4 && !test_bad; f++) {
        const fvi_matmul_desc d = { .M = 9,
                                    .N = 17,
                                    .K = 12,
                                    .lda = 40,
                                    .ldb = 50,
                                    .ldc = 29,
                                    .bias = true,
                                    .a_trans = f & 1,
                                    .b_trans = f & 2 };
        product_case(&d);
    }
}

static void bad_sizes_are_refused(void)
{
    fvi_matmul *m;
    const fvi_matmul_desc d = { .M = 0, .N = 4, .K = 4 };
    CHECK(fvi_matmul_create(two, &m, &d) == FV_ERR_SHAPE && !m);
}

static void bytes_of(fv_ctx *ctx, const fvi_matmul_desc *d, void **c)
{
    fvi_matmul *m;
    OK(ctx, fvi_matmul_create(ctx, &m, d));
    product p = product_make(d);
    if (d->b_packed) {
        p.packed = buffer(fvi_matmul_packed_bytes(m));
        OK(ctx, fvi_matmul_pack(ctx, m, p.bv, p.packed));
    }
    OK(ctx, fvi_matmul_run(ctx, m, p.av, d->b_packed ? p.packed : p.bv, p.bias, NULL, p.cv));
    fvi_matmul_destroy(ctx, &m);
    *c = p.cv;
    p.cv = NULL;
    product_free(&p);
}

/* Beyond the table: sizes of models, in which oneDNN's gemm for AVX2 cuts by the thread count. */
static const int64_t model_sizes[][3] = { { 1, 1536, 384 },  { 64, 192, 64 },   { 64, 768, 192 },
                                          { 64, 192, 768 },  { 512, 16, 384 },  { 17, 31, 700 },
                                          { 256, 576, 384 }, { 1000, 64, 64 },  { 130, 127, 1025 },
                                          { 256, 384, 768 }, { 200, 300, 500 }, { 1024, 27, 48 } };

/* Forward products (packed or plain weights) and dx (b not transposed, added to c). */
static void same_bytes_case(const int64_t size[3], fv_dtype t, int kind)
{
    const fvi_matmul_desc d = { .M = size[0],
                                .N = size[1],
                                .K = size[2],
                                .a_type = t,
                                .b_type = t,
                                .c_type = FV_F32,
                                .b_trans = kind < 2,
                                .b_packed = kind == 0,
                                .bias = kind < 2,
                                .accumulate = kind == 2,
                                .act = kind == 0 ? FV_ACT_GELU_TANH : FV_ACT_NONE };
    fv_ctx *const contexts[3] = { one, two, three };
    void *c[3] = { NULL, NULL, NULL };
    for (int i = 0; i < 3 && !test_bad; i++) bytes_of(contexts[i], &d, &c[i]);
    for (int i = 1; i < 3 && !test_bad; i++)
        CHECK_MSG(memcmp(c[0], c[i], (size_t)(d.M * d.N) * 4) == 0,
                  "%lldx%lldx%lld, %s, kind %d: %d threads differ from 1", (long long)d.M,
                  (long long)d.N, (long long)d.K, fv_dtype_name(t), kind, i + 1);
    for (int i = 0; i < 3; i++) free(c[i]);
}

static void matmul_same_bytes_for_1_to_3_threads(void)
{
    for (int half = 0; half <= (bf16_offered ? 1 : 0); half++)
        for (int kind = 0; kind < 3; kind++) {
            for (size_t i = 0; i < FV_ARRAY_LEN(sizes); i++)
                same_bytes_case(sizes[i], half ? FV_BF16 : FV_F32, kind);
            for (size_t i = 0; i < FV_ARRAY_LEN(model_sizes); i++)
                same_bytes_case(model_sizes[i], half ? FV_BF16 : FV_F32, kind);
        }
}

/* Products that are cut into tiles, with a rest in both directions, are right. */
static void model_sizes_match_double(void)
{
    for (size_t i = 0; i < FV_ARRAY_LEN(model_sizes) && !test_bad; i++) {
        const fvi_matmul_desc d = { .M = model_sizes[i][0],
                                    .N = model_sizes[i][1],
                                    .K = model_sizes[i][2],
                                    .a_type = FV_F32,
                                    .b_type = FV_F32,
                                    .c_type = FV_F32,
                                    .b_trans = i % 3 > 0,
                                    .b_packed = i % 2 > 0,
                                    .bias = i % 3 < 2,
                                    .accumulate = i % 4 == 0,
                                    .act = i % 2 ? FV_ACT_SILU : FV_ACT_NONE };
        product_case(&d);
    }
}

typedef struct moved { fvi_matmul *m; product *p; } moved;

static void *run_moved(void *user)
{
    moved *v = user;
    return fvi_matmul_run(one, v->m, v->p->av, v->p->bv, v->p->bias, NULL, v->p->cv) == FV_OK
               ? user
               : NULL;
}

static void product_made_on_one_thread_runs_on_another(void)
{
    /* Transposed operands make oneDNN copy into its scratchpad. */
    for (int half = 0; half <= (bf16_offered ? 1 : 0); half++) {
        const fv_dtype t = half ? FV_BF16 : FV_F32;
        const fvi_matmul_desc d = { .M = 100,
                                    .N = 96,
                                    .K = 130,
                                    .a_type = t,
                                    .b_type = t,
                                    .c_type = FV_F32,
                                    .a_trans = true,
                                    .b_trans = true,
                                    .bias = true };
        fvi_matmul *m;
        OK(one, fvi_matmul_create(one, &m, &d));
        product p = product_make(&d);
        moved v = { m, &p };
        pthread_t thread;
        void *result = NULL;
        CHECK(pthread_create(&thread, NULL, run_moved, &v) == 0);
        CHECK(pthread_join(thread, &result) == 0 && result);
        product_check(&p);
        product_free(&p);
        fvi_matmul_destroy(one, &m);
    }
}

/* ---- LINEAR ---------------------------------------------------------------------------------- */

typedef enum mode { FROM_FILE, FROM_MASTERS, TRAINING } mode;

typedef struct node {
    int64_t M, N, K;
    fv_dtype xt, yt;
    fv_params *params;
    fv_model *file;
    uint8_t *file_bytes;
    fvi_attr attr;
    fvi_exec e;
    float *x, *w, *b, *dy, *dx0;
    void *xv, *yv, *dyv, *dxv, *scratch;
} node;

static fv_tensor matrix(fv_dtype t, void *data, int64_t r, int64_t c)
{
    return (fv_tensor){ .data = data, .dtype = t, .ndim = 2, .dim = { r, c } };
}

static void node_close(node *n)
{
    if (n->e.state) fvi_cpu_linear.release(two, n->e.state);
    fv_params_destroy(&n->params);
    fv_model_close(&n->file);
    void *p[] = { n->file_bytes, n->x,  n->w,   n->b,   n->dy,     n->dx0,
                  n->xv,         n->yv, n->dyv, n->dxv, n->scratch };
    for (size_t i = 0; i < FV_ARRAY_LEN(p); i++) free(p[i]);
}

static fv_status node_weights(node *n, mode m)
{
    const int64_t wd[2] = { n->N, n->K };
    FV_TRY(fv_params_create(two, &n->params));
    fv_params_add(n->params, "w", 2, wd, 0);
    fv_params_add(n->params, "b", 1, wd, 0);
    if (m != FROM_FILE) FV_TRY(fv_params_alloc(n->params));
    st_writer st = { 0 };
    const fv_tensor w = matrix(FV_F32, n->w, n->N, n->K), b = { n->b, FV_F32, 1, { n->N } };
    size_t size;
    st_add(&st, "w", &w);
    st_add(&st, "b", &b);
    n->file_bytes = st_finish(&st, &size);
    FV_TRY(fv_model_open_memory(two, &n->file, n->file_bytes, size, NULL));
    return fv_params_load(n->params, n->file, "");
}

static fv_status node_open(node *n, const int64_t size[3], fv_dtype xt, fv_dtype yt, mode m,
                           bool add, fv_act act)
{
    memset(n, 0, sizeof *n);
    n->M = size[0], n->N = size[1], n->K = size[2];
    n->xt = xt, n->yt = yt;
    n->x = values(n->M * n->K, 1, xt);
    n->w = values(n->N * n->K, 2, xt);
    n->b = values(n->N, 3, FV_F32);
    n->dy = values(n->M * n->N, 4, xt);
    n->dx0 = values(n->M * n->K, 5, xt);
    n->xv = typed(xt, n->x, n->M * n->K);
    n->dxv = typed(xt, n->dx0, n->M * n->K);
    n->yv = buffer((size_t)(n->M * n->N) * 4);
    n->dyv = typed(yt, n->dy, n->M * n->N);
    FV_TRY(node_weights(n, m));
    n->attr.i[0] = (int32_t)act;
    fvi_exec *e = &n->e;
    e->ctx = two;
    e->attr = &n->attr;
    e->params = n->params;
    e->training = m == TRAINING;
    e->pid[0] = -1, e->pid[1] = 0, e->pid[2] = 1;
    e->in[0] = matrix(xt, NULL, n->M, n->K);
    e->in[1] = fv_params_tensor(n->params, 0);
    e->in[2] = fv_params_tensor(n->params, 1);
    e->out[0] = matrix(yt, NULL, n->M, n->N);
    if (e->training) {
        e->gin[0] = e->in[0];
        e->gin[1] = fv_params_grad(n->params, 0);
        e->gin[2] = fv_params_grad(n->params, 1);
        e->gout[0] = e->out[0];
        e->gin_add[0] = add;
    }
    FV_TRY(fvi_cpu_linear.prepare(e));
    FV_TRY(fvi_params_sync(two, n->params));
    n->scratch = buffer(fvi_cpu_linear.scratch_bytes(e, e->training));
    e->scratch = n->scratch;
    e->in[0].data = n->xv;
    if (m == FROM_FILE) e->in[2].data = n->b;
    e->out[0].data = n->yv;
    e->gin[0].data = n->dxv;
    e->gout[0].data = n->dyv;
    return FV_OK;
}

static double dot(const float *a, int64_t sa, const float *b, int64_t sb, int64_t n, double *mag)
{
    double s = 0;
    *mag = 0;
    for (int64_t i = 0; i < n; i++) {
        const double f = (double)a[i * sa] * b[i * sb];
        s += f;
        *mag += fabs(f);
    }
    return s;
}

static void close_to(const char *what, double got, double want, double mag, double terms,
                     fv_dtype t, double more)
{
    const double tol = 4 * (1 + sqrt(terms)) * ldexp(mag + 1, -24) +
                       (t == FV_BF16 ? ldexp(fabs(want), -8) : 0) + more;
    CHECK_MSG(fabs(got - want) <= tol, "%s: %.9g, expected %.9g, tolerance %g", what, got, want,
              tol);
}

static void check_gradients(node *n, bool add)
{
    const float *dw = fv_params_grad(n->params, 0).data, *db = fv_params_grad(n->params, 1).data;
    double mag;
    for (int64_t m = 0; m < n->M; m++)
        for (int64_t k = 0; k < n->K && !test_bad; k++) {
            const double v = dot(n->dy + m * n->N, 1, n->w + k, n->K, n->N, &mag);
            const double start = add ? n->dx0[m * n->K + k] : 0;
            close_to("dx", widened(n->xt, n->dxv, m * n->K + k), v + start, mag, (double)n->N,
                     n->xt, add && n->xt == FV_BF16 ? ldexp(fabs(v), -8) : 0);
        }
    for (int64_t o = 0; o < n->N; o++)
        for (int64_t k = 0; k < n->K && !test_bad; k++) {
            const double v = dot(n->dy + o, n->N, n->x + k, n->K, n->M, &mag);
            close_to("dw", dw[o * n->K + k], v + 0.5, mag, (double)n->M, FV_F32, 0);
        }
    for (int64_t o = 0; o < n->N && !test_bad; o++) {
        double v = -0.25;
        for (int64_t m = 0; m < n->M; m++) v += n->dy[m * n->N + o];
        close_to("db", db[o], v, (double)n->M, (double)n->M, FV_F32, 0);
    }
}

static void linear_case(const int64_t size[3], fv_dtype xt, fv_dtype yt, mode mo, bool add,
                        fv_act act)
{
    node n;
    const fv_status s = node_open(&n, size, xt, yt, mo, add, act);
    if (!bf16_offered && xt == FV_BF16) {
        CHECK(s == FV_ERR_UNSUPPORTED);
        node_close(&n);
        return;
    }
    OK(two, s);
    OK(two, fvi_cpu_linear.forward(&n.e));
    double mag;
    for (int64_t m = 0; m < n.M; m++)
        for (int64_t o = 0; o < n.N && !test_bad; o++) {
            const double v = dot(n.x + m * n.K, 1, n.w + o * n.K, 1, n.K, &mag) + n.b[o];
            close_to("y", widened(yt, n.yv, m * n.N + o), activate(act, v), mag + 1, (double)n.K,
                     yt, act > FV_ACT_RELU ? 2e-6 : 0);
        }
    if (mo == TRAINING && !test_bad) {
        float *dw = fv_params_grad(n.params, 0).data, *db = fv_params_grad(n.params, 1).data;
        for (int64_t i = 0; i < n.N * n.K; i++) dw[i] = 0.5f;
        for (int64_t i = 0; i < n.N; i++) db[i] = -0.25f;
        OK(two, fvi_cpu_linear.backward(&n.e));
        check_gradients(&n, add);
    }
    node_close(&n);
}

static const fv_dtype linear_types[][2] = { { FV_F32, FV_F32 },
                                            { FV_BF16, FV_BF16 },
                                            { FV_BF16, FV_F32 } };

static void linear_all(mode m, bool add, fv_act act)
{
    for (size_t t = 0; t < FV_ARRAY_LEN(linear_types); t++)
        for (size_t i = 0; i < FV_ARRAY_LEN(sizes) && !test_bad; i++)
            linear_case(sizes[i], linear_types[t][0], linear_types[t][1], m, add, act);
}

static void linear_from_file_packs_and_fuses(void)
{
    linear_all(FROM_FILE, false, FV_ACT_NONE);
    linear_all(FROM_FILE, false, FV_ACT_SILU);
}
static void linear_from_masters_fuses(void) { linear_all(FROM_MASTERS, false, FV_ACT_GELU_TANH); }
static void linear_gradients_match_double(void) { linear_all(TRAINING, false, FV_ACT_NONE); }
static void linear_gradients_are_added(void) { linear_all(TRAINING, true, FV_ACT_NONE); }

static void every_test(void)
{
    RUN(f32_products);
    RUN(bf16_to_bf16_products);
    RUN(bf16_to_f32_products);
    RUN(s8_products_with_column_scales);
    RUN(s8_products_unscaled);
    RUN(activations_follow_bias_and_scale);
    RUN(unknown_activation_is_refused);
    RUN(leading_dimensions_leave_the_rest_alone);
    RUN(bad_sizes_are_refused);
    RUN(matmul_same_bytes_for_1_to_3_threads);
    RUN(model_sizes_match_double);
    RUN(product_made_on_one_thread_runs_on_another);
    RUN(linear_from_file_packs_and_fuses);
    RUN(linear_from_masters_fuses);
    RUN(linear_gradients_match_double);
    RUN(linear_gradients_are_added);
}

int main(void) { return dnnl_check_main(every_test); }
