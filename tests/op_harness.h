/* op_harness.h - the fused CPU ops against double references, and every CPU variant against scalar.
 *
 * A case is one node: op, attributes, shapes, and its forward written once more as a plain double
 * function. From it come: the forward check, gradients by central differences in double, added
 * gradients, equal bytes for 1 to 3 threads, and guard bytes around every buffer. Buffers are
 * deliberately only element-aligned.
 *
 * Tolerances, relative to the largest value: f32 forward 4e-6 (a few roundings; v_exp 2e-7), f32
 * gradients 1e-5, bf16 4e-3 (half a unit in 8 bits) forward and 2e-2 for gradients.
 *
 * A program adds its cases, then runs RUN_OP_CHECKS(). */
#ifndef FV_OP_HARNESS_H
#define FV_OP_HARNESS_H

#include "cpu_ops.h"
#include "test.h"

#define GUARD 64
#define MAX_BAD 5

enum role { NO = 0, X /* activation: f32 or bf16 */, P /* f32 */, CONST /* f32, no gradient */, IDS };

typedef struct tc tc;
struct tc {
    fvi_op op;
    const char *name;
    fvi_attr attr;
    enum role role[FVI_MAX_IN], out_role;
    fv_tensor in[FVI_MAX_IN], out[FVI_MAX_OUT];
    int positive;         /* bit k: in[k] in [0.5, 1.5) */
    float range;          /* other inputs in [-range, range) */
    int id_low, id_high;  /* IDS inputs */
    const int32_t *table; /* values of an IDS input of two dimensions */
    bool no_gradient, same_type; /* same_type: the output has the input's type */
    void (*ref)(const tc *c, double *const in[], double *out);
};

/* ---- Cases ----------------------------------------------------------------------------------- */

static fv_tensor shape(int ndim, int64_t a, int64_t b, int64_t c, int64_t d)
{
    fv_tensor t = { NULL, FV_F32, ndim, { a, b, c, d } };
    return t;
}
static inline int64_t last(const fv_tensor *t) { return t->dim[t->ndim - 1]; }
static inline int64_t count(const fv_tensor *t) { return t->ndim ? fv_tensor_count(t) : 0; }

static tc *cases;
static int case_count, case_room;

static tc *add_case(fvi_op op, const char *name, void (*ref)(const tc *, double *const[], double *))
{
    if (case_count == case_room) {
        case_room = case_room ? 2 * case_room : 64;
        cases = realloc(cases, (size_t)case_room * sizeof *cases);
        if (!cases) exit(1);
    }
    tc *c = &cases[case_count++];
    memset(c, 0, sizeof *c);
    c->op = op;
    c->name = name;
    c->ref = ref;
    c->range = 1;
    c->out_role = X;
    return c;
}

static void add_input(tc *c, int k, enum role r, fv_tensor t)
{
    c->role[k] = r;
    c->in[k] = t;
}

/* ---- Running one case ------------------------------------------------------------------------ */

/* dt: bit 0 inputs bf16, bit 1 output bf16 */
typedef struct run_spec { fv_ctx *ctx; const tc *c; int dt; bool add; } run_spec;

/* Everything a run wrote, as floats, and the values it read. Index 0..4: inputs, 5: out[0]. */
typedef struct run_data {
    fv_status status;
    bool guards_ok;
    double *in[FVI_MAX_IN];
    double *u;                        /* gradient of out[0] */
    float *out, *gin[FVI_MAX_IN];
    double *old[FVI_MAX_IN];          /* gradients before, with add */
    int64_t n_out;
} run_data;

static void *guarded(size_t bytes)
{
    uint8_t *p = malloc(bytes + 2 * GUARD);
    if (!p) exit(1);
    memset(p, 0xA5, bytes + 2 * GUARD);
    return p + GUARD;
}
static bool release(void *data, size_t bytes)
{
    uint8_t *p = (uint8_t *)data - GUARD;
    bool ok = true;
    if (!data) return true;
    for (size_t i = 0; i < GUARD; i++) ok = ok && p[i] == 0xA5 && p[GUARD + bytes + i] == 0xA5;
    free(p);
    return ok;
}

static size_t bytes_of(const fv_tensor *t)
{
    return (size_t)count(t) * (t->dtype == FV_BF16 ? 2 : 4);
}

/* Odd multiples of the element size: no kernel may count on more alignment. */
static void give(fv_tensor *t)
{
    const size_t shift = t->dtype == FV_BF16 ? 2 : 4;
    uint8_t *p = guarded(bytes_of(t) + shift);
    t->data = p + shift;
}
static bool take(fv_tensor *t)
{
    const size_t shift = t->dtype == FV_BF16 ? 2 : 4;
    if (!t->data) return true;
    uint8_t *p = (uint8_t *)t->data - shift;
    t->data = NULL;
    return release(p, bytes_of(t) + shift);
}

static double value(const fv_tensor *t, int64_t i)
{
    return t->dtype == FV_I32 ? ((const int32_t *)t->data)[i] : fvi_get(fvi_in_at(t, 0), i);
}

/* [-1, 1) from splitmix64: neighbouring values of the generator of test.h are correlated when each
 * has its own seed, and then rounding errors add up instead of cancelling. */
static float noise(uint64_t seed, uint64_t i)
{
    uint64_t z = seed * 0x9e3779b97f4a7c15u + i * 0xd1b54a32d192ed03u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (float)(int32_t)((z ^ (z >> 31)) >> 32) / 2147483648.0f;
}

static void fill(const tc *c, fv_tensor *t, bool positive, uint64_t seed)
{
    for (int64_t i = 0; i < count(t); i++) {
        const float f = noise(seed, (uint64_t)i);
        if (t->dtype == FV_I32) {
            if (t->ndim == 2 && c->table) {
                ((int32_t *)t->data)[i] = c->table[i];
                continue;
            }
            const int span = c->id_high - c->id_low;
            int id = c->id_low + (int)((f + 1) * 0.5f * (float)span);
            ((int32_t *)t->data)[i] = id < c->id_high ? id : c->id_high - 1;
        } else {
            fvi_put(fvi_out_at(t, 0, false), i, positive ? 1 + 0.5f * f : f * c->range);
        }
    }
}

static double *doubles(const fv_tensor *t)
{
    double *d = malloc((size_t)(count(t) + 1) * sizeof *d);
    if (!d) exit(1);
    for (int64_t i = 0; i < count(t); i++) d[i] = value(t, i);
    return d;
}
static float *floats(const fv_tensor *t)
{
    float *d = malloc((size_t)(count(t) + 1) * sizeof *d);
    if (!d) exit(1);
    for (int64_t i = 0; i < count(t); i++) d[i] = (float)value(t, i);
    return d;
}

static fv_dtype type_of(enum role r, bool bf16)
{
    return r == IDS ? FV_I32 : r == X && bf16 ? FV_BF16 : FV_F32;
}

static void setup(const run_spec *s, fvi_exec *e, run_data *d)
{
    const tc *c = s->c;
    memset(e, 0, sizeof *e);
    memset(d, 0, sizeof *d);
    e->ctx = s->ctx;
    e->attr = &c->attr;
    e->training = true;
    for (int k = 0; k < FVI_MAX_IN; k++) {
        if (!c->role[k]) continue;
        e->in[k] = c->in[k];
        e->in[k].dtype = type_of(c->role[k], s->dt & 1);
    }
    for (int k = 0; k < FVI_MAX_OUT; k++) {
        e->out[k] = c->out[k];
        e->out[k].dtype = k ? FV_F32 : type_of(c->out_role, s->dt & (c->same_type ? 1 : 2));
    }
}

static fv_status pass(fvi_exec *e, const fvi_op_def *def, bool backward, bool *guards)
{
    fvi_exec shapes = *e; /* scratch_bytes may not look at data */
    for (int k = 0; k < FVI_MAX_IN; k++) shapes.in[k].data = shapes.gin[k].data = NULL;
    for (int k = 0; k < FVI_MAX_OUT; k++) shapes.out[k].data = NULL;
    shapes.gout[0].data = NULL;
    const size_t bytes = def->scratch_bytes ? def->scratch_bytes(&shapes, backward) : 0;
    uint8_t *block = guarded(bytes + 64);
    const size_t skip = (64 - (uintptr_t)block % 64) % 64;
    e->scratch = block + skip;
    const fv_status st = backward ? def->backward(e) : def->forward(e);
    for (size_t i = bytes; i < bytes + 64 - skip; i++) *guards = *guards && block[skip + i] == 0xA5;
    *guards = release(block, bytes + 64) && *guards;
    return st;
}

static void run_case(const run_spec *s, run_data *d)
{
    const tc *c = s->c;
    const fvi_op_def *def = fvi_cpu_op(c->op);
    fvi_exec e;
    setup(s, &e, d);
    d->guards_ok = true;
    for (int k = 0; k < FVI_MAX_IN; k++) {
        if (!c->role[k]) continue;
        give(&e.in[k]);
        fill(c, &e.in[k], c->positive >> k & 1, (uint64_t)k + 1);
        d->in[k] = doubles(&e.in[k]);
    }
    for (int k = 0; k < FVI_MAX_OUT; k++)
        if (c->out[k].ndim) give(&e.out[k]);
    d->n_out = count(&e.out[0]);
    d->status = def->prepare ? def->prepare(&e) : FV_OK;
    if (d->status == FV_OK) d->status = pass(&e, def, false, &d->guards_ok);
    d->out = floats(&e.out[0]);
    if (!c->no_gradient && d->status == FV_OK) {
        e.gout[0] = e.out[0];
        give(&e.gout[0]);
        fill(c, &e.gout[0], d->n_out == 1, 77);
        d->u = doubles(&e.gout[0]);
        for (int k = 0; k < FVI_MAX_IN; k++) {
            if (c->role[k] != X && c->role[k] != P) continue;
            e.gin[k] = e.in[k];
            e.gin_add[k] = s->add;
            give(&e.gin[k]);
            if (s->add) fill(c, &e.gin[k], false, 100 + (uint64_t)k);
            if (s->add) d->old[k] = doubles(&e.gin[k]);
        }
        d->status = pass(&e, def, true, &d->guards_ok);
        for (int k = 0; k < FVI_MAX_IN; k++) {
            if (e.gin[k].data) d->gin[k] = floats(&e.gin[k]);
            d->guards_ok = take(&e.gin[k]) && d->guards_ok;
        }
        d->guards_ok = take(&e.gout[0]) && d->guards_ok;
    }
    if (def->release) def->release(s->ctx, e.state);
    for (int k = 0; k < FVI_MAX_IN; k++) d->guards_ok = take(&e.in[k]) && d->guards_ok;
    for (int k = 0; k < FVI_MAX_OUT; k++) d->guards_ok = take(&e.out[k]) && d->guards_ok;
}

static void free_run(run_data *d)
{
    for (int k = 0; k < FVI_MAX_IN; k++) {
        free(d->in[k]);
        free(d->gin[k]);
        free(d->old[k]);
    }
    free(d->out);
    free(d->u);
}

static const char *describe(const tc *c)
{
    static char text[160];
    const int64_t *a = c->in[0].dim;
    snprintf(text, sizeof text, "%s [%d: %lld %lld %lld %lld] attr %d %d %d", c->name,
             c->in[0].ndim, (long long)a[0], (long long)a[1], (long long)a[2], (long long)a[3],
             (int)c->attr.i[0], (int)c->attr.i[1], (int)c->attr.i[2]);
    return text;
}

/* ---- Contexts -------------------------------------------------------------------------------- */

enum { SCALAR, AVX2, AVX512, N_ISA };
static const char *isa_name[N_ISA] = { "scalar", "AVX2", "AVX-512" };
static fv_ctx *isa_ctx[N_ISA]; /* NULL: this machine lacks it */

static fv_ctx *context(uint32_t disable, int threads)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_ctx *ctx = NULL;
    o.threads = threads;
    o.cpu_disable = disable;
    if (fv_ctx_create(&ctx, &o) != FV_OK) exit(1);
    return ctx;
}

/* Checks run on one thread: cases are small, and another test is about threads. */
static void make_contexts(int threads)
{
    const uint32_t have = fv_cpu_features();
    isa_ctx[SCALAR] = context(~0u, threads);
    if (have & FV_CPU_AVX2) isa_ctx[AVX2] = context(~(uint32_t)FV_CPU_AVX2, threads);
    if (have & FV_CPU_AVX512) isa_ctx[AVX512] = context(0, threads);
}

/* ---- Properties ------------------------------------------------------------------------------ */

static double max_abs(const double *x, int64_t n)
{
    double m = 0;
    for (int64_t i = 0; i < n; i++) m = fabs(x[i]) > m ? fabs(x[i]) : m;
    return m;
}

/* Forward of one variant against the double reference. */
static void check_forward(int isa)
{
    int bad = 0;
    for (int n = 0; n < case_count && bad < MAX_BAD; n++)
        for (int dt = 0; dt < 4; dt++) {
            const run_spec s = { isa_ctx[isa], &cases[n], dt, false };
            run_data d;
            run_case(&s, &d);
            double *want = calloc((size_t)d.n_out + 1, sizeof *want);
            if (!want) exit(1);
            cases[n].ref(&cases[n], d.in, want);
            const bool bf16 = dt & (cases[n].same_type ? 1 : 2) && cases[n].out_role == X;
            const double tol = (bf16 ? 4e-3 : 4e-6) * (max_abs(want, d.n_out) + (bf16 ? 0 : 1));
            double worst = 0;
            for (int64_t i = 0; i < d.n_out; i++) {
                const double err = fabs(d.out[i] - want[i]);
                worst = test_worst(worst, err);
            }
            if (d.status != FV_OK || !d.guards_ok || !(worst <= tol)) {
                bad++;
                printf("# %s %s dt %d: status %d guards %d error %g tolerance %g\n", isa_name[isa],
                       describe(&cases[n]), dt, (int)d.status, d.guards_ok, worst, tol);
            }
            free(want);
            free_run(&d);
        }
    CHECK(bad == 0);
}
static void scalar_forward_matches_reference(void) { check_forward(SCALAR); }
static void avx2_forward_matches_reference(void) { check_forward(AVX2); }
static void avx512_forward_matches_reference(void) { check_forward(AVX512); }

static double dot_forward(const tc *c, const run_data *d, double *work)
{
    double sum = 0;
    memset(work, 0, (size_t)d->n_out * sizeof *work);
    c->ref(c, d->in, work);
    for (int64_t i = 0; i < d->n_out; i++) sum += d->u[i] * work[i];
    return sum;
}

/* Largest |gradient - central difference| of input k over a sample of its elements, and the largest
 * difference quotient: the scale. */
static double difference_error(const tc *c, run_data *d, int k, double *scale)
{
    const int64_t n = count(&c->in[k]), points = n < 24 ? n : 24;
    double *work = malloc((size_t)(d->n_out + 1) * sizeof *work), worst = 0;
    if (!work) exit(1);
    for (int64_t p = 0; p < points; p++) {
        const int64_t i = n <= 24 ? p : (p * n / points + p * p) % n;
        const double h = 1e-6, x = d->in[k][i];
        d->in[k][i] = x + h;
        const double up = dot_forward(c, d, work);
        d->in[k][i] = x - h;
        const double down = dot_forward(c, d, work);
        d->in[k][i] = x;
        const double want = (up - down) / (2 * h);
        const double got = d->gin[k][i] - (d->old[k] ? d->old[k][i] : 0);
        worst = test_worst(worst, fabs(got - want));
        if (fabs(want) > *scale) *scale = fabs(want);
    }
    free(work);
    return worst;
}

/* Backward against central differences of the reference; with add, on top of what was there. */
static void check_gradients(int isa, bool add)
{
    int bad = 0;
    for (int n = 0; n < case_count && bad < MAX_BAD; n++) {
        const tc *c = &cases[n];
        if (c->no_gradient || count(&c->in[0]) > 8000) continue;
        for (int dt = 0; dt < 4; dt += add || isa ? 3 : 1) {
            const run_spec s = { isa_ctx[isa], c, dt, add };
            run_data d;
            run_case(&s, &d);
            for (int k = 0; k < FVI_MAX_IN && d.status == FV_OK; k++) {
                if (!d.gin[k]) continue;
                double scale = add ? 1 : 0.1;
                const double err = difference_error(c, &d, k, &scale);
                const double tol = (dt ? 2e-2 : 1e-5) * scale;
                if (err <= tol) continue;
                bad++;
                printf("# %s %s dt %d input %d: error %g tolerance %g\n", isa_name[isa],
                       describe(c), dt, k, err, tol);
            }
            if (d.status != FV_OK || !d.guards_ok) {
                bad++;
                printf("# %s %s dt %d: status %d guards %d\n", isa_name[isa], describe(c), dt,
                       (int)d.status, d.guards_ok);
            }
            free_run(&d);
        }
    }
    CHECK(bad == 0);
}
static void scalar_gradients_match_differences(void) { check_gradients(SCALAR, false); }
static void avx2_gradients_match_differences(void) { check_gradients(AVX2, false); }
static void avx512_gradients_match_differences(void) { check_gradients(AVX512, false); }
static void scalar_gradients_are_added(void) { check_gradients(SCALAR, true); }
static void avx2_gradients_are_added(void) { check_gradients(AVX2, true); }
static void avx512_gradients_are_added(void) { check_gradients(AVX512, true); }

static double worst_gap(const float *a, const float *b, int64_t n, double *scale)
{
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        worst = test_worst(worst, fabs((double)a[i] - b[i]));
        if (fabs(b[i]) > *scale) *scale = fabs(b[i]);
    }
    return worst;
}

/* All elements of all gradients and outputs of a vector variant against scalar: the difference test
 * above looks at a sample of elements only. */
static void check_variant(int isa)
{
    int bad = 0;
    for (int n = 0; n < case_count && bad < MAX_BAD; n++)
        for (int dt = 0; dt < 4; dt++)
            for (int add = 0; add < 2; add++) {
                const run_spec s = {isa_ctx[isa], &cases[n], dt, add},
                               r = {isa_ctx[SCALAR], &cases[n], dt, add};
                run_data a, b;
                run_case(&s, &a);
                run_case(&r, &b);
                for (int k = -1; k < FVI_MAX_IN; k++) {
                    const float *x = k < 0 ? a.out : a.gin[k], *y = k < 0 ? b.out : b.gin[k];
                    double scale = 0.1;
                    if (!x || !y) continue;
                    const double gap =
                        worst_gap(x, y, k < 0 ? a.n_out : count(&cases[n].in[k]), &scale);
                    if (gap <= (dt ? 1e-2 : 1e-5) * scale) continue;
                    bad++;
                    printf("# %s %s dt %d add %d tensor %d: %g from scalar, scale %g\n",
                           isa_name[isa], describe(&cases[n]), dt, add, k, gap, scale);
                }
                free_run(&a);
                free_run(&b);
            }
    CHECK(bad == 0);
}
static void avx2_matches_scalar(void) { check_variant(AVX2); }
static void avx512_matches_scalar(void) { check_variant(AVX512); }

/* Bit patterns of everything a case writes are the same for 1, 2 and 3 threads. */
static int thread_differences(fv_ctx *const ctx[3], const tc *c, int dt)
{
    run_data d[3];
    int bad = 0;
    for (int t = 0; t < 3; t++) {
        const run_spec s = { ctx[t], c, dt, dt != 0 };
        run_case(&s, &d[t]);
        bad += memcmp(d[0].out, d[t].out, (size_t)d[0].n_out * sizeof(float)) != 0;
        for (int k = 0; k < FVI_MAX_IN; k++)
            bad += d[t].gin[k] &&
                   memcmp(d[0].gin[k], d[t].gin[k], (size_t)count(&c->in[k]) * sizeof(float));
    }
    for (int t = 0; t < 3; t++) free_run(&d[t]);
    return bad;
}

static void same_bytes_for_1_2_and_3_threads(void)
{
    int bad = 0;
    for (int isa = 0; isa < N_ISA; isa++) {
        fv_ctx *ctx[3];
        if (!isa_ctx[isa]) continue;
        for (int t = 0; t < 3; t++) ctx[t] = context(~fv_ctx_cpu(isa_ctx[isa]), t + 1);
        for (int n = 0; n < case_count; n++)
            bad += thread_differences(ctx, &cases[n], n & 1 ? 3 : 0);
        for (int t = 0; t < 3; t++) fv_ctx_destroy(&ctx[t]);
    }
    CHECK(bad == 0);
}

/* ---- Bench ----------------------------------------------------------------------------------- */

static double time_pass(fvi_exec *e, const fvi_op_def *def, bool backward)
{
    double best = 1e9;
    for (int k = 0; k < 15; k++) {
        const double t = fv_now();
        const fv_status s = backward ? def->backward(e) : def->forward(e);
        const double dt = fv_now() - t;
        if (s != FV_OK) exit(1);
        best = dt < best ? dt : best;
    }
    return best;
}

static void bench_one(const tc *c, int isa, int dt)
{
    const fvi_op_def *def = fvi_cpu_op(c->op);
    const run_spec s = { isa_ctx[isa], c, dt, false };
    fvi_exec e;
    run_data d;
    double forward_bytes = 0, backward_bytes = 0, seconds[2] = { 0, 0 };
    setup(&s, &e, &d);
    for (int k = 0; k < FVI_MAX_IN; k++) {
        if (!c->role[k]) continue;
        e.in[k].data = fv_alloc(s.ctx, bytes_of(&e.in[k]));
        fill(c, &e.in[k], c->positive >> k & 1, 3 + (uint64_t)k);
        forward_bytes += (double)bytes_of(&e.in[k]);
        if (c->role[k] == IDS || c->role[k] == CONST) continue;
        e.gin[k] = e.in[k];
        e.gin[k].data = fv_calloc(s.ctx, bytes_of(&e.in[k]), 1);
        backward_bytes += (double)bytes_of(&e.in[k]);
        if (def->bwd_reads_in >> k & 1) backward_bytes += (double)bytes_of(&e.in[k]);
    }
    for (int k = 0; k < FVI_MAX_OUT; k++)
        if (c->out[k].ndim) e.out[k].data = fv_calloc(s.ctx, bytes_of(&e.out[k]), 1);
    forward_bytes += (double)bytes_of(&e.out[0]);
    backward_bytes += (double)bytes_of(&e.out[0]);
    e.gout[0] = e.out[0];
    e.gout[0].data = fv_calloc(s.ctx, bytes_of(&e.out[0]), 1);
    if (def->prepare && def->prepare(&e) != FV_OK) exit(1);
    for (int b = 0; b < 2; b++) {
        if (b && c->no_gradient) continue;
        e.scratch = fv_alloc(s.ctx, (def->scratch_bytes ? def->scratch_bytes(&e, b) : 0) + 64);
        seconds[b] = time_pass(&e, def, b);
        fv_free(s.ctx, e.scratch);
    }
    if (def->release) def->release(s.ctx, e.state);
    printf("%-12s attr %2d  %-8s %-4s forward %7.1f us %6.1f GB/s", c->name, (int)c->attr.i[0],
           isa_name[isa], dt ? "bf16" : "f32", seconds[0] * 1e6, forward_bytes / seconds[0] * 1e-9);
    if (!c->no_gradient)
        printf("   backward %7.1f us %6.1f GB/s", seconds[1] * 1e6,
               backward_bytes / seconds[1] * 1e-9);
    printf("\n");
    for (int k = 0; k < FVI_MAX_IN; k++) {
        fv_free(s.ctx, e.in[k].data);
        fv_free(s.ctx, e.gin[k].data);
    }
    for (int k = 0; k < FVI_MAX_OUT; k++) fv_free(s.ctx, e.out[k].data);
    fv_free(s.ctx, e.gout[0].data);
}

static int bench(void)
{
    for (int n = 0; n < case_count; n++)
        for (int dt = 0; dt < 4; dt += 3)
            for (int isa = 0; isa < N_ISA; isa++)
                if (isa_ctx[isa]) bench_one(&cases[n], isa, dt);
    return 0;
}

#define RUN_ISA(isa, name)                                     \
    do {                                                       \
        if (isa_ctx[isa]) RUN(name);                           \
        else SKIP(name, "this CPU lacks the instructions");    \
    } while (0)

#define RUN_OP_CHECKS()                                             \
    do {                                                            \
        RUN(scalar_forward_matches_reference);                      \
        RUN_ISA(AVX2, avx2_forward_matches_reference);              \
        RUN_ISA(AVX512, avx512_forward_matches_reference);          \
        RUN(scalar_gradients_match_differences);                    \
        RUN_ISA(AVX2, avx2_gradients_match_differences);            \
        RUN_ISA(AVX512, avx512_gradients_match_differences);        \
        RUN(scalar_gradients_are_added);                            \
        RUN_ISA(AVX2, avx2_gradients_are_added);                    \
        RUN_ISA(AVX512, avx512_gradients_are_added);                \
        RUN_ISA(AVX2, avx2_matches_scalar);                         \
        RUN_ISA(AVX512, avx512_matches_scalar);                     \
        RUN(same_bytes_for_1_2_and_3_threads);                      \
    } while (0)

static inline int op_checks_end(void)
{
    for (int k = 0; k < N_ISA; k++) fv_ctx_destroy(&isa_ctx[k]);
    free(cases);
    return test_end();
}
#endif
