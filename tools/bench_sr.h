/* bench_sr.h - shared by the files of `fovea bench sr`. */
#ifndef FOVEA_BENCH_SR_H
#define FOVEA_BENCH_SR_H

#include "cli_perceptual.h"
#include "fovea_diffusion.h"

/* argv[0] is the verb. Returns an exit code of cli.h. */
int bench_sr(int argc, char **argv);

#define SR_SCALE 4
#define SR_WAYS 16
#define SR_ROUNDS 101
#define SR_STEPS 8
#define SR_SHEET_PICTURES 5

typedef struct sr_bench_args {
    cli_common common;
    const char *model, *csv, *sheet, *weights[CLI_PERCEPTUALS];
    int pictures, side, rounds, clips;
    bool is_degraded;
} sr_bench_args;

enum { SR_PSNR_Y, SR_SSIM, SR_GMSD, SR_WD, SR_SPECTRUM, SR_LPIPS, SR_DISTS, SR_MEASURES };

/* A way to enlarge: a filter, or the model. */
typedef struct sr_way {
    char name[32];
    int steps; /* 0: filter */
    fv_filter filter;
    int fdu; /* -1: the model's */
    double sum[SR_MEASURES], motion;
    fv_image crop[SR_SHEET_PICTURES];
} sr_way;

typedef struct sr_speed {
    double seconds, network, flop; /* medians; operations of a call */
    uint64_t memory;
} sr_speed;

typedef struct sr_bench {
    const sr_bench_args *a;
    fv_ctx *ctx;
    fv_model *file;
    fv_sr *sr;
    cli_perceptual nets;
    fv_sr_info info;
    fv_dtype precision;
    char **files;
    int file_count, done, crops, clips;
    sr_way way[SR_WAYS];
    int ways;
    double original_motion;
    sr_speed speed[SR_STEPS];
    int timed_width, timed_height;
    double product_rate;
    double *value; /* [file_count][SR_WAYS][SR_MEASURES], those done come first */
    int *done_file;
    fv_image crop[SR_SHEET_PICTURES]; /* of the originals */
} sr_bench;

/* bench_sr.c: what all ways are given, and what one makes of it. */
/* f32 [h, w, 3] in [0, 1] -> 8-bit picture of a quarter of the sides */
fv_status sr_make_small(const sr_bench *b, const float *hq, int w, int h, uint32_t sample,
                        uint32_t frame, fv_image *out);
fv_sr_options sr_options(const sr_way *w);
fv_status sr_enlarge(const sr_bench *b, const sr_way *w, const fv_image *small, fv_image *out,
                     fv_sr_stats *stats);
float *sr_floats(const fv_image *img); /* [h, w, 3] in [0, 1], malloced */
/* Of the picture that is the `at`-th of those done. */
double *sr_values(const sr_bench *b, int at, int way);

/* bench_sr_motion.c: a clip made of a photograph through all ways. */
fv_status sr_run_clip(sr_bench *b, const fv_image *img, uint32_t sample);
/* bench_sr_speed.c: times of every number of steps. */
fv_status sr_run_speed(sr_bench *b, const fv_image *small);
/* bench_sr_report.c */
extern const char *const sr_measure_name[SR_MEASURES];
void sr_print_text(const sr_bench *b);
void sr_print_json(const sr_bench *b);
int sr_write_csv(const sr_bench *b);
int sr_write_sheet(sr_bench *b);

#endif
