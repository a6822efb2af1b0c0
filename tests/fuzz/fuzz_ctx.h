/* fuzz_ctx.h - one context for all inputs of a target, and shares of them.
 *
 * A new one for each input cost more than parsing a small file: it asks for the CPU's features, and
 * CPUID traps on a virtual machine (0.2 ms there). */
#ifndef FUZZ_CTX_H
#define FUZZ_CTX_H

#include <stdlib.h>

#include "engine.h"
#include "fuzz_heap.h"

static unsigned fuzz_inputs; /* that have begun */

/* Created at the first call; without the message of an earlier input. */
static inline fv_ctx *fuzz_ctx(uint64_t memory_cap)
{
    static fv_ctx *ctx;
    static fuzz_heap heap;
    const fv_allocator kept = {fuzz_alloc, fuzz_free, &heap};
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.threads = 1;
    o.alloc = &kept;
    o.memory_cap_bytes = memory_cap;
    if (!ctx && fv_ctx_create(&ctx, &o) != FV_OK) exit(1);
    (void)fv_fail(ctx, FV_OK, "%s", "");
    fuzz_inputs++;
    return ctx;
}

/* 0 .. shares - 1, by the bytes of an input: what takes long is done for share 0 only. The first
 * inputs of a process are all of share 0: a corpus is, and an input that is run once more alone. */
static inline unsigned fuzz_share(const uint8_t *data, size_t size, unsigned shares)
{
    return fuzz_inputs < 256 ? 0 : fv_crc32c(7, data, size) % shares;
}

/* Levels from 6 on have the largest models: a sixteenth of what asks for one gets it. */
static inline int fuzz_level(int level, const uint8_t *data, size_t size)
{
    return level > 5 && fuzz_share(data, size, 16) ? level - 5 : level;
}

/* After each input: everything has been freed. */
static inline void fuzz_check_leaks(const fv_ctx *ctx)
{
    fv_memory_stats m;
    fv_ctx_memory(ctx, &m);
    if (m.current_bytes) abort();
}

#endif
