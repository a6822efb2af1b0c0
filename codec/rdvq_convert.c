/* rdvq_convert.c - checkpoints of the published RDVQ code to our model file.
 *
 * Sources: {model, optimizer, discriminator, ..., steps, args}, of which `model` counts, or a bare
 * state; names with or without "module." and "_orig_mod.". Sizes come from the shapes. Our networks
 * of the published geometry have the published names and layouts (rdvq_net.c, rdvq_entropy.c), so
 * every tensor is taken as it is; it must be there, of its shape, finite, and nothing else may be:
 * a name that is not understood may be a part that would silently be left out, as the attention
 * blocks that the code can have but no published model does.
 *
 * What no tensor tells is what the published code fixes: 32 groups of a norm, slices of 4, 8 and
 * 16, the strict mask. The padding token, for which that code takes the code nearest to zero, all of
 * which are as near up to rounding, is the shortest code before normalisation. */
#include "rdvq_convert.h"

#include <string.h>

#include "fovea_codec.h"

#define MAX_TENSORS 65536
#define ENTROPY "quantize.condition_entropy_small."

typedef struct converter {
    fv_ctx *ctx;
    const fv_model *in;
    const char *prefix; /* of all names of the network */
} converter;

static const char *const prefixes[] = {
    "model.",  "model.module.",  "model._orig_mod.",  "model.module._orig_mod.",
    "model._orig_mod.module.", "", "module.", "_orig_mod.", "module._orig_mod.",
    "_orig_mod.module."
};

/* ---- Names ----------------------------------------------------------------------------------- */

static bool find(const fv_model *m, const char *prefix, const char *name, fv_tensor *t)
{
    char full[256];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    return fv_model_find(m, full, t);
}

/* NULL: no such checkpoint. The three scales tell it from other autoencoders. */
static const char *find_prefix(const fv_model *m)
{
    fv_tensor t;
    for (size_t i = 0; i < FV_ARRAY_LEN(prefixes); i++)
        if (find(m, prefixes[i], "quant_conv_list.s1.weight", &t) &&
            find(m, prefixes[i], "quantize.embedding.weight", &t))
            return prefixes[i];
    return NULL;
}

int fv_rdvq_is_checkpoint(const fv_model *m) { return m && find_prefix(m) != NULL; }

static bool has(const converter *c, const char *fmt, int i, int j)
{
    char name[128];
    fv_tensor t;
    snprintf(name, sizeof name, fmt, i, j);
    return find(c->in, c->prefix, name, &t);
}

/* ---- Sizes ----------------------------------------------------------------------------------- */

/* Size `axis` of a tensor of ndim dimensions; fmt may name up to one level. */
static fv_status size_of(const converter *c, const char *fmt, int i, int ndim, int axis, int *out)
{
    char name[128];
    fv_tensor t;
    snprintf(name, sizeof name, fmt, i);
    if (!find(c->in, c->prefix, name, &t))
        return fv_fail(c->ctx, FV_ERR_MODEL, "convert: tensor %s%s is missing", c->prefix, name);
    if (t.ndim != ndim || t.dim[axis] < 1 || t.dim[axis] > RDVQ_MAX_CODES)
        return fv_fail(c->ctx, FV_ERR_MODEL, "convert: tensor %s%s has not %d dimensions of usual "
                       "size", c->prefix, name, ndim);
    *out = (int)t.dim[axis];
    return FV_OK;
}

static fv_status read_levels(const converter *c, rdvq_config *g)
{
    while (g->levels < RDVQ_MAX_LEVELS &&
           has(c, "encoder.down.%d.block.0.conv1.weight", g->levels, 0))
        g->levels++;
    for (int i = 0; i < g->levels; i++) {
        FV_TRY(size_of(c, "encoder.down.%d.block.0.conv1.weight", i, 4, 0, &g->enc_width[i]));
        FV_TRY(size_of(c, "decoder.up.%d.block.0.conv1.weight", i, 4, 0, &g->dec_width[i]));
        int *const e = &g->enc_blocks[i], *const d = &g->dec_blocks[i];
        while (*e < RDVQ_MAX_BLOCKS && has(c, "encoder.down.%d.block.%d.conv1.weight", i, *e)) ++*e;
        while (*d < RDVQ_MAX_BLOCKS && has(c, "decoder.up.%d.block.%d.conv1.weight", i, *d)) ++*d;
    }
    return FV_OK;
}

static fv_status read_config(const converter *c, int norm_groups, rdvq_config *g)
{
    *g = (rdvq_config){ .name = "rdvq-official", .is_official = 1, .groups = 1, .strict_mask = 1,
                        .norm_groups = norm_groups, .slices = { 4, 8, 16 } };
    FV_TRY(read_levels(c, g));
    FV_TRY(size_of(c, "quant_conv_list.s1.weight", 0, 4, 1, &g->head));
    FV_TRY(size_of(c, "quantize.embedding.weight", 0, 2, 0, &g->codes));
    FV_TRY(size_of(c, "quantize.embedding.weight", 0, 2, 1, &g->code_width));
    if (!has(c, ENTROPY "input_proj.weight", 0, 0))
        return fv_fail(c->ctx, FV_ERR_MODEL, "convert: the checkpoint has no entropy model "
                       "(%s" ENTROPY "input_proj.weight is missing): take one of a later stage",
                       c->prefix);
    FV_TRY(size_of(c, ENTROPY "input_proj.weight", 0, 2, 0, &g->width));
    while (g->depth <= RDVQ_MAX_DEPTH &&
           has(c, ENTROPY "transformer.layers.%d.attention.wqkv.weight", g->depth, 0))
        g->depth++;
    FV_TRY(size_of(c, ENTROPY "transformer.layers.%d.attention.scale_mul_1H11", 0, 4, 1,
                   &g->heads));
    FV_TRY(size_of(c, ENTROPY "transformer.layers.%d.feed_forward.w1.weight", 0, 2, 0, &g->ffn));
    return rdvq_config_check(c->ctx, g);
}

/* ---- Values ---------------------------------------------------------------------------------- */

/* The first of the shortest codes [codes, width]. */
static int shortest_code(const float *code, const rdvq_config *g)
{
    double least = 0;
    int best = 0;
    for (int v = 0; v < g->codes; v++, code += g->code_width) {
        double sum = 0;
        for (int i = 0; i < g->code_width; i++) sum += (double)code[i] * code[i];
        if (v > 0 && sum >= least) continue;
        least = sum;
        best = v;
    }
    return best;
}

static fv_status take(const converter *c, fv_pack *p, const char *name, fv_tensor t, fv_dtype type,
                      rdvq_config *g)
{
    static const char codes[] = RDVQ_PREFIX "quantize.embedding.weight";
    fv_tensor from;
    char full[256];
    snprintf(full, sizeof full, "%s%s", c->prefix, name + strlen(RDVQ_PREFIX));
    FV_TRY(fv_pack_source(c->ctx, c->in, full, &t, &from));
    FV_TRY(fv_pack_floats(c->ctx, full, &t));
    const fv_status s = fv_convert(c->ctx, from.dtype, from.data, fv_tensor_count(&t), FV_F32,
                                   t.data);
    if (s != FV_OK) fv_free(c->ctx, t.data);
    FV_TRY(s);
    if (strcmp(name, codes) == 0) g->pad_token = shortest_code(t.data, g);
    return fv_pack_give(p, name, &t, type);
}

/* Every name that begins as the network's is one of its parameters, or of no use. */
static fv_status refuse_extra(const converter *c, const fv_params *params)
{
    const size_t n = strlen(c->prefix);
    if (fv_model_count(c->in) > MAX_TENSORS)
        return fv_fail(c->ctx, FV_ERR_LIMIT, "convert: %d tensors are more than an RDVQ has",
                       fv_model_count(c->in));
    for (int i = 0; i < fv_model_count(c->in); i++) {
        const char *name = fv_model_name(c->in, i);
        char own[512];
        if (strncmp(name, c->prefix, n) != 0 || strcmp(name + n, "quantize.codebook_used") == 0)
            continue;
        snprintf(own, sizeof own, RDVQ_PREFIX "%s", name + n);
        if (fv_params_find(params, own) < 0)
            return fv_fail(c->ctx, FV_ERR_MODEL, "convert: tensor \"%.200s\" does not belong to an "
                           "RDVQ of this size", name);
    }
    return FV_OK;
}

static fv_status pack_all(const converter *c, fv_pack *p, rdvq_config *g, const fv_params *params,
                          fv_dtype type)
{
    fv_meta meta;
    const int count = fv_params_count(params);
    for (int i = 0; i < count; i++) {
        FV_TRY(fv_report(c->ctx, "converting", (uint64_t)i, (uint64_t)count, NULL));
        FV_TRY(take(c, p, fv_params_name(params, i), fv_params_tensor(params, i), type, g));
    }
    FV_TRY(rdvq_config_meta(c->ctx, g, &meta));
    fv_status s = fv_meta_add(c->ctx, &meta, "fovea.source", "official RDVQ checkpoint");
    if (s == FV_OK) s = fv_meta_write(&meta, p->writer);
    fv_meta_free(c->ctx, &meta);
    return s;
}

fv_status rdvq_convert_official(fv_ctx *ctx, const fv_model *in, int norm_groups, fv_dtype type,
                                const char *out_path, int overwrite)
{
    const converter c = { ctx, in, find_prefix(in) };
    fv_params *params = NULL;
    fv_pack pack = { 0 };
    rdvq_config g;
    fv_status s;
    if (!c.prefix)
        return fv_fail(ctx, FV_ERR_MODEL, "convert: the input is not an RDVQ checkpoint");
    FV_TRY(read_config(&c, norm_groups, &g));
    rdvq_net *n = fv_calloc(ctx, 1, sizeof *n);
    if (!n) return FV_ERR_OOM;
    FV_TRY_GOTO(fv_params_create(ctx, &params)); /* shapes only: never allocated */
    rdvq_net_add(n, params, &g, RDVQ_PREFIX, 0);
    if (n->head < 0) FV_TRY_GOTO(fv_params_alloc(params)); /* the failure that stuck */
    FV_TRY_GOTO(refuse_extra(&c, params));
    FV_TRY_GOTO(fv_pack_create(ctx, &pack));
    FV_TRY_GOTO(pack_all(&c, &pack, &g, params, type));
    FV_TRY_GOTO(fv_model_writer_finish(pack.writer, out_path, overwrite));
fail:
    fv_pack_free(&pack);
    fv_params_destroy(&params);
    fv_free(ctx, n);
    return s;
}
