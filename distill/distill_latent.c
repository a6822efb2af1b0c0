/* distill_latent.c - pictures of latent models: an autoencoder makes latents of the batch, and
 * pictures of samples. Latents are not kept: pictures are turned and cut anew each time, and those of
 * a large set would not fit. On a device they are made there and come to the host, which adds the
 * noise. */
#include "distill_net.h"

#include <string.h>

static bool has_inside(const fv_model *m)
{
    for (int i = 0; i < fv_model_count(m); i++)
        if (strncmp(fv_model_name(m, i), "vae.", 4) == 0) return true;
    return false;
}

/* *out NULL: the file has none. */
static fv_status open_one(distill_nets *n, const fv_model *m, fv_dtype precision, fv_vae **out,
                          fv_vae_info *info)
{
    const bool inside = has_inside(m);
    *out = NULL;
    memset(info, 0, sizeof *info);
    if (!inside && m == n->file) return FV_OK;
    FV_TRY(fv_vae_open(n->ctx, out, m, inside ? "vae." : "", precision));
    fv_vae_get_info(*out, info);
    return FV_OK;
}

fv_status distill_open_vae(distill_nets *n, const fv_model *file, fv_dtype precision)
{
    const fv_dit_sizes *s = &n->teacher_size;
    fv_vae_info info;
    if (!s->is_official) {
        if (!file) return FV_OK;
        return fv_fail(n->ctx, FV_ERR_ARG, "distill: %s works on pictures and takes no vae",
                       fv_dit_net_name(n->teacher));
    }
    FV_TRY(open_one(n, file ? file : n->file, precision, &n->vae, &info));
    if (!info.can_encode)
        return fv_fail(n->ctx, FV_ERR_MODEL, "distill: %s is trained on latents, and %s has no "
                       "encoder that makes them of pictures: give the whole autoencoder as vae",
                       fv_dit_net_name(n->teacher), file ? "the vae" : "its file");
    if (info.latent_channels != s->channels)
        return fv_fail(n->ctx, FV_ERR_MODEL, "distill: the vae makes latents of %d channels, %s "
                       "takes %d", info.latent_channels, fv_dit_net_name(n->teacher), s->channels);
    n->picture_size = s->input_size * info.factor;
    n->shows = n->vae;
    if (info.can_decode || !file) return FV_OK;
    FV_TRY(open_one(n, n->file, precision, &n->decoder, &info));
    n->shows = info.can_decode && info.latent_channels == s->channels ? n->decoder : NULL;
    return FV_OK;
}

fv_status distill_encode(distill_nets *n, const float *pictures, const float **x)
{
    const size_t all = (size_t)n->batch.count * (size_t)n->batch.values;
    *x = pictures;
    if (!n->vae) return FV_OK;
    if (!n->latent && !(n->latent = fv_calloc(n->ctx, all, sizeof(float)))) return FV_ERR_OOM;
    *x = n->latent;
    return fv_vae_encode(n->ctx, n->vae, pictures, n->batch.count, n->picture_size, n->picture_size,
                         n->latent);
}
