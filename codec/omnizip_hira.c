/* omnizip_hira.c - HiRA: projections that are trained as W + B A and run as one matrix.
 *
 * There is nothing nonlinear between B and A, so the branch need not be computed per token: form
 * W' = W + B A once a step (4 n^3 multiply-adds), run the plain network, and go back with
 * dA = B^T dW', dB = dW' A^T, dW = dW'. The gradients are those of the branch, the cost a third. */
#include "omnizip.h"

#include <string.h>

#include "tape.h"

/* Elements [to, to + n) of merged's flat arrays are [from, from + n) of full's. */
typedef struct run_of {
    int64_t to, from, n;
} run_of;

struct oz_merge {
    fv_ctx *ctx;
    oz_net *full, *merged;
    run_of *run;
    int runs;
    fvi_sum_product *product, *da, *db; /* NULL without hira */
};

fv_status oz_add_product(fv_ctx *ctx, float *w, const float *b, const float *a, int64_t n,
                         int64_t k)
{
    const fvi_matmul_desc d = {.M = n,
                               .N = n,
                               .K = k,
                               .a_type = FV_F32,
                               .b_type = FV_F32,
                               .c_type = FV_F32,
                               .accumulate = true};
    fvi_matmul *m = NULL;
    fv_status s = fvi_matmul_create(ctx, &m, &d);
    if (s == FV_OK) s = fvi_matmul_run(ctx, m, b, a, NULL, NULL, w);
    fvi_matmul_destroy(ctx, &m);
    return s;
}

fv_status oz_copy_values(fv_ctx *ctx, const oz_net *from, oz_net *to)
{
    FV_TRY(fvi_params_fetch(from->params));
    for (int i = 0; i < fv_params_count(to->params); i++) {
        const char *name = fv_params_name(to->params, i);
        const fv_pid id = fv_params_find(from->params, name);
        const fv_tensor d = fv_params_tensor(to->params, i);
        if (id < 0) return fv_fail(ctx, FV_ERR_MODEL, "omnizip: parameter %s is missing", name);
        const fv_tensor s = fv_params_tensor(from->params, id);
        if (fv_tensor_count(&s) != fv_tensor_count(&d))
            return fv_fail(ctx, FV_ERR_MODEL, "omnizip: parameter %s has another size", name);
        memcpy(d.data, s.data, (size_t)fv_tensor_count(&d) * sizeof(float));
    }
    fv_params_touch(to->params);
    return FV_OK;
}

/* Parameters that follow each other in both are one run. */
static fv_status find_runs(oz_merge *m)
{
    const fv_params *full = m->full->params, *merged = m->merged->params;
    for (int i = 0; i < fv_params_count(merged); i++) {
        const fv_pid id = fv_params_find(full, fv_params_name(merged, i));
        const fv_tensor t = fv_params_tensor(merged, i);
        run_of *last = m->runs ? &m->run[m->runs - 1] : NULL;
        if (id < 0) return fv_fail(m->ctx, FV_ERR_INTERNAL, "omnizip: networks do not match");
        const int64_t to = fvi_param_offset(merged, i), from = fvi_param_offset(full, id);
        const int64_t n = fv_tensor_count(&t);
        if (last && to - last->to == from - last->from && from > last->from)
            last->n = to + n - last->to; /* between them is padding, 0 in both */
        else
            m->run[m->runs++] = (run_of){to, from, n};
    }
    return FV_OK;
}

fv_status oz_merge_create(fv_ctx *ctx, oz_merge **out, oz_net *full, oz_net *merged)
{
    const int64_t n = full->cfg.width, k = OZ_HIRA_FACTOR * n;
    const fvi_product_shape product = {n, n, k, false, false}, da = {k, n, n, true, false},
                            db = {n, k, n, false, true};
    *out = NULL;
    oz_merge *m = fv_calloc(ctx, 1, sizeof *m);
    if (!m) return FV_ERR_OOM;
    m->ctx = ctx;
    m->full = full;
    m->merged = merged;
    m->run = fv_calloc(ctx, (size_t)fv_params_count(merged->params), sizeof *m->run);
    fv_status s = m->run ? find_runs(m) : FV_ERR_OOM;
    if (full->cfg.hira) {
        if (s == FV_OK) s = fvi_sum_product_create(ctx, &m->product, &product);
        if (s == FV_OK) s = fvi_sum_product_create(ctx, &m->da, &da);
        if (s == FV_OK) s = fvi_sum_product_create(ctx, &m->db, &db);
    }
    if (s == FV_OK)
        *out = m;
    else
        oz_merge_destroy(&m);
    return s;
}

void oz_merge_destroy(oz_merge **mm)
{
    if (!mm || !*mm) return;
    oz_merge *m = *mm;
    *mm = NULL;
    fvi_sum_product_destroy(m->ctx, &m->product);
    fvi_sum_product_destroy(m->ctx, &m->da);
    fvi_sum_product_destroy(m->ctx, &m->db);
    fv_free(m->ctx, m->run);
    fv_free(m->ctx, m);
}

static float *values_at(const oz_net *n, fv_pid id)
{
    return fvi_params_values(n->params) + fvi_param_offset(n->params, id);
}

/* One projection: forward W' += B A; back: factors' gradients from dW'. */
static fv_status each_expert(oz_merge *m, const oz_projection *p, fv_pid to, bool back)
{
    const int64_t n = m->full->cfg.width, k = OZ_HIRA_FACTOR * n;
    const fv_tensor shape = fv_params_tensor(m->merged->params, to);
    const float *a = values_at(m->full, p->a), *b = values_at(m->full, p->b);
    float *w = values_at(m->merged, to), *dw = fvi_param_grad_data(m->merged->params, to);
    float *da = fvi_param_grad_data(m->full->params, p->a);
    float *db = fvi_param_grad_data(m->full->params, p->b);
    for (int64_t e = 0; e < shape.dim[0] / n; e++) {
        const int64_t at = e * n * n, side = e * n * k;
        if (!back) {
            FV_TRY(fvi_sum_product_run(m->ctx, m->product, b + side, a + side, w + at));
            continue;
        }
        FV_TRY(fvi_sum_product_run(m->ctx, m->da, b + side, dw + at, da + side));
        FV_TRY(fvi_sum_product_run(m->ctx, m->db, dw + at, a + side, db + side));
    }
    return FV_OK;
}

static fv_status each_projection(oz_merge *m, bool back)
{
    for (int l = 0; l < m->full->cfg.layers && m->full->cfg.hira; l++) {
        const oz_block *f = &m->full->block[l], *t = &m->merged->block[l];
        FV_TRY(each_expert(m, &f->r, t->r.w, back));
        FV_TRY(each_expert(m, &f->k, t->k.w, back));
        FV_TRY(each_expert(m, &f->v, t->v.w, back));
    }
    return FV_OK;
}

fv_status oz_merge_values(oz_merge *m)
{
    FV_TRY(fvi_params_sync(m->ctx, m->full->params)); /* what the host has changed */
    const float *from = fvi_params_values(m->full->params);
    float *to = fvi_params_values(m->merged->params);
    for (int i = 0; i < m->runs; i++)
        FV_TRY(fv_dev_copy(m->ctx, to + m->run[i].to, from + m->run[i].from,
                           (size_t)m->run[i].n * sizeof *to, FV_COPY_ON_DEVICE));
    FV_TRY(each_projection(m, false));
    fvi_params_changed(m->merged->params, false);
    return FV_OK;
}

fv_status oz_merge_gradients(oz_merge *m)
{
    FV_TRY(each_projection(m, true));
    const float *from = fvi_params_grad_flat(m->merged->params);
    float *to = fvi_params_grad_flat(m->full->params);
    for (int i = 0; i < m->runs; i++)
        FV_TRY(fvi_sum(m->ctx, from + m->run[i].to, m->run[i].n, to + m->run[i].from));
    fv_params_zero_grad(m->merged->params);
    return FV_OK;
}
