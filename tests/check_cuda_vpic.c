/* check_cuda_vpic.c - vpic on the emulated GPU against the CPU: nearest codes of a picture, and the
 * picture of tokens, whole and in regions; files of one are read by the other. On CUDA transforms are
 * in bf16, as on CPUs that have it; here the CPU's are in f32. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "cuda_device.h"

#include "fovea_codec.h"
#include "rdvq_fixture.h"
#include "rdvq_pixels.h"
#include "test.h"

#define WIDTH 420
#define HEIGHT 70

static fv_ctx *cpu, *gpu;
static char path[512];
static const uint64_t plenty = (uint64_t)1 << 32;

typedef struct opened { fv_model *file; rdvq_pixels *p; } opened;

static fv_status open_on(fv_ctx *ctx, opened *o)
{
    memset(o, 0, sizeof *o);
    FV_TRY(fv_model_open(ctx, &o->file, path, NULL));
    return rdvq_pixels_open(ctx, &o->p, o->file);
}

static void close_on(opened *o)
{
    rdvq_pixels_close(&o->p);
    fv_model_close(&o->file);
}

static void codes_of_a_picture(void)
{
    opened a, b;
    fv_image img;
    rdvq_nearest x, y;
    rdvq_work work = { 0 };
    rdvq_grid g;
    rdvq_map map;
    int64_t same = 0, chance = 0;
    OK(cpu, open_on(cpu, &a));
    OK(gpu, open_on(gpu, &b));
    CHECK(memcmp(a.p->length, b.p->length, 64 * sizeof(float)) == 0);
    OK(cpu, rdvq_make_picture(cpu, &img, WIDTH, HEIGHT, 3, 8, 5));
    OK(cpu, rdvq_analyse_picture(cpu, a.p, &img, plenty, &x, &work));
    OK(gpu, rdvq_analyse_picture(gpu, b.p, &img, plenty, &y, &work));
    OK(cpu, rdvq_grid_of(cpu, &a.p->net.cfg, WIDTH, HEIGHT, &g));
    rdvq_map_of(&g, &a.p->net.slices, &map);
    const int64_t n = map.first[map.layers];
    for (int64_t i = 0; i < n; i++) {
        same += x.code[i * x.count] == y.code[i * y.count];
        chance += x.code[i * x.count] == y.code[(i * 7 + 3) % n * y.count];
        NEAR(x.distance[i * x.count], y.distance[i * y.count], 0.05);
    }
    printf("# %d of %d codes are the same, %d by chance\n", (int)same, (int)n, (int)chance);
    CHECK(10 * same > 9 * n && 2 * chance < n);
    rdvq_nearest_free(cpu, &x);
    rdvq_nearest_free(gpu, &y);
    fv_image_free(cpu, &img);
    close_on(&a);
    close_on(&b);
    CHECK(device_is_clean(gpu));
}

/* Levels of all pixels from drawn tokens. */
static fv_status paint(fv_ctx *ctx, const rdvq_pixels *p, uint64_t budget, fv_image *out)
{
    rdvq_grid g;
    rdvq_map map;
    rdvq_work work = { 0 };
    uint64_t seed = 3;
    FV_TRY(rdvq_grid_of(ctx, &p->net.cfg, WIDTH, HEIGHT, &g));
    rdvq_map_of(&g, &p->net.slices, &map);
    uint16_t *token = calloc((size_t)map.first[map.layers], sizeof *token);
    if (!token) return FV_ERR_OOM;
    for (int64_t i = 0; i < map.first[map.layers]; i++) token[i] = (uint16_t)(test_next(&seed) % 64);
    const rdvq_paint how = { &g, token, 5, 0, 0, budget, 16 };
    fv_status s = fv_image_create(ctx, out, WIDTH, HEIGHT, 3, 16);
    if (s == FV_OK) s = rdvq_paint_picture(ctx, p, &how, out, &work);
    free(token);
    return s;
}

/* Launches of the device are returned. */
static void compare_pictures(uint64_t budget, long *launches)
{
    opened a, b;
    fv_image x, y;
    double sum = 0, spread = 0, worst = 0;
    OK(cpu, open_on(cpu, &a));
    OK(gpu, open_on(gpu, &b));
    OK(cpu, paint(cpu, a.p, plenty, &x));
    const long before = device_launches();
    OK(gpu, paint(gpu, b.p, budget, &y));
    *launches = device_launches() - before;
    for (int r = 0; r < HEIGHT; r++) {
        const uint16_t *u = (const void *)fvi_image_row(&x, r);
        const uint16_t *v = (const void *)fvi_image_row(&y, r);
        for (int i = 0; i < 3 * WIDTH; i++) {
            const double d = ((double)u[i] - v[i]) / 65535, e = (double)u[i] / 65535 - 0.5;
            sum += d * d;
            spread += e * e;
            worst = test_worst(worst, d);
        }
    }
    const double n = 3.0 * WIDTH * HEIGHT;
    printf("# differs by %.2g in the mean, %.2g at most; spread %.2g\n", sqrt(sum / n), worst,
           sqrt(spread / n));
    CHECK(sqrt(sum / n) < 0.02 * sqrt(spread / n) && worst < 0.02);
    fv_image_free(cpu, &x);
    fv_image_free(gpu, &y);
    close_on(&a);
    close_on(&b);
    CHECK(device_is_clean(gpu));
}

static void pictures_of_tokens(void)
{
    long whole = 0, regions = 0;
    compare_pictures(plenty, &whole);
    compare_pictures((uint64_t)1 << 21, &regions);
    printf("# %ld launches for all, %ld in regions\n", whole, regions);
    CHECK(whole > 20 && regions >= 2 * whole);
}

/* ---- Files ----------------------------------------------------------------------------------- */

static fv_status open_whole(fv_ctx *ctx, fv_vpic_model **m)
{
    const char *whole = temp_path("whole.safetensors");
    fv_model *file;
    FV_TRY(fv_model_open(ctx, &file, path, NULL));
    const fv_status s = fv_rdvq_convert(ctx, file, FV_F32, whole, 1);
    fv_model_close(&file);
    FV_TRY(s);
    return fv_vpic_model_open(ctx, m, whole);
}

static fv_status decode_file(fv_ctx *ctx, const fv_vpic_model *m, const uint8_t *file, size_t n,
                             fv_image *out, fv_vpic_stats *st)
{
    fv_vpic_limits l = FV_VPIC_LIMITS_INIT;
    l.max_pixels = 1 << 20;
    l.models = &m;
    l.model_count = 1;
    return fv_vpic_decode(ctx, file, n, &l, out, st);
}

static void near_pictures(const fv_image *a, const fv_image *b)
{
    double sum = 0;
    CHECK(a->width == b->width && a->height == b->height);
    for (int r = 0; r < a->height; r++)
        for (int i = 0; i < 3 * a->width; i++) {
            const double d = fvi_image_row(a, r)[i] - fvi_image_row(b, r)[i];
            sum += d * d;
        }
    CHECK_MSG(sqrt(sum / (3.0 * a->width * a->height)) < 1.5, "%.3g",
              sqrt(sum / (3.0 * a->width * a->height)));
}

/* A file of either side is the same tokens for both. Tokens that differ would be other pictures. */
static void files_are_read_on_both(void)
{
    fv_ctx *const side[2] = { cpu, gpu };
    fv_vpic_model *m[2];
    fv_vpic_stats st[2];
    fv_image img, out[2];
    for (int i = 0; i < 2; i++) OK(side[i], open_whole(side[i], &m[i]));
    OK(cpu, rdvq_make_picture(cpu, &img, 150, HEIGHT, 3, 8, 5));
    for (int by = 0; by < 2; by++) {
        const fv_vpic_model *list = m[by];
        fv_vpic_options o = FV_VPIC_OPTIONS_INIT;
        uint8_t *file;
        size_t n;
        o.models = &list;
        o.model_count = 1;
        o.quality = 60;
        OK(side[by], fv_vpic_encode(side[by], &img, &o, &file, &n, NULL));
        for (int i = 0; i < 2; i++)
            OK(side[i], decode_file(side[i], m[i], file, n, &out[i], &st[i]));
        CHECK(st[0].slices_decoded == st[0].slices && st[1].slices_decoded == st[0].slices);
        near_pictures(&out[0], &out[1]);
        /* Damage is found on both. */
        file[n - 3] ^= 0x55;
        fv_image none;
        const fv_status s = decode_file(cpu, m[0], file, n, &none, &st[0]);
        if (s == FV_OK) fv_image_free(cpu, &none);
        CHECK(decode_file(gpu, m[1], file, n, &none, &st[1]) == s);
        if (s == FV_OK) fv_image_free(gpu, &none);
        fv_free(side[by], file);
        for (int i = 0; i < 2; i++) fv_image_free(side[i], &out[i]);
    }
    fv_image_free(cpu, &img);
    for (int i = 0; i < 2; i++) fv_vpic_model_close(&m[i]);
    CHECK(device_is_clean(gpu));
}

/* The same, with small products of halves of 8 bits and with none: the integers are the same. */
static void files_are_read_with_tensor_cores(void)
{
    fvi_cuda *c = (fvi_cuda *)(uintptr_t)fvi_cuda_of(gpu);
    const long before = emulator_fused;
    c->int8_least = 8;
    files_are_read_on_both();
    CHECK(on_gpu || emulator_fused > before);
    CHECK(c->api->set(c->dev, FVK_SET_OFF, FVK_OFF_INT8) == FVK_OK);
    files_are_read_on_both();
    CHECK(c->api->set(c->dev, FVK_SET_OFF, 0) == FVK_OK);
    c->int8_least = FVI_CUDA_INT8_LEAST;
}

/* Threads and blocks from the last to the first, with kernels and with tensor cores. */
static void files_are_read_in_another_order_of_threads(void)
{
    fvi_cuda *c = (fvi_cuda *)(uintptr_t)fvi_cuda_of(gpu);
    emulator_reversed = 1;
    files_are_read_on_both();
    c->int8_least = 8;
    files_are_read_on_both();
    c->int8_least = FVI_CUDA_INT8_LEAST;
    emulator_reversed = 0;
}

int main(int argc, char **argv)
{
    const int code = device_open(argc, argv, FV_CPU_AVX512BF16, 0, &cpu, &gpu); /* f32 on the CPU */
    if (code >= 0) return code;
    temp_dir_make("cuda_vpic");
    snprintf(path, sizeof path, "%s", temp_path("small.safetensors"));
    const rdvq_config c = rdvq_small_config(1);
    if (rdvq_write_model(cpu, &c, 3, FV_F32, path) != FV_OK) return 1;
    RUN(codes_of_a_picture);
    RUN(pictures_of_tokens);
    RUN(files_are_read_on_both);
    RUN(files_are_read_with_tensor_cores);
    RUN(files_are_read_in_another_order_of_threads);
    return device_close(&cpu, &gpu);
}
