/* bench_common.h - shared by the verbs of `fovea bench` that draw samples. */
#ifndef FOVEA_BENCH_COMMON_H
#define FOVEA_BENCH_COMMON_H

#include "cli.h"
#include "fovea_diffusion.h"

/* First seed of samples that are judged: calibration draws from seed 1 on, and a plan must not be
 * judged on the noise that its table was measured with. */
#define BENCH_SEED 100000

/* An opened model, embedded or from a file. */
typedef struct bench_model {
    const char *path;  /* NULL = the embedded one */
    const char *label; /* for messages: the path or "the default model" */
    fv_model *file;
    fv_dit *dit;
    fv_dit_info info;
    fv_dtype precision;
} bench_model;

/* Functions that return int return an exit code and have written the message. */
int bench_open(fv_ctx *ctx, bench_model *m, const char *path, fv_dtype precision);
void bench_close(bench_model *m);

typedef struct bench_sampling {
    const char *sampler;
    int steps;
    double cfg;
} bench_sampling;
#define BENCH_OPT_SAMPLING(s)                                                                      \
    {0, "steps", "N", "sampling steps (default: the model's)", CLI_INT, &(s)->steps, 1, 1000},     \
        {0,          "sampler",     "NAME", "ddpm, ddim, dpmpp2m, euler or heun",                  \
         CLI_STRING, &(s)->sampler, 0,      0},                                                    \
    {                                                                                              \
        0, "cfg", "X", "guidance scale; 1 = off", CLI_NUMBER, &(s)->cfg, 1, 1000                   \
    }
/* Fields samples, batch, table, plot, csv and seed of the command's arguments. */
#define BENCH_OPT_PICTURES(a)                                                                      \
    {0, "samples", "N", "pictures compared (default 64)", CLI_INT, &(a)->samples, 1, 10000},       \
        {0, "batch", "N", "pictures computed together; a timed run (default 8)", CLI_INT,          \
         &(a)->batch, 1, 256},                                                                     \
        {0, "table", "FILE", "sensitivity table (default: the model's)", CLI_STRING, &(a)->table,  \
         0, 0},                                                                                    \
        {0, "plot", "FILE", "picture: PSNR against measured speed-up", CLI_STRING, &(a)->plot, 0,  \
         0},                                                                                       \
        {0, "csv", "FILE", "the table as comma-separated values", CLI_STRING, &(a)->csv, 0, 0},    \
    {                                                                                              \
        0, "seed", "N", "first seed (default 100000)", CLI_U64, &(a)->seed, 0, 0                   \
    }
/* Into o; what was not given stays 0, the model's. */
int bench_set_sampling(const bench_sampling *s, fv_generate_options *o);

/* "1,2,3" or "2x 3x"; a ratio of 1, the exact run, is left out. */
typedef struct bench_ratios {
    double ratio[15];
    int count;
} bench_ratios;
int bench_read_ratios(const char *text, bench_ratios *out);

/* Measured ratios and what they bring, sorted by ratio: a curve does not run back. */
typedef struct bench_points {
    double x[64], y[64];
    int n;
} bench_points;
void bench_add_point(bench_points *p, double x, double y); /* beyond 64: left out */

/* The table named, or the one that belongs to the model if it fits; *out NULL (with a note) if
 * there is none. */
int bench_find_table(fv_ctx *ctx, const bench_model *m, const char *named,
                     const fv_generate_options *o, fv_sens **out);
/* A plan for runs with `o`, corrected against the clock if `corrects`; *timing is measured when it
 * is NULL. FV_ERR_ARG: the ratio is out of reach. */
fv_status bench_solve(fv_ctx *ctx, const bench_model *m, const fv_generate_options *o,
                      const fv_sens *sens, fv_accel_mode mode, double speedup, bool corrects,
                      fv_timing **timing, fv_accel **out);

/* ---- Accelerated runs against exact ones ----------------------------------------------------- */

#define BENCH_MAX_RUNS 101
#define BENCH_EQUAL_DB 100.0 /* of equal 8-bit pictures: one that differs anywhere is below it */

/* Samples, and the same ones made faster. */
typedef struct bench_pictures {
    fv_ctx *ctx;
    const bench_model *model;
    fv_generate_options all, timed; /* the samples; one batch of them */
    int *classes;                   /* in turn */
    fv_image *exact, *fast;         /* [all.count]; fast: after bench_make_fast */
    double exact_flop, fast_flop;
    bool is_cpu_time; /* runs are timed by the processor time of all threads, not by the clock */
} bench_pictures;

/* `all` holds the sampling options; the model's fill what is 0. Returns an exit code. */
int bench_pictures_open(bench_pictures *p, int samples, int batch, uint64_t seed);
void bench_pictures_close(bench_pictures *p);
fv_status bench_make_exact(bench_pictures *p);
/* accel and steps as in fv_generate_options. name is for the progress line. */
fv_status bench_make_fast(bench_pictures *p, const char *name, const fv_accel *accel, int steps);
void bench_drop_fast(bench_pictures *p);
/* Seconds of one batch. */
fv_status bench_run_once(bench_pictures *p, const fv_accel *accel, int steps, double *seconds);
/* Exact and accelerated run of a batch in turn, `runs` times: ratios of their seconds. Clock speed
 * and other load drift over seconds and hit both runs of a pair. */
fv_status bench_time_pairs(bench_pictures *p, const char *name, const fv_accel *accel, int steps,
                           int runs, double *ratio);

typedef struct bench_spread {
    double median, least, most;
} bench_spread;
bench_spread bench_spread_of(double *v, int n); /* sorts v */

typedef struct bench_fidelity {
    double psnr;         /* mean of the pictures' */
    double psnr_of_mean; /* of the mean squared error of all */
    double ssim;
} bench_fidelity;
/* Of n pictures each. */
fv_status bench_compare_images(fv_ctx *ctx, const fv_image *exact, const fv_image *fast, int n,
                               bench_fidelity *out);
fv_status bench_compare(const bench_pictures *p, bench_fidelity *out); /* fast with exact */

#endif
