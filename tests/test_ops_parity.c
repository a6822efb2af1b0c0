/* test_ops_parity.c - every op of tests/parity/ops.safetensors through the public tape interface:
 * value and the gradients of all inputs against float64 references, for each CPU variant.
 *
 * Upstream gradients: the tape differentiates scalars only. With loss = mean((y - target)^2) and
 * target = y - dy n/2 the gradient at y is dy, so an op under test needs one further op. */
#include "golden_parity.h"

#define VALUE_TOLERANCE 2e-5    /* of max |reference|; f32 floor measured 1e-6  */
#define GRADIENT_TOLERANCE 1e-4 /* of the tensor's RMS; f32 floor measured 2e-5 */
#define MAX_INPUTS 4

static fv_model *golden;

static fv_tensor need(const char *op, const char *part)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", op, part);
    return golden_tensor(golden, key);
}

static double rms_error(const float *got, const float *want, int64_t n)
{
    double square = 0, worst = 0;
    for (int64_t i = 0; i < n; i++) {
        square += (double)want[i] * want[i];
        worst = test_worst(worst, fabs((double)got[i] - want[i]));
    }
    return square > 0 ? worst / sqrt(square / (double)n) : worst;
}

/* ---- One case -------------------------------------------------------------------------------
 * kinds, one letter an input: x input with gradient, i input without (ids, labels, weights; a
 * vector), P parameter by id, W parameter as an operand, m chunk of one modulation input [B, n*C].
 */

typedef struct op_case op_case;
typedef struct operands {
    fv_t x[MAX_INPUTS];    /* operand; 0 for P */
    fv_pid id[MAX_INPUTS]; /* parameter; -1 if none */
    const op_case *c;
} operands;
struct op_case {
    const char *name, *input[MAX_INPUTS], *kinds;
    fv_t (*build)(fv_tape *t, const operands *o);
    int i, j;    /* free numbers of the builder */
    int is_loss; /* y is the loss, dy its factor */
};

typedef struct op_run {
    fv_params *params;
    fv_plan *plan;
    operands o;
    float *target, *mod;
    int32_t ids[16];
    int64_t mod_rows, mod_width; /* of one chunk */
    int chunks;
} op_run;

static float rope_table[6 * 72];

static bool has_input(const op_case *c, int k)
{
    return k < MAX_INPUTS && c->input[k];
}

static fv_status add_params(op_run *r, const op_case *c)
{
    fv_status s = fv_params_create(ctx, &r->params);
    for (int k = 0; has_input(c, k) && s == FV_OK; k++) {
        const fv_tensor t = need(c->name, c->input[k]);
        const bool is_param = c->kinds[k] == 'P' || c->kinds[k] == 'W';
        r->o.id[k] = is_param ? fv_params_add(r->params, c->input[k], t.ndim, t.dim, 0) : -1;
    }
    if (s == FV_OK) s = fv_params_alloc(r->params);
    for (int k = 0; has_input(c, k) && s == FV_OK; k++) {
        const fv_tensor t = need(c->name, c->input[k]);
        if (r->o.id[k] >= 0)
            memcpy(fv_params_tensor(r->params, r->o.id[k]).data, t.data,
                   (size_t)fv_tensor_count(&t) * 4);
    }
    return s;
}

static void collect_modulation(op_run *r, const op_case *c)
{
    for (int k = 0; has_input(c, k); k++) {
        if (c->kinds[k] != 'm') continue;
        const fv_tensor s = need(c->name, c->input[k]);
        r->mod_rows = s.dim[0];
        r->mod_width = s.dim[1];
        r->chunks++;
    }
    if (!r->chunks) return;
    r->mod = malloc((size_t)(r->mod_rows * r->mod_width * r->chunks) * 4);
    if (!r->mod) exit(1);
    for (int k = 0, chunk = 0; has_input(c, k); k++) {
        if (c->kinds[k] != 'm') continue;
        const float *v = need(c->name, c->input[k]).data;
        for (int64_t b = 0; b < r->mod_rows; b++)
            memcpy(r->mod + (b * r->chunks + chunk) * r->mod_width, v + b * r->mod_width,
                   (size_t)r->mod_width * 4);
        chunk++;
    }
}

static fv_t operand(fv_tape *t, op_run *r, const op_case *c, int k, fv_t mod)
{
    const fv_tensor s = need(c->name, c->input[k]);
    const int64_t n = fv_tensor_count(&s);
    switch (c->kinds[k]) {
    case 'x': return fv_input_grad(t, c->input[k], FV_F32, s.ndim, s.dim);
    case 'i': return fv_input(t, c->input[k], s.dtype, 1, &n);
    case 'W': return fv_param(t, r->o.id[k]);
    case 'm': return mod;
    default: return 0;
    }
}

static fv_status bind(op_run *r, const op_case *c)
{
    for (int k = 0; has_input(c, k); k++) {
        const fv_tensor t = need(c->name, c->input[k]);
        void *data = t.data;
        if (c->kinds[k] == 'i' && t.dtype == FV_I32) {
            for (int64_t i = 0; i < fv_tensor_count(&t);
                 i++) /* our label for "ignore" is -1, PyTorch's -100 */
                r->ids[i] = ((const int32_t *)t.data)[i] < 0 ? -1 : ((const int32_t *)t.data)[i];
            data = r->ids;
        }
        if (c->kinds[k] == 'x' || c->kinds[k] == 'i')
            FV_TRY(fv_plan_bind(r->plan, c->input[k], data));
    }
    if (strncmp(c->name, "qk_norm_rope", 12) == 0) {
        fv_rope_table(2, 3, c->i, 10000.0, rope_table);
        FV_TRY(fv_plan_bind(r->plan, "table", rope_table));
    }
    return r->mod ? fv_plan_bind(r->plan, "mod", r->mod) : FV_OK;
}

static fv_status build(op_run *r, const op_case *c)
{
    fv_tape *t;
    fv_t mod = 0;
    collect_modulation(r, c);
    const int64_t mod_dim[2] = {r->mod_rows, r->mod_width * r->chunks};
    FV_TRY(fv_tape_create(ctx, &t, r->params, FV_TRAIN, FV_F32));
    if (r->mod) mod = fv_input_grad(t, "mod", FV_F32, 2, mod_dim);
    for (int k = 0; has_input(c, k); k++) r->o.x[k] = operand(t, r, c, k, mod);
    r->o.c = c;
    const fv_t y = c->build(t, &r->o);
    if (c->is_loss) {
        fv_output(t, "loss", y);
    } else {
        const fv_tensor s = fv_tape_tensor(t, y);
        fv_output(t, "y", y);
        fv_output(t, "loss", fv_loss_mse(t, y, fv_input(t, "target", FV_F32, s.ndim, s.dim), 0));
    }
    fv_status s = fv_tape_status(t);
    if (s == FV_OK) s = fv_plan_build(ctx, &r->plan, t, NULL);
    fv_tape_destroy(&t);
    return s == FV_OK ? bind(r, c) : s;
}

/* Gradient of input k as a contiguous array in `out` [n]; false if the plan has none. */
static bool gradient(const op_run *r, const op_case *c, int k, int64_t n, float *out)
{
    const char kind = c->kinds[k];
    const fv_tensor g = kind == 'P' || kind == 'W'
                            ? fv_params_grad(r->params, r->o.id[k])
                            : fv_plan_grad(r->plan, kind == 'm' ? "mod" : c->input[k]);
    if (!g.data) return false;
    if (kind != 'm') {
        memcpy(out, g.data, (size_t)n * 4);
        return fv_tensor_count(&g) == n;
    }
    int chunk = 0;
    for (int i = 0; i < k; i++) chunk += c->kinds[i] == 'm';
    for (int64_t b = 0; b < r->mod_rows; b++)
        memcpy(out + b * r->mod_width,
               (const float *)g.data + (b * r->chunks + chunk) * r->mod_width,
               (size_t)r->mod_width * 4);
    return true;
}

static void check_gradients(const op_run *r, const op_case *c, double factor)
{
    for (int k = 0; has_input(c, k); k++) {
        char key[64];
        if (c->kinds[k] == 'i') continue;
        snprintf(key, sizeof key, "d%s", c->input[k]);
        const fv_tensor want = need(c->name, key);
        const int64_t n = fv_tensor_count(&want);
        float *got = malloc((size_t)n * 4);
        CHECK(got != NULL);
        CHECK_MSG(gradient(r, c, k, n, got), "%s: %s: no gradient %s", variant, c->name, key);
        for (int64_t i = 0; i < n; i++) got[i] = (float)(got[i] * factor);
        const double d = rms_error(got, want.data, n);
        free(got);
        CHECK_MSG(d <= GRADIENT_TOLERANCE, "%s: %s: %s: %g of its RMS", variant, c->name, key, d);
    }
}

static void run_loss(op_run *r, const op_case *c)
{
    const float want = *(const float *)need(c->name, "y").data,
                factor = *(const float *)need(c->name, "dy").data;
    OK(ctx, fv_plan_forward(r->plan));
    NEAR(*(const float *)fv_plan_value(r->plan, "loss").data, want, 1e-5 * fabs(want));
    OK(ctx, fv_plan_backward(r->plan, "loss", 1.0f));
    check_gradients(r, c, factor);
}

static void run_op(op_run *r, const op_case *c)
{
    const fv_tensor want = need(c->name, "y"), dy = need(c->name, "dy");
    const int64_t n = fv_tensor_count(&want);
    OK(ctx, fv_plan_bind(r->plan, "target", r->target));
    OK(ctx, fv_plan_forward(r->plan));
    const fv_tensor y = fv_plan_value(r->plan, "y");
    CHECK_MSG(fv_tensor_count(&y) == n, "%s: %lld elements", c->name,
              (long long)fv_tensor_count(&y));
    const double d = test_rel_max(y.data, want.data, n);
    CHECK_MSG(d <= VALUE_TOLERANCE, "%s: %s: %g", variant, c->name, d);
    for (int64_t i = 0; i < n; i++)
        r->target[i] =
            (float)(((const float *)y.data)[i] - ((const float *)dy.data)[i] * ((double)n / 2));
    OK(ctx, fv_plan_forward(r->plan));
    OK(ctx, fv_plan_backward(r->plan, "loss", 1.0f));
    check_gradients(r, c, 1.0);
}

static void run_case(const op_case *c)
{
    op_run r;
    memset(&r, 0, sizeof r);
    const fv_tensor y = need(c->name, "y");
    OK(ctx, add_params(&r, c));
    OK(ctx, build(&r, c));
    r.target = calloc((size_t)fv_tensor_count(&y), 4);
    CHECK(r.target != NULL);
    if (c->is_loss)
        run_loss(&r, c);
    else
        run_op(&r, c);
    free(r.target);
    free(r.mod);
    fv_plan_destroy(&r.plan);
    fv_params_destroy(&r.params);
}

static void run_cases(const op_case *c, size_t n)
{
    for (size_t i = 0; i < n; i++) run_case(&c[i]);
}

/* ---- Builders ------------------------------------------------------------------------------- */

static fv_t linear(fv_tape *t, const operands *o)
{
    return fv_linear(t, o->x[0], o->id[1], o->id[2], FV_ACT_NONE);
}
static fv_t gate(fv_tape *t, const operands *o)
{
    return fv_gate_residual(t, o->x[0], o->x[2], o->x[1], 0);
}
static fv_t swiglu(fv_tape *t, const operands *o)
{
    return fv_swiglu(t, o->x[0]);
}
static fv_t act(fv_tape *t, const operands *o)
{
    return fv_activate(t, o->x[0], (fv_act)o->c->i);
}
static fv_t attention(fv_tape *t, const operands *o)
{
    return fv_sdpa(t, o->x[0], 0.0f, o->c->i);
}
static fv_t embed(fv_tape *t, const operands *o)
{
    return fv_embed(t, o->id[0], o->x[1]);
}
static fv_t patchify(fv_tape *t, const operands *o)
{
    return fv_patchify(t, o->x[0], 4, o->c->i);
}
static fv_t unpatchify(fv_tape *t, const operands *o)
{
    return fv_unpatchify(t, o->x[0], 8, 12, 4, o->c->i);
}
static fv_t upsample(fv_tape *t, const operands *o)
{
    return fv_upsample2x(t, o->x[0]);
}
static fv_t entropy(fv_tape *t, const operands *o)
{
    return fv_loss_cross_entropy(t, o->x[0], o->x[1]);
}
static fv_t mse(fv_tape *t, const operands *o)
{
    return fv_loss_mse(t, o->x[0], o->x[1], o->x[2]);
}

static fv_t layernorm(fv_tape *t, const operands *o)
{
    return fv_norm_modulate(t, o->x[0],
                            (fv_norm){FV_NORM_LAYER, 1e-5f, o->x[1], o->x[2], 0, -1, -1});
}

static fv_t rmsnorm(fv_tape *t, const operands *o)
{
    return fv_norm_modulate(t, o->x[0], (fv_norm){FV_NORM_RMS, 1e-6f, o->x[1], 0, 0, -1, -1});
}

static fv_t ln_modulate(fv_tape *t, const operands *o)
{
    return fv_norm_modulate(t, o->x[0], (fv_norm){FV_NORM_LAYER, 1e-6f, 0, 0, o->x[1], 0, 1});
}

static fv_t rms_modulate(fv_tape *t, const operands *o)
{
    return fv_norm_modulate(t, o->x[0], (fv_norm){FV_NORM_RMS, 1e-6f, o->x[1], 0, o->x[2], 0, 1});
}

/* i: head size; the grid is 2 x 3. */
static fv_t qk_norm_rope(fv_tape *t, const operands *o)
{
    const int64_t dim[3] = {6, 2, o->c->i / 2};
    return fv_qk_norm_rope(t, o->x[0], o->x[1], o->x[2], 1e-6f,
                           fv_input(t, "table", FV_F32, 3, dim));
}

/* i: stride; j bit 0: pad top and left, bit 1: bottom and right. */
static fv_t conv(fv_tape *t, const operands *o)
{
    const int first = o->c->j & 1, last = o->c->j >> 1;
    return fv_conv2d(t, o->x[0], o->id[1], o->id[2],
                     (fv_conv){o->c->i, first, first, last, last, FV_ACT_NONE});
}

static fv_t groupnorm_silu(fv_tape *t, const operands *o)
{
    return fv_groupnorm(t, o->x[0], o->x[1], o->x[2], 4, 1e-6f, FV_ACT_SILU);
}

/* ---- Cases ---------------------------------------------------------------------------------- */

static void linear_matches(void)
{
    static const op_case c[] = {{"linear", {"x", "w", "b"}, "xPP", linear, 0, 0, 0}};
    run_cases(c, FV_ARRAY_LEN(c));
}

static void norms_and_gates_match(void)
{
    static const op_case c[] = {
        {"layernorm", {"x", "w", "b"}, "xWW", layernorm, 0, 0, 0},
        {"ln_modulate", {"x", "shift", "scale"}, "xmm", ln_modulate, 0, 0, 0},
        {"rmsnorm", {"x", "w"}, "xW", rmsnorm, 0, 0, 0},
        {"rms_modulate", {"x", "w", "shift", "scale"}, "xWmm", rms_modulate, 0, 0, 0},
        {"gate_residual", {"h", "g", "u"}, "xmx", gate, 0, 0, 0},
        {"groupnorm_silu", {"x", "w", "b"}, "xWW", groupnorm_silu, 0, 0, 0},
    };
    run_cases(c, FV_ARRAY_LEN(c));
}

static void activations_match(void)
{
    static const op_case c[] = {
        {"swiglu", {"x"}, "x", swiglu, 0, 0, 0},
        {"gelu_tanh", {"x"}, "x", act, FV_ACT_GELU_TANH, 0, 0},
        {"gelu_erf", {"x"}, "x", act, FV_ACT_GELU_ERF, 0, 0},
        {"silu", {"x"}, "x", act, FV_ACT_SILU, 0, 0},
    };
    run_cases(c, FV_ARRAY_LEN(c));
}

static void attention_matches(void)
{
    static const op_case c[] = {
        {"attention_16", {"qkv"}, "x", attention, 0, 0, 0},
        {"attention_64", {"qkv"}, "x", attention, 0, 0, 0},
        {"attention_72", {"qkv"}, "x", attention, 0, 0, 0},
        {"attention_causal_16", {"qkv"}, "x", attention, 1, 0, 0},
    };
    run_cases(c, FV_ARRAY_LEN(c));
}

static void qk_norm_and_rope_match(void)
{
    static const op_case c[] = {
        {"qk_norm_rope_16", {"qkv", "q_weight", "k_weight"}, "xWW", qk_norm_rope, 16, 0, 0},
        {"qk_norm_rope_64", {"qkv", "q_weight", "k_weight"}, "xWW", qk_norm_rope, 64, 0, 0},
        {"qk_norm_rope_72", {"qkv", "q_weight", "k_weight"}, "xWW", qk_norm_rope, 72, 0, 0},
    };
    run_cases(c, FV_ARRAY_LEN(c));
}

static void embedding_patches_and_upsampling_match(void)
{
    static const op_case c[] = {
        {"embedding", {"table", "index"}, "Pi", embed, 0, 0, 0},
        {"patchify_c_di_dj", {"x"}, "x", patchify, 1, 0, 0},
        {"patchify_di_dj_c", {"x"}, "x", patchify, 0, 0, 0},
        {"unpatchify_c_di_dj", {"x"}, "x", unpatchify, 1, 0, 0},
        {"unpatchify_di_dj_c", {"x"}, "x", unpatchify, 0, 0, 0},
        {"upsample2", {"x"}, "x", upsample, 0, 0, 0},
    };
    run_cases(c, FV_ARRAY_LEN(c));
}

static void convolutions_match(void)
{
    static const op_case c[] = {
        {"conv3x3", {"x", "w", "b"}, "xPP", conv, 1, 3, 0},
        {"conv1x1", {"x", "w", "b"}, "xPP", conv, 1, 0, 0},
        {"conv3x3_stride2", {"x", "w", "b"}, "xPP", conv, 2, 3, 0},
        {"conv3x3_stride2_pad0101", {"x", "w", "b"}, "xPP", conv, 2, 2, 0},
    };
    run_cases(c, FV_ARRAY_LEN(c));
}

static void losses_match(void)
{
    static const op_case c[] = {
        {"cross_entropy", {"logits", "target"}, "xi", entropy, 0, 0, 1},
        {"cross_entropy_ignore", {"logits", "target"}, "xi", entropy, 0, 0, 1},
        {"weighted_mse", {"pred", "target", "weight"}, "xxi", mse, 0, 0, 1},
    };
    run_cases(c, FV_ARRAY_LEN(c));
}

/* ---- Tables: no gradient -------------------------------------------------------------------- */

static void timestep_features_match(void)
{
    for (int k = 0; k < 2; k++) {
        fv_tape *t;
        fv_plan *plan;
        const int64_t rows = 6;
        OK(ctx, fv_tape_create(ctx, &t, NULL, FV_INFER, FV_F32));
        fv_output(
            t, "y",
            fv_timestep_embed(t, fv_input(t, "t", FV_F32, 1, &rows), 256, 1.0f, k ? 127.0f : 0.0f));
        OK(ctx, fv_plan_build(ctx, &plan, t, NULL));
        fv_tape_destroy(&t);
        OK(ctx, fv_plan_bind(plan, "t", need("timestep", "t").data));
        OK(ctx, fv_plan_forward(plan));
        const fv_tensor want = need("timestep", k ? "y_den127" : "y");
        const double d = test_rel_max(fv_plan_value(plan, "y").data, want.data, 6 * 256);
        fv_plan_destroy(&plan);
        CHECK_MSG(d <= 1e-6, "%s: divisor %s: %g", variant, k ? "127" : "128", d);
    }
}

static void position_tables_match(void)
{
    static const struct {
        const char *name;
        int rows, columns, width;
    } c[] = {{"pos_4x4_48", 4, 4, 48}, {"pos_2x3_16", 2, 3, 16}, {"pos_3x3_72", 3, 3, 72}};
    float table[16 * 72];
    for (size_t i = 0; i < FV_ARRAY_LEN(c); i++) {
        fv_sincos_table(c[i].rows, c[i].columns, c[i].width, table);
        NEAR(test_rel_max(table, need(c[i].name, "y").data, c[i].rows * c[i].columns * c[i].width),
             0, 1e-6);
    }
}

static void run_all(void)
{
    golden = open_golden("ops");
    RUN(linear_matches);
    RUN(norms_and_gates_match);
    RUN(activations_match);
    RUN(attention_matches);
    RUN(qk_norm_and_rope_match);
    RUN(embedding_patches_and_upsampling_match);
    RUN(convolutions_match);
    RUN(losses_match);
    RUN(timestep_features_match);
    RUN(position_tables_match);
    fv_model_close(&golden);
}

int main(void)
{
    return parity_main(run_all);
}
