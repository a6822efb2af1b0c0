/* check_cross.c - cases of attention to another sequence; how they are checked: op_harness.h. */
#include "op_harness.h"

static void ref_cross(const tc *c, double *const in[], double *out)
{
    const int64_t *q = c->in[0].dim, S = c->in[1].dim[1], T = q[1], h = q[2], hd = q[3];
    double *p = malloc((size_t)S * sizeof *p);
    if (!p) exit(1);
    for (int64_t r = 0; r < q[0] * T * h; r++) {
        const int64_t b = r / h / T, i = r % h;
        const double *kv = in[1] + b * S * 2 * h * hd + i * hd, *x = in[0] + r * hd;
        double top = -INFINITY, sum = 0;
        for (int64_t j = 0; j < S; j++) {
            p[j] = in[2] ? in[2][j] : 0;
            for (int64_t d = 0; d < hd; d++)
                p[j] += x[d] * kv[2 * j * h * hd + d] / sqrt((double)hd);
            top = fmax(top, p[j]);
        }
        for (int64_t j = 0; j < S; j++) sum += p[j] = exp(p[j] - top);
        for (int64_t d = 0; d < hd; d++) {
            out[r * hd + d] = 0;
            for (int64_t j = 0; j < S; j++)
                out[r * hd + d] += p[j] / sum * kv[(2 * j + 1) * h * hd + d];
        }
    }
    free(p);
}

static void cross_case(int64_t B, int64_t T, int64_t S, int64_t h, int64_t hd, bool has_bias)
{
    tc *c = add_case(FVI_OP_CROSS, "cross", ref_cross);
    const fv_tensor kv = {NULL, FV_F32, 5, {B, S, 2, h, hd}};
    add_input(c, 0, X, shape(4, B, T, h, hd));
    add_input(c, 1, X, kv);
    if (has_bias) add_input(c, 2, CONST, shape(1, S, 0, 0, 0));
    c->out[0] = shape(3, B, T, h * hd, 0);
    c->out[1] = shape(3, B, h, T, 0);
    c->attr = (fvi_attr){{0, 1}, {0}};
    c->range = 3;
    c->same_type = true;
}

/* Queries of 2 heads and keys, with the bias an input that wants a gradient or none. */
static fv_status record_with_bias(fv_ctx *ctx, fv_mode mode, bool wants_gradient)
{
    const int64_t q[4] = {1, 3, 2, 8}, kv[5] = {1, 5, 2, 2, 8}, n = 5;
    fv_tape *t = NULL;
    FV_TRY(fv_tape_create(ctx, &t, NULL, mode, FV_F32));
    const fv_t bias = wants_gradient ? fv_input_grad(t, "bias", FV_F32, 1, &n)
                                     : fv_input(t, "bias", FV_F32, 1, &n);
    const fv_t x = fv_input_grad(t, "q", FV_F32, 4, q), k = fv_input_grad(t, "kv", FV_F32, 5, kv);
    (void)fv_cross_attention(t, x, k, bias, 0);
    const fv_status s = fv_tape_status(t);
    fv_tape_destroy(&t);
    return s;
}

static void a_bias_has_no_gradient(void)
{
    fv_ctx *ctx = NULL;
    OK(NULL, fv_ctx_create(&ctx, NULL));
    const fv_status with = record_with_bias(ctx, FV_TRAIN, true);
    const bool is_named = strstr(fv_ctx_error(ctx), "bias has no gradient") != NULL;
    const fv_status without = record_with_bias(ctx, FV_TRAIN, false),
                    unused = record_with_bias(ctx, FV_INFER, true);
    fv_ctx_destroy(&ctx);
    CHECK(with == FV_ERR_UNSUPPORTED && is_named);
    CHECK(without == FV_OK && unused == FV_OK);
}

int main(int argc, char **argv)
{
    make_contexts(1);
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        cross_case(1, 4096, 31, 12, 128, true);
        return bench();
    }
    for (int k = 0; k < 4; k++) { /* one query, one key, tiles and blocks with rests */
        cross_case(1 + k % 2, 1, 1 + 6 * k, 1 + k, 4 * (1 + k), k % 2);
        cross_case(2, 5 + 16 * k, 1 + k, 2, 8, k != 1);
        cross_case(1, 3, 255 + k, 1, 12, k > 1);
    }
    cross_case(1, 70, 31, 2, 128, true);
    cross_case(1, 2, 513, 1, 32, true);
    RUN(a_bias_has_no_gradient);
    RUN_OP_CHECKS();
    return op_checks_end();
}
