/* gen_sr.h - shared by the files of gen sr. */
#ifndef FOVEA_GEN_SR_H
#define FOVEA_GEN_SR_H

#include "cli_perceptual.h"
#include "fovea_diffusion.h"
#include "gen.h"

typedef struct sr_args {
    cli_common common;
    const char *model, *out, *size, *fdu, *tile, *memory, *depth, *alpha, *sheet, *reference;
    const char *raw, *frame_size, *rate, *window, *weights[CLI_PERCEPTUALS];
    double scale, detail, speedup, scene_cut;
    int steps, overlap, quality;
    bool is_exact, is_frames, is_y4m, keep_going;
} sr_args;

/* "WIDTHxHEIGHT"; these return exit codes. */
int gen_sr_pair(const char *option, const char *text, int *a, int *b);
/* Pixels of the result as the library computes them; it checks whether they can be. */
void gen_sr_size(const fv_sr_options *o, int in_width, int in_height, double *width,
                 double *height);
/* Bytes that the library may take now, for --mem or a share of what is free, and what the program
 * holds already. */
int gen_sr_memory(const sr_args *a, uint64_t *most, uint64_t *held);
/* Says what would do when the library had too little: `least` beside what was held then, and `ample`,
 * if not 0, to compute little twice. */
int gen_sr_too_little(uint64_t least, uint64_t ample, uint64_t held);
/* Warns if the library had less than `ample`. */
void gen_sr_not_ample(uint64_t ample, uint64_t held);
/* gen_sr_video.c: frames from one folder, file or pipe to another. */
int gen_sr_video(fv_ctx *ctx, const sr_args *a, const fv_sr_options *o, const char *in,
                 const char *out);

/* ---- PS-SR on Wan2.1 (gen_sr_wan.c) ---------------------------------------------------------- */

/* Checks that the options mean something for such models, and what the file says of itself. */
int gen_sr_wan_begin(fv_ctx *ctx, const fv_model *file, const sr_args *a, const fv_sr_options *o,
                     fv_wan_info *info);
/* The same as whole numbers, checked. */
int gen_sr_wan_size(const fv_sr_options *o, int in_width, int in_height, int *width, int *height);
/* A clip by the library, as `o` has it; width, height: of the result. */
fv_status gen_sr_wan_clip(fv_ctx *ctx, const fv_model *file, const sr_args *a,
                          const fv_sr_options *o, const fv_video_format *from,
                          const fv_video_format *to, const fv_wan_frames *io, fv_wan_stats *stats);
/* gen info */
int gen_info_wan(fv_ctx *ctx, const gen_model *m, const cli_common *c);

#endif
