/* fuzz_archive.c - arbitrary bytes as an archive: walk it and read every other member. Then again
 * with the checksums of tar headers made right, so that mutations reach what the headers say. */
#include "archive.h"
#include "fuzz_ctx.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(fv_ctx *ctx, const uint8_t *data, size_t size)
{
    const fvi_archive_limits limits = { .member_bytes = 1u << 20,
                                        .members = 1000,
                                        .total_bytes = 4u << 20 };
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
    fuzz_check_leaks(ctx);
}

/* Headers are the blocks with the magic; true if one was wrong. */
static int repair(uint8_t *data, size_t size)
{
    int changed = 0;
    for (size_t at = 0; size - at >= 512; at += 512) {
        uint8_t *h = data + at, was[8];
        unsigned sum = 0;
        if (memcmp(h + 257, "ustar", 5) != 0) continue;
        memcpy(was, h + 148, sizeof was);
        memset(h + 148, ' ', 8);
        for (int i = 0; i < 512; i++) sum += h[i];
        snprintf((char *)h + 148, 8, "%06o", sum);
        changed |= memcmp(was, h + 148, sizeof was) != 0;
    }
    return changed;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fv_ctx *ctx = fuzz_ctx(256u << 20);
    walk(ctx, data, size);
    uint8_t *copy = size >= 512 ? malloc(size) : NULL;
    if (copy) {
        memcpy(copy, data, size);
        if (repair(copy, size)) walk(ctx, copy, size);
        free(copy);
    }
    return 0;
}
