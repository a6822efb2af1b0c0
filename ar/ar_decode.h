/* ar_decode.h - private: the decoding loops, and what they ask of a network.
 *
 * The loops know trees, draws and rules. The network behind ar_lm is the real one (ar_net.c), or a
 * table of logits in tests. */
#ifndef FV_AR_DECODE_H
#define FV_AR_DECODE_H

#include "internal.h"

#define AR_MAX_NODES 128
#define AR_MAX_DEPTH 16
#define AR_MAX_RANK 16
#define AR_MAX_GROUP 256
#define AR_MAX_ROWS (AR_MAX_NODES + AR_MAX_DEPTH) /* of one image in one pass */

/* ---- The network as the loops see it --------------------------------------------------------- */

/* Rows of one pass of one image. Row i holds token[i], the successor of row parent[i] < i of the
 * same pass, or of the last committed token for -1. It sees all committed tokens, its ancestors and
 * itself; its image position is the number of committed tokens + its depth (0 for parent -1).
 * After a skip (VVS) the first rows are the skipped tokens, one the parent of the next, and the
 * root of the tree is the child of the last. */
typedef struct ar_rows {
    int image, n;
    const int32_t *token, *parent;
    float *logits; /* [n, vocab] after guidance: what follows each row */
    int silent;    /* of the first so many rows no logits are wanted */
} ar_rows;

/* A network with the state of several images. Functions fail for outside reasons only (cancelled).
 * Positions: 0 = first image token, -1 = the last condition row. */
typedef struct ar_lm {
    void *self;
    int vocab, tokens;
    bool has_draft;
    /* Forgets the image, runs the condition; logits [vocab] of token 0. Its last feature is kept as
     * position -1, and the draft's own prefix (t2i) is fed. */
    fv_status (*prefill)(void *self, int image, float *logits);
    /* One packed pass of several images. Features and keys of the rows are held until the next pass
     * of the image. */
    fv_status (*target)(void *self, int images, const ar_rows *rows);
    /* Rows of the last pass, each the child of the one before, become committed tokens; their
     * features get the positions of the tokens. */
    void (*commit)(void *self, int image, const int32_t *row, int n);
    /* The last n committed tokens are forgotten. */
    void (*rewind)(void *self, int image, int n);
    /* Draft: appends n pairs (token[i], feature of position feature[i]) for good; logits [vocab] of
     * the last one, whose hidden output is kept. Temporary nodes are dropped. */
    fv_status (*draft_feed)(void *self, int image, int n, const int32_t *token,
                            const int32_t *feature, float *logits);
    /* Draft: n temporary nodes, children of parent[i]: a temporary node (numbered from 0 since the
     * last feed in the order of adding), or -1, the end of what was fed. Their feature is the
     * hidden output of the parent. logits [n, vocab]. */
    fv_status (*draft_nodes)(void *self, int image, int n, const int32_t *token,
                             const int32_t *parent, float *logits);
    /* The last n fed pairs are forgotten. */
    void (*draft_rewind)(void *self, int image, int n);
} ar_lm;

/* ---- Draws (ar_logits.c) --------------------------------------------------------------------- */

typedef struct ar_sampling {
    float temperature; /* 0 = argmax; top_k and top_p are then ignored */
    int top_k;         /* 0 = all    */
    float top_p;       /* 1 = all    */
    bool is_uniform;   /* draws by one uniform number instead of shared Gumbel noise */
} ar_sampling;

/* A processed row: the survivors of temperature, top-k and top-p in that order (LlamaGen's), ids
 * ascending; at least one. Ties at the k-th largest survive; top-p keeps the first token that
 * crosses p, of equal ones the lower first. Logits of -infinity never survive. At temperature 0 all
 * others do, at temperature 1: drafts and neighbours still need probabilities. */
typedef struct ar_dist {
    int n;
    int32_t *id;  /* [n]                                            */
    float *logit; /* [n] after temperature, less the largest: <= 0  */
    float *p;     /* [n] softmax, sums to 1                         */
} ar_dist;

typedef struct ar_dists {
    fv_ctx *ctx;
    uint32_t cpu;
    int vocab, count;
    ar_dist *d;
    void *block;
    float *scratch; /* [vocab] */
} ar_dists;
fv_status ar_dists_create(fv_ctx *ctx, ar_dists *out, int vocab, int count);
void ar_dists_free(ar_dists *d);
/* logits [vocab] after guidance; NaN counts as -infinity, all -infinity as uniform. */
void ar_dist_make(ar_dists *ds, int i, const float *logits, const ar_sampling *s);
/* g(seed, image, position, token) = -log(-log u), u = (x + 0.5) 2^-32 of Philox, stream
 * FV_STREAM_GUMBEL; own polynomial logarithms: the same on every machine and for any cpu
 * (fv_ctx_cpu). For tokens 0..n-1. */
void ar_gumbel(uint32_t cpu, ar_noise noise, int position, int n, float *g);
/* Number `index` of those that belong to a position, in (0, 1), stream FV_STREAM_SAMPLING. 0 is
 * that of ar_draw, 1, 2, ... are those of the children that a walk tests at this position. */
double ar_uniform(ar_noise noise, int position, int index);
/* Index in ds->d[i] of the next token: argmax of logit + g, of logit (temperature 0), or by a
 * uniform number; the lowest token wins a tie. */
int ar_draw(ar_dists *ds, int i, const ar_sampling *s, ar_noise noise, int position);
/* The same from noise g [vocab] at hand (NULL: argmax of logit), or from a uniform number. */
int ar_pick(const ar_dist *d, const float *g);
int ar_pick_uniform(const ar_dist *d, double u);
int ar_dist_find(const ar_dist *d, int32_t token); /* -1: did not survive */

/* ---- Trees (ar_tree.c) ----------------------------------------------------------------------- */

/* Node 0 is the root: drawn, but not committed. Children stand in the order they are tried in. */
typedef struct ar_tree {
    int n;                        /* nodes, the root included                          */
    int32_t token[AR_MAX_NODES];
    int32_t parent[AR_MAX_NODES]; /* -1 for the root, else < the node                  */
    int32_t depth[AR_MAX_NODES];  /* root 0                                            */
    int32_t rank[AR_MAX_NODES];   /* place among its siblings, from 0                  */
    float score[AR_MAX_NODES];    /* cumulative log q, or chance of being reached      */
    float q[AR_MAX_NODES];        /* proposal probability, siblings before it removed; 1: EAGLE2 */
    int paths, path_length;       /* root..leaf, by node numbers, -1 behind the end    */
    int16_t path[AR_MAX_NODES][AR_MAX_DEPTH + 1];
} ar_tree;

typedef enum ar_draft_kind {
    AR_DRAFT_GUMBEL = 0, /* coupled: children are the top of log q + g (default)                  */
    AR_DRAFT_CHAIN,      /* one child a level: the draft's coupled draw, or its argmax            */
    AR_DRAFT_STATIC,     /* EAGLE-1, LANTERN++: fixed shapes, children without replacement        */
    AR_DRAFT_EAGLE2,     /* top_k candidates a level, the `nodes` best by cumulative log q        */
    AR_DRAFT_PQ          /* children drawn from q without replacement, tested by p/q              */
} ar_draft_kind;

typedef struct ar_tree_options {
    ar_draft_kind kind;
    int depth;           /* levels below the root, 1..AR_MAX_DEPTH */
    int top_k;           /* children of a node, 1..AR_MAX_RANK     */
    int nodes;           /* at most, the root included             */
    int shape;           /* STATIC: 0 mc_sim_7b_63 (25), 1 naive (57), 2 balanced (25), 3 chain of
                            5; nodes below the root */
    const float *accept; /* GUMBEL, PQ: [AR_MAX_DEPTH][AR_MAX_RANK] chance that the target's draw is
                            the child of that rank at that depth; NULL = built in */
    float echo;          /* weight of what the target said before, 0..1; 0: none, as in papers */
} ar_tree_options;
/* The built-in table: [AR_MAX_DEPTH * AR_MAX_RANK], falling with depth and rank. */
const float *ar_accept_rates(void);
/* Trees of kind CHAIN, GUMBEL, PQ and STATIC have a shape that no logits change. GUMBEL and PQ grow
 * greedily: always by the node with the largest product of rates along its path. Nodes
 * in the order of growing: gain[i] is that product, level[i] the depth, gain[0] = 1 the root's; the
 * sum of the first n is the expected length of a step with a tree of n nodes. Returns how many
 * there are within the bounds of *o; those of rate 0 are left out. */
int ar_tree_gains(const ar_tree_options *o, float gain[AR_MAX_NODES], int level[AR_MAX_NODES]);

/* What the target said of an image's later positions in passes that saw other tokens (ar_echo.c) */
typedef struct ar_echo ar_echo;
fv_status ar_echo_create(fv_ctx *ctx, ar_echo **out, int vocab, float weight);
void ar_echo_destroy(ar_echo **e);
/* After a walk that ended at node `last` of t: logits [t->n, vocab] of the rows behind its first
 * child are kept. position: of the token drawn there, the next root. */
void ar_echo_keep(ar_echo *e, const ar_tree *t, int last, int position, const float *logits);
/* A draft's logits [vocab] of the token at `position`, with the echo of it where there is one;
 * valid until the next call. e may be NULL. */
const float *ar_echo_mix(ar_echo *e, int position, const float *logits);

/* Where a tree stands. */
typedef struct ar_root {
    int image, position;       /* of the root token */
    int32_t token;
    int most_depth;            /* positions past the picture are not drafted */
    ar_noise noise;
    const float *draft_logits; /* of the last draft_feed: the guess of position + 1 */
    ar_echo *echo;             /* NULL: none */
} ar_root;
struct ar_accept_options;
/* Work memory of drafting and walking, one for each image that is decoded: what a walk needs of the
 * last tree stays in it. For trees within *o that are judged by *a (enum and options below). */
typedef struct ar_tree_work ar_tree_work;
fv_status ar_tree_work_create(fv_ctx *ctx, ar_tree_work **out, int vocab, const ar_tree_options *o,
                              const struct ar_accept_options *a);
void ar_tree_work_destroy(ar_tree_work **w);
/* Calls lm->draft_nodes level by level, once a level that has children. most_depth 0, or nothing
 * survives: the root alone. */
fv_status ar_tree_grow(ar_tree_work *w, const ar_lm *lm, const ar_tree_options *o,
                       const ar_sampling *s, const ar_root *root, ar_tree *out);
void ar_tree_paths(ar_tree *t); /* from the parents */

/* ---- Acceptance (ar_accept.c) ---------------------------------------------------------------- */

typedef enum ar_rule {
    AR_RULE_EXACT = 0, /* the target's distribution; coupled: its very tokens   */
    AR_RULE_LANTERN,   /* neighbours' mass counts up to delta                   */
    AR_RULE_LANTERNPP, /* ... up to (lambda - 1) p(x)                           */
    AR_RULE_COOL,      /* w_i p/q, w_i = max(1, delta exp(-0.7 (i - 1)))        */
    AR_RULE_GSD        /* p(C)/q(C) over G tokens of similar probability        */
} ar_rule;

/* Codes near each code: [codes, k], nearest first, itself excluded. */
typedef struct ar_neighbours {
    int codes, k;
    uint16_t *id;
    float *distance;
} ar_neighbours;
/* codebook [codes, width]; rows are normalised first unless raw. */
fv_status ar_neighbours_create(fv_ctx *ctx, ar_neighbours **out, const float *codebook, int codes,
                               int width, int k, bool raw);
void ar_neighbours_free(fv_ctx *ctx, ar_neighbours **n);

/* The walk is one draw of the target and a look at the children, unless: drafts of
 * kind PQ, the rules COOL and GSD (they need p/q), or is_reference ask for one uniform number a
 * child (2.5, 2.6). EAGLE2 drafts are then point masses, q = 1; others are tested by p/q. */
typedef struct ar_accept_options {
    ar_rule rule;
    float delta, lambda;       /* LANTERN and COOL: delta; LANTERN++: lambda; GSD: delta is the
                                  largest difference of probabilities in a group           */
    int group;                 /* GSD: G, the token itself included, 1..AR_MAX_GROUP       */
    int k;                     /* LANTERN, LANTERN++: neighbours looked at; 0 = near->k    */
    const ar_neighbours *near; /* LANTERN, LANTERN++; GSD: a group has neighbours only, NULL: any */
    bool lantern_compat;       /* released code: zero all k + 1 nearest on rejection       */
    bool is_reference;
} ar_accept_options;

typedef struct ar_walk {
    int n;           /* accepted nodes, the root included: node[0] = 0             */
    int32_t node[AR_MAX_DEPTH + 1];
    int32_t next;    /* token after the last of them: the next root                */
    int substituted; /* children accepted in place of the target's own draw        */
} ar_walk;
/* How a step draws and judges. */
typedef struct ar_judge {
    ar_sampling sampling;
    ar_accept_options accept;
    ar_draft_kind kind;
    ar_noise noise;
    int position; /* of the root */
} ar_judge;
/* logits [tree.n, vocab]: row i is what follows node i. */
void ar_walk_tree(ar_tree_work *w, const ar_tree *t, const float *logits, const ar_judge *j,
                  ar_walk *out);
/* Is `token` accepted at j->position, where the target says logits [vocab]? *own: its own draw. For
 * chains that were committed without looking (post verification): by one draw, as a point mass. */
bool ar_accept_one(ar_tree_work *w, const float *logits, int32_t token, const ar_judge *j,
                   int32_t *own);
/* The exact test of one token that was drawn from the row q: accepted with probability
 * min(1, p / q); else *next ~ norm(max(p - q, 0)). Numbers 1 and 0 of the position. */
bool ar_accept_pq(ar_tree_work *w, const ar_dist *p, const ar_dist *q, int32_t token,
                  ar_noise noise, int position, int32_t *next);

/* ---- VVS (ar_vvs.c) -------------------------------------------------------------------------- */

typedef enum ar_schedule { AR_SKIP_NEVER = 0, AR_SKIP_UNIFORM, AR_SKIP_DYNAMIC } ar_schedule;
typedef enum ar_selector {
    AR_SELECT_RANDOM = 0,
    AR_SELECT_CONFIDENCE,
    AR_SELECT_COUPLED
} ar_selector;
typedef enum ar_post { AR_POST_RESTORE = 0, AR_POST_RELAXED, AR_POST_STRICT } ar_post;

typedef struct ar_vvs_options {
    ar_schedule schedule;
    int interval;           /* UNIFORM: skip iff step mod interval == 1                    */
    float threshold, decay; /* DYNAMIC: skip iff similarity >= threshold; weights decay^l  */
    int stride;             /* DYNAMIC: every stride-th path is looked at (2)              */
    int warm_up;            /* no skip while so many tokens or fewer are there (5)         */
    ar_selector selector;
    bool no_truncation;     /* ablation: the whole path                                    */
    int stale[2];           /* features on verify and on skip steps: -1 fresh (verify only), 0 the
                               newest that were there before the step, s > 0: s positions older;
                               VVS is {-1, 0}. Verify >= 0: draft keys are not made anew   */
    ar_post post;
    bool keep_stale_draft;  /* as the released code: draft keys of skips are not made anew */
    const float *codebook;  /* DYNAMIC: [vocab, code_width]                                */
    int code_width;
} ar_vvs_options;
/* Similarity S of a tree's paths, in [-1, 1]; fewer than two paths: 0. */
double ar_similarity(const ar_tree *t, const ar_vvs_options *o);
/* Is this step skipped? `generated` tokens are there; never after a skip. */
bool ar_skips(const ar_vvs_options *o, int64_t step, int generated, const ar_tree *t,
              bool last_skipped);
/* Path to take without looking and how much of it, the root included. */
int ar_select_path(const ar_vvs_options *o, const ar_tree *t, ar_noise noise, int64_t step,
                   int *gamma);
/* Position whose feature stands in for the i-th of `missing` in a row, of `cached` that there are:
 * the last of them in order, `stale` positions older; too few: from the first on, then the last
 * again. */
int ar_stale_feature(int stale, int cached, int missing, int i);

typedef struct ar_counters ar_counters; /* below */

/* ---- Costs (ar_cost.c) ----------------------------------------------------------------------- */

/* Rates of a draft head as text, in its file as fovea.draft.accept: a row a depth, split by ';', of
 * a number a rank, split by ','. What a table leaves out is to its neighbour as in the built-in
 * one. FV_ERR_MODEL: not such text, not in 0..1, or the children of a node hold more than all. */
#define AR_RATES_KEY "fovea.draft.accept"
fv_status ar_rates_parse(fv_ctx *ctx, const char *text, float rate[AR_MAX_DEPTH * AR_MAX_RANK]);
/* The first rows and numbers of a table; NULL: out of memory. fv_free it. */
char *ar_rates_text(fv_ctx *ctx, const float *rate, int rows, int ranks);

/* What passes cost here, and how often guesses hold: from these the tree. */
#define AR_COST_POINTS 8
typedef struct ar_cost {
    int points;
    double target[AR_COST_POINTS]; /* seconds of a target pass with 1, 2, 4, ... rows         */
    double first, level, draw;     /* a pair fed and one level grown; each level below; a draw */
    const float *prior;    /* [AR_MAX_DEPTH * AR_MAX_RANK] */
    double tried[AR_MAX_DEPTH][AR_MAX_RANK], hit[AR_MAX_DEPTH][AR_MAX_RANK];
    float accept[AR_MAX_DEPTH][AR_MAX_RANK]; /* of the child of that rank, its parent accepted */
} ar_cost;
/* What measured times depend on besides model and context (its threads). The batch is not among it:
 * passes of one picture are measured. Compared as bytes: nothing but int and enum. */
typedef struct ar_cost_case {
    fv_dtype kv;
    int branches, cfg_interval, keep_lines; /* rows of a token, and what they see */
    ar_draft_kind kind;                     /* what the draft head grew           */
    int depth, top_k, nodes, shape;
} ar_cost_case;
typedef struct ar_cost_choice {
    int depth, nodes;   /* of the best tree, the root included; 0 and 1: plain decoding          */
    double speedup;     /* expected of the best tree against plain decoding, also if that is < 1 */
    double tokens;      /* expected a step */
} ar_cost_choice;
/* No times yet, and rates of a draft that nobody has tried: `prior` (it stays in use), or where
 * that is NULL the built-in ones. */
void ar_cost_init(ar_cost *c, const float *prior);
/* Runs passes of up to most_rows rows on image 0, whose state is lost. Some tenths of a second.
 * FV_ERR_ARG: a picture has less than AR_COST_TOKENS tokens. */
#define AR_COST_TOKENS 8
fv_status ar_cost_measure(fv_ctx *ctx, const ar_lm *lm, const ar_tree_options *o, int most_rows,
                          ar_cost *c);
double ar_cost_target(const ar_cost *c, double rows); /* linear between and behind the points */
/* Takes what happened between two states of the counters; before may be NULL: from the start. */
void ar_cost_learn(ar_cost *c, const ar_counters *before, const ar_counters *after);
/* The best tree within *o when `images` share a pass. STATIC: all of it, or none; EAGLE2: as if it
 * grew by rates. */
void ar_cost_choose(const ar_cost *c, const ar_tree_options *o, int images, ar_cost_choice *out);

/* ---- Jacobi iteration (ar_jacobi.c) ---------------------------------------------------------- */

/* SJD: guesses without a draft head. Tokens behind the root are guessed, looked at in one pass, and
 * what the pass says becomes the next guess. Coupled draws (or argmax): the guess of a position is
 * the target's own draw under the last guesses in front of it; what did not change is accepted, and
 * the picture is that of plain decoding. is_uniform: accepted by p/q with the q it was drawn from;
 * lossless in distribution. */
typedef enum ar_jacobi_init { AR_JACOBI_RANDOM = 0, AR_JACOBI_ABOVE } ar_jacobi_init;
typedef struct ar_jacobi ar_jacobi;
typedef struct ar_jacobi_options {
    int vocab, tokens, window;
    ar_jacobi_init init;
    ar_sampling sampling;
} ar_jacobi_options;
fv_status ar_jacobi_create(fv_ctx *ctx, ar_jacobi **out, const ar_jacobi_options *o);
void ar_jacobi_destroy(ar_jacobi **j);
/* known [n + 1] tokens, the root last. Guesses are filled up to the window or the picture's end.
 * Number of guesses; *guess: theirs, for positions n + 1, ... */
int ar_jacobi_guess(ar_jacobi *j, const int32_t *known, int n, ar_noise noise,
                    const int32_t **guess);
/* logits [guesses + 1, vocab] behind the root and each guess. Number of accepted guesses; *next:
 * what follows the last of them. */
int ar_jacobi_judge(ar_jacobi *j, const float *logits, ar_noise noise, int32_t *next);

/* ---- Decoding (ar_decode.c) ------------------------------------------------------------------ */

typedef struct ar_decode_options {
    ar_sampling sampling;
    ar_tree_options tree;
    ar_accept_options accept;
    ar_vvs_options vvs;
    bool is_plain; /* no drafting                                                */
    int jacobi;    /* SJD: window of draft tokens without a draft head, < AR_MAX_NODES; 0 = off */
    ar_jacobi_init jacobi_init;
    /* Not NULL: depth, top_k and nodes of `tree` are bounds, the tree within them follows the costs
     * and what is learned while decoding, and drafting stops for good where it loses. Used only
     * where ar_keeps_sequence: elsewhere tokens depend on the tree, hence would on the clock, and
     * the tree stays as it is given. */
    ar_cost *cost;
} ar_decode_options;
/* Coupled tree, exact rule, no skips, post verification as VVS has it but off. */
void ar_decode_defaults(ar_decode_options *o);
/* The tokens are those of plain decoding with the same draws, whatever is drafted. */
bool ar_keeps_sequence(const ar_decode_options *o);

/* TPF = tokens / (prefills + verifies). */
struct ar_counters {
    int64_t tokens, prefills, verifies, skips, draft_passes, target_rows, draft_rows;
    int64_t accepted[AR_MAX_NODES]; /* steps that accepted so many tokens behind the root */
    /* Children at depth 1 + i under accepted parents: there, accepted. */
    int64_t tried[AR_MAX_DEPTH][AR_MAX_RANK], hit[AR_MAX_DEPTH][AR_MAX_RANK];
    int64_t substitutions, advanced, chain_tokens, chain_cuts;
    int64_t plain_steps;  /* without a guess: the end of a picture, or drafting is off */
    bool switched_off;    /* the costs said that plain decoding is faster              */
    double speedup;       /* expected from the costs when last asked; 0: not asked     */
    double seconds_prefill, seconds_draft, seconds_verify, seconds_select;
};

typedef struct ar_step_log {
    int image, step;
    int skipped;
    int gamma;    /* skip: tokens taken, the new root included; else 0                     */
    int accepted; /* nodes below the root; 0 on a skip, -1 where post verification cut     */
    int length;   /* tokens in front of the root after the step                            */
    int chain;    /* skip: tokens without keys now; else: those that the step recovered    */
} ar_step_log;
typedef struct ar_decode_log {
    void (*step)(void *user, const ar_step_log *log); /* after each step of an image; may be NULL */
    void *user;
} ar_decode_log;
/* tokens [images, lm->tokens]; image i draws with noise[i]. Images go by ticks, each by
 * its own state machine. Nothing is allocated after the first step. counters are added to. */
fv_status ar_decode(fv_ctx *ctx, const ar_lm *lm, const ar_decode_options *o, int images,
                    const ar_noise *noise, int32_t *tokens, ar_counters *counters,
                    const ar_decode_log *log);

#endif
