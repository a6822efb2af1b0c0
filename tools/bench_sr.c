/* bench_sr.c - `fovea bench sr`: photographs made four times smaller and enlarged again, by a model
 * with few and with all steps and by plain interpolation, in one run.
 *
 * The small picture is antialiased bicubic (a = -0.5) of the photograph, or with --degraded what
 * blur, noise and JPEG leave of it, at 8 bits. Y is that of BT.601 (0.257, 0.504, 0.098), as in
 * papers. Spectrum: mean of | |FFT| - |FFT| | of Y over patches of 64, in 1/1000. Motion: clips made
 * of the photographs with known motion, each frame enlarged by itself, or as a stream where the model
 * was trained on clips; the error between neighbours along the motion as a multiple of that of the
 * model's base, and how much of it the original has.
 *
 * Times: every number of steps in turn, and a matrix product beside them, so that all see the same
 * clock speed; the ratio of times stands beside that of operations. */
#include "bench_sr.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench_sheet.h"
#include "cli_picture.h"
#include "cli_sr.h"

#define PATCH 64
#define SHEET_SIDE 160
#define TIMED_SIDE 256 /* of the small picture that is timed, at most */
#define CLIP_LEAST 256

/* ---- Ways ------------------------------------------------------------------------------------ */

static sr_way *add_way(sr_bench *b, const char *name, int steps, fv_filter filter, int fdu)
{
    sr_way *w = &b->way[b->ways++];
    snprintf(w->name, sizeof w->name, "%s", name);
    w->steps = steps;
    w->filter = filter;
    w->fdu = fdu;
    return w;
}

static void add_ways(sr_bench *b)
{
    char name[32];
    add_way(b, "nearest", 0, FV_FILTER_NEAREST, -1);
    add_way(b, "bicubic", 0, FV_FILTER_BICUBIC, -1);
    add_way(b, "lanczos", 0, FV_FILTER_LANCZOS3, -1);
    for (int t = 1; t <= b->info.steps; t++) {
        snprintf(name, sizeof name, "T = %d", t);
        add_way(b, name, t, FV_FILTER_BICUBIC, -1);
    }
    if (b->info.steps > 1) {
        snprintf(name, sizeof name, "T = %d, no update", b->info.steps);
        add_way(b, name, b->info.steps, FV_FILTER_BICUBIC, FV_FDU_OFF);
    }
}

fv_sr_options sr_options(const sr_way *w)
{
    fv_sr_options o = FV_SR_OPTIONS_INIT;
    o.scale = SR_SCALE;
    o.steps = w->steps;
    o.fdu = w->fdu;
    return o;
}

fv_status sr_enlarge(const sr_bench *b, const sr_way *w, const fv_image *small, fv_image *out,
                     fv_sr_stats *stats)
{
    const fv_sr_options o = sr_options(w);
    if (w->steps == 0)
        return fv_image_resize(b->ctx, out, small, SR_SCALE * small->width,
                               SR_SCALE * small->height, w->filter);
    return fv_sr_image(b->ctx, b->sr, small, &o, out, stats);
}

/* ---- Pictures -------------------------------------------------------------------------------- */

/* The middle of a picture, at most `most` pixels a side (0: all), sides multiples of `unit`. */
static fv_status crop_middle(fv_ctx *ctx, fv_image *img, int most, int unit)
{
    fv_image part;
    int w = img->width, h = img->height;
    if (most && w > most) w = most;
    if (most && h > most) h = most;
    w -= w % unit;
    h -= h % unit;
    const fv_status s =
        fv_image_crop(ctx, &part, img, (img->width - w) / 2, (img->height - h) / 2, w, h);
    if (s != FV_OK) return s;
    fv_image_free(ctx, img);
    *img = part;
    return FV_OK;
}

/* f32 [h, w, 3] in [0, 1] -> 8-bit picture of a quarter of the sides */
fv_status sr_make_small(const sr_bench *b, const float *hq, int w, int h, uint32_t sample,
                        uint32_t frame, fv_image *out)
{
    fv_degrade_options o = FV_DEGRADE_OPTIONS_INIT;
    fv_degrade *d = NULL;
    float *lq = malloc(sizeof *lq * 3 * (size_t)(w / SR_SCALE) * (size_t)(h / SR_SCALE));
    fv_status s = lq ? FV_OK : FV_ERR_OOM;
    o.max_width = w;
    o.max_height = h;
    o.parallel = 1;
    o.clean_a = -0.5f;
    const fv_degrade_job job = {.hq = hq,
                                .lq = lq,
                                .width = w,
                                .height = h,
                                .lq_width = w / SR_SCALE,
                                .lq_height = h / SR_SCALE,
                                .kind = b->a->is_degraded ? FV_DEGRADE_PSSR : FV_DEGRADE_CLEAN,
                                .sample = sample,
                                .frame = frame};
    if (s == FV_OK) s = fv_degrade_create(b->ctx, &d, &o);
    if (s == FV_OK) s = fv_degrade_run(d, &job, 1);
    if (s == FV_OK) s = fv_image_create(b->ctx, out, w / SR_SCALE, h / SR_SCALE, 3, 8);
    if (s == FV_OK) fv_image_from_float(out, 0.0f, 1.0f, lq);
    fv_degrade_destroy(&d);
    free(lq);
    return s;
}

float *sr_floats(const fv_image *img)
{
    float *p = malloc(sizeof *p * 3 * (size_t)img->width * (size_t)img->height);
    if (p) fv_image_to_float(img, 0.0f, 1.0f, p);
    return p;
}

/* ---- Measures -------------------------------------------------------------------------------- */

/* Y of both as planes, and the plan of their spectra's distance. */
typedef struct luma_pair {
    int width, height;
    float *y[2];
    fv_plan *plan;
} luma_pair;

static void luma_free(luma_pair *l)
{
    fv_plan_destroy(&l->plan);
    free(l->y[0]);
    free(l->y[1]);
}

static fv_status luma_open(fv_ctx *ctx, luma_pair *l, int width, int height)
{
    const int64_t dim[4] = {1, height, width, 1};
    fv_tape *t = NULL;
    *l = (luma_pair){.width = width, .height = height};
    for (int k = 0; k < 2; k++) {
        l->y[k] = malloc(sizeof(float) * (size_t)width * (size_t)height);
        if (!l->y[k]) return FV_ERR_OOM;
    }
    fv_status s = fv_tape_create(ctx, &t, NULL, FV_INFER, FV_F32);
    if (s != FV_OK) return s;
    const fv_t a = fv_input(t, "a", FV_F32, 4, dim), b = fv_input(t, "b", FV_F32, 4, dim);
    fv_output(t, "distance", fv_loss_spectrum(t, a, b, PATCH));
    s = fv_plan_build(ctx, &l->plan, t, NULL);
    fv_tape_destroy(&t);
    if (s == FV_OK) s = fv_plan_bind(l->plan, "a", l->y[0]);
    if (s == FV_OK) s = fv_plan_bind(l->plan, "b", l->y[1]);
    return s;
}

static void luma_fill(luma_pair *l, int k, const fv_image *img)
{
    for (int r = 0; r < l->height; r++) {
        const uint8_t *p = (const uint8_t *)img->pixels + (size_t)r * img->stride_bytes;
        float *y = l->y[k] + (size_t)r * (size_t)l->width;
        for (int c = 0; c < l->width; c++, p += 3)
            y[c] = (0.257f * p[0] + 0.504f * p[1] + 0.098f * p[2]) / 255;
    }
}

static fv_status measure_luma(luma_pair *l, double *psnr, double *spectrum)
{
    const size_t n = (size_t)l->width * (size_t)l->height;
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        const double d = (double)l->y[0][i] - (double)l->y[1][i];
        sum += d * d;
    }
    *psnr = fmin(-10 * log10(sum / (double)n), 100); /* equal: infinite */
    const fv_status s = fv_plan_forward(l->plan);
    if (s == FV_OK) *spectrum = 1000.0 * *(const float *)fv_plan_value(l->plan, "distance").data;
    return s;
}

static fv_status measure(const sr_bench *b, luma_pair *l, const fv_image *original,
                         const fv_image *made, double v[SR_MEASURES])
{
    luma_fill(l, 0, made);
    fv_status s = measure_luma(l, &v[SR_PSNR_Y], &v[SR_SPECTRUM]);
    if (s == FV_OK) s = fv_ssim(b->ctx, original, made, &v[SR_SSIM]);
    if (s == FV_OK) s = fv_gmsd(b->ctx, original, made, &v[SR_GMSD]);
    v[SR_WD] = NAN;
    if (s == FV_OK && made->width >= CLI_TEXTURE_SIDE && made->height >= CLI_TEXTURE_SIDE)
        s = fv_texture(b->ctx, made, original, &v[SR_WD]);
    if (s == FV_OK)
        s = cli_measure_perceptual(b->ctx, &b->nets, made, original, &v[SR_LPIPS]);
    return s;
}

/* Of the picture that is the `at`-th of those done. */
double *sr_values(const sr_bench *b, int at, int way)
{
    return b->value + ((size_t)at * SR_WAYS + (size_t)way) * SR_MEASURES;
}

/* ---- Sheet ----------------------------------------------------------------------------------- */

typedef struct place {
    int x, y, side;
} place;

static fv_status keep_crop(const sr_bench *b, const fv_image *img, const place *p, fv_image *out)
{
    return fv_image_crop(b->ctx, out, img, p->x, p->y, p->side, p->side);
}

/* Is this picture, the `at`-th of those measured, on the sheet? They are taken evenly. */
static bool is_shown(const sr_bench *b, int at)
{
    const int n = b->file_count, most = n < SR_SHEET_PICTURES ? n : SR_SHEET_PICTURES;
    return b->a->sheet && b->crops < most && at >= b->crops * n / most;
}

/* ---- One photograph -------------------------------------------------------------------------- */

/* All ways on one picture of at least PATCH pixels a side. */
static fv_status run_ways(sr_bench *b, const fv_image *original, const fv_image *small,
                          luma_pair *l, bool is_on_sheet)
{
    place at = {.side = SHEET_SIDE};
    if (at.side > original->width) at.side = original->width;
    if (at.side > original->height) at.side = original->height;
    if (is_on_sheet) bench_busiest(original, at.side, &at.x, &at.y);
    fv_status s = FV_OK;
    luma_fill(l, 1, original);
    for (int i = 0; i < b->ways && s == FV_OK; i++) {
        sr_way *w = &b->way[i];
        fv_image made = {0};
        double *v = sr_values(b, b->done, i);
        if (cli_interrupted()) return FV_ERR_CANCELLED;
        s = sr_enlarge(b, w, small, &made, NULL);
        if (s == FV_OK) s = measure(b, l, original, &made, v);
        for (int m = 0; m < SR_MEASURES && s == FV_OK; m++) w->sum[m] += v[m];
        if (s == FV_OK && is_on_sheet) s = keep_crop(b, &made, &at, &w->crop[b->crops]);
        fv_image_free(b->ctx, &made);
    }
    if (s == FV_OK && is_on_sheet) s = keep_crop(b, original, &at, &b->crop[b->crops]);
    if (s == FV_OK && is_on_sheet) b->crops++;
    return s;
}

static fv_status run_picture(sr_bench *b, int index, const fv_image *original)
{
    luma_pair l = {0};
    fv_image small = {0};
    float *hq = sr_floats(original);
    fv_status s = hq ? FV_OK : FV_ERR_OOM;
    if (s == FV_OK)
        s = sr_make_small(b, hq, original->width, original->height, (uint32_t)index, 0, &small);
    if (s == FV_OK) s = luma_open(b->ctx, &l, original->width, original->height);
    if (s == FV_OK) s = run_ways(b, original, &small, &l, is_shown(b, b->done));
    if (s == FV_OK) b->done_file[b->done++] = index;
    luma_free(&l);
    fv_image_free(b->ctx, &small);
    free(hq);
    return s;
}

/* ---- Running --------------------------------------------------------------------------------- */

static fv_status read_picture(sr_bench *b, const char *path, fv_image *img)
{
    fv_image_read_options o = FV_IMAGE_READ_OPTIONS_INIT;
    o.channels = 3;
    o.depth = 8;
    return fv_image_read(b->ctx, img, path, &o);
}

/* The timed picture: of the first photograph, always clean. */
static fv_status time_first(sr_bench *b, const fv_image *img)
{
    fv_image part = {0}, small = {0};
    fv_status s = fv_image_crop(b->ctx, &part, img, 0, 0, img->width, img->height);
    if (s == FV_OK) s = crop_middle(b->ctx, &part, SR_SCALE * TIMED_SIDE, SR_SCALE);
    if (s == FV_OK)
        s = fv_image_resize(b->ctx, &small, &part, part.width / SR_SCALE, part.height / SR_SCALE,
                            FV_FILTER_BICUBIC);
    if (s == FV_OK) s = sr_run_speed(b, &small);
    fv_image_free(b->ctx, &part);
    fv_image_free(b->ctx, &small);
    return s;
}

/* A photograph that cannot be used is left out, with a note. */
static fv_status run_file(sr_bench *b, int i)
{
    fv_image img = {0};
    char name[64];
    fv_status s = read_picture(b, b->files[i], &img);
    if (s == FV_ERR_CANCELLED) return s;
    if (s != FV_OK || img.width < PATCH || img.height < PATCH) {
        cli_progress_title(NULL);
        if (s != FV_OK) cli_note("left out: %s: %s", b->files[i], fv_ctx_error(b->ctx));
        else cli_note("left out: %s: sides below %d pixels", b->files[i], PATCH);
        fv_image_free(b->ctx, &img);
        return FV_OK;
    }
    cli_printable(cli_base_name(b->files[i]), name, sizeof name);
    if (b->done == 0) s = time_first(b, &img);
    cli_progress_title("%d/%d %.40s", i + 1, b->file_count, name);
    if (s == FV_OK && b->clips < b->a->clips && img.width >= CLIP_LEAST && img.height >= CLIP_LEAST)
        s = sr_run_clip(b, &img, (uint32_t)i);
    if (s == FV_OK) s = crop_middle(b->ctx, &img, b->a->side, PATCH);
    if (s == FV_OK) s = run_picture(b, i, &img);
    fv_image_free(b->ctx, &img);
    return s;
}

static int open_model(sr_bench *b)
{
    const int code = cli_open_sr(b->ctx, b->a->model, &b->a->common, &b->file, &b->sr);
    if (code == CLI_OK && !b->sr)
        return cli_fail(CLI_BAD_INPUT, "%s: PS-SR on Wan2.1 works on clips: gen sr takes it, this "
                                       "bench does not", b->a->model);
    b->precision = cli_precision(b->ctx, &b->a->common);
    if (code == CLI_OK) fv_sr_get_info(b->sr, &b->info);
    return code;
}

static int run_all(sr_bench *b)
{
    const size_t n = (size_t)b->file_count;
    fv_status s = FV_OK;
    b->value = calloc(n * SR_WAYS * SR_MEASURES, sizeof *b->value);
    b->done_file = calloc(n, sizeof *b->done_file);
    if (!b->value || !b->done_file) return cli_fail(CLI_FAILED, "out of memory");
    for (int i = 0; i < b->file_count && s == FV_OK; i++) s = run_file(b, i);
    cli_progress_title(NULL);
    if (s != FV_OK) return cli_report(b->ctx, s, NULL);
    if (b->done == 0) return cli_fail(CLI_BAD_INPUT, "none of the pictures could be used");
    return CLI_OK;
}

/* ---- The verb -------------------------------------------------------------------------------- */

static int work(sr_bench *b)
{
    int code = open_model(b);
    if (code == CLI_OK) code = cli_open_perceptual(b->ctx, b->a->weights, &b->nets);
    if (code != CLI_OK) return code;
    add_ways(b);
    code = run_all(b);
    if (code == CLI_OK && b->a->common.json) sr_print_json(b);
    else if (code == CLI_OK) sr_print_text(b);
    if (code == CLI_OK && b->a->csv) code = sr_write_csv(b);
    if (code == CLI_OK && b->a->sheet) code = sr_write_sheet(b);
    return code;
}

static void release(sr_bench *b)
{
    for (int i = 0; i < SR_SHEET_PICTURES; i++) {
        for (int k = 0; k < b->ways; k++) fv_image_free(b->ctx, &b->way[k].crop[i]);
        fv_image_free(b->ctx, &b->crop[i]);
    }
    cli_close_perceptual(&b->nets);
    fv_sr_close(&b->sr);
    fv_model_close(&b->file);
}

static int run_files(void *args, const char **files, int count)
{
    const sr_bench_args *a = args;
    int code = CLI_OK;
    const char *const made[] = {a->sheet, a->csv};
    for (int i = 0; i < 2 && code == CLI_OK; i++)
        if (made[i]) code = cli_check_place(made[i], a->common.force);
    if (code == CLI_OK && a->sheet && !cli_is_special(a->sheet) &&
        !cli_has_picture_suffix(a->sheet))
        return cli_fail(CLI_USAGE, "--sheet %s: the suffix names no picture format", a->sheet);
    sr_bench *b = calloc(1, sizeof *b);
    if (!b) return cli_fail(CLI_FAILED, "out of memory");
    b->a = a;
    if (code == CLI_OK)
        code = cli_take_pictures(files, count, a->pictures, &b->files, &b->file_count);
    if (code == CLI_OK) code = cli_start(&b->ctx, &a->common);
    if (code == CLI_OK) code = work(b);
    fv_ctx *ctx = b->ctx;
    if (ctx) release(b);
    cli_free_pictures(b->files, b->file_count);
    free(b->value);
    free(b->done_file);
    free(b);
    return cli_finish(&ctx, code);
}

int bench_sr(int argc, char **argv)
{
    sr_bench_args a = {.rounds = 5, .clips = 4};
    const cli_option options[] = {
        {0, "model", "FILE", "the model (default: the embedded one)", CLI_STRING, &a.model, 0, 0},
        {0, "degraded", NULL, "small pictures with blur, noise and JPEG", CLI_FLAG, &a.is_degraded,
         0, 0},
        {0, "pictures", "N", "at most so many, evenly taken", CLI_INT, &a.pictures, 1, 100000},
        {0, "side", "N", "the middle of each, N x N (default: all)", CLI_INT, &a.side, PATCH,
         16384},
        {0, "clips", "N", "clips with motion (default 4)", CLI_INT, &a.clips, 0, 1000},
        {0, "rounds", "N", "times: medians of so many (default 5)", CLI_INT, &a.rounds, 1,
         SR_ROUNDS},
        CLI_OPT_PERCEPTUAL(a.weights),
        {0, "csv", "FILE", "every picture as comma-separated values", CLI_STRING, &a.csv, 0, 0},
        {0, "sheet", "FILE", "crops side by side", CLI_STRING, &a.sheet, 0, 0},
        CLI_OPT_FORCE(&a.common),
        CLI_OPT_MACHINE(&a.common),
        CLI_OPT_JSON(&a.common),
        CLI_OPT_TALK_END(&a.common)};
    const cli_command command = {
        .name = "fovea bench sr",
        .usage = "[options] FOLDER|FILE ...",
        .about =
            "Photographs made four times smaller and enlarged again, by a model of gen sr with "
            "few and all steps and by plain interpolation: quality, motion, time.",
        .options = options,
        .min_files = 1,
        .max_files = 64};
    return cli_run_files(&command, argc, argv, run_files, &a);
}
