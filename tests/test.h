/* test.h - a test program is a list of RUN(name) in main; TAP-like lines; exit 1 on any failure.
 *
 *     static void sum_is_exact(void) { CHECK(1 + 1 == 2); NEAR(sum(), 2.0, 1e-6); }
 *     int main(void) { RUN(sum_is_exact); return test_end(); }
 *
 * A failed CHECK prints file, line and text, marks the test as failed and leaves the function. */
#ifndef FV_TEST_H
#define FV_TEST_H
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int test_count, test_failed, test_skipped, test_bad;

#define CHECK(c)                                                                    \
    do {                                                                            \
        if (!(c)) {                                                                 \
            printf("# %s:%d: failed: %s\n", __FILE__, __LINE__, #c);                \
            test_bad = 1;                                                           \
            return;                                                                 \
        }                                                                           \
    } while (0)
#define CHECK_MSG(c, ...)                                                           \
    do {                                                                            \
        if (!(c)) {                                                                 \
            printf("# %s:%d: failed: %s: ", __FILE__, __LINE__, #c);                \
            printf(__VA_ARGS__);                                                    \
            printf("\n");                                                           \
            test_bad = 1;                                                           \
            return;                                                                 \
        }                                                                           \
    } while (0)
/* A status that must be FV_OK; prints the context's message. */
#define OK(ctx, e)                                                                  \
    do {                                                                            \
        fv_status ok_s_ = (e);                                                      \
        CHECK_MSG(ok_s_ == FV_OK, "%s: %s", fv_status_name(ok_s_), fv_ctx_error(ctx)); \
    } while (0)
#define NEAR(a, b, tol)                                                             \
    do {                                                                            \
        double near_a_ = (a), near_b_ = (b);                                        \
        CHECK_MSG(fabs(near_a_ - near_b_) <= (tol), "%.9g against %.9g, tolerance %g", near_a_, near_b_, (double)(tol)); \
    } while (0)
/* NULL: RUN runs all; otherwise those with this in their names. */
static inline const char **test_only(void)
{
    static const char *only;
    return &only;
}
#define RUN(name)                                                                   \
    do {                                                                            \
        if (*test_only() && !strstr(#name, *test_only())) break;                    \
        test_bad = 0;                                                               \
        name();                                                                     \
        test_count++;                                                               \
        if (test_bad) test_failed++;                                                \
        printf("%s %d - %s\n", test_bad ? "not ok" : "ok", test_count, #name);      \
        fflush(stdout);                                                             \
    } while (0)
#define SKIP(name, why)                                                             \
    do {                                                                            \
        test_count++;                                                               \
        test_skipped++;                                                             \
        printf("ok %d - %s # skip %s\n", test_count, #name, why);                   \
    } while (0)

static inline int test_end(void)
{
    printf("1..%d\n# %d passed, %d failed, %d skipped\n", test_count, test_count - test_failed - test_skipped, test_failed, test_skipped);
    return test_failed ? 1 : 0;
}

/* Fill with reproducible values in [-1, 1). */
static inline uint32_t test_next(uint64_t *state)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(*state >> 32);
}
static inline void test_fill(float *x, int64_t n, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++) x[i] = (float)(int32_t)test_next(&seed) / 2147483648.0f;
}
/* The larger of `worst` and |difference|; INFINITY for a difference that is not finite, of which fmax
 * would forget a NaN. */
static inline double test_worst(double worst, double difference)
{
    return isfinite(difference) ? fmax(worst, fabs(difference)) : (double)INFINITY;
}
/* max |a-b| / max |b| */
static inline double test_rel_max(const float *a, const float *b, int64_t n)
{
    double d = 0, m = 0;
    for (int64_t i = 0; i < n; i++) {
        const double e = fabs((double)a[i] - b[i]);
        d = test_worst(d, e);
        if (fabs((double)b[i]) > m) m = fabs((double)b[i]);
    }
    return m > 0 ? d / m : d;
}
/* ||a-b|| / ||b|| */
static inline double test_rel_l2(const float *a, const float *b, int64_t n)
{
    double d = 0, m = 0;
    for (int64_t i = 0; i < n; i++) {
        const double e = (double)a[i] - b[i];
        d += e * e;
        m += (double)b[i] * b[i];
    }
    return m > 0 ? sqrt(d / m) : sqrt(d);
}
#endif
