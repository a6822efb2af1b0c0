/* op_tree.c - loss of labels that are paths in a binary tree.
 *
 * A label of b bits is coded as b decisions, the most significant first. Node 1 is the root, a step
 * goes from m to 2 m + bit; the logit of node m is w_m . h + bias_m. The loss of a label is the sum
 * of its b binary cross-entropies, L = mean over labels >= 0. Instead of a product with all 2^b rows
 * only the b rows of each label's path are gathered: at 2^12 rows and 128 columns this takes the head
 * from 56 % of a network's work to 0.4 %.
 *
 * The derivative to a logit, sigmoid(z) - bit, is kept by forward. Rows of w repeat from label to
 * label: lanes own columns of the gradient and add the rows in the order of labels, so that sums do
 * not depend on the number of threads. */
#include "cpu_ops.h"

#include <math.h>
#include <string.h>

#define MAX_BITS 24

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

/* ---- The op: in h [n, D], w [V, D], bias [V], labels [n]; out loss [1], err [n, bits] --------- */

static const fvi_tree_ops *rows(const fvi_exec *e) { return &e->ctx->cpu_ops->tree; }

static int bits_of(const fvi_exec *e)
{
    int b = 0;
    while ((int64_t)1 << (b + 1) <= e->in[1].dim[0]) b++;
    return b;
}

static void path_of(int32_t label, int bits, int32_t *node)
{
    const int32_t leaf = ((int32_t)1 << bits) + label;
    for (int k = 0; k < bits; k++) node[k] = leaf >> (bits - k);
}

/* Count of labels that take part; FV_ERR_ARG for one outside [-1, V). */
static fv_status count_labels(const fvi_exec *e, int64_t *used)
{
    const int32_t *label = e->in[3].data;
    const int64_t n = e->in[3].dim[0], V = e->in[1].dim[0];
    *used = 0;
    for (int64_t i = 0; i < n; i++) {
        if (label[i] < -1 || label[i] >= V)
            return fv_fail(e->ctx, FV_ERR_ARG,
                           "loss_tree: label %d at row %lld, there are %lld leaves", (int)label[i],
                           (long long)i, (long long)V);
        *used += label[i] >= 0;
    }
    return FV_OK;
}

static size_t tree_scratch(const fvi_exec *e, bool backward)
{
    return backward ? 0 : (size_t)e->in[3].dim[0] * sizeof(float);
}

/* Loss of row i; its errors to err if that is not NULL. */
static float tree_row(const fvi_exec *e, int64_t i, int32_t label, int bits, float *err)
{
    const int64_t D = e->in[1].dim[1];
    const float *bias = e->in[2].data;
    int32_t node[MAX_BITS];
    float z[MAX_BITS];
    double loss = 0;
    path_of(label, bits, node);
    rows(e)->dots(z, fvi_in_at(&e->in[0], i * D), e->in[1].data, node, bits, D);
    for (int k = 0; k < bits; k++) {
        const int bit = label >> (bits - 1 - k) & 1;
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
    const int bits = bits_of(e);
    float *loss = e->scratch, *err = e->out[1].data;
    int64_t used;
    FV_TRY(count_labels(e, &used));
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t i, end;
        for (fvi_lane(n, lane, &i, &end); i < end; i++)
            loss[i] =
                label[i] < 0 ? 0.0f : tree_row(e, i, label[i], bits, err ? err + i * bits : NULL);
    }
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += loss[i];
    *(float *)e->out[0].data = used ? (float)(sum / (double)used) : 0.0f;
    return FV_OK;
}

static void scaled_errors(const fvi_exec *e, int64_t i, int bits, float scale, float *g)
{
    const float *err = (const float *)e->out[1].data + i * bits;
    for (int k = 0; k < bits; k++) g[k] = scale * err[k];
}

static void hidden_grad(const fvi_exec *e, int bits, float scale)
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
            const int used = label[i] < 0 ? 0 : bits; /* none: zeros */
            path_of(label[i] < 0 ? 0 : label[i], bits, node);
            if (used) scaled_errors(e, i, bits, scale, g);
            rows(e)->mix(fvi_out_at(&e->gin[0], i * D, e->gin_add[0]), e->in[1].data, g, node, used,
                         D);
        }
    }
}

static void weight_grad(const fvi_exec *e, int bits, float scale)
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
            path_of(label[i], bits, node);
            scaled_errors(e, i, bits, scale, g);
            rows(e)->spread(e->gin[1].data, fvi_in_at(&e->in[0], i * D), g, node, bits, &c);
        }
    }
}

static void bias_grad(const fvi_exec *e, int bits, float scale)
{
    const int32_t *label = e->in[3].data;
    const int64_t n = e->in[3].dim[0], V = e->in[1].dim[0];
    float *db = e->gin[2].data;
    if (!e->gin_add[2]) memset(db, 0, (size_t)V * sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        int32_t node[MAX_BITS];
        float g[MAX_BITS];
        if (label[i] < 0) continue;
        path_of(label[i], bits, node);
        scaled_errors(e, i, bits, scale, g);
        for (int k = 0; k < bits; k++) db[node[k]] += g[k];
    }
}

static fv_status tree_backward(fvi_exec *e)
{
    const int bits = bits_of(e);
    int64_t used;
    FV_TRY(count_labels(e, &used)); /* the caller may have changed them since forward */
    const float scale = used ? *(const float *)e->gout[0].data / (float)used : 0.0f;
    if (e->gin[0].data) hidden_grad(e, bits, scale);
    if (e->gin[1].data) weight_grad(e, bits, scale);
    if (e->gin[2].data) bias_grad(e, bits, scale);
    return FV_OK;
}
const fvi_op_def fvi_cpu_loss_tree = {.name = "loss_tree",
                                      .bwd_reads_in = 1 | 2 | 8,
                                      .bwd_reads_out = 2,
                                      .scratch_bytes = tree_scratch,
                                      .forward = tree_forward,
                                      .backward = tree_backward};
