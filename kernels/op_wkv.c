/* op_wkv.c - the recurrence of RWKV-7 in OmniZip's reduced form, and what stands around it.
 *
 * [OmniZip, and its official code]: decay w, in-context rate a and the factor f of the key are one
 * value per channel, not functions of the token. Per head of 16, S[i][j] with value i and key j:
 *
 *     kk = k / max(|k|, 1e-12)                              removal key
 *     sa_i = -sum_j kk_j S_ij                               of the old state
 *     S_ij <- S_ij w_j + sa_i kk_j a_j + v_i k_j f_j
 *     y_i  = sum_j S_ij r_j                                 of the new state
 *
 * Backward walks from the end with D = dL/dS. Old states come back piece by piece: a state each 16
 * steps and all sa are kept from forward, which makes replaying them exact and cheap (dividing by w
 * to run the recurrence backwards would lose digits). No gradient flows into the state that a
 * sequence begins with: truncated back-propagation. A key of length 0 gets no gradient through kk;
 * the formula would give 1e12 times the incoming one.
 *
 * wkv_head: group norm of y per head, then the bonus (sum_j r_j k_j u_j) v. lerp: a + (b - a) mix,
 * where b may be a one step earlier (token shift). mix2: coef0 a + coef1 b.
 *
 * Parameters' gradients are sums over all tokens: f32 over at most 1024, then in a fixed order. */
#include "cpu_ops.h"

#include <math.h>
#include <string.h>

#define N FVI_WKV_HEAD

/* ---- Scalar rows: the definition ------------------------------------------------------------- */

typedef struct key_parts {
    float k[N], kk[N], b[N], kf[N], norm;
} key_parts;

static void key_parts_of(const fvi_wkv_head *h, int64_t at, key_parts *q)
{
    float sum = 0;
    for (int j = 0; j < N; j++) {
        q->k[j] = fvi_get(h->k, at + j);
        sum += q->k[j] * q->k[j];
    }
    q->norm = sqrtf(sum);
    for (int j = 0; j < N; j++) {
        q->kk[j] = q->k[j] / (q->norm > FVI_WKV_EPS ? q->norm : FVI_WKV_EPS);
        q->b[j] = q->kk[j] * h->a[j];
        q->kf[j] = q->k[j] * h->f[j];
    }
}

/* S <- the next state, given sa */
static void advance(const fvi_wkv_head *h, int64_t at, const key_parts *q, const float *sa,
                    float S[N][N])
{
    for (int i = 0; i < N; i++) {
        const float v = fvi_get(h->v, at + i);
        for (int j = 0; j < N; j++) S[i][j] = S[i][j] * h->w[j] + sa[i] * q->b[j] + v * q->kf[j];
    }
}

static void wkv_forward_c(const fvi_wkv_head *h)
{
    float S[N][N] = {{0}}, sa[N];
    if (h->s0) memcpy(S, h->s0, sizeof S);
    for (int64_t t = 0; t < h->T; t++) {
        const int64_t at = t * h->stride;
        key_parts q;
        if (h->saved && t % FVI_WKV_STEPS == 0)
            memcpy(h->saved + h->T * N + t / FVI_WKV_STEPS * (N * N), S, sizeof S);
        key_parts_of(h, at, &q);
        for (int i = 0; i < N; i++) {
            sa[i] = 0;
            for (int j = 0; j < N; j++) sa[i] -= q.kk[j] * S[i][j];
            if (h->saved) h->saved[t * N + i] = sa[i];
        }
        advance(h, at, &q, sa, S);
        for (int i = 0; i < N; i++) {
            float y = 0;
            for (int j = 0; j < N; j++) y += S[i][j] * fvi_get(h->r, at + j);
            fvi_put(h->y, at + i, y);
        }
    }
    if (h->s1) memcpy(h->s1, S, sizeof S);
}

/* One step back: D is the gradient of `after`, becomes that of `before`. */
static void step_back(const fvi_wkv_head *h, const fvi_wkv_grad *g, int64_t t, float before[N][N],
                      float after[N][N], float D[N][N])
{
    const int64_t at = t * h->stride;
    const float *sa = h->saved + t * N;
    float dr[N] = {0}, dkf[N] = {0}, db[N] = {0}, dkk[N] = {0}, dot = 0;
    key_parts q;
    key_parts_of(h, at, &q);
    for (int i = 0; i < N; i++) {
        const float dy = fvi_get(g->dy, at + i), v = fvi_get(h->v, at + i);
        float dv = 0, dsa = 0;
        for (int j = 0; j < N; j++) {
            const float G = D[i][j] + dy * fvi_get(h->r, at + j);
            D[i][j] = G;
            dr[j] += dy * after[i][j];
            dv += G * q.kf[j];
            dsa += G * q.b[j];
            dkf[j] += G * v;
            db[j] += G * sa[i];
            g->dw[j] += G * before[i][j];
        }
        for (int j = 0; j < N; j++) {
            dkk[j] -= dsa * before[i][j];
            D[i][j] = D[i][j] * h->w[j] - dsa * q.kk[j];
        }
        if (g->dv.p) fvi_put(g->dv, at + i, dv);
    }
    for (int j = 0; j < N; j++) {
        dkk[j] += db[j] * h->a[j];
        g->da[j] += db[j] * q.kk[j];
        g->df[j] += dkf[j] * q.k[j];
        dot += dkk[j] * q.kk[j];
        if (g->dr.p) fvi_put(g->dr, at + j, dr[j]);
    }
    for (int j = 0; j < N && g->dk.p; j++) {
        const float through = q.norm > FVI_WKV_EPS ? (dkk[j] - q.kk[j] * dot) / q.norm : 0.0f;
        fvi_put(g->dk, at + j, dkf[j] * h->f[j] + through);
    }
}

static void wkv_backward_c(const fvi_wkv_head *h, const fvi_wkv_grad *g)
{
    float S[FVI_WKV_STEPS + 1][N][N], D[N][N] = {{0}};
    for (int64_t c = (h->T - 1) / FVI_WKV_STEPS; c >= 0; c--) {
        const int64_t t0 = c * FVI_WKV_STEPS;
        const int64_t n = h->T - t0 < FVI_WKV_STEPS ? h->T - t0 : FVI_WKV_STEPS;
        memcpy(S[0], h->saved + h->T * N + c * (N * N), sizeof S[0]);
        for (int64_t s = 0; s < n; s++) {
            key_parts q;
            memcpy(S[s + 1], S[s], sizeof S[0]);
            key_parts_of(h, (t0 + s) * h->stride, &q);
            advance(h, (t0 + s) * h->stride, &q, h->saved + (t0 + s) * N, S[s + 1]);
        }
        for (int64_t s = n - 1; s >= 0; s--) step_back(h, g, t0 + s, S[s], S[s + 1], D);
    }
}

typedef struct head_stats {
    float mean, rstd, bonus;
} head_stats;

static head_stats stats_of(const fvi_head_row *h, int64_t at)
{
    double mean = 0, var = 0, bonus = 0;
    for (int64_t i = at; i < at + N; i++) mean += fvi_get(h->y, i) / (double)N;
    for (int64_t i = at; i < at + N; i++) {
        const double d = fvi_get(h->y, i) - mean;
        var += d * d / N;
        bonus += (double)fvi_get(h->r, i) * fvi_get(h->k, i) * h->u[i];
    }
    const head_stats s = {(float)mean, (float)(1.0 / sqrt(var + h->eps)), (float)bonus};
    return s;
}

static void head_c(const fvi_head_row *h)
{
    for (int64_t at = 0; at < h->n; at += N) {
        const head_stats s = stats_of(h, at);
        for (int64_t i = at; i < at + N; i++) {
            const float x = (fvi_get(h->y, i) - s.mean) * s.rstd;
            fvi_put(h->z, i, x * h->w[i] + h->b[i] + s.bonus * fvi_get(h->v, i));
        }
    }
}

static void head_bwd_c(const fvi_head_row *h)
{
    for (int64_t at = 0; at < h->n; at += N) {
        const head_stats s = stats_of(h, at);
        float m1 = 0, m2 = 0, ds = 0;
        for (int64_t i = at; i < at + N; i++) {
            const float x = (fvi_get(h->y, i) - s.mean) * s.rstd, g = fvi_get(h->dz, i);
            m1 += g * h->w[i] / N;
            m2 += g * h->w[i] * x / N;
            ds += g * fvi_get(h->v, i);
            h->dw[i] += g * x;
            h->db[i] += g;
        }
        for (int64_t i = at; i < at + N; i++) {
            const float x = (fvi_get(h->y, i) - s.mean) * s.rstd, g = fvi_get(h->dz, i);
            const float r = fvi_get(h->r, i), k = fvi_get(h->k, i);
            if (h->dy.p) fvi_put(h->dy, i, (g * h->w[i] - m1 - x * m2) * s.rstd);
            if (h->dr.p) fvi_put(h->dr, i, ds * k * h->u[i]);
            if (h->dk.p) fvi_put(h->dk, i, ds * r * h->u[i]);
            if (h->dv.p) fvi_put(h->dv, i, g * s.bonus);
            h->du[i] += ds * r * k;
        }
    }
}

static float other(fvi_in b, int64_t i)
{
    return b.p ? fvi_get(b, i) : 0.0f;
}

static void lerp_c(fvi_out y, fvi_in a, fvi_in b, const float *mix, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const float x = fvi_get(a, i);
        fvi_put(y, i, x + (other(b, i) - x) * mix[i]);
    }
}

static void lerp_da_c(fvi_out da, fvi_in dy, const float *mix, int64_t n)
{
    for (int64_t i = 0; i < n; i++) fvi_put(da, i, fvi_get(dy, i) - fvi_get(dy, i) * mix[i]);
}

static void lerp_dmix_c(float *sum, fvi_in dy, fvi_in a, fvi_in b, int64_t n)
{
    for (int64_t i = 0; i < n; i++) sum[i] += fvi_get(dy, i) * (other(b, i) - fvi_get(a, i));
}

void fvi_wkv_init(fvi_wkv_ops *o, uint32_t cpu)
{
    const fvi_wkv_ops c = {wkv_forward_c, wkv_backward_c, head_c,     head_bwd_c,
                           lerp_c,        lerp_da_c,      lerp_dmix_c};
    *o = c;
#if defined(__x86_64__)
    if (cpu & FV_CPU_AVX2) fvi_wkv_init_avx2(o);
    if (cpu & FV_CPU_AVX512) fvi_wkv_init_avx512(o);
#endif
    (void)cpu;
}

static const fvi_wkv_ops *rows(const fvi_exec *e)
{
    return &e->ctx->cpu_ops->wkv;
}
static const fvi_pointwise_ops *flat(const fvi_exec *e)
{
    return &e->ctx->cpu_ops->pointwise;
}

/* dst[n] (+)= the sum of `count` partial vectors, each `stride` floats after the one before; they
 * are added into the first. */
static void add_parts(const fvi_exec *e, fvi_out dst, float *part, int64_t count, size_t stride,
                      int64_t n)
{
    for (int64_t s = 1; s < count; s++)
        flat(e)->cast(fvi_out_f32(part, true), fvi_in_f32(part + (size_t)s * stride), n);
    if (dst.p) flat(e)->cast(dst, fvi_in_f32(part), n);
}

/* ---- wkv: r, k, v [B,T,C], w, a, f [C], s0 [B,C/16,16,16] ------------------------------------ */

/* Item = head h of sequence b. */
static fvi_wkv_head head_of(const fvi_exec *e, int64_t item)
{
    const int64_t T = e->in[0].dim[1], C = e->in[0].dim[2], H = C / N;
    const int64_t first = item / H * T * C + item % H * N, at = item % H * N;
    const fvi_wkv_head h = {
        .r = fvi_in_at(&e->in[0], first),
        .k = fvi_in_at(&e->in[1], first),
        .v = fvi_in_at(&e->in[2], first),
        .y = fvi_out_at(&e->out[0], first, false),
        .T = T,
        .stride = C,
        .w = (const float *)e->in[3].data + at,
        .a = (const float *)e->in[4].data + at,
        .f = (const float *)e->in[5].data + at,
        .s0 = e->in[6].data ? (const float *)e->in[6].data + item * (N * N) : NULL,
        .s1 = e->out[1].data ? (float *)e->out[1].data + item * (N * N) : NULL,
        .saved = e->out[2].data ? (float *)e->out[2].data + item * fvi_wkv_saved(T) : NULL};
    return h;
}

static fv_status wkv_forward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t items = e->in[0].dim[0] * (e->in[0].dim[2] / N);
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t k, end;
        for (fvi_lane(items, lane, &k, &end); k < end; k++) {
            const fvi_wkv_head h = head_of(e, k);
            rows(e)->forward(&h);
        }
    }
    return FV_OK;
}

static size_t wkv_scratch(const fvi_exec *e, bool backward)
{
    return backward ? (size_t)(3 * e->in[0].dim[0] * e->in[0].dim[2]) * sizeof(float) : 0;
}

static fv_status wkv_backward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t B = e->in[0].dim[0], T = e->in[0].dim[1], C = e->in[0].dim[2], H = C / N;
    float *part = e->scratch; /* dw, da, df: [3][B][C] */
    memset(part, 0, (size_t)(3 * B * C) * sizeof *part);
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t k, end;
        for (fvi_lane(B * H, lane, &k, &end); k < end; k++) {
            const fvi_wkv_head h = head_of(e, k);
            const int64_t first = k / H * T * C + k % H * N, at = k / H * C + k % H * N;
            const fvi_wkv_grad g = {fvi_in_at(&e->gout[0], first),
                                    fvi_out_at(&e->gin[0], first, e->gin_add[0]),
                                    fvi_out_at(&e->gin[1], first, e->gin_add[1]),
                                    fvi_out_at(&e->gin[2], first, e->gin_add[2]),
                                    part + at,
                                    part + B * C + at,
                                    part + 2 * B * C + at};
            rows(e)->backward(&h, &g);
        }
    }
    for (int k = 0; k < 3; k++)
        add_parts(e, fvi_out_at(&e->gin[3 + k], 0, e->gin_add[3 + k]), part + k * B * C, B,
                  (size_t)C, C);
    return FV_OK;
}
const fvi_op_def fvi_cpu_wkv = {.name = "wkv",
                                .bwd_reads_in = 0x3f,
                                .bwd_reads_out = 4,
                                .scratch_bytes = wkv_scratch,
                                .forward = wkv_forward,
                                .backward = wkv_backward};

/* ---- wkv_head: y, r, k, v [B,T,C], w, b, u [C] ----------------------------------------------- */

static fvi_head_row row_of(const fvi_exec *e, int64_t first)
{
    const fvi_head_row h = {.z = fvi_out_at(&e->out[0], first, false),
                            .y = fvi_in_at(&e->in[0], first),
                            .r = fvi_in_at(&e->in[1], first),
                            .k = fvi_in_at(&e->in[2], first),
                            .v = fvi_in_at(&e->in[3], first),
                            .w = e->in[4].data,
                            .b = e->in[5].data,
                            .u = e->in[6].data,
                            .n = e->in[0].dim[2],
                            .eps = e->attr->f[0]};
    return h;
}

static fv_status head_forward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t C = e->in[0].dim[2], R = e->in[0].dim[0] * e->in[0].dim[1];
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t r, end;
        for (fvi_lane(R, lane, &r, &end); r < end; r++) {
            const fvi_head_row h = row_of(e, r * C);
            rows(e)->head(&h);
        }
    }
    return FV_OK;
}

static size_t head_scratch(const fvi_exec *e, bool backward)
{
    const fvi_split sp = fvi_split_of(1, e->in[0].dim[0] * e->in[0].dim[1]);
    return backward ? (size_t)sp.S * 3 * (size_t)e->in[0].dim[2] * sizeof(float) : 0;
}

static fv_status head_backward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t C = e->in[0].dim[2];
    const fvi_split sp = fvi_split_of(1, e->in[0].dim[0] * e->in[0].dim[1]);
    float *part = e->scratch; /* [S][3][C] */
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t s, end, b, r, stop;
        for (fvi_lane(sp.S, lane, &s, &end); s < end; s++) {
            float *sum = part + s * 3 * C;
            memset(sum, 0, (size_t)(3 * C) * sizeof *sum);
            fvi_split_rows(&sp, s, &b, &r, &stop);
            for (; r < stop; r++) {
                fvi_head_row h = row_of(e, r * C);
                h.dz = fvi_in_at(&e->gout[0], r * C);
                h.dy = fvi_out_at(&e->gin[0], r * C, e->gin_add[0]);
                h.dr = fvi_out_at(&e->gin[1], r * C, e->gin_add[1]);
                h.dk = fvi_out_at(&e->gin[2], r * C, e->gin_add[2]);
                h.dv = fvi_out_at(&e->gin[3], r * C, e->gin_add[3]);
                h.dw = sum;
                h.db = sum + C;
                h.du = sum + 2 * C;
                rows(e)->head_bwd(&h);
            }
        }
    }
    for (int k = 0; k < 3; k++)
        add_parts(e, fvi_out_at(&e->gin[4 + k], 0, e->gin_add[4 + k]), part + k * C, sp.S,
                  (size_t)(3 * C), C);
    return FV_OK;
}
const fvi_op_def fvi_cpu_wkv_head = {.name = "wkv_head",
                                     .bwd_reads_in = 0x7f,
                                     .scratch_bytes = head_scratch,
                                     .forward = head_forward,
                                     .backward = head_backward};

/* ---- lerp: a, b, y [..., C], mix [C]; without b: a [B,T,C] and prev [B,C] or none ------------ */

/* b of row r; p NULL: zeros. */
static fvi_in second_row(const fvi_exec *e, int64_t r, int64_t T, int64_t C)
{
    if (e->in[1].ndim > 0) return fvi_in_at(&e->in[1], r * C);
    if (r % T > 0) return fvi_in_at(&e->in[0], (r - 1) * C);
    return fvi_in_at(&e->in[3], r / T * C);
}

/* Steps of a sequence: the dimension before the last. Any value will do when b is given. */
static int64_t steps_of(const fvi_exec *e)
{
    return e->in[0].ndim > 1 ? e->in[0].dim[e->in[0].ndim - 2] : 1;
}

static fv_status lerp_forward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t C = fv_tensor_count(&e->in[2]), R = fv_tensor_count(&e->in[0]) / C;
    const int64_t T = steps_of(e);
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t r, end;
        for (fvi_lane(R, lane, &r, &end); r < end; r++)
            rows(e)->lerp(fvi_out_at(&e->out[0], r * C, false), fvi_in_at(&e->in[0], r * C),
                          second_row(e, r, T, C), e->in[2].data, C);
    }
    return FV_OK;
}

static size_t lerp_scratch(const fvi_exec *e, bool backward)
{
    const int64_t C = fv_tensor_count(&e->in[2]);
    const fvi_split sp = fvi_split_of(1, C > 0 ? fv_tensor_count(&e->in[0]) / C : 0);
    return backward ? (size_t)sp.S * fvi_pad16(C) * sizeof(float) : 0;
}

/* da = dy (1 - mix), plus, with the shift, what the next step took: dy_{t+1} mix. */
static void lerp_rows_back(const fvi_exec *e, int64_t r, int64_t T, int64_t C)
{
    const fvi_in dy = fvi_in_at(&e->gout[0], r * C), mix = fvi_in_f32(e->in[2].data);
    const bool shift = e->in[1].ndim == 0;
    const fvi_out da = fvi_out_at(&e->gin[0], r * C, e->gin_add[0]);
    const fvi_out db = fvi_out_at(&e->gin[1], r * C, e->gin_add[1]);
    if (da.p) rows(e)->lerp_da(da, dy, e->in[2].data, C);
    if (da.p && shift && r % T + 1 < T)
        flat(e)->binary(fvi_out_at(&e->gin[0], r * C, true), fvi_in_at(&e->gout[0], (r + 1) * C),
                        mix, C, FV_MUL);
    if (db.p && !shift) flat(e)->binary(db, dy, mix, C, FV_MUL);
}

static fv_status lerp_backward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t C = fv_tensor_count(&e->in[2]), R = fv_tensor_count(&e->in[0]) / C;
    const int64_t T = steps_of(e);
    const fvi_split sp = fvi_split_of(1, R);
    const size_t pad = fvi_pad16(C);
    float *part = e->scratch; /* [S][pad] */
    const bool wants_mix = e->gin[2].data != NULL;
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t s, end, b, r, stop;
        for (fvi_lane(sp.S, lane, &s, &end); s < end; s++) {
            float *sum = part + (size_t)s * pad;
            memset(sum, 0, pad * sizeof *sum);
            fvi_split_rows(&sp, s, &b, &r, &stop);
            for (; r < stop; r++) {
                lerp_rows_back(e, r, T, C);
                if (wants_mix)
                    rows(e)->lerp_dmix(sum, fvi_in_at(&e->gout[0], r * C),
                                       fvi_in_at(&e->in[0], r * C), second_row(e, r, T, C), C);
            }
        }
    }
    add_parts(e, fvi_out_at(&e->gin[2], 0, e->gin_add[2]), part, sp.S, pad, C);
    return FV_OK;
}
const fvi_op_def fvi_cpu_lerp = {.name = "lerp",
                                 .bwd_reads_in = 0x0f,
                                 .scratch_bytes = lerp_scratch,
                                 .forward = lerp_forward,
                                 .backward = lerp_backward};

/* ---- mix2: coef[0]*a + coef[1]*b ------------------------------------------------------------- */

static fv_status mix2_forward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t n = fv_tensor_count(&e->in[0]);
    const float *coef = e->in[2].data;
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t i, end;
        for (fvi_lane_flat(n, lane, &i, &end); i < end;) {
            const int64_t m = end - i < 1024 ? end - i : 1024; /* both passes in the first cache */
            flat(e)->affine(fvi_out_at(&e->out[0], i, false), fvi_in_at(&e->in[0], i), m, coef[0],
                            0.0f);
            flat(e)->affine(fvi_out_at(&e->out[0], i, true), fvi_in_at(&e->in[1], i), m, coef[1],
                            0.0f);
            i += m;
        }
    }
    return FV_OK;
}

#define MIX2_PIECE 4096
static size_t mix2_scratch(const fvi_exec *e, bool backward)
{
    const size_t pieces = (size_t)((fv_tensor_count(&e->in[0]) + MIX2_PIECE - 1) / MIX2_PIECE);
    return backward ? 2 * pieces * sizeof(float) : 0;
}

static fv_status mix2_backward(fvi_exec *e)
{
    fv_ctx *ctx = e->ctx;
    const int64_t n = fv_tensor_count(&e->in[0]), pieces = (n + MIX2_PIECE - 1) / MIX2_PIECE;
    const float *coef = e->in[2].data;
    float *part = e->scratch; /* [pieces][2] */
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t s, end;
        for (fvi_lane(pieces, lane, &s, &end); s < end; s++) {
            const int64_t i = s * MIX2_PIECE, m = n - i < MIX2_PIECE ? n - i : MIX2_PIECE;
            const fvi_in dy = fvi_in_at(&e->gout[0], i);
            for (int k = 0; k < 2; k++) {
                const fvi_out dx = fvi_out_at(&e->gin[k], i, e->gin_add[k]);
                part[2 * s + k] = flat(e)->binary_db1(dy, fvi_in_at(&e->in[k], i), 1.0f, m, FV_MUL);
                if (dx.p) flat(e)->affine(dx, dy, m, coef[k], 0.0f);
            }
        }
    }
    for (int k = 0; k < 2 && e->gin[2].data; k++) {
        double sum = 0;
        for (int64_t s = 0; s < pieces; s++) sum += part[2 * s + k];
        fvi_put(fvi_out_at(&e->gin[2], 0, e->gin_add[2]), k, (float)sum);
    }
    return FV_OK;
}
const fvi_op_def fvi_cpu_mix2 = {.name = "mix2",
                                 .bwd_reads_in = 7,
                                 .scratch_bytes = mix2_scratch,
                                 .forward = mix2_forward,
                                 .backward = mix2_backward};
