/* check_cuda_vae.c - decoders and encoders of pictures on the emulated GPU against the CPU: the small
 * ones of tests/parity, in f32 and bf16. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "fovea_diffusion.h"
#include "cuda_device.h"

#include "test.h"

#define SIDE 16   /* of pictures and of latents */
#define VALUES (2 * SIDE * SIDE * 8 * 8 * 16)

static fv_ctx *cpu, *gpu;

/* Two pictures, or latents, through the model of `name`. */
static fv_status run(fv_ctx *ctx, const char *name, fv_dtype precision, const float *x, float *y)
{
    char path[600];
    fv_model *m = NULL;
    fv_vae *v = NULL;
    fv_vae_info info = { 0 };
    snprintf(path, sizeof path, "%s/parity/%s.safetensors", device_data, name);
    fv_status s = fv_model_open(ctx, &m, path, NULL);
    if (s == FV_OK) s = fv_vae_open(ctx, &v, m, "", precision);
    if (s == FV_OK) fv_vae_get_info(v, &info);
    if (s == FV_OK && info.can_decode) s = fv_vae_decode(ctx, v, x, 2, SIDE, SIDE - 4, y);
    else if (s == FV_OK) s = fv_vae_encode(ctx, v, x, 2, SIDE, SIDE, y);
    fv_vae_close(&v);
    fv_model_close(&m);
    return s;
}

static void compare(const char *name, fv_dtype precision, double bound)
{
    static float x[VALUES], a[VALUES], b[VALUES];
    double worst = 0, most = 0;
    test_fill(x, VALUES, 9);
    memset(a, 0, sizeof a);
    memset(b, 0, sizeof b);
    OK(cpu, run(cpu, name, FV_F32, x, a));
    const long before = device_launches(), replays = device_replays();
    OK(gpu, run(gpu, name, precision, x, b));
    CHECK(device_launches() > before + 10);
    CHECK(device_replays() == replays + 1); /* the second picture */
    for (int i = 0; i < VALUES; i++) {
        worst = test_worst(worst, fabs((double)a[i] - b[i]));
        if (fabs(a[i]) > most) most = fabs(a[i]);
    }
    printf("# largest difference %.2g of %.2g\n", worst, most);
    CHECK(most > 0.1 && worst <= bound * most);
    CHECK(device_is_clean(gpu));
}

static void stable_diffusion_decoder(void) { compare("vae_small", FV_F32, 1e-4); }
static void tiny_decoder(void) { compare("taesd_decoder_small", FV_F32, 1e-4); }
static void tiny_encoder(void) { compare("taesd_encoder_small", FV_F32, 1e-4); }
/* Against f32: CPUs without AVX-512 have no bf16 products. */
static void tiny_decoder_in_bf16(void) { compare("taesd_decoder_small", FV_BF16, 5e-2); }

int main(int argc, char **argv)
{
    const int code = device_open(argc, argv, 0, 0, &cpu, &gpu);
    if (code >= 0) return code;
    RUN(stable_diffusion_decoder);
    RUN(tiny_decoder);
    RUN(tiny_encoder);
    RUN(tiny_decoder_in_bf16);
    return device_close(&cpu, &gpu);
}
