/* test_wan_parity.c - PS-SR's transformer and loop on Wan2.1 against PyTorch at small width
 * (tests/parity/wan_small.py): checkpoints whose weights are functions of a hash go through the
 * converter; the golden file holds results of all 512 rows of the prompt in double precision. */
#include "golden_parity.h"
#include "temp_dir.h"
#include "wan_random.h"

enum { F = 3, H = 10, W = 14, N = 105, SIZE = F * H * W * WAN_LATENT };
static const int64_t z_dim[4] = {F, H, W, WAN_LATENT};
static float z[SIZE];

static double gap_to(const char *name, const float *got, int64_t stride_rows)
{
    fv_model *g = open_golden("wan_small_io");
    const fv_tensor want = golden_tensor(g, name);
    const int64_t columns = want.dim[want.ndim - 1], n = fv_tensor_count(&want);
    double worst = 0, scale = 0;
    for (int64_t i = 0; i < n; i++) {
        const double w = (double)((const float *)want.data)[i];
        worst = test_worst(worst, w - got[i / columns * columns * stride_rows + i % columns]);
        scale = fmax(scale, fabs(w));
    }
    fv_model_close(&g);
    return worst / scale;
}

/* The converted model with draft "k1." or "k1.5.", and its file. */
static fv_status open_as(fv_dtype type, const char *draft, bool zero, bool full_text, wan_model **m,
                         fv_model **file)
{
    wan_file dit = {.label = "dit.", .blocks = SMALL_BLOCKS};
    wan_file lora = {.label = "lora.", .blocks = SMALL_BLOCKS};
    wan_file pruned = {.label = draft};
    char path[5][512];
    static const char *const name[5] = {"dit", "lora", "draft", "text", "out"};
    const char *in[5] = {NULL};
    fv_wan_convert_options o = FV_WAN_CONVERT_OPTIONS_INIT;
    pruned.blocks = pruned.fused = strcmp(draft, "k1.") == 0 ? 3 : 1;
    for (int i = 0; i < 5; i++) snprintf(path[i], sizeof path[i], "%s", temp_path(name[i]));
    for (int i = 0; i < 4; i++) in[i] = path[i];
    FV_TRY(wan_write(ctx, &dit, path[0]));
    FV_TRY(wan_write(ctx, &lora, path[1]));
    FV_TRY(wan_write(ctx, &pruned, path[2]));
    FV_TRY(wan_write_context(ctx, SMALL_L, path[3]));
    o.type = type;
    o.draft_zero = zero;
    if (pruned.fused == 1) o.prune = 1.5;
    FV_TRY(wan_convert_files(ctx, in, &o, path[4]));
    FV_TRY(fv_model_open(ctx, file, path[4], NULL));
    return wan_model_open(ctx, m, *file, NULL, full_text, type);
}

static fv_status open_small(const char *draft, bool zero, bool full_text, wan_model **m,
                            fv_model **file)
{
    return open_as(FV_F32, draft, zero, full_text, m, file);
}

static void close_small(wan_model **m, fv_model **file)
{
    wan_model_close(m);
    fv_model_close(file);
}

/* ---- Parts ----------------------------------------------------------------------------------- */

static fv_status run_parts(wan_model *m, fv_plan **out, float *rope)
{
    const wan_config *c = &m->net.cfg;
    const int64_t table[3] = {N, 2, 16}, rows = m->rows;
    fv_t features[WAN_MAX_BLOCKS];
    fv_tape *t = NULL;
    char name[48];
    FV_TRY(fv_tape_create(ctx, &t, m->net.params, FV_INFER, FV_F32));
    wan_graph g = {.tape = t, .net = &m->net};
    wan_fixed_inputs(t, &m->net, rows, &g.fixed);
    g.fixed.bias = fv_input(t, "wan.bias", FV_F32, 1, &rows);
    g.rope = fv_input(t, "wan.rope", FV_F32, 3, table);
    fv_output(t, "v", wan_base(&g, fv_input(t, "z", FV_F32, 4, z_dim), features));
    fv_output(t, "patch", features[0]);
    fv_output(t, "block0", features[1]);
    fv_output(t, "last",
              wan_run_block(&g, &m->net.base.block[2], 0, features[2], g.fixed.base_kv[2]));
    FV_TRY(fv_plan_finish(ctx, out, &t, NULL));
    wan_rope_table(F, H / 2, W / 2, 32, rope);
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < 3; i++) {
            snprintf(name, sizeof name, "wan.%s.kv.%d", half ? "draft" : "base", i);
            FV_TRY(fv_plan_bind(*out, name, fv_plan_value(m->once, name).data));
        }
    for (int k = 0; k < 2 * c->times; k++) {
        snprintf(name, sizeof name, "wan.%s.%d", k % 2 ? "mod" : "time", k / 2);
        FV_TRY(fv_plan_bind(*out, name, fv_plan_value(m->once, name).data));
    }
    FV_TRY(fv_plan_bind(*out, "wan.bias", m->bias));
    FV_TRY(fv_plan_bind(*out, "wan.rope", rope));
    FV_TRY(fv_plan_bind(*out, "z", z));
    return fv_plan_forward(*out);
}

static void parts_are_pytorchs(void)
{
    static float rope[N * 32];
    static const char *const part[4] = {"patch", "block0", "last", "v"};
    wan_model *m = NULL;
    fv_model *file = NULL;
    fv_plan *p = NULL;
    double gap[4] = {0};
    OK(ctx, open_small("k1.", false, false, &m, &file));
    const fv_status s = run_parts(m, &p, rope);
    for (int i = 0; i < 4 && s == FV_OK; i++)
        gap[i] = gap_to(part[i], fv_plan_value(p, part[i]).data, i < 3 ? 7 : 1);
    fv_plan_destroy(&p);
    close_small(&m, &file);
    OK(ctx, s);
    CHECK_MSG(gap[0] <= 2e-6 && gap[1] <= 2e-5 && gap[2] <= 2e-5 && gap[3] <= 2e-5,
              "patch %g, block %g, last %g, v %g", gap[0], gap[1], gap[2], gap[3]);
}

static void times_are_pytorchs(void)
{
    wan_model *m = NULL;
    fv_model *file = NULL, *g = open_golden("wan_small_io");
    double worst = 0;
    OK(ctx, open_small("k1.", false, false, &m, &file));
    for (int k = 0; k < 4; k++) {
        char name[32];
        snprintf(name, sizeof name, "wan.time.%d", k);
        const float *e = fv_plan_value(m->once, name).data;
        snprintf(name, sizeof name, "wan.mod.%d", k);
        const float *mod = fv_plan_value(m->once, name).data;
        const float *want = golden_tensor(g, k ? "k1.time" : "dit.time").data;
        const float *want_mod = golden_tensor(g, k ? "k1.mod" : "dit.mod").data;
        for (int i = 0; i < SMALL_C; i++)
            worst = test_worst(worst, (double)e[i] - want[k * SMALL_C + i]);
        for (int i = 0; i < 6 * SMALL_C / 8; i++)
            worst = test_worst(worst, (double)mod[8 * i] - want_mod[k * 6 * SMALL_C / 8 + i]);
    }
    fv_model_close(&g);
    close_small(&m, &file);
    CHECK_MSG(worst <= 1e-5, "%g", worst);
}

/* ---- The loop -------------------------------------------------------------------------------- */

static fv_status run_loop(const wan_model *m, int steps, float *const *zhat)
{
    wan_flow *f = NULL;
    fv_status s = wan_flow_create(m, &f, F, H, W, steps);
    if (s == FV_OK) s = wan_flow_run(f, z, zhat);
    wan_flow_close(&f);
    return s;
}

static float all[4][SIZE], full[4][SIZE];

static double zhat_gap(const char *name, const float *got)
{
    static float some[F * 4 * 5 * WAN_LATENT];
    float *to = some;
    for (int f = 0; f < F; f++)
        for (int y = 0; y < H; y += 3)
            for (int x = 0; x < W; x += 3, to += WAN_LATENT)
                memcpy(to, got + ((f * H + y) * W + x) * WAN_LATENT, WAN_LATENT * sizeof *to);
    return gap_to(name, some, 1);
}

static void check_loop(const char *draft, bool zero)
{
    float *const zhat[4] = {all[0], all[1], all[2], all[3]};
    wan_model *m = NULL;
    fv_model *file = NULL;
    OK(ctx, open_small(draft, zero, false, &m, &file));
    const fv_status s = run_loop(m, 4, zhat);
    close_small(&m, &file);
    OK(ctx, s);
    for (int k = 0; k < 4; k++) {
        char name[64];
        if (k == 2) continue;
        snprintf(name, sizeof name, "%s%s.zhat%d", draft, zero ? "zero" : "lq", k);
        const double gap = zhat_gap(name, all[k]);
        CHECK_MSG(gap <= 2e-5, "%s: %g", name, gap);
    }
}
static void loop_with_all_blocks_is_pytorchs(void) { check_loop("k1.", false); }
static void loop_with_pruned_draft_is_pytorchs(void) { check_loop("k1.5.", false); }
static void loop_with_zero_condition_is_pytorchs(void) { check_loop("k1.5.", true); }

/* |got - want| over |z - want|, the way that the estimate has moved. */
static double distance(const float *got, const float *want)
{
    double sum = 0, all_of = 0;
    for (int i = 0; i < SIZE; i++) {
        sum += pow((double)got[i] - (double)want[i], 2);
        all_of += pow((double)z[i] - (double)want[i], 2);
    }
    return sqrt(sum / all_of);
}

/* Weights of 8 bits: 2^-9 each at most. Where the CPU has AVX-512 activations are rounded too. */
static void bf16_stays_near(void)
{
    float *const zhat[4] = {all[0], all[1], all[2], all[3]};
    float *const exact[4] = {full[0], full[1], full[2], full[3]};
    const double most = fv_ctx_cpu(ctx) & FV_CPU_AVX512 ? 3e-2 : 1e-2;
    wan_model *m = NULL;
    fv_model *file = NULL;
    OK(ctx, open_small("k1.", false, false, &m, &file));
    fv_status s = run_loop(m, 4, exact);
    close_small(&m, &file);
    OK(ctx, s);
    OK(ctx, open_as(FV_BF16, "k1.", false, false, &m, &file));
    s = run_loop(m, 4, zhat);
    close_small(&m, &file);
    OK(ctx, s);
    for (int k = 0; k < 4; k++) {
        const double d = distance(all[k], full[k]);
        CHECK_MSG(d > 0 && d <= most, "step %d: %g", k, d);
    }
}

static void one_row_stands_for_the_padding(void)
{
    float *const zhat[4] = {all[0], all[1], all[2], all[3]};
    float *const other[4] = {full[0], full[1], full[2], full[3]};
    wan_model *m = NULL;
    fv_model *file = NULL;
    OK(ctx, open_small("k1.", false, false, &m, &file));
    CHECK(m->rows == SMALL_L + 1);
    OK(ctx, run_loop(m, 4, zhat));
    close_small(&m, &file);
    OK(ctx, open_small("k1.", false, true, &m, &file));
    CHECK(m->rows == 512);
    OK(ctx, run_loop(m, 4, other));
    close_small(&m, &file);
    double worst = 0, scale = 0;
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < SIZE; i++) {
            worst = test_worst(worst, (double)all[k][i] - full[k][i]);
            scale = fmax(scale, fabs((double)full[k][i]));
        }
    CHECK_MSG(worst <= 4e-6 * scale, "%g of %g", worst, scale);
}

static void fewer_steps_give_the_same_bits(void)
{
    float *const zhat[4] = {all[0], all[1], all[2], all[3]}, *const one[4] = {full[0]};
    wan_model *m = NULL;
    fv_model *file = NULL;
    OK(ctx, open_small("k1.5.", false, false, &m, &file));
    fv_status s = run_loop(m, 4, zhat);
    if (s == FV_OK) s = run_loop(m, 1, one);
    close_small(&m, &file);
    OK(ctx, s);
    CHECK(memcmp(all[0], full[0], sizeof all[0]) == 0);
}

/* ---- Schedule and pruning -------------------------------------------------------------------- */

static void times_are_those_of_the_published_table(void)
{
    static const double want[2][4] = {{0.6998239437, 0.6003118504, 0.5005995204, 0.4008152174},
                                      {0.6988536155, 0.5989583333, 0.4987980769, 0.3985013624}};
    for (int f32 = 0; f32 < 2; f32++) {
        wan_config c = {.times = 0};
        wan_schedule(&c, !f32);
        CHECK(c.times == 4);
        for (int k = 0; k < 4; k++) {
            NEAR((double)c.sigma[k], want[f32][k], 1e-7);
            CHECK((double)c.time[k] == 700 - 100 * k - f32);
        }
    }
}

/* With v = (z_L - z_H) / sigma_0 every estimate is z_H. */
static void the_exact_velocity_leads_to_the_target_from_every_step(void)
{
    static float low[SIZE], high[SIZE], velocity[SIZE];
    wan_net *n = fv_calloc(ctx, 1, sizeof *n);
    fv_tape *t = NULL;
    fv_plan *p = NULL;
    CHECK(n != NULL);
    wan_published(&n->cfg);
    test_fill(low, SIZE, 1);
    test_fill(high, SIZE, 2);
    for (int i = 0; i < SIZE; i++) velocity[i] = (low[i] - high[i]) / n->cfg.sigma[0];
    OK(ctx, fv_tape_create(ctx, &t, NULL, FV_INFER, FV_F32));
    wan_graph g = {.tape = t, .net = n};
    fv_t state = fv_input(t, "z", FV_F32, 4, z_dim);
    const fv_t v = fv_input(t, "v", FV_F32, 4, z_dim);
    for (int k = 0; k < 4; k++) {
        char name[16];
        snprintf(name, sizeof name, "zhat.%d", k);
        fv_output(t, name, wan_estimate(&g, k, state, v));
        if (k < 3) state = wan_advance(&g, k, state, v);
    }
    OK(ctx, fv_plan_finish(ctx, &p, &t, NULL));
    OK(ctx, fv_plan_bind(p, "z", low));
    OK(ctx, fv_plan_bind(p, "v", velocity));
    OK(ctx, fv_plan_forward(p));
    double worst = 0;
    for (int k = 0; k < 4; k++) {
        char name[16];
        snprintf(name, sizeof name, "zhat.%d", k);
        const float *zhat = fv_plan_value(p, name).data;
        for (int i = 0; i < SIZE; i++) worst = test_worst(worst, (double)zhat[i] - (double)high[i]);
    }
    fv_plan_destroy(&p);
    fv_free(ctx, n);
    CHECK_MSG(worst <= 1e-6, "%g", worst);
}

/* 22 pairs turn by the frame, 21 by the row and 21 by the column. */
static void the_published_head_is_split_44_42_42(void)
{
    static float table[2 * 3 * 4 * 128];
    wan_rope_table(2, 3, 4, 128, table);
    const float *row = table + (1 * 12 + 2 * 4 + 3) * 128; /* frame 1, row 2, column 3 */
    for (int j = 0; j < 64; j++) {
        const double at = j < 22 ? 1 : j < 43 ? 2 : 3;
        const double e = j < 22 ? 2.0 * j / 44 : 2.0 * (j < 43 ? j - 22 : j - 43) / 42;
        NEAR((double)row[j], cos(at * pow(10000, -e)), 1e-7);
        NEAR((double)row[64 + j], sin(at * pow(10000, -e)), 1e-7);
    }
}

static void windows_are_checked(void)
{
    static const int bad[][4] = {{0, 4, 4, 1}, {1, 3, 4, 1}, {1, 4, 5, 1},   {1, 4, 4, 0},
                                 {1, 4, 4, 5}, {1, 0, 4, 1}, {1, 4, 4096, 1}};
    wan_model *m = NULL;
    wan_flow *f = NULL;
    fv_model *file = NULL;
    OK(ctx, open_small("k1.5.", false, false, &m, &file));
    for (size_t i = 0; i < FV_ARRAY_LEN(bad); i++)
        CHECK(wan_flow_create(m, &f, bad[i][0], bad[i][1], bad[i][2], bad[i][3]) == FV_ERR_ARG &&
              !f);
    close_small(&m, &file);
}

static void pruning_keeps_the_published_blocks(void)
{
    static const struct {
        double k;
        int count, first, step;
    } want[] = {{1, 30, 0, 1}, {1.5, 10, 2, 3}, {2, 15, 1, 2}, {3, 10, 2, 3}, {6, 5, 5, 6}};
    for (size_t i = 0; i < FV_ARRAY_LEN(want); i++) {
        int kept[WAN_MAX_BLOCKS];
        CHECK(wan_kept_blocks(30, want[i].k, kept) == want[i].count);
        for (int j = 0; j < want[i].count; j++) CHECK(kept[j] == want[i].first + j * want[i].step);
    }
}

static void parameters_are_as_many_as_published(void)
{
    wan_config c;
    fv_params *p = NULL;
    wan_net *n = fv_calloc(ctx, 1, sizeof *n);
    CHECK(n != NULL);
    wan_published(&c);
    OK(ctx, wan_config_check(ctx, &c));
    OK(ctx, fv_params_create(ctx, &p));
    wan_net_add(n, p, &c);
    const int64_t all_of = fv_params_elements(p);
    fv_params_destroy(&p);
    fv_free(ctx, n);
    /* base of 16 channels, whose two patch matrices are one, and the draft with its 32 */
    CHECK_MSG(all_of == 1418996800LL + 537482304LL, "%lld", (long long)all_of);
}

static void tests(void)
{
    wan_noise("z", z, SIZE);
    RUN(parts_are_pytorchs);
    RUN(times_are_pytorchs);
    RUN(loop_with_all_blocks_is_pytorchs);
    RUN(loop_with_pruned_draft_is_pytorchs);
    RUN(loop_with_zero_condition_is_pytorchs);
    RUN(bf16_stays_near);
    RUN(one_row_stands_for_the_padding);
    RUN(fewer_steps_give_the_same_bits);
    RUN(times_are_those_of_the_published_table);
    RUN(the_exact_velocity_leads_to_the_target_from_every_step);
    RUN(the_published_head_is_split_44_42_42);
    RUN(windows_are_checked);
    RUN(pruning_keeps_the_published_blocks);
    RUN(parameters_are_as_many_as_published);
}

int main(void)
{
    temp_dir_make("wan-parity");
    return parity_main(tests);
}
