/* golden_parity.h - what the parity tests share: golden files of tests/parity, and the run over the
 * CPU variants. */
#ifndef GOLDEN_PARITY_H
#define GOLDEN_PARITY_H

#include "engine.h"
#include "test.h"

static fv_ctx *ctx;
static const char *variant;

static inline fv_model *open_golden(const char *name)
{
    char path[512];
    fv_model *m = NULL;
    snprintf(path, sizeof path, FV_TEST_DIR "/parity/%s.safetensors", name);
    if (fv_model_open(ctx, &m, path, NULL) != FV_OK) {
        printf("# %s\n", fv_ctx_error(ctx));
        exit(1);
    }
    return m;
}

static inline fv_tensor golden_tensor(const fv_model *m, const char *name)
{
    fv_tensor t;
    if (!fv_model_find(m, name, &t)) {
        printf("# golden value %s is missing\n", name);
        exit(1);
    }
    return t;
}

/* All tests with each CPU variant, as `variant` and the features of `ctx`. */
static inline int parity_main(void (*tests)(void))
{
    static const struct {
        const char *name;
        uint32_t disable;
    } variants[] = {
        {"all features", 0},
        {"AVX2", FV_CPU_AVX512 | FV_CPU_AVX512VNNI | FV_CPU_AVX512BF16},
        {"plain C", FV_CPU_AVX2 | FV_CPU_AVX512 | FV_CPU_AVX512VNNI | FV_CPU_AVX512BF16},
    };
    for (size_t i = 0; i < FV_ARRAY_LEN(variants); i++) {
        fv_ctx_options o = FV_CTX_OPTIONS_INIT;
        o.cpu_disable = variants[i].disable;
        o.threads = i == 0 ? 2 : 1;
        variant = variants[i].name;
        printf("# %s\n", variant);
        if (fv_ctx_create(&ctx, &o) != FV_OK) return 1;
        tests();
        fv_ctx_destroy(&ctx);
    }
    return test_end();
}

#endif
