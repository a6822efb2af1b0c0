/* gen.h - shared by the files of the program gen only. */
#ifndef FOVEA_GEN_H
#define FOVEA_GEN_H

#include "cli.h"
#include "fovea_ar.h"
#include "fovea_diffusion.h"

/* An opened model, embedded or from a file. */
typedef struct gen_model {
    const char *path;  /* NULL = the embedded one */
    const char *label; /* for messages: the path or "the default model" */
    bool is_ar;        /* autoregressive, by what the file says; then ar is its model, else dit */
    fv_model *file;
    fv_model *decoder; /* a DiT's autoencoder or an AR model's tokenizer from a file of its own */
    fv_dit *dit;
    fv_dit_info info;
    fv_ar *ar;
    fv_ar_info ar_info;
    fv_dtype precision;
    /* With the weights; hashing gigabytes takes seconds. */
    const char *name;
    int classes, image_size;
    char hash[65]; /* hexadecimal */
} gen_model;

/* Those that return int return an exit code and have written the message. */
int gen_open_file(fv_ctx *ctx, gen_model *m, const char *path);
/* Files of autoregressive models that make no pictures as they are: official checkpoints, parts. */
int gen_refuse_checkpoint(const gen_model *m);
/* Of an opened file; the message is left in ctx. */
fv_status gen_open_dit(fv_ctx *ctx, gen_model *m, fv_dtype precision);
fv_status gen_open_ar(fv_ctx *ctx, gen_model *m, fv_dtype precision, bool no_draft);
/* With `decoder` from its own file (NULL = none); draft heads are left out with no_draft. */
int gen_open_weights(fv_ctx *ctx, gen_model *m, const char *decoder, fv_dtype precision,
                     bool no_draft);
/* A DiT, for the verbs about plans; AR models are refused. */
int gen_open(fv_ctx *ctx, gen_model *m, const char *path, const char *decoder, fv_dtype precision);
void gen_close(gen_model *m);
/* As the file has it; "" or NULL if it does not. */
const char *gen_class_name(const gen_model *m, int i);
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

/* Two ways to the same pictures. make leaves images[0..count) zeroed on failure. */
typedef struct gen_pair {
    int count;
    fv_status (*make)(void *user, bool is_exact, fv_image *images, double *seconds);
    void *user;
} gen_pair;

/* Runs both ways alternately, three times each, the fast one last; *images are the fast one's. With
 * `sheet` also makes the picture exact | fast | difference. Returns an exit code. */
int gen_compare(fv_ctx *ctx, const gen_model *m, const gen_pair *pair, fv_image *images,
                gen_comparison *result, fv_image *sheet);

/* ---- gen info: what both kinds of models have, and AR models --------------------------------- */

void gen_info_origin(const gen_model *m); /* gen_verbs.c; lines on stdout */
void gen_info_classes(const gen_model *m);
void gen_info_json_classes(const gen_model *m, cli_json *j);
int gen_info_ar(const gen_model *m, const cli_common *c); /* gen_ar_info.c; an exit code */

/* ---- Verbs ----------------------------------------------------------------------------------- */

int gen_pictures(int argc, char **argv); /* gen_run.c */
int gen_info(int argc, char **argv);     /* gen_verbs.c */
int gen_calibrate(int argc, char **argv);
int gen_explain(int argc, char **argv);  /* gen_explain.c */
int gen_sr(int argc, char **argv);       /* gen_sr.c */

#endif
