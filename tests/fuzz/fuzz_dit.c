/* fuzz_dit.c - fv_dit_open on any model file, and one short run of what it opens.
 *
 * An input that begins with '{' is a safetensors header alone (fuzz_header.h). */
#include "fovea_diffusion.h"
#include "fuzz_header.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MEMORY_CAP ((uint64_t)64 << 20)
#define MAX_RUN_FLOP 3e7
#define MAX_STATE 4096

static void use(fv_ctx *ctx, const fv_dit *d)
{
    fv_dit_info info;
    fv_dit_get_info(d, &info);
    if (info.classes < 1 || info.tokens < 1 || info.image_size < info.input_size) abort();
    for (int i = 0; i < info.classes && i < 100; i++) {
        int k;
        const char *name = fv_dit_class_name(d, i);
        if (!name || fv_dit_class_find(ctx, d, name, &k) == FV_ERR_INTERNAL) abort();
    }
    if (fv_dit_class_name(d, info.classes)) abort();
    const int64_t n = (int64_t)info.input_size * info.input_size * info.channels;
    if (info.step_flop > MAX_RUN_FLOP || n > MAX_STATE || info.image_size > 256) return;
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    fv_image img;
    o.steps = 2;
    const fv_status s = fv_generate(ctx, d, &o, &img, NULL);
    if (s == FV_ERR_INTERNAL || (s != FV_OK && (img.pixels || !fv_ctx_error(ctx)[0]))) abort();
    fv_image_free(ctx, &img);
}

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
