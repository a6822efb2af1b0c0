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
    RUN_OP_CHECKS();
    return op_checks_end();
}
