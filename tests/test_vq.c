/* test_vq.c - the vector quantiser, the losses and restarts of its training, tokenizer files, and
 * `engine = vq`: the same run after any interruption. */

#include "../ar/vq.h"
#include "alloc_fail.h"
#include "fovea_ar.h"
#include "patch_gan.h"
#include "tar_writer.h"
#include "test.h"
#include "training.h"
#include "vq_train.h"

static fv_ctx *ctx;

/* ---- Quantiser ------------------------------------------------------------------------------- */

#define V 1003
#define D 8
#define N 260

/* Index of rows z among codes, as one plan. */
static fv_status search(fv_ctx *c, float *z, float *codes, int32_t *index)
{
    const int64_t zd[2] = { N, D }, cd[2] = { V, D };
    fv_tape *t;
    fv_plan *p = NULL;
    fv_t i;
    FV_TRY(fv_tape_create(c, &t, NULL, FV_INFER, FV_F32));
    const fv_t x = fv_input(t, "z", FV_F32, 2, zd), e = fv_input(t, "e", FV_F32, 2, cd);
    fv_output(t, "q", fv_vq_nearest(t, x, e, &i));
    fv_output(t, "i", i);
    fv_status s = fv_tape_status(t);
    if (s == FV_OK) s = fv_plan_build(c, &p, t, NULL);
    fv_tape_destroy(&t);
    if (s == FV_OK) s = fv_plan_bind(p, "z", z);
    if (s == FV_OK) s = fv_plan_bind(p, "e", codes);
    if (s == FV_OK) s = fv_plan_forward(p);
    if (s == FV_OK) memcpy(index, fv_plan_value(p, "i").data, N * sizeof *index);
    fv_plan_destroy(&p);
    return s;
}

/* Rows that lie as close to two codes as floats can be, and codes that stand in the table twice. */
static void every_variant_and_thread_count_finds_the_same_code(void)
{
    static float z[N * D], codes[V * D];
    static const uint32_t off[] = { ~0u, ~(uint32_t)FV_CPU_AVX2, 0 };
    int32_t want[N], got[N];
    test_fill(codes, V * D, 1);
    test_fill(z, N * D, 2);
    for (int i = 0; i < V / 2; i++) /* the second half repeats the first in another order */
        memcpy(codes + (V - 1 - i) * D, codes + i * D, D * sizeof *codes);
    for (int i = 0; i < N; i += 2)
        for (int d = 0; d < D; d++)
            z[i * D + d] = 0.5f * (codes[i * D + d] + codes[(i + 1) * D + d]);
    for (int k = 0; k < 6; k++) {
        fv_ctx *c = make_context(off[k % 3], 1 + k / 2);
        OK(c, search(c, z, codes, k ? got : want));
        fv_ctx_destroy(&c);
        if (k) CHECK(memcmp(want, got, sizeof got) == 0);
    }
    for (int i = 0; i < N; i++) CHECK(want[i] <= V / 2); /* of two equal codes the first */
}

/* Against taking the largest again and again, with ties, holes and lengths of all tails. */
static void slow_largest(uint16_t *code, float *value, int count, const float *product,
                         const float *factor, int n)
{
    bool *used = calloc((size_t)n, sizeof *used);
    if (!used) exit(1);
    for (int i = 0; i < count; i++) {
        int best = -1;
        for (int k = 0; k < n; k++) {
            const float v = product[k] * factor[k];
            if (used[k] || !(v > -INFINITY)) continue;
            if (best < 0 || v > product[best] * factor[best]) best = k;
        }
        code[i] = best < 0 ? 0 : (uint16_t)best;
        value[i] = best < 0 ? -INFINITY : product[best] * factor[best];
        if (best >= 0) used[best] = true;
    }
    free(used);
}

static void every_variant_finds_the_same_largest(void)
{
    enum { MOST = 1030 };
    static const uint32_t off[] = { ~0u, ~(uint32_t)FV_CPU_AVX2, 0 };
    static const int sizes[] = { 1, 2, 15, 16, 17, 31, 47, 96, 512, 1024, MOST };
    float product[MOST], factor[MOST], want[FVI_VQ_LARGEST], got[FVI_VQ_LARGEST];
    uint16_t codes[FVI_VQ_LARGEST], found[FVI_VQ_LARGEST];
    for (size_t c = 0; c < 3; c++) {
        fv_ctx *one = make_context(off[c], 1);
        for (int i = 0; i < 11 * 16 * 4 && !test_bad; i++) {
            const int n = sizes[i % 11], count = 1 + i / 11 % 16, kind = i / (11 * 16);
            test_fill(product, n, (uint64_t)i + 1);
            test_fill(factor, n, (uint64_t)i + 5000);
            for (int k = 0; k < n; k++) {
                factor[k] = 1.5f + factor[k];
                if (kind == 1) product[k] = roundf(4 * product[k]), factor[k] = 1; /* ties */
                if (kind == 2 && k % 3) product[k] = k % 2 ? NAN : -INFINITY;
                if (kind == 3) product[k] = (float)k; /* rising: each is taken at first */
            }
            slow_largest(codes, want, count, product, factor, n);
            fvi_vq_largest(one, found, got, count, product, factor, n);
            for (int k = 0; k < count && !test_bad; k++)
                if (found[k] != codes[k] || got[k] != want[k]) {
                    printf("# variant %zu, kind %d, %d of %d, place %d\n", c, kind, count, n, k);
                    test_bad = 1;
                }
        }
        fv_ctx_destroy(&one);
        CHECK(!test_bad);
    }
}

static void rows_that_are_not_numbers_get_a_code(void)
{
    static float z[N * D], codes[V * D];
    int32_t got[N];
    test_fill(codes, V * D, 3);
    for (int i = 0; i < N * D; i++) z[i] = i % 3 ? NAN : -INFINITY;
    for (int k = 0; k < 2; k++) {
        fv_ctx *c = make_context(k ? 0 : ~0u, 1);
        OK(c, search(c, z, codes, got));
        fv_ctx_destroy(&c);
        for (int i = 0; i < N; i++) CHECK(got[i] == 0);
    }
}

/* A small quantiser in training: z [6, 4] input, 5 codes as a parameter. */
#define ROWS 6
#define CODES 5
#define WIDTH 4
typedef struct small {
    fv_params *params;
    fv_plan *plan;
    float z[ROWS * WIDTH], goal[ROWS * WIDTH];
} small;

/* loss = mse(q, goal) or the quantiser's own. */
static fv_status make_small(small *m, bool own_loss)
{
    const int64_t cd[2] = { CODES, WIDTH }, zd[2] = { ROWS, WIDTH };
    fv_tape *t;
    fv_t index;
    FV_TRY(fv_params_create(ctx, &m->params));
    const fv_pid e = fv_params_add(m->params, "e", 2, cd, 0);
    FV_TRY(fv_params_alloc(m->params));
    test_fill(fv_params_tensor(m->params, e).data, CODES * WIDTH, 4);
    test_fill(m->z, ROWS * WIDTH, 5);
    test_fill(m->goal, ROWS * WIDTH, 6);
    FV_TRY(fv_tape_create(ctx, &t, m->params, FV_TRAIN, FV_F32));
    const fv_t z = fv_input_grad(t, "z", FV_F32, 2, zd), goal = fv_input(t, "goal", FV_F32, 2, zd);
    const fv_t q = fv_vq_nearest(t, z, fv_param(t, e), &index);
    fv_output(t, "q", q);
    fv_output(t, "i", index);
    fv_output(t, "loss", own_loss ? fv_loss_vq(t, z, fv_param(t, e), index, 0.25f)
                                  : fv_loss_mse(t, q, goal, 0));
    fv_status s = fv_tape_status(t);
    if (s == FV_OK) s = fv_plan_build(ctx, &m->plan, t, NULL);
    fv_tape_destroy(&t);
    if (s == FV_OK) s = fv_plan_bind(m->plan, "z", m->z);
    if (s == FV_OK) s = fv_plan_bind(m->plan, "goal", m->goal);
    if (s == FV_OK) s = fv_plan_forward(m->plan);
    return s == FV_OK ? fv_plan_backward(m->plan, "loss", 1.0f) : s;
}

static void free_small(small *m)
{
    fv_plan_destroy(&m->plan);
    fv_params_destroy(&m->params);
}

static void the_gradient_of_a_code_goes_to_its_latent(void)
{
    small m = { 0 };
    OK(ctx, make_small(&m, false));
    const float *q = fv_plan_value(m.plan, "q").data, *g = fv_plan_grad(m.plan, "z").data;
    const float *e = fv_params_grad(m.params, 0).data;
    for (int i = 0; i < ROWS * WIDTH; i++)
        NEAR(g[i], 2.0 * (q[i] - m.goal[i]) / (ROWS * WIDTH), 1e-7);
    for (int i = 0; i < CODES * WIDTH; i++) CHECK(e[i] == 0.0f);
    free_small(&m);
}

/* mean |e_i - z|^2 with z held (weight 1) and with e held (weight beta), differenced one by one. */
static void codes_and_latents_pull_with_their_own_weights(void)
{
    small m = { 0 };
    OK(ctx, make_small(&m, true));
    const float *e = fv_params_tensor(m.params, 0).data, *ge = fv_params_grad(m.params, 0).data;
    const float *gz = fv_plan_grad(m.plan, "z").data;
    const int32_t *index = fv_plan_value(m.plan, "i").data;
    double want_e[CODES * WIDTH] = { 0 }, total = 0;
    for (int i = 0; i < ROWS * WIDTH; i++) {
        const int at = index[i / WIDTH] * WIDTH + i % WIDTH;
        const double gap = (double)e[at] - m.z[i], h = 1e-4, n = ROWS * WIDTH;
        const double slope = ((gap + h) * (gap + h) - (gap - h) * (gap - h)) / (2 * h) / n;
        want_e[at] += slope;
        total += gap * gap / n;
        NEAR(gz[i], -0.25 * slope, 1e-6);
    }
    for (int i = 0; i < CODES * WIDTH; i++) NEAR(ge[i], want_e[i], 1e-6);
    NEAR(*(const float *)fv_plan_value(m.plan, "loss").data, 1.25 * total, 1e-6);
    free_small(&m);
}

static void shapes_that_do_not_fit_are_refused(void)
{
    const int64_t z[2] = { 3, 4 }, e[2] = { 5, 3 }, n = 4;
    fv_tape *t;
    fv_t i;
    OK(ctx, fv_tape_create(ctx, &t, NULL, FV_INFER, FV_F32));
    const fv_t zt = fv_input(t, "z", FV_F32, 2, z), et = fv_input(t, "e", FV_F32, 2, e);
    CHECK(fv_vq_nearest(t, zt, et, &i) == 0 && i == 0 && fv_tape_status(t) == FV_ERR_SHAPE);
    fv_tape_destroy(&t);
    OK(ctx, fv_tape_create(ctx, &t, NULL, FV_INFER, FV_F32));
    CHECK(fv_loss_vq(t, fv_input(t, "z", FV_F32, 2, z), fv_input(t, "e", FV_F32, 2, z),
                     fv_input(t, "i", FV_I32, 1, &n), 1) == 0);
    CHECK(fv_tape_status(t) == FV_ERR_SHAPE);
    fv_tape_destroy(&t);
}

/* ---- Losses between pictures ----------------------------------------------------------------- */

#define SIDE 9
#define CH 2
#define VALUES (SIDE * SIDE * CH)

static double tap(const double *d, int h, int w, int y, int x, int c)
{
    y = y < 0 ? 0 : y >= h ? h - 1 : y;
    x = x < 0 ? 0 : x >= w ? w - 1 : x;
    return d[(y * w + x) * CH + c];
}

static double blur(const double *d, int h, int w, int y, int x, int c)
{
    static const double t[5] = { 1, 4, 6, 4, 1 };
    double sum = 0;
    for (int i = 0; i < 25; i++) sum += t[i / 5] * t[i % 5] * tap(d, h, w, y + i / 5 - 2,
                                                                  x + i % 5 - 2, c) / 256;
    return sum;
}

static double slope(const double *d, int y, int x, int c, bool down)
{
    static const double t[3] = { 1, 2, 1 };
    double sum = 0;
    for (int k = -1; k <= 1; k++)
        sum += down ? t[k + 1] * (tap(d, SIDE, SIDE, y + 1, x + k, c) -
                                  tap(d, SIDE, SIDE, y - 1, x + k, c))
                    : t[k + 1] * (tap(d, SIDE, SIDE, y + k, x + 1, c) -
                                  tap(d, SIDE, SIDE, y + k, x - 1, c));
    return sum / 8;
}

static double image_loss(const double *d0, const fvi_image_loss *w)
{
    double g[VALUES], next[VALUES], sum = 0;
    int side = SIDE;
    memcpy(g, d0, sizeof g);
    for (int i = 0; i < VALUES; i++) {
        const int c = i % CH, x = i / CH % SIDE, y = i / CH / SIDE;
        sum += (w->l1 * fabs(g[i]) + w->sobel * fabs(slope(g, y, x, c, false)) +
                w->sobel * fabs(slope(g, y, x, c, true))) / VALUES;
    }
    for (int k = 0; k < 3; k++) {
        const int n = side * side * CH, half = (side + 1) / 2;
        for (int i = 0; i < n; i++) {
            const int c = i % CH, x = i / CH % side, y = i / CH / side;
            const double low = blur(g, side, side, y, x, c);
            sum += w->pyramid * fabs(k < 2 ? g[i] - low : g[i]) / n;
            if (x % 2 == 0 && y % 2 == 0) next[(y / 2 * half + x / 2) * CH + c] = low;
        }
        memcpy(g, next, sizeof g);
        side = half;
    }
    return sum;
}

static fv_status run_image_loss(const fvi_image_loss *w, float *a, float *b, fv_plan **p)
{
    const int64_t dim[4] = { 1, SIDE, SIDE, CH };
    fv_tape *t;
    FV_TRY(fv_tape_create(ctx, &t, NULL, FV_TRAIN, FV_F32));
    const fv_t x = fv_input_grad(t, "a", FV_F32, 4, dim), y = fv_input(t, "b", FV_F32, 4, dim);
    fv_output(t, "loss", fvi_loss_image(t, x, y, w));
    fv_status s = fv_tape_status(t);
    if (s == FV_OK) s = fv_plan_build(ctx, p, t, NULL);
    fv_tape_destroy(&t);
    if (s == FV_OK) s = fv_plan_bind(*p, "a", a);
    if (s == FV_OK) s = fv_plan_bind(*p, "b", b);
    if (s == FV_OK) s = fv_plan_forward(*p);
    return s == FV_OK ? fv_plan_backward(*p, "loss", 1.0f) : s;
}

static void image_loss_matches_its_definition(void)
{
    static const fvi_image_loss w[] = { { 1, 0.5f, 0.1f }, { 1, 0, 0 }, { 0, 1, 0 }, { 0, 0, 1 } };
    float a[VALUES], b[VALUES];
    double d[VALUES];
    test_fill(a, VALUES, 7);
    test_fill(b, VALUES, 8);
    for (int i = 0; i < VALUES; i++) d[i] = (double)a[i] - b[i];
    for (size_t k = 0; k < FV_ARRAY_LEN(w); k++) {
        fv_plan *p = NULL;
        OK(ctx, run_image_loss(&w[k], a, b, &p));
        NEAR(*(const float *)fv_plan_value(p, "loss").data, image_loss(d, &w[k]), 2e-6);
        const float *g = fv_plan_grad(p, "a").data;
        for (int i = 0; i < VALUES; i += 7) {
            const double h = 1e-7, keep = d[i];
            d[i] = keep + h;
            const double up = image_loss(d, &w[k]);
            d[i] = keep - h;
            NEAR(g[i], (up - image_loss(d, &w[k])) / (2 * h), 2e-6);
            d[i] = keep;
        }
        fv_plan_destroy(&p);
    }
}

/* ---- Restarts -------------------------------------------------------------------------------- */

static void unused_codes_move_onto_latents_and_nothing_else_does(void)
{
    const int64_t dim[2] = { 6, 3 }, other = 5;
    const uint32_t counts[6] = { 4, 0, 1, 0, 0, 9 };
    float latents[4 * 3], state[4 * 18], back[4 * 18], now[2][4 * 18];
    fv_opt_options o = FV_OPT_OPTIONS_INIT;
    fv_params *p;
    fv_opt *opt;
    OK(ctx, fv_params_create(ctx, &p));
    (void)fv_params_add(p, "other", 1, &other, 0);
    const fv_pid id = fv_params_add(p, "codes", 2, dim, 0);
    OK(ctx, fv_params_alloc(p));
    test_fill(fv_params_tensor(p, 0).data, 5, 1);
    test_fill(fv_params_tensor(p, id).data, 18, 2);
    test_fill(latents, 12, 3);
    o.ema_decay = 0.9f;
    OK(ctx, fv_opt_create(ctx, &opt, p, &o));
    test_fill(fv_params_grad(p, id).data, 18, 4);
    OK(ctx, fv_opt_step(opt, 0.1f, NULL)); /* moments and average differ from 0 and the values */
    OK(ctx, fvi_opt_keep(opt, id, state));
    for (int k = 0; k < 2; k++) {
        const fvi_vq_restart r = { opt, id, counts, latents, 4, 11, 500 };
        int64_t done = 0;
        OK(ctx, fvi_vq_restart_codes(&r, &done));
        CHECK(done == 3);
        OK(ctx, fvi_opt_keep(opt, id, now[k]));
        OK(ctx, fvi_opt_put_back(opt, id, state));
    }
    CHECK(memcmp(now[0], now[1], sizeof now[0]) == 0);
    for (int v = 0; v < 6; v++)
        for (int a = 0; a < 4; a++) {
            const float *row = now[0] + a * 18 + v * 3, *old = state + a * 18 + v * 3;
            bool found = false;
            for (int i = 0; i < 4; i++) found |= memcmp(row, latents + 3 * i, 12) == 0;
            if (counts[v]) CHECK(memcmp(row, old, 12) == 0);
            else if (a == 1 || a == 2) CHECK(row[0] == 0 && row[1] == 0 && row[2] == 0);
            else CHECK(found && memcmp(row, now[0] + v * 3, 12) == 0);
        }
    OK(ctx, fvi_opt_keep(opt, id, back));
    CHECK(memcmp(back, state, sizeof back) == 0);
    fv_opt_destroy(&opt);
    fv_params_destroy(&p);
}

static void usage_is_counted(void)
{
    static const int32_t index[] = { 0, 2, 2, 3, -1, 4, 3 };
    uint32_t counts[4] = { 0 };
    fvi_vq_count(counts, 4, index, (int64_t)FV_ARRAY_LEN(index));
    CHECK(counts[0] == 1 && counts[1] == 0 && counts[2] == 2 && counts[3] == 2);
    CHECK(fvi_vq_used(counts, 4) == 3);
    NEAR(fvi_vq_perplexity(counts, 4), exp(-(0.2 * log(0.2) + 0.8 * log(0.4))), 1e-12);
    memset(counts, 0, sizeof counts);
    CHECK(fvi_vq_perplexity(counts, 4) == 0);
}

/* ---- Discriminator --------------------------------------------------------------------------- */

static const int64_t gan_image[4] = { 2, 16, 16, 3 };
#define GAN_VALUES (2 * 16 * 16 * 3)

static void make_gan(fvi_gan_net *n, fvi_gan **g, float match)
{
    fv_params *p;
    *n = (fvi_gan_net){ .in = 3, .channels = 8, .layers = 2 };
    OK(ctx, fv_params_create(ctx, &p));
    (void)fv_params_add(p, "before", 1, (const int64_t[1]){ 3 }, 0);
    fvi_gan_add(n, p, "gan.");
    OK(ctx, fv_params_alloc(p));
    fvi_gan_init(n, 3);
    OK(ctx, fvi_gan_create(ctx, g, n, gan_image, match, FV_F32));
}

/* Two pictures [side, side, C]; size: side, C, stride, side of the result. Padding 1. */
static void plain_conv4(const double *x, double *y, const fv_tensor *w, const float *bias,
                        const int size[4])
{
    const int H = size[0], C = size[1], h = size[3], out = (int)w->dim[0];
    const float *v = w->data; /* [out, C, 4, 4] */
    for (int at = 0; at < 2 * h * h * out; at++) {
        const int o = at % out, px = at / out % h, py = at / out / h % h, pic = at / out / h / h;
        double sum = bias[o];
        for (int k = 0; k < 16 * C; k++) {
            const int c = k / 16, iy = py * size[2] + k / 4 % 4 - 1, ix = px * size[2] + k % 4 - 1;
            if (iy < 0 || ix < 0 || iy >= H || ix >= H) continue;
            sum += v[o * 16 * C + k] * x[((pic * H + iy) * H + ix) * C + c];
        }
        y[at] = sum;
    }
}

/* Of two pictures, weight 1 and bias 0. */
static void plain_groupnorm(double *x, int places, int C, int groups)
{
    const int per = C / groups;
    for (int pic = 0; pic < 2; pic++)
        for (int g = 0; g < groups; g++) {
            double sum = 0, sq = 0;
            for (int i = 0; i < places * per; i++) {
                const double v = x[(pic * places + i / per) * C + g * per + i % per];
                sum += v;
                sq += v * v;
            }
            const double mean = sum / (places * per);
            const double r = 1 / sqrt(sq / (places * per) - mean * mean + 1e-5);
            for (int i = 0; i < places * per; i++) {
                double *v = &x[(pic * places + i / per) * C + g * per + i % per];
                *v = (*v - mean) * r;
            }
        }
}

/* Mean over hidden layers of mean |features - features|, layer by layer in plain loops. */
static double apart(const fvi_gan_net *n, const float *real, const float *fake)
{
    static double a[2][GAN_VALUES * 8], b[GAN_VALUES * 8];
    int H = 16, C = 3;
    double sum = 0;
    for (int i = 0; i < GAN_VALUES; i++) {
        a[0][i] = real[i];
        a[1][i] = fake[i];
    }
    for (int k = 0; k <= n->layers; k++) {
        const fv_tensor w = fv_params_tensor(n->params, n->conv[k]);
        const float *bias = fv_params_tensor(n->params, n->bias[k]).data;
        const int stride = k < n->layers ? 2 : 1, h = (H + 2 - 4) / stride + 1, c = (int)w.dim[0];
        for (int s = 0; s < 2; s++) {
            plain_conv4(a[s], b, &w, bias, (const int[4]){ H, C, stride, h });
            if (k > 0) plain_groupnorm(b, h * h, c, 8);
            for (int i = 0; i < 2 * h * h * c; i++) a[s][i] = b[i] > 0 ? b[i] : 0.2 * b[i];
        }
        double layer = 0;
        for (int i = 0; i < 2 * h * h * c; i++) layer += fabs(a[0][i] - a[1][i]);
        sum += layer / (2.0 * h * h * c);
        H = h;
        C = c;
    }
    return sum / (n->layers + 1);
}

/* - mean D(fake) by the network alone. */
static double fooled(const fvi_gan_net *n, float *fake)
{
    fv_tape *t;
    fv_plan *p;
    double sum = 0;
    if (fv_tape_create(ctx, &t, n->params, FV_INFER, FV_F32) != FV_OK) exit(1);
    fv_output(t, "d", fvi_gan_logits(t, n, fv_input(t, "x", FV_F32, 4, gan_image)));
    if (fv_plan_build(ctx, &p, t, NULL) != FV_OK || fv_plan_bind(p, "x", fake) != FV_OK ||
        fv_plan_forward(p) != FV_OK)
        exit(1);
    const fv_tensor d = fv_plan_value(p, "d");
    for (int64_t i = 0; i < fv_tensor_count(&d); i++) sum -= ((const float *)d.data)[i];
    sum /= (double)fv_tensor_count(&d);
    fv_plan_destroy(&p);
    fv_tape_destroy(&t);
    return sum;
}

/* - mean D(fake), and match times the mean distance of features, by the network alone: features of a
 * layer are what a discriminator that ends there gives. */
static void check_pull(float match)
{
    static float real[GAN_VALUES], fake[GAN_VALUES];
    const float *pull;
    fvi_gan_net n;
    fvi_gan *g;
    make_gan(&n, &g, match);
    test_fill(fake, GAN_VALUES, 1);
    test_fill(real, GAN_VALUES, 2);
    const float own = 2.5f;
    float *grad = fv_params_grad(n.params, n.first).data;
    grad[5] = own; /* what it has learnt so far stays */
    OK(ctx, fvi_gan_pull(g, match > 0 ? real : NULL, fake, &pull));
    for (int i = 0; i < GAN_VALUES; i += 97) {
        const float h = 4e-3f, keep = fake[i];
        fake[i] = keep + h;
        const double up = fooled(&n, fake) + match * apart(&n, real, fake);
        fake[i] = keep - h;
        const double down = fooled(&n, fake) + match * apart(&n, real, fake);
        fake[i] = keep;
        /* kinks of LeakyReLU in between */
        NEAR(pull[i], (up - down) / (2 * (double)h), 2e-4 + 2e-3 * match);
    }
    for (int i = 0; i < 8 * 3 * 16; i++) CHECK(grad[i] == (i == 5 ? own : 0));
    fvi_gan_destroy(&g);
    fv_params_destroy(&n.params);
}
static void the_pull_is_the_slope_of_the_verdict(void) { check_pull(0); }
static void and_of_the_distance_of_features(void) { check_pull(3); }

/* Two sorts of noise: after some steps their verdicts differ, and the hinge loss says how much. */
static void a_discriminator_learns_to_tell(void)
{
    static float real[GAN_VALUES], fake[GAN_VALUES];
    fv_opt_options o = FV_OPT_OPTIONS_INIT;
    fvi_gan_net n;
    fvi_gan *g;
    fv_opt *opt;
    double loss = 0, first = 0;
    make_gan(&n, &g, 0);
    OK(ctx, fv_opt_create(ctx, &opt, n.params, &o));
    for (int i = 0; i < 30; i++) {
        test_fill(real, GAN_VALUES, 100 + (uint64_t)i);
        test_fill(fake, GAN_VALUES, 200 + (uint64_t)i);
        for (int k = 0; k < GAN_VALUES; k++) fake[k] = 0.3f * fake[k] + (k % 6 < 3 ? 0.2f : -0.2f);
        OK(ctx, fvi_gan_learn(g, real, fake, 1.0f, &loss));
        OK(ctx, fv_opt_step(opt, 3e-3f, NULL));
        if (i == 0) first = loss;
    }
    CHECK_MSG(loss < 0.4 * first && first > 0.7 && first < 1.5, "%g, then %g", first, loss);
    CHECK(fooled(&n, fake) > 0.3 && fooled(&n, real) < -0.3);
    fv_opt_destroy(&opt);
    fvi_gan_destroy(&g);
    fv_params_destroy(&n.params);
}

static double gan_weight(const float *other, const float *pull)
{
    double w = NAN;
    return fvi_gan_weight(ctx, other, pull, 3, NULL, &w) == FV_OK ? w : NAN;
}

static void the_weight_balances_two_gradients(void)
{
    static const float a[3] = { 3, 0, 4 }, b[3] = { 0, 0.5f, 0 }, none[3] = { 0 },
                       bad[3] = { NAN, 0, 0 };
    NEAR(gan_weight(a, b), 5 / 0.5001, 1e-9);
    CHECK(gan_weight(a, none) == 1e4 && gan_weight(none, b) == 0);
    CHECK(gan_weight(bad, b) == 0 && gan_weight(a, bad) == 0);
}

/* ---- Tokenizer files ------------------------------------------------------------------------- */

/* A small tokenizer with random weights. */
static void write_tokenizer(const char *name, const char *preset, fv_dtype type)
{
    ar_config c;
    vq_net n;
    fv_params *p;
    fv_meta m;
    OK(ctx, ar_preset(ctx, preset, 0, &c));
    c.vq.channels = 8;
    c.vq.latent = 8;
    c.vq.codes = 50;
    OK(ctx, fv_params_create(ctx, &p));
    vq_net_add(&n, p, &c.vq, "vq.");
    OK(ctx, fv_params_alloc(p));
    for (int i = 0; i < fv_params_count(p); i++) fv_params_init_normal(p, i, 5, 0.2f);
    OK(ctx, ar_config_meta(ctx, &c, &m));
    OK(ctx, fv_params_export(ctx, p, type, (const char *const *)m.item, m.pairs, temp_path(name),
                             1));
    fv_meta_free(ctx, &m);
    fv_params_destroy(&p);
}

#define H 48
#define W 32
static float pixels[2][H * W * 3];

/* Codes, and the picture that they give. */
static fv_status there_and_back(fv_ctx *c, const char *name, fv_dtype precision, int32_t *codes,
                                float *rgb)
{
    fv_model *m;
    fv_vq *v;
    FV_TRY(fv_model_open(c, &m, temp_path(name), NULL));
    fv_status s = fv_vq_open(c, &v, m, precision);
    fv_vq_info info = { 0 };
    if (s == FV_OK) fv_vq_get_info(v, &info);
    const int f = info.factor ? info.factor : 1;
    if (s == FV_OK) s = fv_vq_encode(c, v, pixels[0], 2, H, W, codes);
    if (s == FV_OK) s = fv_vq_decode(c, v, codes, 2, H / f, W / f, rgb);
    fv_vq_close(&v);
    fv_model_close(&m);
    return s;
}

static void pictures_do_not_depend_on_threads_or_company(void)
{
    static const char *const preset[] = { "vq-s8", "VQ-16", "VQ-8" };
    static const int factor[] = { 8, 16, 8 };
    static float a[2 * H * W * 3], b[2 * H * W * 3];
    test_fill(pixels[0], 2 * H * W * 3, 9);
    for (int k = 0; k < 3; k++) {
        int32_t one[64], two[64];
        const int n = H * W / factor[k] / factor[k];
        write_tokenizer("tok", preset[k], k ? FV_F32 : FV_BF16);
        fv_ctx *c[2] = { make_context(0, 1), make_context(0, 3) };
        OK(c[0], there_and_back(c[0], "tok", FV_F32, one, a));
        OK(c[1], there_and_back(c[1], "tok", FV_F32, two, b));
        CHECK(memcmp(one, two, 2 * (size_t)n * sizeof *one) == 0 && memcmp(a, b, sizeof a) == 0);
        for (int i = 0; i < 2; i++) fv_ctx_destroy(&c[i]);
        fv_model *m;
        fv_vq *v;
        OK(ctx, fv_model_open(ctx, &m, temp_path("tok"), NULL));
        OK(ctx, fv_vq_open(ctx, &v, m, FV_F32));
        OK(ctx, fv_vq_encode(ctx, v, pixels[1], 1, H, W, two)); /* the second one alone */
        CHECK(memcmp(one + n, two, (size_t)n * sizeof *one) == 0);
        fv_vq_close(&v);
        fv_model_close(&m);
    }
}

/* Calls of one size with the opener's context allocate once; another context may take part. */
static void calls_of_one_size_allocate_nothing(void)
{
    static float rgb[2 * H * W * 3], other[2 * H * W * 3];
    int32_t codes[64];
    fv_memory_stats before, after;
    fv_model *m;
    fv_vq *v;
    fv_ctx *c = make_context(0, 1);
    write_tokenizer("tok", "vq-s8", FV_BF16);
    OK(ctx, fv_model_open(ctx, &m, temp_path("tok"), NULL));
    for (int k = 0; k < 2; k++) {
        OK(ctx, fv_vq_open(ctx, &v, m, k ? FV_BF16 : FV_F32));
        OK(ctx, fv_vq_encode(ctx, v, pixels[0], 1, H, W, codes));
        OK(ctx, fv_vq_decode(ctx, v, codes, 1, H / 8, W / 8, rgb));
        fv_ctx_memory(ctx, &before);
        OK(ctx, fv_vq_encode(ctx, v, pixels[0], 2, H, W, codes));
        OK(ctx, fv_vq_decode(ctx, v, codes, 2, H / 8, W / 8, rgb));
        fv_ctx_memory(ctx, &after);
        CHECK(before.allocations == after.allocations);
        OK(c, fv_vq_decode(c, v, codes, 2, H / 8, W / 8, other));
        CHECK(k || memcmp(rgb, other, sizeof rgb) == 0);
        OK(ctx, fv_vq_decode(ctx, v, codes, 1, H / 8, W / 8, other));
        CHECK(memcmp(rgb, other, sizeof rgb / 2) == 0);
        fv_vq_close(&v);
    }
    fv_model_close(&m);
    fv_ctx_destroy(&c);
}

static int stop_at_once(void *user, const fv_progress *p)
{
    (void)user;
    return p->done == 1;
}

static void wrong_calls_are_named(void)
{
    static float rgb[H * W * 3];
    int32_t codes[2 * 24] = { 0 };
    fv_model *m;
    fv_vq *v;
    write_tokenizer("tok", "vq-s8", FV_I8);
    OK(ctx, fv_model_open(ctx, &m, temp_path("tok"), NULL));
    OK(ctx, fv_vq_open(ctx, &v, m, FV_F32));
    CHECK(fv_vq_encode(ctx, v, rgb, 1, H, W + 4, codes) == FV_ERR_SHAPE);
    CHECK(fv_vq_encode(ctx, v, rgb, 0, H, W, codes) == FV_ERR_ARG);
    CHECK(fv_vq_encode(ctx, v, rgb, 1, 32768, 8, codes) == FV_ERR_ARG);
    CHECK(fv_vq_decode(ctx, v, codes, 1, 0, 4, rgb) == FV_ERR_ARG);
    CHECK(fv_vq_decode(ctx, v, codes, 1, 1, 2049, rgb) == FV_ERR_ARG);
    codes[7] = 50;
    rgb[0] = 77;
    CHECK(fv_vq_decode(ctx, v, codes, 1, 6, 4, rgb) == FV_ERR_ARG && rgb[0] == 77);
    CHECK(strstr(fv_ctx_error(ctx), "code 50 at position 7"));
    codes[7] = -1;
    CHECK(fv_vq_decode(ctx, v, codes, 1, 6, 4, rgb) == FV_ERR_ARG);
    codes[7] = 49;
    OK(ctx, fv_vq_decode(ctx, v, codes, 1, 6, 4, rgb));
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.progress = stop_at_once;
    fv_ctx *c;
    CHECK(fv_ctx_create(&c, &o) == FV_OK);
    CHECK(fv_vq_decode(c, v, codes, 2, 4, 6, rgb) == FV_ERR_CANCELLED);
    fv_ctx_destroy(&c);
    fv_vq_close(&v);
    fv_vq_close(&v);
    fv_model_close(&m);
}

/* A copy of a file: without tensor `drop`, or with it as a vector; metadata `key` as `value`. */
static void spoil(const char *in, const char *out, const char *drop, const char *key,
                  const char *value)
{
    fv_model *m;
    fv_model_writer *w;
    OK(ctx, fv_model_open(ctx, &m, temp_path(in), NULL));
    OK(ctx, fv_model_writer_create(ctx, &w));
    for (int i = 0; i < fv_model_meta_count(m); i++) {
        const char *k, *old;
        fv_model_meta_at(m, i, &k, &old);
        OK(ctx, fv_model_writer_meta(w, k, key && strcmp(k, key) == 0 ? value : old));
    }
    for (int i = 0; i < fv_model_count(m); i++) {
        fv_tensor t;
        fv_model_tensor(m, i, &t);
        if (!drop || strcmp(fv_model_name(m, i), drop) != 0)
            OK(ctx, fv_model_writer_tensor(w, fv_model_name(m, i), &t));
    }
    OK(ctx, fv_model_writer_finish(w, temp_path(out), 1));
    fv_model_writer_destroy(&w);
    fv_model_close(&m);
}

static fv_status open_file(const char *name)
{
    fv_model *m;
    fv_vq *v;
    FV_TRY(fv_model_open(ctx, &m, temp_path(name), NULL));
    const fv_status s = fv_vq_open(ctx, &v, m, FV_F32);
    if ((s == FV_OK) != (v != NULL)) exit(1);
    fv_vq_close(&v);
    fv_model_close(&m);
    return s;
}

static void files_that_do_not_fit_are_refused(void)
{
    static const char *const meta[][2] = {
        { "fovea.vq.channels", "16" }, { "fovea.vq.codes", "51" }, { "fovea.vq.stem", "1" },
        { "fovea.vq.mult", "1,2" }, { "fovea.vq.attention", "x" }, { "fovea.kind", "classifier" },
    };
    static const char *const tensor[] = { "vq.encoder.conv_in.weight", "vq.decoder.mid.1.k.bias",
                                          "vq.quantize.embedding.weight" };
    write_tokenizer("tok", "vq-s8", FV_F32);
    OK(ctx, open_file("tok"));
    for (size_t i = 0; i < FV_ARRAY_LEN(meta); i++) {
        spoil("tok", "bad", NULL, meta[i][0], meta[i][1]);
        CHECK_MSG(open_file("bad") == FV_ERR_MODEL, "%s", meta[i][0]);
    }
    for (size_t i = 0; i < FV_ARRAY_LEN(tensor); i++) {
        spoil("tok", "bad", tensor[i], NULL, NULL);
        CHECK_MSG(open_file("bad") == FV_ERR_MODEL, "%s", tensor[i]);
    }
    CHECK(fv_vq_open(ctx, NULL, NULL, FV_F32) == FV_ERR_ARG);
}

/* Memory runs out at ever later allocations: a status, nothing left behind. */
static void without_memory_calls_fail_and_leave_nothing(void)
{
    static float rgb[2 * H * W * 3];
    int32_t codes[64];
    fv_status s = FV_ERR_OOM;
    int n = 0;
    write_tokenizer("tok", "vq-s8", FV_I8);
    for (; s != FV_OK && n < 5000; n += 1 + n / 12) {
        alloc_fail heap = { .left = n };
        const fv_allocator al = alloc_fail_allocator(&heap);
        fv_ctx_options o = FV_CTX_OPTIONS_INIT;
        fv_ctx *c = NULL;
        o.alloc = &al;
        o.threads = 1;
        s = fv_ctx_create(&c, &o);
        if (s == FV_OK) s = there_and_back(c, "tok", FV_F32, codes, rgb);
        fv_ctx_destroy(&c);
        CHECK_MSG(s == FV_OK || s == FV_ERR_OOM, "allocation %d: %s", n, fv_status_name(s));
        CHECK_MSG(heap.live == 0, "allocation %d: %d blocks left", n, (int)heap.live);
    }
    CHECK(s == FV_OK && n > 100);
}

/* ---- Training -------------------------------------------------------------------------------- */

#define PICTURES 120

/* Four squares, each dark or bright; some pictures are held out. */
static void make_data(void)
{
    static uint8_t ppm[16 * 16 * 3 + 64];
    tar t = { 0 };
    uint64_t seed = 6;
    for (int i = 0; i < PICTURES; i++) {
        size_t n = (size_t)sprintf((char *)ppm, "P6 16 16 255\n");
        const uint32_t bits = test_next(&seed) >> 8;
        for (int p = 0; p < 256 * 3; p++)
            ppm[n++] = bits >> (p / 384 * 2 + p / 3 % 16 / 8) & 1 ? 220 : 40;
        char path[32];
        snprintf(path, sizeof path, "%c/%d.ppm", "ab"[i % 2], i);
        put_entry(&t, "", path, '0', ppm, n);
    }
    save_tar(&t, temp_path("data.tar"));
}

/* Runs of up to 24 steps restart codes at every second one. */
static fv_status train(fv_ctx *c, const char *out, int steps, int resume, const char *set)
{
    char text[512], more[256];
    snprintf(text, sizeof text,
             "engine = vq\npreset = vq-s8\nimage_size = 16\ndata = data.tar\nworkers = -1\n"
             "channels = 8\nlatent = 8\ncodes = 24\nbatch = 8\nsteps = %d\nlr = 3e-3\n"
             "ema = 0.9\nprecision = f32\nexport = f32\nrestart_every = %d\nrestart_batches = 2\n"
             "eval_every = 0\nsave_every = 5\n", steps, steps > 24 ? 20 : 2);
    snprintf(more, sizeof more, "%s\n", set);
    return train_recipe(c, fv_vq_train, text, set[0] ? more : "", out, NULL, resume);
}

static fv_status go_on(fv_ctx *c, void *user) { return train(c, "parts", 24, 1, user); }

/* Also between a restart and the end of its step. */
static void check_stops(const char *set)
{
    fv_ctx *c = make_context(0, 1);
    temp_remove_tree(temp_path("run-whole"));
    temp_remove_tree(temp_path("run-parts"));
    const unsigned begin = micros();
    OK(c, train(c, "whole", 24, 0, set));
    int stops = 0;
    OK(c, stop_and_go(c, go_on, (void *)(uintptr_t)set, micros() - begin, 4, &stops));
    CHECK_MSG(stops > 2, "%d stops", stops);
    CHECK(same_tensors(ctx, "whole", "parts"));
    fv_ctx_destroy(&c);
}
static void a_run_that_is_stopped_anywhere_ends_the_same(void) { check_stops(""); }
static void so_does_one_with_a_discriminator(void) { check_stops("gan=0.5"); }

/* Share of values of two files that differ by more than 1e-3. */
static double share_moved(const char *one, const char *two)
{
    fv_model *a, *b;
    int64_t moved = 0, all = 0;
    if (fv_model_open(ctx, &a, temp_path(one), NULL) != FV_OK) return 1;
    if (fv_model_open(ctx, &b, temp_path(two), NULL) != FV_OK) exit(1);
    for (int i = 0; i < fv_model_count(a); i++) {
        fv_tensor x, y;
        fv_model_tensor(a, i, &x);
        if (!fv_model_find(b, fv_model_name(a, i), &y)) exit(1);
        all += fv_tensor_count(&x);
        for (int64_t k = 0; k < fv_tensor_count(&x); k++)
            moved += !(fabsf(((const float *)x.data)[k] - ((const float *)y.data)[k]) <= 1e-3f);
    }
    fv_model_close(&a);
    fv_model_close(&b);
    return (double)moved / (double)all;
}

/* Without a discriminator's say both ways of computing the losses' gradient are one. (Adam makes a
 * step of the sign of rounding errors where a gradient is 0.) */
static void both_ways_to_the_gradient_agree(void)
{
    fv_ctx *c = make_context(0, 1);
    OK(c, train(c, "direct", 3, 0, ""));
    OK(c, train(c, "by-u", 3, 0, "gan=1e-30"));
    OK(c, train(c, "other", 3, 0, "sobel=0"));
    CHECK_MSG(share_moved("direct", "by-u") < 0.02, "%g", share_moved("direct", "by-u"));
    CHECK_MSG(share_moved("direct", "other") > 0.05, "%g", share_moved("direct", "other"));
    fv_ctx_destroy(&c);
}

/* The discriminator is not exported, does nothing before its time, and something after. */
static void a_discriminator_joins_in_at_its_time(void)
{
    fv_ctx *c = make_context(0, 1);
    fv_model *m;
    OK(c, train(c, "alone", 8, 0, "gan=1"));
    OK(c, train(c, "never", 8, 0, "gan=1e-30"));
    CHECK(!same_tensors(ctx, "alone", "never"));
    OK(ctx, open_file("alone"));
    OK(ctx, fv_model_open(ctx, &m, temp_path("alone"), NULL));
    for (int i = 0; i < fv_model_count(m); i++)
        CHECK(strncmp(fv_model_name(m, i), "vq.", 3) == 0);
    fv_model_close(&m);
    fv_ctx_destroy(&c);
}

/* Mean PSNR of the held-out pictures, from the file's metadata. */
static double psnr_of(const char *name)
{
    fv_model *m;
    if (fv_model_open(ctx, &m, temp_path(name), NULL) != FV_OK) return -1;
    const char *text = fv_model_meta(m, "fovea.train.psnr_db");
    const double v = text ? strtod(text, NULL) : -1;
    fv_model_close(&m);
    return v;
}

static void training_learns_and_its_file_opens(void)
{
    fv_ctx *c = make_context(0, 1); /* small steps: oneDNN's threads would mostly wait for each other */
    OK(c, train(c, "short", 2, 0, "eval_every=1000"));
    OK(c, train(c, "long", 80, 0, "eval_every=1000"));
    CHECK_MSG(psnr_of("long") > psnr_of("short") + 6 && psnr_of("short") > 0, "%g, %g dB",
              psnr_of("short"), psnr_of("long"));
    OK(ctx, open_file("long"));
    OK(c, train(c, "i8", 2, 0, "export=int8"));
    OK(ctx, open_file("i8"));
    OK(c, train(c, "plain", 2, 0, "attention=0"));
    OK(ctx, open_file("plain"));
    OK(c, train(c, "sheet", 2, 0, "sample_every=1"));
    fv_image sheet;
    OK(c, fv_image_read(c, &sheet, temp_path("run-sheet/sample-00000002.png"), NULL));
    CHECK(sheet.width >= 16 * 12 && sheet.channels == 3);
    fv_image_free(c, &sheet);
    CHECK(train(c, "no", 2, 0, "image_size=20") == FV_ERR_ARG);
    CHECK(train(c, "no", 2, 0, "preset=ar-xs") == FV_ERR_ARG);
    CHECK(train(c, "no", 2, 0, "colour=red") == FV_ERR_UNKNOWN);
    fv_ctx_destroy(&c);
}

int main(void)
{
    temp_dir_make("vq");
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(every_variant_and_thread_count_finds_the_same_code);
    RUN(every_variant_finds_the_same_largest);
    RUN(rows_that_are_not_numbers_get_a_code);
    RUN(the_gradient_of_a_code_goes_to_its_latent);
    RUN(codes_and_latents_pull_with_their_own_weights);
    RUN(shapes_that_do_not_fit_are_refused);
    RUN(image_loss_matches_its_definition);
    RUN(unused_codes_move_onto_latents_and_nothing_else_does);
    RUN(usage_is_counted);
    RUN(the_pull_is_the_slope_of_the_verdict);
    RUN(and_of_the_distance_of_features);
    RUN(a_discriminator_learns_to_tell);
    RUN(the_weight_balances_two_gradients);
    RUN(pictures_do_not_depend_on_threads_or_company);
    RUN(calls_of_one_size_allocate_nothing);
    RUN(wrong_calls_are_named);
    RUN(files_that_do_not_fit_are_refused);
    RUN(without_memory_calls_fail_and_leave_nothing);
    make_data();
    RUN(a_run_that_is_stopped_anywhere_ends_the_same);
    RUN(so_does_one_with_a_discriminator);
    RUN(both_ways_to_the_gradient_agree);
    RUN(a_discriminator_joins_in_at_its_time);
    RUN(training_learns_and_its_file_opens);
    fv_ctx_destroy(&ctx);
    temp_dir_remove();
    return test_end();
}
