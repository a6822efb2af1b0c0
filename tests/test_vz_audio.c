/* test_vz_audio.c - the audio coder: every sample format and odd header returns its bytes, sound is
 * found and made smaller, one code for every vector width, memory as declared, wrong code survived.
 */
#include "vz_audio.h"
#include "vz_fixture.h"

#define SIZE_MAX_HERE 200000
static uint8_t file[SIZE_MAX_HERE];

/* Two resonances with a little noise; `nature` 1: loudest square, 2: silence, 3: noise, 4:
 * multiples of 37, 5: low byte always zero. */
static int32_t tone(int nature, int64_t i, int channel, int bits, uint64_t *seed)
{
    static const double PI2 = 6.283185307179586;
    const double top = (double)((1 << (bits - 1)) - 1);
    const int32_t noise = (int32_t)(test_next(seed) >> (32 - bits)) - (1 << (bits - 1));
    const double wave = 0.5 * sin(PI2 * (double)i / 37.3 + channel) +
                        0.3 * sin(PI2 * (double)i / 11.7) + noise / top * 0.003;
    switch (nature) {
    case 1: return i / 9 % 2 ? (int32_t)top : -(int32_t)top - 1;
    case 2: return 0;
    case 3: return noise;
    case 4: return (int32_t)(wave * top / 80) * 37;
    case 5: return (int32_t)(wave * top / 256) * 256;
    default: return (int32_t)(wave * top);
    }
}

/* A WAV (or extensible WAV, or AIFF) file; returns its size. */
typedef enum container { WAV, EXTENSIBLE, AIFF } container;
static size_t make(container kind, int channels, int bits, int frames, int nature)
{
    const bool big = kind == AIFF;
    const int bytes = bits / 8, head = kind == WAV ? 44 : kind == EXTENSIBLE ? 68 : 54;
    const uint32_t n = (uint32_t)(frames * channels * bytes);
    uint64_t seed = 5;
    memset(file, 0, (size_t)head);
    if (kind == AIFF) {
        memcpy(file, "FORM....AIFFCOMM", 16);
        put_number(file + 4, n + 46, 4, true);
        put_number(file + 16, 18, 4, true);
        put_number(file + 20, (uint32_t)channels, 2, true);
        put_number(file + 22, (uint32_t)frames, 4, true);
        put_number(file + 26, (uint32_t)bits, 2, true);
        memcpy(file + 28, "\x40\x0e\xac\x44", 4);
        memcpy(file + 38, "SSND", 4);
        put_number(file + 42, n + 8, 4, true);
    } else {
        memcpy(file, "RIFF....WAVEfmt ", 16);
        put_number(file + 4, n + (uint32_t)head - 8, 4, false);
        put_number(file + 16, kind == WAV ? 16 : 40, 4, false);
        put_number(file + 20, kind == WAV ? 1 : 0xfffe, 2, false);
        put_number(file + 22, (uint32_t)channels, 2, false);
        put_number(file + 24, 16000, 4, false);
        put_number(file + 28, (uint32_t)(16000 * channels * bytes), 4, false);
        put_number(file + 32, (uint32_t)(channels * bytes), 2, false);
        put_number(file + 34, (uint32_t)bits, 2, false);
        if (kind == EXTENSIBLE) {
            put_number(file + 36, 22, 2, false);
            put_number(file + 44, 1, 2, false);
        }
        memcpy(file + head - 8, "data", 4);
        put_number(file + head - 4, n, 4, false);
    }
    uint8_t *p = file + head;
    for (int i = 0; i < frames; i++)
        for (int c = 0; c < channels; c++, p += bytes) {
            const int32_t x = tone(nature, i, c, bits, &seed);
            put_number(p, (uint32_t)(bits == 8 && !big ? x + 128 : x), bytes, big);
        }
    return (size_t)(p - file);
}

/* The first bytes of `file`. */
static vz_case sound(int level, size_t size)
{
    return (vz_case){&vz_audio_coder, {level, 22, NULL}, 0, file, size};
}

static void every_format_returns_its_bytes(void)
{
    fv_ctx *ctx = vz_test_ctx(0, 0);
    for (int kind = 0; kind < 3; kind++)
        for (int channels = 1; channels <= 8; channels = channels < 3 ? channels + 1 : channels + 5)
            for (int bits = 8; bits <= 24; bits += 8)
                for (int nature = 0; nature < 6; nature++) {
                    const size_t n = make((container)kind, channels, bits, 150, nature);
                    uint32_t param = 0;
                    CHECK(vz_audio_detect(file, n, true, &param) == n);
                    CHECK_MSG(vz_round_trip(ctx, sound(3, n), NULL) > 0, "%d %d %d %d", kind,
                              channels, bits, nature);
                }
    for (int level = 1; level <= 9; level++)
        for (int channels = 1; channels <= 2; channels++)
            CHECK(vz_round_trip(ctx, sound(level, make(WAV, channels, 16, 1300, 0)), NULL) > 0);
    fv_ctx_destroy(&ctx);
}

static void sound_becomes_small(void)
{
    fv_ctx *ctx = vz_test_ctx(0, 0);
    size_t n = make(WAV, 2, 16, 6000, 0);
    int64_t coded = vz_round_trip(ctx, sound(3, n), NULL);
    CHECK_MSG(coded > 0 && coded < (int64_t)n * 55 / 100, "%d", (int)coded);
    n = make(WAV, 1, 16, 6000, 4); /* gaps between values cost nothing */
    coded = vz_round_trip(ctx, sound(3, n), NULL);
    CHECK_MSG(coded > 0 && coded < (int64_t)n * 25 / 100, "%d", (int)coded);
    n = make(WAV, 1, 16, 6000, 2);
    coded = vz_round_trip(ctx, sound(3, n), NULL);
    CHECK_MSG(coded > 0 && coded < 20, "%d", (int)coded);
    fv_ctx_destroy(&ctx);
}

/* Sizes that lie, odd sizes, chunks around, formats that are not ours. */
static void odd_headers_return_their_bytes(void)
{
    fv_ctx *ctx = vz_test_ctx(0, 0);
    static const uint32_t LIES[] = {0, 1, 33, 299, 0x7fffffff, 0xffffffff};
    for (size_t i = 0; i < FV_ARRAY_LEN(LIES); i++) {
        const size_t n = make(WAV, 1, 24, 100, 0);
        put_number(file + 40, LIES[i], 4, false);
        put_number(file + 4, LIES[i], 4, false);
        uint32_t param = 0;
        const size_t found = vz_audio_detect(file, n, true, &param);
        CHECK(found <= n && (LIES[i] < 299 || found > 0));
        if (found) CHECK(vz_round_trip(ctx, sound(3, found), NULL) > 0);
    }
    size_t n = make(WAV, 2, 16, 100, 0); /* an odd byte, cut inside of a frame */
    for (size_t cut = 0; cut < 9; cut++) CHECK(vz_round_trip(ctx, sound(3, n - cut), NULL) > 0);
    for (size_t cut = 44; cut > 0; cut--) CHECK(vz_round_trip(ctx, sound(3, cut), NULL) == 0);
    put_number(file + 20, 3, 2, false); /* floats */
    CHECK(vz_round_trip(ctx, sound(3, n), NULL) == 0);
    n = make(WAV, 2, 16, 100, 0);
    put_number(file + 22, 9, 2, false);
    CHECK(vz_round_trip(ctx, sound(3, n), NULL) == 0);
    n = make(AIFF, 2, 16, 100, 0);
    put_number(file + 46, 4, 4, true); /* SSND offset */
    CHECK(vz_round_trip(ctx, sound(3, n), NULL) > 0);
    put_number(file + 46, 0x80000000u, 4, true);
    CHECK(vz_round_trip(ctx, sound(3, n), NULL) == 0);
    fv_ctx_destroy(&ctx);
}

static void headerless_sound_is_guessed(void)
{
    vz_audio_format f;
    size_t n = make(WAV, 2, 16, 30000, 0);
    CHECK(vz_audio_guess(file + 45, n - 45, &f));
    CHECK(f.channels == 2 && f.bytes == 2 && f.head == 3);
    n = make(WAV, 1, 24, 30000, 0);
    CHECK(vz_audio_guess(file + 44, n - 44, &f) && f.channels == 1 && f.bytes == 3);
    uint64_t seed = 3;
    for (size_t i = 0; i < SIZE_MAX_HERE; i++) /* a smooth picture is not sound */
        file[i] = (uint8_t)(100 + 60 * sin((double)i / 400) + test_next(&seed) % 5);
    CHECK(!vz_audio_guess(file, SIZE_MAX_HERE, &f));
    for (size_t i = 0; i < SIZE_MAX_HERE; i++) file[i] = (uint8_t)(test_next(&seed) >> 20);
    CHECK(!vz_audio_guess(file, SIZE_MAX_HERE, &f));
    for (size_t i = 0; i < SIZE_MAX_HERE; i++) file[i] = "plain words, "[i % 13];
    CHECK(!vz_audio_guess(file, SIZE_MAX_HERE, &f));
}

static void code_is_the_same_for_every_vector_width(void)
{
    static const int LEVELS[] = {1, 3, 9};
    for (size_t l = 0; l < FV_ARRAY_LEN(LEVELS); l++)
        same_code_for_every_vector_width(
            sound(LEVELS[l], make(WAV, 2, l == 1 ? 24 : 16, 800, 0)));
}

/* Random and extreme inputs, unaligned, guard words behind the weights. */
static void compare(const vz_audio_ops *ops)
{
    static int16_t x[1040];
    static int32_t w[2][1040];
    uint64_t seed = 11;
    for (int round = 0; round < 60; round++) {
        const int n = 16 * (1 + round), off = round % 16;
        for (int k = 0; k < 1040; k++) {
            const uint32_t r = test_next(&seed);
            x[k] = (int16_t)(round & 1 ? (r & 1 ? 32767 : -32768) : (int32_t)(r >> 16) - 32768);
            w[0][k] = w[1][k] = round & 2 ? (r & 2 ? VZ_AUDIO_WEIGHT_MAX : -VZ_AUDIO_WEIGHT_MAX)
                                          : (int32_t)(r >> 5) - (1 << 26);
        }
        CHECK(vz_audio_ops_c.dot(x + off, w[0] + off, n) == ops->dot(x + off, w[1] + off, n));
        for (int shift = 1; shift <= 24; shift += 5) {
            const int32_t e = shift & 1 ? -32767 : (int32_t)(test_next(&seed) >> 16) - 32767;
            vz_audio_ops_c.train(x + off, w[0] + off, n, e, shift);
            ops->train(x + off, w[1] + off, n, e, shift);
            CHECK(memcmp(w[0], w[1], sizeof w[0]) == 0);
        }
    }
}

#if defined(__x86_64__)
static void vector_filters_equal_scalar(void)
{
    fv_ctx *ctx = vz_test_ctx(0, 0);
    const uint32_t cpu = fv_ctx_cpu(ctx);
    fv_ctx_destroy(&ctx);
    if (cpu & FV_CPU_AVX2) compare(&vz_audio_ops_avx2);
    if (cpu & FV_CPU_AVX512) compare(&vz_audio_ops_avx512);
}
#endif

static void memory_is_at_most_what_was_declared(void)
{
    static const int LEVELS[] = {1, 3, 9};
    for (size_t l = 0; l < FV_ARRAY_LEN(LEVELS); l++)
        memory_is_as_declared(sound(LEVELS[l], make(WAV, 8, 16, 100, 4)));
}

static void allocations_may_fail(void)
{
    each_allocation_may_fail(sound(3, make(WAV, 1, 16, 100, 4)));
}

static void wrong_code_is_survived(void)
{
    wrong_codes_are_survived(sound(3, make(EXTENSIBLE, 2, 16, 300, 4)));
}

int main(void)
{
#if defined(__x86_64__)
    RUN(vector_filters_equal_scalar);
#endif
    RUN(every_format_returns_its_bytes);
    RUN(sound_becomes_small);
    RUN(odd_headers_return_their_bytes);
    RUN(headerless_sound_is_guessed);
    RUN(code_is_the_same_for_every_vector_width);
    RUN(memory_is_at_most_what_was_declared);
    RUN(allocations_may_fail);
    RUN(wrong_code_is_survived);
    return test_end();
}
