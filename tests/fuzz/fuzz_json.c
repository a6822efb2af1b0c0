/* fuzz_json.c - the JSON reader on any bytes. What it accepts is written again and must be accepted
 * with the same values. */
#include "fuzz_ctx.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void print(const fv_json_doc *d, const fv_json *n, fv_text *t)
{
    int64_t whole;
    const char *comma = "";
    switch (n->type) {
    case FV_JSON_NULL: fv_text_printf(t, "null"); break;
    case FV_JSON_BOOL: fv_text_printf(t, n->num != 0 ? "true" : "false"); break;
    case FV_JSON_NUMBER:
        if (fv_json_int(n, &whole) && whole != 0) fv_text_printf(t, "%lld", (long long)whole);
        else fv_text_printf(t, "%.17g", n->num);
        break;
    case FV_JSON_STRING:
        if (strlen(n->str) != n->str_bytes) abort();
        fv_text_json_string(t, n->str);
        break;
    default:
        fv_text_printf(t, n->type == FV_JSON_ARRAY ? "[" : "{");
        for (const fv_json *c = fv_json_first(d, n); c; c = fv_json_next(d, c)) {
            fv_text_printf(t, "%s", comma);
            comma = ",";
            if (n->type == FV_JSON_OBJECT) {
                fv_text_json_string(t, c->key);
                fv_text_printf(t, ":");
            }
            print(d, c, t);
        }
        fv_text_printf(t, n->type == FV_JSON_ARRAY ? "]" : "}");
    }
}

static void round_trip(fv_ctx *ctx, const fv_json_doc *d)
{
    fv_text a, b;
    fv_json_doc *again;
    fv_text_init(&a, ctx);
    fv_text_init(&b, ctx);
    print(d, fv_json_root(d), &a);
    if (a.status == FV_OK) {
        if (fv_json_parse(ctx, &again, a.data, a.size, 0) != FV_OK) abort();
        print(again, fv_json_root(again), &b);
        if (b.status == FV_OK && (a.size != b.size || memcmp(a.data, b.data, a.size) != 0)) abort();
        fv_json_free(&again);
    }
    fv_text_free(&a);
    fv_text_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fv_ctx *ctx = fuzz_ctx(0);
    fv_json_doc *d;
    if (fv_json_parse(ctx, &d, (const char *)data, size, 0) == FV_OK) round_trip(ctx, d);
    fv_json_free(&d);
    fuzz_check_leaks(ctx);
    return 0;
}
