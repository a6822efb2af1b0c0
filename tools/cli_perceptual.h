/* cli_perceptual.h - LPIPS and DISTS in the programs, with weights that the user has. */
#ifndef FOVEA_CLI_PERCEPTUAL_H
#define FOVEA_CLI_PERCEPTUAL_H

#include "cli.h"

enum { CLI_LPIPS, CLI_DISTS, CLI_PERCEPTUALS };
extern const char *const cli_perceptual_name[CLI_PERCEPTUALS]; /* "LPIPS", "DISTS" */
extern const char *const cli_perceptual_key[CLI_PERCEPTUALS];  /* of JSON */

typedef struct cli_perceptual {
    fv_model *file[CLI_PERCEPTUALS];
    fv_perceptual *net[CLI_PERCEPTUALS]; /* NULL: not asked for */
} cli_perceptual;

/* Entries of an option table; path is an array of CLI_PERCEPTUALS names of files. */
#define CLI_OPT_PERCEPTUAL(path)                                                           \
    {0, "lpips", "FILE", "weights: also LPIPS", CLI_STRING, &(path)[CLI_LPIPS], 0, 0},     \
    {0, "dists", "FILE", "weights: also DISTS", CLI_STRING, &(path)[CLI_DISTS], 0, 0}

/* Models of fovea convert; NULL in path: none. An exit code, message written; *out is to be closed
 * also then, before ctx. */
int cli_open_perceptual(fv_ctx *ctx, const char *const path[CLI_PERCEPTUALS], cli_perceptual *out);
void cli_close_perceptual(cli_perceptual *p);
/* Least side of pictures that all opened ones can measure. */
int cli_perceptual_side(const cli_perceptual *p);
/* Between pictures of equal size; NAN where there are no weights. */
fv_status cli_measure_perceptual(fv_ctx *ctx, const cli_perceptual *p, const fv_image *a,
                                 const fv_image *b, double distance[CLI_PERCEPTUALS]);

#endif
