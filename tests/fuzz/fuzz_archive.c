/* fuzz_archive.c - arbitrary bytes as an archive: walk it and read every other member. */
#include "archive.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const fvi_archive_limits limits = { .member_bytes = 1u << 20,
                                        .members = 1000,
                                        .total_bytes = 4u << 20 };
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.threads = 1;
    o.memory_cap_bytes = 256u << 20;
    fv_ctx *ctx;
    if (fv_ctx_create(&ctx, &o) != FV_OK) return 0;
    fvi_archive *a;
    fvi_member m;
    fv_status s = fvi_archive_open_memory(ctx, &a, "fuzz", data, size, &limits);
    for (int i = 0; s == FV_OK; i++) {
        s = fvi_archive_next(a, &m);
        if (s != FV_OK || !m.path) break;
        if (i % 2) continue;
        uint8_t *bytes;
        size_t n;
        s = fvi_archive_read(a, &bytes, &n);
        fv_free(ctx, bytes);
    }
    fvi_archive_close(&a);
    fv_memory_stats st;
    fv_ctx_memory(ctx, &st);
    if (st.current_bytes) abort();
    fv_ctx_destroy(&ctx);
    return 0;
}
