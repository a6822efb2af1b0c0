/* test_dit_parity.c - both transformer families against float64 references (tests/parity): every
 * stage, output, loss and the gradient of every parameter, for each CPU variant; bf16 more loosely.
 */
#include "dit_fixture.h"
#include "golden_parity.h"

#define VALUE_TOLERANCE 2e-5 /* of max |reference|; f32 floor measured 1e-6  */
#define F_GRADIENT 1e-4      /* of the tensor's RMS; f32 floor measured 2e-5 */
/* The official fixture is ill-conditioned (peaked attention, wide open gates): moving x by one f32
 * ulp moves gradients by up to 5e-4 of their RMS, while each op alone is right to 2e-6
 * (test_ops_parity). */
#define OFFICIAL_GRADIENT 5e-4
#define WHOLE_GRADIENT 1e-4 /* relative L2 of all parameters as one vector */
#define BF16_TOLERANCE 2e-2 /* relative L2 */

static const float *golden(const fv_model *io, const char *name, int64_t *n)
{
    const fv_tensor t = golden_tensor(io, name);
    if (n) *n = fv_tensor_count(&t);
    return t.data;
}

/* ---- Networks ------------------------------------------------------------------------------- */

static dit_config official_config(int width, int heads, int depth)
{
    dit_config c = {.family = DIT_OFFICIAL,
                    .input_size = 8,
                    .channels = 4,
                    .out_channels = 8,
                    .patch = 2,
                    .width = width,
                    .depth = depth,
                    .heads = heads,
                    .hidden = 4 * width,
                    .classes = 10,
                    .has_null = 1,
                    .t_scale = 1,
                    .t_den = 128,
                    .ln2_eps = 1e-6f,
                    .steps = 50,
                    .cfg = 4,
                    .sampler = FV_SAMPLER_DDIM};
    return c;
}

static dit_config f_config(int patch)
{
    dit_config c = {.family = DIT_F,
                    .input_size = patch == 8 ? 32 : 16,
                    .channels = 3,
                    .out_channels = 3,
                    .patch = patch,
                    .width = 32,
                    .depth = patch == 8 ? 1 : 2,
                    .heads = 2,
                    .hidden = 96,
                    .classes = 10,
                    .has_null = 1,
                    .bottleneck = patch == 8 ? 64 : 0,
                    .t_scale = 1000,
                    .t_den = 128,
                    .ln2_eps = 1e-6f,
                    .steps = 50,
                    .cfg = 2,
                    .sampler = FV_SAMPLER_EULER};
    return c;
}

/* Weights of the D = 144 model by rule (README.md): seed = FNV-1a of the name, values / 8. */
static void fill_by_rule(dit_net *n)
{
    for (int i = 0; i < fv_params_count(n->params); i++) {
        const fv_tensor t = fv_params_tensor(n->params, i);
        float *w = t.data;
        uint64_t seed = 0xcbf29ce484222325ull;
        for (const char *s = fv_params_name(n->params, i); *s; s++)
            seed = (seed ^ (uint8_t)*s) * 0x100000001b3ull;
        if (i == n->pos) {
            dit_pos_table(&n->cfg, w);
            continue;
        }
        test_fill(w, fv_tensor_count(&t), seed);
        for (int64_t k = 0; k < fv_tensor_count(&t); k++) w[k] /= 8;
    }
    fv_params_touch(n->params);
}

static fv_status start(fixture *f, const dit_config *c, const fv_model *weights, int B,
                       fv_mode mode, fv_dtype precision, int with_stages)
{
    memset(f, 0, sizeof *f);
    f->ctx = ctx;
    FV_TRY(dit_net_create(ctx, &f->net, c));
    if (mode == FV_TRAIN || !weights) FV_TRY(fv_params_alloc(f->net.params));
    if (weights)
        FV_TRY(fv_params_load(f->net.params, weights, ""));
    else
        fill_by_rule(&f->net);
    return fixture_build(f, B, mode, precision, with_stages);
}

/* ---- Comparisons ---------------------------------------------------------------------------- */

static void check_stages(const fixture *f, const fv_model *io)
{
    for (int i = 0; i < f->stages; i++) {
        int64_t n;
        const float *want = golden(io, f->stage_name[i], &n);
        const fv_tensor got = fv_plan_value_of(f->plan, f->stage[i]);
        CHECK_MSG(got.data && got.dtype == FV_F32 && fv_tensor_count(&got) == n, "%s",
                  f->stage_name[i]);
        float *ref = test_alloc((size_t)n * 4);
        memcpy(ref, want, (size_t)n * 4);
        if (strcmp(f->stage_name[i], "c") == 0) /* ours is silu(c) */
            for (int64_t k = 0; k < n; k++) ref[k] = (float)(want[k] / (1 + exp(-(double)want[k])));
        const double d = test_rel_max(got.data, ref, n);
        free(ref);
        CHECK_MSG(d <= VALUE_TOLERANCE, "%s: stage %s: %g", variant, f->stage_name[i], d);
    }
}

/* Sums of squares of errors and of values. */
typedef struct squares {
    double error, value;
} squares;

/* Largest error relative to the RMS of `want`; adds `part` of the squares to *sum. */
static double rms_error(const double *got, const float *want, int64_t n, squares *sum, double part)
{
    double square = 0, error = 0, worst = 0;
    for (int64_t i = 0; i < n; i++) {
        square += (double)want[i] * want[i];
        error += (got[i] - want[i]) * (got[i] - want[i]);
        worst = test_worst(worst, fabs(got[i] - want[i]));
    }
    sum->error += part * error;
    sum->value += part * square;
    return square > 0 ? worst / sqrt(square / (double)n) : worst;
}

/* G [rows, cols] against the stored whole gradient, or its products with the probes. These are
 * drawn from N(0, 1): the expected square of a product is that of G, and *sum takes half of
 * each. */
static double gradient_error(const fv_model *io, const char *name, const float *g, int64_t rows,
                             int64_t cols, squares *sum)
{
    char key[128];
    fv_tensor t;
    double *v = test_alloc((size_t)(rows * cols) * sizeof *v), worst;
    snprintf(key, sizeof key, "grad.%s", name);
    if (fv_model_find(io, key, &t)) {
        for (int64_t i = 0; i < rows * cols; i++) v[i] = g[i];
        worst = fv_tensor_count(&t) == rows * cols ? rms_error(v, t.data, rows * cols, sum, 1)
                                                   : INFINITY;
    } else {
        snprintf(key, sizeof key, "probe.%lld", (long long)cols);
        const float *a = golden(io, key, NULL);
        snprintf(key, sizeof key, "probe.%lld", (long long)rows);
        const float *b = golden(io, key, NULL);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t k = 0; k < cols; k++) v[r] += (double)g[r * cols + k] * a[k];
        snprintf(key, sizeof key, "grad_rows.%s", name);
        worst = rms_error(v, golden(io, key, NULL), rows, sum, 0.5);
        memset(v, 0, (size_t)cols * sizeof *v);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t k = 0; k < cols; k++) v[k] += (double)g[r * cols + k] * b[r];
        snprintf(key, sizeof key, "grad_cols.%s", name);
        worst = fmax(worst, rms_error(v, golden(io, key, NULL), cols, sum, 0.5));
    }
    free(v);
    return worst;
}

static void check_gradients(const fixture *f, const fv_model *io)
{
    const fv_params *p = f->net.params;
    const double tolerance = f->net.cfg.family == DIT_F ? F_GRADIENT : OFFICIAL_GRADIENT;
    squares sum = { 0, 0 };
    for (int i = 0; i < fv_params_count(p); i++) {
        if (i == f->net.pos) continue;
        const fv_tensor g = fv_params_grad(p, i);
        const double d = gradient_error(io, fv_params_name(p, i), g.data, g.dim[0],
                                        fv_tensor_count(&g) / g.dim[0], &sum);
        CHECK_MSG(d <= tolerance, "%s: gradient of %s: %g of its RMS", variant,
                  fv_params_name(p, i), d);
    }
    const double whole = sqrt(sum.error / sum.value);
    printf("# whole gradient of %s: relative L2 %.2g\n",
           f->net.cfg.family == DIT_F ? "F" : "an official DiT", whole);
    CHECK_MSG(whole <= WHOLE_GRADIENT, "%s: whole gradient: relative L2 %g", variant, whole);
}

/* ---- Official ------------------------------------------------------------------------------- */

static void official_inputs(fixture *f, const fv_model *io)
{
    nhwc_from_nchw(golden(io, "x", NULL), f->B, 4, 64, f->x);
    fixture_conditions(f, io);
}

/* max error of `out` (or out_diffusers) relative to its maximum; relative L2 in *l2. */
static double official_out(const fixture *f, const fv_model *io, const char *name, double *l2)
{
    const size_t n = (size_t)f->B * 8 * 64;
    float *got = test_alloc(n * 4);
    nchw_from_nhwc(fv_plan_value(f->plan, "out").data, f->B, 8, 64, got);
    const float *want = golden(io, name, NULL);
    const double d = test_rel_max(got, want, (int64_t)n);
    if (l2) *l2 = test_rel_l2(got, want, (int64_t)n);
    free(got);
    return d;
}

static void official_case(const char *name, int diffusers_numerics)
{
    dit_config c = official_config(48, 3, 2);
    fv_model *w = open_golden(name), *io = open_golden("dit_small_io");
    fixture f;
    double l2;
    if (diffusers_numerics) {
        c.t_den = 127;
        c.ln2_eps = 1e-5f;
    }
    OK(ctx, start(&f, &c, w, 2, FV_INFER, FV_F32, 1));
    official_inputs(&f, io);
    OK(ctx, fv_plan_forward(f.plan));
    if (!diffusers_numerics) check_stages(&f, io);
    const double d = official_out(&f, io, diffusers_numerics ? "out_diffusers" : "out", &l2);
    fixture_free(&f);
    fv_model_close(&w);
    fv_model_close(&io);
    CHECK_MSG(d <= VALUE_TOLERANCE, "%s: out: %g of max, relative L2 %g", variant, d, l2);
}

static void official_stages_and_output_match(void)
{
    official_case("dit_small", 0);
}
static void official_with_diffusers_numerics_matches(void)
{
    official_case("dit_small", 1);
}

static void official_head_size_72_matches(void)
{
    const dit_config c = official_config(144, 2, 1);
    fv_model *io = open_golden("dit_hd72_io");
    fixture f;
    OK(ctx, start(&f, &c, NULL, 1, FV_TRAIN, FV_F32, 1));
    const fv_tensor b =
        fv_params_tensor(f.net.params, fv_params_find(f.net.params, "blocks.0.attn.qkv.bias"));
    CHECK(memcmp(b.data, golden(io, "check.blocks.0.attn.qkv.bias", NULL), 32) == 0);
    official_inputs(&f, io);
    OK(ctx, fv_plan_forward(f.plan));
    check_stages(&f, io);
    const double d = official_out(&f, io, "out", NULL);
    fixture_free(&f);
    fv_model_close(&io);
    CHECK_MSG(d <= VALUE_TOLERANCE, "%s: out: %g", variant, d);
}

/* The golden loss is sum(out u). Ours is mean((out - target)^2): with target = out - u n/2 the
 * gradient at the output is u. */
static void official_gradients_match(void)
{
    const dit_config c = official_config(48, 3, 2);
    fv_model *w = open_golden("dit_small"), *io = open_golden("dit_small_io");
    const int n = 2 * 8 * 64;
    fixture f;
    OK(ctx, start(&f, &c, w, 2, FV_TRAIN, FV_F32, 0));
    official_inputs(&f, io);
    for (int b = 0; b < 2; b++) f.weight[b] = 1;
    OK(ctx, fv_plan_forward(f.plan));
    const double d = official_out(&f, io, "out", NULL);
    CHECK_MSG(d <= VALUE_TOLERANCE, "%s: out in training: %g", variant, d);
    const float *out = fv_plan_value(f.plan, "out").data;
    nhwc_from_nchw(golden(io, "u", NULL), 2, 8, 64, f.target);
    for (int i = 0; i < n; i++) f.target[i] = out[i] - f.target[i] * (n / 2);
    OK(ctx, fv_plan_forward(f.plan));
    OK(ctx, fv_plan_backward(f.plan, "loss", 1.0f));
    check_gradients(&f, io);
    float dx[512];
    double got[512];
    const fv_tensor gx = fv_plan_grad(f.plan, "x");
    CHECK(gx.data != NULL);
    nchw_from_nhwc(gx.data, 2, 4, 64, dx);
    for (int i = 0; i < 512; i++) got[i] = dx[i];
    squares sum = { 0, 0 };
    const double e = rms_error(got, golden(io, "dx", NULL), 512, &sum, 1);
    CHECK_MSG(e <= OFFICIAL_GRADIENT, "%s: dx: %g", variant, e);
    fixture_free(&f);
    fv_model_close(&w);
    fv_model_close(&io);
}

static void official_bf16_is_close(void)
{
    const dit_config c = official_config(48, 3, 2);
    fv_model *w = open_golden("dit_small"), *io = open_golden("dit_small_io");
    for (int mode = FV_INFER; mode <= FV_TRAIN; mode++) {
        fixture f;
        double l2;
        OK(ctx, start(&f, &c, w, 2, (fv_mode)mode, FV_BF16, 0));
        official_inputs(&f, io);
        OK(ctx, fv_plan_forward(f.plan));
        official_out(&f, io, "out", &l2);
        fixture_free(&f);
        CHECK_MSG(l2 <= BF16_TOLERANCE, "%s: mode %d: relative L2 %g", variant, mode, l2);
    }
    fv_model_close(&w);
    fv_model_close(&io);
}

/* ---- F family ------------------------------------------------------------------------------- */

static void f_inputs(fixture *f, const fv_model *io)
{
    int64_t n;
    const float *z = golden(io, "z", &n);
    memcpy(f->x, z, (size_t)n * 4);
    memcpy(f->target, golden(io, "x", NULL), (size_t)n * 4);
    fixture_conditions(f, io);
    for (int b = 0; b < f->B; b++) {
        const double rest = fmax(1 - (double)f->time[b], 0.05);
        f->weight[b] = (float)(1 / (rest * rest));
    }
}

static void f_case(int patch, fv_mode mode, fv_dtype precision)
{
    const dit_config c = f_config(patch);
    char name[16], io_name[16];
    snprintf(name, sizeof name, "f_p%d", patch);
    snprintf(io_name, sizeof io_name, "f_p%d_io", patch);
    fv_model *w = open_golden(name), *io = open_golden(io_name);
    fixture f;
    OK(ctx, start(&f, &c, w, patch == 8 ? 1 : 2, mode, precision,
                  mode == FV_INFER && precision == FV_F32));
    f_inputs(&f, io);
    OK(ctx, fv_plan_forward(f.plan));
    int64_t n;
    const float *want = golden(io, "xhat", &n), *got = fv_plan_value(f.plan, "out").data;
    if (precision == FV_BF16) {
        const double l2 = test_rel_l2(got, want, n);
        CHECK_MSG(l2 <= BF16_TOLERANCE, "%s: xhat in bf16: relative L2 %g", variant, l2);
    } else {
        const double d = test_rel_max(got, want, n);
        CHECK_MSG(d <= VALUE_TOLERANCE, "%s: xhat: %g", variant, d);
        check_stages(&f, io);
    }
    if (mode == FV_TRAIN && precision == FV_F32) {
        const double loss = *(const float *)fv_plan_value(f.plan, "loss").data,
                     ref = *golden(io, "loss", NULL);
        NEAR(loss, ref, 1e-5 * fabs(ref));
        OK(ctx, fv_plan_backward(f.plan, "loss", 1.0f));
        check_gradients(&f, io);
    }
    fixture_free(&f);
    fv_model_close(&w);
    fv_model_close(&io);
}

static void f_p4_stages_and_output_match(void)
{
    f_case(4, FV_INFER, FV_F32);
}
static void f_p8_stages_and_output_match(void)
{
    f_case(8, FV_INFER, FV_F32);
}
static void f_p4_loss_and_gradients_match(void)
{
    f_case(4, FV_TRAIN, FV_F32);
}
static void f_p8_loss_and_gradients_match(void)
{
    f_case(8, FV_TRAIN, FV_F32);
}
static void f_p4_bf16_inference_is_close(void)
{
    f_case(4, FV_INFER, FV_BF16);
}
static void f_p4_bf16_training_is_close(void)
{
    f_case(4, FV_TRAIN, FV_BF16);
}
static void f_p8_bf16_training_is_close(void)
{
    f_case(8, FV_TRAIN, FV_BF16);
}

/* Backward adds: two passes with scale 0.5 are one with 1, to the last bit. */
static void gradients_accumulate_with_scale(void)
{
    const dit_config c = f_config(4);
    fv_model *w = open_golden("f_p4"), *io = open_golden("f_p4_io");
    fixture f;
    OK(ctx, start(&f, &c, w, 2, FV_TRAIN, FV_F32, 0));
    f_inputs(&f, io);
    for (int k = 0; k < 2; k++) {
        OK(ctx, fv_plan_forward(f.plan));
        OK(ctx, fv_plan_backward(f.plan, "loss", 0.5f));
    }
    check_gradients(&f, io);
    fixture_free(&f);
    fv_model_close(&w);
    fv_model_close(&io);
}

static void timestep_features_match(void)
{
    static const char *const file[] = {"dit_small_io", "f_p4_io"};
    for (int k = 0; k < 2; k++) {
        fv_model *io = open_golden(file[k]);
        fv_tape *t;
        fv_plan *plan;
        const int64_t rows = 2;
        float time[2];
        fv_tensor ts;
        CHECK(fv_model_find(io, "t", &ts));
        for (int b = 0; b < 2; b++)
            time[b] = ts.dtype == FV_I32 ? (float)((const int32_t *)ts.data)[b]
                                         : ((const float *)ts.data)[b];
        OK(ctx, fv_tape_create(ctx, &t, NULL, FV_INFER, FV_F32));
        fv_output(t, "y",
                  fv_timestep_embed(t, fv_input(t, "t", FV_F32, 1, &rows), 256, k ? 1000.0f : 1.0f,
                                    128.0f));
        OK(ctx, fv_plan_build(ctx, &plan, t, NULL));
        fv_tape_destroy(&t);
        OK(ctx, fv_plan_bind(plan, "t", time));
        OK(ctx, fv_plan_forward(plan));
        const double d =
            test_rel_max(fv_plan_value(plan, "y").data, golden(io, "t_features", NULL), 512);
        CHECK_MSG(d <= 1e-6, "%s: %s: %g", variant, file[k], d);
        fv_plan_destroy(&plan);
        fv_model_close(&io);
    }
}

static void run_all(void)
{
    RUN(timestep_features_match);
    RUN(official_stages_and_output_match);
    RUN(official_with_diffusers_numerics_matches);
    RUN(official_head_size_72_matches);
    RUN(official_gradients_match);
    RUN(official_bf16_is_close);
    RUN(f_p4_stages_and_output_match);
    RUN(f_p8_stages_and_output_match);
    RUN(f_p4_loss_and_gradients_match);
    RUN(f_p8_loss_and_gradients_match);
    RUN(f_p4_bf16_inference_is_close);
    RUN(f_p4_bf16_training_is_close);
    RUN(f_p8_bf16_training_is_close);
    RUN(gradients_accumulate_with_scale);
}

int main(void)
{
    return parity_main(run_all);
}
