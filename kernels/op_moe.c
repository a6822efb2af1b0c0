/* op_moe.c - mixture of experts: top-2 gates, the balance loss, and the experts themselves.
 *
 * [OmniZip; the gating is Shazeer et al. 2017]: p = softmax(l), the two largest renormalised, which
 * is w_1 = sigmoid(l_1 - l_2), w_2 = 1 - w_1. Equal logits: the lower index wins. The gate is a
 * full row with zeros for the experts that are left out.
 *
 * Balance loss: b (CV^2(importance) + CV^2(load)) + z mean(logsumexp(l)^2). Importance = column
 * sums of the gate; load_e = sum over rows of the probability that e is among the two when its
 * noise is drawn again, Phi((clean_e - threshold)/std_e) with threshold = the best noisy logit that
 * e must beat. CV^2 = unbiased variance / (mean^2 + 1e-10).
 *
 * Experts: y = sum over e with gate_e != 0 of gate_e D_e h_e(x), h_e(x) = relu(U_e x)^2, or x
 * itself without U. For each expert its rows are gathered, multiplied in blocks of 256 and of 32
 * rows (the last one padded with zeros: oneDNN objects have fixed shapes, and compiling one for
 * each count would cost more than it saves), and added back. One row at a time and experts in
 * order: sums have one order. Backward makes h again instead of keeping it. */
#include "cpu_ops.h"

#include <math.h>
#include <string.h>

#define MAX_EXPERTS FV_MAX_EXPERTS

/* ---- route: logits [R, E] -> gate [R, E] ----------------------------------------------------- */

typedef struct best {
    int64_t first, second, third;
} best;

static best best_of(const float *x, int64_t E)
{
    best b = {-1, -1, -1};
    for (int64_t i = 0; i < E; i++) {
        if (b.first < 0 || x[i] > x[b.first]) {
            b.third = b.second;
            b.second = b.first;
            b.first = i;
        } else if (b.second < 0 || x[i] > x[b.second]) {
            b.third = b.second;
            b.second = i;
        } else if (b.third < 0 || x[i] > x[b.third]) {
            b.third = i;
        }
    }
    return b;
}

static float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

static fv_status route_forward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t E = e->in[0].dim[1];
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t r, end;
        for (fvi_lane(e->in[0].dim[0], lane, &r, &end); r < end; r++) {
            const float *x = (const float *)e->in[0].data + r * E;
            float *gate = (float *)e->out[0].data + r * E;
            const best b = best_of(x, E);
            memset(gate, 0, (size_t)E * sizeof *gate);
            gate[b.first] = sigmoid(x[b.first] - x[b.second]);
            gate[b.second] = sigmoid(x[b.second] - x[b.first]);
        }
    }
    return FV_OK;
}

static fv_status route_backward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t E = e->in[0].dim[1];
    if (!e->gin[0].data) return FV_OK;
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t r, end;
        for (fvi_lane(e->in[0].dim[0], lane, &r, &end); r < end; r++) {
            const float *x = (const float *)e->in[0].data + r * E;
            const float *dy = (const float *)e->gout[0].data + r * E;
            float *dx = (float *)e->gin[0].data + r * E;
            const best b = best_of(x, E);
            const float w = sigmoid(x[b.first] - x[b.second]),
                        d = w * (1.0f - w) * (dy[b.first] - dy[b.second]);
            if (!e->gin_add[0]) memset(dx, 0, (size_t)E * sizeof *dx);
            dx[b.first] += d;
            dx[b.second] -= d;
        }
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_route = {
    .name = "route", .bwd_reads_in = 1, .forward = route_forward, .backward = route_backward};

/* ---- balance: clean, noisy, std, gate [R, E] -> loss [1]; saved [2, E]: importance, load ----- */

/* Chance that expert i is chosen, and the logit it has to beat. */
static double chance(const float *clean, const float *noisy, const float *std, const best *b,
                     int64_t i, int64_t *rival, double *z)
{
    *rival = i == b->first || i == b->second ? b->third : b->second;
    *z = ((double)clean[i] - noisy[*rival]) / std[i];
    return 0.5 * erfc(-*z * 0.70710678118654752440);
}

/* log sum exp */
static double lse(const float *x, int64_t E)
{
    double max = x[0], sum = 0;
    for (int64_t i = 1; i < E; i++) max = x[i] > max ? x[i] : max;
    for (int64_t i = 0; i < E; i++) sum += exp(x[i] - max);
    return max + log(sum);
}

static size_t balance_scratch(const fvi_exec *e, bool backward)
{
    return backward ? 0 : FVI_LANES * (2 * (size_t)e->in[0].dim[1] + 1) * sizeof(double);
}

/* importance [E], load [E], sum of squared lse, over rows [r, end) */
static void balance_sums(const fvi_exec *e, int64_t r, int64_t end, double *sum)
{
    const int64_t E = e->in[0].dim[1];
    memset(sum, 0, (2 * (size_t)E + 1) * sizeof *sum);
    for (; r < end; r++) {
        const float *clean = (const float *)e->in[0].data + r * E;
        const float *noisy = (const float *)e->in[1].data + r * E;
        const float *std = (const float *)e->in[2].data + r * E;
        const best b = best_of(noisy, E);
        const double l = lse(clean, E);
        for (int64_t i = 0; i < E; i++) {
            int64_t rival;
            double z;
            sum[i] += ((const float *)e->in[3].data)[r * E + i];
            sum[E + i] += chance(clean, noisy, std, &b, i, &rival, &z);
        }
        sum[2 * E] += l * l;
    }
}

/* CV^2 of x [E], and its derivatives */
static double cv_squared(const double *x, int64_t E, double *d)
{
    double mean = 0, var = 0;
    for (int64_t i = 0; i < E; i++) mean += x[i] / (double)E;
    for (int64_t i = 0; i < E; i++) var += (x[i] - mean) * (x[i] - mean) / (double)(E - 1);
    const double den = mean * mean + 1e-10;
    for (int64_t i = 0; i < E && d; i++)
        d[i] =
            2 * (x[i] - mean) / ((double)(E - 1) * den) - 2 * var * mean / ((double)E * den * den);
    return var / den;
}

static fv_status balance_forward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t R = e->in[0].dim[0], E = e->in[0].dim[1], W = 2 * E + 1;
    double *part = e->scratch; /* [lanes][2E + 1] */
    float *saved = e->out[1].data;
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t r, end;
        fvi_lane(R, lane, &r, &end);
        balance_sums(e, r, end, part + lane * W);
    }
    for (int lane = 1; lane < FVI_LANES; lane++)
        for (int64_t i = 0; i < W; i++) part[i] += part[lane * W + i];
    for (int64_t i = 0; saved && i < 2 * E; i++) saved[i] = (float)part[i];
    const double cv = cv_squared(part, E, NULL) + cv_squared(part + E, E, NULL);
    *(float *)e->out[0].data =
        (float)(e->attr->f[0] * cv + e->attr->f[1] * part[2 * E] / (double)R);
    return FV_OK;
}

static void balance_row_back(const fvi_exec *e, int64_t r, const double *d_importance,
                             const double *d_load, double d_z)
{
    const int64_t E = e->in[0].dim[1];
    const float *clean = (const float *)e->in[0].data + r * E;
    const float *noisy = (const float *)e->in[1].data + r * E;
    const float *std = (const float *)e->in[2].data + r * E;
    const best b = best_of(noisy, E);
    const double l = lse(clean, E);
    double dc[MAX_EXPERTS] = {0}, dn[MAX_EXPERTS] = {0}, ds[MAX_EXPERTS] = {0};
    for (int64_t i = 0; i < E; i++) {
        int64_t rival;
        double z;
        (void)chance(clean, noisy, std, &b, i, &rival, &z);
        const double slope = d_load[i] * exp(-0.5 * z * z) * 0.39894228040143267794 / std[i];
        dc[i] += slope + d_z * 2 * l * exp(clean[i] - l);
        dn[rival] -= slope;
        ds[i] = -slope * z;
    }
    for (int64_t i = 0; i < E; i++) {
        const int64_t at = r * E + i;
        if (e->gin[0].data) fvi_put(fvi_out_at(&e->gin[0], 0, e->gin_add[0]), at, (float)dc[i]);
        if (e->gin[1].data) fvi_put(fvi_out_at(&e->gin[1], 0, e->gin_add[1]), at, (float)dn[i]);
        if (e->gin[2].data) fvi_put(fvi_out_at(&e->gin[2], 0, e->gin_add[2]), at, (float)ds[i]);
        if (e->gin[3].data)
            fvi_put(fvi_out_at(&e->gin[3], 0, e->gin_add[3]), at, (float)d_importance[i]);
    }
}

static fv_status balance_backward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t R = e->in[0].dim[0], E = e->in[0].dim[1];
    const float *saved = e->out[1].data;
    const double g = *(const float *)e->gout[0].data, d_z = g * e->attr->f[1] / (double)R;
    double x[MAX_EXPERTS] = {0}, di[MAX_EXPERTS] = {0}, dl[MAX_EXPERTS] = {0};
    for (int64_t i = 0; i < E; i++) x[i] = saved[i];
    (void)cv_squared(x, E, di);
    for (int64_t i = 0; i < E; i++) x[i] = saved[E + i];
    (void)cv_squared(x, E, dl);
    for (int64_t i = 0; i < E; i++) {
        di[i] *= g * e->attr->f[0];
        dl[i] *= g * e->attr->f[0];
    }
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t r, end;
        for (fvi_lane(R, lane, &r, &end); r < end; r++) balance_row_back(e, r, di, dl, d_z);
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_balance = {.name = "balance",
                                    .bwd_reads_in = 0x0f,
                                    .bwd_reads_out = 2,
                                    .scratch_bytes = balance_scratch,
                                    .forward = balance_forward,
                                    .backward = balance_backward};

/* ---- moe: x [R, K], gate [R, E], down [E*N, I], up [E*I, K] (or absent: I = K) --------------- */

enum { BIG = 256, SMALL = 32 };
typedef struct sized {
    fvi_matmul *m[2];
} sized; /* for BIG rows (may be NULL) and for `small` */

typedef struct moe_state {
    int64_t R, K, I, N, E, small, padded; /* padded: rows that any expert's buffers need */
    sized up, down, dh, dx, dwd, dwu;
    const void *w[2]; /* down, up in inference; NULL when masters exist: the current values then */
} moe_state;

static void sized_destroy(fv_ctx *ctx, sized *s)
{
    fvi_matmul_destroy(ctx, &s->m[0]);
    fvi_matmul_destroy(ctx, &s->m[1]);
}

static void moe_release(fv_ctx *ctx, void *state)
{
    moe_state *st = state;
    if (!st) return;
    sized *all[] = {&st->up, &st->down, &st->dh, &st->dx, &st->dwd, &st->dwu};
    for (size_t i = 0; i < FV_ARRAY_LEN(all); i++) sized_destroy(ctx, all[i]);
    fv_free(ctx, st);
}

/* c [rows, n] = a [rows, k] b (stored [n, k] if b_trans) with rows fixed to one block; or, as a
 * weight gradient, c [n, k] += a^T b over one block. */
static fv_status sized_create(const fvi_exec *e, const moe_state *st, sized *s, int64_t n,
                              int64_t k, bool b_trans, bool weight)
{
    const fv_dtype t = e->in[0].dtype;
    for (int i = 0; i < 2; i++) {
        const int64_t rows = i ? st->small : BIG;
        if (rows > st->R) continue; /* no BIG blocks */
        fvi_matmul_desc d = {.M = rows,
                             .N = n,
                             .K = k,
                             .a_type = t,
                             .b_type = t,
                             .c_type = FV_F32,
                             .b_trans = b_trans};
        if (weight) {
            d.M = n;
            d.N = k;
            d.K = rows;
            d.a_trans = d.accumulate = true;
        }
        FV_TRY(fvi_matmul_create(e->ctx, &s->m[i], &d));
    }
    return FV_OK;
}

/* What a kept copy in bf16 is known by. */
typedef struct half_key {
    int64_t kind, count;
} half_key;

static fv_status keep_half(fv_ctx *ctx, const void *key, const void *values, void *dst)
{
    (void)ctx;
    memcpy(dst, values, (size_t)((const half_key *)key)->count * sizeof(uint16_t));
    return FV_OK;
}

/* The weights of an inference without masters. */
static fv_status fetch_weights(fvi_exec *e, moe_state *st)
{
    for (int k = 0; k < 2; k++) {
        if (e->in[2 + k].ndim == 0) continue;
        const half_key key = {0x6d6f65, fv_tensor_count(&e->in[2 + k])};
        const fvi_form form = {&key, sizeof key, (size_t)key.count * sizeof(uint16_t), FV_BF16,
                               keep_half};
        if (e->in[0].dtype == FV_BF16) {
            FV_TRY(fvi_param_packed(e->ctx, e->params, e->pid[2 + k], &form, &st->w[k]));
        } else {
            const float *f32;
            FV_TRY(fvi_param_f32(e->ctx, e->params, e->pid[2 + k], &f32));
            st->w[k] = f32;
        }
    }
    return FV_OK;
}

static fv_status moe_prepare(fvi_exec *e)
{
    moe_state *st = fv_calloc(e->ctx, 1, sizeof *st);
    if (!st) return FV_ERR_OOM;
    e->state = st;
    const bool has_up = e->in[3].ndim > 0, back = e->gout[0].ndim > 0;
    st->E = e->attr->i[0];
    st->K = e->in[0].dim[e->in[0].ndim - 1];
    st->R = fv_tensor_count(&e->in[0]) / st->K;
    st->N = e->in[2].dim[0] / st->E;
    st->I = e->in[2].dim[1];
    st->small = st->R < SMALL ? st->R : SMALL;
    st->padded = (st->R + st->small - 1) / st->small * st->small;
    if (!fvi_params_master(e->params))
        FV_TRY(fetch_weights(e, st));
    else if (e->in[0].dtype == FV_BF16)
        FV_TRY(fvi_params_need_bf16(e->ctx, e->params));
    FV_TRY(sized_create(e, st, &st->down, st->N, st->I, true, false));
    if (has_up) FV_TRY(sized_create(e, st, &st->up, st->I, st->K, true, false));
    if (!back) return FV_OK;
    FV_TRY(sized_create(e, st, &st->dh, st->I, st->N, false, false));
    FV_TRY(sized_create(e, st, &st->dwd, st->N, st->I, false, true));
    if (!has_up) return FV_OK;
    FV_TRY(sized_create(e, st, &st->dx, st->K, st->I, false, false));
    return sized_create(e, st, &st->dwu, st->I, st->K, false, true);
}

/* Weights k (0 down, 1 up) of expert x. */
static const void *expert(const fvi_exec *e, const moe_state *st, int k, int64_t x)
{
    const int64_t at = x * (k ? st->I * st->K : st->N * st->I);
    const bool half = e->in[0].dtype == FV_BF16;
    const void *w = st->w[k];
    if (!w && half) w = fvi_param_bf16(e->params, e->pid[2 + k]);
    if (!w) w = fv_params_tensor(e->params, e->pid[2 + k]).data;
    return (const char *)w + at * (half ? 2 : 4);
}

typedef struct moe_buffers {
    int32_t *row;                /* [R] rows of the expert at hand */
    void *x, *h, *gy, *gyw, *du; /* [padded, ...] of the type of x */
    float *u, *y, *dh, *dx;      /* [padded, ...] */
    size_t bytes;
} moe_buffers;

static void *take(moe_buffers *b, void *base, int64_t n, size_t size)
{
    void *p = base ? (char *)base + b->bytes : NULL;
    b->bytes += ((size_t)n * size + 63) / 64 * 64;
    return p;
}

static moe_buffers buffers_of(const fvi_exec *e, bool backward, void *base)
{
    const fv_tensor *x = &e->in[0];
    const int64_t K = x->dim[x->ndim - 1], R = fv_tensor_count(x) / K, P = R + SMALL;
    const int64_t I = e->in[2].dim[1], N = e->in[2].dim[0] / e->attr->i[0];
    const bool has_up = e->in[3].ndim > 0;
    const size_t w = fv_dtype_size(x->dtype);
    moe_buffers b = {0};
    b.row = take(&b, base, R, sizeof *b.row);
    b.x = take(&b, base, P * K, w);
    b.h = has_up ? take(&b, base, P * I, w) : b.x;
    b.u = has_up ? take(&b, base, P * I, sizeof(float)) : NULL;
    if (!backward) {
        b.y = take(&b, base, P * N, sizeof(float));
        return b;
    }
    b.gy = take(&b, base, P * N, w);
    b.gyw = take(&b, base, P * N, w);
    b.dh = take(&b, base, P * I, sizeof(float));
    b.du = has_up ? take(&b, base, P * I, w) : NULL;
    b.dx = has_up ? take(&b, base, P * K, sizeof(float)) : b.dh;
    return b;
}

static size_t moe_scratch(const fvi_exec *e, bool backward)
{
    return buffers_of(e, backward, NULL).bytes;
}

/* A block of `width` elements a row of type t, from row i on. */
static void *block_at(const void *p, int64_t i, int64_t width, fv_dtype t)
{
    return (char *)(uintptr_t)p + i * width * (int64_t)fv_dtype_size(t);
}

/* c [n, wc] = a [n, wa] b; n is a multiple of the small block. */
static fv_status run_rows(const fvi_exec *e, const moe_state *st, const sized *s, const void *a,
                          int64_t wa, const void *b, float *c, int64_t wc, int64_t n)
{
    for (int64_t i = 0; i < n;) {
        const int k = s->m[0] && n - i >= BIG ? 0 : 1;
        FV_TRY(fvi_matmul_run(e->ctx, s->m[k], block_at(a, i, wa, e->in[0].dtype), b, NULL, NULL,
                              block_at(c, i, wc, FV_F32)));
        i += k ? st->small : BIG;
    }
    return FV_OK;
}

/* c += a^T b, a [n, wa], b [n, wb] */
static fv_status run_weight(const fvi_exec *e, const moe_state *st, const sized *s, const void *a,
                            int64_t wa, const void *b, int64_t wb, float *c, int64_t n)
{
    for (int64_t i = 0; i < n;) {
        const int k = s->m[0] && n - i >= BIG ? 0 : 1;
        FV_TRY(fvi_matmul_run(e->ctx, s->m[k], block_at(a, i, wa, e->in[0].dtype),
                              block_at(b, i, wb, e->in[0].dtype), NULL, NULL, c));
        i += k ? st->small : BIG;
    }
    return FV_OK;
}

static const fvi_pointwise_ops *flat(const fvi_exec *e)
{
    return &e->ctx->cpu_ops->pointwise;
}

static float gate_at(const fvi_exec *e, const moe_state *st, int64_t r, int64_t x)
{
    return ((const float *)e->in[1].data)[r * st->E + x];
}

static fvi_out row_out(const fvi_exec *e, void *p, int64_t i, int64_t width, bool f32)
{
    const fv_dtype t = f32 ? FV_F32 : e->in[0].dtype;
    const fvi_out r = {block_at(p, i, width, t), t == FV_BF16, false};
    return r;
}
static fvi_in row_in(const fvi_exec *e, const void *p, int64_t i, int64_t width, bool f32)
{
    const fvi_out o = row_out(e, (void *)(uintptr_t)p, i, width, f32);
    const fvi_in r = {o.p, o.bf16};
    return r;
}

/* Rows of expert x: their numbers, their inputs and zeros up to a whole block; returns the padded
 * count, *count the true one. With `up`, also u and h. */
static fv_status gather(const fvi_exec *e, const moe_state *st, const moe_buffers *b, int64_t x,
                        int64_t *count, int64_t *padded)
{
    fv_ctx *ctx = e->ctx;
    const bool has_up = e->in[3].ndim > 0;
    int64_t n = 0;
    for (int64_t r = 0; r < st->R; r++)
        if (gate_at(e, st, r, x) != 0.0f) b->row[n++] = (int32_t)r;
    *count = n;
    *padded = (n + st->small - 1) / st->small * st->small;
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t i, end;
        for (fvi_lane(n, lane, &i, &end); i < end; i++)
            flat(e)->cast(row_out(e, b->x, i, st->K, false),
                          fvi_in_at(&e->in[0], b->row[i] * st->K), st->K);
    }
    memset(block_at(b->x, n, st->K, e->in[0].dtype), 0,
           (size_t)((*padded - n) * st->K) * fv_dtype_size(e->in[0].dtype));
    if (!has_up) return FV_OK;
    FV_TRY(run_rows(e, st, &st->up, b->x, st->K, expert(e, st, 1, x), b->u, st->I, *padded));
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t i, end;
        for (fvi_lane(*padded, lane, &i, &end); i < end; i++) {
            const fvi_out u = row_out(e, b->u, i, st->I, true);
            flat(e)->act(u, row_in(e, b->u, i, st->I, true), st->I, FV_ACT_RELU);
            flat(e)->act(row_out(e, b->h, i, st->I, false), row_in(e, b->u, i, st->I, true), st->I,
                         FV_ACT_SQUARE);
        }
    }
    return FV_OK;
}

static fv_status moe_forward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const moe_state *st = e->state;
    const moe_buffers b = buffers_of(e, false, e->scratch);
    memset(e->out[0].data, 0, (size_t)(st->R * st->N) * fv_dtype_size(e->out[0].dtype));
    for (int64_t x = 0; x < st->E; x++) {
        int64_t n, padded;
        FV_TRY(gather(e, st, &b, x, &n, &padded));
        FV_TRY(run_rows(e, st, &st->down, b.h, st->I, expert(e, st, 0, x), b.y, st->N, padded));
        FVI_PARALLEL_LANES(ctx, lane)
        {
            int64_t i, end;
            for (fvi_lane(n, lane, &i, &end); i < end; i++)
                flat(e)->affine(fvi_out_at(&e->out[0], b.row[i] * st->N, true),
                                row_in(e, b.y, i, st->N, true), st->N, gate_at(e, st, b.row[i], x),
                                0.0f);
        }
    }
    return FV_OK;
}

static float dot(const fvi_exec *e, fvi_in a, fvi_in b, int64_t n)
{
    float sum = 0;
    for (int64_t i = 0; i < n; i += 4096) {
        const int64_t m = n - i < 4096 ? n - i : 4096;
        const fvi_in p = {(const char *)a.p + i * (a.bf16 ? 2 : 4), a.bf16};
        const fvi_in q = {(const char *)b.p + i * (b.bf16 ? 2 : 4), b.bf16};
        sum += flat(e)->binary_db1(p, q, 1.0f, m, FV_MUL);
    }
    return sum;
}

/* Gradient rows of the expert: gy as they are, gyw times the gate. */
static void gather_gradient(const fvi_exec *e, const moe_state *st, const moe_buffers *b, int64_t x,
                            int64_t n, int64_t padded)
{
    fv_ctx *ctx = e->ctx;
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t i, end;
        for (fvi_lane(n, lane, &i, &end); i < end; i++) {
            const fvi_in dy = fvi_in_at(&e->gout[0], b->row[i] * st->N);
            flat(e)->cast(row_out(e, b->gy, i, st->N, false), dy, st->N);
            flat(e)->affine(row_out(e, b->gyw, i, st->N, false), dy, st->N,
                            gate_at(e, st, b->row[i], x), 0.0f);
        }
    }
    const size_t bytes = (size_t)((padded - n) * st->N) * fv_dtype_size(e->in[0].dtype);
    memset(block_at(b->gy, n, st->N, e->in[0].dtype), 0, bytes);
    memset(block_at(b->gyw, n, st->N, e->in[0].dtype), 0, bytes);
}

/* dgate = dh . h; du = gate * dh * 2 relu(u), where b->u holds relu(u). */
static void hidden_back(const fvi_exec *e, const moe_state *st, const moe_buffers *b, int64_t x,
                        int64_t n, int64_t padded)
{
    fv_ctx *ctx = e->ctx;
    const bool has_up = e->in[3].ndim > 0;
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t i, end;
        for (fvi_lane(n, lane, &i, &end); i < end; i++) {
            const fvi_in dh = row_in(e, b->dh, i, st->I, true);
            if (e->gin[1].data)
                fvi_put(fvi_out_at(&e->gin[1], 0, true), b->row[i] * st->E + x,
                        dot(e, dh, row_in(e, b->h, i, st->I, false), st->I));
            if (!has_up) continue;
            flat(e)->binary(row_out(e, b->dh, i, st->I, true), dh, row_in(e, b->u, i, st->I, true),
                            st->I, FV_MUL);
            flat(e)->affine(row_out(e, b->du, i, st->I, false), dh, st->I,
                            2.0f * gate_at(e, st, b->row[i], x), 0.0f);
        }
    }
    if (has_up)
        memset(block_at(b->du, n, st->I, e->in[0].dtype), 0,
               (size_t)((padded - n) * st->I) * fv_dtype_size(e->in[0].dtype));
}

static fv_status expert_back(const fvi_exec *e, const moe_state *st, const moe_buffers *b,
                             int64_t x)
{
    fv_ctx *ctx = e->ctx;
    const bool has_up = e->in[3].ndim > 0;
    float *dwd = e->gin[2].data, *dwu = e->gin[3].data;
    int64_t n, padded;
    FV_TRY(gather(e, st, b, x, &n, &padded));
    gather_gradient(e, st, b, x, n, padded);
    if (dwd)
        FV_TRY(run_weight(e, st, &st->dwd, b->gyw, st->N, b->h, st->I, dwd + x * st->N * st->I,
                          padded));
    FV_TRY(run_rows(e, st, &st->dh, b->gy, st->N, expert(e, st, 0, x), b->dh, st->I, padded));
    hidden_back(e, st, b, x, n, padded);
    if (has_up && dwu)
        FV_TRY(run_weight(e, st, &st->dwu, b->du, st->I, b->x, st->K, dwu + x * st->I * st->K,
                          padded));
    if (!e->gin[0].data) return FV_OK;
    if (has_up)
        FV_TRY(run_rows(e, st, &st->dx, b->du, st->I, expert(e, st, 1, x), b->dx, st->K, padded));
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t i, end;
        for (fvi_lane(n, lane, &i, &end); i < end; i++)
            flat(e)->affine(fvi_out_at(&e->gin[0], b->row[i] * st->K, true),
                            row_in(e, b->dx, i, st->K, true), st->K,
                            has_up ? 1.0f : gate_at(e, st, b->row[i], x), 0.0f);
    }
    return FV_OK;
}

static fv_status moe_backward(fvi_exec *e)
{
    const moe_state *st = e->state;
    const moe_buffers b = buffers_of(e, true, e->scratch);
    for (int k = 0; k < 2; k++)
        if (e->gin[k].data && !e->gin_add[k])
            memset(e->gin[k].data, 0,
                   (size_t)fv_tensor_count(&e->gin[k]) * fv_dtype_size(e->gin[k].dtype));
    for (int64_t x = 0; x < st->E; x++) FV_TRY(expert_back(e, st, &b, x));
    return FV_OK;
}

const fvi_op_def fvi_cpu_moe = {.name = "moe",
                                .bwd_reads_in = 0x0f,
                                .scratch_bytes = moe_scratch,
                                .prepare = moe_prepare,
                                .release = moe_release,
                                .forward = moe_forward,
                                .backward = moe_backward};
