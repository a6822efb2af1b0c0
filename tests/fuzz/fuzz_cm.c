/* fuzz_cm.c - the context-mixing decoder on any code, and the transforms of machine code.
 *
 * Byte 0: level, byte 1: kinds of two segments, bytes 2 and 3: their sizes in units of 8 bytes; the
 * rest is code. What the decoder accepts is coded and decoded again and must not change. */
#include "cm.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HEAD 4
#define PART_MAX (255 * 8)

static void transforms(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size + 1);
    if (!copy) return;
    memcpy(copy, data, size);
    vz_exe_x86(copy, size, true);
    vz_exe_x86(copy, size, false);
    vz_exe_arm64(copy, size, true);
    vz_exe_arm64(copy, size, false);
    if (memcmp(copy, data, size) != 0) abort();
    free(copy);
}

static void again(fv_ctx *ctx, const vz_cm_options *o, const vz_segment *segs, const uint8_t *plain,
                  size_t size)
{
    static uint8_t back[2 * PART_MAX];
    vz_buf b;
    vz_buf_init(&b, ctx);
    if (vz_cm_encode(ctx, o, segs, 2, plain, &b) != FV_OK) abort();
    if (vz_cm_decode(ctx, o, segs, 2, b.data, b.size, back) != FV_OK) abort();
    if (memcmp(back, plain, size) != 0) abort();
    vz_buf_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t plain[2 * PART_MAX];
    if (size < HEAD) return 0;
    transforms(data, size);
    fv_ctx *ctx;
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 0;
    const vz_cm_options o = {1 + data[0] % 9, 20, NULL};
    const vz_segment segs[2] = {{(vz_kind)(data[1] % 5), 2 + data[3], data[2] * 8u},
                                {(vz_kind)(data[1] / 5 % 5), 2 + data[2], data[3] * 8u}};
    const size_t total = (size_t)(segs[0].size + segs[1].size);
    const fv_status s =
        vz_cm_decode(ctx, &o, segs, 2, data + HEAD, size - HEAD, plain);
    if (s == FV_OK && size & 1) again(ctx, &o, segs, plain, total);
    fv_memory_stats st;
    fv_ctx_memory(ctx, &st);
    if (st.current_bytes != 0) abort();
    fv_ctx_destroy(&ctx);
    return 0;
}
