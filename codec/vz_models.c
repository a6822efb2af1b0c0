/* vz_models.c - which model a frame needs, and whether it is at hand. */
#include "vz_model.h"

fv_status vz_prior_take(fv_ctx *ctx, const vz_header *h, vz_prior *out)
{
    const vz_model *m = vz_prime_model();
    *out = (vz_prior){m, 0, 0};
    for (int i = 0; i < h->models; i++) {
        if (m && i == 0 && h->model[i].id == m->id && h->model[i].hash == vz_model_short_hash(m))
            continue;
        return fv_fail(ctx, FV_ERR_MODEL,
                       "made with the trained model %08lx (hash %016llx), which this program does "
                       "not have: it is the file %08lx-%016llx.vzm",
                       (unsigned long)h->model[i].id, (unsigned long long)h->model[i].hash,
                       (unsigned long)h->model[i].id, (unsigned long long)h->model[i].hash);
    }
    return FV_OK;
}
