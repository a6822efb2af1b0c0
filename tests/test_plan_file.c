/* test_plan_file.c - plans as text: what is written comes back bit by bit, whatever else is refused
 * with its line; what a plan says about itself. test_engine_actions.c generates with read plans. */
#include "../diffusion/soda.h"
#include "alloc_fail.h"
#include "temp_dir.h"
#include "test.h"

#include <unistd.h>

#define EVALS 6
#define DEPTH 3
#define K (2 * DEPTH)

static fv_ctx *ctx;

static fv_status blank(fv_accel **out)
{
    FV_TRY(fvi_accel_create(ctx, out, EVALS, DEPTH));
    (*out)->steps = EVALS;
    (*out)->sampler = FV_SAMPLER_EULER;
    (*out)->cfg = 1.5f;
    (*out)->predicted_speedup = 2.125;
    (*out)->flop_ratio = 2.5;
    snprintf((*out)->mode, sizeof (*out)->mode, "soda");
    for (int i = 0; i < 32; i++) (*out)->model_hash[i] = (uint8_t)(7 * i);
    return FV_OK;
}

static float any_weight(uint64_t *state)
{
    static const float edge[] = { 0, -0.0f, 1, -1, 1e4f, -1e4f, 1e-45f, 1.17549435e-38f, 0.1f };
    const uint32_t r = test_next(state);
    if (r % 3 == 0) return edge[r / 3 % FV_ARRAY_LEN(edge)];
    return (float)(int32_t)test_next(state) / (float)(1 << (r / 3 % 31));
}

static float *weights_at(fv_accel *a, int e, int k)
{
    return a->weight + (size_t)(e * K + k) * DIT_HISTORY;
}

/* Anything a planner may put together; few different weights, so that lines are shared. */
static fv_status any_plan(fv_accel **out, uint64_t seed)
{
    float few[3][DIT_HISTORY];
    FV_TRY(blank(out));
    fv_accel *a = *out;
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < DIT_HISTORY; j++)
            few[i][j] = fmaxf(-1e4f, fminf(any_weight(&seed), 1e4f));
    a->skip = (dit_skip)(test_next(&seed) % 3);
    a->score = (dit_score)(test_next(&seed) % 4);
    for (int e = 1; e < EVALS; e++) {
        a->skipped[e] = test_next(&seed) % 3 == 0;
        memcpy(a->skip_weight + e * DIT_HISTORY, few[test_next(&seed) % 3], sizeof few[0]);
        for (int k = 0; k < K; k++) {
            const uint32_t r = test_next(&seed);
            a->action[e * K + k] = (uint8_t)(r % (k % 2 ? 4 : 3));
            a->pruned[e * K + k] = r / 4 % DIT_PRUNED;
            memcpy(weights_at(a, e, k), few[r / 12 % 3], sizeof few[0]);
        }
    }
    a->past_of_anchors = test_next(&seed) % 2;
    fvi_accel_count(a);
    return FV_OK;
}

/* Equal for the engine: weights that no action reads do not count. */
static bool is_same_plan(const fv_accel *a, const fv_accel *b)
{
    if (a->history != b->history || a->step_history != b->step_history ||
        a->anchors != b->anchors || a->prunes != b->prunes || a->steps != b->steps ||
        a->sampler != b->sampler || a->cfg != b->cfg || strcmp(a->mode, b->mode) != 0 ||
        memcmp(a->model_hash, b->model_hash, 32) != 0 || memcmp(a->skipped, b->skipped, EVALS) ||
        memcmp(a->action, b->action, EVALS * K) != 0)
        return false;
    if (a->step_history && (a->skip != b->skip || a->past_of_anchors != b->past_of_anchors))
        return false;
    if (a->prunes && a->score != b->score) return false;
    for (int i = 0; i < EVALS * K; i++) {
        const bool reads = a->action[i] == DIT_LINEAR || a->action[i] == DIT_PRUNE;
        if (a->action[i] == DIT_PRUNE && a->pruned[i] != b->pruned[i]) return false;
        for (int j = 0; reads && j < DIT_HISTORY; j++)
            if (a->weight[i * DIT_HISTORY + j] != b->weight[i * DIT_HISTORY + j]) return false;
    }
    for (int i = 0; i < EVALS * DIT_HISTORY; i++)
        if (a->skipped[i / DIT_HISTORY] && a->skip_weight[i] != b->skip_weight[i]) return false;
    return true;
}

static void plans_round_trip(void)
{
    for (uint64_t seed = 1; seed <= 300; seed++) {
        fv_accel *a, *b;
        char *text, *again;
        size_t n, m;
        OK(ctx, any_plan(&a, seed));
        OK(ctx, fvi_accel_text(ctx, a, &text, &n));
        OK(ctx, fvi_accel_parse(ctx, &b, text, n));
        OK(ctx, fvi_accel_text(ctx, b, &again, &m));
        CHECK_MSG(n == m && memcmp(text, again, n) == 0, "plan %llu", (unsigned long long)seed);
        CHECK_MSG(is_same_plan(a, b), "plan %llu", (unsigned long long)seed);
        fv_free(ctx, text);
        fv_free(ctx, again);
        fv_accel_free(&a);
        fv_accel_free(&b);
    }
}

static const char reuse_text[] =
    "fvplan 1\n"
    "model 00070e151c232a31383f464d545b626970777e858c939aa1a8afb6bdc4cbd2d9\n"
    "sampler euler\nsteps 6\nevaluations 6\nblocks 3\ncfg 1.5\nmode soda\nspeedup 2.125\n"
    "flop_ratio 2.5\n"
    "# F computed in full, . reused; attention and MLP of each block\n"
    "0 FFFFFF\n1 ......\n2 F.....\n3 FFFFFF\n4 ......\n5 ......\n";

/* Plans of whole reuse are the text that version 1 of the format is, which older libraries read. */
static void reuse_alone_is_version_1(void)
{
    fv_accel *a;
    char *text, want[640];
    size_t n;
    OK(ctx, blank(&a));
    memset(a->action + K, DIT_REUSE, 2 * K);
    a->action[2 * K] = DIT_FULL;
    memset(a->action + 4 * K, DIT_REUSE, 2 * K);
    a->skip = DIT_SKIP_HIDDEN; /* kinds of what does not happen are not told */
    a->score = DIT_SCORE_DRIFT;
    fvi_accel_count(a);
    OK(ctx, fvi_accel_text(ctx, a, &text, &n));
    snprintf(want, sizeof want, "%send %08x\n", reuse_text,
             (unsigned)fv_crc32c(0, reuse_text, sizeof reuse_text - 1));
    CHECK(strcmp(text, want) == 0);
    fv_free(ctx, text);
    fv_accel_free(&a);
}

#define HEAD                                                                                     \
    "fvplan 2\nmodel 00070e151c232a31383f464d545b626970777e858c939aa1a8afb6bdc4cbd2d9\n"         \
    "sampler euler\nsteps 4\nevaluations 4\nblocks 2\n"

static fv_status parse(const char *head, const char *body, fv_accel **out)
{
    char text[1024];
    int n = snprintf(text, sizeof text, "%s%s", head, body);
    n += snprintf(text + n, sizeof text - (size_t)n, "end %08x\n",
                  (unsigned)fv_crc32c(0, text, (size_t)n));
    return fvi_accel_parse(ctx, out, text, (size_t)n);
}

static void lines_mean_what_they_say(void)
{
    fv_accel *a;
    fv_accel_info i;
    OK(ctx, parse(HEAD, "skip residual\nlater thing\nscore toca\n0 FFFF\n# and\n1 LL.3\n"
                        "w 1 0 1 2 -1\n\nw 1 3 3 1\n2 ssss\nv 2 3 -3 1\n"
                        "3 .3L1\nw 3 1 3 0.5\n", &a));
    CHECK(a->action[4] == DIT_LINEAR && a->action[6] == DIT_REUSE && a->action[7] == DIT_PRUNE);
    CHECK(a->pruned[7] == 2 && a->pruned[13] == 2 && a->pruned[15] == 0);
    CHECK(a->weight[5 * DIT_HISTORY] == 2 && a->weight[5 * DIT_HISTORY + 1] == -1);
    CHECK(a->weight[7 * DIT_HISTORY] == 1 && a->weight[14 * DIT_HISTORY] == 0.5f);
    CHECK(a->skipped[2] && a->skip_weight[2 * DIT_HISTORY + 2] == 1 && !a->skipped[3]);
    CHECK(a->history == 2 && a->step_history == 3 && a->prunes && a->anchors == 1);
    CHECK(a->skip == DIT_SKIP_RESIDUAL && a->score == DIT_SCORE_TOCA);
    fv_accel_get_info(a, &i);
    CHECK(i.steps == 4 && i.depth == 2 && i.sampler_steps == 4 && i.sampler == FV_SAMPLER_EULER);
    CHECK(i.full == 4 && i.reused == 2 && i.linear == 3 && i.pruned == 3 && i.skipped == 1);
    CHECK(strcmp(i.skip_kind, "residual") == 0 && strcmp(i.prune_score, "toca") == 0);
    CHECK(i.model_hash[1] == 7 && !i.at_run_time && i.history == 2 && i.step_history == 3);
    CHECK(fv_accel_action(a, 0, 0, 0) == FV_ACTION_FULL &&
          fv_accel_action(a, 1, 0, 1) == FV_ACTION_LINEAR &&
          fv_accel_action(a, 1, 1, 0) == FV_ACTION_REUSE &&
          fv_accel_action(a, 1, 1, 1) == FV_ACTION_PRUNE &&
          fv_accel_action(a, 2, 1, 1) == FV_ACTION_SKIP);
    CHECK(fv_accel_action(a, 4, 0, 0) == -1 && fv_accel_action(a, 0, 2, 0) == -1 &&
          fv_accel_action(a, 0, 0, 2) == -1 && fv_accel_action(NULL, 0, 0, 0) == -1);
    CHECK(fv_accel_share(a, 0, 0, 0) == 1 && fv_accel_share(a, 1, 1, 1) == 0.5 &&
          fv_accel_share(a, 3, 1, 1) == 0.125 && fv_accel_share(a, 2, 0, 0) == 0 &&
          fv_accel_share(a, 1, 0, 0) == 0 && fv_accel_share(a, -1, 0, 0) == -1);
    fv_accel_free(&a);
    /* What a skip falls back to may be any row; F is s there. */
    OK(ctx, parse(HEAD, "0 FFFF\n1 .s.L\nw 1 3 3 1 0 0 0 -2\nv 1 1\n2 ....\nv 2 1\n3 FFFF\n", &a));
    CHECK(a->skipped[1] && a->action[4] == DIT_REUSE && a->action[5] == DIT_FULL && a->skipped[2]);
    CHECK(a->weight[7 * DIT_HISTORY + 4] == -2 && a->anchors == 2 && a->history == 1);
    fv_accel_get_info(a, &i);
    CHECK(i.skipped == 2 && strcmp(i.skip_kind, "output") == 0 && !i.prune_score);
    fv_accel_free(&a);
}

static void wrong_lines_are_refused(void)
{
    static const struct { const char *body, *says; } bad[] = {
        { "0 FFFF\n1 LFFF\n2 FFFF\n3 FFFF\n", "missing" },
        { "0 FFFF\n1 LFFL\nw 1 0 0 1\n2 FFFF\n3 FFFF\n", "missing" },
        { "0 FFFF\n1 LFFL\nw 1 3 3 1\nw 1 0 0 1\n2 FFFF\n3 FFFF\n", "without gaps" },
        { "0 FFFF\n1 LFFL\nw 1 0 0 1\nw 1 0 3 1\n2 FFFF\n3 FFFF\n", "in order" },
        { "0 FFFF\n1 LFFL\nw 1 3 0 1\n2 FFFF\n3 FFFF\n", "in order" },
        { "0 FFFF\n1 LFFL\nw 1 0 4 1\n2 FFFF\n3 FFFF\n", "in order" },
        { "0 FFFF\n1 LFFL\nw 1 -1 3 1\n2 FFFF\n3 FFFF\n", "in order" },
        { "0 FFFF\n1 LFFF\nw 1 0 2 1\n2 FFFF\n3 FFFF\n", "without gaps" },
        { "0 FFFF\n1 FFFF\nw 1 0 0 1\n2 FFFF\n3 FFFF\n", "without gaps" },
        { "0 FFFF\n1 LFFF\nw 2 0 0 1\n2 FFFF\n3 FFFF\n", "another evaluation" },
        { "0 FFFF\n1 LFFF\nw 1 0 0\n2 FFFF\n3 FFFF\n", "missing" },
        { "0 FFFF\n1 LFFF\nw 1 0 0 1 1 1 1 1 1\n2 FFFF\n3 FFFF\n", "out of range" },
        { "0 FFFF\n1 LFFF\nw 1 0 0 10001\n2 FFFF\n3 FFFF\n", "out of range" },
        { "0 FFFF\n1 LFFF\nw 1 0 0 1e999\n2 FFFF\n3 FFFF\n", "numbers" },
        { "0 FFFF\n1 LFFF\nw 1 0 0 nan\n2 FFFF\n3 FFFF\n", "numbers" },
        { "0 FFFF\n1 LFFF\nw 1 0 0.5 1\n2 FFFF\n3 FFFF\n", "out of range" },
        { "0 FFFF\n1 LFFF\nw 1,0,0,1\n2 FFFF\n3 FFFF\n", "numbers" },
        { "0 FFFF\n1 LFFF\nw 1 0 0 [1]\n2 FFFF\n3 FFFF\n", "out of range" },
        { "0 FFFF\n1 LFFF\nw 1 0 0  1\n2 FFFF\n3 FFFF\n", "numbers" },
        { "0 FFFF\n1 LFFF\nw\n2 FFFF\n3 FFFF\n", "missing" },
        { "0 FFFF\n1 ssss\n2 FFFF\n3 FFFF\n", "missing" },
        { "0 FFFF\n1 sFss\nv 1 1\n2 FFFF\n3 FFFF\n", "exclude" },
        { "0 FFFF\n1 F..F\nv 1 1\n2 FFFF\n3 FFFF\n", "exclude" },
        { "0 FFFF\n1 ssss\nv 2 1\n2 FFFF\n3 FFFF\n", "another evaluation" },
        { "0 FFFF\n1 ssss\nv 1 1\nv 1 1\n2 FFFF\n3 FFFF\n", "after those" },
        { "0 FFFF\n1 sLss\nv 1 1\nw 1 1 1 1\n2 FFFF\n3 FFFF\n", "after those" },
        { "0 FFFF\n1 3FFF\nw 1 0 0 1\n2 FFFF\n3 FFFF\n", "attention" },
        { "0 FFFF\n1 F4FF\nw 1 1 1 1\n2 FFFF\n3 FFFF\n", "unknown action" },
        { "0 FFFF\n1 FFF\n2 FFFF\n3 FFFF\n", "two characters" },
        { "0 FFFF\n2 FFFF\n1 FFFF\n3 FFFF\n", "in order" },
        { "0 FFFF\n1 FFFF\n2 FFFF\n3 FFFF\n4 FFFF\n", "more" },
        { "0 FFFF\n1 FFFF\n2 FFFF\n3 FFFF\nv 3 1\n", "exclude" },
        { "0 ssss\nv 0 1\n1 FFFF\n2 FFFF\n3 FFFF\n", "first" },
        { "0 F.FF\n1 FFFF\n2 FFFF\n3 FFFF\n", "first" },
        { "skip all\n0 FFFF\n1 FFFF\n2 FFFF\n3 FFFF\n", "skip" },
        { "score 1\n0 FFFF\n1 FFFF\n2 FFFF\n3 FFFF\n", "score" },
    };
    for (size_t i = 0; i < FV_ARRAY_LEN(bad); i++) {
        fv_accel *a;
        CHECK_MSG(parse(HEAD, bad[i].body, &a) == FV_ERR_FORMAT && !a, "%s", bad[i].body);
        CHECK_MSG(strstr(fv_ctx_error(ctx), bad[i].says), "%s: %s", bad[i].body, fv_ctx_error(ctx));
    }
}

static void version_1_knows_reuse_alone(void)
{
    static const char head[] =
        "fvplan 1\nmodel 00070e151c232a31383f464d545b626970777e858c939aa1a8afb6bdc4cbd2d9\n"
        "sampler euler\nsteps 4\nevaluations 4\nblocks 2\n";
    fv_accel *a;
    OK(ctx, parse(head, "skip unknown to it\n0 FFFF\n1 F..F\n2 FFFF\n3 FFFF\n", &a));
    fv_accel_free(&a);
    CHECK(parse(head, "0 FFFF\n1 FLFF\nw 1 1 1 1\n2 FFFF\n3 FFFF\n", &a) == FV_ERR_FORMAT);
    CHECK(parse(head, "0 FFFF\n1 ....\nv 1 1\n2 FFFF\n3 FFFF\n", &a) == FV_ERR_FORMAT);
    CHECK(fvi_accel_parse(ctx, &a, "fvplan 3\n", 9) == FV_ERR_VERSION);
}

static void damaged_plans_are_refused(void)
{
    fv_accel *a, *b;
    char *text;
    size_t n;
    OK(ctx, any_plan(&a, 4));
    OK(ctx, fvi_accel_text(ctx, a, &text, &n));
    CHECK(strncmp(text, "fvplan 2\n", 9) == 0);
    for (size_t i = 0; i < n; i++) {
        char *cut = malloc(i ? i : 1); /* so that reading beyond it is seen */
        CHECK(cut);
        memcpy(cut, text, i);
        CHECK_MSG(fvi_accel_parse(ctx, &b, cut, i) != FV_OK && !b, "cut at %zu", i);
        free(cut);
        for (int bit = 0; bit < 7; bit++) {
            text[i] ^= (char)(1 << bit);
            CHECK_MSG(fvi_accel_parse(ctx, &b, text, n) != FV_OK && !b, "bit %d of %zu", bit, i);
            text[i] ^= (char)(1 << bit);
        }
    }
    fv_free(ctx, text);
    fv_accel_free(&a);
}

/* Memory follows the text, not what its header says. */
static void sizes_are_bounded_by_the_text(void)
{
    static const char head[] =
        "fvplan 2\nmodel 00070e151c232a31383f464d545b626970777e858c939aa1a8afb6bdc4cbd2d9\n"
        "sampler euler\nsteps 2048\nevaluations 2048\nblocks 256\n";
    fv_accel *a;
    fv_memory_stats before, after;
    fv_ctx_memory(ctx, &before);
    CHECK(parse(head, "0 FFFF\n", &a) == FV_ERR_TRUNCATED);
    fv_ctx_memory(ctx, &after);
    CHECK(after.peak_bytes < before.current_bytes + 65536 ||
          after.peak_bytes == before.peak_bytes);
    CHECK(parse("fvplan 2\n", "evaluations 2049\n0 F\n", &a) == FV_ERR_FORMAT);
    CHECK(parse("fvplan 2\n", "blocks 257\n0 F\n", &a) == FV_ERR_FORMAT);
}

static void what_cannot_be_read_is_not_written(void)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY, 10001, -3e38f };
    fv_accel *a;
    char *text;
    size_t n;
    OK(ctx, blank(&a));
    for (size_t i = 0; i < FV_ARRAY_LEN(bad); i++) {
        a->action[K] = DIT_LINEAR;
        a->weight[K * DIT_HISTORY + 2] = bad[i];
        CHECK(fvi_accel_text(ctx, a, &text, &n) == FV_ERR_ARG && !text);
        a->action[K] = DIT_FULL; /* then nobody reads it */
        OK(ctx, fvi_accel_text(ctx, a, &text, &n));
        fv_free(ctx, text);
        a->skipped[2] = 1;
        a->skip_weight[2 * DIT_HISTORY] = bad[i];
        CHECK(fvi_accel_text(ctx, a, &text, &n) == FV_ERR_ARG && !text);
        a->skipped[2] = 0;
    }
    a->weight[K * DIT_HISTORY + 2] = 0;
    a->action[K] = DIT_PRUNE; /* attention */
    CHECK(fvi_accel_text(ctx, a, &text, &n) == FV_ERR_ARG);
    a->action[K] = DIT_FULL;
    a->action[K + 1] = DIT_PRUNE;
    a->pruned[K + 1] = DIT_PRUNED;
    CHECK(fvi_accel_text(ctx, a, &text, &n) == FV_ERR_ARG);
    const dit_policy policy = { .user = NULL };
    a->policy = &policy;
    CHECK(fvi_accel_text(ctx, a, &text, &n) == FV_ERR_UNSUPPORTED);
    CHECK(fv_accel_write(ctx, a, "nowhere/x.fvplan", 0) == FV_ERR_UNSUPPORTED);
    a->policy = NULL;
    fv_accel_free(&a);
}

static void files_are_read_with_and_without_a_model(void)
{
    char path[160];
    fv_accel *a, *b;
    fv_dit d = { .ctx = ctx };
    snprintf(path, sizeof path, "%s/p.fvplan", temp_dir);
    OK(ctx, any_plan(&a, 7));
    OK(ctx, fv_accel_write(ctx, a, path, 0));
    CHECK(fv_accel_write(ctx, a, path, 0) == FV_ERR_EXISTS);
    OK(ctx, fv_accel_read(ctx, &b, NULL, path));
    CHECK(is_same_plan(a, b));
    fv_accel_free(&b);
    memcpy(d.hash, a->model_hash, sizeof d.hash);
    d.net.cfg.depth = DEPTH;
    OK(ctx, fv_accel_read(ctx, &b, &d, path));
    fv_accel_free(&b);
    d.hash[31] ^= 1;
    CHECK(fv_accel_read(ctx, &b, &d, path) == FV_ERR_MODEL && !b);
    d.hash[31] ^= 1;
    d.net.cfg.depth = DEPTH + 1;
    CHECK(fv_accel_read(ctx, &b, &d, path) == FV_ERR_MODEL && !b);
    unlink(path);
    fv_accel_free(&a);
}

static void failing_memory_is_reported(void)
{
    fv_accel *a, *b;
    char *text, *again = NULL;
    size_t n, m;
    bool is_done = false;
    OK(ctx, any_plan(&a, 9));
    OK(ctx, fvi_accel_text(ctx, a, &text, &n));
    for (int limit = 0; limit < 1000 && !is_done; limit++) {
        alloc_fail heap = { .left = ALLOC_ALL };
        const fv_allocator al = alloc_fail_allocator(&heap);
        fv_ctx_options co = FV_CTX_OPTIONS_INIT;
        fv_ctx *f;
        co.alloc = &al;
        co.threads = 1;
        OK(ctx, fv_ctx_create(&f, &co));
        heap.left = limit;
        fv_status s = fvi_accel_parse(f, &b, text, n);
        if (s == FV_OK) s = fvi_accel_text(f, b, &again, &m);
        CHECK(s == FV_OK || s == FV_ERR_OOM);
        is_done = s == FV_OK;
        fv_free(f, again);
        again = NULL;
        fv_accel_free(&b);
        fv_ctx_destroy(&f);
        CHECK(heap.live == 0);
    }
    CHECK(is_done);
    fv_free(ctx, text);
    fv_accel_free(&a);
}

int main(void)
{
    temp_dir_make("plan");
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(plans_round_trip);
    RUN(reuse_alone_is_version_1);
    RUN(lines_mean_what_they_say);
    RUN(wrong_lines_are_refused);
    RUN(version_1_knows_reuse_alone);
    RUN(damaged_plans_are_refused);
    RUN(sizes_are_bounded_by_the_text);
    RUN(what_cannot_be_read_is_not_written);
    RUN(files_are_read_with_and_without_a_model);
    RUN(failing_memory_is_reported);
    fv_ctx_destroy(&ctx);
    return test_end();
}
