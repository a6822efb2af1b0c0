/* dnnl_call.h - private: what matmul_dnnl.c and conv_dnnl.c share of oneDNN.
 *
 * Versions 2 and 3 of oneDNN differ in two ways that matter here: memory descriptors are structs in
 * 2 and handles in 3, and 3 creates primitive descriptors without operation descriptors. The first
 * difference ends in this pair of files; the second is handled where the primitives are made.
 *
 * Scratchpads are in user mode: oneDNN's own are per thread in the usual builds, so a primitive
 * made on one thread could not run on another, and they would escape our counters and caps. One
 * block per context, as large as the largest primitive needs, is enough: a context runs one call at
 * a time. */
#ifndef FV_DNNL_CALL_H
#define FV_DNNL_CALL_H

#include "tape.h"

#include <oneapi/dnnl/dnnl.h>

typedef dnnl_memory_desc_t fvi_md; /* version 2: struct; version 3: handle. Zero = none */

dnnl_data_type_t fvi_dnnl_type(fv_dtype t);
dnnl_status_t fvi_md_strided(fvi_md *m, int nd, const dnnl_dims_t dims, dnnl_data_type_t t,
                             const dnnl_dims_t strides);
dnnl_status_t fvi_md_tagged(fvi_md *m, int nd, const dnnl_dims_t dims, dnnl_data_type_t t,
                            dnnl_format_tag_t tag);
/* A copy of what a primitive chose; release with fvi_md_free. */
dnnl_status_t fvi_md_query(fvi_md *m, const_dnnl_primitive_desc_t pd, dnnl_query_t what, int index);
void fvi_md_free(fvi_md *m);
size_t fvi_md_bytes(const fvi_md *m);
bool fvi_md_same(const fvi_md *a, const fvi_md *b);
/* Fingerprint of a layout: packed weights may be shared by primitives that chose the same one. */
uint64_t fvi_md_layout(const fvi_md *m, int nd);
dnnl_status_t fvi_dnnl_memory(dnnl_memory_t *mem, const fvi_md *md, dnnl_engine_t e);
dnnl_status_t fvi_dnnl_append_act(dnnl_post_ops_t ops, fv_act act);
dnnl_status_t fvi_dnnl_append_sum(dnnl_post_ops_t ops);

/* A primitive with its arguments: `id` are DNNL_ARG_* numbers, run takes pointers in that order. */
#define FVI_DNNL_ARGS 6
typedef struct fvi_dnnl_call {
    dnnl_primitive_t prim;
    dnnl_exec_arg_t arg[FVI_DNNL_ARGS + 1]; /* the scratchpad is last, when there is one */
    int args;                               /* without the scratchpad */
    size_t scratch_bytes;
} fvi_dnnl_call;

/* An attribute with user scratchpad; the caller destroys it. */
dnnl_status_t fvi_dnnl_attr(dnnl_primitive_attr_t *attr);
/* pd stays the caller's. Arguments take the layouts in md, or those that pd names (md NULL). */
dnnl_status_t fvi_dnnl_call_create(fv_ctx *ctx, fvi_dnnl_call *c, const_dnnl_primitive_desc_t pd,
                                   const int *id, const fvi_md *const *md, int n);
void fvi_dnnl_call_destroy(fvi_dnnl_call *c);
fv_status fvi_dnnl_call_run(fv_ctx *ctx, fvi_dnnl_call *c, const char *what,
                            const void *const *data);
/* Reorder (conversion of layout and type); add: to += from. */
dnnl_status_t fvi_dnnl_reorder_create(fv_ctx *ctx, fvi_dnnl_call *c, const fvi_md *from,
                                      const fvi_md *to, bool add);
/* Grow the context's scratchpad to what c needs, so that running does not. */
fv_status fvi_dnnl_reserve(fv_ctx *ctx, const fvi_dnnl_call *c);

#endif
