/* nn_int.h - private: the integer network, the neural prior of .vz.
 *
 * omnizip.c's network in integers only, one token at a time: the same bits on every CPU and
 * compiler. nn_int_ref.c is the definition; nn_int_avx2.c, _avx512 and _avx512vnni are equal to it
 * bit by bit, because all they change is the order of exact sums.
 *
 * Why one stream at a time, and not lanes in lockstep that share each weight read: the body of a
 * network of 128 with 2 layers has 0.4 MB of weights, which stay in the second-level cache. From
 * there a product of matrix and vector runs at 33 weights a tick (Zen 4, vpdpwssd, 11,700 ticks for
 * 393,216 weights); lanes reach 50 to 60, but each of them sees a sixteenth of the block.
 * Why activations of 14 bits, and not 8: at that rate 8 bits take 9,100 ticks, which is all they
 * gain, since weights are what is read; AVX2 has to widen to 16 bits either way.
 * Why nodes of the tree one at a time: a logit takes 35 ticks, 12 of them 2 % of a step; the upper
 * 7 levels at once would take 500.
 *
 * ---- Numbers ----
 * Qk: an integer in units of 2^-k. sat_b(x): clamped to +-(2^b - 1). x >> s: arithmetic (floor).
 * rsh(x, s) = (x + 2^(s-1)) >> s. All sums and products below stay inside their type: the widths
 * say why; nothing wraps.
 *     scaled(x, m, s) = rsh(x * m, s), x and m 32 bits, product 64 bits, 0 <= m < 2^31
 *     weights    8 bits, +-127, per row a scale m 2^-s of 31 bits; s is common to a matrix
 *     vectors    16 bits, sat_13; r sat_11; hidden 0 .. 8191; each with a scale of its own that is
 *                folded into the m of what makes it and of what reads it
 *     residual   x: Q12, sat_24
 *     product    sum of w a <= 127 * 8191 * 2048 < 2^31 (columns <= 2048), then scaled()
 *
 * ---- A step: token t -> hidden vector h ----
 *     x = x0 = sat_24(scaled(e_t, m_t, s))          e_t: row of the embedding, RMS and weight in it
 *     each layer:
 *         x = sat_24(rsh(x mix_0 + x0 mix_1, 14))   64 bits; |mix| < 2^17: Q14
 *         a = norm(x, mean off);  d = a' - a        a': a of the token before; kept in the state
 *         xrg, xk, xv = sat_13(a + rsh(d mu, 14))   mu: Q14, 16 bits
 *         r = sat_11(Wr xrg), k = sat_13(Wk xk), v = sat_13(Wv xv)
 *         v = sat_13(v + rsh((v of layer 0 - v) value_mix, 14))       from the second layer on
 *         z = time_mix of each head of 16 (below)
 *         g = sigmoid(rsh(xrg gate, gate_shift))    argument Q10
 *         x = sat_24(x + Wo sat_13(rsh(z g, 15)))
 *         b = norm(x, mean off);  u = max(0, Wu b), at most 32767
 *         x = sat_24(x + Wd min(8191, rsh(u u, 17)))
 *       with experts: their two rows of Wu and Wd each, see nn_int_ref.c
 *     h = norm(x, no mean)
 * logit of node q = clamp(scaled(w_q . h + b_q, m_q, s) + adapted, +-2047) in Q8 (VZ_LOGIT_MAX);
 * q is the node's split (nn_vocab.h).
 *
 * norm of n values c with |c| <= 2^24:
 *     mean = floor((sum c + n/2) / n), or 0;  d = c - mean
 *     var = floor(sum d^2 / n) + eps            eps >= 1; Q24 where c is Q12
 *     (R, q) = root(var):  1 / sqrt(var) = R 2^-(46+q)
 *     xhat = rsh(d R, 35 + q) in Q11, clamped to +-49151
 *     out = sat_13(rsh(xhat gain, s) + bias)    gain and bias 16 bits, 1 <= s <= 30
 * root(v), 0 < v < 2^62: q is the whole number with v = u 4^q, 2^30 <= u < 2^32, u floored;
 *     R = 2^46 / sqrt(u): table by the upper 8 bits of u, then twice
 *     R = R (3 2^31 - (((R R) >> 32) u >> 29)) >> 32;  at last at most 2^31 - 1
 * sigmoid(t): t clamped to +-8192; i = (t + 8192) >> 5, f = (t + 8192) & 31;
 *     T[i] + rsh((T[i+1] - T[i]) f, 5), T[i] = 2^15 sigmoid((i - 256) / 32), at most 32767
 *
 * time_mix of a head; S[j][i], |S| <= 2^27 - 2^12, i of the value, j of the key; unit per head:
 *     kk_j = scaled by root(sum k^2): rsh(k_j R, 33 + q): Q13; 0 if all k are 0
 *     kb_j = rsh(kk_j rate_j, 14)                  rate: Q15, kb: Q14
 *     K_j = clamp(scaled(k_j, gain_j, s), +-65535)
 *     sa_i = clamp(-rsh(sum_j kk_j rsh(S_ji, 12), 12), +-65535)        of the old S
 *     S_ji = clamp(S_ji - ((rsh(S_ji, 11) u_j) >> 5) + ((sa_i kb_j + v_i K_j + 4) >> 3))
 *     Y_i  = rsh(sum_j r_j rsh(S_ji, 12), 6)                            of the new S
 *     y = norm of the 16 Y_i, eps per head
 *     B = sum_j r_j sat_13(scaled(k_j, bonus_j, s)), then sat_15(scaled(B, bonus_mul, s))
 *     z_i = sat_13(y_i + rsh(B v_i, 12))
 * |kk| <= 1 in length, hence |sum kk S| <= 2^13 2^15 4; r: 2^11 2^15 16; sa kb + v K <= 2^30 +
 * 2^29; u = 2^16 (1 - W) <= 32767.
 *
 * Online adaptation of the head (option): each node has a vector D of 16 bits, 0 at first.
 *     adapted = rsh(sum_k ((D_2k h_2k + D_2k+1 h_2k+1) >> 8), 12), plus rsh(D_bias, 8)
 *     nn_int_adapt: e = clamp(error, +-65535) >> 1;  D_k = sat_15(D_k + rsh(h_k e, rate + c))
 *     D_bias = clamp(D_bias + (e >> 7), +-2^20)
 *     c: a quarter, rounded down, of the number of bits of the node's visits before this one, of
 *     which 65535 are counted. Nodes that are seldom reached have to learn from few.
 * A byte model of English, 30,000 bytes: 2.857 bits per byte without, 2.837 with a constant rate of
 * 2^-16, 2.835 with 2^-14 falling like this; C sources under the same model 6.92, 4.51, 4.41. */
#ifndef VZ_NN_INT_H
#define VZ_NN_INT_H

#include "cm_parts.h"

#define NN_HEAD 16
#define NN_MAX_WIDTH 1024
#define NN_MAX_HIDDEN 2048
#define NN_MAX_LAYERS 32
#define NN_MAX_BITS 16
#define NN_MAX_EXPERTS 64
#define NN_ACT_MAX 8191          /* sat_13 */
#define NN_R_MAX 2047            /* sat_11 */
#define NN_X_MAX ((1 << 24) - 1) /* residual */
#define NN_STATE_MAX ((1 << 27) - (1 << 12))
#define NN_SA_MAX 65535   /* of sa and K */
#define NN_XHAT_MAX 49151 /* times 2^15, and 2^29 more, are below 2^31 */
#define NN_ADAPT_SHIFT 12
#define NN_SIGMOID_ENTRIES 513

typedef struct nn_int_config {
    int width, layers, hidden; /* multiples of 16; hidden: of one expert                       */
    int bits;                  /* 2^bits tokens can be coded: leaves of a tree, of any depths     */
    int tokens;                /* rows of the embedding, at least 2^bits; the rest begin streams */
    int experts;               /* 0: one feed-forward part; else 3 .. 64, of which 2 work        */
} nn_int_config;
fv_status nn_int_config_check(fv_ctx *ctx, const nn_int_config *c);

/* Weights in the order that the kernels read: 16 rows by 2 columns are 32 bytes, row by row; then
 * the next 2 columns; then the next 16 rows. */
typedef struct nn_int_matrix {
    int rows, columns, shift;
    int8_t *w;
    int32_t *mul; /* [rows] */
} nn_int_matrix;
typedef struct nn_int_norm {
    int64_t eps;
    int shift;
    int16_t *gain, *bias; /* bias NULL: root mean square, no mean is taken off */
} nn_int_norm;
typedef struct nn_int_layer {
    int32_t mix[2];
    nn_int_norm ln1, ln2;
    int16_t *mu[3]; /* rg, k, v                                     */
    int32_t gate, gate_shift;
    nn_int_matrix r, k, v, out;
    int16_t *value_mix;    /* Q14                                          */
    int16_t *rate, *decay; /* Q15; 2^16 (1 - W)                            */
    int32_t *key, *bonus;  /* of K and of the bonus, with their shifts     */
    int key_shift, bonus_shift;
    int32_t bonus_mul;
    int bonus_mul_shift;
    nn_int_norm head;       /* gain and bias [width]; eps unused            */
    int64_t *head_eps;      /* [width / 16]                                 */
    nn_int_matrix router;   /* [16 or more rows, the first `experts` count] */
    nn_int_matrix up, down; /* of all experts, one after another            */
} nn_int_layer;

struct nn_int_ops;
typedef struct nn_int_model {
    nn_int_config cfg;
    const struct nn_int_ops *ops;
    bool is_fallback;   /* the self-test of a faster variant failed: scalar is used */
    int8_t *embed;      /* [tokens][width] */
    int32_t *embed_mul; /* [tokens] */
    int embed_shift;
    nn_int_norm norm;              /* before the head */
    int8_t *head;                  /* [2^bits][width], row 0 unused */
    int32_t *head_mul, *head_bias; /* [2^bits]; bias in units of w . h, up to 2^30 */
    int head_shift, adapt_rate;
    nn_int_layer layer[NN_MAX_LAYERS];
    void *arena;
    size_t arena_bytes;
} nn_int_model;

/* A stream: state, the hidden vector, scratch. All of it lies in the caller's memory. */
typedef struct nn_int_state {
    const nn_int_model *model;
    int16_t *h;                   /* [width] of the last step                    */
    int16_t *shift;               /* [layers][width] a of the token before       */
    int32_t *wkv;                 /* [layers][width / 16][16 j][16 i]            */
    int16_t *delta;               /* [2^bits][width] or NULL: no adaptation      */
    int32_t *delta_bias;          /* [2^bits]                                    */
    uint16_t *visits;             /* [2^bits]                                    */
    int32_t *x, *x0, *acc, *acc2; /* [width], [width], [max(width, hidden)] twice */
    int16_t *a, *xs[3], *r, *k, *v, *v1, *z, *u;
} nn_int_state;

/* Heads of 16 at work: `heads` of them from channel `at` on. */
typedef struct nn_int_wkv {
    int32_t *S;               /* [heads][16 j][16 i] */
    const int16_t *r, *k, *v; /* [heads][16] */
    const nn_int_layer *layer;
    int at, heads;
    int16_t *z; /* [heads][16] */
} nn_int_wkv;

/* What a CPU may do faster; widths are multiples of 16, pointers 64-byte aligned except for rows of
 * the embedding, the head and delta. */
typedef struct nn_int_ops {
    const char *name;
    void (*embed)(int32_t *x, const int8_t *e, int n, int32_t mul, int shift);
    void (*mix)(int32_t *x, const int32_t *x0, int n, const int32_t mix[2]);
    void (*norm)(int16_t *out, const int32_t *x, int n, const nn_int_norm *p);
    void (*shift)(int16_t *const out[3], const int16_t *a, const int16_t *before,
                  int16_t *const mu[3], int n);
    /* out[row] = scaled(w . x); row0 and rows: multiples of 16 */
    void (*product)(int32_t *out, const nn_int_matrix *m, int row0, int rows, const int16_t *x);
    void (*narrow)(int16_t *out, const int32_t *x, int n, int32_t limit); /* clamp to +-limit */
    void (*square)(int16_t *out, const int32_t *x, int n);
    void (*add)(int32_t *x, const int32_t *y, int n);
    void (*lerp)(int16_t *v, const int16_t *v1, const int16_t *mix, int n);
    void (*time_mix)(const nn_int_wkv *w);
    void (*gate)(int16_t *z, const int16_t *xrg, int n, int32_t gate, int shift);
    int32_t (*dot)(const int8_t *w, const int16_t *h, int n);
    int32_t (*dot_delta)(const int16_t *d, const int16_t *h, int n); /* sum of the shifted pairs */
    void (*adapt)(int16_t *d, const int16_t *h, int n, int32_t e, int rate);
} nn_int_ops;
extern const nn_int_ops nn_int_ops_c, nn_int_ops_avx2, nn_int_ops_avx512, nn_int_ops_avx512vnni;

extern const uint32_t nn_int_root_table[192];
/* T[i] below, T[i+1] - T[i] above bit 16 */
extern const uint32_t nn_int_sigmoid_table[NN_SIGMOID_ENTRIES];

/* ---- Scalar parts that all variants share ---------------------------------------------------- */
FV_INLINE int64_t nn_sar64(int64_t x, int n) { return x < 0 ? ~(~x >> n) : x >> n; }
FV_INLINE int32_t nn_rsh(int32_t x, int s) { return vz_sar(x + (1 << (s - 1)), s); }
FV_INLINE int64_t nn_rsh64(int64_t x, int s) { return nn_sar64(x + ((int64_t)1 << (s - 1)), s); }
FV_INLINE int32_t nn_scaled(int32_t x, int32_t m, int s)
{
    return (int32_t)nn_rsh64((int64_t)x * m, s);
}
/* R of root(v), *q its exponent; 0 < v < 2^62. */
FV_INLINE int32_t nn_int_root(uint64_t v, int *q)
{
    int k = 0;
    if (v >= (uint64_t)1 << 30) {
        if (v >> 48) v >>= 16, k += 8;
        if (v >> 40) v >>= 8, k += 4;
        if (v >> 36) v >>= 4, k += 2;
        if (v >> 34) v >>= 2, k += 1;
        if (v >> 32) v >>= 2, k += 1;
    } else {
        if (!(v >> 14)) v <<= 16, k -= 8;
        if (!(v >> 22)) v <<= 8, k -= 4;
        if (!(v >> 26)) v <<= 4, k -= 2;
        if (!(v >> 28)) v <<= 2, k -= 1;
        if (!(v >> 30)) v <<= 2, k -= 1;
    }
    *q = k;
    uint64_t r = nn_int_root_table[(v >> 24) - 64];
    for (int i = 0; i < 2; i++) {
        const uint64_t p = ((r * r) >> 32) * v >> 29;
        r = r * (((uint64_t)3 << 31) - p) >> 32;
    }
    return r > 0x7fffffff ? 0x7fffffff : (int32_t)r;
}
FV_INLINE int32_t nn_int_sigmoid(int32_t t) /* Q10 -> Q15 */
{
    const int32_t x = vz_clamp(t, -8192, 8192) + 8192;
    const uint32_t e = nn_int_sigmoid_table[x >> 5];
    return (int32_t)((e & 0xffff) + (((e >> 16) * (uint32_t)(x & 31) + 16) >> 5));
}

/* ---- Model (nn_int.c) ------------------------------------------------------------------------ */

/* All tensors zero and in place, ops scalar. The model's memory comes from ctx. */
fv_status nn_int_model_create(fv_ctx *ctx, nn_int_model **out, const nn_int_config *c);
void nn_int_model_destroy(fv_ctx *ctx, nn_int_model **m);
/* Chooses ops for the context's CPU, after a self-test of less than a millisecond. */
void nn_int_model_ready(fv_ctx *ctx, nn_int_model *m);
/* Without the self-test, for tests. */
const nn_int_ops *nn_int_ops_for(uint32_t cpu);
/* CRC of what 64 steps of a small network give with these ops; equal for all that are right. */
uint32_t nn_int_self_test(fv_ctx *ctx, const nn_int_ops *ops);
#define NN_INT_SELF_TEST 0x2bdb615bu
/* Place of (row, column) in a matrix's w. */
FV_INLINE size_t nn_int_at(const nn_int_matrix *m, int row, int column)
{
    return (((size_t)(row >> 4) * (size_t)(m->columns >> 1) + (size_t)(column >> 1)) * 16 +
            (size_t)(row & 15)) *
               2 +
           (size_t)(column & 1);
}

/* Every tensor in the order of a .vzm file. bytes: of an element, 1, 2, 4 or 8, little-endian and
 * signed; values are in [lo, hi]: more would leave the ranges that nn_int.h argues with. matrix:
 * elements lie packed in memory and row by row in the file. */
typedef struct nn_int_field {
    void *array; /* address of the pointer to them: nn_int_field_data; or NULL */
    void *scalar;
    const nn_int_matrix *matrix;
    int bytes;
    size_t count;
    int64_t lo, hi;
} nn_int_field;
FV_INLINE void *nn_int_field_data(const nn_int_field *f)
{
    void *at = f->scalar;
    if (f->array) memcpy(&at, f->array, sizeof at);
    return at;
}
/* Stops at the first status that is not FV_OK. */
fv_status nn_int_visit(nn_int_model *m, fv_status (*visit)(void *user, const nn_int_field *f),
                       void *user);

/* ---- A stream (nn_int.c; the step: nn_int_ref.c) --------------------------------------------- */

/* adapts: with room for online adaptation. */
size_t nn_int_state_bytes(const nn_int_model *m, bool adapts);
/* At the beginning of a stream. memory: 64-byte aligned; it and the model outlive the state. */
void nn_int_state_init(nn_int_state *s, const nn_int_model *m, void *memory, bool adapts);
/* What a primed state consists of: shift, wkv and h, little-endian. Reading checks nothing but the
 * size, values are clamped into range. */
size_t nn_int_state_saved_bytes(const nn_int_config *c);
void nn_int_state_save(const nn_int_state *s, uint8_t *out);
void nn_int_state_load(nn_int_state *s, const uint8_t *in);
/* Token 0 .. tokens - 1; afterwards s->h predicts the next. */
void nn_int_step(nn_int_state *s, int token);
/* Logit of a 1 at a node of the tree, its split (1 .. 2^bits - 1), Q8, +-VZ_LOGIT_MAX. */
int32_t nn_int_logit(const nn_int_state *s, int node);
/* error: (bit << 16) - probability that the node's logit stood for. No-op without adaptation. */
void nn_int_adapt(nn_int_state *s, int node, int32_t error);

#endif
