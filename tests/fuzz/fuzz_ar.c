/* fuzz_ar.c - what is read of generators, draft heads and tokenizers: fv_ar_open, fv_vq_open and
 * fv_ar_convert on any model file, and a few codes drawn by what opens.
 *
 * An input that begins with '{' is a safetensors header alone (fuzz_header.h). */
#include <unistd.h>

#include "fovea_ar.h"
#include "fuzz_header.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MEMORY_CAP ((uint64_t)64 << 20)
#define MAX_RUN_FLOP 3e7
#define MAX_TOKENS 64

/* A failure has a message, and is never an error of our own. */
static bool expected(fv_ctx *ctx, fv_status s)
{
    if (s == FV_ERR_INTERNAL || (s != FV_OK && !fv_ctx_error(ctx)[0])) abort();
    return s == FV_OK;
}

static void draw(fv_ctx *ctx, const fv_ar *a, const fv_ar_info *info)
{
    static int32_t tokens[MAX_TOKENS];
    fv_ar_generate_options o = FV_AR_GENERATE_OPTIONS_INIT;
    if (info->token_flop * info->tokens * 8 > MAX_RUN_FLOP || info->tokens > MAX_TOKENS) return;
    if (info->classes < 1) return;
    if (!expected(ctx, fv_ar_generate_tokens(ctx, a, &o, tokens, NULL))) return;
    for (int i = 0; i < info->tokens; i++)
        if (tokens[i] < 0 || tokens[i] >= info->codes) abort();
}

static void use(fv_ctx *ctx, const fv_ar *a)
{
    fv_ar_info info;
    fv_ar_get_info(a, &info);
    if (info.tokens != info.grid * info.grid || info.codes < 1 || info.layers < 1) abort();
    if (info.has_tokenizer != (info.image_size > 0)) abort();
    for (int i = 0; i < info.classes && i < 100; i++) {
        int k;
        const char *name = fv_ar_class_name(a, i);
        if (!name || fv_ar_class_find(ctx, a, name, &k) == FV_ERR_INTERNAL) abort();
    }
    if (fv_ar_class_name(a, info.classes)) abort();
    draw(ctx, a, &info);
}

/* What was converted is a file of ours: it opens. */
static void convert(fv_ctx *ctx, const fv_model *m)
{
    fv_ar_convert_options o = FV_AR_CONVERT_OPTIONS_INIT;
    char path[64];
    fv_model *made;
    o.type = FV_F32;
    o.overwrite = 1;
    o.grid = 4;
    snprintf(path, sizeof path, "/tmp/fuzz_ar.%ld", (long)getpid());
    if (!expected(ctx, fv_ar_convert(ctx, m, &o, path))) return;
    if (!expected(ctx, fv_model_open(ctx, &made, path, NULL))) abort();
    fv_model_close(&made);
    unlink(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.memory_cap_bytes = MEMORY_CAP;
    o.threads = 1;
    fv_ctx *ctx;
    if (fv_ctx_create(&ctx, &o) != FV_OK) return 0;
    uint8_t *made = NULL;
    if (size > 0 && data[0] == '{') data = made = as_file(ctx, data, size, &size);
    fv_model *m;
    fv_ar *a = NULL;
    fv_vq *v = NULL;
    if (fv_model_open_memory(ctx, &m, data, size, NULL) == FV_OK) {
        if (expected(ctx, fv_ar_open(ctx, &a, m, NULL))) use(ctx, a);
        (void)expected(ctx, fv_vq_open(ctx, &v, m, FV_F32));
        convert(ctx, m);
    }
    fv_vq_close(&v);
    fv_ar_close(&a);
    fv_model_close(&m);
    fv_ctx_destroy(&ctx);
    free(made);
    return 0;
}
