/* test_engine_actions.c - what the engine does beyond FULL: whole plans, reuse, linear forecasts,
 * checks and policies, each against the same thing put together by hand; what happens when there is
 * nothing to forecast from; batches, threads, memory. Skipped evaluations and pruned modules:
 * test_engine_savings.c. */
#include "alloc_fail.h"
#include "engine_rig.h"

/* ---- Whole plans ----------------------------------------------------------------------------- */

static void set(fv_accel *a, int e, int k, int action, int pruned, const float *w, int count)
{
    const size_t at = (size_t)(e * 2 * a->depth + k);
    a->action[at] = (uint8_t)action;
    a->pruned[at] = (uint8_t)pruned;
    for (int i = 0; i < count; i++) a->weight[at * DIT_HISTORY + (size_t)i] = w[i];
}

/* Everything that a plan can say, for two blocks and STEPS evaluations. */
static fv_status mixed_plan(fv_accel **out, const dit_config *c, dit_skip skip, dit_score score)
{
    static const float two[] = { 1.8f, -0.8f }, three[] = { 2.25f, -1.75f, 0.5f }, one[] = { 1 };
    FV_TRY(fvi_accel_create(ctx, out, STEPS, c->depth));
    fv_accel *a = *out;
    a->skip = skip;
    a->score = score;
    a->steps = STEPS;
    a->sampler = c->family == DIT_F ? FV_SAMPLER_EULER : FV_SAMPLER_DDIM;
    a->cfg = 2;
    a->predicted_speedup = a->flop_ratio = 1.5;
    snprintf(a->mode, sizeof a->mode, "mixed");
    for (int k = 0; k < 4; k++) {
        set(a, 3, k, k % 2 ? DIT_PRUNE : DIT_LINEAR, k / 2, two, 2);
        set(a, 5, k, k == 0 ? DIT_REUSE : k == 1 ? DIT_PRUNE : DIT_LINEAR, 2, k == 1 ? one : three,
            k == 1 ? 1 : 3);
        if (k) set(a, 6, k, k == 3 ? DIT_PRUNE : DIT_REUSE, 1, one, 1);
    }
    a->skipped[4] = a->skipped[7] = 1;
    memcpy(a->skip_weight + 4 * DIT_HISTORY, three, sizeof three);
    memcpy(a->skip_weight + 7 * DIT_HISTORY, two, sizeof two);
    fvi_accel_count(a);
    return FV_OK;
}

static fv_status sample(fv_ctx *c, const dit_net *net, const fv_accel *a, int count, int batch,
                        float *x, fv_generate_stats *st)
{
    static const int classes[MOST_B] = { 1, 2, 0, 1 };
    fv_generate_options o = options(&net->cfg, 2);
    o.count = count;
    o.batch = batch;
    o.classes = classes;
    o.accel = a;
    return dit_generate_net(c, net, FV_F32, &o, NULL, x, st);
}

static void full_plan_is_the_plain_sampler(void)
{
    for (int f = 0; f < 2; f++) {
        const dit_config c = config(families[f], true);
        const size_t n = 2 * (size_t)(c.input_size * c.input_size * c.channels);
        dit_net net;
        fv_accel *a;
        fv_generate_stats st;
        float *x = test_alloc(n * 4), *y = test_alloc(n * 4);
        OK(ctx, random_net(ctx, &net, &c, 5, 0.15f));
        OK(ctx, mixed_plan(&a, &c, DIT_SKIP_RESIDUAL, DIT_SCORE_DRIFT));
        memset(a->action, DIT_FULL, (size_t)STEPS * 4); /* the rings, plans and scores stay */
        memset(a->skipped, 0, STEPS);
        OK(ctx, sample(ctx, &net, NULL, 2, 2, x, NULL));
        OK(ctx, sample(ctx, &net, a, 2, 2, y, &st));
        CHECK(is_same(x, y, n) && st.reused_modules == 0 && a->history == 3 && a->prunes);
        fvi_accel_count(a);
        CHECK(a->anchors == STEPS && a->history == 1 && !a->prunes && a->step_history == 0);
        OK(ctx, sample(ctx, &net, a, 2, 2, y, &st));
        CHECK(is_same(x, y, n) && st.reused_modules == 0);
        fv_accel_free(&a);
        dit_net_destroy(ctx, &net);
        free(x);
        free(y);
    }
}

/* Also with a smaller last batch, whose rings are new. */
static void batches_equal_single_runs(void)
{
    for (int f = 0; f < 2; f++)
        for (int skip = 0; skip < 3; skip++) {
            const dit_config c = config(families[f], true);
            const size_t n = 4 * (size_t)(c.input_size * c.input_size * c.channels);
            dit_net net;
            fv_accel *a;
            float *x = test_alloc(n * 4), *y = test_alloc(n * 4);
            OK(ctx, random_net(ctx, &net, &c, 5, 0.15f));
            OK(ctx, mixed_plan(&a, &c, (dit_skip)skip, (dit_score)skip));
            OK(ctx, sample(ctx, &net, a, 4, 1, x, NULL));
            OK(ctx, sample(ctx, &net, a, 4, 3, y, NULL));
            CHECK_MSG(test_rel_l2(y, x, (int64_t)n) <= 1e-6, "skip %d: %g", skip,
                      test_rel_l2(y, x, (int64_t)n));
            OK(ctx, sample(ctx, &net, NULL, 4, 3, y, NULL));
            CHECK(test_rel_l2(y, x, (int64_t)n) > 1e-4); /* the plan does something */
            fv_accel_free(&a);
            dit_net_destroy(ctx, &net);
            free(x);
            free(y);
        }
}

/* Plans know what they were made for; the model's hash is compared where a plan is read. */
static void plans_of_another_run_are_refused(void)
{
    const dit_config c = config(DIT_OFFICIAL, true);
    float *x = test_alloc((size_t)(c.input_size * c.input_size * c.channels) * 4);
    fv_generate_options o = options(&c, 2);
    fv_accel *a;
    dit_net net;
    OK(ctx, random_net(ctx, &net, &c, 5, 0.15f));
    OK(ctx, mixed_plan(&a, &c, DIT_SKIP_OUTPUT, DIT_SCORE_MEAN));
    o.accel = a;
    o.sampler = FV_SAMPLER_DPMPP2M;
    CHECK(dit_generate_net(ctx, &net, FV_F32, &o, NULL, x, NULL) == FV_ERR_MODEL);
    CHECK(strstr(fv_ctx_error(ctx), "ddim") && strstr(fv_ctx_error(ctx), "dpmpp2m"));
    o.sampler = FV_SAMPLER_DDIM;
    o.steps = STEPS + 1;
    CHECK(dit_generate_net(ctx, &net, FV_F32, &o, NULL, x, NULL) == FV_ERR_MODEL);
    o.steps = STEPS;
    OK(ctx, dit_generate_net(ctx, &net, FV_F32, &o, NULL, x, NULL));
    fv_accel_free(&a);
    dit_net_destroy(ctx, &net);
    free(x);
}

static void read_plans_make_the_same_bytes(void)
{
    for (int score = 0; score < 4; score++) {
        const dit_config c = config(families[score % 2], true);
        const size_t n = 2 * (size_t)(c.input_size * c.input_size * c.channels);
        float *x = test_alloc(n * 4), *y = test_alloc(n * 4);
        fv_accel *a, *read;
        dit_net net;
        char *text;
        size_t size;
        OK(ctx, random_net(ctx, &net, &c, 5, 0.15f));
        OK(ctx, mixed_plan(&a, &c, (dit_skip)((score + 1) % 3), (dit_score)score));
        OK(ctx, fvi_accel_text(ctx, a, &text, &size));
        OK(ctx, fvi_accel_parse(ctx, &read, text, size));
        OK(ctx, sample(ctx, &net, a, 2, 2, x, NULL));
        OK(ctx, sample(ctx, &net, read, 2, 2, y, NULL));
        CHECK(is_same(x, y, n));
        fv_free(ctx, text);
        fv_accel_free(&a);
        fv_accel_free(&read);
        dit_net_destroy(ctx, &net);
        free(x);
        free(y);
    }
}

static void same_bytes_for_1_and_2_threads(void)
{
    const dit_config c = config(DIT_OFFICIAL, true);
    const size_t n = 3 * (size_t)(c.input_size * c.input_size * c.channels);
    float *x[2] = { test_alloc(n * 4), test_alloc(n * 4) };
    dit_net net;
    OK(ctx, random_net(ctx, &net, &c, 5, 0.15f));
    for (int score = 0; score < 4; score++) {
        fv_accel *a;
        OK(ctx, mixed_plan(&a, &c, (dit_skip)(score % 3), (dit_score)score));
        for (int t = 0; t < 2; t++) {
            fv_ctx_options co = FV_CTX_OPTIONS_INIT;
            fv_ctx *threads;
            co.threads = t + 1;
            OK(ctx, fv_ctx_create(&threads, &co));
            OK(threads, sample(threads, &net, a, 3, 3, x[t], NULL));
            fv_ctx_destroy(&threads);
        }
        CHECK(is_same(x[0], x[1], n));
        for (size_t i = 0; i < n; i++) CHECK(isfinite(x[0][i]));
        fv_accel_free(&a);
    }
    dit_net_destroy(ctx, &net);
    free(x[0]);
    free(x[1]);
}

/* ---- Reuse and linear forecasts -------------------------------------------------------------- */

static void forecast_with_one_weight_is_reuse(void)
{
    static const float one[] = { 1 };
    for (int f = 0; f < 2; f++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            const dit_config c = config(families[f], true);
            const actions reuse = all(DIT_REUSE, one, 0), linear = all(DIT_LINEAR, one, 1);
            const dit_row rows[2] = { row_of(&reuse), row_of(&linear) };
            dit_runner_options ro = { .B = 2, .keep_outputs = true };
            float *out[2];
            int n;
            rig g;
            OK(ctx, rig_open(&g, &c, f ? 2.0f : 1.0f, bf16 ? FV_BF16 : FV_F32, &ro));
            for (int i = 0; i < 2; i++) { /* and with a ring of one output or of five */
                ro.history = i ? DIT_HISTORY : 0;
                OK(ctx, rig_runner(&g, bf16 ? FV_BF16 : FV_F32, &ro));
                drop(&g, 0, NULL);
                drop(&g, 1, NULL);
                out[i] = eval(&g, 2, &rows[i], &n);
            }
            CHECK(is_same(out[0], out[1], (size_t)n * g.out_n));
            free(out[0]);
            free(out[1]);
            rig_close(&g);
        }
}

/* Module k has weights of its own: the same for all would also fit a mix-up of modules. */
static actions varied(int count)
{
    actions a = all(DIT_LINEAR, NULL, 0);
    uint64_t state = 9;
    for (int k = 0; k < 8; k++)
        for (int i = 0; i < count; i++)
            a.weight[k][i] = (float)(int32_t)test_next(&state) / 2147483648.0f + (i == 0);
    return a;
}

static void check_forecast(const dit_config *c, float cfg, fv_dtype precision, bool is_exact,
                           int count)
{
    const int K = 2 * c->depth;
    const actions a = varied(count), again = all(DIT_REUSE, NULL, 0);
    const dit_row linear = row_of(&a), reuse = row_of(&again);
    const dit_runner_options ro = { .B = 2, .keep_outputs = true, .history = count,
                                    .exact_cache = is_exact };
    float *past[8][DIT_HISTORY];
    int rows = 0;
    rig g;
    OK(ctx, rig_open(&g, c, cfg, precision, &ro));
    for (int e = 0; e < count; e++) {
        free(eval(&g, e, NULL, &rows));
        for (int k = 0; k < K; k++) past[k][count - 1 - e] = feature(&g, k, rows);
    }
    float *got = eval(&g, count, &linear, NULL);
    for (int k = 0; k < K; k++) {
        float *sum = combine(past[k], a.weight[k], count, (size_t)rows * g.token);
        OK(ctx, set_feature(&g, k, sum, rows));
        free(sum);
        for (int i = 0; i < count; i++) free(past[k][i]);
    }
    float *want = eval(&g, count, &reuse, NULL);
    const double gap = test_rel_l2(got, want, (int64_t)((size_t)rows * g.out_n));
    /* The reference keeps its sum in the ring's type: half a unit in 8 bits. */
    CHECK_MSG(gap <= (precision == FV_F32 ? 5e-6 : 1e-2), "%d outputs: %g", count, gap);
    free(got);
    free(want);
    rig_close(&g);
}

static void forecasts_equal_direct_sums(void)
{
    for (int f = 0; f < 2; f++)
        for (int count = 2; count <= DIT_HISTORY; count++)
            for (int p = 0; p < 3 && !test_bad; p++) {
                const dit_config c = config(families[f], true);
                check_forecast(&c, f ? 2.0f : 1.0f, p ? FV_BF16 : FV_F32, p == 2, count);
            }
}

/* REUSE and forecasts do not count as outputs: the third newest is that of the third FULL. */
static void only_computed_outputs_are_history(void)
{
    static const float w[] = { 0, 0, 1 };
    const dit_config c = config(DIT_OFFICIAL, true);
    const dit_runner_options ro = { .B = 1, .keep_outputs = true, .history = 3 };
    const actions a = all(DIT_LINEAR, w, 3), again = all(DIT_REUSE, w, 0);
    const dit_row linear = row_of(&a), reuse = row_of(&again);
    float *first[4];
    rig g;
    OK(ctx, rig_open(&g, &c, 2, FV_F32, &ro));
    drop(&g, 0, NULL);
    for (int k = 0; k < 4; k++) first[k] = feature(&g, k, 2);
    drop(&g, 1, NULL);
    drop(&g, 2, &reuse);
    drop(&g, 3, &reuse);
    drop(&g, 4, NULL);
    drop(&g, 5, &linear);
    float *got = eval(&g, 6, &linear, NULL);
    for (int k = 0; k < 4; k++) {
        OK(ctx, set_feature(&g, k, first[k], 2));
        free(first[k]);
    }
    float *want = eval(&g, 6, &reuse, NULL);
    CHECK(is_same(got, want, 2 * g.out_n));
    free(got);
    free(want);
    rig_close(&g);
}

/* ---- Nothing to forecast from ---------------------------------------------------------------- */

static void missing_history_is_computed(void)
{
    static const float w[] = { 2, -1.5f, 0.5f };
    const dit_config c = config(DIT_OFFICIAL, true);
    const dit_runner_options ro = { .B = 1, .keep_outputs = true, .history = 3, .step_history = 3,
                                    .prunes = true, .skip = DIT_SKIP_HIDDEN };
    double flop;
    int64_t full, reused;
    rig g;
    OK(ctx, rig_open(&g, &c, 2, FV_F32, &ro));
    float *plain[4];
    for (int e = 0; e < 4; e++) plain[e] = eval(&g, e, NULL, NULL);
    for (int what = 0; what < 4; what++) { /* reuse, linear, prune, skip */
        actions a = all(what == 0   ? DIT_REUSE
                        : what == 1 ? DIT_LINEAR
                        : what == 2 ? DIT_PRUNE
                                    : DIT_FULL, w, 3);
        dit_row row = row_of(&a);
        if (what == 3) row.skip_weight = a.weight[0];
        const int needs = what == 0 ? 1 : 3;
        OK(ctx, rig_runner(&g, FV_F32, &ro));
        for (int e = 0; e <= needs; e++) {
            float *out = eval(&g, e, &row, NULL);
            CHECK_MSG(is_same(out, plain[e], 2 * g.out_n) == (e < needs), "%d at %d", what, e);
            free(out);
            dit_runner_counters(g.r, &flop, &full, &reused);
            CHECK(full == 4 * (e < needs ? e + 1 : needs));
        }
    }
    /* A ring that is shorter than the plan's weights is history that is missing. */
    const dit_runner_options narrow = { .B = 1, .keep_outputs = true, .history = 2 };
    const actions a = all(DIT_LINEAR, w, 3);
    const dit_row row = row_of(&a);
    OK(ctx, rig_runner(&g, FV_F32, &narrow));
    for (int e = 0; e < 4; e++) {
        float *out = eval(&g, e, &row, NULL);
        CHECK(is_same(out, plain[e], 2 * g.out_n));
        free(out);
        free(plain[e]);
    }
    rig_close(&g);
}

/* A new batch begins without history, whatever the last one left. */
static void starting_forgets(void)
{
    static const int32_t other[2] = { 0, 0 };
    static const float w[] = { 1, 0.5f };
    const dit_config c = config(DIT_F, true);
    const dit_runner_options ro = { .B = 2, .keep_outputs = true, .history = 2, .step_history = 2,
                                    .skip = DIT_SKIP_RESIDUAL };
    const actions a = all(DIT_LINEAR, w, 2);
    const dit_row row = row_of(&a), skip = { NULL, NULL, NULL, a.weight[0] };
    rig g;
    OK(ctx, rig_open(&g, &c, 1, FV_F32, &ro));
    for (int e = 0; e < 3; e++) drop(&g, e, NULL);
    for (int i = 0; i < 2; i++) {
        OK(ctx, dit_runner_start(g.r, other));
        float *want = eval(&g, 0, NULL, NULL);
        OK(ctx, dit_runner_start(g.r, other));
        float *got = eval(&g, 0, i ? &skip : &row, NULL);
        CHECK(is_same(got, want, 2 * g.out_n));
        free(got);
        free(want);
    }
    rig_close(&g);
}

/* Guidance begins at evaluation 1: what was computed for B rows does not serve 2B. */
static void more_rows_are_computed(void)
{
    static const float w[] = { 1 };
    const dit_config c = config(DIT_F, true);
    for (int what = 0; what < 4; what++) {
        const dit_runner_options ro = { .B = 2, .keep_outputs = true, .step_history = 1,
                                        .prunes = true, .skip = (dit_skip)(what % 3) };
        actions a = all(what == 0   ? DIT_REUSE
                        : what == 1 ? DIT_LINEAR
                        : what == 2 ? DIT_PRUNE
                                    : DIT_FULL, w, 1);
        dit_row row = row_of(&a);
        int rows = 0;
        rig g;
        if (what == 3) row.skip_weight = a.weight[0];
        OK(ctx, rig_open(&g, &c, 2, FV_F32, &ro));
        CHECK(!dit_schedule_guided(&g.sc, 0) && dit_schedule_guided(&g.sc, 1));
        drop(&g, 0, NULL);
        float *want = eval(&g, 1, NULL, &rows);
        CHECK(rows == 4);
        OK(ctx, rig_runner(&g, FV_F32, &ro));
        drop(&g, 0, NULL);
        float *got = eval(&g, 1, &row, NULL);
        CHECK_MSG(is_same(got, want, 4 * g.out_n), "action %d", what);
        free(got);
        got = eval(&g, 2, &row, NULL);
        free(want);
        want = eval(&g, 2, NULL, NULL);
        CHECK(!is_same(got, want, 4 * g.out_n)); /* and now it serves */
        free(got);
        free(want);
        rig_close(&g);
    }
}

/* Guidance ends: the conditional rows come first, so what was computed for 2B rows serves B. */
static void fewer_rows_take_theirs(void)
{
    const dit_config c = config(DIT_OFFICIAL, true);
    const dit_runner_options ro = { .B = 2, .keep_outputs = true };
    const actions a = all(DIT_REUSE, NULL, 0);
    const dit_row reuse = row_of(&a);
    fv_generate_options o = options(&c, 2);
    int rows = 0, e = 0;
    rig g;
    OK(ctx, rig_open(&g, &c, 2, FV_F32, &ro));
    dit_schedule_destroy(ctx, &g.sc);
    o.cfg_end = 0.5f;
    OK(ctx, dit_schedule_create(ctx, &g.sc, &c, &o));
    OK(ctx, rig_runner(&g, FV_F32, &ro));
    while (dit_schedule_guided(&g.sc, e)) drop(&g, e++, NULL);
    CHECK(e > 0 && e < STEPS);
    float *f[4];
    for (int k = 0; k < 4; k++) f[k] = feature(&g, k, 4);
    float *got = eval(&g, e, &reuse, &rows);
    CHECK(rows == 2);
    OK(ctx, rig_runner(&g, FV_F32, &ro));
    for (int k = 0; k < 4; k++) {
        OK(ctx, set_feature(&g, k, f[k], 2));
        free(f[k]);
    }
    float *want = eval(&g, e, &reuse, NULL);
    CHECK(is_same(got, want, 2 * g.out_n));
    free(got);
    free(want);
    rig_close(&g);
}

/* ---- Checks ---------------------------------------------------------------------------------- */

static double flop_of(const dit_runner *r)
{
    double flop;
    int64_t full, reused;
    dit_runner_counters(r, &flop, &full, &reused);
    return flop;
}

/* The last block on a drafted input, in a check and in an evaluation: the same values, the same
 * work; the check leaves nothing behind. */
static void check_check(const dit_config *c, fv_dtype precision, int history)
{
    actions draft = all(DIT_REUSE, NULL, 0), last = draft;
    const dit_row drafted = row_of(&draft), computed = row_of(&last);
    const dit_runner_options ro = { .B = 2, .keep_outputs = true, .history = history,
                                    .checks = true };
    const float *checked;
    double flop[2];
    float *after[2], *stream;
    int rows = 0, n;
    rig g;
    last.action[2] = last.action[3] = DIT_FULL;
    OK(ctx, rig_open(&g, c, c->family == DIT_F ? 1 : 2, precision, &ro)); /* equal rows */
    drop(&g, 0, NULL);
    double start = flop_of(g.r);
    free(eval(&g, 5, &computed, &rows));
    flop[0] = flop_of(g.r) - start;
    stream = test_alloc((size_t)rows * g.token * sizeof *stream);
    memcpy(stream, dit_runner_hidden(g.r, NULL), (size_t)rows * g.token * sizeof *stream);
    for (int i = 0; i < 2; i++) {
        OK(ctx, rig_runner(&g, precision, &ro));
        drop(&g, 0, NULL);
        start = flop_of(g.r);
        drop(&g, 5, &drafted);
        if (i) {
            OK(ctx, dit_runner_check(g.r, &checked, &n));
            CHECK(n == rows && is_same(checked, stream, (size_t)rows * g.token));
            CHECK(!is_same(dit_runner_hidden(g.r, NULL), stream, (size_t)rows * g.token));
            CHECK(dit_runner_check(g.r, &checked, &n) == FV_ERR_STATE);
        }
        flop[1] = flop_of(g.r) - start;
        after[i] = eval(&g, 6, &drafted, NULL);
    }
    CHECK_MSG(flop[0] == flop[1] && flop[0] > 0, "%g, %g", flop[0], flop[1]);
    CHECK(is_same(after[0], after[1], (size_t)rows * g.out_n));
    free(after[0]);
    free(after[1]);
    free(stream);
    rig_close(&g);
}

static void checks_compute_the_last_block(void)
{
    for (int v = 0; v < 8 && !test_bad; v++) {
        const dit_config c = config(families[v & 1], true);
        check_check(&c, v & 2 ? FV_BF16 : FV_F32, v & 4 ? 3 : 1);
    }
}

static void checks_need_an_evaluation(void)
{
    const dit_config c = config(DIT_OFFICIAL, false);
    dit_runner_options ro = { .B = 1, .keep_outputs = true, .checks = true, .step_history = 1 };
    actions a = all(DIT_FULL, NULL, 0);
    dit_row skip = row_of(&a);
    const float *out;
    int n;
    rig g;
    a.skip[0] = 1;
    skip.skip_weight = a.skip;
    OK(ctx, rig_open(&g, &c, 2, FV_F32, &ro));
    CHECK(dit_runner_check(g.r, &out, &n) == FV_ERR_STATE);
    drop(&g, 0, NULL);
    drop(&g, 1, &skip);
    CHECK(dit_runner_check(g.r, &out, &n) == FV_ERR_STATE);
    drop(&g, 2, NULL);
    OK(ctx, dit_runner_check(g.r, &out, &n));
    ro.checks = false;
    OK(ctx, rig_runner(&g, FV_F32, &ro));
    drop(&g, 0, NULL);
    CHECK(dit_runner_check(g.r, &out, &n) == FV_ERR_STATE);
    CHECK(strstr(fv_ctx_error(ctx), "without checks"));
    rig_close(&g);
}

/* ---- Policies -------------------------------------------------------------------------------- */

typedef struct watcher {
    actions reuse;
    int starts, decisions, results, fail_at;
} watcher;

static fv_status watch_start(void *user, const dit_runner *r, int B)
{
    watcher *w = user;
    w->starts += r && B > 0;
    w->decisions = w->results = 0;
    return FV_OK;
}

static fv_status watch_decide(void *user, dit_runner *r, int e, const float *x, dit_row *row)
{
    watcher *w = user;
    const float *h;
    int rows;
    if (e == w->fail_at) return FV_ERR_CANCELLED;
    if (e != w->decisions++ || e != w->results) return FV_ERR_STATE;
    FV_TRY(dit_runner_probe(r, e, x, &h, &rows));
    if (!isfinite(h[0])) return FV_ERR_STATE;
    *row = (dit_row){ NULL, NULL, NULL, NULL };
    if (e % 2) row->action = w->reuse.action;
    return FV_OK;
}

static fv_status watch_done(void *user, dit_runner *r, int e, const float *out, int rows)
{
    watcher *w = user;
    w->results += r && e == w->results && rows > 0 && isfinite(out[0]);
    return FV_OK;
}

static void policies_decide_rows(void)
{
    const dit_config c = config(DIT_OFFICIAL, true);
    const size_t n = 3 * (size_t)(c.input_size * c.input_size * c.channels);
    watcher w = { .reuse = all(DIT_REUSE, NULL, 0), .fail_at = -1 };
    const dit_policy policy = { .start = watch_start, .decide = watch_decide,
                                .done = watch_done, .user = &w };
    float *x = test_alloc(n * 4), *y = test_alloc(n * 4);
    fv_accel *a, *fixed;
    dit_net net;
    char *text;
    size_t size;
    OK(ctx, random_net(ctx, &net, &c, 5, 0.15f));
    OK(ctx, fvi_accel_create(ctx, &a, STEPS, c.depth));
    OK(ctx, fvi_accel_create(ctx, &fixed, STEPS, c.depth));
    for (int e = 1; e < STEPS; e += 2)
        for (int k = 0; k < 4; k++) set(fixed, e, k, DIT_REUSE, 0, NULL, 0);
    fvi_accel_count(fixed);
    a->policy = &policy;
    OK(ctx, sample(ctx, &net, a, 3, 2, x, NULL));
    OK(ctx, sample(ctx, &net, fixed, 3, 2, y, NULL));
    CHECK(is_same(x, y, n));
    CHECK(w.starts == 2 && w.decisions == STEPS && w.results == STEPS);
    fv_accel_info info;
    fv_accel_get_info(a, &info);
    CHECK(info.at_run_time);
    CHECK(fvi_accel_text(ctx, a, &text, &size) == FV_ERR_UNSUPPORTED && !text);
    CHECK(strstr(fv_ctx_error(ctx), "while it runs"));
    w.fail_at = 3;
    CHECK(sample(ctx, &net, a, 3, 2, x, NULL) == FV_ERR_CANCELLED);
    fv_accel_free(&a);
    fv_accel_free(&fixed);
    dit_net_destroy(ctx, &net);
    free(x);
    free(y);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static void steps_do_not_allocate(void)
{
    for (int skip = 0; skip < 3; skip++) {
        const dit_config c = config(DIT_F, true);
        allocation_watch w = { 0 };
        fv_ctx_options co = FV_CTX_OPTIONS_INIT;
        float *x = test_alloc(2 * (size_t)(c.input_size * c.input_size * c.channels) * 4);
        fv_accel *a;
        dit_net net;
        co.progress = watch_allocations;
        co.user = &w;
        OK(ctx, fv_ctx_create(&w.c, &co));
        OK(ctx, random_net(w.c, &net, &c, 5, 0.15f));
        OK(ctx, mixed_plan(&a, &c, (dit_skip)skip, DIT_SCORE_DRIFT));
        OK(w.c, sample(w.c, &net, a, 2, 2, x, NULL));
        CHECK(w.calls == STEPS && w.first == w.last);
        fv_accel_free(&a);
        dit_net_destroy(w.c, &net);
        fv_ctx_destroy(&w.c);
        free(x);
    }
}

/* Rings, skipped evaluations and tokens are told, so that a limit can be kept. */
static void caches_are_counted(void)
{
    const dit_config c = config(DIT_OFFICIAL, true);
    uint64_t act, one, many;
    rig g;
    const dit_runner_options reuse = { .B = 2, .keep_outputs = true },
                             five = { .B = 2, .keep_outputs = true, .history = 5,
                                      .step_history = 2, .skip = DIT_SKIP_HIDDEN };
    OK(ctx, rig_open(&g, &c, 2, FV_F32, &reuse));
    dit_runner_memory(g.r, &act, &one);
    OK(ctx, rig_runner(&g, FV_F32, &five));
    dit_runner_memory(g.r, &act, &many);
    const uint64_t slot = dit_runner_feature_bytes(g.r, 4);
    CHECK(many - one == (5 - 1) * 4 * slot + 2 * slot);
    rig_close(&g);
}

static void failing_memory_is_reported(void)
{
    const dit_config c = config(DIT_F, true);
    float *x = test_alloc((size_t)(c.input_size * c.input_size * c.channels) * 4);
    fv_accel *a;
    dit_net net;
    bool is_done = false;
    OK(ctx, random_net(ctx, &net, &c, 5, 0.15f));
    OK(ctx, mixed_plan(&a, &c, DIT_SKIP_RESIDUAL, DIT_SCORE_DRIFT));
    OK(ctx, sample(ctx, &net, a, 1, 1, x, NULL)); /* packs the weights, in ctx */
    for (int limit = 0; limit < 20000 && !is_done; limit += limit < 60 ? 1 : 13) {
        alloc_fail heap = { .left = ALLOC_ALL };
        const fv_allocator al = alloc_fail_allocator(&heap);
        fv_ctx_options co = FV_CTX_OPTIONS_INIT;
        fv_ctx *f;
        co.alloc = &al;
        co.threads = 1;
        OK(ctx, fv_ctx_create(&f, &co));
        heap.left = limit;
        const fv_status s = sample(f, &net, a, 1, 1, x, NULL);
        CHECK(s == FV_OK || s == FV_ERR_OOM);
        is_done = s == FV_OK;
        fv_ctx_destroy(&f);
        CHECK_MSG(heap.live == 0, "%lld blocks leaked at allocation %d", (long long)heap.live,
                  limit);
    }
    CHECK(is_done);
    fv_accel_free(&a);
    dit_net_destroy(ctx, &net);
    free(x);
}

int main(void)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(full_plan_is_the_plain_sampler);
    RUN(batches_equal_single_runs);
    RUN(plans_of_another_run_are_refused);
    RUN(read_plans_make_the_same_bytes);
    RUN(same_bytes_for_1_and_2_threads);
    RUN(forecast_with_one_weight_is_reuse);
    RUN(forecasts_equal_direct_sums);
    RUN(only_computed_outputs_are_history);
    RUN(missing_history_is_computed);
    RUN(starting_forgets);
    RUN(more_rows_are_computed);
    RUN(fewer_rows_take_theirs);
    RUN(checks_compute_the_last_block);
    RUN(checks_need_an_evaluation);
    RUN(policies_decide_rows);
    RUN(steps_do_not_allocate);
    RUN(caches_are_counted);
    RUN(failing_memory_is_reported);
    fv_ctx_destroy(&ctx);
    return test_end();
}
