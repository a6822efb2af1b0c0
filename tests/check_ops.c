/* check_ops.c - the fused CPU ops against double references, and every CPU variant against scalar.
 *
 * A case is one node: op, attributes, shapes, and its forward written once more as a plain double
 * function. From it come: the forward check, gradients by central differences in double, added
 * gradients, equal bytes for 1 to 3 threads, and guard bytes around every buffer. Buffers are
 * deliberately only element-aligned.
 *
 * Tolerances, relative to the largest value: f32 forward 4e-6 (a few roundings; v_exp 2e-7), f32
 * gradients 1e-5, bf16 4e-3 (half a unit in 8 bits) forward and 2e-2 for gradients.
 *
 * check_ops --bench prints GB/s for 64 samples x 64 tokens x 256 channels. */
#include "cpu_ops.h"
#include "test.h"

#define GUARD 64
#define MAX_BAD 5

enum role { NO = 0, X /* activation: f32 or bf16 */, P /* always f32 */, IDS };

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
    bool no_gradient, same_type; /* same_type: the output has the input's type */
    void (*ref)(const tc *c, double *const in[], double *out);
};

/* ---- Cases ----------------------------------------------------------------------------------- */

static fv_tensor shape(int ndim, int64_t a, int64_t b, int64_t c, int64_t d)
{
    fv_tensor t = { NULL, FV_F32, ndim, { a, b, c, d } };
    return t;
}
static int64_t last(const fv_tensor *t) { return t->dim[t->ndim - 1]; }
static int64_t count(const fv_tensor *t) { return t->ndim ? fv_tensor_count(t) : 0; }

static double ref_act_one(int act, double x)
{
    switch (act) {
    case FV_ACT_RELU: return x > 0 ? x : 0;
    case FV_ACT_SILU: return x / (1 + exp(-x));
    case FV_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case FV_ACT_GELU_ERF: return 0.5 * x * (1 + erf(x / sqrt(2)));
    case FV_ACT_SIGMOID: return 1 / (1 + exp(-x));
    case FV_ACT_TANH: return tanh(x);
    case FV_ACT_LRELU: return x > 0 ? x : 0.2 * x;
    case FV_ACT_SQUARE: return x * x;
    case FV_ACT_EXP: return exp(x);
    case FV_ACT_LOG: return log(x);
    case FV_ACT_SQRT: return sqrt(x);
    case FV_ACT_ABS: return fabs(x);
    case FV_ACT_SOFTPLUS: return log1p(exp(x));
    default: return x;
    }
}

static void ref_copy(const tc *c, double *const in[], double *out)
{
    for (int64_t i = 0; i < count(&c->in[0]); i++) out[i] = in[0][i];
}
static void ref_act(const tc *c, double *const in[], double *out)
{
    for (int64_t i = 0; i < count(&c->in[0]); i++) out[i] = ref_act_one(c->attr.i[0], in[0][i]);
}
static void ref_affine(const tc *c, double *const in[], double *out)
{
    for (int64_t i = 0; i < count(&c->in[0]); i++) out[i] = c->attr.f[0] * in[0][i] + c->attr.f[1];
}
static void ref_binary(const tc *c, double *const in[], double *out)
{
    const int64_t n = count(&c->in[0]), nb = count(&c->in[1]);
    for (int64_t i = 0; i < n; i++) {
        const double a = in[0][i], b = in[1][c->attr.i[1] == 2 ? i / (n / nb) : i % nb];
        const int op = c->attr.i[0];
        out[i] = op == FV_ADD ? a + b : op == FV_SUB ? a - b : op == FV_MUL ? a * b : a / b;
    }
}
static void ref_norm(const tc *c, double *const in[], double *out)
{
    const int64_t C = last(&c->in[0]), R = count(&c->in[0]) / C, T = c->in[0].dim[1];
    const int64_t M = c->in[3].ndim ? last(&c->in[3]) : 0;
    for (int64_t r = 0; r < R; r++) {
        const double *x = in[0] + r * C;
        double mean = 0, var = 0;
        for (int64_t i = 0; i < C && c->attr.i[0] == FV_NORM_LAYER; i++) mean += x[i] / (double)C;
        for (int64_t i = 0; i < C; i++) var += (x[i] - mean) * (x[i] - mean) / (double)C;
        for (int64_t i = 0; i < C; i++) {
            double u = (x[i] - mean) / sqrt(var + c->attr.f[0]);
            if (in[1]) u *= in[1][i];
            if (in[2]) u += in[2][i];
            if (in[3] && c->attr.i[2] >= 0) u *= 1 + in[3][r / T * M + c->attr.i[2] * C + i];
            if (in[3] && c->attr.i[1] >= 0) u += in[3][r / T * M + c->attr.i[1] * C + i];
            out[r * C + i] = u;
        }
    }
}
static void ref_gate(const tc *c, double *const in[], double *out)
{
    const int64_t C = last(&c->in[0]), T = c->in[0].dim[1], M = c->in[2].ndim ? last(&c->in[2]) : 0;
    for (int64_t i = 0; i < count(&c->in[0]); i++)
        out[i] =
            in[0][i] + (in[2] ? in[2][i / C / T * M + c->attr.i[0] * C + i % C] : 1) * in[1][i];
}
static void ref_swiglu(const tc *c, double *const in[], double *out)
{
    const int64_t H = last(&c->out[0]);
    for (int64_t i = 0; i < count(&c->out[0]); i++) {
        const double *x = in[0] + i / H * 2 * H + i % H;
        out[i] = ref_act_one(FV_ACT_SILU, x[0]) * x[H];
    }
}
static void ref_timestep(const tc *c, double *const in[], double *out)
{
    const int64_t dim = c->out[0].dim[1], half = dim / 2;
    const double den = c->attr.f[1] != 0 ? c->attr.f[1] : (double)half;
    for (int64_t i = 0; i < count(&c->out[0]); i++) {
        const int64_t b = i / dim, k = i % dim, j = k % (half ? half : 1);
        const double angle = c->attr.f[0] * in[0][b] * exp(-log(10000.0) * (double)j / den);
        out[i] = k < half ? cos(angle) : k < 2 * half ? sin(angle) : 0;
    }
}
static void ref_embed(const tc *c, double *const in[], double *out)
{
    const int64_t D = last(&c->in[0]);
    for (int64_t i = 0; i < count(&c->out[0]); i++)
        out[i] = in[0][(int64_t)in[1][i / D] * D + i % D];
}
static void ref_patchify(const tc *c, double *const in[], double *out)
{
    const int64_t p = c->attr.i[0], H = c->attr.i[3], W = c->attr.i[4], C = c->attr.i[5];
    for (int64_t i = 0; i < count(&c->in[0]); i++) { /* i: flat image index */
        const int64_t ch = i % C, x = i / C % W, y = i / C / W % H, b = i / C / W / H;
        const int64_t di = y % p, dj = x % p, tok = (b * (H / p) + y / p) * (W / p) + x / p;
        const int64_t in_tok = c->attr.i[1] ? (ch * p + di) * p + dj : (di * p + dj) * C + ch;
        const int64_t t = tok * p * p * C + in_tok;
        if (c->attr.i[2]) out[i] = in[0][t];
        else out[t] = in[0][i];
    }
}
static void ref_groupnorm(const tc *c, double *const in[], double *out)
{
    const int64_t C = last(&c->in[0]), B = c->in[0].dim[0], N = count(&c->in[0]) / B / C;
    const int64_t G = c->attr.i[0], S = C / G;
    for (int64_t b = 0; b < B; b++)
        for (int64_t g = 0; g < G; g++) {
            double mean = 0, var = 0;
            for (int64_t i = 0; i < N * S; i++)
                mean += in[0][(b * N + i / S) * C + g * S + i % S] / (double)(N * S);
            for (int64_t i = 0; i < N * S; i++) {
                const double d = in[0][(b * N + i / S) * C + g * S + i % S] - mean;
                var += d * d / (double)(N * S);
            }
            for (int64_t i = 0; i < N * S; i++) {
                const int64_t ch = g * S + i % S, k = (b * N + i / S) * C + ch;
                const double v =
                    (in[0][k] - mean) / sqrt(var + c->attr.f[0]) * in[1][ch] + in[2][ch];
                out[k] = ref_act_one(c->attr.i[1], v);
            }
        }
}
static void ref_upsample(const tc *c, double *const in[], double *out)
{
    const int64_t H = c->in[0].dim[1], W = c->in[0].dim[2], C = c->in[0].dim[3];
    for (int64_t i = 0; i < count(&c->out[0]); i++) {
        const int64_t ch = i % C, x = i / C % (2 * W), y = i / C / (2 * W) % (2 * H),
                      b = i / C / (4 * W * H);
        out[i] = in[0][((b * H + y / 2) * W + x / 2) * C + ch];
    }
}
static void ref_mean1(const tc *c, double *const in[], double *out)
{
    const int64_t T = c->in[0].dim[1], C = c->in[0].dim[2];
    for (int64_t i = 0; i < count(&c->out[0]); i++) {
        out[i] = 0;
        for (int64_t t = 0; t < T; t++) out[i] += in[0][(i / C * T + t) * C + i % C] / (double)T;
    }
}
static void ref_slice(const tc *c, double *const in[], double *out)
{
    const int64_t n = last(&c->out[0]), C = last(&c->in[0]);
    for (int64_t i = 0; i < count(&c->out[0]); i++)
        out[i] = in[0][i / n * C + c->attr.i[0] + i % n];
}
static void ref_mse(const tc *c, double *const in[], double *out)
{
    const int64_t n = count(&c->in[0]), per = n / c->in[0].dim[0];
    out[0] = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = in[0][i] - in[1][i];
        out[0] += (in[2] ? in[2][i / per] : 1) * d * d / (double)n;
    }
}
static void ref_ce(const tc *c, double *const in[], double *out)
{
    const int64_t V = last(&c->in[0]), n = count(&c->in[1]);
    double total = 0, used = 0;
    for (int64_t i = 0; i < n; i++) {
        double max = -1e300, sum = 0;
        if (in[1][i] < 0) continue;
        for (int64_t k = 0; k < V; k++) max = fmax(max, in[0][i * V + k]);
        for (int64_t k = 0; k < V; k++) sum += exp(in[0][i * V + k] - max);
        total += max + log(sum) - in[0][i * V + (int64_t)in[1][i]];
        used++;
    }
    out[0] = used > 0 ? total / used : 0;
}

static const int sizes[] = { 1, 3, 4, 7, 16, 20, 64, 100, 192, 256, 257 };
#define N_SIZES 11

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

static void norm_case(int C, int B, int T, int kind, int weights, int chunks)
{
    tc *c = add_case(FVI_OP_NORM_MOD, "norm_mod", ref_norm);
    add_input(c, 0, X, shape(3, B, T, C, 0));
    if (weights & 1) add_input(c, 1, P, shape(1, C, 0, 0, 0));
    if (weights & 2) add_input(c, 2, P, shape(1, C, 0, 0, 0));
    if (chunks) add_input(c, 3, P, shape(2, B, 4 * (int64_t)C, 0, 0));
    c->attr.i[0] = kind;
    c->attr.i[1] = chunks & 1 ? 2 : -1;
    c->attr.i[2] = chunks & 2 ? 1 : -1;
    c->attr.f[0] = C < 5 ? 0.1f : 1e-5f; /* a row of 1 to 4 channels may have nearly no variance */
    c->out[0] = c->in[0];
    c->out[1] = shape(2, (int64_t)B * T, 2, 0, 0);
}

static void add_norm_cases(void)
{
    for (int s = 0; s < N_SIZES; s++) {
        norm_case(sizes[s], 1 + s % 3, 5, FV_NORM_LAYER, 0, 3);
        norm_case(sizes[s], 3 - s % 3, 4, FV_NORM_RMS, 1, 3);
        norm_case(sizes[s], 2, 3, FV_NORM_LAYER, 3, 0);
    }
    norm_case(20, 2, 3, FV_NORM_LAYER, 3, 1);
    norm_case(20, 2, 3, FV_NORM_LAYER, 2, 2);
    norm_case(20, 20, 2, FV_NORM_LAYER, 3, 3);
    norm_case(8, 1, 2100, FV_NORM_LAYER, 3, 3);
    norm_case(20, 2, 3, FV_NORM_RMS, 0, 0);
    for (int s = 0; s < N_SIZES; s++)
        for (int mod = 0; mod < 2; mod++) {
            const int B = 1 + (s + mod) % 3;
            tc *c = add_case(FVI_OP_GATE_RES, "gate_res", ref_gate);
            add_input(c, 0, P, shape(3, B, 5, sizes[s], 0));
            add_input(c, 1, X, c->in[0]);
            if (mod) add_input(c, 2, P, shape(2, B, 3 * (int64_t)sizes[s], 0, 0));
            c->attr.i[0] = mod ? s % 3 : -1;
            c->out[0] = c->in[0];
            c->out_role = P;
        }
}

static void binary_case(int op, int bcast, int64_t B, int64_t T, int64_t C, int b_dims)
{
    tc *c = add_case(FVI_OP_BINARY, "binary", ref_binary);
    add_input(c, 0, X, shape(3, B, T, C, 0));
    add_input(c, 1, X, c->in[0]);
    if (bcast == 1) c->in[1] = b_dims == 1 ? shape(1, C, 0, 0, 0) : shape(2, T, C, 0, 0);
    if (bcast == 2) c->in[1] = shape(1, B, 0, 0, 0);
    c->positive = 2;
    c->attr.i[0] = op;
    c->attr.i[1] = bcast;
    c->out[0] = c->in[0];
}

static void add_pointwise_cases(void)
{
    for (int s = 0; s < N_SIZES; s++) {
        tc *c = add_case(FVI_OP_CAST, "cast", ref_copy);
        add_input(c, 0, X, shape(2, 3, sizes[s], 0, 0));
        c->out[0] = c->in[0];
        c = add_case(FVI_OP_AFFINE, "affine", ref_affine);
        add_input(c, 0, X, shape(2, 3, sizes[s], 0, 0));
        c->attr.f[0] = -1.5f;
        c->attr.f[1] = 0.25f;
        c->out[0] = c->in[0];
        c = add_case(FVI_OP_SWIGLU, "swiglu", ref_swiglu);
        add_input(c, 0, X, shape(3, 2, 3, 2 * sizes[s], 0));
        c->range = 5;
        c->out[0] = shape(3, 2, 3, sizes[s], 0);
        for (int op = 0; op < 4; op++) binary_case(op, (s + op) % 3, 1 + s % 3, 3, sizes[s], 1);
    }
    for (int op = 0; op < 4; op++) {
        binary_case(op, 1, 3, 5, 100, 2);
        binary_case(op, 1, 2, 20, 60, 2);    /* wide rows: cut by columns */
        binary_case(op, 1, 3, 400, 2, 1);    /* two levels of sums */
        binary_case(op, 2, 2, 70, 250, 1);   /* two pieces a sample */
    }
    for (int a = 0; a < FV_ACT_COUNT; a++)
        for (int s = 2; s < N_SIZES; s += 4) {
            tc *c = add_case(FVI_OP_ACT, "act", ref_act);
            add_input(c, 0, X, shape(2, 3, sizes[s], 0, 0));
            c->attr.i[0] = a;
            c->range = 4;
            c->positive = a == FV_ACT_LOG || a == FV_ACT_SQRT;
            c->out[0] = c->in[0];
        }
}

static void add_layout_cases(void)
{
    for (int k = 0; k < 5; k++) {
        tc *c = add_case(FVI_OP_TIMESTEP, "timestep", ref_timestep);
        add_input(c, 0, P, shape(1, 1 + 8 * k, 0, 0, 0));
        c->out[0] = shape(2, 1 + 8 * k, sizes[2 + 2 * k], 0, 0);
        c->attr.f[0] = k ? 1000.0f : 1.0f;
        c->attr.f[1] = k == 2 ? 7.0f : 0.0f;
        c->out_role = P;
        c->no_gradient = true;
    }
    for (int s = 0; s < N_SIZES; s++) {
        tc *c = add_case(FVI_OP_EMBED, "embed", ref_embed);
        add_input(c, 0, P, shape(2, 7, sizes[s], 0, 0));
        add_input(c, 1, IDS, shape(1, 19, 0, 0, 0));
        c->id_high = 7;
        c->out[0] = shape(2, 19, sizes[s], 0, 0);
        c = add_case(FVI_OP_MEAN1, "mean1", ref_mean1);
        add_input(c, 0, X, shape(3, 1 + s % 3, s == 4 ? 1500 : 1 + 3 * s, sizes[s], 0));
        c->out[0] = shape(2, c->in[0].dim[0], sizes[s], 0, 0);
        c->out_role = P;
        if (s == 4) c->in[0].dim[0] = c->out[0].dim[0] = 20;
    }
    for (int k = 0; k < 16; k++) {
        const int p = 1 + k / 4 % 3, C = sizes[k % 4], cf = k & 1, inverse = k >= 8;
        tc *c = add_case(FVI_OP_PATCHIFY, "patchify", ref_patchify);
        const fv_tensor image = shape(4, 2, 2 * p, 3 * p, C), tokens = shape(3, 2, 6, p * p * C, 0);
        add_input(c, 0, X, inverse ? tokens : image);
        c->out[0] = inverse ? image : tokens;
        const int32_t a[6] = { p, cf, inverse, 2 * p, 3 * p, C };
        memcpy(c->attr.i, a, sizeof a);
    }
    for (int s = 0; s < N_SIZES; s++) {
        const int first = s % 3 * sizes[s] / 4, n = (sizes[s] - first + s % 2) / (1 + s % 2);
        tc *c = add_case(FVI_OP_SLICE, "slice", ref_slice);
        add_input(c, 0, X, shape(3, 2, 3, sizes[s], 0));
        c->attr.i[0] = first;
        c->same_type = true;
        c->out[0] = shape(3, 2, 3, n, 0);
    }
    for (int s = 0; s < N_SIZES; s += 2) {
        tc *c = add_case(FVI_OP_UPSAMPLE2X, "upsample2x", ref_upsample);
        add_input(c, 0, X, shape(4, 2, 3, 2, sizes[s]));
        c->out[0] = shape(4, 2, 6, 4, sizes[s]);
    }
}

static void add_loss_cases(void)
{
    for (int s = 0; s < N_SIZES; s++) {
        tc *c = add_case(FVI_OP_LOSS_MSE, "loss_mse", ref_mse);
        add_input(c, 0, X, shape(3, 1 + s % 3, 5, sizes[s], 0));
        add_input(c, 1, X, c->in[0]);
        if (s & 1) add_input(c, 2, P, shape(1, 1 + s % 3, 0, 0, 0));
        c->out[0] = shape(1, 1, 0, 0, 0);
        c->out_role = P;
        c = add_case(FVI_OP_LOSS_CE, "loss_ce", ref_ce);
        add_input(c, 0, X, shape(2, 19, sizes[s], 0, 0));
        add_input(c, 1, IDS, shape(1, 19, 0, 0, 0));
        c->id_low = -1;
        c->id_high = sizes[s];
        c->range = 8;
        c->out[0] = shape(1, 1, 0, 0, 0);
        c->out[1] = c->in[0];
        c->out_role = P;
    }
    tc *c = add_case(FVI_OP_LOSS_MSE, "loss_mse of vectors", ref_mse);
    add_input(c, 0, X, shape(1, 50, 0, 0, 0));
    add_input(c, 1, X, c->in[0]);
    add_input(c, 2, P, c->in[0]);
    c->out[0] = shape(1, 1, 0, 0, 0);
    c->out_role = P;
}

static void add_group_cases(void)
{
    static const int group[][2] = { { 1, 1 }, { 3, 1 }, { 4, 2 }, { 7, 7 }, { 16, 4 }, { 20, 5 },
                                    { 64, 32 }, { 100, 10 }, { 192, 32 }, { 256, 32 }, { 257, 1 } };
    static const int acts[] = { FV_ACT_NONE, FV_ACT_SILU, FV_ACT_RELU };
    for (int s = 0; s < N_SIZES + 1; s++) {
        tc *c = add_case(FVI_OP_GROUPNORM, "groupnorm", ref_groupnorm);
        const int k = s % N_SIZES, C = group[k][0], B = 1 + s % 3;
        add_input(c, 0, X, shape(4, B, 4, s == N_SIZES ? 600 : 3, C));
        add_input(c, 1, P, shape(1, C, 0, 0, 0));
        add_input(c, 2, P, shape(1, C, 0, 0, 0));
        c->attr.i[0] = group[k][1];
        c->attr.i[1] = acts[s % 3];
        c->attr.f[0] = 1e-5f;
        c->out[0] = c->in[0];
        c->out[1] = shape(3, B, group[k][1], 2, 0);
    }
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
    d->status = pass(&e, def, false, &d->guards_ok);
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
                if (!(err <= worst)) worst = err;
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
        if (!(fabs(got - want) <= worst)) worst = fabs(got - want);
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
        if (!(fabs((double)a[i] - b[i]) <= worst)) worst = fabs((double)a[i] - b[i]);
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

/* Activations far out, at zero, and for values that are not numbers. */
static void vector_activations_match_at_the_edges(void)
{
    static const float edge[] = {0.0f,   -0.0f,    1e-40f,    -1e-40f, 1e-6f,   -1e-6f,
                                 0.6f,   0.65f,    -0.65f,    9.0f,    -9.0f,   20.0f,
                                 -20.0f, 87.0f,    -86.0f,    200.0f,  -200.0f, 1e30f,
                                 -1e30f, INFINITY, -INFINITY, NAN,     3.4e38f};
    float a[FV_ARRAY_LEN(edge)], b[FV_ARRAY_LEN(edge)];
    const int64_t n = (int64_t)FV_ARRAY_LEN(edge);
    const fvi_in x = fvi_in_f32(edge);
    for (int isa = 1; isa < N_ISA; isa++)
        for (int act = 0; isa_ctx[isa] && act < FV_ACT_COUNT; act++)
            for (int back = 0; back < 2; back++) {
                float one[FV_ARRAY_LEN(edge)];
                for (int64_t i = 0; i < n; i++) one[i] = 1.0f;
                for (int k = 0; k < 2; k++) {
                    const fvi_pointwise_ops *o = &isa_ctx[k ? isa : SCALAR]->cpu_ops->pointwise;
                    const fvi_out y = fvi_out_f32(k ? a : b, false);
                    if (back) o->act_bwd(y, x, fvi_in_f32(one), n, (fv_act)act);
                    else o->act(y, x, n, (fv_act)act);
                }
                for (int64_t i = 0; i < n; i++) {
                    if (isnan(edge[i]))
                        CHECK_MSG(back || (isnan(a[i]) && isnan(b[i])), "act %d hides NaN", act);
                    if (isinf(b[i]) && a[i] == b[i]) continue;
                    if (isnan(b[i]) || fabsf(edge[i]) > 1e20f) continue; /* inf * 0 may differ */
                    CHECK_MSG(fabsf(a[i] - b[i]) <= 2e-6f * (1 + fabsf(b[i])),
                              "%s act %d back %d at %g: %g, scalar %g", isa_name[isa], act, back,
                              (double)edge[i], (double)a[i], (double)b[i]);
                }
            }
}

static void bf16_store_rounds_like_the_definition(void)
{
    float x[1024];
    uint16_t y[1024];
    uint64_t state = 5;
    for (int isa = 0; isa < N_ISA; isa++) {
        if (!isa_ctx[isa]) continue;
        for (int i = 0; i < 1024; i++) {
            const uint32_t u = i < 8 ? 0x7f800000u + ((uint32_t)i << 12) : test_next(&state);
            memcpy(&x[i], &u, 4);
        }
        const fvi_out out = { y, true, false };
        isa_ctx[isa]->cpu_ops->pointwise.cast(out, fvi_in_f32(x), 1021);
        for (int i = 0; i < 1021; i++) CHECK(y[i] == fv_f32_to_bf16(x[i]));
    }
}

static void bad_ids_and_labels_are_named(void)
{
    float table[12] = { 0 }, out[12], loss, scratch[64];
    int32_t ids[3] = { 0, 4, 1 };
    const fvi_attr attr = { { 0 }, { 0 } };
    fvi_exec e;
    memset(&e, 0, sizeof e);
    e.ctx = isa_ctx[SCALAR];
    e.attr = &attr;
    e.in[0] = shape(2, 4, 3, 0, 0);
    e.in[0].data = table;
    e.in[1] = shape(1, 3, 0, 0, 0);
    e.in[1].dtype = FV_I32;
    e.in[1].data = ids;
    e.out[0] = shape(2, 3, 3, 0, 0);
    e.out[0].data = out;
    CHECK(fvi_cpu_embed.forward(&e) == FV_ERR_ARG);
    CHECK(strstr(fv_ctx_error(e.ctx), "id 4 at position 1"));
    ids[1] = -1;
    CHECK(fvi_cpu_embed.forward(&e) == FV_ERR_ARG);
    e.in[0] = shape(2, 3, 4, 0, 0);
    e.in[0].data = table;
    e.out[0].data = &loss;
    e.scratch = scratch;
    CHECK(fvi_cpu_loss_ce.forward(&e) == FV_OK && fabsf(loss - logf(4)) < 1e-6f);
    ids[1] = 4;
    CHECK(fvi_cpu_loss_ce.forward(&e) == FV_ERR_ARG);
    CHECK(strstr(fv_ctx_error(e.ctx), "label 4 at row 1"));
    ids[0] = ids[1] = ids[2] = -1;
    CHECK(fvi_cpu_loss_ce.forward(&e) == FV_OK && loss == 0);
}

/* One buffer for the gradient of h and of the output; h2 written over h. */
static void gate_res_works_in_place(void)
{
    float h[60], y[60], mod[60], want[60], gh[60], gy[60], gmod[60], scratch[40 * 16];
    const fvi_attr attr = { { 1 }, { 0 } };
    test_fill(h, 60, 1);
    test_fill(y, 60, 2);
    test_fill(mod, 60, 3);
    test_fill(gh, 60, 4);
    for (int i = 0; i < 60; i++) want[i] = h[i] + mod[i / 30 * 30 + 10 + i % 10] * y[i];
    fvi_exec e;
    memset(&e, 0, sizeof e);
    e.ctx = isa_ctx[SCALAR];
    e.attr = &attr;
    e.in[0] = e.in[1] = e.out[0] = e.gin[0] = e.gin[1] = e.gout[0] = shape(3, 2, 3, 10, 0);
    e.in[2] = e.gin[2] = shape(2, 2, 30, 0, 0);
    e.in[0].data = e.out[0].data = h;
    e.in[1].data = y;
    e.in[2].data = mod;
    e.scratch = scratch;
    OK(e.ctx, fvi_cpu_gate_res.forward(&e));
    for (int i = 0; i < 60; i++) NEAR(h[i], want[i], 1e-6);
    e.gin[0].data = e.gout[0].data = gh;
    e.gin[1].data = gy;
    e.gin[2].data = gmod;
    memcpy(want, gh, sizeof want);
    OK(e.ctx, fvi_cpu_gate_res.backward(&e));
    CHECK(memcmp(gh, want, sizeof want) == 0);
    for (int i = 0; i < 60; i++) NEAR(gy[i], want[i] * mod[i / 30 * 30 + 10 + i % 10], 1e-6);
    CHECK(gmod[0] == 0 && gmod[29] == 0 && gmod[30] == 0 && gmod[10] != 0);
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
        fill(c, &e.in[k], c->positive >> k & 1, 3);
        forward_bytes += (double)bytes_of(&e.in[k]);
        if (c->role[k] == IDS) continue;
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
    for (int b = 0; b < 2; b++) {
        if (b && c->no_gradient) continue;
        e.scratch = fv_alloc(s.ctx, (def->scratch_bytes ? def->scratch_bytes(&e, b) : 0) + 64);
        seconds[b] = time_pass(&e, def, b);
        fv_free(s.ctx, e.scratch);
    }
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

static void add_bench_cases(void)
{
    const fv_tensor x = shape(3, 64, 64, 256, 0);
    norm_case(256, 64, 64, FV_NORM_LAYER, 0, 3);
    norm_case(256, 64, 64, FV_NORM_RMS, 1, 3);
    tc *c = add_case(FVI_OP_GATE_RES, "gate_res", ref_gate);
    add_input(c, 0, P, x);
    add_input(c, 1, X, x);
    add_input(c, 2, P, shape(2, 64, 6 * 256, 0, 0));
    c->out[0] = x;
    c->out_role = P;
    c = add_case(FVI_OP_SWIGLU, "swiglu", ref_swiglu);
    add_input(c, 0, X, shape(3, 64, 64, 512, 0));
    c->out[0] = x;
    static const int acts[] = { FV_ACT_SILU, FV_ACT_GELU_TANH, FV_ACT_GELU_ERF };
    for (int k = 0; k < 3; k++) {
        c = add_case(FVI_OP_ACT, "act", ref_act);
        add_input(c, 0, X, x);
        c->attr.i[0] = acts[k];
        c->out[0] = x;
    }
    c = add_case(FVI_OP_CAST, "cast", ref_copy);
    add_input(c, 0, X, x);
    c->out[0] = x;
    binary_case(FV_ADD, 1, 64, 64, 256, 2);
    binary_case(FV_MUL, 0, 64, 64, 256, 0);
    c = add_case(FVI_OP_EMBED, "embed", ref_embed);
    add_input(c, 0, P, shape(2, 1000, 256, 0, 0));
    add_input(c, 1, IDS, shape(1, 4096, 0, 0, 0));
    c->id_high = 1000;
    c->out[0] = shape(2, 4096, 256, 0, 0);
    c = add_case(FVI_OP_PATCHIFY, "patchify", ref_patchify);
    add_input(c, 0, X, shape(4, 64, 128, 128, 4));
    c->out[0] = shape(3, 64, 4096, 16, 0);
    const int32_t a[6] = { 2, 0, 0, 128, 128, 4 };
    memcpy(c->attr.i, a, sizeof a);
    c = add_case(FVI_OP_LOSS_MSE, "loss_mse", ref_mse);
    add_input(c, 0, X, x);
    add_input(c, 1, P, x);
    c->out[0] = shape(1, 1, 0, 0, 0);
    c->out_role = P;
    c = add_case(FVI_OP_LOSS_CE, "loss_ce", ref_ce);
    add_input(c, 0, X, shape(2, 4096, 256, 0, 0));
    add_input(c, 1, IDS, shape(1, 4096, 0, 0, 0));
    c->id_high = 256;
    c->out[0] = shape(1, 1, 0, 0, 0);
    c->out[1] = c->in[0];
    c->out_role = P;
    c = add_case(FVI_OP_GROUPNORM, "groupnorm", ref_groupnorm);
    add_input(c, 0, X, shape(4, 64, 8, 8, 256));
    add_input(c, 1, P, shape(1, 256, 0, 0, 0));
    add_input(c, 2, P, shape(1, 256, 0, 0, 0));
    c->attr.i[0] = 32;
    c->attr.i[1] = FV_ACT_SILU;
    c->out[0] = c->in[0];
    c->out[1] = shape(3, 64, 32, 2, 0);
}

static int bench(void)
{
    add_bench_cases();
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

int main(int argc, char **argv)
{
    const bool is_bench = argc > 1 && strcmp(argv[1], "--bench") == 0;
    make_contexts(is_bench ? 0 : 1);
    if (is_bench) return bench();
    add_norm_cases();
    add_pointwise_cases();
    add_layout_cases();
    add_loss_cases();
    add_group_cases();
    RUN(scalar_forward_matches_reference);
    RUN_ISA(AVX2, avx2_forward_matches_reference);
    RUN_ISA(AVX512, avx512_forward_matches_reference);
    RUN(scalar_gradients_match_differences);
    RUN_ISA(AVX2, avx2_gradients_match_differences);
    RUN_ISA(AVX512, avx512_gradients_match_differences);
    RUN(scalar_gradients_are_added);
    RUN_ISA(AVX2, avx2_gradients_are_added);
    RUN_ISA(AVX512, avx512_gradients_are_added);
    RUN_ISA(AVX2, avx2_matches_scalar);
    RUN_ISA(AVX512, avx512_matches_scalar);
    RUN(same_bytes_for_1_2_and_3_threads);
    RUN(vector_activations_match_at_the_edges);
    RUN(bf16_store_rounds_like_the_definition);
    RUN(bad_ids_and_labels_are_named);
    RUN(gate_res_works_in_place);
    for (int k = 0; k < N_ISA; k++) fv_ctx_destroy(&isa_ctx[k]);
    free(cases);
    return test_end();
}
