/* gen_sr.c - gen sr: a larger picture with made-up detail. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli_picture.h"
#include "cli_sr.h"
#include "gen_sr.h"

#define MOST_BYTES ((uint64_t)1 << 32)
#define MEMORY_SHARE 0.75              /* of what is free, without --mem */
#define OWN_BYTES ((uint64_t)24 << 20) /* threads and buffers outside of the library's count */
#define SLACK_BYTES ((uint64_t)4 << 20) /* by which the resident peaks of two like runs may differ */
#define TRIAL_SIDE 64                  /* pixels of the crop that --speedup is measured on */
#define TRIALS 3
#define SAMPLE_SECONDS 0.02
#define MOST_REPEATS 64
#define MOST_STEPS 64

typedef struct judged {
    cli_measures m;
    double distance[CLI_PERCEPTUALS]; /* NAN: no weights */
} judged;

typedef struct sr_run {
    fv_ctx *ctx;
    const sr_args *a;
    const char *in_path, *out_path;
    fv_model *file;
    fv_sr *sr;
    fv_sr_info info;
    fv_image in, out, original; /* original: of --reference */
    fv_sr_options o;
    fv_sr_stats stats;
    double measured_speedup;           /* NAN: not asked for */
    bool has_reference;
    cli_perceptual nets;
    judged bicubic, ours;
    uint64_t held;                     /* bytes of the program before the networks */
} sr_run;

/* ---- Options --------------------------------------------------------------------------------- */

int gen_sr_pair(const char *option, const char *text, int *a, int *b)
{
    int used = 0;
    if (sscanf(text, "%8dx%8d%n", a, b, &used) == 2 && !text[used] && *a > 0 && *b > 0)
        return CLI_OK;
    return cli_fail(CLI_USAGE, "%s %s: give WIDTHxHEIGHT in pixels", option, text);
}

void gen_sr_size(const fv_sr_options *o, int in_width, int in_height, double *width,
                 double *height)
{
    const double scale = o->scale != 0 ? o->scale : 4;
    *width = o->width ? o->width : floor(in_width * scale + 0.5);
    *height = o->height ? o->height : floor(in_height * scale + 0.5);
}

/* "paper" is the update of ref after every step. */
static void set_update(const char *name, fv_sr_options *o)
{
    fv_fdu_mode mode = FV_FDU_REF;
    if (!name) return;
    o->update_each = !fv_fdu_find(name, &mode);
    o->fdu = (int)mode;
}

static int set_options(const sr_args *a, fv_sr_options *o)
{
    int code = CLI_OK;
    *o = (fv_sr_options)FV_SR_OPTIONS_INIT;
    o->scale = a->scale;
    o->steps = a->steps;
    if (!isnan(a->detail)) o->detail = (float)a->detail;
    if (!isnan(a->scene_cut)) o->scene_cut = a->scene_cut > 0 ? (float)a->scene_cut : -1;
    o->overlap = a->overlap;
    o->exact_tiles = a->is_exact;
    o->alpha = a->alpha && strcmp(a->alpha, "nearest") == 0 ? FV_SR_ALPHA_NEAREST :
                                                              FV_SR_ALPHA_BICUBIC;
    o->depth = a->depth && strcmp(a->depth, "same") != 0 ? atoi(a->depth) : 0;
    if (a->size && a->scale > 0) return cli_fail(CLI_USAGE, "give --scale or --out-size, not both");
    if ((a->weights[CLI_LPIPS] || a->weights[CLI_DISTS]) && !a->reference)
        return cli_fail(CLI_USAGE, "--lpips and --dists measure against --reference FILE: give it");
    if (a->speedup > 0 && a->steps > 0)
        return cli_fail(CLI_USAGE, "give --speedup or --steps, not both");
    if (a->size) code = gen_sr_pair("--out-size", a->size, &o->width, &o->height);
    if (code == CLI_OK && a->tile)
        code = gen_sr_pair("--tile", a->tile, &o->tile_width, &o->tile_height);
    set_update(a->fdu, o);
    return code;
}

int gen_sr_memory(const sr_args *a, uint64_t *most, uint64_t *held)
{
    *held = cli_resident_peak() + OWN_BYTES;
    const uint64_t left = cli_free_memory();
    *most = (uint64_t)(MEMORY_SHARE * (double)left);
    if (left && !*most) *most = 1; /* 0 is no bound */
    if (!a->memory) return CLI_OK;
    const int code = cli_parse_size("--mem", a->memory, 1, most);
    if (code == CLI_OK) *most = *most > *held ? *most - *held : 1;
    return code;
}

/* What is told must be enough in the next run, whose resident peak is another by some pages. */
static unsigned long long mebibytes(uint64_t bytes) { return (bytes + SLACK_BYTES) / 1048576 + 1; }

int gen_sr_too_little(uint64_t least, uint64_t ample, uint64_t held)
{
    if (ample <= least)
        return cli_fail(CLI_FAILED, "too little memory: --mem must be at least %lluM",
                        mebibytes(least + held));
    return cli_fail(CLI_FAILED, "too little memory: give --mem %lluM; small tiles, which take many "
                    "times as long, need at least %lluM", mebibytes(ample + held),
                    mebibytes(least + held));
}

void gen_sr_not_ample(uint64_t ample, uint64_t held)
{
    if (ample)
        cli_note("warning: tiles are small in so little memory, and most pixels are computed several "
                 "times; --mem %lluM is faster", mebibytes(ample + held));
}

/* Bytes of the result and of writing it, from above. Beside a byte of the picture each: PNM 1, PNG at
 * most 2; beside a pixel: JPEG 10, WebP 12, measured on pictures with more detail than enlarged ones
 * have. While the networks work they take more up to four times, but less beyond. */
static uint64_t result_bytes(const sr_run *r)
{
    static const struct {
        const char *suffix;
        int a_byte, a_pixel;
    } kind[] = { { ".png", 2, 0 }, { ".jpg", 0, 10 }, { ".jpeg", 0, 10 }, { ".webp", 0, 12 } };
    double w, h;
    gen_sr_size(&r->o, r->in.width, r->in.height, &w, &h);
    const int depth = r->o.depth ? r->o.depth : r->in.depth;
    const double bytes = w * h * r->in.channels * depth / 8;
    const char *suffix = strrchr(r->out_path, '.');
    double extra = bytes;
    for (size_t k = 0; k < sizeof kind / sizeof *kind; k++)
        if (suffix && strcasecmp(suffix, kind[k].suffix) == 0)
            extra = kind[k].a_byte * bytes + kind[k].a_pixel * w * h;
    return (uint64_t)(bytes + extra);
}

/* ---- Reading and writing --------------------------------------------------------------------- */

static int read_picture(sr_run *r, const char *path, fv_image *out)
{
    fv_image_read_options o = FV_IMAGE_READ_OPTIONS_INIT;
    uint8_t *bytes;
    size_t size;
    const int code = cli_read_bytes(path, MOST_BYTES, &bytes, &size);
    if (code != CLI_OK) return code;
    o.keep_metadata = 1;
    const fv_status s = fv_image_decode(r->ctx, out, bytes, size, &o);
    free(bytes);
    return s == FV_OK ? CLI_OK : cli_report(r->ctx, s, path);
}

static int write_picture(sr_run *r, const fv_image *img, const char *path)
{
    fv_image_write_options o = FV_IMAGE_WRITE_OPTIONS_INIT;
    o.overwrite = r->a->common.force;
    o.quality = r->a->quality;
    const fv_status s = fv_image_write(r->ctx, img, path, &o);
    return s == FV_OK ? CLI_OK : cli_report(r->ctx, s, path);
}

static fv_status run_image(const sr_run *r, const fv_image *in, const fv_sr_options *o,
                           fv_image *out, fv_sr_stats *stats)
{
    return r->sr ? fv_sr_image(r->ctx, r->sr, in, o, out, stats) :
                   fv_wan_image(r->ctx, r->file, cli_precision(r->ctx, &r->a->common), in, o, out,
                                stats);
}

/* ---- Speed-up -------------------------------------------------------------------------------- */

/* Seconds of a crop with that many steps, a mean of `repeats`. */
static fv_status time_steps(sr_run *r, const fv_image *crop, int steps, int repeats,
                            double *seconds)
{
    double sum = 0;
    for (int i = 0; i < repeats; i++) {
        fv_sr_options o = r->o;
        fv_image out;
        o.steps = steps;
        o.width = o.height = 0;
        o.scale = 4;
        o.tile_width = o.tile_height = 0;
        const double start = cli_now();
        const fv_status s = run_image(r, crop, &o, &out, &r->stats);
        sum += r->sr ? cli_now() - start : r->stats.network_seconds + r->stats.update_seconds;
        fv_image_free(r->ctx, &out);
        if (s != FV_OK) return s;
    }
    *seconds = sum / repeats;
    return FV_OK;
}

/* Medians of rounds of all numbers of steps, so that what else the machine does meets all of them. A
 * sample takes some time: what a small crop takes by itself is the clock's noise. On Wan2.1 once, as
 * each call opens the networks. */
static fv_status time_crop(sr_run *r, const fv_image *crop, double *seconds)
{
    const int most = r->info.own_steps, trials = r->sr ? TRIALS : 1;
    double t[MOST_STEPS][TRIALS], first = 0;
    fv_status s = time_steps(r, crop, 1, 1, &first); /* packs the weights */
    if (s == FV_OK && r->sr) s = time_steps(r, crop, 1, 1, &first);
    const double wanted = r->sr ? ceil(SAMPLE_SECONDS / (first + 1e-9)) : 1;
    const int repeats = wanted < MOST_REPEATS ? (int)wanted : MOST_REPEATS;
    for (int i = 0; i < trials; i++)
        for (int k = 0; k < most && s == FV_OK; k++)
            s = time_steps(r, crop, k + 1, repeats, &t[k][i]);
    for (int k = 0; k < most && s == FV_OK; k++) seconds[k] = cli_quantile(t[k], trials, 0.5);
    return s;
}

static fv_status measure_steps(sr_run *r, double *seconds)
{
    fv_image crop = { 0 };
    const int w = r->in.width < TRIAL_SIDE ? r->in.width : TRIAL_SIDE;
    const int h = r->in.height < TRIAL_SIDE ? r->in.height : TRIAL_SIDE;
    cli_progress_title("measuring");
    fv_status s = fv_image_crop(r->ctx, &crop, &r->in, 0, 0, w, h);
    if (s == FV_OK) s = time_crop(r, &crop, seconds);
    fv_image_free(r->ctx, &crop);
    cli_progress_title(NULL);
    return s;
}

static int report(const sr_run *r, fv_status s, uint64_t result)
{
    const fv_sr_stats *t = &r->stats;
    if (s != FV_ERR_OOM || !t->least_bytes) return cli_report(r->ctx, s, r->in_path);
    return gen_sr_too_little(t->least_bytes > result ? t->least_bytes : result, t->ample_bytes,
                             r->held);
}

/* The most steps whose measured time is a share 1/R, or less, of that of the model's own number. */
static int choose_steps(sr_run *r)
{
    double seconds[MOST_STEPS];
    const int most = r->info.own_steps;
    if (r->a->speedup == 0) return CLI_OK;
    const fv_status s = measure_steps(r, seconds);
    if (s != FV_OK) return report(r, s, 0);
    for (int k = most; k >= 1; k--) {
        const double ratio = seconds[most - 1] / seconds[k - 1];
        if (k < most && ratio < r->a->speedup) continue;
        if (k == most && r->a->speedup > 1) continue;
        r->o.steps = k;
        r->measured_speedup = ratio;
        cli_note("%d of %d steps: %.2fx, measured on a crop", k, most, ratio);
        return CLI_OK;
    }
    return cli_fail(CLI_USAGE, "--speedup %g: the most is %.2fx, with one step", r->a->speedup,
                    seconds[most - 1] / seconds[0]);
}

/* ---- Comparing ------------------------------------------------------------------------------- */

/* RGB, 8 bits, at the size of the result. */
static fv_status as_rgb(sr_run *r, fv_image *out, const fv_image *in)
{
    fv_status s = fv_image_create(r->ctx, out, in->width, in->height, 3, 8);
    for (int y = 0; y < in->height && s == FV_OK; y++)
        for (int x = 0; x < in->width; x++)
            for (int c = 0; c < 3; c++) {
                const uint8_t *row = (const uint8_t *)in->pixels + (size_t)y * in->stride_bytes;
                const size_t i = (size_t)x * (size_t)in->channels +
                                 (size_t)(in->channels < 3 ? 0 : c);
                const uint32_t v = in->depth == 8 ?
                                       row[i] :
                                       (((const uint16_t *)(const void *)row)[i] * 255u + 32767u) /
                                           65535u;
                ((uint8_t *)out->pixels)[(size_t)y * out->stride_bytes + 3 * (size_t)x +
                                         (size_t)c] = (uint8_t)v;
            }
    return s;
}

/* nearest | Lanczos | bicubic | result */
static int write_sheet(sr_run *r)
{
    static const fv_filter filter[3] = { FV_FILTER_NEAREST, FV_FILTER_LANCZOS3,
                                         FV_FILTER_BICUBIC };
    fv_image part[4], source, sheet = { 0 };
    memset(part, 0, sizeof part);
    fv_status s = as_rgb(r, &source, &r->in);
    for (int k = 0; k < 3 && s == FV_OK; k++)
        s = fv_image_resize(r->ctx, &part[k], &source, r->out.width, r->out.height, filter[k]);
    if (s == FV_OK) s = as_rgb(r, &part[3], &r->out);
    if (s == FV_OK) s = fv_image_grid(r->ctx, &sheet, part, 4, 4, 4);
    int code = s == FV_OK ? CLI_OK : cli_report(r->ctx, s, r->a->sheet);
    if (code == CLI_OK) code = write_picture(r, &sheet, r->a->sheet);
    for (int k = 0; k < 4; k++) fv_image_free(r->ctx, &part[k]);
    fv_image_free(r->ctx, &source);
    fv_image_free(r->ctx, &sheet);
    return code;
}

static fv_status measure_one(sr_run *r, const fv_image *want, const fv_image *have, judged *out)
{
    const fv_status s = cli_measure(r->ctx, want, have, &out->m);
    if (s != FV_OK) return s;
    return cli_measure_perceptual(r->ctx, &r->nets, have, want, out->distance);
}

static fv_status measure_both(sr_run *r, const fv_image *original)
{
    fv_image want = { 0 }, source = { 0 }, bicubic = { 0 }, ours = { 0 };
    fv_status s = as_rgb(r, &want, original);
    if (s == FV_OK) s = as_rgb(r, &source, &r->in);
    if (s == FV_OK)
        s = fv_image_resize(r->ctx, &bicubic, &source, r->out.width, r->out.height,
                            FV_FILTER_BICUBIC);
    if (s == FV_OK) s = as_rgb(r, &ours, &r->out);
    if (s == FV_OK) s = measure_one(r, &want, &bicubic, &r->bicubic);
    if (s == FV_OK) s = measure_one(r, &want, &ours, &r->ours);
    fv_image_free(r->ctx, &want);
    fv_image_free(r->ctx, &source);
    fv_image_free(r->ctx, &bicubic);
    fv_image_free(r->ctx, &ours);
    return s;
}

/* What the measuring needs, before the long work. */
static int open_reference(sr_run *r)
{
    const fv_image *original = &r->original;
    double w, h;
    if (!r->a->reference) return CLI_OK;
    int code = read_picture(r, r->a->reference, &r->original);
    if (code == CLI_OK) code = cli_open_perceptual(r->ctx, r->a->weights, &r->nets);
    if (code != CLI_OK) return code;
    gen_sr_size(&r->o, r->in.width, r->in.height, &w, &h);
    if (original->width != w || original->height != h)
        return cli_fail(CLI_BAD_INPUT, "%s has %d x %d pixels, the result %.0f x %.0f",
                        r->a->reference, original->width, original->height, w, h);
    const int least = cli_perceptual_side(&r->nets);
    if (original->width >= least && original->height >= least) return CLI_OK;
    return cli_fail(CLI_BAD_INPUT, "%s has %d x %d pixels; --lpips and --dists need sides of %d",
                    r->a->reference, original->width, original->height, least);
}

static int judge(sr_run *r)
{
    const fv_status s = measure_both(r, &r->original);
    r->has_reference = s == FV_OK;
    return s == FV_OK ? CLI_OK : cli_report(r->ctx, s, r->a->reference);
}

/* ---- What was done --------------------------------------------------------------------------- */

static void talk(const sr_run *r)
{
    const fv_sr_stats *t = &r->stats;
    cli_note("%s: %d x %d, %d step%s, %d tile%s, %.2f s", r->out_path, r->out.width, r->out.height,
             t->steps, t->steps == 1 ? "" : "s", t->tiles, t->tiles == 1 ? "" : "s", t->seconds);
    cli_detail("networks %.2f s, %.1f GFLOP/s; update %.2f s; %.1f MiB", t->network_seconds,
               t->flop / t->network_seconds * 1e-9, t->update_seconds,
               (double)t->peak_bytes / 1048576);
    if (t->is_beyond)
        cli_note("warning: models are trained up to 4 times; the rest is bicubic");
    gen_sr_not_ample(t->ample_bytes, r->held);
    if (t->redone) cli_note("warning: bf16 was not enough, computed in f32");
    if (!r->has_reference) return;
    cli_note("against %s: PSNR %.2f dB (bicubic %.2f), GMSD %.4f (%.4f)", r->a->reference,
             r->ours.m.psnr, r->bicubic.m.psnr, r->ours.m.gmsd, r->bicubic.m.gmsd);
    for (int k = 0; k < CLI_PERCEPTUALS; k++)
        if (r->nets.net[k])
            cli_note("%s %.4f (bicubic %.4f)", cli_perceptual_name[k], r->ours.distance[k],
                     r->bicubic.distance[k]);
}

static void print_json(const sr_run *r)
{
    const fv_sr_stats *t = &r->stats;
    char *files[1] = { (char *)(uintptr_t)r->out_path };
    cli_json j;
    cli_json_open(&j, stdout);
    cli_json_strings(&j, "files", files, 1);
    cli_json_string(&j, "model", r->info.name);
    const struct {
        const char *key;
        double value;
    } number[] = {
        { "width", r->out.width },
        { "height", r->out.height },
        { "steps", t->steps },
        { "tiles", t->tiles },
        { "seconds", t->seconds },
        { "network_seconds", t->network_seconds },
        { "update_seconds", t->update_seconds },
        { "gflop", t->flop * 1e-9 },
        { "speedup_requested", r->a->speedup > 0 ? r->a->speedup : NAN },
        { "speedup_measured", r->measured_speedup },
        { "psnr_db", r->has_reference ? r->ours.m.psnr : NAN },
        { "ms_ssim", r->has_reference ? r->ours.m.ms_ssim : NAN },
        { "gmsd", r->has_reference ? r->ours.m.gmsd : NAN },
        { "bicubic_psnr_db", r->has_reference ? r->bicubic.m.psnr : NAN },
    };
    for (size_t k = 0; k < sizeof number / sizeof *number; k++)
        cli_json_number(&j, number[k].key, number[k].value);
    for (int k = 0; k < CLI_PERCEPTUALS; k++) {
        char key[32];
        if (!r->nets.net[k]) continue;
        cli_json_number(&j, cli_perceptual_key[k], r->ours.distance[k]);
        snprintf(key, sizeof key, "bicubic_%s", cli_perceptual_key[k]);
        cli_json_number(&j, key, r->bicubic.distance[k]);
    }
    cli_json_u64(&j, "peak_bytes", t->peak_bytes);
    cli_json_u64(&j, "peak_resident_bytes", cli_resident_peak());
    cli_json_close(&j);
}

/* ---- The verb -------------------------------------------------------------------------------- */

static int enlarge(sr_run *r)
{
    int code = gen_sr_memory(r->a, &r->o.max_bytes, &r->held); /* for the steps that are measured */
    if (code == CLI_OK) code = choose_steps(r);
    if (code == CLI_OK) code = gen_sr_memory(r->a, &r->o.max_bytes, &r->held);
    if (code != CLI_OK) return code;
    const uint64_t result = result_bytes(r);
    if (r->o.max_bytes && result > r->o.max_bytes) r->o.max_bytes = 1; /* only tells what it needs */
    const fv_status s = run_image(r, &r->in, &r->o, &r->out, &r->stats);
    cli_progress_clear();
    if (s != FV_OK) return report(r, s, result);
    if (r->a->reference) code = judge(r);
    if (code == CLI_OK) code = write_picture(r, &r->out, r->out_path);
    if (code == CLI_OK && r->a->sheet) code = write_sheet(r);
    if (code != CLI_OK) return code;
    talk(r);
    if (r->a->common.json) print_json(r);
    return CLI_OK;
}

static int take_info(sr_run *r)
{
    fv_wan_info w = { 0 };
    int code = CLI_OK;
    if (r->sr) fv_sr_get_info(r->sr, &r->info);
    else code = gen_sr_wan_begin(r->ctx, r->file, r->a, &r->o, &w);
    if (r->sr && r->a->window)
        return cli_fail(CLI_USAGE, "--window is for models on Wan2.1: this one takes frames singly");
    if (r->sr) return code;
    r->info.name = w.name;
    r->info.steps = r->info.own_steps = w.steps;
    return code;
}

static int one_picture(sr_run *r)
{
    int code = cli_check_place(r->out_path, r->a->common.force);
    if (code == CLI_OK && r->a->sheet) code = cli_check_place(r->a->sheet, r->a->common.force);
    if (code != CLI_OK) return code;
    if (!cli_has_picture_suffix(r->out_path))
        return cli_fail(CLI_USAGE, "%s: the suffix names no picture format: png, webp, jpg, ppm or "
                        "pgm", r->out_path);
    if (r->a->sheet && !cli_has_picture_suffix(r->a->sheet))
        return cli_fail(CLI_USAGE, "--compare %s: the suffix names no picture format", r->a->sheet);
    code = cli_start(&r->ctx, &r->a->common);
    if (code == CLI_OK) code = cli_open_sr(r->ctx, r->a->model, &r->a->common, &r->file, &r->sr);
    if (code == CLI_OK) code = take_info(r);
    if (code == CLI_OK) code = read_picture(r, r->in_path, &r->in);
    if (code == CLI_OK) code = open_reference(r);
    if (code == CLI_OK) code = enlarge(r);
    cli_close_perceptual(&r->nets);
    fv_sr_close(&r->sr);
    fv_model_close(&r->file);
    fv_image_free(r->ctx, &r->in);
    fv_image_free(r->ctx, &r->out);
    fv_image_free(r->ctx, &r->original);
    return cli_finish(&r->ctx, code);
}

static int check_video(const sr_args *a)
{
    if (a->is_frames + a->is_y4m + (a->raw != NULL) > 1)
        return cli_fail(CLI_USAGE, "give one of --frames, --y4m and --raw");
    if (!a->raw != !a->frame_size)
        return cli_fail(CLI_USAGE, "--raw and --size belong together");
    if (a->speedup > 0 || a->sheet || a->reference)
        return cli_fail(CLI_USAGE, "--speedup, --compare and --reference are for single pictures; "
                        "give --steps");
    return CLI_OK;
}

static int video(const sr_run *r)
{
    fv_ctx *ctx = NULL;
    int code = check_video(r->a);
    if (code != CLI_OK) return code;
    code = cli_start(&ctx, &r->a->common);
    if (code == CLI_OK) code = gen_sr_video(ctx, r->a, &r->o, r->in_path, r->out_path);
    return cli_finish(&ctx, code);
}

static int run(void *args, const char **files, int count)
{
    sr_args *a = args;
    sr_run r = { .a = a, .in_path = files[0], .measured_speedup = NAN };
    r.out_path = a->out ? a->out : count > 1 ? files[1] : NULL;
    if (!r.out_path) return cli_fail(CLI_USAGE, "where to: give a file after the picture, or -o");
    if (a->out && count > 1) return cli_fail(CLI_USAGE, "give -o or a second file, not both");
    if (!a->is_frames && !a->raw && cli_has_suffix(files[0], ".y4m") &&
        cli_has_suffix(r.out_path, ".y4m"))
        a->is_y4m = true;
    const int code = set_options(a, &r.o);
    if (code != CLI_OK) return code;
    if (a->is_frames || a->is_y4m || a->raw || a->frame_size) return video(&r);
    if (a->rate) return cli_fail(CLI_USAGE, "--fps is for video: --raw or --frames to a .y4m");
    if (!isnan(a->scene_cut))
        return cli_fail(CLI_USAGE, "--scene-cut is for video: --frames, --y4m, --raw");
    return one_picture(&r);
}

int gen_sr(int argc, char **argv)
{
    sr_args a = { .detail = NAN, .scene_cut = NAN };
    const cli_option options[] = {
        { 0, "model", "FILE", "model of super-resolution", CLI_STRING, &a.model, 0, 0 },
        { 'o', NULL, "FILE", "the result, instead of a second file", CLI_STRING, &a.out, 0, 0 },
        { 0, "scale", "S", "times as large, 1 to 8 (default 4)", CLI_NUMBER, &a.scale, 1,
          FV_SR_MAX_SCALE },
        { 0, "out-size", "WxH", "pixels of the result instead", CLI_STRING, &a.size, 0, 0 },
        { 0, "steps", "T", "1 = base alone; default: the model's own number", CLI_INT, &a.steps, 1, 64 },
        { 0, "speedup", "R", "as many steps as are R times faster than those", CLI_RATIO, &a.speedup,
          1, 100 },
        { 0, "detail", "A", "weight of made-up detail, 0 to 2", CLI_NUMBER, &a.detail, 0, 2 },
        { 0, "fdu", "lerp|gain|lock|ref|paper|off", "how detail is put in", CLI_CHOICE, &a.fdu, 0, 0 },
        { 0, "tile", "WxH", "pixels of the result at a time", CLI_STRING, &a.tile, 0, 0 },
        { 0, "overlap", "N", "pixels seen beyond a tile (default 128)", CLI_INT, &a.overlap, 1,
          65536 },
        { 0, "tile-exact", NULL, "the pixels of one large tile", CLI_FLAG, &a.is_exact, 0, 0 },
        { 0, "window", "N[:M]", "frames at a time and shared, Wan2.1 (33:16)", CLI_STRING, &a.window,
          0, 0 },
        { 0, "mem", "SIZE", "most memory (default: 75 % of what is free)", CLI_STRING, &a.memory, 0,
          0 },
        { 0, "depth", "8|16|same", "bits of the result (default: same)", CLI_CHOICE, &a.depth, 0,
          0 },
        { 0, "alpha-filter", "bicubic|nearest", "for the alpha channel", CLI_CHOICE, &a.alpha, 0,
          0 },
        { 0, "quality", "Q", "of JPEG and lossy WebP, 1 to 100", CLI_INT, &a.quality, 1, 100 },
        { 0, "compare", "FILE", "sheet: nearest, Lanczos, bicubic, result", CLI_STRING, &a.sheet, 0,
          0 },
        { 0, "reference", "FILE", "the original, to measure the result", CLI_STRING, &a.reference,
          0, 0 },
        CLI_OPT_PERCEPTUAL(a.weights),
        { 0, "frames", NULL, "folders, or names with %05d, of numbered pictures", CLI_FLAG,
          &a.is_frames, 0, 0 },
        { 0, "y4m", NULL, "Y4M video", CLI_FLAG, &a.is_y4m, 0, 0 },
        { 0, "raw", "rgb24|rgb48le|gbrp", "frames without headers", CLI_CHOICE, &a.raw, 0, 0 },
        { 0, "size", "WxH", "of raw frames", CLI_STRING, &a.frame_size, 0, 0 },
        { 0, "fps", "N/D", "Y4M of --raw or --frames: frames a second (25)", CLI_STRING, &a.rate, 0,
          0 },
        { 0, "scene-cut", "T", "of video: difference that is a cut (0.1; 0: never)", CLI_NUMBER,
          &a.scene_cut, 0, 1 },
        { 0, "keep-going", NULL, "repeat the last frame for broken ones", CLI_FLAG, &a.keep_going,
          0, 0 },
        CLI_OPT_FORCE(&a.common),
        CLI_OPT_MACHINE(&a.common),
        CLI_OPT_JSON(&a.common),
        CLI_OPT_TALK_END(&a.common)
    };
    const cli_command command = { "gen sr", "[options] PICTURE OUT\n"
                                  "--frames|--y4m|--raw FORMAT [options] IN OUT",
                                  "A larger picture with made-up detail (super-resolution).", NULL,
                                  options, 1, 2 };
    return cli_run_files(&command, argc, argv, run, &a);
}
