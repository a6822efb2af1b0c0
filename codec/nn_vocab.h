/* nn_vocab.h - private: byte-level vocabulary of vzip's networks (nn_vocab.c), how it is learned
 * (nn_vocab_train.c) and how its ids are arranged (nn_vocab_tree.c).
 *
 * A piece is a string of 1 to 16 bytes; all 256 single bytes are pieces, so every byte string has
 * an encoding, and decoding is concatenation. Pieces are the leaves of a binary tree, numbered from
 * left to right: that alone and how deep each leaf lies says what the tree is (nn_vocab.c). An
 * inner node is named by its split, the first piece on its right side, so that the size - 1 nodes
 * are 1 .. size - 1; in the balanced tree all depths are `bits`.
 *
 * In a model file: "vocab.text" u8 [bytes], the pieces one after another in the order of their ids,
 * "vocab.length" u8 [size], and "vocab.depth" u8 [size] unless the tree is balanced. */
#ifndef VZ_NN_VOCAB_H
#define VZ_NN_VOCAB_H

#include "engine.h"

#define NN_VOCAB_MIN_BITS 8
#define NN_VOCAB_MAX_BITS 14
#define NN_VOCAB_MAX_PIECE 16
#define NN_VOCAB_MAX_DEPTH 24
#define NN_VOCAB_WINDOW 32768 /* bytes that are cut into pieces at a time */

typedef struct nn_vocab {
    fv_ctx *ctx;
    int bits, size;        /* size <= 2^bits; equal where a network is to code them     */
    uint8_t *text;         /* pieces one after another, in the order of ids             */
    uint32_t *begin;       /* [size + 1]: piece `id` is text[begin[id]] .. begin[id + 1] */
    uint8_t *depth;        /* [size] decisions of a piece; NULL while one is learned      */
    uint32_t *path;        /* [size] these decisions, the first in the top bit            */
    int max_depth;         /* of all pieces                                               */
    struct nn_edge *edge;  /* hashed trie: see nn_vocab.c                               */
    int32_t *id_of;        /* [nodes]: piece that ends in a node of the trie, or -1     */
    uint32_t nodes, slots; /* slots: a power of two                                     */
} nn_vocab;

/* Copies. text: `text_bytes` bytes, the pieces in order; length [size]. FV_ERR_MODEL unless size is
 * 2^8 .. 2^14, lengths are 1 .. 16 and sum to text_bytes, pieces differ, and the 256 single bytes
 * are among them. On failure *v is closed. Close with nn_vocab_close, also a zeroed one. */
fv_status nn_vocab_open(fv_ctx *ctx, nn_vocab *v, const uint8_t *text, size_t text_bytes,
                        const uint8_t *length, size_t size);
/* The same with depth [size], each 1 .. 24, and size need not be a power of two; FV_ERR_MODEL unless
 * they make a tree without gaps. NULL: the balanced tree. */
fv_status nn_vocab_open_tree(fv_ctx *ctx, nn_vocab *v, const uint8_t *text, size_t text_bytes,
                             const uint8_t *length, const uint8_t *depth, size_t size);
/* From the tensors of a model file. */
fv_status nn_vocab_load(fv_ctx *ctx, nn_vocab *v, const fv_model *m);
/* A model file with these tensors, and what the model file `with` holds unless that is NULL. */
fv_status nn_vocab_write(fv_ctx *ctx, const nn_vocab *v, const char *with, const char *path);
void nn_vocab_close(nn_vocab *v);
/* Sha256 of pieces and tree. */
void nn_vocab_hash(const nn_vocab *v, char hex[65]);
/* Id is byte: the vocabulary of 8 bits, with the balanced tree. */
fv_status nn_vocab_bytes(fv_ctx *ctx, nn_vocab *v);

/* The longest piece that begins at `p`, of at most n >= 1 bytes. Pure, as all below: any number of
 * threads may read one vocabulary. */
int nn_vocab_next(const nn_vocab *v, const uint8_t *p, size_t n);
/* For each place in bytes[0 .. n), n <= NN_VOCAB_WINDOW, the piece to go on with: those from place 0
 * on take the fewest decisions. */
void nn_vocab_cut(const nn_vocab *v, const uint8_t *bytes, size_t n, uint16_t *take);
/* The ids of `bytes` cut that way, window by window; `out` has room for n. Returns their number. */
size_t nn_vocab_encode(const nn_vocab *v, const uint8_t *bytes, size_t n, uint16_t *out);
/* The pieces of ids into out; ids must be below v->size and `out` have room: see nn_vocab_bytes_of.
 * Returns the bytes written. */
size_t nn_vocab_decode(const nn_vocab *v, const uint16_t *id, size_t n, uint8_t *out);
FV_INLINE int nn_vocab_length(const nn_vocab *v, int id)
{
    return (int)(v->begin[id + 1] - v->begin[id]);
}

/* The decisions of all pieces, as fv_loss_tree wants them: paths [size][max_depth] has for each
 * piece split << 1 | bit, first to last, then 0. */
void nn_vocab_paths(const nn_vocab *v, int32_t *paths);

/* ---- Learning -------------------------------------------------------------------------------- */

typedef struct nn_sample {
    const uint8_t *bytes;
    size_t size;
} nn_sample;
typedef enum nn_order {
    NN_ORDER_BYTES = 0, /* of the pieces' bytes, as memcmp: pieces that share a beginning meet   */
    NN_ORDER_CONTEXT,   /* 2-means of what stands before and after a piece                       */
    NN_ORDER_COUNT
} nn_order;
extern const char *const nn_order_name[NN_ORDER_COUNT];

/* 2^bits pieces from samples. The same samples give the same vocabulary. FV_ERR_ARG if they have too
 * few repetitions for that many pieces. Slow: reads up to 48 MiB spread over the samples. */
fv_status nn_vocab_train(fv_ctx *ctx, nn_vocab *v, int bits, const nn_sample *sample, size_t count,
                         nn_order order);

/* Parts of learning: pieces without a tree and the demand for 2^bits of them, and the order of ids,
 * rank `to[id]` for each piece of v, and depth[rank]: both sides of a node are equally frequent. */
fv_status nn_vocab_build(fv_ctx *ctx, nn_vocab *v, const uint8_t *text, size_t text_bytes,
                         const uint8_t *length, size_t size);
fv_status nn_vocab_arrange(const nn_vocab *v, const nn_sample *sample, size_t count, nn_order order,
                           uint16_t *to, uint8_t *depth);
/* Visits blocks of the samples, spread evenly, of about `limit` bytes in all. */
typedef struct nn_blocks {
    const nn_sample *sample;
    size_t count, limit, total;
    size_t i, at; /* the next block begins at sample[i].bytes + at */
    size_t seen, taken;
} nn_blocks;
nn_blocks nn_blocks_of(const nn_sample *sample, size_t count, size_t limit);
bool nn_blocks_next(nn_blocks *b, nn_sample *block);

#endif
