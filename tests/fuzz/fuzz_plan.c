/* fuzz_plan.c - plans and stored module times on any text; plans again with a right last line. What
 * is accepted is written and must be read back as the same. */
#include "../diffusion/soda.h"
#include "fuzz_ctx.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What the engine may be asked to do. */
static void check_actions(const fv_accel *p)
{
    const int K = 2 * p->depth;
    for (int i = 0; i < p->evals * K; i++) {
        const int action = fv_accel_action(p, i / K, i % K / 2, i % 2);
        const double share = fv_accel_share(p, i / K, i % K / 2, i % 2);
        if (action < 0 || action > FV_ACTION_SKIP || share < 0 || share > 1) abort();
        if (p->action[i] > DIT_PRUNE || p->pruned[i] >= DIT_PRUNED) abort();
        if (p->action[i] == DIT_PRUNE && i % 2 == 0) abort();
    }
    for (int i = 0; i < p->evals * K * DIT_HISTORY; i++)
        if (!(fabsf(p->weight[i]) <= 1e4f)) abort();
    for (int i = 0; i < p->evals * DIT_HISTORY; i++)
        if (!(fabsf(p->skip_weight[i]) <= 1e4f)) abort();
    if (p->history < 1 || p->history > DIT_HISTORY || p->step_history > DIT_HISTORY ||
        p->skip > DIT_SKIP_RESIDUAL || p->score > DIT_SCORE_DRIFT)
        abort();
}

static void round_trip(fv_ctx *ctx, const fv_accel *p)
{
    char *a, *b;
    size_t na, nb;
    fv_accel *again;
    if (!p->anchor[0] || p->anchors < 1 || p->anchors > p->evals) abort();
    check_actions(p);
    if (fvi_accel_text(ctx, p, &a, &na) != FV_OK) abort();
    if (fvi_accel_parse(ctx, &again, a, na) != FV_OK) abort();
    if (fvi_accel_text(ctx, again, &b, &nb) != FV_OK) abort();
    if (na != nb || memcmp(a, b, na) != 0) abort();
    fv_accel_free(&again);
    fv_free(ctx, a);
    fv_free(ctx, b);
}

static void parse(fv_ctx *ctx, const char *text, size_t size)
{
    fv_accel *p;
    if (fvi_accel_parse(ctx, &p, text, size) == FV_OK) {
        round_trip(ctx, p);
        fv_accel_free(&p);
    } else if (p || !fv_ctx_error(ctx)[0]) {
        abort();
    }
}

static void parse_times(fv_ctx *ctx, const char *text, size_t size)
{
    fv_timing *t, *again;
    char *a, *b;
    if (fv_timing_parse(ctx, &t, text, size) != FV_OK) return;
    if (fv_timing_text(t, ctx, &a) != FV_OK) abort();
    if (fv_timing_parse(ctx, &again, a, strlen(a)) != FV_OK) abort();
    if (fv_timing_text(again, ctx, &b) != FV_OK || strcmp(a, b) != 0) abort();
    fv_timing_free(&t);
    fv_timing_free(&again);
    fv_free(ctx, a);
    fv_free(ctx, b);
}

/* The text up to its last line, and a last line with the right checksum. */
static void parse_repaired(fv_ctx *ctx, const uint8_t *data, size_t size)
{
    char *copy = malloc(size + 32);
    size_t n = size;
    if (!copy) return;
    while (n > 0 && !(n < size && data[n - 1] == '\n')) n--;
    memcpy(copy, data, n);
    n += (size_t)snprintf(copy + n, 32, "end %08x\n", (unsigned)fv_crc32c(0, copy, n));
    parse(ctx, copy, n);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fv_ctx *ctx = fuzz_ctx(0);
    parse(ctx, (const char *)data, size);
    parse_repaired(ctx, data, size);
    parse_times(ctx, (const char *)data, size);
    fuzz_check_leaks(ctx);
    return 0;
}
