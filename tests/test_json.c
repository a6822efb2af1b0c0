/* test_json.c - the strict JSON reader and the text buffer of json.c. */
#include "alloc_fail.h"
#include "engine.h"
#include "test.h"

#include <locale.h>

static fv_ctx *ctx;

/* Parse from an exact heap copy, so that the address sanitizer sees any read beyond the end. */
static fv_status parse_n(fv_ctx *c, fv_json_doc **d, const char *text, size_t n, size_t max_nodes)
{
    char *copy = malloc(n ? n : 1);
    memcpy(copy, text, n);
    const fv_status s = fv_json_parse(c, d, copy, n, max_nodes);
    free(copy); /* the document must not point into it */
    return s;
}

static fv_status parse(fv_json_doc **d, const char *text)
{
    return parse_n(ctx, d, text, strlen(text), 0);
}

static const char *const rich =
    " {\"a\" : [1, -2.5e3, true,false , null, \"x\\u00e9\\n\\ud83d\\ude00\\\"\"],\r\n\t\"b\":{},"
    "\"c\":[],\"\":\"\", \"d\\u0065\":{\"a\":0}} ";

static void values_are_read(void)
{
    fv_json_doc *d;
    OK(ctx, parse(&d, rich));
    const fv_json *r = fv_json_root(d);
    CHECK(r->type == FV_JSON_OBJECT && r->count == 5);
    const fv_json *n = fv_json_first(d, fv_json_get(d, r, "a"));
    CHECK(n->type == FV_JSON_NUMBER && n->num == 1 && !strcmp(n->str, "1"));
    n = fv_json_next(d, n);
    CHECK(n->num == -2500 && !strcmp(n->str, "-2.5e3"));
    n = fv_json_next(d, n);
    CHECK(n->type == FV_JSON_BOOL && n->num == 1);
    n = fv_json_next(d, n);
    CHECK(n->type == FV_JSON_BOOL && n->num == 0);
    n = fv_json_next(d, n);
    CHECK(n->type == FV_JSON_NULL);
    n = fv_json_next(d, n);
    CHECK(n->type == FV_JSON_STRING && !strcmp(n->str, "x\xc3\xa9\n\xf0\x9f\x98\x80\""));
    CHECK(n->str_bytes == strlen(n->str) && !fv_json_next(d, n));
    CHECK(!fv_json_first(d, fv_json_get(d, r, "b")) && !fv_json_first(d, fv_json_get(d, r, "c")));
    CHECK(fv_json_get(d, r, "")->str_bytes == 0);
    CHECK(fv_json_get(d, fv_json_get(d, r, "de"), "a")->num == 0);
    CHECK(!fv_json_get(d, r, "zz") && !fv_json_get(d, NULL, "a"));
    fv_json_free(&d);
    CHECK(!d);
    fv_json_free(&d);
}

static void bad_text_is_refused(void)
{
    static const char *const bad[] = {
        "{", "[", "[1", "[1,", "[1,]", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,}", "{a:1}",
        "{1:1}", "01", "-", "+1", ".5", "1.", "1e", "1e+", "0x1", "NaN", "Infinity", "1e999", "tru",
        "nul", "True", "\"", "\"a", "\"\\", "\"\\x\"", "\"\\u12\"", "\"\\u12g4\"", "\"\\ud800\"",
        "\"\\ud800x\"", "\"\\ud800\\u0041\"", "\"\\udc00\"", "\"\\u0000\"", "\"\n\"", "\"\t\"",
        "\"\x80\"", "\"\xc0\xaf\"", "\"\xe0\x80\xaf\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"",
        "\"\xf5\x80\x80\x80\"", "\"\xc3\"", "1 2", "{} x", "[1 2]", "{\"a\" 1}", "'a'", "//",
        "\xef\xbb\xbf{}", "", " ", "{\"a\":1,\"a\":2}", "{\"a\":1,\"b\":3,\"\\u0061\":2}",
        "[{\"k\":{\"x\":1,\"x\":1}}]",
    };
    for (size_t i = 0; i < FV_ARRAY_LEN(bad); i++) {
        fv_json_doc *d;
        const fv_status s = parse(&d, bad[i]);
        CHECK_MSG((s == FV_ERR_FORMAT || s == FV_ERR_TRUNCATED) && !d, "case %zu: %s", i, bad[i]);
        CHECK(strlen(fv_ctx_error(ctx)) > 5);
    }
    fv_json_doc *d;
    CHECK(parse_n(ctx, &d, "\"a\0b\"", 5, 0) == FV_ERR_FORMAT);
    CHECK(fv_json_parse(ctx, &d, NULL, 3, 0) == FV_ERR_ARG);
}

static void every_truncation_is_refused(void)
{
    const size_t end = strlen(rich) - 1; /* without the closing space */
    for (size_t n = 0; n < end; n++) {
        fv_json_doc *d;
        CHECK_MSG(parse_n(ctx, &d, rich, n, 0) == FV_ERR_TRUNCATED
                  || strstr(fv_ctx_error(ctx), "at byte"), "%zu bytes", n);
        CHECK(!d);
    }
}

static void every_bit_flip_is_survived(void)
{
    char text[256];
    const size_t n = strlen(rich);
    memcpy(text, rich, n);
    for (size_t bit = 0; bit < n * 8; bit++) {
        fv_json_doc *d;
        text[bit / 8] ^= (char)(1 << bit % 8);
        if (parse_n(ctx, &d, text, n, 0) == FV_OK) fv_json_free(&d);
        CHECK(!d);
        text[bit / 8] ^= (char)(1 << bit % 8);
    }
}

static void limits_hold(void)
{
    char deep[400];
    fv_json_doc *d;
    memset(deep, '[', 64);
    memset(deep + 64, ']', 64);
    OK(ctx, parse_n(ctx, &d, deep, 128, 0));
    fv_json_free(&d);
    memset(deep, '[', 200);
    CHECK(parse_n(ctx, &d, deep, 200, 0) == FV_ERR_LIMIT && !d);
    OK(ctx, parse_n(ctx, &d, "[1,2,3]", 7, 4));
    fv_json_free(&d);
    CHECK(parse_n(ctx, &d, "[1,2,3]", 7, 3) == FV_ERR_LIMIT);
}

static void integers_are_exact_or_refused(void)
{
    fv_json_doc *d;
    int64_t v;
    OK(ctx, parse(&d, "[0,-0,9223372036854775807,-9223372036854775807,9223372036854775808,"
                      "99999999999999999999,1.0,1e3,\"1\",true]"));
    const fv_json *n = fv_json_first(d, fv_json_root(d));
    const int64_t want[4] = { 0, 0, INT64_MAX, -INT64_MAX };
    for (int i = 0; i < 4; i++, n = fv_json_next(d, n)) CHECK(fv_json_int(n, &v) && v == want[i]);
    for (; n; n = fv_json_next(d, n)) CHECK(!fv_json_int(n, &v));
    CHECK(!fv_json_int(NULL, &v));
    fv_json_free(&d);
}

static void many_members_are_fast_and_checked(void)
{
    fv_text t;
    fv_text_init(&t, ctx);
    for (int i = 0; i < 100000; i++) fv_text_printf(&t, "%c\"name%d\":%d", i ? ',' : '{', i, i);
    const size_t open = t.size;
    fv_text_printf(&t, "}");
    CHECK(t.status == FV_OK);
    fv_json_doc *d;
    OK(ctx, fv_json_parse(ctx, &d, t.data, t.size, 0));
    CHECK(fv_json_root(d)->count == 100000);
    fv_json_free(&d);
    t.size = open;
    fv_text_printf(&t, ",\"name77777\":1}");
    CHECK(fv_json_parse(ctx, &d, t.data, t.size, 0) == FV_ERR_FORMAT);
    CHECK(strstr(fv_ctx_error(ctx), "name77777"));
    fv_text_free(&t);
}

static void strings_round_trip_through_the_writer(void)
{
    const char *s = "a\"b\\c\n\t\x01\x7f \xc3\xa9 \xf0\x9f\x98\x80 /";
    fv_text t;
    fv_text_init(&t, ctx);
    fv_text_json_string(&t, s);
    fv_json_doc *d;
    OK(ctx, fv_json_parse(ctx, &d, t.data, t.size, 0));
    CHECK(!strcmp(fv_json_root(d)->str, s));
    fv_json_free(&d);
    fv_text_free(&t);
    fv_text_json_string(&t, "bad\xff\xc3");
    CHECK(!strcmp(t.data, "\"bad\\ufffd\\ufffd\""));
    fv_text_free(&t);
    CHECK(!t.data && t.size == 0);
}

static void decimal_comma_locales_change_nothing(void)
{
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "fr_FR.utf8",
                                        "de_DE"};
    const char *set = NULL;
    for (size_t i = 0; i < FV_ARRAY_LEN(names) && !set; i++) set = setlocale(LC_ALL, names[i]);
    fv_text t;
    fv_text_init(&t, ctx);
    fv_text_printf(&t, "%.3f", 1.25);
    const bool written = t.data && !strcmp(t.data, "1.250");
    fv_json_doc *d = NULL;
    const fv_status s = parse(&d, "1.25");
    const double v = s == FV_OK ? fv_json_root(d)->num : 0;
    setlocale(LC_ALL, "C");
    fv_json_free(&d);
    fv_text_free(&t);
    CHECK(written && s == FV_OK && v == 1.25);
    if (!set) printf("# no decimal comma locale installed\n");
}

/* ---- Failing allocations --------------------------------------------------------------------- */

static alloc_fail heap = { .left = ALLOC_ALL, .once = true };

static void every_failed_allocation_is_reported(void)
{
    const fv_allocator al = alloc_fail_allocator(&heap);
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.alloc = &al;
    fv_ctx *c;
    heap.left = ALLOC_ALL;
    CHECK(fv_ctx_create(&c, &o) == FV_OK);
    fv_memory_stats before, after;
    fv_ctx_memory(c, &before);
    int k = 0;
    for (;; k++) {
        fv_json_doc *d;
        CHECK(k < 50);
        heap.left = k;
        const fv_status s = parse_n(c, &d, rich, strlen(rich), 0);
        const bool reached = heap.left < 0;
        heap.left = ALLOC_ALL;
        if (s == FV_OK) fv_json_free(&d);
        else CHECK(s == FV_ERR_OOM && !d && strstr(fv_ctx_error(c), "memory"));
        fv_ctx_memory(c, &after);
        CHECK(after.current_bytes == before.current_bytes && (s == FV_OK) == !reached);
        if (!reached) break;
    }
    CHECK(k >= 3);
    heap.left = 0;
    fv_text t;
    fv_text_init(&t, c);
    fv_text_printf(&t, "x");
    fv_text_json_string(&t, "y");
    CHECK(t.status == FV_ERR_OOM && !t.data);
    fv_text_free(&t);
    heap.left = ALLOC_ALL;
    fv_ctx_destroy(&c);
}

int main(void)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(values_are_read);
    RUN(bad_text_is_refused);
    RUN(every_truncation_is_refused);
    RUN(every_bit_flip_is_survived);
    RUN(limits_hold);
    RUN(integers_are_exact_or_refused);
    RUN(many_members_are_fast_and_checked);
    RUN(strings_round_trip_through_the_writer);
    RUN(decimal_comma_locales_change_nothing);
    RUN(every_failed_allocation_is_reported);
    fv_ctx_destroy(&ctx);
    return test_end();
}
