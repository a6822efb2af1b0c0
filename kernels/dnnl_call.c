/* dnnl_call.c - memory descriptors, scratchpads and argument lists of oneDNN (see dnnl_call.h). */
#include "dnnl_call.h"

#include <string.h>

dnnl_data_type_t fvi_dnnl_type(fv_dtype t)
{
    switch (t) {
    case FV_F32: return dnnl_f32;
    case FV_BF16: return dnnl_bf16;
    case FV_I8: return dnnl_s8;
    case FV_I32: return dnnl_s32;
    default: return dnnl_data_type_undef;
    }
}

/* ---- Memory descriptors ---------------------------------------------------------------------- */

#if DNNL_VERSION_MAJOR >= 3

dnnl_status_t fvi_md_strided(fvi_md *m, int nd, const dnnl_dims_t dims, dnnl_data_type_t t,
                             const dnnl_dims_t strides)
{
    return dnnl_memory_desc_create_with_strides(m, nd, dims, t, strides);
}

dnnl_status_t fvi_md_tagged(fvi_md *m, int nd, const dnnl_dims_t dims, dnnl_data_type_t t,
                            dnnl_format_tag_t tag)
{
    return dnnl_memory_desc_create_with_tag(m, nd, dims, t, tag);
}

dnnl_status_t fvi_md_query(fvi_md *m, const_dnnl_primitive_desc_t pd, dnnl_query_t what, int index)
{
    const_dnnl_memory_desc_t q = dnnl_primitive_desc_query_md(pd, what, index);
    if (!q) return dnnl_invalid_arguments;
    return dnnl_memory_desc_clone(m, q);
}

void fvi_md_free(fvi_md *m)
{
    if (*m) dnnl_memory_desc_destroy(*m);
    *m = NULL;
}

size_t fvi_md_bytes(const fvi_md *m) { return dnnl_memory_desc_get_size(*m); }
bool fvi_md_same(const fvi_md *a, const fvi_md *b) { return dnnl_memory_desc_equal(*a, *b) != 0; }

uint64_t fvi_md_layout(const fvi_md *m, int nd)
{
    (void)nd;
    uint8_t blob[4096];
    size_t bytes = 0;
    if (dnnl_memory_desc_get_blob(NULL, &bytes, *m) != dnnl_success || bytes > sizeof blob)
        return fvi_md_bytes(m);
    if (dnnl_memory_desc_get_blob(blob, &bytes, *m) != dnnl_success) return fvi_md_bytes(m);
    return fv_crc32c(0, blob, bytes);
}

dnnl_status_t fvi_dnnl_memory(dnnl_memory_t *mem, const fvi_md *md, dnnl_engine_t e)
{
    return dnnl_memory_create(mem, *md, e, DNNL_MEMORY_NONE);
}

#else

dnnl_status_t fvi_md_strided(fvi_md *m, int nd, const dnnl_dims_t dims, dnnl_data_type_t t,
                             const dnnl_dims_t strides)
{
    return dnnl_memory_desc_init_by_strides(m, nd, dims, t, strides);
}

dnnl_status_t fvi_md_tagged(fvi_md *m, int nd, const dnnl_dims_t dims, dnnl_data_type_t t,
                            dnnl_format_tag_t tag)
{
    return dnnl_memory_desc_init_by_tag(m, nd, dims, t, tag);
}

dnnl_status_t fvi_md_query(fvi_md *m, const_dnnl_primitive_desc_t pd, dnnl_query_t what, int index)
{
    const dnnl_memory_desc_t *q = dnnl_primitive_desc_query_md(pd, what, index);
    if (!q) return dnnl_invalid_arguments;
    *m = *q;
    return dnnl_success;
}

void fvi_md_free(fvi_md *m) { (void)m; }
size_t fvi_md_bytes(const fvi_md *m) { return dnnl_memory_desc_get_size(m); }
bool fvi_md_same(const fvi_md *a, const fvi_md *b) { return dnnl_memory_desc_equal(a, b) != 0; }

uint64_t fvi_md_layout(const fvi_md *m, int nd)
{
    const dnnl_blocking_desc_t *k = &m->format_desc.blocking;
    uint32_t c = fv_crc32c(0, k->strides, (size_t)nd * sizeof k->strides[0]);
    c = fv_crc32c(c, &k->inner_nblks, sizeof k->inner_nblks);
    c = fv_crc32c(c, k->inner_blks, (size_t)k->inner_nblks * sizeof k->inner_blks[0]);
    c = fv_crc32c(c, k->inner_idxs, (size_t)k->inner_nblks * sizeof k->inner_idxs[0]);
    /* What lies beside the numbers (compensation of int8) is part of the form as well. */
    return fv_crc32c(c, &m->extra.flags, sizeof m->extra.flags);
}

dnnl_status_t fvi_dnnl_memory(dnnl_memory_t *mem, const fvi_md *md, dnnl_engine_t e)
{
    return dnnl_memory_create(mem, md, e, DNNL_MEMORY_NONE);
}

#endif

/* ---- Attributes ------------------------------------------------------------------------------ */

dnnl_status_t fvi_dnnl_append_act(dnnl_post_ops_t ops, fv_act act)
{
    dnnl_alg_kind_t kind;
    float alpha = 0.0f;
    switch (act) {
    case FV_ACT_NONE: return dnnl_success;
    case FV_ACT_RELU: kind = dnnl_eltwise_relu; break;
    case FV_ACT_LRELU: kind = dnnl_eltwise_relu; alpha = 0.2f; break;
    case FV_ACT_SILU: kind = dnnl_eltwise_swish; alpha = 1.0f; break;
    case FV_ACT_GELU_TANH: kind = dnnl_eltwise_gelu_tanh; break;
    case FV_ACT_GELU_ERF: kind = dnnl_eltwise_gelu_erf; break;
    case FV_ACT_SIGMOID: kind = dnnl_eltwise_logistic; break;
    case FV_ACT_TANH: kind = dnnl_eltwise_tanh; break;
    default: return dnnl_unimplemented;
    }
#if DNNL_VERSION_MAJOR >= 3
    return dnnl_post_ops_append_eltwise(ops, kind, alpha, 0.0f);
#else
    return dnnl_post_ops_append_eltwise(ops, 1.0f, kind, alpha, 0.0f);
#endif
}

dnnl_status_t fvi_dnnl_append_sum(dnnl_post_ops_t ops)
{
#if DNNL_VERSION_MAJOR >= 3
    return dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef);
#else
    return dnnl_post_ops_append_sum(ops, 1.0f);
#endif
}

dnnl_status_t fvi_dnnl_attr(dnnl_primitive_attr_t *attr)
{
    *attr = NULL;
    const dnnl_status_t s = dnnl_primitive_attr_create(attr);
    if (s != dnnl_success) return s;
    return dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
}

/* ---- Calls ----------------------------------------------------------------------------------- */

fv_status fvi_dnnl_reserve(fv_ctx *ctx, const fvi_dnnl_call *c)
{
    if (c->scratch_bytes <= ctx->dnnl_scratch_bytes) return FV_OK;
    void *p = fv_alloc(ctx, c->scratch_bytes);
    if (!p) return FV_ERR_OOM;
    fv_free(ctx, ctx->dnnl_scratch);
    ctx->dnnl_scratch = p;
    ctx->dnnl_scratch_bytes = c->scratch_bytes;
    return FV_OK;
}

static dnnl_status_t argument(fv_ctx *ctx, dnnl_exec_arg_t *a, int id, const fvi_md *md)
{
    a->arg = id;
    return fvi_dnnl_memory(&a->memory, md, ctx->dnnl_engine);
}

static dnnl_status_t queried_argument(fv_ctx *ctx, dnnl_exec_arg_t *a, int id,
                                      const_dnnl_primitive_desc_t pd)
{
    fvi_md md;
    memset(&md, 0, sizeof md);
    dnnl_status_t s = fvi_md_query(&md, pd, dnnl_query_exec_arg_md, id);
    if (s == dnnl_success) s = argument(ctx, a, id, &md);
    fvi_md_free(&md);
    return s;
}

static dnnl_status_t scratch_argument(fv_ctx *ctx, fvi_dnnl_call *c, const_dnnl_primitive_desc_t pd)
{
    fvi_md md;
    memset(&md, 0, sizeof md);
    dnnl_status_t s = fvi_md_query(&md, pd, dnnl_query_scratchpad_md, 0);
    if (s != dnnl_success) return s;
    c->scratch_bytes = fvi_md_bytes(&md);
    if (c->scratch_bytes > 0) s = argument(ctx, &c->arg[c->args], DNNL_ARG_SCRATCHPAD, &md);
    fvi_md_free(&md);
    return s;
}

dnnl_status_t fvi_dnnl_call_create(fv_ctx *ctx, fvi_dnnl_call *c, const_dnnl_primitive_desc_t pd,
                                   const int *id, const fvi_md *const *md, int n)
{
    memset(c, 0, sizeof *c);
    if (n > FVI_DNNL_ARGS) return dnnl_invalid_arguments;
    c->args = n;
    dnnl_status_t s = dnnl_primitive_create(&c->prim, pd);
    for (int i = 0; s == dnnl_success && i < n; i++)
        s = md ? argument(ctx, &c->arg[i], id[i], md[i])
               : queried_argument(ctx, &c->arg[i], id[i], pd);
    if (s == dnnl_success) s = scratch_argument(ctx, c, pd);
    if (s != dnnl_success) fvi_dnnl_call_destroy(c);
    return s;
}

void fvi_dnnl_call_destroy(fvi_dnnl_call *c)
{
    if (c->prim) dnnl_primitive_destroy(c->prim);
    for (int i = 0; i < FVI_DNNL_ARGS + 1; i++)
        if (c->arg[i].memory) dnnl_memory_destroy(c->arg[i].memory);
    memset(c, 0, sizeof *c);
}

fv_status fvi_dnnl_call_run(fv_ctx *ctx, fvi_dnnl_call *c, const char *what,
                            const void *const *data)
{
    dnnl_status_t s = dnnl_success;
    for (int i = 0; s == dnnl_success && i < c->args; i++)
        s = dnnl_memory_set_data_handle(c->arg[i].memory, (void *)(uintptr_t)data[i]);
    if (s == dnnl_success && c->scratch_bytes) {
        FV_TRY(fvi_dnnl_reserve(ctx, c));
        s = dnnl_memory_set_data_handle(c->arg[c->args].memory, ctx->dnnl_scratch);
    }
    const int old = fvi_threads_enter(ctx);
    if (s == dnnl_success)
        s = dnnl_primitive_execute(c->prim, ctx->dnnl_stream, c->args + (c->scratch_bytes > 0),
                                   c->arg);
    if (s == dnnl_success) s = dnnl_stream_wait(ctx->dnnl_stream);
    fvi_threads_leave(old);
    if (s != dnnl_success)
        return fv_fail(ctx, FV_ERR_DEVICE, "%s: oneDNN failed (status %d)", what, (int)s);
    return FV_OK;
}

dnnl_status_t fvi_dnnl_reorder_create(fv_ctx *ctx, fvi_dnnl_call *c, const fvi_md *from,
                                      const fvi_md *to, bool add)
{
    static const int id[] = { DNNL_ARG_FROM, DNNL_ARG_TO };
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_post_ops_t ops = NULL;
    dnnl_engine_t e = ctx->dnnl_engine;
    memset(c, 0, sizeof *c);
    dnnl_status_t s = fvi_dnnl_attr(&attr);
    if (s == dnnl_success && add) {
        s = dnnl_post_ops_create(&ops);
        if (s == dnnl_success) s = fvi_dnnl_append_sum(ops);
        if (s == dnnl_success) s = dnnl_primitive_attr_set_post_ops(attr, ops);
    }
#if DNNL_VERSION_MAJOR >= 3
    if (s == dnnl_success) s = dnnl_reorder_primitive_desc_create(&pd, *from, e, *to, e, attr);
#else
    if (s == dnnl_success) s = dnnl_reorder_primitive_desc_create(&pd, from, e, to, e, attr);
#endif
    if (s == dnnl_success) s = fvi_dnnl_call_create(ctx, c, pd, id, NULL, 2);
    if (pd) dnnl_primitive_desc_destroy(pd);
    if (ops) dnnl_post_ops_destroy(ops);
    if (attr) dnnl_primitive_attr_destroy(attr);
    return s;
}
