/* graph.h - private: what a tape stores and a plan reads. */
#ifndef FV_GRAPH_H
#define FV_GRAPH_H

#include "tape.h"

typedef enum fvi_kind { FVI_INPUT = 1, FVI_PARAM, FVI_NODE, FVI_VIEW } fvi_kind;

typedef struct fvi_value {
    fv_tensor t;          /* shape and type; data NULL */
    uint8_t kind;
    uint8_t needs_grad;
    uint8_t is_output;
    fv_pid pid;           /* FVI_PARAM */
    fv_t base;            /* FVI_VIEW: viewed value */
    int64_t offset;       /* FVI_VIEW: elements from base's start */
    int32_t node, slot;   /* FVI_NODE: producer and output number */
    const char *name;     /* inputs and outputs, owned by the tape's name list */
} fvi_value;

typedef struct fvi_node {
    fvi_op op;
    fvi_attr attr;
    fv_t in[FVI_MAX_IN], out[FVI_MAX_OUT];
} fvi_node;

struct fv_tape {
    fv_ctx *ctx;
    fv_params *params;
    fv_mode mode;
    fv_dtype precision;
    bool fp8; /* linear layers want it */
    fv_status status;
    fvi_value *v;         /* v[0] unused: handle 0 means none */
    int nv, cap_v;
    fvi_node *n;
    int nn, cap_n;
};

#endif
