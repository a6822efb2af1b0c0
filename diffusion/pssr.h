/* pssr.h - private: speculative super-resolution in pixel space (PS-SR, Wu et al., CVPR 2026),
 * shared by diffusion/pssr_*.c.
 *
 *     picture --bicubic--> x_L [H, W, 3] in [-1, 1] --unshuffle--> z_L [H/4, W/4, 48]
 *     base: one step of the flow from z_L;  draft: small steps after it, with the base's features
 *     shuffle back, frequency-domain update of base and last draft (fdu.c)
 *
 * The path is straight and without noise: z(s) = (1 - s) z_H + s z_L, from s = 1; the networks
 * estimate v = z_L - z_H. With the times s_0 = 1 > s_1 > ... of the model, v_0 from the base and v_k
 * from the draft:
 *
 *     zhat_k = z_k - s_k v_k                  estimate of z_H; all are trained, 0 and the last decoded
 *     z_{k+1} = z_k - (s_k - s_{k+1}) v_k     next state; z_0 = z_L
 *
 * Network, C channels on the grid of z, stream x. Modulation rows as in Wan2.1:
 *
 *     stem    conv 3x3; the draft's reads its state and z_L, the base's z_L, which is its state
 *     block   x += gate1 mix(LN(x) (1 + scale1) + shift1)
 *             x += gate2 down(gelu(up(LN(x) (1 + scale2) + shift2)))
 *             mix: conv 3x3; in every fourth block attention in windows of 8x8, heads of 32, q and k
 *             normed over C, 2-D rotary embedding, every other such block shifted by 4
 *     head    LN with shift and scale, conv 3x3 -> v
 *     time    sinusoids of 1000 s -> C -> C -> 6C, plus a table of each block
 *     draft   copies of the base's blocks 3j + 2, each behind x = W_f F_j + W_x x + b, where F_j is
 *             the base's stream before block 3j + 2
 *
 * What does not depend on the step is computed once: W_f F_j + b and the stem of z_L [pssr_once].
 *
 * Parameters: the specification's table less the second half of the base's stem, 48 * 9 C: its base
 * has weights W1 for the state and W2 for z_L, which are equal there, so that only W1 + W2 counts;
 * here it is one matrix. The draft's are those of the table. nano 188,016 + 111,024, tiny 679,088 +
 * 348,976, small 4,897,968 + 2,113,200, large 10,898,160 + 4,607,472.
 *
 * pssr_config.c: config, presets, metadata. pssr_net.c: the networks as tape code, the same for
 * training and use. */
#ifndef FV_PSSR_H
#define FV_PSSR_H

#include "engine.h"
#include "fovea_diffusion.h"

#define PSSR_PATCH 4
#define PSSR_STATE 48          /* 3 * PSSR_PATCH^2 */
#define PSSR_WINDOW 8
#define PSSR_HEAD 32
#define PSSR_ATTEND 4          /* every fourth block */
#define PSSR_SINUSOIDS 128
#define PSSR_EPS 1e-6f         /* of all norms */
#define PSSR_GATE 0.1f         /* of all blocks at first */
#define PSSR_MAX_CHANNELS 1024
#define PSSR_MAX_BLOCKS 64
#define PSSR_MAX_TIMES 8

/* ---- Config (pssr_config.c) ------------------------------------------------------------------ */

typedef struct pssr_config {
    char name[64];
    int channels, blocks;       /* channels a multiple of PSSR_HEAD, blocks one of `every` */
    int every;                  /* draft block j is base block every * j + every - 1 */
    int times;                  /* of the base and of each draft step */
    float time[PSSR_MAX_TIMES]; /* s_0 = 1 > s_1 > ... > 0 */
    int own_steps;              /* steps where none are asked for, 1..times; 0 = all */
    float alpha;                /* default of the frequency-domain update */
    fv_fdu_mode fdu;
    bool is_video;              /* trained on clips: frames see the one before [pssr_shift] */
} pssr_config;

/* nano tiny small large, with or without "pssr-" in front; "-video" behind it sets is_video */
fv_status pssr_preset(fv_ctx *ctx, const char *name, pssr_config *out);
fv_status pssr_config_check(fv_ctx *ctx, const pssr_config *c);
/* From metadata (fovea.kind = pssr); every number is checked. FV_ERR_MODEL for another kind. */
fv_status pssr_config_read(fv_ctx *ctx, const fv_model *m, pssr_config *out);
/* Metadata that pssr_config_read understands; free it with fv_meta_free. */
fv_status pssr_config_meta(fv_ctx *ctx, const pssr_config *c, fv_meta *out);

int pssr_draft_blocks(const pssr_config *c);
/* Base block that draft block j is a copy of. */
int pssr_kept_block(const pssr_config *c, int j);
bool pssr_attends(int base_block);
/* How far windows of that base block begin before the map: 0 or 4. */
int pssr_window_shift(int base_block);
/* Channels that a block takes from the frame before. */
int pssr_shift_channels(const pssr_config *c);
/* Blocks of a step: of the base for step 0. */
int pssr_step_blocks(const pssr_config *c, int step);

/* ---- Networks (pssr_net.c) ------------------------------------------------------------------- */

typedef struct pssr_layer { fv_pid w, b; } pssr_layer; /* -1: not there */
typedef struct pssr_block {
    int origin;                  /* base block: kind and shift */
    fv_pid table;                /* [6, C]: shift1 scale1 gate1 shift2 scale2 gate2 */
    pssr_layer conv;             /* mix of a convolution */
    pssr_layer qkv, out;         /* mix of an attention: qkv [3C, C] */
    fv_pid q_norm, k_norm;       /* [C] */
    pssr_layer up, down;
    pssr_layer feature;          /* draft: W_f and b */
    fv_pid stream;               /* draft: W_x */
} pssr_block;
typedef struct pssr_half {
    int blocks;
    pssr_layer stem;             /* of z_L, with the bias */
    fv_pid stem_state;           /* draft: of the state */
    pssr_layer time0, time1, time_mod;
    pssr_block block[PSSR_MAX_BLOCKS];
    fv_pid head_table;           /* [2, C]: shift, scale; the embedded time is added to both */
    pssr_layer head;
} pssr_half;
typedef struct pssr_net {
    pssr_config cfg;
    fv_params *params;
    pssr_half base, draft;
} pssr_net;

enum { PSSR_BASE = 1, PSSR_DRAFT = 2, PSSR_FEATURES = 4 };
/* Registers the parameters of `parts` as PREFIX base.* and PREFIX draft.*; `frozen` parts get no
 * gradients; PSSR_FEATURES, frozen only: what mixes the base's features into the draft. params may
 * hold others; a failed add sticks in it. c must have passed pssr_config_check. */
void pssr_net_add(pssr_net *n, fv_params *params, const pssr_config *c, const char *prefix,
                  unsigned parts, unsigned frozen);
/* Start of a training, needs fv_params_alloc: heads are zero, so that v = 0 and the result is the
 * input; gates PSSR_GATE. Parts that are not there are left out. */
void pssr_net_init(pssr_net *n, uint64_t seed);
/* The draft from the base: its blocks, time, head; half of the stem for the state and half for z_L;
 * fusion 0.5 I on each side. */
void pssr_draft_init(pssr_net *n);
/* Mixes nothing of the base's features into the draft: an ablation, with PSSR_FEATURES frozen. is_new:
 * after pssr_draft_init, whose other half of each mix becomes the whole. */
void pssr_draft_alone(pssr_net *n, bool is_new);
int64_t pssr_count(const pssr_net *n, unsigned part);

/* Tables that the tape reads, for batches of B, in device memory: bind to each plan. */
typedef struct pssr_tables {
    int times;
    float *rope;                 /* [64, 2, 16] */
    float *time[PSSR_MAX_TIMES]; /* [B, PSSR_SINUSOIDS] */
} pssr_tables;
fv_status pssr_tables_create(fv_ctx *ctx, pssr_tables *out, const pssr_config *c, int64_t B);
void pssr_tables_free(fv_ctx *ctx, pssr_tables *t);
/* Of the tables that the plan has. */
fv_status pssr_tables_bind(const pssr_tables *tables, fv_plan *p);

/* One tape's view of the net: inputs "pssr.rope", "pssr.time.K" and the modulations of the steps 0
 * (base) to `drafts`, shared by all calls on it. */
typedef struct pssr_graph {
    fv_tape *tape;
    const pssr_net *net;
    int64_t B;
    fv_t rope;
    fv_t time[PSSR_MAX_TIMES];   /* [B, C] embedded */
    fv_t mod[PSSR_MAX_TIMES];    /* [B, 6C] */
} pssr_graph;
void pssr_graph_begin(pssr_graph *g, fv_tape *t, const pssr_net *n, int64_t B, int drafts);

/* Video: before each mix, channels [0, C/8) are taken from the frame before, at the same place of
 * the same step. past[i] of block i: [B, h, w, C/8] f32, 0 = the frame's own (first frames, images).
 * The frame's own ones are left in next[i], for the tape or to be made outputs. take f32 [C/8], 0:
 * none: the share of past, 1 or 0, so that one plan serves first frames and others, to the bit. */
typedef struct pssr_shift {
    fv_t past[PSSR_MAX_BLOCKS], next[PSSR_MAX_BLOCKS], take;
} pssr_shift;

/* f32 picture [B, H, W, 3] <-> [B, H/4, W/4, 48], channel (4 dy + dx) 3 + colour. */
fv_t pssr_unshuffle(fv_tape *t, fv_t x);
fv_t pssr_shuffle(fv_tape *t, fv_t z);
/* v_0 of z_L f32 [B, h, w, 48], any sides. features[j], j < pssr_draft_blocks (NULL: not wanted):
 * F_j f32 [B, h*w, C]. shift may be NULL. */
fv_t pssr_base(pssr_graph *g, fv_t z_lq, fv_t *features, pssr_shift *shift);
/* What all draft steps share; no gradient flows into the features. */
typedef struct pssr_once { fv_t stem, fused[PSSR_MAX_BLOCKS]; } pssr_once;
void pssr_draft_once(pssr_graph *g, fv_t z_lq, const fv_t *features, pssr_once *out);
/* v_step, step 1 to times - 1. */
fv_t pssr_draft(pssr_graph *g, int step, fv_t state, const pssr_once *once, pssr_shift *shift);
/* zhat_k of a state and its velocity, and the next state. */
fv_t pssr_estimate(pssr_graph *g, int step, fv_t state, fv_t v);
fv_t pssr_advance(pssr_graph *g, int step, fv_t state, fv_t v);
/* All of it: zhat[0 .. drafts]. shift NULL, or of each step. */
void pssr_refine(pssr_graph *g, fv_t z_lq, int drafts, fv_t *zhat, pssr_shift *shift);
/* The same of `frames` frames of B clips, each seeing the one before as in a stream, z_lq[t] as
 * above. zhat[k] of all frames, one after another: [frames * B, h, w, 48]. One frame: pssr_refine. */
void pssr_refine_clip(pssr_graph *g, const fv_t *z_lq, int frames, int drafts, fv_t *zhat);

#endif
