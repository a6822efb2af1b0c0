/* test_recipe.c - recipes: syntax, typed values, unknown keys, canonical text. */
#include <locale.h>

#include "alloc_fail.h"
#include "engine.h"
#include "test.h"

static fv_ctx *ctx;

static fv_status parse(fv_recipe **r, const char *text)
{
    return fv_recipe_parse(ctx, r, text, strlen(text));
}

static void values_of_each_type(void)
{
    fv_recipe *r;
    const char *const *items;
    OK(ctx,
       parse(&r, "# first\n\n  lr = 3e-4   # peak\r\nsteps=1000\nname = a # b#c \nflip = yes\n"
                 "source = a.tar, b c.tar,,d\nempty =\nnegative = -2\nhash = x#y\nlast = 1.5"));
    CHECK(fv_recipe_number(r, "lr", 1, 0, 1) == 3e-4);
    CHECK(fv_recipe_int(r, "steps", 1, 1, 100000) == 1000);
    CHECK(strcmp(fv_recipe_string(r, "name", "z"), "a") == 0);
    CHECK(strcmp(fv_recipe_string(r, "hash", "z"), "x#y") == 0);
    CHECK(fv_recipe_bool(r, "flip", 0) == 1);
    CHECK(fv_recipe_list(r, "source", &items) == 4);
    CHECK(strcmp(items[0], "a.tar") == 0 && strcmp(items[1], "b") == 0 &&
          strcmp(items[3], "d") == 0);
    CHECK(strcmp(fv_recipe_string(r, "empty", "full"), "") == 0);
    CHECK(fv_recipe_int(r, "negative", 0, -5, 5) == -2);
    CHECK(fv_recipe_number(r, "last", 0, 0, 2) == 1.5);
    OK(ctx, fv_recipe_check(r));
    fv_recipe_close(&r);
    CHECK(r == NULL);
    fv_recipe_close(&r);
}

static void missing_keys_give_the_fallback(void)
{
    fv_recipe *r;
    const char *const *items = (const char *const *)&r;
    OK(ctx, parse(&r, ""));
    CHECK(fv_recipe_number(r, "a", 0.1, 0, 1) == 0.1);
    CHECK(fv_recipe_int(r, "b", 7, 0, 9) == 7);
    CHECK(fv_recipe_bool(r, "c", 1) == 1);
    CHECK(fv_recipe_string(r, "d", NULL) == NULL);
    CHECK(strcmp(fv_recipe_string(r, "e", "text"), "text") == 0);
    CHECK(fv_recipe_list(r, "f", &items) == 0 && items == NULL);
    CHECK(fv_recipe_number(r, "outside", -1, 0, 1) == -1); /* a fallback needs no range */
    OK(ctx, fv_recipe_check(r));
    CHECK(strcmp(fv_recipe_text(r), "a = 0.1\nb = 7\nc = 1\ne = text\noutside = -1\n") == 0);
    fv_recipe_close(&r);
}

static void text_is_sorted_and_parses_to_itself(void)
{
    fv_recipe *r, *q;
    OK(ctx, parse(&r, "z = 1 # one\n a=x y \nm = 0.30000000000000004\n"));
    OK(ctx, fv_recipe_set(r, "z = 2"));
    OK(ctx, fv_recipe_set(r, "new=3"));
    CHECK(fv_recipe_int(r, "z", 0, 0, 5) == 2);
    (void)fv_recipe_number(r, "third", 1.0 / 3, 0, 1);
    const char *text = fv_recipe_text(r);
    CHECK(
        strcmp(text,
               "a = x y\nm = 0.30000000000000004\nnew = 3\nthird = 0.3333333333333333\nz = 2\n") ==
        0);
    OK(ctx, parse(&q, text));
    CHECK(fv_recipe_number(q, "third", 0, 0, 1) == 1.0 / 3);
    CHECK(strcmp(fv_recipe_text(q), text) == 0);
    fv_recipe_close(&r);
    fv_recipe_close(&q);
}

static void setting_replaces_a_list(void)
{
    fv_recipe *r;
    const char *const *items;
    OK(ctx, parse(&r, "source = a b\n"));
    CHECK(fv_recipe_list(r, "source", &items) == 2);
    OK(ctx, fv_recipe_set(r, "source = c"));
    CHECK(fv_recipe_list(r, "source", &items) == 1 && strcmp(items[0], "c") == 0);
    CHECK(fv_recipe_set(r, "nonsense") == FV_ERR_ARG);
    CHECK(fv_recipe_set(r, " = 3") == FV_ERR_ARG);
    CHECK(fv_recipe_set(r, "a=\x01") == FV_ERR_ARG);
    CHECK(fv_recipe_set(r, "a=b #c") == FV_ERR_ARG); /* would be lost in the canonical text */
    CHECK(fv_recipe_set(r, NULL) == FV_ERR_ARG);
    fv_recipe_close(&r);
}

static void unknown_keys_are_named_with_the_nearest(void)
{
    fv_recipe *r;
    OK(ctx, parse(&r, "batch = 3\nwarm_up = 10\n"));
    (void)fv_recipe_int(r, "batch", 1, 1, 10);
    (void)fv_recipe_int(r, "warmup", 1, 0, 10);
    (void)fv_recipe_int(r, "steps", 1, 0, 10);
    CHECK(fv_recipe_check(r) == FV_ERR_UNKNOWN);
    CHECK_MSG(strstr(fv_ctx_error(ctx), "line 2: unknown key warm_up; did you mean warmup?"), "%s",
              fv_ctx_error(ctx));
    fv_recipe_close(&r);
    OK(ctx, parse(&r, "x = 1\n"));
    CHECK(fv_recipe_check(r) == FV_ERR_UNKNOWN);
    fv_recipe_close(&r);
}

static void bad_values_stick(void)
{
    static const char *const bad[] = {"v =",       "v = 1x", "v = nan",  "v = inf", "v = 0x10",
                                      "v = 1e999", "v = 11", "v = -1",   "v = 1,5", "v = 1 2",
                                      "v = e",     "v = +",  "v = maybe"};
    for (size_t i = 0; i < FV_ARRAY_LEN(bad); i++) {
        fv_recipe *r;
        OK(ctx, parse(&r, bad[i]));
        CHECK_MSG(fv_recipe_number(r, "v", 4, 0, 10) == 4, "%s", bad[i]);
        CHECK_MSG(fv_recipe_check(r) == FV_ERR_ARG, "%s", bad[i]);
        (void)fv_fail(ctx, FV_ERR_IO, "something else");
        CHECK(fv_recipe_check(r) == FV_ERR_ARG && strstr(fv_ctx_error(ctx), "line 1"));
        CHECK(strstr(fv_ctx_error(ctx), "from 0 to 10"));
        fv_recipe_close(&r);
        OK(ctx, parse(&r, bad[i]));
        CHECK_MSG(fv_recipe_int(r, "v", 4, 0, 10) == 4, "%s", bad[i]);
        CHECK_MSG(fv_recipe_check(r) == FV_ERR_ARG, "%s", bad[i]);
        fv_recipe_close(&r);
        OK(ctx, parse(&r, bad[i]));
        CHECK_MSG(fv_recipe_bool(r, "v", 1) == 1, "%s", bad[i]);
        CHECK_MSG(fv_recipe_check(r) == FV_ERR_ARG, "%s", bad[i]);
        fv_recipe_close(&r);
    }
    fv_recipe *r;
    OK(ctx, parse(&r, "v = 99999999999999999999\n"));
    CHECK(fv_recipe_int(r, "v", 1, INT64_MIN, INT64_MAX) == 1 && fv_recipe_check(r) == FV_ERR_ARG);
    fv_recipe_close(&r);
}

static void bad_syntax_is_refused_with_its_line(void)
{
    static const char *const bad[] = {
        "a = 1\nwhat\n",         "a = 1\n= 2\n",      "a = 1\na b = 2\n",     "a = 1\na = 2\n",
        "a = 1\n\xc3\xa4 = 2\n", "a = 1\nb = \x7f\n", "a = 1\nb = \x1b[0m\n", "a = 1\nb=#1\n"};
    for (size_t i = 0; i < FV_ARRAY_LEN(bad); i++) {
        fv_recipe *r;
        CHECK_MSG(parse(&r, bad[i]) == FV_ERR_FORMAT && r == NULL, "%zu", i);
        CHECK_MSG(strstr(fv_ctx_error(ctx), "line 2"), "%s", fv_ctx_error(ctx));
    }
    fv_recipe *r;
    char key[80];
    memset(key, 'k', sizeof key);
    memcpy(key + 70, "=1", 3);
    CHECK(parse(&r, key) == FV_ERR_FORMAT);
    CHECK(fv_recipe_parse(ctx, &r, "a=\0", 3) == FV_ERR_FORMAT);
    CHECK(fv_recipe_parse(ctx, &r, "a=\xff", 3) == FV_ERR_FORMAT);
    char *big = calloc(1, 2 << 20);
    CHECK(big);
    memset(big, '\n', 2 << 20);
    CHECK(fv_recipe_parse(ctx, &r, big, 2 << 20) == FV_ERR_LIMIT);
    OK(ctx, fv_recipe_parse(ctx, &r, big, 1 << 20));
    fv_recipe_close(&r);
    char *at = big;
    for (int i = 0; i < 5000; i++) at += sprintf(at, "k%d=\n", i);
    CHECK(fv_recipe_parse(ctx, &r, big, (size_t)(at - big)) == FV_ERR_LIMIT);
    free(big);
    CHECK(fv_recipe_read(ctx, &r, "/nonexistent/recipe") == FV_ERR_NOT_FOUND);
    OK(ctx, parse(&r, "\xef\xbb\xbf"
                      "a = \xc3\xa4\n"));
    CHECK(strcmp(fv_recipe_string(r, "a", ""), "\xc3\xa4") == 0);
    fv_recipe_close(&r);
}

static void any_bytes_are_safe(void)
{
    static const char alphabet[] = "ab=# \n\r\t,1.e-_\xc3\xa4";
    uint64_t seed = 3;
    for (int i = 0; i < 20000; i++) {
        char text[40];
        const size_t n = test_next(&seed) % sizeof text;
        for (size_t k = 0; k < n; k++) text[k] = alphabet[test_next(&seed) % (sizeof alphabet - 1)];
        fv_recipe *r, *q;
        if (fv_recipe_parse(ctx, &r, text, n) != FV_OK) continue;
        const char *const *items;
        (void)fv_recipe_list(r, "a", &items);
        (void)fv_recipe_number(r, "b", 1, 0, 1);
        const char *canonical = fv_recipe_text(r);
        CHECK(parse(&q, canonical) == FV_OK && strcmp(fv_recipe_text(q), canonical) == 0);
        fv_recipe_close(&q);
        fv_recipe_close(&r);
    }
}

static void a_decimal_comma_locale_changes_nothing(void)
{
    static const char *const names[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "de_DE", "fr_FR"};
    size_t i = 0;
    while (i < FV_ARRAY_LEN(names) && !setlocale(LC_NUMERIC, names[i])) i++;
    if (i == FV_ARRAY_LEN(names)) {
        printf("# no locale with a decimal comma here: checked in the C locale only\n");
    }
    fv_recipe *r;
    OK(ctx, parse(&r, "a = 0.5\n"));
    CHECK(fv_recipe_number(r, "a", 0, 0, 1) == 0.5);
    (void)fv_recipe_number(r, "b", 0.25, 0, 1);
    CHECK(strcmp(fv_recipe_text(r), "a = 0.5\nb = 0.25\n") == 0);
    fv_recipe_close(&r);
    setlocale(LC_NUMERIC, "C");
}

static alloc_fail heap;

static void memory_failures_are_reported(void)
{
    const fv_allocator al = alloc_fail_allocator(&heap);
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_ctx *c;
    o.alloc = &al;
    heap.left = 100;
    OK(c, fv_ctx_create(&c, &o));
    int failures = 0;
    for (long n = 0; n < 200; n++) {
        fv_recipe *r;
        const char *const *items;
        heap.left = n;
        fv_status s = fv_recipe_parse(c, &r, "a = 1 2 3\nb = 4\n", 16);
        if (s == FV_OK) {
            (void)fv_recipe_list(r, "a", &items);
            (void)fv_recipe_number(r, "b", 0, 0, 9);
            (void)fv_recipe_string(r, "c", "d");
            s = fv_recipe_set(r, "c = 5");
            (void)fv_recipe_text(r);
            if (s == FV_OK) s = fv_recipe_check(r);
        }
        fv_recipe_close(&r);
        if (s == FV_OK) break;
        CHECK_MSG(s == FV_ERR_OOM, "allocation %ld: %s", n, fv_status_name(s));
        failures++;
    }
    CHECK(failures > 10);
    fv_memory_stats m;
    fv_ctx_memory(c, &m);
    fv_ctx_destroy(&c);
}

int main(void)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(values_of_each_type);
    RUN(missing_keys_give_the_fallback);
    RUN(text_is_sorted_and_parses_to_itself);
    RUN(setting_replaces_a_list);
    RUN(unknown_keys_are_named_with_the_nearest);
    RUN(bad_values_stick);
    RUN(bad_syntax_is_refused_with_its_line);
    RUN(any_bytes_are_safe);
    RUN(a_decimal_comma_locale_changes_nothing);
    RUN(memory_failures_are_reported);
    fv_ctx_destroy(&ctx);
    return test_end();
}
