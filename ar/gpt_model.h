/* gpt_model.h - the GPT and its draft head as tape code: training, and inference of whole sequences
 * (tests, the draft's training data). Step by step decoding with caches is ar_net.c. */
#ifndef FV_GPT_MODEL_H
#define FV_GPT_MODEL_H

#include "internal.h"

/* Parameters of one decoder layer: layers.{i}.attention_norm.weight, .attention.wqkv.weight [3d, d]
 * (q, k, v stacked), .attention.wo.weight, .ffn_norm.weight, .feed_forward.w1 (gate), w3, w2. */
typedef struct gpt_layer {
    fv_pid norm1, qkv, wo, norm2, w1, w3, w2; /* norm1 -1: the draft's layer has none */
} gpt_layer;

typedef struct gpt_net {
    gpt_config cfg;
    fv_params *params;
    fv_pid tokens;           /* tok_embeddings.weight [V, d]                                     */
    fv_pid classes;          /* c2i: cls_embedding.embedding_table.weight [classes + 1, d]       */
    fv_pid fc1, fc2;         /* t2i: cls_embedding.cap_proj.fc1.weight, .fc2.weight              */
    fv_pid null_caption;     /* t2i: cls_embedding.uncond_embedding [cond_tokens, caption_width] */
    fv_pid norm, head;       /* norm.weight, output.weight [V, d]                                */
    gpt_layer *layer;
} gpt_net;

/* What stays the same from file to file: names and shapes, no values (fv_params_alloc or _load). */
fv_status gpt_net_create(fv_ctx *ctx, gpt_net *n, const gpt_config *c);
void gpt_net_destroy(fv_ctx *ctx, gpt_net *n);
/* N(0, 0.02), norms one, head zero. Needs fv_params_alloc. */
void gpt_net_init(gpt_net *n, uint64_t seed);
/* Angles [cond_rows + tokens, 2, head/2] for fv_rope_pairs: rows of a condition are zero, cosines
 * too. */
void gpt_rope(const gpt_config *c, int cond_rows, float *table);

/* Condition rows [B, n, d]: of labels [B] i32 (n 1; the null class is cfg.classes), or of text
 * features [B, n, caption_width] without their padding. Padding of a caption is left out: nothing
 * sees it, and condition rows have no position. */
fv_t gpt_classes(fv_tape *t, const gpt_net *n, fv_t labels);
fv_t gpt_captions(fv_tape *t, const gpt_net *n, fv_t features);
/* Condition [B, n, d] and tokens [B * m] i32 (0: none) -> features [B, n + m, d] after the last
 * norm, in the tape's precision. rope: input [n + m, 2, head/2]. */
fv_t gpt_features(fv_tape *t, const gpt_net *n, fv_t cond, fv_t tokens, fv_t rope);
/* [B, T, d] -> f32 [B * T, V] */
fv_t gpt_logits(fv_tape *t, const gpt_net *n, fv_t features);

/* ---- The draft head (EAGLE) ------------------------------------------------------------------ */

typedef struct draft_net {
    gpt_config cfg; /* the target's */
    fv_params *params;
    fv_pid embed;         /* embed_tokens.weight [V, d], frozen           */
    fv_pid fc_w, fc_b;    /* fc.weight [d, 2d]: embedding first; fc.bias */
    fv_pid head;          /* head.weight [V, d], frozen: the target's; in training only, else -1 */
    gpt_layer layer;      /* layers.0.*, without attention_norm                                  */
} draft_net;

/* with_head: for training, where the target's head is part of the loss; table and head are then the
 * target's and stay out of an export. */
fv_status draft_net_create(fv_ctx *ctx, draft_net *n, const gpt_config *c, bool with_head);
void draft_net_destroy(draft_net *n);
void draft_net_init(draft_net *n, uint64_t seed);
/* Pairs (token, feature of the position before it) -> guessed features f32 [B, T, d]. tokens
 * [B * T] i32, feature f32 [B, T, d]; rope [T, 2, head/2] of the tokens' cells. */
fv_t draft_features(fv_tape *t, const draft_net *n, fv_t tokens, fv_t feature, fv_t rope);
/* By the target's head: f32 [B * T, V]. */
fv_t draft_logits(fv_tape *t, const draft_net *n, fv_t features);

#endif
