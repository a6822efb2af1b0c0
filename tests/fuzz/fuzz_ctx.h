/* fuzz_ctx.h - one context for all inputs of a target.
 *
 * A new one for each input cost more than parsing a small file: it asks for the CPU's features, and
 * CPUID traps on a virtual machine (0.2 ms there). */
#ifndef FUZZ_CTX_H
#define FUZZ_CTX_H

#include <stdlib.h>

#include "engine.h"

/* Created at the first call; without the message of an earlier input. */
static inline fv_ctx *fuzz_ctx(uint64_t memory_cap)
{
    static fv_ctx *ctx;
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.threads = 1;
    o.memory_cap_bytes = memory_cap;
    if (!ctx && fv_ctx_create(&ctx, &o) != FV_OK) exit(1);
    (void)fv_fail(ctx, FV_OK, "%s", "");
    return ctx;
}

/* After each input: everything has been freed. */
static inline void fuzz_check_leaks(const fv_ctx *ctx)
{
    fv_memory_stats m;
    fv_ctx_memory(ctx, &m);
    if (m.current_bytes) abort();
}

#endif
