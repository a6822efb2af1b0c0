/* test_prune.c - which tokens of a pruned module are computed, against a plain sort by the scores'
 * definitions; ties, values that are no numbers; moving tokens. The engine's use of it:
 * test_engine_actions.c. */
#include "../diffusion/internal.h"
#include "test.h"

static fv_ctx *ctx;

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

/* ---- Choosing tokens ------------------------------------------------------------------------- */

typedef struct choice {
    dit_prune_job j;
    float newest[4 * 64 * 8], h[4 * 64 * 8], input[2 * 64 * 8], value[2 * 3 * 64];
    uint16_t half[4 * 64 * 8], stale[2 * 64];
    int32_t index[2 * 64];
    float given[2 * 64];
    uint8_t cluster[2 * 64];
    dit_choice from;
} choice;

/* Small multiples of 1/4: sums are exact, and there are many ties. */
static void choose_values(choice *c, int tokens, int grid, int kept, dit_score score, bool bf16,
                          uint64_t seed)
{
    for (int i = 0; i < 4 * 64 * 8; i++) {
        c->newest[i] = (float)((int)(test_next(&seed) % 5) - 2) / 4;
        c->half[i] = fv_f32_to_bf16(c->newest[i]);
        c->h[i] = (float)(test_next(&seed) % 3);
    }
    for (int i = 0; i < 2 * 64 * 8; i++) c->input[i] = (float)(test_next(&seed) % 2);
    for (int i = 0; i < 2 * 64; i++) c->stale[i] = (uint16_t)(test_next(&seed) % 4);
    for (int i = 0; i < 2 * 64; i++) {
        c->given[i] = (float)(test_next(&seed) % 9) - 4;
        c->cluster[i] = (uint8_t)(test_next(&seed) % 3);
    }
    c->from = (dit_choice){ c->given, c->cluster, 4, 0.5f }; /* the last cluster has no tokens */
    c->j = (dit_prune_job){ .ctx = ctx, .score = score, .rows = 4, .pictures = 2, .tokens = tokens,
                            .width = 8, .grid = grid, .kept = kept, .type = bf16 ? FV_BF16 : FV_F32,
                            .h = c->h, .newest = bf16 ? (void *)c->half : c->newest,
                            .stale = c->stale, .input = score == DIT_SCORE_DRIFT ? c->input : NULL,
                            .value = c->value, .index = c->index, .choice = &c->from };
}

static double magnitude_of(const choice *c, int row, int token)
{
    double sum = 0;
    for (int d = 0; d < 8; d++) sum += fabs((double)c->newest[(row * c->j.tokens + token) * 8 + d]);
    return sum / 8;
}

/* Scores by their definitions; float where rounding decides ties. */
static void reference_scores(const choice *c, int p, ranked *r)
{
    const int N = c->j.tokens, g = c->j.grid;
    const uint16_t *stale = c->stale + p * N;
    float v[64], norm = 0, most = 0;
    for (int i = 0; i < N; i++) {
        v[i] = (float)((magnitude_of(c, p, i) + magnitude_of(c, p + 2, i)) / 2);
        most = fmaxf(most, v[i]);
        norm += v[i] * v[i];
    }
    norm = norm > 0 ? 1 / sqrtf(norm) : 0;
    for (int i = 0; i < N; i++) {
        r[i] = (ranked){ (double)v[i], i };
        if (c->j.score == DIT_SCORE_GIVEN) r[i].score = (double)c->given[p * N + i];
        if (c->j.score == DIT_SCORE_STALE)
            r[i].score = (double)((float)stale[i] + (most > 0 ? 0.5f * v[i] / most : 0));
        if (c->j.score == DIT_SCORE_TOCA)
            r[i].score = (double)(v[i] * norm + 0.25f * (float)stale[i] / (float)N);
        if (c->j.score == DIT_SCORE_DRIFT) {
            r[i].score = 0;
            for (int d = 0; d < 8; d++) {
                const int at = (p * N + i) * 8 + d;
                const double gap = (double)c->h[at] - c->input[at];
                r[i].score += gap * gap;
            }
        }
    }
    for (int y = 0; c->j.score == DIT_SCORE_TOCA && y < g / 2 * 2; y += 2)
        for (int x = 0; x < g / 2 * 2; x += 2) {
            int best = y * g + x;
            for (int i = 1; i < 4; i++)
                if (r[(y + i / 2) * g + x + i % 2].score > r[best].score)
                    best = (y + i / 2) * g + x + i % 2;
            r[best].score = (double)((float)r[best].score * 1.6f);
        }
}

static void check_choice(choice *c, const choice *before)
{
    const int N = c->j.tokens, kept = c->j.kept;
    for (int p = 0; p < 2; p++) {
        ranked r[64];
        bool is_kept[64] = { false };
        int at = 0;
        reference_scores(before, p, r);
        qsort(r, (size_t)N, sizeof *r, by_score);
        for (int i = 0; i < kept; i++) is_kept[r[i].token] = true;
        for (int i = 0; i < N; i++) {
            const uint16_t old = before->stale[p * N + i];
            if (is_kept[i])
                CHECK_MSG(c->index[p * kept + at++] == i, "score %d, %d of %d: token %d",
                          (int)c->j.score, kept, N, i);
            CHECK(c->stale[p * N + i] == (is_kept[i] ? 0 : old + 1));
            if (!c->j.input) continue;
            const float *want = is_kept[i] ? before->h : before->input;
            CHECK(memcmp(&c->input[(p * N + i) * 8], &want[(p * N + i) * 8], 8 * 4) == 0);
        }
    }
}

static void tokens_are_the_best_by_a_plain_sort(void)
{
    static choice c, before;
    static const int grids[] = { 1, 2, 3, 5, 8 };
    for (int i = 0; i < 5; i++)
        for (int v = 0; v < 10; v++)
            for (int kept = 1; kept <= grids[i] * grids[i]; kept += kept < 4 ? 1 : 7)
                for (uint64_t seed = 1; seed < 4; seed++) {
                    choose_values(&c, grids[i] * grids[i], grids[i], kept, (dit_score)(v / 2),
                                  v % 2, seed);
                    before = c;
                    dit_prune_select(&c.j);
                    check_choice(&c, &before);
                    if (test_bad) return;
                }
}

static void equal_scores_go_by_number(void)
{
    static choice c;
    for (int score = 0; score < 5; score++) {
        choose_values(&c, 64, 8, 13, (dit_score)score, false, 1);
        for (int i = 0; i < 4 * 64 * 8; i++) c.newest[i] = c.h[i] = 1;
        memset(c.input, 0, sizeof c.input);
        memset(c.stale, 0, sizeof c.stale);
        memset(c.given, 0, sizeof c.given);
        dit_prune_select(&c.j);
        for (int i = 0; i < 13; i++) { /* ToCa's best of each 2 x 2 is the first of the four */
            const int want = score == DIT_SCORE_TOCA ? i / 4 * 16 + i % 4 * 2 : i;
            CHECK_MSG(c.index[i] == want && c.index[13 + i] == want, "score %d: %d", score,
                      (int)c.index[i]);
        }
    }
}

/* Whatever the values are, the result is a list of tokens. */
static void values_that_are_no_numbers_choose_tokens(void)
{
    static choice c;
    static const float odd[] = { NAN, INFINITY, -INFINITY, 3e38f, 1e-40f };
    for (int score = 0; score < 5; score++)
        for (int which = 0; which < 6; which++)
            for (uint64_t seed = 1; seed < 6; seed++) {
                uint64_t state = seed;
                choose_values(&c, 25, 5, 7, (dit_score)score, seed % 2, seed);
                for (int i = 0; i < 4 * 64 * 8; i++) {
                    if (test_next(&state) % 4) continue;
                    const float v = odd[which < 5 ? which : (int)(test_next(&state) % 5)];
                    c.newest[i] = c.h[i] = v;
                    c.half[i] = fv_f32_to_bf16(v);
                    c.given[i % 50] = v;
                }
                for (int i = 0; i < 50; i++) c.stale[i] = seed % 2 ? 65535 : 3;
                dit_prune_select(&c.j);
                for (int i = 0; i < 14; i++) {
                    CHECK(c.index[i] >= 0 && c.index[i] < 25);
                    CHECK(i % 7 == 0 || c.index[i] > c.index[i - 1]);
                }
                for (int i = 0; i < 50; i++) /* does not wrap around */
                    CHECK(c.stale[i] == 0 || c.stale[i] == (seed % 2 ? 65535 : 4));
            }
    /* NaN counts as 0: it is not computed before anything else. */
    choose_values(&c, 25, 5, 20, DIT_SCORE_MEAN, false, 1);
    for (int i = 0; i < 4 * 25 * 8; i++) c.newest[i] = i / 8 % 25 < 5 ? NAN : 1;
    dit_prune_select(&c.j);
    for (int i = 0; i < 20; i++) CHECK(c.index[i] == 5 + i);
}

/* Without scores it is the first tokens. */
static void nothing_given_takes_the_first(void)
{
    static choice c;
    choose_values(&c, 25, 5, 7, DIT_SCORE_GIVEN, false, 1);
    c.from = (dit_choice){ NULL, NULL, 0, 0 };
    dit_prune_select(&c.j);
    for (int i = 0; i < 14; i++) CHECK(c.index[i] == i % 7);
}

/* Mean change of the computed tokens of a cluster, channel d of a row; the values are small
 * multiples of 1/4, so that sums are exact. */
static double change_by_hand(const choice *c, const float *computed, int row, int k, int d)
{
    const int kept = c->j.kept;
    double sum = 0;
    int n = 0;
    for (int i = 0; i < kept; i++) {
        const int token = c->index[row % 2 * kept + i];
        if (c->cluster[row % 2 * 25 + token] != k) continue;
        sum += (double)computed[(row * kept + i) * 8 + d] - c->h[(row * 25 + token) * 8 + d];
        n++;
    }
    return n ? sum / n : 0;
}

static void changes_spread_in_their_cluster(void)
{
    static choice c;
    static float computed[4 * 25 * 8], change[4 * 4 * 8], h[4 * 25 * 8];
    for (int kept = 1; kept <= 25; kept += 3) {
        uint64_t seed = 17;
        choose_values(&c, 25, 5, kept, DIT_SCORE_GIVEN, false, 3);
        for (int i = 0; i < 4 * 25 * 8; i++) computed[i] = (float)(test_next(&seed) % 17) / 4;
        for (int i = 0; i < 4 * 4 * 8; i++) change[i] = NAN;
        dit_prune_select(&c.j);
        dit_prune_change(&c.j, computed, change);
        memcpy(h, c.h, sizeof h);
        dit_prune_spread(&c.j, change, h);
        for (int i = 0; i < 4 * 4 * 8; i++)
            NEAR(change[i], change_by_hand(&c, computed, i / 32, i / 8 % 4, i % 8), 1e-6);
        for (int i = 0; i < 4 * 25 * 8; i++) {
            const int row = i / 200, k = c.cluster[row % 2 * 25 + i / 8 % 25];
            NEAR(h[i], c.h[i] + 0.5 * change_by_hand(&c, computed, row, k, i % 8), 1e-6);
        }
    }
}

static void gathered_tokens_go_back_to_their_places(void)
{
    static choice c;
    static float few[4 * 64 * 8], many[4 * 64 * 8];
    static uint16_t few_half[4 * 64 * 8], many_half[4 * 64 * 8];
    for (int kept = 1; kept <= 25; kept += 6) {
        choose_values(&c, 25, 5, kept, DIT_SCORE_MEAN, false, 3);
        dit_prune_select(&c.j);
        dit_prune_gather(&c.j, few);
        for (int i = 0; i < 4 * kept * 8; i++) few_half[i] = fv_f32_to_bf16(few[i]);
        for (int i = 0; i < 4 * 25 * 8; i++) many[i] = -9;
        memset(many_half, 0xff, sizeof many_half);
        dit_prune_scatter(&c.j, few, sizeof(float), many);
        dit_prune_scatter(&c.j, few_half, sizeof(uint16_t), many_half);
        for (int row = 0; row < 4; row++)
            for (int i = 0; i < 25; i++) {
                bool is_kept = false;
                for (int k = 0; k < kept; k++) is_kept |= c.index[row % 2 * kept + k] == i;
                for (int d = 0; d < 8; d++) {
                    const int at = (row * 25 + i) * 8 + d;
                    CHECK(many[at] == (is_kept ? c.h[at] : -9));
                    CHECK(many_half[at] == (is_kept ? fv_f32_to_bf16(c.h[at]) : 0xffff));
                }
            }
    }
}

int main(void)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(tokens_are_the_best_by_a_plain_sort);
    RUN(equal_scores_go_by_number);
    RUN(values_that_are_no_numbers_choose_tokens);
    RUN(nothing_given_takes_the_first);
    RUN(changes_spread_in_their_cluster);
    RUN(gathered_tokens_go_back_to_their_places);
    fv_ctx_destroy(&ctx);
    return test_end();
}
