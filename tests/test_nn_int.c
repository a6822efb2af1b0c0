/* test_nn_int.c - the integer network: tables against their formulas, every variant against the
 * scalar one bit by bit, also at the edges of all ranges and under odd rounding modes; export from
 * float; adaptation; model files, also damaged ones. */
#include "alloc_fail.h"
#include "nn_export.h"
#include "nn_int_fixture.h"
#include "omnizip_fixture.h"
#include "temp_dir.h"
#include "vz_model.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

static fv_ctx *ctx;

static const nn_int_ops *variant(int i)
{
#if defined(__x86_64__)
    static const nn_int_ops *const all[] = {&nn_int_ops_avx2, &nn_int_ops_avx512,
                                            &nn_int_ops_avx512vnni};
    static const uint32_t need[] = {FV_CPU_AVX2, FV_CPU_AVX512, FV_CPU_AVX512VNNI};
    if (i < 3) return fv_cpu_features() & need[i] ? all[i] : &nn_int_ops_c;
#endif
    return i < 3 ? &nn_int_ops_c : NULL;
}

/* ---- Tables ---------------------------------------------------------------------------------- */

static void tables_match_their_formulas(void)
{
    for (int i = 0; i < 192; i++)
        NEAR(nn_int_root_table[i], 0x1p46 / sqrt((64.5 + i) * 0x1p24), 0.51);
    for (int i = 0; i < NN_SIGMOID_ENTRIES; i++) {
        const uint32_t e = nn_int_sigmoid_table[i];
        NEAR(e & 0xffff, fmin(32768 / (1 + exp(-(i - 256) / 32.0)), 32767), 0.51);
        const uint32_t after =
            i + 1 < NN_SIGMOID_ENTRIES ? nn_int_sigmoid_table[i + 1] & 0xffff : 0;
        CHECK(e >> 16 == (after ? after - (e & 0xffff) : 0));
    }
}

static void root_and_sigmoid_are_close(void)
{
    for (int i = 0; i < 200000; i++) {
        const uint64_t v =
            i < 62    ? (uint64_t)1 << i
            : i < 123 ? ((uint64_t)1 << (i - 61)) - 1
                      : 1 + ((uint64_t)test_next(&nn_seed) << 30) % ((uint64_t)1 << (1 + i % 62));
        int q;
        const int32_t r = nn_int_root(v, &q);
        CHECK(q >= -15 && q <= 16 && r > 1 << 29);
        /* u is floored: up to 2^-30 relative in v, half of it in the root; Newton's rest */
        const double got = ldexp(r, -46 - q), want = 1 / sqrt((double)v);
        CHECK_MSG(fabs(got / want - 1) < 4e-9, "%llu: %.12g, not %.12g", (unsigned long long)v, got,
                  want);
    }
    for (int t = -20000; t <= 20000; t++) {
        const double x = t < -8192 ? -8192 : t > 8192 ? 8192 : t;
        NEAR(nn_int_sigmoid(t), 32768 / (1 + exp(-x / 1024)), 2.5);
    }
}

/* ---- Kernels --------------------------------------------------------------------------------- */

#define MOST 2048
static int32_t in32[MOST], first32[MOST + 32], out32[MOST + 32];
static int16_t in16[3][MOST], more16[3][MOST], first16[3][MOST + 32], out16[3][MOST + 32];
static int8_t in8[MOST];

/* In [-limit, limit]; with `extreme` mostly the ends. */
static int32_t value(int64_t limit, bool extreme)
{
    const uint32_t r = test_next(&nn_seed);
    if (extreme && r % 8) return (int32_t)(r & 256 ? limit : -limit);
    return (int32_t)(((int64_t)test_next(&nn_seed) << 20 | r >> 12) % (2 * limit + 1) - limit);
}
static void fill16(int16_t *x, int n, int32_t limit, bool extreme)
{
    for (int i = 0; i < n; i++) x[i] = (int16_t)value(limit, extreme);
}
static void fill32(int32_t *x, int n, int32_t limit, bool extreme)
{
    for (int i = 0; i < n; i++) x[i] = value(limit, extreme);
}
static void guard(void)
{
    memset(first32, 0x55, sizeof first32);
    memset(out32, 0x55, sizeof out32);
    memset(first16, 0x55, sizeof first16);
    memset(out16, 0x55, sizeof out16);
}
static bool same(void)
{
    return memcmp(first32, out32, sizeof out32) == 0 && memcmp(first16, out16, sizeof out16) == 0;
}

static const int widths[] = {16, 32, 48, 80, 128, 144, 192, 1024};

typedef void kernel_case(const nn_int_ops *c, const nn_int_ops *o, int n, int k, bool extreme);
static void each_case(kernel_case *run)
{
    for (int v = 0; v < 3; v++)
        for (size_t w = 0; w < FV_ARRAY_LEN(widths); w++)
            for (int k = 0; k < 24 && !test_bad; k++) {
                guard();
                run(&nn_int_ops_c, variant(v), widths[w], k, k & 1);
                CHECK_MSG(same(), "%s, width %d, case %d", variant(v)->name, widths[w], k);
            }
}

static void embed_case(const nn_int_ops *c, const nn_int_ops *o, int n, int k, bool extreme)
{
    const int32_t mul = value(INT32_MAX, extreme), m = mul < 0 ? -(mul + 1) : mul;
    const int shift = 16 + k * 2;
    for (int i = 0; i < n; i++) in8[i] = (int8_t)value(127, extreme);
    c->embed(first32, in8, n, m, shift);
    o->embed(out32, in8, n, m, shift);
}

static void mix_case(const nn_int_ops *c, const nn_int_ops *o, int n, int k, bool extreme)
{
    const int32_t mix[2] = {value(131071, extreme), value(131071, extreme)};
    fill32(first32, n, NN_X_MAX, extreme);
    memcpy(out32, first32, sizeof out32);
    fill32(in32, n, NN_X_MAX, extreme);
    c->mix(first32, in32, n, mix);
    o->mix(out32, in32, n, mix);
    (void)k;
}

static void add_case(const nn_int_ops *c, const nn_int_ops *o, int n, int k, bool extreme)
{
    fill32(first32, n, NN_X_MAX, extreme);
    memcpy(out32, first32, sizeof out32);
    fill32(in32, n, INT32_MAX, extreme);
    if (extreme) in32[0] = INT32_MIN;
    c->add(first32, in32, n);
    o->add(out32, in32, n);
    (void)k;
}

static void narrow_case(const nn_int_ops *c, const nn_int_ops *o, int n, int k, bool extreme)
{
    fill32(in32, n, k < 12 ? 40000 : INT32_MAX, extreme);
    c->narrow(first16[0], in32, n, k & 2 ? NN_R_MAX : NN_ACT_MAX);
    o->narrow(out16[0], in32, n, k & 2 ? NN_R_MAX : NN_ACT_MAX);
    c->square(first16[1], in32, n);
    o->square(out16[1], in32, n);
}

static void residual_kernels_equal_scalar(void)
{
    each_case(embed_case);
    each_case(mix_case);
    each_case(add_case);
    each_case(narrow_case);
}

static void norm_case(const nn_int_ops *c, const nn_int_ops *o, int n, int k, bool extreme)
{
    nn_int_norm p = {1 + (int64_t)(test_next(&nn_seed) % 4096), 1 + k % 30, more16[0],
                     k & 2 ? more16[1] : NULL};
    if (k == 20) p.eps = (int64_t)1 << 50;
    fill16(more16[0], n, 32767, extreme);
    fill16(more16[1], n, 32767, extreme);
    fill32(in32, n, k < 4 ? 2 : NN_X_MAX, extreme);
    if (k == 7) memset(in32, 0, sizeof in32);
    if (k == 9) /* one value far out: the largest there is after the mean is taken off */
        for (int i = 0; i < n; i++) in32[i] = i == n / 2 ? NN_X_MAX : -NN_X_MAX;
    c->norm(first16[0], in32, n, &p);
    o->norm(out16[0], in32, n, &p);
}

static void norm_equals_scalar(void) { each_case(norm_case); }

static void shift_case(const nn_int_ops *c, const nn_int_ops *o, int n, int k, bool extreme)
{
    int16_t *const a[3] = {first16[0], first16[1], first16[2]};
    int16_t *const b[3] = {out16[0], out16[1], out16[2]};
    int16_t *const mu[3] = {more16[0], more16[1], more16[2]};
    for (int i = 0; i < 3; i++) fill16(more16[i], n, 32767, extreme);
    fill16(in16[0], n, NN_ACT_MAX, extreme);
    fill16(in16[1], n, NN_ACT_MAX, extreme);
    c->shift(a, in16[0], in16[1], mu, n);
    o->shift(b, in16[0], in16[1], mu, n);
    (void)k;
}

static void gate_case(const nn_int_ops *c, const nn_int_ops *o, int n, int k, bool extreme)
{
    const int32_t gate = abs(value(65535, extreme));
    fill16(first16[0], n, NN_ACT_MAX, extreme);
    fill16(first16[1], n, NN_ACT_MAX, extreme);
    memcpy(out16, first16, sizeof out16);
    fill16(in16[0], n, NN_ACT_MAX, extreme);
    fill16(in16[1], n, 16384, extreme);
    for (int i = 0; i < n; i++) in16[1][i] = (int16_t)abs(in16[1][i]);
    c->lerp(first16[0], in16[0], in16[1], n);
    o->lerp(out16[0], in16[0], in16[1], n);
    c->gate(first16[1], in16[0], n, gate, 1 + k % 30);
    o->gate(out16[1], in16[0], n, gate, 1 + k % 30);
}

static void elementwise_kernels_equal_scalar(void)
{
    each_case(shift_case);
    each_case(gate_case);
}

static void head_case(const nn_int_ops *c, const nn_int_ops *o, int n, int k, bool extreme)
{
    for (int i = 0; i < n; i++) in8[i] = (int8_t)value(127, extreme);
    fill16(in16[0], n, NN_ACT_MAX, extreme);
    fill16(first16[0], n, 32767, extreme);
    if (k == 5) /* the largest sum */
        for (int i = 0; i < n; i++) in8[i] = 127, in16[0][i] = first16[0][i] = NN_ACT_MAX;
    memcpy(out16, first16, sizeof out16);
    CHECK(c->dot(in8, in16[0], n) == o->dot(in8, in16[0], n));
    CHECK(c->dot_delta(first16[0], in16[0], n) == o->dot_delta(out16[0], in16[0], n));
    const int32_t e = value(32767, extreme);
    c->adapt(first16[0], in16[0], n, e, 1 + k);
    o->adapt(out16[0], in16[0], n, e, 1 + k);
}

static void head_kernels_equal_scalar(void) { each_case(head_case); }

static void products_equal_scalar(void)
{
    static const int shapes[][2] = {{16, 16},  {48, 32},   {64, 128}, {80, 144},
                                    {128, 64}, {192, 192}, {64, 2048}};
    static int8_t w[192 * 2048] FV_ALIGNED(64);
    static int32_t mul[192];
    for (int v = 0; v < 3; v++)
        for (size_t s = 0; s < FV_ARRAY_LEN(shapes); s++)
            for (int k = 0; k < 6; k++) {
                const int rows = shapes[s][0], columns = shapes[s][1];
                const nn_int_matrix m = {rows, columns, 31 + 5 * k, w, mul};
                for (int i = 0; i < rows * columns; i++) w[i] = (int8_t)value(127, k & 1);
                for (int i = 0; i < rows; i++) mul[i] = value(INT32_MAX, k & 1) & INT32_MAX;
                fill16(in16[0], columns, NN_ACT_MAX, k & 1);
                if (k == 3) { /* sums near 2^31 */
                    memset(w, 127, sizeof w);
                    for (int i = 0; i < columns; i++) in16[0][i] = NN_ACT_MAX;
                }
                guard();
                nn_int_ops_c.product(first32, &m, 0, rows, in16[0]);
                variant(v)->product(out32, &m, 0, rows, in16[0]);
                CHECK_MSG(same(), "%s, %d x %d", variant(v)->name, rows, columns);
                nn_int_ops_c.product(first32, &m, 16, rows - 16, in16[0]);
                variant(v)->product(out32, &m, 16, rows - 16, in16[0]);
                CHECK_MSG(same(), "%s, %d x %d, a part", variant(v)->name, rows, columns);
            }
}

static void recurrence_equals_scalar(void)
{
    static int32_t S[2][256], key[32], bonus[32];
    static int16_t rate[32], decay[32], gain[32], bias[32], z[2][16];
    int64_t eps[2] = {1, (int64_t)1 << 50};
    for (int v = 0; v < 3; v++)
        for (int k = 0; k < 40; k++) {
            const bool extreme = k & 1;
            nn_int_layer l = {.rate = rate, .decay = decay, .key = key, .bonus = bonus};
            for (int i = 0; i < 32; i++) {
                key[i] = value(INT32_MAX, extreme) & INT32_MAX;
                bonus[i] = value(INT32_MAX, extreme);
                rate[i] = (int16_t)(value(32767, extreme) & 32767);
                decay[i] = (int16_t)(value(32767, extreme) & 32767);
                gain[i] = (int16_t)value(32767, extreme);
                bias[i] = (int16_t)value(32767, extreme);
            }
            l.key_shift = 16 + k % 30;
            l.bonus_shift = 16 + k % 28;
            l.bonus_mul = value(INT32_MAX, extreme) & INT32_MAX;
            l.bonus_mul_shift = 31 + k % 31;
            l.head = (nn_int_norm){1, 1 + k % 30, gain, bias};
            l.head_eps = eps;
            fill32(S[0], 256, NN_STATE_MAX, extreme);
            memcpy(S[1], S[0], sizeof S[1]);
            for (int t = 0; t < 20; t++) {
                fill16(in16[0], 16, NN_R_MAX, extreme);
                fill16(in16[1], 16, NN_ACT_MAX, extreme);
                fill16(in16[2], 16, NN_ACT_MAX, extreme);
                if (t == 7) memset(in16[1], 0, sizeof in16[1]);
                nn_int_wkv w = {S[0], in16[0], in16[1], in16[2], &l, 16 * (t & 1), 1, z[0]};
                nn_int_ops_c.time_mix(&w);
                w.S = S[1];
                w.z = z[1];
                variant(v)->time_mix(&w);
                CHECK_MSG(memcmp(S[0], S[1], sizeof S[0]) == 0 &&
                              memcmp(z[0], z[1], sizeof z[0]) == 0,
                          "%s, case %d, step %d", variant(v)->name, k, t);
                for (int i = 0; i < 256; i++) CHECK(abs(S[0][i]) <= NN_STATE_MAX);
            }
        }
}

/* ---- Whole networks -------------------------------------------------------------------------- */

typedef struct stream {
    nn_int_state s;
    void *memory;
} stream;

static bool open_stream(stream *s, const nn_int_model *m, bool adapts)
{
    s->memory = fv_alloc(ctx, nn_int_state_bytes(m, adapts));
    if (!s->memory) return false;
    nn_int_state_init(&s->s, m, s->memory, adapts);
    return true;
}

static void networks_of_any_values_agree(void)
{
    static const nn_int_config cfg[] = {{16, 1, 16, 1, 2, 0},      {48, 2, 80, 5, 40, 0},
                                        {128, 3, 64, 8, 263, 4},   {80, 2, 160, 6, 64, 17},
                                        {1024, 1, 2048, 4, 16, 0}, {64, 2, 128, 8, 256, 3}};
    for (size_t i = 0; i < FV_ARRAY_LEN(cfg); i++)
        for (int wild = 0; wild < 4; wild++) {
            bool extreme = wild & 1;
            nn_int_model *m;
            stream a, b;
            OK(ctx, nn_int_model_create(ctx, &m, &cfg[i]));
            OK(ctx, nn_int_visit(m, nn_wild_field, &extreme));
            nn_int_model other = *m;
            other.ops = variant(wild < 3 ? wild : 2);
            CHECK(open_stream(&a, m, true) && open_stream(&b, &other, true));
            for (int t = 0; t < (cfg[i].width > 512 ? 6 : 40); t++) {
                const int token = (int)(test_next(&nn_seed) % (uint32_t)cfg[i].tokens);
                nn_int_step(&a.s, token);
                nn_int_step(&b.s, token);
                CHECK(memcmp(a.s.h, b.s.h, (size_t)cfg[i].width * sizeof *a.s.h) == 0);
                for (int node = 1; node < 1 << cfg[i].bits; node = 2 * node + (t & 1)) {
                    const int32_t y = nn_int_logit(&a.s, node);
                    CHECK(y == nn_int_logit(&b.s, node) && abs(y) <= VZ_LOGIT_MAX);
                    const int32_t error = value(65535, extreme);
                    nn_int_adapt(&a.s, node, error);
                    nn_int_adapt(&b.s, node, error);
                }
            }
            fv_free(ctx, a.memory);
            fv_free(ctx, b.memory);
            nn_int_model_destroy(ctx, &m);
        }
}

static void every_variant_passes_the_self_test(void)
{
    const uint32_t crc = nn_int_self_test(ctx, &nn_int_ops_c);
    CHECK_MSG(crc == NN_INT_SELF_TEST, "%08x", crc);
    for (int v = 0; v < 3; v++) CHECK(nn_int_self_test(ctx, variant(v)) == NN_INT_SELF_TEST);
    const nn_int_config c = {16, 1, 16, 8, 256, 0};
    nn_int_model *m;
    OK(ctx, nn_int_model_create(ctx, &m, &c));
    nn_int_model_ready(ctx, m);
    CHECK(!m->is_fallback && m->ops == nn_int_ops_for(fv_ctx_cpu(ctx)));
    nn_int_model_destroy(ctx, &m);
}

static void rounding_modes_change_nothing(void)
{
#if defined(__x86_64__)
    const unsigned before = _mm_getcsr();
    for (int v = -1; v < 3; v++)
        for (unsigned mode = 0; mode < 4; mode++) {
            _mm_setcsr((before & ~0x6000u) | mode << 13 | 0x8040u); /* FTZ, DAZ */
            const uint32_t crc = nn_int_self_test(ctx, v < 0 ? &nn_int_ops_c : variant(v));
            _mm_setcsr(before);
            CHECK(crc == NN_INT_SELF_TEST);
        }
#endif
}

/* ---- Export ---------------------------------------------------------------------------------- */

static const oz_config small = {.name = "t",
                                .width = 64,
                                .layers = 2,
                                .vocab = 264,
                                .outputs = 256,
                                .hidden = 128,
                                .experts = 4,
                                .tree = true};

static fv_status open_net(oz_net *net, const oz_config *c)
{
    FV_TRY(oz_net_create(ctx, net, c));
    FV_TRY(fv_params_alloc(net->params));
    oz_fixture_fill(net);
    return FV_OK;
}

/* Tokens that repeat: period 37 with noise. */
static void make_tokens(int32_t *t, int n)
{
    for (int i = 0; i < n; i++)
        t[i] = i == 0 ? 256
                      : (int32_t)(i >= 38 && test_next(&nn_seed) % 8 ? (uint32_t)t[i - 37]
                                                                  : test_next(&nn_seed) % 256);
}

static void integers_follow_floats(void)
{
    for (int experts = 0; experts < 2; experts++) {
        oz_config c = small;
        oz_net net;
        nn_float *f;
        nn_int_model *m;
        stream s;
        static int32_t token[2400];
        c.ffn_moe = experts != 0;
        make_tokens(token, 2400);
        OK(ctx, open_net(&net, &c));
        OK(ctx, nn_float_open(ctx, &f, &net));
        OK(ctx, nn_export(ctx, &m, f, token, 1200));
        CHECK(open_stream(&s, m, false));
        nn_float_reset(f);
        double real = 0, whole = 0, apart = 0, size = 0;
        for (int i = 0; i + 1 < 2400; i++) {
            nn_float_step(f, token[i]);
            nn_int_step(&s.s, token[i]);
            for (int b = 7, node = 1; b >= 0; b--) {
                const int bit = token[i + 1] >> b & 1;
                const double a = nn_float_logit(f, node), z = nn_int_logit(&s.s, node) / 256.0;
                real += log(1 + exp(bit ? -a : a));
                whole += log(1 + exp(bit ? -z : z));
                apart += (fmin(fmax(a, -8), 8) - z) * (fmin(fmax(a, -8), 8) - z);
                size += a * a;
                node = 2 * node + bit;
            }
        }
        /* Weights of 8 bits: about 1 % apart. Random networks amplify it, and routers flip. */
        CHECK_MSG(sqrt(apart / size) < (experts ? 0.15 : 0.04), "%g", sqrt(apart / size));
        CHECK_MSG(fabs(whole / real - 1) < 0.01, "loss %.5f, in float %.5f", whole / 2399,
                  real / 2399);
        fv_free(ctx, s.memory);
        nn_int_model_destroy(ctx, &m);
        nn_float_close(&f);
        oz_net_destroy(&net);
    }
}

static void networks_that_do_not_fit_are_refused(void)
{
    oz_config c = small;
    oz_net net;
    nn_float *f;
    nn_int_model *m;
    const int32_t bad = 264;
    c.v_moe = true;
    OK(ctx, open_net(&net, &c));
    CHECK(nn_float_open(ctx, &f, &net) == FV_ERR_MODEL && !f);
    oz_net_destroy(&net);
    OK(ctx, open_net(&net, &small));
    OK(ctx, nn_float_open(ctx, &f, &net));
    CHECK(nn_export(ctx, &m, f, &bad, 0) == FV_ERR_ARG && !m);
    CHECK(nn_export(ctx, &m, f, &bad, 1) == FV_ERR_ARG && !m);
    nn_float_close(&f);
    oz_net_destroy(&net);
    const nn_int_config wrong[] = {
        {24, 1, 16, 1, 2, 0}, {16, 0, 16, 1, 2, 0}, {16, 1, 24, 1, 2, 0},   {16, 1, 16, 0, 2, 0},
        {16, 1, 16, 1, 1, 0}, {16, 1, 16, 1, 2, 2}, {2048, 1, 16, 1, 2, 0}, {16, 1, 4096, 1, 2, 0}};
    for (size_t i = 0; i < FV_ARRAY_LEN(wrong); i++)
        CHECK(nn_int_model_create(ctx, &m, &wrong[i]) == FV_ERR_MODEL && !m);
}

static fv_status exported(nn_int_model **m)
{
    static int32_t token[600];
    oz_net net;
    nn_float *f;
    make_tokens(token, 600);
    FV_TRY(open_net(&net, &small));
    FV_TRY(nn_float_open(ctx, &f, &net));
    const fv_status s = nn_export(ctx, m, f, token, 600);
    nn_float_close(&f);
    oz_net_destroy(&net);
    return s;
}

static double bits_of(stream *s, const int32_t *token, int n)
{
    double bits = 0;
    for (int i = 0; i + 1 < n; i++) {
        nn_int_step(&s->s, token[i]);
        for (int b = 7, node = 1; b >= 0; b--) {
            const int bit = token[i + 1] >> b & 1;
            const double p = 1 / (1 + exp(-nn_int_logit(&s->s, node) / 256.0));
            bits -= log2(bit ? p : 1 - p);
            nn_int_adapt(&s->s, node, (bit << 16) - (int32_t)(65536 * p));
            node = 2 * node + bit;
        }
    }
    return bits / (n - 1);
}

static void adaptation_learns_what_repeats(void)
{
    static int32_t token[3000];
    nn_int_model *m;
    stream fixed, adaptive;
    OK(ctx, exported(&m));
    make_tokens(token, 3000);
    CHECK(open_stream(&fixed, m, false) && open_stream(&adaptive, m, true));
    const double a = bits_of(&fixed, token, 3000), b = bits_of(&adaptive, token, 3000);
    fv_free(ctx, fixed.memory);
    fv_free(ctx, adaptive.memory);
    nn_int_model_destroy(ctx, &m);
    CHECK_MSG(b < 0.95 * a, "%g bits with adaptation, %g without", b, a);
}

static void a_saved_state_continues(void)
{
    nn_int_model *m;
    stream a, b;
    OK(ctx, exported(&m));
    CHECK(open_stream(&a, m, false) && open_stream(&b, m, false));
    const size_t bytes = nn_int_state_saved_bytes(&m->cfg);
    uint8_t *saved = fv_alloc(ctx, bytes);
    CHECK(saved);
    for (int t = 0; t < 50; t++) nn_int_step(&a.s, t);
    nn_int_state_save(&a.s, saved);
    nn_int_state_load(&b.s, saved);
    CHECK(memcmp(a.s.h, b.s.h, (size_t)m->cfg.width * 2) == 0);
    for (int t = 0; t < 50; t++) {
        nn_int_step(&a.s, 3 * t);
        nn_int_step(&b.s, 3 * t);
        CHECK(memcmp(a.s.h, b.s.h, (size_t)m->cfg.width * 2) == 0);
    }
    for (size_t i = 0; i < bytes; i++) saved[i] = (uint8_t)test_next(&nn_seed);
    nn_int_state_load(&b.s, saved); /* hostile: clamped, and runs */
    for (int t = 0; t < 50; t++) nn_int_step(&b.s, t);
    fv_free(ctx, saved);
    fv_free(ctx, a.memory);
    fv_free(ctx, b.memory);
    nn_int_model_destroy(ctx, &m);
}

/* ---- Model files ----------------------------------------------------------------------------- */

/* A model of bytes, or with a vocabulary of 9 bits. */
static fv_status make_file(vz_buf *out, bool has_vocab)
{
    const nn_int_config c = {16, 1, 32, has_vocab ? 9 : 8, has_vocab ? 513 : 256, 0};
    static const uint8_t prose[] = "Some prose to begin with.";
    static uint8_t text[256 + 512], length[512], depth[512], state[4096];
    bool extreme = false;
    vz_model m = {.name = "small", .id = 5, .primes = 2};
    for (int i = 0; i < 256; i++) {
        text[i] = text[256 + 2 * i] = (uint8_t)i;
        text[257 + 2 * i] = (uint8_t)(i + 1);
        length[i] = 1;
        length[256 + i] = 2;
        depth[i] = (uint8_t)(i < 128 ? 8 : 9); /* 1/2 and 1/4 of the tree */
        depth[256 + i] = 10;
    }
    for (size_t i = 0; i < sizeof state; i++) state[i] = (uint8_t)test_next(&nn_seed);
    m.prime[0] = (vz_model_prime){VZ_TEXT, state, prose, sizeof prose};
    m.prime[1] = (vz_model_prime){VZ_BINARY, NULL, NULL, 0};
    FV_TRY(nn_int_model_create(ctx, &m.net, &c));
    fv_status s = nn_int_visit(m.net, nn_wild_field, &extreme);
    if (s == FV_OK)
        s = has_vocab ? nn_vocab_open_tree(ctx, &m.vocab, text, sizeof text, length, depth, 512)
                      : nn_vocab_bytes(ctx, &m.vocab);
    if (s == FV_OK) s = vz_model_write(ctx, &m, out);
    nn_int_model_destroy(ctx, &m.net);
    nn_vocab_close(&m.vocab);
    return s;
}

static void model_files_return_the_same(void)
{
    for (int v = 0; v < 2; v++) {
        vz_buf file, again;
        vz_model *m;
        vz_buf_init(&file, ctx);
        vz_buf_init(&again, ctx);
        OK(ctx, make_file(&file, v));
        OK(ctx, vz_model_read(ctx, &m, file.data, file.size));
        CHECK(m->id == 5 && strcmp(m->name, "small") == 0 && m->vocab.bits == 8 + v);
        CHECK(m->vocab.max_depth == (v ? 10 : 8) && m->vocab.depth[0] == 8);
        CHECK(memcmp(m->hash, file.data + file.size - 16, 16) == 0 && vz_model_short_hash(m) != 0);
        const vz_model_prime *p = vz_model_prime_of(m, VZ_TEXT);
        CHECK(p && p->state && p->text_bytes == 26 && memcmp(p->text, "Some prose", 10) == 0);
        CHECK(!vz_model_prime_of(m, VZ_BINARY)->state && !vz_model_prime_of(m, VZ_X86));
        OK(ctx, vz_model_write(ctx, m, &again));
        CHECK(again.size == file.size && memcmp(again.data, file.data, file.size) == 0);
        vz_model_close(&m);
        OK(ctx, fv_write_file(ctx, temp_path("a.vzm"), file.data, file.size, 1));
        OK(ctx, vz_model_open(ctx, &m, temp_path("a.vzm")));
        vz_model_close(&m);
        CHECK(vz_model_open(ctx, &m, temp_path("none.vzm")) != FV_OK && !m);
        vz_buf_free(&file);
        vz_buf_free(&again);
    }
}

static void a_network_becomes_a_model_file(void)
{
    static uint8_t prose[3000], records[900];
    const vz_prime_source source[] = {
        {VZ_TEXT, "text", prose, sizeof prose, prose + 2900, 100},
        {VZ_RECORDS, "database", records, sizeof records, records, sizeof records},
        {VZ_TEXT, NULL, prose, sizeof prose, prose, 0}, /* of any modality */
        {VZ_X86, NULL, NULL, 0, prose, 9}};
    vz_make o = {"made", 77, source, 4, 13};
    oz_net net;
    oz_meta meta;
    fv_model *from;
    vz_model *m;
    vz_buf file;
    for (size_t i = 0; i < sizeof prose; i++) prose[i] = (uint8_t)("some prose "[i % 11]);
    for (size_t i = 0; i < sizeof records; i++) records[i] = (uint8_t)(i % 30);
    OK(ctx, open_net(&net, &small));
    oz_config_meta(&net.cfg, &meta);
    OK(ctx, fv_params_export(ctx, net.params, FV_F32, meta.item, meta.pairs, temp_path("n"), 1));
    oz_net_destroy(&net);
    OK(ctx, fv_model_open(ctx, &from, temp_path("n"), NULL));
    vz_buf_init(&file, ctx);
    OK(ctx, vz_model_make(ctx, from, &o, &file));
    OK(ctx, vz_model_read(ctx, &m, file.data, file.size));
    CHECK(m->net->adapt_rate == 13 && m->id == 77 && strcmp(m->name, "made") == 0 &&
          m->primes == 4 && m->vocab.size == 256);
    CHECK(m->prime[0].text_bytes == 100 && memcmp(m->prime[0].text, prose + 2900, 100) == 0);
    CHECK(m->prime[1].text_bytes == sizeof records && !m->prime[1].state && !m->prime[2].state);
    CHECK(m->prime[3].kind == VZ_X86 && !m->prime[3].state && m->prime[3].text_bytes == 9);
    stream s;
    CHECK(open_stream(&s, m->net, false));
    nn_int_step(&s.s, 256 + 6); /* text */
    for (size_t i = 0; i < sizeof prose; i++) nn_int_step(&s.s, prose[i]);
    uint8_t *state = fv_alloc(ctx, nn_int_state_saved_bytes(&m->net->cfg));
    nn_int_state_save(&s.s, state);
    CHECK(memcmp(state, m->prime[0].state, nn_int_state_saved_bytes(&m->net->cfg)) == 0);
    fv_free(ctx, state);
    fv_free(ctx, s.memory);
    vz_model_close(&m);
    o.sources = 0;
    CHECK(vz_model_make(ctx, from, &o, &file) == FV_ERR_ARG);
    const vz_prime_source wrong = {VZ_TEXT, "smell", prose, sizeof prose, prose, 0};
    o = (vz_make){"made", 77, &wrong, 1, 0};
    CHECK(vz_model_make(ctx, from, &o, &file) == FV_ERR_UNKNOWN);
    vz_buf_free(&file);
    o = (vz_make){"made", 77, &source[3], 1, 0}; /* nothing to calibrate with */
    CHECK(vz_model_make(ctx, from, &o, &file) == FV_ERR_ARG);
    vz_buf_free(&file);
    OK(ctx, vz_model_make(ctx, NULL, &o, &file)); /* without a network */
    OK(ctx, vz_model_read(ctx, &m, file.data, file.size));
    CHECK(!m->net && m->primes == 1 && m->prime[0].text_bytes == 9);
    vz_model_close(&m);
    vz_buf_free(&file);
    fv_model_close(&from);
}

static void damaged_model_files_are_refused(void)
{
    vz_buf file;
    vz_model *m;
    vz_buf_init(&file, ctx);
    OK(ctx, make_file(&file, true));
    for (size_t n = 0; n < file.size; n += n < 200 ? 1 : 97)
        CHECK(vz_model_read(ctx, &m, file.data, n) != FV_OK && !m);
    for (size_t i = 0; i < file.size; i += i < 200 ? 1 : 31) {
        file.data[i] ^= 1u << i % 8;
        CHECK(vz_model_read(ctx, &m, file.data, file.size) != FV_OK && !m);
        CHECK(fv_ctx_error(ctx)[0]);
        file.data[i] ^= 1u << i % 8;
    }
    file.data[8] = 2;
    CHECK(vz_model_read(ctx, &m, file.data, file.size) == FV_ERR_VERSION);
    vz_buf_free(&file);
}

/* With a right checksum: refused, or a model that runs. */
static void wrong_values_are_refused_or_harmless(void)
{
    vz_buf file;
    vz_buf_init(&file, ctx);
    OK(ctx, make_file(&file, true));
    uint8_t *bytes = fv_alloc(ctx, file.size);
    CHECK(bytes);
    int opened = 0, refused = 0;
    for (int k = 0; k < 600; k++) {
        vz_model *m;
        stream s;
        memcpy(bytes, file.data, file.size);
        for (int i = 0; i < 1 + k % 3; i++) {
            const uint32_t r = test_next(&nn_seed);
            const size_t at = k % 2 ? r % 96 : r % (file.size - 16);
            bytes[at] = (uint8_t)(k % 5 == 0 ? 255 : k % 5 == 1 ? 128 : test_next(&nn_seed));
        }
        vz_model_hash(bytes, file.size, bytes + file.size - 16);
        if (vz_model_read(ctx, &m, bytes, file.size) != FV_OK) {
            CHECK(!m && fv_ctx_error(ctx)[0]);
            refused++;
            continue;
        }
        opened++;
        CHECK(open_stream(&s, m->net, false));
        for (int t = 0; t < 4; t++) {
            nn_int_step(&s.s, t);
            for (int node = 1; node < 512; node *= 2) (void)nn_int_logit(&s.s, node);
        }
        fv_free(ctx, s.memory);
        vz_model_close(&m);
    }
    CHECK(opened > 50 && refused > 50);
    fv_free(ctx, bytes);
    vz_buf_free(&file);
}

static void failing_allocations_are_survived(void)
{
    vz_buf file;
    vz_buf_init(&file, ctx);
    OK(ctx, make_file(&file, true));
    for (int64_t n = 0;; n++) {
        alloc_fail heap = {.left = ALLOC_ALL};
        const fv_allocator al = alloc_fail_allocator(&heap);
        fv_ctx_options o = FV_CTX_OPTIONS_INIT;
        fv_ctx *c;
        vz_model *m;
        o.alloc = &al;
        CHECK(fv_ctx_create(&c, &o) == FV_OK);
        const int64_t live = heap.live;
        heap.left = n;
        const fv_status s = vz_model_read(c, &m, file.data, file.size);
        CHECK(s == FV_OK || (s == FV_ERR_OOM && !m));
        const bool all = s == FV_OK && heap.left > 0;
        vz_model_close(&m);
        CHECK(heap.live == live);
        fv_ctx_destroy(&c);
        if (all) break;
        CHECK(n < 1000);
    }
    vz_buf_free(&file);
}

static void nothing_is_left(void)
{
    fv_memory_stats st;
    fv_ctx_memory(ctx, &st);
    CHECK_MSG(st.current_bytes == 0, "%llu bytes", (unsigned long long)st.current_bytes);
}

int main(void)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    temp_dir_make("nn-int");
    RUN(tables_match_their_formulas);
    RUN(root_and_sigmoid_are_close);
    RUN(residual_kernels_equal_scalar);
    RUN(norm_equals_scalar);
    RUN(elementwise_kernels_equal_scalar);
    RUN(head_kernels_equal_scalar);
    RUN(products_equal_scalar);
    RUN(recurrence_equals_scalar);
    RUN(networks_of_any_values_agree);
    RUN(every_variant_passes_the_self_test);
    RUN(rounding_modes_change_nothing);
    RUN(integers_follow_floats);
    RUN(networks_that_do_not_fit_are_refused);
    RUN(adaptation_learns_what_repeats);
    RUN(a_saved_state_continues);
    RUN(model_files_return_the_same);
    RUN(a_network_becomes_a_model_file);
    RUN(damaged_model_files_are_refused);
    RUN(wrong_values_are_refused_or_harmless);
    RUN(failing_allocations_are_survived);
    RUN(nothing_is_left);
    fv_ctx_destroy(&ctx);
    return test_end();
}
