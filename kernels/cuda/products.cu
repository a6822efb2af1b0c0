/* products.cu - products of libfovea_cuda: cuBLASLt. */
#include "cuda/module.h"

/* cuBLASLt counts by columns. Our row-major c[M,N] is its column-major N x M matrix, so that it
 * computes c^T = op(b) op(a), with b first; what is stored transposed for us is not for it. */
struct fvk_product {
    cublasLtMatmulDesc_t op = nullptr;
    cublasLtMatrixLayout_t b = nullptr, a = nullptr, c = nullptr;
    cublasLtMatmulAlgo_t algo;
    size_t workspace = 0;
    bool accumulate = false, bias = false;
};

void fvi_gemm_destroy(fvk_dev *, fvk_product *g)
{
    if (!g) return;
    if (g->op) (void)cublasLtMatmulDescDestroy(g->op);
    if (g->b) (void)cublasLtMatrixLayoutDestroy(g->b);
    if (g->a) (void)cublasLtMatrixLayoutDestroy(g->a);
    if (g->c) (void)cublasLtMatrixLayoutDestroy(g->c);
    delete g;
}

static cublasStatus_t layout(cublasLtMatrixLayout_t *m, bool is_half, int64_t rows, int64_t columns)
{
    return cublasLtMatrixLayoutCreate(m, is_half ? CUDA_R_16BF : CUDA_R_32F, (uint64_t)rows,
                                      (uint64_t)columns, rows);
}

/* CUBLAS_COMPUTE_32F has no TF32 in it. */
static cublasStatus_t describe(fvk_product *g, const fvk_gemm *s)
{
    const cublasOperation_t first = s->b_trans ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t second = s->a_trans ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasStatus_t r = cublasLtMatmulDescCreate(&g->op, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (r == CUBLAS_STATUS_SUCCESS)
        r = cublasLtMatmulDescSetAttribute(g->op, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first);
    if (r == CUBLAS_STATUS_SUCCESS)
        r = cublasLtMatmulDescSetAttribute(g->op, CUBLASLT_MATMUL_DESC_TRANSB, &second,
                                           sizeof second);
    if (r == CUBLAS_STATUS_SUCCESS && s->bias) {
        const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        r = cublasLtMatmulDescSetAttribute(g->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                           sizeof epilogue);
    }
    if (r == CUBLAS_STATUS_SUCCESS)
        r = s->b_trans ? layout(&g->b, s->ab_bf16, s->K, s->N)
                       : layout(&g->b, s->ab_bf16, s->N, s->K);
    if (r == CUBLAS_STATUS_SUCCESS)
        r = s->a_trans ? layout(&g->a, s->ab_bf16, s->M, s->K)
                       : layout(&g->a, s->ab_bf16, s->K, s->M);
    if (r == CUBLAS_STATUS_SUCCESS) r = layout(&g->c, s->c_bf16, s->N, s->M);
    return r;
}

/* The first algorithm that the heuristic proposes. Pointers are those of a plan: of 256-byte aligned
 * buffers, but inputs that a caller binds may be aligned to their elements only. */
static cublasStatus_t choose(fvk_dev *d, fvk_product *g, const fvk_gemm *s)
{
    cublasLtMatmulPreference_t want = nullptr;
    cublasLtMatmulHeuristicResult_t found;
    int n = 0;
    memset(&found, 0, sizeof found);
    cublasStatus_t r = cublasLtMatmulPreferenceCreate(&want);
    if (r != CUBLAS_STATUS_SUCCESS) return r;
    const uint32_t of_ab = s->ab_bf16 ? 2 : 4, of_c = s->c_bf16 ? 2 : 4;
    const uint32_t align_ab = s->K % 8 == 0 && s->N % 8 == 0 && s->M % 8 == 0 ? 16 : of_ab;
    const uint32_t align_c = align_ab == 16 ? 16 : of_c;
    const struct { cublasLtMatmulPreferenceAttributes_t key; uint32_t bytes; } align[] = {
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, align_ab },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, align_ab },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, align_c },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, align_c },
    };
    r = cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &WORKSPACE_BYTES, sizeof WORKSPACE_BYTES);
    for (const auto &x : align)
        if (r == CUBLAS_STATUS_SUCCESS)
            r = cublasLtMatmulPreferenceSetAttribute(want, x.key, &x.bytes, sizeof x.bytes);
    if (r == CUBLAS_STATUS_SUCCESS)
        r = cublasLtMatmulAlgoGetHeuristic(d->blas, g->op, g->b, g->a, g->c, g->c, want, 1, &found,
                                           &n);
    (void)cublasLtMatmulPreferenceDestroy(want);
    if (r == CUBLAS_STATUS_SUCCESS && n == 0) r = CUBLAS_STATUS_NOT_SUPPORTED;
    g->algo = found.algo;
    g->workspace = found.workspaceSize;
    return r;
}

int fvi_gemm_create(fvk_dev *d, const fvk_gemm *s, fvk_product **out)
{
    *out = nullptr;
    TRY(enter(d));
    fvk_product *g = new (std::nothrow) fvk_product;
    if (!g) return say(d, FVK_NO_MEMORY, "out of memory");
    g->accumulate = s->accumulate != 0;
    g->bias = s->bias != 0;
    cublasStatus_t r = describe(g, s);
    if (r == CUBLAS_STATUS_SUCCESS) r = choose(d, g, s);
    if (r == CUBLAS_STATUS_SUCCESS) {
        *out = g;
        return FVK_OK;
    }
    fvi_gemm_destroy(d, g);
    return say(d, r == CUBLAS_STATUS_ALLOC_FAILED ? FVK_NO_MEMORY : FVK_UNSUPPORTED,
               "cuBLASLt: %lld x %lld x %lld: %s", (long long)s->M, (long long)s->N,
               (long long)s->K, cublasLtGetStatusString(r));
}

int fvi_gemm_run(fvk_dev *d, fvk_product *g, const void *a, const void *b, const float *bias,
                    void *c)
{
    const float one = 1.0f, old = g->accumulate ? 1.0f : 0.0f;
    TRY(enter(d));
    cublasStatus_t r = CUBLAS_STATUS_SUCCESS;
    if (g->bias)
        r = cublasLtMatmulDescSetAttribute(g->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                           sizeof bias);
    if (r == CUBLAS_STATUS_SUCCESS)
        r = cublasLtMatmul(d->blas, g->op, &one, b, g->b, a, g->a, &old, c, g->c, c, g->c, &g->algo,
                           d->workspace, g->workspace, d->stream);
    if (r == CUBLAS_STATUS_SUCCESS) return FVK_OK;
    return say(d, FVK_FAILED, "cuBLASLt: %s", cublasLtGetStatusString(r));
}
