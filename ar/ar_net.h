/* ar_net.h - private: the network behind ar_lm, with caches.
 *
 * ar_weights.c: weights packed for decode.h, shared by all. ar_pass.c: rows through layers, in one
 * parallel region; ar_pass_device.c: on a device. ar_net.c: images: caches, features, the draft's
 * nodes; ar_lm. */
#ifndef FV_AR_NET_H
#define FV_AR_NET_H

#include "ar_decode.h"
#include "decode_device.h"
#include "gpt_model.h"

/* ---- Weights (ar_weights.c) ------------------------------------------------------------------ */

typedef struct ar_layer {
    const float *norm1, *norm2; /* norm1 NULL: the draft's */
    fvi_dec_matrix qkv, wo, w1, w3, w2;
} ar_layer;

/* Rows of a table: f32, or bf16 where the matrices are not f32. */
typedef struct ar_table {
    const void *data;
    bool is_bf16;
    int width;
} ar_table;

typedef struct ar_weights {
    fv_ctx *ctx;
    gpt_config cfg;
    fv_dtype type; /* of the matrices */
    ar_layer *layer, draft;
    bool has_draft;
    const float *norm;
    fvi_dec_matrix head, fc, fc1, fc2;
    ar_table tokens, draft_tokens, classes, null_caption;
    const float *rope; /* [tokens][2 head] */
    bool on_device; /* matrices, norms, rope: there, laid out as decode_device.h has it */
    void **own;  /* packed from a training's masters, which have no forms */
    int owned, own_room;
    uint64_t bytes;
} ar_weights;
/* draft may be NULL. type: FV_F32, FV_BF16 or FV_I8. The nets' parameters must outlive the result:
 * packed forms belong to them. With masters (training) the values of now are packed. */
fv_status ar_weights_create(fv_ctx *ctx, ar_weights **out, const gpt_net *gpt,
                            const draft_net *draft, fv_dtype type);
void ar_weights_destroy(ar_weights **w);
void ar_table_row(const ar_table *t, int row, float *out);

/* ---- One pass (ar_pass.c) -------------------------------------------------------------------- */

typedef struct ar_row {
    int seq;           /* cache it belongs to */
    int position;      /* of the picture; -1: condition */
    int slot;          /* in the cache; of a condition row: its place in front */
    int zeros;         /* condition slots that it sees */
    int ranges;
    fvi_dec_range range[FVI_DEC_RANGES];
    const int32_t *more;
    int n_more;
    float *keep;       /* [width] what goes to the head, or NULL */
} ar_row;

/* Logits of rows cond and null (-1: no guidance) go to out [vocab]. */
typedef struct ar_out {
    int cond, null;
    float *out;
} ar_out;

/* Layers with caches of one shape: the target's, the draft's. */
typedef struct ar_stack {
    int layers, condition, slots;
    const ar_layer *layer;
    float eps;
    bool is_draft;
    uint8_t *cache; /* [seq][layer][head] */
    size_t head_bytes;
    fvk_dec_cache near; /* the same on a device */
} ar_stack;
/* Memory for the caches of `seqs` sequences of a stack whose numbers are set; *bytes grows by it. */
fv_status ar_stack_create(fv_ctx *ctx, ar_stack *s, const gpt_config *c, fv_dtype kv, int seqs,
                          uint64_t *bytes);
void ar_stack_destroy(fv_ctx *ctx, ar_stack *s);

/* Slots from[k] become slots to[k], one after another, in `seqs` sequences from `seq` on. */
#define AR_MOVES 64
typedef struct ar_moves { int seq, seqs, count, from[AR_MOVES], to[AR_MOVES]; } ar_moves;

typedef struct ar_work ar_work;
fv_status ar_work_create(fv_ctx *ctx, ar_work **out, const ar_weights *w, fv_dtype kv, int rows,
                         int condition, int slots);
void ar_work_destroy(ar_work **w);
int ar_work_rows(const ar_work *w);
/* Input of row i: [width], or [2 width] before fc (draft). */
float *ar_work_input(ar_work *w, int i, bool is_draft);
/* rows ordered by seq. guidance: the scale for outs with a null row. Fails on a device only; what a
 * move there failed with is told then, too. */
fv_status ar_pass_run(ar_work *w, const ar_stack *s, const ar_row *row, int rows, const ar_out *out,
                 int outs, float guidance);
fvi_dec_cache ar_stack_cache(const ar_work *w, const ar_stack *s, int seq, int layer, int head);
void ar_stack_move(ar_work *w, const ar_stack *s, const ar_moves *m);
/* y [n, width] = fc2 gelu(fc1 x): captions. */
fv_status ar_caption_rows(ar_work *w, const float *x, int n, float *y);

/* ---- The same on a device (ar_pass_device.c) -------------------------------------------------- */

typedef struct ar_device ar_device;
fv_status ar_device_create(fv_ctx *ctx, ar_device **out, const ar_weights *w, int rows, int condition,
                           int slots);
void ar_device_destroy(ar_device **d);
float *ar_device_input(ar_device *d, int i, bool is_draft);
fv_status ar_device_run(ar_device *d, const ar_stack *s, const ar_row *row, int rows,
                        const ar_out *out, int outs, float guidance);
void ar_device_move(ar_device *d, const ar_stack *s, const ar_moves *m);
fv_status ar_device_captions(ar_device *d, const float *x, int n, float *y);

/* ---- Images (ar_net.c) ----------------------------------------------------------------------- */

typedef struct ar_net_options {
    int images;
    int rows;         /* of one image in one pass; 0 = AR_MAX_ROWS                         */
    fv_dtype kv;      /* FV_F32, FV_BF16, FV_I8                                            */
    float cfg;        /* guidance scale; up to 1: off                                      */
    int cfg_interval; /* guidance behind the tokens up to this one, and behind the condition, as
                         LlamaGen counts; -1: all, -2: only behind the condition           */
    int keep_lines;   /* of the grid, besides the first, that a row sees; 0 = all          */
} ar_net_options;
typedef struct ar_net ar_net;
fv_status ar_net_create(fv_ctx *ctx, ar_net **out, const ar_weights *w, const ar_net_options *o);
void ar_net_destroy(ar_net **n);
/* What the next prefill of the image begins with; label cfg.classes: no class. */
void ar_net_set_class(ar_net *n, int image, int label);
/* features [tokens, caption_width], tokens >= 1, without padding. */
fv_status ar_net_set_caption(ar_net *n, int image, const float *features, int tokens);
ar_lm ar_net_lm(ar_net *n);
uint64_t ar_net_cache_bytes(const ar_net *n);
fvi_dec_cache ar_net_cache(const ar_net *n, int image, int branch, int layer, int head);
/* Of a committed position (-1: condition) and branch, [width]. */
const float *ar_net_feature(const ar_net *n, int image, int branch, int position);

#endif
