/* check_cuda_wan.c - video super-resolution on Wan2.1 on the emulated GPU against the CPU: a nano model
 * with random weights, the autoencoder alone, and clips and pictures from pixels to pixels. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "fovea_diffusion.h"
#include "cuda_device.h"

#include "../diffusion/wan.h"
#include "dit_fixture.h"
#include "temp_dir.h"

#define SIDE 32
#define PIXELS (SIDE * SIDE * 3)
#define FRAMES 8 /* windows of 5 that share 2: two of them */

static fv_ctx *cpu, *gpu;
static char path[600];

static float frame[FRAMES][PIXELS];

/* ---- Clips ----------------------------------------------------------------------------------- */

typedef struct film {
    int read, written;
    float out[FRAMES][PIXELS];
} film;

static fv_status read_one(void *user, float *to, int *has_one)
{
    film *f = user;
    *has_one = f->read < FRAMES;
    if (*has_one) memcpy(to, frame[f->read++], sizeof frame[0]);
    return FV_OK;
}

static fv_status write_one(void *user, const float *from)
{
    film *f = user;
    if (f->written < FRAMES) memcpy(f->out[f->written++], from, sizeof f->out[0]);
    return FV_OK;
}

static fv_status restore(fv_ctx *ctx, fv_dtype precision, int tile, film *f)
{
    fv_wan_options o = FV_WAN_OPTIONS_INIT;
    const fv_wan_frames io = { read_one, write_one, f };
    fv_model *m = NULL;
    o.in_height = o.in_width = o.height = o.width = SIDE;
    o.window = 5;
    o.overlap = 2;
    o.precision = precision;
    o.tile_height = o.tile_width = tile;
    o.tile_overlap = tile ? 8 : 0;
    memset(f, 0, sizeof *f);
    FV_TRY(fv_model_open(ctx, &m, path, NULL));
    const fv_status s = fv_wan_restore(ctx, m, &o, &io, NULL);
    fv_model_close(&m);
    return s;
}

static void compare(fv_dtype precision, int tile, double bound)
{
    film *a = test_alloc(sizeof *a), *b = test_alloc(sizeof *b);
    double change = 0;
    const long before = device_launches();
    OK(cpu, restore(cpu, FV_F32, tile, a));
    OK(gpu, restore(gpu, precision, tile, b));
    CHECK(device_launches() > before + 100);
    CHECK(a->written == FRAMES && b->written == FRAMES);
    const double off = test_rel_l2(b->out[0], a->out[0], (int64_t)FRAMES * PIXELS);
    change = test_rel_l2(a->out[0], frame[0], (int64_t)FRAMES * PIXELS);
    printf("# %.2g off, pictures changed by %.2g\n", off, change);
    CHECK(change > 0.01 && off <= bound);
    free(a);
    free(b);
    CHECK(device_is_clean(gpu));
}

static void clips_are_those_of_the_cpu(void) { compare(FV_F32, 0, 1e-4); }
static void clips_in_tiles_too(void) { compare(FV_F32, 16, 1e-4); }
/* Against f32: 8 bits in the networks between the autoencoder's two halves, which is f32. */
static void clips_in_bf16(void) { compare(FV_BF16, 0, 3e-2); }

/* ---- The autoencoder ------------------------------------------------------------------------- */

static fv_status code(fv_ctx *ctx, float *latents, float *back)
{
    fv_model *m = NULL;
    wan_vae *v = NULL;
    const size_t latent = SIDE / 8 * (SIDE / 8) * WAN_LATENT;
    FV_TRY(fv_model_open(ctx, &m, path, NULL));
    fv_status s = wan_vae_open(ctx, &v, m, SIDE, SIDE, 1);
    for (int clip = 0; clip < 2; clip++) { /* the second begins with empty rings */
        if (s == FV_OK) wan_vae_restart(v);
        for (int k = 0; k < 2 && s == FV_OK; k++)
            s = wan_vae_encode(v, frame[k ? 4 * k - 3 : 0], latents + (size_t)k * latent);
    }
    for (int k = 0; k < 2 && s == FV_OK; k++)
        s = wan_vae_decode(v, latents + (size_t)k * latent,
                           back + (size_t)(k ? 4 * k - 3 : 0) * PIXELS);
    wan_vae_close(&v);
    fv_model_close(&m);
    return s;
}

static void latents_go_there_and_back(void)
{
    const int64_t latents = 2 * (SIDE / 8) * (SIDE / 8) * WAN_LATENT;
    float *z[2], *x[2];
    for (int g = 0; g < 2; g++) {
        z[g] = test_alloc((size_t)latents * 4);
        x[g] = test_alloc(sizeof frame);
        OK(g ? gpu : cpu, code(g ? gpu : cpu, z[g], x[g]));
    }
    const double off = test_rel_l2(z[1], z[0], latents);
    CHECK_MSG(off < 1e-4, "latents: %g off", off);
    CHECK(test_rel_l2(x[1], x[0], 5 * PIXELS) < 1e-4);
    for (int g = 0; g < 2; g++) {
        free(z[g]);
        free(x[g]);
    }
    CHECK(device_is_clean(gpu));
}

int main(int argc, char **argv)
{
    const int code_ = device_open(argc, argv, 0, 0, &cpu, &gpu);
    if (code_ >= 0) return code_;
    temp_dir_make("cuda_wan");
    snprintf(path, sizeof path, "%s", temp_path("nano.safetensors"));
    for (int t = 0; t < FRAMES; t++) {
        test_fill(frame[t], PIXELS, 7 + (uint64_t)t);
        for (int i = 0; i < PIXELS; i++) frame[t][i] = 0.5f + 0.4f * frame[t][i];
    }
    if (fv_wan_random(cpu, "wan-nano", 5, path, 1) != FV_OK) return 1;
    RUN(latents_go_there_and_back);
    RUN(clips_are_those_of_the_cpu);
    RUN(clips_in_tiles_too);
    RUN(clips_in_bf16);
    return device_close(&cpu, &gpu);
}
