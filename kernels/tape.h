/* tape.h - private: nodes, op tables, and what a backend implements.
 *
 * A backend is one table of fvi_op_def indexed by op. The CPU table is in backend_cpu.c; the
 * functions live in op_*.c (fused kernels, SIMD tables) and matmul_dnnl.c / conv_dnnl.c (oneDNN).
 * A second backend adds op_x.cu beside op_x.c and its own table; tape, planner and engines do not
 * change. Everything an op may look at is in fvi_exec. */
#ifndef FV_TAPE_H
#define FV_TAPE_H

#include "internal.h"

#define FVI_MAX_IN 8
#define FVI_TREE_DEPTH 24 /* most decisions of a label of loss_tree */
#define FVI_MAX_OUT 3

typedef enum fvi_op {
    FVI_OP_LINEAR = 0, FVI_OP_CONV2D, FVI_OP_CAST, FVI_OP_ACT, FVI_OP_AFFINE, FVI_OP_BINARY,
    FVI_OP_NORM_MOD, FVI_OP_GATE_RES, FVI_OP_SWIGLU, FVI_OP_SDPA, FVI_OP_QK_NORM_ROPE,
    FVI_OP_TIMESTEP, FVI_OP_EMBED, FVI_OP_PATCHIFY, FVI_OP_GROUPNORM, FVI_OP_UPSAMPLE2X,
    FVI_OP_MEAN1, FVI_OP_SLICE, FVI_OP_LOSS_MSE, FVI_OP_LOSS_CE, FVI_OP_LERP,
    FVI_OP_MIX2, FVI_OP_WKV, FVI_OP_WKV_HEAD, FVI_OP_ROUTE, FVI_OP_BALANCE, FVI_OP_MOE,
    FVI_OP_LOSS_TREE, FVI_OP_FORECAST, FVI_OP_CONCAT, FVI_OP_LOSS_SOFT_CE, FVI_OP_LOSS_L1,
    FVI_OP_FILTER, FVI_OP_L2NORM, FVI_OP_VQ, FVI_OP_LOSS_VQ, FVI_OP_HAAR, FVI_OP_MIX_ROWS,
    FVI_OP_UNIT_QK, FVI_OP_SOFT_RATE, FVI_OP_LOSS_SSIM, FVI_OP_LOSS_TEXTURE,
    FVI_OP_POOL, FVI_OP_LOSS_LPIPS, FVI_OP_LOSS_DISTS, FVI_OP_WINDOWS, FVI_OP_LOW_PASS,
    FVI_OP_LOSS_SPECTRUM, FVI_OP_CROSS, FVI_OP_LOSS_PLACE, FVI_OP_LOSS_MASKED, FVI_OP_COUNT
} fvi_op;

/* clang-format off: a table */
/* Attributes, per op (in/out tensors listed; [] optional, then in[k].data is NULL):
 * LINEAR       in x, w, [b]               out y                 i0 act i1 1: e4m3 where there is
 * CONV2D       in x, w, [b]               out y                 i0 stride i1..i4 pad t,l,b,r i5 act
 * CAST         in x                       out y
 * ACT          in x                       out y                 i0 fv_act
 * AFFINE       in x                       out y                 f0 scale f1 shift
 * BINARY       in a, b                    out y                 i0 fv_binary i1 broadcast: 0 same,
 *                                                               1 suffix, 2 per sample
 * NORM_MOD     in x, [w], [b], [mod]      out y, stats[R,2]     i0 kind i1 shift, i2 scale chunk
 *                                                               f0 eps; stats: mean, rstd of a row
 *                                                               (RMS: mean 0), NULL in inference
 * GATE_RES     in h, y, [mod]             out h2                i0 gate chunk; mod [C]: one for all
 * FORECAST     in h, [mod], w, y ...      out h2                i0 gate chunk, i1 number of y
 * SWIGLU       in x                       out y
 * SDPA         in qkv, [visible[T]]       out o, lse[B,h,T]     i0 causal f0 scale; lse NULL in
 *                                                               inference
 * CROSS        in q, kv, [bias[S]]        out o, lse[B,h,T]     i1 1 (SDPA: 0) f0 scale; the same
 * QK_NORM_ROPE in qkv, [qw], [kw], [table]  out qkv2, rstd[B,T,2,h]  f0 eps; rstd NULL in inference;
 *                                                               i0 1: pairs are neighbours (no qw)
 *                                                               i1 1: one norm over all heads
 * TIMESTEP     in t                       out y                 f0 scale f1 den
 * EMBED        in table, ids              out y
 * PATCHIFY     in x                       out y                 i0 p i1 channel_first i2 inverse
 *                                                               i3 H i4 W i5 C
 * GROUPNORM    in x, w, b                 out y, stats[B,G,2]   i0 groups i1 act f0 eps
 * UPSAMPLE2X   in x                       out y
 * MEAN1        in x                       out y
 * SLICE        in x                       out y                 i0 first column
 * CONCAT       in a, b                    out y                 i0 rows that alternate
 * LOSS_MSE     in a, target, [weight]     out loss[1]           i0 1: smooth L1
 * LOSS_CE      in logits, labels          out loss[1], probs[n,V]
 * LOSS_SOFT_CE in logits, target, [weight]  out loss[1], diff[n,V]
 * LERP         in a, [b], mix, [prev]     out y                 b absent: a one step earlier
 * MIX2         in a, b, coef[2]           out y
 * WKV          in r, k, v, w, a, f, [s0]  out y, s1, saved      saved NULL in inference
 * WKV_HEAD     in y, r, k, v, w, b, u     out z                 f0 eps
 * ROUTE        in logits                  out gate
 * BALANCE      in clean, noisy, std, gate out loss[1]           f0 balance f1 z
 * MOE          in x, gate, down, [up]     out y                 i0 experts
 * LOSS_TREE    in h, w, bias, labels      out loss[1], err[n,bits]
 * LOSS_L1      in a, [target]             out loss[1]
 * FILTER       in x                       out y                 i0 fv_image_filter i1 stride
 * L2NORM       in x                       out y                 f0 eps
 * VQ           in z, e                    out q, index[n]
 * LOSS_VQ      in z, e, index             out loss[1]           f0 beta
 * HAAR         in x                       out y                 i0 1: inverse
 * MIX_ROWS     in x, index, weight        out y
 * UNIT_QK      in qkv, scale[h]           out qkv2              f0 eps f1 most
 * SOFT_RATE    in z, e, logits, tau[1]    out loss[1]
 * LOSS_SSIM    in a, target               out loss[1], grad     i0 scales; grad: d loss / d a
 * LOSS_TEXTURE in a, target               out loss[1], grad     i0 scales i1 1; the same
 * POOL         in x                       out y                 i0 fvi_pool i1 size i2 stride
 * LOSS_LPIPS   in a, b, w[C]              out loss[1]
 * LOSS_DISTS   in a, b, alpha[C], beta[C] out loss[1]
 * WINDOWS      in x                       out y                 i0 side i1 shift i2 inverse
 *                                                               i3 H i4 W
 * LOW_PASS     in x                       out y                 i0 order f0 cutoff
 * LOSS_SPECTRUM in a, target              out loss[1], grad     i0 side of patches; grad as above
 * LOSS_PLACE   in x, y, [w]               out loss[1], parts, terms[2,N]   i0 K i1 channels
 *                                                               i2 kind, flags i3 fv_place_weight
 *                                                               f0 eps f1 w; terms: d coarse and
 *                                                               d fine / d x, times N
 * LOSS_MASKED  in a, target               out loss[1], keep[B,4]  f0 deviations that are kept */
/* clang-format on */
/* Flags of LOSS_PLACE, above fv_place_kind. */
enum {
    FVI_PLACE_KIND = 3, FVI_PLACE_SQUARED = 4, FVI_PLACE_GUARDED = 8, FVI_PLACE_EPS_OF_SUM = 16
};
typedef enum fvi_pool { FVI_POOL_MAX = 0, FVI_POOL_L2 } fvi_pool;
typedef struct fvi_attr { int32_t i[6]; float f[2]; } fvi_attr;

/* One execution of one node. gin/gout only in backward: gout[0] is the gradient of out[0];
 * gin[k].data NULL = not wanted; gin_add[k]: add to what is there, else overwrite. A gradient has
 * the type of its tensor; parameters' gradients are f32 and are always added. */
typedef struct fvi_exec {
    fv_ctx *ctx;
    const fvi_attr *attr;
    fv_tensor in[FVI_MAX_IN], out[FVI_MAX_OUT];
    fv_tensor gin[FVI_MAX_IN], gout[1];
    uint8_t gin_add[FVI_MAX_IN];
    void *scratch;        /* 64-byte aligned, scratch_bytes() of this node and pass */
    void *state;          /* from prepare */
    bool training;
    fv_params *params;
    fv_pid pid[FVI_MAX_IN]; /* parameter behind in[k], -1 if none. The weights of LINEAR and CONV2D
                               are fetched by id: packed forms when there are no masters
                               (fvi_params_master(params) == NULL; in[1].data is NULL then), else
                               the current masters or bf16 copies, also in inference (values may
                               change between runs while a model trains) */
} fvi_exec;

typedef struct fvi_op_def {
    const char *name;
    uint8_t bwd_reads_in, bwd_reads_out; /* bit k: backward reads in[k] / out[k] */
    bool grad_alias; /* backward passes gout unchanged to gin[0]: the planner may give both one
                        buffer (then gin[0].data == gout[0].data and gin_add[0] is 0) */
    size_t (*scratch_bytes)(const fvi_exec *e,
                            bool backward); /* data pointers are NULL; may be NULL fn */
    fv_status (*prepare)(fvi_exec *e); /* sets e->state; may be NULL fn          */
    void (*release)(fv_ctx *ctx, void *state);
    fv_status (*forward)(fvi_exec *e);
    fv_status (*backward)(fvi_exec *e); /* NULL: not differentiable               */
} fvi_op_def;

const fvi_op_def *fvi_cpu_op(fvi_op op);

/* CPU forward/backward, one pair per op: op_norm.c, op_pointwise.c, op_attention.c, op_layout.c,
 * op_loss.c, op_groupnorm.c (fused, ours), matmul_dnnl.c, conv_dnnl.c (oneDNN). */
extern const fvi_op_def fvi_cpu_linear, fvi_cpu_conv2d, fvi_cpu_cast, fvi_cpu_act, fvi_cpu_affine,
    fvi_cpu_binary, fvi_cpu_norm_mod, fvi_cpu_gate_res, fvi_cpu_forecast, fvi_cpu_swiglu, fvi_cpu_sdpa,
    fvi_cpu_qk_norm_rope, fvi_cpu_timestep, fvi_cpu_embed, fvi_cpu_patchify, fvi_cpu_groupnorm,
    fvi_cpu_upsample2x, fvi_cpu_mean1, fvi_cpu_slice, fvi_cpu_loss_mse, fvi_cpu_loss_ce,
    fvi_cpu_lerp, fvi_cpu_mix2, fvi_cpu_wkv, fvi_cpu_wkv_head, fvi_cpu_route, fvi_cpu_balance,
    fvi_cpu_moe, fvi_cpu_loss_tree, fvi_cpu_concat, fvi_cpu_loss_soft_ce, fvi_cpu_loss_l1,
    fvi_cpu_filter, fvi_cpu_l2norm, fvi_cpu_vq, fvi_cpu_loss_vq, fvi_cpu_haar, fvi_cpu_mix_rows,
    fvi_cpu_unit_qk, fvi_cpu_soft_rate, fvi_cpu_loss_ssim, fvi_cpu_loss_texture, fvi_cpu_pool,
    fvi_cpu_loss_lpips, fvi_cpu_loss_dists, fvi_cpu_windows, fvi_cpu_low_pass,
    fvi_cpu_loss_spectrum, fvi_cpu_cross, fvi_cpu_loss_place, fvi_cpu_loss_masked;

/* ---- Ops of one user (tape.c) ---------------------------------------------------------------- */
/* For perceptual.c, f32: pooling as op_pool.c says (L2: 3 and 2), losses of op_feature_loss.c; no
 * gradient flows into b and weights. */
fv_t fvi_pool2d(fv_tape *t, fv_t x, fvi_pool kind, int size, int stride);
fv_t fvi_loss_lpips(fv_tape *t, fv_t a, fv_t b, fv_t w);
fv_t fvi_loss_dists(fv_tape *t, fv_t a, fv_t b, fv_t alpha, fv_t beta);

/* ---- Parameters (params.c): thread-safe, may allocate; called at plan build ------------------ */
/* f32 values of a parameter (master in training). */
fv_status fvi_param_f32(fv_ctx *ctx, fv_params *p, fv_pid id, const float **out);
/* Training: bf16 copy, valid during a forward/backward (fvi_params_sync). */
const uint16_t *fvi_param_bf16(const fv_params *p, fv_pid id);
fv_status fvi_params_sync(fv_ctx *ctx, fv_params *p);   /* refresh bf16 copies if masters changed */
fv_status fvi_params_need_bf16(fv_ctx *ctx, fv_params *p);
/* Training on a device: bring the host's masters (fv_params_tensor) up to date, before they are read
 * or changed; nothing to do on a CPU. A change is told by fv_params_touch. */
fv_status fvi_params_fetch(const fv_params *p);
/* The device's masters were changed, and with_half their bf16 copies with them. */
void fvi_params_changed(fv_params *p, bool with_half);
float *fvi_param_grad_data(const fv_params *p, fv_pid id);
uint32_t fvi_param_flags(const fv_params *p, fv_pid id);
/* Flat arrays (training): element counts and offsets, padding included (padding stays 0). */
int64_t fvi_params_flat_count(const fv_params *p);
int64_t fvi_param_offset(const fv_params *p, fv_pid id);
float *fvi_params_master(fv_params *p);    /* of the host */
float *fvi_params_values(fv_params *p);    /* where ops read them: on the device */
float *fvi_params_grad_flat(fv_params *p); /* on the device */
uint16_t *fvi_params_half(fv_params *p);   /* on the device; NULL: not needed yet */
/* Inference: the parameter in a packed form, made once per (id, key) by `pack` and kept. The key (a
 * plain struct without padding, compared byte for byte, at most 64 bytes) names the form; it is the
 * head of the struct that `pack` gets. `values` are of `type`, f32 or bf16. */
typedef struct fvi_form {
    const void *key;
    size_t key_bytes, packed_bytes;
    fv_dtype type;
    fv_status (*pack)(fv_ctx *ctx, const void *key, const void *values, void *dst);
} fvi_form;
fv_status fvi_param_packed(fv_ctx *ctx, fv_params *p, fv_pid id, const fvi_form *want,
                           const void **out);

/* Take the values of `id` from n tensors of the model, one after another along the first dimension
 * (for example q, k, v), instead of from one of its own name; shapes may differ by dimensions of
 * size 1. Call before fv_params_load, which then leaves `id` as it is. */
#define FVI_MAX_JOIN 3
fv_status fvi_params_join(fv_params *p, fv_pid id, const fv_model *m, const char *prefix,
                          const char *const *name, int n);

/* ---- oneDNN matrix products (matmul_dnnl.c) -------------------------------------------------- */
/* c[M,N] = act(a[M,K] b[K,N] + bias[N]) (+ c). Row-major with leading dimensions; *_trans: stored
 * transposed. One object per shape; running allocates nothing of ours. b_packed: b is in oneDNN's
 * own layout made by fvi_matmul_pack. a/b/c types: f32,f32,f32; bf16,bf16,{f32,bf16};
 * s8,s8,{f32} with scale[N] applied (output scales) and optional bias. */
typedef struct fvi_matmul fvi_matmul;
typedef struct fvi_matmul_desc {
    int64_t M, N, K;
    fv_dtype a_type, b_type, c_type;
    bool a_trans, b_trans, b_packed, bias, accumulate;
    fv_act act;              /* NONE, RELU, SILU, GELU_TANH, GELU_ERF, SIGMOID, TANH */
    int64_t lda, ldb, ldc;   /* 0 = dense */
    bool scaled;             /* s8: run-time scale per column */
} fvi_matmul_desc;
fv_status fvi_matmul_create(fv_ctx *ctx, fvi_matmul **out, const fvi_matmul_desc *d);
void fvi_matmul_destroy(fv_ctx *ctx, fvi_matmul **m);
size_t fvi_matmul_packed_bytes(const fvi_matmul *m);
/* b given dense as [N,K] (b_trans) or [K,N], of type b_type. */
fv_status fvi_matmul_pack(fv_ctx *ctx, const fvi_matmul *m, const void *b, void *packed);
fv_status fvi_matmul_run(fv_ctx *ctx, fvi_matmul *m, const void *a, const void *b,
                         const float *bias, const float *scale, void *c);

/* ---- Sums in memory of the device (sum_product.c), f32 ---------------------------------------- */
/* c [M,N] += a [M,K] b [K,N], *_trans: stored transposed. Made once; running allocates nothing. */
typedef struct fvi_sum_product fvi_sum_product;
typedef struct fvi_product_shape { int64_t M, N, K; bool a_trans, b_trans; } fvi_product_shape;
fv_status fvi_sum_product_create(fv_ctx *ctx, fvi_sum_product **out, const fvi_product_shape *s);
fv_status fvi_sum_product_run(fv_ctx *ctx, fvi_sum_product *p, const float *a, const float *b,
                              float *c);
void fvi_sum_product_destroy(fv_ctx *ctx, fvi_sum_product **p);
/* y += x */
fv_status fvi_sum(fv_ctx *ctx, const float *x, int64_t n, float *y);

/* oneDNN uses the calling thread's OpenMP count: set it around building and running primitives. */
int fvi_threads_enter(const fv_ctx *ctx);   /* returns the old count */
void fvi_threads_leave(int old);
/* Whether oneDNN may use AVX-512: the CPU has it and ONEDNN_MAX_CPU_ISA does not forbid it. */
bool fvi_dnnl_avx512(void);
/* Engine and stream of the context (dnnl_engine_t, dnnl_stream_t). */
fv_status fvi_dnnl_start(fv_ctx *ctx);

/* SIMD tables of one context: each area has `struct fvi_x_ops` and fvi_x_init(ops, cpu) in its .c;
 * fvi_cpu_ops (backend_cpu.c) holds one of each. Row functions only: threading is in op_*.c. */

/* Run body(lane) for the FVI_LANES lanes on ctx's threads. */
#define FVI_PRAGMA(text) _Pragma(#text)
#define FVI_PARALLEL_LANES(c, lane) \
    FVI_PRAGMA(omp parallel for schedule(static) num_threads((c)->threads)) \
    for (int lane = 0; lane < FVI_LANES; lane++)

#endif
