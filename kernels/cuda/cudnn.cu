/* cudnn.cu - convolutions and attention of libfovea_cuda by cuDNN 9, through its graph (backend) API.
 *
 * The library is opened at run time, from beside this module, where the system looks, or beside
 * cuBLASLt, when the first plan asks for it: libcudnn_graph.so.9, which has all that is called here, as
 * libcudnn.so.9 before it ends the process when one of its parts is missing. Without it, and for
 * whatever it refuses, the answer is FVK_UNSUPPORTED and libfovea runs kernels of its own. Built without
 * its headers, this file says just that.
 *
 * A plan is a graph of one operation, for gradients of attention of sixteen, and the first engine of the
 * heuristics that suits: the same result each time (no engine that notes otherwise), f32 in f32 (none on
 * tensor cores, which would be TF32), no sums in fewer bits, no Winograd or FFT. Tensors are named by numbers in the order of the pointers of
 * library_run. Work memory is shared by the plans of a device, which run one after another; a plan that
 * needs more takes a larger block, and older ones keep theirs. */
#include "cuda/module.h"

#if defined(FVK_HAS_CUDNN)
#include <cudnn_graph.h>
#include <dlfcn.h>

#include <cmath>
#include <cstdlib>

#define DNN_LIST(F)                                                                                  \
    F(cudnnGetVersion) F(cudnnGetErrorString) F(cudnnCreate) F(cudnnDestroy) F(cudnnSetStream)        \
    F(cudnnBackendCreateDescriptor) F(cudnnBackendDestroyDescriptor) F(cudnnBackendSetAttribute)      \
    F(cudnnBackendGetAttribute) F(cudnnBackendFinalize) F(cudnnBackendExecute)

/* cuDNN of this process, opened once. */
struct dnn_library {
#define FIELD(name) decltype(&::name) name = nullptr;
    DNN_LIST(FIELD)
#undef FIELD
    size_t version = 0;
    bool ok = false;
    char why[200] = "";
};

struct dnn_space { void *p; size_t bytes; dnn_space *next; };

/* Of a device handle. */
struct fvk_dnn {
    const dnn_library *f = nullptr;
    cudnnHandle_t handle = nullptr;
    dnn_space *space = nullptr; /* the largest first */
    fvk_library *plans = nullptr;
    long made = 0, refused = 0;
    bool ok = false;
};

static const int DESCRIPTORS = 128, CONFIGS = 16, POINTERS = 12, OPERATIONS = 20;
static const int64_t MOST_SPACE = (int64_t)256 << 20;

struct fvk_library {
    const dnn_library *f;
    cudnnBackendDescriptor_t all[DESCRIPTORS];
    cudnnBackendDescriptor_t op[OPERATIONS];
    int count, ops, tensors;
    int scale_at, one_at;         /* tensors that are numbers of ours; -1: none */
    cudnnStatus_t status;         /* the first failure */
    cudnnBackendDescriptor_t plan;
    void *space;
    float scale;
    fvk_conv conv; /* what it is for: of zeros where it is the other one */
    fvk_flash flash;
    int users;     /* layers of one shape share a plan: some engines are compiled when it is made */
    fvk_library *next;
};

/* ---- The library ----------------------------------------------------------------------------- */

/* In the folder that `there` was loaded from, or `below` it. */
static void *open_beside(const void *there, const char *below)
{
    char path[4096];
    Dl_info info;
    if (!dladdr(there, &info) || !info.dli_fname) return nullptr;
    const char *slash = strrchr(info.dli_fname, '/');
    if (!slash || snprintf(path, sizeof path, "%.*s/%slibcudnn_graph.so.9", (int)(slash - info.dli_fname),
                           info.dli_fname, below) >= (int)sizeof path)
        return nullptr;
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

static void *open_dnn(void)
{
    const void *blas = (const void *)(uintptr_t)&cublasLtCreate;
    void *m = open_beside((const void *)(uintptr_t)&fvi_dnn_text, "");
    if (!m) m = dlopen("libcudnn_graph.so.9", RTLD_NOW | RTLD_LOCAL);
    if (!m) m = open_beside(blas, "");
    return m ? m : open_beside(blas, "../../cudnn/lib/"); /* as Python packages of both lie */
}

static dnn_library load_dnn(void)
{
    dnn_library f;
    void *m = open_dnn();
    if (!m) {
        snprintf(f.why, sizeof f.why, "no cuDNN: libcudnn_graph.so.9 is not found");
        return f;
    }
    bool all = true;
#define LOOK_UP(name)                                        \
    f.name = (decltype(&::name))(uintptr_t)dlsym(m, #name);   \
    all = all && f.name;
    DNN_LIST(LOOK_UP)
#undef LOOK_UP
    if (all) f.version = f.cudnnGetVersion();
    f.ok = all && f.version / 10000 == 9;
    if (!f.ok)
        snprintf(f.why, sizeof f.why, "no cuDNN: libcudnn_graph.so.9 is not of version 9, or in parts");
    return f; /* stays open */
}

static const dnn_library *dnn(void)
{
    static const dnn_library f = load_dnn(); /* once, whatever the threads */
    return &f;
}

void fvi_dnn_text(const fvk_dev *d, char *text, size_t bytes)
{
    const dnn_library *f = dnn();
    if (!f->ok) {
        snprintf(text, bytes, "%s", f->why);
        return;
    }
    const int n = snprintf(text, bytes, "cuDNN %d.%d.%d", (int)(f->version / 10000),
                           (int)(f->version / 100 % 100), (int)(f->version % 100));
    if (d && d->dnn && n > 0 && (size_t)n < bytes)
        snprintf(text + n, bytes - (size_t)n, d->dnn->ok ? ", %ld plans, %ld refused" : ", does not start",
                 d->dnn->made, d->dnn->refused);
}

static bool start(fvk_dev *d)
{
    if (d->off & FVK_OFF_CUDNN) return false;
    if (d->dnn) return d->dnn->ok;
    d->dnn = new (std::nothrow) fvk_dnn;
    if (!d->dnn) return false;
    d->dnn->f = dnn();
    if (!d->dnn->f->ok || d->dnn->f->cudnnCreate(&d->dnn->handle) != CUDNN_STATUS_SUCCESS) return false;
    d->dnn->ok = d->dnn->f->cudnnSetStream(d->dnn->handle, d->stream) == CUDNN_STATUS_SUCCESS;
    return d->dnn->ok;
}

void fvi_dnn_close(fvk_dev *d)
{
    if (!d->dnn) return;
    if (d->dnn->handle) (void)d->dnn->f->cudnnDestroy(d->dnn->handle);
    while (d->dnn->space) {
        dnn_space *s = d->dnn->space;
        d->dnn->space = s->next;
        (void)cudaFree(s->p);
        delete s;
    }
    delete d->dnn;
    d->dnn = nullptr;
}

/* A block of so many bytes; NULL and bytes above 0: there is none. */
static void *take_space(fvk_dnn *n, size_t bytes)
{
    if (bytes == 0) return nullptr;
    if (n->space && n->space->bytes >= bytes) return n->space->p;
    dnn_space *s = new (std::nothrow) dnn_space;
    if (!s) return nullptr;
    s->bytes = n->space && 2 * n->space->bytes > bytes ? 2 * n->space->bytes : bytes;
    if (cudaMalloc(&s->p, s->bytes) != cudaSuccess) {
        (void)cudaGetLastError();
        delete s;
        return nullptr;
    }
    s->next = n->space;
    n->space = s;
    return s->p;
}

/* ---- Descriptors ----------------------------------------------------------------------------- */

/* Kept until the plan goes; NULL where one failed before. */
static cudnnBackendDescriptor_t make(fvk_library *l, cudnnBackendDescriptorType_t type)
{
    cudnnBackendDescriptor_t d = nullptr;
    if (l->status == CUDNN_STATUS_SUCCESS && l->count == DESCRIPTORS)
        l->status = CUDNN_STATUS_INTERNAL_ERROR;
    if (l->status == CUDNN_STATUS_SUCCESS) l->status = l->f->cudnnBackendCreateDescriptor(type, &d);
    if (l->status == CUDNN_STATUS_SUCCESS) l->all[l->count++] = d;
    return l->status == CUDNN_STATUS_SUCCESS ? d : nullptr;
}

static void put(fvk_library *l, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t count, const void *values)
{
    if (l->status == CUDNN_STATUS_SUCCESS)
        l->status = l->f->cudnnBackendSetAttribute(d, name, type, count, values);
}
static void put_descriptor(fvk_library *l, cudnnBackendDescriptor_t d,
                           cudnnBackendAttributeName_t name, cudnnBackendDescriptor_t value)
{
    put(l, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}
static void put_int(fvk_library *l, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                    int64_t value)
{
    put(l, d, name, CUDNN_TYPE_INT64, 1, &value);
}
static void put_float(fvk_library *l, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                      float value)
{
    put(l, d, name, CUDNN_TYPE_FLOAT, 1, &value);
}

static void finish(fvk_library *l, cudnnBackendDescriptor_t d)
{
    if (l->status == CUDNN_STATUS_SUCCESS) l->status = l->f->cudnnBackendFinalize(d);
}

struct four { int64_t v[4]; };
enum tensor_kind { IN_MEMORY, A_NUMBER, BETWEEN /* operations: nowhere */ };

/* The next pointer of library_run; those that lie nowhere come last. */
static cudnnBackendDescriptor_t tensor(fvk_library *l, cudnnDataType_t type, four dim, four stride,
                                       tensor_kind kind = IN_MEMORY)
{
    const bool yes = true;
    cudnnBackendDescriptor_t t = make(l, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    put(l, t, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    put(l, t, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dim.v);
    put(l, t, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, stride.v);
    put_int(l, t, CUDNN_ATTR_TENSOR_UNIQUE_ID, ++l->tensors);
    put_int(l, t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 16);
    if (kind == A_NUMBER) put(l, t, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &yes);
    if (kind == BETWEEN) put(l, t, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &yes);
    finish(l, t);
    return t;
}

static void add(fvk_library *l, cudnnBackendDescriptor_t op)
{
    finish(l, op);
    if (l->ops < OPERATIONS) l->op[l->ops++] = op;
    else l->status = CUDNN_STATUS_INTERNAL_ERROR;
}

static cudnnBackendDescriptor_t graph_of(fvk_library *l, cudnnHandle_t handle)
{
    cudnnBackendDescriptor_t g = make(l, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    if (handle) put(l, g, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    put(l, g, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, l->ops, l->op);
    finish(l, g);
    return g;
}

/* ---- Plans ----------------------------------------------------------------------------------- */

static bool suits(fvk_library *l, cudnnBackendDescriptor_t config, bool is_f32)
{
    cudnnBackendNumericalNote_t note[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    cudnnBackendDescriptor_t engine = make(l, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    int64_t n = 0;
    if (!engine || l->f->cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE,
                                                  CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n, &engine) !=
                       CUDNN_STATUS_SUCCESS ||
        l->f->cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                       CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &n,
                                       note) != CUDNN_STATUS_SUCCESS)
        return false;
    for (int64_t i = 0; i < n && i < CUDNN_NUMERICAL_NOTE_TYPE_COUNT; i++)
        switch (note[i]) {
        case CUDNN_NUMERICAL_NOTE_TENSOR_CORE:
            if (is_f32) return false;
            break;
        case CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP: break;
        default: return false;
        }
    return true;
}

/* The configuration as l->plan. */
static bool build(fvk_library *l, cudnnHandle_t handle, cudnnBackendDescriptor_t device,
                  cudnnBackendDescriptor_t config, int64_t *space)
{
    cudnnBackendDescriptor_t p = make(l, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    int64_t n = 0;
    *space = 0;
    if (handle) put(l, p, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    else put_descriptor(l, p, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, device);
    put_descriptor(l, p, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
    finish(l, p);
    const bool ok = l->status == CUDNN_STATUS_SUCCESS &&
                    l->f->cudnnBackendGetAttribute(p, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                                   CUDNN_TYPE_INT64, 1, &n, space) ==
                        CUDNN_STATUS_SUCCESS && *space <= MOST_SPACE;
    l->plan = ok ? p : nullptr;
    l->status = CUDNN_STATUS_SUCCESS; /* the next one may do */
    return ok;
}

static bool try_mode(fvk_library *l, cudnnHandle_t handle, cudnnBackendDescriptor_t device,
                     cudnnBackendDescriptor_t graph, cudnnBackendHeurMode_t mode, bool is_f32,
                     int64_t *space)
{
    cudnnBackendDescriptor_t config[CONFIGS] = { nullptr };
    int64_t n = 0;
    cudnnBackendDescriptor_t h = make(l, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    put_descriptor(l, h, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    put(l, h, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (device) put_descriptor(l, h, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, device);
    finish(l, h);
    for (int i = 0; i < CONFIGS && l->status == CUDNN_STATUS_SUCCESS; i++)
        config[i] = make(l, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (l->status == CUDNN_STATUS_SUCCESS)
        l->status = l->f->cudnnBackendGetAttribute(h, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                                   CUDNN_TYPE_BACKEND_DESCRIPTOR, CONFIGS, &n, config);
    const bool ok = l->status == CUDNN_STATUS_SUCCESS;
    l->status = CUDNN_STATUS_SUCCESS;
    for (int64_t i = 0; ok && i < n && i < CONFIGS; i++) {
        const int before = l->count;
        if (suits(l, config[i], is_f32) && build(l, handle, device, config[i], space)) return true;
        while (l->count > before) (void)l->f->cudnnBackendDestroyDescriptor(l->all[--l->count]);
    }
    return false;
}

/* device: a described one instead of the handle's. */
static bool choose(fvk_library *l, cudnnHandle_t handle, cudnnBackendDescriptor_t device,
                   bool is_f32, int64_t *space)
{
    cudnnBackendDescriptor_t graph = graph_of(l, handle);
    if (l->status != CUDNN_STATUS_SUCCESS) return false;
    const int before = l->count;
    if (try_mode(l, handle, device, graph, CUDNN_HEUR_MODE_A, is_f32, space)) return true;
    while (l->count > before) (void)l->f->cudnnBackendDestroyDescriptor(l->all[--l->count]);
    return try_mode(l, handle, device, graph, CUDNN_HEUR_MODE_FALLBACK, is_f32, space);
}

/* ---- Operations ------------------------------------------------------------------------------ */

/* Maps [B, H, W, C] as cuDNN counts: B, C, H, W. */
static cudnnBackendDescriptor_t map_tensor(fvk_library *l, bool bf16, int64_t B, int64_t C, int64_t H,
                                           int64_t W)
{
    return tensor(l, bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT, { { B, C, H, W } },
                  { { H * W * C, 1, W * C, C } });
}

static cudnnBackendDescriptor_t conv_descriptor(fvk_library *l, const fvk_conv *c)
{
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const int64_t one[2] = { 1, 1 }, stride[2] = { c->stride, c->stride };
    const int64_t pre[2] = { c->top, c->left }, post[2] = { c->bottom, c->right };
    cudnnBackendDescriptor_t d = make(l, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    put(l, d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    put(l, d, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    put_int(l, d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, 2);
    put(l, d, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, pre);
    put(l, d, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, post);
    put(l, d, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, one);
    put(l, d, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, stride);
    finish(l, d);
    return d;
}

static void conv_op(fvk_library *l, const fvk_conv *c)
{
    static const struct {
        cudnnBackendDescriptorType_t type;
        cudnnBackendAttributeName_t x, w, y, conv, alpha, beta;
    } of[] = {
        { CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
          CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
          CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
          CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
          CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
          CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA },
        { CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA },
        { CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA },
    };
    const auto *o = &of[c->what];
    cudnnBackendDescriptor_t x = map_tensor(l, c->x_bf16, c->B, c->C, c->H, c->W);
    cudnnBackendDescriptor_t w = map_tensor(l, c->w_bf16, c->O, c->C, c->kh, c->kw);
    cudnnBackendDescriptor_t y = map_tensor(l, c->y_bf16, c->B, c->O, c->h, c->w);
    cudnnBackendDescriptor_t conv = conv_descriptor(l, c), op = make(l, o->type);
    put_descriptor(l, op, o->x, x);
    put_descriptor(l, op, o->w, w);
    put_descriptor(l, op, o->y, y);
    put_descriptor(l, op, o->conv, conv);
    put_float(l, op, o->alpha, 1.0f);
    put_float(l, op, o->beta, 0.0f);
    add(l, op);
}

/* A part [B, tokens, h, hd] whose tokens lie `row` apart, as cuDNN counts: B, h, tokens, hd. */
static cudnnBackendDescriptor_t head_tensor(fvk_library *l, const fvk_flash *a, int64_t tokens,
                                            int64_t row)
{
    return tensor(l, CUDNN_DATA_BFLOAT16, { { a->B, a->h, tokens, a->hd } },
                  { { tokens * row, a->hd, row, 1 } });
}

static cudnnBackendDescriptor_t number(fvk_library *l, int *at)
{
    *at = l->tensors;
    return tensor(l, CUDNN_DATA_FLOAT, { { 1, 1, 1, 1 } }, { { 1, 1, 1, 1 } }, A_NUMBER);
}

/* One number a query, [B, h, T]. */
static cudnnBackendDescriptor_t query_tensor(fvk_library *l, const fvk_flash *a, tensor_kind kind)
{
    return tensor(l, CUDNN_DATA_FLOAT, { { a->B, a->h, a->T, 1 } }, { { a->h * a->T, a->T, 1, 1 } }, kind);
}

/* Pointers: q, k, v, o, lse; the scale. */
static void attention_op(fvk_library *l, const fvk_flash *a)
{
#if CUDNN_VERSION >= 91400
    static const cudnnBackendAttributeName_t name[] = {
        CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC,
        CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC,
        CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC
    };
    cudnnBackendDescriptor_t t[5] = { nullptr };
    t[0] = head_tensor(l, a, a->T, a->q_row);
    t[1] = head_tensor(l, a, a->S, a->k_row);
    t[2] = head_tensor(l, a, a->S, a->v_row);
    t[3] = head_tensor(l, a, a->T, a->h * a->hd);
    if (a->keeps_lse) t[4] = query_tensor(l, a, IN_MEMORY);
    else l->tensors++; /* its pointer is not looked at */
    cudnnBackendDescriptor_t scale = number(l, &l->scale_at);
    cudnnBackendDescriptor_t op = make(l, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);
    for (int i = 0; i < 4 + (a->keeps_lse != 0); i++) put_descriptor(l, op, name[i], t[i]);
    put_descriptor(l, op, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, scale);
    add(l, op);
#else
    (void)a;
    l->status = CUDNN_STATUS_NOT_SUPPORTED;
#endif
}

/* ---- Gradients of attention ------------------------------------------------------------------ */

/* y = x by y2, whatever mode says. */
static cudnnBackendDescriptor_t pointwise(fvk_library *l, cudnnPointwiseMode_t mode,
                                          cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t x2,
                                          cudnnBackendDescriptor_t y)
{
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    cudnnBackendDescriptor_t p = make(l, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    put(l, p, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    put(l, p, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &type);
    finish(l, p);
    cudnnBackendDescriptor_t op = make(l, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    put_descriptor(l, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, p);
    put_descriptor(l, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (x2) put_descriptor(l, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, x2);
    put_descriptor(l, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    put_float(l, op, CUDNN_ATTR_OPERATION_POINTWISE_ALPHA1, 1.0f);
    put_float(l, op, CUDNN_ATTR_OPERATION_POINTWISE_ALPHA2, 1.0f);
    add(l, op);
    return y;
}

static cudnnBackendDescriptor_t product(fvk_library *l, cudnnBackendDescriptor_t x,
                                        cudnnBackendDescriptor_t x2, cudnnBackendDescriptor_t y)
{
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    cudnnBackendDescriptor_t m = make(l, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    put(l, m, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    finish(l, m);
    cudnnBackendDescriptor_t op = make(l, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    put_descriptor(l, op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, x);
    put_descriptor(l, op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, x2);
    put_descriptor(l, op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, y);
    put_descriptor(l, op, CUDNN_ATTR_OPERATION_MATMUL_DESC, m);
    add(l, op);
    return y;
}

/* The same numbers by other dimensions and strides. */
static cudnnBackendDescriptor_t turned(fvk_library *l, cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t y)
{
    cudnnBackendDescriptor_t op = make(l, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    put_descriptor(l, op, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
    put_descriptor(l, op, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
    add(l, op);
    return y;
}

static cudnnBackendDescriptor_t sum_of(fvk_library *l, cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t y)
{
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    const cudnnReduceTensorOp_t what = CUDNN_REDUCE_TENSOR_ADD;
    cudnnBackendDescriptor_t r = make(l, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    put(l, r, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    put(l, r, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &what);
    finish(l, r);
    cudnnBackendDescriptor_t op = make(l, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    put_descriptor(l, op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, r);
    put_descriptor(l, op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    put_descriptor(l, op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    add(l, op);
    return y;
}

/* Between operations: scores [B, h, T, S] in f32; in bf16 with queries and keys changed; K as it lies. */
static cudnnBackendDescriptor_t scores(fvk_library *l, const fvk_flash *a)
{
    const int64_t T = a->T, S = a->S;
    return tensor(l, CUDNN_DATA_FLOAT, { { a->B, a->h, T, S } }, { { a->h * T * S, T * S, S, 1 } }, BETWEEN);
}
static cudnnBackendDescriptor_t across(fvk_library *l, const fvk_flash *a)
{
    const int64_t T = a->T, S = a->S;
    return tensor(l, CUDNN_DATA_BFLOAT16, { { a->B, a->h, S, T } }, { { a->h * T * S, T * S, 1, S } },
                  BETWEEN);
}
/* Keys or values as the second factor: B, h, hd, S. */
static cudnnBackendDescriptor_t second(fvk_library *l, const fvk_flash *a, int64_t row)
{
    return tensor(l, CUDNN_DATA_BFLOAT16, { { a->B, a->h, a->hd, a->S } }, { { a->S * row, a->hd, 1, row } });
}

/* The graph that cuDNN's engines know as flash attention backward, in the form whose sums of dQ have one
 * order (dS goes through work memory):
 *     delta = sum of dO O     P = exp(scale Q K^T - lse)   dV = P^T dO
 *     dS = scale P (dO V^T - delta)   dK = dS^T Q          dQ = dS K
 * Pointers: q, k, v, o, lse, do, dq, dk, dv, delta; the scale, 1. */
static void attention_back(fvk_library *l, const fvk_flash *a)
{
    const int64_t row = a->h * a->hd, T = a->T, S = a->S, hd = a->hd;
    cudnnBackendDescriptor_t q = head_tensor(l, a, T, a->q_row), k = second(l, a, a->k_row);
    cudnnBackendDescriptor_t v = second(l, a, a->v_row), o = head_tensor(l, a, T, row);
    cudnnBackendDescriptor_t lse = query_tensor(l, a, IN_MEMORY), go = head_tensor(l, a, T, row);
    cudnnBackendDescriptor_t dq = head_tensor(l, a, T, a->q_row), dk = head_tensor(l, a, S, a->k_row);
    cudnnBackendDescriptor_t dv = head_tensor(l, a, S, a->v_row);
    cudnnBackendDescriptor_t delta = query_tensor(l, a, IN_MEMORY);
    cudnnBackendDescriptor_t scale = number(l, &l->scale_at), one = number(l, &l->one_at);
    cudnnBackendDescriptor_t x = tensor(l, CUDNN_DATA_FLOAT, { { a->B, a->h, T, hd } },
                                        { { a->h * T * hd, T * hd, row, 1 } }, BETWEEN);
    x = sum_of(l, pointwise(l, CUDNN_POINTWISE_MUL, go, o, x), query_tensor(l, a, BETWEEN));
    (void)pointwise(l, CUDNN_POINTWISE_MUL, x, one, delta);
    x = product(l, q, k, scores(l, a));
    x = pointwise(l, CUDNN_POINTWISE_MUL, x, scale, scores(l, a));
    x = pointwise(l, CUDNN_POINTWISE_SUB, x, lse, scores(l, a));
    cudnnBackendDescriptor_t p = pointwise(l, CUDNN_POINTWISE_EXP, x, nullptr, scores(l, a));
    (void)product(l, turned(l, p, across(l, a)), go, dv);
    x = product(l, go, v, scores(l, a));
    x = pointwise(l, CUDNN_POINTWISE_SUB, x, delta, scores(l, a));
    x = pointwise(l, CUDNN_POINTWISE_MUL, x, p, scores(l, a));
    cudnnBackendDescriptor_t ds = pointwise(l, CUDNN_POINTWISE_MUL, x, scale, scores(l, a));
    (void)product(l, turned(l, ds, across(l, a)), q, dk);
    x = tensor(l, CUDNN_DATA_BFLOAT16, { { a->B, a->h, S, hd } }, { { S * a->k_row, hd, a->k_row, 1 } },
               BETWEEN);
    (void)product(l, ds, turned(l, k, x), dq);
}

/* ---- The table's functions ------------------------------------------------------------------- */

static void drop(fvk_library *l)
{
    while (l->count > 0) (void)l->f->cudnnBackendDestroyDescriptor(l->all[--l->count]);
    delete l;
}

void fvi_library_destroy(fvk_dev *d, fvk_library *l)
{
    if (!l || --l->users > 0 || enter(d) != FVK_OK) return;
    (void)cudaStreamSynchronize(d->stream);
    fvk_library **at = &d->dnn->plans;
    while (*at != l) at = &(*at)->next;
    *at = l->next;
    drop(l);
}

static fvk_library *begin(const dnn_library *f)
{
    fvk_library *l = new (std::nothrow) fvk_library;
    if (!l) return nullptr;
    memset(l, 0, sizeof *l);
    l->f = f;
    l->scale_at = l->one_at = -1;
    return l;
}

static void describe(fvk_library *l, const fvk_conv *c, const fvk_flash *a)
{
    if (c) conv_op(l, c);
    else if (a->backward) attention_back(l, a);
    else attention_op(l, a);
    if (a) l->scale = a->scale;
}

static fvk_library *find(const fvk_dnn *n, const fvk_conv *c, const fvk_flash *a)
{
    fvk_library *l = n->plans;
    while (l && (c ? memcmp(&l->conv, c, sizeof *c) : memcmp(&l->flash, a, sizeof *a)) != 0) l = l->next;
    return l;
}

static int create(fvk_dev *d, const fvk_conv *c, const fvk_flash *a, fvk_library **out)
{
    int64_t space = 0;
    *out = nullptr;
    TRY(enter(d));
    if (!start(d)) return say(d, FVK_UNSUPPORTED, "cuDNN is not there");
    *out = find(d->dnn, c, a);
    if (*out) {
        (*out)->users++;
        return FVK_OK;
    }
    fvk_library *l = begin(d->dnn->f);
    if (!l) return say(d, FVK_NO_MEMORY, "out of memory");
    if (c) l->conv = *c;
    else l->flash = *a;
    l->users = 1;
    describe(l, c, a);
    bool ok = choose(l, d->dnn->handle, nullptr, c && !c->x_bf16 && !d->tf32, &space);
    if (ok) l->space = take_space(d->dnn, (size_t)space);
    ok = ok && (space == 0 || l->space);
    (void)cudaGetLastError(); /* of what was tried */
    if (ok) d->dnn->made++;
    else d->dnn->refused++;
    if (!ok) drop(l);
    if (ok) l->next = d->dnn->plans;
    if (ok) *out = d->dnn->plans = l;
    return ok ? FVK_OK : say(d, FVK_UNSUPPORTED, "cuDNN has no engine for it");
}

int fvi_conv_create(fvk_dev *d, const fvk_conv *c, fvk_library **out) { return create(d, c, nullptr, out); }

int fvi_attention_create(fvk_dev *d, const fvk_flash *a, fvk_library **out)
{
    *out = nullptr;
    if (a->hd % 8 || a->hd > 128) return say(d, FVK_UNSUPPORTED, "cuDNN: no such heads");
    return create(d, nullptr, a, out);
}

static cudnnStatus_t execute(fvk_dev *d, fvk_library *l, void **p, int64_t *id, int n)
{
    cudnnBackendDescriptor_t pack = nullptr;
    cudnnStatus_t s = l->f->cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    if (s == CUDNN_STATUS_SUCCESS)
        s = l->f->cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS,
                                           CUDNN_TYPE_VOID_PTR, n, p);
    if (s == CUDNN_STATUS_SUCCESS)
        s = l->f->cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64,
                                           n, id);
    if (s == CUDNN_STATUS_SUCCESS)
        s = l->f->cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR,
                                           1, &l->space);
    if (s == CUDNN_STATUS_SUCCESS) s = l->f->cudnnBackendFinalize(pack);
    if (s == CUDNN_STATUS_SUCCESS) s = l->f->cudnnBackendExecute(d->dnn->handle, l->plan, pack);
    if (pack) (void)l->f->cudnnBackendDestroyDescriptor(pack);
    return s;
}

int fvi_library_run(fvk_dev *d, fvk_library *l, void *const *pointers)
{
    float one = 1.0f;
    void *p[POINTERS];
    int64_t id[POINTERS];
    const int all = l->one_at >= 0 ? l->one_at + 1 : l->scale_at >= 0 ? l->scale_at + 1 : 3;
    int n = 0;
    TRY(enter(d));
    for (int i = 0; i < all; i++) {
        const bool is_number = i == l->scale_at || i == l->one_at;
        void *at = i == l->scale_at ? &l->scale : i == l->one_at ? &one : pointers[i];
        if (!at) continue;
        if (!is_number && (uintptr_t)at % 16)
            return say(d, FVK_UNSUPPORTED, "cuDNN: memory is not aligned to 16 bytes");
        p[n] = at;
        id[n++] = i + 1;
    }
    const cudnnStatus_t s = execute(d, l, p, id, n);
    if (s == CUDNN_STATUS_SUCCESS) return FVK_OK;
    return say(d, FVK_FAILED, "cuDNN: %s", l->f->cudnnGetErrorString(s));
}

#else

void fvi_dnn_text(const fvk_dev *, char *text, size_t bytes)
{
    snprintf(text, bytes, "no cuDNN: the module was built without its headers");
}
void fvi_dnn_close(fvk_dev *) {}
int fvi_conv_create(fvk_dev *d, const fvk_conv *, fvk_library **out)
{
    *out = nullptr;
    return say(d, FVK_UNSUPPORTED, "built without cuDNN");
}
int fvi_attention_create(fvk_dev *d, const fvk_flash *, fvk_library **out)
{
    *out = nullptr;
    return say(d, FVK_UNSUPPORTED, "built without cuDNN");
}
int fvi_library_run(fvk_dev *d, fvk_library *, void *const *)
{
    return say(d, FVK_FAILED, "built without cuDNN");
}
void fvi_library_destroy(fvk_dev *, fvk_library *) {}

#endif
