/* omnizip_hira.c - HiRA: projections that are trained as W + B A and run as one matrix.
 *
 * There is nothing nonlinear between B and A, so the branch need not be computed per token: form
 * W' = W + B A once a step (4 n^3 multiply-adds), run the plain network, and go back with
 * dA = B^T dW', dB = dW' A^T, dW = dW'. The gradients are those of the branch, the cost a third. */
#include "omnizip.h"

#include <string.h>

#include "tape.h"

struct oz_merge {
    fv_ctx *ctx;
    oz_net *full, *merged;
    fv_pid *source;                /* [parameters of merged] in full */
    fvi_matmul *product, *da, *db; /* NULL without hira */
};

static fv_status create(fv_ctx *ctx, fvi_matmul **out, int64_t M, int64_t N, int64_t K,
                        bool a_trans, bool b_trans)
{
    const fvi_matmul_desc d = {.M = M,
                               .N = N,
                               .K = K,
                               .a_type = FV_F32,
                               .b_type = FV_F32,
                               .c_type = FV_F32,
                               .a_trans = a_trans,
                               .b_trans = b_trans,
                               .accumulate = true};
    return fvi_matmul_create(ctx, out, &d);
}

fv_status oz_add_product(fv_ctx *ctx, float *w, const float *b, const float *a, int64_t n,
                         int64_t k)
{
    fvi_matmul *m = NULL;
    fv_status s = create(ctx, &m, n, n, k, false, false);
    if (s == FV_OK) s = fvi_matmul_run(ctx, m, b, a, NULL, NULL, w);
    fvi_matmul_destroy(ctx, &m);
    return s;
}

fv_status oz_copy_values(fv_ctx *ctx, const oz_net *from, oz_net *to)
{
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

fv_status oz_merge_create(fv_ctx *ctx, oz_merge **out, oz_net *full, oz_net *merged)
{
    const int64_t n = full->cfg.width, k = OZ_HIRA_FACTOR * n;
    const int count = fv_params_count(merged->params);
    *out = NULL;
    oz_merge *m = fv_calloc(ctx, 1, sizeof *m);
    if (!m) return FV_ERR_OOM;
    m->ctx = ctx;
    m->full = full;
    m->merged = merged;
    m->source = fv_calloc(ctx, (size_t)count, sizeof *m->source);
    fv_status s = m->source ? FV_OK : FV_ERR_OOM;
    for (int i = 0; i < count && s == FV_OK; i++) {
        m->source[i] = fv_params_find(full->params, fv_params_name(merged->params, i));
        if (m->source[i] < 0) s = fv_fail(ctx, FV_ERR_INTERNAL, "omnizip: networks do not match");
    }
    if (full->cfg.hira) {
        if (s == FV_OK) s = create(ctx, &m->product, n, n, k, false, false);
        if (s == FV_OK) s = create(ctx, &m->da, k, n, n, true, false);
        if (s == FV_OK) s = create(ctx, &m->db, n, k, n, false, true);
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
    fvi_matmul_destroy(m->ctx, &m->product);
    fvi_matmul_destroy(m->ctx, &m->da);
    fvi_matmul_destroy(m->ctx, &m->db);
    fv_free(m->ctx, m->source);
    fv_free(m->ctx, m);
}

/* One projection: forward W' += B A; back: factors' gradients from dW'. */
static fv_status each_expert(oz_merge *m, const oz_projection *p, fv_pid to, bool back)
{
    const fv_params *full = m->full->params;
    const int64_t n = m->full->cfg.width, k = OZ_HIRA_FACTOR * n;
    const fv_tensor w = fv_params_tensor(m->merged->params, to);
    const float *a = fv_params_tensor(full, p->a).data, *b = fv_params_tensor(full, p->b).data;
    float *dw = fv_params_grad(m->merged->params, to).data;
    float *da = fv_params_grad(full, p->a).data, *db = fv_params_grad(full, p->b).data;
    for (int64_t e = 0; e < w.dim[0] / n; e++) {
        const int64_t at = e * n * n, side = e * n * k;
        if (!back) {
            FV_TRY(fvi_matmul_run(m->ctx, m->product, b + side, a + side, NULL, NULL,
                                  (float *)w.data + at));
            continue;
        }
        FV_TRY(fvi_matmul_run(m->ctx, m->da, b + side, dw + at, NULL, NULL, da + side));
        FV_TRY(fvi_matmul_run(m->ctx, m->db, dw + at, a + side, NULL, NULL, db + side));
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
    FV_TRY(oz_copy_values(m->ctx, m->full, m->merged));
    return each_projection(m, false);
}

fv_status oz_merge_gradients(oz_merge *m)
{
    FV_TRY(each_projection(m, true));
    for (int i = 0; i < fv_params_count(m->merged->params); i++) {
        const fv_tensor g = fv_params_grad(m->merged->params, i);
        float *to = fv_params_grad(m->full->params, m->source[i]).data;
        const float *from = g.data;
        for (int64_t k = 0; k < fv_tensor_count(&g); k++) to[k] += from[k];
    }
    fv_params_zero_grad(m->merged->params);
    return FV_OK;
}
