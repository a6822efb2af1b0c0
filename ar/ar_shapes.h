/* ar_shapes.h - configuration of a GPT from tensor shapes, for ar_config.c and ar_convert.c. */
#ifndef FV_AR_SHAPES_H
#define FV_AR_SHAPES_H

#include "internal.h"

/* Shapes that fix an official GPT (data is not read); ndim 0: the file does not have it. */
typedef struct gpt_shapes {
    fv_tensor tokens;       /* [codes, width]                  */
    fv_tensor gate;         /* [ffn, width]                    */
    fv_tensor classes;      /* c2i: [classes + 1, width]       */
    fv_tensor null_caption; /* t2i: [tokens, caption width]    */
    fv_tensor freqs;        /* [cond_tokens + grid*grid, ...]  */
    int layers;
} gpt_shapes;

/* `hints` (may be NULL) may carry what shapes do not tell: metadata heads, grid, rms_norm_eps. Sets
 * gpt, name and has_gpt. */
fv_status gpt_config_from_shapes(fv_ctx *ctx, const gpt_shapes *s, const fv_model *hints,
                                 ar_config *out);

#endif
