/* ranks.cu - sums over devices of several processes: NCCL, which is looked for when it is wanted first.
 *
 * Its header is not needed: the five functions have had the same form since NCCL 2.0, and where the
 * header is there the compiler compares. Sums go through the device's stream, in place. */
#include "cuda/module.h"

#include <dlfcn.h>

#if __has_include(<nccl.h>)
#include <nccl.h>
static_assert(sizeof(ncclUniqueId) == FVK_RANKS_ID && (int)ncclSuccess == 0 &&
                  (int)ncclFloat32 == 7 && (int)ncclSum == 0,
              "NCCL's numbers");
#endif

namespace {

enum { NCCL_FLOAT32 = 7, NCCL_SUM = 0 };
struct nccl_id { char bytes[FVK_RANKS_ID]; }; /* passed by value */

struct nccl_api {
    int (*unique_id)(nccl_id *id) = nullptr;
    int (*open)(void **comm, int size, nccl_id id, int rank) = nullptr;
    int (*sum)(const void *from, void *to, size_t n, int type, int op, void *comm,
               cudaStream_t stream) = nullptr;
    int (*close)(void *comm) = nullptr;
    const char *(*text)(int code) = nullptr;
    bool is_there = false;

    /* The library stays open: it has threads of its own. */
    nccl_api()
    {
        void *m = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
        if (!m) return;
        *(void **)&unique_id = dlsym(m, "ncclGetUniqueId");
        *(void **)&open = dlsym(m, "ncclCommInitRank");
        *(void **)&sum = dlsym(m, "ncclAllReduce");
        *(void **)&close = dlsym(m, "ncclCommDestroy");
        *(void **)&text = dlsym(m, "ncclGetErrorString");
        is_there = unique_id && open && sum && close && text;
    }
};

const nccl_api &nccl()
{
    static const nccl_api api; /* once, for all threads */
    return api;
}

int look(fvk_dev *d)
{
    return nccl().is_there ? FVK_OK : say(d, FVK_UNSUPPORTED, "NCCL: there is no libnccl.so.2");
}

int tell(fvk_dev *d, int status, int code, const char *what)
{
    return code == 0 ? FVK_OK : say(d, status, "NCCL: %s: %s", what, nccl().text(code));
}

} /* namespace */

struct fvk_ranks { void *comm = nullptr; };

int fvi_ranks_id(fvk_dev *d, uint8_t id[FVK_RANKS_ID])
{
    nccl_id own;
    TRY(enter(d));
    TRY(look(d));
    if (!id) return FVK_OK;
    TRY(tell(d, FVK_UNSUPPORTED, nccl().unique_id(&own), "a number for the ranks"));
    memcpy(id, own.bytes, sizeof own.bytes);
    return FVK_OK;
}

int fvi_ranks_open(fvk_dev *d, const uint8_t id[FVK_RANKS_ID], int rank, int size, fvk_ranks **out)
{
    nccl_id own;
    *out = nullptr;
    TRY(enter(d));
    TRY(look(d));
    fvk_ranks *r = new (std::nothrow) fvk_ranks;
    if (!r) return say(d, FVK_NO_MEMORY, "out of memory");
    memcpy(own.bytes, id, sizeof own.bytes);
    const int code =
        tell(d, FVK_UNSUPPORTED, nccl().open(&r->comm, size, own, rank), "opening");
    if (code == FVK_OK) *out = r;
    else delete r;
    (void)cudaGetLastError(); /* what NCCL tried is not the next call's */
    return code;
}

int fvi_ranks_sum(fvk_dev *d, fvk_ranks *r, float *x, int64_t n)
{
    TRY(enter(d));
    return tell(d, FVK_FAILED,
                nccl().sum(x, x, (size_t)n, NCCL_FLOAT32, NCCL_SUM, r->comm, d->stream), "a sum");
}

void fvi_ranks_close(fvk_dev *d, fvk_ranks *r)
{
    if (!r) return;
    if (enter(d) == FVK_OK) {
        (void)cudaStreamSynchronize(d->stream);
        (void)nccl().close(r->comm);
        (void)cudaGetLastError();
    }
    delete r;
}
