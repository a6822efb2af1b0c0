/* check_codec.c - the ops of the learned image codec against double references, see op_harness.h:
 * Haar resampling, mixed rows, cosine attention's rows, attention to a prefix, gates by channel,
 * the soft rate, and the losses between pictures. */
#include "op_harness.h"

#define N_SIZES 6
static const int sizes[N_SIZES] = { 1, 3, 8, 16, 33, 70 };

/* ---- References ------------------------------------------------------------------------------ */

static void ref_haar(const tc *c, double *const in[], double *out)
{
    const fv_tensor *small = c->attr.i[0] ? &c->in[0] : &c->out[0];
    const int64_t B = small->dim[0], h = small->dim[1], w = small->dim[2], C = small->dim[3] / 4;
    for (int64_t r = 0; r < B * h; r++)
        for (int64_t x = 0; x < w; x++)
            for (int band = 0; band < 4; band++)
                for (int k = 0; k < 4; k++)
                    for (int64_t ch = 0; ch < C; ch++) {
                        const int64_t large = ((2 * r + k / 2) * 2 * w + 2 * x + k % 2) * C + ch;
                        const int64_t at = ((r * w + x) * 4 + band) * C + ch;
                        const double sign = (band & 1 & k) ^ (band >> 1 & k >> 1) ? -0.5 : 0.5;
                        if (c->attr.i[0]) out[large] += sign * in[0][at];
                        else out[at] += sign * in[0][large];
                    }
}

static void ref_mix(const tc *c, double *const in[], double *out)
{
    const int64_t T = c->in[0].dim[1], C = last(&c->in[0]);
    const int64_t R = c->in[1].dim[0], n = c->in[1].dim[1];
    for (int64_t b = 0; b < c->in[0].dim[0]; b++)
        for (int64_t r = 0; r < R; r++)
            for (int64_t k = 0; k < n; k++)
                for (int64_t i = 0; i < C && in[1][r * n + k] >= 0; i++)
                    out[(b * R + r) * C + i] +=
                        in[2][r * n + k] * in[0][(b * T + (int64_t)in[1][r * n + k]) * C + i];
}

static void ref_unit_qk(const tc *c, double *const in[], double *out)
{
    const int64_t h = c->in[0].dim[3], hd = c->in[0].dim[4];
    for (int64_t r = 0; r < count(&c->in[0]) / hd; r++) {
        const int64_t part = r / h % 3;
        double length = 0, f = 1;
        for (int64_t i = 0; i < hd; i++) length += in[0][r * hd + i] * in[0][r * hd + i];
        length = fmax(sqrt(length), c->attr.f[0]);
        if (part == 0) f = exp(fmin(in[1][r % h], c->attr.f[1]));
        for (int64_t i = 0; i < hd; i++)
            out[r * hd + i] = part == 2 ? in[0][r * hd + i] : f * in[0][r * hd + i] / length;
    }
}

static void ref_prefix(const tc *c, double *const in[], double *out)
{
    const int64_t B = c->in[0].dim[0], T = c->in[0].dim[1], h = c->in[0].dim[3];
    const int64_t hd = c->in[0].dim[4];
    double *p = malloc((size_t)T * sizeof *p);
    if (!p) exit(1);
    for (int64_t i = 0; i < B * T * h; i++) {
        const int64_t b = i / (T * h), t = i / h % T, head = i % h, n = (int64_t)in[1][t];
        const double *q = in[0] + ((b * T + t) * 3 * h + head) * hd;
        double sum = 0;
        for (int64_t k = 0; k < n; k++) {
            const double *key = in[0] + ((b * T + k) * 3 + 1) * h * hd + head * hd;
            double dot = 0;
            for (int64_t d = 0; d < hd; d++) dot += q[d] * key[d];
            sum += p[k] = exp(dot * c->attr.f[0]);
        }
        for (int64_t k = 0; k < n; k++)
            for (int64_t d = 0; d < hd; d++)
                out[i * hd + d] +=
                    p[k] / sum * in[0][((b * T + k) * 3 + 2) * h * hd + head * hd + d];
    }
    free(p);
}

static void ref_gate(const tc *c, double *const in[], double *out)
{
    for (int64_t i = 0; i < count(&c->in[0]); i++)
        out[i] = in[0][i] + in[2][i % last(&c->in[0])] * in[1][i];
}

static void ref_rate(const tc *c, double *const in[], double *out)
{
    const int64_t N = c->in[2].dim[0], V = c->in[2].dim[1], D = last(&c->in[1]);
    for (int64_t n = 0; n < N; n++) {
        double sp = 0, sq = 0, dot = 0;
        for (int64_t v = 0; v < V; v++) {
            double s = 0;
            for (int64_t d = 0; d < D; d++) s += in[0][n * D + d] * in[1][v * D + d];
            sp += exp(2 * s / in[3][0]);
            sq += exp(in[2][n * V + v]);
            dot += exp(2 * s / in[3][0]) * in[2][n * V + v];
        }
        out[0] += (log(sq) - dot / sp) / log(2) / (double)N;
    }
}

/* Means of 2x2 of a plane. */
static void half_plane(double *y, const double *x, int w, int h)
{
    for (int r = 0; r < h / 2; r++)
        for (int i = 0; i < w / 2; i++)
            y[r * (w / 2) + i] = (x[2 * r * w + 2 * i] + x[2 * r * w + 2 * i + 1] +
                                  x[(2 * r + 1) * w + 2 * i] + x[(2 * r + 1) * w + 2 * i + 1]) / 4;
}

static double cs_mean(const double *a, const double *b, int w, int h, bool with_l)
{
    double g[11], norm = 0, sum = 0;
    for (int i = 0; i < 11; i++) norm += g[i] = exp(-(i - 5) * (i - 5) / 4.5);
    for (int y = 0; y + 11 <= h; y++)
        for (int x = 0; x + 11 <= w; x++) {
            double ua = 0, ub = 0, aa = 0, bb = 0, ab = 0;
            for (int k = 0; k < 121; k++) {
                const double f = g[k / 11] * g[k % 11] / (norm * norm);
                const double va = a[(y + k / 11) * w + x + k % 11];
                const double vb = b[(y + k / 11) * w + x + k % 11];
                ua += f * va;
                ub += f * vb;
                aa += f * va * va;
                bb += f * vb * vb;
                ab += f * va * vb;
            }
            const double cs = (2 * (ab - ua * ub) + 9e-4) / (aa - ua * ua + bb - ub * ub + 9e-4);
            sum += cs * (with_l ? (2 * ua * ub + 1e-4) / (ua * ua + ub * ub + 1e-4) : 1);
        }
    return sum / ((w - 10) * (h - 10));
}

static void ref_ssim(const tc *c, double *const in[], double *out)
{
    static const double weight[5] = { 0.0448, 0.2856, 0.3001, 0.2363, 0.1333 };
    const int B = (int)c->in[0].dim[0], n = c->attr.i[0];
    for (int b = 0; b < B; b++) {
        int w = (int)c->in[0].dim[2], h = (int)c->in[0].dim[1];
        double *p[2], total = 0, product = 1;
        for (int k = 0; k < 2; k++) {
            p[k] = malloc((size_t)(w * h) * sizeof *p[k]);
            if (!p[k]) exit(1);
            for (int i = 0; i < w * h; i++) {
                const double *v = in[k] + (b * w * h + i) * 3;
                p[k][i] = (0.299 * v[0] + 0.587 * v[1] + 0.114 * v[2] + 1) / 2;
            }
        }
        for (int j = 0; j < n; j++) total += weight[j];
        for (int j = 0; j < n; j++) {
            if (j) {
                half_plane(p[0], p[0], w, h);
                half_plane(p[1], p[1], w, h);
                w /= 2;
                h /= 2;
            }
            product *= pow(fmax(cs_mean(p[0], p[1], w, h, j == n - 1), 1e-4), weight[j] / total);
        }
        out[0] += (1 - product) / B;
        free(p[0]);
        free(p[1]);
    }
}

/* Response of the steerable pair at an angle at (x, y) of a plane: both filters as functions of the
 * turned coordinates, written without the separable basis. */
typedef struct pair_filter { double even[81], odd[81]; } pair_filter;

static double g2(double x, double y) { return 0.9213 * (2 * x * x - 1) * exp(-x * x - y * y); }
static double h2(double x, double y)
{
    return 0.9780 * (x * x * x - 2.254 * x) * exp(-x * x - y * y);
}

static void make_pair(pair_filter *f, double angle)
{
    double mean = 0, gauss = 0, size[2] = { 0, 0 };
    for (int i = 0; i < 9; i++) {
        mean += g2(0.67 * (i - 4), 0);
        gauss += exp(-0.67 * 0.67 * (i - 4) * (i - 4));
    }
    for (int k = 0; k < 81; k++) {
        const double x = 0.67 * (k % 9 - 4), y = 0.67 * (k / 9 - 4), e = exp(-x * x - y * y);
        const double u = x * cos(angle) - y * sin(angle), v = x * sin(angle) + y * cos(angle);
        f->even[k] = g2(u, v) - mean / gauss * e; /* both diagonal terms lose it: c^2 + s^2 = 1 */
        f->odd[k] = h2(u, v);
        size[0] += fabs(g2(x, y) - mean / gauss * e);
        size[1] += fabs(h2(x, y));
    }
    for (int k = 0; k < 81; k++) {
        f->even[k] /= size[0];
        f->odd[k] /= size[1];
    }
}

static double at_filter(const double *f, const double *x, int w)
{
    double sum = 0;
    for (int k = 0; k < 81; k++) sum += f[k] * x[k / 9 * w + k % 9];
    return sum;
}

/* Moments over blocks of 2^a, rows and columns that do not fill one left out. */
static double band_distance(const double *f, const double *t, int w, int h)
{
    static const double weight[5] = { 0.4, 0.2, 0.2, 0.1, 0.1 };
    double loss = 0;
    for (int a = 0; a < 5 && w >> a && h >> a; a++) {
        const int s = 1 << a;
        double sum = 0;
        for (int y = 0; y < h >> a; y++)
            for (int x = 0; x < w >> a; x++) {
                double m[2] = { 0, 0 }, q[2] = { 0, 0 };
                for (int k = 0; k < s * s; k++) {
                    const int at = (y * s + k / s) * w + x * s + k % s;
                    m[0] += f[at] / (s * s);
                    q[0] += f[at] * f[at] / (s * s);
                    m[1] += t[at] / (s * s);
                    q[1] += t[at] * t[at] / (s * s);
                }
                double d = 0;
                if (a)
                    d = sqrt(fmax(q[0] - m[0] * m[0], 0) + 1e-4) -
                        sqrt(fmax(q[1] - m[1] * m[1], 0) + 1e-4);
                sum += (m[0] - m[1]) * (m[0] - m[1]) + d * d;
            }
        loss += weight[a] * sum / ((w >> a) * (h >> a));
    }
    return loss;
}

static double scale_distance(const double *p, const double *q, int w, int h)
{
    const int ow = w - 8, oh = h - 8, n = ow * oh;
    double *band = malloc(4 * (size_t)n * sizeof *band), loss = 0;
    if (!band) exit(1);
    for (int t = 0; t < 4; t++) {
        pair_filter f;
        make_pair(&f, t * acos(-1) / 4);
        for (int i = 0; i < n; i++) {
            const double *a = p + i / ow * w + i % ow, *b = q + i / ow * w + i % ow;
            const double e = at_filter(f.even, b, w), o = at_filter(f.odd, b, w);
            const double mask = 1 / sqrt(0.01 + e * e + o * o);
            band[i] = mask * at_filter(f.even, a, w);
            band[n + i] = mask * at_filter(f.odd, a, w);
            band[2 * n + i] = mask * e;
            band[3 * n + i] = mask * o;
        }
        loss += band_distance(band, band + 2 * n, ow, oh);
        loss += band_distance(band + n, band + 3 * n, ow, oh);
    }
    free(band);
    return loss;
}

static void ref_texture(const tc *c, double *const in[], double *out)
{
    static const double mix[3][3] = { { 0.299, 0.587, 0.114 }, { 0.5, -0.5, 0 },
                                      { -0.25, -0.25, 0.5 } };
    const int W = (int)c->in[0].dim[2], H = (int)c->in[0].dim[1], S = c->attr.i[0];
    const double all = 8 * S + 1 + 0.6 * (8 * (S - 1) + 1);
    double *p[2];
    for (int k = 0; k < 2; k++) p[k] = malloc((size_t)(W * H) * sizeof *p[k]);
    if (!p[0] || !p[1]) exit(1);
    for (int b = 0; b < c->in[0].dim[0]; b++)
        for (int m = 0; m < 3; m++) {
            int w = W, h = H;
            double loss = 0;
            for (int k = 0; k < 2; k++)
                for (int i = 0; i < W * H; i++) {
                    const double *v = in[k] + (b * W * H + i) * 3;
                    p[k][i] = mix[m][0] * v[0] + mix[m][1] * v[1] + mix[m][2] * v[2];
                }
            for (int j = 0; j < S; j++) {
                if (!(m && j == 0)) loss += scale_distance(p[0], p[1], w, h);
                for (int k = 0; k < 2; k++) half_plane(p[k], p[k], w, h);
                w /= 2;
                h /= 2;
            }
            loss += band_distance(p[0], p[1], w, h);
            out[0] += (m ? 0.3 : 1) * loss / all / (double)c->in[0].dim[0];
        }
    free(p[0]);
    free(p[1]);
}

/* ---- Cases ----------------------------------------------------------------------------------- */

static fv_tensor shape5(int64_t a, int64_t b, int64_t h, int64_t hd)
{
    fv_tensor t = { NULL, FV_F32, 5, { a, b, 3, h, hd } };
    return t;
}

static void add_map_cases(void)
{
    for (int s = 0; s < N_SIZES; s++)
        for (int inverse = 0; inverse < 2; inverse++) {
            tc *c = add_case(FVI_OP_HAAR, "haar", ref_haar);
            const fv_tensor large = shape(4, 1 + s % 2, 2 + 2 * (s % 3), 4, sizes[s]);
            const fv_tensor small = shape(4, large.dim[0], large.dim[1] / 2, 2, 4 * sizes[s]);
            add_input(c, 0, X, inverse ? small : large);
            c->attr.i[0] = inverse;
            c->out[0] = inverse ? large : small;
            c->same_type = true;
        }
    for (int s = 0; s < N_SIZES; s++) {
        tc *c = add_case(FVI_OP_MIX_ROWS, "mix_rows", ref_mix);
        add_input(c, 0, P, shape(3, 1 + s % 3, 9, sizes[s], 0));
        add_input(c, 1, IDS, shape(2, 13, 1 + s, 0, 0));
        c->id_low = -1;
        c->id_high = 9;
        add_input(c, 2, CONST, c->in[1]);
        c->out[0] = shape(3, c->in[0].dim[0], 13, sizes[s], 0);
        c->out_role = P;
        c = add_case(FVI_OP_GATE_RES, "gate by channel", ref_gate);
        add_input(c, 0, X, shape(4, 2, 3, 5, sizes[s]));
        add_input(c, 1, X, c->in[0]);
        add_input(c, 2, P, shape(1, sizes[s], 0, 0, 0));
        c->out[0] = c->in[0];
        c->same_type = true;
    }
}

static void add_attention_cases(void)
{
    static const int32_t seen[2][9] = { { 4, 4, 4, 4, 4, 5, 8, 8, 9 },
                                        { 1, 1, 3, 3, 9, 9, 9, 9, 9 } };
    static int32_t wide[300];
    for (int i = 0; i < 300; i++) wide[i] = i < 16 ? 16 : i / 60 * 60 + 60;
    for (int s = 0; s < 6; s++) {
        const int T = s == 5 ? 300 : 9, hd = 4 + 4 * (s % 3);
        tc *c = add_case(FVI_OP_SDPA, "sdpa_prefix", ref_prefix);
        add_input(c, 0, X, shape5(1 + s % 2, T, s == 5 ? 1 : 1 + s % 3, hd));
        add_input(c, 1, IDS, shape(2, 1, T, 0, 0));
        c->table = s == 5 ? wide : seen[s % 2];
        c->attr.f[0] = 0.7f;
        c->out[0] = shape(3, c->in[0].dim[0], T, c->in[0].dim[3] * hd, 0);
        c->out[1] = shape(3, c->in[0].dim[0], c->in[0].dim[3], T, 0);
        c->same_type = true;
        c = add_case(FVI_OP_UNIT_QK, "unit_qk", ref_unit_qk);
        add_input(c, 0, X, shape5(1 + s % 2, 3, 1 + s, hd + 16 * (s == 4)));
        add_input(c, 1, P, shape(1, 1 + s, 0, 0, 0));
        c->attr.f[0] = s == 3 ? 2.0f : 1e-12f; /* some rows shorter than eps */
        c->attr.f[1] = s == 2 ? 0.1f : 4.6f;   /* some scales held */
        c->out[0] = c->in[0];
        c->same_type = true;
    }
}

static void add_rate_cases(void)
{
    for (int s = 0; s < N_SIZES; s++)
        for (int k = 0; k < 2; k++) {
            tc *c = add_case(FVI_OP_SOFT_RATE, "soft_rate", ref_rate);
            add_input(c, 0, P, shape(3, 1, 23, k ? 3 : 16, 0));
            add_input(c, 1, P, shape(2, sizes[s] + 1, k ? 3 : 16, 0, 0));
            add_input(c, 2, P, shape(2, 23, sizes[s] + 1, 0, 0));
            add_input(c, 3, CONST, shape(1, 1, 0, 0, 0));
            c->positive = 1 << 3;
            c->out[0] = shape(1, 1, 0, 0, 0);
            c->out_role = P;
        }
}

static void picture_case(fvi_op op, int B, int H, int W, int scales)
{
    const bool is_texture = op == FVI_OP_LOSS_TEXTURE;
    tc *c = add_case(op, is_texture ? "texture" : "ms_ssim", is_texture ? ref_texture : ref_ssim);
    add_input(c, 0, P, shape(4, B, H, W, 3));
    add_input(c, 1, CONST, c->in[0]);
    c->attr.i[0] = scales;
    c->attr.i[1] = is_texture;
    c->out[0] = shape(1, 1, 0, 0, 0);
    c->out[1] = c->in[0];
    c->out_role = P;
}

static void add_picture_cases(void)
{
    picture_case(FVI_OP_LOSS_SSIM, 2, 11, 11, 1);
    picture_case(FVI_OP_LOSS_SSIM, 1, 25, 30, 2);
    picture_case(FVI_OP_LOSS_SSIM, 1, 45, 50, 3);
    picture_case(FVI_OP_LOSS_TEXTURE, 2, 18, 19, 2);
    picture_case(FVI_OP_LOSS_TEXTURE, 1, 41, 26, 2);
    picture_case(FVI_OP_LOSS_TEXTURE, 1, 40, 37, 3);
}

/* A batch of 16 windows as rdvq-xs trains on. */
static void add_bench_cases(void)
{
    tc *c = add_case(FVI_OP_SOFT_RATE, "soft_rate", ref_rate);
    add_input(c, 0, P, shape(2, 5376, 16, 0, 0));
    add_input(c, 1, P, shape(2, 1024, 16, 0, 0));
    add_input(c, 2, P, shape(2, 5376, 1024, 0, 0));
    add_input(c, 3, CONST, shape(1, 1, 0, 0, 0));
    c->positive = 1 << 3;
    c->out[0] = shape(1, 1, 0, 0, 0);
    c->out_role = P;
    picture_case(FVI_OP_LOSS_SSIM, 16, 128, 128, 4);
    picture_case(FVI_OP_LOSS_TEXTURE, 16, 128, 128, 4);
    c = add_case(FVI_OP_HAAR, "haar", ref_haar);
    add_input(c, 0, X, shape(4, 16, 64, 64, 24));
    c->out[0] = shape(4, 16, 32, 32, 96);
    c->same_type = true;
}

int main(int argc, char **argv)
{
    const bool is_bench = argc > 1 && strcmp(argv[1], "--bench") == 0;
    make_contexts(1);
    if (is_bench) {
        add_bench_cases();
        return bench();
    }
    add_map_cases();
    add_attention_cases();
    add_rate_cases();
    add_picture_cases();
    RUN_OP_CHECKS();
    return op_checks_end();
}
