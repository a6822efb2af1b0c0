/* test_random.c - random.c: published Philox vectors, golden values, statistics.
 *
 * The golden CRCs freeze the streams: pictures made from a seed must stay the same for ever, on
 * every machine, compiler and optimisation level. */
#include "engine.h"
#include "test.h"

#define N (1 << 20)
static float buf[N];
static uint32_t words[N];

static void philox_gives_the_published_vectors(void)
{
    /* Random123 1.14, kat_vectors, philox4x32 10: counter, key, result. */
    static const uint32_t v[3][10] = {
        { 0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 },
        { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff,
          0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd },
        { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0,
          0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 },
    };
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        const uint64_t block = v[i][0] | (uint64_t)v[i][1] << 32,
                       seed = v[i][4] | (uint64_t)v[i][5] << 32;
        fv_philox(seed, v[i][3], v[i][2], block, out);
        CHECK(memcmp(out, &v[i][6], 16) == 0);
    }
}

static void any_range_equals_the_whole(void)
{
    float part[32], z[64], u[64];
    uint32_t w[64], wp[32];
    const uint64_t base = 0xfffffffffffull; /* counter beyond 32 bits, not a multiple of 4 */
    fv_rand_normal(9, FV_STREAM_NOISE, 3, base, 64, z);
    fv_rand_uniform(9, FV_STREAM_NOISE, 3, base, 64, u);
    fv_rand_u32(9, FV_STREAM_NOISE, 3, base, 64, w);
    for (int first = 0; first < 32; first++) {
        for (int n = 0; n < 32; n++) {
            fv_rand_normal(9, FV_STREAM_NOISE, 3, base + (uint64_t)first, n, part);
            CHECK(memcmp(part, z + first, (size_t)n * 4) == 0);
            fv_rand_uniform(9, FV_STREAM_NOISE, 3, base + (uint64_t)first, n, part);
            CHECK(memcmp(part, u + first, (size_t)n * 4) == 0);
            fv_rand_u32(9, FV_STREAM_NOISE, 3, base + (uint64_t)first, n, wp);
            CHECK(memcmp(wp, w + first, (size_t)n * 4) == 0);
        }
    }
}

static void golden_streams_never_change(void)
{
    fv_rand_u32(42, FV_STREAM_NOISE, 0, 0, N, words);
    const uint32_t cu = fv_crc32(0, words, sizeof words);
    fv_rand_uniform(42, FV_STREAM_NOISE, 0, 0, N, buf);
    const uint32_t cf = fv_crc32(0, buf, sizeof buf);
    fv_rand_normal(42, FV_STREAM_NOISE, 0, 0, N, buf);
    const uint32_t cn = fv_crc32(0, buf, sizeof buf);
    uint32_t cp = 0;
    for (uint64_t i = 0; i < 5000; i++) {
        const uint64_t p = fv_rand_permute(42, 7, 123457, i);
        const uint8_t b[4] = {(uint8_t)p, (uint8_t)(p >> 8), (uint8_t)(p >> 16),
                              (uint8_t)(p >> 24)};
        cp = fv_crc32(cp, b, 4);
    }
    CHECK_MSG(cu == 0xc9ecd036u && cf == 0x96c854a5u && cn == 0x90a07f92u && cp == 0xe4244235u,
              "%08x %08x %08x %08x", cu, cf, cn, cp);
}

static void normal_follows_box_muller_in_double(void)
{
    const double pi = 3.14159265358979323846;
    double worst = 0;
    fv_rand_normal(5, 1, 2, 0, N, buf);
    fv_rand_u32(5, 1, 2, 0, N, words);
    for (int i = 0; i < N; i += 2) {
        const double u = ((double)words[i] + 0.5) / 4294967296.0,
                     a = 2 * pi * words[i + 1] / 4294967296.0;
        const double r = sqrt(-2 * log(u));
        const double e = fmax(fabs(buf[i] - r * cos(a)), fabs(buf[i + 1] - r * sin(a)));
        worst = test_worst(worst, e);
    }
    /* 6.8 * (a few eps) in general; near u = 1 the rounding of u (2^-24) costs sqrt(2^-23). */
    CHECK_MSG(worst < 4e-4, "%g", worst);
    worst = 0;
    for (int i = 0; i < N; i += 2) {
        if (words[i] > 0xf0000000u) continue;
        const double u = ((double)words[i] + 0.5) / 4294967296.0,
                     a = 2 * pi * words[i + 1] / 4294967296.0;
        const double r = sqrt(-2 * log(u));
        const double e = fmax(fabs(buf[i] - r * cos(a)), fabs(buf[i + 1] - r * sin(a)));
        worst = test_worst(worst, e);
    }
    CHECK_MSG(worst < 3e-6, "%g", worst);
}

static void moments_are_those_of_the_distributions(void)
{
    double m1 = 0, m2 = 0, m3 = 0, m4 = 0, lo = 1, hi = 0, mu = 0;
    fv_rand_normal(123, FV_STREAM_NOISE, 1, 0, N, buf);
    for (int i = 0; i < N; i++) {
        const double x = buf[i];
        m1 += x;
        m2 += x * x;
        m3 += x * x * x;
        m4 += x * x * x * x;
    }
    const double s = 1 / sqrt((double)N); /* tolerances: 5 standard errors */
    NEAR(m1 / N, 0, 5 * s);
    NEAR(m2 / N, 1, 5 * sqrt(2.0) * s);
    NEAR(m3 / N, 0, 5 * sqrt(15.0) * s);
    NEAR(m4 / N, 3, 5 * sqrt(96.0) * s);
    fv_rand_uniform(123, FV_STREAM_NOISE, 1, 0, N, buf);
    for (int i = 0; i < N; i++) {
        mu += buf[i];
        lo = fmin(lo, buf[i]);
        hi = fmax(hi, buf[i]);
    }
    CHECK(lo >= 0 && hi < 1 && lo < 1e-4 && hi > 1 - 1e-4);
    NEAR(mu / N, 0.5, 5 * s / sqrt(12.0));
}

static void seeds_streams_and_samples_differ(void)
{
    uint32_t a[4], b[4];
    fv_philox(1, 1, 1, 1, a);
    fv_philox(2, 1, 1, 1, b);
    CHECK(memcmp(a, b, 16) != 0);
    fv_philox(1, 2, 1, 1, b);
    CHECK(memcmp(a, b, 16) != 0);
    fv_philox(1, 1, 2, 1, b);
    CHECK(memcmp(a, b, 16) != 0);
    fv_philox(1ull << 32 | 1, 1, 1, 1, b);
    CHECK(memcmp(a, b, 16) != 0);
    fv_philox(1, 1, 1, 1ull << 32 | 1, b);
    CHECK(memcmp(a, b, 16) != 0);
}

static void permutation_hits_everything_once(void)
{
    static const uint64_t sizes[] = { 1, 2, 3, 4, 5, 16, 17, 255, 257, 1000, 4099, 65536 };
    static uint8_t seen[65536];
    for (size_t k = 0; k < FV_ARRAY_LEN(sizes); k++) {
        for (uint64_t epoch = 0; epoch < 3; epoch++) {
            memset(seen, 0, sizeof seen);
            for (uint64_t i = 0; i < sizes[k]; i++) {
                const uint64_t p = fv_rand_permute(77, epoch, sizes[k], i);
                CHECK(p < sizes[k] && !seen[p]);
                seen[p] = 1;
            }
        }
    }
    for (uint64_t i = 0; i < 100; i++) { /* the largest domains end, too */
        CHECK(fv_rand_permute(1, 0, UINT64_MAX, UINT64_MAX - 1 - i) < UINT64_MAX);
        CHECK(fv_rand_permute(1, 0, (1ull << 62) + 1, i) <= 1ull << 62);
    }
    CHECK(fv_rand_permute(1, 0, 0, 0) == 0 && fv_rand_permute(1, 0, 1, 0) == 0);
}

static void permutation_places_are_even(void)
{
    /* Where element 0 of 10 goes over 20000 epochs: chi-square with 9 degrees of freedom; the limit
     * is exceeded with probability 1e-6. Also, epochs must differ from each other. */
    double count[10] = { 0 }, chi = 0, fixed = 0;
    for (uint64_t e = 0; e < 20000; e++) count[fv_rand_permute(3, e, 10, 0)]++;
    for (int i = 0; i < 10; i++) chi += (count[i] - 2000) * (count[i] - 2000) / 2000;
    CHECK_MSG(chi < 44.8, "%g", chi);
    for (uint64_t i = 0; i < 10000; i++) {
        fixed += fv_rand_permute(3, 0, 10000, i) == fv_rand_permute(3, 1, 10000, i);
    }
    CHECK(fixed < 10);
}

int main(void)
{
    RUN(philox_gives_the_published_vectors);
    RUN(any_range_equals_the_whole);
    RUN(golden_streams_never_change);
    RUN(normal_follows_box_muller_in_double);
    RUN(moments_are_those_of_the_distributions);
    RUN(seeds_streams_and_samples_differ);
    RUN(permutation_hits_everything_once);
    RUN(permutation_places_are_even);
    return test_end();
}
