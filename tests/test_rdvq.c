/* test_rdvq.c - properties of RDVQ's networks: what a token's logits depend on, windows, straight
 * through, the soft rate and its way to the encoder; the texture metric. */
#include "rdvq.h"
#include "test.h"

static fv_ctx *ctx;

static float uniform(uint32_t seed, uint64_t i)
{
    float v;
    fv_rand_uniform(seed, FV_STREAM_USER, 0, i, 1, &v);
    return 2 * v - 1;
}

static void fill(float *x, int64_t n, uint32_t seed)
{
    for (int64_t i = 0; i < n; i++) x[i] = uniform(seed, (uint64_t)i);
}

static rdvq_config tiny(bool is_official, int groups)
{
    rdvq_config c = { .is_official = is_official, .levels = is_official ? 7 : 5, .head = 4,
                      .norm_groups = 2, .codes = 16, .code_width = 4, .groups = groups,
                      .slices = { 4, 8, 16 }, .strict_mask = is_official, .width = 16, .depth = 2,
                      .heads = 2, .ffn = 16 };
    for (int i = 0; i < c.levels; i++) {
        c.enc_width[i] = c.dec_width[i] = 4;
        c.enc_blocks[i] = c.dec_blocks[i] = 1;
    }
    return c;
}

/* A network with random weights everywhere, also in the head. */
typedef struct model { rdvq_net net; rdvq_tables tables; fv_params *params; } model;

static fv_status make_model(model *m, const rdvq_config *c)
{
    memset(m, 0, sizeof *m);
    FV_TRY(rdvq_config_check(ctx, c));
    FV_TRY(fv_params_create(ctx, &m->params));
    rdvq_net_add(&m->net, m->params, c, "", 0);
    FV_TRY(fv_params_alloc(m->params));
    rdvq_net_init(&m->net, 3);
    fv_params_init_normal(m->params, m->net.head, 4, 0.5f);
    fv_params_touch(m->params);
    return rdvq_tables_create(ctx, &m->tables, &m->net);
}

static void drop_model(model *m)
{
    rdvq_tables_free(ctx, &m->tables);
    fv_params_destroy(&m->params);
}

/* ---- Who sees whom --------------------------------------------------------------------------- */

static fv_status logits_plan(fv_plan **p, const model *m)
{
    const int64_t dim[3] = { 1, m->net.slices.tokens, m->net.cfg.code_width };
    fv_tape *t;
    FV_TRY(fv_tape_create(ctx, &t, m->params, FV_INFER, FV_F32));
    fv_output(t, "logits", rdvq_logits(t, &m->net, fv_input(t, "q", FV_F32, 3, dim)));
    FV_TRY(fv_plan_finish(ctx, p, &t, NULL));
    return rdvq_tables_bind(&m->tables, *p);
}

/* Change all tokens of slices >= `from`: rows of slices <= from stay bit for bit; others move (not
 * all of the next slice: where a layer begins, places by the edge see few of the layer before). */
static void check_sight(const model *m, fv_plan *p, int from)
{
    static float q[RDVQ_MAX_TOKENS * 4], before[RDVQ_MAX_TOKENS * 16];
    const rdvq_slices *s = &m->net.slices;
    const int V = m->net.cfg.codes, D = m->net.cfg.code_width;
    fill(q, s->tokens * D, 8);
    OK(ctx, fv_plan_bind(p, "q", q));
    OK(ctx, fv_plan_forward(p));
    memcpy(before, fv_plan_value(p, "logits").data, (size_t)(s->tokens * V) * sizeof *before);
    for (int i = 0; i < s->tokens; i++)
        for (int d = 0; d < D && s->slice_of[i] >= from; d++) q[i * D + d] += 0.7f;
    OK(ctx, fv_plan_forward(p));
    const float *after = fv_plan_value(p, "logits").data;
    const int64_t same = (int64_t)s->first[from + 1] * V;
    CHECK(memcmp(before, after, (size_t)same * sizeof *before) == 0);
    if (from + 1 == s->slices) return;
    int differ = 0;
    for (int64_t i = s->first[from + 1]; i < s->tokens; i++)
        differ += memcmp(before + i * V, after + i * V, (size_t)V * sizeof *before) != 0;
    CHECK_MSG(differ > (s->tokens - s->first[from + 1]) / 2, "slice %d: %d rows", from, differ);
}

static void sight_of(bool is_official, int groups)
{
    const rdvq_config c = tiny(is_official, groups);
    model m;
    fv_plan *p = NULL;
    OK(ctx, make_model(&m, &c));
    OK(ctx, logits_plan(&p, &m));
    for (int from = 0; from < m.net.slices.slices && !test_bad; from++) check_sight(&m, p, from);
    fv_plan_destroy(&p);
    drop_model(&m);
}
static void own_tokens_see_earlier_slices_only(void) { sight_of(false, 1); }
static void product_codes_see_earlier_slices_only(void) { sight_of(false, 2); }
static void official_tokens_see_earlier_slices_only(void) { sight_of(true, 1); }

/* Maps of 2 x 3 windows of two pictures there and back. */
static void windows_come_back(void)
{
    static float in[RDVQ_SCALES][2 * 32 * 48 * 8];
    const rdvq_config c = tiny(false, 2);
    model m;
    fv_tape *t;
    fv_plan *p = NULL;
    fv_t z[RDVQ_SCALES], q[RDVQ_SCALES];
    const int64_t windows[3] = { 2, 2, 3 };
    static const char *const name[2][3] = { { "a", "b", "c" }, { "x", "y", "z" } };
    OK(ctx, make_model(&m, &c));
    OK(ctx, fv_tape_create(ctx, &t, NULL, FV_INFER, FV_F32));
    for (int s = 0; s < RDVQ_SCALES; s++) {
        const int64_t dim[4] = { 2, 8 << s, 12 << s, s == 2 ? 8 : 4 };
        z[s] = fv_input(t, name[0][s], FV_F32, 4, dim);
        fill(in[s], 2 * dim[1] * dim[2] * dim[3], (uint32_t)s + 1);
    }
    const fv_t rows = rdvq_to_windows(t, &m.net, z);
    CHECK(fv_tape_tensor(t, rows).dim[0] == 12 && fv_tape_tensor(t, rows).dim[1] == 592);
    rdvq_from_windows(t, &m.net, rows, windows, q);
    for (int s = 0; s < RDVQ_SCALES; s++) fv_output(t, name[1][s], q[s]);
    OK(ctx, fv_plan_finish(ctx, &p, &t, NULL));
    for (int s = 0; s < RDVQ_SCALES; s++) OK(ctx, fv_plan_bind(p, name[0][s], in[s]));
    OK(ctx, fv_plan_forward(p));
    for (int s = 0; s < RDVQ_SCALES; s++) {
        const fv_tensor v = fv_plan_value(p, name[1][s]);
        CHECK(memcmp(v.data, in[s], (size_t)fv_tensor_count(&v) * sizeof(float)) == 0);
    }
    fv_plan_destroy(&p);
    drop_model(&m);
}

/* ---- Rate ------------------------------------------------------------------------------------ */

#define N 40
#define V 32
#define D 6

/* dL/dz is dL/dq seen through the normalisation: (I - u u^T) g / |z|. */
static void straight_through_is_the_projection(void)
{
    static float z[N * D], codes[V * D], g[N * D];
    const int64_t zd[2] = { N, D }, cd[2] = { V, D };
    fv_tape *t;
    fv_plan *p = NULL;
    fv_t index;
    fill(z, N * D, 1);
    fill(codes, V * D, 2);
    fill(g, N * D, 3);
    OK(ctx, fv_tape_create(ctx, &t, NULL, FV_TRAIN, FV_F32));
    const int64_t flat[3] = { 1, N * D, 1 }, one = 1;
    const fv_t in = fv_input_grad(t, "z", FV_F32, 2, zd);
    const fv_t e = rdvq_unit(t, fv_input(t, "e", FV_F32, 2, cd));
    const fv_t q = fv_vq_nearest(t, rdvq_unit(t, in), e, &index);
    const fv_t product = fv_binary_op(t, FV_MUL, q, fv_input(t, "g", FV_F32, 2, zd));
    const fv_t mean = fv_reshape(t, fv_mean_axis1(t, fv_reshape(t, product, 3, flat)), 1, &one);
    fv_output(t, "loss", fv_affine(t, mean, (float)(N * D), 0.0f));
    OK(ctx, fv_plan_finish(ctx, &p, &t, NULL));
    OK(ctx, fv_plan_bind(p, "z", z));
    OK(ctx, fv_plan_bind(p, "e", codes));
    OK(ctx, fv_plan_bind(p, "g", g));
    OK(ctx, fv_plan_forward(p));
    OK(ctx, fv_plan_backward(p, "loss", 1.0f));
    const float *dz = fv_plan_grad(p, "z").data;
    for (int i = 0; i < N; i++) {
        double length = 0, along = 0;
        for (int d = 0; d < D; d++) length += (double)z[i * D + d] * z[i * D + d];
        length = sqrt(length);
        for (int d = 0; d < D; d++) along += z[i * D + d] / length * g[i * D + d];
        for (int d = 0; d < D; d++)
            NEAR(dz[i * D + d], (g[i * D + d] - along * z[i * D + d] / length) / length, 1e-5);
    }
    fv_plan_destroy(&p);
}

typedef struct rates { float soft, hard, tau; } rates;

static fv_status rate_of(rates *r, float *z, float *codes, float *logits)
{
    const int64_t zd[2] = { N, D }, cd[2] = { V, D }, xd[2] = { N, V }, one = 1;
    fv_tape *t;
    fv_plan *p = NULL;
    fv_t index;
    FV_TRY(fv_tape_create(ctx, &t, NULL, FV_INFER, FV_F32));
    const fv_t u = rdvq_unit(t, fv_input(t, "z", FV_F32, 2, zd));
    const fv_t e = rdvq_unit(t, fv_input(t, "e", FV_F32, 2, cd));
    const fv_t x = fv_input(t, "x", FV_F32, 2, xd), tau = fv_input(t, "tau", FV_F32, 1, &one);
    fv_output(t, "q", fv_vq_nearest(t, u, e, &index));
    fv_output(t, "soft", fv_soft_rate(t, u, e, x, tau));
    fv_output(t, "hard", fv_loss_cross_entropy(t, x, index));
    FV_TRY(fv_plan_finish(ctx, &p, &t, NULL));
    const struct { const char *name; void *data; } all[] = { { "z", z }, { "e", codes },
                                                             { "x", logits }, { "tau", &r->tau } };
    fv_status s = FV_OK;
    for (size_t i = 0; i < FV_ARRAY_LEN(all) && s == FV_OK; i++)
        s = fv_plan_bind(p, all[i].name, all[i].data);
    if (s == FV_OK) s = fv_plan_forward(p);
    if (s == FV_OK) {
        r->soft = *(float *)fv_plan_value(p, "soft").data;
        r->hard = (float)(*(float *)fv_plan_value(p, "hard").data / log(2));
    }
    fv_plan_destroy(&p);
    return s;
}

static void soft_rate_becomes_the_hard_rate(void)
{
    static float z[N * D], codes[V * D], logits[N * V];
    static const float tau[] = { 0.1f, 0.03f, 0.01f, 1e-3f, 1e-4f };
    double last = 1e9;
    fill(codes, V * D, 12);
    fill(logits, N * V, 13);
    for (int i = 0; i < N; i++) /* near one code each: the nearest is unique */
        for (int d = 0; d < D; d++)
            z[i * D + d] = codes[i % V * D + d] + 0.1f * uniform(14, (uint64_t)(i * D + d));
    for (int i = 0; i < N * V; i++) logits[i] *= 4;
    for (size_t k = 0; k < FV_ARRAY_LEN(tau); k++) {
        rates r = { .tau = tau[k] };
        OK(ctx, rate_of(&r, z, codes, logits));
        const double gap = fabs((double)r.soft - r.hard);
        CHECK_MSG(gap < last + 1e-4, "tau %g: gap %g after %g", (double)tau[k], gap, last);
        last = gap;
    }
    CHECK_MSG(last < 1e-3, "gap %g bit", last);
    rates r = { .tau = 0 };
    CHECK(rate_of(&r, z, codes, logits) == FV_ERR_ARG);
}

/* Gradients of the rate to what is coded and to the context that other tokens are coded with. */
static void both_ways_reach_the_encoder(void)
{
    static float z[336 * 4];
    const rdvq_config c = tiny(false, 1);
    const int64_t dim[3] = { 1, 336, 4 }, one = 1;
    float tau = 0.1f;
    model m;
    fv_tape *t;
    fv_plan *p = NULL;
    OK(ctx, make_model(&m, &c));
    OK(ctx, fv_tape_create(ctx, &t, m.params, FV_TRAIN, FV_F32));
    const fv_t target = fv_input_grad(t, "target", FV_F32, 3, dim);
    const fv_t q = fv_input_grad(t, "context", FV_F32, 3, dim);
    const fv_t logits = rdvq_logits(t, &m.net, q);
    fv_output(t, "loss", fv_soft_rate(t, rdvq_in_order(t, &m.net, rdvq_unit(t, target)),
                                      rdvq_codes(t, &m.net), logits,
                                      fv_input(t, "tau", FV_F32, 1, &one)));
    OK(ctx, fv_plan_finish(ctx, &p, &t, NULL));
    OK(ctx, rdvq_tables_bind(&m.tables, p));
    fill(z, 336 * 4, 5);
    OK(ctx, fv_plan_bind(p, "target", z));
    OK(ctx, fv_plan_bind(p, "context", z));
    OK(ctx, fv_plan_bind(p, "tau", &tau));
    OK(ctx, fv_plan_forward(p));
    OK(ctx, fv_plan_backward(p, "loss", 1.0f));
    const float *a = fv_plan_grad(p, "target").data, *b = fv_plan_grad(p, "context").data;
    for (int i = 0; i < 336; i++) {
        double sum[2] = { 0, 0 };
        for (int d = 0; d < 4; d++) {
            sum[0] += fabs(a[i * 4 + d]);
            sum[1] += fabs(b[i * 4 + d]);
        }
        CHECK(sum[0] > 0);
        /* nobody is coded after the last slice */
        CHECK((sum[1] > 0) == (m.net.slices.slice_of[i] < 27));
    }
    fv_plan_destroy(&p);
    drop_model(&m);
}

/* ---- Texture metric -------------------------------------------------------------------------- */

static fv_status noise_image(fv_image *img, uint32_t seed, int size, double blur)
{
    FV_TRY(fv_image_create(ctx, img, size, size + 11, 3, 8));
    for (int y = 0; y < img->height; y++)
        for (int x = 0; x < 3 * size; x++) {
            const double grain = uniform(seed, (uint64_t)(y * 3 * size + x));
            ((uint8_t *)img->pixels)[(size_t)y * img->stride_bytes + (size_t)x] =
                (uint8_t)(128 + (1 - blur) * 60 * grain);
        }
    return FV_OK;
}

/* Equal pictures: 0. Another draw of the same noise is nearer than no noise, which squared error
 * says the other way round. Too small ones are refused. */
static void texture_prefers_noise_to_blur(void)
{
    fv_image a = { 0 }, b = { 0 }, flat = { 0 }, small = { 0 };
    double same = 1, other = 0, blur = 0, psnr_other = 0, psnr_blur = 0;
    OK(ctx, noise_image(&a, 1, 300, 0));
    OK(ctx, noise_image(&b, 2, 300, 0));
    OK(ctx, noise_image(&flat, 1, 300, 1));
    OK(ctx, noise_image(&small, 1, 60, 0));
    OK(ctx, fv_texture(ctx, &a, &a, &same));
    OK(ctx, fv_texture(ctx, &a, &b, &other));
    OK(ctx, fv_texture(ctx, &a, &flat, &blur));
    OK(ctx, fv_psnr(ctx, &a, &b, &psnr_other));
    OK(ctx, fv_psnr(ctx, &a, &flat, &psnr_blur));
    CHECK(same == 0);
    CHECK_MSG(psnr_blur > psnr_other && other < 4 * blur, "%g %g", other, blur);
    CHECK(fv_texture(ctx, &small, &small, &same) == FV_ERR_ARG);
    CHECK(fv_texture(ctx, &a, &small, &same) == FV_ERR_SHAPE);
    fv_image_free(ctx, &a);
    fv_image_free(ctx, &b);
    fv_image_free(ctx, &flat);
    fv_image_free(ctx, &small);
    printf("# other noise %g, no noise %g\n", other, blur);
}

int main(void)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.threads = 2;
    if (fv_ctx_create(&ctx, &o) != FV_OK) return 1;
    RUN(own_tokens_see_earlier_slices_only);
    RUN(product_codes_see_earlier_slices_only);
    RUN(official_tokens_see_earlier_slices_only);
    RUN(windows_come_back);
    RUN(straight_through_is_the_projection);
    RUN(soft_rate_becomes_the_hard_rate);
    RUN(both_ways_reach_the_encoder);
    RUN(texture_prefers_noise_to_blur);
    fv_ctx_destroy(&ctx);
    return test_end();
}
