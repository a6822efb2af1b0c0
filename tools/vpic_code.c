/* vpic_code.c - vpic c and vpic d: pictures to .rdvq files and back.
 *
 * A picture and its file are in memory as a whole. Output appears complete or not at all: it is
 * written beside its place and then named. */
#include "vpic.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NEAR_SIZE 0.02 /* of a size asked for */

typedef struct code_args {
    cli_common common;
    cli_list models;
    const char *out, *size, *region, *tile, *memory;
    double quality, bpp;
    int slices;
    uint64_t max_pixels, seed;
    bool is_sampled, drop_metadata, is_lenient;
    /* from the words above */
    uint64_t size_bytes, memory_bytes;
    int place[4];
    fv_ctx *ctx;
    vpic_shelf shelf;
    bool is_first; /* of the objects in the JSON list */
} code_args;

/* ---- Names and files ------------------------------------------------------------------------- */

/* Where the result goes, malloced; "-" is standard output. */
static char *name_output(const code_args *a, const char *in, const char *suffix)
{
    if (a->out) return cli_format("%s", a->out);
    if (strcmp(in, "-") == 0) return cli_format("-");
    const char *dot = strrchr(in, '.');
    const bool is_known = cli_has_picture_suffix(in) || cli_has_suffix(in, VPIC_SUFFIX);
    const size_t n = is_known && dot && dot > cli_base_name(in) ? (size_t)(dot - in) : strlen(in);
    return cli_format("%.*s%s", (int)n, in, suffix);
}

static bool is_stdout(const char *path)
{
    return strcmp(path, "-") == 0;
}

/* By another name, too. */
static bool is_same_file(const char *in, const char *out)
{
    struct stat a, b;
    return (is_stdout(in) ? fstat(STDIN_FILENO, &a) : stat(in, &a)) == 0 && stat(out, &b) == 0 &&
           S_ISREG(a.st_mode) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* Asked before the work. */
static int check_output(const code_args *a, const char *in, const char *out)
{
    if (is_stdout(out)) {
        if (isatty(STDOUT_FILENO) && !a->common.force)
            return cli_fail(CLI_FAILED, "the result is not written to a terminal: give a file, -o, "
                            "a pipe, or -f");
        return CLI_OK;
    }
    if (is_same_file(in, out))
        return cli_fail(CLI_FAILED, "%s: is the input as well; choose another name", out);
    return cli_check_place(out, a->common.force);
}

static int put_stdout(const void *bytes, size_t size)
{
    if (fwrite(bytes, 1, size, stdout) == size) return CLI_OK;
    return cli_fail(CLI_FAILED, "standard output: write failed");
}

static double rate_of(uint64_t bytes, double pixels)
{
    return 8 * (double)bytes / pixels;
}

/* ---- vpic c ---------------------------------------------------------------------------------- */

static void set_options(const code_args *a, fv_vpic_options *o)
{
    o->models = a->shelf.model;
    o->model_count = a->shelf.count;
    o->quality = a->quality;
    o->bpp = a->bpp;
    o->size = a->size_bytes;
    o->slices = a->slices;
    while (a->tile && (1 << o->tile_log2) < atoi(a->tile)) o->tile_log2++;
    o->sampled = a->is_sampled;
    o->seed = (uint32_t)a->seed;
    o->drop_metadata = a->drop_metadata;
    o->memory_bytes = a->memory_bytes;
}

static void json_encoded(code_args *a, const char *in, const char *out, const fv_vpic_stats *st,
                         double seconds)
{
    cli_json j;
    if (!a->is_first) fputs(", ", stdout);
    a->is_first = false;
    cli_json_open(&j, stdout);
    cli_json_string(&j, "file", in);
    cli_json_string(&j, "output", out);
    cli_json_u64(&j, "pixels", st->pixels);
    cli_json_u64(&j, "bytes", st->bytes);
    cli_json_number(&j, "bpp", rate_of(st->bytes, (double)st->pixels));
    cli_json_u64(&j, "metadata_bytes", st->chunk_bytes);
    cli_json_u64(&j, "token_bytes", st->segment_bytes);
    cli_json_number(&j, "model_bits", st->bits);
    cli_json_string(&j, "model", st->model);
    cli_json_number(&j, "mu", st->mu);
    cli_json_u64(&j, "slices", (uint64_t)st->slices);
    cli_json_u64(&j, "passes", (uint64_t)st->passes);
    cli_json_number(&j, "seconds", seconds);
    cli_json_number(&j, "pixel_seconds", st->pixel_seconds);
    cli_json_number(&j, "token_seconds", st->token_seconds);
    cli_json_u64(&j, "memory_bytes", st->memory_bytes);
    fputs("\n}", stdout);
}

/* What was asked for and cannot be had is worth a line even when nobody is looking. */
static void tell_encoded(const code_args *a, const char *in, const char *out,
                         const fv_vpic_stats *st, double seconds)
{
    const double rate = rate_of(st->bytes, (double)st->pixels);
    const double asked = a->size_bytes ? (double)a->size_bytes
                         : a->bpp > 0  ? a->bpp * (double)st->pixels / 8
                                       : (double)st->bytes;
    const double off = (double)st->bytes / asked - 1;
    if (fabs(off) > NEAR_SIZE)
        cli_note("%s: %llu bytes, %.0f %% %s than asked for: the nearest that the models reach", in,
                 (unsigned long long)st->bytes, 100 * fabs(off), off > 0 ? "more" : "less");
    if (isatty(STDERR_FILENO) || a->common.verbose)
        cli_note("%s -> %s: %llu bytes, %.3f bits per pixel, model %s, %.2f s", in, out,
                 (unsigned long long)st->bytes, rate, st->model, seconds);
    cli_detail("%s: mu %.4g, %d slices, %d passes, %.2f s pixels, %.2f s tokens, %.1f MiB", in,
               st->mu, st->slices, st->passes, st->pixel_seconds, st->token_seconds,
               (double)st->memory_bytes / 1048576);
}

static int encode(code_args *a, const char *in, const char *out)
{
    fv_vpic_options o = FV_VPIC_OPTIONS_INIT;
    fv_vpic_stats st;
    fv_image img = {0};
    uint8_t *bytes = NULL, *file = NULL;
    size_t size = 0, file_size = 0;
    const double start = cli_now();
    int code = cli_read_bytes(in, VPIC_MOST_BYTES, &bytes, &size);
    if (code != CLI_OK) return code;
    set_options(a, &o);
    fv_status s = cli_decode_picture(a->ctx, bytes, size, NULL, &img);
    free(bytes);
    if (s == FV_OK) s = fv_vpic_encode(a->ctx, &img, &o, &file, &file_size, &st);
    fv_image_free(a->ctx, &img);
    if (s != FV_OK) return cli_report(a->ctx, s, in);
    code = is_stdout(out) ? put_stdout(file, file_size)
                          : cli_save_bytes(out, file, file_size, a->common.force);
    fv_free(a->ctx, file);
    if (code != CLI_OK) return code;
    if (a->common.json) json_encoded(a, in, out, &st, cli_now() - start);
    tell_encoded(a, in, out, &st, cli_now() - start);
    return CLI_OK;
}

static int check_encoding(code_args *a)
{
    if ((a->quality > 0) + (a->bpp > 0) + (a->size != NULL) > 1)
        return cli_fail(CLI_USAGE, "--quality, --bpp and --size exclude each other");
    if (a->seed > UINT32_MAX)
        return cli_fail(CLI_USAGE, "--seed: at most 4294967295");
    int code = a->size ? cli_parse_size("--size", a->size, 1, &a->size_bytes) : CLI_OK;
    return code;
}

/* ---- vpic d ---------------------------------------------------------------------------------- */

static void json_decoded(code_args *a, const char *in, const char *out, const fv_image *img,
                         const fv_vpic_stats *st, double seconds)
{
    cli_json j;
    if (!a->is_first) fputs(", ", stdout);
    a->is_first = false;
    cli_json_open(&j, stdout);
    cli_json_string(&j, "file", in);
    cli_json_string(&j, "output", out);
    cli_json_u64(&j, "width", (uint64_t)img->width);
    cli_json_u64(&j, "height", (uint64_t)img->height);
    cli_json_u64(&j, "bytes", st->bytes);
    cli_json_string(&j, "model", st->model);
    cli_json_u64(&j, "slices", (uint64_t)st->slices);
    cli_json_u64(&j, "slices_decoded", (uint64_t)st->slices_decoded);
    cli_json_u64(&j, "tiles", (uint64_t)st->tiles);
    cli_json_u64(&j, "short_tiles", (uint64_t)st->short_tiles);
    cli_json_bool(&j, "truncated", st->is_truncated);
    cli_json_number(&j, "seconds", seconds);
    cli_json_number(&j, "pixel_seconds", st->pixel_seconds);
    cli_json_number(&j, "token_seconds", st->token_seconds);
    cli_json_u64(&j, "memory_bytes", st->memory_bytes);
    fputs("\n}", stdout);
}

static void tell_decoded(const code_args *a, const char *in, const char *out, const fv_image *img,
                         const fv_vpic_stats *st, double seconds)
{
    if (st->is_truncated)
        cli_note("%s: is cut: %d of %d tiles lack slices, which the model made up", in,
                 st->short_tiles, st->tiles);
    if (isatty(STDERR_FILENO) || a->common.verbose)
        cli_note("%s -> %s: %d x %d pixels, model %s, %.2f s", in, out, img->width, img->height,
                 st->model, seconds);
    cli_detail("%s: %d of %d slices, %d tiles, %.2f s pixels, %.2f s tokens, %.1f MiB", in,
               st->slices_decoded, st->slices, st->tiles, st->pixel_seconds, st->token_seconds,
               (double)st->memory_bytes / 1048576);
}

/* To standard output as PNG; files without losses in the format of their suffix. */
static int write_picture(const code_args *a, fv_image *img, const char *out)
{
    fv_image_write_options o = FV_IMAGE_WRITE_OPTIONS_INIT;
    o.lossless = 1;
    o.overwrite = a->common.force;
    if (!is_stdout(out)) {
        if (cli_is_special(out)) o.format = FV_IMAGE_PNG;
        const fv_status s = fv_image_write(a->ctx, img, out, &o);
        return s == FV_OK ? CLI_OK : cli_report(a->ctx, s, out);
    }
    uint8_t *bytes = NULL;
    size_t size = 0;
    o.format = FV_IMAGE_PNG;
    const fv_status s = fv_image_encode(a->ctx, img, &o, &bytes, &size);
    if (s != FV_OK) return cli_report(a->ctx, s, "standard output");
    const int code = put_stdout(bytes, size);
    fv_free(a->ctx, bytes);
    return code;
}

static int decode(code_args *a, const char *in, const char *out)
{
    fv_vpic_limits l = FV_VPIC_LIMITS_INIT;
    fv_vpic_stats st;
    fv_image img = {0};
    uint8_t *bytes = NULL;
    size_t size = 0;
    const double start = cli_now();
    int code = cli_read_bytes(in, VPIC_MOST_BYTES, &bytes, &size);
    if (code != CLI_OK) return code;
    l.max_pixels = a->max_pixels;
    l.memory_bytes = a->memory_bytes;
    l.strict = !a->is_lenient;
    l.slices = a->slices;
    memcpy(l.region, a->place, sizeof l.region);
    l.models = a->shelf.model;
    l.model_count = a->shelf.count;
    const fv_status s = fv_vpic_decode(a->ctx, bytes, size, &l, &img, &st);
    free(bytes);
    if (s != FV_OK) return cli_report(a->ctx, s, is_stdout(in) ? "standard input" : in);
    code = write_picture(a, &img, out);
    if (code == CLI_OK && a->common.json)
        json_decoded(a, in, out, &img, &st, cli_now() - start);
    if (code == CLI_OK) tell_decoded(a, in, out, &img, &st, cli_now() - start);
    fv_image_free(a->ctx, &img);
    return code;
}

static int check_decoding(code_args *a)
{
    if (a->out && !is_stdout(a->out) && !cli_is_special(a->out)) {
        if (!cli_has_picture_suffix(a->out))
            return cli_fail(CLI_USAGE, "-o %s: a name in .png, .webp or .ppm is needed", a->out);
        if (cli_has_suffix(a->out, ".jpg") || cli_has_suffix(a->out, ".jpeg"))
            return cli_fail(CLI_USAGE, "-o %s: JPEG would lose once more; .png, .webp or .ppm",
                            a->out);
    }
    if (!a->region) return CLI_OK;
    int used = 0, *p = a->place;
    if (sscanf(a->region, "%d,%d,%d,%d%n", &p[0], &p[1], &p[2], &p[3], &used) != 4 ||
        a->region[used] || p[0] < 0 || p[1] < 0 || p[2] < 1 || p[3] < 1)
        return cli_fail(CLI_USAGE, "--region %s: X,Y,WIDTH,HEIGHT in pixels is needed", a->region);
    return CLI_OK;
}

/* ---- Both ------------------------------------------------------------------------------------ */

static int run_files(code_args *a, const char **files, int count, const char *suffix,
                     int (*one)(code_args *a, const char *in, const char *out))
{
    int code = CLI_OK;
    if (a->common.json) fputs("{\n  \"files\": [", stdout);
    a->is_first = true;
    for (int i = 0; i < count && !cli_interrupted(); i++) {
        char *out = name_output(a, files[i], suffix);
        int c = check_output(a, files[i], out);
        if (c == CLI_OK) c = one(a, files[i], out);
        if (code == CLI_OK || c == CLI_INTERRUPTED) code = c;
        free(out);
    }
    if (cli_interrupted() && code != CLI_INTERRUPTED)
        code = cli_fail(CLI_INTERRUPTED, "interrupted");
    if (a->common.json) puts("]\n}");
    return code;
}

/* A place for a result: its folder, whatever it is called, and its name there. */
typedef struct place {
    dev_t device;
    ino_t folder;
    char *out;      /* malloced */
    const char *in; /* whose result it is */
} place;

static int by_place(const void *a, const void *b)
{
    const place *x = a, *y = b;
    if (x->device != y->device) return x->device < y->device ? -1 : 1;
    if (x->folder != y->folder) return x->folder < y->folder ? -1 : 1;
    return strcmp(cli_base_name(x->out), cli_base_name(y->out));
}

/* A folder that is not there has the numbers 0. */
static place find_place(const code_args *a, const char *in, const char *suffix)
{
    place p = {0, 0, name_output(a, in, suffix), in};
    struct stat st;
    char *folder = cli_folder_of(p.out);
    if (stat(folder, &st) == 0) {
        p.device = st.st_dev;
        p.folder = st.st_ino;
    }
    free(folder);
    return p;
}

/* Each file has a result of its own, which no other overwrites, and standard input comes once. */
static int check_places(const code_args *a, const char **files, int count, const char *suffix)
{
    place *p = calloc((size_t)count, sizeof *p);
    int code = p ? CLI_OK : cli_fail(CLI_FAILED, "out of memory");
    for (int i = 0; p && i < count; i++) p[i] = find_place(a, files[i], suffix);
    if (p) qsort(p, (size_t)count, sizeof *p, by_place);
    for (int i = 1; i < count && code == CLI_OK; i++) {
        if (by_place(&p[i - 1], &p[i]) != 0) continue;
        code = is_stdout(p[i].in) ? cli_fail(CLI_USAGE, "standard input (-) can be read once")
                                  : cli_fail(CLI_USAGE, "%s and %s would both become %s",
                                             p[i - 1].in, p[i].in, p[i].out);
    }
    for (int i = 0; p && i < count; i++) free(p[i].out);
    free(p);
    return code;
}

static int run_both(code_args *a, const char **files, int count, bool is_decoding)
{
    const char *suffix = is_decoding ? ".png" : VPIC_SUFFIX;
    int code = is_decoding ? check_decoding(a) : check_encoding(a);
    if (code == CLI_OK && a->out && count > 1)
        code = cli_fail(CLI_USAGE, "-o takes the result of one file, not of several");
    if (code == CLI_OK && a->memory)
        code = cli_parse_size("--memory", a->memory, 1, &a->memory_bytes);
    if (code == CLI_OK) code = check_places(a, files, count, suffix);
    for (int i = 0; i < count && code == CLI_OK; i++) {
        if (is_stdout(files[i]) && isatty(STDIN_FILENO))
            code = cli_fail(CLI_USAGE, "standard input is a terminal: give a file");
        else if (a->common.json && is_stdout(a->out ? a->out : files[i]))
            code = cli_fail(CLI_USAGE,
                            "--json and a result on standard output exclude each other");
    }
    if (code == CLI_OK) code = cli_start(&a->ctx, &a->common);
    if (code == CLI_OK) code = vpic_shelf_open(&a->shelf, a->ctx, &a->models, !is_decoding);
    if (code == CLI_OK)
        code = run_files(a, files, count, suffix, is_decoding ? decode : encode);
    vpic_shelf_close(&a->shelf);
    return cli_finish(&a->ctx, code);
}

static int encode_files(void *args, const char **files, int count)
{
    return run_both(args, files, count, false);
}

static int decode_files(void *args, const char **files, int count)
{
    return run_both(args, files, count, true);
}

int vpic_encode(int argc, char **argv)
{
    code_args a = {.common = {0}};
    const cli_option options[] = {
        {'o', NULL, "FILE", "write here; - is standard output", CLI_STRING, &a.out, 0, 0},
        {0, "quality", "Q", "0.1 smallest .. 100 best (default 50)", CLI_NUMBER, &a.quality, 0.1,
         100},
        {0, "bpp", "B", "bits per pixel of the file, as near as the models allow", CLI_NUMBER,
         &a.bpp, 0.001, 100},
        {0, "size", "SIZE", "bytes of the file, as in 20K", CLI_STRING, &a.size, 0, 0},
        {0, "model", "FILE", "model to use instead of vpic's own; may be repeated", CLI_LIST,
         &a.models, 0, 0},
        {0, "slices", "N", "code only so many slices, the decoder makes up the rest", CLI_INT,
         &a.slices, 1, 255},
        {0, "sampled", NULL, "draw these from the model, instead of its likeliest", CLI_FLAG,
         &a.is_sampled, 0, 0},
        {0, "seed", "N", "of what is drawn", CLI_U64, &a.seed, 0, 0},
        {0, "tile", "256|512|1024|2048|4096",
         "pixels a side of what can be decoded alone (default 512)", CLI_CHOICE, &a.tile, 0, 0},
        {0, "drop-metadata", NULL, "leave out ICC profile, EXIF and XMP", CLI_FLAG,
         &a.drop_metadata, 0, 0},
        {0, "memory", "SIZE", "most to use beside the picture (default 1536M)", CLI_STRING,
         &a.memory, 0, 0},
        CLI_OPT_THREADS(&a.common),
        CLI_OPT_DEVICE(&a.common),
        CLI_OPT_FORCE(&a.common),
        CLI_OPT_JSON(&a.common),
        CLI_OPT_TALK_END(&a.common)};
    const cli_command command = {
        "vpic c",
        "[options] PICTURE ...",
        "PICTURE (PNG, JPEG, WebP, PNM) becomes a .rdvq file beside it.",
        "SIZE is a number of bytes, or K, M: 20K, 1M. PICTURE - is standard input.\n",
        options,
        1,
        argc};
    return cli_run_files(&command, argc, argv, encode_files, &a);
}

int vpic_decode(int argc, char **argv)
{
    code_args a = {.max_pixels = FV_IMAGE_MAX_PIXELS};
    const cli_option options[] = {
        {'o', NULL, "FILE", "write here (.png, .webp, .ppm); - is standard output", CLI_STRING,
         &a.out, 0, 0},
        {0, "model", "FILE", "model to look at before vpic's own; may be repeated", CLI_LIST,
         &a.models, 0, 0},
        {0, "region", "X,Y,W,H", "only this part of the picture", CLI_STRING, &a.region, 0, 0},
        {0, "slices", "N", "decode only so many slices, the model makes up the rest", CLI_INT,
         &a.slices, 1, 255},
        {0, "lenient", NULL, "take files that are cut; the model makes up the rest", CLI_FLAG,
         &a.is_lenient, 0, 0},
        {0, "max-pixels", "N", "refuse larger pictures (default 268435456)", CLI_U64, &a.max_pixels,
         0, 0},
        {0, "memory", "SIZE", "most to use beside the picture (default 1536M)", CLI_STRING,
         &a.memory, 0, 0},
        CLI_OPT_THREADS(&a.common),
        CLI_OPT_DEVICE(&a.common),
        CLI_OPT_FORCE(&a.common),
        CLI_OPT_JSON(&a.common),
        CLI_OPT_TALK_END(&a.common)};
    const cli_command command = {"vpic d",
                                 "[options] FILE.rdvq ...",
                                 "FILE.rdvq becomes FILE.png.",
                                 "FILE - is standard input.\n",
                                 options,
                                 1,
                                 argc};
    return cli_run_files(&command, argc, argv, decode_files, &a);
}
