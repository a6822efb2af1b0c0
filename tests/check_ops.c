/* check_ops.c - cases of the ops that every engine uses; how they are checked: op_harness.h.
 *
 * check_ops --bench prints GB/s for 64 samples x 64 tokens x 256 channels. */
#include "op_harness.h"

/* ---- Cases ----------------------------------------------------------------------------------- */

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
static void ref_forecast(const tc *c, double *const in[], double *out)
{
    const int64_t C = last(&c->in[0]), T = c->in[0].dim[1], M = c->in[1].ndim ? last(&c->in[1]) : 0;
    for (int64_t i = 0; i < count(&c->in[0]); i++) {
        double sum = 0;
        for (int k = 0; k < c->attr.i[1]; k++) sum += in[2][k] * in[3 + k][i];
        out[i] = in[0][i] + (in[1] ? in[1][i / C / T * M + c->attr.i[0] * C + i % C] : 1) * sum;
    }
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
        const double d = in[0][i] - in[1][i], a = fabs(d);
        const double v = !c->attr.i[0] ? d * d : a < 1 ? d * d / 2 : a - 0.5;
        out[0] += (in[2] ? in[2][i / per] : 1) * v / (double)n;
    }
}
static void ref_concat(const tc *c, double *const in[], double *out)
{
    const int64_t runs = c->attr.i[0], na = count(&c->in[0]) / runs, nb = count(&c->in[1]) / runs;
    for (int64_t i = 0; i < count(&c->out[0]); i++) {
        const int64_t r = i / (na + nb), k = i % (na + nb);
        out[i] = k < na ? in[0][r * na + k] : in[1][r * nb + k - na];
    }
}
static void ref_soft_ce(const tc *c, double *const in[], double *out)
{
    const int64_t n = c->in[0].dim[0], V = c->in[0].dim[1];
    out[0] = 0;
    for (int64_t i = 0; i < n; i++) {
        double lse[2], dot = 0;
        for (int w = 0; w < 2; w++) {
            double sum = 0;
            for (int64_t k = 0; k < V; k++) sum += exp(in[w][i * V + k]);
            lse[w] = log(sum);
        }
        for (int64_t k = 0; k < V; k++)
            dot += exp(in[1][i * V + k] - lse[1]) * (in[0][i * V + k] - lse[0]);
        out[0] -= (in[2] ? in[2][i] : 1) * dot / (double)n;
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

static void ref_tree(const tc *c, double *const in[], double *out)
{
    const int64_t D = c->in[1].dim[1], K = c->in[4].dim[1];
    double total = 0, used = 0;
    for (int64_t i = 0; i < count(&c->in[3]); i++) {
        const int64_t label = (int64_t)in[3][i];
        if (label < 0) continue;
        for (int64_t j = 0; j < K && in[4][label * K + j] > 0; j++) {
            const int64_t entry = (int64_t)in[4][label * K + j], node = entry / 2;
            double z = in[2][node];
            for (int64_t k = 0; k < D; k++) z += in[0][i * D + k] * in[1][node * D + k];
            total += fmax(entry & 1 ? -z : z, 0) + log1p(exp(-fabs(z)));
        }
        used++;
    }
    out[0] = used > 0 ? total / used : 0;
}

static void ref_l1(const tc *c, double *const in[], double *out)
{
    const int64_t n = count(&c->in[0]);
    out[0] = 0;
    for (int64_t i = 0; i < n; i++) out[0] += fabs(in[0][i] - (in[1] ? in[1][i] : 0)) / (double)n;
}
static void ref_filter(const tc *c, double *const in[], double *out)
{
    static const double smooth[3] = { 0.25, 0.5, 0.25 }, slope[3] = { -0.5, 0, 0.5 },
                        blur[5] = { 1 / 16.0, 4 / 16.0, 6 / 16.0, 4 / 16.0, 1 / 16.0 };
    const int kind = c->attr.i[0], r = kind == FV_FILTER_BLUR5 ? 2 : 1;
    const double *tx = kind == FV_FILTER_BLUR5 ? blur : kind == FV_FILTER_SOBEL_X ? slope : smooth;
    const double *ty = kind == FV_FILTER_BLUR5 ? blur : kind == FV_FILTER_SOBEL_Y ? slope : smooth;
    const int64_t H = c->in[0].dim[1], W = c->in[0].dim[2], C = c->in[0].dim[3];
    const int64_t h = c->out[0].dim[1], w = c->out[0].dim[2];
    for (int64_t i = 0; i < count(&c->out[0]); i++) {
        const int64_t ch = i % C, x = i / C % w * c->attr.i[1], b = i / C / w / h;
        const int64_t y = i / C / w % h * c->attr.i[1];
        out[i] = 0;
        for (int64_t dy = -r; dy <= r; dy++)
            for (int64_t dx = -r; dx <= r; dx++) {
                const int64_t py = y + dy < 0 ? 0 : y + dy >= H ? H - 1 : y + dy;
                const int64_t px = x + dx < 0 ? 0 : x + dx >= W ? W - 1 : x + dx;
                out[i] += ty[dy + r] * tx[dx + r] * in[0][((b * H + py) * W + px) * C + ch];
            }
    }
}
static void ref_l2norm(const tc *c, double *const in[], double *out)
{
    const int64_t D = last(&c->in[0]);
    for (int64_t r = 0; r < count(&c->in[0]) / D; r++) {
        double sum = 0;
        for (int64_t i = 0; i < D; i++) sum += in[0][r * D + i] * in[0][r * D + i];
        for (int64_t i = 0; i < D; i++)
            out[r * D + i] = in[0][r * D + i] / fmax(sqrt(sum), c->attr.f[0]);
    }
}
static void ref_vq(const tc *c, double *const in[], double *out)
{
    const int64_t D = last(&c->in[0]), V = c->in[1].dim[0];
    for (int64_t r = 0; r < count(&c->in[0]) / D; r++) {
        int64_t best = 0;
        double top = -INFINITY;
        for (int64_t v = 0; v < V; v++) {
            double sum = 0;
            for (int64_t i = 0; i < D; i++) sum += in[0][r * D + i] * in[1][v * D + i];
            if (sum > top) best = v;
            top = fmax(top, sum);
        }
        for (int64_t i = 0; i < D; i++) out[r * D + i] = in[1][best * D + i];
    }
}
static void ref_loss_vq(const tc *c, double *const in[], double *out)
{
    const int64_t D = last(&c->in[0]), N = count(&c->in[0]);
    out[0] = 0;
    for (int64_t i = 0; i < N; i++) {
        const double gap = in[0][i] - in[1][(int64_t)in[2][i / D] * D + i % D];
        out[0] += (1 + c->attr.f[0]) * gap * gap / (double)N;
    }
}

/* Paths of the leaves [first, end) from decision `at` on: halves, or one leaf at a time where
 * `chain`. A node's number is the first leaf on its right. Returns the most decisions. */
static int tree_paths(int32_t *table, int depth, int first, int end, int at, bool chain)
{
    if (end - first < 2) return at;
    const int split = chain ? first + 1 : (first + end) / 2;
    for (int i = first; i < end && table; i++) table[i * depth + at] = 2 * split + (i >= split);
    const int a = tree_paths(table, depth, first, split, at + 1, chain),
              b = tree_paths(table, depth, split, end, at + 1, chain);
    return a > b ? a : b;
}

#define N_SIZES 11
static int32_t tree_tables[N_SIZES][14 * 13];

static int tree_table(int s, int leaves)
{
    const int depth = tree_paths(NULL, 0, 0, leaves, 0, s % 2 != 0);
    (void)tree_paths(tree_tables[s], depth, 0, leaves, 0, s % 2 != 0);
    return depth;
}

static const int sizes[] = { 1, 3, 4, 7, 16, 20, 64, 100, 192, 256, 257 };

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

static void forecast_case(int C, int64_t B, int64_t T, int outputs, int mod)
{
    tc *c = add_case(FVI_OP_FORECAST, "forecast", ref_forecast);
    add_input(c, 0, P, shape(3, B, T, C, 0));
    if (mod) add_input(c, 1, P, shape(2, B, 3 * (int64_t)C, 0, 0));
    add_input(c, 2, P, shape(1, outputs, 0, 0, 0));
    for (int k = 0; k < outputs; k++) add_input(c, 3 + k, X, c->in[0]);
    c->attr.i[0] = mod ? C % 3 : -1;
    c->attr.i[1] = outputs;
    c->out[0] = c->in[0];
    c->out_role = P;
    c->no_gradient = true;
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
    for (int s = 0; s < N_SIZES; s++)
        for (int outputs = 1; outputs <= FV_FORECAST_MAX; outputs++)
            forecast_case(sizes[s], 1 + (s + outputs) % 3, 5, outputs, (s + outputs) % 2);
    forecast_case(8, 1, 2100, 3, 1);
    forecast_case(20, 20, 2, 2, 1);
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
    for (int s = 0; s < N_SIZES; s++) {
        tc *c = add_case(FVI_OP_CONCAT, "concat", ref_concat);
        const int axis = s % 3;
        c->in[0] = c->in[1] = c->out[0] = shape(3, 2, 3, sizes[s], 0);
        c->in[1].dim[axis] += s % 2;
        c->out[0].dim[axis] = c->in[0].dim[axis] + c->in[1].dim[axis];
        c->role[0] = c->role[1] = X;
        c->attr.i[0] = axis == 0 ? 1 : axis == 1 ? 2 : 6;
        c->same_type = true;
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
        c = add_case(FVI_OP_LOSS_MSE, "loss_smooth_l1", ref_mse);
        add_input(c, 0, X, shape(3, 1 + s % 3, 5, sizes[s], 0));
        add_input(c, 1, X, c->in[0]);
        if (s & 1) add_input(c, 2, P, shape(1, 1 + s % 3, 0, 0, 0));
        c->attr.i[0] = 1;
        c->range = 2;
        c->out[0] = shape(1, 1, 0, 0, 0);
        c->out_role = P;
        c = add_case(FVI_OP_LOSS_SOFT_CE, "loss_soft_ce", ref_soft_ce);
        add_input(c, 0, P, shape(2, 19, sizes[s], 0, 0));
        add_input(c, 1, CONST, c->in[0]);
        if (s & 1) add_input(c, 2, CONST, shape(1, 19, 0, 0, 0));
        c->range = 8;
        c->out[0] = shape(1, 1, 0, 0, 0);
        c->out[1] = c->in[0];
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
    for (int s = 0; s < N_SIZES; s++) {
        const int V = 2 + 3 * (s % 5), depth = tree_table(s, V);
        tc *c = add_case(FVI_OP_LOSS_TREE, "loss_tree", ref_tree);
        add_input(c, 0, X, shape(2, 19, sizes[s], 0, 0));
        add_input(c, 1, P, shape(2, V, sizes[s], 0, 0));
        add_input(c, 2, P, shape(1, V, 0, 0, 0));
        add_input(c, 3, IDS, shape(1, 19, 0, 0, 0));
        c->id_low = -1;
        add_input(c, 4, IDS, shape(2, V, depth, 0, 0));
        c->table = tree_tables[s];
        c->id_high = V;
        c->range = 2;
        c->out[0] = shape(1, 1, 0, 0, 0);
        c->out[1] = shape(2, 19, depth, 0, 0);
        c->out_role = P;
    }
    tc *c = add_case(FVI_OP_LOSS_MSE, "loss_mse of vectors", ref_mse);
    add_input(c, 0, X, shape(1, 50, 0, 0, 0));
    add_input(c, 1, X, c->in[0]);
    add_input(c, 2, P, c->in[0]);
    c->out[0] = shape(1, 1, 0, 0, 0);
    c->out_role = P;
}

static void filter_case(int kind, int stride, int64_t H, int64_t W, int C)
{
    tc *c = add_case(FVI_OP_FILTER, "filter", ref_filter);
    add_input(c, 0, P, shape(4, 1 + C % 3, H, W, C));
    c->attr.i[0] = kind;
    c->attr.i[1] = stride;
    c->out[0] = shape(4, c->in[0].dim[0], (H - 1) / stride + 1, (W - 1) / stride + 1, C);
    c->out_role = P;
}

/* Gradients of vq and loss_vq are not the derivatives of their values: see test_vq.c. */
static void add_vq_cases(void)
{
    for (int s = 0; s < N_SIZES; s++) {
        tc *c = add_case(FVI_OP_L2NORM, "l2norm", ref_l2norm);
        add_input(c, 0, P, shape(3, 2, 5, sizes[s], 0));
        c->attr.f[0] = s % 4 == 3 ? 50.0f : 1e-12f; /* rows shorter than eps */
        c->out[0] = c->in[0];
        c->out_role = P;
        c = add_case(FVI_OP_VQ, "vq", ref_vq);
        add_input(c, 0, P, shape(2, 19, 1 + s % 9, 0, 0));
        add_input(c, 1, P, shape(2, sizes[s], 1 + s % 9, 0, 0));
        c->out[0] = c->in[0];
        c->out[1] = shape(1, 19, 0, 0, 0);
        c->out_role = P;
        c->no_gradient = true;
        c = add_case(FVI_OP_LOSS_VQ, "loss_vq", ref_loss_vq);
        add_input(c, 0, P, shape(2, 19, sizes[s], 0, 0));
        add_input(c, 1, P, shape(2, 7, sizes[s], 0, 0));
        add_input(c, 2, IDS, shape(1, 19, 0, 0, 0));
        c->id_high = 7;
        c->attr.f[0] = 0.25f;
        c->out[0] = shape(1, 1, 0, 0, 0);
        c->out_role = P;
        c->no_gradient = true;
    }
    for (int s = 0; s < N_SIZES; s++) {
        tc *c = add_case(FVI_OP_LOSS_L1, "loss_l1", ref_l1);
        add_input(c, 0, X, shape(3, 1 + s % 3, 5, sizes[s], 0));
        if (s & 1) add_input(c, 1, X, c->in[0]);
        c->out[0] = shape(1, 1, 0, 0, 0);
        c->out_role = P;
    }
    for (int kind = 0; kind < FV_FILTER_COUNT; kind++)
        for (int stride = 1; stride <= 2; stride++) {
            filter_case(kind, stride, 1, 1, 2);
            filter_case(kind, stride, 2, 3, 1);
            filter_case(kind, stride, 7, 5, 3);
            filter_case(kind, stride, 18, 4, 4);
            filter_case(kind, stride, 4, 33, 3);
        }
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

static void bad_paths_of_a_tree_are_named(void)
{
    float h[4] = {1, -1, 2, 1}, w[6] = {0}, bias[3] = {0}, loss, scratch[64];
    int32_t labels[2] = {0, 2}, paths[6] = {2, 0, 3, 4, 3, 5};
    const fvi_attr attr = {{0}, {0}};
    fvi_exec e;
    memset(&e, 0, sizeof e);
    e.ctx = isa_ctx[SCALAR];
    e.attr = &attr;
    e.in[0] = shape(2, 2, 2, 0, 0);
    e.in[1] = e.in[4] = shape(2, 3, 2, 0, 0);
    e.in[2] = shape(1, 3, 0, 0, 0);
    e.in[3] = shape(1, 2, 0, 0, 0);
    e.in[0].data = h;
    e.in[1].data = w;
    e.in[2].data = bias;
    e.in[3].data = labels;
    e.in[4].data = paths;
    e.out[0].data = &loss;
    e.scratch = scratch;
    OK(e.ctx, fvi_cpu_loss_tree.forward(&e));
    NEAR(loss, 1.5 * log(2), 1e-6); /* one decision and two */
    paths[5] = 6;
    CHECK(fvi_cpu_loss_tree.forward(&e) == FV_ERR_ARG);
    CHECK(strstr(fv_ctx_error(e.ctx), "label 2 has node 3"));
    paths[5] = -4;
    CHECK(fvi_cpu_loss_tree.forward(&e) == FV_ERR_ARG);
    labels[1] = 3;
    CHECK(fvi_cpu_loss_tree.forward(&e) == FV_ERR_ARG);
    CHECK(strstr(fv_ctx_error(e.ctx), "label 3 at row 1"));
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

/* h2 over h, as the engine binds it. */
static void forecast_works_in_place(void)
{
    for (int isa = 0; isa < N_ISA; isa++)
        for (int outputs = 1; outputs <= FV_FORECAST_MAX && isa_ctx[isa]; outputs++) {
            float h[60], y[FV_FORECAST_MAX][60], mod[60], w[FV_FORECAST_MAX], want[60];
            const fvi_attr attr = { { 1, outputs }, { 0 } };
            fvi_exec e;
            memset(&e, 0, sizeof e);
            test_fill(h, 60, 1);
            test_fill(mod, 60, 3);
            test_fill(w, FV_FORECAST_MAX, 4);
            e.ctx = isa_ctx[isa];
            e.attr = &attr;
            e.in[0] = e.out[0] = shape(3, 2, 3, 10, 0);
            e.in[0].data = e.out[0].data = h;
            e.in[1] = shape(2, 2, 30, 0, 0);
            e.in[1].data = mod;
            e.in[2] = shape(1, outputs, 0, 0, 0);
            e.in[2].data = w;
            memcpy(want, h, sizeof want);
            for (int k = 0; k < outputs; k++) {
                test_fill(y[k], 60, (uint64_t)(10 + k));
                e.in[3 + k] = e.in[0];
                e.in[3 + k].data = y[k];
                for (int i = 0; i < 60; i++)
                    want[i] += mod[i / 30 * 30 + 10 + i % 10] * w[k] * y[k][i];
            }
            OK(e.ctx, fvi_cpu_forecast.forward(&e));
            for (int i = 0; i < 60; i++) NEAR(h[i], want[i], 2e-6);
        }
}

/* ---- Bench ----------------------------------------------------------------------------------- */

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
    for (int outputs = 1; outputs <= FV_FORECAST_MAX; outputs += 2)
        forecast_case(256, 64, 64, outputs, 1);
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

int main(int argc, char **argv)
{
    const bool is_bench = argc > 1 && strcmp(argv[1], "--bench") == 0;
    make_contexts(is_bench ? 0 : 1);
    if (is_bench) {
        add_bench_cases();
        return bench();
    }
    add_norm_cases();
    add_pointwise_cases();
    add_layout_cases();
    add_loss_cases();
    add_group_cases();
    add_vq_cases();
    RUN_OP_CHECKS();
    RUN(vector_activations_match_at_the_edges);
    RUN(bf16_store_rounds_like_the_definition);
    RUN(bad_ids_and_labels_are_named);
    RUN(bad_paths_of_a_tree_are_named);
    RUN(gate_res_works_in_place);
    RUN(forecast_works_in_place);
    return op_checks_end();
}
