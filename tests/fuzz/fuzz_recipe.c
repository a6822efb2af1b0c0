/* fuzz_recipe.c - recipes from any text; the canonical text must parse to itself. */
#include <stdlib.h>
#include <string.h>

#include "engine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Ask for keys as training does, so that values are read as every type. */
static void ask(fv_recipe *r)
{
    static const char *const keys[] = {"batch",   "data",  "lr",   "preset",
                                       "sources", "split", "steps"};
    for (size_t i = 0; i < FV_ARRAY_LEN(keys); i++) {
        const char *const *items;
        (void)fv_recipe_int(r, keys[i], 1, 0, 1000);
        (void)fv_recipe_number(r, keys[i], 0.5, -1, 1);
        (void)fv_recipe_bool(r, keys[i], 0);
        const int n = fv_recipe_list(r, keys[i], &items);
        for (int k = 0; k < n; k++)
            if (!items[k]) abort();
        if (!fv_recipe_string(r, keys[i], "none")) abort();
    }
}

static void check_round_trip(fv_ctx *ctx, fv_recipe *r)
{
    fv_recipe *again;
    const char *text = fv_recipe_text(r);
    if (!text) abort();
    if (fv_recipe_parse(ctx, &again, text, strlen(text)) != FV_OK) abort();
    if (strcmp(fv_recipe_text(again), text) != 0) abort();
    fv_recipe_close(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.memory_cap_bytes = 64u << 20;
    o.threads = 1;
    fv_ctx *ctx;
    if (size > 1u << 16 || fv_ctx_create(&ctx, &o) != FV_OK) return 0;
    fv_recipe *r;
    if (fv_recipe_parse(ctx, &r, (const char *)data, size) == FV_OK) {
        check_round_trip(ctx, r);
        ask(r);
        check_round_trip(ctx, r);
        char setting[128];
        const size_t n = size < sizeof setting ? size : sizeof setting - 1;
        memcpy(setting, data, n);
        setting[n] = 0;
        if (fv_recipe_set(r, setting) == FV_OK) check_round_trip(ctx, r);
        if (fv_recipe_check(r) != FV_OK && !fv_ctx_error(ctx)[0]) abort();
    } else if (!fv_ctx_error(ctx)[0] || r) {
        abort();
    }
    fv_recipe_close(&r);
    fv_memory_stats st;
    fv_ctx_memory(ctx, &st);
    if (st.current_bytes != 0) abort(); /* a leak */
    fv_ctx_destroy(&ctx);
    return 0;
}
