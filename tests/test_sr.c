/* test_sr.c - pictures through super-resolution: sizes, formats, alpha, tiles, memory, failures. */
#include <limits.h>

#include "fovea_diffusion.h"
#include "sr.h"
#include "sanitized.h"
#include "temp_dir.h"
#include "test.h"

static fv_ctx *ctx;
static fv_model *file;
static fv_sr *sr;

/* Smooth waves, an edge and some grain. */
static fv_image picture(int width, int height, int channels, int depth)
{
    fv_image img;
    uint64_t seed = 11;
    if (fv_image_create(ctx, &img, width, height, channels, depth) != FV_OK) exit(1);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            for (int c = 0; c < channels; c++) {
                const double wave = sin(0.3 * x + 0.1 * c) * cos(0.2 * y) + (x > y ? 0.4 : -0.4);
                const double v = 0.5 + 0.25 * wave + 1e-10 * (double)(test_next(&seed) >> 4);
                const bool is_alpha = channels % 2 == 0 && c == channels - 1;
                const size_t at = (size_t)y * img.stride_bytes / (size_t)(depth / 8) +
                                  (size_t)x * (size_t)channels + (size_t)c;
                const uint32_t max = depth == 8 ? 255 : 65535;
                const uint32_t s = is_alpha ? max : (uint32_t)(fmin(fmax(v, 0), 1) * max);
                if (depth == 8) ((uint8_t *)img.pixels)[at] = (uint8_t)s;
                else ((uint16_t *)img.pixels)[at] = (uint16_t)s;
            }
    return img;
}

static uint32_t at(const fv_image *img, int x, int y, int c)
{
    const uint8_t *row = (const uint8_t *)img->pixels + (size_t)y * img->stride_bytes;
    const size_t i = (size_t)x * (size_t)img->channels + (size_t)c;
    return img->depth == 8 ? row[i] : ((const uint16_t *)(const void *)row)[i];
}

static int largest_gap(const fv_image *a, const fv_image *b)
{
    int worst = 0;
    for (int y = 0; y < a->height; y++)
        for (int x = 0; x < a->width; x++)
            for (int c = 0; c < a->channels; c++) {
                const int d = abs((int)at(a, x, y, c) - (int)at(b, x, y, c));
                if (d > worst) worst = d;
            }
    return worst;
}

static bool same_pixels(const fv_image *a, const fv_image *b)
{
    return a->width == b->width && a->height == b->height && a->channels == b->channels &&
           a->depth == b->depth && largest_gap(a, b) == 0;
}

static fv_sr_options options(void)
{
    const fv_sr_options o = FV_SR_OPTIONS_INIT;
    return o;
}

static fv_image enlarge(const fv_image *in, fv_sr_options o, fv_sr_stats *stats)
{
    fv_image out;
    if (fv_sr_image(ctx, sr, in, &o, &out, stats) != FV_OK) {
        printf("# %s\n", fv_ctx_error(ctx));
        exit(1);
    }
    return out;
}

/* ---- Models ---------------------------------------------------------------------------------- */

/* A model with drawn values in a file of that type; times 1: base alone. */
static void write_kind(const char *path, fv_dtype type, int times, bool is_new, float head,
                       bool is_video)
{
    pssr_config c;
    pssr_net n;
    fv_params *p;
    fv_meta meta;
    if (pssr_preset(ctx, "nano", &c) != FV_OK || fv_params_create(ctx, &p) != FV_OK) exit(1);
    c.blocks = 4;
    c.every = 2;
    c.times = times;
    c.is_video = is_video;
    pssr_net_add(&n, p, &c, "", times > 1 ? PSSR_BASE | PSSR_DRAFT : PSSR_BASE, 0);
    if (fv_params_alloc(p) != FV_OK) exit(1);
    pssr_net_init(&n, 3);
    for (int k = 0; k < 2 && !is_new; k++) {
        const pssr_half *h = k ? &n.draft : &n.base;
        if (h->blocks) fv_params_init_normal(p, h->head.w, 5, head);
    }
    if (pssr_config_meta(ctx, &c, &meta) != FV_OK ||
        fv_params_export(ctx, p, type, (const char *const *)meta.item, meta.pairs, path, 1) !=
            FV_OK) {
        printf("# %s\n", fv_ctx_error(ctx));
        exit(1);
    }
    fv_meta_free(ctx, &meta);
    fv_params_destroy(&p);
}

static void write_model(const char *path, fv_dtype type, int times, bool is_new, float head)
{
    write_kind(path, type, times, is_new, head, false);
}

static fv_status open_file(const char *path, fv_model **m, fv_sr **out)
{
    if (fv_model_open(ctx, m, path, NULL) != FV_OK) exit(1);
    const fv_status s = fv_sr_open(ctx, out, *m, FV_F32);
    if (s != FV_OK) fv_model_close(m);
    return s;
}

static void models_say_what_they_are(void)
{
    fv_sr_info i;
    fv_sr *tiny;
    fv_model *m;
    fv_sr_get_info(sr, &i);
    CHECK(strcmp(i.name, "pssr-nano") == 0 && i.channels == 32 && i.draft_blocks == 2);
    OK(ctx, fv_sr_random(ctx, "tiny", 1, temp_path("tiny"), 1));
    OK(ctx, open_file(temp_path("tiny"), &m, &tiny));
    fv_sr_get_info(tiny, &i);
    fv_sr_close(&tiny);
    fv_model_close(&m);
    CHECK(i.steps == 4 && i.draft_parameters == 348976 && i.fdu == FV_FDU_LERP);
    NEAR(i.base_flop, 1.315e6, 1e3); /* the specification's table */
    NEAR(i.once_flop, 0.088e6, 1e3);
    NEAR(i.draft_flop, 0.545e6, 1e3);
    CHECK(fv_sr_random(ctx, "huge", 1, temp_path("x"), 1) == FV_ERR_UNKNOWN);
}

static void files_of_all_types_give_nearly_the_same_picture(void)
{
    static const fv_dtype types[3] = { FV_F32, FV_BF16, FV_I8 };
    fv_image in = picture(20, 14, 3, 16), out[3];
    for (int k = 0; k < 3; k++) {
        fv_model *m;
        fv_sr *one;
        const fv_sr_options o = options();
        write_model(temp_path("typed"), types[k], 4, false, 0.02f);
        OK(ctx, open_file(temp_path("typed"), &m, &one));
        OK(ctx, fv_sr_image(ctx, one, &in, &o, &out[k], NULL));
        fv_sr_close(&one);
        fv_model_close(&m);
    }
    const int bf16 = largest_gap(&out[0], &out[1]), int8 = largest_gap(&out[0], &out[2]);
    for (int k = 0; k < 3; k++) fv_image_free(ctx, &out[k]);
    fv_image_free(ctx, &in);
    CHECK_MSG(bf16 > 0 && bf16 < 3000 && int8 > 0 && int8 < 6000, "%d %d", bf16, int8);
}

static void a_base_alone_is_a_model_of_one_step(void)
{
    fv_model *m;
    fv_sr *one;
    fv_sr_info i;
    fv_image in = picture(9, 9, 3, 8), out;
    fv_sr_options o = options();
    write_model(temp_path("base"), FV_F32, 1, false, 0.02f);
    OK(ctx, open_file(temp_path("base"), &m, &one));
    fv_sr_get_info(one, &i);
    OK(ctx, fv_sr_image(ctx, one, &in, &o, &out, NULL));
    fv_image_free(ctx, &out);
    o.steps = 2;
    CHECK(fv_sr_image(ctx, one, &in, &o, &out, NULL) == FV_ERR_ARG);
    fv_sr_close(&one);
    fv_model_close(&m);
    fv_image_free(ctx, &in);
    CHECK(i.steps == 1 && i.draft_parameters == 0);
}

static void a_new_model_is_bicubic_enlargement(void)
{
    static const int to[3][2] = { { 68, 52 }, { 25, 13 }, { 33, 39 } };
    fv_model *m;
    fv_sr *one;
    fv_image in = picture(17, 13, 3, 8);
    write_model(temp_path("new"), FV_F32, 4, true, 0);
    OK(ctx, open_file(temp_path("new"), &m, &one));
    for (int k = 0; k < 3; k++) {
        fv_image out, bicubic;
        fv_sr_options o = options();
        o.width = to[k][0];
        o.height = to[k][1];
        OK(ctx, fv_sr_image(ctx, one, &in, &o, &out, NULL));
        OK(ctx, fv_image_resize(ctx, &bicubic, &in, to[k][0], to[k][1], FV_FILTER_BICUBIC));
        const int gap = largest_gap(&out, &bicubic); /* its 8 bits between the passes */
        fv_image_free(ctx, &out);
        fv_image_free(ctx, &bicubic);
        CHECK_MSG(gap <= 1, "%d", gap);
    }
    fv_sr_close(&one);
    fv_model_close(&m);
    fv_image_free(ctx, &in);
}

static void other_files_are_refused(void)
{
    fv_sr *none = NULL;
    fv_model *m;
    fv_tensor t = { (float[1]){ 1 }, FV_F32, 1, { 1 } };
    fv_model_writer *w;
    OK(ctx, fv_model_writer_create(ctx, &w));
    OK(ctx, fv_model_writer_meta(w, "fovea.kind", "dit"));
    OK(ctx, fv_model_writer_tensor(w, "x", &t));
    OK(ctx, fv_model_writer_finish(w, temp_path("dit"), 1));
    fv_model_writer_destroy(&w);
    CHECK(open_file(temp_path("dit"), &m, &none) == FV_ERR_MODEL && !none);
}

/* ---- Sizes and formats ----------------------------------------------------------------------- */

static void every_size_and_scale_works(void)
{
    static const int size[][2] = { { 1, 1 }, { 1, 7 }, { 7, 1 }, { 3, 3 }, { 17, 31 }, { 65, 9 } };
    static const double scale[] = { 1, 1.5, 2, 3, 4, 8 };
    for (size_t i = 0; i < FV_ARRAY_LEN(size); i++)
        for (size_t k = 0; k < FV_ARRAY_LEN(scale); k++) {
            fv_image in = picture(size[i][0], size[i][1], 3, 8), out;
            fv_sr_options o = options();
            fv_sr_stats stats;
            o.scale = scale[k];
            OK(ctx, fv_sr_image(ctx, sr, &in, &o, &out, &stats));
            const bool fits = out.width == (int)floor(size[i][0] * scale[k] + 0.5) &&
                              out.height == (int)floor(size[i][1] * scale[k] + 0.5);
            fv_image_free(ctx, &out);
            fv_image_free(ctx, &in);
            CHECK(fits && stats.is_beyond == (scale[k] > 4) && stats.steps == 4);
        }
}

static void formats_are_kept(void)
{
    for (int channels = 1; channels <= 4; channels++)
        for (int depth = 8; depth <= 16; depth += 8) {
            fv_image in = picture(11, 6, channels, depth);
            fv_image out = enlarge(&in, options(), NULL);
            const bool fits = out.channels == channels && out.depth == depth && out.width == 44;
            bool is_opaque = true;
            for (int i = 0; i < 44 * 24 && channels % 2 == 0; i++)
                is_opaque &= at(&out, i % 44, i / 44, channels - 1) == (1u << depth) - 1;
            fv_image_free(ctx, &out);
            fv_sr_options o = options();
            o.depth = 24 - depth;
            out = enlarge(&in, o, NULL);
            const bool converted = out.depth == 24 - depth;
            fv_image_free(ctx, &out);
            fv_image_free(ctx, &in);
            CHECK(fits && is_opaque && converted);
        }
}

static void metadata_is_copied(void)
{
    fv_image in = picture(5, 5, 3, 8);
    OK(ctx, fv_image_add_text(ctx, &in, "Title", "five"));
    fv_image out = enlarge(&in, options(), NULL);
    const char *text = fv_image_text(&out, "Title");
    const bool copied = text && strcmp(text, "five") == 0;
    fv_image_free(ctx, &out);
    fv_image_free(ctx, &in);
    CHECK(copied);
}

static void ramps_of_16_bits_keep_their_levels(void)
{
    fv_image in;
    static uint8_t seen[65536];
    OK(ctx, fv_image_create(ctx, &in, 64, 8, 1, 16));
    for (int i = 0; i < 64 * 8; i++) ((uint16_t *)in.pixels)[i] = (uint16_t)(30000 + 8 * (i % 64));
    fv_image out = enlarge(&in, options(), NULL);
    int levels = 0;
    for (int y = 0; y < out.height; y++)
        for (int x = 0; x < out.width; x++) seen[at(&out, x, y, 0)] = 1;
    for (int i = 0; i < 65536; i++) levels += seen[i];
    fv_image_free(ctx, &out);
    fv_image_free(ctx, &in);
    CHECK_MSG(levels > 256, "%d", levels);
}

/* A disc of one colour; black, or the colour itself, under alpha 0. */
static fv_image disc(bool is_black_outside, int edge)
{
    fv_image img;
    if (fv_image_create(ctx, &img, 24, 24, 4, 8) != FV_OK) exit(1);
    for (int i = 0; i < 24 * 24; i++) {
        uint8_t *p = (uint8_t *)img.pixels + 4 * i;
        const double d = hypot(i % 24 - 11.5, i / 24 - 11.5) - 7;
        p[3] = (uint8_t)(d < 0 ? 255 : d < edge ? 255 - 255 * d / edge : 0);
        const bool is_black = p[3] == 0 && is_black_outside;
        p[0] = is_black ? 0 : 200;
        p[1] = is_black ? 0 : 120;
        p[2] = is_black ? 0 : 40;
    }
    return img;
}

static void colours_under_alpha_do_not_bleed(void)
{
    for (int edge = 0; edge < 4; edge += 3) {
        fv_image in = disc(true, edge), full = disc(false, edge);
        fv_image out = enlarge(&in, options(), NULL), want = enlarge(&full, options(), NULL);
        int worst = 0, middle = 0;
        for (int y = 0; y < 96; y++)
            for (int x = 0; x < 96; x++) {
                const uint32_t a = at(&out, x, y, 3);
                middle += a > 0 && a < 255;
                for (int c = 0; c < 3 && a > 0; c++) {
                    const int d = abs((int)at(&out, x, y, c) - (int)at(&want, x, y, c));
                    worst = d > worst ? d : worst;
                }
            }
        fv_image_free(ctx, &in);
        fv_image_free(ctx, &full);
        fv_image_free(ctx, &out);
        fv_image_free(ctx, &want);
        CHECK_MSG(worst <= 2, "%d", worst);
        CHECK(edge ? middle > 0 : middle == 0); /* masks stay masks */
    }
}

static void empty_and_nearest_alpha_work(void)
{
    fv_image in = disc(true, 3);
    fv_sr_options o = options();
    o.alpha = FV_SR_ALPHA_NEAREST;
    o.scale = 2;
    fv_image out = enlarge(&in, o, NULL);
    bool same = true;
    for (int i = 0; i < 48 * 48; i++)
        same &= at(&out, i % 48, i / 48, 3) == at(&in, i % 48 / 2, i / 48 / 2, 3);
    fv_image_free(ctx, &out);
    o.scale = 8; /* beyond the networks' */
    out = enlarge(&in, o, NULL);
    for (int i = 0; i < 192 * 192; i++)
        same &= at(&out, i % 192, i / 192, 3) == at(&in, i % 192 / 8, i / 192 / 8, 3);
    fv_image_free(ctx, &out);
    memset(in.pixels, 0, 24 * 24 * 4);
    out = enlarge(&in, options(), NULL);
    for (int i = 0; i < 96 * 96; i++) same &= at(&out, i % 96, i / 96, 3) == 0;
    fv_image_free(ctx, &out);
    fv_image_free(ctx, &in);
    CHECK(same);
}

static void masks_stay_masks_beyond_four_times(void)
{
    fv_image in = disc(true, 0);
    fv_sr_options o = options();
    o.scale = 7;
    fv_image out = enlarge(&in, o, NULL);
    int inside = 0, between = 0, dark = 0;
    for (int i = 0; i < 168 * 168; i++) {
        const uint32_t a = at(&out, i % 168, i / 168, 3);
        inside += a == 255;
        between += a > 0 && a < 255;
        dark += a > 0 && at(&out, i % 168, i / 168, 0) < 100;
    }
    fv_image_free(ctx, &in);
    fv_image_free(ctx, &out);
    CHECK_MSG(inside > 6000 && inside < 8500 && between == 0 && dark == 0,
              "%d inside, %d between, %d dark", inside, between, dark);
}

/* ---- Steps and the update -------------------------------------------------------------------- */

static void no_detail_is_the_base(void)
{
    fv_image in = picture(20, 20, 3, 8);
    fv_sr_options none = options(), base = options(), off = options(), each = options();
    fv_sr_stats stats;
    none.detail = 0;
    base.steps = 1;
    off.fdu = FV_FDU_OFF;
    each.update_each = 1;
    fv_image a = enlarge(&in, none, &stats), b = enlarge(&in, base, NULL);
    fv_image c = enlarge(&in, off, NULL), d = enlarge(&in, each, NULL);
    fv_image e = enlarge(&in, options(), NULL);
    const bool same = same_pixels(&a, &b), differs = !same_pixels(&a, &c) && !same_pixels(&d, &e) &&
                                                     !same_pixels(&a, &e);
    fv_image_free(ctx, &a);
    fv_image_free(ctx, &b);
    fv_image_free(ctx, &c);
    fv_image_free(ctx, &d);
    fv_image_free(ctx, &e);
    fv_image_free(ctx, &in);
    CHECK(same && differs && stats.steps == 1);
}

/* ---- Tiles and threads ----------------------------------------------------------------------- */

static void exact_tiles_are_the_whole_picture(void)
{
    static const int size[4][2] = { { 130, 90 }, { 96, 64 }, { 200, 17 }, { 40, 170 } };
    for (int k = TEST_SANITIZED ? 2 : 0; k < 4; k++) {
        fv_image in = picture(size[k][0], size[k][1], 3, 16);
        fv_sr_options o = options();
        fv_sr_stats stats;
        fv_image whole = enlarge(&in, o, &stats);
        const int tiles = stats.tiles;
        o.tile_width = 96;
        o.tile_height = 96;
        o.exact_tiles = 1;
        fv_image cut = enlarge(&in, o, &stats);
        const int gap = largest_gap(&whole, &cut);
        fv_image_free(ctx, &whole);
        fv_image_free(ctx, &cut);
        fv_image_free(ctx, &in);
        CHECK(tiles == 1 && stats.tiles > 4);
        CHECK_MSG(gap <= 1, "%d of 65535", gap); /* 1e-5, and the rounding */
    }
}

static void usual_tiles_are_close_and_show_no_seams(void)
{
    fv_image in = picture(150, 100, 3, 16);
    fv_sr_options o = options();
    fv_sr_stats stats;
    fv_image whole = enlarge(&in, o, NULL);
    o.tile_width = 128;
    o.tile_height = 128;
    fv_image cut = enlarge(&in, o, &stats);
    double sum = 0;
    for (int y = 0; y < cut.height; y++)
        for (int x = 0; x < 3 * cut.width; x++) {
            const double d = ((double)at(&cut, x / 3, y, x % 3) - at(&whole, x / 3, y, x % 3)) /
                             65535;
            sum += d * d;
        }
    const double psnr = -10 * log10(sum / (3.0 * cut.width * cut.height) + 1e-20);
    double worst = 0; /* mean step of the difference across any column */
    for (int x = 1; x < cut.width; x++) {
        double step = 0;
        for (int y = 0; y < cut.height; y++)
            step += ((double)at(&cut, x, y, 1) - at(&whole, x, y, 1)) -
                    ((double)at(&cut, x - 1, y, 1) - at(&whole, x - 1, y, 1));
        worst = test_worst(worst, step / cut.height / 65535);
    }
    fv_image_free(ctx, &whole);
    fv_image_free(ctx, &cut);
    fv_image_free(ctx, &in);
    CHECK(stats.tiles == 20);
    CHECK_MSG(psnr >= 45 && worst < 1.0 / 255, "%g dB, step %g", psnr, worst);
}

static void the_same_bytes_for_any_number_of_threads(void)
{
    fv_image in = picture(50, 40, 4, 8), out[2];
    fv_sr_options o = options();
    o.tile_width = o.tile_height = 96;
    for (int k = 0; k < 2; k++) {
        fv_ctx_options co = FV_CTX_OPTIONS_INIT;
        fv_ctx *other;
        fv_image copy;
        co.threads = k + 1;
        OK(NULL, fv_ctx_create(&other, &co));
        OK(other, fv_sr_image(other, sr, &in, &o, &copy, NULL));
        OK(ctx, fv_image_crop(ctx, &out[k], &copy, 0, 0, copy.width, copy.height));
        fv_image_free(other, &copy);
        fv_ctx_destroy(&other);
    }
    const bool same = same_pixels(&out[0], &out[1]);
    for (int k = 0; k < 2; k++) fv_image_free(ctx, &out[k]);
    fv_image_free(ctx, &in);
    CHECK(same);
}

/* ---- Frames ---------------------------------------------------------------------------------- */

static void a_frame_is_the_picture_before_rounding(void)
{
    enum { WIDE = 50, HIGH = 30 };
    static float in[WIDE * HIGH * 3], out[64 * WIDE * HIGH * 3];
    fv_image img = picture(WIDE, HIGH, 3, 16);
    fv_image_to_float(&img, 0, 1, in);
    for (int scale = 2; scale <= 8; scale += 2) {
        fv_sr_options o = options();
        fv_sr_stream *s;
        fv_memory_stats m[2];
        int w, h;
        o.scale = scale;
        o.steps = 4;
        o.tile_width = o.tile_height = 96;
        fv_image whole = enlarge(&img, o, NULL), frame;
        OK(ctx, fv_sr_stream_open(ctx, &s, sr, WIDE, HIGH, &o, NULL));
        fv_sr_stream_size(s, &w, &h);
        CHECK(w == scale * WIDE && h == scale * HIGH);
        OK(ctx, fv_sr_stream_frame(s, in, out, NULL));
        fv_ctx_memory(ctx, &m[0]);
        OK(ctx, fv_sr_stream_frame(s, in, out, NULL)); /* again: nothing is left of the first */
        fv_ctx_memory(ctx, &m[1]);
        fv_sr_stream_close(&s);
        OK(ctx, fv_image_create(ctx, &frame, w, h, 3, 16));
        fv_image_from_float(&frame, 0, 1, out);
        const int gap = largest_gap(&whole, &frame);
        bool is_in_range = true;
        for (int i = 0; i < 3 * w * h; i++) is_in_range &= out[i] >= 0 && out[i] <= 1;
        fv_image_free(ctx, &whole);
        fv_image_free(ctx, &frame);
        CHECK(is_in_range);
        CHECK(m[0].allocations == m[1].allocations);
        CHECK_MSG(gap <= (scale > 4 ? 3 : 1), "%d", gap); /* beyond 4 pictures are rounded twice */
    }
    fv_image_free(ctx, &img);
}

/* Drafts of pictures flicker: of a model of pictures a stream takes the base, unless it is told. */
static void clips_leave_out_drafts_of_pictures(void)
{
    enum { WIDE = 24, HIGH = 16 };
    static float in[WIDE * HIGH * 3], out[3][16 * WIDE * HIGH * 3];
    fv_sr_options o[3] = { options(), options(), options() };
    fv_sr_stats stats[3];
    fv_sr_info info;
    fv_image img = picture(WIDE, HIGH, 3, 8);
    fv_image_to_float(&img, 0, 1, in);
    fv_image_free(ctx, &img);
    fv_sr_get_info(sr, &info);
    o[1].steps = 1;
    o[2].detail = info.detail;
    for (int k = 0; k < 3; k++) {
        fv_sr_stream *s;
        OK(ctx, fv_sr_stream_open(ctx, &s, sr, WIDE, HIGH, &o[k], NULL));
        OK(ctx, fv_sr_stream_frame(s, in, out[k], &stats[k]));
        fv_sr_stream_close(&s);
    }
    CHECK(stats[0].steps == 1 && stats[1].steps == 1 && stats[2].steps == info.steps);
    CHECK(memcmp(out[0], out[1], sizeof out[0]) == 0 && memcmp(out[0], out[2], sizeof out[0]) != 0);
}

/* ---- Frames that see the one before ---------------------------------------------------------- */

enum { FILM = 4, FILM_W = 72, FILM_H = 24, FILM_IN = FILM_W * FILM_H * 3, FILM_OUT = 16 * FILM_IN };
static float film[FILM][FILM_IN], shown[FILM][FILM_OUT], again[FILM][FILM_OUT];
static fv_model *film_file;
static fv_sr *film_sr;

/* A texture that moves by `speed` pixels a frame; still ones have no grain that changes. */
static void make_film(double speed)
{
    for (int t = 0; t < FILM; t++)
        for (int i = 0; i < FILM_IN; i++) {
            const double x = i / 3 % FILM_W + speed * t, y = i / 3 / FILM_W;
            film[t][i] = (float)(0.5 + 0.2 * sin(0.8 * x + i % 3) * cos(0.5 * y) +
                                 0.2 * sin(2.1 * x - 1.3 * y));
        }
}

static fv_sr_stream *open_film(fv_sr_options o)
{
    fv_sr_stream *s = NULL;
    if (fv_sr_stream_open(ctx, &s, film_sr, FILM_W, FILM_H, &o, NULL) != FV_OK) {
        printf("# %s\n", fv_ctx_error(ctx));
        exit(1);
    }
    return s;
}

static void run_film(fv_sr_options o, float out[FILM][FILM_OUT], int *cuts)
{
    fv_sr_stream *s = open_film(o);
    for (int t = 0; t < FILM; t++) {
        fv_sr_stats stats;
        if (fv_sr_stream_frame(s, film[t], out[t], &stats) != FV_OK) {
            printf("# %s\n", fv_ctx_error(ctx));
            exit(1);
        }
        if (cuts) cuts[t] = stats.is_cut;
    }
    fv_sr_stream_close(&s);
}

/* All frames in one tape, each with features of the one before: what a training makes of a clip. */
static void run_as_one_batch(const fv_sr *s, bool is_training, int drafts,
                             float out[FILM][FILM_OUT])
{
    const int64_t dim[4] = { 1, 4 * FILM_H, 4 * FILM_W, 3 };
    const fvi_resampling how = { FVI_RESIZE_BICUBIC, true, false };
    const int in[2] = { FILM_H, FILM_W }, size[2] = { 4 * FILM_H, 4 * FILM_W };
    static float input[FILM][FILM_OUT];
    pssr_tables tables;
    fvi_resize *resize;
    pssr_graph g;
    fv_t z[FILM], zhat[PSSR_MAX_TIMES];
    fv_tape *t;
    fv_plan *p;
    char name[24];
    OK(ctx, fv_tape_create(ctx, &t, s->params, is_training ? FV_TRAIN : FV_INFER, FV_F32));
    pssr_graph_begin(&g, t, &s->net, 1, drafts);
    for (int k = 0; k < FILM; k++) {
        snprintf(name, sizeof name, "x.%d", k);
        z[k] = pssr_unshuffle(t, fv_input(t, name, FV_F32, 4, dim));
    }
    pssr_refine_clip(&g, z, FILM, drafts, zhat);
    fv_output(t, "y", pssr_shuffle(t, zhat[drafts]));
    OK(ctx, fv_plan_finish(ctx, &p, &t, NULL));
    OK(ctx, pssr_tables_create(ctx, &tables, &s->net.cfg, 1));
    OK(ctx, pssr_tables_bind(&tables, p));
    OK(ctx, fvi_resize_create(ctx, &resize, FILM_W, 4 * FILM_W, 0));
    OK(ctx, fvi_resize_set(resize, how, in, size));
    for (int k = 0; k < FILM; k++) {
        fvi_resize_run(resize, film[k], 3, input[k]);
        for (int i = 0; i < FILM_OUT; i++) input[k][i] = 2 * fv_clamp_unit(input[k][i]) - 1;
        snprintf(name, sizeof name, "x.%d", k);
        OK(ctx, fv_plan_bind(p, name, input[k]));
    }
    OK(ctx, fv_plan_forward(p));
    const float *y = fv_plan_value(p, "y").data;
    for (int i = 0; i < FILM * FILM_OUT; i++)
        out[i / FILM_OUT][i % FILM_OUT] = fv_clamp_unit(0.5f * y[i] + 0.5f);
    fvi_resize_free(&resize);
    pssr_tables_free(ctx, &tables);
    fv_plan_destroy(&p);
}

static void a_stream_is_the_batch_to_the_bit(void)
{
    make_film(1.3);
    for (int drafts = 0; drafts <= 3; drafts += 3) {
        fv_sr_options o = options();
        o.steps = drafts + 1;
        o.fdu = FV_FDU_OFF; /* the last draft itself */
        run_film(o, shown, NULL);
        run_as_one_batch(film_sr, false, drafts, again);
        for (int t = 0; t < FILM; t++)
            CHECK_MSG(memcmp(shown[t], again[t], sizeof shown[t]) == 0, "frame %d, %d drafts", t,
                      drafts);
    }
}

static double film_gap(void)
{
    double worst = 0;
    for (int t = 0; t < FILM; t++)
        for (int i = 0; i < FILM_OUT; i++)
            worst = test_worst(worst, (double)shown[t][i] - (double)again[t][i]);
    return worst;
}

/* The tape of a training against a stream with the same masters: to the last bits, as its products may
 * take other kernels; packed weights round differently. */
static void a_training_sees_the_frames_of_a_stream(void)
{
    fv_sr masters = *film_sr, *const opened = film_sr;
    fv_sr_options o = options();
    o.fdu = FV_FDU_OFF;
    OK(ctx, fv_params_create(ctx, &masters.params));
    pssr_net_add(&masters.net, masters.params, &opened->net.cfg, "", PSSR_BASE | PSSR_DRAFT, 0);
    OK(ctx, fv_params_alloc(masters.params));
    OK(ctx, fv_params_load(masters.params, film_file, ""));
    make_film(1.3);
    run_as_one_batch(&masters, true, 3, again);
    film_sr = &masters;
    run_film(o, shown, NULL);
    CHECK_MSG(film_gap() < 1e-6, "%g", film_gap());
    film_sr = opened;
    run_film(o, shown, NULL);
    CHECK_MSG(film_gap() < 1e-5, "%g", film_gap());
    fv_params_destroy(&masters.params);
}

static void frames_see_the_one_before(void)
{
    fv_sr_options o = options();
    make_film(1.3);
    run_film(o, shown, NULL);
    for (int t = 0; t < FILM; t++) { /* each as a picture */
        fv_sr_stream *s = open_film(o);
        OK(ctx, fv_sr_stream_frame(s, film[t], again[t], NULL));
        fv_sr_stream_close(&s);
        const bool same = memcmp(shown[t], again[t], sizeof shown[t]) == 0;
        CHECK(t == 0 ? same : !same);
    }
    make_film(0); /* a film that stands still is its picture */
    run_film(o, shown, NULL);
    for (int t = 1; t < FILM; t++) CHECK(memcmp(shown[t], shown[0], sizeof shown[0]) == 0);
}

static void a_stream_can_begin_anew(void)
{
    make_film(1.3);
    fv_sr_stream *s = open_film(options());
    OK(ctx, fv_sr_stream_frame(s, film[2], again[0], NULL));
    OK(ctx, fv_sr_stream_frame(s, film[0], shown[0], NULL));
    fv_sr_stream_restart(s);
    OK(ctx, fv_sr_stream_frame(s, film[2], shown[1], NULL));
    fv_sr_stream_close(&s);
    fv_sr_stream_restart(NULL);
    CHECK(memcmp(again[0], shown[1], sizeof shown[1]) == 0);
}

static void tiles_of_a_stream_are_the_whole_frames(void)
{
    fv_sr_options o = options();
    make_film(1.3);
    run_film(o, shown, NULL);
    o.tile_width = o.tile_height = 32;
    o.overlap = 64; /* regions of 40 of 72 columns of cells */
    run_film(o, again, NULL);
    CHECK_MSG(film_gap() > 1e-6 && film_gap() < 0.05, "%g", film_gap());
    o = options();
    o.steps = 1;
    run_film(o, shown, NULL);
    o.exact_tiles = 1; /* a reach of 24 cells: regions of 56 columns */
    o.tile_width = o.tile_height = 32;
    run_film(o, again, NULL);
    CHECK_MSG(film_gap() <= 1e-5, "%g", film_gap());
    o.tile_width = o.tile_height = INT_MAX;
    run_film(o, again, NULL);
    CHECK(film_gap() == 0);
}

static void a_stream_stays_within_its_memory(void)
{
    fv_sr_options o = options();
    fv_sr_stats stats;
    fv_sr_stream *s;
    fv_memory_stats m[3];
    fv_ctx_memory(ctx, &m[0]);
    make_film(1.3);
    run_film(o, shown, NULL);
    o.max_bytes = 1 << 20;
    CHECK(fv_sr_stream_open(ctx, &s, film_sr, FILM_W, FILM_H, &o, &stats) == FV_ERR_OOM && !s);
    o.max_bytes = stats.least_bytes;
    o.overlap = 32;
    fv_ctx_memory_reset_peak(ctx);
    s = open_film(o);
    for (int t = 0; t < FILM; t++) {
        OK(ctx, fv_sr_stream_frame(s, film[t], again[t], NULL));
        fv_ctx_memory(ctx, &m[1 + (t > 0)]);
    }
    fv_sr_stream_close(&s);
    CHECK(m[1].allocations == m[2].allocations); /* frames allocate nothing */
    CHECK_MSG(m[2].peak_bytes - m[0].current_bytes <= o.max_bytes, "%llu of %llu",
              (unsigned long long)(m[2].peak_bytes - m[0].current_bytes),
              (unsigned long long)o.max_bytes);
    fv_ctx_memory(ctx, &m[1]);
    CHECK(m[1].current_bytes == m[0].current_bytes);
}

/* Frame t of a scene with that brightness. */
static void fill_scene(int t, int scene, double light)
{
    for (int i = 0; i < FILM_IN; i++) {
        const double x = i / 3 % FILM_W + 1.3 * t, y = i / 3 / FILM_W;
        const double wave = scene ? sin(0.11 * y * (scene + 1)) : sin(0.15 * x);
        film[t][i] = (float)(light + 0.3 * wave);
    }
}

static void scenes_begin_anew(void)
{
    /* scene of each frame, brightness, what is a cut */
    static const struct { int scene[FILM]; double light[FILM]; int cut[FILM]; } films[] = {
        { { 0, 0, 0, 0 }, { .5, .5, .5, .5 }, { 0, 0, 0, 0 } },
        { { 0, 0, 1, 1 }, { .4, .4, .6, .6 }, { 0, 0, 1, 0 } },
        { { 0, 1, 2, 0 }, { .3, .7, .35, .6 }, { 0, 1, 0, 0 } },   /* scenes of one frame */
        { { 0, 0, 0, 0 }, { .3, .36, .42, .48 }, { 0, 0, 0, 0 } }, /* grows lighter */
        { { 0, 0, 0, 0 }, { .4, .45, .7, .7 }, { 0, 0, 1, 0 } },   /* a lamp */
        { { 0, 0, 0, 0 }, { .2, .32, .44, .56 }, { 0, 1, 0, 0 } }, /* not more than before */
    };
    int cuts[FILM];
    fv_sr_options o = options();
    o.steps = 1;
    for (size_t f = 0; f < FV_ARRAY_LEN(films); f++) {
        for (int t = 0; t < FILM; t++) fill_scene(t, films[f].scene[t], films[f].light[t]);
        o.scene_cut = 0;
        run_film(o, shown, cuts);
        for (int t = 0; t < FILM; t++) {
            CHECK_MSG(cuts[t] == films[f].cut[t], "film %zu, frame %d: %d", f, t, cuts[t]);
            if (!cuts[t]) continue;
            fv_sr_stream *s = open_film(o);
            OK(ctx, fv_sr_stream_frame(s, film[t], again[0], NULL));
            fv_sr_stream_close(&s);
            CHECK(memcmp(again[0], shown[t], sizeof shown[t]) == 0);
        }
        o.scene_cut = -1;
        run_film(o, again, cuts);
        for (int t = 0; t < FILM; t++) CHECK(!cuts[t]);
        if (f == 1) CHECK(memcmp(again[2], shown[2], sizeof shown[2]) != 0);
    }
    o.scene_cut = 0.9f;
    run_film(o, shown, cuts);
    CHECK(!cuts[1]);
    o.scene_cut = 1.5f;
    fv_sr_stream *s;
    CHECK(fv_sr_stream_open(ctx, &s, film_sr, FILM_W, FILM_H, &o, NULL) == FV_ERR_ARG);
}

static void other_models_see_each_frame_alone(void)
{
    fv_sr_info i;
    fv_sr_stream *s;
    fv_sr_stats stats;
    fv_sr_get_info(sr, &i);
    CHECK(!i.is_video);
    fv_sr_get_info(film_sr, &i);
    CHECK(i.is_video);
    for (int t = 0; t < 2; t++) fill_scene(t, t, 0.3 + 0.4 * t);
    OK(ctx, fv_sr_stream_open(ctx, &s, sr, FILM_W, FILM_H, NULL, NULL));
    OK(ctx, fv_sr_stream_frame(s, film[1], again[0], NULL));
    OK(ctx, fv_sr_stream_frame(s, film[0], shown[0], NULL));
    OK(ctx, fv_sr_stream_frame(s, film[1], shown[1], &stats));
    fv_sr_stream_close(&s);
    CHECK(!stats.is_cut && memcmp(again[0], shown[1], sizeof shown[1]) == 0);
    fv_model *m;
    fv_sr *nano;
    OK(ctx, fv_sr_random(ctx, "nano-video", 1, temp_path("nano-video"), 1));
    OK(ctx, open_file(temp_path("nano-video"), &m, &nano));
    fv_sr_get_info(nano, &i);
    CHECK(i.is_video && strcmp(i.name, "pssr-nano-video") == 0);
    fv_sr_close(&nano);
    fv_model_close(&m);
    CHECK(fv_sr_random(ctx, "-video", 1, temp_path("x"), 1) == FV_ERR_UNKNOWN);
}

/* ---- Memory and failures --------------------------------------------------------------------- */

static uint64_t run_overlap(const fv_image *in, int overlap, uint64_t bytes, fv_status *s,
                            fv_sr_stats *stats)
{
    fv_sr_options o = options();
    fv_image out;
    fv_memory_stats m;
    fv_ctx_memory(ctx, &m);
    o.max_bytes = bytes;
    o.overlap = overlap;
    *s = fv_sr_image(ctx, sr, in, &o, &out, stats);
    fv_image_free(ctx, &out);
    return stats->peak_bytes - m.current_bytes;
}

static uint64_t run_within(const fv_image *in, uint64_t bytes, fv_status *s, fv_sr_stats *stats)
{
    return run_overlap(in, 0, bytes, s, stats);
}

static void memory_stays_below_the_bound(void)
{
    static const int mib[4] = { 120, 60, 48, 40 };
    fv_image in = picture(160, 120, 3, 8);
    fv_sr_stats stats = { 0 };
    fv_status s;
    int tiles = 0;
    for (int k = 0; k < 4; k += TEST_SANITIZED ? 3 : 1) {
        const uint64_t bound = (uint64_t)mib[k] << 20, peak = run_within(&in, bound, &s, &stats);
        OK(ctx, s);
        CHECK_MSG(peak <= bound, "%d MiB: %llu", mib[k], (unsigned long long)peak);
        CHECK(stats.tiles >= tiles);
        tiles = stats.tiles;
    }
    CHECK(tiles > 1);
    /* too little: the message names what would do */
    CHECK(run_within(&in, 1 << 20, &s, &stats) < (uint64_t)64 << 20 && s == FV_ERR_OOM);
    const char *text = strstr(fv_ctx_error(ctx), "at least ");
    CHECK(text != NULL);
    const uint64_t least = strtoull(text + 9, NULL, 10) << 20;
    CHECK(least > (1 << 20) && stats.least_bytes == least);
    CHECK(run_within(&in, least, &s, &stats) <= least);
    OK(ctx, s);
    (void)run_within(&in, least - ((uint64_t)2 << 20), &s, &stats);
    fv_image_free(ctx, &in);
    CHECK(s == FV_ERR_OOM);
}

/* Where the least makes tiles that are almost all overlap, what would do better is told. */
static void ample_memory_is_told(void)
{
    enum { OVERLAP = 32 };
    fv_image in = picture(200, 150, 3, 8);
    fv_sr_stats few, many, none;
    fv_status s;
    (void)run_overlap(&in, OVERLAP, 1 << 20, &s, &none);
    CHECK(s == FV_ERR_OOM && none.ample_bytes > none.least_bytes);
    (void)run_overlap(&in, OVERLAP, none.least_bytes, &s, &few);
    OK(ctx, s);
    CHECK(few.ample_bytes > none.least_bytes);
    (void)run_overlap(&in, OVERLAP, none.ample_bytes, &s, &many);
    OK(ctx, s);
    CHECK(many.ample_bytes == 0 && many.tiles > 1);
    CHECK_MSG(few.flop > 3 * many.flop, "%g and %g", few.flop, many.flop);
    (void)run_overlap(&in, OVERLAP, 0, &s, &few);
    OK(ctx, s);
    CHECK_MSG(few.ample_bytes == 0 && many.flop <= 2.1 * few.flop, "%g and %g", few.flop,
              many.flop);
    fv_image_free(ctx, &in);
}

/* Whatever the halo, regions without a bound compute little twice. */
static void wide_halos_have_wide_regions(void)
{
    static const int any[2] = { 0, 0 };
    for (int halo = 8; halo <= 128; halo += 40) {
        sr_cut c = { .all_w = 2000, .all_h = 1200, .halo = halo, .ramp = 0 };
        CHECK(sr_cut_find(&c, any, sr_cut_most(&c)));
        CHECK_MSG(sr_cut_work(&c) < 2.1, "halo %d: %g", halo, sr_cut_work(&c));
        const sr_cut ample = sr_cut_ample(&c);
        CHECK(sr_cut_work(&ample) < 2.1 && ample.size_w * ample.size_h <= c.size_w * c.size_h);
    }
}

static uint64_t first_count, last_count;
static int calls, stop_at;
static int watch(void *user, const fv_progress *p)
{
    fv_memory_stats m;
    fv_ctx_memory(*(fv_ctx **)user, &m);
    if (strcmp(p->stage, "enlarging") != 0) return 0;
    if (p->done == 1) first_count = m.allocations;
    last_count = m.allocations;
    return ++calls == stop_at;
}

static void nothing_is_allocated_between_tiles_and_cancelling_works(void)
{
    fv_ctx *other = NULL;
    fv_ctx_options co = FV_CTX_OPTIONS_INIT;
    fv_image in = picture(60, 60, 3, 8), out;
    fv_sr_options o = options();
    co.progress = watch;
    co.user = &other;
    OK(NULL, fv_ctx_create(&other, &co));
    o.tile_width = o.tile_height = 64;
    OK(other, fv_sr_image(other, sr, &in, &o, &out, NULL));
    const bool is_steady = first_count == last_count && calls == 17;
    fv_image_free(other, &out);
    calls = 0;
    stop_at = 3;
    const fv_status s = fv_sr_image(other, sr, &in, &o, &out, NULL);
    const bool is_empty = out.pixels == NULL;
    fv_ctx_destroy(&other);
    fv_image_free(ctx, &in);
    CHECK(is_steady && s == FV_ERR_CANCELLED && is_empty && calls == 3);
}

static void pixels_that_are_not_finite_are_refused(void)
{
    fv_model *m;
    fv_sr *one;
    fv_image in = picture(9, 9, 3, 8), out;
    const fv_sr_options o = options();
    write_model(temp_path("huge"), FV_F32, 4, false, 1e37f);
    OK(ctx, open_file(temp_path("huge"), &m, &one));
    const fv_status s = fv_sr_image(ctx, one, &in, &o, &out, NULL);
    fv_sr_close(&one);
    fv_model_close(&m);
    fv_image_free(ctx, &in);
    CHECK(s == FV_ERR_NUMERIC && !out.pixels);
}

/* bf16 is not enough, and f32 needs smaller tiles in the same memory. */
static void planning_anew_leaves_nothing(void)
{
    fv_model *m;
    fv_sr *one;
    fv_image in = picture(160, 120, 3, 8), out;
    fv_sr_options o = options();
    fv_sr_stats stats;
    fv_memory_stats before, after;
    write_model(temp_path("huge"), FV_F32, 4, false, 1e37f);
    fv_ctx_memory(ctx, &before);
    OK(ctx, open_file(temp_path("huge"), &m, &one));
    one->precision = FV_BF16;
    o.max_bytes = (uint64_t)48 << 20;
    const fv_status s = fv_sr_image(ctx, one, &in, &o, &out, &stats);
    fv_sr_close(&one);
    fv_model_close(&m);
    fv_ctx_memory(ctx, &after);
    fv_image_free(ctx, &in);
    CHECK(s == FV_ERR_NUMERIC && stats.redone);
    CHECK_MSG(after.current_bytes == before.current_bytes, "%lld bytes",
              (long long)(after.current_bytes - before.current_bytes));
}

static void nonsense_is_refused(void)
{
    fv_image in = picture(9, 9, 3, 8), out;
    int refused = 0;
    for (int k = 0; k < 11; k++) {
        fv_sr_options o = options();
        if (k == 0) o.scale = 0.5;
        if (k == 1) o.scale = 9;
        if (k == 2) o.scale = NAN;
        if (k == 3) o.width = 20;
        if (k == 4) o.width = o.height = 100;
        if (k == 5) o.steps = 5;
        if (k == 6) o.detail = 2.5f;
        if (k == 7) o.fdu = FV_FDU_GAIN + 1;
        if (k == 8) o.depth = 12;
        if (k == 9) o.tile_width = 64;
        if (k == 10) o.overlap = -1;
        refused += fv_sr_image(ctx, sr, &in, &o, &out, NULL) == FV_ERR_ARG;
    }
    fv_image_free(ctx, &in);
    CHECK_MSG(refused == 11, "%d", refused);
}

int main(void)
{
    temp_dir_make("sr");
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    write_model(temp_path("small"), FV_F32, 4, false, 0.02f);
    if (open_file(temp_path("small"), &file, &sr) != FV_OK) {
        printf("# %s\n", fv_ctx_error(ctx));
        return 1;
    }
    RUN(models_say_what_they_are);
    RUN(files_of_all_types_give_nearly_the_same_picture);
    RUN(a_base_alone_is_a_model_of_one_step);
    RUN(a_new_model_is_bicubic_enlargement);
    RUN(other_files_are_refused);
    RUN(every_size_and_scale_works);
    RUN(formats_are_kept);
    RUN(metadata_is_copied);
    RUN(ramps_of_16_bits_keep_their_levels);
    RUN(colours_under_alpha_do_not_bleed);
    RUN(empty_and_nearest_alpha_work);
    RUN(masks_stay_masks_beyond_four_times);
    RUN(no_detail_is_the_base);
    RUN(exact_tiles_are_the_whole_picture);
    RUN(usual_tiles_are_close_and_show_no_seams);
    RUN(the_same_bytes_for_any_number_of_threads);
    RUN(a_frame_is_the_picture_before_rounding);
    RUN(clips_leave_out_drafts_of_pictures);
    write_kind(temp_path("film"), FV_F32, 4, false, 0.02f, true);
    if (open_file(temp_path("film"), &film_file, &film_sr) != FV_OK) return 1;
    RUN(a_stream_is_the_batch_to_the_bit);
    RUN(a_training_sees_the_frames_of_a_stream);
    RUN(frames_see_the_one_before);
    RUN(a_stream_can_begin_anew);
    RUN(tiles_of_a_stream_are_the_whole_frames);
    RUN(a_stream_stays_within_its_memory);
    RUN(scenes_begin_anew);
    RUN(other_models_see_each_frame_alone);
    fv_sr_close(&film_sr);
    fv_model_close(&film_file);
    RUN(memory_stays_below_the_bound);
    RUN(ample_memory_is_told);
    RUN(wide_halos_have_wide_regions);
    RUN(nothing_is_allocated_between_tiles_and_cancelling_works);
    RUN(pixels_that_are_not_finite_are_refused);
    RUN(planning_anew_leaves_nothing);
    RUN(nonsense_is_refused);
    fv_sr_close(&sr);
    fv_model_close(&file);
    fv_ctx_destroy(&ctx);
    return test_end();
}
