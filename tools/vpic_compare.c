/* vpic_compare.c - vpic compare: how far two pictures are apart.
 *
 * Both are taken as RGB of 16 bits, upright. Where one of them has transparency, both are laid over
 * grey, which hides neither black nor white, and the alpha planes are compared by themselves. */
#include "cli_perceptual.h"
#include "vpic.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define OPAQUE 65535u
#define GREY 32768u

typedef struct compare_args {
    cli_common common;
    const char *weights[CLI_PERCEPTUALS];
} compare_args;

typedef struct pair {
    fv_image image[2];
    const char *name[2];
    uint64_t bytes[2];
    bool has_alpha;
    double alpha_psnr;
    cli_measures m;
    double distance[CLI_PERCEPTUALS]; /* NaN: not asked for */
} pair;

static uint16_t *row_of(const fv_image *img, int y)
{
    return (uint16_t *)((uint8_t *)img->pixels + (size_t)y * img->stride_bytes);
}

/* ---- Alpha ----------------------------------------------------------------------------------- */

static bool is_opaque(const fv_image *img)
{
    for (int y = 0; y < img->height; y++) {
        const uint16_t *p = row_of(img, y);
        for (int x = 0; x < img->width; x++)
            if (p[4 * x + 3] != OPAQUE) return false;
    }
    return true;
}

/* As fv_psnr, of the alpha planes. */
static double alpha_psnr(const fv_image *a, const fv_image *b)
{
    double sum = 0;
    for (int y = 0; y < a->height; y++) {
        const uint16_t *p = row_of(a, y), *q = row_of(b, y);
        for (int x = 0; x < a->width; x++) {
            const double d = (double)p[4 * x + 3] - q[4 * x + 3];
            sum += d * d;
        }
    }
    const double mean = sum / ((double)a->width * a->height);
    return mean > 0 ? 10 * log10((double)OPAQUE * OPAQUE / mean) : INFINITY;
}

static void lay_over_grey(fv_image *img)
{
    for (int y = 0; y < img->height; y++) {
        uint16_t *p = row_of(img, y);
        for (int x = 0; x < img->width; x++, p += 4)
            for (int c = 0; c < 3; c++)
                p[c] = (uint16_t)(((uint64_t)p[c] * p[3] + (uint64_t)GREY * (OPAQUE - p[3]) +
                                   OPAQUE / 2) / OPAQUE);
    }
}

/* ---- Comparing ------------------------------------------------------------------------------- */

static int read_one(fv_ctx *ctx, pair *p, int i)
{
    fv_image_read_options o = FV_IMAGE_READ_OPTIONS_INIT;
    uint8_t *bytes;
    size_t size;
    o.channels = 4;
    o.depth = 16;
    int code = cli_read_bytes(p->name[i], VPIC_MOST_BYTES, &bytes, &size);
    if (code != CLI_OK) return code;
    const fv_status s = cli_decode_picture(ctx, bytes, size, &o, &p->image[i]);
    if (s != FV_OK) code = cli_report(ctx, s, p->name[i]);
    p->bytes[i] = size;
    free(bytes);
    return code;
}

static int measure(fv_ctx *ctx, pair *p)
{
    const fv_image *a = &p->image[0], *b = &p->image[1];
    if (a->width != b->width || a->height != b->height)
        return cli_fail(CLI_BAD_INPUT, "%s has %d x %d pixels, %s has %d x %d: only pictures of "
                        "one size can be compared", p->name[0], a->width, a->height, p->name[1],
                        b->width, b->height);
    p->has_alpha = !is_opaque(a) || !is_opaque(b);
    if (p->has_alpha) {
        p->alpha_psnr = alpha_psnr(a, b);
        for (int i = 0; i < 2; i++) lay_over_grey(&p->image[i]);
    }
    const fv_status s = cli_measure(ctx, a, b, &p->m);
    return s == FV_OK ? CLI_OK : cli_report(ctx, s, NULL);
}

/* Distances with the weights of files. */
static int measure_features(fv_ctx *ctx, const char *const paths[CLI_PERCEPTUALS], pair *p)
{
    cli_perceptual nets;
    int code = cli_open_perceptual(ctx, paths, &nets);
    if (code == CLI_OK) {
        const fv_status s =
            cli_measure_perceptual(ctx, &nets, &p->image[0], &p->image[1], p->distance);
        if (s != FV_OK) code = cli_report(ctx, s, NULL);
    }
    cli_close_perceptual(&nets);
    return code;
}

static void print_db(const char *name, double db)
{
    if (isfinite(db)) printf("%-8s %9.3f dB\n", name, db);
    else printf("%-8s     equal\n", name);
}

static void print_value(const char *name, double v, int side)
{
    if (isnan(v)) printf("%-8s         -  (needs sides of %d pixels)\n", name, side);
    else printf("%-8s %9.5f\n", name, v);
}

static void print_text(const pair *p)
{
    print_db("PSNR", p->m.psnr);
    print_value("MS-SSIM", p->m.ms_ssim, CLI_MS_SSIM_SIDE);
    print_value("GMSD", p->m.gmsd, CLI_GMSD_SIDE);
    print_value("WD", p->m.texture, CLI_TEXTURE_SIDE);
    for (int k = 0; k < CLI_PERCEPTUALS; k++)
        if (!isnan(p->distance[k])) print_value(cli_perceptual_name[k], p->distance[k], 0);
    if (p->has_alpha) print_db("alpha", p->alpha_psnr);
}

static void print_json(const pair *p)
{
    const double pixels = (double)p->image[0].width * p->image[0].height;
    const bool is_equal = p->m.psnr > 0 && isinf(p->m.psnr) &&
                          (!p->has_alpha || isinf(p->alpha_psnr));
    cli_json j;
    cli_json_open(&j, stdout);
    cli_json_string(&j, "a", p->name[0]);
    cli_json_string(&j, "b", p->name[1]);
    cli_json_u64(&j, "width", (uint64_t)p->image[0].width);
    cli_json_u64(&j, "height", (uint64_t)p->image[0].height);
    cli_json_u64(&j, "a_bytes", p->bytes[0]);
    cli_json_u64(&j, "b_bytes", p->bytes[1]);
    cli_json_number(&j, "a_bpp", 8 * (double)p->bytes[0] / pixels);
    cli_json_number(&j, "b_bpp", 8 * (double)p->bytes[1] / pixels);
    cli_json_bool(&j, "equal", is_equal);
    cli_json_number(&j, "psnr_db", p->m.psnr); /* null: equal */
    cli_json_number(&j, "ms_ssim", p->m.ms_ssim);
    cli_json_number(&j, "gmsd", p->m.gmsd);
    cli_json_number(&j, "wd", p->m.texture);
    for (int k = 0; k < CLI_PERCEPTUALS; k++)
        if (!isnan(p->distance[k])) cli_json_number(&j, cli_perceptual_key[k], p->distance[k]);
    cli_json_number(&j, "alpha_psnr_db", p->has_alpha ? p->alpha_psnr : NAN);
    cli_json_close(&j);
}

static int compare_files(void *user, const char **files, int count)
{
    const compare_args *a = user;
    fv_ctx *ctx = NULL;
    pair *p = calloc(1, sizeof *p);
    if (!p) return cli_fail(CLI_FAILED, "out of memory");
    int code = cli_start(&ctx, &a->common);
    for (int i = 0; i < count && code == CLI_OK; i++) {
        p->name[i] = files[i];
        code = read_one(ctx, p, i);
    }
    if (code == CLI_OK) code = measure(ctx, p);
    if (code == CLI_OK) code = measure_features(ctx, a->weights, p);
    if (code == CLI_OK) {
        if (a->common.json) print_json(p);
        else print_text(p);
    }
    for (int i = 0; i < 2 && ctx; i++) fv_image_free(ctx, &p->image[i]);
    free(p);
    return cli_finish(&ctx, code);
}

int vpic_compare(int argc, char **argv)
{
    compare_args a = {.common = {0}};
    const cli_option options[] = {CLI_OPT_PERCEPTUAL(a.weights),
                                  CLI_OPT_THREADS(&a.common), CLI_OPT_JSON(&a.common),
                                  CLI_OPT_TALK_END(&a.common)};
    const cli_command command = {
        "vpic compare",
        "[options] A B",
        "How far picture B is from picture A: PSNR, MS-SSIM, GMSD, and WD, a distance of textures.",
        "PSNR and MS-SSIM: more is nearer. GMSD and WD: less is nearer, 0 is equal.\n"
        "MS-SSIM, GMSD and WD look at brightness, WD at colours too.\n"
        "LPIPS and DISTS need their published weights, made into a FILE by fovea convert.\n",
        options,
        2,
        2};
    return cli_run_files(&command, argc, argv, compare_files, &a);
}
