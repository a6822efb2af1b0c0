/* op_tree.c - loss of labels that are leaves of a binary tree.
 *
 * A table says how a label is coded: its row holds one entry 2 m + bit for each decision, first to
 * last, where node m decides with the logit w_m . h + bias_m, and 0 behind the last. The loss of a
 * label is the sum of its binary cross-entropies, L = mean over labels >= 0. Instead of a product
 * with all rows of w only those of each label's path are gathered: at 2^12 rows and 128 columns
 * this takes the head from 56 % of a network's work to 0.4 %. A table instead of a rule: trees that
 * follow how frequent labels are take an eighth less decisions than the balanced one.
 *
 * The derivative to a logit, sigmoid(z) - bit, is kept by forward. Rows of w repeat from label to
 * label: lanes own columns of the gradient and add the rows in the order of labels, so that sums do
 * not depend on the number of threads. */
#include "cpu_ops.h"

#include <math.h>
#include <string.h>

#define MAX_BITS FVI_TREE_DEPTH

/* ---- Scalar rows: the definition ------------------------------------------------------------- */

static void dots_c(float *z, fvi_in h, const float *w, const int32_t *node, int bits, int64_t D)
{
    for (int k = 0; k < bits; k++) {
        const float *row = w + node[k] * D;
        double sum = 0;
        for (int64_t i = 0; i < D; i++) sum += (double)row[i] * fvi_get(h, i);
        z[k] = (float)sum;
    }
}

static void mix_c(fvi_out dh, const float *w, const float *g, const int32_t *node, int bits,
                  int64_t D)
{
    for (int64_t i = 0; i < D; i++) {
        float sum = 0;
        for (int k = 0; k < bits; k++) sum += g[k] * w[node[k] * D + i];
        fvi_put(dh, i, sum);
    }
}

static void spread_c(float *dw, fvi_in h, const float *g, const int32_t *node, int bits,
                     const fvi_tree_columns *c)
{
    for (int k = 0; k < bits; k++)
        for (int64_t i = c->first; i < c->end; i++) dw[node[k] * c->D + i] += g[k] * fvi_get(h, i);
}

void fvi_tree_init(fvi_tree_ops *o, uint32_t cpu)
{
    const fvi_tree_ops c = {dots_c, mix_c, spread_c};
    *o = c;
#if defined(__x86_64__)
    if (cpu & FV_CPU_AVX2) fvi_tree_init_avx2(o);
    if (cpu & FV_CPU_AVX512) fvi_tree_init_avx512(o);
#endif
    (void)cpu;
}

/* ---- The op: h [n, D], w [V, D], bias [V], labels [n], paths [L, K] -> loss [1], err [n, K] --- */

static const fvi_tree_ops *rows(const fvi_exec *e) { return &e->ctx->cpu_ops->tree; }

static int width_of(const fvi_exec *e) { return (int)e->in[4].dim[1]; }

static const int32_t *row_of(const fvi_exec *e, int32_t label)
{
    return (const int32_t *)e->in[4].data + (int64_t)label * e->in[4].dim[1];
}

/* The nodes of a label's decisions; returns their number. */
static int path_of(const fvi_exec *e, int32_t label, int32_t *node)
{
    const int32_t *row = row_of(e, label);
    int k = 0;
    for (; k < width_of(e) && row[k] != 0; k++) node[k] = row[k] >> 1;
    return k;
}

/* Count of labels that take part; FV_ERR_ARG for one without a row in the table, or with a row that
 * leads out of w. */
static fv_status count_labels(const fvi_exec *e, int64_t *used)
{
    const int32_t *label = e->in[3].data;
    const int64_t n = e->in[3].dim[0], V = e->in[1].dim[0], L = e->in[4].dim[0];
    *used = 0;
    for (int64_t i = 0; i < n; i++) {
        if (label[i] < -1 || label[i] >= L)
            return fv_fail(e->ctx, FV_ERR_ARG,
                           "loss_tree: label %d at row %lld, there are %lld leaves", (int)label[i],
                           (long long)i, (long long)L);
        if (label[i] < 0) continue;
        const int32_t *row = row_of(e, label[i]);
        for (int k = 0; k < width_of(e); k++)
            if (row[k] < 0 || row[k] / 2 >= V)
                return fv_fail(e->ctx, FV_ERR_ARG,
                               "loss_tree: the path of label %d has node %d, there are %lld",
                               (int)label[i], (int)(row[k] / 2), (long long)V);
        ++*used;
    }
    return FV_OK;
}

static size_t tree_scratch(const fvi_exec *e, bool backward)
{
    return backward ? 0 : (size_t)e->in[3].dim[0] * sizeof(float);
}

/* Loss of row i; its errors to err if that is not NULL. */
static float tree_row(const fvi_exec *e, int64_t i, int32_t label, float *err)
{
    const int64_t D = e->in[1].dim[1];
    const float *bias = e->in[2].data;
    const int32_t *row = row_of(e, label);
    int32_t node[MAX_BITS];
    float z[MAX_BITS];
    double loss = 0;
    const int bits = path_of(e, label, node);
    rows(e)->dots(z, fvi_in_at(&e->in[0], i * D), e->in[1].data, node, bits, D);
    for (int k = 0; k < bits; k++) {
        const int bit = row[k] & 1;
        const float x = z[k] + bias[node[k]], small = expf(-fabsf(x));
        loss += (bit ? x < 0 : x > 0) ? fabsf(x) + log1pf(small) : log1pf(small);
        const float p = x >= 0 ? 1.0f / (1.0f + small) : small / (1.0f + small);
        if (err) err[k] = p - (float)bit;
    }
    return (float)loss;
}

static fv_status tree_forward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int32_t *label = e->in[3].data;
    const int64_t n = e->in[3].dim[0];
    const int K = width_of(e);
    float *loss = e->scratch, *err = e->out[1].data;
    int64_t used;
    FV_TRY(count_labels(e, &used));
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t i, end;
        for (fvi_lane(n, lane, &i, &end); i < end; i++)
            loss[i] = label[i] < 0 ? 0.0f : tree_row(e, i, label[i], err ? err + i * K : NULL);
    }
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += loss[i];
    *(float *)e->out[0].data = used ? (float)(sum / (double)used) : 0.0f;
    return FV_OK;
}

static void scaled_errors(const fvi_exec *e, int64_t i, int bits, float scale, float *g)
{
    const float *err = (const float *)e->out[1].data + i * width_of(e);
    for (int k = 0; k < bits; k++) g[k] = scale * err[k];
}

static void hidden_grad(const fvi_exec *e, float scale)
{
    fv_ctx *ctx = e->ctx;
    const int32_t *label = e->in[3].data;
    const int64_t n = e->in[3].dim[0], D = e->in[1].dim[1];
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t i, end;
        for (fvi_lane(n, lane, &i, &end); i < end; i++) {
            int32_t node[MAX_BITS];
            float g[MAX_BITS];
            const int bits = label[i] < 0 ? 0 : path_of(e, label[i], node); /* 0: zeros */
            scaled_errors(e, i, bits, scale, g);
            rows(e)->mix(fvi_out_at(&e->gin[0], i * D, e->gin_add[0]), e->in[1].data, g, node, bits,
                         D);
        }
    }
}

static void weight_grad(const fvi_exec *e, float scale)
{
    fv_ctx *ctx = e->ctx;
    const int32_t *label = e->in[3].data;
    const int64_t n = e->in[3].dim[0], V = e->in[1].dim[0], D = e->in[1].dim[1];
    if (!e->gin_add[1]) memset(e->gin[1].data, 0, (size_t)(V * D) * sizeof(float));
    FVI_PARALLEL_LANES(ctx, lane)
    {
        fvi_tree_columns c = {0, 0, D};
        fvi_lane((D + 15) / 16, lane, &c.first, &c.end);
        c.first *= 16;
        c.end = c.end * 16 < D ? c.end * 16 : D;
        for (int64_t i = 0; i < n && c.first < c.end; i++) {
            int32_t node[MAX_BITS];
            float g[MAX_BITS];
            if (label[i] < 0) continue;
            const int bits = path_of(e, label[i], node);
            scaled_errors(e, i, bits, scale, g);
            rows(e)->spread(e->gin[1].data, fvi_in_at(&e->in[0], i * D), g, node, bits, &c);
        }
    }
}

static void bias_grad(const fvi_exec *e, float scale)
{
    const int32_t *label = e->in[3].data;
    const int64_t n = e->in[3].dim[0], V = e->in[1].dim[0];
    float *db = e->gin[2].data;
    if (!e->gin_add[2]) memset(db, 0, (size_t)V * sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        int32_t node[MAX_BITS];
        float g[MAX_BITS];
        if (label[i] < 0) continue;
        const int bits = path_of(e, label[i], node);
        scaled_errors(e, i, bits, scale, g);
        for (int k = 0; k < bits; k++) db[node[k]] += g[k];
    }
}

static fv_status tree_backward(fvi_exec *e)
{
    int64_t used;
    FV_TRY(count_labels(e, &used)); /* the caller may have changed them since forward */
    const float scale = used ? *(const float *)e->gout[0].data / (float)used : 0.0f;
    if (e->gin[0].data) hidden_grad(e, scale);
    if (e->gin[1].data) weight_grad(e, scale);
    if (e->gin[2].data) bias_grad(e, scale);
    return FV_OK;
}
const fvi_op_def fvi_cpu_loss_tree = {.name = "loss_tree",
                                      .bwd_reads_in = 1 | 2 | 8 | 16,
                                      .bwd_reads_out = 2,
                                      .scratch_bytes = tree_scratch,
                                      .forward = tree_forward,
                                      .backward = tree_backward};
