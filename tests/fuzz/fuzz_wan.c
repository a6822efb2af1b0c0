/* fuzz_wan.c - models of PS-SR on Wan2.1: what any file says of itself, and a clip of two frames
 * through what is small.
 *
 * An input that begins with '{' is a safetensors header alone (fuzz_header.h). */
#include "fovea_diffusion.h"
#include "fuzz_header.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MEMORY_CAP ((uint64_t)64 << 20)
#define MOST_PARAMETERS 200000
enum { H = 9, W = 20, FRAMES = 2 };

typedef struct frames {
    int read, written;
} frames;

static fv_status read_one(void *user, float *rgb, int *has_one)
{
    frames *f = user;
    *has_one = f->read < FRAMES;
    for (int i = 0; i < H * W * 3 && *has_one; i++) rgb[i] = (float)((i * 7 + f->read) % 256) / 255;
    f->read += *has_one;
    return FV_OK;
}

static fv_status write_one(void *user, const float *rgb)
{
    frames *f = user;
    for (int i = 0; i < H * W * 3; i++)
        if (!(rgb[i] >= 0 && rgb[i] <= 1)) abort();
    f->written++;
    return FV_OK;
}

static void restore(fv_ctx *ctx, const fv_model *m, const fv_wan_info *info)
{
    fv_wan_options o = FV_WAN_OPTIONS_INIT;
    frames f = {0};
    const fv_wan_frames io = {read_one, write_one, &f};
    o.in_height = H;
    o.in_width = W;
    o.precision = FV_F32;
    o.steps = info->steps > 2 ? 2 : 0;
    const fv_status s = fv_wan_restore(ctx, m, &o, &io, NULL);
    if (s == FV_ERR_INTERNAL || (s != FV_OK && !fv_ctx_error(ctx)[0])) abort();
    if (s == FV_OK && f.written != FRAMES) abort();
}

static void open_and_use(fv_ctx *ctx, fv_model *m)
{
    fv_wan_info i;
    if (fv_wan_get_info(ctx, m, &i) != FV_OK) {
        if (!fv_ctx_error(ctx)[0]) abort(); /* a failure without a message */
        return;
    }
    if (!fv_wan_is_model(m) || !i.name || i.steps < 1 || i.draft_blocks < 1 ||
        i.draft_blocks > i.blocks || !(i.detail >= 0 && i.detail <= 2) || !fv_fdu_name(i.fdu))
        abort();
    if (i.base_parameters + i.draft_parameters + i.autoencoder_parameters <= MOST_PARAMETERS)
        restore(ctx, m, &i);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return fuzz_model(data, size, MEMORY_CAP, open_and_use);
}
