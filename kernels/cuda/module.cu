/* module.cu - libfovea_cuda: the table of cuda/abi.h on the CUDA runtime and cuBLASLt.
 *
 * One stream per device handle; everything goes through it in order. The runtime is linked in, the
 * driver is looked up by it when it is first used, so this module loads where there is none and says
 * so. Device memory comes from the pool of the device (cudaMallocAsync), which keeps what was freed.
 * Copies go through pinned buffers of 4 MiB: one while the other is on its way.
 *
 * The kernels, with the bodies of the .h files here, are one translation unit: nvcc starts slowly.
 * What calls a library of NVIDIA stands beside it: products.cu. */
#include "cuda/module.h"

#include "cuda/decoding.h"
#include "cuda/experts.h"
#include "cuda/flash.h"
#include "cuda/integer.h"
#include "cuda/maps.h"
#include "cuda/norm.h"
#include "cuda/pointwise.h"
#include "cuda/prior.h"
#include "cuda/rows.h"
#include "cuda/sampling.h"
#include "cuda/sequence.h"
#include "cuda/tensor.h"
#include "cuda/losses.h"
#include "cuda/pictures.h"
#include "cuda/texture.h"
#include "cuda/train.h"

/* ---- Kernels --------------------------------------------------------------------------------- */

/* Blocks of a kernel that fit on a multiprocessor at least: its registers. */
template <typename args> struct blocks { static constexpr int least = 1; };
template <> struct blocks<fvk_dec_product_args> { static constexpr int least = 2; };

#define KERNEL(name)                                                                        \
    static __global__ void                                                                  \
    __launch_bounds__(FVK_THREADS, blocks<fvk_##name##_args>::least) name##_k(              \
        const __grid_constant__ fvk_##name##_args a)                                        \
    {                                                                                       \
        name##_body(&a, (int)blockIdx.x, (int)gridDim.x);                                   \
    }
FVK_LIST(KERNEL)
#undef KERNEL

struct kernel_entry { const void *function; size_t bytes; };
#define ENTRY(name) { (const void *)name##_k, sizeof(fvk_##name##_args) },
static const kernel_entry kernel_table[] = { FVK_LIST(ENTRY) };
#undef ENTRY

/* ---- The device ------------------------------------------------------------------------------ */

static int count_devices(int *n, char *why, size_t why_bytes)
{
    const cudaError_t e = cudaGetDeviceCount(n);
    if (e == cudaSuccess && *n > 0) return FVK_OK;
    (void)cudaGetLastError();
    int runtime = 0, driver = 0;
    (void)cudaRuntimeGetVersion(&runtime);
    (void)cudaDriverGetVersion(&driver);
    if (e == cudaErrorInsufficientDriver && driver == 0)
        snprintf(why, why_bytes, "no NVIDIA driver on this machine");
    else if (e == cudaErrorInsufficientDriver)
        snprintf(why, why_bytes, "the driver knows CUDA %d.%d, the module needs %d.%d",
                 driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    else if (e == cudaSuccess || e == cudaErrorNoDevice)
        snprintf(why, why_bytes, "no device");
    else
        snprintf(why, why_bytes, "%s (%s)", cudaGetErrorString(e), cudaGetErrorName(e));
    return FVK_FAILED;
}

static int dev_info(int index, fvk_info *out, char *why, size_t why_bytes)
{
    int n = 0;
    cudaDeviceProp p;
    TRY(count_devices(&n, why, why_bytes));
    if (index >= n) {
        snprintf(why, why_bytes, "%d device%s", n, n == 1 ? "" : "s");
        return FVK_UNSUPPORTED;
    }
    const cudaError_t e = cudaGetDeviceProperties(&p, index);
    if (e != cudaSuccess) {
        snprintf(why, why_bytes, "device %d: %s (%s)", index, cudaGetErrorString(e),
                 cudaGetErrorName(e));
        return FVK_FAILED;
    }
    memset(out, 0, sizeof *out);
    memcpy(out->name, p.name, sizeof out->name - 1); /* both end in 0 */
    out->major = p.major;
    out->minor = p.minor;
    out->multiprocessors = p.multiProcessorCount;
    out->memory_bytes = p.totalGlobalMem;
    fvi_dnn_text(nullptr, out->libraries, sizeof out->libraries);
    (void)cudaRuntimeGetVersion(&out->runtime);
    (void)cudaDriverGetVersion(&out->driver);
    return FVK_OK;
}

static void dev_close(fvk_dev *d)
{
    if (cudaSetDevice(d->index) == cudaSuccess) {
        if (d->stream) (void)cudaStreamSynchronize(d->stream);
        fvi_products_close(d);
        fvi_dnn_close(d);
        if (d->blas) (void)cublasLtDestroy(d->blas);
        if (d->workspace) (void)cudaFree(d->workspace);
        for (int i = 0; i < 2; i++) {
            if (d->staged[i]) (void)cudaEventDestroy(d->staged[i]);
            if (d->stage[i]) (void)cudaFreeHost(d->stage[i]);
        }
        if (d->fault) (void)cudaFreeHost(d->fault);
        if (d->stream) (void)cudaStreamDestroy(d->stream);
        (void)cudaGetLastError();
    }
    delete d;
}

static int keep_pool(fvk_dev *d)
{
    cudaMemPool_t pool;
    uint64_t all = UINT64_MAX; /* of what was freed: nothing goes back to the system before close */
    TRY(CUDA(d, cudaDeviceGetDefaultMemPool(&pool, d->index)));
    return CUDA(d, cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all));
}

/* What the kernels are compiled for: 8.0 and later. */
static int check_architecture(fvk_dev *d)
{
    cudaFuncAttributes a;
    const cudaError_t e = cudaFuncGetAttributes(&a, kernel_table[0].function);
    if (e == cudaSuccess) return FVK_OK;
    (void)cudaGetLastError();
    cudaDeviceProp p;
    TRY(CUDA(d, cudaGetDeviceProperties(&p, d->index)));
    return say(d, FVK_FAILED, "%s (%d.%d): the module has no kernels for it: %s", p.name, p.major,
               p.minor, cudaGetErrorString(e));
}

static int start(fvk_dev *d)
{
    TRY(enter(d));
    TRY(check_architecture(d));
    TRY(CUDA(d, cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking)));
    TRY(keep_pool(d));
    for (int i = 0; i < 2; i++) {
        TRY(CUDA(d, cudaHostAlloc((void **)&d->stage[i], STAGE_BYTES, cudaHostAllocDefault)));
        TRY(CUDA(d, cudaEventCreateWithFlags(&d->staged[i], cudaEventDisableTiming)));
    }
    TRY(CUDA(d, cudaHostAlloc((void **)&d->fault, 64, cudaHostAllocMapped)));
    memset(d->fault, 0, 64);
    TRY(CUDA(d, cudaMalloc(&d->workspace, WORKSPACE_BYTES)));
    if (cublasLtCreate(&d->blas) != CUBLAS_STATUS_SUCCESS)
        return say(d, FVK_FAILED, "cuBLASLt cannot start");
    return FVK_OK;
}

static int dev_open(int index, fvk_dev **out, char *why, size_t why_bytes)
{
    int n = 0;
    *out = nullptr;
    TRY(count_devices(&n, why, why_bytes));
    if (index < 0 || index >= n) {
        snprintf(why, why_bytes, "device %d of %d", index, n);
        return FVK_UNSUPPORTED;
    }
    fvk_dev *d = new (std::nothrow) fvk_dev;
    if (!d) {
        snprintf(why, why_bytes, "out of memory");
        return FVK_NO_MEMORY;
    }
    d->index = index;
    const int code = start(d);
    if (code != FVK_OK) {
        snprintf(why, why_bytes, "%s", d->message);
        dev_close(d);
        return code;
    }
    *out = d;
    return FVK_OK;
}

static int dev_set(fvk_dev *d, int what, int64_t value)
{
    if (what == FVK_SET_OFF) d->off = (uint32_t)value;
    else if (what == FVK_SET_TRIES) d->tries = value > 8 ? 8 : (int)value;
    else if (what == FVK_SET_TF32) d->tf32 = value != 0;
    else return say(d, FVK_UNSUPPORTED, "no setting %d", what);
    return FVK_OK;
}

static const char *dev_error(const fvk_dev *d) { return d->message; }

/* ---- Memory ---------------------------------------------------------------------------------- */

/* Said before the stream is touched: a capture would take some of it, and run it again with what the
 * host's buffers hold by then, and end at the rest. */
static int not_recording(fvk_dev *d, const char *what)
{
    return d->recording ? say(d, FVK_FAILED, "%s in a recording", what) : FVK_OK;
}

/* Complete when it returns: another thread's stream may use the block. */
static void *dev_alloc(fvk_dev *d, size_t bytes)
{
    void *p = nullptr;
    if (enter(d) != FVK_OK || not_recording(d, "memory") != FVK_OK) return nullptr;
    if (check(d, cudaMallocAsync(&p, bytes, d->stream), "cudaMallocAsync") != FVK_OK) {
        say(d, FVK_NO_MEMORY, "out of memory: %zu bytes asked", bytes);
        return nullptr;
    }
    if (CUDA(d, cudaMemsetAsync(p, 0, bytes, d->stream)) == FVK_OK &&
        CUDA(d, cudaStreamSynchronize(d->stream)) == FVK_OK)
        return p;
    (void)cudaFreeAsync(p, d->stream);
    return nullptr;
}

static void dev_free(fvk_dev *d, void *p)
{
    if (!p || enter(d) != FVK_OK) return;
    (void)cudaStreamSynchronize(d->stream);
    (void)cudaFreeAsync(p, d->stream);
    (void)cudaGetLastError();
}

static int dev_owns(fvk_dev *d, const void *p)
{
    cudaPointerAttributes a;
    if (enter(d) != FVK_OK) return 0;
    const cudaError_t e = cudaPointerGetAttributes(&a, p);
    (void)cudaGetLastError(); /* older runtimes fail for host memory */
    return e == cudaSuccess && (a.type == cudaMemoryTypeDevice || a.type == cudaMemoryTypeManaged);
}

static int find_fault(fvk_dev *d)
{
    const int32_t bits = *d->fault;
    *d->fault = 0;
    if (bits & FVK_FAULT_ID) return say(d, FVK_BAD_INPUT, "an id, index or label is outside its table");
    if (bits & FVK_FAULT_TAU) return say(d, FVK_BAD_INPUT, "soft_rate: tau is not above 0");
    if (bits & FVK_FAULT_FINITE)
        return say(d, FVK_NOT_FINITE, "features are not finite; a lower learning rate or clipped "
                                      "gradients keep them so");
    if (bits & FVK_FAULT_VISIBLE)
        return say(d, FVK_BAD_INPUT, "sdpa: a query sees none or too many keys, or fewer than the "
                                     "query before");
    return FVK_OK;
}

static int dev_sync(fvk_dev *d)
{
    TRY(not_recording(d, "waiting"));
    TRY(enter(d));
    TRY(CUDA(d, cudaStreamSynchronize(d->stream)));
    return find_fault(d);
}

/* Waits until the next pinned buffer is free. */
static int take_stage(fvk_dev *d, int *i)
{
    *i = d->next_stage;
    d->next_stage ^= 1;
    return CUDA(d, cudaEventSynchronize(d->staged[*i])); /* at once before its first record */
}

static int dev_to_device(fvk_dev *d, void *dst, const void *src, size_t bytes)
{
    TRY(not_recording(d, "a copy"));
    TRY(enter(d));
    for (size_t at = 0; at < bytes; at += STAGE_BYTES) {
        const size_t n = bytes - at < STAGE_BYTES ? bytes - at : STAGE_BYTES;
        int i;
        TRY(take_stage(d, &i));
        memcpy(d->stage[i], (const uint8_t *)src + at, n);
        TRY(CUDA(d, cudaMemcpyAsync((uint8_t *)dst + at, d->stage[i], n, cudaMemcpyHostToDevice,
                                    d->stream)));
        TRY(CUDA(d, cudaEventRecord(d->staged[i], d->stream)));
    }
    return FVK_OK;
}

static int fetch(fvk_dev *d, int i, const uint8_t *src, size_t n)
{
    TRY(CUDA(d, cudaMemcpyAsync(d->stage[i], src, n, cudaMemcpyDeviceToHost, d->stream)));
    return CUDA(d, cudaEventRecord(d->staged[i], d->stream));
}

/* Piece k + 1 is on its way while piece k is copied out of its buffer. */
static int dev_to_host(fvk_dev *d, void *dst, const void *src, size_t bytes)
{
    TRY(not_recording(d, "a copy"));
    TRY(enter(d));
    int held = -1;
    size_t held_at = 0, held_bytes = 0;
    for (size_t at = 0; at < bytes || held >= 0; at += STAGE_BYTES) {
        int i = -1;
        const size_t n = at >= bytes ? 0 : bytes - at < STAGE_BYTES ? bytes - at : STAGE_BYTES;
        if (n) {
            TRY(take_stage(d, &i));
            TRY(fetch(d, i, (const uint8_t *)src + at, n));
        }
        if (held >= 0) {
            TRY(CUDA(d, cudaEventSynchronize(d->staged[held])));
            memcpy((uint8_t *)dst + held_at, d->stage[held], held_bytes);
        }
        held = i;
        held_at = at;
        held_bytes = n;
    }
    return find_fault(d);
}

static int dev_on_device(fvk_dev *d, void *dst, const void *src, size_t bytes)
{
    TRY(not_recording(d, "a copy"));
    TRY(enter(d));
    return CUDA(d, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, d->stream));
}

static int dev_zero(fvk_dev *d, void *p, size_t bytes)
{
    TRY(not_recording(d, "clearing"));
    TRY(enter(d));
    return CUDA(d, cudaMemsetAsync(p, 0, bytes, d->stream));
}

static int32_t *dev_fault(fvk_dev *d) { return d->fault; } /* one address for both sides */

static int dev_launch(fvk_dev *d, fvk_kernel k, int64_t blocks, const void *args, size_t bytes)
{
    void *list[] = { const_cast<void *>(args) };
    if ((unsigned)k >= FVK_KERNELS || bytes != kernel_table[k].bytes || blocks < 1 ||
        blocks > INT32_MAX)
        return say(d, FVK_FAILED, "launch of kernel %d: %lld blocks, %zu bytes", (int)k,
                   (long long)blocks, bytes);
    TRY(enter(d));
    return check(d, cudaLaunchKernel(kernel_table[k].function, dim3((unsigned)blocks),
                                     dim3(FVK_THREADS), list, 0, d->stream),
                 "launch");
}

/* ---- Graphs ---------------------------------------------------------------------------------- */

struct fvk_graph { cudaGraphExec_t exec = nullptr; };

/* Relaxed: kernels are loaded when they are first used, by the libraries, too, which may take memory.
 * Nothing of that belongs to the recording, and stricter modes may refuse it. Calls of other threads go
 * on meanwhile: they have streams of their own. */
static int graph_begin(fvk_dev *d)
{
    TRY(enter(d));
    TRY(not_recording(d, "a recording"));
    TRY(CUDA(d, cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeRelaxed)));
    d->recording = true;
    return FVK_OK;
}

static void graph_destroy(fvk_dev *d, fvk_graph *g)
{
    if (!g) return;
    if (g->exec && enter(d) == FVK_OK) {
        (void)cudaStreamSynchronize(d->stream);
        (void)cudaGraphExecDestroy(g->exec);
        (void)cudaGetLastError();
    }
    delete g;
}

static int graph_end(fvk_dev *d, fvk_graph **out)
{
    cudaGraph_t made = nullptr;
    if (out) *out = nullptr;
    TRY(enter(d));
    d->recording = false;
    int code = CUDA(d, cudaStreamEndCapture(d->stream, &made));
    fvk_graph *g = code == FVK_OK && out ? new (std::nothrow) fvk_graph : nullptr;
    if (code == FVK_OK && out && !g) code = say(d, FVK_NO_MEMORY, "out of memory");
    if (g) code = CUDA(d, cudaGraphInstantiate(&g->exec, made, 0));
    if (made) (void)cudaGraphDestroy(made);
    if (code == FVK_OK && out) *out = g;
    else graph_destroy(d, g);
    return code;
}

static int graph_run(fvk_dev *d, fvk_graph *g)
{
    TRY(enter(d));
    return CUDA(d, cudaGraphLaunch(g->exec, d->stream));
}

/* ---- The table ------------------------------------------------------------------------------- */

extern "C" __attribute__((visibility("default"))) const fvk_api *fvi_cuda_module(void)
{
    static const fvk_api api = {
        FVK_ABI, FVK_KERNELS, dev_info, dev_open, dev_close, dev_error, dev_alloc, dev_free,
        dev_owns, dev_to_device, dev_to_host, dev_on_device, dev_zero, dev_sync, dev_fault, dev_launch,
        fvi_gemm_create, fvi_gemm_run, fvi_gemm_scaled, fvi_gemm_destroy, graph_begin, graph_end, graph_run,
        graph_destroy, dev_set, fvi_conv_create, fvi_attention_create, fvi_library_run,
        fvi_library_destroy, fvi_ranks_id, fvi_ranks_open, fvi_ranks_sum, fvi_ranks_close
    };
    return &api;
}
