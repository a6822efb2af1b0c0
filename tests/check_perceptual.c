/* check_perceptual.c - ops of the perceptual distances against double references, see op_harness.h:
 * pooling, and the losses between feature maps. */
#include "op_harness.h"

static void ref_pool(const tc *c, double *const in[], double *out)
{
    const int64_t *x = c->in[0].dim, *y = c->out[0].dim, C = x[3];
    const bool is_l2 = c->attr.i[0] == FVI_POOL_L2;
    for (int64_t i = 0; i < count(&c->out[0]); i++) {
        const int64_t ch = i % C, ox = i / C % y[2], oy = i / C / y[2] % y[1];
        const int64_t b = i / C / y[2] / y[1];
        double most = -1e30, sum = 1e-12;
        for (int k = 0; k < c->attr.i[1] * c->attr.i[1]; k++) {
            const int dy = k / c->attr.i[1], dx = k % c->attr.i[1];
            const int64_t row = oy * c->attr.i[2] + dy - is_l2;
            const int64_t col = ox * c->attr.i[2] + dx - is_l2;
            if (row < 0 || row >= x[1] || col < 0 || col >= x[2]) continue;
            const double v = in[0][((b * x[1] + row) * x[2] + col) * C + ch];
            most = v > most ? v : most;
            sum += v * v * (dy == 1 ? 0.5 : 0.25) * (dx == 1 ? 0.5 : 0.25);
        }
        out[i] = is_l2 ? sqrt(sum) : most;
    }
}

static void ref_lpips(const tc *c, double *const in[], double *out)
{
    const int64_t C = last(&c->in[0]), rows = count(&c->in[0]) / C;
    for (int64_t r = 0; r < rows; r++) {
        double a = 0, b = 0;
        for (int64_t i = 0; i < C; i++) a += pow(in[0][r * C + i], 2);
        for (int64_t i = 0; i < C; i++) b += pow(in[1][r * C + i], 2);
        for (int64_t i = 0; i < C; i++)
            out[0] += in[2][i] * pow(in[0][r * C + i] / sqrt(a) - in[1][r * C + i] / sqrt(b), 2) /
                      (double)rows;
    }
}

static void ref_dists(const tc *c, double *const in[], double *out)
{
    const int64_t C = last(&c->in[0]), B = c->in[0].dim[0], T = count(&c->in[0]) / C / B;
    for (int64_t i = 0; i < B * C; i++) {
        double ma = 0, mb = 0, va = 0, vb = 0, cov = 0;
        for (int64_t t = 0; t < T; t++) {
            const int64_t at = (i / C * T + t) * C + i % C;
            ma += in[0][at] / (double)T;
            mb += in[1][at] / (double)T;
        }
        for (int64_t t = 0; t < T; t++) {
            const int64_t at = (i / C * T + t) * C + i % C;
            va += pow(in[0][at] - ma, 2) / (double)T;
            vb += pow(in[1][at] - mb, 2) / (double)T;
            cov += (in[0][at] - ma) * (in[1][at] - mb) / (double)T;
        }
        out[0] += (in[2][i % C] * (2 * ma * mb + 1e-6) / (ma * ma + mb * mb + 1e-6) +
                   in[3][i % C] * (2 * cov + 1e-6) / (va + vb + 1e-6)) / (double)B;
    }
}

static void pool_case(fvi_pool kind, int size, int B, int H, int W, int C)
{
    const int pad = kind == FVI_POOL_L2 ? 2 : 0;
    tc *c = add_case(FVI_OP_POOL, "pool", ref_pool);
    add_input(c, 0, P, shape(4, B, H, W, C));
    c->attr.i[0] = kind;
    c->attr.i[1] = size;
    c->attr.i[2] = 2;
    c->out[0] = shape(4, B, (H + pad - size) / 2 + 1, (W + pad - size) / 2 + 1, C);
    c->out_role = P;
}

static void loss_case(bool is_dists, int B, int H, int W, int C)
{
    tc *c = add_case(is_dists ? FVI_OP_LOSS_DISTS : FVI_OP_LOSS_LPIPS,
                     is_dists ? "loss_dists" : "loss_lpips", is_dists ? ref_dists : ref_lpips);
    add_input(c, 0, P, shape(4, B, H, W, C));
    for (int k = 1; k < 3 + is_dists; k++) add_input(c, k, CONST, k == 1 ? c->in[0] :
                                                                  shape(1, C, 0, 0, 0));
    c->out[0] = shape(1, 1, 0, 0, 0);
    c->out_role = P;
}

/* What VGG-16 has behind its first two convolutions, of a picture of 256 x 256. */
static void add_bench_cases(void)
{
    pool_case(FVI_POOL_MAX, 2, 1, 256, 256, 64);
    pool_case(FVI_POOL_L2, 3, 1, 256, 256, 64);
    loss_case(false, 1, 256, 256, 64);
    loss_case(true, 1, 256, 256, 64);
}

int main(int argc, char **argv)
{
    static const int side[][4] = { { 1, 2, 3, 1 }, { 2, 5, 7, 3 }, { 3, 8, 6, 20 },
                                   { 1, 19, 18, 5 } };
    make_contexts(1);
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        add_bench_cases();
        return bench();
    }
    for (size_t i = 0; i < FV_ARRAY_LEN(side); i++) {
        const int *s = side[i];
        pool_case(FVI_POOL_MAX, 2, s[0], s[1], s[2], s[3]);
        pool_case(FVI_POOL_MAX, 3, s[0], s[1] + 1, s[2], s[3]);
        pool_case(FVI_POOL_L2, 3, s[0], s[1] - 1, s[2], s[3]);
        loss_case(false, s[0], s[1], s[2], s[3] + 1); /* one: no direction */
        loss_case(true, s[0], s[1], s[2], s[3]);
    }
    RUN_OP_CHECKS();
    return op_checks_end();
}
