/* internal.h - shared by the .c files of kernels/ only. */
#ifndef FV_KERNELS_INTERNAL_H
#define FV_KERNELS_INTERNAL_H

#include <stdatomic.h>

#include "engine.h"

#define FVI_ERROR_BYTES 512

struct fv_ctx {
    fv_allocator alloc;
    fv_progress_fn progress;
    void *user;
    fv_device device;
    int threads;
    uint32_t cpu, cuda_disable;
    int cuda_tries, cuda_device;
    int cuda_tf32;
    uint64_t memory_cap;
    _Atomic uint64_t mem_current, mem_peak, mem_calls;
    atomic_int cancel;
    char error[FVI_ERROR_BYTES];
    void *dnnl_engine, *dnnl_stream; /* made on first use by matmul_dnnl.c */
    void *dnnl_scratch;
    size_t dnnl_scratch_bytes; /* oneDNN's scratchpad, as large as any primitive needs */
    const struct fvi_backend *backend;
    struct fvi_cpu_ops *cpu_ops;     /* SIMD tables, filled once at creation (backend_cpu.c) */
    fv_reduce_fn reduce;             /* NULL: one rank */
    void *reduce_user;
    fv_comm *comm;                   /* NULL: one rank */
    atomic_int hold;                 /* a stop waits: other ranks count on this step */
};

/* What fv_opt_create and fv_train_run refuse, before there is something to train: 0 becomes what it
 * stands for in *o; of *o the learning rates. */
fv_status fvi_opt_check(fv_ctx *ctx, fv_opt_options *o);
fv_status fvi_train_rates(fv_ctx *ctx, const fv_train_options *o);
/* Makes out_dir. FV_ERR_EXISTS where it has checkpoints of a run that is not resumed. Of ranks the first
 * one alone looks; the others hear of it when the training begins. */
fv_status fvi_train_place(fv_ctx *ctx, const fv_train_options *o);

/* x[0] + x[stride] + .. of `count` numbers, pairwise: the order depends on count alone. */
double fvi_tree_sum(const double *x, int count, int stride);

/* Largest thread count we accept. */
#define FVI_MAX_THREADS 256

void fvi_dnnl_shutdown(fv_ctx *ctx);
fv_status fvi_cpu_ops_create(fv_ctx *ctx);
void fvi_cpu_ops_destroy(fv_ctx *ctx);
fv_status fvi_backend_open(fv_ctx *ctx, fv_device device);
void fvi_backend_close(fv_ctx *ctx);

/* Fixed partition for parallel loops: work of `n` items is always cut into the same lanes, whatever
 * the thread count, so that sums have one order. lane in [0, FVI_LANES). */
#define FVI_LANES 16
FV_INLINE void fvi_lane(int64_t n, int lane, int64_t *begin, int64_t *end)
{
    *begin = n * lane / FVI_LANES;
    *end = n * (lane + 1) / FVI_LANES;
}

#endif
