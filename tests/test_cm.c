/* test_cm.c - the context-mixing coder: every kind and class returns its input, one code for every
 * vector width, memory as declared, transforms inverted, truncated and wrong code survived. */
#include "cm.h"
#include "vz_bytes_case.h"

static const vz_kind KINDS[] = {VZ_BINARY, VZ_TEXT, VZ_X86, VZ_ARM64, VZ_RECORDS};
static const int LEVELS[] = {1, 3, 9};

/* Bytes of several natures, by number. */
static void make(uint8_t *p, size_t n, int nature, uint64_t seed)
{
    static const char TEXT[] = "{\"id\": 17, \"name\": \"left, right\"},\n"
                               "\tif (a[i] == 0x1f) return;\n"
                               "2024-01-02 03:04:05 INFO <b>x</b> one two three\n";
    for (size_t i = 0; i < n; i++) {
        const uint32_t r = test_next(&seed);
        switch (nature) {
        case 0: p[i] = (uint8_t)(r >> 13); break;
        case 1: p[i] = 0; break;
        case 2: p[i] = (uint8_t)TEXT[(i + (r % 41 == 0)) % (sizeof TEXT - 1)]; break;
        case 3: p[i] = (uint8_t)(i % 12 < 8 ? i / 12 : r & 3); break;
        default: { /* calls, jumps and references with near targets between random bytes */
            static const uint8_t OPS[] = {0xe8, 0xe9, 0x0f, 0x84, 0x48, 0x8b, 0x05, 0xff, 0x15, 0};
            p[i] = r & 3 ? OPS[r % sizeof OPS] : (uint8_t)(r >> 9);
        }
        }
    }
}

static void every_kind_and_class_returns_its_input(void)
{
    static const size_t SIZES[] = {0, 1, 2, 3, 7, 100, 3000};
    fv_ctx *ctx = vz_test_ctx(0, 0);
    uint8_t data[3000];
    for (size_t l = 0; l < FV_ARRAY_LEN(LEVELS); l++)
        for (size_t k = 0; k < FV_ARRAY_LEN(KINDS); k++)
            for (int nature = 0; nature < 5; nature++)
                for (size_t s = 0; s < FV_ARRAY_LEN(SIZES); s++) {
                    if (SIZES[s] > 100 && nature != (int)k && nature != 4) continue;
                    const vz_segment g = {KINDS[k], 12, SIZES[s]};
                    const vz_case t = vz_bytes_case(LEVELS[l], 20, &g, 1, data, SIZES[s]);
                    make(data, SIZES[s], nature, s + 1);
                    CHECK_MSG(vz_round_trip(ctx, t, NULL) >= 0,
                              "level %d kind %d nature %d size %d", LEVELS[l], (int)KINDS[k],
                              nature, (int)SIZES[s]);
                }
    fv_ctx_destroy(&ctx);
}

static void segments_share_a_block(void)
{
    fv_ctx *ctx = vz_test_ctx(0, 0);
    const vz_segment segs[] = {{VZ_TEXT, 0, 2000}, {VZ_IMAGE, 0, 500}, {VZ_X86, 0, 1500},
                               {VZ_RECORDS, 12, 999}, {VZ_BINARY, 0, 0}, {VZ_TEXT, 0, 1000},
                               {VZ_RECORDS, 65535, 100}, {VZ_ARM64, 0, 403}};
    uint8_t data[6502];
    make(data, sizeof data, 2, 5);
    make(data + 2500, 1500, 4, 6);
    make(data + 4000, 999, 3, 7);
    for (int level = 1; level <= 9; level++)
        CHECK(vz_round_trip(ctx, vz_bytes_case(level, 22, segs, 8, data, sizeof data), NULL) > 0);
    fv_ctx_destroy(&ctx);
}

static void code_is_the_same_for_every_vector_width(void)
{
    uint8_t data[4000];
    const vz_segment g = {VZ_TEXT, 0, sizeof data};
    make(data, sizeof data, 2, 9);
    for (size_t l = 0; l < FV_ARRAY_LEN(LEVELS); l++)
        same_code_for_every_vector_width(vz_bytes_case(LEVELS[l], 20, &g, 1, data, sizeof data));
}

static void memory_is_at_most_what_was_declared(void)
{
    static const vz_segment segs[] = {{VZ_TEXT, 0, 2000}, {VZ_X86, 0, 1500}, {VZ_BINARY, 0, 1500}};
    uint8_t data[5000];
    make(data, sizeof data, 2, 3);
    for (size_t l = 0; l < FV_ARRAY_LEN(LEVELS); l++)
        memory_is_as_declared(vz_bytes_case(LEVELS[l], 24, segs, 3, data, sizeof data));
}

static void allocations_may_fail(void)
{
    uint8_t data[300];
    const vz_segment g = {VZ_TEXT, 0, sizeof data};
    make(data, sizeof data, 2, 3);
    each_allocation_may_fail(vz_bytes_case(3, 20, &g, 1, data, sizeof data));
}

static void wrong_code_is_survived(void)
{
    uint8_t data[2000];
    const vz_segment g = {VZ_X86, 0, sizeof data};
    make(data, sizeof data, 2, 3);
    wrong_codes_are_survived(vz_bytes_case(3, 20, &g, 1, data, sizeof data));
}

typedef struct stopper {
    int calls, stop_at;
    uint64_t last, gap; /* largest distance of two reports */
} stopper;
static int stop(void *user, const fv_progress *p)
{
    stopper *s = user;
    if (p->done - s->last > s->gap) s->gap = p->done - s->last;
    s->last = p->done;
    return ++s->calls == s->stop_at;
}

static void coding_is_cancelled_within_64_kib(void)
{
    static uint8_t data[200000], back[200000];
    const vz_segment g = {VZ_BINARY, 0, sizeof data};
    const vz_cm_options o = {1, 20, NULL};
    stopper s = {0};
    fv_ctx_options co = FV_CTX_OPTIONS_INIT;
    co.progress = stop;
    co.user = &s;
    fv_ctx *ctx;
    CHECK(fv_ctx_create(&ctx, &co) == FV_OK);
    make(data, sizeof data, 2, 1);
    vz_buf b, cut;
    vz_buf_init(&b, ctx);
    vz_buf_init(&cut, ctx);
    bool good = vz_cm_encode(ctx, &o, &g, 1, data, &b) == FV_OK && s.gap <= 65536 &&
                s.last == sizeof data;
    s = (stopper){.stop_at = 2};
    good = good && vz_cm_encode(ctx, &o, &g, 1, data, &cut) == FV_ERR_CANCELLED && s.calls == 2;
    s = (stopper){.stop_at = 3};
    good = good && vz_cm_decode(ctx, &o, &g, 1, b.data, b.size, back) == FV_ERR_CANCELLED &&
           s.calls == 3;
    vz_buf_free(&b);
    vz_buf_free(&cut);
    fv_ctx_destroy(&ctx);
    CHECK(good);
}

/* Repeats of more than any limit of SURE_LENGTH, with and without a wrong byte at the end. */
static void long_repeats_return(void)
{
    static uint8_t data[60000];
    fv_ctx *ctx = vz_test_ctx(0, 0);
    make(data, 6000, 0, 4);
    for (size_t i = 6000; i < sizeof data; i++)
        data[i] = (uint8_t)(data[i - 6000] + (i % 1777 == 0));
    const vz_segment segs[] = {{VZ_BINARY, 0, 30000}, {VZ_TEXT, 0, 20000}, {VZ_X86, 0, 10000}};
    for (size_t l = 0; l < FV_ARRAY_LEN(LEVELS); l++) {
        const vz_case t = vz_bytes_case(LEVELS[l], 20, segs, 3, data, sizeof data);
        CHECK(vz_round_trip(ctx, t, NULL) > 0);
    }
    fv_ctx_destroy(&ctx);
}

static void code_is_told_from_data(void)
{
    static uint8_t data[16384];
    make(data, sizeof data, 0, 3);
    CHECK(vz_exe_kind(data, sizeof data) == VZ_BINARY);
    make(data, sizeof data, 1, 3);
    CHECK(vz_exe_kind(data, sizeof data) == VZ_BINARY);
    CHECK(vz_exe_kind(data, 0) == VZ_BINARY);
    make(data, sizeof data, 0, 3);
    for (size_t i = 0; i + 8 < sizeof data; i += 40) {
        static const uint8_t CALL[8] = {0x48, 0x89, 0xdf, 0xe8, 0x12, 0x34, 0, 0};
        memcpy(data + i, CALL, sizeof CALL);
    }
    CHECK(vz_exe_kind(data, sizeof data) == VZ_X86);
    for (size_t i = 0; i + 4 <= sizeof data; i += 4) {
        static const uint8_t WORDS[2][4] = {{1, 2, 0, 0x91}, {0x10, 0x20, 0, 0x94}};
        memcpy(data + i, WORDS[i % 32 == 0], 4);
    }
    CHECK(vz_exe_kind(data, sizeof data) == VZ_ARM64);
}

static void machine_code_transforms_are_inverted(void)
{
    static uint8_t data[4096], copy[4096];
    for (uint64_t seed = 1; seed < 2000; seed++) {
        const size_t n = seed % 64 == 0 ? sizeof data : seed % 40;
        make(data, n, seed & 1 ? 4 : 0, seed);
        memcpy(copy, data, n);
        vz_exe_x86(copy, n, true);
        vz_exe_x86(copy, n, false);
        CHECK(memcmp(copy, data, n) == 0);
        for (size_t i = 3; i < n; i += 4)
            data[i] = seed & 2 ? 0x94 | (data[i] & 3) : data[i] | 0x90;
        memcpy(copy, data, n);
        vz_exe_arm64(copy, n, true);
        vz_exe_arm64(copy, n, false);
        CHECK(memcmp(copy, data, n) == 0);
    }
    static const uint8_t CALLS[] = {0xe8, 0x10, 0, 0, 0, 0x90, 0xe8, 0x0a, 0, 0, 0, 0x90,
                                    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    memcpy(copy, CALLS, sizeof CALLS);
    vz_exe_x86(copy, sizeof CALLS, true);
    CHECK(copy[1] == 0x15 && copy[7] == 0x15); /* two calls of one place look alike */
}

static void histories_are_sound(void)
{
    static vz_states s;
    vz_states_init(&s);
    CHECK(s.next[0][0] != 0 && s.next[1][0] != 0);
    for (int i = 0; i < 256; i++) {
        CHECK(s.p16[i] > 0);
        for (int bit = 0; bit < 2; bit++) CHECK(s.next[bit][i] != 0);
    }
    int state = 0;
    for (int i = 0; i < 100; i++) state = s.next[1][state];
    CHECK(s.p16[state] > 64000);
    const int after = s.next[0][state];
    CHECK(s.p16[after] < 60000);
}

int main(void)
{
    RUN(histories_are_sound);
    RUN(machine_code_transforms_are_inverted);
    RUN(every_kind_and_class_returns_its_input);
    RUN(segments_share_a_block);
    RUN(code_is_the_same_for_every_vector_width);
    RUN(memory_is_at_most_what_was_declared);
    RUN(allocations_may_fail);
    RUN(wrong_code_is_survived);
    RUN(coding_is_cancelled_within_64_kib);
    RUN(long_repeats_return);
    RUN(code_is_told_from_data);
    return test_end();
}
