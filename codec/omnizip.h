/* omnizip.h - private: OmniZip's network (omnizip.c), its converter and its trainer.
 *
 * [OmniZip, CVPR 2026, and its official code]: RWKV-7 with static decay and rate, heads of 16, the
 * value projection and the feed-forward part as mixtures of 4 experts of which 2 work. Equations
 * stand in omnizip.c. */
#ifndef VZ_OMNIZIP_H
#define VZ_OMNIZIP_H

#include "engine.h"
#include "nn_vocab.h"

#define OZ_MAX_LAYERS 32
#define OZ_MAX_WIDTH 8192
#define OZ_MAX_VOCAB 1048576

typedef struct oz_config {
    char name[16];
    int width; /* n, a multiple of 16                                                  */
    int layers;
    int vocab;         /* rows of the embedding                                                */
    int outputs;       /* rows of the head; fewer than vocab where the last ids are inputs only  */
    int hidden;        /* of the feed-forward part, or of each of its experts                    */
    int experts;       /* 3 .. FV_MAX_EXPERTS                                                    */
    int router_hidden; /* 0: one linear map (ours); else a layer with SiLU between (checkpoints)  */
    bool v_moe, ffn_moe;
    bool tree;  /* the head is the nodes of a binary tree: row s is the split s (nn_vocab.h) */
    bool hira;  /* the projections are W + B A, B and A of 4 times the width              */
    bool noise; /* routers draw noise: only while training                                */
} oz_config;
#define OZ_HIRA_FACTOR 4

typedef struct oz_router {
    fv_pid w0, b0, w2, b2, noise;
} oz_router;
/* Projection `w`, and its two factors or -1. With v_moe the experts lie one after another. */
typedef struct oz_projection {
    fv_pid w, a, b;
} oz_projection;
typedef struct oz_block {
    fv_pid mix, ln1_w, ln1_b, ln2_w, ln2_b;
    fv_pid mix_rg, mix_k, mix_v;             /* token shift                          */
    fv_pid decay, rate, key_rate, key_decay; /* before exp and sigmoid: see omnizip.c */
    fv_pid value_mix, bonus;                 /* value_mix: -1 in the first layer     */
    oz_projection r, k, v;
    fv_pid out, norm_w, norm_b, up, down;
    oz_router v_router, ffn_router;
} oz_block;

typedef struct oz_net {
    oz_config cfg;
    fv_params *params;
    fv_pid embed, norm, head, bias; /* bias: of a tree's nodes, else -1 */
    oz_block block[OZ_MAX_LAYERS];
} oz_net;

/* "XS", "S", "M", "L" of the paper: vocabulary 16384, experts on, merged. */
fv_status oz_preset(fv_ctx *ctx, const char *name, oz_config *out);
fv_status oz_config_check(fv_ctx *ctx, const oz_config *c);
/* fovea.* metadata of a model file: key, value pairs of at most OZ_META_PAIRS, pointing into *m. */
#define OZ_META_PAIRS 13
typedef struct oz_meta {
    char text[OZ_META_PAIRS][32];
    const char *item[2 * OZ_META_PAIRS];
    int pairs;
} oz_meta;
void oz_config_meta(const oz_config *c, oz_meta *m);
fv_status oz_config_read(fv_ctx *ctx, const fv_model *m, oz_config *out);

fv_status oz_net_create(fv_ctx *ctx, oz_net *n, const oz_config *c);
void oz_net_destroy(oz_net *n);
/* The paper's starting values; needs fv_params_alloc. */
fv_status oz_net_init(fv_ctx *ctx, oz_net *n, uint64_t seed);

/* What a tape of the network has beside ids and logits. */
typedef struct oz_io {
    /* Inputs "shift.L" [B, n] and "state.L" [B, n/16, 16, 16] of each layer L, outputs "last.L"
     * [B, n], the next shift, and "next.L", the next state. */
    bool carry;
    float balance, z; /* of the routers' loss; noise inputs "noise.vL", "noise.fL" [B*T, E] */
    fv_t aux;         /* out: the routers' loss [1], 0 if there is none */
} oz_io;
/* ids i32 [B*T] -> logits f32 [B*T, outputs]; with a tree instead what its nodes read, [B*T, n].
 * Sequences are independent rows of T tokens. */
fv_t oz_forward(fv_tape *t, const oz_net *n, fv_t ids, int64_t B, int64_t T, oz_io *io);
/* Mean loss in nats of labels i32 [B*T] (-1: ignored), y from oz_forward, without io->aux. paths:
 * with a tree the input of nn_vocab_paths, else 0. */
fv_t oz_loss(fv_tape *t, const oz_net *n, fv_t y, fv_t labels, fv_t paths);

/* HiRA: the network runs on `merged`, where each W is W + B A, formed once a step; gradients go
 * back to the factors: dA = B^T dW, dB = dW A^T. Without hira in `full` values and gradients are
 * copied. */
typedef struct oz_merge oz_merge;
fv_status oz_merge_create(fv_ctx *ctx, oz_merge **out, oz_net *full, oz_net *merged);
void oz_merge_destroy(oz_merge **m);
fv_status oz_merge_values(oz_merge *m);
/* Adds to full's gradients, zeroes merged's. */
fv_status oz_merge_gradients(oz_merge *m);
/* w [n, n] += b [n, k] a [k, n] */
fv_status oz_add_product(fv_ctx *ctx, float *w, const float *b, const float *a, int64_t n,
                         int64_t k);
/* Values of `to` from the parameters of the same names of `from`, both with masters. */
fv_status oz_copy_values(fv_ctx *ctx, const oz_net *from, oz_net *to);

/* ---- Data for training (omnizip_data.c) ------------------------------------------------------ */

/* Bytes to tokens: each byte is one, or the pieces of a vocabulary. Ids 0 .. outputs-1 stand for
 * bytes, outputs .. outputs+prefixes-1 begin a sequence and name its modality. */
typedef struct oz_tokenizer {
    int outputs, prefixes;
    const nn_vocab *vocab; /* NULL: bytes */
} oz_tokenizer;
extern const oz_tokenizer oz_bytes;
oz_tokenizer oz_pieces(const nn_vocab *v);
/* Tokens of `size` bytes into out (at most `size` of them); returns their number. */
size_t oz_encode(const oz_tokenizer *t, const uint8_t *bytes, size_t size, uint16_t *out);
int oz_token_bytes(const oz_tokenizer *t, int token); /* length of a token in bytes */

#define OZ_MODALITIES 8
extern const char *const oz_modality_name[OZ_MODALITIES];

/* A sequence: tokens [first, first + n) of its modality. */
typedef struct oz_document {
    int64_t first, n;
} oz_document;
/* One modality: all tokens, and the pieces of at most T of them that lanes read. */
typedef struct oz_stream {
    uint16_t *token;
    int64_t tokens, capacity, bytes;
    oz_document *doc;
    int64_t docs, doc_capacity;
    oz_document *piece; /* in order; a document's pieces follow each other */
    uint8_t *begins;    /* [pieces] the first piece of a document          */
    int64_t pieces;
} oz_stream;
typedef struct oz_sample { /* see oz_data_sample */
    uint8_t *bytes;
    int64_t used, capacity, of[OZ_MODALITIES];
} oz_sample;
typedef struct oz_data {
    fv_ctx *ctx;
    const oz_tokenizer *tok;
    oz_stream train[OZ_MODALITIES], held[OZ_MODALITIES];
    int used, modality[OZ_MODALITIES]; /* those that have data */
    fv_text manifest;
    oz_sample sample;
} oz_data;
typedef struct oz_data_options {
    const char *const *sources; /* "modality:path" */
    int source_count;
    const char *data_dir; /* before relative paths; may be NULL */
    int T;
    uint64_t max_bytes, seed; /* most bytes of one modality */
} oz_data_options;
fv_status oz_data_open(oz_data *d, const oz_data_options *o);
/* Before oz_data_open: the bytes of the training files of text, code and database, one after another,
 * at most OZ_SAMPLE_BYTES of each, to learn a vocabulary from. The caller frees *bytes. */
#define OZ_SAMPLE_BYTES ((int64_t)96 << 20)
fv_status oz_data_sample(oz_data *d, const oz_data_options *o, uint8_t **bytes, size_t *size);
void oz_data_close(oz_data *d);
/* Piece `p` of `s` as one lane's row: ids [T] with the prefix or the token before in front, labels
 * [T] (-1 beyond the end). Returns the bytes that the labels stand for. */
int64_t oz_fill_row(const oz_data *d, const oz_stream *s, int modality, int64_t p, int T,
                    int32_t *ids, int32_t *labels);

#endif
