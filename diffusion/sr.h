/* sr.h - private: what sr_open.c, sr_tiles.c and sr_image.c share.
 *
 * sr_open.c: models. sr_tiles.c: the networks over the tiles of an enlarged picture. sr_image.c:
 * pixels in and out, alpha, the update. */
#ifndef FV_SR_H
#define FV_SR_H

#include "pssr.h"

struct fv_sr {
    fv_ctx *ctx;
    fv_params *params;
    pssr_net net;
    fv_dtype precision;
    fv_sr_info info;
};

/* Cells of 4x4 pixels that a cell of the last estimate depends on, each way; whole windows. */
int sr_reach(const pssr_config *c, int drafts);

/* ---- Tiles (sr_tiles.c) ---------------------------------------------------------------------- */

#define SR_MAX_REGION (256 * 256) /* cells at a time: more do not run faster */

/* An enlarged picture is extended to whole windows by its last pixels and cut into cores; for each
 * a region is computed that reaches `halo` cells further, but not beyond the extended picture. All
 * regions have one size. Estimates of neighbouring regions are blended over `ramp` cells around the
 * border of their cores. All in cells, multiples of the window but for ramp. */
typedef struct sr_cut {
    int all_w, all_h, halo, ramp;
    int nx, ny, core_w, core_h, size_w, size_h;
} sr_cut;
/* core: wanted cells of a core, or 0 = as few as possible computed in regions of at most `most`
 * cells. false: no region is small enough. */
bool sr_cut_find(sr_cut *c, const int core[2], int64_t most);

typedef struct sr_job {
    fv_ctx *ctx;
    const fv_sr *sr;
    fvi_resize *resize;          /* source to enlarged */
    const float *source;         /* RGB in [0, 1] at its own size */
    int width, height;           /* enlarged */
    int drafts, planes;
    int plane_step[PSSR_MAX_TIMES];
    float *plane[PSSR_MAX_TIMES]; /* [height, width, 3] in about [0, 1]: estimate of a step; zero
                                     before */
    sr_cut cut;
    fv_dtype precision;
    /* made by sr_tiles_plan */
    fv_plan *plan;
    pssr_tables tables;
    uint64_t plan_bytes;
    float *in, *estimate[PSSR_MAX_TIMES];
    void *plan_work;
    double flop;                 /* of a region */
} sr_job;
/* Decides the cut for at most `budget` bytes (UINT64_MAX: no bound) and builds the plan; core as
 * above. FV_ERR_CAPACITY: *least bytes would do. */
fv_status sr_tiles_plan(sr_job *j, const int core[2], uint64_t budget, uint64_t *least);
fv_status sr_tiles_alloc(sr_job *j);
/* FV_ERR_NUMERIC: an estimate is not finite. */
fv_status sr_tiles_run(sr_job *j);
void sr_tiles_free(sr_job *j);

#endif
