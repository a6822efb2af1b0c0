/* vz_lanes.h - private: a model's network on a device, for many blocks at a time.
 *
 * A lane is a stream of the network whose state lies on the device; every block that is coded has
 * one. Lanes of all threads walk together: what is asked for while the device is at work is one
 * launch when it is done. An encoder knows what comes and asks for up to VZ_LANE_WALK tokens at a
 * time; a decoder for one. */
#ifndef VZ_LANES_H
#define VZ_LANES_H

#include "nn_int.h"
#include "vz_model.h"

#define VZ_LANE_WALK 256

typedef struct vz_lanes vz_lanes;
typedef struct vz_lane vz_lane;

/* `count` lanes on the device of ctx, which calls of other functions, on any threads, use one after
 * another; nothing else may use it meanwhile. *out is NULL on a CPU, and where the model has no
 * network. m must outlive them. FV_ERR_OOM, _UNSUPPORTED, _DEVICE. */
fv_status vz_lanes_open(fv_ctx *ctx, vz_lanes **out, const vz_model *m, int count);
void vz_lanes_close(vz_lanes **lanes); /* all lanes were given back */

/* A lane with that state; NULL: all are taken. */
vz_lane *vz_lanes_take(vz_lanes *lanes, const nn_int_state *s);
void vz_lane_give(vz_lane *lane); /* accepts NULL */
/* As the functions of vz_token_prior. */
void vz_lane_ahead(vz_lane *lane, const uint16_t *take, size_t n);
void vz_lane_skip(vz_lane *lane, uint32_t n);
/* nn_int_step: h [width] predicts what follows. Zeros after a failure. */
void vz_lane_step(vz_lane *lane, uint32_t id, int16_t *h);
/* Has the device failed this lane? */
fv_status vz_lane_check(fv_ctx *ctx, const vz_lane *lane);

#endif
