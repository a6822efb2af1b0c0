/* check_place.c - losses of distillation, LIFT and PLACE and the masked difference of features,
 * against double references: every variant of the rows by op_harness.h, the closed form in double
 * against central differences, the whole op on a tape against that closed form, and what the paper
 * and our guards promise.
 *
 * Groups, w and the map of the fine term are constants for the gradient: a reference is made at a
 * base point (`base`), and moved away from it without them. */
#include "op_harness.h"

/* ---- PLACE in double ------------------------------------------------------------------------- */

typedef struct group {
    int64_t n, *at;      /* elements, by position in the tensor */
    double eps, more, least, b1, b0;  /* at the base point */
    int tenth;
} group;

typedef struct base {
    fvi_attr a;
    int64_t count, N;
    group *g;
    int64_t *positions;
    double w, m, coarse, fine, decile[10];
} base;

typedef struct ranked { float gap; int64_t at; } ranked;

static int by_gap(const void *pa, const void *pb)
{
    const ranked *a = pa, *b = pb;
    if (a->gap != b->gap) return a->gap < b->gap ? -1 : 1;
    return a->at < b->at ? -1 : a->at > b->at;
}

typedef struct moments { double mx, my, v, s, vy; } moments;

static moments moments_of(const group *g, const double *x, const double *y)
{
    moments m = { 0 };
    for (int64_t i = 0; i < g->n; i++) {
        m.mx += x[g->at[i]] / (double)g->n;
        m.my += y[g->at[i]] / (double)g->n;
    }
    for (int64_t i = 0; i < g->n; i++) {
        const double dx = x[g->at[i]] - m.mx, dy = y[g->at[i]] - m.my;
        m.v += dx * dx / (double)g->n;
        m.s += dx * dy / (double)g->n;
        m.vy += dy * dy / (double)g->n;
    }
    return m;
}

static double below(const fvi_attr *a, const group *g, const moments *m)
{
    if (!(a->i[2] & FVI_PLACE_GUARDED)) return m->v + g->eps;
    return fmax(m->v + g->more, g->least);
}

static void map_of(const fvi_attr *a, const group *g, const moments *m, double *b1, double *b0)
{
    *b1 = (m->s + g->more) / below(a, g, m);
    *b0 = m->my - *b1 * m->mx;
}

static double coarse_of(const fvi_attr *a, double b1, double b0)
{
    if (a->i[2] & FVI_PLACE_SQUARED) return (b1 - 1) * (b1 - 1) + b0 * b0;
    return fabs(b1 - 1) + fabs(b0);
}

static void start_group(base *b, group *g, const double *x, const double *y)
{
    const moments m = moments_of(g, x, y);
    const bool guarded = b->a.i[2] & FVI_PLACE_GUARDED;
    g->eps = b->a.i[2] & FVI_PLACE_EPS_OF_SUM ? b->a.f[0] / (double)g->n : b->a.f[0];
    g->more = guarded ? g->eps * g->eps / (g->eps + m.vy) : 0;
    g->least = fmax(g->eps, 1e-4 * m.vy);
    map_of(&b->a, g, &m, &g->b1, &g->b0);
    const double size = (double)g->n, l1 = fabs(g->b1 - 1) + fabs(g->b0);
    b->coarse += size * coarse_of(&b->a, g->b1, g->b0);
    b->m += size * (guarded && l1 > 10 ? 10 : l1);
    for (int64_t i = 0; i < g->n; i++)
        b->fine += pow(g->b0 + g->b1 * x[g->at[i]] - y[g->at[i]], 2);
}

/* Groups of one row of n sorted positions. */
static void cut_row(base *b, int64_t *at, int64_t n, int64_t K)
{
    int64_t G = n / K + (2 * (n % K) >= K);
    if (G < 1) G = 1;
    for (int64_t g = 0; g < G; g++) {
        group *new = &b->g[b->count++];
        new->at = at + g * K;
        new->n = g == G - 1 ? n - g * K : K;
        new->tenth = (int)((g + 0.5) * 10 / (double)G);
    }
}

static void cut_all(base *b, const fv_tensor *t, const double *x, const double *y)
{
    const int kind = b->a.i[2] & FVI_PLACE_KIND;
    const int64_t B = t->dim[0], C = last(t), used = b->a.i[1];
    const int64_t pixels = count(t) / B / C;
    const int64_t rows = kind == FV_LIFT_SAMPLE ? 1 : used, n = pixels * used / rows;
    ranked *r = malloc((size_t)n * sizeof *r);
    if (!r) exit(1);
    for (int64_t row = 0; row < B * rows; row++) {
        int64_t *at = b->positions + row * n;
        for (int64_t i = 0; i < n; i++) {
            const int64_t c = kind == FV_LIFT_SAMPLE ? i % used : row % rows;
            const int64_t p = kind == FV_LIFT_SAMPLE ? i / used : i;
            r[i].at = (row / rows * pixels + p) * C + c;
            r[i].gap = fabsf((float)y[r[i].at] - (float)x[r[i].at]);
        }
        if (kind == FV_PLACE_GROUPS) qsort(r, (size_t)n, sizeof *r, by_gap);
        for (int64_t i = 0; i < n; i++) at[i] = r[i].at;
        cut_row(b, at, n, kind == FV_PLACE_GROUPS ? b->a.i[0] : n);
    }
    free(r);
}

static base make_base(const fvi_attr *a, const fv_tensor *t, const double *x, const double *y)
{
    base b = { .a = *a };
    double in_tenth[10] = { 0 };
    b.N = count(t) / last(t) * a->i[1];
    b.g = calloc((size_t)b.N, sizeof *b.g);
    b.positions = malloc((size_t)b.N * sizeof *b.positions);
    if (!b.g || !b.positions) exit(1);
    cut_all(&b, t, x, y);
    for (int64_t k = 0; k < b.count; k++) {
        start_group(&b, &b.g[k], x, y);
        b.decile[b.g[k].tenth] += coarse_of(a, b.g[k].b1, b.g[k].b0);
        in_tenth[b.g[k].tenth]++;
    }
    for (int k = 0; k < 10; k++) b.decile[k] /= in_tenth[k] > 0 ? in_tenth[k] : 1;
    b.coarse /= (double)b.N;
    b.fine /= (double)b.N;
    b.m /= (double)b.N;
    b.w = a->i[3] == FV_PLACE_ADAPTIVE ? 1 - fmin(1, b.m) : a->f[1];
    return b;
}

static void free_base(base *b)
{
    free(b->g);
    free(b->positions);
}

/* N times the part of a group in the loss, away from the base point. */
static double group_loss(const base *b, const group *g, const double *x, const double *y)
{
    const moments m = moments_of(g, x, y);
    double b1, b0, fine = 0;
    map_of(&b->a, g, &m, &b1, &b0);
    for (int64_t i = 0; i < g->n; i++)
        fine += pow(g->b0 + g->b1 * x[g->at[i]] - y[g->at[i]], 2);
    return (double)g->n * coarse_of(&b->a, b1, b0) + b->w * fine;
}

static double sign(double v) { return v > 0 ? 1 : v < 0 ? -1 : 0; }

/* The closed form of op_place.c at the base point, times N; terms: 1 coarse, 2 fine. */
static void group_gradient(const base *b, const group *g, const double *x, const double *y,
                           int terms, double *out)
{
    const moments m = moments_of(g, x, y);
    const bool squared = b->a.i[2] & FVI_PLACE_SQUARED;
    const double s1 = squared ? 2 * (g->b1 - 1) : sign(g->b1 - 1);
    const double s0 = squared ? 2 * g->b0 : sign(g->b0), under = below(&b->a, g, &m);
    const bool guarded = b->a.i[2] & FVI_PLACE_GUARDED;
    const double pull = guarded && under > m.v + g->more ? 0 : 2 * g->b1;
    for (int64_t i = 0; i < g->n; i++) {
        const double dx = x[g->at[i]] - m.mx, dy = y[g->at[i]] - m.my;
        const double r = g->b0 + g->b1 * x[g->at[i]] - y[g->at[i]];
        const double coarse = (s1 - s0 * m.mx) * (dy - pull * dx) / under - s0 * g->b1;
        out[g->at[i]] = (terms & 1 ? coarse : 0) + (terms & 2 ? 2 * b->w * g->b1 * r : 0);
    }
}

/* ---- References of the harness --------------------------------------------------------------- */

/* The values before a difference quotient moved one of them: those of the harness, f32 or bf16. */
static double *base_values(const tc *c, const double *x)
{
    const int64_t n = count(&c->in[0]);
    double *v = malloc((size_t)n * sizeof *v);
    int64_t others = 0;
    if (!v) exit(1);
    for (int64_t i = 0; i < n; i++) {
        v[i] = noise(1, (uint64_t)i) * c->range;
        others += v[i] != x[i];
    }
    for (int64_t i = 0; i < n && others > 1; i++)
        v[i] = fv_bf16_to_f32(fv_f32_to_bf16((float)v[i]));
    return v;
}

static void ref_place(const tc *c, double *const in[], double *out)
{
    double *start = base_values(c, in[0]);
    base b = make_base(&c->attr, &c->in[0], start, in[1]);
    for (int64_t k = 0; k < b.count; k++)
        out[0] += group_loss(&b, &b.g[k], in[0], in[1]) / (double)b.N;
    free_base(&b);
    free(start);
}

static void ref_masked(const tc *c, double *const in[], double *out)
{
    const int64_t B = c->in[0].dim[0], n = count(&c->in[0]) / B;
    for (int64_t b = 0; b < B; b++) {
        double mean[2] = { 0 }, bound[2] = { 0 };
        for (int k = 0; k < 2; k++) {
            const double *v = in[k] + b * n;
            for (int64_t i = 0; i < n; i++) mean[k] += v[i] / (double)n;
            for (int64_t i = 0; i < n; i++) bound[k] += pow(v[i] - mean[k], 2) / (double)n;
            bound[k] = c->attr.f[0] * sqrt(bound[k]);
        }
        for (int64_t i = b * n; i < (b + 1) * n; i++) {
            const double s = fabs(in[0][i] - mean[0]) < bound[0] ? in[0][i] : 0;
            const double t = fabs(in[1][i] - mean[1]) < bound[1] ? in[1][i] : 0;
            out[0] += pow(s - t, 2) / (double)(B * n);
        }
    }
}

/* ---- Cases ----------------------------------------------------------------------------------- */

static fvi_attr attr_of(int kind, int K, int used, int flags, float eps, float w)
{
    const fvi_attr a = { { K, used, kind | flags, w < 0 ? FV_PLACE_ADAPTIVE : FV_PLACE_CONSTANT },
                         { eps, w } };
    return a;
}

/* Student and teacher of the harness have nothing in common: w is given, since m > 1. */
static void place_case(fvi_attr a, const int d[4])
{
    tc *c = add_case(FVI_OP_LOSS_PLACE, "loss_place", ref_place);
    add_input(c, 0, X, shape(4, d[0], d[1], d[2], d[3]));
    add_input(c, 1, CONST, c->in[0]);
    c->attr = a;
    c->out[0] = shape(1, 1, 0, 0, 0);
    c->out[1] = shape(1, FV_PLACE_PARTS, 0, 0, 0);
    c->out[2] = shape(2, 2, count(&c->in[0]), 0, 0);
    c->out_role = P;
}

static void masked_case(float deviations, const int d[4])
{
    tc *c = add_case(FVI_OP_LOSS_MASKED, "loss_masked", ref_masked);
    add_input(c, 0, X, shape(3, d[0], d[1] * d[2], d[3], 0));
    add_input(c, 1, CONST, c->in[0]);
    c->attr.f[0] = deviations;
    c->out[0] = shape(1, 1, 0, 0, 0);
    c->out[1] = shape(2, d[0], 4, 0, 0);
    c->out_role = P;
}

static void add_cases(void)
{
    static const int dims[][4] = { { 2, 5, 7, 3 }, { 3, 4, 4, 2 }, { 1, 12, 16, 1 }, { 2, 9, 9, 4 },
                                   { 1, 56, 60, 1 } };
    for (size_t i = 0; i < FV_ARRAY_LEN(dims); i++) {
        const int C = dims[i][3];
        for (int K = 8; K <= 64; K = K == 8 ? 16 : K == 16 ? 64 : 65)
            for (int flags = 0; flags < 16; flags += K == 16 ? 4 : 12)
                place_case(attr_of(FV_PLACE_GROUPS, K, C, flags, 1e-6f, 0.7f), dims[i]);
        place_case(attr_of(FV_PLACE_GROUPS, 16, C > 2 ? C - 1 : C, FVI_PLACE_EPS_OF_SUM, 1e-4f,
                           0.3f), dims[i]);
        place_case(attr_of(FV_LIFT_CHANNEL, 16, C > 2 ? 2 : C, FVI_PLACE_GUARDED, 1e-6f, 0.7f),
                   dims[i]);
        place_case(attr_of(FV_LIFT_SAMPLE, 16, C > 2 ? C - 1 : C, FVI_PLACE_SQUARED, 1e-6f, 0.7f),
                   dims[i]);
        masked_case(1.0f, dims[i]);
        masked_case(1.5f, dims[i]);
    }
}

/* ---- On a tape ------------------------------------------------------------------------------- */

#define MOST 8192
typedef struct outcome {
    fv_status status;
    float loss, part[FV_PLACE_PARTS], grad[MOST];
} outcome;

/* x, y are of type dt; a run of a plan that is built for it. Gradients are times N. */
static outcome run_place(fv_ctx *ctx, const fv_place_options *o, fv_dtype dt, const int64_t d[4],
                         void *x, void *y)
{
    outcome r;
    fv_params *p = NULL;
    fv_tape *t = NULL;
    fv_plan *plan = NULL;
    fv_t parts = 0;
    memset(&r, 0, sizeof r);
    if (fv_params_create(ctx, &p) != FV_OK || fv_tape_create(ctx, &t, p, FV_TRAIN, FV_F32) != FV_OK)
        exit(1);
    const fv_t a = fv_input_grad(t, "x", dt, 4, d), b = fv_input(t, "y", dt, 4, d);
    fv_output(t, "loss", fv_loss_place(t, a, b, o, &parts));
    fv_output(t, "parts", parts);
    r.status = fv_plan_finish(ctx, &plan, &t, NULL);
    if (r.status == FV_OK) r.status = fv_plan_bind(plan, "x", x);
    if (r.status == FV_OK) r.status = fv_plan_bind(plan, "y", y);
    if (r.status == FV_OK) r.status = fv_plan_forward(plan);
    const int64_t N = d[0] * d[1] * d[2] * d[3];
    const int64_t used = o && o->channels ? N / d[3] * o->channels : N;
    if (r.status == FV_OK) r.status = fv_plan_backward(plan, "loss", (float)used);
    if (r.status == FV_OK) {
        const fv_tensor g = fv_plan_grad(plan, "x");
        r.loss = *(const float *)fv_plan_value(plan, "loss").data;
        memcpy(r.part, fv_plan_value(plan, "parts").data, sizeof r.part);
        for (int64_t i = 0; i < N && N <= MOST; i++) r.grad[i] = (float)value(&g, i);
    }
    fv_plan_destroy(&plan);
    fv_tape_destroy(&t);
    fv_params_destroy(&p);
    return r;
}

/* A student that knows its teacher: y of unit variance or so, x = 0.7 y + 0.1 + noise. */
static void make_pair(float *x, float *y, int64_t n, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++) {
        y[i] = noise(seed, 3 * (uint64_t)i) + noise(seed, 3 * (uint64_t)i + 1);
        x[i] = 0.7f * y[i] + 0.1f + 0.3f * noise(seed, 3 * (uint64_t)i + 2);
    }
}

static fv_place_options options(int kind, int K, int unguarded)
{
    fv_place_options o = FV_PLACE_OPTIONS_INIT;
    o.kind = (fv_place_kind)kind;
    o.group = K;
    o.unguarded = unguarded;
    return o;
}

static fvi_attr attr_for(const fv_place_options *o, int64_t C)
{
    const fvi_attr a = { { o->group ? o->group : 16, o->channels ? o->channels : (int32_t)C,
                           (int32_t)o->kind | (o->squared ? FVI_PLACE_SQUARED : 0) |
                               (o->unguarded ? 0 : FVI_PLACE_GUARDED) |
                               (o->eps_of_sum ? FVI_PLACE_EPS_OF_SUM : 0),
                           (int32_t)o->weight },
                         { o->eps > 0 ? o->eps : 1e-6f, o->constant } };
    return a;
}

static double *widened(const float *v, int64_t n)
{
    double *d = malloc((size_t)n * sizeof *d);
    if (!d) exit(1);
    for (int64_t i = 0; i < n; i++) d[i] = v[i];
    return d;
}

/* ---- Closed form and kernels ----------------------------------------------------------------- */

/* A step of 1e-6 must not cross b1 = 1 or b0 = 0. */
static bool near_kink(const base *b, const group *g)
{
    if (b->a.i[2] & FVI_PLACE_SQUARED) return false;
    return fabs(g->b1 - 1) < 1e-3 || fabs(g->b0) < 1e-3;
}

/* Largest relative error of the closed form; *kinks counts what had to be left out. */
static double closed_form_error(const base *b, double *x, const double *y, int64_t *kinks)
{
    double *want = calloc(MOST, sizeof *want), worst = 0;
    if (!want) exit(1);
    for (int64_t k = 0; k < b->count; k++) {
        const group *g = &b->g[k];
        double scale = 0;
        *kinks += near_kink(b, g);
        if (near_kink(b, g)) continue;
        group_gradient(b, g, x, y, 3, want);
        for (int64_t i = 0; i < g->n; i++) scale = fmax(scale, fabs(want[g->at[i]]));
        for (int64_t i = 0; i < g->n; i += 1 + g->n / 40) {
            double *v = &x[g->at[i]];
            const double h = 1e-5, old = *v;
            double at[4];
            for (int s = 0; s < 4; s++) {
                *v = old + h * (s < 2 ? s - 2 : s - 1);
                at[s] = group_loss(b, g, x, y);
            }
            *v = old;
            const double got = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * h);
            const double error = fabs(got - want[g->at[i]]) / scale;
            worst = test_worst(worst, error);
        }
    }
    free(want);
    return worst;
}

static const int sizes[] = { 8, 16, 64, 256, 5 };

static void closed_form_in_double_equals_differences(void)
{
    const int64_t d[4] = { 2, 16, 16, 3 }, n = 2 * 16 * 16 * 3;
    const fv_tensor t = shape(4, d[0], d[1], d[2], d[3]);
    float x[1536], y[1536];
    int64_t kinks = 0, groups = 0;
    make_pair(x, y, n, 5);
    double *dx = widened(x, n), *dy = widened(y, n), worst = 0;
    for (size_t k = 0; k < FV_ARRAY_LEN(sizes); k++)
        for (int flags = 0; flags < 32; flags += 4)
            for (int kind = 0; kind < 3; kind++) {
                const fvi_attr a = attr_of(kind, sizes[k], 3, flags, 1e-4f, -1);
                base b = make_base(&a, &t, dx, dy);
                const double error = closed_form_error(&b, dx, dy, &kinks);
                worst = test_worst(worst, error);
                groups += b.count;
                free_base(&b);
            }
    CHECK_MSG(worst <= 1e-6, "%g", worst);
    CHECK_MSG(kinks * 20 < groups, "%lld of %lld", (long long)kinks, (long long)groups);
    printf("# largest relative error %.1e, %lld of %lld groups near a kink\n", worst,
           (long long)kinks, (long long)groups);
    free(dx);
    free(dy);
}

/* What a run of the op says, against the reference at the same values. */
static void compare(const outcome *r, const base *b, const double *x, const double *y, double tol)
{
    double *want = calloc(MOST, sizeof *want), scale = 0, worst = 0;
    if (!want) exit(1);
    for (int64_t k = 0; k < b->count; k++) group_gradient(b, &b->g[k], x, y, 3, want);
    for (int64_t i = 0; i < MOST; i++) {
        worst = test_worst(worst, fabs(r->grad[i] - want[i]));
        scale = fmax(scale, fabs(want[i]));
    }
    free(want);
    CHECK_MSG(worst <= tol * scale, "gradient: %g of %g", worst, scale);
    NEAR(r->part[FV_PLACE_COARSE], b->coarse, 1e-5 * b->coarse);
    NEAR(r->part[FV_PLACE_FINE], b->fine, 1e-5 * b->fine);
    NEAR(r->part[FV_PLACE_W], b->w, 1e-5);
    NEAR(r->part[FV_PLACE_M], b->m, 1e-5 * b->m);
    NEAR(r->loss, b->coarse + b->w * b->fine, 1e-5 * (b->coarse + b->w * b->fine));
    for (int k = 0; k < 10; k++)
        NEAR(r->part[FV_PLACE_DECILE + k], b->decile[k], 1e-4 * b->decile[k]);
}

/* The f32 and bf16 op in all kinds, sizes and norms; w adapts. */
static void check_kernel(int isa)
{
    const int64_t d[4] = { 2, 16, 16, 3 }, n = 2 * 16 * 16 * 3;
    float x[1536], y[1536];
    uint16_t hx[1536], hy[1536];
    for (int k = 0; k < 3 * 5 * 2 * 2 && !test_bad; k++) {
        fv_place_options o = options(k % 3, sizes[k / 3 % 5], k / 15 % 2);
        const bool bf16 = k / 30;
        o.squared = k & 1;
        make_pair(x, y, n, 7 + (uint64_t)k);
        for (int64_t i = 0; i < n && bf16; i++) {
            x[i] = fv_bf16_to_f32(hx[i] = fv_f32_to_bf16(x[i]));
            y[i] = fv_bf16_to_f32(hy[i] = fv_f32_to_bf16(y[i]));
        }
        const outcome r = run_place(isa_ctx[isa], &o, bf16 ? FV_BF16 : FV_F32, d,
                                    bf16 ? (void *)hx : x, bf16 ? (void *)hy : y);
        OK(isa_ctx[isa], r.status);
        const fv_tensor t = shape(4, d[0], d[1], d[2], d[3]);
        const fvi_attr a = attr_for(&o, d[3]);
        double *dx = widened(x, n), *dy = widened(y, n);
        base b = make_base(&a, &t, dx, dy);
        compare(&r, &b, dx, dy, bf16 ? 4e-3 : 2e-5);
        if (test_bad) printf("# kind %d K %d case %d\n", (int)o.kind, o.group, k);
        free_base(&b);
        free(dx);
        free(dy);
    }
}
static void scalar_op_equals_closed_form(void) { check_kernel(SCALAR); }
static void avx2_op_equals_closed_form(void) { check_kernel(AVX2); }
static void avx512_op_equals_closed_form(void) { check_kernel(AVX512); }

/* Independent of `base`: the three published forms, one group a row so that no order matters. */
static void references_are_as_published(void)
{
    const int64_t d[4] = { 1, 4, 4, 1 };
    const double eps[3] = { 1e-7, 1e-8, 1e-4 };
    float x[16], y[16];
    make_pair(x, y, 16, 11);
    for (int i = 0; i < 16; i++) x[i] *= 1e-2f; /* so that eps counts */
    for (int k = 0; k < 3; k++) {
        const fv_place_options o = fv_place_as((fv_place_reference)k);
        const outcome r = run_place(isa_ctx[SCALAR], &o, FV_F32, d, x, y);
        double mx = 0, my = 0, sxx = 0, sxy = 0;
        for (int i = 0; i < 16; i++) {
            mx += x[i] / 16.0;
            my += y[i] / 16.0;
        }
        for (int i = 0; i < 16; i++) {
            sxx += (x[i] - mx) * (x[i] - mx);
            sxy += (x[i] - mx) * (y[i] - my);
        }
        if (k == FV_PLACE_PIXEL) {
            sxx /= 16;
            sxy /= 16;
        }
        const double b1 = sxy / (sxx + eps[k]), b0 = my - b1 * mx;
        const double c = k == FV_PLACE_DIT ? (b1 - 1) * (b1 - 1) + b0 * b0
                                           : fabs(b1 - 1) + fabs(b0);
        NEAR(r.part[FV_PLACE_COARSE], c, 1e-5 * c);
        CHECK(r.part[FV_PLACE_W] == 0.0f); /* hundredfold too small: m > 1 */
    }
}

/* ---- Properties ------------------------------------------------------------------------------ */

static void gradients_keep_the_identities(void)
{
    const int64_t d[4] = { 2, 16, 16, 3 }, n = 2 * 16 * 16 * 3;
    const fv_tensor t = shape(4, d[0], d[1], d[2], d[3]);
    float x[1536], y[1536];
    make_pair(x, y, n, 13);
    double *dx = widened(x, n), *dy = widened(y, n), *f = calloc(MOST, sizeof *f);
    if (!f) exit(1);
    fv_place_options o = options(FV_PLACE_GROUPS, 16, 1);
    o.weight = FV_PLACE_CONSTANT;
    const outcome coarse = run_place(isa_ctx[SCALAR], &o, FV_F32, d, x, y);
    o.constant = 1;
    const outcome both = run_place(isa_ctx[SCALAR], &o, FV_F32, d, x, y);
    const fvi_attr a = attr_for(&o, 3);
    base b = make_base(&a, &t, dx, dy);
    for (int64_t k = 0; k < b.count; k++) {
        const group *g = &b.g[k];
        double sum = 0, with_x = 0, total = 0, exact = 0, size = 0;
        group_gradient(&b, g, dx, dy, 2, f);
        for (int64_t i = 0; i < g->n; i++) {
            const double fine = (double)both.grad[g->at[i]] - coarse.grad[g->at[i]];
            sum += fine;
            with_x += fine * dx[g->at[i]];
            total += coarse.grad[g->at[i]];
            size += fabs(coarse.grad[g->at[i]]);
            exact += f[g->at[i]] / (2 * g->b1) * dx[g->at[i]];
        }
        NEAR(exact, -(double)g->n * g->eps * g->b1, 1e-12); /* sum r x = -n eps b1, in double */
        NEAR(sum, 0, 1e-5 * size);
        NEAR(with_x, 0, 1e-5 * size);
        NEAR(total, -sign(g->b0) * g->b1 * (double)g->n, 1e-5 * size);
    }
    free_base(&b);
    free(dx);
    free(dy);
    free(f);
}

static void identical_outputs_cost_nothing(void)
{
    const int64_t d[4] = { 2, 16, 16, 3 }, n = 2 * 16 * 16 * 3;
    float x[1536], y[1536];
    make_pair(x, y, n, 17);
    for (int64_t i = 0; i < n; i++)
        if (i % 3 == 1 || i < 400) y[i] = i < 400 ? 0.3f : -1.0f; /* groups that are constant */
    for (int isa = 0; isa < N_ISA; isa++)
        for (int k = 0; k < 6 && isa_ctx[isa]; k++) {
            fv_place_options o = options(k % 3, k / 3 ? 64 : 16, 0);
            const outcome r = run_place(isa_ctx[isa], &o, FV_F32, d, y, y);
            OK(isa_ctx[isa], r.status);
            CHECK(r.loss == 0 && r.part[FV_PLACE_COARSE] == 0 && r.part[FV_PLACE_FINE] == 0);
            CHECK(r.part[FV_PLACE_W] == 1 && r.part[FV_PLACE_M] == 0);
            for (int64_t i = 0; i < n; i++) CHECK(r.grad[i] == 0);
            /* As published only nearly, eps / V, and not where a group is constant. */
            o.unguarded = 1;
            const outcome p = run_place(isa_ctx[isa], &o, FV_F32, d, x, x);
            CHECK(p.part[FV_PLACE_COARSE] < 1e-4 && p.part[FV_PLACE_W] > 1 - 1e-4);
            CHECK(p.part[FV_PLACE_FINE] < 1e-10);
        }
}

static void one_group_equals_lift(void)
{
    const int64_t d[4] = { 3, 9, 11, 2 }, n = 3 * 9 * 11 * 2;
    float x[594], y[594];
    make_pair(x, y, n, 19);
    for (int isa = 0; isa < N_ISA; isa++)
        for (int k = 0; k < 3 && isa_ctx[isa]; k++) {
            const int K[3] = { 99, 1000, 70 }; /* of 99 elements, 29 go with the 70 before them */
            const fv_place_options place = options(FV_PLACE_GROUPS, K[k], k == 1),
                                   lift = options(FV_LIFT_CHANNEL, 0, k == 1);
            const outcome a = run_place(isa_ctx[isa], &place, FV_F32, d, x, y);
            const outcome b = run_place(isa_ctx[isa], &lift, FV_F32, d, x, y);
            CHECK(a.status == FV_OK && memcmp(&a, &b, sizeof a) == 0);
        }
}

/* The same pixels in another order: the same groups, in the same order within. */
static void order_of_pixels_does_not_matter(void)
{
    enum { PIXELS = 60 * 56, C = 2 };
    const int64_t d[4] = { 1, 60, 56, C };
    static float x[PIXELS * C], y[PIXELS * C], sx[PIXELS * C], sy[PIXELS * C];
    make_pair(x, y, PIXELS * C, 23);
    for (int p = 0; p < PIXELS; p++)
        for (int c = 0; c < C; c++) { /* errors are exact, and all differ */
            y[p * C + c] = roundf(y[p * C + c] * 64) / 64;
            x[p * C + c] = y[p * C + c] + (float)(p % 2 ? p + 1 : -p - 1) / 8192;
        }
    for (int p = 0; p < PIXELS; p++)
        for (int c = 0; c < C; c++) { /* 1009 and 3360 share no factor */
            sx[p * C + c] = x[p * 1009 % PIXELS * C + c];
            sy[p * C + c] = y[p * 1009 % PIXELS * C + c];
        }
    for (int isa = 0; isa < N_ISA; isa++) {
        if (!isa_ctx[isa]) continue;
        const outcome a = run_place(isa_ctx[isa], NULL, FV_F32, d, x, y);
        const outcome b = run_place(isa_ctx[isa], NULL, FV_F32, d, sx, sy);
        OK(isa_ctx[isa], b.status);
        CHECK(a.loss == b.loss && memcmp(a.part, b.part, sizeof a.part) == 0);
        for (int p = 0; p < PIXELS; p++)
            for (int c = 0; c < C; c++)
                CHECK(b.grad[p * C + c] == a.grad[p * 1009 % PIXELS * C + c]);
    }
}

/* All errors of a row are equal: groups are neighbours, in the order of memory. */
static void ties_go_by_position(void)
{
    const int64_t d[4] = { 1, 8, 8, 1 };
    float x[64], y[64], lift_y[64], lift_x[64];
    for (int i = 0; i < 64; i++) {
        y[i] = (float)(i * 37 % 64) / 16;
        x[i] = y[i] + (i * 29 % 3 ? 0.25f : -0.25f);
        lift_x[i] = x[i];
        lift_y[i] = y[i];
    }
    const fv_place_options place = options(FV_PLACE_GROUPS, 16, 0), lift =
        options(FV_LIFT_CHANNEL, 0, 0);
    const int64_t quarter[4] = { 4, 4, 4, 1 };
    for (int isa = 0; isa < N_ISA; isa++) {
        if (!isa_ctx[isa]) continue;
        const outcome a = run_place(isa_ctx[isa], &place, FV_F32, d, x, y);
        const outcome b = run_place(isa_ctx[isa], &lift, FV_F32, quarter, lift_x, lift_y);
        CHECK(a.loss == b.loss && memcmp(a.grad, b.grad, sizeof a.grad) == 0);
    }
}

/* Errors one unit apart and a single 0: digits tell nothing, which costs time, not order. */
static void errors_that_nearly_tie_are_sorted(void)
{
    static float x[3360], y[3360];
    const int64_t dims[2][4] = { { 1, 56, 60, 1 }, { 1, 31, 32, 1 } };
    fv_place_options o = options(FV_PLACE_GROUPS, 16, 0);
    o.squared = 1; /* no kinks: b1 is nearly 1 everywhere */
    for (int k = 0; k < 2; k++) {
        const int64_t n = dims[k][1] * dims[k][2];
        for (int64_t p = 0; p < n; p++) {
            y[p] = (float)(p * 29 % 31) / 256;
            x[p] = y[p] + 0.25f + (float)(p * 1009 % n) / 33554432;
        }
        x[7] = y[7];
        const outcome r = run_place(isa_ctx[SCALAR], &o, FV_F32, dims[k], x, y);
        OK(isa_ctx[SCALAR], r.status);
        const fv_tensor t = shape(4, 1, dims[k][1], dims[k][2], 1);
        const fvi_attr a = attr_for(&o, 1);
        double *dx = widened(x, n), *dy = widened(y, n);
        base b = make_base(&a, &t, dx, dy);
        compare(&r, &b, dx, dy, 1e-4);
        free_base(&b);
        free(dx);
        free(dy);
    }
}

/* A student that does not vary, a teacher that does not, and both, each in a channel of one sample
 * of two. */
static void groups_without_variance_do_no_harm(void)
{
    const int64_t d[4] = { 2, 8, 8, 3 }, n = 2 * 8 * 8 * 3;
    float x[384], y[384];
    make_pair(x, y, n, 29);
    for (int i = 0; i < 384; i++) x[i] = 0.9f * y[i]; /* the other groups are nearly right */
    for (int i = 0; i < 64; i++) {
        x[3 * i] = 0.25f;
        y[3 * i + 1] = -0.5f;
        x[3 * i + 2] = y[3 * i + 2] = 1;
    }
    for (int isa = 0; isa < N_ISA; isa++)
        for (int kind = 0; kind < 3 && isa_ctx[isa]; kind++) {
            fv_place_options o = options(kind, 16, 0);
            const outcome r = run_place(isa_ctx[isa], &o, FV_F32, d, x, y);
            OK(isa_ctx[isa], r.status);
            CHECK(isfinite(r.loss) && r.part[FV_PLACE_W] > 0.3f);
            for (int i = 0; i < 384; i++) CHECK(fabsf(r.grad[i]) < 1e6f); /* 1e-6 least */
            for (int i = 0; i < 64 && kind < 2; i++) CHECK(r.grad[3 * i + 2] == 0);
            /* Towards the teacher, on average: descent brings life into the dead channel. */
            double along = 0;
            for (int i = 0; i < 64; i++) along -= r.grad[3 * i] * (double)(y[3 * i] - x[3 * i]);
            CHECK(along > 0);
        }
}

static void values_that_are_not_finite_are_reported(void)
{
    const int64_t d[4] = { 3, 8, 8, 3 }, n = 3 * 8 * 8 * 3;
    float x[576], y[576];
    for (int isa = 0; isa < N_ISA; isa++)
        for (int k = 0; k < 12 && isa_ctx[isa]; k++) {
            fv_ctx *ctx = isa_ctx[isa];
            fv_place_options o = options(k / 2 % 3, 16, k / 6);
            make_pair(x, y, n, 31);
            o.channels = 2;
            x[2] = NAN; /* takes no part */
            const outcome r = run_place(ctx, &o, FV_F32, d, x, y);
            OK(ctx, r.status);
            *(k & 1 ? &x[201] : &y[231]) = k & 4 ? INFINITY : NAN;
            CHECK(run_place(ctx, &o, FV_F32, d, x, y).status == FV_ERR_NUMERIC);
            CHECK_MSG(strstr(fv_ctx_error(ctx), "sample 1"), "%s", fv_ctx_error(ctx));
        }
}

static void channels_that_take_no_part_do_not_count(void)
{
    const int64_t d[4] = { 2, 8, 8, 4 }, half[4] = { 2, 8, 8, 2 };
    float x[512], y[512], hx[256], hy[256];
    make_pair(x, y, 512, 37);
    for (int i = 0; i < 256; i++) {
        hx[i] = x[i / 2 * 4 + i % 2];
        hy[i] = y[i / 2 * 4 + i % 2];
    }
    for (int isa = 0; isa < N_ISA; isa++)
        for (int kind = 0; kind < 3 && isa_ctx[isa]; kind++) {
            fv_place_options o = options(kind, 16, 0);
            const outcome b = run_place(isa_ctx[isa], &o, FV_F32, half, hx, hy);
            o.channels = 2;
            const outcome a = run_place(isa_ctx[isa], &o, FV_F32, d, x, y);
            CHECK(a.status == FV_OK && a.loss == b.loss);
            CHECK(memcmp(a.part, b.part, sizeof a.part) == 0);
            for (int i = 0; i < 512; i++)
                CHECK(a.grad[i] == (i % 4 < 2 ? b.grad[i / 4 * 2 + i % 4] : 0));
        }
}

/* ---- Ranks ----------------------------------------------------------------------------------- */

typedef struct rank_sums { double others[2], own[2]; int calls; fv_status status; } rank_sums;

static fv_status add_others(void *user, double *sums, int n)
{
    rank_sums *s = user;
    for (int k = 0; k < n && k < 2; k++) {
        s->own[k] = sums[k];
        sums[k] += s->others[k];
    }
    s->calls++;
    return n == 2 ? s->status : FV_ERR_ARG;
}

static void ranks_share_w(void)
{
    const int64_t d[4] = { 4, 8, 8, 3 }, half[4] = { 2, 8, 8, 3 }, n = 768;
    fv_ctx *ctx = isa_ctx[SCALAR];
    float x[768], y[768];
    rank_sums s[2] = { { .status = FV_OK }, { .status = FV_OK } };
    outcome r[2];
    make_pair(x, y, n, 41);
    for (int i = 0; i < 384; i++) x[i] = 0.98f * y[i]; /* the halves differ in m */
    const outcome whole = run_place(ctx, NULL, FV_F32, d, x, y);
    for (int pass = 0; pass < 2; pass++)
        for (int k = 0; k < 2; k++) {
            fv_ctx_set_reduce(ctx, add_others, &s[k]);
            r[k] = run_place(ctx, NULL, FV_F32, half, x + k * 384, y + k * 384);
            memcpy(s[!k].others, s[k].own, sizeof s[k].own);
        }
    s[0].status = FV_ERR_IO;
    fv_ctx_set_reduce(ctx, add_others, &s[0]);
    const fv_status failed = run_place(ctx, NULL, FV_F32, half, x, y).status;
    CHECK(failed == FV_ERR_IO && s[0].calls == 3 && s[1].calls == 2);
    /* A rank that fails does not let the others wait: it tells its sum, and all fail. */
    s[0].status = FV_OK;
    x[7] = NAN;
    CHECK(run_place(ctx, NULL, FV_F32, half, x, y).status == FV_ERR_NUMERIC && s[0].calls == 4);
    CHECK(strstr(fv_ctx_error(ctx), "sample 0"));
    memcpy(s[1].others, s[0].own, sizeof s[0].own);
    fv_ctx_set_reduce(ctx, add_others, &s[1]);
    CHECK(run_place(ctx, NULL, FV_F32, half, x + 384, y + 384).status == FV_ERR_NUMERIC);
    CHECK(strstr(fv_ctx_error(ctx), "another rank"));
    fv_ctx_set_reduce(ctx, NULL, NULL);
    CHECK(whole.part[FV_PLACE_W] > 0.1f && whole.part[FV_PLACE_W] < 0.95f);
    for (int k = 0; k < 2; k++) {
        NEAR(r[k].part[FV_PLACE_W], whole.part[FV_PLACE_W], 1e-6);
        for (int i = 0; i < 384; i++) /* both are times their own N */
            NEAR(r[k].grad[i], whole.grad[k * 384 + i], 1e-5 * (1 + fabs(r[k].grad[i])));
    }
    NEAR(0.5 * (r[0].loss + r[1].loss), whole.loss, 1e-5);
}

/* ---- w, refusals, inference ------------------------------------------------------------------ */

static void given_w_is_read_in_every_forward(void)
{
    const int64_t d[3] = { 2, 40, 3 }, one = 1;
    fv_ctx *ctx = isa_ctx[SCALAR];
    float x[240], y[240], w = 0.25f;
    fv_params *p = NULL;
    fv_tape *t = NULL;
    fv_plan *plan = NULL;
    fv_t parts;
    fv_place_options o = FV_PLACE_OPTIONS_INIT;
    make_pair(x, y, 240, 43);
    OK(ctx, fv_params_create(ctx, &p));
    OK(ctx, fv_tape_create(ctx, &t, p, FV_INFER, FV_F32)); /* values alone are wanted, too */
    const fv_t a = fv_input(t, "x", FV_F32, 3, d), b = fv_input(t, "y", FV_F32, 3, d);
    o.weight = FV_PLACE_GIVEN;
    o.given = fv_input(t, "w", FV_F32, 1, &one);
    fv_output(t, "loss", fv_loss_place(t, a, b, &o, &parts));
    fv_output(t, "parts", parts);
    OK(ctx, fv_plan_finish(ctx, &plan, &t, NULL));
    OK(ctx, fv_plan_bind(plan, "x", x));
    OK(ctx, fv_plan_bind(plan, "y", y));
    OK(ctx, fv_plan_bind(plan, "w", &w));
    fv_memory_stats before, after;
    fv_ctx_memory(ctx, &before);
    for (int k = 0; k < 3; k++, w *= 2) {
        OK(ctx, fv_plan_forward(plan));
        const float *v = fv_plan_value(plan, "parts").data;
        CHECK(v[FV_PLACE_W] == w);
        NEAR(*(const float *)fv_plan_value(plan, "loss").data,
             v[FV_PLACE_COARSE] + w * v[FV_PLACE_FINE], 1e-6);
    }
    fv_ctx_memory(ctx, &after);
    CHECK(after.allocations == before.allocations);
    w = NAN;
    CHECK(fv_plan_forward(plan) == FV_ERR_NUMERIC);
    fv_plan_destroy(&plan);
    fv_params_destroy(&p);
}

static fv_status recorded(const fv_place_options *o, int ndim, const int64_t *a, const int64_t *b,
                          bool teacher_learns)
{
    fv_params *p = NULL;
    fv_tape *t = NULL;
    if (fv_params_create(isa_ctx[SCALAR], &p) != FV_OK ||
        fv_tape_create(isa_ctx[SCALAR], &t, p, FV_TRAIN, FV_F32) != FV_OK)
        exit(1);
    const fv_t x = fv_input_grad(t, "x", FV_F32, ndim, a);
    const fv_t y = teacher_learns ? fv_input_grad(t, "y", FV_F32, ndim, b)
                                  : fv_input(t, "y", FV_F32, ndim, b);
    (void)fv_loss_place(t, x, y, o, NULL);
    const fv_status s = fv_tape_status(t);
    fv_tape_destroy(&t);
    fv_params_destroy(&p);
    return s;
}

static void what_does_not_fit_is_refused(void)
{
    const int64_t d[4] = { 2, 8, 8, 3 }, other[4] = { 2, 8, 8, 4 };
    fv_place_options o = FV_PLACE_OPTIONS_INIT;
    CHECK(recorded(&o, 4, d, d, false) == FV_OK && recorded(NULL, 3, d, d, false) == FV_OK);
    CHECK(recorded(&o, 4, d, other, false) == FV_ERR_SHAPE);
    CHECK(recorded(&o, 2, d, d, false) == FV_ERR_SHAPE);
    CHECK(recorded(&o, 4, d, d, true) == FV_ERR_UNSUPPORTED);
    o.group = 1;
    CHECK(recorded(&o, 4, d, d, false) == FV_ERR_ARG);
    o = options(3, 16, 0);
    CHECK(recorded(&o, 4, d, d, false) == FV_ERR_ARG);
    o = options(0, 16, 0);
    o.channels = 4;
    CHECK(recorded(&o, 4, d, d, false) == FV_ERR_ARG);
    o.channels = 0;
    o.eps = NAN;
    CHECK(recorded(&o, 4, d, d, false) == FV_ERR_ARG);
    o.eps = 0;
    o.weight = FV_PLACE_GIVEN; /* which is none */
    CHECK(recorded(&o, 4, d, d, false) == FV_ERR_ARG);
    o.weight = FV_PLACE_CONSTANT;
    o.constant = -1;
    CHECK(recorded(&o, 4, d, d, false) == FV_ERR_ARG);
    o.struct_size = 0;
    CHECK(recorded(&o, 4, d, d, false) == FV_ERR_ARG);
}

/* ---- Masked difference ----------------------------------------------------------------------- */

/* Loss, or -1 and the status; grad [n], NULL: not wanted, nor what is kept for it. */
static float run_masked(float deviations, int64_t n, float *x, float *y, float *grad, fv_status *s)
{
    const fv_mode mode = grad ? FV_TRAIN : FV_INFER;
    const int64_t d[3] = { 2, n / 16, 8 };
    fv_ctx *ctx = isa_ctx[SCALAR];
    fv_params *p = NULL;
    fv_tape *t = NULL;
    fv_plan *plan = NULL;
    float loss = -1;
    if (fv_params_create(ctx, &p) != FV_OK || fv_tape_create(ctx, &t, p, mode, FV_F32) != FV_OK)
        exit(1);
    fv_output(t, "loss", fv_loss_masked_mse(t, fv_input_grad(t, "x", FV_F32, 3, d),
                                            fv_input(t, "y", FV_F32, 3, d), deviations));
    *s = fv_plan_finish(ctx, &plan, &t, NULL);
    if (*s == FV_OK) *s = fv_plan_bind(plan, "x", x);
    if (*s == FV_OK) *s = fv_plan_bind(plan, "y", y);
    if (*s == FV_OK) *s = fv_plan_forward(plan);
    if (*s == FV_OK && grad) *s = fv_plan_backward(plan, "loss", 1.0f);
    if (*s == FV_OK) {
        loss = *(const float *)fv_plan_value(plan, "loss").data;
        if (grad) memcpy(grad, fv_plan_grad(plan, "x").data, (size_t)n * sizeof *grad);
    }
    fv_plan_destroy(&plan);
    fv_params_destroy(&p);
    return loss;
}

/* Huge activations on either side neither count nor get a gradient. */
static void large_activations_are_left_out(void)
{
    enum { N = 512 };
    float x[N], y[N], g[N];
    double want = 0, plain = 0;
    fv_status s;
    make_pair(x, y, N, 47);
    x[3] = x[400] = 1000;
    y[10] = y[300] = -1000;
    for (int i = 0; i < N; i++) {
        const double a = fabsf(x[i]) > 99 ? 0 : x[i], b = fabsf(y[i]) > 99 ? 0 : y[i];
        want += (a - b) * (a - b) / N;
        plain += ((double)x[i] - y[i]) * ((double)x[i] - y[i]) / N;
    }
    NEAR(run_masked(2, N, x, y, g, &s), want, 1e-6);
    CHECK(s == FV_OK && g[3] == 0 && g[400] == 0);
    NEAR(run_masked(2, N, x, y, NULL, &s), want, 1e-6);
    NEAR(g[300], 2 * x[300] / N, 1e-7);
    NEAR(g[5], 2 * (x[5] - y[5]) / N, 1e-7);
    NEAR(run_masked(0, N, x, y, g, &s), plain, 1e-6 * plain);
    NEAR(g[3], 2 * (x[3] - y[3]) / N, 1e-5);
    y[17] = NAN;
    (void)run_masked(2, N, x, y, g, &s);
    CHECK(s == FV_ERR_NUMERIC);
    (void)run_masked(-1, N, x, y, g, &s);
    CHECK(s == FV_ERR_ARG);
}

int main(int argc, char **argv)
{
    make_contexts(1);
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) { /* batches of pictures, and of features */
        const int pictures[2][4] = { { 32, 32, 32, 3 }, { 32, 64, 64, 3 } };
        for (int k = 0; k < 2; k++)
            for (int kind = 0; kind < 2; kind++)
                place_case(attr_of(kind, 16, 3, FVI_PLACE_GUARDED, 1e-6f, -1), pictures[k]);
        masked_case(2, (int[4]){ 32, 16, 16, 384 });
        return bench();
    }
    add_cases();
    RUN(closed_form_in_double_equals_differences);
    RUN(scalar_op_equals_closed_form);
    RUN_ISA(AVX2, avx2_op_equals_closed_form);
    RUN_ISA(AVX512, avx512_op_equals_closed_form);
    RUN(references_are_as_published);
    RUN(gradients_keep_the_identities);
    RUN(identical_outputs_cost_nothing);
    RUN(one_group_equals_lift);
    RUN(order_of_pixels_does_not_matter);
    RUN(ties_go_by_position);
    RUN(errors_that_nearly_tie_are_sorted);
    RUN(groups_without_variance_do_no_harm);
    RUN(values_that_are_not_finite_are_reported);
    RUN(channels_that_take_no_part_do_not_count);
    RUN(ranks_share_w);
    RUN(given_w_is_read_in_every_forward);
    RUN(what_does_not_fit_is_refused);
    RUN(large_activations_are_left_out);
    RUN_OP_CHECKS();
    return op_checks_end();
}
