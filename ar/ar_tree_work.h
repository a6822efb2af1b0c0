/* ar_tree_work.h - private to ar_tree.c and ar_accept.c: what drafting leaves for the walk. */
#ifndef FV_AR_TREE_WORK_H
#define FV_AR_TREE_WORK_H

#include "ar_decode.h"

typedef struct ar_noise_row {
    ar_noise noise;
    int position; /* -1: nothing yet */
    float *g;     /* [vocab] */
} ar_noise_row;

/* A node that EAGLE-2 may keep. */
typedef struct ar_candidate {
    int32_t token;
    float score;
    int16_t parent;    /* candidate, -1: the root                     */
    int16_t fed, node; /* number among the temporary nodes, and in the tree */
    uint8_t depth, rank;
} ar_candidate;

struct ar_tree_work {
    fv_ctx *ctx;
    int vocab;
    ar_dists dists;            /* 0: the row at hand; from 1: the draft's rows of the last tree */
    int slots, used;           /* of the draft's rows */
    int slot[AR_MAX_NODES];    /* the draft's row behind a node; 0: not kept */
    ar_noise_row *rows;        /* noise of positions, at position mod row_count */
    int row_count;
    float *noise_block;
    float *logits;             /* [level_rows, vocab] of one call of draft_nodes */
    int level_rows;
    double *p, *q;             /* [vocab], 0 between uses */
    ar_candidate *pool;        /* EAGLE2: [pool_size] */
    bool *is_kept;
    int pool_size;
};

/* Is a child tested by p/q, with a uniform number of its own? */
FV_INLINE bool ar_tests_ratio(ar_draft_kind kind, const ar_accept_options *a)
{
    return a->is_reference || kind == AR_DRAFT_PQ || a->rule == AR_RULE_COOL ||
           a->rule == AR_RULE_GSD;
}
/* Noise of a position [vocab]: made once, for drafting and for the walk. */
const float *ar_work_noise(ar_tree_work *w, ar_noise noise, int position);

#endif
