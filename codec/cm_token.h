/* cm_token.h - text coded in pieces of a vocabulary instead of bytes, shared by the cm_token*.c
 * files; the parts are those of the byte coder (cm_parts.h), the model differs.
 *
 * A text is cut into pieces of 1 to 16 bytes. A piece is the leaf of a binary tree and coded as the
 * decisions on its way from the root. With a tree that follows how frequent pieces are, text takes
 * 3.3 to 5.5 decisions per byte instead of 8: at equal time more contexts can be looked at, and the
 * tree itself knows what text looks like before the first byte.
 *
 * All of it is part of the format: a change of any number here changes the bytes. */
#ifndef VZ_CM_TOKEN_H
#define VZ_CM_TOKEN_H

#include "cm.h"
#include "nn_vocab.h"

/* ---- The vocabulary's tree (cm_token_tree.c) -------------------------------------------------- */

/* An inner node. Nodes are numbered like the cells of vz_slots: 16 numbers for each subtree of four
 * levels, of which 1 is its root. */
typedef struct vz_branch {
    uint32_t next[2];          /* node, or VZ_LEAF | piece */
    uint16_t rank;             /* below VZ_RANKS: alike for nodes that behave alike */
    uint16_t split;            /* first piece on its right side: 1 .. pieces - 1, each once */
} vz_branch;
#define VZ_LEAF 0x80000000u
#define VZ_RANKS 272u

/* Only read once it is made: any number of threads may share it. */
typedef struct vz_tree {
    fv_ctx *ctx;
    const nn_vocab *vocab;     /* must outlive the tree */
    vz_branch *branch;         /* [nodes] */
    uint32_t nodes;
} vz_tree;
fv_status vz_tree_open(fv_ctx *ctx, vz_tree *t, const nn_vocab *v);
void vz_tree_close(vz_tree *t); /* zeroed is closed */

/* ---- Coder ----------------------------------------------------------------------------------- */

/* A network that knows the pieces so far. logits: the inputs of the next decision, which lies
 * between the pieces split - 1 and split, each in +-VZ_LOGIT_MAX. NULL functions: inputs are 0.
 * An encoder says beforehand what comes (ahead, may be NULL): the pieces of n bytes, take as of
 * nn_vocab_cut; each of them is told later with piece, or was among `n` that skip counts. */
typedef struct vz_token_prior {
    void *user;
    void (*logits)(void *user, uint32_t split, int16_t out[VZ_CM_EXTRA]);
    void (*piece)(void *user, uint32_t id);
    void (*ahead)(void *user, const uint16_t *take, size_t n);
    void (*skip)(void *user, uint32_t n);
} vz_token_prior;

typedef struct vz_token_model {
    const vz_tree *tree;
    const vz_cm_prime *text;   /* [texts] that the statistics have seen before the first segment */
    int texts;
    vz_token_prior prior;
    size_t prior_reads;        /* and the prior: so many bytes at the end of them */
} vz_token_model;

/* A model's network as a prior (cm_token_net.c), whose head learns from what is coded. It begins with
 * the state after the model's first text, or where texts are learnt (primes), which the network reads
 * too, with zeros: that is 0.2 % smaller than the state and then the text [88 files, 1 to 100 KB]. */
typedef struct vz_token_net vz_token_net;
fv_status vz_token_net_open(fv_ctx *ctx, vz_token_net **out, const vz_prior *p);
/* What coding gave, or a failure of the device that the network runs on. NULL: no network. */
fv_status vz_token_net_check(fv_ctx *ctx, const vz_token_net *n, fv_status s);
void vz_token_net_close(fv_ctx *ctx, vz_token_net **n);
vz_token_prior vz_token_net_prior(vz_token_net *n);
uint64_t vz_token_net_memory(const vz_model *m);

/* As vz_cm_memory, vz_cm_encode, vz_cm_decode, but of the VZ_PIECES segments alone: `size` is the sum
 * of theirs, and the others are skipped over. Hostile code gives wrong bytes or an error. */
uint64_t vz_token_memory(const vz_cm_options *o, const vz_token_model *model, uint64_t size);
fv_status vz_token_encode(fv_ctx *ctx, const vz_cm_options *o, const vz_token_model *model,
                          const vz_segment *segs, int count, const uint8_t *data, vz_buf *out);
fv_status vz_token_decode(fv_ctx *ctx, const vz_cm_options *o, const vz_token_model *model,
                          const vz_segment *segs, int count, const uint8_t *code, size_t code_size,
                          uint8_t *data);

/* ---- State, for cm_token_body.h -------------------------------------------------------------- */

#define VZ_TOKEN_CONTEXTS 27
#define VZ_TOKEN_RUNS 12
#define VZ_TOKEN_MATCHES 2
#define VZ_TOKEN_LEVELS 4      /* of the maps: subtrees on the way from the root */
#define VZ_TOKEN_DEPTHS 16u    /* of the selectors */
typedef struct vz_token_shape {
    int contexts, runs, matches, selectors, apms;
} vz_token_shape;
/* Inputs: contexts, runs, 2 for each match, 2 direct, the prior, a constant: 16, 32, 48. */
static const vz_token_shape vz_token_shapes[3] = {
    {8, 1, 1, 3, 2}, {18, 5, 2, 4, 3}, {27, 12, 2, 6, 4}};
FV_INLINE int vz_token_inputs(vz_token_shape s)
{
    return s.contexts + s.runs + 2 * s.matches + 2 + VZ_CM_EXTRA + 1;
}
#define VZ_TOKEN_FIRST_RUN 1   /* context of the first run */

/* What is left of the way to a piece that something predicts; falls silent at the first mistake. */
typedef struct vz_way {
    uint32_t rest;             /* next decision in the top bit */
    bool is_open;
} vz_way;

/* The piece that followed a context last. */
typedef struct vz_token_run {
    uint16_t check, piece;
    uint32_t count;
} vz_token_run;

typedef struct vz_token_match {
    uint32_t *table, *entry;   /* place behind a hash of the last bytes, where a piece begins */
    uint32_t factor, hash, min_length;
    int bits;
    uint32_t at, length, misses, bucket;
    vz_way way;
    vz_prob map[32 * 4 * 4], *cell; /* [length][misses][depth class] */
} vz_token_match;

struct vz_token_bits;
typedef struct vz_token {
    fv_ctx *ctx;
    vz_cm_class strength;
    const vz_branch *branch;   /* of the tree */
    const nn_vocab *vocab;
    const struct vz_token_bits *bits;
    vz_token_prior prior;
    bool is_asleep;            /* the prior is not asked: there is none, or a long match predicts */
    uint32_t slept;            /* pieces that it was not told */
    vz_logistic lg;
    vz_states st;
    vz_slots slots;
    uint8_t *table;
    vz_cm *text;               /* only what vz_cm_text_byte looks at: bytes so far, lines, words */
    uint32_t capacity, end;    /* end: of the segment */
    uint16_t *piece_at;        /* [capacity] piece that begins here, VZ_NO_PIECE inside of one */
    uint32_t last[4];          /* pieces, the last first */
    uint32_t *after;           /* [pieces] the last two that followed a piece */
    uint32_t decisions;

    vz_mixer mixer;
    void *mixer_memory;
    uint32_t map_shift;
    uint32_t *maps;            /* [VZ_TOKEN_LEVELS][contexts][256] by history */
    uint32_t hash[VZ_TOKEN_CONTEXTS];
    uint8_t *slot[VZ_TOKEN_CONTEXTS];
    uint32_t order;            /* how many of the contexts have been seen */
    vz_prob run_map[VZ_TOKEN_RUNS * VZ_CM_RUN_CELLS];
    vz_token_run *run[VZ_TOKEN_RUNS], *run_table;
    uint32_t open_runs;        /* bit i: run i still predicts, next decision in the top bit of ... */
    uint32_t run_rest[VZ_TOKEN_RUNS];
    vz_prob *run_cell[VZ_TOKEN_RUNS];
    int run_log2;
    vz_token_match match[VZ_TOKEN_MATCHES];
    vz_prob *direct[2], *direct_cell[2]; /* by node; by node and last piece, hashed without check */
    uint32_t direct_line;
    int direct_log2;
    vz_apm apm[VZ_CM_APMS];
    uint16_t *apm_memory;
    uint32_t apm_base[VZ_CM_APMS];
    int apm_log2;
    uint32_t select[2];
} vz_token;
#define VZ_NO_PIECE 0xffffu

typedef struct vz_token_bits {
    /* e NULL: learn only */
    void (*encode[3])(vz_token *t, vz_encoder *e, uint32_t piece); /* [vz_cm_class] */
    uint32_t (*decode[3])(vz_token *t, vz_decoder *d);
} vz_token_bits;
/* Before the last decision of a piece is learnt: history and contexts of the next, which asks the
 * cache for what that needs. Nothing happens where the piece reaches over the segment's end. */
void vz_token_see_piece(vz_token *t, uint32_t piece);
extern const vz_token_bits vz_token_bits_c, vz_token_bits_avx2, vz_token_bits_avx512;

#endif
