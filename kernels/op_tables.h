/* op_tables.h - private: SIMD tables of the fused CPU ops, one struct per area.
 *
 * A table holds row functions only: one call works on one contiguous row on the calling thread.
 * Threads, shapes and the order of sums belong to op_*.c. The scalar functions in op_*.c are the
 * definition; op_*_body.h has the vector form, compiled for AVX2 and AVX-512.
 *
 * All arithmetic is f32; a row's elements are f32 or bf16 as its fvi_in / fvi_out says. */
#ifndef FV_OP_TABLES_H
#define FV_OP_TABLES_H

#include "tape.h"

/* A row to read, and a row to write: with add, the new value is added to what is there. */
typedef struct fvi_in { const void *p; bool bf16; } fvi_in;
typedef struct fvi_out { void *p; bool bf16, add; } fvi_out;

FV_INLINE fvi_in fvi_in_f32(const float *p)
{
    const fvi_in r = { p, false };
    return r;
}
FV_INLINE fvi_out fvi_out_f32(float *p, bool add)
{
    const fvi_out r = { p, false, add };
    return r;
}
/* Row of a tensor that begins at element `first`. A tensor without data gives p NULL. */
FV_INLINE fvi_in fvi_in_at(const fv_tensor *t, int64_t first)
{
    const bool bf16 = t->dtype == FV_BF16;
    const fvi_in r = { t->data ? (const char *)t->data + first * (bf16 ? 2 : 4) : NULL, bf16 };
    return r;
}
FV_INLINE fvi_out fvi_out_at(const fv_tensor *t, int64_t first, bool add)
{
    const bool bf16 = t->dtype == FV_BF16;
    const fvi_out r = { t->data ? (char *)t->data + first * (bf16 ? 2 : 4) : NULL, bf16, add };
    return r;
}
FV_INLINE float fvi_get(fvi_in x, int64_t i)
{
    return x.bf16 ? fv_bf16_to_f32(((const uint16_t *)x.p)[i]) : ((const float *)x.p)[i];
}
FV_INLINE void fvi_put(fvi_out y, int64_t i, float v)
{
    if (y.bf16) {
        uint16_t *p = (uint16_t *)y.p + i;
        *p = fv_f32_to_bf16(y.add ? fv_bf16_to_f32(*p) + v : v);
    } else {
        float *p = (float *)y.p + i;
        *p = y.add ? *p + v : v;
    }
}

/* ---- Pointwise (op_pointwise.c) -------------------------------------------------------------- */

typedef struct fvi_pointwise_ops {
    void (*cast)(fvi_out y, fvi_in x, int64_t n);                             /* y = x */
    void (*affine)(fvi_out y, fvi_in x, int64_t n, float scale, float shift); /* scale*x + shift */
    void (*act)(fvi_out y, fvi_in x, int64_t n, fv_act act);
    void (*act_bwd)(fvi_out dx, fvi_in x, fvi_in dy, int64_t n, fv_act act); /* act'(x) * dy */
    void (*binary)(fvi_out y, fvi_in a, fvi_in b, int64_t n, fv_binary op);
    void (*binary1)(fvi_out y, fvi_in a, float b, int64_t n, fv_binary op); /* one b for the row */
    /* Derivative to b times dy: element by element, or summed over a row with one b. */
    void (*binary_db)(fvi_out db, fvi_in dy, fvi_in a, fvi_in b, int64_t n, fv_binary op);
    float (*binary_db1)(fvi_in dy, fvi_in a, float b, int64_t n, fv_binary op); /* n <= 4096 */
    void (*add4)(fvi_out y, const fvi_in x[4], int64_t n);          /* x0 + x1 + x2 + x3 */
    void (*swiglu)(fvi_out y, fvi_in x, int64_t n);                 /* x [2n], y [n] */
    void (*swiglu_bwd)(fvi_out dx, fvi_in x, fvi_in dy, int64_t n); /* dx [2n] */
} fvi_pointwise_ops;
void fvi_pointwise_init(fvi_pointwise_ops *o, uint32_t cpu);
void fvi_pointwise_init_avx2(fvi_pointwise_ops *o);
void fvi_pointwise_init_avx512(fvi_pointwise_ops *o);

/* ---- Norm and residual (op_norm.c) ----------------------------------------------------------- */

/* One row of n channels. gain and offset combine weight, bias and modulation of the row's sample:
 * y = (x - mean) * rstd * gain + offset. sum_dy, sum_dyx (backward; both NULL or both set) collect
 * the columns of dy and dy * yhat over rows. */
typedef struct fvi_norm_row {
    fvi_out y;                    /* forward y, backward dx (p NULL: not wanted) */
    fvi_in x, dy;
    const float *gain, *offset;
    int64_t n;
    bool rms;
    float eps;
    float mean, rstd;             /* forward sets them, backward reads them */
    float *sum_dy, *sum_dyx;
} fvi_norm_row;

typedef struct fvi_norm_ops {
    void (*norm)(fvi_norm_row *r);
    void (*norm_bwd)(const fvi_norm_row *r);
    /* h2 = h + gate*y (gate NULL: ones) */
    void (*gate)(fvi_out h2, fvi_in h, fvi_in y, const float *gate, int64_t n);
    /* h2 = h + gate * sum of w[k] y[k], k < count <= FV_FORECAST_MAX */
    void (*forecast)(fvi_out h2, fvi_in h, const fvi_in *y, const float *w, int count,
                     const float *gate, int64_t n);
    /* dy = gate*g (dy.p NULL: not wanted); sum[n] += g*y (NULL: not wanted) */
    void (*gate_bwd)(fvi_out dy, float *sum, fvi_in g, fvi_in y, const float *gate, int64_t n);
} fvi_norm_ops;
void fvi_norm_init(fvi_norm_ops *o, uint32_t cpu);
void fvi_norm_init_avx2(fvi_norm_ops *o);
void fvi_norm_init_avx512(fvi_norm_ops *o);

/* ---- Losses (op_loss.c) ---------------------------------------------------------------------- */

typedef struct fvi_loss_ops {
    double (*sqdiff)(fvi_in a, fvi_in b, int64_t n);                      /* sum (a - b)^2      */
    void (*diff)(fvi_out y, fvi_in a, fvi_in b, int64_t n, float scale);  /* scale * (a - b)    */
    double (*huber)(fvi_in a, fvi_in b, int64_t n); /* sum of d^2/2, or |d| - 1/2 from |d| = 1 on */
    void (*clip_diff)(fvi_out y, fvi_in a, fvi_in b, int64_t n, float scale); /* of d in [-1, 1] */
    /* p = softmax(x) (p.p NULL: not wanted); returns log sum exp x */
    float (*softmax)(fvi_out p, fvi_in x, int64_t n);
    /* b.p NULL: zeros */
    double (*absdiff)(fvi_in a, fvi_in b, int64_t n);                     /* sum |a - b|        */
    void (*sign)(fvi_out y, fvi_in a, fvi_in b, int64_t n, float scale);  /* scale * sgn(a - b) */
} fvi_loss_ops;
void fvi_loss_init(fvi_loss_ops *o, uint32_t cpu);
void fvi_loss_init_avx2(fvi_loss_ops *o);
void fvi_loss_init_avx512(fvi_loss_ops *o);

/* ---- GroupNorm (op_groupnorm.c) -------------------------------------------------------------- */

/* Per-channel numbers of one sample, [n] each: v = (x - mean) * rstd * w + b, y = act(v);
 * m1, m2 = means over the group of dv*w and dv*w*yhat (backward only). */
typedef struct fvi_group_coef {
    const float *mean, *rstd, *w, *b, *m1, *m2;
    fv_act act;
} fvi_group_coef;

typedef struct fvi_group_ops {
    void (*sqdev)(float *sum, fvi_in x, const float *mean, int64_t n);    /* sum += (x - mean)^2 */
    void (*apply)(fvi_out y, fvi_in x, const fvi_group_coef *c, int64_t n);
    /* sum_dv += dv, sum_dvx += dv * yhat */
    void (*bwd_sums)(float *sum_dv, float *sum_dvx, fvi_in x, fvi_in dy, const fvi_group_coef *c,
                     int64_t n);
    void (*bwd_apply)(fvi_out dx, fvi_in x, fvi_in dy, const fvi_group_coef *c, int64_t n);
} fvi_group_ops;
void fvi_group_init(fvi_group_ops *o, uint32_t cpu);
void fvi_group_init_avx2(fvi_group_ops *o);
void fvi_group_init_avx512(fvi_group_ops *o);

/* ---- RWKV-7 recurrence (op_wkv.c) ------------------------------------------------------------ */

#define FVI_WKV_HEAD FV_WKV_HEAD
#define FVI_WKV_STEPS 16  /* a state is kept each so many steps; backward replays what is between */
#define FVI_WKV_EPS 1e-12f

/* One head of one sequence: element i of step t of r, k, v, y is at t*stride + i; w, a, f [16]. */
typedef struct fvi_wkv_head {
    fvi_in r, k, v;
    fvi_out y;
    int64_t T, stride;
    const float *w, *a, *f;
    const float *s0; /* state [value][key] before; NULL: zeros          */
    float *s1;       /* state after; NULL: not wanted                   */
    float *saved;    /* fvi_wkv_saved(T) floats; NULL in inference      */
} fvi_wkv_head;
/* saved: [T][16] value of the removal, then a state for each piece of FVI_WKV_STEPS steps. */
FV_INLINE int64_t fvi_wkv_saved(int64_t T)
{
    const int64_t pieces = (T + FVI_WKV_STEPS - 1) / FVI_WKV_STEPS;
    return T * FVI_WKV_HEAD + pieces * FVI_WKV_HEAD * FVI_WKV_HEAD;
}
/* Outputs with p NULL are not wanted; dw, da, df [16] are added to. */
typedef struct fvi_wkv_grad {
    fvi_in dy;
    fvi_out dr, dk, dv;
    float *dw, *da, *df;
} fvi_wkv_grad;

/* One row of n channels, heads of 16: z = norm(y)*w + b + (sum over the head of r*k*u) * v. In
 * backward dw, db, du [n] are added to. */
typedef struct fvi_head_row {
    fvi_out z;
    fvi_in y, r, k, v, dz;
    const float *w, *b, *u;
    int64_t n;
    float eps;
    fvi_out dy, dr, dk, dv;
    float *dw, *db, *du;
} fvi_head_row;

typedef struct fvi_wkv_ops {
    void (*forward)(const fvi_wkv_head *h);
    void (*backward)(const fvi_wkv_head *h, const fvi_wkv_grad *g);
    void (*head)(const fvi_head_row *h);
    void (*head_bwd)(const fvi_head_row *h);
    /* y = a + (b - a)*mix; b.p NULL: zeros */
    void (*lerp)(fvi_out y, fvi_in a, fvi_in b, const float *mix, int64_t n);
    void (*lerp_da)(fvi_out da, fvi_in dy, const float *mix, int64_t n);       /* dy*(1 - mix) */
    void (*lerp_dmix)(float *sum, fvi_in dy, fvi_in a, fvi_in b, int64_t n);   /* += dy*(b - a) */
} fvi_wkv_ops;
void fvi_wkv_init(fvi_wkv_ops *o, uint32_t cpu);
void fvi_wkv_init_avx2(fvi_wkv_ops *o);
void fvi_wkv_init_avx512(fvi_wkv_ops *o);

/* ---- Loss over a binary tree (op_tree.c) ----------------------------------------------------- */

typedef struct fvi_tree_columns { int64_t first, end, D; } fvi_tree_columns;
/* A label's path: `bits` nodes, rows of w [V][D]; g: one number for each of them. */
typedef struct fvi_tree_ops {
    void (*dots)(float *z, fvi_in h, const float *w, const int32_t *node, int bits, int64_t D);
    /* dh = sum over k of g_k w[node_k]; bits may be 0 */
    void (*mix)(fvi_out dh, const float *w, const float *g, const int32_t *node, int bits,
                int64_t D);
    /* dw[node_k] += g_k h, columns c->first .. c->end */
    void (*spread)(float *dw, fvi_in h, const float *g, const int32_t *node, int bits,
                   const fvi_tree_columns *c);
} fvi_tree_ops;
void fvi_tree_init(fvi_tree_ops *o, uint32_t cpu);
void fvi_tree_init_avx2(fvi_tree_ops *o);
void fvi_tree_init_avx512(fvi_tree_ops *o);

/* ---- Vector quantiser (op_vq.c) -------------------------------------------------------------- */

typedef struct fvi_vq_codes {
    const float *t; /* transposed: component d of code v at t[d*stride + v] */
    int64_t count, width, stride;
} fvi_vq_codes;
typedef struct fvi_vq_ops {
    /* index[i] = the code with the largest product with row i of z [n, width]; ties: the lowest */
    void (*nearest)(int32_t *index, const float *z, int64_t n, const fvi_vq_codes *c);
    /* s[v] = z . code v;  z[d] = sum over v of w[v] code v [d] */
    void (*products)(float *s, const float *z, const fvi_vq_codes *c);
    void (*combine)(float *z, const float *w, const fvi_vq_codes *c);
    /* fvi_vq_largest (engine.h) */
    void (*largest)(uint16_t *code, float *value, int count, const float *product,
                    const float *factor, int64_t n);
} fvi_vq_ops;
/* Puts v of code k into the `count` largest, largest first, where it is larger than the last. */
FV_INLINE void fvi_vq_insert(uint16_t *code, float *value, int count, float v, int64_t k)
{
    int i = count - 1;
    if (!(v > value[i])) return;
    for (; i > 0 && v > value[i - 1]; i--) {
        value[i] = value[i - 1];
        code[i] = code[i - 1];
    }
    value[i] = v;
    code[i] = (uint16_t)k;
}
/* Codes [V, D] f32 -> transposed into t, D * fvi_pad16(V) floats. */
fvi_vq_codes fvi_vq_transpose(fv_ctx *ctx, const fv_tensor *codes, float *t);
void fvi_vq_init(fvi_vq_ops *o, uint32_t cpu);
void fvi_vq_init_avx2(fvi_vq_ops *o);
void fvi_vq_init_avx512(fvi_vq_ops *o);

/* ---- Losses between pictures (op_picture.c) -------------------------------------------------- */

/* One picture [height, width, 3] in [-1, 1] against its target. grad (may be NULL), the same form:
 * becomes d value / d a. work: as many floats as the area says. */
typedef struct fvi_picture_pair {
    const float *a, *target;
    float *grad, *work;
    int width, height, scales;
} fvi_picture_pair;
typedef struct fvi_picture_ops {
    double (*ssim)(const fvi_picture_pair *p);    /* 1 - MS-SSIM */
    double (*texture)(const fvi_picture_pair *p); /* Wasserstein distortion */
} fvi_picture_ops;
size_t fvi_ssim_floats(int width, int height);
size_t fvi_texture_floats(int width, int height);
void fvi_picture_init(fvi_picture_ops *o, uint32_t cpu);
void fvi_picture_init_avx2(fvi_picture_ops *o);
void fvi_picture_init_avx512(fvi_picture_ops *o);

/* ---- Losses of distillation (op_distill.c) --------------------------------------------------- */

/* Means, biased variances and covariance of student x and teacher y over a group. */
typedef struct fvi_place_moments { float mx, my, vx, vy, cov; } fvi_place_moments;
/* The map of a group, and what the gradient of its coarse term is made of (op_place.c). */
typedef struct fvi_place_map { float mx, my, b1, pull, slope, level; } fvi_place_map;
/* Values closer to the mean than the bound are kept, others count as 0. */
typedef struct fvi_keep { float a_mean, a_bound, b_mean, b_bound; } fvi_keep;
typedef struct fvi_distill_ops {
    void (*moments)(fvi_place_moments *m, const float *x, const float *y, int64_t n);
    /* With dx = x - mx, dy = y - my, r = b1 dx - dy: sum r^2; coarse = slope (dy - pull dx) +
     * level and fine = 2 b1 r, unless coarse is NULL. They may lie where x and y are. */
    double (*residual)(float *coarse, float *fine, const float *x, const float *y,
                       const fvi_place_map *g, int64_t n);
    void (*blend)(fvi_out y, const float *a, const float *b, int64_t n, float scale,
                  float w); /* scale (a + w b) */
    double (*sum)(fvi_in x, int64_t n);
    double (*sqdev)(fvi_in x, float mean, int64_t n); /* sum (x - mean)^2 */
    /* sum (k(a) - k(b))^2, and scale (a - k(b)) where a is kept, else 0 */
    double (*kept_sqdiff)(fvi_in a, fvi_in b, const fvi_keep *k, int64_t n);
    void (*kept_diff)(fvi_out y, fvi_in a, fvi_in b, const fvi_keep *k, int64_t n, float scale);
} fvi_distill_ops;
void fvi_distill_init(fvi_distill_ops *o, uint32_t cpu);
void fvi_distill_init_avx2(fvi_distill_ops *o);
void fvi_distill_init_avx512(fvi_distill_ops *o);

/* ---- Fixed partitions ------------------------------------------------------------------------ */

/* B samples of T rows, each sample cut into S segments; item k is segment k % S of sample k / S.
 * S depends on the shape alone: enough items for all lanes, at most 1024 rows in one f32 sum. */
typedef struct fvi_split { int64_t B, T, S; } fvi_split;
FV_INLINE fvi_split fvi_split_of(int64_t B, int64_t T)
{
    fvi_split s = { B, T, 1 };
    if (B > 0 && B < FVI_LANES) s.S = (FVI_LANES + B - 1) / B;
    if (s.S < (T + 1023) / 1024) s.S = (T + 1023) / 1024;
    if (s.S > T) s.S = T;
    if (s.S < 1) s.S = 1;
    return s;
}
FV_INLINE void fvi_split_rows(const fvi_split *s, int64_t item, int64_t *b, int64_t *t0,
                              int64_t *t1)
{
    *b = item / s->S;
    const int64_t k = item % s->S;
    *t0 = s->T * k / s->S;
    *t1 = s->T * (k + 1) / s->S;
}
/* Lane range of n elements in steps of 64, so that no two lanes write one cache line. */
FV_INLINE void fvi_lane_flat(int64_t n, int lane, int64_t *begin, int64_t *end)
{
    fvi_lane((n + 63) / 64, lane, begin, end);
    *begin *= 64;
    *end = *end * 64 < n ? *end * 64 : n;
}
/* n floats, rounded up to whole cache lines. */
FV_INLINE size_t fvi_pad16(int64_t n) { return ((size_t)n + 15) / 16 * 16; }

#endif
