/* fuzz_vz_image.c - detectors, encoders and decoders of pictures and deflate streams.
 *
 * Byte 0: level and, in bit 4, which decoder gets the rest as code, with a size of bytes 1 and 2
 * and a param of byte 3. The rest is also taken as a file: what a detector accepts must come back.
 */
#include <string.h>

#include "fuzz_ctx.h"
#include "vz_deflate.h"
#include "vz_image_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t back[65536];

static void round_trip(fv_ctx *ctx, const vz_cm_options *o, const vz_coder *coder, uint32_t param,
                       const uint8_t *data, size_t size)
{
    bool fits = false;
    vz_buf b;
    vz_buf_init(&b, ctx);
    if (coder->encode(ctx, o, param, data, size, &b, &fits) != FV_OK) abort();
    if (fits && (coder->decode(ctx, o, param, b.data, b.size, back, size) != FV_OK ||
                 memcmp(back, data, size) != 0))
        abort();
    vz_buf_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 5 || size > sizeof back) return 0;
    fv_ctx *ctx = fuzz_ctx((uint64_t)512 << 20);
    const vz_cm_options o = {fuzz_level(1 + data[0] % 9, data, size), 20, NULL};
    const size_t n = 1 + (data[1] | (size_t)(data[2] & 15) << 8);
    const vz_coder *coder = data[0] & 16 ? &vz_image_coder : &vz_deflate_coder;
    const uint32_t param = data[0] & 16 ? 0 : (1u + (data[3] & 1)) | (10u + (data[3] >> 4)) << 8;
    (void)!coder->decode(ctx, &o, param, data + 4, size - 4, back, n);
    fuzz_check_leaks(ctx);
    const uint8_t *file = data + 4;
    uint32_t found = 0;
    uint64_t budget = 1 << 20;
    size_t got = vz_image_detect(file, size - 4, true, &found);
    if (got) round_trip(ctx, &o, &vz_image_coder, found, file, got);
    got = vz_png_detect(file, size - 4, true, &found);
    if (!got) got = vz_stream_detect(ctx, file, size - 4, 9, &found, &budget);
    if (got) round_trip(ctx, &o, &vz_deflate_coder, found, file, got);
    fuzz_check_leaks(ctx);
    return 0;
}
