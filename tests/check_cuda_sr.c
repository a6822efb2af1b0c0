/* check_cuda_sr.c - super-resolution on the emulated GPU against the CPU: pictures in one tile and in
 * several, frames that see the one before, bf16. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "fovea_diffusion.h"
#include "cuda_device.h"

#include "sr.h"
#include "temp_dir.h"
#include "test.h"

#define WIDTH 27
#define HEIGHT 9
#define VALUES (16 * WIDTH * HEIGHT * 3)

static fv_ctx *cpu, *gpu;
static char path[600];

typedef struct model { fv_model *file; fv_sr *sr; } model;

static fv_status open_on(fv_ctx *ctx, fv_dtype precision, model *m)
{
    memset(m, 0, sizeof *m);
    FV_TRY(fv_model_open(ctx, &m->file, path, NULL));
    return fv_sr_open(ctx, &m->sr, m->file, precision);
}

static void close_on(model *m)
{
    fv_sr_close(&m->sr);
    fv_model_close(&m->file);
}

/* An edge, waves and grain, moving with t. */
static void paint(float *rgb, int t)
{
    uint64_t seed = 7;
    for (int i = 0; i < WIDTH * HEIGHT * 3; i++) {
        const int x = i / 3 % WIDTH + t, y = i / 3 / WIDTH;
        const double wave = sin(0.7 * x + i % 3) * cos(0.5 * y), grain = (double)test_next(&seed);
        rgb[i] = (float)(0.5 + 0.25 * wave + (x > y ? 0.1 : -0.1) + 0.1 * grain / 1.9e19);
    }
}

/* Frames t = 0 .. frames - 1 one after another: out [frames][VALUES]. */
static fv_status enlarge(fv_ctx *ctx, const fv_sr *sr, const fv_sr_options *o, int frames,
                         float *out, fv_sr_stats *stats)
{
    fv_sr_stream *s = NULL;
    fv_status st = fv_sr_stream_open(ctx, &s, sr, WIDTH, HEIGHT, o, NULL);
    for (int t = 0; t < frames && st == FV_OK; t++) {
        float rgb[WIDTH * HEIGHT * 3];
        paint(rgb, t);
        st = fv_sr_stream_frame(s, rgb, out + (size_t)t * VALUES, stats);
    }
    fv_sr_stream_close(&s);
    return st;
}

/* What the networks and the update do to the bicubic picture is large against `bound`. */
static void compare(fv_dtype precision, const fv_sr_options *o, int frames, int tiles,
                    double bound)
{
    static float a[2 * VALUES], b[2 * VALUES], base[2 * VALUES];
    fv_sr_options only_base = *o;
    fv_sr_stats stats;
    model m, n;
    double worst = 0, effect = 0;
    only_base.detail = 0;
    OK(cpu, open_on(cpu, FV_F32, &m));
    OK(gpu, open_on(gpu, precision, &n));
    OK(cpu, enlarge(cpu, m.sr, o, frames, a, NULL));
    OK(cpu, enlarge(cpu, m.sr, &only_base, frames, base, NULL));
    const long before = device_launches();
    OK(gpu, enlarge(gpu, n.sr, o, frames, b, &stats));
    CHECK(device_launches() > before + 50 && stats.tiles == tiles);
    for (int i = 0; i < frames * VALUES; i++) {
        worst = test_worst(worst, fabs((double)a[i] - b[i]));
        if (fabs((double)a[i] - base[i]) > effect) effect = fabs((double)a[i] - base[i]);
    }
    printf("# largest difference %.2g, of the update %.2g\n", worst, effect);
    CHECK(worst <= bound && effect > 20 * bound);
    close_on(&m);
    close_on(&n);
    CHECK(device_is_whole());
}

static fv_sr_options options(void)
{
    fv_sr_options o = FV_SR_OPTIONS_INIT;
    o.detail = 1;
    o.scene_cut = -1;
    return o;
}

static void a_picture_in_one_tile(void)
{
    const fv_sr_options o = options();
    compare(FV_F32, &o, 1, 1, 1e-4);
}

static void a_picture_in_tiles(void)
{
    fv_sr_options o = options();
    o.tile_width = o.tile_height = 32;
    o.overlap = 32;
    compare(FV_F32, &o, 1, 8, 1e-4);
}

static void in_bf16(void)
{
    const fv_sr_options o = options();
    compare(FV_BF16, &o, 1, 1, 2e-2);
}

static void device_memory_goes_back(void)
{
    model m;
    fv_sr_options o = options();
    static float a[VALUES];
    OK(gpu, open_on(gpu, FV_F32, &m));
    o.max_bytes = 1000;
    CHECK(enlarge(gpu, m.sr, &o, 1, a, NULL) == FV_ERR_OOM);
    close_on(&m);
    CHECK_MSG(device_left(gpu) == 0, "%ld blocks are left", device_left(gpu));
}

/* A file of a small model with drawn values. */
static fv_status write_model(bool is_video)
{
    pssr_config c;
    pssr_net n;
    fv_params *p = NULL;
    fv_meta meta;
    fv_pack pack;
    FV_TRY(pssr_preset(cpu, "nano", &c));
    c.is_video = is_video;
    FV_TRY(fv_params_create(cpu, &p));
    pssr_net_add(&n, p, &c, "", PSSR_BASE | PSSR_DRAFT, 0);
    FV_TRY(fv_pack_create(cpu, &pack));
    fv_status s = pssr_config_meta(cpu, &c, &meta);
    if (s == FV_OK) s = fv_meta_write(&meta, pack.writer);
    for (fv_pid id = 0; id < fv_params_count(p) && s == FV_OK; id++) {
        const fv_tensor t = fv_params_tensor(p, id);
        const double columns = (double)fv_tensor_count(&t) / (double)t.dim[0];
        const float spread = strstr(fv_params_name(p, id), "_norm") ? -1 :
                             t.ndim < 2 ? 0.02f : (float)(0.7 / sqrt(columns));
        s = fv_pack_random(&pack, fv_params_name(p, id), &t, 3, (uint32_t)id, spread);
    }
    if (s == FV_OK) s = fv_model_writer_finish(pack.writer, path, 1);
    fv_meta_free(cpu, &meta);
    fv_pack_free(&pack);
    fv_params_destroy(&p);
    return s;
}

static void frames_that_see_the_one_before(void)
{
    const fv_sr_options o = options();
    OK(cpu, write_model(true));
    compare(FV_F32, &o, 2, 1, 1e-4);
}

int main(int argc, char **argv)
{
    const int code = device_open(argc, argv, 0, 0, &cpu, &gpu);
    if (code >= 0) return code;
    temp_dir_make("cuda_sr");
    snprintf(path, sizeof path, "%s", temp_path("nano.safetensors"));
    if (write_model(false) != FV_OK) return 1;
    RUN(a_picture_in_one_tile);
    RUN(a_picture_in_tiles);
    RUN(in_bf16);
    RUN(device_memory_goes_back);
    RUN(frames_that_see_the_one_before);
    return device_close(&cpu, &gpu);
}
