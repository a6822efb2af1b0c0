/* json.c - strict JSON reader (RFC 8259) and a growing text buffer that writes JSON.
 *
 * The reader is made for headers of model files, which may come from anyone: every limit is checked
 * while parsing, and cost is O(n log n) for any input (duplicate names are found by sorting, not by
 * hashing, so there is no flood of collisions).
 *
 * One array of nodes, one arena for all text. The arena needs size + 1 bytes: an unescaped string
 * with its NUL is never longer than its quoted source, and a number's NUL takes the place of the
 * delimiter after it (or of the end of the text). So text never moves and nodes may point into it.
 *
 * Numbers are read and written in the "C" locale: the host application may use a decimal comma. */
#include "engine.h"
#include "utf8.h"

#include <locale.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 64
#define DEFAULT_MAX_NODES 8000000u

struct fv_json_doc {
    fv_ctx *ctx;
    fv_json *node;
    size_t count, capacity;
    char *arena;
};

typedef struct parser {
    fv_json_doc *doc;
    const uint8_t *text;
    size_t size, at, max_nodes;
    char *end; /* free part of the arena */
    int depth;
} parser;

static fv_status parse_value(parser *p, uint32_t *index, const char *key);

static fv_status fail_at(parser *p, const char *what)
{
    if (p->at >= p->size) {
        return fv_fail(p->doc->ctx, FV_ERR_TRUNCATED, "json: text ends after %zu bytes where %s",
                       p->size, what);
    }
    return fv_fail(p->doc->ctx, FV_ERR_FORMAT, "json: %s at byte %zu", what, p->at);
}

static void skip_space(parser *p)
{
    while (p->at < p->size) {
        const uint8_t c = p->text[p->at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t') return;
        p->at++;
    }
}

static bool take(parser *p, char c)
{
    if (p->at >= p->size || p->text[p->at] != (uint8_t)c) return false;
    p->at++;
    return true;
}

static fv_status add_node(parser *p, uint32_t *index)
{
    fv_json_doc *d = p->doc;
    if (d->count >= p->max_nodes) {
        return fv_fail(d->ctx, FV_ERR_LIMIT, "json: more than %zu values", p->max_nodes);
    }
    if (d->count == d->capacity) {
        const size_t cap = d->capacity ? d->capacity * 2 : 64;
        fv_json *n = fv_realloc(d->ctx, d->node, d->count * sizeof *n, cap * sizeof *n);
        if (!n) return FV_ERR_OOM;
        d->node = n;
        d->capacity = cap;
    }
    memset(&d->node[d->count], 0, sizeof d->node[0]);
    *index = (uint32_t)d->count++;
    return FV_OK;
}

/* ---- Strings --------------------------------------------------------------------------------- */

static bool read_hex4(parser *p, uint32_t *out)
{
    if (p->size - p->at < 4) return false;
    uint32_t v = 0;
    for (int i = 0; i < 4; i++) {
        const uint8_t c = p->text[p->at + (size_t)i];
        uint32_t d;
        if (c >= '0' && c <= '9') d = c - '0';
        else if (c >= 'a' && c <= 'f') d = c - 'a' + 10u;
        else if (c >= 'A' && c <= 'F') d = c - 'A' + 10u;
        else return false;
        v = v << 4 | d;
    }
    p->at += 4;
    *out = v;
    return true;
}

static char *put_utf8(char *w, uint32_t c)
{
    if (c < 0x80) {
        *w++ = (char)c;
    } else if (c < 0x800) {
        *w++ = (char)(0xc0 | c >> 6);
        *w++ = (char)(0x80 | (c & 63));
    } else if (c < 0x10000) {
        *w++ = (char)(0xe0 | c >> 12);
        *w++ = (char)(0x80 | (c >> 6 & 63));
        *w++ = (char)(0x80 | (c & 63));
    } else {
        *w++ = (char)(0xf0 | c >> 18);
        *w++ = (char)(0x80 | (c >> 12 & 63));
        *w++ = (char)(0x80 | (c >> 6 & 63));
        *w++ = (char)(0x80 | (c & 63));
    }
    return w;
}

/* After the backslash. */
static fv_status parse_escape(parser *p, char **w)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (p->at >= p->size) return fail_at(p, "an escape is open");
    const uint8_t c = p->text[p->at];
    if (c != 'u') {
        const char *hit = c ? strchr(from, c) : NULL;
        if (!hit) return fail_at(p, "unknown escape");
        *(*w)++ = to[hit - from];
        p->at++;
        return FV_OK;
    }
    p->at++;
    uint32_t v, low;
    if (!read_hex4(p, &v)) return fail_at(p, "bad \\u escape");
    if (v == 0) return fail_at(p, "NUL in a string");
    if (v >= 0xdc00 && v <= 0xdfff) return fail_at(p, "lone surrogate");
    if (v >= 0xd800 && v <= 0xdbff) {
        if (!take(p, '\\') || !take(p, 'u') || !read_hex4(p, &low) || low < 0xdc00
            || low > 0xdfff) {
            return fail_at(p, "lone surrogate");
        }
        v = 0x10000 + ((v - 0xd800) << 10 | (low - 0xdc00));
    }
    *w = put_utf8(*w, v);
    return FV_OK;
}

/* After the opening quote. */
static fv_status parse_string(parser *p, const char **out, size_t *bytes)
{
    char *const start = p->end, *w = start;
    for (;;) {
        if (p->at >= p->size) return fail_at(p, "a string is open");
        const uint8_t c = p->text[p->at];
        if (c == '"') break;
        if (c < 0x20) return fail_at(p, "control character in a string");
        if (c == '\\') {
            p->at++;
            FV_TRY(parse_escape(p, &w));
            continue;
        }
        const size_t k = fvi_utf8_step(p->text + p->at, p->size - p->at);
        if (k == 0) return fail_at(p, "bad UTF-8");
        memcpy(w, p->text + p->at, k);
        w += k;
        p->at += k;
    }
    p->at++;
    *out = start;
    *bytes = (size_t)(w - start);
    *w++ = 0;
    p->end = w;
    return FV_OK;
}

/* ---- Numbers and words ----------------------------------------------------------------------- */

static size_t count_digits(const parser *p, size_t at)
{
    size_t n = 0;
    while (at + n < p->size && p->text[at + n] >= '0' && p->text[at + n] <= '9') n++;
    return n;
}

/* strtod with the number's own decimal point; the locale is this thread's and is put back. */
static double to_double(const char *literal)
{
    const locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (c == (locale_t)0) return strtod(literal, NULL);
    const locale_t old = uselocale(c);
    const double v = strtod(literal, NULL);
    uselocale(old);
    freelocale(c);
    return v;
}

static fv_status parse_number(parser *p, fv_json *n)
{
    size_t at = p->at;
    if (p->text[at] == '-') at++;
    const size_t whole = count_digits(p, at);
    if (whole == 0 || (whole > 1 && p->text[at] == '0')) return fail_at(p, "bad number");
    at += whole;
    bool simple = whole <= 15;
    if (at < p->size && p->text[at] == '.') {
        const size_t k = count_digits(p, at + 1);
        if (k == 0) return fail_at(p, "bad number");
        at += 1 + k;
        simple = false;
    }
    if (at < p->size && (p->text[at] == 'e' || p->text[at] == 'E')) {
        at++;
        if (at < p->size && (p->text[at] == '+' || p->text[at] == '-')) at++;
        const size_t k = count_digits(p, at);
        if (k == 0) return fail_at(p, "bad number");
        at += k;
        simple = false;
    }
    n->str = p->end;
    n->str_bytes = at - p->at;
    memcpy(p->end, p->text + p->at, n->str_bytes);
    p->end[n->str_bytes] = 0;
    p->end += n->str_bytes + 1;
    n->type = FV_JSON_NUMBER;
    if (simple) { /* below 2^53: exact, and most numbers of a header are such */
        int64_t v = 0;
        for (size_t i = p->text[p->at] == '-'; i < n->str_bytes; i++)
            v = v * 10 + (n->str[i] - '0');
        n->num = n->str[0] == '-' ? -(double)v : (double)v;
    } else {
        n->num = to_double(n->str);
    }
    if (!(n->num - n->num == 0)) return fail_at(p, "number beyond double range");
    p->at = at;
    return FV_OK;
}

static bool take_word(parser *p, const char *word)
{
    const size_t n = strlen(word);
    if (p->size - p->at < n || memcmp(p->text + p->at, word, n) != 0) return false;
    p->at += n;
    return true;
}

static fv_status parse_scalar(parser *p, fv_json *n)
{
    const uint8_t c = p->text[p->at];
    if (c == '"') {
        p->at++;
        n->type = FV_JSON_STRING;
        return parse_string(p, &n->str, &n->str_bytes);
    }
    if (c == '-' || (c >= '0' && c <= '9')) return parse_number(p, n);
    n->type = FV_JSON_BOOL;
    if (take_word(p, "true")) {
        n->num = 1;
        return FV_OK;
    }
    if (take_word(p, "false")) return FV_OK;
    n->type = FV_JSON_NULL;
    return take_word(p, "null") ? FV_OK : fail_at(p, "a value is expected");
}

/* ---- Arrays and objects ---------------------------------------------------------------------- */

static fv_status parse_member_key(parser *p, const char **key)
{
    size_t bytes;
    skip_space(p);
    if (!take(p, '"')) return fail_at(p, "a member name is expected");
    FV_TRY(parse_string(p, key, &bytes));
    skip_space(p);
    return take(p, ':') ? FV_OK : fail_at(p, "':' is expected");
}

/* After the opening bracket; self is the container's index (the node array may move). */
static fv_status parse_children(parser *p, uint32_t self, bool is_object)
{
    const char close = is_object ? '}' : ']';
    uint32_t last = 0;
    skip_space(p);
    if (take(p, close)) return FV_OK;
    for (;;) {
        const char *key = NULL;
        uint32_t child;
        if (is_object) FV_TRY(parse_member_key(p, &key));
        FV_TRY(parse_value(p, &child, key));
        fv_json *const node = p->doc->node;
        if (last) node[last].next = child;
        else node[self].first_child = child;
        node[self].count++;
        last = child;
        skip_space(p);
        if (take(p, ',')) continue;
        if (take(p, close)) return FV_OK;
        return fail_at(p, "',' or a closing bracket is expected");
    }
}

static fv_status parse_value(parser *p, uint32_t *index, const char *key)
{
    skip_space(p);
    if (p->at >= p->size) return fail_at(p, "a value is expected");
    FV_TRY(add_node(p, index));
    p->doc->node[*index].key = key;
    const uint8_t c = p->text[p->at];
    if (c != '{' && c != '[') return parse_scalar(p, &p->doc->node[*index]);
    if (p->depth == MAX_DEPTH) {
        return fv_fail(p->doc->ctx, FV_ERR_LIMIT, "json: nested deeper than %d at byte %zu",
                       MAX_DEPTH, p->at);
    }
    p->depth++;
    p->at++;
    p->doc->node[*index].type = c == '{' ? FV_JSON_OBJECT : FV_JSON_ARRAY;
    FV_TRY(parse_children(p, *index, c == '{'));
    p->depth--;
    return FV_OK;
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* All objects, after parsing; scratch holds the largest one's names. */
static fv_status refuse_duplicates(fv_json_doc *d)
{
    size_t largest = 0;
    for (size_t i = 0; i < d->count; i++) {
        if (d->node[i].type == FV_JSON_OBJECT && d->node[i].count > largest)
            largest = d->node[i].count;
    }
    if (largest < 2) return FV_OK;
    const char **keys = fv_calloc(d->ctx, largest, sizeof *keys);
    if (!keys) return FV_ERR_OOM;
    fv_status s = FV_OK;
    for (size_t i = 0; i < d->count && s == FV_OK; i++) {
        if (d->node[i].type != FV_JSON_OBJECT || d->node[i].count < 2) continue;
        size_t n = 0;
        for (uint32_t c = d->node[i].first_child; c; c = d->node[c].next)
            keys[n++] = d->node[c].key;
        qsort(keys, n, sizeof *keys, compare_keys);
        for (size_t k = 1; k < n && s == FV_OK; k++) {
            if (strcmp(keys[k - 1], keys[k]) != 0) continue;
            s = fv_fail(d->ctx, FV_ERR_FORMAT, "json: member \"%.100s\" appears twice", keys[k]);
        }
    }
    fv_free(d->ctx, keys);
    return s;
}

fv_status fv_json_parse(fv_ctx *ctx, fv_json_doc **out, const char *text, size_t size,
                        size_t max_nodes)
{
    *out = NULL;
    if (!text && size) return fv_fail(ctx, FV_ERR_ARG, "json: text is NULL");
    fv_status s = FV_ERR_OOM;
    size_t arena_bytes;
    if (!fv_add_size(size, 1, &arena_bytes))
        return fv_fail(ctx, FV_ERR_LIMIT, "json: text too large");
    fv_json_doc *d = fv_calloc(ctx, 1, sizeof *d);
    if (!d) return s;
    d->ctx = ctx;
    d->arena = fv_alloc(ctx, arena_bytes);
    if (!d->arena) goto fail;
    parser p = { .doc = d, .text = (const uint8_t *)text, .size = size, .end = d->arena };
    p.max_nodes = max_nodes ? max_nodes : DEFAULT_MAX_NODES;
    if (p.max_nodes > UINT32_MAX) p.max_nodes = UINT32_MAX;
    uint32_t root;
    FV_TRY_GOTO(parse_value(&p, &root, NULL));
    skip_space(&p);
    if (p.at < p.size) {
        s = fail_at(&p, "text after the value");
        goto fail;
    }
    FV_TRY_GOTO(refuse_duplicates(d));
    *out = d;
    return FV_OK;
fail:
    fv_json_free(&d);
    return s;
}

void fv_json_free(fv_json_doc **doc)
{
    if (!doc || !*doc) return;
    fv_json_doc *d = *doc;
    *doc = NULL;
    fv_free(d->ctx, d->node);
    fv_free(d->ctx, d->arena);
    fv_free(d->ctx, d);
}

/* ---- Reading the tree ------------------------------------------------------------------------ */

const fv_json *fv_json_root(const fv_json_doc *doc) { return &doc->node[0]; }

const fv_json *fv_json_first(const fv_json_doc *doc, const fv_json *parent)
{
    return parent && parent->first_child ? &doc->node[parent->first_child] : NULL;
}

const fv_json *fv_json_next(const fv_json_doc *doc, const fv_json *node)
{
    return node && node->next ? &doc->node[node->next] : NULL;
}

const fv_json *fv_json_get(const fv_json_doc *doc, const fv_json *object, const char *key)
{
    if (!object || object->type != FV_JSON_OBJECT) return NULL;
    const fv_json *n = fv_json_first(doc, object);
    while (n && strcmp(n->key, key) != 0) n = fv_json_next(doc, n);
    return n;
}

bool fv_json_int(const fv_json *n, int64_t *out)
{
    if (!n || n->type != FV_JSON_NUMBER) return false;
    const bool negative = n->str[0] == '-';
    uint64_t v = 0;
    for (const char *c = n->str + negative; *c; c++) {
        if (*c < '0' || *c > '9') return false;
        const uint64_t digit = (uint64_t)(*c - '0');
        if (v > ((uint64_t)INT64_MAX - digit) / 10) return false;
        v = v * 10 + digit;
    }
    *out = negative ? -(int64_t)v : (int64_t)v;
    return true;
}

/* ---- Text buffer ----------------------------------------------------------------------------- */

void fv_text_init(fv_text *t, fv_ctx *ctx)
{
    memset(t, 0, sizeof *t);
    t->ctx = ctx;
}

/* Room for `more` bytes and a NUL. */
static bool text_reserve(fv_text *t, size_t more)
{
    size_t need, cap;
    if (t->status != FV_OK) return false;
    if (!fv_add_size(t->size, more, &need) || !fv_add_size(need, 1, &need)) {
        t->status = fv_fail(t->ctx, FV_ERR_OOM, "text too large");
        return false;
    }
    if (need <= t->capacity) return true;
    cap = t->capacity > SIZE_MAX / 2 ? need : t->capacity * 2;
    if (cap < 128) cap = 128;
    if (cap < need) cap = need;
    char *p = fv_realloc(t->ctx, t->data, t->size, cap);
    if (!p) {
        t->status = FV_ERR_OOM;
        return false;
    }
    t->data = p;
    t->capacity = cap;
    return true;
}

static void text_add(fv_text *t, const char *s, size_t n)
{
    if (!text_reserve(t, n)) return;
    memcpy(t->data + t->size, s, n);
    t->size += n;
    t->data[t->size] = 0;
}

void fv_text_vprintf(fv_text *t, const char *fmt, va_list ap)
{
    if (t->status != FV_OK) return;
    const locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    const locale_t old = c != (locale_t)0 ? uselocale(c) : (locale_t)0;
    va_list again;
    va_copy(again, ap);
    const int n = vsnprintf(NULL, 0, fmt, ap);
    if (n < 0) {
        t->status = fv_fail(t->ctx, FV_ERR_ARG, "text cannot be formatted");
    } else if (text_reserve(t, (size_t)n)) {
        vsnprintf(t->data + t->size, (size_t)n + 1, fmt, again);
        t->size += (size_t)n;
    }
    va_end(again);
    if (c != (locale_t)0) {
        uselocale(old);
        freelocale(c);
    }
}

void fv_text_printf(fv_text *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fv_text_vprintf(t, fmt, ap);
    va_end(ap);
}

/* Bytes that are not UTF-8 become U+FFFD, so that the output is JSON for any input. */
void fv_text_json_string(fv_text *t, const char *s)
{
    static const char hex[] = "0123456789abcdef";
    const uint8_t *p = (const uint8_t *)s;
    size_t n = strlen(s);
    text_add(t, "\"", 1);
    while (n > 0) {
        size_t k = fvi_utf8_step(p, n);
        if (*p == '"' || *p == '\\') {
            const char esc[2] = { '\\', (char)*p };
            text_add(t, esc, 2);
        } else if (*p < 0x20 || *p == 0x7f) {
            const char esc[6] = { '\\', 'u', '0', '0', hex[*p >> 4], hex[*p & 15] };
            text_add(t, esc, 6);
        } else if (k == 0) {
            text_add(t, "\\ufffd", 6);
            k = 1;
        } else {
            text_add(t, (const char *)p, k);
        }
        p += k;
        n -= k;
    }
    text_add(t, "\"", 1);
}

void fv_text_free(fv_text *t)
{
    if (!t) return;
    fv_free(t->ctx, t->data);
    fv_text_init(t, t->ctx);
}
