/* matmul_dnnl.c - matrix products on oneDNN, and the LINEAR op that stands on them.
 *
 * The only file that knows oneDNN's matmul interface, which changed between versions 2 (operation
 * descriptors, output scales) and 3 (one create call, scales per argument); see dnnl_call.h.
 * Measured with oneDNN 2.6 on two Zen 4 cores: f32 200-226 and bf16 410-453 GFLOP/s for DiT shapes;
 * packed weights 2-5 % faster than plain ones; dW as a matmul with transposed A runs at 90 % of the
 * forward's rate and can accumulate in place, so inner_product (same rate) is not used.
 *
 * Without AVX-512 the f32 matmul of oneDNN is its "gemm", which chooses its kernel and the way it
 * cuts the product by the number of threads: the last bits differ. There we cut the product into
 * tiles by its sizes alone, and each tile is an sgemm of one thread.
 *
 * LINEAR: y = act(x w^T + b).
 *   inference: weights packed once per (type, N, K), bias and activation as post-ops.
 *   training:  y = x w^T + b (activations are their own nodes);
 *              dx (+)= dy w;  dw += dy^T x in f32;  db += column sums of dy. */
#include "cpu_ops.h"
#include "dnnl_call.h"

#include <omp.h>
#include <string.h>

/* ---- Engine and threads ---------------------------------------------------------------------- */

int fvi_threads_enter(const fv_ctx *ctx)
{
    const int old = omp_get_max_threads();
    omp_set_num_threads(ctx->threads);
    return old;
}

void fvi_threads_leave(int old) { omp_set_num_threads(old); }

bool fvi_dnnl_avx512(void)
{
    const unsigned own = (unsigned)dnnl_cpu_isa_avx512_core & ~(unsigned)dnnl_cpu_isa_avx2;
    return ((unsigned)dnnl_get_effective_cpu_isa() & own) == own;
}

fv_status fvi_dnnl_start(fv_ctx *ctx)
{
    if (ctx->dnnl_stream) return FV_OK;
    dnnl_engine_t e = NULL;
    dnnl_stream_t s = NULL;
    if (dnnl_engine_create(&e, dnnl_cpu, 0) != dnnl_success)
        return fv_fail(ctx, FV_ERR_DEVICE, "oneDNN: no CPU engine");
    if (dnnl_stream_create(&s, e, dnnl_stream_default_flags) != dnnl_success) {
        dnnl_engine_destroy(e);
        return fv_fail(ctx, FV_ERR_DEVICE, "oneDNN: no stream");
    }
    ctx->dnnl_engine = e;
    ctx->dnnl_stream = s;
    return FV_OK;
}

void fvi_dnnl_shutdown(fv_ctx *ctx)
{
    if (ctx->dnnl_stream) dnnl_stream_destroy(ctx->dnnl_stream);
    if (ctx->dnnl_engine) dnnl_engine_destroy(ctx->dnnl_engine);
    fv_free(ctx, ctx->dnnl_scratch);
    ctx->dnnl_stream = ctx->dnnl_engine = ctx->dnnl_scratch = NULL;
    ctx->dnnl_scratch_bytes = 0;
}

/* ---- Matrix product -------------------------------------------------------------------------- */

struct fvi_matmul {
    fvi_matmul_desc d;
    fvi_dnnl_call call; /* arguments: a, b, c, then bias and scale where they exist */
    fvi_md b_md;        /* layout of b */
    int64_t tile_m, tile_n; /* of c; 0: one call of oneDNN */
};

static int64_t leading_a(const fvi_matmul_desc *d)
{
    return d->lda ? d->lda : (d->a_trans ? d->M : d->K);
}

static int64_t leading_b(const fvi_matmul_desc *d)
{
    return d->ldb ? d->ldb : (d->b_trans ? d->K : d->N);
}

static int64_t leading_c(const fvi_matmul_desc *d) { return d->ldc ? d->ldc : d->N; }

/* Version 2 multiplies by its output scales after the bias; we want act(scale * ab + bias), so
 * there the bias is a binary post-op behind the scales. */
static bool bias_as_post_op(const fvi_matmul_desc *d)
{
    return DNNL_VERSION_MAJOR < 3 && d->scaled && d->bias;
}

static dnnl_status_t md_2d(fvi_md *m, fv_dtype t, int64_t r, int64_t c, int64_t sr, int64_t sc)
{
    const dnnl_dims_t dims = { r, c }, strides = { sr, sc };
    return fvi_md_strided(m, 2, dims, fvi_dnnl_type(t), strides);
}

/* Post-ops: accumulate first (c_old is added to the product), then bias, then the activation. */
static dnnl_status_t make_attr(dnnl_primitive_attr_t *attr, const fvi_matmul_desc *d,
                               const fvi_md *bias)
{
    dnnl_status_t s = fvi_dnnl_attr(attr);
    if (s != dnnl_success) return s;
    if (d->scaled) {
#if DNNL_VERSION_MAJOR >= 3
        s = dnnl_primitive_attr_set_scales_mask(*attr, DNNL_ARG_WEIGHTS, 2);
#else
        const float runtime = DNNL_RUNTIME_F32_VAL;
        s = dnnl_primitive_attr_set_output_scales(*attr, 1, 2, &runtime); /* values at run time */
#endif
        if (s != dnnl_success) return s;
    }
    dnnl_post_ops_t ops = NULL;
    s = dnnl_post_ops_create(&ops);
    if (s == dnnl_success && d->accumulate) s = fvi_dnnl_append_sum(ops);
#if DNNL_VERSION_MAJOR < 3
    if (s == dnnl_success && bias_as_post_op(d))
        s = dnnl_post_ops_append_binary(ops, dnnl_binary_add, bias);
#else
    (void)bias;
#endif
    if (s == dnnl_success) s = fvi_dnnl_append_act(ops, d->act);
    if (s == dnnl_success) s = dnnl_primitive_attr_set_post_ops(*attr, ops);
    if (ops) dnnl_post_ops_destroy(ops);
    return s;
}

static dnnl_status_t make_mds(const fvi_matmul_desc *d, fvi_md *a, fvi_md *b, fvi_md *bias,
                              fvi_md *c)
{
    const int64_t lda = leading_a(d), ldb = leading_b(d), ldc = leading_c(d);
    const dnnl_dims_t b_dims = { d->K, d->N };
    dnnl_status_t s = d->a_trans ? md_2d(a, d->a_type, d->M, d->K, 1, lda)
                                 : md_2d(a, d->a_type, d->M, d->K, lda, 1);
    if (s != dnnl_success) return s;
    if (d->b_packed) s = fvi_md_tagged(b, 2, b_dims, fvi_dnnl_type(d->b_type), dnnl_format_tag_any);
    else
        s = d->b_trans ? md_2d(b, d->b_type, d->K, d->N, 1, ldb)
                       : md_2d(b, d->b_type, d->K, d->N, ldb, 1);
    if (s != dnnl_success) return s;
    if (d->bias) s = md_2d(bias, FV_F32, 1, d->N, d->N, 1);
    if (s != dnnl_success) return s;
    return md_2d(c, d->c_type, d->M, d->N, ldc, 1);
}

static int argument_ids(const fvi_matmul_desc *d, int id[5])
{
    int n = 0;
    id[n++] = DNNL_ARG_SRC;
    id[n++] = DNNL_ARG_WEIGHTS;
    id[n++] = DNNL_ARG_DST;
    if (d->bias)
        id[n++] = bias_as_post_op(d)
                      ? DNNL_ARG_ATTR_MULTIPLE_POST_OP(d->accumulate ? 1 : 0) | DNNL_ARG_SRC_1
                      : DNNL_ARG_BIAS;
#if DNNL_VERSION_MAJOR >= 3
    if (d->scaled) id[n++] = DNNL_ARG_ATTR_SCALES | DNNL_ARG_WEIGHTS;
#else
    if (d->scaled) id[n++] = DNNL_ARG_ATTR_OUTPUT_SCALES;
#endif
    return n;
}

/* ---- Tiles ----------------------------------------------------------------------------------- */

/* Does oneDNN do this with its gemm? Weight gradients (a transposed) may depend on the threads, and
 * a long K over a small c needs oneDNN's cuts along K. */
static bool wants_tiles(const fvi_matmul_desc *d, const_dnnl_primitive_desc_t pd)
{
    const char *name = NULL;
    if (d->a_type != FV_F32 || d->b_type != FV_F32 || d->c_type != FV_F32 || d->a_trans)
        return false;
    return dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, (void *)&name) ==
               dnnl_success &&
           name && strncmp(name, "gemm", 4) == 0;
}

/* Packed for tiles: rows of K, an odd number of cache lines apart. Multiples of 2 or 4 KiB fall on
 * the same sets of the cache: 256x3072x1024 took 33 ms instead of 15. */
static int64_t packed_ld(int64_t n) { return ((n + 15) / 16 | 1) * 16; }

static int64_t pieces(int64_t n, int64_t each) { return (n + each - 1) / each; }

/* A small product is one tile. Others become at least TILES_WANTED where that leaves tiles that are
 * worth their copies of a and b; the widths are multiples of what the AVX2 kernels take at once. */
enum { TILES_WANTED = 16, TILE_M = 128, TILE_M_LEAST = 32, TILE_N = 384, TILE_N_LEAST = 96 };
#define SMALL_PRODUCT (1 << 18)

static void choose_tiles(fvi_matmul *m)
{
    const fvi_matmul_desc *d = &m->d;
    m->tile_m = d->M;
    m->tile_n = d->N;
    if ((double)d->M * (double)d->N * (double)d->K <= SMALL_PRODUCT) return;
    m->tile_m = TILE_M;
    m->tile_n = TILE_N;
    while (pieces(d->M, m->tile_m) * pieces(d->N, m->tile_n) < TILES_WANTED) {
        if (m->tile_n > TILE_N_LEAST) m->tile_n /= 2;
        else if (m->tile_m > TILE_M_LEAST) m->tile_m /= 2;
        else break;
    }
}

static dnnl_status_t run_tile(const fv_ctx *ctx, const fvi_matmul *m, const float *a,
                              const float *b, const float *bias, float *c, int64_t tile)
{
    const fvi_matmul_desc *d = &m->d;
    const fvi_pointwise_ops *rows = &ctx->cpu_ops->pointwise;
    const int64_t lda = leading_a(d), ldc = leading_c(d), across = pieces(d->N, m->tile_n);
    const int64_t ldb = d->b_packed ? packed_ld(d->N) : leading_b(d);
    const bool b_trans = d->b_trans && !d->b_packed;
    const int64_t row = tile / across * m->tile_m, column = tile % across * m->tile_n;
    const int64_t below = d->M - row, right = d->N - column;
    const int64_t h = below < m->tile_m ? below : m->tile_m;
    const int64_t w = right < m->tile_n ? right : m->tile_n;
    float *to = c + row * ldc + column;
    const dnnl_status_t s =
        dnnl_sgemm('N', b_trans ? 'T' : 'N', h, w, d->K, 1.0f, a + row * lda, lda,
                   b + (b_trans ? column * ldb : column), ldb, d->accumulate ? 1.0f : 0.0f, to,
                   ldc);
    if (s != dnnl_success) return s;
    for (int64_t i = 0; i < h; i++) {
        const fvi_out y = fvi_out_f32(to + i * ldc, false);
        const fvi_in x = fvi_in_f32(to + i * ldc);
        if (d->bias) rows->binary(y, x, fvi_in_f32(bias + column), w, FV_ADD);
        if (d->act != FV_ACT_NONE) rows->act(y, x, w, d->act);
    }
    return dnnl_success;
}

/* The only place that calls oneDNN in a parallel region: there it takes one thread, as a tile is to
 * be computed. A team of one is no parallel region for OpenMP, hence the count. */
static fv_status run_tiles(fv_ctx *ctx, const fvi_matmul *m, const float *a, const float *b,
                           const float *bias, float *c)
{
    const int64_t tiles = pieces(m->d.M, m->tile_m) * pieces(m->d.N, m->tile_n);
    const int old = omp_get_max_threads();
    int bad = 0;
    omp_set_num_threads(1);
    FVI_PRAGMA(omp parallel for schedule(dynamic) num_threads(ctx->threads) if (tiles > 1) \
               reduction(max : bad))
    for (int64_t t = 0; t < tiles; t++) {
        const dnnl_status_t s = run_tile(ctx, m, a, b, bias, c, t);
        if (s != dnnl_success) bad = (int)s;
    }
    omp_set_num_threads(old);
    if (bad == dnnl_out_of_memory) return fv_fail(ctx, FV_ERR_OOM, "matmul: out of memory");
    if (bad) return fv_fail(ctx, FV_ERR_DEVICE, "matmul: oneDNN failed (status %d)", bad);
    return FV_OK;
}

/* ---- Primitives ------------------------------------------------------------------------------ */

static dnnl_status_t make_primitive(fv_ctx *ctx, fvi_matmul *m)
{
    const fvi_matmul_desc *d = &m->d;
    dnnl_engine_t engine = ctx->dnnl_engine;
    fvi_md md[5]; /* a, b, c, bias, scale */
    memset(md, 0, sizeof md);
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    const dnnl_dims_t scale_dims = { d->N };
    int id[5];
    const int n = argument_ids(d, id);
    const bool own_bias = d->bias && !bias_as_post_op(d);
    dnnl_status_t s = make_mds(d, &md[0], &md[1], &md[3], &md[2]);
    if (s == dnnl_success) s = fvi_md_tagged(&md[4], 1, scale_dims, dnnl_f32, dnnl_a);
    if (s == dnnl_success) s = make_attr(&attr, d, &md[3]);
#if DNNL_VERSION_MAJOR >= 3
    if (s == dnnl_success)
        s = dnnl_matmul_primitive_desc_create(&pd, engine, md[0], md[1], own_bias ? md[3] : NULL,
                                              md[2], attr);
#else
    dnnl_matmul_desc_t op;
    if (s == dnnl_success)
        s = dnnl_matmul_desc_init(&op, &md[0], &md[1], own_bias ? &md[3] : NULL, &md[2]);
    if (s == dnnl_success) s = dnnl_primitive_desc_create(&pd, &op, attr, engine, NULL);
#endif
    if (s == dnnl_success && wants_tiles(d, pd)) {
        choose_tiles(m);
        s = md_2d(&m->b_md, d->b_type, d->K, d->N, packed_ld(d->N), 1);
    } else if (s == dnnl_success) {
        s = fvi_md_query(&m->b_md, pd, dnnl_query_weights_md, 0);
    }
    if (s == dnnl_success && !m->tile_m) {
        const fvi_md *arg[5] = { &md[0], &m->b_md, &md[2] };
        int k = 3;
        if (d->bias) arg[k++] = &md[3];
        if (d->scaled) arg[k++] = &md[4];
        s = fvi_dnnl_call_create(ctx, &m->call, pd, id, arg, n);
    }
    if (pd) dnnl_primitive_desc_destroy(pd);
    if (attr) dnnl_primitive_attr_destroy(attr);
    for (size_t i = 0; i < FV_ARRAY_LEN(md); i++) fvi_md_free(&md[i]);
    return s;
}

/* Without VNNI oneDNN adds pairs of int8 products in 16 bits, which saturate: wrong results for
 * full range operands. What oneDNN may use counts, not what the CPU has. */
static bool exact_int8(void)
{
    const unsigned vnni =
        (unsigned)dnnl_cpu_isa_avx512_core_vnni & ~(unsigned)dnnl_cpu_isa_avx512_core;
    return ((unsigned)dnnl_get_effective_cpu_isa() & vnni) != 0;
}

fv_status fvi_matmul_create(fv_ctx *ctx, fvi_matmul **out, const fvi_matmul_desc *d)
{
    *out = NULL;
    FV_TRY(fvi_dnnl_start(ctx));
    if (d->M <= 0 || d->N <= 0 || d->K <= 0)
        return fv_fail(ctx, FV_ERR_SHAPE, "matmul: size %lld x %lld x %lld", (long long)d->M,
                       (long long)d->N, (long long)d->K);
    if (d->a_type == FV_I8 && !exact_int8())
        return fv_fail(ctx, FV_ERR_UNSUPPORTED, "matmul: int8 products need AVX-512 VNNI, use f32");
    fvi_matmul *m = fv_calloc(ctx, 1, sizeof *m);
    if (!m) return FV_ERR_OOM;
    m->d = *d;
    const int old = fvi_threads_enter(ctx);
    const dnnl_status_t s = make_primitive(ctx, m);
    fvi_threads_leave(old);
    if (s == dnnl_success && fvi_dnnl_reserve(ctx, &m->call) != FV_OK) {
        fvi_matmul_destroy(ctx, &m);
        return FV_ERR_OOM;
    }
    if (s != dnnl_success) {
        fvi_matmul_destroy(ctx, &m);
        if (s == dnnl_out_of_memory) return fv_fail(ctx, FV_ERR_OOM, "matmul: out of memory");
        return fv_fail(
            ctx, FV_ERR_UNSUPPORTED,
            "matmul: oneDNN has no kernel for %s x %s -> %s, %lld x %lld x %lld (status %d)",
            fv_dtype_name(d->a_type), fv_dtype_name(d->b_type), fv_dtype_name(d->c_type),
            (long long)d->M, (long long)d->N, (long long)d->K, (int)s);
    }
    *out = m;
    return FV_OK;
}

void fvi_matmul_destroy(fv_ctx *ctx, fvi_matmul **mm)
{
    if (!mm || !*mm) return;
    fvi_matmul *m = *mm;
    *mm = NULL;
    fvi_dnnl_call_destroy(&m->call);
    fvi_md_free(&m->b_md);
    fv_free(ctx, m);
}

size_t fvi_matmul_packed_bytes(const fvi_matmul *m) { return fvi_md_bytes(&m->b_md); }

fv_status fvi_matmul_pack(fv_ctx *ctx, const fvi_matmul *m, const void *b, void *packed)
{
    const fvi_matmul_desc *d = &m->d;
    fvi_md src;
    memset(&src, 0, sizeof src);
    dnnl_status_t s = d->b_trans ? md_2d(&src, d->b_type, d->K, d->N, 1, d->K)
                                 : md_2d(&src, d->b_type, d->K, d->N, d->N, 1);
    fvi_dnnl_call call;
    memset(&call, 0, sizeof call);
    const int old = fvi_threads_enter(ctx);
    if (s == dnnl_success) s = fvi_dnnl_reorder_create(ctx, &call, &src, &m->b_md, false);
    fvi_threads_leave(old);
    fvi_md_free(&src);
    if (s != dnnl_success)
        return fv_fail(ctx, FV_ERR_DEVICE, "matmul: packing weights failed (%d)", (int)s);
    const fv_status r =
        fvi_dnnl_call_run(ctx, &call, "matmul pack", (const void *const[]){b, packed});
    fvi_dnnl_call_destroy(&call);
    return r;
}

fv_status fvi_matmul_run(fv_ctx *ctx, fvi_matmul *m, const void *a, const void *b,
                         const float *bias, const float *scale, void *c)
{
    if (m->tile_m) return run_tiles(ctx, m, a, b, bias, c);
    const void *data[5] = { a, b, c };
    int n = 3;
    if (m->d.bias) data[n++] = bias;
    if (m->d.scaled) data[n++] = scale;
    return fvi_dnnl_call_run(ctx, &m->call, "matmul", data);
}

/* ---- LINEAR ---------------------------------------------------------------------------------- */

typedef struct linear_state {
    fvi_matmul *forward, *dx, *dw;
    const void *weights;  /* packed; NULL when masters exist (training): then the current values */
    int64_t M, N, K;
} linear_state;

typedef struct pack_key {      /* identity of a packed form: what the layout can depend on */
    int32_t kind, type;
    int64_t N, K, bytes;
    uint64_t layout;
} pack_key;

typedef struct pack_call { pack_key key; const fvi_matmul *m; } pack_call;

static void linear_release(fv_ctx *ctx, void *state)
{
    linear_state *st = state;
    if (!st) return;
    fvi_matmul_destroy(ctx, &st->forward);
    fvi_matmul_destroy(ctx, &st->dx);
    fvi_matmul_destroy(ctx, &st->dw);
    fv_free(ctx, st);
}

static fv_status pack_linear(fv_ctx *ctx, const void *key, const void *values, void *dst)
{
    const pack_call *p = key;
    return fvi_matmul_pack(ctx, p->m, values, dst);
}

static fv_status linear_prepare_packed(fvi_exec *e, linear_state *st)
{
    const fvi_matmul_desc d = {.M = st->M,
                               .N = st->N,
                               .K = st->K,
                               .a_type = e->in[0].dtype,
                               .b_type = e->in[0].dtype,
                               .c_type = e->out[0].dtype,
                               .b_trans = true,
                               .b_packed = true,
                               .bias = e->in[2].ndim > 0,
                               .act = (fv_act)e->attr->i[0]};
    FV_TRY(fvi_matmul_create(e->ctx, &st->forward, &d));
    pack_call call = {{1, (int32_t)d.b_type, st->N, st->K,
                       (int64_t)fvi_matmul_packed_bytes(st->forward),
                       fvi_md_layout(&st->forward->b_md, 2)},
                      st->forward};
    const fvi_form form = { &call, sizeof call.key, fvi_matmul_packed_bytes(st->forward), d.b_type,
                            pack_linear };
    return fvi_param_packed(e->ctx, e->params, e->pid[1], &form, &st->weights);
}

static fv_status linear_prepare_plain(fvi_exec *e, linear_state *st)
{
    const fv_dtype t = e->in[0].dtype, g = e->out[0].dtype;
    const fvi_matmul_desc f = { .M = st->M, .N = st->N, .K = st->K, .a_type = t, .b_type = t,
                                .c_type = g, .b_trans = true, .bias = e->in[2].ndim > 0,
                                .act = (fv_act)e->attr->i[0] };
    FV_TRY(fvi_matmul_create(e->ctx, &st->forward, &f));
    if (t == FV_BF16) FV_TRY(fvi_params_need_bf16(e->ctx, e->params));
    if (e->gin[0].ndim > 0) {
        const fvi_matmul_desc x = { .M = st->M, .N = st->K, .K = st->N, .a_type = t, .b_type = t,
                                    .c_type = t, .accumulate = e->gin_add[0] };
        FV_TRY(fvi_matmul_create(e->ctx, &st->dx, &x));
    }
    if (e->gin[1].ndim > 0) {
        const fvi_matmul_desc w = { .M = st->N, .N = st->K, .K = st->M, .a_type = t, .b_type = t,
                                    .c_type = FV_F32, .a_trans = true, .accumulate = true };
        FV_TRY(fvi_matmul_create(e->ctx, &st->dw, &w));
    }
    return FV_OK;
}

static fv_status linear_prepare(fvi_exec *e)
{
    linear_state *st = fv_calloc(e->ctx, 1, sizeof *st);
    if (!st) return FV_ERR_OOM;
    e->state = st;
    st->N = e->in[1].dim[0];
    st->K = fv_tensor_count(&e->in[1]) / st->N;
    st->M = fv_tensor_count(&e->in[0]) / st->K;
    /* Masters may change between runs (training, also its sampling): nothing is packed then. */
    return fvi_params_master(e->params) ? linear_prepare_plain(e, st)
                                        : linear_prepare_packed(e, st);
}

static const void *plain_weights(const fvi_exec *e)
{
    if (e->in[0].dtype == FV_BF16) return fvi_param_bf16(e->params, e->pid[1]);
    return fv_params_tensor(e->params, e->pid[1]).data;
}

static fv_status linear_forward(fvi_exec *e)
{
    linear_state *st = e->state;
    const void *w = st->weights ? st->weights : plain_weights(e);
    return fvi_matmul_run(e->ctx, st->forward, e->in[0].data, w, e->in[2].data, NULL,
                          e->out[0].data);
}

/* db[n] += sum_m dy[m, n]: columns are cut into lanes, rows run in order. */
static void column_sums(fv_ctx *ctx, const fv_tensor *dy, int64_t M, int64_t N, float *db)
{
    const bool half = dy->dtype == FV_BF16;
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t n0, n1;
        fvi_lane(N, lane, &n0, &n1);
        for (int64_t m = 0; m < M; m++) {
            if (half) {
                const uint16_t *row = (const uint16_t *)dy->data + m * N;
                for (int64_t n = n0; n < n1; n++) db[n] += fv_bf16_to_f32(row[n]);
            } else {
                const float *row = (const float *)dy->data + m * N;
                for (int64_t n = n0; n < n1; n++) db[n] += row[n];
            }
        }
    }
}

/* When y is f32 but x is bf16, dy is rounded once so that the products run in bf16. */
static size_t linear_scratch(const fvi_exec *e, bool backward)
{
    if (!backward || e->in[0].dtype == e->out[0].dtype) return 0;
    return (size_t)fv_tensor_count(&e->out[0]) * 2;
}

static fv_status linear_backward(fvi_exec *e)
{
    linear_state *st = e->state;
    const void *dy = e->gout[0].data;
    const bool half = e->in[0].dtype == FV_BF16;
    if (half && e->gout[0].dtype == FV_F32) {
        const int64_t n = fv_tensor_count(&e->gout[0]);
        uint16_t *rounded = e->scratch;
        FVI_PARALLEL_LANES(e->ctx, lane)
        {
            int64_t i, end;
            fvi_lane(n, lane, &i, &end);
            for (; i < end; i++) rounded[i] = fv_f32_to_bf16(((const float *)dy)[i]);
        }
        dy = rounded;
    }
    if (st->dx && e->gin[0].data) {
        FV_TRY(fvi_matmul_run(e->ctx, st->dx, dy, plain_weights(e), NULL, NULL, e->gin[0].data));
    }
    if (st->dw && e->gin[1].data)
        FV_TRY(fvi_matmul_run(e->ctx, st->dw, dy, e->in[0].data, NULL, NULL, e->gin[1].data));
    if (e->in[2].ndim > 0 && e->gin[2].data)
        column_sums(e->ctx, &e->gout[0], st->M, st->N, e->gin[2].data);
    return FV_OK;
}

const fvi_op_def fvi_cpu_linear = {
    .name = "linear", .bwd_reads_in = 1, .bwd_reads_out = 0, .scratch_bytes = linear_scratch,
    .prepare = linear_prepare, .release = linear_release, .forward = linear_forward,
    .backward = linear_backward,
};
