/* test_wan_tiles.c - PS-SR on Wan2.1 within a bound of memory: cuts and weights of tiles, what tiles
 * give, windows chosen for the memory, pictures, random models, and allocations that fail. */
#include "alloc_fail.h"
#include "temp_dir.h"
#include "test.h"
#include "wan.h"

#include <math.h>

enum { H = 48, W = 80, FRAME = H * W * 3, MOST = 20 };
static fv_ctx *ctx;
static fv_model *file;
static float source[MOST * 64 * 64 * 3], result[2][MOST * 64 * 64 * 3];

typedef struct memory_clip {
    const float *from;
    float *to;
    size_t in, out; /* floats of a frame */
    int count, read, written;
} memory_clip;

static fv_status read_one(void *user, float *rgb, int *has_one)
{
    memory_clip *m = user;
    *has_one = m->read < m->count;
    if (*has_one) memcpy(rgb, m->from + (size_t)m->read++ * m->in, m->in * sizeof *rgb);
    return FV_OK;
}

static fv_status write_one(void *user, const float *rgb)
{
    memory_clip *m = user;
    memcpy(m->to + (size_t)m->written++ * m->out, rgb, m->out * sizeof *rgb);
    return FV_OK;
}

static fv_wan_options base_options(int height, int width)
{
    fv_wan_options o = FV_WAN_OPTIONS_INIT;
    o.in_height = height;
    o.in_width = width;
    o.precision = FV_F32;
    o.steps = 1;
    return o;
}

/* n frames; how many came out. */
static int restore(const fv_wan_options *o, const float *from, int n, float *to, fv_wan_stats *st,
                   fv_status *s)
{
    memory_clip m = {.from = from, .to = to, .count = n};
    const fv_wan_frames io = {read_one, write_one, &m};
    m.in = m.out = (size_t)o->in_height * (size_t)o->in_width * 3;
    *s = fv_wan_restore(ctx, file, o, &io, st);
    return m.written;
}

/* ---- Cuts ------------------------------------------------------------------------------------ */

static void weights_of_parts_sum_to_one(void)
{
    static const int at[][3] = {{100, 100, 0},  {101, 96, 0},    {300, 96, 40},  {1000, 256, 128},
                                {257, 256, 128}, {1111, 112, 90}, {4096, 256, 8}, {33, 32, 16}};
    for (size_t i = 0; i < FV_ARRAY_LEN(at); i++) {
        static double sum[4096];
        wan_axis a;
        wan_axis_cut(&a, at[i][0], at[i][1], at[i][2]);
        CHECK(a.size <= at[i][1] && a.size <= at[i][0] && (a.count == 1 || a.size % 16 == 0));
        CHECK(wan_axis_begin(&a, 0) == 0 && wan_axis_begin(&a, a.count - 1) + a.size == at[i][0]);
        OK(ctx, wan_axis_weigh(ctx, &a));
        memset(sum, 0, sizeof sum);
        for (int k = 0; k < a.count; k++)
            for (int p = 0; p < a.size; p++) {
                const float w = a.weight[k * a.size + p];
                CHECK(w > 0 && w <= 1);
                sum[wan_axis_begin(&a, k) + p] += (double)w;
            }
        for (int p = 0; p < at[i][0]; p++) NEAR(sum[p], 1, 1e-6);
        for (int k = 1; k < a.count; k++)
            CHECK(wan_axis_begin(&a, k - 1) + a.size - wan_axis_begin(&a, k) >= at[i][2] - 1);
        fv_free(ctx, a.weight);
    }
}

static void cuts_keep_their_bounds(void)
{
    static const int all[][2] = {{720, 1280}, {300, 4000}, {257, 255}, {2160, 3840}};
    for (size_t i = 0; i < FV_ARRAY_LEN(all); i++)
        for (int64_t area = 256 * 256; area <= 4 << 20; area *= 2) {
            wan_axis a[2];
            const bool found = wan_cut_find(all[i], 128, 256, area, a);
            CHECK(found);
            const int64_t h = (a[0].size + 15) / 16 * 16, w = (a[1].size + 15) / 16 * 16;
            CHECK_MSG(h * w <= area, "%lld x %lld of %lld", (long long)w, (long long)h,
                      (long long)area);
            if (area >= (int64_t)(all[i][0] + 15) * (all[i][1] + 15))
                CHECK(a[0].count == 1 && a[1].count == 1);
        }
    wan_axis a[2];
    const int large[2] = {1000, 1000};
    CHECK(!wan_cut_find(large, 128, 256, 256 * 256 - 1, a));
}

/* ---- Tiles ----------------------------------------------------------------------------------- */

/* The part [y, y + h) x [x, x + w) of n frames. */
static void cut_out(const float *from, int n, int y, int x, int h, int w, float *to)
{
    for (int t = 0; t < n; t++)
        for (int r = 0; r < h; r++, to += 3 * w)
            memcpy(to, from + (size_t)t * FRAME + ((size_t)(y + r) * W + (size_t)x) * 3,
                   (size_t)w * 3 * sizeof *to);
}

/* Two tiles of 48 columns share 16: columns before 32 are those of the first alone, from 48 on those
 * of the second; between the first one's part falls. */
static void tiles_are_blended_over_what_they_share(void)
{
    enum { N = 5, TILE = N * H * 48 * 3 };
    static float part[2][TILE], small[TILE];
    fv_wan_options o = base_options(H, W), one = base_options(H, 48);
    fv_wan_stats stats;
    fv_status s;
    o.steps = one.steps = 2;
    o.tile_height = o.tile_width = 48;
    o.tile_overlap = 16;
    const int got = restore(&o, source, N, result[0], &stats, &s);
    OK(ctx, s);
    CHECK(got == N && stats.tiles == 2 && stats.tile_width == 48 && stats.tile_height == 48);
    CHECK(stats.windows == 1 && stats.steps == 2 && stats.flop > 0 && stats.network_seconds > 0);
    for (int k = 0; k < 2; k++) {
        cut_out(source, N, 0, 32 * k, H, 48, small);
        (void)restore(&one, small, N, part[k], NULL, &s);
        OK(ctx, s);
    }
    for (int t = 0; t < N; t++)
        for (int y = 0; y < H; y++)
            for (int x = 0; x < W; x++)
                for (int c = 0; c < 3; c++) {
                    const float *row[2] = {part[0] + ((t * H + y) * 48 + x) * 3,
                                           part[1] + ((t * H + y) * 48 + x - 32) * 3};
                    const float got1 = result[0][t * FRAME + (y * W + x) * 3 + c];
                    if (x < 32) CHECK(got1 == row[0][c]);
                    else if (x >= 48) CHECK(got1 == row[1][c]);
                    else {
                        const double f = (x - 32 + 0.5) / 16;
                        NEAR((double)got1,
                             (1 - f) * (double)row[0][c] + f * (double)row[1][c], 1e-5);
                    }
                }
}

static void a_tile_as_large_as_the_frame_changes_nothing(void)
{
    fv_wan_options o = base_options(H, W);
    fv_wan_stats stats;
    fv_status s;
    (void)restore(&o, source, 2, result[0], &stats, &s);
    OK(ctx, s);
    CHECK(stats.tiles == 1 && stats.tile_width == W);
    o.tile_height = H;
    o.tile_width = W + 15;
    (void)restore(&o, source, 2, result[1], &stats, &s);
    OK(ctx, s);
    CHECK(stats.tiles == 1 && memcmp(result[0], result[1], 2 * FRAME * sizeof(float)) == 0);
}

static void tiles_are_checked(void)
{
    fv_status s;
    for (int i = 0; i < 4; i++) {
        fv_wan_options o = base_options(H, W);
        o.tile_height = i == 0 ? 0 : i == 1 ? 8 : 48;
        o.tile_width = i == 2 ? -16 : 48;
        o.tile_overlap = i == 3 ? 48 : 0;
        CHECK_MSG(restore(&o, source, 1, result[0], NULL, &s) == 0 && s == FV_ERR_ARG, "case %d",
                  i);
    }
}

/* ---- Memory ---------------------------------------------------------------------------------- */

/* What is told is enough, and the run stays below. */
static void the_least_is_enough(void)
{
    enum { SIDE = 272 };
    const size_t n = (size_t)SIDE * SIDE * 3;
    float *picture = fv_calloc(ctx, 2 * n, sizeof *picture);
    fv_wan_options o = base_options(SIDE, SIDE);
    fv_wan_stats stats;
    fv_status s;
    CHECK(picture != NULL);
    if (!picture) return;
    for (size_t i = 0; i < n; i++) picture[i] = 0.5f + 0.3f * (float)sin(0.01 * (double)i);
    fv_memory_stats m;
    fv_ctx_memory(ctx, &m);
    o.max_bytes = 1;
    CHECK(restore(&o, picture, 1, picture + n, &stats, &s) == 0 && s == FV_ERR_OOM);
    CHECK(stats.least_bytes > 1 && strstr(fv_ctx_error(ctx), "at least") && stats.windows == 0);
    o.max_bytes = stats.least_bytes;
    CHECK(restore(&o, picture, 1, picture + n, &stats, &s) == 1);
    OK(ctx, s);
    CHECK_MSG(stats.tiles == 4 && stats.tile_width < SIDE, "%d tiles of %d", stats.tiles,
              stats.tile_width);
    CHECK_MSG(stats.peak_bytes - m.current_bytes <= o.max_bytes, "%llu bytes, %llu allowed",
              (unsigned long long)(stats.peak_bytes - m.current_bytes),
              (unsigned long long)o.max_bytes);
    fv_free(ctx, picture);
}

/* Neither frames nor tables of a large one are there before it is known that they may be. */
static void what_does_not_fit_takes_no_memory(void)
{
    enum { TOKENS = 256 * 256 };
    fv_memory_stats before, after;
    wan_model *m = NULL;
    wan_flow *f = NULL;
    OK(ctx, wan_model_open(ctx, &m, file, NULL, false, FV_F32));
    fv_ctx_memory(ctx, &before);
    OK(ctx, wan_flow_plan(m, &f, 1, 512, 512, 1));
    fv_ctx_memory(ctx, &after);
    CHECK(wan_flow_own_bytes(f) == (4 * WAN_LATENT + 32) * TOKENS * sizeof(float));
    CHECK(after.current_bytes - before.current_bytes < 32 * TOKENS * sizeof(float));
    wan_flow_close(&f);
    wan_model_close(&m);
    fv_wan_options o = base_options(64, 64);
    memory_clip clip = {.from = source, .to = result[0], .in = 64 * 64 * 3, .out = 64 * 64 * 3};
    const fv_wan_frames io = {read_one, write_one, &clip};
    clip.count = MOST;
    o.max_bytes = 1;
    CHECK(fv_wan_restore(ctx, file, &o, &io, NULL) == FV_ERR_OOM);
    CHECK_MSG(clip.read == 2, "%d frames", clip.read);
}

static uint64_t least_of(int window, int side)
{
    fv_wan_options o = base_options(side, side);
    fv_wan_stats stats;
    fv_status s;
    o.window = window;
    o.max_bytes = 1;
    const int got = restore(&o, source, 12, result[0], &stats, &s);
    return got == 0 && s == FV_ERR_OOM ? stats.least_bytes : 0;
}

/* Fewer frames at a time where the frames of a long window do not fit. */
static void windows_get_shorter_for_the_memory(void)
{
    enum { SIDE = 64 };
    static const int window[3] = {33, 17, 9}, frames[3] = {10, 18, 10};
    fv_memory_stats m;
    uint64_t least[3];
    fv_ctx_memory(ctx, &m);
    for (int k = 0; k < 3; k++) least[k] = least_of(window[k], SIDE);
    CHECK(least[0] > least[1] && least[1] > least[2] && least[2] > 0);
    for (int k = 0; k < 3; k++) {
        fv_wan_options o = base_options(SIDE, SIDE);
        fv_wan_stats stats;
        fv_status s;
        o.max_bytes = least[k];
        CHECK(restore(&o, source, frames[k], result[0], &stats, &s) == frames[k]);
        OK(ctx, s);
        CHECK_MSG(stats.window == window[k] && stats.windows == (k ? 2 : 1),
                  "%d windows of %d, not %d", stats.windows, stats.window, window[k]);
        CHECK_MSG(stats.peak_bytes - m.current_bytes <= o.max_bytes, "window %d: %llu of %llu",
                  window[k], (unsigned long long)(stats.peak_bytes - m.current_bytes),
                  (unsigned long long)o.max_bytes);
    }
    fv_wan_options o = base_options(SIDE, SIDE);
    fv_wan_stats stats;
    fv_status s;
    o.max_bytes = least[2];
    o.overlap = 10; /* not with 9 frames */
    CHECK(restore(&o, source, 12, result[0], &stats, &s) == 0 && s == FV_ERR_OOM &&
          stats.least_bytes == least[1]);
}

/* A longer clip takes no more memory, and no more allocations. */
static void windows_allocate_nothing(void)
{
    fv_memory_stats m[3];
    fv_wan_options o = base_options(16, 48);
    o.window = 5;
    o.overlap = 2;
    o.steps = 2;
    o.tile_height = 16;
    o.tile_width = 32;
    fv_ctx_memory(ctx, &m[0]);
    uint64_t peak[2];
    for (int k = 0; k < 2; k++) {
        fv_wan_stats stats;
        fv_status s;
        (void)restore(&o, source, k ? 14 : 8, result[0], &stats, &s);
        OK(ctx, s);
        CHECK(stats.windows == (k ? 4 : 2) && stats.tiles == 2);
        peak[k] = stats.peak_bytes;
        fv_ctx_memory(ctx, &m[k + 1]);
    }
    CHECK(peak[0] == peak[1]);
    CHECK(m[1].allocations - m[0].allocations == m[2].allocations - m[1].allocations);
}

/* ---- Pictures -------------------------------------------------------------------------------- */

static fv_status make_picture(fv_image *img, int channels, int depth)
{
    FV_TRY(fv_image_create(ctx, img, 20, 12, channels, depth));
    for (int y = 0; y < 12; y++)
        for (int i = 0; i < 20 * channels; i++) {
            uint8_t *row = (uint8_t *)img->pixels + (size_t)y * img->stride_bytes;
            const bool is_alpha = (channels == 2 || channels == 4) && i % channels == channels - 1;
            const int v = is_alpha ? 255 * (i / channels >= 10) : (y * 9 + i * 3) % 256;
            if (depth == 8) row[i] = (uint8_t)v;
            else ((uint16_t *)(void *)row)[i] = (uint16_t)(v * 257);
        }
    return FV_OK;
}

static void a_picture_is_a_clip_of_one_frame(void)
{
    enum { N = 24 * 40 * 3 };
    fv_sr_options o = FV_SR_OPTIONS_INIT;
    fv_wan_options w = base_options(12, 20);
    fv_image in, out;
    fv_sr_stats stats;
    memory_clip m = {.from = source, .to = result[0], .in = 720, .out = N, .count = 1};
    const fv_wan_frames io = {read_one, write_one, &m};
    o.scale = 2;
    w.steps = 0;
    w.height = 24;
    w.width = 40;
    OK(ctx, make_picture(&in, 3, 8));
    for (int y = 0; y < 12; y++)
        for (int i = 0; i < 60; i++)
            source[y * 60 + i] =
                1 / 255.0f *
                (float)((const uint8_t *)in.pixels)[(size_t)y * in.stride_bytes + (size_t)i];
    OK(ctx, fv_wan_restore(ctx, file, &w, &io, NULL));
    OK(ctx, fv_wan_image(ctx, file, FV_F32, &in, &o, &out, &stats));
    CHECK(out.width == 40 && out.height == 24 && out.channels == 3 && out.depth == 8);
    CHECK(stats.tiles == 1 && stats.steps == 4 && stats.peak_bytes > 0 && !stats.is_beyond);
    for (int y = 0; y < 24 && out.pixels; y++)
        for (int i = 0; i < 120; i++)
            CHECK(((const uint8_t *)out.pixels)[(size_t)y * out.stride_bytes + (size_t)i] ==
                  (int)rintf(result[0][y * 120 + i] * 255.0f));
    fv_image_free(ctx, &in);
    fv_image_free(ctx, &out);
}

static void pictures_keep_what_they_are(void)
{
    fv_sr_options o = FV_SR_OPTIONS_INIT;
    fv_image in, out;
    o.scale = 1.5;
    o.steps = 1;
    for (int channels = 1; channels <= 4; channels++) {
        OK(ctx, make_picture(&in, channels, 16));
        OK(ctx, fv_wan_image(ctx, file, FV_F32, &in, &o, &out, NULL));
        CHECK(out.width == 30 && out.height == 18 && out.channels == channels && out.depth == 16);
        if (channels % 2 == 0 && out.pixels) { /* a mask stays one */
            const uint16_t *row = out.pixels;
            CHECK(row[channels - 1] == 0 && row[30 * channels - 1] == 65535);
        }
        fv_image_free(ctx, &in);
        fv_image_free(ctx, &out);
    }
}

static void options_of_pictures_are_checked(void)
{
    fv_image in, out;
    fv_sr_stats stats;
    OK(ctx, make_picture(&in, 3, 8));
    for (int i = 0; i < 7; i++) {
        fv_sr_options o = FV_SR_OPTIONS_INIT;
        if (i == 0) o.exact_tiles = 1;
        if (i == 1) o.update_each = 1;
        if (i == 2) o.depth = 12;
        if (i == 3) o.scale = 9;
        if (i == 4) o.steps = 5;
        if (i == 5) o.tile_width = 64;
        if (i == 6) o.max_bytes = 4096;
        const fv_status s = fv_wan_image(ctx, file, FV_F32, &in, &o, &out, &stats);
        CHECK_MSG(s == (i == 6 ? FV_ERR_OOM : FV_ERR_ARG) && !out.pixels, "case %d", i);
    }
    CHECK(stats.least_bytes > 4096);
    fv_image_free(ctx, &in);
}

/* ---- Files ----------------------------------------------------------------------------------- */

static void random_models_do_not_depend_on_threads(void)
{
    fv_model *m[2] = {0};
    uint8_t hash[2][32];
    for (int k = 0; k < 2; k++) {
        fv_ctx_options o = FV_CTX_OPTIONS_INIT;
        fv_ctx *own = NULL;
        o.threads = k ? 3 : 1;
        OK(ctx, fv_ctx_create(&own, &o));
        OK(own, fv_wan_random(own, "wan-nano", 7, temp_path("other"), 1));
        OK(own, fv_model_open(own, &m[k], temp_path("other"), NULL));
        if (m[k]) fv_model_hash(m[k], hash[k]);
        fv_model_close(&m[k]);
        fv_ctx_destroy(&own);
    }
    CHECK(memcmp(hash[0], hash[1], 32) == 0);
    CHECK(fv_wan_random(ctx, "wan-nano", 8, temp_path("other"), 0) == FV_ERR_EXISTS);
    CHECK(fv_wan_random(ctx, "wan-huge", 8, temp_path("third"), 0) == FV_ERR_UNKNOWN);
}

static void a_file_says_what_it_is(void)
{
    fv_wan_info i;
    OK(ctx, fv_wan_get_info(ctx, file, &i));
    CHECK(strcmp(i.name, "wan-nano") == 0 && i.channels == 96 && i.blocks == 3);
    CHECK(i.draft_blocks == 1 && i.steps == 4 && i.prompt_rows == 5 && i.has_autoencoder);
    CHECK(i.base_parameters > i.draft_parameters && i.draft_parameters > 0);
    CHECK(fv_wan_get_info(ctx, NULL, &i) == FV_ERR_ARG);
}

/* ---- Allocations that fail ------------------------------------------------------------------- */

/* Opening, a window of two tiles, the end: FV_ERR_OOM, and nothing stays. The first allocations fail
 * one by one, later ones with growing gaps. */
static void memory_that_runs_out_is_said(void)
{
    static float out[FRAME];
    bool has_ended = false;
    int tries = 0;
    for (int64_t n = 0; !has_ended && n < 1000000; n += 1 + n / 24, tries++) {
        alloc_fail heap = {.left = n};
        fv_model *m = NULL;
        fv_wan_options o = base_options(16, 48);
        memory_clip clip = {.from = source, .to = out, .in = 16 * 48 * 3, .out = 16 * 48 * 3};
        const fv_wan_frames io = {read_one, write_one, &clip};
        const fv_allocator al = alloc_fail_allocator(&heap);
        fv_ctx_options co = FV_CTX_OPTIONS_INIT;
        fv_ctx *own = NULL;
        clip.count = 1;
        o.tile_height = 16;
        o.tile_width = 32;
        o.steps = 2;
        co.alloc = &al;
        co.threads = 1;
        fv_status s = fv_ctx_create(&own, &co);
        if (s == FV_OK) s = fv_model_open(own, &m, temp_path("nano"), NULL);
        if (s == FV_OK) s = fv_wan_restore(own, m, &o, &io, NULL);
        has_ended = s == FV_OK;
        if (!has_ended)
            CHECK_MSG(s == FV_ERR_OOM && clip.written == 0, "after %lld: %s", (long long)n,
                      own ? fv_ctx_error(own) : "");
        else CHECK(clip.written == 1);
        fv_model_close(&m);
        fv_ctx_destroy(&own);
        CHECK(atomic_load(&heap.live) == 0);
    }
    CHECK_MSG(has_ended && tries > 50, "%d tries", tries);
}

int main(void)
{
    temp_dir_make("wan-tiles");
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    for (size_t i = 0; i < FV_ARRAY_LEN(source); i++)
        source[i] = 0.5f + 0.4f * (float)sin(0.37 * (double)(i % 240) + 0.0021 * (double)i);
    if (fv_wan_random(ctx, "wan-nano", 3, temp_path("nano"), 1) != FV_OK ||
        fv_model_open(ctx, &file, temp_path("nano"), NULL) != FV_OK) {
        printf("# %s\n", fv_ctx_error(ctx));
        return 1;
    }
    RUN(weights_of_parts_sum_to_one);
    RUN(cuts_keep_their_bounds);
    RUN(tiles_are_blended_over_what_they_share);
    RUN(a_tile_as_large_as_the_frame_changes_nothing);
    RUN(tiles_are_checked);
    RUN(the_least_is_enough);
    RUN(what_does_not_fit_takes_no_memory);
    RUN(windows_get_shorter_for_the_memory);
    RUN(windows_allocate_nothing);
    RUN(a_picture_is_a_clip_of_one_frame);
    RUN(pictures_keep_what_they_are);
    RUN(options_of_pictures_are_checked);
    RUN(random_models_do_not_depend_on_threads);
    RUN(a_file_says_what_it_is);
    RUN(memory_that_runs_out_is_said);
    fv_model_close(&file);
    fv_ctx_destroy(&ctx);
    return test_end();
}
