/* abi.h - private: what libfovea and libfovea_cuda say to each other; plain C, also for nvcc.
 *
 * libfovea holds all of an op but its arithmetic: it checks, sizes, and fills one plain struct per
 * kernel. A device is a table of functions (fvk_api) that holds memory, copies, multiplies matrices
 * and runs kernels by number. There are two such tables: cuda/module.cu on the CUDA runtime, and the
 * emulator of the tests, which runs the same kernel bodies on the CPU. No CUDA name is in here. */
#ifndef FV_CUDA_ABI_H
#define FV_CUDA_ABI_H

#include <stddef.h>
#include <stdint.h>

/* Raised with every change of this file: libfovea takes the module of its own number only. */
#define FVK_ABI 26
#define FVK_ENTRY "fvi_cuda_module"

#define FVK_THREADS 256   /* of every block */
#define FVK_TILE 32       /* columns of a block that sums columns, rows of an attention tile */
#define FVK_NORM_MOST 2048 /* columns of a row that a warp normalises */
#define FVK_HEAD_MOST 128 /* attention: largest head */
#define FVK_BLEND_MOST 8
#define FVK_EXPERTS_MOST 64
#define FVK_WKV 16        /* channels of a head of the recurrence, and steps between kept states */

/* Rows to read and to write, f32 or bf16; add: on top of what is there. p NULL: not there. */
typedef struct fvk_in { const void *p; int64_t bf16; } fvk_in;
typedef struct fvk_out { void *p; int32_t bf16, add; } fvk_out;

/* ---- Arguments of the kernels; what they compute stands beside their bodies ------------------- */

enum { FVK_COPY, FVK_AFFINE, FVK_ACT, FVK_ACT_GRAD };
typedef struct fvk_map_args {
    fvk_in x, dy;
    fvk_out y;
    int64_t n;
    float scale, shift;
    int32_t what, act;
} fvk_map_args;

enum { FVK_BINARY, FVK_BINARY_DA, FVK_BINARY_DB };
typedef struct fvk_binary_args {
    fvk_in a, b, dy;
    fvk_out y;
    int64_t n, nb, per; /* b: [nb]; per elements of a one b (broadcast 2) */
    int32_t what, op, broadcast;
} fvk_binary_args;

/* y = h + gate * sum of w[k] x[k] */
typedef struct fvk_blend_args {
    fvk_in h, x[FVK_BLEND_MOST];
    const float *w, *gate; /* NULL: ones; gate of sample b: gate + b * stride */
    fvk_out y;
    int64_t n, C, T, stride; /* T rows a sample */
    int32_t count;
} fvk_blend_args;

typedef struct fvk_swiglu_args {
    fvk_in x, dy; /* dy.p set: gradient */
    fvk_out y;
    int64_t n, H;
} fvk_swiglu_args;

typedef struct fvk_norm_args {
    fvk_in x, dy; /* dy.p set: gradient */
    fvk_out y;
    const float *w, *bias, *shift, *scale; /* [C], NULL: not there; of sample b: + b * stride */
    float *stats;                          /* mean, rstd of a row; NULL: not kept */
    int64_t C, T, stride, rows;
    float eps;
    int32_t rms;
} fvk_norm_args;

typedef struct fvk_rope_args {
    fvk_in x, gy; /* gy.p set: gradient */
    fvk_out y;
    const float *w[2], *angle;
    float *rstd;
    int64_t tokens, T, h, hd;
    float eps;
    int32_t neighbours, wide;
} fvk_rope_args;

/* Sums over rows of a function of each element. */
enum {
    FVK_SUM_X, FVK_SUM_PRODUCT, FVK_SUM_BINARY_DB, FVK_SUM_NORM, FVK_SUM_ROPE, FVK_SUM_GROUP_SQ,
    FVK_SUM_GROUP, FVK_SUM_LERP, FVK_SUM_HEAD, FVK_SUM_HEAD_U
};
typedef struct fvk_columns_args {
    fvk_in x, y, b;
    const float *stats, *w, *bias; /* w, bias: of groups of channels */
    float *part, *part2; /* [groups, segments, C] */
    int64_t groups, T, C, segments;
    fvk_rope_args rope;
    fvk_in prev;        /* lerp, without b: rows before those of y */
    int64_t per, steps; /* channels of a group; rows of a sequence */
    int32_t kind, op;
} fvk_columns_args;

typedef struct fvk_fold_args {
    const float *part; /* [groups, segments, C] */
    fvk_out y;         /* of group g: y + g * stride */
    int64_t groups, segments, C, stride;
    float scale;
    int32_t pad;
} fvk_fold_args;

typedef struct fvk_norm_fold_args {
    const float *D, *A, *w, *bias, *scale;
    float *dw, *db, *dshift, *dscale; /* NULL: not wanted; all are added to */
    int64_t groups, segments, C, stride, dstride;
} fvk_norm_fold_args;

typedef struct fvk_sample_db_args {
    fvk_in dy, a, b;
    fvk_out db;
    int64_t per;
    int32_t op, pad;
} fvk_sample_db_args;

typedef struct fvk_timestep_args {
    fvk_in t;
    fvk_out y;
    int64_t n, dim;
    double scale, den;
} fvk_timestep_args;

typedef struct fvk_embed_args {
    fvk_in table;
    fvk_out y;
    const int32_t *ids;
    int32_t *fault;
    int64_t n, D, V; /* ids, columns, rows of the table */
} fvk_embed_args;

/* A block a row v of a table [V, D]: y[v] (+)= sum over i with ids[i] = v of by[i] x[i / per], in order
 * of i; sums[v]: of by alone. by NULL: ones. Rows without an id are left as they are; -1 is none where
 * has_none, else outside the table. */
typedef struct fvk_by_id_args {
    fvk_in x;
    const float *by;
    const int32_t *ids;
    int32_t *fault;
    fvk_out y, sums; /* p NULL: not wanted */
    int64_t n, per, D, V, has_none;
} fvk_by_id_args;

typedef struct fvk_patch_args {
    fvk_in x;
    fvk_out y;
    int64_t n, H, W, C, p;
    int32_t channel_first, to_tokens;
} fvk_patch_args;

/* Row r of y from column y_at on = row r of x from column x_at on, n columns. */
typedef struct fvk_strip_args {
    fvk_in x;
    fvk_out y;
    int64_t rows, n, x_stride, x_at, y_stride, y_at;
} fvk_strip_args;

/* y[b, t, c] = scale * x[b, c] */
typedef struct fvk_spread_args {
    fvk_in x;
    fvk_out y;
    int64_t n, T, C;
    float scale;
    int32_t pad;
} fvk_spread_args;

/* Part 0 q, 1 k, 2 v: element d of token t of head i of sequence b at
 * x[part] + ((b * tokens + t) * parts + at) * h * hd + i * hd + d */
typedef struct fvk_attention_args {
    fvk_in x[3];
    fvk_out g[3];
    int64_t parts[3], at[3];
    fvk_out o;
    fvk_in o_in, go;
    float *lse, *delta; /* [B, h, T]; lse NULL: not kept */
    const float *bias;
    const int32_t *visible;
    int32_t *fault;
    int64_t B, T, S, h, hd;
    float scale;
    int32_t causal, bf16;
} fvk_attention_args;

/* Rows of a product from a map x [B, H, W, C]: row r is place `first` + r of [B, h, w], its columns
 * (i, j, c) are x[b, y stride + i - top, x stride + j - left, c]; transposed: the places of [B, h, w]
 * whose window has this pixel at (i, j). Zeros outside. At most 2^31 - 1 elements and places. */
typedef struct fvk_unfold_args {
    fvk_in x;
    fvk_out y;
    int64_t first, rows, H, W, C, h, w;
    int32_t kh, kw, stride, top, left, transposed;
} fvk_unfold_args;

/* y[i, j, k] of dim = x[i stride[0] + j stride[1] + k stride[2]] */
typedef struct fvk_permute_args {
    fvk_in x;
    fvk_out y;
    int64_t dim[3], stride[3];
} fvk_permute_args;

/* A block a row of x [.., K]: y = e4m3(x / scale), scale = the row's largest / 448. */
typedef struct fvk_to_fp8_args {
    fvk_in x;
    uint8_t *y;
    float *scale;
    int64_t K;
} fvk_to_fp8_args;

/* y [n / N, N] = act(a_scale[row] b_scale[column] y + bias[column]), in place; a_scale NULL: no scales */
typedef struct fvk_rescale_args {
    fvk_out y;
    const float *a_scale, *b_scale, *bias; /* bias NULL: not there */
    int64_t n, N, act;
} fvk_rescale_args;

/* Sums of channels to numbers of a group y [B, G, 2]: mean; 1 / sqrt(mean + eps) as the second one;
 * or the means of two sums times w. */
enum { FVK_GROUP_MEAN, FVK_GROUP_RSTD, FVK_GROUP_PULLS };
typedef struct fvk_group_fold_args {
    const float *part, *part2, *w; /* parts [B, segments, C] */
    float *y;
    int64_t segments, C, per;
    double count; /* elements of a group */
    float eps;
    int32_t what;
} fvk_group_fold_args;

typedef struct fvk_group_args {
    fvk_in x, dy; /* dy.p set: gradient */
    fvk_out y;
    const float *w, *bias, *stats, *pull; /* stats, pull: [B, G, 2] */
    int64_t n, T, C, per;                 /* T pixels a sample, `per` channels a group */
    int32_t act, pad;
} fvk_group_args;

typedef struct fvk_upsample_args {
    fvk_in x;
    fvk_out y;
    int64_t n, W, C; /* of what is written; W: of the small side */
    int64_t is_back;
} fvk_upsample_args;

/* FILL: windows from a map; CUT: the map of windows. SUM, the gradient of FILL: of all copies;
 * INSIDE, of CUT: zeros beyond the edges. */
enum { FVK_WINDOWS_FILL, FVK_WINDOWS_CUT, FVK_WINDOWS_SUM, FVK_WINDOWS_INSIDE };
typedef struct fvk_windows_args {
    fvk_in x;
    fvk_out y;
    int64_t n, H, W, C, side, shift, down, across; /* n: of y; windows down and across */
    int64_t what;
} fvk_windows_args;

/* Rows of products of queries and keys [rows, a.S], of head `head` from query `first` on: p is their
 * softmax, scaled, biased and masked as a says. Of a also lse and fault. */
typedef struct fvk_scores_args {
    fvk_attention_args a;
    const float *s;
    fvk_out p;
    int64_t head, first;
} fvk_scores_args;

/* Rows of logits x [R, E], E <= FVK_EXPERTS_MOST. */
typedef struct fvk_route_args {
    const float *x, *dy; /* dy set: gradient */
    fvk_out y;
    int64_t R, E;
} fvk_route_args;

/* row [R, 2E + 1]: gate, chance of being chosen, squared log sum exp; sum: of its columns. */
typedef struct fvk_balance_args {
    const float *clean, *noisy, *std, *gate, *dy;
    float *row, *sum, *loss, *saved; /* saved [2, E]: sums of gates and chances */
    fvk_out g[4];                    /* gradients of the first four */
    int64_t R, E;
    float balance, z;
} fvk_balance_args;

/* A warp a row of a, b [rows, C]; loss of a row, or the gradient to y. */
typedef struct fvk_lpips_args {
    const float *a, *b, *w, *dy;
    double *loss;
    fvk_out y;
    int64_t rows, C;
} fvk_lpips_args;

/* a, b [B, T, C]; m [B, C, 5]: means of a and b, variances, covariance. y: loss, or gradient. */
typedef struct fvk_dists_args {
    const float *a, *b, *alpha, *beta, *dy;
    double *m;
    fvk_out y;
    int64_t B, T, C;
} fvk_dists_args;

/* A block a token of z [N, D], codes e [V, D], logits x [N, V]: its rate in nats; or gradients of
 * the mean in bits: dx, dz, and ds [N, V] by the products with the codes. */
typedef struct fvk_rate_args {
    const float *z, *e, *x, *tau, *dy;
    double *rate;
    float *ds;
    fvk_out dx, dz;
    int32_t *fault;
    int64_t N, V, D;
} fvk_rate_args;

/* A block a head of a sequence; T steps of C channels. saved as op_tables.h has it. part [3, B, C]:
 * gradients of w, a, f of a sequence. */
typedef struct fvk_wkv_args {
    fvk_in r, k, v, dy;
    fvk_out y, dr, dk, dv;
    const float *w, *a, *f, *s0;
    float *s1, *saved, *part;
    int64_t B, T, C;
} fvk_wkv_args;

/* A thread a head of 16 channels of a row. stats [n / 16, 3]: mean, rstd, sum of dz v. */
typedef struct fvk_wkv_head_args {
    fvk_in y, r, k, v, dz; /* dz.p set: gradient */
    fvk_out z, dy, dr, dk, dv;
    const float *w, *b, *u;
    float *stats;
    int64_t n, C; /* elements */
    float eps;
    int32_t pad;
} fvk_wkv_head_args;

/* Decisions of the labels of h [n, D]: node and bit k of label l are paths[l, k] >> 1 and & 1, 0 is the
 * end. err [n, K]: probability less bit. y: gradient of h. node, slope [n, K]: of each decision, for by_id. */
typedef struct fvk_tree_args {
    fvk_in h;
    fvk_out y;
    const float *w, *bias, *dy, *number;
    const int32_t *label, *paths;
    float *err, *slope;
    int32_t *node;
    double *loss;
    int32_t *fault;
    int64_t n, D, V, L, K;
} fvk_tree_args;

/* Lines of 2x2 blocks between their large side (two lines [2w, C]) and their small one ([w, 4C]). */
typedef struct fvk_haar_args {
    fvk_in x;
    fvk_out y;
    int64_t n, w, C; /* blocks times C */
    int64_t joins;   /* x is the small side */
} fvk_haar_args;

/* x [.., H, W, C], y [.., h, w, C]; gradient: y is that of x, out the result of forward. */
typedef struct fvk_pool_args {
    fvk_in x, out, dy; /* dy.p set: gradient */
    fvk_out y;
    int64_t n, H, W, C, h, w;
    int32_t size, stride, pad, is_l2;
} fvk_pool_args;

typedef struct fvk_filter_args {
    fvk_in x;
    fvk_out y;
    int64_t n, H, W, C, h, w; /* H, W: of the op's input */
    float down[5], right[5];
    int32_t stride, is_back;
} fvk_filter_args;

/* y[b, r] = sum over k < m of weight[r, k] x[b, index[r, k]]; gradient the other way round */
typedef struct fvk_mix_rows_args {
    fvk_in x;
    fvk_out y;
    const int32_t *index; /* -1: nothing */
    const float *weight;
    int32_t *fault;
    int64_t B, T, R, m, C;
} fvk_mix_rows_args;

/* A warp a row: y = x s / max(|x|, eps), or its gradient. unit_qk: x [tokens, 3, h, hd], s of a query
 * is exp(min(scale[head], most)), of a key 1, values are copied; along [tokens, h]: d y / d scale. */
typedef struct fvk_unit_args {
    fvk_in x, dy; /* dy.p set: gradient */
    fvk_out y;
    const float *scale; /* NULL: plain rows, h 0 */
    float *along;
    int64_t rows, h, hd;
    float eps, most;
} fvk_unit_args;

/* y = a + (b - a) mix; without b, b is the row of a before, or prev at the first of T rows. */
enum { FVK_LERP, FVK_LERP_DA, FVK_LERP_DB };
typedef struct fvk_lerp_args {
    fvk_in a, b, prev, dy;
    fvk_out y;
    const float *mix;
    int64_t n, C, T, what;
} fvk_lerp_args;

/* index[i]: the code with the largest product with row i; equal: the lowest */
typedef struct fvk_nearest_args {
    const float *z, *codes;
    int32_t *index;
    int64_t V, D;
} fvk_nearest_args;

/* y[v, d] += scale dy sum of (codes[v, d] - z[i, d]) over i with ids[i] = v */
typedef struct fvk_chosen_args {
    const float *z, *codes, *dy;
    const int32_t *ids;
    fvk_out y;
    int64_t n, V, D;
    double scale;
} fvk_chosen_args;

/* Sums over B samples of T elements of a function of a and b, in segments; and its gradient times
 * scale w[sample] dy to y. SUMS, DEVIATIONS: of a, and of b. keep: mean and bound of a and of b. */
enum {
    FVK_PAIR_SQUARES, FVK_PAIR_HUBER, FVK_PAIR_ABS, FVK_PAIR_PRODUCTS, FVK_PAIR_SUMS,
    FVK_PAIR_DEVIATIONS, FVK_PAIR_KEPT
};
typedef struct fvk_pairs_args {
    fvk_in a, b;        /* b.p NULL: zeros */
    const int32_t *ids; /* row of b [V, D] for each row of a; NULL: b is as a */
    const float *keep, *w, *dy;
    double *part;       /* [B, segments, 2] */
    fvk_out y;
    int32_t *fault;
    int64_t B, T, segments, D, V;
    double scale;
    int64_t what;
} fvk_pairs_args;

/* TOTAL: y = scale sum of w[b] s[b]. EACH: y[b] = scale dy s[b]. MEANS, BOUNDS: keep [B, 4] from sums
 * and deviations. */
enum { FVK_FOLD_TOTAL, FVK_FOLD_EACH, FVK_FOLD_MEANS, FVK_FOLD_BOUNDS };
typedef struct fvk_pairs_fold_args {
    const double *part;
    const float *w, *dy;
    fvk_out y;
    int32_t *fault;
    int64_t B, segments;
    double scale;
    float width;
    int32_t what;
} fvk_pairs_fold_args;

/* A block a row of logits x [n, V]: loss against a label (-1: none) or softmax(target), and
 * softmax(x), for a target less that of the target. */
typedef struct fvk_softmax_args {
    fvk_in x, target;
    fvk_out probs;
    const int32_t *label;
    double *loss;
    int32_t *fault;
    int64_t n, V;
} fvk_softmax_args;

/* One block: y = scale sum of w loss / number of labels (or n). y NULL: the number alone. */
typedef struct fvk_labels_args {
    const double *loss;
    const int32_t *label;
    const float *w;
    float *y, *number;
    int64_t n;
    double scale;
} fvk_labels_args;

/* y = dy w[row] / number (p - 1 at the label; 0 in rows without) */
typedef struct fvk_softmax_dx_args {
    fvk_in p;
    fvk_out y;
    const int32_t *label; /* NULL: p as it is */
    const float *w, *dy, *number;
    int64_t n, V;
} fvk_softmax_dx_args;

/* A step of AdamW (cuda/train.h); part [parts]. */
typedef struct fvk_squares_args {
    const float *g;
    double *part;
    int64_t n;
} fvk_squares_args;

typedef struct fvk_clip_args {
    const double *part;
    double *norm;
    float *scale; /* of gradients; -1: the norm is not finite */
    int64_t parts;
    double clip, eps;
} fvk_clip_args;

typedef struct fvk_adamw_args {
    float *p, *g, *m, *v, *ema; /* ema, half: NULL for none */
    uint16_t *half;
    const uint8_t *kind;        /* [n / 16] */
    const float *scale;
    int64_t n;
    float b1, k1, b2, k2, c1, c2, eps, lr, wd, d, kd;
    int32_t pad;
} fvk_adamw_args;

typedef struct fvk_exchange_args {
    float *p, *e;
    const uint8_t *kind;
    int64_t n;
} fvk_exchange_args;

/* ---- Integer codecs: cuda/integer.h, cuda/prior.h --------------------------------------------- */

#define FVK_IDOTS_ROWS 32 /* of a block's tile */
#define FVK_IDOTS_COLUMNS 64
typedef struct fvk_idots_args {
    const int16_t *x;   /* [M, K] */
    const void *w;      /* [N, K], int8 or (wide) int16 */
    const int32_t *mul; /* [N] */
    int32_t *y;         /* [M, N]; add: on top of what is there, sat_24 */
    int64_t M, N, K;    /* K: a multiple of 4 */
    int32_t shift, wide, add, pad;
} fvk_idots_args;

/* The same product by FVK_GEMM_INT8: y [2, apart]: of n numbers of x the upper 8 bits, and `apart`
 * further the lower ones less 128; then from sums t [2, apart] of both [M, N], and w_sum [N], y. */
typedef struct fvk_halves_args {
    const int16_t *x;
    int8_t *y;
    int64_t n, apart;
} fvk_halves_args;
typedef struct fvk_join_halves_args {
    const int32_t *t, *w_sum, *mul;
    int32_t *y;
    int64_t M, N, apart;
    int32_t shift, add;
} fvk_join_halves_args;

#define FVK_CODE_TAPS 16
#define FVK_CODE_TOKENS (16 + 64 + 3 * 256) /* most of a window */
#define FVK_CODE_EPS 168
#define FVK_CODE_LOGIT (1 << 20)
typedef struct fvk_code_input_args {
    const int16_t *codes;            /* [codes, D] */
    const int32_t *tokens;           /* [windows, T] by position */
    const int32_t *list, *pair;      /* [T] */
    const int32_t *from, *tap;       /* [T, FVK_CODE_TAPS] */
    const int32_t *bias;             /* [width], of the slice */
    int16_t *x;                      /* [rows, K] */
    int32_t *r;                      /* [rows, width] */
    int64_t places, T, D, K, width;  /* places of the slice: rows of a window */
    int32_t first, pad;
} fvk_code_input_args;

typedef struct fvk_code_norm_args {
    const int32_t *r;    /* [any, width] */
    const int32_t *list; /* [rows] of r, or NULL */
    const uint32_t *root;
    int16_t *y;          /* [rows, width] */
    int64_t rows, width;
} fvk_code_norm_args;

typedef struct fvk_code_turn_args {
    const int32_t *x;    /* [rows, 3 heads head] */
    const int16_t *turn; /* [T, 2, head] */
    const uint32_t *root;
    int16_t *y, *cache;  /* [rows, heads head]; [windows, 2, depth, heads, T head] */
    int64_t rows, places, T, heads, head, depth;
    int32_t layer, first;
} fvk_code_turn_args;

typedef struct fvk_code_attend_args {
    const int16_t *y, *cache;
    const int32_t *scale; /* [heads] */
    int16_t *o;           /* [rows, heads head] */
    int64_t places, T, heads, head, depth;
    int32_t layer, visible;
} fvk_code_attend_args;

typedef struct fvk_code_gate_args {
    const int32_t *x; /* [rows, 2 width] */
    const uint32_t *sigmoid;
    int16_t *y;       /* [rows, width] */
    int64_t rows, width;
    int32_t up, down;
} fvk_code_gate_args;

typedef struct fvk_code_spread_args {
    const int32_t *logit; /* [rows, codes] */
    uint16_t *u;          /* the same */
    uint32_t *sum;        /* [rows, groups] */
    int64_t codes, group, groups;
} fvk_code_spread_args;
/* ---- Decoding: decode_device.h says what these are ---- */

#define FVK_DEC_ROWS 8      /* that share a read of weights */
#define FVK_DEC_SUMS 16     /* of a thread: rows times outputs; more do not fit into registers */
#define FVK_DEC_CHUNK 64    /* keys of a block */
#define FVK_DEC_HEAD_MOST 1024
#define FVK_DEC_MOVES 64

/* A pass, in device memory: numbers, then its rows, then what they point at. */
enum {
    FVK_PASS_ROWS, FVK_PASS_WANTED, FVK_PASS_OUTS, /* counts: rows, rows with logits, logits asked for */
    FVK_PASS_LIST, FVK_PASS_INPUT, /* where, in int32: places of outs; values [rows, K] */
    FVK_PASS_HEAD = 16
};
typedef struct fvk_dec_row {
    int32_t seq, position; /* position -1: condition, neither query nor key */
    int32_t slot, zeros, ranges, first[3], n[3];
    int32_t more, n_more;  /* single slots at pass[more] */
    int32_t place, keep;   /* among rows with logits, among rows that go back; -1: not */
    int32_t pad;
} fvk_dec_row;

/* Of a sequence, layer and head `head_bytes`: keys [slots, row], at v values [condition + slots,
 * row], int8: scales of both. Types as fv_dtype. */
typedef struct fvk_dec_cache {
    uint8_t *p;
    int64_t head_bytes, v, k_scale, v_scale;
    int32_t type, hd, row, condition, slots, heads, layers, pad;
} fvk_dec_cache;

typedef struct fvk_dec_prepare_args {
    const int32_t *pass;
    const float *x, *norm; /* x NULL: the input of the pass */
    void *y;
    float *scale, *copy, *down;
    int64_t ld, K, room, vocab;
    int32_t type, cast, is_last;
    float eps;
} fvk_dec_prepare_args;

/* per: sums of a warp for a row: 1, 2, 4; w2: y = act(w x) * (w2 x), per at least 2. x has whole groups
 * of FVK_DEC_ROWS rows */
typedef struct fvk_dec_product_args {
    const int32_t *pass;
    const void *w, *w2, *x;
    const float *w_scale, *w2_scale, *x_scale, *bias;
    fvk_out y;
    int64_t N, room, ldy, groups;
    int32_t type, per, is_last, act;
} fvk_dec_product_args;

typedef struct fvk_dec_store_args {
    const int32_t *pass;
    float *qkv, *q_scale;
    const float *rope;
    int8_t *q8; /* int8: [rows, heads, row] */
    fvk_dec_cache cache;
    int64_t ld, layer;
} fvk_dec_store_args;

/* part [rows, heads, chunks, hd + 2]: sum, largest score, sum of chances */
typedef struct fvk_dec_attend_args {
    const int32_t *pass;
    const float *qkv, *q_scale;
    const int8_t *q8;
    float *part;
    fvk_dec_cache cache;
    int64_t ld, layer, chunks;
    float scale;
    int32_t pad;
} fvk_dec_attend_args;

typedef struct fvk_dec_join_args {
    const int32_t *pass;
    const float *part;
    fvk_out y;
    int64_t ldy, heads, hd, chunks;
} fvk_dec_join_args;

typedef struct fvk_dec_guide_args {
    const int32_t *pass;
    const float *logits;
    float *down;
    int64_t vocab;
    float guidance;
    int32_t pad;
} fvk_dec_guide_args;

typedef struct fvk_dec_move_args {
    fvk_dec_cache cache;
    int64_t seq, seqs; /* the first, and how many from there on */
    int32_t n, pad, from[FVK_DEC_MOVES], to[FVK_DEC_MOVES];
} fvk_dec_move_args;

/* Integers of a network of text; device memory throughout. What a field is stands in
 * codec/nn_int.h. */
#define FVK_PRIOR_GROUP 4     /* lanes of a block at most */
#define FVK_PRIOR_WORDS 5632  /* of shared memory, for all lanes of a block */
#define FVK_PRIOR_HALVES 11264
typedef struct fvk_prior_matrix {
    const int32_t *w;   /* [columns / 4][rows]: four columns of a row */
    const int32_t *mul; /* [rows] */
    int32_t rows, columns, shift, pad;
} fvk_prior_matrix;
typedef struct fvk_prior_norm {
    const int16_t *gain, *bias; /* bias NULL: no mean is taken off */
    int64_t eps;
    int32_t shift, pad;
} fvk_prior_norm;
typedef struct fvk_prior_layer {
    fvk_prior_norm ln1, ln2, head;
    fvk_prior_matrix rkv, out, router, up, down; /* rkv: r, then k, then v */
    const int16_t *mu[3], *value_mix, *rate, *decay;
    const int32_t *key, *bonus;
    const int64_t *head_eps;
    int32_t mix[2], rkv_shift[3], gate, gate_shift, key_shift, bonus_shift, bonus_mul,
        bonus_mul_shift, pad;
} fvk_prior_layer;
/* Tokens token .. token + count - 1, from the state of slot `source` to that of `slot`; rows out ..
 * of h. No two lanes of a launch write one slot. */
typedef struct fvk_prior_lane { int32_t source, slot, token, count, out, pad; } fvk_prior_lane;
typedef struct fvk_prior_args {
    const fvk_prior_layer *layers;
    const int8_t *embed;
    const int32_t *embed_mul;
    const uint32_t *root, *sigmoid;
    fvk_prior_norm norm;
    const fvk_prior_lane *lanes;
    const int32_t *tokens;
    int32_t *wkv;    /* [slots][layers][width / 16][16][16] */
    int16_t *before; /* [slots][layers][width] */
    int16_t *out;    /* [rows][width] */
    int32_t layer_count, width, hidden, experts, embed_shift;
    int32_t lane_count, group, each_words, each_halves, pad; /* each: of a lane, in shared memory */
} fvk_prior_args;

/* Gradients that were kept in s: y (+)= dy scale (s + w s[n + ..]); w NULL: s alone. */
typedef struct fvk_kept_dx_args {
    const float *s, *w, *dy;
    fvk_out y;
    int64_t n;
    double scale;
} fvk_kept_dx_args;

typedef struct fvk_total_args {
    const double *part;
    float *y;
    int64_t n;
    double scale;
} fvk_total_args;

#define FVK_SORT 4096      /* keys in shared memory */
#define FVK_PLACE_SUMS 13  /* of a row: coarse, m, fine, costs of tenths */
/* Rows [rows, n] of from [B, P, C]: x, y, then both gradients. G groups of K, the last has the rest;
 * padded: power of two from n on, 0: as they are. cost [rows, G], sums [rows, FVK_PLACE_SUMS]. */
typedef struct fvk_place_args {
    fvk_in from[2];
    float *x, *y, *cost, *terms;
    uint64_t *order; /* [rows, padded] */
    double *sums, *total;
    int64_t B, P, C, used, columns, rows, n, K, G, padded;
    float eps;
    int32_t guarded, squared, eps_of_sum;
} fvk_place_args;

/* part, as fv_place_part has it; groups: of each tenth, in all rows. */
typedef struct fvk_place_end_args {
    const double *total;
    const float *given;
    float *loss, *part;
    int32_t *fault;
    double count, groups[10], mean; /* mean: of m over all ranks, if is_shared */
    float constant;
    int32_t is_constant, is_shared, pad;
} fvk_place_end_args;

#define FVK_PATCH 64 /* largest side */
/* A block a patch; wave [P, 2]: cos and -sin of 2 pi k / P; grad NULL: not kept. */
typedef struct fvk_spectrum_args {
    const float *a, *target, *wave;
    float *grad;
    double *part;
    int64_t H, W, C, P;
    float scale;
    int32_t pad;
} fvk_spectrum_args;

#define FVK_SSIM_TAPS 11
#define FVK_SSIM_SCALES 5
/* Planes [B, h, w] of a scale, 0: a, 1: target; fine: those of twice the size [B, H, W]. value, slope:
 * of windows. mean, factor [B, FVK_SSIM_SCALES], loss [B]. grad: RGB, of the first scale alone. */
typedef struct fvk_ssim_args {
    const float *rgb[2], *fine[2], *coarse;
    float *plane[2], *slope[3], *value, *g, *grad, *factor;
    double *mean, *loss, weight[FVK_SSIM_SCALES];
    int64_t B, h, w, H, W;
    float taps[FVK_SSIM_TAPS];
    int32_t scale, scales, is_last;
} fvk_ssim_args;

typedef struct fvk_band_turn_args {
    fvk_in x;
    fvk_out y;
    int64_t B, H, W, C, is_back;
} fvk_band_turn_args;

typedef struct fvk_band_mask_args {
    float *z;
    const float *m;
    int64_t h, planes, w;
} fvk_band_mask_args;

/* A chunk of n experts from `first` on, of E. u [R, n I]: rows times U, NULL: h is x [R, I]. a: gate h,
 * 0 of experts that a row is not for. dh: gradient of h. dgate [R, E], du, dx [R, I]: p NULL where not
 * wanted. */
typedef struct fvk_moe_args {
    fvk_in x;
    const float *gate, *u, *dh;
    fvk_out a, du, dgate, dx;
    int64_t R, E, I, first, n;
} fvk_moe_args;

/* ds = scale p (dp - delta of the row); p, dp, ds [rows, S] */
typedef struct fvk_scores_dx_args {
    fvk_in p;
    const float *dp, *delta;
    fvk_out ds;
    int64_t rows, S;
    float scale;
    int32_t pad;
} fvk_scores_dx_args;

#define FVK_TEXTURE_BASIS 7
#define FVK_TEXTURE_TAPS 9
#define FVK_TEXTURE_TURNS 4
#define FVK_TEXTURE_POOLS 5
#define FVK_TEXTURE_TILE 16 /* side: the largest window */
/* Planes [B, h, w] of a scale of one colour, 0: a, 1: target. basis [B, FVK_TEXTURE_BASIS, h - 8, w - 8]:
 * gradients of the filters' answers; g: of plane 0, coarse: g of half the size. NULL: not wanted. part:
 * loss of each tile. is_last: the planes themselves are the band. pool: weights of windows. */
typedef struct fvk_texture_args {
    const float *rgb[2], *coarse;
    float *plane[2], *basis, *g;
    double *part;
    int64_t B, h, w, H, W; /* H, W: of rgb; twice the size: means of 2x2 */
    float down[FVK_TEXTURE_BASIS][FVK_TEXTURE_TAPS], right[FVK_TEXTURE_BASIS][FVK_TEXTURE_TAPS];
    float turn[FVK_TEXTURE_TURNS][FVK_TEXTURE_BASIS], pool[FVK_TEXTURE_POOLS], mix[3];
    int32_t is_last, is_half;
    double weight;
} fvk_texture_args;

/* grad [B, H, W, 3] from gradients of luma [B, H, W] and of two colours [B, H / 2, W / 2] */
typedef struct fvk_texture_rgb_args {
    const float *g[3];
    float *grad, back[3][3];
    int32_t pad;
    int64_t B, H, W;
} fvk_texture_rgb_args;

#include "cuda/abi_sampling.h"

#define FVK_LIST(K)                                                                            \
    K(squares) K(clip) K(adamw) K(exchange) K(kept_dx) K(total)                               \
    K(place_rows) K(place) K(place_sum) K(place_end) K(place_terms) K(spectrum)               \
    K(band_turn) K(band_mask) K(ssim_luma) K(ssim_halve) K(ssim_windows) K(ssim_mean)          \
    K(ssim_end) K(ssim_slopes)                                                                 \
    K(to_fp8) K(rescale) K(map) K(binary) K(blend) K(swiglu) K(norm) K(norm_dx) K(norm_rows)    \
    K(norm_rows_dx) K(rope) K(rope_dx) K(columns) K(fold)                                       \
    K(norm_fold) K(sample_db) K(timestep) K(embed) K(by_id) K(patch) K(strip) K(spread)         \
    K(attention) K(attention_delta) K(attention_dq) K(attention_dkv)                            \
    K(attention_mma32) K(attention_mma64) K(attention_mma80) K(attention_mma128)                \
    K(attention_dq_mma32) K(attention_dq_mma64) K(attention_dq_mma80)                           \
    K(attention_dkv_mma32) K(attention_dkv_mma64) K(attention_dkv_mma80)                        \
    K(unfold) K(permute) K(group_fold) K(group) K(upsample) K(windows) K(haar) K(pool) K(pool_dx) \
    K(filter) K(mix_rows) K(mix_rows_dx) K(unit) K(lerp) K(nearest) K(chosen) K(pairs)            \
    K(pairs_dx) K(pairs_fold) K(softmax) K(labels) K(softmax_dx) K(scores) \
    K(route) K(balance_row) K(balance) K(balance_dx) K(lpips) K(dists_moments) K(dists) K(dists_dx) \
    K(rate) K(rate_dx) K(wkv) K(wkv_dx) K(wkv_head) K(tree) K(tree_dh) K(tree_nodes) \
    K(idots) K(halves) K(join_halves) K(code_input) K(code_norm) K(code_turn) K(code_attend) K(code_gate) K(code_spread) \
    K(prior) FVK_SAMPLING_LIST(K)                                                               \
    K(dec_prepare) K(dec_product) K(dec_product8) K(dec_store) K(dec_attend) K(dec_join)        \
    K(dec_guide) K(dec_move)                                                                    \
    K(moe_hidden) K(moe_back) K(moe_mix) K(scores_dx) K(texture_planes) K(texture_bands)        \
    K(texture_slopes) K(texture_rgb)
/* Kernels that take the arguments of another. */
typedef fvk_norm_args fvk_norm_dx_args, fvk_norm_rows_args, fvk_norm_rows_dx_args;
typedef fvk_moe_args fvk_moe_hidden_args, fvk_moe_back_args, fvk_moe_mix_args;
typedef fvk_texture_args fvk_texture_planes_args, fvk_texture_bands_args, fvk_texture_slopes_args;
typedef fvk_dec_product_args fvk_dec_product8_args;
typedef fvk_rope_args fvk_rope_dx_args;
typedef fvk_pool_args fvk_pool_dx_args;
typedef fvk_mix_rows_args fvk_mix_rows_dx_args;
typedef fvk_pairs_args fvk_pairs_dx_args;
typedef fvk_balance_args fvk_balance_row_args, fvk_balance_dx_args;
typedef fvk_dists_args fvk_dists_moments_args, fvk_dists_dx_args;
typedef fvk_rate_args fvk_rate_dx_args;
typedef fvk_wkv_args fvk_wkv_dx_args;
typedef fvk_tree_args fvk_tree_dh_args, fvk_tree_nodes_args;
typedef fvk_ssim_args fvk_ssim_luma_args, fvk_ssim_halve_args, fvk_ssim_windows_args,
    fvk_ssim_mean_args, fvk_ssim_end_args, fvk_ssim_slopes_args;
typedef fvk_place_args fvk_place_rows_args, fvk_place_sum_args, fvk_place_terms_args;
typedef fvk_attention_args fvk_attention_delta_args, fvk_attention_dq_args, fvk_attention_dkv_args,
    fvk_attention_mma32_args, fvk_attention_mma64_args, fvk_attention_mma80_args,
    fvk_attention_mma128_args, fvk_attention_dq_mma32_args, fvk_attention_dq_mma64_args,
    fvk_attention_dq_mma80_args, fvk_attention_dkv_mma32_args, fvk_attention_dkv_mma64_args,
    fvk_attention_dkv_mma80_args;

#define FVK_ID(name) FVK_##name,
typedef enum fvk_kernel { FVK_LIST(FVK_ID) FVK_KERNELS } fvk_kernel;
#undef FVK_ID

/* ---- The device ------------------------------------------------------------------------------ */

/* What functions return; error() then has a sentence. */
enum { FVK_OK, FVK_NO_MEMORY, FVK_FAILED, FVK_UNSUPPORTED, FVK_BAD_INPUT, FVK_NOT_FINITE };
/* Bits that kernels set in *fault. Seen at the next sync or copy to the host. */
enum { FVK_FAULT_ID = 1, FVK_FAULT_VISIBLE = 2, FVK_FAULT_FINITE = 4, FVK_FAULT_TAU = 8 };

typedef struct fvk_info {
    char name[128];
    int32_t major, minor, multiprocessors, runtime, driver; /* versions: 13000 is 13.0 */
    uint64_t memory_bytes;
    char libraries[160]; /* what was found beside CUDA, or why not */
} fvk_info;

/* c[M,N] = then(a[M,K] b[K,N] + bias[N]) (+ c), row-major; *_trans: stored transposed. Sums are f32,
 * without TF32 but where it is asked for. a and b are both f32 or both bf16 (ab_bf16), or as `kind` says: INT8: c is int32, exact
 * while sums fit; b_trans, M, N and K multiples of 4. FP8: e4m3, b_trans, N and K multiples of 16; with
 * `scales` c[i, j] is a_scale[i] b_scale[j] times the product of the numbers.
 * bias: of the type of c. sums: instead of a bias sums [M] over K of a are written, of the type of c.
 * ld*: elements from row to row as stored, 0: no gaps. batch: products at once, 0 is one, *_step apart.
 * What cuBLASLt has no algorithm for is FVK_UNSUPPORTED; plain f32 and bf16 products are always there. */
enum { FVK_GEMM_FLOAT, FVK_GEMM_INT8, FVK_GEMM_FP8 };
enum { FVK_THEN_NOTHING, FVK_THEN_RELU, FVK_THEN_GELU /* tanh */ };
typedef struct fvk_gemm {
    int64_t M, N, K;
    int32_t ab_bf16, c_bf16, a_trans, b_trans, accumulate, bias;
    int32_t kind, then, sums, scales;
    int64_t lda, ldb, ldc, batch, a_step, b_step, c_step;
} fvk_gemm;
typedef struct fvk_operands {
    const void *a, *b, *bias; /* bias: or where sums go */
    const float *a_scale, *b_scale; /* [M], [N] */
    void *c;
} fvk_operands;

/* What a library of the device may have; UNSUPPORTED when it is made, or at a run, for memory that is
 * not aligned to 16 bytes: then kernels of our own do it. Nothing is added to what is there.
 * Maps x [B, H, W, C] and y [B, h, w, O], weights [O, kh, kw, C]. FORWARD writes y, DX x, DW the weights;
 * library_run takes x, weights, y. Types of each; f32 without TF32. */
enum { FVK_CONV_FORWARD, FVK_CONV_DX, FVK_CONV_DW };
typedef struct fvk_conv {
    int64_t B, H, W, C, O, h, w;
    int32_t kh, kw, stride, top, left, bottom, right, what, x_bf16, w_bf16, y_bf16, pad;
} fvk_conv;
/* Attention in bf16, o [B, T, h, hd] = softmax(scale q k^T) v; a token of q, k, v is row elements after
 * the one before, a head hd. library_run takes q, k, v, o, lse [B, h, T] (keeps_lse, else NULL), and
 * backward, which reads these, do, dq, dk, dv, as q, k, v lie, and room for [B, h, T] f32. */
typedef struct fvk_flash {
    int64_t B, T, S, h, hd, q_row, k_row, v_row;
    float scale;
    int32_t keeps_lse, backward, pad;
} fvk_flash;
typedef struct fvk_library fvk_library;

/* Settings of a device handle, before anything is made with it. OFF: bits of what is refused as
 * unsupported (comparisons, tests). TRIES: this many algorithms of a product are timed when it is made;
 * 0 and 1: none, the first is taken. TF32: products and convolutions of f32 may round their factors. */
enum { FVK_SET_OFF, FVK_SET_TRIES, FVK_SET_TF32 };
enum {
    FVK_OFF_EPILOGUES = 1, /* of products: activations, sums, bias in bf16 */
    FVK_OFF_INT8 = 2, FVK_OFF_FP8 = 4, FVK_OFF_SCALES = 8,
    FVK_OFF_CUDNN = 16 /* convolutions and attention of a library */
};

typedef struct fvk_dev fvk_dev;
typedef struct fvk_product fvk_product;
typedef struct fvk_graph fvk_graph;
typedef struct fvk_ranks fvk_ranks;
#define FVK_RANKS_ID 128

typedef struct fvk_api {
    uint32_t abi, kernels;
    /* Device `index`; why (why_bytes) says what is wrong otherwise. FVK_UNSUPPORTED: there are
     * devices, but not so many. */
    int (*info)(int index, fvk_info *out, char *why, size_t why_bytes);
    int (*open)(int index, fvk_dev **out, char *why, size_t why_bytes);
    void (*close)(fvk_dev *d);
    /* The sentence of the last failure of this device on any thread. */
    const char *(*error)(const fvk_dev *d);
    /* Zeroed, 256-byte aligned, NULL when there is none; any thread. */
    void *(*alloc)(fvk_dev *d, size_t bytes);
    void (*free)(fvk_dev *d, void *p);
    /* Is p in memory of the device? */
    int (*owns)(fvk_dev *d, const void *p);
    /* In the order of launches. to_device: src may change afterwards; to_host: dst is complete. */
    int (*to_device)(fvk_dev *d, void *dst, const void *src, size_t bytes);
    int (*to_host)(fvk_dev *d, void *dst, const void *src, size_t bytes);
    int (*on_device)(fvk_dev *d, void *dst, const void *src, size_t bytes);
    int (*zero)(fvk_dev *d, void *p, size_t bytes);
    int (*sync)(fvk_dev *d);
    int32_t *(*fault)(fvk_dev *d);
    int (*launch)(fvk_dev *d, fvk_kernel k, int64_t blocks, const void *args, size_t bytes);
    int (*gemm_create)(fvk_dev *d, const fvk_gemm *g, fvk_product **out);
    int (*gemm_run)(fvk_dev *d, fvk_product *g, const void *a, const void *b, const void *bias,
                    void *c);
    int (*gemm_scaled)(fvk_dev *d, fvk_product *g, const fvk_operands *o);
    void (*gemm_destroy)(fvk_dev *d, fvk_product *g);
    /* Launches and products between the two are kept, not run; graph_end with out NULL drops them. */
    int (*graph_begin)(fvk_dev *d);
    int (*graph_end)(fvk_dev *d, fvk_graph **out);
    int (*graph_run)(fvk_dev *d, fvk_graph *g);
    void (*graph_destroy)(fvk_dev *d, fvk_graph *g);
    int (*set)(fvk_dev *d, int what, int64_t value);
    int (*conv_create)(fvk_dev *d, const fvk_conv *c, fvk_library **out);
    int (*attention_create)(fvk_dev *d, const fvk_flash *a, fvk_library **out);
    int (*library_run)(fvk_dev *d, fvk_library *l, void *const *pointers);
    void (*library_destroy)(fvk_dev *d, fvk_library *l);
    /* Sums over devices of several processes, by a library of the device's (NCCL). ranks_id: a new
     * number for ranks_open, of one process, to be handed to all; id NULL: is there a library?
     * FVK_UNSUPPORTED: there is none, or it does not serve these. ranks_open waits for all ranks. */
    int (*ranks_id)(fvk_dev *d, uint8_t id[FVK_RANKS_ID]);
    int (*ranks_open)(fvk_dev *d, const uint8_t id[FVK_RANKS_ID], int rank, int size,
                      fvk_ranks **out);
    /* x [n] becomes its sum, the same bits on all; in the order of launches. */
    int (*ranks_sum)(fvk_dev *d, fvk_ranks *r, float *x, int64_t n);
    void (*ranks_close)(fvk_dev *d, fvk_ranks *r);
} fvk_api;

typedef const fvk_api *(*fvk_entry)(void);

#endif
