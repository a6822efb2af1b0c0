/* device_graph.h - private to the engines: launches of a device, recorded once and queued at once.
 *
 * A step whose launches are the same each time costs the host one call instead of hundreds. What may
 * differ must lie in memory of the device. */
#ifndef FV_DEVICE_GRAPH_H
#define FV_DEVICE_GRAPH_H

#include "engine.h"

typedef struct fvi_graph fvi_graph; /* a context's own */
/* What is queued between the two is kept in *out and does not run. Kernels and products alone: no copy,
 * no clearing, no memory taken or given back. finish ends a recording that failed, too: give it what
 * failed, which it returns, and *out is then NULL. */
fv_status fvi_graph_begin(fv_ctx *ctx);
fv_status fvi_graph_finish(fv_ctx *ctx, fv_status so_far, fvi_graph **out);
fv_status fvi_graph_run(fv_ctx *ctx, fvi_graph *g);
void fvi_graph_destroy(fv_ctx *ctx, fvi_graph **g);

/* On a device, forward passes of a plan of an inference, from the second on with the same pointers, are
 * one graph. A plan that cannot be recorded runs as before. Elsewhere nothing changes. */
void fvi_plan_record(fv_plan *p);
/* fv_plan_bind without a question to the device: data is known to be its memory. In recordings. */
fv_status fvi_plan_point(fv_plan *p, const char *name, void *data);

#endif
