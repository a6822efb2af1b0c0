/* sr_open.c - super-resolution models: opening, info, other types of weights, random ones. */
#include "sr.h"

#include <math.h>
#include <string.h>

int sr_reach(const pssr_config *c, int drafts)
{
    int base = 2, step = 2; /* stem and head */
    for (int i = 0; i < c->blocks; i++) base += pssr_attends(i) ? PSSR_WINDOW - 1 : 1;
    for (int j = 0; j < pssr_draft_blocks(c); j++)
        step += pssr_attends(pssr_kept_block(c, j)) ? PSSR_WINDOW - 1 : 1;
    const int all = base + drafts * step;
    return (all + PSSR_WINDOW - 1) / PSSR_WINDOW * PSSR_WINDOW;
}

/* FLOP of a cell: convolutions, matrices, attention maps. */
static double block_flop(const pssr_config *c, int origin)
{
    const double C = c->channels, ffn = 8 * C * C;
    if (!pssr_attends(origin)) return ffn + 18 * C * C;
    return ffn + 8 * C * C + 4 * PSSR_WINDOW * PSSR_WINDOW * C;
}

static void count_flop(const pssr_config *c, fv_sr_info *out)
{
    const double C = c->channels, end = 18.0 * PSSR_STATE * C, fusion = 2 * C * C;
    out->base_flop = out->draft_flop = 2 * end;
    out->once_flop = end + fusion * pssr_draft_blocks(c);
    for (int i = 0; i < c->blocks; i++) out->base_flop += block_flop(c, i);
    for (int j = 0; j < pssr_draft_blocks(c); j++)
        out->draft_flop += block_flop(c, pssr_kept_block(c, j)) + fusion;
}

static void fill_info(fv_sr *sr, const fv_model *file)
{
    const pssr_config *c = &sr->net.cfg;
    fv_sr_info *o = &sr->info;
    o->name = c->name;
    o->channels = c->channels;
    o->blocks = c->blocks;
    o->draft_blocks = c->times > 1 ? pssr_draft_blocks(c) : 0;
    o->steps = c->times;
    o->own_steps = c->own_steps ? c->own_steps : c->times;
    o->detail = c->alpha;
    o->fdu = c->fdu;
    o->is_video = c->is_video;
    o->base_parameters = pssr_count(&sr->net, PSSR_BASE);
    o->draft_parameters = pssr_count(&sr->net, PSSR_DRAFT);
    count_flop(c, o);
    fv_model_hash(file, o->hash);
}

fv_status fv_sr_open(fv_ctx *ctx, fv_sr **out, const fv_model *file, fv_dtype precision)
{
    fv_status s = FV_OK;
    pssr_config c;
    if (!out || !file) return fv_fail(ctx, FV_ERR_ARG, "super-resolution: no file, or no place");
    *out = NULL;
    if (precision != FV_F32 && precision != FV_BF16)
        return fv_fail(ctx, FV_ERR_ARG, "super-resolution: precision is f32 or bf16");
    FV_TRY(pssr_config_read(ctx, file, &c));
    fv_sr *sr = fv_calloc(ctx, 1, sizeof *sr);
    if (!sr) return FV_ERR_OOM;
    sr->ctx = ctx;
    const bool is_cuda = fv_ctx_device(ctx) == FV_DEVICE_CUDA;
    sr->precision = is_cuda || fv_ctx_cpu(ctx) & FV_CPU_AVX512BF16 ? precision : FV_F32;
    FV_TRY_GOTO(fv_params_create(ctx, &sr->params));
    pssr_net_add(&sr->net, sr->params, &c, "", c.times > 1 ? PSSR_BASE | PSSR_DRAFT : PSSR_BASE,
                 0);
    FV_TRY_GOTO(fv_params_load(sr->params, file, ""));
    fill_info(sr, file);
    *out = sr;
    return FV_OK;
fail:
    fv_sr_close(&sr);
    return s;
}

void fv_sr_close(fv_sr **sr)
{
    if (!sr || !*sr) return;
    fv_params_destroy(&(*sr)->params);
    fv_free((*sr)->ctx, *sr);
    *sr = NULL;
}

void fv_sr_get_info(const fv_sr *sr, fv_sr_info *out)
{
    if (sr) *out = sr->info;
    else memset(out, 0, sizeof *out);
}

/* ---- Other types of weights ------------------------------------------------------------------ */

int fv_sr_is_model(const fv_model *m)
{
    const char *kind = m ? fv_model_meta(m, "fovea.kind") : NULL;
    return kind && strcmp(kind, "pssr") == 0;
}

static fv_status write_as(fv_ctx *ctx, fv_params *params, const fv_model *in, fv_dtype type,
                          const char *path, int overwrite)
{
    pssr_config c;
    pssr_net net;
    fv_pack pack;
    FV_TRY(pssr_config_read(ctx, in, &c));
    pssr_net_add(&net, params, &c, "", c.times > 1 ? PSSR_BASE | PSSR_DRAFT : PSSR_BASE, 0);
    FV_TRY(fv_params_alloc(params));
    FV_TRY(fv_params_load(params, in, ""));
    FV_TRY(fv_pack_create(ctx, &pack));
    fv_meta meta = { { 0 }, 0 };
    fv_status s = FV_OK;
    for (int i = 0; i < fv_model_meta_count(in) && s == FV_OK; i++) {
        const char *key, *value;
        fv_model_meta_at(in, i, &key, &value);
        if (fv_after(key, "fovea.")) s = fv_meta_add(ctx, &meta, key, value);
    }
    if (s == FV_OK) s = fv_meta_write(&meta, pack.writer);
    if (s == FV_OK) s = fv_pack_params(&pack, params, "", type);
    if (s == FV_OK) s = fv_model_writer_finish(pack.writer, path, overwrite);
    fv_meta_free(ctx, &meta);
    fv_pack_free(&pack);
    return s;
}

fv_status fv_sr_convert(fv_ctx *ctx, const fv_model *in, fv_dtype type, const char *path,
                        int overwrite)
{
    fv_params *params;
    if (!in || !path) return fv_fail(ctx, FV_ERR_ARG, "super-resolution: no model, or no path");
    FV_TRY(fv_params_create(ctx, &params));
    const fv_status s = write_as(ctx, params, in, type, path, overwrite);
    fv_params_destroy(&params);
    return s;
}

/* ---- Random models --------------------------------------------------------------------------- */

/* Signals keep their size from layer to layer; velocities are about a tenth of the range. */
static float spread(const char *name, const fv_tensor *t)
{
    const double columns = (double)fv_tensor_count(t) / (double)t->dim[0];
    if (strstr(name, "_norm")) return -1.0f; /* ones */
    if (strstr(name, "table")) return 0.3f;
    if (t->ndim < 2) return 0.02f;
    return (float)((strstr(name, ".head.") ? 0.1 : 1.0) / sqrt(columns));
}

static fv_status write_random(fv_ctx *ctx, fv_params *params, const char *preset, uint64_t seed,
                              const char *path, int overwrite)
{
    pssr_config c;
    pssr_net net;
    fv_pack pack;
    fv_meta meta;
    FV_TRY(pssr_preset(ctx, preset, &c));
    pssr_net_add(&net, params, &c, "", PSSR_BASE | PSSR_DRAFT, 0);
    FV_TRY(fv_pack_create(ctx, &pack));
    fv_status s = pssr_config_meta(ctx, &c, &meta);
    if (s == FV_OK) s = fv_meta_add(ctx, &meta, "fovea.source", "random weights");
    if (s == FV_OK) s = fv_meta_write(&meta, pack.writer);
    for (fv_pid id = 0; id < fv_params_count(params) && s == FV_OK; id++) {
        const char *name = fv_params_name(params, id);
        const fv_tensor t = fv_params_tensor(params, id);
        s = fv_pack_random(&pack, name, &t, seed, (uint32_t)id, spread(name, &t));
    }
    if (s == FV_OK) s = fv_model_writer_finish(pack.writer, path, overwrite);
    fv_meta_free(ctx, &meta);
    fv_pack_free(&pack);
    return s;
}

fv_status fv_sr_random(fv_ctx *ctx, const char *preset, uint64_t seed, const char *path,
                       int overwrite)
{
    fv_params *params;
    if (!preset || !path) return fv_fail(ctx, FV_ERR_ARG, "random model: no preset or no path");
    FV_TRY(fv_params_create(ctx, &params));
    const fv_status s = write_random(ctx, params, preset, seed, path, overwrite);
    fv_params_destroy(&params);
    return s;
}
