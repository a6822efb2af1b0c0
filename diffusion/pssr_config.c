/* pssr_config.c - sizes of the super-resolution networks: presets, checks, metadata. */
#include "fdu.h"
#include "pssr.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#define PREFIX "fovea.pssr."
#define VIDEO "-video"

static bool is_name(const char *known, const char *name, size_t n)
{
    return strlen(known) == n && strncasecmp(known, name, n) == 0;
}

fv_status pssr_preset(fv_ctx *ctx, const char *name, pssr_config *out)
{
    static const struct { const char *name; int channels, blocks; } p[] = {
        { "pssr-nano", 32, 12 }, { "pssr-tiny", 64, 12 }, { "pssr-small", 128, 24 },
        { "pssr-large", 192, 24 },
    };
    const size_t all = name ? strlen(name) : 0, tail = sizeof VIDEO - 1;
    const bool is_video = all > tail && strcasecmp(name + all - tail, VIDEO) == 0;
    const size_t n = is_video ? all - tail : all;
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < FV_ARRAY_LEN(p); i++) {
        if (!is_name(p[i].name, name, n) && !is_name(p[i].name + 5, name, n)) continue;
        *out = (pssr_config){ .channels = p[i].channels, .blocks = p[i].blocks, .every = 3,
                              .times = 4, .time = { 1.0f, 6.0f / 7, 5.0f / 7, 4.0f / 7 },
                              .alpha = 1.0f, .fdu = FV_FDU_LERP, .is_video = is_video };
        snprintf(out->name, sizeof out->name, "%s%s", p[i].name, is_video ? VIDEO : "");
        return FV_OK;
    }
    return fv_fail(ctx, FV_ERR_UNKNOWN,
                   "super-resolution preset \"%s\" is unknown: nano tiny small large, each also "
                   "with -video",
                   name ? name : "");
}

int pssr_draft_blocks(const pssr_config *c) { return c->blocks / c->every; }
int pssr_kept_block(const pssr_config *c, int j) { return c->every * j + c->every - 1; }
bool pssr_attends(int base_block) { return base_block % PSSR_ATTEND == PSSR_ATTEND - 1; }

int pssr_window_shift(int base_block)
{
    return base_block / PSSR_ATTEND % 2 ? PSSR_WINDOW / 2 : 0;
}

int pssr_shift_channels(const pssr_config *c) { return c->channels / 8; }

int pssr_step_blocks(const pssr_config *c, int step)
{
    return step ? pssr_draft_blocks(c) : c->blocks;
}

fv_status pssr_config_check(fv_ctx *ctx, const pssr_config *c)
{
    FV_TRY(fv_meta_range(ctx, "super-resolution: channels", c->channels, PSSR_HEAD,
                         PSSR_MAX_CHANNELS));
    FV_TRY(fv_meta_range(ctx, "super-resolution: blocks", c->blocks, 1, PSSR_MAX_BLOCKS));
    FV_TRY(fv_meta_range(ctx, "super-resolution: every", c->every, 1, c->blocks));
    FV_TRY(fv_meta_range(ctx, "super-resolution: times", c->times, 1, PSSR_MAX_TIMES));
    if (c->channels % PSSR_HEAD || c->blocks % c->every)
        return fv_fail(ctx, FV_ERR_MODEL, "super-resolution: %d channels are no multiple of %d, or "
                       "%d blocks none of %d", c->channels, PSSR_HEAD, c->blocks, c->every);
    for (int k = 0; k < c->times; k++)
        if (!(k ? c->time[k] < c->time[k - 1] && c->time[k] > 0 : c->time[k] == 1))
            return fv_fail(ctx, FV_ERR_MODEL,
                           "super-resolution: times must begin with 1 and fall towards 0");
    FV_TRY(fv_meta_range(ctx, "super-resolution: steps", c->own_steps, 0, c->times));
    if (!(c->alpha >= 0 && c->alpha <= 2) || (int)c->fdu < 0 || (int)c->fdu >= FV_FDU_COUNT)
        return fv_fail(ctx, FV_ERR_MODEL,
                       "super-resolution: weight of the detail outside [0, 2], or unknown update");
    return FV_OK;
}

static fv_status read_times(fv_ctx *ctx, const fv_model *m, pssr_config *c)
{
    for (int k = 0; k < c->times; k++) {
        char key[48];
        snprintf(key, sizeof key, PREFIX "time.%d", k);
        FV_TRY(fv_meta_float(ctx, m, key, &c->time[k]));
    }
    return FV_OK;
}

static fv_status read_fdu(fv_ctx *ctx, const fv_model *m, pssr_config *c)
{
    if (fv_fdu_find(fv_model_meta(m, PREFIX "fdu"), &c->fdu)) return FV_OK;
    return fv_fail(ctx, FV_ERR_MODEL, "%sfdu is missing or unknown: lerp lock ref off gain", PREFIX);
}

/* Steps where none are asked for: models that use all lack it. */
static fv_status read_steps(fv_ctx *ctx, const fv_model *m, pssr_config *c)
{
    return fv_model_meta(m, PREFIX "steps") ? fv_meta_int(ctx, m, PREFIX "steps", &c->own_steps)
                                            : FV_OK;
}

/* Models for pictures lack it. */
static fv_status read_video(fv_ctx *ctx, const fv_model *m, pssr_config *c)
{
    int video = 0;
    if (fv_model_meta(m, PREFIX "video")) FV_TRY(fv_meta_int(ctx, m, PREFIX "video", &video));
    FV_TRY(fv_meta_range(ctx, "super-resolution: video", video, 0, 1));
    c->is_video = video != 0;
    return FV_OK;
}

fv_status pssr_config_read(fv_ctx *ctx, const fv_model *m, pssr_config *out)
{
    const char *kind = fv_model_meta(m, "fovea.kind");
    memset(out, 0, sizeof *out);
    if (!kind || strcmp(kind, "pssr") != 0)
        return fv_fail(ctx, FV_ERR_MODEL, "the file holds no super-resolution model");
    fv_meta_name(fv_model_meta(m, "fovea.name"), "pssr", out->name, sizeof out->name);
    FV_TRY(fv_meta_int(ctx, m, PREFIX "channels", &out->channels));
    FV_TRY(fv_meta_int(ctx, m, PREFIX "blocks", &out->blocks));
    FV_TRY(fv_meta_int(ctx, m, PREFIX "every", &out->every));
    FV_TRY(fv_meta_int(ctx, m, PREFIX "times", &out->times));
    FV_TRY(fv_meta_range(ctx, "super-resolution: times", out->times, 1, PSSR_MAX_TIMES));
    FV_TRY(read_times(ctx, m, out));
    FV_TRY(read_steps(ctx, m, out));
    FV_TRY(fv_meta_float(ctx, m, PREFIX "alpha", &out->alpha));
    FV_TRY(read_fdu(ctx, m, out));
    FV_TRY(read_video(ctx, m, out));
    return pssr_config_check(ctx, out);
}

static fv_status add_meta(fv_ctx *ctx, const pssr_config *c, fv_meta *out)
{
    FV_TRY(fv_meta_add(ctx, out, "fovea.kind", "pssr"));
    FV_TRY(fv_meta_add(ctx, out, "fovea.name", c->name));
    FV_TRY(fv_meta_add_number(ctx, out, PREFIX "channels", c->channels));
    FV_TRY(fv_meta_add_number(ctx, out, PREFIX "blocks", c->blocks));
    FV_TRY(fv_meta_add_number(ctx, out, PREFIX "every", c->every));
    FV_TRY(fv_meta_add_number(ctx, out, PREFIX "times", c->times));
    for (int k = 0; k < c->times; k++) {
        char key[48];
        snprintf(key, sizeof key, PREFIX "time.%d", k);
        FV_TRY(fv_meta_add_number(ctx, out, key, (double)c->time[k]));
    }
    FV_TRY(fv_meta_add_number(ctx, out, PREFIX "alpha", (double)c->alpha));
    if (c->own_steps) FV_TRY(fv_meta_add_number(ctx, out, PREFIX "steps", c->own_steps));
    if (c->is_video) FV_TRY(fv_meta_add_number(ctx, out, PREFIX "video", 1));
    return fv_meta_add(ctx, out, PREFIX "fdu", fv_fdu_name(c->fdu));
}

fv_status pssr_config_meta(fv_ctx *ctx, const pssr_config *c, fv_meta *out)
{
    memset(out, 0, sizeof *out);
    const fv_status s = add_meta(ctx, c, out);
    if (s != FV_OK) fv_meta_free(ctx, out);
    return s;
}
