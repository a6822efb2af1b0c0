/* rdvq_convert.h - private: published checkpoints (rdvq_convert.c). */
#ifndef FV_RDVQ_CONVERT_H
#define FV_RDVQ_CONVERT_H

#include "rdvq.h"

#define RDVQ_NORM_GROUPS 32 /* of the published code */
/* What fv_rdvq_convert does with such a checkpoint; norm_groups: other widths need others. */
fv_status rdvq_convert_official(fv_ctx *ctx, const fv_model *in, int norm_groups, fv_dtype type,
                                const char *out_path, int overwrite);

#endif
