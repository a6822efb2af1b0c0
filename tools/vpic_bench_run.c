/* vpic_bench_run.c - one picture through one coder and back: files, times, measures.
 *
 * Pictures go to other programs as PPM files, which cost next to no time to read. Whole files are
 * counted. Half-size coders get the picture at half its sides (Lanczos-3); what they give back is
 * brought to full size by Lanczos-3; only their own work is timed. Our codec is a program like the
 * others. Everything that may use threads runs in a child, see bench_process.h. */
#define _XOPEN_SOURCE 700 /* realpath */
#include "vpic_bench.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define IN_PPM "in.ppm"
#define IN_PNG "in.png"
#define HALF_PPM "half.ppm"
#define OWN_PACKED "packed.rdvq"
#define OWN_OUT "out.ppm"
#define NUMBERS "numbers" /* what a child tells */

/* ---- Peers ----------------------------------------------------------------------------------- */

/* clang-format off */
#define JPEG_WORDS                                                                                 \
    {"cjpeg", "-quality", "%", "-optimize", "-progressive", "-sample", "2x2", "-outfile",          \
     "PACKED", "IN"},                                                                              \
    {"djpeg", "-pnm", "-outfile", "OUT", "PACKED"}
#define WEBP_WORDS                                                                                 \
    {"cwebp", "-quiet", "-mt", "-m", "6", "-pass", "6", "-sharp_yuv", "-q", "%", "IN", "-o",       \
     "PACKED"},                                                                                    \
    {"dwebp", "-quiet", "PACKED", "-ppm", "-o", "OUT"}

/* What the programs' own documents advise for small files, slow ones where that pays. AVIF at 4:2:0
 * takes fewer bits than at 4:4:4 at these rates for equal MS-SSIM and GMSD, not for equal PSNR and
 * WD. Ladders reach from the smallest file to about half a bit per pixel of a photograph. */
const pic_peer pic_peers[] = {
    {"jpeg", "JPEG", false, false, "packed.jpg", "out.ppm",
     {"1", "3", "5", "8", "11", "15", "20", "27", "36"},
     JPEG_WORDS},
    {"webp", "WebP", false, false, "packed.webp", "out.ppm",
     {"0", "3", "7", "12", "18", "26", "36", "48"},
     WEBP_WORDS},
    {"avif", "AVIF", false, true, "packed.avif", "out.png",
     {"63", "58", "53", "48", "43", "38", "32", "26", "20"},
     {"avifenc", "-s", "3", "-y", "420", "-j", "@", "--min", "0", "--max", "63", "-a",
      "end-usage=q", "-a", "cq-level=%", "-a", "tune=ssim", "IN", "PACKED"},
     {"avifdec", "-j", "@", "--png-compress", "0", "PACKED", "OUT"}},
    {"jxl", "JPEG XL", false, false, "packed.jxl", "out.ppm",
     {"25", "20", "16", "13", "10.5", "8.5", "7", "5.5"},
     {"cjxl", "--quiet", "-d", "%", "-e", "9", "--num_threads=@", "IN", "PACKED"},
     {"djxl", "--quiet", "--num_threads=@", "PACKED", "OUT"}},
    {"half-jpeg", "half-size JPEG", true, false, "packed.jpg", "out.ppm",
     {"2", "4", "8", "14", "22", "35", "50", "65", "80"},
     JPEG_WORDS},
    {"half-webp", "half-size WebP", true, false, "packed.webp", "out.ppm",
     {"0", "6", "14", "25", "40", "58", "74", "86"},
     WEBP_WORDS},
};
/* clang-format on */
const int pic_peer_count = (int)(sizeof pic_peers / sizeof *pic_peers);

void pic_setting_name(const pic_coder *c, int setting, char *to, size_t size)
{
    const pic_way *w = &c->way[setting];
    if (c->peer) snprintf(to, size, "%s", c->peer->setting[setting]);
    else if (w->slices) snprintf(to, size, "q%.4g s%d", w->quality, w->slices);
    else snprintf(to, size, "q%.4g", w->quality);
}

/* ---- Children of our own --------------------------------------------------------------------- */

typedef struct own_task {
    const pic_place *at;
    const pic_coder *coder;
    const char *path; /* absolute: a child works in the folder */
} own_task;

/* In a child: a context with all its threads. */
static fv_ctx *start_own(const own_task *t)
{
    fv_ctx *ctx = NULL;
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.threads = t->at->threads;
    if (fv_ctx_create(&ctx, &o) != FV_OK) fputs("cannot start\n", stderr);
    return ctx;
}

/* Ends it: the child's code. */
static int finish_own(fv_ctx *ctx, fv_status s)
{
    if (s != FV_OK) fprintf(stderr, "%s\n", fv_ctx_error(ctx));
    fv_ctx_destroy(&ctx);
    return fflush(NULL) != 0 || s != FV_OK;
}

static fv_status write_picture(fv_ctx *ctx, const fv_image *img, const char *name)
{
    fv_image_write_options o = FV_IMAGE_WRITE_OPTIONS_INIT;
    o.overwrite = 1;
    o.effort = 1;
    return fv_image_write(ctx, img, name, &o);
}

/* The picture as the files that coders read, and its sides. */
static int prepare(void *user)
{
    const own_task *t = user;
    fv_image_read_options o = FV_IMAGE_READ_OPTIONS_INIT;
    fv_image img = {0}, half = {0};
    uint8_t *bytes;
    size_t size;
    fv_ctx *ctx = start_own(t);
    if (!ctx || cli_read_bytes(t->path, UINT64_MAX, &bytes, &size) != CLI_OK) return 1;
    o.channels = 3;
    o.depth = 8;
    fv_status s = cli_decode_picture(ctx, bytes, size, &o, &img);
    if (s == FV_OK) s = write_picture(ctx, &img, IN_PPM);
    if (s == FV_OK) s = write_picture(ctx, &img, IN_PNG);
    if (s == FV_OK)
        s = fv_image_resize(ctx, &half, &img, (img.width + 1) / 2, (img.height + 1) / 2,
                            FV_FILTER_LANCZOS3);
    if (s == FV_OK) s = write_picture(ctx, &half, HALF_PPM);
    if (s == FV_OK) printf("%d %d\n", img.width, img.height);
    fv_image_free(ctx, &img);
    fv_image_free(ctx, &half);
    free(bytes);
    return finish_own(ctx, s);
}

static int measure(void *user)
{
    const own_task *t = user;
    fv_image a = {0}, b = {0};
    cli_measures m;
    fv_ctx *ctx = start_own(t);
    if (!ctx) return 1;
    fv_status s = pic_read_original(t->at, ctx, &a);
    if (s == FV_OK) s = pic_read_back(t->at, t->coder, ctx, &b);
    if (s == FV_OK) s = cli_measure(ctx, &a, &b, &m);
    if (s == FV_OK) printf("%.17g %.17g %.17g %.17g\n", m.psnr, m.ms_ssim, m.gmsd, m.texture);
    fv_image_free(ctx, &a);
    fv_image_free(ctx, &b);
    return finish_own(ctx, s);
}

/* Runs one of these and scans what it told; false: why is filled in. */
static bool ask_child(const own_task *t, int (*run)(void *), double *number, int count, char *why,
                      size_t size)
{
    const bench_task task = {t->at->folder, NULL, run, (void *)t, NUMBERS, 0};
    bench_time time;
    int got = 0;
    const int status = bench_run_child(&task, &time);
    if (status != 0) {
        bench_why(t->at->folder, status, why, size);
        return false;
    }
    char *path = bench_in_folder(t->at->folder, NUMBERS);
    FILE *f = fopen(path, "r");
    while (f && got < count && fscanf(f, "%lf", &number[got]) == 1) got++;
    if (f) fclose(f);
    free(path);
    if (got < count) snprintf(why, size, "no result");
    return got == count;
}

/* ---- There and back -------------------------------------------------------------------------- */

bool pic_take(pic_place *at, const char *path)
{
    double side[2] = {0, 0};
    char why[120];
    char *full = realpath(path, NULL);
    const own_task t = {at, NULL, full ? full : path};
    const bool is_done = ask_child(&t, prepare, side, 2, why, sizeof why);
    free(full);
    if (!is_done) {
        if (!cli_interrupted()) cli_note("%s: left out: %s", path, why);
        return false;
    }
    at->width = (int)side[0];
    at->height = (int)side[1];
    if (at->width >= CLI_MS_SSIM_SIDE && at->height >= CLI_MS_SSIM_SIDE) return true;
    cli_note("%s: left out: %d x %d pixels, MS-SSIM needs sides of %d", path, at->width, at->height,
             CLI_MS_SSIM_SIDE);
    return false;
}

static const char *packed_of(const pic_coder *c)
{
    return c->peer ? c->peer->packed : OWN_PACKED;
}

static const char *out_of(const pic_coder *c)
{
    return c->peer ? c->peer->out : OWN_OUT;
}

static int run_peer(const pic_place *at, const pic_coder *c, int setting, bool is_back,
                    bench_time *time)
{
    const pic_peer *p = c->peer;
    const bench_names names = {p->is_half ? HALF_PPM : p->reads_png ? IN_PNG : IN_PPM, p->packed,
                               p->out, p->setting[setting], at->threads};
    char *words[BENCH_WORDS + 1];
    bench_fill_words(&names, is_back ? p->unpack : p->pack, words);
    const bench_task t = {at->folder, words, NULL, NULL, NULL, 0};
    const int status = bench_run_child(&t, time);
    bench_free_words(words);
    return status;
}

static int run_own(const pic_place *at, const pic_coder *c, int setting, bool is_back,
                   bench_time *time)
{
    char **words = pic_own_words(c, setting, is_back, at->threads, is_back ? OWN_PACKED : IN_PPM,
                                 is_back ? OWN_OUT : OWN_PACKED);
    const bench_task t = {at->folder, words, NULL, NULL, NULL, 0};
    const int status = words ? bench_run_child(&t, time) : -1;
    pic_free_own_words(words);
    return status;
}

/* One direction. */
static bool run_way(const pic_place *at, pic_coder *c, int setting, bool is_back, bench_time *time)
{
    const char *to = is_back ? out_of(c) : packed_of(c);
    uint64_t size;
    bench_forget(at->folder, to);
    const int status = (c->peer ? run_peer : run_own)(at, c, setting, is_back, time);
    if (status == 0 && bench_size_of(at->folder, to, &size) && size > 0) return true;
    bench_why(at->folder, status, c->why, sizeof c->why);
    return false;
}

bool pic_code(const pic_place *at, pic_coder *c, int setting, pic_result *r)
{
    memset(r, 0, sizeof *r);
    if (!run_way(at, c, setting, false, &r->pack)) return false;
    (void)bench_size_of(at->folder, packed_of(c), &r->bytes);
    r->bpp = 8 * (double)r->bytes / ((double)at->width * at->height);
    return run_way(at, c, setting, true, &r->unpack);
}

fv_status pic_read_original(const pic_place *at, fv_ctx *ctx, fv_image *out)
{
    char *path = bench_in_folder(at->folder, IN_PPM);
    const fv_status s = fv_image_read(ctx, out, path, NULL);
    free(path);
    return s;
}

fv_status pic_read_back(const pic_place *at, const pic_coder *c, fv_ctx *ctx, fv_image *out)
{
    fv_image_read_options o = FV_IMAGE_READ_OPTIONS_INIT;
    fv_image small = {0};
    const bool is_half = c->peer && c->peer->is_half;
    char *path = bench_in_folder(at->folder, out_of(c));
    o.channels = 3;
    o.depth = 8;
    memset(out, 0, sizeof *out);
    fv_status s = fv_image_read(ctx, is_half ? &small : out, path, &o);
    if (s == FV_OK && is_half)
        s = fv_image_resize(ctx, out, &small, at->width, at->height, FV_FILTER_LANCZOS3);
    fv_image_free(ctx, &small);
    free(path);
    return s;
}

void pic_run(const pic_place *at, pic_coder *c, int setting, pic_result *r)
{
    double v[4];
    const own_task t = {at, c, NULL};
    if (!pic_code(at, c, setting, r) || !ask_child(&t, measure, v, 4, c->why, sizeof c->why)) {
        c->failures++;
        return;
    }
    r->m = (cli_measures){v[0], v[1], v[2], v[3]};
    r->is_done = true;
}
