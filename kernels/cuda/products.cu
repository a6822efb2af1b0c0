/* products.cu - products of libfovea_cuda: cuBLASLt.
 *
 * cuBLASLt counts by columns. Our row-major c[M,N] is its column-major N x M matrix, so that it
 * computes c^T = op(b) op(a), with b first: what it calls A is our b. What is stored transposed for us
 * is not for it; `sums` of a, its B, are its BGRADB, as many as its D has columns.
 *
 * The algorithm is the first that the heuristic proposes and that works: the same for the same shape on
 * the same kind of device, hence the same bits. FVK_SET_TRIES times the first few when a product is
 * made; what wins may then differ between two runs of a program, and with it last bits; within a device
 * handle one shape has one choice. Sums of split products are kept in f32 (no INPLACE or OUTPUT_TYPE
 * reduction where c is bf16). */
#include "cuda/module.h"

struct choice {
    cublasLtMatmulAlgo_t algo;
    size_t workspace;
    uint32_t a, b, c; /* alignment of pointers that it takes */
};

struct fvk_product {
    fvk_gemm s;
    cublasLtMatmulDesc_t op = nullptr;
    cublasLtMatrixLayout_t b = nullptr, a = nullptr, c = nullptr;
    choice take[2]; /* for pointers as a plan has them, and for any; [1] may be [0] */
};

/* What was timed; one shape, one choice. */
struct fvk_timed {
    fvk_gemm s;
    choice take;
    fvk_timed *next;
};

static const int ASKED = 8; /* algorithms */
static const uint32_t BIAS_ALIGNMENT = 16;

/* ---- Description ----------------------------------------------------------------------------- */

static cudaDataType_t type_ab(const fvk_gemm *s)
{
    if (s->kind == FVK_GEMM_INT8) return CUDA_R_8I;
    if (s->kind == FVK_GEMM_FP8) return CUDA_R_8F_E4M3;
    return s->ab_bf16 ? CUDA_R_16BF : CUDA_R_32F;
}
static cudaDataType_t type_c(const fvk_gemm *s)
{
    return s->kind == FVK_GEMM_INT8 ? CUDA_R_32I : s->c_bf16 ? CUDA_R_16BF : CUDA_R_32F;
}
static uint32_t size_ab(const fvk_gemm *s) { return s->kind ? 1 : s->ab_bf16 ? 2 : 4; }
static uint32_t size_c(const fvk_gemm *s) { return s->kind != FVK_GEMM_INT8 && s->c_bf16 ? 2 : 4; }

/* Elements from row to row, as stored. */
static int64_t row_a(const fvk_gemm *s) { return s->lda ? s->lda : s->a_trans ? s->M : s->K; }
static int64_t row_b(const fvk_gemm *s) { return s->ldb ? s->ldb : s->b_trans ? s->K : s->N; }
static int64_t row_c(const fvk_gemm *s) { return s->ldc ? s->ldc : s->N; }

template <typename T>
static cublasStatus_t set(cublasLtMatmulDesc_t op, cublasLtMatmulDescAttributes_t key, T value)
{
    return cublasLtMatmulDescSetAttribute(op, key, &value, sizeof value);
}

#define LT(call)                                          \
    do {                                                  \
        const cublasStatus_t status_ = (call);            \
        if (status_ != CUBLAS_STATUS_SUCCESS) return status_; \
    } while (0)

/* rows, columns: of a matrix by columns; ld from column to column. */
static cublasStatus_t layout(cublasLtMatrixLayout_t *m, cudaDataType_t type, int64_t rows,
                             int64_t columns, int64_t ld, int64_t batch, int64_t step)
{
    const int32_t count = (int32_t)batch;
    LT(cublasLtMatrixLayoutCreate(m, type, (uint64_t)rows, (uint64_t)columns, ld));
    if (batch <= 1) return CUBLAS_STATUS_SUCCESS;
    LT(cublasLtMatrixLayoutSetAttribute(*m, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count));
    return cublasLtMatrixLayoutSetAttribute(*m, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step,
                                            sizeof step);
}

static cublasLtEpilogue_t epilogue(const fvk_gemm *s)
{
    if (s->sums) return CUBLASLT_EPILOGUE_BGRADB;
    if (s->then == FVK_THEN_RELU) return s->bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
    if (s->then == FVK_THEN_GELU) return s->bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
    return s->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

/* CUBLAS_COMPUTE_32F has no TF32 in it, and bf16 needs none. Bias and sums have the type of c. The heuristic takes the
 * alignment of the bias from its address: it gets one of the workspace that has just that. */
static cublasStatus_t describe(fvk_dev *d, fvk_product *g)
{
    const fvk_gemm *s = &g->s;
    const bool is_int = s->kind == FVK_GEMM_INT8;
    const cublasOperation_t first = s->b_trans ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t second = s->a_trans ? CUBLAS_OP_T : CUBLAS_OP_N;
    const int32_t rows = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    const void *somewhere = (const uint8_t *)d->workspace + BIAS_ALIGNMENT;
    const cublasComputeType_t in_f32 = d->tf32 && type_ab(s) == CUDA_R_32F
                                           ? CUBLAS_COMPUTE_32F_FAST_TF32
                                           : CUBLAS_COMPUTE_32F;
    LT(cublasLtMatmulDescCreate(&g->op, is_int ? CUBLAS_COMPUTE_32I : in_f32,
                                is_int ? CUDA_R_32I : CUDA_R_32F));
    LT(set(g->op, CUBLASLT_MATMUL_DESC_TRANSA, (int32_t)first));
    LT(set(g->op, CUBLASLT_MATMUL_DESC_TRANSB, (int32_t)second));
    if (epilogue(s) != CUBLASLT_EPILOGUE_DEFAULT)
        LT(set(g->op, CUBLASLT_MATMUL_DESC_EPILOGUE, (uint32_t)epilogue(s)));
    if (s->bias || s->sums) LT(set(g->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, somewhere));
    if (s->scales) {
        LT(set(g->op, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, rows));
        LT(set(g->op, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, rows));
        LT(set(g->op, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, somewhere));
        LT(set(g->op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, somewhere));
    }
    LT(layout(&g->b, type_ab(s), s->b_trans ? s->K : s->N, s->b_trans ? s->N : s->K, row_b(s),
              s->batch, s->b_step));
    LT(layout(&g->a, type_ab(s), s->a_trans ? s->M : s->K, s->a_trans ? s->K : s->M, row_a(s),
              s->batch, s->a_step));
    return layout(&g->c, type_c(s), s->N, s->M, row_c(s), s->batch, s->c_step);
}

/* ---- Algorithms ------------------------------------------------------------------------------ */

/* 16 where rows and batches keep it. */
static uint32_t alignment(int64_t row, int64_t step, uint32_t size)
{
    return row * size % 16 == 0 && step * size % 16 == 0 ? 16 : size;
}

static cublasStatus_t propose(fvk_dev *d, const fvk_product *g, const choice *at,
                              cublasLtMatmulHeuristicResult_t *found, int *n)
{
    cublasLtMatmulPreference_t want = nullptr;
    const uint32_t sums = size_c(&g->s) == 2 ? CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE
                                             : CUBLASLT_REDUCTION_SCHEME_MASK;
    const struct { cublasLtMatmulPreferenceAttributes_t key; uint32_t value; } keys[] = {
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, at->b },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, at->a },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, at->c },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, at->c },
        { CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, sums },
    };
    *n = 0;
    LT(cublasLtMatmulPreferenceCreate(&want));
    cublasStatus_t r = cublasLtMatmulPreferenceSetAttribute(
        want, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE_BYTES, sizeof WORKSPACE_BYTES);
    for (const auto &x : keys)
        if (r == CUBLAS_STATUS_SUCCESS)
            r = cublasLtMatmulPreferenceSetAttribute(want, x.key, &x.value, sizeof x.value);
    if (r == CUBLAS_STATUS_SUCCESS)
        r = cublasLtMatmulAlgoGetHeuristic(d->blas, g->op, g->b, g->a, g->c, g->c, want, ASKED, found,
                                           n);
    (void)cublasLtMatmulPreferenceDestroy(want);
    return r;
}

static cublasStatus_t multiply(fvk_dev *d, fvk_product *g, const choice *k, const void *a,
                               const void *b, void *c)
{
    const float one = 1.0f, old = g->s.accumulate ? 1.0f : 0.0f;
    const int32_t one_int = 1, old_int = g->s.accumulate != 0;
    const bool is_int = g->s.kind == FVK_GEMM_INT8;
    return cublasLtMatmul(d->blas, g->op, is_int ? (const void *)&one_int : &one, b, g->b, a, g->a,
                          is_int ? (const void *)&old_int : &old, c, g->c, c, g->c, &k->algo,
                          d->workspace, k->workspace, d->stream);
}

/* Milliseconds of four runs after one; negative: it does not run. */
static float time_one(fvk_dev *d, fvk_product *g, const choice *k, uint8_t *room, size_t b, size_t c,
                      cudaEvent_t from, cudaEvent_t to)
{
    float ms = -1;
    bool ok = true;
    for (int i = 0; i < 5 && ok; i++) {
        if (i == 1) ok = cudaEventRecord(from, d->stream) == cudaSuccess;
        ok = ok && multiply(d, g, k, room, room + b, room + c) == CUBLAS_STATUS_SUCCESS;
    }
    ok = ok && cudaEventRecord(to, d->stream) == cudaSuccess &&
         cudaEventSynchronize(to) == cudaSuccess && cudaEventElapsedTime(&ms, from, to) == cudaSuccess;
    if (!ok) (void)cudaGetLastError();
    return ok ? ms : -1;
}

static size_t up(int64_t elements, uint32_t size) { return ((size_t)elements * size + 255) / 256 * 256; }

static cublasStatus_t point_at(fvk_product *g, const void *bias, const float *of_a, const float *of_b)
{
    if (g->s.bias || g->s.sums) LT(set(g->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias));
    if (!g->s.scales) return CUBLAS_STATUS_SUCCESS;
    LT(set(g->op, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, (const void *)of_b));
    return set(g->op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, (const void *)of_a);
}

/* The fastest of the first n, on zeros in memory of its own; the first where that cannot be had. */
static int fastest(fvk_dev *d, fvk_product *g, const choice *of, int n)
{
    const fvk_gemm *s = &g->s;
    const int64_t more = s->batch > 1 ? s->batch - 1 : 0;
    const size_t b = up((s->a_trans ? s->K : s->M) * row_a(s) + more * s->a_step, size_ab(s));
    const size_t c = b + up((s->b_trans ? s->N : s->K) * row_b(s) + more * s->b_step, size_ab(s));
    const size_t rest = c + up(s->M * row_c(s) + more * s->c_step, size_c(s));
    const size_t bytes = rest + up(s->M + s->N, 4); /* bias, sums or scales */
    cudaEvent_t from = nullptr, to = nullptr;
    uint8_t *room = nullptr;
    int best = 0;
    float least = -1;
    const bool ok = bytes <= (size_t)1 << 30 &&
                    cudaMallocAsync((void **)&room, bytes, d->stream) == cudaSuccess &&
                    cudaMemsetAsync(room, 0, bytes, d->stream) == cudaSuccess &&
                    cudaEventCreate(&from) == cudaSuccess && cudaEventCreate(&to) == cudaSuccess &&
                    point_at(g, room + rest, (float *)(void *)(room + rest),
                             (float *)(void *)(room + rest)) == CUBLAS_STATUS_SUCCESS;
    for (int i = 0; i < n && ok; i++) {
        const float ms = time_one(d, g, &of[i], room, b, c, from, to);
        if (ms < 0 || (least >= 0 && ms >= least)) continue;
        best = i;
        least = ms;
    }
    if (from) (void)cudaEventDestroy(from);
    if (to) (void)cudaEventDestroy(to);
    if (room) (void)cudaFreeAsync(room, d->stream);
    (void)cudaGetLastError();
    return best;
}

static cublasStatus_t choose(fvk_dev *d, fvk_product *g, choice *out)
{
    cublasLtMatmulHeuristicResult_t found[ASKED];
    choice of[ASKED];
    int n = 0, good = 0;
    memset(found, 0, sizeof found);
    LT(propose(d, g, out, found, &n));
    for (int i = 0; i < n; i++) {
        if (found[i].state != CUBLAS_STATUS_SUCCESS || found[i].workspaceSize > WORKSPACE_BYTES) continue;
        of[good] = *out;
        of[good].algo = found[i].algo;
        of[good++].workspace = found[i].workspaceSize;
    }
    if (good == 0) return CUBLAS_STATUS_NOT_SUPPORTED;
    *out = of[good > 1 && d->tries > 1 ? fastest(d, g, of, good < d->tries ? good : d->tries) : 0];
    return CUBLAS_STATUS_SUCCESS;
}

static const fvk_timed *find_timed(const fvk_dev *d, const fvk_gemm *s)
{
    const fvk_timed *t = d->timed;
    while (t && memcmp(&t->s, s, sizeof *s) != 0) t = t->next;
    return t;
}

/* For rows as aligned as the shape allows; and for what a caller binds, aligned to its elements. */
static cublasStatus_t choose_both(fvk_dev *d, fvk_product *g)
{
    const fvk_gemm *s = &g->s;
    const uint32_t least = s->kind == FVK_GEMM_FP8 ? 16 : s->kind ? 4 : size_ab(s);
    const fvk_timed *old = d->tries > 1 ? find_timed(d, s) : nullptr;
    choice *wide = &g->take[0], *any = &g->take[1];
    wide->a = alignment(row_a(s), s->a_step, size_ab(s));
    wide->b = alignment(row_b(s), s->b_step, size_ab(s));
    wide->c = alignment(row_c(s), s->c_step, size_c(s));
    if (wide->a < least) wide->a = least;
    if (wide->b < least) wide->b = least;
    if (old) *wide = old->take;
    else LT(choose(d, g, wide));
    fvk_timed *t = d->tries > 1 && !old ? new (std::nothrow) fvk_timed{ *s, *wide, d->timed } : nullptr;
    if (t) d->timed = t;
    *any = *wide;
    any->a = any->b = least;
    any->c = size_c(s);
    if (any->a == wide->a && any->b == wide->b && any->c == wide->c) return CUBLAS_STATUS_SUCCESS;
    if (choose(d, g, any) != CUBLAS_STATUS_SUCCESS) *any = *wide;
    return CUBLAS_STATUS_SUCCESS;
}

void fvi_products_close(fvk_dev *d)
{
    while (d->timed) {
        fvk_timed *t = d->timed;
        d->timed = t->next;
        delete t;
    }
}

/* ---- The table's functions ------------------------------------------------------------------- */

void fvi_gemm_destroy(fvk_dev *, fvk_product *g)
{
    if (!g) return;
    if (g->op) (void)cublasLtMatmulDescDestroy(g->op);
    if (g->b) (void)cublasLtMatrixLayoutDestroy(g->b);
    if (g->a) (void)cublasLtMatrixLayoutDestroy(g->a);
    if (g->c) (void)cublasLtMatrixLayoutDestroy(g->c);
    delete g;
}

static bool is_off(const fvk_dev *d, const fvk_gemm *s)
{
    const bool more = s->then || s->sums || (s->bias && s->c_bf16);
    return (more && d->off & FVK_OFF_EPILOGUES) || (s->kind == FVK_GEMM_INT8 && d->off & FVK_OFF_INT8) ||
           (s->kind == FVK_GEMM_FP8 && d->off & FVK_OFF_FP8) || (s->scales && d->off & FVK_OFF_SCALES);
}

int fvi_gemm_create(fvk_dev *d, const fvk_gemm *s, fvk_product **out)
{
    *out = nullptr;
    TRY(enter(d));
    if (is_off(d, s)) return say(d, FVK_UNSUPPORTED, "cuBLASLt: turned off");
    fvk_product *g = new (std::nothrow) fvk_product;
    if (!g) return say(d, FVK_NO_MEMORY, "out of memory");
    memset(g->take, 0, sizeof g->take);
    g->s = *s;
    cublasStatus_t r = describe(d, g);
    if (r == CUBLAS_STATUS_SUCCESS) r = choose_both(d, g);
    if (r == CUBLAS_STATUS_SUCCESS) {
        *out = g;
        return FVK_OK;
    }
    fvi_gemm_destroy(d, g);
    return say(d, r == CUBLAS_STATUS_ALLOC_FAILED ? FVK_NO_MEMORY : FVK_UNSUPPORTED,
               "cuBLASLt: %lld x %lld x %lld: %s", (long long)s->M, (long long)s->N,
               (long long)s->K, cublasLtGetStatusString(r));
}

static bool fits(const choice *k, const void *a, const void *b, const void *c)
{
    return (uintptr_t)a % k->a == 0 && (uintptr_t)b % k->b == 0 && (uintptr_t)c % k->c == 0;
}

int fvi_gemm_scaled(fvk_dev *d, fvk_product *g, const fvk_operands *o)
{
    const choice *k = &g->take[fits(&g->take[0], o->a, o->b, o->c) ? 0 : 1];
    TRY(enter(d));
    if (!fits(k, o->a, o->b, o->c) || (uintptr_t)o->bias % BIAS_ALIGNMENT ||
        (uintptr_t)o->a_scale % BIAS_ALIGNMENT || (uintptr_t)o->b_scale % BIAS_ALIGNMENT)
        return say(d, FVK_FAILED, "product: operands are not aligned to 16 bytes");
    cublasStatus_t r = point_at(g, o->bias, o->a_scale, o->b_scale);
    if (r == CUBLAS_STATUS_SUCCESS) r = multiply(d, g, k, o->a, o->b, o->c);
    if (r == CUBLAS_STATUS_SUCCESS) return FVK_OK;
    return say(d, FVK_FAILED, "cuBLASLt: %s", cublasLtGetStatusString(r));
}

int fvi_gemm_run(fvk_dev *d, fvk_product *g, const void *a, const void *b, const void *bias, void *c)
{
    const fvk_operands o = { a, b, bias, nullptr, nullptr, c };
    return fvi_gemm_scaled(d, g, &o);
}
