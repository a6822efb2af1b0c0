/* attention_tables.h - private: CPU kernels of SDPA and QK_NORM_ROPE, one table per context.
 *
 * SDPA is built from matrix products with a packed right operand. The reduction dimension is
 * counted in units of 4 bytes: one f32, or two neighbouring bf16 (then one vector instruction
 * multiplies and adds both). So all layouts below are the same for both types.
 *
 *   panels of B [K, N]:  | K x P | K x P | ... | K x R |   columns in groups of P, the last group R
 *                        wide (N mod P rounded up to `width`); a panel is row-major.
 *
 * The scalar table is in op_attention.c / op_rope.c; the variants overwrite it, best last. */
#ifndef FV_ATTENTION_TABLES_H
#define FV_ATTENTION_TABLES_H

#include "engine.h"

/* Widest `width` and `panel` of any variant; buffers are padded for it. */
#define FVI_ATTENTION_PAD 16

/* Rows of a strided matrix in a tensor; stride in elements. */
typedef struct fvi_rows {
    void *data;
    int64_t stride;
    int is_bf16, rows, cols;
} fvi_rows;

/* c[M, N] (+)= a[M, K] b[K, N]. a[m, k] is at a[m * a_row + k * a_k] (units). Columns up to N
 * rounded up to `width` are written. b_panel: units from one full panel to the next. */
typedef struct fvi_gemm {
    const float *a, *b;
    float *c;
    int64_t a_row, a_k, b_panel, ldc;
    int M, N, K, add;
} fvi_gemm;

/* Score tile to probabilities and score gradients (backward). s, dp: [rows, ld]. Key columns
 * >= fvi_visible(row) get 0: first_visible + row if causal, else visible[row] - first_visible if
 * there is a table, else all n.
 * p = exp(s*scale - lse), ds = p*(dp - delta)*scale.
 * unit 1: p replaces s, ds replaces dp.
 * unit 2: dp row i becomes bf16 ds; s row i (i even) becomes pairs (p[i,j], p[i+1,j]) and s row
 * i + 1 pairs (ds[i,j], ds[i+1,j]): the operands of P^T and dS^T. A missing last row is 0. */
typedef struct fvi_score_grad {
    float *s, *dp;
    int64_t ld;
    int rows, n, causal, first_visible;
    const int32_t *visible;
    float scale;
    const float *lse, *delta;
} fvi_score_grad;
FV_INLINE int fvi_visible(const fvi_score_grad *g, int row)
{
    const int n = g->causal ? g->first_visible + row
                  : g->visible ? g->visible[row] - g->first_visible : g->n;
    return n < g->n ? n : g->n;
}

typedef struct fvi_sdpa_kernels {
    int unit, width, panel;
    /* Left operand: rows -> dst [rows, ld] units. */
    void (*rows)(float *dst, int64_t ld, const fvi_rows *x);
    /* Right operands: b = x, and b = x^T. Reduction lengths that are not whole units are padded
     * with 0. */
    void (*pack)(float *panels, const fvi_rows *x);
    void (*pack_t)(float *panels, const fvi_rows *x);
    void (*gemm)(const fvi_gemm *g);
    /* One row of the running softmax, in place: s[0..n) -> exp(s*scale - m) in the left operand's
     * type, s[n..pad) -> 0. stat = { m, l, f }: running maximum and sum, and the factor that brings
     * earlier sums to the new maximum. n may be <= 0. */
    void (*softmax)(float *s, int n, int pad, float scale, float stat[3]);
    void (*grad)(const fvi_score_grad *g);
} fvi_sdpa_kernels;

/* A norm over more than one head is given in rstd. Its backward goes over all heads twice: START
 * leaves the gradients before the norm in work, FINISH reads them. */
typedef enum fvi_rope_norm {
    FVI_ROPE_HEAD = 0, FVI_ROPE_GIVEN, FVI_ROPE_START, FVI_ROPE_FINISH
} fvi_rope_norm;

/* One head of one token in QK_NORM_ROPE; hd elements. Pointers may be NULL where marked. */
typedef struct fvi_rope_row {
    const void *x;
    void *y;                /* forward: result. backward: gradient of x, NULL = not wanted      */
    const void *gy;         /* backward only                                                    */
    const float *w;         /* [hd], NULL = no norm                                             */
    const float *angle;     /* [2, hd/2] cosines, sines; NULL = no rotation                     */
    float *dw;              /* backward: += gradient of w, NULL = not wanted                    */
    float *work;            /* backward: [hd]                                                   */
    int hd, is_bf16, add;   /* add: backward adds to y                                          */
    float eps, rstd;        /* rstd: result of forward, input of backward; 1 without norm       */
    fvi_rope_norm norm;
    float sum;              /* START: result, sum of work x rstd; FINISH: its mean over the norm */
} fvi_rope_row;

typedef struct fvi_attention_ops {
    fvi_sdpa_kernels sdpa[2];   /* by element type: FV_F32, FV_BF16 */
    /* dst (+)= src[i, :] * mul[i * 3]; mul NULL = 1. src is [rows, ld] f32. */
    void (*store)(const fvi_rows *dst, const float *src, int64_t ld, const float *mul, int add);
    void (*scale)(float *x, int n, float f);    /* x *= f; n a multiple of FVI_ATTENTION_PAD */
    float (*dot)(const void *a, const void *b, int n, int is_bf16);
    void (*rope)(fvi_rope_row *r);
    void (*rope_grad)(fvi_rope_row *r);
    /* Pairs (2j, 2j+1), no norm. y (+)= x turned by the angles, or by their negatives. */
    void (*rope_pairs)(const fvi_rope_row *r, bool is_back);
} fvi_attention_ops;

/* cpu: FV_CPU_* bits that may be used. */
void fvi_attention_init(fvi_attention_ops *ops, uint32_t cpu);
/* The table of a context (backend_cpu.c). */
const fvi_attention_ops *fvi_attention_of(const fv_ctx *ctx);

void fvi_attention_init_avx2(fvi_attention_ops *ops);
void fvi_attention_init_avx512(fvi_attention_ops *ops);
void fvi_attention_init_avx512bf16(fvi_attention_ops *ops);
void fvi_rope_init(fvi_attention_ops *ops, uint32_t cpu);
void fvi_rope_init_avx2(fvi_attention_ops *ops);
void fvi_rope_init_avx512(fvi_attention_ops *ops);

#endif
