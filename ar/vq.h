/* vq.h - the VQ tokenizer as tape code: parameters, encoder, quantiser, decoder (vq_model.c). */
#ifndef FV_AR_VQ_H
#define FV_AR_VQ_H

#include "internal.h"

#define VQ_MAX_BLOCKS 16
#define VQ_NORM_EPS 1e-6f
#define VQ_UNIT_EPS 1e-12f

/* Weight and bias; -1: the layer is not there. */
typedef struct vq_layer { fv_pid w, b; } vq_layer;
typedef struct vq_res { vq_layer norm1, conv1, norm2, conv2, shortcut; } vq_res;
typedef struct vq_attn { vq_layer norm, q, k, v, proj; } vq_attn;
typedef struct vq_level {
    vq_res res[VQ_MAX_BLOCKS];
    vq_attn attn[VQ_MAX_BLOCKS];
    vq_layer step; /* halving or doubling; -1 at the last level */
} vq_level;
/* Encoder or decoder; levels in the order in which they run. */
typedef struct vq_half {
    vq_layer in, norm, out;
    vq_level level[VQ_MAX_LEVELS];
    vq_res mid[2];
    vq_attn mid_attn;
    int blocks;
} vq_half;

typedef struct vq_net {
    vq_config cfg;
    fv_params *params;
    vq_half encoder, decoder;
    vq_layer quant, post_quant;
    fv_pid codebook;
    fv_pid last; /* the parameter registered last */
} vq_net;

/* Registers the parameters under `prefix` + official names; params may hold others. A failed add
 * sticks in params: alloc and load return it. The config must have passed vq_config_check. */
void vq_net_add(vq_net *n, fv_params *params, const vq_config *c, const char *prefix);
/* Start of a training. */
void vq_net_init(vq_net *n, uint64_t seed);

/* x [B, H, W, 3] in [-1, 1] -> latents f32 [B, H/f, W/f, code_width]. */
fv_t vq_encode(fv_tape *t, const vq_net *n, fv_t x);
/* Latents -> codes of unit length, [B, h, w, code_width]; *index i32 [B*h*w]. loss (may be NULL):
 * codebook loss + beta * commitment. */
fv_t vq_quantise(fv_tape *t, const vq_net *n, fv_t z, float beta, fv_t *index, fv_t *loss);
/* index i32 [B*h*w] -> codes of unit length [B, h, w, code_width]. */
fv_t vq_lookup(fv_tape *t, const vq_net *n, fv_t index, const int64_t size[3]);
/* Codes -> picture f32 [B, f*h, f*w, 3], about [-1, 1]. */
fv_t vq_decode(fv_tape *t, const vq_net *n, fv_t q);

#endif
