/* fovea_tool.h - shared by the files of the program fovea only. */
#ifndef FOVEA_TOOL_H
#define FOVEA_TOOL_H

#include "cli.h"
#include "fovea_diffusion.h"

int fovea_train(int argc, char **argv);   /* fovea_train.c */
int fovea_convert(int argc, char **argv); /* fovea.c */
int fovea_new(int argc, char **argv);
int fovea_bench(int argc, char **argv); /* fovea_bench.c */
int fovea_prune(int argc, char **argv); /* fovea_distill.c */
int fovea_distill(int argc, char **argv);

/* What came of a training, as a line or an object: out is its folder, model its file (NULL: the usual
 * one there). fovea_train.c */
void fovea_print_trained(fv_ctx *ctx, bool as_json, const char *out, const char *model,
                         const fv_train_result *r);

/* ---- fovea_gemm.c: matrix products through the public interface ------------------------------ */

/* y [M, N] = x [M, K] w [N, K]^T; `repeat` of them in one evaluation of a network. */
typedef struct gemm_case {
    char name[24];
    int64_t M, N, K;
    int repeat;
} gemm_case;

typedef struct gemm_result {
    double median, p10, p90; /* seconds of one product */
} gemm_result;

fv_status gemm_measure(fv_ctx *ctx, const gemm_case *g, fv_dtype precision, double seconds,
                       gemm_result *out);
/* Products of one evaluation of a model for `rows` rows; returns their number (at most max). */
int gemm_of_model(const fv_model *file, const fv_dit_info *info, int rows, gemm_case *out, int max);
double gemm_flop(const gemm_case *g);

#endif
