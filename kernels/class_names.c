/* class_names.c - names of classes from metadata, and finding one by what a person typed. */
#include "class_names.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Names go to terminals: no control characters, neither ASCII's nor U+0080 to U+009F. */
static void make_printable(char *text)
{
    for (unsigned char *p = (unsigned char *)text; *p; p++) {
        if ((*p < ' ' && *p != '\n') || *p == 127) *p = '_';
        if (p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0) p[0] = p[1] = '_';
    }
}

int fv_count_lines(const char *list)
{
    int n = *list != 0;
    for (; *list; list++) n += list[0] == '\n' && list[1];
    return n;
}

fv_status fv_class_names_read(fv_ctx *ctx, const fv_model *m, int n, char ***name, char **text)
{
    const char *list = fv_model_meta(m, "fovea.classes");
    *name = NULL;
    *text = NULL;
    if (!list || !list[0]) return FV_OK;
    if (fv_count_lines(list) != n)
        return fv_fail(ctx, FV_ERR_MODEL, "model: %d classes, but metadata fovea.classes has %d "
                       "names", n, fv_count_lines(list));
    *text = fv_strdup(ctx, list);
    *name = fv_calloc(ctx, (size_t)n, sizeof **name);
    if (!*text || !*name) {
        fv_free(ctx, *text);
        fv_free(ctx, *name);
        *name = NULL;
        *text = NULL;
        return FV_ERR_OOM;
    }
    make_printable(*text);
    char *p = *text;
    for (int i = 0; i < n; i++) {
        (*name)[i] = p;
        p += strcspn(p, "\n");
        if (*p) *p++ = 0;
    }
    return FV_OK;
}

fv_status fv_class_names_add(fv_ctx *ctx, const fv_dataset *ds, fv_meta *out)
{
    fv_text t;
    fv_text_init(&t, ctx);
    for (int i = 0; i < fv_dataset_classes(ds); i++)
        fv_text_printf(&t, "%s%s", i ? "\n" : "", fv_dataset_class_name(ds, i));
    fv_status s = t.status;
    if (s == FV_OK) s = fv_meta_add(ctx, out, "fovea.classes", t.data ? t.data : "");
    fv_text_free(&t);
    return s;
}

int fv_name_distance(const char *a, const char *b)
{
    int row[64], n = (int)strlen(b);
    if (n > 63) n = 63;
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            const int up = row[j];
            const int same = tolower((unsigned char)a[i - 1]) == tolower((unsigned char)b[j - 1]);
            int best = diagonal + !same;
            if (up + 1 < best) best = up + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = up;
            row[j] = best;
        }
    }
    return row[n];
}

fv_status fv_class_names_find(fv_ctx *ctx, char *const *name, int n, const char *wanted, int *out)
{
    char *end;
    *out = 0;
    for (int i = 0; name && i < n; i++) /* first: a name may be a number */
        if (strcasecmp(name[i], wanted) == 0) {
            *out = i;
            return FV_OK;
        }
    const long v = strtol(wanted, &end, 10);
    if (end != wanted && *end == 0) {
        if (v < 0 || v >= n)
            return fv_fail(ctx, FV_ERR_UNKNOWN, "class %ld does not exist: 0 to %d", v, n - 1);
        *out = (int)v;
        return FV_OK;
    }
    if (!name)
        return fv_fail(ctx, FV_ERR_UNKNOWN,
                       "class \"%s\": this model has no class names, give a number 0 to %d", wanted,
                       n - 1);
    int best = 0, best_distance = 1000;
    for (int i = 0; i < n; i++) {
        const int k = fv_name_distance(wanted, name[i]);
        if (k < best_distance) {
            best_distance = k;
            best = i;
        }
    }
    return fv_fail(ctx, FV_ERR_UNKNOWN,
                   "class \"%s\" is unknown; nearest is \"%s\" (gen info lists all)", wanted,
                   name[best]);
}
