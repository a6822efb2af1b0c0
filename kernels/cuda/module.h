/* module.h - private: what the .cu files of libfovea_cuda share: the device, and how a failure is told. */
#ifndef FV_CUDA_MODULE_H
#define FV_CUDA_MODULE_H

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <new>

#include "cuda/abi.h"

static const size_t STAGE_BYTES = (size_t)4 << 20;
static const size_t WORKSPACE_BYTES = (size_t)32 << 20; /* what cuBLASLt asks for on Hopper */

struct fvk_dev {
    int index = 0;
    cudaStream_t stream = nullptr;
    cublasLtHandle_t blas = nullptr;
    void *workspace = nullptr;
    uint8_t *stage[2] = { nullptr, nullptr }; /* pinned */
    cudaEvent_t staged[2] = { nullptr, nullptr };
    int next_stage = 0;
    int32_t *fault = nullptr; /* pinned and mapped: kernels write it, the host reads it */
    bool recording = false;   /* the stream is captured: it takes kernels and products alone */
    uint32_t off = 0;         /* FVK_OFF_*: not to be used */
    int tries = 0;            /* algorithms to time for a product */
    bool tf32 = false;        /* factors of f32 may be rounded to 10 bits */
    struct fvk_timed *timed = nullptr;
    struct fvk_dnn *dnn = nullptr; /* cuDNN, once it was asked for */
    std::mutex lock;          /* of the message */
    char message[512] = "";
};

static inline int say(fvk_dev *d, int code, const char *fmt, ...)
{
    std::lock_guard<std::mutex> hold(d->lock);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(d->message, sizeof d->message, fmt, ap);
    va_end(ap);
    return code;
}

static inline int check(fvk_dev *d, cudaError_t e, const char *what)
{
    if (e == cudaSuccess) return FVK_OK;
    (void)cudaGetLastError(); /* a failure of one call is not that of the next */
    return say(d, e == cudaErrorMemoryAllocation ? FVK_NO_MEMORY : FVK_FAILED, "%s: %s (%s)", what,
               cudaGetErrorString(e), cudaGetErrorName(e));
}
#define TRY(expr)                        \
    do {                                 \
        const int code_ = (expr);        \
        if (code_ != FVK_OK) return code_; \
    } while (0)
#define CUDA(d, call) check(d, call, #call)

/* Calls of a handle may come from any thread; the runtime's current device is the thread's. */
static inline int enter(fvk_dev *d) { return CUDA(d, cudaSetDevice(d->index)); }

/* products.cu */
int fvi_gemm_create(fvk_dev *d, const fvk_gemm *s, fvk_product **out);
int fvi_gemm_run(fvk_dev *d, fvk_product *g, const void *a, const void *b, const void *bias, void *c);
int fvi_gemm_scaled(fvk_dev *d, fvk_product *g, const fvk_operands *o);
void fvi_gemm_destroy(fvk_dev *d, fvk_product *g);
void fvi_products_close(fvk_dev *d);

/* cudnn.cu */
void fvi_dnn_text(const fvk_dev *d, char *text, size_t bytes); /* d may be NULL */
void fvi_dnn_close(fvk_dev *d);
int fvi_conv_create(fvk_dev *d, const fvk_conv *c, fvk_library **out);
int fvi_attention_create(fvk_dev *d, const fvk_flash *a, fvk_library **out);
int fvi_library_run(fvk_dev *d, fvk_library *l, void *const *pointers);
void fvi_library_destroy(fvk_dev *d, fvk_library *l);

/* ranks.cu */
int fvi_ranks_id(fvk_dev *d, uint8_t id[FVK_RANKS_ID]);
int fvi_ranks_open(fvk_dev *d, const uint8_t id[FVK_RANKS_ID], int rank, int size, fvk_ranks **out);
int fvi_ranks_sum(fvk_dev *d, fvk_ranks *r, float *x, int64_t n);
void fvi_ranks_close(fvk_dev *d, fvk_ranks *r);

#endif
