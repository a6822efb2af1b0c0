/* cuda_cases.h - each op of the CUDA backend against the CPU's: one row per op and shape.
 *
 * A row is a node with random inputs. It runs on a context of the CPU (scalar kernels) and on one of
 * CUDA, through the same fvi_exec; outputs, kept statistics and all gradients are compared, in f32 and
 * bf16, with gradients written and added. LINEAR, CONV2D and MOE, whose weights the CPU takes from
 * parameters only, are compared with sums in double. Bounds, relative to the largest value of a tensor: f32 2e-5
 * (sums in another order), bf16 1.6e-2 (two roundings of 2^-8, and sums of what was rounded). */
#ifndef CUDA_CASES_H
#define CUDA_CASES_H

#include "cuda_ops.h"
#include "test.h"

enum { NOT = 0, X /* f32 or bf16 */, P /* f32 */, FIXED /* f32, no gradient */, IDS };

typedef struct row {
    fvi_op op;
    const char *name;
    fvi_attr attr;
    int role[FVI_MAX_IN], out_role;
    fv_tensor in[FVI_MAX_IN], out[FVI_MAX_OUT];
    int positive;        /* bit k: in[k] in [0.5, 1.5) */
    int sparse;          /* bit k: negative values of in[k] become 0 */
    int ids;             /* IDS are below; 0: in[k] counts up to its length (visible keys) */
    int lower;           /* subtracted from all IDS */
    bool no_gradient, same_type;
} row;

#define MAX_ROWS 400
static row rows[MAX_ROWS];
static int row_count;

static row *add_row(fvi_op op, const char *name)
{
    row *r = &rows[row_count++];
    if (row_count > MAX_ROWS) {
        printf("more than %d rows\n", MAX_ROWS);
        exit(1);
    }
    memset(r, 0, sizeof *r);
    r->op = op;
    r->name = name;
    r->out_role = X;
    return r;
}

static fv_tensor dims(int ndim, int64_t a, int64_t b, int64_t c, int64_t d, int64_t e)
{
    fv_tensor t = { NULL, FV_F32, ndim, { a, b, c, d, e } };
    return t;
}
static void give_row(row *r, int k, int role, fv_tensor t)
{
    r->role[k] = role;
    r->in[k] = t;
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static const int widths[] = { 1, 4, 7, 32, 33, 100, 257, 600 };
#define WIDTHS 8

static void norm_row(int64_t B, int64_t T, int64_t C, int kind, int weights, int chunks)
{
    row *r = add_row(FVI_OP_NORM_MOD, "norm_mod");
    give_row(r, 0, X, dims(3, B, T, C, 0, 0));
    if (weights & 1) give_row(r, 1, P, dims(1, C, 0, 0, 0, 0));
    if (weights & 2) give_row(r, 2, P, dims(1, C, 0, 0, 0, 0));
    if (chunks) give_row(r, 3, P, dims(2, B, 4 * C, 0, 0, 0));
    r->attr.i[0] = kind;
    r->attr.i[1] = chunks & 1 ? 2 : -1;
    r->attr.i[2] = chunks & 2 ? 1 : -1;
    r->attr.f[0] = C < 5 ? 0.1f : 1e-5f;
    r->out[0] = r->in[0];
    r->out[1] = dims(2, B * T, 2, 0, 0, 0);
}

static void gate_row(int64_t B, int64_t T, int64_t C, int mod)
{
    row *r = add_row(FVI_OP_GATE_RES, "gate_res");
    give_row(r, 0, P, dims(3, B, T, C, 0, 0));
    give_row(r, 1, X, r->in[0]);
    if (mod == 1) give_row(r, 2, P, dims(2, B, 3 * C, 0, 0, 0));
    if (mod == 2) give_row(r, 2, P, dims(1, C, 0, 0, 0, 0));
    r->attr.i[0] = mod == 1 ? 1 : mod ? 0 : -1;
    r->out[0] = r->in[0];
    r->out_role = P;
}

static void forecast_row(int64_t B, int64_t T, int64_t C, int count, int mod)
{
    row *r = add_row(FVI_OP_FORECAST, "forecast");
    give_row(r, 0, P, dims(3, B, T, C, 0, 0));
    if (mod) give_row(r, 1, P, dims(2, B, 3 * C, 0, 0, 0));
    give_row(r, 2, FIXED, dims(1, count, 0, 0, 0, 0));
    for (int k = 0; k < count; k++) give_row(r, 3 + k, X, r->in[0]);
    r->attr.i[0] = mod ? 2 : -1;
    r->attr.i[1] = count;
    r->out[0] = r->in[0];
    r->out_role = P;
    r->no_gradient = true;
}

static void norm_rows(void)
{
    for (int i = 0; i < WIDTHS; i++) {
        norm_row(1 + i % 3, 5, widths[i], FV_NORM_LAYER, i & 3, 3);
        norm_row(3 - i % 3, 4, widths[i], FV_NORM_RMS, 1, i & 3);
        gate_row(1 + i % 3, 5, widths[i], i % 3);
        forecast_row(2, 3, widths[i], 1 + i % FV_FORECAST_MAX, i & 1);
    }
    norm_row(2, 3, 20, FV_NORM_LAYER, 3, 0);
    norm_row(1, 700, 8, FV_NORM_LAYER, 3, 3); /* more segments than one */
    gate_row(2, 600, 9, 1);
    norm_row(2, 3, 1152, FV_NORM_LAYER, 3, 3); /* a warp a row, and rows too wide for it */
    norm_row(3, 5, 2048, FV_NORM_RMS, 1, 2);
    norm_row(1, 3, 2056, FV_NORM_LAYER, 2, 1);
    gate_row(2, 5, 64, 1);
}

static void binary_row(int op, int broadcast, int64_t B, int64_t T, int64_t C, int b_dims)
{
    row *r = add_row(FVI_OP_BINARY, "binary");
    give_row(r, 0, X, dims(3, B, T, C, 0, 0));
    give_row(r, 1, X, r->in[0]);
    if (broadcast == 1)
        r->in[1] = b_dims == 1 ? dims(1, C, 0, 0, 0, 0) : dims(2, T, C, 0, 0, 0);
    if (broadcast == 2) r->in[1] = dims(1, B, 0, 0, 0, 0);
    r->positive = 2;
    r->attr.i[0] = op;
    r->attr.i[1] = broadcast;
    r->out[0] = r->in[0];
}

static void pointwise_rows(void)
{
    row *r = add_row(FVI_OP_CAST, "cast");
    give_row(r, 0, X, dims(2, 3, 347, 0, 0, 0));
    r->out[0] = r->in[0];
    r = add_row(FVI_OP_CAST, "cast"); /* more than a grid at once */
    give_row(r, 0, X, dims(2, 1025, 1024, 0, 0, 0));
    r->out[0] = r->in[0];
    r = add_row(FVI_OP_AFFINE, "affine");
    give_row(r, 0, X, dims(2, 3, 100, 0, 0, 0));
    r->attr.f[0] = -1.5f;
    r->attr.f[1] = 0.25f;
    r->out[0] = r->in[0];
    for (int a = 0; a < FV_ACT_COUNT; a++) {
        r = add_row(FVI_OP_ACT, "act");
        give_row(r, 0, X, dims(2, 3, 100, 0, 0, 0));
        r->attr.i[0] = a;
        r->positive = a == FV_ACT_LOG || a == FV_ACT_SQRT;
        r->out[0] = r->in[0];
    }
    for (int i = 1; i < 4; i++) {
        r = add_row(FVI_OP_SWIGLU, "swiglu");
        give_row(r, 0, X, dims(3, 2, 3, 2 * widths[2 * i], 0, 0));
        r->out[0] = dims(3, 2, 3, widths[2 * i], 0, 0);
    }
    for (int op = 0; op < 4; op++)
        for (int broadcast = 0; broadcast < 3; broadcast++)
            binary_row(op, broadcast, 3, 5, 33, 1 + op % 2);
    binary_row(FV_MUL, 1, 2, 400, 5, 1);
}

static void patch_row(int64_t p, int channel_first, int inverse)
{
    row *r = add_row(FVI_OP_PATCHIFY, "patchify");
    const fv_tensor picture = dims(4, 2, 3 * p, 2 * p, 5, 0), tokens = dims(3, 2, 6, p * p * 5, 0, 0);
    give_row(r, 0, X, inverse ? tokens : picture);
    r->out[0] = inverse ? picture : tokens;
    const int32_t attr[6] = { (int32_t)p, channel_first, inverse, (int32_t)(3 * p),
                              (int32_t)(2 * p), 5 };
    memcpy(r->attr.i, attr, sizeof attr);
}

static void layout_rows(void)
{
    row *r;
    for (int dim = 7; dim < 66; dim += 29) {
        r = add_row(FVI_OP_TIMESTEP, "timestep");
        give_row(r, 0, FIXED, dims(1, 3, 0, 0, 0, 0));
        r->positive = 1;
        r->attr.f[0] = 900.0f;
        r->out[0] = dims(2, 3, dim, 0, 0, 0);
        r->no_gradient = true;
    }
    for (int64_t D = 3; D < 400; D += 300) {
        r = add_row(FVI_OP_EMBED, "embed");
        give_row(r, 0, P, dims(2, 5, D, 0, 0, 0));
        give_row(r, 1, IDS, dims(2, 2, 7, 0, 0, 0));
        r->ids = 5;
        r->out[0] = dims(3, 2, 7, D, 0, 0);
    }
    r = add_row(FVI_OP_EMBED, "embed"); /* more ids and columns than a block has threads */
    give_row(r, 0, P, dims(2, 7, 1100, 0, 0, 0));
    give_row(r, 1, IDS, dims(2, 2, 300, 0, 0, 0));
    r->ids = 6; /* one row without an id */
    r->out[0] = dims(3, 2, 300, 1100, 0, 0);
    for (int i = 0; i < 4; i++) patch_row(1 + i, i & 1, i >> 1);
    for (int i = 0; i < 3; i++) {
        const int64_t T = i == 2 ? 600 : 3;
        r = add_row(FVI_OP_MEAN1, "mean1");
        give_row(r, 0, X, dims(3, 2, T, widths[3 * i], 0, 0));
        r->out[0] = dims(2, 2, widths[3 * i], 0, 0, 0);
        r = add_row(FVI_OP_SLICE, "slice");
        give_row(r, 0, X, dims(3, 2, 3, 40, 0, 0));
        r->out[0] = dims(3, 2, 3, 7 + i, 0, 0);
        r->attr.i[0] = 5 * i;
        r->same_type = true;
        r = add_row(FVI_OP_CONCAT, "concat");
        give_row(r, 0, X, dims(3, 2, 3, 10, 0, 0));
        give_row(r, 1, X, dims(3, 2, 1 + i, 10, 0, 0));
        r->out[0] = dims(3, 2, 4 + i, 10, 0, 0);
        r->attr.i[0] = 2;
        r->same_type = true;
    }
}

static void sdpa_row(int64_t B, int64_t T, int64_t h, int64_t hd, int mask) /* 1 causal, 2 visible */
{
    row *r = add_row(FVI_OP_SDPA, "sdpa");
    give_row(r, 0, X, dims(5, B, T, 3, h, hd));
    if (mask == 2) give_row(r, 1, IDS, dims(1, T, 0, 0, 0, 0));
    r->attr.i[0] = mask == 1;
    r->out[0] = dims(3, B, T, h * hd, 0, 0);
    r->out[1] = dims(3, B, h, T, 0, 0);
    r->same_type = true;
}

static void cross_row(int64_t T, int64_t S, int64_t hd, int bias)
{
    row *r = add_row(FVI_OP_CROSS, "cross_attention");
    give_row(r, 0, X, dims(4, 2, T, 2, hd, 0));
    give_row(r, 1, X, dims(5, 2, S, 2, 2, hd));
    if (bias) give_row(r, 2, FIXED, dims(1, S, 0, 0, 0, 0));
    r->attr.i[1] = 1;
    r->out[0] = dims(3, 2, T, 2 * hd, 0, 0);
    r->out[1] = dims(3, 2, 2, T, 0, 0);
    r->same_type = true;
}

static void rope_row(int64_t T, int64_t h, int64_t hd, int weights, int angle, int kind)
{
    row *r = add_row(FVI_OP_QK_NORM_ROPE, "qk_norm_rope");
    const int64_t n = kind == 2 ? h * hd : hd;
    give_row(r, 0, X, dims(5, 2, T, 3, h, hd));
    if (weights) give_row(r, 1, P, dims(1, n, 0, 0, 0, 0));
    if (weights) give_row(r, 2, P, dims(1, n, 0, 0, 0, 0));
    if (angle) give_row(r, 3, FIXED, dims(2, T, hd, 0, 0, 0));
    r->attr.i[0] = kind == 1;
    r->attr.i[1] = kind == 2;
    r->attr.f[0] = 1e-6f;
    r->out[0] = r->in[0];
    r->out[1] = dims(4, 2, T, 2, h, 0);
    r->same_type = true;
}

static void attention_rows(void)
{
    sdpa_row(1, 1, 1, 4, 0);
    sdpa_row(2, 17, 2, 20, 0);
    sdpa_row(1, 33, 3, 72, 0);
    sdpa_row(1, 70, 1, 128, 0);
    sdpa_row(2, 40, 2, 64, 1);
    sdpa_row(1, 37, 2, 32, 2);
    sdpa_row(1, 150, 2, 72, 0); /* bf16: tensor cores, more than a block and a tile */
    sdpa_row(1, 70, 2, 80, 2);
    sdpa_row(2, 131, 1, 32, 1);
    sdpa_row(1, 33, 1, 8, 2);
    sdpa_row(1, 40, 2, 104, 1);
    sdpa_row(2, 5, 2, 132, 0); /* heads wider than the kernels' */
    sdpa_row(1, 150, 1, 160, 1); /* more queries than a piece */
    sdpa_row(1, 37, 2, 256, 2);
    cross_row(131, 9, 136, 1);
    cross_row(5, 9, 8, 0);
    cross_row(33, 70, 72, 1);
    cross_row(7, 140, 64, 1);
    cross_row(140, 7, 40, 0);
    cross_row(20, 3, 128, 1);
    rope_row(5, 2, 8, 1, 1, 0);
    rope_row(3, 3, 72, 1, 1, 0);
    rope_row(3, 3, 72, 0, 1, 0);
    rope_row(3, 2, 12, 1, 0, 0);
    rope_row(4, 2, 128, 0, 1, 1);
    rope_row(3, 4, 20, 1, 1, 2);
}

static void linear_row(int64_t M, int64_t N, int64_t K, int bias, fv_act act)
{
    row *r = add_row(FVI_OP_LINEAR, "linear");
    give_row(r, 0, X, dims(2, M, K, 0, 0, 0));
    give_row(r, 1, P, dims(2, N, K, 0, 0, 0));
    if (bias) give_row(r, 2, P, dims(1, N, 0, 0, 0, 0));
    r->attr.i[0] = act;
    r->out[0] = dims(2, M, N, 0, 0, 0);
    r->no_gradient = act != FV_ACT_NONE;
}

static void linear_rows(void)
{
    linear_row(1, 1, 1, 0, FV_ACT_NONE);
    linear_row(5, 7, 3, 1, FV_ACT_NONE);
    linear_row(40, 64, 32, 1, FV_ACT_NONE);
    linear_row(300, 33, 16, 1, FV_ACT_NONE);
    linear_row(9, 24, 40, 1, FV_ACT_GELU_TANH);
    linear_row(9, 24, 40, 0, FV_ACT_SILU);
}

/* ---- Maps ------------------------------------------------------------------------------------ */

/* k: kernel and stride; pads top, left, bottom, right */
static void conv_row(int64_t B, int64_t H, int64_t W, int64_t C, int64_t O, const int k[3],
                     const int pad[4], int bias, fv_act act)
{
    row *r = add_row(FVI_OP_CONV2D, "conv2d");
    give_row(r, 0, X, dims(4, B, H, W, C, 0));
    give_row(r, 1, P, dims(4, O, C, k[0], k[1], 0));
    if (bias) give_row(r, 2, P, dims(1, O, 0, 0, 0, 0));
    r->out[0] = dims(4, B, (H + pad[0] + pad[2] - k[0]) / k[2] + 1,
                     (W + pad[1] + pad[3] - k[1]) / k[2] + 1, O, 0);
    const int32_t attr[6] = { k[2], pad[0], pad[1], pad[2], pad[3], (int32_t)act };
    memcpy(r->attr.i, attr, sizeof attr);
    r->no_gradient = act != FV_ACT_NONE;
}

static void conv_rows(void)
{
    static const int same[4] = { 1, 1, 1, 1 }, no[4] = { 0, 0, 0, 0 }, odd[4] = { 0, 2, 1, 0 };
    static const int k1[3] = { 1, 1, 1 }, k3[3] = { 3, 3, 1 }, k3s2[3] = { 3, 3, 2 },
                     k1s2[3] = { 1, 1, 2 }, k23[3] = { 2, 3, 1 }, k4s3[3] = { 4, 4, 3 },
                     k2s2[3] = { 2, 2, 2 };
    conv_row(1, 1, 1, 1, 1, k1, no, 0, FV_ACT_NONE);
    conv_row(2, 5, 7, 8, 5, k1, no, 1, FV_ACT_NONE);
    conv_row(2, 13, 11, 3, 6, k3, same, 1, FV_ACT_NONE); /* more places than a piece has */
    conv_row(2, 9, 15, 16, 24, k3, same, 1, FV_ACT_NONE);
    conv_row(1, 13, 30, 3, 4, k3s2, same, 1, FV_ACT_NONE);
    conv_row(1, 8, 6, 5, 7, k3s2, odd, 0, FV_ACT_NONE);
    conv_row(2, 7, 9, 4, 3, k1s2, no, 1, FV_ACT_NONE);
    conv_row(1, 6, 5, 2, 3, k23, odd, 1, FV_ACT_NONE);
    conv_row(1, 11, 12, 3, 2, k4s3, odd, 0, FV_ACT_NONE);
    conv_row(2, 8, 12, 4, 8, k2s2, no, 1, FV_ACT_NONE);
    conv_row(1, 7, 6, 9, 8, k3, same, 1, FV_ACT_SILU);
    conv_row(1, 7, 6, 9, 8, k1, no, 0, FV_ACT_RELU);
}

static void group_row(int64_t B, int64_t H, int64_t W, int64_t C, int groups, fv_act act,
                      int weights)
{
    row *r = add_row(FVI_OP_GROUPNORM, "groupnorm");
    give_row(r, 0, X, dims(4, B, H, W, C, 0));
    if (weights) give_row(r, 1, P, dims(1, C, 0, 0, 0, 0));
    if (weights) give_row(r, 2, P, dims(1, C, 0, 0, 0, 0));
    r->attr.i[0] = groups;
    r->attr.i[1] = (int32_t)act;
    r->attr.f[0] = 1e-5f;
    r->out[0] = r->in[0];
    r->out[1] = dims(3, B, groups, 2, 0, 0);
}

static void windows_row(int64_t H, int64_t W, int64_t side, int64_t shift, int inverse)
{
    row *r = add_row(FVI_OP_WINDOWS, "windows");
    const int64_t n = (H + shift + side - 1) / side * ((W + shift + side - 1) / side);
    const fv_tensor map = dims(4, 2, H, W, 5, 0), cut = dims(3, 2 * n, side * side, 5, 0, 0);
    give_row(r, 0, X, inverse ? cut : map);
    r->out[0] = inverse ? map : cut;
    const int32_t attr[6] = { (int32_t)side, (int32_t)shift, inverse, (int32_t)H, (int32_t)W, 0 };
    memcpy(r->attr.i, attr, sizeof attr);
}

static void map_rows(void)
{
    conv_rows();
    group_row(1, 1, 2, 4, 2, FV_ACT_NONE, 1);
    group_row(2, 5, 7, 12, 3, FV_ACT_SILU, 1);
    group_row(2, 40, 20, 33, 11, FV_ACT_NONE, 0); /* more segments than one, odd channels */
    group_row(1, 6, 6, 64, 32, FV_ACT_SILU, 1);
    for (int i = 1; i < 4; i++) {
        row *r = add_row(FVI_OP_UPSAMPLE2X, "upsample2x");
        give_row(r, 0, X, dims(4, 2, i, 5 - i, 3 * i, 0));
        r->out[0] = dims(4, 2, 2 * i, 2 * (5 - i), 3 * i, 0);
    }
    for (int inverse = 0; inverse < 2; inverse++) {
        windows_row(8, 16, 8, 0, inverse);
        windows_row(9, 7, 4, 2, inverse);
        windows_row(1, 13, 8, 4, inverse);
    }
}

static void haar_row(int64_t B, int64_t h, int64_t w, int64_t C, int inverse)
{
    row *r = add_row(FVI_OP_HAAR, "haar");
    const fv_tensor large = dims(4, B, 2 * h, 2 * w, C, 0), small = dims(4, B, h, w, 4 * C, 0);
    give_row(r, 0, X, inverse ? small : large);
    r->out[0] = inverse ? large : small;
    r->attr.i[0] = inverse;
}

static void pool_row(int64_t H, int64_t W, int64_t C, int kind, int size, int stride)
{
    row *r = add_row(FVI_OP_POOL, "pool");
    const int64_t pad = kind == FVI_POOL_L2 ? 2 : 0;
    give_row(r, 0, P, dims(4, 2, H, W, C, 0));
    r->out[0] = dims(4, 2, (H + pad - size) / stride + 1, (W + pad - size) / stride + 1, C, 0);
    r->out_role = P;
    const int32_t attr[3] = { kind, size, stride };
    memcpy(r->attr.i, attr, sizeof attr);
}

static void filter_row(int64_t H, int64_t W, int kind, int stride)
{
    row *r = add_row(FVI_OP_FILTER, "filter");
    give_row(r, 0, P, dims(4, 2, H, W, 3, 0));
    r->out[0] = dims(4, 2, (H - 1) / stride + 1, (W - 1) / stride + 1, 3, 0);
    r->out_role = P;
    r->attr.i[0] = kind;
    r->attr.i[1] = stride;
}

static void picture_rows(void)
{
    for (int inverse = 0; inverse < 2; inverse++) {
        haar_row(1, 1, 1, 1, inverse);
        haar_row(2, 3, 5, 7, inverse);
    }
    pool_row(6, 8, 5, FVI_POOL_MAX, 2, 2);
    pool_row(7, 9, 3, FVI_POOL_MAX, 3, 2);
    pool_row(5, 5, 4, FVI_POOL_MAX, 3, 1);
    pool_row(6, 9, 5, FVI_POOL_L2, 3, 2);
    pool_row(1, 2, 5, FVI_POOL_L2, 3, 2);
    for (int kind = 0; kind < FV_FILTER_COUNT; kind++) {
        filter_row(7, 10, kind, 1);
        filter_row(8, 5, kind, 2);
        filter_row(1, 2, kind, 1 + kind % 2);
        filter_row(3, 4, kind, 2);
    }
}

/* ---- Rows and losses ------------------------------------------------------------------------- */

static void mix_row(int64_t B, int64_t T, int64_t R, int64_t m, int64_t C)
{
    row *r = add_row(FVI_OP_MIX_ROWS, "mix_rows");
    give_row(r, 0, P, dims(3, B, T, C, 0, 0));
    give_row(r, 1, IDS, dims(2, R, m, 0, 0, 0));
    give_row(r, 2, FIXED, dims(2, R, m, 0, 0, 0));
    r->ids = (int)T + 1;
    r->lower = 1;
    r->out[0] = dims(3, B, R, C, 0, 0);
    r->out_role = P;
}

static void unit_row(int64_t T, int64_t h, int64_t hd, float most)
{
    row *r = add_row(FVI_OP_UNIT_QK, "unit_qk");
    give_row(r, 0, X, dims(5, 2, T, 3, h, hd));
    give_row(r, 1, P, dims(1, h, 0, 0, 0, 0));
    r->attr.f[0] = 1e-6f;
    r->attr.f[1] = most;
    r->out[0] = r->in[0];
    r->same_type = true;
}

/* b: 0 the row before, 1 with rows before the first, 2 another tensor */
static void lerp_row(int64_t B, int64_t T, int64_t C, int b)
{
    row *r = add_row(FVI_OP_LERP, "lerp");
    give_row(r, 0, X, dims(3, B, T, C, 0, 0));
    if (b == 2) give_row(r, 1, X, r->in[0]);
    give_row(r, 2, P, dims(1, C, 0, 0, 0, 0));
    if (b == 1) give_row(r, 3, FIXED, dims(2, B, C, 0, 0, 0));
    r->out[0] = r->in[0];
}

static void line_rows(void)
{
    row *r;
    mix_row(1, 1, 1, 1, 1);
    mix_row(2, 9, 14, 3, 33);
    mix_row(1, 20, 5, 8, 7);
    unit_row(1, 1, 4, 2);
    unit_row(5, 3, 40, 0.2f); /* some scales are above */
    for (int i = 0; i < 3; i++) {
        lerp_row(2, 5, widths[2 * i], i);
        lerp_row(1, 700, 6, i);
        r = add_row(FVI_OP_L2NORM, "l2norm");
        give_row(r, 0, P, dims(2, 13, widths[2 * i] + 1, 0, 0, 0));
        r->attr.f[0] = i == 1 ? 2.0f : 1e-6f; /* longer than some rows */
        r->out[0] = r->in[0];
        r->out_role = P;
        r = add_row(FVI_OP_MIX2, "mix2");
        give_row(r, 0, X, dims(2, 7, 40 * i * i + 3, 0, 0, 0));
        give_row(r, 1, X, r->in[0]);
        give_row(r, 2, P, dims(1, 2, 0, 0, 0, 0));
        r->out[0] = r->in[0];
    }
    for (int64_t V = 3; V < 700; V *= 13) {
        r = add_row(FVI_OP_VQ, "vq");
        give_row(r, 0, P, dims(2, 21, 5, 0, 0, 0));
        give_row(r, 1, P, dims(2, V, 5, 0, 0, 0));
        r->out[0] = r->in[0];
        r->out[1] = dims(1, 21, 0, 0, 0, 0);
        r->out[1].dtype = FV_I32;
        r->out_role = P;
    }
}

static row *loss_row(fvi_op op, const char *name, int role, fv_tensor a)
{
    row *r = add_row(op, name);
    give_row(r, 0, role, a);
    r->out[0] = dims(1, 1, 0, 0, 0, 0);
    r->out_role = P;
    return r;
}

static void difference_rows(void)
{
    for (int i = 0; i < 5; i++) {
        const fv_tensor x = i < 4 ? dims(3, 2 + i, 7, 5 * i + 1, 0, 0) : dims(2, 2, 9000, 0, 0, 0);
        row *r = loss_row(FVI_OP_LOSS_MSE, "loss_mse", X, x);
        give_row(r, 1, X, x);
        if (i & 1) give_row(r, 2, P, dims(1, x.dim[0], 0, 0, 0, 0));
        r->attr.i[0] = i > 2;
        r = loss_row(FVI_OP_LOSS_L1, "loss_l1", X, x);
        if (i != 2) give_row(r, 1, X, x);
        r = loss_row(FVI_OP_LOSS_MASKED, "loss_masked", X, x);
        give_row(r, 1, FIXED, x);
        r->attr.f[0] = 1.0f;
        r->out[1] = dims(2, x.dim[0], 4, 0, 0, 0);
        r = loss_row(FVI_OP_LOSS_VQ, "loss_vq", P, dims(2, 9 + i, 3 + i, 0, 0, 0));
        give_row(r, 1, P, dims(2, 6, 3 + i, 0, 0, 0));
        give_row(r, 2, IDS, dims(1, 9 + i, 0, 0, 0, 0));
        r->ids = 6;
        r->attr.f[0] = 0.25f;
    }
}

static void loss_rows(void)
{
    difference_rows();
    for (int i = 0; i < 4; i++) {
        const int64_t n = 3 + 100 * i, V = widths[2 * i + 1];
        row *r = loss_row(FVI_OP_LOSS_CE, "loss_ce", X, dims(2, n, V, 0, 0, 0));
        give_row(r, 1, IDS, dims(1, n, 0, 0, 0, 0));
        r->ids = (int)V + 1;
        r->lower = 1; /* some rows have no label */
        r->out[1] = dims(2, n, V, 0, 0, 0);
        r = loss_row(FVI_OP_LOSS_SOFT_CE, "loss_soft_ce", P, dims(2, n, V, 0, 0, 0));
        give_row(r, 1, FIXED, r->in[0]);
        if (i & 1) give_row(r, 2, FIXED, dims(1, n, 0, 0, 0, 0));
        r->out[1] = r->in[0];
    }
}

/* ---- Sequences, experts, features ------------------------------------------------------------ */

static void wkv_row(int64_t B, int64_t T, int64_t heads, int has_state)
{
    row *r = add_row(FVI_OP_WKV, "wkv");
    const int64_t pieces = (T + FVK_WKV - 1) / FVK_WKV, C = heads * FVK_WKV;
    for (int k = 0; k < 3; k++) give_row(r, k, X, dims(3, B, T, C, 0, 0));
    for (int k = 3; k < 6; k++) give_row(r, k, P, dims(1, C, 0, 0, 0, 0));
    if (has_state) give_row(r, 6, FIXED, dims(4, B, heads, FVK_WKV, FVK_WKV, 0));
    r->out[0] = r->in[0];
    r->out[1] = dims(4, B, heads, FVK_WKV, FVK_WKV, 0);
    r->out[2] = dims(2, B * heads, T * FVK_WKV + pieces * FVK_WKV * FVK_WKV, 0, 0, 0);
    r = add_row(FVI_OP_WKV_HEAD, "wkv_head");
    for (int k = 0; k < 4; k++) give_row(r, k, X, dims(3, B, T, C, 0, 0));
    for (int k = 4; k < 7; k++) give_row(r, k, P, dims(1, C, 0, 0, 0, 0));
    r->attr.f[0] = 1e-2f;
    r->out[0] = r->in[0];
}

static void expert_row(int64_t R, int64_t E)
{
    row *r = add_row(FVI_OP_ROUTE, "route");
    give_row(r, 0, P, dims(2, R, E, 0, 0, 0));
    r->out[0] = r->in[0];
    r->out_role = P;
    r = loss_row(FVI_OP_BALANCE, "balance", P, dims(2, R, E, 0, 0, 0));
    for (int k = 1; k < 4; k++) give_row(r, k, P, r->in[0]);
    r->positive = 4 | 8;
    r->attr.f[0] = 0.5f;
    r->attr.f[1] = 0.25f;
    r->out[1] = dims(2, 2, E, 0, 0, 0);
}

static void feature_row(int64_t B, int64_t H, int64_t W, int64_t C)
{
    row *r = loss_row(FVI_OP_LOSS_LPIPS, "loss_lpips", P, dims(4, B, H, W, C, 0));
    give_row(r, 1, FIXED, r->in[0]);
    give_row(r, 2, FIXED, dims(1, C, 0, 0, 0, 0));
    r = loss_row(FVI_OP_LOSS_DISTS, "loss_dists", P, dims(4, B, H, W, C, 0));
    give_row(r, 1, FIXED, r->in[0]);
    give_row(r, 2, FIXED, dims(1, C, 0, 0, 0, 0));
    give_row(r, 3, FIXED, dims(1, C, 0, 0, 0, 0));
}

/* up 0: experts without a hidden layer */
static void moe_row(int64_t R, int64_t E, int64_t K, int64_t N, int64_t I, int up)
{
    row *r = add_row(FVI_OP_MOE, "moe");
    give_row(r, 0, X, dims(2, R, K, 0, 0, 0));
    give_row(r, 1, P, dims(2, R, E, 0, 0, 0));
    give_row(r, 2, P, dims(2, E * N, I, 0, 0, 0));
    if (up) give_row(r, 3, P, dims(2, E * I, K, 0, 0, 0));
    r->sparse = 2;
    r->attr.i[0] = (int32_t)E;
    r->out[0] = dims(2, R, N, 0, 0, 0);
}

static void rate_row(int64_t N, int64_t V, int64_t D)
{
    row *r = loss_row(FVI_OP_SOFT_RATE, "soft_rate", P, dims(2, N, D, 0, 0, 0));
    give_row(r, 1, P, dims(2, V, D, 0, 0, 0));
    give_row(r, 2, P, dims(2, N, V, 0, 0, 0));
    give_row(r, 3, FIXED, dims(1, 1, 0, 0, 0, 0));
    r->positive = 8;
}

/* As many labels as twice the nodes: one range for labels and paths. */
static void tree_row(int64_t n, int64_t D, int64_t V, int64_t K)
{
    row *r = loss_row(FVI_OP_LOSS_TREE, "loss_tree", X, dims(2, n, D, 0, 0, 0));
    give_row(r, 1, P, dims(2, V, D, 0, 0, 0));
    give_row(r, 2, P, dims(1, V, 0, 0, 0, 0));
    give_row(r, 3, IDS, dims(1, n, 0, 0, 0, 0));
    give_row(r, 4, IDS, dims(2, 2 * V, K, 0, 0, 0));
    r->ids = (int)(2 * V);
    r->out[1] = dims(2, n, K, 0, 0, 0);
}

static void sequence_rows(void)
{
    tree_row(1, 3, 2, 1);
    tree_row(11, 40, 6, 3);
    tree_row(70, 9, 30, 24);
    wkv_row(1, 1, 1, 0);
    wkv_row(2, 16, 1, 1);
    wkv_row(2, 37, 3, 0);
    wkv_row(1, 50, 2, 1);
    expert_row(1, 3);
    expert_row(7, 4);
    expert_row(700, 64);
    moe_row(1, 3, 4, 2, 3, 1);
    moe_row(9, 4, 8, 5, 12, 1);
    moe_row(70, 5, 33, 20, 7, 1); /* two experts at a time */
    moe_row(13, 4, 6, 9, 6, 0);
    moe_row(300, 3, 16, 8, 16, 0);
    feature_row(1, 1, 1, 3);
    feature_row(2, 5, 7, 33);
    feature_row(3, 9, 4, 64);
    rate_row(1, 3, 1);
    rate_row(9, 40, 5);
    rate_row(20, 600, 8);
}

static void place_row(int kind, int64_t B, int64_t side, int64_t C, int group, int flags)
{
    row *r = loss_row(FVI_OP_LOSS_PLACE, "loss_place", X, dims(4, B, side, side, C, 0));
    give_row(r, 1, FIXED, r->in[0]);
    if (flags & 64) give_row(r, 2, FIXED, dims(1, 1, 0, 0, 0, 0));
    r->attr = (fvi_attr){ { group, flags & 32 ? (int32_t)C - 1 : (int32_t)C, kind | (flags & 28),
                            flags & 64 ? FV_PLACE_GIVEN : flags & 128 ? FV_PLACE_CONSTANT : 0 },
                          { 1e-3f, 0.3f } };
    r->out[1] = dims(1, FV_PLACE_PARTS, 0, 0, 0, 0);
    r->out[2] = dims(2, 2, B * side * side * C, 0, 0, 0);
}

static void frequency_rows(void)
{
    static const int64_t sides[4] = { 1, 6, 16, 45 };
    place_row(FV_PLACE_GROUPS, 2, 5, 3, 4, 0);
    place_row(FV_PLACE_GROUPS, 2, 9, 3, 16, FVI_PLACE_GUARDED);
    place_row(FV_PLACE_GROUPS, 1, 68, 2, 16, FVI_PLACE_GUARDED | 64); /* more keys than shared */
    place_row(FV_PLACE_GROUPS, 1, 95, 1, 5000, 0);
    place_row(FV_PLACE_GROUPS, 3, 6, 2, 500, FVI_PLACE_SQUARED | 128);
    place_row(FV_PLACE_GROUPS, 1, 1, 1, 2, FVI_PLACE_EPS_OF_SUM);
    place_row(FV_LIFT_CHANNEL, 2, 7, 4, 16, FVI_PLACE_GUARDED | 32);
    place_row(FV_LIFT_SAMPLE, 2, 17, 4, 16, FVI_PLACE_SQUARED | FVI_PLACE_EPS_OF_SUM | 32);
    place_row(FV_LIFT_SAMPLE, 1, 30, 3, 16, FVI_PLACE_GUARDED);
    for (int i = 0; i < 4; i++) {
        row *r = loss_row(FVI_OP_LOSS_SPECTRUM, "loss_spectrum", P,
                          dims(4, 2, sides[i] * (i < 3 ? 2 : 1), sides[i], 3 - i % 3, 0));
        give_row(r, 1, FIXED, r->in[0]);
        r->attr.i[0] = (int32_t)sides[i];
        r->out[1] = r->in[0];
        r = add_row(FVI_OP_LOW_PASS, "low_pass");
        give_row(r, 0, P, dims(4, 1 + i % 2, 1 + 7 * i, 33 - 8 * i, 1 + i, 0));
        r->attr.i[0] = 1 + i;
        r->attr.f[0] = 0.1f + 0.1f * (float)i;
        r->out[0] = r->in[0];
        r->out_role = P;
    }
}

static void ssim_row(int64_t B, int64_t H, int64_t W, int scales)
{
    row *r = loss_row(FVI_OP_LOSS_SSIM, "loss_ssim", P, dims(4, B, H, W, 3, 0));
    give_row(r, 1, FIXED, r->in[0]);
    r->attr.i[0] = scales;
    r->out[1] = r->in[0];
}

static void texture_row(int64_t B, int64_t H, int64_t W, int scales)
{
    row *r = loss_row(FVI_OP_LOSS_TEXTURE, "loss_texture", P, dims(4, B, H, W, 3, 0));
    give_row(r, 1, FIXED, r->in[0]);
    r->attr.i[0] = scales;
    r->attr.i[1] = 1;
    r->out[1] = r->in[0];
}

static void add_rows(void)
{
    texture_row(1, 18, 18, 2);
    texture_row(2, 41, 58, 2);
    texture_row(2, 75, 37, 3);
    texture_row(1, 144, 151, 5);
    ssim_row(1, 11, 11, 1);
    ssim_row(2, 23, 30, 1);
    ssim_row(3, 60, 67, 3);
    ssim_row(2, 44, 50, 2);
    ssim_row(1, 176, 179, 5);
    frequency_rows();
    sequence_rows();
    picture_rows();
    line_rows();
    loss_rows();
    map_rows();
    norm_rows();
    pointwise_rows();
    layout_rows();
    attention_rows();
    linear_rows();
}

/* ---- Running one row ------------------------------------------------------------------------- */

/* dt: bit 0 inputs bf16, bit 1 output bf16 */
typedef struct run_spec { fv_ctx *ctx; const row *r; int dt; bool add; } run_spec;

/* Everything that was read and written, as floats: 0..7 inputs, outputs, gradients of inputs. */
typedef struct run_data {
    fv_status status;
    double forward_s;
    float *in[FVI_MAX_IN], *dy, *out[FVI_MAX_OUT], *gin[FVI_MAX_IN], *old[FVI_MAX_IN];
} run_data;

static int64_t elements(const fv_tensor *t) { return t->ndim ? fv_tensor_count(t) : 0; }
static size_t bytes_of(const fv_tensor *t)
{
    return (size_t)elements(t) * fv_dtype_size(t->dtype);
}

static float noise(uint64_t seed, uint64_t i)
{
    uint64_t z = seed * 0x9e3779b97f4a7c15u + i * 0xd1b54a32d192ed03u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (float)(int32_t)((z ^ (z >> 31)) >> 32) / 2147483648.0f;
}

static float *floats_of(const fv_tensor *t, const void *host)
{
    const int64_t n = elements(t);
    float *f = calloc((size_t)n + 1, sizeof *f);
    if (!f) exit(1);
    for (int64_t i = 0; i < n; i++)
        f[i] = t->dtype == FV_BF16  ? fv_bf16_to_f32(((const uint16_t *)host)[i])
               : t->dtype == FV_I32 ? (float)((const int32_t *)host)[i]
                                    : ((const float *)host)[i];
    return f;
}

/* Device memory with random values (seed 0: zeros); what they are, as floats. */
enum { ANY, ABOVE, SPARSE };
static fv_status fill(fv_ctx *ctx, const row *r, fv_tensor *t, int kind, uint64_t seed,
                      float **as_floats)
{
    const int64_t n = elements(t);
    void *host = calloc((size_t)n + 1, 4);
    if (!host) exit(1);
    for (int64_t i = 0; i < n && seed; i++) {
        const float f = noise(seed, (uint64_t)i);
        const float v = kind == ABOVE ? 1 + 0.5f * f : kind == SPARSE && f < 0 ? 0 : f;
        if (t->dtype == FV_I32)
            ((int32_t *)host)[i] = r->ids ? (int32_t)((f + 1) * 0.5f * (float)r->ids) % r->ids - r->lower
                                          : (int32_t)(i / 5 * 5 + 5 < n ? i / 5 * 5 + 5 : n);
        else if (t->dtype == FV_BF16)
            ((uint16_t *)host)[i] = fv_f32_to_bf16(v);
        else
            ((float *)host)[i] = v;
    }
    t->data = fv_dev_alloc(ctx, bytes_of(t), 1);
    const fv_status s =
        t->data ? fv_dev_copy(ctx, t->data, host, bytes_of(t), FV_COPY_TO_DEVICE) : FV_ERR_OOM;
    if (as_floats) *as_floats = floats_of(t, host);
    free(host);
    return s;
}

static fv_status fetch(fv_ctx *ctx, const fv_tensor *t, float **as_floats)
{
    void *host = calloc((size_t)elements(t) + 1, 4);
    if (!host) exit(1);
    const fv_status s = fv_dev_copy(ctx, host, t->data, bytes_of(t), FV_COPY_TO_HOST);
    *as_floats = floats_of(t, host);
    free(host);
    return s;
}

static fv_status pass(const run_spec *s, fvi_exec *e, const fvi_op_def *def, bool back)
{
    const size_t bytes = def->scratch_bytes ? def->scratch_bytes(e, back) : 0;
    e->scratch = fv_dev_alloc(s->ctx, bytes + 64, 1);
    const fv_status st = back ? def->backward(e) : def->forward(e);
    const fv_status synced = s->ctx->backend->sync(s->ctx);
    fv_dev_free(s->ctx, e->scratch);
    return st == FV_OK ? synced : st;
}

static fv_dtype type_of(const run_spec *s, int role, int bit)
{
    if (role == IDS) return FV_I32;
    return role == X && s->dt & bit ? FV_BF16 : FV_F32;
}

static fv_status gradients(const run_spec *s, fvi_exec *e, const fvi_op_def *def, run_data *d)
{
    e->gout[0] = e->out[0];
    FV_TRY(fill(s->ctx, s->r, &e->gout[0], 0, 77, &d->dy));
    for (int k = 0; k < FVI_MAX_IN; k++)
        if (s->r->role[k] == X || s->r->role[k] == P)
            FV_TRY(fill(s->ctx, s->r, &e->gin[k], 0, s->add ? 100 + (uint64_t)k : 0, &d->old[k]));
    FV_TRY(pass(s, e, def, true));
    for (int k = 0; k < FVI_MAX_IN; k++)
        if (e->gin[k].data) FV_TRY(fetch(s->ctx, &e->gin[k], &d->gin[k]));
    return FV_OK;
}

/* On the CPU weights are parameters only: what is wanted is computed here. */
static bool has_parameters(const row *r)
{
    return r->op == FVI_OP_LINEAR || r->op == FVI_OP_CONV2D || r->op == FVI_OP_MOE;
}
/* Gradients of parameters always are added. */
static bool is_parameter(const row *r, int k)
{
    return has_parameters(r) && k > (r->op == FVI_OP_MOE);
}

/* Before prepare: which gradients will be wanted. */
static void announce(const run_spec *s, fvi_exec *e)
{
    for (int k = 0; k < FVI_MAX_IN && !s->r->no_gradient; k++) {
        if (s->r->role[k] != X && s->r->role[k] != P) continue;
        e->gin[k] = e->in[k];
        e->gin[k].data = NULL;
        e->gin_add[k] = s->add || is_parameter(s->r, k);
    }
}

static fv_status run_exec(const run_spec *s, fvi_exec *e, const fvi_op_def *def, run_data *d)
{
    const row *r = s->r;
    for (int k = 0; k < FVI_MAX_IN; k++) {
        e->pid[k] = -1;
        if (!r->role[k]) continue;
        e->in[k] = r->in[k];
        e->in[k].dtype = type_of(s, r->role[k], 1);
        const int kind = r->positive >> k & 1 ? ABOVE : r->sparse >> k & 1 ? SPARSE : ANY;
        FV_TRY(fill(s->ctx, r, &e->in[k], kind, (uint64_t)k + 1, &d->in[k]));
    }
    for (int k = 0; k < FVI_MAX_OUT; k++) {
        if (!r->out[k].ndim) continue;
        e->out[k] = r->out[k];
        if (k == 0) e->out[k].dtype = type_of(s, r->out_role, r->same_type ? 1 : 2);
        FV_TRY(fill(s->ctx, r, &e->out[k], 0, 0, NULL));
    }
    announce(s, e);
    if (def->prepare) FV_TRY(def->prepare(e));
    const double t = fv_now();
    FV_TRY(pass(s, e, def, false));
    d->forward_s = fv_now() - t;
    for (int k = 0; k < FVI_MAX_OUT; k++)
        if (e->out[k].data) FV_TRY(fetch(s->ctx, &e->out[k], &d->out[k]));
    return r->no_gradient ? FV_OK : gradients(s, e, def, d);
}

static void run_row(const run_spec *s, run_data *d)
{
    const fvi_op_def *def = s->ctx->backend->op(s->r->op);
    fvi_exec e;
    memset(&e, 0, sizeof e);
    memset(d, 0, sizeof *d);
    e.ctx = s->ctx;
    e.attr = &s->r->attr;
    e.training = true;
    d->status = def ? run_exec(s, &e, def, d) : FV_ERR_UNSUPPORTED;
    if (def && def->release) def->release(s->ctx, e.state);
    fv_dev_free(s->ctx, e.gout[0].data);
    for (int k = 0; k < FVI_MAX_OUT; k++) fv_dev_free(s->ctx, e.out[k].data);
    for (int k = 0; k < FVI_MAX_IN; k++) {
        fv_dev_free(s->ctx, e.in[k].data);
        fv_dev_free(s->ctx, e.gin[k].data);
    }
}

static void free_run(run_data *d)
{
    free(d->dy);
    for (int k = 0; k < FVI_MAX_OUT; k++) free(d->out[k]);
    for (int k = 0; k < FVI_MAX_IN; k++) {
        free(d->in[k]);
        free(d->gin[k]);
        free(d->old[k]);
    }
}

/* ---- LINEAR by its definition ---------------------------------------------------------------- */

static float *zeros(int64_t n)
{
    float *f = calloc((size_t)n + 1, sizeof *f);
    if (!f) exit(1);
    return f;
}

static double activated(int act, double x)
{
    if (act == FV_ACT_SILU) return x / (1 + exp(-x));
    if (act == FV_ACT_RELU) return x > 0 ? x : 0;
    if (act == FV_ACT_GELU_TANH)
        return 0.5 * x * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
    return x;
}

/* From the inputs and the gradient of a run what it should have written. */
static void linear_wanted(const row *r, const run_data *d, run_data *w)
{
    const int64_t M = r->in[0].dim[0], K = r->in[0].dim[1], N = r->in[1].dim[0];
    const float *x = d->in[0], *v = d->in[1], *b = d->in[2];
    memset(w, 0, sizeof *w);
    w->out[0] = zeros(M * N);
    for (int k = 0; k < 3 && d->gin[0]; k++)
        if (d->gin[k]) w->gin[k] = zeros(elements(&r->in[k]));
    for (int64_t i = 0; i < M * N; i++) {
        double sum = b ? b[i % N] : 0;
        for (int64_t k = 0; k < K; k++) sum += (double)x[i / N * K + k] * v[i % N * K + k];
        w->out[0][i] = (float)activated(r->attr.i[0], sum);
    }
    for (int64_t i = 0; i < M * K && w->gin[0]; i++) {
        double sum = d->old[0][i];
        for (int64_t n = 0; n < N; n++) sum += (double)d->dy[i / K * N + n] * v[n * K + i % K];
        w->gin[0][i] = (float)sum;
    }
    for (int64_t i = 0; i < N * K && w->gin[1]; i++) {
        double sum = d->old[1][i];
        for (int64_t m = 0; m < M; m++) sum += (double)d->dy[m * N + i / K] * x[m * K + i % K];
        w->gin[1][i] = (float)sum;
    }
    for (int64_t n = 0; n < N && w->gin[2]; n++) {
        double sum = d->old[2][n];
        for (int64_t m = 0; m < M; m++) sum += d->dy[m * N + n];
        w->gin[2][n] = (float)sum;
    }
}

/* ---- CONV2D by its definition ---------------------------------------------------------------- */

static double *doubles(int64_t n, const float *from)
{
    double *d = calloc((size_t)n + 1, sizeof *d);
    if (!d) exit(1);
    for (int64_t i = 0; i < n && from; i++) d[i] = from[i];
    return d;
}

static float *rounded(double *d, int64_t n)
{
    float *f = zeros(n);
    for (int64_t i = 0; i < n; i++) f[i] = (float)d[i];
    free(d);
    return f;
}

/* Each product of a pixel and a weight goes to y, and with dy to dx and dw. */
static void conv_wanted(const row *r, const run_data *d, run_data *w)
{
    const int64_t *x = r->in[0].dim, *k = r->in[1].dim, *y = r->out[0].dim;
    const int64_t taps = k[2] * k[3], places = y[0] * y[1] * y[2];
    double *out = doubles(places * k[0], NULL), *dx = NULL, *dw = NULL, *db = NULL;
    if (d->gin[0]) dx = doubles(elements(&r->in[0]), d->old[0]);
    if (d->gin[1]) dw = doubles(elements(&r->in[1]), d->old[1]);
    if (d->gin[2]) db = doubles(k[0], d->old[2]);
    memset(w, 0, sizeof *w);
    for (int64_t i = 0; i < places * k[0] * taps; i++) {
        const int64_t tap = i % taps, o = i / taps % k[0], p = i / (taps * k[0]);
        const int64_t sy = p / y[2] % y[1] * r->attr.i[0] + tap / k[3] - r->attr.i[1];
        const int64_t sx = p % y[2] * r->attr.i[0] + tap % k[3] - r->attr.i[2];
        const double dy = d->dy ? d->dy[p * k[0] + o] : 0;
        if (tap == 0 && d->in[2]) out[p * k[0] + o] += d->in[2][o];
        if (tap == 0 && db) db[o] += dy;
        if (sy < 0 || sy >= x[1] || sx < 0 || sx >= x[2]) continue;
        for (int64_t c = 0; c < x[3]; c++) {
            const int64_t at = ((p / (y[1] * y[2]) * x[1] + sy) * x[2] + sx) * x[3] + c;
            const int64_t of = (o * k[1] + c) * taps + tap;
            out[p * k[0] + o] += (double)d->in[0][at] * d->in[1][of];
            if (dx) dx[at] += dy * d->in[1][of];
            if (dw) dw[of] += dy * d->in[0][at];
        }
    }
    for (int64_t i = 0; i < places * k[0]; i++) out[i] = activated(r->attr.i[5], out[i]);
    w->out[0] = rounded(out, places * k[0]);
    if (dx) w->gin[0] = rounded(dx, elements(&r->in[0]));
    if (dw) w->gin[1] = rounded(dw, elements(&r->in[1]));
    if (db) w->gin[2] = rounded(db, k[0]);
}

/* ---- MOE by its definition ------------------------------------------------------------------- */

/* Rows of W [n, k], from row `first` on, times x; and transposed. */
static void times(double *y, const float *w, int64_t first, const double *x, int64_t n, int64_t k)
{
    for (int64_t i = 0; i < n; i++) {
        y[i] = 0;
        for (int64_t j = 0; j < k; j++) y[i] += w[(first + i) * k + j] * x[j];
    }
}
static void times_turned(double *y, const float *w, int64_t first, const double *x, int64_t n,
                         int64_t k)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < k; j++) y[j] += w[(first + i) * k + j] * x[i];
}

typedef struct moe_sizes { int64_t R, E, K, N, I; bool up; } moe_sizes;

/* Row r and expert x of what a MOE should have written; v: 5 vectors. */
static void moe_expert(const moe_sizes *z, const run_data *d, double *const to[5], int64_t r,
                       int64_t x, double *const v[5])
{
    const double gate = d->in[1][r * z->E + x];
    double *in = v[0], *u = v[1], *h = v[2], *dh = v[3], *dy = v[4], dgate = 0;
    if (gate == 0) return;
    for (int64_t i = 0; i < z->K; i++) in[i] = d->in[0][r * z->K + i];
    if (z->up) times(u, d->in[3], x * z->I, in, z->I, z->K);
    for (int64_t i = 0; i < z->I; i++) h[i] = !z->up ? in[i] : u[i] > 0 ? u[i] * u[i] : 0;
    times(dy, d->in[2], x * z->N, h, z->N, z->I);
    for (int64_t i = 0; i < z->N; i++) to[4][r * z->N + i] += gate * dy[i];
    if (!d->dy) return;
    for (int64_t i = 0; i < z->N; i++) dy[i] = d->dy[r * z->N + i];
    memset(dh, 0, (size_t)z->I * sizeof *dh);
    times_turned(dh, d->in[2], x * z->N, dy, z->N, z->I);
    for (int64_t i = 0; i < z->I; i++) dgate += dh[i] * h[i];
    to[1][r * z->E + x] += dgate;
    for (int64_t i = 0; i < z->N * z->I; i++)
        to[2][x * z->N * z->I + i] += gate * dy[i / z->I] * h[i % z->I];
    for (int64_t i = 0; i < z->I; i++) dh[i] *= gate * (z->up ? 2 * (u[i] > 0 ? u[i] : 0) : 1);
    if (!z->up) {
        for (int64_t i = 0; i < z->I; i++) to[0][r * z->K + i] += dh[i];
        return;
    }
    times_turned(to[0] + r * z->K, d->in[3], x * z->I, dh, z->I, z->K);
    for (int64_t i = 0; i < z->I * z->K; i++)
        to[3][x * z->I * z->K + i] += dh[i / z->K] * in[i % z->K];
}

static void moe_wanted(const row *r, const run_data *d, run_data *w)
{
    const moe_sizes z = { r->in[0].dim[0], r->attr.i[0], r->in[0].dim[1], r->out[0].dim[1],
                          r->in[2].dim[1], r->in[3].ndim > 0 };
    double *to[5] = { NULL }, *v[5];
    const int64_t most = z.K + z.N + z.I;
    memset(w, 0, sizeof *w);
    for (int k = 0; k < 4; k++)
        if (d->gin[k]) to[k] = doubles(elements(&r->in[k]), d->old[k]);
    to[4] = doubles(z.R * z.N, NULL);
    for (int k = 0; k < 5; k++) v[k] = doubles(most, NULL);
    for (int64_t i = 0; i < z.R * z.E; i++) moe_expert(&z, d, to, i / z.E, i % z.E, v);
    for (int k = 0; k < 5; k++) free(v[k]);
    for (int k = 0; k < 4; k++)
        if (to[k]) w->gin[k] = rounded(to[k], elements(&r->in[k]));
    w->out[0] = rounded(to[4], z.R * z.N);
}

/* ---- Comparing ------------------------------------------------------------------------------- */

static void row_text(const run_spec *s, char *text, size_t size)
{
    char shape[96];
    fv_shape_text(&s->r->in[0], shape, sizeof shape);
    snprintf(text, size, "%-15s %-20s attr %2d %2d %2d  %s%s", s->r->name, shape,
             (int)s->r->attr.i[0], (int)s->r->attr.i[1], (int)s->r->attr.i[2],
             s->dt == 0 ? "f32" : s->dt == 3 ? "bf16" : "mixed", s->add ? " add" : "");
}

/* Largest difference over the largest value (at least 0.1). */
static double gap(const float *a, const float *b, int64_t n)
{
    double worst = 0, scale = 0.1;
    for (int64_t i = 0; i < n; i++) {
        worst = test_worst(worst, fabs((double)a[i] - b[i]));
        if (fabs(b[i]) > scale) scale = fabs(b[i]);
    }
    return worst / scale;
}

static double worst_gap(const row *r, const run_data *got, const run_data *want)
{
    double worst = 0;
    for (int k = 0; k < FVI_MAX_OUT; k++) {
        const double g = want->out[k] ? gap(got->out[k], want->out[k], elements(&r->out[k])) : 0;
        worst = test_worst(worst, g);
    }
    for (int k = 0; k < FVI_MAX_IN; k++) {
        const double g = want->gin[k] ? gap(got->gin[k], want->gin[k], elements(&r->in[k])) : 0;
        worst = test_worst(worst, g);
    }
    return worst;
}

/* Convolutions in pieces of few rows, so that small maps have several. */
static void take_small_pieces(const fv_ctx *cuda)
{
    ((fvi_cuda *)(uintptr_t)fvi_cuda_of(cuda))->column_bytes = 8192;
}

/* One row on both contexts; the difference, or infinity when one of them failed. */
static double compare_row(const run_spec *s, fv_ctx *cpu, double *seconds)
{
    run_spec c = *s;
    run_data got, want;
    double worst = INFINITY;
    run_row(s, &got);
    if (seconds) *seconds = got.forward_s;
    if (got.status != FV_OK) {
        printf("# %s: %s\n", s->r->name, fv_ctx_error(s->ctx));
        free_run(&got);
        return worst;
    }
    c.ctx = cpu;
    if (s->r->op == FVI_OP_LINEAR) linear_wanted(s->r, &got, &want);
    else if (s->r->op == FVI_OP_CONV2D) conv_wanted(s->r, &got, &want);
    else if (s->r->op == FVI_OP_MOE) moe_wanted(s->r, &got, &want);
    else run_row(&c, &want);
    if (want.status == FV_OK) worst = worst_gap(s->r, &got, &want);
    else printf("# %s on the CPU: %s\n", s->r->name, fv_ctx_error(cpu));
    free_run(&got);
    free_run(&want);
    return worst;
}

/* Attention and copies keep the type of their input; products round to bf16 from bf16 only. */
static bool has_types(const row *r, int dt)
{
    if (r->op == FVI_OP_LINEAR || r->op == FVI_OP_MOE) return dt != 2;
    return !r->same_type || dt == 0 || dt == 3;
}

static double bound_of(const run_spec *s) { return s->dt ? 1.6e-2 : 2e-5; }

#endif
