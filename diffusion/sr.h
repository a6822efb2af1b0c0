/* sr.h - private: what sr_open.c, sr_tiles.c and sr_image.c share.
 *
 * sr_open.c: models. sr_tiles.c: the networks over the tiles of an enlarged picture. sr_frame.c:
 * memory, tiles and update of a frame. sr_image.c: pictures. sr_video.c: frames one by one. */
#ifndef FV_SR_H
#define FV_SR_H

#include "pssr.h"

FV_INLINE int sr_smaller(int a, int b) { return a < b ? a : b; }

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
#define SR_AMPLE_WORK 2.0         /* times the cells of a picture: no more need be computed */

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
/* Cells that are computed beside those of the picture. */
double sr_cut_work(const sr_cut *c);
/* Cells of a region that a plan without a bound has at most. */
int64_t sr_cut_most(const sr_cut *c);
/* With the smallest regions whose work is up to SR_AMPLE_WORK, or those of a plan without a bound. */
sr_cut sr_cut_ample(const sr_cut *c);

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
    /* Video: what frames see of the one before, of all steps and blocks [sr_past]. NULL: nothing. */
    struct sr_past *past;
    /* made by sr_tiles_plan */
    fv_plan *plan;
    pssr_tables tables;
    uint64_t plan_bytes;
    float *in, *estimate[PSSR_MAX_TIMES];
    float *seen;                 /* planes of the past under a region, before and now */
    /* The same where the plan reads and writes: on a CPU these are them, else copies on the device. */
    struct { float *in, *estimate[PSSR_MAX_TIMES], *seen, *take; } near;
    void *plan_work;
    double flop;                 /* of a region */
} sr_job;

/* Planes [all_h, all_w, channels] of the enlarged picture, for each block of each step one: those of
 * the last frame that came to its end, and those of the running one. Which tiles there are does not
 * matter to it. */
typedef struct sr_past {
    int channels, planes;
    int64_t cells;               /* of a plane */
    float *plane[2];             /* [planes][cells][channels]: before, now */
    float take[PSSR_MAX_CHANNELS / 8];
    bool is_there;               /* is there a frame before? */
} sr_past;
/* Decides the cut for at most `budget` bytes (UINT64_MAX: no bound) and builds the plan; core as
 * above. FV_ERR_CAPACITY: *least bytes would do, with j->cut; a plan that failed leaves no memory. */
fv_status sr_tiles_plan(sr_job *j, const int core[2], uint64_t budget, uint64_t *least);
fv_status sr_tiles_alloc(sr_job *j);
/* FV_ERR_NUMERIC: an estimate is not finite. */
fv_status sr_tiles_run(sr_job *j);
void sr_tiles_free(sr_job *j);

/* ---- A frame (sr_frame.c) -------------------------------------------------------------------- */

typedef struct sr_frame {
    fv_ctx *ctx;               /* set by the caller, as the next three lines */
    const fv_sr *sr;
    int in_width, in_height;
    /* Takes the results at the networks' size: rows of `pitch` pixels, about [0, 1], that belong to
     * the rectangle x, y, width, height. */
    void (*write)(void *user, const float *rgb, int pitch, const int rect[4]);
    void *user;
    fv_sr_options o;           /* by sr_frame_options */
    int width, height;         /* of the result */
    int net_width, net_height; /* of the networks' work: at most 4 times the frame */
    int drafts;
    fv_fdu_mode mode;
    float detail;
    fvi_resize *resize;        /* by sr_frame_prepare: frame to networks' size */
    sr_job job;
    sr_past past;
    bool is_stream;            /* set by the caller: frames may see the one before */
    fv_fdu *fdu;
    bool is_tiled;             /* the update */
    int update_w, update_h;    /* of its tiles, with margins */
    float *tile[2];
    uint64_t budget;           /* bytes for tiles */
    uint64_t least;            /* bytes that would do, where there are too few */
    uint64_t ample;            /* bytes for the work of SR_AMPLE_WORK, where there are fewer */
} sr_frame;
fv_status sr_frame_options(sr_frame *f, const fv_sr_options *opts);
/* Parts of sr_frame_options, by f->o alone. */
fv_status sr_frame_sizes(sr_frame *f);
fv_status sr_frame_pixels(const sr_frame *f);
/* before: bytes that ctx held when the call began; all since then counts for max_bytes. */
fv_status sr_frame_prepare(sr_frame *f, uint64_t before);
/* source: RGB [in_height, in_width, 3] in [0, 1]. Sets times, tiles, steps of *stats. */
fv_status sr_frame_run(sr_frame *f, const float *source, fv_sr_stats *stats);
void sr_frame_free(sr_frame *f);
/* The next frame is a first one. */
void sr_frame_forget(sr_frame *f);

/* ---- Pictures (sr_image.c) ------------------------------------------------------------------- */

/* What computes a picture: from source, as sr_frame_run, to f->write at the networks' size. before: as
 * sr_frame_prepare. */
typedef fv_status (*sr_engine)(void *user, sr_frame *f, const float *source, uint64_t before,
                               fv_sr_stats *stats);
/* in -> *out as fv_sr_image; of *f the caller sets ctx, options and sizes. */
fv_status sr_picture(sr_frame *f, sr_engine engine, void *user, const fv_image *in, fv_image *out,
                     fv_sr_stats *stats);

#endif
