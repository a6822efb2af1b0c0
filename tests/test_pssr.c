/* test_pssr.c - networks and flow of super-resolution: sizes, gradients, identities. */
#include "pssr.h"
#include "test.h"

static fv_ctx *ctx;

#define H 5
#define W 9
#define Z (H * W * PSSR_STATE)

static pssr_config small_config(void)
{
    pssr_config c;
    if (pssr_preset(ctx, "nano", &c) != FV_OK) exit(1);
    c.blocks = 8;
    c.every = 2; /* base 1, 3, 5, 7: of each kind, and both shifts */
    return c;
}

typedef struct rig {
    fv_params *params;
    pssr_net net;
    pssr_tables tables;
} rig;

/* Every value drawn, so that nothing is zero or one. */
static void rig_open(rig *r, const pssr_config *c, bool random, unsigned frozen)
{
    if (fv_params_create(ctx, &r->params) != FV_OK) exit(1);
    pssr_net_add(&r->net, r->params, c, "", PSSR_BASE | PSSR_DRAFT, frozen);
    if (fv_params_alloc(r->params) != FV_OK) exit(1);
    pssr_net_init(&r->net, 7);
    for (fv_pid id = 0; random && id < fv_params_count(r->params); id++) {
        const fv_tensor t = fv_params_tensor(r->params, id);
        float *v = t.data, d[1];
        for (int64_t i = 0; i < fv_tensor_count(&t); i++) {
            fv_rand_normal(9, FV_STREAM_USER, (uint32_t)id, (uint64_t)i, 1, d);
            v[i] += (t.ndim == 4 ? 0.05f : 0.1f) * d[0];
        }
    }
    if (pssr_tables_create(ctx, &r->tables, c, 2) != FV_OK) exit(1);
}

static void rig_close(rig *r)
{
    pssr_tables_free(ctx, &r->tables);
    fv_params_destroy(&r->params);
}

static const int64_t z_dim[4] = { 1, H, W, PSSR_STATE };

/* Estimates zhat.0 ... of z; loss: mean square of the last one to "target". */
static fv_plan *refine_plan(const rig *r, fv_mode mode, int drafts)
{
    fv_tape *t;
    fv_plan *p;
    pssr_graph g;
    fv_t zhat[PSSR_MAX_TIMES];
    if (fv_tape_create(ctx, &t, r->params, mode, FV_F32) != FV_OK) exit(1);
    const fv_t z = fv_input(t, "z", FV_F32, 4, z_dim);
    pssr_graph_begin(&g, t, &r->net, 1, drafts);
    pssr_refine(&g, z, drafts, zhat, NULL);
    for (int k = 0; k <= drafts; k++) {
        char name[16];
        snprintf(name, sizeof name, "zhat.%d", k);
        fv_output(t, name, zhat[k]);
    }
    if (mode == FV_TRAIN)
        fv_output(t, "loss", fv_loss_mse(t, zhat[drafts], fv_input(t, "target", FV_F32, 4, z_dim),
                                         0));
    if (fv_tape_status(t) != FV_OK || fv_plan_build(ctx, &p, t, NULL) != FV_OK ||
        pssr_tables_bind(&r->tables, p) != FV_OK) {
        printf("# %s\n", fv_ctx_error(ctx));
        exit(1);
    }
    fv_tape_destroy(&t);
    return p;
}

static float z_data[Z], target[Z];

static void bind_data(fv_plan *p)
{
    test_fill(z_data, Z, 1);
    test_fill(target, Z, 2);
    if (fv_plan_bind(p, "z", z_data) != FV_OK) exit(1);
    (void)(fv_plan_bind(p, "target", target) != FV_OK);
}

/* ---- Sizes ----------------------------------------------------------------------------------- */

static void parameters_are_as_many_as_specified(void)
{
    static const struct { const char *name; int64_t base, draft; } want[] = {
        { "nano", 201840, 111024 }, { "pssr-tiny", 706736, 348976 }, { "small", 4953264, 2113200 },
        { "large", 10981104, 4607472 } };
    for (size_t i = 0; i < FV_ARRAY_LEN(want); i++) {
        pssr_config c;
        pssr_net n;
        fv_params *p;
        OK(ctx, pssr_preset(ctx, want[i].name, &c));
        OK(ctx, fv_params_create(ctx, &p));
        pssr_net_add(&n, p, &c, "", PSSR_BASE | PSSR_DRAFT, 0);
        const int64_t base = pssr_count(&n, PSSR_BASE), draft = pssr_count(&n, PSSR_DRAFT);
        const int64_t all = fv_params_elements(p), second_stem = 9 * PSSR_STATE * c.channels;
        fv_params_destroy(&p);
        CHECK_MSG(base + second_stem == want[i].base && draft == want[i].draft, "%s: %lld %lld",
                  c.name, (long long)base, (long long)draft);
        CHECK(all == base + draft);
    }
}

static void configs_survive_metadata_and_refuse_nonsense(void)
{
    pssr_config c = small_config(), bad = c;
    OK(ctx, pssr_config_check(ctx, &c));
    bad.channels = 33;
    CHECK(pssr_config_check(ctx, &bad) != FV_OK);
    bad = c;
    bad.every = 3;
    CHECK(pssr_config_check(ctx, &bad) != FV_OK);
    bad = c;
    bad.time[2] = bad.time[1];
    CHECK(pssr_config_check(ctx, &bad) != FV_OK);
    bad = c;
    bad.alpha = NAN;
    CHECK(pssr_config_check(ctx, &bad) != FV_OK);
    CHECK(pssr_preset(ctx, "huge", &bad) == FV_ERR_UNKNOWN);
}

/* ---- Gradients ------------------------------------------------------------------------------- */

static double loss_of(fv_plan *p, const rig *r)
{
    fv_params_touch(r->params);
    if (fv_plan_forward(p) != FV_OK) exit(1);
    return (double)*(const float *)fv_plan_value(p, "loss").data;
}

/* Along each parameter's own gradient the loss must change at the rate of the gradient's length. */
static void check_gradients(int drafts, const char *part)
{
    const pssr_config c = small_config();
    rig r;
    rig_open(&r, &c, true, 0);
    fv_plan *p = refine_plan(&r, FV_TRAIN, drafts);
    bind_data(p);
    const double loss = loss_of(p, &r);
    char why[200] = "";
    if (fv_plan_backward(p, "loss", 1.0f) != FV_OK) exit(1);
    int checked = 0;
    for (fv_pid id = 0; id < fv_params_count(r.params) && !why[0]; id++) {
        const char *name = fv_params_name(r.params, id);
        if (strncmp(name, part, strlen(part)) != 0) continue;
        const fv_tensor w = fv_params_tensor(r.params, id), g = fv_params_grad(r.params, id);
        const int64_t n = fv_tensor_count(&w);
        float *v = w.data, *keep = malloc((size_t)n * sizeof *keep);
        const float *d = g.data;
        double length = 0, side[2];
        if (!keep) exit(1);
        memcpy(keep, v, (size_t)n * sizeof *keep);
        for (int64_t i = 0; i < n; i++) length += (double)d[i] * (double)d[i];
        length = sqrt(length);
        const double step = fmin(0.05, 2e-3 * loss / (length + 1e-12));
        for (int s = 0; s < 2; s++) {
            for (int64_t i = 0; i < n; i++)
                v[i] = keep[i] + (float)((s ? -step : step) * (double)d[i] / (length + 1e-30));
            side[s] = loss_of(p, &r);
        }
        memcpy(v, keep, (size_t)n * sizeof *keep);
        free(keep);
        const double rate = (side[0] - side[1]) / (2 * step);
        /* rounding of the loss itself: 3e-7 of it over the two steps */
        const double tol = 5e-3 * length + 3e-7 * loss / step;
        if (!(fabs(rate - length) <= tol))
            snprintf(why, sizeof why, "%s: %g against %g, step %g", name, length, rate, step);
        checked++;
    }
    fv_plan_destroy(&p);
    rig_close(&r);
    CHECK_MSG(!why[0], "%s", why);
    CHECK(checked > 50);
}

static void gradients_of_the_base_match_differences(void) { check_gradients(0, "base."); }
static void gradients_of_the_draft_match_differences(void) { check_gradients(2, "draft."); }

static void frozen_parts_get_no_gradient(void)
{
    const pssr_config c = small_config();
    rig r;
    rig_open(&r, &c, true, PSSR_BASE);
    fv_plan *p = refine_plan(&r, FV_TRAIN, 2);
    bind_data(p);
    (void)loss_of(p, &r);
    OK(ctx, fv_plan_backward(p, "loss", 1.0f));
    double base = 0, draft = 0;
    for (fv_pid id = 0; id < fv_params_count(r.params); id++) {
        const fv_tensor g = fv_params_grad(r.params, id);
        const bool is_base = strncmp(fv_params_name(r.params, id), "base.", 5) == 0;
        for (int64_t i = 0; g.data && i < fv_tensor_count(&g); i++)
            *(is_base ? &base : &draft) += fabs((double)((const float *)g.data)[i]);
    }
    fv_plan_destroy(&p);
    rig_close(&r);
    CHECK(base == 0 && draft > 0);
}

/* ---- The flow -------------------------------------------------------------------------------- */

static float z_high[Z];

/* What the flow makes of one velocity in each step. */
static void flow_with(const float *velocity, float *zhat, float *state)
{
    const pssr_config c = small_config();
    rig r;
    fv_tape *t;
    fv_plan *p;
    pssr_graph g;
    rig_open(&r, &c, false, 0);
    if (fv_tape_create(ctx, &t, r.params, FV_INFER, FV_F32) != FV_OK) exit(1);
    const fv_t z = fv_input(t, "z", FV_F32, 4, z_dim), v = fv_input(t, "v", FV_F32, 4, z_dim);
    g = (pssr_graph){ .tape = t, .net = &r.net, .B = 1 };
    fv_t at = z;
    for (int k = 0; k < c.times; k++) {
        char name[16];
        snprintf(name, sizeof name, "zhat.%d", k);
        fv_output(t, name, pssr_estimate(&g, k, at, v));
        if (k + 1 < c.times) at = pssr_advance(&g, k, at, v);
        snprintf(name, sizeof name, "z.%d", k + 1);
        if (k + 1 < c.times) fv_output(t, name, at);
    }
    if (fv_plan_build(ctx, &p, t, NULL) != FV_OK || fv_plan_bind(p, "z", z_data) != FV_OK ||
        fv_plan_bind(p, "v", (void *)(uintptr_t)velocity) != FV_OK || fv_plan_forward(p) != FV_OK)
        exit(1);
    for (int k = 0; k < c.times; k++) {
        char name[16];
        snprintf(name, sizeof name, "zhat.%d", k);
        memcpy(zhat + (size_t)k * Z, fv_plan_value(p, name).data, Z * sizeof(float));
        snprintf(name, sizeof name, "z.%d", k + 1);
        if (k + 1 < c.times)
            memcpy(state + (size_t)(k + 1) * Z, fv_plan_value(p, name).data, Z * sizeof(float));
    }
    fv_plan_destroy(&p);
    fv_tape_destroy(&t);
    rig_close(&r);
}

static void the_exact_velocity_leads_to_the_target_from_every_step(void)
{
    static float v[Z], zhat[4 * Z], state[4 * Z];
    test_fill(z_data, Z, 1);
    test_fill(z_high, Z, 3);
    for (int i = 0; i < Z; i++) v[i] = z_data[i] - z_high[i];
    flow_with(v, zhat, state);
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < Z; i++)
            CHECK(fabsf(zhat[k * Z + i] - z_high[i]) <= 1e-6f);
    for (int i = 0; i < Z; i++) v[i] = 0.25f; /* a constant one: z_k = z_L - (1 - s_k) v */
    flow_with(v, zhat, state);
    for (int k = 1; k < 4; k++)
        for (int i = 0; i < Z; i++)
            CHECK(fabsf(state[k * Z + i] - (z_data[i] - 0.25f * (float)k / 7)) <= 1e-6f);
}

static void a_new_model_returns_its_input(void)
{
    const pssr_config c = small_config();
    rig r;
    rig_open(&r, &c, false, 0);
    pssr_draft_init(&r.net);
    fv_plan *p = refine_plan(&r, FV_INFER, 3);
    bind_data(p);
    OK(ctx, fv_plan_forward(p));
    int same = 0;
    for (int k = 0; k < 4; k++) {
        char name[24];
        snprintf(name, sizeof name, "zhat.%d", k);
        same += memcmp(fv_plan_value(p, name).data, z_data, sizeof z_data) == 0;
    }
    fv_plan_destroy(&p);
    rig_close(&r);
    CHECK(same == 4);
}

/* ---- Structure ------------------------------------------------------------------------------- */

/* Outputs numbered in their names, n values each. */
static void copy_values(const fv_plan *p, const char *format, int count, size_t n, float *out)
{
    for (int i = 0; i < count; i++) {
        char name[16];
        snprintf(name, sizeof name, format, i);
        memcpy(out + (size_t)i * n, fv_plan_value(p, name).data, n * sizeof(float));
    }
}

/* F_j of all j, [4, H * W * C]. */
static void features_of(const rig *r, float *out)
{
    fv_tape *t;
    fv_plan *p;
    pssr_graph g;
    fv_t f[PSSR_MAX_BLOCKS];
    if (fv_tape_create(ctx, &t, r->params, FV_INFER, FV_F32) != FV_OK) exit(1);
    const fv_t z = fv_input(t, "z", FV_F32, 4, z_dim);
    pssr_graph_begin(&g, t, &r->net, 1, 0);
    fv_output(t, "v", pssr_base(&g, z, f, NULL));
    for (int j = 0; j < 4; j++) {
        char name[16];
        snprintf(name, sizeof name, "f.%d", j);
        fv_output(t, name, f[j]);
    }
    if (fv_plan_build(ctx, &p, t, NULL) != FV_OK || pssr_tables_bind(&r->tables, p) != FV_OK)
        exit(1);
    bind_data(p);
    fv_params_touch(r->params);
    if (fv_plan_forward(p) != FV_OK) exit(1);
    copy_values(p, "f.%d", 4, H * W * 32, out);
    fv_plan_destroy(&p);
    fv_tape_destroy(&t);
}

static void features_enter_before_the_kept_blocks(void)
{
    enum { N = H * W * 32 };
    static float before[4 * N], after[4 * N];
    const pssr_config c = small_config();
    rig r;
    rig_open(&r, &c, true, 0);
    features_of(&r, before);
    int bad = 0;
    for (int i = 0; i < c.blocks; i++) {
        float *bias = fv_params_tensor(r.params, r.net.base.block[i].down.b).data;
        const float keep = bias[3];
        bias[3] += 1;
        features_of(&r, after);
        bias[3] = keep;
        for (int j = 0; j < 4; j++) {
            const bool differs = memcmp(before + j * N, after + j * N, N * sizeof(float)) != 0;
            bad += differs != (i < pssr_kept_block(&c, j));
        }
    }
    rig_close(&r);
    CHECK(bad == 0);
    pssr_config tiny;
    OK(ctx, pssr_preset(ctx, "tiny", &tiny));
    static const int kept[4] = { 2, 5, 8, 11 };
    for (int j = 0; j < 4; j++) CHECK(pssr_kept_block(&tiny, j) == kept[j]);
    CHECK(pssr_draft_blocks(&tiny) == 4 && pssr_attends(11) && !pssr_attends(8));
    CHECK(pssr_window_shift(3) == 0 && pssr_window_shift(7) == 4 && pssr_window_shift(11) == 0);
}

static void a_draft_starts_as_a_copy_of_the_kept_blocks(void)
{
    const pssr_config c = small_config();
    rig r;
    rig_open(&r, &c, true, 0);
    pssr_draft_init(&r.net);
    const pssr_block *b = &r.net.base.block[5], *d = &r.net.draft.block[2];
    const fv_tensor from = fv_params_tensor(r.params, b->conv.w),
                    to = fv_params_tensor(r.params, d->conv.w);
    const bool same = memcmp(from.data, to.data, (size_t)fv_tensor_count(&to) * 4) == 0;
    const float *w = fv_params_tensor(r.params, d->stream).data;
    const float *stem = fv_params_tensor(r.params, r.net.base.stem.w).data,
                *half = fv_params_tensor(r.params, r.net.draft.stem_state).data;
    const bool fused = w[0] == 0.5f && w[1] == 0 && w[33] == 0.5f && half[7] == 0.5f * stem[7];
    rig_close(&r);
    CHECK(same && fused);
}

/* One matrix over [F ; x] is W_f F + b + W_x x, and one kernel over [z ; z] is W1 + W2 on z. */
static void folded_layers_are_the_unfolded_ones(void)
{
    enum { C = 32 };
    static float x[2 * H * W * C], z2[H * W * 2 * PSSR_STATE];
    static const int64_t joint[2] = { C, 2 * C }, half[2] = { C, C },
                         both[4] = { C, 2 * PSSR_STATE, 3, 3 }, one[4] = { C, PSSR_STATE, 3, 3 };
    const int64_t rows[3] = { 1, H * W, C }, zz[4] = { 1, H, W, 2 * PSSR_STATE };
    fv_params *p;
    fv_tape *t;
    fv_plan *plan;
    OK(ctx, fv_params_create(ctx, &p));
    const fv_pid id[5] = { fv_params_add(p, "joint", 2, joint, 0),
                           fv_params_add(p, "f", 2, half, 0), fv_params_add(p, "x", 2, half, 0),
                           fv_params_add(p, "both", 4, both, 0),
                           fv_params_add(p, "one", 4, one, 0) };
    OK(ctx, fv_params_alloc(p));
    fv_params_init_normal(p, id[0], 1, 0.1f);
    fv_params_init_normal(p, id[3], 1, 0.1f);
    float *v[5];
    for (int k = 0; k < 5; k++) v[k] = fv_params_tensor(p, id[k]).data;
    for (int i = 0; i < C; i++)
        for (int j = 0; j < C; j++) {
            v[1][i * C + j] = v[0][i * 2 * C + j];
            v[2][i * C + j] = v[0][i * 2 * C + C + j];
        }
    for (int i = 0; i < C; i++)
        for (int j = 0; j < PSSR_STATE * 9; j++)
            v[4][i * PSSR_STATE * 9 + j] =
                v[3][i * 2 * PSSR_STATE * 9 + j] + v[3][(i * 2 + 1) * PSSR_STATE * 9 + j];
    OK(ctx, fv_tape_create(ctx, &t, p, FV_INFER, FV_F32));
    const fv_conv same = { 1, 1, 1, 1, 1, FV_ACT_NONE };
    const fv_t f = fv_input(t, "a", FV_F32, 3, rows), s = fv_input(t, "b", FV_F32, 3, rows);
    fv_output(t, "y0", fv_linear(t, fv_concat(t, f, s, 2), id[0], -1, FV_ACT_NONE));
    fv_output(t, "y1", fv_binary_op(t, FV_ADD, fv_linear(t, f, id[1], -1, FV_ACT_NONE),
                                    fv_linear(t, s, id[2], -1, FV_ACT_NONE)));
    fv_output(t, "y2", fv_conv2d(t, fv_input(t, "zz", FV_F32, 4, zz), id[3], -1, same));
    fv_output(t, "y3", fv_conv2d(t, fv_input(t, "z", FV_F32, 4, z_dim), id[4], -1, same));
    OK(ctx, fv_plan_build(ctx, &plan, t, NULL));
    test_fill(x, 2 * H * W * C, 5);
    test_fill(z_data, Z, 1);
    for (int i = 0; i < H * W; i++)
        for (int k = 0; k < 2 * PSSR_STATE; k++)
            z2[i * 2 * PSSR_STATE + k] = z_data[i * PSSR_STATE + k % PSSR_STATE];
    OK(ctx, fv_plan_bind(plan, "a", x));
    OK(ctx, fv_plan_bind(plan, "b", x + H * W * C));
    OK(ctx, fv_plan_bind(plan, "z", z_data));
    OK(ctx, fv_plan_bind(plan, "zz", z2));
    OK(ctx, fv_plan_forward(plan));
    const double fusion = test_rel_max(fv_plan_value(plan, "y1").data,
                                       fv_plan_value(plan, "y0").data, H * W * C);
    const double stem = test_rel_max(fv_plan_value(plan, "y3").data,
                                     fv_plan_value(plan, "y2").data, H * W * C);
    fv_plan_destroy(&plan);
    fv_tape_destroy(&t);
    fv_params_destroy(&p);
    NEAR(fusion, 0, 1e-6);
    NEAR(stem, 0, 1e-6);
}

static void unshuffle_keeps_four_by_four_pixels_as_channels(void)
{
    enum { SIDE_H = 8, SIDE_W = 12, N = SIDE_H * SIDE_W * 3 };
    static const int64_t dim[4] = { 1, SIDE_H, SIDE_W, 3 };
    static float x[N];
    rig r;
    fv_tape *t;
    fv_plan *p;
    const pssr_config c = small_config();
    rig_open(&r, &c, false, 0);
    OK(ctx, fv_tape_create(ctx, &t, r.params, FV_INFER, FV_F32));
    const fv_t z = pssr_unshuffle(t, fv_input(t, "x", FV_F32, 4, dim));
    fv_output(t, "z", fv_affine(t, z, 1.0f, 0.0f)); /* views cannot be outputs */
    fv_output(t, "y", pssr_shuffle(t, z));
    OK(ctx, fv_plan_build(ctx, &p, t, NULL));
    for (int i = 0; i < N; i++) x[i] = (float)i;
    OK(ctx, fv_plan_bind(p, "x", x));
    OK(ctx, fv_plan_forward(p));
    const float *v = fv_plan_value(p, "z").data;
    for (int i = 0; i < N; i++) {
        const int colour = i % 3, px = i / 3 % SIDE_W, py = i / 3 / SIDE_W;
        const int cell = py / 4 * (SIDE_W / 4) + px / 4;
        CHECK(v[cell * 48 + (py % 4 * 4 + px % 4) * 3 + colour] == x[i]);
    }
    CHECK(memcmp(fv_plan_value(p, "y").data, x, sizeof x) == 0);
    fv_plan_destroy(&p);
    fv_tape_destroy(&t);
    rig_close(&r);
}

/* ---- Frames and samples ---------------------------------------------------------------------- */

/* The base on a batch of B, with the frame before in every block if `past` is given. */
static void run_base(const rig *r, int64_t B, const float *z, float *v, float *const *past,
                     float *next)
{
    const int64_t dim[4] = { B, H, W, PSSR_STATE }, plane[4] = { B, H, W, 4 };
    fv_tape *t;
    fv_plan *p;
    pssr_graph g;
    pssr_shift shift = { .take = 0 };
    char name[32];
    if (fv_tape_create(ctx, &t, r->params, FV_INFER, FV_F32) != FV_OK) exit(1);
    const fv_t x = fv_input(t, "z", FV_F32, 4, dim);
    for (int i = 0; i < r->net.cfg.blocks && past; i++) {
        snprintf(name, sizeof name, "past.%d", i);
        shift.past[i] = fv_input(t, name, FV_F32, 4, plane);
    }
    pssr_graph_begin(&g, t, &r->net, B, 0);
    fv_output(t, "v", pssr_base(&g, x, NULL, next ? &shift : NULL));
    for (int i = 0; i < r->net.cfg.blocks && next; i++) {
        snprintf(name, sizeof name, "next.%d", i);
        fv_output(t, name, shift.next[i]);
    }
    if (fv_plan_build(ctx, &p, t, NULL) != FV_OK || pssr_tables_bind(&r->tables, p) != FV_OK ||
        fv_plan_bind(p, "z", (void *)(uintptr_t)z) != FV_OK)
        exit(1);
    for (int i = 0; i < r->net.cfg.blocks && past; i++) {
        snprintf(name, sizeof name, "past.%d", i);
        if (fv_plan_bind(p, name, past[i]) != FV_OK) exit(1);
    }
    if (fv_plan_forward(p) != FV_OK) exit(1);
    memcpy(v, fv_plan_value(p, "v").data, (size_t)B * Z * sizeof(float));
    if (next) copy_values(p, "next.%d", r->net.cfg.blocks, H * W * 4, next);
    fv_plan_destroy(&p);
    fv_tape_destroy(&t);
}

static void a_picture_is_a_film_that_stands_still(void)
{
    static float image[Z], first[Z], second[Z], other[Z], next[8 * H * W * 4];
    float *past[8];
    const pssr_config c = small_config();
    rig r;
    rig_open(&r, &c, true, 0);
    test_fill(z_data, Z, 1);
    test_fill(z_high, Z, 3);
    run_base(&r, 1, z_data, image, NULL, NULL);
    run_base(&r, 1, z_data, first, NULL, next);
    for (int i = 0; i < 8; i++) past[i] = next + (size_t)i * H * W * 4;
    run_base(&r, 1, z_data, second, past, next);
    run_base(&r, 1, z_high, other, NULL, next);
    for (int i = 0; i < 8; i++) past[i] = next + (size_t)i * H * W * 4;
    run_base(&r, 1, z_data, other, past, next);
    rig_close(&r);
    CHECK(memcmp(image, first, sizeof image) == 0);
    CHECK(memcmp(image, second, sizeof image) == 0);
    CHECK(memcmp(image, other, sizeof image) != 0);
}

static void samples_of_a_batch_do_not_meet(void)
{
    static float z[2 * Z], one[Z], two[2 * Z];
    const pssr_config c = small_config();
    rig r;
    rig_open(&r, &c, true, 0);
    test_fill(z, 2 * Z, 4);
    run_base(&r, 2, z, two, NULL, NULL);
    for (int k = 0; k < 2; k++) {
        run_base(&r, 1, z + (size_t)k * Z, one, NULL, NULL);
        const double gap = test_rel_max(two + (size_t)k * Z, one, Z);
        CHECK_MSG(gap <= 2e-6, "%g", gap);
    }
    rig_close(&r);
}

static void the_same_bytes_for_any_number_of_threads(void)
{
    static float y[2][Z];
    fv_ctx *before = ctx;
    for (int threads = 1; threads <= 2; threads++) {
        fv_ctx_options o = FV_CTX_OPTIONS_INIT;
        o.threads = threads;
        if (fv_ctx_create(&ctx, &o) != FV_OK) exit(1);
        const pssr_config c = small_config();
        rig r;
        rig_open(&r, &c, true, 0);
        fv_plan *p = refine_plan(&r, FV_INFER, 3);
        bind_data(p);
        if (fv_plan_forward(p) != FV_OK) exit(1);
        memcpy(y[threads - 1], fv_plan_value(p, "zhat.3").data, sizeof y[0]);
        fv_plan_destroy(&p);
        rig_close(&r);
        fv_ctx_destroy(&ctx);
    }
    ctx = before;
    CHECK(memcmp(y[0], y[1], sizeof y[0]) == 0);
}

int main(void)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(parameters_are_as_many_as_specified);
    RUN(configs_survive_metadata_and_refuse_nonsense);
    RUN(gradients_of_the_base_match_differences);
    RUN(gradients_of_the_draft_match_differences);
    RUN(frozen_parts_get_no_gradient);
    RUN(the_exact_velocity_leads_to_the_target_from_every_step);
    RUN(a_new_model_returns_its_input);
    RUN(features_enter_before_the_kept_blocks);
    RUN(a_draft_starts_as_a_copy_of_the_kept_blocks);
    RUN(folded_layers_are_the_unfolded_ones);
    RUN(unshuffle_keeps_four_by_four_pixels_as_channels);
    RUN(a_picture_is_a_film_that_stands_still);
    RUN(samples_of_a_batch_do_not_meet);
    RUN(the_same_bytes_for_any_number_of_threads);
    fv_ctx_destroy(&ctx);
    return test_end();
}
