/* bench_ar.h - the verb `fovea bench ar`, and what its files share. */
#ifndef FOVEA_BENCH_AR_H
#define FOVEA_BENCH_AR_H

#include "bench_common.h"
#include "bench_judge.h"
#include "fovea_ar.h"

/* argv[0] is the verb. Returns an exit code of cli.h. */
int bench_ar(int argc, char **argv);

#define AR_METHODS 96
#define AR_SHOWN 8 /* pictures of a row of the sheet */
#define AR_MAX_PICTURES 64

/* Families: a colour of the plot each. */
typedef enum ar_kind {
    AR_KIND_PLAIN = 0,
    AR_KIND_SAME,  /* the tokens of plain decoding */
    AR_KIND_DRAWN, /* other tokens of the same distribution */
    AR_KIND_ROUNDED, /* weights of another type, nothing else */
    AR_KIND_LANTERN,
    AR_KIND_COOL,
    AR_KIND_GSD,
    AR_KIND_VVS_U,
    AR_KIND_VVS_D,
    AR_KINDS
} ar_kind;

/* A way of decoding, and what was measured. Line 0 is plain decoding. */
typedef struct ar_line {
    char *text;        /* of fv_ar_method_text; with @TYPE where the weights are not the others' */
    char *method;      /* the same without it */
    const char *title; /* of the group that begins here, or NULL */
    fv_ar_mode mode;
    fv_ar_expert expert;
    ar_kind kind;
    fv_dtype weights;
    bool has_weights; /* named: @bf16 */
    fv_ar_stats all;          /* of the samples */
    fv_ar_stats timed, plain; /* sums over the timed runs, and over the plain ones beside them */
    bench_spread speedup;     /* tokens alone */
    bench_spread with_pixels;
    double seconds;  /* of a picture's tokens, median */
    int64_t equal;   /* tokens that are those of plain decoding */
    bench_fidelity fidelity;
    double accuracy, to_real, distance;
    bench_coverage coverage;
    int codes;
    double bigram;
    bool is_stored;
    fv_image shown[AR_SHOWN];
} ar_line;

typedef struct ar_args {
    cli_common common;
    const char *model, *methods, *classifier, *real, *data_dir, *clock, *precision, *kv, *plot,
        *csv, *sheet, *store;
    int samples, batch, runs, pictures;
    uint64_t seed;
    double cfg, max_loss;
} ar_args;

typedef struct ar_bench {
    const ar_args *a;
    fv_ctx *ctx;
    fv_model *file;
    fv_ar *ar;           /* with weights of `precision` */
    fv_ar *with[3];      /* by AR_WEIGHTS; those of `precision` are `ar` */
    fv_ar_info info;
    fv_dtype precision, kv;
    bench_judge judge;
    const char *classifier; /* NULL: none */
    fv_recipe *real;
    bool is_cpu_time;
    int *classes; /* [samples or pictures], in turn */
    int32_t *plain_tokens, *tokens;
    fv_image *plain, *made;
    float *feature, *other, *logits; /* other: of plain decoding with other seeds */
    double noise;                    /* distance of plain decoding to that */
    double other_accuracy;
    ar_line line[AR_METHODS];
    int lines, shown;
} ar_bench;

#define AR_WEIGHTS(t) ((t) == FV_F32 ? 0 : (t) == FV_BF16 ? 1 : 2)

/* bench_ar_methods.c. Return an exit code. */
int ar_read_methods(ar_bench *b, const char *text);
int ar_list_methods(void);

/* bench_ar_report.c */
/* NAN if nothing was judged. */
double ar_accuracy_loss(const ar_bench *b, const ar_line *l); /* points */
double ar_distance_ratio(const ar_bench *b, const ar_line *l);
double ar_tokens_per_verify(const ar_line *l);
/* Marks the lines that no other beats: faster at less loss. */
void ar_mark_points(ar_bench *b);
void ar_print_text(const ar_bench *b);
void ar_print_json(const ar_bench *b);
void ar_talk_of_line(const ar_line *l); /* counters, on stderr */
int ar_write_csv(const ar_bench *b, const char *path);

/* bench_ar_plot.c */
int ar_write_plot(const ar_bench *b, const char *path);
int ar_write_sheet(const ar_bench *b, const char *path);

#endif
