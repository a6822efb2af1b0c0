/* cpu_ops.h - private: the SIMD tables of one context, `ctx->cpu_ops`, filled by backend_cpu.c. */
#ifndef FV_CPU_OPS_H
#define FV_CPU_OPS_H

#include "attention_tables.h"
#include "op_tables.h"

struct fvi_cpu_ops {
    fvi_pointwise_ops pointwise;
    fvi_norm_ops norm;
    fvi_loss_ops loss;
    fvi_group_ops group;
    fvi_attention_ops attention;
    fvi_wkv_ops wkv;
    fvi_tree_ops tree;
    fvi_vq_ops vq;
    fvi_picture_ops picture;
    fvi_distill_ops distill;
};

/* Backward of a loss whose forward kept the gradient in out[1]: gin[0] (+)= gout out[1] / parts. */
fv_status fvi_kept_backward(fvi_exec *e, double parts);

#endif
