/* decode.h - private to the engines: kernels for decoding one token, or a few, at a time.
 *
 * All of it is independent of the number of rows: the bits of a row do not depend on how many rows
 * share a call, nor on threads. Speculative decoding needs that, to give what plain decoding gives.
 * - Products: each output is one lane that sums over k in order. No sum runs across lanes.
 * - Scores: each key is one lane that sums over the head's elements in order.
 * - Softmax and values: a row's keys count in the order of their positions, wherever they lie.
 *
 * The functions work on the calling thread: a whole pass through a network is one parallel region,
 * and each stage of it a slice for each thread, then fvi_team_wait. Several of such a pass take
 * 0.2 ms: a region for each operation would cost more than the operation.
 *
 * Layouts. A panel is 16 outputs; u = 1, 2, 4 elements of k lie together for f32, bf16, int8:
 *     matrix [N, K]      [N/16][K/u][16][u], rows and k padded with 0
 *     keys of a head     [slots/16][hd/u][16][u]
 *     values of a head   [condition + slots][hd padded to 16] */
#ifndef FV_DECODE_H
#define FV_DECODE_H

#include "engine.h"

#define FVI_DEC_PANEL 16
#define FVI_DEC_MAX_HEAD 1024
#define FVI_DEC_RANGES 3 /* pieces of a cache that lie one behind another */

FV_INLINE size_t fvi_dec_pad(int n) { return ((size_t)n + 15) / 16 * 16; }

/* ---- Products -------------------------------------------------------------------------------- */

/* A packed matrix; scale and sum only for int8: of a row, and 128 times the sum of its weights. */
typedef struct fvi_dec_matrix {
    fv_dtype type; /* FV_F32, FV_BF16, FV_I8 */
    int N, K;
    const void *panels;
    const float *scale; /* [N padded] */
    const int32_t *sum; /* [N padded] */
    const float *bias;  /* [N padded] or NULL */
} fvi_dec_matrix;
/* Bytes of a packed matrix, 0 on overflow. */
size_t fvi_dec_pack_bytes(fv_dtype type, int N, int K);
/* Packs w [N, K] to dst, 64-byte aligned. int8: scale = largest |w| of the row / 127. */
void fvi_dec_pack(fv_dtype type, int N, int K, const float *w, void *dst, int threads);
/* The same values as plain rows [N, K padded], zeros behind K; int8: then the scales [N]. */
void fvi_dec_pack_rows(fv_dtype type, int N, int K, const float *w, void *dst, int threads);
/* What was packed, without a bias. */
fvi_dec_matrix fvi_dec_view(fv_dtype type, int N, int K, const void *packed);
/* Bytes of one of its panels. */
FV_INLINE size_t fvi_dec_panel_bytes(fv_dtype type, int K)
{
    const size_t u = type == FV_F32 ? 1 : type == FV_BF16 ? 2 : 4;
    return ((size_t)K + u - 1) / u * FVI_DEC_PANEL * 4;
}
/* Bytes that `prepare` writes for a row of K values. */
size_t fvi_dec_row_bytes(int K);

/* y[r][n] (+)= bias[n] + sum_k w[n][k] x[r][k]. x: what `prepare` made. y has room for N padded. */
typedef struct fvi_dec_product {
    const fvi_dec_matrix *w;
    const void *x;
    size_t x_stride;      /* bytes from row to row  */
    const float *x_scale; /* [rows] of int8         */
    float *y;
    size_t ldy;           /* values from row to row */
    int rows;
    bool add;
    const void *ahead;    /* what this thread will read next, or NULL: brought near meanwhile */
} fvi_dec_product;

/* ---- Attention ------------------------------------------------------------------------------- */

/* Keys and values of one head of one sequence. Keys of the condition are zero, so that they have no
 * place: `condition` slots have values only, and stand in front of the others. */
typedef struct fvi_dec_cache {
    fv_dtype type;
    int hd, condition, slots;
    void *k, *v;
    float *k_scale, *v_scale; /* int8: [slots], [condition + slots] */
} fvi_dec_cache;
/* Bytes of one, 0 on overflow; and the cache in such a block, 64-byte aligned. */
size_t fvi_dec_cache_bytes(fv_dtype type, int hd, int condition, int slots);
fvi_dec_cache fvi_dec_cache_at(fv_dtype type, int hd, int condition, int slots, void *block);
/* Slot `from` to slot `to`. */
void fvi_dec_cache_move(const fvi_dec_cache *c, int from, int to);

/* What one row attends to, in the order of positions: condition slots first .. first + zeros - 1,
 * whose score is 0, then pieces of the cache, then single slots: its ancestors and itself. */
typedef struct fvi_dec_range { int first, n; } fvi_dec_range;
typedef struct fvi_dec_query {
    const float *q; /* [hd] rotated; NULL: zero, all scores are 0 */
    float *o;       /* [hd] */
    int first, zeros;
    int ranges;
    fvi_dec_range range[FVI_DEC_RANGES];
    const int32_t *more; /* ascending */
    int n_more;
} fvi_dec_query;

/* ---- Kernels --------------------------------------------------------------------------------- */

#define FVI_DEC_ROWS 4 /* that share a read of the cache */

/* raw[row][slot] = scale * q[row] . key, slots 0 .. n - 1; raw has room for n padded. */
typedef struct fvi_dec_scores {
    const float *q[FVI_DEC_ROWS];
    float *raw[FVI_DEC_ROWS];
    int rows, n;
    float scale;
} fvi_dec_scores;
/* o[row] += sum over i < n of p[row][i] * value of slot first + i; condition slots count. o [hd
 * padded]. */
typedef struct fvi_dec_values {
    const float *p[FVI_DEC_ROWS];
    float *o[FVI_DEC_ROWS];
    int rows, first, n;
} fvi_dec_values;

/* Arrays are by type: FV_F32, FV_BF16, FV_I8. */
typedef struct fvi_decode_ops {
    /* A row of K values for products with a matrix of this type; *scale of int8. */
    void (*prepare[3])(void *dst, float *scale, const float *x, int K);
    /* Panels p0 .. p1 - 1 */
    void (*product[3])(const fvi_dec_product *p, int p0, int p1);
    /* y = x / rms(x) * w; cast: rounded to bf16 before w is multiplied in. y may be x. */
    void (*norm)(float *y, const float *x, const float *w, int n, float eps, bool cast);
    /* Pairs (2j, 2j+1) turned by a row of fvi_dec_rope_row. y may be x. */
    void (*rope)(float *y, const float *x, const float *table, int hd);
    void (*swiglu)(float *gate, const float *up, int n); /* gate = silu(gate) * up */
    /* y = base + scale (y - base): guidance of y */
    void (*guide)(float *y, const float *base, float scale, int n);
    void (*store)(const fvi_dec_cache *c, int slot, const float *k, const float *v);
    void (*store_condition)(const fvi_dec_cache *c, int slot, const float *v);
    void (*scores[3])(const fvi_dec_cache *c, const fvi_dec_scores *s);
    float (*softmax)(float *s, int n); /* s = exp(s - max); the sum. s has room for n padded */
    void (*values[3])(const fvi_dec_cache *c, const fvi_dec_values *v);
} fvi_decode_ops;
void fvi_decode_init(fvi_decode_ops *o, uint32_t cpu);
void fvi_decode_init_avx2(fvi_decode_ops *o);
void fvi_decode_init_avx512(fvi_decode_ops *o);
void fvi_decode_init_avx512vnni(fvi_decode_ops *o);
void fvi_decode_init_avx512bf16(fvi_decode_ops *o);

/* softmax(scale q . keys) values, for n rows on one cache; neighbours that see the same pieces go
 * together. scratch: 64-byte aligned. */
void fvi_dec_attend(const fvi_decode_ops *o, const fvi_dec_cache *c, const fvi_dec_query *q, int n,
                    float *scratch);
size_t fvi_dec_attend_bytes(int hd, int condition, int slots);

/* Row of a table for grid cell (r, c) of the 2-D rotary embedding of pairs: [2 hd]. */
void fvi_dec_rope_row(float *table, int r, int c, int hd, double theta);

/* ---- Threads --------------------------------------------------------------------------------- */

/* A meeting point inside a parallel region: libgomp's barrier sleeps at once where OMP_WAIT_POLICY
 * is passive, which costs more than a stage takes. */
typedef struct fvi_team {
    int threads;
    _Atomic int arrived;
    _Atomic unsigned turn;
} fvi_team;
void fvi_team_wait(fvi_team *t);
/* Slice of n for a thread. */
FV_INLINE void fvi_team_slice(int n, int thread, int threads, int *begin, int *end)
{
    *begin = (int)((int64_t)n * thread / threads);
    *end = (int)((int64_t)n * (thread + 1) / threads);
}

#endif
