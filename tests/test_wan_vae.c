/* test_wan_vae.c - Wan2.1's causal autoencoder at small width: against whole clips in PyTorch
 * (tests/parity/wan_vae_small.py), and frame by frame against whole clips. */
#include "golden_parity.h"
#include "temp_dir.h"
#include "wan_random.h"

enum { T = 13, L = 4, H = 32, W = 48, FRAME = H * W * 3, LATENT = H / 8 * W / 8 * WAN_LATENT };
static float clip_in[T * FRAME], latent_in[L * LATENT];
static float clip_out[2][T * FRAME], latent_out[2][L * LATENT];

/* The file of the small autoencoder, in the layout of ours. */
static fv_status write_model(const char *path)
{
    fv_params *p = NULL;
    fv_pack pack;
    FV_TRY(fv_params_create(ctx, &p));
    fv_status s = wan_vae_add(p, wan_small_width) ? fv_pack_create(ctx, &pack) : fv_params_alloc(p);
    for (fv_pid id = 0; id < fv_params_count(p) && s == FV_OK; id++) {
        const char *name = fv_params_name(p, id);
        fv_tensor t, own = fv_params_tensor(p, id);
        wan_vae_published_shape(p, id, &t);
        const size_t bytes = (size_t)fv_tensor_count(&t) * sizeof(float);
        t.data = fv_pack_alloc(&pack, bytes);
        own.data = fv_pack_alloc(&pack, bytes);
        if (!t.data || !own.data) s = FV_ERR_OOM;
        if (s != FV_OK) break;
        wan_fill("vae.", name + strlen("vae."), &t);
        wan_vae_reorder(&t, t.data, own.data);
        s = fv_model_writer_tensor(pack.writer, name, &own);
    }
    if (s == FV_OK) s = fv_model_writer_finish(pack.writer, path, 1);
    fv_pack_free(&pack);
    fv_params_destroy(&p);
    return s;
}

/* n frames and their latents, both ways. */
static fv_status run_clip(wan_vae *v, int n, int first, float *latents, float *clip)
{
    const int begun = 1 + (first - 1) / 4;
    FV_TRY(wan_vae_encode(v, clip_in, latents));
    for (int t = first, k = begun; t < n; t += 4, k++)
        FV_TRY(wan_vae_encode(v, clip_in + t * FRAME, latents + k * LATENT));
    FV_TRY(wan_vae_decode(v, latent_in, clip));
    for (int t = first, k = begun; t < n; t += 4, k++)
        FV_TRY(wan_vae_decode(v, latent_in + k * LATENT, clip + t * FRAME));
    return FV_OK;
}

static double gap(const char *name, const float *got)
{
    fv_model *g = open_golden("wan_vae_small_io");
    const fv_tensor want = golden_tensor(g, name);
    double worst = 0, scale = 0;
    for (int64_t i = 0; i < fv_tensor_count(&want); i++) {
        const double w = (double)((const float *)want.data)[i];
        worst = test_worst(worst, w - (double)got[i]);
        scale = fmax(scale, fabs(w));
    }
    fv_model_close(&g);
    return worst / scale;
}

static void frames_one_by_one_are_pytorchs_clip(void)
{
    static float some[T * 11 * 16 * 3];
    fv_model *m = NULL;
    wan_vae *v = NULL;
    float *to = some;
    OK(ctx, write_model(temp_path("vae")));
    OK(ctx, fv_model_open(ctx, &m, temp_path("vae"), NULL));
    OK(ctx, wan_vae_open(ctx, &v, m, H, W, 1));
    OK(ctx, run_clip(v, T, 1, latent_out[0], clip_out[0]));
    wan_vae_close(&v);
    fv_model_close(&m);
    for (int t = 0; t < T; t++)
        for (int y = 0; y < H; y += 3)
            for (int x = 0; x < W; x += 3, to += 3)
                memcpy(to, clip_out[0] + ((t * H + y) * W + x) * 3, 3 * sizeof *to);
    const double latents = gap("latents", latent_out[0]), clip = gap("clip", some);
    CHECK_MSG(latents <= 2e-5 && clip <= 2e-5, "latents %g, clip %g", latents, clip);
}

static void streaming_is_the_whole_clip_bit_by_bit(void)
{
    fv_model *m = NULL;
    OK(ctx, write_model(temp_path("vae")));
    OK(ctx, fv_model_open(ctx, &m, temp_path("vae"), NULL));
    for (int n = 1; n <= T; n += 4)
        for (int whole = 0; whole < 2; whole++) {
            wan_vae *v = NULL;
            OK(ctx, wan_vae_open(ctx, &v, m, H, W, whole ? n : 1));
            OK(ctx, run_clip(v, n, whole ? n : 1, latent_out[whole], clip_out[whole]));
            wan_vae_close(&v);
            if (!whole) continue;
            CHECK_MSG(memcmp(latent_out[0], latent_out[1],
                             (size_t)(1 + n / 4) * LATENT * sizeof(float)) == 0,
                      "%d frames", n);
            CHECK_MSG(memcmp(clip_out[0], clip_out[1], (size_t)n * FRAME * sizeof(float)) == 0,
                      "%d frames", n);
        }
    fv_model_close(&m);
}

static void a_new_clip_forgets_the_last(void)
{
    fv_model *m = NULL;
    wan_vae *v = NULL;
    OK(ctx, write_model(temp_path("vae")));
    OK(ctx, fv_model_open(ctx, &m, temp_path("vae"), NULL));
    OK(ctx, wan_vae_open(ctx, &v, m, H, W, 1));
    for (int k = 0; k < 2; k++) {
        OK(ctx, run_clip(v, 9, 1, latent_out[k], clip_out[k]));
        wan_vae_restart(v);
    }
    wan_vae_close(&v);
    fv_model_close(&m);
    CHECK(memcmp(latent_out[0], latent_out[1], 3 * LATENT * sizeof(float)) == 0);
    CHECK(memcmp(clip_out[0], clip_out[1], 9 * FRAME * sizeof(float)) == 0);
}

static void sizes_are_checked(void)
{
    static const int bad[][3] = {{31, 48, 1}, {32, 44, 1}, {0, 48, 1},
                                 {32, 48, 4}, {32, 48, 0}, {32, 48, 37}};
    fv_model *m = NULL;
    wan_vae *v = NULL;
    OK(ctx, write_model(temp_path("vae")));
    OK(ctx, fv_model_open(ctx, &m, temp_path("vae"), NULL));
    for (size_t i = 0; i < FV_ARRAY_LEN(bad); i++)
        CHECK(wan_vae_open(ctx, &v, m, bad[i][0], bad[i][1], bad[i][2]) == FV_ERR_ARG && !v);
    fv_model_close(&m);
}

static void parameters_are_as_many_as_published(void)
{
    static const int width[4] = {96, 192, 384, 384};
    static const struct {
        const char *name;
        int ndim;
        int64_t dim[5];
    } want[] = {{"vae.encoder.conv1.weight", 5, {96, 3, 3, 3, 3}},
                {"vae.encoder.downsamples.2.resample.1.weight", 4, {96, 96, 3, 3}},
                {"vae.encoder.downsamples.5.time_conv.weight", 5, {192, 192, 3, 1, 1}},
                {"vae.encoder.downsamples.3.shortcut.weight", 5, {192, 96, 1, 1, 1}},
                {"vae.encoder.middle.1.to_qkv.weight", 4, {1152, 384, 1, 1}},
                {"vae.encoder.middle.1.norm.gamma", 3, {384, 1, 1}},
                {"vae.conv1.weight", 5, {32, 32, 1, 1, 1}},
                {"vae.decoder.upsamples.4.residual.2.weight", 5, {384, 192, 3, 3, 3}},
                {"vae.decoder.upsamples.7.time_conv.weight", 5, {768, 384, 3, 1, 1}},
                {"vae.decoder.upsamples.11.resample.1.weight", 4, {96, 192, 3, 3}},
                {"vae.decoder.head.0.gamma", 4, {96, 1, 1, 1}},
                {"vae.decoder.head.2.weight", 5, {3, 96, 3, 3, 3}}};
    fv_params *p = NULL;
    OK(ctx, fv_params_create(ctx, &p));
    CHECK(wan_vae_add(p, width));
    for (size_t i = 0; i < FV_ARRAY_LEN(want); i++) {
        fv_tensor t = {0};
        const fv_pid id = fv_params_find(p, want[i].name);
        if (id >= 0) wan_vae_published_shape(p, id, &t);
        CHECK_MSG(id >= 0 && t.ndim == want[i].ndim &&
                      memcmp(t.dim, want[i].dim, (size_t)t.ndim * sizeof t.dim[0]) == 0,
                  "%s", want[i].name);
    }
    const int64_t n = fv_params_elements(p);
    const int tensors = fv_params_count(p);
    fv_params_destroy(&p);
    CHECK_MSG(n == 126892531 && tensors == 194, "%lld in %d", (long long)n, tensors);
}

static void tests(void)
{
    wan_noise("clip", clip_in, T * FRAME);
    wan_noise("latents", latent_in, L * LATENT);
    RUN(frames_one_by_one_are_pytorchs_clip);
    RUN(streaming_is_the_whole_clip_bit_by_bit);
    RUN(a_new_clip_forgets_the_last);
    RUN(sizes_are_checked);
    RUN(parameters_are_as_many_as_published);
}

int main(void)
{
    temp_dir_make("wan-vae");
    return parity_main(tests);
}
