/* op_rope.c - position codes: the tables, and FVI_OP_QK_NORM_ROPE on the CPU.
 *
 * Per token and head, for q and k (v is copied), with r = (mean(x^2) + eps)^-1/2:
 *     y = x r w                            RMS norm; skipped without w
 *     z_a = y_a cos - y_b sin,  z_b = y_a sin + y_b cos
 * A head is two halves of hd/2: the first turns by the row index, the second by the column (2-D
 * rotary embedding, Su et al. 2021, applied per axis). In a half of size d2 the pairs are
 * (a, b) = (i, i + d2/2), with angle number j = half * hd/4 + i in the table:
 *
 *     row t of the table:  | cos 0 .. cos hd/2-1 | sin 0 .. sin hd/2-1 |
 *
 * Attribute i1 takes the mean of x^2 over all heads of q, and of k; w is then [h * hd].
 *
 * Attribute i0 takes neighbours (2j, 2j+1) as pair j instead (LLaMA's order); without norm only.
 * Where both cosine and sine of a token are 0, its q and k become 0.
 *
 * Backward turns by the negative angle (u), then: dw += u * x r, and with g = u w, xh = x r:
 *     dx = r (g - xh * mean(g * xh))
 * The weights' gradients are summed per lane of tokens and the lanes added in order, so they do not
 * depend on the number of threads. */
#include <math.h>
#include <string.h>

#include "backend.h"
#include "cpu_ops.h"

/* ---- Tables ---------------------------------------------------------------------------------- */

void fv_rope_table(int rows, int columns, int head_dim, double theta, float *table)
{
    const int d2 = head_dim / 2, n = d2 / 2;
    for (int64_t t = 0; t < (int64_t)rows * columns; t++) {
        float *c = table + t * 2 * d2, *s = c + d2;
        const double position[2] = { (double)(t / columns), (double)(t % columns) };
        for (int half = 0; half < 2; half++)
            for (int i = 0; i < n; i++) {
                const double angle = position[half] * pow(theta, -2.0 * i / d2);
                c[half * n + i] = (float)cos(angle);
                s[half * n + i] = (float)sin(angle);
            }
    }
}

void fv_sincos_table(int rows, int columns, int channels, float *table)
{
    const int n = channels / 4;
    for (int64_t t = 0; t < (int64_t)rows * columns; t++) {
        float *y = table + t * channels;
        const double position[2] = { (double)(t % columns), (double)(t / columns) };
        for (int half = 0; half < 2; half++)
            for (int k = 0; k < n; k++) {
                const double angle = position[half] * pow(10000.0, -(double)k / n);
                y[half * 2 * n + k] = (float)sin(angle);
                y[half * 2 * n + n + k] = (float)cos(angle);
            }
        for (int k = 4 * n; k < channels; k++) y[k] = 0;
    }
}

/* ---- Scalar kernels -------------------------------------------------------------------------- */

FV_INLINE float get(const void *p, int i, int is_bf16)
{
    return is_bf16 ? fv_bf16_to_f32(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

FV_INLINE void put(void *p, int i, int is_bf16, float x)
{
    if (is_bf16) ((uint16_t *)p)[i] = fv_f32_to_bf16(x);
    else ((float *)p)[i] = x;
}

static void rope_c(fvi_rope_row *r)
{
    const int hd = r->hd, q = hd / 4;
    if (r->norm == FVI_ROPE_HEAD) r->rstd = 1.0f;
    if (r->w && r->norm == FVI_ROPE_HEAD) {
        float sum = 0;
        for (int i = 0; i < hd; i++) sum += get(r->x, i, r->is_bf16) * get(r->x, i, r->is_bf16);
        r->rstd = 1.0f / sqrtf(sum / (float)hd + r->eps);
    }
    for (int j = 0; j < hd / 2; j++) {
        const int a = j < q ? j : j + q, b = a + q;
        float ya = get(r->x, a, r->is_bf16), yb = get(r->x, b, r->is_bf16);
        if (r->w) {
            ya *= r->rstd * r->w[a];
            yb *= r->rstd * r->w[b];
        }
        const float c = r->angle ? r->angle[j] : 1.0f, s = r->angle ? r->angle[hd / 2 + j] : 0.0f;
        put(r->y, a, r->is_bf16, ya * c - yb * s);
        put(r->y, b, r->is_bf16, ya * s + yb * c);
    }
}

static void rope_grad_c(fvi_rope_row *r)
{
    const int hd = r->hd, q = hd / 4;
    float *u = r->work;
    for (int j = 0; j < hd / 2 && r->norm != FVI_ROPE_FINISH; j++) {
        const int a = j < q ? j : j + q, b = a + q;
        const float ga = get(r->gy, a, r->is_bf16), gb = get(r->gy, b, r->is_bf16);
        const float c = r->angle ? r->angle[j] : 1.0f, s = r->angle ? r->angle[hd / 2 + j] : 0.0f;
        u[a] = ga * c + gb * s;
        u[b] = gb * c - ga * s;
    }
    float sum = 0;
    for (int i = 0; i < hd && r->w && r->norm != FVI_ROPE_FINISH; i++) {
        const float xh = get(r->x, i, r->is_bf16) * r->rstd;
        if (r->dw) r->dw[i] += u[i] * xh;
        u[i] *= r->w[i];
        sum += u[i] * xh;
    }
    if (r->norm == FVI_ROPE_START) r->sum = sum;
    if (r->norm == FVI_ROPE_START) return;
    const float mean = r->norm == FVI_ROPE_FINISH ? r->sum : sum / (float)hd;
    for (int i = 0; i < hd && r->y; i++) {
        float g = u[i];
        if (r->w) g = r->rstd * (g - get(r->x, i, r->is_bf16) * r->rstd * mean);
        put(r->y, i, r->is_bf16, r->add ? g + get(r->y, i, r->is_bf16) : g);
    }
}

static void rope_pairs_c(const fvi_rope_row *r, bool is_back)
{
    const int n = r->hd / 2;
    for (int j = 0; j < n; j++) {
        const float xa = get(r->x, 2 * j, r->is_bf16), xb = get(r->x, 2 * j + 1, r->is_bf16);
        const float c = r->angle[j], s = is_back ? -r->angle[n + j] : r->angle[n + j];
        const float a = xa * c - xb * s, b = xb * c + xa * s;
        put(r->y, 2 * j, r->is_bf16, r->add ? a + get(r->y, 2 * j, r->is_bf16) : a);
        put(r->y, 2 * j + 1, r->is_bf16, r->add ? b + get(r->y, 2 * j + 1, r->is_bf16) : b);
    }
}

void fvi_rope_init(fvi_attention_ops *o, uint32_t cpu)
{
    o->rope_pairs = rope_pairs_c;
    o->rope = rope_c;
    o->rope_grad = rope_grad_c;
#if defined(__x86_64__)
    if (cpu & FV_CPU_AVX2) fvi_rope_init_avx2(o);
    if (cpu & FV_CPU_AVX512) fvi_rope_init_avx512(o);
#endif
}

/* ---- The op ---------------------------------------------------------------------------------- */

typedef struct shape {
    const fvi_attention_ops *ops;
    int64_t tokens, T, h;
    int hd, is_bf16, bytes;
    bool is_wide; /* one norm over all heads */
} shape;

fv_status fvi_rope_check(const fvi_exec *e)
{
    const fv_tensor *x = &e->in[0];
    if (x->ndim != 5 || x->dim[2] != 3 || x->dim[4] < 4 || x->dim[4] % 4 || x->dim[4] > 65536)
        return fv_fail(e->ctx, FV_ERR_SHAPE,
                       "qk_norm_rope: qkv must be [B, T, 3, heads, head size] with a "
                       "head size that is a multiple of 4, up to 65536");
    if ((x->dtype != FV_F32 && x->dtype != FV_BF16) || e->out[0].dtype != x->dtype)
        return fv_fail(e->ctx, FV_ERR_DTYPE,
                       "qk_norm_rope: qkv and output must both be f32 or both bf16");
    if (e->attr->i[0] && (e->in[1].data || e->in[2].data || !e->in[3].data))
        return fv_fail(e->ctx, FV_ERR_ARG,
                       "qk_norm_rope: neighbouring pairs need an angle table and no weights");
    if (e->attr->i[1] && !(e->in[1].data && e->in[2].data))
        return fv_fail(e->ctx, FV_ERR_ARG, "qk_norm_rope: a norm over all heads needs weights");
    for (int k = 1; k <= 3; k++)
        if (e->in[k].data && e->in[k].dtype != FV_F32)
            return fv_fail(e->ctx, FV_ERR_DTYPE,
                           "qk_norm_rope: weights and angle table must be f32");
    return FV_OK;
}

static fv_status shape_of(const fvi_exec *e, shape *s)
{
    const fv_tensor *x = &e->in[0];
    FV_TRY(fvi_rope_check(e));
    *s = (shape){ .ops = fvi_attention_of(e->ctx), .tokens = x->dim[0] * x->dim[1],
                  .T = x->dim[1], .h = x->dim[3], .hd = (int)x->dim[4],
                  .is_bf16 = x->dtype == FV_BF16, .bytes = x->dtype == FV_BF16 ? 2 : 4,
                  .is_wide = e->attr->i[1] != 0 };
    return FV_OK;
}

/* 1/rms over all heads of the q or k at x. */
static float rstd_of(const shape *s, const char *x, float eps)
{
    const int n = (int)(s->h * s->hd);
    return 1.0f / sqrtf(s->ops->dot(x, x, n, s->is_bf16) / (float)n + eps);
}

static fv_status rope_forward(fvi_exec *e)
{
    shape s;
    FV_TRY(shape_of(e, &s));
    fv_ctx *ctx = e->ctx;
    const size_t head = (size_t)s.hd * (size_t)s.bytes;
    FVI_PARALLEL_LANES(ctx, lane) {
        int64_t t0, t1;
        fvi_lane(s.tokens, lane, &t0, &t1);
        for (int64_t t = t0; t < t1; t++) {
            const size_t at = (size_t)(t * 3 * s.h) * head;
            const char *x = (const char *)e->in[0].data + at;
            char *y = (char *)e->out[0].data + at;
            float *rstd = e->out[1].data ? (float *)e->out[1].data + t * 2 * s.h : NULL;
            fvi_rope_row r = { .hd = s.hd, .is_bf16 = s.is_bf16, .eps = e->attr->f[0] };
            if (e->in[3].data) r.angle = (const float *)e->in[3].data + t % s.T * s.hd;
            r.norm = s.is_wide ? FVI_ROPE_GIVEN : FVI_ROPE_HEAD;
            for (int64_t i = 0; i < 2 * s.h; i++, x += head, y += head) {
                r.x = x;
                r.y = y;
                r.w = e->in[i < s.h ? 1 : 2].data;
                if (s.is_wide) r.w += i % s.h * s.hd;
                if (s.is_wide && i % s.h == 0) r.rstd = rstd_of(&s, x, r.eps);
                if (e->attr->i[0]) s.ops->rope_pairs(&r, false);
                else s.ops->rope(&r);
                if (rstd) rstd[i] = e->attr->i[0] ? 1.0f : r.rstd;
            }
            if (x != y) memcpy(y, x, (size_t)s.h * head);
        }
    }
    return FV_OK;
}

/* Elements of a norm, padded. */
static int64_t norm_pitch(const fvi_exec *e)
{
    const int64_t n = e->in[0].dim[4] * (e->attr->i[1] ? e->in[0].dim[3] : 1);
    return (n + 15) / 16 * 16;
}

/* Of a lane: gradients of both weights, and a work row. */
static size_t rope_scratch(const fvi_exec *e, bool backward)
{
    return backward ? FVI_LANES * 3 * (size_t)norm_pitch(e) * sizeof(float) : 0;
}

/* Both passes over the heads of q (which 0) or k of one token; r as for the first head. */
static void backward_wide(const fvi_exec *e, const shape *s, fvi_rope_row r, int which, float *dw)
{
    const fvi_rope_row first = r;
    const size_t head = (size_t)s->hd * (size_t)s->bytes;
    double sum = 0;
    for (int pass = 0; pass < 2; pass++) {
        r.norm = pass ? FVI_ROPE_FINISH : FVI_ROPE_START;
        for (int64_t i = 0; i < s->h; i++) {
            r.x = (const char *)first.x + (size_t)i * head;
            r.gy = (const char *)first.gy + (size_t)i * head;
            r.y = first.y ? (char *)first.y + (size_t)i * head : NULL;
            r.w = (const float *)e->in[1 + which].data + i * s->hd;
            r.dw = dw ? dw + i * s->hd : NULL;
            r.work = first.work + i * s->hd;
            r.sum = (float)(sum / (double)(s->h * s->hd));
            s->ops->rope_grad(&r);
            if (!pass) sum += r.sum;
        }
    }
}

static void backward_token(const fvi_exec *e, const shape *s, int64_t t, float *lane)
{
    const size_t head = (size_t)s->hd * (size_t)s->bytes, at = (size_t)(t * 3 * s->h) * head;
    const int64_t pitch = norm_pitch(e);
    const char *x = (const char *)e->in[0].data + at, *gy = (const char *)e->gout[0].data + at;
    char *gx = e->gin[0].data ? (char *)e->gin[0].data + at : NULL; /* NULL: only the weights' */
    const float *rstd = (const float *)e->out[1].data + t * 2 * s->h;
    fvi_rope_row r = {
        .hd = s->hd, .is_bf16 = s->is_bf16, .add = e->gin_add[0], .work = lane + 2 * pitch};
    if (e->in[3].data) r.angle = (const float *)e->in[3].data + t % s->T * s->hd;
    for (int64_t i = 0; i < 2 * s->h; i++, x += head, gy += head) {
        const int which = i < s->h ? 0 : 1;
        r.x = x;
        r.y = gx ? gx + (size_t)i * head : NULL;
        r.gy = gy;
        r.w = e->in[1 + which].data;
        r.dw = e->gin[1 + which].data ? lane + which * pitch : NULL;
        r.rstd = rstd[i];
        if (s->is_wide) {
            if (i % s->h == 0) backward_wide(e, s, r, which, r.dw);
        } else if (!e->attr->i[0]) {
            s->ops->rope_grad(&r);
        } else if (r.y) {
            r.x = gy;
            s->ops->rope_pairs(&r, true);
        }
    }
    const int64_t v = (t * 3 + 2) * s->h * s->hd; /* v passes unchanged, and so does its gradient */
    if (gx)
        e->ctx->cpu_ops->pointwise.cast(fvi_out_at(&e->gin[0], v, e->gin_add[0]),
                                        fvi_in_at(&e->gout[0], v), s->h * s->hd);
}

static fv_status rope_backward(fvi_exec *e)
{
    shape s;
    FV_TRY(shape_of(e, &s));
    if (e->gin[3].data)
        return fv_fail(e->ctx, FV_ERR_UNSUPPORTED, "qk_norm_rope: the angle table has no gradient");
    if (!e->out[1].data)
        return fv_fail(e->ctx, FV_ERR_STATE,
                       "qk_norm_rope: backward needs the statistics of a training forward");
    if (e->gout[0].dtype != e->in[0].dtype || (e->gin[0].data && e->gin[0].dtype != e->in[0].dtype))
        return fv_fail(e->ctx, FV_ERR_DTYPE, "qk_norm_rope: gradients must have the type of qkv");
    fv_ctx *ctx = e->ctx;
    const int64_t pitch = norm_pitch(e), n = s.is_wide ? s.h * s.hd : s.hd;
    const size_t floats = 3 * (size_t)pitch;
    FVI_PARALLEL_LANES(ctx, lane) {
        float *own = (float *)e->scratch + (size_t)lane * floats;
        memset(own, 0, floats * sizeof(float));
        int64_t t0, t1;
        fvi_lane(s.tokens, lane, &t0, &t1);
        for (int64_t t = t0; t < t1; t++) backward_token(e, &s, t, own);
    }
    const float *lanes = e->scratch;
    for (int which = 0; which < 2; which++) {
        float *dw = e->gin[1 + which].data;
        for (int64_t i = 0; dw && i < n; i++) {
            double sum = e->gin_add[1 + which] ? dw[i] : 0;
            for (int lane = 0; lane < FVI_LANES; lane++)
                sum += lanes[(size_t)lane * floats + (size_t)(which * pitch + i)];
            dw[i] = (float)sum;
        }
    }
    return FV_OK;
}

const fvi_op_def fvi_cpu_qk_norm_rope = {
    .name = "qk_norm_rope",
    .bwd_reads_in = 15, .bwd_reads_out = 2,
    .scratch_bytes = rope_scratch,
    .forward = rope_forward,
    .backward = rope_backward,
};
