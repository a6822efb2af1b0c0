/* tape.c - recording: every op function checks shapes, appends one node and returns a handle.
 *
 * After the first failure the tape is poisoned: all later handles are 0, all later calls return at
 * once, and fv_tape_status gives the status (the message is in the context). Model code therefore
 * reads like formulas and is checked once. */
#include "backend.h"
#include "tape_record.h"

/* Sums of all values' sizes in bytes stay far below 2^63. */
#define MAX_ELEMENTS ((int64_t)1 << 44)

fv_status fv_tape_create(fv_ctx *ctx, fv_tape **out, fv_params *params, fv_mode mode,
                         fv_dtype precision)
{
    *out = NULL;
    if (precision != FV_F32 && precision != FV_BF16)
        return fv_fail(ctx, FV_ERR_ARG, "tape: precision must be f32 or bf16");
    if (mode == FV_TRAIN && params) FV_TRY(fv_params_alloc(params));
    fv_tape *t = fv_calloc(ctx, 1, sizeof *t);
    if (!t) return FV_ERR_OOM;
    t->ctx = ctx;
    t->params = params;
    t->mode = mode;
    const bool has_bf16 = ctx->cpu & FV_CPU_AVX512 || ctx->device == FV_DEVICE_CUDA;
    t->precision = has_bf16 ? precision : FV_F32;
    t->nv = 1;
    *out = t;
    return FV_OK;
}

void fv_tape_destroy(fv_tape **tt)
{
    if (!tt || !*tt) return;
    fv_tape *t = *tt;
    *tt = NULL;
    for (int i = 1; i < t->nv; i++) fv_free(t->ctx, (void *)(uintptr_t)t->v[i].name);
    fv_free(t->ctx, t->v);
    fv_free(t->ctx, t->n);
    fv_free(t->ctx, t);
}

fv_status fv_tape_status(const fv_tape *t) { return t->status; }
fv_mode fv_tape_mode(const fv_tape *t) { return t->mode; }
fv_dtype fv_tape_precision(const fv_tape *t) { return t->precision; }
void fvi_tape_fp8(fv_tape *t) { t->fp8 = t->mode == FV_INFER; }

fv_tensor fv_tape_tensor(const fv_tape *t, fv_t x)
{
    const fv_tensor none = { 0 };
    return x > 0 && (int)x < t->nv ? t->v[x].t : none;
}

/* ---- Helpers --------------------------------------------------------------------------------- */

fv_t fvi_poison(fv_tape *t, fv_status s)
{
    if (t->status == FV_OK) t->status = s;
    return 0;
}

fv_t fvi_new_value(fv_tape *t, fv_dtype dtype, int ndim, const int64_t *dim)
{
    if (t->nv >= t->cap_v) {
        const int cap = t->cap_v ? 2 * t->cap_v : 256;
        fvi_value *v =
            fv_realloc(t->ctx, t->v, t->v ? (size_t)t->nv * sizeof *v : 0, (size_t)cap * sizeof *v);
        if (!v) return fvi_poison(t, FV_ERR_OOM);
        if (!t->v) memset(v, 0, sizeof *v);
        t->v = v;
        t->cap_v = cap;
    }
    fvi_value *v = &t->v[t->nv];
    memset(v, 0, sizeof *v);
    v->pid = -1;
    v->t.dtype = dtype;
    v->t.ndim = ndim;
    memcpy(v->t.dim, dim, (size_t)ndim * sizeof *dim);
    const int64_t n = fv_tensor_count(&v->t);
    if (n <= 0 || n > MAX_ELEMENTS) return BAD(t, FV_ERR_SHAPE, "tape: empty or too large tensor");
    return (fv_t)t->nv++;
}

bool fvi_handle_ok(fv_tape *t, const char *op, fv_t x, bool optional)
{
    if (t->status != FV_OK) return false;
    if (x == 0 && optional) return true;
    if (x > 0 && (int)x < t->nv) return true;
    BAD(t, FV_ERR_ARG, "%s: an operand does not belong to this tape", op);
    return false;
}

static fvi_node *new_node(fv_tape *t, fvi_op op)
{
    if (t->nn == t->cap_n) {
        const int cap = t->cap_n ? 2 * t->cap_n : 128;
        fvi_node *n = fv_realloc(t->ctx, t->n, (size_t)t->nn * sizeof *n, (size_t)cap * sizeof *n);
        if (!n) {
            fvi_poison(t, FV_ERR_OOM);
            return NULL;
        }
        t->n = n;
        t->cap_n = cap;
    }
    fvi_node *n = &t->n[t->nn++];
    memset(n, 0, sizeof *n);
    n->op = op;
    return n;
}

fv_t fvi_record(fv_tape *t, fvi_op op, const fvi_attr *attr, const fv_t *in, int n_in,
                   fv_dtype dtype, int ndim, const int64_t *dim)
{
    const fv_t y = fvi_new_value(t, dtype, ndim, dim);
    fvi_node *n = y ? new_node(t, op) : NULL;
    if (!n) return 0;
    n->attr = *attr;
    memcpy(n->in, in, (size_t)n_in * sizeof *in);
    n->out[0] = y;
    t->v[y].kind = FVI_NODE;
    t->v[y].node = t->nn - 1;
    if (t->mode == FV_TRAIN && t->ctx->backend->op(op)->backward)
        for (int k = 0; k < n_in; k++)
            if (in[k] && t->v[in[k]].needs_grad) t->v[y].needs_grad = 1;
    return y;
}

void fvi_record_saved(fv_tape *t, int slot, fv_dtype dtype, int ndim, const int64_t *dim)
{
    if (t->status != FV_OK || t->mode != FV_TRAIN) return;
    const fv_t s = fvi_new_value(t, dtype, ndim, dim);
    if (!s) return;
    t->v[s].kind = FVI_NODE;
    t->v[s].node = t->nn - 1;
    t->v[s].slot = slot;
    t->n[t->nn - 1].out[slot] = s;
}

/* ---- Inputs, parameters, outputs, views ------------------------------------------------------ */

static fv_t add_input(fv_tape *t, const char *name, fv_dtype dtype, int ndim, const int64_t *dim,
                      int grad)
{
    if (t->status != FV_OK) return 0;
    if (ndim < 1 || ndim > FV_MAX_DIMS)
        return BAD(t, FV_ERR_SHAPE, "input %s: %d dimensions", name, ndim);
    for (int i = 1; i < t->nv; i++)
        if (t->v[i].name && strcmp(t->v[i].name, name) == 0)
            return BAD(t, FV_ERR_ARG, "input %s: name used twice", name);
    const fv_t x = fvi_new_value(t, dtype, ndim, dim);
    if (!x) return 0;
    t->v[x].kind = FVI_INPUT;
    t->v[x].needs_grad = (uint8_t)(grad && t->mode == FV_TRAIN);
    t->v[x].name = fv_strdup(t->ctx, name);
    return t->v[x].name ? x : fvi_poison(t, FV_ERR_OOM);
}

fv_t fv_input(fv_tape *t, const char *name, fv_dtype dtype, int ndim, const int64_t *dim)
{
    return add_input(t, name, dtype, ndim, dim, 0);
}

fv_t fv_input_grad(fv_tape *t, const char *name, fv_dtype dtype, int ndim, const int64_t *dim)
{
    return add_input(t, name, dtype, ndim, dim, 1);
}

fv_t fv_param(fv_tape *t, fv_pid id)
{
    if (t->status != FV_OK) return 0;
    if (!t->params || id < 0 || id >= fv_params_count(t->params))
        return BAD(t, FV_ERR_ARG, "tape: parameter id %d does not exist", (int)id);
    for (int i = 1; i < t->nv; i++)
        if (t->v[i].kind == FVI_PARAM && t->v[i].pid == id) return (fv_t)i;
    const fv_tensor p = fv_params_tensor(t->params, id);
    const fv_t x = fvi_new_value(t, FV_F32, p.ndim, p.dim);
    if (!x) return 0;
    t->v[x].kind = FVI_PARAM;
    t->v[x].pid = id;
    t->v[x].needs_grad = t->mode == FV_TRAIN && !(fvi_param_flags(t->params, id) & FV_PARAM_FROZEN);
    return x;
}

static fv_t add_view(fv_tape *t, fv_t base, int64_t offset, int ndim, const int64_t *dim)
{
    const fv_t y = fvi_new_value(t, t->v[base].t.dtype, ndim, dim);
    if (!y) return 0;
    const fvi_value *b = &t->v[base];
    t->v[y].kind = FVI_VIEW;
    t->v[y].base = b->kind == FVI_VIEW ? b->base : base;
    t->v[y].offset = offset + (b->kind == FVI_VIEW ? b->offset : 0);
    t->v[y].needs_grad = b->needs_grad;
    return y;
}

fv_t fv_param_row(fv_tape *t, fv_pid id, int64_t row)
{
    const fv_t p = fv_param(t, id);
    if (!p) return 0;
    const fv_tensor s = t->v[p].t;
    if (s.ndim < 2 || row < 0 || row >= s.dim[0])
        return BAD(t, FV_ERR_SHAPE, "param_row: %s has no row %lld", fv_params_name(t->params, id),
                   (long long)row);
    return add_view(t, p, row * (fv_tensor_count(&s) / s.dim[0]), s.ndim - 1, s.dim + 1);
}

fv_t fv_reshape(fv_tape *t, fv_t x, int ndim, const int64_t *dim)
{
    if (!fvi_handle_ok(t, "reshape", x, false)) return 0;
    if (ndim < 1 || ndim > FV_MAX_DIMS) return BAD(t, FV_ERR_SHAPE, "reshape: %d dimensions", ndim);
    fv_tensor s = { .ndim = ndim };
    memcpy(s.dim, dim, (size_t)ndim * sizeof *dim);
    if (fv_tensor_count(&s) != fv_tensor_count(&t->v[x].t))
        return BAD(t, FV_ERR_SHAPE, "reshape: %lld elements cannot become %lld",
                   (long long)fv_tensor_count(&t->v[x].t), (long long)fv_tensor_count(&s));
    return add_view(t, x, 0, ndim, dim);
}

fv_t fv_detach(fv_tape *t, fv_t x)
{
    if (!fvi_handle_ok(t, "detach", x, false)) return 0;
    const fv_tensor s = t->v[x].t;
    const fv_t y = add_view(t, x, 0, s.ndim, s.dim);
    if (y) t->v[y].needs_grad = 0;
    return y;
}

void fv_output(fv_tape *t, const char *name, fv_t x)
{
    if (!fvi_handle_ok(t, "output", x, false)) return;
    for (int i = 1; i < t->nv; i++)
        if (t->v[i].name && strcmp(t->v[i].name, name) == 0) {
            BAD(t, FV_ERR_ARG, "output %s: name used twice", name);
            return;
        }
    if (t->v[x].kind != FVI_NODE || t->v[x].name) {
        BAD(t, FV_ERR_ARG, "output %s: must be the result of an op and not be named already", name);
        return;
    }
    t->v[x].is_output = 1;
    t->v[x].name = fv_strdup(t->ctx, name);
    if (!t->v[x].name) fvi_poison(t, FV_ERR_OOM);
}

/* ---- Matrix products and convolution --------------------------------------------------------- */

fv_t fv_cast(fv_tape *t, fv_t x, fv_dtype dtype)
{
    if (!fvi_handle_ok(t, "cast", x, false)) return 0;
    const fv_tensor s = t->v[x].t;
    if (s.dtype == dtype) return x;
    if (!fvi_is_float(s.dtype) || !fvi_is_float(dtype))
        return BAD(t, FV_ERR_DTYPE, "cast: only f32 and bf16");
    const fvi_attr a = { { 0 }, { 0 } };
    return fvi_record(t, FVI_OP_CAST, &a, &x, 1, dtype, s.ndim, s.dim);
}

fv_t fv_linear_as(fv_tape *t, fv_t x, fv_pid w, fv_pid b, fv_act act, fv_dtype out)
{
    if (!fvi_handle_ok(t, "linear", x, false)) return 0;
    x = fv_cast(t, x, t->precision);
    const fv_t in[3] = { x, fv_param(t, w), b >= 0 ? fv_param(t, b) : 0 };
    if (t->status != FV_OK) return 0;
    const fv_tensor xs = t->v[x].t, ws = t->v[in[1]].t;
    const int64_t columns = fv_tensor_count(&ws) / ws.dim[0];
    if (ws.ndim < 2 || fvi_last_dim(&xs) != columns)
        return BAD(t, FV_ERR_SHAPE, "linear %s: input has %lld columns, weight expects %lld",
                   fv_params_name(t->params, w), (long long)fvi_last_dim(&xs), (long long)columns);
    if (in[2] && fv_tensor_count(&t->v[in[2]].t) != ws.dim[0])
        return BAD(t, FV_ERR_SHAPE, "linear %s: bias length differs", fv_params_name(t->params, b));
    if (t->precision == FV_F32) out = FV_F32;
    if (!fvi_is_float(out))
        return BAD(t, FV_ERR_DTYPE, "linear %s: output must be f32 or bf16",
                   fv_params_name(t->params, w));
    int64_t dim[FV_MAX_DIMS];
    memcpy(dim, xs.dim, sizeof dim);
    dim[xs.ndim - 1] = ws.dim[0];
    const bool fuse = t->mode == FV_INFER && act <= FV_ACT_TANH;
    const fvi_attr a = { { fuse ? (int32_t)act : FV_ACT_NONE, t->fp8 }, { 0 } };
    const fv_t y = fvi_record(t, FVI_OP_LINEAR, &a, in, 3, out, xs.ndim, dim);
    return fuse || act == FV_ACT_NONE ? y : fv_activate(t, y, act);
}

fv_t fv_linear(fv_tape *t, fv_t x, fv_pid w, fv_pid b, fv_act act)
{
    return fv_linear_as(t, x, w, b, act, t->precision);
}

fv_t fv_conv2d(fv_tape *t, fv_t x, fv_pid w, fv_pid b, fv_conv c)
{
    return fv_conv2d_as(t, x, w, b, c, t->precision);
}

fv_t fv_conv2d_as(fv_tape *t, fv_t x, fv_pid w, fv_pid b, fv_conv c, fv_dtype out)
{
    if (!fvi_handle_ok(t, "conv2d", x, false)) return 0;
    x = fv_cast(t, x, t->precision);
    const fv_t in[3] = { x, fv_param(t, w), b >= 0 ? fv_param(t, b) : 0 };
    if (t->status != FV_OK) return 0;
    const fv_tensor xs = t->v[x].t, ws = t->v[in[1]].t;
    const int stride = c.stride ? c.stride : 1;
    if (xs.ndim != 4 || ws.ndim != 4 || xs.dim[3] != ws.dim[1])
        return BAD(t, FV_ERR_SHAPE, "conv2d %s: input [B,H,W,C] and weight [O,C,kh,kw] do not fit",
                   fv_params_name(t->params, w));
    if (in[2] && fv_tensor_count(&t->v[in[2]].t) != ws.dim[0])
        return BAD(t, FV_ERR_SHAPE, "conv2d %s: bias length differs", fv_params_name(t->params, b));
    const int64_t h = xs.dim[1] + c.pad_top + c.pad_bottom - ws.dim[2];
    const int64_t wd = xs.dim[2] + c.pad_left + c.pad_right - ws.dim[3];
    if (h < 0 || wd < 0 || stride < 1 || c.pad_top < 0 || c.pad_left < 0 || c.pad_bottom < 0 ||
        c.pad_right < 0)
        return BAD(t, FV_ERR_SHAPE, "conv2d %s: kernel larger than the padded input",
                   fv_params_name(t->params, w));
    const int64_t dim[4] = { xs.dim[0], h / stride + 1, wd / stride + 1, ws.dim[0] };
    const bool fuse = t->mode == FV_INFER && c.act <= FV_ACT_TANH;
    const fvi_attr a = {
        {stride, c.pad_top, c.pad_left, c.pad_bottom, c.pad_right, fuse ? (int32_t)c.act : 0}, {0}};
    if (out != FV_F32 && out != t->precision)
        return BAD(t, FV_ERR_DTYPE, "conv2d %s: output must be f32 or the tape's type",
                   fv_params_name(t->params, w));
    const fv_t y = fvi_record(t, FVI_OP_CONV2D, &a, in, 3, out, 4, dim);
    return fuse || c.act == FV_ACT_NONE ? y : fv_activate(t, y, c.act);
}

/* ---- Elementwise ----------------------------------------------------------------------------- */

fv_t fv_activate(fv_tape *t, fv_t x, fv_act act)
{
    if (!fvi_handle_ok(t, "activate", x, false)) return 0;
    if (act == FV_ACT_NONE) return x;
    const fv_tensor s = t->v[x].t;
    if (act < 0 || act >= FV_ACT_COUNT || !fvi_is_float(s.dtype))
        return BAD(t, FV_ERR_ARG, "activate: kind or type");
    const fvi_attr a = { { (int32_t)act }, { 0 } };
    return fvi_record(t, FVI_OP_ACT, &a, &x, 1, s.dtype, s.ndim, s.dim);
}

fv_t fv_affine(fv_tape *t, fv_t x, float scale, float shift)
{
    if (!fvi_handle_ok(t, "affine", x, false)) return 0;
    const fv_tensor s = t->v[x].t;
    if (!fvi_is_float(s.dtype)) return BAD(t, FV_ERR_DTYPE, "affine: f32 or bf16 expected");
    const fvi_attr a = { { 0 }, { scale, shift } };
    return fvi_record(t, FVI_OP_AFFINE, &a, &x, 1, s.dtype, s.ndim, s.dim);
}

/* 0 same shape, 1 trailing dimensions, 2 one value per first index, -1 none of these. */
static int broadcast_kind(const fv_tensor *a, const fv_tensor *b)
{
    if (fvi_same_dims(a, b)) return 0;
    if (b->ndim < a->ndim &&
        memcmp(a->dim + (a->ndim - b->ndim), b->dim, (size_t)b->ndim * sizeof b->dim[0]) == 0)
        return 1;
    return b->ndim == 1 && b->dim[0] == a->dim[0] ? 2 : -1;
}

fv_t fv_binary_op(fv_tape *t, fv_binary op, fv_t a, fv_t b)
{
    if (!fvi_handle_ok(t, "binary", a, false) || !fvi_handle_ok(t, "binary", b, false)) return 0;
    const fv_tensor as = t->v[a].t, bs = t->v[b].t;
    if (!fvi_is_float(as.dtype) || !fvi_is_float(bs.dtype))
        return BAD(t, FV_ERR_DTYPE, "binary: f32 or bf16 expected");
    const int kind = broadcast_kind(&as, &bs);
    if (kind < 0)
        return BAD(t, FV_ERR_SHAPE, "binary: second operand cannot be broadcast to the first");
    const fvi_attr at = { { (int32_t)op, kind }, { 0 } };
    const fv_t in[2] = { a, b };
    return fvi_record(t, FVI_OP_BINARY, &at, in, 2, as.dtype, as.ndim, as.dim);
}

/* ---- Transformer ops ------------------------------------------------------------------------- */

/* mod is [B, n*C] with chunks 0..n-1; chunk -1 is "none". */
static bool chunks_ok(fv_tape *t, const char *op, fv_t mod, int64_t B, int64_t C, int c0, int c1)
{
    if (!mod) return true;
    const fv_tensor *m = &t->v[mod].t;
    const int top = c0 > c1 ? c0 : c1;
    if (m->ndim == 2 && m->dtype == FV_F32 && m->dim[0] == B && m->dim[1] % C == 0 && c0 >= -1 &&
        c1 >= -1 && (top + 1) * C <= m->dim[1])
        return true;
    BAD(t, FV_ERR_SHAPE, "%s: modulation must be f32 [%lld, n*%lld] with n > %d", op, (long long)B,
        (long long)C, top);
    return false;
}

bool fvi_vector_ok(fv_tape *t, const char *op, fv_t w, int64_t C)
{
    if (!w || (t->v[w].t.dtype == FV_F32 && fv_tensor_count(&t->v[w].t) == C)) return true;
    BAD(t, FV_ERR_SHAPE, "%s: weight or bias must be f32 [%lld]", op, (long long)C);
    return false;
}

fv_t fv_norm_modulate(fv_tape *t, fv_t x, fv_norm n)
{
    const fv_t in[4] = { x, n.weight, n.bias, n.mod };
    for (int k = 0; k < 4; k++)
        if (!fvi_handle_ok(t, "norm_modulate", in[k], k > 0)) return 0;
    const fv_tensor s = t->v[x].t;
    if (s.ndim != 3 || !fvi_is_float(s.dtype))
        return BAD(t, FV_ERR_SHAPE, "norm_modulate: x must be [B, T, C]");
    if (!fvi_vector_ok(t, "norm_modulate", n.weight, s.dim[2]) ||
        !fvi_vector_ok(t, "norm_modulate", n.bias, s.dim[2]) ||
        !chunks_ok(t, "norm_modulate", n.mod, s.dim[0], s.dim[2], n.shift_chunk, n.scale_chunk))
        return 0;
    const fvi_attr a = {{(int32_t)n.kind, n.mod ? n.shift_chunk : -1, n.mod ? n.scale_chunk : -1},
                        {n.eps}};
    const fv_t y = fvi_record(t, FVI_OP_NORM_MOD, &a, in, 4, t->precision, 3, s.dim);
    const int64_t stats[2] = { s.dim[0] * s.dim[1], 2 };
    fvi_record_saved(t, 1, FV_F32, 2, stats);
    return y;
}

/* One gate for all samples: h of any form. */
static fv_t gate_by_channel(fv_tape *t, fv_t h, fv_t y, fv_t gate)
{
    const fv_tensor s = t->v[h].t;
    if (!fvi_same_dims(&s, &t->v[y].t) || !fvi_is_float(s.dtype) || !fvi_is_float(t->v[y].t.dtype))
        return BAD(t, FV_ERR_SHAPE, "gate_residual: h and y differ in shape");
    if (!fvi_vector_ok(t, "gate_residual", gate, fvi_last_dim(&s))) return 0;
    const fvi_attr a = { { 0 }, { 0 } };
    const fv_t in[3] = { h, y, gate };
    return fvi_record(t, FVI_OP_GATE_RES, &a, in, 3, s.dtype, s.ndim, s.dim);
}

fv_t fv_gate_residual(fv_tape *t, fv_t h, fv_t y, fv_t mod, int gate_chunk)
{
    if (!fvi_handle_ok(t, "gate_residual", h, false) ||
        !fvi_handle_ok(t, "gate_residual", y, false) ||
        !fvi_handle_ok(t, "gate_residual", mod, true))
        return 0;
    const fv_tensor s = t->v[h].t;
    if (mod && t->v[mod].t.ndim == 1) return gate_by_channel(t, h, y, mod);
    if (s.ndim != 3 || s.dtype != FV_F32 || !fvi_same_dims(&s, &t->v[y].t) ||
        !fvi_is_float(t->v[y].t.dtype))
        return BAD(t, FV_ERR_SHAPE,
                   "gate_residual: h must be f32 [B, T, C] and y of the same shape");
    if (!chunks_ok(t, "gate_residual", mod, s.dim[0], s.dim[2], gate_chunk, mod ? 0 : -1)) return 0;
    const fvi_attr a = { { mod ? gate_chunk : -1 }, { 0 } };
    const fv_t in[3] = { h, y, mod };
    return fvi_record(t, FVI_OP_GATE_RES, &a, in, 3, FV_F32, 3, s.dim);
}

fv_t fv_gate_forecast(fv_tape *t, fv_t h, const fv_t *y, int count, fv_t weight, fv_t mod,
                      int gate_chunk)
{
    fv_t in[3 + FV_FORECAST_MAX] = { h, mod, weight };
    if (!fvi_handle_ok(t, "gate_forecast", h, false) ||
        !fvi_handle_ok(t, "gate_forecast", mod, true) ||
        !fvi_handle_ok(t, "gate_forecast", weight, false))
        return 0;
    if (t->mode == FV_TRAIN)
        return BAD(t, FV_ERR_STATE, "gate_forecast: it has no gradient: use it in FV_INFER tapes");
    if (count < 1 || count > FV_FORECAST_MAX)
        return BAD(t, FV_ERR_SHAPE, "gate_forecast: it takes 1 to 5 outputs");
    const fv_tensor s = t->v[h].t, w = t->v[weight].t;
    bool ok = s.ndim == 3 && s.dtype == FV_F32 && w.ndim == 1 && w.dim[0] == count &&
              w.dtype == FV_F32;
    for (int k = 0; k < count; k++) {
        if (!fvi_handle_ok(t, "gate_forecast", y[k], false)) return 0;
        const fv_tensor *v = &t->v[y[k]].t;
        ok = ok && fvi_same_dims(&s, v) && fvi_is_float(v->dtype) && v->dtype == t->v[y[0]].t.dtype;
        in[3 + k] = y[k];
    }
    if (!ok)
        return BAD(t, FV_ERR_SHAPE,
                   "gate_forecast: h must be f32 [B, T, C], y of the same shape, weight [count]");
    if (!chunks_ok(t, "gate_forecast", mod, s.dim[0], s.dim[2], gate_chunk, mod ? 0 : -1)) return 0;
    const fvi_attr a = { { mod ? gate_chunk : -1, count }, { 0 } };
    return fvi_record(t, FVI_OP_FORECAST, &a, in, 3 + count, FV_F32, 3, s.dim);
}

fv_t fv_swiglu(fv_tape *t, fv_t x)
{
    if (!fvi_handle_ok(t, "swiglu", x, false)) return 0;
    fv_tensor s = t->v[x].t;
    if (fvi_last_dim(&s) % 2 || !fvi_is_float(s.dtype))
        return BAD(t, FV_ERR_SHAPE, "swiglu: last dimension must be even");
    s.dim[s.ndim - 1] /= 2;
    const fvi_attr a = { { 0 }, { 0 } };
    return fvi_record(t, FVI_OP_SWIGLU, &a, &x, 1, s.dtype, s.ndim, s.dim);
}

static bool is_qkv(const fv_tensor *s)
{
    return s->ndim == 5 && s->dim[2] == 3 && s->dim[4] % 4 == 0 && fvi_is_float(s->dtype);
}

fv_t fv_sdpa(fv_tape *t, fv_t qkv, float scale, int causal)
{
    if (!fvi_handle_ok(t, "sdpa", qkv, false)) return 0;
    const fv_tensor s = t->v[qkv].t;
    if (!is_qkv(&s))
        return BAD(t, FV_ERR_SHAPE, "sdpa: input must be [B, T, 3, h, hd] with hd a multiple of 4");
    const fvi_attr a = { { causal != 0 }, { scale } };
    const int64_t dim[3] = { s.dim[0], s.dim[1], s.dim[3] * s.dim[4] };
    const fv_t y = fvi_record(t, FVI_OP_SDPA, &a, &qkv, 1, s.dtype, 3, dim);
    const int64_t lse[3] = { s.dim[0], s.dim[3], s.dim[1] };
    fvi_record_saved(t, 1, FV_F32, 3, lse);
    return y;
}

fv_t fv_sdpa_prefix(fv_tape *t, fv_t qkv, float scale, fv_t visible)
{
    if (!fvi_handle_ok(t, "sdpa_prefix", qkv, false) ||
        !fvi_handle_ok(t, "sdpa_prefix", visible, false))
        return 0;
    const fv_tensor s = t->v[qkv].t, v = t->v[visible].t;
    if (!is_qkv(&s) || v.dtype != FV_I32 || v.ndim != 1 || v.dim[0] != s.dim[1])
        return BAD(t, FV_ERR_SHAPE, "sdpa_prefix: input [B, T, 3, h, hd], hd a multiple of 4, and "
                   "i32 [T] expected");
    const fv_t y = fv_sdpa(t, qkv, scale, 0);
    if (y) t->n[t->v[y].node].in[1] = visible;
    return y;
}

fv_t fv_cross_attention(fv_tape *t, fv_t q, fv_t kv, fv_t bias, float scale)
{
    const fv_t in[3] = { q, kv, bias };
    for (int k = 0; k < 3; k++)
        if (!fvi_handle_ok(t, "cross_attention", in[k], k == 2)) return 0;
    const fv_tensor s = t->v[q].t, o = t->v[kv].t;
    if (s.ndim != 4 || o.ndim != 5 || o.dim[2] != 2 || s.dim[0] != o.dim[0] ||
        s.dim[2] != o.dim[3] || s.dim[3] != o.dim[4] || s.dim[3] % 4 || !fvi_is_float(s.dtype) ||
        s.dtype != o.dtype)
        return BAD(t, FV_ERR_SHAPE, "cross_attention: q [B, T, h, hd] and kv [B, S, 2, h, hd] of one "
                   "type expected, hd a multiple of 4");
    if (!fvi_vector_ok(t, "cross_attention", bias, o.dim[1])) return 0;
    if (bias && t->v[bias].needs_grad)
        return BAD(t, FV_ERR_UNSUPPORTED, "cross_attention: the bias has no gradient");
    const fvi_attr a = { { 0, 1 }, { scale } };
    const int64_t dim[3] = { s.dim[0], s.dim[1], s.dim[2] * s.dim[3] };
    const fv_t y = fvi_record(t, FVI_OP_CROSS, &a, in, 3, s.dtype, 3, dim);
    const int64_t lse[3] = { s.dim[0], s.dim[2], s.dim[1] };
    fvi_record_saved(t, 1, FV_F32, 3, lse);
    return y;
}

fv_t fv_unit_qk(fv_tape *t, fv_t qkv, fv_t scale, float eps, float most)
{
    if (!fvi_handle_ok(t, "unit_qk", qkv, false) ||
        !fvi_handle_ok(t, "unit_qk", scale, false)) return 0;
    const fv_tensor s = t->v[qkv].t;
    if (!is_qkv(&s)) return BAD(t, FV_ERR_SHAPE, "unit_qk: input must be [B, T, 3, h, hd]");
    if (!fvi_vector_ok(t, "unit_qk", scale, s.dim[3])) return 0;
    const fvi_attr a = { { 0 }, { eps, most } };
    const fv_t in[2] = { qkv, scale };
    return fvi_record(t, FVI_OP_UNIT_QK, &a, in, 2, s.dtype, 5, s.dim);
}

fv_t fv_qk_norm_rope(fv_tape *t, fv_t qkv, fv_t q_weight, fv_t k_weight, float eps, fv_t table)
{
    const fv_t in[4] = { qkv, q_weight, k_weight, table };
    for (int k = 0; k < 4; k++)
        if (!fvi_handle_ok(t, "qk_norm_rope", in[k], k > 0)) return 0;
    const fv_tensor s = t->v[qkv].t;
    if (!is_qkv(&s))
        return BAD(t, FV_ERR_SHAPE,
                   "qk_norm_rope: input must be [B, T, 3, h, hd], hd a multiple of 4");
    const bool is_wide = q_weight && s.dim[3] > 1 &&
                         fv_tensor_count(&t->v[q_weight].t) == s.dim[3] * s.dim[4];
    const int64_t norm = is_wide ? s.dim[3] * s.dim[4] : s.dim[4];
    if (!fvi_vector_ok(t, "qk_norm_rope", q_weight, norm) ||
        !fvi_vector_ok(t, "qk_norm_rope", k_weight, norm))
        return 0;
    if (!q_weight != !k_weight)
        return BAD(t, FV_ERR_ARG, "qk_norm_rope: give both weights or none");
    if (table &&
        (t->v[table].t.dtype != FV_F32 || fv_tensor_count(&t->v[table].t) != s.dim[1] * s.dim[4]))
        return BAD(t, FV_ERR_SHAPE, "qk_norm_rope: table must be f32 [T, 2, hd/2]");
    const fvi_attr a = { { 0, is_wide }, { eps } };
    const fv_t y = fvi_record(t, FVI_OP_QK_NORM_ROPE, &a, in, 4, s.dtype, 5, s.dim);
    const int64_t rstd[4] = { s.dim[0], s.dim[1], 2, s.dim[3] };
    fvi_record_saved(t, 1, FV_F32, 4, rstd);
    return y;
}

fv_t fv_rope_pairs(fv_tape *t, fv_t qkv, fv_t table)
{
    if (!fvi_handle_ok(t, "rope_pairs", qkv, false) ||
        !fvi_handle_ok(t, "rope_pairs", table, false))
        return 0;
    const fv_t y = fv_qk_norm_rope(t, qkv, 0, 0, 0.0f, table);
    if (y) t->n[t->v[y].node].attr.i[0] = 1;
    return y;
}

fv_t fv_timestep_embed(fv_tape *t, fv_t time, int dim, float scale, float den)
{
    if (!fvi_handle_ok(t, "timestep_embed", time, false)) return 0;
    const fv_tensor s = t->v[time].t;
    if (s.ndim != 1 || s.dtype != FV_F32 || dim < 2 || dim % 2)
        return BAD(t, FV_ERR_SHAPE, "timestep_embed: time must be f32 [B] and dim even");
    const fvi_attr a = { { 0 }, { scale, den > 0 ? den : (float)(dim / 2) } };
    const int64_t d[2] = { s.dim[0], dim };
    return fvi_record(t, FVI_OP_TIMESTEP, &a, &time, 1, FV_F32, 2, d);
}

fv_t fv_embed(fv_tape *t, fv_pid table, fv_t ids)
{
    if (!fvi_handle_ok(t, "embed", ids, false)) return 0;
    const fv_t in[2] = { fv_param(t, table), ids };
    if (t->status != FV_OK) return 0;
    const fv_tensor w = t->v[in[0]].t, s = t->v[ids].t;
    if (w.ndim != 2 || s.ndim != 1 || s.dtype != FV_I32)
        return BAD(t, FV_ERR_SHAPE, "embed: table [V, D] and ids i32 [n] expected");
    const fvi_attr a = { { 0 }, { 0 } };
    const int64_t d[2] = { s.dim[0], w.dim[1] };
    return fvi_record(t, FVI_OP_EMBED, &a, in, 2, FV_F32, 2, d);
}

static fv_t record_patch(fv_tape *t, fv_t x, int p, int channel_first, int inverse, int64_t H,
                         int64_t W, int64_t C)
{
    const fv_tensor s = t->v[x].t;
    const fvi_attr a = {{p, channel_first != 0, inverse, (int32_t)H, (int32_t)W, (int32_t)C}, {0}};
    const int64_t tokens[3] = { s.dim[0], (H / p) * (W / p), (int64_t)p * p * C };
    const int64_t image[4] = { s.dim[0], H, W, C };
    return inverse ? fvi_record(t, FVI_OP_PATCHIFY, &a, &x, 1, s.dtype, 4, image)
                   : fvi_record(t, FVI_OP_PATCHIFY, &a, &x, 1, s.dtype, 3, tokens);
}

fv_t fv_patchify(fv_tape *t, fv_t x, int p, int channel_first)
{
    if (!fvi_handle_ok(t, "patchify", x, false)) return 0;
    const fv_tensor s = t->v[x].t;
    if (s.ndim != 4 || p < 1 || s.dim[1] % p || s.dim[2] % p || !fvi_is_float(s.dtype))
        return BAD(t, FV_ERR_SHAPE,
                   "patchify: [B, H, W, C] with sides that are multiples of %d expected", p);
    return record_patch(t, x, p, channel_first, 0, s.dim[1], s.dim[2], s.dim[3]);
}

fv_t fv_unpatchify(fv_tape *t, fv_t x, int height, int width, int p, int channel_first)
{
    if (!fvi_handle_ok(t, "unpatchify", x, false)) return 0;
    const fv_tensor s = t->v[x].t;
    if (s.ndim != 3 || p < 1 || height % p || width % p ||
        s.dim[1] != (int64_t)(height / p) * (width / p) || s.dim[2] % ((int64_t)p * p) ||
        !fvi_is_float(s.dtype))
        return BAD(t, FV_ERR_SHAPE, "unpatchify: [B, N, p*p*C] does not fit %d x %d pixels", width,
                   height);
    return record_patch(t, x, p, channel_first, 1, height, width, s.dim[2] / ((int64_t)p * p));
}

/* ---- Image ops and columns ------------------------------------------------------------------- */

fv_t fv_groupnorm(fv_tape *t, fv_t x, fv_t weight, fv_t bias, int groups, float eps, fv_act act)
{
    const fv_t in[3] = { x, weight, bias };
    for (int k = 0; k < 3; k++)
        if (!fvi_handle_ok(t, "groupnorm", in[k], k > 0)) return 0;
    const fv_tensor s = t->v[x].t;
    if (s.ndim != 4 || groups < 1 || s.dim[3] % groups || !fvi_is_float(s.dtype))
        return BAD(t, FV_ERR_SHAPE, "groupnorm: [B, H, W, C] with C a multiple of %d expected",
                   groups);
    if (act != FV_ACT_NONE && act != FV_ACT_SILU && act != FV_ACT_RELU)
        return BAD(t, FV_ERR_ARG, "groupnorm: activation must be none, silu or relu");
    if (!fvi_vector_ok(t, "groupnorm", weight, s.dim[3]) ||
        !fvi_vector_ok(t, "groupnorm", bias, s.dim[3]))
        return 0;
    const fvi_attr a = { { groups, (int32_t)act }, { eps } };
    const fv_t y = fvi_record(t, FVI_OP_GROUPNORM, &a, in, 3, s.dtype, 4, s.dim);
    const int64_t stats[3] = { s.dim[0], groups, 2 };
    fvi_record_saved(t, 1, FV_F32, 3, stats);
    return y;
}

fv_t fv_upsample2x(fv_tape *t, fv_t x)
{
    if (!fvi_handle_ok(t, "upsample2x", x, false)) return 0;
    const fv_tensor s = t->v[x].t;
    if (s.ndim != 4 || !fvi_is_float(s.dtype))
        return BAD(t, FV_ERR_SHAPE, "upsample2x: [B, H, W, C] expected");
    const int64_t d[4] = { s.dim[0], 2 * s.dim[1], 2 * s.dim[2], s.dim[3] };
    const fvi_attr a = { { 0 }, { 0 } };
    return fvi_record(t, FVI_OP_UPSAMPLE2X, &a, &x, 1, s.dtype, 4, d);
}

fv_t fv_mean_axis1(fv_tape *t, fv_t x)
{
    if (!fvi_handle_ok(t, "mean_axis1", x, false)) return 0;
    const fv_tensor s = t->v[x].t;
    if (s.ndim != 3 || !fvi_is_float(s.dtype))
        return BAD(t, FV_ERR_SHAPE, "mean_axis1: [B, T, C] expected");
    const int64_t d[2] = { s.dim[0], s.dim[2] };
    const fvi_attr a = { { 0 }, { 0 } };
    return fvi_record(t, FVI_OP_MEAN1, &a, &x, 1, FV_F32, 2, d);
}

fv_t fv_slice(fv_tape *t, fv_t x, int64_t first, int64_t n)
{
    if (!fvi_handle_ok(t, "slice", x, false)) return 0;
    fv_tensor s = t->v[x].t;
    if (first < 0 || n < 1 || first > INT32_MAX || first > fvi_last_dim(&s) - n ||
        !fvi_is_float(s.dtype))
        return BAD(t, FV_ERR_SHAPE, "slice: %lld columns from %lld of %lld", (long long)n,
                   (long long)first, (long long)fvi_last_dim(&s));
    s.dim[s.ndim - 1] = n;
    const fvi_attr a = { { (int32_t)first }, { 0 } };
    return fvi_record(t, FVI_OP_SLICE, &a, &x, 1, s.dtype, s.ndim, s.dim);
}

fv_t fv_concat(fv_tape *t, fv_t a, fv_t b, int axis)
{
    if (!fvi_handle_ok(t, "concat", a, false) || !fvi_handle_ok(t, "concat", b, false)) return 0;
    const fv_tensor s = t->v[a].t, u = t->v[b].t;
    bool fits = s.ndim == u.ndim && s.dtype == u.dtype && fvi_is_float(s.dtype) && axis >= 0 &&
                axis < s.ndim;
    int64_t runs = 1;
    for (int i = 0; i < s.ndim && fits; i++) {
        fits = i == axis || s.dim[i] == u.dim[i];
        if (i < axis) runs *= s.dim[i];
    }
    if (!fits || runs > INT32_MAX)
        return BAD(t, FV_ERR_SHAPE, "concat: tensors of one type that differ in dimension %d alone "
                   "are needed", axis);
    fv_tensor y = s;
    y.dim[axis] += u.dim[axis];
    const fvi_attr at = { { (int32_t)runs }, { 0 } };
    const fv_t in[2] = { a, b };
    return fvi_record(t, FVI_OP_CONCAT, &at, in, 2, y.dtype, y.ndim, y.dim);
}

fv_t fv_filter_image(fv_tape *t, fv_t x, fv_image_filter kind, int stride)
{
    if (!fvi_handle_ok(t, "filter", x, false)) return 0;
    const fv_tensor s = t->v[x].t;
    if (s.ndim != 4 || s.dtype != FV_F32)
        return BAD(t, FV_ERR_SHAPE, "filter: f32 [B, H, W, C] expected");
    if (kind < 0 || kind >= FV_FILTER_COUNT || stride < 1 || stride > 2)
        return BAD(t, FV_ERR_ARG, "filter: kind, or a stride that is not 1 or 2");
    const int64_t d[4] = { s.dim[0], (s.dim[1] - 1) / stride + 1, (s.dim[2] - 1) / stride + 1,
                           s.dim[3] };
    const fvi_attr a = { { (int32_t)kind, stride }, { 0 } };
    return fvi_record(t, FVI_OP_FILTER, &a, &x, 1, FV_F32, 4, d);
}

/* ---- Rows and maps --------------------------------------------------------------------------- */

fv_t fv_mix_rows(fv_tape *t, fv_t x, fv_t index, fv_t weight)
{
    const fv_t in[3] = { x, index, weight };
    for (int k = 0; k < 3; k++)
        if (!fvi_handle_ok(t, "mix_rows", in[k], false)) return 0;
    const fv_tensor s = t->v[x].t, i = t->v[index].t, w = t->v[weight].t;
    if (s.ndim != 3 || s.dtype != FV_F32 || i.ndim != 2 || i.dtype != FV_I32 ||
        w.dtype != FV_F32 || !fvi_same_dims(&i, &w))
        return BAD(t, FV_ERR_SHAPE, "mix_rows: f32 x [B, T, C], i32 index and f32 weight [R, n] "
                   "expected");
    const fvi_attr at = { { 0 }, { 0 } };
    const int64_t dim[3] = { s.dim[0], i.dim[0], s.dim[2] };
    return fvi_record(t, FVI_OP_MIX_ROWS, &at, in, 3, FV_F32, 3, dim);
}

static fv_t haar(fv_tape *t, fv_t x, int inverse)
{
    if (!fvi_handle_ok(t, "haar", x, false)) return 0;
    const fv_tensor s = t->v[x].t;
    if (s.ndim != 4 || !fvi_is_float(s.dtype) ||
        (inverse ? s.dim[3] % 4 : s.dim[1] % 2 || s.dim[2] % 2))
        return BAD(t, FV_ERR_SHAPE, "haar: [B, H, W, C] with even sides, or 4C channels for the "
                   "inverse, expected");
    const fvi_attr at = { { inverse }, { 0 } };
    const int64_t down[4] = { s.dim[0], s.dim[1] / 2, s.dim[2] / 2, 4 * s.dim[3] };
    const int64_t up[4] = { s.dim[0], 2 * s.dim[1], 2 * s.dim[2], s.dim[3] / 4 };
    return fvi_record(t, FVI_OP_HAAR, &at, &x, 1, s.dtype, 4, inverse ? up : down);
}

fv_t fv_haar_down(fv_tape *t, fv_t x) { return haar(t, x, 0); }
fv_t fv_haar_up(fv_tape *t, fv_t x) { return haar(t, x, 1); }

/* H, W: of the map. */
static fv_t windows(fv_tape *t, fv_t x, int64_t B, int64_t H, int64_t W, int size, int shift,
                    int inverse)
{
    const fv_tensor s = t->v[x].t;
    const int64_t n = (H + shift + size - 1) / size * ((W + shift + size - 1) / size);
    const fvi_attr at = { { size, shift, inverse, (int32_t)H, (int32_t)W }, { 0 } };
    const int64_t map[4] = { B, H, W, s.dim[s.ndim - 1] };
    const int64_t rows[3] = { B * n, (int64_t)size * size, s.dim[s.ndim - 1] };
    if (inverse && (s.dim[0] != rows[0] || s.dim[1] != rows[1]))
        return BAD(t, FV_ERR_SHAPE, "windows: the inverse of a [%lld, %lld, %lld, C] map with "
                   "windows of %d needs [%lld, %lld, C]", (long long)B, (long long)H, (long long)W,
                   size, (long long)rows[0], (long long)rows[1]);
    return fvi_record(t, FVI_OP_WINDOWS, &at, &x, 1, s.dtype, inverse ? 4 : 3,
                      inverse ? map : rows);
}

static bool windows_ok(fv_tape *t, fv_t x, int ndim, int size, int shift)
{
    if (!fvi_handle_ok(t, "windows", x, false)) return false;
    const fv_tensor s = t->v[x].t;
    if (s.ndim == ndim && fvi_is_float(s.dtype) && size >= 1 && size <= 1024 && shift >= 0 &&
        shift < size)
        return true;
    BAD(t, FV_ERR_SHAPE, "windows: [B, H, W, C], or [windows, side * side, C] for the inverse, and "
        "a shift below the side expected");
    return false;
}

fv_t fv_windows(fv_tape *t, fv_t x, int size, int shift)
{
    if (!windows_ok(t, x, 4, size, shift)) return 0;
    const fv_tensor s = t->v[x].t;
    return windows(t, x, s.dim[0], s.dim[1], s.dim[2], size, shift, 0);
}

fv_t fv_unwindows(fv_tape *t, fv_t x, int height, int width, int size, int shift)
{
    if (!windows_ok(t, x, 3, size, shift)) return 0;
    if (height < 1 || width < 1 || height > (1 << 24) || width > (1 << 24))
        return BAD(t, FV_ERR_SHAPE, "windows: the map must have sides of 1 to 2^24");
    const int64_t n = (int64_t)((height + shift + size - 1) / size) *
                      ((width + shift + size - 1) / size);
    return windows(t, x, t->v[x].t.dim[0] / n, height, width, size, shift, 1);
}

/* ---- RWKV-7 and mixture of experts ----------------------------------------------------------- */

static bool all_ok(fv_tape *t, const char *op, const fv_t *in, int n, int optional_from)
{
    for (int k = 0; k < n; k++)
        if (!fvi_handle_ok(t, op, in[k], k >= optional_from)) return false;
    return true;
}

static fv_t record_lerp(fv_tape *t, fv_t a, fv_t b, fv_t mix, fv_t prev)
{
    const fv_tensor s = t->v[a].t;
    const fvi_attr at = { { 0 }, { 0 } };
    const fv_t in[4] = { a, b, mix, prev };
    return fvi_record(t, FVI_OP_LERP, &at, in, 4, s.dtype, s.ndim, s.dim);
}

fv_t fv_lerp(fv_tape *t, fv_t a, fv_t b, fv_t mix)
{
    const fv_t in[3] = { a, b, mix };
    if (!all_ok(t, "lerp", in, 3, 3)) return 0;
    const fv_tensor s = t->v[a].t;
    if (!fvi_same_dims(&s, &t->v[b].t) || !fvi_is_float(s.dtype) || !fvi_is_float(t->v[b].t.dtype))
        return BAD(t, FV_ERR_SHAPE, "lerp: the two operands differ in shape");
    if (!fvi_vector_ok(t, "lerp", mix, fvi_last_dim(&s))) return 0;
    return record_lerp(t, a, b, mix, 0);
}

fv_t fv_token_shift(fv_tape *t, fv_t x, fv_t mix, fv_t prev)
{
    const fv_t in[3] = { x, mix, prev };
    if (!all_ok(t, "token_shift", in, 3, 2)) return 0;
    const fv_tensor s = t->v[x].t, *p = prev ? &t->v[prev].t : NULL;
    if (s.ndim != 3 || !fvi_is_float(s.dtype))
        return BAD(t, FV_ERR_SHAPE, "token_shift: x must be [B, T, C]");
    if (!fvi_vector_ok(t, "token_shift", mix, s.dim[2])) return 0;
    if (p && (p->ndim != 2 || p->dtype != FV_F32 || p->dim[0] != s.dim[0] || p->dim[1] != s.dim[2]))
        return BAD(t, FV_ERR_SHAPE, "token_shift: the row before must be f32 [B, C]");
    return record_lerp(t, x, 0, mix, prev);
}

fv_t fv_mix2(fv_tape *t, fv_t a, fv_t b, fv_t coef)
{
    const fv_t in[3] = { a, b, coef };
    if (!all_ok(t, "mix2", in, 3, 3)) return 0;
    const fv_tensor s = t->v[a].t;
    if (!fvi_same_dims(&s, &t->v[b].t) || !fvi_is_float(s.dtype) || !fvi_is_float(t->v[b].t.dtype))
        return BAD(t, FV_ERR_SHAPE, "mix2: the two operands differ in shape");
    if (!fvi_vector_ok(t, "mix2", coef, 2)) return 0;
    const fvi_attr at = { { 0 }, { 0 } };
    return fvi_record(t, FVI_OP_MIX2, &at, in, 3, s.dtype, s.ndim, s.dim);
}

/* [B, T, C] with C a multiple of the head, n of them alike. */
static bool heads_ok(fv_tape *t, const char *op, const fv_t *x, int n)
{
    const fv_tensor *s = &t->v[x[0]].t;
    bool fits = s->ndim == 3 && s->dim[2] % FV_WKV_HEAD == 0;
    for (int k = 0; k < n; k++)
        fits = fits && fvi_same_dims(s, &t->v[x[k]].t) && fvi_is_float(t->v[x[k]].t.dtype);
    if (!fits)
        BAD(t, FV_ERR_SHAPE, "%s: the sequences must be [B, T, C], alike, C a multiple of %d", op,
            FV_WKV_HEAD);
    return fits;
}

fv_t fv_wkv7(fv_tape *t, const fv_wkv *w, fv_t *state_out)
{
    const fv_t in[7] = { w->r, w->k, w->v, w->decay, w->rate, w->key_scale, w->state };
    if (state_out) *state_out = 0;
    if (!all_ok(t, "wkv7", in, 7, 6) || !heads_ok(t, "wkv7", in, 3)) return 0;
    const fv_tensor s = t->v[w->r].t;
    for (int k = 3; k < 6; k++)
        if (!fvi_vector_ok(t, "wkv7", in[k], s.dim[2])) return 0;
    const int64_t B = s.dim[0], T = s.dim[1], H = s.dim[2] / FV_WKV_HEAD;
    const int64_t state[4] = { B, H, FV_WKV_HEAD, FV_WKV_HEAD };
    if (w->state && (t->v[w->state].t.dtype != FV_F32 ||
                     fv_tensor_count(&t->v[w->state].t) != B * H * FV_WKV_HEAD * FV_WKV_HEAD))
        return BAD(t, FV_ERR_SHAPE, "wkv7: the state must be f32 [B, C/16, 16, 16]");
    const fvi_attr at = { { 0 }, { 0 } };
    const fv_t y = fvi_record(t, FVI_OP_WKV, &at, in, 7, s.dtype, 3, s.dim);
    if (y && state_out) {
        *state_out = fvi_new_value(t, FV_F32, 4, state);
        if (!*state_out) return 0;
        t->v[*state_out].kind = FVI_NODE;
        t->v[*state_out].node = t->nn - 1;
        t->v[*state_out].slot = 1;
        t->n[t->nn - 1].out[1] = *state_out;
    }
    const int64_t pieces = (T + FV_WKV_HEAD - 1) / FV_WKV_HEAD; /* fvi_wkv_saved */
    const int64_t saved[2] = { B * H, T * FV_WKV_HEAD + pieces * FV_WKV_HEAD * FV_WKV_HEAD };
    fvi_record_saved(t, 2, FV_F32, 2, saved);
    return y;
}

fv_t fv_wkv7_head(fv_tape *t, fv_t y, const fv_wkv *w, fv_t weight, fv_t bias, fv_t bonus,
                  float eps)
{
    const fv_t in[7] = { y, w->r, w->k, w->v, weight, bias, bonus };
    if (!all_ok(t, "wkv7_head", in, 7, 7) || !heads_ok(t, "wkv7_head", in, 4)) return 0;
    const fv_tensor s = t->v[y].t;
    for (int k = 4; k < 7; k++)
        if (!fvi_vector_ok(t, "wkv7_head", in[k], s.dim[2])) return 0;
    const fvi_attr at = { { 0 }, { eps } };
    return fvi_record(t, FVI_OP_WKV_HEAD, &at, in, 7, s.dtype, 3, s.dim);
}

/* f32 [R, E] with a number of experts that the ops take. */
static bool routes_ok(fv_tape *t, const char *op, const fv_t *x, int n)
{
    const fv_tensor *s = &t->v[x[0]].t;
    bool fits = s->ndim == 2 && s->dim[1] >= 3 && s->dim[1] <= FV_MAX_EXPERTS;
    for (int k = 0; k < n; k++)
        fits = fits && fvi_same_dims(s, &t->v[x[k]].t) && t->v[x[k]].t.dtype == FV_F32;
    if (!fits)
        BAD(t, FV_ERR_SHAPE, "%s: f32 [rows, experts] with 3 to %d experts expected", op,
            FV_MAX_EXPERTS);
    return fits;
}

fv_t fv_route_top2(fv_tape *t, fv_t logits)
{
    if (!all_ok(t, "route_top2", &logits, 1, 1) || !routes_ok(t, "route_top2", &logits, 1))
        return 0;
    const fvi_attr at = { { 0 }, { 0 } };
    return fvi_record(t, FVI_OP_ROUTE, &at, &logits, 1, FV_F32, 2, t->v[logits].t.dim);
}

fv_t fv_route_balance(fv_tape *t, fv_t clean, fv_t noisy, fv_t std, fv_t gate, float balance,
                      float z)
{
    const fv_t in[4] = { clean, noisy, std, gate };
    if (!all_ok(t, "route_balance", in, 4, 4) || !routes_ok(t, "route_balance", in, 4)) return 0;
    const fvi_attr at = { { 0 }, { balance, z } };
    const int64_t one = 1, sums[2] = { 2, t->v[clean].t.dim[1] };
    const fv_t y = fvi_record(t, FVI_OP_BALANCE, &at, in, 4, FV_F32, 1, &one);
    fvi_record_saved(t, 1, FV_F32, 2, sums);
    return y;
}

fv_t fv_moe(fv_tape *t, fv_t x, fv_t gate, fv_pid up, fv_pid down)
{
    if (!fvi_handle_ok(t, "moe", x, false) || !fvi_handle_ok(t, "moe", gate, false)) return 0;
    x = fv_cast(t, x, t->precision);
    const fv_t in[4] = { x, gate, fv_param(t, down), up >= 0 ? fv_param(t, up) : 0 };
    if (t->status != FV_OK || !routes_ok(t, "moe", &gate, 1)) return 0;
    const fv_tensor s = t->v[x].t, g = t->v[gate].t, d = t->v[in[2]].t;
    const int64_t K = fvi_last_dim(&s), E = g.dim[1];
    const fv_tensor u = in[3] ? t->v[in[3]].t : d;
    const bool fits = d.ndim == 2 && u.ndim == 2 && d.dim[0] % E == 0 && u.dim[1] == K &&
                      (!in[3] || u.dim[0] == E * d.dim[1]) && g.dim[0] * K == fv_tensor_count(&s);
    if (!fits || g.dim[0] > INT32_MAX)
        return BAD(t, FV_ERR_SHAPE,
                   "moe %s: x [..., K], gate [rows, E], down [E*N, H] and up [E*H, K] do not fit",
                   fv_params_name(t->params, down));
    fv_tensor y = s;
    y.dim[s.ndim - 1] = d.dim[0] / E;
    const fvi_attr at = { { (int32_t)E }, { 0 } };
    return fvi_record(t, FVI_OP_MOE, &at, in, 4, FV_F32, y.ndim, y.dim);
}
