/* fuzz_ar.c - what is read of generators, draft heads and tokenizers: fv_ar_open, fv_vq_open and
 * fv_ar_convert on any model file, and a few codes drawn by what opens.
 *
 * An input that begins with '{' is a safetensors header alone (fuzz_header.h). */
#include <unistd.h>

#include "fovea_ar.h"
#include "fuzz_header.h"

static void open_and_use(fv_ctx *ctx, fv_model *m)
{
    fv_ar *a = NULL;
    fv_vq *v = NULL;
    if (expected(ctx, fv_ar_open(ctx, &a, m, NULL))) use(ctx, a);
    (void)expected(ctx, fv_vq_open(ctx, &v, m, FV_F32));
    convert(ctx, m);
    fv_vq_close(&v);
    fv_ar_close(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return fuzz_model(data, size, MEMORY_CAP, open_and_use);
}
