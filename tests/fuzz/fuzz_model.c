/* fuzz_model.c - fv_model_open_memory on any bytes; every tensor and metadata entry is read. */
#include "fuzz_ctx.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint32_t touch(const fv_model *m)
{
    uint32_t crc = 0;
    uint8_t sha[32];
    for (int i = 0; i < fv_model_count(m); i++) {
        fv_tensor t;
        if (!fv_model_find(m, fv_model_name(m, i), &t)) abort();
        const int64_t n = fv_tensor_count(&t);
        if (n < 0 || !t.data) abort();
        crc = fv_crc32(crc, t.data, (size_t)n * fv_dtype_size(t.dtype));
    }
    for (int i = 0; i < fv_model_meta_count(m); i++) {
        const char *k, *v;
        fv_model_meta_at(m, i, &k, &v);
        if (!fv_model_meta(m, k)) abort();
        crc = fv_crc32(crc, v, strlen(v));
    }
    fv_model_hash(m, sha);
    return crc ^ sha[0];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static volatile uint32_t sink;
    fv_ctx *ctx = fuzz_ctx(256u << 20);
    fv_model *m;
    if (fv_model_open_memory(ctx, &m, data, size, NULL) == FV_OK) sink = touch(m);
    else if (!fv_ctx_error(ctx)[0]) abort(); /* a failure without a message */
    (void)sink;
    fv_model_close(&m);
    fuzz_check_leaks(ctx);
    return 0;
}
