/* fuzz_vz_audio.c - the audio coder: byte 0 chooses.
 *
 * Even: the rest is a file; what the coder takes must come back. Odd: the rest is a code of a
 * segment whose size is bytes 1 and 2, decoded at the level that byte 0 says. */
#include <string.h>

#include "fuzz_ctx.h"
#include "vz_audio.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t plain[1 << 16];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3) return 0;
    fv_ctx *ctx = fuzz_ctx(0);
    const vz_cm_options o = {fuzz_level(1 + data[0] / 2 % 9, data, size), 20, NULL};
    if (data[0] & 1) {
        const size_t n = 1 + (data[1] | (size_t)data[2] << 8) % 4000;
        (void)!vz_audio_coder.decode(ctx, &o, 0, data + 3, size - 3, plain, n);
    } else if (size - 1 <= sizeof plain) {
        uint32_t param = 0;
        bool fits;
        vz_buf b;
        vz_buf_init(&b, ctx);
        const size_t n = vz_audio_detect(data + 1, size - 1, true, &param);
        if (n > size - 1) abort();
        if (n > 0) {
            if (vz_audio_coder.encode(ctx, &o, param, data + 1, n, &b, &fits) != FV_OK || !fits)
                abort();
            if (vz_audio_coder.decode(ctx, &o, param, b.data, b.size, plain, n) != FV_OK) abort();
            if (memcmp(plain, data + 1, n) != 0) abort();
        }
        vz_buf_free(&b);
    }
    fuzz_check_leaks(ctx);
    return 0;
}
