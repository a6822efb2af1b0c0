/* bench_accel.h - the verb `fovea bench accel`, and what its two files share. */
#ifndef FOVEA_BENCH_ACCEL_H
#define FOVEA_BENCH_ACCEL_H

#include "bench_common.h"

/* argv[0] is the verb. Returns an exit code of cli.h. */
int bench_accel(int argc, char **argv);

#define ACCEL_METHODS 32
#define ACCEL_SPEC 96
#define ACCEL_SHOWN 8 /* pictures of a row of the sheet */

typedef enum accel_kind {
    ACCEL_PLANNER, /* plans for a ratio of times                       */
    ACCEL_METHOD,  /* of others, with a setting that is searched       */
    ACCEL_FEWER    /* the exact path with fewer steps                  */
} accel_kind;

/* One setting of a method. */
typedef struct accel_setting {
    double value, predicted; /* ratio by FLOP, NAN = not known */
    double ratio[BENCH_MAX_RUNS];
    int runs;                /* measured pairs */
    double median;           /* of these */
} accel_setting;

typedef struct accel_method {
    char spec[ACCEL_SPEC], label[ACCEL_SPEC + 8];
    accel_kind kind;
    fv_accel_mode mode;
    const char *key; /* what is searched; NULL: nothing */
    accel_setting *setting; /* faster and faster */
    int settings;
    double correction; /* measured / predicted */
} accel_method;

/* A method at a ratio. */
typedef struct accel_line {
    const accel_method *method;
    double asked;
    bool is_made, is_reached; /* is_reached: within the tolerance below the ratio, or above it */
    bench_spread measured;
    bench_fidelity fidelity;
    double feature, flop_ratio;
    char setting[64];
    fv_accel *plan; /* NULL for fewer steps */
    fv_image shown[ACCEL_SHOWN];
} accel_line;

typedef struct accel_bench {
    fv_ctx *ctx;
    bench_model model;
    bench_pictures p;
    bench_ratios ratios;
    accel_method method[ACCEL_METHODS];
    int methods;
    accel_line *line; /* [ratios.count * methods], by ratio */
    int lines;
    double shown_ratio; /* of the schedule and the sheet */
    int shown;          /* pictures of a row */
    bool overwrites;
} accel_bench;

/* bench_accel_plot.c: pictures; all return an exit code. */
int accel_write_plot(const accel_bench *b, const char *path);
int accel_write_schedule(const accel_bench *b, const char *path);
int accel_write_sheet(const accel_bench *b, const char *path);
/* Line of the shown ratio whose PSNR is largest among those of this kind; NULL if there is none. */
const accel_line *accel_best_line(const accel_bench *b, accel_kind kind, double asked);

#endif
