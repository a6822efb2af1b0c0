/* bench_judge.h - a classifier that judges pictures, and real pictures to hold them against. */
#ifndef FOVEA_BENCH_JUDGE_H
#define FOVEA_BENCH_JUDGE_H

#include "cli.h"

typedef struct bench_judge {
    fv_ctx *ctx;
    fv_model *file;
    fv_classifier *net; /* NULL: there is no judge */
    fv_classifier_info info;
    float *pixels;      /* of one run */
    float *real;        /* [real_count, features] */
    int64_t real_count;
} bench_judge;

/* A classifier of pictures of `size` pixels, which the model makes. Returns an exit code and has
 * written the message. */
int bench_judge_open(fv_ctx *ctx, bench_judge *j, const char *path, int size);
void bench_judge_close(bench_judge *j);
/* logits [n, classes] and features [n, features]; either may be NULL. */
fv_status bench_judge_images(bench_judge *j, const fv_image *images, int n, float *logits,
                             float *features);
/* Features of real pictures: equally many of every class, as samples have them, `count` in all, or
 * all of a class that has fewer; held-out and training pictures together. */
fv_status bench_judge_read_real(bench_judge *j, fv_recipe *recipe, const char *data_dir, int count,
                                uint64_t seed);

/* Kynkaanniemi et al. 2019 with k = 3: share of the generated features that lie in a ball around a
 * real one which reaches to its third neighbour, and the other way round. NAN where a set has fewer
 * than five. */
typedef struct bench_coverage {
    double precision, recall;
} bench_coverage;
fv_status bench_judge_coverage(const bench_judge *j, const float *features, int64_t n,
                               bench_coverage *out);

#endif
