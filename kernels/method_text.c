/* method_text.c - "name:key=value,key=value": tables of keys say what may stand there. */
#include "method_text.h"

#include <math.h>
#include <string.h>

#include "class_names.h"

fv_status fv_method_split(fv_ctx *ctx, const char *text, char name[FV_METHOD_TEXT_MAX],
                          char **options)
{
    const size_t n = strlen(text);
    *options = NULL;
    if (n >= FV_METHOD_TEXT_MAX)
        return fv_fail(ctx, FV_ERR_ARG, "method: a description has at most %d characters",
                       FV_METHOD_TEXT_MAX - 1);
    memcpy(name, text, n + 1);
    *options = strchr(name, ':');
    if (*options) *(*options)++ = 0;
    return FV_OK;
}

/* Length of the first word; *next is where the second begins, NULL behind the last. */
static size_t first_word(const char *words, const char **next)
{
    const char *bar = strchr(words, '|');
    *next = bar ? bar + 1 : NULL;
    return bar ? (size_t)(bar - words) : strlen(words);
}

/* The number of a word, -1 if it is none. */
static int find_word(const char *words, const char *text)
{
    const size_t n = strlen(text);
    for (int i = 0; words; i++) {
        const char *next, *word = words;
        if (first_word(word, &next) == n && memcmp(word, text, n) == 0) return i;
        words = next;
    }
    return -1;
}

void fv_method_word(const char *words, int i, char *out, size_t size)
{
    const char *next = words;
    size_t n = 0;
    while (next && i-- >= 0) {
        words = next;
        n = first_word(words, &next);
    }
    snprintf(out, size, "%.*s", i < 0 ? (int)n : 0, words);
}

static fv_status set_value(fv_method_text *m, int k, const char *text)
{
    const fv_method_key *key = &m->key[k];
    const double hi = key->hi < 0 ? m->top : key->hi;
    double v = key->words ? find_word(key->words, text) : NAN;
    if (key->words && v < 0)
        return fv_fail(m->ctx, FV_ERR_ARG, "%s: %s is %s, not \"%s\"", m->name, key->name,
                       key->words, text);
    if (!key->words) {
        const fv_status s = fv_meta_parse(m->ctx, key->name, text, key->is_whole, &v);
        if (s == FV_ERR_OOM) return s;
        if (s != FV_OK) v = NAN;
    }
    if (!(v >= key->lo && v <= hi) && !key->words)
        return fv_fail(m->ctx, FV_ERR_ARG, "%s: %s is a %snumber from %g to %g, not \"%s\"",
                       m->name, key->name, key->is_whole ? "whole " : "", key->lo, hi, text);
    if (m->is_given[k])
        return fv_fail(m->ctx, FV_ERR_ARG, "%s: %s is given twice", m->name, key->name);
    m->value[k] = v;
    m->is_given[k] = true;
    return FV_OK;
}

int fv_method_find_key(const fv_method_key *key, int keys, const char *name)
{
    for (int k = 0; k < keys; k++)
        if (strcmp(key[k].name, name) == 0) return k;
    return -1;
}

/* One "key=value"; text is cut in two. */
static fv_status read_option(fv_method_text *m, char *text)
{
    char *value = strchr(text, '=');
    int nearest = 0, least = 1000;
    if (!value)
        return fv_fail(m->ctx, FV_ERR_ARG, "%s: \"%s\" is not of the form key=value (%s)", m->name,
                       text, m->about);
    *value++ = 0;
    const int found = fv_method_find_key(m->key, m->keys, text);
    if (found >= 0) return set_value(m, found, value);
    for (int k = 0; k < m->keys; k++) {
        const int d = fv_name_distance(text, m->key[k].name);
        if (d >= least) continue;
        least = d;
        nearest = k;
    }
    return fv_fail(m->ctx, FV_ERR_UNKNOWN, "%s: option \"%s\" is unknown; nearest is \"%s\" (%s)",
                   m->name, text, m->keys ? m->key[nearest].name : "none", m->about);
}

fv_status fv_method_read(fv_method_text *m, char *options)
{
    for (int k = 0; k < m->keys; k++) {
        m->value[k] = m->key[k].value;
        m->is_given[k] = false;
    }
    while (options) {
        char *next = strchr(options, ',');
        if (next) *next++ = 0;
        FV_TRY(read_option(m, options));
        options = next;
    }
    return FV_OK;
}
