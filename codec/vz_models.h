/* vz_models.h - private: models that calls share, and which of them a frame needs (vz_models.c). */
#ifndef VZ_MODELS_H
#define VZ_MODELS_H

#include "vz_model.h"

/* NULL: the library's own, which may be missing: NULL. */
const vz_model *vz_model_of(const fv_vzip_model *m);
/* NULL: it is not at hand. Calls limits->find_model, so on the caller's thread only. */
const vz_model *vz_model_find(const fv_vzip_limits *limits, uint32_t id, uint64_t hash);
/* The model of a frame, NULL if it names none; FV_ERR_MODEL: it is not at hand. */
fv_status vz_model_take(fv_ctx *ctx, const fv_vzip_limits *limits, const vz_header *h,
                        vz_prior *out);

#endif
