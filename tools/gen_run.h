/* gen_run.h - shared by the files of gen that make pictures.
 *
 *     gen_run.c   options, order of work, report
 *     gen_out.c   where pictures go, their texts
 *     gen_dit.c   diffusion transformers: plan, steps
 *     gen_ar.c    autoregressive models: ways of decoding
 */
#ifndef FOVEA_GEN_RUN_H
#define FOVEA_GEN_RUN_H

#include "fovea_ar.h"
#include "gen.h"

#define GEN_MAX_PICTURES 100000
#define GEN_MIB 1048576.0

typedef struct gen_args {
    cli_common common;
    const char *model, *class_name, *out, *sheet;
    int n;
    uint64_t seed;
    double speedup;
    bool has_grid, has_compare;
    gen_sampling sampling; /* of it only cfg for both kinds */
    /* Diffusion transformers: */
    const char *decoder, *plan_in, *plan_out, *table, *accel, *cache_mem;
    int polish;
    double guard;
    /* Autoregressive models: */
    const char *mode, *kv, *tokenizer, *caption;
    double temperature; /* -1 = not given */
    double top_p;       /*  0 = not given */
    int top_k;          /* -1 = not given */
} gen_args;

typedef enum gen_out_kind { GEN_OUT_FILE, GEN_OUT_FOLDER, GEN_OUT_STDOUT } gen_out_kind;

typedef struct gen_dit_work {
    fv_generate_options o;
    gen_plan plan;
    fv_generate_stats stats;
    uint64_t cache_bytes; /* --cache-mem */
} gen_dit_work;

typedef struct gen_ar_work {
    fv_ar_generate_options o;
    fv_ar_expert expert;
    fv_ar_point point; /* of --speedup; method NULL = none */
    char *method;      /* the way of decoding as text      */
    int32_t *tokens, *plain_tokens;
    const float **caption; /* [count], all the same            */
    int *caption_tokens;
    float *features;
    fv_ar_stats stats, plain;
    double equal_tokens; /* --compare: share                 */
} gen_ar_work;

typedef struct gen_kind gen_kind;

/* One run and all it owns. */
typedef struct gen_run {
    fv_ctx *ctx;
    const gen_args *a;
    const gen_kind *kind;
    gen_model model;
    gen_comparison comparison;
    double seconds; /* of the run, or the median of --compare */
    int count;      /* pictures */
    int *classes;   /* [count]  */
    fv_image *images, sheet;
    gen_out_kind out;
    char **file; /* [count + 1] names to write, then the folder's grid */
    int file_count;
    gen_dit_work dit; /* of the model's kind only */
    gen_ar_work ar;
} gen_run;

/* What pictures carry as text; class, seed and model are there before describe is called. */
typedef struct gen_texts {
    char class_text[512], seed[32], name[64], software[32];
    char human[1024];
    struct {
        const char *key;
        char value[256];
    } pair[16];
    int count;
} gen_texts;
void gen_text(gen_texts *t, const char *key, const char *fmt, ...) CLI_PRINTF(3, 4);

/* What differs between kinds of models. The functions with int return an exit code and have
 * written the message; they are called in this order. */
struct gen_kind {
    int (*check)(gen_run *r);    /* the options, before anything is computed    */
    int (*open)(gen_run *r);     /* the weights                                 */
    int (*prepare)(gen_run *r);  /* plan or way of decoding                     */
    int (*generate)(gen_run *r); /* images, seconds; comparison and sheet       */
    int (*finish)(gen_run *r);   /* further files                               */
    void (*describe)(const gen_run *r, gen_texts *t); /* human, pairs        */
    void (*print_json)(const gen_run *r, cli_json *j);
    void (*about)(const gen_run *r, char *out, size_t size); /* "euler, 50 steps" */
    void (*print_details)(const gen_run *r);
    void (*end)(gen_run *r);
};
extern const gen_kind gen_kind_dit, gen_kind_ar;

/* ---- gen_out.c ------------------------------------------------------------------------------- */

int gen_check_output(gen_run *r);
int gen_name_files(gen_run *r);
/* Texts of pictures first .. first + count - 1 as one. */
void gen_describe(const gen_run *r, int first, int count, gen_texts *t);
int gen_write_all(gen_run *r);
/* A float as a person would write it: 0.1f is 0.1. */
double gen_plain_number(float v);

#endif
