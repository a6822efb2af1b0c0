/* fuzz_sens.c - fv_sens_parse on any bytes, and again with the checksum made right, so that
 * mutations reach the header and the arrays. What is accepted is written and must be read back as
 * the same. */
#include "../diffusion/soda.h"
#include "fuzz_ctx.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Of the arrays that a file may lack. */
static double step_values(const fv_sens *s, int e, int n)
{
    double sum = 0;
    if (s->step_gram) sum += fvi_sens_step_gram(s, DIT_SKIP_RESIDUAL, e, 0);
    if (s->step_omega) sum += fvi_sens_omega_out(s, e) + fvi_sens_omega_step(s, DIT_SKIP_HIDDEN, e);
    if (s->pruned) {
        const double left = fvi_sens_pruned(s, s->depth - 1, e, DIT_PRUNED - 1, n),
                     cosine = fvi_sens_prune_cosine(s, s->depth - 1, e, 0, n);
        if (!(left >= 0 && left <= 1 && cosine >= 0 && cosine <= 2)) abort();
        sum += left + cosine;
    }
    return sum;
}

static void round_trip(fv_ctx *ctx, const fv_sens *s)
{
    uint8_t *a, *b;
    size_t na, nb;
    fv_sens *again;
    double sum = 0;
    for (int e = 0; e < s->evals; e++)
        for (int n = 1; n <= s->window; n++)
            if (fvi_sens_known(s, e, n)) {
                sum += fvi_sens_error(s, 0, e, n) + fvi_sens_cosine(s, 1, e, n);
                sum += step_values(s, e, n);
            }
    if (sum < 0) abort();
    if (fvi_sens_encode(ctx, s, &a, &na) != FV_OK) return; /* memory cap */
    if (fv_sens_parse(ctx, &again, a, na) == FV_OK) {
        if (fvi_sens_encode(ctx, again, &b, &nb) == FV_OK) {
            if (na != nb || memcmp(a, b, na) != 0) abort();
            fv_free(ctx, b);
        }
        fv_sens_free(&again);
    } else if (!strstr(fv_ctx_error(ctx), "memory")) {
        abort();
    }
    fv_free(ctx, a);
}

static void parse(fv_ctx *ctx, const uint8_t *data, size_t size)
{
    fv_sens *s;
    if (fv_sens_parse(ctx, &s, data, size) == FV_OK) {
        round_trip(ctx, s);
        fv_sens_free(&s);
    } else if (s || !fv_ctx_error(ctx)[0]) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fv_ctx *ctx = fuzz_ctx(64u << 20);
    parse(ctx, data, size);
    uint8_t *copy = size >= 16 ? malloc(size) : NULL;
    if (copy) {
        memcpy(copy, data, size);
        const uint32_t crc = fv_crc32c(0, copy, size - 4);
        for (int i = 0; i < 4; i++) copy[size - 4 + (size_t)i] = (uint8_t)(crc >> (8 * i));
        parse(ctx, copy, size);
        free(copy);
    }
    fuzz_check_leaks(ctx);
    return 0;
}
