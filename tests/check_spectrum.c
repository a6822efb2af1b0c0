/* check_spectrum.c - ops over frequencies against double references by the definition of the
 * transform, see op_harness.h; and what the tape refuses. */
#include <complex.h>

#include "op_harness.h"

/* ---- References ------------------------------------------------------------------------------ */

/* In place, rows then columns, by the definition; sign -1 forward, 1 inverse without a factor. */
static void slow_fft(double complex *z, int h, int w, int sign)
{
    double complex line[128], root[128];
    for (int side = 0; side < 2; side++) {
        const int n = side ? h : w, lines = side ? w : h, step = side ? w : 1;
        for (int k = 0; k < n; k++) root[k] = cexp(sign * 2 * acos(-1.0) * I * ((double)k / n));
        for (int i = 0; i < lines; i++) {
            double complex *p = z + (side ? i : i * w);
            for (int k = 0; k < n; k++) {
                line[k] = 0;
                for (int j = 0; j < n; j++) line[k] += p[j * step] * root[j * k % n];
            }
            for (int k = 0; k < n; k++) p[k * step] = line[k];
        }
    }
}

static int mirror(int i, int n)
{
    while (i < 0 || i >= n) {
        if (n == 1) return 0;
        i = i < 0 ? -i : 2 * (n - 1) - i;
    }
    return i;
}

static double frequency(int k, int n)
{
    return (double)(k > n / 2 ? k - n : k) / n;
}

static void ref_low_pass(const tc *c, double *const in[], double *out)
{
    const int64_t *d = c->in[0].dim;
    const int H = (int)d[1], W = (int)d[2], C = (int)d[3];
    const int h = fvi_fft_size(H + 32), w = fvi_fft_size(W + 32);
    double complex *z = malloc(sizeof *z * (size_t)(h * w));
    if (!z) exit(1);
    for (int64_t k = 0; k < d[0] * C; k++) {
        const int64_t at = k / C * H * W * C + k % C;
        for (int i = 0; i < h * w; i++)
            z[i] = in[0][at + (mirror(i / w - 16, H) * W + mirror(i % w - 16, W)) * C];
        slow_fft(z, h, w, -1);
        for (int i = 0; i < h * w; i++) {
            const double r = hypot(frequency(i / w, h), frequency(i % w, w));
            z[i] /= (1 + pow(r / c->attr.f[0], 2 * c->attr.i[0])) * h * w;
        }
        slow_fft(z, h, w, 1);
        for (int i = 0; i < H * W; i++)
            out[at + i * C] = creal(z[(i / W + 16) * w + i % W + 16]);
    }
    free(z);
}

static void ref_spectrum(const tc *c, double *const in[], double *out)
{
    const int64_t *d = c->in[0].dim;
    const int side = c->attr.i[0], H = (int)d[1], W = (int)d[2], C = (int)last(&c->in[0]);
    double complex z[2][128];
    for (int64_t b = 0; b < d[0] * C; b++)
        for (int top = 0; top < H; top += side)
            for (int left = 0; left < W; left += side) {
                for (int k = 0; k < 2; k++) {
                    for (int i = 0; i < side * side; i++) {
                        const int64_t y = top + i / side, x = left + i % side;
                        z[k][i] = in[k][((b / C * H + y) * W + x) * C + b % C];
                    }
                    slow_fft(z[k], side, side, -1);
                }
                for (int i = 0; i < side * side; i++)
                    out[0] += fabs(cabs(z[0][i]) - cabs(z[1][i])) / side /
                              (double)count(&c->in[0]);
            }
}

/* ---- Cases ----------------------------------------------------------------------------------- */

static void low_pass_case(int order, float cutoff, const int size[4])
{
    tc *c = add_case(FVI_OP_LOW_PASS, "low_pass", ref_low_pass);
    add_input(c, 0, P, shape(4, size[0], size[1], size[2], size[3]));
    c->attr.i[0] = order;
    c->attr.f[0] = cutoff;
    c->out[0] = c->in[0];
    c->out_role = P;
}

static void spectrum_case(int patch, const int size[4])
{
    tc *c = add_case(FVI_OP_LOSS_SPECTRUM, "loss_spectrum", ref_spectrum);
    add_input(c, 0, P, shape(4, size[0], patch * size[1], patch * size[2], size[3]));
    add_input(c, 1, CONST, c->in[0]);
    c->attr.i[0] = patch;
    c->out[0] = shape(1, 1, 0, 0, 0);
    c->out[1] = c->in[0];
    c->out_role = P;
}

/* ---- On the tape ----------------------------------------------------------------------------- */

static fv_status recorded(const int64_t a[4], const int64_t b[4], float cutoff, int order,
                          int patch)
{
    fv_params *p = NULL;
    fv_tape *t = NULL;
    if (fv_params_create(isa_ctx[SCALAR], &p) != FV_OK ||
        fv_tape_create(isa_ctx[SCALAR], &t, p, FV_TRAIN, FV_F32) != FV_OK)
        exit(1);
    const fv_t x = fv_input_grad(t, "x", FV_F32, 4, a), y = fv_input(t, "y", FV_F32, 4, b);
    (void)fv_low_pass(t, x, cutoff, order);
    (void)fv_loss_spectrum(t, x, y, patch);
    const fv_status s = fv_tape_status(t);
    fv_tape_destroy(&t);
    fv_params_destroy(&p);
    return s;
}

static void what_does_not_fit_is_refused(void)
{
    const int64_t a[4] = { 2, 16, 24, 3 }, other[4] = { 2, 16, 24, 1 };
    CHECK(recorded(a, a, 0.2f, 2, 8) == FV_OK);
    CHECK(recorded(a, other, 0.2f, 2, 8) == FV_ERR_SHAPE);
    CHECK(recorded(a, a, 0.2f, 2, 16) == FV_ERR_SHAPE);  /* does not tile */
    CHECK(recorded(a, a, 0.2f, 2, 0) == FV_ERR_SHAPE);
    CHECK(recorded(a, a, 0.0f, 2, 8) == FV_ERR_ARG);
    CHECK(recorded(a, a, NAN, 2, 8) == FV_ERR_ARG);
    CHECK(recorded(a, a, 0.2f, 9, 8) == FV_ERR_ARG);
}

static void charbonnier_is_as_defined(void)
{
    const int64_t dim[3] = { 2, 3, 5 };
    float x[30], y[30], want = 0;
    fv_params *p = NULL;
    fv_tape *t = NULL;
    fv_plan *plan = NULL;
    fv_ctx *ctx = isa_ctx[SCALAR];
    for (int i = 0; i < 30; i++) {
        x[i] = 0.01f * noise(1, (uint64_t)i);
        y[i] = i % 7 ? 0.01f * noise(2, (uint64_t)i) : x[i];
        want += sqrtf((x[i] - y[i]) * (x[i] - y[i]) + 1e-6f) / 30;
    }
    OK(ctx, fv_params_create(ctx, &p));
    OK(ctx, fv_tape_create(ctx, &t, p, FV_TRAIN, FV_F32));
    fv_output(t, "loss", fv_loss_charbonnier(t, fv_input_grad(t, "x", FV_F32, 3, dim),
                                             fv_input(t, "y", FV_F32, 3, dim), 1e-3f));
    OK(ctx, fv_plan_finish(ctx, &plan, &t, NULL));
    OK(ctx, fv_plan_bind(plan, "x", x));
    OK(ctx, fv_plan_bind(plan, "y", y));
    OK(ctx, fv_plan_forward(plan));
    NEAR(*(const float *)fv_plan_value(plan, "loss").data, want, 1e-7);
    OK(ctx, fv_plan_backward(plan, "loss", 1.0f));
    const float *g = fv_plan_grad(plan, "x").data;
    for (int i = 0; i < 30; i++)
        NEAR(g[i], (x[i] - y[i]) / sqrtf((x[i] - y[i]) * (x[i] - y[i]) + 1e-6f) / 30, 1e-7);
    fv_plan_destroy(&plan);
    fv_params_destroy(&p);
}

int main(int argc, char **argv)
{
    static const int planes[][4] = { { 1, 4, 13, 3 }, { 3, 3, 8, 1 }, { 2, 8, 1, 2 },
                                     { 1, 1, 1, 1 } };
    static const int patches[][4] = { { 1, 1, 1, 1 }, { 2, 1, 2, 3 }, { 1, 3, 2, 2 } };
    static const int sides[] = { 1, 4, 5, 8 };
    make_contexts(1);
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) { /* a batch of training */
        low_pass_case(2, 0.2f, (int[4]){ 8, 128, 128, 1 });
        spectrum_case(64, (int[4]){ 8, 2, 2, 3 });
        return bench();
    }
    for (size_t i = 0; i < FV_ARRAY_LEN(planes); i++) {
        low_pass_case(2, 0.2f, planes[i]);
        low_pass_case(i % 2 ? 1 : 5, 0.12f, planes[i]);
    }
    for (size_t i = 0; i < FV_ARRAY_LEN(patches); i++)
        for (int k = 0; k < 4; k++) spectrum_case(sides[k], patches[i]);
    RUN(what_does_not_fit_is_refused);
    RUN(charbonnier_is_as_defined);
    RUN_OP_CHECKS();
    return op_checks_end();
}
