/* video_files.c - frames as picture files: those of a folder, or of a pattern such as f_%05d.png.
 *
 * Natural order compares runs of digits by value: f9 comes before f10. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "video.h"

#define DIGITS_MOST 18

/* ---- Order ----------------------------------------------------------------------------------- */

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static int natural(const char *a, const char *b)
{
    while (*a && *b) {
        if (!is_digit(*a) || !is_digit(*b)) {
            if (*a != *b) return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
            a++, b++;
            continue;
        }
        while (*a == '0') a++;
        while (*b == '0') b++;
        size_t n = 0, m = 0;
        while (is_digit(a[n])) n++;
        while (is_digit(b[m])) m++;
        if (n != m) return n < m ? -1 : 1;
        const int order = strncmp(a, b, n);
        if (order) return order;
        a += n, b += m;
    }
    return *a ? 1 : *b ? -1 : 0;
}

static int by_name(const void *a, const void *b)
{
    const fvi_video_name *x = a, *y = b;
    const int order = natural(x->text, y->text);
    return order ? order : strcmp(x->text, y->text);
}

static int by_number(const void *a, const void *b)
{
    const fvi_video_name *x = a, *y = b;
    if (x->number != y->number) return x->number < y->number ? -1 : 1;
    return strcmp(x->text, y->text);
}

/* ---- Patterns -------------------------------------------------------------------------------- */

static char *copy(fv_ctx *ctx, const char *s, size_t n)
{
    char *p = fv_alloc(ctx, n + 1);
    if (!p) return NULL;
    memcpy(p, s, n);
    p[n] = 0;
    return p;
}

/* "f_%05d.png" -> "f_", 5, ".png" */
static fv_status parse_pattern(fv_ctx *ctx, fvi_video_files *f, const char *name)
{
    const char *percent = strchr(name, '%'), *p = percent + 1;
    if (*p == '0') p++;
    while (is_digit(*p) && f->digits < 100) f->digits = 10 * f->digits + (*p++ - '0');
    if (*p != 'd' || strchr(p, '%') || f->digits > DIGITS_MOST)
        return fv_fail(ctx, FV_ERR_ARG,
                       "video: \"%s\" is no pattern: one %%d or %%0Nd, N up to %d, in its last part",
                       name, DIGITS_MOST);
    f->before = copy(ctx, name, (size_t)(percent - name));
    f->after = f->before ? fv_strdup(ctx, p + 1) : NULL;
    return f->after ? FV_OK : FV_ERR_OOM;
}

/* The number in a name of the pattern, or -1. */
static int64_t number_of(const fvi_video_files *f, const char *name)
{
    const size_t n = strlen(name), b = strlen(f->before), a = strlen(f->after);
    if (n <= a + b || strncmp(name, f->before, b) != 0 || strcmp(name + n - a, f->after) != 0)
        return -1;
    const size_t digits = n - a - b, least = f->digits ? (size_t)f->digits : 1;
    if (digits < least || digits > DIGITS_MOST || (digits > least && name[b] == '0')) return -1;
    int64_t v = 0;
    for (size_t i = b; i < n - a; i++) {
        if (!is_digit(name[i])) return -1;
        v = 10 * v + (name[i] - '0');
    }
    return v;
}

char *fvi_video_files_name(fv_ctx *ctx, const fvi_video_files *f, int64_t number)
{
    if (!f->before) return fv_format(ctx, "%06lld.png", (long long)number);
    return fv_format(ctx, "%s%0*lld%s", f->before, f->digits, (long long)number, f->after);
}

/* ---- Listing --------------------------------------------------------------------------------- */

static bool is_picture(const char *name)
{
    static const char *const suffix[] = { ".png", ".jpg", ".jpeg", ".webp", ".ppm", ".pgm",
                                          ".pnm" };
    const char *dot = strrchr(name, '.');
    if (!dot || name[0] == '.') return false;
    for (size_t i = 0; i < FV_ARRAY_LEN(suffix); i++) {
        size_t k = 0;
        while (suffix[i][k] && (dot[k] | 0x20) == (suffix[i][k] | 0x20)) k++;
        if (!suffix[i][k] && !dot[k]) return true;
    }
    return false;
}

static fv_status add_name(fv_ctx *ctx, fvi_video_files *f, const char *name)
{
    const int64_t number = f->before ? number_of(f, name) : 0;
    if (f->before ? number < 0 : !is_picture(name)) return FV_OK;
    if (f->count == f->capacity) {
        const size_t more = f->capacity ? 2 * f->capacity : 64;
        fvi_video_name *p = fv_realloc(ctx, f->name, f->capacity * sizeof *p, more * sizeof *p);
        if (!p) return FV_ERR_OOM;
        f->name = p;
        f->capacity = more;
    }
    char *text = fv_strdup(ctx, name);
    if (!text) return FV_ERR_OOM;
    f->name[f->count++] = (fvi_video_name){ text, number };
    return FV_OK;
}

static fv_status list(fv_ctx *ctx, fvi_video_files *f)
{
    DIR *d = opendir(f->folder);
    if (!d)
        return fv_fail(ctx, errno == ENOENT ? FV_ERR_NOT_FOUND : FV_ERR_IO,
                       "video: cannot open the folder %s: %s", f->folder, strerror(errno));
    fv_status s = FV_OK;
    for (const struct dirent *e; s == FV_OK && (e = readdir(d)) != NULL;)
        s = add_name(ctx, f, e->d_name);
    closedir(d);
    if (s == FV_OK && f->count > 0)
        qsort(f->name, f->count, sizeof *f->name, f->before ? by_number : by_name);
    return s;
}

fv_status fvi_video_files_open(fv_ctx *ctx, fvi_video_files *f, const char *path, bool look)
{
    memset(f, 0, sizeof *f);
    const char *slash = strrchr(path, '/'), *last = slash ? slash + 1 : path;
    fv_status s = FV_OK;
    if (strchr(last, '%')) {
        f->folder = slash ? copy(ctx, path, slash == path ? 1 : (size_t)(slash - path))
                          : fv_strdup(ctx, ".");
        s = f->folder ? parse_pattern(ctx, f, last) : FV_ERR_OOM;
    } else {
        f->folder = fv_strdup(ctx, *path ? path : ".");
        if (!f->folder) s = FV_ERR_OOM;
    }
    if (s == FV_OK && look) {
        s = list(ctx, f);
        if (s == FV_OK && f->count == 0)
            s = fv_fail(ctx, FV_ERR_NOT_FOUND, "video: %s has no frames%s%s", f->folder,
                        f->before ? " of the pattern " : "", f->before ? last : "");
    }
    if (s != FV_OK) fvi_video_files_free(ctx, f);
    return s;
}

void fvi_video_files_free(fv_ctx *ctx, fvi_video_files *f)
{
    for (size_t i = 0; i < f->count; i++) fv_free(ctx, f->name[i].text);
    fv_free(ctx, f->name);
    fv_free(ctx, f->folder);
    fv_free(ctx, f->before);
    fv_free(ctx, f->after);
    memset(f, 0, sizeof *f);
}
