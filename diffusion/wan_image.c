/* wan_image.c - PS-SR on Wan2.1: pictures as clips of one frame, what a file says of itself, and
 * models with random weights. */
#include "wan.h"

#include <math.h>
#include <string.h>

#include "image_codec.h"
#include "sr.h"

/* ---- Pictures -------------------------------------------------------------------------------- */

typedef struct picture {
    const fv_model *file;
    fv_dtype precision;
    sr_frame *frame;
    const float *source; /* NULL: it has been read */
} picture;

static fv_status read_source(void *user, float *rgb, int *has_one)
{
    picture *p = user;
    *has_one = p->source != NULL;
    if (p->source)
        memcpy(rgb, p->source, (size_t)p->frame->in_width * (size_t)p->frame->in_height * 3 *
                                   sizeof *rgb);
    p->source = NULL;
    return FV_OK;
}

static fv_status write_result(void *user, const float *rgb)
{
    const sr_frame *f = ((picture *)user)->frame;
    const int whole[4] = {0, 0, f->width, f->height};
    f->write(f->user, rgb, f->width, whole);
    return FV_OK;
}

static fv_wan_options clip_options(const picture *p, uint64_t held)
{
    const sr_frame *f = p->frame;
    fv_wan_options o = FV_WAN_OPTIONS_INIT;
    o.in_height = f->in_height;
    o.in_width = f->in_width;
    o.height = f->height;
    o.width = f->width;
    o.steps = f->o.steps;
    o.detail = f->o.detail;
    o.fdu = f->o.fdu;
    o.precision = p->precision;
    o.tile_height = f->o.tile_height;
    o.tile_width = f->o.tile_width;
    o.tile_overlap = f->o.overlap;
    if (f->o.max_bytes) o.max_bytes = f->o.max_bytes > held ? f->o.max_bytes - held : 1;
    return o;
}

static fv_status run_clip(void *user, sr_frame *f, const float *source, uint64_t before,
                          fv_sr_stats *stats)
{
    picture *p = user;
    const fv_wan_frames io = {read_source, write_result, p};
    fv_memory_stats m;
    fv_wan_stats w;
    fv_ctx_memory(f->ctx, &m);
    const uint64_t held = m.current_bytes - before;
    const fv_wan_options o = clip_options(p, held);
    p->source = source;
    const fv_status s = fv_wan_restore(f->ctx, p->file, &o, &io, &w);
    f->least = w.least_bytes ? w.least_bytes + held : 0;
    stats->network_seconds = w.network_seconds;
    stats->update_seconds = w.update_seconds;
    stats->flop = w.flop;
    stats->tiles = w.tiles;
    stats->steps = w.steps;
    return s;
}

fv_status fv_wan_image(fv_ctx *ctx, const fv_model *file, fv_dtype precision, const fv_image *in,
                       const fv_sr_options *o, fv_image *out, fv_sr_stats *stats)
{
    if (!file || !in || !out || out == in)
        return fv_fail(ctx, FV_ERR_ARG, "super-resolution: a model or picture is missing");
    memset(out, 0, sizeof *out);
    FV_TRY(fvi_image_check(ctx, in, "super-resolution"));
    sr_frame f = {.ctx = ctx, .in_width = in->width, .in_height = in->height};
    picture p = {.file = file, .precision = precision, .frame = &f};
    f.o = (fv_sr_options)FV_SR_OPTIONS_INIT;
    FV_TRY(FV_TAKE_OPTIONS(ctx, &f.o, o, "super-resolution"));
    if (f.o.update_each || f.o.exact_tiles)
        return fv_fail(ctx, FV_ERR_ARG, "super-resolution: models on Wan2.1 have no exact tiles, "
                                        "and no update after every step");
    FV_TRY(sr_frame_pixels(&f));
    FV_TRY(sr_frame_sizes(&f));
    f.net_width = f.width;
    f.net_height = f.height;
    return sr_picture(&f, run_clip, &p, in, out, stats);
}

/* ---- Files ----------------------------------------------------------------------------------- */

int fv_wan_is_model(const fv_model *m)
{
    const char *kind = m ? fv_model_meta(m, "fovea.kind") : NULL;
    return kind && strcmp(kind, "pssr-wan") == 0;
}

static void count_tensors(const fv_model *file, fv_wan_info *out)
{
    for (int i = 0; i < fv_model_count(file); i++) {
        fv_tensor t;
        fv_model_tensor(file, i, &t);
        const char *name = fv_model_name(file, i);
        const int64_t n = fv_tensor_count(&t);
        if (n < 1) continue;
        if (fv_after(name, "base.")) out->base_parameters += n;
        else if (fv_after(name, "draft.")) out->draft_parameters += n;
        else if (fv_after(name, "vae.")) out->autoencoder_parameters += n;
        else if (strcmp(name, "text") == 0) out->prompt_rows = (int)t.dim[0];
    }
}

fv_status fv_wan_get_info(fv_ctx *ctx, const fv_model *file, fv_wan_info *out)
{
    wan_config c;
    if (!file || !out) return fv_fail(ctx, FV_ERR_ARG, "super-resolution: no file, or no place");
    memset(out, 0, sizeof *out);
    FV_TRY(wan_config_read(ctx, file, &c));
    const char *name = fv_model_meta(file, "fovea.name");
    out->name = name ? name : "pssr-wan";
    out->channels = c.width;
    out->blocks = c.blocks;
    out->draft_blocks = c.drafts;
    out->steps = c.times;
    out->detail = c.alpha;
    out->fdu = c.fdu;
    count_tensors(file, out);
    out->has_autoencoder = out->autoencoder_parameters > 0;
    return FV_OK;
}

/* ---- Random models --------------------------------------------------------------------------- */

typedef struct preset {
    wan_config cfg;
    int vae[4], prompt; /* widths; rows */
} preset;

static fv_status find_preset(fv_ctx *ctx, const char *name, preset *out)
{
    *out = (preset){.vae = {96, 192, 384, 384}, .prompt = 30};
    wan_config *c = &out->cfg;
    wan_published(c);
    snprintf(c->name, sizeof c->name, "%s", name);
    if (strcmp(name, "wan-1.3b") == 0) return FV_OK;
    if (strcmp(name, "wan-nano") != 0)
        return fv_fail(ctx, FV_ERR_UNKNOWN,
                       "super-resolution preset \"%s\" is unknown: wan-nano wan-1.3b", name);
    *out = (preset){.cfg = *c, .vae = {8, 12, 16, 16}, .prompt = 5};
    c->width = 96;
    c->heads = 3;
    c->blocks = 3;
    c->ffn = 192;
    c->text_width = 64;
    c->drafts = wan_kept_blocks(c->blocks, 1.5, c->kept);
    return FV_OK;
}

/* Signals keep their size from layer to layer; velocities are smaller, as are changes of pictures. */
static float spread(const char *name, const fv_tensor *t)
{
    const double columns = (double)fv_tensor_count(t) / (double)t->dim[0];
    if (fv_ends_with(name, "norm") || strstr(name, "norm.weight") || fv_ends_with(name, ".gamma"))
        return -1.0f; /* ones */
    if (strstr(name, "table")) return 0.3f;
    if (t->ndim < 2) return 0.02f;
    return (float)((strstr(name, ".head.w") ? 0.3 : 1.0) / sqrt(columns));
}

static fv_status put_random(fv_pack *pack, const fv_params *params, uint64_t seed, uint32_t first)
{
    for (fv_pid id = 0; id < fv_params_count(params); id++) {
        const char *name = fv_params_name(params, id);
        const fv_tensor t = fv_params_tensor(params, id);
        FV_TRY(fv_pack_random(pack, name, &t, seed, first + (uint32_t)id, spread(name, &t)));
    }
    return FV_OK;
}

#define VAE_STREAM 100000u /* numbers of random streams, apart from those of the networks */
#define TEXT_STREAM 200000u

static fv_status put_parts(fv_ctx *ctx, const preset *p, uint64_t seed, wan_net *net, fv_pack *pack)
{
    const fv_tensor text = {.ndim = 2, .dim = {p->prompt, p->cfg.text_width}};
    for (int k = 0; k < 2; k++) {
        fv_params *params = NULL;
        FV_TRY(fv_params_create(ctx, &params));
        if (k) (void)wan_vae_add(params, p->vae);
        else wan_net_add(net, params, &p->cfg);
        const fv_status s = put_random(pack, params, seed, k ? VAE_STREAM : 0);
        fv_params_destroy(&params);
        FV_TRY(s);
    }
    return fv_pack_random(pack, "text", &text, seed, TEXT_STREAM, 1.0f);
}

static fv_status put_metadata(fv_ctx *ctx, const preset *p, fv_pack *pack)
{
    fv_meta meta;
    FV_TRY(wan_config_meta(ctx, &p->cfg, &meta));
    fv_status s = fv_meta_add(ctx, &meta, "fovea.source", "random weights");
    if (s == FV_OK) s = fv_meta_write(&meta, pack->writer);
    fv_meta_free(ctx, &meta);
    return s;
}

fv_status fv_wan_random(fv_ctx *ctx, const char *name, uint64_t seed, const char *path,
                        int overwrite)
{
    preset p;
    fv_pack pack;
    if (!name || !path) return fv_fail(ctx, FV_ERR_ARG, "random model: no preset or no path");
    FV_TRY(find_preset(ctx, name, &p));
    wan_net *net = fv_calloc(ctx, 1, sizeof *net);
    if (!net) return FV_ERR_OOM;
    fv_status s = fv_pack_create(ctx, &pack);
    if (s == FV_OK) {
        s = put_parts(ctx, &p, seed, net, &pack);
        if (s == FV_OK) s = put_metadata(ctx, &p, &pack);
        if (s == FV_OK) s = fv_model_writer_finish(pack.writer, path, overwrite);
        fv_pack_free(&pack);
    }
    fv_free(ctx, net);
    return s;
}
