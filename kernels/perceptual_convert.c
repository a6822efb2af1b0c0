/* perceptual_convert.c - weights of LPIPS and DISTS, as published, to our model file.
 *
 * Features: torchvision's vgg16 or alexnet (features.N.weight, .bias; classifier.* is not needed),
 * or a whole LPIPS (net.sliceK.N.*) or DISTS (stageK.N.*), where K counts from 1. Weights of
 * channels: linK.model.1.weight [1, C, 1, 1] (model.0 where there is no dropout), or alpha and beta
 * [1, 3 + C0 + ..., 1, 1], in the same file or another. Channels are read from the shapes; anything
 * not understood is refused, since it may be another network with layers of the same name. */
#include "perceptual.h"

#include <math.h>
#include <string.h>

typedef struct converter {
    fv_ctx *ctx;
    const fv_model *net, *weights;
    fvi_perceptual_config cfg;
    const fvi_feature_layer *layer;
    int layers;
    fv_dtype type;
    fv_pack pack;
} converter;

/* ---- Names ----------------------------------------------------------------------------------- */

enum { TORCHVISION, IN_LPIPS, IN_DISTS, LAYOUTS };

static void feature_name(char out[64], int layout, const fvi_feature_layer *l, const char *tail)
{
    if (layout == TORCHVISION) snprintf(out, 64, "features.%d.%s", l->index, tail);
    else snprintf(out, 64, "%s%d.%d.%s", layout == IN_LPIPS ? "net.slice" : "stage", l->stage + 1,
                  l->index, tail);
}

/* -1: none of them. */
static int layout_of(const fv_model *m)
{
    const fvi_feature_layer first = { 0 };
    fv_tensor t;
    for (int i = 0; i < LAYOUTS; i++) {
        char name[64];
        feature_name(name, i, &first, "weight");
        if (fv_model_find(m, name, &t) && t.ndim == 4 && t.dim[1] == 3) return i;
    }
    return -1;
}

int fv_perceptual_is_checkpoint(const fv_model *m)
{
    return m && !fv_model_meta(m, "fovea.kind") && layout_of(m) >= 0;
}

/* linK.model.1.weight, or .0. where that one is there */
static void lin_name(const fv_model *m, int k, char out[64])
{
    fv_tensor t;
    snprintf(out, 64, "lin%d.model.0.weight", k);
    if (!fv_model_find(m, out, &t)) snprintf(out, 64, "lin%d.model.1.weight", k);
}

static bool is_feature(const converter *c, const char *name)
{
    for (int i = 0; i < 2 * c->layers; i++) {
        char own[64];
        feature_name(own, layout_of(c->net), &c->layer[i / 2], i % 2 ? "bias" : "weight");
        if (strcmp(name, own) == 0) return true;
    }
    return false;
}

static bool is_weight(const converter *c, const char *name)
{
    if (c->cfg.is_dists) return strcmp(name, "alpha") == 0 || strcmp(name, "beta") == 0;
    for (int k = 0; k < FVI_STAGES; k++) {
        char own[64];
        lin_name(c->weights, k, own);
        if (strcmp(name, own) == 0) return true;
    }
    return fv_after(name, "lins."); /* the same tensors once more */
}

/* Constants that we know, and what comes after the features. */
static bool is_known(const char *name)
{
    return fv_after(name, "classifier.") || fv_after(name, "scaling_layer.") ||
           strcmp(name, "mean") == 0 || strcmp(name, "std") == 0 ||
           (fv_after(name, "stage") && fv_ends_with(name, ".filter"));
}

static fv_status refuse_extra(const converter *c)
{
    for (int file = 0; file < 2; file++) {
        const fv_model *m = file ? c->weights : c->net;
        for (int i = 0; i < fv_model_count(m); i++) {
            const char *name = fv_model_name(m, i);
            if (is_known(name) || (m == c->net && is_feature(c, name)) ||
                (m == c->weights && is_weight(c, name)))
                continue;
            return fv_fail(c->ctx, FV_ERR_MODEL, "convert: tensor \"%.200s\" does not belong to %s "
                           "on %s", name, c->cfg.is_dists ? "DISTS" : "LPIPS",
                           c->cfg.is_alex ? "AlexNet" : "VGG-16");
        }
    }
    return FV_OK;
}

/* ---- Sizes ----------------------------------------------------------------------------------- */

static fv_status read_config(converter *c)
{
    const int layout = layout_of(c->net);
    fv_tensor t;
    char name[64];
    if (layout < 0)
        return fv_fail(c->ctx, FV_ERR_MODEL, "convert: no features of VGG-16 or AlexNet: "
                       "features.0.weight is missing");
    c->cfg.is_dists = fv_model_find(c->weights, "alpha", &t);
    lin_name(c->weights, 0, name);
    if (!c->cfg.is_dists && !fv_model_find(c->weights, name, &t))
        return fv_fail(c->ctx, FV_ERR_MODEL, "convert: neither %s of LPIPS nor alpha of DISTS is "
                       "there: name the file that has them (--weights)", name);
    feature_name(name, layout, &(fvi_feature_layer){ 0 }, "weight");
    (void)fv_model_find(c->net, name, &t);
    c->cfg.is_alex = t.dim[2] == 11;
    c->layers = fvi_feature_layers(&c->cfg, &c->layer);
    for (int i = 0; i < c->layers; i++) {
        feature_name(name, layout, &c->layer[i], "weight");
        if (!fv_model_find(c->net, name, &t))
            return fv_fail(c->ctx, FV_ERR_MODEL, "convert: tensor %s is missing", name);
        if (i > 0 && c->layer[i].stage == c->layer[i - 1].stage) continue;
        if (t.ndim != 4 || t.dim[0] > FVI_MAX_FEATURE_WIDTH)
            return fv_fail(c->ctx, FV_ERR_MODEL, "convert: tensor %s has not 4 dimensions of usual "
                           "size", name);
        c->cfg.width[c->layer[i].stage] = (int)t.dim[0];
    }
    return fvi_perceptual_check(c->ctx, &c->cfg);
}

/* ---- Values ---------------------------------------------------------------------------------- */

/* The tensor, of shape *t, as floats of the caller's. */
static fv_status read_values(const converter *c, const fv_model *m, const char *name, fv_tensor *t)
{
    fv_tensor from;
    FV_TRY(fv_pack_source(c->ctx, m, name, t, &from));
    FV_TRY(fv_pack_floats(c->ctx, name, t));
    const fv_status s = fv_convert(c->ctx, from.dtype, from.data, fv_tensor_count(t), FV_F32,
                                   t->data);
    if (s != FV_OK) fv_free(c->ctx, t->data);
    return s;
}

static fv_status take_features(converter *c)
{
    const int layout = layout_of(c->net);
    for (int i = 0; i < 2 * c->layers; i++) {
        const fvi_feature_layer *l = &c->layer[i / 2];
        const char *tail = i % 2 ? "bias" : "weight";
        const int in = fvi_feature_input(&c->cfg, c->layer, i / 2);
        fv_tensor t = { .ndim = i % 2 ? 1 : 4,
                        .dim = { c->cfg.width[l->stage], in, l->kernel, l->kernel } };
        char from[64], to[64];
        feature_name(from, layout, l, tail);
        feature_name(to, TORCHVISION, l, tail);
        FV_TRY(read_values(c, c->net, from, &t));
        FV_TRY(fv_pack_give(&c->pack, to, &t, c->type));
    }
    return FV_OK;
}

static fv_status put_vector(converter *c, const char *name, const float *v, int n, double scale)
{
    fv_tensor t = { .ndim = 1, .dim = { n } };
    FV_TRY(fv_pack_floats(c->ctx, name, &t));
    for (int i = 0; i < n; i++) ((float *)t.data)[i] = (float)(v[i] * scale);
    return fv_pack_give(&c->pack, name, &t, FV_F32);
}

static fv_status take_lins(converter *c)
{
    for (int k = 0; k < FVI_STAGES; k++) {
        fv_tensor t = { .ndim = 4, .dim = { 1, c->cfg.width[k], 1, 1 } };
        char from[64], to[64];
        lin_name(c->weights, k, from);
        snprintf(to, sizeof to, "lin.%d", k);
        FV_TRY(read_values(c, c->weights, from, &t));
        t.ndim = 1;
        t.dim[0] = c->cfg.width[k];
        FV_TRY(fv_pack_give(&c->pack, to, &t, FV_F32));
    }
    return FV_OK;
}

/* alpha and beta divided by the sum of both, by stages */
static fv_status put_stages(converter *c, const fv_tensor v[2])
{
    double sum = 0;
    for (int i = 0; i < 2; i++)
        for (int64_t j = 0; j < v[i].dim[1]; j++) sum += ((const float *)v[i].data)[j];
    if (!isfinite(sum) || fabs(sum) < 1e-6)
        return fv_fail(c->ctx, FV_ERR_NUMERIC, "convert: alpha and beta sum to %g: they cannot be "
                       "weights", sum);
    for (int i = 0; i < 2; i++) {
        const float *at = v[i].data;
        for (int k = 0; k < fvi_perceptual_stages(&c->cfg); k++) {
            const int n = fvi_perceptual_width(&c->cfg, k);
            char name[64];
            snprintf(name, sizeof name, "%s.%d", i ? "beta" : "alpha", k);
            FV_TRY(put_vector(c, name, at, n, 1 / sum));
            at += n;
        }
    }
    return FV_OK;
}

static fv_status take_alpha_beta(converter *c)
{
    fv_tensor v[2] = { { 0 }, { 0 } };
    fv_status s = FV_OK;
    int channels = 0;
    for (int k = 0; k < fvi_perceptual_stages(&c->cfg); k++)
        channels += fvi_perceptual_width(&c->cfg, k);
    for (int i = 0; i < 2 && s == FV_OK; i++) {
        v[i] = (fv_tensor){ .ndim = 4, .dim = { 1, channels, 1, 1 } };
        s = read_values(c, c->weights, i ? "beta" : "alpha", &v[i]);
        if (s != FV_OK) v[i].data = NULL;
    }
    if (s == FV_OK) s = put_stages(c, v);
    for (int i = 0; i < 2; i++) fv_free(c->ctx, v[i].data);
    return s;
}

static fv_status put_meta(converter *c)
{
    const fvi_perceptual_config *g = &c->cfg;
    fv_meta meta = { 0 };
    fv_status s = fv_meta_add(c->ctx, &meta, "fovea.kind", "perceptual");
    if (s == FV_OK) s = fv_meta_add_number(c->ctx, &meta, "fovea.version", FVI_PERCEPTUAL_VERSION);
    if (s == FV_OK)
        s = fv_meta_add(c->ctx, &meta, "fovea.perceptual.metric", g->is_dists ? "dists" : "lpips");
    if (s == FV_OK)
        s = fv_meta_add(c->ctx, &meta, "fovea.perceptual.net", g->is_alex ? "alexnet" : "vgg16");
    for (int k = 0; k < FVI_STAGES && s == FV_OK; k++) {
        char key[40];
        snprintf(key, sizeof key, "fovea.perceptual.width%d", k);
        s = fv_meta_add_number(c->ctx, &meta, key, g->width[k]);
    }
    if (s == FV_OK) s = fv_meta_write(&meta, c->pack.writer);
    fv_meta_free(c->ctx, &meta);
    return s;
}

/* The means and deviations of pictures that the features were trained on: LPIPS's for [-1, 1]. */
static fv_status put_input(converter *c)
{
    static const float lpips[2][3] = { { -0.030f, -0.088f, -0.188f }, { 0.458f, 0.448f, 0.450f } };
    static const float dists[2][3] = { { 0.485f, 0.456f, 0.406f }, { 0.229f, 0.224f, 0.225f } };
    const float(*v)[3] = c->cfg.is_dists ? dists : lpips;
    FV_TRY(put_vector(c, "input.shift", v[0], 3, 1));
    return put_vector(c, "input.scale", v[1], 3, 1);
}

static fv_status run(converter *c)
{
    FV_TRY(read_config(c));
    FV_TRY(refuse_extra(c));
    FV_TRY(fv_pack_create(c->ctx, &c->pack));
    FV_TRY(put_meta(c));
    FV_TRY(put_input(c));
    FV_TRY(take_features(c));
    return c->cfg.is_dists ? take_alpha_beta(c) : take_lins(c);
}

fv_status fv_perceptual_convert(fv_ctx *ctx, const fv_model *net, const fv_model *weights,
                                fv_dtype type, const char *out_path, int overwrite)
{
    if (!net || !out_path)
        return fv_fail(ctx, FV_ERR_ARG, "convert: no input model or no output path");
    if (type != FV_F32 && type != FV_BF16 && type != FV_I8)
        return fv_fail(ctx, FV_ERR_DTYPE, "convert: the output type must be f32, bf16 or int8");
    converter c = { .ctx = ctx, .net = net, .weights = weights ? weights : net, .type = type };
    fv_status s = run(&c);
    if (s == FV_OK) s = fv_model_writer_finish(c.pack.writer, out_path, overwrite);
    fv_pack_free(&c.pack);
    return s;
}
