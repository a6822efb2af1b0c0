/* perceptual.c - LPIPS and DISTS as tape code: a loss, and a distance between pictures.
 *
 * Both send the two pictures through the same frozen convolutions and compare what comes out of
 * five stages (op_feature_loss.c). A model file holds
 *
 *     features.N.weight, .bias     convolution N, numbered as torchvision does
 *     input.shift, input.scale     [3]: x becomes (x - shift) / scale; LPIPS x in [-1, 1], DISTS in
 *                                  [0, 1]
 *     lin.K                        LPIPS: weights of the channels of stage K = 0..4
 *     alpha.K, beta.K              DISTS: the same, K = 0 the picture, 1..5; all sum to 1
 *     fovea.kind = perceptual, fovea.version = 1, fovea.perceptual.metric = lpips | dists
 *     fovea.perceptual.net = vgg16 | alexnet  fovea.perceptual.widthK, channels of the stages
 *
 * LPIPS with VGG-16 takes its features behind ReLU 2, 4, 7, 10 and 13, DISTS too, with L2 pooling
 * in place of maxima. */
#include "perceptual.h"

#include <string.h>

#include "tape.h"

#define ALEX_SIDE 31
#define VGG_SIDE 16
#define MAX_SIDE 65536

struct fv_perceptual {
    fv_ctx *ctx;
    fvi_perceptual_config cfg;
    fv_params *params;
    fv_pid shift, scale, w[FVI_MAX_FEATURE_LAYERS], b[FVI_MAX_FEATURE_LAYERS];
    fv_pid alpha[FVI_STAGES + 1], beta[FVI_STAGES + 1]; /* LPIPS: alpha alone */
    fv_plan *plan;
    float *pixels[2], *row;
    int width, height; /* of the plan */
};

/* ---- Sizes ----------------------------------------------------------------------------------- */

int fvi_feature_layers(const fvi_perceptual_config *c, const fvi_feature_layer **out)
{
    static const fvi_feature_layer vgg[] = {
        { 0, 0, 3, 1, 1 },  { 2, 0, 3, 1, 1 },  { 5, 1, 3, 1, 1 },  { 7, 1, 3, 1, 1 },
        { 10, 2, 3, 1, 1 }, { 12, 2, 3, 1, 1 }, { 14, 2, 3, 1, 1 }, { 17, 3, 3, 1, 1 },
        { 19, 3, 3, 1, 1 }, { 21, 3, 3, 1, 1 }, { 24, 4, 3, 1, 1 }, { 26, 4, 3, 1, 1 },
        { 28, 4, 3, 1, 1 },
    };
    static const fvi_feature_layer alex[] = {
        { 0, 0, 11, 4, 2 }, { 3, 1, 5, 1, 2 }, { 6, 2, 3, 1, 1 }, { 8, 3, 3, 1, 1 },
        { 10, 4, 3, 1, 1 },
    };
    *out = c->is_alex ? alex : vgg;
    return c->is_alex ? (int)FV_ARRAY_LEN(alex) : (int)FV_ARRAY_LEN(vgg);
}

int fvi_feature_input(const fvi_perceptual_config *c, const fvi_feature_layer *layers, int i)
{
    return i ? c->width[layers[i - 1].stage] : 3;
}

int fvi_perceptual_stages(const fvi_perceptual_config *c) { return FVI_STAGES + c->is_dists; }

int fvi_perceptual_width(const fvi_perceptual_config *c, int k)
{
    if (c->is_dists && k == 0) return 3;
    return c->width[k - c->is_dists];
}

fv_status fvi_perceptual_check(fv_ctx *ctx, const fvi_perceptual_config *c)
{
    for (int k = 0; k < FVI_STAGES; k++)
        FV_TRY(fv_meta_range(ctx, "channels of a stage", c->width[k], 1, FVI_MAX_FEATURE_WIDTH));
    if (c->is_dists && c->is_alex)
        return fv_fail(ctx, FV_ERR_MODEL, "perceptual: DISTS needs the features of VGG-16");
    return FV_OK;
}

/* ---- Model ----------------------------------------------------------------------------------- */

static fv_status read_choice(fv_ctx *ctx, const fv_model *m, const char *key,
                             const char *const name[2], bool *is_second)
{
    const char *text = fv_model_meta(m, key);
    *is_second = text && strcmp(text, name[1]) == 0;
    if (text && (*is_second || strcmp(text, name[0]) == 0)) return FV_OK;
    return fv_fail(ctx, FV_ERR_MODEL, "perceptual: metadata %s is neither %s nor %s", key, name[0],
                   name[1]);
}

static fv_status read_config(fv_ctx *ctx, const fv_model *m, fvi_perceptual_config *c)
{
    static const char *const metric[2] = { "lpips", "dists" }, *const net[2] = { "vgg16",
                                                                                 "alexnet" };
    const char *kind = fv_model_meta(m, "fovea.kind");
    int version = 0;
    memset(c, 0, sizeof *c);
    if (!kind || strcmp(kind, "perceptual") != 0)
        return fv_fail(ctx, FV_ERR_MODEL, "perceptual: the file holds %s%.40s, not weights of "
                       "LPIPS or DISTS: make one with fovea convert", kind ? "a model of kind " :
                       "no fovea model", kind ? kind : "");
    FV_TRY(fv_meta_int(ctx, m, "fovea.version", &version));
    if (version != FVI_PERCEPTUAL_VERSION)
        return fv_fail(ctx, FV_ERR_VERSION, "perceptual: format version %d, this library reads %d",
                       version, FVI_PERCEPTUAL_VERSION);
    FV_TRY(read_choice(ctx, m, "fovea.perceptual.metric", metric, &c->is_dists));
    FV_TRY(read_choice(ctx, m, "fovea.perceptual.net", net, &c->is_alex));
    for (int k = 0; k < FVI_STAGES; k++) {
        char key[40];
        snprintf(key, sizeof key, "fovea.perceptual.width%d", k);
        FV_TRY(fv_meta_int(ctx, m, key, &c->width[k]));
    }
    return fvi_perceptual_check(ctx, c);
}

static fv_pid add_vector(fv_perceptual *p, const char *fmt, int k, int64_t n)
{
    char name[40];
    snprintf(name, sizeof name, fmt, k);
    return fv_params_add(p->params, name, 1, &n, FV_PARAM_FROZEN);
}

static void add_params(fv_perceptual *p)
{
    const fvi_perceptual_config *c = &p->cfg;
    const fvi_feature_layer *layer;
    const int n = fvi_feature_layers(c, &layer);
    p->shift = add_vector(p, "input.shift", 0, 3);
    p->scale = add_vector(p, "input.scale", 0, 3);
    for (int i = 0; i < n; i++) {
        const int64_t dim[4] = { c->width[layer[i].stage], fvi_feature_input(c, layer, i),
                                 layer[i].kernel, layer[i].kernel };
        char name[40];
        snprintf(name, sizeof name, "features.%d.weight", layer[i].index);
        p->w[i] = fv_params_add(p->params, name, 4, dim, FV_PARAM_FROZEN);
        p->b[i] = add_vector(p, "features.%d.bias", layer[i].index, dim[0]);
    }
    for (int k = 0; k < fvi_perceptual_stages(c); k++) {
        const int width = fvi_perceptual_width(c, k);
        p->alpha[k] = add_vector(p, c->is_dists ? "alpha.%d" : "lin.%d", k, width);
        if (c->is_dists) p->beta[k] = add_vector(p, "beta.%d", k, width);
    }
}

fv_status fv_perceptual_open(fv_ctx *ctx, fv_perceptual **out, const fv_model *file)
{
    fvi_perceptual_config c;
    fv_status s;
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "perceptual: no place for the result");
    *out = NULL;
    if (!file) return fv_fail(ctx, FV_ERR_ARG, "perceptual: no model file");
    FV_TRY(read_config(ctx, file, &c));
    fv_perceptual *p = fv_calloc(ctx, 1, sizeof *p);
    if (!p) return FV_ERR_OOM;
    p->ctx = ctx;
    p->cfg = c;
    FV_TRY_GOTO(fv_params_create(ctx, &p->params));
    add_params(p);
    FV_TRY_GOTO(fv_params_load(p->params, file, ""));
    *out = p;
    return FV_OK;
fail:
    fv_perceptual_close(&p);
    return s;
}

static void drop_plan(fv_perceptual *p)
{
    fv_plan_destroy(&p->plan);
    for (int k = 0; k < 2; k++) {
        fv_free(p->ctx, p->pixels[k]);
        p->pixels[k] = NULL;
    }
    fv_free(p->ctx, p->row);
    p->row = NULL;
    p->width = p->height = 0;
}

void fv_perceptual_close(fv_perceptual **pp)
{
    if (!pp || !*pp) return;
    fv_perceptual *p = *pp;
    *pp = NULL;
    drop_plan(p);
    fv_params_destroy(&p->params);
    fv_free(p->ctx, p);
}

const char *fv_perceptual_name(const fv_perceptual *p)
{
    return p->cfg.is_dists ? "DISTS" : "LPIPS";
}

int fv_perceptual_side(const fv_perceptual *p) { return p->cfg.is_alex ? ALEX_SIDE : VGG_SIDE; }
fv_params *fv_perceptual_params(fv_perceptual *p) { return p->params; }

/* ---- The loss -------------------------------------------------------------------------------- */

static fv_t pool_before(fv_tape *t, const fvi_perceptual_config *c, int stage, fv_t x)
{
    if (stage == 0 || (c->is_alex && stage > 2)) return x;
    if (c->is_dists) return fvi_pool2d(t, x, FVI_POOL_L2, 3, 2);
    return fvi_pool2d(t, x, FVI_POOL_MAX, c->is_alex ? 3 : 2, 2);
}

/* x in [-1, 1] -> what is compared, f32. */
static void features(fv_tape *t, const fv_perceptual *p, fv_t x, fv_t out[FVI_STAGES + 1])
{
    const fvi_feature_layer *layer;
    const int n = fvi_feature_layers(&p->cfg, &layer);
    if (p->cfg.is_dists) *out++ = x = fv_affine(t, x, 0.5f, 0.5f);
    x = fv_binary_op(t, FV_SUB, x, fv_param(t, p->shift));
    x = fv_binary_op(t, FV_DIV, x, fv_param(t, p->scale));
    for (int i = 0; i < n; i++) {
        const fvi_feature_layer *l = &layer[i];
        const fv_conv c = { l->stride, l->pad, l->pad, l->pad, l->pad, FV_ACT_RELU };
        const bool is_last = i + 1 == n || layer[i + 1].stage != l->stage;
        if (i > 0 && layer[i - 1].stage != l->stage) x = pool_before(t, &p->cfg, l->stage, x);
        x = fv_conv2d_as(t, x, p->w[i], p->b[i], c, is_last ? FV_F32 : fv_tape_precision(t));
        if (is_last) out[l->stage] = x;
    }
}

fv_t fv_loss_perceptual(fv_tape *t, const fv_perceptual *p, fv_t a, fv_t target)
{
    fv_t fa[FVI_STAGES + 1], fb[FVI_STAGES + 1], sum = 0;
    features(t, p, a, fa);
    features(t, p, fv_detach(t, target), fb);
    for (int k = 0; k < fvi_perceptual_stages(&p->cfg); k++) {
        const fv_t alpha = fv_param(t, p->alpha[k]);
        const fv_t term = p->cfg.is_dists ?
                          fvi_loss_dists(t, fa[k], fb[k], alpha, fv_param(t, p->beta[k])) :
                          fvi_loss_lpips(t, fa[k], fb[k], alpha);
        sum = sum ? fv_binary_op(t, FV_ADD, sum, term) : term;
    }
    return p->cfg.is_dists ? fv_affine(t, sum, -1.0f, 1.0f) : sum;
}

/* ---- Between pictures ------------------------------------------------------------------------ */

static fv_status make_plan(fv_perceptual *p, int width, int height)
{
    static const char *const name[2] = { "a", "b" };
    const int64_t dim[4] = { 1, height, width, 3 };
    fv_tape *t;
    fv_t x[2];
    FV_TRY(fv_tape_create(p->ctx, &t, p->params, FV_INFER, FV_F32));
    for (int k = 0; k < 2; k++) x[k] = fv_input(t, name[k], FV_F32, 4, dim);
    fv_output(t, "distance", fv_loss_perceptual(t, p, x[0], x[1]));
    FV_TRY(fv_plan_finish(p->ctx, &p->plan, &t, NULL));
    for (int k = 0; k < 2; k++) {
        p->pixels[k] = fv_calloc(p->ctx, (size_t)width * (size_t)height, 3 * sizeof(float));
        if (!p->pixels[k]) return FV_ERR_OOM;
        FV_TRY(fv_plan_bind(p->plan, name[k], p->pixels[k]));
    }
    p->row = fv_calloc(p->ctx, (size_t)width, 4 * sizeof *p->row);
    if (!p->row) return FV_ERR_OOM;
    p->width = width;
    p->height = height;
    return FV_OK;
}

/* Grey becomes colour, alpha is left out: [h, w, 3] in [-1, 1]. row: [4 w] */
static void pixels_of(const fv_image *img, float *row, float *rgb)
{
    const int channels = img->channels;
    fv_image line = *img;
    line.height = 1;
    for (int y = 0; y < img->height; y++) {
        line.pixels = (uint8_t *)img->pixels + (size_t)y * img->stride_bytes;
        fv_image_to_float(&line, -1, 1, row);
        for (int x = 0; x < img->width; x++)
            for (int c = 0; c < 3; c++) *rgb++ = row[x * channels + (channels < 3 ? 0 : c)];
    }
}

static fv_status check_pair(const fv_perceptual *p, const fv_image *a, const fv_image *b)
{
    const int least = fv_perceptual_side(p);
    if (!a || !b || !a->pixels || !b->pixels || a->width != b->width || a->height != b->height ||
        a->channels != b->channels || a->depth != b->depth)
        return fv_fail(p->ctx, FV_ERR_ARG,
                       "perceptual: the pictures differ in size, channels or depth");
    if (a->width < least || a->height < least || a->width > MAX_SIDE || a->height > MAX_SIDE)
        return fv_fail(p->ctx, FV_ERR_ARG, "perceptual: sides of %d to %d pixels are needed, these "
                       "are %d x %d", least, MAX_SIDE, a->width, a->height);
    return FV_OK;
}

fv_status fv_perceptual_distance(fv_ctx *ctx, fv_perceptual *p, const fv_image *a,
                                 const fv_image *b, double *distance)
{
    if (!distance || !p || p->ctx != ctx)
        return fv_fail(ctx, FV_ERR_ARG, "perceptual: no place for the result, or weights opened "
                       "with another context");
    *distance = 0;
    FV_TRY(check_pair(p, a, b));
    if (p->width != a->width || p->height != a->height) {
        drop_plan(p);
        const fv_status s = make_plan(p, a->width, a->height);
        if (s != FV_OK) drop_plan(p);
        FV_TRY(s);
    }
    pixels_of(a, p->row, p->pixels[0]);
    pixels_of(b, p->row, p->pixels[1]);
    FV_TRY(fv_plan_forward(p->plan));
    *distance = *(const float *)fv_plan_value(p->plan, "distance").data;
    return FV_OK;
}
