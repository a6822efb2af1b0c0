/* test_engine_savings.c - skipped evaluations, pruned modules and tokens chosen by clusters, each
 * against the same thing put together by hand from whole modules. */
#include "engine_rig.h"

/* ---- Skipped evaluations --------------------------------------------------------------------- */

/* One end of the network at evaluation e on a tape of its own: the embedding of x, or the final
 * layer on h. */
static fv_status end_of(rig *g, int e, const float *x, const float *h, int rows, float *out)
{
    const dit_config *c = &g->net.cfg;
    const int64_t N = dit_tokens(c), D = c->width, S = c->input_size, n = rows;
    const int64_t image[4] = { n, S, S, c->channels }, tokens[3] = { n, N, D }, p[2] = { N, D };
    int32_t label[2 * MOST_B] = { 1, 2 };
    float time[2 * MOST_B], *pos = test_alloc((size_t)(N * D) * 4);
    fv_plan *plan;
    fv_tape *t;
    for (int i = 0; i < rows; i++) {
        time[i] = (float)g->sc.net_time[e];
        if (i >= g->B) label[i] = c->classes;
    }
    dit_pos_table(c, pos);
    FV_TRY(fv_tape_create(ctx, &t, g->net.params, FV_INFER, FV_F32));
    if (h) {
        const fv_t cond = dit_condition(t, &g->net, fv_input(t, "t", FV_F32, 1, &n),
                                        fv_input(t, "y", FV_I32, 1, &n));
        fv_output(t, "out", dit_final(t, &g->net, fv_input(t, "h", FV_F32, 3, tokens),
                                      dit_final_mod(t, &g->net, cond)));
    } else {
        const fv_t at = g->net.pos >= 0 ? fv_param_row(t, g->net.pos, 0)
                                        : fv_input(t, "pos", FV_F32, 2, p);
        fv_output(t, "out", dit_embed(t, &g->net, fv_input(t, "x", FV_F32, 4, image), at));
    }
    FV_TRY(fv_tape_status(t));
    FV_TRY(fv_plan_build(ctx, &plan, t, NULL));
    fv_tape_destroy(&t);
    union {
        const float *in;
        float *bound; /* binding takes what it does not change as well */
    } u = { h ? h : x };
    FV_TRY(fv_plan_bind(plan, h ? "h" : "x", u.bound));
    if (h) FV_TRY(fv_plan_bind(plan, "t", time));
    if (h) FV_TRY(fv_plan_bind(plan, "y", label));
    if (!h && g->net.pos < 0) FV_TRY(fv_plan_bind(plan, "pos", pos));
    FV_TRY(fv_plan_bind(plan, "out", out));
    FV_TRY(fv_plan_forward(plan));
    fv_plan_destroy(&plan);
    free(pos);
    return FV_OK;
}

/* Embedding of the states of e for all rows. */
static float *embedding(rig *g, int e, int rows)
{
    const size_t n = (size_t)g->B * g->n;
    float *x = test_alloc((size_t)rows / (size_t)g->B * n * 4),
          *h = test_alloc((size_t)rows * g->token * 4);
    for (int i = 0; i < rows / g->B; i++)
        memcpy(x + (size_t)i * n, g->x + (size_t)e * n, n * sizeof *x);
    if (end_of(g, e, x, NULL, rows, h) != FV_OK) exit(1);
    free(x);
    return h;
}

/* Evaluations 0, 1, 3, 4 are computed, 2 reuses (and counts: it was not skipped), 5 is skipped and
 * does not become history, so 6 is too. */
static void check_skip(const dit_config *c, float cfg, dit_skip kind, int count)
{
    static const float w[] = { 2.5f, -2.25f, 1, -0.5f, 0.25f };
    const dit_runner_options ro = { .B = 2, .keep_outputs = true, .step_history = count,
                                    .skip = kind };
    const actions a = all(DIT_REUSE, w, count);
    const dit_row reuse = row_of(&a), skip = { NULL, NULL, NULL, a.weight[0] };
    float *past[5];
    int rows = 0;
    rig g;
    OK(ctx, rig_open(&g, c, cfg, FV_F32, &ro));
    for (int e = 0; e < 5; e++) {
        float *out = eval(&g, e, e == 2 ? &reuse : NULL, &rows);
        const size_t n = (size_t)rows * g.token;
        const float *h0, *h = dit_runner_hidden(g.r, &h0);
        CHECK((h0 != NULL) == (kind == DIT_SKIP_RESIDUAL));
        past[4 - e] = out;
        if (kind == DIT_SKIP_OUTPUT) continue;
        past[4 - e] = test_alloc(n * 4);
        for (size_t i = 0; i < n; i++) past[4 - e][i] = h[i] - (h0 ? h0[i] : 0);
        free(out);
    }
    for (int e = 5; e < 7; e++) {
        float *got = eval(&g, e, &skip, &rows), *want;
        const size_t n = (size_t)rows * g.token;
        if (kind == DIT_SKIP_OUTPUT) {
            want = combine(past, w, count, (size_t)rows * g.out_n);
        } else {
            float *h = combine(past, w, count, n), *embedded = embedding(&g, e, rows);
            for (size_t i = 0; kind == DIT_SKIP_RESIDUAL && i < n; i++) h[i] += embedded[i];
            NEAR(test_rel_l2(dit_runner_hidden(g.r, NULL), h, (int64_t)n), 0, 2e-6);
            want = test_alloc((size_t)rows * g.out_n * 4);
            OK(ctx, end_of(&g, e, NULL, h, rows, want));
            free(h);
            free(embedded);
        }
        NEAR(test_rel_l2(got, want, (int64_t)((size_t)rows * g.out_n)), 0, 5e-6);
        free(got);
        free(want);
    }
    for (int i = 0; i < 5; i++) free(past[i]);
    rig_close(&g);
}

static void skips_equal_direct_sums(void)
{
    for (int f = 0; f < 2; f++)
        for (int kind = 0; kind < 3; kind++)
            for (int count = 1; count <= DIT_HISTORY; count += 2) {
                const dit_config c = config(families[f], true);
                check_skip(&c, f ? 2.0f : 1.0f, (dit_skip)kind, count);
                if (test_bad) return;
            }
}

/* A batch that ended in numbers that are none does not reach into the next: 0 x NaN. */
static void skips_do_not_see_the_last_batch(void)
{
    static const int32_t labels[2] = { 1, 2 };
    static const float w[DIT_HISTORY] = { 1 };
    for (int kind = 0; kind < 3; kind++) {
        const dit_config c = config(DIT_OFFICIAL, true);
        const dit_runner_options ro = { .B = 2, .keep_outputs = true, .step_history = 3,
                                        .skip = (dit_skip)kind };
        const dit_row skip = { NULL, NULL, NULL, w };
        rig g;
        OK(ctx, rig_open(&g, &c, 2, FV_F32, &ro));
        float x = g.x[0];
        g.x[0] = NAN;
        for (int e = 0; e < 3; e++) drop(&g, 0, NULL);
        g.x[0] = x;
        OK(ctx, dit_runner_start(g.r, labels));
        drop(&g, 0, NULL);
        float *got = eval(&g, 1, &skip, NULL);
        for (size_t i = 0; i < 4 * g.out_n; i++) CHECK(isfinite(got[i]));
        free(got);
        rig_close(&g);
    }
}

/* ---- Pruned modules -------------------------------------------------------------------------- */

static void all_tokens_are_a_full_module(void)
{
    static const float w[] = { 1.5f, -0.5f };
    for (int f = 0; f < 2; f++)
        for (int v = 0; v < 8; v++) { /* as reuse or linear, all scores */
            const dit_config c = config(families[f], false);
            const dit_runner_options ro = { .B = 2, .keep_outputs = true, .history = 2,
                                            .prunes = true, .score = (dit_score)(v / 2) };
            actions a = all(DIT_PRUNE, w, 1 + v % 2);
            rig g;
            OK(ctx, rig_open(&g, &c, f ? 2.0f : 1.0f, FV_F32, &ro));
            int rows = 0;
            CHECK(dit_tokens(&c) == 4 && dit_pruned_tokens(&c, 2) == 4);
            for (int k = 0; k < 8; k += 2) a.action[k] = DIT_FULL;
            for (int k = 0; k < 8; k++) a.pruned[k] = 2;
            const dit_row row = row_of(&a);
            float *want = NULL;
            for (int e = 0; e < 3; e++) {
                free(want);
                want = eval(&g, e, NULL, &rows);
            }
            OK(ctx, rig_runner(&g, FV_F32, &ro));
            drop(&g, 0, NULL);
            drop(&g, 1, NULL);
            float *got = eval(&g, 2, &row, NULL);
            NEAR(test_rel_l2(got, want, (int64_t)((size_t)rows * g.out_n)), 0, 1e-6);
            free(got);
            free(want);
            rig_close(&g);
        }
}

typedef struct ranked {
    double score;
    int token;
} ranked;

static int by_score(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->token - y->token;
}

/* Tokens of one picture by the mean magnitude of its rows, as a mask. */
static void best_tokens(const rig *g, const float *f, int picture, int rows, int kept,
                        bool *is_kept)
{
    const int N = dit_tokens(&g->net.cfg), D = g->net.cfg.width;
    ranked r[64];
    for (int i = 0; i < N; i++) {
        double sum = 0;
        for (int row = picture; row < rows; row += g->B)
            for (int d = 0; d < D; d++)
                sum += fabs((double)f[(size_t)row * g->token + (size_t)(i * D + d)]);
        r[i] = (ranked){ sum, i };
    }
    qsort(r, (size_t)N, sizeof *r, by_score);
    memset(is_kept, 0, 64);
    for (int i = 0; i < kept; i++) is_kept[r[i].token] = true;
}

/* The last MLP pruned at evaluation 2, against a cache mixed by hand. */
static void check_prune(int f, int size, bool is_linear, fv_dtype precision)
{
    static const float w[] = { 1.5f, -0.5f };
    const dit_config c = config(families[f], true);
    const int D = c.width, kept = dit_pruned_tokens(&c, size), k = 3;
    const dit_runner_options ro = { .B = 2, .keep_outputs = true, .history = 2, .prunes = true };
    actions a = all(DIT_FULL, w, is_linear ? 2 : 1), b = a;
    a.action[k] = DIT_PRUNE;
    a.pruned[k] = (uint8_t)size;
    b.action[k] = DIT_REUSE;
    const dit_row prune = row_of(&a), reuse = row_of(&b);
    float *past[3];
    int rows = 0;
    bool mask[64];
    rig g;
    CHECK(kept == 8 << size);
    OK(ctx, rig_open(&g, &c, f ? 2.0f : 1.0f, precision, &ro));
    for (int e = 0; e < 3; e++) {
        free(eval(&g, e, NULL, &rows));
        past[2 - e] = feature(&g, k, rows);
    }
    OK(ctx, rig_runner(&g, precision, &ro));
    drop(&g, 0, NULL);
    drop(&g, 1, NULL);
    float *got = eval(&g, 2, &prune, NULL), *kept_output = feature(&g, k, rows);
    float *mixed = is_linear ? combine(past + 1, w, 2, (size_t)rows * g.token)
                             : combine(past + 1, (const float[]){ 1 }, 1, (size_t)rows * g.token);
    for (int row = 0; row < rows; row++) {
        best_tokens(&g, past[1], row % 2, rows, kept, mask);
        for (int i = 0; i < 64; i++) {
            const size_t at = (size_t)row * g.token + (size_t)(i * D), bytes = (size_t)D * 4;
            if (mask[i]) memcpy(mixed + at, past[0] + at, bytes);
            /* Tokens that are not computed stay as they were; with a linear forecast all do. */
            if (is_linear || !mask[i]) CHECK(memcmp(kept_output + at, past[1] + at, bytes) == 0);
        }
    }
    const double tol = precision == FV_F32 ? 5e-6 : 1e-2;
    const int64_t values = (int64_t)((size_t)rows * g.token);
    if (!is_linear) NEAR(test_rel_l2(kept_output, mixed, values), 0, tol);
    OK(ctx, rig_runner(&g, precision, &ro));
    drop(&g, 0, NULL);
    drop(&g, 1, NULL);
    OK(ctx, set_feature(&g, k, mixed, rows));
    float *want = eval(&g, 2, &reuse, NULL);
    NEAR(test_rel_l2(got, want, (int64_t)((size_t)rows * g.out_n)), 0, tol);
    for (int i = 0; i < 3; i++) free(past[i]);
    free(got);
    free(want);
    free(mixed);
    free(kept_output);
    rig_close(&g);
}

static void pruned_modules_equal_a_mixed_cache(void)
{
    for (int f = 0; f < 2; f++)
        for (int size = 0; size < DIT_PRUNED; size++)
            for (int v = 0; v < 4 && !test_bad; v++)
                check_prune(f, size, v & 1, v & 2 ? FV_BF16 : FV_F32);
}

/* One weight is the newest output as it is, whatever the weight says: nothing else may be kept. */
static void prune_with_one_weight_is_reuse(void)
{
    static const float weights[][2] = { { 1, 0 }, { 0, 0 }, { 0.5f, 0 } };
    const dit_config c = config(DIT_OFFICIAL, true);
    const dit_runner_options ro = { .B = 1, .keep_outputs = true, .prunes = true };
    float *out[3];
    rig g;
    OK(ctx, rig_open(&g, &c, 2, FV_F32, &ro));
    for (int i = 0; i < 3; i++) {
        actions a = all(DIT_PRUNE, weights[i], 1);
        const dit_row row = row_of(&a);
        for (int k = 0; k < 8; k += 2) a.action[k] = DIT_REUSE;
        OK(ctx, rig_runner(&g, FV_F32, &ro));
        drop(&g, 0, NULL);
        out[i] = eval(&g, 1, &row, NULL);
        CHECK(is_same(out[i], out[0], 2 * g.out_n));
    }
    for (int i = 0; i < 3; i++) free(out[i]);
    rig_close(&g);
}

/* By staleness, two halves make a whole: all tokens are computed once before any is again. */
static void stale_tokens_come_first(void)
{
    const dit_config c = config(DIT_OFFICIAL, true);
    const int D = c.width, k = 3;
    const dit_runner_options ro = { .B = 2, .keep_outputs = true, .prunes = true,
                                    .score = DIT_SCORE_STALE };
    actions a = all(DIT_FULL, NULL, 0);
    const dit_row row = row_of(&a);
    int times[2][64] = { { 0 } };
    rig g;
    a.action[k] = DIT_PRUNE;
    a.pruned[k] = 1; /* a quarter */
    OK(ctx, rig_open(&g, &c, 2, FV_F32, &ro));
    drop(&g, 0, NULL);
    for (int e = 1; e < 7; e++) {
        float *before = feature(&g, k, 4);
        drop(&g, e, &row);
        float *after = feature(&g, k, 4);
        for (int p = 0; p < 2; p++)
            for (int i = 0; i < 64; i++) {
                const size_t at = (size_t)p * g.token + (size_t)(i * D),
                             null = at + 2 * g.token, bytes = (size_t)D * 4;
                const bool is_new = memcmp(before + at, after + at, bytes) != 0;
                CHECK(is_new == (memcmp(before + null, after + null, bytes) != 0));
                times[p][i] += is_new;
                CHECK(times[p][i] <= (e + 3) / 4);
            }
        free(before);
        free(after);
    }
    for (int i = 0; i < 128; i++) CHECK(times[i / 64][i % 64] >= 1);
    rig_close(&g);
}

/* ---- Chosen tokens --------------------------------------------------------------------------- */

/* Evaluation 2 with everything in full but the last MLP; the residual stream after it, a copy. */
static float *last_mlp(rig *g, const dit_runner_options *ro, int action, const float *w,
                       const dit_choice *choice)
{
    actions a = all(DIT_FULL, NULL, 0);
    const dit_row row = row_of(&a);
    const size_t n = 2 * (size_t)g->B * g->token;
    float *copy = test_alloc(n * sizeof *copy);
    if (rig_runner(g, FV_F32, ro) != FV_OK) exit(1);
    drop(g, 0, NULL);
    drop(g, 1, NULL);
    a.action[3] = (uint8_t)action;
    a.pruned[3] = 1; /* a quarter: 16 of 64 */
    memcpy(a.weight[3], w, 2 * sizeof *w);
    if (choice && dit_runner_choose(g->r, choice) != FV_OK) exit(1);
    drop(g, 2, &row);
    memcpy(copy, dit_runner_hidden(g->r, NULL), n * sizeof *copy);
    return copy;
}

/* Put together from the module in full, not at all, and forecast. */
static void chosen_tokens_spread_in_their_cluster(void)
{
    static const float w[2] = { 1.5f, -0.75f }, none[2] = { 0, 0 };
    const dit_config c = config(DIT_OFFICIAL, true);
    const dit_runner_options ro = { .B = 2, .keep_outputs = true, .history = 2, .prunes = true,
                                    .score = DIT_SCORE_GIVEN };
    const size_t D = (size_t)c.width, N = 64;
    float score[2 * 64];
    uint8_t cluster[2 * 64];
    const dit_choice choice = { score, cluster, 4, 0.25f };
    rig g;
    for (size_t i = 0; i < 2 * N; i++) {
        cluster[i] = (uint8_t)((i + i / N) % 4);
        score[i] = i % N / 4 % 4 == 2 ? 1 : 0; /* 16 of a picture, 4 of each cluster */
    }
    OK(ctx, rig_open(&g, &c, 2, FV_F32, &ro));
    float *full = last_mlp(&g, &ro, DIT_FULL, none, NULL),
          *before = last_mlp(&g, &ro, DIT_LINEAR, none, NULL),
          *forecast = last_mlp(&g, &ro, DIT_LINEAR, w, NULL),
          *got = last_mlp(&g, &ro, DIT_PRUNE, w, &choice);
    float *want = test_alloc(4 * g.token * sizeof *want);
    for (size_t row = 0; row < 4; row++)
        for (size_t i = 0; i < N * D; i++) {
            const size_t p = row % 2 * N, k = cluster[p + i / D], at = row * g.token;
            double change = 0;
            for (size_t f = 0; f < N; f++)
                if (score[p + f] > 0 && cluster[p + f] == k)
                    change += ((double)full[at + f * D + i % D] - before[at + f * D + i % D]) / 4;
            want[at + i] = (float)(score[p + i / D] > 0
                                       ? full[at + i]
                                       : before[at + i] + 0.25 * change +
                                             0.75 * ((double)forecast[at + i] - before[at + i]));
        }
    CHECK_MSG(test_rel_l2(got, want, (int64_t)(4 * g.token)) <= 1e-6, "%g",
              test_rel_l2(got, want, (int64_t)(4 * g.token)));
    CHECK(test_rel_l2(forecast, want, (int64_t)(4 * g.token)) > 1e-3);
    float *const all_of[] = { full, before, forecast, got, want };
    for (size_t i = 0; i < FV_ARRAY_LEN(all_of); i++) free(all_of[i]);
    rig_close(&g);
}

int main(void)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(skips_equal_direct_sums);
    RUN(skips_do_not_see_the_last_batch);
    RUN(all_tokens_are_a_full_module);
    RUN(pruned_modules_equal_a_mixed_cache);
    RUN(prune_with_one_weight_is_reuse);
    RUN(stale_tokens_come_first);
    RUN(chosen_tokens_spread_in_their_cluster);
    fv_ctx_destroy(&ctx);
    return test_end();
}
