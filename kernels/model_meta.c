/* model_meta.c - metadata of model files: numbers as text, and lists of pairs for a writer. */
#include <math.h>
#include <string.h>

#include "engine.h"

/* ---- Reading --------------------------------------------------------------------------------- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* As JSON writes it, without spaces around it: strict and the same in any locale. */
fv_status fv_meta_parse(fv_ctx *ctx, const char *key, const char *text, bool is_whole, double *out)
{
    const size_t n = strlen(text);
    fv_json_doc *doc = NULL;
    int64_t whole = 0;
    fv_status s = FV_ERR_FORMAT;
    if (n > 0 && n < 64 && (is_digit(text[0]) || text[0] == '-') && is_digit(text[n - 1]))
        s = fv_json_parse(ctx, &doc, text, n, 4);
    if (s == FV_ERR_OOM) return s;
    if (s == FV_OK) {
        const fv_json *root = fv_json_root(doc);
        *out = root->num;
        if (root->type != FV_JSON_NUMBER || !isfinite(root->num))
            s = FV_ERR_FORMAT;
        else if (is_whole &&
                 !(fv_json_int(root, &whole) && whole >= INT32_MIN && whole <= INT32_MAX))
            s = FV_ERR_FORMAT;
    }
    fv_json_free(&doc);
    if (s == FV_OK) return s;
    return fv_fail(ctx, FV_ERR_MODEL, "model: metadata %s = \"%.40s\" is not a %s", key, text,
                   is_whole ? "whole number" : "number");
}

static fv_status number(fv_ctx *ctx, const fv_model *m, const char *key, bool is_whole, double *out)
{
    const char *text = fv_model_meta(m, key);
    if (!text) return fv_fail(ctx, FV_ERR_MODEL, "model: metadata %s is missing", key);
    return fv_meta_parse(ctx, key, text, is_whole, out);
}

fv_status fv_meta_int(fv_ctx *ctx, const fv_model *m, const char *key, int *out)
{
    double v = 0;
    FV_TRY(number(ctx, m, key, true, &v));
    *out = (int)v;
    return FV_OK;
}

fv_status fv_meta_float(fv_ctx *ctx, const fv_model *m, const char *key, float *out)
{
    double v = 0;
    FV_TRY(number(ctx, m, key, false, &v));
    *out = (float)v;
    return FV_OK;
}

void fv_meta_name(const char *text, const char *fallback, char *out, size_t size)
{
    size_t n = 0;
    for (; text && text[n] && n + 1 < size; n++)
        out[n] = text[n] > ' ' && text[n] < 127 ? text[n] : '_';
    out[n] = 0;
    if (n == 0) snprintf(out, size, "%s", fallback);
}

fv_status fv_meta_range(fv_ctx *ctx, const char *what, int64_t v, int64_t lo, int64_t hi)
{
    if (v >= lo && v <= hi) return FV_OK;
    return fv_fail(ctx, FV_ERR_LIMIT, "model: %s is %lld, this library accepts %lld to %lld", what,
                   (long long)v, (long long)lo, (long long)hi);
}

/* ---- Writing --------------------------------------------------------------------------------- */

fv_status fv_meta_add(fv_ctx *ctx, fv_meta *m, const char *key, const char *value)
{
    char *copy = fv_strdup(ctx, value ? value : "");
    if (!copy) return FV_ERR_OOM;
    for (int i = 0; i < m->pairs; i++) {
        if (strcmp(m->item[2 * i], key) != 0) continue;
        fv_free(ctx, m->item[2 * i + 1]);
        m->item[2 * i + 1] = copy;
        return FV_OK;
    }
    char *name = m->pairs < FV_META_PAIRS ? fv_strdup(ctx, key) : NULL;
    if (!name) {
        fv_free(ctx, copy);
        if (m->pairs < FV_META_PAIRS) return FV_ERR_OOM;
        return fv_fail(ctx, FV_ERR_CAPACITY, "model: more than %d metadata entries", m->pairs);
    }
    m->item[2 * m->pairs] = name;
    m->item[2 * m->pairs + 1] = copy;
    m->pairs++;
    return FV_OK;
}

fv_status fv_meta_add_number(fv_ctx *ctx, fv_meta *m, const char *key, double value)
{
    fv_text t;
    fv_text_init(&t, ctx);
    fv_text_printf(&t, "%.9g", value); /* every float and 29-bit integer survives */
    const fv_status s = t.status == FV_OK ? fv_meta_add(ctx, m, key, t.data) : t.status;
    fv_text_free(&t);
    return s;
}

fv_status fv_meta_write(const fv_meta *m, fv_model_writer *w)
{
    for (int i = 0; i < m->pairs; i++)
        FV_TRY(fv_model_writer_meta(w, m->item[2 * i], m->item[2 * i + 1]));
    return FV_OK;
}

void fv_meta_free(fv_ctx *ctx, fv_meta *m)
{
    for (int i = 0; i < 2 * m->pairs; i++) fv_free(ctx, m->item[i]);
    memset(m, 0, sizeof *m);
}
