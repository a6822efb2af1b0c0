/* check_windows.c - cases of the ops of window attention; how they are checked: op_harness.h. */
#include "op_harness.h"

static int64_t clamp(int64_t i, int64_t n) { return i < 0 ? 0 : i < n ? i : n - 1; }

/* Element of the windows -> element of the map; *is_inside: not beyond the edges. */
static int64_t source(const tc *c, const fv_tensor *map, int64_t i, bool *is_inside)
{
    const int64_t s = c->attr.i[0], shift = c->attr.i[1], H = c->attr.i[3], W = c->attr.i[4];
    const int64_t C = last(map), columns = (W + shift + s - 1) / s, rows = (H + shift + s - 1) / s;
    const int64_t ch = i % C, q = i / C % s, r = i / C / s % s, w = i / C / s / s;
    const int64_t y = w / columns % rows * s + r - shift, x = w % columns * s + q - shift;
    *is_inside = y >= 0 && y < H && x >= 0 && x < W;
    return ((w / columns / rows * H + clamp(y, H)) * W + clamp(x, W)) * C + ch;
}

static void ref_windows(const tc *c, double *const in[], double *out)
{
    const bool inverse = c->attr.i[2] != 0;
    const fv_tensor *map = inverse ? &c->out[0] : &c->in[0];
    const fv_tensor *windows = inverse ? &c->in[0] : &c->out[0];
    for (int64_t i = 0; i < count(windows); i++) {
        bool is_inside;
        const int64_t k = source(c, map, i, &is_inside);
        if (!inverse) out[i] = in[0][k];
        else if (is_inside) out[k] = in[0][i];
    }
}

static void windows_case(int64_t B, int64_t H, int64_t W, int64_t C, int side, int shift)
{
    const int64_t n = (H + shift + side - 1) / side * ((W + shift + side - 1) / side);
    for (int inverse = 0; inverse < 2; inverse++) {
        tc *c = add_case(FVI_OP_WINDOWS, "windows", ref_windows);
        const fv_tensor map = shape(4, B, H, W, C);
        const fv_tensor windows = shape(3, B * n, (int64_t)side * side, C, 0);
        add_input(c, 0, X, inverse ? windows : map);
        c->out[0] = inverse ? map : windows;
        c->attr = (fvi_attr){ { side, shift, inverse, (int32_t)H, (int32_t)W }, { 0 } };
        c->same_type = true;
    }
}

/* One norm over all heads of q, and of k; then the rotation of op_rope.c. */
static void ref_wide(const tc *c, double *const in[], double *out)
{
    const fv_tensor *x = &c->in[0];
    const int64_t T = x->dim[1], h = x->dim[3], hd = x->dim[4], n = h * hd;
    for (int64_t r = 0; r < count(x) / n; r++) {
        const int64_t part = r % 3, t = r / 3 % T;
        double sum = 0;
        for (int64_t i = 0; i < n; i++) sum += in[0][r * n + i] * in[0][r * n + i];
        const double rstd = 1 / sqrt(sum / (double)n + (double)c->attr.f[0]);
        for (int64_t i = 0; i < n && part == 2; i++) out[r * n + i] = in[0][r * n + i];
        for (int64_t i = 0; i < n / 2 && part < 2; i++) {
            const int64_t head = i / (hd / 2), j = i % (hd / 2), q = hd / 4;
            const int64_t a = head * hd + (j < q ? j : j + q), b = a + q;
            const double ya = in[0][r * n + a] * rstd * in[1 + part][a];
            const double yb = in[0][r * n + b] * rstd * in[1 + part][b];
            const double cosine = in[3] ? in[3][t * hd + j] : 1;
            const double sine = in[3] ? in[3][t * hd + hd / 2 + j] : 0;
            out[r * n + a] = ya * cosine - yb * sine;
            out[r * n + b] = ya * sine + yb * cosine;
        }
    }
}

static void wide_case(int64_t B, int64_t T, int64_t h, int64_t hd, bool has_table)
{
    tc *c = add_case(FVI_OP_QK_NORM_ROPE, "norm over all heads", ref_wide);
    const fv_tensor qkv = { NULL, FV_F32, 5, { B, T, 3, h, hd } };
    add_input(c, 0, X, qkv);
    add_input(c, 1, P, shape(1, h * hd, 0, 0, 0));
    add_input(c, 2, P, shape(1, h * hd, 0, 0, 0));
    if (has_table) add_input(c, 3, CONST, shape(3, T, 2, hd / 2, 0));
    c->out[0] = qkv;
    c->out[1] = shape(4, B, T, 2, h);
    c->attr = (fvi_attr){ { 0, 1 }, { 1e-3f } };
    c->same_type = true;
}

static void add_bench_cases(void)
{
    windows_case(1, 200, 200, 192, 8, 4);
    wide_case(625, 64, 2, 32, true);
}

int main(int argc, char **argv)
{
    const bool is_bench = argc > 1 && strcmp(argv[1], "--bench") == 0;
    make_contexts(1);
    if (is_bench) {
        add_bench_cases();
        return bench();
    }
    for (int k = 0; k < 4; k++) { /* one pixel, one window, edges of all kinds, many windows */
        windows_case(1 + k % 2, 1, 1 + k, 3, 4, k);
        windows_case(2, 4, 4, 1 + 5 * k, 4, k);
        windows_case(1, 5 + k, 9, 8, 4, k);
        windows_case(2, 17, 3 + k, 19, 8, 4);
        wide_case(1 + k % 2, 3, 1 + k, 4 * (1 + k), k % 2);
        wide_case(1, 2, 2 + k, 32, true);
    }
    RUN_OP_CHECKS();
    return op_checks_end();
}
