/* vpic_info.c - vpic info: what is in .rdvq files and in models, without decoding. */
#include "vpic.h"

#include <stdlib.h>
#include <string.h>

typedef struct info_args {
    cli_common common;
    bool is_first;
} info_args;

static const char *colour_name(int colour)
{
    static const char *const names[] = {"sRGB",         "Display P3",  "Rec. 2020 PQ",
                                        "Rec. 2020 HLG", "linear sRGB", "ICC profile"};
    return colour >= 0 && colour < (int)(sizeof names / sizeof *names) ? names[colour] : "unknown";
}

/* The model that a file names, if it is one of the library's own: *name; else "not at hand". */
static void name_model(fv_ctx *ctx, uint32_t id, uint32_t hash, char *to, size_t size)
{
    snprintf(to, size, "not part of this vpic");
    for (int i = 0; i < fv_vpic_own_count(); i++) {
        fv_vpic_model *m = NULL;
        fv_vpic_model_info info;
        if (fv_vpic_model_open_own(ctx, &m, i) != FV_OK) continue;
        fv_vpic_model_get_info(m, &info);
        if (info.hash == hash && info.id == id) cli_printable(info.name, to, size);
        fv_vpic_model_close(&m);
    }
}

/* ---- Files ----------------------------------------------------------------------------------- */

static void print_file(const char *path, const fv_vpic_info *i, uint64_t size, const char *model)
{
    const double pixels = (double)i->width * i->height;
    char name[512];
    cli_printable(path, name, sizeof name);
    printf("%s: %d x %d pixels, %d channel%s of %d bits, %s\n", name, i->width, i->height,
           i->channels, i->channels == 1 ? "" : "s", i->depth, colour_name(i->colour));
    printf("  bytes      %llu, %.4f bits per pixel\n", (unsigned long long)i->whole_bytes,
           8 * (double)i->whole_bytes / pixels);
    if (i->is_truncated)
        printf("  cut        %llu bytes are there\n", (unsigned long long)size);
    printf("  header     %llu (ICC %llu, EXIF %llu, XMP %llu, alpha %llu)\n",
           (unsigned long long)i->header_bytes, (unsigned long long)i->icc_bytes,
           (unsigned long long)i->exif_bytes, (unsigned long long)i->xmp_bytes,
           (unsigned long long)i->alpha_bytes);
    for (int l = 0; l < i->layers; l++)
        printf("  layer %d    %llu\n", l + 1, (unsigned long long)i->layer_bytes[l]);
    printf("  model      %u-%08x, %s\n", i->model_id, i->model_hash, model);
    printf("  slices     %d%s\n", i->slices, i->is_sampled ? ", what is missing is drawn" : "");
    printf("  tiles      %d x %d of %d pixels%s\n", i->tiles_x, i->tiles_y, i->tile,
           i->has_segment_crcs ? ", each with checksums" : "");
}

static void json_file(const char *path, const fv_vpic_info *i, uint64_t size, const char *model)
{
    cli_json j;
    char id[32];
    snprintf(id, sizeof id, "%u-%08x", i->model_id, i->model_hash);
    cli_json_open(&j, stdout);
    cli_json_string(&j, "file", path);
    cli_json_string(&j, "kind", "picture");
    cli_json_u64(&j, "width", (uint64_t)i->width);
    cli_json_u64(&j, "height", (uint64_t)i->height);
    cli_json_u64(&j, "channels", (uint64_t)i->channels);
    cli_json_u64(&j, "depth", (uint64_t)i->depth);
    cli_json_string(&j, "colour", colour_name(i->colour));
    cli_json_u64(&j, "bytes", i->whole_bytes);
    cli_json_u64(&j, "bytes_there", size);
    cli_json_number(&j, "bpp", 8 * (double)i->whole_bytes / ((double)i->width * i->height));
    cli_json_bool(&j, "truncated", i->is_truncated);
    cli_json_u64(&j, "header_bytes", i->header_bytes);
    cli_json_u64(&j, "icc_bytes", i->icc_bytes);
    cli_json_u64(&j, "exif_bytes", i->exif_bytes);
    cli_json_u64(&j, "xmp_bytes", i->xmp_bytes);
    cli_json_u64(&j, "alpha_bytes", i->alpha_bytes);
    cli_json_key(&j, "layer_bytes");
    for (int l = 0; l < i->layers; l++)
        printf("%s%llu", l ? ", " : "[", (unsigned long long)i->layer_bytes[l]);
    fputs(i->layers ? "]" : "[]", stdout);
    cli_json_string(&j, "model", id);
    cli_json_string(&j, "model_name", model);
    cli_json_u64(&j, "slices", (uint64_t)i->slices);
    cli_json_u64(&j, "tile", (uint64_t)i->tile);
    cli_json_u64(&j, "tiles_x", (uint64_t)i->tiles_x);
    cli_json_u64(&j, "tiles_y", (uint64_t)i->tiles_y);
    fputs("\n}", stdout);
}

/* ---- Models ---------------------------------------------------------------------------------- */

static void print_model(const char *path, const fv_vpic_model_info *i)
{
    char name[512];
    cli_printable(path, name, sizeof name);
    printf("%s: model %s, %u-%08x\n", name, i->name, i->id, i->hash);
    printf("  weights    %.2f million, %.1f MiB in memory\n", 1e-6 * (double)i->parameters,
           (double)i->bytes / 1048576);
    printf("  codes      %d; %d layers, %d slices, windows of %d pixels\n", i->codes, i->layers,
           i->slices, i->window);
    if (i->nominal_bpp > 0) printf("  rate       about %.3f bits per pixel\n", i->nominal_bpp);
}

static void json_model(const char *path, const fv_vpic_model_info *i)
{
    cli_json j;
    char id[32];
    snprintf(id, sizeof id, "%u-%08x", i->id, i->hash);
    cli_json_open(&j, stdout);
    cli_json_string(&j, "file", path);
    cli_json_string(&j, "kind", "model");
    cli_json_string(&j, "name", i->name);
    cli_json_string(&j, "model", id);
    cli_json_u64(&j, "parameters", (uint64_t)i->parameters);
    cli_json_u64(&j, "memory_bytes", i->bytes);
    cli_json_u64(&j, "codes", (uint64_t)i->codes);
    cli_json_u64(&j, "layers", (uint64_t)i->layers);
    cli_json_u64(&j, "slices", (uint64_t)i->slices);
    cli_json_u64(&j, "window", (uint64_t)i->window);
    cli_json_number(&j, "nominal_bpp", i->nominal_bpp);
    fputs("\n}", stdout);
}

static void put_model(info_args *a, const char *path, const fv_vpic_model *m)
{
    fv_vpic_model_info i;
    fv_vpic_model_get_info(m, &i);
    if (a->common.json && !a->is_first) fputs(", ", stdout);
    a->is_first = false;
    if (a->common.json) json_model(path, &i);
    else print_model(path, &i);
}

/* ---- All of it ------------------------------------------------------------------------------- */

static bool is_picture(const uint8_t *bytes, size_t size)
{
    static const uint8_t magic[4] = {0x8a, 'R', 'D', 'V'};
    return size >= sizeof magic && memcmp(bytes, magic, sizeof magic) == 0;
}

/* What is no picture of ours must be a model. */
static int show_one(info_args *a, fv_ctx *ctx, const char *path)
{
    fv_vpic_info i;
    fv_vpic_model *m = NULL;
    char model[80];
    uint8_t *bytes = NULL;
    size_t size = 0;
    const int code = cli_read_bytes(path, VPIC_MOST_BYTES, &bytes, &size);
    if (code != CLI_OK) return code;
    const bool is_file = is_picture(bytes, size);
    fv_status s = is_file ? fv_vpic_read_info(ctx, bytes, size, &i)
                          : fv_vpic_model_open_memory(ctx, &m, bytes, size);
    if (s == FV_OK && is_file) {
        name_model(ctx, i.model_id, i.model_hash, model, sizeof model);
        if (a->common.json && !a->is_first) fputs(", ", stdout);
        a->is_first = false;
        if (a->common.json) json_file(path, &i, size, model);
        else print_file(path, &i, size, model);
    } else if (s == FV_OK) {
        put_model(a, path, m);
    }
    fv_vpic_model_close(&m);
    free(bytes);
    return s == FV_OK ? CLI_OK : cli_report(ctx, s, path);
}

static int show_own(info_args *a, fv_ctx *ctx)
{
    if (fv_vpic_own_count() == 0 && !a->common.json) puts("vpic was built without models");
    for (int i = 0; i < fv_vpic_own_count(); i++) {
        fv_vpic_model *m = NULL;
        const fv_status s = fv_vpic_model_open_own(ctx, &m, i);
        if (s != FV_OK) return cli_report(ctx, s, NULL);
        put_model(a, "vpic", m);
        fv_vpic_model_close(&m);
    }
    return CLI_OK;
}

static int show_files(void *args, const char **files, int count)
{
    info_args *a = args;
    fv_ctx *ctx = NULL;
    int code = cli_start(&ctx, &a->common);
    if (code != CLI_OK) return cli_finish(&ctx, code);
    a->is_first = true;
    if (a->common.json) fputs("{\n  \"files\": [", stdout);
    if (count == 0) code = show_own(a, ctx);
    for (int i = 0; i < count && !cli_interrupted(); i++) {
        const int c = show_one(a, ctx, files[i]);
        if (code == CLI_OK || c == CLI_INTERRUPTED) code = c;
    }
    if (a->common.json) puts("]\n}");
    if (cli_interrupted() && code != CLI_INTERRUPTED)
        code = cli_fail(CLI_INTERRUPTED, "interrupted");
    return cli_finish(&ctx, code);
}

int vpic_info(int argc, char **argv)
{
    info_args a = {.common = {0}};
    const cli_option options[] = {CLI_OPT_JSON(&a.common), CLI_OPT_TALK_END(&a.common)};
    const cli_command command = {
        "vpic info",
        "[options] [FILE ...]",
        "Sizes, model, slices and tiles of .rdvq files, and what is in model files; without FILE: "
        "the models that are part of vpic.",
        NULL,
        options,
        0,
        argc};
    return cli_run_files(&command, argc, argv, show_files, &a);
}
