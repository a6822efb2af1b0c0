/* dit_network.c - the public handle of a network for trainers of other engines: parameters, tape
 * code, tables, model file. What it does is dit_model.c's; here it only gets a name and memory. */
#include "dit_shapes.h"

#include <string.h>

struct fv_dit_net {
    fv_ctx *ctx;
    dit_net net;
    float *pos, *rope; /* [tokens, width], [tokens, 2, head / 2] */
};

/* ---- Making ---------------------------------------------------------------------------------- */

static fv_status make(fv_ctx *ctx, fv_dit_net **out, const dit_config *c)
{
    fv_dit_net *n = fv_calloc(ctx, 1, sizeof *n);
    const size_t N = (size_t)dit_tokens(c);
    if (!n) return FV_ERR_OOM;
    n->ctx = ctx;
    fv_status s = dit_net_create(ctx, &n->net, c);
    if (s == FV_OK) {
        n->pos = fv_calloc(ctx, N * (size_t)c->width, sizeof(float));
        n->rope = fv_calloc(ctx, N * (size_t)dit_head_dim(c), sizeof(float));
        s = n->pos && n->rope ? FV_OK : FV_ERR_OOM;
    }
    if (s != FV_OK) {
        fv_dit_net_close(&n);
        return s;
    }
    dit_pos_table(c, n->pos);
    dit_rope(c, n->rope);
    *out = n;
    return FV_OK;
}

fv_status fv_dit_net_open(fv_ctx *ctx, fv_dit_net **out, const fv_model *file)
{
    dit_config c;
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "network: no place for the result");
    *out = NULL;
    if (!file) return fv_fail(ctx, FV_ERR_ARG, "network: no model file");
    FV_TRY(dit_config_read(ctx, file, "", &c));
    return make(ctx, out, &c);
}

fv_status fv_dit_net_like(fv_ctx *ctx, fv_dit_net **out, const fv_dit_net *other,
                          const fv_dit_sizes *s, const char *name)
{
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "network: no place for the result");
    *out = NULL;
    if (!other || !s) return fv_fail(ctx, FV_ERR_ARG, "network: no model to follow, or no sizes");
    FV_TRY(fv_meta_range(ctx, "width", s->width, 4, DIT_MAX_WIDTH)); /* before it is multiplied */
    dit_config c = other->net.cfg;
    c.width = s->width;
    c.depth = s->depth;
    c.heads = s->heads ? s->heads : s->width < 64 ? 1 : s->width / 64;
    c.head_dim = s->head_dim > 0 && (int64_t)s->head_dim * c.heads == s->width ? 0 : s->head_dim;
    c.hidden = s->hidden ? s->hidden : c.family == DIT_F ? swiglu_width(s->width) : 4 * s->width;
    c.patch = s->patch;
    c.bottleneck = s->bottleneck;
    c.refine = s->refine;
    if (name) fv_meta_name(name, "DiT", c.name, sizeof c.name);
    FV_TRY(dit_config_check(ctx, &c));
    return make(ctx, out, &c);
}

void fv_dit_net_close(fv_dit_net **n)
{
    if (!n || !*n) return;
    fv_ctx *ctx = (*n)->ctx;
    dit_net_destroy(ctx, &(*n)->net);
    fv_free(ctx, (*n)->pos);
    fv_free(ctx, (*n)->rope);
    fv_free(ctx, *n);
    *n = NULL;
}

/* ---- What it is ------------------------------------------------------------------------------ */

fv_params *fv_dit_net_params(const fv_dit_net *n) { return n->net.params; }

const char *fv_dit_net_name(const fv_dit_net *n) { return n->net.cfg.name; }

double fv_dit_net_flop(const fv_dit_net *n) { return dit_row_flop(&n->net); }

void fv_dit_net_get_sizes(const fv_dit_net *n, fv_dit_sizes *o)
{
    const dit_config *c = &n->net.cfg;
    *o = (fv_dit_sizes){ .width = c->width, .depth = c->depth, .heads = c->heads,
                         .head_dim = dit_head_dim(c), .hidden = c->hidden, .patch = c->patch,
                         .bottleneck = c->bottleneck, .refine = c->refine,
                         .is_official = c->family == DIT_OFFICIAL, .input_size = c->input_size,
                         .channels = c->channels, .out_channels = c->out_channels,
                         .tokens = dit_tokens(c), .classes = c->classes, .has_null = c->has_null };
}

void fv_dit_net_init(fv_dit_net *n, uint64_t seed, float out_std)
{
    dit_net_init(&n->net, seed);
    if (out_std > 0) fv_params_init_normal(n->net.params, n->net.out_w, seed, out_std);
}

/* ---- On a tape ------------------------------------------------------------------------------- */

static fv_t forward(const fv_dit_net *n, fv_tape *t, fv_t z, fv_t time, fv_t label, fv_t *hidden,
                    const fv_t *gate)
{
    const dit_config *c = &n->net.cfg;
    const int64_t N = dit_tokens(c), pos[2] = { N, c->width };
    const int64_t rope[3] = { N, 2, dit_head_dim(c) / 2 };
    const fv_t p = fv_input(t, "pos", FV_F32, 2, pos), ro = fv_input(t, "rope", FV_F32, 3, rope);
    return dit_forward_hidden(t, &n->net, z, time, label, p, ro, hidden, gate);
}

fv_t fv_dit_net_forward(const fv_dit_net *n, fv_tape *t, fv_t z, fv_t time, fv_t label,
                        fv_t *hidden)
{
    return forward(n, t, z, time, label, hidden, NULL);
}

fv_t fv_dit_net_forward_gated(const fv_dit_net *n, fv_tape *t, fv_t z, fv_t time, fv_t label,
                              const fv_t *gate)
{
    return forward(n, t, z, time, label, NULL, gate);
}

fv_status fv_dit_net_bind(const fv_dit_net *n, fv_plan *plan)
{
    FV_TRY(fv_plan_feed(plan, "pos", n->pos));
    return fv_plan_feed(plan, "rope", n->rope);
}

fv_status fv_dit_batch_create(fv_ctx *ctx, fv_dit_batch *b, const fv_dit_net *n, int count)
{
    memset(b, 0, sizeof *b);
    if (count < 1) return fv_fail(ctx, FV_ERR_ARG, "batch: it must have at least one row");
    return dit_batch_create(ctx, b, &n->net.cfg, count);
}

void fv_dit_batch_make(fv_ctx *ctx, const fv_dit_net *n, const fv_dit_draw *d,
                       const float *pictures, const int32_t *labels, uint64_t first,
                       fv_dit_batch *b)
{
    dit_batch_make(ctx, &n->net.cfg, d, pictures, labels, first, b);
}

/* ---- Pictures and files ---------------------------------------------------------------------- */

fv_status fv_dit_net_sheet(fv_ctx *ctx, const fv_dit_net *n, fv_dtype precision, int columns,
                           uint64_t seed, const char *path_stem)
{
    return dit_sample_sheet(ctx, &n->net, NULL, precision, columns, seed, path_stem);
}

fv_status fv_dit_net_latent_sheet(fv_ctx *ctx, const fv_dit_net *n, fv_vae *vae, fv_dtype precision,
                                  int columns, uint64_t seed, const char *path_stem)
{
    fv_vae_info info = { 0 };
    if (vae) fv_vae_get_info(vae, &info);
    if (!info.can_decode || info.latent_channels != n->net.cfg.channels)
        return fv_fail(ctx, FV_ERR_ARG, "sheet: no autoencoder that decodes the model's latents");
    return dit_sample_sheet(ctx, &n->net, vae, precision, columns, seed, path_stem);
}

static fv_status write_all(fv_pack *p, const fv_dit_net *n, fv_dtype type, fv_meta *m,
                           const fv_model *parts)
{
    FV_TRY(fv_meta_write(m, p->writer));
    FV_TRY(fv_pack_params(p, n->net.params, "", type));
    return parts && dit_has_decoder(parts) ? fv_pack_copy(p, parts, "vae.", "vae.") : FV_OK;
}

fv_status fv_dit_net_export(fv_ctx *ctx, const fv_dit_net *n, fv_dtype type,
                            const char *const *meta, int meta_pairs, const fv_model *parts,
                            const char *path, int overwrite)
{
    fv_meta m;
    fv_pack pack;
    FV_TRY(dit_config_meta(ctx, &n->net.cfg, &m));
    fv_status s = FV_OK;
    for (int i = 0; i < meta_pairs && s == FV_OK; i++)
        s = fv_meta_add(ctx, &m, meta[2 * i], meta[2 * i + 1]);
    if (s == FV_OK && (s = fv_pack_create(ctx, &pack)) == FV_OK) {
        s = write_all(&pack, n, type, &m, parts);
        if (s == FV_OK) s = fv_model_writer_finish(pack.writer, path, overwrite);
        fv_pack_free(&pack);
    }
    fv_meta_free(ctx, &m);
    return s;
}
