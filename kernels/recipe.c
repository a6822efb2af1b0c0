/* recipe.c - settings of a training run, as text.
 *
 *     # a comment
 *     lr     = 3e-4        # text after " #" is a comment too
 *     source = a.tar, b.tar
 *
 * A program asks for each key it knows with a fallback; that both types the value and marks the key
 * as known. fv_recipe_check then reports the first bad value, or a key that nobody asked for (a
 * typing error must not silently train with a default). The text of all keys in effect, sorted and
 * with the fallbacks, is stored in checkpoints and compared when a run goes on.
 *
 * Failures stick in the recipe, so that a program reads all its settings and checks once. */
#define _XOPEN_SOURCE 700 /* newlocale */
#include "recipe.h"
#include "utf8.h"

#include <errno.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BYTES ((size_t)1 << 20)
#define MAX_KEY 63
#define MAX_ENTRIES 4096

typedef struct entry {
    char *key, *value; /* value NULL: asked for, not set, no fallback */
    char **items;      /* of fv_recipe_list: pointers into items_text */
    char *items_text;
    int item_count;
    int line; /* where it stands in the text; 0 = set by fv_recipe_set or a fallback */
    bool given, asked;
} entry;

struct fv_recipe {
    fv_ctx *ctx;
    entry *e;
    int count, capacity;
    fv_status status;
    char message[256];
    char *text; /* of fv_recipe_text */
};

/* ---- Entries --------------------------------------------------------------------------------- */

static fv_status keep_failure(fv_recipe *r, fv_status s)
{
    if (r->status != FV_OK) return r->status;
    r->status = s;
    snprintf(r->message, sizeof r->message, "%s", fv_ctx_error(r->ctx));
    return s;
}

static entry *find(fv_recipe *r, const char *key)
{
    for (int i = 0; i < r->count; i++)
        if (strcmp(r->e[i].key, key) == 0) return &r->e[i];
    return NULL;
}

static entry *add(fv_recipe *r, const char *key)
{
    if (r->count == r->capacity) {
        const int cap = r->capacity ? 2 * r->capacity : 32;
        entry *e = fv_realloc(r->ctx, r->e, (size_t)r->count * sizeof *e, (size_t)cap * sizeof *e);
        if (!e) return NULL;
        r->e = e;
        r->capacity = cap;
    }
    entry *e = &r->e[r->count];
    memset(e, 0, sizeof *e);
    e->key = fv_strdup(r->ctx, key);
    if (!e->key) return NULL;
    r->count++;
    return e;
}

static fv_status set_value(fv_recipe *r, entry *e, const char *value)
{
    char *copy = fv_strdup(r->ctx, value);
    if (!copy) return FV_ERR_OOM;
    fv_free(r->ctx, e->value);
    fv_free(r->ctx, e->items);
    fv_free(r->ctx, e->items_text);
    e->items = NULL;
    e->items_text = NULL;
    e->value = copy;
    return FV_OK;
}

void fv_recipe_close(fv_recipe **recipe)
{
    if (!recipe || !*recipe) return;
    fv_recipe *r = *recipe;
    fv_ctx *ctx = r->ctx;
    *recipe = NULL;
    for (int i = 0; i < r->count; i++) {
        fv_free(ctx, r->e[i].key);
        fv_free(ctx, r->e[i].value);
        fv_free(ctx, r->e[i].items);
        fv_free(ctx, r->e[i].items_text);
    }
    fv_free(ctx, r->e);
    fv_free(ctx, r->text);
    fv_free(ctx, r);
}

/* ---- Parsing --------------------------------------------------------------------------------- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static bool is_key_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
}

static char *trim(char *s)
{
    while (is_space(*s)) s++;
    size_t n = strlen(s);
    while (n > 0 && is_space(s[n - 1])) n--;
    s[n] = 0;
    return s;
}

/* Cut "key = value" (no line end, writable) in two. */
static fv_status split_line(fv_recipe *r, char *line, const char *where, char **key, char **value)
{
    char *eq = strchr(line, '=');
    if (!eq) {
        return fv_fail(r->ctx, FV_ERR_FORMAT, "%s: \"%.60s\" is not of the form key = value", where,
                       line);
    }
    *eq = 0;
    *key = trim(line);
    *value = trim(eq + 1);
    size_t n = 0;
    while (is_key_char((*key)[n])) n++;
    if (n == 0 || (*key)[n] != 0 || n > MAX_KEY) {
        return fv_fail(r->ctx, FV_ERR_FORMAT,
                       "%s: \"%.60s\" is not a key (letters, digits, _ - . up to %d)", where, *key,
                       MAX_KEY);
    }
    for (const char *c = *value; *c; c++) {
        if (*c == '#' && (c == *value || is_space(c[-1]))) {
            return fv_fail(r->ctx, FV_ERR_FORMAT,
                           "%s: the value of %s must not have a word that begins "
                           "with #, which is a comment",
                           where, *key);
        }
        if (((unsigned char)*c >= 0x20 && *c != 0x7f) || *c == '\t') continue;
        return fv_fail(r->ctx, FV_ERR_FORMAT, "%s: the value of %s has a control character", where,
                       *key);
    }
    return FV_OK;
}

static fv_status parse_line(fv_recipe *r, char *line, int number)
{
    char where[48];
    snprintf(where, sizeof where, "recipe line %d", number);
    for (char *c = line; *c; c++) {
        if (*c != '#' || (c > line && !is_space(c[-1]))) continue;
        *c = 0;
        break;
    }
    char *s = trim(line), *key, *value;
    if (*s == 0) return FV_OK;
    FV_TRY(split_line(r, s, where, &key, &value));
    const entry *old = find(r, key);
    if (old) {
        return fv_fail(r->ctx, FV_ERR_FORMAT, "%s: %s was already set in line %d; remove one",
                       where, key, old->line);
    }
    if (r->count >= MAX_ENTRIES)
        return fv_fail(r->ctx, FV_ERR_LIMIT, "%s: more than %d keys", where, MAX_ENTRIES);
    entry *e = add(r, key);
    if (!e) return FV_ERR_OOM;
    e->line = number;
    e->given = true;
    return set_value(r, e, value);
}

static fv_status parse_text(fv_recipe *r, char *text)
{
    int number = 1;
    for (char *line = text; line; number++) {
        char *end = strchr(line, '\n');
        if (end) *end = 0;
        FV_TRY(parse_line(r, line, number));
        line = end ? end + 1 : NULL;
    }
    return FV_OK;
}

fv_status fv_recipe_parse(fv_ctx *ctx, fv_recipe **out, const char *text, size_t size)
{
    *out = NULL;
    if (!text && size) return fv_fail(ctx, FV_ERR_ARG, "recipe: text is NULL");
    if (size > MAX_BYTES)
        return fv_fail(ctx, FV_ERR_LIMIT, "recipe: larger than %zu bytes", MAX_BYTES);
    if (size && (memchr(text, 0, size) || !fvi_utf8_valid(text, size)))
        return fv_fail(ctx, FV_ERR_FORMAT, "recipe: not a UTF-8 text file");
    if (size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) { /* byte order mark of some editors */
        text += 3;
        size -= 3;
    }
    fv_recipe *r = fv_calloc(ctx, 1, sizeof *r);
    char *copy = fv_alloc(ctx, size + 1);
    fv_status s = FV_ERR_OOM;
    if (r) r->ctx = ctx;
    if (!r || !copy) goto fail;
    if (size) memcpy(copy, text, size);
    copy[size] = 0;
    FV_TRY_GOTO(parse_text(r, copy));
    fv_free(ctx, copy);
    *out = r;
    return FV_OK;
fail:
    fv_free(ctx, copy);
    fv_recipe_close(&r);
    return s;
}

fv_status fv_recipe_read(fv_ctx *ctx, fv_recipe **out, const char *path)
{
    uint8_t *bytes;
    size_t size;
    *out = NULL;
    FV_TRY(fv_read_file(ctx, path, MAX_BYTES, &bytes, &size));
    const fv_status s = fv_recipe_parse(ctx, out, (const char *)bytes, size);
    fv_free(ctx, bytes);
    return s == FV_OK ? s : fv_fail_in(ctx, s, "%s", path);
}

fv_status fv_recipe_set(fv_recipe *r, const char *key_equals_value)
{
    if (!key_equals_value) return fv_fail(r->ctx, FV_ERR_ARG, "recipe: nothing to set");
    const size_t n = strlen(key_equals_value);
    if (n > MAX_BYTES || !fvi_utf8_valid(key_equals_value, n))
        return fv_fail(r->ctx, FV_ERR_ARG, "recipe: the setting is not UTF-8 text");
    char *copy = fv_strdup(r->ctx, key_equals_value), *key, *value;
    if (!copy) return FV_ERR_OOM;
    fv_status s = split_line(r, copy, "setting", &key, &value);
    if (s == FV_ERR_FORMAT) s = FV_ERR_ARG; /* the caller's, not a file's */
    if (s == FV_OK) {
        entry *e = find(r, key);
        if (!e) e = add(r, key);
        s = e ? set_value(r, e, value) : FV_ERR_OOM;
        if (s == FV_OK) {
            e->line = 0;
            e->given = true;
        }
    }
    fv_free(r->ctx, copy);
    return s;
}

/* ---- Asking ---------------------------------------------------------------------------------- */

/* The entry of key, marked as known; a missing one is made and gets the fallback. NULL: no memory.
 */
static entry *ask(fv_recipe *r, const char *key, const char *fallback)
{
    entry *e = find(r, key);
    if (!e) e = add(r, key);
    if (!e) goto fail;
    e->asked = true;
    if (!e->value && fallback && set_value(r, e, fallback) != FV_OK) goto fail;
    return e;
fail:
    keep_failure(r, FV_ERR_OOM);
    return NULL;
}

const char *fv_recipe_string(fv_recipe *r, const char *key, const char *fallback)
{
    const entry *e = ask(r, key, fallback);
    return e ? e->value : fallback;
}

static void bad_value(fv_recipe *r, const entry *e, const char *expected)
{
    char line[32] = "";
    if (e->line) snprintf(line, sizeof line, " (line %d)", e->line);
    keep_failure(r, fv_fail(r->ctx, FV_ERR_ARG, "recipe%s: %s = %.60s: %s", line, e->key, e->value,
                            expected));
}

bool fvi_parse_number(const char *s, double *out)
{
    /* no hex, inf, nan, spaces */
    if (*s == 0 || s[strspn(s, "+-0123456789.eE")] != 0) return false;
    const locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    const locale_t old = c != (locale_t)0 ? uselocale(c) : (locale_t)0;
    char *end;
    *out = strtod(s, &end);
    if (c != (locale_t)0) {
        uselocale(old);
        freelocale(c);
    }
    return end != s && *end == 0 && *out - *out == 0;
}

/* Shortest text that reads back as v. */
static void number_text(fv_ctx *ctx, double v, char *out, size_t size)
{
    for (int digits = 6; digits <= 17; digits++) {
        fv_text t;
        double back;
        fv_text_init(&t, ctx);
        fv_text_printf(&t, "%.*g", digits, v);
        snprintf(out, size, "%s", t.status == FV_OK ? t.data : "0");
        fv_text_free(&t);
        if (fvi_parse_number(out, &back) && back == v) return;
    }
}

double fv_recipe_number(fv_recipe *r, const char *key, double fallback, double lo, double hi)
{
    char text[64], expected[96];
    number_text(r->ctx, fallback, text, sizeof text);
    const entry *e = ask(r, key, text);
    double v;
    if (!e || !e->given) return fallback;
    if (fvi_parse_number(e->value, &v) && v >= lo && v <= hi) return v;
    snprintf(expected, sizeof expected, "expected a number from %g to %g", lo, hi);
    bad_value(r, e, expected);
    return fallback;
}

int64_t fv_recipe_int(fv_recipe *r, const char *key, int64_t fallback, int64_t lo, int64_t hi)
{
    char text[32], expected[96];
    snprintf(text, sizeof text, "%lld", (long long)fallback);
    const entry *e = ask(r, key, text);
    if (!e || !e->given) return fallback;
    char *end;
    errno = 0;
    const long long v = strtoll(e->value, &end, 10);
    if (end != e->value && *end == 0 && errno == 0 && !is_space(e->value[0]) && v >= lo && v <= hi)
        return v;
    snprintf(expected, sizeof expected, "expected a whole number from %lld to %lld", (long long)lo,
             (long long)hi);
    bad_value(r, e, expected);
    return fallback;
}

int fv_recipe_bool(fv_recipe *r, const char *key, int fallback)
{
    static const char *const names[2][4] = {{"0", "no", "off", "false"},
                                            {"1", "yes", "on", "true"}};
    const entry *e = ask(r, key, fallback ? "1" : "0");
    if (!e || !e->given) return fallback != 0;
    for (int v = 0; v < 2; v++)
        for (int i = 0; i < 4; i++)
            if (strcmp(e->value, names[v][i]) == 0) return v;
    bad_value(r, e, "expected yes or no");
    return fallback != 0;
}

static bool is_separator(char c)
{
    return is_space(c) || c == ',';
}

static bool split_items(fv_recipe *r, entry *e)
{
    const size_t n = strlen(e->value);
    e->item_count = 0;
    e->items_text = fv_strdup(r->ctx, e->value);
    e->items = fv_calloc(r->ctx, n / 2 + 1, sizeof *e->items);
    if (!e->items_text || !e->items) return false;
    for (char *s = e->items_text; *s;) {
        while (is_separator(*s)) *s++ = 0;
        if (*s == 0) break;
        e->items[e->item_count++] = s;
        while (*s && !is_separator(*s)) s++;
    }
    return true;
}

int fv_recipe_list(fv_recipe *r, const char *key, const char *const **items)
{
    *items = NULL;
    entry *e = ask(r, key, NULL);
    if (!e || !e->value) return 0;
    if (!e->items && !split_items(r, e)) {
        fv_free(r->ctx, e->items);
        fv_free(r->ctx, e->items_text);
        e->items = NULL;
        e->items_text = NULL;
        keep_failure(r, FV_ERR_OOM);
        return 0;
    }
    *items = (const char *const *)e->items;
    return e->item_count;
}

/* ---- Checking -------------------------------------------------------------------------------- */

/* Edit distance (Levenshtein) of two keys. */
static int distance(const char *a, const char *b)
{
    int row[MAX_KEY + 2];
    const int na = (int)strlen(a), nb = (int)strlen(b);
    if (na > MAX_KEY || nb > MAX_KEY) return MAX_KEY;
    for (int j = 0; j <= nb; j++) row[j] = j;
    for (int i = 1; i <= na; i++) {
        int corner = row[0];
        row[0] = i;
        for (int j = 1; j <= nb; j++) {
            int best = corner + (a[i - 1] != b[j - 1]);
            corner = row[j];
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[nb];
}

static fv_status unknown_key(fv_recipe *r, const entry *e)
{
    const char *near = NULL;
    int best = MAX_KEY;
    for (int i = 0; i < r->count; i++) {
        const int d = r->e[i].asked ? distance(e->key, r->e[i].key) : MAX_KEY;
        if (d >= best) continue;
        best = d;
        near = r->e[i].key;
    }
    char line[32] = "";
    if (e->line) snprintf(line, sizeof line, " line %d", e->line);
    if (!near) return fv_fail(r->ctx, FV_ERR_UNKNOWN, "recipe%s: unknown key %s", line, e->key);
    return fv_fail(r->ctx, FV_ERR_UNKNOWN, "recipe%s: unknown key %s; did you mean %s?", line,
                   e->key, near);
}

fv_status fvi_recipe_status(const fv_recipe *r) { return r->status; }

fv_status fv_recipe_check(fv_recipe *r)
{
    if (r->status != FV_OK) return fv_fail(r->ctx, r->status, "%s", r->message);
    for (int i = 0; i < r->count; i++)
        if (!r->e[i].asked) return unknown_key(r, &r->e[i]);
    return FV_OK;
}

static int by_key(const void *a, const void *b)
{
    const entry *const *x = a, *const *y = b;
    return strcmp((*x)->key, (*y)->key);
}

const char *fv_recipe_text(fv_recipe *r)
{
    const entry **order = fv_calloc(r->ctx, (size_t)r->count + 1, sizeof *order);
    fv_text t;
    fv_text_init(&t, r->ctx);
    if (!order) goto fail;
    for (int i = 0; i < r->count; i++) order[i] = &r->e[i];
    qsort(order, (size_t)r->count, sizeof *order, by_key);
    fv_text_printf(&t, "%s", "");
    for (int i = 0; i < r->count; i++)
        if (order[i]->value) fv_text_printf(&t, "%s = %s\n", order[i]->key, order[i]->value);
    if (t.status != FV_OK || !t.data) goto fail;
    fv_free(r->ctx, order);
    fv_free(r->ctx, r->text);
    r->text = t.data;
    return r->text;
fail:
    keep_failure(r, FV_ERR_OOM);
    fv_free(r->ctx, order);
    fv_text_free(&t);
    return "";
}
