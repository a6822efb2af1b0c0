/* fuzz_recipe.c - recipes from any text; the canonical text must parse to itself. */
#include <stdlib.h>
#include <string.h>

#include "fuzz_ctx.h"

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
    if (size > 1u << 16) return 0;
    fv_ctx *ctx = fuzz_ctx(64u << 20);
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
    fuzz_check_leaks(ctx);
    return 0;
}
