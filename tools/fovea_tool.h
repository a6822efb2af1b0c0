/* fovea_tool.h - shared by the files of the program fovea only. */
#ifndef FOVEA_TOOL_H
#define FOVEA_TOOL_H

#include "cli.h"
#include "fovea_diffusion.h"

int fovea_train(int argc, char **argv);   /* fovea_train.c */
int fovea_convert(int argc, char **argv); /* fovea.c */
int fovea_new(int argc, char **argv);
int fovea_bench(int argc, char **argv); /* fovea_bench.c */
int bench_ranks(int argc, char **argv); /* bench_ranks.c */
int fovea_prune(int argc, char **argv); /* fovea_distill.c */
int fovea_distill(int argc, char **argv);

/* What came of a training, as a line or an object: out is its folder, model its file (NULL: the usual
 * one there). fovea_train.c */
void fovea_print_trained(fv_ctx *ctx, bool as_json, const char *out, const char *model,
                         const fv_train_result *r);

#define FOVEA_OPT_SLICES(to)                                                                       \
    {0, "slices", "N", "same bits for 1 to N ranks: sum N slices in a tree", CLI_INT, to, 1, 2048}
#define FOVEA_HELP_RANKS                                                                           \
    "mpirun -n 2 before the command divides each batch between two processes.\n"
/* The recipe's key. fovea_train.c */
fv_status fovea_set_slices(fv_recipe *r, int slices);

/* ---- fovea_ranks.c: the ranks of mpirun ------------------------------------------------------- */

#define FOVEA_OWN_PATH 4096
/* The file of this program; false: unknown. */
bool fovea_own_path(char to[FOVEA_OWN_PATH]);
/* Joins them, and gives them to ctx; alone without a launcher. CLI_OK, or an exit code that was
 * explained. Ranks other than the first are quiet from here on. */
int fovea_ranks_open(fv_ctx *ctx);
bool fovea_ranks_first(void);
/* cli_report of a training that failed, by the rank that knows why. */
int fovea_ranks_report(fv_ctx *ctx, fv_status s);
/* code: with which this program ends. Where a rank was lost this ends all others, and the program. */
void fovea_ranks_close(fv_ctx *ctx, int code);
/* What they sent, for a line or an object of results; nothing where there is one rank. */
void fovea_ranks_note(const char *out);
void fovea_ranks_json(cli_json *j);

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
