/* test_gen_wan.c - gen sr with PS-SR on Wan2.1 gives the frames that fv_wan_restore gives.
 *
 * GEN names the program; without it nothing is tested. */
#include <math.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "engine.h"
#include "fovea_diffusion.h"
#include "temp_dir.h"
#include "test.h"

enum { H = 10, W = 18, N = 12, OUT_H = 20, OUT_W = 36, FRAME = H * W * 3, LARGE = OUT_H * OUT_W * 3 };
static fv_ctx *ctx;
static char model[300], in_path[300], out_path[300];
static uint16_t in[N * FRAME], got[(N + 1) * LARGE];
static float want[N * LARGE];

typedef struct memory_clip {
    int count, read, written;
} memory_clip;

static fv_status read_one(void *user, float *rgb, int *has_one)
{
    memory_clip *m = user;
    *has_one = m->read < m->count;
    for (int i = 0; i < FRAME && *has_one; i++)
        rgb[i] = (float)in[m->read * FRAME + i] / 65535.0f;
    m->read += *has_one;
    return FV_OK;
}

static fv_status write_one(void *user, const float *rgb)
{
    memory_clip *m = user;
    memcpy(want + m->written++ * LARGE, rgb, LARGE * sizeof *rgb);
    return FV_OK;
}

static void put(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    const bool is_written = f && fwrite(bytes, 1, n, f) == n;
    const bool is_closed = f && fclose(f) == 0;
    CHECK(is_written && is_closed);
}

/* The exit code of gen sr on the clip, with further options. */
static int run_gen(const char *options)
{
    char command[2048];
    snprintf(command, sizeof command,
             "\"%s\" sr --model %s --precision f32 -q -f --raw rgb48le --size %dx%d --scale 2 %s "
             "%s %s",
             getenv("GEN"), model, W, H, options, in_path, out_path);
    const int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int frames_written(void)
{
    FILE *f = fopen(out_path, "rb");
    const size_t n = f ? fread(got, sizeof *got, sizeof got / sizeof *got, f) : 0;
    if (f) fclose(f);
    return n % LARGE == 0 ? (int)(n / LARGE) : -1;
}

static int restore(const fv_wan_options *o, int n)
{
    memory_clip m = {.count = n};
    const fv_wan_frames io = {read_one, write_one, &m};
    fv_model *file = NULL;
    fv_status s = fv_model_open(ctx, &file, model, NULL);
    if (s == FV_OK) s = fv_wan_restore(ctx, file, o, &io, NULL);
    if (s != FV_OK) printf("# %s\n", fv_ctx_error(ctx));
    fv_model_close(&file);
    return m.written;
}

/* Of n frames: equal, but for the code that a sum rounded otherwise may change. */
static void compare(const fv_wan_options *o, int n)
{
    int worst = 0;
    CHECK(restore(o, n) == n);
    const int written = frames_written();
    CHECK_MSG(written == n, "%d frames, not %d", written, n);
    for (int i = 0; i < n * LARGE; i++) {
        const int gap = abs((int)rintf(want[i] * 65535.0f) - (int)got[i]);
        worst = test_worst(worst, gap);
    }
    CHECK_MSG(worst <= 1, "%d codes", worst);
}

static fv_wan_options plain(void)
{
    fv_wan_options o = FV_WAN_OPTIONS_INIT;
    o.in_height = H;
    o.in_width = W;
    o.height = OUT_H;
    o.width = OUT_W;
    o.precision = FV_F32;
    return o;
}

static void a_video_is_what_the_library_gives(void)
{
    const fv_wan_options o = plain();
    put(in_path, in, sizeof in);
    CHECK(run_gen("") == 0);
    compare(&o, N);
}

static void options_are_those_of_the_library(void)
{
    fv_wan_options o = plain();
    o.window = 5;
    o.overlap = 2;
    o.steps = 2;
    o.detail = 1.5f;
    o.fdu = FV_FDU_LERP;
    o.tile_width = o.tile_height = 32;
    o.tile_overlap = 8;
    CHECK(run_gen("--window 5:2 --steps 2 --detail 1.5 --fdu lerp --tile 32x32 --overlap 8") == 0);
    compare(&o, N);
    o = plain();
    o.window = 5;
    CHECK(run_gen("--window 5") == 0);
    compare(&o, N);
}

/* The clip ends where the input breaks off; what was whole before is restored. */
static void a_cut_input_is_a_shorter_clip(void)
{
    fv_wan_options o = plain();
    o.window = 5;
    put(in_path, in, (6 * FRAME + 100) * sizeof *in);
    CHECK(run_gen("--window 5") == 3);
    compare(&o, 6);
}

int main(void)
{
    if (!getenv("GEN")) return 77;
    temp_dir_make("gen-wan");
    snprintf(model, sizeof model, "%s", temp_path("model"));
    snprintf(in_path, sizeof in_path, "%s", temp_path("in"));
    snprintf(out_path, sizeof out_path, "%s", temp_path("out"));
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    if (fv_wan_random(ctx, "wan-nano", 5, model, 1) != FV_OK) {
        printf("# %s\n", fv_ctx_error(ctx));
        return 1;
    }
    for (int i = 0; i < N * FRAME; i++)
        in[i] = (uint16_t)(32768 + 24000 * sin(0.11 * (i % 54) + 0.03 * (i / 54) + 0.4 * (i / FRAME)));
    RUN(a_video_is_what_the_library_gives);
    RUN(options_are_those_of_the_library);
    RUN(a_cut_input_is_a_shorter_clip);
    fv_ctx_destroy(&ctx);
    return test_end();
}
