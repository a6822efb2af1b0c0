/* op_pointwise.c - cast, activation, affine, binary with broadcast, swiglu; forward and backward.
 *
 * Every op here is bound by memory bandwidth: one pass, f32 arithmetic in registers, f32 or bf16
 * in memory. The *_c functions are the definition; vector forms are in op_pointwise_body.h.
 *
 * Only the gradient of a broadcast operand is a sum over many elements. Its order is fixed by the
 * shape: see binary_db_suffix and binary_db_sample. */
#include "cpu_ops.h"
#include "op_act.h"

#include <string.h>

/* ---- Scalar rows: the definition ------------------------------------------------------------- */

static void cast_c(fvi_out y, fvi_in x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) fvi_put(y, i, fvi_get(x, i));
}

static void affine_c(fvi_out y, fvi_in x, int64_t n, float scale, float shift)
{
    for (int64_t i = 0; i < n; i++) fvi_put(y, i, fvi_get(x, i) * scale + shift);
}

static void act_c(fvi_out y, fvi_in x, int64_t n, fv_act act)
{
    for (int64_t i = 0; i < n; i++) fvi_put(y, i, fvi_act_c(act, fvi_get(x, i)));
}

static void act_bwd_c(fvi_out dx, fvi_in x, fvi_in dy, int64_t n, fv_act act)
{
    for (int64_t i = 0; i < n; i++) fvi_put(dx, i, fvi_get(dy, i) * fvi_dact_c(act, fvi_get(x, i)));
}

static float binary_one(fv_binary op, float a, float b)
{
    switch (op) {
    case FV_ADD: return a + b;
    case FV_SUB: return a - b;
    case FV_MUL: return a * b;
    case FV_DIV: break;
    }
    return a / b;
}

static float binary_db_one(fv_binary op, float dy, float a, float b)
{
    switch (op) {
    case FV_ADD: return dy;
    case FV_SUB: return -dy;
    case FV_MUL: return dy * a;
    case FV_DIV: break;
    }
    return -(dy * a / (b * b));
}

static void binary_c(fvi_out y, fvi_in a, fvi_in b, int64_t n, fv_binary op)
{
    for (int64_t i = 0; i < n; i++) fvi_put(y, i, binary_one(op, fvi_get(a, i), fvi_get(b, i)));
}

static void binary1_c(fvi_out y, fvi_in a, float b, int64_t n, fv_binary op)
{
    for (int64_t i = 0; i < n; i++) fvi_put(y, i, binary_one(op, fvi_get(a, i), b));
}

static void binary_db_c(fvi_out db, fvi_in dy, fvi_in a, fvi_in b, int64_t n, fv_binary op)
{
    for (int64_t i = 0; i < n; i++)
        fvi_put(db, i, binary_db_one(op, fvi_get(dy, i), fvi_get(a, i), fvi_get(b, i)));
}

static float binary_db1_c(fvi_in dy, fvi_in a, float b, int64_t n, fv_binary op)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += binary_db_one(op, fvi_get(dy, i), fvi_get(a, i), b);
    return (float)sum;
}

static void add4_c(fvi_out y, const fvi_in x[4], int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        fvi_put(y, i,
                (fvi_get(x[0], i) + fvi_get(x[1], i)) + (fvi_get(x[2], i) + fvi_get(x[3], i)));
}

static void swiglu_c(fvi_out y, fvi_in x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        fvi_put(y, i, fvi_act_c(FV_ACT_SILU, fvi_get(x, i)) * fvi_get(x, n + i));
}

static void swiglu_bwd_c(fvi_out dx, fvi_in x, fvi_in dy, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const float a = fvi_get(x, i), b = fvi_get(x, n + i), g = fvi_get(dy, i);
        fvi_put(dx, i, g * b * fvi_dact_c(FV_ACT_SILU, a));
        fvi_put(dx, n + i, g * fvi_act_c(FV_ACT_SILU, a));
    }
}

void fvi_pointwise_init(fvi_pointwise_ops *o, uint32_t cpu)
{
    const fvi_pointwise_ops c = { cast_c, affine_c, act_c, act_bwd_c, binary_c, binary1_c,
                                  binary_db_c, binary_db1_c, add4_c, swiglu_c, swiglu_bwd_c };
    *o = c;
#if defined(__x86_64__)
    if (cpu & FV_CPU_AVX2) fvi_pointwise_init_avx2(o);
    if (cpu & FV_CPU_AVX512) fvi_pointwise_init_avx512(o);
#endif
    (void)cpu;
}

static const fvi_pointwise_ops *rows(const fvi_exec *e) { return &e->ctx->cpu_ops->pointwise; }

/* ---- Cast, activation, affine ---------------------------------------------------------------- */

static bool is_float(const fv_tensor *t) { return t->dtype == FV_F32 || t->dtype == FV_BF16; }

static fv_status cast_any(fvi_exec *e, const fv_tensor *src, const fv_tensor *dst, bool add)
{
    fv_ctx *ctx = e->ctx;
    if (!is_float(src) || !is_float(dst))
        return fv_fail(ctx, FV_ERR_DTYPE, "cast: from %s to %s, only f32 and bf16 are possible",
                       fv_dtype_name(src->dtype), fv_dtype_name(dst->dtype));
    const int64_t n = fv_tensor_count(src);
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t i, end;
        fvi_lane_flat(n, lane, &i, &end);
        rows(e)->cast(fvi_out_at(dst, i, add), fvi_in_at(src, i), end - i);
    }
    return FV_OK;
}

static fv_status cast_forward(fvi_exec *e) { return cast_any(e, &e->in[0], &e->out[0], false); }
static fv_status cast_backward(fvi_exec *e)
{
    if (!e->gin[0].data) return FV_OK;
    return cast_any(e, &e->gout[0], &e->gin[0], e->gin_add[0]);
}
const fvi_op_def fvi_cpu_cast = {
    .name = "cast", .forward = cast_forward, .backward = cast_backward
};

static fv_status act_forward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t n = fv_tensor_count(&e->in[0]);
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t i, end;
        fvi_lane_flat(n, lane, &i, &end);
        rows(e)->act(fvi_out_at(&e->out[0], i, false), fvi_in_at(&e->in[0], i), end - i,
                     (fv_act)e->attr->i[0]);
    }
    return FV_OK;
}

static fv_status act_backward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t n = fv_tensor_count(&e->in[0]);
    if (!e->gin[0].data) return FV_OK;
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t i, end;
        fvi_lane_flat(n, lane, &i, &end);
        rows(e)->act_bwd(fvi_out_at(&e->gin[0], i, e->gin_add[0]), fvi_in_at(&e->in[0], i),
                         fvi_in_at(&e->gout[0], i), end - i, (fv_act)e->attr->i[0]);
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_act = {
    .name = "act", .bwd_reads_in = 1, .forward = act_forward, .backward = act_backward
};

static fv_status affine_forward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t n = fv_tensor_count(&e->in[0]);
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t i, end;
        fvi_lane_flat(n, lane, &i, &end);
        rows(e)->affine(fvi_out_at(&e->out[0], i, false), fvi_in_at(&e->in[0], i), end - i,
                        e->attr->f[0], e->attr->f[1]);
    }
    return FV_OK;
}

static fv_status affine_backward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t n = fv_tensor_count(&e->gout[0]);
    if (!e->gin[0].data) return FV_OK;
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t i, end;
        fvi_lane_flat(n, lane, &i, &end);
        rows(e)->affine(fvi_out_at(&e->gin[0], i, e->gin_add[0]), fvi_in_at(&e->gout[0], i),
                        end - i, e->attr->f[0], 0.0f);
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_affine = {
    .name = "affine", .forward = affine_forward, .backward = affine_backward
};

/* ---- Binary ---------------------------------------------------------------------------------- */

enum { BCAST_NONE = 0, BCAST_SUFFIX = 1, BCAST_SAMPLE = 2 };

/* Elements [i, end) of y = a op b, where y and a are flat and b repeats. Cut at the borders of b's
 * period (suffix) or of the samples, so that each piece is one row call. */
static void binary_range(const fvi_exec *e, const fv_tensor *y, const fv_tensor *a, bool add,
                         int64_t i, int64_t end)
{
    const fv_tensor *b = &e->in[1];
    const fv_binary op = (fv_binary)e->attr->i[0];
    const int bcast = e->attr->i[1];
    const int64_t nb = fv_tensor_count(b);
    const int64_t len = bcast == BCAST_SAMPLE ? fv_tensor_count(a) / nb : nb;
    while (i < end) {
        const int64_t row = i / len, left = (row + 1) * len - i;
        const int64_t n = left < end - i ? left : end - i;
        const fvi_out out = fvi_out_at(y, i, add);
        if (bcast == BCAST_SAMPLE)
            rows(e)->binary1(out, fvi_in_at(a, i), fvi_get(fvi_in_at(b, 0), row), n, op);
        else
            rows(e)->binary(out, fvi_in_at(a, i), fvi_in_at(b, i - row * len), n, op);
        i += n;
    }
}

static fv_status binary_forward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t n = fv_tensor_count(&e->in[0]);
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t i, end;
        fvi_lane_flat(n, lane, &i, &end);
        binary_range(e, &e->out[0], &e->in[0], false, i, end);
    }
    return FV_OK;
}

/* da = dy for sums, dy op b for products and quotients */
static void binary_da(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t n = fv_tensor_count(&e->gout[0]);
    const bool add = e->gin_add[0], plain = e->attr->i[0] == FV_ADD || e->attr->i[0] == FV_SUB;
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t i, end;
        fvi_lane_flat(n, lane, &i, &end);
        if (plain)
            rows(e)->cast(fvi_out_at(&e->gin[0], i, add), fvi_in_at(&e->gout[0], i), end - i);
        else
            binary_range(e, &e->gin[0], &e->gout[0], add, i, end);
    }
}

static void binary_db_same(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t n = fv_tensor_count(&e->gout[0]);
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t i, end;
        fvi_lane_flat(n, lane, &i, &end);
        rows(e)->binary_db(fvi_out_at(&e->gin[1], i, e->gin_add[1]), fvi_in_at(&e->gout[0], i),
                           fvi_in_at(&e->in[0], i), fvi_in_at(&e->in[1], i), end - i,
                           (fv_binary)e->attr->i[0]);
    }
}

/* Columns [c0, c1) of db summed over rows [r0, r1), two-level: f32 sums of at most 512 rows, then
 * a sum of those. part, total: [c1 - c0]. */
static void db_columns(const fvi_exec *e, int64_t r0, int64_t r1, int64_t c0, int64_t c1,
                       float *part, float *total)
{
    const int64_t n = c1 - c0, nb = fv_tensor_count(&e->in[1]);
    memset(total, 0, (size_t)n * sizeof *total);
    for (int64_t r = r0; r < r1;) {
        const int64_t stop = r + 512 < r1 ? r + 512 : r1;
        memset(part, 0, (size_t)n * sizeof *part);
        for (; r < stop; r++)
            rows(e)->binary_db(fvi_out_f32(part, true), fvi_in_at(&e->gout[0], r * nb + c0),
                               fvi_in_at(&e->in[0], r * nb + c0), fvi_in_at(&e->in[1], c0), n,
                               (fv_binary)e->attr->i[0]);
        rows(e)->cast(fvi_out_f32(total, true), fvi_in_f32(part), n);
    }
}

/* db [nb] = column sums. Wide rows are cut by columns: no partials. Narrow rows are cut by rows
 * into the lanes, whose partials are added in lane order.
 * Scratch: 16 lanes of (part, total), each padded [nb]; wide rows use one pair. */
#define WIDE_COLUMNS 1024
static void binary_db_suffix(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t nb = fv_tensor_count(&e->in[1]), R = fv_tensor_count(&e->gout[0]) / nb;
    const size_t pad = fvi_pad16(nb);
    float *scratch = e->scratch;
    const bool wide = nb >= WIDE_COLUMNS;
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t a, b;
        float *part = scratch + (wide ? 0 : 2 * pad * (size_t)lane), *total = part + pad;
        if (wide) {
            fvi_lane_flat(nb, lane, &a, &b);
            if (a < b) db_columns(e, 0, R, a, b, part + a, total + a);
        } else {
            fvi_lane(R, lane, &a, &b);
            db_columns(e, a, b, 0, nb, part, total);
        }
    }
    float *sum = scratch + pad;
    for (int lane = 1; lane < FVI_LANES && !wide; lane++)
        rows(e)->cast(fvi_out_f32(sum, true), fvi_in_f32(sum + 2 * pad * (size_t)lane), nb);
    rows(e)->cast(fvi_out_at(&e->gin[1], 0, e->gin_add[1]), fvi_in_f32(sum), nb);
}

/* db [B]: pieces of at most 2048 elements are f32 sums, added in double in order. */
#define DB_PIECE 2048
static double db_of_sample(const fvi_exec *e, int64_t b, int64_t begin, int64_t end)
{
    const int64_t len = fv_tensor_count(&e->in[0]) / fv_tensor_count(&e->in[1]);
    const float vb = fvi_get(fvi_in_at(&e->in[1], 0), b);
    double sum = 0;
    for (int64_t i = begin; i < end; i += DB_PIECE) {
        const int64_t n = end - i < DB_PIECE ? end - i : DB_PIECE;
        const int64_t at = b * len + i;
        const fvi_in dy = fvi_in_at(&e->gout[0], at), a = fvi_in_at(&e->in[0], at);
        sum += rows(e)->binary_db1(dy, a, vb, n, (fv_binary)e->attr->i[0]);
    }
    return sum;
}

static void binary_db_sample(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t B = fv_tensor_count(&e->in[1]);
    const fvi_split sp = fvi_split_of(B, fv_tensor_count(&e->in[0]) / B);
    double *part = e->scratch; /* [B * S] */
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t k, end, b, t0, t1;
        for (fvi_lane(B * sp.S, lane, &k, &end); k < end; k++) {
            fvi_split_rows(&sp, k, &b, &t0, &t1);
            part[k] = db_of_sample(e, b, t0, t1);
        }
    }
    for (int64_t b = 0; b < B; b++) {
        double sum = 0;
        for (int64_t k = 0; k < sp.S; k++) sum += part[b * sp.S + k];
        fvi_put(fvi_out_at(&e->gin[1], 0, e->gin_add[1]), b, (float)sum);
    }
}

static size_t binary_scratch(const fvi_exec *e, bool backward)
{
    if (!backward || e->attr->i[1] == BCAST_NONE) return 0;
    const int64_t nb = fv_tensor_count(&e->in[1]);
    if (e->attr->i[1] == BCAST_SUFFIX)
        return (nb >= WIDE_COLUMNS ? 2 : 2 * FVI_LANES) * fvi_pad16(nb) * sizeof(float);
    const fvi_split sp = fvi_split_of(nb, nb > 0 ? fv_tensor_count(&e->in[0]) / nb : 0);
    return (size_t)(nb * sp.S) * sizeof(double);
}

static fv_status binary_backward(fvi_exec *e)
{
    if (e->gin[0].data) binary_da(e);
    if (!e->gin[1].data) return FV_OK;
    switch (e->attr->i[1]) {
    case BCAST_SUFFIX: binary_db_suffix(e); break;
    case BCAST_SAMPLE: binary_db_sample(e); break;
    default: binary_db_same(e); break;
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_binary = {
    .name = "binary", .bwd_reads_in = 3, .scratch_bytes = binary_scratch,
    .forward = binary_forward, .backward = binary_backward
};

/* ---- SwiGLU ---------------------------------------------------------------------------------- */

static fv_status swiglu_forward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t H = e->out[0].dim[e->out[0].ndim - 1], R = fv_tensor_count(&e->out[0]) / H;
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t r, end;
        for (fvi_lane(R, lane, &r, &end); r < end; r++)
            rows(e)->swiglu(fvi_out_at(&e->out[0], r * H, false), fvi_in_at(&e->in[0], 2 * r * H),
                            H);
    }
    return FV_OK;
}

static fv_status swiglu_backward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t H = e->gout[0].dim[e->gout[0].ndim - 1], R = fv_tensor_count(&e->gout[0]) / H;
    if (!e->gin[0].data) return FV_OK;
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t r, end;
        for (fvi_lane(R, lane, &r, &end); r < end; r++)
            rows(e)->swiglu_bwd(fvi_out_at(&e->gin[0], 2 * r * H, e->gin_add[0]),
                                fvi_in_at(&e->in[0], 2 * r * H), fvi_in_at(&e->gout[0], r * H), H);
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_swiglu = {
    .name = "swiglu", .bwd_reads_in = 1, .forward = swiglu_forward, .backward = swiglu_backward
};
