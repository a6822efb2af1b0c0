/* rdvq_cuda.h - private: RDVQ's integer entropy model on a device; for rdvq_code.c. */
#ifndef FV_RDVQ_CUDA_H
#define FV_RDVQ_CUDA_H

#include "rdvq_int_net.h"

/* Weights, keys and values of up to max_windows windows, and work, in memory of the context's
 * device; FV_ERR_OOM: it has not enough. */
typedef struct rdvq_device rdvq_device;
fv_status rdvq_device_open(fv_ctx *ctx, rdvq_device **out, const rdvq_int *m, int max_windows);
void rdvq_device_close(rdvq_device **d);

/* A slice of the first `windows` windows, whose slices before have been run. */
typedef struct rdvq_device_slice {
    int slice, windows;
    const int32_t *tokens; /* [windows, tokens] by position: of slices before are read */
    const int32_t *list;   /* [rows] window * places of the slice + place: what is asked for */
    int rows;
} rdvq_device_slice;
/* u [rows, codes], start [rows, groups + 1]: the bits of rdvq_int_run and rdvq_int_spread. */
fv_status rdvq_device_run(rdvq_device *d, const rdvq_device_slice *s, uint16_t *u,
                          uint32_t *start);

#endif
