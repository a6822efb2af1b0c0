/* vpic_bench.h - shared by the files of `vpic bench`, which `fovea bench pic` is, too. */
#ifndef FOVEA_VPIC_BENCH_H
#define FOVEA_VPIC_BENCH_H

#include "bench_process.h"
#include "cli_picture.h"

/* All of it, from the words behind `name` to the exit code. */
int vpic_bench(int argc, char **argv, const char *name);

/* ---- Coders ---------------------------------------------------------------------------------- */

#define PIC_SETTINGS 24 /* most of a coder */
#define PIC_CODERS 24

/* Another program, with its settings from the smallest files up. Words as in bench_fill_words; IN
 * is in.ppm (in.png where only that is read), of half the size for is_half. */
typedef struct pic_peer {
    const char *name; /* as --peers names it */
    const char *title;
    bool is_half, reads_png;
    const char *packed, *out; /* names of files */
    const char *setting[PIC_SETTINGS];
    const char *pack[BENCH_WORDS], *unpack[BENCH_WORDS];
} pic_peer;
extern const pic_peer pic_peers[];
extern const int pic_peer_count;

/* A way to call our own codec. */
typedef struct pic_way {
    double quality;
    int slices; /* 0: all */
} pic_way;

typedef struct pic_coder {
    char title[48];
    const pic_peer *peer; /* NULL: our own codec */
    const char *lacks;    /* program that is not installed, NULL: none */
    int settings;
    const char *program;    /* ours: vpic */
    const cli_list *models; /* ours: files; none: those of the library */
    int model;              /* ours: this one of the files alone; -1: all */
    pic_way way[PIC_SETTINGS];
    char why[120]; /* of its last failure, "" */
    int failures;
} pic_coder;
/* How a setting is called, as on the coder's command line. */
void pic_setting_name(const pic_coder *c, int setting, char *to, size_t size);

/* vpic_bench_own.c: our codec, the program vpic, with the given models, or the library's own, as one coder, or as one
 * for each model. Without any model none is added. An exit code, message written. */
struct pic_bench;
int pic_add_own(struct pic_bench *b);
/* The words that call it, from `in` to `out`. Malloced, as each word is. */
char **pic_own_words(const pic_coder *c, int setting, bool is_back, int threads, const char *in,
                     const char *out);
void pic_free_own_words(char **words);

/* ---- vpic_bench_run.c: one picture through one coder and back -------------------------------- */

typedef struct pic_result {
    bool is_done;
    uint64_t bytes;
    double bpp;
    cli_measures m;
    bench_time pack, unpack;
} pic_result;

typedef struct pic_place {
    const char *folder; /* ours alone: files come and go in it */
    int threads;        /* of children */
    /* of the picture at hand */
    int width, height;
} pic_place;
/* A picture becomes the one that the following calls take: 8-bit RGB, over black, upright. False:
 * it cannot be used, a note says why, or the program was interrupted. */
bool pic_take(pic_place *at, const char *path);
/* What comes back is in the folder until the next call; measures are not filled in. False: c->why
 * says why not. */
bool pic_code(const pic_place *at, pic_coder *c, int setting, pic_result *r);
/* The picture at hand, as coders see it, and what came back, in its size. */
fv_status pic_read_original(const pic_place *at, fv_ctx *ctx, fv_image *out);
fv_status pic_read_back(const pic_place *at, const pic_coder *c, fv_ctx *ctx, fv_image *out);
/* pic_code, and measures; counts failures. */
void pic_run(const pic_place *at, pic_coder *c, int setting, pic_result *r);

/* ---- Results --------------------------------------------------------------------------------- */

typedef struct pic_args {
    cli_common common;
    const char *peers, *plot, *sheet, *csv;
    cli_list models;
    bool is_apart;       /* a curve for each model */
    bool is_without_own; /* others only */
    int pictures;     /* at most, 0: all */
    double sheet_bpp; /* of the side-by-side sheet */
} pic_args;

/* Means of a setting over all pictures. */
typedef struct pic_point {
    int setting;
    double bpp;
    double value[4]; /* as pic_measures */
    double pack_cpu, pack_wall, unpack_cpu, unpack_wall; /* seconds per million pixels */
    uint64_t memory;                                     /* most of a process */
} pic_point;

/* A coder's points by rising rate. */
typedef struct pic_curve {
    int n;
    pic_point p[PIC_SETTINGS];
} pic_curve;

typedef struct pic_bench {
    const pic_args *a;
    fv_ctx *ctx; /* one thread, so that children can have theirs */
    int threads;
    cli_list models; /* absolute names */
    char *program;   /* vpic, NULL: not found */
    char **files;
    int file_count, done; /* done: pictures with results, which come first */
    int *width, *height;  /* [file_count] */
    pic_coder coder[PIC_CODERS];
    int coder_count;
    pic_result *result; /* [file_count][coder_count][PIC_SETTINGS] */
    pic_curve curve[PIC_CODERS];
    char folder[BENCH_FOLDER];
} pic_bench;

typedef struct pic_measure {
    const char *name, *key;
    bool more_is_better;
    int digits;
} pic_measure;
enum { PIC_MS_SSIM, PIC_GMSD, PIC_WD, PIC_PSNR, PIC_MEASURES };
extern const pic_measure pic_measures[PIC_MEASURES];
pic_result *pic_result_of(const pic_bench *b, int picture, int coder, int setting);
/* Rates that tables and gates look at. */
#define PIC_RATES 5
extern const double pic_rates[PIC_RATES];

/* vpic_bench_curves.c */
void pic_make_curves(pic_bench *b);
/* Of the curve at a rate, interpolated in the logarithm of the rate; NAN beyond its ends. */
double pic_value_at(const pic_curve *c, double bpp, int measure);
/* Whose times are 1: JPEG XL, else the first coder with a curve; -1: none. */
int pic_reference(const pic_bench *b);
/* The point that times are taken from: the one nearest to 0.15 bits per pixel; NULL: none. */
const pic_point *pic_timed(const pic_curve *c);

/* vpic_bench_judge.c */
typedef enum pic_state {
    PIC_YES, /* ours is better */
    PIC_NO,
    PIC_OPEN,   /* no curve to hold it against */
    PIC_NOTHING /* their ladder ends before the rate in a way that allows no word */
} pic_state;
typedef struct pic_judged {
    pic_state state;
    double ours, ours_bpp, theirs, theirs_bpp; /* rates: those asked for, or of the last file */
} pic_judged;
/* theirs may be NULL or empty. */
pic_judged pic_judge(const pic_curve *ours, const pic_curve *theirs, double bpp, int measure);
/* vpic_bench_gates.c: does our codec do what it has to? Nothing without one. */
void pic_print_gates(const pic_bench *b);
void pic_json_gates(const pic_bench *b, cli_json *j);
/* vpic_bench_report.c */
void pic_print_text(const pic_bench *b);
void pic_print_json(const pic_bench *b);
int pic_write_csv(const pic_bench *b);
/* vpic_bench_plot.c */
int pic_write_plot(const pic_bench *b);
int pic_write_sheet(pic_bench *b);

#endif
