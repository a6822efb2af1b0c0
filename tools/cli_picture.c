/* cli_picture.c - reading pictures, upright, and how far two are apart. */
#include "cli_picture.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIRST_READ ((size_t)1 << 16)

/* ---- Bytes ----------------------------------------------------------------------------------- */

/* -1: an error, errno says which; EINTR when the program was interrupted. */
static ssize_t read_some(int fd, void *to, size_t size)
{
    for (;;) {
        const ssize_t n = read(fd, to, size);
        if (n >= 0 || errno != EINTR || cli_interrupted()) return n;
    }
}

static int read_all(int fd, const char *name, uint64_t most, uint8_t **out, size_t *size)
{
    struct stat st;
    size_t room = FIRST_READ;
    uint8_t *p = NULL;
    *out = NULL;
    *size = 0;
    /* One byte more than the file has shows its end. */
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size <= most)
        room = (size_t)st.st_size + 1;
    for (;;) {
        if (!p || *size == room) {
            if (p) room *= 2;
            uint8_t *more = realloc(p, room);
            if (!more) {
                free(p);
                return cli_fail(CLI_FAILED, "%s: out of memory", name);
            }
            p = more;
        }
        const ssize_t n = read_some(fd, p + *size, room - *size);
        if (n == 0) break;
        const int err = errno;
        if (n > 0) *size += (size_t)n;
        if (n > 0 && *size <= most) continue;
        free(p);
        if (n < 0 && cli_interrupted()) return cli_fail(CLI_INTERRUPTED, "interrupted");
        if (n < 0) return cli_fail(CLI_FAILED, "%s: cannot read: %s", name, strerror(err));
        return cli_fail(CLI_BAD_INPUT, "%s: larger than %llu bytes", name,
                        (unsigned long long)most);
    }
    *out = p;
    return CLI_OK;
}

int cli_read_bytes(const char *path, uint64_t most, uint8_t **out, size_t *size)
{
    *out = NULL;
    *size = 0;
    if (strcmp(path, "-") == 0) return read_all(STDIN_FILENO, "standard input", most, out, size);
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) /* pipes and devices may never end */
        return cli_fail(CLI_FAILED, "%s: is %s", path,
                        S_ISDIR(st.st_mode) ? "a directory"
                                            : "no regular file; - reads standard input");
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return cli_fail(CLI_FAILED, "%s: %s", path, strerror(errno));
    const int code = read_all(fd, path, most, out, size);
    close(fd);
    return code;
}

/* ---- Lists ----------------------------------------------------------------------------------- */

typedef struct list {
    char **file;
    int count;
} list;

static int add_file(list *l, char *path)
{
    char **more = realloc(l->file, (size_t)(l->count + 1) * sizeof *more);
    if (!more) {
        free(path);
        return cli_fail(CLI_FAILED, "out of memory");
    }
    l->file = more;
    l->file[l->count++] = path;
    return CLI_OK;
}

/* A pipe could hang whoever reads it. */
static bool is_regular(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* The pictures in a folder, by name. */
static int add_folder(list *l, const char *path)
{
    const int first = l->count;
    size_t count;
    int code = CLI_OK;
    char **names = cli_names_of(path, &count);
    if (!names) return cli_fail(CLI_FAILED, "%s: %s", path, strerror(errno));
    for (size_t i = 0; i < count; i++) {
        const bool is_picture = names[i][0] != '.' && cli_has_picture_suffix(names[i]);
        char *full = cli_format("%s/%s", path, names[i]);
        if (code == CLI_OK && is_picture && is_regular(full)) code = add_file(l, full);
        else free(full);
        free(names[i]);
    }
    free(names);
    if (code != CLI_OK || l->count > first) return code;
    return cli_fail(CLI_BAD_INPUT, "%s: no pictures (PNG, JPEG, WebP, PNM) in it", path);
}

/* `most` of them, evenly from all. */
static void thin_out(list *l, int most)
{
    for (int i = 0, k = 0; i < l->count; i++) {
        if (k < most && i == (int)((int64_t)k * l->count / most)) {
            char *kept = l->file[i];
            l->file[i] = l->file[k];
            l->file[k++] = kept;
        }
    }
    while (l->count > most) free(l->file[--l->count]);
}

int cli_take_pictures(const char **paths, int count, int most, char ***files, int *file_count)
{
    list l = {NULL, 0};
    int code = CLI_OK;
    for (int i = 0; i < count && code == CLI_OK; i++) {
        if (cli_is_folder(paths[i])) code = add_folder(&l, paths[i]);
        else if (is_regular(paths[i])) code = add_file(&l, cli_format("%s", paths[i]));
        else if (cli_file_exists(paths[i]))
            code = cli_fail(CLI_FAILED, "%s: is neither a file nor a folder", paths[i]);
        else code = cli_fail(CLI_FAILED, "%s: %s", paths[i], strerror(ENOENT));
    }
    if (code == CLI_OK && most > 0 && l.count > most) thin_out(&l, most);
    *files = l.file;
    *file_count = l.count;
    return code;
}

void cli_free_pictures(char **files, int count)
{
    for (int i = 0; i < count; i++) free(files[i]);
    free(files);
}

/* ---- Upright --------------------------------------------------------------------------------- */

/* EXIF data are a TIFF file: byte order, 42, offset of a table; the table has a count and entries
 * of 12 bytes: tag, type, count, value. */
typedef struct tiff {
    uint8_t *p;
    size_t n;
    bool is_big;
} tiff;

static uint32_t get(const tiff *t, size_t at, int bytes)
{
    uint32_t v = 0;
    for (int i = 0; i < bytes; i++)
        v |= (uint32_t)t->p[at + (size_t)i] << 8 * (t->is_big ? bytes - 1 - i : i);
    return v;
}

/* Where the number of the orientation is (two bytes), 0: nowhere. */
static size_t find_orientation(const tiff *t)
{
    if (t->n < 8 || get(t, 2, 2) != 42) return 0;
    const size_t table = get(t, 4, 4);
    if (table > t->n || t->n - table < 2) return 0;
    const size_t count = get(t, table, 2);
    for (size_t i = 0, at = table + 2; i < count && at <= t->n && t->n - at >= 12; i++, at += 12)
        if (get(t, at, 2) == 0x112)
            return get(t, at + 2, 2) == 3 && get(t, at + 4, 4) == 1 ? at + 8 : 0;
    return 0;
}

/* Pixel (x, y) of the upright picture lies at (*u, *v) of the stored one, w x h. */
static void place_of(int way, int w, int h, int x, int y, int *u, int *v)
{
    const bool is_swapped = way >= 5;
    *u = is_swapped ? y : x;
    *v = is_swapped ? x : y;
    if (way == 2 || way == 3 || way == 7 || way == 8) *u = w - 1 - *u;
    if (way == 3 || way == 4 || way == 6 || way == 7) *v = h - 1 - *v;
}

static fv_status turn(fv_ctx *ctx, fv_image *img, int way)
{
    fv_image to;
    const bool is_swapped = way >= 5;
    const size_t pixel = (size_t)(img->channels * img->depth / 8);
    const fv_status s =
        fv_image_create(ctx, &to, is_swapped ? img->height : img->width,
                        is_swapped ? img->width : img->height, img->channels, img->depth);
    if (s != FV_OK) return s;
    for (int y = 0; y < to.height; y++)
        for (int x = 0; x < to.width; x++) {
            int u, v;
            place_of(way, img->width, img->height, x, y, &u, &v);
            memcpy((uint8_t *)to.pixels + (size_t)y * to.stride_bytes + (size_t)x * pixel,
                   (const uint8_t *)img->pixels + (size_t)v * img->stride_bytes + (size_t)u * pixel,
                   pixel);
        }
    /* The metadata change hands. */
    to.icc = img->icc;
    to.icc_bytes = img->icc_bytes;
    to.exif = img->exif;
    to.exif_bytes = img->exif_bytes;
    to.text = img->text;
    to.text_count = img->text_count;
    img->icc = img->exif = NULL;
    img->text = NULL;
    img->text_count = 0;
    fv_image_free(ctx, img);
    *img = to;
    return FV_OK;
}

fv_status cli_turn_upright(fv_ctx *ctx, fv_image *img)
{
    tiff t = {img->exif, img->exif_bytes, false};
    if (!t.p || t.n < 8) return FV_OK;
    t.is_big = t.p[0] == 'M';
    if (memcmp(t.p, t.is_big ? "MM" : "II", 2) != 0) return FV_OK;
    const size_t at = find_orientation(&t);
    const uint32_t way = at ? get(&t, at, 2) : 1;
    if (way < 2 || way > 8) return FV_OK;
    const fv_status s = turn(ctx, img, (int)way);
    if (s != FV_OK) return s;
    img->exif[at] = t.is_big ? 0 : 1;
    img->exif[at + 1] = t.is_big ? 1 : 0;
    return FV_OK;
}

fv_status cli_decode_picture(fv_ctx *ctx, const uint8_t *bytes, size_t size,
                             const fv_image_read_options *o, fv_image *out)
{
    fv_image_read_options all = FV_IMAGE_READ_OPTIONS_INIT;
    if (o) all = *o;
    all.keep_metadata = 1;
    fv_status s = fv_image_decode(ctx, out, bytes, size, &all);
    if (s == FV_OK) s = cli_turn_upright(ctx, out);
    if (s != FV_OK) fv_image_free(ctx, out);
    return s;
}

/* ---- Measures -------------------------------------------------------------------------------- */

fv_status cli_measure(fv_ctx *ctx, const fv_image *a, const fv_image *b, cli_measures *out)
{
    const int side = a->width < a->height ? a->width : a->height;
    *out = (cli_measures){NAN, NAN, NAN, NAN};
    fv_status s = fv_psnr(ctx, a, b, &out->psnr);
    if (s == FV_OK && side >= CLI_GMSD_SIDE) s = fv_gmsd(ctx, a, b, &out->gmsd);
    if (s == FV_OK && side >= CLI_MS_SSIM_SIDE) s = fv_ms_ssim(ctx, a, b, &out->ms_ssim);
    if (s == FV_OK && side >= CLI_TEXTURE_SIDE) s = fv_texture(ctx, b, a, &out->texture);
    return s;
}
