/* gen_out.c - where pictures go: names, texts in them, files.
 *
 * All that can be refused is refused before the first step: suffixes, existing files, folders
 * without write permission. Pictures are written when all of them are there, each file complete or
 * not at all. */
#include "gen_run.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Names ----------------------------------------------------------------------------------- */

/* A folder that is missing is made later, one level. */
static int check_folder(const char *path)
{
    if (cli_is_folder(path)) {
        if (access(path, W_OK | X_OK) == 0) return CLI_OK;
        return cli_fail(CLI_FAILED, "%s: cannot write: %s", path, strerror(errno));
    }
    char *plain = cli_format("%s", path);
    for (size_t n = strlen(plain); n > 1 && plain[n - 1] == '/'; n--) plain[n - 1] = 0;
    const int code = cli_check_place(plain, false);
    free(plain);
    return code;
}

/* With -f the second would silently replace the first. */
static bool is_same_file(const char *a, const char *b)
{
    return a && b && strcmp(a, b) == 0 && !cli_is_special(a);
}

int gen_check_output(gen_run *r)
{
    const gen_args *a = r->a;
    const char *out = a->out;
    const size_t n = strlen(out);
    int code = CLI_OK;
    if (strcmp(out, "-") == 0) {
        r->out = GEN_OUT_STDOUT;
        if (a->common.json) return cli_fail(CLI_USAGE, "-o - and --json both need standard output");
        if (isatty(STDOUT_FILENO))
            return cli_fail(CLI_USAGE, "-o -: standard output is a terminal; redirect it");
    } else if (n > 0 && (out[n - 1] == '/' || cli_is_folder(out))) {
        r->out = GEN_OUT_FOLDER;
        code = check_folder(out);
    } else {
        r->out = GEN_OUT_FILE;
        if (!cli_has_picture_suffix(out) && !cli_is_special(out))
            return cli_fail(CLI_USAGE,
                            "-o %s: no picture format has this suffix; use .png .jpg "
                            ".webp .ppm, or a folder with / at its end",
                            out);
        code = cli_check_place(out, a->common.force);
    }
    if (is_same_file(out, a->sheet) || is_same_file(out, a->plan_out) ||
        is_same_file(a->sheet, a->plan_out))
        return cli_fail(CLI_USAGE, "-o, --side-by-side and --plan-out need names of their own");
    if (code == CLI_OK && a->sheet) code = cli_check_place(a->sheet, a->common.force);
    if (code == CLI_OK && a->plan_out) code = cli_check_place(a->plan_out, a->common.force);
    return code;
}

static const char *slash_after(const char *folder)
{
    return folder[strlen(folder) - 1] == '/' ? "" : "/";
}

/* class-seed.png with a class name that is safe as a file name everywhere. */
static char *picture_name(const gen_run *r, int i)
{
    char name[64] = "any";
    if (r->classes[i] < r->model.classes)
        gen_class_text(&r->model, r->classes[i], name, sizeof name);
    for (char *p = name; *p; p++) {
        const bool is_plain = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
                              (*p >= '0' && *p <= '9') || *p == '-' || *p == '_' ||
                              (*p == '.' && p > name);
        if (!is_plain) *p = '_';
    }
    return cli_format("%s%s%s-%llu.png", r->a->out, slash_after(r->a->out), name,
                      (unsigned long long)(r->a->seed + (uint64_t)i));
}

int gen_name_files(gen_run *r)
{
    const gen_args *a = r->a;
    r->file = calloc((size_t)r->count + 1, sizeof *r->file);
    if (!r->file) return cli_fail(CLI_FAILED, "out of memory");
    if (r->out == GEN_OUT_FILE) r->file[r->file_count++] = cli_format("%s", a->out);
    if (r->out != GEN_OUT_FOLDER) return CLI_OK;
    for (int i = 0; i < r->count; i++) r->file[r->file_count++] = picture_name(r, i);
    if (a->has_grid)
        r->file[r->file_count++] = cli_format("%s%sgrid.png", a->out, slash_after(a->out));
    for (int i = 0; i < r->file_count && cli_is_folder(a->out); i++) {
        const int code = cli_check_place(r->file[i], a->common.force);
        if (code != CLI_OK) return code;
    }
    return CLI_OK;
}

/* ---- Text in the pictures -------------------------------------------------------------------- */

void gen_text(gen_texts *t, const char *key, const char *fmt, ...)
{
    if (t->count == (int)(sizeof t->pair / sizeof *t->pair)) return;
    va_list args;
    va_start(args, fmt);
    vsnprintf(t->pair[t->count].value, sizeof t->pair->value, fmt, args);
    va_end(args);
    t->pair[t->count++].key = key;
}

static void list_classes(const gen_run *r, int first, int count, char *out, size_t size)
{
    size_t used = 0;
    out[0] = 0;
    for (int i = first; i < first + count; i++) {
        char name[128] = "none";
        if (i > first && r->classes[i] == r->classes[i - 1]) continue;
        if (r->classes[i] < r->model.classes)
            gen_class_text(&r->model, r->classes[i], name, sizeof name);
        if (used + strlen(name) + 8 > size) {
            snprintf(out + used, size - used, ", ...");
            return;
        }
        used += (size_t)snprintf(out + used, size - used, "%s%s", used ? ", " : "", name);
    }
}

double gen_plain_number(float v)
{
    char text[32];
    snprintf(text, sizeof text, "%g", (double)v);
    return strtod(text, NULL);
}

void gen_describe(const gen_run *r, int first, int count, gen_texts *t)
{
    memset(t, 0, sizeof *t);
    list_classes(r, first, count, t->class_text, sizeof t->class_text);
    snprintf(t->seed, sizeof t->seed, "%llu", (unsigned long long)(r->a->seed + (uint64_t)first));
    cli_printable(r->model.name, t->name, sizeof t->name);
    snprintf(t->software, sizeof t->software, "fovea %s", fv_version_string());
    r->kind->describe(r, t);
}

static fv_status add_text(const gen_run *r, fv_image *img, int first, int count)
{
    gen_texts t;
    char number[16];
    gen_describe(r, first, count, &t);
    snprintf(number, sizeof number, "%d", count);
    const char *const pairs[][2] = {
        {"Software", t.software},
        {"parameters", t.human},
        {"fovea.version", fv_version_string()},
        {"fovea.model", t.name},
        {"fovea.model_sha256", r->model.hash},
        {"fovea.class", t.class_text},
        {"fovea.seed", t.seed},
        {"fovea.count", number},
    };
    fv_status s = FV_OK;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs && s == FV_OK; i++)
        s = fv_image_add_text(r->ctx, img, pairs[i][0], pairs[i][1]);
    for (int i = 0; i < t.count && s == FV_OK; i++)
        s = fv_image_add_text(r->ctx, img, t.pair[i].key, t.pair[i].value);
    return s;
}

/* ---- Writing --------------------------------------------------------------------------------- */

static fv_status write_stdout(gen_run *r, const fv_image *img)
{
    fv_image_write_options wo = FV_IMAGE_WRITE_OPTIONS_INIT;
    uint8_t *bytes = NULL;
    size_t size = 0;
    wo.format = FV_IMAGE_PNG;
    const fv_status s = fv_image_encode(r->ctx, img, &wo, &bytes, &size);
    if (s == FV_OK) (void)fwrite(bytes, 1, size, stdout); /* cli_finish looks at ferror */
    fv_free(r->ctx, bytes);
    return s;
}

static fv_status write_one(gen_run *r, const fv_image *img, const char *path)
{
    fv_image_write_options wo = FV_IMAGE_WRITE_OPTIONS_INIT;
    wo.overwrite = r->a->common.force;
    if (!cli_has_picture_suffix(path)) wo.format = FV_IMAGE_PNG; /* /dev/stdout, /dev/fd/N */
    return fv_image_write(r->ctx, img, path, &wo);
}

/* All pictures as one: a row per class with --class all. */
static fv_status make_grid(gen_run *r, fv_image *out)
{
    const bool by_class = r->a->class_name && strcmp(r->a->class_name, "all") == 0 && r->a->n > 1;
    const fv_status s = fv_image_grid(r->ctx, out, r->images, r->count, by_class ? r->a->n : 0,
                                      r->count > 1 ? 2 : 0);
    return s == FV_OK ? add_text(r, out, 0, r->count) : s;
}

static int write_grid(gen_run *r, const char *path)
{
    fv_image grid = {0};
    fv_status s = make_grid(r, &grid);
    if (s == FV_OK) s = path ? write_one(r, &grid, path) : write_stdout(r, &grid);
    fv_image_free(r->ctx, &grid);
    return s == FV_OK ? CLI_OK : cli_report(r->ctx, s, path ? path : "standard output");
}

static int write_folder(gen_run *r)
{
    const char *folder = r->a->out;
    if (!cli_is_folder(folder) && mkdir(folder, 0777) != 0)
        return cli_fail(CLI_FAILED, "%s: cannot make the folder: %s", folder, strerror(errno));
    for (int i = 0; i < r->count; i++) {
        fv_status s = cli_interrupted() ? FV_ERR_CANCELLED : add_text(r, &r->images[i], i, 1);
        if (s == FV_OK) s = write_one(r, &r->images[i], r->file[i]);
        if (s != FV_OK) return cli_report(r->ctx, s, r->file[i]);
    }
    return r->a->has_grid ? write_grid(r, r->file[r->count]) : CLI_OK;
}

int gen_write_all(gen_run *r)
{
    const gen_args *a = r->a;
    if (cli_interrupted()) return cli_fail(CLI_INTERRUPTED, "interrupted");
    const int code = r->out == GEN_OUT_FOLDER
                         ? write_folder(r)
                         : write_grid(r, r->out == GEN_OUT_FILE ? a->out : NULL);
    if (code != CLI_OK) return code;
    const fv_status s = a->sheet ? write_one(r, &r->sheet, a->sheet) : FV_OK;
    return s == FV_OK ? CLI_OK : cli_report(r->ctx, s, a->sheet);
}
