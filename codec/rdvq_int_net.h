/* rdvq_int_net.h - private: the integers of RDVQ's entropy model; shared by codec/rdvq_int*.c and
 * rdvq_code.c. rdvq_int_ref.c is the definition; the other variants are equal to it bit by bit,
 * because all they change is the order of exact sums.
 *
 * ---- Numbers ----
 * Words as in nn_int.h: Qk, sat, rsh, scaled(x, m, s) = rsh(x m, s) with a product of 64 bits,
 * root(v) = R 2^-(46+q). Everything stays inside its type; why is said at "fits".
 *
 *     matrix     weights of 8 or 16 bits; product of a row with a vector of 16 bits (|x| <= 32767),
 *                then scaled() by a factor of the row and a shift of the matrix
 *                fits: rdvq_int_open checks sum |w| <= 65538 of each row, and 65538 * 32767 < 2^31.
 *                8 bits and up to 516 columns always pass; so the kernels, which multiply 16 by 16
 *                bits, take activations of 16 bits at the price of 12, and A12 is not needed
 *     r          residual stream: Q12, sat_24
 *     codes      of unit length: Q14
 *
 * ---- A place p of slice j ----
 *     x = [pair; coarse]         pair: code of rdvq_slices.pair; coarse: rsh(sum tap code, 16).
 *                                fits: sum |tap| <= 328^2, times 2^14 < 2^31; |x| <= 26897
 *     r = sat(bias_j + Win x)
 *     each layer:
 *         y = norm(r)            the norm's gains are folded into the matrix behind it
 *         q, k, v = sat_15(Wqkv y)
 *         q, k: turn, then unit: t = (a cos - b sin, a sin + b cos), cos and sin Q14;
 *               R of sum of squares of q before it is turned; rsh(t R, 46 + q'): Q14. 0 stays 0.
 *               fits: cos^2 + sin^2 <= 2^28 + 2^15 is checked, so |t| < 2^30; |result| <= 16386
 *         o = attention of each head (below), sat_15
 *         r = sat(r + Wo o)
 *         y = norm(r);  g, l = sat_15(W13 y);  g is Q(10 - up)
 *         h = sat_15(rsh(rsh(g sigmoid(g << up), 15) l, down)), sigmoid Q15 as in nn_int.h
 *         r = sat(r + W2 h)
 *     logit = clamp(Whead norm(r), +-2^20)         Q10, of log2
 *
 * norm of n values r: var = floor(sum r^2 / n) + 168 (1e-5), (R, q) = root(var),
 *     y = sat_15(rsh(r R, 35 + q)): Q11. fits: sum r^2 <= 2^48 4096 = 2^60
 *
 * attention of a head, over keys 0 .. n - 1 (rdvq_slices.visible):
 *     s = q . k: Q28, |s| <= 2^28 1.01 (Cauchy-Schwarz; also each part of the sum)
 *     e_k = rsh(rsh(s, 13) scale, 13): Q10, of log2; scale: Q8, at most 36934. fits: 33100 36934
 *     w_k = exp2(max e - e_k) >> 3: Q17;  Z = sum w < 2^27, b = its number of bits - 17
 *     inv = floor(2^(29+b) / Z), 2^12 .. 2^13
 *     P_k = min(32767, rsh(w_k inv, 14 + b)): Q15. fits: 2^17 2^13 + 2^26
 *     o = rsh(sum P v, 15). fits: sum P <= 2^15 + 848/2 + 1, times 32767
 *
 * exp2(u), u >= 0 Q10: f = u & 1023, n = min(u >> 10, 28); t = 40983; t = 241680 - (t f >> 10);
 *     t = 724985 - (t f >> 10); (2^20 - (t f >> 10)) >> n: Q20, right to 1.1e-4. A polynomial and
 *     no table: it costs half of what reading 16 entries does.
 *
 * ---- Probabilities of a place: two levels ----
 * Codes are in `groups` groups of `group` codes (a power of two, at least the root of their number;
 * the last group may be smaller). u = min(max logit - logit, 65535); weight w = exp2(u) << 3 >> n,
 * Q23, where the shift by n comes last; W_g = sum of a group's w <= 2^31.
 *     frequencies(weights, n): of 2^16 in all: inv = floor((2^16 - n) 2^40 / sum);
 *     f_i = 1 + (w_i inv >> 40); what is missing goes to the first of the largest w; if the sum is
 *     0, 2^16 / n each, the rest to the first. fits: w_i <= sum, so w_i inv <= 2^56
 * A token is coded as its group, with frequencies(W), then as its place in the group, with
 * frequencies of the group's w. Against one flat table of 16 bits this saves 1 to 4 %.
 *
 * ---- What a window has seen where it leaves the picture ----
 * A place that is not coded takes the token of the nearest place of its slice that is (rows and
 * columns counted in cells; first one of equals), so that the history looks like a picture; none in
 * its slice: pad_token. rdvq-xs on 13 photos, of each window a quarter, half, three quarters of the
 * rows inside: 6.02, 5.81, 5.79 bits of a token; with pad_token everywhere 6.44, 6.03, 5.88; were
 * the rest known 5.78, 5.73, 5.74. */
#ifndef FV_RDVQ_INT_NET_H
#define FV_RDVQ_INT_NET_H

#include "nn_int.h"
#include "rdvq_int.h"

#define RDVQ_INT_PREFIX "rdvq.int."
#define RDVQ_INT_META "fovea.rdvq.int" /* key of the version */
#define RDVQ_INT_VERSION 1
#define RDVQ_ROW_LIMIT 65538     /* sum of a row's |w|  */
#define RDVQ_CODE_ONE 16384      /* Q14 */
#define RDVQ_EPS 168             /* 1e-5 in Q24 */
#define RDVQ_SCALE_LIMIT 36934   /* 100 log2(e) 2^8 */
#define RDVQ_LOGIT_LIMIT (1 << 20)
#define RDVQ_ROWS 64             /* rows that a thread works on together, if a slice allows it */
#define RDVQ_MAX_GROUP 256
#define RDVQ_INT_MAX_CODE 256    /* width of a code */
#define RDVQ_INT_MAX_HEAD 256

/* Weights widened to 16 bits in the order that the kernels read: 16 rows by 2 columns are 64 bytes;
 * then the next 2 columns; then the next 16 rows. */
typedef struct rdvq_matrix {
    int rows, columns, shift; /* rows a multiple of 16, columns of 2 */
    int bits;                 /* of a weight in the file, 8 or 16 */
    int16_t *w;
    int32_t *mul;             /* [rows], at least 0 */
} rdvq_matrix;
FV_INLINE size_t rdvq_int_at(int columns, int row, int column)
{
    return (((size_t)(row >> 4) * (size_t)(columns >> 1) + (size_t)(column >> 1)) * 16 +
            (size_t)(row & 15)) * 2 + (size_t)(column & 1);
}

typedef struct rdvq_int_layer {
    rdvq_matrix qkv, wo, w13, w2;
    int32_t *scale; /* [heads] */
    int32_t up, down;
} rdvq_int_layer;

struct rdvq_int_ops;
struct rdvq_int {
    fv_ctx *ctx;
    rdvq_config cfg;
    rdvq_slices slices;
    int head;                   /* channels of an attention head */
    int group, groups;
    const struct rdvq_int_ops *ops;
    const nn_int_ops *nn;       /* of the same variant: sums and clamps */
    int16_t *codes;             /* [codes, code_width] */
    rdvq_matrix input, output;  /* output: of the head of the network */
    int32_t *bias;              /* [slices, width] */
    int16_t *rope;              /* [tokens, 2, head/2] */
    rdvq_int_layer layer[RDVQ_MAX_DEPTH];
    /* made from these */
    int16_t *turn;              /* [tokens, 2, head]: cos cos.. | -sin sin.. */
    int32_t *from, *tap;        /* [tokens, RDVQ_TAPS] by position: coarse */
    uint8_t hash[32];
    void *arena;
    size_t arena_bytes;
};

/* Products of rows of 16 bits with packed columns (as in rdvq_matrix). */
typedef struct rdvq_dots {
    const int16_t *w;
    int blocks;                 /* of 16 results */
    int pairs;                  /* of inputs that count */
    int stride;                 /* pairs from one block to the next */
    const int32_t *mul;         /* scaled(): [16 blocks]; NULL: the sums themselves */
    int shift;
} rdvq_dots;

/* What a CPU may do faster. Numbers of elements are multiples of 16 where nothing else is said;
 * memory need not be aligned. */
typedef struct rdvq_int_ops {
    const char *name;
    /* out [rows, step_out] = x [rows, step_x] */
    void (*dots)(int32_t *out, int step_out, const rdvq_dots *d, const int16_t *x, int step_x,
                 int rows);
    void (*norm)(int16_t *y, const int32_t *r, int n);
    /* q of one head, not yet sat_15; turn: [2, n] */
    void (*unit)(int16_t *y, const int32_t *q, const int16_t *turn, int n);
    /* s: sums q . k of n keys, n >= 1 any number; P is 0 up to the next multiple of 16. s is
     * overwritten, and read up to there. */
    void (*attend)(int16_t *P, int32_t *s, int n, int32_t scale);
    void (*average)(int16_t *o, const int32_t *sum, int n); /* sat_15(rsh(sum, 15)) */
    void (*gate)(int16_t *h, const int32_t *g, const int32_t *l, int n,
                 const rdvq_int_layer *layer);
    /* u of n logits, and the sums of weights of groups of `group` */
    void (*spread)(uint16_t *u, uint32_t *sum, const int32_t *logit, int n, int group);
} rdvq_int_ops;
extern const rdvq_int_ops rdvq_int_ops_c, rdvq_int_ops_avx2, rdvq_int_ops_avx512,
    rdvq_int_ops_avx512vnni;
const rdvq_int_ops *rdvq_int_ops_for(uint32_t cpu);

/* ---- Scalar parts ---------------------------------------------------------------------------- */

FV_INLINE int rdvq_bits_of(uint32_t x) /* number of bits, 0 for 0 */
{
    int n = 0;
    for (int s = 16; s; s >>= 1)
        if (x >> s) x >>= s, n += s;
    return n + (int)x;
}
#define RDVQ_EXP2_1 724985
#define RDVQ_EXP2_2 241680
#define RDVQ_EXP2_3 40983
FV_INLINE uint32_t rdvq_exp2(uint32_t f) /* f < 1024: Q20, from 2^20 down to above 2^19 */
{
    uint32_t t = RDVQ_EXP2_2 - ((RDVQ_EXP2_3 * f) >> 10);
    t = RDVQ_EXP2_1 - ((t * f) >> 10);
    return (1u << 20) - ((t * f) >> 10);
}
FV_INLINE uint32_t rdvq_weight(uint32_t u) /* Q23 */
{
    const uint32_t n = u >> 10;
    return (rdvq_exp2(u & 1023) << 3) >> (n < 31 ? n : 31);
}
/* Frequencies of 2^16 in all; start[n] = 2^16. n >= 1. */
void rdvq_frequencies(const uint32_t *weight, int n, uint32_t *start);

/* ---- Model (rdvq_int.c) ---------------------------------------------------------------------- */

/* Every tensor of a file, in the order of the canonical blob. */
typedef struct rdvq_field {
    char name[64];
    void **array;               /* address of the pointer to the elements, or NULL */
    int32_t *scalar;
    rdvq_matrix *matrix;        /* its weights; array is its w */
    int bytes, ndim;            /* of an element; a matrix's are 1 or 2 in files */
    int64_t dim[3];
    int64_t lo, hi;
} rdvq_field;
fv_status rdvq_int_visit(rdvq_int *m, fv_status (*visit)(void *user, const rdvq_field *f),
                         void *user);
/* Own models whose widths are multiples of 16; FV_ERR_UNSUPPORTED says which is not. */
fv_status rdvq_int_config_check(fv_ctx *ctx, const rdvq_config *c);
/* All tensors zero and in place; scalar. */
fv_status rdvq_int_create(fv_ctx *ctx, rdvq_int **out, const rdvq_config *c);
/* After the tensors are filled: checks what the arithmetic relies on (FV_ERR_MODEL), makes tables
 * and hash, chooses ops. */
fv_status rdvq_int_ready(fv_ctx *ctx, rdvq_int *m);
/* Float weights -> integers (rdvq_int_export.c). bits: of weights, 8 or 16. */
fv_status rdvq_int_from_net(fv_ctx *ctx, rdvq_int **out, const rdvq_net *n, int bits);
/* All tensors of a model that outlives the pack. */
fv_status rdvq_int_pack(fv_pack *p, const rdvq_int *m);

/* ---- Running it (rdvq_int_run.c) ------------------------------------------------------------- */

/* Places first .. end - 1 (coding order, whole slices) of one window. */
typedef struct rdvq_span {
    int16_t *cache;             /* rdvq_int_cache_size elements: keys and values of the window */
    const int32_t *tokens;      /* by position; those of slices before each place's are read */
    int first, end;
} rdvq_span;
/* Elements of a window's keys and values. They are zero before its first run. */
size_t rdvq_int_cache_size(const rdvq_int *m);
/* Work memory for up to `rows` places at a time, in bytes. */
size_t rdvq_int_work_size(const rdvq_int *m, int rows);
/* Places of all spans through the network, spans one after another; each span's places before
 * `first` have been run. -> norm(r) [rows, width], in `work`. */
int16_t *rdvq_int_run(const rdvq_int *m, const rdvq_span *spans, int count, int rows, void *work);
/* Rows of norm(r) -> u [rows, codes] and starts of the groups [rows, groups + 1]. x may lie in
 * `work`, where rdvq_int_run left it. */
void rdvq_int_spread(const rdvq_int *m, const int16_t *x, int rows, void *work, uint16_t *u,
                     uint32_t *start);

#endif
