/* fuzz_dit.c - fv_dit_open on any model file, and one short run of what it opens.
 *
 * An input that begins with '{' is a safetensors header alone (fuzz_header.h). */
#include "fovea_diffusion.h"
#include "fuzz_header.h"

static void open_and_use(fv_ctx *ctx, fv_model *m)
{
    fv_dit *d = NULL;
    if (fv_dit_open(ctx, &d, m, NULL) == FV_OK) use(ctx, d);
    else if (!fv_ctx_error(ctx)[0]) abort(); /* a failure without a message */
    fv_dit_close(&d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return fuzz_model(data, size, MEMORY_CAP, open_and_use);
}
