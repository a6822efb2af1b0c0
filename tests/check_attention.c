/* check_attention.c - SDPA and QK_NORM_ROPE: every CPU variant against a reference in double, which
 * is itself checked against central differences; threads, guard bytes, large scores, position
 * tables. `check_attention --bench` prints the speed of each variant at the shapes that matter. */
#include "sanitized.h"
#include "tape.h"
#include "test.h"

#define GUARD 64

static const struct variant { const char *name; uint32_t disable, need; } variants[] = {
    { "scalar", ~0u, 0 },
    { "avx2", FV_CPU_AVX512 | FV_CPU_AVX512VNNI | FV_CPU_AVX512BF16, FV_CPU_AVX2 },
    { "avx512", FV_CPU_AVX512BF16, FV_CPU_AVX512 },
    { "avx512bf16", 0, FV_CPU_AVX512 | FV_CPU_AVX512BF16 },
};
enum { VARIANTS = (int)FV_ARRAY_LEN(variants) };

static bool have(int v) { return (fv_cpu_features() & variants[v].need) == variants[v].need; }

static fv_ctx *context(int v, int threads)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.threads = threads;
    o.cpu_disable = variants[v].disable;
    fv_ctx *c = NULL;
    if (fv_ctx_create(&c, &o) != FV_OK) exit(1);
    return c;
}

/* ---- Guarded, deliberately unaligned tensors ------------------------------------------------- */

static void *xmalloc(size_t n)
{
    void *p = malloc(n ? n : 1);
    if (!p) exit(1);
    return p;
}

typedef struct buf { uint8_t *base; size_t bytes; fv_tensor t; } buf;

static buf buf_new(fv_dtype type, int ndim, const int64_t *dim)
{
    buf b = { .t = { .dtype = type, .ndim = ndim } };
    int64_t n = 1;
    for (int i = 0; i < ndim; i++) n *= b.t.dim[i] = dim[i];
    b.bytes = (size_t)n * (type == FV_BF16 ? 2 : 4);
    b.base = xmalloc(b.bytes + 2 * GUARD + 4);
    memset(b.base, 0xa5, b.bytes + 2 * GUARD + 4);
    b.t.data = b.base + GUARD + (type == FV_BF16 ? 2 : 4);
    return b;
}
static bool buf_ok(const buf *b)
{
    if (!b->base) return true;
    const uint8_t *end = (uint8_t *)b->t.data + b->bytes;
    for (const uint8_t *p = b->base; p < (uint8_t *)b->t.data; p++) if (*p != 0xa5) return false;
    for (const uint8_t *p = end; p < b->base + b->bytes + 2 * GUARD + 4; p++)
        if (*p != 0xa5) return false;
    return true;
}
static int64_t buf_count(const buf *b)
{
    return (int64_t)(b->bytes / (b->t.dtype == FV_BF16 ? 2 : 4));
}
static void buf_put(buf *b, const double *x)
{
    for (int64_t i = 0; i < buf_count(b); i++) {
        if (b->t.dtype == FV_BF16) ((uint16_t *)b->t.data)[i] = fv_f32_to_bf16((float)x[i]);
        else ((float *)b->t.data)[i] = (float)x[i];
    }
}
static double buf_at(const buf *b, int64_t i)
{
    return b->t.dtype == FV_BF16 ? fv_bf16_to_f32(((uint16_t *)b->t.data)[i])
                                 : ((float *)b->t.data)[i];
}
/* max |b - ref| / max |ref|; infinity for anything not finite. */
static double buf_error(const buf *b, const double *ref)
{
    double d = 0, m = 0;
    for (int64_t i = 0; i < buf_count(b); i++) {
        const double e = fabs(buf_at(b, i) - ref[i]);
        if (!(e < INFINITY)) return INFINITY;
        if (e > d) d = e;
        if (fabs(ref[i]) > m) m = fabs(ref[i]);
    }
    return m > 0 ? d / m : d;
}

/* Values the element type holds exactly, in [-size, size). */
static double *values(int64_t n, fv_dtype type, uint64_t seed, double size)
{
    double *x = xmalloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        const float f = (float)(size * ((double)(int32_t)test_next(&seed) / 2147483648.0));
        x[i] = type == FV_BF16 ? fv_bf16_to_f32(fv_f32_to_bf16(f)) : f;
    }
    return x;
}

/* ---- SDPA in double -------------------------------------------------------------------------- */

typedef struct shape { int64_t B, T, h, hd; int causal; double scale; } shape;

static int64_t qkv_count(shape s) { return s.B * s.T * 3 * s.h * s.hd; }
static int64_t at(shape s, int64_t b, int64_t t, int part, int64_t i)
{
    return (((b * s.T + t) * 3 + part) * s.h + i) * s.hd;
}

/* o [B,T,h*hd], lse [B,h,T]; with go also gx [B,T,3,h,hd]. */
static void sdpa_ref(shape s, const double *x, double *o, double *lse, const double *go, double *gx)
{
    double *p = xmalloc((size_t)s.T * sizeof *p);
    if (gx) memset(gx, 0, (size_t)qkv_count(s) * sizeof *gx);
    for (int64_t b = 0; b < s.B; b++)
    for (int64_t i = 0; i < s.h; i++)
    for (int64_t t = 0; t < s.T; t++) {
        const int64_t n = s.causal ? t + 1 : s.T;
        const double *q = x + at(s, b, t, 0, i);
        double m = -INFINITY, sum = 0, *y = o + ((b * s.T + t) * s.h + i) * s.hd;
        for (int64_t j = 0; j < n; j++) {
            const double *k = x + at(s, b, j, 1, i);
            p[j] = 0;
            for (int64_t d = 0; d < s.hd; d++) p[j] += q[d] * k[d];
            p[j] *= s.scale;
            if (p[j] > m) m = p[j];
        }
        for (int64_t j = 0; j < n; j++) sum += p[j] = exp(p[j] - m);
        for (int64_t d = 0; d < s.hd; d++) y[d] = 0;
        for (int64_t j = 0; j < n; j++) {
            p[j] /= sum;
            const double *v = x + at(s, b, j, 2, i);
            for (int64_t d = 0; d < s.hd; d++) y[d] += p[j] * v[d];
        }
        lse[(b * s.h + i) * s.T + t] = m + log(sum);
        if (!gx) continue;
        const double *g = go + ((b * s.T + t) * s.h + i) * s.hd;
        double delta = 0, *gq = gx + at(s, b, t, 0, i);
        for (int64_t d = 0; d < s.hd; d++) delta += g[d] * y[d];
        for (int64_t j = 0; j < n; j++) {
            const double *k = x + at(s, b, j, 1, i), *v = x + at(s, b, j, 2, i);
            double *gk = gx + at(s, b, j, 1, i), *gv = gx + at(s, b, j, 2, i), dp = 0;
            for (int64_t d = 0; d < s.hd; d++) dp += g[d] * v[d];
            const double ds = p[j] * (dp - delta) * s.scale;
            for (int64_t d = 0; d < s.hd; d++) {
                gv[d] += p[j] * g[d];
                gq[d] += ds * k[d];
                gk[d] += ds * q[d];
            }
        }
    }
    free(p);
}

static double *zeros(int64_t n)
{
    double *p = xmalloc((size_t)n * sizeof *p);
    memset(p, 0, (size_t)n * sizeof *p);
    return p;
}

static void sdpa_reference_agrees_with_differences(void)
{
    for (int causal = 0; causal < 2; causal++) {
        const shape s = { 1, 5, 2, 4, causal, 0.5 };
        const int64_t n = qkv_count(s), no = n / 3;
        double *x = values(n, FV_F32, 3, 2), *g = values(no, FV_F32, 4, 1), *o = zeros(no),
               *lse = zeros(no);
        double *gx = zeros(n), worst = 0;
        sdpa_ref(s, x, o, lse, g, gx);
        for (int64_t i = 0; i < n; i++) {
            const double keep = x[i], eps = 1e-5;
            double f[2] = { 0, 0 };
            for (int side = 0; side < 2; side++) {
                x[i] = keep + (side ? -eps : eps);
                sdpa_ref(s, x, o, lse, NULL, NULL);
                for (int64_t k = 0; k < no; k++) f[side] += o[k] * g[k];
            }
            x[i] = keep;
            const double e = fabs((f[0] - f[1]) / (2 * eps) - gx[i]);
            worst = test_worst(worst, e);
        }
        free(x); free(g); free(o); free(lse); free(gx);
        CHECK_MSG(worst < 1e-8, "difference %g", worst);
    }
}

/* ---- Running one op by hand ------------------------------------------------------------------ */

/* Calls one pass with guarded scratch of exactly the size asked for. */
static fv_status run_pass(const fvi_op_def *op, fvi_exec *e, bool backward, bool *guards_ok)
{
    const size_t n = op->scratch_bytes(e, backward);
    uint8_t *block = fv_alloc(e->ctx, n + GUARD);
    if (!block) return FV_ERR_OOM;
    memset(block, 0x7f, n); /* stale values must not matter: large, finite floats */
    memset(block + n, 0xa5, GUARD);
    e->scratch = block;
    const fv_status st = backward ? op->backward(e) : op->forward(e);
    for (int i = 0; i < GUARD; i++) if (block[n + (size_t)i] != 0xa5) *guards_ok = false;
    fv_free(e->ctx, block);
    return st;
}

typedef struct sdpa_run { buf x, o, lse, go, gx; fv_status status; bool guards; } sdpa_run;

static sdpa_run sdpa_do(fv_ctx *ctx, shape s, fv_dtype type, const double *x, const double *go,
                        const double *gx_before)
{
    sdpa_run r = { .guards = true };
    r.x = buf_new(type, 5, (int64_t[]){ s.B, s.T, 3, s.h, s.hd });
    r.o = buf_new(type, 3, (int64_t[]){ s.B, s.T, s.h * s.hd });
    r.lse = buf_new(FV_F32, 3, (int64_t[]){ s.B, s.h, s.T });
    r.go = buf_new(type, 3, r.o.t.dim);
    r.gx = buf_new(type, 5, r.x.t.dim);
    buf_put(&r.x, x);
    fvi_attr attr = { .i = { s.causal }, .f = { (float)s.scale } };
    fvi_exec e = { .ctx = ctx, .attr = &attr, .training = go != NULL };
    e.in[0] = r.x.t;
    e.out[0] = r.o.t;
    e.out[1] = r.lse.t;
    if (!go) e.out[1].data = NULL;
    r.status = run_pass(&fvi_cpu_sdpa, &e, false, &r.guards);
    if (go && r.status == FV_OK) {
        buf_put(&r.go, go);
        if (gx_before) buf_put(&r.gx, gx_before);
        e.gout[0] = r.go.t;
        e.gin[0] = r.gx.t;
        e.gin_add[0] = gx_before != NULL;
        r.status = run_pass(&fvi_cpu_sdpa, &e, true, &r.guards);
    }
    r.guards = r.guards && buf_ok(&r.x) && buf_ok(&r.o) && buf_ok(&r.lse) && buf_ok(&r.go) &&
               buf_ok(&r.gx);
    return r;
}

static void sdpa_free(sdpa_run *r)
{
    free(r->x.base); free(r->o.base); free(r->lse.base); free(r->go.base); free(r->gx.base);
}

/* Inputs of one shape and what must come out: made once for all variants. */
typedef struct problem {
    shape s;
    fv_dtype type;
    bool add; /* gradients are added to `before` */
    double *x, *go, *before, *o, *lse, *gx;
} problem;

static problem problem_make(shape s, fv_dtype type, double size, bool add)
{
    const int64_t n = qkv_count(s), no = n / 3;
    problem p = { .s = s, .type = type, .add = add };
    p.x = values(n, type, (uint64_t)(s.T * 131 + s.hd), size);
    p.go = values(no, type, 9, 1);
    p.before = values(n, type, 10, 1);
    p.o = zeros(no);
    p.lse = zeros(s.B * s.h * s.T);
    p.gx = zeros(n);
    sdpa_ref(s, p.x, p.o, p.lse, p.go, p.gx);
    for (int64_t i = 0; add && i < n; i++) p.gx[i] += p.before[i];
    return p;
}

static void problem_free(problem *p)
{
    free(p->x); free(p->go); free(p->before); free(p->o); free(p->lse); free(p->gx);
}

/* Errors of one variant; all in relative maximum. */
typedef struct errors { double o, lse, gx; } errors;

static errors sdpa_errors(fv_ctx *ctx, const problem *p)
{
    sdpa_run r = sdpa_do(ctx, p->s, p->type, p->x, p->go, p->add ? p->before : NULL);
    errors e = { buf_error(&r.o, p->o), buf_error(&r.lse, p->lse), buf_error(&r.gx, p->gx) };
    if (r.status != FV_OK || !r.guards) e.o = INFINITY;
    sdpa_free(&r);
    return e;
}

/* Every variant on one problem; `worst` [VARIANTS] may be NULL. */
static void sdpa_variants(shape s, fv_dtype type, double size, bool add, errors most,
                          errors worst[VARIANTS])
{
    problem p = problem_make(s, type, size, add);
    char why[160] = "";
    for (int v = 0; v < VARIANTS; v++) {
        if (!have(v)) continue;
        fv_ctx *ctx = context(v, 2);
        const errors e = sdpa_errors(ctx, &p);
        fv_ctx_destroy(&ctx);
        if (!(e.o <= most.o && e.lse <= most.lse && e.gx <= most.gx))
            snprintf(why, sizeof why, "%s %s T %d hd %d causal %d: o %g lse %g gx %g",
                     variants[v].name, fv_dtype_name(type), (int)s.T, (int)s.hd, s.causal, e.o,
                     e.lse, e.gx);
        if (!worst) continue;
        worst[v].o = test_worst(worst[v].o, e.o);
        worst[v].lse = test_worst(worst[v].lse, e.lse);
        worst[v].gx = test_worst(worst[v].gx, e.gx);
    }
    problem_free(&p);
    CHECK_MSG(!why[0], "%s", why);
}

/* Tolerances. f32: scores are sums of hd products, |error| <= 2^-24 sqrt(hd) |q||k| scale, and the
 * gradients chain two more sums: a few 2^-23. bf16: o is rounded to 2^-9, P and dS to 2^-9 before
 * sums in which errors average; gradients cancel, so relative to their maximum they lose a little.
 */
static const errors f32_most = { 2e-6, 2e-6, 4e-6 }, bf16_most = { 2e-2, 2e-6, 2e-2 };

static void sdpa_all(fv_dtype type)
{
    static const int64_t lengths[] = { 1, 5, 16, 64, 77, 256, 300 };
    static const int64_t heads[] = { 4, 20, 32, 64, 72, 96, 128, 512 };
    errors worst[VARIANTS] = { { 0 } };
    for (size_t a = 0; a < FV_ARRAY_LEN(lengths); a++)
    for (size_t b = 0; b < FV_ARRAY_LEN(heads); b++)
    for (int causal = 0; causal < 2 && !test_bad; causal++) {
        if (heads[b] == 512 && (lengths[a] == 256 || (lengths[a] > 64 && causal)))
            continue; /* time */
        /* each length with several heads and each head with several lengths */
        if (TEST_SANITIZED && (a + 2 * b + (size_t)causal) % 4) continue;
        const shape s = {heads[b] > 128 ? 1 : 2,
                         lengths[a],
                         heads[b] > 128 || lengths[a] > 77 ? 1 : 3,
                         heads[b],
                         causal,
                         1.0 / sqrt((double)heads[b])};
        sdpa_variants(s, type, 2.0, (a + b) % 2, type == FV_F32 ? f32_most : bf16_most, worst);
    }
    for (int v = 0; v < VARIANTS; v++) {
        if (!have(v)) printf("# %s not on this machine\n", variants[v].name);
        else
            printf("# %s: worst o %.2g lse %.2g gx %.2g\n", variants[v].name, worst[v].o,
                   worst[v].lse, worst[v].gx);
    }
}

static void sdpa_f32_matches_double(void) { sdpa_all(FV_F32); }
static void sdpa_bf16_matches_double(void) { sdpa_all(FV_BF16); }

static void sdpa_many_heads_and_long_sequences_match(void)
{
    const shape shapes[] = {{3, 64, 7, 64, 0, 0.125},
                            {1, 1030, 1, 32, 1, 0.2},
                            {5, 270, 4, 8, 0, 0.35},
                            {2, 48, 9, 12, 1, -0.3},
                            {1, 530, 1, 16, 0, 0.25}};
    for (size_t i = 0; i < FV_ARRAY_LEN(shapes) && !test_bad; i++) {
        sdpa_variants(shapes[i], FV_F32, 1.5, false, f32_most, NULL);
        if (!test_bad) sdpa_variants(shapes[i], FV_BF16, 1.5, true, bf16_most, NULL);
    }
}

/* Scores of +-1e4: one f32 rounding of a score is 1e4 * 2^-24 * few, so P is good to about 1e-2
 * only; what matters is that nothing overflows and rows still sum to one. */
static void sdpa_large_scores_are_stable(void)
{
    const errors f32 = { 2e-2, 1e-5, INFINITY }, bf16 = { 4e-2, 1e-5, INFINITY };
    for (int64_t T = 64; T <= 320 && !test_bad; T += 256) {
        const shape s = { 1, T, 2, 64, 0, 0.125 };
        sdpa_variants(s, FV_F32, 160.0, false, f32, NULL);
        if (!test_bad) sdpa_variants(s, FV_BF16, 160.0, false, bf16, NULL);
    }
}

static void sdpa_same_bytes_for_any_thread_count(void)
{
    const shape shapes[] = {
        {2, 64, 4, 64, 0, 0.125}, {1, 300, 3, 72, 1, 0.1}, {1, 300, 20, 20, 0, 0.2}};
    for (int v = 0; v < VARIANTS; v++)
    for (size_t i = 0; i < FV_ARRAY_LEN(shapes); i++)
    for (int type = FV_F32; type <= FV_BF16; type++) {
        if (!have(v)) continue;
        const shape s = shapes[i];
        const int64_t n = qkv_count(s);
        double *x = values(n, FV_BF16, 1, 2), *go = values(n / 3, FV_BF16, 2, 1);
        sdpa_run r[3];
        for (int t = 0; t < 3; t++) {
            fv_ctx *ctx = context(v, t + 1);
            r[t] = sdpa_do(ctx, s, (fv_dtype)type, x, go, NULL);
            fv_ctx_destroy(&ctx);
        }
        bool same = true;
        for (int t = 1; t < 3; t++)
            same = same && !memcmp(r[0].o.t.data, r[t].o.t.data, r[0].o.bytes) &&
                   !memcmp(r[0].lse.t.data, r[t].lse.t.data, r[0].lse.bytes) &&
                   !memcmp(r[0].gx.t.data, r[t].gx.t.data, r[0].gx.bytes);
        for (int t = 0; t < 3; t++) sdpa_free(&r[t]);
        free(x); free(go);
        CHECK_MSG(same, "%s shape %d type %d", variants[v].name, (int)i, type);
    }
}

static void sdpa_inference_equals_training_and_refuses_bad_input(void)
{
    fv_ctx *ctx = context(VARIANTS - 1, 1);
    const shape s = { 1, 20, 2, 24, 0, 0.2 };
    double *x = values(qkv_count(s), FV_F32, 5, 1), *go = zeros(qkv_count(s) / 3);
    sdpa_run a = sdpa_do(ctx, s, FV_F32, x, go, NULL), b = sdpa_do(ctx, s, FV_F32, x, NULL, NULL);
    const bool same = !memcmp(a.o.t.data, b.o.t.data, a.o.bytes),
               ok = b.guards && b.status == FV_OK;
    sdpa_free(&a);
    sdpa_free(&b);
    const shape odd = { 1, 20, 2, 6, 0, 0.2 };
    sdpa_run c = sdpa_do(ctx, odd, FV_F32, x, NULL, NULL);
    const fv_status refused = c.status;
    sdpa_free(&c);
    double *nan = values(qkv_count(s), FV_F32, 5, 1);
    nan[0] = NAN; /* q of token 0, head 0 */
    sdpa_run d = sdpa_do(ctx, s, FV_F32, nan, NULL, NULL);
    const bool shown = isnan(buf_at(&d.o, 0)) && !isnan(buf_at(&d.o, s.h * s.hd));
    sdpa_free(&d);
    free(x); free(go); free(nan);
    fv_ctx_destroy(&ctx);
    CHECK(same && ok);
    CHECK(refused == FV_ERR_SHAPE);
    CHECK(shown);
}

/* ---- QK_NORM_ROPE ---------------------------------------------------------------------------- */

typedef struct rope_case { shape s; bool qw, kw, table, neighbours; } rope_case;
#define ROPE_EPS 1e-6

static void rope_ref(rope_case c, const double *x, const double *const w[2], const double *table,
                     double *y, double *rstd)
{
    const shape s = c.s;
    const int64_t q = s.hd / 4;
    memcpy(y, x, (size_t)qkv_count(s) * sizeof *y);
    for (int64_t bt = 0; bt < s.B * s.T; bt++)
    for (int part = 0; part < 2; part++)
    for (int64_t i = 0; i < s.h; i++) {
        const int64_t o = ((bt * 3 + part) * s.h + i) * s.hd;
        double sum = 0, r = 1;
        for (int64_t d = 0; d < s.hd; d++) sum += x[o + d] * x[o + d];
        if (w[part]) r = 1 / sqrt(sum / (double)s.hd + ROPE_EPS);
        rstd[(bt * 2 + part) * s.h + i] = r;
        for (int64_t d = 0; d < s.hd; d++) y[o + d] = x[o + d] * r * (w[part] ? w[part][d] : 1);
        for (int half = 0; table && half < 2; half++)
            for (int64_t j = 0; j < q; j++) {
                const double *row = table + bt % s.T * s.hd;
                const double co = row[half * q + j], si = row[2 * q + half * q + j];
                double *a = y + o + half * 2 * q + (c.neighbours ? 2 * j : j),
                       *b = a + (c.neighbours ? 1 : q), ya = *a, yb = *b;
                *a = ya * co - yb * si;
                *b = ya * si + yb * co;
            }
    }
}

/* Gradients of sum(y * g) by central differences in double: x, qw, kw. */
static void rope_differences(rope_case c, double *x, double *w[2], const double *table,
                             const double *g, double *gx, double *gw[2])
{
    const int64_t n = qkv_count(c.s);
    double *y = zeros(n), *rstd = zeros(n);
    for (int which = 0; which < 3; which++) {
        double *p = which ? w[which - 1] : x, *out = which ? gw[which - 1] : gx;
        if (!p) continue;
        for (int64_t i = 0; i < (which ? c.s.hd : n); i++) {
            const double keep = p[i], eps = 1e-5;
            double f[2] = { 0, 0 };
            for (int side = 0; side < 2; side++) {
                p[i] = keep + (side ? -eps : eps);
                rope_ref(c, x, (const double *const[]){ w[0], w[1] }, table, y, rstd);
                for (int64_t k = 0; k < n; k++) f[side] += y[k] * g[k];
            }
            p[i] = keep;
            out[i] = (f[0] - f[1]) / (2 * eps);
        }
    }
    free(y); free(rstd);
}

typedef struct rope_run {
    buf x, y, rstd, go, gx, w[2], gw[2], table;
    fv_status status;
    bool guards;
} rope_run;

static rope_run rope_do(fv_ctx *ctx, rope_case c, fv_dtype type, const double *x,
                        double *const w[2], const double *table, const double *go, double before)
{
    const shape s = c.s;
    rope_run r = { .guards = true };
    r.x = buf_new(type, 5, (int64_t[]){ s.B, s.T, 3, s.h, s.hd });
    r.y = buf_new(type, 5, r.x.t.dim);
    r.go = buf_new(type, 5, r.x.t.dim);
    r.gx = buf_new(type, 5, r.x.t.dim);
    r.rstd = buf_new(FV_F32, 4, (int64_t[]){ s.B, s.T, 2, s.h });
    r.table = buf_new(FV_F32, 3, (int64_t[]){ s.T, 2, s.hd / 2 });
    buf_put(&r.x, x);
    buf_put(&r.go, go);
    buf_put(&r.table, table);
    fvi_attr attr = { .i = { c.neighbours }, .f = { (float)ROPE_EPS } };
    fvi_exec e = { .ctx = ctx, .attr = &attr, .training = true };
    for (int k = 0; k < 2; k++) {
        r.w[k] = buf_new(FV_F32, 1, &s.hd);
        r.gw[k] = buf_new(FV_F32, 1, &s.hd);
        for (int64_t i = 0; i < s.hd; i++) ((float *)r.gw[k].t.data)[i] = (float)before;
        if (!w[k]) continue;
        buf_put(&r.w[k], w[k]);
        e.in[1 + k] = r.w[k].t;
        e.gin[1 + k] = r.gw[k].t;
        e.gin_add[1 + k] = 1;
    }
    for (int64_t i = 0; i < buf_count(&r.gx); i++) {
        if (type == FV_BF16) ((uint16_t *)r.gx.t.data)[i] = fv_f32_to_bf16((float)before);
        else ((float *)r.gx.t.data)[i] = (float)before;
    }
    e.in[0] = r.x.t;
    if (c.table) e.in[3] = r.table.t;
    e.out[0] = r.y.t;
    e.out[1] = r.rstd.t;
    e.gout[0] = r.go.t;
    e.gin[0] = r.gx.t;
    e.gin_add[0] = before != 0;
    r.status = run_pass(&fvi_cpu_qk_norm_rope, &e, false, &r.guards);
    if (r.status == FV_OK) r.status = run_pass(&fvi_cpu_qk_norm_rope, &e, true, &r.guards);
    r.guards = r.guards && buf_ok(&r.x) && buf_ok(&r.y) && buf_ok(&r.rstd) && buf_ok(&r.gx) &&
               buf_ok(&r.table) && buf_ok(&r.w[0]) && buf_ok(&r.w[1]) && buf_ok(&r.gw[0]) &&
               buf_ok(&r.gw[1]);
    return r;
}

static void rope_free(rope_run *r)
{
    free(r->x.base);
    free(r->y.base);
    free(r->rstd.base);
    free(r->go.base);
    free(r->gx.base);
    free(r->table.base);
    for (int k = 0; k < 2; k++) { free(r->w[k].base); free(r->gw[k].base); }
}

static double *angle_table(shape s)
{
    double *t = zeros(s.T * s.hd);
    float *f = xmalloc((size_t)(s.T * s.hd) * sizeof *f);
    fv_rope_table((int)s.T, 1, (int)s.hd, 100.0, f);
    for (int64_t i = 0; i < s.T * s.hd; i++) t[i] = f[i];
    free(f);
    return t;
}

static void rope_case_matches(rope_case c, fv_dtype type, double before, double tol)
{
    const int64_t n = qkv_count(c.s);
    double *x = values(n, type, 21, 2), *g = values(n, type, 22, 1), *table = angle_table(c.s);
    double *w[2] = {c.qw ? values(c.s.hd, FV_F32, 23, 2) : NULL,
                    c.kw ? values(c.s.hd, FV_F32, 24, 2) : NULL};
    double *y = zeros(n), *rstd = zeros(n), *gx = zeros(n), *gw[2] = {zeros(c.s.hd), zeros(c.s.hd)};
    const double *used = c.table ? table : NULL;
    rope_differences(c, x, w, used, g, gx, gw);
    rope_ref(c, x, (const double *const[]){ w[0], w[1] }, used, y, rstd);
    for (int64_t i = 0; i < n; i++) gx[i] += before;
    for (int64_t i = 0; i < c.s.hd; i++) { gw[0][i] += before; gw[1][i] += before; }
    char why[200] = "";
    for (int v = 0; v < VARIANTS && !why[0]; v++) {
        if (!have(v)) continue;
        fv_ctx *ctx = context(v, 2);
        rope_run r = rope_do(ctx, c, type, x, w, table, g, before);
        const double ey = buf_error(&r.y, y), er = buf_error(&r.rstd, rstd),
                     eg = buf_error(&r.gx, gx);
        const double e0 = w[0] ? buf_error(&r.gw[0], gw[0]) : 0,
                     e1 = w[1] ? buf_error(&r.gw[1], gw[1]) : 0;
        if (r.status != FV_OK || !r.guards ||
            !(ey <= tol && er <= 2e-6 && eg <= tol && e0 <= 1e-5 && e1 <= 1e-5))
            snprintf(why, sizeof why, "%s hd %d: status %d guards %d y %g rstd %g gx %g gw %g %g",
                     variants[v].name, (int)c.s.hd, (int)r.status, (int)r.guards, ey, er, eg, e0,
                     e1);
        rope_free(&r);
        fv_ctx_destroy(&ctx);
    }
    free(x);
    free(g);
    free(table);
    free(w[0]);
    free(w[1]);
    free(y);
    free(rstd);
    free(gx);
    free(gw[0]);
    free(gw[1]);
    CHECK_MSG(!why[0], "%s", why);
}

static void qk_norm_rope_matches_double_and_differences(void)
{
    static const int64_t heads[] = { 4, 12, 32, 64, 72 };
    for (size_t i = 0; i < FV_ARRAY_LEN(heads) && !test_bad; i++)
        for (int bits = 0; bits < 8 && !test_bad; bits++) {
            const rope_case c = {
                {1, 2, heads[i] > 32 ? 1 : 2, heads[i], 0, 0}, bits & 1, bits & 2, bits & 4,
                false};
            rope_case_matches(c, FV_F32, bits % 3 ? 0.5 : 0, 2e-6);
            if (!test_bad)
                rope_case_matches(c, FV_BF16, bits % 3 ? 0 : 0.5, 8e-3); /* two roundings of 2^-9 */
        }
}

static void rope_of_neighbours_matches_double_and_differences(void)
{
    static const int64_t heads[] = { 4, 12, 16, 64, 72, 100 };
    for (size_t i = 0; i < FV_ARRAY_LEN(heads) && !test_bad; i++)
        for (int add = 0; add < 2 && !test_bad; add++) {
            const rope_case c = {
                {1, 3, heads[i] > 32 ? 1 : 2, heads[i], 0, 0}, false, false, true, true};
            rope_case_matches(c, FV_F32, add ? 0.5 : 0, 2e-6);
            if (!test_bad) rope_case_matches(c, FV_BF16, add ? 0.5 : 0, 8e-3);
        }
}

static void qk_norm_rope_same_bytes_for_any_thread_count(void)
{
    const rope_case c = { { 3, 37, 3, 20, 0, 0 }, true, true, true, false };
    const int64_t n = qkv_count(c.s);
    double *x = values(n, FV_BF16, 1, 2), *g = values(n, FV_BF16, 2, 1), *table = angle_table(c.s);
    double *w[2] = { values(c.s.hd, FV_F32, 3, 1), values(c.s.hd, FV_F32, 4, 1) };
    bool same = true;
    for (int v = 0; v < VARIANTS; v++) {
        if (!have(v)) continue;
        rope_run r[3];
        for (int t = 0; t < 3; t++) {
            fv_ctx *ctx = context(v, t + 1);
            r[t] = rope_do(ctx, c, FV_BF16, x, w, table, g, 0);
            fv_ctx_destroy(&ctx);
            same = same && r[t].status == FV_OK &&
                   !memcmp(r[0].y.t.data, r[t].y.t.data, r[0].y.bytes) &&
                   !memcmp(r[0].gx.t.data, r[t].gx.t.data, r[0].gx.bytes) &&
                   !memcmp(r[0].gw[0].t.data, r[t].gw[0].t.data, r[0].gw[0].bytes) &&
                   !memcmp(r[0].gw[1].t.data, r[t].gw[1].t.data, r[0].gw[1].bytes);
        }
        for (int t = 0; t < 3; t++) rope_free(&r[t]);
    }
    free(x); free(g); free(table); free(w[0]); free(w[1]);
    CHECK(same);
}

static void tables_follow_their_formulas(void)
{
    enum { R = 3, C = 5, HD = 12, CH = 20 };
    float rope[R * C * HD], code[R * C * CH];
    fv_rope_table(R, C, HD, 100.0, rope);
    fv_sincos_table(R, C, CH, code);
    for (int t = 0; t < R * C; t++) {
        for (int j = 0; j < HD / 2; j++) {
            const int half = j / (HD / 4), i = j % (HD / 4);
            const double angle = (half ? t % C : t / C) * pow(100.0, -2.0 * i / (HD / 2));
            NEAR(rope[t * HD + j], cos(angle), 1e-7);
            NEAR(rope[t * HD + HD / 2 + j], sin(angle), 1e-7);
        }
        for (int j = 0; j < CH; j++) {
            const int half = j / (CH / 2), k = j % (CH / 2) % (CH / 4),
                      cosine = j % (CH / 2) >= CH / 4;
            const double angle = (half ? t / C : t % C) * pow(10000.0, -(double)k / (CH / 4));
            NEAR(code[t * CH + j], cosine ? cos(angle) : sin(angle), 1e-7);
        }
    }
}

/* ---- Speed ----------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void bench_case(const char *name, shape s, fv_dtype type, int v, int threads)
{
    enum { RUNS = 21 };
    fv_ctx *ctx = context(v, threads);
    double *x = values(qkv_count(s), type, 1, 1), time[2][RUNS];
    buf bx = buf_new(type, 5, (int64_t[]){s.B, s.T, 3, s.h, s.hd}), bg = buf_new(type, 5, bx.t.dim);
    buf bo = buf_new(type, 3, (int64_t[]){s.B, s.T, s.h * s.hd}), bgo = buf_new(type, 3, bo.t.dim);
    buf bl = buf_new(FV_F32, 3, (int64_t[]){ s.B, s.h, s.T });
    buf_put(&bx, x);
    buf_put(&bgo, x);
    fvi_attr attr = { .i = { s.causal }, .f = { (float)s.scale } };
    fvi_exec e = { .ctx = ctx, .attr = &attr, .training = true };
    e.in[0] = bx.t;
    e.out[0] = bo.t;
    e.out[1] = bl.t;
    e.gout[0] = bgo.t;
    e.gin[0] = bg.t;
    const double flop = 4.0 * (double)(s.B * s.h * s.T * s.T * s.hd);
    for (int back = 0; back < 2; back++) {
        e.scratch = fv_alloc(ctx, fvi_cpu_sdpa.scratch_bytes(&e, back));
        if (!e.scratch) exit(1);
        for (int i = 0; i < RUNS; i++) {
            const double t0 = fv_now();
            fv_status st = FV_OK;
            int n = 0;
            do {
                st = back ? fvi_cpu_sdpa.backward(&e) : fvi_cpu_sdpa.forward(&e);
                n++;
            } while (st == FV_OK && fv_now() - t0 < 0.004);
            time[back][i] = (fv_now() - t0) / n;
            if (st != FV_OK) exit(1);
        }
        qsort(time[back], RUNS, sizeof(double), by_value);
        const double f = back ? 2.5 * flop : flop;
        printf(
            "%-14s %-8s %-10s threads %d  median %8.3f ms  p10 %8.3f  p90 %8.3f  %7.1f GFLOP/s\n",
            name, back ? "backward" : "forward", variants[v].name, threads,
            1e3 * time[back][RUNS / 2], 1e3 * time[back][RUNS / 10],
            1e3 * time[back][RUNS * 9 / 10], 1e-9 * f / time[back][RUNS / 2]);
        fv_free(ctx, e.scratch);
    }
    free(x); free(bx.base); free(bg.base); free(bo.base); free(bgo.base); free(bl.base);
    fv_ctx_destroy(&ctx);
}

static int bench(void)
{
    const struct { const char *name; shape s; fv_dtype type; } cases[] = {
        { "F64c bf16", { 64, 64, 4, 64, 0, 0.125 }, FV_BF16 },
        { "F64c f32", { 64, 64, 4, 64, 0, 0.125 }, FV_F32 },
        { "DiT-XL/2 bf16", { 2, 256, 16, 72, 0, 0.118 }, FV_BF16 },
        { "DiT-XL/2 f32", { 2, 256, 16, 72, 0, 0.118 }, FV_F32 },
        { "B2 T64 bf16", { 2, 64, 4, 64, 0, 0.125 }, FV_BF16 },
        { "T1024 hd64 f32", { 1, 1024, 4, 64, 0, 0.125 }, FV_F32 },
        { "VAE hd512 f32", { 1, 1024, 1, 512, 0, 0.0442 }, FV_F32 },
    };
    for (size_t i = 0; i < FV_ARRAY_LEN(cases); i++)
        for (int v = 1; v < VARIANTS; v++)
            if (have(v) && (cases[i].type == FV_BF16 || v < VARIANTS - 1))
                for (int threads = 1; threads <= 2; threads++)
                    bench_case(cases[i].name, cases[i].s, cases[i].type, v, threads);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "--bench")) return bench();
    RUN(sdpa_reference_agrees_with_differences);
    RUN(sdpa_f32_matches_double);
    RUN(sdpa_bf16_matches_double);
    RUN(sdpa_many_heads_and_long_sequences_match);
    RUN(sdpa_large_scores_are_stable);
    RUN(sdpa_same_bytes_for_any_thread_count);
    RUN(sdpa_inference_equals_training_and_refuses_bad_input);
    RUN(qk_norm_rope_matches_double_and_differences);
    RUN(rope_of_neighbours_matches_double_and_differences);
    RUN(qk_norm_rope_same_bytes_for_any_thread_count);
    RUN(tables_follow_their_formulas);
    return test_end();
}
