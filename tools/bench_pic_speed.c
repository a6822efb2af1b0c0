/* bench_pic_speed.c - `fovea bench pic-speed`: coding a picture by each model of vpic, its networks
 * against matrix products of the same run.
 *
 * The floor of a network is the time that its operations would take at the rate of one large
 * product, 4096 x 1152 x 128 (a 3 x 3 convolution of 128 channels), in the type that the networks
 * run in. Smaller layers, borders of regions that are computed twice, the search for codes and
 * moving pixels all count as distance from it. In each round product, encoding and decoding take
 * turns, so that they see the same clock speed. */
#include "bench_pic_speed.h"

#include <stdlib.h>

#include "fovea_tool.h"
#include "vpic.h"

#define MAX_ROUNDS 101

typedef struct speed_args {
    cli_common common;
    cli_list models;
    int rounds;
    double quality;
} speed_args;

typedef struct direction {
    double pixel, token, total, share; /* seconds; share: floor / pixel */
    double flop;
    uint64_t memory;
} direction;

typedef struct model_speed {
    char name[64];
    uint64_t bytes;
    double product_rate; /* operations a second */
    direction way[2];    /* encoding, decoding */
} model_speed;

typedef struct speed_bench {
    fv_ctx *ctx;
    const speed_args *a;
    fv_image img;
    vpic_shelf shelf;
    model_speed *model;
    double sample[2][3][MAX_ROUNDS], rate[MAX_ROUNDS];
} speed_bench;

static fv_status product_rate(speed_bench *b, double *rate)
{
    const gemm_case g = {.name = "conv", .M = 4096, .N = 128, .K = 1152, .repeat = 1};
    gemm_result r;
    const fv_status s = gemm_measure(b->ctx, &g, FV_BF16, 0.05, &r);
    if (s == FV_OK) *rate = gemm_flop(&g) / r.median;
    return s;
}

static void keep(speed_bench *b, model_speed *m, int way, int round, double total,
                 const fv_vpic_stats *st)
{
    b->sample[way][0][round] = st->pixel_seconds;
    b->sample[way][1][round] = st->token_seconds;
    b->sample[way][2][round] = total;
    m->way[way].flop = st->pixel_flop;
    if (st->memory_bytes > m->way[way].memory) m->way[way].memory = st->memory_bytes;
}

/* One round; -1 is a first one that packs weights and counts for nothing. */
static fv_status run_round(speed_bench *b, model_speed *m, int i, int round)
{
    const fv_vpic_model *const one[1] = {b->shelf.model[i]};
    fv_vpic_options o = FV_VPIC_OPTIONS_INIT;
    fv_vpic_limits limits = FV_VPIC_LIMITS_INIT;
    fv_vpic_stats enc, dec;
    fv_image back = {0};
    uint8_t *file = NULL;
    size_t size = 0;
    o.models = limits.models = one;
    o.model_count = limits.model_count = 1;
    o.quality = b->a->quality;
    limits.max_pixels = FV_IMAGE_MAX_PIXELS;
    double rate = 0;
    fv_status s = product_rate(b, &rate);
    const double start = cli_now();
    if (s == FV_OK) s = fv_vpic_encode(b->ctx, &b->img, &o, &file, &size, &enc);
    const double middle = cli_now();
    if (s == FV_OK) s = fv_vpic_decode(b->ctx, file, size, &limits, &back, &dec);
    const double end = cli_now();
    if (s == FV_OK && round >= 0) {
        m->bytes = size;
        b->rate[round] = rate;
        keep(b, m, 0, round, middle - start, &enc);
        keep(b, m, 1, round, end - middle, &dec);
    }
    fv_free(b->ctx, file);
    fv_image_free(b->ctx, &back);
    return s;
}

static fv_status measure_model(speed_bench *b, int i)
{
    const int n = b->a->rounds;
    model_speed *m = b->model + i;
    fv_vpic_model_info info;
    fv_vpic_model_get_info(b->shelf.model[i], &info);
    snprintf(m->name, sizeof m->name, "%s", info.name);
    for (int r = -1; r < n; r++) {
        if (cli_interrupted()) return FV_ERR_CANCELLED;
        cli_progress_title("%d/%d %.40s, round %d/%d", i + 1, b->shelf.count, m->name,
                           r < 0 ? 0 : r + 1, n);
        const fv_status s = run_round(b, m, i, r);
        if (s != FV_OK) return s;
    }
    m->product_rate = cli_quantile(b->rate, n, 0.5);
    for (int w = 0; w < 2; w++) {
        direction *d = m->way + w;
        d->pixel = cli_quantile(b->sample[w][0], n, 0.5);
        d->token = cli_quantile(b->sample[w][1], n, 0.5);
        d->total = cli_quantile(b->sample[w][2], n, 0.5);
        d->share = d->flop / m->product_rate / d->pixel;
    }
    return FV_OK;
}

static void print_json(const speed_bench *b, const char *path)
{
    static const char *const names[2] = {"encode", "decode"};
    cli_json j;
    cli_json_open(&j, stdout);
    cli_json_string(&j, "bench", "pic-speed");
    cli_json_string(&j, "picture", path);
    cli_json_u64(&j, "pixels", (uint64_t)b->img.width * (uint64_t)b->img.height);
    cli_json_u64(&j, "threads", (uint64_t)fv_ctx_threads(b->ctx));
    cli_json_key(&j, "models");
    for (int i = 0; i < b->shelf.count; i++) {
        const model_speed *m = b->model + i;
        printf("%s{\"name\": \"%s\", \"bytes\": %llu, \"products_per_second\": %.6g", i ? ", " : "[",
               m->name, (unsigned long long)m->bytes, m->product_rate);
        for (int w = 0; w < 2; w++) {
            const direction *d = m->way + w;
            printf(", \"%s\": {\"seconds\": %.6g, \"pixel_seconds\": %.6g, \"token_seconds\": %.6g, "
                   "\"flop\": %.6g, \"floor_share\": %.4g, \"memory_bytes\": %llu}", names[w],
                   d->total, d->pixel, d->token, d->flop, d->share,
                   (unsigned long long)d->memory);
        }
        printf("}");
    }
    printf("]");
    cli_json_close(&j);
}

static void print_text(const speed_bench *b, const char *path)
{
    const double pixels = 1e-6 * b->img.width * b->img.height;
    char cpu[128], name[256];
    cli_cpu_name(cpu, sizeof cpu);
    cli_printable(path, name, sizeof name);
    printf("%s, %d x %d, %d threads, %s, medians of %d rounds\n\n", name, b->img.width,
           b->img.height, fv_ctx_threads(b->ctx), cpu, b->a->rounds);
    printf("%-14s%7s  %26s  %26s\n", "", "", "encode", "decode");
    printf("%-14s%7s  %8s%9s%9s  %8s%9s%9s  %s\n", "model", "bpp", "Mpx/s", "network", "tokens",
           "Mpx/s", "network", "tokens", "MiB");
    for (int i = 0; i < b->shelf.count; i++) {
        const model_speed *m = b->model + i;
        printf("%-14s%7.3f", m->name, 8e-6 * (double)m->bytes / pixels);
        for (int w = 0; w < 2; w++) {
            const direction *d = m->way + w;
            printf("  %8.2f%7.0f %%%9.2f", pixels / d->total, 100 * d->share, pixels / d->token);
        }
        printf("  %.0f\n", (double)(m->way[0].memory > m->way[1].memory ? m->way[0].memory :
                                                                          m->way[1].memory) /
                               1048576);
    }
    printf("\nnetwork: time of its operations at the rate of a product 4096 x 1152 x 128\n"
           "(%.0f Gop/s) / time between pixels and codes, the search for codes included;\n"
           "tokens: Mpx/s of the entropy model with its coder; MiB: most memory of both ways,\n"
           "beside the picture\n", 1e-9 * b->model[0].product_rate);
}

static int measure_all(speed_bench *b, const char *path)
{
    uint8_t *bytes = NULL;
    size_t size = 0;
    fv_image_read_options ro = FV_IMAGE_READ_OPTIONS_INIT;
    int code = cli_read_bytes(path, (uint64_t)1 << 30, &bytes, &size);
    if (code != CLI_OK) return code;
    fv_status s = cli_decode_picture(b->ctx, bytes, size, &ro, &b->img);
    free(bytes);
    if (s != FV_OK) return cli_report(b->ctx, s, path);
    code = vpic_shelf_open(&b->shelf, b->ctx, &b->a->models, true);
    if (code != CLI_OK) return code;
    b->model = calloc((size_t)b->shelf.count, sizeof *b->model);
    if (!b->model) return cli_fail(CLI_FAILED, "out of memory");
    for (int i = 0; i < b->shelf.count && s == FV_OK; i++) s = measure_model(b, i);
    cli_progress_title(NULL);
    return s == FV_OK ? CLI_OK : cli_report(b->ctx, s, path);
}

static int run(fv_ctx *ctx, const void *args, const char *path)
{
    speed_bench *b = calloc(1, sizeof *b);
    if (!b) return cli_fail(CLI_FAILED, "out of memory");
    b->ctx = ctx;
    b->a = args;
    const int code = measure_all(b, path);
    if (code == CLI_OK && b->a->common.json) print_json(b, path);
    else if (code == CLI_OK) print_text(b, path);
    vpic_shelf_close(&b->shelf);
    fv_image_free(ctx, &b->img);
    free(b->model);
    free(b);
    return code;
}

static int check(const void *args, const char *path)
{
    (void)args;
    if (!path) return cli_fail(CLI_USAGE, "bench pic-speed: a picture is missing");
    return CLI_OK;
}

int bench_pic_speed(int argc, char **argv)
{
    speed_args a = {.rounds = 5, .quality = 100};
    const cli_option options[] = {
        {0, "model", "FILE", "a model; several times for several (default: the library's own)",
         CLI_LIST, &a.models, 0, 0},
        {0, "rounds", "N", "medians of so many (default 5)", CLI_INT, &a.rounds, 1, MAX_ROUNDS},
        {0, "quality", "Q", "0 to 100, within each model (default 100)", CLI_NUMBER, &a.quality,
         0.001, 100},
        CLI_OPT_THREADS(&a.common),
        CLI_OPT_DEVICE(&a.common),
        CLI_OPT_JSON(&a.common),
        CLI_OPT_TALK_END(&a.common)};
    const cli_command command = {
        .name = "fovea bench pic-speed",
        .usage = "PICTURE [options]",
        .about = "Speed of vpic's models: encoding and decoding of a picture, the networks against "
                 "matrix products that are timed in turn with them.",
        .options = options,
        .max_files = 1};
    const cli_verb verb = {&command, &a.common, check, run, &a};
    return cli_run(&verb, argc, argv);
}
