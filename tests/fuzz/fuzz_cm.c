/* fuzz_cm.c - the context-mixing decoder on any code, and the transforms of machine code.
 *
 * Byte 0: level, byte 1: kinds of two segments, bytes 2 and 3: their sizes in units of 2 bytes and
 * the other one's length of records; the rest is code. What the decoder accepts is coded and decoded
 * again and must not change. */
#include "cm.h"

#include <string.h>

#include "fuzz_ctx.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HEAD 4
#define PART_MAX (255 * 2)

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
    fv_ctx *ctx = fuzz_ctx(0);
    const vz_cm_options o = {fuzz_level(1 + data[0] % 9, data, size), 20, NULL};
    const vz_segment segs[2] = {{(vz_kind)(data[1] % 5), 2 + data[3], data[2] * 2u},
                                {(vz_kind)(data[1] / 5 % 5), 2 + data[2], data[3] * 2u}};
    const size_t total = (size_t)(segs[0].size + segs[1].size);
    const fv_status s =
        vz_cm_decode(ctx, &o, segs, 2, data + HEAD, size - HEAD, plain);
    if (s == FV_OK && size & 1) again(ctx, &o, segs, plain, total);
    fuzz_check_leaks(ctx);
    return 0;
}
