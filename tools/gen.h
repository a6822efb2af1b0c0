/* gen.h - shared by the files of the program gen only. */
#ifndef FOVEA_GEN_H
#define FOVEA_GEN_H

#include "cli.h"
#include "fovea_diffusion.h"

/* An opened model, embedded or from a file. */
typedef struct gen_model {
    const char *path;  /* NULL = the embedded one */
    const char *label; /* for messages: the path or "the default model" */
    fv_model *file, *decoder;
    fv_dit *dit;
    fv_dit_info info;
    fv_dtype precision;
    char hash[65]; /* hexadecimal; with dit only: hashing gigabytes takes seconds */
} gen_model;

/* gen_open_file and gen_open return an exit code and have written the message. */
int gen_open_file(fv_ctx *ctx, gen_model *m, const char *path);
/* dit, info and hash of an opened file; the message is left in ctx. */
fv_status gen_open_dit(fv_ctx *ctx, gen_model *m, fv_dtype precision);
int gen_open(fv_ctx *ctx, gen_model *m, const char *path, const char *decoder, fv_dtype precision);
void gen_close(gen_model *m);
/* Class i for people and file names; unnamed classes are numbers. */
void gen_class_text(const gen_model *m, int i, char *out, size_t size);

/* Sampling options that several verbs take. */
typedef struct gen_sampling {
    const char *sampler;
    int steps;
    double cfg;
} gen_sampling;
#define GEN_OPT_SAMPLING(s)                                                                        \
    {0, "steps", "N", "sampling steps (default: the model's)", CLI_INT, &(s)->steps, 1, 1000},     \
        {0,          "sampler",     "NAME", "ddpm, ddim, dpmpp2m, euler or heun",                  \
         CLI_STRING, &(s)->sampler, 0,      0},                                                    \
    {                                                                                              \
        0, "cfg", "X", "guidance scale; 1 = off", CLI_NUMBER, &(s)->cfg, 1, 1000                   \
    }
/* Into o; unset values stay 0, the model's. */
int gen_set_sampling(const gen_sampling *s, fv_generate_options *o);

/* ---- gen_plan.c: from --speedup to a plan ---------------------------------------------------- */

typedef struct gen_plan_request {
    double speedup;              /* 0 = none */
    const char *table, *plan_in; /* may be NULL */
    int count;                   /* pictures of the run */
    int polish;                  /* trials to improve the plan; 0 = none */
    const char *accel;           /* planning mode, or a method of others; NULL = default mode */
    uint64_t cache_bytes;        /* most that the run may keep; 0 = no bound */
} gen_plan_request;

typedef struct gen_plan {
    fv_accel *accel; /* NULL = exact */
    fv_accel_info info;
    double measured; /* NAN = not measured */
    bool has_table;
} gen_plan;

/* The table that belongs to a model: file beside it or the embedded one. *out NULL if there is none
 * or (with a note) if it does not fit. */
int gen_find_table(fv_ctx *ctx, const gen_model *m, const char *path, const fv_generate_options *o,
                   fv_sens **out);
/* Do --accel and --speedup go together? Returns an exit code. */
int gen_check_accel(const char *accel, double speedup);
int gen_make_plan(fv_ctx *ctx, const gen_model *m, const fv_generate_options *o,
                  const gen_plan_request *r, gen_plan *out);
void gen_plan_free(gen_plan *p);

/* ---- gen_compare.c: against the exact path --------------------------------------------------- */

typedef struct gen_comparison {
    double exact_seconds, fast_seconds, speedup, psnr_db, ssim;
    bool is_identical;
} gen_comparison;

/* Runs exact and accelerated alternately, three times each; *images are those of the plan. With
 * `sheet` also makes the picture exact | fast | difference. */
int gen_compare(fv_ctx *ctx, const gen_model *m, const fv_generate_options *o, fv_image *images,
                fv_generate_stats *stats, gen_comparison *result, fv_image *sheet);

/* ---- Verbs ----------------------------------------------------------------------------------- */

int gen_pictures(int argc, char **argv); /* gen_run.c */
int gen_info(int argc, char **argv);     /* gen_verbs.c */
int gen_calibrate(int argc, char **argv);
int gen_explain(int argc, char **argv);  /* gen_explain.c */

#endif
