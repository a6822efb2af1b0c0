/* test_rdvq_int.c - RDVQ's entropy model in integers: its parts against their formulas; every
 * variant against the scalar one bit by bit, also at the edges of all ranges; slice by slice
 * against all at once; integers against float; files, also damaged ones.
 *
 *     test_rdvq_int --full                  also all frequencies of a million tokens
 *     test_rdvq_int --full MODEL PHOTOS     and the rate of a trained model, in float and integers,
 *                                           over held-out pictures of a folder or archive */
#include "alloc_fail.h"
#include "rdvq_int_fixture.h"
#include "temp_dir.h"
#include "test.h"

#include "fovea_codec.h"

static fv_ctx *ctx;
static uint64_t seed = 11;

static const rdvq_int_ops *variant(int i)
{
#if defined(__x86_64__)
    static const rdvq_int_ops *const all[] = { &rdvq_int_ops_avx2, &rdvq_int_ops_avx512,
                                               &rdvq_int_ops_avx512vnni };
    static const uint32_t need[] = { FV_CPU_AVX2, FV_CPU_AVX512, FV_CPU_AVX512VNNI };
    if (i < 3) return fv_cpu_features() & need[i] ? all[i] : &rdvq_int_ops_c;
#endif
    return i < 3 ? &rdvq_int_ops_c : NULL;
}

static int32_t any(int64_t limit) /* -limit .. limit, the ends often */
{
    const uint32_t r = test_next(&seed);
    if (r % 13 == 0) return (int32_t)limit;
    if (r % 13 == 1) return (int32_t)-limit;
    return (int32_t)((int64_t)(((uint64_t)r * (2 * (uint64_t)limit + 1)) >> 32) - limit);
}

/* ---- Parts against their formulas ------------------------------------------------------------ */

static void exp2_is_close(void)
{
    uint32_t before = UINT32_MAX;
    for (uint32_t f = 0; f < 1024; f++) {
        const uint32_t p = rdvq_exp2(f);
        NEAR(p / (1048576 * exp2(-(double)f / 1024)), 1, 1.1e-4);
        CHECK(p < before && p > 1u << 19 && p <= 1u << 20);
        before = p;
    }
    CHECK(rdvq_weight(0) == 1u << 23 && rdvq_weight(23 << 10) == 1 && rdvq_weight(24 << 10) == 0);
    CHECK(rdvq_weight(65535) == 0);
    for (uint32_t i = 0; i < 32; i++) {
        CHECK(rdvq_bits_of(1u << i) == (int)i + 1 && rdvq_bits_of((1u << i) - 1) == (int)i);
    }
}

static void check_sum(const uint32_t *w, int n)
{
    uint32_t start[RDVQ_MAX_GROUP + 1];
    uint64_t sum = 0;
    rdvq_frequencies(w, n, start);
    CHECK(start[0] == 0 && start[n] == 65536);
    for (int i = 0; i < n; i++) {
        CHECK(start[i + 1] > start[i]);
        sum += w[i];
    }
    for (int i = 0; i < n && sum; i++) { /* all but the first of the largest: rounded down */
        const double want = 1 + (65536.0 - n) * w[i] / (double)sum, f = start[i + 1] - start[i];
        CHECK_MSG(f > want - 1.001 && f < want + n, "%d of %d: %g, not %g", i, n, f, want);
    }
}

static void frequencies_are_valid(void)
{
    uint32_t w[RDVQ_MAX_GROUP];
    for (int round = 0; round < 3000 && !test_bad; round++) {
        const int n = 1 + (int)(test_next(&seed) % RDVQ_MAX_GROUP), kind = round % 5;
        for (int i = 0; i < n; i++) {
            const uint32_t r = test_next(&seed);
            w[i] = kind == 0   ? 0
                   : kind == 1 ? 1u << 31
                   : kind == 2 ? (i == round % n ? 1u << 23 : 0)
                   : kind == 3 ? r >> 8 >> (r & 15)
                               : r % 3;
        }
        check_sum(w, n);
    }
}

static void norm_gives_unit_rms(void)
{
    int32_t r[192];
    int16_t y[192];
    for (int round = 0; round < 200; round++) {
        double sum = 0;
        for (int i = 0; i < 192; i++) {
            r[i] = any(NN_X_MAX >> round % 20);
            sum += (double)r[i] * r[i];
        }
        rdvq_int_ops_c.norm(y, r, 192);
        const double rms = sqrt(sum / 192 + 0x1p24 * 1e-5);
        for (int i = 0; i < 192; i++) {
            /* the mean square is floored, 168 is 0.23 too much: 1.2 of rms^2, half in the root */
            NEAR(y[i], r[i] / rms * 2048, 0.6 + 0.7 * abs(y[i]) / (rms * rms));
        }
    }
    memset(r, 0, sizeof r);
    rdvq_int_ops_c.norm(y, r, 192);
    for (int i = 0; i < 192; i++) CHECK(y[i] == 0);
}

static void unit_has_length_one(void)
{
    int32_t q[32];
    int16_t turn[64], y[32];
    for (int round = 0; round < 500; round++) {
        double sum = 0, length = 0;
        for (int i = 0; i < 32; i += 2) {
            const double a = any(100000) * 1e-4;
            turn[i] = turn[i + 1] = (int16_t)lrint(16384 * cos(a));
            turn[33 + i] = (int16_t)lrint(16384 * sin(a));
            turn[32 + i] = (int16_t)-turn[33 + i];
            q[i] = any(32767 >> round % 14);
            q[i + 1] = any(32767 >> round % 14);
            sum += (double)q[i] * q[i] + (double)q[i + 1] * q[i + 1];
        }
        rdvq_int_ops_c.unit(y, q, turn, 32);
        for (int i = 0; i < 32; i++) length += (double)y[i] * y[i];
        NEAR(sqrt(length), sum > 0 ? 16384 : 0, 4);
        if (sum > 0) NEAR(y[1], (q[1] * (double)turn[1] + q[0] * (double)turn[33]) / sqrt(sum), 1);
    }
    memset(q, 0, sizeof q);
    rdvq_int_ops_c.unit(y, q, turn, 32);
    for (int i = 0; i < 32; i++) CHECK(y[i] == 0);
}

static void attention_is_a_softmax(void)
{
    int32_t s[848];
    int16_t P[848];
    for (int round = 0; round < 300; round++) {
        const int n = 1 + (int)(test_next(&seed) % 848);
        const int32_t scale = round % 3 ? 1500 : RDVQ_SCALE_LIMIT;
        double e[848], sum = 0, most = -1e9;
        for (int k = 0; k < n; k++) {
            s[k] = any(1 << 28);
            e[k] = s[k] * 0x1p-28 * scale / 256;
            most = fmax(most, e[k]);
        }
        for (int k = 0; k < n; k++) sum += exp2(e[k] - most);
        rdvq_int_ops_c.attend(P, s, n, scale);
        for (int k = 0; k < n; k++) {
            const double want = 32768 * exp2(e[k] - most) / sum;
            NEAR(P[k], fmin(want, 32767), 0.8 + 6e-3 * want);
        }
        for (int k = n; k % 16; k++) CHECK(P[k] == 0);
    }
}

/* ---- Variants -------------------------------------------------------------------------------- */

static void dots_of(const rdvq_int_ops *o, int rows, int blocks, int pairs, bool is_scaled)
{
    static int16_t w[5 * 40 * 32], x[20 * 100];
    static int32_t mul[5 * 16], want[20 * 90], got[20 * 90];
    const int limit = is_scaled ? 32767 : 16384;
    const int shift = 31 + (int)(test_next(&seed) % 8);
    const rdvq_dots d = { w, blocks, pairs, 40, is_scaled ? mul : NULL, shift };
    for (size_t i = 0; i < FV_ARRAY_LEN(w); i++) w[i] = (int16_t)any(65538 / 80);
    for (size_t i = 0; i < FV_ARRAY_LEN(x); i++) x[i] = (int16_t)any(limit);
    for (size_t i = 0; i < FV_ARRAY_LEN(mul); i++) mul[i] = (int32_t)(test_next(&seed) >> 1);
    memset(want, 0x55, sizeof want);
    memset(got, 0x55, sizeof got);
    rdvq_int_ops_c.dots(want, 90, &d, x, 100, rows);
    o->dots(got, 90, &d, x, 100, rows);
    CHECK_MSG(memcmp(want, got, sizeof want) == 0, "%s: %d rows, %d blocks, %d pairs", o->name,
              rows, blocks, pairs);
}

static void all_dots_are_equal(void)
{
    for (int v = 0; variant(v); v++)
        for (int rows = 1; rows <= 20; rows++)
            for (int blocks = 1; blocks <= 5 && !test_bad; blocks++)
                dots_of(variant(v), rows, blocks, 1 + (int)(test_next(&seed) % 40), rows & 1);
}

/* The worst that rdvq_int_open lets through. */
static void products_do_not_overflow(void)
{
    static int16_t w[2 * 2048 * 16], x[2 * 2048];
    int32_t sum[16];
    for (int pairs = 2; pairs <= 2048; pairs *= 32) {
        const int each = RDVQ_ROW_LIMIT / (2 * pairs), weight = each > 32767 ? 32767 : each;
        for (int i = 0; i < 2 * pairs; i++) x[i] = 32767;
        for (int i = 0; i < 32 * pairs; i++) w[i] = (int16_t)(i / 2 % 2 ? -weight : weight);
        const rdvq_dots d = { w, 1, pairs, pairs, NULL, 0 };
        for (int v = 0; variant(v); v++) {
            variant(v)->dots(sum, 16, &d, x, 2 * pairs, 1);
            for (int i = 0; i < 16; i++)
                CHECK(sum[i] == (int64_t)2 * pairs * weight * 32767 * (i % 2 ? -1 : 1));
        }
    }
}

static void vectors_of(const rdvq_int_ops *o)
{
    static int32_t in[2 * 352], l[2][848];
    static int16_t turn[2 * 32], y[2][848];
    const int shift = (int)(test_next(&seed) % 24), n = 16 * (1 + (int)(test_next(&seed) % 22));
    for (int i = 0; i < 2 * 352; i++) in[i] = any(NN_X_MAX >> shift);
    memset(y, 0, sizeof y);
    rdvq_int_ops_c.norm(y[0], in, n);
    o->norm(y[1], in, n);
    CHECK_MSG(memcmp(y[0], y[1], sizeof y[0]) == 0, "%s: norm of %d", o->name, n);
    for (int i = 0; i < 32; i++) {
        const double a = any(100000) * 1e-4;
        turn[i] = (int16_t)lrint(16384 * cos(a));
        turn[32 + i] = (int16_t)lrint(16384 * sin(a));
    }
    rdvq_int_ops_c.unit(y[0], in, turn, 32);
    o->unit(y[1], in, turn, 32);
    CHECK_MSG(memcmp(y[0], y[1], sizeof y[0]) == 0, "%s: unit", o->name);
    const rdvq_int_layer layer = { .up = shift % 7, .down = 1 + shift % 15 };
    rdvq_int_ops_c.gate(y[0], in, in + 352, n, &layer);
    o->gate(y[1], in, in + 352, n, &layer);
    CHECK_MSG(memcmp(y[0], y[1], sizeof y[0]) == 0, "%s: gate", o->name);
    for (int i = 0; i < 352; i++) in[i] = any(INT32_MAX >> 1 >> shift);
    rdvq_int_ops_c.average(y[0], in, n);
    o->average(y[1], in, n);
    CHECK_MSG(memcmp(y[0], y[1], sizeof y[0]) == 0, "%s: average", o->name);
    for (int i = 0; i < 848; i++) l[0][i] = l[1][i] = any((1 << 28) >> shift % 12);
    const int keys = 1 + (int)(test_next(&seed) % 848);
    const int32_t scale = any(RDVQ_SCALE_LIMIT / 2) + RDVQ_SCALE_LIMIT / 2;
    rdvq_int_ops_c.attend(y[0], l[0], keys, scale);
    o->attend(y[1], l[1], keys, scale);
    CHECK_MSG(memcmp(y[0], y[1], sizeof y[0]) == 0, "%s: attend to %d", o->name, keys);
}

static void all_vectors_are_equal(void)
{
    for (int v = 0; variant(v); v++)
        for (int round = 0; round < 500 && !test_bad; round++) vectors_of(variant(v));
}

static void all_probabilities_are_equal(void)
{
    static int32_t logit[1024];
    static uint16_t u[2][1024];
    static uint32_t sum[2][64];
    for (int v = 0; variant(v); v++)
        for (int round = 0; round < 300; round++) {
            const int n = 16 * (1 + (int)(test_next(&seed) % 64)), group = 16 << round % 5;
            for (int i = 0; i < n; i++) logit[i] = any(INT32_MAX >> round % 28);
            memset(u, 0, sizeof u);
            memset(sum, 0, sizeof sum);
            rdvq_int_ops_c.spread(u[0], sum[0], logit, n, group);
            variant(v)->spread(u[1], sum[1], logit, n, group);
            CHECK(memcmp(u[0], u[1], sizeof u[0]) == 0);
            CHECK(memcmp(sum[0], sum[1], sizeof sum[0]) == 0);
        }
}

/* ---- The network ----------------------------------------------------------------------------- */

typedef struct room {
    int16_t *cache;
    void *work;
    uint16_t *u;     /* [tokens, codes] */
    uint32_t *start; /* [tokens, groups + 1] */
} room;

static void room_make(room *r, const rdvq_int *m)
{
    const size_t T = (size_t)m->slices.tokens;
    r->cache = calloc(rdvq_int_cache_size(m), sizeof *r->cache);
    r->work = fv_alloc(ctx, rdvq_int_work_size(m, (int)T));
    r->u = calloc(T * (size_t)m->cfg.codes, sizeof *r->u);
    r->start = calloc(T * (size_t)(m->groups + 1), sizeof *r->start);
}

static void room_free(room *r)
{
    free(r->cache);
    fv_free(ctx, r->work);
    free(r->u);
    free(r->start);
}

/* All places of a window, `step` slices at a time. */
static void run_window(const rdvq_int *m, const int32_t *tokens, int step, room *r)
{
    const rdvq_slices *s = &m->slices;
    memset(r->cache, 0, rdvq_int_cache_size(m) * sizeof *r->cache);
    for (int j = 0; j < s->slices; j += step) {
        const int end = s->first[j + step < s->slices ? j + step : s->slices];
        const rdvq_span span = { r->cache, tokens, s->first[j], end };
        const int16_t *x = rdvq_int_run(m, &span, 1, s->tokens, r->work);
        rdvq_int_spread(m, x, end - s->first[j], r->work,
                        r->u + (size_t)s->first[j] * (size_t)m->cfg.codes,
                        r->start + (size_t)s->first[j] * (size_t)(m->groups + 1));
    }
}

static void draw_tokens(int32_t *tokens, const rdvq_config *c, int n)
{
    for (int i = 0; i < n; i++) tokens[i] = (int32_t)(test_next(&seed) % (uint32_t)c->codes);
}

static uint32_t crc_of(const rdvq_int *m, const room *r)
{
    const size_t T = (size_t)m->slices.tokens;
    const uint32_t crc = fv_crc32(0, r->u, T * (size_t)m->cfg.codes * sizeof *r->u);
    return fv_crc32(crc, r->start, T * (size_t)(m->groups + 1) * sizeof *r->start);
}

/* Masked pass, slice by slice, any steps; every variant. */
static void passes_agree(int groups, int strict)
{
    rdvq_config c = rdvq_tiny(groups);
    int32_t tokens[RDVQ_MAX_TOKENS];
    rdvq_pair p;
    room r;
    c.strict_mask = strict;
    OK(ctx, rdvq_pair_make(ctx, &p, &c, 3, 8));
    room_make(&r, p.m);
    draw_tokens(tokens, &c, p.m->slices.tokens);
    const nn_int_ops *const best = p.m->nn;
    p.m->ops = &rdvq_int_ops_c;
    p.m->nn = &nn_int_ops_c;
    run_window(p.m, tokens, 1, &r);
    const uint32_t want = crc_of(p.m, &r);
    p.m->nn = best;
    for (int v = 0; variant(v); v++)
        for (int step = 1; step <= 100; step = 3 * step + 1) {
            p.m->ops = variant(v);
            memset(r.u, 0, sizeof *r.u);
            run_window(p.m, tokens, step, &r);
            CHECK_MSG(crc_of(p.m, &r) == want, "%s, %d slices at a time", variant(v)->name, step);
        }
    room_free(&r);
    rdvq_pair_free(&p);
}
static void one_pass_equals_slices(void) { passes_agree(1, 0); }
static void one_pass_equals_slices_with_product_codes(void) { passes_agree(3, 0); }
static void one_pass_equals_slices_with_strict_mask(void) { passes_agree(1, 1); }

/* The bits of every machine and compiler. */
static void probabilities_are_those_of_every_build(void)
{
    const rdvq_config c = rdvq_tiny(2);
    rdvq_int *m;
    room r;
    int32_t tokens[RDVQ_MAX_TOKENS];
    uint64_t state = 1;
    OK(ctx, rdvq_int_random(ctx, &m, &c, 1));
    room_make(&r, m);
    for (int i = 0; i < m->slices.tokens; i++) tokens[i] = (int32_t)(test_next(&state) % 64);
    run_window(m, tokens, 1, &r);
    CHECK_MSG(crc_of(m, &r) == 0xe18318a6u, "crc %#x", crc_of(m, &r));
    room_free(&r);
    rdvq_int_close(&m);
}

/* --full: every frequency of a million tokens, in steps that differ. */
static void a_million_tokens_have_equal_frequencies(void)
{
    const rdvq_config c = rdvq_tiny(2);
    rdvq_int *m;
    room r;
    int32_t tokens[RDVQ_MAX_TOKENS];
    uint8_t want[32], got[32];
    OK(ctx, rdvq_int_random(ctx, &m, &c, 1));
    room_make(&r, m);
    for (int v = -1; v < 0 || variant(v); v++) {
        uint64_t state = 9;
        fv_sha256 h;
        fv_sha256_init(&h);
        m->ops = v < 0 ? &rdvq_int_ops_c : variant(v);
        if (v >= 0) m->nn = nn_int_ops_for(fv_cpu_features());
        else m->nn = &nn_int_ops_c;
        for (int w = 0; w * m->slices.tokens < 1000000; w++) {
            for (int i = 0; i < m->slices.tokens; i++)
                tokens[i] = (int32_t)(rdvq_draw(&state) % 64);
            run_window(m, tokens, v < 0 ? 100 : 1 + (w + v) % 9, &r);
            const uint32_t crc = crc_of(m, &r);
            fv_sha256_update(&h, &crc, sizeof crc);
        }
        fv_sha256_final(&h, v < 0 ? want : got);
        CHECK_MSG(v < 0 || memcmp(want, got, 32) == 0, "%s", m->ops->name);
    }
    room_free(&r);
    rdvq_int_close(&m);
}

/* ---- Against float --------------------------------------------------------------------------- */

static fv_status float_logits(fv_ctx *x, fv_plan **p, const rdvq_net *n, const rdvq_tables *tables)
{
    const int64_t dim[3] = { 1, n->slices.tokens, n->cfg.code_width };
    fv_tape *t;
    FV_TRY(fv_tape_create(x, &t, n->params, FV_INFER, FV_F32));
    fv_output(t, "logits", rdvq_logits(t, n, fv_input(t, "q", FV_F32, 3, dim)));
    FV_TRY(fv_plan_finish(x, p, &t, NULL));
    return rdvq_tables_bind(tables, *p);
}

typedef struct rates { double entropy, excess; } rates; /* bits of a token */

/* Entropy of the float distributions, and how far the integer ones are (Kullback-Leibler). */
static void add_rates(const rdvq_int *m, const float *logits, const room *r, rates *sum)
{
    const int K = m->cfg.codes, G = m->groups, S = m->group;
    for (int i = 0; i < m->slices.tokens; i++) {
        const float *y = logits + (size_t)i * (size_t)K;
        const uint32_t *start = r->start + (size_t)i * (size_t)(G + 1);
        double most = y[0], Z = 0;
        for (int k = 1; k < K; k++) most = fmax(most, y[k]);
        for (int k = 0; k < K; k++) Z += exp(y[k] - most);
        for (int g = 0; g < G; g++) {
            const int n = K - g * S < S ? K - g * S : S;
            uint32_t w[RDVQ_MAX_GROUP], inner[RDVQ_MAX_GROUP + 1];
            for (int k = 0; k < n; k++)
                w[k] = rdvq_weight(r->u[(size_t)i * (size_t)K + (size_t)(g * S + k)]);
            rdvq_frequencies(w, n, inner);
            for (int k = 0; k < n; k++) {
                const double p = exp(y[g * S + k] - most) / Z, f = start[g + 1] - start[g];
                const double q = f * (inner[k + 1] - inner[k]) * 0x1p-32;
                sum->entropy -= p > 0 ? p * log2(p) : 0;
                sum->excess += p > 0 ? p * log2(p / q) : 0;
            }
        }
    }
}

/* Codes of unit length of these tokens. */
static void codes_of(const rdvq_pair *p, const int32_t *tokens, float *q)
{
    const int D = p->net.cfg.code_width;
    const float *codes = fv_params_tensor(p->params, p->net.codebook).data;
    for (int i = 0; i < p->net.slices.tokens; i++) {
        const float *e = codes + tokens[i] * D;
        double length = 0;
        for (int k = 0; k < D; k++) length += (double)e[k] * e[k];
        for (int k = 0; k < D; k++) q[i * D + k] = (float)(e[k] / sqrt(length));
    }
}

/* excess over entropy of a network of that shape, over `windows` windows of random tokens */
static void float_case(const rdvq_config *c, float logits, int bits, double limit)
{
    static float q[RDVQ_MAX_TOKENS * 16];
    rdvq_pair p;
    rdvq_tables tables;
    fv_plan *plan = NULL;
    room r;
    rates sum = { 0 };
    int32_t tokens[RDVQ_MAX_TOKENS];
    OK(ctx, rdvq_pair_make(ctx, &p, c, logits, bits));
    OK(ctx, rdvq_tables_create(ctx, &tables, &p.net));
    OK(ctx, float_logits(ctx, &plan, &p.net, &tables));
    room_make(&r, p.m);
    draw_tokens(tokens, c, p.m->slices.tokens);
    codes_of(&p, tokens, q);
    OK(ctx, fv_plan_bind(plan, "q", q));
    OK(ctx, fv_plan_forward(plan));
    run_window(p.m, tokens, 100, &r);
    add_rates(p.m, fv_plan_value(plan, "logits").data, &r, &sum);
    printf("# %s, weights of %d bits: entropy %.4f bits of a token, integers cost %.4f %% more\n",
           c->name, bits, sum.entropy / p.m->slices.tokens, 100 * sum.excess / sum.entropy);
    CHECK(sum.excess < limit * sum.entropy);
    room_free(&r);
    fv_plan_destroy(&plan);
    rdvq_tables_free(ctx, &tables);
    rdvq_pair_free(&p);
}

static void integers_cost_little(void)
{
    rdvq_config c = rdvq_tiny(2);
    float_case(&c, 2, 8, 0.005);
    float_case(&c, 2, 16, 0.002);
    OK(ctx, rdvq_preset(ctx, "rdvq-xs", &c));
    float_case(&c, 3, 8, 0.005);
    float_case(&c, 3, 16, 0.002);
}

/* ---- Files ----------------------------------------------------------------------------------- */

/* What fovea train writes. */
static fv_status write_trained(const rdvq_pair *p, const char *path)
{
    fv_meta meta = { 0 };
    fv_status s = rdvq_config_meta(ctx, &p->net.cfg, &meta);
    if (s == FV_OK)
        s = fv_params_export(ctx, p->params, FV_F32, (const char *const *)meta.item, meta.pairs,
                             path, 1);
    fv_meta_free(ctx, &meta);
    return s;
}

static void a_converted_model_is_the_same(void)
{
    static const fv_dtype types[] = { FV_F32, FV_BF16, FV_I8 };
    const rdvq_config c = rdvq_tiny(2);
    rdvq_pair p;
    uint8_t want[32], got[32];
    OK(ctx, rdvq_pair_make(ctx, &p, &c, 3, 8));
    OK(ctx, write_trained(&p, temp_path("trained")));
    rdvq_int_hash(p.m, want);
    for (int k = 0; k < 3; k++) {
        fv_model *in, *out;
        rdvq_int *m;
        fv_tensor t;
        OK(ctx, fv_model_open(ctx, &in, temp_path("trained"), NULL));
        OK(ctx, fv_rdvq_convert(ctx, in, types[k], temp_path("use"), 1));
        OK(ctx, fv_model_open(ctx, &out, temp_path("use"), NULL));
        OK(ctx, rdvq_int_open(ctx, &m, out));
        rdvq_int_hash(m, got);
        CHECK(memcmp(want, got, 32) == 0);
        CHECK(rdvq_int_bytes(m) > 50000 && rdvq_int_config(m)->codes == 64);
        CHECK(!fv_model_find(out, "rdvq.entropy.output.weight", &t));
        CHECK(fv_model_find(out, "rdvq.encoder.stem.bias", &t));
        CHECK(fv_model_find(out, "rdvq.codebook.weight", &t));
        CHECK(fv_rdvq_is_model(in) && fv_rdvq_is_model(out) && !fv_rdvq_is_model(NULL));
        CHECK(fv_rdvq_convert(ctx, out, types[k], temp_path("again"), 1) == FV_ERR_MODEL);
        CHECK(fv_rdvq_convert(ctx, in, types[k], temp_path("use"), 0) == FV_ERR_EXISTS);
        CHECK(fv_rdvq_convert(ctx, in, FV_I32, temp_path("use"), 1) == FV_ERR_DTYPE);
        rdvq_int_close(&m);
        CHECK(rdvq_int_open(ctx, &m, in) == FV_ERR_MODEL && !m);
        fv_model_close(&in);
        fv_model_close(&out);
    }
    rdvq_pair_free(&p);
}

static void identity_depends_on_all_that_counts(void)
{
    const rdvq_config c = rdvq_tiny(1);
    rdvq_config other = c;
    uint8_t a[32], b[32];
    rdvq_int *m;
    OK(ctx, rdvq_int_random(ctx, &m, &c, 1));
    rdvq_int_hash(m, a);
    m->layer[1].wo.w[7] ^= 1;
    OK(ctx, rdvq_int_ready(ctx, m));
    rdvq_int_hash(m, b);
    CHECK(memcmp(a, b, 32) != 0);
    rdvq_int_close(&m);
    other.pad_token = 6;
    OK(ctx, rdvq_int_random(ctx, &m, &other, 1));
    rdvq_int_hash(m, b);
    CHECK(memcmp(a, b, 32) != 0);
    rdvq_int_close(&m);
    other = c;
    other.enc_width[0] = 8; /* transforms do not count */
    OK(ctx, rdvq_int_random(ctx, &m, &other, 1));
    rdvq_int_hash(m, b);
    CHECK(memcmp(a, b, 32) == 0);
    rdvq_int_close(&m);
}

static void models_that_cannot_be_integers_are_refused(void)
{
    rdvq_config c;
    rdvq_int *m = NULL;
    rdvq_pair p;
    OK(ctx, rdvq_preset(ctx, "rdvq-official", &c));
    CHECK(rdvq_int_create(ctx, &m, &c) == FV_ERR_UNSUPPORTED && !m);
    c = rdvq_tiny(1);
    c.ffn = 40;
    CHECK(rdvq_int_create(ctx, &m, &c) == FV_ERR_UNSUPPORTED && !m);
    c = rdvq_tiny(1);
    OK(ctx, rdvq_pair_net(ctx, &p, &c, 3));
    ((float *)fv_params_tensor(p.params, p.net.head).data)[5] = NAN;
    CHECK(rdvq_int_from_net(ctx, &m, &p.net, 8) == FV_ERR_NUMERIC && !m);
    ((float *)fv_params_tensor(p.params, p.net.head).data)[5] = 1e30f;
    CHECK(rdvq_int_from_net(ctx, &m, &p.net, 8) == FV_ERR_UNSUPPORTED && !m);
    rdvq_pair_free(&p);
}

/* Tensors of a file, of which number `wrong` is left out, of another type, or a row short. */
typedef struct spoiler {
    fv_pack pack;
    rdvq_int *m;
    int number, wrong, kind;
} spoiler;

static fv_status spoil(void *user, const rdvq_field *f)
{
    spoiler *s = user;
    fv_tensor t = { .dtype = f->bytes == 4 ? FV_I32 : FV_I16, .ndim = f->ndim };
    char name[96];
    const bool is_wrong = s->number++ == s->wrong;
    snprintf(name, sizeof name, RDVQ_INT_PREFIX "%s", f->name);
    memcpy(t.dim, f->dim, sizeof f->dim);
    t.data = f->scalar; /* a matrix's elements come in another order: also a model */
    if (f->array) memcpy(&t.data, f->array, sizeof t.data);
    if (is_wrong && s->kind == 0) return FV_OK;
    if (is_wrong && s->kind == 1) t.dtype = f->bytes == 4 ? FV_F32 : FV_U16;
    if (is_wrong && s->kind == 2) t.dim[0]--;
    if (is_wrong && s->kind == 2 && t.dim[0] == 0) return FV_OK;
    if (is_wrong && s->kind == 4) t.dim[1] -= 2;
    return fv_model_writer_tensor(s->pack.writer, name, &t);
}

static fv_status open_spoilt(spoiler *s, fv_ctx *x)
{
    fv_meta meta = { 0 };
    fv_model *file = NULL;
    rdvq_int *m = NULL;
    s->number = 0;
    fv_status r = fv_pack_create(ctx, &s->pack);
    if (r == FV_OK) r = rdvq_config_meta(ctx, &s->m->cfg, &meta);
    if (r == FV_OK) r = fv_meta_add_number(ctx, &meta, RDVQ_INT_META, s->kind == 3 ? 2 : 1);
    if (r == FV_OK) r = fv_meta_write(&meta, s->pack.writer);
    if (r == FV_OK) r = rdvq_int_visit(s->m, spoil, s);
    if (r == FV_OK) r = fv_model_writer_finish(s->pack.writer, temp_path("spoilt"), 1);
    if (r == FV_OK) r = fv_model_open(ctx, &file, temp_path("spoilt"), NULL);
    if (r == FV_OK) r = rdvq_int_open(x, &m, file);
    rdvq_int_close(&m);
    fv_model_close(&file);
    fv_meta_free(ctx, &meta);
    fv_pack_free(&s->pack);
    return r;
}

static void damaged_files_are_refused(void)
{
    const rdvq_config c = rdvq_tiny(1);
    spoiler s = { .wrong = -1 };
    OK(ctx, rdvq_int_random(ctx, &s.m, &c, 1));
    OK(ctx, open_spoilt(&s, ctx));
    const int count = s.number;
    for (s.kind = 0; s.kind < 3; s.kind++)
        for (s.wrong = 0; s.wrong < count; s.wrong++)
            CHECK_MSG(open_spoilt(&s, ctx) == FV_ERR_MODEL, "tensor %d, kind %d", s.wrong, s.kind);
    s.wrong = -1;
    CHECK(open_spoilt(&s, ctx) == FV_ERR_VERSION);
    rdvq_int_close(&s.m);
}

/* Tensors of few columns: refused before memory for the config's is taken. */
static void narrow_tensors_take_no_memory(void)
{
    const rdvq_config c = rdvq_tiny(1);
    spoiler s = { .wrong = 0, .kind = 4 }; /* the codes */
    fv_memory_stats before, after;
    fv_ctx *other;
    OK(ctx, rdvq_int_random(ctx, &s.m, &c, 1));
    OK(ctx, fv_ctx_create(&other, NULL));
    fv_ctx_memory(other, &before);
    fv_ctx_memory_reset_peak(other);
    CHECK(open_spoilt(&s, other) == FV_ERR_MODEL);
    fv_ctx_memory(other, &after);
    CHECK(after.peak_bytes - before.current_bytes < s.m->arena_bytes / 2);
    fv_ctx_destroy(&other);
    rdvq_int_close(&s.m);
}

/* Sets one number, which must not pass, and takes it back. */
#define REFUSED(place, value)                                                                      \
    do {                                                                                           \
        const int32_t kept_ = (place);                                                             \
        (place) = (value);                                                                         \
        CHECK(rdvq_int_ready(ctx, m) == FV_ERR_MODEL);                                             \
        (place) = kept_;                                                                           \
    } while (0)

static void numbers_out_of_range_are_refused(void)
{
    const rdvq_config c = rdvq_tiny(1);
    rdvq_int *m;
    OK(ctx, rdvq_int_random(ctx, &m, &c, 1));
    REFUSED(m->codes[9], 16385);
    REFUSED(m->bias[3], 1 << 24);
    REFUSED(m->rope[5], -16385);
    REFUSED(m->rope[m->head / 2], 16000); /* off the circle: the cosine is 16384 */
    REFUSED(m->input.mul[2], -1);
    REFUSED(m->layer[1].qkv.shift, 30);
    REFUSED(m->layer[1].w2.shift, 63);
    REFUSED(m->layer[0].scale[1], RDVQ_SCALE_LIMIT + 1);
    REFUSED(m->layer[0].scale[1], -1);
    REFUSED(m->layer[0].up, 7);
    REFUSED(m->layer[0].down, 0);
    REFUSED(m->output.w[1], -32768);
    for (int k = 0; k < 48; k++) m->layer[0].w2.w[rdvq_int_at(48, 3, k)] = k ? 1394 : 20;
    OK(ctx, rdvq_int_ready(ctx, m)); /* 65538 */
    REFUSED(m->layer[0].w2.w[rdvq_int_at(48, 3, 0)], 21);
    OK(ctx, rdvq_int_ready(ctx, m));
    rdvq_int_close(&m);
}

/* The first allocation fails, then the second, ... */
static void opening_survives_lack_of_memory(void)
{
    const rdvq_config c = rdvq_tiny(1);
    spoiler s = { .wrong = -1 };
    fv_status r = FV_ERR_OOM;
    OK(ctx, rdvq_int_random(ctx, &s.m, &c, 1));
    for (int n = 0; r == FV_ERR_OOM && n < 1000; n++) {
        alloc_fail heap = { .left = ALLOC_ALL };
        const fv_allocator al = alloc_fail_allocator(&heap);
        fv_ctx_options o = FV_CTX_OPTIONS_INIT;
        fv_ctx *poor;
        o.alloc = &al;
        OK(ctx, fv_ctx_create(&poor, &o));
        const int64_t before = heap.live;
        heap.left = n;
        r = open_spoilt(&s, poor);
        heap.left = ALLOC_ALL;
        CHECK_MSG(r == FV_OK || r == FV_ERR_OOM, "%d: %s", n, fv_status_name(r));
        CHECK(heap.live == before);
        fv_ctx_destroy(&poor);
    }
    CHECK_MSG(r == FV_OK, "%s", fv_status_name(r));
    rdvq_int_close(&s.m);
}

/* ---- A trained model (--full MODEL PHOTOS) --------------------------------------------------- */

#define PHOTO 512

typedef struct trained {
    rdvq_pair pair;
    rdvq_tables tables;
    fv_plan *plan;
    fv_dataset *photos;
    room r;
    float *x;
} trained;

/* Picture -> codes of its tokens, and their logits. */
static fv_status plan_of_photo(trained *t)
{
    const rdvq_net *n = &t->pair.net;
    const int64_t dim[4] = { 1, PHOTO, PHOTO, 3 };
    fv_t z[RDVQ_SCALES], index;
    fv_tape *tape;
    FV_TRY(fv_tape_create(ctx, &tape, n->params, FV_INFER, FV_F32));
    rdvq_analyse(tape, n, fv_input(tape, "x", FV_F32, 4, dim), z);
    const fv_t unit = rdvq_unit(tape, rdvq_to_windows(tape, n, z));
    const fv_t q = fv_vq_nearest(tape, unit, rdvq_codes(tape, n), &index);
    fv_output(tape, "index", index);
    fv_output(tape, "logits", rdvq_logits(tape, n, q));
    FV_TRY(fv_plan_finish(ctx, &t->plan, &tape, NULL));
    return rdvq_tables_bind(&t->tables, t->plan);
}

static fv_status trained_open(trained *t, const char *path, const char *photos, int bits)
{
    fv_dataset_options o = FV_DATASET_OPTIONS_INIT;
    fv_model *file = NULL;
    rdvq_config c;
    memset(t, 0, sizeof *t);
    o.sources = &photos;
    o.source_count = 1;
    o.split = FV_SPLIT_HELDOUT;
    o.image_size = PHOTO;
    o.channels = 3;
    FV_TRY(fv_dataset_open(ctx, &t->photos, &o));
    FV_TRY(fv_model_open(ctx, &file, path, NULL));
    fv_status s = rdvq_config_read(ctx, file, &c);
    if (s == FV_OK) s = fv_params_create(ctx, &t->pair.params);
    if (s == FV_OK) {
        rdvq_net_add(&t->pair.net, t->pair.params, &c, RDVQ_PREFIX, 0);
        s = fv_params_load(t->pair.params, file, "");
    }
    if (s == FV_OK) s = fv_params_alloc(t->pair.params);
    if (s == FV_OK) s = rdvq_int_from_net(ctx, &t->pair.m, &t->pair.net, bits);
    if (s == FV_OK) s = rdvq_tables_create(ctx, &t->tables, &t->pair.net);
    if (s == FV_OK) s = plan_of_photo(t);
    fv_model_close(&file);
    if (s != FV_OK) return s;
    room_make(&t->r, t->pair.m);
    t->x = malloc((size_t)PHOTO * PHOTO * 3 * sizeof *t->x);
    return t->x ? FV_OK : FV_ERR_OOM;
}

static void trained_close(trained *t)
{
    fv_plan_destroy(&t->plan);
    rdvq_tables_free(ctx, &t->tables);
    fv_dataset_close(&t->photos);
    rdvq_pair_free(&t->pair);
    room_free(&t->r);
    free(t->x);
}

/* Bits of the tokens of a window, in float and in integers: entropy, and entropy + excess. */
static void add_window(trained *t, const float *logits, const int32_t *tokens, rates *sum)
{
    const rdvq_int *m = t->pair.m;
    const int K = m->cfg.codes;
    run_window(m, tokens, 100, &t->r);
    for (int i = 0; i < m->slices.tokens; i++) {
        const float *y = logits + (size_t)i * (size_t)K;
        const int token = tokens[m->slices.list[i]], g = token / m->group;
        const uint32_t *start = t->r.start + (size_t)i * (size_t)(m->groups + 1);
        uint32_t w[RDVQ_MAX_GROUP], inner[RDVQ_MAX_GROUP + 1];
        const int n = K - g * m->group < m->group ? K - g * m->group : m->group;
        double most = y[0], Z = 0;
        for (int k = 1; k < K; k++) most = fmax(most, y[k]);
        for (int k = 0; k < K; k++) Z += exp(y[k] - most);
        for (int k = 0; k < n; k++)
            w[k] = rdvq_weight(t->r.u[(size_t)i * (size_t)K + (size_t)(g * m->group + k)]);
        rdvq_frequencies(w, n, inner);
        const int k = token % m->group;
        const double f = start[g + 1] - start[g], q = f * (inner[k + 1] - inner[k]) * 0x1p-32;
        const double bits = log2(Z) - (y[token] - most) * 1.4426950408889634;
        sum->entropy += bits;
        sum->excess -= log2(q) + bits;
    }
}

static void rate_of(const char *path, const char *photos, int bits)
{
    trained t;
    rates sum = { 0 };
    uint64_t n = 0;
    OK(ctx, trained_open(&t, path, photos, bits));
    const int T = t.pair.m->slices.tokens;
    for (; n < fv_dataset_count(t.photos) && n < 24; n++) {
        int32_t label;
        OK(ctx, fv_dataset_get(t.photos, n, t.x, &label));
        OK(ctx, fv_plan_bind(t.plan, "x", t.x));
        OK(ctx, fv_plan_forward(t.plan));
        const int32_t *tokens = fv_plan_value(t.plan, "index").data;
        const float *logits = fv_plan_value(t.plan, "logits").data;
        const int side = PHOTO / rdvq_window(&t.pair.net.cfg);
        for (int w = 0; w < side * side; w++)
            add_window(&t, logits + (size_t)w * (size_t)T * (size_t)t.pair.net.cfg.codes,
                       tokens + w * T, &sum);
    }
    printf("# weights of %d bits, %d photos: %.4f bpp in float, integers cost %.4f %% more\n", bits,
           (int)n, sum.entropy / ((double)n * PHOTO * PHOTO), 100 * sum.excess / sum.entropy);
    CHECK(sum.excess <= 0.01 * sum.entropy);
    trained_close(&t);
}

static const char *const *full; /* model, photos */
static void trained_integers_cost_at_most_1_percent(void)
{
    rate_of(full[0], full[1], 8);
    rate_of(full[0], full[1], 16);
}

int main(int argc, char **argv)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    temp_dir_make("rdvq-int");
    if (argc > 1 && strcmp(argv[1], "--full") == 0) RUN(a_million_tokens_have_equal_frequencies);
    if (argc == 4) {
        full = (const char *const *)argv + 2;
        RUN(trained_integers_cost_at_most_1_percent);
    }
    RUN(exp2_is_close);
    RUN(frequencies_are_valid);
    RUN(norm_gives_unit_rms);
    RUN(unit_has_length_one);
    RUN(attention_is_a_softmax);
    RUN(all_dots_are_equal);
    RUN(products_do_not_overflow);
    RUN(all_vectors_are_equal);
    RUN(all_probabilities_are_equal);
    RUN(one_pass_equals_slices);
    RUN(one_pass_equals_slices_with_product_codes);
    RUN(one_pass_equals_slices_with_strict_mask);
    RUN(probabilities_are_those_of_every_build);
    RUN(integers_cost_little);
    RUN(a_converted_model_is_the_same);
    RUN(identity_depends_on_all_that_counts);
    RUN(models_that_cannot_be_integers_are_refused);
    RUN(damaged_files_are_refused);
    RUN(narrow_tensors_take_no_memory);
    RUN(numbers_out_of_range_are_refused);
    RUN(opening_survives_lack_of_memory);
    fv_ctx_destroy(&ctx);
    return test_end();
}
