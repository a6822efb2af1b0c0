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

/* How is chosen by the hash of the file. */
static void draw(fv_ctx *ctx, const fv_ar *a, const fv_ar_info *info)
{
    static const fv_dtype kv[] = {FV_F32, FV_BF16, FV_I8};
    static int32_t tokens[2 * MAX_TOKENS];
    fv_ar_generate_options o = FV_AR_GENERATE_OPTIONS_INIT;
    fv_ar_expert e = FV_AR_EXPERT_INIT;
    o.mode = (fv_ar_mode)(info->hash[0] % 5);
    o.count = 1 + info->hash[1] % 2;
    o.kv = kv[info->hash[2] % 3];
    o.expert = &e;
    e.rule = (fv_ar_rule)(info->hash[3] % 5);
    e.interval = 2;
    if (info->token_flop * info->tokens * 8 > MAX_RUN_FLOP || info->tokens > MAX_TOKENS) return;
    if (info->classes < 1) return;
    if (!expected(ctx, fv_ar_generate_tokens(ctx, a, &o, tokens, NULL))) return;
    for (int i = 0; i < o.count * info->tokens; i++)
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
