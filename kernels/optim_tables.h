/* optim_tables.h - private: the optimiser's state, and its two kernels with a table per CPU.
 *
 * All arrays follow the flat layout of params.c (padding to 16 elements, which stays 0). On a device
 * with an optimiser of its own (fvi_device_optim) they are in its memory. */
#ifndef FV_OPTIM_TABLES_H
#define FV_OPTIM_TABLES_H

#include "tape.h"

#define FVI_OPT_BLOCK 16

/* One piece of one update. n is a multiple of FVI_OPT_BLOCK; ema NULL = none. Gradients are
 * cleared. */
typedef struct fvi_adamw {
    float *p, *g, *m, *v, *ema;
    int64_t n;
    float scale;          /* of the gradient: clipping */
    float b1, k1, b2, k2; /* k = 1 - b */
    float c1, c2;         /* 1 / (1 - b^t): bias corrections */
    float eps, lr, wd;
    float d, kd; /* EMA decay, 1 - d */
} fvi_adamw;

typedef struct fvi_optim_ops {
    void (*adamw)(const fvi_adamw *a);
    /* acc[j] += sum of g[i]^2 over i = j mod 16, in the order of i. */
    void (*square)(const float *g, int64_t n, double acc[FVI_OPT_BLOCK]);
} fvi_optim_ops;

/* What gradients of this norm are multiplied by. */
#define FVI_CLIP_EPS 1e-6
FV_INLINE float fvi_clip_scale(float clip, double norm)
{
    const double most = clip / (norm + FVI_CLIP_EPS);
    return clip > 0 && most < 1 ? (float)most : 1.0f;
}

void fvi_optim_init(fvi_optim_ops *o, uint32_t cpu);
void fvi_optim_init_avx2(fvi_optim_ops *o);
void fvi_optim_init_avx512(fvi_optim_ops *o);

/* A run of parameters with equal flags; frozen ones are left out. */
typedef struct fvi_opt_segment {
    int64_t begin, end;
    bool decay;
} fvi_opt_segment;

struct fv_opt {
    fv_ctx *ctx;
    fv_params *params;
    fvi_optim_ops ops;
    fv_opt_options o; /* defaults filled in */
    fvi_opt_segment *seg;
    int segments;
    float *m, *v, *ema;   /* ema NULL when not asked for */
    uint64_t steps;       /* updates made */
    uint64_t skipped;     /* updates left out because of a non-finite gradient or loss */
    uint32_t skipped_row; /* of these, in a row up to now */
    bool ema_ready;       /* ema holds values: after the first use or a checkpoint */
    bool swapped;         /* masters and ema are exchanged */
    const struct fvi_device_optim *device; /* NULL: the CPU */
    uint8_t *kind; /* device: of each block, as fvi_device_optim.step has it */
    void *work;    /* device */
    fv_status failed; /* of a swap: told by the next step */
};

/* State as the host sees it: the arrays themselves, or on a device copies (host memory) that are
 * filled with `read` and go back with fvi_opt_state_put. ema NULL: none. */
typedef struct fvi_opt_state { float *m, *v, *ema; } fvi_opt_state;
fv_status fvi_opt_state_get(fv_ctx *ctx, const fv_opt *o, bool read, fvi_opt_state *out);
fv_status fvi_opt_state_put(fv_ctx *ctx, fv_opt *o, const fvi_opt_state *s);
void fvi_opt_state_free(fv_ctx *ctx, const fv_opt *o, fvi_opt_state *s);

/* EMA starts as a copy of the masters, taken at the first use: they may be loaded after
 * fv_opt_create. */
fv_status fvi_opt_start_ema(fv_opt *o);
/* Clear gradients and count a skipped update (non-finite loss). */
fv_status fvi_opt_skip(fv_opt *o, fv_opt_info *info);

#endif
